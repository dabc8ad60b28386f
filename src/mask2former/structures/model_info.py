"""The description of a model besides its weights: one object that the model has and its files store."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from mask2former.config import ArchitectureConfig, InferenceConfig, ModelConfig, OwnPartsConfig, Task, parse
from mask2former.config.model import LATER_SETTINGS
from mask2former.errors import UserError
from mask2former.structures.categories import Categories
from mask2former.text import printable, shortened

__all__ = ["NO_LICENSE", "ModelInfo"]

NO_LICENSE = "not stated"  # for published weights whose authors state none
_LICENSE = 200  # characters
_LARGEST_METRIC = 1e6


def _is_metric(value: object) -> bool:
    """A metric as a number, or NaN where there was nothing to measure; JSON may have numbers of thousands of digits."""
    return isinstance(value, int | float) and (value != value or abs(value) <= _LARGEST_METRIC)


@dataclass(frozen=True)
class ModelInfo:
    """Architecture, inference settings, classes, license and measured metrics.

    Attributes:
        architecture: what the model is built from; None for a model with your own parts, which only your code
            can build.
        inference: settings, with the tasks that the model was trained for.
        categories: the classes, in the order of the class head; None if they are not known yet.
        license: of the weights, if known, for instance ``CC BY-NC 4.0``; :data:`NO_LICENSE` where their authors are
            known to state none.
        metrics: measured with these weights, in percent.
    """

    architecture: ArchitectureConfig | None = None
    inference: InferenceConfig = field(default_factory=InferenceConfig)
    categories: Categories | None = None
    license: str | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)

    @classmethod
    def of(cls, config: ModelConfig, categories: Categories | None = None) -> ModelInfo:
        """The description of the model that is built from a configuration."""
        return cls(config.architecture, config.inference, categories)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form, with the classes; :meth:`from_dict` reads it back."""
        parts: dict[str, Any] = {"architecture": None}
        if self.architecture is not None:
            parts = self.architecture.model_dump(mode="json")
            if not self.architecture.own_normalisation:
                del parts["pixel_mean"], parts["pixel_std"]  # 0.1.0 knows no others, and reads these files
            for name in ("pyramid", "joint_blocks"):  # nor does it know these
                if not parts["backbone"].get(name):
                    parts["backbone"].pop(name, None)
            if parts["pixel_decoder"].get("stages") is None:
                parts["pixel_decoder"].pop("stages", None)
            for name in LATER_SETTINGS if self.architecture.is_of_0_1 else ():
                del parts["transformer_decoder"][name]
        return {
            "config": {**parts, "inference": self.inference.model_dump(mode="json")},
            "categories": self.known_categories.to_dict(),
            "license": self.license,
            "metrics": dict(self.metrics),
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], source: str) -> ModelInfo:
        """From the form of :meth:`to_dict`; license and metrics may be missing.

        Args:
            values: from a file.
            source: named in messages.

        Raises:
            UserError: the values have another form.
        """
        config = values.get("config")
        architecture = None
        if isinstance(config, dict) and "architecture" in config:
            inference = parse(OwnPartsConfig, config, f"{source}: config").inference
        else:
            model = parse(ModelConfig, config, f"{source}: config")
            architecture, inference = model.architecture, model.inference
        try:
            categories = Categories.from_dict(values.get("categories"))
        except UserError as error:
            reason = shortened(printable(str(error).removeprefix(f"{source}: ")), 300)
            raise UserError(f"{source}: categories: {reason}") from error
        license, metrics = values.get("license"), values.get("metrics", {})
        if not isinstance(metrics, dict) or not all(map(_is_metric, metrics.values())):
            raise UserError(f"{source}: the 'metrics' of its header are not numbers by name; save the model again")
        return cls(
            architecture, inference, categories, None if license is None else printable(license, _LICENSE), metrics
        )

    @property
    def tasks(self) -> tuple[Task, ...]:
        """The tasks that the model was trained for."""
        return self.inference.tasks

    @property
    def known_categories(self) -> Categories:
        """The classes.

        Raises:
            UserError: they are not known.
        """
        if self.categories is None:
            raise UserError("the model has no class names: set model.categories = Categories.from_names([...]) first")
        return self.categories

    @property
    def known_architecture(self) -> ArchitectureConfig:
        """The configuration that the model is built from.

        Raises:
            UserError: it has parts that are not described.
        """
        if self.architecture is None:
            raise UserError(
                "the model has custom parts, which no configuration describes; this needs a model that was built "
                "from a ModelConfig"
            )
        return self.architecture
