"""Result files for images too large for arrays of their size: maps as PNG strip by strip, JSON, reduced overlays."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int, Integer, UInt8

from mask2former.data.label_maps import colors_of_ids
from mask2former.documents import encode_json
from mask2former.ops.masks import encode_runs
from mask2former.ops.packed_map import PackedMap
from mask2former.structures import Instances, PanopticSegmentation, SemanticSegmentation
from mask2former.structures.packed_results import PackedPanoptic, PackedSegmentation, PackedSemantic
from mask2former.structures.result_base import SOFTWARE
from mask2former.visualization import Palette

__all__ = ["PIXELS_AT_ONCE", "packed_files"]

_GREY, _RGB = 0, 2  # kinds of PNG
PIXELS_AT_ONCE = 1 << 23  # that are encoded as runs


def packed_files(
    result: PackedSegmentation,
    overview: UInt8[np.ndarray, "h w 3"] | None,
    step: int,
    *,
    model: str | None = None,
    settings: Mapping[str, Any] | None = None,
    extra: Mapping[str, Any] | None = None,
    palette: Palette = "classes",
) -> dict[str, bytes]:
    """The output of :meth:`encoded` for ordinary results, by the suffixes of files.

    Args:
        result: of an image of any size.
        overview: the image, reduced ``step`` times, for the overlay.
        step: pixels of the image for each of the overview, along both axes.
        model: see :meth:`encoded`.
        settings: see :meth:`encoded`.
        extra: see :meth:`encoded`.
        palette: see :meth:`encoded`.
    """
    files: dict[str, bytes] = {}
    if overview is not None:
        files[".png"] = _thinned(result, step).overlay_png(overview, palette)
    document = _document(result, model, settings)
    if isinstance(result, PackedPanoptic):
        files["_ids.png"] = _png(result.ids, _RGB, 8, colors_of_ids)
    elif isinstance(result, PackedSemantic):
        # As in maps of ordinary results, the width depends on the class list.
        wide = max(len(result.categories) - 1, result.categories.ignore_label) > 255
        files["_labels.png"] = _png(result.labels, _GREY, 16 if wide else 8, lambda labels: labels)
    files[".json"] = (encode_json({**document, **(extra or {})}) + "\n").encode()
    return files


def _document(result: PackedSegmentation, model: str | None, settings: Mapping[str, Any] | None) -> dict[str, Any]:
    """The JSON file, like that of an ordinary result."""
    if isinstance(result, Instances):
        return result.to_dict(model=model, settings=settings)
    packed = result.ids if isinstance(result, PackedPanoptic) else result.labels
    runs = _Runs.of(packed)
    # One pixel of each segment or class says what it is, in the words of ordinary results.
    if isinstance(result, PackedPanoptic):
        key, pixels = "id", np.array([[segment.id for segment in result.segments]], dtype=np.int32).reshape(1, -1)
        brief, records = PanopticSegmentation(pixels, result.segments, result.categories), "segments"
    else:
        key, pixels = "label", np.unique(runs.values)[None]
        brief, records = SemanticSegmentation(pixels, result.categories), "classes"
    document = brief.to_dict(model=model, settings=settings, masks="none")
    for record in document[records]:
        found = runs.record(record[key])
        record |= {name: found[name] for name in ("area", "segmentation", *(("bbox",) if "bbox" in record else ()))}
    return {**document, "size": list(packed.size_hw)}


class _Runs(NamedTuple):
    """The pixels of a map down its columns, as runs of one value: those of a value lie together, from left to right."""

    values: Integer[np.ndarray, " R"]
    starts: Integer[np.ndarray, " R"]
    lengths: Integer[np.ndarray, " R"]
    size_hw: tuple[int, int]

    @classmethod
    def of(cls, packed: PackedMap) -> _Runs:
        """Made of some columns at a time."""
        height, width = packed.size_hw
        step = max(1, PIXELS_AT_ONCE // height)
        number = np.int32 if height * width < 1 << 31 else np.int64
        values, starts = [], []
        last = None
        for left in range(0, width, step):
            part = np.empty((height, min(step, width - left)), dtype=packed.dtype, order="F")
            for top, strip in packed.strips():  # no view of it may remain, since it would keep the complete strip
                part[top : top + len(strip)] = strip[:, left : left + step]
            columns = part.ravel(order="F")
            begins = np.flatnonzero(columns[1:] != columns[:-1]) + 1
            if columns[0] != last:
                begins = np.concatenate([[0], begins])
            values.append(columns[begins])
            starts.append((begins + left * height).astype(number))
            last = columns[-1]
        value, start = np.concatenate(values), np.concatenate(starts)
        del values, starts
        length = np.diff(start, append=height * width)
        order = np.argsort(value, kind="stable")
        return cls(value[order], start[order], length[order], packed.size_hw)

    def record(self, value: int) -> dict[str, Any]:
        """Area, box and run-length encoding of the pixels of a value."""
        height, width = self.size_hw
        number = self.values.dtype.type(value)  # of another type, all values would be converted
        of_value = slice(*(int(self.values.searchsorted(number, side)) for side in ("left", "right")))
        starts, lengths = (runs[of_value].astype(np.int64) for runs in (self.starts, self.lengths))
        ends = starts + lengths
        # A run that goes on in the next column has the top and the bottom pixel.
        wraps = starts // height != (ends - 1) // height
        top = 0 if wraps.any() else int((starts % height).min())
        bottom = height if wraps.any() else int(((ends - 1) % height).max()) + 1
        left, right = int(starts[0]) // height, int(ends[-1] - 1) // height + 1
        counts = np.diff(np.stack([starts, ends], axis=1).ravel(), prepend=0, append=height * width)
        return {
            "area": int(lengths.sum()),
            "bbox": [float(left), float(top), float(right - left), float(bottom - top)],
            "segmentation": encode_runs(counts, self.size_hw),
        }


def _thinned(result: PackedSegmentation, step: int) -> PanopticSegmentation | Instances | SemanticSegmentation:
    """Every ``step``-th pixel of a result."""
    if isinstance(result, PackedPanoptic):
        return PanopticSegmentation(result.ids.thinned(step), result.segments, result.categories)
    if isinstance(result, PackedSemantic):
        return SemanticSegmentation(result.labels.thinned(step), result.categories)
    masks = result.sparse.thinned(step)
    return Instances(masks, result.labels, result.scores, masks.boxes, result.categories)


def _png(
    packed: PackedMap, kind: int, bits: int, pixels: Callable[[Int[np.ndarray, "rows W"]], Int[np.ndarray, "rows W *C"]]
) -> bytes:
    """A PNG file, made strip by strip, that names its software.

    Compressed at the fastest level. Looking for runs of one byte alone, as ordinary maps do, finds none in the triples
    of ids, of which an image of 105 megapixels took 100 MB.
    """
    height, width = packed.size_hw
    parts = [b"\x89PNG\r\n\x1a\n", _chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, kind, 0, 0, 0))]
    parts.append(_chunk(b"tEXt", b"Software\0" + SOFTWARE.encode()))
    compressor = zlib.compressobj(level=1)
    for _, strip in packed.strips():
        rows = pixels(strip).astype(">u2" if bits == 16 else np.uint8).reshape(len(strip), -1).view(np.uint8)
        unfiltered = np.zeros((len(strip), 1), dtype=np.uint8)  # the filter type, before each row
        if content := compressor.compress(np.hstack([unfiltered, rows]).tobytes()):
            parts.append(_chunk(b"IDAT", content))
    return b"".join([*parts, _chunk(b"IDAT", compressor.flush()), _chunk(b"IEND", b"")])


def _chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
