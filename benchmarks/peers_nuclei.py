"""StarDist and Cellpose on the nuclei of docs/results.md: same images, same core-hours, and one script for all.

Each is trained from random weights on one thread for a budget of CPU time, as documented by its authors:

- StarDist (``stardist==0.9.2``, ``tensorflow-cpu``): the notebook of its documentation (32 rays, grid 2, batches of 4
  patches of 256x256, Adam at 0.0003, flips, turns, brightness, noise), stopped when the budget is used up; weights of
  the best validation loss; both thresholds by ``optimize_thresholds``.
- Cellpose (``cellpose==3.1.1.3``, the last version that trains from scratch): SGD at 0.1 with a weight decay of
  0.0001, batches of 8 patches of 224x224, as many epochs of 32 images as fit the budget (estimated from the first
  five), so that its learning rate schedule ends within it; a size model from 96 images; the threshold of the cell
  probability is chosen. ``finish cellpose`` does the remaining steps if it was stopped after training.

A seventh of the training images (complete groups of tiles) is held back for these choices. Validation images are used
only by ``predict``. ``measure`` needs numpy, scipy and pycocotools, and reads any results in COCO's format.

    pip install 'stardist==0.9.2' tensorflow-cpu 'cellpose==3.1.1.3' pycocotools
    python benchmarks/peers_nuclei.py train stardist nuclei runs/stardist --hours 1.4
    python benchmarks/peers_nuclei.py predict stardist nuclei runs/stardist stardist.json
    mask2former predict nuclei/val --model nuclei --also coco-results --output predictions
    python benchmarks/peers_nuclei.py measure nuclei stardist.json --score 0.5 --output measured.json
"""

# pyright: reportMissingImports=false, reportMissingModuleSource=false
# Peers are installed for this benchmark only.

from __future__ import annotations

import argparse
import json
import os
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

os.environ.update({name: "1" for name in ("OMP_NUM_THREADS", "TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS")})

import numpy as np
from PIL import Image
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from scipy.optimize import linear_sum_assignment

MAX_DETECTIONS = 400
HELD_BACK = 7  # one group of tiles in this many
CELL_PROBABILITIES = (-2.0, -1.0, 0.0, 1.0, 2.0)


class Sample(NamedTuple):
    """An RGB image with its instances as a map of numbers from 1."""

    name: str
    image: np.ndarray
    labels: np.ndarray


class Prediction(NamedTuple):
    """Instances of an image: a map of numbers from 1 and the score of each."""

    labels: np.ndarray
    scores: np.ndarray


Segment = Callable[[np.ndarray], Prediction]


def samples(data: Path, part: str, *, groups: Callable[[int], bool] = lambda _: True) -> list[Sample]:
    """The images of ``part`` in the selected groups of tiles."""
    coco: Any = COCO(str(data / "annotations" / f"instances_{part}.json"))
    found = []
    for entry in coco.dataset["images"]:
        if not groups(entry["tile_group"]):
            continue
        labels = np.zeros((entry["height"], entry["width"]), np.int32)
        for number, annotation in enumerate(coco.imgToAnns[entry["id"]], start=1):
            labels[coco.annToMask(annotation) > 0] = number
        with Image.open(data / part / entry["file_name"]) as image:
            found.append(Sample(entry["file_name"], np.asarray(image.convert("RGB")), labels))
    return found


def parts_of_training(data: Path) -> tuple[list[Sample], list[Sample]]:
    """Images for training, and those held back for choices."""
    learnt = samples(data, "train", groups=lambda group: group % HELD_BACK != 0)
    held_back = samples(data, "train", groups=lambda group: group % HELD_BACK == 0)
    print(f"{len(learnt)} images to learn from, {len(held_back)} held back", flush=True)
    return learnt, held_back


# ---- StarDist


def _stardist_image(image: np.ndarray) -> np.ndarray:
    from csbdeep.utils import normalize

    return normalize(image, 1, 99.8, axis=(0, 1))


def _stardist_augmented(image: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Flips, quarter turns, brightness and noise as in the notebook of its documentation."""
    turns, mirrored = np.random.randint(4), np.random.rand() < 0.5
    image, labels = np.rot90(image, turns), np.rot90(labels, turns)
    if mirrored:
        image, labels = image[::-1], labels[::-1]
    image = image * np.random.uniform(0.6, 2) + np.random.uniform(-0.2, 0.2)
    return image + 0.02 * np.random.uniform(0, 1) * np.random.normal(0, 1, image.shape), labels


def train_stardist(data: Path, output: Path, seconds: float) -> dict[str, Any]:
    """Write a model into ``output``; returns steps, core-hours and the chosen thresholds."""
    import tensorflow as tf
    from stardist.models import Config2D, StarDist2D

    tf.random.set_seed(0)
    learnt, held_back = parts_of_training(data)
    model = StarDist2D(
        Config2D(n_rays=32, grid=(2, 2), n_channel_in=3, use_gpu=False), name=output.name, basedir=str(output.parent)
    )
    model.prepare_for_training()
    start = time.process_time()

    class Budget(tf.keras.callbacks.Callback):
        """Ends training when the CPU time is used up."""

        epochs = 0

        def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
            used = time.process_time() - start
            self.epochs = epoch + 1
            losses = {name: round(float(value), 4) for name, value in (logs or {}).items() if "loss" in name}
            with (output / "losses.jsonl").open("a") as log:
                log.write(json.dumps({"epoch": epoch, "seconds": round(used), **losses}) + "\n")
            if used + used / (epoch + 1) > seconds and self.model is not None:
                self.model.stop_training = True

    budget = Budget()
    model.callbacks.append(budget)
    learn = [(_stardist_image(s.image), s.labels) for s in learnt]
    check = [(_stardist_image(s.image), s.labels) for s in held_back]
    model.train(
        *map(list, zip(*learn, strict=True)),
        validation_data=tuple(map(list, zip(*check, strict=True))),
        augmenter=_stardist_augmented,
        seed=0,
    )
    used = time.process_time() - start
    thresholds = model.optimize_thresholds(*map(list, zip(*check, strict=True)))
    return {"steps": 100 * budget.epochs, "core_hours": used / 3600, "thresholds": dict(thresholds)}


def stardist(output: Path) -> Segment:
    """The trained model, as a function of an image."""
    from stardist.models import StarDist2D

    model = StarDist2D(None, name=output.name, basedir=str(output.parent))

    def segment(image: np.ndarray) -> Prediction:
        # Average precision also needs uncertain instances. Suppression is by falling probability, so they take nothing
        # from the certain ones, which are drawn above them.
        labels, details = model.predict_instances(_stardist_image(image), prob_thresh=0.1)
        return Prediction(labels, np.asarray(details["prob"]))

    return segment


# ---- Cellpose


def train_cellpose(data: Path, output: Path, seconds: float) -> dict[str, Any]:
    """Write a model and its size model into ``output``; returns steps, core-hours and the chosen threshold."""
    import torch
    from cellpose import dynamics, models, train

    torch.set_num_threads(1)
    torch.manual_seed(0)
    learnt, _ = parts_of_training(data)
    start = time.process_time()
    images = [s.image for s in learnt]
    flows = dynamics.labels_to_flows([s.labels for s in learnt], device=torch.device("cpu"))
    output.mkdir(parents=True, exist_ok=True)

    def fit(epochs: int) -> None:
        torch.manual_seed(0)
        model = models.CellposeModel(gpu=False, pretrained_model="", diam_mean=17.0)  # value of its model for nuclei
        train.train_seg(
            model.net,
            train_data=images,
            train_labels=flows,
            channels=[0, 0],
            normalize=True,
            SGD=True,
            learning_rate=0.1,
            weight_decay=1e-4,
            batch_size=8,
            nimg_per_epoch=32,
            n_epochs=epochs,
            save_every=10,
            save_path=str(output),
            model_name="model",
        )

    prepared = time.process_time()
    fit(1)
    one = time.process_time()
    fit(5)
    each = (time.process_time() - one - (one - prepared)) / 4
    epochs = int((seconds - (prepared - start)) / each)
    print(f"{each:.0f} s an epoch: {epochs} epochs", flush=True)
    begun = time.process_time()
    fit(epochs)
    used = time.process_time() - begun + prepared - start
    trained = {"steps": 4 * epochs, "epochs": epochs, "core_hours": used / 3600}
    (output / "trained.json").write_text(json.dumps(trained))
    return {**trained, **finish_cellpose(data, output)}


def finish_cellpose(data: Path, output: Path) -> dict[str, Any]:
    """The size model of a trained model, and the threshold; not counted in its hours, as for the other methods."""
    import torch
    from cellpose import models, train

    torch.set_num_threads(1)
    learnt, held_back = parts_of_training(data)
    path = output / "models" / "model"
    model = models.CellposeModel(gpu=False, pretrained_model=str(path))
    np.random.seed(0)
    train.train_size(
        model.net,
        str(path),
        train_data=[s.image for s in learnt],
        train_labels=[s.labels for s in learnt],
        channels=[0, 0],
        normalize=True,
        n_epochs=1,
        nimg_per_epoch=96,
        batch_size=8,
    )
    found: dict[float, list[tuple[np.ndarray, np.ndarray]]] = defaultdict(list)
    flows = _cellpose_flows(output)
    for sample in held_back[::2]:
        masks, _ = flows(sample.image)
        for value in CELL_PROBABILITIES:
            found[value].append((masks(value), sample.labels))
    best = max((pooled(pairs, 0.5), value) for value, pairs in found.items())
    chosen = {"cell_probability": best[1], "pooled_held_back": best[0]}
    (output / "chosen.json").write_text(json.dumps(chosen))
    return chosen


Masks = Callable[[float], np.ndarray]


def _cellpose_flows(output: Path) -> Callable[[np.ndarray], tuple[Masks, np.ndarray]]:
    """The network's part: a function from a threshold to instances, and the cell probability of each pixel."""
    import torch
    from cellpose import dynamics, models

    torch.set_num_threads(1)
    path = output / "models" / "model"
    model = models.CellposeModel(gpu=False, pretrained_model=str(path))
    sizes = models.SizeModel(model, pretrained_size=f"{path}_size.npy")

    def run(image: np.ndarray) -> tuple[Masks, np.ndarray]:
        diameter, _ = sizes.eval(image, channels=[0, 0])
        _, flows, _ = model.eval(image, channels=[0, 0], diameter=diameter, compute_masks=False)

        def masks(value: float) -> np.ndarray:  # same steps as in eval() after its network
            steps = int(200 * diameter / model.diam_mean)
            return dynamics.resize_and_compute_masks(
                flows[1], flows[2], niter=steps, cellprob_threshold=value, device=model.device
            )

        return masks, 1 / (1 + np.exp(-flows[2]))

    return run


def cellpose(output: Path) -> Segment:
    """The trained model with the chosen threshold, as a function of an image."""
    threshold = json.loads((output / "chosen.json").read_text())["cell_probability"]
    flows = _cellpose_flows(output)

    def segment(image: np.ndarray) -> Prediction:
        masks, likely = flows(image)
        labels = masks(threshold)
        count = int(labels.max())
        sums = np.bincount(labels.ravel(), likely.ravel(), count + 1)[1:]
        return Prediction(labels, sums / np.maximum(np.bincount(labels.ravel(), minlength=count + 1)[1:], 1))

    return segment


# ---- the same for all


def predict(segment: Segment, data: Path) -> tuple[list[dict[str, Any]], dict[str, float]]:
    """Results in COCO's format, and seconds per image (median, and mean of CPU time)."""
    coco: Any = COCO(str(data / "annotations" / "instances_val.json"))
    ids = {entry["file_name"]: entry["id"] for entry in coco.dataset["images"]}
    results, walls = [], []
    shown = samples(data, "val")
    segment(shown[0].image)  # the first one compiles
    cpu = time.process_time()
    for sample in shown:
        start = time.perf_counter()
        found = segment(sample.image)
        walls.append(time.perf_counter() - start)
        for number, score in enumerate(found.scores, start=1):
            mask = found.labels == number
            if mask.any():
                rle: Any = coco_mask.encode(np.asfortranarray(mask))
                rle["counts"] = rle["counts"].decode()
                results.append(
                    {"image_id": ids[sample.name], "category_id": 1, "score": float(score), "segmentation": rle}
                )
    times = {"seconds_median": float(np.median(walls)), "cpu_seconds_mean": (time.process_time() - cpu) / len(shown)}
    return results, times


def matched(overlaps: np.ndarray, least: float) -> int:
    """The largest number of pairs with an IoU of at least ``least``, with each instance in at most one pair."""
    allowed = overlaps >= least
    if not allowed.any():
        return 0
    rows, columns = linear_sum_assignment(allowed.astype(float), maximize=True)
    return int(allowed[rows, columns].sum())


def pooled(pairs: Sequence[tuple[np.ndarray, np.ndarray]], least: float) -> float:
    """TP / (TP + FP + FN) over all images, from maps of numbers, predicted and true."""
    true_positives = total = 0
    for predicted, truth in pairs:
        columns = int(truth.max()) + 1
        both = np.bincount((predicted.astype(np.int64) * columns + truth).ravel(), minlength=0)
        both = np.pad(both, (0, (int(predicted.max()) + 1) * columns - len(both))).reshape(-1, columns)
        union = both.sum(1, keepdims=True) + both.sum(0, keepdims=True) - both
        hits = matched((both / np.maximum(union, 1))[1:, 1:], least)
        true_positives += hits
        total += both.shape[0] + both.shape[1] - 2 - hits
    return true_positives / max(total, 1)


def measure(data: Path, results: list[dict[str, Any]], score: float) -> dict[str, Any]:
    """COCO's AP with 400 detections per image, and TP / (TP + FP + FN) above ``score``: pooled, and mean of images."""
    coco: Any = COCO(str(data / "annotations" / "instances_val.json"))
    evaluated = COCOeval(coco, coco.loadRes(results), "segm")
    evaluated.params.maxDets = [1, 100, MAX_DETECTIONS]
    evaluated.evaluate()
    evaluated.accumulate()
    precision = evaluated.eval["precision"][:, :, 0, 0, -1]
    thresholds = [round(0.5 + 0.05 * step, 2) for step in range(9)]
    counts: dict[str, list[np.ndarray]] = defaultdict(list)
    predicted = defaultdict(list)
    for entry in results:
        if entry["score"] >= score:
            predicted[entry["image_id"]].append(entry["segmentation"])
    for image in coco.dataset["images"]:
        truth = [annotation["segmentation"] for annotation in coco.imgToAnns[image["id"]]]
        found = predicted[image["id"]]
        overlaps = np.zeros((len(found), len(truth)))
        if found and truth:
            overlaps = np.asarray(coco_mask.iou(found, truth, [0] * len(truth)))
        hits = np.array([matched(overlaps, least) for least in thresholds])
        for kind in ("all", image["modality"], image["modality"].split("_")[0]):
            counts[kind].append(np.stack([hits, len(found) + len(truth) - hits]))

    def shares(kind: str) -> dict[str, float]:
        stacked = np.stack(counts[kind]).astype(float)  # images, hits and total, thresholds
        of_all = stacked[:, 0].sum(0) / stacked[:, 1].sum(0)
        of_each = stacked[:, 0] / np.maximum(stacked[:, 1], 1)
        return {
            "images": len(stacked),
            "pooled_50": 100 * of_all[0],
            "pooled": 100 * float(of_all.mean()),
            "mean_of_images_50": 100 * float(of_each[:, 0].mean()),
        }

    return {
        "score": score,
        "AP": 100 * float(precision[precision > -1].mean()),
        "AP50": 100 * float(precision[0][precision[0] > -1].mean()),
        "kinds": {kind: shares(kind) for kind in sorted(counts)},
    }


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    verbs = parser.add_subparsers(dest="verb", required=True)
    for verb in ("train", "finish", "predict"):
        sub = verbs.add_parser(verb)
        sub.add_argument("peer", choices=("stardist", "cellpose"))
        sub.add_argument("data", type=Path)
        sub.add_argument("run", type=Path)
        if verb == "finish":
            continue  # an option of Cellpose, for runs that were stopped after training
        if verb == "train":
            sub.add_argument("--hours", type=float, default=1.4, help="CPU time of training")
        else:
            sub.add_argument("results", type=Path)
    sub = verbs.add_parser("measure")
    sub.add_argument("data", type=Path)
    sub.add_argument("results", type=Path)
    sub.add_argument("--score", type=float, required=True)
    sub.add_argument("--output", type=Path)
    return parser.parse_args()


def _sizes(run: Path) -> Iterator[tuple[str, int]]:
    for name in ("weights_best.h5", "models/model"):
        if (run / name).exists():
            yield name, (run / name).stat().st_size


def main() -> None:
    """Run the command that was given."""
    arguments = _arguments()
    if arguments.verb == "train":
        train = {"stardist": train_stardist, "cellpose": train_cellpose}[arguments.peer]
        report = train(arguments.data, arguments.run, 3600 * arguments.hours)
        report["bytes"] = dict(_sizes(arguments.run))
        (arguments.run / "training.json").write_text(json.dumps(report, indent=2, default=float) + "\n")
    elif arguments.verb == "finish":
        trained = json.loads((arguments.run / "trained.json").read_text())
        report = {**trained, **finish_cellpose(arguments.data, arguments.run), "bytes": dict(_sizes(arguments.run))}
        (arguments.run / "training.json").write_text(json.dumps(report, indent=2, default=float) + "\n")
    elif arguments.verb == "predict":
        results, report = predict(
            {"stardist": stardist, "cellpose": cellpose}[arguments.peer](arguments.run), arguments.data
        )
        arguments.results.write_text(json.dumps(results))
    else:
        report = measure(arguments.data, json.loads(arguments.results.read_text()), arguments.score)
        if arguments.output:
            arguments.output.write_text(json.dumps(report, indent=2) + "\n")
    print(json.dumps(report, indent=2, default=float))


if __name__ == "__main__":
    main()
