"""Writes a model as a file for another runtime, to be used by a predictor or by any program with this runtime.

Before a file is moved to its final name, it is run once and compared with the model.
"""

from __future__ import annotations

import contextlib
import copy
import os
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import torch
from torch import Tensor

import mask2former
from mask2former import limits
from mask2former.checkpoints import fetch, from_pretrained
from mask2former.config import Task
from mask2former.errors import OptionError, UserError
from mask2former.export.graph import Call, ExportedGraph
from mask2former.export.traced_postprocessing import check_settings
from mask2former.export.triton_server import CONFIG, MODEL_FILE, check_repository, triton_config
from mask2former.export.writers import (
    WeightType,
    attention_in_products,
    check_compiler,
    check_installed,
    onnx_tensors,
    write_onnx,
    write_openvino,
    write_pt2,
)
from mask2former.files import check_outputs, whole_file, whole_folder
from mask2former.inference.exported import SUFFIXES, ExportedInfo, Format, open_runtime
from mask2former.inference.exported.network import SMALLEST, file_inputs
from mask2former.inference.network import ModelNetwork
from mask2former.inference.opening import model_files
from mask2former.inference.predictor import Predictor
from mask2former.media.images import list_images
from mask2former.models.backbones.swin import SwinTransformer
from mask2former.models.mask2former import Mask2Former
from mask2former.models.transformer_decoders import PerPixelHead, PerPixelPlusHead
from mask2former.progress import DOWNLOADING, Progress, silent
from mask2former.structures import PixelPrediction, Prediction
from mask2former.text import printable

__all__ = ["Exported", "Target", "WeightType", "export"]

Target = Format | Literal["triton"]
_TARGETS = (*get_args(Format), "triton")
_WEIGHTS = ".bin"  # written by OpenVINO beside its .xml
_EXAMPLE = (90, 125)  # pixels of the input that traces a graph for any size; with padding on both sides
_OTHERS = 0.05  # share of results that may differ: two of almost equal scores can be swapped
# For logits: largest difference relative to the largest logit, on noise, or for int8 on some images. For float32,
# rounding causes a hundredth of it. For int8, queries that are no object differ by half of the largest although metrics
# do not change, so only grossly wrong files are rejected.
_COMPARED = 2  # images
_TOLERANCES: Mapping[WeightType, float] = {"float32": 1e-3, "float16": 3e-2, "int8": 2.0}


@dataclass(frozen=True)
class Exported:
    """The files that were written.

    Attributes:
        path: the file, or the folder for Triton.
        info: the metadata in the file.
        difference: the largest difference between the outputs of model and file, on noise (for int8 on two of the
            images): for logits relative to the largest, for results the share that differs.
        num_bytes: size of everything that was written.
    """

    path: Path
    info: ExportedInfo
    difference: float
    num_bytes: int


def export(
    model: Mask2Former | str | Path,
    path: str | Path,
    to: Target | None = None,
    *,
    size: tuple[int, int] | None = None,
    batch: int | None = 1,
    frames: int | None = None,
    results: Task | None = None,
    dtype: WeightType = "float32",
    calibration: Sequence[str | Path] = (),
    recipe: str | None = None,
    tasks: Task | Sequence[Task] = (),
    weights: str | None = None,
    progress: Progress = silent,
) -> Exported:
    """Write a model as a file for another runtime; what ``mask2former export`` does.

    The inputs of the file are RGB bytes and the sizes of images in them, see
    :class:`~mask2former.export.graph.ExportedGraph`. It contains only standard operators (ONNX opset 18), with classes,
    settings and license as metadata. ``Predictor.from_pretrained(path)`` runs it.

    Args:
        model: a model, or the name or file of one. It is exported in float32, on the CPU.
        path: the file to write; an existing one is replaced. OpenVINO writes weights beside it, as ``.bin``. For Triton
            a new folder, whose name is that of the model.
        to: ``onnx``, ``openvino``, ``pt2`` (compiled by PyTorch for this processor), or ``triton`` for the folder of a
            model in a repository of the Triton inference server, with an ONNX file; None: from the suffix of ``path``,
            ``.onnx``, ``.xml`` or ``.pt2``.
        size: height and width in pixels into which images must fit, and to which they are padded; None: any size,
            which is not possible for models with Swin.
        batch: images per call; None: any number.
        frames: frames per clip; None: 8 for models of clips, and images for all others.
        results: the task whose results the file returns, at the padded size of the input and with the inference
            settings of the model, see :mod:`mask2former.export.traced_postprocessing`; for programs without this
            package. None: logits.
        dtype: type of the weights in the file. ``float16`` halves its size, and computation is in float32. ``int8``
            reduces it to a quarter, and products are computed in 8-bit integers: measure the loss of quality with
            :func:`~mask2former.export.comparison.verify_export`.
        calibration: for ``int8``, images and folders like those that the file will be used for; value ranges are
            measured on them.
        recipe: for files without configuration, for instance ``coco-panoptic/r50``.
        tasks: the tasks for which the model was trained, instead of a recipe.
        weights: which of several sets of weights in a file, by the name of its entry.
        progress: called at each step.

    Raises:
        UserError: the model cannot be loaded or exported, an argument is wrong, the runtime is not installed, the path
            cannot be written, or the logits of the file differ from those of the model. Nothing is written then.
        NoCompilerError: there is no C++ compiler, which ``pt2`` needs.
    """
    path = Path(path)
    kind = _format(path, to)
    _check_inputs(size, batch, frames)
    parameters = path.with_suffix(_WEIGHTS)
    if kind == "triton":
        check_repository(path)
    else:
        outputs = [path, parameters] if kind == "openvino" else [path]
        check_outputs([("path", output) for output in outputs], [*model_files(model), *calibration])
    if dtype not in _TOLERANCES or (kind == "pt2" and dtype != "float32"):
        expected = "float32" if kind == "pt2" else ", ".join(_TOLERANCES)
        raise OptionError(lambda name: f"{name('dtype')} {dtype}: expected {expected} for weights in {kind}")
    if (dtype == "int8") != bool(calibration):
        raise OptionError(
            lambda name: f"{name('dtype')} int8 and {name('calibration')}, images that it is measured on, go together"
        )
    if kind == "pt2":
        check_compiler()
    check_installed(kind)
    if isinstance(model, str | Path):
        fetch(model, lambda done, total: progress(f"{DOWNLOADING} {model}", done, total))
        progress("loading the model", 0, None)
        model = from_pretrained(model, recipe, tasks=tasks, weights=weights)
    elif taken := [name for name, value in (("recipe", recipe), ("tasks", tasks), ("weights", weights)) if value]:
        raise UserError(f"'{taken[0]}' applies to loading a model, but this one is already loaded; leave it out")
    if size is None and isinstance(model.backbone, SwinTransformer):
        raise UserError(
            "a model with Swin can be exported for one input size only, because its windows depend on "
            "it: give the size that images must fit into, for instance 800x1333"
        )
    if isinstance(model.transformer_decoder, PerPixelHead | PerPixelPlusHead):
        raise UserError("a model that classifies pixels cannot be exported; export one with queries")
    if frames is None and getattr(model.transformer_decoder, "temporal", False):
        frames = 8
    if dtype == "int8" and (frames is not None or results is not None):
        raise OptionError(lambda name: f"{name('dtype')} int8 applies to files that return logits of images")
    height, width = size or (None, None)
    version = mask2former.__version__
    info = ExportedInfo(model.info, height, width, batch, frames, model.size_divisibility, version, results, dtype)
    info.to_json()  # raises for a model without classes
    if results is not None:
        if frames is not None:
            raise UserError("results are for images only; export a model of clips without them")
        check_settings(model.info.inference, results)
    calls = _calls(model, info, calibration)
    graph = ExportedGraph(_plain(model), clips=frames is not None, task=results).eval()
    with contextlib.ExitStack() as stack:
        if kind == "triton":
            folder = stack.enter_context(whole_folder(path))
            written = folder / MODEL_FILE
            written.parent.mkdir()
        else:
            written = stack.enter_context(whole_file(path, suffix=path.suffix))
        beside = stack.enter_context(whole_file(parameters)) if kind == "openvino" else None
        progress(f"writing {path.name}", 0, None)
        _write(kind, graph, info, written, dtype, calls)
        progress("comparing it with the model", 0, None)
        difference = _difference(graph, written, path, _TOLERANCES[dtype], calls)
        if beside is not None:
            os.replace(written.with_suffix(_WEIGHTS), beside)
        if kind == "triton":
            config = triton_config(path.name, onnx_tensors(written), info)
            written.parents[1].joinpath(CONFIG).write_text(config, encoding="ascii")
    files = {"openvino": [path, parameters], "triton": [path / MODEL_FILE, path / CONFIG]}.get(kind, [path])
    return Exported(path, info, difference, sum(file.stat().st_size for file in files))


def _format(path: Path, to: Target | None) -> Target:
    if to is not None and to not in _TARGETS:
        raise OptionError(lambda name: f"{name('to')} {to}: no such format; expected {', '.join(_TARGETS)}")
    if to == "triton":
        return to
    by_suffix = SUFFIXES.get(path.suffix.lower())
    if by_suffix is None or to not in (None, by_suffix):
        expected = [suffix for suffix, kind in SUFFIXES.items() if to in (None, kind)]
        raise UserError(f"'{path}': expected the name of a file ending in {' or '.join(expected)}")
    return by_suffix


def _check_inputs(size: tuple[int, int] | None, batch: int | None, frames: int | None) -> None:
    if size is not None:
        if not all(1 <= side <= limits.SIDE for side in size):
            raise UserError(f"size {size[0]}x{size[1]}: expected height and width, each 1 to {limits.SIDE:,} pixels")
        what = f"size {size[0]}x{size[1]} has too many pixels:"
        limits.check_limit(what, size[0] * size[1], limits.INPUT_PIXELS, "choose a smaller one")
    for name, value in (("batch", batch), ("frames", frames)):
        if value is not None and not 1 <= value <= limits.BATCH:
            raise UserError(f"{name} {value}: expected 1 to {limits.BATCH:,}")


def _plain(model: Mask2Former) -> Mask2Former:
    """The model, or a copy if it is in training mode, not in float32 on the CPU, or has a layout for prediction.

    The channels-last convolutions of a predictor would add conditions on sizes to the graph.
    """
    tensors = [*model.parameters(), *model.buffers()]
    is_plain = all(tensor.device.type == "cpu" and tensor.is_contiguous() for tensor in tensors)
    is_plain = is_plain and not any(module.training for module in model.modules())
    if is_plain and all(tensor.dtype in (torch.float32, torch.int64) for tensor in tensors):
        return model
    copied = copy.deepcopy(model).to(device="cpu", dtype=torch.float32)
    return copied.to(memory_format=torch.contiguous_format)  # pyright: ignore[reportCallIssue]  (missing overload)


def _write(
    kind: Target, graph: ExportedGraph, info: ExportedInfo, path: Path, dtype: WeightType, calls: Sequence[Call]
) -> None:
    sides = info.height or _EXAMPLE[0], info.width or _EXAMPLE[1]
    inputs = _inputs(info, info.batch or 2, sides, sides)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # warnings of torch about its own exporter
        if kind == "pt2":
            write_pt2(trace(graph, inputs, info), path, info)
            return
        with attention_in_products():
            program = trace(graph, inputs, info)
        (write_openvino if kind == "openvino" else write_onnx)(program, path, info, dtype, calls)


def _calls(model: Mask2Former, info: ExportedInfo, calibration: Sequence[str | Path]) -> list[Call]:
    """The inputs of a file for some images: each image, or each of its tiles, at the size for the network."""
    shown: list[Tensor] = []
    network = ModelNetwork(_plain(model), torch.device("cpu"))

    class Recorder:
        largest_input = None if info.height is None or info.width is None else (info.height, info.width)

        def __call__(self, images: Sequence[Tensor]) -> Sequence[Prediction | PixelPrediction]:
            shown.extend(images)
            return network(images)

    predictor = Predictor(Recorder(), "cpu", settings=model.info.inference, categories=model.info.known_categories)
    for path, _ in list_images(calibration) if calibration else ():
        predictor(path)
    return [file_inputs([image[None]], Recorder.largest_input or _at_least(image), info) for image in shown]


def _at_least(image: Tensor) -> tuple[int, int]:
    """The size of an image, but at least the smallest size that a file accepts."""
    return max(SMALLEST, image.shape[-2]), max(SMALLEST, image.shape[-1])


def trace(graph: ExportedGraph, inputs: tuple[Tensor, Tensor], info: ExportedInfo) -> torch.export.ExportedProgram:
    """The graph, traced by ``torch.export``.

    Raises:
        UserError: a part of the model cannot be traced.
    """
    dim, first = torch.export.Dim, 2 if info.frames is None else 3
    open_batch = {0: dim("batch", min=1, max=limits.BATCH)} if info.batch is None else {}
    open_size = {}
    if info.height is None:
        sides = (dim(name, min=SMALLEST, max=limits.SIDE) for name in ("height", "width"))
        open_size = dict(zip((first, first + 1), sides, strict=True))
    try:
        with torch.no_grad():
            return torch.export.export(
                graph, inputs, dynamic_shapes={"images": open_batch | open_size, "sizes": open_batch}, strict=False
            )
    except Exception as error:  # torch has no common error for what it cannot trace
        reason = printable(str(error).splitlines()[0] if str(error) else type(error).__name__, 300)
        raise UserError(
            f"the model cannot be exported: {reason}; your own parts must be traceable by torch.export; a fixed size "
            "(size=) and number of images (batch=) make this easier"
        ) from error


def _inputs(info: ExportedInfo, count: int, sides: tuple[int, int], sizes: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Noise in the input format of a file, and the sizes of its images."""
    generator = torch.Generator().manual_seed(0)
    frames = () if info.frames is None else (info.frames,)
    shape = (count, *frames, info.model.inference.channels, *sides)
    images = torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)
    return images, torch.tensor([sizes] * count)


def _difference(graph: ExportedGraph, file: Path, path: Path, tolerance: float, calls: Sequence[Call]) -> float:
    """The largest difference between file and model: of numbers relative to the largest, or the share that differs.

    Raises:
        UserError: the difference is too large.
    """
    runtime = open_runtime(file, torch.device("cpu"), trust_code=True)
    info, worst = runtime.info, 0.0
    sides = [(info.height, info.width)] if info.height and info.width else [(SMALLEST, 130), (160, 70)]
    most = tolerance if info.task is None else _OTHERS
    shown = [tuple(map(torch.from_numpy, call)) for call in calls[:_COMPARED]]  # int8 is not calibrated for noise
    shown = shown or [_inputs(info, info.batch or 1, (h, w), (h - h // 5, w)) for h, w in sides]
    for images, sizes in shown:
        found = runtime(images.numpy(), sizes.numpy())
        with torch.no_grad():
            expected = graph(images, sizes)
        for one, other in zip(map(torch.from_numpy, found), expected, strict=True):
            if info.task is not None:
                difference = (one - other).abs().gt(1e-2).float().mean()
            else:
                difference = (one - other).abs().max() / other.abs().max().clamp_min(1.0)
            worst = max(worst, float(difference.nan_to_num(nan=float("inf"))))
    if not worst <= most:
        raise UserError(
            f"{path} was not written: its outputs differ from those of the model by {worst:.1e}, more than {most:.0e}; "
            "please report this with the version of the runtime"
        )
    return worst
