from __future__ import annotations

from pathlib import Path

import pytest

from mask2former import checkpoints, recipes
from mask2former.checkpoints.describe import describe_checkpoint
from mask2former.checkpoints.formats import original
from mask2former.errors import UserError
from mask2former.models.build import build_model
from mask2former.models.mask2former import Mask2Former


def test_a_file_of_ours_says_all_about_itself(tiny_model: Mask2Former, tmp_path: Path) -> None:
    checkpoints.save(tiny_model, tmp_path / "m.safetensors")
    facts = describe_checkpoint(tmp_path / "m.safetensors")
    assert facts["format"] == "mask2former, version 1"
    assert facts["classes"] == "3 (2 things, 1 stuff): sky, cat, dog"
    assert facts["tasks"] == "panoptic"
    assert facts["parameters"].startswith(f"{sum(value.numel() for value in tiny_model.parameters()):,} (backbone ")
    assert facts["recipes that fit"].startswith("none")


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("scenes-tiny", "scenes-tiny-start, scenes-tiny-end"),
        ("scene-clips", "scene-clips"),
        ("nuclei", "nuclei-start, nuclei-middle, nuclei-late, nuclei-end, nuclei-final"),
    ],
)
def test_a_packaged_model_names_the_recipes_that_trained_it(name: str, parts: str) -> None:
    facts = describe_checkpoint(name)
    assert facts["trained with"] == f"recipes {parts} (see: mask2former recipe)"
    assert "recipes that fit" not in facts
    last, info = recipes.run_recipes()[parts.split(", ")[-1]](), checkpoints.open_checkpoint(name).info
    assert last.model.architecture == info.architecture
    assert last.model.inference.tasks == info.tasks


def test_every_packaged_model_has_its_recipes() -> None:
    assert all(recipes.packaged_recipes(name) for name in checkpoints.packaged_names())
    assert recipes.packaged_recipes("coco-panoptic/r50") == ()


@pytest.mark.long
def test_an_original_file_lists_the_recipes_that_fit(tmp_path: Path) -> None:
    slug = "ytvis2019-instance/r50"
    model = build_model(recipes.recipe(slug).model, len(original.recipe_categories(slug)))
    checkpoints.write_original(model, tmp_path / "model.pth")
    undecided = describe_checkpoint(tmp_path / "model.pth")
    assert undecided["format"] == "original"
    assert undecided["recipes that fit"] == "ytvis2019-instance/r50, ytvis2021-instance/r50"
    decided = describe_checkpoint(tmp_path / "model.pth", slug)
    assert decided["recipes that fit"] == slug
    assert decided["backbone"] == undecided["backbone"] == "resnet50 (timm), frozen norm"
    assert decided["parameters"] == undecided["parameters"]


def test_what_is_no_checkpoint_is_refused(tmp_path: Path) -> None:
    (tmp_path / "page.pkl").write_text("<html>")
    with pytest.raises(UserError, match="web page"):
        describe_checkpoint(tmp_path / "page.pkl")
