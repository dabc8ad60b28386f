"""The memory of a long ``predict`` run does not grow; ``pytest -m slow -s`` of this file prints the figures."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

IMAGES, WINDOW = 5000, 500

# In a separate process, whose memory nothing else uses.
PROGRAM = """
import os, statistics, sys
from pathlib import Path
import numpy as np
from PIL import Image
from mask2former import predict_files
from mask2former.data.datasets.scenes import Scenes

folder, count, window = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
(folder / "images").mkdir()
scenes = Scenes((64, 64), length=count)
for index in range(count):
    Image.fromarray(scenes.image(index)).save(folder / "images" / f"{index:05}.png")


def resident_now():
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


resident, done = [], []


def observe(outcome):
    resident.append(resident_now())
    done.append(outcome.status)


options = {"task": "instance", "device": "cpu", "coco": folder / "r.json", "observe": observe}
predict_files("scenes-tiny", [folder / "images"], folder / "out", **options)
assert done == ["done"] * count, len(done)
windows = [statistics.median(resident[at - window : at]) for at in range(window, count + 1, window)]
print("MiB", *(f"{value / 2**20:.1f}" for value in windows), "after the file of all results", resident_now() >> 20)
print("change", max(windows[1:]) / windows[0] - 1)
"""


@pytest.mark.slow
def test_five_thousand_images_keep_the_memory(tmp_path: Path) -> None:
    command = [sys.executable, "-c", PROGRAM, str(tmp_path), str(IMAGES), str(WINDOW)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=7200, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    *_, windows, change = done.stdout.splitlines()
    print(windows, change, sep="\n")
    assert float(change.split()[1]) < 0.02, windows
