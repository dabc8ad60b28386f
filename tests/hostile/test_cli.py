"""The command line with hostile words, streams and signals: a one-sentence error and exit code, never a traceback."""

from __future__ import annotations

import ast
import json
import logging
import os
import re
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path

import pytest
from PIL import Image

import mask2former
from mask2former.cli import main, terminal
from mask2former.cli.scores import class_table
from mask2former.text import printable

SOURCE = Path(mask2former.__file__).parent
ODD = [
    "[/]",
    "[bold]x[/bold]",
    ":smile:",
    "\x1b[31mred\x1b[0m",
    "a\rb",
    "\x07",
    "\ud800",
    "\u202egnp",
    "a\nerror: b",
    "x" * 10**6,
]


def harmless(text: str) -> bool:
    """Whether a terminal shows the text and does nothing else."""
    return all(letter.isprintable() or letter == "\n" for letter in text)


# --- words -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ODD, ids=range(len(ODD)))
def test_names_are_shown_as_they_are_and_do_nothing(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    shown = printable(name, 100)
    console = terminal.make_console()
    console.width = 200
    with terminal.filtered():
        terminal.say(f"note: {name}")
        terminal.say(f"failed: {name}", console=console, style="red")
        console.print(class_table(name, {name: {name: 1.0}}))
        logging.getLogger(name).warning("%s", name)
        warnings.showwarning(UserWarning(name), UserWarning, "file", 1)
    captured = capsys.readouterr()
    assert harmless(captured.out)
    assert harmless(captured.err)
    assert len(captured.out) < 30_000
    assert captured.out.startswith("note: ")
    assert captured.out.count("\n") < 20
    assert shown[:80] in re.sub(r"\s+", " ", captured.out)


def test_a_bar_shows_the_same() -> None:
    from rich.console import Console

    console = Console(force_terminal=True, width=200)
    with console.capture() as captured:
        progress = terminal.progress_bar(console)
        for name in ODD:
            progress.add_task(name, total=2)
        console.print(progress.get_renderable())
    assert "[bold]x[/bold]" in captured.get()
    assert harmless(re.sub(r"\x1b\[[\d;]*m", "", captured.get()))


def test_every_word_goes_through_one_place() -> None:
    """The command line neither calls ``print`` nor makes consoles; these print only tables, whose cells they filter."""
    found = []
    for path in sorted((SOURCE / "cli").rglob("*.py")):
        if path.name == "terminal.py":
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call):
                continue
            called = ast.unparse(node.func)
            is_table = called == "console.print" and isinstance(node.args[0], ast.Call)
            if called in ("print", "typer.echo", "Console", "Text") or (
                called.endswith((".print", ".write", "from_markup")) and not is_table
            ):
                found.append(f"{path.name}:{node.lineno}: {called}")
    assert not found


# --- arguments -------------------------------------------------------------------------------------------------------

HUGE, LONG = str(10**20), "x" * 5000
PREDICT = ["predict", "a.png", "-o", "out", "-m", "scenes-tiny"]
TRACK = ["track", "frames", "-o", "out", "-m", "scenes-tiny"]
EVALUATE = ["evaluate", "scenes-tiny"]
CHECK = ["check-data", "coco.json"]
TRAIN = ["train", "run.yaml"]


def numbers(command: list[str], option: str, *values: str, more: tuple[str, ...] = ()) -> list[list[str]]:
    return [[*command, *more, option, value] for value in values]


NONSENSE = ("-1", "nan", HUGE, "1e999", "abc", "", "0x10", "9" * 5000)
REFUSED = [
    *numbers(["demo"], "--seed", *NONSENSE),
    *numbers(["demo", "--video"], "--clips", "0", *NONSENSE),
    *numbers(["demo"], "--device", "cuda:99", "mps", "xpu", "meta", "cuda:" + HUGE, "cuda:-1", ""),
    *(words for option in ("--start", "--end") for words in numbers(TRACK, option, "-1", "nan", "1e999", HUGE, "")),
    *(words for option in ("--window", "--stride", "--max-lost") for words in numbers(TRACK, option, *NONSENSE)),
    *(
        words
        for option in ("--score-threshold", "--overlap-threshold")
        for words in numbers(PREDICT, option, *NONSENSE)
    ),
    *(
        words
        for option in ("--max-instances", "--short-edge", "--long-edge")
        for words in numbers(PREDICT, option, *NONSENSE)
    ),
    *numbers(PREDICT, "--tile", *NONSENSE),
    *numbers(PREDICT, "--tta-sizes", *NONSENSE, "100000000", ",".join(["64"] * 1000)),
    *(
        [*PREDICT, "--value-range", *pair]
        for pair in (("nan", "1"), ("0", "inf"), ("1", "0"), ("1e400", "1"), ("", "1"))
    ),
    *(words for option in ("--limit", "--seed", "--size") for words in numbers(EVALUATE, option, *NONSENSE)),
    *numbers(EVALUATE, "--max-detections", "0", *NONSENSE, more=("-t", "instance")),
    *numbers(EVALUATE, "--pooled", "-1", "nan", "2", "1e999", more=("-t", "instance")),
    *(
        [*EVALUATE, "-t", "instance", "--area-limits", *pair]
        for pair in (("5", "5"), ("0", "1"), (HUGE, HUGE), ("1", "x"))
    ),
    *numbers(CHECK, "--queries", "0", *NONSENSE),
    *numbers(CHECK, "--workers", *NONSENSE),
    *(
        [*command, option, path]
        for command, options in (
            (["demo"], ("-o",)),
            (PREDICT, ("-o", "--coco", "-m")),
            (TRACK, ("-o", "--ytvis", "-m")),
            (EVALUATE, ("--json", "--results", "--report", "--data")),
            (CHECK, ("--sheet", "--suggest", "--json")),
            (TRAIN, ("--resume",)),
            (["plot", "run"], ("-o",)),
            (["average", "scenes-tiny", "scenes-tiny"], ("-o",)),
        )
        for option in options
        for path in ("", " ", LONG, "loop/x", "a\0b", "a.png/x")
    ),
    *(
        [command, path]
        for command in ("inspect", "train", "recipe", "check-data", "prepare", "plot")
        for path in ("", LONG, "loop", "a\0b", "\udcff", "-", "--", "[/]", "\x1b[31m")
        if (command, path) != ("recipe", "--")  # lists the recipes
    ),
    *(["plot", name] for name in ("pipe", "/dev/zero", "fields.csv", "zeros.csv", "digits.csv")),
    *(["train", name] for name in ("pipe", "/dev/zero", "deep.yaml", "bomb.yaml", "self.yaml", "digits.yaml", "a.png")),
    *(
        [*TRAIN, override]
        for override in (
            "seed=&a [*a]",
            "seed=" + "[" * 600,
            "=1",
            "a..b=1",
            "seed",
            "seed=" + HUGE,
            "seed=-1",
            "optim.lr=.nan",
            "optim.lr=.inf",
            "optim.betas=[.nan, 2]",
            "trainer.max_steps=" + HUGE,
            "trainer.devices=1000000",
            "data.num_workers=1000000",
            "data.batch_size=1000000000",
            "data.batch_size_per_device=1000000000",
            "evaluation.num_images=1000000000",
            "evaluation.max_detections=1000000000",
            "criterion.num_points=1000000000",
            "data.dataset.num_training=" + HUGE,
            "data.dataset.train_seed=" + HUGE,
            "seed=2024-99-99",
            "x" * 10**6 + "=1",
            "seed.x.y=1",
            "seed=!!python/object/apply:os.system [true]",
        )
    ),
    ["--", "--"],
    ["---"],
    ["-"],
    ["predict", "--"],
    ["--output="],
    ["x" * 10**6],
    ["--" + "y" * 10**5],
    ["predict"] * 50,
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import mask2former.demo  # so that no single row waits for it
    import mask2former.training.run  # noqa: F401

    folder = tmp_path_factory.mktemp("words")
    Image.new("RGB", (60, 40)).save(folder / "a.png")
    (folder / "frames").mkdir()
    Image.new("RGB", (60, 40)).save(folder / "frames" / "0.png")
    (folder / "run").mkdir()
    (folder / "run" / "metrics.csv").write_text("global_step,loss\n1,2\n2,1\n")
    coco = {"images": [], "annotations": [], "categories": [{"id": 1, "name": "[/]"}]}
    (folder / "coco.json").write_text(json.dumps(coco))
    (folder / "run.yaml").write_text("data: {}\n")
    os.mkfifo(folder / "pipe")
    (folder / "loop").symlink_to("loop")
    (folder / "fields.csv").write_text("step,loss\n1," + "x" * 10**6 + "\n")
    (folder / "zeros.csv").write_bytes(b"step,loss\n" + bytes(1000) + b"\n")
    (folder / "digits.csv").write_text("step,loss\n" + "9" * 5000 + ",1\n")
    (folder / "deep.yaml").write_text("[" * 20_000)
    (folder / "bomb.yaml").write_text("a: &a [x]\n" + "".join(f"b{n}: &a [*a, *a]\n" for n in range(60)))
    (folder / "self.yaml").write_text("seed: &a [*a]\n")
    (folder / "digits.yaml").write_text("seed: " + "9" * 10_000)
    return folder


@pytest.mark.parametrize("words", REFUSED, ids=lambda words: printable(" ".join(words), 60))
def test_nonsense_is_refused(
    words: list[str], folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(folder)
    before = set(folder.iterdir())
    start = time.process_time()
    assert main(words) == 2
    error = capsys.readouterr().err
    last = error.strip().splitlines()[-1]
    assert last.startswith("error: ")
    assert len(last) < 2500
    assert harmless(error)
    assert "Traceback" not in error
    assert time.process_time() - start < 3  # a second, on a slow machine
    assert set(folder.iterdir()) == before


def test_a_library_that_does_not_start(tmp_path: Path) -> None:
    """A library that cannot be imported, for instance because of its environment variables, gives one line."""
    (tmp_path / "yaml.py").write_text("int('abc')")
    (tmp_path / "run.yaml").write_text("data: {}")
    before = f"import sys; sys.path.insert(0, {str(tmp_path)!r})"
    result = run(["train", str(tmp_path / "run.yaml")], before=before, capture_output=True)
    assert result.returncode == 1
    assert result.stderr.startswith("error: the library yaml cannot be loaded (ValueError: invalid literal")
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize("columns", ["abc", "-1", "99999999999", "9" * 5000])
def test_terminals_of_any_width(
    columns: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with monkeypatch.context() as patch:  # pytest itself reads it when the test is over
        patch.setenv("COLUMNS", columns)
        assert main(["--help"]) == 0
        assert len(capsys.readouterr().out) < 100_000
        assert os.environ["COLUMNS"] == columns


# --- streams and signals ---------------------------------------------------------------------------------------------


def run(words: list[str], *, before: str = "", after: str = "", **settings: object) -> subprocess.CompletedProcess[str]:
    program = f"{before}\nimport sys; from mask2former.__main__ import main; sys.argv[1:] = {words!r}\n"
    program += f"code = main()\n{after}\nsys.exit(code)"
    settings.setdefault("encoding", "utf-8")
    return subprocess.run([sys.executable, "-c", program], timeout=60, check=False, **settings)  # type: ignore[call-overload]


@pytest.mark.parametrize("encoding", ["ascii", pytest.param("latin-1", marks=pytest.mark.slow), "utf-8"])
def test_any_encoding_of_the_streams(encoding: str) -> None:
    environment = {**os.environ, "PYTHONIOENCODING": encoding}
    result = run(["train", "\u2603/\xff.yaml"], env=environment, encoding=encoding, capture_output=True)
    assert (result.returncode, result.stdout) == (2, "")
    assert len(result.stderr.splitlines()) == 1


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full")
def test_a_full_disk_behind_standard_output() -> None:
    with open("/dev/full", "w") as full:
        result = run(["--version"], stdout=full, stderr=subprocess.PIPE)
    assert result.returncode == 1
    assert result.stderr.count("\n") == 1
    assert "standard output" in result.stderr


def test_closed_streams() -> None:
    """With closed streams a command works, and files that are opened later do not get their descriptors."""
    before = "import os; os.closerange(0, 3); import sys; sys.stdin = sys.stdout = sys.stderr = None"
    after = "import os; assert os.open(os.devnull, os.O_RDONLY) > 2"
    result = run(["--version"], before=before, after=after)
    assert result.returncode == 0


def test_a_deleted_working_directory(tmp_path: Path) -> None:
    (tmp_path / "gone").mkdir()
    result = run(
        ["train", "no.yaml"],
        before=f"import os; os.chdir({str(tmp_path / 'gone')!r}); os.rmdir({str(tmp_path / 'gone')!r})",
        capture_output=True,
    )
    assert result.returncode == 2
    assert (
        result.stderr == "error: the working directory no longer exists; change to one that exists (cd) and try again\n"
    )


# Sends the signal when the module is imported: from the first to the last that a command needs, and in its work.
WHEN = """
import os, signal, sys, importlib.abc
class Finder(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name == {module!r}:
            sys.meta_path.remove(self)
            os.kill(os.getpid(), {number})
sys.meta_path.insert(0, Finder())
"""


@pytest.mark.usefixtures("default_signals")
@pytest.mark.parametrize(
    ("module", "number", "code"),
    [
        ("mask2former.cli", signal.SIGINT, 130),
        pytest.param("typer", signal.SIGINT, 130, marks=pytest.mark.slow),  # between the two others
        ("mask2former.config", signal.SIGINT, 130),
        ("mask2former.documents", signal.SIGTERM, 143),
        ("mask2former.cli", signal.SIGHUP, 129),
    ],
)
def test_a_signal_while_it_starts(module: str, number: signal.Signals, code: int) -> None:
    result = run(["train", "no.yaml"], before=WHEN.format(module=module, number=int(number)), capture_output=True)
    assert (result.stderr, result.returncode) == ("stopped\n", code)


@pytest.mark.usefixtures("default_signals")
def test_an_import_that_makes_another_error_of_the_signal() -> None:
    before = WHEN.format(module="mask2former.documents", number=int(signal.SIGINT)).replace(
        "os.kill(os.getpid(), 2)",
        "\n            try: os.kill(os.getpid(), 2)\n            except KeyboardInterrupt: raise ImportError('half')",
    )
    result = run(["train", "no.yaml"], before=before, capture_output=True)
    assert (result.stderr, result.returncode) == ("stopped\n", 130)


@pytest.mark.usefixtures("default_signals")
def test_a_signal_after_the_work_is_done() -> None:
    before = "import atexit, os, signal; atexit.register(lambda: os.kill(os.getpid(), signal.SIGINT))"
    result = run(["--version"], before=before, capture_output=True)
    assert (result.stderr, result.returncode) == ("", 0)
    assert result.stdout.startswith("mask2former ")


def test_signals_that_are_to_be_ignored_stay_so() -> None:
    before = "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN)\n"
    before += WHEN.format(module="typer", number=int(signal.SIGINT))
    assert run(["--version"], before=before, capture_output=True).returncode == 0
