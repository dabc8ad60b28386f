"""An image before and after its pass through the network."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, overload

import numpy as np
from jaxtyping import Float, UInt8
from torch import Tensor

from mask2former.config import InferenceConfig, Task
from mask2former.errors import UserError
from mask2former.inference.settings import changed_pass, choose_tasks, override
from mask2former.inference.tile_results import Results
from mask2former.media.image_files import ImageFile
from mask2former.pixels import Regions, displayed
from mask2former.structures import Instances, PanopticSegmentation, Segmentation, SemanticSegmentation

__all__ = ["LargeImage", "PredictedImage", "ReadResults", "ReadScores", "Shown", "requested"]

ReadResults = Callable[[Sequence[Task], InferenceConfig], Results]
"""Post-processing of one image: from tasks and settings to results."""


class ReadScores(Protocol):
    """The same for an image without tiles, whose class scores can be read as well."""

    def __call__(self, tasks: Sequence[Task], settings: InferenceConfig, /) -> Results: ...
    def class_scores(self, settings: InferenceConfig, /) -> Float[Tensor, "K H W"]:
        """Class scores of each pixel, if the image was predicted for the task semantic."""
        ...


@dataclass(frozen=True, slots=True)
class LargeImage:
    """An image that is read in parts.

    Attributes:
        regions: the image.
        step: pixels of the image per pixel of a copy to draw on, along both axes.
        file: the file from which it is read.
        state: state of the file when it was opened, see :func:`~mask2former.inference.large_files.file_state`.
    """

    regions: Regions
    step: int
    file: ImageFile
    state: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Shown:
    """An image, and the input of the network for it.

    Attributes:
        image: RGB, or the bands that the model sees, at its own size; a large one is read in parts.
        resized: the image at the size for the network. With tiles, the original image; for a large one, no pixels.
        settings: the settings with which it was resized.
    """

    image: UInt8[np.ndarray, "H W C"] | LargeImage
    resized: UInt8[np.ndarray, "h w C"]
    settings: InferenceConfig

    @property
    def rgb(self) -> UInt8[np.ndarray, "H W 3"]:
        """The image for drawing, see :func:`~mask2former.pixels.displayed`; not available for a large one."""
        assert isinstance(self.image, np.ndarray)
        return displayed(self.image)

    @property
    def size_hw(self) -> tuple[int, int]:
        """Height and width of the image."""
        image = self.image
        return image.regions.size_hw if isinstance(image, LargeImage) else (image.shape[0], image.shape[1])


@dataclass(frozen=True, slots=True)
class PredictedImage:
    """An image that went through the network; call it to get results, any number of times and from any thread.

        [found] = predictor.run([predictor.prepare("street.jpg")])
        for threshold in (0.5, 0.8):
            print(found("panoptic", score_threshold=threshold))

    It keeps the logits, so it needs the memory of a pass until it is deleted.

    Attributes:
        shown: the image.
        tasks: tasks whose results are available.
    """

    shown: Shown
    tasks: tuple[Task, ...]
    _read: ReadResults

    @overload
    def __call__(self, task: Literal["panoptic"], **overrides: Any) -> PanopticSegmentation: ...
    @overload
    def __call__(self, task: Literal["instance"], **overrides: Any) -> Instances: ...
    @overload
    def __call__(self, task: Literal["semantic"], **overrides: Any) -> SemanticSegmentation: ...
    @overload
    def __call__(self, task: Task | None = None, **overrides: Any) -> Segmentation: ...
    @overload
    def __call__(self, task: Sequence[Task], **overrides: Any) -> Results: ...
    def __call__(self, task: Task | Sequence[Task] | None = None, **overrides: Any) -> Segmentation | Results:
        """The results of a task at the size of the image, as returned by a predictor.

        Args:
            task: see :class:`~mask2former.Predictor`; several tasks give a dictionary.
            overrides: settings of post-processing, for instance ``score_threshold=0.5``; with tiles only
                ``instance_threshold``, ``class_thresholds``, ``classes`` and ``min_area``.

        Raises:
            UserError: the model does not support the task, the image was not predicted for it, or a setting is wrong
                or belongs to the pass through the network.
        """
        before = self.shown.settings
        tasks, settings = choose_tasks(task, before), override(before, overrides)
        if missing := [name for name in tasks if name not in self.tasks]:
            raise UserError(f"the image was predicted for {', '.join(self.tasks)}; pass '{missing[0]}' to run, too")
        if names := changed_pass(before, settings):
            kind = (
                "with tiles, only instance_threshold, class_thresholds, classes and min_area can change"
                if before.tile
                else "it affects the pass"
            )
            name = next((name for name in overrides if name in names), names[0])
            raise UserError(f"{name} cannot change after the pass through the network ({kind}); pass it to prepare")
        return requested(self._read(tasks, settings), task)


def requested(results: Results, task: Task | Sequence[Task] | None) -> Segmentation | Results:
    """What a call with this argument returns: the result of one task, by default the first, or those of several."""
    if isinstance(task, str):
        return results[task]
    return results if task else next(iter(results.values()))
