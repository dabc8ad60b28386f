from __future__ import annotations

from typing import Any

import pytest

from mask2former.config import RunConfig, changed
from mask2former.recipes import recipe, run_recipes
from mask2former.training.optim import schedule_notes


@pytest.mark.parametrize(
    ("changes", "note"),
    [
        # A published training that is shortened, as for a curve of convergence, without its milestones.
        (
            {"trainer.max_steps": 90_000},
            "optim.steps has milestones after the last step (327778, 355092; trainer.max_steps is 90000), so the "
            "learning rate never falls",
        ),
        ({"trainer.max_steps": 355_092}, "optim.steps has milestones after the last step (355092; trainer"),
        ({"optim.steps": ()}, "optim.schedule is step, but optim.steps is empty: the learning rate never falls"),
        ({"optim.schedule": "poly"}, "optim.steps (327778, 355092) has no effect, because optim.schedule is poly"),
        ({"optim.warmup_steps": 500}, "optim.warmup_steps 500 has no effect, because optim.warmup_factor is 1"),
        ({"optim.warmup_factor": 0.1}, "optim.warmup_factor 0.1 has no effect, because optim.warmup_steps is 0"),
        (
            {"optim.schedule": "poly", "optim.steps": (), "optim.schedule_steps": 9},
            "optim.schedule_steps 9 is less than trainer.max_steps 368750: the learning rate is 0 after step 9",
        ),
    ],
)
def test_settings_of_the_schedule_without_effect_are_noted(changes: dict[str, Any], note: str) -> None:
    [said] = schedule_notes(changed(recipe("coco-panoptic/r50").run, changes))
    assert said.startswith(note)


def test_no_recipe_has_a_setting_of_the_schedule_without_effect() -> None:
    assert {name: notes for name, run in run_recipes().items() if (notes := schedule_notes(run()))} == {}
    assert schedule_notes(RunConfig()) == []
