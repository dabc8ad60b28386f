"""Multi-scale deformable sampling: one function, and the kernels it chooses from."""

from mask2former.ops.deform_attn.api import deformable_sampling

__all__ = ["deformable_sampling"]
