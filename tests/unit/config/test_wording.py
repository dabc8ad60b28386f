"""Errors in settings in our words: the setting, the actual and expected values, and what may have been meant."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from pydantic import BaseModel, Field

import mask2former.config
from mask2former.config import RunConfig, TimmConfig, apply_overrides, parse, read_run_file
from mask2former.config.fields import Strict
from mask2former.errors import UserError
from mask2former.notes import collect_notes

INTEGER = "a whole number from 1 to 2,147,483,647"
PIXEL_DECODERS = "msdeformattn, fpn, transformer-fpn, semantic-fpn, bifpn, fapn or none"
FILES = "each entry a mapping of settings (annotations, images)"


def said(*overrides: str) -> str:
    """The error message for a run file with these settings, without the name of the file."""
    with pytest.raises(UserError) as refused:
        parse(RunConfig, apply_overrides({"data": {"dataset": {"name": "scenes"}}}, overrides), "run.yaml")
    assert str(refused.value).startswith("run.yaml: ")
    return str(refused.value).removeprefix("run.yaml: ")


# One row for each type of error that pydantic may raise for our types, under pydantic's name.
ROWS = {
    "int_parsing": ("trainer.max_steps=abc", f"'trainer.max_steps' is 'abc'; expected {INTEGER}"),
    "int_from_float": ("trainer.max_steps=1.5", f"'trainer.max_steps' is 1.5; expected {INTEGER}"),
    "int_type": ("trainer.max_steps=[1]", f"'trainer.max_steps' is [1]; expected {INTEGER}"),
    "int_type of null": ("trainer.max_steps=null", f"'trainer.max_steps' is null; expected {INTEGER}"),
    "greater_than": ("trainer.max_steps=0", f"'trainer.max_steps' is 0; expected {INTEGER}"),
    "less_than_equal": (
        "data.num_workers=2000",
        "'data.num_workers' is 2000; expected a whole number from 0 to 1,024",
    ),
    "greater_than_equal": ("data.copy_paste=-1", "'data.copy_paste' is -1; expected a number from 0 to 1"),
    "less_than": ("optim.ema_decay=1", "'optim.ema_decay' is 1; expected a number of at least 0 and below 1"),
    "float_parsing": ("optim.lr=fast", "'optim.lr' is 'fast'; expected a number above 0"),
    "float_type": ("optim.lr={a: 1}", "'optim.lr' is {'a': 1}; expected a number above 0"),
    "finite_number": ("optim.lr=.inf", "'optim.lr' is inf; expected a number above 0"),
    "bool_parsing": ("trainer.channels_last=maybe", "'trainer.channels_last' is 'maybe'; expected true or false"),
    "bool_type": ("trainer.channels_last=[]", "'trainer.channels_last' is []; expected true or false"),
    "true for a whole number": ("trainer.max_steps=true", f"'trainer.max_steps' is true; expected {INTEGER}"),
    "true for a number": (
        "model.inference.score_threshold=true",
        "'model.inference.score_threshold' is true; expected a number from 0 to 1",
    ),
    "true for a number by an old name": (
        "model.inference={tasks: [instance], score_threshold: true}",
        "'model.inference.score_threshold' is true; expected a number from 0 to 1",
    ),
    "false for a number or null": (
        "evaluation.patience=false",
        f"'evaluation.patience' is false; expected null or {INTEGER}",
    ),
    "true for a number or a word": (
        "data.batch_size_per_device=true",
        "'data.batch_size_per_device' is true; expected auto, null or a whole number from 1 to 16,384",
    ),
    "true in a list": (
        "model.pixel_mean=[true, 2, 3]",
        "'model.pixel_mean' is [True, 2, 3]; expected a list of 1 to 32 entries, each entry a number from 0 to 255",
    ),
    "true in a mapping": (
        "model.inference.class_thresholds={cat: true}",
        "'model.inference.class_thresholds' is {'cat': True}; expected a mapping of names, each to a number from 0 "
        "to 1",
    ),
    "a whole number for a truth value": (
        "trainer.channels_last=1",
        "'trainer.channels_last' is 1; expected true or false",
    ),
    "a number for a truth value": (
        "trainer.channels_last=0.0",
        "'trainer.channels_last' is 0.0; expected true or false",
    ),
    "a number for a truth value by an old name": (
        "data.keep_empty=1",
        "'data.filter_empty' is 1; expected true or false",
    ),
    "string_type": ("output=3", "'output' is 3; expected text"),
    "string_pattern_mismatch": (
        "data.validation={fold: half}",
        "'data.validation.fold' is 'half'; expected null or text such as 2 of 5",
    ),
    "string_too_long": (
        f"data.validation={{share: 0.2, groups: {'x' * 201}}}",
        "'data.validation.groups' is 'xxxx.*; expected null or text of at most 200 characters",
    ),
    "literal_error": (
        "trainer.precision=bf-16",
        "'trainer.precision' is 'bf-16'; expected fp32, bf16 or fp16; did you mean bf16 or fp16?",
    ),
    "literal_error of an entry": (
        "trainer.loggers=[wand]",
        "'trainer.loggers.0' is 'wand'; expected csv, tensorboard, wandb or mlflow; did you mean wandb?",
    ),
    "tuple_type": ("optim.freeze=backbone", "'optim.freeze' is 'backbone'; expected a list, each entry a text"),
    "tuple_type of two": (
        "optim.betas=0.9",
        "'optim.betas' is 0.9; expected a list of 2 entries, each a number of at least 0 and below 1",
    ),
    "too_short": (
        "data.dataset={name: coco-instance, train: [], validation: []}",
        f"'data.dataset.train' is []; expected a list that is not empty, {FILES}",
    ),
    "too_long": (
        f"model.pixel_mean={[1] * 33}",
        "'model.pixel_mean' is [1, 1, 1, 1, 1, 1, ...]; expected a list of 1 to 32 entries, each entry a number from "
        "0 to 255",
    ),
    "missing": (
        "data.dataset={name: coco-instance, train: [{images: a}], validation: []}",
        "'data.dataset.train.0.annotations' is missing; expected text",
    ),
    "missing entry": (
        "optim.betas=[0.9]",
        "'optim.betas.1' is missing; expected a number of at least 0 and below 1",
    ),
    "too many entries": (
        "optim.betas=[0.9, 0.9, 0.9]",
        "'optim.betas' is [0.9, 0.9, 0.9]; expected a list of 2 entries, each a number of at least 0 and below 1",
    ),
    "dict_type": (
        "model.inference.class_thresholds=3",
        "'model.inference.class_thresholds' is 3; expected a mapping of names, each to a number from 0 to 1",
    ),
    "model_type": (
        "trainer=3",
        r"'trainer' is 3; expected a mapping of settings \(max_steps, max_hours, .*\)",
    ),
    "a union": (
        "criterion.class_weights=even",
        "'criterion.class_weights' is 'even'; expected balanced, null or a mapping of names, each to a number of at "
        "least 0",
    ),
    "an entry of a union": (
        "criterion.class_weights={cat: -1}",
        "'criterion.class_weights' is {'cat': -1}; expected balanced, null or a mapping of names, each to a number of "
        "at least 0",
    ),
    "union_tag_invalid": (
        "model.pixel_decoder.name=msdeformatn",
        f"'model.pixel_decoder.name' is 'msdeformatn'; expected {PIXEL_DECODERS}; did you mean msdeformattn?",
    ),
    "union_tag_invalid of another type": (
        "model.pixel_decoder.name=[fpn]",
        f"'model.pixel_decoder.name' is ['fpn']; expected {PIXEL_DECODERS}",
    ),
    "union_tag_invalid of a data set": (
        "data.dataset.name=coco-instances",
        "'data.dataset.name' is 'coco-instances'; expected scenes, .* or mask-folders; did you mean coco-instance?",
    ),
    "union_tag_not_found": ("model.backbone={}", "'model.backbone.name' is missing; expected timm or swin"),
    "no mapping for a part": (
        "model.pixel_decoder=fpn",
        f"'model.pixel_decoder' is 'fpn'; expected a mapping of settings whose name is {PIXEL_DECODERS}; did you mean "
        "model.pixel_decoder.name=fpn?",
    ),
    "value_error of one setting": (
        "model.inference.bands=x",
        r"'model.inference.bands': expected up to 32 band numbers, .* \(got 'x'\)",
    ),
    "value_error of several": (
        "model.transformer_decoder.dim=30",
        "model.transformer_decoder: dim 30 must be a multiple of num_heads 8 and of 4",
    ),
    "extra_forbidden": ("trainer.max_step=3", "unknown key 'trainer.max_step'; did you mean max_steps?"),
    "extra_forbidden, close to two": (
        "data.batchsize=4",
        "unknown key 'data.batchsize'; did you mean batch_size or batch_size_per_device?",
    ),
    "extra_forbidden, of another group": (
        "optim.max_steps=3",
        "unknown key 'optim.max_steps'; did you mean trainer.max_steps?",
    ),
    "extra_forbidden, without its group": ("lr=1", "unknown key 'lr'; did you mean optim.lr?"),
    "extra_forbidden, a group": ("trainr.max_steps=3", "unknown key 'trainr'; did you mean trainer?"),
    "extra_forbidden, like nothing": (
        "optim.zzz=1",
        "unknown key 'optim.zzz'; 'optim' has lr, weight_decay, .*, freeze",
    ),
    "extra_forbidden, of another kind": (
        "model.backbone={name: swin, model: x}",
        "unknown key 'model.backbone.model'; 'model.backbone' of swin has name, embed_dim, .*",
    ),
}


@pytest.mark.parametrize("name", ROWS)
def test_every_kind_of_fault(name: str) -> None:
    override, words = ROWS[name]
    found = said(override)
    plain = re.escape(words).replace(r"\.\*", ".*").replace(r"\\\(", r"\(").replace(r"\\\)", r"\)")
    assert re.fullmatch(plain, found), found


def test_several_faults_are_told_together() -> None:
    assert said("optim.lr=0", "trainer.max_step=3", "model.backbone.name=swim") == (
        "'model.backbone.name' is 'swim'; expected timm or swin; did you mean swin?; 'optim.lr' is 0; expected a "
        "number above 0; unknown key 'trainer.max_step'; did you mean max_steps?"
    )


def test_the_keys_of_a_group_are_listed_once() -> None:
    assert said("model.backbone={name: swin, zz: 1, dephts: 2, yy: 3}", "xx=1", "vv=1") == (
        "unknown key 'model.backbone.zz'; 'model.backbone' of swin has name, embed_dim, depths, num_heads, "
        "window_size, drop_path_rate; unknown key 'model.backbone.dephts'; did you mean depths?; unknown key "
        "'model.backbone.yy'; unknown key 'xx'; there are model, criterion, data, optim, trainer, evaluation, output, "
        "seed; unknown key 'vv'"
    )


def test_what_is_passed_on_to_others_may_be_anything() -> None:
    kwargs = {"a": True, "b": 1, "c": [False, 0], "d": {"e": True}}
    assert TimmConfig(kwargs=kwargs).kwargs == kwargs


# --- every setting --------------------------------------------------------------------------------------------------

OF_PYDANTIC = re.compile(
    r"Input|Field required|permitted|unable to|valid (integer|number|string|boolean|tuple|dict|list)|instance of|"
    r"should|Extra|literal\[|constrained"
)
WRONG: tuple[Any, ...] = ("abc", "", -1, 1.5, 10**30, float("nan"), None, True, [], [[]], ["a", 1], {}, {"a": []})
GROUPS = [kind for kind in vars(mask2former.config).values() if isinstance(kind, type) and issubclass(kind, BaseModel)]


def faults_of(kind: type[BaseModel]) -> Iterator[str]:
    given: dict[str, Any] = {name: "x" for name, field in kind.model_fields.items() if field.is_required()}
    given |= {name: "task" for name in given if name == "task"}
    for name in (*kind.model_fields, "unheard_of"):
        for value in WRONG:
            try:
                parse(kind, {**given, name: value}, "file")
            except UserError as error:
                yield str(error)


@pytest.mark.parametrize("kind", GROUPS, ids=lambda kind: kind.__name__)
def test_no_setting_is_refused_in_the_words_of_pydantic(kind: type[Strict]) -> None:
    told = list(faults_of(kind))
    assert len(told) >= len(kind.model_fields)
    for line in told:
        assert not OF_PYDANTIC.search(line), line
        assert re.search("expected|unknown key|must|multiple|needs|only|set ", line), line


@pytest.mark.parametrize(
    ("text", "got"),
    [
        ("", "but it is empty"),
        ("# nothing yet\n", "but it is empty"),
        ("{}", "but it is empty"),
        ("- a\n", "got a list"),
    ],
)
def test_a_run_file_that_is_no_mapping_is_told(tmp_path: Path, text: str, got: str) -> None:
    (tmp_path / "run.yaml").write_text(text)
    how = "; mask2former recipe NAME prints a complete run file, and mask2former check-data DATA --suggest RUN.yaml "
    with pytest.raises(UserError, match=f"run.yaml': expected a mapping of settings, {got}{how}"):
        read_run_file(tmp_path / "run.yaml")
    with pytest.raises(UserError, match=f"no run file .*other.yaml'{how}"):
        read_run_file(tmp_path / "other.yaml")


@pytest.mark.parametrize(
    ("name", "text", "what"),
    [
        ("my cells.json", '{"images": [], "annotations": [], "categories": []}', "annotations"),
        ("cells.geojson", "[1]", "annotations"),
        ("data.yaml", "{train: images, val: images, names: [cell]}", "a YOLO data set"),
    ],
)
def test_a_data_set_is_not_a_run_file(tmp_path: Path, name: str, text: str, what: str) -> None:
    file = tmp_path / name
    file.write_text(text)
    with collect_notes() as notes, pytest.raises(UserError, match=f"looks like {what}, not like a run file") as caught:
        read_run_file(file)
    assert f"mask2former check-data {shlex.quote(str(file))} --suggest run.yaml" in str(caught.value)
    assert not notes


def test_a_run_file_may_be_json(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text('{"seed": 3, "data": {"dataset": {"name": "scenes"}}}')
    assert read_run_file(tmp_path / "run.json")["seed"] == 3


@pytest.mark.parametrize("text", ["", "# nothing yet\n", "{}"])
def test_overrides_are_enough_for_a_run_file(tmp_path: Path, text: str) -> None:
    (tmp_path / "run.yaml").write_text(text)
    assert read_run_file(tmp_path / "run.yaml", ["seed=3"]) == {"seed": 3}


class _Bounds(Strict):
    up_to: Annotated[int, Field(le=5)] = 0
    between: Annotated[float, Field(gt=0, lt=1.5)] = 1.0
    large: Annotated[int, Field(ge=1_234_567, le=99_999_999)] = 2_000_000
    numbers: list[Annotated[int, Field(ge=0)]] = Field(default_factory=list)
    words: tuple[Literal["context", "other"], ...] = ()


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"up_to": 9}, "'up_to' is 9; expected a whole number up to 5"),
        ({"between": 2}, "'between' is 2; expected a number above 0 and below 1.5"),
        ({"large": 1}, "'large' is 1; expected a whole number from 1,234,567 to 99,999,999"),
        ({"numbers": [1, -1]}, "'numbers.1' is -1; expected a whole number of at least 0"),
        ({"words": 3}, "'words' is 3; expected a list, each entry context or other"),
    ],
)
def test_bounds_and_lists_that_no_setting_has_yet(values: dict[str, Any], expected: str) -> None:
    with pytest.raises(UserError, match=re.escape(expected)):
        parse(_Bounds, values, "test")


IN_FILE = "run.yaml: 'optim.lr' is 0; expected a number above 0"
BLAMED: dict[str, tuple[list[str], str]] = {
    "nothing": ([], IN_FILE),
    "an unknown key": (
        ["data.batch_sise=8"],
        f"override 'data.batch_sise=8': unknown key 'data.batch_sise'; did you mean batch_size?; {IN_FILE}",
    ),
    "a value": (
        ["seed=x"],
        f"{IN_FILE}; override 'seed=x': 'seed' is 'x'; expected a whole number from 0 to 4,294,967,295",
    ),
    "the last of two": (
        ["optim.lr=1", "optim.lr=-1"],
        "override 'optim.lr=-1': 'optim.lr' is -1; expected a number above 0",
    ),
    "an entry of a value": (
        ["optim={betas: [0.9, 2]}"],
        "override 'optim={betas: [0.9, 2]}': 'optim.betas.1' is 2; expected a number of at least 0 and below 1",
    ),
    "two faults": (
        ["optim.lr=1", "trainer={max_steps: 0, max_step: 3}"],
        f"override 'trainer={{max_steps: 0, max_step: 3}}': 'trainer.max_steps' is 0; expected {INTEGER}; unknown key "
        "'trainer.max_step'; did you mean max_steps?",
    ),
    "a setting by an old name": (
        ["evaluation.every=x"],
        f"{IN_FILE}; override 'evaluation.every=x': 'evaluation.interval' is 'x'; expected {INTEGER}",
    ),
    "the threshold of instances, by its old name": (
        ["model.inference={tasks: [instance], score_threshold: 2}"],
        "override 'model.inference={tasks: [instance], score_threshold: 2}': 'model.inference.score_threshold' is 2; "
        f"expected a number from 0 to 1; {IN_FILE}",
    ),
    "a group that is of both": (
        ["optim.lr=1", "model.inference.tile=64"],
        "run.yaml with override 'model.inference.tile=64': model.inference: tile_overlap 60 must be at most half of "
        "tile 64",
    ),
    "the kind of a group": (
        ["optim.lr=1", "model.backbone.name=swin"],
        "run.yaml with override 'model.backbone.name=swin': unknown key 'model.backbone.model'; 'model.backbone' of "
        "swin has name, embed_dim, depths, num_heads, window_size, drop_path_rate",
    ),
}


@pytest.mark.parametrize("name", BLAMED)
def test_what_an_override_sets_is_not_blamed_on_the_run_file(name: str) -> None:
    overrides, expected = BLAMED[name]
    model = {"backbone": {"name": "timm", "model": "resnet18"}, "inference": {"tile_overlap": 60, "short_edge": 64}}
    values = apply_overrides({"optim": {"lr": 0}, "model": model}, overrides)
    with collect_notes(), pytest.raises(UserError) as refused:
        parse(RunConfig, values, "run.yaml", overrides)
    assert str(refused.value) == expected


def test_old_names_are_noted_where_they_were_written() -> None:
    overrides = ["evaluation={every: 3}"]
    with collect_notes() as notes:
        values = apply_overrides({"trainer": {"log_every": 5}}, overrides)
        parse(RunConfig, values, "run.yaml", overrides)
    assert [example for _, example in notes] == [
        "'log_every' in run.yaml is now 'log_interval'",
        "'every' in override 'evaluation={every: 3}' is now 'interval'",
    ]


def test_a_loss_of_which_nothing_is_learned_is_refused() -> None:
    weights = [f"criterion.{name}_weight=0" for name in ("class", "mask", "dice")]
    expected = "criterion: nothing would be learned with class_weight, mask_weight and dice_weight 0; set one above 0"
    assert said(*weights) == expected
    for one in weights:
        parse(RunConfig, apply_overrides({}, [other for other in weights if other != one]), "run.yaml")
