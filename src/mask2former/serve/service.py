"""From images to finished replies: read, batched, segmented and encoded, within limits. Knows no web framework."""

from __future__ import annotations

import asyncio
import base64
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import copy_context
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import mask2former
from mask2former.config import Task
from mask2former.documents import encode_json
from mask2former.errors import UserError
from mask2former.inference.failures import ends_run
from mask2former.inference.network import ModelNetwork
from mask2former.inference.predicted_image import PredictedImage, Shown
from mask2former.inference.predictor import Predictor
from mask2former.inference.settings import override
from mask2former.media.images import NamedBytes, PixelLimitError, image_size
from mask2former.memory import LackOfMemoryError, is_lack_of_memory
from mask2former.notes import collect_notes, sentences
from mask2former.processors import num_processors
from mask2former.serve.batcher import Batcher, Called
from mask2former.serve.metrics import Metrics
from mask2former.serve.settings import ServiceLimits
from mask2former.structures import ModelInfo, Segmentation

__all__ = ["BusyError", "FaultError", "Masks", "NotReadyError", "Output", "Service", "TooLargeError", "Wanted"]

_MOST_THREADS = 4  # threads that decode and encode
_T = TypeVar("_T")

Output = Literal["json", "overlay", "ids"]
Masks = Literal["rle", "polygons", "png", "none"]


class TooLargeError(UserError):
    """The request exceeds the limits of the service."""


class FaultError(Exception):
    """The model failed on a request that was correct; the message is for the operator of the service."""


class BusyError(Exception):
    """The queue is full.

    Args:
        retry_after: seconds after which it should have room.
    """

    def __init__(self, retry_after: int) -> None:
        super().__init__(f"the service is busy; try again in {retry_after} s")
        self.retry_after = retry_after


class NotReadyError(Exception):
    """The service has not started, or has stopped."""

    def __init__(self) -> None:
        super().__init__(
            "the service has not started, or has stopped; if this persists, its server does not run the lifespan of "
            "the application (docs/serve.md, 'In your own server')"
        )


@dataclass(frozen=True, slots=True)
class Wanted:
    """The options of a request.

    Attributes:
        task: None: the first of panoptic, instance and semantic that the model was trained for.
        overrides: inference settings of post-processing.
        output: JSON, or a PNG of one image.
        masks: how JSON represents them.
    """

    task: Task | None
    overrides: Mapping[str, Any]
    output: Output
    masks: Masks


class Service:
    """A predictor shared by many requests.

    Args:
        predictor: what predicts.
        name: of the model, included in replies and metrics.
        limits: what is accepted.

    Attributes:
        metrics: of what has happened so far.
        is_broken: predictions are no longer possible, for instance because the GPU is lost: restart the process.
        is_ready: it has started, and not stopped.
        weights_sha256: of the model as it is used; None before the first start.
    """

    _threads: ThreadPoolExecutor
    _batcher: Batcher[Shown, PredictedImage]

    def __init__(self, predictor: Predictor, name: str, limits: ServiceLimits) -> None:
        self.predictor, self.name, self.limits = predictor, name, limits
        self.metrics = Metrics(lambda: self._pending)
        self.is_broken = False
        self.is_ready = False
        self.weights_sha256: str | None = None
        self._pending = 0
        self._seconds_per_image = 0.0

    async def start(self) -> None:
        """Warm up, and start working; inside the event loop. Possible again after :meth:`stop`."""
        self._threads = ThreadPoolExecutor(min(_MOST_THREADS, num_processors()), "mask2former-images")
        self._batcher = Batcher(self._run, self.limits.batch_size, self._observe)
        self._batcher.start()
        try:
            await self._in_thread(self._warm_up)
        except BaseException:
            await self.stop()
            raise
        self.is_ready = True

    async def stop(self) -> None:
        """Stop, after the current requests have finished."""
        self.is_ready = False
        await self._batcher.stop()
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _warm_up(self) -> None:
        """One pass on a small empty image: kernels are chosen and the model is prepared now, not during a request."""
        import numpy as np

        black = np.zeros((64, 64, self.predictor.settings.fewest_bands), dtype=np.uint8)
        self.predictor.run([self.predictor.prepare(black)])[0]()
        self.weights_sha256 = self.predictor.weights_sha256()  # takes seconds for a large model

    def describe(self) -> dict[str, Any]:
        """The description of the model, as JSON.

        Raises:
            NotReadyError: the service does not work.
        """
        if not self.is_ready:
            raise NotReadyError
        predictor, network = self.predictor, self.predictor.network
        info = network.model.info if isinstance(network, ModelNetwork) else None
        info = info or getattr(getattr(network, "info", None), "model", None) or ModelInfo()
        return {
            "name": self.name,
            "version": mask2former.__version__,
            "weights_sha256": self.weights_sha256,
            "tasks": list(predictor.settings.tasks),
            "default_task": predictor.settings.default_task,
            "classes": predictor.categories.to_dict()["categories"],
            "settings": predictor.recorded_settings,
            "license": info.license,
            "metrics": {name: value for name, value in info.metrics.items() if math.isfinite(value)},
            "device": str(predictor.device),
        }

    # --- what is taken ------------------------------------------------------------------------------------------------

    @contextmanager
    def admitted(self) -> Iterator[Callable[[int], None]]:
        """A place in the queue, held until the block ends; what it yields takes more places, up to a total.

        Raises:
            BusyError: there are not enough places.
            NotReadyError: the service does not work.
        """
        if not self.is_ready:  # otherwise the images would wait for a worker that does not exist
            raise NotReadyError
        held = 0

        def hold(count: int) -> None:
            nonlocal held
            if self._pending + count - held > self.limits.queue:
                raise BusyError(max(1, math.ceil(self._pending * self._seconds_per_image)))
            self._pending, held = self._pending + count - held, count

        hold(1)
        try:
            yield hold
        finally:
            self._pending -= held

    def check(self, wanted: Wanted) -> None:
        """Refuse what can be refused before an image is read.

        Raises:
            UserError: the model does not support the task, a setting, a class or the form of the output.
        """
        [task] = self.predictor.choose_tasks(wanted.task)
        override(self.predictor.settings, wanted.overrides, self.predictor.categories)
        if task == "instance" and (wanted.output == "ids" or wanted.masks == "png"):
            raise UserError(
                "instances may overlap, so there is no map of their ids; request masks=rle or masks=polygons, or the "
                "task panoptic"
            )

    # --- one image ----------------------------------------------------------------------------------------------------

    async def segment(self, file: NamedBytes, wanted: Wanted) -> Called[bytes]:
        """Read, segment and encode an image. If cancelled, it does not use the network any more.

        Args:
            file: the content of an image file.
            wanted: accepted by :meth:`check`.

        Returns:
            A JSON object or a PNG file, and how it went through the network.

        Raises:
            UserError: the image cannot be read; :class:`TooLargeError` if it has too many pixels.
            LackOfMemoryError: there is not enough memory at the moment.
            FaultError: the model fails.
        """
        shown, notes = await self._in_thread(self._prepare, file, wanted)
        called = await self._batcher(shown, self.predictor.batch_key(shown.size_hw, shown.settings))
        content = await self._in_thread(self._encode, file, called.result, wanted, notes)
        self.metrics.segmented(called.waited)
        return Called(content, *called[1:])

    async def _in_thread(self, function: Callable[..., _T], *args: Any) -> _T:
        context = copy_context()  # with the id of the request, for what is logged there
        return await asyncio.get_running_loop().run_in_executor(self._threads, lambda: context.run(function, *args))

    def _prepare(self, file: NamedBytes, wanted: Wanted) -> tuple[Shown, list[str]]:
        try:
            height, width = image_size(file)
        except PixelLimitError as error:  # which comes before ours
            raise TooLargeError(str(error).partition(", or raise ")[0]) from error
        if height * width > self.limits.megapixels * 1e6:
            raise TooLargeError(
                f"'{file}' has {height}x{width} pixels (height x width); at most {self.limits.megapixels:g} million "
                "are accepted; make it smaller"
            )
        with collect_notes() as notes:
            shown = self.predictor.prepare(file, **wanted.overrides)
        return shown, sentences(notes)

    def _run(self, images: Sequence[Shown]) -> Sequence[PredictedImage]:
        """Through the network.

        Raises:
            LackOfMemoryError: it does not fit.
            FaultError: any other reason, none of which is a fault of the request: its images have been read.
        """
        try:
            return self.predictor.run(images)
        except Exception as error:  # of the network, which may be of any kind
            if is_lack_of_memory(error):
                raise LackOfMemoryError(
                    "the image does not fit into the memory that is left; try again later"
                ) from error
            self.is_broken |= ends_run(error, self.predictor.device)
            raise FaultError(f"the model failed: {type(error).__name__}: {error}") from error

    def _observe(self, num_images: int, seconds: float) -> None:
        self.metrics.called(num_images, seconds)
        share = seconds / num_images
        self._seconds_per_image = share if not self._seconds_per_image else 0.8 * self._seconds_per_image + 0.2 * share

    def _encode(self, file: NamedBytes, found: PredictedImage, wanted: Wanted, notes: list[str]) -> bytes:
        result: Segmentation = found(wanted.task)
        if wanted.output == "overlay":
            return result.overlay_png(found.shown.rgb)
        if wanted.output == "ids":
            [content] = result.label_png().values()
            return content
        recorded = self.predictor.recorded_settings
        used = found.shown.settings.model_dump(mode="json")
        values = result.to_dict(
            model=self.name,
            settings={name: used.get(name, value) for name, value in recorded.items()},
            masks="none" if wanted.masks == "png" else wanted.masks,
        )
        if wanted.masks == "png":
            [content] = result.label_png().values()
            values["label_map"] = base64.b64encode(content).decode("ascii")
        values |= {"image": str(file), "notes": notes}
        return encode_json(values).encode()
