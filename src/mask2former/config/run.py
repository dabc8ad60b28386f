"""A complete training run: from files and overrides to settings, and back to names and values."""

from __future__ import annotations

import contextlib
import shlex
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, Field, ValidationError

from mask2former import limits
from mask2former.config.data import DataConfig
from mask2former.config.fields import ConfigT, Strict
from mask2former.config.model import ModelConfig
from mask2former.config.old_names import OLD_NAMES, forget_old_name, note_old_names, with_new_names
from mask2former.config.training import CriterionConfig, EvaluationConfig, OptimConfig, TrainerConfig
from mask2former.config.wording import MODULE, Fault, fault_lines
from mask2former.documents import parse_yaml, read_json, read_yaml
from mask2former.errors import OptionError, UserError
from mask2former.notes import note
from mask2former.text import listed, printable

__all__ = ["RunConfig", "apply_overrides", "changed", "leaves", "parse", "parse_arguments", "read_run_file"]

_HOW_TO_WRITE = (
    "mask2former recipe NAME prints a complete run file, and mask2former check-data DATA --suggest RUN.yaml writes one "
    "for your data"
)
_ANNOTATIONS = (".json", ".geojson")
_MOST_FAULTS = 10  # listed in one message


class RunConfig(Strict):
    """One complete training run: the input of ``mask2former train``."""

    model: ModelConfig = ModelConfig()
    criterion: CriterionConfig = CriterionConfig()
    data: DataConfig = DataConfig()
    optim: OptimConfig = OptimConfig()
    trainer: TrainerConfig = TrainerConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    output: str = "runs/run"
    seed: int = Field(default=0, ge=0, le=limits.SEED)


def parse(kind: type[ConfigT], values: Any, source: str, overrides: Sequence[str] = ()) -> ConfigT:
    """``values`` (from YAML or JSON) as a ``kind``.

    Old names of settings, used until 0.1.0, are accepted; for a complete run there is a note.

    Args:
        kind: the class of the settings.
        values: the settings as they were read.
        source: where they were read, for messages.
        overrides: those that :func:`apply_overrides` put into the values; messages name them, not ``source``, for
            faults in what they set.

    Raises:
        UserError: one line per fault, each with the dotted key, what was got and what was expected.
    """
    if not isinstance(values, dict):
        raise UserError(f"{source}: expected a mapping of settings, got {type(values).__name__}")

    def source_of(keys: tuple[str, ...]) -> str:
        return _source_of(keys, source, overrides)

    if kind is RunConfig:
        note_old_names(values, source_of)
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        faults = fault_lines(kind, values, error, _MOST_FAULTS)
        told: dict[str, list[str]] = {}
        for fault in faults[:_MOST_FAULTS]:
            told.setdefault(source_of(fault.keys), []).append(fault.line)
        lines = [f"{where}: {'; '.join(lines)}" for where, lines in told.items()]
        raise UserError("; ".join([*lines, *_more(faults)])) from error


def parse_arguments(kind: type[ConfigT], values: Mapping[str, Any]) -> ConfigT:
    """``values``, which are arguments of a call, as a ``kind``.

    Raises:
        OptionError: one sentence per fault; settings are named like the arguments or flags that set them.
    """
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        faults = fault_lines(kind, values, error, _MOST_FAULTS)

        def sentence(name: Callable[[str], str]) -> str:
            return "; ".join([*(_of_argument(fault, name) for fault in faults[:_MOST_FAULTS]), *_more(faults)])

        raise OptionError(sentence) from error


def _more(faults: Sequence[Fault]) -> list[str]:
    return [f"and {len(faults) - _MOST_FAULTS} more"] if len(faults) > _MOST_FAULTS else []


def _of_argument(fault: Fault, name: Callable[[str], str]) -> str:
    key = f"'{fault.keys[0]}'" if len(fault.keys) == 1 else ""  # not an entry of a list
    return name(fault.keys[0]) + fault.line.removeprefix(key) if key and fault.line.startswith(key) else fault.line


def _source_of(keys: tuple[str, ...], source: str, overrides: Sequence[str]) -> str:
    """Where a setting was written: in an override, in ``source``, or, if it is a group, partly in both."""
    partly = []
    for override in reversed(overrides):  # of several that set the same, the last one counts
        path = _path_of(override)
        if keys[: len(path)] == path:
            return _called(override)
        chosen = path[:-1] if path[-1] == MODULE else path  # the kind of a group decides what is in it
        if path[: len(keys)] == keys or (chosen != path and keys[: len(chosen)] == chosen):
            partly.append(_called(override))
    return f"{source} with {listed(partly[::-1], 3)}" if partly else source


def _path_of(override: str) -> tuple[str, ...]:
    """The keys of the setting that an override sets, by the names of now."""
    return tuple(OLD_NAMES.get(name, name) for name in override.partition("=")[0].split("."))


def _called(override: str) -> str:
    return f"override '{printable(override, 200)}'"


def leaves(config: BaseModel, prefix: str = "") -> dict[str, Any]:
    """Values of all settings by dotted name, in JSON form."""
    values: dict[str, Any] = {}
    dumped = config.model_dump(mode="json")
    for name in type(config).model_fields:
        value = getattr(config, name)
        values |= leaves(value, f"{prefix}{name}.") if isinstance(value, BaseModel) else {prefix + name: dumped[name]}
    return values


def changed(config: ConfigT, settings: Mapping[str, Any]) -> ConfigT:
    """A copy with other settings, by dotted name; the values are not validated, as in ``model_copy``."""
    for setting, value in settings.items():
        name, _, rest = setting.partition(".")
        config = config.model_copy(update={name: changed(getattr(config, name), {rest: value}) if rest else value})
    return config


def apply_overrides(values: dict[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """``values`` with ``key.sub=value`` settings replaced; the value is read as YAML.

    Raises:
        UserError: an override has no ``=``, its key leads through a value that is no mapping, or its value is not valid
            YAML or exceeds the limits.
    """
    result = {key: value for key, value in values.items()}
    for override in overrides:
        path, equals, text = override.partition("=")
        source = _called(override)
        if not equals or not all(path.split(".")):
            raise UserError(f"{source}: expected key.sub=value; quote values with blanks: 'key.sub={{a: 1}}'")
        value = parse_yaml(text, f"{source}: the value (in quotes if it has blanks: 'key.sub={{a: 1}}')")
        node = result
        *parents, leaf = _path_of(override)
        if (old := path.rpartition(".")[2]) != leaf:
            note_old_names({old: value}, lambda _, source=source: source)
            value = with_new_names({old: value})[leaf]
        for name in parents:
            forget_old_name(node, name)
            child = node.get(name)
            if child is not None and not isinstance(child, dict):
                raise UserError(f"{source}: '{printable(name, 80)}' is a value, not a group of settings")
            node[name] = dict(child or {})
            node = node[name]
        forget_old_name(node, leaf)
        node[leaf] = value
    return result


def read_run_file(path: Path, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """The settings of a run file, with overrides; :func:`parse` makes a :class:`RunConfig` of both.

    There is a note on a file that names no data set, since the default are drawn scenes.

    Raises:
        UserError: the file cannot be read as YAML, or is a data set instead, or an override has the wrong form.
    """
    if path.suffix.lower() in _ANNOTATIONS:  # before the limits of YAML, which are low for annotations
        content: Any = None
        with contextlib.suppress(UserError):  # reported below
            content = read_json(path, "run file")
        _refuse_data(path, content, "annotations")
    values = read_yaml(path, "run file", hint=_HOW_TO_WRITE)
    if isinstance(values, dict) and {"names", "train"} <= values.keys():
        _refuse_data(path, values, "a YOLO data set")
    values = {} if values is None else values  # an empty file
    if not isinstance(values, dict) or not (values or overrides):
        got = "but it is empty" if values == {} else f"got a {type(values).__name__}"
        raise UserError(f"'{path}': expected a mapping of settings, {got}; {_HOW_TO_WRITE}")
    values = apply_overrides(values, overrides)
    data = values.get("data", {})
    if isinstance(data, dict) and "dataset" not in data:
        note("run files without data.dataset, whose data are drawn scenes", f"'{path}'; {_HOW_TO_WRITE}")
    return values


def _refuse_data(path: Path, values: Any, what: str) -> None:
    if values and not (isinstance(values, dict) and values.keys() & RunConfig.model_fields.keys()):
        raise UserError(
            f"'{path}' looks like {what}, not like a run file; run: mask2former check-data "
            f"{shlex.quote(str(path))} --suggest run.yaml, which writes a run file for this data"
        )
