"""Measuring a model: ``mask2former evaluate``."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from mask2former.cli.shared import (
    Device,
    count,
    make_console,
    progress_bar,
    stoppable,
)
from mask2former.errors import RequestError

if TYPE_CHECKING:
    from rich.table import Table

__all__ = ["evaluate"]


def evaluate(
    model: Annotated[str, typer.Argument(help="Packaged name, file or folder.")],
    data: Annotated[
        Literal["scenes"] | None, typer.Option(help="Built-in data that needs no files.", show_default="scenes")
    ] = None,
    annotations: Annotated[
        Path | None, typer.Option(metavar="FILE.json", help="Your data: objects in COCO's instance format.")
    ] = None,
    images: Annotated[Path | None, typer.Option(metavar="DIR", help="The folder of its pictures.")] = None,
    tasks: Annotated[
        list[str] | None,
        typer.Option("--tasks", "--task", "-t", help="Can be repeated; default: all it was trained for."),
    ] = None,
    limit: Annotated[
        int | None,
        typer.Option("--limit", "--scenes", min=1, help="Only so many pictures.", show_default="all, or 50 scenes"),
    ] = None,
    max_detections: Annotated[
        int | None,
        typer.Option(min=1, help="Instance: how many count per picture and class.", show_default="100"),
    ] = None,
    area_limits: Annotated[
        tuple[int, int], typer.Option(metavar="PX PX", help="Instance: where medium and large objects begin.")
    ] = (32**2, 96**2),
    boundary: Annotated[bool, typer.Option("--boundary", help="Instance: also boundary AP (takes longer).")] = False,
    pooled: Annotated[
        float | None,
        typer.Option(metavar="SCORE", help="Instance: also TP/(TP+FP+FN) of objects above SCORE (DSB 2018)."),
    ] = None,
    json: Annotated[Path | None, typer.Option("--json", "--output", "-o", help="Also write the metrics here.")] = None,
    results: Annotated[
        Path | None, typer.Option(help="Instance: also write the results as test servers take them (COCO).")
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option(
            min=0, help="Of the first scene.", show_default="1000000, for validation", rich_help_panel="Scenes"
        ),
    ] = None,
    size: Annotated[
        int | None, typer.Option(min=32, help="Side in pixels.", show_default="128", rich_help_panel="Scenes")
    ] = None,
    device: Device = "auto",
) -> None:
    """Measure a model: panoptic quality, average precision and mean IoU, in percent."""
    from mask2former.inference import files

    for path in (json, results):
        if path is not None:
            files.check_file(path)
    if json is not None and results is not None and json.resolve() == results.resolve():
        raise RequestError(f"--json and --results would both write '{json}'; name two files")

    if (annotations is None) != (images is None):
        raise RequestError("--annotations FILE.json and --images DIR belong together; give both, or neither for scenes")
    if annotations is not None:
        for option, value in (("--data", data), ("--seed", seed), ("--size", size)):
            if value is not None:
                raise RequestError(f"{option} is about scenes, --annotations about your data; give one of the two")

    from mask2former.config import EvaluationConfig, parse
    from mask2former.data.datasets.coco import CocoInstances
    from mask2former.data.scenes import SCENE_CATEGORIES, Scenes
    from mask2former.inference import evaluate as evaluation
    from mask2former.inference.predictor import Predictor

    options = {"area_limits": area_limits, "boundary": boundary, "pooled_threshold": pooled}
    metrics = parse(EvaluationConfig, {**options, "max_detections": max_detections or 100}, "evaluate")
    settings: dict[str, Any] = {}
    console = make_console()
    with stoppable(lambda: "nothing was written"), contextlib.ExitStack() as stack:
        progress = stack.enter_context(progress_bar(console))
        bar = progress.add_task("loading data and model", total=None)
        if annotations is not None and images is not None:
            samples = CocoInstances([(annotations, images)])
            classes = samples.categories
            source: dict[str, Any] = {"data": "coco", "annotations": str(annotations), "images": str(images)}
            remarks = list(samples.notes)
            if (most := int(samples.num_objects[:limit].max())) > metrics.max_detections:
                remarks.append(
                    f"there are up to {most} objects in one picture, but only {metrics.max_detections} per picture "
                    f"and class count; give --max-detections {most} for all"
                )
        else:
            first, side = 1_000_000 if seed is None else seed, size or 128
            samples = Scenes((side, side), seed=first, length=limit or 50)
            classes, remarks = SCENE_CATEGORIES, []
            source = {"data": "scenes", "seed": first, "size": side}
            settings["short_edge"] = 0  # scenes are drawn at the size that is asked for
        num_images = min(limit or len(samples), len(samples))

        predictor = Predictor.from_pretrained(model, device=device)
        asked = [name for entry in tasks or () for name in entry.split(",")]
        if annotations is not None and (others := sorted(set(asked) - {"instance"})):
            raise RequestError(f"--annotations has objects only, which answer the task instance, not {others[0]}")
        chosen = predictor.choose_tasks(asked or ("instance" if annotations else predictor.settings.tasks))  # pyright: ignore[reportArgumentType]
        if "instance" not in chosen:
            needing = {"--results": results is not None, "--boundary": boundary, "--pooled": pooled is not None}
            needing["--max-detections"] = max_detections is not None
            for option in (name for name, given in needing.items() if given):
                raise RequestError(f"{option} is about instances; add --tasks instance (got {', '.join(chosen)})")
        things_only = all(item.is_thing for item in classes)
        class_map = evaluation.match_classes(predictor.categories, classes, things_only=things_only)
        if max_detections is not None:  # or the model would not give as many
            settings["max_instances"] = max(max_detections, predictor.settings.max_instances)
        writer = None
        if results is not None:
            ids = {int(index): classes[number].id for number, index in enumerate(class_map)}
            writer = stack.enter_context(evaluation.ResultsFile(results, ids))

        cases = evaluation.sample_cases(
            (samples[index] for index in range(num_images)), chosen, predictor.categories, class_map
        )
        progress.update(bar, description="evaluating", total=num_images, completed=0)
        report = evaluation.evaluate_predictor(
            predictor,
            cases,
            chosen,
            metrics,
            results=writer,
            progress=lambda done: progress.update(bar, completed=done),
            **settings,
        )
    for remark in remarks:
        print(f"note: {remark}")
    for task, rows in report.per_class.items():
        console.print(_class_table(task, rows))
    for name, value in report.metrics.items():
        print(f"{name:<32}{value:6.2f}")
    rate = report.num_images / max(report.seconds, 1e-9)
    line = f"{count(report.num_images, 'picture')} measured ({model}), {rate:.1f} per second: "
    line += ", ".join(
        f"{name.split('/')[1]} {report.metrics[name]:.2f}" for name in _HEADLINES if name in report.metrics
    )
    if json is not None:
        measures = metrics.model_dump(mode="json", include={"max_detections", *options})
        request = {"model": model, **source, "tasks": list(chosen), "settings": measures}
        files.write_json(json, {**request, **report.to_dict()})
        line += f"; metrics: {json}"
    if writer is not None:
        line += f"; {count(writer.count, 'result')}: {writer.path}"
    print(line)


_HEADLINES = ("panoptic/PQ", "instance/AP", "instance/boundary_AP", "instance/pooled_AP", "semantic/mIoU")


def _class_table(task: str, rows: dict[str, dict[str, float]], most: int = 24) -> Table:
    """Metrics by class, in the order of the classes; of many only the best and the worst by the first metric."""
    from rich.table import Table

    defined = {name: values for name, values in rows.items() if any(value == value for value in values.values())}
    absent = len(rows) - len(defined)
    table = Table(title=f"{task}, percent", caption=f"{absent} more without true objects" if absent else None)
    table.add_column("class")
    for name in next(iter(rows.values()), {}):
        table.add_column(name, justify="right")
    shown: list[tuple[str, dict[str, float]] | None] = list(defined.items())
    if len(shown) > most:
        falling = sorted(defined.items(), key=lambda row: -next(iter(row[1].values())))
        shown = [*falling[: most // 2], None, *falling[-(most // 2) :]]
    for row in shown:
        if row is None:
            table.add_row(f"({len(defined) - most} between)", style="dim")
        else:
            table.add_row(row[0], *("-" if value != value else f"{value:.2f}" for value in row[1].values()))
    return table
