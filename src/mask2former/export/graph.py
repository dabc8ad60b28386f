"""What an exported file computes: RGB bytes to logits, as one module that torch can trace."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Int64, UInt8
from torch import Tensor, nn

from mask2former.config import Task
from mask2former.export import traced_postprocessing
from mask2former.models.mask2former import Mask2Former
from mask2former.structures import MaskOutput

__all__ = ["Call", "ExportedGraph"]

Call = tuple[np.ndarray, np.ndarray]
"""The inputs of a file: images and their sizes."""


class ExportedGraph(nn.Module):
    """Normalisation, padding and the model; no Python value of a call is in the graph.

    Args:
        model: it is called as it is.
        clips: whether inputs have a frame axis.
        task: whose results the graph returns, for images; None: logits.
    """

    def __init__(self, model: Mask2Former, *, clips: bool, task: Task | None = None) -> None:
        super().__init__()
        self.model = model
        self.clips = clips
        self.task = task

    def forward(self, images: UInt8[Tensor, "B *T C H W"], sizes: Int64[Tensor, "B 2"]) -> tuple[Tensor, ...]:
        """Logits or results of a batch.

        Args:
            images: RGB in 0..255.
            sizes: height and width of the part of each, at the top left, that is an image; what lies outside is padding
                whatever it holds, and so are the rows and columns that are added up to multiples of 32.

        Returns:
            Class logits ``(B, Q, K + 1)`` ("no object" last), mask logits ``(B, Q, *T, h, w)`` at a quarter of the
            padded size, and query features ``(B, Q, C)``; or what :mod:`mask2former.export.traced_postprocessing`
            makes of them, at the padded size.
        """
        clips = images if self.clips else images.unsqueeze(1)  # (B, T, 3, H, W)
        height, width = clips.shape[-2:]
        step = self.model.size_divisibility
        # Not -(-height // step): in ONNX the quotient of a negative number is rounded towards zero.
        padded = (height + step - 1) // step * step, (width + step - 1) // step * step
        rows = torch.arange(padded[0], device=images.device) < sizes[:, :1]  # (B, rows)
        columns = torch.arange(padded[1], device=images.device) < sizes[:, 1:]  # (B, columns)
        inside = rows[:, :, None] & columns[:, None, :]
        pixels = F.pad(self.model.standardize(clips), (0, padded[1] - width, 0, padded[0] - height))
        pixels = torch.where(inside[:, None, None], pixels, torch.zeros((), dtype=pixels.dtype, device=pixels.device))
        output = self.model.forward_normalized(pixels, aux_outputs=False)
        assert isinstance(output, MaskOutput)  # the exporter refuses others
        masks = output.mask_logits if self.clips else output.mask_logits.squeeze(2)
        if self.task is None:
            return output.class_logits, masks, output.query_features
        masks = traced_postprocessing.resized(masks, padded)
        if self.task == "semantic":
            return (traced_postprocessing.semantic(output.class_logits, masks, inside),)
        of_task = traced_postprocessing.panoptic if self.task == "panoptic" else traced_postprocessing.instances
        is_thing = [category.is_thing for category in self.model.info.known_categories]
        return of_task(output.class_logits, masks, inside, is_thing, self.model.info.inference)
