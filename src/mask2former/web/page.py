"""The page: its controls, and what each of them calls. The only module that knows gradio."""

from __future__ import annotations

import base64
import logging
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import gradio as gr
from fastapi import FastAPI

from mask2former.errors import FailedError, UserError
from mask2former.inference.predictor import Predictor
from mask2former.memory import is_lack_of_memory
from mask2former.text import printable
from mask2former.web.examples import Example
from mask2former.web.views import failure, view
from mask2former.web.visits import GONE, Visit, Visits, threshold_of

__all__ = ["build_page"]

_OF_ALL = "One for all classes; open the image again for those of the model."
_logger = logging.getLogger(__name__)

_TYPES = {"png": "image/png", "json": "application/json", "csv": "text/csv", "mp4": "video/mp4"}
_PROGRESS = gr.Progress()  # by this default value, gradio recognises the parameter
_WAITING = 32  # events of all visitors; further ones are refused


def build_page(visits: Visits, examples: Sequence[Example], *, upload_bytes: int, keep_seconds: int) -> FastAPI:
    """The page for what visitors have open, as an application; nothing in it is loaded from, or sent to, other servers.

    Args:
        visits: also holds the models; the first one is chosen.
        examples: that a visitor can choose instead of a file.
        upload_bytes: maximum size of a file, which is shown.
        keep_seconds: after which an upload is removed, within a tenth of that.
    """
    models = list(visits.predictors)
    tasks = visits.tasks(models[0])
    page = gr.Blocks(
        title="Mask2Former",
        analytics_enabled=False,
        fill_width=True,
        delete_cache=(max(1, keep_seconds // 10), keep_seconds),
    )
    with page:
        gr.HTML(_asset("header.html"), elem_id="m2f-header")
        with gr.Row(elem_id="m2f-page"):
            with gr.Column(elem_id="m2f-input", min_width=0):
                file = gr.File(
                    label=f"Image or clip, up to {upload_bytes >> 20} MB",
                    file_types=["image", "video"],
                    height=150,
                    elem_id="m2f-file",
                )
                strip = gr.HTML(
                    [
                        {"title": item.title, "thumbnail": item.thumbnail, "clip": item.path.suffix == ".mp4"}
                        for item in examples
                    ],
                    html_template=_asset("examples.html"),
                    js_on_load=_asset("examples.js"),
                    apply_default_css=False,
                    visible=bool(examples),
                    elem_id="m2f-examples",
                )
            with gr.Column(elem_id="m2f-result", min_width=0):
                viewer = gr.HTML(
                    html_template=_asset("viewer.html"),
                    js_on_load=_asset("viewer.js"),
                    apply_default_css=False,
                    elem_id="m2f-viewer",
                )
                saver = gr.HTML(html_template="", js_on_load=_asset("saver.js"), visible="hidden")
            with gr.Column(elem_id="m2f-settings", min_width=0):
                model = gr.Dropdown(
                    models, value=models[0], label="Model", visible=len(models) > 1, elem_id="m2f-model"
                )
                task = gr.Radio(_choices(tasks), value=tasks[0], label="Task", elem_id="m2f-task")
                threshold = gr.Slider(
                    0,
                    100,  # percent, as scores are drawn on the image
                    value=_percent(threshold_of(visits.predictor(models[0]), tasks[0])),
                    step=1,
                    label="Minimum score (%)",
                    info=_of_classes(visits.predictor(models[0]), tasks[0]),
                    elem_id="m2f-threshold",
                    buttons=[],  # one that resets would inform nobody
                )
                again = gr.Button("Track again", visible=False, elem_id="m2f-again")

        handlers = _Handlers(visits, examples, file, viewer, task, threshold, again)
        outputs = [viewer, task, threshold, again]
        opening: dict[str, Any] = {"outputs": outputs, "concurrency_id": "network", "concurrency_limit": 1}
        reading: dict[str, Any] = {"outputs": outputs, "concurrency_id": "read", "concurrency_limit": 2}
        opening["api_visibility"] = reading["api_visibility"] = "private"
        opening["show_progress_on"] = viewer
        reading["show_progress"] = "hidden"
        file.upload(handlers.upload, [file, model, task], **{**opening, "outputs": [file, *outputs]})
        strip.choose(handlers.choose, [model, task], **opening)
        model.input(handlers.change_model, [model, task], **opening)
        task.input(handlers.change_task, [model, task], **opening)
        again.click(handlers.track_again, [threshold], **opening)
        threshold.input(handlers.change_threshold, [threshold], trigger_mode="always_last", **reading)
        viewer.toggle(handlers.toggle, None, trigger_mode="multiple", **reading)
        viewer.download(handlers.download, None, **{**reading, "outputs": saver})
        page.unload(handlers.leave)
    page.queue(max_size=_WAITING, api_open=False)
    theme = gr.themes.Default(
        primary_hue="indigo",
        neutral_hue="slate",
        font=["ui-sans-serif", "system-ui", "sans-serif"],
        font_mono=["ui-monospace", "monospace"],
        radius_size=gr.themes.sizes.radius_lg,
    ).set(  # gradio's own are fainter than WCAG AA permits for text
        body_text_color_subdued="*neutral_600",
        block_label_text_color="*neutral_600",
        input_placeholder_color="*neutral_600",
        input_placeholder_color_dark="*neutral_400",
    )
    return gr.mount_gradio_app(
        FastAPI(openapi_url=None),
        page,
        path="/",
        theme=theme,
        css=_asset("page.css"),
        footer_links=[],
        run_history=False,
        show_error=True,
        max_file_size=upload_bytes,
        ssr_mode=False,
        pwa=False,
        mcp_server=False,
        enable_monitoring=False,
    )


@dataclass(frozen=True, eq=False)
class _Handlers:
    """What each control calls. Results are values by component; errors are shown as a sentence."""

    visits: Visits
    examples: Sequence[Example]
    file: gr.File
    viewer: gr.HTML
    task: gr.Radio
    threshold: gr.Slider
    again: gr.Button

    def upload(
        self, file: str | None, model: str, task: str, request: gr.Request, progress: gr.Progress = _PROGRESS
    ) -> dict[Any, Any]:
        if file is None:  # withdrawn in the meantime
            return {self.file: None}
        opened = self._opened(request, Path(file), model, task, progress)
        return {**opened, self.file: None}  # so that another one can be dropped

    def choose(
        self, model: str, task: str, event: gr.EventData, request: gr.Request, progress: gr.Progress = _PROGRESS
    ) -> dict[Any, Any]:
        number = event._data.get("example")
        if not isinstance(number, int) or not 0 <= number < len(self.examples):
            return {self.viewer: failure("there is no such example; choose one of those shown")}
        return self._opened(request, self.examples[number].path, model, task, progress)

    def change_model(
        self, model: str, task: str, request: gr.Request, progress: gr.Progress = _PROGRESS
    ) -> dict[Any, Any]:
        if (visit := self.visits.find(_visitor(request))) is not None:
            return self._opened(request, visit.source, model, task, progress)
        return self._controls(model, task, is_clip=False)

    def change_task(
        self, model: str, task: str, request: gr.Request, progress: gr.Progress = _PROGRESS
    ) -> dict[Any, Any]:
        visit = self.visits.find(_visitor(request))
        if visit is None:
            return self._controls(model, task, is_clip=False)
        if visit.image is None:
            return self._opened(request, visit.source, model, task, progress)
        if task not in (tasks := self.visits.tasks(visit.model)):
            return {self.viewer: failure(f"the model has no task '{printable(task, 40)}'; choose one of those shown")}
        visit.read_as(tasks[tasks.index(task)])
        return self._controls(visit.model, task, is_clip=False) | {self.viewer: _seen(lambda: visit)}

    def track_again(self, threshold: float, request: gr.Request, progress: gr.Progress = _PROGRESS) -> dict[Any, Any]:
        visit = self.visits.find(_visitor(request))
        if visit is None:
            return {self.viewer: failure(GONE)}
        return self._opened(request, visit.source, visit.model, visit.task, progress, threshold / 100)

    def change_threshold(self, threshold: float, request: gr.Request) -> dict[Any, Any]:
        visit = self.visits.find(_visitor(request))
        if visit is None or visit.image is None:  # a clip waits for its button
            return {self.viewer: gr.skip()}
        told = {}
        if visit.threshold is None and _of_classes(visit.predictor, visit.task):
            told = {self.threshold: gr.update(info=_OF_ALL)}
        visit.threshold = threshold / 100
        return {self.viewer: _seen(lambda: visit), **told}

    def toggle(self, event: gr.EventData, request: gr.Request) -> dict[Any, Any]:
        def changed() -> Visit:
            visit = self.visits.get(_visitor(request))
            visit.hide(event._data.get("labels"))
            return visit

        return {self.viewer: _seen(changed)}

    def download(self, event: gr.EventData, request: gr.Request) -> dict[str, Any]:
        def file() -> dict[str, Any]:
            kind = event._data.get("kind")
            name, content = self.visits.get(_visitor(request)).download(kind)
            data = f"data:{_TYPES[kind]};base64,{base64.b64encode(content).decode()}"
            return {"name": name, "url": data, "number": secrets.token_hex(4)}  # the same file can be saved twice

        return _told(file)

    def leave(self, request: gr.Request) -> None:
        self.visits.close(_visitor(request))

    def _opened(
        self,
        request: gr.Request,
        source: Path,
        model: str,
        task: str,
        progress: gr.Progress,
        threshold: float | None = None,
    ) -> dict[Any, Any]:
        def tell(step: str, done: int, total: int | None) -> None:
            if total:
                progress((done, total), desc=step, unit="frames")

        seen = _seen(lambda: self.visits.open(_visitor(request), source, model, task, threshold, tell))
        visit = self.visits.find(_visitor(request))
        if visit is None or seen["kind"] == "failure":
            return {self.viewer: seen}
        is_clip = visit.clip is not None
        return self._controls(model, visit.task, is_clip=is_clip, threshold=visit.least_score) | {self.viewer: seen}

    def _controls(self, model: str, task: str, *, is_clip: bool, threshold: float | None = None) -> dict[Any, Any]:
        """Task and threshold as a model has them."""
        tasks = self.visits.tasks(model, is_clip=is_clip)
        chosen = tasks[tasks.index(task)] if task in tasks else tasks[0]
        value = threshold_of(self.visits.predictor(model), chosen) if threshold is None else threshold
        return {
            self.task: gr.update(choices=_choices(tasks), value=chosen),
            self.threshold: gr.update(
                value=_percent(value),
                interactive=chosen != "semantic",
                info=None if is_clip else _of_classes(self.visits.predictor(model), chosen),
            ),
            self.again: gr.update(visible=is_clip),
        }


def _visitor(request: gr.Request) -> str:
    return str(request.session_hash)


def _seen(visit: Callable[[], Visit]) -> dict[str, Any]:
    return _told(lambda: view(visit()))


def _told(step: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """The result of a step, or a sentence instead; a visitor never sees more of an error."""
    try:
        return step()
    except (UserError, FailedError) as error:
        return failure(str(error))
    except Exception as error:  # whatever it is, the page continues, and the log has it
        number = secrets.token_hex(4)
        _logger.exception("failure %s on the page", number)
        if is_lack_of_memory(error):
            return failure("the server does not have enough memory for this; use a smaller image")
        return failure(f"this failed on the server, through no fault of yours; its log has the reason under {number}")


def _of_classes(predictor: Predictor, task: str) -> str | None:
    """What to know about a model that has minimum scores for single classes; None for any other."""
    own = predictor.settings.class_thresholds if task == "instance" else {}
    if not own:
        return None
    return f"The model has separate minimum scores for {len(own)} of its classes; moving this sets one for all."


def _percent(score: float) -> float:
    return round(100 * score, 2)


def _choices(tasks: Sequence[str]) -> list[tuple[str, str]]:
    return [(name.capitalize(), name) for name in tasks]


def _asset(name: str) -> str:
    return resources.files("mask2former.web").joinpath("assets", name).read_text(encoding="utf-8")
