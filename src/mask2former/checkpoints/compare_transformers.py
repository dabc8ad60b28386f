"""The same image through our model and the one in ``transformers``, where that is installed.

The only module that imports ``transformers``, which is optional. ``transformers`` never sees the folder, whose
configuration could make it fetch or run something else: it gets tensors and the settings that the comparison is about.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from mask2former.checkpoints.load import folder_of_transformers
from mask2former.errors import UserError
from mask2former.extras import is_installed
from mask2former.models.mask2former import Mask2Former
from mask2former.text import printable

__all__ = ["compare_with_transformers"]

_SIZE = (64, 96)  # height, width in pixels
_TOLERANCE = 1e-6  # of the largest logit, in float64
_SETTINGS = (
    "feature_size", "mask_feature_size", "hidden_dim", "encoder_layers", "encoder_feedforward_dim", "decoder_layers",
    "dim_feedforward", "num_attention_heads", "num_queries", "activation_function", "pre_norm",
    "enforce_input_projection", "common_stride", "feature_strides",
)  # fmt: skip
_BACKBONE_SETTINGS = {
    "swin": ("embed_dim", "depths", "num_heads", "window_size", "hidden_act", "layer_norm_eps", "mlp_ratio",
             "patch_size", "qkv_bias", "use_absolute_embeddings"),
    "resnet": ("embedding_size", "hidden_sizes", "depths", "layer_type", "hidden_act", "downsample_in_first_stage",
               "downsample_in_bottleneck"),
}  # fmt: skip


def compare_with_transformers(model: Mask2Former, folder: Path) -> str | None:
    """Compare the logits of ``model`` with those of the model that ``transformers`` reads from ``folder``.

    Both compute in float64, so that only rounding may differ; that takes 16 bytes of memory for each parameter.

    Returns:
        One phrase with the largest difference, or None if ``transformers`` is not installed, or would ask the hub for
        the backbone (those of timm).

    Raises:
        UserError: ``transformers`` cannot create a model from the folder, or the logits differ.
    """
    if not is_installed("transformers"):
        return None
    config, state = folder_of_transformers(folder)
    settings = _settings(config)
    if settings is None:
        return None
    import transformers
    from transformers.utils import logging

    level, bar = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        kind: Any = transformers.Mask2FormerForUniversalSegmentation
        made = transformers.Mask2FormerConfig.from_dict(settings | {"num_labels": len(model.categories or ())})
        options = {"dtype": torch.float64, "local_files_only": True}
        other = kind.from_pretrained(None, config=made, state_dict=state, **options).eval()
    except Exception as error:  # whatever another library does with the folder
        raise UserError(
            f"transformers {transformers.__version__} cannot read {folder}: {printable(str(error), 200)}"
        ) from error
    finally:
        logging.set_verbosity(level)
        if bar:
            logging.enable_progress_bar()
    image = torch.randint(0, 256, (3, *_SIZE), generator=torch.Generator().manual_seed(0))
    was, is_training = model.dtype, model.training
    try:
        model.double().eval()
        with torch.inference_mode():
            ours = model([image], aux_outputs=False)
            theirs = other(pixel_values=model.normalize([image]).flatten(0, 1))
    finally:
        model.to(was).train(is_training)
    pairs = (
        (ours.class_logits, theirs.class_queries_logits),
        (ours.mask_logits.squeeze(2), theirs.masks_queries_logits),
    )
    shapes = [(tuple(one.shape), tuple(another.shape)) for one, another in pairs]
    if any(one != another for one, another in shapes):
        raise UserError(f"transformers gives logits with different shapes: {shapes}; do not use this conversion")
    worst = max(float((one - another).abs().max() / another.abs().max().clamp(min=1)) for one, another in pairs)
    if not worst < _TOLERANCE:
        raise UserError(
            f"transformers {transformers.__version__} gives different logits (relative difference {worst:.1e}); do "
            "not use this conversion, and report it with the file"
        )
    return f"the logits of transformers {transformers.__version__} agree to {worst:.0e}"


def _settings(config: Mapping[str, Any]) -> dict[str, Any] | None:
    """The settings that determine the logits; None if the backbone is looked up by name."""
    chosen = {key: config[key] for key in _SETTINGS if key in config}
    backbone = config.get("backbone_config")
    if config.get("backbone") is not None or not isinstance(backbone, dict):
        return None
    kind = backbone.get("model_type")
    if kind not in _BACKBONE_SETTINGS:
        return None
    chosen_backbone = {key: backbone[key] for key in _BACKBONE_SETTINGS[kind] if key in backbone}
    stages = [f"stage{number}" for number in (1, 2, 3, 4)]
    return {**chosen, "backbone_config": {"model_type": kind, "out_features": stages, **chosen_backbone}}
