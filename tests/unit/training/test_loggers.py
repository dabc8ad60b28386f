"""Records of a run in services: opened with its settings, found again, and closed; the services are stand-ins."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from mask2former.config import RunConfig, parse
from mask2former.errors import UserError
from mask2former.training.loggers import Loggers


class Service:
    """A stand-in for a Lightning logger and its service, which is the list ``made``."""

    made: list[Service]

    def __init__(self, **arguments: Any) -> None:
        self.arguments = arguments
        self.settings: dict[str, str] = {}
        self.version = arguments.get("version") or arguments.get("run_id") or f"record-{len(self.made)}"
        self.made.append(self)

    def log_hyperparams(self, settings: dict[str, str]) -> None:
        self.settings = settings


@pytest.fixture
def services(monkeypatch: pytest.MonkeyPatch) -> list[Service]:
    made: list[Service] = []
    monkeypatch.setattr(Service, "made", made, raising=False)
    for name, kind in (("wandb", "WandbLogger"), ("mlflow", "MLFlowLogger")):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
        monkeypatch.setattr(f"lightning.pytorch.loggers.{kind}", Service)
        monkeypatch.delenv("WANDB_PROJECT", raising=False)
        monkeypatch.delenv("MLFLOW_EXPERIMENT_NAME", raising=False)
        monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return made


def config(folder: Path, *names: str) -> RunConfig:
    return parse(RunConfig, {"output": str(folder), "trainer": {"loggers": ["csv", *names]}}, "test")


def test_a_run_that_goes_on_has_the_records_of_before(tmp_path: Path, services: list[Service]) -> None:
    run = config(tmp_path, "wandb", "mlflow")
    first = Loggers(run, resume=False)
    first.begin({"lr": 1e-4})
    assert [service.settings for service in services] == [{"lr": "0.0001"}] * 2
    assert [service.arguments["project"] for service in services[:1]] == ["mask2former"]
    assert services[1].arguments["tracking_uri"] == f"sqlite:///{tmp_path.resolve() / 'mlflow.db'}"
    assert json.loads((tmp_path / "loggers.json").read_text()) == {"wandb": "record-0", "mlflow": "record-1"}
    again = Loggers(run, resume=True)
    again.begin({"lr": 2e-4})
    assert [service.version for service in again] == ["record-0", "record-1"]  # pyright: ignore[reportAttributeAccessIssue]
    assert [service.settings for service in services[2:]] == [{}, {}]  # settings are logged only when a run begins
    Loggers(config(tmp_path), resume=False).begin({})
    assert not (tmp_path / "loggers.json").exists()  # of the run that is overwritten


@pytest.mark.parametrize(("name", "way_out"), [("wandb", "WANDB_MODE=offline"), ("mlflow", "MLFLOW_TRACKING_URI=")])
def test_a_service_that_refuses_is_named_with_a_way_out(
    name: str, way_out: str, tmp_path: Path, services: list[Service], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: Service, settings: dict[str, str]) -> None:
        raise ConnectionError("no route to host")

    monkeypatch.setattr(Service, "log_hyperparams", refuse)
    with pytest.raises(UserError, match=rf"{name} .*no route to host.*{way_out}"):
        Loggers(config(tmp_path, name), resume=False).begin({"lr": 1})
    assert not (tmp_path / "loggers.json").exists()


def test_a_record_of_wandb_ends_with_the_run(
    tmp_path: Path, services: list[Service], monkeypatch: pytest.MonkeyPatch
) -> None:
    ended: list[int] = []
    monkeypatch.setattr(sys.modules["wandb"], "finish", lambda: ended.append(1), raising=False)
    with pytest.raises(KeyError), Loggers(config(tmp_path, "wandb"), resume=False).closing():
        raise KeyError
    assert ended == [1]
    with Loggers(config(tmp_path, "mlflow"), resume=False).closing():
        pass
    assert ended == [1]


@pytest.mark.parametrize("text", ['["wandb"]', '{"wandb": 3}'])
def test_a_broken_record_of_records_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "loggers.json").write_text(text)
    with pytest.raises(UserError, match=r"loggers\.json.*delete it"):
        Loggers(config(tmp_path), resume=True)


def events_of(folder: Path) -> list[Path]:
    return sorted(folder.glob("tensorboard/events*"))


@pytest.mark.parametrize("names", [(), ("tensorboard",)])
@pytest.mark.parametrize("is_replacing", [False, True])
def test_only_events_of_a_run_that_is_replaced_are_removed(
    names: tuple[str, ...], *, is_replacing: bool, tmp_path: Path
) -> None:
    pytest.importorskip("tensorboard")
    old, own = tmp_path / "tensorboard" / "events.out.tfevents.1.host.2.0", tmp_path / "tensorboard" / "notes.txt"
    old.parent.mkdir()
    for file in (old, own):
        file.write_bytes(b"")
    assert Loggers(config(tmp_path, *names), resume=True).begin({}) == []
    assert old.exists()
    loggers = Loggers(config(tmp_path, *names), replaces=is_replacing)
    for logger in loggers:  # as Lightning does before the run begins
        logger.experiment.add_scalar("loss", 1.0, 1)  # pyright: ignore[reportAttributeAccessIssue]
    notes = loggers.begin({})
    assert own.exists()
    assert old.exists() is not is_replacing
    assert len(events_of(tmp_path)) == len(names) + (not is_replacing)
    if is_replacing:
        assert [note.partition(" of the run that is replaced from ")[0] for note in notes] == ["removed 1 event file"]
    else:
        assert [note.partition(" in ")[0] for note in notes] == ["kept 1 event file of an earlier run"] * len(names)
    for logger in loggers:
        logger.experiment.close()  # pyright: ignore[reportAttributeAccessIssue]


def test_events_that_another_logger_of_the_run_has_open_are_kept(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from lightning.pytorch.loggers import TensorBoardLogger

    old = tmp_path / "tensorboard" / "events.out.tfevents.1.host.2.0"
    old.parent.mkdir()
    old.write_bytes(b"")
    theirs = TensorBoardLogger(tmp_path, name="tensorboard", version="")
    theirs.experiment.add_scalar("loss", 1.0, 1)  # opened before the run
    elsewhere = TensorBoardLogger(tmp_path / "elsewhere")
    notes = Loggers(config(tmp_path), [elsewhere, theirs], replaces=True).begin({})
    assert not old.exists()
    assert len(events_of(tmp_path)) == 1
    assert [note.split(" event file")[0] for note in notes] == ["removed 1", "kept 1"]
    theirs.experiment.close()


def test_events_that_another_program_has_open_do_not_stop_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = tmp_path / "tensorboard" / "events.out.tfevents.1.host.2.0"
    old.parent.mkdir()
    old.write_bytes(b"")

    def refuse(self: Path, missing_ok: bool = False) -> None:
        if self == old:
            raise PermissionError(13, "in use")  # as on Windows

    monkeypatch.setattr(Path, "unlink", refuse)
    notes = Loggers(config(tmp_path), replaces=True).begin({})
    assert [note.partition(";")[0] for note in notes] == [
        f"kept 1 event file of an earlier run in '{old.parent}', which a program may have open"
    ]
