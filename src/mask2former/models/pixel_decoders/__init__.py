"""Pixel decoders: backbone maps in, per-pixel embeddings and multi-scale features out; one file each."""

from mask2former.models.pixel_decoders.bifpn import BiFPNPixelDecoder
from mask2former.models.pixel_decoders.fapn import FaPNPixelDecoder
from mask2former.models.pixel_decoders.features import PixelFeatures, TokenFeatures
from mask2former.models.pixel_decoders.fpn import FPNPixelDecoder, TransformerFPNPixelDecoder
from mask2former.models.pixel_decoders.msdeformattn import MSDeformAttnPixelDecoder
from mask2former.models.pixel_decoders.none import NoPixelDecoder
from mask2former.models.pixel_decoders.semantic_fpn import SemanticFPNPixelDecoder

__all__ = [
    "BiFPNPixelDecoder",
    "FPNPixelDecoder",
    "FaPNPixelDecoder",
    "MSDeformAttnPixelDecoder",
    "NoPixelDecoder",
    "PixelFeatures",
    "SemanticFPNPixelDecoder",
    "TokenFeatures",
    "TransformerFPNPixelDecoder",
]
