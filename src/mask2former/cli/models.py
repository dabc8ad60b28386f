"""What can be loaded and what a file holds: ``mask2former models`` and ``mask2former inspect``."""

from __future__ import annotations

from typing import Annotated

import typer

from mask2former.cli.shared import (
    Recipe,
    stoppable,
)

__all__ = ["inspect_checkpoint", "models"]


def models() -> None:
    """List what can be loaded: packaged models, and the published ones whose files can be given."""
    from mask2former import checkpoints, recipes

    print("Packaged (--model NAME):")
    for name in checkpoints.packaged_names() or ("none",):
        print(f"  {name}")
    print("Published (download the file, then --model FILE --recipe NAME; weights are CC BY-NC 4.0):")
    for name in recipes.recipe_names():
        known = recipes.recipe(name)
        kind = "clips" if known.is_video else "/".join(known.model.inference.tasks)
        print(f"  {name:<32}{kind}")
    print("Your own: a .safetensors file or folder that training or save_pretrained wrote (--model PATH).")


def inspect_checkpoint(
    checkpoint: Annotated[str, typer.Argument(help="Packaged name, file or folder.")],
    recipe: Recipe = None,
) -> None:
    """Say what a checkpoint is: format, architecture, settings, classes, size, and the recipes it fits."""
    from mask2former.inference.facts import checkpoint_facts

    with stoppable(lambda: "nothing was changed"):
        facts = checkpoint_facts(checkpoint, recipe)
    width = max(len(name) for name in facts)
    for name, value in facts.items():
        print(f"{name:<{width}}  {value}")
