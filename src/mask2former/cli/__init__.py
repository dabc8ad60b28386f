"""The command line: verbs are functions, and what is heavy is imported inside them so that ``--help`` is immediate.

Exit codes: 0 done, 1 failed while running, 2 the request is wrong, 130 stopped by the user. Errors are one sentence on
standard error; ``--debug`` adds the traceback. Everything a verb does can be done from Python without it.
"""

from mask2former.cli.app import app, main
from mask2former.cli.demo import demo
from mask2former.cli.evaluate import evaluate
from mask2former.cli.models import inspect_checkpoint, models
from mask2former.cli.predict import predict
from mask2former.cli.train import recipe, train

__all__ = ["app", "main"]

# In the order of --help.
for _name, _verb, _example in (
    ("demo", demo, "demo --seed 7"),
    ("predict", predict, "predict photos/ --output results --model my.safetensors --task instance"),
    ("train", train, "train run.yaml optim.lr=2e-4 trainer.max_steps=500"),
    ("recipe", recipe, "recipe scenes-tiny > run.yaml"),
    ("models", models, "models"),
    ("inspect", inspect_checkpoint, "inspect model_final.pkl"),
    ("evaluate", evaluate, "evaluate runs/mine/model.safetensors --tasks instance --boundary"),
):
    app.command(_name, epilog=f"Example: mask2former {_example}")(_verb)
