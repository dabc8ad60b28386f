"""From a picture of any kind to its segmentation: read, resize, model, post-processing at the original size.

The path of the published test-time code, one picture at a time, because results depend on padding. Knows no files
but the pictures it is given, and no metrics.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args, overload

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

from mask2former import checkpoints, limits
from mask2former.config import InferenceConfig, Task, TrackingConfig, parse
from mask2former.data.frames import Frames, FrameSource, open_frames
from mask2former.data.images import ImageSource, read_image
from mask2former.data.scenes.classes import SCENE_CATEGORIES
from mask2former.data.transforms import resize_clip, resize_shortest_edge
from mask2former.errors import RequestError
from mask2former.inference.answers import check_finite, clip_result_of, result_of
from mask2former.inference.tiles import answer_in_tiles
from mask2former.inference.track import choose_tracking, track_frames
from mask2former.limits import check_limit
from mask2former.memory import available_memory, check_memory, refusing_lack_of_memory
from mask2former.models.mask2former import Mask2Former
from mask2former.ops.peak_memory import peak_memory
from mask2former.structures import (
    Categories,
    Instances,
    MaskOutput,
    PanopticSegmentation,
    Segmentation,
    SemanticSegmentation,
    VideoInstances,
)
from mask2former.structures.tracks import TrackedFrame

__all__ = ["Predictor", "choose_device", "choose_dtype", "with_room"]

_logger = logging.getLogger(__name__)

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
_T = TypeVar("_T")

_MOST_BYTES = 640  # for each pixel shown, of published models on a CPU; those with ResNet-50 take 490
_SURELY_FITS = 1 << 30

Answers = dict[Task, Segmentation]


class Predictor:
    """Segments pictures with a model.

        predictor = Predictor.from_pretrained("coco-panoptic/swin-t")
        result = predictor("street.jpg")
        result.plot(Image.open("street.jpg")).save("overlay.png")

    Args:
        model: a model with ``categories``; it is not copied, but moved to the device, laid out for it and set to
            evaluation.
        device: ``cpu``, ``cuda``, ``cuda:1``, ...; by default a CUDA device where there is one, else the CPU.
        dtype: ``float32``, ``bfloat16`` or ``float16`` for the whole model; by default its parameters stay as they
            are. Half precision is faster on hardware made for it and changes masks slightly.
        settings: how the model is asked; by default what it was stored with.

    Attributes:
        model, categories, settings, device: what is used.

    Raises:
        RequestError: the model has no categories, or there is no such device or dtype.
    """

    def __init__(
        self,
        model: Mask2Former,
        device: str | torch.device | None = None,
        dtype: str | torch.dtype | None = None,
        settings: InferenceConfig | None = None,
    ) -> None:
        self.categories: Categories = model.info.known_categories
        self.settings = settings or model.info.inference
        self.device = choose_device(device)
        self._bytes_per_pixel: float | None = None  # that the model takes on a CPU; measured when it matters
        self.model = model.to(device=self.device, dtype=choose_dtype(dtype)).eval()
        if self.device.type == "cpu":  # spares convolutions their reordering: 4 % of ResNet-50, 17 % of ``nuclei``
            self.model.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]  (no overload has it)

    @classmethod
    def from_pretrained(
        cls,
        source: str | Path,
        recipe: str | None = None,
        device: str | torch.device | None = None,
        dtype: str | torch.dtype | None = None,
        *,
        model: Mask2Former | None = None,
        quiet: bool = False,
        **overrides: Any,
    ) -> Predictor:
        """A predictor for a packaged model, a checkpoint file or a folder.

        A model that knows nothing but drawn scenes says so in the log, since on photographs its results are nonsense.

        Args:
            source: what :func:`mask2former.checkpoints.from_pretrained` accepts.
            recipe: for files without configuration, for instance ``coco-panoptic/r50``.
            device: see the class.
            dtype: see the class.
            model: gets the weights instead of one that is built; for models with parts of one's own.
            quiet: for drawn scenes, where that needs no saying.
            overrides: inference settings that replace the stored ones, for instance ``score_threshold=0.5``, which sets
                the threshold of all tasks.

        Raises:
            RequestError: the model cannot be loaded, or a setting is unknown or out of range.
        """
        # Checked before minutes of loading.
        chosen_device, chosen_dtype = choose_device(device), choose_dtype(dtype)
        windows = bool(overrides.get("tile") or overrides.get("diameter"))  # those of the model are not known yet
        known = InferenceConfig(tasks=("instance",), tile=64) if windows else InferenceConfig(tasks=("panoptic",))
        _override(known, overrides)
        predictor = cls(checkpoints.from_pretrained(source, recipe, model), chosen_device, chosen_dtype)
        predictor.settings = _override(predictor.settings, overrides)
        if predictor.categories.names == SCENE_CATEGORIES.names and not quiet:
            _logger.warning(
                "%s was trained on drawn scenes only: use coco-panoptic/swin-t for photographs, nuclei for cells",
                source,
            )
        return predictor

    @overload
    def __call__(self, source: ImageSource, task: Literal["panoptic"], **overrides: Any) -> PanopticSegmentation: ...
    @overload
    def __call__(self, source: ImageSource, task: Literal["instance"], **overrides: Any) -> Instances: ...
    @overload
    def __call__(self, source: ImageSource, task: Literal["semantic"], **overrides: Any) -> SemanticSegmentation: ...
    @overload
    def __call__(self, source: ImageSource, task: Task | None = None, **overrides: Any) -> Segmentation: ...
    @overload
    def __call__(self, source: ImageSource, task: Sequence[Task], **overrides: Any) -> Answers: ...
    @overload
    def __call__(
        self, source: Sequence[ImageSource], task: Task | None = None, **overrides: Any
    ) -> list[Segmentation]: ...
    @overload
    def __call__(self, source: Sequence[ImageSource], task: Sequence[Task], **overrides: Any) -> list[Answers]: ...
    def __call__(
        self,
        source: ImageSource | Sequence[ImageSource],
        task: Task | Sequence[Task] | None = None,
        **overrides: Any,
    ) -> Segmentation | Answers | list[Segmentation] | list[Answers]:
        """The segmentation of a picture at its own size, or a list of them for a list of pictures.

        Args:
            source: a path, a PIL image, an array or tensor (see :func:`mask2former.data.images.read_image`), or a list
                or tuple of them.
            task: ``panoptic``, ``instance`` or ``semantic``; by default the first of these that the model was
                trained for. Several tasks are answered from one pass, as a dictionary.
            overrides: settings for this call, for instance ``short_edge=0`` or ``score_threshold=0.5``, which sets the
                threshold of all tasks. ``instance_threshold=0`` keeps all candidates, as average precision needs them.

        Raises:
            RequestError: a picture cannot be read, the model does not answer the task, or a setting is wrong.
        """
        if isinstance(source, list | tuple):
            return list(self.stream(source, task, **overrides))  # pyright: ignore[reportReturnType]
        tasks, settings = self.choose_tasks(task), _override(self.settings, overrides)
        image = read_image(source, value_range=settings.value_range)  # pyright: ignore[reportArgumentType]
        try:
            with _work_on(image):
                answers = self._segment(image, tasks, settings)
        except RequestError as error:
            raise RequestError(f"'{source}': {error}" if isinstance(source, str | Path) else str(error)) from error
        return answers[task] if isinstance(task, str) else answers if task else answers[tasks[0]]

    def stream(
        self, sources: Iterable[ImageSource], task: Task | Sequence[Task] | None = None, **overrides: Any
    ) -> Iterator[Any]:
        """Like a call with a list, one result at a time, so that no more than one is in memory."""
        # The request is checked now, not when the first result is asked for.
        self.choose_tasks(task)
        _override(self.settings, overrides)
        return (self(source, task, **overrides) for source in sources)

    @property
    def recorded_settings(self) -> dict[str, Any]:
        """What results depend on beside the model, for the files they are written to."""
        dtype = str(self.model.dtype).removeprefix("torch.")
        return {**self.settings.model_dump(mode="json", exclude={"tasks"}), "dtype": dtype}

    def weights_sha256(self) -> str:
        """Which weights are asked, whatever file they come from: a hash of all of them as they are used."""
        digest = hashlib.sha256()
        for name, value in sorted(self.model.state_dict().items()):
            digest.update(f"{name} {value.dtype} {tuple(value.shape)} ".encode())
            digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
        return digest.hexdigest()

    def choose_tasks(self, task: Task | Sequence[Task] | None = None) -> tuple[Task, ...]:
        """What will be answered for ``task``.

        Raises:
            RequestError: a task that does not exist or that the model was not trained for.
        """
        tasks: tuple[Any, ...] = (task,) if isinstance(task, str) else tuple(task or (self.settings.default_task,))
        for name in tasks:
            if name not in get_args(Task):
                raise RequestError(f"no task {name!r}; there are: {', '.join(get_args(Task))}")
            if name not in self.settings.tasks:
                known = ", ".join(self.settings.tasks)
                raise RequestError(f"this model does not answer the task '{name}'; it was trained for: {known}")
        return tasks

    def _segment(
        self, image: UInt8[np.ndarray, "H W 3"], tasks: tuple[Task, ...], settings: InferenceConfig
    ) -> Answers:
        if settings.tile:
            look = partial(self._segment_windows, settings=settings)
            return {"instance": answer_in_tiles(image, look, self.categories, settings)}
        resized = resize_shortest_edge(image, settings.short_edge, settings.long_edge)
        output = self._run(resized)
        sizes = ((resized.shape[0], resized.shape[1]), (image.shape[0], image.shape[1]))
        return {task: self._answer(output, task, *sizes, settings) for task in tasks}

    def _segment_windows(
        self, parts: Sequence[UInt8[np.ndarray, "h w 3"]], size_hw: tuple[int, int], settings: InferenceConfig
    ) -> list[Instances]:
        """The instances of windows of one size, resized for the model, at ``size_hw``."""
        pixels = [torch.from_numpy(part).permute(2, 0, 1).to(self.device) for part in parts]
        output = self._logits(pixels)
        found = []
        for index, part in enumerate(parts):
            instances = self._answer(output, "instance", part.shape[:2], size_hw, settings, index)
            assert isinstance(instances, Instances)
            found.append(instances)
        return found

    def clip(self, frames: Sequence[ImageSource], **overrides: Any) -> VideoInstances:
        """The tracks of a clip, at its own size: the task instance over all frames at once, as published.

        Memory grows with the number of frames; 36 at 360 pixels are what YouTube-VIS has at most.

        Args:
            frames: pictures of one size in the order of time, as in a call.
            overrides: settings for this call, for instance ``max_instances=20``.

        Raises:
            RequestError: a frame cannot be read or has another size, the model does not answer the task instance, or a
                setting is wrong.
        """
        self.choose_tasks("instance")
        settings = _of_whole_frames(_override(self.settings, overrides), overrides)
        images = [read_image(frame, value_range=settings.value_range) for frame in frames]
        with _work_on(*images):
            clip = resize_clip(images, settings.short_edge, settings.long_edge)
            output = self.forward(clip)
            sizes = ((clip.shape[2], clip.shape[3]), (images[0].shape[0], images[0].shape[1]))
            masks = min(settings.max_instances, output.class_logits.shape[1] * len(self.categories))
            check_memory(
                f"the result of {len(images)} frames of {sizes[1][0]}x{sizes[1][1]} pixels (height x width)",
                masks * len(images) * sizes[1][0] * sizes[1][1],
                "ask for fewer frames or a smaller max_instances, or use track, which holds one window of frames",
            )
            return with_room(lambda found: clip_result_of(found, 0, *sizes, self.categories, settings), output)

    def track(
        self,
        source: FrameSource,
        task: Task | None = None,
        *,
        start: float = 0.0,
        end: float | None = None,
        rate: float | None = None,
        **overrides: Any,
    ) -> Iterator[TrackedFrame]:
        """Objects followed through a clip of any length, one result per frame as soon as it is final.

            for frame in predictor.track("street.mp4"):
                print(frame.seconds, frame.track_ids, frame.labels)

        Args:
            source: a video, a folder of frames, the number of a camera, or frames of any kind that a call takes, one
                after the other.
            task: ``instance``, which is the default where the model answers it, or ``panoptic``.
            start: seconds that are left out.
            end: seconds, excluded; None: to the end.
            rate: frames per second of what is no video, 30 by default.
            overrides: settings for this call, those of pictures and those of
                :class:`~mask2former.config.TrackingConfig`, for instance ``window=16``, ``threshold=0.3`` or
                ``short_edge=360``.

        Raises:
            RequestError: the source cannot be read, a setting is wrong, or the model does not answer the task.
            MissingExtraError: a video without PyAV.
        """
        # The request is checked now, not when the first result is asked for.
        return self.track_opened(open_frames(source, start=start, end=end, rate=rate), task, **overrides)[0]

    def track_opened(
        self, frames: Frames, task: Task | None = None, **overrides: Any
    ) -> tuple[Iterator[TrackedFrame], dict[str, Any]]:
        """Like :meth:`track`, of frames that are open, with all settings for the files that results are written to.

        Raises:
            RequestError: a setting is wrong, or the model does not answer the task.
        """
        mine = {name: overrides.pop(name) for name in list(overrides) if name in TrackingConfig.model_fields}
        settings = _of_whole_frames(_override(self.settings, overrides), overrides)
        frames.value_range = settings.value_range
        asked = parse(TrackingConfig, mine, "tracking settings")
        chosen, tracking = choose_tracking(self, task, asked, settings)
        dtype = str(self.model.dtype).removeprefix("torch.")
        recorded = {**settings.model_dump(mode="json", exclude={"tasks"}), **tracking.model_dump(), "dtype": dtype}
        return track_frames(self, frames, chosen, settings, tracking), recorded

    def _run(self, picture: UInt8[np.ndarray, "h w 3"]) -> MaskOutput:
        """What the model says about a picture that has its size already."""
        return self.forward(torch.from_numpy(np.ascontiguousarray(picture)).permute(2, 0, 1))

    def forward(self, pixels: UInt8[Tensor, "*frames 3 h w"]) -> MaskOutput:
        """What the model says about one picture or one clip that has its size already.

        Raises:
            RequestError: logits are not finite.
        """
        return self._logits([pixels.to(self.device)])  # bytes; the model converts

    def _logits(self, images: Sequence[UInt8[Tensor, "*frames 3 h w"]]) -> MaskOutput:
        """All logits that results are made of come from here, so that none is NaN or infinite."""
        with torch.inference_mode():
            if self.device.type == "cpu":  # others say it themselves, and survive it
                self._check_room(images)
            output = _retried(lambda: self.model(images, auxiliary=False))
            check_finite(output)
        return output

    def _check_room(self, images: Sequence[UInt8[Tensor, "*frames 3 h w"]]) -> None:
        """Refuse what would not fit the memory, before the kernel ends the process.

        Raises:
            RequestError: naming the size.
        """
        pixels = sum(image.numel() // 3 for image in images)
        available = available_memory() if pixels * _MOST_BYTES > _SURELY_FITS else None
        if available is None or pixels * _MOST_BYTES < available:
            return
        if self._bytes_per_pixel is None:  # of this model, on a small image
            side = 256
            small = torch.zeros((3, side, side), dtype=torch.uint8)
            self._bytes_per_pixel = peak_memory(lambda: self.model([small], auxiliary=False)) / side**2
        height, width = images[0].shape[-2:]
        what = f"{len(images)} images of" if len(images) > 1 else "an image of"
        what = f"a clip of {len(images[0])} frames of" if images[0].ndim > 3 else what
        check_memory(
            f"the model on {what} {height}x{width} pixels (height x width, as it is shown them)",
            int(pixels * self._bytes_per_pixel),
            "set a smaller short_edge, take fewer frames, cut the image into parts, or use a GPU",
        )

    def _answer(
        self,
        output: MaskOutput,
        task: Task,
        input_hw: tuple[int, int],
        size_hw: tuple[int, int],
        settings: InferenceConfig,
        index: int = 0,
    ) -> Segmentation:
        """The result of a task at ``size_hw``, from the output for a picture of ``input_hw``, the one of that index."""

        def step(predictions: MaskOutput) -> Segmentation:
            return result_of(task, predictions, index, input_hw, size_hw, self.categories, settings)

        with torch.inference_mode():
            return with_room(step, output)


@contextlib.contextmanager
def _work_on(*images: UInt8[np.ndarray, "H W 3"]) -> Iterator[None]:
    """One sentence for what cannot be recognised in, and for memory that runs out after all.

    Raises:
        RequestError: an image is far too thin, or memory ran out.
    """
    for image in images:
        height, width = image.shape[:2]
        check_limit(
            f"the image has {height}x{width} pixels (height x width), whose ratio is",
            max(height, width) // min(height, width),
            limits.ASPECT_RATIO,
            "cut it into parts",
        )
    height, width = images[0].shape[:2] if images else (0, 0)
    advice = "make it smaller, cut it into parts, or ask for fewer instances (max_instances)"
    with refusing_lack_of_memory(f"an image of {height}x{width} pixels (height x width)", advice):
        yield


def choose_device(device: str | torch.device | None = None) -> torch.device:
    """The device of that name; by default (``None`` or ``auto``) a CUDA device where there is one, else the CPU.

    Raises:
        RequestError: no such device here.
    """
    if device is None or device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(device)
    except (RuntimeError, TypeError) as error:
        raise RequestError(f"no device '{device}'; expected auto, cpu, cuda or cuda:N") from error
    if chosen.type == "cuda" and (chosen.index or 0) >= torch.cuda.device_count():
        count = torch.cuda.device_count()
        raise RequestError(f"device '{device}' is not here: PyTorch sees {count} CUDA device(s); try cpu")
    if chosen.type == "mps" and not torch.backends.mps.is_available():
        raise RequestError("device 'mps' is not here; try cpu")
    if chosen.type == "xpu" and not torch.xpu.is_available():
        raise RequestError("device 'xpu' is not here; try cpu")
    if chosen.type not in ("cpu", "cuda", "mps", "xpu"):
        raise RequestError(f"device '{device}' cannot run this model; expected auto, cpu, cuda or cuda:N")
    return chosen


def choose_dtype(dtype: str | torch.dtype | type | None = None) -> torch.dtype | None:
    """The floating-point type of that name, or None for "as stored"; a type of numpy counts as its name.

    Raises:
        RequestError: another name or type.
    """
    if dtype is None:
        return None
    name = dtype
    if not isinstance(dtype, str | torch.dtype):
        with contextlib.suppress(TypeError):  # what numpy does not know has no name
            name = np.dtype(dtype).name
    chosen = _DTYPES.get(name) if isinstance(name, str) else name
    if chosen not in (*_DTYPES.values(), torch.float64):
        raise RequestError(f"no dtype '{dtype}'; expected {', '.join(_DTYPES)}")
    return chosen


def _override(settings: InferenceConfig, overrides: dict[str, Any]) -> InferenceConfig:
    if not overrides:
        return settings
    if "tasks" in overrides:
        raise RequestError("'tasks' says what a model was trained for and cannot be set here; pass task=...")
    if "tile" in overrides:  # who chooses windows gets those
        overrides = {"diameter": 0.0} | overrides
    if "max_instances" in overrides:  # who asks for a number of things gets that many; as published, stuff takes some
        overrides = {"things_first": True} | overrides
    if "score_threshold" in overrides:  # one word for the threshold of every task
        threshold = overrides["score_threshold"]
        if "panoptic" not in settings.tasks:
            overrides = {name: value for name, value in overrides.items() if name != "score_threshold"}
        overrides = {"instance_threshold": threshold} | overrides
    return parse(InferenceConfig, settings.model_dump() | overrides, "inference settings")


def _of_whole_frames(settings: InferenceConfig, overrides: dict[str, Any]) -> InferenceConfig:
    """Settings for clips and tracks, which know neither windows nor the parting of overlaps."""
    if settings.tile:
        raise RequestError(
            f"this model looks at pictures through windows of {settings.tile} pixels, which clips and tracks do not "
            "have; from Python, ask it with tile=0 and a short_edge that suits whole frames"
        )
    if overrides.get("exclusive"):
        raise RequestError("exclusive is for pictures; tracks that cannot overlap are those of the task panoptic")
    return settings.model_copy(update={"exclusive": False})


def _retried(step: Callable[[], _T]) -> _T:
    """The result of ``step``, tried a second time with an empty cache when the device runs out of memory."""
    try:
        return step()
    except torch.OutOfMemoryError:
        pass  # retried outside, where the traceback no longer holds the tensors of the first attempt
    torch.cuda.empty_cache()
    return step()


def with_room(step: Callable[[MaskOutput], _T], output: MaskOutput) -> _T:
    """``step`` of the output: on its device, again with an empty cache, and in the end on the CPU (as published)."""
    try:
        return _retried(lambda: step(output))
    except torch.OutOfMemoryError:
        _logger.warning("post-processing does not fit the memory of %s; doing it on the CPU", output.mask_logits.device)
    torch.cuda.empty_cache()
    return step(
        MaskOutput(
            output.class_logits.cpu().to(torch.promote_types(output.class_logits.dtype, torch.float32)),
            output.mask_logits.cpu().to(torch.promote_types(output.mask_logits.dtype, torch.float32)),
            output.query_features.cpu(),
        )
    )
