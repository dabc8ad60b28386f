"""The promises of ``docs/image-formats.md`` from the user's view: files of every kind, the command, the program."""

from __future__ import annotations

import io
import json
import re
import sys
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image

from mask2former.cli import main
from mask2former.media.georeference import georeference
from mask2former.scenes import draw_scene

PAGE = Path(__file__).parents[2] / "docs/image-formats.md"
SIZE = 48
pytestmark = [pytest.mark.long, pytest.mark.usefixtures("small_overlays")]


def scene(seed: int) -> np.ndarray:
    return draw_scene(seed, (SIZE, SIZE)).image


def predict(*args: str) -> int:
    return main(["predict", *args, "-m", "scenes-tiny", "--task", "semantic", "--no-overlays"])


def labels(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path))


@pytest.fixture
def plain(tmp_path: Path) -> Path:
    """A folder with results of the 8-bit image."""
    Image.fromarray(scene(1)).save(tmp_path / "plain.png")
    assert predict(str(tmp_path / "plain.png"), "-o", str(tmp_path / "out")) == 0
    return tmp_path


def test_one_image_in_many_forms_gives_one_result(
    plain: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = plain / "forms"
    folder.mkdir()
    deep = scene(1).astype(np.uint16) * 257
    tifffile.imwrite(folder / "planes.tif", np.moveaxis(deep, 2, 0), photometric="rgb", planarconfig="separate")
    tifffile.imwrite(folder / "floats.tif", deep / 65535, photometric="rgb", compression="zstd")
    with tifffile.TiffWriter(folder / "pages.tif") as writer:
        for seed in (2, 1):
            writer.write(scene(seed), photometric="rgb", metadata=None)
    (folder / "scan.nd2").write_bytes(b"x")
    expected = labels(plain / "out" / "plain_labels.png")
    assert len(np.unique(expected)) > 2
    capsys.readouterr()

    assert predict(str(folder), "-o", str(plain / "all"), "--page", "all") == 0
    told = " ".join(capsys.readouterr().err.split())
    assert "skipped: .nd2 (microscope formats: export them as TIFF) (1)" in told
    assert "only the first is read" not in told
    for stem in ("planes", "floats", "pages_page2"):
        np.testing.assert_array_equal(labels(plain / "all" / f"{stem}_labels.png"), expected)
    assert json.loads((plain / "all" / "pages_page2.json").read_text())["provenance"]["page"] == 2
    assert (labels(plain / "all" / "pages_page1_labels.png") != expected).any()

    content = (plain / "plain.png").read_bytes()
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))
    handler = partial(SimpleHTTPRequestHandler, directory=str(plain))
    monkeypatch.setattr(SimpleHTTPRequestHandler, "log_message", lambda *_: None)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        url = f"http://127.0.0.1:{server.server_address[1]}/plain.png"
        assert predict("-", url, "-o", str(plain / "sent")) == 0
        server.shutdown()
        thread.join()
    for stem in ("stdin", "plain"):
        np.testing.assert_array_equal(labels(plain / "sent" / f"{stem}_labels.png"), expected)


def test_what_cannot_be_is_refused_in_a_sentence(
    plain: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"")))
    for args, message in (
        (["-"], "'stdin' is an empty file; expected an image"),
        (["http://127.0.0.1:1/a.png"], "'http://127.0.0.1:1/a.png' cannot be fetched: "),
        ([str(plain / "plain.png"), "--page", "2"], "has no page 2; it has 1"),
        ([str(plain / "plain.png"), "--page", "two"], "--page must be a number from 1, or all, got 'two'"),
        (["-", "--ray"], "cannot be used with --ray"),
    ):
        assert predict(*args, "-o", str(plain / "no")) == 2
        assert message in " ".join(capsys.readouterr().err.split())


def geotiff(path: Path) -> None:
    """Write a GeoTIFF with half a metre per pixel, whose corner is 600,000 E 5,700,000 N in UTM zone 33."""
    tags = [
        (33550, 12, 3, (0.5, 0.5, 0.0), False),
        (33922, 12, 6, (0.0, 0.0, 0.0, 600_000.0, 5_700_000.0, 0.0), False),
        (34735, 3, 8, (1, 1, 0, 1, 3072, 0, 1, 32633), False),
    ]
    tifffile.imwrite(path, scene(1), photometric="rgb", extratags=tags, metadata=None)


def test_results_of_a_geotiff_lie_where_it_lies(plain: Path, capsys: pytest.CaptureFixture[str]) -> None:
    geotiff(plain / "field.tif")
    formats = ("--also", "geojson", "--also", "label-tiff")
    assert predict(str(plain / "field.tif"), str(plain / "plain.png"), "-o", str(plain / "gis"), *formats) == 0
    assert "map coordinates, which are used in their GeoJSON (1): 'field'" in " ".join(capsys.readouterr().err.split())
    there, here = (json.loads((plain / "gis/geojson" / f"{name}.geojson").read_text()) for name in ("field", "plain"))
    assert there["crs"]["properties"]["name"] == "urn:ogc:def:crs:EPSG::32633"
    assert "crs" not in here

    def corners(document: dict[str, Any], index: int) -> np.ndarray:
        polygons = document["features"][index]["geometry"]["coordinates"]
        return np.array(sorted(point for polygon in polygons for ring in polygon for point in ring[1:]))

    assert len(there["features"]) == len(here["features"]) > 1
    for index in range(len(here["features"])):
        pixels, world = corners(here, index), corners(there, index)
        expected = np.array(sorted((600_000 + x / 2, 5_700_000 - y / 2) for x, y in pixels.tolist()))
        np.testing.assert_allclose(world, expected)
    assert georeference(plain / "gis/label-tiff/field.tif") == georeference(plain / "field.tif")
    assert georeference(plain / "gis/label-tiff/plain.tif") is None


def test_the_program_of_the_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (program,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    geotiff(tmp_path / "field.tif")
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {"print": lambda *values: names.setdefault("printed", values)}
    exec(program, names)
    epsg, corner = names["printed"]  # pyright: ignore[reportGeneralTypeIssues]
    assert epsg == 32633
    np.testing.assert_array_equal(corner, [[600_000, 5_700_000]])
    place = georeference(tmp_path / "field.tif")
    assert place is not None
    Image.fromarray(scene(1)[..., 0]).save("labels.tif", tiffinfo=place.tiff_tags())
    assert georeference("labels.tif") == place
