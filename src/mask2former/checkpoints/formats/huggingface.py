"""Names and ``config.json`` of Mask2Former in Hugging Face's ``transformers``, with Swin or ResNet.

Files are written with the names used on its hub, which every version reads; the names of its modules in memory are also
read.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mask2former import limits
from mask2former.checkpoints.formats.original import RESNETS, Architecture, channels_of
from mask2former.checkpoints.formats.resnet import resnet_table
from mask2former.checkpoints.normalisation import IMAGENET, Normalisation
from mask2former.checkpoints.rules import Layout, Rule, rules
from mask2former.config import InferenceConfig, MaskedDecoderConfig, MSDeformAttnConfig, SwinConfig, TimmConfig
from mask2former.errors import UserError
from mask2former.structures import ModelInfo
from mask2former.text import quoted

__all__ = [
    "HUGGINGFACE",
    "Preparation",
    "check_config",
    "config_of",
    "label_names",
    "num_heads_of",
    "own_facts",
    "preparation_of",
    "preprocessor_of",
]

_ENCODER = "model.pixel_level_module.encoder."
_SWIN_BLOCK = "encoder.layers.{}.blocks.{}"
_OUR_BLOCK = "layers.{}.blocks.{}"


def _in_files() -> dict[str | tuple[str, ...], str]:
    return {
        "embeddings.patch_embeddings.projection.*": "patch_embed.proj.*",
        "embeddings.norm.*": "patch_embed.norm.*",
        f"{_SWIN_BLOCK}.layernorm_before.*": f"{_OUR_BLOCK}.norm1.*",
        f"{_SWIN_BLOCK}.layernorm_after.*": f"{_OUR_BLOCK}.norm2.*",
        tuple(f"{_SWIN_BLOCK}.attention.self.{part}.*" for part in ("query", "key", "value")): (
            f"{_OUR_BLOCK}.attn.qkv.*"
        ),
        f"{_SWIN_BLOCK}.attention.output.dense.*": f"{_OUR_BLOCK}.attn.proj.*",
        f"{_SWIN_BLOCK}.attention.self.*": f"{_OUR_BLOCK}.attn.*",  # bias table and index
        f"{_SWIN_BLOCK}.intermediate.dense.*": f"{_OUR_BLOCK}.mlp.fc1.*",
        f"{_SWIN_BLOCK}.output.dense.*": f"{_OUR_BLOCK}.mlp.fc2.*",
        "encoder.layers.{}.downsample.reduction.*": "layers.{}.downsample.reduction.*",
        "encoder.layers.{}.downsample.norm.*": "layers.{}.downsample.norm.*",
    }


def _in_memory() -> dict[str | tuple[str, ...], str]:
    """What versions 5.x call the same parts at run time."""
    return {
        tuple(f"{_SWIN_BLOCK}.attention.{part}_proj.*" for part in "qkv"): f"{_OUR_BLOCK}.attn.qkv.*",
        f"{_SWIN_BLOCK}.attention.o_proj.*": f"{_OUR_BLOCK}.attn.proj.*",
        f"{_SWIN_BLOCK}.attention.relative_position_bias.*": f"{_OUR_BLOCK}.attn.*",
        f"{_SWIN_BLOCK}.mlp.fc1.*": f"{_OUR_BLOCK}.mlp.fc1.*",
        f"{_SWIN_BLOCK}.mlp.fc2.*": f"{_OUR_BLOCK}.mlp.fc2.*",
    }


def _resnet() -> tuple[Rule, ...]:
    def layer(name: str) -> tuple[str, str]:
        return f"{name}.convolution", f"{name}.normalization"

    stem = {"stem.conv1": layer("embedder.embedder")}
    block = {"shortcut": layer("shortcut")} | {f"conv{index + 1}": layer(f"layer.{index}") for index in range(3)}
    return rules(_ENCODER, "backbone.", resnet_table(stem, block, "encoder.stages.{}.layers", first=0))


_DECODERS = (
    *rules(
        _ENCODER,
        "backbone.",
        {f"hidden_states_norms.stage{index + 1}.*": f"norm{index}.*" for index in range(4)},
    ),
    *rules(
        "model.pixel_level_module.decoder.",
        "sem_seg_head.pixel_decoder.",
        {
            "input_projections.{}.{}.*": "input_proj.{}.{}.*",
            "level_embed": "transformer.level_embed",
            **{
                f"encoder.layers.{{}}.self_attn.{part}.*": f"transformer.encoder.layers.{{}}.self_attn.{part}.*"
                for part in ("sampling_offsets", "attention_weights", "value_proj", "output_proj")
            },
            "encoder.layers.{}.self_attn_layer_norm.*": "transformer.encoder.layers.{}.norm1.*",
            "encoder.layers.{}.final_layer_norm.*": "transformer.encoder.layers.{}.norm2.*",
            "encoder.layers.{}.fc1.*": "transformer.encoder.layers.{}.linear1.*",
            "encoder.layers.{}.fc2.*": "transformer.encoder.layers.{}.linear2.*",
            "mask_projection.*": "mask_features.*",
            "adapter_1.0.*": "adapter_1.*",
            "adapter_1.1.*": "adapter_1.norm.*",
            "layer_1.0.*": "layer_1.*",
            "layer_1.1.*": "layer_1.norm.*",
        },
    ),
    *rules(
        "model.transformer_module.",
        "sem_seg_head.predictor.",
        {
            tuple(f"decoder.layers.{{}}.self_attn.{part}_proj.*" for part in "qkv"): (
                "transformer_self_attention_layers.{}.self_attn.in_proj_*"
            ),
            "decoder.layers.{}.self_attn.out_proj.*": "transformer_self_attention_layers.{}.self_attn.out_proj.*",
            "decoder.layers.{}.self_attn_layer_norm.*": "transformer_self_attention_layers.{}.norm.*",
            "decoder.layers.{}.cross_attn.*": "transformer_cross_attention_layers.{}.multihead_attn.*",
            "decoder.layers.{}.cross_attn.out_proj.*": (
                "transformer_cross_attention_layers.{}.multihead_attn.out_proj.*"
            ),
            "decoder.layers.{}.cross_attn_layer_norm.*": "transformer_cross_attention_layers.{}.norm.*",
            "decoder.layers.{}.fc1.*": "transformer_ffn_layers.{}.linear1.*",
            "decoder.layers.{}.fc2.*": "transformer_ffn_layers.{}.linear2.*",
            "decoder.layers.{}.final_layer_norm.*": "transformer_ffn_layers.{}.norm.*",
            "decoder.layernorm.*": "decoder_norm.*",
            "queries_features.weight": "query_feat.weight",
            "queries_embedder.weight": "query_embed.weight",
            "level_embed.weight": "level_embed.weight",
            "decoder.mask_predictor.mask_embedder.{}.0.*": "mask_embed.layers.{}.*",
        },
    ),
    *rules("class_predictor.", "sem_seg_head.predictor.class_embed.", {"*": "*"}),
    *rules("", "", {"criterion.empty_weight": "criterion.empty_weight"}),
)

HUGGINGFACE = Layout(
    key="huggingface",
    title="Hugging Face transformers",
    signature=("model.transformer_module.queries_features.weight", "class_predictor.weight"),
    rules=(*rules(_ENCODER, "backbone.", _in_files()), *_resnet(), *_DECODERS),
    also_read=(
        *rules(_ENCODER, "backbone.", _in_memory()),
        *rules(f"{_ENCODER}swin.", "backbone.", _in_files() | _in_memory()),
        *rules(f"{_ENCODER}_backbone.", "backbone.", resnet_table()),  # its wrapper around timm
    ),
    unused=tuple(f"{_ENCODER}{part}layernorm.*" for part in ("", "swin.")),
    not_written=("backbone.layers.{}.blocks.{}.attn.relative_position_index",),
    has_counters=True,
)

_FIXED: Mapping[str, Any] = {  # settings with which our model computes the same
    "activation_function": "relu",
    "pre_norm": False,
    "enforce_input_projection": False,
    "common_stride": 4,
    "feature_strides": [4, 8, 16, 32],
}
# Settings of Swin that change no results, or that shapes show.
_UNCHECKED = ("model_type", "drop_path_rate", "mlp_ratio", "patch_size", "qkv_bias", "out_features")
_STAGES = [f"stage{number}" for number in (1, 2, 3, 4)]
_POINTS = 4  # of deformable attention, fixed in transformers
_RESCALED = 1 / 255  # the factor for pixels, unless specified
_BILINEAR = 2  # of Pillow's filters
_LONG_EDGE = 1333  # pixels, in transformers and here, where nothing is specified
_OURS = "mask2former"  # key in config.json for what has no other place there


# --- writing ---------------------------------------------------------------------------------------------------------


def config_of(info: ModelInfo) -> dict[str, Any]:
    """``config.json`` for a model of ours.

    Raises:
        UserError: the model has something that ``transformers`` does not support; the message names it.
    """
    architecture, categories, facts = info.known_architecture, info.known_categories, info.to_dict()
    pixel, decoder = architecture.pixel_decoder, architecture.transformer_decoder
    if not isinstance(pixel, MSDeformAttnConfig) or not isinstance(decoder, MaskedDecoderConfig):
        raise UserError(
            f"Mask2Former in transformers does not support the pixel decoder {pixel.name} with the transformer "
            f"decoder {decoder.name}; choose another layout"
        )
    if decoder.position_encoding != "2d":
        raise UserError("transformers supports image models only, but this model is for clips; choose another layout")
    if pixel.num_heads != decoder.num_heads or pixel.num_points != _POINTS:
        raise UserError(
            f"transformers supports one number of heads and {_POINTS} points; this model has {pixel.num_heads} and "
            f"{decoder.num_heads} heads and {pixel.num_points} points. Choose another layout"
        )
    names = {str(index): name for index, name in enumerate(categories.names)}
    return {
        "architectures": ["Mask2FormerForUniversalSegmentation"],
        "model_type": "mask2former",
        "backbone_config": _backbone_config(architecture.backbone),
        **_sizes(pixel, decoder),
        "dropout": pixel.dropout,
        **_FIXED,
        "no_object_weight": 0.1,
        "ignore_value": categories.ignore_label,
        "id2label": names,
        "label2id": {name: int(index) for index, name in names.items()},
        _OURS: {key: facts[key] for key in ("config", "categories")},
    }


def _sizes(pixel: MSDeformAttnConfig, decoder: MaskedDecoderConfig) -> dict[str, int]:
    return {
        "feature_size": pixel.dim,
        "mask_feature_size": pixel.mask_dim,
        "hidden_dim": decoder.dim,
        "encoder_layers": pixel.num_layers,
        "encoder_feedforward_dim": pixel.feedforward_dim,
        "decoder_layers": decoder.num_layers + 1,  # includes the prediction before the first layer
        "dim_feedforward": decoder.feedforward_dim,
        "num_attention_heads": decoder.num_heads,
        "num_queries": decoder.num_queries,
    }


def _backbone_config(backbone: SwinConfig | TimmConfig) -> dict[str, Any]:
    if isinstance(backbone, SwinConfig):
        return {
            "model_type": "swin",
            "embed_dim": backbone.embed_dim,
            "depths": list(backbone.depths),
            "num_heads": list(backbone.num_heads),
            "window_size": backbone.window_size,
            "drop_path_rate": backbone.drop_path_rate,
            "hidden_act": "gelu",
            "layer_norm_eps": 1e-5,
            "mlp_ratio": 4.0,
            "patch_size": 4,
            "qkv_bias": True,
            "use_absolute_embeddings": False,
            "out_features": _STAGES,
        }
    blocks, convolutions = RESNETS.get(backbone.model.split(".")[0], ((), 0))
    if not blocks or backbone.kwargs:
        raise UserError(
            "Mask2Former in transformers supports Swin and ResNets with a plain stem, not backbone "
            f"'{backbone.model}'; choose another layout"
        )
    return {
        "model_type": "resnet",
        "embedding_size": 64,
        "hidden_act": "relu",
        "out_features": _STAGES,
        "layer_type": "bottleneck" if convolutions == 3 else "basic",
        "depths": list(blocks),
        "hidden_sizes": channels_of(backbone),
    }


def preprocessor_of(
    inference: InferenceConfig, ignore_label: int, normalisation: Normalisation = IMAGENET
) -> dict[str, Any]:
    """``preprocessor_config.json``: image sizes, mean and deviation."""
    mean, std = normalisation.scaled(_RESCALED)
    return {
        "image_processor_type": "Mask2FormerImageProcessor",
        "do_resize": inference.short_edge > 0,
        "size": {"shortest_edge": inference.short_edge or 800, "longest_edge": inference.long_edge},
        "size_divisor": 1,  # any other value stretches images; they are padded, which its processor does not do
        "resample": _BILINEAR,
        "do_rescale": True,
        "rescale_factor": _RESCALED,
        "do_normalize": True,
        "image_mean": mean,
        "image_std": std,
        "ignore_index": ignore_label,
        "do_reduce_labels": False,
    }


# --- reading ---------------------------------------------------------------------------------------------------------


def _number(values: Mapping[str, Any], key: str, default: int) -> int:
    value = values.get(key, default)
    if isinstance(value, bool) or not isinstance(value, int) or not 0 < value < 1 << 20:
        raise UserError(f"config.json: '{key}' is {quoted(value, 60)}; expected a number of at least 1")
    return value


def num_heads_of(config: Mapping[str, Any]) -> int:
    """Attention heads of both decoders, which names and shapes do not show.

    Raises:
        UserError: no such number, or the configuration is of another kind of model.
    """
    if config.get("model_type") != "mask2former":
        raise UserError(f"config.json: model_type is {quoted(config.get('model_type'), 60)}; expected 'mask2former'")
    return _number(config, "num_attention_heads", 8)


def check_config(config: Mapping[str, Any], found: Architecture) -> None:
    """Compare ``config.json`` with the weights, and refuse what our model does not compute.

    Raises:
        UserError: a number differs, or a setting requires something else.
    """
    pixel, decoder, backbone = found.model.pixel_decoder, found.model.transformer_decoder, found.model.backbone
    assert isinstance(pixel, MSDeformAttnConfig)  # the names of transformers lead to no other decoders
    assert isinstance(decoder, MaskedDecoderConfig)
    expected = _sizes(pixel, decoder) | {"num_labels": found.num_classes}
    faults = [f"'{key}' is {quoted(config[key], 60)}, but the weights have {value}" for key, value in expected.items()
              if key in config and config[key] != value]  # fmt: skip
    faults += [f"'{key}' is {quoted(config[key], 60)}; only {value!r} is supported" for key, value in _FIXED.items()
               if key in config and config[key] != value]  # fmt: skip
    if pixel.num_points != _POINTS:
        faults.append(f"'num_attention_heads' is {pixel.num_heads}, which the weights of the pixel decoder do not fit")
    inner = config.get("backbone_config")
    if isinstance(inner, dict) and isinstance(backbone, SwinConfig):
        faults += [f"backbone_config '{key}' is {quoted(inner[key], 60)}, expected {value}"
                   for key, value in _backbone_config(backbone).items()
                   if key in inner and inner[key] != value and key not in _UNCHECKED]  # fmt: skip
    elif isinstance(inner, dict):
        if inner.get("hidden_act", "relu") != "relu":
            faults.append(f"backbone_config 'hidden_act' is {quoted(inner['hidden_act'], 60)}, expected 'relu'")
        if inner.get("downsample_in_bottleneck"):
            faults.append(
                "backbone_config 'downsample_in_bottleneck' is on, but the stride is in the 3x3 convolutions here"
            )
    if faults:
        raise UserError(f"config.json: {'; '.join(faults)}")


def label_names(config: Mapping[str, Any], num_classes: int) -> tuple[str, ...] | None:
    """Names of the classes in order, or None if the configuration has none of its own.

    Raises:
        UserError: there are names, but not one for each class.
    """
    table = config.get("id2label")
    if not isinstance(table, dict):
        return None
    names = [table.get(str(index)) for index in range(num_classes)]
    if len(table) != num_classes or not all(isinstance(name, str) for name in names):
        lacking = [str(index) for index, name in enumerate(names) if not isinstance(name, str)]
        without = f", and none for class {', '.join(lacking[:5])}" if lacking else ""
        raise UserError(
            f"config.json: 'id2label' has {len(table)} entries{without}; expected names of {num_classes} classes, "
            f"numbered 0 to {num_classes - 1}"
        )
    if all(name == f"LABEL_{index}" for index, name in enumerate(names)):
        return None
    return tuple(str(name) for name in names)


def own_facts(config: Mapping[str, Any]) -> tuple[Any, Any] | None:
    """Configuration and categories, not yet checked, if this library wrote the folder."""
    values = config.get(_OURS)
    return (values.get("config"), values.get("categories")) if isinstance(values, dict) else None


@dataclass(frozen=True)
class Preparation:
    """What ``preprocessor_config.json`` says about images, as far as our inference settings can express it.

    Attributes:
        edges: short and long edge in pixels; None if not given.
        stretched_to: height and width of all images, which we do not reproduce: their edges are the closest equivalent.
        ignore_label: of label maps; None if not given.
        normalisation: mean and deviation; None if not given.
        notes: what is done differently here, one phrase each.
    """

    edges: tuple[int, int] | None = None
    stretched_to: tuple[int, int] | None = None
    ignore_label: int | None = None
    normalisation: Normalisation | None = None
    notes: tuple[str, ...] = ()


def preparation_of(preprocessor: Mapping[str, Any], num_classes: int) -> Preparation:
    """The settings in ``preprocessor_config.json``; empty if the file does not exist.

    Raises:
        UserError: an invalid normalisation or invalid sizes.
    """
    if not preprocessor:
        return Preparation()
    (edges, stretched_to), notes = _edges(preprocessor), []
    divisor = preprocessor.get("size_divisor", 32)
    if preprocessor.get("do_resize") is not False and divisor not in (None, 0, 1):
        notes.append(f"images were stretched to multiples of {quoted(divisor, 20)} pixels; here they are padded to 32")
    if preprocessor.get("resample", _BILINEAR) not in (_BILINEAR, "bilinear"):
        notes.append(
            f"images were resized with Pillow's filter {quoted(preprocessor['resample'], 20)}; here it is bilinear (2)"
        )
    if preprocessor.get("pad_size"):
        notes.append(f"images were padded to {quoted(preprocessor['pad_size'], 60)}; here to multiples of 32")
    if preprocessor.get("do_center_crop"):
        notes.append("images were centre-cropped (do_center_crop); here they are not cropped")
    if preprocessor.get("do_reduce_labels") or preprocessor.get("reduce_labels"):
        notes.append("its label maps counted classes from 1 (do_reduce_labels); here they count from 0")
    named = preprocessor.get("num_labels")
    if isinstance(named, int) and named not in (num_classes, num_classes + 1):  # some count "no object" as a class
        notes.append(f"preprocessor_config.json mentions {named} classes, but the weights have {num_classes}")
    label = preprocessor.get("ignore_index")
    if label is not None and (isinstance(label, bool) or not isinstance(label, int) or not 0 <= label < 1 << 16):
        raise UserError(
            f"preprocessor_config.json: 'ignore_index' is {quoted(label, 60)}; expected a value of label maps"
        )
    return Preparation(edges, stretched_to, label, _normalisation(preprocessor), tuple(notes))


def _normalisation(preprocessor: Mapping[str, Any]) -> Normalisation:
    factor = preprocessor.get("rescale_factor", _RESCALED) if preprocessor.get("do_rescale", True) else 1.0
    if isinstance(factor, bool) or not isinstance(factor, int | float) or not 0 < factor < limits.CONFIG_NUMBER:
        raise UserError(
            f"preprocessor_config.json: 'rescale_factor' is {quoted(factor, 60)}; expected a positive number"
        )
    usual_mean, usual_std = IMAGENET.scaled(_RESCALED)  # the defaults of its processor
    mean, std = preprocessor.get("image_mean", usual_mean), preprocessor.get("image_std", usual_std)
    if preprocessor.get("do_normalize") is False:
        mean, std = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
    where = "preprocessor_config.json: 'image_mean' and 'image_std'"
    return Normalisation.read(mean, std, where, factor=factor)


def _edges(preprocessor: Mapping[str, Any]) -> tuple[tuple[int, int] | None, tuple[int, int] | None]:
    """Short and long edge in pixels, and the size that images are stretched to, if they are."""
    if preprocessor.get("do_resize") is False:
        return (0, _LONG_EDGE), None
    size = preprocessor.get("size")
    if isinstance(size, int):  # in old files: the short edge, with the long edge beside it
        size = {"shortest_edge": size, "longest_edge": preprocessor.get("max_size") or _LONG_EDGE}
    if not isinstance(size, dict):
        return None, None
    if "shortest_edge" in size:
        return (_number(size, "shortest_edge", 800), _number(size, "longest_edge", _LONG_EDGE)), None
    if "height" in size and "width" in size:
        height, width = _number(size, "height", 1), _number(size, "width", 1)
        return (min(height, width), _LONG_EDGE), (height, width)
    if "max_height" in size and "max_width" in size:
        height, width = _number(size, "max_height", 1), _number(size, "max_width", 1)
        if height == width:  # the long edge gets this length
            return (height, height), None
    raise UserError(
        f"preprocessor_config.json: 'size' is {quoted(size)}; expected shortest_edge and longest_edge, or height "
        "and width"
    )
