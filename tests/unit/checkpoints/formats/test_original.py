"""Files of the published layout: lossless conversion both ways, every variant, and clear errors for other files."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from mask2former import checkpoints, recipes
from mask2former.checkpoints.checkpoint import Checkpoint
from mask2former.checkpoints.formats import original
from mask2former.checkpoints.load import recognised
from mask2former.checkpoints.raw import Raw, Request
from mask2former.config import ModelConfig, TimmConfig
from mask2former.errors import UserError
from mask2former.models.backbones.swin import relative_position_index
from mask2former.models.build import build_model
from mask2former.models.mask2former import Mask2Former
from mask2former.structures import Categories, ModelInfo

REAL = [
    ("coco-panoptic/r50", False),
    pytest.param("coco-panoptic/r50", True, marks=pytest.mark.slow),  # each old name has a test below
    ("ade20k-semantic/swin-t", False),
    pytest.param("cityscapes-instance/r50", False, marks=pytest.mark.slow),  # as the first, with 8 classes
]


def opened(state: dict[str, Tensor], recipe: str | None = None) -> Checkpoint:
    """The checkpoint read from a file with these entries, for which shapes are enough."""
    content = recognised(Raw(Path("file"), state), Request("file", recipe)).content
    assert isinstance(content, Checkpoint)
    return content


def loaded(state: dict[str, Tensor], recipe: str | None = None) -> ModelInfo:
    return opened(state, recipe).info


def of_recipe(slug: str) -> ModelInfo:
    return ModelInfo.of(recipes.recipe(slug).model, original.recipe_categories(slug))


def taken(path: Path) -> dict[str, Any]:
    """The entries of a file, which is deleted because such files are large."""
    state = stored(path)
    path.unlink()
    return state


def stored(path: Path) -> dict[str, Any]:
    with path.open("rb") as stream:
        return pickle.load(stream)["model"]


@pytest.mark.long
@pytest.mark.parametrize(("slug", "legacy_names"), REAL)
def test_real_bytes_return_exactly(published: Any, tmp_path: Path, slug: str, legacy_names: bool) -> None:
    source = published.write(slug, tmp_path / "source.pkl", legacy_names=legacy_names)
    model = Mask2Former.from_pretrained(source, recipe=slug)
    assert model.info.architecture == recipes.recipe(slug).model.architecture
    assert model.info.inference == recipes.recipe(slug).model.inference
    assert model.categories is not None
    assert len(model.categories) == model.state_dict()["transformer_decoder.class_head.bias"].numel() - 1
    model.save_pretrained(tmp_path / "back.pkl")
    before, after = taken(source), taken(tmp_path / "back.pkl")
    assert list(after) == list(published.table(slug))
    if not legacy_names:
        assert list(after) == list(before)
    for one, other in zip(before.values(), after.values(), strict=True):
        assert (one.dtype, one.shape) == (other.dtype, other.shape)
        assert one.tobytes() == other.tobytes()


@pytest.mark.long
def test_torch_file_equals_pickle(r50_file: Path, tmp_path: Path) -> None:
    model = Mask2Former.from_pretrained(r50_file)
    model.save_pretrained(tmp_path / "back.pth")
    again = checkpoints.open_checkpoint(tmp_path / "back.pth").state  # no second model: both fit the same recipe
    (tmp_path / "back.pth").unlink()
    assert again.keys() == model.state_dict().keys()
    assert all(torch.equal(value, again[name]) for name, value in model.state_dict().items())


def meta_state(published: Any, slug: str) -> dict[str, Tensor]:
    return {
        name: torch.empty(entry["shape"], dtype=getattr(torch, entry["dtype"]), device="meta")
        for name, entry in published.table(slug).items()
    }


def with_module(name: str) -> str:
    return f"module.{name}"


def below_head(name: str) -> str:
    return name.replace("sem_seg_head.pixel_decoder.", "sem_seg_head.")


def doubled(name: str) -> str:
    return name.replace("sem_seg_head.pixel_decoder.", "sem_seg_head.pixel_decoder.pixel_decoder.")


def tripled(name: str) -> str:
    return doubled(doubled(name))


def static_query(name: str) -> str:
    return name.replace("query_feat", "static_query")


@pytest.mark.parametrize(
    "spell",
    [
        with_module,
        below_head,
        doubled,
        tripled,
        static_query,
        lambda name: with_module(below_head(static_query(name))),
        lambda name: with_module(doubled(name)),
    ],
)
@pytest.mark.parametrize("slug", ["coco-panoptic/r50", "mapillary-semantic/swin-l"])
def test_every_spelling_means_the_same(published: Any, slug: str, spell: Callable[[str], str]) -> None:
    state = meta_state(published, slug)
    spelt = {spell(name): value for name, value in state.items()}
    spelt[spell("pixel_mean")] = torch.empty(3, 1, 1, device="meta")
    assert list(opened(spelt, slug).state) == list(opened(state, slug).state)


def test_two_spellings_of_one_entry_are_refused(published: Any) -> None:
    state = meta_state(published, "coco-panoptic/r50")
    state["sem_seg_head.predictor.static_query.weight"] = state["sem_seg_head.predictor.query_feat.weight"]
    with pytest.raises(UserError, match=r"two entries mean .sem_seg_head\.predictor\.query_feat\.weight"):
        original.current_spelling(state)


@pytest.mark.parametrize("backbone", ["resnet18", "resnet34", "resnet152", "resnet50s"])
@pytest.mark.parametrize("norm", ["frozen", "batch"])
def test_other_resnets_have_places_too(backbone: str, norm: Any) -> None:
    config = ModelConfig(backbone=TimmConfig(model=backbone, norm=norm))
    with torch.device("meta"):
        model = build_model(config, 7)
    state = original.to_original(model)
    found = original.infer_architecture(state)
    assert found.num_classes == 7
    assert found.model.backbone == config.backbone.model_copy(update={"norm": "frozen" if norm == "frozen" else "sync"})
    assert original.from_original(state, config).keys() == model.state_dict().keys()
    with pytest.raises(
        UserError,
        match=r"7 classes but does not say .* no published model fits; give tasks \(panoptic, instance or semantic\)",
    ):
        loaded(dict(state))


@pytest.mark.parametrize("backbone", [TimmConfig(model="convnext_tiny"), TimmConfig(kwargs={"in_chans": 3})])
def test_backbones_without_a_place_are_told(backbone: TimmConfig) -> None:
    with pytest.raises(UserError, match=r"exists in our own format only.*safetensors"):
        original.original_names(ModelConfig(backbone=backbone))


def test_recipes_that_differ_in_pretraining_only_are_one_choice(published: Any) -> None:
    state = meta_state(published, "coco-panoptic/swin-b")
    found = original.infer_architecture(state)
    assert original.matching_recipes(found) == ["coco-panoptic/swin-b", "coco-panoptic/swin-b-in21k"]
    assert loaded(state) == of_recipe("coco-panoptic/swin-b")


@pytest.mark.parametrize(
    ("slug", "candidates"),
    [
        ("ade20k-panoptic/r50", "ade20k-panoptic/r50, ade20k-semantic/r50"),
        ("cityscapes-semantic/swin-t", "cityscapes-panoptic/swin-t, cityscapes-semantic/swin-t"),
        ("ytvis2021-instance/r101", "ytvis2019-instance/r101, ytvis2021-instance/r101"),
    ],
)
def test_ambiguous_files_list_the_recipes(published: Any, slug: str, candidates: str) -> None:
    state = meta_state(published, slug)
    with pytest.raises(
        UserError, match=f"more than one recipe fits: {candidates}; give recipe with one of them, or tasks "
    ):
        loaded(state)
    assert loaded(state, slug) == of_recipe(slug)


def test_wrong_recipe_says_what_the_file_holds(r50_file: Path) -> None:
    with pytest.raises(UserError) as caught:
        Mask2Former.from_pretrained(r50_file, recipe="ade20k-semantic/swin-t")
    message = str(caught.value)
    assert str(r50_file) in message
    assert "the file contains resnet50 with frozen norms, 100 queries, 133 classes" in message
    assert "recipes that fit: coco-panoptic/r50" in message


def test_unknown_recipe_is_told(r50_file: Path) -> None:
    with pytest.raises(UserError, match="no recipe 'coco-panoptic/r5'; did you mean"):
        Mask2Former.from_pretrained(r50_file, recipe="coco-panoptic/r5")


def test_faults_of_entries_come_in_one_report(r50_file: Path, tmp_path: Path) -> None:
    state = stored(r50_file)
    for index in range(12):
        del state[f"sem_seg_head.predictor.transformer_{'self' if index < 9 else 'cross'}_attention_layers."
                  f"{index % 9}.{'self_attn' if index < 9 else 'multihead_attn'}.out_proj.bias"]  # fmt: skip
    state["backbone.stem.conv9.weight"] = np.zeros(3, dtype=np.float32)
    state["backbone.res3.0.conv1.weight"] = state["backbone.res3.0.conv1.weight"][:, :7]
    path = tmp_path / "faulty.pkl"
    path.write_bytes(pickle.dumps({"model": state}, protocol=4))
    with pytest.raises(UserError) as caught:
        Mask2Former.from_pretrained(path, recipe="coco-panoptic/r50")
    path.unlink()
    message = str(caught.value)
    assert (
        "12 missing: sem_seg_head.predictor.transformer_cross_attention_layers.0.multihead_attn.out_proj.bias, "
        in message
    )
    assert "and 2 more; 1 unexpected: backbone.stem.conv9.weight; 1 mis-shaped: " in message
    assert "backbone.res3.0.conv1.weight (128, 7, 1, 1) instead of (128, 256, 1, 1)" in message


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sem_seg_head.predictor.class_embed.weight": None}, "entry 'sem_seg_head.predictor.class_embed.weight' is m"),
        ({"sem_seg_head.predictor.class_embed.weight": (0, 256)}, r"has shape \(0, 256\)"),
        ({"backbone.stem.conv1.weight": None}, "entry 'backbone.stem.conv1.weight' is missing"),
        ({"backbone.res2.1.conv1.weight": None}, "a ResNet with 1-4-6-3 blocks of 3 convolutions; expected"),
        ({"sem_seg_head.pixel_decoder.input_proj.0.0.weight": (20, 9, 1, 1)}, "fit no Mask2Former model"),
    ],
)
def test_unreadable_architectures_are_named(published: Any, change: dict[str, Any], message: str) -> None:
    state = meta_state(published, "coco-panoptic/r50")
    for name, shape in change.items():
        if shape is None:
            del state[name]
        else:
            state[name] = torch.empty(shape, device="meta")
    with pytest.raises(UserError, match=message):
        original.infer_architecture(state)


def test_weights_of_another_model_are_told(tmp_path: Path) -> None:
    path = tmp_path / "backbone.pkl"
    path.write_bytes(pickle.dumps({"model": {"stem.conv1.weight": np.zeros(3)}, "matching_heuristics": True}))
    with pytest.raises(UserError, match=r"none of the known layouts.*such as stem\.conv1\.weight"):
        checkpoints.open_checkpoint(path)


@pytest.mark.parametrize("slug", recipes.recipe_names("official"))
def test_classes_of_recipes(slug: str) -> None:
    recipe = recipes.recipe(slug)
    categories = original.recipe_categories(slug)
    if slug.startswith("cityscapes-instance"):
        assert categories.names == (
            "person", "rider", "car", "truck", "bus", "train", "motorcycle", "bicycle"
        )  # fmt: skip
    if recipe.model.inference.things_only:
        assert 0 < len(categories.thing_indices) < len(categories)
    elif recipe.model.inference.tasks == ("instance",):
        assert len(categories.thing_indices) == len(categories)


def test_things_keep_their_order_and_ids() -> None:
    table = Categories.from_names(["sky", "cat", "road", "dog"], things=["cat", "dog"])
    assert table.things().names == ("cat", "dog")
    assert [item.id for item in table.things()] == [1, 3]
    with pytest.raises(UserError):
        Categories.from_names(["sky"], things=[]).things()


@pytest.mark.parametrize("window", [2, 7, 12])
def test_window_index_equals_the_models(window: int) -> None:
    index = relative_position_index(window)
    assert index.shape == (window**2, window**2)
    for one, other in ((0, 0), (1, 0), (window, window**2 - 1)):
        dy, dx = one // window - other // window, one % window - other % window
        assert index[one, other] == (dy + window - 1) * (2 * window - 1) + dx + window - 1
