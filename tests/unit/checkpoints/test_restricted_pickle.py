"""Pickles are read without running code: arrays and tensors are exact, and everything else is rejected by name."""

from __future__ import annotations

import collections
import copy
import datetime
import functools
import io
import os
import pickle
import pickletools
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import _utils

from mask2former.checkpoints.restricted_pickle import check_archive, read_state
from mask2former.errors import UserError

ARRAYS = {
    "float32": np.linspace(-1, 1, 24, dtype=np.float32).reshape(2, 3, 4),
    "float16": np.arange(3, dtype=np.float16),
    "float64": np.arange(4, dtype=np.float64),
    "counter": np.array(7, dtype=np.int64),
    "flags": np.array([True, False]),
    "columns first": np.asfortranarray(np.arange(6, dtype=np.float32).reshape(2, 3)),
    "transposed": np.arange(24, dtype=np.float32).reshape(2, 3, 4).transpose(0, 2, 1),
    "big endian": np.arange(3, dtype=">f4"),
    "empty": np.zeros((0, 3), dtype=np.float32),
    "scalar": np.float32(2.5),
}


def same(state: dict[str, torch.Tensor], arrays: dict[str, Any]) -> bool:
    return list(state) == list(arrays) and all(
        np.array_equal(state[name].numpy(), value) and state[name].numpy().dtype == value.dtype.newbyteorder("=")
        for name, value in arrays.items()
    )


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("wrap", [lambda values: values, lambda values: {"model": values, "__author__": "me"}])
def test_arrays_of_every_protocol(tmp_path: Path, protocol: int, wrap: Any) -> None:
    path = tmp_path / "weights.pkl"
    path.write_bytes(pickle.dumps(wrap(ARRAYS), protocol=protocol))
    assert same(read_state(path), ARRAYS)


@pytest.mark.parametrize("protocol", [0, 2])
def test_arrays_of_older_numpy(tmp_path: Path, protocol: int) -> None:
    data = pickle.dumps(ARRAYS, protocol=protocol).replace(b"cnumpy._core.", b"cnumpy.core.")
    path = tmp_path / "weights.pkl"
    path.write_bytes(data)
    assert same(read_state(path), ARRAYS)


def test_arrays_of_python_2(tmp_path: Path) -> None:
    # What Python 2 wrote: byte strings (SHORT_BINSTRING) for names and numbers.
    data = (
        b"\x80\x02}U\x01acnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
        b"(K\x01K\x02\x85cnumpy\ndtype\nU\x02f4K\x00K\x01\x87R(K\x03U\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
        b"\x89U\x08\x00\x00\x80\x3f\x00\x00\x80\xbftbs."
    )
    path = tmp_path / "weights.pkl"
    path.write_bytes(data)
    assert same(read_state(path), {"a": np.array([1, -1], dtype=np.float32)})


def test_ordered_mapping_with_metadata(tmp_path: Path) -> None:
    values: Any = collections.OrderedDict(ARRAYS)
    values._metadata = collections.OrderedDict({"": {"version": 2}})
    path = tmp_path / "weights.pkl"
    path.write_bytes(pickle.dumps({"model": values}, protocol=4))
    assert same(read_state(path), ARRAYS)


TENSORS = {
    "weight": torch.linspace(-1, 1, 12).reshape(3, 4),
    "view": torch.arange(12.0).reshape(3, 4)[1:, 1:],
    "half": torch.arange(3).half(),
    "bfloat16": torch.arange(3).bfloat16(),
    "counter": torch.tensor(7),
    "parameter": torch.nn.Parameter(torch.ones(2)),
    "empty": torch.empty(0, 2),
}


@pytest.mark.parametrize("kind", ["zip", "legacy", "plain"])
@pytest.mark.parametrize("wrapped", [True, False])
def test_tensors(tmp_path: Path, kind: str, wrapped: bool) -> None:
    payload: Any = collections.OrderedDict(TENSORS)
    if wrapped:
        layer = torch.nn.Linear(2, 2)
        optimizer = torch.optim.AdamW(layer.parameters())
        payload = {
            "model": payload,
            "optimizer": optimizer.state_dict(),
            "scheduler": {"milestones": collections.Counter([3, 4]), "best": np.float64(1.5)},
            "iteration": 9,
        }
    path = tmp_path / "weights.pth"
    if kind == "plain":
        path.write_bytes(pickle.dumps(payload))
    else:
        torch.save(payload, path, _use_new_zipfile_serialization=kind == "zip")
    state = read_state(path)
    assert list(state) == list(TENSORS)
    for name, value in TENSORS.items():
        assert state[name].dtype == value.dtype
        assert torch.equal(state[name], value)


def test_read_tensors_can_be_written_to(tmp_path: Path) -> None:
    path = tmp_path / "weights.pkl"
    path.write_bytes(pickle.dumps({"a": np.zeros(2, dtype=np.float32)}))
    read_state(path)["a"].add_(1)


class Evil:
    """Calls a function when unpickled without restrictions."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self._call = (function, arguments)

    def __reduce__(self) -> Any:
        return self._call


def legacy(payload: Any) -> bytes:
    stream = io.BytesIO()
    torch.save(payload, stream, _use_new_zipfile_serialization=False)
    return stream.getvalue()


def zipped(payload: Any) -> bytes:
    stream = io.BytesIO()
    torch.save(payload, stream)
    return stream.getvalue()


@pytest.mark.parametrize("write", [pickle.dumps, legacy, zipped])
@pytest.mark.parametrize(
    ("function", "named"),
    [
        (os.mkdir, r"(posix|nt)\.mkdir"),
        (os.system, r"(posix|nt)\.system"),
        (eval, r"builtin(s|__)\.eval"),
        (functools.partial, r"functools\.partial"),
        (getattr, r"builtin(s|__)\.getattr"),
    ],
)
def test_code_is_refused_by_name(tmp_path: Path, write: Any, function: Any, named: str) -> None:
    path, trace = tmp_path / "evil.pkl", tmp_path / "trace"
    argument = f"__import__('os').mkdir({str(trace)!r})" if function is eval else str(trace)
    if function is os.system:
        argument = f"mkdir {trace}"
    path.write_bytes(write({"model": {"a": np.zeros(2), "b": Evil(function, argument)}}))
    with pytest.raises(UserError, match=named) as caught:
        read_state(path)
    assert str(path) in str(caught.value)
    assert not trace.exists()


def test_code_inside_a_nested_storage_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "evil.pkl"
    inner = legacy(Evil(os.mkdir, str(tmp_path / "trace")))
    path.write_bytes(pickle.dumps({"a": Evil(torch.storage._load_from_bytes, inner)}))
    with pytest.raises(UserError, match=r"mkdir"):
        read_state(path)
    assert not (tmp_path / "trace").exists()


def test_allowed_functions_cannot_be_changed(tmp_path: Path) -> None:
    path = tmp_path / "evil.pkl"
    path.write_bytes(b"\x80\x02c_codecs\nencode\n}X\x09\x00\x00\x00_functionK\x01sb.")
    assert [op.name for op, _, _ in pickletools.genops(path.read_bytes())][-2] == "BUILD"
    with pytest.raises(UserError, match="a change of a function"):
        read_state(path)


@pytest.mark.parametrize(
    ("payload", "message"),
    [
        ({"a": np.array([{}], dtype=object)}, "entry 'a' is a list; expected named numeric arrays"),
        ({"a": np.zeros(2, dtype=[("x", "f4")])}, r"numpy\.dtype\('V4'\)"),
        ({"a": np.array(["text"])}, "entry 'a' is a ndarray; expected named numeric arrays"),
        ({"a": [1, 2]}, "entry 'a' is a list"),
        ({3: np.zeros(2)}, "entry 3 is a ndarray"),
        ([np.zeros(2)], "contains a list; expected a mapping"),
        ({}, "contains no entries"),
        ({"model": {}}, "contains no entries"),
        ({"state_dict": {}}, "entry 'state_dict' is a dict"),
        (Path("x"), "contains a str; expected a mapping"),  # a path is read as its text
        (datetime.timedelta(1), r"datetime\.timedelta"),
        (Evil(__import__("_codecs").encode, "a", "rot13"), "the encoding 'rot13'"),
    ],
)
def test_other_contents_are_named(tmp_path: Path, payload: Any, message: str) -> None:
    path = tmp_path / "weights.pkl"
    path.write_bytes(pickle.dumps(payload, protocol=4))
    with pytest.raises(UserError, match=message):
        read_state(path)


@pytest.mark.parametrize("write", [pickle.dumps, legacy, zipped])
@pytest.mark.parametrize("share", [0.02, 0.3, 0.6, 0.99])
def test_truncated_files_are_told(tmp_path: Path, write: Any, share: float) -> None:
    path = tmp_path / "weights.pth"
    data = write({"a": torch.zeros(100), "b": torch.ones(50)})
    path.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(UserError, match="incomplete"):
        read_state(path)


def test_a_zip_of_something_else(tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("readme.txt", "hello")
    with pytest.raises(UserError, match=r"without PyTorch's data\.pkl"):
        read_state(path)


def test_a_tensor_beyond_its_storage(tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    small = torch.zeros(1).expand(1000)  # torch.save stores one number and the size 1000
    torch.save({"a": small}, path)
    with pytest.raises(UserError, match="larger than its storage"):
        read_state(path)


def refused(path: Path, data: bytes, message: str) -> None:
    path.write_bytes(data)
    with pytest.raises(UserError, match=message):
        read_state(path)


def test_a_claimed_length_makes_no_room(tmp_path: Path) -> None:
    for claim in (b"\x8e" + (1 << 40).to_bytes(8, "little"), b"B" + (1 << 31).to_bytes(4, "little")):
        refused(tmp_path / "weights.pkl", b"\x80\x04" + claim + b"short.", "incomplete")


def test_a_claimed_memo_index_makes_no_room(tmp_path: Path) -> None:
    path = tmp_path / "weights.pkl"
    names = pickle.dumps({"a": np.zeros(2, dtype=np.float32)}, protocol=2)
    far = names.replace(b"q\x00", b"r\xff\xff\xff\x7f", 1)  # would take 32 GB as an array of pointers
    assert far != names
    path.write_bytes(far)
    assert list(read_state(path)) == ["a"]


def test_one_storage_for_very_many_entries_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    shared = torch.zeros(1 << 18)
    torch.save({f"entry {index}": shared for index in range(100)}, path)
    with pytest.raises(UserError, match="expands to over 8 times its size"):
        read_state(path)
    torch.save({f"entry {index}": shared for index in range(5)}, path)
    assert len(read_state(path)) == 5  # tied weights


def test_tuples_that_repeat_themselves_do_not_hang(tmp_path: Path) -> None:
    twice = b"2\x86"  # a tuple with the last object twice
    refused(tmp_path / "weights.pkl", b"\x80\x02})" + twice * 60 + b"K\x01s.", "a tuple as a key")


def test_objects_of_mmengine_keep_nothing(tmp_path: Path) -> None:
    skipped = b"cmmengine.logging.history_buffer\nHistoryBuffer\n"
    weights = pickle.dumps(np.zeros(2, dtype=np.float32), protocol=2)[2:-1]
    made = b"\x80\x02}(X\x01\x00\x00\x00a" + weights + b"X\x01\x00\x00\x00b" + skipped + b")\x81}b"
    refused(tmp_path / "weights.pkl", made + b"u.", "entry 'b' is a _Skipped")
    changed = b"\x80\x02" + skipped + b"}X\x08\x00\x00\x00__call__K\x01sb."
    refused(tmp_path / "weights.pkl", changed, "a change of a type")
    method = b"\x80\x02cbuiltins\ngetattr\n" + skipped + b"X\x09\x00\x00\x00__class__\x86R."
    refused(tmp_path / "weights.pkl", method, "contains a NoneType")


def test_noise_is_no_pickle(tmp_path: Path) -> None:
    path = tmp_path / "weights.pkl"
    for seed in range(50):
        path.write_bytes(np.random.default_rng(seed).bytes(200))
        with pytest.raises(UserError):
            read_state(path)


def archive_of(change: Any = None, **entries: bytes) -> bytes:
    """What ``torch.save`` writes for a tensor of two numbers, but with these entries; empty ones are left out."""
    with zipfile.ZipFile(io.BytesIO(zipped({"a": torch.ones(2)}))) as archive:
        found = {name.partition("/")[2]: archive.read(name) for name in archive.namelist()}
    found |= {name.replace("__", "/"): content for name, content in entries.items()}
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name, content in found.items():
            if content or name not in entries:
                archive.writestr(f"archive/{name}", content)
        if change is not None:
            change(archive)
    return stream.getvalue()


def named_often(archive: zipfile.ZipFile) -> None:
    """Add many names for one entry of the archive."""
    for number in range(99):
        entry = copy.copy(archive.filelist[0])
        entry.filename = f"archive/{number}"
        archive.filelist.append(entry)


def legacy_of_another_size() -> bytes:
    """A file in the legacy format whose tensor of two numbers claims to have three."""
    content = legacy({"a": torch.ones(2)})
    assert content[-16:-8] == (2).to_bytes(8, "little")
    return content[:-16] + (3).to_bytes(8, "little") + content[-8:]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (
            pickle.dumps({"a": Evil(_utils._rebuild_tensor_v2, 1, 0, (2,), (1,), False, None)}),
            "without a storage",
        ),
        (
            pickle.dumps({"a": Evil(torch.storage._load_from_bytes, legacy({"a": 1}))}),
            "a storage that contains something",
        ),
        (pickle.dumps({"a": Evil(torch.storage._load_from_bytes, b"x" * 99)}), "unknown format"),
        (b"\x80\x02X\x01\0\0\0aQ.", "a reference to data outside of the file"),
        (archive_of(byteorder=b"big"), "byte order of another processor"),
        (archive_of(data__0=b""), "a storage '0' that is absent"),
        (archive_of(data__0=b"123"), "a storage '0' that is absent or of a different size"),
        (archive_of(named_often), "that overlap"),
        (archive_of(lambda file: file.writestr("archive/x", b"0" * 99, zipfile.ZIP_DEFLATED)), "compressed entries"),
        (legacy_of_another_size(), "a storage '.*' of a different size"),
    ],
)
def test_what_no_torch_writes_is_told(content: bytes, words: str, tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    path.write_bytes(content)
    with pytest.raises(UserError, match=rf"weights\.pth: .*{words}"):
        read_state(path)


def test_checkpoints_of_trainings_hold_tensors_and_plain_containers(tmp_path: Path) -> None:
    torch.save({"state_dict": {"a": torch.ones(2)}, "epoch": 3}, tmp_path / "last.ckpt")
    check_archive(tmp_path / "last.ckpt")
    torch.save({"a": print}, tmp_path / "evil.ckpt")
    with pytest.raises(ValueError, match=r"refers to .*print"):
        check_archive(tmp_path / "evil.ckpt")
    (tmp_path / "cut.ckpt").write_bytes(b"PK\x03\x04")
    with pytest.raises(ValueError, match="it is incomplete"):
        check_archive(tmp_path / "cut.ckpt")
