"""The directory of a run holds no files of another one that could pass for its own."""

from __future__ import annotations

from pathlib import Path

import pytest

from mask2former.config import RunConfig
from mask2former.errors import UserError
from mask2former.training.directory import check_vacant, prepare_directory

WRITTEN = (
    "checkpoints/last.ckpt",
    "checkpoints/best.ckpt",
    "checkpoints/best-before-step-4.ckpt",
    "model.safetensors",
    "images/step-0000500.png",
    "failed-step-7.pt",
    "failed-step-7-rank-1.pt",
)
OWN = ("images/photograph.png", "images/step-1.png", "notes.txt")  # not written by training


@pytest.mark.parametrize("resume", [False, True])
def test_what_another_run_wrote_is_removed_unless_it_is_resumed(tmp_path: Path, *, resume: bool) -> None:
    for name in (*WRITTEN, *OWN):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"")
    prepare_directory(RunConfig(output=str(tmp_path)), [], resume=resume)
    left = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    assert left == {"run.yaml", *OWN, *(WRITTEN if resume else ())}


def put(folder: Path, *names: str) -> None:
    (folder / "checkpoints").mkdir(exist_ok=True)
    for name in names:
        (folder / name).touch()


def test_a_best_checkpoint_in_a_folder_without_a_run_is_not_replaced(tmp_path: Path) -> None:
    check_vacant(tmp_path)
    put(tmp_path, "checkpoints/best.ckpt")
    with pytest.raises(
        UserError, match=r"best.ckpt' is of an earlier run, whose run.yaml and last.ckpt are gone; move"
    ):
        check_vacant(tmp_path)


def test_a_run_without_a_last_checkpoint_starts_over_and_its_best_one_is_not_removed_in_silence(tmp_path: Path) -> None:
    put(tmp_path, "run.yaml", "checkpoints/best.ckpt")
    check_vacant(tmp_path)
    notes = prepare_directory(RunConfig(output=str(tmp_path)), [], resume=False)
    assert notes == [f"removed files of a run that had no last.ckpt from '{tmp_path}': checkpoints/best.ckpt"]
    assert not (tmp_path / "checkpoints" / "best.ckpt").exists()
    put(tmp_path, "checkpoints/last.ckpt")
    with pytest.raises(UserError, match="already contains a run"):
        check_vacant(tmp_path)


def test_a_model_whose_checkpoints_were_deleted_is_not_replaced(tmp_path: Path) -> None:
    put(tmp_path, "run.yaml", "model.safetensors")
    for init in (tmp_path / "model.safetensors", tmp_path):  # the file, or its folder
        check_vacant(tmp_path, init=str(init))
        run = RunConfig.model_validate({"output": str(tmp_path), "model": {"init": str(init)}})
        assert prepare_directory(run, [], resume=False) == []
    with pytest.raises(UserError, match=r"model.safetensors' is of an earlier run, whose checkpoints are gone; move"):
        check_vacant(tmp_path, init="scenes-tiny")
    notes = prepare_directory(RunConfig(output=str(tmp_path)), [], resume=False)  # with overwrite
    assert notes == [f"removed files of a run that had no last.ckpt from '{tmp_path}': model.safetensors"]
    assert not (tmp_path / "model.safetensors").exists()


def test_a_folder_with_the_name_of_a_known_model_is_not_the_initial_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = Path("scenes-tiny")
    folder.mkdir()
    put(folder, "run.yaml", "model.safetensors")
    with pytest.raises(UserError, match="is of an earlier run, whose checkpoints are gone"):
        check_vacant(folder, init="scenes-tiny")
    check_vacant(folder, init="./scenes-tiny")


@pytest.mark.parametrize(
    "name", ["checkpoints/last.ckpt", "checkpoints/best.ckpt", "checkpoints/best-before-step-4.ckpt"]
)
def test_a_run_does_not_start_from_a_checkpoint_that_it_removes(tmp_path: Path, name: str) -> None:
    put(tmp_path, "run.yaml", name)
    with pytest.raises(UserError, match=rf"model.init names '.*{name}', which a new run in '.*' removes; move it, or"):
        check_vacant(tmp_path, init=str(tmp_path / name), overwrite=True)
    check_vacant(tmp_path, init="scenes-tiny", overwrite=True)


def test_a_run_does_not_start_from_its_own_empty_directory(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "new"):
        with pytest.raises(UserError, match=r"the output directory of this run, which contains no model; name another"):
            check_vacant(folder, init=str(folder))
