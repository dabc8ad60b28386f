"""The mean of trainings from the same weights: one model, as fast as each of them (Wortsman et al., ICML 2022).

Trainings from one start with different seeds or rates end in the same valley of the loss, whose centre is often better
than its edge.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from jaxtyping import Float64
from torch import Tensor

from mask2former.checkpoints import from_pretrained
from mask2former.checkpoints.targets import check_place, write
from mask2former.config import Task
from mask2former.errors import UserError
from mask2former.models.mask2former import Mask2Former
from mask2former.text import listed

__all__ = ["average", "average_files", "check", "least_cosine"]


def average_files(
    sources: Sequence[str | Path], path: str | Path, recipe: str | None = None, tasks: Task | Sequence[Task] = ()
) -> float:
    """Write the mean of several models; what ``mask2former average`` does.

    Args:
        sources: names, files or folders of at least two models.
        path: a ``.safetensors`` file or a folder to write; must not exist yet.
        recipe: the published model whose architecture they have, if the files do not say so.
        tasks: what they were trained for, if neither the files nor a recipe say so.

    Returns:
        The :func:`least_cosine` of the weights of any two of them; below 0.9, they are unlikely to have started from
        the same weights.

    Raises:
        UserError: as for :func:`average`; or a model cannot be loaded, or the path cannot be written.
    """
    if isinstance(sources, str | Path):  # a path would be iterated by its letters
        raise UserError(f"average needs at least two models, got one name, '{sources}'; pass a list")
    check_place(Path(path), "ours")
    models, names = [from_pretrained(source, recipe, tasks=tasks) for source in sources], list(map(str, sources))
    check(models, names)
    alike = least_cosine(models)
    write(average(models, names), Path(path), "ours")
    return alike


def average(models: Sequence[Mask2Former], names: Sequence[str]) -> Mask2Former:
    """Fill the first model with the mean of the weights of all models, each counting once, and return it.

    Means are computed in float64 and rounded to the types of the first model. Whole numbers, such as counters of norms,
    and inference settings remain those of the first.

    Args:
        models: at least two, with the same architecture and the same list of classes.
        names: what they are called in messages.

    Raises:
        UserError: fewer models, models other than described, weights that are not finite, or different licenses.
    """
    check(models, names)
    first = models[0]
    licenses = {model.info.license for model in models if model.info.license is not None}
    if len(licenses) > 1:
        raise UserError(f"the models have different licenses: {listed(sorted(licenses))}")
    states = [model.state_dict() for model in models]
    floating = [key for key, value in states[0].items() if value.is_floating_point()]
    for state, name in zip(states, names, strict=True):  # all before anything is changed
        if broken := next((key for key in floating if not state[key].isfinite().all()), None):
            raise UserError(f"{name} has weights that are not finite ('{broken}'); its training diverged")
    # All before anything is changed, since entries of tied parts share their memory.
    means = {key: _mean([state[key] for state in states]) for key in floating}
    with torch.no_grad():
        for key, mean in means.items():
            states[0][key].copy_(mean)
    first.info = replace(first.info, license=next(iter(licenses), None), metrics={})
    return first


def _mean(values: Sequence[Tensor]) -> Tensor:
    """In the type of the first, computed in float64."""
    return torch.stack([value.detach().to(torch.float64) for value in values]).mean(0).to(values[0].dtype)


def check(models: Sequence[Mask2Former], names: Sequence[str]) -> None:
    """Refuse what :func:`average` refuses, except for values and licenses.

    Raises:
        UserError: fewer than two models, or models with different architectures or lists of classes.
    """
    if len(models) < 2:
        raise UserError(f"an average needs at least two models, got {len(models)}")
    first = models[0]
    for model, name in zip(models[1:], names[1:], strict=True):
        if _architecture(model) != _architecture(first):
            raise UserError(
                f"{name} has a different architecture from {names[0]} (mask2former inspect shows both); only "
                "trainings of one model from the same weights can be averaged"
            )
        if (model.mean, model.std) != (first.mean, first.std):
            raise UserError(
                f"{name} normalises images differently from {names[0]} (pixel_mean, pixel_std); only trainings of one "
                "model from the same weights can be averaged"
            )
        if model.categories != first.categories:
            raise UserError(
                f"{name} has different classes from {names[0]}; only trainings of one model can be averaged"
            )


def least_cosine(models: Sequence[Mask2Former]) -> float:
    """The smallest cosine between the kernels and matrices of two of the models, which :func:`check` accepts.

    1 means the same direction. In measurements, trainings from one start were above 0.98, from different starts below
    0.8.
    """
    vectors = [_kernels(model) for model in models]
    return min(float(one @ other) for one, other in itertools.combinations(vectors, 2))


def _kernels(model: Mask2Former) -> Float64[Tensor, " P"]:
    """All weights with more than one dimension, scaled to length 1 together."""
    kernels = [weight.detach().to(torch.float64).flatten() for weight in model.parameters() if weight.ndim > 1]
    together = torch.cat(kernels)
    return together / together.norm()


def _architecture(model: Mask2Former) -> dict[str, object]:
    """What must be equal: the configuration, or the shapes, for parts that it does not describe."""
    if model.info.architecture is None:
        return {name: value.shape for name, value in model.state_dict().items()}
    return model.info.architecture.model_dump(exclude={"pixel_mean", "pixel_std"})
