"""MaskFormer and the per-pixel baselines are trained, resumed, measured, stored and used in the usual way."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from runs import config_of, finish, run_values, table

from mask2former import Mask2Former, Predictor
from mask2former.checkpoints.convert import convert
from mask2former.cli import main
from mask2former.config import RunConfig, parse
from mask2former.dataset_tools.requirements import check_run
from mask2former.errors import UserError
from mask2former.inference.tta import AugmentedPredictor, MultiScaleFlip
from mask2former.structures import PixelPrediction

pytestmark = [pytest.mark.long, pytest.mark.usefixtures("small_overlays", "unpredicted_memory")]

PYRAMID = {"dim": 32, "mask_dim": 32}
ENCODER = {"num_heads": 2, "feedforward_dim": 32, "num_layers": 1}
TRANSFORMER = {"dim": 32, **ENCODER, "num_layers": 2}
VARIANTS = {
    "maskformer": (
        {"name": "transformer-fpn", **PYRAMID, **ENCODER},
        {"name": "standard", **TRANSFORMER, "num_queries": 20, "source": "encoder"},
    ),
    "per-pixel": ({"name": "fpn", **PYRAMID}, {"name": "per-pixel"}),
    "per-pixel-plus": ({"name": "fpn", **PYRAMID}, {"name": "per-pixel-plus", **TRANSFORMER, "source": "res5"}),
}


def changes_of(variant: str, tmp_path: Path) -> dict[str, Any]:
    pixels, decoder = VARIANTS[variant]
    model = run_values(tmp_path)["model"] | {"pixel_decoder": pixels, "transformer_decoder": decoder}
    on_masks = {"match_on": "masks", "loss_on": "masks", "mask_loss": "focal"}
    changes: dict[str, Any] = {
        "model": model,
        "criterion": {**on_masks, "class_weight": 1.0, "mask_weight": 20.0, "dice_weight": 1.0},
        "trainer__max_steps": 6,
        "trainer__checkpoint_interval": 6,
        "evaluation__interval": 6,
        "data__batch_size": 2,
        "optim__lr": 1e-3,
    }
    if variant != "maskformer":
        model["inference"] |= {"tasks": ["semantic"]}
        changes |= {"evaluation__tasks": ["semantic"], "evaluation__monitor": "semantic/mIoU"}
    return changes


SLOW = [pytest.param(variant, marks=pytest.mark.slow) for variant in ("maskformer", "per-pixel")]


@pytest.mark.parametrize("variant", ["per-pixel-plus", *SLOW])
def test_a_variant_learns_and_lives_in_its_file(
    variant: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = finish(config_of(tmp_path / "run", **changes_of(variant, tmp_path)))
    rows = table(run.folder)
    losses = [float(row["loss"]) for row in rows if row.get("loss")]
    assert len(losses) == 6
    assert sum(losses[-3:]) < sum(losses[:3])
    if variant == "per-pixel-plus":
        again = finish(
            config_of(tmp_path / "run", **changes_of(variant, tmp_path) | {"trainer__max_steps": 7}), resume=True
        )
        assert len([row for row in table(again.folder) if row.get("loss")]) == 7

    loaded = Mask2Former.from_pretrained(run.result.model)
    kinds = (loaded.info.known_architecture.pixel_decoder.name, loaded.info.known_architecture.transformer_decoder.name)
    assert kinds == tuple(part["name"] for part in VARIANTS[variant])
    predictor = Predictor(loaded, "cpu")
    image = np.random.default_rng(0).integers(0, 256, (50, 75, 3), dtype=np.uint8)
    labels = predictor(image, "semantic").labels
    assert labels.shape == (50, 75)
    augmented = AugmentedPredictor(predictor, MultiScaleFlip(short_edges=(50,), flip=False))
    np.testing.assert_array_equal(augmented(image, "semantic").labels, labels)
    if variant != "maskformer":
        [prediction] = predictor.predictions([torch.from_numpy(image).permute(2, 0, 1)])
        assert isinstance(prediction, PixelPrediction)
        with pytest.raises(UserError, match="semantic"):
            predictor(image, "panoptic")
    assert main(["inspect", str(run.result.model)]) == 0
    assert kinds[1] in capsys.readouterr().out
    with pytest.raises(UserError, match="exists in our own format only"):  # its backbone, before all
        convert(run.result.model, tmp_path / "original.pkl", to="original")


def test_what_classifies_pixels_is_measured_by_pixels_alone(tmp_path: Path) -> None:
    values = run_values(tmp_path, **changes_of("per-pixel", tmp_path))
    with pytest.raises(UserError, match=r"inference.tasks must be \[semantic\], got \[panoptic, instance, semantic\]"):
        parse(RunConfig, values | {"model": {**values["model"], "inference": {}}}, "test")
    panoptic = {"evaluation": {**values["evaluation"], "tasks": ["panoptic"], "monitor": "panoptic/PQ"}}
    with pytest.raises(UserError, match=r"set evaluation.tasks=\[semantic\]"):
        check_run(parse(RunConfig, values | panoptic, "test"))
