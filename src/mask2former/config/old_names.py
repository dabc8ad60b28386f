"""Settings by their names until 0.1.0, which files and overrides may still use."""

from __future__ import annotations

from collections.abc import Callable, Container, Mapping
from typing import Any

from mask2former.notes import note

__all__ = ["OLD_NAMES", "forget_old_name", "note_old_names", "with_new_names"]

OLD_NAMES: Mapping[str, str] = {
    "arguments": "kwargs",
    "batch_per_device": "batch_size_per_device",
    "checkpoint_every": "checkpoint_interval",
    "every": "interval",
    "exclusive": "non_overlapping",
    "factors": "scale_range",
    "keep_empty": "filter_empty",
    "log_every": "log_interval",
    "masked_attention": "attention",
    "num_pictures": "num_images",
    "total_batch": "batch_size",
}
# The new values for true and false of an old setting.
_VALUES: Mapping[str, Mapping[bool, bool | str]] = {
    "keep_empty": {True: False, False: True},
    "masked_attention": {True: "masked", False: "full"},
}


def with_new_names(values: dict[str, Any], known: Container[str] | None = None) -> dict[str, Any]:
    """``values`` with current names for settings that had another name until 0.1.0.

    Args:
        values: one group of settings.
        known: the settings of the group; by default all that were renamed.

    Raises:
        ValueError: a setting is present under both names.
    """
    renewed = {}
    for name, value in values.items():
        new = OLD_NAMES.get(name, name) if isinstance(name, str) else name
        if new == name or (known is not None and new not in known):
            renewed[name] = value
            continue
        if new in values:
            raise ValueError(f"'{name}' is the old name of '{new}', but both are set; leave out '{name}'")
        renewed[new] = _VALUES[name][value] if name in _VALUES and isinstance(value, bool) else value
    return renewed


def note_old_names(values: Any, source_of: Callable[[tuple[str, ...]], str], keys: tuple[str, ...] = ()) -> None:
    """Add a note about old names that a user wrote into a run file or an override.

    Args:
        values: a group of settings, with its subgroups.
        source_of: returns where the setting with these keys was written.
        keys: those of the group.
    """
    if not isinstance(values, dict):
        return
    for name, value in values.items():
        here = (*keys, str(name))
        if (new := OLD_NAMES.get(name)) is not None:
            values_now = [f"{old} is {now}" for old, now in _VALUES.get(name, {}).items()]
            turned = f" ({', '.join(values_now).lower()} now)" if values_now else ""
            note(
                "settings with the names that they had up to 0.1.0",
                f"'{name}' in {source_of(here)} is now '{new}'{turned}",
            )
        elif name != "kwargs":
            note_old_names(value, source_of, here)


def forget_old_name(node: dict[str, Any], name: str) -> None:
    """Move a value in ``node`` from the old name of ``name`` to the current one, so that an override replaces it."""
    for old, new in OLD_NAMES.items():
        if new == name and old in node and new not in node:
            node[new] = with_new_names({old: node.pop(old)})[new]
