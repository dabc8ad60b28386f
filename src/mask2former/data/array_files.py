"""Label maps in numpy's ``.npy`` files: arrays of whole numbers, and the ``_seg.npy`` of Cellpose, which is a pickle.

Sources: numpy's documentation of its format; ``cellpose.io.masks_flows_to_seg``, which saves a mapping as an array of
one object. The pickle goes through :mod:`mask2former.pickles`, which runs nothing of it. Cellpose saves outlines and
flows beside masks, so that about 31 bytes a pixel are read for each map.
"""

from __future__ import annotations

import io
import math
from typing import Any

import numpy as np
from jaxtyping import Int32

from mask2former import limits
from mask2former.documents import read_bytes
from mask2former.errors import UserError
from mask2former.media.image_files import ImageFile, ImagePage
from mask2former.pickles import Array, Budget, PickleRefused, Unpickler
from mask2former.text import listed, printable

__all__ = ["ARRAY_SUFFIX", "is_array_file", "read_array"]

ARRAY_SUFFIX = ".npy"

_HEADERS = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
    (3, 0): np.lib.format.read_array_header_2_0,  # differs only in the names of fields, which maps do not have
}


def is_array_file(file: ImageFile) -> bool:
    """Whether a file has the suffix of NumPy's own format."""
    return file.name.lower().endswith(ARRAY_SUFFIX)


def read_array(file: ImageFile) -> Int32[np.ndarray, "H W"]:
    """The numbers of a map: the array in the file, or ``masks`` in a file that Cellpose saved.

    Raises:
        UserError: the file is missing or damaged, refers to anything but arrays and plain containers, or contains
            something other than one map of whole numbers from 0 to 2**31 - 1.
    """
    assert not isinstance(file, ImagePage)
    content = read_bytes(file, "array file", limits.IMAGE_BYTES)
    try:
        values = _values(content)
    except PickleRefused as refused:
        raise UserError(
            f"'{file}' is a pickle that refers to {refused}, which is neither an array nor a plain container; "
            "nothing was executed. Export the masks as PNG or TIFF (in Cellpose: File, 'Save masks as PNG/tif')"
        ) from None
    except UserError as error:
        raise UserError(f"'{file}': {error}") from error
    except Exception as error:  # a damaged header or pickle can raise anything
        reason = printable(str(error), 120) or type(error).__name__
        raise UserError(f"'{file}' is damaged or not a NumPy array: {reason}; save it again") from error
    return _map_of(values, file)


def _values(content: bytes) -> Any:
    """What a file contains: an array, or the one object in it."""
    stream = io.BytesIO(content)
    version = np.lib.format.read_magic(stream)
    if version not in _HEADERS:
        found = ".".join(map(str, version))
        raise UserError(f"it has version {found} of numpy's format; expected 1.0, 2.0 or 3.0; save it again")
    shape, is_fortran, dtype = _HEADERS[version](stream)
    if dtype.hasobject:
        values = Unpickler(stream, len(content), Budget(len(content))).load()
        objects = values.array if isinstance(values, Array) else None
        if shape or not isinstance(objects, list) or len(objects) != 1:
            raise UserError("it contains an array of objects; expected one number per pixel")
        return objects[0]
    count = math.prod(shape)
    if len(shape) > limits.ARRAY_DIMENSIONS or count * dtype.itemsize != len(content) - stream.tell():
        raise UserError(f"it has {len(content):,} bytes, which does not match an array of shape {shape}; save it again")
    array = np.frombuffer(content, dtype, offset=stream.tell()) if count else np.empty(0, dtype)
    return array.reshape(shape, order="F" if is_fortran else "C")


def _map_of(values: Any, file: ImageFile) -> Int32[np.ndarray, "H W"]:
    if isinstance(values, dict):
        if "masks" not in values:
            raise UserError(
                f"'{file}' contains {listed(list(values)) or 'nothing'}; expected 'masks', as in Cellpose's _seg.npy"
            )
        values = values["masks"]
        values = values.array if isinstance(values, Array) else values
    if not isinstance(values, np.ndarray) or values.dtype.kind not in "bui":
        kind = f"values of type {values.dtype}" if isinstance(values, np.ndarray) else f"a {type(values).__name__}"
        raise UserError(f"'{file}' contains {kind}; expected one whole number per pixel")
    if values.ndim == 3 and len(values) == 1:
        values = values[0]
    if values.ndim != 2 or not values.size:
        raise UserError(f"'{file}' contains masks of shape {values.shape}; expected (height, width): one map per image")
    limits.check_limit(f"the map '{file}' has too many pixels:", values.size, limits.INPUT_PIXELS, "cut it into parts")
    low, high = int(values.min()), int(values.max())
    if low < 0 or high >= 2**31:
        raise UserError(
            f"'{file}' contains the number {low if low < 0 else high}; expected numbers from 0 to {2**31 - 1}"
        )
    return values.astype(np.int32)
