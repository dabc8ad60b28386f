"""The only way to open an image file: only supported formats and permitted sizes, and one message for everything else.

Pillow knows some forty formats, and goes by the content of a file, whatever its name: a ``.png`` that is PostScript
would start Ghostscript. Does not import torch, so that the processes of ``mask2former prepare`` stay small.
"""

from __future__ import annotations

import contextlib
import functools
import io
import logging
import os
import re
import struct
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from PIL import Image, UnidentifiedImageError, features

from mask2former import limits
from mask2former.documents import check_regular, read_bytes
from mask2former.errors import UserError
from mask2former.extras import is_installed, need
from mask2former.limits import check_limit
from mask2former.media.archives import File
from mask2former.media.dicom_files import DICOM_SUFFIXES, can_read_dicom, is_dicom, open_dicom
from mask2former.media.dicom_files import EXTRA as DICOM_EXTRA
from mask2former.media.png_files import is_deep_png, stored_png
from mask2former.media.tiff_files import EXTRA as TIFF_EXTRA
from mask2former.media.tiff_files import PACKAGES as TIFF_PACKAGES
from mask2former.media.tiff_files import can_read_tiff, is_for_tifffile, num_large_pages, open_tiff
from mask2former.media.web_images import WebImage
from mask2former.pixels import CHOSEN_PAGE, Bands, StoredImage, count_pages, no_page, without_warnings
from mask2former.text import printable

__all__ = [
    "FORMATS",
    "IMAGE_SUFFIXES",
    "ImageFile",
    "ImagePage",
    "NamedBytes",
    "OpenFile",
    "PixelLimitError",
    "all_pages",
    "check_utf8",
    "frame_seconds",
    "in_memory",
    "num_pages",
    "open_file",
    "open_image",
    "open_stream",
    "path_of",
    "pixel_limit",
    "why_left_out",
]

# Formats of photographs, microscopes and annotation tools whose decoders run no programs and read no other files.
_ALWAYS = ("JPEG", "PNG", "BMP", "DIB", "GIF", "PPM", "TIFF", "WEBP", "JPEG2000", "SGI")  # JPEG includes MPO
FORMATS = (*_ALWAYS, *(("AVIF",) if features.check("avif") else ()))
_ANIMATED = ("GIF", "PNG", "WEBP", "AVIF")  # formats of Pillow whose frames have times
_HEIC = ("HEIC", "HEIX", "HEIM", "HEIS", "HEVC", "HEVX", "MIF1", "MSF1")  # brands
_HEIC_EXTRA = "heic"
_VIDEOS = ("ISO", "AVC1", "MP4", "M4V", "QT", "3GP", "DASH")  # brands, or what they begin with
_MATROSKA = b"\x1aE\xdf\xa3"


IMAGE_SUFFIXES = (
    *(".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff"),
    *((".avif",) if "AVIF" in FORMATS else ()),
    *((".heic", ".heif") if is_installed("pillow_heif") else ()),
    *(DICOM_SUFFIXES if can_read_dicom() else ()),
)
"""Suffixes of images in folders; those of optional packages where they are installed."""

_WHEN_NAMED = "read only when the file itself is named"
_LEFT_OUT = {  # why images of other kinds are left out of folders, by suffix
    "avif": "which need a Pillow with AVIF",
    "heic heif": f"which need: pip install 'mask2former[{_HEIC_EXTRA}]'",
    "dcm": f"which need: pip install 'mask2former[{DICOM_EXTRA}]'",
    "apng btf dib gif j2k jfif jp2 jpe lsm pbm pgm pnm ppm stk": _WHEN_NAMED,
    "bif mrxs ndpi scn svs svslide vms vmu": "slides: name them one by one, and use a model with tiles or set tile",
    "vsi": "slides: export regions of them as TIFF",
    "czi ims lif nd2 oib oif": "microscope formats: export them as TIFF",
    "arw cr2 cr3 dng nef": "camera raw files: develop them to TIFF or JPEG",
    "exr fits hdr ico jxl pcx psd tga": "not supported: convert them to PNG or TIFF",
    "avi m4v mkv mov mp4 webm": "videos: mask2former track reads them",
}


def why_left_out(name: str) -> str | None:
    """Why an image or video with this name is left out of a folder; None: it is neither, or is not left out."""
    ending = name.lower().rpartition(".")[2] if "." in name else ""
    if f".{ending}" in IMAGE_SUFFIXES:
        return None
    return next((reason for endings, reason in _LEFT_OUT.items() if ending in endings.split()), None)


_TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")


logging.getLogger("PIL").addHandler(logging.NullHandler())  # problems are reported in errors


class PixelLimitError(UserError):
    """An image has more pixels than Pillow's safety limit."""


@dataclass(frozen=True, slots=True, repr=False)
class NamedBytes:
    """The content of an image file that is in memory already, such as an upload.

    Attributes:
        name: what messages call it; chosen by the sender, so made safe to display.
        content: the bytes of the file.
    """

    name: str
    content: bytes

    def __str__(self) -> str:
        return printable(self.name, 200)

    @property
    def num_bytes(self) -> int:
        return len(self.content)

    def read_bytes(self) -> bytes:
        return self.content


class OpenFile:
    """The file, of those whose pages share this object, that was read last: it stays open.

    Pillow finds a frame only through all those before it, though pages of a TIFF also through those read before. One
    thread at a time may use it, as :func:`without_warnings` ensures. A forked process opens its own: an inherited one
    shares its position with the parent, and each would read what the other sought.
    """

    def __init__(self) -> None:
        self._owner: tuple[int, object] | None = None  # process, file
        self._image: Image.Image | None = None

    @contextlib.contextmanager
    def at(self, file: object, content: Path | io.BytesIO, page: int) -> Iterator[Image.Image]:
        """The image with the page not decoded yet, to be moved there; after damage, the file is opened anew."""
        image, self._image = self._image, None
        process, opened = self._owner or (None, None)
        self._owner = os.getpid(), file
        if image is not None and not (process == os.getpid() and opened is file and _goes_on(image, page)):
            image.close()
            image = None
        image = image or _of_pillow(content)
        try:
            yield image
        except BaseException:
            image.close()
            raise
        self._image = image

    def __del__(self) -> None:
        if self._image is not None:
            self._image.close()

    def __reduce__(self) -> tuple[type[OpenFile], tuple[()]]:
        return OpenFile, ()  # in another process or a copy, the file is opened again


@dataclass(frozen=True, slots=True)
class ImagePage:
    """One page, frame or plane of an image file.

    Attributes:
        file: the whole file.
        number: of the page, from 1.
    """

    file: File | NamedBytes | WebImage
    number: int
    _open: OpenFile | None = field(default=None, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not 1 <= self.number <= limits.IMAGE_PAGES:
            raise UserError(f"page numbers go from 1 to {limits.IMAGE_PAGES}, got {self.number}")

    def __str__(self) -> str:
        return f"{self.file} (page {self.number})"

    @property
    def name(self) -> str:
        return self.file.name


ImageFile = File | NamedBytes | WebImage | ImagePage
_Open = Callable[[Path | io.BytesIO], contextlib.AbstractContextManager[Image.Image]]


def all_pages(file: File | NamedBytes | WebImage, count: int, shared: OpenFile | None = None) -> list[ImagePage]:
    """The first ``count`` pages of a file. Reading them in their order takes time linear in their number.

    Of the files with the same ``shared``, at most one stays open.
    """
    shared = shared or OpenFile()
    return [ImagePage(file, number, shared) for number in range(1, count + 1)]


def path_of(file: ImageFile) -> Path | None:
    """The path of an image file, or of a page's file; None: it is not a file on this machine, or is in an archive."""
    if isinstance(file, ImagePage):
        return path_of(file.file)
    return file if isinstance(file, Path) else None


def in_memory(file: ImageFile) -> ImageFile:
    """The same; the content behind an address is fetched, so that it can be read several times."""
    if isinstance(file, ImagePage):
        inner = in_memory(file.file)
        assert not isinstance(inner, ImagePage)
        return file if inner is file.file else ImagePage(inner, file.number)
    return NamedBytes(str(file), file.read_bytes()) if isinstance(file, WebImage) else file


@contextlib.contextmanager
def open_stream(file: ImageFile) -> Iterator[BinaryIO]:
    """The bytes of an image file, whatever is in them.

    Raises:
        UserError: the file cannot be read, or is not on a disk and has more than ``limits.IMAGE_BYTES``.
    """
    if isinstance(file, ImagePage):
        file = file.file
    if not isinstance(file, Path):
        yield io.BytesIO(read_bytes(file, "image", limits.IMAGE_BYTES))
        return
    check_regular(file, "image")
    try:
        stream = file.open("rb")
    except OSError as error:
        raise UserError(f"the image '{file}' cannot be read: {error.strerror}") from error
    with stream:
        yield stream


def check_utf8(name: str) -> None:
    """Refuse the name of an image that is not text, which tables, XML, Parquet and other machines cannot represent.

    Raises:
        UserError: the name of the file, or of a folder, has bytes that are not UTF-8.
    """
    try:
        name.encode()
    except UnicodeEncodeError as error:
        shown = printable(name.encode("utf-8", "backslashreplace").decode())
        raise UserError(f"the name of the image '{shown}' is not in UTF-8; rename the file or its folder") from error


@contextlib.contextmanager
def open_image(file: ImageFile) -> Iterator[Image.Image]:
    """An image file that Pillow reads, not decoded yet; any fault while it is open ends in one message.

    Raises:
        UserError: the file is missing, not a regular file, empty, incomplete, in an unsupported format, larger than
            Pillow's safety limit (:class:`PixelLimitError`) or than the limits of :mod:`mask2former.limits`.
    """
    with _opened(file, pillow_alone=True) as image:
        assert isinstance(image, Image.Image)
        yield image


@contextlib.contextmanager
def open_file(file: ImageFile, bands: Bands | None = None) -> Iterator[Image.Image | StoredImage]:
    """Like :func:`open_image`, also with the readers of optional packages.

    Args:
        file: the image.
        bands: the bands to read, so that a reader is chosen that provides all of them.

    Raises:
        UserError: see :func:`open_image`; or the package that reads it is not installed.
    """
    with _opened(file, pillow_alone=False, bands=bands) as image:
        yield image


def num_pages(file: ImageFile) -> int:
    """The number of pages, frames or planes of a file, counted up to ``limits.IMAGE_PAGES``; 1 for a single page.

    Raises:
        UserError: see :func:`open_file`.
    """
    if isinstance(file, ImagePage):
        return 1
    try:
        with open_file(file) as image:
            return image.num_pages() if isinstance(image, StoredImage) else count_pages(image)
    except UserError:  # pages that are too large can still be read in parts
        content = file if isinstance(file, Path) else io.BytesIO(read_bytes(file, "image", limits.IMAGE_BYTES))
        if _start_of(content, 4) in _TIFF and can_read_tiff():
            with contextlib.suppress(Exception), without_warnings():
                return num_large_pages(content)
        raise


def frame_seconds(file: ImageFile, count: int) -> list[float]:
    """How long each of the first ``count`` frames of an animation is shown, in seconds; empty if the file does not say.

    Raises:
        UserError: see :func:`open_image`.
    """
    with open_file(file) as image:
        if isinstance(image, StoredImage) or image.format not in _ANIMATED:
            return []
        shown: list[float] = []
        with contextlib.suppress(Exception):  # reading the frames reports damage
            for number in range(count):
                image.seek(number)
                image.load()  # WebP and AVIF give the time with the pixels
                shown.append(float(image.info.get("duration") or 0) / 1000)
    return shown + shown[-1:] * (count - len(shown)) if any(shown) else []


@contextlib.contextmanager
def _opened(file: ImageFile, *, pillow_alone: bool, bands: Bands | None = None) -> Iterator[Image.Image | StoredImage]:
    page = None
    of_pillow = _of_pillow
    if isinstance(file, ImagePage):
        file, page, shared = file.file, file.number - 1, file._open
        if shared is not None:
            of_pillow = functools.partial(shared.at, file, page=page)
    if isinstance(file, Path):
        size = check_regular(file, "image")
        check_limit(f"the image '{file}' has too many bytes:", size, limits.IMAGE_BYTES, "is it the right file?")
        content = file
    else:
        stored = read_bytes(file, "image", limits.IMAGE_BYTES)
        size, content = len(stored), io.BytesIO(stored)
    if not size:
        raise UserError(f"'{file}' is an empty file; expected an image")
    _check_png(str(file), _start_of(content), size)
    _check_pnm(str(file), _start_of(content, limits.PNM_HEADER_BYTES))
    try:
        with without_warnings():  # problems are checked here; damaged metadata is no problem
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with contextlib.ExitStack() as stack:
                image = None if pillow_alone else _of_other_reader(stack, content, str(file), page, bands, of_pillow)
                if image is None:
                    image = stack.enter_context(of_pillow(content))
                    if page is not None:
                        _seek(image, page, str(file))
                check_limit(
                    f"'{file}' has a side with too many pixels:",
                    max(image.size),
                    limits.IMAGE_SIDE,
                    "cut it into parts",
                )
                yield image
    except (UserError, ImportError):  # the second: the package that reads it cannot be loaded
        raise
    except UnidentifiedImageError as error:
        raise UserError(f"'{file}' is not an image that can be read; {_expected(content)}") from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise PixelLimitError(
            f"'{file}' has more than {Image.MAX_IMAGE_PIXELS} pixels, the safety limit; make it smaller, or raise "
            "the limit if you trust it: --max-megapixels of predict, track and evaluate, in Python "
            "PIL.Image.MAX_IMAGE_PIXELS; a TIFF can be predicted in tiles: set tile"
        ) from error
    except PermissionError as error:
        raise UserError(f"'{file}' cannot be read for lack of permission; check its permissions") from error
    except MemoryError as error:
        raise UserError(f"'{file}' does not fit into the memory of this machine; make it smaller") from error
    # Decoders report damage in many ways: OSError (incomplete), SyntaxError (PNG), ValueError, struct.error, ...
    except Exception as error:
        reason = printable(str(error), 200)
        raise UserError(f"'{file}' is damaged or cut short and cannot be decoded: {reason}") from error


def _of_pillow(content: Path | io.BytesIO) -> Image.Image:
    formats = (*FORMATS, "HEIF") if _brand(_start_of(content)) in _HEIC and _knows_heic() else FORMATS
    return Image.open(content, formats=formats)


def _goes_on(image: Image.Image, page: int) -> bool:
    """Whether a page can be found from the current one, as if the file had just been opened; a TIFF is moved there."""
    if image.format != "TIFF":  # decoding may have changed what Pillow knows of the current frame
        return image.tell() < page
    try:
        if image.tell() == page:  # otherwise nothing would be read again
            image.seek(0 if page else 1)
        image.info = {}  # of another page
        image.seek(page)
    except Exception:  # reported when the file has been opened anew
        return False
    return True


def can_read_heic() -> bool:
    """Whether the package is installed."""
    return is_installed("pillow_heif")


@contextlib.contextmanager
def pixel_limit(most: int | None) -> Iterator[None]:
    """Inside, images may have this number of pixels; None: any number.

    Pillow has one limit for a process, ``PIL.Image.MAX_IMAGE_PIXELS``, which counts for all readers here.
    """
    before = Image.MAX_IMAGE_PIXELS
    Image.MAX_IMAGE_PIXELS = most
    try:
        yield
    finally:
        Image.MAX_IMAGE_PIXELS = before


@functools.cache
def _knows_heic() -> bool:
    """Register HEIC with Pillow, if the package is installed."""
    if not can_read_heic():
        return False
    import pillow_heif

    pillow_heif.register_heif_opener()
    return True


def _brand(start: bytes) -> str:
    """The kind of HEIC, AVIF and MP4 files, which begin alike; empty for all others."""
    return printable(start[8:12].decode("latin-1").strip().upper()) if start[4:8] == b"ftyp" else ""


def _of_other_reader(
    stack: contextlib.ExitStack,
    content: Path | io.BytesIO,
    name: str,
    page: int | None,
    bands: Bands | None,
    of_pillow: _Open,
) -> Image.Image | StoredImage | None:
    """The image read by an optional package, or a TIFF that needs none; None where only Pillow can read it."""
    if is_deep_png(_start_of(content, 26)) and not page:
        return stored_png(stack.enter_context(_of_pillow(content)), content, name, page)
    if is_dicom(_start_of(content, 132)):
        return stack.enter_context(open_dicom(content, name, page))
    if _start_of(content, 4) in _TIFF and can_read_tiff():
        image = _tiff_of_pillow(stack, content, page, bands, of_pillow)
        return stack.enter_context(open_tiff(content, name, page)) if image is None else image
    return None


def _tiff_of_pillow(
    stack: contextlib.ExitStack,
    content: Path | io.BytesIO,
    page: int | None,
    bands: Bands | None,
    of_pillow: _Open,
) -> Image.Image | None:
    """A page of a TIFF, if Pillow reads it completely, or all requested bands, unchanged."""
    with contextlib.ExitStack() as opened:
        try:
            image = opened.enter_context(of_pillow(content))
            if page is not None:
                _choose(image, page)
            if is_for_tifffile(image, bands):
                return None
        except (Image.DecompressionBombError, Image.DecompressionBombWarning):
            raise
        except Exception:  # of any kind: tifffile reports the damage
            return None
        stack.enter_context(opened.pop_all())
        return image


def _choose(image: Image.Image, page: int) -> None:
    image.seek(page)
    image.info[CHOSEN_PAGE] = page


def _seek(image: Image.Image, page: int, name: str) -> None:
    try:
        _choose(image, page)
    except EOFError as error:
        count = count_pages(image)
        if page < count:  # of planes after a page
            need(TIFF_EXTRA, *TIFF_PACKAGES, to="read this page")
        raise UserError(no_page(name, page, count, len(image.getbands()))) from error


def _start_of(content: Path | io.BytesIO, count: int = 24) -> bytes:
    """The first bytes of a file; none for one that cannot be read, which opening reports better."""
    if isinstance(content, io.BytesIO):
        return content.getvalue()[:count]
    try:
        with content.open("rb") as stream:
            return stream.read(count)
    except OSError:
        return b""


def _check_png(name: str, start: bytes, size: int) -> None:
    """Refuse a PNG with millions of chunks that are not pixels: reading them takes minutes, and no tool writes such."""
    if start.startswith(b"\x89PNG\r\n\x1a\n") and len(start) == 24:
        width, height = struct.unpack(">II", start[16:24])
        most = limits.PNG_EXTRA_BYTES + 16 * width * height
        check_limit(
            f"'{name}', of {width}x{height} pixels (width x height), has too many bytes:", size, most, "save it again"
        )


def _check_pnm(name: str, start: bytes) -> None:
    """Refuse a PPM, PGM or PBM with endless comments, which Pillow reads byte by byte."""
    if re.match(rb"P[1-7fFyY][\s#]", start) and len(start) == limits.PNM_HEADER_BYTES:
        numbers = re.sub(rb"#[^\n\r]*", b"", start[2:]).split(None, 2)
        if len(numbers) < (2 if start[1:2] in b"14" else 3):  # bitmaps do not give a number of levels
            raise UserError(f"'{name}' has comments of more than {len(start):,} bytes; save it without them")


def _expected(content: Path | io.BytesIO) -> str:
    """Advice for a file that is not opened, by its first bytes."""
    start = _start_of(content)
    if start[:4] in _TIFF:
        help = "" if can_read_tiff() else f", or pip install 'mask2former[{TIFF_EXTRA}]', which supports more"
        kind = "it is a TIFF of an unusual kind (bands, bits or compression)"
        return f"{kind}; save it as 8-bit or 16-bit grey, or RGB{help}"
    if start.startswith(_MATROSKA) or start[8:12] == b"AVI " or _brand(start).startswith(_VIDEOS):
        return "it is a video, which mask2former track reads (in Python Predictor.track)"
    if kind := _brand(start):
        help = f", or pip install 'mask2former[{_HEIC_EXTRA}]'" if kind in _HEIC and not can_read_heic() else ""
        return f"it is {kind}, whatever its name suggests; convert it to JPEG or PNG{help}"
    if start.startswith((b"%!PS", b"\xc5\xd0\xd3\xc6", b"%PDF")):
        return "it is PostScript or PDF, which are programs and therefore not read; convert it to PNG"
    return "expected JPEG, PNG, WebP, BMP or TIFF"
