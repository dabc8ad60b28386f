"""How a model learns and how it is measured: loss, optimizer, trainer, validation."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator

from mask2former import limits
from mask2former.config.fields import (
    Decay,
    Detections,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    Probability,
    Strict,
    Task,
)

__all__ = ["CriterionConfig", "EvaluationConfig", "OptimConfig", "TrainerConfig"]


class CriterionConfig(Strict):
    """Weights of loss and matching, and point sampling (Sec. 3.3)."""

    class_weight: NonNegativeFloat = 2.0
    mask_weight: NonNegativeFloat = 5.0
    dice_weight: NonNegativeFloat = 5.0
    no_object_weight: NonNegativeFloat = 0.1
    # weights in the class loss by class name (1 for others), or so that all classes count the same: balanced
    class_weights: Literal["balanced"] | dict[str, NonNegativeFloat] | None = None
    # how pixels of masks are compared: binary cross-entropy, or its focal form, as in MaskFormer
    mask_loss: Literal["bce", "focal"] = "bce"
    # where masks are compared, for matching and for the loss: at points, or at all pixels (Mask2Former, Table 5)
    match_on: Literal["points", "masks"] = "points"
    loss_on: Literal["points", "masks"] = "points"
    num_points: int = Field(default=12544, gt=0, le=limits.POINTS)
    oversample_ratio: float = Field(default=3.0, ge=1.0, le=100.0)
    importance_sample_ratio: Probability = 0.75
    # void and ignored pixels, crowd regions: background, as published, or in no mask loss and no matching cost
    void: Literal["background", "ignored"] = "background"

    @model_validator(mode="after")
    def _learns(self) -> CriterionConfig:
        if not (self.class_weight or self.mask_weight or self.dice_weight):
            raise ValueError(
                "nothing would be learned with class_weight, mask_weight and dice_weight 0; set one above 0"
            )
        return self


class OptimConfig(Strict):
    """AdamW, clipping and schedule."""

    lr: PositiveFloat = 1e-4
    weight_decay: NonNegativeFloat = 0.05
    betas: tuple[Decay, Decay] = (0.9, 0.999)
    eps: PositiveFloat = 1e-8
    backbone_multiplier: NonNegativeFloat = 0.1
    clip_norm: PositiveFloat = 0.01
    schedule: Literal["step", "poly"] = "poly"
    schedule_steps: PositiveInt | None = None  # length of the poly schedule; None: trainer.max_steps
    steps: tuple[NonNegativeInt, ...] = ()  # milestones of the step schedule
    gamma: PositiveFloat = 0.1
    poly_power: PositiveFloat = 0.9
    warmup_steps: NonNegativeInt = 0
    warmup_factor: NonNegativeFloat = 1.0
    ema_decay: Decay = 0.0  # 0: off
    freeze: tuple[str, ...] = ()  # parts of the model that are not trained, for instance [backbone]


class TrainerConfig(Strict):
    """Length, precision and hardware of the training."""

    max_steps: PositiveInt = 1000
    max_hours: PositiveFloat | None = None  # this start of the run then stops, with a checkpoint to resume from
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"  # fp16: with loss scaling, as published
    accelerator: Literal["auto", "cpu", "gpu"] = "auto"
    devices: int = Field(default=1, gt=0, le=limits.WORKERS)  # per machine
    num_nodes: int = Field(default=1, gt=0, le=limits.WORKERS)  # machines
    strategy: Literal["ddp", "fsdp"] = "ddp"  # fsdp: each device keeps a share of weights, moments and averages
    half_pixel_decoder: bool = False  # bf16: in the pixel decoder, too, which the published training keeps in float32
    channels_last: bool = False  # memory layout of images and kernels; faster in bf16 on CPUs
    gradient_checkpointing: bool = False  # less memory, about a third more time
    log_interval: PositiveInt = 20
    checkpoint_interval: PositiveInt = 500
    # where metrics are logged; csv, the file metrics.csv, is always on
    loggers: tuple[Literal["csv", "tensorboard", "wandb", "mlflow"], ...] = ("csv",)

    @model_validator(mode="before")
    @classmethod
    def _read_tensorboard(cls, values: Any) -> Any:
        """``tensorboard: true``, the form until 0.1.0."""
        if not isinstance(values, dict) or not isinstance(values.get("tensorboard"), bool):
            return values
        loggers = values.get("loggers", ("csv",))
        more = ("tensorboard",) if values["tensorboard"] and isinstance(loggers, list | tuple) else ()
        rest = {name: value for name, value in values.items() if name not in ("tensorboard", "loggers")}
        return rest | {"loggers": (*loggers, *more) if more else loggers}

    @model_validator(mode="after")
    def _range_of_half(self) -> TrainerConfig:
        if self.half_pixel_decoder and self.precision != "bf16":
            raise ValueError(f"half_pixel_decoder needs precision bf16 (fp16 overflows there), got {self.precision}")
        return self


class EvaluationConfig(Strict):
    """What is measured, and when during training."""

    interval: PositiveInt = 1000
    patience: PositiveInt | None = None  # stop after this many validations without a better monitor
    num_images: int = Field(
        default=6, ge=0, le=limits.SHOWN
    )  # validation samples that are drawn beside their ground truth, at each validation
    tasks: tuple[Task, ...] = ("panoptic",)
    monitor: str = "panoptic/PQ"
    # instances: after training, the score of the highest F1 on the validation data becomes the instance_threshold of
    # the stored model; per-class: also for each class with at least ten objects, in its class_thresholds
    choose_threshold: bool | Literal["per-class"] = True
    max_detections: Detections = 100  # instances: per image and class
    # instances: areas in pixels from which objects are medium and large; None: those of the official tools (COCO 32 and
    # 96 squared, YouTube-VIS 128 and 256 squared)
    area_limits: tuple[PositiveInt, PositiveInt] | None = None
    boundary: bool = False  # also boundary PQ, boundary AP and boundary IoU
    pooled_threshold: Probability | None = None  # instances: also pooled AP, for objects above this score
    semantic_segments: bool = False  # semantic: also PQ, with all pixels of a class in an image as one segment

    @model_validator(mode="after")
    def _rising(self) -> EvaluationConfig:
        if self.area_limits is not None and self.area_limits[0] >= self.area_limits[1]:
            raise ValueError(f"area_limits must be ascending, got {self.area_limits}")
        return self
