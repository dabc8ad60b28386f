"""The memory of long training does not grow; ``pytest -m slow -s`` of this file prints the figures."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

# In a separate process, whose memory nothing else uses. MALLOC_ARENA_MAX as one would set it to read such figures.
PROGRAM = """
import sys, statistics
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from test_killed_training import run_file
import yaml
from mask2former.config import RunConfig, parse
from mask2former.training.module import TrainingModule
from mask2former.training.run import train

STEPS = int(sys.argv[3])
values = yaml.safe_load(run_file(Path(sys.argv[1]) / "run.yaml", Path(sys.argv[1]) / "run").read_text())
values["trainer"].update(max_steps=STEPS, checkpoint_interval=100, log_interval=20)
values["evaluation"].update(interval=100, num_images=2)
values["data"].update(num_workers=0)
resident, step = [], TrainingModule.training_step


def measured(self, window, batch_idx):
    resident.append(int(Path("/proc/self/statm").read_text().split()[1]) * 4096)
    return step(self, window, batch_idx)


TrainingModule.training_step = measured
train(parse(RunConfig, values, "soak"))
windows = [statistics.median(resident[at - 100 : at]) for at in range(200, STEPS + 1, 100)]
print("MiB", *(f"{value / 2**20:.1f}" for value in windows))
print("change", max(windows) / windows[0] - 1)
"""


@pytest.mark.slow
def test_two_thousand_steps_with_validations_keep_the_memory(tmp_path: Path) -> None:
    command = [sys.executable, "-c", PROGRAM, str(tmp_path), str(Path(__file__).parent), "2000"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=3600, check=True)
    *_, windows, change = done.stdout.splitlines()
    print(windows, change, sep="\n")
    assert float(change.split()[1]) < 0.02, windows
