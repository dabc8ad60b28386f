"""Cells: procedural microscope images with an exact mask for each nucleus.

Fluorescence (bright nuclei, dark background) and absorption (stained tissue, bright field), from a few pixels to a
quarter of the image in diameter, alone or crowded. They stand in for images that nobody has annotated yet.
"""

from mask2former.scenes.cells.drawing import CellImage, draw_cells

__all__ = ["CellImage", "draw_cells"]
