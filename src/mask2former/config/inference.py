"""How a model is used: inference settings, which are stored with it, and tracking."""

from __future__ import annotations

from typing import Any, Literal, TypedDict

from pydantic import Field, TypeAdapter, ValidationError, field_validator, model_validator

from mask2former import limits
from mask2former.config.fields import (
    Detections,
    Frames,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveInt,
    Probability,
    Resampling,
    Strict,
    Task,
)
from mask2former.errors import UserError
from mask2former.value_range import Range, ValueRange, as_value_range, ranges_of_bands

__all__ = ["InferenceConfig", "Reading", "TrackingConfig"]

_PROBABILITY = TypeAdapter(Probability)
_OF_TOOLBOXES = ("resampling",)  # settings that only exist for the models of toolboxes


class Reading(TypedDict, total=False):
    """How image files are read for a model, as arguments of :func:`mask2former.media.images.read_image`."""

    value_range: ValueRange | None
    bands: int | tuple[int, ...] | None


class InferenceConfig(Strict):
    """Inference settings; stored in the checkpoint."""

    tasks: tuple[Task, ...] = ("panoptic", "instance", "semantic")  # the tasks that the model was trained for
    short_edge: NonNegativeInt = 800  # pixels; 0 keeps the size of the image
    long_edge: PositiveInt = 1333  # upper limit, pixels
    # how images are resized; models of OpenMMLab and SSSegmentation were trained with bilinear
    resampling: Resampling = "antialiased"
    resize_masks_first: bool = True  # False: class scores are computed at the padded size (semantic-only models)
    things_only: bool = True  # instances: drop stuff classes (panoptic models)
    # instances: choose max_instances among things; False, as published: stuff is chosen, too, and dropped afterwards
    things_first: bool = False
    score_threshold: Probability = 0.8  # panoptic: a segment needs a higher class probability
    # instances and tracks: those with at least this score are predicted, and the others are candidates. Our own
    # setting, not a published one, since average precision counts all candidates
    instance_threshold: Probability = 0.5
    # instances: thresholds by class name, which replace instance_threshold
    class_thresholds: dict[str, Probability] = Field(default_factory=dict)
    overlap_threshold: Probability = 0.8
    max_instances: Detections = 100
    # instances: a pixel belongs only to the best instance, and an instance that keeps less than overlap_threshold of
    # its mask is dropped; for objects that cannot overlap. Published: they may overlap
    non_overlapping: bool = False
    # side, in pixels of the image, of tiles that are segmented one by one and joined; each is resized by short_edge /
    # tile. 0: the complete image at once, as published
    tile: NonNegativeInt = 0
    tile_overlap: NonNegativeInt = 32  # pixels of the image that neighbours share at least
    # pixels: for tiles and instance-only models, the diameter of the objects on which the model was trained. Images
    # whose objects have another median diameter are cut again, into tiles of another side. 0: one side for all
    diameter: NonNegativeFloat = 0.0
    classes: tuple[str, ...] | None = None  # results contain only these classes, by name; None: all
    min_area: NonNegativeInt = 0  # pixels of the image; smaller segments, instances and class masks are left out
    # values that become 0 and 255 in images that are not 8-bit, including training, for instance [0, 4095] for 12-bit
    # cameras; or such a pair for each band, in their order: [[0, 4095], [0, 900]]; full: those of the bit depth;
    # percentile: 0.5 % and 99.5 % of the values of each image. None, or auto: those in the file, otherwise inferred
    # from the values (see media/images.py)
    value_range: Range | tuple[Range, ...] | Literal["full", "percentile"] | None = None
    # for models with other channels than R, G and B, the bands of an image that the model sees, including training:
    # band numbers from 1, in this order, for instance [4, 3, 2]; or a number: all bands of images that have exactly
    # that many. None: red, green and blue of any file
    bands: int | tuple[int, ...] | None = None

    @field_validator("value_range", mode="before")
    @classmethod
    def _known_range(cls, value: Any) -> Any:
        return as_value_range(value)

    @field_validator("bands", mode="before")
    @classmethod
    def _known_bands(cls, value: Any) -> Any:
        numbers = value if isinstance(value, list | tuple) else () if value is None else (value,)
        most = limits.IMAGE_PAGES if isinstance(value, list | tuple) else limits.CHANNELS
        is_fine = all(type(number) is int and 1 <= number <= most for number in numbers)
        if not is_fine or len(numbers) > limits.CHANNELS or (value is not None and not numbers):
            raise ValueError(
                f"expected up to {limits.CHANNELS} band numbers, each from 1 to {limits.IMAGE_PAGES}, or the number "
                f"of bands of the images, 1 to {limits.CHANNELS}"
            )
        return tuple(numbers) if isinstance(value, list | tuple) else value

    @model_validator(mode="before")
    @classmethod
    def _one_threshold(cls, values: Any) -> Any:
        """An instance model without panoptic has one threshold, which was called score_threshold until 0.1.0."""
        if not isinstance(values, dict) or "score_threshold" not in values or not cls._lacks_panoptic(values):
            return values
        try:
            _PROBABILITY.validate_python(values["score_threshold"])
        except ValidationError:
            return values  # it is refused by the name under which it was set
        values = dict(values)
        if "instance_threshold" not in values:
            values["instance_threshold"] = values.pop("score_threshold")
        elif values["score_threshold"] not in (
            values["instance_threshold"],
            cls.model_fields["score_threshold"].default,
        ):
            raise ValueError(
                f"score_threshold {values['score_threshold']} applies to panoptic segments, which this model does not "
                "predict; set instance_threshold"
            )
        else:  # otherwise a call with another instance_threshold would conflict with a default that nobody chose
            del values["score_threshold"]
        return values

    @staticmethod
    def _lacks_panoptic(values: dict[str, Any]) -> bool:
        tasks = values.get("tasks")
        return isinstance(tasks, list | tuple) and "instance" in tasks and "panoptic" not in tasks

    @model_validator(mode="after")
    def _some_task(self) -> InferenceConfig:
        if not self.tasks or len(set(self.tasks)) != len(self.tasks):
            raise ValueError(f"tasks must name at least one task, each once; got {self.tasks}")
        if 0 < self.tile < 16:
            raise ValueError(f"tile must be 0, for whole images, or at least 16 pixels, got {self.tile}")
        if self.tile and self.tile_overlap > self.tile // 2:
            raise ValueError(f"tile_overlap {self.tile_overlap} must be at most half of tile {self.tile}")
        if self.tile and self.short_edge > limits.TILE_SCALE * self.tile:  # each tile would become a very large image
            raise ValueError(
                f"short_edge {self.short_edge} must be at most {limits.TILE_SCALE} times tile {self.tile}; set a "
                "larger tile, or a smaller short_edge"
            )
        if self.diameter and not (self.tile and self.short_edge):
            raise ValueError(f"diameter {self.diameter} applies to tiles: set tile and short_edge too")
        if self.diameter and self.tasks != ("instance",):
            raise ValueError(
                f"diameter {self.diameter} applies to models for instances only, but this one has the tasks "
                f"{', '.join(self.tasks)}; leave it out (0)"
            )
        return self

    @model_validator(mode="after")
    def _a_range_for_each_band(self) -> InferenceConfig:
        ranges = ranges_of_bands(self.value_range)
        if ranges is not None and (self.bands is None or len(ranges) != self.channels):
            stand = "is not set" if self.bands is None else f"specifies {self.channels}"
            raise ValueError(
                f"value_range has {len(ranges)} range{'s' * (len(ranges) != 1)}, one per band, but bands {stand}; "
                "give the same number of both, in the same order, or one range for all"
            )
        return self

    @property
    def channels(self) -> int:
        """Number of channels that the network sees."""
        return 3 if self.bands is None else self.bands if isinstance(self.bands, int) else len(self.bands)

    @property
    def fewest_bands(self) -> int:
        """Least number of bands that an image needs to be read."""
        return max(self.bands) if isinstance(self.bands, tuple) else self.channels

    @property
    def as_read(self) -> dict[str, Any]:
        """Settings of a call for arrays whose bands were selected earlier."""
        return {} if self.bands is None else {"bands": self.channels}

    @property
    def reading(self) -> Reading:
        """How image files are read."""
        return {"value_range": self.value_range, "bands": self.bands}

    def for_channels(self, channels: int) -> InferenceConfig:
        """The settings of a model with this number of channels; settings without ``bands`` fit any number.

        Raises:
            UserError: they select another number of bands.
        """
        if self.bands is None and channels != 3:
            return self.model_copy(update={"bands": channels})
        if self.channels != channels:
            raise UserError(
                f"the inference setting bands specifies {self.channels} channels, but the model has a mean of "
                f"{channels}; set bands to the same number"
            )
        return self

    def official(self) -> InferenceConfig:
        """The same settings, but with the values of the authors' code where other toolboxes differ: ``resampling``."""
        return self.model_copy(update={name: type(self).model_fields[name].default for name in _OF_TOOLBOXES})

    @property
    def default_task(self) -> Task:
        """Panoptic, else instance, else semantic: the first task for which the model was trained."""
        order: tuple[Task, ...] = ("panoptic", "instance", "semantic")
        return next(task for task in order if task in self.tasks)


class TrackingConfig(Strict):
    """How a clip of any length is cut into windows, and which objects of two windows are the same."""

    window: Frames | None = None  # frames that the model processes at once; None: 1, or 8 for clip models
    stride: PositiveInt | None = None  # frames from one window to the next; None: three quarters of the window
    # instance: minimum class probability of an object; None: the instance_threshold of the inference settings
    threshold: Probability | None = None
    max_lost: NonNegativeInt = 60  # frames without the object after which a track ends
    min_match: NonNegativeFloat = 1.2  # least sum of mask IoU, similarity and class agreement to continue a track
    min_similarity: Probability = 0.5  # least similarity times class agreement to resume a lost track

    @model_validator(mode="after")
    def _within(self) -> TrackingConfig:
        if self.stride is not None and self.stride > (self.window or self.stride):
            raise ValueError(f"stride {self.stride} must not be above window {self.window}, or frames would be skipped")
        return self
