"""The directory of a run holds no files of another one that could pass for its own."""

from __future__ import annotations

from pathlib import Path

import pytest

from mask2former.config import RunConfig
from mask2former.training.directory import prepare_directory

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
