"""What happens inside a model, and what it costs. Each analysis is a library call that a command prints."""

from mask2former.analysis.convergence import Convergence, RunProgress, convergence
from mask2former.analysis.flops import Cost, ModuleCost, count_flops, paper_sizes
from mask2former.analysis.focus import AttentionFocus, LayerFocus, attention_focus
from mask2former.analysis.layers import Depth, LayerMetrics, layer_metrics
from mask2former.analysis.queries import AttentionMaps, Proposals, attention_maps, query_proposals
from mask2former.analysis.sampling import LayerPoints, SamplingPoints, sampling_points
from mask2former.analysis.skeletons import skeleton

__all__ = [
    "AttentionFocus",
    "AttentionMaps",
    "Convergence",
    "Cost",
    "Depth",
    "LayerFocus",
    "LayerMetrics",
    "LayerPoints",
    "ModuleCost",
    "Proposals",
    "RunProgress",
    "SamplingPoints",
    "attention_focus",
    "attention_maps",
    "convergence",
    "count_flops",
    "layer_metrics",
    "paper_sizes",
    "query_proposals",
    "sampling_points",
    "skeleton",
]
