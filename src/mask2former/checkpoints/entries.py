"""Limits for every file of weights, whatever its format: the number of entries, their names and their numbers."""

from __future__ import annotations

import torch
from torch import Tensor

from mask2former import limits
from mask2former.errors import UserError
from mask2former.text import quoted

__all__ = ["check_entry", "check_entry_count"]


def check_entry_count(count: int) -> None:
    """Refuse more entries than any model has.

    Raises:
        UserError: there are more than ``limits.CHECKPOINT_ENTRIES``.
    """
    limits.check_limit("it has too many entries:", count, limits.CHECKPOINT_ENTRIES, "is it the right file?")


def check_entry(name: str, value: Tensor) -> None:
    """Refuse what cannot be an entry of a model here.

    Raises:
        UserError: its name is longer than ``limits.ENTRY_NAME``, or it has no numbers or numbers of a type that no
            layer computes with.
    """
    limits.check_limit(
        f"the name of entry {quoted(name, 40)} has too many characters:",
        len(name),
        limits.ENTRY_NAME,
        "is it the right file?",
    )
    if value.is_meta:
        raise UserError(f"entry {quoted(name)} has a shape but no values (device meta); save real weights")
    is_known = not value.is_quantized and not value.is_complex() and value.layout == torch.strided
    if not is_known or (value.is_floating_point() and value.dtype.itemsize == 1):
        raise UserError(
            f"entry {quoted(name)} is stored as {str(value.dtype).removeprefix('torch.')}; expected float16, bfloat16, "
            "float32, float64 or whole numbers: save it again in one of these"
        )
