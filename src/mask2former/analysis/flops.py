"""Multiply-adds, activations and parameters of a model, by module and by operator, counted without computing them."""

from __future__ import annotations

import copy
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode, flop_registry

from mask2former.config import MaskedDecoderConfig, NoPixelDecoderConfig
from mask2former.errors import OptionError, UserError
from mask2former.evaluation.curves import plot_bars
from mask2former.models.mask2former import Mask2Former
from mask2former.models.parts import Precision
from mask2former.models.transformer_decoders import MaskedTransformerDecoder
from mask2former.models.transformer_decoders.attention import KINDS
from mask2former.structures import MaskOutput
from mask2former.text import printable

__all__ = ["MASKS", "Cost", "ModuleCost", "count_flops", "paper_sizes"]

Size = tuple[int, int]

MASKS = "masks"
"""The row for products of queries and pixels, which are computed when masks are read."""
_BILINEAR = 4  # for a value that is interpolated between four pixels
_NORM = 5  # for a value that is normalised, with scale and shift
_STRIDES = (32, 16, 8)
_SHOWN = 0.01  # modules with a smaller share are not drawn
# The paper counts COCO models on 100 images of the validation set but does not name them. Most COCO images are 640x480
# or 640x427; five of the former and two of the latter, a share fitted to R50, reproduce all six backbones.
_FOUR_BY_THREE, _THREE_BY_TWO = 5, 2


@dataclass(frozen=True, slots=True)
class ModuleCost:
    """A row of the table.

    Attributes:
        name: name within the model; empty for the complete model, :data:`MASKS` for costs outside all modules.
        parameters: number of its learned values.
        multiply_adds: multiply-adds of a call, including those of submodules.
        activations: number of outputs of its convolutions, products and attention, including those of submodules.
    """

    name: str
    parameters: int
    multiply_adds: int
    activations: int


@dataclass(frozen=True, slots=True)
class Cost:
    """The cost of calling a model, averaged over its input sizes.

    Attributes:
        sizes: heights and widths of the input in pixels, after padding.
        num_frames: frames of the clip; 1 for an image.
        multiply_adds: what this library computes for the logits of all masks.
        published: what the published code computes, by the rules of the paper; None if a part is not in the paper.
        operators: multiply-adds by operator.
        modules: the complete model, its parts and their submodules.
    """

    sizes: tuple[Size, ...]
    num_frames: int
    multiply_adds: int
    published: int | None
    operators: Mapping[str, int]
    modules: tuple[ModuleCost, ...]

    @property
    def parameters(self) -> int:
        """Number of learned values of the model."""
        return self.modules[0].parameters

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form."""
        return {"parameters": self.parameters, **asdict(self)}

    def draw(self, path: str | Path, depth: int = 2) -> None:
        """Bars of parameters, multiply-adds and activations, for modules with at least 1 % of one; PNG, SVG or PDF.

        Args:
            path: path of the drawing.
            depth: how many levels of modules are shown.

        Raises:
            UserError: the path cannot be written.
            MissingExtraError: matplotlib is not installed.
        """
        counts = ("parameters", "multiply_adds", "activations")
        whole = [max(1, getattr(self.modules[0], count)) for count in counts]
        rows = [
            row
            for row in self.modules
            if row.name.count(".") < depth
            and any(getattr(row, count) >= _SHOWN * all_of for count, all_of in zip(counts, whole, strict=True))
        ]
        columns = {
            "parameters, M": [row.parameters / 1e6 for row in rows],
            "multiply-adds, G": [row.multiply_adds / 1e9 for row in rows],
            "activations, M": [row.activations / 1e6 for row in rows],
        }
        plot_bars([row.name or "model" for row in rows], columns, path)


def paper_sizes(model: Mask2Former) -> list[Size]:
    """The sizes that reproduce the FLOPs of the paper, as a mean over them.

    For a semantic model, a square of its test size; for others, seven images, five with sides of 4:3 and two of 3:2.

    Raises:
        OptionError: the model does not resize images.
    """
    edge, longest = model.info.inference.short_edge, model.info.inference.long_edge
    if not edge or model.info.inference.tile:
        raise OptionError(lambda name: f"the model has no test size of its own; set {name('size')}")
    if model.info.tasks == ("semantic",):
        return [(edge, edge)]
    images = [(edge, min(round(edge * ratio), longest)) for ratio in (4 / 3, 3 / 2)]
    return [images[0]] * _FOUR_BY_THREE + [images[1]] * _THREE_BY_TWO


def count_flops(model: Mask2Former, sizes: Sequence[Size], num_frames: int = 1) -> Cost:
    """Count the multiply-adds of a call.

    Nothing is computed, so this takes a second and no memory at any size. Products and convolutions count one for each
    multiplication with its addition. As in the tool of the paper, norms count 5 per value, and values interpolated
    between pixels (resizing, deformable attention) count 4. Everything else is not counted. Activations are the outputs
    of products, convolutions and attention.

    Args:
        model: not changed; its weights may be on the ``meta`` device.
        sizes: heights and widths of the input in pixels, padded as the model requires; costs are means over them.
        num_frames: frames of a clip.

    Returns:
        The cost of the logits of all queries at stride 4. :attr:`Cost.published` is that of the published code, which
        computes all masks at stride 4 after every layer and resizes them for the next, resizes the last ones to the
        input and, for semantic models, adds them up to class scores. The paper's FLOPs include all of this.

    Raises:
        UserError: a custom part of the model cannot run without memory.
    """
    step = model.size_divisibility
    padded = [(-(-height // step) * step, -(-width // step) * step) for height, width in sizes]
    twin = _without_memory(model)
    found = {size: _count(twin, size, num_frames) for size in dict.fromkeys(padded)}

    def mean(counts: list[int]) -> int:
        return round(sum(counts) / len(counts))

    modules, activations, operators = ([found[size][index] for size in padded] for index in range(3))
    published = [_published(model, found[size][0][""], size, num_frames) for size in padded]
    known = [count for count in published if count is not None]
    parameters = {"": model, **dict(model.named_modules())}
    rows = [
        ModuleCost(
            name,
            sum(parameter.numel() for parameter in parameters[name].parameters()) if name in parameters else 0,
            mean([counts[name] for counts in modules]),
            mean([counts[name] for counts in activations]),
        )
        for name in modules[0]
    ]
    return Cost(
        tuple(padded),
        num_frames,
        rows[0].multiply_adds,
        mean(known) if len(known) == len(padded) else None,
        {name: mean([counts[name] for counts in operators]) for name in operators[0]},
        tuple(rows),
    )


def _without_memory(model: Mask2Former) -> Mask2Former:
    """A copy of the model without weights, in evaluation mode."""
    twins: dict[int, Any] = {
        id(value): nn.Parameter(value.to("meta"), requires_grad=False) for value in model.parameters()
    }
    twins |= {id(value): value.to("meta") for value in model.buffers()}
    twin = copy.deepcopy(model, twins).eval()
    if isinstance(twin.pixel_decoder, Precision):
        twin.pixel_decoder.full_precision = False  # it uses autocast, which does not support the meta device
    return twin


def _count(twin: Mask2Former, size_hw: Size, num_frames: int) -> tuple[dict[str, int], dict[str, int], Counter[str]]:
    """Multiply-adds and activations by module, with the complete model under ""; multiply-adds by operator."""
    counter = FlopCounterMode(display=False, custom_mapping=_counts())
    try:
        with torch.device("meta"), torch.no_grad(), counter:
            output = twin([torch.empty(num_frames, twin.channels, *size_hw)], aux_outputs=False)
            _ = output.mask_logits if isinstance(output, MaskOutput) else output.class_scores
    except (NotImplementedError, RuntimeError) as error:
        raise UserError(
            "the model cannot be counted because part of it does not run on the meta device, which has "
            f"no memory: {printable(str(error), 200)}"
        ) from error
    counts, root = counter.get_flop_counts(), type(twin).__name__
    both = {"": sum(counts["Global"].values())}
    both |= {name: _of_module(module, f"{root}.{name}", counts) for name, module in twin.named_modules() if name}
    both[MASKS] = both[""] - sum(counts[root].values())
    multiply_adds, activations = (
        {name: round(part(count)) for name, count in both.items()} for part in (_multiply_adds, _activations)
    )
    operators = {
        str(operator).removeprefix("aten."): round(_multiply_adds(count))
        for operator, count in counts["Global"].items()
    }
    return multiply_adds, activations, Counter(operators)


def _of_module(module: nn.Module, name: str, counts: Mapping[str, Mapping[Any, complex]]) -> complex:
    """The count of a module, or the sum over its children if its forward is never called, as for a list."""
    if name in counts:
        return sum(counts[name].values())
    return sum(_of_module(child, f"{name}.{part}", counts) for part, child in module.named_children())


# A count is a complex number, since the counter adds up a single number per operator. The real part is the number of
# multiplications and additions, which torch counts separately, the imaginary part that of outputs. Exact up to 2**53.
def _multiply_adds(count: complex) -> float:
    return complex(count).real / 2


def _activations(count: complex) -> float:
    return complex(count).imag


def _counts() -> dict[Any, Any]:
    """How each operator is counted; norms and interpolation between pixels add no activations."""

    def with_values(formula: Callable[..., int]) -> Callable[..., complex]:
        def count(*arguments: Any, out_val: Any, **named: Any) -> complex:
            values = out_val if isinstance(out_val, Tensor) else out_val[0]  # attention returns more than its values
            return complex(formula(*arguments, out_val=out_val, **named), values.numel())

        count._get_raw = True  # pyright: ignore[reportFunctionMemberAccess]  (an attribute that torch checks)
        return count

    def norm(values: Sequence[int], *rest: object, **named: object) -> int:
        return 2 * _NORM * math.prod(values)

    def read_between(*shapes: object, out_shape: Sequence[int], **named: object) -> int:
        return 2 * _BILINEAR * math.prod(out_shape)

    aten = torch.ops.aten
    ours = {
        aten.native_layer_norm: norm,
        aten.native_group_norm: norm,
        aten.grid_sampler_2d: read_between,
        aten.upsample_bilinear2d: read_between,
    }
    return {operator: with_values(formula) for operator, formula in flop_registry.items()} | ours


def _published(model: Mask2Former, here: int, size_hw: Size, num_frames: int) -> int | None:
    """What the published code computes: the same, except for masks, see :func:`count_flops`."""
    architecture, decoder = model.info.architecture, model.transformer_decoder
    if architecture is None or not isinstance(decoder, MaskedTransformerDecoder):
        return None
    config = architecture.transformer_decoder
    assert isinstance(config, MaskedDecoderConfig)
    assert not isinstance(architecture.pixel_decoder, NoPixelDecoderConfig)
    queries, channels = config.num_queries, architecture.pixel_decoder.mask_dim
    pixels = num_frames * size_hw[0] * size_hw[1]
    levels = [pixels // stride**2 for stride in _STRIDES]
    used = {level for chosen in decoder.scales for level in chosen}
    resized_embeddings = _BILINEAR * channels * sum(levels[level] for level in used)
    layers = [decoder.scales[layer % len(decoder.scales)] for layer in range(config.num_layers)]
    read = sum(levels[level] for chosen in layers for level in chosen)  # mask pixels of a query, over all layers
    masks_here = masks_there = 0
    if KINDS[config.attention].reads_masks:
        masks_here = queries * channels * read
        masks_there = queries * (channels * config.num_layers * (pixels // 16) + _BILINEAR * read)
    results = _BILINEAR * queries * pixels
    if model.info.tasks == ("semantic",):
        results += queries * (decoder.class_head.out_features - 1) * pixels
    return here - resized_embeddings - masks_here + masks_there + results
