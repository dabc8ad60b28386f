"""Connections of a service that do not last forever: clients that send no request, half of one, or read no reply.

Otherwise each such client would keep a connection, and a reply its memory, for as long as it likes. On the other hand,
a connection does not end before a client that is still sending has got the refusal of its request.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol, h11

__all__ = ["KEEP_ALIVE", "limited_connections"]

# Seconds that an idle connection is kept for its next request. Proxies keep theirs for a minute (nginx, the load
# balancers of AWS): if the service closed first, a request sent at that moment would be lost, which a proxy reports as
# 502.
KEEP_ALIVE = 75

# Bytes that the system may hold of a reply. Progress is seen only when a third of them has been read, which must take a
# slow client less than the limit; left alone, systems hold megabytes.
_SEND_BUFFER = 1 << 18


def limited_connections(seconds: float, *, drops: bool = False) -> type[asyncio.Protocol]:
    """The protocol of uvicorn for connections, with limits of time.

    Args:
        seconds: without any progress in sending a reply. If longer than :data:`KEEP_ALIVE`, also until the head of a
            request must have arrived, from the connection (some proxies open them in advance) or its first byte;
            else, that is :data:`KEEP_ALIVE`. The body of a request may make no progress for twice this time.
        drops: when the server stops, requests in progress end, as if their clients had left; by default, they are
            completed.
    """
    until_head = max(seconds, KEEP_ALIVE)

    class Connection(H11Protocol):  # the other parser, which uvicorn takes where it is installed, reads endless headers
        cycle: Any  # uvicorn's current request; None before the first one

        def connection_made(self, transport: Any) -> None:
            lingering: Any = _Transport(transport, self._linger)
            super().connection_made(lingering)
            transport.set_write_buffer_limits(0)  # so that every reply that is not sent at once counts as paused
            connected = transport.get_extra_info("socket")
            if connected is not None and connected.family in (socket.AF_INET, socket.AF_INET6):
                connected.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER)
            self._connection = transport
            self._timers: dict[str, asyncio.TimerHandle] = {}
            self._is_lingering = False
            self._start("head", transport.abort, until_head)

        def data_received(self, data: bytes) -> None:
            if self._is_lingering:
                return
            super().data_received(data)
            if self.cycle is not None and not self.cycle.response_complete:
                self._stop("head")
            elif "head" not in self._timers:  # a further request begins, or a refused one has not ended
                self._start("head", self._connection.abort, until_head)
            self._stop("body")
            if self.conn.their_state is h11.SEND_BODY and not self._is_lingering:
                self._wait_for_body()

        def shutdown(self) -> None:
            super().shutdown()
            if drops:
                self._connection.close()

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

        def _unsupported_upgrade_warning(self) -> None:
            """Nothing: uvicorn would advise to install WebSockets; such requests get the reply of any other."""

        def _linger(self) -> bool:
            """Instead of closing the connection of a client that still sends, close only our side, and read on.

            A system discards a reply that was not yet read when the other side closes with unread data: proxies would
            report 502 instead of the refusal.

            Returns:
                Whether the client still sends, so that the connection must not be closed now.
            """
            if self._connection.is_closing():
                return False
            if not self._is_lingering and self.conn.their_state in (h11.SEND_BODY, h11.ERROR):
                self._is_lingering = True
                self._connection.write_eof()
                self.flow.resume_reading()
                if "head" not in self._timers:
                    self._start("head", self._connection.abort, until_head)
            return self._is_lingering

        def _wait_for_body(self) -> None:
            # While the application does not read, the client cannot send.
            def end() -> None:
                is_waiting = self.flow.read_paused or self.conn.they_are_waiting_for_100_continue
                self._wait_for_body() if is_waiting else self._connection.abort()

            self._start("body", end, 2 * until_head)  # an application that has a limit of its own replies first

        def _look_again(self, left: int) -> None:
            def look() -> None:
                size = self._connection.get_write_buffer_size()
                if size >= left:
                    self._connection.abort()  # not close(), which would wait for the client to read
                else:
                    self._look_again(size)

            self._start("reply", look, seconds)

        def _start(self, name: str, step: Any, after: float) -> None:
            self._timers[name] = asyncio.get_running_loop().call_later(after, step)

        def _stop(self, name: str) -> None:
            if (timer := self._timers.pop(name, None)) is not None:
                timer.cancel()

    return Connection


class _Transport:
    """A transport that may first linger where it would be closed.

    Args:
        transport: the real one.
        linger: called where it would be closed; returns whether it closes by itself later.
    """

    def __init__(self, transport: asyncio.Transport, linger: Callable[[], bool]) -> None:
        self._transport, self._linger = transport, linger
        self._is_closing = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def is_closing(self) -> bool:
        return self._is_closing or self._transport.is_closing()

    def close(self) -> None:
        self._is_closing = True
        if not self._linger():
            self._transport.close()
