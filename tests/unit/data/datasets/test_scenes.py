"""Scenes: pure functions of seed and size, ground truth that agrees with the pixels, and enough variety."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch

from mask2former.data.datasets.scenes import SceneClips, Scenes
from mask2former.errors import UserError
from mask2former.scenes import SCENE_CATEGORIES, SceneFrame, draw_clip, draw_scene
from mask2former.structures import Sample

THINGS = set(SCENE_CATEGORIES.thing_indices)
SIZES = [(32, 48), (33, 47), (8, 8), (128, 128), (97, 211), (200, 64), (20, 300)]


@pytest.fixture(scope="module")
def hundred() -> list[SceneFrame]:
    return [draw_scene(seed, (96, 96)) for seed in range(100)]


@pytest.fixture(scope="module")
def clips() -> list[list[SceneFrame]]:
    return [draw_clip(seed, (64, 80), 16) for seed in range(12)]


def thing_areas(frame: SceneFrame) -> list[int]:
    counts = np.bincount(frame.ids.ravel(), minlength=len(frame.segments) + 1)
    return [int(counts[number]) for number, label in frame.segments if label in THINGS]


def test_there_are_eight_thing_and_six_stuff_classes() -> None:
    assert len(SCENE_CATEGORIES.thing_indices) == 8
    assert len(SCENE_CATEGORIES.stuff_indices) == 6
    assert len({item.color for item in SCENE_CATEGORIES}) == 14


@pytest.mark.parametrize("size", SIZES)
def test_the_same_seed_and_size_give_the_same_scene_whatever_was_drawn_before(size: tuple[int, int]) -> None:
    first = draw_scene(11, size)
    draw_scene(12, (40, 40))
    second = draw_scene(11, size)
    assert np.array_equal(first.image, second.image)
    assert np.array_equal(first.ids, second.ids)
    assert first.segments == second.segments


def test_the_global_random_states_are_left_alone() -> None:
    numpy_before, torch_before = repr(np.random.get_state()), torch.get_rng_state()
    draw_scene(3, (32, 32))
    assert numpy_before == repr(np.random.get_state())
    assert torch.equal(torch_before, torch.get_rng_state())


def test_different_seeds_give_different_scenes(hundred: list[SceneFrame]) -> None:
    assert len({frame.image.tobytes() for frame in hundred}) == 100


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("seed", [0, 5, 123456789, 2**40])
def test_every_pixel_has_one_listed_segment_at_any_size(seed: int, size: tuple[int, int]) -> None:
    frame = draw_scene(seed, size)
    assert frame.image.shape == (*size, 3)
    assert frame.image.dtype == np.uint8
    assert frame.ids.shape == size
    assert frame.ids.dtype == np.int32
    assert [number for number, _ in frame.segments] == list(range(1, len(frame.segments) + 1))
    assert np.array_equal(np.unique(frame.ids), [number for number, _ in frame.segments])


def test_each_stuff_class_is_one_segment(hundred: list[SceneFrame]) -> None:
    for frame in hundred:
        stuff = [label for _, label in frame.segments if label not in THINGS]
        assert len(set(stuff)) == len(stuff) >= 1


def test_no_segment_is_too_small_to_be_found(hundred: list[SceneFrame]) -> None:
    least = 30 / 128**2 * 96**2
    for frame in hundred:
        assert np.bincount(frame.ids.ravel())[1:].min() >= least


def test_three_to_fourteen_things_in_every_scene(hundred: list[SceneFrame]) -> None:
    counts = [len(thing_areas(frame)) for frame in hundred]
    assert min(counts) == 3
    assert 10 <= max(counts) <= 14
    assert 5 <= np.mean(counts) <= 9


def test_every_class_is_common(hundred: list[SceneFrame]) -> None:
    labels = [label for frame in hundred for _, label in frame.segments]
    assert min(np.bincount(labels, minlength=14)) >= 20


def test_sizes_of_things_spread_over_two_orders_of_magnitude(hundred: list[SceneFrame]) -> None:
    shares = np.array([area / 96**2 for frame in hundred for area in thing_areas(frame)])
    assert np.mean(shares < 0.01) > 0.1
    assert np.mean(shares > 0.05) > 0.1
    assert shares.max() / shares.min() > 50


def test_the_border_cuts_things(hundred: list[SceneFrame]) -> None:
    cut = 0
    for frame in hundred:
        rim = np.concatenate([frame.ids[0], frame.ids[-1], frame.ids[:, 0], frame.ids[:, -1]])
        cut += sum(label in THINGS and bool((rim == number).any()) for number, label in frame.segments)
    assert cut > 100


def test_things_hide_one_another(hundred: list[SceneFrame]) -> None:
    touching = 0
    for frame in hundred:
        is_thing = np.array([False] + [label in THINGS for _, label in frame.segments])
        left, right = frame.ids[:, :-1], frame.ids[:, 1:]
        meet = (left != right) & is_thing[left] & is_thing[right]
        pairs = np.unique(np.stack([left[meet], right[meet]]), axis=1)
        touching += pairs.shape[1] > 0
    assert touching > 60


def test_colours_alone_do_not_tell_the_class(hundred: list[SceneFrame]) -> None:
    means: dict[int, list[np.ndarray]] = {}
    for frame in hundred:
        for number, label in frame.segments:
            means.setdefault(label, []).append(frame.image[frame.ids == number].mean(axis=0))
    centres = np.stack([np.mean(means[label], axis=0) for label in sorted(THINGS)])
    nearest = [
        int(np.argmin(((centres - color) ** 2).sum(axis=1))) == label for label in THINGS for color in means[label]
    ]
    assert np.mean(nearest) < 0.4


@pytest.mark.parametrize("seed", range(6))
def test_another_size_shows_the_same_composition(seed: int) -> None:
    small, large = draw_scene(seed, (96, 96)), draw_scene(seed, (288, 288))
    label_small = np.array([0] + [label for _, label in small.segments])[small.ids]
    label_large = np.array([0] + [label for _, label in large.segments])[large.ids][1::3, 1::3]
    assert np.mean(label_small == label_large) > 0.97
    coarse = large.image.reshape(96, 3, 96, 3, 3).mean(axis=(1, 3))
    assert np.abs(coarse - small.image).mean() < 16


def test_the_images_use_the_range_of_light(hundred: list[SceneFrame]) -> None:
    means = [frame.image.mean() for frame in hundred]
    assert 25 < min(means) < max(means) < 230
    assert np.mean([frame.image.std() for frame in hundred]) > 30


def check_sample(sample: Sample, frames: int, size: tuple[int, int]) -> None:
    assert sample.target is not None
    labels, masks = sample.target.labels, sample.target.masks
    assert sample.image.shape == (frames, 3, *size)
    assert sample.image.dtype == torch.uint8
    assert labels.dtype == torch.int64
    assert masks.dtype == torch.bool
    assert masks.shape == (len(labels), frames, *size)
    assert torch.equal(masks.sum(dim=0), torch.ones(frames, *size, dtype=torch.int64))
    assert bool(masks.flatten(1).any(dim=1).all())


def test_scenes_are_samples_whose_masks_partition_the_image() -> None:
    scenes = Scenes((40, 56), seed=7, length=5)
    assert len(scenes) == 5
    assert [sample.name for sample in scenes] == [f"scene-{seed}" for seed in range(7, 12)]
    for sample in scenes:
        check_sample(sample, 1, (40, 56))
    frame = draw_scene(9, (40, 56))
    assert np.array_equal(scenes[2].image[0].permute(1, 2, 0).numpy(), frame.image)
    assert np.array_equal(scenes[2].info["ids"][0].numpy(), frame.ids)
    assert torch.equal(scenes[-1].image, scenes[4].image)


def test_indices_beyond_the_length_end_the_iteration() -> None:
    scenes = Scenes(32, seed=0, length=2)
    assert len(list(scenes)) == 2
    with pytest.raises(IndexError):
        scenes[2]
    with pytest.raises(IndexError):
        scenes[-3]


def test_scene_clips_are_samples_whose_masks_partition_every_frame() -> None:
    clip_set = SceneClips((40, 56), num_frames=5, seed=2, length=3)
    for sample in clip_set:
        check_sample(sample, 5, (40, 56))


def test_clips_are_deterministic_and_a_longer_clip_goes_on_where_the_shorter_ends() -> None:
    first, second = draw_clip(4, (48, 64), 6), draw_clip(4, (48, 64), 6)
    assert all(np.array_equal(a.image, b.image) and np.array_equal(a.ids, b.ids) for a, b in zip(first, second))  # noqa: B905
    assert len({frame.image.tobytes() for frame in first}) == 6


def test_the_frames_of_a_clip_share_their_segments(clips: list[list[SceneFrame]]) -> None:
    for clip in clips:
        assert all(frame.segments == clip[0].segments for frame in clip)
        listed = [number for number, _ in clip[0].segments]
        assert listed == list(range(1, len(listed) + 1))
        assert np.array_equal(np.unique(np.stack([frame.ids for frame in clip])), listed)


def test_an_id_stays_on_its_thing(clips: list[list[SceneFrame]]) -> None:
    """In more than 85 % of cases, a thing in the next frame overlaps itself at least as much as any other thing."""
    kept = total = 0
    for clip in clips:
        for before, after in pairwise(clip):
            for number, label in before.segments:
                mask = before.ids == number
                if label in THINGS and mask.any() and (after.ids == number).any():
                    found = np.bincount(after.ids[mask], minlength=len(before.segments) + 1)
                    others = [found[k] for k, other in before.segments if other in THINGS and k != number]
                    total += 1
                    kept += found[number] >= max(others, default=0)
    assert total > 500
    assert kept / total > 0.85  # the rest are small things that pass others


def test_things_move_leave_and_return(clips: list[list[SceneFrame]]) -> None:
    moved = returned = 0
    for clip in clips:
        for number, label in clip[0].segments:
            if label not in THINGS:
                continue
            columns = [np.flatnonzero((frame.ids == number).any(axis=0)) for frame in clip]
            middles = [float(found.mean()) for found in columns if len(found)]
            moved += max(middles) - min(middles) > 8
            seen = "".join("1" if len(found) else "0" for found in columns)
            returned += "01" in seen.lstrip("0")
    assert moved > 30
    assert returned > 10


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: draw_scene(-1, (32, 32)), "negative"),
        (lambda: draw_scene(0, (4, 32)), "8 to"),
        (lambda: draw_clip(0, (32, 32), 0), "at least one frame"),
        (lambda: Scenes(32, seed=-3), "negative"),
        (lambda: Scenes(2), "8 to"),
        (lambda: Scenes(32, length=-1), "negative"),
        (lambda: SceneClips(32, num_frames=0), "at least one frame"),
    ],
)
def test_impossible_requests_are_refused_in_one_sentence(call, message: str) -> None:
    with pytest.raises(UserError, match=message):
        call()
