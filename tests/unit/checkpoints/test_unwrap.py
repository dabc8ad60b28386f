"""Which mapping in a file has the weights, and which prefix their names have, judging by names alone."""

from __future__ import annotations

import time
from collections.abc import Collection
from typing import Any

import pytest

from mask2former.checkpoints.unwrap import unwrapped, weights_of
from mask2former.errors import UserError

NAMES = ("body.weight", "head.bias")


def is_known(names: Collection[str]) -> bool:
    return "head.bias" in names


def holds(names: Collection[str]) -> bool:
    return is_known(unwrapped(dict.fromkeys(names), is_known)[0])


@pytest.mark.parametrize(
    "prefix",
    ["", "model.", "module.", "net.", "_orig_mod.", "model.module.", "module.model.net._orig_mod.", "_orig_mod.model."],
)
def test_wrappers_of_all_names_are_taken_off(prefix: str) -> None:
    state = {prefix + name: name for name in NAMES}
    assert unwrapped(state, is_known) == ({name: name for name in NAMES}, prefix)


@pytest.mark.parametrize(
    "state",
    [
        ("model.body.weight", "head.bia"),  # the prefix is not on all names
        ("other.body.weight", "other.head.bias"),
        ("model." * 7 + "head.bias",),
        ("model.body.weight", "model.head.weight"),  # no known name after it
        ("steps",),
        (),
    ],
)
def test_other_names_stay(state: tuple[str, ...]) -> None:
    assert unwrapped(dict.fromkeys(state), is_known) == (dict.fromkeys(state), "")


def test_compiled_parts_and_counters_of_averages() -> None:
    compiled = {"model.body._orig_mod.weight": 1, "model.head._orig_mod.bias": 2}
    assert unwrapped(compiled, is_known) == ({"body.weight": 1, "head.bias": 2}, "model.")
    for counter in ("n_averaged", "steps"):
        average = {counter: 0, "module.body.weight": 1, "module.head.bias": 2}
        assert unwrapped(average, is_known) == ({"body.weight": 1, "head.bias": 2}, "module.")
    with pytest.raises(UserError, match=r"'head\.bias' and 'head\._orig_mod\.bias' mean the same"):
        unwrapped({"head.bias": 1, "head._orig_mod.bias": 2}, is_known)


WEIGHTS, AVERAGE, OTHER = ({name: mark for name in NAMES} for mark in (1, 2, 3))
NO_WEIGHTS = {"state": {0: {"exp_avg": 0}}, "param_groups": []}


@pytest.mark.parametrize(
    ("payload", "taken", "note"),
    [
        (WEIGHTS, WEIGHTS, ""),
        ({"model": WEIGHTS, "optimizer": NO_WEIGHTS, "iteration": 3}, WEIGHTS, ""),
        ({"state_dict": {f"model.{name}": 1 for name in NAMES}}, {f"model.{name}": 1 for name in NAMES}, ""),
        ({"model_ema": AVERAGE}, AVERAGE, ""),
        ({"checkpoint": {"weights": {"net": OTHER}}}, OTHER, ""),
        (
            {"model": WEIGHTS, "model_ema": AVERAGE},
            WEIGHTS,
            "model is used, model_ema is not",
        ),
        ({"ema_state_dict": AVERAGE, "state_dict": WEIGHTS}, WEIGHTS, "state_dict is used, ema_state_dict is not"),
        ({"student": OTHER, "teacher": AVERAGE}, AVERAGE, "teacher is used, student is not"),
        (
            {"callbacks": {"EMA": {"state_dict_ema": AVERAGE}}, "state_dict": WEIGHTS},
            WEIGHTS,
            "callbacks.EMA.state_dic",
        ),
        ({"model": WEIGHTS, "again": WEIGHTS}, WEIGHTS, ""),  # the same object
        ({"model": {"unknown": 1}}, {"unknown": 1}, ""),  # for the message
        ({"unknown": 1}, {"unknown": 1}, ""),
    ],
)
def test_the_mapping_of_weights_is_found(payload: dict[str, Any], taken: dict[str, int], note: str) -> None:
    found, told = weights_of(payload, holds)
    assert found == taken
    assert note in told
    assert bool(note) == bool(told)


def test_one_of_several_can_be_chosen() -> None:
    payload = {"model": WEIGHTS, "model_ema": AVERAGE, "callbacks": {"EMA": {"ema": OTHER}}}
    for name, expected in (("model", WEIGHTS), ("model_ema", AVERAGE), ("callbacks.EMA.ema", OTHER)):
        assert weights_of(payload, holds, name) == (expected, "")
    with pytest.raises(UserError, match="weights 'ema': there is no such set; sets of weights are model, model_"):
        weights_of(payload, holds, "ema")
    with pytest.raises(UserError, match="weights '': there is no such set; the file contains one set"):
        weights_of(WEIGHTS, holds, "")


@pytest.mark.parametrize("names", [("model", "state_dict"), ("model_ema", "teacher"), ("first", "second")])
def test_two_of_equal_standing_are_named(names: tuple[str, str]) -> None:
    with pytest.raises(UserError, match=rf"several sets of weights: {', '.join(names)}; specify one: weights"):
        weights_of(dict(zip(names, (WEIGHTS, AVERAGE), strict=True)), holds)


def nested(depth: int) -> dict[str, Any]:
    value: dict[str, Any] = dict(WEIGHTS)
    for _ in range(depth):
        value = {"model": value}
    return value


def doubled(depth: int) -> dict[str, Any]:
    value: dict[str, Any] = {}
    for _ in range(depth):
        value = {"one": value, "two": value}
    return value


def test_mappings_without_end_are_left_soon() -> None:
    itself: dict[str, Any] = {}
    itself["model"] = itself
    wide = {str(number): {str(number): {}} for number in range(20_000)}
    long = {f"model.model.{number}": number for number in range(50_000)}
    start = time.process_time()
    for payload in (nested(5_000), doubled(1000), itself, wide, {"model": long}):
        found, note = weights_of(payload, holds)
        assert found is payload.get("model", payload)
        assert not note
    assert time.process_time() - start < 1
