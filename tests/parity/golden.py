"""Golden numbers of the published implementation, in float64, with weights from ``fill.py``.

``tests/data/golden`` has trimmed copies; ``python tests/parity/golden.py REFERENCE`` recreates them from the complete
files. If the environment variable ``MASK2FORMER_SHARED`` is set, tests read the complete files and compare all of them.
"""

from __future__ import annotations

import copy
import json
import os
import sys
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from fill import fill
from torch.overrides import TorchFunctionMode

from mask2former import recipes
from mask2former.checkpoints.formats.original import original_names, recipe_categories
from mask2former.config import (
    ArchitectureConfig,
    FPNConfig,
    MaskedDecoderConfig,
    PerPixelConfig,
    PerPixelPlusConfig,
    StandardDecoderConfig,
    TransformerFPNConfig,
)
from mask2former.models.build import build_checked
from mask2former.models.mask2former import Mask2Former

TRIMMED = Path(__file__).parents[1] / "data" / "golden"
SLUGS = {
    "r50_coco_panoptic": "coco-panoptic/r50",
    "swin_tiny_ade_semantic": "ade20k-semantic/swin-t",
    "r50_cityscapes_instance": "cityscapes-instance/r50",
    "video_r50_ytvis2019": "ytvis2019-instance/r50",
    "train_r50_coco_panoptic": "coco-panoptic/r50",
    "train_r50_cityscapes_instance_batchnorm": "cityscapes-instance/r50",
    "train_video_r50_ytvis2019": "ytvis2019-instance/r50",
    "tta_r50_ade_semantic": "ade20k-semantic/r50",
}
CRITERIA = (
    "criterion_image",
    "criterion_image_one_empty",
    "criterion_image_all_empty",
    "criterion_image_more_targets_than_queries",
    "criterion_video",
)
_ENCODER, _RES4 = TransformerFPNConfig(num_layers=2), {"source": "res4", "project_source": True}
_EARLY_NORM = MaskedDecoderConfig(num_layers=3, pre_norm=True, project_inputs=True)
# The architectures of the cases variant_*, all with ResNet-50 and 150 classes.
VARIANTS = {
    "masked_decoder_fpn": ArchitectureConfig(pixel_decoder=FPNConfig()),
    "masked_decoder_transformer_encoder_prenorm": ArchitectureConfig(
        pixel_decoder=TransformerFPNConfig(num_layers=2, pre_norm=True), transformer_decoder=_EARLY_NORM
    ),
    "standard_decoder_fpn": ArchitectureConfig(pixel_decoder=FPNConfig(), transformer_decoder=StandardDecoderConfig()),
    "standard_decoder_transformer_encoder": ArchitectureConfig(
        pixel_decoder=_ENCODER, transformer_decoder=StandardDecoderConfig(source="encoder")
    ),
    "standard_decoder_prenorm_encoder_pixel_embedding": ArchitectureConfig(
        pixel_decoder=FPNConfig(),
        transformer_decoder=StandardDecoderConfig(num_layers=2, num_encoder_layers=1, pre_norm=True, **_RES4),
    ),
    "per_pixel_baseline": ArchitectureConfig(pixel_decoder=FPNConfig(), transformer_decoder=PerPixelConfig()),
    "per_pixel_baseline_plus": ArchitectureConfig(
        pixel_decoder=_ENCODER, transformer_decoder=PerPixelPlusConfig(num_layers=3)
    ),
}
_VARIANT_STEPS = {"pred_logits": 10, "pred_masks": 20, "pred_masks_every10": 2, "logits.every4": 15}


def folder() -> Path:
    shared = os.environ.get("MASK2FORMER_SHARED")
    return Path(shared) / "reference" / "golden" if shared else TRIMMED


@cache
def arrays(case: str) -> dict[str, np.ndarray]:
    with np.load(folder() / f"{case}.npz") as file:
        return dict(file)


@cache
def facts(case: str) -> dict[str, Any]:
    return json.loads((folder() / "index.json").read_text())[case]


@cache
def model_names(slug: str) -> tuple[tuple[str, str | None], ...]:
    return tuple(original_names(recipes.recipe(slug).model))


def filled_model(slug: str, dtype: torch.dtype = torch.float64) -> Mask2Former:
    """The model of a recipe with the deterministic weights, all of which are float32 numbers."""
    return copy.deepcopy(_filled(slug)).to(dtype)


@cache
def _filled(slug: str) -> Mask2Former:
    with _Undrawn():
        model = build_checked(recipes.recipe(slug).model, len(recipe_categories(slug)))
    model.categories = recipe_categories(slug)
    state = model.state_dict()
    left = {name for name, value in state.items() if value.is_floating_point()}
    with torch.no_grad():
        for published, name in model_names(slug):
            if name in left:
                state[name].copy_(torch.from_numpy(fill(published, tuple(state[name].shape))))
                left.remove(name)
    assert not left, left
    return model


def variant_model(case: str) -> Mask2Former:
    """The model of a variant with the deterministic weights, in float64 and evaluation mode."""
    with _Undrawn():
        model = build_checked(VARIANTS[case], 150).double().eval()
    state = model.state_dict()
    left = {name for name, value in state.items() if value.is_floating_point()}
    with torch.no_grad():
        for published, name in original_names(VARIANTS[case]):
            if name in left:
                make = _kept_value if published.startswith("backbone.") else fill
                state[name].copy_(torch.from_numpy(make(published, tuple(state[name].shape))))
                left.remove(name)
    assert not left, left
    return model


@cache
def _kept_value(published: str, shape: tuple[int, ...]) -> np.ndarray:
    return fill(published, shape).astype(np.float32)  # which holds it exactly


def some(key: str, array: np.ndarray) -> tuple[str, np.ndarray]:
    """The part of a variant's array that the trimmed file contains, and its name there."""
    name = key.partition(".")[2] if key.startswith("aux") else key
    step = _VARIANT_STEPS.get(name)
    return (key, array) if step is None else (f"{key}.every{step}th", array[:, ::step])


class _Undrawn(TorchFunctionMode):
    """Sets initial values to zero: drawing them takes most of the time, and they are replaced."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in (torch.Tensor.uniform_, torch.Tensor.normal_):
            return args[0].zero_()  # what is truncated is drawn until it is in range
        return func(*args, **(kwargs or {}))


def _kept(case: str, name: str, array: np.ndarray) -> bool:
    if case.startswith("train_"):
        large = name.startswith(("grad.backbone", "final.backbone")) or "sampling_offsets" in name
        return not large
    if name.startswith("video."):
        return True
    parts = name.split(".")
    if any(part in ("input", "mask_features", "boxes") for part in parts):
        return False
    if any(part.startswith("aux") and part != "aux0" for part in parts):
        return False
    if parts[-1] in ("channel_rms", "every4", "masks_packed"):
        return False
    return not (parts[0] == "image1" and parts[-1] in ("first8", "2") and "aux" not in name)


def _kept_of_variant(name: str, last: str) -> bool:
    if name.startswith("aux"):
        return name.startswith("aux0.") or name == f"{last}.pred_logits"
    return name in ("image", "sem_seg_target", "sem_seg.argmax", "pred_logits", "pred_masks", "logits.every4")


def _trim(reference: Path) -> None:
    index = json.loads((reference / "golden" / "index.json").read_text())
    kept_facts = {}
    for case in (*SLUGS, *CRITERIA):
        with np.load(reference / "golden" / f"{case}.npz") as file:
            kept = {name: file[name] for name in file.files if case in CRITERIA or _kept(case, name, file[name])}
        np.savez_compressed(TRIMMED / f"{case}.npz", **kept)
        kept_facts[case] = {name: value for name, value in index[case].items() if name != "arrays"}
    for case in (f"variant_{name}" for name in VARIANTS):
        with np.load(reference / "golden" / f"{case}.npz") as file:
            last = max((name.split(".")[0] for name in file.files if name.startswith("aux")), default="")
            names = [name for name in file.files if _kept_of_variant(name, last)]
            some_of_it: dict[str, Any] = dict(some(name, file[name]) for name in names)
            np.savez_compressed(TRIMMED / f"{case}.npz", **some_of_it)
        kept_facts[case] = {name: value for name, value in index[case].items() if name != "arrays"}
    (TRIMMED / "index.json").write_text(json.dumps(kept_facts, indent=1, sort_keys=True) + "\n")
    for name in ("optimizer_groups.json", "lr_schedules.json"):
        (TRIMMED / name).write_text((reference / name).read_text())


if __name__ == "__main__":
    _trim(Path(sys.argv[1]))
