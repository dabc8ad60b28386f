"""Hostile annotation files: nothing outside the data is read, and no number in them exhausts memory or time."""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pytest
from PIL import Image

from mask2former.config import DataConfig, parse
from mask2former.data.build import build_samples
from mask2former.data.datasets.annotation_files import read_annotations
from mask2former.data.datasets.class_names import read_names
from mask2former.data.datasets.coco import CocoInstances
from mask2former.data.datasets.coco_panoptic import CocoPanoptic, PanopticFiles
from mask2former.data.datasets.video_panoptic import VideoPanoptic
from mask2former.data.datasets.youtube_vis import YouTubeVIS
from mask2former.data.faults import collected_faults
from mask2former.dataset_tools.check import check_dataset
from mask2former.dataset_tools.infer_format import infer_format
from mask2former.dataset_tools.reading import num_annotated_twice
from mask2former.errors import UserError
from mask2former.metrics.build import evaluators
from mask2former.ops import masks as mask_ops
from mask2former.structures.categories import Categories

SECONDS = 8  # of which most is room for a busy machine


class Limited(Protocol):
    def __call__(self, function: Callable[[], object], *, seconds: float = 10, megabytes: int = 500) -> Any: ...


def save(path: Path, size_hw: tuple[int, int] = (8, 8), value: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((*size_hw, 3), value, np.uint8)).save(path)


def coco(**changes: Any) -> dict[str, Any]:
    """A COCO file with one image and one object, in which ``changes`` replace keys."""
    image = {"id": 1, "file_name": "a.png", "height": 8, "width": 8}
    mask = {"id": 1, "image_id": 1, "category_id": 1, "segmentation": [[1, 1, 6, 1, 6, 6]], "iscrowd": 0}
    return {"images": [image], "annotations": [mask], "categories": [{"id": 1, "name": "cat"}], **changes}


def write(path: Path, content: object) -> Path:
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A folder ``data/images`` with an image, and an image beside ``data``."""
    for folder in ("images", "lists", "maps"):
        (tmp_path / "data" / folder / "x").mkdir(parents=True)
    save(tmp_path / "data" / "images" / "a.png")
    save(tmp_path / "secret.png", value=77)
    return tmp_path / "data"


# --- names that lead out of their folder -----------------------------------------------------------------------------


def _coco(data: Path, name: str) -> dict[str, Any]:
    image = {"id": 1, "file_name": name, "height": 8, "width": 8}
    file = {"annotations": str(write(data / "c.json", coco(images=[image]))), "images": str(data / "images")}
    return {"name": "coco-instance", "train": [file], "validation": [file]}


def _panoptic(data: Path, name: str, *, of_map: bool = False) -> dict[str, Any]:
    save(data / "maps" / "b.png")
    name = name if not of_map or not name.startswith(str(data)) else name.replace("/images/", "/maps/")
    if of_map and not (data / "maps" / "link.png").exists():
        (data / "maps" / "link.png").symlink_to("b.png")
    segments = [{"id": 0x010101, "category_id": 1, "iscrowd": 0}]
    content = coco(
        images=[{"id": 1, "file_name": "a.png" if of_map else name, "height": 8, "width": 8}],
        annotations=[{"image_id": 1, "file_name": name if of_map else "b.png", "segments_info": segments}],
        categories=[{"id": 1, "name": "cat", "isthing": 1}],
    )
    folders = {"images": str(data / "images"), "segments": str(data / "maps")}
    file = {"annotations": str(write(data / "c.json", content)), **folders}
    return {"name": "coco-panoptic", "train": [file], "validation": [file]}


def _clips(data: Path, name: str) -> dict[str, Any]:
    video = {"id": 1, "file_names": [name], "height": 8, "width": 8}
    track = {"id": 1, "video_id": 1, "category_id": 1, "segmentations": [[[1, 1, 6, 1, 6, 6]]]}
    content = {"videos": [video], "annotations": [track], "categories": [{"id": 1, "name": "cat"}]}
    file = {"annotations": str(write(data / "c.json", content)), "frames": str(data / "images")}
    return {"name": "clips", "train": [file], "validation": [file]}


def _yolo(data: Path, name: str) -> dict[str, Any]:
    write(data / "lists" / "list.txt", f"../images/a.png\n{name}\n")
    (data / "labels").mkdir(exist_ok=True)
    write(data / "labels" / "a.txt", "0 0.1 0.1 0.9 0.1 0.9 0.9\n")
    write(data / "data.yaml", "train: lists/list.txt\nval: images\nnames: [cat]\n")
    return {"name": "yolo", "data": str(data / "data.yaml")}


def _folders(data: Path, name: str) -> dict[str, Any]:
    save(data / "masks" / "clip" / "0.png")
    save(data / "images" / "clip" / "0.png")
    write(data / "clips.txt", f"clip\n{name}\n")
    folders = {"images": str(data / "images"), "masks": str(data / "masks"), "clips": str(data / "clips.txt")}
    return {"name": "mask-folders", "train": folders, "validation": folders}


def _build(config: Mapping[str, Any]) -> Any:
    return build_samples(parse(DataConfig, {"dataset": config}, "test").dataset, "train")


FORMATS: dict[str, Callable[[Path, str], dict[str, Any]]] = {
    "COCO": _coco,
    "panoptic image": _panoptic,
    "panoptic PNG": lambda data, name: _panoptic(data, name, of_map=True),
    "YouTube-VIS": _clips,
    "YOLO list": _yolo,
}
OUTSIDE = ["../../secret.png", "{root}/secret.png", "x/../../../secret.png", "./.././../secret.png"]


@pytest.mark.parametrize("name", OUTSIDE)
@pytest.mark.parametrize("form", FORMATS)
def test_names_that_lead_out_of_their_folder_are_refused(data: Path, form: str, name: str) -> None:
    name = name.format(root=data.parent)
    config = FORMATS[form](data, name)
    with pytest.raises(UserError, match=r"names files that are not in its folder.*allow_outside=true"):
        _build(config)
    report = check_dataset(parse(DataConfig, {"dataset": config}, "test").dataset)
    assert any("allow_outside=true" in finding.message for finding in report.findings if finding.broken)


@pytest.mark.parametrize("form", FORMATS)
def test_a_setting_allows_them(data: Path, form: str) -> None:
    config = FORMATS[form](data, f"{data.parent}/secret.png") | {"allow_outside": True}
    samples = _build(config)
    if form not in ("YouTube-VIS", "panoptic PNG"):
        assert 77 in {int(samples.image(index).max()) for index in range(len(samples))}


@pytest.mark.parametrize("form", FORMATS)
def test_links_and_absolute_names_into_the_folder_are_the_users_own(data: Path, form: str) -> None:
    (data / "images" / "link.png").symlink_to(data.parent / "secret.png")
    for name in ("link.png", f"{data}/images/link.png", "x/../link.png"):
        given = f"../images/{name}" if form == "YOLO list" and not name.startswith("/") else name
        assert len(_build(FORMATS[form](data, given))) == (2 if form == "YOLO list" else 1)


@pytest.mark.parametrize("name", ["../../x", "..", "{root}"])
def test_names_of_clips_stay_in_their_folders(data: Path, name: str) -> None:
    with pytest.raises(UserError, match=r"allow_outside=true"):
        _build(_folders(data, name.format(root=data.parent)))


def test_names_of_video_panoptic_frames_stay_in_their_folders(data: Path) -> None:
    image = {"id": 1, "file_name": "secret.png", "height": 8, "width": 8}
    annotation = {"image_id": 1, "file_name": "secret.png", "segments_info": []}
    content = {
        "videos": [{"video_id": "../..", "images": [image]}],
        "annotations": [{"video_id": "../..", "annotations": [annotation]}],
        "categories": [{"id": 1, "name": "cat", "isthing": 1}],
    }
    with pytest.raises(UserError, match=r"allow_outside=true|lacks"):
        VideoPanoptic(write(data / "v.json", content), data / "images", data / "images")


def test_a_file_in_the_folder_goes_before_one_outside(data: Path) -> None:
    """Tools write paths of the machine on which they ran; a file that happens to have such a path is not read."""
    save(data / "images" / "secret.png", value=5)
    samples = _build(_coco(data, f"{data.parent}/secret.png"))
    assert samples.image(0).max() == 5


# --- files that are none ---------------------------------------------------------------------------------------------


def _pipe(path: Path) -> None:
    os.mkfifo(path)


FILES: dict[str, Callable[[Path], object]] = {
    "pipe": _pipe,
    "device": lambda path: path.symlink_to("/dev/zero"),
    "folder": Path.mkdir,
    "circle": lambda path: path.symlink_to(path.name),
    "no text": lambda path: path.write_bytes(bytes(range(256))),
    # In YAML, twice the depth that Python reads: the time that its reader takes for each level grows with the level.
    "nested": lambda path: path.write_text("[" * (600 if path.suffix == ".yaml" else 20_000)),
    "empty": lambda path: path.write_text(""),
}
READERS: dict[str, Callable[[Path], object]] = {
    "COCO": lambda path: CocoInstances([(path, path.parent)]),
    "panoptic": lambda path: CocoPanoptic([PanopticFiles(path, path.parent, path.parent)]),
    "YouTube-VIS": lambda path: YouTubeVIS([(path, path.parent)]),
    "video panoptic": lambda path: VideoPanoptic(path, path.parent, path.parent),
    "names": lambda path: read_names(path),
    "names.json": lambda path: read_names(path),
    "names.yaml": lambda path: read_names(path),
    "names.csv": lambda path: read_names(path),
    "data.yaml": lambda path: infer_format(path),
    "data.json": lambda path: infer_format(path),
}


@pytest.mark.parametrize("kind", READERS)
def test_annotations_that_are_no_documents_are_refused(tmp_path: Path, kind: str, limited: Limited) -> None:
    """Each of the files is refused, all of them in one process with limits of time and memory."""

    def refused() -> str:
        for name, make in FILES.items():
            path = tmp_path / name / (kind if "." in kind else "x.txt" if kind == "names" else "x.json")
            path.parent.mkdir()
            make(path)
            try:
                READERS[kind](path)
            except UserError:
                continue
            except BaseException as error:
                return f"{name}: {error!r}"
            return f"{name} is read"
        return "all"

    assert limited(refused, seconds=SECONDS)[:2] == ("returned", "all"), os.listdir(tmp_path)


@pytest.mark.parametrize("name", [name for name in FILES if name != "empty"])
def test_lists_and_labels_that_are_no_documents_are_refused(data: Path, name: str, limited: Limited) -> None:
    _yolo(data, "../images/a.png")
    label, listed = data / "labels" / "a.txt", data / "lists" / "list.txt"
    label.unlink()
    FILES[name](label)
    config = {"name": "yolo", "data": str(data / "data.yaml")}
    outcome = limited(lambda: _build(config), seconds=SECONDS)
    assert outcome.kind == "UserError"
    assert "a.txt" in outcome.message
    listed.unlink()
    FILES[name](listed)
    assert limited(lambda: _build(config), seconds=SECONDS).kind == "UserError"


# --- numbers ---------------------------------------------------------------------------------------------------------

MANY = 5_000  # that work grows no faster than the file is tested below
FULL = {"size": [8, 8], "counts": [0, 64]}


def objects(count: int, **changes: Any) -> list[dict[str, Any]]:
    return [{**coco()["annotations"][0], "id": index, **changes} for index in range(count)]


def far(count: int) -> list[int]:
    return [(1 << 20) * (-1) ** (index // 2) for index in range(2 * count)]


def names_of(count: int, *, twice: bool = True) -> list[dict[str, Any]]:
    return [{"id": max(index, 1) if twice else index, "name": f"class {index}"} for index in range(count)]


LARGE: dict[str, tuple[Callable[[], dict[str, Any]], str]] = {
    "a category twice": (lambda: coco(categories=names_of(MANY)), "category ids must be unique"),
    "too many categories": (
        lambda: coco(categories=names_of(100_000, twice=False)),
        "class list has too many classes: 100,000",
    ),
    "a name of 1 MB": (
        lambda: coco(categories=[{"id": 1, "name": "n" * (1 << 20)}]),
        "has too many characters: 1,048,576",
    ),
    "half a character": (lambda: coco(categories=[{"id": 1, "name": "\ud800"}]), "surrogate"),
    "a category of 4000 digits": (
        lambda: coco(categories=[{"id": 10**4000, "name": "a"}]),
        "no whole number as its 'id'",
    ),
    "a colour of 200,000": (
        lambda: coco(categories=[{"id": 1, "name": "a", "color": [1] * 200_000}]),
        "not a class table",
    ),
    "a colour of 4000 digits": (
        lambda: coco(categories=[{"id": 1, "name": "a", "color": [10**4000, 0, 0]}]),
        "is not within 0..255",
    ),
    "an image of 4000 digits": (lambda: coco(images=[{"id": 10**4000, "file_name": "a.png"}]), "needs an 'id'"),
    "an image id of 1 MB": (lambda: coco(images=[{"id": "i" * (1 << 20), "file_name": "a.png"}]), "needs an 'id'"),
    "an image id of lists": (lambda: coco(images=[{"id": [[]], "file_name": "a.png"}]), "neither a number nor text"),
    "an image name of 1 MB": (lambda: coco(images=[{"id": 1, "file_name": "n" * (1 << 20)}]), "'file_name'"),
    "a height of 10^9": (
        lambda: coco(images=[{"id": 1, "file_name": "a.png", "height": 10**9, "width": 1}]),
        "are too large",
    ),
    "an area of 10^12": (
        lambda: coco(images=[{"id": 1, "file_name": "a.png", "height": 10**6, "width": 10**6}]),
        "are too large",
    ),
    "far corners": (lambda: coco(annotations=objects(1, segmentation=[far(40)])), "outlines of annotations 1"),
    "farther corners": (lambda: coco(annotations=objects(1, segmentation=[[10**9] * 80])), "got 1e\\+09 among them"),
    "many far polygons": (
        lambda: coco(annotations=objects(MANY, segmentation=[far(8)])),
        f"outlines of annotations {MANY}",
    ),
    "a mask of 2^40 pixels": (
        lambda: coco(annotations=objects(1, segmentation={"size": [1 << 20, 1 << 20], "counts": [0, 1 << 40]})),
        "run-length encoding is .* and has too many pixels: 1,099,511,627,776",
    ),
    "a mask of 2^40 pixels, compressed": (
        lambda: coco(annotations=objects(1, segmentation={"size": [1 << 20, 1 << 20], "counts": "0" * 10})),
        "has too many pixels",
    ),
    "a million runs": (
        lambda: coco(annotations=objects(1, segmentation={"size": [8, 8], "counts": [0] * 1_000_000 + [64]})),
        "run-length encoding has too many runs: 1,000,001",
    ),
    "negative sizes": (
        lambda: coco(annotations=objects(1, segmentation={"size": [-8, -8], "counts": [64]})),
        "expected a run-length encoding",
    ),
    "unknown images": (lambda: coco(annotations=objects(MANY, image_id=7)), rf"annotations {MANY} \("),
    "unknown classes": (lambda: coco(annotations=objects(MANY, category_id=1 << 63)), rf"annotations {MANY} \("),
    "deep segmentation": (lambda: coco(annotations=objects(1, segmentation=[[[[[[[[[[1]]]]]]]]]])), "is broken"),
    "long text": (lambda: coco(annotations=objects(1, iscrowd="x" * (1 << 20))), "as 'iscrowd'"),
}


@pytest.mark.parametrize("name", LARGE)
def test_large_claims_are_refused_in_one_sentence(data: Path, name: str, limited: Limited) -> None:
    make, message = LARGE[name]
    path = write(data / "c.json", make())
    outcome = limited(lambda: CocoInstances([(path, data / "images")]), seconds=SECONDS)
    assert outcome.kind == "UserError"
    assert re.search(message, outcome.message)
    assert len(outcome.message) < 1_000
    assert outcome.message.isprintable()


def test_a_file_of_large_numbers_that_mean_no_harm_is_read(data: Path) -> None:
    content = coco(
        images=[{"id": 1 << 63, "file_name": "a.png", "height": 8, "width": 8}],
        annotations=objects(1, image_id=1 << 63, category_id=1 << 63, area=1e300),
        categories=[{"id": 1 << 63, "name": "cat"}],
    )
    samples = CocoInstances([(write(data / "c.json", content), data / "images")])
    assert samples.image_id(0) == 1 << 63
    assert samples.annotated(0).labels.tolist() == [0]


VIDEOS: dict[str, tuple[dict[str, Any], str]] = {
    "frames": ({"file_names": ["a.mp4"], "length": 10**9}, "has too many frames: 1,000,000,000"),
    "height": ({"file_names": ["a.png"], "height": 10**9}, "larger than any frame"),
    "area": ({"file_names": ["a.png"], "height": 1 << 20, "width": 1 << 20}, "larger than any frame"),
    "digits": ({"file_names": ["a.png"], "length": 10**4000}, "declares <a number"),
    "name": ({"file_names": ["n" * (1 << 20)]}, "needs an 'id' and the list"),
}


@pytest.mark.parametrize("name", VIDEOS)
def test_large_claims_of_clips_are_refused(data: Path, name: str, limited: Limited) -> None:
    changes, message = VIDEOS[name]
    video = {"id": 1, "height": 8, "width": 8, **changes}
    track = {"id": 1, "video_id": 1, "category_id": 1, "segmentations": [[[1, 1, 6, 1, 6, 6]]]}
    content = {"videos": [video], "annotations": [track], "categories": [{"id": 1, "name": "cat"}]}
    path = write(data / "c.json", content)
    outcome = limited(lambda: YouTubeVIS([(path, data / "images")]), seconds=SECONDS)
    assert outcome.kind == "UserError"
    assert message in outcome.message
    assert len(outcome.message) < 1_000


def test_names_files_with_many_names_are_read_in_one_pass(tmp_path: Path, limited: Limited) -> None:
    names = [f"class {index}" for index in range(MANY)]
    path = write(tmp_path / "n.txt", "\n".join([*names, *names[: MANY // 2]]))
    outcome = limited(lambda: read_names(path), seconds=SECONDS)
    assert outcome.kind == "UserError"
    assert f"names must be unique, but {MANY // 2} (" in outcome.message


@pytest.mark.parametrize("gap", [" ", "\t", " \t", ":", "1", " 1", "a ", "(", "_", "-"])
def test_long_lines_of_names_files_are_read_in_one_pass(tmp_path: Path, gap: str, limited: Limited) -> None:
    """A gap between two words is matched once, not once from each of its characters, and so in linear time."""
    path = write(tmp_path / "n.txt", f"a{gap * (200_000 // len(gap))}x\nb 1\n")
    assert limited(lambda: read_names(path), seconds=SECONDS).kind == "UserError"


def test_a_field_of_csv_is_bounded(tmp_path: Path) -> None:
    path = write(tmp_path / "n.csv", 'id,name\n0,"' + "a" * 200_000 + '"\n')
    with pytest.raises(UserError, match="field larger than field limit"):
        read_names(path)


def test_dense_masks_are_bounded_before_they_are_made(limited: Limited) -> None:
    rle = {"size": [1 << 15, 1 << 15], "counts": [1 << 30]}
    outcome = limited(lambda: mask_ops.decode([rle] * 100), seconds=SECONDS)
    assert outcome.kind == "UserError"
    assert "have too many values: 107,374,182,400" in outcome.message


def test_label_maps_of_too_many_classes_are_not_measured(limited: Limited) -> None:
    outcome = limited(lambda: evaluators(["semantic"], Categories.from_names([f"{n}" for n in range(20_000)])))
    assert outcome.kind == "UserError"
    assert "the number of measured classes of label maps is 20,000; at most 5,000" in outcome.message


# --- linear work -----------------------------------------------------------------------------------------------------


def _seconds(function: Callable[[], object]) -> float:
    """The least CPU time of three runs, in seconds."""
    taken = []
    for _ in range(3):
        began = time.process_time()
        function()
        taken.append(time.process_time() - began)
    return min(taken)


def _faulty(path: Path, images: Path) -> None:
    with collected_faults():
        CocoInstances([(path, images)])


@pytest.mark.parametrize("kind", ["categories", "objects", "panoptic", "names", "twice"])
def test_work_grows_no_faster_than_the_file(data: Path, kind: str) -> None:
    """Eight times as much takes 8 times as long where work is linear, and 64 times where it is quadratic."""

    def work(count: int) -> Callable[[], object]:
        if kind == "names":
            path = write(data / f"{count}.txt", "\n".join(f"class {index}" for index in range(count)))
            return lambda: read_names(path)
        if kind == "twice":
            mask = mask_ops.Patch(0, 0, np.ones((4, 4), bool))
            patches = {index: mask._replace(left=index) for index in range(count)}
            return lambda: num_annotated_twice(np.zeros(count, np.int64), patches)
        if kind == "categories":
            content = coco(categories=names_of(count, twice=False))
        elif kind == "objects":
            content = coco(annotations=objects(count))
        else:
            infos = [{"id": index + 1, "category_id": 1, "iscrowd": 0} for index in range(count)]
            content = coco(
                annotations=[{"image_id": 1, "file_name": "a.png", "segments_info": infos}],
                categories=[{**entry, "isthing": 1} for entry in names_of(count, twice=False)],
            )
        path = write(data / f"{count}.json", content)
        if kind == "panoptic":
            return lambda: CocoPanoptic([PanopticFiles(path, data / "images", data / "images")])
        return lambda: CocoInstances([(path, data / "images")])

    few = 250 if kind == "twice" else 1_000
    small, large = _seconds(work(few)), _seconds(work(8 * few))
    assert large < 24 * small + 0.05


def test_annotations_with_repeated_keys_name_one(tmp_path: Path) -> None:
    path = write(tmp_path / "a.json", '{"images": [], "images": [], "' + "k" * 100_000 + '": 1, "categories": []}')
    with pytest.raises(UserError, match="has the key 'images' twice"):
        read_annotations(path, ["images", "categories"], "COCO")
