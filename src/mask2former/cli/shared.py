"""What several verbs share: options, run files, progress, ways to stop. Knows no verb."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from mask2former.cli.names import complete_model, complete_recipe
from mask2former.cli.terminal import progress_bar
from mask2former.errors import FailedError, RequestError

if TYPE_CHECKING:
    from rich.console import Console

__all__ = [
    "DEFAULT_MODEL",
    "Device",
    "Dtype",
    "FailedError",
    "Model",
    "Recipe",
    "StoppedError",
    "Task",
    "ValueRange",
    "count",
    "fetch_weights",
    "named_model",
    "read_run_file",
    "show_file",
    "stoppable",
]

DEFAULT_MODEL = "scenes-tiny"
_NO_MODEL = (
    "no model is named: --model coco-panoptic/swin-t for photographs (downloaded once, not for commercial use), nuclei "
    "for cells under microscopes, scenes-tiny for drawn scenes; 'mask2former models' lists all"
)

Task = Literal["panoptic", "instance", "semantic"]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.", rich_help_panel="Machine")]
Dtype = Annotated[
    Literal["float32", "bfloat16", "float16"] | None,
    typer.Option(help="Precision of the whole model; default: as stored.", rich_help_panel="Machine"),
]
Model = Annotated[
    str | None,
    typer.Option(
        "--model",
        "-m",
        help="Name (see: mask2former models), file, folder, or hf://owner/name.",
        autocompletion=complete_model,
    ),
]
Recipe = Annotated[
    str | None,
    typer.Option(
        help="What an original .pkl or .pth is, for instance coco-panoptic/r50; see: mask2former models.",
        autocompletion=complete_recipe,
    ),
]

ValueRange = Annotated[
    tuple[float, float] | None,
    typer.Option(
        "--value-range",
        metavar="BLACK WHITE",
        help="The values that become black and white in images that are not 8-bit, for instance 0 4095.",
        show_default="as the model was trained, else by file",
        rich_help_panel="Settings",
    ),
]


class StoppedError(Exception):
    """The user pressed Ctrl-C; the message says what was done. Exit code 130."""


def read_run_file(path: Path, overrides: list[str]) -> dict[str, Any]:
    """The settings of a run file, with overrides.

    Raises:
        RequestError: the file cannot be read as YAML, or an override has the wrong form.
    """
    from mask2former.config import apply_overrides
    from mask2former.documents import read_yaml

    values = read_yaml(path, "run file", hint="mask2former recipe scenes-tiny prints one")
    if not isinstance(values, dict):
        raise RequestError(f"'{path}': expected a mapping of settings, got {type(values).__name__}")
    return apply_overrides(values, overrides)


def named_model(model: str | None) -> str:
    """The model, which must be named: any default would be nonsense on most images.

    Raises:
        RequestError: it is not, with the names to begin with.
    """
    if model is None:
        raise RequestError(_NO_MODEL)
    return model


def count(number: int, noun: str) -> str:
    """``1 picture``, ``2 pictures``."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def fetch_weights(console: Console, model: str) -> None:
    """Bring the file of a published model into the cache, with a bar; nothing to do for any other model.

    Raises:
        RequestError: it cannot be downloaded.
    """
    from mask2former import checkpoints

    bars = progress_bar(console, of_bytes=True)
    with stoppable(lambda: "what was downloaded so far is kept; the same command goes on from there"), bars:
        bar = bars.add_task(model, total=None, visible=False)
        checkpoints.fetch(model, lambda done, total: bars.update(bar, completed=done, total=total, visible=True))


@contextlib.contextmanager
def stoppable(what_was_done: Callable[[], str]) -> Iterator[None]:
    """Being asked to stop (see :mod:`mask2former.interrupts`) ends the verb with what was done so far."""
    try:
        yield
    except KeyboardInterrupt as interrupt:
        raise StoppedError(what_was_done()) from interrupt


def show_file(path: Path) -> None:
    """Show a file where there is a screen and somebody in front of it."""
    import os

    has_screen = sys.platform in ("darwin", "win32") or "DISPLAY" in os.environ or "WAYLAND_DISPLAY" in os.environ
    if has_screen and sys.stdout is not None and sys.stdout.isatty():
        typer.launch(str(path))
