"""Class weights from names and from counts."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mask2former.data.datasets.scenes import Scenes
from mask2former.training.class_weights import balanced, class_weights


@given(st.lists(st.integers(0, 10_000), min_size=1, max_size=12))
def test_balanced_classes_have_equal_shares_and_mean_weight_1(counts: list[int]) -> None:
    values = np.array(counts)
    weights = balanced(values)
    assert (weights[values == 0] == 1).all()
    if values.any():
        shares = (weights * values)[values > 0]
        assert shares == pytest.approx(np.full(len(shares), values.sum() / len(shares)))
        assert (weights * values).sum() == pytest.approx(values.sum())


def test_what_was_not_seen_in_a_part_of_the_data_is_rare() -> None:
    assert balanced(np.array([90, 10, 0]), is_whole=False).tolist() == pytest.approx([100 / 180, 5.0, 50.0])


def test_by_name_and_by_count() -> None:
    scenes = Scenes((32, 32), 0, 5)
    names = scenes.categories.names
    assert class_weights(None, scenes) == (None, [])
    weights, notes = class_weights({names[2]: 0.0}, scenes)
    assert weights is not None
    assert weights[2] == 0.0
    assert set(weights[:2] + weights[3:]) == {1.0}
    assert notes == []
    counts = np.bincount(np.concatenate([scenes.annotated(index).labels for index in range(5)]), minlength=len(names))
    found, (said,) = class_weights("balanced", scenes)
    assert found == pytest.approx(balanced(counts).tolist())
    assert said.startswith(f"criterion.class_weights, by the number of objects in all 5 images: '{names[0]}' ")
