"""Reads images from the body of a request: raw bytes, or the files of a form, in memory and within limits."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

from fastapi import Request
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect

from mask2former.errors import UserError
from mask2former.media.images import NamedBytes
from mask2former.serve.service import TooLargeError
from mask2former.serve.settings import ServiceLimits
from mask2former.text import quoted

__all__ = ["ClientDisconnect", "SlowUploadError", "UnknownTypeError", "read_uploads"]

FIELD = "images"


class UnknownTypeError(UserError):
    """The body has an unsupported type."""


class SlowUploadError(UserError):
    """The body did not arrive in time."""


async def read_uploads(request: Request, limits: ServiceLimits) -> list[NamedBytes]:
    """The images of a request, in order.

    Raises:
        UserError: there is none, or the body is malformed; :class:`TooLargeError`, :class:`UnknownTypeError` and
            :class:`SlowUploadError` are special cases.
        ClientDisconnect: the client has disconnected.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    is_form = kind == "multipart/form-data"
    if not is_form and kind != "application/octet-stream" and not kind.startswith("image/"):
        raise UnknownTypeError(
            f"the body has Content-Type {quoted(kind)}; expected multipart/form-data with files named '{FIELD}', or "
            "the bytes of one image as image/jpeg, image/png, ... or application/octet-stream"
        )
    if (encoding := request.headers.get("content-encoding", "identity")).lower() != "identity":
        raise UnknownTypeError(f"the body has Content-Encoding {quoted(encoding)}; send it without an encoding")
    try:
        async with asyncio.timeout(limits.timeout):
            if is_form:
                return await _files(request, limits)
            content = b"".join([chunk async for chunk in _bounded(request, limits)])
    except TimeoutError as error:
        raise SlowUploadError(f"the body did not arrive within {limits.timeout:g} s") from error
    if not content:
        raise UserError("the body is empty; expected an image")
    return [NamedBytes("image", content)]


async def _bounded(request: Request, limits: ServiceLimits) -> AsyncGenerator[bytes, None]:
    most = int(limits.megabytes * 1e6)
    advice = f"at most {limits.megabytes:g} MB are accepted; send fewer or smaller images"
    announced = request.headers.get("content-length", "")
    if announced.isdecimal() and int(announced[:20]) > most:
        raise TooLargeError(f"the body has {int(announced[:20]):,} bytes; {advice}")
    size = 0
    async for chunk in request.stream():
        size += len(chunk)
        if size > most:
            raise TooLargeError(f"the body has more than {most:,} bytes; {advice}")
        yield chunk


class _Form(MultiPartParser):
    """A form whose files never touch the disk, and that is refused if its end is missing."""

    def __init__(self, request: Request, limits: ServiceLimits) -> None:
        super().__init__(request.headers, self._until_its_end(request, limits), max_files=limits.images, max_fields=0)
        self.spool_max_size = int(limits.megabytes * 1e6) + 1
        self._is_whole = False

    def on_end(self) -> None:
        self._is_whole = True

    async def _until_its_end(self, request: Request, limits: ServiceLimits) -> AsyncGenerator[bytes, None]:
        async for chunk in _bounded(request, limits):
            yield chunk
        if not self._is_whole:  # otherwise the last image would be missing silently
            raise UserError("the multipart body is cut short: its last boundary is missing; send it again")


async def _files(request: Request, limits: ServiceLimits) -> list[NamedBytes]:
    try:
        form = await _Form(request, limits).parse()
    except MultiPartException as error:
        if "Too many files" in error.message:
            raise TooLargeError(
                f"at most {limits.images} images are accepted in one request; send several requests"
            ) from error
        if "Too many fields" in error.message:
            raise UserError(
                f"the form has a field that is not a file; send images as files named '{FIELD}', and everything else "
                "in the query, for example /v1/predict?task=instance"
            ) from error
        raise UserError(f"the multipart body is malformed: {quoted(error.message)}; check its boundary") from error
    try:
        found = []
        for name, value in form.multi_items():
            assert isinstance(value, UploadFile)  # there are no other fields
            if name != FIELD:
                raise UserError(f"the form has a file named {quoted(name)}; images are files named '{FIELD}'")
            found.append(NamedBytes(value.filename or f"image {len(found) + 1}", await value.read()))
    finally:
        await form.close()
    if not found:
        raise UserError(f"the form has no image; send files named '{FIELD}'")
    return found
