"""Training starts from a converted backbone file: the command of the documentation, end to end."""

from __future__ import annotations

from pathlib import Path

import pytest
import timm
import torch
from runs import run_values

from mask2former.checkpoints.convert import convert
from mask2former.config import RunConfig, parse
from mask2former.errors import UserError
from mask2former.models.mask2former import Mask2Former
from mask2former.training.run import train

# Lightning looks at its own batches in a way that PyTorch has deprecated, and gives advice as warnings.
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*isinstance.treespec, LeafSpec.*:FutureWarning"),
    pytest.mark.filterwarnings("ignore:.*isinstance.treespec, LeafSpec.*:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:.*does not have many workers.*"),
]


def test_training_starts_from_a_backbone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        source = timm.create_model("resnet18")
    torch.save(source.state_dict(), tmp_path / "resnet18.pth")
    path = convert(tmp_path / "resnet18.pth", tmp_path / "backbone.safetensors").path
    values = run_values(tmp_path / "run", trainer={"max_steps": 1, "accelerator": "cpu"}, optim={"lr": 1e-12})
    values["model"]["backbone"] = {"name": "timm", "model": "resnet18"}
    values["model"]["init"] = str(path)
    result = train(parse(RunConfig, values, "test"))
    assert f"Starts from {path}: all but the backbone is newly initialised" in capsys.readouterr().out
    trained = Mask2Former.from_pretrained(result.model).state_dict()
    name = "layer3.1.conv2.weight"
    torch.testing.assert_close(trained[f"backbone.body.{name}"], source.state_dict()[name])

    values["output"] = str(tmp_path / "other")
    values["model"]["backbone"] = {"name": "swin"}
    with pytest.raises(UserError, match=r"The file is of resnet18; set model\.backbone to that"):
        train(parse(RunConfig, values, "test"))
