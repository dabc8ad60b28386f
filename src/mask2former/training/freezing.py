"""Parts of a model that are not trained: neither their weights nor the statistics of their norms."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence

from torch import nn

from mask2former.errors import UserError
from mask2former.text import close_names, listed, quoted

__all__ = ["Frozen", "is_of"]


def is_of(name: str, parts: Sequence[str]) -> bool:
    """Whether a module or weight with this dotted name is one of the parts, or inside one."""
    return any(name == part or name.startswith(f"{part}.") for part in parts)


class Frozen:
    """Parts of a model that stay fixed while the others are trained.

    Args:
        model: with these parts; changed only inside :meth:`held`.
        parts: their dotted names, for instance ``backbone`` or ``transformer_decoder.class_head``.

    Attributes:
        parts: their names.
        names: of the parameters that would otherwise be trained.

    Raises:
        UserError: the model has no such part, or nothing is left to train.
    """

    def __init__(self, model: nn.Module, parts: Sequence[str]) -> None:
        modules = {name: module for name, module in model.named_modules() if name}
        for part in parts:
            if part not in modules:
                close = close_names(part, modules) or [name for name, _ in model.named_children()]
                raise UserError(
                    f"optim.freeze: the model has no part {quoted(part)}; expected names of its modules, for instance "
                    f"{listed(close)}"
                )
        self.parts = tuple(parts)
        self._modules = [modules[part] for part in parts]
        learning = {name: value for name, value in model.named_parameters() if value.requires_grad}
        self._parameters = {name: value for name, value in learning.items() if is_of(name, parts)}
        self._num_learning = sum(value.numel() for value in learning.values())
        self.names = frozenset(self._parameters)
        if parts and len(self.names) == len(learning):
            raise UserError(f"optim.freeze: {', '.join(parts)} would freeze everything that learns; leave a part out")

    def __str__(self) -> str:
        count = sum(value.numel() for value in self._parameters.values())
        return (
            f"frozen (optim.freeze): {', '.join(self.parts)}; {count:,} of {self._num_learning:,} "
            "parameters are not trained, and norms and dropout in these parts behave as in prediction"
        )

    def eval(self) -> None:
        """Switch the parts to evaluation mode, whatever the mode of the model."""
        for module in self._modules:
            module.eval()

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """In the block the weights are not trained; afterwards, modes are restored, too: they may be trained again."""
        modes = [(module, module.training) for part in self._modules for module in part.modules()]
        try:
            for value in self._parameters.values():
                value.requires_grad_(False)
            yield
        finally:
            for value in self._parameters.values():
                value.requires_grad_(True)
            for module, mode in modes:
                module.training = mode
