from __future__ import annotations

import pickle

import numpy as np
import pytest
from faster_coco_eval.core import mask as coco_mask

from mask2former.ops import masks as mask_ops
from mask2former.ops import sparse_masks
from mask2former.ops.masks import Patch, areas, boxes_xyxy, decode, encode
from mask2former.ops.sparse_masks import SparseMasks, common_pixels, frames_of


def _random(seed: int) -> np.ndarray:
    """Random masks, among them empty and full ones, of images that may have only one pixel."""
    generator = np.random.default_rng(seed)
    count, height, width = generator.integers(0, 5), *generator.integers(1, 14, 2)
    masks = generator.random((count, height, width)) < generator.choice([0.0, 0.1, 0.5, 0.9, 1.0], (count, 1, 1))
    top, left = generator.integers(0, height), generator.integers(0, width)
    if seed % 2:
        masks[:, :top] = False
        masks[:, :, :left] = False
    return masks


@pytest.mark.parametrize("seed", range(200))
def test_nothing_is_lost(seed: int) -> None:
    masks = _random(seed)
    sparse = SparseMasks.of(masks)
    np.testing.assert_array_equal(sparse.dense(), masks)
    np.testing.assert_array_equal(sparse.areas, areas(masks))
    np.testing.assert_array_equal(sparse.boxes, boxes_xyxy(masks))
    assert sparse.shape == masks.shape
    edges = [edge for _, _, part in sparse if part.size for edge in (part[0], part[-1], part[:, 0], part[:, -1])]
    assert all(edge.any() for edge in edges)
    assert SparseMasks.of(sparse) is sparse
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(sparse)).dense(), masks)


@pytest.mark.parametrize("seed", range(200))
def test_encodings_are_those_of_the_official_library(seed: int) -> None:
    masks = _random(seed)
    theirs = [coco_mask.encode(np.asfortranarray(mask.astype(np.uint8))) for mask in masks]
    texts = [rle["counts"] if isinstance(rle["counts"], str) else rle["counts"].decode() for rle in theirs]
    assert [rle["counts"] for rle in encode(masks)] == texts
    assert SparseMasks.of(masks).encode() == encode(masks)
    if len(masks):
        np.testing.assert_array_equal(decode(encode(masks)), masks)


def test_long_runs_are_encoded_as_the_official_library_does() -> None:
    for height, width, start, length in ((1, 1 << 21, 17, 1 << 20), (3000, 2000, 0, 1), (3000, 2000, 5_999_999, 1)):
        mask = np.zeros(height * width, dtype=bool)
        mask[start : start + length] = True
        mask = mask.reshape(width, height).T
        theirs = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))["counts"]
        assert encode(mask[None])[0]["counts"] == (theirs if isinstance(theirs, str) else theirs.decode())


@pytest.mark.parametrize("seed", range(40))
def test_parts_and_pairs(seed: int) -> None:
    masks = _random(seed)
    sparse, generator = SparseMasks.of(masks), np.random.default_rng(seed)
    flags = generator.random(len(masks)) < 0.5
    rows = generator.integers(0, max(len(masks), 1), 3 if len(masks) else 0)
    for chosen in (flags, rows, slice(1, None), slice(0, 0)):
        np.testing.assert_array_equal(sparse.take(chosen).dense(), masks[chosen])
    for step in (1, 2, 3, 20):
        np.testing.assert_array_equal(sparse.thinned(step).dense(), masks[:, ::step, ::step])
    expected = np.einsum("nhw,mhw->nm", masks.astype(np.int64), masks[rows].astype(np.int64))
    np.testing.assert_array_equal(common_pixels(sparse, sparse.take(rows)), expected)


def test_the_first_mask_stays_on_top_of_a_label_map() -> None:
    masks = SparseMasks([Patch(0, 0, np.ones((1, 2), dtype=bool)), Patch(0, 1, np.ones((1, 3), dtype=bool))], (1, 5))
    np.testing.assert_array_equal(masks.numbered(), [[1, 1, 2, 2, 0]])


def test_a_crop_does_not_keep_the_whole_array() -> None:
    masks = np.zeros((1, 1000, 1000), dtype=bool)
    masks[0, 5, 7] = True
    ((top, left, part),) = SparseMasks.of(masks)
    assert (top, left, part.shape) == (5, 7, (1, 1))
    assert part.nbytes == 1


def test_masks_are_bits_which_parts_share_and_nobody_changes() -> None:
    masks = SparseMasks([Patch(2, 3, np.ones((5, 13), dtype=bool))] * 2, (20, 30))
    assert [len(packed.bits) for packed in masks.packed] == [9, 9]  # 65 pixels
    masks[0].mask[:] = False
    assert masks.areas.tolist() == [65, 65]
    assert masks.take([1]).packed[0].bits is masks.packed[1].bits
    moved = masks.packed[0].moved(-2, 4)
    assert (moved.box, moved.area, moved.bits is masks.packed[0].bits) == ((0, 7, 5, 20), 65, True)
    empty = SparseMasks([Patch(4, 4, np.zeros((3, 3), dtype=bool))], (20, 30))
    assert (empty.packed[0].bits, empty[0].mask.shape, empty.areas.tolist()) == (b"", (0, 0), [0])


def test_ids_of_a_map_become_masks_in_the_order_requested() -> None:
    ids = np.random.default_rng(0).integers(0, 4, (7, 9)).astype(np.int32)
    np.testing.assert_array_equal(SparseMasks.of_ids(ids, [3, 9, 1]).dense(), [ids == 3, ids == 9, ids == 1])
    assert SparseMasks.of_ids(ids, []).shape == (0, 7, 9)


def test_tracks_are_cut_frame_by_frame() -> None:
    masks = np.random.default_rng(0).random((3, 2, 7, 9)) < 0.2
    frames = frames_of(masks)
    np.testing.assert_array_equal(np.stack([frame.dense() for frame in frames], axis=1), masks)
    assert frames_of(frames) == frames
    with pytest.raises(AssertionError):
        frames_of([frames[0], frames[1].take([0])])


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.uint32, np.int32, np.int64, np.uint64])
@pytest.mark.parametrize("size", [(1, 1), (0, 5), (5, 0), (1, 40), (40, 1), (23, 31)])
def test_many_ids_are_those_of_whole_comparisons(
    size: tuple[int, int], dtype: type[np.integer], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mask_ops, "_IDS_AT_ONCE", 70)
    rng = np.random.default_rng(0)
    ids = np.repeat(rng.integers(0, 30, size), 3, axis=1).astype(dtype)[:, : size[1]]
    wanted = [*rng.permutation(40).tolist(), 3, 3]
    found = SparseMasks.of_ids(ids, wanted)
    assert found.packed == SparseMasks((Patch(0, 0, ids == number) for number in wanted), size).packed
    assert (
        SparseMasks.of_ids(ids[::-1, ::-1], wanted).packed == SparseMasks.of_ids(ids[::-1, ::-1].copy(), wanted).packed
    )


@pytest.mark.parametrize(("dtype", "first"), [(np.uint32, 2**32 - 40), (np.int64, 2**53), (np.uint64, 2**64 - 40)])
def test_large_ids_are_told_apart(dtype: type[np.integer], first: int) -> None:
    wanted = [first + number for number in range(30)]
    ids = np.array([*wanted, *wanted], dtype=dtype).reshape(4, 15)
    assert SparseMasks.of_ids(ids, wanted).areas.tolist() == [2] * 30


def test_many_ids_are_compared_inside_their_boxes_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each id is compared only inside its box; with whole maps, 40,000 objects in 100 megapixels took hours."""
    looked_at: list[int] = []
    plain = mask_ops.tight
    monkeypatch.setattr(sparse_masks, "tight", lambda patch: looked_at.append(patch.mask.size) or plain(patch))
    ids = np.arange(100).reshape(10, 10).repeat(4, axis=0).repeat(4, axis=1)
    assert len(SparseMasks.of_ids(ids, range(100))) == 100
    assert sum(looked_at) == ids.size
