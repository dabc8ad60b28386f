"""Checkpoints of other code bases to ours and back: recognised by their names, converted by tables, verified.

Each code base is one module of ``formats`` with a table of names; ``rules`` reads the tables both ways, with the
original names in the middle.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

from mask2former import checkpoints
from mask2former.checkpoints.formats.backbones import Backbone, save_backbone
from mask2former.checkpoints.formats.huggingface import HUGGINGFACE
from mask2former.checkpoints.load import Found, read
from mask2former.checkpoints.save_as import TARGETS, Target, check_place, write
from mask2former.checkpoints.verify import compare_with_transformers
from mask2former.config import Task
from mask2former.errors import OptionError, UserError

__all__ = ["TARGETS", "Conversion", "Found", "Target", "convert", "read"]


@dataclass(frozen=True)
class Conversion:
    """What was done.

    Attributes:
        source: what the source turned out to be.
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
    tasks: Sequence[Task] = (),
    *,
    verify: bool = True,
) -> Conversion:
    """Write ``source`` in another layout.

    Args:
        source: a file or folder of any code base that we know, or a name as of ``Mask2Former.from_pretrained``.
        path: what to write; must not be there yet.
        to: the layout.
        recipe: the published model that it is, where the file does not say.
        tasks: what it was trained for, where neither the file nor a recipe says.
        verify: whether to run both implementations where the other one is installed.

    Raises:
        UserError: the source is not known, incomplete or ambiguous, the model has no place in the layout, the place
            cannot be written, or a check fails; nothing is written then.
    """
    path = Path(path)
    if to not in TARGETS:
        raise OptionError(lambda name: f"{name('to')} {to}: no such layout; expected one of {', '.join(TARGETS)}")
    if unknown := sorted(set(tasks) - set(get_args(Task))):
        raise OptionError(
            lambda name: f"{name('tasks')} {unknown[0]}: no such task; expected {', '.join(get_args(Task))}"
        )
    check_place(path, to)
    found = _found(source, recipe, [task for task in get_args(Task) if task in tasks])
    if isinstance(found.content, Backbone):
        if to != "ours" or path.suffix != ".safetensors":
            raise UserError(f"{source}: {found.title}, which is written as ours only, as a .safetensors file")
        save_backbone(found.content, path)
        return Conversion(found.title, path, (*found.notes, "train from it with model.init"), ("all names are known",))
    model = checkpoints.instantiate(found.content)
    checks: list[str] = []

    def check(folder: Path) -> None:
        if verify and (agreed := compare_with_transformers(model, folder)):
            checks.append(agreed)

    if found.content.layout == HUGGINGFACE.key and Path(source).is_dir():
        check(Path(source))
    write(model, path, to, check if to == HUGGINGFACE.key else None)
    checks.append("every entry was converted" if to == "ours" else "read back, every value is the same")
    return Conversion(found.title, path, found.notes, tuple(checks))


def _found(source: str | Path, recipe: str | None, tasks: Sequence[Task]) -> Found:
    is_name = source in checkpoints.packaged_names() or source in checkpoints.current_zoo()
    if os.path.exists(source) and not is_name:
        return read(Path(source), recipe, tasks)
    if tasks:
        raise UserError(f"'{source}' carries its own configuration; leave out the tasks")
    return Found("mask2former", checkpoints.open_checkpoint(source, recipe))
