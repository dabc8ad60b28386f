"""Settings of data that contradict each other."""

from __future__ import annotations

import pytest

from mask2former.config import DataConfig, parse
from mask2former.errors import UserError


def test_images_are_not_grouped_by_shapes_that_turns_exchange() -> None:
    augmentation = {"name": "resize-crop-flip", "flip": "turns", "pad_size": None}
    values = {"augmentation": augmentation, "group_by_aspect": True}
    with pytest.raises(UserError, match=r"augmentation\.flip=turns makes half of them tall; set group_by_aspect to"):
        parse(DataConfig, values, "test")
    for pad, flip in (((64, 64), "turns"), (None, "both")):
        assert parse(DataConfig, values | {"augmentation": {**augmentation, "pad_size": pad, "flip": flip}}, "test")
    assert parse(DataConfig, values | {"augmentation": {"name": "large-scale-jitter", "flip": "turns"}}, "test")
