"""The kernel is built where there is a compiler, and missed by nobody where there is none."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def build(folder: Path, **environment: str) -> tuple[subprocess.CompletedProcess[str], list[Path]]:
    """Run the build hook into ``folder``; the tree stays as it is."""
    indices = ["--build-lib", str(folder), "--build-temp", str(folder / "temp")]
    command = [sys.executable, "setup.py", "build_ext", *indices]
    run = subprocess.run(
        command, cwd=ROOT, env={**os.environ, **environment}, capture_output=True, text=True, check=False
    )
    return run, list(folder.rglob("*.so"))


def test_without_a_compiler_the_build_goes_on_and_says_so(tmp_path: Path) -> None:
    run, libraries = build(tmp_path, CC="/bin/false")
    assert run.returncode == 0, run.stderr
    assert libraries == []
    assert run.stderr.count("CPU kernel not built, the slower torch operators will be used instead") == 1


@pytest.mark.skipif(not any(map(shutil.which, ("cc", "gcc", "clang"))), reason="no C compiler here")
def test_with_a_compiler_there_is_a_library(tmp_path: Path) -> None:
    run, (library,) = build(
        tmp_path, CFLAGS="-O0"
    )  # the flags of the environment come last, and this takes a tenth of the time
    assert run.returncode == 0, run.stderr
    assert library.name == "_deform_attn.so"
