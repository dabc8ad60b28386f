"""One shard: its images through the predictor, and one Parquet file with a row for each, written once and completely.

An image that cannot be read or segmented is a row with the reason. One whose process dies (a crash, too much memory)
would take its shard with it again and again, so a shard that was begun twice is processed image by image, and an image
that was in progress at two deaths is abandoned. Knows no Ray.
"""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
from jaxtyping import UInt8
from pyarrow import parquet

from mask2former.bulk.plan import JSON_LINES, SHARD, WORKING, results_file
from mask2former.bulk.reading import as_read
from mask2former.bulk.sources import fetch
from mask2former.bulk.stores import Store, is_url
from mask2former.config import Task
from mask2former.documents import encode_json, parse_json
from mask2former.errors import FailedError, UserError
from mask2former.inference import failures
from mask2former.inference.large_files import encode_result, is_read_by_parts, read_whole_or_parts
from mask2former.inference.pipeline import Failure
from mask2former.inference.predicted_image import LargeImage
from mask2former.inference.predictor import Predictor
from mask2former.inference.result_files import image_sha256_of
from mask2former.inference.tile_results import Results
from mask2former.inference.tiling import PackedResults
from mask2former.media.image_files import NamedBytes, open_file
from mask2former.notes import collect_notes
from mask2former.structures.result_base import RECORDS, SOFTWARE
from mask2former.text import printable

__all__ = ["SCHEMA", "ShardReport", "ShardWriter"]

_BEGUN, _DEATHS = 2, 2  # times a shard is begun before it is done image by image; deaths until an image is abandoned
_MAPS = ("_ids.png", "_labels.png")  # suffixes of exact maps

_RLE = pyarrow.struct({"size": pyarrow.list_(pyarrow.int32()), "counts": pyarrow.string()})
_SEGMENT = pyarrow.struct(
    {
        "id": pyarrow.int32(),
        "label": pyarrow.int32(),
        "category_id": pyarrow.int64(),
        "category_name": pyarrow.string(),
        "is_thing": pyarrow.bool_(),
        "score": pyarrow.float64(),
        "area": pyarrow.int64(),
        "bbox": pyarrow.list_(pyarrow.float64()),
        "segmentation": _RLE,
    }
)
SCHEMA = pyarrow.schema(
    [
        pyarrow.field("image", pyarrow.string(), nullable=False),
        pyarrow.field("image_sha256", pyarrow.string()),
        pyarrow.field("error", pyarrow.string()),
        pyarrow.field("task", pyarrow.string(), nullable=False),
        pyarrow.field("height", pyarrow.int32()),
        pyarrow.field("width", pyarrow.int32()),
        pyarrow.field("segments", pyarrow.list_(_SEGMENT)),
        pyarrow.field("map_png", pyarrow.binary()),
    ]
)
"""A row is an image. Keys of segments are those of our JSON; keys that a task does not have are null."""


@dataclass(frozen=True, slots=True)
class ShardReport:
    """The outcome of a shard.

    Attributes:
        num_images: all of its images.
        num_found: segments, instances or classes in them.
        failed: the images without a result, and why.
        notes: message and example of each.
    """

    num_images: int
    num_found: int
    failed: Sequence[tuple[str, str]]
    notes: Sequence[tuple[str, str]]


class ShardWriter:
    """Segments shards, one after the other, and writes their files.

    Args:
        predictor: its settings are used.
        task: of the results.
        store: the output.
        head: what the files say they were made by. With ``json_lines``, ``json/shard-N.jsonl`` is also written, a line
            with our JSON for each result.
        batch_size: see :meth:`Predictor.stream`.
        image_timeout: seconds that reading the bytes of an image may take.
    """

    def __init__(
        self,
        predictor: Predictor,
        task: Task,
        store: Store,
        head: Mapping[str, Any],
        *,
        batch_size: int = 1,
        image_timeout: float = 60.0,
    ) -> None:
        self._predictor = predictor
        self._task: Task = task
        self._store = store
        self._schema = SCHEMA.with_metadata({"mask2former": json.dumps(dict(head), sort_keys=True)})
        self._model: str = head.get("model", "")
        self._json_lines: bool = head.get("json_lines", False)
        self._batch_size = batch_size
        self._image_timeout = image_timeout

    def __call__(self, shard: int, images: Sequence[str]) -> ShardReport:
        """Segment the images of a shard and write its files.

        Raises:
            FailedError: an image failed for a reason that would stop all others, for instance a full disk; the shard is
                not written.
        """
        past = self._past(shard)
        with collect_notes() as notes:
            try:
                rows = dict(self._rows(shard, images, past))
            except FailedError:  # the process did not die: no image is to blame
                with contextlib.suppress(OSError, FailedError):  # perhaps for the same reason
                    self._store.write(_marker(shard), json.dumps(past).encode())
                raise
        ordered = [rows[name] for name in images]
        lines = [line for row in ordered if (line := row.pop("line")) is not None]
        if self._json_lines:
            self._store.write(f"{JSON_LINES}/{SHARD}{shard:05d}.jsonl", b"".join(lines))
        stream = io.BytesIO()
        parquet.write_table(pyarrow.Table.from_pylist(ordered, self._schema), stream, compression="zstd")
        self._store.write(results_file(shard), stream.getvalue())  # last: from here on the shard is done
        self._store.remove(_marker(shard))
        return ShardReport(
            len(images),
            sum(len(row["segments"] or ()) for row in ordered),
            [(row["image"], row["error"]) for row in ordered if row["error"] is not None],
            [(message, example) for message, example in dict.fromkeys(notes)],
        )

    def _rows(self, shard: int, images: Sequence[str], past: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
        """Images with their rows, as they are done; records that the shard is begun."""
        begun = {**past, "begun": past["begun"] + 1}
        self._store.write(_marker(shard), json.dumps(begun).encode())
        if begun["begun"] <= _BEGUN:
            yield from self._segmented(images)
            return
        for name in images:
            if begun["deaths"].get(name, 0) >= _DEATHS:
                reason = f"'{name}': the process that segmented it died {_DEATHS} times; is there enough memory?"
                yield name, self._row(name, error=reason)
                continue
            self._store.write(_marker(shard), json.dumps({**begun, "image": name}).encode())
            yield from self._segmented([name])

    def _past(self, shard: int) -> dict[str, Any]:
        """How often a shard was begun so far, and for which images that was the end."""
        times, deaths, image = _read_marker(self._store.read(_marker(shard)))
        if image is not None:
            deaths[image] = deaths.get(image, 0) + 1
        return {"begun": times, "deaths": deaths, "image": None}

    def _segmented(self, images: Iterable[str]) -> Iterator[tuple[str, dict[str, Any]]]:
        items = as_read(images, self._fetched, limit=self._image_timeout)
        stages = (self._image, self._finished, None)
        for (name, _), found in self._predictor.in_stages(items, *stages, (self._task,), self._batch_size):
            if isinstance(found, Failure):
                device = self._predictor.device
                reason = printable(failures.reason(found.error, f"'{name}'", device))
                if failures.ends_run(found.error, device):
                    raise FailedError(reason) from found.error
                yield name, self._row(name, error=reason)
            else:
                yield name, found

    def _fetched(self, name: str) -> NamedBytes | Path:
        """The bytes of an image, or the path of one that is read in parts, which may be larger than memory."""
        if not is_url(name) and is_read_by_parts(path := Path(name), self._predictor.settings):
            return path
        return fetch(name)

    def _image(self, item: tuple[str, NamedBytes | Path | Exception]) -> UInt8[np.ndarray, "H W C"] | LargeImage:
        name, file = item
        if isinstance(file, Exception):
            raise file
        found = read_whole_or_parts(file, self._predictor.settings, overlay=False)
        if not isinstance(found, LargeImage):
            with open_file(file) as image:
                if image.info.get("Software") == SOFTWARE:
                    raise UserError(f"'{name}' is an overlay or map of earlier results; leave it out")
        return found

    def _finished(
        self,
        item: tuple[str, NamedBytes | Path | Exception],
        image: UInt8[np.ndarray, "H W C"] | LargeImage,
        results: Results | PackedResults,
    ) -> dict[str, Any]:
        (name, file), result = item, results[self._task]
        assert isinstance(file, NamedBytes | Path)
        settings = self._predictor.recorded_settings
        sha256 = image_sha256_of(file)  # for a large file, of what was read, since encoding reads it again
        files = encode_result(result, image, overlay=False, model=self._model, settings=settings)
        record = json.loads(files[".json"])
        row = self._row(name, image_sha256=sha256)
        row["height"], row["width"] = record["size"]
        row["segments"] = record[RECORDS[self._task]]
        row["map_png"] = next((content for ending, content in files.items() if ending in _MAPS), None)
        if self._json_lines:
            line = {"image": name, "image_sha256": sha256, **record}
            row["line"] = f"{encode_json(line)}\n".encode()
        return row

    def _row(self, name: str, *, image_sha256: str | None = None, error: str | None = None) -> dict[str, Any]:
        row: dict[str, Any] = {column: None for column in SCHEMA.names}
        return row | {"image": name, "image_sha256": image_sha256, "error": error, "task": self._task, "line": None}


def _read_marker(content: bytes | None) -> tuple[int, dict[str, int], str | None]:
    """How often a shard was begun, how often images were its end, and which was in progress; none if damaged."""
    try:
        match parse_json(content or b"{}", "the marker"):
            case {"begun": int(times), "deaths": dict(deaths), "image": str(image) | (None as image)}:
                return times, deaths, image
    except UserError:  # incomplete after a power failure
        pass
    return 0, {}, None


def _marker(shard: int) -> str:
    return f"{WORKING}/{SHARD}{shard:05d}.json"
