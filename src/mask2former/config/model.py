"""What a model is built from, and what training starts from."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from mask2former.config.fields import PixelMean, PixelStd, PositiveInt, Probability, Strict
from mask2former.config.inference import InferenceConfig

__all__ = [
    "ArchitectureConfig",
    "BackboneConfig",
    "MSDeformAttnConfig",
    "MaskedDecoderConfig",
    "ModelConfig",
    "OwnPartsConfig",
    "SwinConfig",
    "TimmConfig",
]


class TimmConfig(Strict):
    """Any timm model with ``features_only`` support."""

    name: Literal["timm"] = "timm"
    model: str = "resnet50"
    norm: Literal["frozen", "sync", "batch"] = "frozen"  # of batch-normalised models; others keep their own norm
    # passed to timm.create_model, for instance {"channels": [48, 96, 192, 384]}
    kwargs: dict[str, Any] = Field(default={})


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

    @model_validator(mode="after")
    def _divisible(self) -> MSDeformAttnConfig:
        if self.dim % self.num_heads or self.dim % 32:
            raise ValueError(f"dim {self.dim} must be a multiple of num_heads {self.num_heads} and of 32 (norm groups)")
        return self


class MaskedDecoderConfig(Strict):
    """Masked-attention transformer decoder; from ``attention`` on, what the paper compares the method with."""

    name: Literal["masked"] = "masked"
    dim: PositiveInt = 256
    num_queries: PositiveInt = 100
    num_layers: PositiveInt = 9
    num_heads: PositiveInt = 8
    feedforward_dim: PositiveInt = 2048
    position_encoding: Literal["2d", "3d"] = "2d"  # 3d adds the frame index: the published video models
    # inside the predicted mask, everywhere, around a predicted centre, or the mean inside the mask (Table 4c)
    attention: Literal["masked", "full", "smca", "mask_pool"] = "masked"
    # strides 32, 16 and 8 in turn; all of them in each layer; or one of them (Table 4d)
    scales: Literal["efficient", "naive", "s32", "s16", "s8"] = "efficient"
    order: Literal["cross_first", "self_first"] = "cross_first"  # of cross-attention and self-attention (Table 4b)
    # what layers start from: learned features with a loss of their own, without one, or zero (Table XI b)
    query_init: Literal["learned_supervised", "learned", "zero"] = "learned_supervised"
    dropout: Probability = 0.0  # 0.1 in the decoders before (Table 4b)
    pre_norm: bool = False  # norms before attention and feed-forward instead of after them

    @model_validator(mode="after")
    def _divisible(self) -> MaskedDecoderConfig:
        if self.dim % self.num_heads or self.dim % 4:
            raise ValueError(f"dim {self.dim} must be a multiple of num_heads {self.num_heads} and of 4")
        return self

    @model_validator(mode="after")
    def _reads_queries(self) -> MaskedDecoderConfig:
        if self.attention == "mask_pool" and self.pre_norm:
            raise ValueError("attention mask_pool reads no queries, so pre_norm has nothing to norm; set it to false")
        return self

    @property
    def switches(self) -> dict[str, str | bool]:
        """What differs from the published decoder in what is computed, not in sizes; such models are files of ours."""
        names = ("attention", "scales", "order", "query_init", "pre_norm")
        values = {name: getattr(self, name) for name in names}
        return {name: value for name, value in values.items() if value != type(self).model_fields[name].default}


class ArchitectureConfig(Strict):
    """What a model is built from, and how the images were normalised that it was trained on."""

    backbone: BackboneConfig = TimmConfig()
    pixel_decoder: MSDeformAttnConfig = MSDeformAttnConfig()
    transformer_decoder: MaskedDecoderConfig = MaskedDecoderConfig()
    # Of R, G, B in 0..255; the defaults are those of ImageNet. They belong to the weights of the backbone.
    pixel_mean: tuple[PixelMean, PixelMean, PixelMean] = (123.675, 116.28, 103.53)
    pixel_std: tuple[PixelStd, PixelStd, PixelStd] = (58.395, 57.12, 57.375)

    @model_validator(mode="after")
    def _same_dim(self) -> Self:
        if self.pixel_decoder.dim != self.transformer_decoder.dim:
            raise ValueError(
                f"pixel_decoder.dim {self.pixel_decoder.dim} and transformer_decoder.dim "
                f"{self.transformer_decoder.dim} must be equal"
            )
        return self

    @property
    def own_normalisation(self) -> dict[str, tuple[float, float, float]]:
        """``pixel_mean`` and ``pixel_std`` if they are others than those of ImageNet, else nothing."""
        fields, names = ArchitectureConfig.model_fields, ("pixel_mean", "pixel_std")
        values = {name: getattr(self, name) for name in names}
        return {} if all(values[name] == fields[name].default for name in names) else values


class ModelConfig(ArchitectureConfig):
    """The model of a run: its architecture, its inference settings, and what its training starts from."""

    inference: InferenceConfig = InferenceConfig()
    init: str | None = None  # name (coco-instance/r50) or file of the weights that training starts from
    init_partial: bool = (
        False  # take what fits: other classes, queries and windows; the run says what is newly initialised
    )

    @property
    def architecture(self) -> ArchitectureConfig:
        """The part of it that weights depend on."""
        return ArchitectureConfig(**{name: getattr(self, name) for name in ArchitectureConfig.model_fields})


class OwnPartsConfig(Strict):
    """What a file says of a model with parts that no configuration describes."""

    architecture: None
    inference: InferenceConfig
