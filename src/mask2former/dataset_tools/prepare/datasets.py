"""Which data sets can be prepared, by name. The only module of this package that knows all of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from mask2former.data.parallel import num_processors
from mask2former.dataset_tools.prepare import ade20k, ade20k_full, cityscapes, coco_stuff_10k
from mask2former.dataset_tools.prepare.stages import Outcome, Plan, run_stage
from mask2former.errors import UserError
from mask2former.media.folders import data_root
from mask2former.progress import Progress, silent

__all__ = ["dataset_names", "prepare"]

_PLANS: dict[str, Callable[[Path], Plan]] = {
    "ade20k": ade20k.plan,
    "ade20k-full": ade20k_full.plan,
    "cityscapes": cityscapes.plan,
    "coco-stuff-10k": coco_stuff_10k.plan,
}


def dataset_names() -> tuple[str, ...]:
    """What :func:`prepare` knows."""
    return tuple(_PLANS)


def prepare(
    name: str,
    root: str | Path | None = None,
    num_workers: int | None = 1,
    progress: Progress = silent,
) -> tuple[list[Outcome], tuple[str, ...]]:
    """Make what the readers of a published data set, or its official tools, need and the download does not have.

    What is done and whole is left as it is, so a stopped call goes on where it was.

    Args:
        name: one of :func:`dataset_names`.
        root: the folder that holds the data sets in their official layout; by default that of the environment, see
            :func:`~mask2former.data.datasets.official.data_root`.
        num_workers: processes; up to 1 means this one; None: as many as there are processors.
        progress: told what is being made, how many images of it are done, and of how many.

    Returns:
        What each stage did, and sentences about parts of the download that are not there.

    Raises:
        UserError: an unknown name, nothing of the data set below ``root``, or a file that is broken.
    """
    if name not in _PLANS:
        raise UserError(
            f"no preparation for '{name}'; there are: {', '.join(_PLANS)}; the other data sets are read as downloaded"
        )
    plan = _PLANS[name](data_root(None if root is None else str(root)))
    workers = num_processors() if num_workers is None else num_workers
    return [run_stage(stage, workers, progress) for stage in plan.stages], plan.notes
