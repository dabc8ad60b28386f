"""Connections of a service that do not last forever: clients that send no request, or do not read the reply.

Otherwise each such client would keep a connection, and a reply its memory, for as long as it likes.
"""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

__all__ = ["KEEP_ALIVE", "limited_connections"]

# Seconds that an idle connection is kept for its next request. Proxies keep theirs for a minute (nginx, the load
# balancers of AWS): if the service closed first, a request sent at that moment would be lost, which a proxy reports as
# 502.
KEEP_ALIVE = 75


def limited_connections(seconds: float) -> type[asyncio.Protocol]:
    """The protocol of uvicorn for connections, with limits of time.

    Args:
        seconds: until the head of a request must have arrived, from the connection or its first byte; and without any
            progress in sending a reply.
    """

    class Connection(H11Protocol):  # the other parser, which uvicorn takes where it is installed, reads endless headers
        cycle: Any  # uvicorn's current request; None before the first one

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            transport.set_write_buffer_limits(0)  # so that every reply that is not sent at once counts as paused
            self._connection = transport
            self._timers: dict[str, asyncio.TimerHandle] = {}
            self._start("head", transport.abort)

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            if self.cycle is not None and not self.cycle.response_complete:
                self._stop("head")
            elif "head" not in self._timers:  # a further request begins, or a refused one has not ended
                self._start("head", self._connection.abort, max(seconds, KEEP_ALIVE))

        def pause_writing(self) -> None:
            super().pause_writing()
            self._look_again(self._connection.get_write_buffer_size())

        def resume_writing(self) -> None:
            super().resume_writing()
            self._stop("reply")

        def connection_lost(self, exc: Exception | None) -> None:
            for name in list(self._timers):
                self._stop(name)
            super().connection_lost(exc)

        def _look_again(self, left: int) -> None:
            def look() -> None:
                size = self._connection.get_write_buffer_size()
                if size >= left:
                    self._connection.abort()  # not close(), which would wait for the client to read
                else:
                    self._look_again(size)

            self._start("reply", look)

        def _start(self, name: str, step: Any, after: float = seconds) -> None:
            self._timers[name] = asyncio.get_running_loop().call_later(after, step)

        def _stop(self, name: str) -> None:
            if (timer := self._timers.pop(name, None)) is not None:
                timer.cancel()

    return Connection
