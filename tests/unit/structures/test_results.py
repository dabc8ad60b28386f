"""Results of the three tasks: records, files, images."""

import json
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from mask2former import visualization
from mask2former.errors import UserError
from mask2former.media.images import read_image
from mask2former.ops import masks as mask_ops
from mask2former.structures import (
    Categories,
    Category,
    Instances,
    PanopticSegmentation,
    Segment,
    Segmentation,
    SemanticSegmentation,
)
from mask2former.structures.tables import ROW_COLUMNS

CATEGORIES = Categories(
    (
        Category(7, "cat", True, (200, 40, 40)),
        Category(11, "dog", True, (40, 200, 40)),
        Category(90, "sky", False, (40, 40, 200)),
    )
)
IMAGE = np.full((40, 60, 3), 128, dtype=np.uint8)


def panoptic() -> PanopticSegmentation:
    ids = np.zeros((40, 60), dtype=np.int32)
    ids[:20] = 1
    ids[22:30, 5:25] = 70_000
    segments = (Segment(1, 2, False, 0.9, 1200), Segment(70_000, 0, True, 0.8, 160))
    return PanopticSegmentation(ids, segments, CATEGORIES)


def instances() -> Instances:
    masks = np.zeros((3, 40, 60), dtype=bool)
    masks[0, 5:20, 10:30] = True
    masks[1, 10:35, 20:50] = True
    scores = np.array([0.9, 0.6, 0.0])
    return Instances(masks, np.array([0, 1, 1]), scores, mask_ops.boxes_xyxy(masks), CATEGORIES)


def semantic(ignore_label: int = 255) -> SemanticSegmentation:
    labels = np.full((40, 60), 2, dtype=np.int64)
    labels[20:] = 0
    labels[:, 50:] = ignore_label
    return SemanticSegmentation(labels, Categories(CATEGORIES.items, ignore_label))


RESULTS = [panoptic, instances, semantic]


def test_panoptic_views_agree_with_the_map() -> None:
    result = panoptic()
    np.testing.assert_array_equal(result.masks.sum(axis=(1, 2)), [1200, 160])
    np.testing.assert_array_equal(result.labels, [2, 0])
    np.testing.assert_array_equal(result.scores, [0.9, 0.8])
    np.testing.assert_array_equal(result.boxes, [[0, 0, 60, 20], [5, 22, 25, 30]])
    assert len(result) == 2
    assert result.size_hw == (40, 60)


def test_panoptic_coco_record_uses_data_set_ids() -> None:
    assert panoptic().to_coco(139) == {
        "image_id": 139,
        "file_name": "139.png",
        "segments_info": [{"id": 1, "category_id": 90}, {"id": 70_000, "category_id": 7}],
    }
    assert panoptic().to_coco(139, "x_ids.png")["file_name"] == "x_ids.png"


def test_instance_coco_records_have_real_boxes_and_data_set_ids() -> None:
    records = instances().to_coco(5)
    assert [record["category_id"] for record in records] == [7, 11, 11]
    assert [record["bbox"] for record in records] == [[10, 5, 20, 15], [20, 10, 30, 25], [0, 0, 0, 0]]
    assert [record["score"] for record in records] == [0.9, 0.6, 0.0]
    np.testing.assert_array_equal(mask_ops.decode([r["segmentation"] for r in records]), instances().masks)


def test_instances_above_a_threshold() -> None:
    assert len(instances()) == 3
    assert len(instances().above(0.6)) == 1  # strictly above
    assert len(instances().above(0.99)) == 0


def test_a_class_may_have_a_threshold_of_its_own() -> None:
    found = instances()
    first, *_ = {found.categories[label].name: None for label in found.labels.tolist()}
    of_first = found.labels == found.categories.names.index(first)
    kept = found.at_least(0.0, {first: 1.0})
    assert kept.scores.tolist() == found.scores[~of_first].tolist()
    assert found.below(0.0, {first: 1.0}).scores.tolist() == found.scores[of_first].tolist()
    assert 0 < len(kept) < len(found)
    assert len(found.at_least(1.0, {first: 0.0})) == of_first.sum()
    with pytest.raises(UserError, match=r"class_thresholds names unknown, but the classes are "):
        found.at_least(0.5, {"unknown": 0.5})


def test_instances_must_be_sorted() -> None:
    result = instances()
    with pytest.raises(AssertionError, match="sorted"):
        Instances(result.masks, result.labels, result.scores[::-1].copy(), result.boxes, CATEGORIES)


def test_semantic_records_cover_the_classes_present_and_leave_out_ignored_pixels() -> None:
    records = semantic().to_coco(5, "a.jpg")
    assert [(record["category_id"], record["file_name"]) for record in records] == [(7, "a.jpg"), (90, "a.jpg")]
    masks = mask_ops.decode([record["segmentation"] for record in records])
    np.testing.assert_array_equal(masks.sum(axis=(1, 2)), [1000, 1000])
    assert "file_name" not in semantic().to_coco(5)[0]


@pytest.mark.parametrize("make", RESULTS)
def test_the_dictionary_is_json_and_says_what_made_it(make) -> None:
    result: Segmentation = make()
    values = json.loads(json.dumps(result.to_dict(model="scenes-tiny", settings={"score_threshold": 0.8})))
    assert values["schema_version"] == 1
    assert values["task"] == result.task
    assert values["model"] == "scenes-tiny"
    assert values["settings"] == {"score_threshold": 0.8}
    assert values["size"] == [40, 60]
    records = values.get("segments") or values.get("instances") or values.get("classes")
    masks = mask_ops.decode([record["segmentation"] for record in records])
    assert [record["area"] for record in records] == [int(mask.sum()) for mask in masks]


@pytest.mark.parametrize("make", RESULTS)
def test_plot_keeps_the_size_and_does_not_touch_the_image(make) -> None:
    before = IMAGE.copy()
    image = make().plot(IMAGE)
    assert image.size == (60, 40)
    assert not np.array_equal(np.asarray(image), IMAGE)
    np.testing.assert_array_equal(before, IMAGE)
    assert make().plot(Image.fromarray(IMAGE), scale=3, labels=False).size == (180, 120)


@pytest.mark.parametrize("make", RESULTS)
def test_plot_refuses_a_image_of_another_size(make) -> None:
    with pytest.raises(UserError, match="20x60 pixels but the result 40x60"):
        make().plot(IMAGE[:20])


@pytest.mark.parametrize(
    ("make", "extra"), [(panoptic, {"x_ids.png"}), (instances, set()), (semantic, {"x_labels.png"})]
)
@pytest.mark.parametrize("name", ["x", "x.json", "x.png"])
def test_save_writes_exactly_the_files_of_the_contract(tmp_path: Path, make, extra: set[str], name: str) -> None:
    written = make().save(tmp_path / "new" / name, IMAGE, model="m")
    assert written == tmp_path / "new" / "x.json"
    assert {path.name for path in written.parent.iterdir()} == {"x.png", "x.json"} | extra
    assert json.loads(written.read_text()) == make().to_dict(model="m")


def test_save_drops_one_suffix_only(tmp_path: Path) -> None:
    instances().save(tmp_path / "x.png.json")
    instances().save(tmp_path / "x.jpg")
    assert {path.name for path in tmp_path.iterdir()} == {"x.png.json", "x.jpg.json"}


def test_saved_ids_decode_to_the_map(tmp_path: Path) -> None:
    panoptic().save(tmp_path / "x")
    rgb = np.asarray(Image.open(tmp_path / "x_ids.png")).astype(np.int64)
    np.testing.assert_array_equal(rgb @ [1, 256, 65536], panoptic().ids)


@pytest.mark.parametrize(("ignore_label", "mode"), [(255, "L"), (65535, "I;16")])
def test_saved_labels_are_8_or_16_bit(tmp_path: Path, ignore_label: int, mode: str) -> None:
    semantic(ignore_label).save(tmp_path / "x")
    with Image.open(tmp_path / "x_labels.png") as image:
        assert image.mode == mode
        np.testing.assert_array_equal(np.asarray(image), semantic(ignore_label).labels)


def test_a_saved_label_beyond_the_classes_is_of_no_class(tmp_path: Path) -> None:
    SemanticSegmentation(np.array([[1, 256, 300]]), CATEGORIES).save(tmp_path / "x")
    with Image.open(tmp_path / "x_labels.png") as image:
        assert np.asarray(image).tolist() == [[1, 255, 255]]  # not 0 and 44, which are classes here or elsewhere


def test_a_part_of_many_classes_leaves_out_the_others() -> None:
    categories = Categories.from_names([f"class {index}" for index in range(300)])
    part = SemanticSegmentation(np.array([[255, 1, 1]]), categories).filter(min_area=2)
    assert [item.label for item in part] == [1]


def test_a_failed_save_leaves_no_half_files(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="pixels"):
        instances().save(tmp_path / "x", IMAGE[:3])
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write"):
        instances().save(tmp_path / "file" / "x")
    (tmp_path / "y.json").mkdir()
    with pytest.raises(UserError, match="cannot write"):
        instances().save(tmp_path / "y")
    assert {path.name for path in tmp_path.iterdir()} == {"file", "y.json"}


def test_empty_results_work(tmp_path: Path) -> None:
    nothing = [
        PanopticSegmentation(np.zeros((40, 60), dtype=np.int32), (), CATEGORIES),
        instances().above(1.0),
        SemanticSegmentation(np.full((40, 60), 255), CATEGORIES),
    ]
    for index, result in enumerate(nothing):
        np.testing.assert_array_equal(np.asarray(result.plot(IMAGE)), IMAGE)
        result.save(tmp_path / str(index), IMAGE)
    assert nothing[0].to_coco(1) == {"image_id": 1, "file_name": "1.png", "segments_info": []}
    assert nothing[1].to_coco(1) == nothing[2].to_coco(1) == []


def test_a_result_prints_as_what_it_found() -> None:
    assert repr(panoptic()) == "PanopticSegmentation(2 in 40x60 pixels: sky, cat)"
    masks, labels, scores = np.zeros((0, 4, 5), bool), np.zeros(0, np.int64), np.zeros(0)
    nothing = Instances(masks, labels, scores, np.zeros((0, 4)), CATEGORIES)
    assert repr(nothing) == "Instances(0 in 4x5 pixels)"
    assert repr(SemanticSegmentation(np.array([[0, 2, 255]]), CATEGORIES)) == (
        "SemanticSegmentation(2 in 1x3 pixels: cat, sky)"
    )


@pytest.mark.parametrize("make", RESULTS)
def test_masks_in_json_are_run_lengths_polygons_or_left_out(make: Callable[[], Segmentation]) -> None:
    result = make()
    key = {"panoptic": "segments", "instance": "instances", "semantic": "classes"}[result.task]
    encoded, outlined, bare = (result.to_dict(masks=form)[key] for form in ("rle", "polygons", "none"))
    for record, outline, rest in zip(encoded, outlined, bare, strict=True):
        mask = record.pop("segmentation")
        polygons = outline.pop("polygons")
        assert record == outline == rest
        assert polygons["type"] == "MultiPolygon"
        area = 0.0
        for ring in (ring for polygon in polygons["coordinates"] for ring in polygon):
            assert ring[0] == ring[-1]
            area += sum(x1 * y2 - x2 * y1 for (x1, y1), (x2, y2) in pairwise(ring)) / 2
        assert area == mask_ops.decode(mask).sum()
    json.dumps(outlined)


@pytest.mark.parametrize("make", RESULTS)
def test_rows_have_a_record_for_each_mask_with_the_facts_of_its_pixels(make: Callable[[], Segmentation]) -> None:
    result = make()
    rows, masks = result.rows(), result.sparse.dense()
    assert len(rows) == len(masks) == 3 - (make is not instances)
    for row, mask in zip(rows, masks, strict=True):
        assert tuple(row) == ROW_COLUMNS
        ys, xs = np.nonzero(mask)
        assert row["area"] == len(xs)
        if not mask.any():
            assert [row[key] for key in ROW_COLUMNS[6:]] == [None] * 6
            continue
        assert (row["x1"], row["y1"], row["x2"], row["y2"]) == (xs.min(), ys.min(), xs.max() + 1, ys.max() + 1)
        np.testing.assert_allclose([row["centroid_x"], row["centroid_y"]], [(xs + 0.5).mean(), (ys + 0.5).mean()])
        assert {7: "cat", 11: "dog", 90: "sky"}[row["category_id"]] == row["category_name"]
        assert row["is_thing"] == (row["category_name"] != "sky")
    json.dumps(rows, allow_nan=False)


def test_ids_of_rows_are_values_of_the_exact_map_and_classes_have_no_score() -> None:
    assert [(row["id"], row["score"]) for row in panoptic().rows()] == [(1, 0.9), (70_000, 0.8)]
    assert [(row["id"], row["score"]) for row in instances().rows()] == [(1, 0.9), (2, 0.6), (3, 0.0)]
    assert [(row["id"], row["score"]) for row in semantic().rows()] == [(0, None), (2, None)]


@pytest.mark.parametrize("make", RESULTS)
@pytest.mark.parametrize("labels", [set(), {0}, {1, 2}, {0, 1, 2}])
def test_a_filter_of_classes_keeps_what_is_of_them_as_it_is(make: Callable[[], Segmentation], labels: set[int]) -> None:
    result = make()
    ids = {CATEGORIES[label].id for label in labels}
    kept = [row for row in result.rows() if row["category_id"] in ids]
    part = result.filter(labels)
    assert type(part) is type(result)
    assert part.size_hw == result.size_hw
    strip = {"id": 0} if make is instances else {}  # ids are renumbered
    assert [row | strip for row in part.rows()] == [row | strip for row in kept]
    part.plot(IMAGE)


def test_a_filtered_class_map_has_room_for_the_value_of_no_class() -> None:
    labels = np.zeros((4, 4), dtype=np.uint8)
    part = SemanticSegmentation(labels, Categories(CATEGORIES.items, 65535)).filter({1})
    assert (part.labels == 65535).all()


def test_classes_are_chosen_by_name_or_index_and_small_or_unsure_masks_left_out() -> None:
    result = instances()
    assert result.filter("dog").labels.tolist() == result.filter(1).labels.tolist() == [1, 1]
    assert result.filter(["cat", 1]) is result  # nothing is left out
    assert result.filter(min_score=0.6).scores.tolist() == [0.9, 0.6]
    assert result.filter(min_area=1).scores.tolist() == [0.9, 0.6]
    assert len(result.filter("dog", min_score=0.7)) == 0
    part = panoptic().filter(min_area=200)
    assert ([segment.id for segment in part.segments], set(np.unique(part.ids))) == ([1], {0, 1})
    assert [item.name for item in semantic().filter(["sky"])] == ["sky"]
    for make in RESULTS:
        with pytest.raises(UserError, match="no class 'fox'; it has: cat, dog, sky"):
            make().filter(["cat", "fox"])
        with pytest.raises(UserError, match=r"no class with the index \(0 to 2\) 7"):
            make().filter(7)  # an id of the data set is no index
    with pytest.raises(UserError, match="has no scores"):
        semantic().filter(min_score=0.5)
    with pytest.raises(UserError, match="from 0 to 1, got 50"):
        result.filter(min_score=50)


@pytest.mark.parametrize("make", RESULTS)
def test_masks_are_seen_one_by_one_or_as_parts(make: Callable[[], Segmentation]) -> None:
    result = make()
    rows, masks = result.rows(), result.sparse.dense()
    assert len(list(result)) == len(result) == len(rows)
    for index, (item, row) in enumerate(zip(result, rows, strict=True)):
        assert (item.id, item.name, item.score, item.area) == (
            row["id"],
            row["category_name"],
            row["score"],
            row["area"],
        )
        np.testing.assert_array_equal(item.mask, masks[index])
        np.testing.assert_array_equal(result[index].mask, masks[index])
        assert result[index - len(rows)].id == item.id
    assert [item.name for item in result[1:]] == [row["category_name"] for row in rows[1:]]
    assert [item.name for item in result[[1]]] == [rows[1]["category_name"]]
    assert [item.name for item in result[np.arange(len(rows)) == 0]] == [rows[0]["category_name"]]
    assert type(result[:0]) is type(result)
    assert len(result[[]]) == 0
    with pytest.raises(IndexError):
        result[len(rows)]
    for wrong in ([1, 0], [0, 0], slice(None, None, -1)):
        with pytest.raises(UserError, match="masks keep their order, each once; select them by ascending indices"):
            result[wrong]


def test_an_item_prints_short_and_is_cut_out_with_its_mask_as_alpha() -> None:
    item = instances()[0]
    assert repr(item) == "ResultItem(cat, score 0.90, 300 pixels)"
    assert repr(semantic()[0]) == "ResultItem(cat, 1000 pixels)"
    image = item.cutout(IMAGE)
    assert (image.size, image.mode) == ((20, 15), "RGBA")
    assert (np.asarray(image) == [128, 128, 128, 255]).all()
    with pytest.raises(UserError, match="empty mask"):
        instances()[2].cutout(IMAGE)
    with pytest.raises(UserError, match="20x60 pixels but the result 40x60"):
        item.cutout(IMAGE[:20])


@pytest.mark.filterwarnings("ignore::UserWarning")  # of the package, that it does without OpenCV
@pytest.mark.parametrize("make", RESULTS)
def test_supervision_gets_boxes_masks_scores_and_classes(make: Callable[[], Segmentation]) -> None:
    sv = pytest.importorskip("supervision")
    result = make()
    found = result.to_supervision()
    kept = result.filter(min_area=1)
    assert isinstance(found, sv.Detections)
    np.testing.assert_array_equal(found.mask, kept.sparse.dense())
    np.testing.assert_array_equal(found.xyxy, kept.sparse.boxes)
    np.testing.assert_array_equal(found.area, kept.sparse.areas)
    assert found.data["class_name"].tolist() == [item.name for item in kept]
    assert found.class_id is not None
    assert found.class_id.tolist() == [item.label for item in kept]
    if result.task == "semantic":
        assert found.confidence is None
    else:
        assert found.confidence is not None
        assert found.confidence.tolist() == pytest.approx([item.score for item in kept])
    assert len(result[:0].to_supervision()) == 0


@pytest.mark.parametrize("make", RESULTS)
def test_whatever_can_be_read_is_drawn_on_as_it_was_seen(tmp_path: Path, make: Callable[[], Segmentation]) -> None:
    result, rng = make(), np.random.default_rng(0)
    upright = Image.fromarray(rng.integers(0, 256, (40, 60, 3), dtype=np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 6  # stored turned
    upright.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "turned.png", exif=exif)
    drawn = np.asarray(result.plot(upright))
    for same in (
        tmp_path / "turned.png",
        str(tmp_path / "turned.png"),
        torch.from_numpy(np.array(upright)).movedim(2, 0),
    ):
        np.testing.assert_array_equal(np.asarray(result.plot(same)), drawn)
    deep = rng.integers(0, 65536, (40, 60), dtype=np.uint16)
    Image.fromarray(deep).save(tmp_path / "deep.png")
    seen = read_image(tmp_path / "deep.png", value_range=(1000, 20000))
    for source in (deep, tmp_path / "deep.png"):
        drawn = result.plot(source, value_range=(1000, 20000))
        np.testing.assert_array_equal(np.asarray(drawn), np.asarray(result.plot(seen)))
    assert not np.array_equal(np.asarray(result.plot(seen, palette="colorblind")), np.asarray(result.plot(seen)))
    with pytest.raises(UserError, match="there is no image"):
        result.plot(tmp_path / "none.png")


def test_a_cutout_looks_at_its_box_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the box of the mask is converted: converting a large image for each of thousands of masks would be slow."""
    seen: list[tuple[int, ...]] = []
    plain = visualization.rgb_of
    monkeypatch.setattr(visualization, "rgb_of", lambda image, size: seen.append(image.shape) or plain(image, size))
    assert instances()[0].cutout(IMAGE).size == (20, 15)
    assert seen == [(15, 20, 3)]
