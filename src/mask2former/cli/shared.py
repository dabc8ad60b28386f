"""Shared by several commands: options, run files, progress, ways to stop. It depends on no command."""

from __future__ import annotations

import contextlib
import math
import os
import re
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

import typer

from mask2former import limits
from mask2former.cli.names import complete_model, complete_recipe
from mask2former.cli.terminal import progress_bar, say
from mask2former.errors import FailedError, OptionError, UserError
from mask2former.progress import DOWNLOADING, DetailedProgress
from mask2former.text import quoted

if TYPE_CHECKING:
    from rich.console import Console

    from mask2former.value_range import ValueRange as RangeSetting

__all__ = [
    "DEFAULT_MODEL",
    "OF_MODEL",
    "AllowOutside",
    "BandRanges",
    "Bands",
    "BatchSize",
    "Classes",
    "DataRoot",
    "Device",
    "Dtype",
    "LongEdge",
    "MaxMegapixels",
    "MinArea",
    "Model",
    "ModelArgument",
    "ModelTasks",
    "OfficialSettings",
    "Recipe",
    "ShortEdge",
    "StoppedError",
    "Task",
    "Tile",
    "TileOverlap",
    "TrainedFor",
    "ValueRange",
    "ValueRule",
    "Weights",
    "allowed_pixels",
    "chosen_bands",
    "chosen_range",
    "fetch_weights",
    "given",
    "machine_option",
    "named_model",
    "renamed",
    "setting_option",
    "show_file",
    "size_hw_of",
    "stoppable",
    "tasks_of",
    "training_shown",
    "working",
]

_T = TypeVar("_T")
DEFAULT_MODEL = "scenes-tiny"
_DRAWN_EVERY = 0.1  # seconds
# Options in a panel of their own in the help.
setting_option = partial(typer.Option, rich_help_panel="Settings")
machine_option = partial(typer.Option, rich_help_panel="Machine")
_other_code_option = partial(typer.Option, rich_help_panel="Models of other code bases")
_NO_MODEL = (
    "no model given: use --model coco-panoptic/swin-t for photographs (downloaded once; for "
    "commercial use mmdet/coco-panoptic/swin-t), nuclei for cells under a microscope, or "
    "scenes-tiny for drawn scenes; 'mask2former models' lists all"
)

Task = Literal["panoptic", "instance", "semantic"]
Device = Annotated[str, machine_option(help="Device: auto, cpu, cuda or cuda:N.")]
BatchSize = Annotated[
    int,
    machine_option(
        min=1,
        help="Process up to this many images in one batch; useful on GPUs and for small images. Only images that are "
        "padded to the same size share a batch. No effect with tiles or --tta. Scores may differ in their last digits.",
    ),
]
Dtype = Annotated[
    Literal["float32", "bfloat16", "float16"] | None,
    machine_option(help="Precision of the model.", show_default="as stored"),
]
MaxMegapixels = Annotated[
    float | None,
    machine_option(
        min=1,
        max=limits.IMAGE_SIDE**2 / 1e6,
        help="Maximum number of pixels in one image, in millions; raise it only for images that you trust.",
        show_default="89, Pillow's safety limit",
    ),
]
OF_MODEL = "the model's own"  # the default of settings that a model states
_MODEL = "Model: a name (see: mask2former models), file, folder, or hf://owner/name."
Model = Annotated[str | None, typer.Option("--model", "-m", help=f"{_MODEL} Required.", autocompletion=complete_model)]
ModelArgument = Annotated[str, typer.Argument(metavar="MODEL", help=_MODEL, autocompletion=complete_model)]
Recipe = Annotated[
    str | None,
    _other_code_option(
        help="Name of the published model that a file or folder of another code base contains, for example "
        "coco-panoptic/r50; required if the file does not state it.",
        autocompletion=complete_recipe,
    ),
]
_task_option = partial(
    _other_code_option,
    metavar="TASK",
    help="Instead of --recipe, for a model with custom classes: a task that it was trained for; can be repeated.",
)
TrainedFor = Annotated[list[str] | None, _task_option("--trained-for")]
ModelTasks = Annotated[list[str] | None, _task_option("--task", "--trained-for", "-t")]
Weights = Annotated[
    str | None,
    _other_code_option(
        metavar="ENTRY", help="Set of weights to load from a file that contains several, for example model_ema."
    ),
]

AllowOutside = Annotated[
    bool,
    typer.Option(
        "--allow-outside",
        help="Also read images that annotations name outside their folder (../a.jpg, /data/a.jpg).",
    ),
]
DataRoot = Annotated[
    Path | None,
    typer.Option(
        metavar="DIR", help="Folder that contains the data sets.", show_default="$MASK2FORMER_DATA or ./datasets"
    ),
]
ShortEdge = Annotated[
    int | None,
    setting_option(help="Resize the shorter side to this many pixels; 0: do not resize.", show_default=OF_MODEL),
]
LongEdge = Annotated[
    int | None, setting_option(help="Maximum length of the longer side, in pixels.", show_default=OF_MODEL)
]
Tile = Annotated[
    int | None,
    setting_option(
        min=0,
        help="Cut images into tiles with sides of this many pixels and join their results; the object diameter of the "
        "model is then ignored. 0: no tiles.",
        show_default="as the model was trained",
    ),
]
TileOverlap = Annotated[
    int | None,
    setting_option(
        min=0,
        help="Minimum overlap of neighbouring tiles in pixels; preferably more than the width of an object.",
        show_default="a quarter of --tile",
    ),
]
OfficialSettings = Annotated[
    bool,
    setting_option(
        "--official-settings",
        help="Resize images as the authors of Mask2Former do, even if the model was trained with another toolbox.",
    ),
]
Classes = Annotated[
    list[str] | None,
    setting_option("--classes", metavar="NAME", help="Keep only this class; can be repeated.", show_default="all"),
]
MinArea = Annotated[
    int | None,
    setting_option(
        min=0, help="Leave out segments, instances and class masks with fewer pixels.", show_default=OF_MODEL
    ),
]
ValueRange = Annotated[
    tuple[str, str] | None,
    setting_option(
        "--value-range",
        metavar="BLACK WHITE",
        help="For images that are not 8-bit: the values of black and white, for example 0 4095.",
        show_default="as in training, or per file",
    ),
]
ValueRule = Annotated[
    Literal["auto", "full", "percentile"] | None,
    setting_option(
        "--value-rule",
        help="Instead of --value-range: the range that each file states (auto), all values of its data type (full), or "
        "the 0.5th to 99.5th percentile of each image (percentile).",
        show_default="as in training, or auto",
    ),
]


BandRanges = Annotated[
    str | None,
    setting_option(
        "--band-ranges",
        metavar="BLACK:WHITE,...",
        help="Instead of --value-range: one range for each band, in the order of --bands, for example "
        "0:4095,0:900,100:60000.",
        show_default="as in training",
    ),
]


def chosen_range(
    value_range: tuple[str, str] | None,
    value_rule: Literal["auto", "full", "percentile"] | None,
    band_ranges: str | None,
) -> RangeSetting | None:
    """The setting ``value_range`` from options: two numbers, a pair for each band, or the name of a rule.

    Raises:
        OptionError: more than one of them is given.
        UserError: ``value_range`` or ``band_ranges`` is invalid.
    """
    from mask2former.value_range import as_value_range

    several = list(given(value_range=value_range, value_rule=value_rule, band_ranges=band_ranges))
    if len(several) > 1:
        raise OptionError(lambda name: f"{' and '.join(map(name, several[:2]))} cannot be used together; give only one")
    if value_range is not None:
        named, pairs = f"--value-range is {quoted(' '.join(value_range), 60)}", value_range
        expected = "two ascending numbers, black and white, as in 0 4095"
    elif band_ranges is not None:
        named, pairs = (
            f"--band-ranges is {quoted(band_ranges, 60)}",
            [[number.strip() for number in part.split(":")] for part in band_ranges.split(",")],
        )
        expected = (
            "two ascending numbers for each band, with a colon between them and commas between bands, as in "
            "0:4095,0:900"
        )
    else:
        return value_rule
    try:
        return as_value_range(pairs)
    except ValueError as error:
        raise UserError(f"{named}; expected {expected}") from error


Bands = Annotated[
    str | None,
    setting_option(
        "--bands",
        metavar="N,N,...",
        help="Bands of each image that the model receives in place of red, green and blue, numbered from 1, for "
        "example 4,3,2 or 1-5.",
        show_default="as in training",
    ),
]


def chosen_bands(text: str | None) -> tuple[int, ...] | None:
    """The setting ``bands``: numbers separated by commas, and ranges such as 1-5.

    Raises:
        UserError: the text is invalid.
    """
    numbers: list[int] = []
    for part in [] if text is None else text.split(","):
        found = re.fullmatch(r"\s*(\d{1,6})(?:-(\d{1,6}))?\s*", part)
        first, last = (0, 0) if found is None else (int(found[1]), int(found[2] or found[1]))
        numbers += range(first, min(last, first + limits.CHANNELS) + 1)
        if not 1 <= first <= last <= limits.IMAGE_PAGES or len(numbers) > limits.CHANNELS:
            raise UserError(
                f"--bands is {quoted(text, 60)}; expected up to {limits.CHANNELS} band numbers, each from 1 to "
                f"{limits.IMAGE_PAGES}, with commas between them, as in 4,3,2 or 1-5"
            )
    return tuple(numbers) if text is not None else None


def size_hw_of(text: str) -> tuple[int, int]:
    """Height and width from ``--size``.

    Raises:
        UserError: the text is not two numbers of pixels with an x between them.
    """
    found = re.fullmatch(r"([0-9]{1,6})x([0-9]{1,6})", text)
    height, width = (int(side) for side in found.groups()) if found else (0, 0)
    if not height or not width:
        raise UserError(f"--size is {quoted(text)}; expected height and width in pixels, as in 800x1216")
    return height, width


class StoppedError(Exception):
    """The user pressed Ctrl-C; the message states what was done. Exit code 130."""


def given(**options: Any) -> dict[str, Any]:
    """The options that the user gave, where None or False is the default of all."""
    return {name: value for name, value in options.items() if value is not None and value is not False}


def renamed(former: str, old: _T | None, current: str, new: _T | None) -> _T | None:
    """The value of an option that is still accepted under its former name, which is noted.

    Raises:
        UserError: both names are given.
    """
    if old is None:
        return new
    if new is not None:
        raise UserError(f"{former} is the former name of {current}; give only one of them")
    say(f"note: {former} is called {current} now", error=True)
    return old


def named_model(model: str | None, sources: Sequence[str]) -> str:
    """The model, which must be named: any default would give useless results on most images.

    Raises:
        UserError: it is not named; the message suggests models. Or one of the ``sources`` of images is a model.
    """
    for source in sources:
        if not os.path.exists(source) and _is_model(source):
            hint = "give it with --model" if model is None else f"is it swapped with --model {quoted(model)}?"
            raise UserError(f"'{source}' is the name of a model, and no such file or folder exists; {hint}")
    if model is None:
        raise UserError(_NO_MODEL)
    return model


def _is_model(name: str) -> bool:
    from mask2former import checkpoints

    return checkpoints.is_name(name)


def tasks_of(words: list[str] | None) -> list[Any]:
    """Tasks that were given one by one or separated by commas; the library checks them."""
    return [name for entry in words or () for name in entry.split(",")]


def fetch_weights(console: Console, model: str) -> None:
    """Download the file of a published model into the cache, with a progress bar; other models need no download.

    Raises:
        UserError: it cannot be downloaded.
    """
    from mask2former import checkpoints

    with working(console, lambda: "nothing was changed") as tell:
        checkpoints.fetch(model, lambda done, total: tell(f"{DOWNLOADING} {model}", done, total))


@contextlib.contextmanager
def working(
    console: Console, what_was_done: Callable[[], str], *, forks: bool = False, resumes: bool = False
) -> Iterator[DetailedProgress]:
    """Show the steps of a library call as a bar; Ctrl-C ends the command and reports what was done so far.

    Args:
        console: where the bar is drawn, from the first reported step.
        what_was_done: returns the end of the sentence about Ctrl-C.
        forks: whether the call starts processes by forking, which must not happen while a thread draws. The bar is then
            drawn only when progress is reported, at most ten times a second.
        resumes: whether the next call continues this one, so that an error that ends it also reports what was done.
    """
    current, last, drawn = "", 0, 0.0
    bars = progress_bar(console, has_thread=not forks)
    bar = bars.add_task("", total=None)

    def tell(step: str, done: int, total: int | None, detail: str | None = None) -> None:
        nonlocal current, last, drawn
        shown: dict[str, Any] = {} if detail is None else {"detail": detail}
        is_new = step != current or done < last  # the same step again, for another image or training run
        last = done
        if is_new:
            of_bytes = step.startswith(DOWNLOADING)
            bars.reset(bar, total=total, completed=done, description=step, first=done, of_bytes=of_bytes)
            current = step
            bars.start()
        is_turn = is_new or done == total or time.monotonic() - drawn > _DRAWN_EVERY
        bars.update(bar, completed=done, total=total, refresh=forks and is_turn, **shown)
        drawn = time.monotonic() if is_turn else drawn

    try:
        yield tell
    except KeyboardInterrupt as interrupt:
        kept = "the partial download is kept; run the same command again to continue"
        raise StoppedError(kept if current.startswith(DOWNLOADING) else what_was_done()) from interrupt
    except FailedError as error:
        if not resumes:
            raise
        raise FailedError(f"{error}; {what_was_done()}") from error
    finally:
        bars.stop()


def allowed_pixels(megapixels: float | None) -> contextlib.AbstractContextManager[None]:
    """Inside, images may have this many million pixels; None: as many as otherwise."""
    from mask2former.media.image_files import pixel_limit

    return contextlib.nullcontext() if megapixels is None else pixel_limit(math.ceil(megapixels * 1e6))


@contextlib.contextmanager
def training_shown(console: Console, what_was_done: Callable[[], str]) -> Iterator[DetailedProgress | None]:
    """:func:`working` for a training; None where the output is no terminal, since a training then prints lines.

    Raises:
        FailedError: memory ran out, a number was not finite, or a process died.
    """
    try:
        with working(console, what_was_done, forks=True) as tell:
            yield tell if console.is_terminal else None
    except (MemoryError, FloatingPointError, ChildProcessError) as error:  # whose messages are for the user
        raise FailedError(str(error)) from error


@contextlib.contextmanager
def stoppable(what_was_done: Callable[[], str]) -> Iterator[None]:
    """A request to stop (see :mod:`mask2former.interrupts`) ends the command and reports what was done so far."""
    try:
        yield
    except KeyboardInterrupt as interrupt:
        raise StoppedError(what_was_done()) from interrupt


def show_file(path: Path) -> None:
    """Open a file in a viewer, if there is a screen and an interactive user."""
    import os

    has_screen = sys.platform in ("darwin", "win32") or "DISPLAY" in os.environ or "WAYLAND_DISPLAY" in os.environ
    if has_screen and sys.stdout is not None and sys.stdout.isatty():
        typer.launch(str(path))
