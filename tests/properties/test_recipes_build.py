"""Properties of every published recipe."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
import torch
import yaml
from _pytest.mark import ParameterSet

from mask2former import recipes
from mask2former.config import MaskedDecoderConfig, ModelConfig, RunConfig, parse
from mask2former.models.build import build_model
from mask2former.models.pixel_decoders import MSDeformAttnPixelDecoder
from mask2former.structures import Categories, ImageBatch

SLUGS = recipes.recipe_names()


def by_their_parts() -> Iterator[str | ParameterSet]:
    """All recipes. Long are those whose parts differ from others in sizes only; slow, those whose parts others have.

    ``test_zoo_tables.py`` tests that each of them builds, with the published names and shapes.
    """
    seen: set[str] = set()
    for slug in SLUGS:
        recipe = recipes.recipe(slug)
        decoders = recipe.model.pixel_decoder, recipe.model.transformer_decoder, recipe.is_video
        kinds = {recipe.model.backbone.name, *(part.name for part in decoders[:2]), str(recipe.is_video)}
        new = {*kinds, repr(decoders)} - seen
        yield slug if kinds & new else pytest.param(slug, marks=pytest.mark.long if new else pytest.mark.slow)
        seen |= new


@pytest.mark.parametrize("slug", list(by_their_parts()))
def test_every_recipe_builds_and_predicts_shapes(slug: str) -> None:
    recipe = recipes.recipe(slug)
    classes = Categories.load(recipe.categories)
    num_classes = len(classes.things() if recipe.only_things else classes)
    decoder = recipe.model.transformer_decoder
    assert isinstance(decoder, MaskedDecoderConfig)
    frames = 2 if recipe.is_video else 1
    with torch.device("meta"):
        model = build_model(recipe.model, num_classes).eval()
    batch = ImageBatch(torch.empty(2, frames, 3, 64, 96, device="meta"), ((64, 96), (50, 70)))
    assert isinstance(model.pixel_decoder, MSDeformAttnPixelDecoder)
    model.pixel_decoder.full_precision = False  # by autocast, which has no meta device
    with torch.inference_mode():
        output = model(batch)
    assert output.class_logits.shape == (2, decoder.num_queries, num_classes + 1)
    assert output.mask_logits.shape == (2, decoder.num_queries, frames, 16, 24)
    assert len(output.aux_outputs) == 9


@pytest.mark.parametrize("slug", SLUGS)
def test_every_recipe_survives_yaml_and_json(slug: str) -> None:
    run = RunConfig(model=recipes.recipe(slug).model)
    plain = run.model_dump(mode="json")
    for text_and_back in (yaml.safe_load(yaml.safe_dump(plain, sort_keys=False)), json.loads(json.dumps(plain))):
        assert parse(RunConfig, text_and_back, slug) == run


@pytest.mark.parametrize("slug", SLUGS)
def test_every_recipe_is_complete_when_written_out(slug: str) -> None:
    # No field is left to a default that a later version could change.
    model = recipes.recipe(slug).model
    written = model.model_dump(mode="json")
    kinds = {"backbone": model.backbone, "pixel_decoder": model.pixel_decoder, "inference": model.inference}
    for name, part in kinds.items():
        assert set(written[name]) == set(type(part).model_fields)
    assert parse(ModelConfig, written, slug) == model


def test_the_packaged_run_survives_yaml() -> None:
    run = recipes.scenes_tiny()
    assert parse(RunConfig, yaml.safe_load(yaml.safe_dump(run.model_dump(mode="json"))), "scenes-tiny") == run
