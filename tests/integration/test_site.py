"""The documentation site: every page is in the navigation, and the reference has every public name."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, get_args

import pytest
import typer.main
import yaml
from pydantic import BaseModel

import mask2former
from mask2former.cli import app
from mask2former.config import RunConfig

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
README = ROOT / "README.md"
PAGES = [README, *sorted(DOCS.rglob("*.md"))]
SUFFIXES = (".json", ".md", ".onnx", ".safetensors", ".xml", ".yaml", ".bin")  # of file names
OTHERS = {"data.image"}  # not a setting, but a key of Label Studio's tasks
GENERATED = {"commands.md", "recipes.md"}  # by docs/scripts/hooks.py


class _Loader(yaml.SafeLoader):
    """Reads ``mkdocs.yml``, which has a tag for environment variables."""


_Loader.add_constructor("!ENV", lambda loader, node: None)


def _pages(entry: Any) -> Iterator[str]:
    if isinstance(entry, str):
        yield entry
    else:
        for item in entry.values() if isinstance(entry, dict) else entry:
            yield from _pages(item)


def in_navigation() -> list[str]:
    return list(_pages(yaml.load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"), _Loader)["nav"]))


def test_every_page_is_in_the_navigation_once() -> None:
    listed = in_navigation()
    there = {path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md")}
    missing = sorted(there - set(listed))
    assert not missing, f"give {', '.join(missing)} a place under 'nav' in mkdocs.yml"
    gone = sorted(set(listed) - there - GENERATED)
    assert not gone, f"'nav' in mkdocs.yml names {', '.join(gone)}; there is no such file in docs/"
    assert len(listed) == len(set(listed))


def test_the_reference_has_every_public_name_once() -> None:
    text = "\n".join(path.read_text(encoding="utf-8") for path in sorted((DOCS / "reference").glob("*.md")))
    documented = sorted(re.findall(r"^::: mask2former\.(\w+)$", text, flags=re.MULTILINE))
    assert documented == sorted(set(mask2former.__all__) - {"__version__"}), "docs/reference/ has other names"


@cache
def _program() -> Any:
    return typer.main.get_command(app)


def _commands(page: Path) -> Iterator[str]:
    """The mask2former commands in the code blocks of a page and in the last columns of its tables."""
    text = page.read_text(encoding="utf-8").replace("\\\n", " ")
    for block in re.findall(r"^```sh\n(.*?)^```", text, flags=re.DOTALL | re.MULTILINE):
        parts = (part.strip() for line in block.splitlines() for part in re.split(r"&&| \| ", line))
        yield from (part for part in parts if part.startswith("mask2former "))
    yield from re.findall(r"\| `(mask2former [^`]+)` \|$", text, flags=re.MULTILINE)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_the_command_line_understands_every_command_of_a_page(page: Path) -> None:
    for line in _commands(page):
        words = shlex.split(line, comments=True)
        words = words[1 : words.index(">") if ">" in words else None]
        group = _program()
        while words and words[0] in getattr(group, "commands", {}):
            group = group.commands[words.pop(0)]
        if not words or words[0].startswith("--"):
            continue
        try:
            group.make_context(line, words)  # fails on options and values that it does not know
        except Exception as error:
            pytest.fail(f"{line}: {error}")


def test_the_readme_fits_on_a_screen_and_its_links_lead_somewhere() -> None:
    text = README.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 80
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", text):
        assert target.startswith("https://") or (ROOT / target).exists(), target


def _models(annotation: Any) -> Iterator[type[BaseModel]]:
    """The configuration classes that an annotation contains."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for part in get_args(annotation):
        yield from _models(part)


def _is_setting(names: list[str], models: list[type[BaseModel]]) -> bool:
    """Whether one of ``models`` has a setting with this path."""
    if not models:  # a plain mapping, which may have any keys
        return True
    fields = [model.model_fields[names[0]] for model in models if names[0] in model.model_fields]
    if len(names) == 1 or not fields:
        return bool(fields)
    return _is_setting(names[1:], [model for field in fields for model in _models(field.annotation)])


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_there_is_every_setting_that_a_page_names(page: Path) -> None:
    text = re.sub(r"^```py.*?^```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    sections = "|".join(RunConfig.model_fields)
    named = re.findall(rf"(?<![\w./-])((?:{sections})(?:\.[a-z_]+)+)(?![\w(/-])", text)
    paths = {name for name in named if not name.endswith(SUFFIXES) and not name.startswith("model.info")}
    paths -= OTHERS
    assert [name for name in sorted(paths) if not _is_setting(name.split("."), [RunConfig])] == []
