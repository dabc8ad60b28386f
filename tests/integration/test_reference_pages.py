"""The examples in the Python reference run unchanged, one after the other on each page.

``python tests/integration/test_reference_pages.py`` updates their outputs.
"""

from __future__ import annotations

import contextlib
import doctest
import os
import re
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest

FOLDER = Path(__file__).parents[2] / "docs" / "reference"
PAGES = sorted(path for path in FOLDER.glob("*.md") if ">>> " in path.read_text(encoding="utf-8"))
_BLOCK = re.compile(r"(?<=^```pycon\n)(.*?)(?=^```)", re.DOTALL | re.MULTILINE)


def _examples(page: Path) -> doctest.DocTest:
    text = "\n".join(_BLOCK.findall(page.read_text(encoding="utf-8")))
    return doctest.DocTestParser().get_doctest(text, {"Path": Path}, page.name, str(page), 0)


@pytest.mark.usefixtures("small_overlays")
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_the_examples_of_a_page(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    said: list[str] = []
    doctest.DocTestRunner().run(_examples(page), out=said.append)
    assert not said, "".join(said)


class _Writer(doctest.DocTestRunner):
    """Records the output of each example."""

    def __init__(self) -> None:
        super().__init__()
        self.outputs: list[str] = []

    def report_start(self, out: Any, test: Any, example: Any) -> None:
        self.outputs.append("")

    def report_success(self, out: Any, test: Any, example: Any, got: str) -> None:
        self.outputs[-1] = got

    report_failure = report_success

    def report_unexpected_exception(self, out: Any, test: Any, example: Any, exc_info: Any) -> None:
        raise exc_info[1]


def _written(page: Path) -> str:
    """The page with the current outputs of its examples."""
    examples, writer = _examples(page), _Writer()
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        writer.run(examples, out=lambda text: None, clear_globs=False)
    outputs = iter(writer.outputs)

    def block(found: re.Match[str]) -> str:
        lines = []
        for example in doctest.DocTestParser().get_examples(found[0]):
            first, *rest = example.source.splitlines()
            lines += [f">>> {first}", *(f"... {line}" for line in rest), *next(outputs).splitlines()]
        return "".join(f"{line}\n" for line in lines)

    return _BLOCK.sub(block, page.read_text(encoding="utf-8"))


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    for page in [Path(name).resolve() for name in sys.argv[1:]] or PAGES:
        page.write_text(_written(page), encoding="utf-8")
