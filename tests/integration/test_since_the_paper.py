"""Methods published after the paper: trained for ten steps, resumed, stored, measured and used as usual."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from runs import config_of, finish, run_values, table

from mask2former import Mask2Former, Predictor
from mask2former.checkpoints.convert import convert
from mask2former.errors import UserError

pytestmark = [pytest.mark.long, pytest.mark.usefixtures("small_overlays", "unpredicted_memory")]

_VIT = {"embed_dim": 32, "depth": 2, "num_heads": 2, "img_size": 56}
OPTIONS: dict[str, dict[str, Any]] = {
    "vit": {
        "model": {"backbone": {"name": "timm", "model": "vit_small_patch14_dinov2", "kwargs": _VIT, "pyramid": 32}},
    },
    "stages": {"model": {"pixel_decoder": {"num_layers": 3, "stages": [1, 1, 1]}}},
    "encoder-only": {
        "model": {
            "backbone": {
                "name": "timm",
                "model": "vit_small_patch14_dinov2",
                "kwargs": _VIT | {"depth": 3},
                "joint_blocks": 2,
            },
            "pixel_decoder": {"name": "none"},
            "transformer_decoder": {"name": "encoder-only", "num_queries": 20},
        },
    },
    "pilots": {"model": {"transformer_decoder": {"pilots": 12}}},
}


def changes_of(option: str, tmp_path: Path) -> dict[str, Any]:
    parts = OPTIONS[option]
    model = run_values(tmp_path)["model"]
    for part, settings in parts.get("model", {}).items():
        kept = model[part] if settings.get("name", model[part].get("name")) == model[part].get("name") else {}
        model[part] = {**({} if part == "backbone" else kept), **settings}
    return {
        "model": model,
        "criterion": {"num_points": 128, **parts.get("criterion", {})},
        "trainer__max_steps": 10,
        "trainer__checkpoint_interval": 10,
        "evaluation__interval": 10,
        "data__batch_size": 2,
        "optim__lr": 1e-3,
    }


@pytest.mark.parametrize(
    "option",
    ["pilots", "encoder-only", *(pytest.param(option, marks=pytest.mark.slow) for option in ("vit", "stages"))],
)
def test_an_option_learns_and_lives_in_its_file(option: str, tmp_path: Path) -> None:
    run = finish(config_of(tmp_path / "run", **changes_of(option, tmp_path)))
    losses = [float(row["loss"]) for row in table(run.folder) if row.get("loss")]
    assert len(losses) == 10
    assert sum(losses[-3:]) < sum(losses[:3])

    loaded = Mask2Former.from_pretrained(run.result.model)
    again = tmp_path / "again.safetensors"
    loaded.save_pretrained(again)
    image = torch.randint(0, 256, (3, 64, 96), dtype=torch.uint8)
    with torch.inference_mode():
        first, second = loaded.eval()([image]), Mask2Former.from_pretrained(again).eval()([image])
    assert torch.equal(first.mask_logits, second.mask_logits)
    predicted = Predictor(loaded, "cpu")(np.zeros((50, 75, 3), dtype=np.uint8), "panoptic")
    assert predicted.ids.shape == (50, 75)
    with pytest.raises(UserError, match="our own format"):
        convert(again, tmp_path / "original.pkl", to="original")


@pytest.mark.slow
@pytest.mark.parametrize("option", OPTIONS)
def test_it_goes_on_where_it_was_stopped(option: str, tmp_path: Path) -> None:
    changes = changes_of(option, tmp_path)
    whole = finish(config_of(tmp_path / "whole", **changes))
    # the same schedule, interrupted after six steps
    short = changes | {"trainer__max_steps": 6, "trainer__checkpoint_interval": 6, "optim__schedule_steps": 10}
    finish(config_of(tmp_path / "run", **short))
    resumed = finish(config_of(tmp_path / "run", **changes | {"optim__schedule_steps": 10}), resume=True)
    ends = [[row["loss"] for row in table(one.folder) if row.get("loss")] for one in (whole, resumed)]
    assert ends[0] == ends[1]
