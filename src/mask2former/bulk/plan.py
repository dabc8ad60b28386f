"""Which image is in which shard, and how results are made: written once, so that every later run continues exactly.

``plan.json`` describes the results, ``images.parquet`` lists the images by shard. A shard is done when its result file
exists, complete, with a row for each of its images. Knows no models and no Ray.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from mask2former.bulk.stores import Store
from mask2former.documents import encode_json, parse_json
from mask2former.errors import OptionError, UserError
from mask2former.notes import note
from mask2former.text import printable

__all__ = [
    "IMAGES",
    "JSON_LINES",
    "PLAN",
    "RESULTS",
    "SHARD",
    "WORKING",
    "Plan",
    "first_damaged",
    "open_plan",
    "read_head",
    "results_file",
    "shards_as_rows",
    "shards_done",
    "shards_without_failures",
]

PLAN, IMAGES, RESULTS = "plan.json", "images.parquet", "shards"
WORKING, JSON_LINES = "working", "json"  # shards that were begun; what is written on request
_KIND = "mask2former bulk results"
_SHARD_SIZE = 64  # images
SHARD = "shard-"  # begins the file names of shards
_SAME = ("schema_version", "task", "settings", "weights_sha256", "categories_sha256", "json_lines")
_THREADS = 16  # that examine result files; each may be a request


@dataclass(frozen=True, slots=True)
class Plan:
    """The work to be done.

    Attributes:
        head: how the results are made, see :func:`open_plan`.
        shards: the images of each shard.
    """

    head: Mapping[str, Any]
    shards: Sequence[Sequence[str]]

    @property
    def num_images(self) -> int:
        return sum(map(len, self.shards))


def results_file(shard: int) -> str:
    """Where the results of a shard are."""
    return f"{RESULTS}/{SHARD}{shard:05d}.parquet"


def open_plan(store: Store, images: Sequence[str], head: Mapping[str, Any], shard_size: int | None = None) -> Plan:
    """The plan of an output: the existing one, with new images in shards of their own, or a new one.

    Args:
        store: the output.
        images: everything that the sources name now.
        head: JSON values; an existing plan must agree with it on task, settings, weights, classes and files.
        shard_size: images per shard; None: as planned, and 64 in a new plan.

    Raises:
        UserError: what exists was made by another model or with other settings, for other images, or is not a plan.
    """
    there = read_head(store)
    shards: list[list[str]] = []
    if there is None:
        if store.names(RESULTS):
            raise UserError(
                f"'{store.path(RESULTS)}' contains files, but no {PLAN} that describes them; choose another output"
            )
        size = _SHARD_SIZE if shard_size is None else shard_size
    else:
        if others := [name for name in _SAME if there.get(name) != head[name]]:
            other = others[0].removesuffix("_sha256")
            raise OptionError(
                lambda name: (
                    f"the results in '{store.name}' were made with {'other' if other.endswith('s') else 'another'} "
                    f"{other}: choose another output, or {name('overwrite')} to delete them"
                )
            )
        size = there["shard_size"]
        if shard_size not in (None, size):
            raise OptionError(
                lambda name: f"the output was planned with {name('shard_size')} {size}, got {shard_size}; leave it out"
            )
        shards = _read_images(store)
    known = {name for shard in shards for name in shard}
    added = [name for name in images if name not in known]
    if known:
        gone = len(known) + len(added) - len(images)
        if len(added) == len(images):
            raise UserError(
                f"the results in '{store.name}' are for images other than the sources; choose another output"
            )
        if gone:
            example = next(iter(known.difference(images)))
            note(
                "images of the plan that the sources no longer name, which stay in it",
                f"{gone:,}, such as '{example}'",
            )
        if added:
            note("images that are new since the output was planned, added in separate shards", f"{len(added):,}")
    if added or there is None:
        shards += [list(added[start : start + size]) for start in range(0, len(added), size)]
        _write_images(store, shards)
    if there is None:
        head = {"kind": _KIND, **head, "shard_size": size}
        store.write(PLAN, (encode_json(head, indent=1) + "\n").encode())
    return Plan(head if there is None else there, shards)


def read_head(store: Store) -> dict[str, Any] | None:
    """What the plan of an output says about its results; None without a plan.

    Raises:
        UserError: it is something else.
    """
    content = store.read(PLAN)
    if content is None:
        return None
    head = parse_json(content, f"'{store.path(PLAN)}'")
    size = head.get("shard_size") if isinstance(head, dict) and head.get("kind") == _KIND else None
    if not isinstance(size, int) or size < 1:
        raise UserError(f"'{store.path(PLAN)}' is not a plan of a bulk run; choose another output")
    return head


def shards_done(store: Store, counts: Sequence[int]) -> list[int]:
    """The numbers of the shards whose results exist.

    Args:
        store: the output.
        counts: the number of images in each shard.
    """
    there = frozenset(store.names(RESULTS))
    numbers = [shard for shard in range(len(counts)) if results_file(shard).rpartition("/")[2] in there]
    rows = _num_rows(store, map(results_file, numbers))
    return [shard for shard, number in zip(numbers, rows, strict=True) if number == counts[shard]]


def shards_without_failures(store: Store, shards: Sequence[int]) -> list[int]:
    """The finished shards in which no image failed; one with a damaged file does not count."""

    def num_failed(file: Any) -> int:
        errors = file.read(columns=["error"])["error"]
        return len(errors) - errors.null_count

    failed = _measured(store, map(results_file, shards), num_failed)
    return [shard for shard, number in zip(shards, failed, strict=True) if number == 0]


def first_damaged(store: Store, names: Sequence[str]) -> str | None:
    """The first of several result files whose end cannot be read; None if all can be read."""
    return next((name for name, number in zip(names, _num_rows(store, names), strict=True) if number is None), None)


def _num_rows(store: Store, names: Iterable[str]) -> list[int | None]:
    """The number of images in each result file, according to its end; None if it is damaged."""
    return _measured(store, names, lambda file: file.metadata.num_rows)


def _measured(store: Store, names: Iterable[str], measure: Callable[[Any], int]) -> list[int | None]:
    """A number for each result file, from an open ``ParquetFile``; None if it is damaged."""
    from pyarrow import ArrowException, parquet

    def measured(name: str) -> int | None:
        try:
            with store.open(name) as file:
                return measure(parquet.ParquetFile(file))
        except (ArrowException, OSError, KeyError):
            return None

    with ThreadPoolExecutor(_THREADS) as pool:
        return list(pool.map(measured, names))


def shards_as_rows(shards: Sequence[Sequence[str]], numbers: Collection[int]) -> Iterator[Any]:
    """Each shard as a table of one row: its number and images."""
    import pyarrow

    kinds = pyarrow.schema({"shard": pyarrow.int64(), "images": pyarrow.list_(pyarrow.string())})
    for shard in numbers:
        yield pyarrow.table({"shard": [shard], "images": [list(shards[shard])]}, schema=kinds)


def _write_images(store: Store, shards: Sequence[Sequence[str]]) -> None:
    import pyarrow
    from pyarrow import parquet

    table = pyarrow.table(
        {
            "shard": pyarrow.array([number for number, shard in enumerate(shards) for _ in shard], pyarrow.int32()),
            "image": pyarrow.array([name for shard in shards for name in shard], pyarrow.string()),
        }
    )
    stream = io.BytesIO()
    parquet.write_table(table, stream, compression="zstd")
    store.write(IMAGES, stream.getvalue())


def _read_images(store: Store) -> list[list[str]]:
    from pyarrow import ArrowException, parquet

    try:
        with store.open(IMAGES) as file:
            table = parquet.read_table(file)
        numbers, names = table["shard"].to_pylist(), table["image"].to_pylist()
    except (ArrowException, OSError, KeyError) as error:
        reason = printable(str(error), 200)
        raise UserError(f"'{store.path(IMAGES)}' cannot be read: {reason}; choose another output") from error
    shards: list[list[str]] = []
    for number, name in zip(numbers, names, strict=True):
        if number == len(shards):
            shards.append([])
        if number != len(shards) - 1 or not isinstance(name, str):
            raise UserError(f"'{store.path(IMAGES)}' is damaged: its shards are out of order; choose another output")
        shards[number].append(name)
    return shards
