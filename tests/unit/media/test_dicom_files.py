"""DICOM files, written here: values, windows, frames, and errors."""

from __future__ import annotations

import io
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import UID, CTImageStorage, DeflatedExplicitVRLittleEndian, ExplicitVRLittleEndian, RLELossless

from mask2former.errors import UserError
from mask2former.media.dicom_files import slide_size
from mask2former.media.image_files import ImagePage, NamedBytes, PixelLimitError, num_pages
from mask2former.media.images import image_size, list_images, read_image
from mask2former.notes import collect_notes, sentences

SLIDE = Path(__file__).parents[2] / "data" / "tools" / "slide"
H, W = 24, 36
RAMP = np.linspace(0, 1, H * W).reshape(H, W)
BYTES = np.rint(RAMP * 255).astype(np.uint8)


def dicom(values: np.ndarray, syntax: str = ExplicitVRLittleEndian, **tags: Any) -> NamedBytes:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = CTImageStorage
    meta.MediaStorageSOPInstanceUID = UID("1.2.3")
    meta.TransferSyntaxUID = ExplicitVRLittleEndian if syntax == RLELossless else UID(syntax)
    data = FileDataset("", {}, file_meta=meta, preamble=bytes(128))
    bits = 8 * values.itemsize
    data.Rows, data.Columns = values.shape[-3:-1] if tags.get("SamplesPerPixel") == 3 else values.shape[-2:]
    data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME2"
    data.BitsAllocated = data.BitsStored = bits
    data.HighBit, data.PixelRepresentation = bits - 1, int(values.dtype.kind == "i")
    data.SOPClassUID, data.SOPInstanceUID = CTImageStorage, "1.2.3"
    for name, value in tags.items():
        setattr(data, name, value)
    data.PixelData = values.tobytes()
    if syntax == RLELossless:
        data.compress(RLELossless)
    stream = io.BytesIO()
    data.save_as(stream, enforce_file_format=True)
    return NamedBytes("a.dcm", stream.getvalue())


def shown(file: NamedBytes | ImagePage, **settings: Any) -> tuple[np.ndarray, str]:
    with collect_notes() as notes:
        return read_image(file, **settings)[..., 0], "\n".join(sentences(notes))


HOUNSFIELD = np.rint(RAMP * 2000).astype(np.int16)  # -1000 to 1000 after rescaling
RESCALED: dict[str, Any] = {"RescaleSlope": 1, "RescaleIntercept": -1000}


def test_the_window_of_the_file_is_black_and_white() -> None:
    file = dicom(HOUNSFIELD, WindowCenter=40, WindowWidth=400, **RESCALED)
    expected = np.clip((HOUNSFIELD - 1000 - (-160)) / 399 * 255, 0, 255)
    pixels, notes = shown(file)
    assert abs(pixels - expected).max() <= 1
    assert "through the window in their file" in notes
    assert "(centre 40, width 400)" in notes
    assert "outside value_range" not in notes
    assert image_size(file) == (H, W)


def test_a_range_of_the_user_is_in_the_unit_of_the_file() -> None:
    file = dicom(HOUNSFIELD, WindowCenter=40, WindowWidth=400, **RESCALED)
    pixels, notes = shown(file, value_range=(-1000, 1000))
    assert abs(pixels.astype(int) - BYTES).max() <= 1
    assert "outside value_range" not in notes
    pixels, _ = shown(file, value_range="percentile")
    assert abs(pixels - np.clip((RAMP - 0.005) / 0.99, 0, 1) * 255).max() <= 1


def test_without_a_window_all_bits_that_are_stored_count() -> None:
    values = np.rint(RAMP * 4095).astype(np.uint16)
    for settings in ({}, {"value_range": "full"}):
        pixels, notes = shown(dicom(values, BitsStored=12, HighBit=11), **settings)
        assert abs(pixels.astype(int) - BYTES).max() <= 1
        assert not notes
    pixels, _ = shown(dicom(values, BitsStored=12, HighBit=11, RescaleSlope=2, RescaleIntercept=5))
    assert abs(pixels.astype(int) - BYTES).max() <= 1


def test_white_may_be_the_smallest_value() -> None:
    pixels, _ = shown(dicom(BYTES, PhotometricInterpretation="MONOCHROME1"))
    np.testing.assert_array_equal(pixels, 255 - BYTES)


def test_padding_is_black_and_no_value() -> None:
    values = HOUNSFIELD.copy()
    values[:3] = -2000
    pixels, notes = shown(dicom(values, PixelPaddingValue=-2000, **RESCALED), value_range="percentile")
    assert not pixels[:3].any()
    assert pixels[3:].max() == 255
    assert "declared in the file as having no value, shown black" in notes


def test_an_empty_end_of_the_padding_is_none() -> None:
    alone, _ = shown(dicom(HOUNSFIELD, PixelPaddingValue=-2000, **RESCALED))
    empty, _ = shown(dicom(HOUNSFIELD, PixelPaddingValue=-2000, PixelPaddingRangeLimit=None, **RESCALED))
    np.testing.assert_array_equal(empty, alone)


def test_padding_may_be_a_range() -> None:
    values = HOUNSFIELD.copy()
    values[:3] = np.array([-2010, -2000, -1995])[:, None]
    padding = {"PixelPaddingValue": -2010, "PixelPaddingRangeLimit": -1990}
    pixels, _ = shown(dicom(values, **padding, **RESCALED), value_range="percentile")
    alone, _ = shown(
        dicom(np.where(values < -1990, -2010, values), PixelPaddingValue=-2010, **RESCALED), value_range="percentile"
    )
    np.testing.assert_array_equal(pixels, alone)


def test_colours_and_compressed_frames() -> None:
    colors = np.dstack([BYTES, BYTES[::-1], BYTES[:, ::-1]])
    tags = {"SamplesPerPixel": 3, "PhotometricInterpretation": "RGB", "PlanarConfiguration": 0}
    np.testing.assert_array_equal(read_image(dicom(colors, **tags)), colors)
    np.testing.assert_array_equal(shown(dicom(BYTES, RLELossless))[0], BYTES)


def test_frames_are_pages() -> None:
    frames = np.stack([BYTES, BYTES[::-1], BYTES[:, ::-1]])
    window = Dataset()
    window.WindowCenter, window.WindowWidth = 63.5, 128
    group = Dataset()
    group.FrameVOILUTSequence = [window]
    file = dicom(frames, NumberOfFrames=3, PerFrameFunctionalGroupsSequence=[Dataset(), group])
    assert num_pages(file) == 3
    pixels, notes = shown(file)
    np.testing.assert_array_equal(pixels, BYTES)
    assert "only the first is read" in notes
    pixels, notes = shown(ImagePage(file, 2))
    assert abs(pixels - np.clip(frames[1] * (255 / 127), 0, 255)).max() <= 2
    assert "several pages" not in notes
    np.testing.assert_array_equal(shown(ImagePage(file, 3))[0], frames[2])
    with pytest.raises(UserError, match="has no page 4; it has 3"):
        read_image(ImagePage(file, 4))


def test_what_is_not_read_is_said() -> None:
    report = dicom(BYTES)
    data = pydicom.dcmread(io.BytesIO(report.content))
    del data.PixelData, data.Rows
    stream = io.BytesIO()
    data.save_as(stream)
    with pytest.raises(UserError, match="without an image"):
        read_image(NamedBytes("a.dcm", stream.getvalue()))
    with pytest.raises(UserError, match=r"4 samples per pixel \(ARGB\), which is not supported"):
        read_image(dicom(BYTES, SamplesPerPixel=4, PhotometricInterpretation="ARGB"))
    with pytest.raises(UserError, match="compressed as a whole"):
        read_image(dicom(BYTES, DeflatedExplicitVRLittleEndian))
    with pytest.raises(PixelLimitError, match="safety limit"):
        read_image(dicom(BYTES, Rows=65535, Columns=65535))
    with pytest.raises(UserError, match=r"a\.dcm' is damaged or cut short"):
        read_image(NamedBytes("a.dcm", report.content[:-50]))
    with pytest.raises(UserError, match=r"a\.dcm' is damaged or cut short|without an image"):
        read_image(NamedBytes("a.dcm", bytes(128) + b"DICM" + bytes(90)))


def test_without_the_package_it_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pydicom", None)
    with pytest.raises(UserError, match=r"pydicom is not installed.*mask2former\[dicom\]"):
        read_image(dicom(BYTES))


# --- whole slides ----------------------------------------------------------------------------------------------------


def test_of_a_slide_in_several_files_of_a_folder_the_full_resolution_is_listed(tmp_path: Path) -> None:
    files = {"b": "whole", "a": "half", "one frame": "half", "label": "half", "other": "half", "sub/c": "half"}
    tags = {
        "one frame": {"Rows": 30, "Columns": 40},
        "label": {"ImageType": ["ORIGINAL", "PRIMARY", "LABEL", "NONE"], "TotalPixelMatrixRows": 9999},
        "other": {"SeriesInstanceUID": "1.2.3"},
    }
    (tmp_path / "sub").mkdir()
    for name, source in files.items():
        data = pydicom.dcmread(SLIDE / f"{source}.dcm")
        for tag, value in tags.get(name, {}).items():
            setattr(data, tag, value)
        data.save_as(tmp_path / f"{name}.dcm")
    with collect_notes() as notes:
        found = [path.relative_to(tmp_path).as_posix() for path, _ in list_images([tmp_path])]
    assert found == ["b.dcm", "other.dcm", "sub/c.dcm"]
    assert [Path(note.example.strip("'")).stem for note in notes] == ["a", "label", "one frame"]
    assert all("reduced resolutions, labels or overviews, skipped" in note.message for note in notes)
    assert [path for path, _ in list_images([tmp_path / "a.dcm"])] == [tmp_path / "a.dcm"]


def test_slides_without_a_suffix_in_a_folder_are_noted(tmp_path: Path) -> None:
    for name in ("slide", "1.2.826.0.1"):
        (tmp_path / name).write_bytes((SLIDE / "whole.dcm").read_bytes())
    with pytest.raises(
        UserError,
        match=r"contains no images .*without a suffix, skipped \(give each of them by name to read it\) \(2\)",
    ):
        list_images([tmp_path])


def test_what_a_slide_is_takes_no_unpacking(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file compressed as a whole, which may unpack to gigabytes, is refused without unpacking it."""
    data = pydicom.dcmread(SLIDE / "whole.dcm", stop_before_pixels=True)
    data.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    data.save_as(tmp_path / "a.dcm")
    monkeypatch.setattr("zlib.decompress", lambda *args: pytest.fail("unpacked"))
    assert slide_size(tmp_path / "a.dcm") is None
    with pytest.raises(UserError, match="compressed as a whole; save it without"):
        read_image(tmp_path / "a.dcm")
