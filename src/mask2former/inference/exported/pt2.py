"""PyTorch packages (``.pt2``): compiled code and weights, which PyTorch loads without the classes of the model.

Loading a package runs its code, but its metadata is read as text.
"""

from __future__ import annotations

import functools
import json
import zipfile
import zlib
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Int64, UInt8

from mask2former import limits
from mask2former.documents import parse_json
from mask2former.errors import UserError
from mask2former.inference.exported.info import KEY, ExportedInfo
from mask2former.inference.exported.opened_file import OpenedFile
from mask2former.text import printable

__all__ = ["CompiledRuntime", "add_info"]

_CPU_INFO = Path("/proc/cpuinfo")
_EXTENSIONS = ("amx", "avx", "bmi", "f16c", "fma", "sse", "sve", "asimd", "bf16", "i8mm")  # that compilers use


class CompiledRuntime(OpenedFile):
    """A compiled package on the CPU, with as many threads as torch has.

    Args:
        path: the file.
        device: must be the CPU, or None.
        trust_code: whether the code of the file may run.

    Raises:
        UserError: the code is not trusted; the device is not supported; or it is not our export, or for another
            processor.
    """

    name = "aotinductor"
    dtype = torch.float32

    def __init__(self, path: Path, device: torch.device | None = None, *, trust_code: bool = False) -> None:
        super().__init__(path, device)
        self.info, needed = _read_info(path)
        if device is not None and device.type != "cpu":
            raise UserError(f"PyTorch packages run on the CPU here, got device {device}")
        if not trust_code:
            raise UserError(
                f"'{path}' contains compiled code, which runs when the file is loaded: if you trust its author, set "
                "the environment variable MASK2FORMER_TRUST_CODE=1 (in Python: trust_code=True)"
            )
        here = _processor()
        if here and (missing := sorted(needed - here)):
            raise UserError(
                f"{path}: was compiled for a processor with {printable(missing[0], 40)}, which this one lacks; export "
                "the model on this machine"
            )
        from torch._inductor import aoti_load_package

        try:
            self._run = aoti_load_package(str(path))
        except Exception as error:  # the loader can raise anything
            reason = printable(str(error), 300)
            raise UserError(f"{path}: PyTorch cannot load it ({reason}); export the model again") from error

    def __reduce__(self) -> tuple[object, ...]:
        return functools.partial(type(self), trust_code=True), self._arguments  # trusted, since it has been opened

    def __call__(self, images: UInt8[np.ndarray, "B *T C H W"], sizes: Int64[np.ndarray, "B 2"], /) -> list[np.ndarray]:
        """See :class:`~mask2former.inference.exported.network.Runtime`."""
        self.check_process()
        return [output.numpy() for output in self._run(torch.from_numpy(images), torch.from_numpy(sizes))]


def add_info(path: Path, info: ExportedInfo) -> None:
    """Add its metadata to a package, with the processor for which it was compiled: this one."""
    with zipfile.ZipFile(path, "a") as package:
        root = package.namelist()[0].split("/")[0]
        package.writestr(f"{root}/extra/{KEY}.json", info.to_json())
        package.writestr(f"{root}/extra/processor.json", json.dumps(sorted(_processor())))


def _read_info(path: Path) -> tuple[ExportedInfo, frozenset[str]]:
    """The metadata that :func:`add_info` added; no code runs.

    Raises:
        UserError: the file is not such a package.
    """
    try:
        with zipfile.ZipFile(path) as package:
            names = {name.partition("/")[2]: name for name in package.namelist()}
            texts = []
            for entry in (f"extra/{KEY}.json", "extra/processor.json"):
                size = package.getinfo(names[entry]).file_size if entry in names else 0
                limits.check_limit(
                    f"{path}: its metadata has too many bytes:", size, limits.CONFIG_BYTES, "export it again"
                )
                texts.append(package.read(names[entry]).decode() if entry in names else None)
    except (zipfile.BadZipFile, zlib.error, OSError, UnicodeDecodeError, RuntimeError, EOFError) as error:
        raise UserError(
            f"{path}: not a PyTorch package ({printable(str(error), 200)}); export the model again"
        ) from error
    info = ExportedInfo.from_json(texts[0], str(path))
    found = parse_json((texts[1] or "[]").encode(), f"the processor of {path}")
    if not isinstance(found, list) or not all(isinstance(word, str) for word in found):
        raise UserError(f"{path}: its processor is not a list of words; export the model again")
    return info, frozenset(found)


def _processor() -> frozenset[str]:
    """The instruction sets of this processor that matter to compiled code; empty if the system does not list them."""
    if not _CPU_INFO.exists():
        return frozenset()
    lines = [line for line in _CPU_INFO.read_text().splitlines() if line.startswith(("flags", "Features"))]
    return frozenset(word for line in lines[:1] for word in line.split() if word.startswith(_EXTENSIONS))
