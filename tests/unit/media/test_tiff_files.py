"""TIFF files that Pillow does not read, or not exactly: values, bands, pages, compressions, limits."""

import io
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image

from mask2former import limits
from mask2former.errors import UserError
from mask2former.media.image_files import ImagePage, NamedBytes, PixelLimitError, num_pages
from mask2former.media.images import image_size, read_image
from mask2former.media.tiff_regions import TiffRegions
from mask2former.notes import collect_notes, sentences

H, W = 48, 64
BYTES = np.random.default_rng(5).integers(0, 256, (H, W)).astype(np.uint8)
BYTES[0, :2] = 0, 255
DEEP = BYTES.astype(np.uint16) * 257
COLORS = np.stack([DEEP, DEEP[::-1], DEEP[:, ::-1]])  # band first
GREY: dict[str, Any] = {"photometric": "minisblack"}
RGB: dict[str, Any] = {"photometric": "rgb"}
PLANES: dict[str, Any] = {"planarconfig": "separate"}


def written(folder: Path, values: np.ndarray, name: str = "a.tif", **options: Any) -> Path:
    tifffile.imwrite(folder / name, values, **options)
    return folder / name


def shown(file: Path | NamedBytes | ImagePage, **settings: Any) -> tuple[np.ndarray, str]:
    with collect_notes() as notes:
        return read_image(file, **settings), "\n".join(sentences(notes))


EXACT: dict[str, tuple[np.ndarray, dict[str, Any]]] = {
    "16-bit colour": (np.moveaxis(COLORS, 0, 2), RGB),
    "16-bit colour in planes": (COLORS, RGB | PLANES),
    "16-bit colour, BigTIFF": (np.moveaxis(COLORS, 0, 2), {**RGB, "bigtiff": True}),
    "16-bit colour, big-endian": (np.moveaxis(COLORS, 0, 2), {**RGB, "byteorder": ">"}),
    "16-bit colour, LZW with predictor": (
        np.moveaxis(COLORS, 0, 2),
        {**RGB, "compression": "lzw", "predictor": True, "rowsperstrip": 7},
    ),
    "16-bit colour in tiles": (np.moveaxis(COLORS, 0, 2), {**RGB, "tile": (32, 32), "compression": "zstd"}),
    "float colour": (np.moveaxis(COLORS, 0, 2).astype(np.float32) / 65535, RGB),
    "float64 colour in planes": (COLORS / 65535, RGB | PLANES),
    "float16 colour": (np.moveaxis(COLORS // 257, 0, 2).astype(np.float16), RGB),
    "JPEG 2000": (np.moveaxis(COLORS, 0, 2), {**RGB, "compression": "jpeg2000"}),
    "LERC": (np.moveaxis(COLORS, 0, 2), {**RGB, "compression": "lerc"}),
    "PNG inside": (np.moveaxis(COLORS // 257, 0, 2).astype(np.uint8), {**RGB, "compression": "png"}),
    "WebP inside": (
        np.moveaxis(COLORS // 257, 0, 2).astype(np.uint8),
        {**RGB, "compression": "webp", "compressionargs": {"lossless": True}},
    ),
}


@pytest.mark.parametrize("name", EXACT)
def test_colours_are_read_exactly(tmp_path: Path, name: str) -> None:
    values, options = EXACT[name]
    path = written(tmp_path, values, **options)
    pixels, notes = shown(path)
    np.testing.assert_array_equal(pixels, np.moveaxis(COLORS, 0, 2) // 257)
    assert not notes
    assert image_size(path) == (H, W)
    assert pixels.flags.c_contiguous
    np.testing.assert_array_equal(read_image(NamedBytes("a", path.read_bytes())), pixels)


def test_every_value_of_16_bit_colour_counts(tmp_path: Path) -> None:
    """Colours of 16 bits that differ only in the lower 8 bits are distinguished within a value_range."""
    path = written(tmp_path, np.moveaxis(30000 + COLORS // 257, 0, 2), **RGB)
    pixels, _ = shown(path, value_range=(30000, 30255))
    np.testing.assert_array_equal(pixels, np.moveaxis(COLORS, 0, 2) // 257)


def test_grey_of_other_types(tmp_path: Path) -> None:
    for values in (BYTES / 255, (BYTES / 255).astype(np.float16), BYTES.astype(np.float64), DEEP.astype(np.uint64)):
        pixels, notes = shown(written(tmp_path, values, **GREY))
        np.testing.assert_array_equal(pixels[..., 1], BYTES)
        assert not notes
    wide = written(tmp_path, DEEP.astype(np.int64) * 1000, **GREY)
    with pytest.raises(UserError, match=r"a\.tif' contains integers with values 0\.\.65535000; .*value_range"):
        read_image(wide)
    np.testing.assert_array_equal(shown(wide, value_range=(0, 65535000))[0][..., 0], BYTES)


def test_packed_bits_are_the_full_range(tmp_path: Path) -> None:
    path = written(tmp_path, BYTES.astype(np.uint16) * 4, bitspersample=10, **GREY)
    np.testing.assert_allclose(shown(path)[0][..., 0], BYTES, atol=1)
    np.testing.assert_allclose(shown(path, value_range="full")[0][..., 0], BYTES, atol=1)


def test_white_may_be_0(tmp_path: Path) -> None:
    path = written(tmp_path, BYTES / 255, photometric="miniswhite")
    np.testing.assert_array_equal(shown(path)[0][..., 2], 255 - BYTES)


def test_bands_without_colours_are_said(tmp_path: Path) -> None:
    bands = np.concatenate([COLORS, COLORS, COLORS])
    for options in (GREY | PLANES, {**GREY, "planarconfig": "contig"}):
        values = bands if options.get("planarconfig") == "separate" else np.moveaxis(bands, 0, 2)
        pixels, notes = shown(written(tmp_path, values, **options))
        np.testing.assert_array_equal(pixels, np.moveaxis(COLORS, 0, 2) // 257)
        assert "more bands than are used (1): " in notes
        assert "(3 of 9)" in notes
        assert "the first three are read as red, green and blue" in notes


def test_alpha_is_blended_and_two_bands_are_not_colours(tmp_path: Path) -> None:
    alpha = np.where(np.arange(W) < 9, 0, 65535).astype(np.uint16) + np.zeros((H, 1), np.uint16)
    path = written(tmp_path, np.dstack([DEEP, DEEP, DEEP, alpha]), extrasamples=["unassalpha"], **RGB)
    pixels, notes = shown(path)
    assert (pixels[:, :9] == 255).all()
    np.testing.assert_array_equal(pixels[:, 9:, 0], BYTES[:, 9:])
    assert "blended onto white" in notes
    two = written(tmp_path, np.dstack([DEEP, alpha]), extrasamples=["unspecified"], planarconfig="contig", **GREY)
    pixels, notes = shown(two)
    np.testing.assert_array_equal(pixels[..., 0], BYTES)
    assert "(1 of 2)" in notes


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation(tmp_path: Path, orientation: int) -> None:
    plain = written(tmp_path, BYTES, "b.tif", extratags=[(274, 3, 1, orientation, False)], **GREY)  # by Pillow
    deep = written(tmp_path, BYTES / 255, "c.tif", extratags=[(274, 3, 1, orientation, False)], **GREY)
    for exif in ("apply", "ignore"):
        np.testing.assert_array_equal(read_image(deep, exif=exif), read_image(plain, exif=exif))
        assert image_size(deep, exif=exif) == image_size(plain, exif=exif) == read_image(deep, exif=exif).shape[:2]


def test_values_that_the_file_calls_missing_are_black_and_do_not_count(tmp_path: Path) -> None:
    values = 500 + BYTES.astype(np.float32)
    values[:5] = -9999
    for nothing, filled in (("-9999", values), ("nan", np.where(values == -9999, np.nan, values))):
        path = written(
            tmp_path, filled.astype(np.float64), extratags=[(42113, 2, len(nothing) + 1, nothing, False)], **GREY
        )
        pixels, notes = shown(path, value_range="percentile")
        assert not pixels[:5].any()
        assert pixels[5:].max() == 255
        assert "declared in the file as having no value, shown black" in notes
        assert "10.4 %" in notes
        assert "clipped" not in notes
        assert abs(pixels[5:, :, 0].astype(float) - BYTES[5:]).max() <= 5


LOWEST, BIG = np.finfo(np.float32).min, 2**63 - 2


@pytest.mark.parametrize(
    ("nothing", "missing"),
    [
        ("0.1", np.float32(0.1)),
        ("-3.4028234663852886e+38", LOWEST),
        ("-3.40282346638529e+38", LOWEST),  # with 15 digits, as GDAL once wrote it
        ("-340282346638528859811704183484516925440", LOWEST),
        ("-1.7976931348623157e+308", LOWEST),
        ("-1.7976931348623157e+308", np.float32(-np.inf)),
        ("1.7976931348623157e+308", np.float32(np.inf)),
        ("-1.7976931348623157e+308", np.float16(-65504)),
        ("-inf", np.float32(-np.inf)),
        ("0.1", np.float64(0.1)),
        (str(BIG), np.int64(BIG)),
    ],
)
def test_a_missing_value_is_compared_as_the_file_can_hold_it(
    tmp_path: Path, nothing: str, missing: np.floating | np.int64
) -> None:
    values = BYTES.astype(missing.dtype)
    values[:5], values[5, 0] = missing, missing - missing.dtype.type(1) if values.dtype.kind == "i" else 7
    path = written(tmp_path, values, extratags=[(42113, 2, len(nothing) + 1, nothing, False)], **GREY)
    pixels, notes = shown(path, value_range=(0, 255))
    assert not pixels[:5].any()
    assert pixels[5, 0, 0] > 0
    np.testing.assert_array_equal(pixels[6:, :, 0], BYTES[6:])
    assert "shown black (1)" in notes
    assert "10.4 %" in notes


def test_a_finite_missing_value_that_fits_is_no_other_one(tmp_path: Path) -> None:
    values = BYTES.astype(np.float64)
    values[:5] = -np.inf
    nothing = "-1.7976931348623157e+308"
    path = written(tmp_path, values, extratags=[(42113, 2, len(nothing) + 1, nothing, False)], **GREY)
    with pytest.raises(UserError, match="not finite"):
        read_image(path, value_range=(0, 255))


WITHOUT = [(42113, "s", 0, "255", True)]
RGB: dict[str, Any] = {"photometric": "rgb"}


@pytest.mark.parametrize(
    ("values", "options"),
    [
        (np.array([100, 255], np.uint8), GREY),
        (np.array([[100] * 3, [255] * 3], np.uint8), RGB),
        (np.array([[100] * 3, [255] * 3], np.uint8), {**RGB, "compression": "jpeg", "compressionargs": {"level": 100}}),
        (np.array([[100] * 3 + [255], [255] * 4], np.uint8), RGB),
        (np.array([155, 255], np.uint8), {"photometric": "miniswhite"}),
        (np.array([100, 255], np.uint16), GREY),
        (np.array([[100] * 3, [255] * 3], np.uint16), RGB),
    ],
)
def test_what_has_no_value_is_black_whoever_reads_it(
    tmp_path: Path, values: np.ndarray, options: dict[str, Any]
) -> None:
    image = np.repeat(np.repeat(values[:, None], 16, axis=0), 32, axis=1)
    path = written(tmp_path, image, extratags=WITHOUT, **options)
    for bands in (None, 1 if image.ndim == 2 else image.shape[2]):
        pixels, notes = shown(path, value_range=(0, 255), bands=bands)
        assert (pixels[:8, ..., :3] > 90).all()
        assert not pixels[-8:, ..., :3].any()
        assert "declared in the file as having no value, shown black" in notes


def test_where_no_value_cannot_be_told_from_others_that_is_noted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = written(tmp_path, BYTES.astype(np.uint16), extratags=WITHOUT, **GREY)
    monkeypatch.setattr("mask2former.media.image_files.can_read_tiff", lambda: False)
    assert "(GDAL's nodata), which is read like any other (with pip install" in shown(path, value_range=(0, 255))[1]


# --- pages -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["pages", "float pages", "planes behind a page", "ImageJ"])
def test_each_page_can_be_read(tmp_path: Path, kind: str) -> None:
    stack = np.stack([BYTES, BYTES[::-1], BYTES[:, ::-1]])
    if kind == "ImageJ":
        path = written(tmp_path, stack, imagej=True, metadata={"axes": "ZYX"})
    elif kind == "planes behind a page":
        path = written(tmp_path, stack.astype(np.uint16) * 257, contiguous=True, **GREY)
    else:
        values = stack / 255 if kind == "float pages" else stack
        with tifffile.TiffWriter(tmp_path / "a.tif") as writer:
            for page in values:
                writer.write(page, contiguous=False, metadata=None, **GREY)
        path = tmp_path / "a.tif"
    pixels, notes = shown(path)
    np.testing.assert_array_equal(pixels[..., 0], stack[0])
    assert "of which only the first is read" in notes
    assert num_pages(path) == 3
    for number in (1, 2, 3):
        for file in (path, NamedBytes("a", path.read_bytes())):
            pixels, notes = shown(ImagePage(file, number))
            np.testing.assert_array_equal(pixels[..., 0], stack[number - 1])
            assert not notes
    with pytest.raises(UserError, match="has no page 4; it has 3"):
        read_image(ImagePage(path, 4))
    for number in (0, 1001):
        with pytest.raises(UserError, match="from 1 to 1000"):
            ImagePage(path, number)


def test_a_plane_that_is_cut_off_is_refused(tmp_path: Path) -> None:
    stack = np.stack([BYTES, BYTES])
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, stack[0], description="ImageJ=1.53\nimages=2\nslices=2\n", metadata=None, **GREY)
    with pytest.raises(UserError, match="cut short: it has no page 2"):
        read_image(ImagePage(path, 2))


# --- what is refused -------------------------------------------------------------------------------------------------


def patched(content: bytes, tag: int, value: int) -> bytes:
    """A little-endian TIFF with another value in a tag that has one value."""
    start = struct.unpack_from("<I", content, 4)[0]
    changed = bytearray(content)
    for index in range(struct.unpack_from("<H", content, start)[0]):
        at = start + 2 + 12 * index
        if struct.unpack_from("<H", content, at)[0] == tag:
            struct.pack_into("<HI", changed, at + 2, 4, 1)
            struct.pack_into("<I", changed, at + 8, value)
            return bytes(changed)
    raise AssertionError(tag)


def in_memory(values: np.ndarray, **options: Any) -> bytes:
    stream = io.BytesIO()
    tifffile.imwrite(stream, values, **options)
    return stream.getvalue()


def test_what_is_not_read_is_named() -> None:
    for options, message in (
        ({"compression": "jpegxl"}, "TIFF compression JPEGXL, which is not supported; save it with"),
        ({"photometric": "cielab"}, "unsupported kind .CIELAB"),
    ):
        values = np.moveaxis(COLORS, 0, 2).astype(np.float32) / 65535
        content = in_memory(values, **{**RGB, **options})
        with pytest.raises(UserError, match=message):
            read_image(NamedBytes("a.tif", content))
    with pytest.raises(UserError, match="1 bands of complex64"):
        read_image(NamedBytes("a.tif", in_memory(BYTES.astype(np.complex64), **GREY)))


def test_sizes_are_checked_before_pixels_are_decoded() -> None:
    """Files of some kilobytes that claim gigabytes of pixels are refused."""
    zeros = np.zeros((64, 64), np.float64)
    content = in_memory(zeros, compression="deflate", tile=(64, 64), **GREY)
    tall = patched(patched(content, 257, 9_000), 256, 9_000)  # one tile of 20,000
    with pytest.raises(UserError, match="some of its 19881 tiles or strips are missing"):
        read_image(NamedBytes("a.tif", tall))
    with pytest.raises(PixelLimitError, match="safety limit"):
        read_image(NamedBytes("a.tif", patched(patched(content, 257, 90_000), 256, 90_000)))
    with pytest.raises(UserError, match="tiles or strips of too many bytes of pixels: "):
        read_image(NamedBytes("a.tif", patched(patched(content, 322, 1 << 16), 323, 1 << 16)))
    many = in_memory(zeros, compression="deflate", tile=(16, 16), **GREY)
    with pytest.raises(UserError, match="has too many tiles or strips: 16; at most 1 "):
        read_image(NamedBytes("a.tif", patched(patched(many, 257, 16), 256, 16)))


def test_a_tile_that_unfolds_to_more_is_refused() -> None:
    big, small = np.zeros((2048, 2048), np.float64), np.zeros((16, 16), np.float64)
    for compression in ("deflate", "zstd"):
        content = in_memory(big, compression=compression, tile=(2048, 2048), **GREY)
        shrunk = patched(patched(content, 257, 16), 256, 16)
        shrunk = patched(patched(shrunk, 322, 16), 323, 16)
        with pytest.raises(UserError):
            read_image(NamedBytes("a.tif", shrunk))
    for compression, kind in (("jpeg2000", np.uint16), ("lerc", np.float32), ("png", np.uint16)):
        values = [array.astype(kind) for array in (big[:512, :512], small)]
        content = in_memory(values[0], compression=compression, tile=(512, 512), **GREY)
        shrunk = content
        for tag in (256, 257, 322, 323):
            shrunk = patched(shrunk, tag, 16)
        with pytest.raises(UserError, match=r"tile or strip of \(512, 512, "):
            read_image(NamedBytes("a.tif", shrunk))
        np.testing.assert_array_equal(
            read_image(NamedBytes("a.tif", in_memory(values[1], compression=compression, **GREY))), 0
        )


def webp(**options: Any) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(np.zeros((64, 80, 3), np.uint8)).save(stream, "WEBP", **options)
    return stream.getvalue()


@pytest.mark.parametrize(
    ("tile", "kind", "words"),
    [
        (webp(), b"VP8 ", r"tile or strip of \(80, 64, 4\)"),
        (webp(lossless=True), b"VP8L", r"tile or strip of \(80, 64, 4\)"),
        (webp(exif=b"Exif\0\0MM\0*\0\0\0\x08\0\0"), b"VP8X", r"tile or strip of \(80, 64, 4\)"),
        (b"RIFF\0\0\0\0WEBPVP9 " + bytes(99), b"VP9 ", "without the header"),
        (b"no WebP at all, and longer than a header", b" all", "without the header"),
    ],
)
def test_a_tile_of_webp_says_its_size_whatever_its_kind(tile: bytes, kind: bytes, words: str) -> None:
    assert tile[12:16] == kind or tile[10:14] == kind
    stream = io.BytesIO()
    options: dict[str, Any] = {**RGB, "shape": (16, 16, 3), "dtype": np.uint8, "tile": (16, 16), "compression": "webp"}
    tifffile.imwrite(stream, data=iter([tile]), **options)
    with pytest.raises(UserError, match=words):
        read_image(NamedBytes("a.tif", stream.getvalue()))


@pytest.mark.parametrize("installed", [True, False])
def test_bands_that_are_taken_for_pages_are_mentioned(
    tmp_path: Path, installed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    tifffile.imwrite(tmp_path / "a.tif", np.zeros((9, 9, 3), np.uint8), photometric="rgb")
    if not installed:
        monkeypatch.setattr("mask2former.media.image_files.can_read_tiff", lambda: False)
    with pytest.raises(UserError, match=r"a.tif' has no page 2; it has 1, of 3 bands, which --bands chooses \(in Pyth"):
        read_image(ImagePage(tmp_path / "a.tif", 2))


def test_pages_in_a_circle_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "IMAGE_PAGES", 150)  # tifffile looks for circles at 100
    stream = io.BytesIO()
    with tifffile.TiffWriter(stream) as writer:
        for _ in range(3):
            writer.write(BYTES / 255, contiguous=False, metadata=None, **GREY)
    content = bytearray(stream.getvalue())
    start = struct.unpack_from("<I", content, 4)[0]
    second = start + 2 + 12 * struct.unpack_from("<H", content, start)[0]
    at = struct.unpack_from("<I", content, second)[0]  # the second page leads to itself
    struct.pack_into("<I", content, at + 2 + 12 * struct.unpack_from("<H", content, at)[0], at)
    file = NamedBytes("a.tif", bytes(content))
    assert num_pages(file) <= 150
    np.testing.assert_array_equal(read_image(file)[..., 0], BYTES)


def test_a_palette_of_bytes_is_read_as_libtiff_does(tmp_path: Path) -> None:
    """Palettes of TIFF have 16 bits, of which 8 would be black."""
    numbers = np.arange(256, dtype=np.uint8).reshape(16, 16)
    colors = np.stack([np.arange(256), 255 - np.arange(256), np.full(256, 7)])
    tifffile.imwrite(tmp_path / "a.tif", numbers, photometric="palette", colormap=colors.astype(np.uint16))
    np.testing.assert_array_equal(read_image(tmp_path / "a.tif"), colors.T[numbers])


def test_a_file_cut_short_inside_its_tags_is_damaged(tmp_path: Path) -> None:
    """The number of bits, which is stored behind the tags, would be 1 without it."""
    path = tmp_path / "a.tif"
    Image.fromarray(np.full((30, 40, 3), 200, np.uint8)).save(path, compression="tiff_deflate")
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(UserError, match=r"cut short: it has tags .* whose values cannot be read \(258\)"):
        read_image(path)
    with pytest.raises(UserError, match=r"cut short: it has tags .* whose values cannot be read \(258\)"):
        TiffRegions(path)
