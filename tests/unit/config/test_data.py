"""Settings of data that contradict each other."""

from __future__ import annotations

import pytest

from mask2former.config import DataConfig, ResizeCropFlipConfig, parse
from mask2former.errors import UserError


def test_images_are_not_grouped_by_shapes_that_turns_exchange() -> None:
    augmentation = {"name": "resize-crop-flip", "flip": "turns", "pad_size": None}
    values = {"augmentation": augmentation, "group_by_aspect": True}
    with pytest.raises(UserError, match=r"augmentation\.flip=turns makes half of them tall; set group_by_aspect to"):
        parse(DataConfig, values, "test")
    for pad, flip in (((64, 64), "turns"), (None, "both")):
        assert parse(DataConfig, values | {"augmentation": {**augmentation, "pad_size": pad, "flip": flip}}, "test")
    assert parse(DataConfig, values | {"augmentation": {"name": "large-scale-jitter", "flip": "turns"}}, "test")


def test_samples_are_padded_to_the_crop_unless_another_size_is_set() -> None:
    def padded(**settings: object) -> tuple[int, int] | None:
        config = parse(ResizeCropFlipConfig, settings, "test")
        assert parse(ResizeCropFlipConfig, config.model_dump(mode="json"), "test") == config
        return config.pad_size

    assert padded() == (640, 640)  # as published
    assert padded(crop_size=[64, 96]) == (64, 96)
    assert padded(crop_size=None) is None
    assert padded(crop_size=None, pad_size=[64, 64]) == (64, 64)
    assert padded(crop_size=[64, 64], pad_size=None) is None
    with pytest.raises(UserError) as refused:
        padded(crop_size=[0, 64])
    assert "pad_size" not in str(refused.value)
