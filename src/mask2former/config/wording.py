"""Faults of settings in words: the setting, what was got, what is expected, and what may have been meant.

What is expected is derived from the types of the settings, so that a new setting needs no wording of its own.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from mask2former.text import did_you_mean, listed, printable, quoted

__all__ = ["fault_lines", "wrong_value"]

_ELSEWHERE = 3  # groups that are listed if a setting belongs to another one
_OURS = "value_error"  # raised by one of our own rules, whose message is complete
_MODULE = "name"  # the setting that determines the kind of a group


@dataclass(frozen=True)
class _Type:
    """The type of a setting.

    Attributes:
        base: without annotations, for instance ``int`` or a union.
        rules: objects that bound it: of pydantic's ``Field``, or of ``annotated_types``.
        example: of a value, where it is clearer than the rules.
    """

    base: Any
    rules: tuple[Any, ...] = ()
    example: Any = None

    @classmethod
    def of(cls, annotation: Any, more: Sequence[Any] = ()) -> _Type:
        """The type of an annotation, with additional rules."""
        rules = [*more]
        while get_origin(annotation) is Annotated:
            annotation, *extras = get_args(annotation)
            for extra in extras:
                rules += extra.metadata if isinstance(extra, FieldInfo) else [extra]
        return cls(annotation, tuple(rules))

    @classmethod
    def of_field(cls, field: FieldInfo) -> _Type:
        """The type of a field of a model."""
        found = cls.of(field.annotation, field.metadata)
        return cls(found.base, found.rules, (field.examples or [None])[0])

    @property
    def members(self) -> list[_Type]:
        """The members of a union without null; for any other type itself."""
        if get_origin(self.base) not in (Union, UnionType):
            return [self]
        return [
            _Type(one.base, (*self.rules, *one.rules), self.example)
            for one in map(_Type.of, get_args(self.base))
            if one.base is not NoneType
        ]

    @property
    def models(self) -> list[type[BaseModel]]:
        """The groups of settings that are permitted."""
        return [one.base for one in self.members if isinstance(one.base, type) and issubclass(one.base, BaseModel)]

    @property
    def has_null(self) -> bool:
        return any(_Type.of(one).base is NoneType for one in get_args(self.base))

    def rule(self, name: str) -> Any:
        return next((value for one in self.rules if (value := getattr(one, name, None)) is not None), None)


def fault_lines(kind: type[BaseModel], values: Any, error: ValidationError, most: int) -> list[str]:
    """One line for each fault: the setting with its dotted name, what was got, and what is expected.

    Args:
        kind: what the values were to be.
        values: as they were given.
        error: pydantic's report about them.
        most: how many lines are worded; further ones are empty, because thousands take seconds.
    """
    lines: dict[str, str] = {}  # by setting: of a union each member has a fault of its own
    faults = error.errors(include_url=False)
    containers = {fault["loc"][:length] for fault in faults for length in range(len(fault["loc"]))}
    for fault in faults:
        keys, found, group = _place(kind, fault["loc"])
        if fault["type"] == "too_short" and fault["loc"] in containers:
            continue  # pydantic does not count the entries that are wrong
        key = printable(".".join(keys), 200)
        if len(lines) >= most:
            lines.setdefault(key, "")
            continue
        message = printable(fault["msg"].removeprefix("Value error, "), 600)
        if fault["type"] == "extra_forbidden":
            lines[key] = f"unknown key '{key}'; {_meant(kind, group, keys)}"
        elif fault["type"] == _OURS and isinstance(fault["input"], Mapping):  # of several settings together
            lines[f"{key} {message}"] = f"{key}{': ' if key else ''}{message}"
        elif fault["type"] == _OURS or found is None:
            lines.setdefault(key, f"'{key}': {message} (got {_shown(fault['input'])})")
        elif fault["type"] == "missing":
            lines[key] = f"'{key}' is missing; expected {_expected(found)}"
        else:
            got = _value_at(values, keys, fault["input"])
            lines.setdefault(key, _wrong(key, got, found))
    return list(lines.values())


def wrong_value(name: str, got: Any, field: FieldInfo) -> str:
    """What is wrong with a value that is not a setting in a group, for instance a request parameter.

    Args:
        name: of the parameter.
        got: its value.
        field: what it may be; where it may be null, it may be left out.
    """
    found = _Type.of_field(field)
    return _sentence(name, got, _expected(found, null=False), _words(found))


def _wrong(key: str, got: Any, found: _Type) -> str:
    if len(found.models) > 1 and isinstance(got, Mapping):  # which kind it is to be is not known
        key = f"{key}.{_MODULE}" if key else _MODULE
        names = [name for model in found.models for name in _names(model)]
        if _MODULE not in got:
            return f"'{key}' is missing; expected {_either(names)}"
        return _sentence(key, got[_MODULE], _either(names), names)
    if len(found.models) > 1 and got in [name for model in found.models for name in _names(model)]:
        return f"'{key}' is {_shown(got)}; expected {_expected(found)}; did you mean {key}.{_MODULE}={got}?"
    return _sentence(key, got, _expected(found), _words(found))


def _sentence(key: str, got: Any, expected: str, words: Sequence[str]) -> str:
    meant = did_you_mean(got, words)
    return f"'{key}' is {_shown(got)}; expected {expected}" + (f"; {meant}" if meant else "")


def _shown(value: Any) -> str:
    """A value, with YAML's words in place of Python's."""
    if value is None:
        return "null"
    return str(value).lower() if isinstance(value, bool) else quoted(value)


def _words(found: _Type) -> list[str]:
    """Those that a setting may be."""
    return [str(word) for one in found.members if get_origin(one.base) is Literal for word in get_args(one.base)]


def _place(kind: type[BaseModel], location: Sequence[int | str]) -> tuple[list[str], _Type | None, type[BaseModel]]:
    """Where a fault is, as keys in a file; the type there, if known; and the group that it is in."""
    keys: list[str] = []
    here: _Type | None = _Type(kind)
    group = kind
    for number, part in enumerate(location):
        if here is None:
            keys.append(str(part))
            continue
        models = here.models
        if len(models) > 1:  # the name of the kind, which stands in no file at this place
            named = next((model for model in models if part in _names(model)), None)
            if named is not None and number == len(location) - 1:  # what is there is no group at all, or rules of ours
                return keys, here, named
            here = None if named is None else _Type(named)
            continue
        if len(here.members) > 1:  # what pydantic calls one member of a union; all of them are expected
            return keys, here, group
        keys.append(str(part))
        if models:
            group = models[0]
            field = group.model_fields.get(str(part))
            here = None if field is None else _Type.of_field(field)
        else:
            here = _entry(here.members[0], part)
    if here is not None and len(here.models) == 1:
        group = here.models[0]
    return keys, here, group


def _entry(container: _Type, part: int | str) -> _Type | None:
    """The type of an entry of a list or mapping."""
    origin, inner = get_origin(container.base), get_args(container.base)
    if origin is dict:
        return _Type.of(inner[1])
    if origin in (tuple, list) and isinstance(part, int):
        is_open = _is_open(container)
        return _Type.of(inner[0] if is_open else inner[part]) if is_open or part < len(inner) else None
    return None


def _is_open(container: _Type) -> bool:
    """Whether a list or tuple may have any number of entries."""
    return get_origin(container.base) is list or get_args(container.base)[1:] == (Ellipsis,)


def _value_at(values: Any, keys: Sequence[str], otherwise: Any) -> Any:
    """What was written there; for a union pydantic reports what one of its members got."""
    for key in keys:
        if isinstance(values, Mapping) and key in values:
            values = values[key]
        elif isinstance(values, list | tuple) and key.isdecimal() and int(key) < len(values):
            values = values[int(key)]
        else:
            return otherwise
    return values


def _names(model: type[BaseModel]) -> tuple[Any, ...]:
    """What the setting ``name`` of a group may be."""
    field = model.model_fields.get(_MODULE)
    return get_args(field.annotation) if field is not None and get_origin(field.annotation) is Literal else ()


def _meant(kind: type[BaseModel], group: type[BaseModel], keys: Sequence[str]) -> str:
    """The keys that an unknown key may have been meant for: in its group, or in another group."""
    *parents, name = keys
    elsewhere = [path for path in dict.fromkeys(_paths(kind)) if path.rpartition(".")[2] == name]
    if elsewhere and ".".join(keys) not in elsewhere:  # else another kind of this group has it
        return f"did you mean {' or '.join(elsewhere[:_ELSEWHERE])}?"
    if close := did_you_mean(name, group.model_fields):
        return close
    of_kind = "".join(f" of {name}" for name in _names(group))
    where = f"'{printable('.'.join(parents), 200)}'{of_kind} has" if parents else "there are"
    return f"{where} {listed([*group.model_fields], None) or 'no settings'}"


def _paths(kind: type[BaseModel], prefix: str = "") -> Iterator[str]:
    """Dotted names of all settings that are not groups, for every kind of a group."""
    for name, field in kind.model_fields.items():
        models = _Type.of_field(field).models
        if not models:
            yield prefix + name
        for model in models:
            yield from _paths(model, f"{prefix}{name}.")


def _expected(found: _Type, *, null: bool = True) -> str:
    """A type in words, including null where it is permitted."""
    members = found.members
    words, models = _words(found), found.models
    names = [str(name) for model in models for name in _names(model)]
    if len(models) > 1:
        phrases = [f"a mapping of settings whose name is {_either(names)}"]
    else:
        phrases = [_phrase(one) for one in members if get_origin(one.base) is not Literal]
    return _either([*words, *(["null"] if null and found.has_null else []), *phrases])


def _phrase(found: _Type) -> str:
    """A type other than a union, in words."""
    base, origin, inner = found.base, get_origin(found.base), get_args(found.base)
    if base is bool:
        return "true or false"
    if base in (int, float):
        return f"{'a whole number' if base is int else 'a number'}{_range(found)}"
    if base is str:
        longest = found.rule("max_length")
        example = "" if found.example is None else f" such as {found.example}"
        return f"text{example}" + (f" of at most {longest} characters" if longest else "")
    if origin is dict:
        return "a mapping" if inner[1] is Any else f"a mapping of names, each to {_expected(_Type.of(inner[1]))}"
    if origin in (tuple, list):
        entry = _expected(_Type.of(inner[0]))
        entry = f"a {entry}" if entry.startswith("text") else entry
        if not _is_open(found):
            return f"a list of {len(inner)} entries, each {entry}"
        least, most = found.rule("min_length"), found.rule("max_length")
        count = f" of {least or 0} to {most} entries" if most else " that is not empty" if least else ""
        return f"a list{count}, each entry {entry}"
    if isinstance(base, type) and issubclass(base, BaseModel):
        return f"a mapping of settings ({listed([*base.model_fields], 12)})"
    return "another value"


def _range(found: _Type) -> str:
    """The bounds of a number; a bound beyond any practical value is left out."""

    def shown(bound: float) -> str:
        return f"{bound:,}" if isinstance(bound, int) else f"{bound:g}"

    above, least, below, most = (found.rule(name) for name in ("gt", "ge", "lt", "le"))
    if above is not None and found.base is int:
        above, least = None, above + 1
    if most is not None and most == math.inf:
        most = None
    if least is not None and most is not None:
        return f" from {shown(least)} to {shown(most)}"
    bounds = [f"above {shown(above)}"] if above is not None else []
    bounds += [f"of at least {shown(least)}"] if least is not None else []
    bounds += [f"up to {shown(most)}"] if most is not None else []
    bounds += [f"below {shown(below)}"] if below is not None and most is None else []
    return f" {' and '.join(bounds)}" if bounds else ""


def _either(phrases: Sequence[Any]) -> str:
    words = [str(phrase) for phrase in phrases]
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} or {words[-1]}"
