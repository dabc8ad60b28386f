"""What ``check-data`` says about the model that a run starts from."""

from __future__ import annotations

from pathlib import Path

from PIL import Image

from mask2former.config import RunConfig, parse
from mask2former.dataset_tools.check_data import check_data


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
