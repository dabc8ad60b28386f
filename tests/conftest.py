"""Setup for all tests: where every package must be installed, a test that lacks one fails; output is UTF-8.

``pytest --hypothesis-profile=many`` tries ten times as many examples of each property.
"""

from __future__ import annotations

import atexit
import gc
import os
import signal
import sys
from collections.abc import Generator, Iterator
from typing import Any

import pytest
from hypothesis import settings

if "PYTEST_XDIST_WORKER" in os.environ:  # before torch is imported, since processes that share cores would contend
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # spinning would double the CPU time of two threads


def _end(process: int) -> None:
    """Exit without freeing a million objects one by one, which takes as long as a dozen tests."""
    if os.getpid() == process:  # not in forked children
        os._exit(0)


def pytest_configure(config: pytest.Config) -> None:
    """Let workers of pytest-xdist exit fast: nobody reads their exit status. Handlers registered later run first."""
    if hasattr(config, "workerinput"):
        atexit.register(_end, os.getpid())


settings.register_profile("few", max_examples=60, deadline=None, derandomize=True, database=None)
settings.register_profile("many", settings.get_profile("few"), max_examples=600)
settings.load_profile("few")  # --hypothesis-profile is applied later


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Turn garbage collection off while tests are collected, then freeze the million objects left: saves a fifth."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()  # with the ten that are garbage
        gc.enable()


@pytest.hookimpl(trylast=True)  # after pytest's own last searches
def pytest_unconfigure() -> None:
    """Unfreeze and collect frozen objects at the end; otherwise libraries would report them as leaked."""
    gc.unfreeze()


@pytest.fixture(scope="session", autouse=True)
def checked_sizes() -> Iterator[None]:
    """Check only once per configuration that a model is not too large; this takes longer than building a small one.

    Refused configurations are refused each time.
    """
    build = sys.modules.get("mask2former.models.build")  # not imported for tests that need no model
    if build is None:
        yield
        return
    check, fitting = build._check_size, set[tuple[str, int]]()

    def once(config: Any, num_classes: int) -> None:
        key = (repr(config), num_classes)
        if key not in fitting:
            check(config, num_classes)
            fitting.add(key)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(build, "_check_size", once)
        yield


@pytest.fixture
def default_signals() -> Iterator[None]:
    """Signals have their default effect, in this process and in processes started from it.

    A shell ignores SIGINT for background processes, ``nohup`` ignores SIGHUP, and their processes inherit this.
    """
    usual = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL}
    if hasattr(signal, "SIGHUP"):
        usual[signal.SIGHUP] = signal.SIG_DFL
    before = {number: signal.signal(number, handler) for number, handler in usual.items()}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture(scope="module")
def small_overlays() -> Iterator[None]:
    """Small images are drawn at their own size: enlarged 16 times, each takes ten times as long as its prediction.

    This is for files that predict dozens of times and do not check drawings.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("mask2former.visualization.readable_scale", lambda size_hw: 1)
        yield


@pytest.fixture
def unpredicted_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs do not estimate memory, which takes as long as a step or two.

    This is for tests that train but are not about memory.
    """
    from mask2former.training.memory import MemoryEstimate

    monkeypatch.setattr("mask2former.training.module.estimate_memory", lambda *_: MemoryEstimate(0, 0, 1))


COMPLETE = "MASK2FORMER_ALL_PACKAGES"  # set if everything is installed, as in .ci/run


def _fail_for_want_of_a_package(call: pytest.CallInfo[Any], report: pytest.TestReport | pytest.CollectReport) -> None:
    """Turn a skip by ``pytest.importorskip``, which nobody would notice among hundreds of dots, into a failure."""
    if COMPLETE not in os.environ or not report.skipped or call.excinfo is None:
        return
    if any(entry.name == "importorskip" for entry in call.excinfo.traceback):
        report.outcome = "failed"
        report.longrepr = f"{call.excinfo.value}: would be skipped, but {COMPLETE} says that every package is there"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[Any]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    _fail_for_want_of_a_package(call, report)
    # Output of tests may contain odd file names, and processes of pytest-xdist exchange UTF-8.
    report.sections = [
        (name, text.encode("utf-8", "backslashreplace").decode("utf-8")) for name, text in report.sections
    ]
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(
    collector: pytest.Collector,
) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    report = yield
    call = getattr(report, "call", None)
    if call is not None:
        _fail_for_want_of_a_package(call, report)
    return report
