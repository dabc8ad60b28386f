"""AdamW with the published learning rates and decays per parameter, and learning rates over steps."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Container
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _NormBase

from mask2former.config import OptimConfig, RunConfig
from mask2former.errors import UserError
from mask2former.models.parts import ChoosesDecay, ChoosesRates
from mask2former.notes import note
from mask2former.text import close_names, listed, quoted
from mask2former.training.freezing import is_of

__all__ = ["build_optimizer", "learning_rate_factor", "parameter_groups", "regrouped", "schedule_notes"]

_NORMS = (_NormBase, nn.GroupNorm, nn.LayerNorm, nn.LocalResponseNorm)
_UNDECAYED_NAMES = ("relative_position_bias_table", "absolute_pos_embed")


def parameter_groups(model: nn.Module, config: OptimConfig, frozen_now: Container[str] = ()) -> list[dict[str, Any]]:
    """Parameters with equal settings share a group.

    The backbone learns at ``backbone_multiplier`` times the rate. Norms, embeddings and relative position tables have
    no weight decay; all other parameters do, biases included. Frozen parts are in no group. Parts of the model can make
    their own choices (:class:`ChoosesDecay`, :class:`ChoosesRates`). Groups also have ``lr_multiplier`` and ``names``.

    Args:
        model: the model.
        config: the settings.
        frozen_now: names of parameters that would be trained if they were not currently frozen.

    Raises:
        UserError: a part multiplies the learning rate of something that it does not have.

    Reference: Mask2Former, Sec. 4.1, and the values of the published optimizer.
    """
    groups: dict[tuple[float, float], tuple[list[str], list[nn.Parameter]]] = defaultdict(lambda: ([], []))
    seen: set[nn.Parameter] = set()
    exempt: set[nn.Parameter] = set()
    rates: dict[str, float] = {}
    for part, module in model.named_children():
        own = dict(module.named_parameters(remove_duplicate=False))
        if isinstance(module, ChoosesDecay):
            names = module.no_weight_decay()
            if unknown := [name for name in names if name not in own]:  # timm's models name what some of them have
                note(
                    "names of no_weight_decay() that no parameter has, which change nothing",
                    f"{listed(unknown, 5, show=quoted)} of the {part}",
                )
            exempt.update(own[name] for name in names if name in own)
        if isinstance(module, ChoosesRates):
            multipliers = module.learning_rate_multipliers()
            known = {*own, *(name for name, _ in module.named_modules() if name)}
            _check_names(part, multipliers, known)
            rates |= {f"{part}.{name}": factor for name, factor in multipliers.items()}
    for module_name, module in model.named_modules():
        for leaf, parameter in module.named_parameters(recurse=False):
            name = f"{module_name}.{leaf}" if module_name else leaf
            learns = parameter.requires_grad or name in frozen_now
            if not learns or is_of(name, config.freeze) or parameter in seen:
                continue
            seen.add(parameter)
            multiplier = config.backbone_multiplier if name.startswith("backbone.") else 1.0
            multiplier *= (
                rates[max(fitting, key=len)] if (fitting := [one for one in rates if is_of(name, [one])]) else 1
            )
            undecayed = isinstance(module, (*_NORMS, nn.Embedding)) or any(part in name for part in _UNDECAYED_NAMES)
            undecayed = undecayed or parameter in exempt
            names, parameters = groups[multiplier, 0.0 if undecayed else config.weight_decay]
            names.append(name)
            parameters.append(parameter)
    return [
        {
            "params": parameters,
            "lr": config.lr * multiplier,
            "weight_decay": decay,
            "lr_multiplier": multiplier,
            "names": names,
        }
        for (multiplier, decay), (names, parameters) in groups.items()
    ]


def _check_names(part: str, names: Collection[str], known: Collection[str]) -> None:
    for name in names:
        if name not in known:
            raise UserError(
                f"learning_rate_multipliers() of the {part} names {quoted(name)}, which it does not have; expected "
                f"names of its modules or parameters, for instance {listed(close_names(name, known) or sorted(known))}"
            )


def build_optimizer(model: nn.Module, config: OptimConfig) -> torch.optim.AdamW:
    """Fused AdamW over :func:`parameter_groups`."""
    groups = [{key: group[key] for key in group if key != "names"} for group in parameter_groups(model, config)]
    return torch.optim.AdamW(groups, lr=config.lr, betas=config.betas, eps=config.eps, fused=True)


def regrouped(
    state: dict[str, Any], model: nn.Module, before: OptimConfig, now: OptimConfig, frozen_now: Container[str] = ()
) -> dict[str, Any]:
    """A stored state of :func:`build_optimizer` for other settings: moments by parameter, all else as in ``now``.

    Without this, a stored state would restore its old decay, betas and multipliers, and groups that do not match.

    Args:
        state: ``optimizer.state_dict()`` of a model of the same architecture.
        model: the model.
        before: the settings with which the state was stored.
        now: the new settings.
        frozen_now: names of the parameters that ``now`` freezes.
    """
    old = [name for group in parameter_groups(model, before, frozen_now) for name in group["names"]]
    stored = {name: state["state"][index] for index, name in enumerate(old) if index in state["state"]}
    wanted = build_optimizer(model, now).state_dict()["param_groups"]
    new = [name for group in parameter_groups(model, now) for name in group["names"]]
    return {"state": {i: stored[name] for i, name in enumerate(new) if name in stored}, "param_groups": wanted}


def learning_rate_factor(step: int, max_steps: int, config: OptimConfig) -> float:
    """The factor of the base learning rate after ``step`` steps.

    ``step``: multiplied by ``gamma`` at each milestone. ``poly``: ``(1 - step / max_steps) ** poly_power``. During
    warm-up, an additional factor rises linearly from ``warmup_factor`` to 1.
    """
    if config.schedule == "step":
        factor = config.gamma ** sum(step >= milestone for milestone in config.steps)
    else:
        factor = max(0.0, 1.0 - step / max_steps) ** config.poly_power
    if step < config.warmup_steps:
        share = step / config.warmup_steps
        factor *= config.warmup_factor * (1.0 - share) + share
    return factor


def schedule_notes(config: RunConfig) -> list[str]:
    """What a user should know about the learning rate: where it stays, or is 0, and settings without an effect."""
    optim, last = config.optim, config.trainer.max_steps
    notes = []
    if optim.schedule == "poly":
        length = optim.schedule_steps
        if length is not None and length < last:
            notes.append(
                f"optim.schedule_steps {length} is less than trainer.max_steps {last}: the learning rate is 0 after "
                f"step {length}"
            )
        if optim.steps:
            notes.append(f"optim.steps ({_numbers(optim.steps)}) has no effect, because optim.schedule is poly")
    elif not optim.steps:
        notes.append("optim.schedule is step, but optim.steps is empty: the learning rate never falls")
    elif late := [step for step in optim.steps if step >= last]:
        falls = "falls only at the others" if len(late) < len(optim.steps) else "never falls"
        notes.append(
            f"optim.steps has milestones after the last step ({_numbers(late)}; trainer.max_steps is {last}), so the "
            f"learning rate {falls}; change both settings together"
        )
    if optim.warmup_steps and optim.warmup_factor == 1.0:
        notes.append(
            f"optim.warmup_steps {optim.warmup_steps} has no effect, because optim.warmup_factor is 1; set that "
            "factor of the learning rate in the first step lower, for instance to 0.01"
        )
    elif not optim.warmup_steps and optim.warmup_factor != 1.0:
        notes.append(f"optim.warmup_factor {optim.warmup_factor:g} has no effect, because optim.warmup_steps is 0")
    return notes


def _numbers(steps: Collection[int]) -> str:
    return listed([str(step) for step in steps], 6)
