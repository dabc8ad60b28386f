"""Rules of the architecture: which modules may import which, and the only place of each external package."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

import mask2former

ROOT = Path(__file__).parents[2]
PACKAGE = Path(mask2former.__file__).parent  # what is tested: the installed package or the source tree
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))

# Where a package may be imported; what is not named here may be imported anywhere.
HOMES = {
    "av": ("media/video.py", "results_io/video.py"),  # one reads, one writes
    "fastapi": ("serve/app.py", "serve/uploads.py", "web/page.py"),
    "cvat_sdk": ("inference/cvat.py",),
    "faster_coco_eval": ("ops/masks.py", "evaluation/"),
    "gradio": ("web/page.py",),
    "fsspec": ("bulk/",),
    "h5py": ("dataset_tools/prepare/coco_stuff_10k.py",),  # needed for one data set
    "lightning": ("training/",),
    "matplotlib": ("evaluation/curves.py",),
    "onnx": ("export/writers.py", "export/quantization.py"),
    "onnxruntime": ("inference/exported/onnx.py", "export/quantization.py"),  # one runs, one calibrates
    "openslide": ("media/slides.py",),
    "openvino": ("inference/exported/openvino.py", "export/writers.py"),  # one runs, one converts
    "pandas": ("structures/result_base.py",),
    "prometheus_client": ("serve/metrics.py",),
    "pyarrow": ("bulk/", "results_io/table.py"),
    "pydantic": ("config/", "structures/model_info.py"),
    "ray": ("inference/ray_cluster.py", "serve/on_ray.py", "bulk/engine.py"),
    "rich": ("cli/",),
    "roifile": ("results_io/imagej.py",),
    "safetensors": ("checkpoints/",),
    "skimage": ("ops/shapes.py",),
    "starlette": ("serve/app.py", "serve/uploads.py"),  # the basis of fastapi
    "supervision": ("structures/result_base.py",),
    "pillow_heif": ("media/image_files.py",),
    "pydicom": ("media/dicom_files.py",),
    "tifffile": ("media/tiff_files.py", "media/tiff_regions.py"),  # whole images, and parts of large ones
    "timm": ("models/backbones/", "checkpoints/formats/timm.py"),
    "transformers": ("checkpoints/compare_transformers.py",),  # compared with where it is installed
    "triton": ("ops/deform_attn/triton_kernels.py",),
    "typer": ("cli/",),
    "uvicorn": ("connections.py", "serve/running.py", "web/server.py"),
    "wandb": ("training/loggers.py",),
}
# Packages that only some users need, and the extra that installs each; all others are dependencies.
OPTIONAL = {
    "av": "video",
    "cvat_sdk": "cvat",
    "fastapi": "serve",
    "gradio": "web",
    "fsspec": "ray",
    "h5py": "test",
    "lightning": "train",
    "matplotlib": "report",
    "onnx": "export",
    "onnxruntime": "export",
    "openslide": "slides",
    "openvino": "export",
    "pandas": "table",
    "prometheus_client": "serve",
    "pyarrow": "ray",
    "ray": "ray",
    "roifile": "imagej",
    "skimage": "table",
    "starlette": "serve",
    "supervision": "supervision",
    "tifffile": "microscopy",
    "pillow_heif": "heic",
    "pydicom": "dicom",
    "transformers": "test",
    "uvicorn": "serve",
    "wandb": "wandb",
}
BROUGHT_BY_TORCH = {"triton"}  # on Linux with CUDA
IMPORT_NAMES = {
    "mlflow-skinny": "mlflow",
    "openslide-python": "openslide",
    "pillow": "PIL",
    "pyyaml": "yaml",
    "scikit-image": "skimage",
}  # of distributions that are imported by another name
WITHOUT_TORCH = (
    "errors.py",
    "config/",
    "recipes/__init__.py",
    "cli/__init__.py",
    "visualization/__init__.py",
    "structures/categories.py",
)
BLOCKS = ("body", "orelse", "finalbody", "handlers", "cases")  # where a statement holds others
ATTICS = {"utils", "util", "misc", "helpers", "common", "base", "legacy"}


@cache
def files() -> list[str]:
    return sorted(path.relative_to(PACKAGE).as_posix() for path in PACKAGE.rglob("*.py"))


@cache
def tree(file: str) -> ast.Module:
    return ast.parse((PACKAGE / file).read_text(encoding="utf-8"))


@cache
def statements(file: str) -> list[ast.stmt]:
    """All statements, also inside functions and classes; expressions, nine tenths of a tree, are not visited."""
    found, waiting = [], list[ast.AST](tree(file).body)
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.stmt):
            found.append(node)
        waiting += [child for name in BLOCKS for child in getattr(node, name, ())]
    return found


@cache
def imports(file: str) -> list[tuple[str, tuple[str, ...]]]:
    """``(module, names)`` of all import statements, inside functions too; no names for a plain ``import``."""
    return list(_imports(file))


def _imports(file: str) -> Iterator[tuple[str, tuple[str, ...]]]:
    for node in statements(file):
        if isinstance(node, ast.Import):
            yield from ((alias.name, ()) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: relative import"
            yield node.module or "", tuple(alias.name for alias in node.names)


def packages(file: str) -> set[str]:
    return {module.partition(".")[0] for module, _ in imports(file)}


def declared(requirements: list[str]) -> set[str]:
    """Import names of requirements."""
    names = (re.split(r"[\s\[<>=!~;]", requirement, maxsplit=1)[0] for requirement in requirements)
    return {IMPORT_NAMES.get(name.lower(), name.replace("-", "_")) for name in names}


def test_no_module_imports_from_a_higher_floor() -> None:
    # In a separate process: the linter changes sys.path and disables all existing loggers.
    code = "import sys, importlinter.cli; sys.exit(importlinter.cli.lint_imports(sys.argv[1], no_cache=True))"
    command = [sys.executable, "-c", code, str(ROOT / "pyproject.toml")]
    run = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    assert run.returncode == 0, run.stdout + run.stderr


def test_every_module_has_a_floor() -> None:
    (contract,) = PROJECT["tool"]["importlinter"]["contracts"]
    layers = {name.strip() for layer in contract["layers"] for name in layer.split("|")}
    top = {file.partition("/")[0].removesuffix(".py") for file in files()} - {"__init__", "__main__"}
    assert {f"mask2former.{name}" for name in top} == layers


@pytest.mark.parametrize("package", HOMES)
def test_an_outside_package_is_imported_in_its_place_only(package: str) -> None:
    importers = [file for file in files() if package in packages(file)]
    assert importers, f"{package} is not used any more"
    assert [file for file in importers if not file.startswith(HOMES[package])] == []


def test_every_outside_package_is_declared() -> None:
    core = declared(PROJECT["project"]["dependencies"])
    extras = PROJECT["project"]["optional-dependencies"]
    for package, extra in OPTIONAL.items():
        assert package in declared(extras[extra]), f"the extra '{extra}' does not bring {package}"
        assert package not in core
    for file in files():
        allowed = core | BROUGHT_BY_TORCH | {package for package in OPTIONAL if file.startswith(HOMES[package])}
        assert packages(file) <= allowed | {"mask2former"} | sys.stdlib_module_names, file


def test_only_one_module_says_what_is_missing() -> None:
    """An optional package is named with ``extras.need``, and with an extra that brings it."""
    extras = PROJECT["project"]["optional-dependencies"]
    for file in files():
        text = (PACKAGE / file).read_text(encoding="utf-8")
        if file != "extras.py":
            assert not re.search(r"find_spec|raise MissingExtraError", text), file
        for extra, names in re.findall(r'\bneed\("(\w+)", ((?:"\w+", )+)', text):
            assert set(re.findall(r"\w+", names)) <= declared(extras[extra]), f"{file}: {extra}"


def test_nothing_inside_imports_the_package_face() -> None:
    modules = {file.removesuffix(".py").removesuffix("/__init__").replace("/", ".") for file in files()}
    for file in files():
        taken = {name for module, names in imports(file) if module == "mask2former" for name in names}
        assert taken <= modules, file


@pytest.mark.parametrize("file", [file for file in files() if file.startswith(WITHOUT_TORCH)])
def test_the_ground_needs_no_torch(file: str) -> None:
    assert not packages(file) & {"torch", "torchvision", "timm"}


def test_tests_call_nothing_private() -> None:
    """Tests neither call nor import private functions of the package, which are not its behaviour."""
    defined = (ast.FunctionDef, ast.ClassDef)
    private = {
        node.name
        for file in files()
        for node in statements(file)
        if isinstance(node, defined) and node.name.startswith("_") and not node.name.endswith("_")
    }
    for path in sorted((ROOT / "tests").rglob("*.py")):
        text = path.read_text(encoding="utf-8")
        if private.isdisjoint(re.findall(r"\b_\w+", text)):
            continue
        nodes = list(ast.walk(ast.parse(text)))
        own = {node.name for node in nodes if isinstance(node, defined)}
        called = {
            node.func.attr for node in nodes if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)
        }
        imported = {
            alias.name
            for node in nodes
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("mask2former")
            for alias in node.names
        }
        assert not ((called - own) | imported) & private, path


def test_no_file_is_an_attic() -> None:
    assert not [file for file in files() if ATTICS & set(file.removesuffix(".py").split("/"))]


def test_help_and_import_load_nothing_heavy() -> None:
    code = (
        "import sys, mask2former, mask2former.cli, mask2former.recipes;"
        "heavy = {'torch', 'torchvision', 'timm', 'lightning', 'numpy', 'scipy', 'PIL'} & set(sys.modules);"
        "sys.exit(f'loaded: {heavy}' if heavy else 0)"
    )
    _runs(code)


@pytest.mark.long
def test_a_predictor_is_imported_and_used_without_what_costs_seconds() -> None:
    """A predictor with Swin loads none of the slow packages (with ResNets, timm imports torchvision)."""
    code = """
import sys
from mask2former import Predictor
HEAVY = {"torch._dynamo", "torchvision", "timm", "lightning", "av", "triton"}
heavy = {"scipy"} | HEAVY
heavy &= set(sys.modules)
import numpy as np
from mask2former.config import ModelConfig, SwinConfig
from mask2former.models.build import build_model
from mask2former.structures import Categories
swin = SwinConfig(embed_dim=16, depths=(1, 1, 1, 1), num_heads=(1, 1, 1, 1))
model = build_model(ModelConfig(backbone=swin), 1)
model.categories = Categories.from_names(["cat"])
Predictor(model, "cpu")(np.zeros((48, 64, 3), np.uint8), "panoptic", short_edge=48)
heavy |= HEAVY & set(sys.modules)
sys.exit(f"loaded: {heavy}" if heavy else 0)
"""
    _runs(code)


def _runs(code: str) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONWARNINGS"}
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=False)
    assert run.returncode == 0, run.stderr
