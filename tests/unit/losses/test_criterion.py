"""Properties of the criterion that need no golden numbers."""

from __future__ import annotations

import weakref
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from mask2former.errors import UserError
from mask2former.losses import Criterion, HungarianMatcher, Losses, LossTerm, MatchedDepth
from mask2former.losses.functional import (
    binary_cross_entropy,
    dice,
    pairwise_binary_cross_entropy,
    pairwise_dice,
)
from mask2former.ops.points import UniformPoints, pixel_centers
from mask2former.structures import MaskOutput, Target
from mask2former.structures.outputs import PilotOutput


def output_of(logits: Tensor, masks: Tensor) -> MaskOutput:
    return MaskOutput(logits, masks, torch.zeros(*logits.shape[:2], 1))


def random_targets(counts: list[int], size: int = 16) -> list[Target]:
    return [Target(torch.randint(0, 3, (n,)), torch.rand(n, 1, size, size) > 0.5) for n in counts]


def test_pairwise_losses_are_the_losses_of_all_pairs() -> None:
    torch.manual_seed(0)
    logits, targets = torch.randn(4, 30).double(), torch.rand(3, 30).double()
    for pairwise, single in ((pairwise_binary_cross_entropy, binary_cross_entropy), (pairwise_dice, dice)):
        expected = torch.stack([single(logits, row.expand(4, -1)) for row in targets], dim=1)
        torch.testing.assert_close(pairwise(logits, targets), expected)


def test_half_precision_logits_give_a_wide_loss() -> None:
    torch.manual_seed(0)
    logits, masks = torch.randn(1, 5, 4).bfloat16(), torch.randn(1, 5, 1, 8, 8).bfloat16()
    criterion = Criterion(3, num_points=32)
    generator = torch.Generator().manual_seed(1)
    losses = criterion(output_of(logits, masks), random_targets([2]), lambda s: torch.rand(s, generator=generator))
    assert losses.total.dtype == torch.float32


def test_a_perfect_prediction_costs_nearly_nothing() -> None:
    target = random_targets([3])[0]
    logits = torch.full((1, 4, 4), -20.0)
    for query, label in enumerate([*target.labels.tolist(), 3]):
        logits[0, query, label] = 20.0
    blocks = torch.zeros(3, 1, 16, 16, dtype=torch.bool)
    for index in range(3):
        blocks[index, 0, :, 4 * index : 4 * index + 4] = True
    masks = torch.full((1, 4, 1, 16, 16), -30.0)
    masks[0, :3][blocks] = 30.0
    # Uniform points only: the uncertain ones all lie on borders, where targets are fractional.
    criterion = Criterion(3, num_points=4096, importance_sample_ratio=0.0)
    right = criterion(output_of(logits, masks), [Target(target.labels, blocks)], torch.rand)
    wrong = criterion(output_of(logits, -masks), [Target(target.labels, blocks)], torch.rand)
    assert right.terms["loss_ce"] < 1e-6
    assert right.terms["loss_dice"] < 0.15
    assert right.terms["loss_mask"] < wrong.terms["loss_mask"] / 10


@pytest.mark.parametrize("broken", ["class", "mask"])
def test_non_finite_logits_are_named(broken: str) -> None:
    logits, masks = torch.randn(1, 5, 4), torch.randn(1, 5, 1, 8, 8)
    (logits if broken == "class" else masks)[0, 1] = float("nan")
    with pytest.raises(FloatingPointError, match=f"{broken} logits of the last layer"):
        Criterion(3, num_points=32)(output_of(logits, masks), random_targets([2]), torch.rand)


def test_a_term_is_added_without_changing_the_others() -> None:
    """An added term gets the sampled masks of the published terms at every depth, and adds its weighted value."""
    torch.manual_seed(0)
    logits, masks, targets = (
        torch.randn(2, 5, 4),
        torch.randn(2, 5, 1, 8, 8),
        random_targets([2, 3]),
    )
    output = MaskOutput(logits, masks, torch.zeros(2, 5, 1), [output_of(logits, masks + 1)])
    seen: list[MatchedDepth] = []

    def term(matched: MatchedDepth) -> Tensor:
        seen.append(matched)
        return matched.sampled.logits.mean()

    def draws(seed: int = 1) -> UniformPoints:
        generator = torch.Generator().manual_seed(seed)
        return lambda shape: torch.rand(shape, generator=generator)

    before = Criterion(3, num_points=32)(output, targets, draws())
    after = Criterion(3, num_points=32, terms=[LossTerm("loss_level", 3.0, term)])(output, targets, draws())
    assert {name: after.terms[name] for name in before.terms} == before.terms
    assert after.terms.keys() - before.terms.keys() == {"loss_level", "loss_level_0"}
    added = 3.0 * (after.terms["loss_level"] + after.terms["loss_level_0"])
    torch.testing.assert_close(after.total, before.total + added)
    assert [matched.sampled.logits.shape for matched in seen] == [(5, 32), (5, 32)]
    assert seen[0].mask_logits.shape == (5, 8, 8)
    assert len(seen[0].matches) == 2
    assert [matched.index for matched in seen] == [None, 0]


@pytest.mark.parametrize("frames", [1, 2])
def test_a_term_sees_the_target_mask_of_each_row_of_logits(frames: int) -> None:
    torch.manual_seed(0)
    output, targets = random_output(7, frames), clips_of([3, 0, 2], frames, ignored=False)
    output = MaskOutput(output.class_logits[[0, 1, 0]], output.mask_logits[[0, 1, 0]], output.query_features[[0, 1, 0]])
    seen: list[MatchedDepth] = []

    def keep(matched: MatchedDepth) -> Tensor:
        seen.append(matched)
        return matched.mask_logits.sum()

    Criterion(3, num_points=32, terms=[LossTerm("loss_own", 1.0, keep)])(output, targets)
    expected = [
        (clip, query, target, frame)
        for clip, (queries, chosen) in enumerate(seen[0].matches)
        for query, target in zip(queries.tolist(), chosen.tolist(), strict=True)
        for frame in range(frames)
    ]
    assert len(seen[0].mask_logits) == len(seen[0].target_masks) == len(expected) == 5 * frames
    for row, (clip, query, target, frame) in enumerate(expected):
        assert torch.equal(seen[0].target_masks[row], targets[clip].masks[target, frame])
        assert torch.equal(seen[0].mask_logits[row], output.mask_logits[clip, query, frame])


def test_another_matcher_decides_what_each_query_learns() -> None:
    torch.manual_seed(0)
    logits, masks, targets = torch.randn(1, 5, 4), torch.randn(1, 5, 1, 8, 8), random_targets([2])

    class LastFirst(HungarianMatcher):
        def cost(
            self,
            class_logits: Tensor,
            mask_logits: Any,
            labels: Tensor,
            masks: Tensor,
            points: Tensor,
            ignored: Tensor | None = None,
        ) -> Tensor:
            cost = super().cost(class_logits, mask_logits, labels, masks, points, ignored)
            return cost - 1e6 * torch.arange(len(class_logits)).to(cost)[:, None]

    seen: list[MatchedDepth] = []

    def keep(matched: MatchedDepth) -> Tensor:
        seen.append(matched)
        return matched.mask_logits.sum()

    criterion = Criterion(3, num_points=32, terms=[LossTerm("loss_own", 1.0, keep)])
    criterion.matcher = LastFirst()
    criterion(output_of(logits, masks), targets)
    assert seen[0].matches[0][0].tolist() == [3, 4]


@pytest.mark.parametrize("names", [["loss_ce"], ["one", "one"], ["loss_area_2"]])
def test_terms_need_names_of_their_own(names: list[str]) -> None:
    with pytest.raises(UserError, match="expected unique names"):
        Criterion(3, terms=[LossTerm(name, 1.0, lambda matched: matched.mask_logits.sum()) for name in names])


def test_another_number_of_classes_is_told() -> None:
    with pytest.raises(UserError, match="the model returned 6 class scores for each query; expected 4, for 3 classes"):
        Criterion(3, num_points=8)(output_of(torch.zeros(1, 2, 6), torch.zeros(1, 2, 1, 4, 4)), random_targets([1]))


# --- masks in place of points ----------------------------------------------------------------------------------------


def random_output(queries: int, frames: int = 1, dtype: torch.dtype = torch.float64) -> MaskOutput:
    return output_of(torch.randn(2, queries, 4, dtype=dtype), torch.randn(2, queries, frames, 6, 8, dtype=dtype))


def clips_of(counts: list[int], frames: int = 1, *, ignored: bool = False) -> list[Target]:
    hidden = torch.rand(frames, 24, 32) > 0.7 if ignored else None
    return [Target(torch.randint(0, 3, (n,)), torch.rand(n, frames, 24, 32) > 0.6, hidden) for n in counts]


def assert_equal_losses(first: Losses, second: Losses) -> None:
    assert first.terms.keys() == second.terms.keys()
    for name, value in first.terms.items():
        torch.testing.assert_close(value, second.terms[name], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("frames", [1, 2])
@pytest.mark.parametrize("ignored", [False, True])
def test_matching_on_masks_is_matching_on_points_at_all_pixel_centres(frames: int, ignored: bool) -> None:
    torch.manual_seed(0)
    output, targets = random_output(7, frames), clips_of([3, 2], frames, ignored=ignored)
    rows, columns = torch.meshgrid(*((torch.arange(n).double() + 0.5) / n for n in (6, 8)), indexing="ij")
    centers = torch.stack((columns, rows), 2).flatten(0, 1).unsqueeze(0)
    options: dict[str, Any] = {"num_points": 48, "oversample_ratio": 1.0, "importance_sample_ratio": 0.0}
    pairs = 5 * frames
    random = torch.rand(pairs, 48, 2, dtype=torch.float64)
    draws: dict[tuple[int, ...], Tensor] = {(1, 48, 2): centers, (pairs, 48, 2): random}
    points, masks = Criterion(3, **options), Criterion(3, match_on="masks", **options)

    def uniform(shape: tuple[int, ...]) -> Tensor:
        return draws[shape]

    assert_equal_losses(masks(output, targets, uniform), points(output, targets, uniform))
    shapes: list[tuple[int, ...]] = []
    masks(output, targets, lambda shape: draws[shapes.append(shape) or shape])
    assert shapes == [(pairs, 48, 2)] * 2  # nothing is drawn for matching


def test_costs_on_masks_compare_each_pixel_with_the_target_at_its_centre() -> None:
    torch.manual_seed(0)
    logits, masks = torch.randn(4, 1, 5, 6).double(), torch.rand(3, 1, 20, 24) > 0.5
    labels, scores = torch.tensor([0, 2, 1]), torch.randn(4, 4).double()
    cost = HungarianMatcher().cost(scores, logits, labels, masks, pixel_centers((5, 6), logits))
    centre = masks[:, 0].double().unfold(1, 4, 4).unfold(2, 4, 4)[..., 1:3, 1:3].mean((3, 4)).flatten(1)
    flat = logits.flatten(1)
    expected = (
        5 * pairwise_binary_cross_entropy(flat, centre)
        + 5 * pairwise_dice(flat, centre)
        - 2 * scores.softmax(1)[:, labels]
    )
    torch.testing.assert_close(cost, expected)


@pytest.mark.parametrize("frames", [1, 2])
def test_losses_on_masks_are_means_over_all_pixels_of_the_targets(frames: int) -> None:
    torch.manual_seed(0)
    output, targets = random_output(7, frames), clips_of([3, 2], frames, ignored=True)
    seen: list[MatchedDepth] = []

    def keep(matched: MatchedDepth) -> Tensor:
        seen.append(matched)
        return matched.mask_logits.sum()

    criterion = Criterion(3, loss_on="masks", match_on="masks", terms=[LossTerm("loss_own", 0.0, keep)])
    losses = criterion(output, targets, lambda shape: pytest.fail(f"{shape} numbers were drawn"))
    entropies, dices = [], []
    for clip, (target, (queries, chosen)) in enumerate(zip(targets, seen[0].matches, strict=True)):
        for query, index in zip(queries.tolist(), chosen.tolist(), strict=True):
            for frame in range(frames):
                small = output.mask_logits[clip, query, frame][None, None]
                logits = F.interpolate(small, (24, 32), mode="bilinear", align_corners=False)[0, 0]
                assert target.ignored is not None
                known = ~target.ignored[frame]
                logits, truth = logits[known], target.masks[index, frame][known].double()
                entropies.append(F.binary_cross_entropy_with_logits(logits, truth))
                p = logits.sigmoid()
                dices.append(1 - (2 * (p * truth).sum() + 1) / (p.sum() + truth.sum() + 1))
    torch.testing.assert_close(losses.terms["loss_mask"], torch.stack(entropies).sum() / 5)
    torch.testing.assert_close(losses.terms["loss_dice"], torch.stack(dices).sum() / 5)


@pytest.mark.parametrize("counts", [[0, 0], [0, 2]])
def test_images_without_targets_have_no_loss_on_masks(counts: list[int]) -> None:
    torch.manual_seed(0)
    output = random_output(7)
    for tensor in (output.class_logits, output.masks.factors[0]):
        tensor.requires_grad_()
    losses = Criterion(3, loss_on="masks", match_on="masks")(output, clips_of(counts))
    losses.total.backward()
    assert losses.total.isfinite()
    assert (losses.terms["loss_mask"] == 0) == (not any(counts))
    assert output.masks.factors[0].grad is not None


def test_class_weights_weigh_queries_by_their_class_in_the_class_loss_alone() -> None:
    torch.manual_seed(0)
    output, targets = random_output(5), clips_of([3, 2])
    points = torch.Generator().manual_seed(0)
    plain = Criterion(3, num_points=16)(output, targets, lambda shape: torch.rand(shape, generator=points))
    points.manual_seed(0)
    weights = (0.5, 4.0, 1.0)
    criterion = Criterion(3, num_points=16, class_weights=weights)
    losses = criterion(output, targets, lambda shape: torch.rand(shape, generator=points))
    for name, value in losses.terms.items():
        assert torch.equal(value, plain.terms[name]) == (not name.startswith("loss_ce"))

    assigned: list[Tensor] = []  # the classes of all queries, by the matching of a criterion without weights
    term = LossTerm("classes", 0.0, lambda matched: _classes(matched, assigned))
    points.manual_seed(0)
    Criterion(3, num_points=16, terms=(term,))(output, targets, lambda shape: torch.rand(shape, generator=points))
    scale = torch.tensor([*weights, 0.1], dtype=torch.float64)[assigned[0]]
    each = -output.class_logits.log_softmax(2).gather(2, assigned[0][..., None])[..., 0]
    torch.testing.assert_close(losses.terms["loss_ce"], (scale * each).sum() / scale.sum())
    with pytest.raises(UserError, match="2 class weights for 3 classes"):
        Criterion(3, class_weights=[1.0, 2.0])


def _classes(matched: MatchedDepth, assigned: list[Tensor]) -> Tensor:
    wanted = torch.full(matched.output.class_logits.shape[:2], 3)
    for row, (target, (queries, chosen)) in enumerate(zip(matched.targets, matched.matches, strict=True)):
        wanted[row, queries] = target.labels[chosen]
    assigned.append(wanted)
    return torch.zeros(())


@pytest.mark.parametrize("count", [0, 2])
def test_a_batch_whose_queries_have_no_weight_has_no_class_loss(count: int) -> None:
    torch.manual_seed(0)
    output, targets = random_output(5), clips_of([count, 0])
    output.class_logits.requires_grad_()
    criterion = Criterion(3, num_points=16, no_object_weight=0.0, class_weights=[0.0, 0.0, 0.0])
    losses = criterion(output, targets)
    losses.total.backward()
    assert losses.terms["loss_ce"] == 0
    assert output.class_logits.grad is not None
    assert not output.class_logits.grad.any()


def test_points_of_pilots_are_in_memory_for_one_depth_at_a_time() -> None:
    torch.manual_seed(0)
    alive: list[weakref.ref[MatchedDepth]] = []
    most: list[int] = []

    def count(matched: MatchedDepth) -> Tensor:
        alive.append(weakref.ref(matched))
        most.append(sum(reference() is not None for reference in alive))
        return matched.sampled.logits.sum()

    targets = random_targets([2])
    matches = [(torch.arange(2), torch.arange(2))]
    depths: list[MaskOutput] = []
    for _ in range(4):
        logits, masks = torch.randn(1, 5, 4), torch.randn(1, 5, 1, 8, 8)
        pilots = PilotOutput(output_of(logits[:, :2], masks[:, :2]), matches, 1)
        depths.append(MaskOutput(logits, masks, torch.zeros(1, 5, 1), pilots=pilots))
    last = depths.pop()
    output = MaskOutput(last.class_logits, last.masks, torch.zeros(1, 5, 1), depths, last.pilots)
    Criterion(3, num_points=16, terms=[LossTerm("loss_count", 1.0, count)])(output, targets)
    assert most == [1] * 8
