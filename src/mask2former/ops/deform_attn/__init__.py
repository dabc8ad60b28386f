"""Multi-scale deformable sampling and attention: two functions, and the kernels they choose from."""

from mask2former.ops.deform_attn.api import deformable_sampling, deformable_self_attention

__all__ = ["deformable_sampling", "deformable_self_attention"]
