from __future__ import annotations

from dataclasses import replace
from typing import Literal

import pytest
import torch

from mask2former.checkpoints.checkpoint import Checkpoint
from mask2former.checkpoints.formats.backbones import Backbone
from mask2former.checkpoints.initial import Initial
from mask2former.config import MaskedDecoderConfig, ModelConfig, MSDeformAttnConfig, RunConfig, TimmConfig, changed
from mask2former.errors import UserError
from mask2former.structures import Categories
from mask2former.training.start import completed, initial_model

SMALL = ModelConfig(
    backbone=TimmConfig(model="convnext_atto", kwargs={"depths": [1, 1, 1, 1], "dims": [8, 16, 16, 32]}),
    pixel_decoder=MSDeformAttnConfig(dim=32, mask_dim=32, num_layers=1, num_heads=2, feedforward_dim=32),
    transformer_decoder=MaskedDecoderConfig(dim=32, num_queries=5, num_layers=1, num_heads=2, feedforward_dim=32),
)


def test_depthwise_convolutions_train_in_float32_in_bfloat16_too() -> None:
    model, _ = initial_model(RunConfig(model=SMALL), None, Categories.from_names(["cell"]), Initial(), None)
    dtypes = list[torch.dtype]()
    for part in model.modules():
        if isinstance(part, torch.nn.Conv2d) and part.groups > 1:
            part.register_forward_hook(lambda _, __, output: dtypes.append(output.dtype))
    with torch.autocast("cpu", torch.bfloat16):
        model.train()(torch.rand(1, 1, 3, 64, 64))
    assert dtypes == [torch.float32] * 4


@pytest.mark.parametrize("norm", ["frozen", "batch"])
def test_norms_that_are_frozen_at_random_weights_are_noted(
    norm: Literal["frozen", "batch"], capsys: pytest.CaptureFixture[str]
) -> None:
    """As in the published recipes of ResNets, which say only in a comment with what weights they start."""
    backbone = TimmConfig(model="resnet10t", norm=norm, kwargs={"channels": [8, 8, 8, 8]})
    run = RunConfig(model=SMALL.model_copy(update={"backbone": backbone}))
    initial_model(run, None, Categories.from_names(["cell"]), Initial(), None)
    shown = capsys.readouterr().out
    assert shown.startswith("Starting from random weights\n")
    assert ("the batch norms of the backbone are frozen (model.backbone.norm=frozen)" in shown) == (norm == "frozen")


def test_settings_of_another_type_are_left_to_the_checks_of_settings() -> None:
    values = {"model": {"init": "scenes-tiny", "init_partial": True, "init_backbone": 3}}
    assert completed(values) == values


def test_a_replaced_backbone_is_not_said_to_come_from_the_initial_model(capsys: pytest.CaptureFixture[str]) -> None:
    classes = Categories.from_names(["cell"])
    model, _ = initial_model(RunConfig(model=SMALL), None, classes, Initial(), None)
    state = model.state_dict()
    info = replace(model.info, architecture=SMALL.architecture)
    own = {name: value + 1 for name, value in state.items() if name.startswith("backbone.")}
    start = Initial(Checkpoint(info, state, "old"), Backbone(SMALL.backbone, own))
    settings = SMALL.model_copy(update={"init": "old", "init_partial": True, "init_backbone": "new"})
    started, _ = initial_model(RunConfig(model=settings), None, classes, start, None)
    shown = capsys.readouterr().out
    assert "Taking the backbone of new" in shown
    assert "Starting from old with all of its weights except the backbone\n" in shown
    assert all(torch.equal(started.state_dict()[name], value) for name, value in own.items())


def test_a_threshold_of_a_class_that_the_data_lack_is_refused_before_training() -> None:
    run = RunConfig(model=changed(SMALL, {"inference.class_thresholds": {"cel": 0.3}}))
    with pytest.raises(UserError, match="class_thresholds names cel, but the classes are cell"):
        initial_model(run, None, Categories.from_names(["cell"]), Initial(), None)


def test_weights_that_were_trained_with_other_attention_are_noted(capsys: pytest.CaptureFixture[str]) -> None:
    classes = Categories.from_names(["cell"])
    first, _ = initial_model(RunConfig(model=SMALL), None, classes, Initial(), None)
    start = Initial(Checkpoint(replace(first.info, architecture=SMALL.architecture), first.state_dict(), "old"))
    settings = changed(SMALL, {"init": "old", "transformer_decoder.attention": "full"})
    initial_model(RunConfig(model=settings), None, classes, start, None)
    shown = capsys.readouterr().out
    assert (
        "note: the weights of old were trained with other settings: attention is full here and was masked there\n"
        in shown
    )


@pytest.mark.parametrize("seed", [0, 1])
def test_a_new_class_head_is_not_that_from_which_the_initial_model_was_trained(seed: int) -> None:
    old, new = Categories.from_names(["cell"]), Categories.from_names(["car", "tree"])
    torch.manual_seed(seed)  # as a run does before it builds its model
    first, _ = initial_model(RunConfig(model=SMALL, seed=seed), None, old, Initial(), None)
    start = Initial(Checkpoint(replace(first.info, architecture=SMALL.architecture), first.state_dict(), "old"))
    run = RunConfig(model=SMALL.model_copy(update={"init": "old", "init_partial": True}), seed=seed)
    heads = []
    for _ in range(2):
        torch.manual_seed(seed)
        model, _ = initial_model(run, None, new, start, None)
        heads.append(model.transformer_decoder.state_dict()["class_head.weight"])
    before = first.transformer_decoder.state_dict()["class_head.weight"]
    assert torch.equal(heads[0], heads[1])
    assert torch.cosine_similarity(heads[0][0], before[0], dim=0).abs() < 0.5
