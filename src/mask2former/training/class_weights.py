"""Weights of the classes in the class loss, given by name or derived from their frequency in annotations."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from jaxtyping import Float64, Int64

from mask2former.data.annotated import AnnotatedSet
from mask2former.data.clips import ClipSet
from mask2former.data.sequence import spread_indices
from mask2former.errors import UserError
from mask2former.text import listed, quoted

__all__ = ["balanced", "class_weights"]

_MOST_READ = 2000  # images or clips in which objects are counted
_SHOWN = 12  # classes in a note


def class_weights(
    wanted: str | Mapping[str, float] | None, samples: AnnotatedSet | ClipSet
) -> tuple[tuple[float, ...] | None, list[str]]:
    """The weight of every class, in class order, and sentences for the user; None if all weights are equal.

    Args:
        wanted: ``balanced``, or weights by name; classes that are not named have weight 1.
        samples: the training data.

    Raises:
        UserError: a name is not a class.
    """
    names = samples.categories.names
    if wanted is None:
        return None, []
    if not isinstance(wanted, str):
        if unknown := [name for name in wanted if name not in names]:
            raise UserError(
                f"criterion.class_weights names {listed(unknown)}, but the classes of the training data are "
                f"{listed(names)}"
            )
        return tuple(float(wanted.get(name, 1.0)) for name in names), []
    counts, num_read = _counts(samples)
    weights = balanced(counts, is_whole=num_read == len(samples))
    kind = "clips" if isinstance(samples, ClipSet) else "images"
    seen = f"{num_read} of {len(samples)} training {kind}" if num_read < len(samples) else f"all {num_read} {kind}"
    shown = listed(list(zip(names, weights, strict=True)), _SHOWN, show=lambda pair: f"{quoted(pair[0])} {pair[1]:.3g}")
    return tuple(weights.tolist()), [f"criterion.class_weights, by the number of objects in {seen}: {shown}"]


def balanced(counts: Int64[np.ndarray, " K"], *, is_whole: bool = True) -> Float64[np.ndarray, " K"]:
    """Weights that give all classes the same share of the loss: the mean count over the count of each.

    The mean over all objects is 1. Classes without an object have weight 1 or, if only a part of the data was counted
    (``is_whole`` false), the weight for one object.
    """
    total, present = counts.sum(), np.count_nonzero(counts)
    if not total:
        return np.ones(len(counts))
    weights = total / (max(present, 1) * np.maximum(counts, 1))
    return np.where((counts == 0) & is_whole, 1.0, weights)


def _counts(samples: AnnotatedSet | ClipSet) -> tuple[Int64[np.ndarray, " K"], int]:
    """Training targets of each class in the data, or in an evenly spread part of it, and the size of that part."""
    indices = spread_indices(len(samples), _MOST_READ)
    counts = np.zeros(len(samples.categories), dtype=np.int64)
    for index in indices:
        frame = samples.annotated(index, [0]).frames[0] if isinstance(samples, ClipSet) else samples.annotated(index)
        counts += np.bincount(frame.labels, minlength=len(counts))
    return counts, len(indices)
