"""Functions for the ranks of a distributed test, in a separate module because the processes import it by name."""

from __future__ import annotations

import copy
import os
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from mask2former.config import (
    EncoderOnlyConfig,
    MaskedDecoderConfig,
    ModelConfig,
    MSDeformAttnConfig,
    NoPixelDecoderConfig,
    OptimConfig,
    RunConfig,
    SwinConfig,
    TimmConfig,
    parse,
)
from mask2former.losses import Criterion
from mask2former.models.build import build_model
from mask2former.models.mask2former import Mask2Former
from mask2former.models.parts import targets_for
from mask2former.models.transformer_decoders import EncoderOnlyDecoder
from mask2former.structures import MaskOutput, Target
from mask2former.training import run as training
from mask2former.training import sharding
from mask2former.training.ema import MovingAverage
from mask2former.training.optim import build_optimizer

COUNTS = ([3], [0])  # targets per clip of each rank


class Tiny(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.classes = nn.Linear(4, 5 * 4)
        self.masks = nn.Linear(4, 5 * 64)

    def forward(self, x: Tensor) -> MaskOutput:
        logits, masks = self.classes(x).view(-1, 5, 4), self.masks(x).view(-1, 5, 1, 8, 8)
        return MaskOutput(logits, masks, torch.zeros(*logits.shape[:2], 1))


def gradients(counts: list[int], num_masks: float, model: nn.Module) -> None:
    torch.manual_seed(7)
    targets = [Target(torch.randint(0, 3, (n,)), torch.rand(n, 1, 16, 16) > 0.5) for n in counts]
    losses = Criterion(3, num_points=32)(model(torch.ones(1, 4)), targets, torch.rand, num_masks)
    losses.total.backward()


def run(rank: int, folder: str) -> None:
    torch.set_num_threads(1)  # a fork does not have the parent's threads
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    torch.manual_seed(0)
    model = Tiny()
    gradients(COUNTS[rank], 1.5, DistributedDataParallel(model))
    torch.save([parameter.grad for parameter in model.parameters()], Path(folder) / f"{rank}.pt")
    dist.destroy_process_group()


def piloted(rank: int, folder: str) -> None:
    """Save the gradients of mask-piloted training in which one rank has no objects and therefore no pilots."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/piloted", rank=rank, world_size=2)
    model = small_swin(pilots=4)
    count = 1 - rank
    target = Target(torch.arange(count), torch.ones(count, 1, 64, 64, dtype=torch.bool))
    pixels = [torch.full((3, 64, 64), 50.0 * rank)]
    parallel = DistributedDataParallel(model)  # exists as long as gradients are to be exchanged
    output = parallel(pixels, targets=[target])
    draws = torch.Generator().manual_seed(3)
    losses = Criterion(3, num_points=16)(output, [target], lambda shape: torch.rand(shape, generator=draws), 0.5)
    losses.total.backward()
    found = {name: value.grad for name, value in model.named_parameters()}
    torch.save({"gradients": found, "terms": list(losses.terms)}, Path(folder) / f"p{rank}.pt")
    dist.destroy_process_group()


# --- shared weights --------------------------------------------------------------------------------------------------

STEPS = 2


def small_swin(pilots: int = 0) -> Mask2Former:
    """A small model with a Swin, one block of which is gathered by itself."""
    torch.manual_seed(0)
    decoder = MaskedDecoderConfig(dim=32, num_queries=6, num_layers=1, num_heads=2, feedforward_dim=32)
    config = ModelConfig(
        backbone=SwinConfig(
            embed_dim=32, depths=(1, 1, 1, 1), num_heads=(1, 1, 2, 2), window_size=4, drop_path_rate=0.0
        ),
        pixel_decoder=MSDeformAttnConfig(dim=32, mask_dim=32, num_layers=1, num_heads=2, feedforward_dim=32),
        transformer_decoder=decoder.model_copy(update={"pilots": pilots, "pilot_noise": 0.0}),
    )
    return build_model(config, 3)


def small_vit() -> Mask2Former:
    """A small encoder-only model whose blocks are gathered by themselves; one takes queries, and masks them all."""
    torch.manual_seed(0)
    vit = {"embed_dim": 160, "depth": 2, "num_heads": 2, "img_size": 64}
    config = ModelConfig(
        backbone=TimmConfig(model="vit_tiny_patch16_224", kwargs=vit, joint_blocks=1),
        pixel_decoder=NoPixelDecoderConfig(),
        transformer_decoder=EncoderOnlyConfig(num_queries=6),
    )
    model = build_model(config, 3)
    assert isinstance(model.transformer_decoder, EncoderOnlyDecoder)
    model.transformer_decoder.set_progress(0)
    return model


MODELS: dict[str, Callable[[], Mask2Former]] = {
    "swin": small_swin,
    "pilots": partial(small_swin, pilots=4),
    "encoder-only": small_vit,
}


def step(model: Mask2Former, optimizer: torch.optim.Optimizer, average: MovingAverage, images: list[int]) -> Tensor:
    """Train a step on images, each made from its number; return the norm of the gradients."""
    optimizer.zero_grad()
    pixels = []
    for number in images:
        generator = torch.Generator().manual_seed(number)
        pixels.append(torch.rand(3, 64, 64, generator=generator) * 255)
    targets = [Target(torch.tensor([number % 3]), torch.ones(1, 1, 16, 16, dtype=torch.bool)) for number in images]

    def uniform(shape: tuple[int, ...]) -> Tensor:
        """The same points for every image, however many there are."""
        return torch.rand(shape[1:], generator=torch.Generator().manual_seed(3)).expand(shape)

    output = model(pixels, **targets_for(model.transformer_decoder, targets))
    losses = Criterion(3, num_points=16)(output, targets, uniform, float(len(images)))
    losses.total.backward()
    norm = sharding.whole(torch.nn.utils.clip_grad_norm_(model.parameters(), 0.5))
    optimizer.step()
    average.update(model)
    return norm


def sharded(rank: int, folder: str, kind: str) -> None:
    """Train a step, store whole states, train another step, and repeat that one from the stored states."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/sharded", rank=rank, world_size=2)
    optim = OptimConfig(lr=1e-3)
    model = MODELS[kind]()
    average = MovingAverage(model, 0.9)
    mesh = dist.init_device_mesh("cpu", (2,))
    sharding.shard(model, mesh)
    average.shard_like(model)
    optimizer = build_optimizer(model, optim)
    shares = sum(sharding.local(value).numel() for value in model.parameters())
    norms = [step(model, optimizer, average, [2 * index + rank]) for index in range(STEPS - 1)]
    sharding.check_gradients(model, is_sharded=True)
    states = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "average": average.state_dict()}
    stored = copy.deepcopy(sharding.gathered(states, keep=True))  # as a file would be
    norms.append(step(model, optimizer, average, [2 * (STEPS - 1) + rank]))
    end = sharding.gathered({"model": model.state_dict(), "average": average.values}, keep=True)

    again = MODELS[kind]()
    again.load_state_dict(stored["model"])
    its_average = MovingAverage(again, 0.9)
    its_average.load_state_dict(stored["average"])
    sharding.shard(again, mesh)
    its_average.shard_like(again)
    restarted = build_optimizer(again, optim)
    strategy = sharding.Sharded()
    strategy.optimizers = [restarted]
    strategy.load_optimizer_state_dict({"optimizer_states": [copy.deepcopy(stored["optimizer"])]})
    step(again, restarted, its_average, [2 * (STEPS - 1) + rank])
    same = sharding.gathered({"model": again.state_dict(), "average": its_average.values}, keep=True)
    told = {"norms": norms, "end": end, "same": same, "stored": stored, "shares": shares}
    torch.save(told, Path(folder) / f"s{rank}.pt")
    dist.destroy_process_group()


# --- whole runs ------------------------------------------------------------------------------------------------------


def train(rank: int, values: dict[str, Any], port: int, resume: bool) -> None:
    """Train a rank as torchrun would start it."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")  # advice of Lightning
    found = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2, "LOCAL_WORLD_SIZE": 2, "MASTER_PORT": port}
    os.environ.update({name: f"{value}" for name, value in found.items()}, MASTER_ADDR="127.0.0.1")
    training.train(parse(RunConfig, values, "test"), resume=resume)
    dist.destroy_process_group()


def train_together(rank: int, values: dict[str, Any], port: int, resume: bool) -> None:
    """Train a rank whose training forward passes wait for those of the other, as synchronised norms do on GPUs.

    At each pass, both must have the same weights. At the last, a step has changed these, and the images differ.
    """
    forward = Mask2Former.forward
    passes: list[tuple[Tensor, Tensor, Tensor]] = []  # weights, and the images of both

    def together(self: Mask2Former, images: Any, *arguments: Any, **options: Any) -> Any:
        if self.training and dist.is_initialized():
            of_ranks: list[Any] = [None, None]
            dist.all_gather_object(of_ranks, (len(passes), flat(self), images.pixels))
            (number, weights, pixels), (other_number, other_weights, other_pixels) = of_ranks
            assert number == other_number == len(passes)
            assert torch.equal(weights, other_weights)
            passes.append((weights, pixels, other_pixels))
        return forward(self, images, *arguments, **options)

    Mask2Former.forward = together
    train(rank, values, port, resume)
    (first, *_), (last, pixels, other_pixels) = passes[0], passes[-1]
    assert not torch.equal(first, last)
    assert not torch.equal(pixels, other_pixels)


def flat(model: nn.Module) -> Tensor:
    """A copy of all parameters in one row."""
    return torch.cat([value.detach().flatten() for value in model.parameters()])
