"""The layout of the published checkpoints: their names in order, beside ours, in both directions.

One function enumerates the names; reading, writing and recognising files all use it. Must not know how files are
stored.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from mask2former import recipes
from mask2former.checkpoints.formats.original_variants import (
    decoder_kind,
    decoder_names,
    infer_decoder,
    infer_pixel_decoder,
    pixel_kind,
    pixel_names,
)
from mask2former.checkpoints.formats.resnet import BLOCK, DEEP_STEM, STEM
from mask2former.checkpoints.normalisation import IMAGENET, Normalisation
from mask2former.checkpoints.rules import Layout
from mask2former.config import (
    ArchitectureConfig,
    EncoderOnlyConfig,
    MaskedDecoderConfig,
    MSDeformAttnConfig,
    NoPixelDecoderConfig,
    PerPixelConfig,
    PerPixelPlusConfig,
    PixelDecoderConfig,
    SwinConfig,
    TimmConfig,
    TransformerDecoderConfig,
    TransformerFPNConfig,
)
from mask2former.errors import UserError
from mask2former.models.backbones.swin import relative_position_index
from mask2former.models.mask2former import Mask2Former
from mask2former.recipes import Provider
from mask2former.structures import Categories
from mask2former.text import printable, quoted

__all__ = [
    "ORIGINAL",
    "RESNETS",
    "Architecture",
    "backbone_names",
    "backbone_title",
    "channels_of",
    "check_switches",
    "current_spelling",
    "file_entries",
    "from_original",
    "infer_architecture",
    "infer_backbone",
    "is_original",
    "is_resnet",
    "matching_recipes",
    "normalisation_of",
    "original_names",
    "recipe_architecture",
    "recipe_categories",
    "to_original",
    "unsaid",
]

_HEAD = "sem_seg_head."
_PIXEL = "sem_seg_head.pixel_decoder."
_PREDICTOR = "sem_seg_head.predictor."
_EMPTY_WEIGHT = "criterion.empty_weight"
_INDEX = "relative_position_index"
_BOTH = ("weight", "bias")
_NO_OBJECT = 0.1  # the last of the published class weights; all others are 1
_HEADS = 8  # of both decoders in all published models
_PIXELS = ("pixel_mean", "pixel_std")

RESNETS = {  # timm's name: blocks per stage, convolutions per block
    "resnet18": ((2, 2, 2, 2), 2),
    "resnet34": ((3, 4, 6, 3), 2),
    "resnet50": ((3, 4, 6, 3), 3),
    "resnet101": ((3, 4, 23, 3), 3),
    "resnet152": ((3, 8, 36, 3), 3),
}
_SWINS = {(96, 6): "Swin-T", (96, 18): "Swin-S", (128, 18): "Swin-B", (192, 18): "Swin-L"}  # width, blocks of stage 3

_USUAL = ("msdeformattn", "masked")
_CLASS_ROWS = {  # the entry with one row per class, its axes, and how many additional rows it has
    "masked": ("class_embed.weight", 2, 1),
    "standard": ("class_embed.weight", 2, 1),
    "per-pixel": ("weight", 4, 0),
    "per-pixel-plus": ("query_embed.weight", 2, 0),
}

ORIGINAL = Layout(key="original", title="original", signature=(), rules=())
"""Without rules, since names of other layouts are given relative to these; :func:`is_original` recognises it."""

Pair = tuple[str, str | None]
_Shape = Callable[[str, int], tuple[int, ...]]
_Count = Callable[[str], int]


# --- names -----------------------------------------------------------------------------------------------------------


def original_names(config: ArchitectureConfig) -> list[Pair]:
    """``(original name, our name)`` of every entry, in the published order.

    Our name is None for what is regenerated: window indices and the class weights of the loss.

    Raises:
        UserError: the original layout does not support the backbone.
    """
    pairs = backbone_names(config.backbone)
    pixels, decoder = config.pixel_decoder, config.transformer_decoder
    assert not isinstance(decoder, EncoderOnlyConfig)  # their backbones have none
    pairs += _pixel_decoder_names(pixels.num_layers) if isinstance(pixels, MSDeformAttnConfig) else pixel_names(pixels)
    if isinstance(decoder, MaskedDecoderConfig):
        pairs += _predictor_names(decoder)
    else:
        pairs += decoder_names(decoder, is_projected=_is_projected(config))
    if not isinstance(decoder, PerPixelConfig | PerPixelPlusConfig):  # where classes have no weights
        pairs.append((_EMPTY_WEIGHT, None))
    return pairs


def _is_projected(config: ArchitectureConfig) -> bool:
    """Whether there is a convolution between the decoder of MaskFormer and the map that it attends to."""
    decoder, pixels = config.transformer_decoder, config.pixel_decoder
    if isinstance(decoder, MaskedDecoderConfig | PerPixelConfig | EncoderOnlyConfig):
        return False
    assert not isinstance(pixels, NoPixelDecoderConfig)
    widths = {f"res{level}": width for level, width in enumerate(channels_of(config.backbone), start=2)}
    widths |= {"encoder": pixels.dim, "mask_features": pixels.mask_dim}
    return decoder.project_source or widths[decoder.source] != decoder.dim


def channels_of(backbone: SwinConfig | TimmConfig) -> list[int]:
    """Channels of the four maps of a backbone that this layout supports."""
    if isinstance(backbone, SwinConfig):
        return [backbone.embed_dim * 2**stage for stage in range(4)]
    convolutions = RESNETS[backbone.model.split(".")[0].removesuffix("s")][1]
    return [64 * 2**stage * (4 if convolutions == 3 else 1) for stage in range(4)]


def backbone_names(backbone: SwinConfig | TimmConfig) -> list[Pair]:
    """The part of :func:`original_names` for a backbone alone.

    Raises:
        UserError: the original layout does not support it.
    """
    return list(_swin_names(backbone) if isinstance(backbone, SwinConfig) else _resnet_names(backbone))


def _both(original: str, ours: str) -> Iterator[Pair]:
    for leaf in _BOTH:
        yield f"{original}.{leaf}", f"{ours}.{leaf}"


def _resnet_names(config: TimmConfig) -> Iterator[Pair]:
    name = config.model.split(".")[0]
    is_deep = name.endswith("s")
    if not is_resnet(name) or config.kwargs:
        known = ", ".join(RESNETS)
        raise UserError(
            f"backbone '{config.model}' exists in our own format only; other layouts support Swin and {known} (and "
            "their deep stems, with an s), without kwargs. Save as .safetensors instead"
        )
    blocks, convolutions = RESNETS[name.removesuffix("s")]
    leaves = ("weight", "bias", "running_mean", "running_var")
    if config.norm != "frozen":
        leaves = (*leaves, "num_batches_tracked")

    def convolution(original: str, ours: str, names: tuple[str, str]) -> Iterator[Pair]:
        yield f"backbone.{original}.weight", f"backbone.body.{ours}{names[0]}.weight"
        for leaf in leaves:
            yield f"backbone.{original}.norm.{leaf}", f"backbone.body.{ours}{names[1]}.{leaf}"

    for original, names in (DEEP_STEM if is_deep else STEM).items():
        yield from convolution(original, "", names)
    for stage, count in enumerate(blocks, start=1):
        for block in range(count):
            widens = block == 0 and (convolutions == 3 or stage > 1 or is_deep)
            for part in (*["shortcut"] * widens, *[f"conv{index + 1}" for index in range(convolutions)]):
                yield from convolution(f"res{stage + 1}.{block}.{part}", f"layer{stage}.{block}.", BLOCK[part])


def is_resnet(model: str) -> bool:
    """Whether a timm model is a ResNet of the original layout, for which several code bases have weights."""
    return model.partition(".")[0].removesuffix("s") in RESNETS


def _swin_names(config: SwinConfig) -> Iterator[Pair]:
    def same(name: str) -> Iterator[Pair]:
        return _both(f"backbone.{name}", f"backbone.{name}")

    yield from same("patch_embed.proj")
    yield from same("patch_embed.norm")
    for stage, count in enumerate(config.depths):
        for index in range(count):
            block = f"layers.{stage}.blocks.{index}"
            yield from same(f"{block}.norm1")
            table = f"backbone.{block}.attn.relative_position_bias_table"
            yield table, table
            yield f"backbone.{block}.attn.{_INDEX}", None
            for part in ("attn.qkv", "attn.proj", "norm2", "mlp.fc1", "mlp.fc2"):
                yield from same(f"{block}.{part}")
        if stage < len(config.depths) - 1:
            reduction = f"backbone.layers.{stage}.downsample.reduction.weight"
            yield reduction, reduction
            yield from same(f"layers.{stage}.downsample.norm")
    for stage in range(len(config.depths)):
        yield from _both(f"backbone.norm{stage}", f"backbone.norms.{stage}")


def _pixel_decoder_names(num_layers: int) -> Iterator[Pair]:
    for level in range(3):
        for part in range(2):
            yield from _both(f"{_PIXEL}input_proj.{level}.{part}", f"pixel_decoder.input_projections.{level}.{part}")
    yield f"{_PIXEL}transformer.level_embed", "pixel_decoder.level_embedding"
    attention = (
        ("sampling_offsets", "sampling_offsets"),
        ("attention_weights", "attention_weights"),
        ("value_proj", "value_projection"),
        ("output_proj", "output_projection"),
    )
    for layer in range(num_layers):
        original, ours = f"{_PIXEL}transformer.encoder.layers.{layer}", f"pixel_decoder.layers.{layer}"
        for theirs, our in attention:
            yield from _both(f"{original}.self_attn.{theirs}", f"{ours}.attention.{our}")
        for part in ("norm1", "linear1", "linear2", "norm2"):
            yield from _both(f"{original}.{part}", f"{ours}.{part}")
    yield from _both(f"{_PIXEL}mask_features", "pixel_decoder.mask_projection")
    for theirs, our in (("adapter_1", "lateral"), ("layer_1", "output")):
        yield f"{_PIXEL}{theirs}.weight", f"pixel_decoder.{our}.0.weight"
        yield from _both(f"{_PIXEL}{theirs}.norm", f"pixel_decoder.{our}.1")


def _predictor_names(config: MaskedDecoderConfig) -> Iterator[Pair]:
    num_layers = config.num_layers
    attentions = (
        ("transformer_self_attention_layers", "self_attn", "self_attention", "self_norm"),
        ("transformer_cross_attention_layers", "multihead_attn", "cross_attention", "cross_norm"),
    )
    for group, attention, our_attention, our_norm in attentions:
        for layer in range(num_layers):
            original, ours = f"{_PREDICTOR}{group}.{layer}", f"transformer_decoder.layers.{layer}"
            for leaf in ("in_proj_weight", "in_proj_bias", "out_proj.weight", "out_proj.bias"):
                yield f"{original}.{attention}.{leaf}", f"{ours}.{our_attention}.{leaf}"
            yield from _both(f"{original}.norm", f"{ours}.{our_norm}")
    for layer in range(num_layers):
        original, ours = f"{_PREDICTOR}transformer_ffn_layers.{layer}", f"transformer_decoder.layers.{layer}"
        yield from _both(f"{original}.linear1", f"{ours}.linear1")
        yield from _both(f"{original}.linear2", f"{ours}.linear2")
        yield from _both(f"{original}.norm", f"{ours}.feedforward_norm")
    yield from _both(f"{_PREDICTOR}decoder_norm", "transformer_decoder.norm")
    for theirs, our in (
        ("query_feat", "query_features"),
        ("query_embed", "query_positions"),
        ("level_embed", "level_embedding"),
    ):
        yield f"{_PREDICTOR}{theirs}.weight", f"transformer_decoder.{our}.weight"
    for level in range(3 if config.project_inputs else 0):
        yield from _both(f"{_PREDICTOR}input_proj.{level}", f"transformer_decoder.input_projections.{level}")
    yield from _both(f"{_PREDICTOR}class_embed", "transformer_decoder.class_head")
    for index in range(3):
        yield from _both(f"{_PREDICTOR}mask_embed.layers.{index}", f"transformer_decoder.mask_head.{index}")


# --- reading ---------------------------------------------------------------------------------------------------------


def is_original(names: Mapping[str, object]) -> bool:
    """Whether the names are those of a complete model in the original layout, in any of its spellings."""
    return any(name.startswith(_HEAD) for name in names)


def current_spelling(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same entries under the newest original names.

    This undoes: the pixel decoder directly below the head, or below itself twice (files saved again after a wrong
    conversion); ``static_query``. The keys decide, not a version number, because that is lost whenever a mapping is
    copied. Pixel mean and deviation are dropped: :func:`normalisation_of` reads them.

    Raises:
        UserError: two entries would get the same name.
    """
    is_old = not any(name.startswith(_PIXEL) for name in state)
    renamed: dict[str, Tensor] = {}
    for stored, value in state.items():
        name = stored
        if name in _PIXELS:
            continue
        if name.startswith(_HEAD) and not name.startswith(_PREDICTOR):
            rest = name.removeprefix(_HEAD)
            while rest.startswith("pixel_decoder.pixel_decoder."):
                rest = rest.removeprefix("pixel_decoder.")
            name = _PIXEL + rest if is_old else _HEAD + rest
        name = name.replace(f"{_PREDICTOR}static_query.", f"{_PREDICTOR}query_feat.")
        if name in renamed:
            raise UserError(f"two entries mean {quoted(name)} (one of them is spelled {quoted(stored)}); expected one")
        renamed[name] = value
    return renamed


def normalisation_of(state: Mapping[str, Tensor]) -> Normalisation | None:
    """Mean and deviation of images, if the entries of a checkpoint include them.

    Raises:
        UserError: they are invalid, or those of a model that expects BGR.
    """
    found = {name: value for name, value in state.items() if name in _PIXELS}
    if not found or any(value.is_meta for value in found.values()):
        return None
    values: dict[str, object] = {**IMAGENET.settings}
    for name, value in found.items():
        digits = 16 if value.dtype == torch.float64 else 7  # that its type can represent
        values[name] = [float(f"{number:.{digits}g}") for number in value.flatten()[:6].tolist()]
    return Normalisation.read(values["pixel_mean"], values["pixel_std"], "'pixel_mean' and 'pixel_std'")


def from_original(state: Mapping[str, Tensor], config: ArchitectureConfig | None = None) -> dict[str, Tensor]:
    """Entries of an original checkpoint under our names, with unchanged values.

    Entries that the architecture does not know keep their original names, so that loading reports them.

    Args:
        state: in any of the original spellings.
        config: the architecture; read from names and shapes if None.

    Raises:
        UserError: the names are not those of a full model in the original layout.
    """
    current = current_spelling(state)
    names = dict(original_names(config or infer_architecture(current).model))
    return {names.get(name) or name: value for name, value in current.items() if names.get(name, "") is not None}


# --- recognising -----------------------------------------------------------------------------------------------------


def backbone_title(backbone: SwinConfig | TimmConfig) -> str:
    """A backbone in a few words."""
    if isinstance(backbone, TimmConfig):
        return backbone.model
    size = _SWINS.get((backbone.embed_dim, backbone.depths[2]), "Swin")
    return f"{size} (width {backbone.embed_dim}, blocks {'-'.join(map(str, backbone.depths))})"


@dataclass(frozen=True)
class Architecture:
    """What names and shapes reveal about a model; inference settings of ``model`` are defaults."""

    model: ArchitectureConfig
    num_classes: int

    def __str__(self) -> str:
        backbone, decoder = self.model.backbone, self.model.transformer_decoder
        text = backbone_title(backbone)
        if isinstance(backbone, TimmConfig):
            text += f" with {'frozen' if backbone.norm == 'frozen' else 'trained'} norms"
        kinds = [part.name for part in (self.model.pixel_decoder, decoder) if part.name not in _USUAL]
        queries = f"{decoder.queries} queries, " if decoder.queries is not None else ""
        return f"{', '.join([text, *kinds])}, {queries}{self.num_classes} classes"

    def _shape_summary(self, norms_are_open: bool) -> tuple[object, ...]:
        """What a state dict reveals: equal facts mean equal names and shapes."""
        backbone = self.model.backbone
        if isinstance(backbone, SwinConfig):
            seen: tuple[object, ...] = (
                backbone.embed_dim,
                backbone.depths,
                backbone.num_heads,
                backbone.window_size,
            )
        else:
            seen = (backbone.model, norms_are_open or backbone.norm == "frozen")
        return (
            *seen,
            _seen_of_pixels(self.model.pixel_decoder),
            (*_seen_of_decoder(self.model.transformer_decoder), _is_projected(self.model)),
            self.num_classes,
        )

    def fits(self, other: Architecture, norms_are_open: bool = False) -> bool:
        """Whether names and shapes agree; with open norms, it does not matter whether they were trained."""
        return self._shape_summary(norms_are_open) == other._shape_summary(norms_are_open)


def _seen_of_pixels(config: PixelDecoderConfig) -> tuple[object, ...]:
    """What names and shapes reveal about a pixel decoder."""
    if isinstance(config, MSDeformAttnConfig):
        offsets = config.num_heads * config.num_points
        return config.dim, config.mask_dim, config.num_layers, offsets, config.feedforward_dim
    seen = config.model_dump(exclude={"num_heads", "dropout"})
    return tuple(seen.items())


def _seen_of_decoder(config: TransformerDecoderConfig) -> tuple[object, ...]:
    """What names and shapes reveal about a transformer decoder, except for the map that it attends to."""
    if isinstance(config, MaskedDecoderConfig):
        return config.dim, config.num_queries, config.num_layers, config.feedforward_dim, config.project_inputs
    seen = config.model_dump(exclude={"num_heads", "dropout", "source", "project_source"})
    if not seen.get("num_encoder_layers"):
        seen.pop("pre_norm", None)
    return tuple(seen.items())


def infer_architecture(
    state: Mapping[str, Tensor],
    *,
    num_heads: int = 8,
    spelled: Callable[[str], str] = str,
    layout: str = "the original layout",
) -> Architecture:
    """The architecture of an original checkpoint, from names and shapes.

    Not visible there, hence defaults: inference settings, drop path, image or video.

    Args:
        state: in any of the original spellings.
        num_heads: of both decoders, which is not visible either.
        spelled: how the user's file spells an entry, for messages.
        layout: what the user's file is, for messages.

    Raises:
        UserError: not a full model; the message names the entry that is missing.
    """
    current = current_spelling(state)
    shape, count = _looks(current, spelled, layout)
    encoder = f"{_PIXEL}transformer.encoder.layers"
    try:
        backbone = infer_backbone(current, spelled=spelled, layout=layout)
        pixel, kind = pixel_kind(current), decoder_kind(current)
        pixels: PixelDecoderConfig
        decoder: TransformerDecoderConfig
        if pixel != "msdeformattn":
            pixels = infer_pixel_decoder(current, shape, count, pixel, num_heads)
        else:
            offsets = shape(f"{encoder}.0.self_attn.sampling_offsets.weight", 2)[0]
            pixels = MSDeformAttnConfig(
                dim=shape(f"{_PIXEL}input_proj.0.0.weight", 4)[0],
                mask_dim=shape(f"{_PIXEL}mask_features.weight", 4)[0],
                num_layers=count(f"{encoder}.*.norm1.weight"),
                num_heads=num_heads,
                num_points=offsets // (num_heads * 3 * 2),
                feedforward_dim=shape(f"{encoder}.0.linear1.weight", 2)[0],
            )
        if kind != "masked":
            has_encoder = isinstance(pixels, TransformerFPNConfig)
            decoder = infer_decoder(current, shape, count, kind, channels_of(backbone), has_encoder, num_heads)
        else:
            decoder = MaskedDecoderConfig(
                dim=shape(f"{_PREDICTOR}decoder_norm.weight", 1)[0],
                num_queries=shape(f"{_PREDICTOR}query_feat.weight", 2)[0],
                num_layers=count(f"{_PREDICTOR}transformer_self_attention_layers.*.norm.weight"),
                num_heads=num_heads,
                feedforward_dim=shape(f"{_PREDICTOR}transformer_ffn_layers.0.linear1.weight", 2)[0],
                project_inputs=f"{_PREDICTOR}input_proj.0.weight" in current,
            )
        model = ArchitectureConfig(backbone=backbone, pixel_decoder=pixels, transformer_decoder=decoder)
        head, dims, other = _CLASS_ROWS[kind]
        num_classes = shape(f"{_PREDICTOR}{head}", dims)[0] - other
    except UserError:
        raise
    except ValueError as error:  # pydantic: impossible sizes of a model
        raise UserError(f"names and shapes that fit no Mask2Former model: {printable(str(error), 200)}") from error
    return Architecture(model, num_classes)


def _looks(names: Mapping[str, Tensor], spelled: Callable[[str], str], layout: str) -> tuple[_Shape, _Count]:
    """Two ways to examine a state dict: the shape of an entry, and the count of a numbered one."""

    def shape(name: str, dims: int) -> tuple[int, ...]:
        if name not in names:
            raise UserError(
                f"not a Mask2Former model in {layout}: entry {quoted(spelled(name))} is missing among {len(names)} "
                f"entries such as {quoted(spelled(next(iter(names), '')))}"
            )
        found = tuple(names[name].shape)
        if len(found) != dims or 0 in found:
            raise UserError(
                f"entry {quoted(spelled(name))} has shape {found}; expected {dims} dimensions, none of them empty"
            )
        return found

    def count(pattern: str) -> int:
        """How many of ``pattern`` with 0, 1, ... in place of ``*`` have entries."""
        before, after = pattern.split("*")
        number = 0
        while f"{before}{number}{after}" in names:
            number += 1
        return number

    return shape, count


def infer_backbone(
    state: Mapping[str, Tensor], *, spelled: Callable[[str], str] = str, layout: str = "the original layout"
) -> SwinConfig | TimmConfig:
    """The backbone, from the entries below ``backbone.``; arguments as of :func:`infer_architecture`.

    Raises:
        UserError: it is not a known one; the message names what is missing.
    """
    shape, count = _looks(state, spelled, layout)
    try:
        if any(name.startswith("backbone.patch_embed.") for name in state):
            return _infer_swin(shape, count)
        return _infer_resnet(shape, count, state)
    except UserError:
        raise
    except ValueError as error:  # pydantic: impossible sizes of a backbone
        raise UserError(f"names and shapes that fit no backbone: {printable(str(error), 200)}") from error


def _infer_swin(shape: _Shape, count: _Count) -> SwinConfig:
    blocks = tuple(count(f"backbone.layers.{stage}.blocks.*.norm1.weight") for stage in range(4))
    tables = [shape(f"backbone.layers.{stage}.blocks.0.attn.relative_position_bias_table", 2) for stage in range(4)]
    heads = tuple(table[1] for table in tables)
    return SwinConfig(
        embed_dim=shape("backbone.patch_embed.proj.weight", 4)[0],
        depths=(blocks[0], blocks[1], blocks[2], blocks[3]),
        num_heads=(heads[0], heads[1], heads[2], heads[3]),
        window_size=(math.isqrt(tables[0][0]) + 1) // 2,
    )


def _infer_resnet(shape: _Shape, count: _Count, names: Mapping[str, object]) -> TimmConfig:
    shape("backbone.stem.conv1.weight", 4)
    blocks = tuple(count(f"backbone.res{stage}.*.conv1.weight") for stage in range(2, 6))
    convolutions = 3 if "backbone.res2.0.conv3.weight" in names else 2
    for name, layout in RESNETS.items():
        if layout == (blocks, convolutions):
            stem = "s" if "backbone.stem.conv3.weight" in names else ""
            is_trained = "backbone.stem.conv1.norm.num_batches_tracked" in names
            return TimmConfig(model=name + stem, norm="sync" if is_trained else "frozen")
    raise UserError(
        f"a ResNet with {'-'.join(map(str, blocks))} blocks of {convolutions} convolutions; expected one of "
        f"{', '.join(RESNETS)}, or Swin"
    )


@cache
def recipe_categories(slug: str) -> Categories:
    """The classes of a published model, in the order of its class head."""
    entry = recipes.recipe(slug)
    table = Categories.load(entry.categories)
    return table.things() if entry.only_things else table


def recipe_architecture(slug: str) -> Architecture:
    """A published model as :func:`infer_architecture` describes it."""
    return Architecture(recipes.recipe(slug).model, len(recipe_categories(slug)))


def matching_recipes(
    found: Architecture, provider: Provider = "official", *, norms_are_open: bool = False
) -> list[str]:
    """Recipes of one provider whose names and shapes match those of a model.

    Recipes that differ only in their pre-training are all listed.

    Args:
        found: what names and shapes reveal.
        provider: who published the models.
        norms_are_open: they do not reveal whether the norms were trained, so that either matches.
    """
    return [slug for slug in recipes.recipe_names(provider) if recipe_architecture(slug).fits(found, norms_are_open)]


# --- writing ---------------------------------------------------------------------------------------------------------


def check_switches(config: ArchitectureConfig) -> None:
    """Refuse settings that names and shapes do not show: a reader would build another model, and predict other results.

    Raises:
        UserError: the message names them.
    """
    pixels, decoder = config.pixel_decoder, config.transformer_decoder
    if isinstance(decoder, EncoderOnlyConfig):
        raise UserError("only our own format (.safetensors) can store an encoder-only model; choose it")
    if isinstance(decoder, MaskedDecoderConfig) and decoder.switches:
        names = ", ".join(f"{name}={str(value).lower()}" for name, value in decoder.switches.items())
        raise UserError(f"only our own format (.safetensors) can store transformer_decoder.{names}; choose it")
    if isinstance(pixels, MSDeformAttnConfig) and pixels.stages is not None:
        raise UserError("only our own format (.safetensors) can store pixel_decoder.stages; choose it")


def unsaid(config: ArchitectureConfig) -> list[str]:
    """What affects the results of a model but this layout does not store, one phrase each; for notes."""
    parts = (config.pixel_decoder, config.transformer_decoder)
    heads = tuple(getattr(part, "num_heads", _HEADS) for part in parts)  # irrelevant without attention
    if heads == (_HEADS, _HEADS):
        return []
    return [
        "files of this layout do not store the number of attention heads of the decoders, and every reader, this "
        f"library included, assumes {_HEADS}; this model has {heads[0]} (pixel decoder) and {heads[1]} (transformer "
        "decoder)"
    ]


def to_original(model: Mask2Former) -> OrderedDict[str, Tensor]:
    """The model's entries under the original names in the published order, regenerated ones included.

    Raises:
        UserError: the model was built by hand, or the original layout cannot store one of its parts.
    """
    config = model.info.known_architecture
    check_switches(config)
    if model.info.inference.bands is not None:
        raise UserError(
            "only our own format (.safetensors) can store a model of bands of images (inference.bands); choose it"
        )
    values = model.state_dict()
    state: OrderedDict[str, Tensor] = OrderedDict()
    for original, ours in original_names(config):
        if ours is not None:
            state[original] = values.pop(ours).detach()
        elif original == _EMPTY_WEIGHT:
            weight = torch.ones(len(state[f"{_PREDICTOR}class_embed.bias"]))
            weight[-1] = _NO_OBJECT
            state[original] = weight
        else:
            assert isinstance(config.backbone, SwinConfig)
            state[original] = relative_position_index(config.backbone.window_size)
    if values:
        raise UserError(
            f"{len(values)} entries do not exist in the original layout, for instance '{next(iter(values))}'; "
            "save as .safetensors instead"
        )
    return state


def file_entries(model: Mask2Former) -> OrderedDict[str, Tensor]:
    """:func:`to_original`, plus mean and deviation where they differ from those that every published file implies.

    Raises:
        UserError: as :func:`to_original`.
    """
    state = to_original(model)
    for name, values in model.info.known_architecture.own_normalisation.items():
        state[name] = torch.tensor(values, dtype=torch.float64).view(-1, 1, 1)  # float32 would change the values
    return state
