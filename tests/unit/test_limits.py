"""Limits are named numbers, and values above a limit are rejected with this number."""

from __future__ import annotations

import pytest

from mask2former import limits
from mask2former.errors import UserError


def test_more_than_the_limit_is_refused() -> None:
    limits.check_limit("'a' has pixels:", 10, 10, "cut it")
    with pytest.raises(UserError, match=r"^'a' has pixels: 1,001; at most 1,000 are supported; cut it$"):
        limits.check_limit("'a' has pixels:", 1_001, 1_000, "cut it")


def test_limits_are_positive_numbers() -> None:
    named = {name: value for name, value in vars(limits).items() if name.isupper()}
    assert named
    assert all(isinstance(value, int | float) and value > 0 for value in named.values())
    assert named["IMAGE_PIXELS"] < 2**31  # run-length encodings count in 32 bits
