"""Pictures of any kind, read as (H, W, 3) uint8 RGB, and the pictures that paths and folders hold.

Every fault of a picture ends in one :class:`RequestError` that names it. Knows nothing of models or resizing.
"""

from __future__ import annotations

import contextlib
import io
import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from mask2former.data.archives import ArchivedFile, File
from mask2former.errors import RequestError

__all__ = ["IMAGE_SUFFIXES", "ImageSource", "list_images", "open_picture", "picture_size", "read_image"]

ImageSource = str | os.PathLike[str] | ArchivedFile | Image.Image | np.ndarray | torch.Tensor

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff")

_ARRAY_HELP = "expected (H, W), (H, W, 1), (H, W, 3) or (H, W, 4)"
_TENSOR_HELP = "expected (3, H, W) or (1, H, W)"


def read_image(source: ImageSource) -> UInt8[np.ndarray, "H W 3"]:
    """The picture as RGB in 0..255, upright and contiguous.

    Files and Pillow pictures: the EXIF orientation is applied; of an animation the first frame is taken; grey,
    palette, 1-bit and CMYK are converted. Transparent pixels are blended onto white; a picture whose alpha is opaque
    everywhere is simply read as RGB. 16-bit grey is scaled by its full range (65535 becomes 255).

    Arrays (channels last) and tensors (channels first): uint8 as it is; uint16 scaled by its full range; floats are
    0..1 if no value is greater than 1, else 0..255; a fourth channel is alpha; one channel is grey. The order of the
    channels is RGB. Values are rounded to the nearest.

    Raises:
        RequestError: the file is missing, a folder, empty, cut short, larger than Pillow's safety limit or no
            picture; the array has another rank, channel count or type, no pixel, or values that are not finite or
            out of range.
    """
    if isinstance(source, torch.Tensor):
        return _from_tensor(source)
    if isinstance(source, np.ndarray):
        return _from_array(source, "array", _ARRAY_HELP)
    if isinstance(source, Image.Image):
        return _from_pillow(source, getattr(source, "filename", "") or "picture")
    if isinstance(source, (str, os.PathLike)):
        source = Path(os.fspath(source))
    if isinstance(source, File):
        with open_picture(source) as picture:
            return _from_pillow(picture, str(source))
    raise RequestError(
        f"cannot read a picture from {type(source).__name__}: expected a path, a Pillow picture, an array or a tensor"
    )


# --- files and Pillow ------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def open_picture(file: File) -> Iterator[Image.Image]:
    """A picture file, not decoded yet; whatever is wrong with it while it is open becomes one sentence.

    Raises:
        RequestError: the file is missing, a folder, empty, cut short, larger than Pillow's safety limit or no picture.
    """
    content = file if isinstance(file, Path) else io.BytesIO(file.read_bytes())
    try:
        size = content.stat().st_size if isinstance(content, Path) else content.getbuffer().nbytes
    except (OSError, ValueError) as error:  # ValueError: a zero byte in the name
        raise RequestError(f"there is no picture '{file}'; check the path") from error
    if isinstance(content, Path) and content.is_dir():
        raise RequestError(f"'{file}' is a folder; expected the file of one picture")
    if not size:
        raise RequestError(f"'{file}' is an empty file; expected a picture")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what matters is checked here; damaged metadata does not
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(content) as picture:
                yield picture
    except RequestError:
        raise
    except UnidentifiedImageError as error:
        raise RequestError(
            f"'{file}' is not a picture that can be read; expected JPEG, PNG, WebP, BMP or TIFF"
        ) from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise RequestError(_too_large(str(file))) from error
    except PermissionError as error:
        raise RequestError(f"'{file}' may not be read; check its permissions") from error
    # Decoders report damage in many ways: OSError (cut short), SyntaxError (PNG), ValueError, struct.error, ...
    except Exception as error:
        raise RequestError(f"'{file}' is damaged or cut short and cannot be decoded: {error}") from error


def picture_size(file: File) -> tuple[int, int]:
    """(height, width) of a picture file as :func:`read_image` shows it, from its header.

    Raises:
        RequestError: as :func:`open_picture`.
    """
    with open_picture(file) as picture:
        width, height = picture.size
        try:
            turned = picture.getexif().get(ExifTags.Base.Orientation) in (5, 6, 7, 8)
        except Exception:  # a broken metadata block says nothing about the pixels
            turned = False
    return (width, height) if turned else (height, width)


def _too_large(name: str) -> str:
    return (
        f"'{name}' has more than {Image.MAX_IMAGE_PIXELS} pixels, the safety limit; make it smaller, or raise "
        "PIL.Image.MAX_IMAGE_PIXELS if you trust it"
    )


def _from_pillow(picture: Image.Image, name: str) -> UInt8[np.ndarray, "H W 3"]:
    if min(picture.size) < 1:
        raise RequestError(f"'{name}' has no pixels (width x height {picture.width}x{picture.height})")
    try:
        picture.load()  # the first frame of an animation, unless the caller went to another
    except (OSError, SyntaxError, ValueError) as error:
        raise RequestError(f"'{name}' is damaged or cut short and cannot be decoded: {error}") from error
    upright = _upright(picture)
    mode = upright.mode
    if mode == "F":
        return _from_array(np.asarray(upright), f"'{name}' (32-bit float)", _ARRAY_HELP)
    if mode == "I" or mode.startswith("I;16"):
        # 16-bit grey arrives as I;16 or, from some formats, as 32-bit integers of which 16 bits are used.
        return _from_deep_grey(np.asarray(upright), name)
    try:
        if mode in ("RGBA", "LA", "PA", "RGBa") or "transparency" in upright.info:
            layers = upright.convert("RGBA")
            if layers.getchannel("A").getextrema() != (255, 255):
                backdrop = Image.new("RGBA", layers.size, (255, 255, 255, 255))
                layers = Image.alpha_composite(backdrop, layers)
            return np.array(layers.convert("RGB"))
        return np.array(upright if mode == "RGB" else upright.convert("RGB"))
    except ValueError as error:
        raise RequestError(f"'{name}' has colour mode {mode}, which cannot be converted to RGB") from error


def _upright(picture: Image.Image) -> Image.Image:
    """The picture with its EXIF orientation applied; unreadable EXIF data counts as none."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            turned = picture.getexif().get(ExifTags.Base.Orientation) in range(2, 9)
            return ImageOps.exif_transpose(picture) if turned else picture  # which would copy it
        except Exception:  # a broken metadata block says nothing about the pixels
            return picture


def _from_deep_grey(values: np.ndarray, name: str) -> UInt8[np.ndarray, "H W 3"]:
    low, high = int(values.min()), int(values.max())
    if low < 0 or high > 65535:
        raise RequestError(f"'{name}' is integer grey with values {low}..{high}; expected 8 or 16 bit, 0..65535")
    return _grey_to_rgb(_from_16_bit(values))


# --- arrays and tensors ----------------------------------------------------------------------------------------------


def _from_tensor(tensor: torch.Tensor) -> UInt8[np.ndarray, "H W 3"]:
    if tensor.ndim != 3 or tensor.shape[0] not in (1, 3):
        raise RequestError(f"a tensor of shape {tuple(tensor.shape)} is no picture: {_TENSOR_HELP}")
    if tensor.is_complex() or tensor.is_quantized or tensor.layout != torch.strided:
        raise RequestError(f"a tensor of type {tensor.dtype}, {tensor.layout} is no picture: {_TENSOR_HELP}, dense")
    host = tensor.detach().cpu()
    if host.dtype == torch.bfloat16:  # numpy has no such type
        host = host.float()
    return _from_array(host.permute(1, 2, 0).numpy(), "tensor", _TENSOR_HELP)


def _from_array(array: np.ndarray, name: str, expected: str) -> UInt8[np.ndarray, "H W 3"]:
    """Channels-last values of any accepted type as RGB bytes."""
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in (1, 3, 4)):
        hint = ""
        if array.ndim == 3 and array.shape[0] in (1, 3, 4):
            hint = "; channels come last in an array, transpose it with (1, 2, 0)"
        raise RequestError(f"an {name} of shape {array.shape} is no picture: {expected}{hint}")
    if not array.size:
        raise RequestError(f"an {name} of shape {array.shape} has no pixels")
    pixels = _to_bytes(array, name)
    if pixels.ndim == 2:
        return _grey_to_rgb(pixels)
    if pixels.shape[2] == 1:
        return _grey_to_rgb(pixels[..., 0])
    if pixels.shape[2] == 4:
        return _from_pillow(Image.fromarray(np.ascontiguousarray(pixels)), name)
    return np.array(pixels, order="C")  # a copy: the result never shares memory with the caller's array


def _to_bytes(array: np.ndarray, name: str) -> UInt8[np.ndarray, ...]:
    if array.dtype == np.uint8:
        return array
    if array.dtype == bool:
        return array.astype(np.uint8) * np.uint8(255)
    if array.dtype == np.uint16:
        return _from_16_bit(array)
    if np.issubdtype(array.dtype, np.floating):
        low, high = float(array.min()), float(array.max())
        if not np.isfinite(low) or not np.isfinite(high):  # min and max pass NaN on
            raise RequestError(f"the {name} holds values that are not finite (NaN or infinity)")
        if low < 0 or high > 255:
            raise RequestError(
                f"the {name} holds floats from {low:.4g} to {high:.4g}; expected 0..1 or 0..255 (not normalised: the "
                "model does that itself)"
            )
        wide = array.astype(np.float64)
        return np.rint(wide * 255 if high <= 1 else wide).astype(np.uint8)
    raise RequestError(f"the {name} has type {array.dtype}; expected uint8, uint16, bool or float")


def _from_16_bit(values: np.ndarray) -> UInt8[np.ndarray, ...]:
    """Full range to full range: 65535 = 257 * 255."""
    return ((values.astype(np.uint32) + 128) // 257).astype(np.uint8)


def _grey_to_rgb(grey: UInt8[np.ndarray, "H W"]) -> UInt8[np.ndarray, "H W 3"]:
    return np.ascontiguousarray(np.broadcast_to(grey[..., None], (*grey.shape, 3)))


# --- folders ---------------------------------------------------------------------------------------------------------


def list_images(
    sources: Sequence[str | os.PathLike[str]], skip: Callable[[Path], bool] = lambda path: False
) -> list[tuple[Path, Path]]:
    """Pictures of files and folders (searched to any depth, sorted), each with the stem of its results.

    The stem is relative to the output folder: it keeps the folders below a source folder and drops the suffix. Where
    two pictures would share a stem, each keeps its suffix (``a/X.jpg`` gives ``a/X.jpg``, so results are
    ``a/X.jpg.png`` and so on). A picture reached twice is listed once. A file given by name is taken whatever its
    suffix; hidden files and folders are passed over, and so is what ``skip`` says of an image file.

    Raises:
        RequestError: no sources, a source that does not exist, a folder without pictures, or two pictures whose
            results would have one name.
    """
    found: dict[Path, tuple[Path, Path]] = {}  # by resolved path: as given, and relative with suffix
    if not sources:
        raise RequestError("no pictures given; name files or folders")
    for entry in sources:
        source = Path(os.fspath(entry))
        if source.is_dir():
            pictures = _pictures_below(source)
            if not pictures:
                raise RequestError(f"the folder '{source}' holds no pictures ({' '.join(IMAGE_SUFFIXES)})")
            for path in pictures:
                if not skip(path):
                    found.setdefault(path.resolve(), (path, path.relative_to(source)))
        elif source.is_file():
            if not skip(source):
                found.setdefault(source.resolve(), (source, Path(source.name)))
        else:
            raise RequestError(f"there is no file or folder '{source}'; check the path")

    # Compared without case, since two names that differ in case only are one file on some systems.
    sharing: dict[str, int] = {}
    for _, relative in found.values():
        key = str(relative.with_suffix("")).casefold()
        sharing[key] = sharing.get(key, 0) + 1
    result: list[tuple[Path, Path]] = []
    owners: dict[str, Path] = {}
    for path, relative in found.values():
        stem = relative.with_suffix("")
        if sharing[str(stem).casefold()] > 1:
            stem = relative
        owner = owners.setdefault(str(stem).casefold(), path)
        if owner is not path:
            raise RequestError(f"the results of '{owner}' and '{path}' would have one name; run them apart")
        result.append((path, stem))
    return result


def _pictures_below(folder: Path) -> list[Path]:
    """Pictures in a folder and its folders, sorted by path; hidden names are passed over."""
    pictures = []
    for path in folder.rglob("*"):
        relative = path.relative_to(folder)
        if any(part.startswith(".") for part in relative.parts):
            continue
        if path.suffix.lower() in IMAGE_SUFFIXES and path.is_file():
            pictures.append(path)
    return sorted(pictures, key=lambda path: path.relative_to(folder).parts)
