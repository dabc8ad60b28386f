"""Training from another model: what is kept, what is resized, and what is newly initialised and named."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from mask2former import checkpoints
from mask2former.checkpoints import Checkpoint
from mask2former.checkpoints.transfer import (
    check_settings,
    computed_otherwise,
    filled_in,
    resized_bias_table,
    takes_class_head,
    with_own_windows,
    with_settings_of,
)
from mask2former.config import InferenceConfig, MaskedDecoderConfig, ModelConfig
from mask2former.errors import UserError
from mask2former.models.build import build_model
from mask2former.models.mask2former import Mask2Former
from mask2former.structures import Categories, ModelInfo

CLASS_HEAD = ("transformer_decoder.class_head.weight", "transformer_decoder.class_head.bias")
QUERIES = ("transformer_decoder.query_features.weight", "transformer_decoder.query_positions.weight")


def another(model: Mask2Former, names: list[str], seed: int = 1, **changes: dict[str, Any]) -> Mask2Former:
    """A freshly initialised model with the settings of ``model``, some of them changed."""
    values = {**model.info.known_architecture.model_dump(), "inference": model.info.inference.model_dump()}
    for part, settings in changes.items():
        values[part] |= settings
    torch.manual_seed(seed)
    made = build_model(ModelConfig.model_validate(values), len(names))
    made.categories = Categories.from_names(names)
    return made


def read(model: Mask2Former) -> Checkpoint:
    """The model as a checkpoint, as read from a file."""
    return Checkpoint(model.info, model.state_dict(), "source")


def names_of(model: Mask2Former) -> list[str]:
    assert model.categories is not None
    return list(model.categories.names)


def changed(model: Mask2Former, source: Mask2Former) -> set[str]:
    """Entries whose values are not those of ``source``."""
    state, other = model.state_dict(), source.state_dict()
    return {name for name in state if not torch.equal(state[name], other[name])}


def test_all_of_it_where_all_fits(tiny_model: Mask2Former) -> None:
    tiny_model.info = replace(tiny_model.info, license="CC BY-NC 4.0")
    for partial in (False, True):
        model = another(tiny_model, names_of(tiny_model))
        assert checkpoints.start_from(model, read(tiny_model), "source", partial=partial) == []
        assert changed(model, tiny_model) == set()
        assert model.info.license == "CC BY-NC 4.0"


def test_other_classes_are_newly_initialised_also_if_they_are_as_many(tiny_model: Mask2Former) -> None:
    for names in (["tree", "bee", "fox"], ["cat", "dog"]):
        model = another(tiny_model, names)
        fresh = {name: model.state_dict()[name].clone() for name in CLASS_HEAD}
        notes = checkpoints.start_from(model, read(tiny_model), "source", partial=True)
        assert notes == [f"class head newly initialised (3 classes in the model, {len(names)} in the training data)"]
        assert all(torch.equal(value, model.state_dict()[name]) for name, value in fresh.items())
        if len(names) == 3:
            assert changed(model, tiny_model) == set(CLASS_HEAD)


@pytest.mark.parametrize("partial", [False, True])
def test_classes_by_name_keep_their_rows_and_others_are_new(tiny_model: Mask2Former, partial: bool) -> None:
    """Rows of classes that the source (sky, cat, dog) has are copied by name; the others are new. A note says so."""
    model = another(tiny_model, ["dog", "tree", "sky", "bee"])
    fresh = {name: model.state_dict()[name].clone() for name in CLASS_HEAD}
    assert checkpoints.start_from(model, read(tiny_model), "source", partial=partial, by_name=True) == [
        "2 of 4 classes keep what they have learned: dog, sky; new: tree, bee; gone: cat"
    ]
    for name in CLASS_HEAD:
        now, before, theirs = model.state_dict()[name], fresh[name], tiny_model.state_dict()[name]
        expected = (theirs[2], before[1], theirs[0], before[3], theirs[3])  # "no object" is last
        assert all(torch.equal(row, wanted) for row, wanted in zip(now, expected, strict=True))
    assert all(torch.equal(model.state_dict()[name], tiny_model.state_dict()[name]) for name in QUERIES)


def test_classes_by_name_where_none_is_known_and_where_all_are(tiny_model: Mask2Former) -> None:
    theirs, none = Categories.from_names(names_of(tiny_model)), Categories.from_names(["cap", "sack", "dock"])
    model = another(tiny_model, list(none.names))
    fresh = {name: model.state_dict()[name].clone() for name in CLASS_HEAD}
    (said,) = checkpoints.start_from(model, read(tiny_model), "source", partial=False, by_name=True)
    assert said == "none of its 3 classes matches by name: class head newly initialised"
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in fresh.items())
    assert not takes_class_head(none, theirs, partial=False, by_name=True)
    assert takes_class_head(Categories.from_names(["dog"]), theirs, partial=False, by_name=True)


def test_on_no_request_nothing_is_left_out(tiny_model: Mask2Former) -> None:
    for names in (["cat"], ["cat", "sky", "bee"]):  # another number; another meaning at the same index
        with pytest.raises(UserError, match=r"source: its classes are not those .* \(3: sky, cat, dog there, .* here"):
            checkpoints.start_from(another(tiny_model, names), read(tiny_model), "source", partial=False)
    model = another(tiny_model, ["sky", "bee", "fox"])
    notes = checkpoints.start_from(model, read(tiny_model), "source", partial=False)  # as many classes: taken by index
    assert notes == ["classes by position: 'cat' is 'bee', 'dog' is 'fox' here"]
    assert changed(model, tiny_model) == set()


@pytest.mark.parametrize("partial", [False, True])
def test_classes_in_another_order_keep_their_meaning(tiny_model: Mask2Former, partial: bool) -> None:
    assert names_of(tiny_model) == ["sky", "cat", "dog"]
    model = another(tiny_model, ["dog", "sky", "cat"])
    notes = checkpoints.start_from(model, read(tiny_model), "source", partial=partial)
    assert notes == ["classes reordered as in the training data"]
    for name in CLASS_HEAD:
        assert torch.equal(model.state_dict()[name], tiny_model.state_dict()[name][[2, 0, 1, 3]])


@pytest.mark.parametrize("partial", [False, True])
def test_one_class_is_one_class_whatever_its_name(tiny_model: Mask2Former, partial: bool) -> None:
    source, model = another(tiny_model, ["nucleus"], seed=2), another(tiny_model, ["cell"])
    notes = checkpoints.start_from(model, read(source), "source", partial=partial)
    assert notes == ["its only class, 'nucleus', becomes 'cell'"]
    assert changed(model, source) == set()


# --- settings --------------------------------------------------------------------------------------------------------

SOURCE = ModelInfo.of(
    ModelConfig.model_validate(
        {
            "backbone": {
                "name": "timm",
                "model": "resnet10t",
                "norm": "batch",
                "kwargs": {"channels": [8, 8, 8, 8]},
            },
            "pixel_decoder": {"dim": 64, "num_heads": 4},
            "transformer_decoder": {"dim": 64, "num_queries": 30, "num_heads": 4},
            "inference": {
                "tasks": ["instance"],
                "tile": 128,
                "short_edge": 256,
                "diameter": 48.0,
                "score_threshold": 0.85,
            },
        }
    )
)


def test_what_is_not_set_comes_from_the_start() -> None:
    bare = with_settings_of(ModelConfig(init="cells"), SOURCE, "cells")
    assert ModelInfo.of(bare) == SOURCE
    model = ModelConfig.model_validate(
        {"init": "cells", "transformer_decoder": {"num_queries": 50}, "inference": {"score_threshold": 0.5}}
    )
    fitted = with_settings_of(model, SOURCE, "cells")
    assert isinstance(fitted.transformer_decoder, MaskedDecoderConfig)
    assert (fitted.transformer_decoder.num_queries, fitted.transformer_decoder.dim) == (50, 64)
    assert (fitted.inference.instance_threshold, fitted.inference.tile) == (0.5, 128)


def test_the_normalisation_comes_from_the_start() -> None:
    own = {"pixel_mean": (127.0, 127.0, 127.0), "pixel_std": (128.0, 128.0, 128.0)}
    source = replace(SOURCE, architecture=SOURCE.known_architecture.model_copy(update=own))
    fitted = with_settings_of(ModelConfig(init="cells"), source, "cells")
    assert fitted.own_normalisation == own
    assert filled_in({}, source)["pixel_mean"] == own["pixel_mean"]


@pytest.mark.parametrize(
    ("own", "expected"),
    [
        ({"tile": 0}, {"tile": 0, "diameter": 0.0, "short_edge": 256}),
        ({"tasks": ["semantic"]}, {"tile": 0, "diameter": 0.0, "short_edge": 256, "instance_threshold": 0.5}),
        ({"tasks": ["instance"], "score_threshold": 0.5}, {"tile": 128, "instance_threshold": 0.5}),
        ({"tasks": ["instance"], "instance_threshold": 0.4}, {"tile": 128, "instance_threshold": 0.4}),
    ],
)
def test_tiles_are_taken_over_for_the_same_task_alone(own: dict[str, Any], expected: dict[str, Any]) -> None:
    inference = with_settings_of(ModelConfig.model_validate({"inference": own}), SOURCE, "cells").inference
    assert {name: getattr(inference, name) for name in expected} == expected


def test_images_are_resized_as_the_run_says_and_not_as_the_start_was_trained() -> None:
    info = ModelInfo.of(ModelConfig(inference=InferenceConfig(resampling="bilinear", short_edge=256)))
    fitted = with_settings_of(ModelConfig(init="theirs"), info, "theirs").inference
    assert (fitted.resampling, fitted.short_edge) == ("antialiased", 256)
    own = ModelConfig(init="theirs", inference=InferenceConfig(resampling="bilinear"))
    assert with_settings_of(own, info, "theirs").inference.resampling == "bilinear"


def test_settings_that_make_sense_only_with_the_others() -> None:
    with pytest.raises(ValueError, match="set tile and short_edge too"):
        ModelConfig.model_validate({"inference": {"diameter": 20.0}})
    fitted = ModelConfig.model_validate(filled_in({"init": "cells", "inference": {"diameter": 20.0}}, SOURCE))
    assert fitted.inference == SOURCE.inference.model_copy(update={"diameter": 20.0})
    assert fitted.architecture == SOURCE.architecture
    with pytest.raises(ValueError, match="inference"):  # what is no group of settings stays, and is refused
        ModelConfig.model_validate(filled_in({"inference": 3}, SOURCE))


@pytest.mark.parametrize(
    ("own", "words", "fits_partly"),
    [
        ({"backbone": {"name": "swin"}}, "model.backbone.name is swin in the run but timm in the weights", False),
        ({"backbone": {"name": "timm", "model": "resnet18"}}, "model.backbone.model is resnet18", False),
        ({"transformer_decoder": {"num_queries": 100}}, "num_queries is 100 in the run but 30 in the weights", True),
        (
            {"transformer_decoder": {"num_heads": 8}},
            "transformer_decoder.num_heads is 8",
            False,
        ),  # would load, with wrong results
        ({"pixel_decoder": {"num_layers": 2}}, "model.pixel_decoder.num_layers is 2", False),
        (
            {"pixel_std": [255, 255, 255]},
            r"model.pixel_std is \[255.0, 255.0, 255.0\] in the run but \[58.395, 57.12, 57.375\] in the weights",
            False,
        ),
        # Would be reported as entries that are missing or unexpected.
        (
            {"transformer_decoder": {"attention": "smca"}},
            "attention is smca in the run but masked in the weights",
            False,
        ),
        (
            {"transformer_decoder": {"query_init": "zero"}},
            "query_init is zero in the run but learned_supervised",
            False,
        ),
        # A partial start would not help.
        (
            {"pixel_decoder": {"feedforward_dim": 64}, "transformer_decoder": {"attention": "smca"}},
            "attention is smca in the run but masked in the weights",
            False,
        ),
        ({"pixel_decoder": {"feedforward_dim": 64}}, "model.pixel_decoder.feedforward_dim is 64", True),
        ({"pixel_decoder": {"stages": [2, 2, 2]}}, r"model.pixel_decoder.stages is \(2, 2, 2\)", True),
    ],
)
def test_a_setting_that_the_weights_contradict_is_named(own: dict[str, Any], words: str, fits_partly: bool) -> None:
    model = ModelConfig.model_validate(own)
    end = "; with model.init_partial=true" if fits_partly else "$"
    with pytest.raises(UserError, match=rf"^cells does not fit: .*{words}.*, and they are taken from cells{end}"):
        check_settings(model, SOURCE, "cells", partial=False)
    if fits_partly:
        check_settings(model, SOURCE, "cells", partial=True)
    else:
        with pytest.raises(UserError, match=words):
            check_settings(model, SOURCE, "cells", partial=True)


def test_settings_that_no_weight_depends_on_may_differ() -> None:
    own = {"pixel_decoder": {"dropout": 0.1}, "transformer_decoder": {"attention": "full", "scales": "s8"}}
    model = ModelConfig.model_validate(own)
    check_settings(model, SOURCE, "cells", partial=False)
    assert computed_otherwise(model, SOURCE) == [
        "attention is full here and was masked there",
        "scales is s8 here and was efficient there",
    ]
    assert computed_otherwise(model, ModelInfo.of(model)) == []


@pytest.mark.parametrize(
    ("count", "note"), [(3, "the first 3 of 5 queries"), (8, "5 queries, and 3 newly initialised ones")]
)
def test_the_first_queries_are_kept(tiny_model: Mask2Former, count: int, note: str) -> None:
    model = another(tiny_model, names_of(tiny_model), transformer_decoder={"num_queries": count})
    fresh = {name: model.state_dict()[name].clone() for name in QUERIES}
    (said,) = checkpoints.start_from(model, read(tiny_model), "source", partial=True)
    assert said.startswith(note)
    for name in QUERIES:
        assert torch.equal(model.state_dict()[name][:5], tiny_model.state_dict()[name][:count])
        assert torch.equal(model.state_dict()[name][5:], fresh[name][5:])


def test_the_first_queries_of_maskformer_are_kept(tiny_model: Mask2Former) -> None:
    def of_maskformer(count: int) -> Mask2Former:
        values = tiny_model.info.known_architecture.model_dump() | {
            "transformer_decoder": {
                "name": "standard", "dim": 32, "num_queries": count, "num_layers": 1, "num_heads": 4,
                "feedforward_dim": 32,
            },
        }  # fmt: skip
        torch.manual_seed(count)
        made = build_model(ModelConfig.model_validate(values), 3)
        made.categories = tiny_model.categories
        return made

    source, model = of_maskformer(5), of_maskformer(3)
    notes = checkpoints.start_from(model, read(source), "source", partial=True)
    assert notes == ["the first 3 of 5 queries"]
    name = "transformer_decoder.transformer.query_positions.weight"
    assert torch.equal(model.get_parameter(name), source.get_parameter(name)[:3])


@pytest.mark.parametrize(
    ("there", "here", "note"),
    [
        ("frozen", "sync", "batch norms are learned here and were frozen there"),  # from COCO's models to Cityscapes'
        ("batch", "frozen", "batch norms are frozen here and were learned there"),
        ("sync", "batch", None),
    ],
)
@pytest.mark.parametrize("partial", [False, True])
def test_norms_may_be_frozen_or_learned(
    tiny_model: Mask2Former, there: str, here: str, note: str | None, partial: bool
) -> None:
    def with_norm(norm: str, seed: int) -> Mask2Former:
        values = tiny_model.info.known_architecture.model_dump()
        values["backbone"] = {"name": "timm", "model": "resnet10t", "norm": norm, "kwargs": {"channels": [8, 8, 8, 16]}}
        torch.manual_seed(seed)
        made = build_model(ModelConfig.model_validate(values), len(names_of(tiny_model)))
        made.categories = tiny_model.categories
        return made

    source, model = with_norm(there, 0), with_norm(here, 1)
    assert checkpoints.start_from(model, read(source), "source", partial=partial) == [note] * (note is not None)
    state = source.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items() if name in state)


def test_what_has_another_shape_is_named(tiny_model: Mask2Former) -> None:
    model = another(tiny_model, names_of(tiny_model), transformer_decoder={"feedforward_dim": 16})
    (said,) = checkpoints.start_from(model, read(tiny_model), "source", partial=True)
    assert said.startswith("newly initialised, since the shapes differ: transformer_decoder.layers.0.linear1.bias")
    assert said.count("linear") == 6


def test_another_backbone_is_refused(tiny_model: Mask2Former) -> None:
    model = another(tiny_model, names_of(tiny_model), backbone={"depths": (1, 1, 2, 1)})
    with pytest.raises(UserError, match=r"source: .* missing: backbone\.layers\.2\.blocks\.1"):
        checkpoints.start_from(model, read(tiny_model), "source", partial=True)


def test_windows_of_another_size(tiny_model: Mask2Former) -> None:
    model = another(tiny_model, names_of(tiny_model), backbone={"window_size": 5})
    assert checkpoints.start_from(model, read(tiny_model), "source", partial=True) == [
        "position biases resized from windows of 3 to 5"
    ]
    name = "backbone.layers.2.blocks.0.attn.relative_position_bias_table"
    expected = resized_bias_table(tiny_model.state_dict()[name], 5)
    assert torch.equal(model.state_dict()[name], expected)
    with torch.no_grad():
        assert model.eval()([torch.rand(3, 64, 64)]).class_logits.isfinite().all()


# --- position bias tables --------------------------------------------------------------------------------------------


def table(window: int, heads: int = 2) -> torch.Tensor:
    return torch.randn((2 * window - 1) ** 2, heads, generator=torch.Generator().manual_seed(window))


def as_grid(values: torch.Tensor) -> torch.Tensor:
    side = round(len(values) ** 0.5)
    return values.view(side, side, -1)


@pytest.mark.parametrize("window", [1, 3, 7, 12])
def test_a_table_of_the_same_window_is_the_same(window: int) -> None:
    assert torch.equal(resized_bias_table(table(window), window), table(window))


@pytest.mark.parametrize(("there", "here"), [(7, 12), (12, 7), (3, 4)])
def test_resizing_tables_keeps_what_it_must(there: int, here: int) -> None:
    values = table(there)
    resized = resized_bias_table(values, here)
    assert resized.shape == ((2 * here - 1) ** 2, 2)
    # heads and axes stay apart, and nothing is turned or mirrored
    for head in range(2):
        torch.testing.assert_close(resized_bias_table(values[:, head : head + 1], here), resized[:, head : head + 1])
    mirrored = as_grid(values).flip(0).flatten(0, 1)
    torch.testing.assert_close(as_grid(resized_bias_table(mirrored, here)), as_grid(resized).flip(0))
    turned = as_grid(values).transpose(0, 1).flatten(0, 1)
    torch.testing.assert_close(as_grid(resized_bias_table(turned, here)), as_grid(resized).transpose(0, 1))
    # the entry for offset zero stays in the middle, and constants stay constant
    torch.testing.assert_close(as_grid(resized)[here - 1, here - 1], as_grid(values)[there - 1, there - 1])
    torch.testing.assert_close(resized_bias_table(torch.full_like(values, 3.0), here), torch.full_like(resized, 3.0))
    # rows are vertical offsets: a table that depends on them alone still does
    rows = torch.arange(2.0 * there - 1).repeat_interleave(2 * there - 1)[:, None]
    grid = as_grid(resized_bias_table(rows, here))[..., 0]
    torch.testing.assert_close(grid, grid[:, :1].expand_as(grid))
    assert (grid[1:, 0] > grid[:-1, 0]).all()


def test_a_table_that_fits_no_window_is_told() -> None:
    name = "backbone.layers.0.blocks.0.attn.relative_position_bias_table"
    with pytest.raises(UserError, match="has 10 rows, which fits no window"):
        with_own_windows({name: torch.zeros(25, 2)}, {name: torch.zeros(10, 2)})


def of_channels(model: Mask2Former, channels: int) -> Mask2Former:
    """A freshly initialised model like ``model`` for images of this number of channels."""
    values = {**model.info.known_architecture.model_dump(), "inference": {"tasks": ["instance"]}}
    values |= {"pixel_mean": [100.0] * channels, "pixel_std": [50.0] * channels}
    made = build_model(ModelConfig.model_validate(values), len(model.info.known_categories))
    made.categories = model.categories
    return made.eval()


@pytest.mark.parametrize("channels", [1, 2, 5])
def test_weights_of_input_channels_are_repeated_where_that_is_wanted(tiny_model: Mask2Former, channels: int) -> None:
    model, source = of_channels(tiny_model, channels), read(tiny_model)
    with pytest.raises(UserError, match=f"source expects images of 3 channels but the run has {channels} .*=repeat"):
        checkpoints.start_from(model, source, "source", partial=True)
    (said,) = checkpoints.start_from(model, source, "source", partial=False, repeat_channels=True)
    assert said.startswith(f"weights of 3 input channels {'summed' if channels == 1 else 'repeated'} for")
    assert "backbone." in said
    # For a grey image, whose channels are all equal, it computes what the source does.
    grey = torch.randn(1, 1, 64, 64, generator=torch.Generator().manual_seed(0))
    if channels != 2:  # to which three channels cannot contribute equally
        plain = tiny_model.eval().backbone(grey.expand(1, 3, 64, 64))
        for one, other in zip(model.backbone(grey.expand(1, channels, 64, 64)), plain, strict=True):
            if channels == 1:
                torch.testing.assert_close(one, other, atol=1e-3, rtol=1e-3)
            assert one.shape == other.shape


def test_the_bands_of_a_source_go_with_its_channels() -> None:
    five = ModelConfig.model_validate(
        {
            "pixel_mean": [9] * 5,
            "pixel_std": [9] * 5,
            "inference": {"bands": [5, 4, 3, 2, 1], "value_range": [[0, top] for top in range(1, 6)]},
        }
    )
    source = ModelInfo.of(five)
    taken = with_settings_of(ModelConfig.model_validate({"inference": {"tasks": ["semantic"]}}), source, "it")
    assert (taken.inference.reading, taken.channels) == (five.inference.reading, 5)
    assert with_settings_of(ModelConfig(), source, "it").inference.value_range == five.inference.value_range
    ranges = [[0, 9]] * 5
    assert filled_in({"inference": {"value_range": ranges}}, source)["inference"]["bands"] == (5, 4, 3, 2, 1)
    own = ModelConfig.model_validate({"pixel_mean": [9], "pixel_std": [9], "init_channels": "repeat"})
    assert with_settings_of(own, source, "it").inference.reading == {"bands": 1, "value_range": None}
    check_settings(own, source, "it", partial=False)
    check_settings(ModelConfig(), source, "it", partial=False)  # which says nothing of channels
    with pytest.raises(UserError, match="it expects images of 5 channels but the run has 1"):
        check_settings(own.model_copy(update={"init_channels": "same"}), source, "it", partial=True)
