"""Deterministic parameter values for checking numerics without trained weights.

Every floating-point entry of a model's state dict gets a value that depends only
on the entry's *published* name and its shape, so two implementations that agree
on names and shapes hold bit-identical weights without exchanging any file.

The generator is exact: SHA-256 of the name keys a Philox counter generator, whose
raw 64-bit words are split into four 16-bit integers.  Their centred sum is an
approximately normal variate (support about +-3.46, unit variance) that is computed
with integer arithmetic and one multiplication, hence identical on every platform.
All values returned are exactly representable in float32, so it does not matter
whether weights travel through a float32 checkpoint or are used in float64.
"""

from __future__ import annotations

import hashlib
import math
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

__all__ = [
    "approx_normal",
    "fill",
    "fill_all",
    "legacy_name",
    "scale_for",
    "uniform",
    "write_checkpoint",
]

_CHUNK = 1 << 16  # which fit the cache
_EVEN = np.uint64(0x0000FFFF0000FFFF)
NO_OBJECT_BIAS = 9.0
MASK_SHIFT = 10.0
_EMBEDDINGS = ("query_feat.weight", "query_embed.weight", "level_embed.weight", "level_embed")


def _generator(name: str) -> np.random.Philox:
    digest = hashlib.sha256(name.encode("utf-8")).digest()
    return np.random.Philox(key=int.from_bytes(digest[:16], "little"))


def approx_normal(name: str, count: int) -> np.ndarray:
    """Return ``count`` zero-mean unit-variance float64 values determined by ``name``."""
    bits = _generator(name)
    out = np.empty(count, dtype=np.float64)
    for start in range(0, count, _CHUNK):
        stop = min(start + _CHUNK, count)
        words = bits.random_raw(stop - start)
        pairs = words & _EVEN  # sums of two integers in each half of a word, then of the halves
        words >>= np.uint64(16)
        words &= _EVEN
        pairs += words
        np.right_shift(pairs, np.uint64(32), out=words)
        pairs &= np.uint64(0xFFFFFFFF)
        pairs += words
        # four uniforms on {0..65535}: mean 2*65535, variance (65536**2 - 1) / 3
        total = pairs.view(np.int64)
        total -= 2 * 65535
        np.multiply(total, math.sqrt(3.0 / (65536.0**2 - 1.0)), out=out[start:stop])
    return out


def uniform(name: str, count: int) -> np.ndarray:
    """Return ``count`` float64 values in [0, 1) determined by ``name``."""
    return (_generator(name).random_raw(count) >> np.uint64(11)).astype(np.float64) * 2.0**-53


def scale_for(name: str, shape: tuple[int, ...]) -> tuple[float, float]:
    """Return ``(mean, standard deviation)`` of the entry called ``name``."""
    leaf = name.rsplit(".", 1)[-1]
    fan_in = math.prod(shape[1:]) if len(shape) > 1 else 1
    if leaf == "running_mean":
        return 0.0, 0.1
    if leaf == "relative_position_bias_table":
        return 0.0, 0.2
    if leaf == "absolute_pos_embed":
        return 0.0, 0.2
    if name.endswith(_EMBEDDINGS):
        return 0.0, 1.0
    if name.endswith("sampling_offsets.bias"):
        return 0.0, 1.5
    if name.endswith("attention_weights.bias"):
        return 0.0, 0.5
    if leaf in ("bias", "in_proj_bias"):
        return 0.0, 0.1
    if len(shape) == 1:
        # normalisation weights; the last one of a residual bottleneck is kept small
        return (0.3, 0.03) if name.endswith("conv3.norm.weight") else (1.0, 0.1)
    unit = 1.0 / math.sqrt(fan_in)
    if ".predictor.transformer_" in name and name.endswith("out_proj.weight"):
        # weak mixing keeps the queries different from one another
        return 0.0, 0.2 * unit
    if ".predictor.transformer_" in name and name.endswith("linear2.weight"):
        return 0.0, 0.3 * unit
    if name.endswith("class_embed.weight"):
        return 0.0, 5.0 * unit
    if ".mask_embed.layers." in name:
        last = name.endswith(".2.weight")
        return 0.0, (1.2 if last else math.sqrt(2.0)) * unit
    if name.startswith("backbone.") and ".conv" in name and len(shape) == 4:
        return 0.0, math.sqrt(2.0) * unit
    return 0.0, unit


def fill(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Return the float64 value (float32-representable) of one state-dict entry.

    ``name`` is the full dotted name in the published checkpoints, ``shape`` its
    shape.  Integer entries (window indices, batch counters) are not defined by
    this function; they follow from the architecture.
    """
    shape = tuple(int(n) for n in shape)
    count = math.prod(shape)
    leaf = name.rsplit(".", 1)[-1]
    if leaf in ("num_batches_tracked", "relative_position_index"):
        raise ValueError(f"{name} is an integer entry; it is not filled")
    if leaf == "empty_weight":
        values = np.ones(count)
        values[-1] = 0.1
    elif leaf == "running_var":
        values = 0.5 + uniform(name, count)
    else:
        mean, deviation = scale_for(name, shape)
        values = approx_normal(name, count)
        values *= deviation
        values += mean
        if name.endswith("class_embed.weight"):
            values.reshape(shape)[-1] *= 0.5
        elif name.endswith("class_embed.bias"):
            values[-1] += NO_OBJECT_BIAS
        elif name.endswith("mask_features.bias"):
            values[0] += MASK_SHIFT
        elif name.endswith("mask_embed.layers.2.bias"):
            values[0] -= 1.0
    return values.astype(np.float32).astype(np.float64).reshape(shape)


def legacy_name(name: str) -> str:
    """Return the older spelling of a full-model entry name.

    Older files hold the pixel decoder directly below the head and call the query
    features static queries.
    """
    return name.replace("sem_seg_head.pixel_decoder.", "sem_seg_head.").replace("query_feat", "static_query")


def _is_float(entry: Any) -> bool:
    return str(entry["dtype"]).startswith("float")


def fill_all(manifest: Mapping[str, Mapping[str, Any]]) -> dict[str, np.ndarray]:
    """Return ``{name: float32 array}`` for the floating-point entries of ``manifest``.

    ``manifest`` maps a name to ``{"shape": [...], "dtype": "float32"}``.
    """
    return {
        name: fill(name, tuple(entry["shape"])).astype(np.float32)
        for name, entry in manifest.items()
        if _is_float(entry)
    }


def write_checkpoint(
    manifest: Mapping[str, Mapping[str, Any]],
    path: str | Path,
    *,
    integer_entries: Mapping[str, np.ndarray] | None = None,
    author: str = "reference-fill",
    matching_heuristics: bool = False,
    legacy_names: bool = False,
) -> None:
    """Write a pickle in the layout of the published checkpoints.

    The pickle holds ``{"model": {name: ndarray}, "__author__": author}``; the flag
    ``matching_heuristics`` adds the entry of that name, which published *backbone*
    files carry and published full models do not.  ``legacy_names`` writes the older
    spelling that the published loader still converts (see :func:`legacy_name`).
    Batch counters are written as zero; other integer entries only if given in
    ``integer_entries``.
    """
    arrays: dict[str, np.ndarray] = fill_all(manifest)
    for name, entry in manifest.items():
        if _is_float(entry):
            continue
        if integer_entries is not None and name in integer_entries:
            arrays[name] = np.asarray(integer_entries[name])
        elif name.endswith("num_batches_tracked"):
            arrays[name] = np.zeros(tuple(entry["shape"]), dtype=np.int64)
    payload: dict[str, Any] = {
        "model": {legacy_name(name) if legacy_names else name: arrays[name] for name in manifest if name in arrays},
        "__author__": author,
    }
    if matching_heuristics:
        payload["matching_heuristics"] = True
    with Path(path).open("wb") as stream:
        pickle.dump(payload, stream, protocol=4)
