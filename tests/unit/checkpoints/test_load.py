"""Our own files: exact round trips, atomic writes, names, and one clear error for every wrong file; other files."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from conversions import small_model
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from mask2former import checkpoints
from mask2former.checkpoints import safetensors_files
from mask2former.checkpoints.convert import convert
from mask2former.checkpoints.describe import describe_checkpoint
from mask2former.checkpoints.formats import original
from mask2former.checkpoints.formats.huggingface import HUGGINGFACE
from mask2former.checkpoints.formats.openmmlab import MMDET, MMSEG
from mask2former.checkpoints.formats.sssegmentation import SSSEG
from mask2former.checkpoints.layouts import MODELS
from mask2former.checkpoints.rules import Layout, from_original
from mask2former.cli import main
from mask2former.config import RunConfig
from mask2former.errors import UserError
from mask2former.models.build import build_model
from mask2former.models.mask2former import Mask2Former
from mask2former.notes import collect_notes

SMALL = "Swin (width 8, blocks 1-2-1-1), 6 queries, 3 classes"


def equal(one: torch.nn.Module, other: torch.nn.Module) -> bool:
    first, second = one.state_dict(), other.state_dict()
    return first.keys() == second.keys() and all(
        value.dtype == second[name].dtype and torch.equal(value, second[name]) for name, value in first.items()
    )


@pytest.mark.parametrize("name", ["model.safetensors", "folder", "run-1.5", "deep/er/x.safetensors"])
def test_saved_models_return_exactly(tiny_model: Mask2Former, tmp_path: Path, name: str) -> None:
    tiny_model.save_pretrained(tmp_path / name)
    again = Mask2Former.from_pretrained(str(tmp_path / name))
    assert equal(tiny_model, again)
    assert again.info == tiny_model.info
    assert not again.training


def test_normalisation_returns_in_a_file_that_0_1_0_refuses(tiny_model: Mask2Former, tmp_path: Path) -> None:
    own = {"pixel_mean": (127.0, 127.0, 127.0), "pixel_std": (128.0, 128.0, 128.0)}
    info = tiny_model.info
    tiny_model.info = replace(info, architecture=info.known_architecture.model_copy(update=own))
    tiny_model.mean, tiny_model.std = own.values()
    path = tmp_path / "m.safetensors"
    tiny_model.save_pretrained(path)
    again = Mask2Former.from_pretrained(path)
    assert (again.mean, again.std) == (tiny_model.mean, tiny_model.std)
    assert again.info == tiny_model.info
    with safe_open(path, framework="pt") as file:
        assert file.metadata()["format_version"] == "2"
    assert "normalised with mean [127.0, 127.0, 127.0]" in describe_checkpoint(path)["backbone"]

    given = build_model(info.known_architecture, 3)
    with pytest.raises(UserError, match=r"normalised with mean \[127.*but the given model has \[123.675"):
        Mask2Former.from_pretrained(path, model=given)
    given.mean, given.std = own.values()
    assert Mask2Former.from_pretrained(path, model=given) is given


def test_loaded_model_computes_the_same(tiny_model: Mask2Former, tmp_path: Path) -> None:
    tiny_model.save_pretrained(tmp_path / "m.safetensors")
    image = torch.rand(3, 40, 50) * 255
    with torch.no_grad():
        one = tiny_model.eval()([image])
        other = Mask2Former.from_pretrained(tmp_path / "m.safetensors")([image])
    assert torch.equal(one.class_logits, other.class_logits)
    assert torch.equal(one.mask_logits, other.mask_logits)


def test_loading_leaves_the_random_state(tiny_model: Mask2Former, tmp_path: Path) -> None:
    tiny_model.save_pretrained(tmp_path / "m.safetensors")
    before = torch.get_rng_state()
    Mask2Former.from_pretrained(tmp_path / "m.safetensors")
    assert torch.equal(before, torch.get_rng_state())


def test_header_holds_the_facts(tiny_model: Mask2Former, tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    checkpoints.save(tiny_model, path, run=RunConfig(seed=3))
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
        names = set(file.keys())
    assert metadata["format"] == "mask2former"
    assert metadata["format_version"] == "1"
    assert not json.loads(metadata["config"]).keys() & {"init", "pixel_mean", "pixel_std"}
    assert not any("relative_position_index" in name or "criterion" in name for name in names)
    run = checkpoints.open_checkpoint(path).run
    assert run is not None
    assert run.seed == 3


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_stored_and_promoted(tiny_model: Mask2Former, tmp_path: Path, dtype: torch.dtype) -> None:
    checkpoints.save(tiny_model, tmp_path / "full.safetensors")
    checkpoints.save(tiny_model, tmp_path / "half.safetensors", dtype=dtype)
    assert (tmp_path / "half.safetensors").stat().st_size < 0.8 * (tmp_path / "full.safetensors").stat().st_size
    again = Mask2Former.from_pretrained(tmp_path / "half.safetensors")
    for name, value in tiny_model.state_dict().items():
        assert again.state_dict()[name].dtype == torch.float32
        assert torch.equal(again.state_dict()[name], value.to(dtype).float())


def test_values_beyond_half_precision_are_told(tiny_model: Mask2Former, tmp_path: Path) -> None:
    with torch.no_grad():
        tiny_model.transformer_decoder.get_parameter("norm.bias")[0] = 1e6
    with pytest.raises(UserError, match=r"entry 'transformer_decoder\.norm\.bias' has values beyond"):
        checkpoints.save(tiny_model, tmp_path / "m.safetensors", dtype=torch.float16)
    assert list(tmp_path.iterdir()) == []


def test_folder_has_a_card(tiny_model: Mask2Former, tmp_path: Path) -> None:
    tiny_model.save_pretrained(tmp_path / "hub")
    assert sorted(entry.name for entry in (tmp_path / "hub").iterdir()) == ["README.md", "model.safetensors"]
    card = (tmp_path / "hub" / "README.md").read_text(encoding="utf-8")
    assert "sky, cat, dog" in card
    assert "| tasks | panoptic |" in card


def test_files_are_readable_like_others(tiny_model: Mask2Former, tmp_path: Path) -> None:
    (tmp_path / "other").touch()
    tiny_model.save_pretrained(tmp_path / "m.safetensors")
    assert (tmp_path / "m.safetensors").stat().st_mode == (tmp_path / "other").stat().st_mode


def test_failed_write_keeps_the_old_file(
    tiny_model: Mask2Former, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "m.safetensors"
    tiny_model.save_pretrained(path)
    before = path.read_bytes()

    def fail(tensors: Any, name: Path, metadata: Any) -> None:
        name.write_bytes(b"half of it")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(safetensors_files, "save_file", fail)
    with pytest.raises(OSError, match="No space left on device"):  # not the user's error
        tiny_model.save_pretrained(path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_misshaped_entries_are_dropped_on_request_only(tiny_model: Mask2Former) -> None:
    state = {name: value + 1 for name, value in tiny_model.state_dict().items()}
    heads = ["transformer_decoder.class_head.bias", "transformer_decoder.class_head.weight"]
    kept = {name: tiny_model.state_dict()[name].clone() for name in heads}
    for name in heads:
        state[name] = state[name][:-1]
    with pytest.raises(UserError, match=r"there: .* 2 mis-shaped: .*class_head\.bias \(3,\) instead of \(4,\)"):
        checkpoints.load_into(tiny_model, state, "there")
    assert checkpoints.load_into(tiny_model, state, "there", drop_misshaped=True) == heads
    for name, value in tiny_model.state_dict().items():
        assert torch.equal(value, kept[name] if name in kept else state[name])


# --- faults ----------------------------------------------------------------------------------------------------------


def changed(key: str, value: str | None) -> Callable[[Path], None]:
    """A function that sets an entry in the header of a file, or deletes it if ``value`` is None."""

    def change(path: Path) -> None:
        with safe_open(path, framework="pt") as file:
            metadata = dict(file.metadata())
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        if value is None:
            del metadata[key]
        else:
            metadata[key] = value
        save_file(tensors, path, metadata)

    return change


def without_entry(path: Path) -> None:
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    del tensors["transformer_decoder.norm.bias"]
    save_file(tensors, path, metadata)


def as_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()
    (path / "weights.bin").touch()


def shorter(share: float) -> Callable[[Path], object]:
    return lambda path: path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])


FAULTS: dict[str, tuple[Callable[[Path], object], str]] = {
    "empty": (lambda path: path.write_bytes(b""), "is empty"),
    "run file": (lambda path: path.write_text("{}"), "is JSON or YAML, not weights"),
    "web page": (lambda path: path.write_text("\n<!DOCTYPE html><html>404</html>"), "is a web page"),
    "exported to ONNX": (lambda path: path.write_bytes(b"\x08\x0a\x12\x07pytorch" + bytes(50)), "is an exported model"),
    "ONNX of somebody else": (lambda path: path.write_bytes(b"\x08\x0a:7\n\x10" + bytes(50)), "is an exported model"),
    "exported to OpenVINO": (
        lambda path: path.write_text('<?xml version="1.0"?>\n<net name="a" version="11">'),
        "is an exported model",
    ),
    "lfs pointer": (lambda path: path.write_text("version https://git-lfs.github.com/spec/v1\n"), "Git LFS pointer"),
    "text": (lambda path: path.write_text("hello, I am no checkpoint"), "not a readable pickle or PyTorch file"),
    "image": (lambda path: path.write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(50)), "not a readable pickle"),
    "half a file": (shorter(0.5), "damaged safetensors file"),
    "half a header": (shorter(0.001), "damaged safetensors file"),
    "garbage header": (lambda path: path.write_bytes((90).to_bytes(8, "little") + b"{garbage" + bytes(200)), "damaged"),
    "huge header": (lambda path: path.write_bytes((1 << 39).to_bytes(8, "little") + b"{" + bytes(200)), "damaged"),
    "other safetensors": (lambda path: save_file({"a": torch.zeros(2)}, path, {"format": "pt"}), "none of the known"),
    "no metadata": (lambda path: save_file({"a": torch.zeros(2)}, path), "none of the known layouts"),
    "newer": (changed("format_version", "99"), "format version is '99'; this library reads up to 2"),
    "no version": (changed("format_version", None), "format version is ''"),
    "no config": (changed("config", None), "the 'config' of its header is missing"),
    "broken config": (changed("config", "{"), "the 'config' of its header is damaged"),
    "unknown key": (changed("config", '{"wings": 2}'), "config: unknown key 'wings'"),
    "list config": (changed("config", "[]"), "config: expected a mapping"),
    "no categories": (changed("categories", None), "the 'categories' of its header is missing"),
    "odd categories": (changed("categories", "[3]"), "categories: not a class table"),
    "other classes": (
        changed("categories", '{"categories": [{"id": 1, "name": "cat"}]}'),
        r"2 mis-shaped: transformer_decoder\.class_head\.bias \(4,\) instead of \(2,\)",
    ),
    "other model": (changed("config", "{}"), r"weights do not fit the model; \d+ missing: .* unexpected: "),
    "missing entry": (without_entry, r"1 missing: transformer_decoder\.norm\.bias$"),
    "folder": (
        as_folder,
        r"a folder must contain model\.safetensors, or config\.json beside weights; it contains weig",
    ),
    "pickle of a list": (lambda path: path.write_bytes(pickle.dumps([1])), "contains a list"),
    "pickle of code": (lambda path: path.write_bytes(b"cos\nsystem\n(S'true'\ntR."), r"refers to os\.system"),
    "gone": (lambda path: path.unlink(), "neither a file, a folder nor a known model"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_faults_get_one_sentence(tiny_model: Mask2Former, tmp_path: Path, fault: str) -> None:
    spoil, message = FAULTS[fault]
    path = tmp_path / "m.safetensors"
    tiny_model.save_pretrained(path)
    spoil(path)
    with pytest.raises(UserError, match=message) as caught:
        Mask2Former.from_pretrained(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_recipe_with_our_file_is_refused(tiny_model: Mask2Former, tmp_path: Path) -> None:
    tiny_model.save_pretrained(tmp_path / "m.safetensors")
    with pytest.raises(UserError, match="includes its own configuration; leave out recipe"):
        Mask2Former.from_pretrained(tmp_path / "m.safetensors", recipe="coco-panoptic/r50")


def test_packaged_models_are_found_by_name(
    tiny_model: Mask2Former, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "assets").mkdir()
    checkpoints.save(tiny_model, tmp_path / "assets" / "scenes-nano.safetensors")
    monkeypatch.setattr(checkpoints.resources, "files", lambda package: tmp_path)
    assert checkpoints.packaged_names() == ("scenes-nano",)
    assert equal(Mask2Former.from_pretrained("scenes-nano"), tiny_model)
    with pytest.raises(UserError, match="leave out recipe"):
        Mask2Former.from_pretrained("scenes-nano", recipe="coco-panoptic/r50")


def test_models_without_classes_cannot_be_saved(tiny_model: Mask2Former, tmp_path: Path) -> None:
    tiny_model.categories = None
    with pytest.raises(UserError, match="the model has no class names"):
        tiny_model.save_pretrained(tmp_path / "m.safetensors")


@pytest.mark.parametrize("name", ["model.onnx", "model.bin", "model.zip"])
def test_other_suffixes_are_told(tiny_model: Mask2Former, tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError, match=r"ending in \.safetensors, \.pkl or \.pth, or a folder"):
        tiny_model.save_pretrained(tmp_path / name)


def test_a_place_that_cannot_be_written_is_told(tiny_model: Mask2Former, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot write"):
        tiny_model.save_pretrained(tmp_path / "file" / "m.safetensors")


# --- values and metadata that no file may contain --------------------------------------------------------------------


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("half", [False, True])
def test_weights_that_are_not_finite_are_refused(
    tiny_model: Mask2Former, tmp_path: Path, value: float, half: bool
) -> None:
    path = tmp_path / "m.safetensors"
    checkpoints.save(tiny_model, path, dtype=torch.float16 if half else None)
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
        state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    for name in sorted(state)[:5]:
        state[name].view(-1)[-1] = value
    save_file(state, path, metadata)
    first = ", ".join(sorted(state)[:3])
    expected = rf"m\.safetensors: 5 of {len(state)} entries have values that are NaN or infinite \({first} and 2 more\)"
    with pytest.raises(UserError, match=expected):
        Mask2Former.from_pretrained(path)


@pytest.mark.parametrize("name", ["m.safetensors", "folder", "m.pkl"])
def test_weights_that_are_not_finite_are_not_written(tiny_model: Mask2Former, tmp_path: Path, name: str) -> None:
    with torch.no_grad():
        tiny_model.get_parameter("transformer_decoder.class_head.bias")[1] = float("nan")
    with pytest.raises(UserError, match=r"the model: 1 of \d+ entries have values that are NaN or infinite"):
        tiny_model.save_pretrained(tmp_path / name)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("fact", "value"), [("mean", (0.0, 0.0, 0.0)), ("std", (255.0, 255.0, 255.0)), ("size_divisibility", 64)]
)
@pytest.mark.parametrize("name", ["m.safetensors", "folder", "m.pth"])
def test_facts_that_a_file_does_not_carry_are_not_lost_silently(
    tiny_model: Mask2Former, tmp_path: Path, name: str, fact: str, value: Any
) -> None:
    setattr(tiny_model, fact, value)
    with pytest.raises(UserError, match=rf"the model has {fact} .*, which a checkpoint does not store"):
        tiny_model.save_pretrained(tmp_path / name)
    assert not list(tmp_path.iterdir())


SWITCHES: list[dict[str, Any]] = [
    {"attention": "full"}, {"attention": "mask_pool"}, {"scales": "s8"}, {"order": "self_first"},
    {"query_init": "zero"}, {"pre_norm": True}, {"pilots": 3},
]  # fmt: skip


@pytest.mark.parametrize("switches", SWITCHES, ids=str)
def test_the_original_layout_does_not_lose_switches_silently(
    tiny_model: Mask2Former, tmp_path: Path, switches: dict[str, Any]
) -> None:
    architecture = tiny_model.info.known_architecture
    decoder = architecture.transformer_decoder.model_copy(update=switches)
    changed = architecture.model_copy(update={"transformer_decoder": decoder})
    tiny_model.info = replace(tiny_model.info, architecture=changed)
    with pytest.raises(
        UserError, match=f"only our own format .* can store transformer_decoder.{next(iter(switches))}="
    ):
        tiny_model.save_pretrained(tmp_path / "m.pth")
    pixels = architecture.pixel_decoder.model_copy(update={"stages": (0, 0, 1)})
    tiny_model.info = replace(tiny_model.info, architecture=architecture.model_copy(update={"pixel_decoder": pixels}))
    with pytest.raises(UserError, match=r"only our own format .* can store pixel_decoder\.stages"):
        tiny_model.save_pretrained(tmp_path / "m.pkl")
    assert not list(tmp_path.iterdir())


def test_the_number_of_heads_that_the_original_layout_lacks_is_noted(tiny_model: Mask2Former, tmp_path: Path) -> None:
    with collect_notes() as notes:
        tiny_model.save_pretrained(tmp_path / "m.pth")
        small_model().save_pretrained(tmp_path / "usual.pth")
    assert [(str(tmp_path / "m.pth") in note.example, "has 4 (pixel decoder)" in note.message) for note in notes] == [
        (True, True)
    ]


def test_tied_weights_are_stored_under_each_name(tiny_model: Mask2Former, tmp_path: Path) -> None:
    names = [f"transformer_decoder.layers.{index}.linear1" for index in range(2)]
    weight = tiny_model.get_parameter(f"{names[0]}.weight")
    tiny_model.get_submodule(names[1]).register_parameter("weight", weight)
    tiny_model.save_pretrained(tmp_path / "m.safetensors")
    with torch.no_grad():
        wanted = weight.clone()
        weight.zero_()
    again = Mask2Former.from_pretrained(tmp_path / "m.safetensors", model=tiny_model)
    for name in names:
        assert torch.equal(again.get_parameter(f"{name}.weight"), wanted)


# --- files of other code bases ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def small() -> Mask2Former:
    """A small model with as many heads as published models, since most files do not state the number."""
    return small_model()


def published(model: Mask2Former, layout: Layout | None = None) -> dict[str, Tensor]:
    state = original.to_original(model)
    return dict(state if layout is None else from_original(layout, state))


def averaged(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The entries as torch and mmengine store averages of a model."""
    return {"n_averaged": torch.tensor(3), **{f"module.{name}": value for name, value in state.items()}}


@pytest.mark.parametrize(
    ("layout", "dtype"),
    [(None, torch.bfloat16), (HUGGINGFACE, torch.float16), *((layout, torch.float32) for layout in MODELS)],
    ids=lambda value: str(value) if isinstance(value, torch.dtype) else value.key if value else "original",
)
def test_every_layout_loads_as_it_is(
    small: Mask2Former, tmp_path: Path, layout: Layout | None, dtype: torch.dtype
) -> None:
    state = {
        name: value.to(dtype) if value.is_floating_point() else value
        for name, value in published(small, layout).items()
    }
    torch.save({"state_dict": state}, tmp_path / "theirs.pth")
    with collect_notes() as notes:
        model = Mask2Former.from_pretrained(tmp_path / "theirs.pth", tasks=["semantic", "panoptic"])
    assert (notes[0].message, notes[0].example) == (
        f"read as {'original' if layout is None else layout.title}, {SMALL}",
        f"'{tmp_path / 'theirs.pth'}'",
    )
    assert any("class names are not given" in note.message for note in notes)
    assert model.info.tasks == ("panoptic", "semantic")
    for name, value in small.state_dict().items():
        assert torch.equal(model.state_dict()[name], value.to(dtype).to(value.dtype)), name


@pytest.mark.parametrize(
    ("layout", "wrapped"),
    [
        (None, lambda state: {"state_dict": {f"model.{name}": value for name, value in state.items()}, "epoch": 3}),
        (
            MMSEG,
            lambda state: {
                "model": {f"module.{name}": value for name, value in state.items()},
                "optimizer": {"state": {}},
            },
        ),
        (HUGGINGFACE, lambda state: {f"net._orig_mod.{name}": value for name, value in state.items()}),
        (SSSEG, lambda state: {"checkpoint": {"weights": state}, "args": {"lr": 1.0}}),
        (None, lambda state: {"model_ema": averaged(state)}),
        (MMDET, lambda state: {"ema_state_dict": averaged(state), "message_hub": {}}),
    ],
    ids=["lightning", "distributed", "compiled", "deeper", "torch average", "mmengine average"],
)
def test_wrapped_weights_load(small: Mask2Former, tmp_path: Path, layout: Layout | None, wrapped: Any) -> None:
    torch.save(wrapped(published(small, layout)), tmp_path / "theirs.pth")
    assert equal(Mask2Former.from_pretrained(tmp_path / "theirs.pth", tasks="panoptic"), small)


def test_one_of_several_sets_of_weights_is_taken_and_said(
    small: Mask2Former, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, state = tmp_path / "theirs.pth", published(small, SSSEG)
    others = {name: value + 1 if value.is_floating_point() else value for name, value in state.items()}
    torch.save({"model": state, "model_ema": others}, path)
    with collect_notes() as notes:
        assert equal(Mask2Former.from_pretrained(path, tasks="semantic"), small)
    assert "several sets of weights: model is used, model_ema is not" in str(notes)
    other = Mask2Former.from_pretrained(path, tasks="semantic", weights="model_ema").state_dict()
    assert all(torch.equal(value + 1, other[name]) for name, value in small.state_dict().items())
    torch.save({"first": state, "second": others}, path)
    with pytest.raises(UserError, match=r"several sets of weights: first, second; specify one: weights$"):
        Mask2Former.from_pretrained(path, tasks="semantic")
    assert main(["inspect", str(path), "--task", "semantic"]) == 2
    assert capsys.readouterr().err.endswith("several sets of weights: first, second; specify one: --weights\n")
    assert main(["inspect", str(path), "--task", "semantic", "--weights", "third"]) == 2
    assert "--weights 'third': there is no such set; sets of weights are first, sec" in capsys.readouterr().err
    assert main(["inspect", str(path), "--task", "semantic", "--weights", "first"]) == 0
    assert "format            ssseg\n" in capsys.readouterr().out


def test_a_set_of_weights_is_not_looked_for_among_none(tmp_path: Path) -> None:
    torch.save({"model": {"a": torch.zeros(1)}, "model_ema": {"a": torch.zeros(1)}}, tmp_path / "m.pth")
    with pytest.raises(UserError, match="weights 'model': there is no such set; the file contains no weights with"):
        Mask2Former.from_pretrained(tmp_path / "m.pth", weights="model")


def test_files_with_one_set_of_weights_say_so(tiny_model: Mask2Former, tmp_path: Path) -> None:
    tiny_model.save_pretrained(tmp_path / "m.safetensors")
    for source in (tmp_path / "m.safetensors", "scenes-tiny"):
        with pytest.raises(UserError, match=r"contains one set of weights; leave out weights$"):
            Mask2Former.from_pretrained(source, weights="model")


def test_all_that_does_not_fit_is_one_report_in_the_names_of_the_file(small: Mask2Former, tmp_path: Path) -> None:
    state = {f"model.{name}": value for name, value in published(small, MMDET).items()}
    state["model.neck.weight"] = torch.zeros(1)
    del state["model.panoptic_head.transformer_decoder.post_norm.bias"]
    state["model.panoptic_head.level_embed.weight"] = torch.zeros(3, 7)
    torch.save({"state_dict": state}, tmp_path / "theirs.pth")
    with pytest.raises(UserError) as caught:
        Mask2Former.from_pretrained(tmp_path / "theirs.pth", tasks="instance")
    assert str(caught.value) == (
        f"{tmp_path / 'theirs.pth'}: the weights do not fit the model; 1 missing: "
        "model.panoptic_head.transformer_decoder.post_norm.bias; 1 unexpected: model.neck.weight; 1 mis-shaped: "
        "model.panoptic_head.level_embed.weight (3, 7) instead of (3, 32)"
    )


def test_a_backbone_alone_is_no_model(tiny_model: Mask2Former, tmp_path: Path) -> None:
    name = "backbone."
    state = {key[len(name) :]: value for key, value in published(tiny_model).items() if key.startswith(name)}
    torch.save({"model": state}, tmp_path / "swin.pth")
    with pytest.raises(UserError, match=r"a backbone alone; train a model from it: model\.init=.*swin\.pth$"):
        Mask2Former.from_pretrained(tmp_path / "swin.pth")


def test_names_of_ours_without_settings_are_told(tiny_model: Mask2Former, tmp_path: Path) -> None:
    torch.save(tiny_model.state_dict(), tmp_path / "m.pth")
    with pytest.raises(
        UserError, match="weights of a model of this library without its settings and classes; expected"
    ):
        Mask2Former.from_pretrained(tmp_path / "m.pth")


def test_what_a_model_was_trained_for_has_its_flag(
    small: Mask2Former, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, out = tmp_path / "theirs.pth", tmp_path / "out"
    torch.save({"state_dict": published(small, MMDET)}, path)
    Image.new("RGB", (64, 48)).save(tmp_path / "a.png")
    predict = ["predict", str(tmp_path / "a.png"), "--output", str(out), "--model", str(path)]
    assert main(predict) == 2
    assert "no published model fits; give --trained-for (panoptic, instance or semantic)" in capsys.readouterr().err
    assert main([*predict, "--trained-for", "instances"]) == 2
    assert "--trained-for instances: no such task; expected panoptic, instance, semantic" in capsys.readouterr().err
    assert main([*predict, "--trained-for", "instance,semantic", "--task", "semantic", "--short-edge", "64"]) == 0
    assert (out / "a_labels.png").exists()
    assert main(["inspect", str(path)]) == 2
    assert "give --task (panoptic" in capsys.readouterr().err


def test_parts_of_a_folder_of_transformers_name_the_folder(small: Mask2Former, tmp_path: Path) -> None:
    checkpoints.save_pretrained(small, tmp_path / "ours.safetensors")
    folder = convert(tmp_path / "ours.safetensors", tmp_path / "folder", "huggingface", verify=False).path
    assert Mask2Former.from_pretrained(folder).info == small.info
    with pytest.raises(UserError, match=rf"is part of a folder of transformers; give the folder, {folder}, whose"):
        Mask2Former.from_pretrained(folder / "model.safetensors", tasks="panoptic")
    checkpoints.save_pretrained(small, tmp_path / "both")
    (tmp_path / "both" / "config.json").write_text("{}")  # what a hub adds
    assert Mask2Former.from_pretrained(tmp_path / "both").info == small.info
