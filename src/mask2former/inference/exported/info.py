"""The metadata of an exported file: the model in it, and the inputs that it accepts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, get_args

from mask2former import limits
from mask2former.config import Task
from mask2former.documents import encode_json, parse_json
from mask2former.errors import UserError
from mask2former.structures import ModelInfo
from mask2former.text import printable, quoted

__all__ = ["INPUTS", "KEY", "LOGITS", "ExportedInfo"]

KEY = "mask2former"  # name of the entry in a file's metadata that contains it, as JSON
INPUTS = ("images", "sizes")
LOGITS = ("class_logits", "mask_logits", "query_features")  # outputs of files for a predictor
_RESULTS: Mapping[Task, tuple[str, ...]] = {  # outputs of other files, by the task of their results
    "panoptic": ("ids", "segment_ids", "labels", "scores"),
    "instance": ("masks", "labels", "scores", "boxes"),
    "semantic": ("labels",),
}
_FORMAT = 1
_SIDES = ("height", "width", "batch", "frames")


@dataclass(frozen=True)
class ExportedInfo:
    """The metadata of an exported file.

    Attributes:
        model: classes, inference settings, license and metrics of the model.
        height: height of images in pixels; None: any.
        width: width of images in pixels; None: any.
        batch: images per call; None: any number.
        frames: frames per clip; None: the file takes images, without a frame axis.
        size_divisibility: the file pads heights and widths to multiples of it.
        version: version of this package that exported it.
        task: task whose results the file returns, for programs without this package; None: logits.
        weights: how they are stored, for instance ``int8``.
    """

    model: ModelInfo
    height: int | None
    width: int | None
    batch: int | None
    frames: int | None
    size_divisibility: int
    version: str
    task: Task | None = None
    weights: str = "float32"

    @property
    def outputs(self) -> tuple[str, ...]:
        """The names of the file's outputs, in order."""
        return LOGITS if self.task is None else _RESULTS[self.task]

    def to_json(self) -> str:
        """The form in files; :meth:`from_json` reads it."""
        sides = {name: getattr(self, name) for name in _SIDES}
        values = {"format": _FORMAT, "version": self.version, "size_divisibility": self.size_divisibility, **sides}
        values |= {"task": self.task, "weights": self.weights}
        return encode_json({**values, "model": self.model.to_dict()})

    @classmethod
    def from_json(cls, text: str | None, source: str) -> ExportedInfo:
        """Read the output of :meth:`to_json`.

        Args:
            text: the entry :data:`KEY`; None if the file has none.
            source: name for messages.

        Raises:
            UserError: the entry is missing or invalid.
        """
        if text is None:
            raise UserError(
                f"{source}: not a model that was exported by this package: its metadata has no '{KEY}'; export it "
                "with mask2former export, or pass Predictor a function that calls it (docs/extend/network.md)"
            )
        limits.check_limit(
            f"{source}: its metadata has too many bytes:", len(text), limits.CONFIG_BYTES, "export it again"
        )
        values = parse_json(text.encode(), f"the metadata of {source}")
        if not isinstance(values, dict) or values.get("format") != _FORMAT:
            found = quoted(values.get("format")) if isinstance(values, Mapping) else "none"
            raise UserError(f"{source}: its metadata has format {found}, expected {_FORMAT}; export the model again")
        sides = {name: _side(values, name, source) for name in _SIDES}
        divisibility = _side(values, "size_divisibility", source)
        if divisibility is None or not isinstance(values.get("model"), dict):
            raise UserError(f"{source}: its metadata lacks the model or its size_divisibility; export the model again")
        task = values.get("task")
        if task is not None and task not in get_args(Task):
            raise UserError(f"{source}: its metadata has task {quoted(task)}; export the model again")
        return cls(
            ModelInfo.from_dict(values["model"], source),
            **sides,
            size_divisibility=divisibility,
            version=printable(str(values.get("version")), 40),
            task=task,
            weights=printable(str(values.get("weights", "float32")), 40),  # missing in earlier files
        )


def _side(values: Mapping[str, Any], name: str, source: str) -> int | None:
    value = values.get(name)
    if value is None or (type(value) is int and 0 < value <= limits.SIDE):
        return value
    raise UserError(f"{source}: its metadata has {name} {quoted(value)}; expected a number of pixels or images")
