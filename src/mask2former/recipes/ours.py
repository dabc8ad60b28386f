"""Our own runs: how the packaged model was trained."""

from __future__ import annotations

from mask2former.config import (
    CriterionConfig,
    DataConfig,
    EvaluationConfig,
    InferenceConfig,
    MaskedDecoderConfig,
    ModelConfig,
    MSDeformAttnConfig,
    OptimConfig,
    RunConfig,
    ScenesConfig,
    TimmConfig,
    TrainerConfig,
)

__all__ = ["scenes_tiny", "scenes_tiny_start"]


def _scenes_run(size: int, output: str, init: str | None) -> RunConfig:
    """What both halves of the packaged model's training share: 3.7 million parameters, no pretrained weights."""
    return RunConfig(
        model=ModelConfig(
            backbone=TimmConfig(model="resnet10t", norm="batch", arguments={"channels": [48, 96, 192, 320]}),
            pixel_decoder=MSDeformAttnConfig(dim=128, mask_dim=128, num_layers=3, num_heads=4, feedforward_dim=256),
            transformer_decoder=MaskedDecoderConfig(
                dim=128, num_queries=32, num_layers=3, num_heads=4, feedforward_dim=512
            ),
            inference=InferenceConfig(
                short_edge=size,
                long_edge=2 * size,
                score_threshold=0.5,
                overlap_threshold=0.6,
                max_instances=50,
            ),
            init=init,
        ),
        data=DataConfig(dataset=ScenesConfig(image_size=(size, size)), num_workers=1),
        trainer=TrainerConfig(precision="bf16"),
        output=output,
    )


def scenes_tiny_start() -> RunConfig:
    """First half of ``scenes-tiny``: 1,000 steps at 128 pixels, from random weights.

    The schedule is that of 5,500 steps, so the rate is still high at the end. Measured: panoptic quality 53.7 on the
    validation scenes after 12 minutes on two cores (AMD Zen 5, bf16).
    """
    run = _scenes_run(128, "runs/scenes-tiny-start", init=None)
    return run.model_copy(
        update={
            "criterion": CriterionConfig(num_points=512),
            "optim": OptimConfig(
                lr=5e-4,
                backbone_multiplier=1.0,
                warmup_steps=100,
                warmup_factor=0.01,
                ema_decay=0.998,
                schedule_steps=5500,
            ),
            "trainer": run.trainer.model_copy(update={"max_steps": 1000}),
            "evaluation": EvaluationConfig(every=500),
        }
    )


def scenes_tiny() -> RunConfig:
    """Second half of the packaged model ``scenes-tiny``: 3,600 steps at 192 pixels, from the first half's weights.

    Measured: panoptic quality 79.0 on the validation scenes; PQ 81.5, AP 56.1, mIoU 87.2 on the 50 scenes of
    ``mask2former demo``, which are in neither training nor validation. Took an hour on one core (AMD Zen 5, bf16).
    """
    run = _scenes_run(192, "runs/scenes-tiny", init="runs/scenes-tiny-start/model.safetensors")
    return run.model_copy(
        update={
            "criterion": CriterionConfig(num_points=1024),
            "data": run.data.model_copy(update={"total_batch": 8}),
            "optim": OptimConfig(
                lr=4e-4, backbone_multiplier=1.0, warmup_steps=100, warmup_factor=0.01, ema_decay=0.998
            ),
            "trainer": run.trainer.model_copy(update={"max_steps": 3600}),
            "evaluation": EvaluationConfig(every=300),
        }
    )
