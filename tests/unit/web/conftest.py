from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from mask2former import Predictor
from mask2former.scenes import draw_clip, draw_scene


@pytest.fixture(scope="session")
def predictor() -> Predictor:
    """The packaged model with small inputs."""
    return Predictor.from_pretrained("scenes-tiny", quiet=True, device="cpu", short_edge=96, long_edge=128)


@pytest.fixture(scope="session")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("scenes") / "scene.png"
    Image.fromarray(draw_scene(2_000_007, (120, 160)).image).save(path)
    return path


@pytest.fixture(scope="session")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A video of six frames."""
    from mask2former.results_io.video import VideoWriter

    pytest.importorskip("av")
    path = tmp_path_factory.mktemp("clips") / "clip.mp4"
    with VideoWriter(path, 10.0) as writer:
        for index, frame in enumerate(draw_clip(2_000_003, (96, 128), 6)):
            writer.add_image(frame.image, index / 10)
    return path
