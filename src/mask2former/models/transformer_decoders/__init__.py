"""Transformer decoders: pixel features in, class and mask logits per query out; one file each."""

from mask2former.models.transformer_decoders.masked import MaskedTransformerDecoder

__all__ = ["MaskedTransformerDecoder"]
