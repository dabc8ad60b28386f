"""The maximum number of bytes that the tensors of a computation occupy at once."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

__all__ = ["peak_memory"]


def peak_memory(step: Callable[[], object]) -> int:
    """Bytes of the tensors that are alive at once, at most, among those that ``step`` makes; also on CPUs.

    Temporary memory of operators is not counted.
    """
    live = _LiveTensors()
    with live:
        step()
    return live.peak


class _LiveTensors(TorchDispatchMode):
    """Counts storages from the operator that makes them until nothing holds them any more."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = self.peak = 0
        self._made: set[int] = set()  # addresses of storages that are counted

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = {leaf.untyped_storage().data_ptr() for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)}
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor):
                storage = tensor.untyped_storage()
                address, size = storage.data_ptr(), storage.nbytes()
                if size and address not in given and address not in self._made:  # no view of something known
                    self._made.add(address)
                    self.bytes += size
                    self.peak = max(self.peak, self.bytes)
                    weakref.finalize(storage, self._gone, address, size)
        return result

    def _gone(self, address: int, size: int) -> None:
        self._made.discard(address)
        self.bytes -= size
