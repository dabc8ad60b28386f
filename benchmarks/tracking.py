"""Quality of tracking: clips of moving scenes that no model has seen, with several methods to link their frames.

    python benchmarks/tracking.py --clips 30 --out benchmarks/results/tracking.json
    python benchmarks/tracking.py --clips 40 --frames 36 --model scene-clips.safetensors --out ...
    python benchmarks/tracking.py --memory --out benchmarks/results/tracking_memory.json

The clips are 120 frames of 128 x 128 pixels in which things cross, leave and return. Every method sees the same frames
through the same model. Video panoptic quality is measured for models of panoptic segmentation. ``--memory`` measures
the peak memory of a process that tracks 50 and 2,000 frames instead.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from mask2former.data.datasets.scenes import SceneClips
from mask2former.files import write_whole
from mask2former.inference.network import Network
from mask2former.inference.predictor import Predictor
from mask2former.inference.tracking import join_frames
from mask2former.metrics.average_precision import VideoInstanceEvaluator
from mask2former.metrics.identity import count_identities, no_identities
from mask2former.metrics.overlaps import added
from mask2former.metrics.video_panoptic import VideoPanopticEvaluator
from mask2former.ops.sparse_masks import pairwise_iou
from mask2former.scenes import SCENE_CATEGORIES
from mask2former.scenes.rendering import draw_scene
from mask2former.structures import PanopticSegmentation, PixelPrediction, Prediction, VideoInstances
from mask2former.structures.ground_truth import ClipGroundTruth, PanopticGroundTruth
from mask2former.structures.tracks import TrackedFrame

SIDE, FIRST_SEED = 128, 8_000_000
NAIVE_IOU = 0.3  # a higher one would break more tracks: things move by up to a third of their size in a frame
MOST = 30  # measured tracks per clip


class Remembering:
    """A network that remembers its outputs for the same pixels, so that several methods are measured with one pass."""

    def __init__(self, network: Network) -> None:
        self.network = network
        self.known: dict[bytes, Sequence[Prediction | PixelPrediction]] = {}

    def __call__(self, images: Sequence[Tensor], /) -> Sequence[Prediction | PixelPrediction]:
        if len(images[0]) != 1:
            return self.network(images)
        key = images[0].numpy().tobytes()
        if key not in self.known:
            self.known[key] = self.network(images)
        return self.known[key]


def naive(frames: list[TrackedFrame]) -> Iterator[TrackedFrame]:
    """The same objects of every frame, linked to the previous frame only by the overlap of masks."""
    previous: TrackedFrame | None = None
    following = 1
    for frame in frames:
        numbers = np.zeros(len(frame), dtype=np.int64)
        if previous is not None:
            ious = pairwise_iou([previous.sparse], [frame.sparse])
            for row, column in zip(*linear_sum_assignment(ious, maximize=True), strict=True):
                if ious[row, column] > NAIVE_IOU:
                    numbers[column] = previous.track_ids[row]
        new = np.flatnonzero(numbers == 0)
        numbers[new] = np.arange(following, following + len(new))
        following += len(new)
        order = np.argsort(numbers)
        previous = TrackedFrame(
            frame.image,
            frame.index,
            frame.seconds,
            numbers[order],
            frame.sparse.take(order),
            frame.labels[order],
            frame.scores[order],
            frame.probabilities[order],
            frame.categories,
        )
        yield previous


class Score:
    """The measurements of one method."""

    def __init__(self) -> None:
        self.tracks = VideoInstanceEvaluator(SCENE_CATEGORIES)
        self.identities = no_identities()
        self.num_tracks = 0

    def add(
        self, result: VideoInstances, frames: list[tuple[np.ndarray, np.ndarray]], ground_truth: ClipGroundTruth
    ) -> None:
        self.tracks.update(result, ground_truth)
        self.identities = added(self.identities, count_identities(frames, ground_truth.masks))
        self.num_tracks += len(set(np.concatenate([numbers for numbers, _ in frames]).tolist()))

    def to_dict(self) -> dict[str, float]:
        metrics = self.tracks.compute()
        return {
            **{name: round(metrics[f"instance/{name}"], 2) for name in ("AP", "AP50", "AR10")},
            "switches": self.identities.switches,
            "found_share": round(100 * self.identities.found / max(1, self.identities.present), 1),
            "tracks": self.num_tracks,
        }


def panoptic_pair(
    predictor: Predictor, clips: SceneClips, index: int
) -> tuple[list[PanopticSegmentation], list[PanopticGroundTruth]]:
    """Predicted and true panoptic segments of each frame of a clip."""
    target = clips[index]
    assert target.target is not None
    labels = target.target.labels.tolist()
    ids = target.info["ids"].numpy()
    segments = [(number, label, False) for number, label in enumerate(labels, start=1)]
    ground_truths = [PanopticGroundTruth(frame, [row for row in segments if (frame == row[0]).any()]) for frame in ids]
    frames = predictor.track(clips.images(index), "panoptic", short_edge=0, window=1)
    return [frame.panoptic for frame in frames if frame.panoptic is not None], ground_truths


def measure(model: str, num_clips: int, num_frames: int, out: Path | None) -> None:
    """Every method on every clip; intermediate results are written after each clip."""
    predictor = Predictor.from_pretrained(model, device="cpu")
    network = predictor.network = Remembering(predictor.network)
    clips = SceneClips(SIDE, num_frames=num_frames, seed=FIRST_SEED, length=num_clips)
    ways = ("frame by frame, mask IoU alone", "tracker, window 1", "tracker, window 8", "one window")
    scores = {way: Score() for way in ways}
    panoptic = VideoPanopticEvaluator(SCENE_CATEGORIES)
    num_objects = 0
    for index in range(num_clips):
        images, ground_truth = clips.images(index), clips.ground_truths(index, ["instance"])["instance"]
        num_objects += len(ground_truth.labels)
        network.known.clear()
        for way in ways:
            if way == "one window":
                result = predictor.clip(
                    images, short_edge=0, max_instances=MOST, things_first=False, instance_threshold=0
                )
                certain = result.above(0.5)
                numbers = np.arange(len(certain))
                rows = [(numbers, certain.masks[:, position]) for position in range(num_frames)]
            else:
                window = 8 if way == "tracker, window 8" else 1
                frames = list(predictor.track(images, "instance", short_edge=0, window=window))
                if way.startswith("frame by frame"):
                    frames = list(naive(frames))
                result = join_frames(frames, things_only=True, max_instances=MOST)
                rows = [(frame.track_ids, frame.masks) for frame in frames]
            scores[way].add(result, rows, ground_truth)
        if "panoptic" in predictor.settings.tasks:
            panoptic.update(*panoptic_pair(predictor, clips, index))
        report = {
            "model": model,
            "clips": index + 1,
            "frames": num_frames,
            "size": [SIDE, SIDE],
            "first_seed": FIRST_SEED,
            "objects": num_objects,
            "ways": {way: score.to_dict() for way, score in scores.items()},
        }
        if "panoptic" in predictor.settings.tasks:
            values = panoptic.compute().items()
            report["video_panoptic"] = {name: round(value, 2) for name, value in values if "VPQ" in name}
        print(json.dumps(report), flush=True)
        if out is not None:
            text = json.dumps(report, indent=1) + "\n"
            write_whole(out, lambda file, text=text: file.write_text(text, encoding="utf-8"))


def changing_scenes(num_frames: int) -> Iterator[np.ndarray]:
    """A different scene after every fourth frame, so that new things appear and are lost all the time."""
    for start in range(0, num_frames, 4):
        image = draw_scene(FIRST_SEED + start, (SIDE, SIDE)).image
        yield from [image] * min(4, num_frames - start)


def track_and_tell(model: str, num_frames: int, window: int) -> None:
    """Work of the separate process for the measurement of memory."""
    predictor = Predictor.from_pretrained(model, device="cpu")
    found = 0
    for frame in predictor.track(changing_scenes(num_frames), "instance", short_edge=0, window=window):
        found = max(found, int(frame.track_ids.max(initial=0)))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"peak_mib": round(peak, 1), "tracks": found}))


def measure_memory(model: str, window: int, out: Path | None) -> None:
    """Peak memory of two processes, one of which tracks forty times as long."""
    rows = {}
    for num_frames in (50, 2000):
        command = [sys.executable, __file__, "--model", model, "--track", str(num_frames), "--window", str(window)]
        rows[str(num_frames)] = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    ratio = rows["2000"]["peak_mib"] / rows["50"]["peak_mib"]
    report = {"model": model, "size": [SIDE, SIDE], "window": window, "frames": rows, "ratio": round(ratio, 3)}
    print(json.dumps(report))
    if out is not None:
        write_whole(out, lambda file: file.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8"))


def main() -> None:
    """Parse the arguments and measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="scenes-tiny")
    parser.add_argument("--clips", type=int, default=30)
    parser.add_argument("--frames", type=int, default=120, help="frames of a clip")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--memory", action="store_true", help="measure peak memory instead")
    parser.add_argument("--window", type=int, default=8, help="frames, for the measurement of memory")
    parser.add_argument("--track", type=int, help="frames of one measurement of memory, for a process of its own")
    arguments = parser.parse_args()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "2")))
    if arguments.track:
        track_and_tell(arguments.model, arguments.track, arguments.window)
    elif arguments.memory:
        measure_memory(arguments.model, arguments.window, arguments.out)
    else:
        measure(arguments.model, arguments.clips, arguments.frames, arguments.out)


if __name__ == "__main__":
    main()
