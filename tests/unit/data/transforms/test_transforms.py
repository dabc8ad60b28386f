"""Equal geometry for images, polygons, ids and masks, and the two published recipes."""

from __future__ import annotations

import tracemalloc
from collections import Counter
from collections.abc import Sequence
from importlib import import_module
from importlib.util import find_spec

import numpy as np
import pytest
import torch
from PIL import Image

from mask2former.config import LargeScaleJitterConfig, ResizeCropFlipConfig
from mask2former.data.annotated import Annotated, place_patches
from mask2former.data.build import build_augmentation
from mask2former.data.transforms import (
    Crop,
    Flip,
    Geometry,
    LargeScaleJitter,
    Plan,
    Resize,
    ResizeCropFlip,
    object_areas,
    resize_image,
)
from mask2former.data.transforms.color_jitter import ColorJitter
from mask2former.data.transforms.geometry import clip_polygon
from mask2former.ops.masks import Patch, polygons_to_patch
from mask2former.structures import Sample

H, W = 60, 80


def image(height: int = H, width: int = W) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


def rectangle(left: float, top: float, right: float, bottom: float) -> np.ndarray:
    return np.array([[left, top], [right, top], [right, bottom], [left, bottom]], dtype=np.float64)


def mask_of(top: int, left: int, bottom: int, right: int, size: tuple[int, int] = (H, W)) -> np.ndarray:
    mask = np.zeros(size, dtype=bool)
    mask[top:bottom, left:right] = True
    return mask


def annotated(polygons: Sequence[np.ndarray] = (), masks: Sequence[np.ndarray] = (), **extras: object) -> Annotated:
    """Objects given as one polygon each, then objects given as masks; the label is the index."""
    patches = {len(polygons) + index: Patch(0, 0, mask) for index, mask in enumerate(masks)}
    ids, alone = place_patches(patches, (H, W))
    labels = np.arange(len(polygons) + len(masks), dtype=np.int64)
    return Annotated(image(), labels, {k: [polygon] for k, polygon in enumerate(polygons)}, ids, alone, **extras)  # type: ignore[arg-type]


def rasterized(polygon: np.ndarray, size_hw: tuple[int, int]) -> np.ndarray:
    top, left, mask = polygons_to_patch([polygon], size_hw)
    whole = np.zeros(size_hw, dtype=bool)
    whole[top : top + mask.shape[0], left : left + mask.shape[1]] = mask
    return whole


def masks(sample: Sample) -> np.ndarray:
    assert sample.target is not None
    assert sample.target.masks.dtype == torch.bool
    return sample.target.masks[:, 0].numpy()


def labels(sample: Sample) -> list[int]:
    assert sample.target is not None
    return sample.target.labels.tolist()


# --- steps -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("axis", ["horizontal", "vertical"])
def test_flips_move_everything_alike(axis: str) -> None:
    turn = (lambda a: a[:, ::-1]) if axis == "horizontal" else (lambda a: a[::-1])
    mask = mask_of(5, 7, 31, 20)
    polygon = rectangle(30, 40, 51, 55)
    sample = Plan(Geometry((H, W), (Flip(axis),)))(annotated([polygon], [mask]))  # type: ignore[arg-type]
    np.testing.assert_array_equal(sample.image[0].permute(1, 2, 0).numpy(), turn(image()))
    np.testing.assert_array_equal(masks(sample)[0], turn(rasterized(polygon, (H, W))))
    np.testing.assert_array_equal(masks(sample)[1], turn(mask))


@pytest.mark.parametrize("jitter", [True, False])
def test_turns_are_all_eight_symmetries_of_a_square(jitter: bool) -> None:
    """Image, polygon and mask are turned or mirrored alike, and each of the eight symmetries occurs."""
    mask, polygon = mask_of(5, 7, 31, 20), rectangle(30, 40, 51, 55)
    source = annotated([polygon], [mask])
    upright = [np.rot90(image(), turns) for turns in range(4)]
    expected = [*upright, *(turned[:, ::-1] for turned in upright)]
    painted = [np.rot90(rasterized(polygon, (H, W)), turns) for turns in range(4)]
    masked = [np.rot90(mask, turns) for turns in range(4)]
    painted, masked = [*painted, *(m[:, ::-1] for m in painted)], [*masked, *(m[:, ::-1] for m in masked)]
    seen = set()
    for seed in range(60):
        rng = np.random.default_rng(seed)
        if jitter:
            plan = LargeScaleJitter((W, W), 1, 1, "turns").draw((H, W), rng)
        else:
            size = {"scale_range": (1.0, 1.0), "color_jitter": False}
            plan = ResizeCropFlip((1,), 1, None, None, "turns", **size).draw((H, W), rng)  # type: ignore[arg-type]
        height, width = plan.geometry.stepped_hw
        sample = plan(source)
        shown = sample.image[0, :, :height, :width].permute(1, 2, 0).numpy()
        which = [np.array_equal(shown, other) for other in expected].index(True)
        np.testing.assert_array_equal(masks(sample)[0][:height, :width], painted[which])
        np.testing.assert_array_equal(masks(sample)[1][:height, :width], masked[which])
        seen.add(which)
    assert len(seen) == 8


@pytest.mark.parametrize("size", [(24, 32), (61, 79), (120, 160), (7, 200), (60, 81), (1, 1)])
def test_images_are_resized_as_pillow_does_to_one_level(size: tuple[int, int]) -> None:
    resized = Resize(size).image(image())
    expected = np.asarray(Image.fromarray(image()).resize((size[1], size[0]), Image.Resampling.BILINEAR))
    assert resized.shape == (*size, 3)
    assert abs(resized.astype(int) - expected).max() <= 1


@pytest.mark.parametrize("size", [(24, 32), (61, 79), (120, 160), (7, 200), (60, 81), (1, 1)])
def test_bilinear_images_are_resized_as_opencv_does_to_one_level(size: tuple[int, int]) -> None:
    """Without antialiasing, each pixel is interpolated from the two nearest centres in each direction."""
    resized = resize_image(image(), size, "bilinear")
    np.testing.assert_array_equal(Resize(size, "bilinear").image(image()), resized)
    expected = image().astype(np.float64)
    for axis in (0, 1):
        low, high, share = neighbours(size[axis], expected.shape[axis])
        share = share[:, None, None] if axis == 0 else share[:, None]
        expected = expected.take(low, axis) * (1 - share) + expected.take(high, axis) * share
    assert resized.shape == (*size, 3)
    assert resized.dtype == np.uint8
    assert abs(resized - expected).max() <= 0.5 + 1e-3
    if find_spec("cv2") is not None:
        theirs = import_module("cv2").resize(image(), (size[1], size[0]))
        assert abs(resized.astype(int) - theirs).max() <= 1
    if size[0] < H:
        assert abs(resized.astype(int) - resize_image(image(), size)).max() > 20  # antialiased


def neighbours(new: int, old: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Indices of the two old pixels around each new centre, and the weight of the second; at borders, one repeats."""
    position = np.clip((np.arange(new) + 0.5) * old / new - 0.5, 0, old - 1)
    low = np.floor(position).astype(int)
    return low, np.minimum(low + 1, old - 1), position - low


@pytest.mark.parametrize("size", [(24, 32), (61, 79), (97, 133), (7, 200)])
def test_ids_are_resized_to_the_nearest_centre(size: tuple[int, int]) -> None:
    ids = np.random.default_rng(1).integers(0, 100_000, (H, W)).astype(np.int32)
    (rows, sure_rows), (columns, sure_columns) = (nearest(new, old) for new, old in zip(size, (H, W), strict=True))
    resized = Geometry((H, W), (Resize(size),)).ids(ids)
    assert resized.dtype == np.int32
    np.testing.assert_array_equal(
        resized[sure_rows][:, sure_columns], ids[rows][:, columns][sure_rows][:, sure_columns]
    )


def nearest(new: int, old: int) -> tuple[np.ndarray, np.ndarray]:
    """The old pixel under each new centre, and whether that centre is not exactly between two pixels."""
    index = (np.arange(new) + 0.5) * old / new
    return np.floor(index).astype(int), abs(index - np.rint(index)) > 1e-6


def test_an_id_map_gives_the_masks_that_each_object_would_alone() -> None:
    rng = np.random.default_rng(2)
    parts = rng.integers(0, 7, (H, W))
    separate = [parts == number for number in range(1, 7)]
    steps = (Flip("horizontal"), Resize((93, 121)), Crop(11, 17, (70, 64)))
    geometry = Geometry((H, W), steps, (64, 80))
    together = masks(Plan(geometry)(annotated((), separate)))
    for mask, moved in zip(separate, together, strict=True):
        np.testing.assert_array_equal(masks(Plan(geometry)(annotated((), [mask])))[0], moved)
    assert together.sum(axis=0).max() == 1


def test_overlapping_masks_travel_on_their_own() -> None:
    first, second, third = mask_of(5, 5, 30, 30), mask_of(20, 20, 50, 50), mask_of(50, 60, 58, 70)
    ids, alone = place_patches({k: Patch(0, 0, m) for k, m in enumerate([first, second, third])}, (H, W))
    assert ids is not None
    assert sorted(np.unique(ids)) == [0, 1, 3]
    assert list(alone) == [1]
    sample = Plan(Geometry((H, W), (Flip("vertical"),)))(annotated((), [first, second, third]))
    np.testing.assert_array_equal(masks(sample), np.stack([first, second, third])[:, ::-1])
    assert labels(sample) == [0, 1, 2]


def test_polygons_move_as_coordinates() -> None:
    polygon = np.array([[10.5, 20.25], [40.75, 18.0], [33.0, 50.5]])
    geometry = Geometry((H, W), (Flip("horizontal"), Resize((120, 200)), Crop(10, 20, (110, 180))))
    expected = np.stack([(80 - polygon[:, 0]) * 2.5 - 20, polygon[:, 1] * 2 - 10], axis=1)
    np.testing.assert_allclose(geometry.polygons([polygon])[0], expected, rtol=0, atol=1e-9)
    late = Geometry((H, W), (Resize((120, 200)), Crop(10, 20, (110, 180)), Flip("horizontal")))
    expected = np.stack([180 - (polygon[:, 0] * 2.5 - 20), polygon[:, 1] * 2 - 10], axis=1)
    np.testing.assert_allclose(late.polygons([polygon])[0], expected, rtol=0, atol=1e-9)


def test_the_canvas_pads_with_128_and_zero_and_cuts_what_is_larger() -> None:
    everything = rectangle(0, 0, W, H)
    larger = Plan(Geometry((H, W), (), (H + 6, W + 9)))(annotated([everything], [mask_of(0, 0, H, W)]))
    assert larger.image.shape == (1, 3, H + 6, W + 9)
    np.testing.assert_array_equal(larger.image[0, :, :H, :W].permute(1, 2, 0).numpy(), image())
    assert (larger.image[0, :, H:] == 128).all()
    assert (larger.image[0, :, :, W:] == 128).all()
    for mask in masks(larger):
        np.testing.assert_array_equal(mask, mask_of(0, 0, H, W, (H + 6, W + 9)))
    smaller = Plan(Geometry((H, W), (), (32, 32)))(annotated([everything], [mask_of(0, 0, H, W)]))
    np.testing.assert_array_equal(smaller.image[0].permute(1, 2, 0).numpy(), image()[:32, :32])
    assert masks(smaller).all()


def test_frames_of_a_clip_can_share_one_draw() -> None:
    plan = ResizeCropFlip((40, 50), 200, (32, 40), (48, 48)).draw((H, W), np.random.default_rng(5))
    frames = [plan(annotated([rectangle(10, 10, 50, 40)])) for _ in range(2)]
    assert torch.equal(frames[0].image, frames[1].image)
    np.testing.assert_array_equal(masks(frames[0]), masks(frames[1]))


# --- clipping --------------------------------------------------------------------------------------------------------


def test_clipped_polygons_cover_the_pixels_of_the_whole_ones() -> None:
    """Only pixels on the outline may differ, since clipped edges start elsewhere on the rasteriser's grid of fifths."""
    rng = np.random.default_rng(3)
    some = 0
    for _ in range(300):
        angles = np.sort(rng.uniform(0, 2 * np.pi, rng.integers(3, 12)))
        radii = rng.uniform(4, 45, angles.size)
        polygon = rng.uniform((0, 0), (W, H)) + radii[:, None] * np.stack([np.cos(angles), np.sin(angles)], axis=1)
        whole = rasterized(polygon, (H, W))
        clipped = clip_polygon(polygon, (H, W))
        if clipped is None:
            assert whole.sum() <= 2
            continue
        assert clipped.min() >= 0
        assert (clipped.max(axis=0) <= (W, H)).all()
        for row, column in np.argwhere(rasterized(clipped, (H, W)) != whole):
            assert distance(polygon, np.array([column + 0.5, row + 0.5])) < 0.75
        some += len(clipped) != len(polygon)
    assert some > 50


def distance(polygon: np.ndarray, point: np.ndarray) -> float:
    """The distance from a point to the outline, in pixels."""
    edges = np.roll(polygon, -1, axis=0) - polygon
    along = np.clip(((point - polygon) * edges).sum(axis=1) / (edges * edges).sum(axis=1), 0, 1)
    return float(np.linalg.norm(polygon + along[:, None] * edges - point, axis=1).min())


def test_what_lies_outside_or_only_touches_is_lost() -> None:
    assert clip_polygon(rectangle(-20, 5, 0, 30), (H, W)) is None
    assert clip_polygon(rectangle(W, 5, W + 9, 30), (H, W)) is None
    assert clip_polygon(rectangle(5, H + 1, 9, H + 9), (H, W)) is None
    assert clip_polygon(np.array([[-5.0, 3.0], [3.0, -5.0], [-5.0, -5.0]]), (H, W)) is None  # beyond the corner
    inside = rectangle(5, 5, 9, 9)
    np.testing.assert_array_equal(clip_polygon(inside, (H, W)), inside)
    np.testing.assert_array_equal(clip_polygon(rectangle(0, 0, W, H), (H, W)), rectangle(0, 0, W, H))


# --- large-scale jitter ----------------------------------------------------------------------------------------------


def draws(recipe: LargeScaleJitter | ResizeCropFlip, count: int = 400, size: tuple[int, int] = (H, W)) -> list[Plan]:
    return [recipe.draw(size, np.random.default_rng([7, seed])) for seed in range(count)]


def step(plan: Plan, kind: type) -> list:
    return [entry for entry in plan.geometry.steps if isinstance(entry, kind)]


def test_jitter_draws_flip_scale_and_crop_as_published() -> None:
    plans = draws(LargeScaleJitter((64, 64)))
    flips = [bool(step(plan, Flip)) for plan in plans]
    assert 0.4 < np.mean(flips) < 0.6
    assert all(isinstance(plan.geometry.steps[0], Flip) for plan, flip in zip(plans, flips, strict=True) if flip)
    longer = np.array([step(plan, Resize)[0].size_hw for plan in plans])
    assert (longer[:, 1] >= longer[:, 0]).all()  # at scale 1 the longer side is that of the box
    assert longer.max() <= 128
    assert longer[:, 1].min() <= 12
    assert abs(longer[:, 1].mean() - 64 * 1.05) < 5
    np.testing.assert_array_equal(longer[:, 0], np.rint(longer[:, 0]))
    assert (abs(longer[:, 0] - longer[:, 1] * H / W) <= 1).all()
    for plan, (height, width) in zip(plans, longer, strict=True):
        (crop,) = step(plan, Crop)
        assert crop.size_hw == (min(64, height), min(64, width))
        assert plan.geometry.output_hw == (64, 64)
        if height > 70:  # one random number for both axes
            assert abs(crop.top / (height - 64) - crop.left / (width - 64)) < 0.5 / 6 + 0.5 / 28 + 1e-9


def test_sizes_and_offsets_round_half_to_even() -> None:
    class Fixed:
        """A generator whose numbers are known."""

        def __init__(self, scale: float, index: float) -> None:
            self.scale, self.numbers = scale, [0.9, index]

        def random(self) -> float:
            return self.numbers.pop(0)

        def uniform(self, low: float, high: float) -> float:
            assert (low, high) == (0.1, 2.0)
            return self.scale

    plan = LargeScaleJitter((64, 64)).draw((50, 100), Fixed(65 / 64, 0.5))  # type: ignore[arg-type]
    assert step(plan, Resize)[0].size_hw == (32, 65)  # 32.5 is rounded to even
    assert (step(plan, Crop)[0].top, step(plan, Crop)[0].left) == (0, 0)  # and so is an offset of 0.5
    plan = LargeScaleJitter((64, 64)).draw((100, 100), Fixed(67 / 64, 0.5))  # type: ignore[arg-type]
    assert (step(plan, Crop)[0].top, step(plan, Crop)[0].left) == (2, 2)  # 1.5


def test_jitter_removes_lost_objects_before_rasterising_and_keeps_order() -> None:
    polygons = [rectangle(70, 50, 78, 58), rectangle(2, 2, 6, 6), rectangle(1, 1, 30, 30)]
    pixels = [mask_of(50, 70, 55, 75), mask_of(3, 40, 20, 60)]
    plan = Plan(Geometry((H, W), (Resize((120, 160)), Crop(0, 0, (64, 64))), (64, 64)), keep_lost=False)
    sample = plan(annotated(polygons, pixels))
    assert labels(sample) == [1, 2]
    everything = Plan(plan.geometry, keep_lost=True)(annotated(polygons, pixels))
    assert labels(everything) == [0, 1, 2, 3, 4]
    np.testing.assert_array_equal(masks(everything).any(axis=(1, 2)), [False, True, True, False, False])
    np.testing.assert_array_equal(masks(everything)[1:3], masks(sample))


def test_a_polygon_too_small_for_a_pixel_is_not_lost() -> None:
    plan = Plan(Geometry((H, W), (Resize((6, 8)), Crop(0, 0, (6, 8))), (64, 64)), keep_lost=False)
    sample = plan(annotated([rectangle(30, 30, 31, 31), rectangle(5, 5, 5 + 1e-5, 20)]))
    assert labels(sample) == [0]  # but one with an empty box is


def test_parts_of_an_object_are_united_and_lost_parts_do_not_matter() -> None:
    parts = [rectangle(0, 0, 10, 10), rectangle(20, 20, 30, 30), rectangle(70, 50, 80, 60)]
    source = Annotated(image(), np.array([4]), {0: parts})
    sample = Plan(Geometry((H, W), (Crop(0, 0, (40, 40)),), (50, 50)), keep_lost=False)(source)
    np.testing.assert_array_equal(masks(sample)[0], mask_of(0, 0, 10, 10, (50, 50)) | mask_of(20, 20, 30, 30, (50, 50)))
    assert labels(sample) == [4]


def test_a_image_without_objects_gives_no_masks() -> None:
    sample = LargeScaleJitter((64, 64)).draw((H, W), np.random.default_rng(0))(annotated(name="empty"))
    assert masks(sample).shape == (0, 64, 64)
    assert labels(sample) == []
    assert sample.target is not None
    assert sample.target.labels.dtype == torch.int64
    assert sample.name == "empty"


@pytest.mark.parametrize("size", [(1, 1), (1, 500), (37, 3)])
def test_odd_images_survive_the_jitter(size: tuple[int, int]) -> None:
    source = Annotated(image(*size), np.zeros(0, dtype=np.int64))
    for plan in draws(LargeScaleJitter((64, 48)), 20, size):
        assert plan(source).image.shape == (1, 3, 64, 48)


# --- resize, crop, flip ----------------------------------------------------------------------------------------------


def test_resize_crop_flip_draws_as_published() -> None:
    recipe = ResizeCropFlip((30, 60, 90), 110, (40, 50), (50, 50))
    plans = draws(recipe)
    sizes = [step(plan, Resize)[0].size_hw for plan in plans]
    assert set(sizes) == {(30, 40), (60, 80), (83, 110)}  # the long edge is capped
    crops = {step(plan, Crop)[0].size_hw for plan in plans}
    assert crops == {(30, 40), (40, 50)}
    tops = {step(plan, Crop)[0].top for plan, size in zip(plans, sizes, strict=True) if size == (60, 80)}
    lefts = {step(plan, Crop)[0].left for plan, size in zip(plans, sizes, strict=True) if size == (60, 80)}
    assert (min(tops), max(tops)) == (0, 20)
    assert (min(lefts), max(lefts)) == (0, 30)
    assert 0.4 < np.mean([isinstance(plan.geometry.steps[-1], Flip) for plan in plans]) < 0.6
    assert all(plan.color is not None and plan.keep_lost for plan in plans)
    colors = [plan.color for plan in plans]
    assert 0.4 < np.mean([color.hue is not None for color in colors if isinstance(color, ColorJitter)]) < 0.6
    assert all(plan.geometry.output_hw == (50, 50) for plan in plans)


def test_without_crop_and_padding_the_size_follows_the_short_edge() -> None:
    recipe = ResizeCropFlip((30,), 500, None, None, flip="none", color_jitter=False)
    sample = recipe.draw((H, W), np.random.default_rng(0))(annotated([rectangle(0, 0, 40, 60)]))
    assert sample.image.shape == (1, 3, 30, 40)
    np.testing.assert_array_equal(masks(sample)[0], mask_of(0, 0, 30, 20, (30, 40)))


def test_a_diameter_brings_median_objects_of_all_images_to_one_size() -> None:
    recipe = ResizeCropFlip(
        (9999,), 1, None, None, scale_range=(0.5, 2.0), diameter=16, flip="none", color_jitter=False
    )
    rng, diameters = np.random.default_rng(0), []
    for side in [5, 9, 14] * 60:  # squares; the large one is not the median
        objects = [rectangle(0, 0, 38, 30), rectangle(1, 1, 1 + side, 1 + side), rectangle(20, 20, 21, 21)]
        ground_truth = annotated(objects)
        assert object_areas(ground_truth).tolist() == [38 * 30, side * side, 1]
        height, _ = recipe.draw(
            (H, W), rng, None, lambda ground_truth=ground_truth: object_areas(ground_truth)
        ).geometry.output_hw
        diameters.append(2 * side / np.sqrt(np.pi) * height / H)
    assert 8 * 0.95 < min(diameters) < 9
    assert 29 < max(diameters) < 32 * 1.05
    assert 14.5 < np.exp(np.log(diameters).mean()) < 17.5
    # Without objects only the factor counts; specks do not enlarge images without limit.
    even = ResizeCropFlip((9999,), 1, None, None, scale_range=(1.0, 1.0), diameter=16, flip="none", color_jitter=False)
    assert even.draw((H, W), rng, None, lambda: object_areas(annotated([]))).geometry.output_hw == (H, W)
    assert even.draw((H, W), rng).geometry.output_hw == (H, W)
    speck = annotated([rectangle(3, 3, 4, 4)])
    assert even.draw((H, W), rng, None, lambda: object_areas(speck)).geometry.output_hw == (8 * H, 8 * W)
    with pytest.raises(ValueError, match="set scale_range too"):
        ResizeCropFlipConfig(diameter=16)
    built = build_augmentation(ResizeCropFlipConfig(scale_range=(1.0, 2.0), diameter=16))
    assert isinstance(built, ResizeCropFlip)
    assert built.diameter == 16


def test_object_areas_are_those_of_polygons_maps_and_masks() -> None:
    ids = np.zeros((H, W), dtype=np.int32)
    ids[0:4, 0:5] = 2
    mask = np.zeros((H, W), dtype=bool)
    mask[2:5, 2:5] = True
    labels = np.zeros(4, dtype=np.int64)
    image = np.zeros((H, W, 3), dtype=np.uint8)
    ground_truth = Annotated(image, labels, {0: [rectangle(10, 10, 16, 12)]}, ids, {2: mask}, ignored=ids == 0)
    assert object_areas(ground_truth).tolist() == [12, 20, 9, 0]


def test_areas_of_overlapping_objects_in_a_large_image_take_no_image_for_each() -> None:
    polygons = {index: [rectangle(index, index, 100 + index, 80 + index)] for index in range(20)}
    image = np.broadcast_to(np.uint8(0), (2000, 2000, 3))
    ground_truth = Annotated(image, np.zeros(20, dtype=np.int64), polygons)
    tracemalloc.start()
    areas = object_areas(ground_truth)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert areas.tolist() == [100 * 80] * 20
    assert peak < 1e6  # one plane has four million bytes


def test_factors_scale_images_of_any_size_alike() -> None:
    recipe = ResizeCropFlip((9999,), 1, None, None, flip="none", scale_range=(0.5, 2.0), color_jitter=False)
    rng, shares = np.random.default_rng(0), []
    for size in [(40, 90), (200, 100)] * 100:
        height, width = recipe.draw(size, rng).geometry.output_hw
        assert abs(height / size[0] - width / size[1]) < 1 / min(size)
        shares.append(height / size[0])
    assert 0.5 <= min(shares) < 0.55
    assert 1.8 < max(shares) <= 2.0
    assert 0.9 < np.exp(np.log(shares).mean()) < 1.1  # halved as often as doubled
    with pytest.raises(ValueError, match="scale_range must be ascending"):
        ResizeCropFlipConfig(scale_range=(2.0, 1.0))
    built = build_augmentation(ResizeCropFlipConfig(scale_range=(1.0, 2.0)))
    assert isinstance(built, ResizeCropFlip)
    assert built.scale_range == (1.0, 2.0)


def test_both_flips_are_drawn_by_themselves() -> None:
    recipe = ResizeCropFlip((30,), 500, None, None, flip="both", color_jitter=False)
    seen = Counter(tuple(s.axis for s in p.geometry.steps if isinstance(s, Flip)) for p in draws(recipe, 400))
    assert set(seen) == {(), ("horizontal",), ("vertical",), ("horizontal", "vertical")}
    assert min(seen.values()) > 60


def test_configured_recipes() -> None:
    jitter = build_augmentation(LargeScaleJitterConfig())
    assert isinstance(jitter, LargeScaleJitter)
    assert (jitter.image_size, jitter.min_scale, jitter.max_scale, jitter.keep_lost) == ((1024, 1024), 0.1, 2.0, False)
    resize = build_augmentation(ResizeCropFlipConfig())
    assert isinstance(resize, ResizeCropFlip)
    expected = "320 384 448 512 576 640 704 768 832 896 960 1024 1088 1152 1216 1280"
    assert resize.short_edges == tuple(map(int, expected.split()))
    assert (resize.keep_lost, resize.exposure, resize.blur) == (True, None, 0)
    changed = build_augmentation(ResizeCropFlipConfig(exposure=(0.1, 0.9), blur=1.5))
    assert isinstance(changed, ResizeCropFlip)
    assert (changed.exposure, changed.blur) == ((0.1, 0.9), 1.5)


@pytest.mark.parametrize("exposure", [(0.0, 1.0), (0.5, 0.2), (0.5, 1.5), (15, 100), (float("nan"), 1.0)])
def test_exposures_are_shares_of_the_range(exposure: tuple[float, float]) -> None:
    with pytest.raises(ValueError, match=r"exposure must be two ascending shares of 255, from 0\.01 to 1, got"):
        ResizeCropFlipConfig(exposure=exposure)
