"""Signals end compiled code that waits, and leave code alone that ends by itself."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import pytest

from mask2former import interrupts


@pytest.fixture(autouse=True)
def forgotten() -> Iterator[None]:
    """Forget the signals received here, which would end later commands in this process."""
    yield
    with interrupts.raised():
        pass


_DEADLOCK = """
import ctypes, sys
from mask2former import interrupts
mutex, lock = ctypes.create_string_buffer(64), ctypes.CDLL(None).pthread_mutex_lock
with interrupts.raised(), interrupts.ending(lambda: print("said", flush=True), 130, grace=0.1):
    lock(mutex)
    print("waits", flush=True)
    lock(mutex)  # for ever, and no handler of Python runs
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the mutex of the C library of Linux")
def test_a_signal_ends_a_wait_in_compiled_code() -> None:
    with subprocess.Popen([sys.executable, "-c", _DEADLOCK], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            assert process.stdout.readline() == "waits\n"
            time.sleep(0.5)  # it prints this just before
            process.send_signal(signal.SIGTERM)
            assert process.wait(60) == 130
            assert process.stdout.read() == "said\n"
        finally:
            process.kill()


def test_a_block_that_a_handler_ends_goes_on() -> None:
    said = []
    before = signal.set_wakeup_fd(-1)
    signal.set_wakeup_fd(before)
    with (
        pytest.raises(KeyboardInterrupt),
        interrupts.raised(),
        interrupts.ending(lambda: said.append(1), 130, grace=60),
    ):
        os.kill(os.getpid(), signal.SIGTERM)
    assert not said
    after = signal.set_wakeup_fd(-1)
    signal.set_wakeup_fd(after)
    assert after == before


def test_a_wait_that_handlers_do_not_end_is_said_and_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str | int] = []
    ended = threading.Event()

    def end(code: int) -> None:
        done.append(code)
        ended.set()

    monkeypatch.setattr(os, "_exit", end)
    before = signal.signal(signal.SIGTERM, lambda *_: None)
    try:
        with interrupts.ending(lambda: done.append("said"), 130, grace=0.01):
            os.kill(os.getpid(), signal.SIGTERM)
            assert ended.wait(10)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert done == ["said", 130]


def test_other_threads_have_no_signals() -> None:
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    found: list[bool] = []

    def work() -> None:
        interrupts.exit_at_once(3)
        with interrupts.raised(), interrupts.ending(lambda: None, 130), interrupts.postponed() as is_stopped:
            found.append(is_stopped())

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [False]
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


_WORKER = """
import atexit, sys, time
from concurrent.futures import ThreadPoolExecutor
from mask2former import interrupts
wait = lambda seconds: time.sleep(seconds)
atexit.register(lambda: (wait(1), print("after threads", flush=True)))
with interrupts.raised():
    ThreadPoolExecutor(1).submit(wait, float(sys.argv[1]))
    interrupts.leave_threads(3, grace=0.5)
"""


@pytest.mark.parametrize(("seconds", "code", "said"), [("60", 3, ""), ("0", 0, "after threads\n")])
def test_a_thread_without_end_does_not_keep_a_program_that_has_ended(seconds: str, code: int, said: str) -> None:
    run = subprocess.run([sys.executable, "-c", _WORKER, seconds], stdout=subprocess.PIPE, text=True, timeout=50)
    assert (run.returncode, run.stdout) == (code, said)


def test_a_thread_may_go_on_where_a_command_is_called_from_python() -> None:
    before = threading.active_count()
    interrupts.leave_threads(3, grace=0.01)
    assert threading.active_count() == before
