"""``mask2former models``, and commands with a published model by name, for a small model on a local server."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import yaml
from PIL import Image
from runs import SHORT, run_values
from safetensors.torch import load_file
from web import Server, Tricks, serve

from mask2former import checkpoints, recipes
from mask2former.cli import main

QUERIES = "transformer_decoder.query_features.weight"


@pytest.fixture
def web(tiny_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """A server with the weights of ``lab/tiny``, which is the only model of the zoo."""
    for name in ("MASK2FORMER_OFFLINE", "HF_HUB_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    data = tiny_file.read_bytes()
    md5 = hashlib.md5(data).hexdigest()[:6]
    (tmp_path / "web").mkdir()
    (tmp_path / "web" / f"tiny_{md5}.safetensors").write_bytes(data)
    with serve(tmp_path / "web") as server:
        row = {
            "name": "lab/tiny",
            "task": "panoptic",
            "dataset": "drawn scenes",
            "backbone": "ResNet-10",
            "pretraining": "none",
            "queries": 10,
            "metrics": {"PQ": 1.25},
            "url": f"{server.url}/tiny_{md5}.safetensors",
            "file": f"tiny_{md5}.safetensors",
            "checksum": f"md5:{md5}",
            "num_bytes": len(data),
            "license": "Lab",
        }
        licenses = {"Lab": {"url": "http://127.0.0.1/terms", "commercial": False}}
        (tmp_path / "zoo.json").write_text(json.dumps({"licenses": licenses, "models": [row]}))
        monkeypatch.setenv("MASK2FORMER_ZOO", str(tmp_path / "zoo.json"))
        monkeypatch.setenv("MASK2FORMER_CACHE", str(tmp_path / "cache"))
        yield server


def listed(capsys: pytest.CaptureFixture[str], *args: str) -> list[dict]:
    capsys.readouterr()
    assert main(["models", "--json", *args]) == 0
    return json.loads(capsys.readouterr().out)


def names(rows: list[dict]) -> list[str]:
    return [row["name"] for row in rows]


def test_models_lists_all_with_their_facts(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MASK2FORMER_CACHE", "/nowhere/at/all")
    rows = listed(capsys)
    assert names(rows) == [*checkpoints.packaged_names(), *checkpoints.current_zoo()]
    published = [row for row in rows if row["provider"] != "packaged"]
    assert len(published) == 86
    for row in published:
        assert row["url"].startswith("https://")
        assert row["source"].startswith("https://")
        assert row["license"]["name"]
        assert row["metrics"] or row["provider"] == "ssseg"  # two of its metrics were never published
    (row,) = (row for row in rows if row["name"] == "coco-panoptic/swin-l")
    assert row["metrics"] == {"PQ": 57.8, "AP": 48.6, "mIoU": 67.4}
    assert (row["queries"], row["path"], row["license"]["commercial"]) == (200, None, False)
    assert 800e6 < row["num_bytes"] < 900e6

    assert main(["models"]) == 0
    captured = capsys.readouterr()
    for row in rows:
        (line,) = (line for line in captured.out.splitlines() if line.startswith(f"{row['name']} "))
        assert all(f"{name} {value}" in line for name, value in row["metrics"].items())
        assert row["metrics"] or " - " in line
        assert line.split()[-1] == ("x" if row["path"] else f"{row['num_bytes'] / 1e6:.0f}")
    assert "mmseg: ADE20K (license Apache-2.0, also for commercial use)\n" in captured.out
    assert "CC BY-NC 4.0: not for commercial use" in captured.out
    assert captured.err == ""


def test_models_can_be_filtered(capsys: pytest.CaptureFixture[str]) -> None:
    packaged = list(checkpoints.packaged_names())
    commercial = listed(capsys, "--commercial")
    assert names(commercial)[: len(packaged)] == packaged
    assert {row["provider"] for row in commercial} == {"packaged", "mmdet", "mmseg"}
    assert len(commercial) == len(packaged) + 24
    assert len(listed(capsys, "--task", "video")) == 12
    assert len(listed(capsys, "--task", "semantic", "--dataset", "cityscapes")) == 12
    assert {row["dataset"] for row in listed(capsys, "--dataset", "ade20k", "--provider", "ssseg")} == {"ADE20K"}
    same = listed(capsys, "--dataset", "COCO", "--provider", "MMDet")
    assert same == listed(capsys, "--dataset", "coco", "--provider", "mmdet")
    assert main(["models", "--dataset", "imagenet"]) == 2
    assert "there are: ade20k, cityscapes, coco," in capsys.readouterr().err
    assert main(["models", "--provider", "ssseg", "--task", "panoptic"]) == 0
    assert capsys.readouterr().out == "No model fits all of these options.\n"
    assert main(["models", "--provider", "nobody"]) == 2
    assert "there are: packaged, official, mmdet, mmseg, ssseg" in capsys.readouterr().err


def test_the_former_name_of_a_filter_is_read(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "--data", "mapillary"]) == 0
    captured = capsys.readouterr()
    assert "mapillary-semantic/r50" in captured.out
    assert captured.err == "note: --data is called --dataset now\n"
    assert main(["models", "--data", "coco", "--dataset", "coco"]) == 2


def test_one_model_in_detail(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "mmdet/coco-instance/swin-s"]) == 0
    shown = capsys.readouterr().out
    lines = dict(re.split(r"  +", line, maxsplit=1) for line in shown.splitlines() if line[0] != " ")
    assert lines["published, %"] == "AP 46.1, box AP 49.3"
    assert lines["license"].startswith("Apache-2.0: also for commercial use (https://")
    assert lines["verified by"] == "sha256:c9d0c4f2"
    assert lines["source"].endswith("/configs/mask2former/README.md")
    assert "resampling bilinear (official: antialiased)" in lines["settings"]
    details = json_of(capsys, "mmdet/coco-instance/swin-s")
    assert details["deviations"]
    assert all(deviation in shown for deviation in details["deviations"])
    assert json_of(capsys, "coco-panoptic/r50")["url"] == checkpoints.current_zoo()["coco-panoptic/r50"].url
    assert main(["models", "coco-instance/swin-x"]) == 2
    assert "did you mean coco-instance/swin-t or coco-instance/swin-s or" in capsys.readouterr().err
    assert main(["models", "nuclei", "--cached"]) == 2
    assert "'nuclei' is a single model" in capsys.readouterr().err


def json_of(capsys: pytest.CaptureFixture[str], name: str) -> dict:
    assert main(["models", "--json", name]) == 0
    return json.loads(capsys.readouterr().out)


def test_models_fits_a_narrow_terminal(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")  # a terminal
    known = {*checkpoints.packaged_names(), *checkpoints.current_zoo()}
    for columns in (80, 120):
        monkeypatch.setenv("COLUMNS", str(columns))
        assert main(["models"]) == 0
        lines = re.sub(r"\x1b\[[0-9;]*m", "", capsys.readouterr().out).splitlines()
        table = [line for line in lines if line.partition(" ")[0] in known]
        assert len(table) == len(known)
        assert max(map(len, table)) <= columns
        assert len({len(line.removesuffix("  x")) for line in table}) == 1  # sizes are aligned on the right
    assert any("PQ 57.8, AP 48.6, mIoU 67.4" in line for line in table)


def test_a_name_is_enough(
    web: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    assert [row["path"] for row in listed(capsys, "--dataset", "lab")] == [None]
    Image.new("RGB", (60, 40), "teal").save(tmp_path / "a.png")
    predict = ["predict", str(tmp_path / "a.png"), "-o", str(tmp_path / "out"), "--overwrite", "--model", "lab/tiny"]
    with caplog.at_level(logging.WARNING):
        assert main(predict) == 0
    assert json.loads((tmp_path / "out" / "a.json").read_text())["model"] == "lab/tiny"
    assert [message for message in caplog.messages if "licensed" in message] == [
        "weights of lab/tiny are licensed Lab: not for commercial use (http://127.0.0.1/terms)"
    ]
    assert main(predict) == 0
    assert main(["inspect", "lab/tiny"]) == 0
    assert "license of the weights  Lab" in capsys.readouterr().out
    assert main(["evaluate", "lab/tiny", "--scenes", "1", "--size", "64", "--task", "semantic"]) == 0
    assert len(web.requests) == 1
    (row,) = listed(capsys, "--cached", "--task", "panoptic")[-1:]
    assert row["path"] == str(checkpoints.current_zoo()["lab/tiny"].path)


def test_without_a_network_the_way_out_is_named(
    web: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MASK2FORMER_OFFLINE", "1")
    assert main(["inspect", "lab/tiny"]) == 2
    error = capsys.readouterr().err
    file = checkpoints.current_zoo()["lab/tiny"].path
    assert f"fetch {web.url}/{file.name} yourself and put it at {file}" in error
    assert web.requests == []


def test_an_interrupted_download_is_kept_and_goes_on(
    web: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    table = json.loads((tmp_path / "zoo.json").read_text())
    with serve(tmp_path / "web", lambda number: Tricks() if number else Tricks(stall_after=100_000)) as slow:
        table["models"][0]["url"] = table["models"][0]["url"].replace(web.url, slow.url)
        (tmp_path / "zoo.json").write_text(json.dumps(table))

        def interrupt() -> None:
            deadline = time.monotonic() + 15  # the server stalls for longer
            while time.monotonic() < deadline:
                if any(part.stat().st_size == 100_000 for part in (tmp_path / "cache").glob("*.part")):
                    return os.kill(os.getpid(), signal.SIGINT)
                time.sleep(0.02)

        before = signal.signal(signal.SIGINT, signal.default_int_handler)  # background jobs start with it ignored
        waiting = threading.Thread(target=interrupt)
        waiting.start()
        try:
            assert main(["inspect", "lab/tiny"]) == 130
        finally:
            waiting.join()
            signal.signal(signal.SIGINT, before)
        error = capsys.readouterr().err.splitlines()[-1]
        assert error == "stopped: the partial download is kept; run the same command again to continue"
        assert not any((tmp_path / "cache").glob("*.safetensors"))
        assert main(["inspect", "lab/tiny"]) == 0
        assert [wanted for _, wanted in slow.requests] == [None, "bytes=100000-"]


@pytest.mark.filterwarnings("default")  # Lightning gives advice as warnings
def test_training_starts_from_a_name(
    web: Server, tmp_path: Path, tiny_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A run with more queries says how many are newly initialised; the result keeps the license of the weights."""
    pytest.importorskip("lightning")
    values = run_values(tmp_path / "run", trainer={**SHORT, "max_steps": 1}, optim={"lr": 1e-12})
    config = checkpoints.open_checkpoint(tiny_file).info.to_dict()["config"]
    values["model"] = {**config, "init": None, "init_partial": False}
    values["model"]["transformer_decoder"]["num_queries"] = 12
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(values))
    command = ["train", str(tmp_path / "run.yaml"), "model.init=lab/tiny"]
    assert main(command) == 2
    assert "num_queries is 12 in the run but 10 in the weights" in capsys.readouterr().err
    assert main([*command, "model.init_partial=true"]) == 0
    assert (
        "Starting from lab/tiny with all weights that fit: 10 queries, and 2 newly initialised ones"
        in capsys.readouterr().out
    )
    assert len(web.requests) == 1
    before, after = load_file(tiny_file), load_file(tmp_path / "run" / "model.safetensors")
    torch.testing.assert_close(after[QUERIES][:10], before[QUERIES])
    assert checkpoints.open_checkpoint(tmp_path / "run" / "model.safetensors").info.license == "Lab"


COMPLETED = {
    "predict x --model coco-pan": [name for name in recipes.recipe_names() if name.startswith("coco-pan")],
    "predict x --model scenes": ["scenes-tiny"],
    "predict x --model nuc": ["nuclei"],
    "inspect ytvis2021-instance/swin-b": ["ytvis2021-instance/swin-b-in21k"],
    "predict x --recipe mapillary-panoptic/s": ["mapillary-panoptic/swin-l"],
    "recipe scenes-tiny-": ["scenes-tiny-end", "scenes-tiny-start"],
    "predict x --model ./run": [],  # the shell completes files then
}


def test_names_complete_in_the_shell() -> None:
    """Names are completed without importing torch, since the shell starts a new process each time."""
    program = (
        "import os, sys; from mask2former.cli import main\n"
        "for line in sys.argv[1:]:\n"
        "    os.environ |= {'COMP_WORDS': line, 'COMP_CWORD': str(len(line.split()) - 1)}\n"
        "    try: main([])\n"
        "    except SystemExit: print(end='\\n--\\n')\n"
        "sys.exit('torch was imported' if 'torch' in sys.modules else 0)"
    )
    command = [sys.executable, "-c", program, *(f"mask2former {words}" for words in COMPLETED)]
    environment = {**os.environ, "_MASK2FORMER_COMPLETE": "complete_bash"}
    run = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert run.returncode == 0, run.stderr
    assert [part.split() for part in run.stdout.split("\n--\n")[:-1]] == list(COMPLETED.values())
