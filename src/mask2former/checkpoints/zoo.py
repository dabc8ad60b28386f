"""The table of published models: what each is, who published it, its metrics, where its file is, and its license.

Settings and classes of a model are in the recipe of the same name; this table contains only facts about its file. The
packaged table can be replaced, for instance by that of a mirror. Must not know how files are read.
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
from types import UnionType
from typing import Any, get_origin, get_type_hints

from mask2former import limits
from mask2former.checkpoints.download import CHECKSUM, Progress, cache_folder, download, is_offline
from mask2former.documents import read_json
from mask2former.errors import UserError
from mask2former.text import quoted

__all__ = ["License", "Provider", "Zoo", "ZooModel", "current_zoo", "packaged_names", "packaged_zoo"]

_logger = logging.getLogger(__name__)

_TASKS = ("panoptic", "instance", "semantic", "video instance")


def packaged_names() -> tuple[str, ...]:
    """Models that come with the package."""
    folder = resources.files("mask2former").joinpath("assets")
    if not folder.is_dir():
        return ()
    return tuple(sorted(entry.name[:-12] for entry in folder.iterdir() if entry.name.endswith(".safetensors")))


@dataclass(frozen=True)
class License:
    """The terms for the use of weights.

    Attributes:
        name: for instance ``Apache-2.0``; ``not stated`` if none is given.
        url: where it can be read, or where to ask.
        commercial: whether commercial use is permitted; None if not stated, which permits nothing.
    """

    name: str
    url: str
    commercial: bool | None


@dataclass(frozen=True)
class Provider:
    """Who published a model.

    Attributes:
        name: prefix of the names of its models, except for ``official``.
        title: the project.
        source: the page with the metrics.
        note: what to know when reading them; may be empty.
    """

    name: str
    title: str
    source: str | None
    note: str = ""


_OWN = Provider("own", "a table of your own", None)  # where rows name no provider, as in tables of 0.1.0


@dataclass(frozen=True)
class ZooModel:
    """One published model.

    Attributes:
        name: the name that it is loaded by, and that of its recipe; begins with the provider, except for ``official``.
        provider: who published it.
        task: as published: panoptic, instance, semantic or video instance.
        dataset: what it was trained on.
        backbone: in the words of the published table.
        pretraining: what its backbone (for video: all of it) was pre-trained on.
        queries: the maximum number of segments.
        metrics: published values on the validation set, percent, as printed; unpublished ones are missing. AP is of
            masks. In panoptic models AP is of things and mIoU of the panoptic result.
        url: where its weights are.
        file: their name in the cache, which contains the digits of ``checksum``.
        checksum: what verifies the file, as ``md5:94dc52`` or ``sha256:54df384a``: the first digits of a hash. None
            where none was published: its SHA-256 is recorded at the first download and compared later.
        num_bytes: of its arrays; the file is slightly larger.
        license: of its weights.
    """

    name: str
    provider: Provider
    task: str
    dataset: str
    backbone: str
    pretraining: str
    queries: int
    metrics: dict[str, float]
    url: str
    file: str
    checksum: str | None
    num_bytes: int
    license: License

    @property
    def short_name(self) -> str:
        """The name without the provider: data set, task and backbone, which models of several providers may share."""
        return self.name.removeprefix(f"{self.provider.name}/")

    @property
    def path(self) -> Path:
        """Where its file is or will be."""
        return cache_folder() / self.file

    def fetch(self, progress: Progress | None = None) -> Path:
        """Its file, downloaded if it is not in the cache, and verified.

        Raises:
            UserError: as :func:`mask2former.checkpoints.download.download`.
        """
        if not self.path.is_file() and not is_offline():
            _logger.warning("downloading %s (%.0f MB) to %s", self.name, self.num_bytes / 1e6, self.path.parent)
        most = 4 * self.num_bytes + limits.ZOO_SPARE_BYTES  # room for optimizers and averages, which some files include
        return download(self.url, self.path, self.checksum, progress, most=most)


class Zoo(dict[str, ZooModel]):
    """Published models by name, in table order."""

    @classmethod
    def load(cls, path: Path) -> Zoo:
        """A table in the form of the packaged ``assets/zoo.json``, or that of 0.1.0.

        Raises:
            UserError: the file cannot be read or has another form.
        """
        values = read_json(path, "table of models", hint="check the environment variable MASK2FORMER_ZOO")
        try:
            _check_lists(values)
            licenses = {name: License(name, entry["url"], entry["commercial"]) for name, entry in _entries(values)}
            providers = {name: _provider(name, entry) for name, entry in values.get("providers", {}).items()}
            models = [_model(entry, licenses, providers) for entry in values["models"]]
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            reason = f"{error} is missing" if isinstance(error, KeyError) else str(error)
            raise UserError(f"zoo {path}: not a table of models: {reason}") from error
        for attribute in ("name", "file"):
            numbers = Counter(getattr(model, attribute) for model in models)
            if twice := [value for value, number in numbers.items() if number > 1]:
                raise UserError(f"zoo {path}: more than one model with {attribute} '{min(twice)}'")
        return cls({model.name: model for model in models})


def _check_lists(values: Any) -> None:
    for name, kind, what in (("licenses", dict, "a mapping"), ("models", list, "a list")):
        if not isinstance(values, dict) or not isinstance(values.get(name), kind):
            raise ValueError(f"expected a mapping in which '{name}' is {what}")
    if not all(isinstance(entry, dict) for entry in values["models"]):
        raise ValueError("every entry of 'models' must be a mapping")


def _entries(values: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    for name, entry in values["licenses"].items():
        if not isinstance(entry["url"], str) or not isinstance(entry["commercial"], bool | None):
            raise ValueError(f"license '{name}' needs a url and whether it is commercial (true, false or null)")
        yield name, entry


def _provider(name: str, entry: dict[str, Any]) -> Provider:
    provider = Provider(name, **entry)
    _check_kinds(provider, f"provider '{name}'")
    if provider.source is not None:
        _check_address(provider.source, f"provider '{name}'")
    return provider


def _model(entry: dict[str, Any], licenses: dict[str, License], providers: dict[str, Provider]) -> ZooModel:
    values = dict(entry)
    if "md5_prefix" in values:  # until 0.1.0
        if "checksum" in values:
            raise ValueError("a model has both 'checksum' and 'md5_prefix'; leave out 'md5_prefix'")
        values["checksum"] = f"md5:{values.pop('md5_prefix')}"
    values["provider"] = _named(values["provider"], providers, "providers") if "provider" in values else _OWN
    values["license"] = _named(values.get("license"), licenses, "licenses")
    known = {field.name for field in fields(ZooModel)}
    for wrong, found in (("lacks", known - values.keys()), ("has the unknown key", values.keys() - known)):
        if found:
            raise ValueError(f"model {quoted(values.get('name'))} {wrong} '{min(found)}'")
    model = ZooModel(**values)
    _check_kinds(model, "a model")
    if model.task not in _TASKS:
        raise ValueError(f"task of '{model.name}' is {quoted(model.task)}; expected one of {', '.join(_TASKS)}")
    if model.name in packaged_names():
        raise ValueError(f"'{model.name}' is the name of a model that comes with this package; choose another")
    if not re.fullmatch(r"\w[\w.-]*(/\w[\w.-]*)*", model.name):
        raise ValueError(
            f"{quoted(model.name)} is not a valid model name; expected words of letters and digits between '/'"
        )
    if not all(isinstance(value, int | float) and abs(value) <= 1e6 for value in model.metrics.values()):
        raise ValueError(f"metrics of '{model.name}' must be numbers")
    if not (0 <= model.num_bytes <= limits.ZOO_BYTES and 0 <= model.queries <= limits.ZOO_QUERIES):
        raise ValueError(f"num_bytes or queries of '{model.name}' is not a valid size")
    _check_address(model.url, f"'{model.name}'")
    if model.checksum is not None:
        found = CHECKSUM.fullmatch(model.checksum)
        if found is None or found[2] not in model.file:
            raise ValueError(
                f"'{model.name}': checksum must be 'md5:' and 6 to 32 digits 0-f, or 'sha256:' and 8 to 64, that the "
                "file's name contains; or null"
            )
    if not re.fullmatch(r"\w[\w.-]*", model.file):
        raise ValueError(f"'{model.name}': file '{model.file}' is not a plain file name")
    return model


def _named(name: Any, known: Mapping[str, Any], where: str) -> Any:
    if not isinstance(name, str) or name not in known:
        raise ValueError(f"a model names {quoted(name)}, which is not among the {where} of the table")
    return known[name]


@cache
def _kinds(table: type) -> dict[str, Any]:
    """The types of the fields, which Python takes longer to look up than all rows to be checked."""
    return get_type_hints(table)


def _check_kinds(entry: Provider | ZooModel, what: str) -> None:
    kinds = _kinds(type(entry))
    for field in fields(entry):
        value, kind = getattr(entry, field.name), kinds[field.name]
        right = isinstance(value, kind if isinstance(kind, UnionType) else get_origin(kind) or kind)
        if not right or (isinstance(value, bool) and kind is not bool):  # which Python treats as a number
            raise ValueError(f"'{field.name}' of {what} is {quoted(value)}; expected {kind}")


def _check_address(url: str, what: str) -> None:
    if not re.fullmatch(r"https?://[^\s]+", url):
        raise ValueError(f"{what} has {quoted(url)} as its address; expected a web address")


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
    """The published table, whatever replaces it: the metrics of the models when they were published."""
    with resources.as_file(resources.files("mask2former").joinpath("assets", "zoo.json")) as file:
        return Zoo.load(file)
