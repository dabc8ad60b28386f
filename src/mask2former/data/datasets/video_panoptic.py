"""Clips with panoptic ground truth in VIPSeg's format (Miao et al., CVPR 2022): a JSON file and a PNG for every frame.

An id is one segment throughout the clip, on all of its PNGs. Each frame is read as an image in COCO's panoptic format,
by :class:`~mask2former.data.datasets.coco_panoptic.CocoPanoptic`, which checks it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import UInt8

from mask2former.config import MetricStyle, Task
from mask2former.data.datasets.annotation_files import (
    Location,
    check_unique,
    entry_id,
    found_file,
    mentions,
    read_annotations,
    some,
    stated_sides,
)
from mask2former.data.datasets.coco_panoptic import CocoPanoptic, PanopticFiles
from mask2former.errors import UserError
from mask2former.media.archives import File, Folder, open_folder
from mask2former.structures.categories import Categories
from mask2former.structures.ground_truth import PanopticGroundTruth
from mask2former.text import quoted

__all__ = ["VideoPanoptic", "is_video_panoptic"]

_KEYS = ("videos", "annotations", "categories")


def is_video_panoptic(path: Location) -> bool:
    """Whether a file seems to list segments of videos. It is searched, not parsed, and may be of any size."""
    return mentions(path, '"videos"', '"segments_info"')


class VideoPanoptic:
    """Clips with a map of segments per frame, in file order.

    The file has ``videos`` (``video_id`` and its ``images``: ``id``, ``file_name``, ``height``, ``width``),
    ``annotations`` (``video_id`` and its own ``annotations``: ``image_id``, ``file_name``, ``segments_info`` with
    ``id``, ``category_id``, ``iscrowd``) and ``categories`` with ``isthing``. Names are those in the folder of the
    video, or relative to the given folders; images may have another suffix than the file says.

    Args:
        annotations: the JSON file.
        segments: the folder of the PNGs: id = R + 256 G + 65536 B, 0 is void.
        images: the folder of the frames.
        allow_outside: whether the names of files may lead out of these folders.

    Attributes:
        categories: its classes.
        notes: what a user should know, as sentences; reading may add some.

    Raises:
        UserError: a file that is missing or broken.
    """

    tasks: tuple[Task, ...] = ("panoptic",)
    has_ground_truth = True
    metric_style: MetricStyle = "youtube-vis"
    num_objects = None  # they are not learned

    def __init__(
        self,
        annotations: Location | File,
        segments: Location | Folder,
        images: Location | Folder,
        *,
        allow_outside: bool = False,
    ) -> None:
        file = found_file(annotations)
        maps = open_folder(segments, "folder of PNGs", allow_outside=allow_outside)
        frames = open_folder(images, "folder of frames", allow_outside=allow_outside)
        content = read_annotations(file, _KEYS, "VIPSeg's video panoptic")
        self._ids: list[int | str] = []
        self._ends = [0]
        self._own_notes: list[str] = []
        self._remarked: set[str] = set()
        flat = self._flattened(content, file, maps, frames)
        if not self._ids:
            raise UserError(f"'{file}' has no videos with annotated frames")
        self._frames = CocoPanoptic([PanopticFiles(file, maps, frames)], read=lambda _: flat)
        self.categories: Categories = self._frames.categories

    def _flattened(self, content: dict[str, Any], file: File, maps: Folder, frames: Folder) -> dict[str, Any]:
        """The frames of all videos as images, in their order, in the form of :class:`CocoPanoptic`."""
        flat: dict[str, Any] = {"categories": content["categories"], "images": [], "annotations": []}
        annotated = {}
        for entry in content["annotations"]:
            video_id, own = entry_id(entry.get("video_id")), entry.get("annotations")
            if video_id is None or not isinstance(own, list) or not all(isinstance(one, dict) for one in own):
                raise UserError(
                    f"'{file}': the annotation {quoted(entry, 60)} needs a 'video_id' and a list 'annotations'"
                )
            if video_id in annotated:
                raise UserError(f"'{file}': the video {quoted(video_id)} is annotated twice")
            check_unique((one.get("image_id") for one in own), "frame", file, f"video {quoted(video_id)}")
            annotated[video_id] = {entry_id(one.get("image_id")): one for one in own}
        check_unique((entry.get("video_id", entry.get("id")) for entry in content["videos"]), "video", file)
        bare = []
        for entry in content["videos"]:
            video_id, images = entry_id(entry.get("video_id", entry.get("id"))), entry.get("images")
            if video_id is None or not isinstance(images, list) or not all(isinstance(one, dict) for one in images):
                raise UserError(f"'{file}': the video {quoted(entry, 60)} needs a 'video_id' and a list 'images'")
            own = annotated.pop(video_id, {})
            sizes = set()
            for image in images:
                image_id = entry_id(image.get("id"))
                name = f"{video_id}/{image_id}"
                annotation = own.pop(image_id, None)
                if annotation is None:
                    bare.append(name)
                    continue
                what = f"frame {quoted(image_id)} of video {quoted(video_id)}"
                if (size := stated_sides(image, what, file)) is None:
                    continue
                sizes.add(size)
                declared = _inside(frames, video_id, image.get("file_name"))
                found = {"file_name": declared} if isinstance(declared, str) and frames.exists(declared) else {}
                kept = {key: image[key] for key in ("height", "width") if key in image}
                flat["images"].append({"id": name, **kept, **found})
                map_name = _inside(maps, video_id, annotation.get("file_name"))
                flat["annotations"].append({**annotation, "image_id": name, "file_name": map_name})
            if own:
                raise UserError(
                    f"'{file}': video {quoted(video_id)} has annotations of frames that its 'images' do not list: "
                    f"{some(list(own))}"
                )
            if len(sizes) > 1:
                raise UserError(
                    f"'{file}': video {quoted(video_id)} has frames of several sizes, {some(sorted(sizes, key=str))}"
                )
            if len(flat["images"]) > self._ends[-1]:
                self._ids.append(video_id)
                self._ends.append(len(flat["images"]))
        if annotated:
            raise UserError(f"'{file}': annotated videos are not listed in 'videos': {some(list(annotated))}")
        if bare:
            self._own_notes.append(f"'{file}': left out frames without an annotation: {some(bare)}")
        return flat

    @property
    def notes(self) -> Sequence[str]:
        return [*self._own_notes, *self._frames.notes]

    def __len__(self) -> int:
        return len(self._ids)

    def clip_length(self, index: int) -> int:
        return self._ends[index + 1] - self._ends[index]

    def image_id(self, index: int) -> int | str:
        return self._ids[index]

    def _rows(self, index: int) -> range:
        return range(self._ends[index], self._ends[index + 1])

    def images(self, index: int) -> list[UInt8[np.ndarray, "H W C"]]:
        """All frames of a clip that are annotated, RGB."""
        return [self._frames.image(row) for row in self._rows(index)]

    def ground_truths(self, index: int, tasks: Sequence[Task]) -> dict[Task, list[PanopticGroundTruth]]:
        """The ground truth of every frame, with the ids of the file, which identify objects throughout the clip.

        Raises:
            UserError: a file is missing or broken, or its size differs from that of its image.
        """
        ground_truths = []
        for row in self._rows(index):
            ground_truth = self._frames.ground_truths(row, ["panoptic"])["panoptic"]
            assert isinstance(ground_truth, PanopticGroundTruth)
            listed = self._frames.segment_ids(row)
            segments = [(int(listed[number - 1]), label, crowd) for number, label, crowd in ground_truth.segments]
            ground_truths.append(PanopticGroundTruth(np.append(0, listed)[ground_truth.ids], segments))
        self._check_ids(index, ground_truths)
        return {"panoptic": ground_truths}

    def _check_ids(self, index: int, ground_truths: Sequence[PanopticGroundTruth]) -> None:
        """Note ids that do not identify one object throughout a clip."""
        label_of: dict[int, set[int]] = {}
        things = []
        for ground_truth in ground_truths:
            for number, label, _ in ground_truth.segments:
                label_of.setdefault(number, set()).add(label)
            things.append({number for number, label, _ in ground_truth.segments if self.categories[label].is_thing})
        several = [number for number, labels in label_of.items() if len(labels) > 1]
        if several:
            names = " and ".join(self.categories[label].name for label in sorted(label_of[several[0]]))
            self._remark(
                f"in clip {quoted(self._ids[index])}, the ids {some(several)} have different classes in different "
                f"frames ({several[0]}: {names}); they count as one object of each class"
            )
        shown = [numbers for numbers in things if numbers]
        if len(shown) > 1 and sum(map(len, shown)) == len(set().union(*shown)):
            self._remark(
                f"in clip {quoted(self._ids[index])}, no object has the same id in 2 of its {len(ground_truths)} "
                "frames; ids must stay the same over time, otherwise every frame counts as new objects"
            )

    def _remark(self, sentence: str) -> None:
        if sentence not in self._remarked:
            self._remarked.add(sentence)
            self._own_notes.append(sentence)


def _inside(folder: Folder, video_id: int | str, name: Any) -> Any:
    """A name in the folder of its video, unless it exists only as given in the file."""
    beside = f"{video_id}/{name}"
    return beside if isinstance(name, str) and (folder.exists(beside) or not folder.exists(name)) else name
