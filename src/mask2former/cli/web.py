"""The web page: ``mask2former web``."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from mask2former import interrupts
from mask2former.cli.names import complete_model
from mask2former.cli.shared import (
    Device,
    Dtype,
    Recipe,
    Tile,
    TileOverlap,
    TrainedFor,
    Weights,
    given,
    stoppable,
    tasks_of,
    working,
)
from mask2former.cli.terminal import make_console, say, say_at_once

__all__ = ["web"]


def web(
    models: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="MODEL",
            help="Models to choose from: names (see: mask2former models), files, folders, or hf://owner/name.",
            show_default="scenes-tiny nuclei",
            autocompletion=complete_model,
        ),
    ] = None,
    host: Annotated[
        str, typer.Option(help="Address to listen on. By default, only this machine can open the page.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on; 0: any free port.")] = 7860,
    server_name: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="Name by which visitors reach the page through a proxy, such as page.example.org; can be repeated.",
            show_default="local names only",
        ),
    ] = None,
    max_upload: Annotated[
        int, typer.Option(min=1, max=4096, metavar="MB", help="Largest file that can be uploaded, in megabytes.")
    ] = 64,
    tile: Tile = None,
    tile_overlap: TileOverlap = None,
    recipe: Recipe = None,
    trained_for: TrainedFor = None,
    weights: Weights = None,
    device: Device = "auto",
    dtype: Dtype = None,
) -> None:
    """Open a web page for trying models on images and short clips.

    Drop a file onto the page to see its segments. You can change the task, score threshold and classes without running
    the model again, and download PNG, JSON or CSV. Nothing is loaded from other servers, and uploads are removed after
    half an hour.

    Ctrl-C stops the page. It has no passwords: with --host 0.0.0.0, everyone on the network can use it.
    """
    say_at_once(f"loading {' and '.join(models or ('scenes-tiny', 'nuclei'))}")
    from mask2former.web import open_models, serve_page
    from mask2former.web.server import PACKAGED

    with working(make_console(), lambda: "") as progress:
        opened = open_models(
            models or PACKAGED,
            progress=progress,
            recipe=recipe,
            trained_for=tasks_of(trained_for),
            weights=weights,
            device=device,
            dtype=dtype,
            **given(tile=tile, tile_overlap=tile_overlap),
        )

    def tell(address: str) -> None:
        say(f"the page is at {address} (Ctrl-C ends it)")
        sys.stdout.flush()  # the output may be a pipe whose reader waits for this line

    with stoppable(lambda: ""):
        try:
            serve_page(
                opened, host=host, port=port, server_names=server_name or (), upload_bytes=max_upload << 20, tell=tell
            )
        except KeyboardInterrupt:
            interrupts.leave_threads(128 + interrupts.received())  # an image or a clip may be in the network
            raise
