"""Clips from end to end: training, validation, and evaluation on the command line."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch
from layouts import write_vipseg
from PIL import Image
from runs import run_values, table

from mask2former import checkpoints
from mask2former.cli import main
from mask2former.config import MaskedDecoderConfig, RunConfig, parse
from mask2former.data.datasets.scenes import SceneClips
from mask2former.data.datasets.youtube_vis import YouTubeVIS
from mask2former.errors import UserError
from mask2former.media.images import read_image
from mask2former.media.video import VideoFile
from mask2former.ops import masks as mask_ops
from mask2former.scenes import SCENE_CATEGORIES
from mask2former.training.run import train

pytestmark = pytest.mark.usefixtures("small_overlays")

INFERENCE = {"tasks": ["instance"], "short_edge": 48, "long_edge": 64, "max_instances": 20}
AUGMENTATION = {
    "name": "resize-crop-flip",
    "short_edges": [40, 48],
    "crop_size": None,
    "pad_size": None,
    "color_jitter": False,
}


def clip_run(output: Path, dataset: dict[str, object], **model: object) -> RunConfig:
    values = run_values(output)
    values["evaluation"] = {"interval": 2, "tasks": ["instance"], "monitor": "instance/AP", "num_images": 1}
    decoder = {**values["model"]["transformer_decoder"], "position_encoding": "3d"}
    values["model"] |= {"inference": INFERENCE, "transformer_decoder": decoder, **model}
    values["data"] = {"dataset": dataset, "augmentation": AUGMENTATION, "batch_size": 2, "num_workers": 0}
    values["trainer"] |= {"max_steps": 2}
    return parse(RunConfig, values, "test")


def write_clips(folder: Path, *, annotated: bool = True) -> dict[str, str]:
    """Write two clips of four frames in YouTube-VIS format."""
    clips = SceneClips(48, num_frames=4, seed=50, length=2)
    videos, annotations = [], []
    for index in range(2):
        ground_truth, names = clips.ground_truths(index, ["instance"])["instance"], []
        for position, image in enumerate(clips.images(index)):
            names.append(f"{index}/{position}.png")
            (folder / str(index)).mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(folder / names[-1])
        videos.append({"id": index + 1, "height": 48, "width": 48, "length": 4, "file_names": names})
        for masks, label in zip(ground_truth.masks, ground_truth.labels.tolist(), strict=True):
            rles = [rle if mask.any() else None for rle, mask in zip(mask_ops.encode(masks), masks, strict=True)]
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "video_id": index + 1,
                    "category_id": SCENE_CATEGORIES[label].id,
                    "segmentations": rles,
                    "iscrowd": 0,
                }
            )
    categories = [{"id": item.id, "name": item.name} for item in SCENE_CATEGORIES if item.is_thing]
    content = {"videos": videos, "categories": categories} | ({"annotations": annotations} if annotated else {})
    file = folder / "clips.json"
    file.write_text(json.dumps(content))
    return {"annotations": str(file), "frames": str(folder)}


@pytest.mark.long
def test_training_on_moving_scenes_measures_tracks_and_resumes(tmp_path: Path) -> None:
    dataset = {
        "name": "scene-clips",
        "image_size": [48, 48],
        "clip_length": 4,
        "num_training": 6,
        "num_validation": 2,
    }
    result = train(clip_run(tmp_path / "run", dataset))
    assert result.model.exists()
    assert any(row["instance/AP"] for row in table(tmp_path / "run"))
    assert list((tmp_path / "run" / "images").glob("*.png"))
    model = checkpoints.from_pretrained(result.model)
    decoder = model.info.known_architecture.transformer_decoder
    assert isinstance(decoder, MaskedDecoderConfig)
    assert decoder.position_encoding == "3d"
    again = train(clip_run(tmp_path / "again", dataset))  # clips are a function of seed and step
    first, second = (checkpoints.from_pretrained(run.model).state_dict() for run in (result, again))
    assert all(torch.equal(first[name], second[name]) for name in first)


_VIT = {"embed_dim": 32, "depth": 3, "num_heads": 2, "img_size": 48}
SINCE: dict[str, dict[str, object]] = {
    "pilots": {"transformer_decoder": {**run_values(Path())["model"]["transformer_decoder"], "pilots": 8}},
    "encoder-only": {
        "backbone": {"name": "timm", "model": "vit_tiny_patch16_224", "kwargs": _VIT, "joint_blocks": 2},
        "pixel_decoder": {"name": "none"},
        "transformer_decoder": {"name": "encoder-only", "num_queries": 10},
    },
}


@pytest.mark.slow
@pytest.mark.parametrize("option", SINCE)
def test_what_came_after_the_paper_learns_from_clips(option: str, tmp_path: Path) -> None:
    dataset = {"name": "scene-clips", "image_size": [48, 48], "clip_length": 4, "num_training": 6, "num_validation": 2}
    run = clip_run(tmp_path / "run", dataset, **SINCE[option])
    run = run.model_copy(
        update={
            "trainer": run.trainer.model_copy(update={"max_steps": 8}),
            "evaluation": run.evaluation.model_copy(update={"interval": 8}),
            "optim": run.optim.model_copy(update={"lr": 1e-3}),
        }
    )
    train(run)
    rows = [row for row in table(tmp_path / "run") if row["loss"]]
    losses = [float(row["loss"]) for row in rows]
    assert sum(losses[-3:]) < sum(losses[:3])
    assert ("loss_mask_pilot" in rows[0]) == (option == "pilots")
    assert any(row["instance/AP"] for row in table(tmp_path / "run"))


def test_a_model_of_images_is_where_clips_start_from(
    tmp_path: Path, tiny_file: Path, tiny_config: object, capsys: pytest.CaptureFixture[str]
) -> None:
    entry = write_clips(tmp_path / "frames")
    opened = checkpoints.open_checkpoint(tiny_file)
    source = opened.info.known_architecture
    decoder = source.transformer_decoder.model_copy(update={"position_encoding": "3d"})
    run = clip_run(
        tmp_path / "run",
        {"name": "clips", "train": [entry], "validation": [entry]},
        backbone=source.backbone.model_dump(),
        pixel_decoder=source.pixel_decoder.model_dump(),
        transformer_decoder=decoder.model_dump(),
        init=str(tiny_file),
        init_partial=True,
    )
    run = run.model_copy(update={"optim": run.optim.model_copy(update={"lr": 1e-12, "weight_decay": 0.0})})
    result = train(run)
    assert "class head newly initialised" in capsys.readouterr().out
    trained, before = checkpoints.from_pretrained(result.model).state_dict(), opened.state
    name = "transformer_decoder.query_features.weight"
    torch.testing.assert_close(trained[name], before[name], rtol=0, atol=1e-6)
    assert trained["transformer_decoder.class_head.weight"].shape[0] == 9  # the things, and "no object"


def test_validation_clips_without_annotations_are_left_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    known = write_clips(tmp_path / "known")
    unknown = write_clips(tmp_path / "unknown", annotated=False)
    result = train(clip_run(tmp_path / "run", {"name": "clips", "train": [known], "validation": [unknown]}))
    assert "the validation clips have no annotations" in capsys.readouterr().out
    assert "instance/AP not measured" in str(result)
    assert result.model.exists()


def test_a_run_on_clips_that_cannot_be_measured_does_not_begin(tmp_path: Path) -> None:
    entry = write_clips(tmp_path / "frames")
    other = dict(entry, annotations=str(tmp_path / "other.json"))
    content = json.loads(Path(entry["annotations"]).read_text())
    content["categories"].append({"id": 999, "name": "cloud"})
    Path(other["annotations"]).write_text(json.dumps(content))
    with pytest.raises(UserError, match="only the data has"):
        train(clip_run(tmp_path / "run", {"name": "clips", "train": [entry], "validation": [other]}))
    run = clip_run(tmp_path / "run", {"name": "clips", "train": [entry], "validation": [entry]})
    panoptic = run.evaluation.model_copy(update={"tasks": ("panoptic",), "monitor": "panoptic/PQ"})
    inference = run.model.inference.model_copy(update={"tasks": ("instance", "panoptic")})
    model = run.model.model_copy(update={"inference": inference})
    with pytest.raises(UserError, match="has ground truth only for instance"):
        train(run.model_copy(update={"evaluation": panoptic, "model": model}))


def test_evaluate_measures_clips_of_every_kind(
    tmp_path: Path, tiny_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    entry = write_clips(tmp_path / "frames")
    source = ["--annotations", entry["annotations"], "--images", entry["frames"]]
    metrics, results = tmp_path / "metrics.json", tmp_path / "results.json"
    files = ["--json", str(metrics), "--results", str(results)]
    assert main(["evaluate", str(tiny_file), *source, *files, "--limit", "1"]) == 0
    assert "1 clip done" in capsys.readouterr().out
    assert json.loads(metrics.read_text())["metrics"].keys() >= {"instance/AP", "instance/AR10"}
    records = json.loads(results.read_text())
    assert {len(row["segmentations"]) for row in records} == {4}
    assert {row["category_id"] for row in records} <= {item.id for item in SCENE_CATEGORIES if item.is_thing}
    assert YouTubeVIS([(entry["annotations"], entry["frames"])]).image_id(0) == records[0]["video_id"]
    assert main(["evaluate", str(tiny_file), "--data", "scene-clips", "--limit", "1", "--size", "48"]) == 0
    assert "1 clip done" in capsys.readouterr().out


def test_evaluate_notes_clips_without_objects_and_refuses_names_given_twice(
    tmp_path: Path, tiny_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    entry = write_clips(tmp_path / "frames")
    file = Path(entry["annotations"])
    source = ["--annotations", entry["annotations"], "--images", entry["frames"]]
    content = json.loads(file.read_text())
    for track in content["annotations"]:
        track["iscrowd"] = 1
    file.write_text(json.dumps(content))
    assert main(["evaluate", str(tiny_file), *source, "--limit", "1"]) == 0
    out = capsys.readouterr().out
    assert "note: validation: nothing is annotated" in out
    assert "annotations are marked as crowd regions" in out
    content["categories"].append({**content["categories"][0], "id": 999})
    file.write_text(json.dumps(content))
    assert main(["evaluate", str(tiny_file), *source]) == 2
    assert "several classes have the same name" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--data", "scene-clips", "--boundary"], "--boundary applies to images"),
        (
            ["--data", "scene-clips", "--task", "semantic"],
            "clips are measured by the task instance or panoptic, not by semantic",
        ),
        (["--data", "scene-clips", "--tasks", "instance,panoptic"], "clips are measured by one task at a time"),
        (
            ["--data", "scene-clips", "--task", "panoptic", "--max-detections", "5"],
            "--max-detections applies to the task instance, not to panoptic",
        ),
        (["--data", "scene-clips", "--segments", "x"], "--segments is the folder of PNGs of an annotation file"),
        (["--data", "youtube-vis:2020"], "expected youtube-vis:2019 or youtube-vis:2021"),
    ],
)
def test_wrong_requests_about_clips(
    tiny_file: Path, options: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["evaluate", str(tiny_file), *options]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.long
def test_evaluate_measures_panoptic_clips(tmp_path: Path, tiny_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Drawn clips and those of files in VIPSeg's format are measured with the same metrics."""
    found = []
    drawn = ["--data", "scene-clips", "--task", "panoptic", "--size", "64", "--seed", "7"]
    write_vipseg(tmp_path, SceneClips(64, num_frames=5, seed=7, length=2))
    files = ["--annotations", str(tmp_path / "clips.json"), "--images", str(tmp_path / "images")]
    read = [*files, "--segments", str(tmp_path / "maps")]
    for source in (drawn, read):
        metrics = tmp_path / "metrics.json"
        assert main(["evaluate", "scenes-tiny", *source, "--limit", "1", "--json", str(metrics)]) == 0
        out = capsys.readouterr().out
        assert "1 clip done" in out
        assert ": VPQ " in out
        assert "identity switches" in out
        assert ("note: limited to the first 1 of 2 clips (--limit)" in out) == (source is read)
        found.append(json.loads(metrics.read_text()))
    assert found[0]["tasks"] == ["panoptic"]
    assert found[0]["per_class"].keys() == {"panoptic"}
    assert 20 < found[0]["metrics"]["panoptic/VPQ"] <= 100
    assert found[0]["metrics"].keys() >= {"panoptic/VPQ4", "panoptic/id_switches", "panoptic/found"}
    assert found[1]["metrics"].keys() == found[0]["metrics"].keys()
    assert main(["evaluate", str(tiny_file), *files]) == 2
    assert "lists segments of videos; give the folder of their PNGs as --segments DIR" in capsys.readouterr().err


def test_clips_without_annotations_can_only_be_predicted(
    tmp_path: Path, tiny_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    entry = write_clips(tmp_path / "frames", annotated=False)
    source = ["--annotations", entry["annotations"], "--images", entry["frames"]]
    assert main(["evaluate", str(tiny_file), *source]) == 2
    assert "--results FILE.json writes the results" in capsys.readouterr().err
    assert main(["evaluate", str(tiny_file), *source, "--seed", "3"]) == 2
    assert f"--seed applies to scenes, not to {entry['annotations']}" in capsys.readouterr().err
    assert main(["evaluate", str(tiny_file), *source, "--results", str(tmp_path / "r.json")]) == 0
    assert json.loads((tmp_path / "r.json").read_text())


def test_the_page_about_clips_tells_the_ground_truth(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    page = (Path(__file__).parents[2] / "docs" / "video.md").read_text(encoding="utf-8")
    names: dict[str, object] = {}
    for block in page.split("```python\n")[1:]:
        exec(block.partition("```")[0], names)
    assert len(names["overlays"]) == 6  # pyright: ignore[reportArgumentType]
    assert names["records"]
    assert names["whole"].num_frames == 6  # pyright: ignore[reportAttributeAccessIssue]
    boxes = [line.split(",") for line in (tmp_path / "boxes.txt").read_text().splitlines()]
    assert {len(box) for box in boxes} == {10}
    assert {int(box[0]) for box in boxes} == set(range(1, 7))
    assert all(float(box[2]) >= 1 and float(box[2]) + float(box[4]) <= 97 for box in boxes)
    assert main(["recipe", "ytvis2019-instance/r50"]) == 0
    assert "mask2former recipe ytvis2019-instance/r50" in page


@pytest.mark.slow
def test_ten_steps_on_real_clips_in_the_official_layout(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shared = os.environ.get("MASK2FORMER_SHARED")
    if not shared:
        pytest.skip("MASK2FORMER_SHARED does not name the folder of shared data")
    clips = Path(shared) / "data" / "video_mini"
    (tmp_path / "sets").mkdir()
    (tmp_path / "sets" / "ytvis_2019").symlink_to(clips)
    dataset = {"name": "youtube-vis", "year": 2019, "root": str(tmp_path / "sets")}
    run = clip_run(tmp_path / "run", dataset)
    inference = run.model.inference.model_copy(update={"short_edge": 120, "long_edge": 240})
    run = run.model_copy(
        update={
            "model": run.model.model_copy(update={"inference": inference}),
            "trainer": run.trainer.model_copy(update={"max_steps": 10}),
            "evaluation": run.evaluation.model_copy(update={"interval": 10}),
        }
    )
    result = train(run)
    losses = [float(row["loss"]) for row in table(tmp_path / "run") if row["loss"]]
    assert len(losses) == 10
    assert min(losses[-3:]) < losses[0]
    root = ["--data", "youtube-vis:2019", "--data-root", str(tmp_path / "sets")]
    results = tmp_path / "results.json"
    assert main(["evaluate", str(result.model), *root, "--results", str(results)]) == 0
    assert "2 clips done" in capsys.readouterr().out
    content = json.loads((clips / "valid.json").read_text())
    lengths = {video["id"]: video["length"] for video in content["videos"]}
    for row in json.loads(results.read_text()):
        assert len(row["segmentations"]) == lengths[row["video_id"]]


@pytest.mark.slow
def test_a_real_video_shows_the_frames_of_its_folder() -> None:
    shared = os.environ.get("MASK2FORMER_SHARED")
    if not shared:
        pytest.skip("MASK2FORMER_SHARED does not name the folder of shared data")
    folder = Path(shared) / "data" / "video_mini"
    indices = [0, 7, 19]
    for index, image in zip(indices, VideoFile(folder / "mp4" / "car-shadow.mp4").read(indices), strict=True):
        frame = read_image(folder / "train" / "JPEGImages" / "car-shadow" / f"{index:05d}.jpg")
        assert abs(image.astype(int) - frame.astype(int)).mean() < 6
