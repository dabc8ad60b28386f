"""The kernel is built if there is a compiler, and everything works without one."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def build(folder: Path, **environment: str) -> tuple[subprocess.CompletedProcess[str], list[Path]]:
    """Run the build hook into ``folder``; the source tree does not change."""
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


@pytest.mark.long
@pytest.mark.skipif(not any(map(shutil.which, ("cc", "gcc", "clang"))), reason="no C compiler here")
def test_with_a_compiler_there_is_a_library(tmp_path: Path) -> None:
    run, (library,) = build(
        tmp_path, CFLAGS="-O0"
    )  # the flags of the environment come last, and this takes a tenth of the time
    assert run.returncode == 0, run.stderr
    assert library.name == "_deform_attn.so"


@pytest.mark.slow  # ten seconds of one core
@pytest.mark.skipif(not any(map(shutil.which, ("cc", "gcc", "clang"))), reason="no C compiler here")
def test_a_wheel_has_the_kernel_and_is_for_every_python(tmp_path: Path) -> None:
    source = tmp_path / "source"
    shutil.copytree(ROOT / "src", source / "src", ignore=shutil.ignore_patterns("*.so", "__pycache__", "*.egg-info"))
    for name in ("pyproject.toml", "setup.py", "MANIFEST.in", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    subprocess.run(
        [sys.executable, "setup.py", "-q", "bdist_wheel", "-d", str(tmp_path)],
        cwd=source,
        env={**os.environ, "CFLAGS": "-O0"},
        check=True,
        capture_output=True,
    )
    [wheel] = tmp_path.glob("*.whl")
    assert wheel.stem.split("-")[2:4] == ["py3", "none"]
    assert wheel.stem.split("-")[4] != "any"
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    assert "mask2former/ops/deform_attn/_deform_attn.so" in names
    assert not any(name.startswith("tests/") for name in names)
