"""Objects that can be passed to training in Python, and errors for others."""

from __future__ import annotations

import pytest

from mask2former.data.datasets.scenes import SceneClips, Scenes
from mask2former.errors import UserError
from mask2former.training.objects import Objects


def test_images_and_clips_are_learned_from() -> None:
    for data in (Scenes((64, 64), length=2), SceneClips(64, 3, length=2)):
        objects = Objects.checked(None, data, data, None, None)
        assert objects.train_data is data
        assert objects.names() == ["train_data", "validation_data"]


def test_clips_without_tracks_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    clips = SceneClips(64, 3, length=2)
    monkeypatch.setattr(clips, "tasks", ("panoptic",))
    with pytest.raises(UserError, match="training needs tracks"):
        Objects.checked(None, clips, clips, None, None)
