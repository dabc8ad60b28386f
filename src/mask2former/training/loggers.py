"""Further destinations for the metrics of a run besides ``metrics.csv``: Lightning's own loggers, by name."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers.logger import Logger

from mask2former.config import RunConfig
from mask2former.documents import read_json
from mask2former.errors import MissingExtraError, UserError
from mask2former.files import write_whole
from mask2former.text import printable

__all__ = ["Loggers"]

_PROJECT = "mask2former"


class Loggers:
    """The loggers in the settings of a run.

    A resumed run continues its records in a service, whose ids are in ``loggers.json`` in its directory.

    Args:
        config: settings of the complete run.
        resume: whether it is resumed.

    Raises:
        MissingExtraError: a package is not installed.
    """

    def __init__(self, config: RunConfig, *, resume: bool) -> None:
        self._file = Path(config.output) / "loggers.json"
        self._known = _read(self._file) if resume and self._file.exists() else {}
        makers = {"tensorboard": _tensorboard, "wandb": _wandb, "mlflow": _mlflow}
        wanted = [name for name in dict.fromkeys(config.trainer.loggers) if name in makers]
        self._by_name = {name: makers[name](Path(config.output), self._known.get(name)) for name in wanted}
        # Listed now, because Lightning opens the file of this run before ``begin``.
        self._stale = () if resume else tuple(self._file.parent.glob("tensorboard/events.out.tfevents.*"))

    def __iter__(self) -> Iterator[Logger]:
        yield from self._by_name.values()

    def begin(self, settings: Mapping[str, Any]) -> None:
        """Open the records, with the settings of a new run; called on the first rank, in the directory of the run.

        Raises:
            UserError: a service rejects the run or cannot be reached.
        """
        for path in self._stale:  # TensorBoard would draw them as one curve with those of this run
            path.unlink(missing_ok=True)
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

    @contextlib.contextmanager
    def closing(self) -> Iterator[None]:
        """Close the records after the block, so that another run in this process gets its own."""
        try:
            yield
        finally:
            if "wandb" in self._by_name:
                import wandb  # pyright: ignore[reportMissingImports]  (an extra)

                wandb.finish()


def _read(file: Path) -> dict[str, str]:
    values = read_json(file, "record of the loggers")
    if not isinstance(values, dict) or not all(isinstance(value, str) for value in values.values()):
        raise UserError(f"'{file}' does not say which records the run continues; delete it to start new ones")
    return values


def _tensorboard(directory: Path, version: str | None) -> Logger:
    """Event files, in a folder of the run."""
    try:
        import tensorboard  # noqa: F401  (Lightning's logger would fall back to another package)
    except ImportError as error:
        raise MissingExtraError("tensorboard", "train") from error
    from lightning.pytorch.loggers import TensorBoardLogger

    return TensorBoardLogger(directory, name="tensorboard", version="")


def _wandb(directory: Path, version: str | None) -> Logger:
    """Weights & Biases: the project is ``WANDB_PROJECT``; all other variables of wandb apply, too."""
    try:
        import wandb  # noqa: F401  # pyright: ignore[reportMissingImports]  (an extra)
    except ImportError as error:
        raise MissingExtraError("wandb", "wandb") from error
    from lightning.pytorch.loggers import WandbLogger

    project = os.environ.get("WANDB_PROJECT", _PROJECT)
    return WandbLogger(name=directory.name, save_dir=directory, project=project, version=version, resume="allow")


def _mlflow(directory: Path, version: str | None) -> Logger:
    """MLflow: the address is ``MLFLOW_TRACKING_URI``, or a file of the run; ``MLFLOW_EXPERIMENT_NAME`` applies."""
    try:
        import mlflow  # noqa: F401  # pyright: ignore[reportMissingImports]  (an extra)
    except ImportError as error:
        raise MissingExtraError("mlflow", "mlflow") from error
    from lightning.pytorch.loggers import MLFlowLogger

    return MLFlowLogger(
        experiment_name=os.environ.get("MLFLOW_EXPERIMENT_NAME", _PROJECT),
        run_name=directory.name,
        tracking_uri=os.environ.get("MLFLOW_TRACKING_URI", f"sqlite:///{directory.resolve() / 'mlflow.db'}"),
        run_id=version,
    )
