"""Models by name without their weights: analyses that need no weights need no download."""

from __future__ import annotations

from mask2former import checkpoints, recipes
from mask2former.checkpoints.formats.original import recipe_categories
from mask2former.checkpoints.instantiate import skeleton_of
from mask2former.models.build import build_model, build_skeleton
from mask2former.models.mask2former import Mask2Former

__all__ = ["skeleton"]


def skeleton(source: str, recipe: str | None = None) -> Mask2Former:
    """A model without memory, on the ``meta`` device unless timm cannot create it there.

    Args:
        source: a published model or an ablation, for which nothing is downloaded, or anything that
            :meth:`Mask2Former.from_pretrained` accepts.
        recipe: the published model in a file without configuration.

    Raises:
        UserError: the model does not exist.
    """
    base = source
    if source.startswith("ablation/") and source in recipes.run_recipes():
        base = f"{source.split('/')[1]}/r50"
    if base not in recipes.recipe_names():
        opened = checkpoints.open_checkpoint(source, recipe)
        model = skeleton_of(opened)
        model.info = opened.info
        return model
    config, num_classes = recipes.run_recipes()[source]().model, len(recipe_categories(base))
    return build_skeleton(config, num_classes) or build_model(config, num_classes)
