"""The auto-annotation function, as CVAT's own library calls it."""

from __future__ import annotations

import logging
from types import SimpleNamespace
from typing import Any
from unittest import mock

import numpy as np
import pytest
from PIL import Image

from mask2former.errors import UserError
from mask2former.inference.cvat import create
from mask2former.inference.predictor import Predictor
from mask2former.ops import masks as mask_ops
from mask2former.scenes import draw_scene

cvat = pytest.importorskip("cvat_sdk.auto_annotation")


def test_masks_and_polygons_of_the_function_are_those_of_the_model() -> None:
    from cvat_sdk.masks import decode_mask

    image = Image.fromarray(draw_scene(3, (96, 128)).image)
    function = create("scenes-tiny", "instance", "cpu", min_area=5)
    assert isinstance(function.spec, cvat.DetectionFunctionSpec)
    predictor = Predictor.from_pretrained("scenes-tiny", device="cpu", quiet=True, min_area=5)
    assert [label.name for label in function.spec.labels] == list(predictor.categories.names)
    result = predictor(image, "instance", score_threshold=0.3)
    assert len(result) > 1
    context = SimpleNamespace(frame_name="a.png", conf_threshold=0.3, conv_mask_to_poly=False)
    for shape, item in zip(function.detect(context, image), result, strict=True):
        assert (shape.type.value, shape.label_id) == ("mask", item.label)
        np.testing.assert_array_equal(decode_mask(shape.points, image_width=128, image_height=96), item.mask)
    context.conv_mask_to_poly, context.conf_threshold = True, None
    for shape, item in zip(function.detect(context, image), predictor(image, "instance"), strict=True):
        assert shape.type.value == "polygon"
        patch = mask_ops.polygons_to_patch([np.array(shape.points).reshape(-1, 2)], (96, 128))
        assert patch.mask.sum() == item.area


def test_the_least_area_is_that_of_the_model_unless_another_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    image = Image.fromarray(draw_scene(3, (96, 128)).image)
    context = SimpleNamespace(frame_name="a.png", conf_threshold=0.3, conv_mask_to_poly=False)
    load = Predictor.from_pretrained

    def stored(*args: Any, **settings: Any) -> Predictor:
        return load(*args, **{"min_area": 60, **settings})

    every, model = (create("scenes-tiny", "instance", "cpu", min_area=least) for least in (0, None))
    monkeypatch.setattr(Predictor, "from_pretrained", stored)
    large, given = (create("scenes-tiny", "instance", "cpu", min_area=least) for least in (None, 0))
    counts = [len(function.detect(context, image)) for function in (every, model, large, given)]
    assert counts[0] == counts[1] == counts[3] > counts[2] > 0


def test_the_driver_of_cvat_uploads_what_the_model_found() -> None:
    """``annotate_task`` uploads the masks of the task's classes with the task's label ids; the server is mocked."""
    from cvat_sdk.auto_annotation import driver

    images = [Image.fromarray(draw_scene(seed, (96, 128)).image) for seed in (3, 4)]
    function = create("scenes-tiny", "instance", "cpu")
    names = [label.name for label in function.spec.labels][2:5]  # the task knows three of the classes
    blank = {"type": "mask", "attributes": [], "sublabels": []}
    labels = [SimpleNamespace(id=100 + n, name=name, **blank) for n, name in enumerate(names)]
    samples = [
        SimpleNamespace(frame_name="a.png", frame_index=n, media=SimpleNamespace(load_image=lambda image=image: image))
        for n, image in enumerate(images)
    ]
    client = mock.MagicMock(logger=logging.getLogger("cvat"))
    task = SimpleNamespace(labels=labels, samples=samples)
    with mock.patch.object(driver, "TaskDataset", return_value=task):
        driver.annotate_task(client, 7, function, conf_threshold=0.3, allow_unmatched_labels=True)
    request = client.tasks.api.partial_update_annotations.call_args.kwargs["patched_labeled_data_request"]
    predictor = Predictor.from_pretrained("scenes-tiny", device="cpu", quiet=True, min_area=1)
    found = [
        (frame, 100 + names.index(item.name))
        for frame, image in enumerate(images)
        for item in predictor(image, "instance", score_threshold=0.3)
        if item.name in names
    ]
    assert found
    assert [(shape.frame, shape.label_id) for shape in request.shapes] == found
    assert {(shape.type.value, shape.source) for shape in request.shapes} == {("mask", "auto")}


def test_only_the_classes_that_are_wanted_are_labels() -> None:
    assert [label.name for label in create("scenes-tiny", device="cpu", classes="tree, sky").spec.labels] == [
        "tree",
        "sky",
    ]
    with pytest.raises(UserError, match="no class 'oak'"):
        create("scenes-tiny", device="cpu", classes="oak")
