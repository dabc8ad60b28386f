"""A complete run with one actor that is not a process; tests/integration/test_bulk.py uses Ray."""

from __future__ import annotations

import contextlib
import json
import re
import shlex
import shutil
from collections.abc import Iterator, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import pyarrow
import pytest
from PIL import Image
from pyarrow import parquet

from mask2former import Predictor
from mask2former.bulk import open_results, predict_bulk, read_records
from mask2former.bulk.engine import Job, Pool, Segmenter
from mask2former.bulk.plan import Plan
from mask2former.bulk.shards import SCHEMA
from mask2former.cli import main
from mask2former.errors import FailedError, UserError
from mask2former.scenes import draw_scene

pytestmark = pytest.mark.long

MODEL = "scenes-tiny"
PAGE = Path(__file__).parents[3] / "docs" / "bulk.md"


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    for number in range(5):
        Image.fromarray(draw_scene(number, (64, 64)).image).save(folder / f"{number}.png")
    return folder


class Engine:
    """A stand-in for Ray that processes shards one after the other and can be killed after some of them.

    Attributes:
        shards: for each run, the shards that it had to process.
        most: number of shards processed before the run is killed; None: all.
    """

    def __init__(self) -> None:
        self.shards: list[list[int]] = []
        self.most: int | None = None
        self.job: Job | None = None  # of the last run

    @contextlib.contextmanager
    def pool(self, *_: Any) -> Iterator[Pool]:
        yield Pool(1, 1, 0)

    def reports(self, job: Job, plan: Plan, shards: Sequence[int], pool: Pool) -> Iterator[dict[str, Any]]:
        self.shards.append(list(shards))
        self.job = job
        work = Segmenter(job)
        for shard in shards[: self.most]:
            table = pyarrow.table({"shard": [shard], "images": [plan.shards[shard]]})
            [report] = work(table)["report"]
            yield json.loads(report)
        if self.most is not None:
            raise KeyboardInterrupt


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> Engine:
    engine = Engine()
    monkeypatch.setattr("mask2former.bulk.run.started_pool", engine.pool)
    monkeypatch.setattr("mask2former.bulk.run.shard_reports", engine.reports)
    return engine


def test_a_run_that_was_killed_is_finished_by_the_same_call(engine: Engine, photos: Path, tmp_path: Path) -> None:
    (tmp_path / "broken.jpg").write_bytes(b"nothing")
    sources, output = [photos, tmp_path / "broken.jpg"], tmp_path / "out"
    told: list[tuple[str, int, int | None]] = []
    engine.most = 1
    with pytest.raises(KeyboardInterrupt):
        predict_bulk(MODEL, sources, output, shard_size=2, short_edge=64)
    before = (output / "shards" / "shard-00000.parquet").stat().st_mtime_ns
    engine.most = None
    report = predict_bulk(
        MODEL, sources, output, short_edge=64, progress=lambda *step: told.append(step), observe=lambda _: None
    )
    assert engine.shards == [[0, 1, 2], [1, 2]]
    assert (output / "shards" / "shard-00000.parquet").stat().st_mtime_ns == before
    assert (report.num_images, report.num_done, report.num_there, report.num_failed) == (6, 3, 2, 1)
    assert [step[1:] for step in told if step[0] == "panoptic"] == [(2, 6), (4, 6), (6, 6)]
    assert report.failures == str(output / "failures.csv")
    assert [row.partition(",")[0] for row in (output / "failures.csv").read_text().splitlines()] == [
        "image",
        str(tmp_path / "broken.jpg"),
    ]
    records = list(read_records(output))
    assert [record["image"] for record in records] == [
        *map(str, sorted(photos.iterdir())),
        str(tmp_path / "broken.jpg"),
    ]
    again = predict_bulk(MODEL, sources, output, short_edge=64)
    assert (again.num_done, again.num_there, again.num_failed, again.num_actors) == (0, 6, 1, 0)
    assert len(engine.shards) == 2
    Image.open(photos / "0.png").save(tmp_path / "broken.jpg")
    mended = predict_bulk(MODEL, sources, output, short_edge=64, retry_failed=True)
    assert engine.shards[2:] == [[2]]
    assert (mended.num_done, mended.num_there, mended.num_failed, mended.failures) == (2, 4, 0, None)
    assert not (output / "failures.csv").exists()
    with pytest.raises(UserError, match="made with other settings: choose another output, or overwrite"):
        predict_bulk(MODEL, sources, output, short_edge=96)
    (output / "json").mkdir()
    (output / "json" / "mine.json").touch()
    anew = predict_bulk(MODEL, photos, output, "semantic", short_edge=64, overwrite=True, json_lines=True)
    assert (anew.task, anew.num_images, anew.num_done) == ("semantic", 5, 5)
    assert [path.name for path in (output / "shards").iterdir()] == ["shard-00000.parquet"]
    assert sorted(path.name for path in (output / "json").iterdir()) == ["mine.json", "shard-00000.jsonl"]
    assert {record["task"] for record in read_records(output)} == {"semantic"}


def test_a_damaged_shard_is_named_and_made_anew(engine: Engine, photos: Path, tmp_path: Path) -> None:
    (tmp_path / "broken.jpg").write_bytes(b"nothing")
    sources, output = [photos, tmp_path / "broken.jpg"], tmp_path / "out"
    predict_bulk(MODEL, sources, output, shard_size=2, short_edge=64)
    first, second = (output / "shards" / f"shard-0000{number}.parquet" for number in range(2))
    whole = second.read_bytes()
    sentence = r"shards/shard-00001.parquet' is damaged and cannot be read; remove it, and the same predict command"
    second.write_bytes(whole[:-9])
    with pytest.raises(UserError, match=sentence):
        open_results(output)
    with pytest.raises(UserError, match=sentence):
        next(read_records(output))
    predict_bulk(MODEL, sources, output, short_edge=64)
    assert engine.shards[1:] == [[1]]
    end = int.from_bytes(whole[-8:-4], "little") + 8
    second.write_bytes(b"PAR1" + bytes(len(whole) - end - 4) + whole[-end:])  # only its footer is intact
    with pytest.raises(UserError, match=sentence):
        list(read_records(output))
    first.write_bytes(first.read_bytes()[:-9])
    report = predict_bulk(MODEL, sources, output, short_edge=64, retry_failed=True)
    assert engine.shards[2:] == [[0, 1, 2]]
    assert (report.num_done, report.num_there, report.num_failed) == (5, 0, 1)
    assert len(list(read_records(output))) == 6


def test_the_command_says_what_became_of_the_images(
    engine: Engine, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "broken.jpg").write_bytes(b"nothing")
    command = ["predict", f"{photos}/*.png", "--output", str(tmp_path / "out"), "--model", MODEL, "--ray"]
    settings = ["--short-edge", "64"]
    assert main([*command, str(tmp_path / "broken.jpg"), *settings]) == 1
    output, errors = capsys.readouterr()
    assert output.startswith(f"failed: '{tmp_path}/broken.jpg' is not an image")
    assert f"5 images segmented (panoptic, {MODEL}) into {tmp_path}/out by 1 actor; " in output
    assert f"error: 1 of 6 images failed; '{tmp_path}/out/failures.csv' lists them with their reasons" in errors
    engine.most = 0
    assert main([*command, *settings, "--overwrite"]) == 130
    assert f"stopped: 0 of 5 images are in finished shards in {tmp_path}/out" in capsys.readouterr().err
    for flags, refusal in (
        (["--actors", "0"], "error: --actors is 0; expected at least 1"),
        (["--image-timeout", "0"], "error: --image-timeout is 0.0 s; expected more than 0"),
        (["--device", "cuda:1"], "error: --device is cuda:1; each actor has one GPU: expected auto, cpu or cuda"),
        (["--coco", "a.json"], "error: --coco cannot be used with --ray"),
        (["--column", "path"], "error: --column applies to lists"),
    ):
        assert main([*command, *settings, *flags]) == 2
        assert refusal in capsys.readouterr().err
    assert main(["predict", str(photos), "-o", str(tmp_path), "-m", MODEL, "--actors", "2"]) == 2
    assert "error: --actors works only with --ray" in capsys.readouterr().err


def test_the_page_is_right(
    engine: Engine, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """All commands of the page, except those for a cluster, and all of its Python code run in one folder."""
    shutil.copytree(photos, tmp_path / "photos")
    Image.open(photos / "0.png").save(tmp_path / "photos" / "0.jpg")
    parquet.write_table(pyarrow.table({"file": ["photos/1.png"], "number": [1]}), tmp_path / "catalogue.parquet")
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"^```(\w+)\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    commands = [shlex.split(line) for kind, text in blocks if kind == "sh" for line in text.splitlines()]
    here = [words[1:] for words in commands if words[0] == "mask2former" and "--ray-address" not in words]
    assert len(here) == 2
    for words in here:
        assert main([*words, "--short-edge", "64"]) == 0
    assert "6 images segmented" in capsys.readouterr().out
    for kind, text in blocks:
        if kind == "python":
            exec(compile(text, PAGE.name, "exec"), {})
    output = capsys.readouterr().out
    assert output.startswith("6 images\n")
    assert output.count("/photos/") == 6
    assert sorted(path.name for path in (tmp_path / "some").iterdir()) == [
        *(".lock", "images.parquet", "plan.json", "shards")
    ]


def test_a_full_disk_ends_the_run(
    engine: Engine, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run ends with the system's message; its job has absolute paths, since actors may run in other folders."""
    model = resources.files("mask2former").joinpath("assets", f"{MODEL}.safetensors")
    (tmp_path / "mine.safetensors").write_bytes(model.read_bytes())
    monkeypatch.chdir(tmp_path)
    real = Path.write_bytes

    def write_bytes(path: Path, content: Any) -> int:
        if content[:4] == b"PAR1" and SCHEMA.names[1].encode() in content:
            raise OSError(28, "No space left on device")
        return real(path, content)

    monkeypatch.setattr(Path, "write_bytes", write_bytes)
    with pytest.raises(FailedError, match="No space left on device"):
        predict_bulk("mine.safetensors", photos, "out", short_edge=64)
    assert engine.job is not None
    assert (engine.job.model, engine.job.output) == (tmp_path / "mine.safetensors", str(tmp_path / "out"))


def test_actors_have_the_limit_on_pixels_of_the_caller(
    engine: Engine, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = Image.MAX_IMAGE_PIXELS

    def elsewhere(*arguments: Any) -> Iterator[dict[str, Any]]:
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", there)  # as in another process
        yield from engine.reports(*arguments)

    monkeypatch.setattr("mask2former.bulk.run.shard_reports", elsewhere)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 64 * 64 - 1)
    report = predict_bulk(MODEL, photos, tmp_path / "out", device="cpu")
    assert report.num_failed == 5
    assert "more than 4095 pixels" in report.failed[0].reason
    assert there == Image.MAX_IMAGE_PIXELS


def test_wrong_requests(engine: Engine, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    predictor: Any = Predictor.from_pretrained(MODEL, device="cpu", quiet=True)
    with pytest.raises(UserError, match="need its name, file or folder, got a Predictor; save it with"):
        predict_bulk(predictor, photos, tmp_path / "out")
    with pytest.raises(UserError, match="'nothing' is neither a file, a folder nor a known model"):
        predict_bulk("nothing", photos, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    job = Job(MODEL, {"device": "cpu"}, str(tmp_path), "panoptic", {"weights_sha256": "other"}, 1, 60.0, None)
    with pytest.raises(UserError, match="is a different model in an actor than where the run was started"):
        Segmenter(job)
