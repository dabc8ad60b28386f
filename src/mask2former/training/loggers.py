"""Further destinations for the metrics of a run besides ``metrics.csv``: Lightning's own loggers, by name."""

from __future__ import annotations

import contextlib
import json
import os
import socket
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers.logger import Logger

from mask2former.config import RunConfig
from mask2former.documents import read_json
from mask2former.errors import UserError
from mask2former.extras import need
from mask2former.files import write_whole
from mask2former.text import count, printable

__all__ = ["Loggers"]

_PROJECT = "mask2former"


class Loggers:
    """The loggers in the settings of a run.

    A resumed run continues its records in a service, whose ids are in ``loggers.json`` in its directory.

    Args:
        config: settings of the complete run.
        others: loggers of the run besides these, whose files are left alone.
        resume: whether it is resumed.
        replaces: whether it replaces another run, whose event files are then removed.

    Raises:
        MissingExtraError: a package is not installed.
    """

    def __init__(
        self, config: RunConfig, others: Sequence[Logger] = (), *, resume: bool = False, replaces: bool = False
    ) -> None:
        self._file = Path(config.output) / "loggers.json"
        self._known = _read(self._file) if resume and self._file.exists() else {}
        makers = {"tensorboard": _tensorboard, "wandb": _wandb, "mlflow": _mlflow}
        wanted = [name for name in dict.fromkeys(config.trainer.loggers) if name in makers]
        self._by_name = {name: makers[name](Path(config.output), self._known.get(name)) for name in wanted}
        # Listed now, because Lightning opens the file of this run before ``begin``.
        self._earlier = () if resume else tuple(self._file.parent.glob("tensorboard/events.out.tfevents.*"))
        self._others, self._replaces = others, replaces

    def __iter__(self) -> Iterator[Logger]:
        yield from self._by_name.values()

    def begin(self, settings: Mapping[str, Any]) -> list[str]:
        """Open the records, with the settings of a new run; called on the first rank, in the directory of the run.

        Returns:
            Sentences for the user.

        Raises:
            UserError: a service rejects the run or cannot be reached.
        """
        notes = self._clear_events()
        services = {name: logger for name, logger in self._by_name.items() if name != "tensorboard"}
        for name, logger in services.items():
            try:
                if name not in self._known:
                    logger.log_hyperparams({key: str(value) for key, value in settings.items()})
                self._known[name] = str(logger.version)
            except Exception as error:  # an external service can fail in any way
                raise UserError(
                    f"trainer.loggers: {name} cannot record this run ({printable(str(error), 200)}); "
                    + ("WANDB_MODE=offline" if name == "wandb" else "MLFLOW_TRACKING_URI=sqlite:///FILE.db")
                    + " logs without a service"
                ) from error
        if self._known:
            write_whole(self._file, lambda file: file.write_text(json.dumps(self._known), encoding="utf-8"))
        else:  # it belongs to a run that was overwritten
            self._file.unlink(missing_ok=True)
        return notes

    def _clear_events(self) -> list[str]:
        """Remove the event files of a run that is replaced: TensorBoard would draw them as one curve with new ones."""
        kept = list(self._earlier)
        if self._replaces:
            kept = [path for path in self._earlier if self._may_be_open(path) or not _is_removed(path)]
        removed, folder = len(self._earlier) - len(kept), self._file.parent / "tensorboard"
        notes = []
        if removed:
            notes.append(f"removed {count(removed, 'event file')} of the run that is replaced from '{folder}'")
        if kept and ("tensorboard" in self._by_name or self._replaces):
            files, why = count(len(kept), "event file"), ", which a program may have open" if self._replaces else ""
            notes.append(
                f"kept {files} of an earlier run in '{folder}'{why}; TensorBoard joins their curves with those of this "
                "run: move or delete them, or choose another output"
            )
        return notes

    def _may_be_open(self, path: Path) -> bool:
        """Whether a file was begun by this process, for a folder that another logger of the run writes to."""
        is_own = f".{socket.gethostname()}.{os.getpid()}." in path.name
        folders = (logger.log_dir for logger in self._others if logger.log_dir is not None) if is_own else ()
        return any(Path(folder).resolve() == path.parent.resolve() for folder in folders)

    @contextlib.contextmanager
    def closing(self) -> Iterator[None]:
        """Close the records after the block, so that another run in this process gets its own."""
        try:
            yield
        finally:
            if "wandb" in self._by_name:
                import wandb  # pyright: ignore[reportMissingImports]  (an extra)

                wandb.finish()


def _is_removed(path: Path) -> bool:
    try:
        path.unlink(missing_ok=True)
    except PermissionError:  # on Windows, another program has it open, such as TensorBoard
        return False
    return True


def _read(file: Path) -> dict[str, str]:
    values = read_json(file, "record of the loggers")
    if not isinstance(values, dict) or not all(isinstance(value, str) for value in values.values()):
        raise UserError(f"'{file}' does not say which records the run continues; delete it to start new ones")
    return values


def _tensorboard(directory: Path, version: str | None) -> Logger:
    """Event files, in a folder of the run."""
    need("train", "tensorboard", to="write event files")  # for which Lightning would use another package
    from lightning.pytorch.loggers import TensorBoardLogger

    return TensorBoardLogger(directory, name="tensorboard", version="")


def _wandb(directory: Path, version: str | None) -> Logger:
    """Weights & Biases: the project is ``WANDB_PROJECT``; all other variables of wandb apply, too."""
    need("wandb", "wandb", to="log to Weights & Biases")
    from lightning.pytorch.loggers import WandbLogger

    project = os.environ.get("WANDB_PROJECT", _PROJECT)
    return WandbLogger(name=directory.name, save_dir=directory, project=project, version=version, resume="allow")


def _mlflow(directory: Path, version: str | None) -> Logger:
    """MLflow: the address is ``MLFLOW_TRACKING_URI``, or a file of the run; ``MLFLOW_EXPERIMENT_NAME`` applies."""
    need("mlflow", "mlflow", to="log to MLflow")
    from lightning.pytorch.loggers import MLFlowLogger

    return MLFlowLogger(
        experiment_name=os.environ.get("MLFLOW_EXPERIMENT_NAME", _PROJECT),
        run_name=directory.name,
        tracking_uri=os.environ.get("MLFLOW_TRACKING_URI", f"sqlite:///{directory.resolve() / 'mlflow.db'}"),
        run_id=version,
    )
