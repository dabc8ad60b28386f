"""Files that contain only a backbone: any model of timm; ResNets of torchvision, MoCo, DINO, detectron2; original Swin.

Training starts from them (``model.init=FILE``), as they are or converted to a safetensors file with everything that
must be known about them. Must not know the other parts of a model.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mask2former.checkpoints.checkpoint import check_finite, load_into
from mask2former.checkpoints.formats import original
from mask2former.checkpoints.formats import timm as timm_models
from mask2former.checkpoints.formats.resnet import DEEP_STEM, resnet_table
from mask2former.checkpoints.formats.timm import EFFICIENTNET_LITE0, LITE0, TimmWeights
from mask2former.checkpoints.normalisation import IMAGENET, Normalisation
from mask2former.checkpoints.rules import Layout, rules, their_name, to_original
from mask2former.checkpoints.safetensors_files import metadata_value, write_safetensors
from mask2former.checkpoints.transfer import with_own_channels, with_own_windows
from mask2former.config import BackboneConfig, ModelConfig, TimmConfig, parse
from mask2former.errors import UserError
from mask2former.files import write_whole
from mask2former.models.mask2former import Mask2Former
from mask2former.models.parts import StartsFromBackbone
from mask2former.text import listed, printable

__all__ = [
    "BACKBONES",
    "BACKBONE_FORMAT",
    "Backbone",
    "read_backbone",
    "recognised_backbone",
    "save_backbone",
    "start_from_backbone",
    "stored_backbone",
    "without_wrapping",
]

BACKBONE_FORMAT = "mask2former-backbone"
_COUNTER = "num_batches_tracked"
_PYRAMID = "backbone.pyramid."  # on top of a plain vision transformer; no published weights include it
_LICENSE = 200  # characters

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
)
RESNET = Layout(
    key="resnet",
    title="ResNet of torchvision or timm",
    signature=("conv1.weight", "layer1.0.conv1.weight"),
    rules=rules("", "backbone.", resnet_table()),
    unused=("fc.*", "fc.{}.*"),
)
DEEP_RESNET = Layout(
    key="deep-resnet",
    title="timm ResNet with a deep stem",
    signature=("conv1.0.weight", "layer1.0.conv1.weight"),
    rules=rules("", "backbone.", resnet_table(DEEP_STEM)),
    unused=("fc.*",),
)
DETECTRON2 = Layout(
    key="detectron2",
    title="detectron2 ResNet",
    signature=("stem.conv1.weight", "res2.0.conv1.weight"),
    rules=rules("", "backbone.", {name: name for name in _SAME_RESNET}),
    unused=("stem.fc.*", "fc.*", "linear.*"),
)
CAFFE2 = Layout(
    key="caffe2",
    title="caffe2 ResNet (BGR)",
    signature=("conv1_w", "res2_0_branch2a_w"),
    rules=(
        *rules("", "backbone.", {"conv1_w": "stem.conv1.weight"}),
        *rules("res_conv1_bn_", "backbone.stem.conv1.norm.", {**_CAFFE2_LEAVES}),
        *(
            rule
            for stage in (2, 3, 4, 5)
            for theirs, layer in _CAFFE2_LAYERS.items()
            for rule in rules(
                f"res{stage}_{{}}_{theirs}_",
                f"backbone.res{stage}.{{}}.{layer}.",
                {"w": "weight", **{f"bn_{short}": f"norm.{leaf}" for short, leaf in _CAFFE2_LEAVES.items()}},
            )
        ),
    ),
    unused=("fc1000_*",),
)
BACKBONES = (SWIN, RESNET, DEEP_RESNET, DETECTRON2, CAFFE2, EFFICIENTNET_LITE0)


@dataclass(frozen=True)
class _Wrapping:
    """Names that a pre-training prepends to those of its encoder, and what other entries it may have."""

    title: str
    prefix: str
    beside: tuple[str, ...]


# The first matching prefix is used, so the network that is meant to be used precedes its twin.
_WRAPPINGS = (
    _Wrapping("MoCo, query encoder", "module.encoder_q.", ("module.encoder_k.", "module.queue")),
    _Wrapping("MoCo v3, base encoder", "module.base_encoder.", ("module.momentum_encoder.", "module.predictor.")),
    _Wrapping("DINO, backbone", "module.backbone.", ("module.head.",)),
    _Wrapping("DINO, backbone", "backbone.", ("head.",)),
)


def without_wrapping(state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], str]:
    """The entries of the encoder of a self-supervised pre-training, and which one it is; unchanged for other files."""
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
        state: tensors by our names, as in a complete model.
        notes: what a user should know about these weights.
        normalisations: how images were normalised; more than one where the file does not say and it cannot be
            determined. Files that never say it mean ImageNet's.
        says_normalisation: whether it is certain, so that a run must not specify another.
        license: of the weights, if known.
    """

    config: BackboneConfig
    state: dict[str, Tensor]
    notes: tuple[str, ...] = ()
    normalisations: tuple[Normalisation, ...] = (IMAGENET,)
    says_normalisation: bool = False
    license: str | None = None

    def __str__(self) -> str:
        return original.backbone_title(self.config)


def recognised_backbone(
    state: Mapping[str, Tensor], config: Mapping[str, Any] | None = None, wanted: TimmConfig | None = None
) -> tuple[str, Backbone] | None:
    """What a backbone file was recognised as, and the backbone; None if it is not a known one.

    Args:
        state: as stored.
        config: of a ``config.json`` beside it.
        wanted: the timm model that is to start from it. It decides where nothing else does.

    Raises:
        UserError: it is a backbone file, but entries are unknown, missing or have other shapes, or it is for another
            model than ``wanted``.
    """
    weights = timm_models.in_folder(config)
    if weights is not None:
        return f"timm {weights.config.model}", _of_timm(state, weights, wanted)
    inner, wrapping = without_wrapping(state)
    layout = next((layout for layout in BACKBONES if layout.fits(inner)), None)
    if layout is not None and layout is EFFICIENTNET_LITE0:
        named = to_original(layout, inner)
        return layout.title, _of_timm(named, LITE0, wanted, lambda name: their_name(layout, name))
    is_general = wanted is None or original.is_resnet(wanted.model) or layout in (DETECTRON2, CAFFE2)
    if layout is not None and is_general:
        return wrapping or layout.title, read_backbone(layout, inner)
    if wanted is None:
        return None
    weights = TimmWeights(wanted, timm_models.known_normalisations(wanted.model))
    return f"timm {wanted.model}", _of_timm(inner, weights, wanted)


def _of_timm(
    state: Mapping[str, Tensor], weights: TimmWeights, wanted: TimmConfig | None, spelled: Callable[[str], str] = str
) -> Backbone:
    model, config = weights.config.model.partition(".")[0], wanted or weights.config
    if config.model.partition(".")[0] != model:
        raise UserError(
            f"these weights are for timm's {printable(model, 80)}, but model.backbone.model is "
            f"{printable(config.model, 80)}; leave model.backbone.model out, and it is taken from the weights"
        )
    taken, left_out = timm_models.fitted(state, config, spelled)
    notes = [f"left out, since a backbone does not need them: {listed(left_out, 6)}"] if left_out else []
    if weights.license is not None:
        notes.append(f"the weights are licensed {weights.license}")
    says_normalisation = len(weights.normalisations) == 1
    return Backbone(config, taken, tuple(notes), weights.normalisations, says_normalisation, weights.license)


def read_backbone(layout: Layout, state: Mapping[str, Tensor]) -> Backbone:
    """A backbone from the entries of a file with ``layout``, for ResNets or Swin.

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
        notes.append("channels of the stem were reordered from BGR to RGB, and its scale adapted to our normalisation")
        notes.append("it was trained with strides in the 1x1 convolutions, but here they are in the 3x3 convolutions")
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
    """Entries without training leftovers, and without the stem's bias if it is zero; else it is reported as unknown."""
    return {
        name: value
        for name, value in state.items()
        if not name.endswith("_momentum") and (name != "conv1_b" or bool(value.any()))
    }


def _as_rgb(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The caffe2 models expect BGR with deviation 1, and their norms have no statistics."""
    result: dict[str, Tensor] = {}
    for name, value in state.items():
        if name == "backbone.stem.conv1.weight" and value.dim() == 4 and value.shape[1] == 3:
            value = value.flip(1) * torch.tensor(IMAGENET.pixel_std, dtype=value.dtype).view(3, 1, 1)
        result[name] = value
        stem, _, leaf = name.rpartition(".")
        if leaf == "bias" and stem.endswith(".norm") and f"{stem}.running_mean" not in state:
            result[f"{stem}.running_mean"] = torch.zeros_like(value)
            # As a frozen norm of this library that changes nothing: 1 once the norm's epsilon is added.
            result[f"{stem}.running_var"] = torch.ones_like(value) - 1e-5
    return result


# --- files -----------------------------------------------------------------------------------------------------------


def save_backbone(backbone: Backbone, path: Path) -> None:
    """Write a safetensors file that training can start from; :func:`stored_backbone` reads it.

    Raises:
        UserError: values are not finite, nothing says how images were normalised, or the file cannot be written.
    """
    check_finite(backbone.state, "the backbone")
    metadata = {"format": BACKBONE_FORMAT, "format_version": "1", "backbone": backbone.config.model_dump_json()}
    if backbone.license is not None:
        metadata["license"] = backbone.license
    if backbone.says_normalisation:
        metadata["normalisation"] = json.dumps(backbone.normalisations[0].settings)
        if backbone.normalisations[0] != IMAGENET:
            metadata["format_version"] = "2"  # earlier versions do not read it, since they would ignore it
    elif len(backbone.normalisations) > 1:
        raise UserError(
            f"it is not known how images were normalised for these weights of {backbone} (timm has some with "
            f"{' and some with '.join(map(str, backbone.normalisations))}); put the config.json of timm beside them"
        )
    tensors = {name: value.contiguous() for name, value in backbone.state.items()}
    write_whole(path, lambda temporary: write_safetensors(tensors, temporary, metadata))


def stored_backbone(metadata: Mapping[str, str], state: dict[str, Tensor], path: Path) -> Backbone:
    """The content of a file of :func:`save_backbone`.

    Raises:
        UserError: its metadata are damaged.
    """
    try:
        values = {"backbone": metadata_value(metadata, "backbone", path)}
        says_normalisation = "normalisation" in metadata
        stated = metadata_value(metadata, "normalisation", path) if says_normalisation else {}
        if not isinstance(stated, dict) or stated.keys() - IMAGENET.settings.keys():
            raise UserError("the 'normalisation' in its header is not a mapping with pixel_mean and pixel_std only")
    except UserError as error:
        reason = str(error).removeprefix(f"{path}: ").partition(";")[0]
        raise UserError(f"{path}: {reason}; convert the original again") from error
    model = parse(ModelConfig, {**values, **stated}, str(path))
    license = printable(metadata["license"], _LICENSE) if "license" in metadata else None
    notes = () if license is None else (f"the weights are licensed {license}",)
    return Backbone(model.backbone, state, notes, (Normalisation.of(model),), says_normalisation, license)


def start_from_backbone(
    model: Mask2Former, backbone: Backbone, path: str | Path, *, repeat_channels: bool = False
) -> list[str]:
    """Fill the backbone of ``model``.

    Position biases of Swin are resized if the window differs; everything else must fit.

    Args:
        model: freshly initialised; its other parts stay so. Receives the license.
        backbone: the backbone that was read.
        path: where it was read from, for messages.
        repeat_channels: the images may have a number of channels other than three, see
            :func:`~mask2former.checkpoints.transfer.with_own_channels`.

    Returns:
        One phrase for each thing that was not simply copied.

    Raises:
        UserError: it is another backbone, or images are normalised differently; the message says which.
    """
    stated = backbone.normalisations[0]
    is_other = (stated.pixel_mean, stated.pixel_std) != (model.mean, model.std)
    if backbone.says_normalisation and is_other and model.channels == len(stated.pixel_mean):
        raise UserError(
            f"{path}: images were normalised with {stated}, but the model has mean {list(model.mean)} and deviation "
            f"{list(model.std)}; build it with the mean and std of the weights"
        )
    if backbone.license is not None:
        model.info = replace(model.info, license=backbone.license)
    own = {name: value for name, value in model.state_dict().items() if name.startswith("backbone.")}
    notes = [*backbone.notes]
    state = dict(backbone.state)
    if isinstance(model.backbone, StartsFromBackbone):
        check_finite(state, str(path))
        inner = {name.removeprefix("backbone."): value for name, value in state.items()}
        return [*notes, *model.backbone.start_from_backbone(inner)]
    channels = model.channels, len(stated.pixel_mean)
    notes += with_own_channels(own, state, channels[1], channels[0], str(path), repeat=repeat_channels)
    try:
        notes += with_own_windows(own, state)
    except UserError as error:
        raise UserError(f"{path}: {error}; convert it again") from error
    fresh = sorted(name for name in own.keys() - state.keys() if ".norms." in name or name.startswith(_PYRAMID))
    if fresh:
        of_pyramid = fresh[0].startswith(_PYRAMID)
        what = "pyramid over the backbone is" if of_pyramid else "norms of the backbone's outputs are"
        notes.append(f"the {what} newly initialised")
    kept = {name: own[name] for name in own.keys() - state.keys() if name in fresh or name.endswith(_COUNTER)}
    outside = {name: value for name, value in model.state_dict().items() if name not in own}
    try:
        load_into(model, {**outside, **kept, **state}, str(path))
    except UserError as error:
        way_out = "set model.backbone to that, or leave model.backbone out of the run file"
        if model.info.architecture is None:
            way_out = f"your own backbone ({type(model.backbone).__name__}) needs a method start_from_backbone(state)"
        raise UserError(f"{error}. The file is of {backbone}; {way_out}") from error
    return notes
