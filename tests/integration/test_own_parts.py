"""A model with parts defined in this test is trained, resumed, saved, loaded, measured and used like any other."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from lightning import Callback
from runs import config_of, table
from safetensors import safe_open
from torch import Tensor, nn

from mask2former import Criterion, LossTerm, Mask2Former, Predictor, RunConfig, checkpoints, train
from mask2former.checkpoints.describe import describe_checkpoint
from mask2former.cli import main
from mask2former.data.datasets.scenes import Scenes
from mask2former.evaluation.cases import Cases, match_classes
from mask2former.evaluation.evaluate import evaluate_predictor
from mask2former.losses import Losses, MatchedDepth
from mask2former.models.build import build_model
from mask2former.models.pixel_decoders import PixelFeatures
from mask2former.notes import collect_notes
from mask2former.scenes import SCENE_CATEGORIES
from mask2former.structures import MaskOutput, Target
from mask2former.training.optim import learning_rate_factor, parameter_groups

pytestmark = pytest.mark.usefixtures("small_overlays")

DIM, QUERIES, CLASSES = 16, 6, len(SCENE_CATEGORIES)


class Pyramid(nn.Module):
    """A backbone: convolutions of stride 2."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, DIM, 4, 4)
        self.steps = nn.ModuleList(nn.Conv2d(DIM, DIM, 2, 2) for _ in range(3))

    def forward(self, images: Tensor) -> list[Tensor]:
        maps = [self.stem(images)]
        for step in self.steps:
            maps.append(step(F.relu(maps[-1])))
        return maps

    def no_weight_decay(self) -> list[str]:
        return ["stem.weight"]

    def learning_rate_multipliers(self) -> dict[str, float]:
        return {"steps": 0.5, "steps.2": 0.25}


class Sums(nn.Module):
    """A pixel decoder that adds up maps from the coarsest to the finest."""

    def forward(self, maps: list[Tensor]) -> PixelFeatures:
        found = [maps[3]]
        for finer in maps[2::-1]:
            found.append(finer + F.interpolate(found[-1], size=finer.shape[2:]))
        return PixelFeatures(found[3], found[:3])


class Pooled(nn.Module):
    """A transformer decoder in which each query attends to the mean of the coarsest map."""

    def __init__(self) -> None:
        super().__init__()
        self.queries = nn.Parameter(torch.randn(QUERIES, DIM))
        self.classes = nn.Linear(DIM, CLASSES + 1)

    def forward(self, features: PixelFeatures, num_frames: int = 1, *, aux_outputs: bool = True) -> MaskOutput:
        assert num_frames == 1
        queries = self.queries + features.multi_scale[0].mean((2, 3)).unsqueeze(1)
        masks = torch.einsum("bqc,bchw->bqhw", queries, features.mask_features).unsqueeze(2)
        return MaskOutput(self.classes(queries), masks, queries)


def area(matched: MatchedDepth) -> Tensor:
    """A loss term on the areas of masks."""
    logits, targets, _ = matched.sampled
    return (logits.sigmoid().mean(1) - targets.mean(1)).abs().sum() / matched.num_masks


def own_model(seed: int = 0) -> Mask2Former:
    torch.manual_seed(seed)
    return Mask2Former(Pyramid(), Sums(), Pooled())


def own_criterion() -> Criterion:
    return Criterion(CLASSES, num_points=64, terms=[LossTerm("loss_area", 2.0, area)])


def run_of(folder: Path, **changes: Any) -> RunConfig:
    return config_of(folder, **{"trainer__max_steps": 2, "evaluation__num_images": 1, **changes})


def own_data() -> dict[str, Any]:
    return {"train_data": Scenes(64, 5, 8), "validation_data": Scenes(64, 6_000_000, 2)}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("own") / "run"
    with torch.random.fork_rng():
        train(run_of(folder), model=own_model(), criterion=own_criterion(), **own_data())
    return folder


def test_it_trains_and_goes_on(finished: Path, tmp_path: Path) -> None:
    longer = tmp_path / "longer"
    model, start = own_model(), own_model()
    train(run_of(longer, trainer__max_steps=3), model=model, criterion=own_criterion(), **own_data())
    rows = table(longer)
    assert {"loss_area", "loss_ce"} <= rows[0].keys()
    assert rows[0]["loss"] == table(finished)[0]["loss"]
    assert not torch.equal(model.state_dict()["backbone.stem.weight"], start.state_dict()["backbone.stem.weight"])


def test_it_goes_on_with_the_same_objects_alone(finished: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(finished, tmp_path / "run"))
    assert (folder / "run.yaml").read_text().startswith("# Given in Python, whatever is below: model, ")
    with pytest.raises(ValueError, match=r"started in Python with model, train_data, validation_data, criterion; pass"):
        train(run_of(folder, trainer__max_steps=4), resume=True)
    assert main(["train", str(folder / "run.yaml"), "--resume", str(folder)]) == 2
    model = own_model(1)
    train(run_of(folder, trainer__max_steps=3), model=model, criterion=own_criterion(), **own_data(), resume=True)
    assert table(folder)[-1]["global_step"] == "3"
    again = Mask2Former.from_pretrained(folder / "model.safetensors", model=own_model(2))
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in model.state_dict().items())


def test_its_file_says_that_it_has_parts_of_its_own(finished: Path, tmp_path: Path) -> None:
    file = finished / "model.safetensors"
    with safe_open(file, framework="pt") as stream:
        assert '"architecture": null' in stream.metadata()["config"]
    with pytest.raises(ValueError, match=r"model with custom parts, which the file does not describe; build the"):
        Mask2Former.from_pretrained(file)
    model = Mask2Former.from_pretrained(file, model=own_model(3))
    assert model.info.architecture is None
    assert model.categories == SCENE_CATEGORIES
    assert model.info.inference.short_edge == 0
    model.save_pretrained(tmp_path / "again.safetensors")
    assert (tmp_path / "again.safetensors").read_bytes() == file.read_bytes()
    model.save_pretrained(tmp_path / "folder")
    assert "model=model" in (tmp_path / "folder" / "README.md").read_text()
    assert describe_checkpoint(file)["architecture"].startswith("your own parts")
    for name in ("model.pkl", "model.pth"):
        with pytest.raises(ValueError, match="no configuration describes"):
            checkpoints.save_pretrained(model, tmp_path / name)


def test_it_is_measured_and_predicts(finished: Path) -> None:
    predictor = Predictor.from_pretrained(finished / "model.safetensors", device="cpu", model=own_model(3), quiet=True)
    samples = Scenes(64, 6_000_000, 2)
    cases = Cases(samples, ("panoptic",), predictor.categories, match_classes(predictor.categories, samples.categories))
    report = evaluate_predictor(predictor, cases, ("panoptic",))
    measured = [row for row in table(finished) if row["panoptic/PQ"]]
    assert report.metrics["panoptic/PQ"] in [pytest.approx(float(row["panoptic/PQ"])) for row in measured]
    assert predictor(samples.image(0), "instance").masks.shape[1:] == (64, 64)
    assert len(list(predictor.track([samples.image(0)] * 2))) == 2


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"gradient_checkpointing": True},
            r"Pyramid does not support .*no method set_gradient_checkpointing\); switch it off",
        ),
        ({"precision": "bf16", "half_pixel_decoder": True}, r"pixel decoder Sums has no attribute full_precision"),
    ],
)
def test_abilities_that_a_part_lacks_are_refused(tmp_path: Path, settings: dict[str, Any], message: str) -> None:
    trainer = {"max_steps": 1, "accelerator": "cpu", **settings}
    with pytest.raises(ValueError, match=message):
        train(run_of(tmp_path / "run", trainer=trainer), model=own_model())
    assert not (tmp_path / "run" / "run.yaml").exists()


@pytest.mark.parametrize(
    ("objects", "message"),
    [
        ({"train_data": Scenes(64, 5, 8)}, "train_data was given without validation_data"),
        ({"criterion": nn.Linear(1, 1)}, "the criterion Linear has parameters"),
    ],
)
def test_objects_that_cannot_be_trained_with(tmp_path: Path, objects: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        train(run_of(tmp_path / "run"), **objects)


def test_a_model_that_could_not_be_loaded_again_is_not_trained(tmp_path: Path) -> None:
    model = build_model(run_of(tmp_path).model, CLASSES)
    model.depth_head = nn.Linear(DIM, 1)
    with pytest.raises(
        ValueError, match=r"2 unexpected: depth_head\.bias, depth_head\.weight\); set .*architecture=None"
    ):
        train(run_of(tmp_path / "run"), model=model, **own_data())
    assert not (tmp_path / "run" / "run.yaml").exists()


def test_rates_of_parts_that_are_not_there_are_refused() -> None:
    model = own_model()
    rates = {"step": 0.5}
    model.backbone.learning_rate_multipliers = lambda: rates  # pyright: ignore
    with pytest.raises(ValueError, match=r"of the backbone names 'step', which it does not have; expected .*steps"):
        parameter_groups(model, run_of(Path("run")).optim)


def test_decay_of_parameters_that_are_not_there_is_noted() -> None:
    model = own_model()
    model.backbone.no_weight_decay = lambda: ["stem.weight", "dist_token"]  # pyright: ignore
    with collect_notes() as notes:
        groups = parameter_groups(model, run_of(Path("run")).optim)
    assert [example for _, example in notes] == ["'dist_token' of the backbone"]
    assert [group["weight_decay"] for group in groups if "backbone.stem.weight" in group["names"]] == [0.0]


def test_the_rate_of_a_layer_is_not_that_of_others_whose_names_begin_alike() -> None:
    model = own_model()
    model.pixel_decoder.blocks = nn.ModuleList(nn.Linear(1, 1) for _ in range(11))
    model.pixel_decoder.learning_rate_multipliers = lambda: {"blocks.1": 0.5, "blocks.2.weight": 0.25}  # pyright: ignore
    settings = {
        name.removeprefix("pixel_decoder.blocks."): group["lr_multiplier"]
        for group in parameter_groups(model, run_of(Path("run")).optim)
        for name in group["names"]
    }
    assert (settings["1.weight"], settings["1.bias"], settings["2.weight"]) == (0.5, 0.5, 0.25)
    assert settings["2.bias"] == settings["10.weight"] == settings["10.bias"] == 1


class Falling(Callback):
    def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: torch.optim.Optimizer) -> None:
        for group in optimizer.param_groups:
            group["lr"] = 0.5 ** (trainer.global_step + 1) * group["lr_multiplier"]


def test_the_rate_that_a_callback_sets_is_logged(finished: Path, tmp_path: Path) -> None:
    config = run_of(tmp_path / "run")
    train(config, model=own_model(), criterion=own_criterion(), **own_data(), callbacks=[Falling()])
    assert [float(row["learning_rate"]) for row in table(tmp_path / "run") if row["learning_rate"]] == [0.5, 0.25]
    usual = [float(row["learning_rate"]) for row in table(finished) if row["learning_rate"]]
    scheduled = [config.optim.lr * learning_rate_factor(step, 2, config.optim) for step in range(2)]
    assert usual == torch.tensor(scheduled).tolist()  # metrics are logged in single precision


class _SeenError(Exception):
    """Ends a training, with what its criterion received."""


class Watching(Criterion):
    def forward(
        self, output: MaskOutput, targets: Sequence[Target], uniform: Any = None, num_masks: float | None = None
    ) -> Losses:
        raise _SeenError(output.padded_size, *(tuple(target.masks.shape[-2:]) for target in targets))


@pytest.mark.parametrize("step", [1, 64])
def test_targets_are_padded_as_the_model_pads(tmp_path: Path, step: int) -> None:
    scenes = {"name": "scenes", "image_size": [72, 100], "num_training": 2, "num_validation": 1}
    data = {"dataset": scenes, "batch_size": 1, "num_workers": 0, "augmentation": {"name": "none"}}
    config = config_of(tmp_path / "run", data=data)
    model = build_model(config.model, len(SCENE_CATEGORIES))
    model.categories, model.size_divisibility = SCENE_CATEGORIES, step
    model.info = replace(model.info, architecture=None)
    with pytest.raises(_SeenError) as seen:
        train(config, model=model, criterion=Watching(len(SCENE_CATEGORIES)))
    padded, *targets = seen.value.args
    assert padded == ((72, 100) if step == 1 else (128, 128))
    assert set(targets) == {padded}


def test_parts_choose_decay_and_rates() -> None:
    config = run_of(Path("run")).optim
    settings = {
        name: (group["weight_decay"], group["lr_multiplier"])
        for group in parameter_groups(own_model(), config)
        for name in group["names"]
    }
    assert settings["backbone.stem.weight"] == (0.0, 1.0)
    assert settings["backbone.stem.bias"] == (config.weight_decay, 1.0)
    assert settings["backbone.steps.0.weight"] == (config.weight_decay, 0.5)
    assert settings["backbone.steps.2.weight"] == (config.weight_decay, 0.25)
    assert settings["transformer_decoder.queries"] == (config.weight_decay, 1.0)
