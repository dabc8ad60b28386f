"""Our own recipes: those that trained the packaged models, and short training runs on real images."""

from __future__ import annotations

from mask2former.config import (
    CocoFiles,
    CocoInstanceConfig,
    CriterionConfig,
    DataConfig,
    EvaluationConfig,
    InferenceConfig,
    LabelFolderConfig,
    LabelFolders,
    MaskedDecoderConfig,
    MixedConfig,
    MixedPart,
    ModelConfig,
    MSDeformAttnConfig,
    OptimConfig,
    ResizeCropFlipConfig,
    RunConfig,
    SceneClipsConfig,
    ScenesConfig,
    TimmConfig,
    TrainerConfig,
    changed,
)

__all__ = [
    "camvid",
    "camvid_all",
    "drawn_cells",
    "nuclei",
    "nuclei_end",
    "nuclei_final",
    "nuclei_late",
    "nuclei_middle",
    "nuclei_mixed",
    "nuclei_start",
    "scene_clips",
    "scenes_tiny",
    "scenes_tiny_end",
    "scenes_tiny_start",
]


def _tiny_model(
    num_queries: int, inference: InferenceConfig, init: str | None, *, partial: bool = False
) -> ModelConfig:
    """The architecture of all our models: 3.7 million parameters, no pretrained weights."""
    return ModelConfig(
        backbone=TimmConfig(model="resnet10t", norm="batch", kwargs={"channels": [48, 96, 192, 320]}),
        pixel_decoder=MSDeformAttnConfig(dim=128, mask_dim=128, num_layers=3, num_heads=4, feedforward_dim=256),
        transformer_decoder=MaskedDecoderConfig(
            dim=128, num_queries=num_queries, num_layers=3, num_heads=4, feedforward_dim=512
        ),
        inference=inference,
        init=init,
        init_partial=partial,
    )


def _scenes_run(size: int, output: str, init: str | None) -> RunConfig:
    """Settings shared by all parts of the training of the packaged model."""
    return RunConfig(
        model=_tiny_model(
            32,
            InferenceConfig(
                short_edge=size,
                long_edge=2 * size,
                score_threshold=0.5,
                overlap_threshold=0.6,
                max_instances=50,
            ),
            init,
        ),
        data=DataConfig(dataset=ScenesConfig(image_size=(size, size)), num_workers=1),
        optim=OptimConfig(backbone_multiplier=1.0, warmup_steps=100, warmup_factor=0.01, ema_decay=0.998),
        trainer=TrainerConfig(precision="bf16"),
        output=output,
    )


def scenes_tiny_start() -> RunConfig:
    """First half of the training of ``scenes-tiny``: 1,000 steps at 128 pixels, from random weights.

    The schedule is that of 5,500 steps, so the learning rate is still high at the end. Measured: panoptic quality 53.7
    on the validation scenes, after 12 minutes on two cores (AMD Zen 5, bf16).
    """
    changes = {
        "criterion.num_points": 512,
        "optim.lr": 5e-4,
        "optim.schedule_steps": 5500,
        "trainer.max_steps": 1000,
        "evaluation.interval": 500,
    }
    return changed(_scenes_run(128, "runs/scenes-tiny-start", init=None), changes)


def scenes_tiny_end() -> RunConfig:
    """Second half of the training of ``scenes-tiny``: 3,600 steps at 192 pixels, from the weights of the first half.

    Measured: panoptic quality 79.0 on the validation scenes; PQ 81.5, AP 56.1 and mIoU 87.2 on the 50 scenes of
    ``mask2former demo``, which are not used in training or validation. It took an hour on one core (AMD Zen 5, bf16).
    """
    run = _scenes_run(192, "runs/scenes-tiny-end", init="runs/scenes-tiny-start/model.safetensors")
    changes = {
        "criterion.num_points": 1024,
        "data.batch_size": 8,
        "optim.lr": 4e-4,
        "trainer.max_steps": 3600,
        "evaluation.interval": 300,
    }
    return changed(run, changes)


def scenes_tiny() -> RunConfig:
    """Trains the packaged model ``scenes-tiny`` further: 1,000 steps at 192 pixels, a quarter of its learning rate.

    A first training that needs no files. The packaged model itself was trained with ``scenes-tiny-start``, then
    ``scenes-tiny-end``.
    """
    changes = {
        "model.init": "scenes-tiny",
        "optim.lr": 1e-4,
        "trainer.max_steps": 1000,
        "evaluation.interval": 250,
        "output": "runs/scenes-tiny",
    }
    return changed(scenes_tiny_end(), changes)


def scene_clips() -> RunConfig:
    """The packaged model ``scene-clips``: 2,000 steps of four clips of two frames at 128 pixels, from ``scenes-tiny``.

    Instances over time in moving scenes; needs no files. Measured: AP 30.6 on 40 fresh clips of 36 frames, where
    ``scenes-tiny`` with tracking has 21.1, after 21 CPU minutes on one core (AMD Zen 4, bf16).
    """
    changes = {
        "model.transformer_decoder.position_encoding": "3d",
        "model.inference": InferenceConfig(tasks=("instance",), short_edge=128, long_edge=256, max_instances=30),
        "criterion.num_points": 512,
        "data": DataConfig(dataset=SceneClipsConfig(labels_from="any-frame"), batch_size=4, num_workers=0),
        "optim.lr": 2e-4,
        "optim.warmup_factor": 0.1,
        "trainer.max_steps": 2000,
        "evaluation": EvaluationConfig(interval=500, tasks=("instance",), monitor="instance/AP"),
    }
    return changed(_scenes_run(128, "runs/scene-clips", init="scenes-tiny"), changes)


def _small_run(model: ModelConfig, data: DataConfig, output: str, max_steps: int) -> RunConfig:
    """Settings shared by the training runs on real images: a schedule for two hours on one core."""
    return RunConfig(
        model=model,
        criterion=CriterionConfig(num_points=2048),
        data=data,
        optim=OptimConfig(lr=5e-4, backbone_multiplier=0.5, warmup_steps=100, warmup_factor=0.1, ema_decay=0.998),
        trainer=TrainerConfig(
            max_steps=max_steps, precision="bf16", half_pixel_decoder=True, channels_last=True, checkpoint_interval=250
        ),
        output=output,
    )


_NUCLEI = CocoInstanceConfig(
    train=(CocoFiles(annotations="nuclei/annotations/instances_train.json", images="nuclei/train"),),
    validation=(CocoFiles(annotations="nuclei/annotations/instances_val.json", images="nuclei/val"),),
)
_DRAWN_CELLS = CocoInstanceConfig(
    train=(CocoFiles(annotations="datasets/drawn-cells/instances_train.json", images="datasets/drawn-cells/train"),),
    validation=(CocoFiles(annotations="datasets/drawn-cells/instances_val.json", images="datasets/drawn-cells/val"),),
)


def _nuclei_run(
    augmentation: ResizeCropFlipConfig,
    inference: InferenceConfig,
    init: str,
    output: str,
    max_steps: int,
    interval: int,
    dataset: CocoInstanceConfig = _NUCLEI,
) -> RunConfig:
    """Settings shared by all trainings on cells.

    By default, data is expected in COCO's format in nuclei/ (docs/results.md describes the split); for other paths,
    edit data.dataset.
    """
    run = _small_run(
        _tiny_model(100, inference, init, partial=init == "scenes-tiny"),
        DataConfig(dataset=dataset, augmentation=augmentation, batch_size=4, num_workers=0),
        output,
        max_steps,
    )
    evaluation = EvaluationConfig(
        interval=interval, tasks=("instance",), monitor="instance/AP", max_detections=400, pooled_threshold=0.5
    )
    return changed(run, {"optim.lr": 4e-4, "evaluation": evaluation})


_NUCLEI_TILES = InferenceConfig(
    tasks=("instance",),
    short_edge=256,
    tile=128,
    tile_overlap=32,
    max_instances=400,
    non_overlapping=True,
    overlap_threshold=0.7,
)
_SMALLEST_NUCLEUS = 21  # pixels of the smallest annotated one of 21,575; smaller predictions are slivers at the border


def drawn_cells() -> RunConfig:
    """Instances of nuclei without one annotated image: 3,000 steps of four crops of drawn cells, from ``scenes-tiny``.

    Expects the files of ``mask2former prepare drawn-cells`` in datasets/; for another folder, edit data.dataset.
    Measured: AP 49.1, AP50 75.7 and pooled AP 63.2 at IoU 0.5 on 71 real validation images of ``nuclei``, after 50
    minutes on one core (AMD Zen 4, bf16).
    """
    crops = changed(_nuclei_crops(0.6, 1.8), {"exposure": (0.15, 1.0)})
    tiles = changed(_NUCLEI_TILES, {"diameter": 40.0})
    return _nuclei_run(crops, tiles, "scenes-tiny", "runs/drawn-cells", 3000, interval=3000, dataset=_DRAWN_CELLS)


def nuclei_mixed() -> RunConfig:
    """Nuclei from real and drawn images, half and half: 6,000 steps of four crops, from ``drawn-cells``.

    Expects the files of ``nuclei-start`` and of ``drawn-cells``; for other paths, edit data.dataset. Measured at a
    diameter of 48 pixels: AP 55.5 and AP50 83.1 (with ``seed=2`` 54.2 and 82.1) on 71 validation images, after 105
    minutes on one core (AMD Zen 4, bf16).
    """
    drawn = changed(_DRAWN_CELLS, {"validation": ()})
    changes = {
        "model.init": "runs/drawn-cells/model.safetensors",
        "model.init_partial": False,
        "data.dataset": MixedConfig(parts=(MixedPart(dataset=_NUCLEI, repeat=8), MixedPart(dataset=drawn))),
        "trainer.max_steps": 6000,
        "evaluation.interval": 6000,
        "output": "runs/nuclei-mixed",
        "seed": 1,
    }
    return changed(drawn_cells(), changes)


def nuclei_start() -> RunConfig:
    """First part of the training of ``nuclei``: 5,000 steps of four crops, enlarged 1.1 to 2.4 times.

    Instances of nuclei in microscopy images (2018 Data Science Bowl), from ``scenes-tiny``. Measured: AP 49.7, AP50
    78.0 and pooled AP 69.0 at IoU 0.5 on 71 validation images, after 81 minutes on one core (AMD Zen 4, bf16). The run
    itself was validated with tiles of 160 pixels, overlaps allowed.
    """
    augmentation = ResizeCropFlipConfig(
        scale_range=(1.1, 2.4), flip="both", crop_size=(256, 256), pad_size=(256, 256), keep_lost=False
    )
    return _nuclei_run(augmentation, _NUCLEI_TILES, "scenes-tiny", "runs/nuclei-start", 5000, interval=2500)


def nuclei_middle() -> RunConfig:
    """Second part of the training of ``nuclei``: 5,500 steps with objects resized to one size, from ``nuclei-start``.

    Measured: AP 52.3, AP50 80.6 and pooled AP 72.5 at IoU 0.5 on 71 validation images, after 91 minutes on one core
    (AMD Zen 4, bf16).
    """
    run = _nuclei_run(
        _nuclei_crops(0.6, 1.8),
        changed(_NUCLEI_TILES, {"diameter": 40.0}),
        "runs/nuclei-start/model.safetensors",
        "runs/nuclei-middle",
        5500,
        interval=2750,
    )
    return changed(run, {"seed": 1})


def nuclei_late() -> RunConfig:
    """Third part of the training of ``nuclei``: 5,500 steps with a narrower range of sizes, from ``nuclei-middle``.

    Measured: AP 55.2, AP50 83.2 and pooled AP 74.0 at IoU 0.5 on 71 validation images, after 83 minutes on one core
    (AMD Zen 4, bf16). The score threshold and the diameter in its inference settings were chosen afterwards, on
    training images; the recorded run was validated with 40, the diameter of its training.
    """
    run = _nuclei_run(
        _nuclei_crops(0.7, 1.5),
        changed(_NUCLEI_TILES, {"diameter": 48.0, "instance_threshold": 0.85}),
        "runs/nuclei-middle/model.safetensors",
        "runs/nuclei-late",
        5500,
        interval=5500,
    )
    return changed(run, {"seed": 1, "evaluation.choose_threshold": False})


def nuclei_end() -> RunConfig:
    """Fourth part of the training of ``nuclei``: 3,000 steps on real and drawn images, from ``nuclei-late``.

    Of the images shown, 70 percent are real. Those of tissue and bright fields, which are few, are shown twice as often
    as the others. Expects the files of ``nuclei-start`` and of ``drawn-cells``; for other paths, edit data.dataset.
    Measured, before drawn cells could stand in rows: AP 57.0, AP50 84.8 and pooled AP 75.9 at IoU 0.5 on 71 validation
    images, after 57 minutes on one core (Intel Xeon with AMX, bf16); with ``min_area=0`` 56.6, 84.2 and 74.6, and with
    ``seed=2``, too, in bfloat16, 56.5, 84.5 and 73.1.
    """
    rare = MixedPart(
        dataset=changed(_NUCLEI, {"validation": ()}),
        select={"modality": ("histology_purple", "histology_pink", "brightfield_grey")},
        repeat=16,
        held_back=False,
    )
    drawn = MixedPart(dataset=changed(_DRAWN_CELLS, {"validation": ()}), held_back=False)
    changes = {
        "model.init": "runs/nuclei-late/model.safetensors",
        "model.inference.min_area": _SMALLEST_NUCLEUS,
        "data.dataset": MixedConfig(parts=(MixedPart(dataset=_NUCLEI, repeat=16), rare, drawn)),
        "data.augmentation.exposure": (0.15, 1.0),
        "optim.lr": 3e-4,
        "trainer.max_steps": 3000,
        "trainer.checkpoint_interval": 300,
        "evaluation.interval": 3000,
        "output": "runs/nuclei-end",
    }
    return changed(nuclei_late(), changes)


def nuclei_final() -> RunConfig:
    """Last part of the training of ``nuclei``: 3,000 steps more of the same, from ``nuclei-end``.

    Among the drawn cells, some now stand in rows, as in embryos. Measured: AP 57.9, AP50 86.6 and pooled AP 77.7 at IoU
    0.5 on 71 validation images, after 63 minutes on one core beside other work (AMD Zen 4, bf16); with ``seed=2`` 57.7,
    86.1 and 76.8.
    """
    return changed(nuclei_end(), {"model.init": "runs/nuclei-end/model.safetensors", "output": "runs/nuclei-final"})


def nuclei() -> RunConfig:
    """Trains the packaged model ``nuclei`` further, on the same data or on your own cells: edit data.dataset.

    The learning rate is low enough to keep what the model knows; ``mask2former check-data DATA --suggest RUN.yaml``
    also fits the length to the data. The packaged model itself was trained with ``nuclei-start``, ``nuclei-middle``,
    ``nuclei-late``, ``nuclei-end``, then ``nuclei-final``.
    """
    changes = {
        "model.init": "nuclei",
        "model.inference.min_area": _SMALLEST_NUCLEUS,
        "optim.lr": 2e-5,
        "optim.warmup_factor": 0.01,
        "trainer.max_steps": 1000,
        "evaluation.interval": 250,
        "output": "runs/nuclei",
        "seed": 0,
    }
    return changed(nuclei_late(), changes)


def _nuclei_crops(least: float, most: float) -> ResizeCropFlipConfig:
    return ResizeCropFlipConfig(
        scale_range=(least, most), diameter=40, flip="both", crop_size=(256, 256), pad_size=(256, 256), keep_lost=False
    )


def camvid() -> RunConfig:
    """Semantic segmentation of streets (CamVid, 11 classes, 360x480): 4,200 steps of four crops, from ``scenes-tiny``.

    Measured: mIoU 69.3, and 70.4 with ``seed=1``, on 101 validation images, after 71 minutes on one core (AMD Zen 4,
    bf16).

    Expects images, label maps (255: not labelled) and names.txt in camvid/ (see docs/results.md); for other paths,
    edit data.dataset. The images are for non-commercial use only, and so are models trained on them.
    """
    dataset = LabelFolderConfig(
        train=(LabelFolders(images="camvid/images/train", labels="camvid/labels/train"),),
        validation=(LabelFolders(images="camvid/images/val", labels="camvid/labels/val"),),
        names="camvid/names.txt",
    )
    augmentation = ResizeCropFlipConfig(
        scale_range=(0.8, 1.6), crop_size=(256, 320), pad_size=(256, 320), max_category_share=0.75
    )
    run = _small_run(
        _tiny_model(
            32, InferenceConfig(tasks=("semantic",), short_edge=0, long_edge=4096), "scenes-tiny", partial=True
        ),
        DataConfig(dataset=dataset, augmentation=augmentation, batch_size=4, num_workers=0),
        "runs/camvid",
        4200,
    )
    evaluation = EvaluationConfig(interval=1000, tasks=("semantic",), monitor="semantic/mIoU")
    return changed(run, {"criterion.void": "ignored", "evaluation": evaluation})


def camvid_all() -> RunConfig:
    """``camvid`` on training and validation images together: the same 4,200 steps, without validation.

    Meant for results on the test drives, which were used neither in training nor to choose its settings.
    """
    run = camvid()
    dataset = run.data.dataset
    assert isinstance(dataset, LabelFolderConfig)
    everything = (*dataset.train, *dataset.validation)
    changes = {"data.dataset.train": everything, "data.dataset.validation": (), "output": "runs/camvid-all"}
    return changed(run, changes)
