"""The table in ``docs/models.md`` equals the packaged zoo.

``python tests/properties/test_models_page.py`` updates it.
"""

from __future__ import annotations

from itertools import groupby
from pathlib import Path

from mask2former.checkpoints.zoo import Provider, ZooModel, packaged_zoo

PAGE = Path(__file__).parents[2] / "docs" / "models.md"
BEGIN, END = "<!-- zoo: begin -->\n", "<!-- zoo: end -->\n"
TERMS = {True: "may be used commercially", False: "not for commercial use", None: "ask the authors"}


def tables() -> str:
    """Markdown: a heading and a table for each provider."""
    groups = groupby(packaged_zoo().values(), key=lambda model: model.provider)
    return "\n".join(_table(provider, list(models)) for provider, models in groups)


def _table(provider: Provider, models: list[ZooModel]) -> str:
    (license,) = {model.license for model in models}
    note = provider.note[:1].upper() + provider.note[1:]
    lines = [
        f"**{provider.name}**: {len(models)} models of [{provider.title}]({provider.source}); license "
        f"[{license.name}]({license.url}), {TERMS[license.commercial]}. {note}.\n",
        "| name | backbone, pretraining data | queries | published, % | MB |",
        "|---|---|---:|---|---:|",
        *(_row(model) for model in models),
    ]
    return "\n".join(lines) + "\n"


def _row(model: ZooModel) -> str:
    numbers = ", ".join(f"{name} {value}" for name, value in model.metrics.items())
    cells = (f"`{model.name}`", f"{model.backbone}, {model.pretraining}", str(model.queries), numbers or "none")
    return f"| {' | '.join(cells)} | [{model.num_bytes / 1e6:.0f}]({model.url}) |"


def test_the_page_lists_the_zoo() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert page.partition(BEGIN)[2].partition(END)[0] == tables(), "run: python tests/properties/test_models_page.py"


if __name__ == "__main__":
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    PAGE.write_text(f"{before}{BEGIN}{tables()}{END}{rest.partition(END)[2]}", encoding="utf-8")
