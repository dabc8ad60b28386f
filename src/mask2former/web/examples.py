"""Examples for the page: drawn scenes that no packaged model was trained on, as files."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from mask2former.errors import MissingExtraError
from mask2former.results_io.video import VideoWriter
from mask2former.scenes import draw_clip, draw_scene
from mask2former.web.views import thumbnail

__all__ = ["Example", "draw_examples"]

_SEEDS = (2_000_007, 2_000_008, 2_000_013, 2_000_017)  # beyond those of training and validation
_SIZE = (384, 512)
_CLIP_SEED, _CLIP_SIZE, _FRAMES, _RATE = 2_000_003, (192, 256), 24, 8.0


@dataclass(frozen=True)
class Example:
    """A file, and what it looks like.

    Attributes:
        path: an image or a clip.
        title: what it is.
        thumbnail: a small image as a data URL.
    """

    path: Path
    title: str
    thumbnail: str


def draw_examples(folder: Path) -> list[Example]:
    """Write the examples into a folder; the clip is left out where PyAV is not installed."""
    examples = []
    for number, seed in enumerate(_SEEDS, start=1):
        image = draw_scene(seed, _SIZE).image
        path = folder / f"scene-{number}.png"
        Image.fromarray(image).save(path, compress_level=1)
        examples.append(Example(path, f"Scene {number}", thumbnail(image)))
    with contextlib.suppress(MissingExtraError):
        frames = draw_clip(_CLIP_SEED, _CLIP_SIZE, _FRAMES)
        path = folder / "clip.mp4"
        with VideoWriter(path, _RATE) as writer:
            for index, frame in enumerate(frames):
                writer.add_image(frame.image, index / _RATE)
        examples.append(Example(path, "Clip", thumbnail(frames[_FRAMES // 2].image)))
    return examples
