"""The list in ``docs/toolboxes.md`` equals the facts in the recipes.

``python tests/properties/test_toolboxes_page.py`` updates it.
"""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

from mask2former import recipes

PAGE = Path(__file__).parents[2] / "docs" / "toolboxes.md"
BEGIN, END = "<!-- deviations: begin -->\n", "<!-- deviations: end -->\n"


def deviations() -> str:
    """Markdown: for each toolbox, a table of deviations and of the models that have them."""
    parts = []
    for provider, title in recipes.PROVIDERS.items():
        if provider == "official":
            continue
        slugs = recipes.recipe_names(provider)
        models: dict[str, list[str]] = defaultdict(list)
        for slug in slugs:
            for deviation in recipes.recipe(slug).deviations:
                models[deviation].append(slug)
        rows = [f"| {deviation} | {_named(found, slugs)} |" for deviation, found in models.items()]
        parts.append("\n".join([f"| {title} | models |", "|---|---|", *rows]) + "\n")
    return "\n".join(parts)


def _named(found: list[str], everything: tuple[str, ...]) -> str:
    if len(found) == len(everything):
        return "all"
    families: dict[str, list[str]] = defaultdict(list)
    for slug in found:
        family, _, name = slug.rpartition("/")
        families[family].append(name)
    whole = {family: [slug for slug in everything if slug.startswith(f"{family}/")] for family in families}
    return "; ".join(
        f"`{family}/*`" if len(names) == len(whole[family]) else f"`{family}/`{{{', '.join(names)}}}"
        for family, names in families.items()
    )


def test_the_page_says_what_the_recipes_do_not_reproduce() -> None:
    page = PAGE.read_text(encoding="utf-8")
    written = page.partition(BEGIN)[2].partition(END)[0]
    assert written == deviations(), "run: python tests/properties/test_toolboxes_page.py"


if __name__ == "__main__":
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    PAGE.write_text(f"{before}{BEGIN}{deviations()}{END}{rest.partition(END)[2]}", encoding="utf-8")
