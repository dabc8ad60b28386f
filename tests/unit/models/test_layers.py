from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from mask2former.models.layers import MultiHeadAttention, conv_kaiming, xavier_matrices


@pytest.mark.parametrize("masked", [False, True])
def test_attention_equals_that_of_torch_with_the_same_weights(masked: bool) -> None:
    torch.manual_seed(0)
    batch, queries, tokens, dim, heads = 2, 5, 11, 24, 4
    ours = MultiHeadAttention(dim, heads).double()
    theirs = nn.MultiheadAttention(dim, heads, batch_first=True).double()
    for parameter in theirs.parameters():
        nn.init.normal_(parameter)
    ours.load_state_dict(theirs.state_dict())  # strict: the names are the same
    query, key, value = (torch.randn(batch, n, dim, dtype=torch.float64) for n in (queries, tokens, tokens))
    blocked = torch.rand(batch, queries, tokens) < 0.6 if masked else None
    expected, _ = theirs(query, key, value, attn_mask=None if blocked is None else blocked.repeat_interleave(heads, 0))
    torch.testing.assert_close(ours(query, key, value, blocked), expected, rtol=0, atol=1e-12)


def test_what_is_blocked_has_no_influence() -> None:
    torch.manual_seed(0)
    attention = MultiHeadAttention(16, 2)
    query, tokens = torch.randn(1, 3, 16), torch.randn(1, 6, 16)
    blocked = torch.zeros(1, 3, 6, dtype=torch.bool)
    blocked[:, 1, 4] = True
    changed = tokens.clone()
    changed[:, 4] += 1.0
    before, after = (attention(query, x, x, blocked) for x in (tokens, changed))
    assert torch.equal(before[:, 1], after[:, 1])
    assert not torch.allclose(before[:, 0], after[:, 0])


def test_initial_attention_is_xavier_without_biases() -> None:
    torch.manual_seed(0)
    attention = MultiHeadAttention(64, 4)
    bound = math.sqrt(6 / (3 * 64 + 64))  # one packed matrix
    assert 0.99 * bound < attention.in_proj_weight.abs().max().item() <= bound
    assert not attention.in_proj_bias.any()
    assert not attention.out_proj.bias.any()


def test_xavier_leaves_vectors_alone() -> None:
    layer = nn.Sequential(nn.Linear(30, 50), nn.LayerNorm(50))
    biases = {name: value.clone() for name, value in layer.state_dict().items() if value.dim() == 1}
    xavier_matrices(layer)
    assert len(biases) == 3
    for name, value in biases.items():
        assert torch.equal(layer.state_dict()[name], value)
    linear = layer[0]
    assert isinstance(linear, nn.Linear)
    assert math.sqrt(6 / 80) * 0.99 < linear.weight.abs().max().item() <= math.sqrt(6 / 80)


def test_kaiming_convolutions_have_unit_gain() -> None:
    torch.manual_seed(0)
    conv = conv_kaiming(nn.Conv2d(40, 60, 3))
    bound = math.sqrt(3 / (40 * 9))
    assert 0.99 * bound < conv.weight.abs().max().item() <= bound
    assert conv.bias is not None
    assert not conv.bias.any()
    assert conv_kaiming(nn.Conv2d(4, 4, 1, bias=False)).bias is None
