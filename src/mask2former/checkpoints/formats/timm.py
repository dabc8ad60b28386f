"""Weights of any timm model as a backbone: matched entry by entry to the maps that timm builds for that model.

Which model the weights are for is not in the weights: it comes from the ``config.json`` beside them or from the
reader's settings. timm provides names, shapes and constants, never weights.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mask2former.checkpoints.normalisation import IMAGENET, Normalisation
from mask2former.checkpoints.rules import Layout, rules
from mask2former.config import TimmConfig, parse
from mask2former.errors import UserError
from mask2former.models.backbones.timm import RESERVED_ARGUMENTS, TimmBackbone
from mask2former.text import listed, printable, quoted

__all__ = [
    "EFFICIENTNET_LITE0",
    "LITE0",
    "TimmWeights",
    "fitted",
    "in_folder",
    "known_normalisations",
    "published_names",
]

_COUNTER = "num_batches_tracked"
_BODY = "backbone.body."
_LICENSE = 200  # characters


# --- who made them ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class TimmWeights:
    """The model that entries are for, and how its images were normalised.

    Attributes:
        config: the model.
        normalisations: one if it is known, several if it depends on the training, which is not recorded.
        license: of the weights, as timm spells it, if known.
    """

    config: TimmConfig
    normalisations: tuple[Normalisation, ...]
    license: str | None = None


def in_folder(config: Mapping[str, Any] | None) -> TimmWeights | None:
    """The content of ``config.json`` beside the weights; None if it is not one of timm's.

    Raises:
        UserError: it is, but its content yields no model or no normalisation.
    """
    if config is None or not isinstance(config.get("architecture"), str):
        return None
    training = config.get("pretrained_cfg", config)  # older ones have everything on one level
    if not isinstance(training, dict):
        return None
    arguments = config.get("model_args") or {}
    if not isinstance(arguments, dict):
        raise UserError(f"config.json: 'model_args' is {quoted(arguments, 60)}; expected arguments by name")
    own = {name: value for name, value in arguments.items() if name not in RESERVED_ARGUMENTS}  # a head, for instance
    made = parse(TimmConfig, {"model": config["architecture"], "kwargs": own}, "config.json")
    license = training.get("license")
    if "mean" in training or "std" in training:
        mean, std = training.get("mean"), training.get("std")
        found = (Normalisation.read(mean, std, "config.json: 'mean' and 'std'", factor=1 / 255),)
    else:
        found = known_normalisations(made.model, training.get("tag"))
    return TimmWeights(made, found, printable(license, _LICENSE) if isinstance(license, str) else None)


def known_normalisations(model: str, tag: object = None) -> tuple[Normalisation, ...]:
    """The normalisations that timm knows for weights of a model, sorted; for one tag only, if given or in the name.

    Only that of ImageNet for a model that was never published with weights.
    """
    from timm.models import get_pretrained_cfg, list_pretrained

    name, _, own_tag = model.partition(".")
    wanted = own_tag or tag
    found: set[Normalisation] = set()
    for published in list_pretrained(f"{name}.*"):
        training = get_pretrained_cfg(published)
        if training is not None and (not wanted or published == f"{name}.{wanted}"):
            found.add(Normalisation.read(training.mean, training.std, published, factor=1 / 255))
    return tuple(sorted(found, key=str)) or (IMAGENET,)


def published_names(model: str) -> list[str]:
    """Names of a model with each of its trainings, as on the hub; empty if it is not known."""
    from timm.models import list_pretrained

    return list_pretrained(f"{model}.*")


# --- which entry is which --------------------------------------------------------------------------------------------


def fitted(
    state: Mapping[str, Tensor], config: TimmConfig, spelled: Callable[[str], str] = str
) -> tuple[dict[str, Tensor], list[str]]:
    """Entries of a complete timm model under the names that its backbone has in our models.

    timm keeps the names, writes one level less where it takes the model apart (``stages.0`` becomes ``stages_0``), or
    prepends ``model.``; an entry must fit in exactly one of these ways, in name and in shape. Counters of norms are
    left out: whether norms are trained is a setting.

    Args:
        state: tensors by timm's names.
        config: the model.
        spelled: how the user's file spells an entry, for messages.

    Returns:
        The entries, and the names of those that a backbone does not need: the classifier and the layers before it.

    Raises:
        UserError: timm cannot create the model; or entries are unknown to it, missing, or have other shapes.
    """
    own, whole = _shapes_of(config)
    theirs = {found: name for name in whole if (found := _own_name(name, own)) is not None}
    taken: dict[str, Tensor] = {}
    sources: dict[str, str] = {}
    left_out, unexpected, misshaped = [], [], []
    for name, value in state.items():
        found = _own_name(name, own)
        if name.endswith(_COUNTER):
            continue
        if found is None:
            (left_out if name in whole else unexpected).append(spelled(name))
        elif found in sources:
            raise UserError(f"{quoted(sources[found])} and {quoted(name)} mean the same; expected one of them")
        else:
            sources[found] = name
            taken[_BODY + found] = value
            if value.shape != own[found]:
                misshaped.append(f"{printable(spelled(name), 80)} {tuple(value.shape)} instead of {tuple(own[found])}")
    missing = [spelled(theirs.get(name, name)) for name in own if name not in sources]
    groups = (("missing", missing), ("unexpected", unexpected), ("mis-shaped", misshaped))
    if faults := [f"{len(names)} {kind}: {listed(names, 5)}" for kind, names in groups if names]:
        raise UserError(
            f"the weights do not fit timm's {printable(config.model, 80)}; {'; '.join(faults)}; set model.backbone to "
            "the model that they are for"
        )
    return taken, left_out


def _own_name(name: str, own: Mapping[str, object]) -> str | None:
    found = {form for form in (name, name.replace(".", "_", 1), f"model.{name}") if form in own}
    return found.pop() if len(found) == 1 else None


def _shapes_of(config: TimmConfig) -> tuple[dict[str, torch.Size], set[str]]:
    """Entries of the backbone without counters, and all names of the complete model, including unstored ones.

    Raises:
        UserError: timm cannot create it.
    """
    import timm

    for device in ("meta", "cpu"):  # some timm models cannot be created without memory
        try:
            with torch.device(device), torch.random.fork_rng(devices=[]):
                backbone = TimmBackbone(config.model, "batch", config.kwargs, config.pyramid, config.joint_blocks)
                whole = timm.create_model(config.model, **config.kwargs)
        except UserError:
            if device == "cpu":
                raise
        except Exception as error:  # timm models handle arguments in many different ways
            if device == "cpu":
                raise UserError(
                    f"backbone '{config.model}': timm could not create it: {printable(str(error), 150)}"
                ) from error
        else:
            own = {name: value.shape for name, value in backbone.body.state_dict().items()
                   if not name.endswith(_COUNTER)}  # fmt: skip
            buffers = {f"{path}.{name}" for path, module in whole.named_modules() for name in module._buffers}
            return own, {*whole.state_dict(), *buffers}
    raise AssertionError


# --- other names for them --------------------------------------------------------------------------------------------


def _lite0() -> dict[str | tuple[str, ...], str]:
    """Blocks are numbered consecutively there, and by stage in timm; the first does not widen."""
    table: dict[str | tuple[str, ...], str] = {
        "_conv_stem.*": "conv_stem.*",
        "_bn0.*": "bn1.*",
        "_conv_head.*": "conv_head.*",
        "_bn1.*": "bn2.*",
        "_fc.*": "classifier.*",
    }
    places = [f"{stage}.{index}" for stage, count in enumerate((1, 2, 2, 3, 3, 4, 1)) for index in range(count)]
    for number, place in enumerate(places):
        parts = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}
        if number:
            parts = {"_expand_conv": "conv_pw", "_bn0": "bn1", "_depthwise_conv": "conv_dw", "_bn1": "bn2",
                     "_project_conv": "conv_pwl", "_bn2": "bn3"}  # fmt: skip
        table |= {f"_blocks.{number}.{theirs}.*": f"blocks.{place}.{ours}.*" for theirs, ours in parts.items()}
    return table


# The weights of TensorFlow in PyTorch; here the originals, all of whose norms have an epsilon of 1e-3 (like timm's tf_
# models) and whose images were (x - 127) / 128.
EFFICIENTNET_LITE0 = Layout(
    key="efficientnet-lite0",
    title="EfficientNet-Lite0 with the names of efficientnet_pytorch",
    signature=("_conv_stem.weight", "_blocks.15._expand_conv.weight", "_conv_head.weight"),
    rules=rules("", "", _lite0()),
)
LITE0 = TimmWeights(
    TimmConfig(model="tf_efficientnet_lite0"), (Normalisation((127.0, 127.0, 127.0), (128.0, 128.0, 128.0)),)
)
