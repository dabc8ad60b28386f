"""Training samples of every published kind, as observed in the published preparation, for known annotations.

One image of 60x80 pixels with two ordinary objects, one of a few pixels, an empty one, and void or ignored pixels,
as COCO polygons, as a panoptic map, as decoded masks and as a label map.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy import ndimage

from mask2former import recipes
from mask2former.data.annotated import Annotated
from mask2former.data.build import build_augmentation
from mask2former.data.transforms import Geometry, Plan, Resize, ResizeCropFlip, class_map
from mask2former.structures import Sample

SIZE = (60, 80)
LABELS = np.array([17, 3, 90, 5])
BOXES = [(5, 6, 35, 41), (30, 50, 58, 78), (2, 70, 4, 72)]  # top, left, bottom, right; the last object has no pixel


def boxes_as_ids() -> np.ndarray:
    ids = np.zeros(SIZE, dtype=np.int32)
    for number, (top, left, bottom, right) in enumerate(BOXES, start=1):
        ids[top:bottom, left:right] = number
    return ids


def image(ids: np.ndarray) -> np.ndarray:
    """An image with one colour for each id, which shows where each object is in a sample."""
    colors = np.array([[10, 200, 90], [250, 30, 60], [40, 80, 240], [200, 220, 20]], dtype=np.uint8)
    return colors[ids]


def as_polygons() -> Annotated:
    outlines = {
        index: [np.array([[left, top], [right, top], [right, bottom], [left, bottom]], dtype=float)]
        for index, (top, left, bottom, right) in enumerate(BOXES)
    }
    return Annotated(image(boxes_as_ids()), LABELS, outlines)


def as_ids() -> Annotated:
    return Annotated(image(boxes_as_ids()), LABELS, ids=boxes_as_ids())


def as_masks() -> Annotated:
    ids = boxes_as_ids()
    return Annotated(image(ids), LABELS, masks={index: ids == index + 1 for index in range(len(BOXES))})


def as_label_map() -> Annotated:
    """A label map with classes 0 to 149, of which three occur; pixels with 0 in ``ids`` have no class."""
    ids = boxes_as_ids()
    numbers = np.array([0, *(LABELS[:3] + 1)], dtype=np.uint8)[ids]
    return Annotated(image(ids), np.arange(150), ids=numbers, semantic=True)


FORMS = {"polygons": as_polygons, "ids": as_ids, "masks": as_masks, "label map": as_label_map}
RECIPES = {
    "lsj panoptic": "coco-panoptic/r50",
    "lsj instance": "coco-instance/r50",
    "semantic": "ade20k-semantic/r50",
    "panoptic": "ade20k-panoptic/r50",
    "instance, not padded": "cityscapes-instance/r50",
}


def sample_of(name: str, annotated: Annotated, seed: int) -> Sample:
    """A sample drawn by the published recipe at a tenth of its sizes."""
    run = recipes.recipe(RECIPES[name]).run
    config = run.data.augmentation
    if config.name == "large-scale-jitter":
        config = config.model_copy(update={"image_size": (100, 100)})
    elif config.name == "resize-crop-flip":
        small = {
            "short_edges": tuple(edge // 10 for edge in config.short_edges),
            "crop_size": tuple(side // 10 for side in config.crop_size or ()),
            "pad_size": tuple(side // 10 for side in config.pad_size) if config.pad_size else None,
            "color_jitter": False,
        }
        config = config.model_copy(update=small)
    recipe = build_augmentation(config)
    assert recipe is not None
    plan = recipe.draw(annotated.size_hw, np.random.default_rng(seed), lambda: class_map(annotated))
    return plan(annotated)


def inner(mask: np.ndarray) -> np.ndarray:
    """The pixels of a mask more than two pixels from its border, where the image has one colour."""
    return np.asarray(ndimage.binary_erosion(mask, np.ones((3, 3)), iterations=2), dtype=bool)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", RECIPES)
def test_masks_lie_where_the_image_shows_their_object(name: str, form: str) -> None:
    annotated = FORMS[form]()
    colors = {int(label): image(np.array([[number]]))[0, 0] for number, label in enumerate(LABELS[:3], start=1)}
    seen: set[int] = set()
    for seed in range(60):
        sample = sample_of(name, annotated, seed)
        assert sample.target is not None
        pixels = sample.image[0].permute(1, 2, 0).numpy().astype(int)
        for label, mask in zip(sample.target.labels.tolist(), sample.target.masks[:, 0].numpy(), strict=True):
            inside = inner(mask)
            if inside.any():
                assert abs(pixels[inside] - colors[label]).max() <= 1
                seen.add(label)
            # and every inner pixel of the colour is in the mask
            shown = (abs(pixels - colors[label]).max(axis=2) <= 1) if label in colors else np.zeros(mask.shape, bool)
            assert mask[inner(shown)].all()
    assert {17, 3} <= seen


@pytest.mark.parametrize("form", ["ids", "masks"])
@pytest.mark.parametrize("name", ["lsj panoptic", "panoptic", "instance, not padded"])
def test_segments_that_vanish_stay_as_empty_masks_in_their_order(name: str, form: str) -> None:
    vanished = set()
    for seed in range(40):
        target = sample_of(name, FORMS[form](), seed).target
        assert target is not None
        assert target.labels.tolist() == LABELS.tolist()
        areas = target.masks.flatten(1).sum(dim=1)
        assert areas[3] == 0  # listed, but without a pixel
        vanished |= set(np.flatnonzero(areas[:3].numpy() == 0).tolist())
    assert {1, 2} <= vanished


def test_instances_lost_to_the_jitter_are_removed() -> None:
    kept = []
    for seed in range(80):
        target = sample_of("lsj instance", as_polygons(), seed).target
        assert target is not None
        labels = target.labels.tolist()
        assert labels == [label for label in LABELS[:3] if label in labels]  # in order, without the empty one
        kept.append(len(labels))
    assert {1, 2, 3} <= set(kept) | {0}
    assert min(kept) < 3


def test_a_label_map_gives_one_mask_per_class_that_is_left_ascending_and_without_void() -> None:
    counts = set()
    for seed in range(60):
        sample = sample_of("semantic", as_label_map(), seed)
        assert sample.target is not None
        labels = sample.target.labels.tolist()
        assert labels == sorted(set(labels))
        assert set(labels) <= {3, 17, 90}
        assert sample.target.masks.flatten(1).any(dim=1).all()
        assert sample.target.masks.sum(dim=0).max() <= 1
        assert sample.image.shape == (1, 3, 51, 51)
        padding = (sample.image[0] == 128).all(dim=0)
        assert not sample.target.masks[:, 0, padding].any()
        counts.add(len(labels))
    assert {1, 2} <= counts


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", RECIPES)
def test_ignored_pixels_move_with_the_image_and_give_way_to_objects(name: str, form: str) -> None:
    """Ignored pixels are where a mask of them would be, minus objects; images, labels and masks do not change."""
    plain = FORMS[form]()
    region = np.zeros(SIZE, dtype=bool)
    region[20:50, 25:66] = True  # over a part of two objects
    objects = np.isin(boxes_as_ids(), [1, 2, 3])
    if form == "label map":
        assert plain.ids is not None
        extra = np.where(region & ~objects, 150, plain.ids)  # as one more class, which is resized as the others are
        marked = replace(plain, ids=extra, labels=np.arange(150))
    else:
        marked = replace(plain, labels=np.append(LABELS, 99), masks={**plain.masks, len(LABELS): region})
    seen = 0
    for seed in range(20):
        without, found = sample_of(name, plain, seed), sample_of(name, replace(plain, ignored=region), seed)
        assert without.target is not None
        assert found.target is not None
        assert without.target.ignored is None
        assert torch.equal(found.image, without.image)
        assert torch.equal(found.target.labels, without.target.labels)
        assert torch.equal(found.target.masks, without.target.masks)
        target = sample_of(name, marked, seed).target
        assert target is not None
        moved = target.masks[target.labels == (149 if form == "label map" else 99)].any(dim=0)
        expected = moved & ~found.target.masks.any(dim=0)
        if found.target.ignored is None:
            assert not expected.any()
            continue
        assert torch.equal(found.target.ignored, expected)
        padding = (found.image[0] == 128).all(dim=0)
        assert not found.target.ignored[0, padding].any()
        seen += 1
    assert seen > 5


def test_crops_are_chosen_by_classes_alone() -> None:
    plain = as_label_map()
    np.testing.assert_array_equal(class_map(replace(plain, ignored=np.ones(SIZE, dtype=bool))), class_map(plain))


def test_a_label_map_without_classes_gives_no_masks() -> None:
    void = Annotated(image(boxes_as_ids()), np.arange(150), ids=np.zeros(SIZE, np.uint8), semantic=True)
    target = sample_of("semantic", void, 0).target
    assert target is not None
    assert target.masks.shape == (0, 1, 51, 51)
    assert target.labels.dtype == torch.int64


def test_without_padding_crops_keep_the_size_that_is_left() -> None:
    sizes = {tuple(sample_of("instance, not padded", as_ids(), seed).image.shape[2:]) for seed in range(60)}
    assert (51, 102) in sizes  # the crop
    assert all(height <= 51 and width <= 102 for height, width in sizes)
    assert len({width for _, width in sizes}) > 1  # smaller images stay small


# --- nearest pixels --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(24, 32), (61, 79), (97, 133), (180, 241), (7, 200), (60, 81)])
def test_label_maps_are_resized_as_a_tensor_library_does(size: tuple[int, int]) -> None:
    ids = np.random.default_rng(1).integers(0, 150, SIZE)
    expected = F.interpolate(torch.from_numpy(ids)[None, None].double(), size=size, mode="nearest")[0, 0].numpy()
    geometry = Geometry(SIZE, (Resize(size),))
    np.testing.assert_array_equal(geometry.ids(ids, "floor"), expected)
    assert (geometry.ids(ids, "centre") != expected).any()
    labels = Annotated(np.zeros((*SIZE, 3), np.uint8), np.arange(150), ids=(ids + 1).astype(np.uint8), semantic=True)
    np.testing.assert_array_equal(class_map_of(Plan(geometry)(labels)), expected)


def class_map_of(sample: Sample) -> np.ndarray:
    assert sample.target is not None
    return (sample.target.masks[:, 0] * sample.target.labels[:, None, None]).sum(dim=0).numpy()


def test_the_same_crop_of_a_label_map_and_of_a_panoptic_map_differs_at_borders_only() -> None:
    geometry = Geometry(SIZE, (Resize((83, 111)),))
    differs = geometry.ids(boxes_as_ids(), "floor") != geometry.ids(boxes_as_ids(), "centre")
    assert differs.any()
    edges = ndimage.morphological_gradient(geometry.ids(boxes_as_ids(), "centre"), size=5) > 0
    assert edges[differs].all()


# --- the rule on categories ------------------------------------------------------------------------------------------


def shares(recipe: ResizeCropFlip, annotated: Annotated, count: int = 80) -> list[np.ndarray]:
    """The number of pixels of every class in each crop; void is not counted."""
    found = []
    for seed in range(count):
        plan = recipe.draw(SIZE, np.random.default_rng(seed), lambda: class_map(annotated))
        target = plan(annotated).target
        assert target is not None
        found.append(target.masks.flatten(1).sum(dim=1).numpy())
    return found


@pytest.mark.parametrize("form", ["label map", "ids", "polygons"])
def test_crops_of_one_class_are_drawn_again(form: str) -> None:
    annotated = FORMS[form]()

    def bad(limit: float) -> float:
        recipe = ResizeCropFlip(
            (60,), 200, (30, 40), (30, 40), "none", max_category_share=limit, color_jitter=False, keep_lost=False
        )
        counts = shares(recipe, annotated)
        return float(np.mean([len(areas) < 2 or areas.max() >= 0.75 * areas.sum() for areas in counts]))

    assert bad(1.0) > 0.6
    assert bad(0.75) < 0.5 * bad(1.0)


def test_the_class_map_has_no_class_where_nothing_is() -> None:
    classes = class_map(as_label_map())
    np.testing.assert_array_equal(classes, np.array([-1, *LABELS[:3]])[boxes_as_ids()])
    np.testing.assert_array_equal(class_map(as_ids()), classes)
    np.testing.assert_array_equal(class_map(as_masks()), classes)


def test_a_rule_that_no_crop_meets_ends() -> None:
    one = Annotated(image(boxes_as_ids()), np.array([4]), ids=np.ones(SIZE, np.uint8), semantic=True)
    recipe = ResizeCropFlip((60,), 200, (30, 40), None, "none", max_category_share=0.5, color_jitter=False)
    assert all(areas.tolist() == [30 * 40] for areas in shares(recipe, one, 5))
