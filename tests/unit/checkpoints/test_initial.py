"""Initial models of training by name, and the settings that they provide."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from conversions import small_model
from safetensors.torch import save_file

from mask2former.checkpoints import Checkpoint, initial, restricted_pickle, save
from mask2former.checkpoints.convert import convert
from mask2former.checkpoints.formats import original
from mask2former.checkpoints.formats.backbones import Backbone, save_backbone, start_from_backbone
from mask2former.checkpoints.initial import completed_model, named_backbone, open_initial, with_initial
from mask2former.checkpoints.normalisation import IMAGENET, Normalisation
from mask2former.config import ModelConfig, SwinConfig, TimmConfig, parse
from mask2former.errors import UserError
from mask2former.structures import ModelInfo

CONFIG = TimmConfig(model="resnet10t", kwargs={"channels": [8, 16, 24, 32]})
HALF = Normalisation((127.5, 127.5, 127.5), (127.5, 127.5, 127.5))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a timm model, laid out as on the hub."""
    path = tmp_path_factory.mktemp("resnet10t")
    save_file(timm.create_model(CONFIG.model, **CONFIG.kwargs).state_dict(), path / "model.safetensors")
    values = {"architecture": CONFIG.model, "model_args": CONFIG.kwargs,
              "pretrained_cfg": {"mean": [0.5] * 3, "std": [0.5] * 3, "license": "cc-by-nc-4.0"}}  # fmt: skip
    (path / "config.json").write_text(json.dumps(values))
    return path


@pytest.fixture
def hub(folder: Path, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str | None]]:
    """Fetching any repository returns ``folder``; the value lists the repositories and revisions fetched."""
    fetched: list[tuple[str, str | None]] = []

    def fetch(repository: str, revision: str | None = None) -> Path:
        fetched.append((repository, revision))
        return folder

    monkeypatch.setattr(initial, "fetch_folder", fetch)
    return fetched


def opened(source: object, backbone: TimmConfig | None = None) -> Backbone:
    found = open_initial(str(source), backbone)
    assert isinstance(found, Backbone)
    return found


@pytest.mark.parametrize(
    ("source", "fetched"),
    [
        ("timm/resnet10t.c3_in1k", ("timm/resnet10t.c3_in1k", None)),
        ("hf://timm/resnet10t.c3_in1k", ("timm/resnet10t.c3_in1k", None)),
        ("timm/resnet10t.c3_in1k@v1", ("timm/resnet10t.c3_in1k", "v1")),
        ("hf://me/mine", ("me/mine", None)),
    ],
)
def test_a_model_of_timm_is_fetched_by_its_name(hub: list[object], source: str, fetched: object) -> None:
    backbone = opened(source)
    assert hub == [fetched]
    assert backbone.config == CONFIG
    assert (backbone.normalisations, backbone.says_normalisation) == ((HALF,), True)


def test_a_name_without_its_training_is_told_which_there_are(hub: list[object]) -> None:
    with pytest.raises(
        UserError, match=r"does not say which weights are meant; timm has for it: timm/resnet18\.\w+, timm/resn"
    ):
        open_initial("timm/resnet18")
    assert not hub


def test_offline_one_sentence_says_what_to_fetch_and_how_to_give_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MASK2FORMER_OFFLINE", "1")
    what = r"config\.json and model\.safetensors of https://huggingface\.co/timm/convnext_atto\.d2_in1k"
    with pytest.raises(UserError, match=rf"in the hub's cache and offline mode is on.*{what}; then model\.init=FOLDER"):
        open_initial("timm/convnext_atto.d2_in1k")


def test_a_file_alone_needs_the_name_of_its_model(folder: Path, tmp_path: Path) -> None:
    file = tmp_path / "weights.safetensors"
    file.write_bytes((folder / "model.safetensors").read_bytes())
    save_file({"a.weight": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(UserError, match=r"none of the known layouts.*init=FILE model\.backbone=\{name: timm, model: N"):
        open_initial(str(tmp_path / "other.safetensors"))
    assert opened(file, CONFIG).says_normalisation  # timm has only one for this model
    assert opened(folder / "model.safetensors").normalisations == (HALF,)  # config.json is beside it
    with pytest.raises(UserError, match="do not fit timm's convnext_atto"):
        open_initial(str(tmp_path / "other.safetensors"), TimmConfig(model="convnext_atto"))


def test_the_configuration_beside_a_file_counts_for_every_reader(folder: Path, tmp_path: Path) -> None:
    """``convert`` reads it as training does, so that it need not assume a normalisation."""
    convert(folder / "model.safetensors", tmp_path / "backbone.safetensors")
    assert opened(tmp_path / "backbone.safetensors").normalisations == (HALF,)


def test_a_configuration_beside_a_file_that_is_for_other_weights_is_named(tmp_path: Path) -> None:
    torch.save(timm.create_model("resnet18").state_dict(), tmp_path / "resnet18.pth")
    (tmp_path / "config.json").write_text('{"architecture": "resnet10t"}')
    message = r"do not fit timm's resnet10t; .* \(.*config\.json counts; move it away if it belongs to other weights\)"
    with pytest.raises(UserError, match=message):
        convert(tmp_path / "resnet18.pth", tmp_path / "backbone.safetensors")


def test_a_converted_backbone_is_not_converted_again(folder: Path, tmp_path: Path) -> None:
    """Nothing would be checked: whether it is complete is known when a model starts from it."""
    save_backbone(opened(folder), tmp_path / "backbone.safetensors")
    with pytest.raises(UserError, match=r"a backbone alone, converted already; train a model from it: model\.init="):
        convert(tmp_path / "backbone.safetensors", tmp_path / "again.safetensors")
    assert not (tmp_path / "again.safetensors").exists()


def test_which_of_several_sets_of_weights_becomes_the_backbone_is_said(tmp_path: Path) -> None:
    state = timm.create_model("resnet18").state_dict()
    torch.save({"model": state, "model_ema": {**state}}, tmp_path / "resnet18.pth")
    [phrase] = [note for note in opened(tmp_path / "resnet18.pth").notes if "several sets" in note]
    assert phrase == "it contains several sets of weights: model is used, model_ema is not"


def test_a_whole_model_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reads: list[Path] = []
    torch.save(original.to_original(small_model()), tmp_path / "model.pth")
    plain = restricted_pickle.read_state
    monkeypatch.setattr(
        restricted_pickle, "read_state", lambda path, *others: reads.append(path) or plain(path, *others)
    )
    with pytest.raises(UserError, match="does not say what it was trained for"):  # convert has the options for it
        open_initial(str(tmp_path / "model.pth"))
    assert reads == [tmp_path / "model.pth"]


def test_whole_models_and_converted_backbones_are_told_apart(folder: Path, tmp_path: Path) -> None:
    save_backbone(opened(folder), tmp_path / "backbone.safetensors")
    again = opened(tmp_path / "backbone.safetensors")
    assert (again.config, again.normalisations, again.says_normalisation) == (CONFIG, (HALF,), True)
    model = small_model(CONFIG)
    model.mean = model.std = HALF.pixel_mean
    assert "the weights are licensed cc-by-nc-4.0" in start_from_backbone(model, again, "it")
    assert model.info.license == "cc-by-nc-4.0"
    save(small_model(), tmp_path / "model.safetensors")
    assert isinstance(open_initial(str(tmp_path / "model.safetensors")), Checkpoint)
    assert isinstance(open_initial("scenes-tiny"), Checkpoint)
    with pytest.raises(UserError, match="neither a file, a folder nor a known model"):
        open_initial(str(tmp_path / "nothing.safetensors"))


@pytest.mark.parametrize(
    ("own", "expected"),
    [
        ({}, CONFIG),
        ({"backbone": {"norm": "batch"}}, CONFIG.model_copy(update={"norm": "batch"})),
        ({"backbone": {"name": "timm", "model": "resnet10t.c3_in1k"}}, None),
    ],
    ids=str,
)
def test_backbone_and_normalisation_follow_from_it(folder: Path, own: dict[str, Any], expected: object) -> None:
    named = own.get("backbone", {}).get("model")
    source = opened(folder, None if named is None else TimmConfig(model=named, kwargs=CONFIG.kwargs))
    completed = completed_model(own, source, "it")
    model = parse(ModelConfig, completed, "test")
    assert model.backbone == expected or expected is None
    assert with_initial(parse(ModelConfig, completed, "test"), source, "it") == model
    assert Normalisation.of(model) == HALF
    assert with_initial(ModelConfig(), source, "it").backbone == source.config


def test_what_the_run_says_otherwise_is_refused(folder: Path) -> None:
    with pytest.raises(
        UserError, match=r"it does not fit: images are normalised with mean \[0.0, .* in the run, but with"
    ):
        with_initial(ModelConfig(pixel_mean=(0.0, 0.0, 0.0)), opened(folder), "it")
    with pytest.raises(UserError, match=r"for timm's resnet10t, but model\.backbone\.model is resnet18; leave"):
        open_initial(str(folder), TimmConfig(model="resnet18"))
    swin = with_initial(ModelConfig(backbone=SwinConfig()), opened(folder), "it")
    assert swin.backbone == SwinConfig()  # loading will say that it does not fit


def test_another_number_of_channels_is_a_choice_of_the_run(folder: Path) -> None:
    """A backbone for another number of channels is refused with the setting to change, unless init_channels is set."""
    backbone = opened(folder)
    four = ModelConfig(pixel_mean=(1.0,) * 4, pixel_std=(2.0,) * 4)
    source = Checkpoint(ModelInfo.of(four), {}, "it")
    run = ModelConfig(init="it", init_partial=True, init_backbone="r10")
    with pytest.raises(UserError, match=r"it expects images of 4 channels, but the backbone of r10 expects 3; set"):
        with_initial(run, source, "it", backbone)
    named = four.model_copy(update=run.model_dump(exclude_unset=True))
    with pytest.raises(UserError, match=r"r10 expects images of 3 channels but the run has 4 .*init_channels=repeat"):
        with_initial(named, source, "it", backbone)
    repeated = named.model_copy(update={"init_channels": "repeat"})
    assert with_initial(repeated, source, "it", backbone).channels == 4


def test_where_nothing_says_the_normalisation_the_run_does() -> None:
    source = Backbone(TimmConfig(model="resnet34"), {}, normalisations=(HALF, IMAGENET))
    with pytest.raises(UserError, match=r"resnet34 \(timm has some with mean \[127.5.*set model\.pixel_mean"):
        with_initial(ModelConfig(), source, "it")
    model = ModelConfig(pixel_mean=(127.5, 127.5, 127.5), pixel_std=(127.5, 127.5, 127.5))
    assert Normalisation.of(with_initial(model, source, "it")) == HALF
    usual = Backbone(TimmConfig(model="resnet34"), {})  # as in files of torchvision, which never state it
    assert Normalisation.of(with_initial(ModelConfig(), usual, "it")) == IMAGENET
    assert Normalisation.of(with_initial(model, usual, "it")) == HALF


def test_the_backbone_of_a_run_is_known_where_it_names_one() -> None:
    assert named_backbone(ModelConfig()) is None
    assert named_backbone(ModelConfig(backbone=SwinConfig())) is None
    assert named_backbone(ModelConfig(backbone=TimmConfig(norm="batch"))) is None
    assert named_backbone(ModelConfig(backbone=CONFIG)) == CONFIG


def test_a_whole_model_without_settings_is_no_backbone_of_the_run(tmp_path: Path) -> None:
    torch.save(
        {"backbone.a": torch.zeros(1), "transformer_decoder.class_head.weight": torch.zeros(1)}, tmp_path / "a.pth"
    )
    for backbone in (None, CONFIG):
        with pytest.raises(UserError, match="of a model of this library without its settings and classes"):
            open_initial(str(tmp_path / "a.pth"), backbone)
