"""Recipes are complete and consistent with each other."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest

from mask2former import recipes
from mask2former.config import (
    CocoInstanceConfig,
    LabelFolderConfig,
    MaskedDecoderConfig,
    MixedConfig,
    ModelConfig,
    PerPixelPlusConfig,
    RunConfig,
    StandardDecoderConfig,
    changed,
    leaves,
)
from mask2former.errors import UserError
from mask2former.training.run_file import run_file


def test_every_published_model_has_one_recipe() -> None:
    """There are 59 official recipes and those of the toolboxes, with distinct names.

    ``tests/parity/test_published_configs.py`` compares the official ones with the published settings, one by one.

    Those of other toolboxes are compared in ``test_toolbox_configs.py``.
    """
    official = recipes.recipe_names("official")
    assert len(set(official)) == 59
    assert sum(not recipes.recipe(slug).is_video for slug in official) == 47
    others = [recipes.recipe_names(provider) for provider in ("mmdet", "mmseg", "ssseg")]
    assert [len(names) for names in others] == [11, 13, 3]
    assert recipes.recipe_names() == (*official, *(name for names in others for name in names))


@pytest.mark.parametrize("slug", recipes.recipe_names())
def test_the_name_of_a_recipe_begins_with_its_provider(slug: str) -> None:
    recipe = recipes.recipe(slug)
    first, _, rest = slug.partition("/")
    assert recipe.slug == slug
    assert recipe.run.output == f"runs/{slug}"
    assert (first if "/" in rest else "official") == recipe.provider


def test_models_of_toolboxes_are_asked_the_official_way_on_request() -> None:
    """``official()`` gives a toolbox's model the inference settings of the authors' model of the same data."""
    ours, theirs = (recipes.recipe(slug).model.inference for slug in ("coco-panoptic/r50", "mmdet/coco-panoptic/r50"))
    assert (ours.resampling, theirs.resampling) == ("antialiased", "bilinear")
    assert theirs.official() == ours
    assert ours.official() == ours


@pytest.mark.parametrize("slug", recipes.recipe_names())
def test_a_recipe_is_whole(slug: str) -> None:
    """Settings of a recipe that published configurations do not contain are consistent."""
    recipe = recipes.recipe(slug)
    inference, tasks = recipe.model.inference, set(recipe.model.inference.tasks)
    assert inference.default_task == slug.split("/")[-2].partition("-")[2]
    assert inference.resize_masks_first == (tasks != {"semantic"})
    assert inference.things_only == ("panoptic" in tasks)
    decoder = recipe.model.transformer_decoder
    assert isinstance(decoder, MaskedDecoderConfig)
    assert (decoder.position_encoding == "3d") == recipe.is_video


@pytest.mark.parametrize("slug", recipes.recipe_names())
def test_model_configuration_survives_json(slug: str) -> None:
    model = recipes.recipe(slug).model
    assert ModelConfig.model_validate_json(model.model_dump_json()) == model


def test_unknown_recipe_names_the_closest() -> None:
    with pytest.raises(UserError, match=r"no recipe 'coco-panoptic/r5o'; did you mean .*coco-panoptic/r50"):
        recipes.recipe("coco-panoptic/r5o")
    with pytest.raises(UserError, match=r"there are: .*mapillary-semantic/"):
        recipes.recipe("x")


def test_the_packaged_models_run_is_panoptic_and_small() -> None:
    run = recipes.scenes_tiny()
    assert run.model.inference.default_task == "panoptic"
    assert (run.model.transformer_decoder.queries or 0) in range(1, 101)


@pytest.mark.parametrize("name", ["drawn-cells", "nuclei-start", "camvid"])
def test_our_runs_on_cells_and_streets_start_from_scenes(name: str) -> None:
    run = recipes.run_recipes()[name]()
    scenes = recipes.scenes_tiny().model
    assert run.model.backbone == scenes.backbone
    assert run.model.pixel_decoder == scenes.pixel_decoder
    assert (run.model.init, run.model.init_partial) == ("scenes-tiny", True)
    assert run.evaluation.tasks == run.model.inference.tasks
    assert RunConfig.model_validate(run.model_dump(mode="json")) == run


def test_camvid_all_is_camvid_with_the_validation_images_among_those_of_training() -> None:
    one, both = recipes.camvid(), recipes.camvid_all()
    assert isinstance(one.data.dataset, LabelFolderConfig)
    assert isinstance(both.data.dataset, LabelFolderConfig)
    assert both.data.dataset.train == one.data.dataset.train + one.data.dataset.validation
    assert not both.data.is_validated
    data = {"data": one.data, "output": one.output}
    assert both.model_copy(update=data) == one
    assert RunConfig.model_validate(both.model_dump(mode="json")) == both


def test_windows_of_nuclei_have_the_scale_of_their_training() -> None:
    start = recipes.nuclei_start()
    inference, augmentation = start.model.inference, start.data.augmentation
    assert augmentation.name == "resize-crop-flip"
    assert augmentation.scale_range is not None
    low, high = augmentation.scale_range
    assert low < inference.short_edge / inference.tile < high
    assert augmentation.crop_size == (inference.short_edge, inference.short_edge)


def test_the_runs_of_nuclei_go_on_from_one_another_with_objects_of_one_size() -> None:
    parts = recipes.packaged_recipes("nuclei")
    assert len(parts) == 5
    for before, run in pairwise(recipes.run_recipes()[name]() for name in parts):
        assert (run.model.init, run.model.init_partial) == (f"{before.output}/model.safetensors", False)
        assert run.model.model_copy(update={"init": None, "init_partial": False, "inference": None}) == (
            before.model.model_copy(update={"init": None, "init_partial": False, "inference": None})
        )
        augmentation = run.data.augmentation
        assert augmentation.name == "resize-crop-flip"
        assert augmentation.scale_range is not None
        assert augmentation.diameter
        seen = [factor * augmentation.diameter for factor in augmentation.scale_range]
        assert seen[0] < run.model.inference.diameter < seen[1]
        assert RunConfig.model_validate(run.model_dump(mode="json")) == run


def test_mixed_nuclei_learn_from_real_and_drawn_images_and_are_measured_on_real_ones() -> None:
    drawn, start, mixed = recipes.drawn_cells(), recipes.nuclei_start(), recipes.nuclei_mixed()
    assert isinstance(mixed.data.dataset, MixedConfig)
    real, other = mixed.data.dataset.parts
    assert real.dataset == start.data.dataset
    assert isinstance(other.dataset, CocoInstanceConfig)
    assert isinstance(drawn.data.dataset, CocoInstanceConfig)
    assert (other.dataset.train, other.dataset.validation) == (drawn.data.dataset.train, ())
    assert (mixed.model.init, mixed.model.init_partial) == (f"{drawn.output}/model.safetensors", False)
    assert RunConfig.model_validate(mixed.model_dump(mode="json")) == mixed


def test_the_last_part_of_nuclei_shows_rare_kinds_of_real_images_more_often() -> None:
    run = recipes.nuclei_end()
    assert isinstance(run.data.dataset, MixedConfig)
    real, rare, drawn = run.data.dataset.parts
    assert isinstance(real.dataset, CocoInstanceConfig)
    assert isinstance(rare.dataset, CocoInstanceConfig)
    assert real.dataset == recipes.nuclei_late().data.dataset
    assert (rare.dataset.train, rare.repeat) == (real.dataset.train, real.repeat)
    assert sorted(rare.select) == ["modality"]
    assert [part.is_validated for part in (real, rare, drawn)] == [True, False, False]


@pytest.mark.parametrize("name", ["nuclei", "scenes-tiny"])
def test_the_recipe_with_the_name_of_a_packaged_model_starts_from_it_at_a_low_rate(name: str) -> None:
    run, end = recipes.run_recipes()[name](), recipes.run_recipes()[recipes.packaged_recipes(name)[-1]]()
    assert (run.model.init, run.model.init_partial) == (name, False)
    assert run.optim.lr <= end.optim.lr / 4
    assert run.model.model_copy(update={"init": None}) == end.model.model_copy(update={"init": None})


# --- ablations -------------------------------------------------------------------------------------------------------

PAGE = Path(__file__).parents[2] / "docs" / "ablations.md"


@pytest.mark.parametrize("row", recipes.ABLATIONS)
def test_an_ablation_differs_from_its_base_in_exactly_the_named_values(row: str) -> None:
    settings = recipes.ABLATIONS[row].settings
    for family in recipes.BASES:
        name = f"ablation/{family}/{row}"
        run, base = recipes.run_recipes()[name](), recipes.recipe(f"{family}/r50").run
        plain = leaves(base)
        changed = {key: value for key, value in leaves(run).items() if value != plain[key]}
        assert changed == dict(settings) | {"output": f"runs/{name}"}
        assert leaves(run).keys() == plain.keys()
        assert RunConfig.model_validate(run.model_dump(mode="json")) == run


def test_no_two_ablations_are_the_same() -> None:
    rows = [tuple(sorted(row.settings.items())) for row in recipes.ABLATIONS.values()]
    assert len(set(rows)) == len(rows)
    switches = {key.rpartition(".")[2] for row in rows for key, _ in row}
    assert switches == {"attention", "scales", "order", "query_init", "dropout", "num_queries", "match_on", "loss_on"}


def test_the_page_of_ablations_has_the_figures_of_the_recipes() -> None:
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in PAGE.read_text().splitlines()]
    rows = [cells for cells in lines if len(cells) == 8 and cells[3].replace(".", "").isdigit()]
    figures = {cells[0].strip("`"): [float(cell) for cell in cells[3:6]] for cells in rows}
    assert figures.pop("") == [value for _, value in recipes.BASES.values()]
    assert figures == {name: list(row.figures or ()) for name, row in recipes.ABLATIONS.items()}


def test_an_ablation_says_what_it_changes_and_what_the_paper_reached() -> None:
    text = run_file("ablation/ade20k-semantic/attention-mask-pool")
    assert text.startswith("# Ablation of Mask2Former, Table 4c: mIoU 46.0 in the paper, and 47.2 without it.\n")
    assert "#   model.transformer_decoder.attention: mask_pool\n" in text
    assert "attention: mask_pool\n" in text.partition("\nmodel:")[2]


# --- alternatives that the paper compares with -----------------------------------------------------------------------


def test_a_pixel_decoder_of_the_paper_is_all_that_its_recipe_changes() -> None:
    runs = recipes.run_recipes()
    for family in recipes.BASES:
        for kind in ("fpn", "semantic-fpn", "fapn", "bifpn"):
            name, base = f"ablation/{family}/pixel-decoder-{kind}", recipes.recipe(f"{family}/r50").run
            run = runs[name]()
            assert run.model.pixel_decoder.name == kind
            assert run.model.pixel_decoder == type(run.model.pixel_decoder)()
            same = run.model.model_copy(update={"pixel_decoder": base.model.pixel_decoder})
            assert run.model_copy(update={"model": same, "output": base.output}) == base
            assert RunConfig.model_validate(run.model_dump(mode="json")) == run


def test_rows_with_parts_are_recipes_whose_paper_is_told() -> None:
    runs = recipes.run_recipes()
    text = runs["ablation/coco-panoptic/maskformer-decoder"].__doc__ or ""
    assert text.startswith("Ablation of Mask2Former, Table XII d: PQ 48.2 in the paper, and 51.9 without it.\n")
    assert text.endswith("in:\n  model.pixel_decoder: fpn\n  model.transformer_decoder: standard")
    run = runs["ablation/coco-panoptic/maskformer-decoder"]()
    assert run.model.transformer_decoder == StandardDecoderConfig()
    assert "  model.inference.tasks: [semantic]\n" in (runs["ablation/ade20k-semantic/per-pixel"].__doc__ or "")
    run = runs["ablation/ade20k-semantic/per-pixel-plus"]()
    assert run.model.transformer_decoder == PerPixelPlusConfig(source="res5")
    assert run.model.inference.tasks == run.evaluation.tasks == ("semantic",)
    assert "ablation/coco-panoptic/per-pixel" not in runs


def test_maskformer_is_a_recipe_with_its_loss() -> None:
    run = recipes.run_recipes()["maskformer/ade20k-semantic/r50"]()
    assert (run.model.pixel_decoder.name, run.model.transformer_decoder.name) == ("fpn", "standard")
    assert (run.criterion.class_weight, run.criterion.mask_weight, run.criterion.dice_weight) == (1, 20, 1)
    assert (run.criterion.mask_loss, run.criterion.match_on, run.criterion.loss_on) == ("focal", "masks", "masks")
    assert (run.optim.weight_decay, run.trainer.max_steps, run.trainer.precision) == (1e-4, 160_000, "fp32")
    assert RunConfig.model_validate(run.model_dump(mode="json")) == run
    panoptic = recipes.recipe("maskformer/ade20k-panoptic/r50")
    assert panoptic.model.transformer_decoder.model_dump()["source"] == "encoder"
    assert panoptic.model.inference.tasks == ("panoptic", "semantic")
    assert "maskformer/ade20k-panoptic/r50" not in recipes.recipe_names()
    semantic, of_panoptic = (
        run_file(f"maskformer/ade20k-{task}/r50").replace("\n# ", " ") for task in ("semantic", "panoptic")
    )
    assert "in decoders, loss, weight decay and precision. Published" in semantic
    assert "in decoders, loss, weight decay, tasks, score threshold, number of steps and precision. " in of_panoptic
    assert "Weights start random unless you set model.init=R-50.pkl" in semantic
    assert run_file("maskformer/ade20k-panoptic/r50").startswith(
        "# MaskFormer, ade20k-150-panoptic/maskformer_panoptic"
    )


def test_a_changed_run_keeps_the_rest_and_records_what_was_set() -> None:
    """``changed`` sets settings of groups by dotted name; the original stays as it is."""
    run = RunConfig()
    other = changed(run, {"optim.lr": 0.5, "model.transformer_decoder.num_queries": 7, "seed": 3})
    assert (other.optim.lr, other.model.transformer_decoder.queries, other.seed) == (0.5, 7, 3)
    assert other.optim.model_fields_set == {"lr"}
    assert leaves(other) == leaves(run) | {"optim.lr": 0.5, "model.transformer_decoder.num_queries": 7, "seed": 3}
    assert run == RunConfig()
