"""Settings of a call in place of those of a model: what is refused is named as it was given."""

from __future__ import annotations

import pytest

from mask2former.config import InferenceConfig, Task
from mask2former.errors import OptionError, UserError
from mask2former.inference.settings import override


@pytest.mark.parametrize("tasks", [("panoptic", "instance"), ("instance",)])
@pytest.mark.parametrize(("value", "shown"), [(2.0, "2.0"), (True, "true")])
def test_a_threshold_for_all_tasks_is_refused_once_by_its_own_name(
    tasks: tuple[Task, ...], value: object, shown: str
) -> None:
    with pytest.raises(UserError) as refused:
        override(InferenceConfig(tasks=tasks), {"score_threshold": value})
    assert str(refused.value) == f"score_threshold is {shown}; expected a number from 0 to 1"


def test_several_faults_are_named_as_arguments_or_flags() -> None:
    with pytest.raises(OptionError) as refused:
        override(InferenceConfig(), {"short_edge": -5, "bands": (1, 2, 99_999), "tile_overlp": 3})
    words = refused.value.sentence(lambda name: "--" + name.replace("_", "-"))
    assert "--short-edge is -5; expected a whole number" in words
    assert "--bands: expected up to 32 band numbers" in words
    assert "unknown key 'tile_overlp'; did you mean tile_overlap" in words
    assert "short_edge is -5; expected" in str(refused.value)


def test_one_band_for_a_model_of_several_channels_says_how_to_repeat_it() -> None:
    with pytest.raises(OptionError) as caught:
        override(InferenceConfig(), {"bands": (2,)})
    told = "there is 1 band, but the model expects images of 3 channels; to use it for all of them, set "
    assert str(caught.value) == told + "bands to (2, 2, 2)"
    assert caught.value.sentence(lambda name: f"--{name}") == told + "--bands to 2,2,2"
    with pytest.raises(OptionError, match=r"there are 2 bands, .* of 3 channels; choose that many bands"):
        override(InferenceConfig(), {"bands": (1, 2)})
    with pytest.raises(OptionError, match=r"there are 3 bands, .* of 1 channel; choose that many bands"):
        override(InferenceConfig(bands=(1,)), {"bands": 3})
