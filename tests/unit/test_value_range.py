"""The setting value_range: one range, one for each band, or a rule."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from mask2former.config import InferenceConfig, parse
from mask2former.errors import UserError
from mask2former.value_range import as_value_range, ranges_of_bands


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        (None, None),
        ("auto", None),
        ("full", "full"),
        ([0, 4095], (0.0, 4095.0)),
        (np.array([0, 9]), (0.0, 9.0)),
        ([[0, 4095], [-3, 0.5]], ((0.0, 4095.0), (-3.0, 0.5))),
        ([[1, 2]], ((1.0, 2.0),)),
        (["-0.5", "1e3"], (-0.5, 1000.0)),
        (torch.tensor([0, 9]), (0.0, 9.0)),
        ([torch.tensor(0), np.array(9)], (0.0, 9.0)),
        (np.array([0, 9], np.float16).astype(object), (0.0, 9.0)),
        (np.array([[0, 1], [2, 3], [4, 5]]), ((0.0, 1.0), (2.0, 3.0), (4.0, 5.0))),
    ],
)
def test_ranges_and_rules_are_kept_as_tuples(given: Any, kept: Any) -> None:
    assert as_value_range(given) == kept
    of_bands = isinstance(kept, tuple) and isinstance(kept[0], tuple)
    assert ranges_of_bands(as_value_range(given)) == (kept if of_bands else None)


@pytest.mark.parametrize(
    "given",
    [
        "fuller",
        [],
        [1],
        [2, 1],
        [0, 0],
        [0, float("nan")],
        [1, 2, 3],
        [[0, 1], 2],
        [[0, 1], [1, 0]],
        [[0, 1, 2]],
        ["12"],
        ["12", "34", "56"],
        ["0", "1_000"],
        ["0", " 9"],
        ["0", "\u0669"],
        ["0", "inf"],
        [-float("inf"), 0],
        [float("nan"), float("nan")],
        [0, 10**400],
        [0, "1e400"],
        [0, 5e-324],
        [-1.7e308, 1.7e308],
        [False, True],
        np.array([False, True]),
        [np.False_, np.True_],
        [[0, 1], [False, True]],
        {0, 9},
        {0: 1, 9: 2},
        b"\0\xff",
        [0, 9j],
        7,
        {},
    ],
)
def test_what_is_no_range_is_refused(given: Any) -> None:
    with pytest.raises(ValueError, match="two ascending numbers, black and white, or a list of such pairs, one per"):
        as_value_range(given)
    with pytest.raises(UserError, match=r"value_range'?: expected two ascending numbers"):
        parse(InferenceConfig, {"value_range": given}, "file")


def test_each_band_has_a_range_or_all_have_one() -> None:
    values = {"bands": [3, 1], "value_range": [[0, 4095], [0, 900]]}
    settings = parse(InferenceConfig, values, "file")
    assert settings.reading == {"bands": (3, 1), "value_range": ((0, 4095), (0, 900))}
    assert InferenceConfig.model_validate_json(settings.model_dump_json()) == settings
    assert parse(InferenceConfig, {**values, "bands": 2}, "file").value_range == settings.value_range
    for bands, words in (([1, 2, 3], "specifies 3"), (1, "specifies 1"), (None, "is not set")):
        with pytest.raises(UserError, match=f"value_range has 2 ranges, one per band, but bands {words}; give the s"):
            parse(InferenceConfig, {**values, "bands": bands}, "file")
