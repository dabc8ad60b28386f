"""Checks your own data before training, in one call: recognised, read completely, drawn, and a run suggested for it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mask2former import recipes
from mask2former.checkpoints.checkpoint import Checkpoint
from mask2former.checkpoints.initial import named_backbone, open_initial, open_replacement, with_initial
from mask2former.config import ClipSampling, DatasetConfig, InferenceConfig, Reading, RunConfig, parse
from mask2former.data.sources import dataset_by_name, files_named_in, reading_outside
from mask2former.dataset_tools.check import check_dataset
from mask2former.dataset_tools.contact_sheet import sheet as draw_sheet
from mask2former.dataset_tools.data_paths import DataPaths, refuse_paths
from mask2former.dataset_tools.figures import DataReport
from mask2former.dataset_tools.infer_format import infer_format
from mask2former.dataset_tools.reading import default_workers
from mask2former.dataset_tools.suggest import run_file as run_file_of
from mask2former.dataset_tools.suggest import suggest_config as suggest_run
from mask2former.errors import OptionError, UserError
from mask2former.files import check_outputs, write_whole
from mask2former.notes import collect_notes
from mask2former.progress import Progress, silent
from mask2former.results_io.json import write_json
from mask2former.structures import ModelInfo
from mask2former.value_range import ValueRange

__all__ = ["DataCheck", "check_data"]


@dataclass(frozen=True)
class DataCheck:
    """What was found, and which files were written.

    Attributes:
        dataset: the data set, as a run file names it.
        report: figures and findings.
        notes: what was assumed, one sentence each.
        sheet: the contact sheet; None if it was not requested, or nothing could be drawn.
        suggested: the suggested run file; None if it was not requested, or the data cannot be used.
        reasons: for its settings, one sentence each.
    """

    dataset: DatasetConfig
    report: DataReport
    notes: tuple[str, ...]
    sheet: Path | None
    suggested: Path | None = None
    reasons: tuple[str, ...] = ()


def check_data(
    data: str | Path | DatasetConfig | RunConfig,
    paths: DataPaths | None = None,
    *,
    allow_outside: bool = False,
    root: str | Path | None = None,
    num_queries: int | None = None,
    value_range: ValueRange | None = None,
    bands: Sequence[int] | None = None,
    sheet: str | Path | None = None,
    suggest: str | Path | None = None,
    json: str | Path | None = None,
    num_workers: int | None = None,
    progress: Progress = silent,
) -> DataCheck:
    """Read a data set completely; what ``mask2former check-data`` does.

    Args:
        data: a run file, a file or folder in one of the formats of ``docs/data-formats.md``, the name of a published
            data set, or a configuration.
        paths: parts that cannot be found from the path alone.
        allow_outside: also read images that annotations name outside the image folder.
        root: the folder that holds the published data sets.
        num_queries: of the model to be trained; by default that of the run, or 100 (for each tile where the suggested
            model segments tile by tile).
        value_range: of that model, as the inference setting of this name; by default that of the run.
        bands: likewise.
        sheet: draw annotated images on a contact sheet, this PNG file.
        suggest: also write a run file to start from, to this path.
        json: also write all figures to this file.
        num_workers: processes that read; the default depends on the processors of the machine.
        progress: called with the split, and the numbers of images read and in total.

    Raises:
        UserError: there is no such data, arguments contradict each other, or a file cannot be written. Faults in the
            data are not errors but findings of the report.
    """
    given = {"sheet": sheet, "suggest": suggest, "json": json}
    outputs = {name: Path(path) for name, path in given.items() if path is not None}
    source = data if isinstance(data, str | Path) else type(data).__name__
    check_outputs(outputs.items(), [source])
    if (run_file := outputs.get("suggest")) is not None and run_file.exists():  # it may have been edited since
        raise OptionError(
            lambda name: (
                f"{name('suggest')} '{run_file}' already exists and is not overwritten; choose another file, or remove "
                "it"
            )
        )
    dataset, run, notes = _inferred(data, paths, root)
    check_outputs(outputs.items(), files_named_in(dataset.model_dump(mode="json")))
    if suggest is not None and isinstance(dataset, ClipSampling):
        raise OptionError(
            lambda name: (
                f"{name('suggest')} writes run files for images only; for clips start from 'mask2former "
                "recipe ytvis2019-instance/r50'"
            )
        )
    if allow_outside:
        dataset = reading_outside(dataset, str(source))
    reading = _reading(run, value_range, bands)
    with collect_notes():  # these are findings; reading again, to draw, would repeat them
        report = check_dataset(
            dataset,
            run=run,
            num_queries=num_queries,
            num_workers=default_workers() if num_workers is None else num_workers,
            progress=progress,
            **reading,
        )
        drawn = None
        if sheet is not None:
            progress("drawing", 0, None)
            title = Path(source).stem if os.path.exists(source) else str(source)
            drawn = draw_sheet(dataset, title, **reading)
    if sheet is not None and drawn is not None:
        write_whole(Path(sheet), lambda temporary: drawn.save(temporary, format="PNG"))
    if json is not None:
        write_json(json, {"data": str(source), "dataset": dataset.model_dump(mode="json"), **report.to_dict()})
    done = DataCheck(dataset, report, tuple(notes), Path(sheet) if sheet is not None and drawn is not None else None)
    train = report.splits.get("train")
    is_beyond_use = report.is_broken and (train is None or not train.objects.any())  # the findings come last
    if suggest is None or is_beyond_use:
        return done
    suggested, reasons = suggest_run(dataset, report, **reading)
    text = run_file_of(suggested, reasons, str(source))
    write_whole(Path(suggest), lambda temporary: temporary.write_text(text, encoding="utf-8"))
    return replace(done, suggested=Path(suggest), reasons=tuple(reasons))


def _reading(run: RunConfig | None, value_range: ValueRange | None, bands: Sequence[int] | None) -> Reading:
    """How images are read: as in the run, except for what is given here."""
    given: dict[str, Any] = {"value_range": value_range, "bands": None if bands is None else tuple(bands)}
    known: dict[str, Any] = {} if run is None else dict(run.model.inference.reading)
    values = known | {name: value for name, value in given.items() if value is not None}
    return parse(InferenceConfig, values, "how images are read").reading


def _inferred(
    data: str | Path | DatasetConfig | RunConfig, paths: DataPaths | None, root: str | Path | None
) -> tuple[DatasetConfig, RunConfig | None, list[str]]:
    """The data set, its run if it comes from one, and what was assumed."""
    notes: list[str] = []
    if not isinstance(data, str | Path):
        refuse_paths(paths or DataPaths(), "a configuration")
        found = data
    elif isinstance(data, Path) or os.path.exists(data) or Path(data).suffix:
        found, notes = infer_format(Path(data), paths or DataPaths())
    else:
        refuse_paths(paths or DataPaths(), f"the data set '{data}'")
        found = dataset_by_name(data, None if root is None else Path(root), lambda: "panoptic")
    if not isinstance(found, RunConfig):
        return found, None, notes
    run, told = _with_start(found)
    return found.data.dataset, run, notes + told


def _with_start(run: RunConfig) -> tuple[RunConfig, list[str]]:
    """The run with the settings of the model that it starts from, as ``train`` uses them, and remarks about them."""
    init, other = run.model.init, run.model.init_backbone
    if init is None:
        return run, []
    try:
        # The settings of a published model are known without its weights, which may need a download.
        if init in recipes.recipe_names():
            source = Checkpoint(ModelInfo.of(recipes.recipe(init).model), {}, init)
        else:
            source = open_initial(init, named_backbone(run.model))
        backbone = None if other is None else open_replacement(init, source, other, named_backbone(run.model))
        model = with_initial(run.model, source, init, backbone)
        return run.model_copy(update={"model": model}), []
    except UserError as error:
        names = f"model.init '{init}'" + ("" if other is None else f" and model.init_backbone '{other}'")
        return run, [f"the settings of {names} cannot be read, so only those of the run file are checked: {error}"]
