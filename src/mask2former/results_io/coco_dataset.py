"""A COCO data set of predictions, which most annotation tools, and FiftyOne, can import."""

from __future__ import annotations

import os
from collections.abc import Mapping
from types import TracebackType

from mask2former.documents import encode_json
from mask2former.ops.masks import encode_patch
from mask2former.results_io.writing import ImageNames, JsonList, filled
from mask2former.structures.categories import Categories
from mask2former.structures.results import Segmentation

__all__ = ["CocoDatasetFile"]


class CocoDatasetFile(JsonList):
    """Images, classes and an annotation for each mask, with its score: in the form of a data set, not of a test server.

    Masks are compressed run lengths, as in all our COCO files. ``mask2former check-data`` and ``train`` read it.

    Args:
        path: where to write it; missing folders are created.
        categories: the classes of the model.
        names: image file names by image id; an image without one is named by its id.
    """

    def __init__(
        self, path: str | os.PathLike[str], categories: Categories, names: Mapping[int | str, str] | None = None
    ) -> None:
        super().__init__(path)
        self.names = ImageNames(names)
        classes = [
            {"id": item.id, "name": item.name, "isthing": int(item.is_thing), "color": list(item.color)}
            for item in categories
        ]
        head = encode_json({"description": "mask2former predict"})
        self.opening = f'{{"info": {head}, "categories": {encode_json(classes)}, "annotations": ['
        self._images: list[str] = []

    def add(self, image_id: int | str, result: Segmentation) -> None:
        """Append one image and its masks."""
        self.once(image_id)
        height, width = result.size_hw
        number = len(self._images) + 1
        head = {"id": number, "file_name": self.names[image_id], "height": height, "width": width}
        self._images.append(encode_json(head))
        for item in filled(result):
            left, top, right, bottom = item.box
            record = {"id": self.count + 1, "image_id": number, "category_id": item.category.id, "iscrowd": 0}
            rle = encode_patch(item.patch, item.size_hw)
            record |= {"area": item.area, "bbox": [left, top, right - left, bottom - top], "segmentation": rle}
            self.append(record if item.score is None else {**record, "score": item.score})

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.closing = '\n], "images": [' + ",\n".join(self._images) + "]}\n"
        super().__exit__(kind, error, trace)
