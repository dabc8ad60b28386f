"""Measuring a model: ``mask2former evaluate``."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from mask2former.cli.data_sets import dataset_by_name
from mask2former.cli.names import complete_model
from mask2former.cli.report import Tta, TtaSizes, augmented, write_page
from mask2former.cli.shared import (
    Device,
    count,
    fetch_weights,
    make_console,
    progress_bar,
    stoppable,
)
from mask2former.errors import RequestError

if TYPE_CHECKING:
    from rich.table import Table

    from mask2former.data.annotated import AnnotatedSet

__all__ = ["class_table", "evaluate"]


def evaluate(
    model: Annotated[
        str,
        typer.Argument(
            help="Name (see: mask2former models), file, folder, or hf://owner/name.", autocompletion=complete_model
        ),
    ],
    data: Annotated[
        str | None,
        typer.Option(
            metavar="NAME[:TASK]",
            help="scenes or scene-clips (built in), coco, coco-stuff-10k, ade20k, ade20k-full, cityscapes, "
            "mapillary-vistas, youtube-vis:YEAR; RUN.yaml for the data of a run file.",
            show_default="scenes",
        ),
    ] = None,
    data_root: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Holds the data sets.", show_default="$MASK2FORMER_DATA or ./datasets"),
    ] = None,
    split: Annotated[Literal["validation", "train"], typer.Option(help="Which part of the data.")] = "validation",
    annotations: Annotated[
        Path | None,
        typer.Option(metavar="FILE.json", help="Your data: objects in COCO's format, or tracks in YouTube-VIS format."),
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
        tuple[int, int] | None,
        typer.Option(
            metavar="PX PX",
            help="Instance: where medium and large objects begin.",
            show_default="1024 9216, of clips 16384 65536",
        ),
    ] = None,
    boundary: Annotated[
        bool, typer.Option("--boundary", help="Also boundary PQ, AP and IoU, which look at outlines (takes longer).")
    ] = False,
    pooled: Annotated[
        float | None,
        typer.Option(metavar="SCORE", help="Instance: also TP/(TP+FP+FN) of objects above SCORE (DSB 2018)."),
    ] = None,
    json: Annotated[Path | None, typer.Option("--json", "--output", "-o", help="Also write the metrics here.")] = None,
    results: Annotated[
        Path | None,
        typer.Option(
            help="Also write the results as test servers take them: of several tasks the instances. A .json file; for "
            "label maps, and for Cityscapes' instances, a folder."
        ),
    ] = None,
    report_folder: Annotated[
        Path | None,
        typer.Option("--report", metavar="DIR", help="Also write DIR/index.html: numbers, charts and pictures."),
    ] = None,
    tta: Tta = False,
    tta_sizes: TtaSizes = None,
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
    """Measure a model: panoptic quality, average precision and mean IoU, in percent.

    Clips (--data scene-clips or youtube-vis:2019, --annotations in YouTube-VIS format or a folder of id maps) are
    measured by the average precision of tracks.
    """
    from mask2former.inference import files

    page = None if report_folder is None else report_folder / "index.html"
    for path in (json, results, page):
        if path is not None:
            (files.check_folder if path is results and path.suffix != ".json" else files.check_file)(path)
    if json is not None and results is not None and json.resolve() == results.resolve():
        raise RequestError(f"--json and --results would both write '{json}'; name two files")

    if (annotations is None) != (images is None):
        raise RequestError("--annotations FILE.json and --images DIR belong together; give both, or neither for scenes")
    if annotations is not None:
        for option, value in (("--data", data), ("--data-root", data_root)):
            if value is not None:
                raise RequestError(f"{option} and --annotations name different data; give one of the two")
        data = str(annotations)
    from mask2former.cli.clips import clips_by_name, evaluate_on_clips

    clips = clips_by_name(data, data_root, annotations, images, split, seed, size, limit)
    if clips is not None:
        more_views = tta or tta_sizes is not None
        only_pictures = {"--boundary": boundary, "--pooled": pooled is not None, "--tta": more_views}
        for option, given in {**only_pictures, "--report": page is not None}.items():
            if given:
                raise RequestError(f"{option} is about pictures, not about clips")
        evaluate_on_clips(
            model,
            clips,
            {"data": data, "split": split, "images": None if images is None else str(images)},
            tasks=[name for entry in tasks or () for name in entry.split(",")],
            limit=limit,
            max_detections=max_detections,
            area_limits=area_limits,
            json=json,
            results=results,
            device=device,
        )
        return
    if data not in (None, "scenes"):
        for option, value in (("--seed", seed), ("--size", size)):
            if value is not None:
                raise RequestError(f"{option} is about scenes, not about {data}")

    from mask2former.config import EvaluationConfig, parse
    from mask2former.data.build import build_pictures
    from mask2former.data.datasets.coco import CocoInstances
    from mask2former.data.scenes import Scenes
    from mask2former.inference import evaluate as evaluation
    from mask2former.inference.highlights import Highlights
    from mask2former.inference.predictor import Predictor
    from mask2former.inference.result_files import result_writer

    options = {"area_limits": area_limits, "boundary": boundary, "pooled_threshold": pooled}
    metrics = parse(EvaluationConfig, {**options, "max_detections": max_detections or 100}, "evaluate")
    settings: dict[str, Any] = {}
    console = make_console()
    fetch_weights(console, model)
    with stoppable(lambda: "nothing was written"), contextlib.ExitStack() as stack:
        progress = stack.enter_context(progress_bar(console))
        bar = progress.add_task("loading data and model", total=None)
        predictor = augmented(Predictor.from_pretrained(model, device=device), tta, tta_sizes)
        highlights = Highlights(predictor.categories)
        if annotations is not None and images is not None:
            samples: AnnotatedSet = CocoInstances([(annotations, images)])
            source: dict[str, Any] = {"data": "coco", "annotations": str(annotations), "images": str(images)}
        elif data is None or data == "scenes":
            first, side = 1_000_000 if seed is None else seed, size or 128
            samples = Scenes((side, side), seed=first, length=limit or 50)
            source = {"data": "scenes", "seed": first, "size": side}
            settings["short_edge"] = 0  # scenes are drawn at the size that is asked for
        else:
            config = dataset_by_name(data, data_root, predictor.settings.default_task)
            samples = build_pictures(config, split)
            source = {"data": config.model_dump(mode="json"), "split": split}
        classes = samples.categories
        num_images = min(limit or len(samples), len(samples))

        asked = [name for entry in tasks or () for name in entry.split(",")]
        answered = [task for task in predictor.settings.tasks if task in samples.tasks]
        chosen = predictor.choose_tasks(asked or answered or samples.tasks)  # pyright: ignore[reportArgumentType]
        if others := [task for task in chosen if task not in samples.tasks]:
            raise RequestError(f"the data have truths for {', '.join(samples.tasks)}, not {others[0]}")
        if "instance" not in chosen:
            needing = {"--pooled": pooled is not None, "--max-detections": max_detections is not None}
            for option in (name for name, given in needing.items() if given):
                raise RequestError(f"{option} is about instances; add --tasks instance (got {', '.join(chosen)})")
        things_only = all(item.is_thing for item in classes)
        class_map = evaluation.match_classes(predictor.categories, classes, things_only=things_only)
        if max_detections is not None:  # or the model would not give as many
            settings["max_instances"] = max(max_detections, predictor.settings.max_instances)
        writer = None
        if results is not None:
            ids = {int(index): classes[number].id for number, index in enumerate(class_map)}
            kind = "instance" if "instance" in chosen else chosen[0]
            style = samples.metric_style
            writer = stack.enter_context(
                result_writer(kind, results, predictor.categories, category_ids=ids, style=style)
            )

        cases = evaluation.sample_cases(samples, chosen, predictor.categories, class_map, num_images)
        progress.update(bar, description="evaluating", total=num_images, completed=0)
        report = evaluation.evaluate_predictor(
            predictor,
            cases,
            chosen,
            metrics,
            style=samples.metric_style,
            results=writer,
            observe=None if page is None else highlights.add,
            progress=lambda done: progress.update(bar, completed=done),
            **settings,
        )
    remarks = list(samples.notes)
    counts = samples.num_objects if samples.tasks == ("instance",) else None
    if counts is not None and (most := int(counts[:limit].max())) > metrics.max_detections:
        remarks.append(
            f"there are up to {most} objects in one picture, but only {metrics.max_detections} per picture "
            f"and class count; give --max-detections {most} for all"
        )
    for remark in remarks:
        print(f"note: {remark}")
    for task, rows in report.per_class.items():
        console.print(class_table(task, rows))
    for name, value in report.metrics.items():
        print(f"{name:<32}{value:6.2f}")
    rate = report.num_images / max(report.seconds, 1e-9)
    line = f"{count(report.num_images, 'picture')} measured ({model}), {rate:.1f} per second: "
    line += ", ".join(
        f"{name.split('/')[1]} {report.metrics[name]:.2f}" for name in _HEADLINES if name in report.metrics
    )
    measures = metrics.model_dump(mode="json", include={"max_detections", *options})
    request = {"model": model, **source, "tasks": list(chosen), "settings": measures}
    if "tta" in predictor.recorded_settings:
        request["tta"] = predictor.recorded_settings["tta"]
    if page is not None:
        write_page(page, report, predictor, highlights, {**request, "inference": settings})
        line += f"; report: {page}"
    if json is not None:
        files.write_json(json, {**request, **report.to_dict()})
        line += f"; metrics: {json}"
    if writer is not None:
        line += f"; {count(writer.count, 'result')} ({writer.task}): {writer.path}"
    print(line)


_HEADLINES = ("panoptic/PQ", "instance/AP", "instance/boundary_AP", "instance/pooled_AP", "semantic/mIoU")


def class_table(task: str, rows: dict[str, dict[str, float]], most: int = 24) -> Table:
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
