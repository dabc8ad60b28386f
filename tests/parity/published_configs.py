"""The published configurations, trimmed to the settings that define a model and its training.

``python tests/parity/published_configs.py CONFIGS.json`` recreates ``tests/data/published_configs.json`` and, for
clips, ``published_clip_configs.json`` from the complete ones.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

PATH = Path(__file__).parents[1] / "data" / "published_configs.json"
CLIP_PATH = PATH.with_name("published_clip_configs.json")

_KEYS = """
DATALOADER.ASPECT_RATIO_GROUPING DATALOADER.FILTER_EMPTY_ANNOTATIONS DATALOADER.NUM_WORKERS DATALOADER.SAMPLER_TRAIN
DATASETS.TEST DATASETS.TRAIN
INPUT.COLOR_AUG_SSD INPUT.CROP INPUT.DATASET_MAPPER_NAME INPUT.FORMAT INPUT.IMAGE_SIZE INPUT.MAX_SCALE
INPUT.MAX_SIZE_TEST INPUT.MAX_SIZE_TRAIN INPUT.MIN_SCALE INPUT.MIN_SIZE_TEST INPUT.MIN_SIZE_TRAIN
INPUT.MIN_SIZE_TRAIN_SAMPLING INPUT.RANDOM_FLIP INPUT.SIZE_DIVISIBILITY
MODEL.BACKBONE MODEL.MASK_FORMER MODEL.PIXEL_MEAN MODEL.PIXEL_STD MODEL.RESNETS.DEPTH MODEL.RESNETS.NORM
MODEL.RESNETS.STEM_TYPE MODEL.RESNETS.STRIDE_IN_1X1 MODEL.SEM_SEG_HEAD MODEL.SWIN MODEL.WEIGHTS
SOLVER.AMP SOLVER.BACKBONE_MULTIPLIER SOLVER.BASE_LR SOLVER.CHECKPOINT_PERIOD SOLVER.CLIP_GRADIENTS SOLVER.GAMMA
SOLVER.IMS_PER_BATCH SOLVER.LR_SCHEDULER_NAME SOLVER.MAX_ITER SOLVER.OPTIMIZER SOLVER.POLY_LR_CONSTANT_ENDING
SOLVER.POLY_LR_POWER SOLVER.STEPS SOLVER.WARMUP_FACTOR SOLVER.WARMUP_ITERS SOLVER.WEIGHT_DECAY
SOLVER.WEIGHT_DECAY_EMBED SOLVER.WEIGHT_DECAY_NORM
TEST.DETECTIONS_PER_IMAGE TEST.EVAL_PERIOD
"""
KEYS = _KEYS.split()
_CLIP_KEYS = "INPUT.AUGMENTATIONS INPUT.SAMPLING_FRAME_NUM INPUT.SAMPLING_FRAME_RANGE INPUT.SAMPLING_FRAME_SHUFFLE"
CLIP_KEYS = _CLIP_KEYS.split()


def _flat(values: Any, name: str) -> dict[str, Any]:
    if not isinstance(values, dict):
        return {name: values}
    return {key: value for part in values for key, value in _flat(values[part], f"{name}.{part}").items()}


def trim(configs: dict[str, Any], *, clips: bool = False) -> dict[str, Any]:
    """The ``common`` settings, and the others of each configuration of images, or of clips, by dotted key."""
    rows: dict[str, dict[str, Any]] = {}
    for path, entry in configs.items():
        if path.startswith("youtubevis") != clips:
            continue
        row = {"num_classes": entry["num_classes"]}
        for key in KEYS + CLIP_KEYS * clips:
            value = entry["config"]
            for part in key.split("."):
                value = value[part]
            row.update(_flat(value, key))
        rows[path] = row
    first = next(iter(rows.values()))
    common = {key: value for key, value in first.items() if all(row[key] == value for row in rows.values())}
    own = {path: {key: value for key, value in row.items() if key not in common} for path, row in rows.items()}
    return {"common": common, "configs": own}


def load(path: Path = PATH) -> dict[str, dict[str, Any]]:
    """The committed settings of every configuration, by its path."""
    content = json.loads(path.read_text())
    return {path: {**content["common"], **row} for path, row in content["configs"].items()}


if __name__ == "__main__":
    complete = json.loads(Path(sys.argv[1]).read_text())
    for target, trimmed in ((PATH, trim(complete)), (CLIP_PATH, trim(complete, clips=True))):
        rows = ",\n".join(f"  {json.dumps(path)}: {json.dumps(row)}" for path, row in trimmed["configs"].items())
        target.write_text(f'{{"common": {json.dumps(trimmed["common"], indent=1)},\n "configs": {{\n{rows}\n }}\n}}\n')
