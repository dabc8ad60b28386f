"""The learning rate suggested for losses at rising rates."""

from __future__ import annotations

import numpy as np
import pytest

from mask2former.errors import UserError
from mask2former.training.find_lr import LearningRates, has_diverged


def test_the_rate_is_where_the_loss_falls_most_steeply() -> None:
    """If the loss falls most steeply at 1e-3, one to five times that is suggested, as the running mean lags."""
    rates = np.geomspace(1e-6, 1, 120)
    place = np.log10(rates)
    losses = 2 - 1 / (1 + np.exp(-4 * (place + 3))) + np.where(place > -1, 3 * (place + 1), 0)
    found = LearningRates.of(rates.tolist(), losses.tolist())
    assert found.suggested is not None
    assert 1e-3 <= found.suggested <= 5e-3
    assert found.means[0] == pytest.approx(losses[0])  # the mean begins with the first loss, not with 0


def test_a_loss_that_only_rises_suggests_nothing_and_few_steps_are_too_few() -> None:
    rates = np.geomspace(1e-6, 1, 30).tolist()
    assert LearningRates.of(rates, np.linspace(1, 2, 30).tolist()).suggested is None
    with pytest.raises(UserError, match="diverged after 4 steps"):
        LearningRates.of(rates[:4], [1.0, 2.0, 3.0, 4.0])


def test_a_search_ends_where_the_mean_is_four_times_its_lowest() -> None:
    assert not has_diverged([1.0] * 5 + [50.0] * 4)  # too few steps to suggest a rate
    assert not has_diverged([1.0] * 12 + [10.0])
    assert has_diverged([1.0] * 12 + [40.0, 40.0])
