"""Bands of images for models with other channels: selection, values and errors."""

from __future__ import annotations

import io
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image

from mask2former.data.transforms import ColorJitter, Geometry, Resize, resize_image
from mask2former.errors import UserError
from mask2former.media import tiff_files
from mask2former.media.image_files import ImagePage
from mask2former.media.images import read_image
from mask2former.media.regions import open_large
from mask2former.media.tiff_regions import TiffRegions
from mask2former.notes import collect_notes, sentences
from mask2former.pixels import displayed
from mask2former.visualization import rgb_of

H, W = 24, 40
FIVE = np.random.default_rng(0).integers(0, 256, (H, W, 5)).astype(np.uint8)
GREY: dict[str, Any] = {"photometric": "minisblack"}
CONTIG: dict[str, Any] = {"photometric": "minisblack", "planarconfig": "contig"}


def written(folder: Path, values: np.ndarray, name: str = "a.tif", **options: Any) -> Path:
    tifffile.imwrite(folder / name, values, **options)
    return folder / name


def shown(source: Any, **settings: Any) -> tuple[np.ndarray, str]:
    with collect_notes() as notes:
        return read_image(source, **settings), "\n".join(sentences(notes))


FORMS: dict[str, tuple[np.ndarray, dict[str, Any]]] = {
    "interleaved": (FIVE, CONTIG),
    "planes of one page": (FIVE.transpose(2, 0, 1), {"photometric": "minisblack", "planarconfig": "separate"}),
    "with colours": (FIVE, {"photometric": "rgb", "planarconfig": "contig"}),
    "tiles": (FIVE, {**CONTIG, "tile": (16, 16), "compression": "zlib"}),
    "channels of ImageJ": (FIVE.transpose(2, 0, 1), {"imagej": True, "metadata": {"axes": "CYX"}}),
    "channels of OME": (
        FIVE.transpose(2, 0, 1),
        {"ome": True, "metadata": {"axes": "CYX"}, "photometric": "minisblack"},
    ),
}


@pytest.mark.parametrize("form", FORMS)
def test_all_or_some_bands_are_read_in_their_order(tmp_path: Path, form: str) -> None:
    values, options = FORMS[form]
    path = written(tmp_path, values, "a.ome.tif" if "OME" in form else "a.tif", **options)
    found, notes = shown(path, bands=5)
    np.testing.assert_array_equal(found, FIVE)
    assert (found.dtype, notes) == (np.uint8, "")
    np.testing.assert_array_equal(read_image(path, bands=(4, 1)), FIVE[..., [3, 0]])
    np.testing.assert_array_equal(read_image(path.read_bytes(), bands=(5, 5, 2)), FIVE[..., [4, 4, 1]])


def test_pages_are_bands_where_several_are_wanted_and_that_is_noted(tmp_path: Path) -> None:
    path = written(tmp_path, FIVE.transpose(2, 0, 1), photometric="minisblack")
    found, notes = shown(path, bands=5)
    np.testing.assert_array_equal(found, FIVE)
    assert "whose pages are read as bands" in notes
    first, notes = shown(path, bands=1)  # which every page has
    np.testing.assert_array_equal(first, FIVE[..., :1])
    assert "only the first is read" in notes
    np.testing.assert_array_equal(read_image(ImagePage(path, 3), bands=1), FIVE[..., 2:3])
    with pytest.raises(UserError, match=r"a\.tif.* has 1 band, but the model expects 5"):
        read_image(ImagePage(path, 3), bands=5)
    with pytest.raises(UserError, match="has 5 bands, but the model expects 4; choose 4 by their numbers"):
        read_image(path, bands=4)
    with tifffile.TiffWriter(tmp_path / "mixed.tif") as writer:
        for size in (H, H + 1):
            writer.write(np.zeros((size, W), np.uint8), photometric="minisblack", metadata=None)
    with pytest.raises(UserError, match="page 2 is of another kind than the first"):
        read_image(tmp_path / "mixed.tif", bands=2)


@pytest.mark.parametrize("kind", ["ImageJ", "ImageJ, planes behind a page", "OME, channels first", "OME, planes first"])
def test_channels_of_a_stack_are_those_of_its_first_plane(tmp_path: Path, kind: str) -> None:
    stack = np.random.default_rng(0).integers(0, 256, (3, 2, H, W)).astype(np.uint8)  # z, channels
    if "ImageJ" in kind:
        options: dict[str, Any] = {"imagej": True, "metadata": {"axes": "ZCYX"}}
        path = written(tmp_path, stack, **options)
        if kind == "ImageJ":
            with tifffile.TiffFile(path) as file:
                text = file.pages.first.description
            with tifffile.TiffWriter(path) as writer:
                for page, more in zip(stack.reshape(-1, H, W), [text, *[None] * 5], strict=True):
                    writer.write(page, description=more, contiguous=False, metadata=None, **GREY)
    else:
        axes = "ZCYX" if "channels" in kind else "CZYX"
        values = stack if axes == "ZCYX" else stack.swapaxes(0, 1)
        path = written(tmp_path, values, "a.ome.tif", ome=True, metadata={"axes": axes}, **GREY)
    found, notes = shown(path, bands=2)
    np.testing.assert_array_equal(found, stack[0].transpose(1, 2, 0))
    assert "of which the channels of the first plane and time are read (1): " in notes
    assert "(2 channels, 6 pages)" in notes
    np.testing.assert_array_equal(shown(path, bands=(2, 2, 1))[0], stack[0].transpose(1, 2, 0)[..., [1, 1, 0]])
    with pytest.raises(UserError, match="has 2 bands, but band 3 is requested"):
        read_image(path, bands=(1, 3))


@pytest.mark.parametrize(
    ("bands", "message"),
    [
        (4, "'.*a.tif' has 5 bands, but the model expects 4; choose 4 by their numbers .*bands"),
        (1, "has 5 bands, but the model expects 1"),
        (7, "has 5 bands, but the model expects 7; use images with as many"),
        ((1, 6), r"has 5 bands, but band 6 is requested; choose bands that it has \(--bands"),
    ],
)
def test_other_bands_than_a_file_or_an_array_has_are_refused(tmp_path: Path, bands: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        read_image(written(tmp_path, FIVE, **CONTIG), bands=bands)
    with pytest.raises(UserError, match=message.replace("'.*a.tif'", r"the array of shape \(24, 40, 5\)")):
        read_image(FIVE, bands=bands)


@pytest.mark.parametrize("bands", [(0, 1), (-1,), (1.5,), (), "1", 0, True])
def test_what_is_no_number_of_a_band_is_refused(bands: Any) -> None:
    with pytest.raises(
        UserError, match=r"bands must be band numbers, from 1, or the number of bands of the images, got "
    ):
        read_image(FIVE, bands=bands)


def test_a_transparent_value_of_a_grey_band_stays_what_it_is(tmp_path: Path) -> None:
    grey = np.arange(16, dtype=np.uint8).reshape(4, 4)
    Image.fromarray(grey).save(tmp_path / "t.png", transparency=7)
    assert (read_image(tmp_path / "t.png", bands=1)[..., 0] == grey).all()
    Image.fromarray(grey > 8).save(tmp_path / "b.png", transparency=0)
    assert (read_image(tmp_path / "b.png", bands=1)[..., 0] == np.where(grey > 8, 255, 0)).all()
    deep = grey.astype(np.uint16) * 4000
    Image.fromarray(deep).save(tmp_path / "d.png", transparency=28000)
    assert read_image(tmp_path / "d.png", bands=1, value_range=(0, 65535))[1, 3, 0] == round(28000 / 257)


def test_a_long_description_is_read_at_once(tmp_path: Path) -> None:
    path = written(tmp_path, FIVE, **CONTIG, description="ImageJ=\n" * 20_000, metadata=None)
    start = time.process_time()
    assert read_image(path, bands=5).shape[2] == 5
    assert time.process_time() - start < 5


def test_values_of_all_bands_have_one_range_and_percentiles_are_of_each(tmp_path: Path) -> None:
    deep = np.stack([np.linspace(0, 4095, H * W), np.linspace(0, 40, H * W)], axis=1).reshape(H, W, 2)
    path = written(tmp_path, deep.astype(np.uint16), **CONTIG)
    found = read_image(path, bands=2, value_range=(0, 4095))
    assert found.reshape(-1, 2).max(axis=0).tolist() == [255, 2]
    found, notes = shown(path, bands=2, value_range="percentile")
    assert found.reshape(-1, 2).max(axis=0).tolist() == [255, 255]
    assert "of each band are used as black and white" in notes
    np.testing.assert_array_equal(read_image(deep.astype(np.uint16), bands=2, value_range="percentile"), found)
    with pytest.raises(UserError, match="floats from 0 to 4095"):
        read_image(deep, bands=2)
    deep[3, 4, 1] = np.nan
    for source in (deep, written(tmp_path, deep.astype(np.float32), "nan.tif", **CONTIG)):
        for value_range in ("percentile", (0, 1)):
            with pytest.raises(UserError, match=r"NaN|not finite"):
                read_image(source, bands=2, value_range=value_range)


RANGES = ((0, 4095), (100, 300), (0, 60000))


def test_each_band_may_have_a_range_of_its_own(tmp_path: Path) -> None:
    rng = np.random.default_rng(4)
    values = np.dstack([rng.integers(low, high + 1, (H, W)) for low, high in RANGES]).astype(np.uint16)
    expected = np.dstack([read_image(values[..., [b]], bands=1, value_range=span) for b, span in enumerate(RANGES)])
    assert expected.max(axis=(0, 1)).min() > 250
    path = written(tmp_path, values, **CONTIG, tile=(16, 16))
    pages = written(tmp_path, values.transpose(2, 0, 1), "pages.tif", imagej=True, metadata={"axes": "CYX"})
    tensor = torch.from_numpy(values.astype(np.float32)).permute(2, 0, 1)
    for source in (path, pages, values, tensor, values.astype(np.int32)):
        found, notes = shown(source, bands=3, value_range=list(map(list, RANGES)))
        np.testing.assert_array_equal(found, expected)
        assert notes == ""
    turned = read_image(path, bands=(3, 1), value_range=(RANGES[2], RANGES[0]))
    np.testing.assert_array_equal(turned, expected[..., [2, 0]])
    np.testing.assert_array_equal(TiffRegions(path, RANGES, 3).read(3, 5, 20, 33), expected[3:20, 5:33])
    np.testing.assert_array_equal(rgb_of(values, (H, W), RANGES, 3), expected)
    np.testing.assert_array_equal(read_image(values.astype(np.uint8), bands=3, value_range=RANGES), values % 256)
    notes = shown(values, bands=3, value_range=(*RANGES[:2], (0, 30000)))[1]
    assert "clipped (1): 'array, band 3 of those that are used' (" in notes
    notes = shown(values, bands=3, value_range=(RANGES[0], (0, 40), (0, 30000)))[1]
    assert "clipped (1): 'array, band 2 of those that are used' (" in notes
    assert "%), 'array, band 3 of those that are used' (" in notes
    Image.fromarray(values[..., 0]).save(tmp_path / "grey.png")
    twice = read_image(tmp_path / "grey.png", bands=(1, 1), value_range=((0, 4095), (0, 8190)))
    np.testing.assert_array_equal(twice[..., 0], expected[..., 0])
    assert twice[..., 1].max() == 128


def test_missing_values_count_in_no_range(tmp_path: Path) -> None:
    values = np.dstack([np.full((H, W), 51), np.full((H, W), 502)]).astype(np.int16)
    values[:5, :, 1] = -9999
    path = written(tmp_path, values, **CONTIG, extratags=[(42113, "s", 0, "-9999", True)])
    found, notes = shown(path, bands=2, value_range=((0, 100), (400, 600)))
    assert (found[0, 0].tolist(), found[9, 0].tolist()) == ([130, 0], [130, 130])
    assert "clipped" not in notes


@pytest.mark.parametrize("value_range", [RANGES[:2], (*RANGES, (0, 1))])
def test_as_many_ranges_as_bands_are_needed(tmp_path: Path, value_range: Any) -> None:
    many = f"value_range has {len(value_range)} ranges, one per band, but "
    for source in (FIVE.astype(np.uint16), written(tmp_path, FIVE, **CONTIG), Image.fromarray(FIVE[..., :3])):
        for bands in ((3, 2, 1), 3):
            with pytest.raises(UserError, match=f"^{many}3 bands are read; give the same number of both"):
                read_image(source, bands=bands, value_range=value_range)
    for source in (FIVE[..., :3], written(tmp_path, FIVE.astype(np.uint16), **CONTIG), Image.fromarray(FIVE[..., :3])):
        with pytest.raises(
            UserError, match=f"^{many}the image is read as red, green and blue; set bands to the same number"
        ):
            read_image(source, value_range=value_range)
    with pytest.raises(UserError, match="two ascending numbers"):
        rgb_of(FIVE, (H, W), "no rule", 3)  # pyright: ignore[reportArgumentType]


def test_what_a_band_says_has_no_value_is_black_there_alone(tmp_path: Path) -> None:
    values = np.full((H, W, 2), 100, np.int16)
    values[0, 0, 1] = -9999
    path = written(tmp_path, values, **CONTIG, extratags=[(42113, "s", 0, "-9999", True)])
    for value_range in ((0, 255), "percentile"):
        found, notes = shown(path, bands=2, value_range=value_range)
        assert found[0, 0, 1] == 0
        assert "pixels declared in the file as having no value, shown black" in notes
        assert f"{100 / (H * W * 2):.3g} %" in notes
    found = read_image(path, bands=2, value_range=(0, 255))
    assert (found[0, 0].tolist(), found[0, 1].tolist()) == ([100, 0], [100, 100])


@pytest.mark.parametrize("is_stated", [False, True])
def test_alpha_of_16_bits_does_not_darken_colours_of_12(tmp_path: Path, is_stated: bool) -> None:
    rng = np.random.default_rng(3)
    colors = rng.integers(0, 4096, (H, W, 3)).astype(np.uint16)
    expected = np.rint(colors / 4095 * 255)
    tags = [(281, "H", 1, 4095, True)] if is_stated else []
    for alpha in (np.full((H, W), 65535), np.where(rng.random((H, W)) < 0.5, 65535, 0)):
        values = np.dstack([colors, alpha.astype(np.uint16)])
        path = written(tmp_path, values, photometric="rgb", extratags=tags)
        for source in (path,) if is_stated else (path, values):
            found, notes = shown(source, bands=(4, 3, 2, 1))
            np.testing.assert_array_equal(found[..., :0:-1], expected)
            np.testing.assert_array_equal(found[..., 0], alpha // 257)
            assert ("read as 12 bits" in notes) is not is_stated
    values[..., 3] = np.linspace(0, 65535, W)  # what could as well be another band
    found, notes = shown(written(tmp_path, values, photometric="rgb", extratags=tags), bands=4)
    assert found.max(axis=(0, 1)).tolist() == [16, 16, 16, 255]
    assert "lowest quarter of the range that is inferred for all bands" in notes
    assert "band 1 up to 40" in notes
    assert "lowest quarter" not in shown(values, bands=4, value_range=(0, 65535))[1]


def test_a_file_that_states_its_bits_may_have_dark_bands(tmp_path: Path) -> None:
    values = np.dstack([np.full((H, W), 4000), np.full((H, W), 300)]).astype(np.uint16)
    assert (
        "lowest quarter"
        not in shown(written(tmp_path, values, **CONTIG, extratags=[(281, "H", 1, 4095, True)]), bands=2)[1]
    )
    assert "(band 2 up to 300; the largest is 4000)" in shown(written(tmp_path, values, **CONTIG), bands=2)[1]


def test_alpha_and_colours_of_pillow_are_bands_like_any_other(tmp_path: Path) -> None:
    layers = Image.fromarray(FIVE[..., :4])
    layers.save(tmp_path / "a.png")
    np.testing.assert_array_equal(read_image(tmp_path / "a.png", bands=4), FIVE[..., :4])
    np.testing.assert_array_equal(read_image(layers, bands=(4, 1)), FIVE[..., [3, 0]])
    grey = Image.fromarray(FIVE[..., 0])
    np.testing.assert_array_equal(read_image(grey, bands=1), FIVE[..., :1])
    np.testing.assert_array_equal(read_image(grey, bands=(1, 1, 1)), FIVE[..., [0, 0, 0]])
    palette = Image.fromarray(FIVE[..., :3]).quantize(16)
    np.testing.assert_array_equal(read_image(palette, bands=3), np.asarray(palette.convert("RGB")))
    deep = FIVE[..., 0].astype(np.uint16) * 257
    Image.fromarray(deep).save(tmp_path / "deep.png")
    np.testing.assert_array_equal(read_image(tmp_path / "deep.png", bands=1), FIVE[..., :1])
    layers.convert("RGB").save(tmp_path / "a.jpg")
    with pytest.raises(UserError, match=r"a\.jpg' has 3 bands, but the model expects 1"):
        read_image(tmp_path / "a.jpg", bands=1)


def test_exif_turns_bands_as_it_turns_colours(tmp_path: Path) -> None:
    path = written(tmp_path, FIVE, **CONTIG, extratags=[(274, "H", 1, 6, True)])
    np.testing.assert_array_equal(read_image(path, bands=5), np.rot90(FIVE, -1))
    np.testing.assert_array_equal(read_image(path, bands=5, exif="ignore"), FIVE)


def test_arrays_and_tensors_of_bands() -> None:
    tensor = torch.from_numpy(FIVE).permute(2, 0, 1)
    np.testing.assert_array_equal(read_image(tensor, bands=(5, 1)), FIVE[..., [4, 0]])
    np.testing.assert_array_equal(read_image(FIVE[..., 2], bands=1), FIVE[..., 2:3])
    mine = FIVE.copy()
    read_image(mine, bands=5)[:] = 0
    np.testing.assert_array_equal(mine, FIVE)
    for wrong in (np.zeros((2, 3, 4, 5), np.uint8), np.zeros(7, np.uint8), np.zeros((0, 4, 5), np.uint8)):
        with pytest.raises(UserError, match=r"is not an image|has no pixels"):
            read_image(wrong, bands=5)
    with pytest.raises(UserError, match="type int64; expected"):
        read_image(FIVE.astype(np.int64), bands=5)


def test_without_the_extra_bands_that_pillow_does_not_give_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, rgb = written(tmp_path, FIVE, **CONTIG), io.BytesIO()
    Image.fromarray(FIVE[..., :3]).save(rgb, format="TIFF")
    monkeypatch.setattr("mask2former.media.image_files.can_read_tiff", lambda: False)
    with pytest.raises(UserError, match="microscopy"):
        read_image(path, bands=5)
    np.testing.assert_array_equal(read_image(rgb.getvalue(), bands=(3, 1)), FIVE[..., [2, 0]])
    whole = written(tmp_path, FIVE, "rgbxx.tif", photometric="rgb", planarconfig="contig")
    with Image.open(whole) as image, pytest.raises(UserError, match="has 5 bands, of which 3 are read here"):
        read_image(image, bands=5)


def test_parts_of_large_files_have_the_same_bands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = written(tmp_path, FIVE, **CONTIG, tile=(16, 16))
    regions = TiffRegions(path, bands=(4, 2))
    np.testing.assert_array_equal(regions.read(3, 5, 20, 33), FIVE[3:20, 5:33, [3, 1]])
    with pytest.raises(UserError, match="has 5 bands, but the model expects 3"):
        TiffRegions(path, bands=3)
    monkeypatch.setattr("mask2former.media.regions.LARGE_PIXELS", 100)
    large = open_large(path, bands=5)
    np.testing.assert_array_equal(large.read(0, 0, H, W), FIVE)
    with pytest.raises(UserError, match=r"slide.svs' is a slide, which is read as red, green and blue"):
        open_large(tmp_path / "slide.svs", bands=5)


@pytest.mark.parametrize("resampling", ["antialiased", "bilinear"])
def test_bands_are_resized_each_as_a_colour_is(resampling: Any) -> None:
    found = resize_image(FIVE, (17, 51), resampling)
    three = resize_image(np.ascontiguousarray(FIVE[..., 1:4]), (17, 51), resampling)
    np.testing.assert_array_equal(found[..., 1:4], three)
    four = resize_image(np.ascontiguousarray(FIVE[..., :4]), (17, 51), resampling)  # the last is no alpha
    np.testing.assert_array_equal(four, found[..., :4])


def test_brightness_and_contrast_change_all_bands_and_hue_none() -> None:
    jitter = ColorJitter(brightness=20.0, contrast=1.3, saturation=1.4, hue=9)
    plain = ColorJitter(brightness=20.0, contrast=1.3)
    np.testing.assert_array_equal(jitter(FIVE), plain(FIVE))
    one = np.ascontiguousarray(FIVE[..., :1])
    np.testing.assert_array_equal(jitter(one)[..., 0], plain(FIVE)[..., 0])
    assert Geometry((H, W), (Resize((12, 20)),), (16, 24)).image(FIVE, jitter).shape == (5, 16, 24)


@pytest.mark.parametrize(("count", "expected"), [(1, [0, 0, 0]), (2, [0, 0, 0]), (3, [0, 1, 2]), (5, [0, 1, 2])])
def test_one_or_two_bands_are_drawn_grey_and_others_as_the_first_three(count: int, expected: list[int]) -> None:
    np.testing.assert_array_equal(displayed(FIVE[..., :count]), FIVE[..., expected])


def test_bands_beyond_the_limit_of_bytes_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = written(tmp_path, np.zeros((5, H, W), np.uint8), photometric="minisblack", compression="zlib")
    monkeypatch.setattr(tiff_files.limits, "IMAGE_BYTES", 4 * H * W)
    with pytest.raises(UserError, match="bytes of pixels in its pages"):
        read_image(path, bands=(5, 1))
    with pytest.raises(UserError, match="bytes in the bands that are read"):
        read_image(FIVE, bands=(1, 1, 1, 1, 1))


def test_channels_that_ome_says_lie_in_other_files_are_those_of_this_one(tmp_path: Path) -> None:
    text = '<OME><Image><Pixels SizeC="5" SizeZ="1"><TiffData><UUID FileName="../a.tif"/></TiffData></Pixels></Image>'
    path = written(tmp_path, FIVE.transpose(2, 0, 1), "a.ome.tif", description=f"{text}</OME>", metadata=None, **GREY)
    found, notes = shown(path, bands=5)
    np.testing.assert_array_equal(found, FIVE)
    assert notes == ""
