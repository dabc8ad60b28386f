"""COCO's panoptic format in custom files: reading, and errors in wrong files."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mask2former.data.datasets.coco_panoptic import CocoPanoptic, PanopticFiles
from mask2former.errors import UserError
from mask2former.ops.sparse_masks import SparseMasks
from mask2former.structures.ground_truth import InstanceGroundTruth, PanopticGroundTruth

H, W = 20, 30
BIG = 0x030201  # all three bytes matter
CATEGORIES = [
    {"id": 17, "name": "cell", "isthing": 1},
    {"id": 3, "name": "glass", "isthing": 0, "color": [9, 8, 7]},
]
SEGMENTS = [
    {"id": BIG, "category_id": 17, "iscrowd": 0},
    {"id": 5, "category_id": 3},
    {"id": 256, "category_id": 17, "iscrowd": 1},
]


def ids() -> np.ndarray:
    found = np.full((H, W), 5)
    found[:4] = 0
    found[6:12, 3:9] = BIG
    found[14:, 20:] = 256
    return found


def content() -> dict[str, Any]:
    return {
        "images": [{"id": 1, "file_name": "a.jpg", "height": H, "width": W}],
        "annotations": [{"image_id": 1, "file_name": "a.png", "segments_info": copy.deepcopy(SEGMENTS)}],
        "categories": copy.deepcopy(CATEGORIES),
    }


def write(folder: Path, values: Any, segments: np.ndarray | None = None) -> PanopticFiles:
    (folder / "png").mkdir(parents=True, exist_ok=True)
    (folder / "jpg").mkdir(exist_ok=True)
    found = ids() if segments is None else segments
    colors = np.stack([found & 255, found >> 8 & 255, found >> 16], axis=-1).astype(np.uint8)
    Image.fromarray(colors).save(folder / "png" / "a.png")
    Image.fromarray(np.full((H, W, 3), 77, dtype=np.uint8)).save(folder / "jpg" / "a.jpg")
    (folder / "all.json").write_text(values if isinstance(values, str) else json.dumps(values))
    return PanopticFiles(folder / "all.json", folder / "png", folder / "jpg")


def test_the_three_tasks_of_one_file(tmp_path: Path) -> None:
    files = write(tmp_path, content())
    panoptic = CocoPanoptic([files])
    assert panoptic.categories.names == ("cell", "glass")
    assert panoptic.tasks == ("panoptic", "instance", "semantic")
    assert (panoptic.num_objects.tolist(), panoptic.wide().tolist(), panoptic.image_id(0)) == ([2], [True], 1)
    annotated = panoptic.annotated(0)
    assert annotated.labels.tolist() == [0, 1]  # the order of the list, without the crowd region
    assert annotated.ids is not None
    np.testing.assert_array_equal(annotated.ids == 1, ids() == BIG)
    np.testing.assert_array_equal(annotated.ids == 2, ids() == 5)

    ground_truths = panoptic.ground_truths(0, panoptic.tasks)
    ground_truth = ground_truths["panoptic"]
    assert isinstance(ground_truth, PanopticGroundTruth)
    assert [(label, crowd) for _, label, crowd in ground_truth.segments] == [(0, False), (1, False), (0, True)]
    for (number, _, _), identifier in zip(ground_truth.segments, (BIG, 5, 256), strict=True):
        np.testing.assert_array_equal(ground_truth.ids == number, ids() == identifier)
    np.testing.assert_array_equal(ground_truths["semantic"], np.select([ids() == 5, ids() == 0], [1, 255], 0))
    instances = ground_truths["instance"]
    assert isinstance(instances, InstanceGroundTruth)
    np.testing.assert_array_equal(SparseMasks.of(instances.masks).dense(), [ids() == BIG, ids() == 256])
    assert (instances.labels.tolist(), instances.iscrowd.tolist()) == ([0, 0], [False, True])

    things = CocoPanoptic([files], "instance")
    assert (things.categories.names, things.annotated(0).labels.tolist(), things.tasks) == (
        ("cell",),
        [0],
        ("instance",),
    )
    classes = CocoPanoptic([files], "semantic").annotated(0)
    assert classes.semantic
    assert classes.labels.tolist() == [0, 1]
    assert classes.ids is not None
    np.testing.assert_array_equal(classes.ids == 1, (ids() == BIG) | (ids() == 256))  # crowd regions are labelled, too


def test_void_is_ignored_and_so_are_crowd_regions_that_are_no_target(tmp_path: Path) -> None:
    files = write(tmp_path, content())
    void, crowd = ids() == 0, ids() == 256
    for task, expected in (("panoptic", void | crowd), ("instance", void | crowd), ("semantic", void)):
        samples = CocoPanoptic([files], task)  # pyright: ignore[reportArgumentType]
        np.testing.assert_array_equal(samples.annotated(0, with_ignored=True).ignored, expected)
        assert samples.annotated(0).ignored is None


def test_crowd_regions_of_stuff_are_background_of_things(tmp_path: Path) -> None:
    values = content()
    values["annotations"][0]["segments_info"][1]["iscrowd"] = 1
    files = write(tmp_path, values)
    for task, expected in (("panoptic", ids() != BIG), ("instance", (ids() == 0) | (ids() == 256))):
        ignored = CocoPanoptic([files], task).annotated(0, with_ignored=True).ignored  # pyright: ignore
        np.testing.assert_array_equal(ignored, expected)


def test_palettes_are_colours(tmp_path: Path) -> None:
    files = write(tmp_path, content())
    expected = CocoPanoptic([files]).annotated(0)
    with Image.open(tmp_path / "png" / "a.png") as image:
        palette = image.quantize(8, dither=Image.Dither.NONE)
    assert palette.mode == "P"
    palette.save(tmp_path / "png" / "a.png")
    np.testing.assert_array_equal(CocoPanoptic([files]).annotated(0).ids, expected.ids)


def test_a_listed_segment_without_pixels_is_an_empty_target_and_no_ground_truth(tmp_path: Path) -> None:
    values = content()
    values["annotations"][0]["segments_info"].append({"id": 999, "category_id": 17})
    samples = CocoPanoptic([write(tmp_path, values)])
    target = samples[0].target
    assert target is not None
    assert target.labels.tolist() == [0, 1, 0]
    assert target.masks.any(dim=(1, 2, 3)).tolist() == [True, True, False]
    with pytest.raises(UserError, match=r"a.png' lacks segments that its 'segments_info' lists: 1 \(999\)"):
        samples.ground_truths(0, ["panoptic"])


def test_areas_of_the_file_count_where_the_official_tool_takes_them(tmp_path: Path) -> None:
    values = content()
    areas = [600, 7, "many", 50]  # larger than the visible area; smaller; no number; without pixels
    values["annotations"][0]["segments_info"].append({"id": 999, "category_id": 17})
    for info, area in zip(values["annotations"][0]["segments_info"], areas, strict=True):
        info["area"] = area
    files = write(tmp_path, values)
    ground_truth = CocoPanoptic([files], areas_from_file=True).ground_truths(0, ["panoptic"])["panoptic"]
    assert isinstance(ground_truth, PanopticGroundTruth)
    assert ground_truth.areas is not None
    assert ground_truth.areas.tolist() == [600, (ids() == 5).sum(), (ids() == 256).sum(), 50]
    values["annotations"][0]["segments_info"].pop()
    counted = CocoPanoptic([write(tmp_path, values)]).ground_truths(0, ["panoptic"])["panoptic"]
    assert isinstance(counted, PanopticGroundTruth)
    assert counted.areas is None


def test_ids_that_are_not_listed_are_an_error(tmp_path: Path) -> None:
    values = content()
    del values["annotations"][0]["segments_info"][1]
    samples = CocoPanoptic([write(tmp_path, values)])
    with pytest.raises(UserError, match=r"a.png' has ids that its 'segments_info' does not list: 1 \(5\)"):
        samples.annotated(0)


def test_images_are_found_by_the_name_of_the_png_where_the_file_does_not_name_them(tmp_path: Path) -> None:
    values = content()
    del values["images"]
    assert len(CocoPanoptic([write(tmp_path, values)])[0].name) == 5
    values["images"] = [{"id": 1, "file_name": "a_leftImg8bit.png"}]  # as a well-known tool writes it
    samples = CocoPanoptic([write(tmp_path, values)])
    assert samples[0].name == "a.jpg"
    assert samples.wide().tolist() == [True]  # from the header, since the file has no size


def test_missing_images_are_an_error_or_left_out(tmp_path: Path) -> None:
    values = content()
    values["images"].append({"id": "b", "file_name": "b.jpg", "height": H, "width": W})
    values["annotations"].append({"image_id": "b", "file_name": "b.png", "segments_info": []})
    files = write(tmp_path, values)
    with pytest.raises(UserError, match=r"lacks images of .*b.jpg.* missing_images=skip"):
        CocoPanoptic([files])
    samples = CocoPanoptic([files], missing_images="skip")
    assert len(samples) == 1
    assert "b.jpg" in samples.notes[0]
    Image.fromarray(np.zeros((H, W, 3), dtype=np.uint8)).save(tmp_path / "jpg" / "b.jpg")
    with pytest.raises(UserError, match=r"png' lacks PNGs of .*b.png"):
        CocoPanoptic([files])
    Image.fromarray(np.zeros((H, W, 3), dtype=np.uint8)).save(tmp_path / "png" / "b.png")
    assert len(CocoPanoptic([files])) == 2
    assert len(CocoPanoptic([files], filter_empty=True)) == 1


def test_several_files_are_one_data_set(tmp_path: Path) -> None:
    one, two = content(), content()
    two["categories"].reverse()
    samples = CocoPanoptic([write(tmp_path / "1", one), write(tmp_path / "2", two)])
    assert samples.annotated(0).labels.tolist() == samples.annotated(1).labels.tolist() == [0, 1]
    two["categories"][0]["name"] = "plastic"
    with pytest.raises(UserError, match=r"different categories: id 3 is 'glass' .*'plastic'"):
        CocoPanoptic([write(tmp_path / "1", one), write(tmp_path / "2", two)])


def test_sizes_must_agree(tmp_path: Path) -> None:
    samples = CocoPanoptic([write(tmp_path, content(), ids()[:, :-1])])
    for read in (lambda: samples[0], lambda: samples.ground_truths(0, ["panoptic"])):
        with pytest.raises(UserError, match=r"a.jpg' is 20x30 \(height x width\), but its label map is 20x29"):
            read()


def _with(change: Callable[[dict[str, Any]], Any]) -> dict[str, Any]:
    values = content()
    change(values)
    return values


def _segment(values: dict[str, Any]) -> dict[str, Any]:
    return values["annotations"][0]["segments_info"][0]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ("{", "is not JSON, or is cut short"),
        ("[]", "is not in COCO's panoptic format"),
        (_with(lambda v: v.pop("categories")), "is not in COCO's panoptic format"),
        (_with(lambda v: v.update(categories=[])), "at least one category"),
        (_with(lambda v: v.update(images=3)), "'images' must be a list"),
        (_with(lambda v: v.update(annotations=[])), "has no images"),
        (_with(lambda v: v["annotations"].append(v["annotations"][0])), "ids must be unique"),
        (_with(lambda v: v["annotations"][0].pop("segments_info")), "a list 'segments_info'"),
        (_with(lambda v: v["annotations"][0].update(image_id=2)), "image 2 of 'a.png' is not listed"),
        (
            _with(lambda v: v["images"][0].update(height="x")),
            "'height' and 'width' of the image .* are not positive whole numbers",
        ),
        (_with(lambda v: _segment(v).update(id=0)), "'id' from 1 to 16777215"),
        (_with(lambda v: _segment(v).update(id=1 << 24)), "'id' from 1 to 16777215"),
        (_with(lambda v: _segment(v).update(id="1")), "'id' from 1 to 16777215"),
        (_with(lambda v: _segment(v).update(id=5)), "two segments with the id 5"),
        (_with(lambda v: _segment(v).update(category_id=4)), "has the category 4, which is not listed"),
        (_with(lambda v: _segment(v).update(category_id=[4])), r"has the category \[4\], which is not listed"),
        (_with(lambda v: v["annotations"][0].update(segments_info=[7])), "the segment 7 of 'a.png'"),
    ],
)
def test_wrong_files_are_one_sentence(values: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message) as caught:
        CocoPanoptic([write(tmp_path, values)])
    assert "all.json" in str(caught.value)


def test_missing_files_and_grey_maps_are_named(tmp_path: Path) -> None:
    files = write(tmp_path, content())
    with pytest.raises(UserError, match=r"no annotation file .*none.json"):
        CocoPanoptic([files._replace(annotations=tmp_path / "none.json")])
    with pytest.raises(UserError, match="no folder of PNGs"):
        CocoPanoptic([files._replace(segments=tmp_path / "none")])
    with pytest.raises(UserError, match="no image folder"):
        CocoPanoptic([files._replace(images=tmp_path / "none")])
    Image.fromarray(ids().astype(np.uint16)).save(tmp_path / "png" / "a.png")
    with pytest.raises(UserError, match=r"expected colours \(id = R \+ 256 G"):
        CocoPanoptic([files]).annotated(0)
    (tmp_path / "png" / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    with pytest.raises(UserError, match=r"a\.png"):
        CocoPanoptic([files]).annotated(0)


@pytest.mark.parametrize("absent", [..., None])
def test_class_lists_without_things_are_refused(tmp_path: Path, absent: Any) -> None:
    values = content()
    if absent is None:
        values["categories"][0]["isthing"] = None
    else:
        del values["categories"][0]["isthing"]
    files = write(tmp_path, values)
    for task in ("panoptic", "instance"):
        with pytest.raises(UserError, match=r"categories 1 \(cell\) have no 'isthing'; expected 1 .* 0 for stuff"):
            CocoPanoptic([files], task)  # pyright: ignore[reportArgumentType]
    assert CocoPanoptic([files], "semantic").categories.names == ("cell", "glass")
    table = CocoPanoptic([write(tmp_path, content())]).categories
    assert CocoPanoptic([write(tmp_path, values)], categories=table).categories == table  # a published data set


@pytest.mark.parametrize(("flag", "crowd"), [("0", False), ("1", True), (False, False), (None, False)])
def test_flags_are_read_as_they_are_meant(tmp_path: Path, flag: Any, crowd: bool) -> None:
    values = content()
    values["annotations"][0]["segments_info"][0]["iscrowd"] = flag
    values["categories"][1]["isthing"] = "0"
    samples = CocoPanoptic([write(tmp_path, values)])
    assert [item.is_thing for item in samples.categories] == [True, False]
    ground_truth = samples.ground_truths(0, ["panoptic"])["panoptic"]
    assert isinstance(ground_truth, PanopticGroundTruth)
    assert ground_truth.segments[0][2] is crowd


def test_what_is_left_out_or_taken_for_something_else_is_noted(tmp_path: Path) -> None:
    values = content()
    values["images"][0]["file_name"] = "old/name.jpg"
    values["images"].append({"id": 2, "file_name": "b.jpg", "height": H, "width": W})
    notes = CocoPanoptic([write(tmp_path, values)]).notes
    assert any("images without an annotation: 1 (b.jpg)" in note for note in notes)
    assert any("with the names of their PNGs" in note and "1 (a.jpg for 'old/name.jpg')" in note for note in notes)
    values["annotations"].append({**values["annotations"][0], "image_id": 2})
    with pytest.raises(UserError, match=r"'a\.png' is the PNG of two annotations"):
        CocoPanoptic([write(tmp_path, values)])


def test_several_segments_of_one_class_of_stuff_are_noted(tmp_path: Path) -> None:
    values, segments = content(), ids()
    values["annotations"][0]["segments_info"].append({"id": 6, "category_id": 3})
    segments[:, :2] = 6
    files = write(tmp_path, values, segments)
    [note] = CocoPanoptic([files]).notes
    assert note.endswith("so that they cannot all be found; join them: 1 (a.jpg)")
    assert not CocoPanoptic([files], "semantic").notes


def test_flags_and_categories_of_segments_are_checked(tmp_path: Path) -> None:
    for key, value, message in (
        ("iscrowd", "no", "segment 197121 of 'a.png' has 'no' as 'iscrowd'"),
        ("category_id", True, "has the category True, which is not listed"),
        ("category_id", "17", "has the category '17', which is not listed"),
    ):
        values = content()
        values["annotations"][0]["segments_info"][0][key] = value
        values["categories"].append({"id": 1, "name": "one", "isthing": 1})
        with pytest.raises(UserError, match=message):
            CocoPanoptic([write(tmp_path, values)])


def test_void_is_no_class_however_many_there_are(tmp_path: Path) -> None:
    values = content()
    values["categories"] += [{"id": 1000 + number, "name": f"c{number}", "isthing": 0} for number in range(298)]
    samples = CocoPanoptic([write(tmp_path, values)])
    assert len(samples.categories) == 300
    found = samples.ground_truths(0, ["semantic"])["semantic"]
    assert isinstance(found, np.ndarray)
    assert found[0, 0] >= 300
