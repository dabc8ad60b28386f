"""GeoTIFF files: from pixels to coordinates, reference systems, and label maps with the same tags."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image

from mask2former.errors import UserError
from mask2former.media.georeference import georeference
from mask2former.media.image_files import ImagePage
from mask2former.notes import collect_notes

PIXELS = np.random.default_rng(4).integers(0, 256, (40, 60, 3)).astype(np.uint8)
SCALE = (33550, 12, 3, (0.5, 0.25, 0.0), False)
TIEPOINT = (33922, 12, 6, (0.0, 0.0, 0.0, 600_000.0, 5_700_000.0, 0.0), False)
POINTS = np.array([[0, 0], [60, 40], [1, 0], [0, 1]])


def keys(*entries: tuple[int, int]) -> Any:
    values = (1, 1, 0, len(entries), *(number for key, value in entries for number in (key, 0, 1, value)))
    return (34735, 3, len(values), values, False)


UTM = keys((1024, 1), (1025, 1), (3072, 32633))


def written(path: Path, *tags: Any, values: np.ndarray = PIXELS, **options: Any) -> Path:
    tifffile.imwrite(path, values, photometric="rgb", extratags=tags, metadata=None, **options)
    return path


@pytest.mark.parametrize("options", [{}, {"bigtiff": True}, {"byteorder": ">"}, {"compression": "jpegxl"}])
def test_scale_and_tiepoint(tmp_path: Path, options: dict[str, Any]) -> None:
    path = written(tmp_path / "a.tif", SCALE, TIEPOINT, UTM, **options)
    for source in (path, str(path), path.read_bytes(), ImagePage(path, 1)):
        found = georeference(source)
        assert found is not None
        assert found.epsg == 32633
        expected = [[600_000, 5_700_000], [600_030, 5_699_990], [600_000.5, 5_700_000], [600_000, 5_699_999.75]]
        np.testing.assert_allclose(found.to_world(POINTS), expected)


def test_a_tiepoint_elsewhere_and_centres_of_pixels(tmp_path: Path) -> None:
    elsewhere = (33922, 12, 6, (10.0, 20.0, 0.0, 600_005.0, 5_699_995.0, 0.0), False)
    found = georeference(written(tmp_path / "a.tif", SCALE, elsewhere, UTM))
    assert found is not None
    np.testing.assert_allclose(found.to_world(POINTS[:1]), [[600_000, 5_700_000]])
    found = georeference(written(tmp_path / "a.tif", SCALE, TIEPOINT, keys((1025, 2), (2048, 4326))))
    assert found is not None
    assert found.epsg == 4326
    np.testing.assert_allclose(found.to_world(np.array([[0.5, 0.5]])), [[600_000, 5_700_000]])


def test_a_matrix_may_rotate(tmp_path: Path) -> None:
    matrix = (0.0, 2.0, 0, 100.0, 3.0, 0.0, 0, 200.0, *[0.0] * 7, 1.0)
    found = georeference(written(tmp_path / "a.tif", (34264, 12, 16, matrix, False), keys((3072, 32767))))
    assert found is not None
    assert found.epsg is None
    np.testing.assert_allclose(found.to_world(np.array([[5, 7]])), [[114, 215]])


def test_a_label_map_gets_the_same_tags(tmp_path: Path) -> None:
    path = written(tmp_path / "a.tif", SCALE, TIEPOINT, UTM, (34737, 2, 6, "UTM33|", False))
    found = georeference(path)
    assert found is not None
    Image.fromarray(PIXELS[..., 0]).save(tmp_path / "labels.tif", tiffinfo=found.tiff_tags(), compression="tiff_lzw")
    assert georeference(tmp_path / "labels.tif") == found
    with tifffile.TiffFile(path) as image, tifffile.TiffFile(tmp_path / "labels.tif") as labels:
        before, after = (file.pages.first.geotiff_tags for file in (image, labels))
    assert after == before
    assert after is not None
    assert after["ProjectedCSTypeGeoKey"] == 32633


def test_other_images_have_none(tmp_path: Path) -> None:
    Image.fromarray(PIXELS).save(tmp_path / "a.png")
    Image.fromarray(PIXELS).save(tmp_path / "b.tif")
    (tmp_path / "c.tif").write_bytes(b"II*\0\xff\xff\xff\xff")
    for source in (tmp_path / "a.png", tmp_path / "b.tif", tmp_path / "c.tif", PIXELS):
        assert georeference(source) is None
    with pytest.raises(UserError, match="there is no image"):
        georeference(tmp_path / "gone.tif")
    many = (33922, 12, 12, (0.0, 0.0, 0.0, 1.0, 2.0, 0.0) * 2, False)
    turned = (274, 3, 1, 6, False)
    for tags, message in (((many,), "without an affine map"), ((SCALE, TIEPOINT, turned), "rotated")):
        with collect_notes() as notes:
            assert georeference(written(tmp_path / "d.tif", *tags)) is None
        assert message in notes[0].message


def test_a_page_of_another_size_has_no_coordinates(tmp_path: Path) -> None:
    with tifffile.TiffWriter(tmp_path / "a.tif") as file:
        for values, tags in ((PIXELS, (SCALE, TIEPOINT, UTM)), (PIXELS, ()), (PIXELS[::2, ::2], ())):
            file.write(values, photometric="rgb", extratags=tags, metadata=None)
    with collect_notes() as notes:
        found = [georeference(ImagePage(tmp_path / "a.tif", number)) for number in (1, 2, 3)]
    assert found[0] is not None
    assert found == [found[0], found[0], None]
    assert [example for _, example in notes] == [f"'{tmp_path / 'a.tif'} (page 3)'"]


@pytest.mark.parametrize(
    "tags",
    [
        [(33550, 12, 1, 0.5, False), TIEPOINT],
        [SCALE, TIEPOINT, (34735, 3, 1, 1, False)],
        [(33550, 2, 4, "abc", False), TIEPOINT],
        [(34264, 12, 1, 1.0, False)],
    ],
)
def test_damaged_tags_are_no_coordinates(tmp_path: Path, tags: list[Any]) -> None:
    found = georeference(written(tmp_path / "a.tif", *tags))
    assert found is None or found.epsg is None
