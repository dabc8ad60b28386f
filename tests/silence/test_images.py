"""Every kind of pixels is read correctly, with a note of what was inferred or left out, or rejected in a sentence."""

import json
import os
import re
import struct
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from PIL import Image

from mask2former.data.datasets.coco import CocoInstances
from mask2former.data.label_maps import read_label_map
from mask2former.errors import UserError
from mask2former.media.images import check_size, image_size, list_images, read_image
from mask2former.notes import collect_notes, sentences
from mask2former.structures import Categories, SemanticSegmentation

H, W = 30, 40
RAMP = np.linspace(0, 1, H * W).reshape(H, W)  # from black to white
BYTES = np.rint(RAMP * 255).astype(np.uint8)


def spread(top: float) -> np.ndarray:
    return RAMP * top


def with_one(values: np.ndarray, value: float) -> np.ndarray:
    values = values.copy()
    values[H // 2, W // 2] = value
    return values


def whole(top: int, kind: type[np.integer[Any]] = np.uint16) -> np.ndarray:
    return np.rint(RAMP * top).astype(kind)


class Row(NamedTuple):
    """The input (a value, or a function of a folder), and the expected pixels, note or error."""

    given: Any
    pixels: np.ndarray | None = None  # grey, within one step
    note: str = ""  # must be in it; empty: there is none
    refused: str = ""
    settings: dict[str, Any] = {}  # noqa: RUF012


def save(values: np.ndarray | Image.Image, name: str, **options: Any) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        image = values if isinstance(values, Image.Image) else Image.fromarray(values)
        image.save(folder / name, **options)
        return folder / name

    return make


def tags(**values: Any) -> dict[int, Any]:
    numbers = {"bits": 258, "photometric": 262, "description": 270, "orientation": 274, "maximum": 281, "smaximum": 341}
    return {numbers[name]: value for name, value in values.items()}


def twelve_bits(folder: Path) -> Path:
    """A TIFF whose values take 12 bits each, two in three bytes."""
    values = whole(4095) // 4  # none above 1023, and the file says 12 bits
    pairs = values.astype(np.uint16).reshape(-1, 2)
    packed = np.stack([pairs[:, 0] >> 4, (pairs[:, 0] & 15) << 4 | pairs[:, 1] >> 8, pairs[:, 1] & 255], axis=1).astype(
        np.uint8
    )
    entries = [(256, W), (257, H), (258, 12), (259, 1), (262, 1), (273, 8), (277, 1), (278, H), (279, packed.size)]
    directory = struct.pack("<H", len(entries)) + b"".join(struct.pack("<HHII", t, 4, 1, v) for t, v in entries)
    path = folder / "12.tif"
    path.write_bytes(struct.pack("<2sHI", b"II", 42, 8 + packed.size) + packed.tobytes() + directory + bytes(4))
    return path


def significant(bits: int, values: np.ndarray) -> Callable[[Path], Path]:
    """A function that writes a PNG with a chunk sBIT."""

    def make(folder: Path) -> Path:
        path = save(values, "s.png")(folder) if values.ndim == 2 else png_16(values)(folder)
        body = b"sBIT" + bytes([bits])
        chunk = struct.pack(">I", 1) + body + struct.pack(">I", zlib.crc32(body))
        content = path.read_bytes()
        path.write_bytes(content[:33] + chunk + content[33:])
        return path

    return make


def pages(name: str, count: int = 3, **options: Any) -> Callable[[Path], Path]:
    first = Image.fromarray(BYTES)
    others = [Image.fromarray(255 - BYTES + number) for number in range(count - 1)]
    return save(first, name, save_all=True, append_images=others, **options)


def png_16(values: np.ndarray, transparent: tuple[int, ...] = ()) -> Callable[[Path], Path]:
    """A PNG of 16 bits per channel and any number of channels (Pillow writes only grey)."""
    values = np.atleast_3d(values)

    def make(folder: Path) -> Path:
        def chunk(kind: bytes, body: bytes) -> bytes:
            return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

        rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
        kind = {1: 0, 2: 4, 3: 2, 4: 6}[values.shape[2]]
        chunks = [chunk(b"IHDR", struct.pack(">IIBBBBB", W, H, 16, kind, 0, 0, 0))]
        if transparent:
            chunks.append(chunk(b"tRNS", struct.pack(f">{len(transparent)}H", *transparent)))
        chunks += [chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b"")]
        path = folder / "c.png"
        path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(chunks))
        return path

    return make


def tiff(values: np.ndarray, photometric: int, kind: int = 1, planar: int = 1) -> Callable[[Path], Path]:
    """An uncompressed TIFF of any type; ``kind`` 1 is unsigned, 2 signed, 3 float."""
    values = np.atleast_3d(values)
    bands, size = values.shape[2], values.itemsize

    def make(folder: Path) -> Path:
        bits, kinds, starts, counts = 8, 8 + 2 * bands, 8 + 4 * bands, 8 + 8 * bands
        begin = 8 + 12 * bands
        strips = bands if planar == 2 else 1
        length = values.nbytes // strips
        header = struct.pack(f"<{bands}H{bands}H", *[8 * size] * bands, *[kind] * bands)
        header += struct.pack(f"<{bands}I{bands}I", *[begin + n * length for n in range(bands)], *[length] * bands)
        body = (values.transpose(2, 0, 1) if planar == 2 else values).astype(values.dtype.newbyteorder("<")).tobytes()

        def of_bands(tag: int, at: int, value: int) -> tuple[int, int, int, int]:
            return (tag, 3, bands, at if bands > 2 else value * 65537)  # up to two fit into the entry

        entries = [(256, 4, 1, W), (257, 4, 1, H), of_bands(258, bits, 8 * size), (259, 3, 1, 1)]
        entries += [(262, 3, 1, photometric), (273, 4, strips, starts if strips > 1 else begin), (277, 3, 1, bands)]
        entries += [(278, 4, 1, H), (279, 4, strips, counts if strips > 1 else length), (284, 3, 1, planar)]
        entries += [(338, 3, 2, 0)] if bands == 5 else []
        entries += [of_bands(339, kinds, kind)]
        directory = struct.pack("<H", len(entries)) + b"".join(struct.pack("<HHII", *entry) for entry in entries)
        path = folder / "t.tif"
        path.write_bytes(struct.pack("<2sHI", b"II", 42, begin + len(body)) + header + body + directory + bytes(4))
        return path

    return make


def bands(*values: np.ndarray | float, kind: Any = np.uint16) -> np.ndarray:
    """An image of these channels; a number means the same value everywhere."""
    return np.dstack([np.broadcast_to(value, (H, W)) for value in values]).astype(kind)


def alpha(values: np.ndarray) -> Image.Image:
    return Image.fromarray(np.dstack([BYTES, BYTES, BYTES, values.astype(np.uint8)]))


def closed(folder: Path) -> Image.Image:
    with Image.open(save(BYTES, "a.png")(folder)) as image:
        pass
    return image


def overshot() -> np.ndarray:
    """Black and white stripes, resampled so that they go beyond their range."""
    stripes = np.tile(np.repeat(np.array([0.02, 0.98], dtype=np.float32), 10), (30, 2))
    image = Image.fromarray(stripes).resize((90, 66), Image.Resampling.BICUBIC)
    return np.asarray(image)


TWO: dict[str, Any] = {"save_all": True, "append_images": [Image.new("RGB", (W, H))]}

ROWS: dict[str, Row] = {
    # floats
    "0..1": Row(spread(1), BYTES),
    "0..1 and a rounding above": Row(with_one(spread(1), 1.0000001), with_one(BYTES, 255)),
    "0..1 and a rounding below": Row(with_one(spread(1), -1e-9), with_one(BYTES, 0)),
    "0..1 and an overshoot": Row(with_one(spread(1), 1.02), with_one(BYTES, 255)),
    "0..255 and a rounding above": Row(with_one(spread(255), 255.0001), with_one(BYTES, 255)),
    "0..255 and a rounding below": Row(with_one(spread(255), -1e-9), with_one(BYTES, 0)),
    "0..255 and an overshoot below": Row(with_one(spread(255), -9), with_one(BYTES, 0)),
    "whole numbers, dark": Row(np.rint(spread(3)), (np.rint(spread(3))).astype(np.uint8)),
    "black with few bright pixels": Row(with_one(np.zeros((H, W)), 200.0), with_one(np.zeros((H, W), np.uint8), 200)),
    "half precision": Row(spread(1).astype(np.float16), BYTES),
    "bfloat16": Row(torch.from_numpy(spread(255)).to(torch.bfloat16)[None], BYTES),
    "one outlier in 0..1": Row(with_one(spread(1), 7.5), refused="expected 0..1 or 0..255.*value_range"),
    "high dynamic range": Row(spread(1) ** 8 * 90, refused="value_range"),
    "up to 1.7": Row(spread(1.7), refused="floats from 0 to 1.7.*value_range"),
    "a tenth above 1": Row(spread(1.1), note="beyond 0..1, clipped .*9"),
    "a third above 1": Row(1.1 * RAMP**0.1, refused="value_range"),
    "normalised": Row(spread(4) - 2, refused="not normalised"),
    "-1..1": Row(spread(2) - 1, refused="value_range"),
    "-1..1 with its range": Row(spread(2) - 1, BYTES, settings={"value_range": (-1, 1)}),
    "16 bits as floats": Row(spread(65535), refused=r"65535|6.554e\+04.*value_range"),
    "16 bits as floats with their range": Row(spread(65535), BYTES, settings={"value_range": (0, 65535)}),
    "divided twice by 255": Row(spread(1) / 255, note="all black"),
    "not finite": Row(with_one(spread(1), np.nan), refused="not finite"),
    "float TIFF": Row(save(with_one(spread(1), 1.02).astype(np.float32), "f.tif"), with_one(BYTES, 255)),
    "float TIFF of counts": Row(save(spread(900).astype(np.float32), "f.tif"), refused=r"f\.tif.*value_range"),
    # integers
    "16 bits": Row(whole(65535), BYTES),
    "16 bits, PNG": Row(save(whole(65535), "a.png"), BYTES),
    "10 in 16, array": Row(whole(1023), BYTES, note="below 1024, read as 10 bits"),
    "10 in 16, tensor": Row(torch.from_numpy(whole(1000))[None], None, note="read as 10 bits"),
    "12 in 16, PNG": Row(save(whole(4095), "a.png"), BYTES, note=r"read as 12 bits, 0\.\.4095 .*set value_range"),
    "14 in 16, TIFF": Row(save(whole(16383), "a.tif"), BYTES, note="read as 14 bits"),
    "8 in 16": Row(save(whole(255), "a.tif"), BYTES, note="read as 8 bits"),
    "8 in 32, TIFF": Row(save(whole(255, np.int32), "a.tif"), BYTES, note="read as 8 bits"),
    "16 in 32, TIFF": Row(save(whole(65535, np.int32), "a.tif"), BYTES),
    "12 bits packed": Row(twelve_bits, BYTES // 4),
    "maximum stated": Row(save(whole(1023), "a.tif", tiffinfo=tags(maximum=4095)), BYTES // 4),
    "maximum of the image": Row(save(whole(900), "a.tif", tiffinfo=tags(maximum=900)), note="read as 10 bits"),
    "OME": Row(save(whole(1023), "a.tif", tiffinfo=tags(description='<Pixels SignificantBits="12">')), BYTES // 4),
    "sBIT of raw values": Row(significant(12, whole(1023)), BYTES // 4),
    "sBIT of shifted values": Row(significant(12, whole(4095) << 4), BYTES),
    "its range": Row(save(whole(1023), "a.tif"), BYTES // 4, settings={"value_range": (0, 4095)}),
    "too small a range": Row(whole(4095), note="clipped", settings={"value_range": (0, 1000)}),
    "range in the wrong order": Row(whole(9), refused="two ascending numbers", settings={"value_range": (9, 0)}),
    "one bright pixel": Row(with_one(whole(3000), 60000), note="nearly black"),
    "black": Row(np.zeros((H, W), np.uint16), np.zeros((H, W), np.uint8)),
    "16 bits, white is 0": Row(save(whole(65535), "a.tif", tiffinfo=tags(photometric=0)), 255 - BYTES),
    "20 in 32": Row(save(whole(1 << 20, np.int32), "a.tif"), refused="value_range"),
    "20 in 32 with their range": Row(
        save(whole(1 << 20, np.int32), "a.tif"), BYTES, settings={"value_range": (0, 1 << 20)}
    ),
    "negative": Row(save(whole(900, np.int32) - 5, "a.tif"), refused=r"-5\.\.895"),
    "int64": Row(whole(255, np.int64), refused="type int64; .*value_range"),
    "int64 with its range": Row(whole(900, np.int64), BYTES, settings={"value_range": (0, 900)}),
    "unsigned 32 with their range": Row(
        tiff((RAMP * (2**32 - 1)).astype(np.uint32), 1), BYTES, settings={"value_range": (0, 2**32 - 1)}
    ),
    # 16-bit colour
    "16-bit colours": Row(png_16(bands(*[whole(65535)] * 3)), BYTES),
    "12 bits in 16-bit colours": Row(png_16(bands(*[whole(4095)] * 3)), BYTES, note="read as 12 bits"),
    "12 bits in 16-bit colours, as said": Row(significant(12, bands(*[whole(1023)] * 3)), BYTES // 4),
    "8 in 16, RGB": Row(png_16(bands(*[whole(255)] * 3)), BYTES, note="read as 8 bits"),
    "8 in 16, LA": Row(png_16(bands(whole(255), 65535)), BYTES, note="read as 8 bits"),
    "8 in 16, RGBA": Row(png_16(bands(*[whole(255)] * 3, 65535)), BYTES, note="read as 8 bits"),
    "8 in 16, RGB TIFF": Row(tiff(bands(*[whole(255)] * 3), 2), BYTES, note="read as 8 bits"),
    "8 in 16 with their range": Row(png_16(bands(*[whole(255)] * 3)), BYTES, settings={"value_range": (0, 255)}),
    "a range of lower bits": Row(png_16(bands(*[300 + whole(200)] * 3)), BYTES, settings={"value_range": (300, 500)}),
    "a range of lower bits, CMYK": Row(
        tiff(bands(*[whole(65535)] * 3, 0), 5), refused="the same everywhere over", settings={"value_range": (300, 500)}
    ),
    "16-bit colours with their range": Row(
        png_16(bands(*[whole(65535)] * 3)), BYTES, settings={"value_range": (0, 65535)}
    ),
    "16-bit colours cut off": Row(
        png_16(bands(*[whole(65535)] * 3)),
        note="outside value_range, which are clipped",
        settings={"value_range": (0, 32767)},
    ),
    "12 in 16 with transparency": Row(
        png_16(bands(*[whole(4095)] * 3, np.where(RAMP > 0.99, 0, 65535))),
        np.where(RAMP > 0.99, 255, BYTES),
        note=r"read as 12 bits(.|\n)*blended onto white",
    ),
    "12 in 16 with hidden white": Row(
        png_16(bands(*[np.where(RAMP > 0.9, 65535, whole(4095))] * 3, np.where(RAMP > 0.9, 0, 65535))),
        np.where(RAMP > 0.9, 255, BYTES),
        note=r"read as 12 bits(.|\n)*blended onto white",
    ),
    "12 in 16, LA with transparency": Row(
        png_16(bands(whole(4095), np.where(RAMP > 0.99, 0, 65535))),
        np.where(RAMP > 0.99, 255, BYTES),
        note=r"read as 12 bits(.|\n)*blended onto white",
    ),
    "12 in 16, CMYK": Row(
        tiff(bands(*[4095 - whole(4095)] * 3, 0), 5),
        255 - (4095 - whole(4095)) // 256 * 17,
        note=r"\(12 bits\)(.|\n)*CMYK",
    ),
    "16 bits, hidden throughout": Row(
        png_16(bands(*[whole(65535)] * 3, 0)), BYTES * 0 + 255, note="^images with an alpha channel"
    ),
    "16 bits, SGI": Row(save(Image.fromarray(BYTES).convert("RGB"), "a.sgi", bpc=2), BYTES),
    "12 bits, SGI": Row(
        save(Image.fromarray(BYTES // 16).convert("RGB"), "a.sgi", bpc=2), BYTES // 16 * 17, note=r"\(12 bits"
    ),
    "16-bit colours in planes": Row(tiff(bands(*[whole(65535)] * 3), 2, planar=2), BYTES),
    "16-bit colours by their lower bits": Row(
        tiff(bands(*[whole(255)] * 3), 2), BYTES, settings={"value_range": (0, 255)}
    ),
    # rules
    "rule auto": Row(save(whole(1023), "a.tif"), BYTES, note="read as 10 bits", settings={"value_range": "auto"}),
    "rule full, 16 bits": Row(save(whole(65535), "a.png"), BYTES, settings={"value_range": "full"}),
    "rule full, 10 in 16": Row(save(whole(1023), "a.png"), BYTES // 64, settings={"value_range": "full"}),
    "rule full, 10 in 16 colours": Row(
        tiff(bands(*[whole(1023)] * 3), 2), BYTES // 64, settings={"value_range": "full"}
    ),
    "rule full, 10 in 16 colours of PNG": Row(
        png_16(bands(*[whole(1023)] * 3)), BYTES // 64, settings={"value_range": "full"}
    ),
    "rule full, 12 bits": Row(twelve_bits, BYTES // 4, settings={"value_range": "full"}),
    "rule full, signed": Row(tiff(whole(32767, np.int16), 1, 2), 128 + BYTES // 2, settings={"value_range": "full"}),
    "rule full, 32 bits": Row(tiff((RAMP * (2**32 - 1)).astype(np.uint32), 1), BYTES, settings={"value_range": "full"}),
    "rule full, PGM": Row(save(whole(65535), "a.pgm"), BYTES, settings={"value_range": "full"}),
    "rule full, bytes": Row(BYTES // 2, BYTES // 2, settings={"value_range": "full"}),
    "rule full, int64": Row(whole(9, np.int64), 128 + BYTES * 0, settings={"value_range": "full"}),
    "rule full, floats": Row(
        save(RAMP.astype(np.float32), "f.tif"), refused="floats, which have no full", settings={"value_range": "full"}
    ),
    "rule percentile": Row(
        save(whole(40000) + 20000, "a.tif"),
        np.clip((RAMP - 0.005) / 0.99, 0, 1) * 255,
        note=r"percentiles 0\.5 and 99\.5 .*a\.tif' \(2\.02e\+04 to 5\.98e\+04\)",
        settings={"value_range": "percentile"},
    ),
    "rule percentile, floats": Row(
        spread(9000) - 4000,
        np.clip((RAMP - 0.005) / 0.99, 0, 1) * 255,
        note="percentiles",
        settings={"value_range": "percentile"},
    ),
    "rule percentile, one value": Row(
        np.full((H, W), 7.0), BYTES * 0, note=r"\(7 to 7\)", settings={"value_range": "percentile"}
    ),
    "rule percentile, bytes": Row(BYTES // 2, BYTES // 2, settings={"value_range": "percentile"}),
    "rule percentile, booleans": Row(RAMP > 0.5, (RAMP > 0.5) * 255, settings={"value_range": "percentile"}),
    "rule percentile, not finite": Row(
        with_one(spread(9), np.nan), refused="not finite", settings={"value_range": "percentile"}
    ),
    "rule percentile, colours and alpha": Row(
        bands(*[whole(900)] * 3, 65535),
        np.clip((RAMP - 0.005) / 0.99, 0, 1) * 255,
        note="percentiles",
        settings={"value_range": "percentile"},
    ),
    "rule percentile, colours of PNG": Row(
        png_16(bands(*[whole(65535)] * 3)), note="percentiles", settings={"value_range": "percentile"}
    ),
    "no rule": Row(spread(9), refused="is 'best'; expected two ascending", settings={"value_range": "best"}),
    "8-bit colours in planes": Row(tiff(bands(*[BYTES] * 3, kind=np.uint8), 2, planar=2), BYTES),
    "one transparent colour of 16 bits": Row(
        png_16(bands(*[whole(65535)] * 3), (0, 0, 0)), BYTES, note="one transparent colour"
    ),
    "one transparent grey of 16 bits": Row(png_16(whole(65535), (0,)), BYTES, note="one transparent colour"),
    # white is 0, signed
    "floats, white is 0": Row(tiff(RAMP.astype(np.float32), 0, 3), 255 - BYTES),
    "floats, black is 0": Row(tiff(RAMP.astype(np.float32), 1, 3), BYTES),
    "signed 16 bits": Row(tiff(whole(32767, np.int16), 1, 2), BYTES, note="signed images .*read as 15 bits"),
    "signed 16 bits, of 12": Row(tiff(whole(4095, np.int16), 1, 2), BYTES, note="read as 12 bits"),
    "signed 16 bits, negative": Row(tiff(whole(900, np.int16) - 5, 1, 2), refused=r"-5\.\.895; .*value_range"),
    "signed 16 bits, their range": Row(
        tiff((whole(65535, np.int32) - 32768).astype(np.int16), 1, 2), BYTES, settings={"value_range": (-32768, 32767)}
    ),
    "signed 8 bits": Row(tiff(whole(127, np.int8), 1, 2), BYTES, note="read as 7 bits"),
    "signed 8 bits, negative": Row(
        tiff((BYTES.astype(int) - 128).astype(np.int8), 1, 2), refused=r"-128\.\.127; .*value_range"
    ),
    "signed 8 bits, their range": Row(
        tiff((BYTES.astype(int) - 128).astype(np.int8), 1, 2), BYTES, settings={"value_range": (-128, 127)}
    ),
    # kinds of arrays and tensors
    "masked": Row(np.ma.masked_less(BYTES, 9), refused=r"masked array with \d+ of 1200 .*array\.filled"),
    "masked nowhere": Row(np.ma.array(BYTES), BYTES),
    "float8": Row(torch.from_numpy(np.rint(spread(1))).to(torch.float8_e4m3fn)[None], np.rint(RAMP) * 255),
    "float4": Row(torch.zeros((1, H, W), dtype=torch.uint8).view(torch.float4_e2m1fn_x2), refused="type torch.float4"),
    "no values": Row(torch.zeros((3, H, W), device="meta"), refused="on the meta device has no values"),
    "complex, four channels": Row(np.zeros((H, W, 4), np.complex64), refused="type complex64"),
    # parts
    "pages": Row(pages("a.tif"), BYTES, note=r"several pages.* \(1\): '.*a\.tif' \(3\)"),
    "frames of a GIF": Row(pages("a.gif"), note="several pages"),
    "frames of a PNG": Row(pages("a.png"), BYTES, note="several pages"),
    "frames of a WebP": Row(pages("a.webp", lossless=True), BYTES, note="several pages"),
    "planes behind one page, ImageJ": Row(
        save(BYTES, "a.tif", tiffinfo=tags(description="ImageJ=1.53\nimages=7\nslices=7\n")), BYTES, note=r"\(7\)"
    ),
    "planes behind one page, shaped": Row(
        save(BYTES, "a.tif", tiffinfo=tags(description=f'{{"shape": [3, {H}, {W}]}}')), BYTES, note=r"\(3\)"
    ),
    "a preview behind a photograph": Row(
        save(Image.fromarray(np.full((H, W, 3), 90, np.uint8)), "a.jpg", **TWO, format="MPO"),
        np.full((H, W), 90),
    ),
    "one page, described": Row(save(BYTES, "a.tif", tiffinfo=tags(description=f'{{"shape": [{H}, {W}]}}')), BYTES),
    "band first, array": Row(np.zeros((3, H, W), np.uint8), refused="channels come last"),
    "five bands": Row(
        tiff(bands(*[BYTES] * 5, kind=np.uint8), 2), BYTES, note=r"more bands than are used .*\(3 of 5\)"
    ),
    "alpha": Row(save(alpha(np.where(RAMP < 0.5, 0, 255)), "a.png"), note="blended onto white.*50 % .*hide other"),
    "alpha, opaque": Row(save(alpha(np.full((H, W), 255)), "a.png"), BYTES),
    "alpha of data": Row(save(alpha(BYTES), "a.tif"), note="fourth band"),
    "alpha, array": Row(np.dstack([BYTES, BYTES, BYTES, BYTES]), note="blended onto white"),
    "alpha of 16 bits": Row(np.dstack([whole(1023)] * 3 + [np.full((H, W), 65535, np.uint16)]), BYTES, note="10 bits"),
    "alpha of 12 bits": Row(
        bands(*[whole(4095)] * 3, 4095), BYTES, note="opaque at the largest(.|\\n)*read as 12 bits"
    ),
    "alpha of 8 bits": Row(bands(*[whole(255)] * 3, 255), BYTES, note="opaque at the largest"),
    "alpha of 12 bits beside 16": Row(bands(*[whole(65535)] * 3, 4095), note="alpha is 6.27 % at most"),
    "alpha of 0 and 1": Row(
        bands(*[BYTES] * 3, 1, kind=np.uint8), note="100 % of the pixels, alpha is 0.392 % at most"
    ),
    "alpha of 12 bits, range": Row(
        bands(*[whole(4095)] * 3, 4095), BYTES, note="opaque at the largest", settings={"value_range": (0, 4095)}
    ),
    "alpha of 8 bits, int64": Row(
        bands(*[whole(4080)] * 3, 255, kind=np.int64), BYTES, note="(255)", settings={"value_range": (0, 4080)}
    ),
    "alpha of floats": Row(bands(*[spread(1)] * 3, 1, kind=np.float32), BYTES),
    "alpha of 0..255": Row(bands(*[spread(255)] * 3, 255, kind=np.float32), BYTES),
    "alpha of 0..1 beside 0..255": Row(
        bands(*[spread(255)] * 3, 1, kind=np.float32), BYTES, note="read as opaque at 1"
    ),
    "alpha of 4095, range": Row(
        bands(*[spread(4095)] * 3, 4095, kind=np.float32), BYTES, settings={"value_range": (0, 4095)}
    ),
    "CMYK": Row(save(Image.fromarray(BYTES).convert("CMYK"), "a.tif"), BYTES, note="CMYK"),
    "closed": Row(closed, refused="was closed before its pixels were read"),
}


@pytest.mark.parametrize("name", ROWS)
def test_pixels(tmp_path: Path, name: str) -> None:
    row = ROWS[name]
    given: Any = row.given(tmp_path) if callable(row.given) else row.given
    with collect_notes() as notes:
        if row.refused:
            with pytest.raises(UserError, match=row.refused):
                read_image(given, **row.settings)
            return
        pixels = read_image(given, **row.settings)
    if row.pixels is not None:
        assert abs(pixels.astype(int) - row.pixels[..., None]).max() <= 1
    found = "\n".join(sentences(notes))
    if row.note:
        assert re.search(row.note, found), found
    else:
        assert not found


def test_without_the_extra_less_is_read_and_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tifffile", None)
    colors = tiff(bands(*[whole(255)] * 3), 2)(tmp_path)
    with collect_notes() as notes:
        assert not read_image(colors).any()
    assert re.search(r"are black because .*mask2former\[microscopy\]", "\n".join(sentences(notes)))
    planes = tiff(bands(*[whole(65535)] * 3), 2, planar=2)(tmp_path)
    with pytest.raises(UserError, match=r"t\.tif' is a TIFF of 16-bit colours in separate .*mask2former\[microscopy\]"):
        read_image(planes)
    floats = tiff(RAMP, 1, 3)(tmp_path)
    with pytest.raises(UserError, match=r"unusual kind .*mask2former\[microscopy\]"):
        read_image(floats)


def test_overshoot_of_resampling_changes_nothing_else() -> None:
    values = overshot()
    assert values.max() > 1
    assert values.min() < 0
    with collect_notes() as notes:
        np.testing.assert_array_equal(read_image(values), read_image(values.clip(0, 1)))
    assert "overshoot" in notes[0].message


def test_a_page_that_the_caller_chose_is_no_loss(tmp_path: Path) -> None:
    with Image.open(pages("a.tif")(tmp_path)) as image, collect_notes() as notes:
        image.seek(1)
        np.testing.assert_array_equal(read_image(image)[..., 0], 255 - BYTES)
    assert not notes


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"II*\0\x08\0\0\0" + bytes(60), "TIFF of an unusual kind"),
        (b"\0\0\0\x18ftypheic" + bytes(60), "is HEIC, whatever its name suggests|cannot be decoded"),
        (b"GARBAGE" * 20, "expected JPEG, PNG"),
        (b"\0\0\0\x18ftypisom" + bytes(60), "it is a video, which mask2former track reads"),
        (b"RIFF\0\0\0\0AVI LIST" + bytes(60), "it is a video"),
        (b"\x1aE\xdf\xa3" + bytes(60), "it is a video"),
    ],
)
def test_what_cannot_be_read_is_called_by_its_kind(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "a.jpg").write_bytes(content)
    with pytest.raises(UserError, match=message):
        read_image(tmp_path / "a.jpg")


def test_pages_that_are_smaller_copies_are_no_loss(tmp_path: Path) -> None:
    small = Image.fromarray(BYTES).resize((W // 2, H // 2))
    small.encoderinfo = {"tiffinfo": {254: 1}}
    Image.fromarray(BYTES).save(tmp_path / "a.tif", save_all=True, append_images=[small])
    with collect_notes() as notes:
        np.testing.assert_array_equal(read_image(tmp_path / "a.tif")[..., 0], BYTES)
    assert not notes


DTYPES = ("bool", "uint8", "uint16", "int8", "int16", "int32", "uint32", "int64", "float16", "float32", "float64")


def test_random_arrays_are_right_noted_or_refused() -> None:
    """For any type and range, the order is kept and the whole range is used, or there is a note or an error."""
    rng = np.random.default_rng(14)
    for trial in range(600):
        kind = np.dtype(DTYPES[trial % len(DTYPES)])
        low = float(rng.choice([0, 0, 0, -1e-9, -0.03, -1, -300]))
        high = float(rng.choice([1e-3, 1, 1.0000001, 1.02, 1.5, 2, 30, 255, 255.0001, 256, 1023, 4095, 7e4, 1e9]))
        values = low + (high - low) * rng.random((17, 23)) ** rng.integers(1, 5)
        with np.errstate(all="ignore"):
            array = values.astype(kind) if kind.kind in "fb" else np.rint(values).clip(-128, 2**31 - 1).astype(kind)
        told = ""
        with collect_notes() as notes:
            try:
                pixels = read_image(array)
            except UserError as error:
                told = str(error)
                assert "expected" in told or "finite" in told
                continue
        order = np.argsort(array.ravel(), kind="stable")
        assert (np.diff(pixels[..., 0].ravel()[order].astype(int)) >= 0).all(), (kind, low, high)
        if kind.kind == "f" and array.max() > 0.01:  # one of two ranges, so the brightest pixel says which
            brightest, top = pixels.max(), float(array.max())
            assert brightest in (min(255, round(top)), min(255, round(255 * top))) or notes, (kind, low, high)
            assert (top < 1.11) == (brightest >= min(255, 255 * top) - 1) or top > 250, (kind, low, high)
        elif kind == np.uint16:
            assert notes or array.max() > 16383 or not array.any()


# --- drawing ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [
        *("16 bits, PNG", "12 in 16, PNG", "float TIFF", "alpha", "pages", "16 bits, white is 0", "floats, white is 0"),
        *("12 in 16, CMYK", "signed 8 bits", "sBIT of raw values", "12 bits, SGI"),
    ],
)
def test_what_is_drawn_on_is_what_was_read(tmp_path: Path, name: str) -> None:
    path = ROWS[name].given(tmp_path)
    result = SemanticSegmentation(np.full((H, W), 255), Categories.from_names(["a"]))
    with collect_notes():
        with Image.open(path) as image:
            drawn = np.asarray(result.plot(image, labels=False))
            np.testing.assert_array_equal(drawn, read_image(image))  # again, now decoded
        np.testing.assert_array_equal(drawn, read_image(path))


def test_of_16_bit_colours_pillow_holds_the_upper_8_bits(tmp_path: Path) -> None:
    """Files are read exactly; an image that Pillow opened differs by what Pillow has dropped, which is noted."""
    path = ROWS["12 bits in 16-bit colours"].given(tmp_path)
    with Image.open(path) as image, collect_notes() as notes:
        assert 0 < abs(read_image(image).astype(int) - read_image(path)).max() <= 17
    assert "few of their upper 8 bits" in notes[0].message


def test_a_closed_image_cannot_be_drawn_on(tmp_path: Path) -> None:
    result = SemanticSegmentation(np.full((H, W), 255), Categories.from_names(["a"]))
    with pytest.raises(UserError, match="was closed"):
        result.plot(closed(tmp_path))


# --- EXIF ------------------------------------------------------------------------------------------------------------


def turned(folder: Path, name: str, orientation: int) -> Path:
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"tiffinfo": tags(orientation=orientation)} if name.endswith("tif") else {"exif": exif}
    return save(BYTES, name, **options)(folder)


@pytest.mark.parametrize("name", ["a.png", "a.tif", "a.webp"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_one_setting_decides_about_exif(tmp_path: Path, name: str, orientation: int) -> None:
    path = turned(tmp_path, name, orientation) if name != "a.webp" else tmp_path / name
    if name == "a.webp":
        exif = Image.Exif()
        exif[0x0112] = orientation
        Image.fromarray(BYTES).save(path, lossless=True, exif=exif)
    for setting in ("apply", "ignore"):
        pixels = read_image(path, exif=setting)  # type: ignore[arg-type]
        assert image_size(path, exif=setting) == pixels.shape[:2]  # type: ignore[arg-type]
        same = pixels.shape[:2] == (H, W) and (pixels[..., 0] == BYTES).all()
        assert same == (orientation == 1 or setting == "ignore")


@pytest.mark.parametrize("name", ["a.png", "a.tif"])
@pytest.mark.parametrize(
    ("orientation", "expected_hw", "exif", "outcome"),
    [
        (1, (H, W), "apply", ""),
        (1, None, "apply", ""),
        (2, (H, W), "apply", "noted"),
        (3, (H, W), "apply", "noted"),
        (4, None, "apply", "noted"),
        (3, (H, W), "ignore", ""),
        (6, (W, H), "apply", ""),
        (6, None, "apply", "noted"),
        (6, (H, W), "apply", "EXIF rotates the image .*exif=ignore"),
        (6, (H, W), "ignore", ""),
        (8, (W, H), "ignore", "exif=apply"),
        (1, (W, H), "apply", "swapped there .the image has no EXIF orientation"),
        (3, (W, H), "apply", "swapped there"),
        (1, (H, W + 1), "apply", "belong together"),
        (6, (H, W + 1), "apply", "belong together"),
    ],
)
def test_sizes_and_exif(tmp_path: Path, name: str, orientation: int, expected_hw: Any, exif: Any, outcome: str) -> None:
    path = turned(tmp_path, name, orientation)
    with collect_notes() as notes:
        if outcome in ("", "noted"):
            check_size(path, image_size(path, exif=exif), expected_hw, "its file says", exif=exif)
        else:
            with pytest.raises(UserError, match=outcome):
                check_size(path, image_size(path, exif=exif), expected_hw, "its file says", exif=exif)
    assert bool(notes) == (outcome == "noted")


def test_a_square_image_settles_nothing(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png", exif=exif)
    with collect_notes() as notes:
        check_size(tmp_path / "a.png", (8, 8), (8, 8), "its file says")
    assert "exif=ignore" in notes[0].message


def test_a_data_set_reads_as_its_setting_says(tmp_path: Path) -> None:
    turned(tmp_path, "a.png", 3)
    content = {
        "images": [{"id": 1, "file_name": "a.png", "height": H, "width": W}],
        "categories": [{"id": 1, "name": "a"}],
        "annotations": [
            {"id": 1, "image_id": 1, "category_id": 1, "segmentation": [[1, 1, 9, 1, 9, 9]], "area": 9, "iscrowd": 0}
        ],
    }
    (tmp_path / "a.json").write_text(json.dumps(content))
    samples = CocoInstances([(tmp_path / "a.json", tmp_path)])
    with collect_notes() as notes:
        np.testing.assert_array_equal(samples.annotated(0).image[..., 0], BYTES[::-1, ::-1])
    assert "set exif=ignore in the data set" in notes[0].message
    samples.exif = "ignore"
    with collect_notes() as notes:
        np.testing.assert_array_equal(samples.annotated(0).image[..., 0], BYTES)
        np.testing.assert_array_equal(samples.image(0)[..., 0], BYTES)
        samples.ground_truths(0, ["instance"])
    assert not notes


# --- label maps ------------------------------------------------------------------------------------------------------

LABELS = (np.arange(H * W).reshape(H, W) % 4).astype(np.uint8)


def label_pages(first: np.ndarray) -> Callable[[Path], Path]:
    return save(Image.fromarray(first), "a.tif", save_all=True, append_images=[Image.fromarray(LABELS)])


LABEL_ROWS: dict[str, Row] = {
    "8 bits": Row(save(LABELS, "a.png"), LABELS),
    "16 bits": Row(save(LABELS.astype(np.uint16) * 9000, "a.tif"), LABELS.astype(int) * 9000),
    "32 bits": Row(save(LABELS.astype(np.int32) * 90000, "a.tif"), LABELS.astype(int) * 90000),
    "4 bits": Row(save(LABELS, "a.png", bits=4), LABELS),
    "2 bits": Row(save(LABELS, "a.png", bits=2), LABELS),
    "pages": Row(label_pages(LABELS), LABELS, note="label maps with several pages"),
    "an empty first page": Row(label_pages(LABELS * 0), LABELS * 0, note="whose first page.* is empty"),
    "turned TIFF": Row(
        save(LABELS, "a.tif", tiffinfo=tags(orientation=6)),
        np.rot90(LABELS, -1),  # as that of images
    ),
    "EXIF": Row(lambda folder: turned_label(folder), LABELS, note="EXIF orientation, which is not applied"),
    "negative": Row(save(LABELS.astype(np.int32) - 1, "a.tif"), refused="contains the number -1"),
    "floats, all of them whole": Row(save(LABELS.astype(np.float32), "a.tif"), LABELS),
    "floats": Row(save(LABELS.astype(np.float32) + 0.5, "a.tif"), refused="whole numbers"),
}


def turned_label(folder: Path) -> Path:
    exif = Image.Exif()
    exif[0x0112] = 3
    return save(LABELS, "a.png", exif=exif)(folder)


@pytest.mark.parametrize("name", LABEL_ROWS)
def test_label_maps(tmp_path: Path, name: str) -> None:
    row = LABEL_ROWS[name]
    path = row.given(tmp_path)
    with collect_notes() as notes:
        if row.refused:
            with pytest.raises(UserError, match=row.refused):
                read_label_map(path)
            return
        numbers = read_label_map(path)
    np.testing.assert_array_equal(numbers, row.pixels)
    found = "\n".join(sentences(notes))
    assert bool(found) == bool(row.note)
    assert re.search(row.note, found), found


# --- folders ---------------------------------------------------------------------------------------------------------


def test_what_a_folder_holds_besides_is_noted(tmp_path: Path) -> None:
    folder, other = tmp_path / "images", tmp_path / "other"
    (folder / "deep").mkdir(parents=True)
    other.mkdir()
    image = Image.fromarray(BYTES)
    image.save(folder / "a.png")
    for name in ("b.gif", "deep/c.GIF", "d.ppm"):
        image.save(folder / name)
    image.save(folder / "bare", format="PNG")
    image.save(other / "x.png")
    (folder / "notes.txt").write_text("x")
    (folder / "Makefile").write_text("x")
    (folder / ".hidden.gif").write_bytes(b"x")
    os.symlink(other, folder / "linked")
    os.symlink(folder / "a.png", folder / "z.png")
    os.symlink(folder / "gone.png", folder / "dangling.png")
    with collect_notes() as notes:
        listed = list_images([folder])
    assert [path.name for path, _ in listed] == ["a.png"]
    found = "\n".join(sentences(notes))
    for part in (
        r"other formats, skipped: \.gif .* \(2\): .*b\.gif",
        r"other formats, skipped: \.ppm .* \(1\): .*d\.ppm",
        r"without a suffix.* \(1\): .*bare'",
        r"links to folders, .* \(1\): .*linked'",
        r"already listed, .* \(1\): '.*z\.png' is '.*a\.png'",
        r"broken links \(1\): '.*dangling\.png'",
    ):
        assert re.search(part, found), (part, found)
    assert "txt" not in found
    assert "Makefile" not in found
    assert "hidden" not in found


def test_a_folder_of_other_formats_alone_says_so(tmp_path: Path) -> None:
    Image.fromarray(BYTES).save(tmp_path / "a.gif")
    with pytest.raises(UserError, match=r"contains no images .*skipped: .*a\.gif"):
        list_images([tmp_path])


def test_an_image_given_twice_is_no_loss(tmp_path: Path) -> None:
    Image.fromarray(BYTES).save(tmp_path / "a.png")
    with collect_notes() as notes:
        list_images([tmp_path, tmp_path / "a.png"])
    assert not notes
