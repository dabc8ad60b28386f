"""Label Studio: tasks with predictions, to import and correct."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, Literal
from urllib.parse import quote

import numpy as np

from mask2former.documents import encode_json
from mask2former.notes import note
from mask2former.ops.masks import Patch
from mask2former.results_io.writing import ImageNames, JsonList, filled
from mask2former.results_io.yolo import joined_rings
from mask2former.structures.result_base import ResultItem
from mask2former.structures.results import Segmentation

__all__ = ["LabelStudioFile", "brush_rle"]

_LOCAL = "/data/local-files/?d="  # what Label Studio calls files below its local storage root
_SIZES = (3, 4, 8, 16)  # bits of run lengths
_MUCH = 1 << 28  # bytes of an image's brush strokes, above which a note says so


class LabelStudioFile(JsonList):
    """A list of tasks, each an image and one prediction with a region for each mask.

    Regions are brush strokes, which are exact, or polygons, which are easier to correct; these have no holes, so the
    outlines of a mask are joined by lines of zero width. ``from_name`` is ``label`` and ``to_name`` ``image``, as in::

        <View><Image name="image" value="$image"/>
          <BrushLabels name="label" toName="image"><Label value="cell"/></BrushLabels></View>

    Args:
        path: where to write it; missing folders are created.
        names: image file names by image id; an image without one is named by its id. Local storage is a folder below
            the root, so names begin with that folder: ``photos/a.jpg``.
        regions: ``brush`` or ``polygon``.
        prefix: prepended to image names, for instance the address of a server or ``s3://bucket/``; in addresses names
            are percent-encoded, as Label Studio does for its own storage.
        model: given as the version of the model.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        names: Mapping[int | str, str] | None = None,
        *,
        regions: Literal["brush", "polygon"] = "brush",
        prefix: str = _LOCAL,
        model: str = "",
    ) -> None:
        super().__init__(path)
        self.names, self.regions, self.prefix, self.model = ImageNames(names), regions, prefix, model

    def add(self, image_id: int | str, result: Segmentation) -> None:
        """Append the task of one image."""
        self.once(image_id)
        name = self.names[image_id]
        image = self.prefix + (quote(name) if self.prefix.startswith(("/", "http")) else name)
        # One region after the other: a brush stroke covers every pixel of the image.
        head = encode_json({"data": {"image": image}, "predictions": [{"model_version": self.model}]}, compact=True)
        self.write(f'{"," if self.count else ""}\n{head.removesuffix("}]}")},"result":[')
        scores, written = [], 0
        for item in filled(result):
            text = encode_json(self._region(item), compact=True)
            self.write(f"{',' if written else ''}{text}")
            written += len(text)
            scores += [] if item.score is None else [item.score]
        mean = f',"score":{encode_json(float(np.mean(scores)))}' if scores else ""
        self.write(f"]{mean}}}]}}")
        self.count += 1
        if self.regions == "brush" and written > _MUCH:
            note(
                "images whose brush strokes for Label Studio take much space, since each covers every pixel "
                "(label-studio-polygons takes less)",
                f"'{name}' ({written / 2**20:,.0f} MiB)",
            )

    def _region(self, item: ResultItem) -> dict[str, Any]:
        height, width = item.size_hw
        if self.regions == "brush":
            kind = "brushlabels"
            value: dict[str, Any] = {"format": "rle", "rle": brush_rle(item.patch, item.size_hw)}
        else:
            rings = [ring for polygon in item.polygons for ring in polygon]
            if len(rings) > 1:
                note("masks with holes or of several parts, whose outlines are joined to one polygon", item.name)
            kind = "polygonlabels"
            value = {"points": (joined_rings(rings) * 100 / np.array([width, height])).tolist(), "closed": True}
        return {
            "id": f"mask-{item.id}",
            "type": kind,
            "from_name": "label",
            "to_name": "image",
            "original_width": width,
            "original_height": height,
            "image_rotation": 0,
            "value": {**value, kind: [item.name]},
            **({} if item.score is None else {"score": item.score}),
        }


def brush_rle(patch: Patch, size_hw: tuple[int, int]) -> list[int]:
    """A mask in the form of Label Studio's brush: the bytes of an RGBA image, all 0 or 255, in runs of bits (rle-pack).

    After the number of bytes (32 bits), the bits of a byte less 1 (5) and those of four kinds of run lengths less 1
    (4 each) come the runs: a 1, the kind (2), the length less 1, and the byte that is repeated.
    """
    height, width = size_hw
    top, left, mask = patch
    band = np.zeros((mask.shape[0], width), dtype=bool)
    band[:, left : left + mask.shape[1]] = mask
    flat = np.concatenate([[False], band.ravel(), [False]])
    edges = top * width + np.flatnonzero(flat[1:] != flat[:-1])
    runs = 4 * np.diff(np.concatenate([[0], edges, [height * width]]))
    bits = [f"{4 * height * width:032b}", f"{8 - 1:05b}", *(f"{size - 1:04b}" for size in _SIZES)]
    for index, run in enumerate(runs.tolist()):
        value = "1" * 8 if index % 2 else "0" * 8
        longest, rest = divmod(run, 1 << _SIZES[-1])
        bits.append(f"1{len(_SIZES) - 1:02b}{'1' * _SIZES[-1]}{value}" * longest)
        if rest:
            kind = next(kind for kind, size in enumerate(_SIZES) if rest <= 1 << size)
            bits.append(f"1{kind:02b}{rest - 1:0{_SIZES[kind]}b}{value}")
    text = "".join(bits)
    text += "0" * (-len(text) % 8)
    return list(int(text, 2).to_bytes(len(text) // 8))
