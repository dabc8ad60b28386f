"""Tests that need a package are skipped without it, but fail where it must be installed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

NEEDS = 'import pytest\npytest.importorskip("a_package_that_nobody_has")\n'
TESTS = """
import pytest

def test_needs_more_than_there_is():
    pytest.importorskip("a_package_that_nobody_has")

def test_needs_a_device():
    pytest.skip("no CUDA device")
"""


@pytest.mark.parametrize(("complete", "outcome"), [(False, "3 skipped"), (True, "1 failed, 1 skipped, 1 error")])
def test_a_missing_package_is_a_failure_where_all_are_there(complete: bool, outcome: str, tmp_path: Path) -> None:
    (tmp_path / "conftest.py").write_text((Path(__file__).parents[1] / "conftest.py").read_text(encoding="utf-8"))
    (tmp_path / "test_import.py").write_text(NEEDS)
    (tmp_path / "test_some.py").write_text(TESTS)
    environment = {name: value for name, value in os.environ.items() if name != "MASK2FORMER_ALL_PACKAGES"}
    environment |= {"MASK2FORMER_ALL_PACKAGES": "1"} if complete else {}
    environment["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"  # their imports take seconds
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--continue-on-collection-errors", "."]
    ran = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert outcome in ran.stdout.splitlines()[-1], ran.stdout
    assert (ran.returncode != 0) == complete
