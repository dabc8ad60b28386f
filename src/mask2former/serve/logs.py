"""Logs as one JSON object per line, with the id of the request that each line belongs to."""

from __future__ import annotations

import contextlib
import json
import logging
import re
import secrets
import sys
import time
from collections.abc import Iterator
from contextvars import ContextVar
from typing import Any

from mask2former.text import terminal_line

__all__ = ["JsonLines", "logging_as_json", "request_id", "request_id_of"]

request_id: ContextVar[str | None] = ContextVar("request_id", default=None)
"""Id of the request that is processed in this context."""

_SANE = re.compile(r"[A-Za-z0-9._-]{1,64}")


def request_id_of(header: str | None) -> str:
    """The id given by a client or proxy, if it is suitable for logs and headers; else a new one."""
    return header if header is not None and _SANE.fullmatch(header) else secrets.token_hex(8)


class JsonLines(logging.Formatter):
    """A record as a JSON object: time (UTC), level, logger, message, request id, and its ``facts``."""

    def format(self, record: logging.LogRecord) -> str:
        values: dict[str, Any] = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{record.msecs:03.0f}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": terminal_line(record.getMessage()),
        }
        if (current := request_id.get()) is not None:
            values["request_id"] = current
        values |= getattr(record, "facts", {})
        if record.exc_info:
            values["exception"] = self.formatException(record.exc_info)
        return json.dumps(values, default=str)


@contextlib.contextmanager
def logging_as_json() -> Iterator[None]:
    """Inside, this process logs to standard error, one JSON object per line."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines())
    root = logging.getLogger()
    levels = {
        "": logging.WARNING,  # libraries
        "mask2former": logging.INFO,
        "python_multipart": logging.ERROR,  # its warnings are refused requests, which we log
    }
    handlers, before = root.handlers[:], {name: logging.getLogger(name).level for name in levels}
    root.handlers[:] = [handler]
    for name, value in levels.items():
        logging.getLogger(name).setLevel(value)
    try:
        yield
    finally:
        root.handlers[:] = handlers
        for name, value in before.items():
            logging.getLogger(name).setLevel(value)
