"""Models with the settings of the paper's ablations are trained, resumed, stored and used like any other."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from runs import config_of, finish, run_values, table

from mask2former import Mask2Former, Predictor
from mask2former.checkpoints.convert import convert
from mask2former.cli import main
from mask2former.errors import UserError

pytestmark = [pytest.mark.long, pytest.mark.usefixtures("small_overlays", "unpredicted_memory")]

ALL = [
    {"attention": "smca", "scales": "naive", "order": "self_first", "query_init": "zero", "dropout": 0.1},
    {"attention": "mask_pool", "scales": "s8", "query_init": "learned", "position_encoding": "3d"},
    {"attention": "full", "pre_norm": True, "scales": "s16"},
]


@pytest.mark.parametrize("switches", [ALL[0], *(pytest.param(one, marks=pytest.mark.slow) for one in ALL[1:])])
def test_a_model_with_switches_learns_and_lives_in_its_file(switches: dict[str, Any], tmp_path: Path) -> None:
    model = run_values(tmp_path)["model"]
    model["transformer_decoder"] |= switches
    on_masks = {"num_points": 64, "match_on": "masks", "loss_on": "masks"}
    criterion = on_masks if switches["attention"] != "full" else {"num_points": 64, "loss_on": "masks"}
    changes = {
        "model": model,
        "criterion": criterion,
        "trainer__max_steps": 10,
        "trainer__checkpoint_interval": 10,
        "trainer__gradient_checkpointing": True,
        "trainer__precision": "bf16",
        "evaluation__interval": 10,
        "data__batch_size": 2,
        "optim__lr": 1e-3,
    }
    run = finish(config_of(tmp_path / "run", **changes))
    losses = [float(row["loss"]) for row in table(run.folder) if row.get("loss")]
    assert len(losses) == 10
    assert sum(losses[-3:]) < sum(losses[:3])

    loaded = Mask2Former.from_pretrained(run.result.model)
    decoder = loaded.info.known_architecture.transformer_decoder
    assert {name: getattr(decoder, name) for name in switches} == switches
    again = tmp_path / "again.safetensors"
    loaded.save_pretrained(again)
    clip = torch.randint(0, 256, (3, 3, 64, 96), dtype=torch.uint8)
    with torch.inference_mode():
        first, second = loaded.eval()([clip]), Mask2Former.from_pretrained(again).eval()([clip])
    assert first.mask_logits.shape == (1, 20, 3, 16, 24)
    assert torch.equal(first.mask_logits, second.mask_logits)
    assert Predictor(loaded, "cpu")(clip[0].permute(1, 2, 0).numpy(), "panoptic").ids.shape == (64, 96)

    with pytest.raises(UserError, match=r"only our own format .* can store transformer_decoder\.\w+="):
        convert(again, tmp_path / "original.pkl", to="original")
    assert main(["inspect", str(again)]) == 0
