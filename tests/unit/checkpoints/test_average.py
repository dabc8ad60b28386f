"""The mean of several training runs: values, errors, and the command."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from mask2former import checkpoints
from mask2former.checkpoints.average import average, average_files, least_cosine
from mask2former.cli import main
from mask2former.errors import UserError
from mask2former.models.mask2former import Mask2Former
from mask2former.structures import Categories


def moved(model: Mask2Former, seed: int, far: float) -> Mask2Former:
    """A copy with up to ``far`` added to floating-point values, and ``seed`` to counters."""
    other, generator = copy.deepcopy(model), torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for value in other.state_dict().values():
            if value.is_floating_point():
                value += far * torch.rand(value.shape, generator=generator)
            elif value.ndim == 0:
                value += seed
    return other


def test_every_value_is_the_mean(tiny_model: Mask2Former) -> None:
    models = [moved(tiny_model, seed, 0.1) for seed in range(3)]
    before = [{name: value.clone() for name, value in model.state_dict().items()} for model in models]
    mean = average(models, ["a", "b", "c"])
    assert mean is models[0]
    for name, value in mean.state_dict().items():
        values = [state[name] for state in before]
        if value.is_floating_point():
            assert torch.allclose(value, torch.stack(values).mean(0), rtol=1e-6, atol=1e-7), name
            assert value.dtype == values[0].dtype
        else:
            assert torch.equal(value, values[0]), name
    assert all(torch.equal(models[1].state_dict()[name], value) for name, value in before[1].items())


def test_tied_weights_have_the_mean_of_the_models(tiny_model: Mask2Former) -> None:
    names = [f"transformer_decoder.layers.{index}.linear1" for index in range(2)]
    weight = tiny_model.get_parameter(f"{names[0]}.weight")
    tiny_model.get_submodule(names[1]).register_parameter("weight", weight)
    models = [copy.deepcopy(tiny_model) for _ in range(2)]
    with torch.no_grad():
        for model, value in zip(models, (1.0, 3.0), strict=True):
            model.get_parameter(f"{names[0]}.weight").fill_(value)
    mean = average(models, ["a", "b"])
    assert torch.equal(mean.get_parameter(f"{names[1]}.weight"), torch.full_like(weight, 2.0))


def test_the_least_cosine_is_that_of_the_farthest_two(tiny_model: Mask2Former) -> None:
    near, far = moved(tiny_model, 1, 0.01), moved(tiny_model, 2, 3.0)
    assert least_cosine([tiny_model, tiny_model]) == pytest.approx(1.0)
    assert 0.9 < least_cosine([tiny_model, near]) < 1
    assert (
        least_cosine([tiny_model, near, far]) == min(least_cosine([tiny_model, far]), least_cosine([near, far])) < 0.5
    )


def test_what_has_no_mean_is_refused(tiny_model: Mask2Former) -> None:
    def refused(other: Mask2Former, message: str) -> None:
        with pytest.raises(UserError, match=message):
            average([copy.deepcopy(tiny_model), other], ["a.safetensors", "b.safetensors"])

    with pytest.raises(UserError, match="at least two models, got 1"):
        average([tiny_model], ["a"])
    with pytest.raises(UserError, match="got one name, 'scenes-tiny'; pass a list"):
        average_files("scenes-tiny", "mean.safetensors")
    deeper = moved(tiny_model, 1, 0.1)
    architecture = deeper.info.known_architecture
    decoder = architecture.transformer_decoder.model_copy(update={"num_queries": 3})
    deeper.info = replace(deeper.info, architecture=architecture.model_copy(update={"transformer_decoder": decoder}))
    refused(deeper, r"b\.safetensors has a different architecture from a\.safetensors")
    darker = moved(tiny_model, 1, 0.1)
    darker.mean = (0.0, 0.0, 0.0)
    refused(darker, r"b\.safetensors normalises images differently from a\.safetensors")
    own = copy.deepcopy(tiny_model)
    own.info, darker.info = (replace(tiny_model.info, architecture=None) for _ in range(2))  # of parts made in Python
    with pytest.raises(UserError, match="b normalises images differently from a"):
        average([own, darker], ["a", "b"])
    assert tiny_model.categories is not None
    renamed = moved(tiny_model, 1, 0.1)
    renamed.categories = Categories.from_names([f"{name}s" for name in tiny_model.categories.names])
    refused(renamed, r"b\.safetensors has different classes from a\.safetensors")
    broken = moved(tiny_model, 1, 0.1)
    with torch.no_grad():
        next(broken.parameters()).fill_(float("nan"))
    refused(broken, r"b\.safetensors has weights that are not finite")


def test_a_license_is_kept_and_two_are_refused(tiny_model: Mask2Former) -> None:
    one, other, third = (moved(tiny_model, seed, 0.1) for seed in range(3))
    other.info = replace(other.info, license="CC BY-NC 4.0")
    assert average([one, other], ["a", "b"]).info.license == "CC BY-NC 4.0"
    third.info = replace(third.info, license="CC BY-SA 4.0")
    with pytest.raises(UserError, match=r"different licenses: CC BY-NC 4.0, CC BY-SA 4.0"):
        average([other, third], ["b", "c"])


def test_the_command(tiny_model: Mask2Former, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    paths = [str(tmp_path / f"{name}.safetensors") for name in "abc"]
    for path, model in zip(paths, (tiny_model, moved(tiny_model, 1, 0.01), moved(tiny_model, 2, 3.0)), strict=True):
        checkpoints.save_pretrained(model, path)
    out = tmp_path / "mean.safetensors"
    assert main(["average", paths[0], paths[1], "-o", str(out)]) == 0
    [line] = capsys.readouterr().out.splitlines()
    assert line.startswith(f"{out} written: the mean of 2 models (cosine of their weights at least 0.9")
    mean = checkpoints.from_pretrained(out).state_dict()
    states = [checkpoints.from_pretrained(path).state_dict() for path in paths[:2]]
    assert all(torch.allclose(mean[name], (states[0][name] + states[1][name]) / 2, atol=1e-6) for name in mean)
    assert main(["average", paths[0], paths[2], "-o", str(tmp_path / "far.safetensors")]) == 0
    assert "have little in common (cosine 0." in capsys.readouterr().out
    for words, message in (
        ([paths[0], "-o", str(tmp_path / "x.safetensors")], "at least two models, got 1"),
        ([paths[0], "scenes-tiny", "-o", str(tmp_path / "x.safetensors")], "scenes-tiny has a different architecture"),
        ([paths[0], paths[1], "-o", str(out)], "already exists"),
        ([paths[0], str(tmp_path / "none.safetensors"), "-o", str(tmp_path / "x.safetensors")], "none.safetensors"),
        ([paths[0], paths[1], "-o", str(tmp_path / "x.pth")], "expected .safetensors or a folder"),
    ):
        assert main(["average", *words]) == 2
        assert message in capsys.readouterr().err
    assert not list(tmp_path.glob("x*"))
