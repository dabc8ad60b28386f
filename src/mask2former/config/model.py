"""The architecture of a model, and where its training starts."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import Discriminator, Field, Tag, model_validator

from mask2former.config.fields import NonNegativeInt, PixelMean, PixelStd, PositiveInt, Probability, Strict
from mask2former.config.inference import InferenceConfig
from mask2former.limits import CHANNELS

__all__ = [
    "LATER_SETTINGS",
    "ArchitectureConfig",
    "BackboneConfig",
    "BiFPNConfig",
    "EncoderOnlyConfig",
    "FPNConfig",
    "FaPNConfig",
    "MSDeformAttnConfig",
    "MaskedDecoderConfig",
    "ModelConfig",
    "NoPixelDecoderConfig",
    "OwnPartsConfig",
    "PerPixelConfig",
    "PerPixelPlusConfig",
    "PixelDecoderConfig",
    "SemanticFPNConfig",
    "StandardDecoderConfig",
    "SwinConfig",
    "TimmConfig",
    "TransformerDecoderConfig",
    "TransformerFPNConfig",
]


class TimmConfig(Strict):
    """Any timm model with ``features_only`` support."""

    name: Literal["timm"] = "timm"
    model: str = "resnet50"
    norm: Literal["frozen", "sync", "batch"] = "frozen"  # for models with batch norms; others keep their own norm
    # passed to timm.create_model, for instance {"channels": [48, 96, 192, 384]}
    kwargs: dict[str, Any] = Field(default={})
    # channels of a simple feature pyramid over the single map of a plain vision transformer (ViTDet); 0: the model
    # itself has maps of four strides
    pyramid: NonNegativeInt = 0
    # number of last blocks of a plain vision transformer that also process queries (EoMT); 0: it has no queries
    joint_blocks: NonNegativeInt = 0

    @model_validator(mode="after")
    def _one_use(self) -> TimmConfig:
        if self.pyramid and self.joint_blocks:
            raise ValueError(
                f"joint_blocks {self.joint_blocks} use the tokens of the transformer, but pyramid {self.pyramid} "
                "turns them into maps; set one of the two to 0"
            )
        return self


class SwinConfig(Strict):
    """Swin Transformer; the defaults are Swin-T."""

    name: Literal["swin"] = "swin"
    embed_dim: PositiveInt = 96
    depths: tuple[PositiveInt, PositiveInt, PositiveInt, PositiveInt] = (2, 2, 6, 2)
    num_heads: tuple[PositiveInt, PositiveInt, PositiveInt, PositiveInt] = (3, 6, 12, 24)
    window_size: PositiveInt = 7
    drop_path_rate: Probability = 0.3

    @model_validator(mode="after")
    def _divisible(self) -> SwinConfig:
        for stage, heads in enumerate(self.num_heads):
            if self.embed_dim * 2**stage % heads:
                raise ValueError(
                    f"stage {stage + 1} has {self.embed_dim * 2**stage} channels (embed_dim {self.embed_dim}, doubled "
                    f"from stage to stage), which must be a multiple of its num_heads {heads}"
                )
        return self


_NORM_GROUPS = 32  # of the pixel decoders


def _check_dim(dim: int, num_heads: int, step: int, reason: str = "") -> None:
    if dim % num_heads or dim % step:
        raise ValueError(f"dim {dim} must be a multiple of num_heads {num_heads} and of {step}{reason}")


BackboneConfig = Annotated[TimmConfig | SwinConfig, Field(discriminator="name")]


class MSDeformAttnConfig(Strict):
    """Multi-scale deformable attention pixel decoder."""

    name: Literal["msdeformattn"] = "msdeformattn"
    dim: PositiveInt = 256
    mask_dim: PositiveInt = 256
    num_layers: PositiveInt = 6
    num_heads: PositiveInt = 8
    num_points: PositiveInt = 4
    feedforward_dim: PositiveInt = 1024
    dropout: Probability = 0.0
    # numbers of layers that see the tokens of stride 32, of 32 and 16, and of all (PRO-SCALE); None: all see all
    stages: tuple[NonNegativeInt, NonNegativeInt, PositiveInt] | None = None

    @model_validator(mode="after")
    def _staged(self) -> MSDeformAttnConfig:
        if self.stages is not None and sum(self.stages) != self.num_layers:
            raise ValueError(f"stages {list(self.stages)} must add up to num_layers {self.num_layers}")
        return self

    @model_validator(mode="after")
    def _divisible(self) -> MSDeformAttnConfig:
        _check_dim(self.dim, self.num_heads, _NORM_GROUPS, " (norm groups)")
        return self


class _PyramidSettings(Strict):
    """Settings of feature pyramids."""

    dim: PositiveInt = 256
    mask_dim: PositiveInt = 256

    @model_validator(mode="after")
    def _divisible(self) -> Self:
        if self.dim % _NORM_GROUPS:
            raise ValueError(f"dim {self.dim} must be a multiple of {_NORM_GROUPS} (norm groups)")
        return self


class FPNConfig(_PyramidSettings):
    """Feature pyramid pixel decoder (Mask2Former, Table 4e)."""

    name: Literal["fpn"] = "fpn"


class SemanticFPNConfig(_PyramidSettings):
    """Feature pyramid whose maps are summed at stride 4 (Panoptic FPN; Mask2Former, Table 4e)."""

    name: Literal["semantic-fpn"] = "semantic-fpn"


class BiFPNConfig(_PyramidSettings):
    """Alternating top-down and bottom-up pyramids (EfficientDet; Mask2Former, Table 4e)."""

    name: Literal["bifpn"] = "bifpn"
    num_layers: PositiveInt = 7  # as in the EfficientDet with a similar number of channels


class FaPNConfig(_PyramidSettings):
    """Feature pyramid that aligns its maps (FaPN; Mask2Former, Table 4e)."""

    name: Literal["fapn"] = "fapn"
    num_groups: PositiveInt = 8  # groups of channels that share the offsets of a deformable convolution

    @model_validator(mode="after")
    def _grouped(self) -> Self:
        if self.dim % self.num_groups:
            raise ValueError(f"dim {self.dim} must be a multiple of num_groups {self.num_groups}")
        return self


class NoPixelDecoderConfig(Strict):
    """No pixel decoder: queries are tokens of the backbone (EoMT)."""

    name: Literal["none"] = "none"


class _EncoderSettings(Strict):
    """Settings of a transformer as in DETR; the defaults are those of MaskFormer."""

    num_heads: PositiveInt = 8
    feedforward_dim: PositiveInt = 2048
    dropout: Probability = 0.1
    pre_norm: bool = False  # norms before attention and feed-forward instead of after them


class TransformerFPNConfig(_EncoderSettings):
    """Feature pyramid with a transformer encoder over the map of stride 32 (MaskFormer with ResNets)."""

    name: Literal["transformer-fpn"] = "transformer-fpn"
    dim: PositiveInt = 256
    mask_dim: PositiveInt = 256
    num_layers: PositiveInt = 6

    @model_validator(mode="after")
    def _divisible(self) -> Self:
        _check_dim(self.dim, self.num_heads, _NORM_GROUPS, " (norm groups)")
        return self


class _DecoderSettings(Strict):
    @property
    def queries(self) -> int | None:
        """Maximum number of objects that it can predict; None if it classifies pixels."""
        return getattr(self, "num_queries", None)


class MaskedDecoderConfig(_DecoderSettings):
    """Masked-attention transformer decoder; from ``attention`` on, alternatives compared in the paper."""

    name: Literal["masked"] = "masked"
    dim: PositiveInt = 256
    num_queries: PositiveInt = 100
    num_layers: PositiveInt = 9
    num_heads: PositiveInt = 8
    feedforward_dim: PositiveInt = 2048
    position_encoding: Literal["2d", "3d"] = "2d"  # 3d adds the frame index: the published video models
    # inside the predicted mask; everywhere; around a predicted centre; or the mean inside the mask (Table 4c)
    attention: Literal["masked", "full", "smca", "mask_pool"] = "masked"
    # strides 32, 16 and 8 in turn; all of them in each layer; or only one of them (Table 4d)
    scales: Literal["efficient", "naive", "s32", "s16", "s8"] = "efficient"
    order: Literal["cross_first", "self_first"] = "cross_first"  # of cross-attention and self-attention (Table 4b)
    # what queries start from: learned features with their own loss, learned features without one, or zero (Table XI b)
    query_init: Literal["learned_supervised", "learned", "zero"] = "learned_supervised"
    dropout: Probability = 0.0  # 0.1 in earlier decoders (Table 4b)
    pre_norm: bool = False  # norms before attention and feed-forward instead of after them
    project_inputs: bool = False  # a convolution of each map even if it has as many channels as the decoder
    # in training, the maximum number of queries that receive masks of the ground truth (MP-Former); 0: none
    pilots: int = Field(default=0, ge=0, le=1000)
    pilot_noise: Probability = 0.2  # share of their masks and of their classes that is wrong

    @model_validator(mode="after")
    def _divisible(self) -> MaskedDecoderConfig:
        _check_dim(self.dim, self.num_heads, 4)
        return self

    @model_validator(mode="after")
    def _reads_queries(self) -> MaskedDecoderConfig:
        if self.attention == "mask_pool" and self.pre_norm:
            raise ValueError(
                "attention mask_pool does not read the queries, so pre_norm has nothing to normalise; set it to false"
            )
        if self.pilots and self.attention not in ("masked", "mask_pool"):
            raise ValueError(f"pilots attend inside masks, but attention {self.attention} uses none; set pilots to 0")
        return self

    @property
    def switches(self) -> dict[str, str | bool | int]:
        """Differences from the published decoder in computation, not in sizes; only our own files have such models."""
        names = ("attention", "scales", "order", "query_init", "pre_norm", "pilots")
        values = {name: getattr(self, name) for name in names}
        return {name: value for name, value in values.items() if value != type(self).model_fields[name].default}


class _StandardSettings(_EncoderSettings, _DecoderSettings):
    """Settings of MaskFormer's transformer, which attends to one map."""

    dim: PositiveInt = 256
    num_layers: PositiveInt = 6
    num_encoder_layers: NonNegativeInt = 0  # over the map, before the decoder
    # the map: from the backbone (strides 4, 8, 16, 32), the encoder of transformer-fpn, or the pixel embeddings
    source: Literal["res2", "res3", "res4", "res5", "encoder", "mask_features"] = "res5"
    project_source: bool = False  # a convolution even if the map has as many channels as the decoder

    @model_validator(mode="after")
    def _divisible(self) -> Self:
        _check_dim(self.dim, self.num_heads, 4)
        return self


class StandardDecoderConfig(_StandardSettings):
    """Transformer decoder of MaskFormer: self-attention first, over one map, with queries that start at zero."""

    name: Literal["standard"] = "standard"
    num_queries: PositiveInt = 100


class PerPixelConfig(_DecoderSettings):
    """No queries: a convolution classifies every pixel (MaskFormer, PerPixelBaseline)."""

    name: Literal["per-pixel"] = "per-pixel"


class PerPixelPlusConfig(_StandardSettings):
    """One query for each class, whose mask is the score of the class (MaskFormer, PerPixelBaseline+)."""

    name: Literal["per-pixel-plus"] = "per-pixel-plus"
    source: Literal["res2", "res3", "res4", "res5", "encoder", "mask_features"] = "encoder"


class EncoderOnlyConfig(_DecoderSettings):
    """Queries among the tokens of a plain vision transformer, and the heads that read them (EoMT)."""

    name: Literal["encoder-only"] = "encoder-only"
    num_queries: PositiveInt = 200
    # in training, masked attention at first, then gradually less of it; false: none at all, for models that have
    # already been trained with it
    mask_annealing: bool = True


def _kind_of(default: str) -> Discriminator:
    """Kinds are distinguished by ``name``; it may be omitted for the only kind of 0.1.0."""

    def name_of(value: Any) -> Any:
        return value.get("name", default) if isinstance(value, dict) else getattr(value, "name", default)

    return Discriminator(name_of)


PixelDecoderConfig = Annotated[
    Annotated[MSDeformAttnConfig, Tag("msdeformattn")]
    | Annotated[FPNConfig, Tag("fpn")]
    | Annotated[TransformerFPNConfig, Tag("transformer-fpn")]
    | Annotated[SemanticFPNConfig, Tag("semantic-fpn")]
    | Annotated[BiFPNConfig, Tag("bifpn")]
    | Annotated[FaPNConfig, Tag("fapn")]
    | Annotated[NoPixelDecoderConfig, Tag("none")],
    _kind_of("msdeformattn"),
]
TransformerDecoderConfig = Annotated[
    Annotated[MaskedDecoderConfig, Tag("masked")]
    | Annotated[StandardDecoderConfig, Tag("standard")]
    | Annotated[PerPixelConfig, Tag("per-pixel")]
    | Annotated[PerPixelPlusConfig, Tag("per-pixel-plus")]
    | Annotated[EncoderOnlyConfig, Tag("encoder-only")],
    _kind_of("masked"),
]


LATER_SETTINGS = (
    "attention",
    "scales",
    "order",
    "query_init",
    "dropout",
    "pre_norm",
    "project_inputs",
    "pilots",
    "pilot_noise",
)
"""Settings of :class:`MaskedDecoderConfig` that 0.1.0 lacks; files omit them if they have their defaults."""


class ArchitectureConfig(Strict):
    """The parts of a model, and the normalisation of the images on which it was trained."""

    backbone: BackboneConfig = TimmConfig()
    pixel_decoder: PixelDecoderConfig = MSDeformAttnConfig()
    transformer_decoder: TransformerDecoderConfig = MaskedDecoderConfig()
    # Of R, G, B in 0..255; the defaults are those of ImageNet. They belong to the weights of the backbone. Models of
    # other images have one number per channel, which defines the number of channels
    pixel_mean: tuple[PixelMean, ...] = Field(default=(123.675, 116.28, 103.53), min_length=1, max_length=CHANNELS)
    pixel_std: tuple[PixelStd, ...] = Field(default=(58.395, 57.12, 57.375), min_length=1, max_length=CHANNELS)

    @property
    def channels(self) -> int:
        """Number of channels of the images."""
        return len(self.pixel_mean)

    @model_validator(mode="after")
    def _same_channels(self) -> Self:
        if len(self.pixel_mean) != len(self.pixel_std):
            raise ValueError(
                f"pixel_mean has {len(self.pixel_mean)} numbers but pixel_std has {len(self.pixel_std)}; both need "
                "one for each channel of the images"
            )
        return self

    @model_validator(mode="after")
    def _encoder_alone(self) -> Self:
        parts = {
            "backbone.joint_blocks": getattr(self.backbone, "joint_blocks", 0) > 0,
            "pixel_decoder.name none": isinstance(self.pixel_decoder, NoPixelDecoderConfig),
            "transformer_decoder.name encoder-only": isinstance(self.transformer_decoder, EncoderOnlyConfig),
        }
        there, missing = ([name for name, is_set in parts.items() if is_set is wanted] for wanted in (True, False))
        if there and missing:
            raise ValueError(
                f"{' and '.join(there)} need{'s' * (len(there) == 1)} {' and '.join(missing)}, too: an encoder-only "
                "model is a plain vision transformer of timm whose last blocks (joint_blocks, for instance 4) also "
                "process queries"
            )
        return self

    @model_validator(mode="after")
    def _same_dim(self) -> Self:
        pixels, decoder = self.pixel_decoder, self.transformer_decoder
        if isinstance(pixels, NoPixelDecoderConfig):
            return self
        if isinstance(decoder, MaskedDecoderConfig) and pixels.dim != decoder.dim:
            raise ValueError(f"pixel_decoder.dim {pixels.dim} and transformer_decoder.dim {decoder.dim} must be equal")
        return self

    @model_validator(mode="after")
    def _has_source(self) -> Self:
        pixels, decoder = self.pixel_decoder, self.transformer_decoder
        source = getattr(decoder, "source", None)
        if source == "encoder" and not isinstance(pixels, TransformerFPNConfig):
            raise ValueError(
                "transformer_decoder.source encoder is the map of the encoder in the pixel decoder transformer-fpn, "
                f"but {pixels.name} has none; set transformer_decoder.source to res5"
            )
        return self

    @property
    def is_of_0_1(self) -> bool:
        """Whether version 0.1.0 can build it. Files of such models remain readable for that version."""
        decoder = self.transformer_decoder
        is_plain = isinstance(decoder, MaskedDecoderConfig) and all(
            getattr(decoder, name) == MaskedDecoderConfig.model_fields[name].default for name in LATER_SETTINGS
        )
        is_plain = is_plain and not getattr(self.backbone, "pyramid", 0)
        is_plain = is_plain and getattr(self.pixel_decoder, "stages", None) is None
        return is_plain and isinstance(self.pixel_decoder, MSDeformAttnConfig) and not self.own_normalisation

    @property
    def own_normalisation(self) -> dict[str, tuple[float, ...]]:
        """``pixel_mean`` and ``pixel_std`` if they differ from those of ImageNet, otherwise nothing."""
        fields, names = ArchitectureConfig.model_fields, ("pixel_mean", "pixel_std")
        values = {name: getattr(self, name) for name in names}
        return {} if all(values[name] == fields[name].default for name in names) else values


class ModelConfig(ArchitectureConfig):
    """The model of a run: its architecture, its inference settings, and where its training starts."""

    inference: InferenceConfig = InferenceConfig()
    init: str | None = None  # name (coco-instance/r50) or file of the weights from which training starts
    init_partial: bool = (
        False  # use what fits despite other classes, queries or windows; the run prints what is newly initialised
    )
    # name (timm/convnext_tiny.fb_in22k) or file of a pretrained backbone that replaces the one of init
    init_backbone: str | None = None
    # classes of the initial model: all of them or, with init_partial, a new class head; by-name: classes with the same
    # name keep what they have learned, and the others are newly initialised
    init_classes: Literal["all", "by-name"] = "all"
    # for the first convolution of the initial model: same, it must have the same number of channels; repeat, its
    # weights are repeated over the channels (for one channel: summed), and scaled to keep the sums
    init_channels: Literal["same", "repeat"] = "same"

    @model_validator(mode="after")
    def _bands_of_channels(self) -> Self:
        """If a model does not have three channels, images have one band per channel, unless bands are selected."""
        if self.inference.bands is None and self.channels != 3:
            inference = self.inference.for_channels(self.channels)
            object.__setattr__(self, "inference", inference)  # possible although the model is frozen
        if self.inference.channels != self.channels:
            raise ValueError(
                f"inference.bands specifies {self.inference.channels} bands but pixel_mean has {self.channels} "
                "numbers; give pixel_mean and pixel_std one number for each band (mask2former check-data with "
                "--bands measures them)"
            )
        return self

    @model_validator(mode="after")
    def _replaces_a_backbone(self) -> Self:
        if self.init_backbone is not None and self.init is None:
            raise ValueError(
                f"init_backbone replaces the backbone of the model that init names, and init is not set; to start from "
                f"a backbone alone, set init={self.init_backbone}"
            )
        if self.init_backbone is not None and not self.init_partial:
            raise ValueError(
                "init_backbone needs init_partial=true, since layers behind another backbone may have other shapes and "
                "are then newly initialised"
            )
        return self

    @model_validator(mode="after")
    def _can_do_its_tasks(self) -> Self:
        if self.transformer_decoder.queries is None and self.inference.tasks != ("semantic",):
            raise ValueError(
                f"transformer_decoder {self.transformer_decoder.name} classifies pixels, so inference.tasks must be "
                f"[semantic], got [{', '.join(self.inference.tasks)}]"
            )
        return self

    @property
    def architecture(self) -> ArchitectureConfig:
        """The part on which weights depend."""
        return ArchitectureConfig(**{name: getattr(self, name) for name in ArchitectureConfig.model_fields})


class OwnPartsConfig(Strict):
    """The configuration in a file of a model with custom parts."""

    architecture: None
    inference: InferenceConfig
