"""Files written by the tools themselves, with shapes that we drew: see ``tests/data/tools``."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mask2former.data.datasets.coco import CocoInstances
from mask2former.data.datasets.tool_files import open_tool_files

FILES = Path(__file__).parents[3] / "data" / "tools"
H, W = 40, 60


def box(left: int, top: int, right: int, bottom: int) -> np.ndarray:
    mask = np.zeros((H, W), dtype=bool)
    mask[top:bottom, left:right] = True
    return mask


RING = box(5, 5, 15, 15) & ~box(8, 8, 12, 12)
ALONE = box(7, 3, 8, 4) | box(0, 20, 30, 21) | box(W - 1, H - 1, W, H)


@pytest.fixture
def images(tmp_path: Path) -> Path:
    names = "a.png", "a b.png", "deep/b c#1.png", "empty.png", "skipped.png", "untouched.png"
    for name in (*names, "a.jpg", "deep/b c.jpg", "empty.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.new("RGB", (W, H)).save(tmp_path / name)
    return tmp_path


def objects(samples: CocoInstances) -> dict[str, list[tuple[str, np.ndarray]]]:
    """Class and mask of each object, by name of the image."""
    found = {}
    for index, sample in enumerate(samples[index] for index in range(len(samples))):
        assert sample.target is not None
        names = [samples.categories.names[label] for label in sample.target.labels.tolist()]
        masks = sample.target.masks[:, 0].numpy()
        found[samples.annotated(index).name] = list(zip(names, masks, strict=True))
    return found


def same(found: list[tuple[str, np.ndarray]], expected: list[tuple[str, np.ndarray]]) -> None:
    assert [name for name, _ in found] == [name for name, _ in expected]
    for (_, mask), (_, wanted) in zip(found, expected, strict=True):
        np.testing.assert_array_equal(mask, wanted)


def test_label_studio_gives_back_our_predictions_and_its_own_masks(images: Path) -> None:
    """The "JSON" export of version 1.23.2: predicted masks, a bitmask, an ellipse, and tasks that are left out."""
    samples = open_tool_files("label-studio", [(FILES / "label_studio.json", images)])
    found = objects(samples)
    assert list(found) == ["a.png", "deep/b c#1.png", "empty.png"]
    same(found["a.png"], [("cell", RING), ("dirt", ALONE)])
    same(found["deep/b c#1.png"][:3], [("cell", RING), ("dirt", box(30, 20, 50, 30)), ("dirt", box(20, 0, 28, 4))])
    name, ellipse = found["deep/b c#1.png"][3]
    assert (name, found["empty.png"]) == ("cell", [])
    assert abs(int(ellipse.sum()) - np.pi * 36) < 3
    assert any("skipped or not annotated, left out (2)" in text for text in samples.notes)


def test_labelme_gives_back_what_was_drawn(images: Path) -> None:
    """A file saved by version 6.3.1: polygons of one group, a mask, a circle, and a name with odd characters."""
    (images / "a b.json").write_bytes((FILES / "labelme.json").read_bytes())
    samples = open_tool_files("labelme", [(images, images)])
    assert samples.notes == []
    [found] = objects(samples).values()
    assert [name for name, _ in found] == ["cell", "dirt", "cell", "é & <x>"]
    np.testing.assert_array_equal(found[0][1], box(5, 5, 15, 15) | box(30, 20, 50, 30))
    np.testing.assert_array_equal(found[1][1], box(20, 2, 30, 12) & ~box(23, 5, 27, 9))
    assert abs(int(found[2][1].sum()) - np.pi * 16) < 3
    assert abs(int(found[3][1].sum()) - 11.25 * 8.25 / 2) < 3


def test_cvat_of_datumaro_gives_back_its_masks(images: Path) -> None:
    """The "cvat" export of version 1.13.12: masks whose box is the image, groups, and an image without objects."""
    found = objects(open_tool_files("cvat", [(FILES / "cvat_of_datumaro.xml", images)]))
    parts = box(30, 2, 36, 8) | box(40, 2, 44, 8)
    same(found["a.jpg"], [("cell", RING), ("dirt", parts), ("cell", box(30, 20, 50, 30))])
    same(found["deep/b c.jpg"], [("cell", RING)])
    assert found["empty.jpg"] == []
