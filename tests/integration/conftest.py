from __future__ import annotations

import os
import pickle
import warnings
from pathlib import Path

import pytest
from filelock import FileLock
from runs import Finished, config_of, finish, save_random

from mask2former.config import (
    DataConfig,
    EvaluationConfig,
    InferenceConfig,
    MaskedDecoderConfig,
    ModelConfig,
    MSDeformAttnConfig,
    RunConfig,
    ScenesConfig,
    TimmConfig,
    TrainerConfig,
)


@pytest.fixture(scope="session")
def tiny_config() -> ModelConfig:
    """Settings of a model with a quarter of a million parameters."""
    return ModelConfig(
        backbone=TimmConfig(model="resnet10t", norm="batch", kwargs={"channels": [16, 24, 32, 40]}),
        pixel_decoder=MSDeformAttnConfig(dim=64, mask_dim=64, num_layers=1, num_heads=4, feedforward_dim=64),
        transformer_decoder=MaskedDecoderConfig(dim=64, num_queries=10, num_layers=1, num_heads=4, feedforward_dim=64),
        inference=InferenceConfig(
            short_edge=64, long_edge=96, score_threshold=0.0, instance_threshold=0.0, overlap_threshold=0.0
        ),
    )


@pytest.fixture(scope="session")
def tiny_file(tiny_config: ModelConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint with random weights and the classes of scenes."""
    return save_random(tiny_config, tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="session")
def tiny_run(tiny_config: ModelConfig) -> RunConfig:
    """Settings of a run with two steps on small scenes, two of which are for validation."""
    return RunConfig(
        model=tiny_config,
        data=DataConfig(dataset=ScenesConfig(image_size=(64, 64), num_validation=2), batch_size=2, num_workers=0),
        trainer=TrainerConfig(max_steps=2, accelerator="cpu", checkpoint_interval=1, log_interval=1),
        evaluation=EvaluationConfig(interval=2, num_images=0),
    )


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """A finished run of four steps with validation images, made once for all processes; tests must not change it."""
    folder = tmp_path_factory.getbasetemp()
    folder = folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder
    done = folder / "finished.pkl"
    with FileLock(folder / "finished.lock"):
        if not done.exists():
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # advice of Lightning
                run = finish(config_of(folder / "finished", evaluation__num_images=2))
            done.write_bytes(pickle.dumps(run))
    return pickle.loads(done.read_bytes())
