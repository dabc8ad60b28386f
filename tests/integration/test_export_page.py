"""The programs in Python, JavaScript and C++ on the page ``docs/export.md`` run unchanged, on one file."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mask2former.config import InferenceConfig, MaskedDecoderConfig, ModelConfig, MSDeformAttnConfig, TimmConfig
from mask2former.data.datasets.scenes import Scenes
from mask2former.export import export
from mask2former.models.build import build_model
from mask2former.scenes.classes import SCENE_CATEGORIES

onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

pytestmark = pytest.mark.slow
PAGE = Path(__file__).parents[2] / "docs/export.md"
SIZE = (96, 128)  # of the network, where the page has 800x1067
HEADERS = os.environ.get("ONNXRUNTIME_HEADERS", "")  # the folder of onnxruntime_cxx_api.h
JAVASCRIPT = """
import {{ readFileSync, writeFileSync }} from "node:fs";
const canvas = {{ width: {width}, height: {height} }};
const rgba = new Uint8ClampedArray(readFileSync("street.rgba"));
const context = {{ getImageData: (x, y, width, height) => ({{ data: rgba, width, height }}) }};
{page}
writeFileSync("ids.json", JSON.stringify({{ ids: Array.from(ids.data), dims: ids.dims }}));
"""


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGE.read_text(encoding="utf-8"), flags=re.DOTALL)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An image in each format that the programs read, and an exported file that returns panoptic results."""
    folder = tmp_path_factory.mktemp("page")
    config = ModelConfig(
        backbone=TimmConfig(model="resnet10t", norm="batch", kwargs={"channels": [16, 24, 32, 40]}),
        pixel_decoder=MSDeformAttnConfig(dim=32, mask_dim=32, num_layers=1, num_heads=2, feedforward_dim=32),
        transformer_decoder=MaskedDecoderConfig(dim=32, num_queries=8, num_layers=3, num_heads=2, feedforward_dim=32),
        inference=InferenceConfig(score_threshold=0.0, overlap_threshold=0.0),
    )
    model = build_model(config, len(SCENE_CATEGORIES))
    model.categories = SCENE_CATEGORIES
    export(model.eval(), folder / "street.onnx", results="panoptic")
    image = Image.fromarray(Scenes((72, 96), seed=0, length=1).image(0))
    image.save(folder / "street.jpg")
    resized = Image.open(folder / "street.jpg").convert("RGB").resize((SIZE[1], SIZE[0]), Image.Resampling.BILINEAR)
    resized.save(folder / "street.ppm")
    (folder / "street.rgba").write_bytes(resized.convert("RGBA").tobytes())
    return folder


@pytest.fixture(scope="module")
def of_python(folder: Path) -> tuple[np.ndarray, list[tuple[int, float, int]]]:
    """The result of the page's Python program: the map of ids, and (label, score, area) of the segments."""
    [block] = [block for block in blocks("python") if "onnxruntime" in block]
    sized = (
        block.replace("(1067, 800)", "(128, 96)").replace("800, 1067", "96, 128").replace(":800, :1067", ":96, :128")
    )
    names: dict[str, Any] = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        exec(compile(sized, str(PAGE), "exec"), names)
    kept = np.flatnonzero(names["segment_ids"][0])
    assert len(kept)
    areas = [int((names["ids"] == names["segment_ids"][0, query]).sum()) for query in kept]
    return names["ids"], [
        (int(names["labels"][0, query]), float(names["scores"][0, query]), area)
        for query, area in zip(kept, areas, strict=True)
    ]


@pytest.mark.network  # npm downloads the runtime
@pytest.mark.skipif(shutil.which("npm") is None or shutil.which("node") is None, reason="needs node and npm")
def test_javascript(folder: Path, of_python: tuple[np.ndarray, Any]) -> None:
    [page] = blocks("js")
    (folder / "page.mjs").write_text(JAVASCRIPT.format(width=SIZE[1], height=SIZE[0], page=page))
    (folder / "package.json").write_text("{}")
    for command in (["npm", "install", "--no-audit", "--no-fund", "onnxruntime-web"], ["node", "page.mjs"]):
        run = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
        assert run.returncode == 0, run.stderr
    shutil.rmtree(folder / "node_modules")  # 150 MB
    found = json.loads((folder / "ids.json").read_text())
    ids = np.reshape(found["ids"], found["dims"])[0, : SIZE[0], : SIZE[1]]
    assert (ids != of_python[0]).mean() < 2e-3


@pytest.mark.skipif(not HEADERS or shutil.which("g++") is None, reason="needs g++, and ONNXRUNTIME_HEADERS")
def test_c_plus_plus(folder: Path, of_python: tuple[Any, list[tuple[int, float, int]]]) -> None:
    libraries = list(Path(onnxruntime.__file__).parent.glob("capi/libonnxruntime.so.*"))
    if not libraries:
        pytest.skip("this package of onnxruntime has no library of its own")
    for name in ("libonnxruntime.so", "libonnxruntime.so.1"):  # as linkers and loaders look for it
        (folder / name).symlink_to(libraries[0])
    [page] = blocks("cpp")
    (folder / "segment.cpp").write_text(page)
    compiler = ["g++", "-std=c++17", "-Wall", "-Werror", f"-I{HEADERS}", "segment.cpp", "-L.", "-lonnxruntime"]
    subprocess.run([*compiler, "-Wl,-rpath,$ORIGIN", "-o", "segment"], cwd=folder, check=True)
    command = ["./segment", "street.onnx", "street.ppm"]
    run = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True)
    found = [tuple(map(float, line.split())) for line in run.stdout.splitlines()]
    np.testing.assert_allclose(found, of_python[1], rtol=1e-4, atol=8)
