"""A bulk run: its plan, its shards on the actors of Ray Data, and their outcome.

Ray Data distributes the shards, starts actors, restarts those that die and gives their shard to another; each actor
holds the model, and writes one file per shard (:mod:`mask2former.bulk.shards`). Progress is recorded only in the files,
so whatever is killed, the next run does the rest.
"""

from __future__ import annotations

import contextlib
import csv
import io
import json
import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

import mask2former
from mask2former.bulk import plan as plans
from mask2former.bulk.engine import Job, shard_reports, started_pool
from mask2former.bulk.plan import open_plan, shards_done, shards_without_failures
from mask2former.bulk.sources import list_sources
from mask2former.bulk.stores import Store, open_store
from mask2former.checkpoints import is_name
from mask2former.config import InferenceConfig, Task
from mask2former.errors import OptionError, UserError
from mask2former.extras import need
from mask2former.inference.opening import open_predictor
from mask2former.inference.result_files import categories_sha256
from mask2former.inference.tta import MultiScaleFlip
from mask2former.notes import Note, collect_notes, sentences
from mask2former.progress import Progress, silent
from mask2former.structures.result_base import SCHEMA_VERSION

__all__ = ["FAILURES", "BulkReport", "Failed", "predict_bulk"]

FAILURES = "failures.csv"
_LISTED = 10  # failures that a report has
_EXAMPLES = 1_000  # of a note that are kept; each image may have one
_ID_BITS = 63  # of a category id in Parquet


@dataclass(frozen=True, slots=True)
class Failed:
    """An image without a result, and why."""

    image: str
    reason: str


@dataclass(frozen=True)
class BulkReport:
    """The outcome for the images of a run.

    Attributes:
        task: of the results.
        settings: the inference settings.
        num_images: all in the plan.
        num_done: segmented in this call.
        num_there: in shards that were finished before.
        num_failed: out of all, those without a result.
        num_found: segments, instances or classes found in this call.
        num_actors: number of actors.
        failed: the first ten of this call without a result.
        failures: the file that lists all of them; None where there are none.
        notes: what a user should know, one sentence each.
    """

    task: Task
    settings: InferenceConfig
    num_images: int
    num_done: int
    num_there: int
    num_failed: int
    num_found: int
    num_actors: int
    failed: tuple[Failed, ...] = ()
    failures: str | None = None
    notes: tuple[str, ...] = ()


def predict_bulk(
    model: str | Path,
    sources: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    output: str | os.PathLike[str],
    task: Task | None = None,
    *,
    actors: int | None = None,
    shard_size: int | None = None,
    image_timeout: float = 60.0,
    json_lines: bool = False,
    column: str | None = None,
    retry_failed: bool = False,
    overwrite: bool = False,
    ray_address: str | None = None,
    recipe: str | None = None,
    trained_for: Task | Sequence[Task] = (),
    weights: str | None = None,
    batch_size: int = 1,
    views: MultiScaleFlip | None = None,
    device: str = "auto",
    dtype: str | None = None,
    compile: bool = False,
    progress: Progress = silent,
    observe: Callable[[Failed], None] = lambda failed: None,
    **settings: Any,
) -> BulkReport:
    """Segment any number of images with several processes or machines; what ``mask2former predict --ray`` does.

    The images are divided into shards once; each becomes one Parquet file, complete and with a row for every image
    (:func:`~mask2former.bulk.open_results` reads them). The same call does what is missing, whatever ended the previous
    one. An image that fails is a row with the reason, and is listed in ``failures.csv``.

    Args:
        model: a name, file or folder, which every machine of the cluster can read.
        sources: images, folders, globs and lists (``.csv``, ``.parquet``), local or URLs of fsspec (``s3://...``).
        output: a folder or URL, which every machine can write.
        task: see :class:`~mask2former.Predictor`.
        actors: processes with the model; by default one for each GPU, without GPUs one for 4 CPU cores.
        shard_size: images per result file, by default 64; what must be repeated when an actor is killed.
        image_timeout: seconds that reading the bytes of an image may take.
        json_lines: also write ``json/shard-N.jsonl``, a line for each result.
        column: of lists: the one with the image names; by default ``image``, or the only one.
        retry_failed: repeat shards in which images failed.
        overwrite: start again, and remove existing results.
        ray_address: of a running cluster, for instance ``auto``; by default ``RAY_ADDRESS``, or Ray is started on
            this machine alone, and ended.
        recipe: see :func:`~mask2former.predict_files`, like the following.
        trained_for: as there.
        weights: as there.
        batch_size: as there; images of one shard share batches.
        views: as there.
        device: ``auto``, ``cpu`` or ``cuda``; each actor has one GPU.
        dtype: as there.
        compile: as there.
        progress: called with the step, and the numbers of images done and in total.
        observe: called with each image that failed, when its shard is done.
        settings: inference settings that replace the stored ones.

    Raises:
        UserError: no images, a wrong model or setting, other results in the output, or no such cluster or no room in
            it; no result was written then.
        FailedError: an image failed for a reason that would stop all others, for instance a full disk; finished shards
            stay.
        MissingExtraError: Ray, pyarrow or fsspec is missing.
    """
    _check(actors, shard_size, image_timeout, batch_size, device)
    if not isinstance(model, str | Path):
        raise UserError(
            f"the actors load the model themselves and need its name, file or folder, got a {type(model).__name__}; "
            "save it with model.save_pretrained, and give the file"
        )
    need("ray", "ray", "pyarrow", "fsspec", to="run on a cluster")
    store = open_store(output)
    loading = {"recipe": recipe, "trained_for": trained_for, "weights": weights, "device": device, "dtype": dtype}
    loading |= {"compile": compile, "views": views, **settings}
    with collect_notes() as found, contextlib.ExitStack() as stack:
        progress("listing the images", 0, None)
        images = list_sources([sources] if isinstance(sources, str | os.PathLike) else sources, column=column)
        predictor = open_predictor(model, progress=progress, **{**loading, "device": "cpu"})  # only checks
        chosen = predictor.choose_tasks(task)[0]
        if any(item.id.bit_length() > _ID_BITS for item in predictor.categories):
            raise UserError(f"the model has class ids beyond {_ID_BITS} bits, which Parquet cannot store")
        head = {
            "schema_version": SCHEMA_VERSION,
            "version": mask2former.__version__,
            "model": str(model),
            "task": chosen,
            "settings": predictor.recorded_settings,
            "weights_sha256": predictor.weights_sha256(),
            "categories_sha256": categories_sha256(predictor.categories),
            "categories": predictor.categories.to_dict()["categories"],
            "json_lines": json_lines,
        }
        head = json.loads(json.dumps(head, allow_nan=False))  # as it is read back
        stack.enter_context(store.alone())
        if overwrite:
            _remove_results(store)
        plan = open_plan(store, images, head, shard_size)
        counts = [len(shard) for shard in plan.shards]
        done = shards_done(store, counts)
        if retry_failed:
            done = shards_without_failures(store, done)
        rest = sorted(set(range(len(counts))).difference(done))
        pool = stack.enter_context(started_pool(ray_address, actors, device, progress)) if rest else None
        num_there = sum(counts[shard] for shard in done)
        limits = batch_size, image_timeout, Image.MAX_IMAGE_PIXELS  # the last as it is set here
        job = Job(_for_actors(model), loading, store.address, chosen, dict(plan.head), *limits)
        progress(chosen, num_there, plan.num_images)
        num_done = num_found = 0
        failed: list[Failed] = []
        noted = Counter[str]()
        for report in shard_reports(job, plan, rest, pool) if pool else ():
            num_done += report["num_images"] - len(report["failed"])
            num_found += report["num_found"]
            for message, example in report["notes"]:
                noted[message] += 1
                if noted[message] <= _EXAMPLES:
                    found.append(Note(message, example))
            for name, reason in report["failed"]:
                failed.append(Failed(name, reason))
                observe(failed[-1])
                del failed[_LISTED:]
            num_there += report["num_images"]
            progress(chosen, num_there, plan.num_images)
        without = _failed(store)
        _write_failures(store, without)
        store.clear(plans.WORKING, plans.SHARD)
    return BulkReport(
        chosen,
        predictor.settings,
        plan.num_images,
        num_done,
        plan.num_images - sum(counts[shard] for shard in rest),
        len(without),
        num_found,
        pool.count if pool else 0,
        tuple(failed),
        store.path(FAILURES) if without else None,
        (
            *sentences(found),
            *(
                f"the first {_EXAMPLES:,} of {count:,}: {message}"
                for message, count in noted.items()
                if count > _EXAMPLES
            ),
        ),
    )


def _for_actors(model: str | Path) -> str | Path:
    """The name of a model, or its absolute path, since actors may work in another folder."""
    return model if is_name(model) or not os.path.exists(model) else Path(model).absolute()


def _check(actors: int | None, shard_size: int | None, image_timeout: float, batch_size: int, device: str) -> None:
    """Refuse numbers out of range.

    Raises:
        OptionError: the message names one.
    """
    for argument, value in (("actors", actors), ("shard_size", shard_size), ("batch_size", batch_size)):
        if value is not None and value < 1:
            raise OptionError(
                lambda name, argument=argument, value=value: f"{name(argument)} is {value}; expected at least 1"
            )
    if not image_timeout > 0:
        raise OptionError(lambda name: f"{name('image_timeout')} is {image_timeout} s; expected more than 0")
    if device not in ("auto", "cpu", "cuda"):
        raise OptionError(
            lambda name: f"{name('device')} is {device}; each actor has one GPU: expected auto, cpu or cuda"
        )


def _remove_results(store: Store) -> None:
    """Remove what an earlier run has written, starting with the plan, so that what is left belongs to none.

    Raises:
        UserError: the plan belongs to something else.
    """
    if plans.read_head(store) is None:
        return
    for name in (plans.PLAN, plans.IMAGES, FAILURES):
        store.remove(name)
    for folder in (plans.RESULTS, plans.JSON_LINES, plans.WORKING):
        store.clear(folder, plans.SHARD)


def _failed(store: Store) -> Mapping[str, str]:
    """All images without a result, and why, according to the finished shards."""
    import pyarrow.compute

    from mask2former.bulk.results import row_batches

    is_failed = pyarrow.compute.field("error").is_valid()
    batches = row_batches(store.address, columns=["image", "error"], filter=is_failed)
    return {row["image"]: row["error"] for batch in batches for row in batch.to_pylist()}


def _write_failures(store: Store, failed: Mapping[str, str]) -> None:
    if not failed:
        store.remove(FAILURES)
        return
    stream = io.StringIO(newline="")
    csv.writer(stream).writerows([("image", "error"), *failed.items()])
    store.write(FAILURES, stream.getvalue().encode("utf-8", "backslashreplace"))
