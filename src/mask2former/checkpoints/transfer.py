"""Training that starts from another model: what is copied, what is adapted, and what is newly initialised.

For official weights on your own classes. Must not know where the other model came from.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from mask2former.checkpoints.checkpoint import Checkpoint, load_into
from mask2former.config import BackboneConfig, ModelConfig, parse
from mask2former.errors import UserError
from mask2former.models.mask2former import Mask2Former
from mask2former.models.transformer_decoders import PerPixelPlusHead
from mask2former.structures.categories import Categories
from mask2former.structures.model_info import NO_LICENSE, ModelInfo
from mask2former.text import count, listed, quoted
from mask2former.value_range import ranges_of_bands

__all__ = [
    "UnfitError",
    "check_settings",
    "computed_otherwise",
    "explicit_settings",
    "filled_in",
    "other_channels",
    "resized_bias_table",
    "start_from",
    "takes_class_head",
    "with_backbone",
    "with_own_channels",
    "with_own_windows",
    "with_settings_of",
]

_CLASS_HEAD = "transformer_decoder.class_head."
_CLASS_QUERIES = "transformer_decoder.transformer.query_positions."
_PILOTS = "transformer_decoder.pilot_classes."
_COUNTER = ".num_batches_tracked"  # of batch norms that are learned; frozen ones have no such entry
_BACKBONE = "backbone."
_QUERIES = (
    "transformer_decoder.query_features.weight",
    "transformer_decoder.query_positions.weight",
    "transformer_decoder.transformer.query_positions.weight",  # of MaskFormer
    "transformer_decoder.queries.weight",  # among the tokens of the backbone
)
_NAMED = 6  # classes listed in a message
_TABLE = "relative_position_bias_table"

_PARTS = ("backbone", "pixel_decoder", "transformer_decoder")
_NORMALISATION = ("pixel_mean", "pixel_std")
# Settings that may differ from those of the weights: no weights depend on them.
_WITHOUT_WEIGHTS = frozenset(
    {
        "drop_path_rate",
        "dropout",
        "attention",
        "scales",
        "order",
        "query_init",
        "position_encoding",
        "norm",
        "pilots",
        "pilot_noise",
        "mask_annealing",
    }
)
# Values of such settings that have weights of their own, so that they fit only the same value.
_WITH_WEIGHTS = {"attention": ("smca", "mask_pool"), "query_init": ("zero",)}
# Settings with which the same weights predict something else.
_COMPUTATION = ("attention", "scales", "order", "query_init")
# Settings that change only shapes, so that a partial start can copy the rest.
_SHAPES = frozenset(
    {"kwargs", "dim", "embed_dim", "feedforward_dim", "mask_dim", "num_points", "num_queries", "stages", "window_size"}
)


def with_settings_of(model: ModelConfig, source: ModelInfo, name: str) -> ModelConfig:
    """The settings of a model that starts from another: its own where they are set, else those of the other.

    The inference settings are copied if the tasks are the same; otherwise only the sizes are.

    Args:
        model: what was set; settings that were left out are not in ``model_fields_set``.
        source: the description of the other model.
        name: what ``source`` is called in messages.

    Raises:
        UserError: the two contradict each other.
    """
    values = explicit_settings(model)
    return parse(ModelConfig, filled_in(values, source), f"the run with the settings of {name}, model")


def explicit_settings(model: ModelConfig) -> dict[str, Any]:
    """The settings of a model that were set, as in a run file."""
    values: dict[str, Any] = {name: getattr(model, name) for name in model.model_fields_set}
    for part in _PARTS:
        if explicit := _explicit(model, part):
            values[part] = {"name": getattr(model, part).name, **explicit}
    values["inference"] = _explicit(model, "inference")
    return values


def with_backbone(values: Mapping[str, Any], backbone: BackboneConfig) -> dict[str, Any]:
    """Settings as in a run file, completed with those of a backbone."""
    return dict(values) | _filled_part(values, "backbone", backbone.model_dump())


def _filled_part(values: Mapping[str, Any], part: str, theirs: dict[str, Any]) -> dict[str, Any]:
    own = values.get(part, {})
    return {part: theirs | own} if isinstance(own, dict) and own.get("name", theirs["name"]) == theirs["name"] else {}


def filled_in(values: Mapping[str, Any], source: ModelInfo) -> dict[str, Any]:
    """Like :func:`with_settings_of`, for settings as in a run file, which may be valid only with the others."""
    result = dict(values)
    for part in _PARTS if source.architecture is not None else ():
        result |= _filled_part(values, part, getattr(source.architecture, part).model_dump())
    if source.architecture is not None:
        result = {name: getattr(source.architecture, name) for name in _NORMALISATION} | result
    own, theirs = values.get("inference", {}), source.inference.model_dump()
    if isinstance(own, dict):
        tasks = own.get("tasks", theirs["tasks"])
        if not isinstance(tasks, list | tuple) or set(tasks) != set(theirs["tasks"]):
            theirs = {key: theirs[key] for key in ("short_edge", "long_edge", "bands", "value_range")}
        elif own.get("tile") == 0:
            theirs["diameter"] = 0.0  # it applies to tiles only
        if "score_threshold" in own and "panoptic" not in tasks:
            theirs.pop("instance_threshold", None)  # which is what run files of 0.1.0 mean
        theirs.pop("class_thresholds", None)  # tuned on other data, and the names may differ
        if len(result.get("pixel_mean", ())) not in (0, source.inference.channels):
            theirs.pop("bands")  # of images with other channels
            if ranges_of_bands(theirs.get("value_range")) is not None:
                theirs.pop("value_range")
        theirs.pop("resampling", None)  # as in the run, which also resizes its training images
        result["inference"] = theirs | own
    return result


class UnfitError(UserError):
    """Settings contradict the weights of another model.

    Args:
        fault: which settings, with both values.
        advice: what to do about settings that the user has made, after a semicolon.
        partly: what else helps, after a semicolon; empty if nothing does.
    """

    def __init__(self, fault: str, advice: str, partly: str) -> None:
        super().__init__(fault + advice + partly)
        self.fault, self.partly = fault, partly


def check_settings(
    model: ModelConfig, source: ModelInfo, name: str, *, partial: bool, other_backbone: bool = False
) -> None:
    """Refuse settings that contradict the weights of another model; loading would report entries instead.

    Args:
        model: what was set, as for :func:`with_settings_of`.
        source: the model that the weights are for; settings of custom parts are not known.
        name: what they are called in messages.
        partial: the numbers of queries, channels and windows may differ.
        other_backbone: the backbone and the normalisation of images are not those of the other model.

    Raises:
        UnfitError: naming each of these settings.
    """
    allowed = _WITHOUT_WEIGHTS | _SHAPES if partial else _WITHOUT_WEIGHTS
    faults, keys = list[str](), set[str]()
    for part in _PARTS if source.architecture is not None else ():
        if part == "backbone" and other_backbone:
            continue
        own, theirs, explicit = getattr(model, part), getattr(source.architecture, part), _explicit(model, part)
        if explicit and type(own) is not type(theirs):
            explicit = {"name": own.name}
        for key, value in explicit.items():
            there = getattr(theirs, key)
            fits = key in allowed and not any(one in (value, there) for one in _WITH_WEIGHTS.get(key, ()))
            if value != there and not fits:
                faults.append(f"model.{part}.{key} is {value} in the run but {there} in the weights")
                keys.add(key)
    if not other_backbone:
        faults += _normalisation_faults(model, source, name)
    if faults:
        fits_partly = not partial and keys and keys <= _SHAPES
        partly = "; with model.init_partial=true other queries and sizes are newly initialised" if fits_partly else ""
        raise UnfitError(
            f"{name} does not fit: {'; '.join(faults)}",
            f"; leave these settings out, and they are taken from {name}",
            partly,
        )


def computed_otherwise(model: ModelConfig, source: ModelInfo) -> list[str]:
    """Settings of the decoder with which weights predict something else than with those that they were trained with.

    Args:
        model: the settings of the model that has the weights now.
        source: the model that they are from.
    """
    here = model.transformer_decoder
    there = None if source.architecture is None else source.architecture.transformer_decoder
    if there is None or type(here) is not type(there):
        return []
    pairs = ((key, getattr(here, key, None), getattr(there, key, None)) for key in _COMPUTATION)
    return [f"{key} is {value} here and was {before} there" for key, value, before in pairs if value != before]


def _normalisation_faults(model: ModelConfig, source: ModelInfo, name: str) -> list[str]:
    says_channels = "pixel_mean" in model.model_fields_set  # if not, they come from the weights
    has_others = says_channels and source.architecture is not None and model.channels != source.architecture.channels
    if has_others and model.init_channels == "same":
        raise UserError(other_channels(name, source.inference.channels, model.channels))
    if source.architecture is None or has_others:
        return []
    return [
        f"model.{key} is {list(getattr(model, key))} in the run but {list(getattr(source.architecture, key))} in the "
        "weights"
        for key in _NORMALISATION
        if key in model.model_fields_set and getattr(model, key) != getattr(source.architecture, key)
    ]


def _explicit(model: ModelConfig, part: str) -> dict[str, Any]:
    own = getattr(model, part)
    is_set = part in model.model_fields_set
    return {key: getattr(own, key) for key in type(own).model_fields if is_set and key in own.model_fields_set}


def takes_class_head(own: Categories, theirs: Categories, *, partial: bool, by_name: bool = False) -> bool:
    """Whether a model with classes ``own`` can copy all of their rows from one with ``theirs``; otherwise some are new.

    It can if the names are equal, if both have a single class and, unless the start is ``partial``, by position; with
    ``by_name``, if all of its names are among the others.
    """
    if by_name:
        return set(own.names) <= _unique(theirs.names) and len(_unique(own.names)) == len(own)
    is_same = sorted(own.names) == sorted(theirs.names) or len(own) == len(theirs) == 1
    return is_same or (not partial and _fits_by_position(own.names, theirs.names))


def _fits_by_position(here: tuple[str, ...], there: tuple[str, ...]) -> bool:
    """Whether both have the same number of classes, none of which has its name at another index."""
    moved = any(one in there and there.index(one) != index for index, one in enumerate(here))
    return len(here) == len(there) and not moved


def _unique(names: tuple[str, ...]) -> set[str]:
    return {name for name, number in Counter(names).items() if number == 1}


def start_from(
    model: Mask2Former,
    source: Checkpoint,
    name: str,
    *,
    partial: bool,
    by_name: bool = False,
    repeat_channels: bool = False,
    other_backbone: bool = False,
) -> list[str]:
    """Fill ``model`` with the weights of another one.

    Args:
        model: freshly initialised, with its classes; receives the weights and the license.
        source: the trained one.
        name: what ``source`` is called in messages.
        partial: without it, everything must fit. With it, the first queries are copied; position biases of Swin are
            resized to another window; and the class head, if the class names differ, and whatever else has another
            shape are newly initialised.
        by_name: the classes may differ: those of the same name keep their rows of the class head, as "no object" does,
            and the others are newly initialised.
        repeat_channels: the images may have a different number of channels, see :func:`with_own_channels`.
        other_backbone: ``model`` keeps its backbone, which has its weights already.

    Returns:
        One phrase for each thing that was not simply copied; empty if everything was.

    Raises:
        UserError: the weights do not fit; the message lists why.
    """
    own, state = model.state_dict(), dict(source.state)
    pilots = [name for name in own if name.startswith(_PILOTS) and name not in state]
    state = {name: value for name, value in state.items() if name in own or not name.startswith(_PILOTS)}
    state |= {name: own[name] for name in pilots}
    notes = _with_own_classes(model, source, own, state, name, partial=partial, by_name=by_name)
    if other_backbone:
        state = {key: value for key, value in state.items() if not key.startswith(_BACKBONE)}
        state |= {key: value for key, value in own.items() if key.startswith(_BACKBONE)}
    else:
        there = source.info.inference.channels
        notes += with_own_channels(own, state, there, model.channels, name, repeat=repeat_channels)
    notes += _with_own_counters(own, state)
    if partial:
        notes += _with_own_queries(own, state)
        notes += with_own_windows(own, state)
    if pilots:
        notes.append("the classes of pilots are newly initialised")
    left_out = load_into(model, state, name, drop_misshaped=partial, spellings=source.spellings)
    if left_out:
        notes.append(f"newly initialised, since the shapes differ: {listed(left_out, None)}")
    license = source.info.license
    if other_backbone and license != model.info.license:
        license = f"{license or NO_LICENSE}; backbone: {model.info.license or NO_LICENSE}"
    model.info = replace(model.info, license=license)
    return notes


def _with_own_classes(
    model: Mask2Former,
    source: Checkpoint,
    own: dict[str, Tensor],
    state: dict[str, Tensor],
    name: str,
    *,
    partial: bool,
    by_name: bool,
) -> list[str]:
    here, there = model.info.known_categories.names, source.categories.names
    if here == there:
        return []
    # In the baseline with one query per class, the queries are its classes.
    of_classes = (
        (_CLASS_HEAD, _CLASS_QUERIES)
        if isinstance(model.transformer_decoder, PerPixelPlusHead)
        else (_CLASS_HEAD, _PILOTS)
    )
    if sorted(here) == sorted(there) and len(set(here)) == len(here):
        order = torch.tensor([*(there.index(one) for one in here), len(there)])  # "no object" is last
        state.update({key: value[order[: len(value)]] for key, value in state.items() if key.startswith(of_classes)})
        return ["classes reordered as in the training data"]
    if by_name:
        return _with_classes_by_name(own, state, of_classes, here, there)
    if len(here) == len(there) == 1:
        return [f"its only class, {quoted(there[0])}, becomes {quoted(here[0])}"]
    if not partial and _fits_by_position(here, there):  # the user declares them to be the same
        renamed = [f"{quoted(old)} is {quoted(new)}" for old, new in zip(there, here, strict=True) if old != new]
        return [f"classes by position: {listed(renamed, 4)} here"]
    if not partial:
        raise UserError(
            f"{name}: its classes are not those of the training data ({_some(there)} there, {_some(here)} here); with "
            "model.init_classes=by-name classes of the same name keep what they have learned, with "
            "model.init_partial=true the class head is newly initialised"
        )
    state.update({key: value for key, value in own.items() if key.startswith(of_classes)})
    return [f"class head newly initialised ({len(there)} classes in the model, {len(here)} in the training data)"]


def _with_classes_by_name(
    own: Mapping[str, Tensor],
    state: dict[str, Tensor],
    of_classes: str | tuple[str, ...],
    here: tuple[str, ...],
    there: tuple[str, ...],
) -> list[str]:
    """The class head with the rows of the classes that both have, and that of "no object", which is last."""
    entries = [key for key in state if key.startswith(of_classes) and key in own]
    with_nothing = {key: len(own[key]) > len(here) for key in entries}
    both = [one for one in here if one in _unique(here) & _unique(there)]
    is_alike = bool(both) and all(
        state[key].shape == (len(there) + with_nothing[key], *own[key].shape[1:]) for key in entries
    )  # with init_partial, the layers before it may have other sizes
    kept = both if is_alike else []
    for key in entries:
        to, source = (
            [*(names.index(one) for one in kept), *[len(names)] * (is_alike and with_nothing[key])]
            for names in (here, there)
        )
        value = own[key].clone()
        value[to] = state[key][source].to(value) if is_alike else value[to]
        state[key] = value
    new, gone = ([one for one in names if one not in kept] for names in (here, there))
    if not kept:
        return [f"none of its {len(there)} classes matches by name: class head newly initialised"]
    parts = ((f"{len(kept)} of {len(here)} classes keep what they have learned", kept), ("new", new), ("gone", gone))
    return ["; ".join(f"{what}: {listed(names, _NAMED)}" for what, names in parts if names)]


def _some(names: tuple[str, ...]) -> str:
    return f"{len(names)}: {listed(names, 4)}"


def _with_own_queries(own: dict[str, Tensor], state: dict[str, Tensor]) -> list[str]:
    both = [name for name in _QUERIES if name in own and name in state]  # queries that start from zero have positions
    if not both or any(own[name].shape[1:] != state[name].shape[1:] for name in both):
        return []
    there, here = (len(values[both[0]]) for values in (state, own))
    if there == here:
        return []
    for name in both:
        state[name] = torch.cat((state[name][:here], own[name][there:]))
    if there > here:
        return [f"the first {here} of {there} queries"]
    return [f"{there} queries, and {here - there} newly initialised ones"]


def _with_own_counters(own: Mapping[str, Tensor], state: dict[str, Tensor]) -> list[str]:
    """Batch norms that are frozen only here, or only there; all else is the same."""
    missing, extra = (
        [name for name in some if name.endswith(_COUNTER) and name not in others]
        for some, others in ((own, state), (state, own))
    )
    state |= {name: own[name] for name in missing}
    for name in extra:
        del state[name]
    said = [*["batch norms are learned here and were frozen there"] * bool(missing)]
    return [*said, *["batch norms are frozen here and were learned there"] * bool(extra)]


def with_own_channels(
    own: Mapping[str, Tensor], state: dict[str, Tensor], there: int, here: int, name: str, *, repeat: bool
) -> list[str]:
    """Adapt the first convolution in ``state`` to another number of image channels, in place; a phrase, if it was.

    Its weights are repeated from channel to channel and multiplied by ``there / here`` or, for one channel, summed. For
    channels with equal values, its output is unchanged where ``here`` is 1 or a multiple of ``there``, and nearly
    unchanged otherwise.

    Args:
        own: the entries of the model.
        state: the weights that it starts from.
        there: number of channels that they are for.
        here: number of channels of the model.
        name: what the weights are called in messages.
        repeat: whether this is permitted.

    Raises:
        UserError: it is not permitted, or no convolution takes the channels as its input.
    """
    if there == here:
        return []
    if not repeat:
        raise UserError(other_channels(name, there, here))
    fitted = []
    for key in own.keys() & state.keys():
        new, old = own[key].shape, state[key].shape
        if key.startswith(_BACKBONE) and len(new) == len(old) == 4 and (new[1], old[1]) == (here, there):
            weight = state[key]
            repeated = weight[:, [channel % there for channel in range(here)]] * (there / here)
            state[key] = weight.sum(dim=1, keepdim=True) if here == 1 else repeated
            fitted.append(key)
    if not fitted:
        raise UserError(f"{name}: no convolution of its backbone has {there} input channels, so none can be repeated")
    how = "summed for one channel" if here == 1 else f"repeated for {here} channels"
    return [f"weights of {count(there, 'input channel')} {how} ({listed(sorted(fitted))})"]


def other_channels(name: str, there: int, here: int) -> str:
    """The message for weights ``name`` of ``there`` image channels in a run with ``here``."""
    return (
        f"{name} expects images of {count(there, 'channel')} but the run has {here} (pixel_mean); set "
        "model.init_channels=repeat to repeat the weights of its first convolution, or start from other weights"
    )


def with_own_windows(own: Mapping[str, Tensor], state: dict[str, Tensor]) -> list[str]:
    """Resize the position biases in ``state`` to the windows of ``own``, in place; a phrase for each size.

    Raises:
        UserError: a table in ``state`` fits no window.
    """
    windows: set[tuple[int, int]] = set()
    for name in own.keys() & state.keys():
        there, here = state[name], own[name]
        if name.endswith(_TABLE) and there.dim() == 2 and there.shape[1:] == here.shape[1:] and len(there) != len(here):
            state[name] = resized_bias_table(there, _window(here))
            windows.add((_window(there), _window(here)))
    return [f"position biases resized from windows of {old} to {new}" for old, new in sorted(windows)]


def _window(table: Tensor) -> int:
    window = (math.isqrt(len(table)) + 1) // 2
    if (2 * window - 1) ** 2 != len(table):
        raise UserError(f"a table of position biases has {len(table)} rows, which fits no window")
    return window


def resized_bias_table(table: Float[Tensor, "n M"], window: int) -> Float[Tensor, "N M"]:
    """A relative position bias table for windows of another size, interpolated bicubically between the trained offsets.

    Args:
        table: ``(2w - 1)**2`` rows, one per offset in a window of side w, row-major; one column per head.
        window: the side of the new windows.

    Reference: Swin Transformer (Liu et al., ICCV 2021), Sec. 3.2, "Relative position bias".
    """
    side, new_side = 2 * _window(table) - 1, 2 * window - 1
    if side == new_side:
        return table
    grid = table.T.unflatten(1, (side, side)).unsqueeze(0)  # (1, M, side, side)
    resized = F.interpolate(grid, (new_side, new_side), mode="bicubic", align_corners=False)
    return resized[0].flatten(1).T.contiguous()
