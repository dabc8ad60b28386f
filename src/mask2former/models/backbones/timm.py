"""Any timm model as a backbone, with its batch norms frozen, synchronised or plain.

timm is imported when the first such backbone is created: it takes seconds, which models with other backbones are
spared.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from mask2former import limits
from mask2former.config import TimmConfig
from mask2former.errors import UserError
from mask2former.models.backbones.pyramid import SimpleFeaturePyramid
from mask2former.models.backbones.resnet_inference import FoldedResNet
from mask2former.models.pixel_decoders.features import TokenFeatures
from mask2former.text import printable, quoted

__all__ = ["RESERVED_ARGUMENTS", "TimmBackbone", "check_arguments", "frozen_norms"]

_DEFAULT = TimmConfig()
_STRIDES = (4, 8, 16, 32)
_ONE_STRIDE = 16  # of the map that a pyramid is computed from
_PYRAMID_RATE = 10.0  # the published backbone_multiplier is a tenth, for pre-trained parameters
_LAYER_DECAY = 0.8  # of the learning rate, from each block of an encoder-only model to the previous one
_PROBE = (32, 1056)  # height, width: small, not a square grid, and wider than positional tables are built for
# Arguments that make some timm models accept images of any size.
_ANY_SIZE: tuple[dict[str, Any], ...] = ({"strict_img_size": False}, {"dynamic_img_size": True})

_DEPTH = 4  # of nested arguments

_WEIGHTS = "the weights that training starts from are set by model.init (model.init=timm/{model}.TAG, or a file)"
_FEATURES = f"the maps of strides {list(_STRIDES)} are selected here"
_CHANNELS = "the number of image channels is the length of model.pixel_mean"
_HEAD = "a backbone has no classifier"
_LOADING = "how the model is created is not part of its architecture"
# timm arguments that a run or a checkpoint must not pass, and why ({model} is the name of the model). The first group
# would fetch weights, or read files with a loader that can execute code; the model could not be rebuilt from a
# checkpoint then.
RESERVED_ARGUMENTS: Mapping[str, str] = {
    **dict.fromkeys(
        ("pretrained", "pretrained_cfg", "pretrained_cfg_overlay", "pretrained_strict", "pretrained_filter_fn",
         "pretrained_model_args", "checkpoint_path", "cache_dir", "pruned"), _WEIGHTS
    ),
    **dict.fromkeys(("features_only", "feature_cls", "feature_cfg", "out_indices", "output_fmt"), _FEATURES),
    "in_chans": _CHANNELS,
    **dict.fromkeys(("num_classes", "global_pool"), _HEAD),
    **dict.fromkeys(("scriptable", "exportable", "no_jit", "device", "dtype", "kwargs_filter", "model_cfg"), _LOADING),
}  # fmt: skip


def check_arguments(model: str, kwargs: Mapping[str, Any]) -> None:
    """Refuse names and arguments with which timm would reach beyond the architecture, in runs and checkpoints alike.

    Only plain values are allowed: numbers, and words that name a layer. No address, path or function is among them,
    whatever arguments other versions of timm have.

    Raises:
        UserError: the name has a source (``hf_hub:...``), an argument is one of ``RESERVED_ARGUMENTS``, even if nested,
            or its value is not plain, or beyond ``limits.ARGUMENT``.
    """
    shown = f"backbone '{printable(model, 80)}'"
    if not re.fullmatch(r"[\w.+-]{1,100}", model):
        raise UserError(
            f"{shown} would be read from elsewhere; expected the name of an architecture, as listed by "
            "timm.list_models()"
        )
    waiting: list[tuple[Any, Any, int]] = [(name, value, 0) for name, value in kwargs.items()]
    count = 0
    while waiting:
        name, value, depth = waiting.pop()
        count += 1
        limits.check_limit(f"{shown} has too many kwargs:", count, limits.ARGUMENTS, "leave some out")
        where = f"{shown}: argument {quoted(name, 40)}"
        if not isinstance(name, str):
            raise UserError(f"{where} is not a name; expected an argument name of timm")
        if name in RESERVED_ARGUMENTS:
            reason = RESERVED_ARGUMENTS[name].format(model=model.partition(".")[0])
            raise UserError(f"{shown}: remove '{name}' from its kwargs: {reason}")
        if isinstance(value, dict | list | tuple):
            if depth == _DEPTH:
                raise UserError(f"{where} is nested more than {_DEPTH} times; expected numbers, words, or lists")
            inner = value.items() if isinstance(value, dict) else ((name, part) for part in value)
            waiting.extend((key, part, depth + 1) for key, part in inner)
        elif isinstance(value, str):
            if not re.fullmatch(r"[\w+-]{0,60}", value):
                raise UserError(
                    f"{where} is {quoted(value)}; expected a word that timm knows, without dots and slashes"
                )
        elif isinstance(value, int | float):
            if not abs(value) <= limits.ARGUMENT:
                raise UserError(f"{where} is {quoted(value)}; expected a number of at most {limits.ARGUMENT:,}")
        elif value is not None:
            raise UserError(f"{where} is a {type(value).__name__}; expected numbers, words, or lists of them")


class TimmBackbone(nn.Module):
    """``timm.create_model(model, features_only=True)`` reduced to the maps of strides 4, 8, 16 and 32.

    timm's ResNets have the published layout (stride in the 3x3 convolution); names ending in ``s`` have the deep stem
    with 128 channels. Models that keep channels last (``swin_*``, ``mambaout_*``) are permuted. Models other than plain
    ResNets process one small image first, unless they are created on the ``meta`` device, and those that do not return
    maps of the four strides for images of any size are refused.

    With ``pyramid`` the model is a plain vision transformer, whose last map is turned into maps of four strides. Its
    tokens are at stride 16 whatever its patch size: images are resized for it, by 14/16 for patches of 14 pixels, so
    that its weights keep the patch size that they were trained with.

    Args:
        model: timm's name, for instance ``resnet50``.
        norm: how batch norms are treated. ``frozen``: fixed scale and shift, no training; ``sync``: statistics over all
            ranks; ``batch``: as created by timm.
        kwargs: further keyword arguments for ``timm.create_model``; see :func:`check_arguments`.
        pyramid: channels of the maps of a :class:`SimpleFeaturePyramid`; 0: the model has its own maps.
        joint_blocks: how many of the last blocks of a plain vision transformer are left to the reader of its
            :class:`TokenFeatures`, which it returns instead of maps.
        in_channels: of the images.

    Raises:
        UserError: timm does not know the model or an argument, or the model does not return the four strides for images
            of any size.
    """

    def __init__(
        self,
        model: str = _DEFAULT.model,
        norm: Literal["frozen", "sync", "batch"] = _DEFAULT.norm,
        kwargs: dict[str, Any] | None = None,
        pyramid: int = _DEFAULT.pyramid,
        joint_blocks: int = _DEFAULT.joint_blocks,
        in_channels: int = 3,
    ) -> None:
        super().__init__()
        options = dict(kwargs or {})
        check_arguments(model, options)
        if in_channels != 3:
            options["in_chans"] = in_channels
        from timm.models import is_model_in_modules

        is_resnet = is_model_in_modules(model.split(".")[0], {"resnet"})
        # Spares published models the test image.
        is_known = is_resnet and options.keys() <= {"channels", "zero_init_last", "in_chans"}
        if is_resnet:
            # With frozen norms timm's default would silence every residual branch for good.
            options.setdefault("zero_init_last", False)
        self._model = model
        self.strides = _STRIDES
        self.pyramid: SimpleFeaturePyramid | None = None
        self.joint_blocks = joint_blocks
        if joint_blocks:
            body = _transformer(model, options, joint_blocks)
            self.channels: tuple[int, ...] = (int(body.num_features),)
            self._patch = int(body.patch_embed.patch_size[0])
            self.strides, self._channels_last = (_ONE_STRIDE,), False
            self.body = body
            return
        if pyramid:
            hint = "; a pyramid (model.backbone.pyramid) is for plain vision transformers"
            body = _body(model, {"dynamic_img_size": True, "out_indices": 1, **options}, hint)  # the last map
            self._patch, channels = _one_map(model, body, in_channels)
            self.channels = (pyramid,) * len(_STRIDES)
            self.body = _with_norms(body, norm)
            self.pyramid, self._channels_last = SimpleFeaturePyramid(channels, pyramid), False
            return
        body = _body(model, options)
        self._chosen, self.channels = _maps(model, body)
        self.body = _with_norms(body, norm)
        try:
            self._channels_last = not is_known and _probe(body, self._chosen, self.channels, in_channels)
        except _UnfitError as error:
            raise UserError(f"backbone '{model}' {error}; {_way_out(model, options, in_channels)}") from error

    def set_gradient_checkpointing(self, enable: bool) -> None:
        """Whether stages are recomputed in the backward pass.

        Raises:
            UserError: the timm model does not support it.
        """
        body: Any = self.body if hasattr(self.body, "set_grad_checkpointing") else getattr(self.body, "model", None)
        try:
            body.set_grad_checkpointing(enable)
        except (AttributeError, AssertionError, NotImplementedError) as error:
            if enable:
                raise UserError(
                    f"backbone '{self._model}' of timm does not support gradient checkpointing; switch it off "
                    "(trainer.gradient_checkpointing=false)"
                ) from error

    def for_inference(self) -> nn.Module:
        """On a CPU, plain ResNets with their norms folded if these have fixed statistics; any other model unchanged."""
        weight = next(self.parameters())
        is_mine = type(self) is TimmBackbone and self.pyramid is None and not self.joint_blocks
        if not is_mine or weight.device.type != "cpu" or weight.dtype == torch.float16:
            return self
        return FoldedResNet.of(self, self.body, self._chosen) or self

    def no_weight_decay(self) -> Collection[str]:
        """Position embeddings and class tokens of a plain vision transformer."""
        if self.pyramid is None and not self.joint_blocks:
            return ()
        ending = ("pos_embed", "cls_token", "reg_token")
        return [name for name, _ in self.named_parameters() if name.endswith(ending)]

    def learning_rate_multipliers(self) -> Mapping[str, float]:
        """Larger for the pyramid, which is not pre-trained; in an encoder-only model, smaller for earlier blocks."""
        if self.joint_blocks:
            alone = len(self.body.blocks) - self.joint_blocks
            blocks = {f"body.blocks.{index}": _LAYER_DECAY ** max(0, alone - index) for index in range(alone)}
            return {"body": _LAYER_DECAY ** (alone + 1), "body.blocks": 1.0, "body.norm": 1.0, **blocks}
        return {} if self.pyramid is None else {"pyramid": _PYRAMID_RATE}

    def forward(self, images: Float[Tensor, "N C H W"]) -> list[Float[Tensor, "N _C_l _H_l _W_l"]] | TokenFeatures:
        """Maps of ``channels`` at ``strides``, finest first, or tokens; ``images`` are normalised.

        Raises:
            UserError: in training, a batch norm has only one value per channel.
        """
        if self.joint_blocks:
            return self._tokens(self._at_stride_16(images))
        if self.pyramid is not None:
            return self.pyramid(self.body(self._at_stride_16(images))[-1])
        try:
            maps: list[Tensor] = self.body(images)
        except ValueError as error:
            if "more than 1 value per channel" not in str(error):
                raise
            count, _, height, width = images.shape
            raise UserError(
                f"backbone '{self._model}': a batch norm has only one value per channel to take statistics of, with "
                f"{count} image of {height}x{width} pixels; train with larger crops or more images at a time "
                "(data.batch_size_per_device), or set model.backbone.norm=frozen"
            ) from error
        chosen = [maps[index] for index in self._chosen]
        return [level.permute(0, 3, 1, 2).contiguous() for level in chosen] if self._channels_last else chosen

    def _at_stride_16(self, images: Float[Tensor, "N C H W"]) -> Float[Tensor, "N C _H _W"]:
        """Images at the size at which there are as many patches as pixels in a map of stride 16."""
        if self._patch == _ONE_STRIDE:
            return images
        size = [side // _ONE_STRIDE * self._patch for side in images.shape[2:]]
        wide = images.to(torch.promote_types(images.dtype, torch.float32))  # on a CPU, torch has no form for halves
        resized = F.interpolate(wide, size=size, mode="bilinear", align_corners=False, antialias=True)
        return resized.to(images.dtype)

    def _tokens(self, images: Float[Tensor, "N C H W"]) -> TokenFeatures:
        body = self.body
        alone, count = len(body.blocks) - self.joint_blocks, body.num_prefix_tokens
        found = body.forward_intermediates(
            images,
            indices=[alone - 1],
            stop_early=True,
            intermediates_only=True,
            output_fmt="NLC",
            return_prefix_tokens=count > 0,
        )[0]
        patches, prefix = found if count else (found, found[:, :0])
        height, width = (side // self._patch for side in images.shape[2:])
        ropes = None
        if getattr(body, "rope", None) is not None:
            embedding = body.rope.get_embed(shape=(height, width))
            is_mixed = getattr(body, "rope_mixed", False)  # one for each block
            ropes = tuple(embedding[alone:]) if is_mixed else (embedding,) * self.joint_blocks
        blocks = tuple(body.blocks[alone:])
        return TokenFeatures(prefix, patches, (height, width), blocks, ropes, body.norm, body.grad_checkpointing)


class _UnfitError(Exception):
    """Why a model is unsuitable, as the end of a sentence that begins with its name."""


def frozen_norms(body: nn.Module) -> list[Any]:
    """The batch norms of a timm model whose statistics, scale and shift never change."""
    from timm.layers.norm_act import FrozenBatchNormAct2d
    from torchvision.ops import FrozenBatchNorm2d

    return [module for module in body.modules() if isinstance(module, FrozenBatchNorm2d | FrozenBatchNormAct2d)]


def _with_norms(body: Any, norm: Literal["frozen", "sync", "batch"]) -> Any:
    from timm.layers.norm_act import convert_sync_batchnorm
    from timm.utils.model import freeze_batch_norm_2d

    if norm == "sync":
        return convert_sync_batchnorm(body)  # unlike torch's, it keeps the activation that some norms include
    if norm == "frozen":
        body = freeze_batch_norm_2d(body)
        for module in frozen_norms(body):
            variance, eps = module.running_var, module.eps
            assert isinstance(variance, Tensor)
            assert isinstance(eps, float)
            variance.sub_(eps)  # Parity: a fresh frozen norm is the identity
    return body


def _body(model: str, options: Mapping[str, Any], hint: str = "") -> Any:
    return _created(model, {"features_only": True, **options}, hint)


def _created(model: str, options: Mapping[str, Any], hint: str) -> Any:
    import timm

    try:
        return timm.create_model(model, **options)
    except UserError:  # of the function that counts parameters
        raise
    except Exception as error:  # timm models handle arguments in many different ways
        raise UserError(f"backbone '{model}': timm could not create it: {_reason(error)}{hint}") from error


def _maps(model: str, body: Any) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Which of the maps have the four strides, the last of each, and their channels."""
    reductions, channels = body.feature_info.reduction(), body.feature_info.channels()
    missing = [stride for stride in _STRIDES if stride not in reductions]
    if missing:
        plain = "; for a plain vision transformer set model.backbone.pyramid=256" if len(set(reductions)) == 1 else ""
        raise UserError(
            f"backbone '{model}' has maps of strides {reductions}; expected maps of strides {list(_STRIDES)}{plain}"
        )
    chosen = tuple(len(reductions) - 1 - reductions[::-1].index(stride) for stride in _STRIDES)
    return chosen, tuple(channels[index] for index in chosen)


def _one_map(model: str, body: Any, in_channels: int) -> tuple[int, int]:
    """The stride and channels of the last map of a plain vision transformer that accepts images of any size.

    Raises:
        UserError: it has maps of several strides, or accepts only one image size.
    """
    reductions, channels = body.feature_info.reduction(), body.feature_info.channels()
    if len(set(reductions)) > 1:
        raise UserError(
            f"backbone '{model}' has maps of strides {reductions}, but a pyramid requires a model with maps of one "
            "stride; leave model.backbone.pyramid out"
        )
    patch, weight = int(reductions[-1]), next(body.parameters())
    if weight.is_meta:  # a model with shapes only
        return patch, channels[-1]
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            found = tuple(body(weight.new_zeros(1, in_channels, 2 * patch, 6 * patch))[-1].shape)
    except Exception as error:  # timm models raise many different errors
        raise UserError(f"backbone '{model}' does not accept images of arbitrary size ({_reason(error)})") from error
    if found != (1, channels[-1], 2, 6):
        raise UserError(f"backbone '{model}' returns a map of {_listed([found])} for an image of 2x6 patches")
    return patch, channels[-1]


def _transformer(model: str, options: Mapping[str, Any], joint_blocks: int) -> Any:
    """A plain vision transformer with all its blocks and its last norm, which accepts images of any size.

    Raises:
        UserError: it is not one, or has too few blocks.
    """
    from timm.models.eva import Eva
    from timm.models.vision_transformer import VisionTransformer

    if not options.get("dynamic_img_size", True) or options.get("patch_drop_rate"):
        raise UserError(
            f"backbone '{model}': remove 'dynamic_img_size' and 'patch_drop_rate' from its kwargs: with joint_blocks "
            "images may have any size, and all patches are needed"
        )
    options = {"dynamic_img_size": True, **options, "num_classes": 0, "global_pool": "token"}
    body = _created(model, options, "; joint_blocks require a plain vision transformer")
    if not isinstance(body, VisionTransformer | Eva):
        raise UserError(
            f"backbone '{model}' is not a plain vision transformer with blocks that accept masks, which joint_blocks "
            "require; choose vit_*, deit3_* or eva02_*"
        )
    if len(set(body.patch_embed.patch_size)) > 1:
        raise UserError(
            f"backbone '{model}' has patches of {list(body.patch_embed.patch_size)} pixels; joint_blocks require "
            "square patches"
        )
    if joint_blocks >= len(body.blocks):
        raise UserError(
            f"backbone '{model}' has {len(body.blocks)} blocks, but model.backbone.joint_blocks is {joint_blocks}; "
            "leave at least one block without queries"
        )
    return body


def _probe(body: nn.Module, chosen: tuple[int, ...], channels: tuple[int, ...], in_channels: int) -> bool:
    """Whether the maps of a small image have channels last; the model is not changed.

    Raises:
        _UnfitError: it returns no maps, or their grids or channels do not match the strides.
    """
    weight = next(body.parameters())
    if weight.is_meta:  # a model with shapes only
        return False
    was_training = body.training
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            found = body.eval()(weight.new_zeros(1, in_channels, *_PROBE))
        shapes = [tuple(found[index].shape[1:]) for index in chosen]
    except Exception as error:
        height, width = _PROBE
        raise _UnfitError(
            f"does not accept images of arbitrary size (of {height}x{width}: {_reason(error)})"
        ) from error
    finally:
        body.train(was_training)
    grids = [(_PROBE[0] // stride, _PROBE[1] // stride) for stride in _STRIDES]
    if shapes == [(count, *grid) for count, grid in zip(channels, grids, strict=True)]:
        return False
    if shapes == [(*grid, count) for count, grid in zip(channels, grids, strict=True)]:
        return True
    size = "x".join(map(str, _PROBE))
    raise _UnfitError(f"returns maps of {_listed(shapes)} for an image of {size}, not of {_listed(grids)}")


def _way_out(model: str, options: Mapping[str, Any], in_channels: int) -> str:
    """Advice for a model that is unsuitable: an argument with which it works, tried out, or another model."""
    for more in _ANY_SIZE:
        if more.keys() & options.keys():
            continue
        try:
            with torch.random.fork_rng(devices=[]):
                body = _body(model, {**options, **more})
            _probe(body, *_maps(model, body), in_channels)
        except (UserError, _UnfitError):
            continue
        ((name, value),) = more.items()
        return f"set model.backbone.kwargs={{{name}: {str(value).lower()}}}"
    return "choose another model"


def _listed(sizes: list[Any]) -> str:
    return ", ".join("x".join(map(str, size)) for size in sizes)


def _reason(error: Exception) -> str:
    return printable(str(error), 150) or type(error).__name__
