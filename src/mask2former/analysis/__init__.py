"""What is inside a model, and what it costs. Each analysis is a library call that a command prints."""

from mask2former.analysis.flops import Cost, ModuleCost, count_flops, paper_sizes
from mask2former.analysis.skeletons import skeleton

__all__ = ["Cost", "ModuleCost", "count_flops", "paper_sizes", "skeleton"]
