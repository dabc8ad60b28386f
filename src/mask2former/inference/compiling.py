"""A model compiled for fixed input sizes.

Inputs are not padded to reduce the number of sizes, because padding changes the predictions.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence

import torch
from jaxtyping import UInt8
from torch import Tensor

from mask2former.errors import NoCompilerError, UserError
from mask2former.memory import is_lack_of_memory
from mask2former.models.mask2former import Mask2Former
from mask2former.structures.outputs import MaskOutput
from mask2former.structures.pixel_predictions import PixelOutput
from mask2former.text import printable

__all__ = ["CompiledModel", "sentence_of_compiler"]

_logger = logging.getLogger(__name__)

_MOST_SIZES = 8  # each takes a minute or more; by default the compiler also keeps no more


class CompiledModel:
    """A model, compiled as one graph for each of the first eight input sizes.

    Results equal those of the model except for rounding.

    Args:
        model: its current weights are used at each call.
        otherwise: returns the model that handles all other inputs.
    """

    def __init__(self, model: Mask2Former, otherwise: Callable[[], Mask2Former]) -> None:
        self._otherwise = otherwise
        self._compiled = torch.compile(model, fullgraph=True, dynamic=False)
        self._sizes: set[tuple[tuple[int, ...], ...]] = set()
        self._refusal = ""  # message of a failed compilation, which is not repeated for every image

    def __call__(
        self, images: Sequence[UInt8[Tensor, "*frames C h w"]], *, aux_outputs: bool = False
    ) -> MaskOutput | PixelOutput:
        """Call the model.

        Raises:
            NoCompilerError: it cannot be compiled, usually because there is no C++ compiler.
        """
        sizes = tuple(tuple(image.shape) for image in images)
        if sizes in self._sizes:
            return self._compiled(list(images), aux_outputs=aux_outputs)
        if self._refusal:
            raise NoCompilerError(self._refusal)
        if len(self._sizes) == _MOST_SIZES:
            return self._otherwise()(images, aux_outputs=aux_outputs)
        start = time.perf_counter()
        try:
            output = self._compiled(list(images), aux_outputs=aux_outputs)
        except Exception as error:  # the compiler can raise anything; or it is an error of the model
            if is_lack_of_memory(error) or isinstance(error, UserError):  # an error of the model with this input
                raise
            self._refusal = sentence_of_compiler(error)
            raise NoCompilerError(self._refusal) from error
        self._sizes.add(sizes)
        height, width = images[0].shape[-2:]
        _logger.warning(
            "compiled the model for %d x %dx%d pixels in %.0f s%s",
            len(images),
            height,
            width,
            time.perf_counter() - start,
            "; other sizes run uncompiled" if len(self._sizes) == _MOST_SIZES else "",
        )
        return output


def sentence_of_compiler(error: BaseException) -> str:
    """A message for the user about a failed compilation."""
    causes = list(_causes(error))
    if any(type(cause).__name__ == "InvalidCxxCompiler" for cause in causes):
        return "compiling a model needs a C++ compiler, but none was found; install g++ or clang, or run it uncompiled"
    said = next((line for line in str(causes[-1]).splitlines() if line.strip()), "")
    return f"the model cannot be compiled ({type(causes[-1]).__name__}: {printable(said, 200)}); run it as it is"


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__ or getattr(error, "inner_exception", None)
