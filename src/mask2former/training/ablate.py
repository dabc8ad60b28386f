"""The paper's ablations on your own run: one training run for each row and seed, with a table and a figure of them.

Each one is an ordinary run; finished runs are read, and interrupted ones are resumed.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mask2former import recipes
from mask2former.config import EvaluationConfig, RunConfig, apply_overrides, changed, leaves, parse
from mask2former.documents import read_json
from mask2former.errors import OptionError, UserError, prefixed
from mask2former.evaluation.curves import plot_changes
from mask2former.files import write_whole
from mask2former.notes import note
from mask2former.progress import DetailedProgress
from mask2former.recipes import BASES, ROWS, SINCE, ablated
from mask2former.text import did_you_mean, listed, quoted
from mask2former.training import need_lightning
from mask2former.training.run_file import read_run

__all__ = ["BASELINE", "METRICS", "AblationRow", "ablate", "base_run", "draw", "scenes_base"]

BASELINE = "baseline"
METRICS = {"PQ": "panoptic/PQ", "AP": "instance/AP", "mIoU": "semantic/mIoU"}
"""Metrics of the paper, and their names in this library."""
_SET_HERE = {"seed": "seeds", "output": "output"}  # settings, and the arguments that determine them
_FOR_TRAINING = (".dropout", ".pilots", ".tasks")  # settings without which a trained model predicts the same


@dataclass(frozen=True)
class AblationRow:
    """Results of the training runs of a row.

    Attributes:
        name: name of the row; :data:`BASELINE` is the run without a change.
        settings: the settings that the row changes.
        metrics: by seed, at the end of training, in percent.
        paper: results in the paper: AP, PQ and mIoU.
    """

    name: str
    settings: dict[str, Any]
    metrics: dict[int, dict[str, float]]
    paper: dict[str, float]

    def spread(self, metric: str) -> tuple[float, float, float] | None:
        """Mean, minimum and maximum of a metric over the seeds; None if it was not measured."""
        values = [measured[metric] for measured in self.metrics.values() if metric in measured]
        return (statistics.fmean(values), min(values), max(values)) if values else None

    def changes(self, metric: str, baseline: AblationRow) -> list[float]:
        """Difference of each seed from the baseline with the same seed, for seeds that both have."""
        pairs = ((measured, baseline.metrics.get(seed, {})) for seed, measured in sorted(self.metrics.items()))
        return [measured[metric] - plain[metric] for measured, plain in pairs if metric in measured and metric in plain]

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form."""
        names = sorted({name for measured in self.metrics.values() for name in measured})
        spreads = {name: self.spread(name) for name in names}
        of_seeds = {str(seed): measured for seed, measured in self.metrics.items()}
        return {"settings": self.settings, "paper": self.paper, "spread": spreads, "metrics": of_seeds}


def base_run(source: str | Path, overrides: Sequence[str] = (), steps: int | None = None) -> RunConfig:
    """The run of :func:`ablate` that rows change, with overrides.

    Args:
        source: ``scenes`` for :func:`scenes_base`, or the path of a run file.
        overrides: ``key.sub=value``, which replace settings of it.
        steps: steps of each training run; None: as in ``source``.

    Raises:
        UserError: the file or an override is wrong, an override sets what :func:`ablate` sets, or the steps are given
            twice.
    """
    given = {override.partition("=")[0]: override for override in overrides}
    if taken := [setting for setting in _SET_HERE if setting in given]:
        option = _SET_HERE[taken[0]]
        raise OptionError(lambda name: f"{taken[0]} is set for each training; choose {name(option)} instead")
    if steps is not None and (twice := given.get("trainer.max_steps")):
        raise OptionError(
            lambda name: f"{name('steps')} {steps} and the override {twice} set the same; give only one of them"
        )
    if source == "scenes":
        settings = (scenes_base() if steps is None else scenes_base(steps)).model_dump(mode="json")
        return parse(RunConfig, apply_overrides(settings, overrides), "scenes", overrides)
    length = [] if steps is None else [f"trainer.max_steps={steps}"]
    return read_run(Path(source), [*overrides, *length])


def scenes_base(steps: int = 1000) -> RunConfig:
    """The base run of ``mask2former ablate scenes``: that of ``scenes-tiny-start``, measured for all tasks.

    Args:
        steps: steps of each training run, whose schedule has this length.
    """
    evaluation = EvaluationConfig(
        interval=steps, tasks=("panoptic", "instance", "semantic"), num_images=0, choose_threshold=False
    )
    changes = {
        "optim.schedule_steps": None,
        "trainer.max_steps": steps,
        "trainer.checkpoint_interval": min(steps, 250),
        "evaluation": evaluation,
    }
    return changed(recipes.scenes_tiny_start(), changes)


def ablate(
    base: RunConfig,
    output: str | Path,
    rows: Sequence[str] = (),
    seeds: int = 3,
    tell: Callable[[str, int, int], object] = lambda what, done, total: None,
    progress: DetailedProgress | None = None,
) -> list[AblationRow]:
    """Train the baseline and each row with the same steps and seeds.

    All rows are trained with one seed before the next seed, so there is a table early on. ``ablations.json`` in
    ``output`` is written after each training run and keeps results of earlier calls; a call with the same arguments
    resumes an interrupted one. Results in that file are not measured again, so the folders of finished training runs
    can be deleted; if none is missing, the data is not read.

    Args:
        base: the run that rows change; its ``seed`` and ``output`` are replaced.
        output: folder for all training runs, each in ``ROW/seed-N``.
        rows: names of :data:`~mask2former.recipes.ROWS`; if empty, all of the paper that the run's tasks can measure.
        seeds: number of training runs of each row, with seeds 0, 1, ...
        tell: called before each training run with its name, the number of finished runs, and the total number.
        progress: progress of each training run, see :func:`~mask2former.training.run.train`.

    Returns:
        The baseline, the rows of this call, and other rows with results in ``output``, all with every available seed.

    Raises:
        UserError: there is no such row, the run's decoder cannot be changed by rows, a row cannot be trained with the
            run's other settings or cannot start from its initial model, or the folder contains training runs with
            other settings.
        MissingExtraError: Lightning is not installed.
    """
    if unknown := [name for name in rows if name not in ROWS]:
        hint = did_you_mean(unknown[0], ROWS) or f"expected one of {listed(list(ROWS), None)}"
        raise UserError(f"there is no ablation {quoted(unknown[0])}; {hint}")
    if not (is_semantic := "semantic" in base.evaluation.tasks):
        for name in rows:
            if ROWS[name].is_semantic:
                raise UserError(f"{name} classifies pixels, so the run must measure semantic (evaluation.tasks)")
    if seeds < 1:
        raise UserError(f"seeds must be 1 or more, got {seeds}")
    folder, families = Path(output), list(BASES.values())
    table = {BASELINE: AblationRow(BASELINE, {}, {}, dict(families))}
    of_paper = [name for name, row in ROWS.items() if name not in SINCE and (is_semantic or not row.is_semantic)]
    for name in rows or of_paper:
        table[name] = AblationRow(name, ROWS[name].described, {}, ROWS[name].paper)
    runs = {name: base if name == BASELINE else ablated(base, ROWS[name]) for name in table}
    jobs = [(seed, name) for seed in range(seeds) for name in table]
    finished, before = _finished(folder / "ablations.json", base)
    for row in finished:
        known = table.setdefault(row.name, row)
        if known.settings != row.settings:
            raise UserError(
                f"{folder} contains trainings of {row.name} with other settings ({_described(row.settings)}; now "
                f"{_described(known.settings)}); choose another output folder"
            )
        known.metrics.update(row.metrics)
    missing = {name: runs[name] for seed, name in jobs if seed not in table[name].metrics}
    if not missing:  # then neither the data nor a package for training is needed
        return list(table.values())
    need_lightning()
    from mask2former.training.data_state import data_state
    from mask2former.training.run import train

    data = _checked(folder, before, data_state(base.data), is_begun=bool(finished))
    _check_start(missing)
    for done, (seed, name) in enumerate(jobs):
        if seed in table[name].metrics:
            continue
        directory = folder / name / f"seed-{seed}"
        tell(f"{name}, seed {seed}", done, len(jobs))
        run = changed(runs[name], {"seed": seed, "output": str(directory)})
        try:
            result = train(run, resume=(directory / "checkpoints" / "last.ckpt").is_file(), progress=progress)
        except UserError as error:
            raise UserError(f"{name}, seed {seed}: {error}") from error  # its options are not those of this call
        table[name].metrics[seed] = result.metrics
        _write(folder / "ablations.json", base, data, list(table.values()))
    return list(table.values())


def _check_start(runs: Mapping[str, RunConfig]) -> None:
    """Refuse rows that cannot start, before the first one is trained, and note those that start behind the baseline."""
    from mask2former.checkpoints import Checkpoint
    from mask2former.checkpoints.transfer import UnfitError
    from mask2former.models.build import build_model
    from mask2former.training.start import prepare_for_training, with_start

    is_model = False
    for name, run in runs.items():
        try:
            complete, start = with_start(run, None, None)
            prepare_for_training(build_model(complete.model, num_classes=1), complete.trainer)
        except UnfitError as error:
            if name == BASELINE:
                raise prefixed(name, error) from error
            raise UserError(  # these settings are those of the row, which the user cannot leave out
                f"{name}: {error.fault}; choose other rows, or start all rows from a backbone or from random weights "
                f"(model.init=null){error.partly}"
            ) from error
        except UserError as error:
            raise prefixed(name, error) from error
        is_model |= isinstance(start.source, Checkpoint)  # otherwise a backbone, from which all rows start alike
    rows = [name for name in runs if name != BASELINE]
    others = [name for name in rows if any(map(_changes_prediction, ROWS[name].settings))]
    if is_model and others:
        note(
            f"rows that change the attention or a part with which model.init, {runs[others[0]].model.init}, was "
            "trained start behind the baseline; without model.init, or from a backbone, all rows start alike",
            f"{len(others)} of {len(rows)} rows: {listed(others, None)}",
        )


def _changes_prediction(setting: str) -> bool:
    """Whether a model with the same weights predicts something else, or has other weights."""
    return setting.startswith("model.") and not setting.endswith(_FOR_TRAINING)


def draw(table: Sequence[AblationRow], path: str | Path) -> None:
    """Draw the changes of all rows from the baseline, beside those in the paper.

    Args:
        table: as returned by :func:`ablate`; the baseline is first.
        path: PNG, SVG or PDF, by its suffix.

    Raises:
        UserError: the path has another suffix, or cannot be written.
        MissingExtraError: matplotlib is not installed.
    """
    baseline, *rows = table
    columns, spreads = {}, {}
    for title, metric in METRICS.items():
        if (spread := baseline.spread(metric)) is not None:
            mean, least, most = spread
            spreads[title] = max(mean - least, most - mean)
            columns[title] = [
                (
                    row.changes(metric, baseline),
                    row.paper[title] - baseline.paper[title] if title in row.paper else None,
                )
                for row in rows
            ]
    plot_changes([row.name for row in rows], columns, spreads, path)


def _checked(folder: Path, before: object, now: dict[str, str], *, is_begun: bool) -> dict[str, str] | None:
    """The record of the data that is true of all rows of a folder; None if it is not known for those finished before.

    Raises:
        UserError: the data has changed since; the message says how.
    """
    if not isinstance(before, dict):
        if is_begun:
            note("tables of ablations without a record of their data, which may have changed since", f"'{folder}'")
            return None
        return now
    if others := [name for name in {**before, **now} if before.get(name) != now.get(name)]:
        raise UserError(
            f"{folder} contains trainings with other data (changed since: {listed(others, 4)}); choose another output "
            "folder, or restore the data"
        )
    return now


def _finished(path: Path, base: RunConfig) -> tuple[list[AblationRow], object]:
    """Rows with results of earlier calls, and the state of their data; runs with other settings are refused."""
    if not path.exists():
        return [], None
    values = read_json(path, "table of ablations")
    before = values.get("run") if isinstance(values, dict) else None
    if not isinstance(before, dict):
        raise UserError(f"{path} is not a table of ablations; choose another output folder")
    old, new = (leaves(config) for config in (parse(RunConfig, before, str(path)), base))
    others = [
        f"{name} was {old.get(name)} and is {value}"
        for name, value in new.items()
        if old.get(name) != value and name not in _SET_HERE
    ]
    if others:
        raise UserError(
            f"{path.parent} contains trainings with other settings ({listed(others, 4)}); choose another output "
            "folder, or restore the settings"
        )
    try:
        rows = [
            AblationRow(
                name,
                dict(row["settings"]),
                {int(seed): _numbers(measured) for seed, measured in row["metrics"].items()},
                _numbers(row["paper"]),
            )
            for name, row in values["rows"].items()
        ]
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"{path} contains rows that do not belong to a table of ablations; choose another output folder"
        ) from error
    return [row for row in rows if row.metrics], values.get("data")


def _numbers(values: dict[str, Any]) -> dict[str, float]:
    return {name: float(value) for name, value in values.items()}


def _described(settings: dict[str, Any]) -> str:
    return listed([f"{name}={value}" for name, value in settings.items()], 4) or "none"


def _write(path: Path, base: RunConfig, data: Mapping[str, str] | None, table: Sequence[AblationRow]) -> None:
    values = {
        "steps": base.trainer.max_steps,
        "seeds": len({seed for row in table for seed in row.metrics}),
        "metrics": METRICS,
        "run": base.model_dump(mode="json"),
        "data": data,
        "rows": {row.name: row.to_dict() for row in table},
    }
    text = json.dumps(values, indent=1) + "\n"
    write_whole(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))
