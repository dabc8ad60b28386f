"""A Ray cluster: a running one, or one on this machine only. It does not depend on the work to be done."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import threading
from collections.abc import Iterator
from typing import Any

from mask2former.errors import UserError
from mask2former.extras import need
from mask2former.progress import Progress
from mask2former.text import printable

__all__ = ["cluster_address", "joined_cluster"]

_PATIENCE = 5.0  # seconds until a cluster must accept a connection
_HOST_AND_PORT = re.compile(r"(?:ray://)?(?P<host>[^/:]+|\[[0-9a-fA-F:]+\]):(?P<port>\d{1,5})")


def cluster_address(address: str | None = None) -> str | None:
    """The given cluster, or else that of ``RAY_ADDRESS``; None: only this machine."""
    return address or os.environ.get("RAY_ADDRESS") or None


@contextlib.contextmanager
def joined_cluster(address: str | None, num_cpus: int, progress: Progress, **quiet: Any) -> Iterator[None]:
    """Ray for the duration of the block; if it is already initialised, it is left unchanged.

    Args:
        address: the result of :func:`cluster_address`.
        num_cpus: number of cores that Ray assumes if it runs only on this machine.
        progress: receives a step when Ray starts.
        quiet: arguments of ``ray.init`` about its logs.

    Raises:
        UserError: there is no such cluster, or Ray cannot be started.
        MissingExtraError: Ray is not installed.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # otherwise Ray would send usage data to its makers
    need("ray", "ray", to="run on a cluster")
    import ray

    if ray.is_initialized():
        yield
        return
    if address:
        _check_reachable(address)
    progress("starting Ray", 0, None)
    # If Ray runs only on this machine, it also only listens on this machine.
    alone = {"num_cpus": num_cpus, "include_dashboard": False, "_node_ip_address": "127.0.0.1"}
    with _kept_signals():
        try:
            ray.init(address or "local", **quiet, **({} if address else alone))
        except (ConnectionError, RuntimeError, ValueError) as error:
            where = f"there is no Ray cluster at '{printable(address, 200)}'" if address else "Ray cannot be started"
            raise UserError(f"{where}: {printable(str(error), 200)}") from error
    try:
        yield
    finally:
        ray.shutdown()


def _check_reachable(address: str) -> None:
    """Check that a host and port accept connections: Ray itself tries for minutes, and then ends the process.

    Other addresses, such as ``auto``, are resolved by Ray.
    """
    if not (found := _HOST_AND_PORT.fullmatch(address)):
        return
    where = (found["host"].strip("[]"), int(found["port"]))
    try:
        socket.create_connection(where, _PATIENCE).close()
    except (OSError, OverflowError) as error:
        raise UserError(
            f"there is no Ray cluster at '{printable(address, 200)}' ({printable(str(error), 100)}); start one there "
            "(ray start --head), or leave out the address and unset RAY_ADDRESS to work on this machine alone"
        ) from error


@contextlib.contextmanager
def _kept_signals() -> Iterator[None]:
    """Keep existing signal handlers, which Ray would replace with its own."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
