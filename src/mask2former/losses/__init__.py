"""Set prediction loss: match queries to targets, then classify and segment. It needs outputs and targets, no model."""

from mask2former.losses.build import build_criterion
from mask2former.losses.criterion import Criterion, Losses, LossTerm, MatchedDepth
from mask2former.losses.matcher import HungarianMatcher
from mask2former.losses.per_pixel import PixelCriterion

__all__ = ["Criterion", "HungarianMatcher", "LossTerm", "Losses", "MatchedDepth", "PixelCriterion", "build_criterion"]
