"""Training clips: their frames, equal changes to all frames, and their labels; and moving scenes as a source."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import numpy as np
import pytest
import torch

from mask2former.config import ClipSampling, MetricStyle, Task
from mask2former.data.annotated import Annotated
from mask2former.data.clips import AnnotatedClip, assemble_clip, draw_frames, whole_clip
from mask2former.data.datasets.scenes import SceneClips
from mask2former.data.loading.sampling import Draw
from mask2former.data.loading.training_set import TrainingSet
from mask2former.data.transforms import Exposure, Geometry, LargeScaleJitter, Plan, ResizeCropFlip
from mask2former.scenes import SCENE_CATEGORIES
from mask2former.structures import Categories, Sample, Target
from mask2former.structures.ground_truth import ClipGroundTruth

CATEGORIES = Categories.from_names(["cat", "dog"])


class Blocks:
    """A data set of one clip: four frames of different greys, object 0 in all of them, object 1 in the first two."""

    categories = CATEGORIES
    tasks: tuple[Task, ...] = ("instance",)
    has_ground_truth = True
    metric_style: MetricStyle = "youtube-vis"
    notes = ()
    num_objects = None

    def __len__(self) -> int:
        return 1

    def clip_length(self, index: int) -> int:
        return 4

    def wide(self) -> np.ndarray:
        return np.array([True])

    def image_id(self, index: int) -> int:
        return 5

    def images(self, index: int) -> list[np.ndarray]:
        return [np.full((40, 60, 3), 10 * frame, np.uint8) for frame in range(4)]

    def annotated(self, index: int, indices: object, *, with_ignored: bool = False) -> AnnotatedClip:
        frames = []
        for position in indices:  # pyright: ignore[reportGeneralTypeIssues]
            ids = np.zeros((40, 60), np.int32)
            ids[5:20, 5:20] = 1
            if position < 2:
                ids[25:38, 30:50] = 2
            frames.append(Annotated(self.images(0)[position], np.array([0, 1]), {}, ids, name="blocks"))
        present = np.array([[True] * len(frames), [position < 2 for position in indices]])  # pyright: ignore[reportGeneralTypeIssues]
        return AnnotatedClip(frames, present)

    def ground_truths(self, index: int, tasks: object) -> dict[Task, ClipGroundTruth]:
        raise NotImplementedError


def test_frames_are_drawn_around_the_first_one_and_put_in_order() -> None:
    rng = np.random.default_rng(0)
    seen: dict[int, set[int]] = {}
    for _ in range(3000):
        indices = draw_frames(50, 2, 20, rng)
        assert indices == sorted(indices)
        assert 0 < indices[1] - indices[0] <= 20
        assert 0 <= indices[0] < indices[1] < 50
        seen.setdefault(indices[1] - indices[0], set()).add(indices[0])
    assert set(seen) == set(range(1, 21))
    assert 0 in seen[1] | seen[2] | seen[3]


def test_the_frame_that_the_others_lie_around_is_uniform() -> None:
    # With two of three frames and a range of one, the indices depend on the first draw only.
    rng = np.random.default_rng(1)
    pairs = [tuple(draw_frames(3, 2, 1, rng)) for _ in range(4000)]
    assert set(pairs) == {(0, 1), (1, 2)}
    assert abs(pairs.count((0, 1)) / 4000 - 0.5) < 0.05


def test_frames_other_than_the_first_can_repeat() -> None:
    rng = np.random.default_rng(2)
    drawn = [draw_frames(3, 4, 20, rng) for _ in range(50)]
    assert any(len(set(indices)) == 2 for indices in drawn)
    assert all(len(set(indices)) >= 2 for indices in drawn)
    assert draw_frames(1, 3, 20, rng) == [0, 0, 0]
    assert len(draw_frames(9, 1, 20, rng)) == 1


def test_a_clip_is_a_pure_function_of_index_and_seed() -> None:
    samples = TrainingSet(Blocks(), ResizeCropFlip((30, 50), 90, None, None, color_jitter=True))
    for seed in range(5):
        one, other = samples[Draw(0, seed)], samples[Draw(0, seed)]
        assert torch.equal(one.image, other.image)
        assert torch.equal(samples.packed(Draw(0, seed)).unpack().image, one.image)
    greys = {tuple(samples[Draw(0, seed)].image[:, 0, 0, 0].tolist()) for seed in range(20)}
    assert len(greys) > 3


def test_all_frames_are_exposed_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    frames = [np.full((40, 60, 3), grey, np.uint8) for grey in (0, 20, 120, 160)]  # as a clip that fades in
    monkeypatch.setattr(Blocks, "images", lambda self, index: frames)
    plain, exposed = (
        TrainingSet(Blocks(), ResizeCropFlip((40,), 90, None, None, color_jitter=False, exposure=exposure))
        for exposure in (None, (0.25, 0.25))
    )
    seen = set()
    for seed in range(40):
        before, after = (samples[Draw(0, seed)].image[:, 0, 0, 0].tolist() for samples in (plain, exposed))
        factor = 0.25 * 255 / max(before)  # of the brightest frame that was drawn
        assert after in (before, [round(factor * grey) for grey in before])
        seen.add(after == before)
    assert seen == {True, False}


def test_an_exposure_that_an_augmentation_measured_stays() -> None:
    class Measured:
        def draw(self, size_hw: tuple[int, int], rng: object, classes: object = None, areas: object = None) -> Plan:
            return Plan(Geometry(size_hw), exposure=Exposure(120.0, measured=60))

    samples = TrainingSet(Blocks(), Measured(), sampling=ClipSampling(num_frames=2))
    plain = TrainingSet(Blocks(), None, sampling=ClipSampling(num_frames=2))
    assert torch.equal(samples[Draw(0, 3)].image, 2 * plain[Draw(0, 3)].image)


def test_all_frames_are_changed_alike() -> None:
    crops = ResizeCropFlip((30, 50), 90, (25, 25), None, color_jitter=False)
    flips = ResizeCropFlip((30, 50), 90, None, None, color_jitter=False)
    windows, sides = set(), set()
    for seed in range(30):
        for augmentation in (crops, flips):
            clip = TrainingSet(Blocks(), augmentation, sampling=ClipSampling(num_frames=3))[Draw(0, seed)]
            assert clip.target is not None
            assert clip.image.shape[0] == clip.target.masks.shape[1] == 3
            for always in clip.target.masks[clip.target.labels == 0]:  # the object that stands still
                assert torch.equal(always[0], always[1])
                assert torch.equal(always[0], always[2])
                if augmentation is crops:
                    windows.add(int(always[0].sum()))
                else:
                    sides.add((clip.image.shape[3], bool(always[0, :, : clip.image.shape[3] // 2].any())))
    assert len(windows) > 5
    assert len(sides) == 4  # two sizes, flipped or not


def test_labels_come_from_the_last_frame_as_published_or_are_corrected() -> None:
    kinds: tuple[tuple[Literal["last-frame", "any-frame"], int], ...] = (("last-frame", 2), ("any-frame", 1))
    for labels_from, wanted in kinds:
        samples = TrainingSet(Blocks(), sampling=ClipSampling(labels_from=labels_from))
        mixed = 0
        for seed in range(20):
            clip = samples[Draw(0, seed)]
            assert clip.target is not None
            first, last = (round(float(value) / 10) for value in clip.image[:, 0, 0, 0])
            if first < 2 <= last:  # the second object has gone
                assert clip.target.labels.tolist() == [0, wanted]
                assert clip.target.masks[1].flatten(1).any(1).tolist() == [True, False]
                mixed += 1
            elif first >= 2:
                assert clip.target.labels.tolist() == [0]
            else:
                assert clip.target.labels.tolist() == [0, 1]
        assert mixed


def test_an_object_that_a_crop_takes_away_keeps_its_class() -> None:
    # Only a missing annotation makes the label "no object", as in the published code.
    masks = torch.zeros(2, 1, 8, 8, dtype=torch.bool)
    masks[0, 0, :2] = True
    full = Sample(torch.zeros(1, 3, 8, 8), Target(torch.tensor([0, 1]), masks))
    hidden = Target(torch.tensor([0, 1]), torch.zeros_like(masks))
    clip = assemble_clip([full, replace(full, target=hidden)], np.array([[True, True], [True, True]]), 2, "last-frame")
    assert clip.target is not None
    assert clip.target.labels.tolist() == [0]  # the other is in no frame
    assert clip.target.masks.flatten(2).any(2).tolist() == [[True, False]]


def test_objects_without_a_pixel_stay_out_whatever_the_recipe_keeps() -> None:
    samples = TrainingSet(
        Blocks(), LargeScaleJitter((32, 32), 1.5, 2.0), sampling=ClipSampling(num_frames=2, labels_from="any-frame")
    )
    counts = set()
    for seed in range(30):
        clip = samples[Draw(0, seed)]
        assert clip.target is not None
        assert clip.target.masks.flatten(1).any(1).all()
        assert len(clip.target.labels) == len(clip.target.masks)
        counts.add(len(clip.target.labels))
    assert counts >= {1, 2}


def test_a_whole_clip_has_the_true_classes() -> None:
    clip = whole_clip(Blocks(), 0)
    assert clip.image[:, 0, 0, 0].tolist() == [0, 10, 20, 30]
    assert clip.target is not None
    assert clip.target.labels.tolist() == [0, 1]
    assert clip.target.masks.flatten(2).any(2).tolist() == [[True] * 4, [True, True, False, False]]
    assert clip.info["clip_id"] == 5


@pytest.mark.parametrize("indices", [[0, 7], [3]])
def test_scenes_draw_only_the_frames_that_are_requested(indices: list[int]) -> None:
    clips = SceneClips(64, num_frames=8, seed=11, length=3)
    clip = clips.annotated(1, indices)
    assert len(clip.frames) == len(indices)
    for index, frame in zip(indices, clip.frames, strict=True):
        assert frame.ids is not None
        present = np.isin(np.arange(1, len(frame.labels) + 1), frame.ids)
        np.testing.assert_array_equal(clip.annotated[:, indices.index(index)], present)
        # A frame drawn alone looks as in the whole clip, except for objects that are too small over all frames.
        difference = np.abs(frame.image.astype(int) - clips.images(1)[index].astype(int))
        assert (difference.max(axis=2) < 60).mean() > 0.9
    assert clip.annotated.any(axis=1).all()


def test_scene_clips_are_a_source_of_clips() -> None:
    clips = SceneClips(64, num_frames=6, seed=3, length=4)
    sample = TrainingSet(clips, sampling=ClipSampling(num_frames=2))[Draw(2, 9)]
    assert sample.image.shape == (2, 3, 64, 64)
    ground_truth = clips.ground_truths(2, ["instance"])["instance"]
    assert ground_truth.masks.shape[1:] == (6, 64, 64)
    assert all(SCENE_CATEGORIES[label].is_thing for label in ground_truth.labels)
    assert (clips.image_id(2), clips.clip_length(2), clips.size_hw) == (5, 6, (64, 64))
    assert not TrainingSet(clips).wide().any()
