"""What ``check-data`` says about the model that a run starts from."""

from __future__ import annotations

from mask2former.config import ModelConfig, RunConfig
from mask2former.dataset_tools.check_data import _with_start


def test_a_backbone_that_cannot_be_read_is_named() -> None:
    run = RunConfig(model=ModelConfig(init="coco-instance/r50", init_partial=True, init_backbone="missing"))
    same, [note] = _with_start(run)
    assert same is run
    assert "model.init 'coco-instance/r50' and model.init_backbone 'missing' cannot be read" in note
