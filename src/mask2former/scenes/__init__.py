"""Scenes: small procedural illustrations with exact panoptic ground truth, as images and as clips.

A scene is composed in unit coordinates from a seed, then rendered at any size with analytic soft edges. Things that are
too hidden or too small to be recognised are not painted, so the ground truth always agrees with the pixels. The package
uses the shared structures, numpy and Pillow, and does not depend on models or training. Microscope images are drawn in
:mod:`~mask2former.scenes.cells`, which shares nothing with scenes.
"""

from mask2former.scenes.classes import SCENE_CATEGORIES
from mask2former.scenes.rendering import SceneFrame, draw_clip, draw_scene

__all__ = ["SCENE_CATEGORIES", "SceneFrame", "draw_clip", "draw_scene"]
