"""Scenes: little procedural illustrations with exact panoptic ground truth, as images and as clips.

A scene is composed in unit coordinates from a seed, then rendered at any size with analytic soft edges; what is too
hidden or too small to be found is not painted, so the ground truth always agrees with the pixels. It knows the shared
structures, numpy and Pillow, and nothing of models or training.
"""

from mask2former.scenes.classes import SCENE_CATEGORIES
from mask2former.data.datasets.scenes import SceneClips, Scenes
from mask2former.scenes.rendering import SceneFrame, draw_clip, draw_scene

__all__ = ["SCENE_CATEGORIES", "SceneClips", "SceneFrame", "Scenes", "draw_clip", "draw_scene"]
