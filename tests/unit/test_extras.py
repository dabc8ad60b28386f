"""Optional packages: which extra is named where one is missing, and what counts as missing."""

from __future__ import annotations

import importlib
import io
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from mask2former.bulk.results import open_results
from mask2former.bulk.run import predict_bulk
from mask2former.bulk.sources import list_sources
from mask2former.bulk.stores import open_store
from mask2former.config import RunConfig, parse
from mask2former.errors import MissingExtraError
from mask2former.evaluation.curves import check_plot
from mask2former.export.writers import check_installed
from mask2former.extras import need
from mask2former.inference import cvat
from mask2former.inference.exported.onnx import OnnxRuntime
from mask2former.inference.exported.openvino import OpenVinoRuntime
from mask2former.inference.ray_cluster import joined_cluster
from mask2former.media.dicom_files import open_dicom
from mask2former.media.frames import open_frames
from mask2former.media.slides import SlideRegions
from mask2former.media.tiff_files import open_tiff
from mask2former.media.tiff_regions import TiffRegions
from mask2former.ops.shapes import shape_of
from mask2former.progress import silent
from mask2former.results_io.imagej import RoiFiles
from mask2former.results_io.table import TableFiles
from mask2former.results_io.video import VideoWriter
from mask2former.structures import Categories, Instances
from mask2former.training import need_lightning
from mask2former.training.loggers import Loggers
from mask2former.web.server import open_app, open_models

FILE = Path("file")
CATEGORIES = Categories.from_names(["cell"])
CELLS = Instances(np.ones((1, 2, 2), bool), np.zeros(1, np.int64), np.ones(1), np.zeros((1, 4)), CATEGORIES)


def log(name: str) -> Callable[[], object]:
    config = parse(RunConfig, {"output": "run", "trainer": {"loggers": ["csv", name]}}, "test")
    return lambda: Loggers(config, resume=False)


# extra, package, and a call that needs it
CALLS: list[tuple[str, str, Callable[[], object]]] = [
    ("train", "lightning", need_lightning),
    ("train", "tensorboard", log("tensorboard")),
    ("wandb", "wandb", log("wandb")),
    ("mlflow", "mlflow", log("mlflow")),
    ("video", "av", lambda: open_frames(0)),
    ("video", "av", lambda: VideoWriter("clip.mp4", 25)),
    ("report", "matplotlib", lambda: check_plot(Path("curves.png"))),
    *(("export", name, lambda: check_installed("onnx")) for name in ("onnx", "onnxscript", "onnxruntime")),
    *(("export", name, lambda: check_installed("openvino")) for name in ("onnx", "onnxscript", "openvino")),
    ("export", "onnxruntime", lambda: OnnxRuntime(FILE)),
    ("export", "openvino", lambda: OpenVinoRuntime(FILE)),
    ("dicom", "pydicom", lambda: open_dicom(io.BytesIO(), "a.dcm", None).__enter__()),
    ("microscopy", "tifffile", lambda: open_tiff(io.BytesIO(), "a.tif", None).__enter__()),
    ("microscopy", "imagecodecs", lambda: open_tiff(io.BytesIO(), "a.tif", None).__enter__()),
    ("microscopy", "tifffile", lambda: TiffRegions(FILE)),
    ("slides", "openslide", lambda: SlideRegions(FILE)),
    ("table", "skimage", lambda: shape_of(np.ones((2, 2), bool))),
    ("table", "pyarrow", lambda: TableFiles("table.parquet", CATEGORIES)),
    ("table", "skimage", lambda: TableFiles("table.csv", CATEGORIES)),
    ("table", "pandas", CELLS.to_dataframe),
    ("supervision", "supervision", CELLS.to_supervision),
    ("imagej", "roifile", lambda: RoiFiles("regions")),
    ("cvat", "cvat_sdk", lambda: cvat.create("scenes-tiny")),
    ("ray", "ray", lambda: joined_cluster(None, 1, silent).__enter__()),
    *(("ray", name, lambda: predict_bulk("scenes-tiny", "photos", "out")) for name in ("ray", "pyarrow", "fsspec")),
    ("ray", "pyarrow", lambda: open_results("out")),
    ("ray", "pyarrow", lambda: list_sources(["list.parquet"], column="image")),
    ("ray", "fsspec", lambda: open_store("memory://out")),
    *(("web", name, lambda: open_models(["scenes-tiny"])) for name in ("gradio", "fastapi", "uvicorn")),
    *(("web", name, lambda: open_app({}).__enter__()) for name in ("gradio", "fastapi")),
    *(
        ("serve", name, lambda: importlib.import_module("mask2former.serve"))
        for name in ("fastapi", "prometheus_client", "python_multipart", "uvicorn")
    ),
]


@pytest.mark.parametrize(("extra", "package", "call"), CALLS)
def test_the_extra_that_brings_a_missing_package_is_named(
    extra: str, package: str, call: Callable[[], object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("os.getpid", lambda: -1)  # a process without a core of OpenVINO
    for name in [name for name in sys.modules if name.startswith("mask2former.serve")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingExtraError, match=rf"is needed to .*: pip install 'mask2former\[{extra}\]'"):
        call()
    assert not list(tmp_path.iterdir())


def test_a_folder_of_the_name_is_not_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Python imports it, as a namespace; wandb leaves one in the working directory."""
    (tmp_path / "some_logger" / "runs").mkdir(parents=True)
    monkeypatch.syspath_prepend(tmp_path)
    importlib.import_module("some_logger")
    with pytest.raises(MissingExtraError, match="some-logger is not installed"):
        need("wandb", "some_logger", to="log")


@pytest.mark.parametrize("content", ["raise ImportError('no libraw.so')", "import a_dependency_that_is_missing"])
def test_a_package_that_cannot_be_loaded_is_not_called_missing(
    content: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "roifile.py").write_text(content)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "roifile", raising=False)
    with pytest.raises(ImportError, match=r"libraw|a_dependency") as caught:
        RoiFiles(tmp_path / "regions")
    assert not isinstance(caught.value, MissingExtraError)
