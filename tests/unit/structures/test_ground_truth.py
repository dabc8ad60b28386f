"""Ground truth from targets, and in the classes of a model with other indices."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mask2former.errors import UserError
from mask2former.ops.sparse_masks import SparseMasks
from mask2former.structures import Categories, Target
from mask2former.structures.ground_truth import (
    CityscapesGroundTruth,
    ClipGroundTruth,
    GroundTruth,
    InstanceGroundTruth,
    PanopticGroundTruth,
    ground_truths_of_target,
    with_classes,
)

CLASS_MAP = np.array([4, 0, 2])
CATEGORIES = Categories.from_names(["cat", "dog", "sky"], things=["cat", "dog"])


def test_every_form_gets_the_new_indices_and_keeps_the_rest() -> None:
    ids = np.array([[0, 1], [2, 2]])
    panoptic: GroundTruth = PanopticGroundTruth(ids, [(1, 0, False), (2, 1, True)])
    assert with_classes(panoptic, CLASS_MAP, 255) == PanopticGroundTruth(ids, [(1, 4, False), (2, 0, True)])
    frames = with_classes([panoptic, panoptic], CLASS_MAP, 255)
    assert frames == [with_classes(panoptic, CLASS_MAP, 255)] * 2
    masks, crowds, areas = np.ones((2, 2, 2), dtype=bool), np.array([True, False]), np.array([4.5, 3.5])
    found = with_classes(InstanceGroundTruth(masks, np.array([2, 0]), crowds, areas), CLASS_MAP, 255)
    assert isinstance(found, InstanceGroundTruth)
    assert found.labels.tolist() == [2, 4]
    assert found.masks is masks
    assert found.iscrowd is crowds
    assert found.areas is areas


@pytest.mark.parametrize("label", [-1, 3])
def test_objects_of_no_class_are_refused(label: int) -> None:
    """As an index, -1 would be the last class."""
    masks, one = np.ones((1, 2, 2), dtype=bool), np.ones(1)
    for ground_truth in (
        InstanceGroundTruth(masks, np.array([label]), one < 0, one),
        PanopticGroundTruth(np.ones((2, 2), dtype=np.int32), [(1, label, False)]),
    ):
        with pytest.raises(UserError, match=f"ground truth has the label {label}; expected class indices, 0 to 2"):
            with_classes(ground_truth, CLASS_MAP, 255)


def test_pixels_of_no_class_get_the_ignore_label_of_the_model() -> None:
    labels = np.array([[0, 1, 2], [3, 255, -1]])
    assert np.asarray(with_classes(labels, CLASS_MAP, 65)).tolist() == [[4, 0, 2], [65, 65, 65]]
    small = labels.clip(0).astype(np.uint8)  # the type of the map must not hold the new numbers
    wide = with_classes(small, np.array([700, 0, 2]), 65535)
    assert np.asarray(wide).tolist() == [[700, 0, 2], [65535, 65535, 700]]


def test_label_ids_of_cityscapes_stay() -> None:
    ground_truth = CityscapesGroundTruth(np.array([[7, 26001]]))
    assert with_classes(ground_truth, CLASS_MAP, 255) is ground_truth


def test_a_target_of_an_image_becomes_the_ground_truth_of_every_task() -> None:
    """In maps, earlier segments are on top; an object hidden there is still an instance."""
    masks = torch.zeros(4, 1, 1, 6, dtype=torch.bool)
    masks[0, ..., :3] = masks[1, ..., 1:3] = masks[2, ..., 2:5] = True
    target = Target(torch.tensor([1, 0, 2, 1]), masks)  # the last one is empty
    ground_truths = ground_truths_of_target(target, ["panoptic", "semantic", "instance"], CATEGORIES)
    panoptic, instance = ground_truths["panoptic"], ground_truths["instance"]
    assert isinstance(panoptic, PanopticGroundTruth)
    assert panoptic.ids.tolist() == [[1, 1, 1, 3, 3, 0]]
    assert panoptic.segments == [(1, 1, False), (3, 2, False)]
    assert np.asarray(ground_truths["semantic"]).tolist() == [[1, 1, 1, 2, 2, 255]]
    assert isinstance(instance, InstanceGroundTruth)
    assert (instance.labels.tolist(), instance.iscrowd.any()) == ([1, 0], False)
    assert (SparseMasks.of(instance.masks).dense() == masks[:2, 0].numpy()).all()


def test_a_target_of_a_clip_becomes_tracks_and_maps_of_all_frames() -> None:
    masks = torch.zeros((3, 3, 4, 4), dtype=torch.bool)
    masks[0, :2, :2], masks[1, :, 2:] = True, True
    ground_truths = ground_truths_of_target(
        Target(torch.tensor([0, 2, 1]), masks), ["panoptic", "instance"], CATEGORIES, is_clip=True
    )
    frames, tracks = ground_truths["panoptic"], ground_truths["instance"]
    assert isinstance(frames, list)
    assert [frame.segments for frame in frames] == [[(1, 0, False), (2, 2, False)]] * 2 + [[(2, 2, False)]]
    assert isinstance(tracks, ClipGroundTruth)
    assert tracks.labels.tolist() == [0]  # neither stuff nor empty objects
    assert tracks.masks.shape == (1, 3, 4, 4)
