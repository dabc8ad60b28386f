"""Test-time augmentation from the options ``--tta`` and ``--tta-sizes`` of several commands."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from mask2former import limits
from mask2former.cli.shared import setting_option
from mask2former.errors import UserError
from mask2former.text import quoted

if TYPE_CHECKING:
    from mask2former.inference.tta import MultiScaleFlip

__all__ = ["Tta", "TtaSizes", "parse_views"]

Tta = Annotated[
    bool,
    setting_option(
        "--tta", help="Test-time augmentation: average predictions over several sizes and mirrored images (slower)."
    ),
]
TtaSizes = Annotated[
    str | None,
    setting_option(
        metavar="PX,PX,...",
        help="Lengths of the shorter side for --tta, in pixels; implies --tta.",
        show_default="semantic: as published, or 0.5 to 1.75 times that of the model; other tasks: that of the model",
    ),
]


def parse_views(tta: bool, sizes: str | None) -> MultiScaleFlip | None:
    """The requested views; sizes imply test-time augmentation.

    Raises:
        UserError: the sizes are not numbers of pixels.
    """
    if not tta and sizes is None:
        return None
    from mask2former.inference.tta import MultiScaleFlip

    try:
        edges = None if sizes is None else tuple(int(part) for part in sizes.split(",", limits.TTA_SIZES))
    except ValueError:
        raise UserError(
            f"--tta-sizes: expected up to {limits.TTA_SIZES} numbers of pixels like 256,384,512, got {quoted(sizes)}"
        ) from None
    for edge in edges or ():
        limits.check_limit("--tta-sizes has a shorter side, in pixels, of", edge, limits.TTA_EDGE, "choose less")
    return MultiScaleFlip(edges)
