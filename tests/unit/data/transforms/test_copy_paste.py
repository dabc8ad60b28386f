"""Copy-paste compared with a slow form of its definition, on dense masks."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mask2former.config import DataConfig, parse
from mask2former.data.build import build_training_set
from mask2former.data.datasets.scenes import Scenes
from mask2former.data.loading.sampling import Draw
from mask2former.data.loading.training_set import TrainingSet
from mask2former.data.packed import PackedSample, pack_sample
from mask2former.data.transforms import LargeScaleJitter
from mask2former.data.transforms.copy_paste import choose_objects, paste
from mask2former.errors import UserError
from mask2former.structures.samples import Sample, Target


@st.composite
def samples(draw: st.DrawFn) -> PackedSample:
    """Samples with up to six objects of four classes that may overlap or be empty, with or without ignored pixels."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    count, size = draw(st.integers(0, 6)), (draw(st.integers(3, 9)), draw(st.integers(3, 9)))
    masks = torch.from_numpy(rng.random((count, 1, *size)) < draw(st.sampled_from([0.0, 0.1, 0.4])))
    ignored = torch.from_numpy(rng.random((1, *size)) < 0.2) if draw(st.booleans()) else None
    image = torch.from_numpy(rng.integers(0, 256, (1, 3, *size), dtype=np.uint8))
    return pack_sample(Sample(image, Target(torch.from_numpy(rng.integers(0, 4, count)), masks, ignored), "name"))


@given(samples(), samples(), st.integers(0, 2**32))
def test_pasted_objects_are_in_front_and_the_rest_loses_what_they_cover(
    onto: PackedSample, source: PackedSample, seed: int
) -> None:
    before, other = onto.unpack(), source.unpack()
    assert before.target is not None
    assert other.target is not None
    is_thing = np.array([True, False, True, False])
    chosen = choose_objects(source, is_thing, np.random.default_rng(seed))
    visible = [k for k in range(len(other.target.labels)) if other.target.masks[k].any()]
    things = {k for k in visible if is_thing[int(other.target.labels[k])]}
    assert set(chosen) <= things
    assert bool(chosen) == bool(things)
    result = paste(onto, source, chosen).unpack()
    assert result.target is not None

    height, width = before.image.shape[2:]
    fitted = torch.zeros(len(other.target.labels), 1, height, width, dtype=torch.bool)
    colours = torch.zeros_like(before.image)
    low, right = min(height, other.image.shape[2]), min(width, other.image.shape[3])
    fitted[..., :low, :right] = other.target.masks[..., :low, :right]
    colours[..., :low, :right] = other.image[..., :low, :right]
    pasted = [k for k in chosen if fitted[k].any()]
    covered = fitted[pasted].any(0) if pasted else torch.zeros(1, height, width, dtype=torch.bool)
    assert torch.equal(result.image, torch.where(covered[:, None], colours, before.image))
    left = before.target.masks & ~covered
    kept = [k for k in range(len(left)) if left[k].any() or not before.target.masks[k].any()]
    assert torch.equal(result.target.masks, torch.cat([left[kept], fitted[pasted]]))
    labels = torch.cat([before.target.labels[kept], other.target.labels[pasted]])
    assert torch.equal(result.target.labels, labels)
    if before.target.ignored is None:
        assert result.target.ignored is None
    else:
        assert result.target.ignored is not None
        assert torch.equal(result.target.ignored, before.target.ignored & ~covered)
    again = onto.unpack()  # neither of the two was changed
    assert torch.equal(again.image, before.image)
    assert again.target is not None
    assert torch.equal(again.target.masks, before.target.masks)


def test_many_objects_need_wider_numbers() -> None:
    masks = torch.eye(250, dtype=torch.bool).reshape(250, 1, 10, 25)
    sample = pack_sample(Sample(torch.zeros(1, 3, 10, 25).byte(), Target(torch.zeros(250).long(), masks, None), ""))
    result = paste(sample, sample, list(range(0, 250, 2))).unpack().target
    assert result is not None
    assert torch.equal(result.masks, torch.cat([masks[1::2], masks[::2]]))


def test_samples_depend_on_their_draw_and_are_as_before_without_it() -> None:
    scenes, jitter = Scenes((48, 64), 0, 6), LargeScaleJitter((48, 64), 0.5, 1.5)

    def made(share: float, draw: Draw) -> Sample:
        return TrainingSet(scenes, jitter, copy_paste=share)[draw]

    counts = []
    for draw in [Draw(index, 7 + index) for index in range(6)]:
        plain = TrainingSet(scenes, jitter)[draw]
        assert torch.equal(made(0.0, draw).image, plain.image)
        first, second = made(1.0, draw), made(1.0, draw)
        assert torch.equal(first.image, second.image)
        assert first.target is not None
        assert second.target is not None
        assert plain.target is not None
        assert torch.equal(first.target.masks, second.target.masks)
        assert not (first.target.masks.sum(0) > 1).any()  # scenes have no overlaps, and pasting makes none
        counts.append(len(first.target.labels) - len(plain.target.labels))
        changed = (first.image != plain.image).any(1)
        assert not (changed & ~first.target.masks.any(0)).any()
    assert max(counts) > 0
    drawn = [
        not torch.equal(made(0.5, Draw(0, seed)).image, TrainingSet(scenes, jitter)[Draw(0, seed)].image)
        for seed in range(40)
    ]
    assert 8 < sum(drawn) < 32


def test_only_images_with_objects() -> None:
    data = parse(DataConfig, {"dataset": {"name": "scene-clips"}, "copy_paste": 0.5}, "test")
    with pytest.raises(UserError, match=r"copy_paste requires images with objects, but the training data are clips"):
        build_training_set(data)
