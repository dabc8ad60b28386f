"""Attacks on the files of ``predict``: damaged or edited results, images that fail, full disks, two runs at once."""

from __future__ import annotations

import errno
import json
import os
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from mask2former.cli import main
from mask2former.errors import FailedError, UserError
from mask2former.inference import large_files
from mask2former.inference.failures import ends_run
from mask2former.inference.plan_files import plan
from mask2former.inference.predictor import Predictor
from mask2former.inference.result_files import Outcome
from mask2former.inference.segment_files import segment_files
from mask2former.notes import collect_notes
from mask2former.results_io.coco import write_coco_results
from mask2former.structures import result_base

pytestmark = pytest.mark.usefixtures("small_overlays")
COUNT = 3


@pytest.fixture(scope="module")
def predictor() -> Predictor:
    return Predictor.from_pretrained("scenes-tiny", device="cpu", short_edge=64, quiet=True)


@pytest.fixture
def images(tmp_path: Path) -> Path:
    return drawn(tmp_path)


@pytest.fixture(scope="module")
def finished(predictor: Predictor, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Images and their results."""
    folder = tmp_path_factory.mktemp("finished")
    run(predictor, images := drawn(folder), folder / "out")
    return images, folder / "out"


@pytest.fixture
def results(finished: tuple[Path, Path], tmp_path: Path) -> tuple[Path, Path]:
    """The images, which tests must not change, and a copy of their results."""
    images, output = finished
    return images, shutil.copytree(output, tmp_path / "out")


def drawn(parent: Path) -> Path:
    folder = parent / "images"
    folder.mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (COUNT, 40, 60, 3), dtype=np.uint8)
    for number in range(COUNT):
        Image.fromarray(pixels[number]).save(folder / f"{number}.bmp")
    return folder


def run(predictor: Predictor, images: Path, output: Path, task: Any = "panoptic", **options: Any) -> list[Outcome]:
    return list(segment_files(predictor, plan([images], output), task, model="m", **options))


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def edited(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], None]:
    def edit(path: Path) -> None:
        document = json.loads(path.read_text())
        change(document)
        path.write_text(json.dumps(document))

    return edit


def cut(path: Path, share: float = 0.5) -> None:
    os.truncate(path, int(share * path.stat().st_size))


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-40] ^= 255
    path.write_bytes(content)


@pytest.mark.parametrize("ending", [".json", ".png", "_ids.png"])
@pytest.mark.parametrize("damage", [os.unlink, cut, flip, lambda path: cut(path, 0)], ids=["gone", "cut", "bit", "0"])
def test_damaged_results_are_made_anew(
    predictor: Predictor, results: tuple[Path, Path], ending: str, damage: Callable[[Path], None]
) -> None:
    images, output = results
    before = contents(output)
    damage(output / f"1{ending}")
    statuses = [outcome.status for outcome in run(predictor, images, output)]
    if (ending, damage) == (".json", flip):
        assert statuses[::2] == ["skipped", "skipped"]
        return
    assert statuses == ["skipped", "done", "skipped"]
    assert contents(output) == before


@pytest.mark.parametrize(
    "edit",
    [
        edited(lambda document: document.update(task=["panoptic"])),
        edited(lambda document: document.update(size="40x60")),
        edited(lambda document: document.update(segments={"a": 1})),
        edited(lambda document: document.update(segments=[None])),
        edited(lambda document: document.update(segments=[{"id": "x"}])),
        edited(lambda document: document.update(schema_version="new")),
        lambda path: path.write_text("[]"),
    ],
)
def test_a_json_file_that_is_no_result_is_refused_and_stays(
    predictor: Predictor, results: tuple[Path, Path], edit: Callable[[Path], None]
) -> None:
    images, output = results
    edit(output / "1.json")
    before = contents(output)
    with pytest.raises(UserError, match=r"1\.json' already exists and is not a result"):
        run(predictor, images, output)
    assert contents(output) == before


@pytest.mark.parametrize(
    "edit",
    [
        edited(lambda document: document.update(schema_version=2, segments="other")),
        edited(lambda document: document.pop("provenance")),
        edited(lambda document: document.update(provenance=[])),
        edited(lambda document: document.update(settings=None)),
        edited(lambda document: document["provenance"].update(weights_sha256=7)),
    ],
)
def test_results_of_others_and_of_newer_versions_are_kept(
    predictor: Predictor, results: tuple[Path, Path], edit: Callable[[Path], None]
) -> None:
    images, output = results
    edit(output / "1.json")
    before = contents(output)
    assert [(outcome.status, outcome.differs) for outcome in run(predictor, images, output)] == [
        ("skipped", False),
        ("skipped", True),
        ("skipped", False),
    ]
    assert contents(output) == before
    assert run(predictor, images, output, overwrite=True)[1].status == "done"


def test_deep_json_is_no_crash(predictor: Predictor, images: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "1.json").write_text("[" * 200_000)
    with pytest.raises(UserError, match="is not a result"):
        run(predictor, images, tmp_path / "out")


@pytest.mark.parametrize(
    ("error", "status", "expected"),
    [
        (ValueError("sizes"), "failed", "1.bmp': ValueError: sizes"),
        (MemoryError(), "failed", "1.bmp' does not fit into the memory of cpu"),
        (torch.OutOfMemoryError("CUDA out of memory"), "failed", "1.bmp' does not fit into the memory of cpu"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), "failed", "does not fit into the memory"),
        (RecursionError(), "failed", "nested too deeply"),
        (KeyError("x\x1b[0m"), "failed", "KeyError: 'x\\x1b[0m'"),
        (UserError("it is odd"), "refused", "1.bmp': it is odd"),
        (OSError(errno.EFBIG, "File too large", "f"), "failed", "'f': File too large"),
        (OSError(errno.ENAMETOOLONG, "File name too long"), "failed", "1.bmp': File name too long"),
    ],
)
def test_an_image_fails_alone(
    predictor: Predictor,
    images: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    error: Exception,
    status: str,
    expected: str,
) -> None:
    read = large_files.read_image

    def failing(source: Path, **options: Any) -> Any:
        if source.name == "1.bmp":
            raise error
        return read(source, **options)

    monkeypatch.setattr(large_files, "read_image", failing)
    outcomes = run(predictor, images, tmp_path / "out")
    assert [outcome.status for outcome in outcomes] == ["done", status, "done"]
    assert expected in outcomes[1].reason
    assert bool(outcomes[1].trace) == (status == "failed")
    assert {name[0] for name in contents(tmp_path / "out")} == {"0", "2"}


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EMFILE])
def test_what_concerns_all_ends_the_run(
    predictor: Predictor, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    real = result_base.write_whole

    def full(path: Path, write: Callable[[Path], object]) -> None:
        if path.name in ("1.json", "2.json"):  # overlay and map are there already
            raise OSError(number, os.strerror(number), "place")
        real(path, write)

    output = tmp_path / "out"
    monkeypatch.setattr(result_base, "write_whole", full)
    outcomes = segment_files(predictor, plan([images], output), "panoptic")
    assert next(outcomes).status == "done"
    with pytest.raises(FailedError, match=f"'place': {os.strerror(number)}"):
        next(outcomes)
    assert set(contents(output)) == {"0.json", "0.png", "0_ids.png"}  # nothing half done


def test_a_name_that_is_too_long_for_results_concerns_one_image_in_every_run(
    predictor: Predictor, images: Path, tmp_path: Path
) -> None:
    folder, output = tmp_path / "long", tmp_path / "out"
    folder.mkdir()
    shutil.copy(images / "0.bmp", folder / f"{'a' * 251}.bmp")  # for which there is room, but not for .json
    shutil.copy(images / "0.bmp", folder / "b.bmp")
    for last in ("done", "skipped"):
        outcomes = list(segment_files(predictor, plan([folder], output), "instance"))
        assert [outcome.status for outcome in outcomes] == ["refused", last]
        assert "File name too long" in outcomes[0].reason
        assert set(contents(output)) == {"b.json", "b.png"}  # nothing half done


def test_only_what_all_would_meet_ends_the_run() -> None:
    assert ends_run(KeyboardInterrupt(), torch.device("cpu"))
    assert not ends_run(RuntimeError("CUDA error"), torch.device("cpu"))


def test_a_full_disk_is_one_sentence(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*args: Any, **options: Any) -> Any:
        raise OSError(errno.ENOSPC, "No space left on device", str(tmp_path / "out" / "0.png"))

    monkeypatch.setattr("mask2former.structures.result_base.write_whole", full)
    assert main(["predict", str(images), "-o", str(tmp_path / "out"), "-m", "scenes-tiny", "--device", "cpu"]) == 1
    assert capsys.readouterr().err.splitlines()[-1] == (
        f"error: '{tmp_path / 'out' / '0.png'}': No space left on device; 0 images of 3 segmented into "
        f"{tmp_path / 'out'}; run the same command again to continue"
    )


def test_a_traceback_of_an_image_is_shown_on_request(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def failing(source: Path, **options: Any) -> Any:
        raise ValueError("odd")

    monkeypatch.setattr(large_files, "read_image", failing)
    words = ["predict", str(images), "-o", str(tmp_path / "out"), "-m", "scenes-tiny", "--device", "cpu"]
    assert main(words) == 1
    said = capsys.readouterr().err
    assert "3 images of 3 failed: " in said
    assert "Traceback" not in said
    assert main([*words, "--debug"]) == 1
    assert 'raise ValueError("odd")' in capsys.readouterr().err


@pytest.mark.parametrize("length", [120, 243, 250, 251])
def test_long_names_fail_alone_or_do(predictor: Predictor, images: Path, tmp_path: Path, length: int) -> None:
    (images / "1.bmp").rename(images / f"{'n' * (length - 4)}.bmp")
    outcomes = {outcome.job.source.name[0]: outcome for outcome in run(predictor, images, tmp_path / "out")}
    fits = length - 4 + len("_ids.png") <= 255
    assert outcomes["n"].status == ("done" if fits else "refused")
    assert [outcomes[name].status for name in "02"] == ["done", "done"]
    assert {name[0] for name in contents(tmp_path / "out")} == ({"0", "2", "n"} if fits else {"0", "2"})


@pytest.mark.skipif(os.name == "nt" or os.uname().sysname == "Darwin", reason="names are bytes on Linux only")
def test_names_that_are_no_text_do(images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (images / "1.bmp").rename(images / os.fsdecode(b"\xff.bmp"))
    output = tmp_path / os.fsdecode(b"out\xfe")
    words = ["predict", str(images), "-o", str(output), "-m", "scenes-tiny", "--device", "cpu", "-t", "instance"]
    assert main([*words, "--coco", str(tmp_path / "coco.json")]) == 0
    assert "3 images segmented" in capsys.readouterr().out
    assert {"0", "2", "\udcff"} == {record["image_id"] for record in json.loads((tmp_path / "coco.json").read_text())}


def test_an_image_that_changes_while_it_is_read_is_refused(
    predictor: Predictor, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = large_files.read_image

    def replaced(source: Path, **options: Any) -> Any:
        found = read(source, **options)
        if source.name == "1.bmp":
            shutil.copy(images / "0.bmp", images / "new")
            (images / "new").replace(source)
        return found

    monkeypatch.setattr(large_files, "read_image", replaced)
    outcomes = run(predictor, images, tmp_path / "out")
    assert [outcome.status for outcome in outcomes] == ["done", "refused", "done"]
    assert "changed while it was being read" in outcomes[1].reason


def test_two_runs_at_once_write_what_one_writes(predictor: Predictor, images: Path, tmp_path: Path) -> None:
    run(predictor, images, tmp_path / "one")
    barrier = threading.Barrier(2)

    def work() -> None:
        for job in plan([images], tmp_path / "two"):
            barrier.wait(20)
            list(segment_files(predictor, [job], "panoptic", model="m"))

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert contents(tmp_path / "two") == contents(tmp_path / "one")


@pytest.mark.parametrize("task", ["panoptic", "instance", "semantic"])
def test_the_coco_file_is_that_of_the_results_and_says_what_is_gone(
    predictor: Predictor, images: Path, tmp_path: Path, task: Any
) -> None:
    run(predictor, images, tmp_path / "out", task)
    jobs = plan([images], tmp_path / "out")
    write_coco_results(tmp_path / "coco.json", jobs, task, predictor.categories)
    content = json.loads((tmp_path / "coco.json").read_text())
    documents = {job.stem.name: json.loads(job.document.read_text()) for job in jobs}
    if task == "panoptic":
        found = {str(entry["image_id"]): entry["segments_info"] for entry in content["annotations"]}
        assert {name: [segment["id"] for segment in segments] for name, segments in found.items()} == {
            name: [segment["id"] for segment in document["segments"]] for name, document in documents.items()
        }
    else:
        kept = {"instance": ["segmentation", "score"], "semantic": ["segmentation"]}[task]
        assert [(str(record["image_id"]), *(record[key] for key in kept)) for record in content] == [
            (name, *(record[key] for key in kept))
            for name, document in documents.items()
            for part in (result_base.RECORDS[task], "candidates")
            for record in document.get(part, ())
        ]
    (tmp_path / "out" / "1.json").unlink()
    with collect_notes() as notes:
        write_coco_results(tmp_path / "coco.json", jobs, task, predictor.categories)
    assert {message for message, _ in notes} == {
        "images whose results had been removed when the COCO file was written, left out"
    }
