"""Training starts from another model: what is taken over, what is fitted, and what starts afresh.

For official weights on one's own classes. Must not know where the other model came from.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from mask2former.checkpoints.io import load_into
from mask2former.errors import RequestError
from mask2former.models.mask2former import Mask2Former

__all__ = ["resized_bias_table", "start_from", "with_own_windows"]

_CLASS_HEAD = "transformer_decoder.class_head."
_QUERIES = ("transformer_decoder.query_features.weight", "transformer_decoder.query_positions.weight")
_TABLE = "relative_position_bias_table"


def start_from(model: Mask2Former, source: Mask2Former, name: str, *, partial: bool) -> list[str]:
    """Fill ``model`` with the weights of ``source``.

    Args:
        model: freshly initialised, with ``categories``; gets the weights and the licence.
        source: the trained one.
        name: what ``source`` is called in messages.
        partial: without it, all must fit. With it, the class head starts afresh if the class names differ; of the
            queries the first ones are taken over; position biases of Swin are resized to another window; and what
            else has another shape starts afresh.

    Returns:
        One phrase for each thing that was not simply taken over; empty if everything was.

    Raises:
        RequestError: the weights do not fit; the message lists what.
    """
    own, state = model.state_dict(), dict(source.state_dict())
    notes: list[str] = []
    if partial:
        notes += _with_own_classes(model, source, own, state)
        notes += _with_own_queries(own, state)
        notes += with_own_windows(own, state)
    left_out = load_into(model, state, name, drop_misshaped=partial)
    if left_out:
        notes.append(f"starts afresh, being of another shape: {', '.join(left_out)}")
    model.licence = source.licence
    return notes


def _with_own_classes(
    model: Mask2Former, source: Mask2Former, own: dict[str, Tensor], state: dict[str, Tensor]
) -> list[str]:
    assert model.categories is not None
    assert source.categories is not None
    if model.categories.names == source.categories.names:
        return []
    state.update({name: value for name, value in own.items() if name.startswith(_CLASS_HEAD)})
    return [f"class head starts afresh ({len(source.categories)} classes there, {len(model.categories)} here)"]


def _with_own_queries(own: dict[str, Tensor], state: dict[str, Tensor]) -> list[str]:
    if not all(name in own and name in state and own[name].shape[1:] == state[name].shape[1:] for name in _QUERIES):
        return []
    there, here = (len(values[_QUERIES[0]]) for values in (state, own))
    if there == here:
        return []
    for name in _QUERIES:
        state[name] = torch.cat((state[name][:here], own[name][there:]))
    if there > here:
        return [f"the first {here} of {there} queries"]
    return [f"{there} queries, and {here - there} more that start afresh"]


def with_own_windows(own: Mapping[str, Tensor], state: dict[str, Tensor]) -> list[str]:
    """Resize the position biases in ``state`` to the windows of ``own``, in place; a phrase for each size.

    Raises:
        RequestError: a table of ``state`` fits no window.
    """
    windows: set[tuple[int, int]] = set()
    for name in own.keys() & state.keys():
        there, here = state[name], own[name]
        if name.endswith(_TABLE) and there.dim() == 2 and there.shape[1:] == here.shape[1:] and len(there) != len(here):
            state[name] = resized_bias_table(there, _window(here))
            windows.add((_window(there), _window(here)))
    return [f"position biases resized from windows of {old} to {new}" for old, new in sorted(windows)]


def _window(table: Tensor) -> int:
    window = (math.isqrt(len(table)) + 1) // 2
    if (2 * window - 1) ** 2 != len(table):
        raise RequestError(f"a table of position biases has {len(table)} rows, which fits no window")
    return window


def resized_bias_table(table: Float[Tensor, "n M"], window: int) -> Float[Tensor, "N M"]:
    """A relative position bias table for windows of another size, bicubic between the offsets it was trained for.

    Args:
        table: ``(2w - 1)**2`` rows, one for each offset in a window of side w, row-major; one column for each head.
        window: the side of the new windows.

    Reference: Swin Transformer (Liu et al., ICCV 2021), Sec. 3.2, "Relative position bias".
    """
    side, new_side = 2 * _window(table) - 1, 2 * window - 1
    if side == new_side:
        return table
    grid = table.T.unflatten(1, (side, side)).unsqueeze(0)  # (1, M, side, side)
    resized = F.interpolate(grid, (new_side, new_side), mode="bicubic", align_corners=False)
    return resized[0].flatten(1).T.contiguous()
