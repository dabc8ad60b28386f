"""Recipes hold the values of the published configurations."""

from __future__ import annotations

import pytest

from mask2former import recipes
from mask2former.config import ModelConfig, RunConfig, SwinConfig
from mask2former.errors import UserError
from mask2former.structures import Categories

# slug, backbone (depth:norm, or width:blocks of stage 3:first heads:window:drop path), classes, queries,
# outputs switched on, test short edge, long edge, score threshold, overlap threshold, instances per image
PUBLISHED = """
coco-panoptic/r50 R50:FrozenBN 133 100 PIS 800 1333 0.8 0.8 100
coco-panoptic/r101 R101:FrozenBN 133 100 PIS 800 1333 0.8 0.8 100
coco-panoptic/swin-t 96:6:3:7:0.3 133 100 PIS 800 1333 0.8 0.8 100
coco-panoptic/swin-s 96:18:3:7:0.3 133 100 PIS 800 1333 0.8 0.8 100
coco-panoptic/swin-b 128:18:4:12:0.3 133 100 PIS 800 1333 0.8 0.8 100
coco-panoptic/swin-b-in21k 128:18:4:12:0.3 133 100 PIS 800 1333 0.8 0.8 100
coco-panoptic/swin-l 192:18:6:12:0.3 133 200 PIS 800 1333 0.8 0.8 100
coco-instance/r50 R50:FrozenBN 80 100 I 800 1333 0.8 0.8 100
coco-instance/r101 R101:FrozenBN 80 100 I 800 1333 0.8 0.8 100
coco-instance/swin-t 96:6:3:7:0.3 80 100 I 800 1333 0.8 0.8 100
coco-instance/swin-s 96:18:3:7:0.3 80 100 I 800 1333 0.8 0.8 100
coco-instance/swin-b 128:18:4:12:0.3 80 100 I 800 1333 0.8 0.8 100
coco-instance/swin-b-in21k 128:18:4:12:0.3 80 100 I 800 1333 0.8 0.8 100
coco-instance/swin-l 192:18:6:12:0.3 80 200 I 800 1333 0.8 0.8 100
cityscapes-panoptic/r50 R50:SyncBN 19 100 PIS 1024 2048 0.8 0.8 100
cityscapes-panoptic/r101 R101:SyncBN 19 100 PIS 1024 2048 0.8 0.8 100
cityscapes-panoptic/swin-t 96:6:3:7:0.3 19 100 PIS 1024 2048 0.8 0.8 100
cityscapes-panoptic/swin-s 96:18:3:7:0.3 19 100 PIS 1024 2048 0.8 0.8 100
cityscapes-panoptic/swin-b-in21k 128:18:4:12:0.3 19 100 PIS 1024 2048 0.8 0.8 100
cityscapes-panoptic/swin-l 192:18:6:12:0.3 19 200 PIS 1024 2048 0.8 0.8 100
cityscapes-instance/r50 R50:SyncBN 8 100 I 1024 2048 0.8 0.8 100
cityscapes-instance/r101 R101:SyncBN 8 100 I 1024 2048 0.8 0.8 100
cityscapes-instance/swin-t 96:6:3:7:0.3 8 100 I 1024 2048 0.8 0.8 100
cityscapes-instance/swin-s 96:18:3:7:0.3 8 100 I 1024 2048 0.8 0.8 100
cityscapes-instance/swin-b-in21k 128:18:4:12:0.3 8 100 I 1024 2048 0.8 0.8 100
cityscapes-instance/swin-l 192:18:6:12:0.3 8 200 I 1024 2048 0.8 0.8 100
cityscapes-semantic/r50 R50:SyncBN 19 100 S 1024 2048 0.8 0.8 100
cityscapes-semantic/r101 R101:SyncBN 19 100 S 1024 2048 0.8 0.8 100
cityscapes-semantic/swin-t 96:6:3:7:0.3 19 100 S 1024 2048 0.8 0.8 100
cityscapes-semantic/swin-s 96:18:3:7:0.3 19 100 S 1024 2048 0.8 0.8 100
cityscapes-semantic/swin-b-in21k 128:18:4:12:0.3 19 100 S 1024 2048 0.8 0.8 100
cityscapes-semantic/swin-l 192:18:6:12:0.3 19 100 S 1024 2048 0.8 0.8 100
ade20k-panoptic/r50 R50:FrozenBN 150 100 PIS 640 2560 0.8 0.8 100
ade20k-panoptic/swin-l 192:18:6:12:0.3 150 200 PIS 640 2560 0.8 0.8 100
ade20k-instance/r50 R50:FrozenBN 100 100 PIS 640 2560 0.8 0.8 100
ade20k-instance/swin-l 192:18:6:12:0.3 100 200 PIS 640 2560 0.8 0.8 100
ade20k-semantic/r50 R50:FrozenBN 150 100 S 512 2048 0.8 0.8 100
ade20k-semantic/r101 R101:SyncBN 150 100 S 512 2048 0.8 0.8 100
ade20k-semantic/swin-t 96:6:3:7:0.3 150 100 S 512 2048 0.8 0.8 100
ade20k-semantic/swin-s 96:18:3:7:0.3 150 100 S 512 2048 0.8 0.8 100
ade20k-semantic/swin-b 128:18:4:12:0.3 150 100 S 640 2560 0.8 0.8 100
ade20k-semantic/swin-b-in21k 128:18:4:12:0.3 150 100 S 640 2560 0.8 0.8 100
ade20k-semantic/swin-l 192:18:6:12:0.3 150 100 S 640 2560 0.8 0.8 100
mapillary-panoptic/r50 R50:FrozenBN 65 100 PS 2048 2048 0.0 0.8 100
mapillary-panoptic/swin-l 192:18:6:12:0.3 65 200 PS 2048 2048 0.0 0.8 100
mapillary-semantic/r50 R50:FrozenBN 65 100 S 2048 2048 0.0 0.8 100
mapillary-semantic/swin-l 192:18:6:12:0.3 65 100 S 2048 2048 0.0 0.8 100
ytvis2019-instance/r50 R50:FrozenBN 40 100 I 360 1333 0.8 0.8 10
ytvis2019-instance/r101 R101:FrozenBN 40 100 I 360 1333 0.8 0.8 10
ytvis2019-instance/swin-t 96:6:3:7:0.3 40 100 I 480 1333 0.8 0.8 10
ytvis2019-instance/swin-s 96:18:3:7:0.3 40 100 I 480 1333 0.8 0.8 10
ytvis2019-instance/swin-b-in21k 128:18:4:12:0.3 40 100 I 480 1333 0.8 0.8 10
ytvis2019-instance/swin-l 192:18:6:12:0.3 40 200 I 480 1333 0.8 0.8 10
ytvis2021-instance/r50 R50:FrozenBN 40 100 I 360 1333 0.8 0.8 10
ytvis2021-instance/r101 R101:FrozenBN 40 100 I 360 1333 0.8 0.8 10
ytvis2021-instance/swin-t 96:6:3:7:0.3 40 100 I 480 1333 0.8 0.8 10
ytvis2021-instance/swin-s 96:18:3:7:0.3 40 100 I 480 1333 0.8 0.8 10
ytvis2021-instance/swin-b-in21k 128:18:4:12:0.3 40 100 I 480 1333 0.8 0.8 10
ytvis2021-instance/swin-l 192:18:6:12:0.3 40 200 I 360 1333 0.8 0.8 10
"""
ROWS = [line.split() for line in PUBLISHED.strip().splitlines()]
NORMS = {"frozen": "FrozenBN", "sync": "SyncBN"}


def test_every_published_model_has_one_recipe() -> None:
    assert [row[0] for row in ROWS] == list(recipes.recipe_names())
    assert sum(not recipes.recipe(row[0]).is_video for row in ROWS) == 47


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0])
def test_recipe_has_the_published_values(row: list[str]) -> None:
    slug, backbone_text, classes, queries, outputs, short_edge, long_edge, score, overlap, instances = row
    recipe = recipes.recipe(slug)
    backbone, inference = recipe.model.backbone, recipe.model.inference
    if isinstance(backbone, SwinConfig):
        parts = (
            backbone.embed_dim,
            backbone.depths[2],
            backbone.num_heads[0],
            backbone.window_size,
            backbone.drop_path_rate,
        )
        assert ":".join(map(str, parts)) == backbone_text
        assert backbone.depths == (2, 2, backbone.depths[2], 2)
        assert backbone.num_heads == tuple(backbone.num_heads[0] * 2**stage for stage in range(4))
    else:
        assert f"R{backbone.model.removeprefix('resnet')}:{NORMS[backbone.norm]}" == backbone_text
    table = Categories.load(recipe.categories)
    assert len(table.things() if recipe.only_things else table) == int(classes)
    assert recipe.model.transformer_decoder.num_queries == int(queries)
    assert (recipe.model.transformer_decoder.position_encoding == "3d") == recipe.is_video
    # The ADE20K instance files switch on everything; the models are trained for instances. A panoptic model answers
    # all three tasks here, also where the published file leaves instances off (Mapillary Vistas).
    trained = "I" if slug.startswith("ade20k-instance") else "SPI" if "P" in outputs else outputs
    assert {task[0].upper() for task in inference.tasks} == set(trained)
    assert (inference.short_edge, inference.long_edge) == (int(short_edge), int(long_edge))
    assert (inference.score_threshold, inference.overlap_threshold) == (float(score), float(overlap))
    assert inference.max_instances == int(instances)
    assert inference.resize_masks_first == (outputs != "S")
    assert inference.things_only == ("P" in trained)
    assert inference.default_task == slug.partition("/")[0].partition("-")[2]


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
    assert run.model.transformer_decoder.num_queries <= 100


@pytest.mark.parametrize("name", ["nuclei-start", "camvid"])
def test_our_runs_on_real_images_start_from_drawn_ones(name: str) -> None:
    run = recipes.run_recipes()[name]()
    scenes = recipes.scenes_tiny().model
    assert run.model.backbone == scenes.backbone
    assert run.model.pixel_decoder == scenes.pixel_decoder
    assert (run.model.init, run.model.init_partial) == ("scenes-tiny", True)
    assert run.evaluation.tasks == run.model.inference.tasks
    assert RunConfig.model_validate(run.model_dump(mode="json")) == run


def test_windows_of_nuclei_have_the_scale_of_their_training() -> None:
    start = recipes.nuclei_start()
    inference, augmentation = start.model.inference, start.data.augmentation
    assert augmentation.name == "resize-crop-flip"
    assert augmentation.scale_range is not None
    low, high = augmentation.scale_range
    assert low < inference.short_edge / inference.tile < high
    assert augmentation.crop_size == (inference.short_edge, inference.short_edge)


def test_the_runs_of_nuclei_go_on_from_one_another_with_objects_of_one_size() -> None:
    start, middle, last = recipes.nuclei_start(), recipes.nuclei_middle(), recipes.nuclei_end()
    for before, run in ((start, middle), (middle, last)):
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


@pytest.mark.parametrize("name", ["nuclei", "scenes-tiny"])
def test_the_recipe_with_the_name_of_a_packaged_model_starts_from_it_at_a_low_rate(name: str) -> None:
    run, end = recipes.run_recipes()[name](), recipes.run_recipes()[f"{name}-end"]()
    assert (run.model.init, run.model.init_partial) == (name, False)
    assert run.optim.lr <= end.optim.lr / 4
    assert run.model.model_copy(update={"init": None}) == end.model.model_copy(update={"init": None})
