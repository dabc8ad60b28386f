"""The web page from the visitor's view: a browser, real clicks, a real file; and its other addresses."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import runpy
import secrets
import shutil
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from subprocess import PIPE, STDOUT
from typing import Any

import pytest
import yaml
from PIL import Image

from mask2former import Predictor
from mask2former.cli import main
from mask2former.errors import UserError
from mask2former.scenes import draw_scene
from mask2former.web import open_app, open_models, serve_page

pytestmark = pytest.mark.long

ROOT = Path(__file__).parents[2]
FAST = 60  # seconds that anything may take on a busy machine


class Server:
    """The page on a free port, served in a thread."""

    def __init__(self, app: Any) -> None:
        uvicorn = pytest.importorskip("uvicorn")
        self.folder = Path(os.environ["GRADIO_TEMP_DIR"])
        self._server = uvicorn.Server(uvicorn.Config(app, port=0, log_config=None, ws="none"))
        self._thread = threading.Thread(target=self._server.run)

    def __enter__(self) -> Server:
        self._thread.start()
        end = time.monotonic() + FAST
        while not self._server.started:
            assert time.monotonic() < end
            time.sleep(0.02)
        self.url = f"http://127.0.0.1:{self._server.servers[0].sockets[0].getsockname()[1]}"
        return self

    def __exit__(self, *_: object) -> None:
        self._server.should_exit = True
        self._thread.join()


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    pytest.importorskip("gradio")
    models = open_models(["scenes-tiny"], device="cpu")
    with open_app(models, hosts=("127.0.0.1",), upload_bytes=1 << 20) as app, Server(app) as server:
        yield server
    assert not server.folder.exists()


@pytest.fixture(scope="module")
def chrome(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A browser, which saves files into the folder ``chrome.downloads``."""
    webdriver = pytest.importorskip("selenium.webdriver")
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if chromium is None or driver is None:
        reason = "there is no chromium with its driver (Debian: apt-get install chromium chromium-driver)"
        if "MASK2FORMER_ALL_PACKAGES" in os.environ:
            pytest.fail(reason)
        pytest.skip(reason)
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for flag in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu"):
        options.add_argument(flag)
    downloads = tmp_path_factory.mktemp("downloads")
    options.add_experimental_option("prefs", {"download.default_directory": str(downloads)})
    options.set_capability("goog:loggingPrefs", {"performance": "ALL", "browser": "ALL"})
    chrome = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    chrome.downloads = downloads
    yield chrome
    chrome.quit()


class Client:
    """A visitor without a browser, who sends the requests of the page's scripts."""

    def __init__(self, url: str) -> None:
        self.url, self.session = url, secrets.token_hex(6)
        self.opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        configuration = json.loads(self.opener.open(f"{url}/config", timeout=FAST).read())
        self.numbers = {item["targets"][0][1]: item["id"] for item in configuration["dependencies"]}

    def post(self, path: str, body: bytes, kind: str) -> Any:
        request = urllib.request.Request(f"{self.url}/gradio_api/{path}", body, {"Content-Type": kind})
        with self.opener.open(request, timeout=FAST) as response:
            return json.loads(response.read())

    def upload(self, name: str, content: bytes) -> str:
        """Upload a file and return its path on the server."""
        head = f'--x\r\nContent-Disposition: form-data; name="files"; filename="{name}"\r\n\r\n'
        return self.post("upload", head.encode() + content + b"\r\n--x--\r\n", "multipart/form-data; boundary=x")[0]

    def send(self, event: str, data: list[Any], **event_data: Any) -> None:
        """Trigger an event."""
        body = {"data": data, "fn_index": self.numbers[event], "session_hash": self.session, "event_data": event_data}
        self.post("queue/join", json.dumps(body).encode(), "application/json")

    def call(self, event: str, data: list[Any], **event_data: Any) -> Any:
        """Trigger an event and return what the page shows then, or the server's whole message if that is nothing."""
        self.send(event, data, **event_data)
        address = f"{self.url}/gradio_api/queue/data?session_hash={self.session}"
        with self.opener.open(address, timeout=FAST) as stream:
            for line in stream:
                message = json.loads(line[6:]) if line.startswith(b"data: ") else {}
                if message.get("msg") == "process_completed":
                    found = message["output"].get("data")
                    return message if found is None else found[event == "upload"]  # after the file itself
        raise AssertionError("the stream ended")

    def open(self, path: str) -> Any:
        file = {"path": path, "meta": {"_type": "gradio.FileData"}}
        return self.call("upload", [file, "scenes-tiny", "panoptic"])


class Browser:
    """A visitor with a browser."""

    def __init__(self, chrome: Any, url: str, width: int, height: int) -> None:
        self.chrome, self.downloads = chrome, chrome.downloads
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500}
        chrome.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        chrome.get(url)
        self.until(lambda: self.all(".m2f-thumbs button") and self.all("#m2f-file input[type=file]"))

    def all(self, selector: str) -> list[Any]:
        return self.chrome.find_elements("css selector", selector)

    def one(self, selector: str) -> Any:
        return self.chrome.find_element("css selector", selector)

    def until(self, holds: Callable[[], Any]) -> Any:
        end = time.monotonic() + FAST
        while not (found := holds()):
            assert time.monotonic() < end, self.one("body").text
            time.sleep(0.05)
        return found

    def upload(self, path: Path) -> None:
        self.one("#m2f-file input[type=file]").send_keys(str(path))

    def result(self, title: str, kind: str = "image") -> list[str]:
        """Wait for the result of a file and return the text of its rows."""
        self.until(lambda: self.one(".m2f-viewer").get_attribute("data-kind") == kind)
        self.until(lambda: self.one(".m2f-title").text == title)
        if kind == "image":
            self.until(lambda: self.one(".m2f-viewer").get_attribute("data-ready") is not None)
        return [line.text for line in self.all(".m2f-list tbody tr")]

    def click_at(self, across: float, down: float) -> None:
        """Click into the image, at shares of its width and height."""
        from selenium.webdriver import ActionChains

        canvas = self.one(".m2f-frame canvas")
        self.chrome.execute_script("arguments[0].scrollIntoView({block: 'center'})", canvas)
        x, y = (across - 0.5) * canvas.size["width"], (down - 0.5) * canvas.size["height"]
        ActionChains(self.chrome).move_to_element_with_offset(canvas, x, y).click().perform()

    def press(self, element: Any) -> None:
        self.chrome.execute_script("arguments[0].scrollIntoView({block: 'center'})", element)
        element.click()

    def save(self, kind: str) -> bytes:
        self.press(self.one(f'[data-save="{kind}"]'))
        [file] = self.until(lambda: list(self.downloads.glob(f"*.{kind}")))
        self.until(lambda: file.stat().st_size)
        return file.read_bytes()

    def requested(self) -> set[str]:
        """The addresses requested so far."""
        events = [json.loads(entry["message"])["message"] for entry in self.chrome.get_log("performance")]
        return {
            event["params"]["request"]["url"]
            for event in events
            if event["method"] == "Network.requestWillBeSent"
            and not event["params"]["request"]["url"].startswith(("data:", "blob:", "chrome:"))
        }


@pytest.fixture
def scene(tmp_path: Path) -> Path:
    """An image with a large ball on the left and a house on the right."""
    path = tmp_path / "my scene.png"
    Image.fromarray(draw_scene(2_000_008, (240, 320)).image).save(path)
    return path


def test_a_visitor_segments_a_file_points_at_a_segment_and_takes_it_home(
    server: Server, chrome: Any, scene: Path
) -> None:
    visitor = Browser(chrome, server.url, 1280, 900)
    visitor.upload(scene)
    rows = visitor.result("my scene.png")
    predictor = Predictor.from_pretrained("scenes-tiny", quiet=True, device="cpu")
    expected = predictor(str(scene), "panoptic")
    by_area = sorted(expected.rows(), key=lambda row: -row["area"])
    assert [line.split()[0] for line in rows] == [row["category_name"] for row in by_area]

    # A click selects the segment at its position.
    assert expected.categories[expected.segments[int(expected.ids[132, 116]) - 1].label].name == "ball"
    visitor.click_at(116 / 320, 132 / 240)
    assert visitor.one(".m2f-tip strong").text == "ball"
    assert re.fullmatch(r"score \d+% · [\d,]+ px · [\d.]+%", visitor.one(".m2f-tip span").text)
    assert [line.text.split()[0] for line in visitor.all(".m2f-list tr.m2f-on")] == ["ball"]

    # A class that is switched off disappears from the list and from under the pointer, and can be switched on again.
    chip = next(button for button in visitor.all(".m2f-chip") if button.text.startswith("ball"))
    visitor.press(chip)
    visitor.until(lambda: "1 hidden" in visitor.one(".m2f-summary").text)
    assert "ball" not in " ".join(visitor.result("my scene.png"))
    visitor.click_at(116 / 320, 132 / 240)
    assert visitor.one(".m2f-tip").text == ""
    visitor.press(visitor.one(".m2f-all"))
    visitor.until(lambda: "hidden" not in visitor.one(".m2f-summary").text)

    # Another task and another threshold.
    visitor.press(next(label for label in visitor.all("#m2f-task label") if label.text == "Instance"))
    visitor.until(lambda: "instance" in visitor.one(".m2f-summary").text)
    field = visitor.one("#m2f-threshold input[type=number]")
    before = field.get_attribute("value")
    field.send_keys("\ue009a\ue000", "\ue017", "\ue004")  # emptied, and left
    assert field.get_attribute("value") == before
    field.send_keys("\ue009a\ue000", "97", "\ue007")  # all of it is replaced
    strict = predictor(str(scene), "instance", score_threshold=0.97)
    assert len(strict) < len(predictor(str(scene), "instance"))
    visitor.until(lambda: len(visitor.result("my scene.png")) == len(strict))

    assert visitor.all(".toast-body") == []  # no complaint about the field while it was empty

    # What is downloaded is what is shown.
    document = json.loads(visitor.save("json"))
    assert document["settings"]["instance_threshold"] == 0.97
    table = list(csv.DictReader(io.StringIO(visitor.save("csv").decode(), newline="")))
    assert [row["category_name"] for row in table] == [item["category_name"] for item in document["instances"]]
    assert visitor.save("png")[:4] == b"\x89PNG"

    # A clip, of the examples.
    visitor.press(visitor.all(".m2f-thumbs button")[-1])
    assert len(visitor.result("clip.mp4", "clip")) > 3
    visitor.until(lambda: visitor.chrome.execute_script("return document.querySelector('video').readyState > 1"))
    assert visitor.save("mp4")[4:8] == b"ftyp"

    # Everything came from this server, and the browser reported no error.
    assert all(address.startswith(server.url) for address in visitor.requested())
    assert [entry for entry in visitor.chrome.get_log("browser") if entry["level"] == "SEVERE"] == []


def test_a_telephone_has_all_of_it_below_one_another_and_is_another_visitor(
    server: Server, chrome: Any, scene: Path, tmp_path: Path
) -> None:
    visitor = Browser(chrome, server.url, 400, 860)
    assert visitor.one(".m2f-viewer").get_attribute("data-kind") == "empty"

    (tmp_path / "notes.png").write_text("no image")
    visitor.upload(tmp_path / "notes.png")
    message = visitor.until(lambda: visitor.one(".m2f-message").text)
    assert "notes.png" in message
    assert str(server.folder) not in message
    (tmp_path / "large.png").write_bytes(2_000_000 * b"x")
    visitor.upload(tmp_path / "large.png")
    visitor.until(lambda: "maximum allowed size" in visitor.one("body").text)

    visitor.chrome.refresh()
    visitor.until(lambda: visitor.all("#m2f-file input[type=file]"))
    visitor.upload(scene)
    visitor.result("my scene.png")
    width, seen = visitor.chrome.execute_script("return [document.documentElement.scrollWidth, window.innerWidth]")
    assert width <= seen == 400
    tops = [visitor.one(name).rect["y"] for name in ("#m2f-input", "#m2f-result", "#m2f-settings")]
    assert tops == sorted(tops)
    visitor.click_at(116 / 320, 132 / 240)
    assert visitor.one(".m2f-tip strong").text == "ball"


def test_only_the_page_is_served(server: Server) -> None:
    def status(path: str, **headers: str) -> int:
        request = urllib.request.Request(server.url + path, headers=headers)
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with opener.open(request, timeout=FAST) as response:
                return response.status
        except urllib.error.HTTPError as error:
            return error.code

    assert status("/") == 200
    assert status("/", Host="evil.example") == 421
    for path in ("/gradio_api/file=/etc/passwd", "/gradio_api/file=http://127.0.0.1/", "/docs", "/monitoring"):
        assert status(path) == 404
    configuration = urllib.request.build_opener(urllib.request.ProxyHandler({})).open(f"{server.url}/config").read()
    assert str(server.folder).encode() not in configuration
    assert b'"api_visibility":"public"' not in configuration.replace(b" ", b"")


def test_the_space_runs_the_same_page(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Any] = []
    monkeypatch.setattr("mask2former.web.open_models", lambda names: calls.append(names) or {})
    monkeypatch.setattr("mask2former.web.serve_page", lambda models, **where: calls.append(where))
    head = (ROOT / "spaces" / "README.md").read_text(encoding="utf-8").split("---\n")[1]
    described = yaml.safe_load(head)
    runpy.run_path(str(ROOT / "spaces" / described["app_file"]), run_name="__main__")
    assert calls == [["scenes-tiny", "nuclei"], {"host": "0.0.0.0", "port": 7860}]
    assert described["sdk"] == "gradio"
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert f'"gradio>={described["sdk_version"].rpartition(".")[0]},<7"' in project


@pytest.mark.slow
def test_uploads_are_removed_after_a_while_and_visits_when_a_visitor_leaves(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("gradio")
    monkeypatch.setenv("GRADIO_TEMP_DIR", "mine")
    monkeypatch.delenv("GRADIO_ANALYTICS_ENABLED", raising=False)
    with open_app(open_models(["scenes-tiny"], device="cpu"), keep_seconds=3) as app, Server(app) as server:
        assert os.environ["GRADIO_ANALYTICS_ENABLED"] == "False"
        assert (server.folder / "examples" / "clip.mp4").is_file()
        assert server.folder.stat().st_mode & 0o077 == 0
        visitor = Client(server.url)
        end = time.monotonic() + FAST
        heartbeat = f"{visitor.url}/gradio_api/heartbeat/{visitor.session}"
        with visitor.opener.open(heartbeat, timeout=FAST):  # the tab is open
            assert visitor.call("choose", ["scenes-tiny", "panoptic"], example=0)["kind"] == "image"
            assert visitor.call("toggle", [], labels=[])["kind"] == "image"
        while visitor.call("toggle", [], labels=[])["kind"] == "image":
            assert time.monotonic() < end
            time.sleep(0.2)
        upload = Path(visitor.upload("a.png", b"anything"))
        assert upload.is_file()
        while upload.exists():
            assert time.monotonic() < end
            time.sleep(0.2)
    assert not server.folder.exists()
    assert os.environ["GRADIO_TEMP_DIR"] == "mine"
    assert "GRADIO_ANALYTICS_ENABLED" not in os.environ


@pytest.mark.slow
def test_the_command_says_where_the_page_is_and_leaves_nothing(tmp_path: Path) -> None:
    pytest.importorskip("gradio")
    command = [sys.executable, "-m", "mask2former", "web", "scenes-tiny", "--device", "cpu", "--port", "0"]
    environment = {**os.environ, "TMPDIR": str(tmp_path), "HTTP_PROXY": "http://127.0.0.1:9"}
    with subprocess.Popen(command, stdout=PIPE, stderr=STDOUT, text=True, env=environment) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        found = re.search(r"the page is at (http://127\.0\.0\.1:\d+) ", line)
        assert found, line + process.communicate()[0]
        assert Client(found[1]).call("choose", ["scenes-tiny", "panoptic"], example=0)["kind"] == "image"
        for _ in range(2):  # as impatient users do
            process.send_signal(signal.SIGINT)
            time.sleep(0.1)
        assert (process.communicate(timeout=FAST)[0], process.returncode) == ("stopped\n", 130)
    left = [path for path in tmp_path.rglob("*") if path.is_file() or path.name.startswith("mask2former")]
    assert left == []


_ENDLESS = """
import sys, time
from mask2former import Predictor
from mask2former.__main__ import main
from mask2former.config import InferenceConfig
from mask2former.structures import Categories
from mask2former.web import server

def network(images):
    print("in the network", flush=True)
    time.sleep(3600)

classes = Categories.from_names(["cat"])
server.open_predictor = lambda *_, **__: Predictor(network, "cpu", settings=InferenceConfig(), categories=classes)
sys.exit(main())
"""


def test_a_service_manager_ends_the_page_while_an_image_is_in_the_network(tmp_path: Path) -> None:
    pytest.importorskip("gradio")
    command = [sys.executable, "-c", _ENDLESS, "web", "cats", "--port", "0"]
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    with subprocess.Popen(command, stdout=PIPE, stderr=STDOUT, text=True, env=environment) as process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            found = re.search(r"the page is at (http://127\.0\.0\.1:\d+) ", line)
            assert found, line
            visitor = Client(found[1])
            visitor.send("choose", ["cats", "panoptic"], example=0)
            assert process.stdout.readline() == "in the network\n"
            heartbeat = f"{visitor.url}/gradio_api/heartbeat/{visitor.session}"
            with visitor.opener.open(heartbeat, timeout=FAST):  # the tab is open
                process.send_signal(signal.SIGTERM)
                assert (process.communicate(timeout=FAST)[0], process.returncode) == ("stopped\n", 143)
        finally:
            process.kill()
    assert [path for path in tmp_path.rglob("*") if path.is_file() or path.name.startswith("mask2former")] == []


def test_wrong_requests_are_refused_in_words(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UserError, match="one or more different models, got scenes-tiny, scenes-tiny"):
        open_models(["scenes-tiny", "scenes-tiny"])
    assert main(["web", "scenes-tiny", "nuclei", "--recipe", "coco-panoptic/r50"]) == 2
    assert "--recipe applies to a single model; give one model, not 2" in capsys.readouterr().err
    assert main(["web", "scenes-tiny", "--tile", "8"]) == 2  # which is passed on
    assert "tile must be 0, for whole images, or at least 16 pixels, got 8" in capsys.readouterr().err
    with pytest.raises(UserError, match=r"cannot listen on 203\.0\.113\.7, port 7860"):
        serve_page({}, host="203.0.113.7")


def test_visitors_at_once_get_their_own_results(server: Server, tmp_path: Path) -> None:
    """Visitors at the same time get the results of their own images, which all differ in size."""

    def visit(number: int) -> tuple[list[int], list[Any]]:
        seen = []
        visitor = Client(server.url)
        for turn in range(2 if number == 0 else 1):
            width = 100 + 10 * number + turn
            image = io.BytesIO()
            Image.fromarray(draw_scene(2_000_000 + number, (80, width)).image).save(image, format="PNG")
            shown = visitor.open(visitor.upload("scene.png", image.getvalue()))  # all of one name
            seen.append((width, shown["size"], shown["title"]))
            label = shown["classes"][0]["label"]
            less = visitor.call("toggle", [], labels=[label])
            seen.append((width, less["size"], less["title"]))
            assert [item["label"] for item in less["classes"] if item["hidden"]] == [label]
        return [width for width, *_ in seen], seen

    with ThreadPoolExecutor(4) as pool:
        for _, seen in pool.map(visit, range(4)):
            assert [size for _, size, _ in seen] == [[width, 80] for width, *_ in seen]
            assert {title for *_, title in seen} == {"scene.png"}


def test_a_visitor_reads_no_other_files_and_sends_the_server_nowhere(server: Server, tmp_path: Path) -> None:
    asked: list[str] = []

    class Elsewhere(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_error(404)

        def log_message(self, format: str, *args: object) -> None:
            pass

    (tmp_path / "secret.png").write_bytes(b"secret")
    visitor = Client(server.url)
    with ThreadingHTTPServer(("127.0.0.1", 0), Elsewhere) as other:
        threading.Thread(target=other.serve_forever, daemon=True).start()
        for path in (str(tmp_path / "secret.png"), "/etc/passwd", f"http://127.0.0.1:{other.server_port}/x.png"):
            with pytest.raises(urllib.error.HTTPError, match="400"):
                visitor.open(path)
        other.shutdown()
    assert asked == []
    assert visitor.call("toggle", [], labels=[0])["message"].startswith("your image is no longer available")
    assert visitor.call("choose", ["scenes-tiny", "panoptic"], example=99)["message"].startswith("there is no such")
