"""Metrics of a service for Prometheus. The only module that knows its library."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

__all__ = ["METRICS_TYPE", "Metrics"]

METRICS_TYPE = CONTENT_TYPE_LATEST
_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 25, 60)


class Metrics:
    """The metrics of one application; each has its own registry.

    Args:
        pending: returns how many images are waiting or in progress.
    """

    def __init__(self, pending: Callable[[], int]) -> None:
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)
        here: dict[str, Any] = {"namespace": "mask2former", "registry": self._registry}
        timed: dict[str, Any] = {**here, "buckets": _SECONDS}
        self._requests = Counter("requests", "Finished requests", ("path", "status"), **here)
        self._request_seconds = Histogram("request_seconds", "From the first byte to the last", ("path",), **timed)
        self._waited = Histogram("wait_seconds", "Time that an image waits for the network", **timed)
        self._called = Histogram("network_seconds", "Time of a batch in the network", **timed)
        self._batches = Histogram("batch_images", "Images per batch", buckets=(1, 2, 4, 8, 16, 32, 64), **here)
        self._images = Counter("images", "Images that were segmented", **here)
        Gauge("pending_images", "Images that are waiting or in progress", **here).set_function(pending)

    def finished(self, path: str, status: int, seconds: float) -> None:
        """Count a request."""
        self._requests.labels(path, str(status)).inc()
        self._request_seconds.labels(path).observe(seconds)

    def called(self, num_images: int, seconds: float) -> None:
        """Count a batch."""
        self._batches.observe(num_images)
        self._called.observe(seconds)

    def segmented(self, waited: float) -> None:
        """Count an image and the seconds that it has waited."""
        self._images.inc()
        self._waited.observe(waited)

    def text(self) -> bytes:
        """All metrics, in Prometheus format."""
        return generate_latest(self._registry)
