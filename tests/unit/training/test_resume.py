"""Resuming a run: each setting is in one list, and changes that are not allowed are rejected by name."""

from __future__ import annotations

import re
import types
import typing
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import BaseModel, create_model
from torch import nn

from mask2former.config import (
    EncoderOnlyConfig,
    FaPNConfig,
    InferenceConfig,
    MaskedDecoderConfig,
    ModelConfig,
    OptimConfig,
    RunConfig,
    StandardDecoderConfig,
    SwinConfig,
    TimmConfig,
    TrainerConfig,
    TransformerFPNConfig,
    leaves,
    parse,
)
from mask2former.errors import UserError
from mask2former.structures.categories import Categories
from mask2former.training.optim import build_optimizer, parameter_groups, regrouped
from mask2former.training.resume import FIXED, FREE, LastState, compare, record_of, setting_of

CLASSES = Categories.from_names(["cat", "dog", "sky"], ["cat", "dog"])


def kinds_of(annotation: Any) -> Iterator[type[BaseModel]]:
    """The configuration classes that an annotation allows, including those inside unions."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    elif typing.get_origin(annotation) in (typing.Union, types.UnionType, typing.Annotated):
        for part in typing.get_args(annotation):
            yield from kinds_of(part)


def every_setting(kind: type[BaseModel] = RunConfig, prefix: str = "") -> Iterator[str]:
    """The dotted name of each setting, of all kinds of backbones, data sets and so on."""
    for name, field in kind.model_fields.items():
        inner = list(kinds_of(field.annotation))
        for one in inner:
            yield from every_setting(one, f"{prefix}{name}.")
        if not inner or type(None) in typing.get_args(field.annotation):  # of which there may be none
            yield prefix + name


def last_state(config: RunConfig | None = None, step: int = 300, **changes: Any) -> LastState:
    state = LastState(
        Path("run/checkpoints/last.ckpt"), step, config or RunConfig(), len(CLASSES), CLASSES, (8, 2), None, 0, ()
    )
    return replace(state, **changes)


def changed(value: BaseModel, path: str, new: Any) -> Any:
    """A copy with one setting replaced, not validated."""
    name, _, rest = path.partition(".")
    inner = changed(getattr(value, name), rest, new) if rest else new
    return value.model_copy(update={name: inner})


def another(value: Any) -> Any:
    """Another value of the same type."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, dict):
        return {"other": 1}
    if isinstance(value, list):
        return tuple(another(item) for item in value) if value else (7,)
    return f"{value}x" if isinstance(value, str) else value + 1 if value is not None else 1


def test_every_setting_either_takes_effect_or_must_be_equal() -> None:
    known = {setting_of(name) for name in every_setting()}
    assert not FIXED & FREE
    assert known == FIXED | FREE


def test_a_new_setting_is_in_neither_list() -> None:
    inference = create_model("More", __base__=InferenceConfig, new=(int, 3))
    model = create_model("MoreModel", __base__=ModelConfig, inference=(inference, inference()))
    run = create_model("MoreRun", __base__=RunConfig, model=(model, model()))
    assert {setting_of(name) for name in every_setting(run)} - (FIXED | FREE) == {"model.inference.new"}


def test_the_enumeration_knows_all_that_a_run_has() -> None:
    assert leaves(RunConfig()).keys() <= set(every_setting())


KINDS = {
    "model.backbone": (TimmConfig(), SwinConfig()),
    "model.pixel_decoder": (TransformerFPNConfig(), FaPNConfig()),
    "model.transformer_decoder": (StandardDecoderConfig(), EncoderOnlyConfig()),
}


def run_with(path: str) -> RunConfig:
    """A run configuration that has this setting: the default, or the default with one part of another kind."""
    others = [changed(RunConfig(), part, kind) for part, kinds in KINDS.items() for kind in kinds]
    return next(run for run in (RunConfig(), *others) if path in leaves(run))


@pytest.mark.filterwarnings("ignore:Pydantic serializer warnings")  # words that the setting does not allow
@pytest.mark.parametrize("path", sorted(FIXED))
def test_what_must_be_equal_is_refused_with_both_values(path: str) -> None:
    run = run_with(path)
    old = leaves(run)[path]
    new = another(old)
    with pytest.raises(UserError) as refused:
        compare(last_state(run), changed(run, path, new), CLASSES, (8, 2))
    assert f"{path} was {list(old) if isinstance(old, tuple) else old} and is " in str(refused.value)
    assert "start a new run in another output directory" in str(refused.value)


@pytest.mark.filterwarnings("ignore:Pydantic serializer warnings")  # words that the setting does not allow
@pytest.mark.parametrize("path", sorted(path for path in FREE if path not in ("data.dataset", "data.augmentation")))
def test_what_takes_effect_is_said(path: str) -> None:
    run = run_with(path)
    notes = compare(last_state(run, step=0), changed(run, path, another(leaves(run)[path])), CLASSES, (8, 2)).notes
    assert path == "output" or any(f"1 setting changes after step 0 (before -> now): {path} " in note for note in notes)


@pytest.mark.filterwarnings("ignore:Pydantic serializer warnings")  # values that the setting does not allow
def test_all_that_changes_is_in_one_note_with_its_count() -> None:
    now = changed(RunConfig(), "criterion", RunConfig().criterion.model_copy(update={"void": "ignore"}))
    paths = [path for path in sorted(FREE) if path.startswith("evaluation.") and path in leaves(now)]
    for path in paths:
        now = changed(now, path, another(leaves(now)[path]))
    notes = [note for note in compare(last_state(), now, CLASSES, (8, 2)).notes if "(before -> now)" in note]
    assert len(paths) > 8
    assert len(notes) == 1
    assert notes[0].startswith(f"{len(paths) + 1} settings change after step 300 (before -> now): ")
    assert all(f"{path} {leaves(RunConfig())[path]} -> " in notes[0] for path in paths)


@pytest.mark.parametrize(
    ("names", "things", "words"),
    [
        (["dog", "cat", "sky"], None, "in another order: class 0 was 'cat' but is 'dog' now"),
        (["cat", "dog"], None, r"other classes \(gone: sky \(stuff\)\): 3 before, 2 now"),
        (["cat", "dog", "sea"], None, r"gone: sky \(stuff\); new: sea \(stuff\)"),
        (["cat", "dog", "sky"], ["cat", "dog", "sky"], r"gone: sky \(stuff\); new: sky"),
    ],
)
def test_other_classes_are_refused(names: list[str], things: list[str] | None, words: str) -> None:
    with pytest.raises(UserError, match=words):
        compare(last_state(), RunConfig(), Categories.from_names(names, things or ["cat", "dog"]), (8, 2))


def test_without_a_record_the_number_of_classes_is_compared() -> None:
    old = last_state(categories=None, num_samples=None)
    assert compare(old, RunConfig(), CLASSES, (9, 3)).notes == ()
    with pytest.raises(UserError, match="has 2 classes, but the run was trained with 3"):
        compare(old, RunConfig(), Categories.from_names(["cat", "dog"]), (9, 3))


def test_other_training_samples_of_the_same_number_are_said() -> None:
    old = last_state(training="a")
    told = [compare(old, RunConfig(), CLASSES, (8, 2), None, now).notes for now in "ba"]
    assert told[1] == ()
    assert told[0] == (
        "the training data has as many samples as before, but other ones (by names, ids or numbers of objects), which "
        "are learned after step 300",
    )
    for unknown in (last_state(), replace(old, training=None)):  # of an earlier version
        assert compare(unknown, RunConfig(), CLASSES, (8, 2), None, "b").notes == ()
    text = " ".join(compare(old, RunConfig(seed=7), CLASSES, (8, 2), None, "b").notes)
    assert "which are learned after step 300" in text
    assert "the order of samples changes after step 300" in text


def test_other_ids_and_numbers_of_samples_are_said() -> None:
    items = tuple(replace(item, id=item.id + 1) for item in CLASSES)
    change = compare(last_state(), RunConfig(), Categories(items), (9, 3))
    text = " | ".join(change.notes)
    assert "category ids have changed (0 -> 1, 1 -> 2, 2 -> 3)" in text
    assert "the training data has 9 samples now but had 8 before" in text
    assert "3 validation samples instead of 2" in text
    assert change.measured_anew


def test_ids_that_have_changed_are_listed_wherever_they_are() -> None:
    before = Categories.from_names([f"class {index}" for index in range(20)])
    now = Categories(tuple(replace(item, id=item.id + 100 * (index >= 8)) for index, item in enumerate(before)))
    (note,) = compare(last_state(categories=before, num_classes=20), RunConfig(), now, (8, 2)).notes
    assert "(8 -> 108, 9 -> 109, 10 -> 110, 11 -> 111, 12 -> 112, 13 -> 113 and 6 more) but names have not" in note


@pytest.mark.parametrize(
    ("before", "now", "words"),
    [
        # poly, halfway: a longer run raises the rate, unless schedule_steps keeps it
        (
            {},
            {"trainer.max_steps": 2000},
            r"after step 500 changes from 5.4e-05 to 7.7e-05 \(optim.schedule_steps=1000 keeps",
        ),
        ({"optim.schedule_steps": 1000}, {"trainer.max_steps": 2000}, None),
        ({"optim.schedule": "step"}, {"trainer.max_steps": 2000}, None),
        ({}, {"optim.lr": 2e-4}, r"changes from 5.4e-05 to 0.00011$"),
        ({}, {"optim.schedule": "step"}, r"changes from 5.4e-05 to 0.0001$"),
    ],
)
def test_what_becomes_of_the_rate(before: dict[str, Any], now: dict[str, Any], words: str | None) -> None:
    old = RunConfig(optim=OptimConfig(), trainer=TrainerConfig())
    for path, value in before.items():
        old = changed(old, path, value)
    new = old
    for path, value in now.items():
        new = changed(new, path, value)
    notes = [note for note in compare(last_state(old, step=500), new, CLASSES, (8, 2)).notes if "learning rate" in note]
    if words is None:
        assert notes == []
    else:
        (note,) = notes
        assert re.search(words, note), note


@pytest.mark.parametrize(
    ("path", "value", "anew"),
    [
        ("evaluation.monitor", "panoptic/SQ", True),
        ("evaluation.max_detections", 400, True),
        ("model.inference.score_threshold", 0.5, True),
        ("model.inference.short_edge", 96, True),
        ("data.dataset.validation_seed", 7, True),
        ("optim.ema_decay", 0.9, True),
        ("evaluation.boundary", True, False),
        ("optim.lr", 1e-3, False),
    ],
)
def test_figures_that_cannot_be_compared_start_over(path: str, value: Any, anew: bool) -> None:
    change = compare(last_state(), changed(RunConfig(), path, value), CLASSES, (8, 2))
    assert change.measured_anew is anew
    assert any("the best validation and patience start over" in note for note in change.notes) is anew


def test_a_record_is_read_back(tmp_path: Path) -> None:
    config = RunConfig(model=changed(RunConfig().model, "transformer_decoder", MaskedDecoderConfig(num_queries=7)))
    state = {
        "global_step": 3,
        "state_dict": {"model.transformer_decoder.class_head.bias": torch.zeros(4)},
        "optimizer_states": [{"state": {}}],
        "run": record_of(config, CLASSES, (5, 2), "MIT"),
        "callbacks": {"EarlyStopping{'monitor': 'x'}": {"wait_count": 2}},
    }
    path = tmp_path / "checkpoints" / "last.ckpt"
    path.parent.mkdir()
    torch.save(state, path)
    assert LastState.read(path) == LastState(path, 3, config, 3, CLASSES, (5, 2), "MIT", 2, ())
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(UserError, match=r"cannot resume: .*last.ckpt is damaged"):
        LastState.read(path)


# --- the optimizer ---------------------------------------------------------------------------------------------------


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.backbone, self.norm, self.head = nn.Linear(2, 2), nn.LayerNorm(2), nn.Linear(2, 1)

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        return self.head(self.norm(self.backbone(values)))


@pytest.mark.parametrize(
    "change",
    [
        {"weight_decay": 0.2},
        {"weight_decay": 0.0},  # norms and the rest become one group
        {"betas": (0.8, 0.9)},
        {"eps": 1e-6},
        {"backbone_multiplier": 1.0},  # the backbone and the rest become one group
        {"backbone_multiplier": 0.5, "weight_decay": 0.1, "lr": 1.0},
    ],
)
def test_other_settings_of_the_optimizer_take_effect_and_moments_stay(change: dict[str, Any]) -> None:
    torch.manual_seed(0)
    model, before = Small(), OptimConfig()
    optimizer = build_optimizer(model, before)
    model(torch.rand(3, 2)).sum().backward()
    optimizer.step()
    moments = {name: optimizer.state[value]["exp_avg"].clone() for name, value in model.named_parameters()}
    now = before.model_copy(update=change)
    again = build_optimizer(model, now)
    again.load_state_dict(regrouped(optimizer.state_dict(), model, before, now))
    assert all(torch.equal(again.state[value]["exp_avg"], moments[name]) for name, value in model.named_parameters())
    assert all(again.state[value]["step"] == 1 for value in model.parameters())
    wanted = parameter_groups(model, now)
    assert len(again.param_groups) == len(wanted)
    for group, expected in zip(again.param_groups, wanted, strict=True):
        assert [id(value) for value in group["params"]] == [id(value) for value in expected["params"]]
        assert (group["weight_decay"], group["lr_multiplier"]) == (expected["weight_decay"], expected["lr_multiplier"])
        assert (group["betas"], group["eps"]) == (now.betas, now.eps)


def test_with_the_same_settings_the_state_is_the_same() -> None:
    torch.manual_seed(0)
    model, config = Small(), OptimConfig()
    optimizer = build_optimizer(model, config)
    model(torch.rand(3, 2)).sum().backward()
    optimizer.step()
    state = optimizer.state_dict()
    again = regrouped(state, model, config, config)
    assert again["state"].keys() == state["state"].keys()
    assert all(again["state"][index] is state["state"][index] for index in state["state"])
    assert again["param_groups"] == build_optimizer(model, config).state_dict()["param_groups"]


def test_how_many_images_of_one_shape_come_together_is_that_of_the_beginning(tmp_path: Path) -> None:
    """A recorded unit is read, however steps are split now; without a record, it follows from the run's settings."""
    config = parse(RunConfig, {"data": {"group_by_aspect": True, "batch_size": 16}, "trainer": {"devices": 2}}, "test")
    path = tmp_path / "last.ckpt"

    def unit_of(unit: Any, config: RunConfig = config) -> int | None:
        record = record_of(config, CLASSES, (5, 2), None)
        content = {
            "global_step": 3,
            "state_dict": {},
            "optimizer_states": [{}],
            "run": record if unit is None else {**record, "unit": unit},
        }
        torch.save(content, path)
        return LastState.read(path).unit

    assert record_of(config, CLASSES, (5, 2), None, unit=4)["unit"] == 4
    assert unit_of(4) == 4
    assert unit_of(None) == 8
    assert unit_of(None, RunConfig()) is None
    for unit in (0, 3, 32, -1, "four", True):
        with pytest.raises(UserError, match="is damaged"):
            unit_of(unit)


def test_another_split_leaves_the_order_and_another_seed_draws_it_anew() -> None:
    past = last_state()
    split = changed(changed(past.config, "trainer.num_nodes", 2), "trainer.devices", 4)
    assert not compare(past, split, CLASSES, (8, 2)).drawn_anew
    assert compare(past, changed(past.config, "seed", 5), CLASSES, (8, 2)).drawn_anew
    assert compare(past, past.config, CLASSES, (9, 2)).drawn_anew
