"""Names in one code base beside the original ones, as data, and the interpreter that reads it in both directions.

A layout is a list of rules between two spellings of a name; some rules also split rows or permute channels. Must not
know any particular code base, nor how files are stored.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache, lru_cache

import torch
from torch import Tensor

from mask2former.errors import UserError
from mask2former.recipes import Provider
from mask2former.text import listed, quoted

__all__ = ["Change", "Layout", "Rule", "from_original", "rules", "their_name", "to_original"]


@dataclass(frozen=True)
class Change:
    """A permutation of values, in both directions; shapes stay the same."""

    to_original: Callable[[Tensor], Tensor]
    from_original: Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Rule:
    """One line of a table.

    In a template ``{}`` is a number and ``*`` the last word (``weight``, ``running_mean``); both occur in the same
    order on both sides.

    Attributes:
        theirs: their name; several if row blocks of the original entry are stored separately, in this order.
        original: the published name.
        change: what else differs.
    """

    theirs: tuple[str, ...]
    original: str
    change: Change | None = None


@dataclass(frozen=True, eq=False)  # two layouts are never equal, and names are looked up by layout
class Layout:
    """How a code base names the entries of a model.

    Attributes:
        key: its name on the command line.
        title: its name in messages.
        signature: templates that all have an entry in a file of this layout, and in no other layout.
        rules: the table; the first matching line counts, in both directions.
        also_read: further spellings that files of this layout have; never written.
        unused: entries that have no meaning here, or that are regenerated; skipped when reading.
        not_written: original entries that this layout does not have.
        provider: whose published models are preferred over those of the authors for files of this layout.
        has_counters: its batch norms are ordinary ones. Their counters do not show whether the norms were trained, so
            they are removed when reading and added (as zeros) when writing.
    """

    key: str
    title: str
    signature: tuple[str, ...]
    rules: tuple[Rule, ...]
    also_read: tuple[Rule, ...] = ()
    unused: tuple[str, ...] = ()
    not_written: tuple[str, ...] = ()
    provider: Provider = "official"
    has_counters: bool = False

    def fits(self, names: Iterable[str]) -> bool:
        """Whether a file with these names is of this layout."""
        missing = list(self.signature)
        for name in names:
            missing = [template for template in missing if not _pattern(template).fullmatch(name)]
            if not missing:
                return True
        return False


def rules(
    theirs: str, original: str, table: Mapping[str | tuple[str, ...], str], change: Change | None = None
) -> tuple[Rule, ...]:
    """A table written as ``{their template: original template}``, below a prefix on either side."""
    return tuple(
        Rule(tuple(theirs + part for part in ((their,) if isinstance(their, str) else their)), original + ours, change)
        for their, ours in table.items()
    )


@cache
def _pattern(template: str) -> re.Pattern[str]:
    return re.compile(re.escape(template).replace(r"\{\}", r"(\d{1,4})").replace(r"\*", "([a-z_]+)"))


def _filled(template: str, values: Iterable[str]) -> str:
    remaining = iter(values)
    return re.sub(r"\{\}|\*", lambda _: next(remaining), template)


def _match(template: str, name: str) -> tuple[str, ...] | None:
    found = _pattern(template).fullmatch(name)
    return None if found is None else found.groups()


def their_name(layout: Layout, original: str) -> str:
    """How the layout spells an original name, for messages; several parts are joined."""
    found = _their_names(layout, original)
    return original if found is None else " + ".join(found[0])


@lru_cache(8192)
def _their_names(layout: Layout, original: str) -> tuple[tuple[str, ...], Change | None] | None:
    for rule in layout.rules:
        values = _match(rule.original, original)
        if values is not None:
            return tuple(_filled(template, values) for template in rule.theirs), rule.change
    return None


@lru_cache(8192)
def _original_name(layout: Layout, name: str) -> tuple[str, int, Rule] | None:
    for rule in (*layout.rules, *layout.also_read):
        for part, template in enumerate(rule.theirs):
            values = _match(template, name)
            if values is not None:
                return _filled(rule.original, values), part, rule
    return None


def to_original(layout: Layout, state: Mapping[str, Tensor], *, known_only: bool = True) -> dict[str, Tensor]:
    """The entries of a file of this layout under their original names.

    Args:
        layout: of the file.
        state: its entries.
        known_only: refuse names that the layout does not have; else they are kept, for a report of everything that is
            wrong.

    Raises:
        UserError: names that the layout does not have, two that mean the same, or parts that do not fit together;
            the message lists them as the file spells them.
    """
    renamed: dict[str, Tensor] = {}
    parts: dict[str, tuple[Rule, dict[int, Tensor]]] = {}
    spelled: dict[tuple[str, int], str] = {}
    unknown: dict[str, Tensor] = {}
    for name, value in state.items():
        if any(_pattern(template).fullmatch(name) for template in layout.unused):
            continue
        found = _original_name(layout, name)
        if found is None:
            unknown[name] = value
            continue
        original, part, rule = found
        if (original, part) in spelled:
            raise UserError(f"{quoted(spelled[original, part])} and {quoted(name)} mean the same; expected one of them")
        spelled[original, part] = name
        if len(rule.theirs) > 1:
            parts.setdefault(original, (rule, {}))[1][part] = value
            renamed.setdefault(original, value)  # holds the place
        else:
            renamed[original] = _changed(rule, value, name)
    if unknown and known_only:
        raise UserError(f"{len(unknown)} entries that {layout.title} does not have: {listed(unknown)}")
    for original, (rule, values) in parts.items():
        renamed[original] = _joined(layout, original, len(rule.theirs), values)
    if twice := renamed.keys() & unknown.keys():
        raise UserError(
            f"{quoted(min(twice))} is called {quoted(their_name(layout, min(twice)))} in {layout.title}, and the file "
            "has both; expected one of them"
        )
    return renamed | unknown


def _changed(rule: Rule, value: Tensor, name: str) -> Tensor:
    if rule.change is None:
        return value
    try:
        return rule.change.to_original(value)
    except RuntimeError as error:  # a shape that cannot be permuted this way
        raise UserError(f"entry {quoted(name)} has an unexpected shape {tuple(value.shape)}") from error


def _joined(layout: Layout, original: str, count: int, values: Mapping[int, Tensor]) -> Tensor:
    missing = [part for part in range(count) if part not in values]
    if missing:
        names = their_name(layout, original)
        raise UserError(f"{len(missing)} of {count} parts are missing of {names}")
    blocks = [values[part] for part in range(count)]
    if blocks[0].dim() == 0 or len({(block.shape, block.dtype) for block in blocks}) != 1:
        shapes = ", ".join(str(tuple(block.shape)) for block in blocks)
        raise UserError(f"{their_name(layout, original)} have shapes {shapes}; expected equal ones")
    return torch.cat(blocks)


def from_original(layout: Layout, state: Mapping[str, Tensor]) -> OrderedDict[str, Tensor]:
    """The entries of an original model under the names of this layout, in the published order.

    Raises:
        UserError: the layout has no place for an entry.
    """
    renamed: OrderedDict[str, Tensor] = OrderedDict()
    homeless = []
    for original, value in _with_counters(state) if layout.has_counters else state.items():
        if any(_pattern(template).fullmatch(original) for template in layout.not_written):
            continue
        found = _their_names(layout, original)
        if found is None:
            homeless.append(original)
            continue
        names, change = found
        changed = value if change is None else change.from_original(value)
        blocks = changed.chunk(len(names)) if len(names) > 1 else (changed,)
        renamed.update((name, block.contiguous().clone()) for name, block in zip(names, blocks, strict=True))
    if homeless:
        raise UserError(
            f"the model has {len(homeless)} entries that do not exist in {layout.title}: {listed(homeless)}"
        )
    return renamed


def _with_counters(state: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    for name, value in state.items():
        yield name, value
        counter = f"{name.removesuffix('.running_var')}.num_batches_tracked"
        if name.endswith(".running_var") and counter not in state:
            yield counter, torch.zeros((), dtype=torch.int64, device=value.device)
