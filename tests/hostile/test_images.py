"""Hostile images: no code runs, sizes are checked before the work, and errors are one sentence."""

from __future__ import annotations

import ast
import os
import re
import struct
import time
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import mask2former
from mask2former import limits
from mask2former.data.label_maps import count_labels, read_id_colors, read_label_map
from mask2former.errors import UserError
from mask2former.media import image_files
from mask2former.media.frames import open_frames
from mask2former.media.images import image_size, list_images, read_image
from mask2former.notes import collect_notes, sentences

SECONDS = 5  # of which most is room for a busy machine


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png(width: int, height: int, depth: int = 8, extra: bytes = b"", pixels: bytes | None = None) -> bytes:
    if pixels is None:
        pixels = zlib.compress((b"\0" + bytes((width * depth + 7) // 8)) * height, 9)
    header = struct.pack(">IIBBBBB", width, height, depth, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + extra + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def tiff(pages: int = 1, **tags: tuple[int, int, int]) -> bytes:
    """Pages of 2x2 grey pixels; ``tags``, as ``t258``, replace the (type, count, value) of the first page."""
    content = bytearray(b"II*\0" + struct.pack("<I", 8))
    for page in range(pages):
        entries = {256: (4, 1, 2), 257: (4, 1, 2), 258: (3, 1, 8), 259: (3, 1, 1), 262: (3, 1, 1)}
        entries |= {273: (4, 1, 0), 277: (3, 1, 1), 278: (4, 1, 2), 279: (4, 1, 4)}
        entries |= {int(name[1:]): entry for name, entry in tags.items()} if page == 0 else {}
        end = len(content) + 2 + 12 * len(entries) + 4
        entries[273] = entries[273] if entries[273][2] else (4, 1, end)
        content += struct.pack("<H", len(entries))
        content += b"".join(struct.pack("<HHII", number, *entries[number]) for number in sorted(entries))
        content += struct.pack("<I", end + 4 if page + 1 < pages else 0) + b"\1\2\3\4"
    return bytes(content)


def gif(frames: int) -> bytes:
    frame = b"\x2c\0\0\0\0\2\0\2\0\0\2\3\x44\x02\x05\0"
    return b"GIF89a\2\0\2\0\x80\0\0\0\0\0\xff\xff\xff" + frames * frame + b";"


def bitmap(width: int, height: int) -> bytes:
    return b"BM" + struct.pack("<IHHI", 100, 0, 0, 54) + struct.pack("<IiiHHIIiiII", 40, width, height, 1, 24, *[0] * 6)


BOMB = zlib.compress(bytes(8 << 20), 9)

REFUSED: dict[str, tuple[bytes, str]] = {
    "PostScript": (
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n",
        "PostScript",
    ),
    "binary EPS": (b"\xc5\xd0\xd3\xc6" + bytes(40), "PostScript"),
    "PDF": (b"%PDF-1.7\n1 0 obj\n", "PDF"),
    "FITS": (b"SIMPLE  =                    T".ljust(80) + b"END".ljust(2800), "is not an image"),
    "Photoshop": (b"8BPS\0\1" + bytes(6) + struct.pack(">HIIHH", 3, 2, 2, 8, 3) + bytes(64), "is not an image"),
    "Windows metafile": (b"\xd7\xcd\xc6\x9a" + bytes(40), "is not an image"),
    "icons": (b"icns" + struct.pack(">I", 8), "is not an image"),
    "icon": (b"\0\0\1\0\1\0" + bytes(16), "is not an image"),
    "GRIB": (b"GRIB" + bytes(40), "is not an image"),
    "HDF5": (b"\x89HDF\r\n\x1a\n" + bytes(40), "is not an image"),
    "AVIF": (b"\0\0\0\x1cftypavif" + bytes(60), "it is AVIF|cannot be decoded"),
    "wide, some kilobytes": (png(89_000_000, 1, 1), "89,000,000; at most 200,000"),
    "high, some kilobytes": (png(1, 400_000, 1), "400,000; at most 200,000"),
    "beyond Pillow's limit": (png(10_000, 10_000, 1), "safety limit"),
    "claims pixels": (bitmap(9000, 9000), "cut short"),
    "claims negative size": (bitmap(-5, -5), "cut short|not an image|safety limit"),
    "compressed text": (png(4, 4, extra=chunk(b"zTXt", b"a\0\0" + BOMB)), "too large"),
    "compressed text, international": (png(4, 4, extra=chunk(b"iTXt", b"a\0\1\0\0\0" + BOMB)), "too large"),
    "compressed profile": (png(4, 4, extra=chunk(b"iCCP", b"a\0\0" + BOMB)), "too large"),
    "many texts": (png(4, 4, extra=chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(1_000_000))) * 80), "too much memory"),
    "strips without end": (tiff(t273=(4, 2**31, 200), t279=(4, 2**31, 200)), "unusual kind|cut short"),
    "tiles without end": (tiff(t322=(4, 1, 2**31 - 16), t323=(4, 1, 2**31 - 16), t259=(3, 1, 5)), "decoded"),
    "bands without end": (tiff(t277=(3, 1, 60_000)), "unusual kind|cut short"),
    "comments without end": (b"P6\n#" + b"x" * 20_000_000 + b"\n2 2\n255\n" + bytes(12), "comments of more than 4,096"),
    "many comments": (b"P5" + b"\n#x" * 2000 + b"\n2 2\n255\n" + bytes(4), "comments of more than 4,096"),
    "millions of chunks": (png(4, 4, extra=chunk(b"junk", b"") * 800_000), "4x4 pixels .* has too many bytes: 9,6"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_image_that_is_read_is_refused_in_a_sentence(name: str, tmp_path: Path) -> None:
    content, message = REFUSED[name]
    path = tmp_path / "a.png"
    path.write_bytes(content)
    start = time.perf_counter()
    with pytest.raises(UserError, match=f"(?i){message}") as caught:
        read_image(path)
    assert "\n" not in str(caught.value)
    for read in (read_label_map, read_id_colors):
        with pytest.raises(UserError):
            read(path)
    assert time.perf_counter() - start < SECONDS


READ: dict[str, tuple[bytes, str]] = {
    "pages": (tiff(5000), "1000 or more"),
    "some pages": (tiff(7), r"\(7\)"),
    "frames": (gif(200_000), "2 or more"),
    "one frame": (gif(1), ""),
    "pixels that are left over": (png(4, 4, pixels=BOMB), ""),
}


@pytest.mark.parametrize("name", READ)
def test_what_is_long_but_right_is_read_in_no_time(name: str, tmp_path: Path) -> None:
    content, message = READ[name]
    path = tmp_path / "a.png"
    path.write_bytes(content)
    start = time.perf_counter()
    with collect_notes() as notes:
        assert read_image(path).shape in ((2, 2, 3), (4, 4, 3))
    assert time.perf_counter() - start < SECONDS
    assert len(notes) == bool(message)
    assert re.search(message, "".join(sentences(notes)))


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="POSIX")
@pytest.mark.parametrize("kind", ["pipe", "device", "folder", "link in a circle"])
def test_what_is_no_regular_file_is_not_opened(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    elif kind == "folder":
        path.mkdir()
    else:
        path.symlink_to(path)
    readers: list[Callable[[Path], object]] = [read_image, image_size, read_label_map, read_id_colors, count_labels]
    for read in readers:
        with pytest.raises(UserError, match=f"is a {kind}|cannot be read|no image"):
            read(path)
    if kind != "folder":
        with pytest.raises(UserError, match=f"is a {kind}|cannot be read|no image"):
            list_images([path])
        with pytest.raises(UserError, match=r"contains no images"):
            list_images([tmp_path])
        with pytest.raises(UserError, match=r"is a|no video|cannot be read|contains no images"):
            open_frames(path.rename(tmp_path / "a.mp4"))


def test_arrays_of_absurd_shape_are_refused_before_they_are_copied() -> None:
    for shape in ((1 << 20, 1 << 20), (1 << 20, 1 << 20, 3), (2, 1 << 40, 4)):
        with pytest.raises(UserError, match="has too many pixels"):
            read_image(np.broadcast_to(np.uint8(0), shape))


def test_all_formats_that_are_read_are_known_to_pillow() -> None:
    Image.init()
    assert set(image_files.FORMATS) <= set(Image.OPEN)
    assert not set(image_files.FORMATS) & {"EPS", "PDF", "PSD", "FITS", "WMF", "ICNS", "ICO", "GRIB", "HDF5", "BUFR"}
    assert limits.IMAGE_SIDE > 65_535  # what JPEG can have


def test_images_are_opened_in_one_place() -> None:
    root = Path(mask2former.__file__).parent
    found = []
    for file in root.rglob("*.py"):
        text = file.read_text(encoding="utf-8")
        for node in ast.walk(ast.parse(text)) if "PIL" in text else ():
            if isinstance(node, ast.Call) and ast.unparse(node.func) in ("Image.open", "PIL.Image.open"):
                found.append((file.relative_to(root).as_posix(), [word.arg for word in node.keywords]))
            if isinstance(node, ast.ImportFrom) and node.module == "PIL.Image":
                found.append((file.name, [name.name for name in node.names]))
    assert found == [("media/image_files.py", ["formats"])]
