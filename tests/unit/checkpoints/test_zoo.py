"""The table of published models, and which of a name's meanings wins."""

from __future__ import annotations

import json
import logging
import math
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from mask2former import checkpoints, recipes
from mask2former.checkpoints import restricted_pickle
from mask2former.checkpoints.formats import original
from mask2former.checkpoints.zoo import Zoo, current_zoo
from mask2former.config import SwinConfig
from mask2former.errors import UserError
from mask2former.models.mask2former import Mask2Former
from mask2former.structures import Categories, ModelInfo

FAMILIES = {  # of the names: data set as published, and the class table of its recipes
    "coco": ("COCO", "coco_"),
    "cityscapes": ("Cityscapes", "cityscapes"),
    "ade20k": ("ADE20K", "ade20k_"),
    "mapillary": ("Mapillary Vistas", "mapillary_vistas"),
    "ytvis2019": ("YouTubeVIS 2019", "ytvis_2019"),
    "ytvis2021": ("YouTubeVIS 2021", "ytvis_2021"),
}
METRICS = {"panoptic": "PQ", "instance": "AP", "semantic": "mIoU", "video instance": "AP"}
WIDTHS = {96: ("Swin-T", "Swin-S"), 128: ("Swin-B",), 192: ("Swin-L",)}


def test_the_table_has_a_row_for_every_recipe() -> None:
    zoo = current_zoo()
    assert tuple(zoo) == recipes.recipe_names("official")
    assert len(zoo) == 59


@pytest.mark.parametrize("name", recipes.recipe_names("official"))
def test_a_row_agrees_with_its_recipe(name: str, published: Any) -> None:
    row, recipe = current_zoo()[name], recipes.recipe(name)
    dataset, table = FAMILIES[name.partition("-")[0]]
    settings = recipe.model.inference
    assert row.dataset == dataset
    assert recipe.categories.startswith(table)
    assert row.task == f"{'video ' if recipe.is_video else ''}{settings.default_task}"
    assert row.queries == recipe.model.transformer_decoder.num_queries
    assert METRICS[row.task] in row.metrics
    assert all(20 < value < 90 for value in row.metrics.values())
    backbone = recipe.model.backbone
    if isinstance(backbone, SwinConfig):
        assert row.backbone in WIDTHS[backbone.embed_dim]
        assert (row.backbone == "Swin-T") == (backbone.depths[2] == 6)
    else:
        assert row.backbone == {"resnet50": "R50", "resnet101": "R101"}[backbone.model]
    assert row.file == f"model_final_{row.md5_prefix}.pkl"
    assert row.url.startswith("https://dl.fbaipublicfiles.com/maskformer/")
    assert row.url.endswith(f"/{row.file}")
    # One file was published under the name of the predecessor.
    assert Path(recipe.reproduces).stem.replace("former2", "former") in row.url.replace("former2", "former")
    assert (row.license.name, row.license.commercial) == ("CC BY-NC 4.0", False)
    sizes = {"float32": 4, "int64": 8}
    assert row.num_bytes == sum(
        math.prod(entry["shape"]) * sizes[entry["dtype"]] for entry in published.table(name).values()
    )


@pytest.mark.parametrize("name", recipes.recipe_names("official"))
def test_a_name_means_architecture_classes_and_settings(
    name: str, published: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The way from a name to a model, with a file that has names and shapes but no values."""
    row = current_zoo()[name]
    (tmp_path / row.file).write_bytes(b"a file in the cache")
    monkeypatch.setenv("MASK2FORMER_CACHE", str(tmp_path))
    state = {
        key: torch.empty(entry["shape"], dtype=getattr(torch, entry["dtype"]), device="meta")
        for key, entry in published.table(name).items()
    }
    read: list[Path] = []
    monkeypatch.setattr(restricted_pickle, "read_state", lambda path, select: read.append(path) or state)
    opened = checkpoints.open_checkpoint(name)
    assert read == [tmp_path / row.file]
    assert opened.info == replace(
        ModelInfo.of(recipes.recipe(name).model, original.recipe_categories(name)), license="CC BY-NC 4.0"
    )
    assert opened.state.keys() == {
        ours for _, ours in original.original_names(opened.info.known_architecture) if ours is not None
    }


def test_the_numbers_are_those_that_were_published() -> None:
    shared = os.environ.get("MASK2FORMER_SHARED")
    if shared is None:
        pytest.skip("MASK2FORMER_SHARED names no folder with the collected facts")
    facts = json.loads((Path(shared) / "spec" / "zoo.json").read_text())["official"]
    rows = [
        (row.name, row.metrics, row.url, row.md5_prefix, row.queries, row.backbone, row.pretraining)
        for row in current_zoo().values()
    ]
    keys = ("slug", "metrics", "checkpoint_url", "md5_prefix", "queries", "backbone", "pretraining")
    assert rows == [tuple(fact[key] for key in keys) for fact in facts]


# --- tables of one's own ---------------------------------------------------------------------------------------------


def row(**changes: Any) -> dict[str, Any]:
    values = {
        "name": "lab/pets",
        "task": "panoptic",
        "dataset": "pets",
        "backbone": "Swin of our own",
        "pretraining": "none",
        "queries": 5,
        "metrics": {"PQ": 51.9},
        "url": "http://127.0.0.1:9/pets_0123ab.safetensors",
        "file": "pets_0123ab.safetensors",
        "md5_prefix": "0123ab",
        "num_bytes": 1000,
        "license": "MIT",
    }
    return {**values, **changes}


def write_zoo(path: Path, *rows: dict[str, Any], **licenses: Any) -> Path:
    known = {"MIT": {"url": "https://opensource.org/license/mit", "commercial": True}, **licenses}
    path.write_text(json.dumps({"licenses": known, "models": rows}))
    return path


def test_another_table_replaces_the_packaged_one(
    tiny_model: Mask2Former, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("MASK2FORMER_ZOO", str(write_zoo(tmp_path / "zoo.json", row())))
    monkeypatch.setenv("MASK2FORMER_CACHE", str(tmp_path / "cache"))
    assert list(current_zoo()) == ["lab/pets"]
    file = current_zoo()["lab/pets"].path
    assert file == tmp_path / "cache" / "pets_0123ab.safetensors"
    checkpoints.save(tiny_model, file)
    with caplog.at_level(logging.WARNING):
        model = Mask2Former.from_pretrained("lab/pets")
    assert model.info.license == "MIT"
    assert caplog.messages == ["weights of lab/pets are licensed MIT (https://opensource.org/license/mit)"]
    with pytest.raises(UserError, match="'coco-panoptic/r50' is neither"):
        Mask2Former.from_pretrained("coco-panoptic/r50")


def test_a_wrong_file_in_the_cache_can_be_got_rid_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MASK2FORMER_ZOO", str(write_zoo(tmp_path / "zoo.json", row())))
    monkeypatch.setenv("MASK2FORMER_CACHE", str(tmp_path))
    (tmp_path / "pets_0123ab.safetensors").write_bytes(b"half a")
    message = (
        "pets_0123ab.safetensors: .*; if it is not http://127.0.0.1:9/pets.*, delete it and it is downloaded again"
    )
    with pytest.raises(UserError, match=message):
        Mask2Former.from_pretrained("lab/pets")


FAULTS: dict[str, tuple[list[dict[str, Any]], str]] = {
    "a key is missing": ([{key: value for key, value in row().items() if key != "url"}], "url"),
    "an unknown key": ([row(colour="red")], "colour"),
    "a wrong kind": ([row(queries="many")], "'queries' of a model is 'many'"),
    "metrics that are no numbers": ([row(metrics={"PQ": "good"})], "metrics of 'lab/pets' must be numbers"),
    "an unknown license": ([row(license="GPL")], "'GPL' is missing"),
    "a local address": ([row(url="file:///etc/passwd")], "no address of the web"),
    "a path as a file name": ([row(file="../pets_0123ab.pkl")], "no plain file name"),
    "a name without the hash": ([row(file="pets.pkl")], "digits 0-f that the file's name contains"),
    "a short hash": ([row(md5_prefix="01")], "6 to 32 digits"),
    "a name twice": ([row(), row(file="x_0123ab")], "more than one model with name 'lab/pets'"),
    "a file twice": ([row(), row(name="lab/dogs")], "more than one model with file 'pets_0123ab.safetensors'"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_wrong_table_is_told(tmp_path: Path, fault: str) -> None:
    rows, message = FAULTS[fault]
    with pytest.raises(UserError, match=message) as caught:
        Zoo.load(write_zoo(tmp_path / "zoo.json", *rows))
    assert str(tmp_path / "zoo.json") in str(caught.value)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"licenses": {}, "models": 3}', '{"licenses": {"x": {"url": 1}}}'])
def test_what_is_no_table_is_told(tmp_path: Path, text: str) -> None:
    (tmp_path / "zoo.json").write_text(text)
    with pytest.raises(UserError, match=r"not a table of models|is not JSON"):
        Zoo.load(tmp_path / "zoo.json")
    with pytest.raises(UserError, match="there is no table of models"):
        Zoo.load(tmp_path / "none.json")


# --- names -----------------------------------------------------------------------------------------------------------


def test_a_published_name_wins_over_a_folder(
    tiny_model: Mask2Former, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MASK2FORMER_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("MASK2FORMER_OFFLINE", "1")
    tiny_model.save_pretrained("coco-panoptic/r50")
    for source in ("./coco-panoptic/r50", Path("coco-panoptic/r50")):
        assert Mask2Former.from_pretrained(source).categories == tiny_model.categories
    message = (
        r"model_final_94dc52.pkl is not in the cache and offline mode is on.* put it at .*/cache/model_final_94dc52"
    )
    with pytest.raises(UserError, match=message):
        Mask2Former.from_pretrained("coco-panoptic/r50")
    with pytest.raises(UserError, match="leave out recipe 'coco-panoptic/r101'"):
        Mask2Former.from_pretrained("coco-panoptic/r50", recipe="coco-panoptic/r101")


def test_a_folder_wins_over_the_hub(tiny_model: Mask2Former, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MASK2FORMER_OFFLINE", "1")
    tiny_model.save_pretrained("me/pets")
    assert Mask2Former.from_pretrained("me/pets").categories == tiny_model.categories
    with pytest.raises(UserError, match="not in the hub's cache and offline"):
        Mask2Former.from_pretrained("hf://me/pets")


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("coco-panoptic/swin-xl", "did you mean coco-panoptic/swin-l"),
        (
            "coco-panoptik/r50",
            r"no file or folder here, and 'coco-panoptik/r50' is not in the hub's cache.* mean coco-pa",
        ),
        ("scenes-tinny", "did you mean scenes-tiny"),
        ("swin-huge", "'swin-huge' is neither a file, a folder nor a known model.*'mask2former models' lists"),
        ("runs/mine/model.safetensors", "'runs/mine/model.safetensors' is neither"),
    ],
)
def test_unknown_names_say_what_there_is(source: str, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MASK2FORMER_OFFLINE", "1")
    with pytest.raises(UserError, match=message):
        Mask2Former.from_pretrained(source)


def test_the_license_travels_with_the_weights(tiny_model: Mask2Former, tmp_path: Path) -> None:
    tiny_model.info = replace(tiny_model.info, license="CC BY-NC 4.0")
    tiny_model.save_pretrained(tmp_path / "m.safetensors")
    assert Mask2Former.from_pretrained(tmp_path / "m.safetensors").info.license == "CC BY-NC 4.0"
    tiny_model.info = replace(tiny_model.info, license=None)
    tiny_model.save_pretrained(tmp_path / "folder")
    assert Mask2Former.from_pretrained(tmp_path / "folder").info.license is None
    assert "The file states no license" in (tmp_path / "folder" / "README.md").read_text()


def test_categories_of_every_name_are_as_many_as_its_class_head(published: Any) -> None:
    for name in current_zoo():
        classes = original.recipe_categories(name)
        assert isinstance(classes, Categories)
        (shape,) = [
            entry["shape"]
            for key, entry in published.table(name).items()
            if key == "sem_seg_head.predictor.class_embed.bias"
        ]
        assert shape == [len(classes) + 1], name
