"""Conversion of checkpoints between other code bases and ours: recognised by names, converted by tables, verified.

Each code base is one module in ``formats`` with a table of names; ``rules`` reads the tables in both directions, with
the original names in between.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mask2former import checkpoints
from mask2former.checkpoints.compare_transformers import compare_with_transformers
from mask2former.checkpoints.formats.backbones import Backbone, save_backbone
from mask2former.checkpoints.formats.huggingface import HUGGINGFACE
from mask2former.checkpoints.targets import TARGETS, Target, check_place, unsaid, write
from mask2former.config import Task
from mask2former.errors import OptionError, UserError

__all__ = ["Conversion", "Target", "convert"]


@dataclass(frozen=True)
class Conversion:
    """The result of a conversion.

    Attributes:
        source: what the source was recognised as.
        path: what was written.
        notes: what a user should know, one phrase each.
        checks: what was verified, one phrase each.
    """

    source: str
    path: Path
    notes: tuple[str, ...]
    checks: tuple[str, ...]


def convert(
    source: str | Path,
    path: str | Path,
    to: Target = "ours",
    recipe: str | None = None,
    tasks: Task | Sequence[Task] = (),
    *,
    weights: str | None = None,
    verify: bool = True,
) -> Conversion:
    """Write ``source`` in another layout.

    Args:
        source: a file or folder of any supported code base, or a name as in ``Mask2Former.from_pretrained``.
        path: the file or folder to write; must not exist yet.
        to: the layout.
        recipe: the published model that it contains, if the file does not say so.
        tasks: what it was trained for, if neither the file nor a recipe says so.
        weights: which of several sets of weights in a file, by the name of its entry.
        verify: whether to run both implementations if the other one is installed.

    Raises:
        UserError: the source is unknown, incomplete or ambiguous, the layout cannot hold the model, the path cannot be
            written, or a check fails; nothing is written then.
    """
    path = Path(path)
    if to not in TARGETS:
        raise OptionError(lambda name: f"{name('to')} {to}: no such layout; expected one of {', '.join(TARGETS)}")
    check_place(path, to)
    found = checkpoints.find(source, recipe, tasks, weights)
    if isinstance(found.content, Backbone):
        if found.kind == "mask2former":
            raise UserError(f"{source}: {found.title}, converted already; train a model from it: model.init={source}")
        if to != "ours" or path.suffix != ".safetensors":
            raise UserError(f"{source}: {found.title}, which is written as ours only, as a .safetensors file")
        save_backbone(found.content, path)
        return Conversion(found.title, path, (*found.notes, "train from it with model.init"), ("all names are known",))
    model = checkpoints.instantiate(found.content)
    checks: list[str] = []

    def check(folder: Path) -> None:
        if verify and (agreed := compare_with_transformers(model, folder)):
            checks.append(agreed)

    if found.content.layout == HUGGINGFACE.key and Path(found.content.source).is_dir():
        check(Path(found.content.source))
    write(model, path, to, check if to == HUGGINGFACE.key else None)
    checks.append("every entry was converted" if to == "ours" else "read back, every value is the same")
    return Conversion(found.title, path, (*found.notes, *unsaid(model.info, to)), tuple(checks))
