"""Starting and stopping a service: one process with uvicorn, or replicas with Ray Serve."""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import math
import socket
from collections.abc import Callable
from typing import Any

from mask2former import interrupts
from mask2former.errors import FailedError, OptionError
from mask2former.inference.opening import ModelSource, model_name, open_predictor
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
        if token is None and not _is_loopback(host):
            _logger.warning("anybody who can reach %s can use this service: set a token, or restrict access", host)
        if ray is not None:
            from mask2former.serve.on_ray import serve_on_ray

            serve_on_ray(model, ray, host, port, token, limits, started, progress, **loading)
            return
        with _bound(host, port) as listener:  # before the model: a port in use is reported at once
            predictor = open_predictor(model, progress=progress, **loading)
            _run(create_app(predictor, model_name(model), limits, token), listener, limits, started)


def _run(app: Any, listener: socket.socket, limits: ServiceLimits, started: Callable[[str], None]) -> None:
    import uvicorn

    class Server(uvicorn.Server):
        has_ended = False

        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            if self.started:
                address = listener.getsockname()
                host = f"[{address[0]}]" if listener.family == socket.AF_INET6 else address[0]
                url = f"http://{host}:{address[1]}"
                _logger.info("ready", extra={"facts": {"url": url, "model": app.state.service.name}})
                started(url)

        async def on_tick(self, counter: int) -> bool:
            return await super().on_tick(counter) or is_stopped()  # a closed terminal, which uvicorn does not handle

        async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
            await super().shutdown(sockets)
            self.has_ended = True

    config = uvicorn.Config(
        app,
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


def _bound(host: str, port: int) -> socket.socket:
    """A socket that reserves an address and refuses connections until listening starts.

    Raises:
        UserError: the address does not belong to this machine, or is in use.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind, protocol)
    except (OSError, UnicodeError) as error:
        raise _no_address(f"{host!r} is not an address of this machine", error) from error
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
    except OSError as error:
        listener.close()
        raise _no_address(f"cannot listen on {host}, port {port}", error) from error
    return listener


def _no_address(what: str, error: Exception) -> OptionError:
    reason = getattr(error, "strerror", None) or str(error)
    return OptionError(lambda name: f"{what} ({reason}); choose another {name('port')} or {name('host')}")


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
