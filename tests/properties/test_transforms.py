"""For any draw of a recipe, image, masks, labels and ignored pixels stay aligned, and objects keep their identity."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from scipy import ndimage

from mask2former.data.annotated import Annotated
from mask2former.data.transforms import (
    Augmentation,
    Crop,
    Flip,
    Geometry,
    LargeScaleJitter,
    Plan,
    Resize,
    ResizeCropFlip,
    class_map,
    object_areas,
)
from mask2former.data.transforms.geometry import clip_polygon
from mask2former.structures import Sample

SIDES = st.integers(1, 24)
SIZES = st.tuples(SIDES, SIDES)
FLIPS: Any = st.sampled_from(["none", "horizontal", "vertical", "both", "turns"])
COLOR = 30  # grey of object 0; each next one is as much brighter


@st.composite
def annotated(draw: st.DrawFn) -> Annotated:
    """Up to five objects of different classes and colours: masks, a map of ids, and at most one polygon."""
    size, count = draw(SIZES), draw(st.integers(0, 5))
    rng = np.random.default_rng(draw(st.integers(0, 1 << 32)))
    coarse = rng.integers(0, count + 1, (3, 3))
    polygons = {}
    if count and rng.random() < 0.6:
        index = int(rng.integers(count))
        (top, left), (bottom, right) = first, last = np.sort(rng.integers(0, 3, (2, 2)), axis=0) + np.array([[0], [1]])
        coarse[coarse == index + 1] = 0
        coarse[top:bottom, left:right] = index + 1
        # Pixel k is in cell 3 k // side, so that a cell begins at its part of the side, rounded up.
        (y1, x1), (y2, x2) = (-(-cells * size // 3) for cells in (first, last))
        polygons[index] = [np.array([[x1, y1], [x2, y1], [x2, y2], [x1, y2]], dtype=np.float64)]
    owner = coarse[np.arange(size[0])[:, None] * 3 // size[0], np.arange(size[1]) * 3 // size[1]]
    image = np.repeat((COLOR * owner)[..., None], 3, axis=2).astype(np.uint8)
    as_mask = rng.random(count + 1) < 0.3
    masks = {index: owner == index + 1 for index in range(count) if as_mask[index + 1] and index not in polygons}
    ids = np.where(np.isin(owner - 1, [*masks, *polygons]), 0, owner).astype(np.int32)
    return Annotated(image, np.arange(count), polygons, ids, masks, ignored=owner == 0)


@st.composite
def augmentations(draw: st.DrawFn) -> Augmentation:
    flip = draw(FLIPS)
    keep_lost = draw(st.booleans())
    if draw(st.booleans()):
        return LargeScaleJitter(draw(SIZES), 0.1, draw(st.floats(0.1, 2)), flip, keep_lost=keep_lost)
    crop = draw(st.none() | SIZES)
    pad = draw(st.none() | SIZES)
    short_edges = draw(st.lists(SIDES, min_size=1, max_size=3))
    args: Any = (tuple(short_edges), draw(st.integers(1, 40)), crop, pad, flip)
    return ResizeCropFlip(
        *args,
        scale_range=draw(st.none() | st.just((0.5, 2.0))),
        max_category_share=draw(st.sampled_from([1.0, 0.75])),
        color_jitter=False,
        keep_lost=keep_lost,
    )


def check_forms(sample: Sample, original: Annotated) -> None:
    target = sample.target
    assert target is not None
    labels, masks = target.labels.numpy(), target.masks.numpy().copy()
    assert masks.shape == (len(labels), 1, *sample.image.shape[-2:])
    assert sample.image.shape[:2] == (1, 3)
    assert (np.diff(labels) > 0).all()  # each is there once, in the order of the file
    assert set(labels.tolist()) <= set(original.labels.tolist())
    for row, label in enumerate(labels.tolist()):
        if label in original.polygons:  # resized as corners, so that its outline may be a pixel off those of the others
            masks[row] = inner(masks[row, 0], 1)
    assert (masks.sum(axis=0) <= 1).all()  # what did not overlap does not
    if target.ignored is not None:  # None: there is no such pixel
        assert not (masks & target.ignored.numpy()).any()


def inner(mask: np.ndarray, depth: int) -> np.ndarray:
    """The part of a mask that is farther than some pixels from its border."""
    return np.asarray(ndimage.binary_erosion(mask, np.ones((2 * depth + 1,) * 2), border_value=0), dtype=bool)


def check_colors(sample: Sample) -> None:
    """Check that the image has the colour of an object where its mask is two pixels from its border."""
    assert sample.target is not None
    for label, mask in zip(sample.target.labels.tolist(), sample.target.masks[:, 0].numpy(), strict=True):
        inside = inner(mask, 2)
        assert (np.abs(sample.image[0, 0].numpy()[inside].astype(int) - COLOR * (label + 1)) <= 1).all()


@given(annotated(), augmentations(), st.integers(0, 1 << 32))
def test_recipes_keep_everything_aligned(original: Annotated, augmentation: Augmentation, seed: int) -> None:
    rng = np.random.default_rng(seed)
    plan = augmentation.draw(original.size_hw, rng, lambda: class_map(original), lambda: object_areas(original))
    sample = plan(original)
    check_forms(sample, original)
    check_colors(sample)
    again = plan(original)
    assert (again.image == sample.image).all()
    if plan.keep_lost:
        assert sample.target is not None
        assert sample.target.labels.tolist() == original.labels.tolist()


@given(annotated(), st.lists(st.sampled_from(["horizontal", "vertical", "crop", "pad"]), max_size=6), st.data())
def test_steps_without_resizing_keep_every_pixel(original: Annotated, names: list[str], data: st.DataObject) -> None:
    transposed = data.draw(st.booleans())
    size, steps, canvas = original.size_hw[:: -1 if transposed else 1], [], None
    for name in names:
        if name == "crop":
            top, left = (data.draw(st.integers(0, side - 1)) for side in size)
            size = data.draw(st.integers(1, size[0] - top)), data.draw(st.integers(1, size[1] - left))
            steps.append(Crop(top, left, size))
        elif name != "pad":
            steps.append(Flip(name))  # pyright: ignore[reportArgumentType]
    if "pad" in names:
        canvas = size[0] + data.draw(SIDES), size[1] + data.draw(SIDES)
    geometry = Geometry(original.size_hw, tuple(steps), canvas, transposed)
    sample = Plan(geometry)(original)
    check_forms(sample, original)
    assert geometry.output_hw == tuple(sample.image.shape[-2:])
    assert sample.target is not None
    owner = np.zeros(sample.image.shape[-2:], int)
    for label, mask in zip(sample.target.labels.tolist(), sample.target.masks[:, 0].numpy(), strict=True):
        owner[mask] = label + 1
    inside = np.s_[: geometry.stepped_hw[0], : geometry.stepped_hw[1]]
    assert (sample.image[0, 0].numpy()[inside] == COLOR * owner[inside]).all()
    assert not owner[geometry.stepped_hw[0] :].any()
    assert not owner[:, geometry.stepped_hw[1] :].any()


@given(SIZES, SIZES)
def test_resizing_gives_the_size_and_invents_no_id(old: tuple[int, int], new: tuple[int, int]) -> None:
    ids = np.arange(old[0] * old[1]).reshape(old)
    for nearest in ("centre", "floor"):
        resized = Geometry(old, (Resize(new),)).ids(ids, nearest)
        assert resized.shape == new
        assert np.isin(resized, ids).all()
        assert (np.diff(resized, axis=0) >= 0).all()  # the order of rows and columns stays
        assert (np.diff(resized, axis=1) >= 0).all()


@given(st.lists(st.tuples(st.floats(-60, 60), st.floats(-60, 60)), min_size=3, max_size=12), SIZES)
def test_clipped_polygons_lie_in_the_image(corners: list[tuple[float, float]], size: tuple[int, int]) -> None:
    clipped = clip_polygon(np.array(corners), size)
    if clipped is not None:
        assert len(clipped) >= 3
        assert (clipped >= 0).all()
        assert (clipped <= size[::-1]).all()
