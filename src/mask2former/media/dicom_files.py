"""DICOM files, read with pydicom: rescaled values with the window given in the file; frames are pages.

Sizes are checked in the header before pixels are decoded.
"""

from __future__ import annotations

import contextlib
import functools
import io
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple

import numpy as np
from PIL import Image

from mask2former import limits
from mask2former.errors import UserError
from mask2former.extras import is_installed, need
from mask2former.limits import check_limit
from mask2former.notes import note
from mask2former.pixels import FIRST_PAGE, OTHER_PAGES, Bands, Stored, StoredImage

if TYPE_CHECKING:
    from pydicom import Dataset

__all__ = [
    "DICOM_SUFFIXES",
    "EXTRA",
    "can_read_dicom",
    "dicom_pixel_size",
    "is_dicom",
    "open_dicom",
    "parts_of_slides",
    "slide_size",
]

EXTRA = "dicom"
"""The optional dependencies that this module needs."""
DICOM_SUFFIXES = (".dcm",)

_DEFLATED = b"1.2.840.10008.1.2.1.99\0"[:22]  # the whole file is compressed, which only unpacking bounds
_SLIDES = "1.2.840.10008.5.1.4.1.1.77.1.6"  # class of whole-slide images
# The last tag needed to identify a slide; after it, before the pixels, come the tags of each frame.
_TOTAL_ROWS = 0x00480007
_SHARED_GROUPS = 0x52009229  # what all frames have in common; that of each frame follows
_GREY, _COLOR = ("MONOCHROME1", "MONOCHROME2"), ("RGB", "PALETTE COLOR")


def can_read_dicom() -> bool:
    """Whether the package is installed."""
    return is_installed("pydicom")


def is_dicom(start: bytes) -> bool:
    """Whether a file with these first 132 bytes is DICOM."""
    return start[128:132] == b"DICM"


@contextlib.contextmanager
def open_dicom(content: Path | io.BytesIO, name: str, page: int | None = None) -> Iterator[StoredImage]:
    """A frame of a DICOM file, not decoded yet.

    Args:
        content: of the file.
        name: of the file, for messages.
        page: the frame, counted from 0; None: the first, and a note if there are more.

    Raises:
        UserError: it has no pixels, lacks the frame, has unsupported pixels, or more than :mod:`mask2former.limits` or
            Pillow allow.
        MissingExtraError: without pydicom.
        Exception: whatever pydicom raises for damaged files.
    """
    need(EXTRA, "pydicom", to="read DICOM files")
    from pydicom import dcmread

    with contextlib.ExitStack() as stack:
        stream = stack.enter_context(content.open("rb")) if isinstance(content, Path) else content
        stream.seek(0)
        if _DEFLATED in stream.read(1 << 12):
            raise UserError(f"'{name}' is a DICOM file that is compressed as a whole; save it without this compression")
        stream.seek(0)
        header = dcmread(stream, stop_before_pixels=True)
        frames = _check(header, name)
        if page is None and (slide := _slide_of(header)) is not None and slide.is_tiled:
            height, width = slide.size_hw
            raise UserError(
                f"'{name}' is a whole slide of {width}x{height} pixels (width x height), whose frames are tiles of "
                f"{header.Columns}x{header.Rows}; predict can read it in parts from a disk if tile is set; otherwise "
                "choose a frame with page"
            )
        if (page or 0) >= frames:
            raise UserError(f"'{name}' has no page {(page or 0) + 1}; it has {frames}")
        yield StoredImage(
            (int(header.Columns), int(header.Rows)),
            1,
            lambda: min(frames, limits.IMAGE_PAGES),
            functools.partial(_read, stream, header, frames, page, name),
        )


def slide_size(path: Path) -> tuple[int, int] | None:
    """Height and width of the slide whose tiles are in a DICOM file, whatever its name.

    None: it contains something else or cannot be read.
    """
    slide = _slide_in(path)
    return slide.size_hw if slide is not None and slide.is_tiled else None


def parts_of_slides(paths: Sequence[Path]) -> set[Path]:
    """Files that contain less of a slide than another file beside them: reduced resolutions, labels, overviews."""
    slides: dict[tuple[Path, str], dict[Path, _Slide]] = {}
    for path in paths:
        if (slide := _slide_in(path)) is not None:
            slides.setdefault((path.parent, slide.series), {})[path] = slide
    lesser = set[Path]()
    for files in slides.values():
        most = max((math.prod(slide.size_hw) for slide in files.values() if slide.is_tiled), default=0)
        lesser |= {path for path, slide in files.items() if most and slide.volume < most}
    return lesser


def dicom_pixel_size(stream: BinaryIO, page: int | None = None) -> tuple[float, float] | None:
    """Height and width of a pixel in micrometres; None: the file states none, or cannot be read.

    From ``PixelSpacing``, or ``ImagerPixelSpacing``, which is measured at the detector of a projection.

    Args:
        stream: the content of a file that :func:`is_dicom`.
        page: the frame, counted from 0; None: the first.
    """
    with contextlib.suppress(Exception):  # pydicom has no common exception; the reader of the file reports the fault
        from pydicom import dcmread
        from pydicom.filereader import read_partial

        stream.seek(0)
        header = read_partial(stream, stop_when=lambda tag, *_: tag > _SHARED_GROUPS)
        if (found := _spacing(header, page or 0)) is None and header.get("NumberOfFrames"):
            stream.seek(0)
            found = _spacing(dcmread(stream, stop_before_pixels=True), page or 0)
        return found
    return None


def _spacing(header: Dataset, frame: int) -> tuple[float, float] | None:
    stated = _of_frame(header, "PixelMeasuresSequence", frame).get("PixelSpacing") or header.get("ImagerPixelSpacing")
    if not stated or len(stated) != 2:
        return None
    between_rows, between_columns = (1000 * float(distance) for distance in stated)  # from millimetres
    return between_rows, between_columns


class _Slide(NamedTuple):
    """What a DICOM file states about its part in a slide.

    Attributes:
        series: equal for all files of the slide.
        size_hw: height and width of the slide at the resolution of the file.
        is_volume: it shows what was scanned, not a label or overview.
        is_tiled: its frames are tiles; labels, overviews and slides in a single frame are images.
    """

    series: str
    size_hw: tuple[int, int]
    is_volume: bool
    is_tiled: bool

    @property
    def volume(self) -> int:
        """Pixels that show what was scanned."""
        return math.prod(self.size_hw) if self.is_volume else 0


def _slide_in(path: Path) -> _Slide | None:
    """What to know about a slide before its pixels; None: not a slide, or a file that cannot be read."""
    try:
        if not (path.is_file() and can_read_dicom()):
            return None
        with path.open("rb") as stream:
            start = stream.read(1 << 12)
            if not is_dicom(start) or _SLIDES.encode() not in start or _DEFLATED in start:
                return None
            from pydicom.filereader import read_partial

            stream.seek(0)
            return _slide_of(read_partial(stream, stop_when=lambda tag, *_: tag > _TOTAL_ROWS))
    except Exception:  # pydicom has no common exception; the reader of the file reports the fault
        return None


def _slide_of(header: Dataset) -> _Slide | None:
    size = int(header.get("TotalPixelMatrixRows") or 0), int(header.get("TotalPixelMatrixColumns") or 0)
    if header.get("SOPClassUID") != _SLIDES or not all(size):
        return None
    is_volume = "VOLUME" in (header.get("ImageType") or ())
    is_tiled = is_volume and size != (header.get("Rows"), header.get("Columns"))
    return _Slide(str(header.get("SeriesInstanceUID")), size, is_volume, is_tiled)


def _check(header: Dataset, name: str) -> int:
    """The number of frames; refuses what is not supported, or would take too much."""
    if not header.get("Rows") or not header.get("Columns") or "BitsAllocated" not in header:
        raise UserError(f"'{name}' is a DICOM file without an image (a report, a plan or a directory); name an image")
    height, width, samples = int(header.Rows), int(header.Columns), int(header.get("SamplesPerPixel", 1))
    kind = str(header.get("PhotometricInterpretation", "MONOCHROME2"))
    if samples not in (1, 3) or not (kind in _GREY + _COLOR or kind.startswith("YBR_")):
        raise UserError(
            f"'{name}' is a DICOM file with {samples} samples per pixel ({kind}), which is not supported; save it as "
            "RGB"
        )
    if Image.MAX_IMAGE_PIXELS and height * width > Image.MAX_IMAGE_PIXELS:
        raise Image.DecompressionBombError  # the same message as for Pillow's own files
    size = height * width * samples * int(header.BitsAllocated) // 8
    check_limit(f"'{name}' has too many bytes in a frame:", size, limits.IMAGE_BYTES, "cut it into parts")
    return max(1, int(header.get("NumberOfFrames") or 1))


def _read(stream: Any, header: Dataset, frames: int, page: int | None, name: str, bands: Bands | None) -> Stored:
    from pydicom import pixels

    if page is None and frames > 1:
        note(f"images {FIRST_PAGE}{OTHER_PAGES}", f"'{name}' ({frames})")
    frame, kind = page or 0, str(header.get("PhotometricInterpretation", "MONOCHROME2"))
    stream.seek(0)
    try:
        values = pixels.pixel_array(stream, index=frame)
    except (RuntimeError, NotImplementedError) as error:  # whose text lists packages and plugins
        syntax = getattr(header.file_meta.get("TransferSyntaxUID"), "name", "unknown")
        raise UserError(
            f"'{name}' has pixels in a compression that cannot be read here ({syntax}): pip install pylibjpeg "
            "pylibjpeg-libjpeg pylibjpeg-openjpeg, or save it uncompressed"
        ) from error
    if kind == "PALETTE COLOR":
        return Stored(pixels.apply_color_lut(values, header))
    if kind not in _GREY:
        return Stored(values)
    padding = header.get("PixelPaddingValue")
    missing = None
    if padding is not None:
        limit = header.get("PixelPaddingRangeLimit")  # the other end of a range; may be there and empty
        low, high = sorted((int(padding), int(padding if limit is None else limit)))
        missing = (values >= low) & (values <= high)
    shown, ends = _rescaled(values, header, frame)
    window = _window(header, frame, name)
    return Stored(shown, white_is_0=kind == "MONOCHROME1", missing=missing, value_range=window or ends, full=ends)


def _of_frame(header: Dataset, group: str, frame: int) -> Dataset:
    """Where the values of a group are: with the frame, with all frames, or (in most files) in the file itself."""
    for sequence, index in (("PerFrameFunctionalGroupsSequence", frame), ("SharedFunctionalGroupsSequence", 0)):
        items = header.get(sequence) or ()
        if index < len(items) and (inner := items[index].get(group)):
            return inner[0]
    return header


def _rescaled(values: np.ndarray, header: Dataset, frame: int) -> tuple[np.ndarray, tuple[float, float]]:
    """The values in their unit, for instance Hounsfield units, and the smallest and largest possible value."""
    from pydicom import pixels

    bits, is_signed = int(header.get("BitsStored", header.BitsAllocated)), int(header.get("PixelRepresentation", 0))
    low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if is_signed else (0, 2**bits - 1)
    if header.get("ModalityLUTSequence"):
        table = pixels.apply_modality_lut(values, header)
        return table, (float(table.min()), max(float(table.max()), float(table.min()) + 1))
    place = _of_frame(header, "PixelValueTransformationSequence", frame)
    slope, intercept = float(place.get("RescaleSlope") or 1), float(place.get("RescaleIntercept") or 0)
    if (slope, intercept) == (1, 0):
        return values, (low, high)
    ends = sorted((low * slope + intercept, high * slope + intercept))
    return values * slope + intercept, (ends[0], ends[1])


def _window(header: Dataset, frame: int, name: str) -> tuple[float, float] | None:
    """The first window, as in DICOM part 3, C.11.2.1.2: the values that become black and white."""
    place = _of_frame(header, "FrameVOILUTSequence", frame)
    center, width = (_first(place.get(key)) for key in ("WindowCenter", "WindowWidth"))
    function = str(place.get("VOILUTFunction") or "LINEAR")
    if place.get("VOILUTSequence") or function == "SIGMOID":
        note("DICOM files with a display table or curve, which is not applied", f"'{name}'")
    if center is None or width is None or width <= 1 - (function == "LINEAR_EXACT"):
        return None
    note(
        "DICOM images shown through the window in their file, which clips values (value_range sets another range)",
        f"'{name}' (centre {center:g}, width {width:g})",
    )
    if function == "LINEAR_EXACT":
        return center - width / 2, center + width / 2
    return center - 0.5 - (width - 1) / 2, center - 0.5 + (width - 1) / 2


def _first(value: Any) -> float | None:
    if value is None or value == "":
        return None
    return float(value if isinstance(value, str | int | float) else value[0])
