"""Gigabytes of float64 models that the tests of a file share are released after the file."""

from __future__ import annotations

from collections.abc import Iterator

import pytest


@pytest.fixture(scope="module", autouse=True)
def emptied_caches(request: pytest.FixtureRequest) -> Iterator[None]:
    """Clear the caches of the functions of a test file after its last test."""
    yield
    for value in vars(request.module).values():
        if hasattr(value, "cache_clear"):
            value.cache_clear()
