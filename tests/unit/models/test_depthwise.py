"""Depthwise convolutions in training on a CPU."""

from __future__ import annotations

import copy
import io

import pytest
import timm
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize

from mask2former.models.depthwise import set_depthwise_precision


class Strided(nn.Conv2d):
    """A subclass of the convolution, as timm has for "same" padding."""

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input)[..., ::2]


def model(kind: type[nn.Conv2d] = nn.Conv2d) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 1), kind(8, 8, 3, padding=1, groups=8), nn.Conv2d(8, 8, 3, groups=2))


@pytest.mark.parametrize("kind", [nn.Conv2d, Strided])
def test_training_computes_them_in_float32(kind: type[nn.Conv2d]) -> None:
    plain, ours, images = model(kind), model(kind), torch.rand(2, 8, 7, 6)
    assert set_depthwise_precision(ours) == 1
    with torch.autocast("cpu", torch.bfloat16):
        rounded, full = plain[1](images), ours[1](images)
    assert (rounded.dtype, full.dtype) == (torch.bfloat16, torch.float32)
    torch.testing.assert_close(full, plain[1](images), rtol=0, atol=0)
    full.square().sum().backward()
    plain[1](images).square().sum().backward()
    assert ours[1].weight.grad is not None
    assert plain[1].weight.grad is not None
    torch.testing.assert_close(ours[1].weight.grad, plain[1].weight.grad, rtol=0, atol=0)


def test_all_else_stays() -> None:
    plain, ours, images = model(), model(), torch.rand(2, 3, 7, 6)
    set_depthwise_precision(ours)
    assert [type(part) for part in ours[::2]] == [nn.Conv2d, nn.Conv2d]
    assert list(ours.state_dict()) == list(plain.state_dict())
    assert isinstance(ours[1], nn.Conv2d)
    torch.testing.assert_close(ours(images), plain(images), rtol=0, atol=0)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(ours.eval()(images), plain.eval()(images), rtol=0, atol=0)


def test_parametrized_convolutions_stay() -> None:
    """A parametrized convolution, which has a class made by torch, is not changed and can be restored."""
    ours = model()
    parametrizations.weight_norm(ours[1])
    assert set_depthwise_precision(ours) == 0
    parametrize.remove_parametrizations(ours[1], "weight")
    assert type(ours[1]) is nn.Conv2d


def test_twice_is_once_and_copies_and_pickles_are_alike() -> None:
    ours, images = model(), torch.rand(2, 3, 7, 6)
    assert set_depthwise_precision(ours) == set_depthwise_precision(ours) == 1
    file = io.BytesIO()
    torch.save(ours, file)
    file.seek(0)
    with torch.autocast("cpu", torch.bfloat16):
        for twin in (copy.deepcopy(ours), torch.load(file, weights_only=False)):
            assert type(twin[1]) is type(ours[1])
            assert twin[1].weight is not ours[1].weight
            torch.testing.assert_close(twin(images), ours(images), rtol=0, atol=0)


@pytest.mark.filterwarnings("ignore:.*torch.jit")  # deprecated, but still in use
@pytest.mark.parametrize("kind", [nn.Conv2d, timm.layers.Conv2dSame])
def test_a_model_that_was_trained_can_be_scripted(kind: type[nn.Conv2d]) -> None:
    ours, images = model(kind).eval(), torch.rand(2, 3, 7, 6)
    set_depthwise_precision(ours)
    expected, weight = ours(images), ours[1].weight
    torch.testing.assert_close(torch.jit.script(ours)(images), expected, rtol=0, atol=0)
    assert ours[1].weight is weight
    torch.testing.assert_close(ours(images), expected, rtol=0, atol=0)


def test_those_of_timm_are_found() -> None:
    """Both classes of EfficientNet's depthwise convolutions are found: those with stride two pad themselves."""
    backbone = timm.create_model("tf_efficientnet_lite0", features_only=True)
    assert set_depthwise_precision(backbone) == 16
