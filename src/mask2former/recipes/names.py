"""Published models by name, whoever trained them."""

from __future__ import annotations

from functools import cache

from mask2former.errors import UserError
from mask2former.recipes import published, toolboxes
from mask2former.recipes.families import Provider, Recipe, recipes_of
from mask2former.recipes.variants import maskformer_recipes
from mask2former.text import did_you_mean

__all__ = ["describe_names", "recipe", "recipe_names"]

_FAMILIES = published.FAMILIES | toolboxes.FAMILIES


@cache
def _by_slug() -> dict[str, Recipe]:
    return {entry.slug: entry for entry in recipes_of(_FAMILIES)}


@cache
def _maskformers() -> dict[str, Recipe]:
    return maskformer_recipes(_by_slug().__getitem__)


def recipe_names(provider: Provider | None = None) -> tuple[str, ...]:
    """Names of the published models: 59 by the authors, images first, then 27 from other toolboxes.

    Args:
        provider: only those of this provider; None: of all.
    """
    return tuple(slug for slug, entry in _by_slug().items() if provider in (None, entry.provider))


def recipe(slug: str) -> Recipe:
    """The published model with this name, or a MaskFormer model, which :func:`recipe_names` does not list.

    Raises:
        UserError: there is no such recipe; the message names the closest ones.
    """
    known = _by_slug() | _maskformers()
    if slug in known:
        return known[slug]
    raise UserError(f"no recipe '{slug}'; {did_you_mean(slug, known) or f'there are: {describe_names()}'}")


def describe_names() -> str:
    """All names in one line: ``coco-panoptic/{r50, r101, ...}; ...``."""
    return "; ".join(f"{family}/{{{', '.join(entry.files)}}}" for family, entry in _FAMILIES.items())
