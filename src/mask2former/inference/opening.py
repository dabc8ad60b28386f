"""From any source of a model to a predictor, with its download reported as a step."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mask2former import checkpoints
from mask2former.checkpoints.hub import files_of_folder
from mask2former.config import Task
from mask2former.errors import OptionError, UserError
from mask2former.inference.predictor import Predictor
from mask2former.inference.tta import AugmentedPredictor, MultiScaleFlip
from mask2former.models.mask2former import Mask2Former
from mask2former.progress import DOWNLOADING, Progress, silent

__all__ = ["ModelSource", "model_files", "model_name", "open_predictor"]

ModelSource = Predictor | Mask2Former | str | Path


def open_predictor(
    model: ModelSource,
    *,
    recipe: str | None = None,
    trained_for: Task | Sequence[Task] = (),
    weights: str | None = None,
    device: str | None = None,
    dtype: str | None = None,
    compile: bool = False,
    views: MultiScaleFlip | None = None,
    quiet: bool = False,
    progress: Progress = silent,
    **settings: Any,
) -> Predictor:
    """A predictor for a model, which is loaded if it is given by name or file; a predictor is returned unchanged.

    Args:
        model: a predictor, which keeps its device, type and settings; or a model, or the name or file of one.
        recipe: for files without configuration.
        trained_for: the tasks for which the model was trained, instead of ``recipe``.
        weights: see :meth:`Predictor.from_pretrained`.
        device: see :class:`Predictor`.
        dtype: see :class:`Predictor`.
        compile: see :class:`Predictor`.
        views: test-time augmentation.
        quiet: see :meth:`Predictor.from_pretrained`.
        progress: receives the amount that has been downloaded.
        settings: inference settings that replace the stored ones of a model that is loaded here.

    Raises:
        UserError: the model cannot be loaded, or the arguments concern loading, but it is already loaded.
    """
    if isinstance(model, Predictor | Mask2Former):
        given = {"recipe": recipe, "trained_for": trained_for or None, "weights": weights, **settings}
        if isinstance(model, Predictor):
            given |= {"device": None if device == "auto" else device, "dtype": dtype, "compile": compile or None}
        if taken := [name for name, value in given.items() if value is not None]:
            raise UserError(f"'{taken[0]}' applies to loading a model, but this one is already loaded; leave it out")
        predictor = model if isinstance(model, Predictor) else Predictor(model, device, dtype, compile=compile)
    else:
        checkpoints.fetch(model, lambda done, total: progress(f"{DOWNLOADING} {model}", done, total))
        progress("loading the model", 0, None)
        told = {"quiet": quiet, "compile": compile, "weights": weights, **settings}
        try:
            predictor = Predictor.from_pretrained(model, recipe, device, dtype, tasks=trained_for, **told)
        except OptionError as error:  # its argument "tasks" is called "trained_for" here
            sentence = error.sentence
            raise OptionError(
                lambda name: sentence(lambda argument: name("trained_for" if argument == "tasks" else argument))
            ) from error
    return predictor if views is None else AugmentedPredictor(predictor, views)


def model_name(model: ModelSource) -> str:
    """The model's name in files of results: its name or path, or for an object its class."""
    return str(model) if isinstance(model, str | Path) else type(model).__name__


def model_files(model: ModelSource) -> list[Path]:
    """The files of a model, none of which may be overwritten; empty for an object and for the name of a model."""
    path = Path(model) if isinstance(model, str | Path) else None
    if path is None or not path.exists():
        return []
    return files_of_folder(path) if path.is_dir() else [path]
