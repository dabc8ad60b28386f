"""The command line: verbs are functions, and what is heavy is imported inside them so that ``--help`` is immediate.

Exit codes: 0 done, 1 failed while running, 2 the request is wrong, 130 stopped by the user. Errors are one sentence on
standard error; ``--debug`` adds the traceback. Everything a verb does can be done from Python without it.
"""

from __future__ import annotations

import contextlib
import inspect
import logging
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from mask2former.errors import RequestError

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress
    from rich.table import Table

__all__ = ["app", "main"]

DEFAULT_MODEL = "scenes-tiny"

# Its module differs from one version of typer to the next; that it is the base of the public class does not.
_CommandLineError: type[Exception] = typer.BadParameter.__mro__[2]
assert _CommandLineError.__name__ == "ClickException"

Task = Literal["panoptic", "instance", "semantic"]
Dtype = Literal["float32", "bfloat16", "float16"]

app = typer.Typer(
    name="mask2former",
    help="Panoptic, instance and semantic segmentation of pictures with Mask2Former.",
    epilog="Start with: mask2former demo",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)

_Device = Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.", rich_help_panel="Machine")]
_Recipe = Annotated[
    str | None,
    typer.Option(help="What an original .pkl or .pth is, for instance coco-panoptic/r50; see: mask2former models."),
]


class _FailedError(Exception):
    """The request was right, but not all of it could be done; the message is for the user. Exit code 1."""


class _StoppedError(Exception):
    """The user pressed Ctrl-C; the message says what was done. Exit code 130."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line with ``arguments`` (by default those of the process) and return the exit code."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    end = words.index("--") if "--" in words else len(words)
    debug = "--debug" in words[:end]  # anywhere, although it belongs to no verb
    words = [word for word in words[:end] if word != "--debug"] + words[end:]
    try:
        return int(app(words, prog_name="mask2former", standalone_mode=False) or 0)
    except (_StoppedError, typer.Abort, KeyboardInterrupt) as stop:
        message, code = f"stopped{f': {stop}' if str(stop) else ''}", 130
    except BrokenPipeError:  # the reader of our output, for instance "head", has seen enough
        sys.stderr.close()  # or the interpreter complains when it flushes
        return 1
    except (RequestError, _CommandLineError) as error:
        if debug:
            raise
        text = error.format_message() if isinstance(error, _CommandLineError) else str(error)  # pyright: ignore[reportAttributeAccessIssue]
        message, code = f"error: {text}", 2
    except Exception as error:
        if debug:
            raise
        text = str(error) if isinstance(error, _FailedError) else _unexpected(error)
        message, code = f"error: {text}", 1
    print(" ".join(message.split()), file=sys.stderr)
    return code


def _unexpected(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return f"{error.strerror}{f': {error.filename}' if error.filename else ''}"
    return f"{type(error).__name__}: {error} (the same command with --debug shows where)"


def _show_version(wanted: bool) -> None:
    if wanted:
        import mask2former

        print(f"mask2former {mask2former.__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", callback=_show_version, is_eager=True)
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    del version, debug  # handled by the callback and by main


# --- verbs -----------------------------------------------------------------------------------------------------------


@app.command(epilog="Example: mask2former demo --seed 7")
def demo(
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the contact sheet.")] = Path("demo"),
    seed: Annotated[int, typer.Option(min=0, help="Other numbers draw other scenes.")] = 0,
    scenes: Annotated[int, typer.Option(min=1, max=10_000, help="How many scenes are measured.")] = 50,
    model: Annotated[str, typer.Option(help="A model trained on scenes: packaged name or file.")] = DEFAULT_MODEL,
    show: Annotated[bool, typer.Option("--open/--no-open", help="Open the picture when done.")] = True,
    device: _Device = "auto",
) -> None:
    """Draw scenes that the packaged model has never seen, segment and measure them, and show the result."""
    from mask2former import demo as demonstration

    console = _console()
    with _stoppable(lambda: "nothing was written"), _progress(console) as progress:
        bar = progress.add_task("loading the model", total=None)
        report = demonstration.run(
            model,
            output,
            seed=seed,
            num_scenes=scenes,
            device=device,
            progress=lambda step, done, total: progress.update(bar, description=step, completed=done, total=total),
        )
    console.print(demonstration.table(report))
    print(f"Contact sheet: {report.sheet}")
    print(f"Next, your own pictures: mask2former predict PICTURES --output results   (model: {DEFAULT_MODEL})")
    print("For photographs, give a trained model: --model FILE [--recipe NAME]; see: mask2former models")
    if show:
        _open(report.sheet)


@app.command(epilog="Example: mask2former predict photos/ --output results --model my.safetensors --task instance")
def predict(
    sources: Annotated[list[Path], typer.Argument(help="Pictures, and folders searched to any depth.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the results; keeps the structure below.")],
    model: Annotated[
        str | None, typer.Option("--model", "-m", help="Packaged name, file or folder.", show_default=DEFAULT_MODEL)
    ] = None,
    recipe: _Recipe = None,
    task: Annotated[
        Task | None, typer.Option("--task", "-t", help="Default: the first of these the model was trained for.")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Segment also what has results there.")] = False,
    coco: Annotated[Path | None, typer.Option(help="Also write one COCO results file for the run.")] = None,
    no_pictures: Annotated[bool, typer.Option("--no-pictures", help="Do not draw the overlays X.png.")] = False,
    score_threshold: Annotated[
        float | None, typer.Option(help="Panoptic: least class probability, 0..1.", rich_help_panel="Settings")
    ] = None,
    overlap_threshold: Annotated[
        float | None,
        typer.Option(help="Panoptic: share of a mask that must stay its own, 0..1.", rich_help_panel="Settings"),
    ] = None,
    max_instances: Annotated[
        int | None, typer.Option(help="Instance: how many candidates.", rich_help_panel="Settings")
    ] = None,
    short_edge: Annotated[
        int | None,
        typer.Option(help="Resize to this shorter side in pixels; 0: not at all.", rich_help_panel="Settings"),
    ] = None,
    long_edge: Annotated[
        int | None, typer.Option(help="Cap of the longer side in pixels.", rich_help_panel="Settings")
    ] = None,
    device: _Device = "auto",
    dtype: Annotated[
        Dtype | None, typer.Option(help="Precision of the whole model; default: as stored.", rich_help_panel="Machine")
    ] = None,
) -> None:
    """Segment pictures: for each X an overlay X.png, exact maps, and X.json, written last.

    What has an X.json is skipped, so a stopped run goes on where it was. The exact maps are X_ids.png (panoptic,
    id = R + 256 G + 65536 B) and X_labels.png (semantic, class indices).
    """
    from mask2former.inference import files

    console = _console()
    jobs = files.plan(sources, output)
    if coco is not None:
        files.check_file(coco)

    from mask2former.inference.predictor import Predictor

    settings = {
        "score_threshold": score_threshold,
        "overlap_threshold": overlap_threshold,
        "max_instances": max_instances,
        "short_edge": short_edge,
        "long_edge": long_edge,
    }
    given = {name: value for name, value in settings.items() if value is not None}
    name = model or DEFAULT_MODEL
    with _stoppable(lambda: "nothing was written"):
        predictor = Predictor.from_pretrained(name, recipe, device, dtype, **given)
        chosen = predictor.choose_tasks(task)[0]
    if model is None:
        print(f"Model: {name} (packaged; it knows drawn scenes, not photographs; choose another with --model)")

    counts = {"done": 0, "skipped": 0, "refused": 0, "failed": 0, "differs": 0}
    reasons: list[str] = []

    def so_far() -> str:
        done = f"{_count(counts['done'], 'picture')} of {len(jobs)} segmented into {output}"
        return f"{done}; the same command goes on from there"

    with _stoppable(so_far), _progress(console) as progress:
        for outcome in progress.track(
            files.segment_files(predictor, jobs, chosen, model=name, overlay=not no_pictures, overwrite=overwrite),
            total=len(jobs),
            description=chosen,
        ):
            counts[outcome.status] += 1
            counts["differs"] += outcome.differs
            if outcome.reason:
                reasons.append(outcome.reason)
                if len(jobs) > 1:
                    progress.console.print(
                        f"failed: {outcome.reason}", style="red", markup=False, highlight=False, soft_wrap=True
                    )
        if coco is not None and len(reasons) < len(jobs):
            files.write_json(coco, files.coco_results(jobs, chosen, predictor.categories))

    if counts["refused"] == len(jobs):  # nothing was right about the request
        more = f" (and {len(reasons) - 1} more: no picture could be segmented)" if len(reasons) > 1 else ""
        raise RequestError(reasons[0] + more)
    line = f"{_count(counts['done'], 'picture')} segmented ({chosen}, {name}) into {output}"
    if counts["skipped"]:
        line += f"; {counts['skipped']} skipped, their results were there"
    if counts["differs"]:
        line += f" ({counts['differs']} by another model or with other settings; --overwrite makes them anew)"
    if coco is not None:
        line += f"; COCO results: {coco}"
    print(line)
    if reasons:
        listed = "; ".join(reasons[:10]) + (f"; and {len(reasons) - 10} more (see above)" if len(reasons) > 10 else "")
        raise _FailedError(f"{_count(len(reasons), 'picture')} of {len(jobs)} failed: {listed}")


@app.command(epilog="Example: mask2former train run.yaml optim.lr=2e-4 trainer.max_steps=500")
def train(
    run: Annotated[Path, typer.Argument(metavar="RUN.yaml", help="A run file; mask2former recipe NAME prints one.")],
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="KEY.SUB=VALUE", help="Settings that replace those of the file.")
    ] = None,
    resume: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Go on from the last checkpoint in this run directory.")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Use a directory that holds another run.")] = False,
) -> None:
    """Train a model as a run file says."""
    values = _read_run_file(run, overrides or [])
    if resume is not None:
        values["output"] = str(resume)

    from mask2former.config import RunConfig, parse

    config = parse(RunConfig, values, str(run))
    _need_lightning()
    from mask2former.inference.files import check_folder

    check_folder(Path(config.output))
    from mask2former.training.run import train as train_model

    # Ours is the process here: its tips and device lists would bury what we say. Importing it has set its levels.
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)

    def stopped() -> str:
        if (Path(config.output) / "checkpoints" / "last.ckpt").exists():
            return f"the last checkpoint is in {config.output}; go on with --resume {config.output}"
        return f"there was no checkpoint yet (one every {config.trainer.checkpoint_every} steps)"

    with _stoppable(stopped):
        result = train_model(config, resume=resume is not None, overwrite=overwrite)
    print(result)


@app.command(epilog="Example: mask2former recipe scenes-tiny > run.yaml")
def recipe(
    name: Annotated[str | None, typer.Argument(help="Without it, the names are listed.")] = None,
) -> None:
    """Print the complete run file of a recipe, to be redirected into a file and edited."""
    from mask2former.recipes import run_recipes

    runs = run_recipes()
    if name is None:
        print("\n".join(sorted(runs)))
        return
    if name not in runs:
        raise RequestError(f"no run recipe '{name}'; there are: {', '.join(sorted(runs))}")
    import yaml

    for line in inspect.cleandoc(runs[name].__doc__ or "").splitlines():
        print(f"# {line}".rstrip())
    sys.stdout.write(yaml.safe_dump(runs[name]().model_dump(mode="json"), sort_keys=False))


@app.command()
def models() -> None:
    """List what can be loaded: packaged models, and the published ones whose files can be given."""
    from mask2former import checkpoints, recipes

    print("Packaged (--model NAME):")
    for name in checkpoints.packaged_names() or ("none",):
        print(f"  {name}")
    print("Published (download the file, then --model FILE --recipe NAME; weights are CC BY-NC 4.0):")
    for name in recipes.recipe_names():
        known = recipes.recipe(name)
        kind = "clips" if known.is_video else "/".join(known.model.inference.tasks)
        print(f"  {name:<32}{kind}")
    print("Your own: a .safetensors file or folder that training or save_pretrained wrote (--model PATH).")


@app.command("inspect", epilog="Example: mask2former inspect model_final.pkl")
def inspect_checkpoint(
    checkpoint: Annotated[str, typer.Argument(help="Packaged name, file or folder.")],
    recipe: _Recipe = None,
) -> None:
    """Say what a checkpoint is: format, architecture, settings, classes, size, and the recipes it fits."""
    from mask2former.inference.facts import checkpoint_facts

    with _stoppable(lambda: "nothing was changed"):
        facts = checkpoint_facts(checkpoint, recipe)
    width = max(len(name) for name in facts)
    for name, value in facts.items():
        print(f"{name:<{width}}  {value}")


@app.command(epilog="Example: mask2former evaluate runs/mine/model.safetensors --tasks instance --boundary")
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
    device: _Device = "auto",
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
    console = _console()
    with _stoppable(lambda: "nothing was written"), contextlib.ExitStack() as stack:
        progress = stack.enter_context(_progress(console))
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
    line = f"{_count(report.num_images, 'picture')} measured ({model}), {rate:.1f} per second: "
    line += ", ".join(
        f"{name.split('/')[1]} {report.metrics[name]:.2f}" for name in _HEADLINES if name in report.metrics
    )
    if json is not None:
        measures = metrics.model_dump(mode="json", include={"max_detections", *options})
        request = {"model": model, **source, "tasks": list(chosen), "settings": measures}
        files.write_json(json, {**request, **report.to_dict()})
        line += f"; metrics: {json}"
    if writer is not None:
        line += f"; {_count(writer.count, 'result')}: {writer.path}"
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


# --- shared steps ----------------------------------------------------------------------------------------------------


def _read_run_file(path: Path, overrides: list[str]) -> dict[str, Any]:
    """The settings of a run file, with overrides.

    Raises:
        RequestError: the file cannot be read as YAML, or an override has the wrong form.
    """
    import yaml

    from mask2former.config import apply_overrides

    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise RequestError(f"there is no run file '{path}'; mask2former recipe scenes-tiny prints one") from error
    except OSError as error:
        raise RequestError(f"cannot read the run file '{path}': {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise RequestError(f"'{path}' is no text file; expected a run file in YAML") from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f" at line {mark.line + 1}" if mark else ""
        raise RequestError(f"'{path}' is not valid YAML{place}: {getattr(error, 'problem', None) or error}") from error
    if not isinstance(values, dict):
        raise RequestError(f"'{path}': expected a mapping of settings, got {type(values).__name__}")
    return apply_overrides(values, overrides)


def _need_lightning() -> None:
    from importlib.util import find_spec

    if find_spec("lightning") is None:
        from mask2former.errors import MissingExtraError

        raise MissingExtraError("lightning", "train")


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _console() -> Console:
    from rich.console import Console

    return Console()


def _progress(console: Console) -> Progress:
    """A bar that vanishes when done; nothing where the output is no terminal."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*columns, console=console, transient=True, disable=not console.is_terminal)


@contextlib.contextmanager
def _stoppable(what_was_done: Callable[[], str]) -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt as interrupt:
        raise _StoppedError(what_was_done()) from interrupt


def _open(path: Path) -> None:
    """Show a file where there is a screen and somebody in front of it."""
    import os

    has_screen = sys.platform in ("darwin", "win32") or "DISPLAY" in os.environ or "WAYLAND_DISPLAY" in os.environ
    if has_screen and sys.stdout.isatty():
        typer.launch(str(path))
