from __future__ import annotations

import hashlib
import io
import json
import os
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import mask2former
from mask2former.errors import UserError
from mask2former.inference.plan_files import plan
from mask2former.inference.predict_files import predict_files
from mask2former.inference.predictor import Predictor
from mask2former.inference.result_files import Job, Outcome
from mask2former.inference.segment_files import segment_files
from mask2former.media.images import NamedBytes, read_image
from mask2former.media.web_images import WebImage
from mask2former.models.mask2former import Mask2Former
from mask2former.notes import collect_notes
from mask2former.ops import masks as mask_ops
from mask2former.results_io.coco import write_coco_results
from mask2former.results_io.json import write_json

pytestmark = pytest.mark.usefixtures("small_overlays")
TASKS = ("panoptic", "instance", "semantic")


@pytest.fixture
def predictor(tiny_model: Mask2Former) -> Predictor:
    return Predictor(tiny_model, device="cpu")


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """A folder with two images, 000001.jpg and deep/000002.png, and a broken file."""
    folder = tmp_path / "images"
    (folder / "deep").mkdir(parents=True)
    pixels = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(folder / "000001.jpg")
    Image.fromarray(pixels).save(folder / "deep" / "000002.png")
    (folder / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    return folder


def _files(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def _run(predictor: Predictor, images: Path, output: Path, **kwargs: Any) -> dict[str, Outcome]:
    outcomes = segment_files(predictor, plan([images], output), **kwargs)
    return {outcome.job.stem.as_posix(): outcome for outcome in outcomes}


def test_one_source_needs_no_list(predictor: Predictor, images: Path, tmp_path: Path) -> None:
    report = predict_files(predictor, str(images / "000001.jpg"), tmp_path / "out", overlays=False)
    assert (report.num_images, report.outcomes["done"]) == (1, 1)


@pytest.mark.parametrize(("task", "map_ending"), [("panoptic", "_ids"), ("instance", None), ("semantic", "_labels")])
def test_the_folder_structure_is_kept_and_a_broken_image_stops_nothing(
    predictor: Predictor, images: Path, tmp_path: Path, task: Any, map_ending: str | None
) -> None:
    outcomes = _run(predictor, images, tmp_path / "out", task=task, model="tiny")
    assert {stem: outcome.status for stem, outcome in outcomes.items()} == {
        "000001": "done",
        "broken": "refused",
        "deep/000002": "done",
    }
    assert "broken.png" in outcomes["broken"].reason
    endings = [".png", ".json"] + ([f"{map_ending}.png"] if map_ending else [])
    assert _files(tmp_path / "out") == {stem + ending for stem in ("000001", "deep/000002") for ending in endings}
    document = json.loads((tmp_path / "out/000001.json").read_text())
    assert (document["task"], document["model"], document["size"]) == (task, "tiny", [40, 60])
    assert document["schema_version"] == 1
    assert document["settings"] == {
        **predictor.settings.model_dump(mode="json", exclude={"tasks"}),
        "dtype": "float32",
    }


@pytest.mark.parametrize(
    ("task", "threshold", "limit", "crowded"),
    [
        ("instance", 0.0, 3, True),  # each of the three would be shown, and so might a fourth
        ("instance", 0.99, 3, False),  # the last is below the threshold: nothing was lost
        ("instance", 0.0, 1000, False),  # the model has fewer predictions
        ("semantic", 0.0, 3, False),
    ],
)
def test_more_instances_than_are_let_through_are_told(
    predictor: Predictor, images: Path, tmp_path: Path, task: Any, threshold: float, limit: int, crowded: bool
) -> None:
    predictor.settings = predictor.settings.model_copy(
        update={"instance_threshold": threshold, "max_instances": limit, "things_only": False}
    )
    outcomes = _run(predictor, images, tmp_path / "out", task=task)
    assert {stem: outcome.crowded for stem, outcome in outcomes.items()} == {
        "000001": crowded,
        "broken": False,
        "deep/000002": crowded,
    }


def test_what_is_there_is_skipped_unless_overwritten(predictor: Predictor, images: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    _run(predictor, images, output, task="semantic", model="tiny")
    again = _run(predictor, images, output, task="semantic", model="the same by another name")
    assert (again["000001"].status, again["000001"].differs) == ("skipped", False)
    assert again["000001"].found > 0
    document = json.loads((output / "000001.json").read_text())
    assert document["settings"].pop("resampling") == "antialiased"
    (output / "000001.json").write_text(json.dumps(document))  # as before that setting existed
    assert not _run(predictor, images, output, task="semantic", model="tiny")["000001"].differs
    predictor.settings = predictor.settings.model_copy(update={"resampling": "bilinear"})
    assert _run(predictor, images, output, task="semantic", model="tiny")["000001"].differs
    predictor.settings = predictor.settings.official()
    other = _run(predictor, images, output, task="panoptic", model="tiny")["000001"]
    assert (other.status, other.differs, other.found) == ("skipped", True, 0)
    assert not (output / "000001_ids.png").exists()
    forced = _run(predictor, images, output, task="panoptic", model="tiny", overwrite=True, overlay=False)
    assert forced["000001"].status == "done"
    # No file of the earlier result is left.
    assert _files(output) == {
        f"{stem}{ending}" for stem in ("000001", "deep/000002") for ending in (".json", "_ids.png")
    }


def test_batches_are_completed_to_the_same_bytes(predictor: Predictor, tmp_path: Path) -> None:
    random = np.random.default_rng(2)
    (tmp_path / "images").mkdir()
    for number, size in enumerate([(40, 60), (40, 60), (60, 40), (40, 60), (60, 40), (41, 60), (40, 60)]):
        Image.fromarray(random.integers(0, 256, (*size, 3), dtype=np.uint8)).save(tmp_path / f"images/{number}.png")
    (tmp_path / "images" / "3.png").write_bytes(b"no image")
    output = tmp_path / "out"
    options = {"task": "semantic", "batch_size": 3, "overlay": False}
    first = _run(predictor, tmp_path / "images", output, **options)
    assert [outcome.status for outcome in first.values()] == ["done"] * 3 + ["refused"] + ["done"] * 3
    before = {path.name: path.read_bytes() for path in output.iterdir()}
    for gone in ("0.json", "4.json", "5.json", "6_labels.png"):
        (output / gone).unlink()
    again = _run(predictor, tmp_path / "images", output, **options)
    assert [number for number, outcome in again.items() if outcome.status == "done"] == ["0", "4", "5", "6"]
    assert {path.name: path.read_bytes() for path in output.iterdir()} == before


@pytest.mark.parametrize("missing", ["000001.png", "000001_labels.png", "000001.json"])
def test_files_that_are_missing_are_made(predictor: Predictor, images: Path, tmp_path: Path, missing: str) -> None:
    output = tmp_path / "out"
    _run(predictor, images, output, task="semantic")
    (output / missing).unlink()
    again = _run(predictor, images, output, task="semantic")
    assert {stem: outcome.status for stem, outcome in again.items()} == {
        "000001": "done",
        "broken": "refused",
        "deep/000002": "skipped",
    }
    assert (output / missing).is_file()


def test_overlays_that_were_not_drawn_are_drawn_when_requested(
    predictor: Predictor, images: Path, tmp_path: Path
) -> None:
    output = tmp_path / "out"
    _run(predictor, images, output, task="instance", overlay=False)
    assert _run(predictor, images, output, task="instance", overlay=False)["000001"].status == "skipped"
    assert not (output / "000001.png").exists()
    assert _run(predictor, images, output, task="instance")["000001"].status == "done"
    assert (output / "000001.png").exists()
    assert _run(predictor, images, output, task="instance", overlay=False)["000001"].status == "skipped"


def test_another_image_of_the_same_name_is_segmented(predictor: Predictor, images: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    old = images / "deep" / "000002.png"
    Image.fromarray(np.zeros((40, 60, 3), np.uint8)).save(old.with_suffix(".bmp"))
    old.unlink()
    image, times = old.with_suffix(".bmp"), old.with_suffix(".bmp").stat()
    _run(predictor, images, output, task="semantic")
    Image.fromarray(np.full((40, 60, 3), 200, np.uint8)).save(image)
    os.utime(image, ns=(times.st_atime_ns, times.st_mtime_ns))  # of the same size and time, as from an archive
    with collect_notes() as notes:
        again = _run(predictor, images, output, task="semantic")
    assert (again["000001"].status, again["deep/000002"].status) == ("skipped", "done")
    assert [(message, "000002.json" in example) for message, example in notes] == [
        ("results of other images of the same name, replaced", True)
    ]
    image.touch()
    assert _run(predictor, images, output, task="semantic")["deep/000002"].status == "skipped"


def test_other_weights_under_the_same_name_are_noticed(tiny_model: Mask2Former, images: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    trained_on = deepcopy(tiny_model)
    with torch.no_grad():
        next(trained_on.parameters()).mul_(1.5)
    _run(Predictor(tiny_model, device="cpu"), images, output, model="m.safetensors")
    assert _run(Predictor(trained_on, device="cpu"), images, output, model="m.safetensors")["000001"].differs


def test_results_without_a_record_of_what_they_were_made_of_are_kept_and_told(
    predictor: Predictor, images: Path, tmp_path: Path
) -> None:
    output = tmp_path / "out"
    _run(predictor, images, output, task="instance", model="tiny")
    path = output / "000001.json"
    document = json.loads(path.read_text())
    del document["provenance"]  # as 0.1.0 wrote them
    path.write_text(json.dumps(document))
    again = _run(predictor, images, output, task="instance", model="tiny")
    assert (again["000001"].status, again["000001"].differs) == ("skipped", True)
    assert not again["deep/000002"].differs


@pytest.mark.parametrize("name", ["000001.json", "000001.png", "000001_ids.png", "deep/000002.json"])
def test_a_file_of_something_else_is_not_lost(predictor: Predictor, images: Path, tmp_path: Path, name: str) -> None:
    output = tmp_path / "out"
    other = output / name
    other.parent.mkdir(parents=True)
    if other.suffix == ".json":  # of a labelling tool, or the tracks of a video
        other.write_text(json.dumps({"schema_version": 1, "task": "instance", "size": [4, 4], "frames": []}))
    else:
        Image.new("RGB", (4, 4)).save(other)
    with pytest.raises(UserError, match="is not a result of mask2former predict") as refused:
        _run(predictor, images, output, task="panoptic")
    assert str(other) in str(refused.value)
    assert _files(output) == {name}
    assert _run(predictor, images, output, task="panoptic", overwrite=True)["000001"].status == "done"


def test_json_files_say_what_they_were_made_of(predictor: Predictor, images: Path, tmp_path: Path) -> None:
    _run(predictor, images, tmp_path / "out", task="instance")
    provenance = json.loads((tmp_path / "out/000001.json").read_text())["provenance"]
    assert provenance == {
        "version": mask2former.__version__,
        "image": "000001.jpg",
        "image_sha256": hashlib.sha256((images / "000001.jpg").read_bytes()).hexdigest(),
        "weights_sha256": predictor.weights_sha256(),
        "categories_sha256": hashlib.sha256(
            json.dumps([[item.id, item.name, item.is_thing] for item in predictor.categories]).encode()
        ).hexdigest(),
    }


def test_instances_below_the_threshold_are_in_the_coco_file_alone(
    predictor: Predictor, images: Path, tmp_path: Path
) -> None:
    output, jobs = tmp_path / "out", plan([images / "000001.jpg"], tmp_path / "out")
    everything = predictor(images / "000001.jpg", "instance")
    threshold = float(everything.scores[2])
    predictor.settings = predictor.settings.model_copy(update={"instance_threshold": threshold})
    (outcome,) = segment_files(predictor, jobs, "instance")
    assert (outcome.found, outcome.candidates) == (3, len(everything))
    document = json.loads((output / "000001.json").read_text())
    assert [record["score"] for record in document["instances"]] == everything.scores[:3].tolist()
    assert "candidates" not in document
    (outcome,) = segment_files(predictor, jobs, "instance", candidates=True)
    assert (outcome.status, outcome.found, outcome.candidates) == ("done", 3, len(everything))
    (outcome,) = segment_files(predictor, jobs, "instance", candidates=True)
    assert (outcome.status, outcome.found, outcome.candidates) == ("skipped", 3, len(everything))
    assert _coco_results(output, jobs, "instance", predictor) == json.loads(json.dumps(everything.to_coco(1)))
    drawn = np.asarray(Image.open(output / "000001.png"))
    image = read_image(images / "000001.jpg")
    assert np.array_equal(drawn, np.asarray(everything.at_least(threshold).plot(image, scale=None)))


def _coco_results(folder: Path, jobs: list[Job], task: Any, predictor: Predictor) -> Any:
    done = [job for job in jobs if job.document.exists()]
    write_coco_results(folder / "coco.json", done, task, predictor.categories)
    return json.loads((folder / "coco.json").read_text())


def test_one_coco_file_does_not_mix_models(predictor: Predictor, images: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    _run(predictor, images, output, task="instance")
    before = {name: (output / name).read_bytes() for name in _files(output)}
    predictor.settings = predictor.settings.model_copy(update={"instance_threshold": 0.3})
    Image.new("RGB", (9, 9)).save(images / "new.png")
    with pytest.raises(UserError, match=r"\(and 1 more\) comes from another model"):
        _run(predictor, images, output, task="instance", candidates=True)
    assert {name: (output / name).read_bytes() for name in _files(output)} == before


@pytest.mark.parametrize("task", TASKS)
def test_own_overlays_and_maps_are_not_taken_for_images(
    predictor: Predictor, images: Path, tmp_path: Path, task: Any
) -> None:
    first = _run(predictor, images, tmp_path / "out", task=task)
    beside = list(segment_files(predictor, plan([images / "000001.jpg"], images), task))
    assert beside[0].status == "done"
    assert (images / "000001.png").is_file()
    with collect_notes() as notes:
        assert {job.stem.as_posix() for job in plan([images], tmp_path / "out")} == first.keys()
    assert {message for message, _ in notes} == {"overlays and maps of earlier results, not used as images"}
    assert len(notes) == (1 if task == "instance" else 2)
    for sources in ([tmp_path / "out"], sorted((tmp_path / "out").rglob("*.png"))):
        with pytest.raises(UserError, match="only results of mask2former predict"):
            plan(sources, tmp_path / "again")


def test_overlays_of_older_versions_are_known_by_the_json_file_beside_them(
    predictor: Predictor, images: Path, tmp_path: Path
) -> None:
    (job,) = plan([images / "000001.jpg"], images)
    list(segment_files(predictor, [job], "panoptic", model="tiny"))
    document = json.loads(job.document.read_text())
    del document["provenance"]
    for ending in (".png", "_ids.png"):
        with Image.open(job.file(ending)) as drawn:
            Image.fromarray(np.asarray(drawn)).save(job.file(ending))  # without our metadata
    for model, known in (("tiny", {"000001"}), (None, {"000001.jpg", "000001.png"})):  # None: of save() in Python
        job.document.write_text(json.dumps({**document, "model": model}))
        assert {job.stem.name for job in plan([images], tmp_path / "out")} == {*known, "broken", "000002"}


@pytest.mark.parametrize("task", TASKS)
def test_the_coco_file_says_what_the_results_say(predictor: Predictor, images: Path, tmp_path: Path, task: Any) -> None:
    output = tmp_path / "out"
    _run(predictor, images, output, task=task, model="tiny")
    values: Any = _coco_results(tmp_path, plan([images], output), task, predictor)
    result: Any = predictor(images / "000001.jpg", task)
    if task == "panoptic":
        expected = result.to_coco(1, "000001_ids.png")
        found = values["annotations"][0]
        assert found["file_name"] == expected["file_name"]
        for one, other in zip(found["segments_info"], expected["segments_info"], strict=True):
            assert other.items() <= one.items()
        assert [image["id"] for image in values["images"]] == [1, 2]
        assert (output / values["annotations"][1]["file_name"]).is_file()
    else:
        assert [record for record in values if record["image_id"] == 1] == json.loads(json.dumps(result.to_coco(1)))
        assert mask_ops.decode([values[0]["segmentation"]]).shape[-2:] == (40, 60)
    other: Any = "semantic" if task == "panoptic" else "panoptic"
    with pytest.raises(UserError, match="overwrite"):
        _coco_results(tmp_path, plan([images], output), other, predictor)


def test_image_ids_are_names_unless_all_are_numbers(predictor: Predictor, images: Path, tmp_path: Path) -> None:
    (images / "000001.jpg").rename(images / "first.jpg")
    _run(predictor, images, tmp_path / "out", task="semantic")
    values = _coco_results(tmp_path, plan([images], tmp_path / "out"), "semantic", predictor)
    assert {record["image_id"] for record in values} == {"first", "deep/000002"}


def test_equal_stems_keep_their_suffix(predictor: Predictor, images: Path, tmp_path: Path) -> None:
    Image.new("RGB", (9, 9)).save(images / "000001.png")
    _run(predictor, images, tmp_path / "out", task="instance")
    assert {"000001.jpg.json", "000001.png.json", "000001.png.png"} <= _files(tmp_path / "out")


def test_an_output_inside_the_sources_is_not_read_again(predictor: Predictor, images: Path) -> None:
    output = images / "results"
    first = _run(predictor, images, output, task="panoptic")
    assert _run(predictor, images, output, task="panoptic").keys() == first.keys()


def test_images_and_results_are_never_overwritten_by_others(images: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="one of the sources"):
        plan([images], images)
    with pytest.raises(UserError, match="overwrite an image"):
        plan([images / "deep" / "000002.png"], images / "deep")
    Image.new("RGB", (9, 9)).save(images / "000001_ids.png")
    with pytest.raises(UserError, match=r"both be written to '.*000001_ids\.png'"):
        plan([images], tmp_path / "out")


def test_an_output_that_is_a_file_is_refused_and_nothing_is_made(images: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    for output in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(UserError, match="is a file"):
            plan([images], output)
        with pytest.raises(UserError, match=r"is a file|expected the name"):
            write_json(output / "x.json", {})
    plan([images], tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_json_files_appear_whole(tmp_path: Path) -> None:
    write_json(tmp_path / "a" / "b.json", {"x": 1})
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "a" / "c.json", {"x": float("nan")})
    assert _files(tmp_path) == {"a/b.json"}


# --- pages, bytes and addresses -------------------------------------------------------------------------------------


@pytest.fixture
def stack(tmp_path: Path) -> Path:
    """A folder with a TIFF of three pages and an image of one."""
    folder = tmp_path / "stacks"
    folder.mkdir()
    pixels = np.random.default_rng(3).integers(0, 256, (3, 32, 48), dtype=np.uint8)
    first, *others = (Image.fromarray(page) for page in pixels)
    first.save(folder / "a.tif", save_all=True, append_images=others)
    first.save(folder / "b.png")
    return folder


def test_pages_that_are_lost_or_too_many_are_an_error(predictor: Predictor, stack: Path, tmp_path: Path) -> None:
    content = (stack / "a.tif").read_bytes()
    (stack / "a.tif").write_bytes(content[: len(content) // 2])
    report = predict_files(predictor, stack / "a.tif", tmp_path / "out", "semantic", page="all", overlays=False)
    assert (report.outcomes["done"], report.outcomes["failed"] + report.outcomes["refused"]) == (1, 2)
    first, *others = (Image.new("L", (2, 2), number % 2) for number in range(1000))
    first.save(stack / "a.tif", save_all=True, append_images=others)
    with pytest.raises(UserError, match=r"a.tif' has too many pages: 1,?000"):
        predict_files(predictor, stack, tmp_path / "many", "semantic", page="all", overlays=False)
    assert not (tmp_path / "many").exists()


def test_all_pages_or_one_get_results_of_their_own(predictor: Predictor, stack: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    report = predict_files(predictor, stack, out, "semantic", page="all", overlays=False)
    assert report.outcomes["done"] == 4
    assert not report.notes
    stems = ("a_page1", "a_page2", "a_page3", "b")
    assert _files(out) == {stem + ending for stem in stems for ending in (".json", "_labels.png")}
    documents = {stem: json.loads((out / f"{stem}.json").read_text()) for stem in stems}
    assert [documents[stem]["provenance"].get("page") for stem in stems] == [1, 2, 3, None]
    assert documents["a_page2"]["provenance"]["image"] == "a.tif"
    again = predict_files(predictor, stack, out, "semantic", page="all", overlays=False)
    assert again.outcomes["skipped"] == 4

    one = predict_files(predictor, stack / "a.tif", tmp_path / "one", "semantic", page=3, overlays=False)
    assert one.outcomes["done"] == 1
    found = (tmp_path / "one" / "a_page3.json").read_text()
    assert found == (out / "a_page3.json").read_text()
    report = predict_files(predictor, stack, tmp_path / "third", "semantic", page=3, overlays=False)
    assert report.outcomes["refused"] == 1
    assert "'" + str(stack / "b.png") + "' has no page 3; it has 1" in report.failed[0].reason
    wrong: list[Any] = [0, -1, 1001, "first", True]
    for page in wrong:
        with pytest.raises(UserError, match=r"page.*got"):
            predict_files(predictor, stack, tmp_path / "no", page=page)


def test_pages_have_names_of_their_own_in_tables_and_formats(predictor: Predictor, stack: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    predict_files(predictor, stack, out, "semantic", page="all", also=["coco-dataset", "label-studio"], overlays=False)
    images = json.loads((out / "coco-dataset" / "annotations.json").read_text())["images"]
    assert [image["file_name"] for image in images] == ["a_page1.tif", "a_page2.tif", "a_page3.tif", "b.png"]
    tasks = json.loads((out / "label-studio" / "tasks.json").read_text())
    assert tasks[1]["data"]["image"].endswith("d=stacks/a_page2.tif")


def test_without_a_page_the_first_is_read_and_the_others_noted(
    predictor: Predictor, stack: Path, tmp_path: Path
) -> None:
    report = predict_files(predictor, stack, tmp_path / "out", "semantic", overlays=False)
    assert report.outcomes["done"] == 2
    assert "only the first is read" in report.notes[0]


def test_bytes_are_an_image_with_a_name(predictor: Predictor, stack: Path, tmp_path: Path) -> None:
    content = (stack / "b.png").read_bytes()
    source = NamedBytes("stdin", content)
    predict_files(predictor, source, tmp_path / "out", "semantic", overlays=False)
    report = predict_files(predictor, source, tmp_path / "out", "semantic", overlays=False)
    assert report.outcomes["skipped"] == 1
    document = json.loads((tmp_path / "out" / "stdin.json").read_text())
    assert document["provenance"]["image_sha256"] == hashlib.sha256(content).hexdigest()
    with pytest.raises(UserError, match="would both be written"):
        predict_files(predictor, [NamedBytes("x", content), NamedBytes("x", content)], tmp_path / "two")


def test_an_address_is_fetched_once(predictor: Predictor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.BytesIO()
    Image.new("RGB", (32, 32), "red").save(stream, "PNG")
    fetched: list[str] = []

    def read_bytes(self: WebImage) -> bytes:
        fetched.append(self.url)
        return stream.getvalue()

    monkeypatch.setattr(WebImage, "read_bytes", read_bytes)
    report = predict_files(predictor, "https://a.org/street.jpg?x=1", tmp_path / "out", "semantic", overlays=False)
    assert report.outcomes["done"] == 1
    assert fetched == ["https://a.org/street.jpg?x=1"]
    document = json.loads((tmp_path / "out" / "street.json").read_text())
    assert document["provenance"]["image"] == "street.jpg"


def test_an_address_that_shows_another_image_by_now_is_not_measured(
    predictor: Predictor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetched: list[bytes] = []

    def read_bytes(self: WebImage) -> bytes:
        stream = io.BytesIO()
        Image.new("RGB", (48, 32), (len(fetched) // 2 * 20,) * 3).save(stream, "PNG")
        fetched.append(stream.getvalue())
        return fetched[-1]

    monkeypatch.setattr(WebImage, "read_bytes", read_bytes)
    options: Any = {"overlays": False, "also": ["cutouts"]}
    assert (
        predict_files(predictor, "https://a.org/a.png", tmp_path / "out", "semantic", **options).outcomes["done"] == 1
    )
    fetched.append(b"")
    with pytest.raises(UserError, match=r"'https://a.org/a.png' has changed since it was segmented; save it as a file"):
        predict_files(predictor, "https://a.org/a.png", tmp_path / "out", "semantic", **options)


def test_progress_counts_the_tiles_of_an_image_that_has_many(
    predictor: Predictor, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tiles of an image that has many are counted too, since it may take minutes."""
    monkeypatch.setattr("mask2former.inference.tiling._PIXELS_AT_ONCE", 4 * 64 * 64)  # four tiles at once
    told: list[tuple[str, int, int | None]] = []

    def progress(step: str, done: int, total: int | None) -> None:
        told.append((step, done, total))

    info = predictor.model.info  # of all tests of this folder
    tiles = info.inference.model_copy(update={"tile": 32, "tile_overlap": 0, "short_edge": 64})
    monkeypatch.setattr(predictor.model, "info", replace(info, inference=tiles))
    settings: Any = {"overlays": False, "progress": progress, "device": "cpu"}
    source = tmp_path / "large.png"
    Image.fromarray(np.zeros((96, 64, 3), np.uint8)).save(source)  # six tiles
    predict_files(predictor.model, source, tmp_path / "one", "semantic", **settings)
    assert told == [
        ("semantic", 0, 1),
        ("semantic, tiles", 4, 6),
        ("semantic, tiles", 6, 6),
        ("semantic", 1, 1),
    ]
    told.clear()
    predict_files(predictor.model, [source, images], tmp_path / "all", "semantic", **settings)
    assert told[:4] == [
        ("semantic", 0, 4),
        ("semantic, tiles (0 of 4 images done)", 4, 6),
        ("semantic, tiles (0 of 4 images done)", 6, 6),
        ("semantic", 1, 4),
    ]
    assert {step for step, _, _ in told[4:]} == {"semantic"}  # the others have few tiles
