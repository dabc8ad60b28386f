"""The elements of settings: strict, frozen models, and numbers with their ranges."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ModelWrapValidatorHandler, ValidationError, model_validator

from mask2former import limits
from mask2former.config.old_names import with_new_names

__all__ = [
    "Batch",
    "ConfigT",
    "Decay",
    "Detections",
    "Frames",
    "NonNegativeFloat",
    "NonNegativeInt",
    "PixelMean",
    "PixelStd",
    "PositiveFloat",
    "PositiveInt",
    "Probability",
    "Resampling",
    "SceneNumber",
    "Strict",
    "Task",
]

Task = Literal["panoptic", "instance", "semantic"]
# How images are resized: bilinear in both cases. When an image shrinks, "antialiased" widens the filter, like Pillow;
# "bilinear" computes a pixel from four at any size, like OpenCV.
Resampling = Literal["antialiased", "bilinear"]
ConfigT = TypeVar("ConfigT", bound=BaseModel)
Probability = Annotated[float, Field(ge=0.0, le=1.0)]
PositiveFloat = Annotated[float, Field(gt=0.0, allow_inf_nan=False)]
NonNegativeFloat = Annotated[float, Field(ge=0.0, allow_inf_nan=False)]
# Values that no run needs, and that would exhaust memory or take days, are rejected before a run starts: see limits.py.
PositiveInt = Annotated[int, Field(gt=0, le=limits.INTEGER)]
NonNegativeInt = Annotated[int, Field(ge=0, le=limits.INTEGER)]
Batch = Annotated[int, Field(gt=0, le=limits.BATCH)]
Frames = Annotated[int, Field(gt=0, le=limits.CLIP_FRAMES)]
Detections = Annotated[int, Field(gt=0, le=limits.DETECTIONS)]
SceneNumber = Annotated[int, Field(ge=0, le=limits.SCENE)]
# In the range 0..255. Both limits are far beyond published values (means of 0 to 127.5, deviations of 36 to 255): a
# deviation below 1 belongs to values in 0..1.
PixelMean = Annotated[float, Field(ge=0.0, le=255.0, allow_inf_nan=False)]
PixelStd = Annotated[float, Field(ge=1.0, le=1000.0, allow_inf_nan=False)]
Decay = Annotated[float, Field(ge=0.0, lt=1.0)]


class Strict(BaseModel):
    """Immutable settings without unknown names; names used up to 0.1.0 are accepted for the current ones.

    Pydantic takes true for 1 and 1 for true, which nobody means; here neither is taken for the other.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    @model_validator(mode="wrap")
    @classmethod
    def _with_new_names(cls, values: Any, validate: ModelWrapValidatorHandler[Self]) -> Self:
        if not isinstance(values, dict):
            return validate(values)
        given = with_new_names(values, cls.model_fields)
        result = validate(given)
        wrong = [
            name
            for name, value in given.items()
            if name in cls.model_fields and _is_taken_for_another(value, getattr(result, name))
        ]
        if wrong:
            raise ValidationError.from_exception_data(
                cls.__name__,
                [
                    {
                        "type": "float_type" if isinstance(given[name], bool) else "bool_type",
                        "loc": (name,),
                        "input": given[name],
                    }
                    for name in wrong
                ],
            )
        return result


def _is_taken_for_another(value: Any, result: Any) -> bool:
    """Whether a truth value has become a number, or a number a truth value; groups check their own settings."""
    if value is result:  # not converted, such as free arguments, which may be nested without end
        return False
    if isinstance(value, list | tuple) and isinstance(result, list | tuple):
        return any(map(_is_taken_for_another, value, result))
    if isinstance(value, dict) and isinstance(result, dict):
        return any(map(_is_taken_for_another, value.values(), result.values()))
    numbers = (int, float)
    return (
        isinstance(value, numbers)
        and isinstance(result, numbers)
        and isinstance(value, bool) != isinstance(result, bool)
    )
