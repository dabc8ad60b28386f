"""``mask2former prepare``: every conversion of a miniature in the official layout, with expected values from here."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask
from scipy.io import savemat

from mask2former.data.datasets.coco import CocoInstances
from mask2former.dataset_tools.prepare import dataset_names, drawn_cells, prepare
from mask2former.dataset_tools.prepare.stages import run_stage
from mask2former.errors import OptionError, UserError
from mask2former.progress import silent
from mask2former.scenes.cells import draw_cells
from mask2former.structures import Categories

# Of pycocotools, whose decoder uses an old interface of NumPy.
pytestmark = pytest.mark.filterwarnings("ignore:.*copy keyword.*:DeprecationWarning")


def save(path: Path, pixels: np.ndarray, **options: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **options)  # type: ignore[arg-type]


def load(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image)


def ids_of(path: Path) -> np.ndarray:
    rgb = load(path).astype(int)
    return rgb[..., 0] + 256 * rgb[..., 1] + 65536 * rgb[..., 2]


def colored(ids: np.ndarray) -> np.ndarray:
    return np.stack([ids % 256, ids // 256 % 256, ids // 65536], axis=-1).astype(np.uint8)


def box_of(mask: np.ndarray) -> list[int]:
    rows, columns = np.nonzero(mask)
    x, y = int(columns.min()), int(rows.min())
    return [x, y, int(columns.max()) - x + 1, int(rows.max()) - y + 1]


# --- ADE20K ----------------------------------------------------------------------------------------------------------


def write_ade(root: Path, numbers: tuple[int, ...] = (1, 2)) -> tuple[np.ndarray, np.ndarray]:
    """Write maps: wall, sky and a bed only in the label map; two mirrors (numbers 2 and 9), partly over the wall."""
    labels = np.zeros((6, 8), dtype=np.uint8)
    labels[:3], labels[3:5], labels[5, :3] = 3, 1, 8  # sky, wall, bed; the rest of the last row is 0
    objects = np.zeros((6, 8, 3), dtype=np.uint8)
    objects[2:4, 1:3] = (13, 2, 77)  # instance class 13 is a mirror, label 28
    objects[4, 6:] = (13, 9, 0)
    folder = root / "ADEChallengeData2016"
    for number in numbers:
        save(folder / "annotations" / "validation" / f"ADE_val_{number:08d}.png", labels)
        save(folder / "annotations_instance" / "validation" / f"ADE_val_{number:08d}.png", objects)
    return labels, objects


def test_ade_label_maps_objects_and_panoptic_maps(tmp_path: Path) -> None:
    labels, objects = write_ade(tmp_path)
    outcomes, notes = prepare("ade20k", tmp_path)
    assert [outcome.made for outcome in outcomes] == [2, 2, 2]
    assert len(notes) == 1
    folder = tmp_path / "ADEChallengeData2016"

    found = load(folder / "annotations_detectron2" / "validation" / "ADE_val_00000001.png")
    assert (found[:3] == 2).all()
    assert (found[3:5] == 0).all()
    assert found[5].tolist() == [7, 7, 7, 255, 255, 255, 255, 255]

    content = json.loads((folder / "ade20k_instance_val.json").read_text())
    assert [image["id"] for image in content["images"]] == ["ADE_val_00000001", "ADE_val_00000002"]
    assert content["images"][0] == {
        "id": "ADE_val_00000001",
        "file_name": "ADE_val_00000001.jpg",
        "width": 8,
        "height": 6,
    }
    assert (len(content["categories"]), content["categories"][0]) == (100, {"id": 7, "name": "bed"})
    assert [entry["id"] for entry in content["annotations"]] == [1, 2, 3, 4]
    first, second = content["annotations"][:2]
    for entry, number in ((first, 2), (second, 9)):
        mask = objects[..., 1] == number
        assert (coco_mask.decode(entry["segmentation"]) == mask).all()
        assert (entry["area"], entry["bbox"]) == (mask.sum(), box_of(mask))
        assert (entry["category_id"], entry["iscrowd"], entry["image_id"]) == (27, 0, "ADE_val_00000001")

    content = json.loads((folder / "ade20k_panoptic_val.json").read_text())
    assert Counter(item["isthing"] for item in content["categories"]) == {0: 50, 1: 100}
    for annotation in content["annotations"]:
        ids = ids_of(folder / "ade20k_panoptic_val" / annotation["file_name"])
        segments = {segment["id"]: segment for segment in annotation["segments_info"]}
        assert set(np.unique(ids).tolist()) == {0, *segments}
        classes = np.zeros(ids.shape, dtype=int) - 1
        for number, segment in segments.items():
            classes[ids == number] = segment["category_id"]
        expected = labels.astype(int) - 1
        expected[labels == 8] = -1  # a thing that only the label map has is void
        expected[objects[..., 0] == 13] = 27
        assert (classes == expected).all()
        by_class = {}
        for segment in segments.values():
            by_class.setdefault(segment["category_id"], []).append(segment)
        assert {key: len(value) for key, value in by_class.items()} == {0: 1, 2: 1, 27: 2}
        assert by_class[2][0]["area"] == 24  # the mirror on top takes nothing away
        assert by_class[2][0]["bbox"] == [0, 0, 8, 3]
        assert sorted(segment["area"] for segment in by_class[27]) == [2, 4]
        # Stuff has the colour of its class (sky: 6, 230, 230), a thing something close to it.
        assert by_class[2][0]["id"] == 6 + 256 * 230 + 65536 * 230
        assert len({segment["id"] for segment in by_class[27]}) == 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda labels, objects: objects.__setitem__((4, 7), (1, 9, 0)), r"object 9 has the classes \[1, 13\]"),
        (lambda labels, objects: objects.__setitem__((4, 7), (101, 1, 0)), r"object 1 has the classes \[101\]"),
        (lambda labels, objects: labels.__setitem__((0, 0), 151), "the label 151"),
    ],
)
def test_ade_refuses_what_breaks_its_rules(
    tmp_path: Path, change: Callable[[np.ndarray, np.ndarray], None], message: str
) -> None:
    labels, objects = write_ade(tmp_path, numbers=(1,))
    change(labels, objects)
    folder = tmp_path / "ADEChallengeData2016"
    save(folder / "annotations" / "validation" / "ADE_val_00000001.png", labels)
    save(folder / "annotations_instance" / "validation" / "ADE_val_00000001.png", objects)
    with pytest.raises(UserError, match=message):
        prepare("ade20k", tmp_path)


def test_ade_without_objects_has_label_maps_and_says_what_is_missing(tmp_path: Path) -> None:
    write_ade(tmp_path)
    shutil.rmtree(tmp_path / "ADEChallengeData2016" / "annotations_instance")
    outcomes, notes = prepare("ade20k", tmp_path)
    assert [outcome.title for outcome in outcomes] == ["semantic label maps, validation"]
    assert any("annotations_instance" in note for note in notes)


def test_full_ade_in_16_bit_at_512_pixels(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    folder = tmp_path / "ADE20K_2021_17_01"
    codes = {(116, 162): 0, (12, 56): 1, (123, 76): 846, (0, 0): 65535, (10, 1): 65535}  # 11*256+162 is wall, 2978
    names = {"ADE_val_00000001": (600, 1030), "ADE_val_00000002": (40, 60)}
    source = folder / "images" / "ADE" / "validation" / "urban" / "street"
    expected = np.zeros(0)
    for name, (height, width) in names.items():
        choice = rng.integers(0, len(codes), (height, width))
        red_green = np.array(list(codes))[choice]
        labels = np.concatenate([red_green, rng.integers(0, 256, (height, width, 1))], axis=-1).astype(np.uint8)
        save(source / f"{name}_seg.png", labels)
        save(source / f"{name}.jpg", rng.integers(0, 256, (height, width, 3), dtype=np.uint8))
        if name.endswith("2"):
            expected = np.array(list(codes.values()))[choice]
    (outcome,), _ = prepare("ade20k-full", tmp_path)
    assert outcome.made == 2
    small = load(folder / "annotations_detectron2" / "validation" / "ADE_val_00000002.tif")
    assert small.dtype == np.uint16
    assert (small == expected).all()
    kept = folder / "images_detectron2" / "validation" / "ADE_val_00000002.jpg"
    assert kept.read_bytes() == (source / "ADE_val_00000002.jpg").read_bytes()
    large = load(folder / "annotations_detectron2" / "validation" / "ADE_val_00000001.tif")
    assert large.shape == (512, 879)  # 1030 * 512 / 600 = 878.9
    assert set(np.unique(large).tolist()) == set(codes.values())
    assert load(folder / "images_detectron2" / "validation" / "ADE_val_00000001.jpg").shape == (512, 879, 3)


# --- COCO-Stuff 10k --------------------------------------------------------------------------------------------------


def write_stuff(root: Path) -> np.ndarray:
    folder = root / "coco" / "coco_stuff_10k"
    labels = np.array([[0, 1, 2, 3], [172, 2, 1, 0]], dtype=np.uint8)
    for split, name in (("train", "COCO_train2014_000000000077"), ("test", "COCO_train2014_000000000110")):
        save(folder / "images" / f"{name}.jpg", np.full((2, 4, 3), 90, dtype=np.uint8))
        (folder / "imageLists").mkdir(exist_ok=True)
        (folder / "imageLists" / f"{split}.txt").write_text(f"{name}\n")
        (folder / "annotations").mkdir(exist_ok=True)
        savemat(folder / "annotations" / f"{name}.mat", {"S": labels.astype(np.uint16), "names": ["x"]})
    return labels


def test_stuff_label_maps(tmp_path: Path) -> None:
    write_stuff(tmp_path)
    outcomes, _ = prepare("coco-stuff-10k", tmp_path)
    assert [(outcome.made, outcome.official) for outcome in outcomes] == [(1, 9000), (1, 1000)]
    folder = tmp_path / "coco" / "coco_stuff_10k"
    labels = load(folder / "annotations_detectron2" / "test" / "COCO_train2014_000000000110.png")
    assert labels.dtype == np.uint8
    assert labels.tolist() == [[254, 255, 0, 1], [170, 0, 255, 254]]
    assert (folder / "images_detectron2" / "train" / "COCO_train2014_000000000077.jpg").is_file()


def write_matlab_7_3(path: Path, labels: np.ndarray) -> None:
    """Write a MATLAB 7.3 file, which is HDF5 after a header, with columns first."""
    h5py = pytest.importorskip("h5py")
    with h5py.File(path, "w", userblock_size=512) as file:
        file["S"] = labels.T
    header = b"MATLAB 7.3 MAT-file".ljust(124) + (0x0200).to_bytes(2, "little") + b"IM"
    with path.open("r+b") as stream:
        stream.write(header)


def test_the_newer_matlab_format_gives_the_same_label_maps(tmp_path: Path) -> None:
    labels = write_stuff(tmp_path)
    folder = tmp_path / "coco" / "coco_stuff_10k"
    write_matlab_7_3(folder / "annotations" / "COCO_train2014_000000000077.mat", labels)
    prepare("coco-stuff-10k", tmp_path)
    newer = load(folder / "annotations_detectron2" / "train" / "COCO_train2014_000000000077.png")
    older = load(folder / "annotations_detectron2" / "test" / "COCO_train2014_000000000110.png")
    assert newer.tolist() == older.tolist()


def test_without_its_library_the_newer_matlab_format_is_refused_with_the_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    labels = write_stuff(tmp_path)
    write_matlab_7_3(tmp_path / "coco" / "coco_stuff_10k" / "annotations" / "COCO_train2014_000000000077.mat", labels)
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(UserError, match=r"0077\.mat' is a MATLAB 7\.3 file; pip install h5py"):
        prepare("coco-stuff-10k", tmp_path)


@pytest.mark.parametrize("damage", ["text", "other matrix", "other size", "other values", "missing"])
def test_broken_matrices_are_named(tmp_path: Path, damage: str) -> None:
    write_stuff(tmp_path)
    file = tmp_path / "coco" / "coco_stuff_10k" / "annotations" / "COCO_train2014_000000000077.mat"
    if damage == "text":
        file.write_text("no matrix " * 40)
    elif damage == "missing":
        file.unlink()
    elif damage == "other values":  # as bytes, 300 would be 44, which is a class
        savemat(file, {"S": np.full((2, 4), 300)})
    else:
        savemat(file, {"S": np.ones((4, 2))} if damage == "other size" else {"T": np.ones((2, 4))})
    with pytest.raises(UserError, match=r"0077\.mat"):
        prepare("coco-stuff-10k", tmp_path)


# --- Cityscapes ------------------------------------------------------------------------------------------------------


def write_city(root: Path) -> np.ndarray:
    """Write ids of road, two cars, a group of cars, a caravan (not evaluated), the image's border and a bridge."""
    instances = np.zeros((6, 8), dtype=np.uint16)
    instances[3:], instances[1, 1:3], instances[1, 4:6], instances[4, 2:4] = 7, 26000, 26, 26012
    instances[0], instances[5, 6:], instances[2, 7] = 3, 29001, 15
    folder = root / "cityscapes" / "gtFine" / "val" / "ulm"
    save(folder / "ulm_000001_000019_gtFine_instanceIds.png", instances)
    return instances


def test_cityscapes_panoptic_files(tmp_path: Path) -> None:
    instances = write_city(tmp_path)
    outcomes, _ = prepare("cityscapes", tmp_path)
    assert [outcome.made for outcome in outcomes] == [1]
    folder = tmp_path / "cityscapes" / "gtFine"
    content = json.loads((folder / "cityscapes_panoptic_val.json").read_text())
    (annotation,) = content["annotations"]
    assert annotation["image_id"] == "ulm_000001_000019"
    ids = ids_of(folder / "cityscapes_panoptic_val" / annotation["file_name"])
    assert (ids == np.where(np.isin(instances, [7, 26, 26000, 26012]), instances, 0)).all()
    assert {
        segment["id"]: (segment["category_id"], segment["iscrowd"], segment["area"])
        for segment in annotation["segments_info"]
    } == {7: (7, 0, 20), 26: (26, 1, 2), 26000: (26, 0, 2), 26012: (26, 0, 2)}
    assert all(segment["bbox"] == box_of(instances == segment["id"]) for segment in annotation["segments_info"])
    assert [item["id"] for item in content["categories"] if item["isthing"]] == [24, 25, 26, 27, 28, 31, 32, 33]


def test_cityscapes_panoptic_files_are_those_of_the_official_tool(tmp_path: Path) -> None:
    official = pytest.importorskip("cityscapesscripts.preparation.createPanopticImgs")
    write_city(tmp_path)
    prepare("cityscapes", tmp_path)
    folder = tmp_path / "cityscapes" / "gtFine"
    (tmp_path / "out").mkdir()
    official.convert2panoptic(str(folder), str(tmp_path / "out"), setNames=["val"])
    ours, theirs = (
        json.loads((index / "cityscapes_panoptic_val.json").read_text()) for index in (folder, tmp_path / "out")
    )
    assert ours == theirs
    name = "cityscapes_panoptic_val/ulm_000001_000019_gtFine_panoptic.png"
    assert (load(folder / name) == load(tmp_path / "out" / name)).all()


# --- running ---------------------------------------------------------------------------------------------------------


def stamps(folder: Path) -> dict[str, int]:
    return {str(path): path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


def test_what_is_done_and_whole_is_left_alone_and_the_rest_made_again(tmp_path: Path) -> None:
    write_ade(tmp_path, numbers=(1, 2, 3))
    prepare("ade20k", tmp_path)
    folder = tmp_path / "ADEChallengeData2016"
    before = stamps(folder)
    contents = {name: Path(name).read_bytes() for name in before}
    outcomes, _ = prepare("ade20k", tmp_path)
    assert [(outcome.made, outcome.there) for outcome in outcomes] == [(0, 3)] * 3
    assert stamps(folder) == before

    cut = folder / "ade20k_panoptic_val" / "ADE_val_00000002.png"
    cut.write_bytes(cut.read_bytes()[:60])
    (folder / "annotations_detectron2" / "validation" / "ADE_val_00000003.png").unlink()
    (folder / "ade20k_instance_val.json").write_text('{"images": [')
    outcomes, _ = prepare("ade20k", tmp_path)
    assert [(outcome.made, outcome.there) for outcome in outcomes] == [(1, 2), (3, 0), (1, 2)]
    assert {name: Path(name).read_bytes() for name in stamps(folder)} == contents


def test_a_stopped_conversion_goes_on_where_it_was(tmp_path: Path) -> None:
    write_ade(tmp_path / "stopped", numbers=(1, 2, 3))
    write_ade(tmp_path / "whole", numbers=(1, 2, 3))
    prepare("ade20k", tmp_path / "whole")

    def stop(title: str, done: int, total: int | None) -> None:
        if title.startswith("panoptic") and done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prepare("ade20k", tmp_path / "stopped", progress=stop)
    folder = tmp_path / "stopped" / "ADEChallengeData2016"
    assert not (folder / "ade20k_panoptic_val.json").exists()
    (journal,) = folder.glob(".*.journal")
    journal.write_bytes(journal.read_bytes()[:-9])  # the power went off while the second record was written
    outcomes, _ = prepare("ade20k", tmp_path / "stopped")
    assert [(outcome.made, outcome.there) for outcome in outcomes] == [(0, 3), (0, 3), (2, 1)]
    whole = {path.relative_to(tmp_path / "whole"): path.read_bytes() for path in (tmp_path / "whole").rglob("*.*")}
    assert {
        path.relative_to(tmp_path / "stopped"): path.read_bytes() for path in (tmp_path / "stopped").rglob("*.*")
    } == whole
    journal.touch()  # a run was killed after it had written the index
    prepare("ade20k", tmp_path / "stopped")
    assert not journal.exists()


def test_an_index_of_other_images_is_made_again(tmp_path: Path) -> None:
    write_ade(tmp_path, numbers=(1, 2))
    prepare("ade20k", tmp_path)
    folder = tmp_path / "ADEChallengeData2016"
    for path in folder.rglob("annotations*/validation/*2.png"):  # the other images are as many
        path.rename(path.with_name(path.name.replace("2.png", "3.png")))
    prepare("ade20k", tmp_path)
    images = json.loads((folder / "ade20k_instance_val.json").read_text())["images"]
    assert [image["id"][-1] for image in images] == ["1", "3"]


@pytest.mark.slow
def test_several_processes_make_the_same_files(tmp_path: Path) -> None:
    numbers = tuple(range(1, 46))
    for index in ("one", "two"):
        write_ade(tmp_path / index, numbers)
        shutil.rmtree(tmp_path / index / "ADEChallengeData2016" / "annotations_instance")
        prepare("ade20k", tmp_path / index, 1 if index == "one" else 2)
    one, two = (
        {path.name: path.read_bytes() for path in (tmp_path / index).rglob("annotations_detectron2/*/*.png")}
        for index in ("one", "two")
    )
    assert one == two
    assert len(one) == 45


@pytest.mark.parametrize("name", [name for name in dataset_names() if name != "drawn-cells"])
def test_an_absent_data_set_is_refused_with_what_to_unpack(tmp_path: Path, name: str) -> None:
    with pytest.raises(OptionError, match=r"unpack .* give another root$") as refused:
        prepare(name, tmp_path)
    assert refused.value.sentence(lambda argument: f"--data-{argument}").endswith("give another --data-root")


def test_an_unknown_data_set_is_refused_with_those_there_are(tmp_path: Path) -> None:
    names = "ade20k, ade20k-full, cityscapes, coco-stuff-10k, drawn-cells"
    with pytest.raises(UserError, match=f"'voc'; expected one of {names}; the other data sets are read as downloaded"):
        prepare("voc", tmp_path)


# --- real files ------------------------------------------------------------------------------------------------------


def shared() -> Path:
    folder = os.environ.get("MASK2FORMER_SHARED")
    if not folder:
        pytest.skip("MASK2FORMER_SHARED does not name the folder of shared data")
    return Path(folder) / "data"


def test_real_cityscapes_files_give_the_published_panoptic_file(tmp_path: Path) -> None:
    source = shared() / "cityscapes_mini" / "gtFine"
    city = tmp_path / "cityscapes" / "gtFine" / "val" / "frankfurt"
    city.mkdir(parents=True)
    for path in (source / "val" / "frankfurt").glob("*Ids.png"):
        if "labelTrainIds" not in path.name:
            (city / path.name).write_bytes(path.read_bytes())
    prepare("cityscapes", tmp_path)
    made, given = (
        json.loads((folder / "cityscapes_panoptic_val.json").read_text())
        for folder in (tmp_path / "cityscapes" / "gtFine", source)
    )
    assert (made["annotations"], made["images"]) == (given["annotations"], given["images"])


def test_real_ade_objects_come_back(tmp_path: Path) -> None:
    """PNGs drawn from the derived objects of the training images are converted to the same masks and classes."""
    source = shared() / "ade_mini" / "ADEChallengeData2016"
    given = json.loads((source / "instance_training.json").read_text())
    folder = tmp_path / "ADEChallengeData2016"
    things = Categories.load("ade20k_150").thing_indices
    drawn = {}
    for image in given["images"]:
        stem = Path(image["file_name"]).stem
        objects = np.zeros((image["height"], image["width"], 3), dtype=np.uint8)
        entries = [entry for entry in given["annotations"] if entry["image_id"] == image["id"]]
        for number, entry in enumerate(entries, start=1):
            rle = entry["segmentation"]
            mask = coco_mask.decode({"size": rle["size"], "counts": rle["counts"].encode()}).astype(bool)
            objects[mask] = (entry["category_id"], number, 0)
        masks = {number: objects[..., 1] == number for number in np.unique(objects[..., 1]).tolist() if number}
        # Instance class k of the PNG is the k-th thing of the 100, and the file has the index among all 150 classes.
        drawn[stem] = [(things[entries[number - 1]["category_id"] - 1], mask) for number, mask in masks.items()]
        save(folder / "annotations_instance" / "training" / f"{stem}.png", objects)
        labels = source / "annotations" / "training" / f"{stem}.png"
        save(folder / "annotations" / "training" / f"{stem}.png", load(labels))
    prepare("ade20k", tmp_path)
    made = json.loads((folder / "ade20k_instance_train.json").read_text())
    assert len(drawn) == 3
    for stem, objects in drawn.items():
        entries = [entry for entry in made["annotations"] if entry["image_id"] == stem]
        assert [entry["category_id"] for entry in entries] == [label for label, _ in objects]
        assert [entry["area"] for entry in entries] == [int(mask.sum()) for _, mask in objects]
        for entry, (_, mask) in zip(entries, objects, strict=True):
            assert (coco_mask.decode(entry["segmentation"]) == mask).all()
    panoptic = json.loads((folder / "ade20k_panoptic_train.json").read_text())
    for annotation in panoptic["annotations"]:
        ids = ids_of(folder / "ade20k_panoptic_train" / annotation["file_name"])
        numbers = {segment["id"] for segment in annotation["segments_info"]}
        assert set(np.unique(ids).tolist()) - {0} == numbers


def test_nothing_is_written_outside_of_the_folder(tmp_path: Path) -> None:
    stuff = tmp_path / "coco" / "coco_stuff_10k" / "imageLists"
    stuff.mkdir(parents=True)
    (stuff / "train.txt").write_text("../../x\n")
    with pytest.raises(UserError, match="image names without folders"):
        prepare("coco-stuff-10k", tmp_path)


# --- drawn cells -----------------------------------------------------------------------------------------------------


def test_a_folder_where_nothing_can_be_drawn_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"file' is a file; choose another folder"):
        prepare("drawn-cells", tmp_path / "file")


def test_drawn_cells_are_coco_instances_of_what_was_drawn(tmp_path: Path) -> None:
    training, validation = drawn_cells.plan(tmp_path).stages
    assert (len(training.jobs), len(validation.jobs)) == (4000, 100)
    assert not {job.key for job in training.jobs} & {job.key for job in validation.jobs}

    few = replace(validation, jobs=validation.jobs[:3])
    outcome = run_stage(few, num_workers=1, progress=silent)
    assert (outcome.made, outcome.there, outcome.note) == (3, 0, "")
    assert run_stage(few, num_workers=1, progress=silent).there == 3
    folder = tmp_path / "drawn-cells"
    read = CocoInstances([(folder / "instances_val.json", folder / "val")])
    assert [category.name for category in read.categories] == ["nucleus"]
    for index, job in enumerate(few.jobs):
        drawn = draw_cells(int(job.key))
        sample = read[index]
        assert sample.target is not None
        np.testing.assert_array_equal(sample.image[0].permute(1, 2, 0).numpy(), drawn.image)
        numbers = np.arange(1, drawn.ids.max() + 1)
        np.testing.assert_array_equal(sample.target.masks[:, 0].numpy(), drawn.ids == numbers[:, None, None])
