"""Loaders of a run: how a step is divided, when data is read, and what reaches the loss."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from mask2former.config import RunConfig, changed, parse
from mask2former.data.loading.collate import PackedBatch, pack
from mask2former.data.loading.sampling import StepSampler
from mask2former.dataset_tools.requirements import batch_size_per_device
from mask2former.errors import UserError
from mask2former.evaluation.cases import Case
from mask2former.structures import Batch
from mask2former.training.datamodule import DataModule


def config(**data: object) -> RunConfig:
    trainer = {name: data.pop(name, 1) for name in ("devices", "num_nodes")}
    values = {"data": data, "trainer": trainer, "evaluation": {"tasks": ["instance"]}}
    return parse(RunConfig, values, "test")


@pytest.mark.parametrize(
    ("total", "devices", "micro", "line"),
    [
        (16, 2, 2, "16 images per step = 2 devices x 2 x 4 accumulated"),
        (16, 1, 2, "16 images per step = 1 device x 2 x 8 accumulated"),
        (16, 8, None, "16 images per step = 8 devices x 2"),
        (3, 1, 1, "3 images per step = 1 device x 1 x 3 accumulated"),
        (1, 1, None, "1 image per step = 1 device x 1"),
    ],
)
def test_the_images_of_a_step_are_divided_over_devices_and_passes(
    total: int, devices: int, micro: int | None, line: str
) -> None:
    settings = config(batch_size=total, devices=devices, batch_size_per_device=micro)
    assert DataModule(settings).batching() == line


@pytest.mark.parametrize(("total", "devices", "micro"), [(16, 3, None), (16, 1, 3), (16, 2, 16)])
def test_batches_that_cannot_be_divided_evenly_are_refused(total: int, devices: int, micro: int | None) -> None:
    with pytest.raises(UserError, match=r"data\.batch_size 16"):
        batch_size_per_device(config(batch_size=total, devices=devices, batch_size_per_device=micro))


def test_the_images_of_a_step_are_divided_over_machines() -> None:
    split = config(batch_size=16, num_nodes=2, devices=2, batch_size_per_device=2)
    assert DataModule(split).batching() == "16 images per step = 2 nodes x 2 devices x 2 x 2 accumulated"
    assert DataModule(config(batch_size=64, num_nodes=8, devices=8)).batching() == (
        "64 images per step = 8 nodes x 8 devices x 1"
    )
    clips = config(batch_size=2, dataset={"name": "scene-clips"})
    assert DataModule(clips).batching() == "2 clips per step = 1 device x 2"
    assert batch_size_per_device(config(batch_size=16, num_nodes=2, devices=1)) == 8
    with pytest.raises(
        UserError, match=r"16 is not a multiple of trainer\.num_nodes 3 x trainer\.devices 2 = 6; change"
    ):
        batch_size_per_device(config(batch_size=16, num_nodes=3, devices=2))
    with pytest.raises(UserError, match=r"over 4 device\(s\) gives 4 images each, which data\.batch_size_per_device 8"):
        batch_size_per_device(config(batch_size=16, num_nodes=2, devices=2, batch_size_per_device=8))


@pytest.mark.parametrize(("count", "ranks"), [(6, 4), (6, 8), (6, 1), (6, 3)])
def test_every_rank_measures_as_often_and_no_case_is_measured_twice(
    shapes: dict[str, object], count: int, ranks: int
) -> None:
    """Each case is measured once, and every rank has as many: one without any would keep the others waiting."""
    shares = []
    module = attached(config(dataset=shapes, num_workers=0))
    for rank in range(ranks):
        module.trainer.global_rank, module.trainer.world_size = rank, ranks  # type: ignore[union-attr, misc]
        shares.append(list(module.val_dataloader()))
    assert {len(share) for share in shares} == {-(-count // ranks)}
    names = [case.image_id for share in shares for case in share if isinstance(case, Case)]
    assert len(set(names)) == len(names)
    assert len(names) == count


@pytest.fixture
def shapes(tmp_path: Path) -> dict[str, object]:
    """``dataset`` settings with six images, two of which are higher than wide."""
    rng = np.random.default_rng(0)
    images, annotations = [], []
    for number in range(6):
        height, width = (40, 60) if number % 3 else (60, 40)
        Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8)).save(tmp_path / f"{number}.png")
        images.append({"id": number, "file_name": f"{number}.png", "height": height, "width": width})
        for left in (3, 10):
            corners = [left, 5, 30, 5, 30, 30, left, 30]
            annotations.append({"image_id": number, "category_id": 5, "segmentation": [corners]})
    annotations = [{"id": index, **entry} for index, entry in enumerate(annotations, start=1)]
    content = {"images": images, "annotations": annotations, "categories": [{"id": 5, "name": "cell"}]}
    for split in ("train", "validation"):
        (tmp_path / f"{split}.json").write_text(json.dumps(content))
    return {
        "name": "coco-instance",
        **{
            split: [{"annotations": str(tmp_path / f"{split}.json"), "images": str(tmp_path)}]
            for split in ("train", "validation")
        },
    }


def attached(settings: RunConfig) -> DataModule:
    module = DataModule(settings)
    module.trainer = SimpleNamespace(  # type: ignore[assignment]
        global_rank=0, world_size=1, global_step=0, strategy=SimpleNamespace(root_device=torch.device("cpu"))
    )
    return module


@pytest.mark.parametrize("workers", [0, 1])
def test_a_loss_gets_the_batches_that_collating_the_samples_gives(shapes: dict[str, object], workers: int) -> None:
    jitter = {"name": "large-scale-jitter", "image_size": [64, 64]}
    sizes = {"batch_size": 4, "batch_size_per_device": 2}
    settings = config(dataset=shapes, augmentation=jitter, num_workers=workers, **sizes)
    module = attached(settings)
    packed = next(iter(module.train_dataloader()))
    assert [type(part) for part in packed] == [PackedBatch, PackedBatch]
    window: list[Batch] = module.on_after_batch_transfer(packed, 0)
    draws = StepSampler(6, 4, settings.seed, micro=2).draws(0)
    for index, batch in enumerate(window):
        expected = pack([module.training_set[draw] for draw in draws[2 * index : 2 * index + 2]]).unpack()
        assert torch.equal(batch.images.pixels, expected.images.pixels)
        assert batch.names == expected.names
        for ours, theirs in zip(batch.targets, expected.targets, strict=True):
            assert torch.equal(ours.labels, theirs.labels)
            assert torch.equal(ours.masks, theirs.masks)
            assert ours.masks.dtype == torch.bool


@pytest.mark.parametrize("void", ["background", "ignored"])
def test_crowd_regions_reach_the_loss_if_they_are_to_be_ignored(shapes: dict[str, object], void: str) -> None:
    file = Path(shapes["train"][0]["annotations"])  # type: ignore[index]
    content = json.loads(file.read_text())
    corners = [20, 20, 38, 20, 38, 38, 20, 38]
    crowd = {"id": 99, "image_id": 2, "category_id": 5, "segmentation": [corners], "iscrowd": 1}
    file.write_text(json.dumps({**content, "annotations": [*content["annotations"], crowd]}))
    settings = config(dataset=shapes, batch_size=6, num_workers=0)
    criterion = settings.criterion.model_copy(update={"void": void})
    module = attached(settings.model_copy(update={"criterion": criterion}))
    (batch,) = module.on_after_batch_transfer(next(iter(module.train_dataloader())), 0)
    found = {name: target.ignored for name, target in zip(batch.names, batch.targets, strict=True)}
    assert len(found) == 6
    ignored = found.pop("2.png")
    assert set(found.values()) == {None}
    if void == "background":
        assert ignored is None
    else:
        assert ignored is not None
        assert ignored.shape == (1, *batch.images.pixels.shape[-2:])
        assert ignored.sum() == 18 * 18 - 10 * 10  # less the objects


def test_images_of_one_pass_have_one_aspect(shapes: dict[str, object]) -> None:
    settings = config(dataset=shapes, group_by_aspect=True, batch_size=2, batch_size_per_device=2, num_workers=0)
    loader = iter(attached(settings).train_dataloader())
    sizes = [next(loader)[0].sizes for _ in range(9)]
    assert {len(set(pair)) for pair in sizes} == {1}
    assert {pair[0] for pair in sizes} == {(40, 60), (60, 40)}


def test_annotation_files_are_read_once_per_run(shapes: dict[str, object], monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []
    read_bytes = Path.read_bytes

    def counting(path: Path) -> bytes:
        read.append(path.name)
        return read_bytes(path)

    monkeypatch.setattr(Path, "read_bytes", counting)
    module = attached(config(dataset=shapes, num_workers=0))
    assert [category.name for category in module.categories] == ["cell"]
    for _ in range(3):
        next(iter(module.train_dataloader()))
        assert len(module.val_dataloader()) == 6
        module.sample_batch()
        module.remarks()
    assert sorted(name for name in read if name.endswith(".json")) == ["train.json", "validation.json"]


@pytest.mark.parametrize(
    ("augmentation", "is_cropped"),
    [
        ({"name": "none"}, False),
        ({"name": "resize-crop-flip", "crop_size": None}, False),
        ({"name": "resize-crop-flip"}, True),
        ({"name": "large-scale-jitter"}, True),
    ],
)
def test_more_objects_than_queries_are_those_of_complete_images(
    shapes: dict[str, object], augmentation: dict[str, object], *, is_cropped: bool
) -> None:
    module = attached(config(dataset=shapes, augmentation=augmentation, num_workers=0))
    module.num_queries = 1
    (remark,) = (line for line in module.remarks() if "queries" in line)
    of_crops = (
        "these are numbers for complete images, and a training sample is a crop, usually with fewer; where it has more "
        "than 1, "
    )
    assert remark == (
        "6 of 6 training images contain more objects than the model has queries (1; up to 2 objects): "
        f"{of_crops if is_cropped else ''}objects beyond the number of queries cannot be learned; train on smaller "
        "crops, or raise model.transformer_decoder.num_queries"
    )


@pytest.mark.parametrize(
    ("pad", "words"),
    [
        ([64, 64], None),
        ([64, 96], None),
        (None, None),
        ([640, 640], "crop_size is 64x64 and pad_size 640x640 (height x width): 99% or more of every training sample"),
        ([64, 32], "of each crop, the part beyond pad_size is cut off"),
    ],
)
def test_a_canvas_that_is_not_that_of_the_crops_is_noted(
    shapes: dict[str, object], pad: list[int] | None, words: str | None
) -> None:
    augmentation = {"name": "resize-crop-flip", "crop_size": [64, 64], "pad_size": pad}
    found = [line for line in attached(config(dataset=shapes, augmentation=augmentation)).remarks() if "pad_" in line]
    assert len(found) == (words is not None)
    assert words is None or words in found[0]


def test_small_clips_are_not_padded_to_a_size_that_nobody_set() -> None:
    clips = {"name": "scene-clips", "image_size": [48, 64], "clip_length": 2, "num_training": 2, "num_validation": 1}
    augmentation = {"name": "resize-crop-flip", "short_edges": [48], "crop_size": None, "flip": "none"}
    module = attached(config(dataset=clips, augmentation=augmentation, batch_size=2, num_workers=0))
    assert module.sample_batch().images.pixels.shape[-2:] == (64, 64)  # multiples of 32


def test_validation_says_which_results_it_leaves_out(shapes: dict[str, object]) -> None:
    settings = config(dataset=shapes, num_workers=0)
    assert not any("min_area" in line for line in attached(settings).remarks())
    settings = changed(settings, {"model.inference.min_area": 21})
    (remark,) = (line for line in attached(settings).remarks() if "min_area" in line)
    assert remark.startswith("validation and prediction leave out results below 21 pixels")


def test_batches_are_padded_as_the_model_pads(shapes: dict[str, object]) -> None:
    module = attached(config(dataset=shapes, batch_size=2, num_workers=0, augmentation={"name": "none"}))
    module.size_divisibility = 48
    batches = [module.sample_batch(), *module.on_after_batch_transfer(next(iter(module.train_dataloader())), 0)]
    for batch in batches:
        height, width = batch.images.pixels.shape[-2:]
        assert (height % 48, width % 48) == (0, 0)
        assert {target.masks.shape[-2:] for target in batch.targets} == {(height, width)}


def test_objects_that_copy_paste_adds_count_too(shapes: dict[str, object]) -> None:
    def noted(queries: int, copy_paste: float) -> list[str]:
        module = attached(config(dataset=shapes, copy_paste=copy_paste, num_workers=0, augmentation={"name": "none"}))
        module.num_queries = queries
        return [line for line in module.remarks() if "queries" in line]

    end = (
        "objects beyond the number of queries cannot be learned; train on smaller crops, or raise "
        "model.transformer_decoder.num_queries"
    )
    assert noted(3, 0.5) == [
        "with data.copy_paste, a training image may contain up to 4 objects (twice the 2 of the image with the most), "
        f"but the model has 3 queries: {end}"
    ]
    assert noted(3, 0.0) == noted(4, 0.5) == []
    assert noted(1, 0.5) == [
        "6 of 6 training images contain more objects than the model has queries (1; up to 2 objects, and up to 4 with "
        f"data.copy_paste): {end}"
    ]
