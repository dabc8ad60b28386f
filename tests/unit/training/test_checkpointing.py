"""Checkpoints are complete, give clear errors, and depend only on their content."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
import torch

from mask2former.errors import UserError
from mask2former.training.checkpointing import WholeFiles, loaded, plain


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"half of something", b"\x80\x02]q\x00."])
def test_a_damaged_file_is_refused_in_one_sentence(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "last.ckpt"
    path.write_bytes(content)
    with (
        pytest.raises(UserError, match=r"last\.ckpt is damaged \(.+\); put it back"),
        loaded(path, "put it back") as state,
    ):
        state["global_step"]


def test_an_empty_file_is_called_empty(tmp_path: Path) -> None:
    (tmp_path / "last.ckpt").touch()
    with pytest.raises(UserError, match=r"\(it is empty\)"):
        loaded(tmp_path / "last.ckpt", "").__enter__()


def test_a_full_disk_is_an_error_of_the_file() -> None:
    with pytest.raises(OSError, match="No space left"):
        WholeFiles().save_checkpoint({"weights": torch.zeros(1 << 20)}, Path("/dev/full"))


def test_equal_content_is_written_as_equal_bytes() -> None:
    def written(value: object) -> bytes:
        stream = io.BytesIO()
        torch.save(value, stream)
        return stream.getvalue()

    state = {"lr": 0.1, "betas": (0.9, 0.99), "names": ["lr", "".join(["l", "r"])], "again": ["betas"]}
    stream = io.BytesIO(written(state))
    read = torch.load(stream, weights_only=True)
    assert written(plain(read)) == written(plain(state))
