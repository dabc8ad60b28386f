from __future__ import annotations

import logging
from copy import deepcopy
from typing import Any

import numpy as np
import pytest
import torch

from mask2former.errors import UserError
from mask2former.inference.predictor import Predictor
from mask2former.models.mask2former import Mask2Former


@pytest.fixture
def images() -> list[np.ndarray]:
    random = np.random.default_rng(0)
    return [random.integers(0, 256, (40 + 2 * step, 60, 3), dtype=np.uint8) for step in range(10)]


def test_one_graph_for_each_of_the_first_sizes(
    tiny_model: Mask2Former,
    images: list[np.ndarray],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    calls = []

    def compiler(model: Mask2Former, **options: Any) -> Any:
        assert options == {"fullgraph": True, "dynamic": False}

        def compiled(shown: Any, **kwargs: Any) -> Any:
            calls.append(shown[0].shape)
            return model(shown, **kwargs)

        return compiled

    monkeypatch.setattr(torch, "compile", compiler)
    plain = Predictor(tiny_model, device="cpu")
    with caplog.at_level(logging.WARNING):
        compiled = Predictor(tiny_model, device="cpu", compile=True)
        for image in (*images, images[0]):
            assert (compiled(image, "semantic").labels == plain(image, "semantic").labels).mean() > 0.99
    assert len(set(calls)) == 8
    assert len(calls) == 9
    assert caplog.text.count("compiled the model for 1 x") == 8
    assert caplog.text.count("other sizes run uncompiled") == 1


def test_a_missing_compiler_is_one_sentence(
    tiny_model: Mask2Former, images: list[np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    missing = type("InvalidCxxCompiler", (RuntimeError,), {})  # as PyTorch calls it

    def compiler(model: Mask2Former, **options: Any) -> Any:
        def compiled(*args: Any, **kwargs: Any) -> Any:
            try:
                raise missing("No working C++ compiler found")
            except missing as error:
                raise RuntimeError("backend failed") from error

        return compiled

    monkeypatch.setattr(torch, "compile", compiler)
    with pytest.raises(UserError, match=r"needs a C\+\+ compiler, but none was found; install g\+\+ or clang"):
        Predictor(tiny_model, device="cpu", compile=True)(images[0])


def test_only_models_are_compiled() -> None:
    with pytest.raises(UserError, match="compile applies to models of this package"):
        Predictor(lambda images: [], compile=True)


@pytest.mark.slow
def test_the_real_compiler_gives_the_same_but_for_rounding(tiny_model: Mask2Former, images: list[np.ndarray]) -> None:
    plain = Predictor(tiny_model, device="cpu")(images[0], "semantic")
    compiled = Predictor(deepcopy(tiny_model), device="cpu", compile=True)(images[0], "semantic")
    assert (plain.labels == compiled.labels).mean() > 0.99
