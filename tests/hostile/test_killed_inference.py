"""Commands that are killed repeatedly at random moments leave the same results as an uninterrupted run.

``pytest -m slow -s`` of this file prints the figures.
"""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
from forked import kill_again_and_again
from layouts import ade20k, save

from mask2former.data.datasets.scenes import SceneClips, Scenes

pytestmark = pytest.mark.slow

TINY = ["-m", "scenes-tiny", "--device", "cpu"]


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("images")
    scenes = Scenes((64, 64), length=16)
    for index in range(len(scenes)):
        save(scenes.image(index), folder / f"{index // 8}" / f"{index:03}.png")
    return folder


@pytest.mark.parametrize(("task", "batch_size"), [("instance", 1), ("panoptic", 1), ("panoptic", 3)])
def test_predict(task: str, batch_size: int, images: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    command = ["predict", str(images), "-o", str(output / "images"), "--coco", str(output / "coco.json"), "-t", task]
    command += ["--batch-size", str(batch_size)]
    print(task, batch_size, kill_again_and_again([*command, *TINY], output, tmp_path / "log.txt"))


def test_track(tmp_path: Path) -> None:
    clip = tmp_path / "clip"
    for index, image in enumerate(SceneClips((64, 64), 16).images(0)):
        save(image, clip / f"{index:03}.png")
    output = tmp_path / "out"
    command = ["track", str(clip), "-o", str(output), "--ytvis", str(output / "tracks.json"), "--overwrite", *TINY]

    def is_unfinished(name: str, content: bytes) -> bool:
        if name == "clip.json":
            return not json.loads(content)["complete"]
        return True  # after a signal these hold what was done, and the document says so

    def without_coding(name: str, content: bytes) -> bytes:
        # The bytes of the encoder differ from run to run.
        return b"a whole video" if content[4:8] == b"ftyp" and b"moov" in content else content

    log = tmp_path / "log.txt"
    print(kill_again_and_again(command, output, log, without_times=without_coding, is_unfinished=is_unfinished))


def without_times(name: str, content: bytes) -> bytes:
    """The content without durations and rates."""
    if name.endswith("metrics.json"):
        values = json.loads(content)
        return json.dumps({key: value for key, value in values.items() if "second" not in key}).encode()
    if name.endswith(".html"):
        return re.sub(rb"[\d.]+ (images |images )?(per|in|s\b)[^<]*", b"", content)
    return content


@pytest.mark.parametrize("task", ["instance", "panoptic", "semantic"])
def test_evaluate(task: str, tmp_path: Path) -> None:
    output = tmp_path / "out"
    command = ["evaluate", "scenes-tiny", "--device", "cpu", "--scenes", "8", "--size", "64", "-t", task]
    command += ["--report", str(output / "report"), "--json", str(output / "metrics.json")]
    command += ["--results", str(output / ("maps" if task == "semantic" else "results.json"))]
    print(task, kill_again_and_again(command, output, tmp_path / "log.txt", without_times=without_times))


@pytest.mark.parametrize("name", ["mine.safetensors", "mine"])
def test_convert(name: str, tmp_path: Path) -> None:
    output = tmp_path / "out"
    command = ["convert", "scenes-tiny", str(output / name)]
    print(name, kill_again_and_again(command, output, tmp_path / "log.txt", once=True))


@pytest.mark.parametrize("name", ["mean.safetensors", "mean"])
def test_average(name: str, tmp_path: Path) -> None:
    output = tmp_path / "out"
    command = ["average", "scenes-tiny", "scenes-tiny", "-o", str(output / name)]
    print(name, kill_again_and_again(command, output, tmp_path / "log.txt", once=True))


@pytest.mark.parametrize("workers", [0, 2])
def test_prepare(workers: int, tmp_path: Path) -> None:
    downloaded, root = tmp_path / "downloaded", tmp_path / "data"
    ade20k(downloaded)
    folder = downloaded / "ADEChallengeData2016"
    for kind, suffix in (("images", "jpg"), ("annotations", "png"), ("annotations_instance", "png")):
        for split in ("training", "validation"):
            first = sorted((folder / kind / split).iterdir())[0]
            for index in range(60):  # more than are done without processes
                shutil.copy(first, first.with_name(f"more_{index:03}.{suffix}"))

    def fresh() -> None:
        shutil.rmtree(root, ignore_errors=True)
        shutil.copytree(downloaded, root)

    def is_unfinished(name: str, content: bytes) -> bool:
        return name.endswith(".journal")

    command = ["prepare", "ade20k", "--data-root", str(root), "--workers", str(workers)]
    log = tmp_path / "log.txt"
    print(workers, kill_again_and_again(command, root, log, fresh=fresh, is_unfinished=is_unfinished))
