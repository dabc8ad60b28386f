"""Which files are opened and by which library, and the errors for others."""

from __future__ import annotations

import itertools
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, features

from mask2former.errors import UserError
from mask2former.media.image_files import (
    IMAGE_SUFFIXES,
    ImagePage,
    NamedBytes,
    all_pages,
    in_memory,
    num_pages,
    why_left_out,
)
from mask2former.media.images import image_size, list_images, read_image
from mask2former.notes import collect_notes, sentences

H, W = 40, 64
COLORS = np.zeros((H, W, 3), np.uint8)
COLORS[:, : W // 2] = 200, 40, 90


def close(pixels: np.ndarray) -> bool:
    """Whether pixels equal ``COLORS`` within losses of compression, except near the border of the colours."""
    difference = abs(pixels.astype(int) - COLORS)
    difference[:, W // 2 - 4 : W // 2 + 4] = 0
    return difference.max() <= 6


@pytest.mark.skipif(not features.check("avif"), reason="Pillow without AVIF")
def test_avif(tmp_path: Path) -> None:
    path = tmp_path / "a.avif"
    Image.fromarray(COLORS).save(path, quality=95, append_images=[Image.new("RGB", (W, H))], save_all=True)
    with collect_notes() as notes:
        assert close(read_image(path))
    assert "of which only the first is read (predict --page reads others" in sentences(notes)[0]
    assert (image_size(path), num_pages(path)) == ((H, W), 2)
    assert [found for found, _ in list_images([tmp_path])] == [path]


def test_heic(tmp_path: Path) -> None:
    heif = pytest.importorskip("pillow_heif")
    path = tmp_path / "a.heic"
    made = heif.from_pillow(Image.fromarray(COLORS))
    made.save(path, quality=95)
    with collect_notes() as notes:
        assert close(read_image(path))
        assert close(read_image(NamedBytes("a.png", path.read_bytes())))
    assert not notes
    assert image_size(path) == (H, W)
    assert [found for found, _ in list_images([tmp_path])] == [path]
    with pytest.raises(UserError, match=r"a\.heic' is damaged|not an image"):
        read_image(NamedBytes("a.heic", path.read_bytes()[:200]))


def test_what_is_left_out_of_a_folder_is_said_by_ending_and_reason(tmp_path: Path) -> None:
    Image.fromarray(COLORS).save(tmp_path / "a.png")
    for name in ("b.gif", "c.GIF", "d.svs", "e.nd2", "f.CR2", "g.psd", "h.mp4", "notes.txt", "a.json", "noending"):
        (tmp_path / name).write_bytes(b"x")
    with collect_notes() as notes:
        assert len(list_images([tmp_path])) == 1
    lines = "\n".join(sentences(notes))
    for line in (
        r"skipped: \.gif \(read only when the file itself is named\) \(2\): ",
        r"skipped: \.svs \(slides: .*\) \(1\)",
        r"skipped: \.nd2 \(microscope formats: ",
        r"skipped: \.cr2 \(camera raw files: ",
        r"skipped: \.psd \(not supported: ",
        r"skipped: \.mp4 \(videos: mask2former track reads them\) \(1\)",
    ):
        assert re.search(line, lines), (line, lines)
    assert len(notes) == 7


def test_what_can_be_read_is_not_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    for suffix in IMAGE_SUFFIXES:
        assert why_left_out(f"a{suffix.upper()}") is None
    without: Any = (".png",)
    monkeypatch.setattr("mask2former.media.image_files.IMAGE_SUFFIXES", without)
    assert why_left_out("a.heic") == "which need: pip install 'mask2former[heic]'"
    assert why_left_out("a.DCM") == "which need: pip install 'mask2former[dicom]'"
    assert why_left_out("a.txt") is why_left_out("a") is None


@pytest.mark.parametrize("mode", ["RGB", "16-bit RGB"])
def test_a_stack_that_is_cut_short_has_the_page_that_is_missing(tmp_path: Path, mode: str) -> None:
    """Otherwise the pages that remain would be taken for all of them."""
    path = tmp_path / "a.tif"
    pixels = np.random.default_rng(0).integers(0, 255, (5, 40, 64, 3), dtype=np.uint8)
    if mode == "RGB":
        first, *others = map(Image.fromarray, pixels)
        first.save(path, save_all=True, append_images=others)
    else:
        tifffile = pytest.importorskip("tifffile")
        with tifffile.TiffWriter(path) as writer:
            for page in pixels.astype(np.uint16) * 257:
                writer.write(page, photometric="rgb", metadata=None, contiguous=False)
    content = path.read_bytes()
    assert num_pages(path) == 5
    path.write_bytes(content[: len(content) * 7 // 10])
    count = num_pages(path)
    assert count == 5
    np.testing.assert_array_equal(read_image(ImagePage(path, 1)), pixels[0])
    with pytest.raises(UserError, match="cut short"):
        read_image(ImagePage(path, count))
    with collect_notes() as notes:
        read_image(path)
    assert "of which only the first is read" in sentences(notes)[0]


KINDS = {
    "RGB": Image.fromarray(COLORS),
    "L": Image.fromarray(COLORS).convert("L"),
    "P": Image.fromarray(COLORS[:, ::-1]).quantize(2),
    "1": Image.fromarray(COLORS[..., 0] > 99),
    "F": Image.fromarray(COLORS[..., 0] / np.float32(255)),
    "small": Image.fromarray(COLORS[:9]),
}


@pytest.mark.parametrize("compression", [None, "tiff_lzw"])
def test_pages_of_other_kinds_do_not_change_what_is_read(tmp_path: Path, compression: str | None) -> None:
    """Pillow keeps the palette of a page for the next one, and when it returns to the first."""
    alone = {}
    for kind, page in KINDS.items():
        page.save(tmp_path / f"{kind}.tif")
        alone[kind] = read_image(tmp_path / f"{kind}.tif")
    path = tmp_path / "a.tif"
    for first, second in itertools.product(KINDS, KINDS):
        order = [first, second, first]
        KINDS[first].save(path, save_all=True, append_images=[KINDS[second], KINDS[first]], compression=compression)
        np.testing.assert_array_equal(read_image(path), alone[first], f"{order}")
        for number, kind in enumerate(order, 1):
            np.testing.assert_array_equal(read_image(ImagePage(path, number)), alone[kind], f"{order} {number}")
        pages = all_pages(path, 3)
        for number in (1, 2, 3, 3, 1, 1, 2):
            np.testing.assert_array_equal(read_image(pages[number - 1]), alone[order[number - 1]], f"{order} {number}")


def test_pages_of_different_kinds_are_read_in_linear_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, count = tmp_path / "a.tif", 24
    first, *others = [KINDS[kind] for kind in (*KINDS, *KINDS)] * 2
    first.save(path, save_all=True, append_images=others)
    opened: list[Any] = []
    open_file = Image.open
    monkeypatch.setattr(Image, "open", lambda *args, **options: opened.append(args) or open_file(*args, **options))
    for page in map(in_memory, all_pages(path, count)):
        image_size(page)
        read_image(page)
    assert len(opened) == 1
