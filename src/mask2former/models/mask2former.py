"""The model: normalise, backbone, pixel decoder, transformer decoder (Mask2Former, Fig. 2).

Knows no task, loss or result; those use its :class:`MaskOutput`.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from mask2former.config import ArchitectureConfig, Task
from mask2former.errors import UserError
from mask2former.models.parts import for_inference, set_gradient_checkpointing
from mask2former.models.pixel_decoders import PixelFeatures, TokenFeatures
from mask2former.ops.filled import filled
from mask2former.structures.categories import Categories
from mask2former.structures.model_info import ModelInfo
from mask2former.structures.outputs import MaskOutput
from mask2former.structures.pixel_predictions import PixelOutput
from mask2former.structures.samples import ImageBatch, Target

__all__ = ["Mask2Former"]

_DEFAULT = ArchitectureConfig()


class Mask2Former(nn.Module):
    """Masked-attention mask transformer for images and clips.

    The parts are plain modules, so you can replace any of them with your own; ``models/parts.py`` defines their inputs
    and outputs.

    Args:
        backbone: images to four maps.
        pixel_decoder: four maps to :class:`PixelFeatures`.
        transformer_decoder: :class:`PixelFeatures` to :class:`MaskOutput`.
        size_divisibility: heights and widths are padded to multiples of it.
        mean: of R, G, B, or of the channels of other images, in 0..255. Inputs are normalised here and nowhere else.
        std: the same for the standard deviation.
        info: description of the model; stored in checkpoints. By default that of a model with your own parts.

    Attributes:
        info: as above; see :class:`ModelInfo`.
    """

    def __init__(
        self,
        backbone: nn.Module,
        pixel_decoder: nn.Module,
        transformer_decoder: nn.Module,
        size_divisibility: int = 32,
        mean: Sequence[float] = _DEFAULT.pixel_mean,
        std: Sequence[float] = _DEFAULT.pixel_std,
        info: ModelInfo | None = None,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.pixel_decoder = pixel_decoder
        self.transformer_decoder = transformer_decoder
        self.size_divisibility = size_divisibility
        if len(mean) != len(std):
            raise UserError(
                f"the mean has {len(mean)} numbers and the deviation {len(std)}; expected one of each per channel"
            )
        info = info or ModelInfo()
        self.info = replace(info, inference=info.inference.for_channels(len(mean)))
        # Numbers, not buffers: a float64 model must not see values that were once rounded to float32.
        self.mean = tuple(mean)
        self.std = tuple(std)

    @property
    def categories(self) -> Categories | None:
        """The classes of :attr:`info`, in the order of the class head; can be set."""
        return self.info.categories

    @categories.setter
    def categories(self, categories: Categories | None) -> None:
        self.info = replace(self.info, categories=categories)

    @property
    def channels(self) -> int:
        """Number of channels of its images: three (R, G, B), unless it was built for others."""
        return len(self.mean)

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        return next(self.parameters()).dtype

    def forward(
        self,
        images: Sequence[Tensor] | ImageBatch,
        *,
        aux_outputs: bool = True,
        targets: Sequence[Target] | None = None,
    ) -> MaskOutput | PixelOutput:
        """Class and mask logits per query.

        Args:
            images: RGB in 0..255 as a list of ``(3, H, W)`` images or ``(T, 3, H, W)`` clips, or a padded batch; for
                models of other images, with as many channels as ``mean`` has numbers. All clips of a call have the same
                number of frames.
            aux_outputs: whether to keep the predictions of the earlier layers (the loss needs them).
            targets: in training, for a transformer decoder that accepts them (``TakesTargets``); one per image or clip,
                at the padded size.

        Returns:
            Mask logits have a quarter of the padded size, and always a frame axis. Padding is attended to, as in the
            published model, so results depend on how an image was padded. A model without queries returns class scores
            per pixel instead.

        Raises:
            UserError: one of your own parts returns something other than ``models/parts.py`` requires.
        """
        return self.forward_normalized(self.normalize(images), aux_outputs=aux_outputs, targets=targets)

    def forward_normalized(
        self,
        pixels: Float[Tensor, "B T C H W"],
        *,
        aux_outputs: bool = True,
        targets: Sequence[Target] | None = None,
    ) -> MaskOutput | PixelOutput:
        """Like a call, for the output of :meth:`normalize`; sides are multiples of ``size_divisibility``."""
        features = self.pixel_decoder(self.backbone(pixels.flatten(0, 1)))
        if not isinstance(features, PixelFeatures | TokenFeatures):
            raise UserError(f"the pixel decoder returned a {type(features).__name__}; expected PixelFeatures")
        given = {} if targets is None else {"targets": targets}
        output = self.transformer_decoder(features, pixels.shape[1], aux_outputs=aux_outputs, **given)
        if not isinstance(output, MaskOutput | PixelOutput):
            raise UserError(f"the transformer decoder returned a {type(output).__name__}; expected MaskOutput")
        if isinstance(output, MaskOutput) and not (torch.compiler.is_compiling() or torch.jit.is_tracing()):
            _check_masks(output.masks.shape, pixels)
        return output

    def normalize(self, images: Sequence[Tensor] | ImageBatch) -> Float[Tensor, "B T C H W"]:
        """Subtract mean, divide by deviation, then pad with zeros bottom and right to a common size.

        Raises:
            UserError: the images have a different number of channels than the model expects.
        """
        if isinstance(images, ImageBatch):
            clips = [clip[..., :h, :w] for clip, (h, w) in zip(images.pixels, images.sizes, strict=True)]
        else:
            clips = [image if image.dim() == 4 else image.unsqueeze(0) for image in images]
        if others := [clip.shape[1] for clip in clips if clip.shape[1] != self.channels]:
            raise UserError(
                f"the model expects images of {self.channels} channel{'s' * (self.channels > 1)}, got {others[0]}; "
                "use images like those it was trained on"
            )
        step = self.size_divisibility
        height = -(-max(clip.shape[2] for clip in clips) // step) * step
        width = -(-max(clip.shape[3] for clip in clips) // step) * step
        normalized = map(self.standardize, clips)
        return torch.stack([F.pad(clip, (0, width - clip.shape[3], 0, height - clip.shape[2])) for clip in normalized])

    def standardize(self, pixels: Shaped[Tensor, "*batch C H W"]) -> Float[Tensor, "*batch C H W"]:
        """Values in 0..255 minus the mean, divided by the deviation; the one place where inputs are normalised."""
        wide = torch.promote_types(self.dtype, torch.float32)
        mean, std = (filled(values, wide, self.device).view(-1, 1, 1) for values in (self.mean, self.std))
        return ((pixels.to(wide) - mean) / std).to(self.dtype)

    def set_gradient_checkpointing(self, enable: bool) -> None:
        """Save memory in training, at the cost of time: backbone and pixel decoder recompute instead of storing.

        Raises:
            UserError: it is switched on, and one of them does not support it.
        """
        set_gradient_checkpointing("backbone", self.backbone, enable)
        set_gradient_checkpointing("pixel decoder", self.pixel_decoder, enable)

    def prepare_for_inference(self) -> Mask2Former:
        """This model with faster parts, for inference on its current device and in its current dtype.

        Results are the same within rounding. This model is not changed. The prepared one shares most parameters with
        it; folded and packed ones are copies. So use the prepared model only for calls, and only while the weights stay
        the same; to move, train, save or change a model, use this one. A predictor does all that by itself. A subclass,
        which may hold more than these parts, is returned unchanged.
        """
        if type(self) is not Mask2Former:
            return self
        prepared = copy.copy(self)
        prepared._modules = dict(self._modules)
        with torch.inference_mode(False), torch.no_grad():  # so that the result can be used anywhere
            for name in ("backbone", "pixel_decoder", "transformer_decoder"):
                setattr(prepared, name, for_inference(getattr(self, name)))
        return prepared

    @classmethod
    def from_pretrained(
        cls,
        source: str | Path,
        recipe: str | None = None,
        *,
        tasks: Task | Sequence[Task] = (),
        weights: str | None = None,
        model: Mask2Former | None = None,
    ) -> Mask2Former:
        """Load a model by its zoo name, from a file or folder of any known code base, or from the Hugging Face hub.

        Args:
            source: ``scenes-tiny`` (packaged), ``coco-panoptic/r50`` (published; downloaded once), our
                ``.safetensors``, a checkpoint of a training, a file of the original code, mmdetection, mmsegmentation
                or sssegmentation, a folder of ours or of transformers, or ``hf://owner/name`` (hub).
            recipe: for a file without configuration, the published model that it contains, for instance
                ``coco-panoptic/r50``.
            tasks: instead of ``recipe``, what the model was trained for: ``panoptic``, ``instance``, ``semantic``.
            weights: which of several sets of weights in a file, by the name of its entry, for instance ``model_ema``.
            model: receives the weights, instead of a newly built model; for models with your own parts, which files do
                not describe.

        Raises:
            UserError: the file cannot be found or read, or does not fit; the message says what was expected.
        """
        from mask2former import checkpoints

        return checkpoints.from_pretrained(source, recipe, model, tasks=tasks, weights=weights)

    def save_pretrained(self, path: str | Path) -> None:
        """Write weights, configuration and categories: a ``.safetensors`` file, or a folder with a model card."""
        from mask2former import checkpoints

        checkpoints.save_pretrained(self, path)

    def push_to_hub(
        self, repo_id: str, *, private: bool = False, metrics: Mapping[str, float] | None = None, message: str = ""
    ) -> str:
        """Upload the model with a model card to the Hugging Face hub; ``from_pretrained(repo_id)`` loads it there.

        Args:
            repo_id: ``owner/name``; created if it does not exist.
            private: whether a new repository is private.
            metrics: measured metrics in percent, for the card and the file.
            message: of the commit.

        Returns:
            The page of the model.

        Raises:
            UserError: there is no network or no such owner, or you are not logged in (``hf auth login``).
        """
        from mask2former import checkpoints

        return checkpoints.push_to_hub(self, repo_id, private=private, metrics=metrics, message=message)


def _check_masks(shape: Sequence[int], pixels: Float[Tensor, "B T C H W"]) -> None:
    """Results would be scaled without a word if the masks had another stride."""
    batch, frames = pixels.shape[:2]
    height, width = (-(-side // 4) for side in pixels.shape[3:])
    if len(shape) != 5 or (shape[0], *shape[2:]) != (batch, frames, height, width):
        raise UserError(
            f"the mask logits of the transformer decoder are {tuple(shape)}; expected ({batch}, queries, {frames}, "
            f"{height}, {width}): clips, queries, frames, and a quarter of the padded height and width; pixel "
            "embeddings and the finest map of the backbone must have stride 4"
        )
