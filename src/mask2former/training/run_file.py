"""Run files as text: every setting of a recipe, below a comment that says what it reproduces and what to expect."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Iterator
from textwrap import wrap
from typing import Any

import yaml

from mask2former import recipes
from mask2former.checkpoints.zoo import packaged_zoo
from mask2former.errors import UserError

__all__ = ["run_file"]


class _Dumper(yaml.SafeDumper):
    """Lists on one line."""


_Dumper.add_representer(
    list, lambda dumper, values: dumper.represent_sequence("tag:yaml.org,2002:seq", values, flow_style=True)
)


def run_file(name: str) -> str:
    """What ``mask2former train`` reads, for one of :func:`mask2former.recipes.run_recipes`.

    Raises:
        UserError: there is no such recipe.
    """
    runs = recipes.run_recipes()
    if name not in runs:
        close = difflib.get_close_matches(name, runs, n=3)
        hint = f"did you mean {' or '.join(close)}? " if close else ""
        raise UserError(f"no run recipe '{name}'; {hint}'mask2former recipe' lists them")
    run = runs[name]
    if name in recipes.recipe_names():
        lines = [line for paragraph in _published(name) for line in wrap(paragraph, 116)]
    else:
        lines = inspect.cleandoc(run.__doc__ or "").splitlines()
    comment = "".join(f"# {line}".rstrip() + "\n" for line in lines)
    settings: dict[str, Any] = run().model_dump(mode="json")
    return comment + yaml.dump(settings, Dumper=_Dumper, sort_keys=False, width=120)


def _published(name: str) -> Iterator[str]:
    recipe, published = recipes.recipe(name), packaged_zoo()[name]
    data = recipe.run.data
    images = data.batch_size // recipe.num_gpus
    numbers = ", ".join(f"{metric} {value}" for metric, value in published.metrics.items())
    yield f"{name}: Mask2Former with {published.backbone} on {published.dataset}, {published.task}."
    yield f"Reproduces {recipe.reproduces} of the published code, which reached {numbers} (validation, percent)."
    if published.task == "panoptic":
        yield "AP is that of things, mIoU that of the semantic result of the panoptic model."
    yield (
        f"Published hardware: {recipe.num_gpus} GPUs, each with {images} of the {data.batch_size} images of a "
        "step. Here one device takes them in turns; on more, give trainer.devices (and data.batch_size_per_device as "
        "memory allows): the images per step stay."
    )
    start = (
        f"Published initial weights: {recipe.init_weights} ({published.pretraining}). Training starts from random ones "
    )
    if recipe.is_video:
        yield start + f"unless they are given: model.init={recipe.init_weights} model.init_partial=true."
    else:
        yield start + f"unless they are given: model.init={recipe.init_weights}, or any file of docs/convert.md."
    yield "Precision as published: float16 with loss scaling; trainer.precision=bf16 needs no scaling."
