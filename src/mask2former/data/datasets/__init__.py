"""Annotation files of the world as samples; one file per format."""

from mask2former.data.datasets.coco import CocoInstances, read_categories

__all__ = ["CocoInstances", "read_categories"]
