# pyright: reportMissingImports=false, reportAttributeAccessIssue=false
"""Pickles and legacy ``.pth`` files: the content of the file is the input.

python tests/fuzz/fuzz_pickles.py -max_total_time=300
"""

from __future__ import annotations

from pathlib import Path

from weights import fuzz, try_file


def target(data: bytes, folder: Path) -> None:
    try_file(data, ".pkl", folder)


if __name__ == "__main__":
    fuzz(target, "pickles", 4096)
