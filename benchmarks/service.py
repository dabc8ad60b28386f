"""``mask2former serve`` under load, on a single machine: images per second, time of each, and what is lost.

Two services alternate, one with batches (``--batch-size 8``) and one that sends every image alone through the network
(``--batch-size 1``). Each gets one image at a time, then requests from 16 clients at once, which shows how many images
per second it can process (its capacity), then a steady rate of 1, 2 and 4 times the capacity of the second. Every
result is compared pixel by pixel with a predictor's result for its image: that of another image differs in most pixels.

Then the resident memory of a service during 2,000 requests is measured. ``pytest -m slow
tests/integration/test_serve.py`` shows what happens to requests when a replica on Ray Serve is killed.

    python benchmarks/service.py --output benchmarks/results/service.json
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import collections
import contextlib
import io
import itertools
import json
import os
import platform
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import torch
from PIL import Image

from mask2former import Predictor
from mask2former.scenes import draw_scene

QUERY = "/v1/predict?task=panoptic&masks=png"
CLIENTS = 16
NUM_SCENES = 12
QUEUE = 32
ANOTHER = 0.02  # share of pixels above which a result counts as that of another image
WINDOW = 250  # requests between two measurements of memory


@dataclass(frozen=True)
class Scene:
    """An image to send, and a predictor's id map for it."""

    content: bytes
    ids: np.ndarray


def make_scenes(model: str, count: int, size_hw: tuple[int, int], **settings: Any) -> list[Scene]:
    """Different images, with their expected results."""
    predictor = Predictor.from_pretrained(model, device="cpu", quiet=True, **settings)
    scenes = []
    for number in range(count):
        image = draw_scene(1000 + number, size_hw).image
        stream = io.BytesIO()
        Image.fromarray(image).save(stream, "JPEG", quality=95)
        decoded = np.asarray(Image.open(stream))
        scenes.append(Scene(stream.getvalue(), predictor(decoded, "panoptic").ids))
    return scenes


@dataclass
class Tally:
    """Outcomes of requests."""

    sent: int = 0
    statuses: collections.Counter[int] = field(default_factory=collections.Counter)
    milliseconds: list[float] = field(default_factory=list)
    differs: list[float] = field(default_factory=list)  # share of pixels, of each result
    seconds: float = 0.0

    def figures(self) -> dict[str, Any]:
        good = self.statuses[200]
        marks = np.percentile(self.milliseconds, (50, 95, 99)).round(1).tolist() if self.milliseconds else [None] * 3
        return {
            "sent": self.sent,
            "statuses": {str(status): count for status, count in sorted(self.statuses.items())},
            "lost": self.sent - self.statuses.total(),
            "of_another_image": sum(share > ANOTHER for share in self.differs),
            "most_pixels_differing_percent": round(100 * max(self.differs, default=0.0), 3),
            "images_per_second": round(good / self.seconds, 2) if self.seconds else None,
            "milliseconds": dict(zip(("p50", "p95", "p99"), marks, strict=True)),
        }


async def ask(client: httpx.AsyncClient, scene: Scene, tally: Tally) -> None:
    """Send one request, and compare its result with the expected one."""
    tally.sent += 1
    began = time.perf_counter()
    try:
        reply = await client.post(QUERY, content=scene.content, headers={"Content-Type": "image/jpeg"})
    except httpx.TransportError:
        tally.statuses[0] += 1  # the connection broke, which the client notices
        return
    tally.statuses[reply.status_code] += 1
    if reply.status_code == 200:
        tally.milliseconds.append(1000 * (time.perf_counter() - began))
        [result] = reply.json()["results"]
        found = np.asarray(Image.open(io.BytesIO(base64.b64decode(result["label_map"]))).convert("RGB")).astype(int)
        ids = found[..., 0] + 256 * found[..., 1] + 65536 * found[..., 2]
        tally.differs.append(float((ids != scene.ids).mean()) if ids.shape == scene.ids.shape else 1.0)


async def by_clients(url: str, scenes: Sequence[Scene], count: int, clients: int) -> Tally:
    """Requests by ``clients`` clients, each of which sends its next image when it has the last result."""
    tally, turns = Tally(), iter(range(count))

    async def work(client: httpx.AsyncClient) -> None:
        for number in turns:
            await ask(client, scenes[number % len(scenes)], tally)

    began = time.perf_counter()
    async with httpx.AsyncClient(base_url=url, timeout=120) as client:
        await asyncio.gather(*(work(client) for _ in range(clients)))
    tally.seconds = time.perf_counter() - began
    return tally


async def at_rate(url: str, scenes: Sequence[Scene], count: int, per_second: float) -> Tally:
    """Requests at a steady rate, whether or not earlier ones are finished."""
    tally = Tally()
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=2 * QUEUE)
    began = time.perf_counter()
    async with httpx.AsyncClient(base_url=url, timeout=120, limits=limits) as client, asyncio.TaskGroup() as group:
        for number in range(count):
            await asyncio.sleep(max(0.0, began + number / per_second - time.perf_counter()))
            group.create_task(ask(client, scenes[number % len(scenes)], tally))
    tally.seconds = time.perf_counter() - began
    return tally


@contextlib.contextmanager
def served(model: str, *options: str) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """A service in a separate process, and its address."""
    command = [sys.executable, "-m", "mask2former", "serve", model, "--port", "0", "--device", "cpu", *options]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    assert process.stdout is not None
    try:
        for line in process.stdout:
            if found := re.search(r"http://[\d.:]+", line):
                yield found[0], process
                break
        else:
            raise RuntimeError(f"the service did not start: {' '.join(command)}")
        process.send_signal(signal.SIGTERM)
        assert process.wait(90) == 0, "the service ended badly"
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def resident(pid: int) -> float:
    """Resident memory of a process in MiB."""
    [line] = [line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmRSS")]
    return int(line.split()[1]) / 1024


async def under_load(urls: dict[str, str], scenes: Sequence[Scene], count: int) -> dict[str, Any]:
    """Each kind of load, for each service in turn."""
    found: dict[str, Any] = {name: {} for name in urls}
    for url in urls.values():  # the first requests to a service are slower
        await by_clients(url, scenes, 2 * CLIENTS, CLIENTS)
    for name, url in urls.items():
        found[name]["one at a time"] = (await by_clients(url, scenes, count, 1)).figures()
    for name, url in urls.items():
        found[name][f"{CLIENTS} clients"] = (await by_clients(url, scenes, 2 * count, CLIENTS)).figures()
    capacity = found["alone"][f"{CLIENTS} clients"]["images_per_second"]
    found["capacity"] = capacity
    for times in (1, 2, 4):
        for name, url in urls.items():
            found[name][f"{times} x capacity"] = (await at_rate(url, scenes, times * count, times * capacity)).figures()
    return found


async def memory(url: str, pid: int, scenes: Sequence[Scene], count: int) -> dict[str, Any]:
    """Resident memory after every :data:`WINDOW` requests."""
    marks = []
    tally = Tally()
    while tally.sent < count:
        part = await by_clients(url, scenes, min(WINDOW, count - tally.sent), 4)
        tally.sent += part.sent
        tally.statuses += part.statuses
        tally.differs += part.differs
        marks.append(round(resident(pid), 1))
        print(f"{tally.sent} requests: {marks[-1]} MiB", file=sys.stderr, flush=True)
    return {"requests": tally.figures(), "mebibytes": marks, "window": WINDOW}


def main() -> None:
    """Run all selected parts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, help="JSON with all figures")
    parser.add_argument("--model", default="scenes-tiny")
    parser.add_argument("--size", type=int, nargs=2, default=(240, 320), metavar=("HEIGHT", "WIDTH"))
    parser.add_argument("--requests", type=int, default=100, help="of one client; others send multiples")
    parser.add_argument("--memory", type=int, default=2000, help="requests of that part; 0 leaves it out")
    arguments = parser.parse_args()
    scenes = make_scenes(arguments.model, NUM_SCENES, tuple(arguments.size))
    apart = [float((one.ids != other.ids).mean()) for one, other in itertools.pairwise(scenes)]
    result: dict[str, Any] = {
        "machine": {"processor": platform.processor(), "cores": os.cpu_count(), "torch": torch.__version__},
        "model": arguments.model,
        "size_hw": arguments.size,
        "scenes_differ_percent": round(100 * min(apart), 1),  # difference of the result of another image
    }
    if arguments.requests:
        options = ("--queue", str(QUEUE), "--max-images", "8", "--batch-size")
        with (
            served(arguments.model, *options, "8") as (batches, _),
            served(arguments.model, *options, "1") as (alone, _),
        ):
            result["load"] = asyncio.run(under_load({"batches": batches, "alone": alone}, scenes, arguments.requests))
    if arguments.memory:
        small = make_scenes(arguments.model, NUM_SCENES, (64, 64), short_edge=64)
        with served(arguments.model, "--short-edge", "64") as (url, process):
            asyncio.run(by_clients(url, small, 100, 4))
            result["memory"] = asyncio.run(memory(url, process.pid, small, arguments.memory))
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
