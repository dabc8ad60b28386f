from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from mask2former import checkpoints, postprocessing
from mask2former.config import InferenceConfig
from mask2former.data.transforms import resize_image, shortest_edge_size
from mask2former.errors import UserError
from mask2former.inference.devices import choose_device, choose_dtype
from mask2former.inference.predictor import Predictor
from mask2former.inference.settings import override
from mask2former.inference.tta import AugmentedPredictor, MultiScaleFlip
from mask2former.models.mask2former import Mask2Former
from mask2former.structures import Instances, PanopticSegmentation, Prediction, Segmentation, SemanticSegmentation

TASKS = ("panoptic", "instance", "semantic")


@pytest.fixture
def image() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (50, 84, 3), dtype=np.uint8)


@pytest.fixture
def predictor(tiny_model: Mask2Former) -> Predictor:
    return Predictor(tiny_model, device="cpu")


def _same(one: Any, other: Any) -> bool:
    return one.to_dict() == other.to_dict()


@pytest.mark.parametrize(
    ("task", "kind"),
    [("panoptic", PanopticSegmentation), ("instance", Instances), ("semantic", SemanticSegmentation)],
)
def test_each_task_predicts_at_the_size_of_the_image(
    predictor: Predictor, image: np.ndarray, task: str, kind: type
) -> None:
    result: Any = predictor(image, task)  # pyright: ignore[reportArgumentType, reportCallIssue]
    assert isinstance(result, kind)
    assert result.size_hw == (50, 84)
    assert result.categories.names == ("cat", "dog", "sky", "sea")


def test_every_kind_of_source_gives_the_same_result(predictor: Predictor, image: np.ndarray, tmp_path: Path) -> None:
    Image.fromarray(image).save(tmp_path / "x.png")
    expected = predictor(image)
    tensor = torch.from_numpy(image).permute(2, 0, 1)
    for source in (tmp_path / "x.png", str(tmp_path / "x.png"), Image.fromarray(image), tensor, tensor.float()):
        assert _same(predictor(source), expected), type(source)


def test_a_stream_refuses_one_image(predictor: Predictor, image: np.ndarray) -> None:
    for source in ("x.png", Path("x.png"), image, torch.from_numpy(image), Image.fromarray(image)):
        with pytest.raises(UserError, match=f"got one {type(source).__name__}; pass a list"):
            predictor.stream(source)  # pyright: ignore[reportArgumentType]


def test_a_list_gives_a_list_and_a_stream_the_same_a_few_ahead(predictor: Predictor, image: np.ndarray) -> None:
    other = np.ascontiguousarray(image[:40, ::-1])
    expected = [predictor(image), predictor(other)]
    listed = predictor([image, Image.fromarray(other)])
    assert all(map(_same, listed, expected))
    assert predictor([]) == []

    taken = []

    def sources() -> Any:
        for source in (image, other, image, other, image, other, image, other, image):
            taken.append(source)
            yield source

    stream = predictor.stream(sources())
    assert taken == []
    assert _same(next(stream), expected[0])
    assert len(taken) <= 6
    stream.close()  # pyright: ignore[reportAttributeAccessIssue]  (a generator)


@pytest.mark.parametrize("batch_size", [1, 3])
def test_a_source_may_use_its_buffer_again(predictor: Predictor, image: np.ndarray, batch_size: int) -> None:
    frames = [image, image[::-1].copy(), image[:, ::-1].copy(), image]

    def camera() -> Iterator[np.ndarray]:
        buffer = np.empty_like(image)
        for frame in frames:
            buffer[:] = frame
            yield buffer

    found = list(predictor.stream(camera(), "instance", batch_size=batch_size))
    for result, frame in zip(found, frames, strict=True):
        assert _alike(result, predictor(frame, "instance"))


def test_a_network_may_use_its_buffers_again(predictor: Predictor) -> None:
    logits = torch.zeros(3, len(predictor.categories) + 1)
    logits[:, 0] = 5
    masks = torch.empty(3, 1, 16, 24)

    def network(images: Sequence[torch.Tensor]) -> list[Prediction]:
        masks.fill_(1.0 if images[0].float().mean() > 100 else -1.0)
        return [Prediction(logits, masks, (64, 96), (64, 96))]

    settings = InferenceConfig(tasks=("instance",), short_edge=0)
    other = Predictor(network, "cpu", settings=settings, categories=predictor.categories)
    images = [np.full((64, 96, 3), 255 * (index % 2), np.uint8) for index in range(20)]
    full = [bool(result.masks.any()) for result in other.stream(images, "instance", instance_threshold=0.0)]
    assert full == [bool(index % 2) for index in range(20)]


def _alike(one: Any, other: Any) -> bool:
    """Whether two results agree within rounding, which may change one in a hundred pixels of such undecided masks."""
    assert one.task == other.task
    if one.task == "semantic":
        return (one.labels == other.labels).mean() > 0.99
    return np.allclose(one.scores, other.scores, atol=1e-4) and (one.masks == other.masks).mean() > 0.99


@pytest.mark.parametrize("batch_size", [2, 3])
def test_a_batch_changes_nothing_whoever_else_is_in_it(
    predictor: Predictor, monkeypatch: pytest.MonkeyPatch, batch_size: int
) -> None:
    random = np.random.default_rng(1)
    # Resized to 64x64, 64x68, 64x92, 64x94 and 94x64: the middle two are padded alike.
    sizes = [(40, 40), (40, 57), (60, 64), (40, 59), (59, 40), (80, 80), (64, 92), (59, 40), (80, 115)]
    images = [random.integers(0, 256, (*size, 3), dtype=np.uint8) for size in sizes]
    alone = [predictor(image, TASKS) for image in images]
    seen: list[list[tuple[int, ...]]] = []
    real = predictor.network

    def network(shown: Any) -> Any:
        seen.append([tuple(image.shape[-2:]) for image in shown])
        return real(shown)

    network.size_divisibility = 32  # type: ignore[attr-defined]
    monkeypatch.setattr(predictor, "network", network)
    found = list(predictor.stream(images, TASKS, batch_size=batch_size))
    assert [result["semantic"].size_hw for result in found] == sizes
    assert all(_alike(one[task], two[task]) for one, two in zip(found, alone, strict=True) for task in TASKS)
    assert max(map(len, seen)) == batch_size
    assert all(len({tuple(-(-side // 32) for side in size) for size in batch}) == 1 for batch in seen)
    # A network that does not say how it pads gets only images of one size together.
    seen.clear()
    del network.size_divisibility  # type: ignore[attr-defined]
    list(predictor.stream(images, batch_size=batch_size))
    assert all(len(set(batch)) == 1 for batch in seen)
    assert max(map(len, seen)) > 1


def test_an_image_fails_after_the_results_before_it(predictor: Predictor, image: np.ndarray, tmp_path: Path) -> None:
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    stream = predictor.stream([image, image, tmp_path / "broken.png", image], batch_size=2)
    assert _alike(next(stream), predictor(image))
    next(stream)
    with pytest.raises(UserError, match=r"broken\.png"):
        next(stream)
    with pytest.raises(UserError, match="batch_size must be at least 1, got 0"):
        predictor.stream([image], batch_size=0)


def test_several_tasks_come_from_one_pass(predictor: Predictor, image: np.ndarray) -> None:
    calls = []
    handle = predictor.model.register_forward_pre_hook(lambda *_: calls.append(1))
    predictions = predictor(image, ["panoptic", "instance", "semantic"])
    handle.remove()
    assert len(calls) == 1
    assert list(predictions) == ["panoptic", "instance", "semantic"]
    for task, result in predictions.items():
        assert _same(result, predictor(image, task))


@pytest.mark.parametrize("short_edge", [64, 40, 0])
def test_equals_the_parts_composed_by_hand(
    tiny_model: Mask2Former, predictor: Predictor, image: np.ndarray, short_edge: int
) -> None:
    resized = resize_image(image, shortest_edge_size(image.shape[:2], short_edge, 96))
    with torch.inference_mode():
        output = tiny_model.prepare_for_inference()(
            [torch.from_numpy(resized).permute(2, 0, 1).float()], aux_outputs=False
        )
    [prediction] = output.predictions([resized.shape[:2]])
    categories = tiny_model.categories
    assert categories is not None
    predictions = predictor(
        image, TASKS, short_edge=short_edge, score_threshold=0.1, overlap_threshold=0.3, instance_threshold=0
    )
    settings = InferenceConfig(score_threshold=0.1, overlap_threshold=0.3, instance_threshold=0)
    for task in TASKS:
        assert _same(predictions[task], getattr(postprocessing, task)(prediction, (50, 84), categories, settings))


WAYS: dict[str, Callable[..., Any]] = {
    "call": lambda predictor, image, **settings: predictor(image, "instance", **settings),
    "stream": lambda predictor, image, **settings: list(predictor.stream([image], "instance", **settings)),
    "clip": lambda predictor, image, **settings: predictor.clip([image], **settings),
    "track": lambda predictor, image, **settings: list(predictor.track([image], **settings)),
    "tiles": lambda predictor, image, **settings: predictor(image, "instance", tile=84, **settings),
    "views": lambda predictor, image, **settings: AugmentedPredictor(predictor, MultiScaleFlip((20,), flip=False))(
        image, "instance", **settings
    ),
}


@pytest.mark.parametrize("way", WAYS)
def test_images_are_resized_as_the_settings_say_and_the_official_way_on_request(
    tiny_model: Mask2Former, image: np.ndarray, way: str
) -> None:
    """However an image reaches the network, it is resized as the settings say, or the official way on request."""
    settings = InferenceConfig(tasks=("instance",), short_edge=32, resampling="bilinear", instance_threshold=0)
    predictor = Predictor(tiny_model, device="cpu", settings=settings)
    network, seen = predictor.network, []

    def recording(images: Sequence[torch.Tensor]) -> Sequence[Any]:
        seen.append(images[0][0] if images[0].dim() == 4 else images[0])
        return network(images)

    predictor.network = recording
    expected = {}
    for resampling in ("antialiased", "bilinear"):
        resized = resize_image(image, (19, 32) if way == "tiles" else (32, 54), resampling)
        expected[resampling] = resize_image(resized, (20, 34), resampling) if way == "views" else resized
    assert (expected["antialiased"] != expected["bilinear"]).mean() > 0.9
    for official in (False, True):
        WAYS[way](predictor, image, official_settings=official)
        shown = seen[-1].permute(1, 2, 0).numpy()
        np.testing.assert_array_equal(shown, expected["antialiased" if official else "bilinear"])
    assert predictor.settings == settings


def test_settings_can_be_replaced_for_a_call_and_are_checked(predictor: Predictor, image: np.ndarray) -> None:
    few = predictor(image, "instance", max_instances=3, things_only=False)
    assert len(few) == 3
    assert len(predictor(image, "panoptic", score_threshold=1.0)) == 0
    assert predictor.settings.score_threshold == 0.0
    for name, value in {"score_threshold": 2.0, "scores": 0.5, "short_edge": -1, "tasks": ("panoptic",)}.items():
        wrong: Any = {name: value}
        with pytest.raises(UserError, match=name):
            predictor(image, "panoptic", **wrong)


@pytest.mark.parametrize("tasks", [("panoptic", "instance", "semantic"), ("instance",)])
@pytest.mark.parametrize("tile", [0, 48])
@pytest.mark.parametrize("non_overlapping", [False, True])
def test_instances_are_those_at_or_above_the_threshold(
    tiny_model: Mask2Former, image: np.ndarray, tasks: Any, tile: int, non_overlapping: bool
) -> None:
    if tile and tasks != ("instance",):
        tasks = ("instance",)
    settings = InferenceConfig(
        tasks=tasks, short_edge=64, tile=tile, tile_overlap=16, non_overlapping=non_overlapping, overlap_threshold=0.3
    )
    predictor = Predictor(tiny_model, device="cpu", settings=settings)
    everything = predictor(image, "instance", instance_threshold=0)
    threshold = float(everything.scores[len(everything) // 2])
    for name in ("score_threshold", "instance_threshold"):
        found = predictor(image, "instance", **{name: threshold})
        assert _same(found, everything.at_least(threshold))
        assert non_overlapping or 0 < len(found) < len(everything)
    assert len(predictor(image, "instance")) == (everything.scores >= 0.5).sum()
    shown = found.plot(image, labels=False)
    assert np.array_equal(np.asarray(shown), np.asarray(everything.plot(image, labels=False, threshold=threshold)))


def test_tracks_of_a_clip_are_those_at_or_above_the_threshold(predictor: Predictor, image: np.ndarray) -> None:
    everything = predictor.clip([image, image], instance_threshold=0)
    threshold = float(everything.scores[len(everything) // 2])
    found = predictor.clip([image, image], score_threshold=threshold)
    assert found.to_dict() == everything.at_least(threshold).to_dict()
    assert 0 < len(found) < len(everything)
    assert len(next(predictor.track([image], score_threshold=1.0))) == 0
    assert len(next(predictor.track([image], score_threshold=1.0, threshold=0.0))) > 0


def test_the_number_of_things_that_was_requested_comes(predictor: Predictor, image: np.ndarray) -> None:
    """Stuff, which has the best scores here, does not reduce the number of things, unless things_first is false."""
    everything = predictor(image, "instance", max_instances=40)
    assert len(predictor(image, "instance", max_instances=1, things_first=False)) == 0
    one = predictor(image, "instance", max_instances=1)
    assert len(one) == 1
    assert predictor.categories[one.labels[0]].is_thing
    assert one.scores[0] == pytest.approx(everything.scores[0], abs=1e-6)
    assert len(predictor.clip([image], max_instances=2)) == 2


def test_a_model_predicts_only_what_it_was_trained_for(tiny_model: Mask2Former, image: np.ndarray) -> None:
    predictor = Predictor(tiny_model, device="cpu", settings=InferenceConfig(tasks=("semantic",), short_edge=0))
    assert isinstance(predictor(image), SemanticSegmentation)
    with pytest.raises(UserError, match="does not support the task 'panoptic'; it was trained for: semantic"):
        predictor(image, "panoptic")
    with pytest.raises(UserError, match="unknown task 'depth'"):
        predictor.stream([image], "depth")  # pyright: ignore[reportArgumentType]


def test_a_model_without_class_names_is_refused(tiny_model: Mask2Former) -> None:
    nameless = deepcopy(tiny_model)
    nameless.categories = None
    with pytest.raises(UserError, match="categories"):
        Predictor(nameless)


def test_from_pretrained_keeps_the_stored_settings_but_for_the_replaced(
    tiny_model: Mask2Former, image: np.ndarray, tmp_path: Path
) -> None:
    checkpoints.save(tiny_model, tmp_path / "m.safetensors")
    loaded = Predictor.from_pretrained(tmp_path / "m.safetensors", device="cpu", score_threshold=0.25)
    assert loaded.settings == Predictor(tiny_model, "cpu").settings.model_copy(
        update={"score_threshold": 0.25, "instance_threshold": 0.25}
    )
    kernels_alike: Any = deepcopy(tiny_model).to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    assert _same(loaded(image, score_threshold=0.0), Predictor(kernels_alike, "cpu")(image))
    with pytest.raises(UserError, match="short_edges"):
        Predictor.from_pretrained(tmp_path / "missing.safetensors", short_edges=3)


def test_a_model_of_drawn_scenes_says_so(tiny_model: Mask2Former, tmp_path: Path, caplog: Any) -> None:
    Predictor.from_pretrained("scenes-tiny", device="cpu", quiet=True)
    assert caplog.messages == []
    Predictor.from_pretrained("scenes-tiny", device="cpu")
    assert [message.partition(":")[0] for message in caplog.messages] == [
        "scenes-tiny was trained on drawn scenes only"
    ]
    caplog.clear()
    checkpoints.save(tiny_model, tmp_path / "m.safetensors")
    Predictor.from_pretrained(tmp_path / "m.safetensors", device="cpu")
    assert caplog.messages == []


def test_kernels_lie_as_processors_like_them_and_are_saved_as_they_were(
    tiny_model: Mask2Former, tmp_path: Path
) -> None:
    tiny_model.save_pretrained(tmp_path / "one.safetensors")
    predictor = Predictor.from_pretrained(tmp_path / "one.safetensors", device="cpu")
    kernels = [value for value in predictor.model.parameters() if value.ndim == 4 and min(value.shape[1:]) > 1]
    assert kernels
    assert all(kernel.is_contiguous(memory_format=torch.channels_last) for kernel in kernels)
    predictor.model.save_pretrained(tmp_path / "two.safetensors")
    again = checkpoints.open_checkpoint(tmp_path / "two.safetensors").state
    for name, value in checkpoints.open_checkpoint(tmp_path / "one.safetensors").state.items():
        assert torch.equal(again[name], value)
        assert again[name].is_contiguous()


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", torch.float64])
def test_other_precisions_are_close(
    tiny_model: Mask2Former, predictor: Predictor, image: np.ndarray, dtype: str | torch.dtype
) -> None:
    other = Predictor(deepcopy(tiny_model), "cpu", dtype)
    assert {value.dtype for value in other.model.parameters()} == {choose_dtype(dtype)}
    one, two = predictor(image, "semantic").labels, other(image, "semantic").labels
    assert (one == two).mean() > 0.8  # random weights are nearly undecided between classes
    assert other(image, TASKS).keys() == set(TASKS)


def test_images_too_large_for_the_device_are_finished_on_the_cpu(
    predictor: Predictor, image: np.ndarray, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    expected, attempts, real = predictor(image, "panoptic"), [], postprocessing.segmentation

    def segmentation(prediction: Prediction, *args: Any) -> Segmentation:
        attempts.append(prediction)
        if len(attempts) < 3:
            raise torch.OutOfMemoryError("too large")
        return real(prediction, *args)

    monkeypatch.setattr(postprocessing, "segmentation", segmentation)
    assert _same(predictor(image, "panoptic"), expected)
    assert len(attempts) == 3
    assert "on the CPU" in caplog.text


@pytest.mark.parametrize("device", ["cuda:99", "gpu", "meta", "cpu:x"])
def test_devices_that_are_not_here_are_refused(device: str) -> None:
    with pytest.raises(UserError, match=device):
        choose_device(device)


def test_the_default_device_exists() -> None:
    assert choose_device().type == choose_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")
    assert choose_dtype() is None
    for wrong in ("int8", "double", torch.int32):
        with pytest.raises(UserError, match="unknown dtype"):
            choose_dtype(wrong)


@pytest.mark.gpu
def test_the_accelerator_agrees_with_the_cpu(tiny_model: Mask2Former, image: np.ndarray) -> None:
    here, there = Predictor(deepcopy(tiny_model), "cpu"), Predictor(deepcopy(tiny_model), "cuda")
    assert there.model.device.type == "cuda"
    assert (here(image, "semantic").labels == there(image, "semantic").labels).mean() > 0.99


# --- logits that are not finite --------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("name", ["transformer_decoder.class_head.bias", "pixel_decoder.mask_projection.bias"])
def test_logits_that_are_not_finite_give_no_result(
    tiny_model: Mask2Former, image: np.ndarray, name: str, value: float
) -> None:
    model = deepcopy(tiny_model)
    with torch.no_grad():
        model.get_parameter(name)[0] = value
    predictor = Predictor(model, device="cpu")
    kind = "class" if "class" in name else "(class|mask)"
    expected = rf"the model returned {kind} logits that are not finite \(in float32\); the weights are damaged"
    for task in TASKS:
        with pytest.raises(UserError, match=expected):
            predictor(image, task)  # pyright: ignore[reportCallIssue, reportArgumentType]
    with pytest.raises(UserError, match="not finite"):
        predictor.clip([image, image])
    with pytest.raises(UserError, match="not finite"):
        list(predictor.track([image, image]))


def test_a_file_is_named_where_its_logits_are_not_finite(
    tiny_model: Mask2Former, image: np.ndarray, tmp_path: Path
) -> None:
    model = deepcopy(tiny_model)
    with torch.no_grad():
        model.get_parameter("transformer_decoder.class_head.bias")[0] = float("nan")
    Image.fromarray(image).save(tmp_path / "x.png")
    with pytest.raises(UserError, match=r"x\.png': the model returned class logits that are not finite"):
        Predictor(model, device="cpu")(tmp_path / "x.png")


def test_tiles_give_no_result_either(tiny_model: Mask2Former, image: np.ndarray) -> None:
    model = deepcopy(tiny_model)
    with torch.no_grad():
        model.get_parameter("transformer_decoder.class_head.bias")[0] = float("nan")
    predictor = Predictor(model, device="cpu", settings=InferenceConfig(tasks=("instance",), tile=32, tile_overlap=8))
    with pytest.raises(UserError, match="not finite"):
        predictor(image)


def test_what_half_precision_cannot_hold_names_it(tiny_model: Mask2Former, image: np.ndarray) -> None:
    model = deepcopy(tiny_model)
    with torch.no_grad():  # fine in float32 and bfloat16; its products are beyond the 65504 of float16
        model.get_parameter("transformer_decoder.mask_head.2.weight").mul_(1e9)
    assert Predictor(deepcopy(model), device="cpu", dtype="bfloat16")(image) is not None
    with pytest.raises(UserError, match=r"\(in float16\); values exceeded the range of float16: use bfloat16 or"):
        Predictor(model, device="cpu", dtype="float16")(image)


@pytest.mark.parametrize(
    ("given", "chosen"),
    [
        (np.float32, torch.float32),
        (np.dtype("float16"), torch.float16),
        (np.float64, None),
        (torch.float64, torch.float64),
        (np.uint8, None),
        (torch.float8_e4m3fn, None),
        (torch.int8, None),
        (float, None),
        (3, None),
    ],
    ids=str,
)
def test_types_of_other_libraries(given: Any, chosen: torch.dtype | None) -> None:
    if chosen is not None:
        assert choose_dtype(given) is chosen
        return
    with pytest.raises(UserError, match=r"unknown dtype .*; expected float32, bfloat16, float16"):
        choose_dtype(given)


def test_an_overlap_of_tiles_needs_tiles() -> None:
    whole, tiled = InferenceConfig(), InferenceConfig(tile=64, tile_overlap=8)
    with pytest.raises(UserError, match="set tile, too"):
        override(whole, {"tile_overlap": 8})
    assert override(whole, {"tile_overlap": 8, "tile": 32}).tile_overlap == 8
    assert override(tiled, {"tile_overlap": 30}).tile_overlap == 30
    with pytest.raises(UserError, match="set tile, too"):
        Predictor.from_pretrained("scenes-tiny", device="cpu", quiet=True, tile_overlap=8)
    assert Predictor.from_pretrained("nuclei", device="cpu", quiet=True, tile_overlap=40).settings.tile_overlap == 40
