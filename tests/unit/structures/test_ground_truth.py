"""Truths in the classes of a model that counts otherwise."""

from __future__ import annotations

import numpy as np

from mask2former.structures.ground_truth import CityscapesGroundTruth, InstanceGroundTruth, PanopticGroundTruth, GroundTruth, with_classes

CLASS_MAP = np.array([4, 0, 2])


def test_every_form_gets_the_new_indices_and_keeps_the_rest() -> None:
    ids = np.array([[0, 1], [2, 2]])
    panoptic: GroundTruth = PanopticGroundTruth(ids, [(1, 0, False), (2, 1, True)])
    assert with_classes(panoptic, CLASS_MAP, 255) == PanopticGroundTruth(ids, [(1, 4, False), (2, 0, True)])
    masks, crowds, areas = np.ones((2, 2, 2), dtype=bool), np.array([True, False]), np.array([4.5, 3.5])
    found = with_classes(InstanceGroundTruth(masks, np.array([2, 0]), crowds, areas), CLASS_MAP, 255)
    assert isinstance(found, InstanceGroundTruth)
    assert found.labels.tolist() == [2, 4]
    assert found.masks is masks
    assert found.iscrowd is crowds
    assert found.areas is areas


def test_pixels_of_no_class_get_the_ignore_label_of_the_model() -> None:
    labels = np.array([[0, 1, 2], [3, 255, -1]])
    assert np.asarray(with_classes(labels, CLASS_MAP, 65)).tolist() == [[4, 0, 2], [65, 65, 65]]
    small = labels.clip(0).astype(np.uint8)  # the type of the map must not hold the new numbers
    wide = with_classes(small, np.array([700, 0, 2]), 65535)
    assert np.asarray(wide).tolist() == [[700, 0, 2], [65535, 65535, 700]]


def test_label_ids_of_cityscapes_stay() -> None:
    ground_truth = CityscapesGroundTruth(np.array([[7, 26001]]))
    assert with_classes(ground_truth, CLASS_MAP, 255) is ground_truth
