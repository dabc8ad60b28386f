"""Settings of a call in place of those of a model: what is refused is named as it was given."""

from __future__ import annotations

import pytest

from mask2former.config import InferenceConfig, Task
from mask2former.errors import UserError
from mask2former.inference.settings import override


@pytest.mark.parametrize("tasks", [("panoptic", "instance"), ("instance",)])
def test_a_threshold_for_all_tasks_is_refused_once_by_its_own_name(tasks: tuple[Task, ...]) -> None:
    with pytest.raises(UserError) as refused:
        override(InferenceConfig(tasks=tasks), {"score_threshold": 2.0})
    assert str(refused.value) == "inference settings: 'score_threshold' is 2.0; expected a number from 0 to 1"
