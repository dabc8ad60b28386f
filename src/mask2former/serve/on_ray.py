"""The same application in replicas of Ray Serve, which starts, monitors, scales and feeds them. Knows no web."""

from __future__ import annotations

import contextlib
import signal
import time
from collections.abc import Callable
from typing import Any

from mask2former import interrupts
from mask2former.addresses import url_of
from mask2former.errors import FailedError, UserError
from mask2former.inference.opening import ModelSource, model_name, open_predictor
from mask2former.inference.predictor import Predictor
from mask2former.inference.ray_cluster import cluster_address, joined_cluster
from mask2former.models.mask2former import Mask2Former
from mask2former.processors import num_processors
from mask2former.progress import Progress
from mask2former.serve.app import create_app
from mask2former.serve.logs import logging_as_json
from mask2former.serve.settings import RayOptions, ServiceLimits
from mask2former.text import printable

__all__ = ["APPLICATION", "deployment", "serve_on_ray"]

APPLICATION = "mask2former"
_GRACE = 5  # seconds beyond the timeout of a request that a replica may take to stop


def deployment(
    model: str,
    options: RayOptions,
    limits: ServiceLimits,
    token: str | None = None,
    *,
    num_gpus: int = 0,
    **loading: Any,
) -> Any:
    """What ``ray.serve.run`` deploys: each replica loads the model and is its own application.

    Args:
        model: a name, or a file or folder that every machine of the cluster has.
        options: how many replicas.
        limits: of each replica.
        token: see :func:`create_app`.
        num_gpus: of each replica.
        loading: see :func:`~mask2former.inference.opening.open_predictor`.
    """
    from ray import serve

    def build() -> Any:
        told = contextlib.ExitStack()
        told.enter_context(logging_as_json())
        predictor = open_predictor(model, quiet=True, **loading)
        app = create_app(predictor, model, limits, token, with_metrics=False)
        app.state.told = told  # for as long as the replica lives
        return app

    class Replica:
        def check_health(self) -> None:
            if self.app.state.service.is_broken:  # pyright: ignore[reportAttributeAccessIssue]  (of ingress)
                raise RuntimeError("the model no longer works")

    fewest, most = options.replicas
    count: dict[str, Any] = (
        {"num_replicas": fewest}
        if fewest == most
        else {
            "autoscaling_config": {
                "min_replicas": fewest,
                "max_replicas": most,
                "target_ongoing_requests": max(1, limits.batch_size),
            }
        }
    )
    deployed = serve.deployment(
        name=APPLICATION,
        max_ongoing_requests=limits.queue,
        max_queued_requests=options.max_queued,
        ray_actor_options={"num_cpus": options.cpus, "num_gpus": num_gpus},
        graceful_shutdown_timeout_s=limits.timeout + _GRACE,
        max_constructor_retry_count=3,
        **count,
    )(serve.ingress(build)(Replica))
    return deployed.bind()


def serve_on_ray(
    model: ModelSource,
    options: RayOptions,
    host: str,
    port: int,
    token: str | None,
    limits: ServiceLimits,
    started: Callable[[str], None],
    progress: Progress,
    **loading: Any,
) -> None:
    """Deploy on the cluster of ``RAY_ADDRESS``, or on this machine alone, until a signal stops it.

    Args: see :func:`mask2former.serve.serve`.

    Raises:
        UserError: the model cannot be loaded, or is an object (every replica loads its own); or the cluster does not
            exist.
        FailedError: Ray Serve cannot deploy it.
        MissingExtraError: without Ray.
    """
    if isinstance(model, Predictor | Mask2Former):
        raise UserError("every replica loads the model, so give its name, or save it to a file first")
    if not port:
        raise UserError("Ray Serve needs a fixed port number; give one")
    given = cluster_address()
    cores = max(num_processors(), round(options.replicas[1] * options.cpus + 0.5))
    with joined_cluster(given, cores, progress):
        import ray
        from ray import serve

        on_host: dict[str, Any] = {**loading, "device": "cpu"}
        open_predictor(model, progress=progress, **on_host)  # faults are reported here, once
        device = loading.get("device") or "auto"
        num_gpus = int(device.startswith("cuda") or (device == "auto" and ray.cluster_resources().get("GPU", 0) > 0))
        try:
            serve.start(
                proxy_location="HeadOnly" if not given else "EveryNode",
                http_options={"host": host, "port": port, "request_timeout_s": limits.timeout + _GRACE},
            )
            target = deployment(model_name(model), options, limits, token, num_gpus=num_gpus, **loading)
            try:
                serve.run(target, name=APPLICATION)
            except RuntimeError as error:
                raise FailedError(f"Ray Serve could not deploy the model: {printable(str(error), 500)}") from error
            with interrupts.postponed() as is_stopped:
                started(url_of(host, port))
                while not is_stopped():
                    time.sleep(0.2)
                if hasattr(signal, "alarm"):
                    signal.alarm(0)  # Ray's own handler would end the process after three seconds
            serve.delete(APPLICATION)  # when the requests that have begun are finished
        finally:
            if not given:
                serve.shutdown()
