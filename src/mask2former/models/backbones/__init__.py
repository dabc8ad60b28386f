"""Backbones: images in, maps of strides 4, 8, 16 and 32 out; every one has ``channels`` and ``strides``."""

from mask2former.models.backbones.swin import SwinTransformer
from mask2former.models.backbones.timm import TimmBackbone

__all__ = ["SwinTransformer", "TimmBackbone"]
