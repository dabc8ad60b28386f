"""What is written can be loaded: a model that is not what its architecture describes is refused."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from mask2former.errors import UserError
from mask2former.models.build import build_model
from mask2former.models.mask2former import Mask2Former
from mask2former.recipes import scenes_tiny
from mask2former.scenes import SCENE_CATEGORIES


def with_head() -> Mask2Former:
    model = build_model(scenes_tiny().model, len(SCENE_CATEGORIES))
    model.categories = SCENE_CATEGORIES
    model.depth_head = nn.Linear(4, 1)
    return model


@pytest.mark.parametrize("name", ["m.safetensors", "folder"])
def test_a_head_of_ones_own_needs_a_model_without_architecture(tmp_path: Path, name: str) -> None:
    model = with_head()
    message = r"could not be loaded \(2 unexpected: depth_head\.bias, depth_head\.weight\); set model\.info = .*None"
    with pytest.raises(UserError, match=message):
        model.save_pretrained(tmp_path / name)
    assert not list(tmp_path.iterdir())


def test_without_architecture_it_is_written_and_loaded(tmp_path: Path) -> None:
    model = with_head()
    model.info = replace(model.info, architecture=None)
    model.save_pretrained(tmp_path / "m.safetensors")
    again = Mask2Former.from_pretrained(tmp_path / "m.safetensors", model=with_head())
    assert torch.equal(again.state_dict()["depth_head.weight"], model.state_dict()["depth_head.weight"])


def test_parts_that_were_replaced_are_named(tmp_path: Path) -> None:
    model = build_model(scenes_tiny().model, len(SCENE_CATEGORIES))
    model.categories = SCENE_CATEGORIES
    state = torch.get_rng_state()
    model.save_pretrained(tmp_path / "m.safetensors")
    assert torch.equal(torch.get_rng_state(), state)
    head = model.transformer_decoder.class_head
    assert isinstance(head, nn.Linear)
    model.transformer_decoder.class_head = nn.Linear(head.in_features, 3, bias=False)
    with pytest.raises(UserError, match=r"1 missing: \S*class_head\.bias; 1 mis-shaped: \S*class_head\.weight \(3, "):
        model.save_pretrained(tmp_path / "other.safetensors")


@pytest.mark.skipif(sys.platform == "win32", reason="files have no size limit there")
def test_a_file_that_cannot_be_written_to_its_end_is_named(tmp_path: Path) -> None:
    """As a full disk: in another process, since the limit holds for all of its files."""
    program = (
        "import resource, signal, sys, torch; from pathlib import Path\n"
        "from mask2former.checkpoints.safetensors_files import write_safetensors\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN); resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
        "try: write_safetensors({'a': torch.zeros(9999)}, Path(sys.argv[1]), {})\n"
        "except OSError as error: print(error)"
    )
    command = [sys.executable, "-c", program, str(tmp_path / "a.safetensors")]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert printed.strip() == f"[Errno {errno.EFBIG}] {os.strerror(errno.EFBIG)}: '{tmp_path / 'a.safetensors'}'"
