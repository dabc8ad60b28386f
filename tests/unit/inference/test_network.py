"""Any callable from images to predictions is a network: a function, an exported program, a model."""

from __future__ import annotations

import os
import pickle
import re
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from mask2former.config import InferenceConfig
from mask2former.errors import UserError
from mask2former.inference.network import ModelNetwork
from mask2former.inference.predictor import Predictor
from mask2former.inference.tta import AugmentedPredictor
from mask2former.models.mask2former import Mask2Former
from mask2former.structures import Categories, Prediction

TASKS = ("panoptic", "instance", "semantic")
PAGE = Path(__file__).parents[3] / "docs" / "extend" / "network.md"


@pytest.fixture
def predictor(tiny_model: Mask2Former) -> Predictor:
    return Predictor(tiny_model, device="cpu")


@pytest.fixture
def image() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (64, 96, 3), dtype=np.uint8)


def test_everything_goes_through_the_network(predictor: Predictor, image: np.ndarray) -> None:
    shapes: list[list[tuple[int, ...]]] = []

    def network(images: Sequence[Tensor]) -> Sequence[Any]:
        assert all(pixels.dtype == torch.uint8 for pixels in images)
        shapes.append([tuple(pixels.shape) for pixels in images])
        return predictor.network(images)

    def seen() -> list[list[tuple[int, ...]]]:
        found = shapes.copy()
        shapes.clear()
        return found

    other = Predictor(network, "cpu", settings=predictor.settings, categories=predictor.categories)
    for task, result in other(image, TASKS).items():
        assert result.to_dict() == predictor(image, task).to_dict()
    assert seen() == [[(3, 64, 96)]]
    assert other.clip([image, image]).to_dict() == predictor.clip([image, image]).to_dict()
    assert seen() == [[(2, 3, 64, 96)]]
    expected = [frame.to_dict() for frame in predictor.track([image, image])]
    assert [frame.to_dict() for frame in other.track([image, image])] == expected
    assert seen() == [[(1, 3, 64, 96)]] * 2
    expected = AugmentedPredictor(predictor)(image, "instance")
    assert AugmentedPredictor(other)(image, "instance").to_dict() == expected.to_dict()
    assert seen() == [[(3, 64, 96)]] * 2
    other.settings = InferenceConfig(tasks=("instance",), tile=48, tile_overlap=16, short_edge=48)
    other(image)
    assert seen() == [[(3, 48, 48)] * 6]


@pytest.mark.slow  # seconds of tracing
def test_an_exported_program_gives_the_results_of_its_model(
    tiny_model: Mask2Former, predictor: Predictor, image: np.ndarray
) -> None:
    class Logits(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = tiny_model

        def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
            output = self.model([pixels], aux_outputs=False)
            return output.class_logits[0], output.mask_logits[0]

    with torch.no_grad():
        program = torch.export.export(Logits(), (torch.zeros((3, 64, 96), dtype=torch.uint8),)).module()

    def network(images: Sequence[Tensor]) -> list[Prediction]:
        logits = [program(pixels) for pixels in images]
        return [Prediction(classes, masks, (64, 96), (64, 96)) for classes, masks in logits]

    other = Predictor(network, "cpu", settings=predictor.settings, categories=predictor.categories)
    np.testing.assert_array_equal(other(image, "semantic").labels, predictor(image, "semantic").labels)
    np.testing.assert_array_equal(other(image, "panoptic").ids, predictor(image, "panoptic").ids)
    found, expected = other(image, "instance"), predictor(image, "instance")
    np.testing.assert_array_equal(found.masks, expected.masks)
    np.testing.assert_allclose(found.scores, expected.scores, rtol=1e-4)


def _alike(count: int = 3, classes: int = 5) -> Prediction:
    return Prediction(torch.zeros(count, classes), torch.zeros(count, 1, 16, 24), (64, 96), (64, 96))


def test_what_a_network_must_not_say_is_refused(predictor: Predictor, image: np.ndarray) -> None:
    def of(*found: Prediction) -> Predictor:
        return Predictor(lambda _: found, "cpu", settings=predictor.settings, categories=predictor.categories)

    assert of(_alike())(image, "semantic").size_hw == (64, 96)
    with pytest.raises(UserError, match="returned 2 predictions for 1 image"):
        of(_alike(), _alike())(image)
    with pytest.raises(UserError, match="returned 4 class logits; expected 5"):
        of(_alike(classes=4))(image)
    with pytest.raises(UserError, match="not finite"):
        of(replace(_alike(), masks=torch.full((3, 1, 16, 24), torch.nan)))(image)
    with pytest.raises(UserError, match="query_features"):
        list(of(_alike()).track([image]))


def test_a_network_needs_categories_and_has_a_dtype_of_its_own() -> None:
    with pytest.raises(UserError, match="pass categories="):
        Predictor(lambda images: [_alike() for _ in images], "cpu")
    with pytest.raises(UserError, match="float16 applies to models of this package; leave it out"):
        Predictor(lambda images: [_alike() for _ in images], "cpu", "float16", categories=Categories.from_names(["a"]))


def test_weights_tell_networks_apart(tiny_model: Mask2Former, predictor: Predictor) -> None:
    names = Categories.from_names(["a"])
    assert Predictor(tiny_model, "cpu").weights_sha256() == predictor.weights_sha256()
    one, two = (Predictor(lambda images: [], "cpu", categories=names) for _ in range(2))
    assert one.weights_sha256() == one.weights_sha256() != two.weights_sha256()  # nothing says that they are the same
    layers = [nn.Linear(2, 2) for _ in range(2)]
    first, second, again = (Predictor(layers[index], "cpu", categories=names) for index in (0, 1, 0))
    assert first.weights_sha256() == again.weights_sha256() != second.weights_sha256()
    assert "dtype" not in one.recorded_settings
    with pytest.raises(UserError, match="not a Mask2Former but a function"):
        _ = one.model


def _changes() -> dict[str, Callable[[Mask2Former], object]]:
    def weight(model: Mask2Former) -> nn.Parameter:
        return model.get_parameter("backbone.body.layer1.0.conv1.weight")

    def norm(model: Mask2Former) -> Tensor:
        return model.get_buffer("backbone.body.bn1.running_var")

    def exchanged(model: Mask2Former) -> None:
        model.get_submodule("backbone.body.layer1.0").conv1 = nn.Conv2d(64, 16, 3, padding=1, bias=False).to(
            model.dtype
        )

    def optimised(model: Mask2Former) -> None:
        parameter = weight(model)
        parameter.grad = torch.ones_like(parameter)
        torch.optim.SGD([parameter], 0.1).step()

    def assigned(model: Mask2Former) -> None:
        weight(model).data = weight(model).data * 2

    return {
        "loaded": lambda model: model.load_state_dict({n: v * 2 for n, v in model.state_dict().items()}),
        "loaded by assignment": lambda model: model.load_state_dict(
            {n: v * 2 for n, v in model.state_dict().items()}, assign=True
        ),
        "in place": lambda model: weight(model).mul_(2),
        "in place, one value": lambda model: weight(model)[3, 2, 1].fill_(9.0),
        "in place, past the count": lambda model: weight(model).data.mul_(2),
        "data assigned": assigned,
        "a buffer": lambda model: norm(model).mul_(2),
        "a buffer, past the count": lambda model: norm(model).data.mul_(2),
        "by numpy": lambda model: weight(model).detach().numpy().__imul__(2),
        "by an optimiser": optimised,
        "a module exchanged": exchanged,
        "a part exchanged": lambda model: setattr(model, "backbone", _doubled(model.backbone)),
        "transposed": lambda model: setattr(weight(model), "data", weight(model).data.transpose(2, 3)),
        "another dtype": lambda model: model.float(),
        "there and back": lambda model: model.bfloat16().double(),
        "training mode": lambda model: model.get_submodule("backbone.body.bn1").train(),
        "another mean": lambda model: setattr(model, "mean", (0.0, 0.0, 0.0)),
        "another module's forward": lambda model: setattr(
            model.backbone, "forward", lambda x: _forward_doubled(model, x)
        ),
        "nothing": lambda model: None,
    }


def _doubled(part: nn.Module) -> nn.Module:
    copied = deepcopy(part)
    copied.load_state_dict({name: value * 2 for name, value in part.state_dict().items()})
    return copied


def _forward_doubled(model: Mask2Former, images: Tensor) -> list[Tensor]:
    return [2 * level for level in type(model.backbone).forward(model.backbone, images)]


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("change", _changes())
def test_predictions_follow_every_change_of_the_model(tiny_model: Mask2Former, change: str, mode: Any) -> None:
    network = ModelNetwork(deepcopy(tiny_model), torch.device("cpu"), torch.float64)
    images = [torch.randint(0, 256, (3, 64, 64), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)] * 2

    def results(model: Mask2Former) -> list[Tensor]:
        output = model(images, aux_outputs=False)
        return [*model.backbone(model.normalize(images).flatten(0, 1)), output.class_logits, output.mask_logits]

    with torch.no_grad():
        before = results(network.prepared())
        with torch.enable_grad() if change == "by an optimiser" else mode():
            _changes()[change](network.model)
        got, expected = results(network.prepared()), results(network.model)
        tolerance = 1e-3 if network.dtype == torch.float32 else 1e-9
        for one, other in zip(got, expected, strict=True):
            torch.testing.assert_close(one, other, rtol=tolerance, atol=tolerance)
        if change not in {"nothing", "another dtype"}:
            assert not torch.allclose(got[3].double(), before[3], rtol=1e-6, atol=1e-6)
    assert network.prepared() is network.model  # where there are gradients


def test_a_model_is_prepared_once_and_shares_what_it_does_not_fold(tiny_model: Mask2Former) -> None:
    network = ModelNetwork(deepcopy(tiny_model), torch.device("cpu"))
    plain = network.weights_sha256()
    with torch.inference_mode():
        prepared = network.prepared()
        network([torch.zeros(3, 32, 32, dtype=torch.uint8)])
        assert network.prepared() is prepared is not network.model
    assert prepared.backbone is not network.model.backbone
    assert {id(p) for p in prepared.parameters()} == {id(p) for p in network.model.parameters()}
    assert network.weights_sha256() == plain
    copied = deepcopy(network)
    with torch.no_grad():
        copied.model.backbone.get_parameter("body.conv1.0.weight").mul_(2)
        [one], [other] = ([*each([torch.zeros(3, 32, 32, dtype=torch.uint8)])] for each in (copied, network))
        assert isinstance(one, Prediction)
        assert isinstance(other, Prediction)
        assert not torch.equal(one.class_logits, other.class_logits)


@pytest.fixture
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


_FORKS = """
import multiprocessing, sys, warnings
import torch
from mask2former import Predictor

torch.set_num_threads(2)
predictor = Predictor.from_pretrained("scenes-tiny")
image = torch.rand(3, 1000, 1000, generator=torch.Generator().manual_seed(0))
predictor(image)  # starts the threads
operations = {
    "call": lambda: predictor(image),
    "stream": lambda: next(predictor.stream([image])),
    "hash": predictor.weights_sha256,
}

def run(first):
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        operations[first]()
    [message] = [str(warning.message) for warning in found if warning.category is RuntimeWarning]
    assert "forked from" in message and "that loaded the model" in message and "'spawn'" in message, message
    assert torch.get_num_threads() == 1
    warnings.simplefilter("error")
    predictor(image)

for first in operations:
    process = multiprocessing.get_context("fork").Process(target=run, args=(first,))
    process.start()
    process.join(60)
    if process.is_alive():
        process.kill()
        sys.exit(f"{first} waits")
    if process.exitcode:
        sys.exit(f"{first} failed")
"""


@pytest.mark.long
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_process_predicts_with_one_thread() -> None:
    """Threads of PyTorch do not survive a fork: each of these operations waited for them forever.

    The processes are forked from one that has no other threads, such as those of this test run.
    """
    environment = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    done = subprocess.run([sys.executable, "-c", _FORKS], env=environment, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr


def test_a_network_of_another_process_uses_one_thread_and_says_so(tiny_model: Mask2Former, two_threads: None) -> None:
    network = ModelNetwork(tiny_model, torch.device("cpu"))
    network.check_process()
    assert torch.get_num_threads() == 2
    network._process += 1  # pyright: ignore[reportPrivateUsage]  (as after a fork)
    with pytest.warns(RuntimeWarning, match=r"forked from .* that loaded the model, .*'spawn'"):
        network([torch.zeros(3, 32, 32, dtype=torch.uint8)])
    assert torch.get_num_threads() == 1
    network.check_process()  # warnings are errors here


def test_a_pickle_of_a_network_belongs_to_the_process_that_reads_it(tiny_model: Mask2Former, two_threads: None) -> None:
    network = ModelNetwork(tiny_model, torch.device("cpu"))
    network._process += 1  # pyright: ignore[reportPrivateUsage]  (as after a fork)
    pickle.loads(pickle.dumps(network)).check_process()
    assert torch.get_num_threads() == 2


def test_the_python_of_the_page_runs() -> None:
    names: dict[str, object] = {}
    for block in re.findall(r"^```python\n(.*?)^```", PAGE.read_text("utf-8"), flags=re.DOTALL | re.MULTILINE):
        exec(compile(block, str(PAGE), "exec"), names)
    assert len(names["result"].segments) == 3  # pyright: ignore[reportAttributeAccessIssue]
