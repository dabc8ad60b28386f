"""The model of the environment variable MODEL for Cog: an image in, an overlay, an exact map and JSON out."""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path as LocalPath

from cog import BasePredictor, Input, Path

sys.path.insert(0, str(LocalPath(__file__).parents[1] / "src"))

from mask2former import Predictor as Segmenter

DEFAULT_MODEL = "scenes-tiny"  # packaged; for photographs, for instance mmdet/coco-panoptic/swin-t


class Predictor(BasePredictor):
    """One model, loaded once."""

    def setup(self) -> None:
        self.model = os.environ.get("MODEL", DEFAULT_MODEL)
        self.segmenter = Segmenter.from_pretrained(self.model)

    def predict(
        self,
        image: Path = Input(description="JPEG, PNG, WebP, BMP or TIFF."),  # noqa: B008  (required by Cog)
        task: str = Input(
            description="What to predict.", choices=["default", "panoptic", "instance", "semantic"], default="default"
        ),
        score_threshold: float = Input(
            description="Keep instances and segments with at least this score; -1: as the model was stored.",
            ge=-1,
            le=1,
            default=-1,
        ),
    ) -> list[Path]:
        """Files named as by ``mask2former predict``: the overlay, the id or label map, and JSON with the masks."""
        overrides = {} if score_threshold < 0 else {"score_threshold": score_threshold}
        shown = self.segmenter.prepare(LocalPath(str(image)), **overrides)
        [found] = self.segmenter.run([shown])
        result = found(None if task == "default" else task)  # pyright: ignore[reportArgumentType]
        folder = LocalPath(tempfile.mkdtemp())
        used = shown.settings.model_dump(mode="json")
        settings = {name: used.get(name, value) for name, value in self.segmenter.recorded_settings.items()}
        result.save(folder / "result", shown.image, model=self.model, settings=settings)
        return [Path(str(path)) for path in sorted(folder.iterdir())]
