"""Runs and models by name: published ones, with the names of the zoo, and our own.

The package contains only settings: no weights, no class tables, no torch.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from mask2former.config import RunConfig
from mask2former.recipes.ablations import ABLATIONS, BASES, PARTS, ROWS, SINCE, Ablation, ablated, ablation_recipes
from mask2former.recipes.families import PROVIDERS, Provider, Recipe
from mask2former.recipes.names import recipe, recipe_names
from mask2former.recipes.ours import (
    camvid,
    camvid_all,
    drawn_cells,
    nuclei,
    nuclei_end,
    nuclei_final,
    nuclei_late,
    nuclei_middle,
    nuclei_mixed,
    nuclei_start,
    scene_clips,
    scenes_tiny,
    scenes_tiny_end,
    scenes_tiny_start,
)
from mask2former.recipes.variants import variant_recipes

__all__ = [
    "ABLATIONS",
    "BASES",
    "PARTS",
    "PROVIDERS",
    "ROWS",
    "SINCE",
    "Ablation",
    "Provider",
    "Recipe",
    "ablated",
    "camvid",
    "camvid_all",
    "drawn_cells",
    "nuclei",
    "nuclei_end",
    "nuclei_final",
    "nuclei_late",
    "nuclei_middle",
    "nuclei_mixed",
    "nuclei_start",
    "packaged_recipes",
    "recipe",
    "recipe_names",
    "run_recipes",
    "scene_clips",
    "scenes_tiny",
    "scenes_tiny_end",
    "scenes_tiny_start",
]

_OURS: dict[str, Callable[[], RunConfig]] = {
    "scenes-tiny": scenes_tiny,
    "scenes-tiny-start": scenes_tiny_start,
    "scenes-tiny-end": scenes_tiny_end,
    "scene-clips": scene_clips,
    "drawn-cells": drawn_cells,
    "nuclei-mixed": nuclei_mixed,
    "nuclei": nuclei,
    "nuclei-start": nuclei_start,
    "nuclei-middle": nuclei_middle,
    "nuclei-late": nuclei_late,
    "nuclei-end": nuclei_end,
    "nuclei-final": nuclei_final,
    "camvid": camvid,
    "camvid-all": camvid_all,
}

# The recipe of the last part of a packaged model's training, where it is not the one with its name.
_LAST = {"scenes-tiny": "scenes-tiny-end", "nuclei": "nuclei-final"}


def run_recipes() -> dict[str, Callable[[], RunConfig]]:
    """Complete training runs by name: our own, the published ones, then ablations and comparisons of the paper.

    The docstring of one of our runs or of an ablation states its results; for published ones see :class:`Recipe`.
    """
    return _OURS | {name: _published(name) for name in recipe_names()} | ablation_recipes() | variant_recipes(recipe)


def packaged_recipes(name: str) -> tuple[str, ...]:
    """The recipes that trained a packaged model, the first one first; each starts from the result of the one before."""
    found, last = [], _LAST.get(name, name)
    while last in _OURS and last not in found:
        found.append(last)
        init = _OURS[last]().model.init or ""
        last = Path(init).parent.name  # runs/NAME/model.safetensors; nothing for a packaged model
    return tuple(reversed(found))


def _published(name: str) -> Callable[[], RunConfig]:
    return lambda: recipe(name).run
