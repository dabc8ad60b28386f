from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch

from mask2former.config import InferenceConfig, Task
from mask2former.inference.predictor import Predictor
from mask2former.inference.tile_grid import Grid, Tile
from mask2former.inference.tile_results import BlendedScores, JoinedSegments, TilePrediction
from mask2former.inference.tiling import segment_in_tiles
from mask2former.inference.tta import AugmentedPredictor, MultiScaleFlip
from mask2former.models.mask2former import Mask2Former
from mask2former.pixels import ArrayRegions
from mask2former.scenes import draw_scene
from mask2former.structures import Categories, PanopticSegmentation, Segment, SemanticSegmentation
from mask2former.structures.packed_results import PackedPanoptic, PackedSemantic

CATEGORIES = Categories.from_names(["cat", "dog", "sky", "sea"], ["cat", "dog"])
SETTINGS = InferenceConfig(tile=48, tile_overlap=12, short_edge=0, overlap_threshold=0.6)


def panoptic(ids: np.ndarray, labels: Sequence[int], scores: Sequence[float] | None = None) -> PanopticSegmentation:
    """A result in which segment n has the n-th label; segments without pixels are left out."""
    scores = scores or [0.9] * len(labels)
    segments = tuple(
        Segment(number, label, CATEGORIES[label].is_thing, score, int((ids == number).sum()))
        for number, (label, score) in enumerate(zip(labels, scores, strict=True), start=1)
        if (ids == number).any()
    )
    return PanopticSegmentation(ids.astype(np.int32), segments, CATEGORIES)


def through(ids: np.ndarray, labels: Sequence[int], settings: InferenceConfig = SETTINGS) -> PanopticSegmentation:
    """The result of a perfect model for an image in tiles; the values of pixels encode their position."""
    height, width = ids.shape
    y, x = np.mgrid[:height, :width]
    image = np.stack([y // 256 * 16 + x // 256, y % 256, x % 256], axis=-1).astype(np.uint8)

    def predict(parts: Sequence[np.ndarray], *_: object) -> list[TilePrediction]:
        found = []
        for part in parts:
            high, low_y, low_x = np.moveaxis(part.astype(int), -1, 0)
            cut = ids[high // 16 * 256 + low_y, high % 16 * 256 + low_x]
            found.append(TilePrediction({"panoptic": panoptic(cut, labels)}))
        return found

    result = segment_in_tiles(ArrayRegions(image), predict, ("panoptic",), CATEGORIES, settings)["panoptic"]
    assert isinstance(result, PackedPanoptic)
    return result.unpacked()


def same_partition(one: np.ndarray, other: np.ndarray) -> bool:
    """Whether two maps are equal up to a renumbering that keeps 0."""
    pairs = np.unique(np.stack([one.ravel(), other.ravel()]), axis=1).T
    firsts, seconds = pairs[:, 0], pairs[:, 1]
    return len(set(firsts)) == len(firsts) and len(set(seconds)) == len(seconds) and [0, 0] in pairs.tolist()


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(("side", "overlap"), [(48, 12), (64, 32), (300, 0)])
def test_things_of_any_size_come_back_whole_and_stuff_is_one_segment(seed: int, side: int, overlap: int) -> None:
    rng, size = np.random.default_rng(seed), (150, 210)
    y, x = np.mgrid[: size[0], : size[1]]
    ids = np.where(y < 60 + 20 * np.sin(x / 30), 1, np.where(y < 140, 2, 0))  # sky, sea, and nothing
    labels = [2, 3]
    for radius in (55, 30, *rng.integers(3, 9, 15)):  # the first is wider than a tile of 48
        cy, cx = rng.integers(radius, size[0] - radius), rng.integers(radius, size[1] - radius)
        labels.append(int(rng.integers(2)))
        ids[(y - cy) ** 2 + (x - cx) ** 2 <= radius**2] = len(labels)
    # Slivers of things that later ones hide are removed, since parts of one cannot be recognised as one thing.
    for number in range(3, len(labels) + 1):
        if (ids == number).sum() < 20:
            ids[ids == number] = 0
    settings = SETTINGS.model_copy(update={"tile": side, "tile_overlap": overlap})
    found = through(ids, labels, settings)
    expected = panoptic(ids, labels)
    assert same_partition(found.ids, ids)
    assert sorted(segment.label for segment in found.segments) == sorted(segment.label for segment in expected.segments)
    assert sorted(segment.area for segment in found.segments) == sorted(segment.area for segment in expected.segments)
    assert {segment.id for segment in found.segments} == set(np.unique(found.ids)) - {0}
    assert [segment.is_thing for segment in found.segments] == [CATEGORIES[s.label].is_thing for s in found.segments]


def test_where_tiles_disagree_about_a_thing_the_one_that_shows_it_best_decides() -> None:
    grid = Grid((40, 60), (0,), (0, 20), (40, 40), 20)
    left, right = np.full((40, 40), 2), np.full((40, 40), 2)
    left[10:20, 22:34], right[10:20, 2:14] = 1, 3  # the same object, which both show whole, and the left one better
    joined = JoinedSegments(grid, CATEGORIES, SETTINGS)
    joined.take(Tile(0, 0, 40, 40), TilePrediction({"panoptic": panoptic(left, [0, 2], [0.8, 0.7])}))
    joined.take(Tile(0, 20, 40, 60), TilePrediction({"panoptic": panoptic(right, [0, 3, 1], [0.9, 0.6, 0.95])}))
    found = joined.finish().unpacked()
    assert [(segment.label, segment.score) for segment in found.segments] == [(0, 0.8), (2, 0.7), (3, 0.6)]
    assert (found.ids[10:20, 22:34] == 1).all()
    assert (found.ids[0, :30] == 2).all()  # pixels come from the tile whose border is farther away
    assert (found.ids[0, 30:] == 3).all()


def test_stuff_fills_what_the_nearer_tile_leaves_empty() -> None:
    grid = Grid((8, 12), (0,), (0, 4), (8, 8), 4)
    joined = JoinedSegments(grid, CATEGORIES, SETTINGS)
    joined.take(Tile(0, 0, 8, 8), TilePrediction({"panoptic": panoptic(np.ones((8, 8)), [2])}))
    joined.take(Tile(0, 4, 8, 12), TilePrediction({"panoptic": panoptic(np.zeros((8, 8)), [])}))
    found = joined.finish().unpacked()
    assert (found.ids[:, :8] == 1).all()
    assert not found.ids[:, 8:].any()


@pytest.mark.parametrize(("size", "side", "overlap"), [((90, 130), 40, 10), ((33, 70), 32, 0), ((65, 200), 64, 32)])
def test_class_scores_are_blended_exactly_with_weights_that_fall_towards_the_border(
    size: tuple[int, int], side: int, overlap: int
) -> None:
    rng = np.random.default_rng(side)
    grid = Grid.over(size, side, overlap)
    blended = BlendedScores(grid, CATEGORIES, SETTINGS)
    sums = np.zeros((4, *size))
    ramp = [np.minimum(np.minimum(np.arange(n), n - 1 - np.arange(n)) + 1, overlap + 1.0) for n in grid.tile_hw]
    for tile in grid:
        scores = rng.uniform(0, 1, (4, *grid.tile_hw))
        sums[:, tile.top : tile.bottom, tile.left : tile.right] += scores * ramp[0][:, None] * ramp[1]
        blended.take(tile, TilePrediction({}, torch.from_numpy(scores)))
    found = blended.finish()
    first, second = np.sort(sums, axis=0)[[-1, -2]]
    decided = first - second > 1e-4 * first  # the weights are float32
    assert decided.mean() > 0.99
    assert np.array_equal(found.unpacked().labels[decided], sums.argmax(0)[decided])
    assert found.labels.size_hw == size


def test_the_grid_knows_where_later_tiles_go_on() -> None:
    grid = Grid.over((100, 70), 40, 10)
    seen = np.zeros(grid.size_hw, int)
    for tile in grid:
        end_row, end_column = grid.done(tile)
        tile_part = seen[tile.top : end_row, tile.left : end_column]
        tile_part += 1
    assert (seen == 1).all()
    assert len(list(grid)) == len(grid)


# --- with a model ----------------------------------------------------------------------------------------------------

ALL: tuple[Task, ...] = ("panoptic", "instance", "semantic")


@pytest.fixture
def image() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (60, 90, 3), dtype=np.uint8)


def test_all_tasks_share_a_pass_and_one_tile_is_the_whole_image() -> None:
    predictor = Predictor.from_pretrained("scenes-tiny", device="cpu", quiet=True)
    image = draw_scene(4, (96, 144)).image
    whole = predictor(image, ALL, short_edge=0)
    tiled = predictor(image, ALL, short_edge=0, tile=144)
    assert isinstance(whole["semantic"], SemanticSegmentation)
    assert isinstance(tiled["semantic"], SemanticSegmentation)
    assert np.array_equal(whole["semantic"].labels, tiled["semantic"].labels)
    assert isinstance(whole["panoptic"], PanopticSegmentation)
    assert isinstance(tiled["panoptic"], PanopticSegmentation)
    assert len(whole["panoptic"]) > 3
    nothing = np.zeros((1, image.shape[1]), int)
    one, other = (np.concatenate([nothing, found.ids]) for found in (whole["panoptic"], tiled["panoptic"]))
    assert same_partition(one, other)
    alone = predictor(image, "semantic", short_edge=96, tile=64, tile_overlap=32)
    shared = predictor(image, ALL, short_edge=96, tile=64, tile_overlap=32)["semantic"]
    assert isinstance(shared, SemanticSegmentation)
    assert np.array_equal(alone.labels, shared.labels)


def test_views_of_tiles_are_blended_too(tiny_model: Mask2Former, image: np.ndarray) -> None:
    predictor = Predictor(tiny_model, device="cpu")
    settings = {"short_edge": 48, "tile": 48, "tile_overlap": 16, "score_threshold": 0.06}
    plain = predictor(image, ("semantic", "panoptic"), **settings)
    one = AugmentedPredictor(predictor, MultiScaleFlip((48,), flip=False))(image, ("semantic", "panoptic"), **settings)
    assert isinstance(plain["semantic"], SemanticSegmentation)
    assert isinstance(one["semantic"], SemanticSegmentation)
    assert (plain["semantic"].labels == one["semantic"].labels).mean() > 0.999
    assert isinstance(plain["panoptic"], PanopticSegmentation)
    assert isinstance(one["panoptic"], PanopticSegmentation)
    assert (plain["panoptic"].ids == one["panoptic"].ids).mean() > 0.999
    flipped = AugmentedPredictor(predictor, MultiScaleFlip((48,)))
    mirrored = flipped(image[:, ::-1], "semantic", **settings).labels[:, ::-1]
    assert (flipped(image, "semantic", **settings).labels == mirrored).mean() > 0.99


def test_packed_results_are_the_arrays_they_were_made_of() -> None:
    labels = np.random.default_rng(0).integers(0, 4, (50, 30))
    grid = Grid.over(labels.shape, 16, 4)
    blended = BlendedScores(grid, CATEGORIES, SETTINGS)
    for tile in grid:
        one_hot = (np.arange(4)[:, None, None] == tile.of(labels)).astype(np.float32)
        blended.take(tile, TilePrediction({}, torch.from_numpy(one_hot)))
    found = blended.finish()
    assert isinstance(found, PackedSemantic)
    assert np.array_equal(found.unpacked().labels, labels)
    assert np.array_equal(found.labels.thinned(7), labels[::7, ::7])
