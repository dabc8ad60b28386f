"""The purpose of a model: settings and classes from a recipe, from the file, from the tasks, or by exclusion.

Nothing is guessed: what neither the file nor the user specifies ends in a message, and what was inferred in a note.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

from mask2former import recipes
from mask2former.checkpoints.formats import original
from mask2former.checkpoints.formats.huggingface import Preparation
from mask2former.checkpoints.formats.original import ORIGINAL, Architecture
from mask2former.checkpoints.raw import Request
from mask2former.checkpoints.rules import Layout
from mask2former.config import InferenceConfig, ModelConfig, MSDeformAttnConfig, parse
from mask2former.errors import OptionError, UserError
from mask2former.recipes import Provider
from mask2former.structures import Categories
from mask2former.text import listed, printable

__all__ = ["UndecidedError", "notes_on_settings", "settled"]

_POINTS = 4  # of deformable attention, in all code bases
_TABLES = ("coco_panoptic", "coco_instance", "ade20k_150", "ade20k_instance_100", "cityscapes", "mapillary_vistas_v1.2",
           "coco_stuff_10k_171", "ade20k_full_847", "ytvis_2019", "ytvis_2021")  # fmt: skip


class UndecidedError(OptionError):
    """A file contains a model, but does not say which of several it is.

    Attributes:
        recipes: the published models that match; empty if none does.
        layout: the key of the code base.
    """

    def __init__(self, sentence: Callable[[Callable[[str], str]], str], fitting: Sequence[str], layout: str) -> None:
        super().__init__(sentence)
        self.recipes = tuple(fitting)
        self.layout = layout


def settled(
    found: Architecture,
    layout: Layout,
    names: tuple[str, ...] | None,
    preparation: Preparation,
    own: tuple[Any, Any] | None,
    request: Request,
) -> tuple[ModelConfig, Categories, str]:
    """Configuration and classes: from the recipe, from what this library wrote there, from the tasks, or by exclusion.

    The third item is a phrase about what was inferred; empty where it was specified.
    """
    norms_are_open = layout is not ORIGINAL
    providers: list[Provider] = list(dict.fromkeys([layout.provider, "official"]))
    fitting = [
        slug for one in providers for slug in original.matching_recipes(found, one, norms_are_open=norms_are_open)
    ]
    recipe, tasks = request.recipe, request.tasks
    if recipe is not None:
        expected = original.recipe_architecture(recipe)
        if not expected.fits(found, norms_are_open):
            hint = f"; recipes that fit: {', '.join(fitting)}" if fitting else "; no recipe fits"
            raise UserError(f"recipe '{recipe}' is {expected}, but the file contains {found}{hint}")
        return recipes.recipe(recipe).model, original.recipe_categories(recipe), ""
    if own is not None:
        config = parse(ModelConfig, own[0], "config.json: mask2former.config")
        categories = Categories.from_dict(own[1])
        if not Architecture(config, len(categories)).fits(found, norms_are_open):
            raise UserError(f"config.json: 'mask2former' describes a model other than the weights ({found})")
        return config, categories, ""
    if tasks:
        pixels = found.model.pixel_decoder
        if isinstance(pixels, MSDeformAttnConfig) and pixels.num_points != _POINTS:
            raise UserError(
                f"contains {found} but does not say how many attention heads its decoders have, and its weights do "
                f"not fit the usual {pixels.num_heads}; only models with that number can be read"
            )
        if found.model.transformer_decoder.queries is None and tuple(tasks) != ("semantic",):
            raise UserError(
                f"contains {found}, which classifies pixels; give the task semantic, not {', '.join(tasks)}"
            )
        categories = _categories(names, found.num_classes)
        if preparation.ignore_label is not None and preparation.ignore_label >= len(categories):
            categories = replace(categories, ignore_label=preparation.ignore_label)
        short_edge, long_edge = preparation.edges or (InferenceConfig().short_edge, InferenceConfig().long_edge)
        inference = parse(
            InferenceConfig,
            {
                "tasks": tuple(tasks),
                "short_edge": short_edge,
                "long_edge": long_edge,
                "resampling": "antialiased" if providers == ["official"] else "bilinear",
                "resize_masks_first": tuple(tasks) != ("semantic",),
                "things_only": bool(categories.thing_indices),
            },
            "tasks",
        )
        is_official = inference.resampling == "antialiased"
        said = "" if is_official else f"images are resized without antialiasing, as in {layout.title}"
        return ModelConfig(**dict(found.model), inference=inference), categories, said
    if names is not None:
        fitting = [slug for slug in fitting if _same_names(original.recipe_categories(slug).names, names)]
    # Those of the toolbox, before those of the authors.
    first = [slug for slug in fitting if recipes.recipe(slug).provider == recipes.recipe(fitting[0]).provider]
    choices = [(recipes.recipe(slug).model, original.recipe_categories(slug)) for slug in first]
    if choices and all(choice == choices[0] for choice in choices):
        return *choices[0], f"settings and classes are those of {first[0]}, the published model that fits"
    raise _undecided(found, fitting, layout.key, request)


def _undecided(found: Architecture, fitting: Sequence[str], layout: str, request: Request) -> UndecidedError:
    which = f"more than one recipe fits: {', '.join(fitting)}" if fitting else "no published model fits"
    known = "panoptic, instance or semantic"

    def sentence(name: Callable[[str], str]) -> str:
        ways = [f"give {name('recipe')} with one of them"] if fitting else []
        ways.append(f"{'' if fitting else 'give '}{name('tasks')} ({known})")
        what = f"contains {found} but does not say what it was trained for, and {which}"
        return f"{request.source}: {what}; {', or '.join(ways)}"

    return UndecidedError(sentence, fitting, layout)


def notes_on_settings(
    config: ModelConfig,
    categories: Categories,
    preparation: Preparation,
    names: tuple[str, ...] | None,
    is_own: bool,
    request: Request,
) -> list[str]:
    """Settings that differ from those that the source was used with, or that were not specified.

    Raises:
        UserError: a folder written by this library has other class names now.
    """
    notes: list[str] = []
    from_tasks = bool(request.tasks)
    ours = f"a short edge of {config.inference.short_edge}, at most {config.inference.long_edge}"
    if not config.inference.short_edge:
        ours = "no other size"
    edges = preparation.edges
    if from_tasks and names is None:
        notes.append(
            f"class names are not given: the classes are called {listed(categories.names, 2)}, and all are things"
        )
    if from_tasks and edges is None:
        notes.append(f"the size to which images were resized is not given: {ours} is assumed")
    elif preparation.stretched_to is not None:
        size = "x".join(map(str, preparation.stretched_to))
        notes.append(f"images were stretched to {size} originally; here they keep their proportions and get {ours}")
    elif edges is not None and edges != (config.inference.short_edge, config.inference.long_edge):
        if edges[0]:
            notes.append(f"images originally got a short edge of {edges[0]}, at most {edges[1]}; here they get {ours}")
        elif config.inference.short_edge:
            notes.append(f"images were not resized originally; here they get {ours}")
    if from_tasks:
        notes += preparation.notes
    if names is not None and request.recipe is not None and not _same_names(categories.names, names):
        notes.append(f"the file has other class names ({listed(names, 3)}) than the recipe")
    if names is not None and is_own and request.recipe is None and names != categories.names:
        raise OptionError(
            lambda name: (
                f"{request.source}: config.json: 'id2label' lists other classes ({listed(names, 3)}) than "
                f"'mask2former' ({listed(categories.names, 3)}), so the model was trained further; remove "
                f"'mask2former' from config.json and give {name('tasks')}"
            )
        )
    if preparation.ignore_label not in (None, categories.ignore_label):
        notes.append(
            f"label maps used {preparation.ignore_label} for pixels without a class; here it is "
            f"{categories.ignore_label}"
        )
    twice = sorted(name for name, count in Counter(categories.names).items() if count > 1)
    if twice:
        notes.append(f"several classes are called '{printable(twice[0], 80)}'; evaluate needs unique names")
    return notes


def _same_names(ours: Iterable[str], theirs: Iterable[str]) -> bool:
    return [_plain(name) for name in ours] == [_plain(name) for name in theirs]


def _plain(name: str) -> str:
    """The first synonym, in one spelling."""
    return name.split(",")[0].strip().lower().replace("_", " ")


def _categories(names: tuple[str, ...] | None, num_classes: int) -> Categories:
    """A packaged table if it has these names, else these names, all of them things."""
    if names is None:
        return Categories.from_names([f"class {index}" for index in range(num_classes)])
    for table in map(Categories.load, _TABLES):
        for candidate in (table, table.things()) if table.thing_indices else (table,):
            if _same_names(candidate.names, names):
                return candidate
    return Categories.from_names(names)
