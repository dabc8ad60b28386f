"""Many jobs in several processes: order, faults, and stopping."""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mask2former.data.parallel import map_in_processes
from mask2former.errors import FailedError


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


def test_a_process_that_is_killed_is_reported_with_the_remedy() -> None:
    with pytest.raises(FailedError, match=r"memory may have run out \(use fewer"):
        list(map_in_processes(os._exit, [1] * 60, 2))


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
@pytest.mark.parametrize("wait", [0.01, 0.15, 0.6])
def test_ctrl_c_while_workers_start_ends_them_without_their_tracebacks(tmp_path: Path, wait: float) -> None:
    script = tmp_path / "endless.py"
    script.write_text(_ENDLESS.format(wait=wait))
    process = subprocess.Popen(
        [sys.executable, str(script)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "now\n"
    os.killpg(process.pid, signal.SIGINT)
    sent = time.monotonic()
    _, errors = process.communicate(timeout=60)
    assert time.monotonic() - sent < 25  # all of the jobs take twice that
    assert process.returncode != 0
    assert errors.count("Traceback") == errors.count("KeyboardInterrupt") == 1  # that of the caller, who handles it


_KILLED = """
import sys, time, mask2former.data.parallel as parallel
if __name__ == "__main__":
    for pid in parallel.map_in_processes(work, range(5000), 2):
        print(pid, flush=True)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX")
def test_workers_leave_when_the_parent_is_killed(tmp_path: Path) -> None:
    # In a separate module, since workers import the script again.
    (tmp_path / "some_work.py").write_text(
        "import os, time\ndef work(job): time.sleep(600 if job > 40 else 0.01); return os.getpid()"
    )
    script = tmp_path / "killed.py"
    script.write_text("from some_work import work" + _KILLED)
    process = subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    workers = {int(process.stdout.readline()) for _ in range(30)}
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    end = time.monotonic() + 10
    while (left := [pid for pid in workers if _is_running(pid)]) and time.monotonic() < end:
        time.sleep(0.01)
    assert not left
    process.stdout.close()


def _is_running(pid: int) -> bool:
    """Whether a process exists and is not a zombie."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    status = Path(f"/proc/{pid}/stat")
    return not status.exists() or status.read_text().rpartition(") ")[2][0] != "Z"


def test_workers_of_conversions_do_without_torch() -> None:
    """Importing the modules of conversions imports no torch, which would take half a gigabyte in each worker."""
    code = (
        "import sys; from mask2former.dataset_tools.prepare import ade20k, datasets; from mask2former.ops import masks"
    )
    code += "; print([name for name in ('torch', 'pydantic', 'matplotlib') if name in sys.modules])"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout == "[]\n"
