"""Small training runs for the tests in this folder."""

from __future__ import annotations

import contextlib
import csv
import io
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from mask2former.config import ModelConfig, RunConfig, parse

if TYPE_CHECKING:
    from mask2former.training.run import TrainingResult

SHORT = {"max_steps": 4, "accelerator": "cpu", "log_interval": 1, "checkpoint_interval": 2}


def run_values(output: Path, **changes: object) -> dict:
    """Settings of a run that takes a second or two; it draws no images, which would take as long as the steps."""
    values = {
        "model": {
            "backbone": {
                "name": "timm",
                "model": "resnet10t",
                "norm": "batch",
                "kwargs": {"channels": [16, 32, 32, 64]},
            },
            "pixel_decoder": {"dim": 32, "mask_dim": 32, "num_layers": 1, "num_heads": 2, "feedforward_dim": 32},
            "transformer_decoder": {
                "dim": 32,
                "num_queries": 20,
                "num_layers": 2,
                "num_heads": 2,
                "feedforward_dim": 32,
            },
            "inference": {"short_edge": 0, "score_threshold": 0.5, "overlap_threshold": 0.5},
        },
        "criterion": {"num_points": 128},
        "data": {
            "dataset": {"name": "scenes", "image_size": [64, 64], "num_training": 8, "num_validation": 2},
            "batch_size": 4,
            "num_workers": 0,
        },
        "optim": {"schedule": "step", "backbone_multiplier": 1.0},
        "trainer": dict(SHORT),
        "evaluation": {"interval": 2},
        "output": str(output),
        "seed": 5,
    }
    for path, value in changes.items():
        group, _, name = path.partition("__")
        values[group] = {**values[group], name: value} if name else value
    values["evaluation"] = {"num_images": 0, **values["evaluation"]}
    return values


class Finished(NamedTuple):
    """A run with what it returned and what it printed."""

    folder: Path
    result: TrainingResult
    shown: str


def finish(config: RunConfig, *, resume: bool = False) -> Finished:
    from mask2former.training.run import train

    with contextlib.redirect_stdout(io.StringIO()) as shown:
        result = train(config, resume=resume)
    return Finished(Path(config.output), result, shown.getvalue())


def table(run: Path) -> list[dict[str, str]]:
    with (run / "metrics.csv").open() as stream:
        return list(csv.DictReader(stream))


def config_of(output: Path, **changes: object) -> RunConfig:
    return parse(RunConfig, run_values(output, **changes), "test")


def save_random(config: ModelConfig, folder: Path) -> Path:
    """A checkpoint with random weights and the classes of scenes."""
    import torch

    from mask2former import checkpoints
    from mask2former.models.build import build_model
    from mask2former.scenes import SCENE_CATEGORIES

    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = build_model(config, len(SCENE_CATEGORIES))
    model.categories = SCENE_CATEGORIES
    path = folder / "tiny.safetensors"
    checkpoints.save(model, path)
    return path
