"""Columns of tables: shapes, intensities, and lengths in units."""

import numpy as np
import pytest
from PIL import Image, ImageDraw

from mask2former.errors import UserError
from mask2former.ops import masks as mask_ops
from mask2former.structures import Categories, Instances, SemanticSegmentation, tables
from mask2former.structures.tables import PixelSize, image_row, table_columns

CATEGORIES = Categories.from_names(["live", "dead"])


def disc(radius: int) -> np.ndarray:
    image = Image.new("1", (100, 80))
    ImageDraw.Draw(image).ellipse((40 - radius, 40 - radius, 40 + radius, 40 + radius), fill=1)
    return np.array(image)


def cells() -> Instances:
    """A disc, a line of pixels, a single pixel, and an empty mask."""
    masks = np.zeros((4, 80, 100), dtype=bool)
    masks[0] = disc(30)
    masks[1, 10, 20:90] = True
    masks[2, 70, 90] = True
    scores = np.array([0.9, 0.8, 0.7, 0.6])
    return Instances(masks, np.array([0, 0, 1, 1]), scores, mask_ops.boxes_xyxy(masks), CATEGORIES)


def test_shapes_are_those_of_what_was_drawn() -> None:
    circle, line, pixel, nothing = cells().measured_rows()
    assert circle["diameter"] == pytest.approx(61, rel=0.01)
    assert circle["perimeter"] == pytest.approx(2 * np.pi * 30, rel=0.06)  # an estimate
    assert circle["circularity"] == pytest.approx(1, abs=0.1)
    assert circle["eccentricity"] < 0.05
    assert line["eccentricity"] > 0.99
    assert (pixel["perimeter"], pixel["circularity"], pixel["eccentricity"]) == (0, None, 0)
    assert [nothing[name] for name in ("perimeter", "diameter", "centroid_x")] == [None] * 3
    assert circle["mean_intensity"] is None
    assert list(circle) == table_columns()


@pytest.mark.parametrize("channels", [(), (1,), (2,), (3,)])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_intensities_are_means_of_the_values_as_they_are(channels: tuple[int, ...], dtype: type) -> None:
    image = (np.random.default_rng(0).random((80, 100, *channels)) * 200).astype(dtype)
    circle, _, _, nothing = cells().measured_rows(image)
    inside = image[disc(30)].astype(float)
    assert circle["mean_intensity"] == pytest.approx(inside.mean())
    if channels == (3,):
        assert [circle[f"mean_{name}"] for name in ("red", "green", "blue")] == pytest.approx(inside.mean(axis=0))
    else:
        assert circle["mean_red"] is None
    assert nothing["mean_intensity"] is None
    with pytest.raises(UserError, match="40x100 pixels but the result 80x100"):
        cells().measured_rows(image[:40])


@pytest.mark.parametrize("channels", [(), (3,)])
def test_a_mask_with_a_gap_of_a_whole_part_is_measured(
    channels: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tables, "_PIXELS_AT_ONCE", 30)
    labels = np.ones((40, 10), dtype=np.int32)
    labels[1:-1] = 0
    image = np.random.default_rng(0).integers(0, 256, (40, 10, *channels)).astype(np.uint8)
    rows = SemanticSegmentation(labels, CATEGORIES).measured_rows(image)
    inside = image[labels == 1].astype(float)
    assert [row["mean_intensity"] for row in rows if row["id"] == 1] == pytest.approx([inside.mean()])


def test_lengths_are_also_in_units() -> None:
    circle, *_, nothing = cells().measured_rows(pixel_size="0.5 \N{MICRO SIGN}m")
    assert circle["area_um2"] == circle["area"] / 4
    for name in ("perimeter", "diameter", "centroid_x", "x1", "y2"):
        assert circle[f"{name}_um"] == circle[name] / 2
    assert nothing["x1_um"] is None
    assert list(circle) == table_columns(PixelSize(0.5, "um"))
    assert PixelSize.of("1e-3mm") == PixelSize(0.001, "mm")
    assert PixelSize.of("\N{GREEK SMALL LETTER MU}m".join(["2", ""])) == PixelSize(2, "um")


@pytest.mark.parametrize("text", ["", "0.65", "um", "0um", "-1um", "0.65um,0.7um", "1 2um", "1e999um", "1px", "nanum"])
def test_what_is_no_pixel_size_is_refused(text: str) -> None:
    with pytest.raises(UserError, match=r"a pixel size is .* 0\.65um"):
        PixelSize.of(text)


def test_the_row_of_an_image_counts_classes_and_sums_areas() -> None:
    result = cells()
    row = image_row(result.rows(), result.size_hw, CATEGORIES, PixelSize(2, "mm"))
    assert (row["height"], row["width"], row["num"], row["num_live"], row["num_dead"]) == (80, 100, 4, 2, 2)
    areas = result.sparse.areas
    assert (row["total_area"], row["mean_area"], row["median_area"]) == (areas.sum(), areas.mean(), np.median(areas))
    assert row["total_area_mm2"] == 4 * row["total_area"]
    assert row["mean_score"] == pytest.approx(0.75)
    empty = image_row([], (8, 9), CATEGORIES)
    assert (empty["num"], empty["total_area"], empty["mean_area"], empty["mean_score"]) == (0, 0, None, None)


def test_a_data_frame_has_a_row_for_each_mask_and_all_columns() -> None:
    pd = pytest.importorskip("pandas")
    image = Image.new("RGB", (100, 80), (10, 20, 30))
    frame = cells().to_dataframe(image, pixel_size="1um")
    assert isinstance(frame, pd.DataFrame)
    assert list(frame.columns) == table_columns(PixelSize(1, "um"))
    assert frame["category_name"].tolist() == ["live", "live", "dead", "dead"]
    assert frame["mean_green"].tolist()[:3] == [20, 20, 20]
    assert list(cells()[:0].to_dataframe().columns) == table_columns()
