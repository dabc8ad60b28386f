"""Analyses that are drawn as curves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

from mask2former.evaluation.curves import Series, plot_series

__all__ = ["Curves", "Drawn"]


class Drawn(NamedTuple):
    """Input of :func:`plot_series`: series by name, their panels, and names of steps that are no numbers."""

    series: Mapping[str, Series]
    panels: Sequence[tuple[str, tuple[str, ...]]]
    ticks: Sequence[str] = ()


@dataclass(frozen=True)
class Curves:
    """An analysis of plain values that can be drawn: a subclass has :meth:`curves`."""

    def curves(self) -> Drawn:
        """The curves to draw."""
        raise NotImplementedError

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form."""
        return asdict(self)

    def draw(self, path: str | Path) -> None:
        """The curves, as PNG, SVG or PDF.

        Raises:
            UserError: the path cannot be written.
            MissingExtraError: matplotlib is not installed.
        """
        found = self.curves()
        plot_series(found.series, found.panels, path, ticks=found.ticks)
