"""A model as an HTTP service: ``mask2former serve``."""

from __future__ import annotations

import contextlib
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from mask2former import interrupts
from mask2former.cli.shared import (
    Device,
    Dtype,
    LongEdge,
    ModelArgument,
    OfficialSettings,
    Recipe,
    ShortEdge,
    TrainedFor,
    Weights,
    given,
    machine_option,
    tasks_of,
    working,
)
from mask2former.cli.terminal import make_console, say, say_at_once
from mask2former.errors import OptionError

__all__ = ["serve"]

_limit_option = partial(typer.Option, rich_help_panel="Limits")
_ray_option = partial(typer.Option, rich_help_panel="Ray Serve")


def serve(
    model: ModelArgument,
    host: Annotated[
        str, typer.Option(help="Address to listen on; 0.0.0.0: every address of this machine.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port; 0: any free port.")] = 8000,
    token_file: Annotated[
        Path | None,
        typer.Option(
            help="File with the token that requests must send as 'Authorization: Bearer TOKEN'. It can be in the "
            "environment variable MASK2FORMER_TOKEN instead.",
            show_default="no token",
        ),
    ] = None,
    short_edge: ShortEdge = None,
    long_edge: LongEdge = None,
    official_settings: OfficialSettings = False,
    batch_size: Annotated[
        int,
        _limit_option(
            min=1,
            help="Process up to this many waiting images in one batch; only images that are padded to the same size "
            "share a batch.",
        ),
    ] = 8,
    queue: Annotated[
        int, _limit_option(min=1, help="Maximum number of images waiting or in progress; further requests get 429.")
    ] = 64,
    max_images: Annotated[int, _limit_option(min=1, help="Maximum number of images in one request.")] = 16,
    max_megabytes: Annotated[float, _limit_option(help="Maximum size of the body of a request, in 10^6 bytes.")] = 32,
    max_megapixels: Annotated[float, _limit_option(help="Maximum number of pixels in one image, in millions.")] = 50,
    timeout: Annotated[float, _limit_option(help="Maximum time for a request in seconds, including the upload.")] = 60,
    ray: Annotated[
        bool,
        _ray_option(
            "--ray",
            help="Deploy on Ray Serve: on the cluster at RAY_ADDRESS, or only on this machine. The limits apply to "
            "each replica.",
        ),
    ] = False,
    replicas: Annotated[
        str | None,
        _ray_option(
            metavar="N or MIN:MAX",
            help="Number of replicas; with two numbers, as many in this range as the load needs.",
            show_default="1",
        ),
    ] = None,
    max_queued: Annotated[
        int | None,
        _ray_option(
            min=1,
            help="Maximum number of requests waiting for a replica at each proxy; further ones get 503.",
            show_default="256",
        ),
    ] = None,
    cpus_per_replica: Annotated[
        float | None, _ray_option(min=0.1, help="Cores per replica; PyTorch uses as many threads.", show_default="1")
    ] = None,
    device: Device = "auto",
    dtype: Dtype = None,
    compile: Annotated[
        bool,
        machine_option(
            "--compile",
            help="Compile the model for each of the first eight input and batch sizes, which takes a minute or more "
            "per size.",
        ),
    ] = False,
    recipe: Recipe = None,
    trained_for: TrainedFor = None,
    weights: Weights = None,
) -> None:
    """Serve a model over HTTP.

    Send images to POST /v1/predict, as the body or as files of a form; results are JSON or PNG. The log goes to
    standard error, one JSON object per line. After Ctrl-C or SIGTERM, no more requests are accepted, those in progress
    are finished, and the exit code is 0.
    """
    chosen = given(replicas=replicas, max_queued=max_queued, cpus_per_replica=cpus_per_replica)
    if chosen and not ray:
        raise OptionError(lambda name: f"{name(next(iter(chosen)))} applies to replicas on Ray Serve; add --ray")
    say_at_once(f"loading {model}")
    from mask2former.serve import RayOptions, ServiceLimits, read_token
    from mask2former.serve import serve as serve_model

    limits = ServiceLimits(batch_size, queue, max_images, max_megabytes, max_megapixels, timeout)
    with contextlib.ExitStack() as loading:
        progress = loading.enter_context(working(make_console(), lambda: "the service had not started"))

        def started(url: str) -> None:
            loading.close()  # removes the bar
            say(f"{model} at {url} (Ctrl-C ends)")

        serve_model(
            model,
            host=host,
            port=port,
            token=read_token(token_file),
            limits=limits,
            ray=RayOptions.of(**chosen) if ray else None,
            started=started,
            progress=progress,
            device=device,
            dtype=dtype,
            compile=compile,
            recipe=recipe,
            trained_for=tasks_of(trained_for),
            weights=weights,
            **given(short_edge=short_edge, long_edge=long_edge, official_settings=official_settings),
        )
    say("stopped")
    interrupts.leave_threads(0)  # an image may be in the network whose request has timed out
