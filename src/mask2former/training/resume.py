"""Resuming a run: the settings of its last checkpoint, compared with the new ones.

Every setting either takes effect from the step at which the run is resumed, or must not change. A setting that is in
neither list counts as one that must not change. Files are read, but not changed.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mask2former import limits
from mask2former.config import RunConfig, leaves, parse
from mask2former.dataset_tools.requirements import batch_size_per_device
from mask2former.documents import read_yaml
from mask2former.errors import UserError
from mask2former.structures.categories import Categories
from mask2former.text import listed, quoted
from mask2former.training.checkpointing import figure, loaded
from mask2former.training.optim import learning_rate_factor

__all__ = ["FIXED", "FREE", "LastState", "check_objects", "compare", "record_of", "setting_of"]


def _settings(groups: Mapping[str, str]) -> frozenset[str]:
    return frozenset(f"{group}.{name}" for group, names in groups.items() for name in names.split())


# Settings on which the weights in the checkpoint depend.
FIXED = _settings(
    {
        "model.backbone": "name model norm kwargs pyramid joint_blocks embed_dim depths num_heads window_size",
        "model.pixel_decoder": "name dim mask_dim num_layers num_heads num_points feedforward_dim pre_norm num_groups "
        "stages",
        "model.transformer_decoder": "name dim num_queries num_layers num_heads feedforward_dim position_encoding "
        "attention scales order query_init pre_norm pilots "
        "project_inputs num_encoder_layers source project_source",
        "model": "init init_partial init_backbone init_classes init_channels pixel_mean pixel_std",
        "data": "validation",  # with another split, training data of earlier steps would be used for validation
    }
)

# Settings that take effect at once. The data set and the augmentation count as one setting each: they are rebuilt, and
# the checkpoint only has their classes and number of samples, which are compared.
FREE = _settings(
    {
        "model.backbone": "drop_path_rate",
        "model.pixel_decoder": "dropout",
        "model.transformer_decoder": "dropout pilot_noise mask_annealing",
        "model.inference": "tasks short_edge long_edge resampling resize_masks_first things_only score_threshold "
        "instance_threshold class_thresholds overlap_threshold max_instances things_first non_overlapping tile "
        "tile_overlap diameter value_range bands classes min_area",
        "criterion": "class_weight mask_weight dice_weight no_object_weight class_weights mask_loss match_on loss_on "
        "num_points oversample_ratio importance_sample_ratio void",
        "data": "dataset augmentation copy_paste filter_empty group_by_aspect batch_size batch_size_per_device "
        "num_workers",
        "optim": "lr weight_decay betas eps backbone_multiplier clip_norm schedule schedule_steps steps gamma "
        "poly_power warmup_steps warmup_factor ema_decay freeze",
        "trainer": "max_steps max_hours precision accelerator devices num_nodes strategy half_pixel_decoder "
        "channels_last gradient_checkpointing log_interval checkpoint_interval loggers",
        "evaluation": "interval patience num_images tasks monitor choose_threshold max_detections area_limits boundary "
        "pooled_threshold semantic_segments",
    }
) | {"output", "seed"}
_WHOLE = ("data.dataset", "data.augmentation", "data.validation")

# Settings on which metrics depend: if they change, metrics before and after cannot be compared.
_MEASURE = re.compile(
    r"model\.inference\.(?!instance_threshold|class_thresholds)|data\.dataset\."
    r"|evaluation\.(monitor|max_detections|area_limits|pooled_threshold)$"
)
_ORDER = {"seed", "data.batch_size", "data.filter_empty", "data.group_by_aspect"}  # define the order of samples
_SHOWN = 6  # reasons in a note, classes in a message


@dataclass(frozen=True)
class LastState:
    """The information in ``last.ckpt`` about its run, apart from tensors.

    Attributes:
        path: path of the checkpoint.
        step: number of optimizer steps before it.
        config: the settings at that time.
        num_classes: of its class head.
        categories: its classes; None in checkpoints of 0.1.0.
        num_samples: of the training and the validation data; None in checkpoints of 0.1.0.
        license: of its weights, if known.
        waited: validations without a better monitor, if patience was set.
        notes: sentences for the user.
        validation: digest of its validation data, see :func:`~mask2former.training.data_state.digest_of`; None in
            checkpoints of 0.1.0.
        start: the monitor before the first step; None if it was not measured.
        has_best: whether there was a best validation.
        validation_due: whether the validation of this step was still to be done; also False in checkpoints of 0.1.0.
        num_rows: of the table of metrics; None in checkpoints of 0.1.0.
        objects: names of objects that were passed in Python instead of settings.
        unit: number of successive images of one group, see :class:`StepSampler`; None if they are not grouped.
        training: digest of its training data; None in earlier checkpoints.
    """

    path: Path
    step: int
    config: RunConfig
    num_classes: int
    categories: Categories | None
    num_samples: tuple[int, int] | None
    license: str | None
    waited: int
    notes: tuple[str, ...]
    validation: str | None = None
    start: float | None = None
    has_best: bool = False
    validation_due: bool = False
    num_rows: int | None = None
    objects: tuple[str, ...] = ()
    unit: int | None = None
    training: str | None = None

    @classmethod
    def read(cls, path: Path) -> LastState:
        """Read a checkpoint; one of 0.1.0 has no record of its settings, so ``run.yaml`` is used instead.

        Raises:
            UserError: the file is damaged, or there is no record of the settings.
        """
        with loaded(path) as state:
            return cls._of(path, state)

    @classmethod
    def _of(cls, path: Path, state: Mapping[str, Any]) -> LastState:
        step, weights = _whole(state["global_step"]), state["state_dict"]
        if not state["optimizer_states"]:
            raise ValueError("it has no optimizer state")
        callbacks = state.get("callbacks", {})
        stopping = [value for name, value in callbacks.items() if name.startswith("EarlyStopping")]
        waited = _whole(stopping[0]["wait_count"]) if stopping else 0
        kept = callbacks.get("KeepCheckpoints", {})
        start, has_best = figure(kept.get("start_value")), float(kept.get("best_value", -math.inf)) > -math.inf
        due, rows = bool(kept.get("validation_due")), kept.get("num_rows")
        record = state.get("run")
        if record is None:
            file = path.parents[1] / "run.yaml"
            try:
                config = parse(RunConfig, read_yaml(file, "run file"), str(file))
            except UserError as error:
                raise UserError(
                    f"cannot resume: {path} has no record of its settings (version 0.1.0 wrote none), and {file}, "
                    f"which contains them, cannot be read: {error}"
                ) from error
            note = (
                f"{path.name} has no record of its settings and classes (version 0.1.0 wrote none): its "
                f"settings are compared with {file}, and the order of its classes cannot be checked"
            )
            num_classes = len(weights["model.transformer_decoder.class_head.bias"]) - 1
            return cls(path, step, config, num_classes, None, None, None, waited, (note,), None, start, has_best)
        config = parse(RunConfig, record["config"], f"{path}: settings of the run")
        categories = Categories.from_dict(record["categories"])
        training, validation = record["num_samples"]
        return cls(
            path,
            step,
            config,
            len(categories),
            categories,
            (_whole(training), _whole(validation)),
            _text(record.get("license", record.get("licence"))),
            waited,
            (),
            _text(record.get("validation")),
            start,
            has_best,
            due,
            None if rows is None else _whole(rows),
            tuple(str(_text(name)) for name in record.get("objects", ())),
            _unit(record.get("unit"), config),
            _text(record.get("training")),
        )

    def is_comparable(
        self, state: Mapping[str, Any], config: RunConfig, num_validation: int | None, validation: str | None
    ) -> bool:
        """Whether metrics in another checkpoint of this run can be compared with those measured now.

        Args:
            state: the content of the checkpoint; without a record (0.1.0), it was measured like this one.
            config: the new settings.
            num_validation: current number of samples of the validation data.
            validation: their digest.
        """
        record = state.get("run")
        if record is None:
            before, count, digest = self.config, self.num_samples and self.num_samples[1], self.validation
        else:
            before = parse(RunConfig, record["config"], "settings of the run")
            count, digest = int(record["num_samples"][1]), record.get("validation")
        return not _measured_otherwise(before, count, digest, config, num_validation, validation)


def _whole(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= limits.INTEGER:
        raise ValueError(f"found {quoted(value)} where a number of steps, rows or samples was expected")
    return value


def _unit(value: Any, config: RunConfig) -> int | None:
    """The value as written, or for earlier checkpoints the value that was used then."""
    if not config.data.group_by_aspect:
        return None
    unit = batch_size_per_device(config) if value is None else _whole(value)
    if unit == 0 or config.data.batch_size % unit:
        raise ValueError(f"units of {unit} images do not divide a batch of {config.data.batch_size}")
    return unit


def _text(value: Any) -> str | None:
    if value is not None and not isinstance(value, str):
        raise ValueError(f"found {quoted(value)} where text was expected")
    return value


def record_of(
    config: RunConfig,
    categories: Categories,
    num_samples: tuple[int, int],
    license: str | None,
    validation: str | None = None,
    objects: Sequence[str] = (),
    unit: int | None = None,
    training: str | None = None,
) -> dict[str, Any]:
    """Information about a run for its checkpoints, with plain values only; :meth:`LastState.read` reads it."""
    given = {"objects": list(objects)} if objects else {}
    units = {} if unit is None else {"unit": unit}
    return {
        **given,
        **units,
        "config": config.model_dump(mode="json"),
        "categories": categories.to_dict(),
        "num_samples": list(num_samples),
        "license": license,
        "validation": validation,
        "training": training,
    }


def check_objects(last: LastState, objects: Sequence[str]) -> None:
    """Check that a run with objects instead of settings is resumed with the same objects.

    Raises:
        UserError: an object was not passed again, or was not passed before.
    """
    if list(last.objects) == list(objects):
        return
    if last.objects:
        again = ", ".join(f"{name}=..." for name in last.objects)
        what = f"it was started in Python with {', '.join(last.objects)}; pass the same again: train(config, {again}, "
    else:
        what = f"it was started without {', '.join(objects)}; leave it out: train(config, "
    raise UserError(f"cannot resume {last.path.parents[1]}: {what}resume=True)")


def setting_of(leaf: str) -> str:
    """The entry of :data:`FIXED` or :data:`FREE` that a setting belongs to."""
    return next((whole for whole in _WHOLE if leaf.startswith(f"{whole}.")), leaf)


@dataclass(frozen=True)
class Comparison:
    """Differences between the settings before and now.

    Attributes:
        notes: sentences for the user.
        changes: all changed settings, with their values before and now.
        measured_otherwise: why metrics of validations before and after cannot be compared; empty if they can.
        drawn_anew: whether samples have another order from here on.
    """

    notes: tuple[str, ...]
    changes: tuple[str, ...]
    measured_otherwise: tuple[str, ...]
    drawn_anew: bool = False

    @property
    def measured_anew(self) -> bool:
        """Whether metrics of validations before and after cannot be compared."""
        return bool(self.measured_otherwise)


def compare(
    last: LastState,
    config: RunConfig,
    categories: Categories,
    num_samples: tuple[int, int],
    validation: str | None = None,
    training: str | None = None,
) -> Comparison:
    """What changes if a run is resumed with ``config``.

    Args:
        last: the state from which it is resumed.
        config: the new settings, complete.
        categories: the current classes of the training data.
        num_samples: current numbers of samples of the training and the validation data.
        validation: digest of the current validation data.
        training: digest of the current training data.

    Raises:
        UserError: something that must not change is different; the message lists all differences.
    """
    different = _different(last.config, config)
    faults = [
        f"{name} was {_shown(old)} and is {_shown(new)} now"
        for name, (old, new) in different.items()
        if setting_of(name) not in FREE
    ]
    if faults:
        raise UserError(
            f"cannot resume {last.path.parents[1]}: {'; '.join(faults)}; restore these settings, or start a new run "
            "in another output directory"
        )
    _check_classes(last, categories)
    notes = [*last.notes]
    if last.categories is not None:
        ids = [(item.id, other.id) for item, other in zip(last.categories, categories, strict=True)]
        if moved := [f"{old} -> {new}" for old, new in ids if old != new]:
            notes.append(
                f"category ids have changed ({listed(moved, _SHOWN)}) but names have not; the model will use "
                "the new ids"
            )
    changes = [f"{name} {_shown(old)} -> {_shown(new)}" for name, (old, new) in different.items()]
    if changes:
        count = f"{len(changes)} settings change" if len(changes) > 1 else "1 setting changes"
        notes.append(f"{count} after step {last.step} (before -> now): {listed(changes, None)}")
    is_other_number = last.num_samples is not None and num_samples[0] != last.num_samples[0]
    is_other_order = bool(_ORDER & different.keys())
    if is_other_number and last.num_samples is not None:
        notes.append(
            f"the training data has {num_samples[0]} samples now but had {last.num_samples[0]} before: the order of "
            f"samples changes after step {last.step}"
        )
    elif None not in (training, last.training) and training != last.training:
        notes.append(
            "the training data has as many samples as before, but other ones (by names, ids or numbers of objects), "
            f"which are learned after step {last.step}"
        )
    if is_other_order and not is_other_number:
        notes.append(f"the order of samples changes after step {last.step}")
    notes += _about_rate(last, config)
    count = None if last.num_samples is None else last.num_samples[1]
    anew = _measured_otherwise(last.config, count, last.validation, config, num_samples[1], validation)
    if anew:
        notes.append(
            f"metrics before and after step {last.step} cannot be compared ({', '.join(anew[:_SHOWN])}): "
            "the best validation and patience start over"
        )
    return Comparison(tuple(notes), tuple(changes), tuple(anew), is_other_number or is_other_order)


def _different(before: RunConfig, now: RunConfig) -> dict[str, tuple[Any, Any]]:
    old, new = leaves(before), leaves(now)
    return {
        name: (old.get(name), new.get(name))
        for name in {**old, **new}
        if old.get(name) != new.get(name) and name != "output"
    }


def _measured_otherwise(
    before: RunConfig,
    count_before: int | None,
    digest_before: str | None,
    now: RunConfig,
    count: int | None,
    digest: str | None,
) -> list[str]:
    """Why metrics of two checkpoints cannot be compared: settings, or the validation data."""
    reasons = [name for name, pair in _different(before, now).items() if _MEASURE.match(name) and _counts(name, pair)]
    if count_before is not None and count is not None and count != count_before:
        reasons.append(f"{count} validation samples instead of {count_before}")
    elif digest_before is not None and digest is not None and digest != digest_before:
        reasons.append("other validation samples")
    if bool(before.optim.ema_decay) != bool(now.optim.ema_decay):
        reasons.append("optim.ema_decay")
    return reasons


def _counts(name: str, pair: tuple[Any, Any]) -> bool:
    """For a data set, only values that are no paths or words count: the same data may have moved."""
    if not name.startswith("data.dataset."):
        return True
    flat = [item for value in pair for item in (value if isinstance(value, list) else [value])]
    return any(isinstance(item, int | float) for item in flat)


def _check_classes(last: LastState, categories: Categories) -> None:
    where = f"cannot resume {last.path.parents[1]}"
    what_to_do = "use the class list of the run, or start a new run in another output directory"
    if last.categories is None:
        if last.num_classes != len(categories):
            raise UserError(
                f"{where}: the training data has {len(categories)} classes, but the run was trained with "
                f"{last.num_classes}; {what_to_do}"
            )
        return
    before, now = (
        [item.name + ("" if item.is_thing else " (stuff)") for item in classes]
        for classes in (last.categories, categories)
    )
    if before == now:
        return
    if sorted(before) == sorted(now):
        first = next(index for index in range(len(now)) if before[index] != now[index])
        raise UserError(
            f"{where}: the training data lists the classes in another order: class {first} was '{before[first]}' but "
            f"is '{now[first]}' now; {what_to_do}"
        )
    gone, new = ([name for name in one if name not in other] for one, other in ((before, now), (now, before)))
    parts = [f"{kind} {listed(names, _SHOWN)}" for kind, names in (("gone:", gone), ("new:", new)) if names]
    raise UserError(
        f"{where}: the training data has other classes ({'; '.join(parts)}): {len(before)} before, {len(now)} now; "
        f"{what_to_do}"
    )


def _about_rate(last: LastState, config: RunConfig) -> list[str]:
    """The effect of changed settings of the schedule on the learning rate at this step."""
    old, new = (
        run.optim.lr * learning_rate_factor(last.step, run.optim.schedule_steps or run.trainer.max_steps, run.optim)
        for run in (last.config, config)
    )
    if abs(old - new) <= 0.01 * max(old, new):
        return []
    length = last.config.optim.schedule_steps or last.config.trainer.max_steps
    is_longer = config.optim.schedule == "poly" and last.step < length != config.trainer.max_steps
    same_rate = (last.config.optim.lr, None) == (config.optim.lr, config.optim.schedule_steps)
    keep = f" (optim.schedule_steps={length} keeps it)" if is_longer and same_rate else ""
    return [f"the learning rate after step {last.step} changes from {old:.2g} to {new:.2g}{keep}"]


def _shown(value: Any) -> str:
    text = str(value) if not isinstance(value, Mapping) else str(dict(value))
    return text if len(text) <= 60 else f"{text[:57]}..."
