"""The inputs of an analysis: a predictor with images and their ground truth, or with one image."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import UInt8

from mask2former.config import Task
from mask2former.data.annotated import AnnotatedSet
from mask2former.data.build import read_as
from mask2former.data.clips import MeasuredClips
from mask2former.data.sample_sets import SampleSet, as_reader
from mask2former.data.sources import DataSource, OpenedData
from mask2former.errors import OptionError, UserError
from mask2former.evaluation.cases import Cases
from mask2former.evaluation.evaluate import image_tasks, matched_classes
from mask2former.inference.predicted_image import Shown
from mask2former.inference.predictor import Predictor
from mask2former.media.images import ImageSource
from mask2former.scenes import draw_scene

__all__ = ["SCENE", "AnalyzedData", "Subjects", "open_subjects", "prepared"]

AnalyzedData = DataSource | AnnotatedSet | SampleSet | str
"""Images with ground truth, as accepted by :func:`mask2former.evaluate`."""

SCENE = 1_000_000
"""The scene to draw if no image is named; the first validation scene."""
_SIDE = 128  # of the scene, in pixels


@dataclass(frozen=True)
class Subjects:
    """Images with ground truth.

    Attributes:
        cases: the images, with the model's class indices.
        tasks: tasks for which the images have ground truth and the model was trained.
        overrides: settings of the predictor for the images.
        record: description of the images, for JSON.
    """

    cases: Cases
    tasks: tuple[Task, ...]
    overrides: dict[str, Any]
    record: dict[str, Any]


def open_subjects(predictor: Predictor, data: AnalyzedData, tasks: tuple[Task, ...] = ()) -> Subjects:
    """The images of a data set, as measured by ``evaluate``.

    Raises:
        UserError: there is no such data, it has clips or no ground truth, or it does not fit the model.
    """
    if isinstance(data, str):
        data = DataSource(data)
    if isinstance(data, DataSource):
        source, opened = data, data.open(lambda: predictor.settings.default_task)
    else:
        source, opened = DataSource(), OpenedData(samples=as_reader(data), record={"data": type(data).__name__})
    samples = opened.samples
    if isinstance(samples, MeasuredClips):
        raise UserError("the data are clips, but analyses are for images; choose a data set of images")
    if not samples.has_ground_truth:
        raise UserError("the data has no annotations, which this analysis needs; choose a data set that has some")
    chosen = image_tasks(predictor, samples, tasks)
    read_as(samples, predictor.settings.reading)
    class_map, _ = matched_classes(predictor, samples, source.split)
    overrides = {"short_edge": 0} if opened.as_drawn and not predictor.settings.tile else {}
    cases = Cases(samples, chosen, predictor.categories, class_map, source.limit)
    return Subjects(cases, chosen, overrides, {**opened.record, "images": len(cases)})


def prepared(predictor: Predictor, image: ImageSource | None = None) -> Shown:
    """An image as a single input of the network, without tiles; None: the scene :data:`SCENE`, not resized.

    Raises:
        UserError: the image cannot be read, or none is given and the model expects image bands.
    """
    if image is None and predictor.settings.bands is not None:
        raise OptionError(
            lambda name: f"the model expects image bands, which drawn scenes do not have; give {name('image')}"
        )
    if image is None:
        scene: UInt8[np.ndarray, "H W 3"] = draw_scene(SCENE, (_SIDE, _SIDE)).image
        return predictor.prepare(scene, tile=0, short_edge=0)
    return predictor.prepare(image, tile=0)
