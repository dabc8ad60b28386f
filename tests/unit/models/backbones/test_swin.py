"""Swin compared with a token-by-token form of its specification, and each of its parts."""

from __future__ import annotations

import math
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

from mask2former.models.backbones import SwinTransformer, swin
from mask2former.models.parts import for_inference

WINDOW, HEADS, DIM = 4, 2, 6
GRIDS = [(8, 8), (5, 9), (3, 2), (4, 4), (1, 11)]  # multiples of the window, not, smaller than it, and one window


def randomised(module: nn.Module) -> nn.Module:
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype) / 3)
    return module


def block(shift: int) -> swin.SwinBlock:
    torch.manual_seed(0)
    made = randomised(swin.SwinBlock(DIM, WINDOW, shift, HEADS, drop_path=0.0).double())
    assert isinstance(made, swin.SwinBlock)
    return made


def stage_mask(height: int, width: int) -> Tensor:
    tall, wide = height + -height % WINDOW, width + -width % WINDOW
    return swin.shift_mask(tall, wide, WINDOW, WINDOW // 2, torch.device("cpu"))


def region(index: int, length: int, shift: int) -> int:
    """Region of an index in the rolled grid: 0 before the last window, 2 in its last ``shift`` tokens, 1 between."""
    return 0 if index < length - WINDOW else 1 if index < length - shift else 2


def written_out(attention: swin.WindowAttention, grid: Tensor, shift: int) -> Tensor:
    """Window attention of one normalised grid (H, W, C), computed token by token."""
    height, width = grid.shape[:2]
    tall, wide = (math.ceil(length / WINDOW) * WINDOW for length in (height, width))
    head_dim = DIM // HEADS

    def token(y: int, x: int) -> Tensor:
        """Query, key and value (3, heads, channels) at an index of the rolled grid, of zeros beyond the image."""
        y, x = (y + shift) % tall, (x + shift) % wide
        content = grid[y, x] if y < height and x < width else torch.zeros(DIM, dtype=grid.dtype)
        return attention.qkv(content).view(3, HEADS, head_dim)

    tokens = {(y, x): token(y, x) for y in range(tall) for x in range(wide)}
    result = torch.empty_like(grid)
    for y in range(tall):
        for x in range(wide):
            top, left = y // WINDOW * WINDOW, x // WINDOW * WINDOW
            window = [(v, u) for v in range(top, top + WINDOW) for u in range(left, left + WINDOW)]
            heads = []
            for head in range(HEADS):
                logits = []
                for v, u in window:
                    logit = tokens[y, x][0, head] @ tokens[v, u][1, head] / math.sqrt(head_dim)
                    row = (y - v + WINDOW - 1) * (2 * WINDOW - 1) + (x - u + WINDOW - 1)
                    logit = logit + attention.relative_position_bias_table[row, head]
                    apart = (region(y, tall, shift), region(x, wide, shift)) != (
                        region(v, tall, shift),
                        region(u, wide, shift),
                    )
                    logits.append(logit - 100 * (shift > 0 and apart))
                weights = torch.stack(logits).softmax(0)
                heads.append(sum(w * tokens[index][2, head] for w, index in zip(weights, window, strict=True)))
            back_y, back_x = (y + shift) % tall, (x + shift) % wide
            if back_y < height and back_x < width:
                result[back_y, back_x] = attention.proj(torch.cat(heads))
    return result


@pytest.mark.parametrize("shift", [0, WINDOW // 2])
@pytest.mark.parametrize(("height", "width"), GRIDS)
def test_window_attention_is_that_of_the_specification(height: int, width: int, shift: int) -> None:
    made = block(shift)
    grids = torch.randn(2, height, width, DIM, dtype=torch.float64)
    with torch.inference_mode():
        got = made.attend(grids, stage_mask(height, width))
        for index in range(2):
            torch.testing.assert_close(got[index], written_out(made.attn, grids[index], shift), rtol=0, atol=1e-12)


def test_a_block_adds_attention_and_mlp_to_its_input() -> None:
    made = block(0)
    grid = torch.randn(1, 5, 6, DIM, dtype=torch.float64)
    mask = stage_mask(5, 6)
    with torch.inference_mode():
        middle = grid + made.attend(made.norm1(grid), mask)
        exact_gelu = nn.GELU()
        expected = middle + made.mlp.fc2(exact_gelu(made.mlp.fc1(made.norm2(middle))))
        torch.testing.assert_close(made(grid, mask), expected, rtol=0, atol=1e-12)


def test_padding_is_attended_to_in_unshifted_blocks() -> None:
    # Its tokens are zero, so their values are the bias of the projection; that reaches the image.
    made = block(0)
    grid = torch.randn(1, 3, 3, DIM, dtype=torch.float64)
    mask = stage_mask(3, 3)
    with torch.no_grad():
        before = made.attend(grid, mask)
        assert made.attn.qkv.bias is not None
        made.attn.qkv.bias[2 * DIM :] += 1.0
        shifted_values = made.attn.proj(torch.ones(DIM, dtype=torch.float64)) - made.attn.proj.bias
        torch.testing.assert_close(made.attend(grid, mask), before + shifted_values, rtol=0, atol=1e-12)
        # With the padding left out, attention over the nine tokens of the image alone would differ.
        alone = swin.SwinBlock(DIM, 3, 0, HEADS, 0.0).double().attn
        alone.qkv, alone.proj = made.attn.qkv, made.attn.proj
        centre = slice(WINDOW - 3, WINDOW + 2)
        table = made.attn.relative_position_bias_table.view(2 * WINDOW - 1, 2 * WINDOW - 1, HEADS)
        alone.relative_position_bias_table = nn.Parameter(table[centre, centre].reshape(-1, HEADS))
        without = alone(grid.flatten(1, 2), None).view_as(grid)
        assert (without - made.attend(grid, mask)).abs().min() > 1e-6


def test_windows_come_back_as_they_were() -> None:
    grid = torch.randn(2, 8, 12, 3)
    tiles = swin.to_windows(grid, 4)
    assert tiles.shape == (2 * 2 * 3, 16, 3)
    assert torch.equal(tiles[1], grid[0, 0:4, 4:8].flatten(0, 1))
    assert torch.equal(swin.from_windows(tiles, 4, 8, 12), grid)


def test_merging_takes_the_four_corners_in_the_published_order() -> None:
    torch.manual_seed(0)
    merging = randomised(swin.PatchMerging(3).double())
    assert isinstance(merging, swin.PatchMerging)
    grid = torch.randn(1, 5, 4, 3, dtype=torch.float64)
    zero = torch.zeros(3, dtype=torch.float64)

    def at(y: int, x: int) -> Tensor:
        return grid[0, y, x] if y < 5 else zero

    with torch.inference_mode():
        merged = merging(grid)
        assert merged.shape == (1, 3, 2, 6)
        for y in range(3):
            for x in range(2):
                order = ((2 * y, 2 * x), (2 * y + 1, 2 * x), (2 * y, 2 * x + 1), (2 * y + 1, 2 * x + 1))
                expected = merging.reduction(merging.norm(torch.cat([at(*index) for index in order])))
                torch.testing.assert_close(merged[0, y, x], expected, rtol=0, atol=1e-12)


def tiny() -> SwinTransformer:
    torch.manual_seed(0)
    return SwinTransformer(embed_dim=8, depths=(2, 2, 3, 1), num_heads=(1, 2, 2, 4), window_size=3, drop_path_rate=0.3)


def blocks(model: SwinTransformer) -> Iterator[swin.SwinBlock]:
    return (module for module in model.modules() if isinstance(module, swin.SwinBlock))


@pytest.mark.parametrize(("height", "width"), [(64, 96), (37, 50), (5, 131), (1, 1)])
def test_any_size_gives_maps_rounded_up_at_every_stride(height: int, width: int) -> None:
    model = tiny().eval()
    with torch.inference_mode():
        maps = model(torch.randn(1, 3, height, width))
    assert model.channels == (8, 16, 32, 64)
    for level, channels, stride in zip(maps, model.channels, model.strides, strict=True):
        assert level.shape == (1, channels, math.ceil(height / stride), math.ceil(width / stride))


def test_every_second_block_is_shifted_by_half_a_window() -> None:
    assert [made.shift for made in blocks(tiny())] == [0, 1, 0, 1, 0, 1, 0, 0]


def test_drop_path_rises_linearly_and_only_in_training() -> None:
    model = tiny()
    rates = [made.drop_path.probability for made in blocks(model)]
    assert rates == pytest.approx([0.3 * index / 7 for index in range(8)])
    images = torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        torch.manual_seed(1)
        first = model(images)
        assert any(not torch.equal(model(images)[3], first[3]) for _ in range(8))
        model.eval()
        assert all(torch.equal(a, b) for a, b in zip(model(images), model(images), strict=True))


@pytest.mark.parametrize("probability", [0.0, 0.3, 1.0])
def test_branches_are_dropped_as_by_timm(probability: float) -> None:
    from timm.layers.drop import DropPath

    ours = next(iter(blocks(tiny()))).drop_path
    ours.probability = probability
    theirs, branch = DropPath(probability), torch.randn(64, 3, 4)
    torch.manual_seed(5)
    expected = theirs(branch)
    torch.manual_seed(5)
    assert torch.allclose(ours(branch), expected, rtol=1e-6)


def test_every_map_is_normed() -> None:
    model = tiny().eval()
    with torch.inference_mode():
        for level in model(255 * torch.randn(1, 3, 64, 64)):
            torch.testing.assert_close(level.mean(1), torch.zeros_like(level[:, 0]), rtol=0, atol=1e-4)
            torch.testing.assert_close(level.var(1, unbiased=False), torch.ones_like(level[:, 0]), rtol=0, atol=1e-2)


def test_bias_tables_start_truncated_normal_and_the_rest_as_torch_starts_it() -> None:
    torch.manual_seed(0)
    model = SwinTransformer(embed_dim=32, depths=(1, 1, 1, 1), num_heads=(4, 8, 16, 32), window_size=7)
    table = torch.cat([made.attn.relative_position_bias_table.flatten() for made in blocks(model)])
    assert table.std().item() == pytest.approx(0.02, rel=0.03)
    linear = next(blocks(model)).mlp.fc1
    bound = 1 / math.sqrt(32)
    for value in (linear.weight, linear.bias):
        assert 0.95 * bound < value.abs().max().item() <= bound
        assert value.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.1)
    assert not any(name.endswith("index") for name in model.state_dict())


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 2e-5), (torch.bfloat16, 0.1)])
@pytest.mark.parametrize("window", [3, 4])
def test_the_form_for_inference_gives_the_same_maps(window: int, dtype: torch.dtype, tolerance: float) -> None:
    torch.manual_seed(0)
    plain = SwinTransformer(8, (2, 2, 3, 1), (1, 2, 2, 4), window)
    for made in blocks(plain):  # as large as the logits
        nn.init.normal_(made.attn.relative_position_bias_table)
    plain = plain.to(dtype).eval()
    form = for_inference(plain)
    assert form is not plain
    threads = torch.get_num_threads()
    try:
        for count, size, height, width in ((1, 1, 64, 96), (2, 2, 37, 50), (3, 1, 5, 131), (1, 2, 1, 1), (0, 1, 8, 8)):
            torch.set_num_threads(size)
            images = torch.randn(count, 3, height, width, dtype=dtype)
            with torch.inference_mode():
                for found, expected in zip(form(images), plain(images), strict=True):
                    assert found.is_contiguous(memory_format=torch.channels_last)
                    assert found.dtype == dtype
                    torch.testing.assert_close(found, expected, rtol=0, atol=tolerance)
    finally:
        torch.set_num_threads(threads)


def test_images_of_a_batch_do_not_see_one_another_in_the_form() -> None:
    form, images = for_inference(tiny().eval()), torch.randn(3, 3, 37, 50)
    with torch.inference_mode():
        together, alone = form(images), [form(image.unsqueeze(0)) for image in images]
    for index, maps in enumerate(alone):
        for level, expected in zip(together, maps, strict=True):
            torch.testing.assert_close(level[index], expected[0], rtol=0, atol=1e-5)


def test_the_form_is_for_inference_on_a_cpu_and_for_blocks_as_they_are_here() -> None:
    plain = tiny()
    assert for_inference(plain) is plain  # in training
    form = for_inference(plain.eval())
    assert {id(value) for value in form.parameters()} == {id(value) for value in plain.parameters()}
    form(torch.randn(1, 3, 32, 32))[3].sum().backward()
    assert plain.get_parameter("patch_embed.proj.weight").grad is not None
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        images = torch.randn(1, 3, 32, 32)
        assert all(torch.equal(one, other) for one, other in zip(form(images), plain(images), strict=True))

    class Adapted(nn.Linear):
        pass

    block = next(blocks(plain))
    block.mlp.fc1 = Adapted(8, 32)
    assert for_inference(plain.eval()) is plain
    assert for_inference(meta := tiny().eval().to("meta")) is meta
