"""Preprocess, network, postprocess: from images of any kind to their segmentation at their original size.

It follows the published test-time code. Results depend on padding, so images only go through the network together if
each alone would be padded to the same size. Apart from images, this module reads no files, and it has no metrics.
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Callable, Generator, Hashable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple, TypeVar, overload

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from mask2former import checkpoints, postprocessing
from mask2former.config import InferenceConfig, Task, TrackingConfig, parse
from mask2former.data.transforms import frame_size, resize_clip, resize_image, shortest_edge_size
from mask2former.errors import OptionError, UserError
from mask2former.inference.devices import choose_device, choose_dtype, retried, with_room
from mask2former.inference.exported import is_exported, open_exported
from mask2former.inference.failures import naming, result_of, work_on
from mask2former.inference.network import ModelNetwork, Network, check_predictions, fitting_size, hash_weights
from mask2former.inference.pipeline import Failure, Ready, Stages, pipelined
from mask2former.inference.predicted_image import LargeImage, PredictedImage, ReadResults, ReadScores, Shown, requested
from mask2former.inference.settings import check_overrides, choose_tasks, for_whole_frames, override
from mask2former.inference.tile_results import Results, TilePrediction
from mask2former.inference.tiling import PackedResults, segment_in_tiles
from mask2former.inference.tracking import choose_tracking, track_frames
from mask2former.media.frames import Frames, FrameSource, open_frames
from mask2former.media.images import ImageSource, is_one_image, read_image, unshared
from mask2former.models.mask2former import Mask2Former
from mask2former.pixels import ArrayRegions, Regions
from mask2former.scenes.classes import SCENE_CATEGORIES
from mask2former.structures import (
    Categories,
    Instances,
    PanopticSegmentation,
    PixelPrediction,
    Prediction,
    Segmentation,
    SemanticSegmentation,
    VideoInstances,
)
from mask2former.structures.tracks import TrackedFrame
from mask2former.text import did_you_mean

__all__ = ["ALL_CANDIDATES", "Predictor", "predicted", "to_pixels"]

_logger = logging.getLogger(__name__)

# Settings for results with all instances, as needed for metrics and their result files.
ALL_CANDIDATES: dict[str, Any] = {"instance_threshold": 0.0, "class_thresholds": {}}

_Said = Prediction | PixelPrediction

_ResultT = TypeVar("_ResultT")
_ItemT = TypeVar("_ItemT")
_T = TypeVar("_T")


class Predictor:
    """Segments images with a model.

        predictor = Predictor.from_pretrained("coco-panoptic/swin-t")
        result = predictor("street.jpg")
        result.plot(Image.open("street.jpg")).save("overlay.png")

    It works in three steps: images are read and resized, the network predicts, and post-processing turns the
    predictions into results at the size of the images.

    Args:
        network: a :class:`~mask2former.Mask2Former` with categories, or any other callable from images to predictions,
            see :class:`~mask2former.inference.network.Network`. A model is not copied: it is moved to the device, given
            the memory layout for it and set to evaluation mode.
        device: ``cpu``, ``cuda``, ``cuda:1``, ...; by default a CUDA device if there is one, else the CPU.
        dtype: ``float32``, ``bfloat16`` or ``float16`` for all parameters of a model; by default no conversion. Half
            precision is faster on hardware made for it and changes masks slightly.
        compile: compile a model with ``torch.compile``, without graph breaks, for each of the first eight input sizes
            and batch sizes; others run uncompiled. Compiling takes a minute or more each time and is logged, so it is
            meant for many images of one size. Images are not padded to reduce the number of sizes, because padding
            changes results. Compiled results differ only by rounding.
        settings: the inference settings; by default those stored with the model.
        categories: the classes of the network; by default those of a model.

    Attributes:
        network: the network that predicts.
        categories: its classes.
        settings: the inference settings.
        device: the device to which inputs of the network are moved.

    Raises:
        UserError: there are no categories, or no such device or dtype.
    """

    shares_batches: ClassVar[bool] = True  # whether :meth:`begin` passes all images to the network in one call

    def __init__(
        self,
        network: Mask2Former | Network,
        device: str | torch.device | None = None,
        dtype: str | torch.dtype | None = None,
        settings: InferenceConfig | None = None,
        categories: Categories | None = None,
        *,
        compile: bool = False,
    ) -> None:
        self.device = choose_device(device)
        if isinstance(network, Mask2Former):
            categories = categories or network.info.known_categories
            settings = (settings or network.info.inference).for_channels(network.channels)
            network = ModelNetwork(network, self.device, choose_dtype(dtype), compile=compile)
        elif dtype is not None or compile:
            what = "compile" if compile else f"dtype {dtype}"
            raise UserError(
                f"{what} applies to models of this package; leave it out, and set it up in the network itself"
            )
        if categories is None:
            raise UserError(
                "the classes of a network that is not a Mask2Former are unknown; pass "
                "categories=Categories.from_names([...])"
            )
        self.categories = categories
        self.settings = settings or InferenceConfig()
        self.network: Network = network
        self._unknown_weights = secrets.token_hex(32)

    @property
    def model(self) -> Mask2Former:
        """The model behind the network.

        Raises:
            UserError: the network is not a model.
        """
        if not isinstance(self.network, ModelNetwork):
            raise UserError(
                f"the network of this predictor is not a Mask2Former but a {type(self.network).__name__}; see .network"
            )
        return self.network.model

    @classmethod
    def from_pretrained(
        cls,
        source: str | Path,
        recipe: str | None = None,
        device: str | torch.device | None = None,
        dtype: str | torch.dtype | None = None,
        *,
        tasks: Task | Sequence[Task] = (),
        weights: str | None = None,
        model: Mask2Former | None = None,
        quiet: bool = False,
        compile: bool = False,
        trust_code: bool = False,
        **overrides: Any,
    ) -> Predictor:
        """A predictor for a packaged model, a checkpoint file or a folder, or an exported file.

        If the model was trained only on drawn scenes, a log message says so, since it is useless on photographs.

        Args:
            source: what :func:`mask2former.checkpoints.from_pretrained` accepts, or what ``mask2former export`` wrote:
                ``.onnx`` is run by onnxruntime, ``.xml`` by OpenVINO, ``.pt2`` by PyTorch.
            recipe: for files without configuration, for instance ``coco-panoptic/r50``.
            tasks: instead of ``recipe``, what the model was trained for.
            weights: which of several sets of weights in a file, by the name of its entry.
            device: see the class.
            dtype: see the class; for OpenVINO files float32 or bfloat16.
            model: receives the weights, instead of a newly built model; for models with your own parts.
            quiet: suppress that message.
            compile: see the class.
            trust_code: whether to load a ``.pt2`` file, whose code runs on loading; ``MASK2FORMER_TRUST_CODE=1`` in the
                environment allows it too. No other file contains code.
            overrides: inference settings that replace the stored ones, for instance ``score_threshold=0.5``, which sets
                the threshold of all tasks. ``official_settings=True`` replaces those that imitate the toolbox that
                trained a model, see :meth:`InferenceConfig.official`.

        Raises:
            UserError: the model cannot be loaded, or a setting is unknown or out of range.
        """
        # Checked before loading, which can take minutes.
        chosen_device, chosen_dtype = choose_device(device), choose_dtype(dtype)
        check_overrides(overrides)
        if is_exported(source):
            given = {"recipe": recipe, "tasks": tasks, "weights": weights, "model": model, "compile": compile}
            if taken := [name for name, value in given.items() if value]:
                raise OptionError(
                    lambda name: (
                        f"'{source}' is an exported model: leave out {name(taken[0])}, which applies to other models"
                    )
                )
            on = None if device is None else chosen_device
            network = open_exported(source, on, chosen_dtype, trust_code=trust_code)
            info = network.info.model
            predictor = cls(network, device or "cpu", settings=info.inference, categories=info.known_categories)
        else:
            loaded = checkpoints.from_pretrained(source, recipe, model, tasks=tasks, weights=weights)
            predictor = cls(loaded, chosen_device, chosen_dtype, compile=compile)
        predictor.settings = override(predictor.settings, overrides, predictor.categories)
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
    def __call__(self, source: ImageSource, task: Sequence[Task], **overrides: Any) -> Results: ...
    @overload
    def __call__(
        self, source: Sequence[ImageSource], task: Task | None = None, **overrides: Any
    ) -> list[Segmentation]: ...
    @overload
    def __call__(self, source: Sequence[ImageSource], task: Sequence[Task], **overrides: Any) -> list[Results]: ...
    def __call__(
        self,
        source: ImageSource | Sequence[ImageSource],
        task: Task | Sequence[Task] | None = None,
        **overrides: Any,
    ) -> Segmentation | Results | list[Segmentation] | list[Results]:
        """The segmentation of an image at its original size, or a list of them for a list of images.

        Args:
            source: a path, an http(s) address, bytes, an open file, a PIL image, an array or tensor (see
                :func:`mask2former.media.images.read_image`), or a list or tuple of them.
            task: ``panoptic``, ``instance`` or ``semantic``; by default the first of these that the model was trained
                for. Several tasks share one pass and return a dictionary.
            overrides: settings for this call, for instance ``short_edge=0`` or ``score_threshold=0.5``, which sets the
                threshold of all tasks. ``instance_threshold=0`` keeps all candidates, which average precision needs.

        Raises:
            UserError: an image cannot be read, the model does not support the task, or a setting is wrong.
        """
        if isinstance(source, list | tuple):
            return list(self.stream(source, task, **overrides))  # pyright: ignore[reportReturnType]
        tasks = self.choose_tasks(task)
        shown = self.prepare(source, **overrides)  # pyright: ignore[reportArgumentType]
        with naming(source):
            [found] = self.run([shown], tasks)
            return found(task)

    def stream(
        self,
        sources: Iterable[ImageSource],
        task: Task | Sequence[Task] | None = None,
        *,
        batch_size: int = 1,
        **overrides: Any,
    ) -> Iterator[Any]:
        """Like a call with a list, one result at a time, in the order of the sources.

        Threads read ahead and post-process after the network; about ``3 * batch_size`` images and four more are in
        memory at most.

            for result in predictor.stream(sorted(Path("photos").glob("*.jpg")), batch_size=8):
                print(result.size_hw)

        Args:
            sources: read a few ahead; arrays and tensors are copied, so that a camera may reuse its buffer.
            task: as in a call.
            batch_size: the largest number of images that go through the network together. A GPU needs several to be
                busy; a CPU gains with small images. Images share a batch only if each alone would be padded to the same
                size, since padding changes results; the other images of a batch then affect only rounding, in the last
                digits of logits. Tiles and test-time augmentation process one image at a time.
            overrides: as in a call.

        Raises:
            UserError: as for a call, or ``batch_size`` is below 1. Results of earlier sources come first.
        """
        if is_one_image(sources):
            raise UserError(
                f"stream expects several images, got one {type(sources).__name__}; pass a list of images, or call the "
                "predictor with the image"
            )
        self._check_process()
        # The request is checked now, not when the first result is read.
        tasks, settings = self.choose_tasks(task), override(self.settings, overrides, self.categories)

        def read(source: ImageSource) -> UInt8[np.ndarray, "H W C"]:
            return read_image(source, **settings.reading)

        def finish(source: ImageSource, image: object, results: Any) -> Segmentation | Results:
            return requested(results, task)

        found = self.in_stages(map(unshared, sources), read, finish, None, tasks, batch_size, **overrides)
        return (result_of(source, result) for source, result in found)

    def in_stages(
        self,
        items: Iterable[_ItemT],
        read: Callable[[_ItemT], UInt8[np.ndarray, "H W C"] | LargeImage | Ready[_T]],
        finish: Callable[[_ItemT, UInt8[np.ndarray, "H W C"] | LargeImage, Results | PackedResults], Any],
        deliver: Callable[[_ItemT, Any], _T] | None,
        tasks: Sequence[Task],
        batch_size: int = 1,
        **overrides: Any,
    ) -> Generator[tuple[_ItemT, _T | Failure], None, None]:
        """Segment the images of items, with reading and finishing in threads; see :func:`pipelined`.

        Args:
            items: in any number.
            read: returns the image of an item, or :class:`Ready` if there is a result already.
            finish: turns an item, its image and its results into the value that is returned, or passed to ``deliver``;
                results of a :class:`LargeImage` are packed.
            deliver: writes that value, after all earlier items have been reported.
            tasks: of the results.
            batch_size: see :meth:`stream`.
            overrides: as in a call.

        Returns:
            Every item with its value, or with the failure of one of these steps.

        Raises:
            UserError: ``batch_size`` is below 1, or a setting is wrong.
        """
        settings = override(self.settings, overrides, self.categories)

        def first(item: _ItemT) -> Shown | Ready[_T]:
            image = read(item)
            if not isinstance(image, Ready):
                return self._shown(image, settings)
            load = image.load
            return image if load is None else replace(image, load=lambda: self._shown(load(), settings))

        def last(item: _ItemT, shown: Shown, found: PredictedImage) -> Any:
            return finish(item, shown.image, found(tasks))

        stages = Stages(
            first,
            lambda shown: self.batch_key(shown.size_hw, settings),
            lambda several: self.run(several, tasks),
            last,
            deliver,
        )
        return pipelined(items, stages, batch_size)

    def prepare(self, source: ImageSource, **overrides: Any) -> Shown:
        """Read an image and resize it for the network; the first of the three steps of a call, in any thread.

        Args:
            source: as in a call.
            overrides: settings for this image, as in a call; those of post-processing may be changed later.

        Raises:
            UserError: the image cannot be read, or a setting is wrong.
        """
        self._check_process()
        settings = override(self.settings, overrides, self.categories)
        image = read_image(source, **settings.reading)
        with naming(source):
            return self._shown(image, settings)

    def _check_process(self) -> None:
        """Before images are converted or resized, which may be the first operation after a fork."""
        if isinstance(self.network, ModelNetwork):
            self.network.check_process()

    def _shown(self, image: UInt8[np.ndarray, "H W C"] | LargeImage, settings: InferenceConfig) -> Shown:
        """An image with its network input, not resized if it will be cut into tiles."""
        if isinstance(image, LargeImage):
            return Shown(image, np.empty((0, 0, settings.channels), np.uint8), settings)
        with work_on((image.shape[0], image.shape[1])):
            if settings.tile:
                return Shown(image, image, settings)
            size = self.input_size((image.shape[0], image.shape[1]), settings)
            return Shown(image, resize_image(image, size, settings.resampling), settings)

    def batch_key(self, size_hw: tuple[int, int], settings: InferenceConfig | None = None) -> Hashable:
        """The padded size, equal for images that can share a batch; None: images of that size are processed alone."""
        settings = settings or self.settings
        if settings.tile or not self.shares_batches:
            return None
        step = getattr(self.network, "size_divisibility", 1)
        return tuple(-(-side // step) for side in self.input_size(size_hw, settings))

    def input_size(self, size_hw: tuple[int, int], settings: InferenceConfig) -> tuple[int, int]:
        """Height and width to which an image of a size is resized: those of the settings if they fit the network.

        If the network has a maximum size, larger images are reduced to it in proportion; a note counts them.
        """
        wanted = shortest_edge_size(size_hw, settings.short_edge, settings.long_edge)
        return fitting_size(self.network, wanted, size_hw)

    def run(self, images: Sequence[Shown], tasks: Sequence[Task] = ()) -> list[PredictedImage]:
        """Pass images through the network in one call; results are read from the return value.

        From one thread at a time, unless the network can be called from several: models that are not compiled, and
        exported files, can.

        Args:
            images: from :meth:`prepare`, with equal :meth:`batch_key`; a single one if that is None.
            tasks: the tasks to be read; by default all that the model was trained for. Fewer save time only with
                test-time augmentation.

        Raises:
            UserError: the images cannot share a call, a task is unknown, or memory ran out.
        """
        chosen = self.choose_tasks(tasks or self.settings.tasks)
        if len(images) > 1:
            keys = {self.batch_key(shown.size_hw, shown.settings) for shown in images}
            if None in keys or len(keys) > 1:
                raise UserError("the images cannot share a call: they are padded to different sizes, or cut into tiles")
        read = self._begin(images, chosen) if images else []
        return [PredictedImage(shown, chosen, step) for shown, step in zip(images, read, strict=True)]

    def _begin(self, images: Sequence[Shown], tasks: Sequence[Task]) -> list[ReadResults]:
        """Like :meth:`begin`, for complete images or tiles, with a clear error if memory runs out."""
        with work_on(*(shown.size_hw for shown in images)):
            is_tiled = images[0].settings.tile > 0
            read = [self._in_tiles(shown, tasks) for shown in images] if is_tiled else self.begin(images, tasks)
        return [partial(_chosen, shown.size_hw, step) for shown, step in zip(images, read, strict=True)]

    def _in_tiles(self, shown: Shown, tasks: Sequence[Task]) -> ReadResults:
        image = shown.image
        regions = image.regions if isinstance(image, LargeImage) else ArrayRegions(image)
        found: Any = self.segment_regions(regions, tasks, shown.settings)  # results of large images remain packed
        if not isinstance(image, LargeImage):
            found = {task: one if isinstance(one, Instances) else one.unpacked() for task, one in found.items()}

        def read(tasks: Sequence[Task], settings: InferenceConfig) -> Results:
            return {task: predicted(found[task], settings) for task in tasks}

        return read

    def segment_regions(self, image: Regions, tasks: Sequence[Task], settings: InferenceConfig) -> PackedResults:
        """The results of an image that is read tile by tile, with all candidates of instances.

        Args:
            image: image of any size.
            tasks: of the results.
            settings: settings with ``tile``.
        """
        every = settings.model_copy(update=ALL_CANDIDATES)
        return segment_in_tiles(image, self.predict_tiles, tasks, self.categories, every)

    def predict_tiles(
        self,
        images: Sequence[UInt8[np.ndarray, "H W C"]],
        input_size: tuple[int, int],
        tasks: Sequence[Task],
        settings: InferenceConfig,
    ) -> list[TilePrediction]:
        """The predictions of tiles, each at its own size: resized, through the network in one call, post-processed.

        Args:
            images: RGB.
            input_size: height and width of the network input.
            tasks: of the results; semantic results are class scores.
            settings: only those of post-processing and ``resampling`` are used.
        """
        shown = [Shown(image, resize_image(image, input_size, settings.resampling), settings) for image in images]
        of_objects: list[Task] = [task for task in tasks if task != "semantic"]

        def read(found: ReadScores) -> TilePrediction:
            scores = found.class_scores(settings) if "semantic" in tasks else None
            return TilePrediction(found(of_objects, settings), scores)

        return [read(found) for found in self.begin(shown, tasks)]

    def begin(self, images: Sequence[Shown], tasks: Sequence[Task]) -> Sequence[ReadScores]:
        """Pass images through the network in one call; post-processing, at the size of each, is left to the caller.

        Test-time augmentation overrides it.

        Args:
            images: padded to one size.
            tasks: the tasks to be read.
        """
        found = self.predictions([to_pixels(shown.resized) for shown in images])
        if not isinstance(self.network, ModelNetwork):  # it may reuse its buffers in the next call
            found = [prediction.clone() for prediction in found]
        return [_Passed(self, shown.size_hw, prediction) for shown, prediction in zip(images, found, strict=True)]

    def predictions(self, images: Sequence[UInt8[Tensor, "*frames C h w"]]) -> list[_Said]:
        """The predictions of the network for images or clips that are already resized. All results come from here.

        Raises:
            UserError: the network returns too many or too few predictions, other classes, or NaN or infinite logits,
                which would give results that look valid.
        """
        with torch.inference_mode():
            here = [image.to(self.device) for image in images]
            found = list(retried(lambda: self.network(here)))
            check_predictions(found, len(images), len(self.categories))
        return found

    def read_prediction(
        self, prediction: _Said, size: tuple[int, int], task: Task, settings: InferenceConfig
    ) -> Segmentation:
        """The result of a task, at a size, from the network's prediction for an image."""
        with torch.inference_mode():
            return with_room(
                lambda found: postprocessing.segmentation(found, size, self.categories, settings, task), prediction
            )

    def clip(self, frames: Sequence[ImageSource], **overrides: Any) -> VideoInstances:
        """The tracks of a clip, at its original size: the task instance over all frames at once, as published.

        Memory grows with the number of frames; YouTube-VIS has at most 36, at 360 pixels.

        Args:
            frames: images of one size in temporal order, as in a call.
            overrides: settings for this call, for instance ``max_instances=20``.

        Raises:
            UserError: a frame cannot be read or has another size, ``frames`` is one image or path, the model does not
                support the task instance, or a setting is wrong.
        """
        self._check_process()
        if is_one_image(frames):
            raise UserError(
                f"clip expects the frames of a clip, got one {type(frames).__name__}; pass [frame] for a clip of one "
                "frame, or a video or folder to track"
            )
        self.choose_tasks("instance")
        settings = for_whole_frames(override(self.settings, overrides, self.categories), overrides)
        images = [read_image(frame, **settings.reading) for frame in frames]
        with work_on(*((image.shape[0], image.shape[1]) for image in images)):
            prediction = self.clip_prediction(images, settings)
            size = frame_size(images)
            return with_room(
                lambda found: postprocessing.video_instance(found, size, self.categories, settings), prediction
            )

    def clip_prediction(self, frames: Sequence[UInt8[np.ndarray, "H W C"]], settings: InferenceConfig) -> Prediction:
        """The prediction of the network for frames as one clip, at the size for images.

        Raises:
            UserError: there are no frames, they differ in size, or the prediction is per pixel; otherwise as for
                :meth:`predictions`.
        """
        size = self.input_size(frame_size(frames), settings)
        [prediction] = self.predictions([resize_clip(frames, size, settings.resampling)])
        return postprocessing.of_queries(prediction)

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
        """Track objects through a clip of any length; one result per frame, as soon as it is final.

            for frame in predictor.track("street.mp4"):
                print(frame.seconds, frame.track_ids, frame.labels)

        Args:
            source: a video, a folder of frames, a camera number, or frames of any kind that a call accepts, one after
                the other.
            task: ``instance``, which is the default where the model supports it, or ``panoptic``.
            start: seconds to skip at the beginning.
            end: where to stop, in seconds, exclusive; None: at the end.
            rate: frames per second of anything but a video or camera, which have their own times; by default the
                times that an animation states, otherwise 30.
            overrides: settings for this call, those of images and those of
                :class:`~mask2former.config.TrackingConfig`, for instance ``window=16``, ``threshold=0.3`` or
                ``short_edge=360``.

        Raises:
            UserError: the source cannot be read, a setting is wrong, a video has a ``rate``, or the model does not
                support the task.
            MissingExtraError: a video without PyAV.
        """
        # The request is checked now, not when the first result is read.
        return self.track_opened(open_frames(source, start=start, end=end, rate=rate), task, **overrides)[0]

    def track_opened(
        self, frames: Frames, task: Task | None = None, **overrides: Any
    ) -> tuple[Iterator[TrackedFrame], dict[str, Any]]:
        """Like :meth:`track`, for opened frames, with all settings that result files record.

        Raises:
            UserError: a setting is wrong, or the model does not support the task.
        """
        known, others = TrackingConfig.model_fields, InferenceConfig.model_fields
        mine = {  # with names that are close to one of them
            name: overrides.pop(name)
            for name in list(overrides)
            if name in known or (name not in others and did_you_mean(name, known))
        }
        settings = for_whole_frames(override(self.settings, overrides, self.categories), overrides)
        frames.reading = settings.reading
        requested = parse(TrackingConfig, mine, "tracking settings")
        chosen, tracking = choose_tracking(task, requested, settings, getattr(self.network, "window", 1), overrides)
        self.choose_tasks(chosen)
        self._check_process()
        predict = partial(self.clip_prediction, settings=settings)
        results = track_frames(predict, frames, chosen, self.categories, settings, tracking)
        return results, self._recorded(settings, tracking)

    def choose_tasks(self, task: Task | Sequence[Task] | None = None) -> tuple[Task, ...]:
        """The tasks that ``task`` stands for.

        Raises:
            UserError: a task that does not exist or that the model was not trained for.
        """
        return choose_tasks(task, self.settings)

    @property
    def recorded_settings(self) -> dict[str, Any]:
        """The settings that results depend on besides the model, as result files record them."""
        return self._recorded(self.settings)

    def _recorded(self, *settings: InferenceConfig | TrackingConfig) -> dict[str, Any]:
        values = {name: value for part in settings for name, value in part.model_dump(mode="json").items()}
        values.pop("tasks")
        dtype = getattr(self.network, "dtype", None)
        return values if dtype is None else {**values, "dtype": str(dtype).removeprefix("torch.")}

    def weights_sha256(self) -> str:
        """Identifies the network, whatever file it comes from: a hash of all weights as they are used."""
        if hasattr(self.network, "weights_sha256"):
            return self.network.weights_sha256()  # pyright: ignore[reportAttributeAccessIssue]  (optional)
        if isinstance(self.network, nn.Module):
            return hash_weights(self.network.state_dict())
        return self._unknown_weights


class _Passed(NamedTuple):
    """An image that went through the network without tiles."""

    predictor: Predictor
    size_hw: tuple[int, int]
    prediction: _Said

    def __call__(self, tasks: Sequence[Task], settings: InferenceConfig, /) -> Results:
        read = self.predictor.read_prediction
        return {task: read(self.prediction, self.size_hw, task, settings) for task in tasks}

    def class_scores(self, settings: InferenceConfig, /) -> Float[Tensor, "K H W"]:
        with torch.inference_mode():
            return with_room(
                lambda found: postprocessing.semantic_scores(found, self.size_hw, settings), self.prediction
            )


def _chosen(size_hw: tuple[int, int], read: ReadResults, tasks: Sequence[Task], settings: InferenceConfig) -> Results:
    """The results for these tasks, limited to the classes and the least area of the settings."""
    with work_on(size_hw):
        found = read(tasks, settings)
    return {task: result.filter(settings.classes, min_area=settings.min_area) for task, result in found.items()}


def predicted(result: _ResultT, settings: InferenceConfig) -> _ResultT:
    """The part of a result with all candidates (``instance_threshold=0``) that users see."""
    if isinstance(result, Instances | VideoInstances):
        thresholds = settings.instance_threshold, settings.class_thresholds
        return result.at_least(*thresholds)  # pyright: ignore[reportReturnType]  (same type)
    return result


def to_pixels(image: UInt8[np.ndarray, "h w C"]) -> UInt8[Tensor, "C h w"]:
    """An image in the input format of the network."""
    return torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1)
