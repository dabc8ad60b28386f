"""The table of published models: what each is, what it scored, where its file is and under which license.

Settings and classes of a model are in the recipe of the same name; here are only facts about its file. The packaged
table can be replaced, for instance by that of a mirror. Must not know how files are read.
"""

from __future__ import annotations

import logging
import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any, get_origin, get_type_hints

from mask2former import limits
from mask2former.checkpoints.download import Progress, cache_folder, download, is_offline
from mask2former.documents import read_json
from mask2former.errors import UserError
from mask2former.text import quoted

__all__ = ["License", "Zoo", "ZooModel", "current_zoo", "packaged_zoo"]

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class License:
    """Under what weights may be used; ``commercial`` is whether for commercial purposes too."""

    name: str
    url: str
    commercial: bool


@dataclass(frozen=True)
class ZooModel:
    """One published model.

    Attributes:
        name: what it is loaded by, and the name of its recipe.
        task: as published: panoptic, instance, semantic or video instance.
        dataset: what it was trained on.
        backbone: in the words of the published table.
        pretraining: what its backbone (for video: all of it) was trained on before.
        queries: how many segments it can find at most.
        metrics: published numbers on the validation set, percent. In panoptic models AP is of things and mIoU of the
            panoptic result.
        url, file: where its weights are, and their name in the cache, which holds the hash.
        md5_prefix: first digits of the file's MD5 hash.
        num_bytes: of its arrays; the file is a little larger.
        license: of its weights.
    """

    name: str
    task: str
    dataset: str
    backbone: str
    pretraining: str
    queries: int
    metrics: dict[str, float]
    url: str
    file: str
    md5_prefix: str
    num_bytes: int
    license: License

    @property
    def path(self) -> Path:
        """Where its file is or will be."""
        return cache_folder() / self.file

    def fetch(self, progress: Progress | None = None) -> Path:
        """Its file, downloaded if it is not in the cache.

        Raises:
            UserError: as :func:`mask2former.checkpoints.download.download`.
        """
        if not self.path.is_file() and not is_offline():
            _logger.warning("downloading %s (%.0f MB) to %s", self.name, self.num_bytes / 1e6, self.path.parent)
        most = 4 * self.num_bytes + limits.ZOO_SPARE_BYTES  # room for optimizers and averages, which some files hold
        return download(self.url, self.path, self.md5_prefix, progress, most=most)


class Zoo(Mapping[str, ZooModel]):
    """Published models by name, in the order of the table."""

    def __init__(self, models: Mapping[str, ZooModel]) -> None:
        self._models = dict(models)

    def __getitem__(self, name: str) -> ZooModel:
        return self._models[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._models)

    def __len__(self) -> int:
        return len(self._models)

    @classmethod
    def load(cls, path: Path) -> Zoo:
        """A table of the form of the packaged ``assets/zoo.json``.

        Raises:
            UserError: the file cannot be read or has another form.
        """
        values = read_json(path, "table of models", hint="check the environment variable MASK2FORMER_ZOO")
        try:
            licenses = {name: License(name, entry["url"], entry["commercial"]) for name, entry in _entries(values)}
            models = [_model(entry, licenses) for entry in values["models"]]
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            reason = f"{error} is missing" if isinstance(error, KeyError) else str(error)
            raise UserError(f"zoo {path}: not a table of models: {reason}") from error
        for attribute in ("name", "file"):
            numbers = Counter(getattr(model, attribute) for model in models)
            if twice := [value for value, number in numbers.items() if number > 1]:
                raise UserError(f"zoo {path}: more than one model with {attribute} '{min(twice)}'")
        return cls({model.name: model for model in models})


def _entries(values: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    for name, entry in values["licenses"].items():
        if not isinstance(entry["url"], str) or not isinstance(entry["commercial"], bool):
            raise ValueError(f"license '{name}' needs a url and whether it is commercial (true or false)")
        yield name, entry


def _model(entry: dict[str, Any], licenses: dict[str, License]) -> ZooModel:
    model = ZooModel(**{**entry, "license": licenses[entry["license"]]})
    kinds = get_type_hints(ZooModel)
    for field in fields(ZooModel):
        value, kind = getattr(model, field.name), kinds[field.name]
        if not isinstance(value, get_origin(kind) or kind):
            raise ValueError(f"'{field.name}' of a model is {quoted(value)}; expected {kind}")
    if not all(isinstance(value, int | float) and abs(value) <= 1e6 for value in model.metrics.values()):
        raise ValueError(f"metrics of '{model.name}' must be numbers")
    if not (0 <= model.num_bytes <= limits.ZOO_BYTES and 0 <= model.queries <= limits.ZOO_QUERIES):
        raise ValueError(f"num_bytes or queries of '{model.name}' is no size of a model")
    if not re.fullmatch(r"https?://[^\s]+", model.url):
        raise ValueError(f"'{model.name}' has no address of the web: {quoted(model.url)}")
    if not re.fullmatch(r"[0-9a-f]{6,32}", model.md5_prefix) or model.md5_prefix not in model.file:
        raise ValueError(f"'{model.name}': md5_prefix must be 6 to 32 digits 0-f that the file's name contains")
    if not re.fullmatch(r"\w[\w.-]*", model.file):
        raise ValueError(f"'{model.name}': file '{model.file}' is no plain file name")
    return model


def current_zoo() -> Zoo:
    """The packaged table, or the file that the environment variable ``MASK2FORMER_ZOO`` names instead.

    Raises:
        UserError: as :meth:`Zoo.load`.
    """
    chosen = os.environ.get("MASK2FORMER_ZOO")
    if chosen:
        return Zoo.load(Path(chosen))
    return packaged_zoo()


@cache
def packaged_zoo() -> Zoo:
    """The published table, whatever stands in for it: what the models scored when they were published."""
    with resources.as_file(resources.files("mask2former").joinpath("assets", "zoo.json")) as file:
        return Zoo.load(file)
