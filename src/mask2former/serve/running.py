"""Starting and stopping a service: one process with uvicorn, or replicas with Ray Serve."""

from __future__ import annotations

import asyncio
import logging
import math
import socket
from collections.abc import Callable
from typing import Any

import mask2former
from mask2former import interrupts
from mask2former.addresses import bound, is_loopback, url_of
from mask2former.connections import KEEP_ALIVE, limited_connections
from mask2former.errors import FailedError
from mask2former.inference.opening import ModelSource, model_name, open_predictor
from mask2former.processors import limit_threads
from mask2former.progress import Progress, silent
from mask2former.serve.app import create_app
from mask2former.serve.logs import logging_as_json
from mask2former.serve.settings import RayOptions, ServiceLimits

__all__ = ["serve"]

_logger = logging.getLogger("mask2former.serve")
_GRACE = 5  # seconds beyond the timeout of a request that stopping may take


def serve(
    model: ModelSource,
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    token: str | None = None,
    limits: ServiceLimits | None = None,
    ray: RayOptions | None = None,
    started: Callable[[str], None] = lambda url: None,
    progress: Progress = silent,
    **loading: Any,
) -> None:
    """Serve a model until a signal stops it; requests in progress are finished first.

    PyTorch gets no more threads than the container allows processors, unless ``OMP_NUM_THREADS`` sets their number.

    Args:
        model: what predicts.
        host: the address to listen on; by default only this machine can connect.
        port: 0: any free port.
        token: that requests must include; see :func:`~mask2former.serve.read_token`.
        limits: what is accepted.
        ray: deploy it on Ray Serve.
        started: called with the address once images are accepted.
        progress: called during the download.
        loading: see :func:`~mask2former.inference.opening.open_predictor`.

    Raises:
        UserError: the model cannot be loaded, or the address is in use.
    """
    limits = limits or ServiceLimits()
    with logging_as_json():
        if token is None and not is_loopback(host):
            _logger.warning("anybody who can reach %s can use this service: set a token, or restrict access", host)
        if ray is not None:
            from mask2former.serve.on_ray import serve_on_ray

            serve_on_ray(model, ray, host, port, token, limits, started, progress, **loading)
            return
        limit_threads()
        # The port before the model, so that one in use is reported at once.
        with bound(host, port) as listener:
            predictor = open_predictor(model, progress=progress, **loading)
            _run(create_app(predictor, model_name(model), limits, token), listener, limits, started)


def _run(app: Any, listener: socket.socket, limits: ServiceLimits, started: Callable[[str], None]) -> None:
    import uvicorn

    class Server(uvicorn.Server):
        has_ended = False

        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            if self.started:
                url = url_of(*listener.getsockname()[:2])
                service = app.state.service
                facts = {"url": url, "model": service.name, "weights_sha256": service.weights_sha256}
                _logger.info("ready", extra={"facts": facts | {"version": mask2former.__version__}})
                started(url)

        async def on_tick(self, counter: int) -> bool:
            return await super().on_tick(counter) or is_stopped()  # a closed terminal, which uvicorn does not handle

        async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
            await super().shutdown(sockets)
            self.has_ended = True

    config = uvicorn.Config(
        app,
        http=limited_connections(limits.timeout),
        timeout_keep_alive=KEEP_ALIVE,
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=math.ceil(limits.timeout) + _GRACE,
    )
    server = Server(config)
    with interrupts.postponed() as is_stopped:  # uvicorn has its own handlers, and raises again what it received
        try:
            asyncio.run(server.serve([listener]))
        except KeyboardInterrupt:  # received twice
            if not server.has_ended:
                raise
        except SystemExit as error:  # how uvicorn reports that the application does not start
            raise FailedError("the service could not start; its log says why") from error
