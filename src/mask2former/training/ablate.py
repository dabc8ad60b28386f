"""The ablations of the paper on a run of one's own: a training for each row and seed, and a table of what they reach.

Each training is a run like any other; whatever was finished before is read, and what was interrupted goes on.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mask2former import recipes
from mask2former.config import EvaluationConfig, RunConfig, leaves, parse
from mask2former.documents import read_json
from mask2former.errors import UserError
from mask2former.files import write_whole
from mask2former.recipes import ABLATIONS, BASES, ablated
from mask2former.text import listed, quoted
from mask2former.training.run import train

__all__ = ["BASELINE", "AblationRow", "ablate", "scenes_base"]

BASELINE = "baseline"
_METRICS = {"AP": "instance/AP", "PQ": "panoptic/PQ", "mIoU": "semantic/mIoU"}  # the paper's, and ours


@dataclass(frozen=True)
class AblationRow:
    """What the trainings of a row reached.

    Attributes:
        name: of the row; :data:`BASELINE` is the run without a change.
        settings: what differs.
        metrics: of each seed at the end of its training, percent.
        paper: what the paper prints: AP, PQ and mIoU.
    """

    name: str
    settings: dict[str, Any]
    metrics: dict[int, dict[str, float]]
    paper: dict[str, float]

    def spread(self, metric: str) -> tuple[float, float, float] | None:
        """Mean, least and most of a metric over the seeds; None where it was not measured."""
        values = [measured[metric] for measured in self.metrics.values() if metric in measured]
        return (statistics.fmean(values), min(values), max(values)) if values else None

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form."""
        names = sorted({name for measured in self.metrics.values() for name in measured})
        spreads = {name: self.spread(name) for name in names}
        of_seeds = {str(seed): measured for seed, measured in self.metrics.items()}
        return {"settings": self.settings, "paper": self.paper, "spread": spreads, "metrics": of_seeds}


def scenes_base(steps: int = 1000) -> RunConfig:
    """The run that ``mask2former ablate scenes`` changes: that of ``scenes-tiny-start``, measured for all tasks.

    Args:
        steps: of each training, with a schedule of their own length.
    """
    run = recipes.scenes_tiny_start()
    return run.model_copy(
        update={
            "optim": run.optim.model_copy(update={"schedule_steps": None}),
            "trainer": run.trainer.model_copy(update={"max_steps": steps, "checkpoint_interval": min(steps, 250)}),
            "evaluation": EvaluationConfig(
                interval=steps, tasks=("panoptic", "instance", "semantic"), num_images=0, choose_threshold=False
            ),
        }
    )


def ablate(
    base: RunConfig,
    output: str | Path,
    rows: Sequence[str] = (),
    seeds: int = 3,
    tell: Callable[[str, int, int], object] = lambda what, done, total: None,
) -> list[AblationRow]:
    """Train the baseline and each row with the same steps and seeds.

    All rows of a seed come before the next seed, so that there is a table early. ``ablations.json`` in ``output`` is
    written after each training; a call with the same arguments goes on where one was interrupted.

    Args:
        base: the run that rows change; its ``seed`` and ``output`` are set here.
        output: the folder of all; a training is in ``ROW/seed-N``.
        rows: names of :data:`~mask2former.recipes.ABLATIONS`; none: all of them.
        seeds: how many trainings of each row; they are 0, 1, ...
        tell: is called before each training with its name, how many are done, and how many there are.

    Raises:
        UserError: there is no such row, the run has no decoder that rows change, or the folder holds trainings with
            other settings.
    """
    if unknown := [name for name in rows if name not in ABLATIONS]:
        raise UserError(f"no ablation {quoted(unknown[0])}; there are: {listed(list(ABLATIONS), None)}")
    if seeds < 1:
        raise UserError(f"seeds must be 1 or more, got {seeds}")
    folder, families = Path(output), list(BASES.values())
    table = {BASELINE: AblationRow(BASELINE, {}, {}, dict(families))}
    for name in rows or ABLATIONS:
        paper = {metric: figure for (metric, _), figure in zip(families, ABLATIONS[name].figures, strict=True)}
        table[name] = AblationRow(name, dict(ABLATIONS[name].settings), {}, paper)
    runs = {name: base if name == BASELINE else ablated(base, ABLATIONS[name]) for name in table}
    _check(folder / "ablations.json", base)
    _write(folder / "ablations.json", base, seeds, list(table.values()))
    jobs = [(seed, row) for seed in range(seeds) for row in table.values()]
    for done, (seed, row) in enumerate(jobs):
        place = folder / row.name / f"seed-{seed}"
        tell(f"{row.name}, seed {seed}", done, len(jobs))
        run = runs[row.name].model_copy(update={"seed": seed, "output": str(place)})
        result = train(run, resume=(place / "checkpoints" / "last.ckpt").is_file())
        row.metrics[seed] = {name: value for name, value in result.metrics.items() if "/" in name}  # no losses
        _write(folder / "ablations.json", base, seeds, list(table.values()))
    return list(table.values())


def _check(path: Path, base: RunConfig) -> None:
    """Refuse a folder of other trainings: those that are finished would be taken for what is wanted now."""
    if not path.exists():
        return
    values = read_json(path, "table of ablations")
    before = values.get("run") if isinstance(values, dict) else None
    if not isinstance(before, dict):
        raise UserError(f"{path} is no table of ablations; choose another output folder")
    old, new = (leaves(config) for config in (parse(RunConfig, before, str(path)), base))
    changed = [f"{name} was {old.get(name)} and is {value}" for name, value in new.items() if old.get(name) != value]
    changed = [words for words in changed if words.split()[0] not in ("output", "seed")]
    if changed:
        raise UserError(
            f"{path.parent} holds trainings with other settings ({listed(changed, 4)}); choose another output folder, "
            "or set them back"
        )


def _write(path: Path, base: RunConfig, seeds: int, table: Sequence[AblationRow]) -> None:
    values = {
        "steps": base.trainer.max_steps,
        "seeds": seeds,
        "metrics": _METRICS,
        "run": base.model_dump(mode="json"),
        "rows": {row.name: row.to_dict() for row in table},
    }
    text = json.dumps(values, indent=1) + "\n"
    write_whole(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))
