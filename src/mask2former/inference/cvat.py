"""An auto-annotation function for CVAT: a model annotates a task from the command line.

cvat-cli task auto-annotate 1234 --function-module mask2former.inference.cvat -p model=str:coco-panoptic/swin-t
"""

from __future__ import annotations

from typing import Any, Literal

from PIL import Image

from mask2former.config import Task
from mask2former.extras import need
from mask2former.inference.predictor import Predictor
from mask2former.results_io.cvat import cvat_runs
from mask2former.results_io.yolo import joined_rings

__all__ = ["create"]


def create(
    model: str,
    task: Task | None = None,
    device: str | None = None,
    classes: str | None = None,
    min_area: int | None = None,
) -> Any:
    """The function that ``cvat-cli`` calls with the parameters of ``-p``, for instance ``-p task=str:instance``.

    Args:
        model: a source that :meth:`Predictor.from_pretrained` accepts.
        task: task of the annotations; default: the first of panoptic, instance and semantic that the model supports.
        device: for instance ``cuda``.
        classes: names separated by commas; default: all.
        min_area: least area of an object in pixels; default: that of the model.

    Returns:
        An object with ``spec`` (the labels, named after the classes) and ``detect``. Objects with scores below the
        threshold of CVAT's command (``--conf-threshold``), or else below that of the model, are left out. With
        ``--conv-mask-to-poly``, masks are returned as polygons.

    Raises:
        UserError: the model cannot be loaded, or has no such class.
        MissingExtraError: cvat-sdk is not installed.
    """
    need("cvat", "cvat_sdk", to="annotate in CVAT")
    import cvat_sdk.auto_annotation as cvat

    settings: dict[str, Any] = {} if min_area is None else {"min_area": min_area}
    if classes is not None:
        settings["classes"] = tuple(name.strip() for name in classes.split(","))
    predictor = Predictor.from_pretrained(model, device=device, quiet=True, **settings)
    predictor.choose_tasks(task)
    chosen = predictor.categories.indices(predictor.settings.classes or predictor.categories.names)
    kind: Literal["any"] = "any"  # the labels of a task may be masks or polygons
    labels = [cvat.label_spec(predictor.categories[label].name, label, type=kind) for label in sorted(chosen)]

    class Function:
        """The object whose method ``cvat-cli`` calls for each image."""

        spec = cvat.DetectionFunctionSpec(labels=labels)

        def detect(self, context: Any, image: Image.Image) -> list[Any]:
            threshold = context.conf_threshold
            overrides = {} if threshold is None else {"score_threshold": threshold}
            least = max(1, predictor.settings.min_area)  # CVAT does not allow empty masks
            found = []
            for item in predictor(image, task, min_area=least, **overrides):
                left, top, right, bottom = item.box
                if context.conv_mask_to_poly:
                    corners = joined_rings([ring for polygon in item.polygons for ring in polygon])
                    found.append(cvat.polygon(item.label, corners.ravel().astype(float).tolist()))
                else:
                    found.append(cvat.mask(item.label, [*cvat_runs(item.patch), left, top, right - 1, bottom - 1]))
            return found

    return Function()
