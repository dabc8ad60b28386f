"""The table in ``docs/models.md`` is the packaged zoo.

``python tests/properties/test_models_page.py`` writes it anew.
"""

from __future__ import annotations

from itertools import groupby
from pathlib import Path

from mask2former.checkpoints.zoo import ZooModel, current_zoo

PAGE = Path(__file__).parents[2] / "docs" / "models.md"
BEGIN, END = "<!-- zoo: begin -->\n", "<!-- zoo: end -->\n"


def table() -> str:
    """Markdown: a heading and a table for each data set and task."""
    parts = []
    for family, models in groupby(current_zoo().values(), key=lambda model: model.name.partition("/")[0]):
        rows = list(models)
        metrics = list(dict.fromkeys(name for model in rows for name in model.metrics))
        lines = [
            f"**{family}** ({rows[0].task} segmentation, {rows[0].dataset})\n",
            f"| name | backbone, trained before on | queries | {' | '.join(metrics)} | MB |",
            f"|---|---|---:|{'---:|' * len(metrics)}---:|",
            *(_row(model, metrics) for model in rows),
        ]
        parts.append("\n".join(lines) + "\n")
    return "\n".join(parts)


def _row(model: ZooModel, metrics: list[str]) -> str:
    numbers = [f"{model.metrics[name]:.1f}" if name in model.metrics else "" for name in metrics]
    before = model.pretraining.replace("COCO instance checkpoint ", "COCO instances, ")
    cells = (f"`{model.name}`", f"{model.backbone}, {before}", str(model.queries), *numbers)
    return f"| {' | '.join(cells)} | [{model.num_bytes / 1e6:.0f}]({model.url}) |"


def test_the_page_lists_the_zoo() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert page.partition(BEGIN)[2].partition(END)[0] == table(), "run: python tests/properties/test_models_page.py"


if __name__ == "__main__":
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    PAGE.write_text(f"{before}{BEGIN}{table()}{END}{rest.partition(END)[2]}", encoding="utf-8")
