"""Run-length encoding, boxes and areas of masks."""

import json

import numpy as np
import pytest

from mask2former.errors import UserError
from mask2former.ops import masks as mask_ops


def random_masks(count: int = 5, height: int = 37, width: int = 53) -> np.ndarray:
    return np.random.default_rng(0).random((count, height, width)) > 0.6


# 32 runs of 2^59 - 1 pixels, and one of 1632: their sum in 64 bits is 1600.
HUGE_RUNS = {"size": [40, 40], "counts": 3 * "ooooooooooo?" + 29 * "0" + "QcQPPPPPPPP@"}


def test_encoding_round_trips_through_json() -> None:
    masks = random_masks()
    restored = mask_ops.decode(json.loads(json.dumps(mask_ops.encode(masks))))
    assert restored.dtype == bool
    np.testing.assert_array_equal(restored, masks)


def test_encoding_equals_pycocotools() -> None:
    oracle = pytest.importorskip("pycocotools.mask")
    masks = random_masks()
    expected = oracle.encode(np.asfortranarray(masks.transpose(1, 2, 0).astype(np.uint8)))
    assert [rle["counts"] for rle in mask_ops.encode(masks)] == [rle["counts"].decode() for rle in expected]


def test_empty_and_full_masks_and_none() -> None:
    masks = np.stack([np.zeros((4, 6), dtype=bool), np.ones((4, 6), dtype=bool)])
    np.testing.assert_array_equal(mask_ops.decode(mask_ops.encode(masks)), masks)
    assert mask_ops.encode(masks[:0]) == []
    assert mask_ops.decode([]).shape == (0, 0, 0)


def test_decodes_bytes_and_plain_runs() -> None:
    plain = {"size": [2, 3], "counts": [1, 2, 3]}  # down the columns: 0 11 000
    expected = np.array([[[False, True, False], [True, False, False]]])
    np.testing.assert_array_equal(mask_ops.decode(plain), expected)
    text = mask_ops.encode(expected)[0]
    np.testing.assert_array_equal(mask_ops.decode([{**text, "counts": text["counts"].encode()}]), expected)


@pytest.mark.unchecked
@pytest.mark.parametrize(
    "rle",
    [
        {"size": [40, 40], "counts": "54"},
        {"size": [40, 40], "counts": "P"},
        HUGE_RUNS,
        {"size": [40, 40], "counts": [3]},
        {"size": [2, 2], "counts": [5, -1]},
        {"size": [0, 0], "counts": []},
        {"size": [40, 40]},
        {"size": 3, "counts": "54"},
        5,
    ],
)
def test_broken_encodings_are_refused(rle: object) -> None:
    with pytest.raises(UserError, match="run-length encoding"):
        mask_ops.decode([rle])  # type: ignore[list-item]
    with pytest.raises(UserError, match="run-length encoding"):
        mask_ops.decode_patch(rle)  # type: ignore[arg-type]
    with pytest.raises(UserError, match="run-length encoding"):
        mask_ops.encoded_extent(rle)  # type: ignore[arg-type]


def test_encodings_of_two_sizes_are_refused() -> None:
    with pytest.raises(UserError, match="differ in size"):
        mask_ops.decode(mask_ops.encode(random_masks(1)) + mask_ops.encode(random_masks(1, 4, 4)))


def test_boxes_end_one_past_the_last_pixel_and_are_zero_when_empty() -> None:
    masks = np.zeros((3, 10, 12), dtype=bool)
    masks[0, 2:5, 3:9] = True
    masks[1, 9, 11] = True
    np.testing.assert_array_equal(mask_ops.boxes_xyxy(masks), [[3, 2, 9, 5], [11, 9, 12, 10], [0, 0, 0, 0]])
    np.testing.assert_array_equal(mask_ops.areas(masks), [18, 1, 0])
    assert mask_ops.boxes_xyxy(masks[:0]).shape == (0, 4)
    assert mask_ops.areas(masks[:0]).shape == (0,)


@pytest.mark.parametrize("share", [0.0, 0.01, 0.3, 0.99, 1.0])
@pytest.mark.parametrize("size", [(1, 1), (1, 40), (37, 1), (37, 53)])
def test_a_patch_is_the_mask_around_its_pixels(share: float, size: tuple[int, int]) -> None:
    rng = np.random.default_rng(1)
    for _ in range(10):
        mask = rng.random(size) < share
        (rle,) = mask_ops.encode(mask[None])
        top, left, part = mask_ops.decode_patch(rle)
        whole = np.zeros(size, dtype=bool)
        whole[top : top + part.shape[0], left : left + part.shape[1]] = part
        np.testing.assert_array_equal(whole, mask)
        assert mask_ops.encoded_extent(rle)[0] == mask.sum()
        counts, shape = mask_ops.compress(rle)
        assert (counts.decode(), shape) == (rle["counts"], size)


def test_plain_runs_are_compressed() -> None:
    plain = {"size": [2, 3], "counts": [1, 2, 3]}
    counts, size = mask_ops.compress(plain)
    np.testing.assert_array_equal(mask_ops.decode({"size": size, "counts": counts}), mask_ops.decode(plain))
    assert mask_ops.encoded_extent(plain)[0] == 2


def test_polygons_are_united_and_may_leave_the_image() -> None:
    def square(low: float, high: float) -> np.ndarray:
        return np.array([[low, low], [high, low], [high, high], [low, high]])

    top, left, mask = mask_ops.polygons_to_patch([square(-5, 3), square(6, 20), square(30, 40)], (8, 9))
    assert (top, left) == (0, 0)
    expected = np.zeros((8, 9), dtype=bool)
    expected[:3, :3] = expected[6:, 6:] = True
    np.testing.assert_array_equal(mask, expected)
    assert not mask_ops.polygons_to_patch([square(30, 40)], (8, 9)).mask.size
    assert not mask_ops.polygons_to_patch([square(30, 40), square(50, 60)], (8, 9)).mask.size
    assert not mask_ops.polygons_to_patch([], (8, 9)).mask.size
