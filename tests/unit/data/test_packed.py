"""Samples that pass between processes reach the loss bit for bit."""

from __future__ import annotations

import io
import pickle
from collections.abc import Sequence
from multiprocessing.reduction import ForkingPickler

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from mask2former.data.annotated import Annotated, place_patches
from mask2former.data.loading.collate import PackedBatch, pack
from mask2former.data.packed import PackedSample, pack_sample
from mask2former.data.transforms import Geometry, Plan
from mask2former.ops.masks import Patch, polygons_to_patch
from mask2former.structures import Batch, ImageBatch, Sample, Target


def random_sample(
    seed: int, count: int, size: tuple[int, int] = (24, 36), frames: int = 1, *, with_ignored: bool = False
) -> Sample:
    """A sample of ``count`` rectangles that may overlap or be empty, and optionally an ignored region."""
    rng = np.random.default_rng(seed)
    masks = np.zeros((count, frames, *size), dtype=bool)
    for mask in masks:
        for frame in mask:
            if rng.random() < 0.8:
                top, left = rng.integers(0, size[0]), rng.integers(0, size[1])
                frame[top : top + rng.integers(1, 12), left : left + rng.integers(1, 12)] = True
    image = torch.from_numpy(rng.integers(0, 256, (frames, 3, *size), dtype=np.uint8))
    labels = torch.from_numpy(rng.integers(0, 9, count))
    ignored = None
    if with_ignored:
        masks[..., :4, :6] = False
        ignored = torch.zeros((frames, *size), dtype=torch.bool)
        ignored[-1, :3, :5] = True
    return Sample(image, Target(labels, torch.from_numpy(masks), ignored), f"{seed}", {"seed": seed})


def padded(samples: Sequence[Sample]) -> Batch:
    """The batch made directly, by padding images and dense masks one by one."""
    sizes = tuple((sample.image.shape[2], sample.image.shape[3]) for sample in samples)
    height, width = (-(-max(lengths) // 32) * 32 for lengths in zip(*sizes, strict=True))
    fill = [(0, width - w, 0, height - h) for h, w in sizes]
    pixels = torch.stack([F.pad(sample.image, pad) for sample, pad in zip(samples, fill, strict=True)])
    targets = [
        Target(
            sample.target.labels,
            F.pad(sample.target.masks, pad),
            None if sample.target.ignored is None else F.pad(sample.target.ignored, pad),
        )
        for sample, pad in zip(samples, fill, strict=True)
        if sample.target is not None
    ]
    return Batch(ImageBatch(pixels, sizes), tuple(targets), tuple(sample.name for sample in samples))


def same_batches(first: Batch, second: Batch) -> None:
    assert torch.equal(first.images.pixels, second.images.pixels)
    assert first.images.pixels.dtype == second.images.pixels.dtype
    assert first.images.sizes == second.images.sizes
    assert first.names == second.names
    for ours, theirs in zip(first.targets, second.targets, strict=True):
        assert ours.labels.dtype == theirs.labels.dtype == torch.int64
        assert torch.equal(ours.labels, theirs.labels)
        assert ours.masks.dtype == theirs.masks.dtype == torch.bool
        assert ours.masks.shape == theirs.masks.shape
        assert torch.equal(ours.masks, theirs.masks)
        assert same_ignored(ours, theirs)


def same_ignored(ours: Target, theirs: Target) -> bool:
    if ours.ignored is None or theirs.ignored is None:
        return ours.ignored is theirs.ignored
    return ours.ignored.dtype == theirs.ignored.dtype == torch.bool and torch.equal(ours.ignored, theirs.ignored)


@pytest.mark.parametrize("with_ignored", [False, True])
@pytest.mark.parametrize("frames", [1, 3])
@pytest.mark.parametrize("count", [0, 1, 40, 255, 300])
def test_packing_and_unpacking_changes_nothing(count: int, frames: int, with_ignored: bool) -> None:
    sample = random_sample(count, count, frames=frames, with_ignored=with_ignored)
    again = pack_sample(sample).unpack()
    assert torch.equal(again.image, sample.image)
    assert (again.name, again.info) == (sample.name, sample.info)
    assert sample.target is not None
    assert again.target is not None
    assert torch.equal(again.target.labels, sample.target.labels)
    assert torch.equal(again.target.masks, sample.target.masks)
    assert same_ignored(again.target, sample.target)


@pytest.mark.parametrize("with_ignored", [False, True])
@pytest.mark.parametrize("counts", [(3, 0, 7), (2, 400, 1), (0, 0)])
def test_a_packed_batch_is_the_padded_samples(counts: tuple[int, ...], with_ignored: bool) -> None:
    """This also holds for several sizes, for more objects than bits in a byte, for ignored pixels and for clips."""
    ignoring = [with_ignored and k != 1 for k in range(len(counts))]
    samples = [
        random_sample(k, count, (20 + 13 * k, 45 - 11 * k), with_ignored=ignoring[k]) for k, count in enumerate(counts)
    ]
    batch = pack([pack_sample(sample) for sample in samples]).unpack()
    same_batches(batch, padded(samples))
    same_batches(pack(samples).unpack(), batch)
    assert [target.ignored is not None for target in batch.targets] == ignoring
    same_batches(batch.to("cpu"), batch)
    clips = [random_sample(k, count, frames=2, with_ignored=ignoring[k]) for k, count in enumerate(counts)]
    same_batches(pack([pack_sample(clip) for clip in clips]).unpack(), padded(clips))


def test_ignored_pixels_cost_no_plane() -> None:
    packed = [pack_sample(random_sample(1, 12, with_ignored=with_ignored)) for with_ignored in (False, True)]
    assert len(packed[0].target.planes) == len(packed[1].target.planes)
    nothing = random_sample(2, 3)
    assert nothing.target is not None
    empty = Target(nothing.target.labels, nothing.target.masks, torch.zeros((1, 24, 36), dtype=torch.bool))
    assert pack_sample(Sample(nothing.image, empty)).target.ignored is None  # so that the loss can skip it


def test_a_packed_batch_survives_the_way_between_processes() -> None:
    samples = [random_sample(k, 12) for k in range(3)]
    buffer = io.BytesIO()
    ForkingPickler(buffer).dump(pack([pack_sample(sample) for sample in samples]))
    assert len(buffer.getvalue()) < 4000  # pixels and planes go through shared memory
    received: PackedBatch = pickle.loads(buffer.getvalue())
    same_batches(received.to("cpu").unpack(), padded(samples))


def test_objects_that_do_not_overlap_share_a_plane() -> None:
    size = (64, 64)
    ids = np.random.default_rng(0).integers(0, 200, size)
    masks = np.stack([ids == number for number in range(1, 200)])[:, None]
    image = torch.zeros((1, 3, *size), dtype=torch.uint8)
    packed = pack_sample(Sample(image, Target(torch.arange(199), torch.from_numpy(masks))))
    assert [plane.dtype for plane in packed.target.planes] == [np.dtype(np.uint8)]
    assert packed.target.planes[0].nbytes == 64 * 64


@pytest.mark.parametrize("keep_lost", [False, True])
def test_a_plan_packs_objects_of_every_form(keep_lost: bool) -> None:
    """Overlapping objects are packed whole, be they polygons, ids or masks; lost ones are empty or left out."""
    size = (40, 50)
    triangle = np.array([[5.0, 5.0], [30.0, 8.0], [20.0, 35.0]])
    polygons = {0: [triangle], 3: [triangle + np.array([100, 0])]}
    shapes = np.zeros((3, *size), dtype=bool)
    shapes[0, 2:20, 2:20], shapes[1, 10:30, 10:30], shapes[2, 0:4, 40:50] = True, True, True
    ids, masks = place_patches({1: Patch(0, 0, shapes[0]), 2: Patch(0, 0, shapes[1]), 4: Patch(0, 0, shapes[2])}, size)
    image = np.random.default_rng(1).integers(0, 256, (*size, 3), dtype=np.uint8)
    source = Annotated(image, np.arange(5) + 3, polygons, ids, masks)
    plan = Plan(Geometry(size, (), (30, 32)), keep_lost=keep_lost)
    packed = plan.packed(source)
    assert isinstance(packed, PackedSample)
    sample = packed.unpack()
    np.testing.assert_array_equal(sample.image[0].numpy(), image[:30, :32].transpose(2, 0, 1))
    target = sample.target
    assert target is not None
    assert target.labels.tolist() == ([3, 4, 5, 6, 7] if keep_lost else [3, 4, 5])
    top, left, mask = polygons_to_patch([triangle], size)
    drawn = np.pad(mask, ((top, 0), (left, 0)))[:30, :32]  # the rest of the canvas is right and below
    expected = np.zeros((30, 32), dtype=bool)
    expected[: drawn.shape[0], : drawn.shape[1]] = drawn
    np.testing.assert_array_equal(target.masks[0, 0].numpy(), expected)
    np.testing.assert_array_equal(target.masks[1, 0].numpy(), shapes[0, :30, :32])
    np.testing.assert_array_equal(target.masks[2, 0].numpy(), shapes[1, :30, :32])
    assert not target.masks[3:].any()


@pytest.mark.gpu
def test_masks_made_on_the_gpu_are_the_same() -> None:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    samples = [random_sample(k, count, (20 + 13 * k, 45), with_ignored=k > 0) for k, count in enumerate((3, 0, 400))]
    batch = pack([pack_sample(sample) for sample in samples]).pin_memory().to("cuda").unpack()
    assert all(target.masks.is_cuda and target.labels.is_cuda for target in batch.targets)
    same_batches(batch.to("cpu"), padded(samples))
