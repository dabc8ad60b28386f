# pyright: reportMissingImports=false, reportAttributeAccessIssue=false
"""Shared by the fuzz targets of weights: small initial files, every way to read them, the definition of a finding."""

from __future__ import annotations

import contextlib
import io
import pickle
import sys
import tempfile
from collections import Counter, OrderedDict
from collections.abc import Callable
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["mask2former.checkpoints", "mask2former.config", "mask2former.structures"]):
    import numpy as np
    import torch

    from mask2former import checkpoints
    from mask2former.checkpoints.describe import describe_checkpoint
    from mask2former.checkpoints.formats import original
    from mask2former.checkpoints.load import read
    from mask2former.checkpoints.restricted_pickle import read_state
    from mask2former.config import ModelConfig, parse
    from mask2former.errors import UserError
    from mask2former.models.build import build_model
    from mask2former.structures import Categories

__all__ = ["CORPUS", "fuzz", "seeds", "try_file"]

CORPUS = Path(__file__).with_name("corpus")
_SECONDS, _MEGABYTES = 10, 2_000  # of one input; torch alone takes 500 MB
_SMALL = {
    "backbone": {"name": "swin", "embed_dim": 1, "depths": [1] * 4, "num_heads": [1] * 4, "window_size": 1},
    "pixel_decoder": {"dim": 32, "mask_dim": 1, "num_layers": 1, "num_heads": 1, "num_points": 1, "feedforward_dim": 1},
    "transformer_decoder": {"dim": 32, "num_queries": 1, "num_layers": 1, "num_heads": 1, "feedforward_dim": 1},
}


def seeds(folder: Path) -> dict[str, bytes]:
    """Files of each format, by their names: a whole model as safetensors, a few arrays in the others."""
    torch.manual_seed(0)
    model = build_model(parse(ModelConfig, _SMALL, "small"), 1)
    model.categories = Categories.from_names(["cat"])
    checkpoints.save(model, folder / "ours.safetensors")
    some = dict(list(original.to_original(model).items())[-3:])
    files = {"ours.safetensors": (folder / "ours.safetensors").read_bytes()}
    arrays = {name: value.numpy() for name, value in some.items()}
    for protocol in (0, 2, 4, 5):
        files[f"{protocol}.pkl"] = pickle.dumps({"model": arrays, "meta": {"epoch": 1}}, protocol=protocol)
    for name, is_zip in (("zip.pth", True), ("legacy.pth", False)):
        stream = io.BytesIO()
        torch.save({"state_dict": some, "meta": {"cfg": "a = 1"}}, stream, _use_new_zipfile_serialization=is_zip)
        files[name] = stream.getvalue()
    others = [OrderedDict(a=1), Counter("aab"), {1, "b"}, frozenset("c"), 1j, bytearray(b"d"), 2**70, np.float64(1)]
    files["others.pkl"] = pickle.dumps({"model": arrays, "others": others}, protocol=4)
    files["tensors.pkl"] = pickle.dumps({"a": torch.zeros(2)}, protocol=2)
    return files


def try_file(content: bytes, suffix: str, folder: Path) -> None:
    """Read a file in every way; anything but a model or a UserError of one printable line is a finding."""
    path = folder / f"x{suffix}"
    path.write_bytes(content)
    readers: tuple[Callable[[Path], object], ...] = (read_state, read, checkpoints.from_pretrained, describe_checkpoint)
    for reader in readers:
        try:
            reader(path)
        except UserError as error:
            message = str(error)
            assert message.isprintable(), message
            assert len(message) < 6000, message


def fuzz(target: Callable[[bytes, Path], object], corpus: str, longest: int) -> None:
    """Fuzz until stopped; the command line may have options of libFuzzer, for instance ``-max_total_time=300``."""
    with tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as folder:

        def one(data: bytes) -> None:
            target(data, Path(folder))

        limits = [f"-timeout={_SECONDS}", f"-rss_limit_mb={_MEGABYTES}", f"-max_len={longest}"]
        with contextlib.suppress(SystemExit):
            atheris.Setup([sys.argv[0], *limits, *sys.argv[1:], str(CORPUS / corpus)], one)
            atheris.Fuzz()
