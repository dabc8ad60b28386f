"""Signals end compiled code that waits, and leave code alone that ends by itself."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest

from mask2former import interrupts

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
            time.sleep(0.5)  # it says so just before
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
