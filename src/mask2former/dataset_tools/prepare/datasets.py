"""The data sets that can be prepared, by name. The only module of this package that knows all of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from mask2former.dataset_tools.prepare import ade20k, ade20k_full, cityscapes, coco_stuff_10k, drawn_cells
from mask2former.dataset_tools.prepare.stages import Outcome, Plan, run_stage
from mask2former.errors import UserError
from mask2former.media.folders import data_root
from mask2former.processors import num_processors
from mask2former.progress import Progress, silent

__all__ = ["dataset_names", "prepare"]

_PLANS: dict[str, Callable[[Path], Plan]] = {
    "ade20k": ade20k.plan,
    "ade20k-full": ade20k_full.plan,
    "cityscapes": cityscapes.plan,
    "coco-stuff-10k": coco_stuff_10k.plan,
    "drawn-cells": drawn_cells.plan,
}


def dataset_names() -> tuple[str, ...]:
    """The names that :func:`prepare` accepts."""
    return tuple(_PLANS)


def prepare(
    name: str,
    root: str | Path | None = None,
    num_workers: int | None = 1,
    progress: Progress = silent,
) -> tuple[list[Outcome], tuple[str, ...]]:
    """Create the files that the readers of a published data set, or its official tools, need, or draw images of cells.

    Complete files are left unchanged, so an interrupted call continues where it stopped.

    Args:
        name: one of :func:`dataset_names`.
        root: the folder that holds the data sets in their official layout; by default that of the environment, see
            :func:`~mask2former.media.folders.data_root`.
        num_workers: number of processes; 1 or less: only this one; None: one for each processor.
        progress: called with what is being made, and the numbers of images done and in total.

    Returns:
        What each stage did, and messages about missing parts of the download.

    Raises:
        UserError: the name is unknown, ``root`` contains nothing of the data set, or a file is broken.
    """
    if name not in _PLANS:
        raise UserError(
            f"there is no preparation for '{name}'; expected one of {', '.join(_PLANS)}; the other data sets are read "
            "as downloaded"
        )
    plan = _PLANS[name](data_root(None if root is None else str(root)))
    workers = num_processors() if num_workers is None else num_workers
    return [run_stage(stage, workers, progress) for stage in plan.stages], plan.notes
