"""Settings by their names until 0.1.0."""

from __future__ import annotations

import pytest

from mask2former.config import MaskedDecoderConfig, RunConfig, TimmConfig, apply_overrides, parse
from mask2former.errors import UserError
from mask2former.notes import collect_notes


def test_old_names_of_settings_are_read_with_one_note_each() -> None:
    old = {
        "model": {"backbone": {"name": "timm", "arguments": {"channels": [8]}}, "inference": {"exclusive": True}},
        "data": {"total_batch": 4, "batch_per_device": 2, "keep_empty": False, "augmentation": {"name": "none"}},
        "trainer": {"log_every": 3, "checkpoint_every": 5},
        "evaluation": {"every": 7, "num_pictures": 1},
    }
    with collect_notes() as notes:
        run = parse(RunConfig, old, "run.yaml")
    assert run.model.backbone == TimmConfig(kwargs={"channels": [8]})
    assert run.model.inference.non_overlapping
    assert (run.data.batch_size, run.data.batch_size_per_device, run.data.filter_empty) == (4, 2, True)
    assert (run.trainer.log_interval, run.trainer.checkpoint_interval) == (3, 5)
    assert (run.evaluation.interval, run.evaluation.num_images) == (7, 1)
    assert len(notes) == 9
    assert "'keep_empty' in run.yaml is now 'filter_empty' (true is false, false is true now)" in [
        n.example for n in notes
    ]


@pytest.mark.parametrize(("old", "new"), [(True, "masked"), (False, "full")])
def test_whether_attention_is_masked_is_now_its_kind(old: bool, new: str) -> None:
    with collect_notes() as notes:
        run = parse(RunConfig, {"model": {"transformer_decoder": {"masked_attention": old}}}, "run.yaml")
    decoder = run.model.transformer_decoder
    assert isinstance(decoder, MaskedDecoderConfig)
    assert decoder.attention == new
    words = "'masked_attention' in run.yaml is now 'attention' (true is masked, false is full now)"
    assert [note.example for note in notes] == [words]
    overridden = apply_overrides({}, [f"model.transformer_decoder.masked_attention={old}".lower()])
    assert parse(RunConfig, overridden, "run.yaml") == run


def test_a_setting_under_both_names_is_refused() -> None:
    with pytest.raises(UserError, match="'every' is the old name of 'interval', but both are set"):
        parse(RunConfig, {"evaluation": {"every": 7, "interval": 7}}, "run.yaml")


@pytest.mark.parametrize("written", ["total_batch", "batch_size"])
@pytest.mark.parametrize("override", ["total_batch", "batch_size"])
def test_overrides_replace_settings_by_either_name(written: str, override: str) -> None:
    values = apply_overrides({"data": {written: 4}}, [f"data.{override}=8"])
    assert parse(RunConfig, values, "run.yaml").data.batch_size == 8
    assert not parse(RunConfig, apply_overrides({"data": {"keep_empty": True}}, []), "run.yaml").data.filter_empty
    assert parse(RunConfig, apply_overrides({}, ["data.keep_empty=false"]), "run.yaml").data.filter_empty


@pytest.mark.parametrize("given", [{"tensorboard": True}, {"tensorboard": True, "loggers": ["csv"]}])
def test_older_forms_that_are_no_settings_any_more_are_read(given: dict[str, object]) -> None:
    run = parse(RunConfig, {"trainer": given}, "run.yaml")
    assert run.trainer.loggers == ("csv", "tensorboard")
