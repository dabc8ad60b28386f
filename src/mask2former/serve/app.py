"""The service as a web application: its paths, which errors get which status, and a log line for each request.

The only module that knows FastAPI, besides :mod:`.uploads`. Replies come from :mod:`.service`.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import hmac
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Coroutine, Iterable
from typing import Annotated, Any, TypeVar

from fastapi import APIRouter, Depends, FastAPI, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, PlainTextResponse
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

import mask2former
from mask2former.config import Task
from mask2former.config.wording import wrong_value
from mask2former.errors import UserError
from mask2former.inference.predictor import Predictor
from mask2former.limits import DETECTIONS
from mask2former.memory import LackOfMemoryError
from mask2former.serve import description
from mask2former.serve.batcher import Called
from mask2former.serve.logs import request_id, request_id_of
from mask2former.serve.metrics import METRICS_TYPE
from mask2former.serve.service import (
    BusyError,
    FaultError,
    Masks,
    NotReadyError,
    Output,
    Service,
    TooLargeError,
    Wanted,
)
from mask2former.serve.settings import ServiceLimits, allowed_pixels
from mask2former.serve.uploads import ClientDisconnect, SlowUploadError, UnknownTypeError, read_uploads
from mask2former.text import printable, quoted

__all__ = ["create_app"]

_logger = logging.getLogger(__name__)
_T = TypeVar("_T")
_GONE = 499  # as in nginx logs: the client is no longer waiting for the reply
_FAILED = "the service failed; its log has the details under this request id"
_STATUS: tuple[tuple[type[Exception], int], ...] = (
    (BusyError, 429),
    (TooLargeError, 413),
    (UnknownTypeError, 415),
    (SlowUploadError, 408),
    (LackOfMemoryError, 503),
    (NotReadyError, 503),
    (UserError, 422),
)


def create_app(
    predictor: Predictor,
    name: str,
    limits: ServiceLimits | None = None,
    token: str | None = None,
    *,
    with_metrics: bool = True,
) -> FastAPI:
    """The application, for any ASGI server.

    Args:
        predictor: what predicts.
        name: of the model, included in replies.
        limits: what is accepted.
        token: that requests must include as ``Authorization: Bearer``; None: none. ``/health`` needs none.
        with_metrics: whether to provide ``/metrics``; not where each of several processes would report only its own.
    """
    service = Service(predictor, name, limits or ServiceLimits())

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        with allowed_pixels(service.limits):
            await service.start()
            try:
                yield
            finally:
                await service.stop()

    app = FastAPI(
        title="Mask2Former",
        description=f"Panoptic, instance and semantic segmentation with the model `{printable(name)}`.",
        version=mask2former.__version__,
        lifespan=lifespan,
        # HTML pages would fetch their scripts from elsewhere; the document has its own path, below.
        openapi_url=None,
        redirect_slashes=False,  # would lead out of a proxy's path, which is not known here
        servers=[{"url": "."}],  # relative to the document, which a proxy or another application may have moved
    )
    app.state.service = service
    app.state.token = None if token is None else _digest(token)
    app.include_router(_health)
    app.include_router(_protected)
    if with_metrics:
        app.include_router(_metrics)
    for kind in (*(kind for kind, _ in _STATUS), FaultError):
        app.add_exception_handler(kind, _refuse)
    app.add_exception_handler(RequestValidationError, _refuse_query)
    app.add_exception_handler(HTTPException, _refuse_path)
    app.add_middleware(_Observed, service=service)  # pyright: ignore[reportArgumentType]
    return app


# --- who may ask ------------------------------------------------------------------------------------------------------


def _digest(token: str) -> bytes:
    """Hashes of equal length whatever the token, so that comparing reveals nothing about it."""
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest()


async def _check_token(
    request: Request, given: Annotated[HTTPAuthorizationCredentials | None, Depends(HTTPBearer(auto_error=False))]
) -> None:
    wanted = request.app.state.token
    if wanted is None:
        return
    if given is None or not hmac.compare_digest(_digest(given.credentials), wanted):
        raise HTTPException(
            401,
            "this service needs the header 'Authorization: Bearer TOKEN', but got "
            + ("none" if given is None else "another token"),
            {"WWW-Authenticate": "Bearer"},
        )


_health = APIRouter(prefix="/health", tags=["health"])
_protected = APIRouter(dependencies=[Depends(_check_token)])
_metrics = APIRouter(dependencies=[Depends(_check_token)])


# --- paths ------------------------------------------------------------------------------------------------------------


@_protected.post(
    "/v1/predict",
    tags=["v1"],
    summary="Segment images",
    responses=description.PREDICT_REPLIES,
    response_class=Response,
    openapi_extra={"requestBody": description.PREDICT_BODY},
)
async def _predict(
    request: Request,
    task: Annotated[
        Task | None, Query(description="The task; by default the first of these that the model was trained for.")
    ] = None,
    score_threshold: Annotated[
        float | None,
        Query(ge=0, le=1, allow_inf_nan=False, description="Keep instances and segments with at least this score."),
    ] = None,
    overlap_threshold: Annotated[
        float | None,
        Query(
            ge=0,
            le=1,
            allow_inf_nan=False,
            description="Panoptic: drop segments of which less than this share is visible.",
        ),
    ] = None,
    max_instances: Annotated[
        int | None, Query(ge=1, le=DETECTIONS, description="Maximum number of instances per image.")
    ] = None,
    classes: Annotated[
        list[str],
        Query(
            description="Only these classes, by name; repeat the parameter for several. By default all.",
            max_length=1000,
        ),
    ] = [],  # noqa: B006  (FastAPI copies it)
    min_area: Annotated[
        int | None, Query(ge=0, description="Only segments, instances and class masks with at least this many pixels.")
    ] = None,
    output: Annotated[
        Output, Query(description="`json`, or a PNG of one image: `overlay` for viewing, `ids` for the exact id map.")
    ] = "json",
    masks: Annotated[
        Masks | None,
        Query(
            description="In JSON: `rle` (COCO run lengths, the default), `polygons` (GeoJSON with holes), `png` (one "
            "id or label map in Base64) or `none`."
        ),
    ] = None,
) -> Response:
    """Images in, segments, instances or classes out.

    Send one image as the body, or several as files named `images` in a form. If one of them cannot be read, the request
    is refused.
    """
    service: Service = request.app.state.service
    _check_query(request)
    if masks is not None and output != "json":
        raise UserError(f"masks={masks} applies to JSON, but output={output} returns a PNG; leave one of them out")
    given = {
        "score_threshold": score_threshold,
        "overlap_threshold": overlap_threshold,
        "max_instances": max_instances,
        "classes": tuple(classes) or None,
        "min_area": min_area,
    }
    overrides = {name: value for name, value in given.items() if value is not None}
    wanted = Wanted(task, overrides, output, masks or "rle")
    service.check(wanted)
    facts: dict[str, Any] = request.scope["facts"]
    began = time.monotonic()
    with service.admitted() as hold:
        files = await read_uploads(request, service.limits)
        facts["images"] = len(files)
        if output != "json" and len(files) > 1:
            raise UserError(
                f"output={output} returns the PNG of one image, but the request has {len(files)}; send them one by one"
            )
        hold(len(files))
        left = max(0.001, service.limits.timeout - (time.monotonic() - began))
        replies = await _while_connected(request, _all(service.segment(file, wanted) for file in files), left)
    if replies is None:
        return Response(status_code=_GONE)
    facts |= {
        "wait_ms": round(1000 * max(reply.waited for reply in replies)),
        "network_ms": round(1000 * max(reply.took for reply in replies)),
        "batch": max(reply.batch_size for reply in replies),
    }
    if output != "json":
        return Response(replies[0].result, media_type="image/png")
    content = b'{"results": [' + b", ".join(reply.result for reply in replies) + b"]}\n"
    return Response(content, media_type="application/json")


@_protected.get(
    "/v1/models", tags=["v1"], summary="The model", responses=description.MODELS, response_class=JSONResponse
)
async def _models(request: Request) -> Response:
    _check_query(request)
    return JSONResponse({"models": [request.app.state.service.describe()]})


@_protected.get("/openapi.json", include_in_schema=False)
async def _openapi(request: Request) -> Response:
    return JSONResponse(request.app.openapi())


@_metrics.get(
    "/metrics",
    tags=["health"],
    summary="Metrics for Prometheus",
    responses=description.METRICS,
    response_class=PlainTextResponse,
)
async def _show_metrics(request: Request) -> Response:
    return Response(request.app.state.service.metrics.text(), media_type=METRICS_TYPE)


@_health.get("/live", summary="Whether the process is alive", responses=description.HEALTH, response_class=JSONResponse)
async def _live(request: Request) -> Response:
    return _status(request, not request.app.state.service.is_broken)


@_health.get("/ready", summary="Whether it accepts images", responses=description.HEALTH, response_class=JSONResponse)
async def _ready(request: Request) -> Response:
    service: Service = request.app.state.service
    return _status(request, service.is_ready and not service.is_broken)


def _status(request: Request, good: bool) -> Response:
    if good:
        return JSONResponse({"status": "ok"})
    return _error(request.scope, 503, "the model does not work, or not yet", {"Retry-After": "5"})


def _check_query(request: Request) -> None:
    """Refuse parameters that would be ignored: a misspelled name, or the first of two values.

    Raises:
        UserError: the message names it.
    """
    known = {parameter.alias for parameter in request.scope["route"].dependant.query_params}
    names = [name for name, _ in request.query_params.multi_items()]
    for name in dict.fromkeys(names):
        if name not in known:
            raise UserError(
                f"there is no parameter {quoted(name)}" + (f"; there are: {', '.join(sorted(known))}" if known else "")
            )
        if names.count(name) > 1 and name != "classes":
            raise UserError(f"the parameter '{name}' is given {names.count(name)} times; give it once")


# --- waiting ----------------------------------------------------------------------------------------------------------


async def _all(work: Iterable[Coroutine[Any, Any, Called[bytes]]]) -> list[Called[bytes]]:
    """All of them; the first that fails cancels the others."""
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(each) for each in work]
    except BaseExceptionGroup as errors:
        raise errors.exceptions[0] from None
    return [task.result() for task in tasks]


async def _while_connected(request: Request, work: Awaitable[_T], seconds: float) -> _T | None:
    """The result of the work, or None if the client disconnects first; then, or when time is up, the work is cancelled.

    Raises:
        HTTPException: 504, it took too long.
    """
    working = asyncio.ensure_future(work)
    leaving = asyncio.ensure_future(_disconnected(request))
    try:
        done, _ = await asyncio.wait({working, leaving}, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        if working in done:
            return working.result()
        if done:
            return None
        limit = request.app.state.service.limits.timeout
        raise HTTPException(504, f"the images were not finished within {limit:g} s; send fewer or smaller ones")
    finally:
        for task in (working, leaving):
            task.cancel()
        await asyncio.wait({working, leaving})


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


# --- refusing ---------------------------------------------------------------------------------------------------------


def _error(scope: Scope, status: int, message: str, headers: dict[str, str] | None = None) -> JSONResponse:
    """The reply for an error, whose message is also logged with the request."""
    scope["facts"]["error"] = message
    return JSONResponse({"error": {"message": message, "request_id": request_id.get()}}, status, headers)


async def _refuse(request: Request, error: Exception) -> Response:
    if isinstance(error, FaultError):
        _logger.error("%s", error, exc_info=error.__cause__)
        return _error(request.scope, 500, _FAILED)
    status = next(status for kind, status in _STATUS if isinstance(error, kind))
    seconds = error.retry_after if isinstance(error, BusyError) else 5
    return _error(request.scope, status, str(error), {"Retry-After": str(seconds)} if status in (429, 503) else None)


async def _refuse_query(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    name = first["loc"][1]
    subject = f"the parameter '{name}'"
    known = {parameter.alias: parameter.field_info for parameter in request.scope["route"].dependant.query_params}
    return _error(request.scope, 422, wrong_value(subject, first["input"], known[name]))


async def _refuse_path(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    message = error.detail
    if error.status_code == 404:
        message = f"there is no path {quoted(request.url.path)}; images go to POST /v1/predict"
    elif error.status_code == 405:
        message = f"{request.method} is not supported there; images go to POST /v1/predict"
    return _error(request.scope, error.status_code, message, dict(error.headers or {}))


# --- observing --------------------------------------------------------------------------------------------------------


class _Observed:
    """Around everything: an id for each request, its log line, its metrics, and a reply whatever happens."""

    def __init__(self, app: ASGIApp, service: Service) -> None:
        self.app, self.service = app, service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        began, status = time.monotonic(), 0
        headers = dict(scope["headers"])
        current = request_id_of(headers.get(b"x-request-id", b"").decode("latin-1"))
        reset = request_id.set(current)
        facts: dict[str, Any] = {}
        method = scope["method"]
        is_head = method == "HEAD"  # which load balancers send; as GET, without the body
        scope = {**scope, "facts": facts, "method": "GET" if is_head else method}

        async def tell(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message.get("headers", ()), (b"x-request-id", current.encode())]
            elif is_head:
                message = {**message, "body": b""}
            await send(message)

        try:
            try:
                await self.app(scope, receive, tell)
            except ClientDisconnect:
                status = _GONE
            except Exception:  # a fault of the service: logged, but not disclosed to clients
                _logger.exception("the request failed")
                if not status:
                    await _error(scope, 500, _FAILED)(scope, receive, tell)
        finally:
            route = scope.get("route")
            path = getattr(route, "path", None) or "other"  # not the requested path: each would be kept
            seconds = time.monotonic() - began
            self.service.metrics.finished(path, status, seconds)
            line = {"method": method, "path": path, "status": status, "ms": round(1000 * seconds), **facts}
            level = logging.DEBUG if path.startswith("/health") and status == 200 else logging.INFO
            _logger.log(level, "request", extra={"facts": line})
            request_id.reset(reset)
