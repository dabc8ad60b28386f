"""Output for people: the page of an evaluation and the curves of training runs, and the commands that make them."""

from __future__ import annotations

import base64
import io
import json
import re
from collections.abc import Iterator
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from runs import Finished

from mask2former.cli import main
from mask2former.config import InferenceConfig, Task
from mask2former.data.datasets.scenes import Scenes
from mask2former.data.transforms import shortest_edge_size
from mask2former.evaluation.cases import Cases, match_classes
from mask2former.evaluation.evaluate import evaluate_predictor
from mask2former.evaluation.gallery import Gallery
from mask2former.evaluation.report import write_report
from mask2former.evaluation.scores import EvaluationReport
from mask2former.inference.predictor import Predictor
from mask2former.inference.tta import MultiScaleFlip
from mask2former.metrics.cityscapes import CityscapesPixelEvaluator
from mask2former.metrics.semantic import SemanticEvaluator
from mask2former.scenes import SCENE_CATEGORIES
from mask2former.structures import Categories, SemanticSegmentation
from mask2former.structures.ground_truth import CityscapesGroundTruth

TASKS = ("panoptic", "instance", "semantic")
HOSTILE = '<script>alert("x")</script> {{ 7 * 7 }} & \'"'


class Page(HTMLParser):
    """The tags of a page with their attributes, and its visible text; tags must be closed in order."""

    VOID = ("meta", "img", "br", "path", "polyline", "input")

    def __init__(self, source: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self._open: list[str] = []
        self.feed(source)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self._open and self._open[-1] not in ("style", "script"):
            self.text += data

    def named(self, tag: str) -> Iterator[dict[str, str | None]]:
        return (attributes for name, attributes in self.tags if name == tag)


def _measured(predictor: Predictor, count: int = 4) -> tuple[EvaluationReport, Gallery]:
    gallery = Gallery(predictor.categories, keep=2)
    class_map = match_classes(predictor.categories, predictor.categories)
    cases = Cases(Scenes((96, 96), seed=31, length=count), TASKS, predictor.categories, class_map)
    report = evaluate_predictor(predictor, cases, TASKS, observe=gallery.add, short_edge=0)
    return report, gallery


@pytest.fixture(scope="module")
def measured() -> tuple[EvaluationReport, Gallery]:
    return _measured(Predictor.from_pretrained("scenes-tiny", device="cpu"))


@pytest.fixture(scope="module")
def source(measured: tuple[EvaluationReport, Gallery], tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("report") / "new" / "index.html"
    report, gallery = measured
    settings = {"model": "scenes-tiny", "tta": {"flip": True, "short_edges": [96, 128]}}
    write_report(path, report, SCENE_CATEGORIES, gallery, title="Scenes & more", settings=settings)
    return path.read_text(encoding="utf-8")


@pytest.mark.long
def test_the_page_holds_the_numbers(source: str, measured: tuple[EvaluationReport, Gallery]) -> None:
    page, (report, _) = Page(source), measured
    text = " ".join(page.text.split())
    for name in ("panoptic/PQ", "instance/AP50", "semantic/mIoU", "semantic/pACC"):
        assert f"{name.split('/')[1]}{report.metrics[name]:.1f}" in text, name
    for rows in report.per_class.values():
        for name, values in rows.items():
            first = next(iter(values.values()))
            if first == first:
                assert re.search(rf"{name} {first:.1f}", text), (name, first)
    assert "Scenes & more" in text
    assert "flip True, short_edges 96, 128" in text
    assert text.count("recall, %") == 1
    points = report.operating_points()
    assert points is not None
    best, f1 = points.scores[points.best], 100 * points.f1.max()
    assert f"F1 is highest at a score of {best:.2f}: {f1:.1f}, precision" in text
    entries = report.to_dict()["score_thresholds"]
    assert max(entry["F1"] for entry in entries) == pytest.approx(f1)
    assert [entry["score"] for entry in entries] == [round(0.05 * step, 2) for step in range(1, 20)]


def test_confusions_are_shown_in_the_style_of_cityscapes_too(tmp_path: Path) -> None:
    city = Categories.load("cityscapes")
    evaluator = CityscapesPixelEvaluator(city)
    ids = np.full((10, 10), city[0].id)
    evaluator.update(
        SemanticSegmentation(np.repeat([[0], [1]], 5, axis=0) + np.zeros((10, 10), int), city),
        CityscapesGroundTruth(ids),
    )
    report = EvaluationReport(evaluator.compute(), {"semantic": evaluator.per_class()}, 1, 0.1, {"semantic": evaluator})
    write_report(tmp_path / "x.html", report, city)
    text = " ".join(Page((tmp_path / "x.html").read_text(encoding="utf-8")).text.split())
    assert re.search(rf"{city[0].name} ?{city[1].name} ?50\.0", text)
    assert "Confusion matrix" in text


def test_the_page_shows_groups_with_their_numbers(measured: tuple[EvaluationReport, Gallery], tmp_path: Path) -> None:
    report, _ = measured
    values = {name: value / 2 for name, value in report.metrics.items() if name != "instance/AP50"}
    undefined = dict.fromkeys(report.metrics, float("nan"))
    grouped = replace(report, groups={"dusk": (values, 3), HOSTILE: (undefined, 1)})
    write_report(tmp_path / "report.html", grouped, SCENE_CATEGORIES)
    source = (tmp_path / "report.html").read_text(encoding="utf-8")
    text = " ".join(Page(source).text.split())
    assert text.count("By group") == 3  # tasks
    pq, ap, ap75 = (values[f"{name}"] for name in ("panoptic/PQ", "instance/AP", "instance/AP75"))
    assert re.search(rf"dusk 3 {pq:.1f} ", text)
    assert re.search(rf"dusk 3 {ap:.1f} - {ap75:.1f} ", text)  # AP50 is not known
    assert " ".join(HOSTILE.split()) + " 1 - - " in text
    assert "By group" not in Page(_page(report, tmp_path)).text


def _page(report: EvaluationReport, folder: Path) -> str:
    write_report(folder / "plain.html", report, SCENE_CATEGORIES)
    return (folder / "plain.html").read_text(encoding="utf-8")


def test_the_page_needs_nothing_but_itself(source: str) -> None:
    page = Page(source)
    assert "http:" not in source
    assert "https:" not in source
    assert not list(page.named("script"))
    assert not list(page.named("link"))
    for tag, attributes in page.tags:
        for name in ("src", "href"):
            value = attributes.get(name)
            assert value is None or value.startswith(("data:image/webp;base64,", "#")), (tag, value)
    assert "url(" not in source
    assert "@import" not in source
    policy = next(m["content"] for m in page.named("meta") if m.get("http-equiv") == "Content-Security-Policy")
    assert policy is not None
    assert policy.startswith("default-src 'none'")


def test_the_images_are_image_ground_truth_and_prediction(
    source: str, measured: tuple[EvaluationReport, Gallery]
) -> None:
    images = list(Page(source).named("img"))
    kept = [measured[1].of(task, kind) for task in TASKS for kind in ("best", "worst", "confident")]
    assert len(images) == 3 * sum(map(len, kept)) >= 3 * 3 * 2 * 2
    for attributes in images:
        assert attributes["alt"]
        data = base64.b64decode((attributes["src"] or "").partition(",")[2], validate=True)
        with Image.open(io.BytesIO(data)) as image:
            assert image.size == (384, 384)  # four times as large, so that names can be read


def test_hostile_names_stay_text(measured: tuple[EvaluationReport, Gallery], tmp_path: Path) -> None:
    report, gallery = measured
    renamed = Categories.from_names([HOSTILE, *SCENE_CATEGORIES.names[1:]], SCENE_CATEGORIES.names[1:8])
    first = SCENE_CATEGORIES.names[0]
    rows: dict[Task, dict[str, dict[str, float]]] = {
        task: {HOSTILE if name == first else name: values for name, values in table.items()}
        for task, table in report.per_class.items()
    }
    changed = EvaluationReport(report.metrics, rows, 4, 1.0, report.evaluators)
    write_report(tmp_path / "x.html", changed, renamed, gallery, title=HOSTILE, settings={HOSTILE: HOSTILE})
    source = (tmp_path / "x.html").read_text(encoding="utf-8")
    page = Page(source)
    assert not list(page.named("script"))
    assert "49" not in page.text.partition("alert")[2][:30]
    assert page.text.count(HOSTILE) >= 6  # title, settings, three tables, confusions


def test_many_classes_fold_between_the_best_and_the_worst(tmp_path: Path) -> None:
    names = [f"class {number:03d}" for number in range(100)]
    rows: dict[Task, dict[str, dict[str, float]]] = {"semantic": {}}
    for number, name in enumerate(names):
        rows["semantic"][name] = {"IoU": float("nan") if number == 7 else number, "ACC": 50.0}
    confusion = SemanticEvaluator(Categories.from_names(names, []))
    confusion.confusion[3, 5] = confusion.confusion[5, 5] = 10
    report = EvaluationReport({"semantic/mIoU": 1.0}, rows, 4, 1.0, {"semantic": confusion})
    write_report(tmp_path / "x.html", report, confusion.categories)
    text = " ".join(Page((tmp_path / "x.html").read_text(encoding="utf-8")).text.split())
    assert "59 between" in text
    assert text.index("class 099 99.0") < text.index("59 between") < text.index("class 000 0.0")
    assert "1 that do not occur" in text
    # Names are written several times each, so those of a megabyte are cut.
    long = {name + "x" * 1_000_000: values for name, values in rows["semantic"].items()}
    wordy = SemanticEvaluator(Categories.from_names([*long], []))
    wordy.confusion[3, 5] = wordy.confusion[5, 5] = 10
    page = EvaluationReport({"semantic/mIoU": 1.0}, {"semantic": long}, 4, 1.0, {"semantic": wordy})
    write_report(tmp_path / "long.html", page, wordy.categories)
    assert (tmp_path / "long.html").stat().st_size < 1_000_000
    assert "class 005class 003" in text  # true, taken for
    assert "50.0" in text


def test_a_model_that_finds_nothing_has_a_page_too(tmp_path: Path, tiny_file: Path) -> None:
    predictor = Predictor.from_pretrained(tiny_file, device="cpu", score_threshold=1.0)
    report, gallery = _measured(predictor, count=2)
    write_report(tmp_path / "x.html", report, predictor.categories, gallery)
    assert "PQ" in Page((tmp_path / "x.html").read_text(encoding="utf-8")).text
    write_report(tmp_path / "y.html", EvaluationReport({}, {}, 0, 0.0), predictor.categories)
    assert "0 images" in Page((tmp_path / "y.html").read_text(encoding="utf-8")).text


# --- curves ----------------------------------------------------------------------------------------------------------


def _write_run(folder: Path, seed: int = 0, rows: int = 12) -> Path:
    rng = np.random.default_rng(seed)
    lines = ["global_step,loss,loss_ce,loss_mask,loss_dice,loss_ce_0,learning_rate,panoptic/PQ,panoptic/SQ"]
    for step in range(rows):
        loss = 5 + rng.random()
        lines.append(f"{step},{loss},{loss / 2},{loss / 3},{loss / 4},1,{1e-4 * (rows - step)},,")
        if step % 4 == 3:
            lines.append(f"{step},,,,,,,{step * 3.0},{step * 4.0}")
    folder.mkdir(parents=True)
    (folder / "metrics.csv").write_text("\n".join(lines) + "\n")
    return folder


def _pixels(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB")).astype(int)


@pytest.mark.long
def test_plot_draws_several_runs_and_one_that_goes_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("matplotlib", reason="needs the extra report")
    one, two = _write_run(tmp_path / "one"), _write_run(tmp_path / "two", seed=1, rows=90)
    with (two / "metrics.csv").open("a") as stream:
        stream.write("90,5.0,2")  # a row that is being written
    assert main(["plot", str(one), "-o", str(tmp_path / "alone.png")]) == 0
    assert main(["plot", str(one), str(two), "-o", str(tmp_path / "deep" / "both.png")]) == 0
    alone, both = _pixels(tmp_path / "alone.png"), _pixels(tmp_path / "deep" / "both.png")
    blue, orange = (42, 111, 201), (217, 98, 43)

    def has(pixels: np.ndarray, color: tuple[int, int, int]) -> int:
        return int((np.abs(pixels - np.array(color)).max(axis=2) < 12).sum())

    assert has(alone, blue) > 200
    assert has(both, blue) > 200
    assert has(both, orange) > 5 * has(alone, orange)
    assert "both.png" in capsys.readouterr().out


@pytest.mark.long
def test_plot_reads_what_training_wrote(tmp_path: Path, finished_run: Finished) -> None:
    from mask2former.evaluation.curves import plot_runs, read_run

    pytest.importorskip("matplotlib", reason="needs the extra report")
    series = read_run(finished_run.folder)
    assert series["loss"][0] == series["learning_rate"][0] == [1, 2, 3, 4]
    assert series["panoptic/PQ"][0] == [2, 4]
    plot_runs([finished_run.folder], tmp_path / "hours.svg", "hours")
    drawn = (tmp_path / "hours.svg").read_text()
    assert drawn.startswith("<?xml")
    assert "<!-- hours -->" in drawn


@pytest.mark.parametrize(
    ("times", "message"),
    [
        (None, "times.csv'; draw the run over steps"),
        ("global_step,seconds\n0,1.0\n", "lacks step"),
        ("global_step,seconds\n0,x\n", "not a table"),
        ("global_step,seconds\n0,inf\n", "not a table"),
    ],
)
def test_hours_need_the_times_of_every_step(
    times: str | None, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = _write_run(tmp_path / "one")
    if times is not None:
        (run / "times.csv").write_text(times)
    assert main(["plot", str(run), "-o", str(tmp_path / "x.png"), "--over", "hours"]) == 2
    assert message in capsys.readouterr().err


def test_hours_ignore_times_of_steps_without_metrics(tmp_path: Path) -> None:
    run = _write_run(tmp_path / "one")
    steps = sorted({int(row.split(",")[0]) for row in (run / "metrics.csv").read_text().splitlines()[1:]})
    (run / "times.csv").write_text("global_step,seconds\n" + "".join(f"{step},{36 * step}\n" for step in steps) + "99")
    assert main(["plot", str(run), "-o", str(tmp_path / "x.png"), "--over", "hours"]) == 0


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "there is no table of metrics"),
        ("global_step,loss\n", "no values yet"),
        ("\x00\x01", "no values yet"),
        ("a\n1\n", "no values"),
    ],
)
def test_plot_of_something_else_is_refused(
    content: str | None, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "run").mkdir()
    if content is not None:
        (tmp_path / "run" / "metrics.csv").write_text(content)
    assert main(["plot", str(tmp_path / "run"), "-o", str(tmp_path / "x.png")]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "x.png").exists()


def test_plot_refuses_other_kinds_of_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plot", str(_write_run(tmp_path / "one")), "-o", str(tmp_path / "x.docx")]) == 2
    assert ".png, .svg, .pdf" in capsys.readouterr().err


# --- commands --------------------------------------------------------------------------------------------------------


def test_evaluate_writes_the_page_and_more_views_change_the_numbers(
    tiny_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    common = ["evaluate", str(tiny_file), "--scenes", "2", "--size", "64", "--task", "semantic", "--device", "cpu"]
    assert main([*common, "--report", str(tmp_path / "plain"), "--json", str(tmp_path / "plain.json")]) == 0
    assert f"report: {tmp_path / 'plain' / 'index.html'}" in capsys.readouterr().out
    more = ["--tta-sizes", "64,96", "--report", str(tmp_path / "tta"), "--json", str(tmp_path / "tta.json")]
    assert main([*common, *more]) == 0
    plain, tta = (json.loads((tmp_path / f"{name}.json").read_text()) for name in ("plain", "tta"))
    assert "tta" not in plain
    assert tta["tta"] == {"short_edges": [64, 96], "long_edge": None, "flip": True}
    assert plain["metrics"] != tta["metrics"]
    text = " ".join(Page((tmp_path / "tta" / "index.html").read_text(encoding="utf-8")).text.split())
    assert "short_edges 64, 96" in text
    assert f"mIoU{tta['metrics']['semantic/mIoU']:.1f}" in text
    assert "short_edge 0" in text  # as it was measured, not as the model has it


def test_predict_records_its_views(tiny_file: Path, tmp_path: Path) -> None:
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)).save(tmp_path / "a.png")
    common = ["predict", str(tmp_path / "a.png"), "--model", str(tiny_file), "--device", "cpu", "--tta"]
    assert main([*common, "-o", str(tmp_path / "out")]) == 0
    views = json.loads((tmp_path / "out" / "a.json").read_text())["settings"]["tta"]
    assert views == {"short_edges": None, "long_edge": None, "flip": True}


@pytest.mark.parametrize("sizes", ["big", "64,64", "0", "64,"])
def test_sizes_that_are_none_are_refused(sizes: str, tiny_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", str(tiny_file), "--tta-sizes", sizes, "--device", "cpu"]) == 2
    assert "pixels" in capsys.readouterr().err


def test_a_report_where_a_file_is_is_refused_before_anything_runs(
    tiny_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("x")
    assert main(["evaluate", str(tiny_file), "--report", str(tmp_path / "file")]) == 2
    assert "is a file" in capsys.readouterr().err


# --- the page that explains all this ---------------------------------------------------------------------------------

GUIDE = Path(__file__).parents[2] / "docs" / "evaluation.md"


@pytest.mark.long
def test_the_python_of_the_guide_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"^```python\n(.*?)^```", GUIDE.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    assert len(blocks) == 3
    for block in blocks:
        exec(compile(block, str(GUIDE), "exec"), {})
    assert "scenes-tiny" in (tmp_path / "report" / "index.html").read_text(encoding="utf-8")


def test_the_sizes_in_the_guide_are_those_that_are_taken() -> None:
    rows = re.findall(r"^\| (\d+), (\d+) .*?\| ([\d ]+) \| (\d+) \|$", GUIDE.read_text("utf-8"), flags=re.MULTILINE)
    assert len(rows) == 3
    for short, cap, sizes, longest in rows:
        settings = InferenceConfig(short_edge=int(short), long_edge=int(cap))
        listed = [int(size) for size in sizes.split()]
        for plain in ((int(short), int(short)), (int(short), 100 * int(short))):
            views = MultiScaleFlip(flip=False).views(plain, settings)
            expected = [shortest_edge_size(plain, size, int(longest)) for size in listed]
            assert sorted(view.size_hw for view in views) == sorted(expected)
