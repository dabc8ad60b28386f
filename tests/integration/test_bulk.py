"""Bulk prediction with real Ray, started as users start it; slow, since a start takes some 15 CPU seconds.

Tests without Ray are in tests/unit/bulk.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from mask2former import Predictor
from mask2former.bulk import id_map, open_results, read_records
from mask2former.bulk.engine import Job, shard_reports, started_pool
from mask2former.bulk.plan import Plan
from mask2former.errors import FailedError, UserError
from mask2former.progress import silent
from mask2former.scenes import draw_scene

pytestmark = pytest.mark.slow

MODEL = "scenes-tiny"
NUM_IMAGES, SHARD_SIZE, KILL_EVERY = 2_000, 40, 30.0


def draw_images(folder: Path, number: int) -> list[str]:
    """Write ``number`` different images of 64x80 pixels, cut out of drawn scenes."""
    names: list[str] = []
    for seed in range(-(-number // 64)):
        scene = draw_scene(seed, (512, 640)).image
        for row in range(8):
            for column in range(8):
                if len(names) == number:
                    return names
                path = folder / f"{seed:03d}" / f"{row}{column}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(scene[64 * row : 64 * row + 64, 80 * column : 80 * column + 80]).save(path)
                names.append(str(path))
    return names


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "mask2former", "predict", "--model", MODEL, "--ray", "--actors", "2", *arguments]


def actors_of(driver: int) -> list[int]:
    """The processes with the model that Ray has started for a program, the oldest first."""
    parents: dict[int, int] = {}
    found: list[tuple[int, int]] = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
                title = (entry / "cmdline").read_bytes()
            except OSError:
                continue
            parents[int(entry.name)] = int(fields[1])
            if title.startswith(b"ray::") and b"Segmenter" in title:
                found.append((int(fields[19]), int(entry.name)))
    return [actor for _, actor in sorted(found) if driver in _ancestors(actor, parents)]


def _ancestors(process: int, parents: dict[int, int]) -> Iterator[int]:
    while (process := parents.get(process, 0)) > 1:
        yield process


def finished(output: Path) -> dict[str, int]:
    """The finished shards, and when they were written."""
    return {path.name: path.stat().st_mtime_ns for path in (output / "shards").glob("shard-*.parquet")}


def test_images_to_shards_and_back(tmp_path: Path) -> None:
    names = draw_images(tmp_path / "images", 11)
    (tmp_path / "images" / "broken.jpg").write_bytes(b"nothing")
    arguments = [str(tmp_path / "images"), "--output", str(tmp_path / "out"), "--shard-size", "4", "--json-lines"]
    run = subprocess.run(command(*arguments), capture_output=True, text=True, check=False)
    assert run.returncode == 1, run.stderr
    assert f"11 images segmented (panoptic, {MODEL}) into {tmp_path}/out by 2 actors" in run.stdout
    assert f"1 of 12 images failed; '{tmp_path}/out/failures.csv' lists them" in run.stderr
    predictor = Predictor.from_pretrained(MODEL, device="cpu", quiet=True)
    records = {record["image"]: record for record in read_records(tmp_path / "out")}
    assert sorted(records) == sorted([*names, str(tmp_path / "images" / "broken.jpg")])
    for name in names:
        result = predictor(name, "panoptic")
        assert records[name]["segments"] == result.to_dict()["segments"]
        np.testing.assert_array_equal(id_map(records[name]), result.ids)
    lines = [line for path in (tmp_path / "out" / "json").iterdir() for line in path.read_text().splitlines()]
    assert sorted(json.loads(line)["image"] for line in lines) == sorted(names)


def test_every_image_once_although_actors_and_the_program_are_killed(tmp_path: Path) -> None:
    """Each image is segmented once although one of two actors is killed every half minute, and the program once.

    Where a start takes longer than that, a kill waits for a shard, or nothing would ever be finished.
    """
    names = draw_images(tmp_path / "images", NUM_IMAGES)
    output = tmp_path / "out"
    arguments = [str(tmp_path / "images"), "--output", str(output), "--shard-size", str(SHARD_SIZE)]
    arguments += ["--short-edge", "64"]
    before: dict[str, int] = {}
    killed: list[int] = []
    started = time.monotonic()
    for is_last in (False, True):
        program = subprocess.Popen(command(*arguments), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        due, done = time.monotonic() + KILL_EVERY, len(finished(output))
        while program.poll() is None:
            time.sleep(0.5)
            actors = actors_of(program.pid)
            if time.monotonic() >= due and len(actors) == 2 and len(finished(output)) > done:
                os.kill(actors[0], signal.SIGKILL)
                killed.append(actors[0])
                due, done = time.monotonic() + KILL_EVERY, len(finished(output))
            if not is_last and len(finished(output)) * SHARD_SIZE >= NUM_IMAGES // 2:
                program.kill()
                program.wait()
                wait_for_end(actors)  # which may finish a shard meanwhile
                before = finished(output)
        said, errors = program.communicate()
    print(f"{NUM_IMAGES} images in {time.monotonic() - started:.0f} s, {len(killed)} actors killed; {said.strip()}")
    assert program.returncode == 0, errors
    assert f"{len(before) * SHARD_SIZE:,} were in shards that had been finished before" in said
    assert {name: written for name, written in finished(output).items() if name in before} == before
    assert killed
    rows = open_results(output).to_table(columns=["image", "error"])
    assert sorted(rows["image"].to_pylist()) == sorted(names)
    assert rows["error"].null_count == NUM_IMAGES
    predictor = Predictor.from_pretrained(MODEL, device="cpu", quiet=True)
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as an actor has here: the last digits of scores depend on it
    try:
        for number, record in enumerate(read_records(output)):
            if number % 100 == 0:
                assert record["segments"] == predictor(record["image"], "panoptic", short_edge=64).to_dict()["segments"]
    finally:
        torch.set_num_threads(num_threads)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # Ray's own, of its settings
@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_what_an_actor_raises_is_one_sentence(tmp_path: Path) -> None:
    names = draw_images(tmp_path / "images", 2)
    sha256 = Predictor.from_pretrained(MODEL, device="cpu", quiet=True).weights_sha256()
    head = {"weights_sha256": "other", "json_lines": False, "model": MODEL}
    job = Job(MODEL, {"device": "cpu"}, str(tmp_path / "out"), "panoptic", head, 1, 60.0, None)
    plan = Plan(head, [names])
    (tmp_path / "out").mkdir()
    with started_pool(None, 1, "cpu", silent) as pool:
        with pytest.raises(
            UserError, match=r"^'scenes-tiny' is a different model in an actor than where the run was st"
        ):
            list(shard_reports(job, plan, [0], pool))
        head["weights_sha256"] = sha256
        (tmp_path / "out" / "shards").touch()  # where a folder must be
        with pytest.raises(FailedError, match=r"^cannot write '.*shard-00000.parquet'"):
            list(shard_reports(job, plan, [0], pool))


def wait_for_end(processes: list[int]) -> None:
    """Wait until none of the processes runs, so that the program can be started again."""
    ends = time.monotonic() + 60
    while any(_runs(process) for process in processes):
        assert time.monotonic() < ends, "actors outlive the program that started them"
        time.sleep(0.2)


def _runs(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
