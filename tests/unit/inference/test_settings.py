"""Settings of a call in place of those of a model: what is refused is named as it was given."""

from __future__ import annotations

import pytest

from mask2former.config import InferenceConfig, Task
from mask2former.errors import UserError
from mask2former.inference.settings import override


@pytest.mark.parametrize("tasks", [("panoptic", "instance"), ("instance",)])
@pytest.mark.parametrize(("value", "shown"), [(2.0, "2.0"), (True, "true")])
def test_a_threshold_for_all_tasks_is_refused_once_by_its_own_name(
    tasks: tuple[Task, ...], value: object, shown: str
) -> None:
    with pytest.raises(UserError) as refused:
        override(InferenceConfig(tasks=tasks), {"score_threshold": value})
    assert str(refused.value) == f"inference settings: 'score_threshold' is {shown}; expected a number from 0 to 1"
