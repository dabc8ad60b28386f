"""The actors of Ray Data that segment shards, on this machine or a cluster: the only module that uses Ray Data."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mask2former.bulk.plan import Plan, shards_as_rows
from mask2former.bulk.stores import open_store
from mask2former.config import Task
from mask2former.errors import FailedError, OptionError, UserError
from mask2former.inference.opening import open_predictor
from mask2former.inference.ray_cluster import cluster_address, joined_cluster
from mask2former.media.image_files import pixel_limit
from mask2former.processors import num_processors
from mask2former.progress import Progress
from mask2former.text import printable

__all__ = ["Job", "Pool", "Segmenter", "pool_for", "raised_by", "shard_reports", "started_pool"]

_CPUS_PER_ACTOR = 4  # of a machine without GPUs, by default
_RAISED = re.compile(r"mask2former\.errors\.(\w+): (.+)")  # in the stack traces of actors


@dataclass(frozen=True, slots=True)
class Job:
    """What an actor needs to know.

    Attributes:
        model: its name or path.
        loading: arguments of :func:`open_predictor`.
        output: where the results go.
        task: see :class:`~mask2former.bulk.shards.ShardWriter`.
        head: see :class:`~mask2former.bulk.shards.ShardWriter`.
        batch_size: see :class:`~mask2former.bulk.shards.ShardWriter`.
        image_timeout: see :class:`~mask2former.bulk.shards.ShardWriter`.
        most_pixels: see :func:`~mask2former.media.image_files.pixel_limit`.
    """

    model: str | Path
    loading: Mapping[str, Any]
    output: str
    task: Task
    head: Mapping[str, Any]
    batch_size: int
    image_timeout: float
    most_pixels: int | None


class Segmenter:
    """What runs in an actor.

    Raises:
        UserError: the model cannot be loaded there, or differs there.
    """

    def __init__(self, job: Job) -> None:
        from mask2former.bulk.shards import ShardWriter

        predictor = open_predictor(job.model, quiet=True, **job.loading)
        if predictor.weights_sha256() != job.head["weights_sha256"]:
            raise UserError(
                f"'{job.model}' is a different model in an actor than where the run was started; use the same file "
                "everywhere"
            )
        self._most_pixels = job.most_pixels
        self._write = ShardWriter(
            predictor,
            job.task,
            open_store(job.output),
            job.head,
            batch_size=job.batch_size,
            image_timeout=job.image_timeout,
        )

    def __call__(self, rows: Any) -> Any:
        """Shards, as tables of one row, to reports as JSON."""
        with pixel_limit(self._most_pixels):
            reports = [
                json.dumps(asdict(self._write(shard, images)))
                for shard, images in zip(rows["shard"].to_pylist(), rows["images"].to_pylist(), strict=True)
            ]
        return {"report": reports}


@dataclass(frozen=True, slots=True)
class Pool:
    """The number of actors, and the resources of each."""

    count: int
    cpus: int
    gpus: int


def shard_reports(job: Job, plan: Plan, shards: Sequence[int], pool: Pool) -> Iterator[dict[str, Any]]:
    """The report of each shard, as shards are finished.

    Raises:
        UserError: an actor cannot load the model.
        FailedError: a shard failed for a reason that would stop all others.
    """
    import ray.data
    import ray.exceptions

    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = context.print_on_execution_start = False
    dataset = ray.data.from_arrow(list(shards_as_rows(plan.shards, shards))).map_batches(
        Segmenter,
        fn_constructor_args=(job,),
        batch_size=1,
        batch_format="pyarrow",
        # A shard takes seconds, so none should wait at one actor while another is idle.
        compute=ray.data.ActorPoolStrategy(size=min(pool.count, len(shards)), max_tasks_in_flight_per_actor=1),
        num_cpus=pool.cpus,
        num_gpus=pool.gpus,
    )
    try:
        for row in dataset.iter_rows():
            yield json.loads(row["report"])
    except ray.exceptions.RayError as error:
        raise raised_by(error) from error


def raised_by(error: BaseException) -> Exception:
    """The error raised in an actor, of which Ray passes on only the text, or one sentence from Ray's own message."""
    text = str(error)
    if ours := _RAISED.findall(text):
        kind, said = ours[-1]
        return FailedError(said) if kind == "FailedError" else UserError(said)
    lines = [line for line in text.splitlines() if line.strip()]
    said = printable(lines[-1] if lines else type(error).__name__, 300)
    return FailedError(f"Ray stopped the run: {said}")


@contextlib.contextmanager
def started_pool(address: str | None, actors: int | None, device: str, progress: Progress) -> Iterator[Pool]:
    """A running cluster, or this machine for the duration of the block.

    Raises:
        UserError: the cluster does not exist, or has no room for this many actors.
    """
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # it warns of every pool of actors that may restart
    with joined_cluster(
        cluster_address(address),
        max(num_processors(), actors or 1),
        progress,
        configure_logging=False,
        log_to_driver=False,
    ):
        import ray
        import ray.data

        _silence()
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        yield pool_for([(int(node.get("CPU", 0)), int(node.get("GPU", 0))) for node in nodes], actors, device)


def pool_for(nodes: Sequence[tuple[int, int]], actors: int | None, device: str) -> Pool:
    """Actors for machines with this many CPU cores and GPUs each: as many cores for each as fit.

    Raises:
        UserError: they do not fit.
    """
    num_cpus, num_gpus = (sum(counts) for counts in zip(*nodes, strict=True))
    gpus = int(num_gpus > 0 and device != "cpu")
    if device == "cuda" and not gpus:
        raise OptionError(lambda name: f"Ray sees no GPU for {name('device')} cuda; use cpu or auto")
    count = actors or (num_gpus if gpus else max(1, num_cpus // _CPUS_PER_ACTOR))
    for cpus in range(max(1, num_cpus // count), 0, -1):
        if sum(min(cores // cpus, devices if gpus else cores) for cores, devices in nodes) >= count:
            return Pool(count, cpus, gpus)
    what = f"{num_gpus} GPUs and {num_cpus} CPU cores" if gpus else f"{num_cpus} CPU cores"
    raise OptionError(
        lambda name: (
            f"{count} actors do not fit into the cluster, which has {what}; lower {name('actors')}, or start more"
        )
    )


def _silence() -> None:
    """Keep Ray's own messages in its log files; what a user should know is reported by this library."""
    logging.getLogger("ray").setLevel(logging.ERROR)
    for handler in logging.getLogger("ray.data").handlers:
        if isinstance(handler, logging.StreamHandler) and not isinstance(handler, logging.FileHandler):
            handler.setLevel(logging.CRITICAL)
