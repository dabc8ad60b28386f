"""The results of a bulk run, read back: as a data set of pyarrow, or image by image."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from jaxtyping import Int32

from mask2former.bulk.plan import PLAN, RESULTS, first_damaged, read_head
from mask2former.bulk.stores import Store, open_store
from mask2former.data.label_maps import read_id_colors, read_label_map
from mask2former.errors import UserError
from mask2former.extras import need
from mask2former.media.image_files import NamedBytes
from mask2former.structures.result_base import RECORDS

__all__ = ["id_map", "open_results", "read_records", "row_batches"]


def open_results(output: str | os.PathLike[str]) -> Any:
    """All finished shards as one :class:`pyarrow.dataset.Dataset`; a row is an image.

        table = open_results("results").to_table(columns=["image", "error"])
        frame = table.to_pandas()

    Columns: ``image``, ``image_sha256`` of its bytes, ``error`` (why there is no result, else null), ``task``,
    ``height``, ``width``, ``segments`` (a list of structs with the keys of our JSON: ``id`` of panoptic segments,
    ``label`` of semantic classes, ``category_id``, ``category_name``, ``is_thing``, ``score``, ``area``, ``bbox`` as x,
    y, width and height in pixels, ``segmentation`` as COCO run lengths; null where a task has no such key) and
    ``map_png``, the exact map, see :func:`id_map`. The metadata ``mask2former`` of the schema says what created them.

    Args:
        output: the folder or URL of the run, which may still be in progress.

    Raises:
        UserError: there are no results, or the file of a shard is damaged.
    """
    need("ray", "pyarrow", to="read results in Parquet")
    from pyarrow import dataset

    store = open_store(output)
    if read_head(store) is None:
        raise UserError(f"'{store.name}' contains no results of a bulk run (there is no {PLAN}); check the path")
    names = [name for name in store.names(RESULTS) if name.endswith(".parquet")]
    if not names:
        raise UserError(f"no shard in '{store.name}' is finished yet")
    if (damaged := first_damaged(store, [f"{RESULTS}/{name}" for name in names])) is not None:
        raise _damaged(store, damaged)
    root, files = store.for_arrow()
    return dataset.dataset([f"{root}/{RESULTS}/{name}" for name in names], filesystem=files, format="parquet")


def read_records(output: str | os.PathLike[str]) -> Iterator[dict[str, Any]]:
    """The results one by one, a few shards in memory at a time, in the order of the plan.

    A record has ``image``, ``image_sha256``, ``error`` and ``map_png`` and, if there is a result, the content of
    ``result.to_dict()``: ``task``, ``size`` (height, width) and ``segments``, ``instances`` or ``classes``.

    Args:
        output: as for :func:`open_results`.

    Raises:
        UserError: there are no results, or the file of a shard is damaged.
    """
    for batch in row_batches(output):
        for row in batch.to_pylist():
            record = {name: row[name] for name in ("image", "image_sha256", "error", "map_png", "task")}
            if row["error"] is None:
                record["size"] = [row["height"], row["width"]]
                record[RECORDS[row["task"]]] = [
                    {name: value for name, value in segment.items() if value is not None} for segment in row["segments"]
                ]
            yield record


def row_batches(output: str | os.PathLike[str], **selection: Any) -> Iterator[Any]:
    """The rows of all shards as record batches.

    Args:
        output: as for :func:`open_results`.
        selection: ``columns`` and ``filter`` for pyarrow.

    Raises:
        UserError: as for :func:`open_results`, also for damage that the end of a file does not show.
    """
    rows = open_results(output)
    from pyarrow import ArrowException

    batches = rows.to_batches(**selection)
    while True:
        try:
            batch = next(batches, None)
        except (ArrowException, OSError) as error:
            for fragment in rows.get_fragments():
                try:
                    for _ in fragment.to_batches(**selection):
                        pass
                except (ArrowException, OSError):
                    name = fragment.path.rpartition("/")[2]
                    raise _damaged(open_store(output), f"{RESULTS}/{name}") from error
            raise
        if batch is None:
            return
        yield batch


def _damaged(store: Store, name: str) -> UserError:
    return UserError(
        f"'{store.path(name)}' is damaged and cannot be read; remove it, and the same predict command creates it again"
    )


def id_map(record: Mapping[str, Any]) -> Int32[np.ndarray, "H W"]:
    """The exact map of a record: segment ids of panoptic results (0: none), class indices of semantic ones.

    Args:
        record: from :func:`read_records`, or a row from :func:`open_results` with ``task`` and ``map_png``.

    Raises:
        UserError: there is no map: for instances, and for images that failed.
    """
    if record["map_png"] is None:
        raise UserError(f"no map was written for this image (task {record['task']}); instances have only run lengths")
    file = NamedBytes("map_png", record["map_png"])
    return read_id_colors(file) if record["task"] == "panoptic" else read_label_map(file)
