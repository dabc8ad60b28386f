from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mask2former import checkpoints
from mask2former.checkpoints.targets import write
from mask2former.config import InferenceConfig, Task
from mask2former.errors import UserError
from mask2former.inference.joining import LEAST_SCORE, join
from mask2former.inference.predictor import Predictor
from mask2former.inference.tile_grid import Grid, Tile
from mask2former.inference.tile_results import TilePrediction
from mask2former.inference.tiling import PackedResults, PredictTiles, segment_in_tiles
from mask2former.inference.tta import AugmentedPredictor, MultiScaleFlip
from mask2former.models.mask2former import Mask2Former
from mask2former.pixels import ArrayRegions, Regions
from mask2former.postprocessing import remove_overlaps
from mask2former.structures import Categories, Instances

CATEGORIES = Categories.from_names(["nucleus", "cell"])
TILES = InferenceConfig(
    tasks=("instance",), tile=48, tile_overlap=16, short_edge=0, max_instances=200, instance_threshold=0
)


def disks(size: tuple[int, int], indices: list[tuple[int, int, int]]) -> np.ndarray:
    """Masks of disks, each given as (y, x, radius)."""
    y, x = np.mgrid[: size[0], : size[1]]
    return np.stack([(y - cy) ** 2 + (x - cx) ** 2 <= r * r for cy, cx, r in indices])


def instances(masks: np.ndarray, scores: np.ndarray, labels: np.ndarray | None = None) -> Instances:
    order = np.argsort(-scores, kind="stable")
    boxes = np.zeros((len(masks), 4))
    for index, mask in enumerate(masks[order]):
        if mask.any():
            rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
            boxes[index] = (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1)
    kinds = np.zeros(len(masks), np.int64) if labels is None else labels
    return Instances(masks[order], kinds[order], scores[order].astype(np.float64), boxes, CATEGORIES)


def seen_through(
    masks: np.ndarray, rng: np.random.Generator, labels: np.ndarray | None = None
) -> Callable[[np.ndarray], Instances]:
    """A perfect model of a tile; the values of pixels encode their position in the image."""

    def one(part: np.ndarray) -> Instances:
        rows = part[:, 0, 0].astype(int) * 256 + part[:, 0, 1]
        columns = part[0, :, 2]
        cut = masks[:, rows[:, None], columns[None]]
        return instances(cut, rng.uniform(0.2, 1.0, len(cut)), labels)

    return one


def batched(one: Callable[[np.ndarray], Instances]) -> PredictTiles:
    """The function of several tiles that tiling calls, from a function of one tile."""
    return lambda images, *_: [TilePrediction({"instance": one(image)}) for image in images]


def instances_of(image: np.ndarray, one: Callable[[np.ndarray], Instances], settings: InferenceConfig) -> Instances:
    """The instances of an image in tiles, each predicted by ``one``."""
    found = segment_in_tiles(ArrayRegions(image), batched(one), ("instance",), CATEGORIES, settings)["instance"]
    assert isinstance(found, Instances)
    return found


def numbered(size: tuple[int, int]) -> np.ndarray:
    image = np.zeros((*size, 3), np.uint8)
    image[..., 0], image[..., 1] = np.divmod(np.arange(size[0]), 256)[0][:, None], np.arange(size[0])[:, None] % 256
    image[..., 2] = np.arange(size[1])[None]
    return image


@pytest.mark.parametrize(("size", "side", "overlap"), [((256, 256), 160, 32), ((40, 300), 64, 20), ((64, 65), 64, 32)])
def test_tiles_cover_the_image_and_one_another(size: tuple[int, int], side: int, overlap: int) -> None:
    found = list(Grid.over(size, side, overlap))
    count = np.zeros(size, int)
    for tile in found:
        assert tile.of(count).shape == (min(side, size[0]), min(side, size[1]))
        tile.of(count)[...] += 1
    assert count.min() >= 1
    starts = sorted({tile.left for tile in found})
    assert all(after - before <= side - overlap for before, after in itertools.pairwise(starts))
    assert len(Grid.over((64, 64), 64, 32)) == 1


@pytest.mark.parametrize("seed", range(5))
def test_objects_of_any_size_come_back_whole_and_once(seed: int) -> None:
    rng = np.random.default_rng(seed)
    size = (150, 200)
    indices = [(75, 60, 55), (40, 150, 30)]  # wider than a tile
    indices += [(20 + 6 * n % 130, 110 + 11 * n % 90, 3 + n % 3) for n in range(20)]
    ids = np.zeros(size, int)  # later ones in front, so that masks do not overlap
    for number, mask in enumerate(disks(size, indices), start=1):
        ids[mask] = number
    masks = np.stack([ids == number for number in range(1, len(indices) + 1) if (ids == number).sum() > 8])
    prediction = instances_of(numbered(size), seen_through(masks, rng), TILES)
    assert len(prediction) == len(masks)
    matched = (prediction.masks[:, None] & masks[None]).sum((2, 3)) == masks.sum((1, 2))
    assert matched.any(0).all()
    assert (prediction.masks.sum((1, 2)) == masks[matched.argmax(1)].sum((1, 2))).all()
    for mask, (x1, y1, x2, y2) in zip(prediction.masks, prediction.boxes.astype(int), strict=True):
        assert mask[y1:y2, x1:x2].sum() == mask.sum()
        assert mask[y1:y2, x1].any()
        assert mask[y2 - 1, x1:x2].any()


def test_candidates_of_one_tile_and_of_other_classes_are_never_joined() -> None:
    masks = disks((40, 40), [(20, 20, 10), (20, 20, 10)])
    one = instances(masks, np.array([0.9, 0.8]))
    tile = Tile(0, 0, 40, 40)
    assert len(join([(tile, one)], (40, 40), CATEGORIES, 10)) == 2  # as in whole images
    cell = instances(masks[:1], np.array([0.7]), np.array([1]))
    other = Tile(0, 0, 40, 41)
    assert len(join([(tile, one), (other, cell)], (40, 41), CATEGORIES, 10)) == 3
    twice = instances(masks[:1], np.array([0.95]))
    joined = join([(tile, one), (other, twice)], (40, 41), CATEGORIES, 10)
    assert joined.scores.tolist() == [0.95, 0.8]
    assert len(join([(tile, one), (other, twice)], (40, 41), CATEGORIES, 1)) == 1


def test_the_lesser_part_of_an_object_that_another_tile_knows_is_dropped() -> None:
    whole = instances(disks((40, 60), [(20, 30, 12)])[:, :, :48], np.array([0.9]))
    part = instances(disks((40, 60), [(20, 30, 5)])[:, :, 12:], np.array([0.5]))
    found = join([(Tile(0, 0, 40, 48), whole), (Tile(0, 12, 40, 60), part)], (40, 60), CATEGORIES, 10)
    assert found.scores.tolist() == [0.9]
    weak = instances(disks((40, 48), [(10, 10, 5)]), np.array([0.01]))
    assert len(join([(Tile(0, 0, 40, 48), weak)], (40, 60), CATEGORIES, 10)) == 0
    assert join([], (4, 6), CATEGORIES, 10).masks.shape == (0, 4, 6)


def test_a_mask_that_one_tile_shows_is_not_copied() -> None:
    found = instances(disks((40, 48), [(20, 20, 6), (20, 40, 6)]), np.array([0.9, 0.8]))
    joined = join([(Tile(0, 12, 40, 60), found)], (40, 60), CATEGORIES, 10)
    assert [mask.bits is own.bits for mask, own in zip(joined.sparse.packed, found.sparse.packed, strict=True)] == [
        True,
        True,
    ]
    alone = remove_overlaps(joined, 0.5)
    assert alone.sparse.packed == joined.sparse.packed


def test_a_tile_equals_the_box_that_it_is() -> None:
    """By this, joining unpacks a mask inside its own box as it is; otherwise it would paint each piece anew."""
    [mask] = instances(disks((40, 48), [(20, 20, 6)]), np.array([0.9])).sparse.packed
    assert Tile(*mask.box) == mask.box


def test_tiles_give_no_candidates_that_are_not_considered() -> None:
    """Tiles are predicted with the least score that joining considers, which most queries are below."""
    thresholds: set[float] = set()

    def predict(images: Sequence[np.ndarray], *request: Any) -> list[TilePrediction]:
        thresholds.add(request[-1].instance_threshold)
        nothing = instances(np.zeros((0, 48, 48), dtype=bool), np.zeros(0))
        return [TilePrediction({"instance": nothing}) for _ in images]

    segment_in_tiles(ArrayRegions(np.zeros((90, 90, 3), np.uint8)), predict, ("instance",), CATEGORIES, TILES)
    assert thresholds == {LEAST_SCORE}


def test_what_is_left_of_an_object_takes_pixels_where_it_is_alone() -> None:
    """Each object keeps the pixels that no better one covers; one that is dropped leaves its pixels to the next."""
    masks = np.zeros((3, 12, 10), dtype=bool)
    masks[0, 0:5, 0:8] = True
    masks[1, 2:10, 0:8] = True
    masks[2, 3:7, 6:10] = True  # over the first, which cuts off the second there, and over what is left of the second
    found = instances(masks, np.array([0.9, 0.8, 0.7]))
    alone = remove_overlaps(found, 0.1)
    assert alone.sparse.areas.tolist() == [40, 40, 8]
    assert (alone.masks.sum(axis=0) == masks.any(axis=0)).all()
    without_second = remove_overlaps(found, 0.7)
    assert without_second.sparse.areas.tolist() == [40, 12]
    assert (without_second.masks.sum(axis=0) == masks[[0, 2]].any(axis=0)).all()


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        # a neighbour includes the sliver of an object that the second tile shows
        ([(20, 42, 0.9)], [(40, 75, 0.85)], [(20, 42), (40, 75)]),
        # an object reaches two pixels into a better one of the other tile, which sees it too
        ([(30, 60, 0.9)], [(40, 58, 0.8), (58, 95, 0.85)], [(30, 60), (58, 95)]),
        # "the same" further down counts more than "a part of" the better one
        ([(30, 60, 0.9), (41, 60, 0.8)], [(41, 61, 0.7)], [(30, 60), (41, 60)]),
    ],
)
def test_a_few_common_pixels_at_the_edge_of_a_tile_drop_no_object(
    first: list[tuple[int, int, float]], second: list[tuple[int, int, float]], expected: list[tuple[int, int]]
) -> None:
    spans = spans_through(first, second)
    assert all(any(abs(a - b) + abs(c - d) <= 1 for b, d in spans) for a, c in expected)
    assert len(spans) == len(expected)


def spans_through(first: list[tuple[int, int, float]], second: list[tuple[int, int, float]]) -> dict:
    """Spans and scores joined from bars (start, end, score) of two tiles, columns 0 to 60 and 40 to 100."""
    found = []
    for tile, bars in ((Tile(0, 0, 20, 60), first), (Tile(0, 40, 20, 100), second)):
        masks = np.zeros((len(bars), 20, 60), dtype=bool)
        for mask, (start, end, _) in zip(masks, bars, strict=True):
            mask[5:15, start - tile.left : end - tile.left] = True
        found.append((tile, instances(masks, np.array([score for *_, score in bars]))))
    joined = join(found, (20, 100), CATEGORIES, 10)
    return {(int(x1), int(x2)): score for (x1, _, x2, _), score in zip(joined.boxes, joined.scores, strict=True)}


def test_what_a_tile_cuts_off_is_left_to_the_one_that_shows_it() -> None:
    assert spans_through([(57, 60, 0.9)], []) == {}  # the other tile predicts nothing in this area
    assert spans_through([(57, 60, 0.9)], [(52, 70, 0.8)]) == {(52, 70): 0.8}  # a sliver is not the better prediction
    assert spans_through([(50, 60, 0.9)], [(52, 70, 0.8)]) == {(52, 70): 0.9}  # the same: its score, but not its mask
    assert spans_through([(52, 60, 0.8)], [(51, 70, 0.9)]) == {(51, 70): 0.9}
    # the second tile cuts this one off, too, so that both are needed
    assert spans_through([(30, 60, 0.8)], [(40, 70, 0.9)]) == {(30, 70): 0.9}
    # where the image ends, nothing is cut
    assert spans_through([(0, 4, 0.9)], [(95, 100, 0.8)]) == {(0, 4): 0.9, (95, 100): 0.8}
    # a bar that ends a pixel before its tile does is whole
    assert spans_through([(45, 59, 0.9)], []) == {(45, 59): 0.9}


def test_an_object_as_large_as_the_image_stays_one() -> None:
    size, rng = (240, 240), np.random.default_rng(0)
    masks = disks(size, [(120, 120, 100), (10, 10, 4), (230, 12, 5)])
    prediction = instances_of(numbered(size), seen_through(masks, rng), TILES)  # 49 tiles
    assert sorted(prediction.masks.sum((1, 2)).tolist()) == sorted(masks.sum((1, 2)).tolist())


def test_non_overlapping_predictions_share_no_pixel_and_drop_what_keeps_little() -> None:
    masks = disks((40, 60), [(20, 20, 12), (20, 24, 6), (20, 40, 12), (5, 55, 3)])
    found = instances(masks, np.array([0.9, 0.8, 0.7, 0.6]))
    non_overlapping = remove_overlaps(found, 0.7)
    assert non_overlapping.scores.tolist() == [0.9, 0.7, 0.6]  # the second one lies within the first
    assert non_overlapping.masks.sum(0).max() == 1
    assert np.array_equal(non_overlapping.masks[0], masks[0])
    assert np.array_equal(non_overlapping.masks[1], masks[2] & ~masks[0])
    columns = np.flatnonzero(non_overlapping.masks[1].any(0))
    assert non_overlapping.boxes[1].tolist() == [columns[0], 8, columns[-1] + 1, 33]
    assert remove_overlaps(found, 0.97).scores.tolist() == [0.9, 0.6]
    assert found.masks[2].sum() == masks[2].sum()  # a copy
    assert len(remove_overlaps(instances(np.zeros((1, 4, 4), bool), np.array([0.5])), 0.0)) == 0


def test_tiles_are_joined_before_overlaps_are_removed() -> None:
    # The better prediction, of the second tile, is a part of the object that the first tile shows whole.
    whole = disks((48, 80), [(24, 30, 14)])
    scores = iter([np.array([0.6]), np.array([0.9])])

    def one(tile: np.ndarray) -> Instances:
        return instances(whole[:, :, tile[0, :, 2]], next(scores))

    settings = TILES.model_copy(update={"non_overlapping": True, "overlap_threshold": 0.7})
    prediction = instances_of(numbered((48, 80)), one, settings)
    assert prediction.scores.tolist() == [0.9]
    assert np.array_equal(prediction.masks, whole)


@pytest.mark.parametrize(
    ("radius", "sides"),
    [
        (8, [64, 32]),  # diameter 16: tiles of half the side show them at 32
        (15, [64]),  # 30 is near enough
        (24, [64, 96]),
        (0, [64]),  # nothing found
        (2, [64, 16]),  # tiles have at least a quarter of the side
    ],
)
def test_images_are_predicted_again_until_objects_have_the_diameter_of_training(radius: int, sides: list[int]) -> None:
    size = (128, 160)
    indices = [(y, x, radius) for y in (30, 90) for x in (30, 80, 130)] if radius else []
    masks = disks(size, [*indices, (64, 55, 1)])[: len(indices) + bool(indices)]  # and a speck, which is not the median
    rng, requested = np.random.default_rng(0), set()
    predictions = seen_through(masks.reshape(-1, *size), rng)

    def one(tile: np.ndarray) -> Instances:
        requested.add(tile.shape[:2])
        seen = predictions(tile)
        return instances(seen.masks, np.linspace(0.99, 0.9, len(seen.masks)))

    settings = InferenceConfig(tasks=("instance",), tile=64, tile_overlap=16, short_edge=64, diameter=32)
    instances_of(numbered(size), one, settings)
    assert requested == {(min(side, size[0]), side) for side in sides}


@pytest.mark.parametrize(
    ("indices", "sample", "sides"),
    [
        # four parts of four tiles show that objects have half the diameter of training
        ([(y, x, 4) for y in range(16, 256, 32) for x in range(16, 256, 32)], 16, [32, 16]),
        # as large as expected: the whole image is read once
        ([(y, x, 8) for y in range(16, 256, 32) for x in range(16, 256, 32)], 16, [32, 32]),
        # nothing there: the whole image decides, and its result is kept or needs smaller tiles
        ([(8, 8, 8), (8, 248, 8)], 16, [32, 32]),
        ([(8, 8, 4), (8, 248, 4)], 16 + 121, [32, 16]),
        ([], 16, [32, 32]),
    ],
)
def test_parts_of_large_images_tell_the_diameter(
    indices: list[tuple[int, int, int]], sample: int, sides: list[int]
) -> None:
    size, requested = (256, 256), []
    masks = disks(size, indices) if indices else np.zeros((0, *size), bool)

    def one(tile: np.ndarray) -> Instances:
        requested.append(tile.shape[0])
        prediction = seen_through(masks, np.random.default_rng(0))(tile)
        return instances(prediction.masks, np.full(len(prediction), 0.95))

    settings = InferenceConfig(
        tasks=("instance",), tile=32, tile_overlap=8, short_edge=32, diameter=16, max_instances=200
    )
    prediction = instances_of(numbered(size), one, settings)
    first, then = sides
    assert requested == [first] * sample + [then] * len(Grid.over(size, then, then // 4))
    assert len(prediction) == len(indices)


def test_noise_does_not_shrink_tiles_again_and_again() -> None:
    size, requested = (128, 160), []
    indices = [(y, x, 15) for y in (30, 90) for x in (30, 80, 130)]
    specks = disks(size, [(y, x, 2) for y in range(4, 128, 24) for x in range(4, 160, 24)])

    def segment_with(scores: float) -> Callable[[np.ndarray], Instances]:
        def one(tile: np.ndarray) -> Instances:
            requested.append(tile.shape[0])
            masks = np.concatenate([disks(size, indices), specks])
            both = np.concatenate([np.full(len(indices), 0.95), np.full(len(specks), scores)])
            return instances(masks[:, : tile.shape[0], : tile.shape[1]], both)

        return one

    settings = InferenceConfig(tasks=("instance",), tile=160, tile_overlap=16, short_edge=160, diameter=30)
    instances_of(numbered(size), segment_with(0.8), settings)
    assert requested == [128]  # less certain than the objects, so their number does not count
    requested.clear()
    instances_of(numbered(size), segment_with(0.94), settings)
    assert set(requested) == {128, 40}  # as small as tiles get, and no third time


# --- with a model ----------------------------------------------------------------------------------------------------


@pytest.fixture
def predictor(tiny_model: Mask2Former) -> Predictor:
    settings = InferenceConfig(
        tasks=("instance",), tile=48, tile_overlap=16, short_edge=64, max_instances=300, instance_threshold=0
    )
    return Predictor(tiny_model, device="cpu", settings=settings)


def test_who_chooses_tiles_gets_those(tiny_model: Mask2Former, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = InferenceConfig(tasks=("instance",), tile=48, tile_overlap=16, short_edge=64, diameter=20)
    predictor = Predictor(tiny_model, device="cpu", settings=settings)
    seen: list[float] = []

    def watched(
        image: Regions, predict: PredictTiles, tasks: Sequence[Task], categories: Categories, chosen: InferenceConfig
    ) -> PackedResults:
        seen.append(chosen.diameter)
        return segment_in_tiles(image, predict, tasks, categories, chosen)

    monkeypatch.setattr("mask2former.inference.predictor.segment_in_tiles", watched)
    image = np.zeros((40, 40, 3), np.uint8)
    predictor(image, "instance")
    predictor(image, "instance", tile=40)
    predictor(image, "instance", tile=40, diameter=8)
    assert seen == [20, 0, 8]
    assert predictor(image, "instance", tile=0).size_hw == (40, 40)


def test_an_image_of_one_tile_is_predicted_as_a_whole(predictor: Predictor) -> None:
    image = np.random.default_rng(0).integers(0, 256, (48, 48, 3), dtype=np.uint8)
    tiled, whole = predictor(image, "instance"), predictor(image, "instance", tile=0)
    kept = (whole.scores >= 0.05) & whole.masks.any((1, 2))
    assert kept.any()
    assert np.array_equal(tiled.masks, whole.masks[kept])
    assert np.array_equal(tiled.scores, whole.scores[kept])
    assert np.array_equal(tiled.boxes, whole.boxes[kept])


def test_tiles_are_a_setting_of_a_call_and_of_loading(
    predictor: Predictor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    info = predictor.model.info  # of all tests of this folder
    settings = InferenceConfig(tasks=("instance",), short_edge=64, instance_threshold=0)
    monkeypatch.setattr(predictor.model, "info", replace(info, inference=settings))
    checkpoints.save(predictor.model, tmp_path / "m.safetensors")
    loaded = Predictor.from_pretrained(tmp_path / "m.safetensors", device="cpu", tile=48, tile_overlap=16)
    image = np.random.default_rng(0).integers(0, 256, (60, 90, 3), dtype=np.uint8)
    assert np.array_equal(loaded(image, "instance").masks, predictor(image, "instance", max_instances=100).masks)
    assert Predictor.from_pretrained("nuclei", device="cpu", diameter=30).settings.diameter == 30
    assert Predictor.from_pretrained("nuclei", device="cpu", tile=100).settings.diameter == 0
    assert Predictor.from_pretrained("nuclei", device="cpu", tile=100).settings.tile_overlap == 25
    with pytest.raises(UserError, match=r"diameter 30.0 applies to tiles"):
        Predictor.from_pretrained("scenes-tiny", device="cpu", diameter=30)
    with pytest.raises(UserError, match="non_overlapping applies to images"):
        loaded.track([image], tile=0, non_overlapping=True)
    through = settings.model_copy(update={"tile": 48, "tile_overlap": 16})
    monkeypatch.setattr(predictor.model, "info", replace(info, inference=through))
    with pytest.raises(UserError, match="transformers can neither"):
        write(predictor.model, tmp_path / "folder", "huggingface")


@pytest.mark.parametrize("tile", [0, 48])
def test_exclusive_is_a_setting_of_whole_images_and_of_tiles(predictor: Predictor, tile: int) -> None:
    image = np.random.default_rng(0).integers(0, 256, (60, 90, 3), dtype=np.uint8)
    plain = predictor(image, "instance", tile=tile, overlap_threshold=0.3)
    assert plain.masks.sum(0).max() > 1
    non_overlapping = predictor(image, "instance", tile=tile, overlap_threshold=0.3, non_overlapping=True)
    assert non_overlapping.masks.sum(0).max() == 1
    assert np.array_equal(non_overlapping.masks, remove_overlaps(plain, 0.3).masks)


def test_tiles_have_one_scale_whatever_the_size_of_the_image(
    predictor: Predictor, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[int, ...]] = []
    network = predictor.network

    def watched(pixels: Sequence[torch.Tensor]) -> Sequence[Any]:
        seen.extend(tuple(tile.shape) for tile in pixels)
        return network(pixels)

    monkeypatch.setattr(predictor, "network", watched)
    prediction = predictor(np.zeros((30, 96, 3), np.uint8), "instance")
    assert prediction.size_hw == (30, 96)
    assert set(seen) == {(3, 40, 64)}  # 30 x 48, times 64 / 48
    assert len(seen) == 3


def test_tiles_predicted_together_are_as_one_by_one(predictor: Predictor, monkeypatch: pytest.MonkeyPatch) -> None:
    image = np.random.default_rng(0).integers(0, 256, (70, 130, 3), dtype=np.uint8)
    predictor = Predictor(
        copy.deepcopy(predictor.model).double(), "cpu", settings=predictor.settings
    )  # that one is shared
    requested: list[int] = []
    predictor.model.register_forward_pre_hook(lambda _module, inputs: requested.append(len(inputs[0])))
    together = predictor(image, "instance")
    monkeypatch.setattr("mask2former.inference.tiling._PIXELS_AT_ONCE", 3 * 64 * 64)
    some = predictor(image, "instance")
    assert requested == [8, 3, 3, 2]
    assert len(together) > 5
    assert np.array_equal(together.masks, some.masks)
    assert np.allclose(together.scores, some.scores, rtol=0, atol=1e-9)


def test_test_time_augmentation_predicts_every_tile_several_times(predictor: Predictor) -> None:
    image = np.random.default_rng(0).integers(0, 256, (48, 112, 3), dtype=np.uint8)
    alone = AugmentedPredictor(predictor, MultiScaleFlip(flip=False))(image, "instance")
    plain = predictor(image, "instance")
    assert len(alone) == len(plain)
    assert np.allclose(alone.scores, plain.scores, rtol=0, atol=1e-5)
    twice = AugmentedPredictor(predictor)
    found, mirrored = twice(image, "instance"), twice(image[:, ::-1], "instance")
    assert not np.allclose(found.scores[:5], plain.scores[:5], rtol=0, atol=1e-5)
    assert np.allclose(found.scores, mirrored.scores, rtol=0, atol=1e-5)
    assert np.mean(found.masks[:20] == mirrored.masks[:20, :, ::-1]) > 0.999


def test_what_knows_no_tiles_says_so(predictor: Predictor) -> None:
    image = np.zeros((48, 48, 3), np.uint8)
    for ask in (
        lambda: predictor.clip([image]),
        lambda: list(predictor.track([image])),
    ):
        with pytest.raises(UserError, match=r"tiles of 48 pixels.*tile=0"):
            ask()
    assert len(list(predictor.track([image], tile=0))) == 1
    predictor.settings = predictor.settings.model_copy(update={"min_area": 21})
    with pytest.raises(UserError, match="tile=0, min_area=0 and"):
        predictor.clip([image])
    with pytest.raises(UserError, match=r"leaves out instances below 21 pixels.*set min_area=0"):
        predictor.clip([image], tile=0)
    with pytest.raises(UserError, match="classes and min_area apply to images"):
        predictor.clip([image], tile=0, min_area=5)
    assert len(list(predictor.track([image], tile=0, min_area=0))) == 1


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"tile": 64, "diameter": 32, "short_edge": 64}, "models for instances only"),
        ({"tasks": ("instance",), "tile": 1, "tile_overlap": 0}, "at least 16"),
        ({"tasks": ("instance",), "tile": 64, "tile_overlap": 33}, "at most half"),
        ({"tasks": ("instance",), "diameter": 32}, "set tile and short_edge"),
        ({"tasks": ("instance",), "tile": 64, "short_edge": 0, "diameter": 32}, "set tile and short_edge"),
    ],
)
def test_settings_that_cannot_be(settings: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        InferenceConfig(**settings)
