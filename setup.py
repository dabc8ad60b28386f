"""Builds the CPU kernel of deformable sampling as a plain shared library; everything else is in pyproject.toml.

The library has a C interface and is loaded through ctypes: no Python or torch headers, no ABI tag. It is optional:
if it cannot be compiled, the installation continues with a one-line message, and torch operators do the work.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext

SOURCES = "src/mask2former/ops/deform_attn/csrc"


class BuildSharedLibrary(build_ext):
    """Calls the C compiler once, for the only source file."""

    def get_ext_filename(self, fullname: str) -> str:
        return str(Path(*fullname.split("."))) + ".so"

    def build_extension(self, ext: Extension) -> None:
        target = Path(self.get_ext_fullpath(ext.name))
        target.parent.mkdir(parents=True, exist_ok=True)
        # Written under another name first, so that a failed build leaves no broken library behind.
        unfinished = target.with_suffix(".tmp")
        flags = ["-std=gnu11", "-O3", "-fPIC", "-shared", "-pthread", "-Wno-psabi"]
        compilers = [os.environ["CC"]] if os.environ.get("CC") else ["cc", "gcc", "clang"]
        extra = shlex.split(os.environ.get("CFLAGS", ""))
        problem = ""
        for compiler in compilers:
            command = [*shlex.split(compiler), *flags, *extra, ext.sources[0], "-o", str(unfinished)]
            problem = self._failure(command)
            if not problem:
                break
        if problem:
            unfinished.unlink(missing_ok=True)
            target.unlink(missing_ok=True)
            print(
                "mask2former: CPU kernel not built, the slower torch operators will be used instead"
                f" ({problem.splitlines()[0]})",
                file=sys.stderr,
            )
        else:
            unfinished.replace(target)

    @staticmethod
    def _failure(command: list[str]) -> str:
        """Why the command failed; empty if it succeeded."""
        try:
            run = subprocess.run(command, capture_output=True, text=True, check=False)
        except OSError as error:
            return str(error)
        return "" if run.returncode == 0 else f"{command[0]}: {run.stderr.strip() or f'exit status {run.returncode}'}"


class WheelForAnyPython(bdist_wheel):
    """One wheel per platform: the library does not depend on Python, so it fits every version of it."""

    def get_tag(self) -> tuple[str, str, str]:
        return "py3", "none", super().get_tag()[2]


setup(
    ext_modules=[
        Extension(
            "mask2former.ops.deform_attn._deform_attn",
            sources=[f"{SOURCES}/deform_attn.c"],
            depends=[f"{SOURCES}/kernel.h", f"{SOURCES}/types.h"],
            optional=True,
        )
    ],
    cmdclass={"build_ext": BuildSharedLibrary, "bdist_wheel": WheelForAnyPython},
)
