"""How fast training runs converge: a metric over steps, for several runs at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mask2former.analysis.curves import Curves, Drawn
from mask2former.errors import UserError
from mask2former.evaluation.curves import read_run, run_names
from mask2former.text import listed, quoted

__all__ = ["Convergence", "RunProgress", "convergence"]

_PREFERRED = ("panoptic/PQ", "instance/AP", "semantic/mIoU")
_SHARES = (50, 90, 95, 99)


@dataclass(frozen=True)
class RunProgress:
    """A metric of one run.

    Attributes:
        name: name of the run.
        steps: number of steps before each of its validations.
        values: the metric at each validation, in percent.
        best: the highest value.
        best_step: where it was first reached.
        reached: the first step with a value that high, by share of the best value in percent.
    """

    name: str
    steps: tuple[int, ...]
    values: tuple[float, ...]
    best: float
    best_step: int
    reached: dict[int, int]


@dataclass(frozen=True)
class Convergence(Curves):
    """A metric over the steps of runs."""

    metric: str
    runs: tuple[RunProgress, ...]

    def curves(self) -> Drawn:
        """A colour for each run."""
        found = {one.name: {self.metric: (one.steps, list(one.values))} for one in self.runs}
        return Drawn(found, [(f"{self.metric}, %", (self.metric,))])


def convergence(runs: Sequence[str | Path], metric: str | None = None) -> Convergence:
    """Read a metric from the validations of runs.

    Args:
        runs: run directories, which may still be in training; their ``metrics.csv`` is read.
        metric: name of its column, for instance ``panoptic/PQ``, no loss; None: the first of PQ, AP and mIoU that all
            have.

    Raises:
        UserError: a run has no values, or the runs do not share the metric, or have none in common.
    """
    if not runs:
        raise UserError("there is no run to compare; give at least one run directory")
    folders = [Path(run) for run in runs]
    found = dict(zip(run_names(folders), map(read_run, folders), strict=True))
    shared = [name for name in next(iter(found.values())) if all(name in series for series in found.values())]
    measured = [name for name in shared if "/" in name]
    chosen = metric or next((name for name in (*_PREFERRED, *measured) if name in measured), None)
    if chosen is None or chosen not in measured:
        if not measured:
            raise UserError("the runs share no metric; give runs that were validated for the same task")
        raise UserError(
            f"{quoted(chosen)} is no metric that all runs have; those that they share: {listed(measured, 10)}"
        )
    rows = []
    for name, series in found.items():
        steps, values = [int(step) for step in series[chosen][0]], series[chosen][1]
        best = max(values)
        reached = {
            share: next(step for step, value in zip(steps, values, strict=True) if value >= best * share / 100)
            for share in _SHARES
            if best > 0
        }
        rows.append(RunProgress(name, tuple(steps), tuple(values), best, steps[values.index(best)], reached))
    return Convergence(chosen, tuple(rows))
