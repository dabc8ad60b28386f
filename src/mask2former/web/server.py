"""The page as a server: models loaded, examples drawn, uploads in a folder that is removed at the end."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from mask2former import interrupts
from mask2former.addresses import bound, is_loopback, url_of
from mask2former.errors import OptionError, UserError
from mask2former.extras import need
from mask2former.inference.opening import model_name, open_predictor
from mask2former.inference.predictor import Predictor
from mask2former.processors import limit_threads
from mask2former.progress import Progress, silent
from mask2former.text import quoted
from mask2former.web.examples import draw_examples
from mask2former.web.guard import Application, Guard
from mask2former.web.visits import Visits

__all__ = ["PACKAGED", "open_app", "open_models", "serve_page"]

PACKAGED = ("scenes-tiny", "nuclei")
"""The models of a page for which none is given: those that need no download."""

_LOOPBACK = ("127.0.0.1", "localhost", "[::1]")
UPLOAD_BYTES = 64 << 20  # that a file may have
KEEP_SECONDS = 1800
_SECONDS_TO_END = 3
_SECONDS_TO_READ = 60  # without any progress, of a reply
_SECONDS_TO_LOOK = 0.5


def open_models(
    models: Sequence[str | Path] = PACKAGED, *, progress: Progress = silent, **loading: Any
) -> dict[str, Predictor]:
    """The models of a page, by name.

    PyTorch gets no more threads than the container allows processors, unless ``OMP_NUM_THREADS`` sets their number.

    Args:
        models: names, files and folders.
        progress: called with what is being downloaded and loaded.
        loading: see :func:`~mask2former.inference.opening.open_predictor`, for instance ``device`` or ``tile``.

    Raises:
        UserError: a model cannot be loaded or is named twice, or there is none.
        MissingExtraError: gradio, which the page needs, is not installed.
    """
    about = [name for name in ("recipe", "trained_for", "weights") if loading.get(name)]
    if about and len(models) > 1:
        raise OptionError(lambda name: f"{name(about[0])} applies to a single model; give one model, not {len(models)}")
    names = [model_name(model) for model in models]
    if not names or len(set(names)) < len(names):
        raise UserError(f"expected one or more different models, got {', '.join(names) or 'none'}")
    need("web", "gradio", "fastapi", "uvicorn", to="serve the page")
    limit_threads()
    return {
        name: open_predictor(model, quiet=True, progress=progress, **loading)
        for name, model in zip(names, models, strict=True)
    }


@contextlib.contextmanager
def open_app(
    models: Mapping[str, Predictor],
    *,
    hosts: Sequence[str] | None = None,
    upload_bytes: int = UPLOAD_BYTES,
    keep_seconds: int = KEEP_SECONDS,
) -> Iterator[Application]:
    """The page as an ASGI application, for a server of your own; uploads are removed at the end of the block.

    One at a time per process, since gradio reads the upload folder from the environment.

    Args:
        models: that visitors can choose, by the names that they see; the first one is the default.
        hosts: names that the page is reached by; None: any.
        upload_bytes: maximum size of a file.
        keep_seconds: after which uploads, and what idle visitors have open, are removed.

    Raises:
        MissingExtraError: gradio is not installed.
    """
    with tempfile.TemporaryDirectory(prefix="mask2former-web-") as folder, _environment(folder):
        need("web", "gradio", "fastapi", to="build the page")
        from mask2former.web.page import build_page

        drawn = Path(folder, "examples")
        drawn.mkdir()
        has_colors = any(model.settings.bands is None for model in models.values())  # which examples are drawn in
        examples = draw_examples(drawn) if has_colors else []

        async def build() -> Application:
            visits = Visits(models, seconds=keep_seconds)
            return build_page(visits, examples, upload_bytes=upload_bytes, keep_seconds=keep_seconds)

        app = asyncio.run(build())  # without a running loop, gradio creates some, and closes none
        yield Guard(app, Path(folder), upload_bytes, keep_seconds, hosts)


def serve_page(
    models: Mapping[str, Predictor],
    *,
    host: str = "127.0.0.1",
    port: int = 7860,
    server_names: Sequence[str] = (),
    upload_bytes: int = UPLOAD_BYTES,
    tell: Callable[[str], None] = lambda address: None,
) -> None:
    """Serve the page until a signal ends it; what ``mask2former web`` does.

        serve_page({"mine": Predictor.from_pretrained("runs/mine/model.safetensors")})

    Args:
        models: see :func:`open_app`.
        host: the address to listen on; the default can only be reached from this machine.
        port: 0: any free port.
        server_names: names by which visitors reach the page through a proxy, without port; no other names are accepted
            then, except the local ones.
        upload_bytes: see :func:`open_app`.
        tell: called with the address when the page can be opened.

    Raises:
        UserError: the address is in use, or does not belong to this machine; or a name is an address of a page.
        MissingExtraError: gradio is not installed.
    """
    own = f"[{host}]" if ":" in host else host
    _check_names(server_names)
    hosts = tuple(dict.fromkeys((*_LOOPBACK, own, *server_names))) if server_names or is_loopback(host) else None
    with (
        interrupts.postponed() as again,  # so that a second signal does not cut short the removal of uploads
        interrupts.postponed() as is_stopped,
        bound(host, port) as listening,
        open_app(models, hosts=hosts, upload_bytes=upload_bytes) as app,
    ):
        import uvicorn

        from mask2former.connections import KEEP_ALIVE, limited_connections

        listening.listen()  # before the address is told; visitors wait until the server accepts them
        config = uvicorn.Config(
            app,
            http=limited_connections(_SECONDS_TO_READ, drops=True),  # since an open tab has requests that never end
            timeout_keep_alive=KEEP_ALIVE,
            ws="none",
            log_config=None,
            access_log=False,
            timeout_graceful_shutdown=_SECONDS_TO_END,
        )
        server = uvicorn.Server(config)
        # Not in the main thread, where it would receive the signals, which we handle ourselves.
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
        thread.start()
        tell(url_of(host, listening.getsockname()[1]))
        while thread.is_alive() and not is_stopped():
            thread.join(_SECONDS_TO_LOOK)
        server.should_exit = True
        thread.join(2 * _SECONDS_TO_END)
    if is_stopped() or again():
        raise KeyboardInterrupt


def _check_names(names: Sequence[str]) -> None:
    for name in names:
        if re.fullmatch(r"[A-Za-z0-9-]+(\.[A-Za-z0-9-]+)*|\[[0-9A-Fa-f:]+\]", name) is None:
            raise OptionError(
                lambda flag, name=name: (
                    f"{flag('server_names')} {quoted(name)}: expected a name without scheme, port and path, for "
                    "example page.example.org"
                )
            )


@contextlib.contextmanager
def _environment(folder: str) -> Iterator[None]:
    """Gradio puts uploads into ``folder`` and sends no statistics; restored after the block."""
    wanted = {"GRADIO_TEMP_DIR": folder, "GRADIO_ANALYTICS_ENABLED": "False"}
    before = {name: os.environ.get(name) for name in wanted}
    os.environ.update(wanted)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
