"""A custom data set: its samples are trained on and measured unchanged, and misfits are rejected."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from mask2former.config import ClipSampling, LargeScaleJitterConfig
from mask2former.data.build import build_augmentation
from mask2former.data.clips import ClipSet, MeasuredClips
from mask2former.data.datasets.scenes import SceneClips, Scenes
from mask2former.data.loading.sampling import Draw
from mask2former.data.loading.training_set import TrainingSet
from mask2former.data.sample_sets import as_reader
from mask2former.errors import UserError
from mask2former.structures import Categories, Sample, Target
from mask2former.structures.ground_truth import ClipGroundTruth, InstanceGroundTruth, PanopticGroundTruth

CATEGORIES = Categories.from_names(["cat", "sky"], things=["cat"])


def sample(frames: int = 1, seed: int = 0) -> Sample:
    """A sample with two cats that overlap, the sky below, and some ignored pixels."""
    image = np.random.default_rng(seed).integers(0, 256, (frames, 3, 20, 30), dtype=np.uint8)
    masks = torch.zeros((3, frames, 20, 30), dtype=torch.bool)
    masks[0, :, 2:8, 2:8], masks[1, 0, 5:12, 5:12], masks[2, :, 10:] = True, True, True
    ignored = torch.zeros((frames, 20, 30), dtype=torch.bool)
    ignored[:, :2, 20:] = True
    target = Target(torch.tensor([0, 0, 1]), masks, ignored)
    return Sample(torch.from_numpy(image), target, f"s{seed}")


class Own:
    """A data set of the user's own, which inherits from no class."""

    categories = CATEGORIES

    def __init__(self, *samples: Sample) -> None:
        self.samples = samples

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> Sample:
        return self.samples[index]


def equal(one: Target | None, other: Target | None) -> bool:
    assert one is not None
    assert other is not None
    assert one.ignored is not None
    assert other.ignored is not None
    pairs = [(one.labels, other.labels), (one.masks, other.masks), (one.ignored, other.ignored)]
    return all(torch.equal(*pair) for pair in pairs)


def test_an_image_is_learned_and_measured_as_it_is() -> None:
    own = Own(sample(seed=0), sample(seed=1))
    reader: Any = as_reader(own)
    assert not isinstance(reader, ClipSet)
    assert (len(reader), reader.image_id(1), reader.tasks) == (2, 1, ("panoptic", "instance", "semantic"))
    learned = TrainingSet(reader, with_ignored=True)[Draw(1, 0)]
    assert torch.equal(learned.image, own[1].image)
    known = own[1].target
    assert known is not None
    assert known.ignored is not None
    expected = replace(known, ignored=known.ignored & ~known.masks.any(dim=0))
    assert equal(learned.target, expected)
    assert (reader.image(1) == own[1].image[0].permute(1, 2, 0).numpy()).all()
    ground_truths = reader.ground_truths(1, reader.tasks)
    assert isinstance(ground_truths["panoptic"], PanopticGroundTruth)
    assert isinstance(ground_truths["instance"], InstanceGroundTruth)
    assert ground_truths["instance"].labels.tolist() == [0, 0]
    assert ground_truths["semantic"][0, 0] == CATEGORIES.ignore_label  # what is on no mask is void in metrics


def test_augmentations_of_a_configuration_take_it() -> None:
    jitter = build_augmentation(LargeScaleJitterConfig(image_size=(32, 32)))
    training = TrainingSet(as_reader(Own(sample())), jitter)  # pyright: ignore[reportArgumentType]
    drawn = [training[Draw(0, seed)] for seed in range(3)]
    assert {tuple(one.image.shape) for one in drawn} == {(1, 3, 32, 32)}
    assert not torch.equal(drawn[0].image, drawn[1].image)


def test_several_frames_make_a_clip() -> None:
    own = Own(sample(3))
    reader: Any = as_reader(own)
    assert isinstance(reader, ClipSet)
    assert (reader.clip_length(0), reader.image_id(0), reader.has_ground_truth) == (3, 0, True)
    assert [frame.shape for frame in reader.images(0)] == [(20, 30, 3)] * 3
    learned = TrainingSet(reader, sampling=ClipSampling(num_frames=2))[Draw(0, 1)]
    assert learned.image.shape == (2, 3, 20, 30)
    clip = reader.annotated(0, [0, 2])
    assert clip.annotated.tolist() == [[True, True], [True, False], [True, True]]
    ground_truths: Any = reader.ground_truths(0, ["instance", "panoptic"])
    ground_truth = ground_truths["instance"]
    assert isinstance(ground_truth, ClipGroundTruth)
    assert ground_truth.masks.shape == (2, 3, 20, 30)
    assert [len(frame.segments) for frame in ground_truths["panoptic"]] == [3, 2, 2]


def test_readers_stay_as_they_are() -> None:
    for reader in (Scenes(32, length=2), SceneClips(32, 2, length=2)):
        assert as_reader(reader) is reader


def test_sizes_and_names_are_told_without_reading() -> None:
    own = Own(sample(), sample())
    reader: Any = as_reader(own)
    with pytest.raises(UserError, match=r"give Own a method size\(index\).* or set data\.group_by_aspect=false"):
        reader.wide()
    own.size = lambda index: (20, 30 * index)  # pyright: ignore[reportAttributeAccessIssue]
    own.image_id = lambda index: f"id{index}"  # pyright: ignore[reportAttributeAccessIssue]
    assert reader.wide().tolist() == [False, True]
    assert reader.image_id(1) == "id1"


def broken(**changes: Any) -> Sample:
    known = sample()
    assert known.target is not None
    names = {name: value for name, value in changes.items() if name in ("labels", "masks", "ignored")}
    rest = {name: value for name, value in changes.items() if name not in names}
    return replace(known, **({"target": replace(known.target, **names)} | rest))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: broken(image=sample().image.float()),
            r"image of sample 0 of Own is float32 .*expected uint8 .*red, green and blue",
        ),
        (lambda: broken(image=sample().image[0]), r"is uint8 \(3, 20, 30\); expected .*a clip of one frame"),
        (lambda: broken(target=None), "sample 0 of Own has no target"),
        (
            lambda: broken(masks=torch.ones(3, 20, 30, dtype=torch.bool)),
            r"bool \(3, 20, 30\); expected bool \(3, 1, 20",
        ),
        (
            lambda: broken(labels=torch.tensor([0, 1, 2])),
            r"labels .* are \[0, 1, 2\]; expected indices of its 2 classes",
        ),
        (lambda: broken(ignored=torch.ones(20, 30, dtype=torch.bool)), r"ignored pixels .*expected bool \(1, 20, 30\)"),
        (lambda: np.zeros(3), "is a ndarray; expected a Sample"),
        (lambda: broken(image=sample().image.numpy()), "has ndarray as image; expected a tensor"),
        (lambda: broken(labels=[0]), "has list as labels; expected a tensor"),
        (lambda: broken(masks=np.ones((3, 1, 20, 30), bool)), "has ndarray as masks; expected a tensor"),
        (
            lambda: broken(labels=torch.zeros(3, 1, dtype=torch.int64)),
            r"labels .* are int64 \(3, 1\); expected int64 \(objects,\)",
        ),
    ],
)
def test_samples_that_do_not_fit_are_refused(make: Callable[[], Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        as_reader(Own(make()))


@pytest.mark.parametrize("tasks", [("instance", "panoptc"), "instances"])
def test_tasks_that_do_not_exist_are_refused(tasks: Any) -> None:
    own: Any = Own(sample())
    own.tasks = tasks
    with pytest.raises(UserError, match=r"has the tasks .*(panoptc|instances)'.*; expected some of"):
        as_reader(own)
    own.tasks = "instance"
    assert as_reader(own).tasks == ("instance",)


def test_data_sets_that_are_none_are_refused() -> None:
    with pytest.raises(UserError, match="list has no categories"):
        as_reader([sample()])  # pyright: ignore[reportArgumentType, reportCallIssue]
    with pytest.raises(UserError, match="Own is empty"):
        as_reader(Own())
    mixed: Any = as_reader(Own(sample(), sample(2)))
    with pytest.raises(UserError, match="sample 1 of Own has 2 frames, but the first sample has one"):
        mixed[1]


def test_images_are_not_taken_for_clips() -> None:
    assert not isinstance(as_reader(Own(sample(1))), MeasuredClips)
    assert isinstance(as_reader(Own(sample(3))), MeasuredClips)
