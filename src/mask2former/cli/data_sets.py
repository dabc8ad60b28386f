"""Data sets and metrics by what is typed: the names of the published data sets, with a task, or a run file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from mask2former.errors import RequestError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mask2former.config import DatasetConfig, EvaluationConfig, Task

_Config = TypeVar("_Config", bound="DatasetConfig")

__all__ = ["dataset_by_name", "metric_options", "reading_outside"]


def dataset_by_name(name: str, root: Path | None, default_task: Task) -> DatasetConfig:
    """The configuration of ``NAME``, of ``NAME:TASK``, or of the data of ``RUN.yaml``.

    Args:
        name: what was typed.
        root: the folder of the published data sets, if it was given.
        default_task: where none was typed and the data set has several.

    Raises:
        RequestError: no such name or run file, or a task that the data set does not have.
    """
    from mask2former.cli.shared import read_run_file
    from mask2former.config import ClipSampling, DataConfig, OfficialConfig, RunConfig, parse

    if _is_run_file(name):
        if root is not None:
            raise RequestError(f"--data-root is about published data sets by name; '{name}' says where its data are")
        return parse(RunConfig, read_run_file(Path(name), []), name).data.dataset
    pictures = (kind for kind in OfficialConfig.__subclasses__() if not issubclass(kind, ClipSampling))
    kinds = {kind.model_fields["name"].default: kind for kind in pictures}
    typed, _, task = name.partition(":")
    if typed not in kinds:
        known = ", ".join(sorted(kinds))
        raise RequestError(f"no data set '{typed}'; there are scenes, {known}, and the data of a run file (RUN.yaml)")
    values: dict[str, Any] = {"name": typed, "root": None if root is None else str(root)}
    if "task" in kinds[typed].model_fields:
        values["task"] = task or default_task
    elif task not in ("", "semantic"):
        raise RequestError(f"{typed} has labels for the task semantic only, not for {task}")
    return parse(DataConfig, {"dataset": values}, f"--data {name}").dataset


def reading_outside(dataset: _Config, source: str) -> _Config:
    """The data set with ``--allow-outside``: names in its files may lead out of its folders.

    Raises:
        RequestError: nothing in it names files.
    """
    from mask2former.config import NamedFilesConfig

    if not isinstance(dataset, NamedFilesConfig):
        raise RequestError(f"--allow-outside is for annotations and lists that name files; {source} has none")
    return dataset.model_copy(update={"allow_outside": True})


def metric_options(data: str | None, typed: Mapping[str, Any]) -> EvaluationConfig:
    """How it is measured: as the run file says that names the data, or as by default, but for what was typed.

    A model is thus measured as it was during its training. The tasks of the run file do not count here.

    Args:
        data: what was typed for the data.
        typed: options of the metrics; None where one was not given.

    Raises:
        RequestError: no such run file, or an option out of range.
    """
    from mask2former.cli.shared import read_run_file
    from mask2former.config import EvaluationConfig, RunConfig, parse

    given = {name: value for name, value in typed.items() if value is not None}
    if data is None or not _is_run_file(data):
        return parse(EvaluationConfig, given, "evaluate")
    run = parse(RunConfig, read_run_file(Path(data), []), data).evaluation
    return parse(EvaluationConfig, {name: getattr(run, name) for name in typed} | given, "evaluate")


def _is_run_file(name: str) -> bool:
    return name.endswith((".yaml", ".yml"))
