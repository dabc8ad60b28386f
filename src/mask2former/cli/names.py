"""Names for shell completion. It imports neither PyTorch nor a zoo, because it runs at every key press."""

from __future__ import annotations

__all__ = ["complete_model", "complete_recipe", "complete_run_recipe"]


def complete_model(incomplete: str) -> list[str]:
    """Packaged and published models; other words are completed as file names by the shell."""
    from importlib import resources

    assets = resources.files("mask2former").joinpath("assets").iterdir()
    packaged = sorted(
        entry.name.removesuffix(".safetensors") for entry in assets if entry.name.endswith(".safetensors")
    )
    return [name for name in packaged if name.startswith(incomplete)] + complete_recipe(incomplete)


def complete_recipe(incomplete: str) -> list[str]:
    """Published models."""
    from mask2former.recipes import recipe_names

    return [name for name in recipe_names() if name.startswith(incomplete)]


def complete_run_recipe(incomplete: str) -> list[str]:
    """Recipes of training runs."""
    from mask2former.recipes import run_recipes

    return [name for name in sorted(run_recipes()) if name.startswith(incomplete)]
