"""Weights of the classes in the class loss, from their names or from how often they are annotated."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from jaxtyping import Float64, Int64

from mask2former.data.annotated import AnnotatedSet
from mask2former.data.clips import ClipSet
from mask2former.errors import UserError
from mask2former.text import listed, quoted

__all__ = ["balanced", "class_weights"]

_MOST_READ = 2000  # images or clips that objects are counted in
_SHOWN = 12  # classes in a note


def class_weights(
    wanted: str | Mapping[str, float] | None, samples: AnnotatedSet | ClipSet
) -> tuple[tuple[float, ...] | None, list[str]]:
    """The weight of every class, in order, and sentences for the user; None if all weigh the same.

    Args:
        wanted: ``balanced``, or weights by name; classes without one weigh 1.
        samples: the training data.

    Raises:
        UserError: a name that is not a class.
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

    The mean over all objects is 1. Classes without an object weigh 1 or, where only a part of the data was counted
    (``is_whole`` false), as if there were one.
    """
    total, present = counts.sum(), np.count_nonzero(counts)
    if not total:
        return np.ones(len(counts))
    weights = total / (max(present, 1) * np.maximum(counts, 1))
    return np.where((counts == 0) & is_whole, 1.0, weights)


def _counts(samples: AnnotatedSet | ClipSet) -> tuple[Int64[np.ndarray, " K"], int]:
    """The number of training targets of each class in the data, or in a part spread evenly over it, and its size."""
    indices = np.unique(np.linspace(0, len(samples) - 1, min(_MOST_READ, len(samples))).round().astype(int)).tolist()
    counts = np.zeros(len(samples.categories), dtype=np.int64)
    for index in indices:
        frame = samples.annotated(index, [0]).frames[0] if isinstance(samples, ClipSet) else samples.annotated(index)
        counts += np.bincount(frame.labels, minlength=len(counts))
    return counts, len(indices)
