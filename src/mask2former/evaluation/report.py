"""An evaluation as one HTML page: numbers, charts and images in a single file that needs no network.

The page is ``report.html.j2`` beside this module; this module computes its values. Names from data sets are unsafe
until they are escaped, which the template engine does.
"""

from __future__ import annotations

import base64
import math
import re
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float64, Int64

from mask2former.evaluation.gallery import Gallery, Kind
from mask2former.evaluation.scores import EvaluationReport
from mask2former.files import write_whole
from mask2former.metrics.average_precision import InstanceEvaluator, PrecisionRecall
from mask2former.metrics.cityscapes import CityscapesPixelEvaluator
from mask2former.metrics.semantic import SemanticEvaluator
from mask2former.structures import Categories
from mask2former.text import shortened

__all__ = ["write_report"]

# In names: control characters, code points that UTF-8 cannot encode, and those that change the text direction.
_UNSEEN = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")

_TITLES = {"panoptic": "Panoptic", "instance": "Instances", "semantic": "Semantic"}
_MEANINGS = {  # of the metrics at the top of the page, in this order
    "panoptic/PQ": "panoptic quality: SQ times RQ, mean over classes",
    "panoptic/SQ": "how well found segments fit, mean IoU",
    "panoptic/RQ": "how many segments were found and right",
    "panoptic/PQ_things": "panoptic quality of countable objects",
    "panoptic/PQ_stuff": "panoptic quality of regions",
    "instance/AP": "average precision, mean over IoU 0.5 to 0.95",
    "instance/AP50": "a match needs an IoU of 0.5",
    "instance/AP75": "a match needs an IoU of 0.75",
    "instance/boundary_AP": "AP with the IoU of outlines",
    "instance/pooled_AP": "hits / (hits + false + missed)",
    "semantic/mIoU": "mean IoU of the classes",
    "semantic/fwIoU": "IoU weighted by frequency",
    "semantic/mACC": "right pixels, mean over classes",
    "semantic/pACC": "right pixels of all",
}
_KINDS: tuple[tuple[Kind, str, str], ...] = (
    ("worst", "Worst", "lowest quality"),
    ("confident", "Most confident errors", "high scores, and wrong"),
    ("best", "Best", "highest quality"),
)
_QUALITIES = {
    "panoptic": "Quality is the panoptic quality of one image, all its classes together. The confidence of "
    "errors is the share of the image that got a wrong class, times how sure the model was of it.",
    "instance": "Quality is the mean of best IoUs, over true and predicted objects. The confidence of errors is the "
    "largest product of the score of a prediction and the amount by which its best IoU falls short of 100 %.",
    "semantic": "Quality is the mean IoU of one image. The confidence of errors is the share of the image that is "
    "wrong well inside a predicted region: models are uncertain at borders, but sure inside.",
}
_NAME = 200  # characters of a class or group; each name appears several times
_MATRIX = 24  # classes; if there are more, those with the most confusions
_CONFUSIONS = 15
_CURVES = 36


def write_report(
    path: Path,
    report: EvaluationReport,
    categories: Categories,
    gallery: Gallery | None = None,
    *,
    title: str = "Evaluation",
    settings: Mapping[str, Any] | None = None,
) -> None:
    """Write the complete page, or nothing if an error occurs.

    Args:
        path: path of the HTML file; missing folders are created.
        report: the metrics, and the evaluators for curves and confusions.
        categories: the classes of the model.
        gallery: images; the predictions must have been passed to its :meth:`~Gallery.add`.
        title: title of the page, for instance the name of the model.
        settings: settings of the evaluation, shown as a table.

    Raises:
        UserError: the path cannot be written.
    """
    import jinja2

    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    environment.filters["short"] = lambda name: shortened(str(name), _NAME)
    environment.filters["percent"] = lambda value: "-" if not math.isfinite(value) else f"{value:.1f}"
    template = environment.from_string(
        resources.files("mask2former.evaluation").joinpath("report.html.j2").read_text("utf-8")
    )
    page = template.render(
        title=title,
        num_images=report.num_images,
        seconds=report.seconds,
        settings={name: _in_words(value) for name, value in (settings or {}).items()},
        tasks=[_task_values(task, report, categories, gallery) for task in report.per_class],
    )
    page = _UNSEEN.sub("\N{REPLACEMENT CHARACTER}", page)
    write_whole(path, lambda file: file.write_text(page, encoding="utf-8"))


def _in_words(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_in_words(entry)}" for name, entry in value.items())
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def _task_values(
    task: Any, report: EvaluationReport, categories: Categories, gallery: Gallery | None
) -> dict[str, Any]:
    evaluator = report.evaluators.get(task)
    rows = report.per_class[task]
    metrics = {name: value for name, value in report.metrics.items() if name.startswith(f"{task}/")}
    shown = [name for name in _MEANINGS if name in metrics] or list(metrics)[:4]
    return {
        "name": task,
        "title": _TITLES[task],
        "numbers": [
            {"name": name.split("/", 1)[1], "value": metrics[name], "meaning": _MEANINGS.get(name, "")}
            for name in shown
        ],
        "metrics": {name.split("/", 1)[1]: value for name, value in metrics.items()},
        "columns": list(next(iter(rows.values()), {})),
        **_class_bars(rows),
        "groups": _group_bars(shown, report),
        "curves": _curves(evaluator.curves()) if isinstance(evaluator, InstanceEvaluator) else None,
        "thresholds": _thresholds(report) if task == "instance" else None,
        "confusion": _confusion(evaluator.confusion, categories)
        if isinstance(evaluator, SemanticEvaluator | CityscapesPixelEvaluator)
        else None,
        "explanation": _QUALITIES[task],
        "gallery": _gallery_groups(task, gallery),
    }


def _group_bars(shown: list[str], report: EvaluationReport) -> dict[str, Any] | None:
    """The requested groups, in their order, below the overall value."""
    if not report.groups:
        return None
    bars = [
        {
            "name": name,
            "value": _share(values.get(shown[0])),
            "count": count,
            "values": [values.get(n, math.nan) for n in shown],
        }
        for name, (values, count) in report.groups.items()
    ]
    return {"columns": [name.split("/", 1)[1] for name in shown], "bars": bars}


def _share(value: float | None) -> float:
    return value if value is not None and math.isfinite(value) else 0.0


def _class_bars(rows: Mapping[str, Mapping[str, float]]) -> dict[str, Any]:
    """Classes in falling order of the first metric; those without a value are listed separately."""
    first = {name: next(iter(values.values())) for name, values in rows.items()}
    defined = sorted((name for name in rows if math.isfinite(first[name])), key=lambda name: -first[name])
    return {
        "bars": [{"name": name, "value": first[name], "values": list(rows[name].values())} for name in defined],
        "absent": [name for name in rows if not math.isfinite(first[name])],
    }


def _curves(curves: Mapping[str, PrecisionRecall]) -> dict[str, Any] | None:
    """Points of SVG lines in a square of 100: the mean over classes, then each class, the worst first."""
    if not curves:
        return None
    lines = {"IoU 0.5": "at_50", "IoU 0.75": "at_75", "mean of 0.5 to 0.95": "mean"}
    recall = next(iter(curves.values())).recall
    falling = sorted(curves.items(), key=lambda item: float(item[1].mean.mean()))
    return {
        "mean": [
            {"name": name, "points": _points(recall, np.mean([getattr(c, field) for c in curves.values()], axis=0))}
            for name, field in lines.items()
        ],
        "classes": [
            {
                "name": name,
                "value": 100 * float(curve.mean.mean()),
                "lines": [_points(recall, getattr(curve, field)) for field in lines.values()],
            }
            for name, curve in falling[:_CURVES]
        ],
        "left_out": max(0, len(curves) - _CURVES),
    }


def _thresholds(report: EvaluationReport) -> dict[str, Any] | None:
    """Points of SVG lines over the score, and the best score."""
    points = report.operating_points()
    if points is None:
        return None
    lines = {"precision": points.precision, "recall": points.recall, "F1": points.f1}
    return {
        "lines": [{"name": name, "points": _points(points.scores, values)} for name, values in lines.items()],
        "score": float(points.scores[points.best]),
        **{name: 100 * float(values[points.best]) for name, values in lines.items()},
    }


def _points(across: Float64[np.ndarray, " R"], up: Float64[np.ndarray, " R"]) -> str:
    """``x,y x,y ...`` with y pointing down, without undefined points."""
    return " ".join(f"{100 * x:.0f},{100 - 100 * y:.1f}" for x, y in zip(across, up, strict=True) if math.isfinite(y))


def _confusion(counts: Int64[np.ndarray, "K1 K1"], categories: Categories) -> dict[str, Any] | None:
    """Shares of the true pixels of each class by predicted class, and the pairs of classes with the most confusions."""
    true = counts[:, :-1].T.astype(np.float64)  # rows: true classes; columns: predicted ones, the last being none
    totals = true.sum(axis=1)
    if not totals.any():
        return None
    shares = true / np.maximum(totals, 1)[:, None]
    names = [*categories.names, "no class"]
    errors = shares.copy()
    np.fill_diagonal(errors, 0.0)
    largest = [divmod(int(index), len(names)) for index in np.argsort(-errors, axis=None)[:_CONFUSIONS]]
    present = np.flatnonzero(totals > 0)
    blame = errors.sum(axis=1) + errors.sum(axis=0)[:-1]
    chosen = np.sort(present[np.argsort(-blame[present], kind="stable")][:_MATRIX]).tolist()
    columns = [*chosen, *([len(categories)] if true[:, -1].any() else [])]
    return {
        "names": [names[column] for column in columns],
        "rows": [{"name": names[row], "shares": [float(shares[row, column]) for column in columns]} for row in chosen],
        "left_out": len(present) - len(chosen),
        "largest": [
            {"true": names[row], "predicted": names[column], "share": 100 * float(errors[row, column])}
            for row, column in largest
            if errors[row, column] > 0
        ],
    }


def _gallery_groups(task: Any, gallery: Gallery | None) -> list[dict[str, Any]]:
    if gallery is None:
        return []
    groups = [
        {
            "title": title,
            "hint": hint,
            "entries": [
                {
                    "image_id": entry.image_id,
                    "quality": 100 * entry.comparison.quality,
                    "confidence": 100 * entry.comparison.confidence,
                    "remark": entry.comparison.remark,
                    "images": [
                        {"name": name, "data": base64.b64encode(data).decode("ascii")}
                        for name, data in zip(("image", "ground truth", "prediction"), entry.images, strict=True)
                    ],
                }
                for entry in gallery.of(task, kind)
            ],
        }
        for kind, title, hint in _KINDS
    ]
    return [group for group in groups if group["entries"]]
