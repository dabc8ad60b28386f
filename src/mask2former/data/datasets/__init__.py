"""Annotation files of the world as samples; one file per format."""

from mask2former.data.datasets.coco import CocoInstances

__all__ = ["CocoInstances"]
