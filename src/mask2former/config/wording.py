"""Error messages for settings: the setting, the actual and the expected value, and what may have been meant.

Expected values are derived from the types of the settings, so a new setting needs no wording of its own.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, NamedTuple, Union, get_args, get_origin

from pydantic import BaseModel, Field, ValidationError
from pydantic.fields import FieldInfo

from mask2former.text import did_you_mean, listed, printable, quoted

__all__ = ["MODULE", "Fault", "fault_lines", "wrong_number", "wrong_value"]

MODULE = "name"
"""The setting that says which of several kinds a group is."""

_ELSEWHERE = 3  # groups that are suggested for a setting that belongs to another group
_OURS = "value_error"  # raised by our own rules, whose message is used as it is


class Fault(NamedTuple):
    """A fault in settings.

    Attributes:
        keys: of the setting, or of the group whose settings contradict each other.
        line: what is wrong; empty for faults beyond the number that is shown.
    """

    keys: tuple[str, ...]
    line: str


@dataclass(frozen=True)
class _Type:
    """The type of a setting.

    Attributes:
        base: without annotations, for instance ``int`` or a union.
        rules: objects that restrict it, from pydantic's ``Field`` or from ``annotated_types``.
        example: an example value, if it is clearer than the rules.
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
        """The members of a union without null; for any other type, the type itself."""
        if get_origin(self.base) not in (Union, UnionType):
            return [self]
        return [
            _Type(one.base, (*self.rules, *one.rules), self.example)
            for one in map(_Type.of, get_args(self.base))
            if one.base is not NoneType
        ]

    @property
    def models(self) -> list[type[BaseModel]]:
        """The groups of settings among its members."""
        return [one.base for one in self.members if isinstance(one.base, type) and issubclass(one.base, BaseModel)]

    @property
    def has_null(self) -> bool:
        return any(_Type.of(one).base is NoneType for one in get_args(self.base))

    def rule(self, name: str) -> Any:
        return next((value for one in self.rules if (value := getattr(one, name, None)) is not None), None)


def fault_lines(kind: type[BaseModel], values: Any, error: ValidationError, most: int) -> list[Fault]:
    """One line for each fault: the setting with its dotted name, and the actual and expected values.

    Args:
        kind: the expected model of the values.
        values: the values as given.
        error: pydantic's error for them.
        most: how many lines are worded; the others are empty, because thousands take seconds.
    """
    lines: dict[str, Fault] = {}  # by setting, since each member of a union has its own fault
    told: set[type[BaseModel]] = set()  # groups whose keys a line lists
    # A default that is taken from a setting with a fault has none of its own.
    faults = [fault for fault in error.errors(include_url=False) if fault["type"] != "default_factory_not_called"]
    containers = {fault["loc"][:length] for fault in faults for length in range(len(fault["loc"]))}
    for fault in faults:
        keys, found, group = _place(kind, fault["loc"])
        if fault["type"] == "too_short" and fault["loc"] in containers:
            continue  # pydantic does not count invalid entries
        key = printable(".".join(keys), 200)
        if len(lines) >= most:
            lines.setdefault(key, Fault(tuple(keys), ""))
            continue
        message = printable(fault["msg"].removeprefix("Value error, "), 600)
        name, is_last_word = key, True
        if fault["type"] == "extra_forbidden":
            line = f"unknown key '{key}'"
            if meant := _meant(kind, group, keys):
                line += f"; {meant}"
            elif group not in told:
                told.add(group)
                line += f"; {_keys_of(group, keys[:-1])}"
        elif fault["type"] == _OURS and isinstance(fault["input"], Mapping):  # about several settings together
            name, line = f"{key} {message}", f"{key}{': ' if key else ''}{message}"
        elif fault["type"] == _OURS or found is None:
            is_last_word, line = False, f"'{key}': {message} (got {_shown(fault['input'])})"
        elif fault["type"] == "missing":
            line = f"'{key}' is missing; expected {_expected(found)}"
        else:
            is_last_word, line = False, _wrong(key, _value_at(values, keys, fault["input"]), found)
        if is_last_word or name not in lines:
            lines[name] = Fault(tuple(keys), line)
    return list(lines.values())


def wrong_value(name: str, got: Any, field: FieldInfo) -> str:
    """The message for a wrong value that does not belong to a group of settings.

    Args:
        name: what is wrong, for instance a parameter of a request or an option.
        got: its value.
        field: its allowed values; if it may be null, it may be left out.
    """
    found = _Type.of_field(field)
    return _sentence(name, got, _expected(found, null=False), _words(found))


def wrong_number(
    name: str, cause: BaseException, kind: type[int] | type[float], least: float | None, most: float | None
) -> str:
    """The message for a wrong number, if pydantic refused it.

    Args:
        name: what is wrong, for instance an option.
        cause: why it was refused.
        kind: ``int`` or ``float``.
        least: its minimum; None: no bound.
        most: its maximum; None: no bound.

    Returns:
        The message; empty if ``cause`` is no error of pydantic.
    """
    if not isinstance(cause, ValidationError):
        return ""
    found = _Type(kind, tuple(Field(ge=least, le=most).metadata))
    return _sentence(name, cause.errors()[0]["input"], _expected(found), ())


def _wrong(key: str, got: Any, found: _Type) -> str:
    if len(found.models) > 1 and isinstance(got, Mapping):  # the intended kind is not known
        key = f"{key}.{MODULE}" if key else MODULE
        names = [name for model in found.models for name in _names(model)]
        if MODULE not in got:
            return f"'{key}' is missing; expected {_either(names)}"
        return _sentence(f"'{key}'", got[MODULE], _either(names), names)
    if len(found.models) > 1 and got in [name for model in found.models for name in _names(model)]:
        return f"'{key}' is {_shown(got)}; expected {_expected(found)}; did you mean {key}.{MODULE}={got}?"
    return _sentence(f"'{key}'", got, _expected(found), _words(found))


def _sentence(name: str, got: Any, expected: str, words: Sequence[str]) -> str:
    meant = did_you_mean(got, words)
    return f"{name} is {_shown(got)}; expected {expected}" + (f"; {meant}" if meant else "")


def _shown(value: Any) -> str:
    """A value, with Python's words replaced by those of YAML."""
    if value is None:
        return "null"
    return str(value).lower() if isinstance(value, bool) else quoted(value)


def _words(found: _Type) -> list[str]:
    """The words that are allowed for a setting."""
    return [str(word) for one in found.members if get_origin(one.base) is Literal for word in get_args(one.base)]


def _place(kind: type[BaseModel], location: Sequence[int | str]) -> tuple[list[str], _Type | None, type[BaseModel]]:
    """The position of a fault, as keys in a file; the type at this position, if known; and the group around it."""
    keys: list[str] = []
    here: _Type | None = _Type(kind)
    group = kind
    for number, part in enumerate(location):
        if here is None:
            keys.append(str(part))
            continue
        models = here.models
        if len(models) > 1:  # the name of the kind, which is not part of the path in a file
            named = next((model for model in models if part in _names(model)), None)
            if named is not None and number == len(location) - 1:  # the value is no group at all, or violates our rules
                return keys, here, named
            here = None if named is None else _Type(named)
            continue
        if len(here.members) > 1:  # pydantic's name for a member of a union; all members are expected
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
    """The value that the user wrote; for a union, pydantic reports the one that a member received."""
    for key in keys:
        if isinstance(values, Mapping) and key in values:
            values = values[key]
        elif isinstance(values, list | tuple) and key.isdecimal() and int(key) < len(values):
            values = values[int(key)]
        else:
            return otherwise
    return values


def _names(model: type[BaseModel]) -> tuple[Any, ...]:
    """Allowed values of the setting ``name`` of a group."""
    field = model.model_fields.get(MODULE)
    return get_args(field.annotation) if field is not None and get_origin(field.annotation) is Literal else ()


def _meant(kind: type[BaseModel], group: type[BaseModel], keys: Sequence[str]) -> str:
    """Suggestions for an unknown key: a setting of its group, or of another group; empty if none is close."""
    name = keys[-1]
    elsewhere = [path for path in dict.fromkeys(_paths(kind)) if path.rpartition(".")[2] == name]
    if elsewhere and ".".join(keys) not in elsewhere:  # otherwise another kind of this group has it
        return f"did you mean {' or '.join(elsewhere[:_ELSEWHERE])}?"
    return did_you_mean(name, group.model_fields)


def _keys_of(group: type[BaseModel], parents: Sequence[str]) -> str:
    """The keys that a group has, which is at ``parents`` in the file."""
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
    """A type in words, including null if it is allowed."""
    members = found.members
    words, models = _words(found), found.models
    names = [str(name) for model in models for name in _names(model)]
    if len(models) > 1:
        phrases = [f"a mapping of settings whose name is {_either(names)}"]
    else:
        phrases = [_phrase(one) for one in members if get_origin(one.base) is not Literal]
    return _either([*words, *(["null"] if null and found.has_null else []), *phrases])


def _phrase(found: _Type) -> str:
    """A type that is not a union, in words."""
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
