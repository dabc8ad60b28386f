"""Steps shared by all metrics: counting which pairs of values two maps have, sums of counts, and means over classes.

The meaning of the values does not matter here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple, TypeVar

import numpy as np
from jaxtyping import Float64, Int64, Integer

from mask2former.errors import UserError
from mask2former.structures import Categories

__all__ = ["Runs", "added", "by_class", "check_sizes", "common_runs", "count_pairs", "defined_mean", "looked_up"]

_Counts = TypeVar("_Counts", bound=NamedTuple)


class Runs(NamedTuple):
    """Runs of pixels, row by row, within which both maps are constant."""

    lengths: Int64[np.ndarray, " R"]  # pixels
    first: Integer[np.ndarray, " R"]  # values of the first map
    second: Integer[np.ndarray, " R"]


def common_runs(first: Integer[np.ndarray, "H W"], second: Integer[np.ndarray, "H W"]) -> Runs:
    """The runs of two maps of the same size. Regions are contiguous, so there are far fewer runs than pixels."""
    one, other = first.ravel(), second.ravel()
    changes = np.flatnonzero((one[1:] != one[:-1]) | (other[1:] != other[:-1])) + 1
    starts = np.concatenate([[0], changes]) if one.size else changes
    return Runs(np.diff(starts, append=one.size), one[starts], other[starts])


def count_pairs(
    rows: Integer[np.ndarray, " R"],
    columns: Integer[np.ndarray, " R"],
    lengths: Int64[np.ndarray, " R"],
    shape: tuple[int, int],
) -> Int64[np.ndarray, "N M"]:
    """Number of pixels by pair of values. Values are dense: from 0 up to the limits in ``shape``."""
    height, width = shape
    codes = rows.astype(np.int64) * width + columns
    # These are sums of integers far below 2**53, so float64 is exact.
    counts = np.bincount(codes, weights=lengths, minlength=height * width)
    return counts.astype(np.int64).reshape(shape)


def looked_up(
    ids: Integer[np.ndarray, "*shape"], value_of: Mapping[int, int], missing: int
) -> Int64[np.ndarray, "*shape"]:
    """The value of every id; ``missing`` for ids without one. Ids may be large: there is no table of all below."""
    if not value_of:
        return np.full(ids.shape, missing, dtype=np.int64)
    known, values = np.array(sorted(value_of.items()), dtype=np.int64).T
    indices = np.searchsorted(known, ids).clip(max=len(known) - 1)
    return np.where(known[indices] == ids, values[indices], missing)


def check_sizes(prediction: tuple[int, ...], ground_truth: tuple[int, ...]) -> None:
    """Check that both have the same height and width.

    Raises:
        UserError: they differ.
    """
    if prediction != ground_truth:
        raise UserError(
            f"the prediction has {prediction} pixels and the ground truth {ground_truth}; "
            "resize the prediction to the size of the annotation"
        )


def added(one: _Counts, other: _Counts) -> _Counts:
    """The sum of two counts, field by field."""
    return type(one)._make(mine + theirs for mine, theirs in zip(one, other, strict=True))


def by_class(
    categories: Categories,
    columns: Mapping[str, Sequence[float] | Float64[np.ndarray, " K"]],
    *,
    things_only: bool = False,
) -> dict[str, dict[str, float]]:
    """The values of every class, or of things only, by class name and column."""
    return {
        category.name: {name: float(column[index]) for name, column in columns.items()}
        for index, category in enumerate(categories)
        if category.is_thing or not things_only
    }


def defined_mean(values: Float64[np.ndarray, "*shape"]) -> float:
    """The mean of the values that are not NaN; NaN if all are."""
    defined = values[~np.isnan(values)]
    return float(defined.mean()) if defined.size else float("nan")
