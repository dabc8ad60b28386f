"""What a file of weights contains, and how a model is filled with it.

Must not know how files are read or written, nor where they come from.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from mask2former.config import RunConfig
from mask2former.errors import UserError
from mask2former.structures import Categories, ModelInfo
from mask2former.text import listed, printable

__all__ = ["FORMAT_VERSION", "OURS", "WEIGHTS", "Checkpoint", "check_finite", "load_into", "misfits"]

FORMAT_VERSION = 2
WEIGHTS = "model.safetensors"  # inside a folder
OURS = "ours"  # the layout of what this library writes
_SHOWN = 10  # entries of each kind in a message
_FIRST = 3  # entries with values that are not finite


@dataclass(frozen=True)
class Checkpoint:
    """The content of a file.

    Attributes:
        info: what the model is, classes included.
        state: tensors by our names; half precision already promoted to float32.
        source: where it came from, for messages.
        run: settings of the training run, if the file has them.
        layout: how the file names its entries: ``ours``, ``original``, or the key of a layout of another code base.
        spellings: names in the file by our names, for messages, where they differ.
    """

    info: ModelInfo
    state: dict[str, Tensor]
    source: str
    run: RunConfig | None = None
    layout: str = OURS
    spellings: Mapping[str, str] = field(default_factory=dict)

    @property
    def categories(self) -> Categories:
        """The classes, in the order of the class head."""
        return self.info.known_categories


def load_into(
    model: torch.nn.Module,
    state: Mapping[str, Tensor],
    source: str,
    *,
    drop_misshaped: bool = False,
    spellings: Mapping[str, str] | None = None,
) -> list[str]:
    """Fill ``model`` completely with ``state``.

    Args:
        model: any of ours.
        state: tensors by our names.
        source: named in messages.
        drop_misshaped: keep the model's own values for entries of a different shape, for instance a class head when
            training starts from another data set.
        spellings: names for messages by our names.

    Returns:
        Names of the entries that were left out, sorted; empty unless ``drop_misshaped``.

    Raises:
        UserError: entries are missing, unexpected or mis-shaped, or values are not finite; one message lists them
            all.
    """
    own = model.state_dict()
    shared = sorted(own.keys() & state.keys())
    misshaped = [name for name in shared if own[name].shape != state[name].shape]
    if faults := misfits(own, state, spellings, misshaped=not drop_misshaped):
        raise UserError(f"{source}: the weights do not fit the model; {faults}")
    if not any(value.is_meta for value in own.values()):  # else only shapes are checked; the real model comes later
        check_finite(state, source)
        _check_variances(model, state, source)
    with torch.no_grad():
        for name in shared:
            if name not in misshaped:
                own[name].copy_(state[name])  # state_dict shares memory with the model
    return misshaped


def misfits(
    own: Mapping[str, Tensor],
    state: Mapping[str, Tensor],
    spellings: Mapping[str, str] | None = None,
    *,
    misshaped: bool = True,
) -> str:
    """How entries differ from those of a model, as one phrase with counts and names; empty: not at all.

    Args:
        own: the entries of the model.
        state: the entries that are compared with them.
        spellings: names for the phrase by our names.
        misshaped: whether other shapes are a difference.
    """
    shown = spellings or {}
    groups = {
        "missing": [shown.get(name, name) for name in sorted(own.keys() - state.keys())],
        "unexpected": [shown.get(name, name) for name in sorted(state.keys() - own.keys())],
        "mis-shaped": [
            f"{printable(shown.get(name, name), 80)} {tuple(state[name].shape)} instead of {tuple(own[name].shape)}"
            for name in sorted(own.keys() & state.keys())
            if misshaped and own[name].shape != state[name].shape
        ],
    }
    return "; ".join(f"{len(names)} {kind}: {listed(names, _SHOWN)}" for kind, names in groups.items() if names)


def check_finite(state: Mapping[str, Tensor], source: str) -> None:
    """Refuse weights that are NaN or infinite, which would yield results that look plausible.

    Raises:
        UserError: some are; the message counts the entries and names the first.
    """
    broken = [name for name, value in state.items() if not _is_finite(value)]
    if broken:
        raise UserError(
            f"{source}: {len(broken)} of {len(state)} entries have values that are NaN or infinite "
            f"({listed(broken, _FIRST)}); its training diverged, or the file is damaged: use an earlier checkpoint, "
            "or fetch it again"
        )


def _check_variances(model: torch.nn.Module, state: Mapping[str, Tensor], source: str) -> None:
    """Refuse variances of norms that would yield NaN: those of at most minus the norm's epsilon; 0 is fine."""
    broken = [
        name
        for path, module in model.named_modules()
        if (name := f"{path}.running_var") in state and isinstance(eps := getattr(module, "eps", None), float)
        if bool((state[name].float() + eps <= 0).any())
    ]
    if broken:
        raise UserError(
            f"{source}: {len(broken)} norms have a negative variance ({listed(broken, _FIRST)}), which would yield "
            "NaN; the file is damaged or was converted wrongly: fetch it again"
        )


def _is_finite(value: Tensor) -> bool:
    if not value.is_floating_point() or value.is_meta or not value.numel():
        return True
    value = value.detach().float() if value.dtype.itemsize == 1 else value.detach()  # few operations support eight bits
    low, high = torch.aminmax(value)  # takes a sixth of the time of isfinite().all(), and NaN propagates
    return bool(low.isfinite() and high.isfinite())
