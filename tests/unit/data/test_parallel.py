"""Many jobs in several processes: order, faults, stopping."""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from mask2former.data.parallel import map_in_processes, num_processors


@pytest.mark.parametrize("num_workers", [0, 1, 2])
def test_results_come_in_the_order_of_the_jobs(num_workers: int) -> None:
    assert list(map_in_processes(math.factorial, range(60), num_workers)) == [math.factorial(k) for k in range(60)]
    assert list(map_in_processes(math.factorial, [], num_workers)) == []


@pytest.mark.parametrize("num_workers", [1, 2])
def test_a_fault_arrives_after_the_results_before_it(num_workers: int) -> None:
    jobs = [*range(50), -1, *range(50)]
    results = map_in_processes(math.factorial, jobs, num_workers)
    assert [next(results) for _ in range(48)] == [math.factorial(k) for k in range(48)]
    with pytest.raises(ValueError, match="negative"):
        list(results)


def test_closing_ends_it() -> None:
    results = map_in_processes(math.factorial, range(400), 2)
    assert next(results) == 1
    results.close()
    with pytest.raises(StopIteration):
        next(results)


_ENDLESS = """
import signal, threading, time, mask2former.data.parallel as parallel
if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job ignores it from birth
    # Said while the first workers start, which takes them some time.
    threading.Thread(target=lambda: (time.sleep({wait}), print("now", flush=True)), daemon=True).start()
    list(parallel.map_in_processes(time.sleep, [0.02] * 5000, 2))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX: one signal to a group of processes, as terminals send it")
@pytest.mark.parametrize("wait", [0.15, 0.6])
def test_ctrl_c_while_workers_start_ends_them_without_their_tracebacks(tmp_path: Path, wait: float) -> None:
    script = tmp_path / "endless.py"
    script.write_text(_ENDLESS.format(wait=wait))
    process = subprocess.Popen(
        [sys.executable, str(script)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "now\n"
    os.killpg(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode != 0
    assert errors.count("Traceback") == errors.count("KeyboardInterrupt") == 1  # that of the caller, who handles it


def test_there_is_a_processor() -> None:
    assert num_processors() >= 1
