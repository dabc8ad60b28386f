"""What ``check-data`` says about the model that a run starts from, and what it does not overwrite."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from mask2former.config import RunConfig, parse
from mask2former.dataset_tools.check_data import check_data
from mask2former.errors import UserError


def test_a_backbone_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    for name, mode in (("images", "RGB"), ("labels", "L")):
        (tmp_path / name).mkdir()
        Image.new(mode, (8, 8)).save(tmp_path / name / "a.png")
    (tmp_path / "names.txt").write_text("cell\n")
    folders = [{"images": str(tmp_path / "images"), "labels": str(tmp_path / "labels")}]
    dataset = {"name": "label-folder", "train": folders, "validation": [], "names": str(tmp_path / "names.txt")}
    model = {"init": "coco-instance/r50", "init_partial": True, "init_backbone": "missing"}
    run = parse(RunConfig, {"model": model, "data": {"dataset": dataset}}, "test")
    [note] = [one for one in check_data(run, num_workers=0).notes if "missing" in one]
    assert "model.init 'coco-instance/r50' and model.init_backbone 'missing' cannot be read" in note


def test_neither_data_nor_another_output_is_overwritten(tmp_path: Path) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    text = (
        '{"images": [{"id": 1, "file_name": "a.png"}], "categories": [{"id": 1, "name": "cell"}], "annotations": '
        '[{"id": 1, "image_id": 1, "category_id": 1, "segmentation": [[1, 1, 5, 1, 5, 5]]}]}'
    )
    for split in ("train", "val"):  # the second one is found by its name
        (tmp_path / f"{split}.json").write_text(text)
        with pytest.raises(UserError, match=rf"{split}\.json' is an input and would be overwritten"):
            check_data(tmp_path / "train.json", json=tmp_path / f"{split}.json", num_workers=0)
        assert (tmp_path / f"{split}.json").read_text() == text
    with pytest.raises(UserError, match="sheet and json would both write"):
        check_data(tmp_path / "train.json", json=tmp_path / "out", sheet=str(tmp_path / "out"), num_workers=0)
