"""The table of published models, and the order in which meanings of a name are tried."""

from __future__ import annotations

import json
import logging
import os
import re
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from mask2former import checkpoints, recipes
from mask2former.checkpoints import restricted_pickle
from mask2former.checkpoints.formats import original
from mask2former.checkpoints.formats.openmmlab import MMDET, MMSEG
from mask2former.checkpoints.formats.sssegmentation import SSSEG
from mask2former.checkpoints.rules import from_original
from mask2former.checkpoints.zoo import Zoo, current_zoo
from mask2former.config import SwinConfig
from mask2former.errors import UserError
from mask2former.models.mask2former import Mask2Former
from mask2former.structures import Categories, ModelInfo

FAMILIES = {  # prefix of names: data set as published, and prefix of the class tables of its recipes
    "coco": ("COCO", "coco_"),
    "cityscapes": ("Cityscapes", "cityscapes"),
    "ade20k": ("ADE20K", "ade20k_"),
    "mapillary": ("Mapillary Vistas", "mapillary_vistas"),
    "ytvis2019": ("YouTubeVIS 2019", "ytvis_2019"),
    "ytvis2021": ("YouTubeVIS 2021", "ytvis_2021"),
}
METRICS = {"panoptic": "PQ", "instance": "AP", "semantic": "mIoU", "video instance": "AP"}
WIDTHS = {96: ("Swin-T", "Swin-S"), 128: ("Swin-B",), 192: ("Swin-L",)}


OFFICIAL = [row.name for row in current_zoo().values() if row.provider.name == "official"]
OTHERS = {
    "mmdet": (11, MMDET, "https://download.openmmlab.com/mmdetection/v3.0/mask2former/", "Apache-2.0", True),
    "mmseg": (13, MMSEG, "https://download.openmmlab.com/mmsegmentation/v0.5/mask2former/", "Apache-2.0", True),
    "ssseg": (3, SSSEG, "https://github.com/SegmentationBLWX/modelstore/releases/download/", "not stated", None),
}


def test_the_table_lists_all_that_were_published() -> None:
    zoo = current_zoo()
    assert len(zoo) == 86
    assert Counter(row.provider.name for row in zoo.values()) == {"official": 59, "mmdet": 11, "mmseg": 13, "ssseg": 3}
    assert tuple(zoo) == recipes.recipe_names()
    for row in zoo.values():
        assert row.name == (
            row.short_name if row.provider.name == "official" else f"{row.provider.name}/{row.short_name}"
        )
        assert row.provider.source is not None
        assert row.provider.source.startswith("https://github.com/")


@pytest.mark.parametrize("name", OFFICIAL)
def test_a_row_agrees_with_its_recipe(name: str, published: Any) -> None:
    row, recipe = current_zoo()[name], recipes.recipe(name)
    dataset, table = FAMILIES[name.partition("-")[0]]
    settings = recipe.model.inference
    assert row.dataset == dataset
    assert recipe.categories.startswith(table)
    assert row.task == f"{'video ' if recipe.is_video else ''}{settings.default_task}"
    assert row.queries == recipe.model.transformer_decoder.queries
    assert METRICS[row.task] in row.metrics
    assert all(20 < value < 90 for value in row.metrics.values())
    backbone = recipe.model.backbone
    if isinstance(backbone, SwinConfig):
        assert row.backbone in WIDTHS[backbone.embed_dim]
        assert (row.backbone == "Swin-T") == (backbone.depths[2] == 6)
    else:
        assert row.backbone == {"resnet50": "R50", "resnet101": "R101"}[backbone.model]
    assert row.checksum is not None
    assert row.file == f"model_final_{row.checksum.removeprefix('md5:')}.pkl"
    assert row.url.startswith("https://dl.fbaipublicfiles.com/maskformer/")
    assert row.url.endswith(f"/{row.file}")
    # One file was published under the name of the predecessor.
    assert Path(recipe.reproduces).stem.replace("former2", "former") in row.url.replace("former2", "former")
    assert (row.license.name, row.license.commercial) == ("CC BY-NC 4.0", False)
    assert row.num_bytes == sum(value.numel() * value.element_size() for value in hollow(published, name).values())


@pytest.mark.parametrize("provider", OTHERS)
def test_rows_of_other_projects(provider: str, published: Any) -> None:
    """Each row has the architecture of an official model, in the layout of its own project."""
    count, layout, folder, license, commercial = OTHERS[provider]
    rows = [row for row in current_zoo().values() if row.provider.name == provider]
    assert len(rows) == count
    for row in rows:
        official, recipe = current_zoo()[row.short_name], recipes.recipe(row.name)
        assert recipe.provider == provider
        assert row.queries == recipe.model.transformer_decoder.queries
        assert recipe.model.backbone == recipes.recipe(row.short_name).model.backbone or row.backbone.startswith("R")
        assert (row.task, row.dataset, row.backbone, row.queries) == (
            official.task,
            official.dataset,
            official.backbone,
            official.queries,
        )
        assert row.url.startswith(folder)
        assert row.url.endswith(f"/{row.file}")
        if provider == "ssseg":
            assert row.checksum is None
        else:
            assert row.checksum == f"sha256:{row.file[-12:-4]}"
            assert METRICS[row.task] in row.metrics
        assert (row.license.name, row.license.commercial) == (license, commercial)
        state = from_original(layout, hollow(published, row.short_name))
        assert row.num_bytes == sum(value.numel() * value.element_size() for value in state.values())


def hollow(published: Any, name: str) -> dict[str, Tensor]:
    """The published entries of an official model, without values."""
    return {
        key: torch.empty(entry["shape"], dtype=getattr(torch, entry["dtype"]), device="meta")
        for key, entry in published.table(name).items()
    }


@pytest.mark.parametrize("name", OFFICIAL)
def test_a_name_means_architecture_classes_and_settings(
    name: str, published: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Opening a name gives the information of its recipe and all entries, here with shapes but no values."""
    row = current_zoo()[name]
    (tmp_path / row.file).write_bytes(b"a file in the cache")
    monkeypatch.setenv("MASK2FORMER_CACHE", str(tmp_path))
    state = hollow(published, name)
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
    facts = json.loads((Path(shared) / "spec" / "zoo.json").read_text())
    rows = current_zoo().values()
    keys = ("slug", "metrics", "checkpoint_url", "queries", "backbone", "pretraining")
    assert [
        (row.name, row.metrics, row.url, row.queries, row.backbone, row.pretraining, row.checksum)
        for row in rows
        if row.provider.name == "official"
    ] == [(*(fact[key] for key in keys), f"md5:{fact['md5_prefix']}") for fact in facts["official"]]
    facts |= json.loads((Path(shared) / "spec" / "zoo_mmdetection.json").read_text())
    others = [fact for project in ("mmdetection", "mmsegmentation", "sssegmentation") for fact in facts[project]]
    printed = {"box AP": "box_AP", "AP": "mask_AP", "PQ": "PQ", "mIoU": "mIoU", "mIoU (ms+flip)": "mIoU_ms_flip"}
    for row, fact in zip([row for row in rows if row.provider.name != "official"], others, strict=True):
        assert (row.url, row.dataset, row.task) == (fact["checkpoint_url"], fact["dataset"], fact["task"])
        numbers = fact.get("metrics", fact)
        assert row.metrics == {name: numbers[key] for name, key in printed.items() if numbers.get(key) is not None}
        assert row.backbone.lower()[0] == fact["backbone"].lower()[0]


# --- the user's own tables -------------------------------------------------------------------------------------------


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
        "checksum": "md5:0123ab",
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
        "pets_0123ab.safetensors: .*; if it is not the file from http://127.0.0.1:9/pets.*, delete it and it is down"
    )
    with pytest.raises(UserError, match=message):
        Mask2Former.from_pretrained("lab/pets")


FAULTS: dict[str, tuple[list[dict[str, Any]], str]] = {
    "a key is missing": (
        [{key: value for key, value in row().items() if key != "url"}],
        "model 'lab/pets' lacks 'url'",
    ),
    "an unknown key": ([row(colour="red")], "model 'lab/pets' has the unknown key 'colour'"),
    "a wrong kind": ([row(queries="many")], "'queries' of a model is 'many'"),
    "a truth for a number": ([row(queries=True)], "'queries' of a model is True"),
    "an unknown task": ([row(task="foo")], "task of 'lab/pets' is 'foo'; expected one of panoptic"),
    "a packaged name": ([row(name="nuclei")], "'nuclei' is the name of a model that comes with this package"),
    "metrics that are not numbers": ([row(metrics={"PQ": "good"})], "metrics of 'lab/pets' must be numbers"),
    "an unknown license": ([row(license="GPL")], "names 'GPL', which is not among the licenses"),
    "a license that is not a name": ([row(license=["MIT"])], r"names \['MIT'\], which is not among the licenses"),
    "a name of the hub": ([row(name="hf://lab/pets")], "'hf://lab/pets' is not a valid model name"),
    "no name": ([row(name="")], "'' is not a valid model name"),
    "a name that moves the cursor": ([row(name="lab/\x1b[2Jpets")], "is not a valid model name"),
    "a local address": ([row(url="file:///etc/passwd")], "expected a web address"),
    "a path as a file name": ([row(file="../pets_0123ab.pkl")], "not a plain file name"),
    "a name without the hash": ([row(file="pets.pkl")], "that the file's name contains"),
    "a short hash": ([row(checksum="md5:01")], "6 to 32 digits"),
    "a short SHA-256": ([row(checksum="sha256:0123ab")], "8 to 64"),
    "an unknown hash": ([row(checksum="crc32:0123ab")], "'md5:' and 6 to 32 digits"),
    "a hash twice": ([row(md5_prefix="0123ab")], "both 'checksum' and 'md5_prefix'"),
    "an unknown provider": ([row(provider="nobody")], "names 'nobody', which is not among the providers"),
    "a name twice": ([row(), row(file="x_0123ab")], "more than one model with name 'lab/pets'"),
    "a file twice": ([row(), row(name="lab/dogs")], "more than one model with file 'pets_0123ab.safetensors'"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_wrong_table_is_told(tmp_path: Path, fault: str) -> None:
    rows, message = FAULTS[fault]
    with pytest.raises(UserError, match=message) as caught:
        Zoo.load(write_zoo(tmp_path / "zoo.json", *rows))
    assert str(tmp_path / "zoo.json") in str(caught.value)


def test_a_table_of_0_1_0_is_read(tmp_path: Path) -> None:
    old = {key: value for key, value in row().items() if key != "checksum"} | {"md5_prefix": "0123ab"}
    model = Zoo.load(write_zoo(tmp_path / "zoo.json", old))["lab/pets"]
    assert (model.checksum, model.provider.name, model.short_name) == ("md5:0123ab", "own", "lab/pets")


def test_providers_of_a_table_are_checked(tmp_path: Path) -> None:
    path = write_zoo(tmp_path / "zoo.json", row(provider="lab", name="lab/pets"))
    values = json.loads(path.read_text())
    for entry, message in (
        ({"title": "Lab", "source": "file:///etc"}, "expected a web address"),
        ({"title": 1, "source": None}, "1"),
    ):
        path.write_text(json.dumps({**values, "providers": {"lab": entry}}))
        with pytest.raises(UserError, match=message):
            Zoo.load(path)
    path.write_text(json.dumps({**values, "providers": {"lab": {"title": "Lab", "source": None}}}))
    assert Zoo.load(path)["lab/pets"].short_name == "pets"


def test_the_kinds_of_a_table_are_told(tmp_path: Path) -> None:
    path = tmp_path / "zoo.json"
    for text, message in (
        ("[]", "expected a mapping in which 'licenses' is a mapping"),
        ('{"licenses": null, "models": []}', "expected a mapping in which 'licenses' is a mapping"),
        ('{"licenses": {}, "models": {}}', "expected a mapping in which 'models' is a list"),
        ('{"licenses": {}, "models": ["pets"]}', "every entry of 'models' must be a mapping"),
    ):
        path.write_text(text)
        with pytest.raises(UserError, match=message):
            Zoo.load(path)


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
            r"not an existing file or folder, and 'coco-panoptik/r50' is not in the hub's cache.* mean coco-pa",
        ),
        ("scenes-tinny", "did you mean scenes-tiny"),
        ("coco-instance/swin-x", r"mean coco-instance/swin-t or coco-instance/swin-s or coco-instance/swin-l\?"),
        ("mmdet/coco-instance/swin-l", "did you mean mmdet/coco-instance/swin-t or .* or coco-instance/swin-l"),
        ("mmdet/coco-panoptik/r50", "did you mean mmdet/coco-panoptic/r50 or mmdet/coco-panoptic/r101 or "),
        ("MMSeg/ade20k-semantic/swn-t", r"did you mean mmseg/ade20k-semantic/swin-t or mmseg/\S+ or mmseg/\S+\?"),
        ("openmmlab/coco-panoptic/r50", "did you mean mmdet/coco-panoptic/r50 or coco-panoptic/r50 or "),
        ("swin-huge", "'swin-huge' is neither a file, a folder nor a known model.*'mask2former models' lists"),
        ("runs/mine/model.safetensors", "'runs/mine/model.safetensors' is neither"),
    ],
)
def test_unknown_names_say_what_there_is(source: str, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MASK2FORMER_OFFLINE", "1")
    with pytest.raises(UserError, match=message) as caught:
        Mask2Former.from_pretrained(source)
    if found := re.search(r"did you mean (.*)\?", str(caught.value)):
        assert all(map(checkpoints.is_name, found[1].split(" or ")))  # can be used as written


@pytest.mark.parametrize(
    ("name", "commercial", "message"),
    [
        ("Lab", True, r"weights of lab/pets are licensed Lab \(https://lab\)"),
        ("Lab", False, r"weights of lab/pets are licensed Lab: not for commercial use \(https://lab\)"),
        (
            "not stated",
            None,
            r"the license of the weights of lab/pets is not stated: ask their authors before com.*lab\)",
        ),
    ],
)
def test_what_a_license_permits_is_said(
    name: str, commercial: bool | None, message: str, tiny_model: Mask2Former, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    entry = row(license=name, checksum=None, file="pets.safetensors")
    write_zoo(tmp_path / "zoo.json", entry, **{name: {"url": "https://lab", "commercial": commercial}})
    monkeypatch.setenv("MASK2FORMER_ZOO", str(tmp_path / "zoo.json"))
    monkeypatch.setenv("MASK2FORMER_CACHE", str(tmp_path))
    checkpoints.save(tiny_model, tmp_path / "pets.safetensors")
    model = Mask2Former.from_pretrained("lab/pets")
    assert re.fullmatch(message, caplog.messages[-1])
    model.save_pretrained(tmp_path / "folder")
    assert Mask2Former.from_pretrained(tmp_path / "folder").info.license == name
    stated = "No license is stated for the weights" in (tmp_path / "folder" / "README.md").read_text()
    assert stated == (name == "not stated")
    damaged = tmp_path / "pets.safetensors"
    damaged.write_bytes(damaged.read_bytes() + b"x")
    with pytest.raises(UserError, match="was recorded at its first download"):
        Mask2Former.from_pretrained("lab/pets")


def test_the_license_travels_with_the_weights(tiny_model: Mask2Former, tmp_path: Path) -> None:
    tiny_model.info = replace(tiny_model.info, license="CC BY-NC 4.0")
    tiny_model.save_pretrained(tmp_path / "m.safetensors")
    assert Mask2Former.from_pretrained(tmp_path / "m.safetensors").info.license == "CC BY-NC 4.0"
    tiny_model.info = replace(tiny_model.info, license=None)
    tiny_model.save_pretrained(tmp_path / "folder")
    assert Mask2Former.from_pretrained(tmp_path / "folder").info.license is None
    assert "The file states no license" in (tmp_path / "folder" / "README.md").read_text()


def test_categories_of_every_name_are_as_many_as_its_class_head(published: Any) -> None:
    for name in OFFICIAL:
        classes = original.recipe_categories(name)
        assert isinstance(classes, Categories)
        (shape,) = [
            entry["shape"]
            for key, entry in published.table(name).items()
            if key == "sem_seg_head.predictor.class_embed.bias"
        ]
        assert shape == [len(classes) + 1], name
