"""Parity, kernels, memory and speed on a GPU, compared with the Mask2Former of ``transformers``, within eight minutes.

Every part is a separate process with a time limit, so a fault of the device, a hang or a lack of memory affects only
that part. Figures are written as soon as they are measured; failed ones have a reason. Both sides have the same random
weights, process the same images and alternate. Memory is torch's peak (``max_memory_allocated``), which includes the
weights and inputs of both sides where they alternate.

    kernels   deformable sampling, forward and backward: largest error against the reference in float64, time, memory
    parity    logits of a small model and of ResNet-50 on the device against float64 on the CPU
    r50, swin-t, swin-l
              images of 480x640, shown at 800x1067, to their panoptic result: float32 and bfloat16, 1 and 8 at a time
    training  a step with ResNet-50 at 1024x1024 (as large scale jittering crops), 16 images of ten objects
    fixed     a forward pass of one size, compiled and as a CUDA graph

    python benchmarks/gpu.py --output benchmarks/results/gpu.json
    python benchmarks/gpu.py --device cpu --tiny        # the same code without a GPU, as a rehearsal
"""

from __future__ import annotations

import argparse
import inspect
import json
import platform
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import prediction
import sampling_kernel
import torch
from torch import Tensor

# Seconds that each part may take, in order; together less than eight minutes including the preparation.
LIMITS = {"kernels": 45, "parity": 60, "r50": 60, "training": 100, "swin-t": 50, "swin-l": 70, "fixed": 70}
TINY = ("kernels", "parity", "r50", "training", "fixed")
TOTAL = 470
RECIPES = {"r50": "coco-panoptic/r50", "swin-t": "coco-panoptic/swin-t", "swin-l": "coco-panoptic/swin-l"}
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
CALLS = 20  # maximum number per measurement; fewer after SECONDS
SECONDS = 4.0
GIB = 2**30
Step = Callable[[], Any]


class Figures:
    """The measurements of a part so far, in a file that is rewritten with every figure."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.values: dict[str, Any] = {}

    def measure(self, name: str, step: Callable[[], Any]) -> Any:
        """The result of ``step``, or None with a reason if it fails; other figures are still measured."""
        try:
            value = step()
        except Exception as error:  # a device, driver or compiler can raise anything
            self.values[name] = reason(error)
            value = None
        else:
            self.values[name] = value
        self.path.write_text(json.dumps(self.values))
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        return value


def finish(device: torch.device) -> None:
    """Wait for the device."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def timed(step: Callable[[], Any], device: torch.device) -> float:
    """Seconds of one call."""
    begin = time.perf_counter()
    step()
    finish(device)
    return time.perf_counter() - begin


def reason(error: Exception) -> dict[str, str]:
    """The reason, which replaces a figure that could not be measured."""
    return {"failed": f"{type(error).__name__}: {error}"[:500]}


def taking_turns(
    makers: dict[str, Callable[[], Step]], device: torch.device, tiny: bool, batch: int = 1
) -> dict[str, Any]:
    """Seconds of the first call, median seconds, images per second and peak GiB of each; medians of warm calls only.

    Args:
        makers: by name, functions that create a step to measure; if one fails, the others are still measured.
        device: device to run on.
        tiny: whether two calls of each are enough.
        batch: images per call.
    """
    steps: dict[str, Step] = {}
    found: dict[str, dict[str, Any]] = {name: {} for name in makers}
    times: dict[str, list[float]] = {name: [] for name in makers}

    def guarded(name: str, step: Callable[[], Any]) -> Any:
        try:
            return step()
        except Exception as error:  # see Figures.measure
            found[name] = reason(error)
            steps.pop(name, None)
            if device.type == "cuda":
                torch.cuda.empty_cache()

    for name, make in makers.items():
        made = guarded(name, make)
        if made is not None:
            steps[name] = made
    begin = 0.0
    for count in range((2 if tiny else CALLS) + 2):
        if count == 2:
            begin = time.perf_counter()
        if count > 4 and time.perf_counter() - begin > SECONDS * len(makers):
            break
        for name in list(steps):
            if device.type == "cuda":
                torch.cuda.reset_peak_memory_stats(device)
            seconds = guarded(name, lambda name=name: timed(steps[name], device))
            if seconds is None:
                continue
            if count == 0:
                found[name]["first_call_seconds"] = round(seconds, 3)
            elif count == 1 and device.type == "cuda":
                found[name]["peak_gib"] = round(torch.cuda.max_memory_allocated(device) / GIB, 3)
            elif count > 1:
                times[name].append(seconds)
    for name in steps:
        median = statistics.median(times[name])
        found[name] |= {"seconds_median": float(f"{median:.4g}"), "calls": len(times[name])}
        found[name]["per_second"] = float(f"{batch / median:.4g}")
    result: dict[str, Any] = dict(found)
    if {"ours", "transformers"} <= steps.keys():
        result["times_faster"] = round(found["transformers"]["seconds_median"] / found["ours"]["seconds_median"], 2)
    return result


# --- models and inputs ---


def model_config(name: str, tiny: bool) -> Any:
    """The architecture of a published model, or a small one instead."""
    from mask2former import recipes
    from mask2former.config import MaskedDecoderConfig, ModelConfig, MSDeformAttnConfig, SwinConfig

    if not tiny:
        return recipes.recipe(RECIPES[name]).model
    return ModelConfig(
        backbone=SwinConfig(embed_dim=16, depths=(1, 1, 1, 1), num_heads=(1, 1, 2, 2), window_size=4),
        pixel_decoder=MSDeformAttnConfig(dim=64, mask_dim=64, num_layers=1, num_heads=2, feedforward_dim=64),
        transformer_decoder=MaskedDecoderConfig(dim=64, num_queries=20, num_layers=3, num_heads=2, feedforward_dim=64),
    )


def write_model(folder: Path, name: str, tiny: bool) -> None:
    """One model with random weights in both layouts."""
    from mask2former.checkpoints.targets import write
    from mask2former.config import InferenceConfig
    from mask2former.models.build import build_model
    from mask2former.structures import Categories

    torch.manual_seed(0)
    model = build_model(model_config(name, tiny), prediction.CLASSES).eval()
    model.categories = Categories.from_names([f"class {index}" for index in range(prediction.CLASSES)])
    if tiny:
        model.info = replace(model.info, inference=InferenceConfig(short_edge=96, long_edge=160))
    write(model, folder / name / "ours.safetensors", "ours")
    write(model, folder / name / "theirs", "huggingface")


def scenes(device: torch.device, batch: int, size: int) -> tuple[Tensor, list[Tensor], list[Tensor]]:
    """Random images (B, 3, S, S) in 0..255, and labels and masks (N, S, S) of ten rectangles in each."""
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(batch, 3, size, size, generator=generator) * 255
    labels = [torch.randint(0, prediction.CLASSES, (10,), generator=generator).to(device) for _ in range(batch)]
    masks = torch.zeros(batch, 10, size, size, dtype=torch.bool)
    for row in masks.flatten(0, 1):
        y, x, h, w = (int(value) for value in torch.randint(size // 12, size // 2, (4,), generator=generator))
        row[y : y + h, x : x + w] = True
    return images.to(device), labels, list(masks.to(device))


# --- the parts ---


def kernels(figures: Figures, device: torch.device, tiny: bool, folder: Path) -> None:
    """Every kernel of the device: errors against the reference in float64, times, and memory of both passes."""
    from mask2former.ops.deform_attn import deformable_sampling

    shapes = ((4, 6), (8, 12), (16, 24)) if tiny else sampling_kernel.SHAPES
    inputs = [tensor.to(device) for tensor in sampling_kernel.inputs(shapes)]
    width = sampling_kernel.HEADS * sampling_kernel.CHANNELS
    upstream = torch.randn((1, inputs[0].shape[1], width), generator=torch.Generator().manual_seed(1)).to(device)

    def run(kernel: Any, value_dtype: torch.dtype, backward: bool) -> list[Tensor]:
        wide = torch.promote_types(value_dtype, torch.float32)
        leaves = [inputs[0].to(value_dtype), *(tensor.to(wide) for tensor in inputs[1:])]
        leaves = [leaf.detach().requires_grad_(backward) for leaf in leaves]
        result = deformable_sampling(leaves[0], shapes, leaves[1], leaves[2], kernel)
        if not backward:
            return [result]
        return [result.detach(), *torch.autograd.grad(result, leaves, upstream.to(value_dtype))]

    exact = run("reference", torch.float64, backward=True)

    def errors(kernel: Any, dtype: torch.dtype) -> dict[str, float]:
        names = ("result", "value gradient", "location gradient", "weight gradient")
        pairs = zip(names, run(kernel, dtype, backward=True), exact, strict=True)
        return {name: float(f"{(one.double() - two).abs().max() / two.abs().max():.2e}") for name, one, two in pairs}

    names = ("triton", "reference", "portable") if device.type == "cuda" else ("native", "reference", "portable")
    for label, dtype in DTYPES.items():
        for kernel in names:
            figures.measure(f"error, {kernel}, {label}", lambda kernel=kernel, dtype=dtype: errors(kernel, dtype))
        for what, backward in (("forward", False), ("forward and backward", True)):
            steps = {name: lambda name=name, dtype=dtype, on=backward: partial(run, name, dtype, on) for name in names}
            figures.measure(f"{what}, {label}", lambda steps=steps: taking_turns(steps, device, tiny))


def parity(figures: Figures, device: torch.device, tiny: bool, folder: Path) -> None:
    """Differences of logits from float64 on the CPU: with float32, with TF32 convolutions, and in bfloat16."""
    from mask2former import checkpoints

    pixels = torch.from_numpy(prediction.image()).permute(2, 0, 1)[:, :: 4 if tiny else 1, :: 4 if tiny else 1]
    for name in ("r50",) if tiny else ("small", "r50"):
        source = "scenes-tiny" if name == "small" else folder / name / "ours.safetensors"
        with torch.inference_mode():
            model = checkpoints.from_pretrained(source).eval()
            exact = model.double()([pixels], aux_outputs=False)

        def differences(dtype: torch.dtype, tf32: bool, source: Any = source, exact: Any = exact) -> dict[str, Any]:
            before = torch.backends.cudnn.allow_tf32
            torch.backends.cudnn.allow_tf32 = tf32
            try:
                with torch.inference_mode():
                    there = checkpoints.from_pretrained(source).to(device, dtype).eval()
                    found = there([pixels.to(device)], aux_outputs=False)
            finally:
                torch.backends.cudnn.allow_tf32 = before
            classes = (found.class_logits.cpu().double() - exact.class_logits).abs()
            masks = (found.mask_logits.cpu().double() - exact.mask_logits).abs()
            flipped = (found.mask_logits.cpu() > 0) != (exact.mask_logits > 0)
            return {
                "class_logits_max": float(f"{classes.max():.2e}"),
                "mask_logits_max": float(f"{masks.max():.2e}"),
                "mask_logits_mean": float(f"{masks.mean():.2e}"),
                "share_of_mask_pixels_flipped": float(f"{flipped.double().mean():.2e}"),
                "largest_mask_logit": float(f"{exact.mask_logits.abs().max():.3g}"),
            }

        figures.measure(f"{name}, float32", lambda differ=differences: differ(torch.float32, tf32=False))
        figures.measure(f"{name}, float32, TF32", lambda differ=differences: differ(torch.float32, tf32=True))
        figures.measure(f"{name}, bfloat16", lambda differ=differences: differ(torch.bfloat16, tf32=True))


def predictions(name: str) -> Callable[[Figures, torch.device, bool, Path], None]:
    """The part that measures one model."""

    def part(figures: Figures, device: torch.device, tiny: bool, folder: Path) -> None:
        """From images to panoptic results, both sides alternating."""
        image = prediction.image()
        image = image[::4, ::4].copy() if tiny else image
        for batch in (1, 2 if tiny else 8):
            for label in DTYPES:
                images = [image] * batch
                sides: dict[str, Callable[[], Step]] = {
                    "ours": partial(ours, folder / name, device, label, images),
                    "transformers": partial(theirs, folder / name, device, label, images),
                }
                turns = partial(taking_turns, sides, device, tiny, batch)
                figures.measure(f"{label}, batch {batch}", turns)

    return part


def ours(folder: Path, device: torch.device, dtype: str, images: list[Any]) -> Callable[[], Any]:
    """A call of this library: all images in one pass of the network."""
    from mask2former import Predictor

    path = folder / "ours.safetensors"
    predictor = Predictor.from_pretrained(path, device=device, dtype=dtype, score_threshold=0.0)
    if len(images) == 1:
        return lambda: predictor(images[0], "panoptic")
    if "batch_size" in inspect.signature(predictor.stream).parameters:
        return lambda: list(predictor.stream(images, "panoptic", batch_size=len(images)))  # pyright: ignore[reportCallIssue]
    from mask2former.data.transforms import shortest_edge_size

    size = shortest_edge_size(images[0].shape[:2], predictor.settings.short_edge, predictor.settings.long_edge)
    return lambda: predictor.predict_tiles(images, size, ("panoptic",), predictor.settings)


def theirs(folder: Path, device: torch.device, dtype: str, images: list[Any]) -> Callable[[], Any]:
    """A call of ``transformers``: all images in one pass."""
    from transformers import AutoImageProcessor, Mask2FormerForUniversalSegmentation

    model = Mask2FormerForUniversalSegmentation.from_pretrained(folder / "theirs", dtype=DTYPES[dtype])
    model = model.to(device).eval()  # pyright: ignore[reportArgumentType]
    processor = AutoImageProcessor.from_pretrained(folder / "theirs")
    sizes = [image.shape[:2] for image in images]

    def call() -> Any:
        inputs = processor(images, return_tensors="pt").to(device, DTYPES[dtype])
        with torch.inference_mode():
            outputs = model(**inputs)
            return processor.post_process_panoptic_segmentation(outputs, threshold=0.0, target_sizes=sizes)

    return call


def training(figures: Figures, device: torch.device, tiny: bool, folder: Path) -> None:
    """Seconds and peak memory of a step, forward to optimizer; and how often our host waits for the device."""
    size, batches = (64, (2,)) if tiny else (1024, (16, 4))
    for batch in batches:
        for label in ("bfloat16", "float32"):
            for side, make in (("ours", our_step), ("transformers", their_step)):
                # One after the other, because both together would not fit into memory.
                maker = partial(make, device, label, batch, size, tiny)
                name = f"{side}, {label}, batch {batch}"
                result = figures.measure(name, partial(taking_turns, {side: maker}, device, tiny, batch))
                if result and "peak_gib" in result[side]:
                    per_image = {"peak_gib_per_image": round(result[side]["peak_gib"] / batch, 3)}
                    figures.measure(name, partial(dict, result, **per_image))
        if device.type == "cuda" and batch == batches[-1]:
            figures.measure(
                "times the host waits in a step of ours", lambda: waits(our_step(device, "bfloat16", 2, size, tiny))
            )


def waits(step: Callable[[], Any]) -> int:
    """How often the host waits for the device in a step."""
    step()
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            step()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return sum("synchroniz" in str(warning.message) for warning in caught)


def our_step(device: torch.device, dtype: str, batch: int, size: int, tiny: bool) -> Callable[[], Any]:
    """A step of this library; in bfloat16 with autocast, ``half_pixel_decoder`` and ``channels_last``."""
    from mask2former.config import OptimConfig
    from mask2former.losses import Criterion
    from mask2former.models.build import build_model
    from mask2former.structures import Target
    from mask2former.training.optim import build_optimizer

    torch.manual_seed(0)
    images, labels, masks = scenes(device, batch, size)
    model = build_model(model_config("r50", tiny), prediction.CLASSES).to(device).train()
    if dtype == "bfloat16":
        model.pixel_decoder.full_precision = False  # pyright: ignore[reportArgumentType]
        model.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]  (no overload has it)
    criterion, optimizer = Criterion(prediction.CLASSES), build_optimizer(model, OptimConfig())
    targets = [Target(label, mask.unsqueeze(1)) for label, mask in zip(labels, masks, strict=True)]

    def step() -> None:
        with torch.autocast(device.type, torch.bfloat16, enabled=dtype == "bfloat16"):
            loss = criterion(model(list(images)), targets).total
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 0.01)
        optimizer.step()

    return step


def their_step(device: torch.device, dtype: str, batch: int, size: int, tiny: bool) -> Callable[[], Any]:
    """A step of ``transformers``, with the same inputs and optimizer."""
    from transformers import Mask2FormerConfig, Mask2FormerForUniversalSegmentation, ResNetConfig

    torch.manual_seed(0)
    images, labels, masks = scenes(device, batch, size)
    backbone: dict[str, Any] = {"out_features": ["stage1", "stage2", "stage3", "stage4"]}
    if tiny:
        backbone |= {"embedding_size": 16, "hidden_sizes": [16, 16, 16, 16], "depths": [1, 1, 1, 1]}
    narrow: dict[str, Any] = dict.fromkeys(
        ("feature_size", "mask_feature_size", "hidden_dim", "encoder_feedforward_dim", "dim_feedforward"), 64
    )
    narrow |= {"encoder_layers": 1, "decoder_layers": 4, "num_attention_heads": 2, "num_queries": 20}
    sizes: dict[str, Any] = narrow if tiny else {"num_queries": 100}
    config = Mask2FormerConfig(backbone_config=ResNetConfig(**backbone), **sizes)
    config.num_labels = prediction.CLASSES
    model = Mask2FormerForUniversalSegmentation(config).to(device).train()  # pyright: ignore[reportArgumentType]
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, weight_decay=0.05)
    pixels, known = (images - 116.0) / 58.0, [mask.float() for mask in masks]

    def step() -> None:
        with torch.autocast(device.type, torch.bfloat16, enabled=dtype == "bfloat16"):
            loss = model(pixel_values=pixels, mask_labels=known, class_labels=labels).loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 0.01)
        optimizer.step()

    return step


def fixed(figures: Figures, device: torch.device, tiny: bool, folder: Path) -> None:
    """A forward pass for one image of a constant size: plain, and compiled (with CUDA graphs)."""
    from mask2former import checkpoints

    pixels = torch.zeros(3, *((96, 128) if tiny else (800, 1088)), dtype=torch.uint8, device=device)
    model = checkpoints.from_pretrained(folder / "r50" / "ours.safetensors").to(device, torch.bfloat16).eval()

    def call(network: Callable[..., Any]) -> Any:
        with torch.inference_mode():
            return network([pixels], aux_outputs=False).class_logits

    options: dict[str, Any] = {"backend": "eager"} if tiny else {"mode": "reduce-overhead"}
    networks = {
        "as it is": lambda: partial(call, model),
        "compiled, with CUDA graphs": lambda: partial(call, torch.compile(model, fullgraph=True, **options)),
    }
    for name, make in networks.items():
        figures.measure(name, partial(taking_turns, {"forward, bfloat16": make}, device, tiny))


PARTS: dict[str, Callable[[Figures, torch.device, bool, Path], None]] = {
    "kernels": kernels,
    "parity": parity,
    **{name: predictions(name) for name in RECIPES},
    "training": training,
    "fixed": fixed,
}


def machine(device: torch.device) -> dict[str, Any]:
    """Description of the machine."""
    found: dict[str, Any] = {"host": platform.machine(), "python": platform.python_version()}
    found["device"] = torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
    found["cuda"] = torch.version.cuda
    names = ("torch", "triton", "transformers", "mask2former")
    versions = {}
    for name in names:
        try:
            versions[name] = version(name)
        except ImportError:
            versions[name] = None
    return {**found, "versions": versions}


def run_part(name: str, arguments: argparse.Namespace, folder: Path, limit: float) -> dict[str, Any]:
    """The figures of a part, all or as many as were measured."""
    path = folder / f"{name}.json"
    command = [sys.executable, __file__, "--part", name, "--folder", str(folder), "--device", arguments.device]
    begin = time.perf_counter()
    ended = "as planned"
    try:
        process = subprocess.run(
            [*command, *(["--tiny"] if arguments.tiny else [])], timeout=limit, capture_output=True, text=True
        )
        if process.returncode:
            ended = f"failed with {process.returncode}: {process.stderr[-800:]}"
    except subprocess.TimeoutExpired:
        ended = f"stopped at its limit of {limit:.0f} s"
    figures = json.loads(path.read_text()) if path.exists() else {}
    return {"ended": ended, "seconds": round(time.perf_counter() - begin, 1), **figures}


def main() -> None:
    """Run all parts, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--tiny", action="store_true", help="small models and sizes, for a rehearsal on a CPU")
    parser.add_argument("--patience", type=float, default=1.0, help="all limits times this, for a busy machine")
    parser.add_argument("--parts", nargs="+", choices=sorted(PARTS), help="these alone")
    parser.add_argument("--output", type=Path)
    parser.add_argument("--part", choices=sorted(PARTS), help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    if arguments.part:
        figures = Figures(arguments.folder / f"{arguments.part}.json")
        PARTS[arguments.part](figures, device, arguments.tiny, arguments.folder)
        return

    begin = time.perf_counter()
    result: dict[str, Any] = {"what": "parity, kernels, memory and speed on one device", **machine(device)}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        parts = arguments.parts or (TINY if arguments.tiny else tuple(LIMITS))
        for part in parts:
            if part in RECIPES or part in ("parity", "fixed"):
                model = part if part in RECIPES else "r50"
                if not (folder / model).exists():
                    (folder / model).mkdir()
                    write_model(folder, model, arguments.tiny)
            remaining = TOTAL * arguments.patience - (time.perf_counter() - begin)
            limit = min(LIMITS[part] * arguments.patience, remaining)
            result[part] = run_part(part, arguments, folder, max(limit, 1.0))
            result["seconds"] = round(time.perf_counter() - begin, 1)
            if arguments.output:
                arguments.output.parent.mkdir(parents=True, exist_ok=True)
                arguments.output.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
