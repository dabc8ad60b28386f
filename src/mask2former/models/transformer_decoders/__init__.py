"""Transformer decoders: pixel features in, class and mask logits per query out; one file each.

The decoders in ``per_pixel.py`` replace them and return class scores per pixel.
"""

from mask2former.models.transformer_decoders.encoder_only import EncoderOnlyDecoder
from mask2former.models.transformer_decoders.masked import MaskedTransformerDecoder
from mask2former.models.transformer_decoders.per_pixel import PerPixelHead, PerPixelPlusHead
from mask2former.models.transformer_decoders.standard import StandardTransformerDecoder

__all__ = [
    "EncoderOnlyDecoder",
    "MaskedTransformerDecoder",
    "PerPixelHead",
    "PerPixelPlusHead",
    "StandardTransformerDecoder",
]
