"""Truths in the classes of a model that counts otherwise."""

from __future__ import annotations

import numpy as np

from mask2former.structures.truths import CityscapesTruth, InstanceTruth, PanopticTruth, Truth, with_classes

CLASS_MAP = np.array([4, 0, 2])


def test_every_form_gets_the_new_indices_and_keeps_the_rest() -> None:
    ids = np.array([[0, 1], [2, 2]])
    panoptic: Truth = PanopticTruth(ids, [(1, 0, False), (2, 1, True)])
    assert with_classes(panoptic, CLASS_MAP, 255) == PanopticTruth(ids, [(1, 4, False), (2, 0, True)])
    masks, crowds, areas = np.ones((2, 2, 2), dtype=bool), np.array([True, False]), np.array([4.5, 3.5])
    found = with_classes(InstanceTruth(masks, np.array([2, 0]), crowds, areas), CLASS_MAP, 255)
    assert isinstance(found, InstanceTruth)
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
    truth = CityscapesTruth(np.array([[7, 26001]]))
    assert with_classes(truth, CLASS_MAP, 255) is truth
