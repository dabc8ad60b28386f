"""The layouts of all code bases that can be read, and whether names belong to one of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mask2former.checkpoints.formats import original
from mask2former.checkpoints.formats.backbones import BACKBONES, without_wrapping
from mask2former.checkpoints.formats.huggingface import HUGGINGFACE
from mask2former.checkpoints.formats.openmmlab import MMDET, MMDET_2, MMSEG, MMSEG_2
from mask2former.checkpoints.formats.sssegmentation import SSSEG
from mask2former.checkpoints.unwrap import unwrapped

__all__ = ["MODELS", "has_layout", "is_known"]

MODELS = (HUGGINGFACE, MMDET, MMDET_2, MMSEG, MMSEG_2, SSSEG)
"""Layouts of complete models, beside ours and the original one."""


def has_layout(names: Mapping[str, object]) -> bool:
    """Whether these are the names of a complete model of another code base, or of a backbone."""
    return original.is_original(names) or any(layout.fits(names) for layout in (*MODELS, *BACKBONES))


def is_known(names: Mapping[str, Any]) -> bool:
    """Whether these are the names of a model or a backbone, in any wrapping."""
    inner, _ = unwrapped(names, has_layout)
    return has_layout(inner) or bool(without_wrapping(inner)[1])
