"""What an exported file computes: RGB bytes to logits, as one module that torch can trace."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64, UInt8
from torch import Tensor, nn

from mask2former.models.mask2former import Mask2Former

__all__ = ["ExportedGraph"]


class ExportedGraph(nn.Module):
    """Normalisation, padding and the model; no Python value of a call is in the graph.

    Args:
        model: it is called as it is.
        clips: whether inputs have a frame axis.
    """

    def __init__(self, model: Mask2Former, *, clips: bool) -> None:
        super().__init__()
        self.model = model
        self.clips = clips

    def forward(
        self, images: UInt8[Tensor, "B *T 3 H W"], sizes: Int64[Tensor, "B 2"]
    ) -> tuple[Float[Tensor, "B Q K1"], Float[Tensor, "B Q *T h w"], Float[Tensor, "B Q C"]]:
        """Logits of a batch.

        Args:
            images: RGB in 0..255.
            sizes: height and width of the part of each, at the top left, that is an image; what lies outside is padding
                whatever it holds, and so are the rows and columns that are added up to multiples of 32.

        Returns:
            Class logits ("no object" last), mask logits at a quarter of the padded size, and query features.
        """
        clips = images if self.clips else images.unsqueeze(1)  # (B, T, 3, H, W)
        height, width = clips.shape[-2:]
        rows = torch.arange(height, device=images.device) < sizes[:, :1]  # (B, H)
        columns = torch.arange(width, device=images.device) < sizes[:, 1:]  # (B, W)
        inside = (rows[:, :, None] & columns[:, None, :])[:, None, None]  # (B, 1, 1, H, W)
        pixels = self.model.standardize(clips)
        pixels = torch.where(inside, pixels, torch.zeros((), dtype=pixels.dtype, device=pixels.device))
        step = self.model.size_divisibility
        # Not -(-height // step): in ONNX the quotient of a negative number is rounded towards zero.
        bottom, right = (height + step - 1) // step * step - height, (width + step - 1) // step * step - width
        output = self.model.forward_normalized(F.pad(pixels, (0, right, 0, bottom)), aux_outputs=False)
        masks = output.mask_logits
        return output.class_logits, masks if self.clips else masks.squeeze(2), output.query_features
