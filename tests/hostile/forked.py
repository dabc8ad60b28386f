"""Commands that are started to be killed: forks of this process, since imports take longer than the measured part."""

from __future__ import annotations

import gc
import os
import random
import shutil
import signal
import sys
import time
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import torch

from mask2former import cli, files
from mask2former.__main__ import main

__all__ = ["Rank", "Started", "contents", "end_of_group", "kill_again_and_again", "random_signal"]

STOPPING = (signal.SIGKILL, signal.SIGKILL, signal.SIGKILL, signal.SIGINT, signal.SIGTERM)


class Started:
    """The command line in a separate process and process group, whose output is appended to a file.

    The constructor returns once the process handles signals. With a ``program``, a script that ends with ``main()``,
    its other lines are run before, and the ranks of a distributed run are started with it.
    """

    def __init__(self, args: Sequence[str], log: Path, program: Path | None = None) -> None:
        self.exitcode: int | None = None
        reading, writing = os.pipe()
        self.pid = os.fork()
        if self.pid:
            os.close(writing)
            os.read(reading, 1)
            os.close(reading)
            return
        code = 99
        try:
            os.setsid()
            gc.freeze()  # else a collection writes to all memory of the parent, and so copies it
            signal.signal(signal.SIGINT, signal.default_int_handler)
            warnings.simplefilter("ignore")  # pytest makes errors of them
            torch.set_num_threads(1)  # a fork does not have the parent's threads
            files._swept.clear()  # as in a new process
            stream = log.open("a")
            os.dup2(stream.fileno(), 1)
            os.dup2(stream.fileno(), 2)
            sys.stdout = sys.stderr = stream
            sys.argv[1:] = args
            run = cli.main

            def begin() -> int:
                cli.main = run
                os.write(writing, b"!")
                os.close(writing)
                return run()

            if program is not None:
                sys.argv[0] = str(program)
                sys.modules["__main__"].__spec__ = None  # Lightning: a script, no module of python -m
                exec(compile(program.read_text(), program, "exec"), {"__name__": "program"})
            cli.main = begin
            code = main()
            stream.flush()
        finally:
            os._exit(code)

    def is_alive(self) -> bool:
        if self.exitcode is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            self.exitcode = os.waitstatus_to_exitcode(status) if pid else None
        return self.exitcode is None

    def end(self, seconds: float = 300) -> int | None:
        deadline = time.monotonic() + seconds
        while self.is_alive() and time.monotonic() < deadline:
            time.sleep(0.01)
        return self.exitcode

    def kill(self, number: signal.Signals, *, is_group: bool) -> int | None:
        """Send a signal, check the exit code, wait for the processes that it has started, and return the exit code."""
        (os.killpg if is_group else os.kill)(self.pid, number)
        code = self.end()
        # 0: it had just ended, or all was done
        allowed = {-signal.SIGKILL if number == signal.SIGKILL else 128 + number, 0}
        assert code in allowed, (number, code)
        end_of_group(self.pid)
        return code


class Rank:
    """What Lightning needs of ``subprocess.Popen`` to start a rank, without the imports of a new process."""

    def __init__(self, command: Sequence[str], env: dict[str, str], cwd: str | None = None) -> None:
        self.returncode: int | None = None
        self.pid = os.fork()
        if self.pid:
            return
        from lightning.pytorch.utilities.rank_zero import rank_zero_only

        code = 99
        try:
            os.environ.clear()
            os.environ.update(env)
            # Lightning reads it from the environment when it is imported.
            setattr(rank_zero_only, "rank", int(env["LOCAL_RANK"]))  # noqa: B010
            torch.set_num_threads(1)  # a fork does not have the parent's threads
            code = main()
            sys.stdout.flush()
        finally:
            os._exit(code)

    def poll(self) -> int | None:
        if self.returncode is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            self.returncode = os.waitstatus_to_exitcode(status) if pid else None
        return self.returncode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)


def end_of_group(group: int) -> None:
    """Wait for all processes of a group, which end when they notice that the first one has ended."""
    deadline = time.monotonic() + 20
    while True:
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return
        assert time.monotonic() < deadline, "a process was left behind"
        time.sleep(0.05)


def random_signal(choice: random.Random) -> tuple[signal.Signals, bool]:
    """The signal to send, mostly SIGKILL, and whether the whole group gets it, as from a terminal."""
    return choice.choice(STOPPING), choice.random() < 0.5


def contents(folder: Path) -> dict[str, bytes]:
    """The content of all files by name, hidden ones and folders included."""
    paths = {f"{path.relative_to(folder)}": path for path in sorted(folder.rglob("*"))}
    return {name: path.read_bytes() if path.is_file() else b"folder" for name, path in paths.items()}


def kill_again_and_again(
    args: Sequence[str],
    output: Path,
    log: Path,
    *,
    kills: int = 20,
    seed: int = 15,
    without_times: Callable[[str, bytes], bytes] = lambda name, content: content,
    is_unfinished: Callable[[str, bytes], bool] = lambda name, content: False,
    fresh: Callable[[], object] | None = None,
    once: bool = False,
) -> str:
    """Kill a command at random moments and run it again each time; in the end all files are as after one run.

    After each kill, every file with its final name already has the content that an uninterrupted run writes.

    Args:
        args: arguments of the command line.
        output: the folder in which it writes everything; must not exist.
        log: collects the output.
        kills: number of kills.
        seed: seed of the moments and signals.
        without_times: removes the documented times from a file, given its name and content.
        is_unfinished: whether a file, given its name and content, says that it is not finished.
        fresh: restores ``output`` to its state before the first run; by default it is removed.
        once: whether the command refuses to run if its result exists.

    Returns:
        A line of figures.
    """

    def found() -> dict[str, bytes]:
        return {name: without_times(name, content) for name, content in contents(output).items()}

    def run() -> float:
        begin = time.monotonic()
        process = Started(args, log)
        assert process.end() == 0, log.read_text()[-3000:]
        end_of_group(process.pid)
        return time.monotonic() - begin

    fresh = fresh or partial(shutil.rmtree, output, ignore_errors=True)
    fresh()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    assert cli.main(list(args)) == 0  # here, so that all is imported before the forks
    torch.set_num_threads(threads)
    expected = found()
    fresh()
    length = run()
    again = found()
    assert again == expected, [name for name in expected if expected[name] != again.get(name)]
    fresh()

    choice, codes = random.Random(seed), Counter[str]()
    starts = ended = 0
    while sum(codes.values()) < kills:
        starts += 1
        assert starts < 10 * kills, codes
        process = Started(args, log)
        time.sleep(choice.uniform(0.0, length))
        number, is_group = random_signal(choice)
        if process.is_alive():
            code = process.kill(number, is_group=is_group)
            codes[number.name] += 1
        else:
            code = process.exitcode
            assert code == 0, log.read_text()[-3000:]
        if code == 0:
            assert found() == expected
            ended += 1
            fresh()
            continue
        for name, content in found().items():
            is_temporary = any(part.startswith(".m2f-") for part in Path(name).parts)
            if not is_temporary and not is_unfinished(name, content):
                assert content == expected.get(name), f"{name} is not as it should be after {number.name}"
        if once and found() == expected:  # it was killed when all was done
            ended += 1
            fresh()
    run()
    after = found()
    assert after.keys() == expected.keys(), after.keys() ^ expected.keys()
    assert not [name for name in after if after[name] != expected[name]]
    text = log.read_text()
    assert "Traceback" not in text, text[text.index("Traceback") :][:3000]
    return (
        f"{sum(codes.values())} kills ({dict(codes)}) in {starts} starts of {length:.1f} s; ended in between: {ended}"
    )
