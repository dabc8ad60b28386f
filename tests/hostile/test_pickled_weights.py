"""Pickles and archives of weights that try to run code, exhaust memory or never end: one error, and soon."""

from __future__ import annotations

import io
import pickle
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mask2former.checkpoints.load import read
from mask2former.checkpoints.restricted_pickle import TORCH_LEGACY_MAGIC, read_state
from mask2former.data.array_files import read_array
from mask2former.errors import UserError

HEAD = b"\x80\x04"
DOUBLED = b"]" + b"2\x86" * 60  # sixty tuples, each of which holds the last one twice
DOUBLED_LISTS = b"]\x94" + b"".join(b"0](h" + bytes([at]) + b"h" + bytes([at]) + b"e\x94" for at in range(60))
DEEP = b")" + b"\x85" * 40_000  # tuples in tuples; to hash 20,000 fills the stack that `limited` leaves
DEEP_LISTS = b"]" * 40_000 + b"a" * 39_999
DEEP_MAPPINGS = b"}" + b"X\x01\x00\x00\x00a}" * 40_000 + b"s" * 40_000
ENCODE = b"c_codecs\nencode\n"
DTYPE = b"cnumpy\ndtype\n"
SCALAR = b"cnumpy.core.multiarray\nscalar\n"
FROMBUFFER = b"cnumpy.core.numeric\n_frombuffer\n"
FLOAT = DTYPE + b"X\x02\x00\x00\x00f4\x85R"


def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value.encode())) + value.encode()


def as_key(code: bytes) -> bytes:
    """The opcodes of a mapping with this object as a key."""
    return b"}" + code + b"K\x01s"


def as_entry(code: bytes) -> bytes:
    return b"}" + text("a") + code + b"s"


def called(function: bytes, *arguments: bytes) -> bytes:
    return function + b"(" + b"".join(arguments) + b"tR"


def storage(key: bytes, count: bytes = b"K\x01") -> bytes:
    return b"(" + text("storage") + b"ctorch\nFloatStorage\n" + key + text("cpu") + count + b"tQ"


def tensor(key: bytes, size: bytes = b"K\x01\x85", stride: bytes = b"K\x01\x85", offset: bytes = b"K\x00") -> bytes:
    return called(b"ctorch._utils\n_rebuild_tensor_v2\n", storage(key), offset, size, stride)


PICKLES: dict[str, bytes] = {
    "deep tuples as a key": as_key(DEEP),
    "deep tuples as an entry": as_entry(DEEP),
    "deep tuples as arguments": called(b"ccollections\nOrderedDict\n", DEEP),
    "deep tuples in a set": b"\x8f(" + DEEP + b"\x90",
    "deep tuples in a frozen set": b"(" + DEEP + b"\x91",
    "deep tuples as pairs": called(b"cbuiltins\ndict\n", b"](" + DEEP + b"K\x01\x86e"),
    "deep tuples as text": called(b"cbuiltins\nstr\n", DEEP),
    "deep tuples as a state": b"ccollections\nOrderedDict\n)R" + DEEP + b"b",
    "deep tuples as a type": called(DTYPE, DEEP),
    "deep tuples as a shape": called(FROMBUFFER, text("abcd"), FLOAT, DEEP, text("C")),
    "deep lists": as_entry(DEEP_LISTS),
    "deep lists as a name": as_key(DEEP_LISTS),
    "deep mappings": DEEP_MAPPINGS,
    "doubled tuples as a key": as_key(DOUBLED),
    "doubled tuples as an entry": as_entry(DOUBLED),
    "doubled lists as a type": called(DTYPE, DOUBLED_LISTS),
    "doubled lists as an encoding": called(ENCODE, text("a"), DOUBLED_LISTS),
    "doubled lists as an order": called(FROMBUFFER, text("abcd"), FLOAT, b")", DOUBLED_LISTS),
    "doubled lists as a name": as_key(DOUBLED_LISTS),
    "doubled lists as a whole number": called(b"cbuiltins\nint\n", DOUBLED_LISTS),
    "doubled lists as a number": called(b"cbuiltins\ncomplex\n", DOUBLED_LISTS),
    "doubled lists as a byte order": FLOAT
    + b"(K\x03"
    + DOUBLED_LISTS
    + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb",
    "doubled lists as the whole": DOUBLED_LISTS,
    "frozen sets in frozen sets": b"(\x91" + b"".join(b"\x94(h" + bytes([at]) + b"\x91" for at in range(60)),
    "deep frozen sets": b"(\x91" + b"".join(b"\x94(j" + struct.pack("<I", at) + b"\x91" for at in range(50_000)),
    "a list that holds itself": b"]\x94h\x00ah\x00K\x01\x86\x85",
    "a mapping that holds itself": b"}\x94" + text("model") + b"h\x00s",
    "numbers that collide": b"}("
    + b"".join(b"\x8a\x10" + ((2**61 - 1) * at).to_bytes(16, "little", signed=True) + b"N" for at in range(1, 60_000))
    + b"u",
    "colliding members": b"\x8f("
    + b"".join(b"\x8a\x10" + ((2**61 - 1) * at).to_bytes(16, "little", signed=True) for at in range(1, 60_000))
    + b"\x90",
    "a number of a million bytes as a key": as_key(b"\x8b" + struct.pack("<i", 1 << 20) + b"\x7f" * (1 << 20)),
    "a long number as text, often": b"(\x8b"
    + struct.pack("<i", 1700)
    + b"\x7f" * 1700
    + b"\x94"
    + b"h\x00" * 100_000
    + b"t\x940]("
    + b"cpathlib\nPosixPath\nh\x01R" * 3
    + b"e",
    "long arguments, often": b"("
    + b"N" * 150_000
    + b"t\x94"
    + b"cnumpy.core.multiarray\n_reconstruct\n\x94"
    + b"]("
    + b"h\x01h\x00R" * 20_000
    + b"e",
    "a text as the state of many arrays": text("a" * (1 << 20))
    + b"\x94(K\x01(J"
    + struct.pack("<i", 1 << 20)
    + b"t"
    + FLOAT
    + b"\x89h\x00t\x94cnumpy.core.multiarray\n_reconstruct\n\x94]("
    + b"h\x02)Rh\x01b" * 1000
    + b"e",
    "a number of a million digits": b"I" + b"9" * 1_000_000 + b"\n",
    "text copied without end": text("x" * (1 << 20))
    + b"\x94"
    + (ENCODE + b"h\x00" + text("latin1") + b"\x86R0") * 20_000,
    "lists copied without end": b"]("
    + b"N" * 10_000
    + b"e\x94"
    + b"cbuiltins\nlist\n\x94"
    + b"h\x01h\x00\x85R" * 100_000,
    "sets copied without end": b"]("
    + b"N" * 10_000
    + b"e\x94"
    + b"cbuiltins\nset\n\x94"
    + b"h\x01h\x00\x85R" * 100_000,
    "mappings without end": b"}" * 2_000_000,
    "sets without end": b"\x8f" * 2_000_000,
    "lists in the memo without end": b"]\x94" * 1_000_000,
    "more bytes than there are": b"\x96" + struct.pack("<Q", 1 << 40),
    "more text than there is": b"\x8d" + struct.pack("<Q", 1 << 62),
    "a longer frame than there is": b"\x95" + struct.pack("<Q", 1 << 50),
    "frames without content": (b"\x95" + struct.pack("<Q", 0)) * 100_000,
    "a memo at the end of memory": b"]r\xff\xff\xff\xff" + b"]r\xfe\xff\xff\xff",
    "text as a size": as_entry(tensor(text("0"), size=text("a" * 100_000) + b"M\xff\xff\x86")),
    "text as a size of an array": as_entry(called(FROMBUFFER, text("abcd"), FLOAT, text("a" * 9), text("C"))),
    "text of a gigabyte": as_entry(called(SCALAR, called(DTYPE, text("U268435456")), text(""))),
    "a huge and empty array": as_entry(
        called(FROMBUFFER, text(""), FLOAT, b"K\x00\x8a\x08" + b"\xff" * 7 + b"\x7f\x86", text("C"))
    ),
    "an array of a thousand dimensions": as_entry(
        called(FROMBUFFER, text("abcd"), FLOAT, b"(" + b"K\x01" * 1000 + b"t", text("C"))
    ),
    "a tensor without a storage file": as_entry(tensor(text("0"))),
    "a storage under deep tuples": as_entry(tensor(DEEP)),
    "a storage under doubled lists": as_entry(tensor(DOUBLED_LISTS)),
    "escape sequences as a module": b"c\x1b[2J\x1b]0;owned\x07\nsystem\n",
    "a module of a megabyte": b"c" + b"x" * (1 << 20) + b"\nsystem\n",
    "a change of an array": called(FROMBUFFER, b"\x96" + struct.pack("<Q", 4) + b"abcd", FLOAT, b"K\x01\x85", text("C"))
    + b"K\x00K\x01s",
    "a change of a list by a mapping's way": b"]N\x61K\x00K\x01s",
    "attributes of a storage": storage(text("0")) + b"}" + text("_read") + ENCODE + b"sb",
    "an extension": b"\x82\x01",
    "an object of old style": b"(ccollections\nOrderedDict\no",
    "an instance of old style": b"(ios\nsystem\n",
    "a new object of another kind": b"ccollections\nOrderedDict\n)\x81",
    "the name of an entry of a megabyte": as_key(text("x" * (1 << 20))),
}


def zipped(pickled: bytes, **others: bytes) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("archive/data.pkl", HEAD + pickled + b".")
        for name, content in others.items():
            archive.writestr(f"archive/data/{name}", content)
    return stream.getvalue()


def legacy(*pickles: bytes) -> bytes:
    return TORCH_LEGACY_MAGIC + b"".join(HEAD + code + b"." for code in pickles)


def plain(pickled: bytes) -> bytes:
    return HEAD + pickled + b"."


def refusals(path: Path) -> str:
    sentences = []
    for reader in (read_state, read):
        with pytest.raises(UserError) as caught:
            reader(path)
        sentences.append(str(caught.value))
    return "\n".join(sentences)


def attacked(path: Path, content: bytes, limited: Any, *, seconds: float = 10, megabytes: int = 500) -> str:
    """Check that every way of reading refuses the file in one sentence, and return the sentences."""
    path.write_bytes(content)
    outcome = limited(lambda: refusals(path), seconds=seconds, megabytes=megabytes)
    assert outcome.kind == "returned", outcome
    for sentence in outcome.message.splitlines():
        assert str(path) in sentence
        assert len(sentence.replace(str(path), "")) < 600
        assert sentence.isprintable()
    return outcome.message


# Slow: these, too, end by the count of steps; sets and lists in the memo take more room for each.
MORE_WITHOUT_END = ("mappings without end",)


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[pytest.mark.slow] if name in MORE_WITHOUT_END else []) for name in PICKLES],
)
def test_pickles(name: str, tmp_path: Path, limited: Any) -> None:
    attacked(tmp_path / "weights.pkl", plain(PICKLES[name]), limited)


@pytest.mark.parametrize(
    "name", ["deep tuples as a key", "a storage under deep tuples", "a storage under doubled lists", "text as a size"]
)
@pytest.mark.parametrize("container", [zipped, lambda code: legacy(b"K\x01", b"}", code, b"]")], ids=["zip", "legacy"])
def test_pickles_in_archives(name: str, container: Callable[[bytes], bytes], tmp_path: Path, limited: Any) -> None:
    attacked(tmp_path / "weights.pth", container(PICKLES[name]), limited)


@pytest.mark.parametrize(
    "name",
    [
        "doubled tuples as an entry",
        "mappings without end",
        "more bytes than there are",
        "a long number as text, often",
        "long arguments, often",
        "a text as the state of many arrays",
    ],
)
def test_pickles_in_arrays(name: str, tmp_path: Path, limited: Any) -> None:
    header = b"{'descr': '|O', 'fortran_order': False, 'shape': (), }\n"
    path = tmp_path / "a_seg.npy"
    path.write_bytes(b"\x93NUMPY\x01\0" + struct.pack("<H", len(header)) + header + plain(PICKLES[name]))

    def refused() -> str:
        with pytest.raises(UserError) as caught:
            read_array(path)
        return str(caught.value)

    outcome = limited(refused, seconds=10, megabytes=500)
    assert outcome.kind == "returned", outcome
    assert str(path) in outcome.message
    assert len(outcome.message.replace(str(path), "")) < 600


def test_archives_of_a_million_entries(tmp_path: Path, limited: Any) -> None:
    names = [f"archive/data/{index}".encode() for index in range(160_000)]
    directory = b"".join(struct.pack("<4s4B4HL2L5H2L", b"PK\x01\x02", 20, 3, 20, 0, 0, 0, 0, 33, 0, 0, 0, len(name),
                                     0, 0, 0, 0, 0, 0) + name for name in names)  # fmt: skip
    first = zipped(b"}")
    start = first.index(b"PK\x01\x02")
    end = struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, 0xFFFF, 0xFFFF, len(directory), start, 0)
    message = attacked(tmp_path / "weights.pth", first[:start] + directory + end, limited)
    assert "its zip directory has too many bytes" in message


def test_entries_of_an_archive_that_claim_gigabytes(tmp_path: Path, limited: Any) -> None:
    data = zipped(as_entry(tensor(text("0"), size=b"J\x00\x00\x00\x30\x85")), **{"0": b"x" * 1000})
    claim = struct.pack("<L", 3 << 30)
    entry = data.rindex(b"PK\x01\x02")  # that of the tensor
    for fields in ((24,), (20, 24)):  # the size, or the size in the archive, too
        changed = bytearray(data)
        for field in fields:
            changed[entry + field : entry + field + 4] = claim
        attacked(tmp_path / "weights.pth", bytes(changed), limited)


def test_compressed_archives(tmp_path: Path, limited: Any) -> None:
    path = tmp_path / "weights.pth"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", HEAD + as_entry(tensor(text("0"))) + b".")
        with archive.open("archive/data/0", "w", force_zip64=True) as stream:
            for _ in range(64):
                stream.write(bytes(1 << 20))
    assert "compressed entries" in attacked(path, path.read_bytes(), limited, megabytes=100)


def test_entries_that_lie_in_each_other(tmp_path: Path, limited: Any) -> None:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("archive/data.pkl", HEAD + b"}.")
        archive.writestr("archive/data/0", bytes(1 << 20))
        known = archive.infolist()[-1]
        for index in range(1, 100):
            twin = zipfile.ZipInfo(f"archive/data/{index}")
            twin.header_offset, twin.file_size, twin.compress_size = known.header_offset, 1 << 20, 1 << 20
            twin.CRC = known.CRC
            archive.filelist.append(twin)
            archive.NameToInfo[twin.filename] = twin
    assert "that overlap" in attacked(tmp_path / "weights.pth", stream.getvalue(), limited)


def test_storages_in_storages(tmp_path: Path, limited: Any) -> None:
    inner = legacy(b"K\x01", b"}", b"K\x01", b"]")
    for _ in range(200):
        load = called(b"ctorch.storage\n_load_from_bytes\n", b"B" + struct.pack("<I", len(inner)) + inner)
        inner = legacy(b"K\x01", b"}", load, b"]")
    load = called(b"ctorch.storage\n_load_from_bytes\n", b"B" + struct.pack("<I", len(inner)) + inner)
    assert "_load_from_bytes" in attacked(tmp_path / "weights.pkl", plain(as_entry(load)), limited)


@pytest.mark.parametrize("keys", [b"](" + DEEP + b"e", b"](" + DOUBLED + b"e", b"]]a", b"](" + text("0") * 3 + b"e"])
def test_keys_of_legacy_storages(keys: bytes, tmp_path: Path, limited: Any) -> None:
    attacked(tmp_path / "weights.pth", legacy(b"K\x01", b"}", as_entry(tensor(text("0"))), keys), limited)


STRANGE: dict[str, Any] = {
    "meta": torch.empty(3, device="meta"),
    "complex": torch.zeros(2, dtype=torch.complex64),
    "complex array": np.zeros(2, np.complex64),
    "long double": np.zeros(2, np.longdouble),
    "float8": torch.zeros(2).to(torch.float8_e4m3fn),
    "sparse": torch.sparse_coo_tensor(
        torch.zeros(1, 1, dtype=torch.int64), torch.ones(1), (2,), check_invariants=False
    ),
    "a layer": torch.nn.Linear(1, 1),
    "nothing": None,
}


@pytest.mark.parametrize("name", STRANGE)
@pytest.mark.parametrize("is_zip", [True, False], ids=["zip", "legacy"])
@pytest.mark.filterwarnings("ignore")
def test_tensors_of_other_kinds(name: str, is_zip: bool, tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    torch.save({"model": {"a": STRANGE[name]}}, path, _use_new_zipfile_serialization=is_zip)
    for reader in (read_state, read):
        with pytest.raises(UserError, match=r"entry 'a' is|refers to|not a readable") as caught:
            reader(path)
        assert len(str(caught.value)) < 400


def test_too_many_entries(tmp_path: Path) -> None:
    path = tmp_path / "weights.pkl"
    path.write_bytes(pickle.dumps(dict.fromkeys(map(str, range(30_000)), np.float32(1))))
    with pytest.raises(UserError, match="it has too many entries: 30,000; at most 20,000"):
        read_state(path)


@pytest.mark.parametrize("reader", [read_state, read])
def test_files_that_never_end(reader: Callable[[Path], object], tmp_path: Path, limited: Any) -> None:
    import os

    pipe, circle = tmp_path / "pipe.pkl", tmp_path / "circle.pth"
    os.mkfifo(pipe)
    circle.symlink_to(circle)
    for path in (pipe, Path("/dev/zero"), circle, tmp_path / "absent.pkl", tmp_path / ("x" * 5000)):
        outcome = limited(lambda path=path: reader(path), seconds=5)
        assert outcome.kind == "UserError", outcome
