"""The command line: commands are functions that import slow modules themselves, so that ``--help`` is immediate.

Exit codes: 0 done, 1 failed while running, 2 the request is wrong, 130 stopped by the user. Errors are one sentence on
standard error; ``--debug`` adds the traceback. Everything that a command does can also be done from Python.
"""

import functools
import inspect
from collections.abc import Callable
from typing import Any

from mask2former.cli.ablate import ablate
from mask2former.cli.analyze import analyze, attention, convergence, flops, focus, layers, proposals, sampling
from mask2former.cli.app import app, main
from mask2former.cli.average import average
from mask2former.cli.convert import convert
from mask2former.cli.data import check_data, prepare
from mask2former.cli.demo import demo
from mask2former.cli.evaluate import evaluate
from mask2former.cli.export import export, verify_export
from mask2former.cli.models import inspect_checkpoint, models
from mask2former.cli.plot import plot
from mask2former.cli.predict import predict
from mask2former.cli.serve import serve
from mask2former.cli.track import track
from mask2former.cli.train import find_lr, recipe, train
from mask2former.cli.web import web
from mask2former.processors import limit_threads

__all__ = ["app", "main"]


def _help(command: Callable[..., None]) -> str:
    """The docstring of a command, one line per paragraph, so that the terminal can wrap it at its own width."""
    paragraphs = (inspect.getdoc(command) or "").split("\n\n")
    return "\n\n".join(" ".join(paragraph.split("\n")) for paragraph in paragraphs)


def _within_limits(command: Callable[..., None]) -> Callable[..., None]:
    """The command, with no more threads of PyTorch than its container may use processors."""

    @functools.wraps(command)
    def limited(*arguments: Any, **options: Any) -> None:
        limit_threads()
        command(*arguments, **options)

    return limited


# Those that run models; web and serve limit their threads themselves, since they can also be started from Python.
_COMPUTING = {demo, predict, track, train, find_lr, export, verify_export, evaluate, ablate}

# In the order of --help.
for _name, _command, _example in (
    ("demo", demo, "demo --seed 7"),
    ("predict", predict, "predict photos/ --output results --model my.safetensors --task instance"),
    ("track", track, "track street.mp4 --output results --model my.safetensors"),
    ("web", web, "web coco-panoptic/swin-t"),
    ("train", train, "train run.yaml optim.lr=2e-4 trainer.max_steps=500"),
    ("find-lr", find_lr, "find-lr run.yaml -o learning-rates.png"),
    ("recipe", recipe, "recipe scenes-tiny > run.yaml"),
    ("models", models, "models"),
    ("inspect", inspect_checkpoint, "inspect model_final.pkl"),
    ("convert", convert, "convert mask2former_r50_coco.pth mine.safetensors --recipe coco-panoptic/r50"),
    ("export", export, "export nuclei nuclei.onnx"),
    ("verify-export", verify_export, "verify-export nuclei.onnx --against nuclei --images slides/"),
    ("serve", serve, "serve coco-panoptic/swin-t --port 8000"),
    ("average", average, "average runs/a/model.safetensors runs/b/model.safetensors -o mean.safetensors"),
    ("evaluate", evaluate, "evaluate runs/mine/model.safetensors --tasks instance --boundary"),
    ("plot", plot, "plot runs/mine runs/other -o curves.png"),
    ("check-data", check_data, "check-data photos/annotations.json --suggest run.yaml"),
    ("prepare", prepare, "prepare ade20k --data-root datasets"),
    ("ablate", ablate, "ablate scenes --row attention-full --row scales-naive"),
):
    _run = _within_limits(_command) if _command in _COMPUTING else _command
    app.command(_name, help=_help(_command), epilog=f"Example: mask2former {_example}")(_run)

for _name, _command, _example in (
    ("flops", flops, "flops coco-instance/r50"),
    ("layers", layers, "layers scenes-tiny --limit 20"),
    ("focus", focus, "focus runs/mine/model.safetensors --data runs/mine/run.yaml"),
    ("attention", attention, "attention coco-panoptic/swin-t --image street.jpg"),
    ("proposals", proposals, "proposals coco-panoptic/swin-t --image street.jpg"),
    ("sampling", sampling, "sampling coco-panoptic/swin-t --image street.jpg --at 320 200"),
    ("convergence", convergence, "convergence runs/mine runs/other"),
):
    _run = _within_limits(_command)
    analyze.command(_name, help=_help(_command), epilog=f"Example: mask2former analyze {_example}")(_run)
app.add_typer(analyze, name="analyze")
