"""Any timm model as a backbone, with its batch norms frozen, synchronised or plain."""

from __future__ import annotations

from typing import Any, Literal

import timm
import torch
from jaxtyping import Float
from timm.layers.norm_act import FrozenBatchNormAct2d, convert_sync_batchnorm
from timm.models import is_model_in_modules
from timm.utils.model import freeze_batch_norm_2d
from torch import Tensor, nn
from torchvision.ops import FrozenBatchNorm2d

from mask2former.errors import RequestError

__all__ = ["TimmBackbone"]

_STRIDES = (4, 8, 16, 32)


class TimmBackbone(nn.Module):
    """``timm.create_model(model, features_only=True)`` reduced to the maps of strides 4, 8, 16 and 32.

    timm's ResNets have the published layout (stride in the 3x3 convolution); names ending in ``s`` have the deep stem
    with 128 channels.

    Args:
        model: timm's name, for instance ``resnet50``.
        norm: what becomes of batch norms. ``frozen``: fixed scale and shift, no training; ``sync``: statistics over
            all ranks; ``batch``: as timm made them.
        arguments: more keyword arguments of ``timm.create_model``.

    Raises:
        RequestError: timm does not know the model, or it lacks one of the four strides.
    """

    def __init__(
        self,
        model: str = "resnet50",
        norm: Literal["frozen", "sync", "batch"] = "frozen",
        arguments: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        options = dict(arguments or {})
        if is_model_in_modules(model.split(".")[0], {"resnet"}):
            # With frozen norms timm's default would silence every residual branch for good.
            options.setdefault("zero_init_last", False)
        try:
            body: Any = timm.create_model(model, features_only=True, **options)
        except (RuntimeError, TypeError, AttributeError) as error:
            raise RequestError(f"backbone '{model}': timm could not make it with features_only: {error}") from error
        reductions, channels = body.feature_info.reduction(), body.feature_info.channels()
        missing = [stride for stride in _STRIDES if stride not in reductions]
        if missing:
            raise RequestError(
                f"backbone '{model}' has maps of strides {reductions}; maps of strides {list(_STRIDES)} are needed"
            )
        self.strides = _STRIDES
        self._chosen = tuple(len(reductions) - 1 - reductions[::-1].index(stride) for stride in _STRIDES)
        self.channels: tuple[int, ...] = tuple(channels[index] for index in self._chosen)
        if norm == "frozen":
            body = freeze_batch_norm_2d(body)
            for module in body.modules():
                if isinstance(module, FrozenBatchNorm2d | FrozenBatchNormAct2d):
                    variance, eps = module.running_var, module.eps
                    assert isinstance(variance, Tensor)
                    assert isinstance(eps, float)
                    variance.sub_(eps)  # Parity: a fresh frozen norm is the identity
        elif norm == "sync":
            body = convert_sync_batchnorm(body)  # unlike torch's it keeps the activation that some norms contain
        self.body = body

    def set_gradient_checkpointing(self, enable: bool) -> None:
        """Whether stages are computed again in the backward pass; the timm model must support it."""
        self.body.set_grad_checkpointing(enable)

    def forward(self, images: Float[Tensor, "N 3 H W"]) -> list[Float[Tensor, "N _C_l _H_l _W_l"]]:
        """Maps of ``channels`` at ``strides``, finest first; ``images`` are normalised."""
        maps: list[torch.Tensor] = self.body(images)
        return [maps[index] for index in self._chosen]
