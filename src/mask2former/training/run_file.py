"""Run files: reading one with overrides, and writing that of a recipe with comments on its source and results."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from pathlib import Path
from textwrap import wrap
from typing import Any

import yaml

from mask2former import recipes
from mask2former.config import RunConfig, parse, read_run_file
from mask2former.errors import UserError
from mask2former.notes import note
from mask2former.text import did_you_mean, printable
from mask2former.training import need_lightning

__all__ = ["read_run", "run_file"]


def read_run(path: Path, overrides: Sequence[str] = (), *, resume: Path | None = None) -> RunConfig:
    """The run in a file. The settings of its initial model are read as well if it is only valid together with them.

    Args:
        path: path of the run file.
        overrides: ``key.sub=value``, which replace settings of the file.
        resume: directory of a run to be resumed, to which this run writes.

    Raises:
        UserError: the file or an override is wrong, or sets an output other than that of the resumed run; or the
            initial model cannot be read.
    """
    values = read_run_file(path, overrides)
    if resume is not None:
        _check_output(path, values, overrides, resume)
        values["output"] = str(resume)
    try:
        return parse(RunConfig, values, str(path), overrides)
    except UserError:
        model = values.get("model")
        if not isinstance(model, dict) or not isinstance(model.get("init"), str):
            raise
    need_lightning()
    from mask2former.training.start import completed  # imports torch and Lightning

    return parse(RunConfig, completed(values, resume), str(path), overrides)


def _check_output(path: Path, values: dict[str, Any], overrides: Sequence[str], resume: Path) -> None:
    """Add a note if a resumed run writes elsewhere than its file says; refuse an override with another output."""
    output = values.get("output")
    if not isinstance(output, str) or Path(output).resolve() == resume.resolve():
        return
    if any(override.startswith("output=") for override in overrides):
        raise UserError(
            f"override 'output={printable(output, 200)}': a run that resumes writes to its own directory, '{resume}'; "
            "leave out one of the two"
        )
    note(
        "run files whose 'output' is not used, because a resumed run stays in its own directory",
        f"{path} (output '{output}'; resumed in '{resume}')",
    )


class _Dumper(yaml.SafeDumper):
    """Writes lists on one line."""


_Dumper.add_representer(
    list, lambda dumper, values: dumper.represent_sequence("tag:yaml.org,2002:seq", values, flow_style=True)
)


def run_file(name: str) -> str:
    """The run file of one of :func:`mask2former.recipes.run_recipes`, as input of ``mask2former train``.

    Raises:
        UserError: the recipe does not exist.
    """
    runs = recipes.run_recipes()
    if name not in runs:
        hint = " ".join(part for part in (did_you_mean(name, runs), "'mask2former recipe' lists them") if part)
        raise UserError(f"there is no run recipe '{name}'; {hint}")
    run = runs[name]
    if name in recipes.recipe_names():
        lines = [line for paragraph in _published(name) for line in wrap(paragraph, 116)]
    else:
        lines = inspect.cleandoc(run.__doc__ or "").splitlines()
    comment = "".join(f"# {line}".rstrip() + "\n" for line in lines)
    settings: dict[str, Any] = run().model_dump(mode="json")
    return comment + yaml.dump(settings, Dumper=_Dumper, sort_keys=False, width=120)


def _published(name: str) -> Iterator[str]:
    from mask2former.checkpoints.zoo import packaged_zoo  # imports torch

    recipe, published = recipes.recipe(name), packaged_zoo().get(name)
    data, code = recipe.run.data, recipes.PROVIDERS[recipe.provider]
    share, samples = data.batch_size // recipe.num_gpus, "clips" if recipe.is_video else "images"
    reproduces, pretraining = f"Reproduces {recipe.reproduces} of {code}", ""
    if published is not None:
        yield f"{name}: Mask2Former with {published.backbone} on {published.dataset}, {published.task}."
        numbers = ", ".join(f"{metric} {value}" for metric, value in published.metrics.items())
        reproduces += f", which reached {numbers} (validation, percent)" if numbers else ""
        pretraining = f" ({published.pretraining})"
    yield f"{reproduces}."
    if recipe.provider == "official" and "panoptic" in recipe.model.inference.tasks:
        yield "AP is that of things, mIoU that of the semantic result of the panoptic model."
    yield (
        f"Published hardware: {recipe.num_gpus} GPUs, each with {share} of the {data.batch_size} "
        f"{samples} of a step. Here one device takes them in turns; to use more, set trainer.devices "
        f"(and data.batch_size_per_device as memory allows): the number of {samples} per step stays the same."
    )
    start = f"Published initial weights: {recipe.init_weights}{pretraining}. Weights start random unless you "
    if recipe.is_video:
        yield start + f"set model.init={recipe.init_weights} model.init_partial=true."
    elif recipe.provider == "official":
        yield start + f"set model.init={recipe.init_weights}, or any file of docs/convert.md."
    else:
        yield start + "set model.init=FILE, in any layout of docs/convert.md."
    if recipe.run.trainer.precision == "fp16":
        yield "Precision as published: float16 with loss scaling; trainer.precision=bf16 needs no scaling."
    else:
        yield "Precision as published: float32."
    if recipe.deviations:
        yield f"Where {code} differs in ways that no setting can express:"
        yield from (f"- {deviation}." for deviation in recipe.deviations)
