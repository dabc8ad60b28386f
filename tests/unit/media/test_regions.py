from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import openslide
import pytest
import tifffile
from PIL import Image

from mask2former import limits
from mask2former.errors import UserError
from mask2former.media import regions
from mask2former.media.image_files import ImagePage, NamedBytes, num_pages
from mask2former.media.images import read_image
from mask2former.media.regions import RegionsPart, is_large, open_large, reduced
from mask2former.media.slides import SlideRegions
from mask2former.media.tiff_regions import TiffRegions
from mask2former.notes import collect_notes, counted
from mask2former.pixels import ArrayRegions

SLIDE = Path(__file__).parents[2] / "data" / "tools" / "slide"


@pytest.fixture
def image() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (190, 270, 3), dtype=np.uint8)


def parts(size_hw: tuple[int, int]) -> list[tuple[int, int, int, int]]:
    rng = np.random.default_rng(1)
    found = [(0, 0, *size_hw), (0, 0, 1, 1), (size_hw[0] - 1, size_hw[1] - 1, *size_hw)]
    for _ in range(10):
        (top, bottom), (left, right) = (sorted(rng.choice(length + 1, 2, replace=False)) for length in size_hw)
        found.append((int(top), int(left), int(bottom), int(right)))
    return found


@pytest.mark.parametrize(
    "options",
    [
        {"tile": (64, 48)},
        {"tile": (64, 48), "compression": "zlib", "predictor": True},
        {"rowsperstrip": 7, "compression": "lzw"},
        {"rowsperstrip": 190, "bigtiff": True},
        {"tile": (64, 64), "photometric": "minisblack"},
        {"tile": (64, 64), "byteorder": ">", "dtype": np.uint16},
    ],
)
def test_any_part_of_a_tiff_is_that_of_the_image(tmp_path: Path, image: np.ndarray, options: dict[str, Any]) -> None:
    options = dict(options)
    dtype, byteorder = options.pop("dtype", np.uint8), options.pop("byteorder", None)
    bigtiff = options.pop("bigtiff", False)
    options.setdefault("photometric", "rgb")
    stored = image[..., 0] if options["photometric"] == "minisblack" else image
    with tifffile.TiffWriter(tmp_path / "a.tif", byteorder=byteorder, bigtiff=bigtiff) as writer:
        writer.write(stored.astype(dtype) * (16 if dtype == np.uint16 else 1), **options)
    expected = np.repeat(image[..., :1], 3, axis=2) if stored.ndim == 2 else image
    opened = TiffRegions(tmp_path / "a.tif", (0, 4080) if dtype == np.uint16 else None)
    assert opened.size_hw == image.shape[:2]
    for top, left, bottom, right in parts(opened.size_hw):
        assert np.array_equal(opened.read(top, left, bottom, right), expected[top:bottom, left:right])


def test_a_jpeg_in_a_tiff_has_the_colours_that_it_has_as_a_whole(tmp_path: Path) -> None:
    y, x = np.mgrid[:130, :200]
    smooth = np.stack([y, x, 255 - x], axis=-1).astype(np.uint8)
    tifffile.imwrite(tmp_path / "a.tif", smooth, tile=(64, 64), compression="jpeg", photometric="ycbcr")
    whole = tifffile.imread(tmp_path / "a.tif")
    assert np.array_equal(TiffRegions(tmp_path / "a.tif").read(10, 50, 130, 200), whole[10:, 50:])


def test_what_a_tiff_leaves_out_is_black(tmp_path: Path) -> None:
    def some() -> Any:
        yield np.full((64, 64, 3), 200, np.uint8)
        yield None

    tifffile.imwrite(
        tmp_path / "a.tif",
        some(),
        shape=(64, 128, 3),
        dtype=np.uint8,
        tile=(64, 64),
        compression="zlib",
        photometric="rgb",
    )
    found = TiffRegions(tmp_path / "a.tif").read(0, 0, 64, 128)
    assert (found[:, :64] == 200).all()
    assert not found[:, 64:].any()


def test_what_has_no_value_is_black_in_parts_too(tmp_path: Path, image: np.ndarray) -> None:
    image[30:50] = 255
    nodata = [(42113, "s", 0, "255", True)]
    tifffile.imwrite(tmp_path / "a.tif", image, tile=(64, 64), photometric="rgb", extratags=nodata)
    for bands in (None, (2,)):
        opened = TiffRegions(tmp_path / "a.tif", bands=bands)
        with collect_notes() as notes:
            first, second = opened.read(0, 0, 40, 100), opened.read(40, 0, 60, 100)
        assert not first[30:].any()
        assert not second[:10].any()
        assert second[10:].any()
        assert len(notes) == 1
        assert "pixels declared in the file as having no value, shown black" in notes[0].message


@pytest.mark.parametrize("bands", [None, 3])
def test_parts_of_an_image_are_not_counted_as_images(tmp_path: Path, image: np.ndarray, bands: int | None) -> None:
    spans = (0, 200) if bands is None else ((0, 200), (0, 255), (0, 100))
    tifffile.imwrite(tmp_path / "a.tif", image.astype(np.uint16), tile=(64, 64), photometric="rgb")
    opened = TiffRegions(tmp_path / "a.tif", spans, bands)
    with collect_notes() as notes:
        for top in range(0, 190, 10):
            opened.read(top, 0, top + 10, 270)
    ((message, examples),) = counted(notes).items()
    assert message == "images with values outside value_range, which are clipped"
    (example,) = examples
    assert example.count("a.tif") == (1 if bands is None else 2)  # in the first and the third band
    assert example.endswith(" %) in the first part concerned")


def test_parts_of_a_slide_are_not_counted_as_images(
    tmp_path: Path, image: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A slide with a transparent part, here the right half, is noted once, however many parts of it are read."""
    tifffile.imwrite(tmp_path / "a.tif", image, tile=(64, 64), photometric="rgb")
    opened = SlideRegions(tmp_path / "a.tif")

    def read_region(self: object, corner: tuple[int, int], level: int, size: tuple[int, int]) -> Image.Image:
        part = Image.new("RGBA", size)
        part.paste((9, 9, 9, 255), (0, 0, max(0, 135 - corner[0]), size[1]))
        return part

    monkeypatch.setattr(openslide.OpenSlide, "read_region", read_region)
    with collect_notes() as notes:
        for left in range(0, 270, 50):
            opened.read(0, left, 10, min(left + 50, 270))
    assert [note.example for note in notes] == [
        f"'{tmp_path / 'a.tif'}' (30 % of the pixels) in the first part concerned"
    ]


@pytest.mark.parametrize(
    ("values", "options", "message"),
    [
        (
            np.zeros((40, 40), np.uint16),
            {},
            r"read in parts, .*; give the values of black .*--value-range .*the inference setting value_range.*or the "
            "setting as 'full'",
        ),
        (np.zeros((40, 40), np.float32), {}, "because it contains values of type float32; save it with 8 or 16 bits"),
        (np.zeros((40, 40), np.uint32), {}, "type uint32"),
        (np.zeros((3, 40, 40), np.uint8), {"photometric": "rgb", "planarconfig": "separate"}, "interleaved"),
        (
            np.zeros((40, 40, 4), np.uint8),
            {"photometric": "separated"},
            "4 channels of the photometric kind separated; save",
        ),
        (np.zeros((40, 40), np.uint8), {"photometric": "miniswhite"}, "1 channel of the photometric kind miniswhite"),
        (np.zeros((40, 40, 3), np.uint8), {"photometric": "rgb", "extratags": [(274, 3, 1, 6, False)]}, "is rotated"),
    ],
)
def test_what_is_not_read_by_parts_says_why(
    tmp_path: Path, values: np.ndarray, options: dict[str, Any], message: str
) -> None:
    tifffile.imwrite(tmp_path / "a.tif", values, **options)
    with pytest.raises(UserError, match=message):
        TiffRegions(tmp_path / "a.tif")


def test_damage_is_one_sentence(tmp_path: Path, image: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, image, tile=(64, 64), compression="zlib", photometric="rgb")
    content = path.read_bytes()
    path.write_bytes(content[:20_000] + bytes(200) + content[20_200:])
    opened = TiffRegions(path)
    with pytest.raises(UserError, match=r"'.*a\.tif' is damaged and cannot be decoded"):
        opened.read(0, 0, 190, 270)
    path.write_bytes(b"II*\0garbage")
    with pytest.raises(UserError, match="is damaged"):
        TiffRegions(path)
    path.write_text("no slide")
    with pytest.raises(UserError, match="is not a readable slide"):
        SlideRegions(path)


def test_only_large_images_that_can_be_are_read_by_parts(
    tmp_path: Path, image: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    tifffile.imwrite(tmp_path / "a.tif", image, tile=(64, 64), photometric="rgb")
    Image.fromarray(image).save(tmp_path / "a.png")
    assert not is_large(tmp_path / "a.tif")
    monkeypatch.setattr(regions, "LARGE_PIXELS", 1000)
    assert not is_large(tmp_path / "a.png")
    assert is_large(tmp_path / "a.tif")
    assert is_large(tmp_path / "a.svs")
    found = open_large(tmp_path / "a.tif")
    assert np.array_equal(found.read(3, 4, 5, 6), image[3:5, 4:6])
    monkeypatch.setattr(regions, "LARGE_PIXELS", 1 << 30)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    assert is_large(tmp_path / "a.tif")


def test_a_tiff_in_memory_is_read_by_parts_and_a_slide_must_lie_on_a_disk(
    tmp_path: Path, image: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    tifffile.imwrite(tmp_path / "a.tif", image, tile=(64, 64), photometric="rgb")
    file = NamedBytes("s3://bucket/a.tif", (tmp_path / "a.tif").read_bytes())
    monkeypatch.setattr(regions, "LARGE_PIXELS", 1000)
    assert is_large(file)
    assert np.array_equal(open_large(file).read(3, 4, 105, 206), image[3:105, 4:206])
    with pytest.raises(
        UserError, match=r"'s3://bucket/a.svs' is a slide, which can be read in parts only from a disk; copy it"
    ):
        open_large(NamedBytes("s3://bucket/a.svs", b"slide"))


def test_a_file_of_more_bytes_than_are_read_at_once_is_read_by_parts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file here is sparse, so that it takes no disk space."""
    path = tmp_path / "a.tif"
    options = {"rowsperstrip": 512, "photometric": "rgb"}
    with tifffile.TiffWriter(path, bigtiff=True) as writer:
        writer.write(None, shape=(512, 600, 3), dtype=np.uint8, **options)  # pyright: ignore[reportArgumentType]
    with path.open("r+b") as file:
        file.truncate(limits.IMAGE_BYTES + 1)
    assert is_large(path)
    assert not open_large(path).read(0, 0, 512, 600).any()


@pytest.mark.parametrize(("further", "count"), [([], 1), ([(190, 270, 3)] * 2, 3), ([(95, 135, 3)], 1)])
def test_further_pages_of_the_size_of_the_first_are_noted(
    tmp_path: Path, image: np.ndarray, further: list[tuple[int, ...]], count: int
) -> None:
    with tifffile.TiffWriter(tmp_path / "a.tif") as writer:
        for page in (image, *(np.zeros(shape, np.uint8) for shape in further)):
            writer.write(page, photometric="rgb", tile=(64, 64), contiguous=False, metadata=None)
    with collect_notes() as notes:
        TiffRegions(tmp_path / "a.tif")
    expected = [f"'{tmp_path / 'a.tif'}' ({count})"] if count > 1 else []
    assert [note.example for note in notes] == expected
    assert all("of which only the first is read" in note.message for note in notes)


@pytest.mark.parametrize("contiguous", [True, False])
def test_any_page_of_a_large_tiff_is_read_in_parts(
    tmp_path: Path, image: np.ndarray, contiguous: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pages of their own, or planes that follow the first page without any."""
    path, stack = tmp_path / "a.tif", np.stack([image, 255 - image, image[::-1]])
    if contiguous:
        tifffile.imwrite(path, stack, photometric="rgb", rowsperstrip=16)
    else:
        with tifffile.TiffWriter(path) as writer:
            for page in stack:
                writer.write(page, photometric="rgb", tile=(64, 64), contiguous=False, metadata=None)
    monkeypatch.setattr(regions, "LARGE_PIXELS", image.shape[0] * image.shape[1] - 1)
    with collect_notes() as notes:
        for number, page in enumerate(stack, 1):
            file = ImagePage(path, number)
            assert is_large(file)
            assert np.array_equal(open_large(file).read(20, 30, 190, 200), page[20:190, 30:200])
    assert not notes
    with pytest.raises(UserError, match=r"has no page 4; it has 3"):
        open_large(ImagePage(path, 4))
    path.write_bytes(path.read_bytes()[: int(0.9 * path.stat().st_size)])
    with pytest.raises(UserError, match=r"cut short|damaged"):
        open_large(ImagePage(path, 3)).read(0, 0, *image.shape[:2])


def test_pages_that_are_too_large_to_be_opened_at_once_are_counted(
    tmp_path: Path, image: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    many, pyramid = tmp_path / "a.tif", tmp_path / "b.tif"
    for path, further, kind in ((many, image, 0), (pyramid, image[::2, ::2], 1)):
        with tifffile.TiffWriter(path) as writer:
            writer.write(image, photometric="rgb", metadata=None)
            writer.write(further, photometric="rgb", metadata=None, subfiletype=kind, contiguous=False)
    for value in ("MAX_IMAGE_PIXELS", "IMAGE_BYTES"):
        with monkeypatch.context() as patch:
            patch.setattr(limits if value == "IMAGE_BYTES" else Image, value, 9999)
            assert (num_pages(many), num_pages(pyramid)) == (2, 1)


def test_a_slide_is_read_as_openslide_shows_it(tmp_path: Path, image: np.ndarray) -> None:
    tifffile.imwrite(tmp_path / "a.tif", image, tile=(64, 64), photometric="rgb")  # which OpenSlide reads, too
    opened = SlideRegions(tmp_path / "a.tif")
    assert opened.size_hw == image.shape[:2]
    assert np.array_equal(opened.read(10, 20, 150, 270), image[10:150, 20:])


def test_a_slide_of_aperio_is_its_full_resolution(tmp_path: Path, image: np.ndarray) -> None:
    """A file with levels and a thumbnail, which OpenSlide takes for Aperio's, is read at full resolution."""
    text = "Aperio Image Library v11.2.1\r\n270x190 [0,0 {1}x{0}] (64x64) JPEG/RGB Q=70|AppMag = 20|MPP = 0.5"
    shared = {"photometric": "rgb", "compression": "zlib", "metadata": None}
    with tifffile.TiffWriter(tmp_path / "a.svs") as file:
        file.write(image, tile=(64, 64), description=text.format(*image.shape), **shared)
        file.write(image[::4, ::4], rowsperstrip=16, description="Aperio Image Library v11.2.1", **shared)
        file.write(image[::2, ::2], tile=(64, 64), subfiletype=1, description=text.format(95, 135), **shared)
    assert openslide.OpenSlide.detect_format(tmp_path / "a.svs") == "aperio"
    opened = open_large(tmp_path / "a.svs")
    assert isinstance(opened, SlideRegions)
    assert opened.size_hw == image.shape[:2]
    assert np.array_equal(opened.read(10, 20, 150, 270), image[10:150, 20:])


def test_a_slide_of_dicom_is_no_tile_of_it() -> None:
    """A slide of wsidicomizer 0.26.1, 80x60 pixels in JPEG tiles of 32x32, is read whole, not as one of its tiles."""
    rows, columns = np.mgrid[:60, :80]
    slide = np.stack([3 * columns, 4 * rows, rows + columns], axis=2)
    opened = open_large(SLIDE / "whole.dcm")
    assert isinstance(opened, SlideRegions)
    assert opened.size_hw == (60, 80)
    assert np.abs(opened.read(0, 0, 60, 80) - slide).mean() < 2
    with pytest.raises(UserError, match=r"half.dcm' is a slide at 40x30 pixels, reduced from 80x60"):
        open_large(SLIDE / "half.dcm")
    with pytest.raises(
        UserError, match=r"a whole slide of 80x60 pixels .* tiles of 32x32; predict can read it in parts from"
    ):
        read_image(SLIDE / "whole.dcm")
    assert read_image(ImagePage(SLIDE / "whole.dcm", 2)).shape == (32, 32, 3)


@pytest.mark.parametrize("name", ["slide", "1.2.826.0.1", "slide.tif"])
def test_a_slide_of_dicom_needs_no_suffix(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes((SLIDE / "whole.dcm").read_bytes())
    assert is_large(tmp_path / name)
    expected = open_large(SLIDE / "whole.dcm").read(0, 0, 60, 80)
    np.testing.assert_array_equal(open_large(tmp_path / name).read(0, 0, 60, 80), expected)
    (tmp_path / name).write_bytes((SLIDE / "half.dcm").read_bytes())
    (tmp_path / "other").write_bytes((SLIDE / "whole.dcm").read_bytes())
    with pytest.raises(UserError, match=rf"{name}' is a slide at 40x30 pixels, reduced from 80x60"):
        open_large(tmp_path / name)


@pytest.mark.parametrize("step", [1, 4, 7])
def test_a_reduced_copy_has_the_mean_of_each_square(
    image: np.ndarray, step: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(regions, "STRIP_PIXELS", 270 * 30)
    found = reduced(ArrayRegions(image), step)
    assert found.shape == (-(-190 // step), -(-270 // step), 3)
    assert found[3, 5].tolist() == [
        int(value + 0.5) for value in image[3 * step : 4 * step, 5 * step : 6 * step].mean((0, 1)).tolist()
    ]
    last = image[-1 - 189 % step :, -1 - 269 % step :].mean((0, 1))
    assert np.abs(found[-1, -1] - last).max() <= 0.5


def test_a_part_is_an_image(image: np.ndarray) -> None:
    part = RegionsPart(ArrayRegions(image), 20, 30, (50, 60))
    assert np.array_equal(part.read(5, 6, 50, 60), image[25:70, 36:90])


@pytest.mark.parametrize("options", [{"bitspersample": 12}, {"extratags": [(281, 3, 1, 4095, True)]}])
@pytest.mark.parametrize("shape", [(64, 96), (64, 96, 3)])
def test_the_full_range_has_the_bits_that_the_file_states(
    tmp_path: Path, shape: tuple[int, ...], options: dict[str, Any]
) -> None:
    values = np.random.default_rng(0).integers(0, 4096, shape, dtype=np.uint16)
    kind = "rgb" if len(shape) == 3 else "minisblack"
    if kind == "rgb" and "extratags" in options:
        options = {"extratags": [(281, 3, 3, (4095, 4095, 4095), True)]}
    tifffile.imwrite(tmp_path / "a.tif", values, photometric=kind, **options)
    whole = read_image(tmp_path / "a.tif", value_range="full")
    assert whole.max() == 255
    np.testing.assert_array_equal(TiffRegions(tmp_path / "a.tif", "full").read(0, 0, 64, 96), whole)


def test_values_of_a_few_bits_are_refused(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", np.zeros((32, 32), np.uint8), bitspersample=4)
    with pytest.raises(UserError, match="contains values of 4 bits; save it with 8 or 16"):
        TiffRegions(tmp_path / "a.tif")


@pytest.mark.parametrize("extra", ["unspecified", "unassalpha"])
def test_a_fourth_band_is_alpha_where_the_file_says_so(tmp_path: Path, extra: str) -> None:
    values = np.random.default_rng(0).integers(0, 256, (64, 96, 4), dtype=np.uint8)
    tifffile.imwrite(tmp_path / "a.tif", values, photometric="rgb", extrasamples=[extra])
    with collect_notes() as notes:
        whole = read_image(tmp_path / "a.tif")
    with collect_notes() as by_parts:
        np.testing.assert_array_equal(TiffRegions(tmp_path / "a.tif").read(0, 0, 64, 96), whole)
    assert [(message, example.removesuffix(" in the first part concerned")) for message, example in by_parts] == notes


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_colours_that_are_multiplied_by_alpha_are_read_as_from_a_small_file(tmp_path: Path, dtype: type) -> None:
    values = np.zeros((32, 32, 4), np.uint8)
    values[..., 3] = np.arange(32) * 8
    values[..., :3] = values[..., 3:] // (1, 2, 4)
    stored = values.astype(dtype) * (257 if dtype is np.uint16 else 1)
    tifffile.imwrite(tmp_path / "a.tif", stored, photometric="rgb", extrasamples=["assocalpha"], tile=(16, 16))
    whole = read_image(tmp_path / "a.tif", value_range="full")
    parts = TiffRegions(tmp_path / "a.tif", "full").read(0, 0, 32, 32)
    assert np.abs(parts.astype(int) - whole).max() <= (1 if dtype is np.uint16 else 0)
