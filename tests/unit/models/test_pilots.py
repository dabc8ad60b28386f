"""Mask-piloted training: inputs and targets of pilots, and their independence from queries."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from mask2former import Criterion
from mask2former.config import MaskedDecoderConfig
from mask2former.models.pixel_decoders import PixelFeatures
from mask2former.models.transformer_decoders import MaskedTransformerDecoder
from mask2former.models.transformer_decoders.pilots import Pilots, make_pilots
from mask2former.structures import MaskOutput
from mask2former.structures.samples import Target

CLASSES, QUERIES = 4, 5


def decoder(**switches: Any) -> MaskedTransformerDecoder:
    torch.manual_seed(0)
    sizes = {"num_queries": QUERIES, "num_layers": 3, "num_heads": 2, "feedforward_dim": 16}
    return MaskedTransformerDecoder(CLASSES, 16, 8, 16, **sizes, **switches)  # pyright: ignore[reportArgumentType]


def features() -> PixelFeatures:
    generator = torch.Generator().manual_seed(1)
    maps = [torch.randn(2, 16, *size, generator=generator) for size in ((2, 3), (4, 6), (8, 12))]
    return PixelFeatures(torch.randn(2, 8, 16, 24, generator=generator), maps)


def targets(*counts: int) -> list[Target]:
    found = []
    for clip, count in enumerate(counts):
        masks = torch.zeros((count, 1, 64, 96), dtype=torch.bool)
        for index in range(count):
            masks[index, 0, 16 * index : 16 * index + 16, : 32 * (clip + 1)] = True
        found.append(Target(torch.arange(count) % CLASSES, masks))
    return found


def made(counts: tuple[int, ...], most: int, noise: float = 0.0) -> Pilots:
    pilots = make_pilots(targets(*counts), most, CLASSES, noise)
    assert pilots is not None
    return pilots


def test_objects_are_there_as_often_as_there_is_room() -> None:
    pilots = made((3, 1), 7)
    assert pilots.groups == 2
    assert pilots.labels.shape == (2, 6)
    assert [len(chosen) for chosen in pilots.chosen] == [6, 2]
    assert [pilots.indices(clip).tolist() for clip in (0, 1)] == [[0, 1, 2, 3, 4, 5], [0, 3]]
    assert sorted(pilots.labels[0].tolist()) == [0, 0, 1, 1, 2, 2]
    few = made((4, 4), 3)
    assert (few.groups, few.labels.shape) == (1, (2, 3))
    assert make_pilots(targets(0, 0), 7, CLASSES, 0.2) is None
    hidden = [Target(torch.where(one.labels == 1, CLASSES, one.labels), one.masks) for one in targets(3)]
    seen = make_pilots(hidden, 7, CLASSES, 0.0)  # one labelled "no object", as in clips, has none
    assert seen is not None
    assert (seen.groups, sorted(seen.chosen[0].tolist())) == (3, [0, 0, 0, 2, 2, 2])
    assert int(seen.labels.max()) == 2
    empty = made((2, 0), 4)
    assert [len(chosen) for chosen in empty.chosen] == [4, 0]


def test_who_sees_whom() -> None:
    pilots = made((2, 1), 4)
    blocked = pilots.apart(2)
    sees = [["".join(".x"[int(not cell)] for cell in row) for row in clip] for clip in blocked]
    assert sees[0] == ["xx....", "xx....", "xxxx..", "xxxx..", "xx..xx", "xx..xx"]
    # in the second clip each group has one pilot; the other is visible only to itself
    assert sees[1] == ["xx....", "xx....", "xxx...", "xxxx..", "xx..x.", "xx..xx"]


def test_pilots_attend_inside_of_their_objects() -> None:
    pilots = made((2, 1), 2)
    grid = (1, 4, 6)
    blocked = pilots.blocked([grid])
    for clip, target in enumerate(targets(2, 1)):
        inside = target.masks[:, 0, 8::16, 8::16].flatten(1)  # tokens are wholly inside or outside
        for index, chosen in zip(pilots.indices(clip).tolist(), pilots.chosen[clip].tolist(), strict=True):
            assert torch.equal(~blocked[clip, index], inside[chosen])
    both = pilots.blocked([grid, (1, 8, 12)])
    assert both.shape == (2, 2, 24 + 96)


def test_pilots_of_a_clip_attend_inside_of_their_object_in_each_frame() -> None:
    masks = torch.zeros((1, 2, 64, 96), dtype=torch.bool)
    masks[0, 0, :32], masks[0, 1, :, 64:] = True, True  # it moves
    pilots = make_pilots([Target(torch.tensor([1]), masks)], 3, CLASSES, 0.0)
    assert pilots is not None
    blocked = pilots.blocked([(2, 2, 3), (2, 4, 6)])
    assert blocked.shape == (1, 3, 2 * 2 * 3 + 2 * 4 * 6)
    inside = torch.cat([masks[0, :, step // 2 :: step, step // 2 :: step].flatten() for step in (32, 16)])
    assert all(torch.equal(~row, inside) for row in blocked[0])
    generator = torch.Generator().manual_seed(1)
    maps = [torch.randn(2, 16, *size, generator=generator) for size in ((2, 3), (4, 6), (8, 12))]
    frames = PixelFeatures(torch.randn(2, 8, 16, 24, generator=generator), maps)
    model = decoder(pilots=3)
    plain, piloted = model(frames, 2), model(frames, 2, targets=[Target(torch.tensor([1]), masks)])
    torch.testing.assert_close(plain.mask_logits, piloted.mask_logits, rtol=1e-4, atol=1e-5)
    assert piloted.pilots is not None
    assert piloted.pilots.output.mask_logits.shape == (1, 3, 2, 16, 24)


def test_noise_changes_as_much_inside_as_outside() -> None:
    torch.manual_seed(0)
    pilots = made((1, 1), 400, noise=0.25)
    blocked = pilots.blocked([(1, 16, 24)])[0]
    inside = targets(1, 1)[0].masks[0, 0, 2::4, 2::4].flatten()
    lost, added = (blocked & inside).sum(1).float(), (~blocked & ~inside).sum(1).float()
    assert lost.mean() == pytest.approx(0.25 * float(inside.sum()), rel=0.1)
    assert added.mean() == pytest.approx(float(lost.mean()), rel=0.1)
    wrong = (pilots.labels[0] != 0).float().mean()
    assert float(wrong) == pytest.approx(0.25 * (CLASSES - 1) / CLASSES, abs=0.06)


@pytest.mark.parametrize("switches", [{}, {"attention": "mask_pool", "scales": "naive", "query_init": "zero"}], ids=str)
def test_queries_do_not_notice_pilots(switches: dict[str, Any]) -> None:
    model = decoder(pilots=6, **switches)
    plain = model(features())
    piloted = model(features(), targets=targets(3, 1))
    for one, other in zip([plain, *plain.aux_outputs], [piloted, *piloted.aux_outputs], strict=True):
        torch.testing.assert_close(one.class_logits, other.class_logits, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(one.mask_logits, other.mask_logits, rtol=1e-4, atol=1e-5)
        assert one.pilots is None
    depths = [depth.pilots for depth in (*piloted.aux_outputs, piloted)]
    missing = [] if "scales" in switches else [True]  # the queries before the first layer, where they predict something
    assert [depth is None for depth in depths] == [*missing, False, False, False]
    assert depths[-1] is not None
    assert depths[-1].output.class_logits.shape == (2, 6, CLASSES + 1)


@pytest.mark.parametrize("class_weights", [None, (1.0, 3.0, 0.5, 2.0)])
def test_the_loss_of_pilots_is_that_of_their_objects(class_weights: tuple[float, ...] | None) -> None:
    model = decoder(pilots=6)
    given = targets(3, 1)
    uniform = partial(torch.rand, generator=torch.Generator().manual_seed(0))
    criterion = Criterion(CLASSES, num_points=64, match_on="masks", loss_on="masks", class_weights=class_weights)
    output: MaskOutput = model(features(), targets=given)
    losses = criterion(output, given, uniform)
    assert {name for name in losses.terms if "pilot" in name} == {
        f"loss_{term}_pilot{suffix}" for term in ("ce", "mask", "dice") for suffix in ("", "_1")
    } | {f"loss_{term}_pilot_2" for term in ("ce", "mask", "dice")}
    pilots = output.pilots
    assert pilots is not None
    scores: list[Tensor] = []
    labels: list[Tensor] = []
    for clip, (queries, chosen) in enumerate(pilots.matches):
        scores.append(pilots.output.class_logits[clip, queries])
        labels.append(given[clip].labels[chosen])
    weights = None if class_weights is None else torch.tensor([*class_weights, 0.1])
    expected = torch.nn.functional.cross_entropy(torch.cat(scores), torch.cat(labels), weights)
    torch.testing.assert_close(losses.terms["loss_ce_pilot"], expected)

    plain = criterion(model(features()), given, uniform)
    for name, value in plain.terms.items():
        torch.testing.assert_close(losses.terms[name], value, rtol=1e-4, atol=1e-5)
    losses.total.backward()
    assert model.pilot_classes is not None
    assert model.pilot_classes.weight.grad is not None


def test_without_objects_there_are_no_pilots_and_still_a_gradient() -> None:
    model, none = decoder(pilots=6), targets(0, 0)
    losses = Criterion(CLASSES, num_points=64)(model(features(), targets=none), none)
    assert not any("pilot" in name for name in losses.terms)
    losses.total.backward()
    assert model.pilot_classes is not None
    gradient = model.pilot_classes.weight.grad
    assert gradient is not None
    assert not gradient.any()


@pytest.mark.parametrize("noise", [0.0, 0.5])
def test_the_noise_of_the_settings_reaches_the_pilots(noise: float) -> None:
    model = decoder(pilots=6, pilot_noise=noise)
    found = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        pilots = model(features(), targets=targets(3, 1)).pilots
        assert pilots is not None
        found.append(pilots.output.mask_logits.sum(1))  # objects come in random order
    assert torch.allclose(*found, rtol=1e-4, atol=1e-5) == (noise == 0)


def test_attention_without_masks_has_no_pilots() -> None:
    with pytest.raises(ValueError, match="pilots attend inside masks, but attention smca uses none"):
        MaskedDecoderConfig(pilots=10, attention="smca")
