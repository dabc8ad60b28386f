"""How much a service accepts: per request, and in total. Imports no web package."""

from __future__ import annotations

import contextlib
import math
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path

from PIL import Image

from mask2former.documents import read_text
from mask2former.errors import OptionError, UserError
from mask2former.media.image_files import pixel_limit
from mask2former.text import quoted

__all__ = ["RayOptions", "ServiceLimits", "allowed_pixels", "read_token"]

_TOKEN_VARIABLE = "MASK2FORMER_TOKEN"
_SHORTEST_TOKEN = 16  # characters: shorter tokens can be guessed
_LONGEST_TOKEN = 4096
_LARGEST = 1_000_000  # of any limit


@dataclass(frozen=True, slots=True)
class ServiceLimits:
    """What is accepted, and with which status the rest is refused.

    Attributes:
        batch_size: maximum number of images that pass through the network together.
        queue: maximum number of images that are waiting or in progress; further requests are refused with 429.
        images: per request (413).
        megabytes: of the body of a request, in units of 10^6 bytes (413).
        megapixels: of one image, in units of 10^6 pixels (413).
        timeout: seconds that a request may take, upload included (408 or 504).

    Raises:
        UserError: a limit is not positive or above a million, or a request may have more images than the queue.
    """

    batch_size: int = 8
    queue: int = 64
    images: int = 16
    megabytes: float = 32.0
    megapixels: float = 50.0
    timeout: float = 60.0

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if not 0 < value <= _LARGEST:
                name = _ARGUMENTS.get(field.name, field.name)
                raise OptionError(
                    lambda flag, name=name, value=value: (
                        f"{flag(name)} must be above 0 and at most {_LARGEST:,}, got {value}"
                    )
                )
        if self.images > self.queue:
            raise OptionError(
                lambda flag: (
                    f"{flag('max_images')} is {self.images}, but {flag('queue')} is {self.queue}: a request with that "
                    "many images could never be accepted"
                )
            )


@contextlib.contextmanager
def allowed_pixels(limits: ServiceLimits) -> Iterator[None]:
    """Inside, Pillow accepts images as large as the service does, since a limit above Pillow's is set on purpose."""
    before = Image.MAX_IMAGE_PIXELS
    with pixel_limit(None if before is None else max(before, math.ceil(limits.megapixels * 1e6))):
        yield


_ARGUMENTS = {  # of limits whose flags have other names
    "images": "max_images",
    "megabytes": "max_megabytes",
    "megapixels": "max_megapixels",
}


@dataclass(frozen=True, slots=True)
class RayOptions:
    """How many replicas Ray Serve runs.

    Attributes:
        replicas: minimum and maximum.
        cpus: cores per replica.
        max_queued: maximum number of requests that wait for a replica, at each proxy (503).
    """

    replicas: tuple[int, int] = (1, 1)
    cpus: float = 1.0
    max_queued: int = 256

    @classmethod
    def of(cls, replicas: str = "1", cpus_per_replica: float = 1.0, max_queued: int = 256) -> RayOptions:
        """From a text such as ``2`` or ``1:4``.

        Raises:
            UserError: they are something else.
        """
        match = re.fullmatch(r"([1-9][0-9]{0,5})(?::([1-9][0-9]{0,5}))?", replicas)
        if match is None or int(match[1]) > int(match[2] or match[1]):
            raise OptionError(
                lambda name: (
                    f"{name('replicas')} {quoted(replicas)}: expected a number, or minimum and maximum, for example 1:4"
                )
            )
        return cls((int(match[1]), int(match[2] or match[1])), cpus_per_replica, max_queued)


def read_token(path: Path | None = None) -> str | None:
    """The bearer token that requests must include: from a file, else from ``MASK2FORMER_TOKEN``; None: none is needed.

    Not from the command line, which every process on a machine can read.

    Raises:
        UserError: it is empty, too short to be safe, or contains characters that a header cannot contain.
    """
    if path is not None:
        token, where = read_text(path, "token file", _LONGEST_TOKEN).strip(), f"the token file '{path}'"
    elif _TOKEN_VARIABLE in os.environ:
        token, where = os.environ[_TOKEN_VARIABLE].strip(), f"the environment variable {_TOKEN_VARIABLE}"
    else:
        return None
    if len(token) < _SHORTEST_TOKEN or not (token.isascii() and token.isprintable()) or " " in token:
        raise UserError(
            f"{where} must contain a token of at least {_SHORTEST_TOKEN} letters, digits or symbols, without "
            f"spaces, got {len(token)} characters; create one with: python -c 'import secrets; "
            "print(secrets.token_urlsafe())'"
        )
    return token
