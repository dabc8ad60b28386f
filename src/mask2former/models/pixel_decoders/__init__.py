"""Pixel decoders: backbone maps in, per-pixel embeddings and multi-scale features out; one file each."""

from mask2former.models.pixel_decoders.features import PixelFeatures
from mask2former.models.pixel_decoders.fpn import FPNPixelDecoder, TransformerFPNPixelDecoder
from mask2former.models.pixel_decoders.msdeformattn import MSDeformAttnPixelDecoder

__all__ = ["FPNPixelDecoder", "MSDeformAttnPixelDecoder", "PixelFeatures", "TransformerFPNPixelDecoder"]
