"""Files that hold a backbone alone: ResNets of torchvision, timm, MoCo, DINO and detectron2, and original Swin.

Converted, they are a safetensors file that training starts from (``model.init=FILE``). Must not know the other parts
of a model.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from mask2former.checkpoints.checkpoint import check_finite, load_into
from mask2former.checkpoints.formats import original
from mask2former.checkpoints.formats.resnet import BLOCKS, DEEP_STEM, STEM
from mask2former.checkpoints.rules import Layout, rules, their_name, to_original
from mask2former.checkpoints.safetensors_files import (
    entries_of,
    is_safetensors,
    metadata_value,
    open_safetensors,
    write_safetensors,
)
from mask2former.checkpoints.start import with_own_windows
from mask2former.config import BackboneConfig, ModelConfig, parse
from mask2former.errors import UserError
from mask2former.files import write_whole
from mask2former.models.mask2former import Mask2Former
from mask2former.models.parts import StartsFromBackbone
from mask2former.text import listed

__all__ = [
    "BACKBONES",
    "Backbone",
    "is_backbone_file",
    "read_backbone",
    "save_backbone",
    "start_from_backbone",
    "without_wrapping",
]

_FORMAT = "mask2former-backbone"
_COUNTER = "num_batches_tracked"
_STD = (58.395, 57.120, 57.375)  # R, G, B; what our models divide by

_SWIN_BLOCK = "layers.{}.blocks.{}"
_SAME_SWIN = (
    "patch_embed.proj.*",
    "patch_embed.norm.*",
    *(f"{_SWIN_BLOCK}.{part}.*" for part in ("norm1", "norm2", "attn", "attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")),
    "layers.{}.downsample.reduction.*",
    "layers.{}.downsample.norm.*",
    "norm{}.*",
)
_SAME_RESNET = (
    *(f"stem.conv{index}.{part}" for index in (1, 2, 3) for part in ("*", "norm.*")),
    *(f"res{stage}.{{}}.{layer}.{part}" for stage in (2, 3, 4, 5)
      for layer in ("conv1", "conv2", "conv3", "shortcut") for part in ("*", "norm.*")),
)  # fmt: skip
_CAFFE2_LEAVES = {"s": "weight", "b": "bias", "rm": "running_mean", "riv": "running_var"}
_CAFFE2_LAYERS = {"branch1": "shortcut", "branch2a": "conv1", "branch2b": "conv2", "branch2c": "conv3"}

SWIN = Layout(
    key="swin",
    title="original Swin Transformer",
    signature=("patch_embed.proj.weight", "layers.0.blocks.0.attn.qkv.weight", "layers.0.downsample.norm.weight"),
    rules=rules("", "backbone.", {name: name for name in _SAME_SWIN}),
    unused=("norm.*", "head.*", f"{_SWIN_BLOCK}.attn_mask"),
    is_backbone=True,
)
RESNET = Layout(
    key="resnet",
    title="ResNet of torchvision or timm",
    signature=("conv1.weight", "layer1.0.conv1.weight"),
    rules=rules("", "backbone.", STEM | BLOCKS),
    unused=("fc.*", "fc.{}.*"),
    is_backbone=True,
)
DEEP_RESNET = Layout(
    key="deep-resnet",
    title="timm ResNet with a deep stem",
    signature=("conv1.0.weight", "layer1.0.conv1.weight"),
    rules=rules("", "backbone.", DEEP_STEM | BLOCKS),
    unused=("fc.*",),
    is_backbone=True,
)
DETECTRON2 = Layout(
    key="detectron2",
    title="detectron2 ResNet",
    signature=("stem.conv1.weight", "res2.0.conv1.weight"),
    rules=rules("", "backbone.", {name: name for name in _SAME_RESNET}),
    unused=("stem.fc.*", "fc.*", "linear.*"),
    is_backbone=True,
)
CAFFE2 = Layout(
    key="caffe2",
    title="caffe2 ResNet (BGR)",
    signature=("conv1_w", "res2_0_branch2a_w"),
    rules=(
        *rules("", "backbone.", {"conv1_w": "stem.conv1.weight"}),
        *rules(
            "res_conv1_bn_",
            "backbone.stem.conv1.norm.",
            {theirs: leaf for theirs, leaf in _CAFFE2_LEAVES.items()},
        ),
        *rules(
            "",
            "backbone.",
            {
                f"res{stage}_{{}}_{theirs}_w": f"res{stage}.{{}}.{layer}.weight"
                for stage in (2, 3, 4, 5)
                for theirs, layer in _CAFFE2_LAYERS.items()
            },
        ),
        *rules(
            "",
            "backbone.",
            {
                f"res{stage}_{{}}_{theirs}_bn_{short}": f"res{stage}.{{}}.{layer}.norm.{leaf}"
                for stage in (2, 3, 4, 5)
                for theirs, layer in _CAFFE2_LAYERS.items()
                for short, leaf in _CAFFE2_LEAVES.items()
            },
        ),
    ),
    unused=("fc1000_*",),
    is_backbone=True,
)
BACKBONES = (SWIN, RESNET, DEEP_RESNET, DETECTRON2, CAFFE2)


@dataclass(frozen=True)
class _Wrapping:
    """Names that a pre-training put before those of its encoder, and what else it may have beside it."""

    title: str
    prefix: str
    beside: tuple[str, ...]


# The first whose prefix occurs is taken, so the network that is meant to be used comes before its twin.
_WRAPPINGS = (
    _Wrapping("MoCo, query encoder", "module.encoder_q.", ("module.encoder_k.", "module.queue")),
    _Wrapping("MoCo v3, base encoder", "module.base_encoder.", ("module.momentum_encoder.", "module.predictor.")),
    _Wrapping("DINO, backbone", "module.backbone.", ("module.head.",)),
    _Wrapping("DINO, backbone", "backbone.", ("head.",)),
)


def without_wrapping(state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], str]:
    """The entries of the encoder of a self-supervised pre-training, and which it is; as they are for other files."""
    for wrapping in _WRAPPINGS:
        if not all(name.startswith((wrapping.prefix, *wrapping.beside)) for name in state):
            continue
        inner = {
            name[len(wrapping.prefix) :]: value for name, value in state.items() if name.startswith(wrapping.prefix)
        }
        if any(layout.fits(inner) for layout in (RESNET, DEEP_RESNET)):
            return inner, wrapping.title
    return dict(state), ""


@dataclass(frozen=True)
class Backbone:
    """A backbone without a model.

    Attributes:
        config: its architecture.
        state: our names, as in a whole model, to tensors.
        notes: what a user should know about these weights.
    """

    config: BackboneConfig
    state: dict[str, Tensor]
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        return original.backbone_title(self.config)


def read_backbone(layout: Layout, state: Mapping[str, Tensor]) -> Backbone:
    """A backbone from the entries of a file of ``layout``.

    Batch counters are left out: whether the norms are trained is a setting of the model that starts from it.

    Raises:
        UserError: entries are unknown or missing; the message names them as the file does.
    """
    notes: list[str] = []
    if layout is CAFFE2:
        state = _without_leftovers(state)
    published = {name: value for name, value in to_original(layout, state).items() if not name.endswith(_COUNTER)}
    if layout is CAFFE2:
        published = _as_rgb(published)
        notes.append("channels of the stem were turned from BGR to RGB, and its scale fitted to our normalisation")
        notes.append("it was trained with strides in the 1x1 convolutions, which are in the 3x3 here")
    config = original.infer_backbone(
        published, spelled=lambda name: their_name(layout, name), layout=f"a {layout.title} file"
    )
    names = dict(original.backbone_names(config))
    unexpected = [their_name(layout, name) for name in published if name not in names]
    missing = [their_name(layout, name) for name, ours in names.items()
               if ours is not None and name not in published and not _may_miss(name)]  # fmt: skip
    for faults, what in ((unexpected, "unexpected"), (missing, "missing")):
        if faults:
            raise UserError(f"{len(faults)} entries are {what} for a {layout.title}: {listed(faults)}")
    renamed = {ours: published[name] for name, ours in names.items() if ours is not None and name in published}
    return Backbone(config, renamed, tuple(notes))


def _may_miss(name: str) -> bool:
    """Norms of the four outputs, which classification has no use for."""
    return name.startswith(tuple(f"backbone.norm{stage}." for stage in range(4)))


def _without_leftovers(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Without what training left, and without the stem's bias if it is zero; else that is reported as unknown."""
    return {
        name: value
        for name, value in state.items()
        if not name.endswith("_momentum") and (name != "conv1_b" or bool(value.any()))
    }


def _as_rgb(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The caffe2 models take BGR of deviation 1, and their norms have no statistics."""
    result: dict[str, Tensor] = {}
    for name, value in state.items():
        if name == "backbone.stem.conv1.weight" and value.dim() == 4 and value.shape[1] == 3:
            value = value.flip(1) * torch.tensor(_STD, dtype=value.dtype).view(3, 1, 1)
        result[name] = value
        stem, _, leaf = name.rpartition(".")
        if leaf == "bias" and stem.endswith(".norm") and f"{stem}.running_mean" not in state:
            result[f"{stem}.running_mean"] = torch.zeros_like(value)
            # As a frozen norm of this library that changes nothing: 1 after the norm's epsilon was added.
            result[f"{stem}.running_var"] = torch.ones_like(value) - 1e-5
    return result


# --- files -----------------------------------------------------------------------------------------------------------


def save_backbone(backbone: Backbone, path: Path) -> None:
    """Write a safetensors file that :func:`start_from_backbone` reads.

    Raises:
        UserError: values are not finite, or the file cannot be written.
    """
    check_finite(backbone.state, "the backbone")
    metadata = {"format": _FORMAT, "format_version": "1", "backbone": backbone.config.model_dump_json()}
    tensors = {name: value.contiguous() for name, value in backbone.state.items()}
    write_whole(path, lambda temporary: write_safetensors(tensors, temporary, metadata))


def is_backbone_file(source: str | Path) -> bool:
    """Whether it is a file of :func:`save_backbone`; False for whatever else, also for names and nothing at all."""
    path = Path(source)
    try:
        if not path.is_file():
            return False
        with path.open("rb") as stream:
            head = stream.read(9)
        if not is_safetensors(head, path.stat().st_size):
            return False
        with open_safetensors(path) as file:
            return (file.metadata() or {}).get("format") == _FORMAT
    except (UserError, OSError):
        return False


def load_backbone(path: Path) -> Backbone:
    """Read a file of :func:`save_backbone`.

    Raises:
        UserError: it is damaged, or something else.
    """
    try:
        with open_safetensors(path) as file:
            metadata: dict[str, str] = file.metadata() or {}
            if metadata.get("format") != _FORMAT or metadata.get("format_version") != "1":
                raise UserError("no backbone file that this version reads")
            state = entries_of(file, path)
        values = {"backbone": metadata_value(metadata, "backbone", path)}
    except UserError as error:
        reason = str(error).removeprefix(f"{path}: ").partition(";")[0]
        raise UserError(f"{path}: {reason}; convert the original again") from error
    return Backbone(parse(ModelConfig, values, str(path)).backbone, state)


def start_from_backbone(model: Mask2Former, path: str | Path) -> list[str]:
    """Fill the backbone of ``model`` from a file of :func:`save_backbone`.

    Position biases of Swin are resized where the window is another one; everything else has to fit.

    Args:
        model: freshly initialised; its other parts stay so.
        path: the file.

    Returns:
        One phrase for each thing that was not simply taken over.

    Raises:
        UserError: the file is damaged, or of another backbone; the message says which.
    """
    backbone = load_backbone(Path(path))
    own = {name: value for name, value in model.state_dict().items() if name.startswith("backbone.")}
    notes = ["all but the backbone is newly initialised"]
    state = dict(backbone.state)
    if isinstance(model.backbone, StartsFromBackbone):
        check_finite(state, str(path))
        inner = {name.removeprefix("backbone."): value for name, value in state.items()}
        return [*notes, *model.backbone.start_from_backbone(inner)]
    try:
        notes += with_own_windows(own, state)
    except UserError as error:
        raise UserError(f"{path}: {error}; convert it again") from error
    fresh = sorted(name for name in own.keys() - state.keys() if ".norms." in name)
    if fresh:
        notes.append("the norms of the backbone's outputs are newly initialised")
    kept = {name: own[name] for name in own.keys() - state.keys() if name in fresh or name.endswith(_COUNTER)}
    outside = {name: value for name, value in model.state_dict().items() if name not in own}
    try:
        load_into(model, {**outside, **kept, **state}, str(path))
    except UserError as error:
        way_out = "set model.backbone to that"
        if model.info.architecture is None:
            way_out = (
                f"a backbone of one's own ({type(model.backbone).__name__}) needs a method start_from_backbone(state)"
            )
        raise UserError(f"{error}. The file is of {backbone}; {way_out}") from error
    return notes
