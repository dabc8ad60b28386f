"""To the Hugging Face hub and back, with a server on this machine that responds like the hub.

The real ``huggingface_hub`` is used; only the address and the cache folder in its constants are replaced, as the
environment variables ``HF_ENDPOINT`` and ``HF_HUB_CACHE`` would do.
"""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import huggingface_hub.constants
import huggingface_hub.file_download
import pytest
import timm
import torch
from conversions import small_model
from safetensors.torch import save

from mask2former import checkpoints
from mask2former.checkpoints import hub
from mask2former.checkpoints.convert import convert
from mask2former.checkpoints.formats.backbones import Backbone
from mask2former.checkpoints.initial import open_initial
from mask2former.cli import main
from mask2former.config import TimmConfig
from mask2former.errors import UserError
from mask2former.models.mask2former import Mask2Former
from mask2former.notes import collect_notes

COMMIT = "1" * 40


@dataclass
class FakeHub:
    """A hub with one repository per name; those in ``denied`` are reported as gated."""

    repositories: dict[str, dict[str, bytes]] = field(default_factory=dict)
    denied: set[str] = field(default_factory=set)
    requests: list[tuple[str, str]] = field(default_factory=list)
    bodies: list[dict[str, object]] = field(default_factory=list)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: FakeHub

    def log_message(self, format: str, *args: object) -> None:
        pass

    def _send(self, status: int, body: bytes = b"{}", **headers: str) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _json(self, value: object) -> None:
        self._send(200, json.dumps(value).encode(), Content_Type="application/json")

    def do_POST(self) -> None:
        path = urlsplit(self.path).path
        data = self.rfile.read(int(self.headers["Content-Length"]))
        self.hub.requests.append(("POST", path))
        if self.headers.get("Authorization") != "Bearer hf_writer":
            return self._send(401, X_Error_Message="Invalid username or password.")
        if path == "/api/repos/create":
            values = json.loads(data)
            name = f"{values['organization']}/{values['name']}"
            self.hub.bodies.append(values)
            self.hub.repositories.setdefault(name, {})
            return self._json({"url": f"http://{self.headers['Host']}/{name}"})
        if path.endswith("/preupload/main"):
            files = [{"path": file["path"], "uploadMode": "regular"} for file in json.loads(data)["files"]]
            return self._json({"files": [{**file, "shouldIgnore": False, "oid": None} for file in files]})
        if path.endswith("/commit/main"):
            repository = path.removeprefix("/api/models/").removesuffix("/commit/main")
            for line in map(json.loads, data.splitlines()):
                if line["key"] == "file":
                    content = base64.b64decode(line["value"]["content"])
                    self.hub.repositories[repository][line["value"]["path"]] = content
                else:
                    self.hub.bodies.append(line["value"])
            page = f"http://{self.headers['Host']}/{repository}/commit/{COMMIT}"
            return self._json({"commitUrl": page, "commitOid": COMMIT, "pullRequestUrl": None})
        return self._json({})

    def do_GET(self) -> None:
        path = urlsplit(self.path).path
        self.hub.requests.append((self.command, path))
        parts = path.removeprefix("/api/models/").strip("/").split("/")
        name = "/".join(parts[:2])
        if name in self.hub.denied:
            return self._send(403, X_Error_Code="GatedRepo")
        if name not in self.hub.repositories:
            return self._send(404, X_Error_Code="RepoNotFound")
        files = self.hub.repositories[name]
        if "revision" in parts and parts[-1] not in ("main", "v1", COMMIT):
            return self._send(404, X_Error_Code="RevisionNotFound")
        if path.startswith("/api/models/") and "tree" in parts:
            entries = [{"type": "file", "oid": "0", "path": file, "size": len(data)} for file, data in files.items()]
            return self._json(entries)
        if path.startswith("/api/models/"):
            siblings = [{"rfilename": file} for file in files]
            return self._json({"id": name, "sha": COMMIT, "siblings": siblings, "private": False, "tags": []})
        if parts[2] == "resolve":
            data = files["/".join(parts[4:])]
            return self._send(200, data, ETag=f'"{hashlib.sha1(data).hexdigest()}"', X_Repo_Commit=COMMIT)
        return self._send(404)

    def do_HEAD(self) -> None:
        self.do_GET()


def point_to(address: str, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    constants = huggingface_hub.constants
    template = constants.HUGGINGFACE_CO_URL_TEMPLATE.replace(constants.ENDPOINT, address)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    if hasattr(huggingface_hub.file_download, "HUGGINGFACE_CO_URL_TEMPLATE"):  # before version 1
        monkeypatch.setattr(huggingface_hub.file_download, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "ENDPOINT", address)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    for switch in ("HF_HUB_DISABLE_PROGRESS_BARS", "HF_HUB_DISABLE_XET", "HF_HUB_DISABLE_TELEMETRY"):
        monkeypatch.setattr(constants, switch, True)
    monkeypatch.setenv("HF_TOKEN", "hf_writer")
    for name in ("MASK2FORMER_OFFLINE", "HF_HUB_OFFLINE"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    state = FakeHub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": state}))
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    point_to(f"http://127.0.0.1:{server.server_address[1]}", tmp_path / "hub-cache", monkeypatch)
    yield state
    server.shutdown()
    server.server_close()
    thread.join()


def test_a_model_goes_to_the_hub_and_comes_back(
    fake: FakeHub, tiny_model: Mask2Former, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny_model.info = replace(tiny_model.info, license="CC BY-NC 4.0")
    page = tiny_model.push_to_hub("me/pets", private=True, metrics={"PQ": 51.94}, message="First")
    assert page == f"{huggingface_hub.constants.ENDPOINT}/me/pets"
    assert set(fake.repositories["me/pets"]) == {"model.safetensors", "README.md"}
    created, commit = fake.bodies
    assert created["visibility"] == "private" if "visibility" in created else created["private"]
    assert commit["summary"] == "First"

    card = fake.repositories["me/pets"]["README.md"].decode()
    assert "\nlicense: cc-by-nc-4.0\n" in card
    assert 'Predictor.from_pretrained("me/pets")' in card
    count = sum(value.numel() for value in tiny_model.parameters())
    rows = ("| queries | 5 |", f"| parameters | {count:,} |", "| PQ | 51.9 |", "(2 things, 1 stuff): sky, cat, dog |")
    assert all(row in card for row in rows), card

    for name in ("me/pets", "hf://me/pets", "hf://me/pets@v1", "me/pets@v1"):
        again = Mask2Former.from_pretrained(name)
        assert again.categories == tiny_model.categories
        assert again.info.license == "CC BY-NC 4.0"
        assert all(torch.equal(value, again.state_dict()[key]) for key, value in tiny_model.state_dict().items())
    assert checkpoints.open_checkpoint("me/pets").info.metrics == {"PQ": 51.94}

    with monkeypatch.context() as no_answer:  # what was fetched before is used
        point_to("http://127.0.0.1:9", Path(huggingface_hub.constants.HF_HUB_CACHE), no_answer)
        assert Mask2Former.from_pretrained("me/pets").info.license == "CC BY-NC 4.0"

    fake.requests.clear()
    monkeypatch.setenv("MASK2FORMER_OFFLINE", "1")
    assert Mask2Former.from_pretrained("hf://me/pets").info.license == "CC BY-NC 4.0"
    with pytest.raises(UserError, match="not in the hub's cache and offline mode is on"):
        Mask2Former.from_pretrained("hf://me/dogs")
    with pytest.raises(UserError, match="cannot upload 'me/pets': offline mode is on"):
        tiny_model.push_to_hub("me/pets")
    assert fake.requests == []


def test_only_what_is_needed_is_fetched(fake: FakeHub) -> None:
    settings = {"config.json": b"{}", "preprocessor_config.json": b"{}"}
    others = {"modeling.py": b"", "tokenizer.json": b"", "adapter.safetensors": b"", "training_args.bin": b"",
              "model.fp16.safetensors": b"", "runs/1/model.safetensors": b"3", "optimizer.bin": b""}  # fmt: skip
    best = {f"model{part}.safetensors": b"1" for part in ("", "-00001-of-00002", "-00002-of-00002")}
    old = {f"pytorch_model{part}.bin": b"2" for part in ("", "-00001-of-00002", "-00002-of-00002")}
    best["model.safetensors.index.json"] = old["pytorch_model.bin.index.json"] = b"{}"
    for name, files in (("me/both", best), ("me/old", old)):
        fake.repositories[name] = {**settings, **others, **old, **files}
        assert {path.name for path in hub.fetch_folder(name).rglob("*")} == {*settings, *files}


def on_the_hub(model: Mask2Former, folder: Path) -> dict[str, bytes]:
    """The files of a model in the layout of transformers, which do not say its task."""
    checkpoints.save_pretrained(model, folder.with_suffix(".safetensors"))
    convert(folder.with_suffix(".safetensors"), folder, "huggingface", verify=False)
    config = json.loads((folder / "config.json").read_text())
    del config["mask2former"]
    (folder / "config.json").write_text(json.dumps(config))
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_model_of_transformers_loads_from_the_hub(
    fake: FakeHub, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    small = small_model()
    fake.repositories["me/animals"] = files = on_the_hub(small, tmp_path / "theirs")
    for name in ("me/animals", "hf://me/animals", "hf://me/animals@v1"):
        with collect_notes() as notes:
            again = Mask2Former.from_pretrained(name, tasks="instance")
        assert again.info.known_categories.names == ("sky", "cat", "dog")
        assert (again.info.tasks, again.info.inference.short_edge) == (("instance",), 96)
        assert [(note.message[:35], note.example) for note in notes] == [
            ("read as Hugging Face transformers, ", f"'{name}'")
        ]
        assert all(torch.equal(value, again.state_dict()[key]) for key, value in small.state_dict().items())
    with pytest.raises(UserError, match=r"^me/animals: contains .* no published model fits; give tasks"):
        Mask2Former.from_pretrained("me/animals")
    converted = convert("me/animals", tmp_path / "mine.safetensors", tasks="instance", verify=False)
    assert Mask2Former.from_pretrained(converted.path).info == again.info

    name = "facebook/mask2former-swin-tiny-ade-semantic"
    fake.repositories[name] = files
    with pytest.raises(
        UserError, match=r"recipe 'ade20k-semantic/swin-t' is Swin-T .*, but the file contains Swin .width 8"
    ):
        Mask2Former.from_pretrained(name)
    assert Mask2Former.from_pretrained(name, tasks="semantic").info.tasks == ("semantic",)
    assert main(["inspect", name]) == 2
    assert "recipe 'ade20k-semantic/swin-t' is Swin-T" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "recipe"),
    [
        ("facebook/mask2former-swin-small-coco-instance", "coco-instance/swin-s"),
        ("facebook/mask2former-swin-base-ade-semantic", "ade20k-semantic/swin-b"),
        ("facebook/mask2former-swin-base-IN21k-ade-semantic", "ade20k-semantic/swin-b-in21k"),
        ("facebook/mask2former-swin-base-IN21k-cityscapes-panoptic", "cityscapes-panoptic/swin-b-in21k"),
        ("facebook/mask2former-swin-large-mapillary-vistas-semantic", "mapillary-semantic/swin-l"),
        ("facebook/mask2former-swin-tiny-mapillary-vistas-semantic", None),  # never published
        ("facebook/mask2former-swin-huge-coco-instance", None),
        ("facebook/maskformer-swin-small-coco", None),
        ("somebody/mask2former-swin-small-coco-instance", None),
    ],
)
def test_what_official_names_on_the_hub_stand_for(name: str, recipe: str | None) -> None:
    assert hub.published_recipe(name) == recipe


def test_refusals_of_the_hub_are_one_sentence(
    fake: FakeHub, tiny_model: Mask2Former, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake.repositories |= {"me/empty": {"README.md": b"hello"}, "me/secret": {}}
    fake.denied.add("me/secret")
    messages = {
        "me/nothing": "there is no 'me/nothing' on the hub that you can access.*hf auth login",
        "me/secret": "'me/secret' on the hub asks for consent",
        "me/empty": "'me/empty' on the hub has no weights",
        "hf://me/empty@v9": "'me/empty' on the hub has no revision 'v9'",
    }
    for name, message in messages.items():
        with pytest.raises(UserError, match=message) as caught:
            Mask2Former.from_pretrained(name)
        assert "\n" not in str(caught.value)
    monkeypatch.setenv("HF_TOKEN", "hf_reader")
    with pytest.raises(
        UserError, match=r"refuses 'me/pets': .*hf auth login|no 'me/pets' on the hub that you can access"
    ):
        tiny_model.push_to_hub("me/pets")
    with pytest.raises(UserError, match="'pets' is not a model on the hub; expected owner/name"):
        tiny_model.push_to_hub("pets")


def test_a_hub_that_does_not_answer(tiny_model: Mask2Former, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    point_to("http://127.0.0.1:9", tmp_path, monkeypatch)  # nobody listens there
    with pytest.raises(UserError, match="'me/pets' is not in the hub's cache and the hub does not answer"):
        Mask2Former.from_pretrained("me/pets")
    with pytest.raises(UserError, match=r"'me/pets' on the hub: .*refused"):
        tiny_model.push_to_hub("me/pets")


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("facebook/mask2former-swin-small-coco-instance", ("facebook/mask2former-swin-small-coco-instance", None)),
        ("hf://me/pets", ("me/pets", None)),
        ("hf://me/pets@v1.0", ("me/pets", "v1.0")),
        ("hf://me/weights.pkl", ("me/weights.pkl", None)),
        ("me/weights.pkl", None),
        ("me/model.safetensors", None),
        ("./me/pets", None),
        ("/me/pets", None),
        ("me/pets/deep", None),
        ("pets", None),
        ("here/pets", None),  # a folder of that name exists
        ("hf://here/pets", ("here/pets", None)),
        ("C:\\me\\pets", None),
    ],
)
def test_what_is_a_name_on_the_hub(
    source: str, expected: hub.HubName | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here").mkdir()
    assert hub.parse_hub_name(source) == expected


@pytest.mark.parametrize("source", ["hf://pets", "hf://me/pets/deep", "hf://", "hf://../pets"])
def test_a_wrong_name_behind_the_prefix(source: str) -> None:
    with pytest.raises(UserError, match="expected hf://owner/name"):
        hub.parse_hub_name(source)


FAMILIES: dict[str, dict[str, Any]] = {
    "resnet10t.c3_in1k": {"channels": [8, 16, 16, 16]},
    "convnext_atto.d2_in1k": {"depths": [1, 1, 1, 1], "dims": [8, 16, 24, 32]},
    "tf_efficientnet_lite0.in1k": {},
    "swin_tiny_patch4_window7_224.ms_in1k": {
        "embed_dim": 8, "depths": [1, 2, 1, 1], "num_heads": [1, 1, 2, 2], "strict_img_size": False
    },
    "mobilenetv3_small_050.lamb_in1k": {},
}  # fmt: skip


@pytest.mark.parametrize("tagged", FAMILIES)
def test_training_starts_from_weights_of_timm_on_the_hub(
    fake: FakeHub, monkeypatch: pytest.MonkeyPatch, tagged: str
) -> None:
    config = TimmConfig(model=tagged.partition(".")[0], kwargs=FAMILIES[tagged])
    state = timm.create_model(config.model, **config.kwargs).state_dict()
    values = {
        "architecture": config.model,
        "model_args": config.kwargs,
        "pretrained_cfg": {"mean": [0.5] * 3, "std": [0.5] * 3},
    }
    fake.repositories[f"timm/{tagged}"] = {
        "config.json": json.dumps(values).encode(),
        "model.safetensors": save(state),
        "pytorch_model.bin": b"not fetched",
    }
    for _ in range(2):  # and again from the cache, offline
        backbone = open_initial(f"timm/{tagged}")
        assert isinstance(backbone, Backbone)
        assert backbone.config == config
        assert backbone.normalisations[0].pixel_mean == (127.5, 127.5, 127.5)
        weights = [value for value in state.values() if value.ndim > 1]
        taken = [value for value in backbone.state.values() if value.ndim > 1]
        found = sum(any(one.shape == other.shape and torch.equal(one, other) for other in weights) for one in taken)
        assert found == len(taken) > len(weights) / 2
        monkeypatch.setenv("MASK2FORMER_OFFLINE", "1")
    assert not any("pytorch_model" in path for _, path in fake.requests)
