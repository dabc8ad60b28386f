"""Boxes indexed by position, so that each is compared only with those around it."""

from __future__ import annotations

from collections.abc import Iterator

__all__ = ["Box", "BoxIndex"]

Box = tuple[int, int, int, int]  # top, left, bottom, right in pixels; bottom and right are excluded

_CELL = 64  # pixels: side of the squares by which boxes are found


class BoxIndex:
    """Numbered boxes that can be moved."""

    def __init__(self) -> None:
        self._boxes: dict[int, Box] = {}
        self._cells: dict[tuple[int, int], set[int]] = {}

    def put(self, number: int, box: Box) -> None:
        """Enter a box, or its new extent if it has grown or shrunk."""
        if number in self._boxes:
            for cell in _cells(self._boxes[number]):
                self._cells[cell].discard(number)
        self._boxes[number] = box
        for cell in _cells(box):
            self._cells.setdefault(cell, set()).add(number)

    def meeting(self, box: Box) -> list[int]:
        """Numbers of the boxes that share pixels with this one, ascending."""
        found = set[int]().union(*(self._cells.get(cell, ()) for cell in _cells(box)))
        return sorted(number for number in found if _meet(self._boxes[number], box))


def _cells(box: Box) -> Iterator[tuple[int, int]]:
    """Squares of the image that a box touches."""
    rows = range(box[0] // _CELL, (box[2] - 1) // _CELL + 1)
    columns = range(box[1] // _CELL, (box[3] - 1) // _CELL + 1)
    return ((row, column) for row in rows for column in columns)


def _meet(one: Box, other: Box) -> bool:
    return max(one[0], other[0]) < min(one[2], other[2]) and max(one[1], other[1]) < min(one[3], other[3])
