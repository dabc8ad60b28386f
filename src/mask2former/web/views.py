"""What the browser receives to show a visit: images as data, segments as rows. Knows neither gradio nor visitors."""

from __future__ import annotations

import base64
import io
from collections import Counter
from typing import Any

import numpy as np
from PIL import Image

from mask2former.structures import Categories, Segmentation
from mask2former.text import count, printable
from mask2former.web.visits import Visit

__all__ = ["data_url", "failure", "thumbnail", "view"]

_SHOWN = 1600  # pixels of the longer side on screen; downloads have all of them
_HOVERED = 1024  # of the map that shows which segment is under the pointer
_NAME = 60  # characters


def failure(message: str) -> dict[str, Any]:
    """Nothing to show but a sentence with the reason."""
    return {"kind": "failure", "message": printable(message, 600)}


def view(visit: Visit) -> dict[str, Any]:
    """Everything that the page shows for a visit.

    Keys: ``kind`` (image or clip), ``title``, ``summary``, ``notes``; of an image ``overlay`` and ``map`` (data URLs;
    the map has the number of a row, from 1, as R + 256 G) and ``classes`` (with ``hidden``); of a clip ``video`` (data
    URL); of both ``size`` (width, height) and ``rows``.
    """
    head = {"title": visit.name, "notes": [printable(note, 300) for note in visit.notes]}
    return head | (_image(visit) if visit.clip is None else _clip(visit))


def _image(visit: Visit) -> dict[str, Any]:
    assert visit.image is not None
    every = visit.every_class()
    records, by_id = every.rows(), {item.id: index for index, item in enumerate(every.categories)}
    labels = [by_id[record["category_id"]] for record in records]
    shown = visit.visible(every)
    overlay = shown.plot(visit.image.shown.rgb, scale=None)
    overlay.thumbnail((_SHOWN, _SHOWN), Image.Resampling.LANCZOS)
    height, width = shown.size_hw
    rows = [
        {
            "name": printable(record["category_name"], _NAME),
            "color": _hex(every.categories[label].color),
            "score": record["score"],
            "area": record["area"],
            "share": record["area"] / (height * width),
            "box": [record["x1"], record["y1"], record["x2"], record["y2"]],
        }
        for record, label in zip(records, labels, strict=True)
        if label not in visit.hidden
    ]
    hidden = len(records) - len(rows)
    order = sorted(range(len(rows)), key=lambda index: -rows[index]["area"])  # the largest first
    rows = [rows[index] for index in order]
    noun = {"panoptic": "segment", "instance": "object", "semantic": "class"}[visit.task]
    found = "nothing found" if not rows else count(len(rows), noun)
    return {
        "kind": "image",
        "summary": " · ".join(
            [found, *([f"{hidden} hidden"] if hidden else []), visit.task, f"{width} \N{MULTIPLICATION SIGN} {height}"]
        ),
        "overlay": data_url(overlay, "WEBP"),
        "map": data_url(_map(shown, order), "PNG"),
        "size": [width, height],
        "classes": _classes(labels, visit.hidden, every.categories),
        "rows": rows,
    }


def _map(result: Segmentation, order: list[int]) -> Image.Image:
    """The row of each pixel, from 1, when rows are in this order; where objects overlap, the first of the result."""
    numbers = result.sparse.numbered()
    step = -(-max(numbers.shape) // _HOVERED)
    numbers = numbers[step // 2 :: step, step // 2 :: step] if step > 1 else numbers
    row_of = np.zeros(len(order) + 1, dtype=np.int32)
    row_of[np.array(order, dtype=int) + 1] = np.arange(1, len(order) + 1)
    numbers = row_of[numbers]
    return Image.fromarray(np.stack([numbers & 255, numbers >> 8 & 255, numbers * 0], axis=-1).astype(np.uint8))


def _classes(labels: list[int], hidden: frozenset[int], categories: Categories) -> list[dict[str, Any]]:
    """The classes that occur, and those that are switched off, the most frequent first."""
    counts = Counter(dict.fromkeys(hidden, 0))
    counts.update(labels)
    return [
        {
            "label": label,
            "name": printable(categories[label].name, _NAME),
            "color": _hex(categories[label].color),
            "count": count,
            "hidden": label in hidden,
        }
        for label, count in counts.most_common()
    ]


def _clip(visit: Visit) -> dict[str, Any]:
    clip = visit.clip
    assert clip is not None
    colors = {item.id: _hex(item.color) for item in visit.predictor.categories}
    height, width = clip.size_hw
    seconds = clip.num_frames / clip.rate
    return {
        "kind": "clip",
        "summary": " · ".join(
            [
                count(len(clip.tracks), "track"),
                f"{clip.num_frames} frames in {seconds:.1f} s",
                f"{width} \N{MULTIPLICATION SIGN} {height}",
            ]
        ),
        "size": [width, height],
        "video": "data:video/mp4;base64," + base64.b64encode(clip.video).decode(),
        "rows": [
            {
                "name": f"{printable(track['category_name'], _NAME)} {track['track_id']}",
                "color": colors[track["category_id"]],
                "score": track["score"],
                "first": track["first_frame"] / clip.rate,
                "last": (track["last_frame"] + 1) / clip.rate,
                "frames": track["num_frames"],
            }
            for track in clip.tracks
        ],
    }


def thumbnail(image: np.ndarray, size: int = 144) -> str:
    """A small square of an image as a data URL."""
    side = min(image.shape[:2])
    top, left = (image.shape[0] - side) // 2, (image.shape[1] - side) // 2
    square = Image.fromarray(image[top : top + side, left : left + side])
    return data_url(square.resize((size, size), Image.Resampling.LANCZOS), "WEBP")


def data_url(image: Image.Image, kind: str) -> str:
    """An image inside a URL, so that no visitor's image has an address on the server."""
    stream = io.BytesIO()
    image.save(stream, format=kind, **({"quality": 88, "method": 2} if kind == "WEBP" else {"compress_level": 4}))
    return f"data:image/{kind.lower()};base64,{base64.b64encode(stream.getvalue()).decode()}"


def _hex(color: tuple[int, int, int]) -> str:
    return "#{:02x}{:02x}{:02x}".format(*color)
