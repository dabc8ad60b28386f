"""The memory that a model or an exported file needs, measured in a separate process.

In a process that has run another model, memory freed by that model would be reused and not be counted.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from mask2former.config import Task
from mask2former.errors import FailedError
from mask2former.inference.opening import open_predictor
from mask2former.inference.predictor import Predictor
from mask2former.text import printable

__all__ = ["main", "peak_of_process"]

_STATUS = Path("/proc/self/status")
_START = "from mask2former.export.process_memory import main; main()"


def peak_of_process(
    source: str | Path, image: UInt8[np.ndarray, "H W C"], task: Task, loading: Mapping[str, Any]
) -> int | None:
    """Maximum bytes of a process that loads a model and segments an image, beyond Python and PyTorch.

    Args:
        source: the name or file of a model, or an exported file.
        image: that was read.
        task: of the result.
        loading: arguments of :func:`~mask2former.inference.opening.open_predictor`.

    Returns:
        None if the system does not report it; only Linux does.

    Raises:
        FailedError: the process ended without a figure, for instance because memory ran out.
    """
    if not _STATUS.exists():
        return None
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "image.npy"
        np.save(file, image)
        request = json.dumps({"source": str(source), "image": str(file), "task": task, "loading": dict(loading)})
        command = [sys.executable, "-c", _START, request]
        paths = os.pathsep.join(path for path in sys.path if path)  # a package that is imported from a source tree
        environment = {**os.environ, "PYTHONPATH": paths, "PYTHONWARNINGS": "ignore"}
        run = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    try:
        return int(run.stdout.splitlines()[-1])
    except (IndexError, ValueError) as error:
        reason = printable((run.stderr.strip().splitlines() or [f"exit status {run.returncode}"])[-1], 300)
        raise FailedError(f"'{source}': its memory could not be measured: {reason}") from error


def main() -> None:
    """What the process does: the request is its first argument, the figure its last line."""
    request = json.loads(sys.argv[1])
    image = np.load(request["image"])
    before = _memory("VmRSS")
    predictor: Predictor = open_predictor(request["source"], device="cpu", quiet=True, **request["loading"])
    predictor(image, request["task"], **predictor.settings.as_read)
    print(_memory("VmHWM") - before)


def _memory(name: str) -> int:
    """``VmRSS`` or ``VmHWM`` of this process, in bytes; ``ru_maxrss`` is also that of the process it was started by."""
    for line in _STATUS.read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) << 10
    raise AssertionError(name)
