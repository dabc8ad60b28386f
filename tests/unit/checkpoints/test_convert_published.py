"""Files of published size through every converter and back: names, order, types and values do not change.

``pytest -m slow tests/unit/checkpoints/test_convert_published.py`` takes some minutes and up to 4 GB of memory.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from mask2former import recipes
from mask2former.checkpoints.convert import Target, convert
from mask2former.checkpoints.restricted_pickle import read_state


@pytest.mark.slow
@pytest.mark.parametrize(
    "slug", ["coco-panoptic/r50", "coco-panoptic/swin-l", "cityscapes-semantic/r50", "ytvis2019-instance/r50"]
)
def test_real_files_there_and_back(published: Any, tmp_path: Path, slug: str) -> None:
    source = published.write(slug, tmp_path / "model.pkl", legacy_names=True)
    expected = read_state(published.write(slug, tmp_path / "current.pkl"))
    (tmp_path / "current.pkl").unlink()
    targets: list[tuple[Target, str]] = [("ours", "ours.safetensors"), ("mmdet", "mmdet.pth")]
    if not recipes.recipe(slug).is_video:
        targets.append(("huggingface", "folder"))
    for target, name in targets:
        there = convert(source, tmp_path / name, target, slug, verify=False).path
        recipe = None if target in ("ours", "huggingface") else slug
        back = convert(there, tmp_path / f"{target}.pkl", "original", recipe, verify=False).path
        state = read_state(back)
        assert list(state) == list(expected), target
        for key, value in expected.items():
            assert state[key].dtype == value.dtype, (target, key)
            assert torch.equal(state[key], value), (target, key)
        back.unlink()
