"""Finding the weights in what trainings save: in which mapping they are, and behind which wrapper names.

Trainings save much more than weights, and sometimes two sets of them. Knows only names: the caller knows what they
mean, and the numbers behind them are never examined.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any, TypeVar

from mask2former import limits
from mask2former.errors import OptionError, UserError
from mask2former.text import listed, printable, quoted

__all__ = ["unwrapped", "wanted", "weights_of"]

T = TypeVar("T")
_Known = Callable[[Mapping[str, Any]], bool]

_COMPILED = "_orig_mod."  # of torch.compile, which also wraps single parts
_PREFIXES = ("model.", "module.", "net.", _COMPILED)  # of Lightning modules, DistributedDataParallel and averages
_WRAPPERS = 6  # around each other
_COUNTERS = ("n_averaged", "steps")  # beside the wrapped model in averages of torch and of mmengine

_PLAIN = ("model", "state_dict", "blobs")
_AVERAGED = ("teacher", "model_ema", "ema_model", "ema", "state_dict_ema", "ema_state_dict", "averaged_model")
_DEPTH = 4  # of mappings in mappings that may hold weights
_MAPPINGS = 1000  # that are searched
_NAMES = 2 * limits.CHECKPOINT_ENTRIES  # that are compared with known ones, in total


def unwrapped(state: Mapping[str, T], is_known: _Known) -> tuple[dict[str, T], str]:
    """The entries without what wrappers put before all names, and that prefix; unchanged if the rest is not known.

    Args:
        state: names to anything.
        is_known: whether names belong to weights.

    Raises:
        UserError: two names become equal without it.
    """
    names, removed = {name: name for name in state}, ""
    for _ in range(_WRAPPERS):
        plain = {short.replace(_COMPILED, ""): state[name] for name, short in names.items()}
        if is_known(plain):
            _check_different(names)
            return plain, removed + (_COMPILED if _common_prefix(names.values()) == _COMPILED else "")
        prefix = _common_prefix(names.values())
        if not prefix:
            names = {name: short for name, short in names.items() if short not in _COUNTERS}
            prefix = _common_prefix(names.values())
        if not prefix:
            break
        names = {name: short.removeprefix(prefix) for name, short in names.items()}
        removed += prefix
    return dict(state), ""


def _common_prefix(names: Collection[str]) -> str:
    return next((one for one in _PREFIXES if names and all(name.startswith(one) for name in names)), "")


def _check_different(names: Mapping[str, str]) -> None:
    spelled: dict[str, str] = {}
    for name, short in names.items():
        first = spelled.setdefault(short.replace(_COMPILED, ""), name)
        if first != name:
            raise UserError(f"{quoted(first)} and {quoted(name)} mean the same; expected one of them")


def weights_of(payload: dict[Any, Any], is_known: _Known, weights: str | None = None) -> tuple[dict[Any, Any], str]:
    """The mapping in a file that contains the weights, and a note if it contains several.

    Trained weights come before averages of them, which come before weights under any other name.

    Args:
        payload: everything that the file contains.
        is_known: whether names belong to weights, in any wrapping.
        weights: the entry to use, preceded by its parents and dots.

    Returns:
        The mapping, and one phrase, empty if there was no choice. If there are no known weights, the mapping that would
        contain them, for messages.

    Raises:
        UserError: several are equally eligible, or none has the given name.
    """
    found: dict[str, dict[Any, Any]] = {}
    left = _NAMES
    for path, mapping in _mappings_of(payload):
        if len(mapping) <= left and all(isinstance(name, str) for name in mapping):
            left -= len(mapping)
            if is_known(mapping):
                found.setdefault(".".join(path), mapping)
    if weights is not None:
        return wanted(found, weights), ""
    if not found:
        return next((payload[key] for key in (*_PLAIN, *_AVERAGED) if isinstance(payload.get(key), dict)), payload), ""
    best = min(map(_standing, found))
    first = [name for name in found if _standing(name) == best]
    if len(first) > 1:
        raise OptionError(
            lambda name: (
                f"contains several sets of weights: {listed(first, show=printable)}; specify one: {name('weights')}"
            )
        )
    others = [name for name in found if name != first[0]]
    if not others:
        return found[first[0]], ""
    return found[first[0]], (
        f"it contains several sets of weights: {printable(first[0])} is used, {listed(others, show=printable)} "
        f"{'are' if len(others) > 1 else 'is'} not"
    )


def wanted(found: Mapping[str, dict[Any, Any]], weights: str) -> dict[Any, Any]:
    """The set of weights with this name.

    Raises:
        UserError: there is none; the message lists the others.
    """
    if weights not in found or not weights:
        known = listed([name for name in found if name], show=printable)
        alone = "one set of weights, so leave it out" if found else "no weights with known names"
        have = f"sets of weights are {known}" if known else f"the file contains {alone}"
        raise OptionError(lambda name: f"{name('weights')} {quoted(weights)}: there is no such set; {have}")
    return found[weights]


def _standing(path: str) -> tuple[int, int]:
    name = path.rpartition(".")[2]
    kind = 0 if not path else 1 if name in _PLAIN else 2 if name in _AVERAGED else 3
    return kind, path.count(".")


def _mappings_of(payload: dict[Any, Any]) -> Iterator[tuple[tuple[str, ...], dict[Any, Any]]]:
    """Nested mappings with the names that lead to them, outer ones first, each once, and a limited number of them."""
    waiting: deque[tuple[tuple[str, ...], dict[Any, Any]]] = deque([((), payload)])
    seen = {id(payload)}
    while waiting:
        path, mapping = waiting.popleft()
        yield path, mapping
        if len(path) == _DEPTH:
            continue
        for name, inner in mapping.items():
            if len(seen) == _MAPPINGS:
                break
            if isinstance(inner, dict) and isinstance(name, str) and id(inner) not in seen:
                seen.add(id(inner))
                waiting.append(((*path, name), inner))
