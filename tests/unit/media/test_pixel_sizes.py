"""The size of a pixel that files state, as ImageJ, OME, DICOM and slide scanners write it; and what is none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import UID, CTImageStorage, ExplicitVRLittleEndian

from mask2former.errors import UserError
from mask2former.media.image_files import ImagePage
from mask2former.media.pixel_sizes import stated_pixel_size
from mask2former.notes import collect_notes

PIXELS = np.zeros((3, 20, 30), np.uint8)


def imagej(path: Path, unit: str, width: float = 0.325, height: float = 0.325) -> Path:
    tifffile.imwrite(path, PIXELS, imagej=True, resolution=(1 / width, 1 / height), metadata={"unit": unit})
    return path


@pytest.mark.parametrize(
    ("unit", "factor"), [("um", 1), ("micron", 1), (r"\u00B5m", 1), ("nm", 1e-3), ("Millimeters", 1e3)]
)
def test_imagej_states_a_unit_beside_the_resolution(tmp_path: Path, unit: str, factor: float) -> None:
    path = imagej(tmp_path / "a.tif", unit, width=0.5)
    for source in (path, str(path), path.read_bytes(), ImagePage(path, 3)):
        assert stated_pixel_size(source) == pytest.approx((0.325 * factor, 0.5 * factor), rel=1e-6)


@pytest.mark.parametrize("unit", ["inch", "pixel", ""])
def test_what_is_no_length_of_what_is_shown_does_not_count(tmp_path: Path, unit: str) -> None:
    assert stated_pixel_size(imagej(tmp_path / "a.tif", unit)) is None


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.tif", "a.bmp"])
def test_the_resolution_of_a_print_does_not_count(tmp_path: Path, name: str) -> None:
    Image.new("RGB", (30, 20)).save(tmp_path / name, dpi=(300, 300))
    assert stated_pixel_size(tmp_path / name) is None
    tifffile.imwrite(tmp_path / "b.tif", PIXELS[0], resolution=(118, 118), resolutionunit="CENTIMETER")
    assert stated_pixel_size(tmp_path / "b.tif") is None
    assert stated_pixel_size(PIXELS[0]) is None


@pytest.mark.parametrize(
    ("stated", "expected"),
    [
        ({"PhysicalSizeX": 0.5, "PhysicalSizeY": 0.25}, (0.25, 0.5)),  # micrometres if no unit is given
        (
            {"PhysicalSizeX": 65, "PhysicalSizeXUnit": "nm", "PhysicalSizeY": 0.1, "PhysicalSizeYUnit": "µm"},
            (0.1, 0.065),
        ),
        ({"PhysicalSizeX": 1, "PhysicalSizeY": 1, "PhysicalSizeXUnit": "pixel", "PhysicalSizeYUnit": "pixel"}, None),
        ({"PhysicalSizeX": 0.5}, None),
        ({}, None),
    ],
)
def test_ome_states_sizes_with_units(
    tmp_path: Path, stated: dict[str, Any], expected: tuple[float, float] | None
) -> None:
    tifffile.imwrite(tmp_path / "a.ome.tif", PIXELS, metadata={"axes": "ZYX", **stated})
    assert stated_pixel_size(tmp_path / "a.ome.tif") == (expected if expected is None else pytest.approx(expected))


def test_a_page_of_another_image_may_have_another_size(tmp_path: Path) -> None:
    path = tmp_path / "a.ome.tif"
    with tifffile.TiffWriter(path, ome=True) as writer:
        for size in (0.5, 2.0):
            writer.write(PIXELS[0], metadata={"PhysicalSizeX": size, "PhysicalSizeY": size})
    with collect_notes() as notes:
        assert stated_pixel_size(ImagePage(path, 1)) == stated_pixel_size(path) == (0.5, 0.5)
        assert not notes
        assert stated_pixel_size(ImagePage(path, 2)) is None
    assert [note.example for note in notes] == [f"'{path} (page 2)'"]


@pytest.mark.parametrize("where", ["PixelSpacing", "ImagerPixelSpacing", "Shared", "PerFrame"])
def test_dicom_states_the_distance_of_rows_before_that_of_columns(tmp_path: Path, where: str) -> None:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = CTImageStorage, UID("1.2.3")
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data = FileDataset("", {}, file_meta=meta, preamble=bytes(128))
    data.NumberOfFrames, data.SOPClassUID, data.SOPInstanceUID = 2, CTImageStorage, "1.2.3"
    if where.endswith("Spacing"):
        setattr(data, where, [0.25, 0.5])
    else:
        groups = []
        for scale in (1, 2):
            measures, group = Dataset(), Dataset()
            measures.PixelSpacing = [0.25 * scale, 0.5 * scale]
            group.PixelMeasuresSequence = Sequence([measures])
            groups.append(group)
        setattr(data, f"{where}FunctionalGroupsSequence", Sequence(groups if where == "PerFrame" else groups[:1]))
    data.save_as(tmp_path / "a.dcm", enforce_file_format=True)
    assert stated_pixel_size(tmp_path / "a.dcm") == (250, 500)
    expected = (500, 1000) if where == "PerFrame" else (250, 500)
    assert stated_pixel_size(ImagePage(tmp_path / "a.dcm", 2)) == expected


@pytest.mark.parametrize(("stated", "expected"), [("|MPP = 0.5", (0.5, 0.5)), ("", None)])
def test_a_slide_states_micrometres_per_pixel(
    tmp_path: Path, stated: str, expected: tuple[float, float] | None
) -> None:
    text = f"Aperio Image Library v11.2.1\r\n128x128 [0,0 128x128] (64x64) JPEG/RGB Q=70|AppMag = 20{stated}"
    pixels = np.zeros((128, 128, 3), np.uint8)
    options: dict[str, Any] = {"photometric": "rgb", "description": text, "metadata": None}
    tifffile.imwrite(tmp_path / "a.svs", pixels, tile=(64, 64), **options)
    assert stated_pixel_size(tmp_path / "a.svs") == expected
    options = {"photometric": "rgb", "resolution": (118, 118), "resolutionunit": "CENTIMETER"}
    tifffile.imwrite(tmp_path / "b.svs", pixels, tile=(64, 64), metadata=None, **options)
    assert stated_pixel_size(tmp_path / "b.svs") is None


def test_a_damaged_file_states_nothing_and_a_missing_one_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "a.tif").write_bytes(imagej(tmp_path / "whole.tif", "um").read_bytes()[:60])
    assert stated_pixel_size(tmp_path / "a.tif") is None
    with pytest.raises(UserError, match="there is no image"):
        stated_pixel_size(tmp_path / "b.tif")
