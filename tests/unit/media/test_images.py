"""Reading images of every kind, rejecting everything else by name, and finding images in folders."""

import io
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from mask2former.data.transforms import resize_image, shortest_edge_size
from mask2former.errors import UserError
from mask2former.media.images import NamedBytes, image_size, list_images, read_image
from mask2former.notes import collect_notes

H, W = 24, 40


def colors() -> np.ndarray:
    """A smooth image whose channels and corners all differ."""
    rows, columns = np.mgrid[:H, :W]
    return np.stack([rows * 10, columns * 6, 255 - rows * 5 - columns * 3], axis=-1).astype(np.uint8)


def grey() -> np.ndarray:
    return colors()[..., 0]


def as_rgb(values: np.ndarray) -> np.ndarray:
    return np.repeat(values[..., None], 3, axis=2)


def half_transparent() -> tuple[Image.Image, np.ndarray]:
    """An image whose left half is transparent, and the expected pixels, which are white there."""
    alpha = np.full((H, W), 255, dtype=np.uint8)
    alpha[:, : W // 2] = 0
    expected = colors()
    expected[:, : W // 2] = 255
    return Image.fromarray(np.dstack([colors(), alpha])), expected


def save(image: Image.Image, path: Path, **options: Any) -> Path:
    image.save(path, **options)
    return path


def palette_file(folder: Path, transparent: bool) -> tuple[Path, np.ndarray]:
    indices = np.tile(np.array([0, 1], dtype=np.uint8), (H, W // 2))
    image = Image.fromarray(indices)
    image.putpalette([250, 10, 20, 30, 40, 240])
    options = {"transparency": 0} if transparent else {}
    expected = np.where(indices[..., None] == 0, (255, 255, 255) if transparent else (250, 10, 20), (30, 40, 240))
    return save(image, folder / "a.png", **options), expected


def rgb(folder: Path, name: str, **options: object) -> tuple[Path, np.ndarray]:
    return save(Image.fromarray(colors()), folder / name, **options), colors()


def rotated(folder: Path, name: str) -> tuple[Path, np.ndarray]:
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: show it rotated by 90 degrees clockwise
    return save(Image.fromarray(colors()), folder / name, exif=exif), np.rot90(colors(), -1)


def rgba(folder: Path, name: str) -> tuple[Path, np.ndarray]:
    image, expected = half_transparent()
    return save(image, folder / name), expected


def opaque(folder: Path) -> tuple[Path, np.ndarray]:
    return save(Image.fromarray(colors()).convert("RGBA"), folder / "a.png"), colors()


def grey_alpha(folder: Path) -> tuple[Path, np.ndarray]:
    image = Image.merge("LA", [Image.fromarray(grey()), Image.new("L", (W, H), 0)])
    return save(image, folder / "a.png"), np.full((H, W, 3), 255)


def deep(folder: Path, name: str) -> tuple[Path, np.ndarray]:
    values = (grey().astype(np.uint16) * 257).astype(np.uint16)
    return save(Image.fromarray(values), folder / name), as_rgb(grey())


def one_bit(folder: Path) -> tuple[Path, np.ndarray]:
    bits = grey() > 100
    return save(Image.fromarray(bits), folder / "a.png"), as_rgb(bits.astype(np.uint8) * 255)


def float_tiff(folder: Path) -> tuple[Path, np.ndarray]:
    return save(Image.fromarray(grey().astype(np.float32)), folder / "a.tif"), as_rgb(grey())


def animated(folder: Path) -> tuple[Path, np.ndarray]:
    frames = [Image.new("RGB", (W, H), color) for color in ((255, 0, 0), (0, 255, 0))]
    return save(frames[0], folder / "a.gif", save_all=True, append_images=frames[1:]), np.asarray(frames[0])


def color_key(folder: Path) -> tuple[Path, np.ndarray]:
    image = Image.new("RGB", (W, H), (1, 2, 3))
    return save(image, folder / "a.png", transparency=(1, 2, 3)), np.full((H, W, 3), 255)


EXACT: dict[str, Callable[[Path], tuple[Path, np.ndarray]]] = {
    "png": lambda folder: rgb(folder, "a.png"),
    "bmp": lambda folder: rgb(folder, "a.bmp"),
    "tiff": lambda folder: rgb(folder, "a.tiff"),
    "lossless webp": lambda folder: rgb(folder, "a.webp", lossless=True),
    "wrong suffix": lambda folder: rgb(folder, "a.jpg", format="PNG"),
    "name with spaces and accents": lambda folder: rgb(folder, "é ü.png"),
    "rotated png": lambda folder: rotated(folder, "a.png"),
    "grey png": lambda folder: (save(Image.fromarray(grey()), folder / "a.png"), as_rgb(grey())),
    "palette": lambda folder: palette_file(folder, transparent=False),
    "palette with transparency": lambda folder: palette_file(folder, transparent=True),
    "rgba": lambda folder: rgba(folder, "a.png"),
    "rgba tiff": lambda folder: rgba(folder, "a.tif"),
    "opaque rgba": opaque,
    "grey with alpha": grey_alpha,
    "colour key": color_key,
    "16-bit grey png": lambda folder: deep(folder, "a.png"),
    "16-bit grey tiff": lambda folder: deep(folder, "a.tif"),
    "1-bit": one_bit,
    "float tiff": float_tiff,
    "animation": animated,
}


@pytest.mark.parametrize("kind", EXACT)
@pytest.mark.parametrize("opened", [False, True], ids=["path", "pillow"])
def test_every_kind_of_file_gives_its_pixels(tmp_path: Path, kind: str, opened: bool) -> None:
    path, expected = EXACT[kind](tmp_path)
    if opened:
        with Image.open(path) as image:
            pixels = read_image(image)
    else:
        pixels = read_image(path)
        np.testing.assert_array_equal(pixels, read_image(str(path)))
    assert pixels.dtype == np.uint8
    assert pixels.flags.c_contiguous
    assert pixels.flags.writeable
    np.testing.assert_array_equal(pixels, expected)


@pytest.mark.parametrize(("name", "mode"), [("a.jpg", "RGB"), ("a.jpg", "CMYK"), ("a.jpg", "L"), ("a.webp", "RGB")])
def test_lossy_files_give_nearly_their_pixels(tmp_path: Path, name: str, mode: str) -> None:
    image = Image.fromarray(colors()).convert(mode)
    path = save(image, tmp_path / name, quality=98)
    difference = read_image(path).astype(int) - np.asarray(image.convert("RGB"))
    assert abs(difference).mean() < 4


@pytest.mark.parametrize("orientation", range(1, 9))
def test_all_orientations_of_a_jpeg(tmp_path: Path, orientation: int) -> None:
    upright = colors()
    turns: dict[int, Callable[[np.ndarray], np.ndarray]] = {  # how the sensor stored the upright image
        1: lambda a: a,
        2: lambda a: a[:, ::-1],
        3: lambda a: a[::-1, ::-1],
        4: lambda a: a[::-1],
        5: lambda a: a.swapaxes(0, 1),
        6: lambda a: np.rot90(a, 1),
        7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
        8: lambda a: np.rot90(a, -1),
    }
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = Image.fromarray(np.ascontiguousarray(turns[orientation](upright)))
    path = save(stored, tmp_path / "a.jpg", quality=98, subsampling=0, exif=exif)
    pixels = read_image(path).astype(int)
    assert pixels.shape == upright.shape
    assert abs(pixels - upright).mean() < 4


ARRAYS: dict[str, tuple[object, np.ndarray]] = {
    "uint8": (colors(), colors()),
    "not contiguous": (colors()[:, ::-1], colors()[:, ::-1]),
    "grey": (grey(), as_rgb(grey())),
    "one channel": (grey()[..., None], as_rgb(grey())),
    "alpha": (np.asarray(half_transparent()[0]), half_transparent()[1]),
    "uint16": (colors().astype(np.uint16) * 257, colors()),
    "bool": (grey() > 100, as_rgb((grey() > 100).astype(np.uint8) * 255)),
    "float 0..1": (colors() / 255, colors()),
    "float32 0..1": ((colors() / 255).astype(np.float32), colors()),
    "float 0..255": (colors().astype(np.float32), colors()),
    "tensor": (torch.from_numpy(colors()).permute(2, 0, 1), colors()),
    "grey tensor": (torch.from_numpy(grey())[None], as_rgb(grey())),
    "float tensor": (torch.from_numpy(colors()).permute(2, 0, 1) / 255, colors()),
    "bfloat16 tensor 0..255": (torch.from_numpy(colors()).permute(2, 0, 1).bfloat16(), colors()),
    "tensor with gradient": (torch.from_numpy(colors()).permute(2, 0, 1).float().requires_grad_(), colors()),
}


@pytest.mark.parametrize("kind", ARRAYS)
def test_arrays_and_tensors(kind: str) -> None:
    given, expected = ARRAYS[kind]
    pixels = read_image(given)  # type: ignore[arg-type]
    assert pixels.dtype == np.uint8
    assert pixels.flags.c_contiguous
    np.testing.assert_array_equal(pixels, expected)


def test_the_result_does_not_share_memory_with_the_argument() -> None:
    given = colors()
    assert not np.shares_memory(read_image(given), given)


def png_of_size(width: int, height: int) -> bytes:
    """A PNG header that claims a size, without the pixels."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def encoded(form: str) -> bytes:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise).save(buffer, format=form)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "empty file"),
        (b"hello, this is text" * 10, "not an image"),
        (b"%PDF-1.4 and so on", "not an image"),
        (encoded("JPEG")[:1500], "damaged or cut short"),
        (encoded("PNG")[:2000], "damaged or cut short"),
        (encoded("WEBP")[:500], "an image|damaged"),
        (encoded("BMP")[:3000], "damaged or cut short"),
        (encoded("TIFF")[:3000], "an image|damaged"),
        (encoded("JPEG")[:20], "an image|damaged"),
        (encoded("PNG")[:100] + bytes(3000), "damaged or cut short"),
        (png_of_size(40_000, 40_000), "safety limit"),
        (png_of_size(10_000, 10_000), "safety limit"),
        (png_of_size(0, 0), "an image|damaged|no pixels"),
    ],
)
def test_broken_files_give_one_error_that_names_them(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "broken.png"
    path.write_bytes(content)
    with pytest.raises(UserError, match=message) as caught:  # warnings are errors in the whole suite
        read_image(path)
    assert "broken.png" in str(caught.value)


def test_missing_files_and_folders_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no image .*missing\.png"):
        read_image(tmp_path / "missing.png")
    with pytest.raises(UserError, match="is a folder"):
        read_image(tmp_path)
    with pytest.raises(UserError, match="no image"):
        read_image("a\0b.png")


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (np.zeros((3, H, W), dtype=np.uint8), "channels come last"),
        (np.zeros((H, W, 2), dtype=np.uint8), "shape"),
        (np.zeros(H, dtype=np.uint8), "shape"),
        (np.zeros((1, H, W, 3), dtype=np.uint8), "shape"),
        (np.zeros((0, W, 3), dtype=np.uint8), "no pixels"),
        (np.zeros((H, W, 3), dtype=np.int64), "type int64"),
        (np.zeros((H, W, 3), dtype=complex), "type complex128"),
        (np.full((H, W, 3), "x"), "type"),
        (np.full((H, W), np.nan), "not finite"),
        (np.full((H, W), np.inf), "not finite"),
        (np.full((H, W), -0.5), "expected 0..1 or 0..255"),
        (np.full((H, W), 256.0), "expected 0..1 or 0..255"),
        (torch.zeros(H, W, 3), "expected \\(3, H, W\\)"),
        (torch.zeros(2, 3, H, W), "expected \\(3, H, W\\)"),
        (torch.zeros(H, W), "expected \\(3, H, W\\)"),
        (torch.zeros(3, 0, W), "no pixels"),
        (torch.zeros(3, H, W, dtype=torch.int32), "type int32"),
        (torch.zeros(3, H, W, dtype=torch.complex64), "complex"),
        (Image.new("RGB", (0, 5)), "no pixels"),
        (Image.fromarray(np.full((H, W), np.nan, dtype=np.float32)), "not finite"),
        (Image.fromarray(np.full((H, W), 1 << 20, dtype=np.int32)), "expected 8 or 16 bit"),
        (b"bytes", "is not an image that can be read"),
        (None, "cannot read an image from NoneType"),
        (3, "cannot read an image from int"),
    ],
)
def test_other_arguments_are_refused_with_what_was_expected(wrong: object, message: str) -> None:
    with pytest.raises(UserError, match=message):
        read_image(wrong)  # type: ignore[arg-type]


# --- folders ---------------------------------------------------------------------------------------------------------


def touch(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"x")


def stems(pairs: list[tuple[Path, Path]]) -> list[str]:
    return [stem.as_posix() for _, stem in pairs]


def test_folders_are_searched_to_any_depth_and_sorted(tmp_path: Path) -> None:
    touch(tmp_path, "b.JPG", "a/z.png", "a/c/d.tiff", "notes.txt", ".hidden/x.png", ".y.png", "a.webp")
    pairs = list_images([tmp_path])
    assert stems(pairs) == ["a/c/d", "a/z", "a", "b"]
    assert [path for path, _ in pairs] == [tmp_path / name for name in ("a/c/d.tiff", "a/z.png", "a.webp", "b.JPG")]


def test_equal_stems_in_one_folder_keep_their_suffix(tmp_path: Path) -> None:
    touch(tmp_path, "x.jpg", "x.png", "y.png", "sub/x.jpg")
    assert stems(list_images([tmp_path])) == ["sub/x", "x.jpg", "x.png", "y"]


def test_files_are_taken_by_name_whatever_their_suffix_and_once(tmp_path: Path) -> None:
    touch(tmp_path, "x.gif", "y.png")
    assert stems(list_images([tmp_path / "x.gif", tmp_path, str(tmp_path / "y.png")])) == ["x", "y"]


def test_dots_in_names_are_kept(tmp_path: Path) -> None:
    touch(tmp_path, "a.b.png", "a.c.png")
    assert stems(list_images([tmp_path])) == ["a.b", "a.c"]


def test_wrong_sources_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no images given"):
        list_images([])
    with pytest.raises(UserError, match="contains no images"):
        list_images([tmp_path])
    with pytest.raises(UserError, match="no image or folder of images"):
        list_images([tmp_path / "missing"])
    touch(tmp_path, "one/x.png", "two/x.png")
    with pytest.raises(UserError, match="the same name"):
        list_images([tmp_path / "one", tmp_path / "two"])


# --- resizing --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "short_edge", "long_edge", "expected"),
    [
        ((480, 640), 800, 1333, (800, 1067)),
        ((427, 640), 800, 1333, (800, 1199)),
        ((640, 480), 800, 1333, (1067, 800)),
        ((300, 900), 800, 1333, (444, 1333)),
        ((1024, 2048), 1024, 2048, (1024, 2048)),
        ((481, 481), 512, 2048, (512, 512)),
        ((480, 640), 0, 100, (480, 640)),
        ((1, 5000), 800, 1333, (1, 1333)),
    ],
)
def test_sizes(size: tuple[int, int], short_edge: int, long_edge: int, expected: tuple[int, int]) -> None:
    assert shortest_edge_size(size, short_edge, long_edge) == expected


def test_resizing_is_pillow_bilinear_and_keeps_the_type() -> None:
    resized = resize_image(colors(), shortest_edge_size(colors().shape[:2], 12, 100))
    expected = Image.fromarray(colors()).resize((20, 12), Image.Resampling.BILINEAR)
    np.testing.assert_array_equal(resized, np.asarray(expected))
    assert resized.dtype == np.uint8
    np.testing.assert_array_equal(resize_image(colors(), shortest_edge_size(colors().shape[:2], 0, 1)), colors())


def test_what_is_in_memory_is_read_as_its_file_is(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)).save(path)
    upload = NamedBytes("a.png", path.read_bytes())
    np.testing.assert_array_equal(read_image(upload), read_image(path))
    assert image_size(upload) == (5, 7)
    for content, reason in (
        (b"", "is an empty file"),
        (b"GIF8", "is not an image"),
        (upload.content[:60], "is damaged"),
    ):
        with pytest.raises(UserError, match=f"'b.*png' {reason}"):
            read_image(NamedBytes("b\n\x1b[31m.png", content))


def test_bytes_and_open_files_are_read_as_their_file_is(tmp_path: Path) -> None:
    path, expected = rgb(tmp_path, "a.png")
    content = path.read_bytes()
    for given in (content, bytearray(content), memoryview(content), io.BytesIO(content)):
        np.testing.assert_array_equal(read_image(given), expected)
    with path.open("rb") as file:
        np.testing.assert_array_equal(read_image(file), expected)
        with pytest.raises(UserError, match=r"a\.png' is an empty file"):  # read to its end
            read_image(file)
    with pytest.raises(UserError, match=r"a\.png' cannot be read: "):
        read_image(file)
    with path.open(encoding="latin-1") as text, pytest.raises(UserError, match="yields str; open it with mode 'rb'"):
        read_image(text)  # pyright: ignore[reportArgumentType]


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_the_transparent_grey_of_png_files_of_few_bits_is_white(tmp_path: Path, bits: int) -> None:
    """Pillow stretches the pixels to 0..255, but not the value that is transparent."""
    values = np.arange(16, dtype=np.uint8).reshape(2, 8) % 2**bits
    rows = [b"\0" + np.packbits((row[:, None] >> np.arange(bits)[::-1]) & 1).tobytes() for row in values]
    parts = [
        chunk(b"IHDR", struct.pack(">IIBBBBB", 8, 2, bits, 0, 0, 0, 0)),
        chunk(b"tRNS", struct.pack(">H", 1)),
        chunk(b"IDAT", zlib.compress(b"".join(rows))),
        chunk(b"IEND", b""),
    ]
    (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(parts))
    expected = np.where(values == 1, 255, values * (255 // (2**bits - 1)))
    with collect_notes() as notes:
        assert (read_image(tmp_path / "a.png") == expected[..., None]).all()
    assert "blended onto white" in notes[0].message
