"""Images of any kind, read as (H, W, 3) uint8 RGB, and the images at paths and in folders.

Every fault of an image ends in one :class:`UserError` that names it. Knows nothing of models or resizing.
"""

from __future__ import annotations

import os
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path, PurePosixPath
from typing import IO, Any

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image

from mask2former import limits
from mask2former.documents import check_regular
from mask2former.errors import UserError
from mask2former.limits import check_limit
from mask2former.media.archives import File, Folder
from mask2former.media.dicom_files import DICOM_SUFFIXES, parts_of_slides, slide_size
from mask2former.media.folders import walk_folder
from mask2former.media.image_files import (
    IMAGE_SUFFIXES,
    ImageFile,
    ImagePage,
    NamedBytes,
    PixelLimitError,
    open_file,
    why_left_out,
)
from mask2former.media.web_images import WebImage, is_address
from mask2former.notes import collect_notes, is_collecting, note, sentences
from mask2former.pixels import (
    Bands,
    Exif,
    StoredImage,
    ValueRange,
    bands_of_array,
    bands_of_pillow,
    bands_of_stored,
    checked_range,
    orientation,
    rgb_of_array,
    rgb_of_pillow,
    rgb_of_stored,
)
from mask2former.text import printable

__all__ = [
    "IMAGE_SUFFIXES",
    "Bands",
    "Exif",
    "ImagePage",
    "ImageSource",
    "NamedBytes",
    "PixelLimitError",
    "ValueRange",
    "as_file",
    "check_size",
    "image_size",
    "images_below",
    "is_image_name",
    "is_one_image",
    "list_images",
    "note_passed_over",
    "read_image",
    "standard_input",
    "unshared",
]

Bytes = bytes | bytearray | memoryview
ImageSource = str | os.PathLike[str] | ImageFile | Bytes | IO[bytes] | Image.Image | np.ndarray | torch.Tensor

_TENSOR_HELP = "expected (3, H, W) or (1, H, W)"


def read_image(
    source: ImageSource,
    *,
    value_range: ValueRange | None = None,
    bands: Bands | None = None,
    exif: Exif = "apply",
) -> UInt8[np.ndarray, "H W C"]:
    """The image as RGB in 0..255, contiguous. The one way in: training, evaluation, prediction and drawing use it.

    Files and Pillow images: the EXIF orientation is applied; of several pages or frames the first is read; grey,
    palette, 1-bit and CMYK are converted. Transparent pixels are blended onto white; an image whose alpha is opaque
    everywhere is simply read as RGB. Arrays (channels last) and tensors (channels first): a fourth channel is alpha;
    one channel is grey. The order of the channels is RGB. Values are rounded to the nearest.

    Which values are black and white:

    * ``value_range``, where two numbers are given: these become 0 and 255, values beyond are clipped. Bytes are
      unchanged. With ``bands``, it may be a list of such pairs, one per band, in their order.
    * ``full``: the smallest and largest value of the type, or of the bit depth given in the file. Not for floats.
    * ``percentile``: 0.5 % and 99.5 % of the values of each image, of all colours together (noted).
    * ``auto``, as without ``value_range``: the following rules.
    * Bytes are 0..255.
    * Integers of up to 16 bits in wider files and uint16 arrays: 0 to the largest value of the bit depth given in the
      file (12-bit TIFF, ``MaxSampleValue``, OME's ``SignificantBits``, PNG's ``sBIT``). Where none is given, of the
      smallest depth among 8, 10, 12, 14 and 16 that covers the largest value; fewer than 16 are noted, as inferred.
      Signed files end at 15 bits, or 7.
    * 16-bit colour in PNG files, and with the extra ``microscopy`` in TIFF files: as grey. In others, the upper 8 bits,
      stretched where they cover less than their range (noted).
    * Pixels that a TIFF declares as having no value (GDAL's nodata, in all colours) are black and do not count as
      values (noted).
    * Alpha has the range of its type; in a float array, 0..1 or that of the colours.
    * Floats are 0..1 if all values lie there, else 0..255 if all lie there and are either whole or mostly (zeros aside)
      above 1. The excess from resampling and rounding is clipped: at most a tenth of the range, in at most 15 % of the
      values (above 1 %, it is noted). All other floats are refused.

    With ``bands``, for models of other channels, nothing is made grey, blended or left out: the bands of an image are
    its channels, alpha like any other; for a TIFF with one band also its pages, where more than one band is requested
    (noted, unless the file calls them channels). They share one range of values, unless ``value_range`` has one for
    each; ``percentile`` applies to each band. A band with only 0 and the largest value of its type, such as alpha
    without soft edges, does not take part in what is inferred; bands whose values stay in the lowest quarter of an
    inferred range are noted.

    What is read only in part or by inference (pages, bands, transparency, depth) is noted, see
    :func:`mask2former.notes.collect_notes`.

    Args:
        source: a path, an http(s) address, bytes, an open file (read from its position), a page of a file
            (:class:`ImagePage`), a Pillow image, an array or a tensor.
        value_range: the values that become 0 and 255, or the name of a rule.
        bands: instead of R, G and B, these bands, by their numbers from 1, in this order; or, as a number, all bands of
            the image, which must have this many.
        exif: ``ignore`` reads the pixels as stored.

    Raises:
        UserError: the file is missing, a folder, empty, incomplete, larger than Pillow's safety limit or not an image;
            the array has another rank, channel count or type, no pixels, masked values, or values that are not finite
            or that no rule covers; 16-bit colour whose upper bits cannot show ``value_range``, or that is in separate
            planes; a tensor without values; a Pillow image that was closed before it was decoded.
    """
    value_range = checked_range(value_range)
    if isinstance(source, torch.Tensor):
        return _from_tensor(source, value_range, bands)
    if isinstance(source, np.ndarray):
        if bands is not None:
            return bands_of_array(source, bands, value_range=value_range)
        return rgb_of_array(source, value_range=value_range)
    if isinstance(source, Image.Image):
        return _from_open(source, getattr(source, "filename", "") or "image", value_range, bands, exif)
    source = as_file(source)
    if isinstance(source, ImageFile):
        with open_file(source, bands) as image:
            return _from_open(image, str(source), value_range, bands, exif)
    raise UserError(
        f"cannot read an image from {type(source).__name__}: expected a path, a Pillow image, an array or a tensor"
    )


def _from_open(
    image: Image.Image | StoredImage, name: str, value_range: ValueRange | None, bands: Bands | None, exif: Exif
) -> UInt8[np.ndarray, "H W C"]:
    if isinstance(image, StoredImage):
        if bands is None:
            return rgb_of_stored(image, name, value_range=value_range, exif=exif)
        return bands_of_stored(image, bands, name, value_range=value_range, exif=exif)
    if bands is None:
        return rgb_of_pillow(image, name, value_range=value_range, exif=exif)
    return bands_of_pillow(image, bands, name, value_range=value_range, exif=exif)


def as_file(source: Any) -> Any:
    """Paths, http(s) addresses, bytes and open files as image files; everything else is returned unchanged.

    Raises:
        UserError: an open file yields no bytes, cannot be read, or has more than ``limits.IMAGE_BYTES``.
    """
    if is_address(source):
        return WebImage(source)
    if isinstance(source, str | os.PathLike):
        return Path(os.fspath(source))
    if isinstance(source, Bytes):
        return NamedBytes("image", bytes(source))
    if not callable(getattr(source, "read", None)):
        return source
    name = getattr(source, "name", None)
    name = name if isinstance(name, str) else "the open file"
    try:
        content = source.read(limits.IMAGE_BYTES + 1)
    except (OSError, ValueError) as error:  # ValueError: it is closed
        raise UserError(f"'{printable(name, 200)}' cannot be read: {printable(str(error), 120)}") from error
    if not isinstance(content, bytes):
        raise UserError(f"'{printable(name, 200)}' yields {type(content).__name__}; open it with mode 'rb'")
    check_limit(
        f"'{printable(name, 200)}' has too many bytes:", len(content), limits.IMAGE_BYTES, "is it the right file?"
    )
    return NamedBytes(name, content)


def is_one_image(sources: object) -> bool:
    """Whether something is one image and not several: a path would be iterated by its letters, an array by its rows."""
    if isinstance(sources, np.ndarray | torch.Tensor):
        return sources.ndim < 4
    if isinstance(sources, str | os.PathLike | bytes | bytearray | memoryview) or hasattr(sources, "read"):
        return True
    return not isinstance(sources, Iterable)


def unshared(source: ImageSource) -> ImageSource:
    """The same, or a copy where the caller could still write into the original."""
    if isinstance(source, np.ndarray):
        return source.copy()
    if isinstance(source, bytearray | memoryview):
        return bytes(source)
    return source.clone() if isinstance(source, torch.Tensor) else source


def standard_input() -> NamedBytes:
    """The image file from standard input.

    Raises:
        UserError: there is no input, or too much; or it is a terminal, which would wait for keys.
    """
    if sys.stdin is None or sys.stdin.isatty():
        raise UserError(
            "standard input is not available; pipe an image into it, for example with 'mask2former predict - < X'"
        )
    file = as_file(sys.stdin.buffer)
    return NamedBytes("stdin", file.content)


# --- sizes ------------------------------------------------------------------------------------------------------------


def image_size(file: ImageFile, *, exif: Exif = "apply") -> tuple[int, int]:
    """(height, width) of an image file as returned by :func:`read_image`, from its header.

    Raises:
        UserError: as :func:`open_image`.
    """
    with open_file(file) as image:
        width, height = image.size
        # Pillow gives the size of TIFF files already rotated, and that of others as stored.
        turned = orientation(image) >= 5 and (exif == "apply") != (image.format == "TIFF")
        return (width, height) if turned else (height, width)


def check_size(
    file: File, size_hw: Sequence[int], expected_hw: Sequence[int] | None, what: str, *, exif: Exif = "apply"
) -> None:
    """Refuse annotations whose size differs from that of their image, and note where sizes do not show if EXIF applies.

    Orientations 5 to 8 swap height and width, so sizes show what the annotations were made on; 2 to 4 do not.

    Args:
        file: the image.
        size_hw: its (height, width) as read.
        expected_hw: the size according to the annotations; None: they give none.
        what: subject and verb of the expected size, for instance ``its label map is``.
        exif: how the image is read.

    Raises:
        UserError: the sizes differ.
    """
    size, expected = tuple(size_hw), None if expected_hw is None else tuple(expected_hw)
    if expected is None or size == expected:
        settled = expected is not None and expected != expected[::-1]  # whether 5 to 8 would show
        if exif == "apply" and is_collecting() and 1 < (turn := _orientation_of(file)) < (5 if settled else 9):
            note(
                "images that EXIF mirrors or rotates, and whose size does not show whether their annotations are "
                "rotated, too (they are assumed to be; if they were made on the stored pixels, set exif=ignore in "
                "the data set)",
                f"'{file}' (orientation {turn})",
            )
        return
    if size != expected[::-1]:
        hint = "; use the images and annotations that belong together"
    elif (turn := _orientation_of(file)) < 5:
        hint = "; height and width are swapped there (the image has no EXIF orientation that would explain it)"
    elif exif == "apply":
        hint = (
            f"; EXIF rotates the image (orientation {turn}), but the annotations seem to be made on the stored "
            "pixels: if so, set exif=ignore in the data set"
        )
    else:
        hint = f"; EXIF would rotate the image (orientation {turn}), which exif=ignore prevents: set exif=apply"
    raise UserError(f"'{file}' is {size[0]}x{size[1]} (height x width), but {what} {expected[0]}x{expected[1]}{hint}")


def _orientation_of(file: File) -> int:
    with open_file(file) as image:
        return orientation(image)


# --- arrays and tensors ----------------------------------------------------------------------------------------------


def _from_tensor(
    tensor: torch.Tensor, value_range: ValueRange | None, bands: Bands | None
) -> UInt8[np.ndarray, "H W C"]:
    if tensor.ndim != 3 or (bands is None and tensor.shape[0] not in (1, 3)):
        raise UserError(f"a tensor of shape {tuple(tensor.shape)} is not an image: {_TENSOR_HELP}")
    if tensor.is_complex() or tensor.is_quantized or tensor.layout != torch.strided:
        raise UserError(f"a tensor of type {tensor.dtype}, {tensor.layout} is not an image: {_TENSOR_HELP}, dense")
    if tensor.is_meta:
        raise UserError(f"a tensor on the meta device has no values to read: {_TENSOR_HELP}, on a CPU or GPU")
    host = tensor.detach().cpu().resolve_neg()
    try:
        if host.is_floating_point() and host.dtype not in (torch.float16, torch.float32, torch.float64):
            host = host.float()  # numpy has no such type
        array = host.permute(1, 2, 0).numpy()
    except (TypeError, RuntimeError) as error:  # NotImplementedError is one of the latter
        raise UserError(
            f"a tensor of type {tensor.dtype} is not an image: {_TENSOR_HELP}, of type uint8, uint16, bool or float"
        ) from error
    if bands is not None:
        return bands_of_array(array, bands, "tensor (channels last)", value_range=value_range)
    return rgb_of_array(array, "tensor", _TENSOR_HELP, value_range=value_range)


# --- folders ---------------------------------------------------------------------------------------------------------


def list_images(
    sources: Sequence[str | os.PathLike[str]], skip: Callable[[Path], bool] = lambda path: False
) -> list[tuple[Path, Path]]:
    """Images from files and folders (searched at any depth, sorted), each with the stem of its results.

    The stem is relative to the output folder: it keeps the folders below a source folder and drops the suffix. Where
    two images would share a stem, each keeps its suffix (``a/X.jpg`` gives ``a/X.jpg``, so results are ``a/X.jpg.png``
    and so on). An image that is reached twice is listed once. A file given by name is read whatever its suffix; hidden
    files and folders are skipped, and so are image files for which ``skip`` is true. What else is skipped is noted:
    images in other formats, links to folders, links to an image that is already listed, folders that cannot be read.

    Raises:
        UserError: no sources, a source that does not exist, a folder without images, or two images whose results would
            have the same name.
    """
    found: dict[Path, tuple[Path, Path]] = {}  # by resolved path: as given, and relative with suffix
    if not sources:
        raise UserError("no images given; give files or folders")
    for entry in sources:
        source = Path(os.fspath(entry))
        if source.is_dir():
            with collect_notes() as notes:
                images = images_below(source)
            if not images:
                others = "".join(f"; {line}" for line in sentences(notes))
                raise UserError(f"the folder '{source}' contains no images ({' '.join(IMAGE_SUFFIXES)}){others}")
            for message, example in notes:
                note(message, example)
            for path in images:
                if skip(path):
                    continue
                first, _ = found.setdefault(path.resolve(), (path, path.relative_to(source)))
                if os.path.abspath(first) != os.path.abspath(path):
                    note("links to an image that is already listed, which get no results", f"'{path}' is '{first}'")
        else:
            check_regular(source, "image or folder of images")
            if not skip(source):
                found.setdefault(source.resolve(), (source, Path(source.name)))

    # Compared without case, since two names that differ only in case are the same file on some systems.
    sharing = Counter(str(relative.with_suffix("")).casefold() for _, relative in found.values())
    result: list[tuple[Path, Path]] = []
    owners: dict[str, Path] = {}
    for path, relative in found.values():
        stem = relative.with_suffix("")
        if sharing[str(stem).casefold()] > 1:
            stem = relative
        owner = owners.setdefault(str(stem).casefold(), path)
        if owner is not path:
            raise UserError(f"the results of '{owner}' and '{path}' would have the same name; run them separately")
        result.append((path, stem))
    return result


def images_below(folder: Path) -> list[Path]:
    """Images in a folder and its subfolders, sorted by path; hidden names are skipped.

    Of a slide in several DICOM files, the one with its full resolution.
    """
    images = []
    for parent, folders, leaves in walk_folder(folder, skip_unreadable=True):
        for name in folders:
            if os.path.islink(os.path.join(parent, name)):
                note("links to folders, which are not searched", f"'{os.path.join(parent, name)}'")
        for name in leaves:
            path = Path(parent, name)
            if name.startswith("."):
                continue
            if not is_image_name(name):
                _note_other_image(path, name)
            elif path.is_file():
                images.append(path)
            elif path.exists():
                note("pipes, devices and folders with image names", f"'{path}'")
            else:
                note("broken links", f"'{path}'")
    lesser = parts_of_slides([path for path in images if path.suffix.lower() in DICOM_SUFFIXES])
    for path in sorted(lesser):
        note(
            "files of DICOM slides with reduced resolutions, labels or overviews, skipped beside the file with the "
            "full resolution",
            f"'{path}'",
        )
    return sorted((path for path in images if path not in lesser), key=lambda path: path.relative_to(folder).parts)


def is_image_name(name: str) -> bool:
    """Whether a file in a folder is read as an image."""
    return name.lower().endswith(IMAGE_SUFFIXES)


def note_passed_over(folder: Folder, names: Iterable[str] | None = None) -> None:
    """Note files of other formats in the folder of a data set, by name, with the reason; None: all names below it."""
    for name in folder.names(("",)) if names is None else names:
        if not is_image_name(name):
            _note_other_image(folder / name, name)


def _note_other_image(file: File, name: str) -> None:
    suffix = PurePosixPath(name).suffix.lower()
    if (reason := why_left_out(name)) is not None:
        note(f"files of other formats, skipped: {suffix} ({reason})", f"'{file}'")
    elif (not suffix or suffix[1:].isdigit()) and isinstance(file, Path) and _is_image(file):  # DICOM: 1.2.840.113
        note("images without a suffix, skipped (give each of them by name to read it)", f"'{file}'")


def _is_image(path: Path) -> bool:
    if slide_size(path) is not None:
        return True
    try:
        with open_file(path):
            return True
    except UserError:
        return False
