"""Run files and checkpoints with false claims about models: no code, no other file, no network, no excessive memory."""

from __future__ import annotations

import json
import os
import struct
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from mask2former import checkpoints, limits
from mask2former.checkpoints import average as averaging
from mask2former.checkpoints.convert import convert
from mask2former.checkpoints.describe import describe_checkpoint
from mask2former.checkpoints.formats.backbones import Backbone, save_backbone
from mask2former.checkpoints.formats.openmmlab import edges_of
from mask2former.checkpoints.initial import completed_model, open_initial
from mask2former.checkpoints.load import read
from mask2former.config import ModelConfig, parse
from mask2former.errors import UserError
from mask2former.models.build import build_model
from mask2former.structures import Categories

SMALL: dict[str, Any] = {
    "backbone": {"name": "swin", "embed_dim": 4, "depths": [1, 1, 1, 1], "num_heads": [1, 1, 1, 1], "window_size": 2},
    "pixel_decoder": {"dim": 32, "mask_dim": 4, "num_layers": 1, "feedforward_dim": 4},
    "transformer_decoder": {"dim": 32, "num_queries": 2, "num_layers": 1, "feedforward_dim": 4},
}
TIMM = {"name": "timm", "model": "resnet18"}


def small_model() -> Any:
    torch.manual_seed(0)
    model = build_model(parse(ModelConfig, SMALL, "small"), 2)
    model.categories = Categories.from_names(["sky", "cat"], things=["cat"])
    return model


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("ours") / "ours.safetensors"
    checkpoints.save_pretrained(small_model(), path)
    return path


@pytest.fixture(scope="module")
def folder(ours: Path) -> Path:
    return convert(ours, ours.with_name("folder"), "huggingface", verify=False).path


def with_header(source: Path, path: Path, change: Callable[[dict[str, Any]], object]) -> Path:
    """A copy of a file with a changed header."""
    data = source.read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    change(header)
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data[8 + length :])
    return path


def with_config(source: Path, path: Path, config: object) -> Path:
    return with_header(source, path, lambda header: header["__metadata__"].update(config=json.dumps(config)))


# --- arguments of timm -----------------------------------------------------------------------------------------------

EVIL = "evil.pth"
NAMES: list[str] = [
    "hf-hub:somebody/something", "hf_hub:somebody/something", "local-dir:/tmp/x", "file:///tmp/evil.pth",
    "timm/resnet18", "../evil", "/tmp/evil.pth", "resnet18\nx", "resnet18\x00", "", "x" * 5000, "\x1b[2J",
    "https://127.0.0.1/x", "a\\b",
]  # fmt: skip
ARGUMENTS: list[dict[str, Any]] = [
    {"pretrained": True},
    {"checkpoint_path": EVIL},
    {"pretrained_cfg": {"file": EVIL}},
    {"pretrained_cfg": {"url": "http://127.0.0.1:9/x"}},
    {"pretrained_cfg": {"hf_hub_id": "somebody/something"}},
    {"pretrained_cfg": "a1_in1k"},
    {"pretrained_cfg_overlay": {"state_dict": {}}},
    {"pretrained_strict": False},
    {"pretrained_filter_fn": "os.system"},
    {"pretrained_model_args": {}},
    {"cache_dir": "/tmp"},
    {"pruned": True},
    {"features_only": False},
    {"feature_cls": "fx"},
    {"feature_cfg": {"feature_cls": "fx"}},
    {"out_indices": [0]},
    {"output_fmt": "NHWC"},
    {"in_chans": 1},
    {"num_classes": 3},
    {"global_pool": "avg"},
    {"scriptable": True},
    {"exportable": True},
    {"no_jit": True},
    {"device": "cuda"},
    {"dtype": "float16"},
    {"kwargs_filter": ["x"]},
    {"model_cfg": {}},
    # inside of others, and under names that timm may have one day
    {"model_args": {"checkpoint_path": "evil"}},
    {"block_args": [{"pretrained": True}]},
    {"attn_kwargs": {"inner": {"pretrained_cfg": {}}}},
    {"weights": EVIL},
    {"weights_path": "/tmp/evil"},
    {"source": "http:evil"},
    {"init_from": "..\\evil"},
    {"attn_layer": "os.system"},
    {"attn_layer": "torch.hub.load_state_dict_from_url"},
    {"act_layer": "evil:main"},
    {"norm_layer": "!!python/name:os.system"},
    {"block_fn": "__import__('os')"},
    {"norm_layer": "x" * 1000},
    {"act_layer": "\x1b]0;owned\x07"},
    # not plain values
    {"attn_layer": os.system},
    {"norm_layer": torch.nn.LayerNorm},
    {"act_layer": b"relu"},
    {"img_size": {1: 2}},
    {"img_size": {None: 2}},
    {"layers": {3, 4}},
    # sizes
    {"channels": [1 << 40] * 4},
    {"layers": [10**9] * 4},
    {"layers": [65536] * 4},
    {"base_width": 10**300},
    {"base_width": 1e300},
    {"base_width": float("inf")},
    {"base_width": float("nan")},
    {"base_width": -(1 << 60)},
    {"layers": [[[[1 << 17]]]]},
    {"layers": [[[[[[1]]]]]]},
    {"layers": [float("inf")]},
    {"depths": [float("nan")] * 4},
    {"layers": [1] * 2000},
    {str(number): 1 for number in range(2000)},
]


def deep(levels: int) -> Any:
    value: Any = 1
    for _ in range(levels):
        value = [value]
    return value


def backbones() -> list[dict[str, Any]]:
    named = [{"name": "timm", "model": name} for name in NAMES]
    argued = [{**TIMM, "kwargs": kwargs} for kwargs in [*ARGUMENTS, {"layers": deep(900)}]]
    return named + argued


def without_files(action: Callable[[], object]) -> list[str]:
    """Run an action and list which "evil" files it opened, and its uses of the network or of other processes."""
    import timm  # noqa: F401 (its own files)

    seen: list[str] = []
    forbidden = ("subprocess.Popen", "os.system", "socket.connect", "socket.getaddrinfo", "os.posix_spawn")
    is_over = False

    def hook(event: str, args: tuple[Any, ...]) -> None:
        if is_over:
            return
        if event in forbidden or (event == "open" and "evil" in str(args[0])):
            seen.append(f"{event} {args}")

    sys.addaudithook(hook)  # permanent, but this process ends soon
    try:
        action()
    finally:
        is_over = True
    return seen


def test_backbones_of_runs(tmp_path: Path, limited: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path(EVIL).write_bytes(b"evil")
    Path("evil").write_bytes(b"evil")

    def try_all() -> None:
        for backbone in backbones():
            with pytest.raises(UserError) as caught:
                build_model(parse(ModelConfig, {**SMALL, "backbone": backbone}, "run.yaml"), 2)
            assert len(str(caught.value)) < 500, backbone
            assert str(caught.value).isprintable(), backbone

    outcome = limited(lambda: without_files(try_all), seconds=60, megabytes=1500)
    assert outcome[:2] == ("returned", "[]"), outcome


@pytest.mark.long
def test_backbones_of_checkpoints(
    ours: Path, folder: Path, tmp_path: Path, limited: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Hostile backbones in our files and in folders of transformers are refused without opening or running anything."""
    monkeypatch.chdir(tmp_path)
    Path(EVIL).write_bytes(b"evil")
    config = json.loads((folder / "config.json").read_text())
    twin = tmp_path / "twin"
    twin.mkdir()
    for name in ("model.safetensors", "preprocessor_config.json"):
        (twin / name).write_bytes((folder / name).read_bytes())

    def refused(reader: Callable[[Path], object], path: Path) -> None:
        with pytest.raises(UserError) as caught:
            reader(path)
        assert len(str(caught.value).replace(str(path), "")) < 700, str(caught.value)
        assert str(caught.value).isprintable()

    def try_all() -> None:
        for backbone in backbones():
            try:
                changed = {**SMALL, "backbone": backbone}
                path = with_config(ours, tmp_path / "changed.safetensors", changed)
                config["mask2former"]["config"] = changed
                (twin / "config.json").write_text(json.dumps(config))
            except TypeError:  # functions are not written in JSON
                continue
            for reader in (checkpoints.from_pretrained, describe_checkpoint):
                refused(reader, path)
            refused(read, twin)

    outcome = limited(lambda: without_files(try_all), seconds=60, megabytes=1500)
    assert outcome[:2] == ("returned", "[]"), outcome


@pytest.mark.long
def test_backbones_of_backbone_files(tmp_path: Path, limited: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files of a backbone with a hostile one in the header: nothing else is opened or run, and no model is built."""
    monkeypatch.chdir(tmp_path)
    Path(EVIL).write_bytes(b"evil")
    state = {name: value for name, value in small_model().state_dict().items() if name.startswith("backbone.")}
    save_backbone(Backbone(parse(ModelConfig, SMALL, "small").backbone, state), tmp_path / "good.safetensors")

    def build_from(path: Path) -> None:
        others = {name: part for name, part in SMALL.items() if name != "backbone"}
        values = completed_model(others, open_initial(str(path)), str(path))
        build_model(parse(ModelConfig, values, "run.yaml"), 2)

    def try_some() -> None:
        build_from(tmp_path / "good.safetensors")
        for backbone in backbones()[::6]:  # all of them are tried above, and are built by the same code
            try:
                text = json.dumps(backbone)
            except TypeError:  # functions are not written in JSON
                continue
            path = with_header(
                tmp_path / "good.safetensors",
                tmp_path / "changed.safetensors",
                lambda header, text=text: header["__metadata__"].update(backbone=text),
            )
            with pytest.raises(UserError) as caught:
                build_from(path)
            assert len(str(caught.value).replace(str(path), "")) < 700, str(caught.value)
            assert str(caught.value).isprintable()

    outcome = limited(lambda: without_files(try_some), seconds=60, megabytes=1500)
    assert outcome[:2] == ("returned", "[]"), outcome


# --- sizes -----------------------------------------------------------------------------------------------------------

HUGE = 1 << 40
SIZES: list[dict[str, Any]] = [
    {"transformer_decoder": {"num_queries": 10**9}},
    {"transformer_decoder": {"num_queries": 10**300}},
    {"transformer_decoder": {"num_layers": 4000}},
    {"transformer_decoder": {"num_layers": HUGE}},
    {"transformer_decoder": {"feedforward_dim": HUGE}},
    {"transformer_decoder": {"dim": HUGE}, "pixel_decoder": {"dim": HUGE}},
    {"transformer_decoder": {"dim": 1 << 16}, "pixel_decoder": {"dim": 1 << 16}},
    {"pixel_decoder": {"mask_dim": HUGE}},
    {"pixel_decoder": {"num_layers": 4000}},
    {"pixel_decoder": {"num_points": HUGE}},
    {"pixel_decoder": {"feedforward_dim": 1 << 33}},
    {"backbone": {"embed_dim": HUGE}},
    {"backbone": {"embed_dim": 1 << 14}},
    {"backbone": {"depths": [1, 1, 4000, 1]}},
    {"backbone": {"depths": [HUGE] * 4}},
    {"backbone": {"window_size": 200}},
    {"backbone": {"window_size": HUGE}},
    {"backbone": {"name": "timm", "model": "eva02_enormous_patch14_clip_224"}},
    {"backbone": {"name": "timm", "model": "vit_7b_patch16_dinov3"}},
    {"backbone": {"name": "timm", "model": "vit_base_patch16_224", "kwargs": {"img_size": 65536}}},
    {"backbone": {"name": "timm", "model": "resnet18", "kwargs": {"channels": [60000] * 4}}},
    {"backbone": {"name": "timm", "model": "convnext_tiny", "kwargs": {"dims": [60000] * 4}}},
]


def claimed(sizes: dict[str, Any]) -> dict[str, Any]:
    config = {**SMALL}
    for part, values in sizes.items():
        config[part] = values if "name" in values else {**SMALL[part], **values}
    return config


# Slow: thousands of blocks, which are counted until they are too many; a smaller limit is below.
MANY_BLOCKS = [
    {"backbone": {"name": "timm", "model": "resnet18", "kwargs": {"layers": [4000, 1, 1, 1]}}},
    {"backbone": {"name": "timm", "model": "vit_base_patch16_224", "kwargs": {"depth": 4000}}},
]


@pytest.mark.parametrize(
    "sizes",
    [*SIZES, *(pytest.param(sizes, marks=pytest.mark.slow) for sizes in MANY_BLOCKS)],
    ids=lambda sizes: json.dumps(sizes)[:70],
)
def test_models_that_fit_no_memory(sizes: dict[str, Any], ours: Path, tmp_path: Path, limited: Any) -> None:
    path = with_config(ours, tmp_path / "claims.safetensors", claimed(sizes))
    actions = (
        lambda: build_model(parse(ModelConfig, claimed(sizes), "run.yaml"), 2),
        lambda: checkpoints.from_pretrained(path),
        lambda: describe_checkpoint(path),
    )

    def try_all() -> None:
        for action in actions:
            with pytest.raises(UserError) as caught:
                action()
            assert len(str(caught.value).replace(str(path), "")) < 500

    outcome = limited(try_all, seconds=20, megabytes=700)
    assert outcome.kind == "returned", outcome


def test_models_of_many_blocks(ours: Path, tmp_path: Path, limited: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Models are refused by the number of their parameters and buffers, whatever the size of these."""
    monkeypatch.setattr(limits, "PARAMETER_ENTRIES", 600)  # or the count takes seconds
    sizes = {"backbone": {"name": "timm", "model": "resnet18", "kwargs": {"layers": [200, 1, 1, 1]}}}
    test_models_that_fit_no_memory(sizes, ours, tmp_path, limited)


def test_models_of_several_threads_are_counted_apart() -> None:
    from concurrent.futures import ThreadPoolExecutor

    good, bad = (
        parse(ModelConfig, SMALL, "good"),
        parse(ModelConfig, claimed({"pixel_decoder": {"mask_dim": 1 << 30}}), "bad"),
    )

    def built(config: ModelConfig) -> str:
        try:
            return type(build_model(config, 2)).__name__
        except UserError:
            return "refused"

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(built, [good, bad] * 6)) == ["Mask2Former", "refused"] * 6


# --- safetensors -----------------------------------------------------------------------------------------------------


def nested(levels: int) -> str:
    return "[" * levels + "]" * levels


HEADERS: dict[str, Callable[[dict[str, Any]], object]] = {
    "deep configuration": lambda header: header["__metadata__"].update(config=nested(100_000)),
    "deep categories": lambda header: header["__metadata__"].update(categories=nested(100_000)),
    "deep metrics": lambda header: header["__metadata__"].update(metrics=nested(100_000)),
    "huge metrics": lambda header: header["__metadata__"].update(metrics=json.dumps({"PQ": 10**4000})),
    "deep run": lambda header: header["__metadata__"].update(run=nested(100_000)),
    "a configuration of many megabytes": lambda header: header["__metadata__"].update(
        config="[" + "{}," * 2_000_000 + "1]"
    ),
    "a header of many megabytes": lambda header: header["__metadata__"].update(note="x" * (17 << 20)),
    "thousands of unknown settings": lambda header: header["__metadata__"].update(
        config=json.dumps({f"\x1b[2J{number}": 1 for number in range(5_000)})
    ),
    "numbers of thousands of digits": lambda header: header["__metadata__"].update(config='{"a": ' + "9" * 5000 + "}"),
    "another format": lambda header: header["__metadata__"].update(format="\x1b[2J" * 1000),
    "another version": lambda header: header["__metadata__"].update(format_version="9" * 5000),
    "a license for categories": lambda header: header["__metadata__"].update(categories='"MIT"'),
    "no categories": lambda header: header["__metadata__"].update(categories='{"categories": []}'),
    "a name that is a list": lambda header: header["__metadata__"].update(
        categories=json.dumps({"categories": [{"id": 1, "name": [["x" * 1000]] * 1000}]})
    ),
    "thousands of entries": lambda header: header.update(
        {str(number): {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]} for number in range(25_000)}
    ),
    "the name of an entry": lambda header: header.update(
        {"\x1b[2J" * 1000: {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}}
    ),
    "a huge and empty entry": lambda header: header.update(
        {"a": {"dtype": "F32", "shape": [0, 1 << 62], "data_offsets": [0, 0]}}
    ),
    "a shape that overflows": lambda header: header.update(
        {"a": {"dtype": "F32", "shape": [1 << 62, 1 << 62], "data_offsets": [0, 0]}}
    ),
    "float8": lambda header: header.update({"a": {"dtype": "F8_E4M3", "shape": [0], "data_offsets": [0, 0]}}),
    "four bits": lambda header: header.update({"a": {"dtype": "F4", "shape": [0], "data_offsets": [0, 0]}}),
    "complex": lambda header: header.update({"a": {"dtype": "C64", "shape": [0], "data_offsets": [0, 0]}}),
}


@pytest.mark.parametrize("name", HEADERS)
def test_headers(name: str, ours: Path, tmp_path: Path, limited: Any) -> None:
    path = with_header(ours, tmp_path / "changed.safetensors", HEADERS[name])
    readers = (checkpoints.from_pretrained, describe_checkpoint, read)
    if name == "a huge and empty entry":  # harmless, but not an entry of the model
        readers = (checkpoints.from_pretrained,)

    def try_all() -> None:
        for reader in readers:
            with pytest.raises(UserError) as caught:
                reader(path)
            text = str(caught.value).replace(str(path), "")
            assert len(text) < 2000, text[:2000]
            assert text.isprintable(), text

    outcome = limited(try_all, seconds=20, megabytes=700)
    assert outcome.kind == "returned", outcome


@pytest.mark.parametrize("length", [0, 1, 7, 1 << 20, (1 << 32) - 1, 1 << 39, (1 << 64) - 1])
def test_lengths_of_headers_that_lie(length: int, ours: Path, tmp_path: Path, limited: Any) -> None:
    path = tmp_path / "lie.safetensors"
    path.write_bytes(struct.pack("<Q", length) + ours.read_bytes()[8:])
    for reader in (checkpoints.from_pretrained, read):
        assert limited(lambda reader=reader: reader(path)).kind == "UserError"


def test_files_that_never_end(tmp_path: Path, limited: Any) -> None:
    pipe = tmp_path / "pipe.safetensors"
    os.mkfifo(pipe)
    for path in (pipe, Path("/dev/zero"), tmp_path / ("x" * 5000)):
        for reader in (checkpoints.from_pretrained, describe_checkpoint, read):
            assert limited(lambda reader=reader, path=path: reader(path), seconds=5).kind == "UserError", path


DOCUMENTS: dict[str, str] = {
    "deep": nested(100_000),
    "many megabytes": "[" + "{}," * 2_000_000 + "1]",
    "numbers beyond floats": json.dumps({"rescale_factor": 10**400, "image_mean": [10**400] * 3, "size": 10**400}),
    "a mean beyond floats": json.dumps({"image_mean": [10**400] * 3}),
    "long values": json.dumps({"size": [["x" * 1000]] * 1000, "ignore_index": "\x1b[2J" * 1000}),
    "no mapping": "3",
    "nothing": "",
    "surrogates": '{"size": "\\ud800"}',
}


@pytest.mark.parametrize("name", DOCUMENTS)
@pytest.mark.parametrize("file", ["config.json", "preprocessor_config.json"])
def test_documents_in_folders(name: str, file: str, folder: Path, tmp_path: Path, limited: Any) -> None:
    for part in folder.iterdir():
        (tmp_path / part.name).write_bytes(part.read_bytes())
    (tmp_path / file).write_text(DOCUMENTS[name])
    outcome = limited(lambda: read(tmp_path, tasks=("panoptic",)))
    if name == "surrogates" and outcome.kind == "returned":
        return
    assert outcome.kind == "UserError", outcome
    assert len(outcome.message) < 1000
    assert outcome.message.isprintable()


@pytest.mark.parametrize(
    "text",
    ["(" * 5000, "-" * 100_000 + "1", "a" + ".b" * 100_000, "x = " + "{1: " * 90 + "}" * 90, 
     "x = [" + "0," * 100_000 + "]", "x = dict(" + "mean=dict(" * 80 + ")" * 81, "x = dict(mean=[1e400, 2, 3])",
     "x = dict(std=[" + "9" * 4000 + ", 1, 1])",
     "x" * (2 << 20)],
    ids=lambda text: text[:20],
)  # fmt: skip
def test_configurations_in_python(text: str, limited: Any) -> None:
    assert limited(lambda: edges_of(text), seconds=5).kind in ("returned", "UserError")


# --- equal content, equal bytes --------------------------------------------------------------------------------------


@pytest.mark.long
def test_written_twice_is_equal(ours: Path, tmp_path: Path) -> None:
    """Files that are written twice are equal, also those of another process, which hashes strings differently."""
    import subprocess

    model = checkpoints.from_pretrained(ours)
    for name in ("a.safetensors", "b.safetensors"):
        checkpoints.save(model, tmp_path / name, metrics={"PQ": 1.5, "AP": 2.0})
    header = (tmp_path / "a.safetensors").read_bytes()
    assert header == (tmp_path / "b.safetensors").read_bytes()
    keys = list(json.loads(header[8 : 8 + int.from_bytes(header[:8], "little")])["__metadata__"])
    assert keys == sorted(keys)
    for suffix, target in ((".pth", "original"), (".pkl", "original"), (".pth", "mmdet"), (".safetensors", "ours")):
        for name in ("a", "b"):
            convert(ours, tmp_path / f"{target}-{name}{suffix}", target, verify=False)  # pyright: ignore[reportArgumentType]
        one, two = ((tmp_path / f"{target}-{name}{suffix}").read_bytes() for name in ("a", "b"))
        assert one == two, (suffix, target)
    code = (
        f"from mask2former import Mask2Former as M; M.from_pretrained({str(ours)!r}).save_pretrained('c.safetensors')"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path)
    assert (tmp_path / "c.safetensors").read_bytes() == ours.read_bytes()
    assert all(
        torch.equal(value, load_file(ours)[name]) for name, value in load_file(tmp_path / "c.safetensors").items()
    )


def test_averages_are_equal(ours: Path, tmp_path: Path) -> None:
    for name in ("a.safetensors", "b.safetensors"):
        models = [checkpoints.from_pretrained(ours), checkpoints.from_pretrained(ours)]
        checkpoints.save(averaging.average(models, ["one", "two"]), tmp_path / name)
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes() == ours.read_bytes()


# --- words -----------------------------------------------------------------------------------------------------------


def test_words_of_strangers(ours: Path, tmp_path: Path) -> None:
    words = "\x1b]0;owned\x07[/]<script>|x|\n# Title ![](http://127.0.0.1/x) `code`\u202e"
    path = with_header(ours, tmp_path / "words.safetensors", lambda header: header["__metadata__"].update(
        license=words, metrics=json.dumps({words: 1.0}), categories=json.dumps({"categories": [
            {"id": 0, "name": words}, {"id": 1, "name": "y" * 1_000}]})
    ))  # fmt: skip
    for value in describe_checkpoint(path).values():
        assert value.isprintable()
        assert len(value) < 1000
    model = checkpoints.from_pretrained(path)
    assert model.info.license is not None
    assert model.info.license.isprintable()
    checkpoints.save_folder(model, tmp_path / "folder", metrics={words: 1.0})
    card = (tmp_path / "folder" / "README.md").read_text()
    assert "\x1b" not in card
    assert "\u202e" not in card
    assert all(mark not in card for mark in ("<script>", "![]", " `code`", "\n# Title"))
    assert len(card) < 5000


def test_models_without_values_are_not_saved(tmp_path: Path) -> None:
    with torch.device("meta"):
        model = build_model(parse(ModelConfig, SMALL, "small"), 2)
    model.categories = Categories.from_names(["sky", "cat"])
    with pytest.raises(UserError, match="has a shape but no values"):
        checkpoints.save(model, tmp_path / "m.safetensors")
    eight = small_model()
    eight.to(torch.float8_e4m3fn)
    with pytest.raises(UserError, match="is stored as float8_e4m3fn; expected float16"):
        checkpoints.save(eight, tmp_path / "m.safetensors")


def test_plain_arguments_still_serve() -> None:
    for kwargs in ({"channels": [8, 8, 8, 8], "drop_path_rate": 0.1}, {"block_args": {"attn_layer": "se"}}):
        build_model(parse(ModelConfig, {**SMALL, "backbone": {**TIMM, "kwargs": kwargs}}, "run.yaml"), 2)
