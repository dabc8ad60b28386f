"""Pages, frames and planes of a file: how many there are, and that only the first is read."""

from __future__ import annotations

import contextlib
import math
import re

from PIL import Image

from mask2former import limits
from mask2former.notes import note
from mask2former.pixels.decoder_warnings import without_warnings
from mask2former.pixels.tags import BAND_TAG, DESCRIPTION, SUBFILE, tag_of

__all__ = ["CHOSEN_PAGE", "FIRST_PAGE", "OTHER_PAGES", "count_pages", "described_planes", "no_page", "note_pages"]

CHOSEN_PAGE = "mask2former.page"  # in Pillow's info: that the caller chose the page, even if it is the first

FIRST_PAGE = "with several pages, frames or planes, of which only the first is read"
OTHER_PAGES = " (predict --page reads others, in Python ImagePage; --bands reads channels)"
"""For images of which any page can be chosen: what to do."""


def note_pages(image: Image.Image, name: str, what: str = "images") -> bool:
    """Note pages and frames after the one that is read, unless the caller chose it; returns whether this was done."""
    with without_warnings(), contextlib.suppress(Exception):  # decoding reports damage
        # MPO: photographs with a preview or a depth map
        if image.format == "MPO" or image.tell() or CHOSEN_PAGE in image.info:
            return False
        count, is_all = _count_pages(image)
        pages = max(count, _described_pages(image))
        if pages > 1 and not (is_all and _are_overviews(image, count)):
            number = f"{pages}{'' if is_all else ' or more'}"
            note(f"{what} {FIRST_PAGE}{OTHER_PAGES if what == 'images' else ''}", f"'{name}' ({number})")
            return True
    return False


def count_pages(image: Image.Image) -> int:
    """The number of pages or frames of an image that is not decoded yet, counted up to ``limits.IMAGE_PAGES``."""
    if image.format == "GIF":
        return min(getattr(image, "n_frames", 1), limits.IMAGE_PAGES)
    if image.format == "MPO":
        return 1
    return min(max(_count_pages(image)[0], _described_pages(image)), limits.IMAGE_PAGES)


def _count_pages(image: Image.Image) -> tuple[int, bool]:
    """The number of pages or frames, and whether these are all.

    Each page of a TIFF is found through the previous one, in time that grows with their number, and those of a GIF by
    reading all of it.
    """
    if image.format == "GIF":
        return (2, False) if getattr(image, "is_animated", False) else (1, True)
    if image.format != "TIFF":
        return getattr(image, "n_frames", 1), True
    count = 1
    try:
        while count < limits.IMAGE_PAGES:
            image.seek(count)
            count += 1
    except EOFError:
        return count, True
    except Exception:  # the file is cut short or damaged there: the page exists, and reading it reports the fault
        count += 1
    finally:
        image.seek(0)
    return count, False


def no_page(name: str, page: int, count: int, bands: int) -> str:
    """The error of a file without a page, counted from 0, which may have meant one of its bands."""
    of_bands = f", of {bands} bands, which --bands chooses (in Python bands)" if count == 1 and bands > 1 else ""
    return f"'{name}' has no page {page + 1}; it has {count}{of_bands}"


def described_planes(description: str, num_values: int) -> int:
    """Planes that follow a single TIFF page without pages of their own, as ImageJ and tifffile write them.

    Args:
        description: the text of the tag ``ImageDescription``.
        num_values: of the page: width, height and channels multiplied.
    """
    if description.startswith("ImageJ=") and (found := re.search(r"^images=(\d{1,9})$", description, re.MULTILINE)):
        return int(found[1])
    if found := re.match(r'\{"shape": \[([\d, ]{1,200})\]', description):
        return math.prod(int(side) for side in found[1].split(",")) // max(1, num_values)
    return 1


def _described_pages(image: Image.Image) -> int:
    bands = int(tag_of(image, BAND_TAG) or 1)
    return described_planes(str(tag_of(image, DESCRIPTION) or ""), image.width * image.height * bands)


def _are_overviews(image: Image.Image, pages: int) -> bool:
    """Whether all further pages of a TIFF are marked as smaller copies of the first."""
    if getattr(image, "tag_v2", None) is None or pages < 2:
        return False
    try:
        return all(_subfile_of(image, page) & 1 for page in range(1, pages))
    finally:
        image.seek(0)


def _subfile_of(image: Image.Image, page: int) -> int:
    image.seek(page)
    return int(tag_of(image, SUBFILE) or 0)
