"""Set prediction loss: match queries to targets, then classify and segment. Knows outputs and targets, no model."""

from mask2former.losses.criterion import Criterion, Losses, LossTerm, MatchedDepth
from mask2former.losses.matcher import HungarianMatcher

__all__ = ["Criterion", "HungarianMatcher", "LossTerm", "Losses", "MatchedDepth"]
