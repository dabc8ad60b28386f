"""One-off conversions of the official downloads into what the readers of the published data sets expect."""

from mask2former.dataset_tools.prepare.datasets import dataset_names, prepare
from mask2former.dataset_tools.prepare.stages import Outcome

__all__ = ["Outcome", "dataset_names", "prepare"]
