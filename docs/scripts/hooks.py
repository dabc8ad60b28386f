"""Additions to mkdocs: pages of commands and recipes, links into the repository, ``llms.txt``.

The file is listed in ``mkdocs.yml``. Any error ends the build with a sentence.
"""

from __future__ import annotations

import posixpath
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from mkdocs.structure.nav import Navigation
from mkdocs.structure.pages import Page

from mask2former.recipes import recipe, recipe_names, run_recipes

ROOT = Path(__file__).parents[2]
GENERATED = ("commands.md", "recipes.md")
_LINK = re.compile(r"\[(?P<text>(?:[^\[\]]|\[[^\]]*\])*)\]\((?P<target>\.\.?/[^)\s#]+)(?P<anchor>#[^)\s]*)?\)")
_FENCE = re.compile(r"(^```.*?^```$)", re.DOTALL | re.MULTILINE)
_FETCHED = re.compile(
    r"<(?:script|img|iframe|video|source|link)\b[^>]*?\b(?:src|href)=[\"']?((?:https?:)?//[^\"'\s>]+)"
)
_ROLE = re.compile(r":(?:attr|class|data|func|meth|mod):<code>([^<]*)</code>")
_CANONICAL = re.compile(r"<link\b[^>]*rel=[\"']?canonical[^>]*>")


def on_files(files: Files, *, config: MkDocsConfig) -> Files:
    """Add the pages that are generated from the installed package: commands and recipes."""
    for name, page in zip(GENERATED, (commands_page(), recipes_page()), strict=True):
        files.append(File.generated(config, name, content=page))
    return files


def commands_page() -> str:
    """Every command with its arguments and options, as written by typer's own tool.

    Raises:
        PluginError: the command line cannot be imported.
    """
    command = [sys.executable, "-m", "typer", "mask2former.cli", "utils", "docs"]
    run = subprocess.run(
        [*command, "--name", "mask2former", "--title", "Commands"], capture_output=True, text=True, check=False
    )
    if run.returncode:
        raise PluginError(f"the page of commands cannot be made; is mask2former installed? {run.stderr.strip()}")
    return run.stdout


def recipes_page() -> str:
    """Every recipe, with the differences between the published trainings."""
    lines = [
        "# Recipes\n",
        "Complete runs by name: `mask2former recipe NAME > run.yaml` writes one as a [run file](training.md#recipes).",
        "In Python, a published one is `mask2former.recipe(NAME).run`. This page is generated from the recipes.\n",
        "## Published trainings\n",
        "| recipe | steps of 16 images | schedule | weights it starts from | reproduces |",
        "|---|---:|---|---|---|",
    ]
    for name in recipe_names():
        entry = recipe(name)
        assert entry.run.data.batch_size == 16, name
        steps, schedule = f"{entry.run.trainer.max_steps:,}", entry.run.optim.schedule
        lines.append(f"| `{name}` | {steps} | {schedule} | `{entry.init_weights}` | `{entry.reproduces}` |")
    others: dict[str, list[str]] = {}
    for name in run_recipes().keys() - set(recipe_names()):
        family, _, last = name.rpartition("/")
        others.setdefault(family, []).append(f"`{last}`")
    lines += ["\n## Others\n", "Our own trainings, [MaskFormer](variants.md#maskformer), and the rows of the paper's"]
    lines += ["[ablations](ablations.md).\n", "| recipes | |", "|---|---|"]
    lines += [
        f"| {f'`{family}/...`' if family else 'ours'} | {', '.join(sorted(others[family]))} |"
        for family in sorted(others)
    ]
    return "\n".join(lines) + "\n"


def on_page_markdown(markdown: str, *, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Point links to files outside ``docs`` to the repository, if there is one; else replace them with plain names."""
    repository = str(config.extra.get("repository") or "").rstrip("/")
    parts = _FENCE.split(markdown)  # every other part is a block of code
    parts[::2] = [_LINK.sub(lambda link: _resolved(link, page.file.src_uri, repository), part) for part in parts[::2]]
    return "".join(parts)


def _resolved(link: re.Match[str], source: str, repository: str) -> str:
    """A link as used on the site.

    Raises:
        PluginError: it leads out of ``docs`` to a file that does not exist.
    """
    path = posixpath.normpath(posixpath.join("docs", posixpath.dirname(source), link["target"]))
    if path.startswith("docs/"):
        return link[0]
    if not (ROOT / path).exists():
        raise PluginError(f"docs/{source} links to {link['target']}, and there is no {path}")
    if not repository:
        return link["text"] if link["text"].strip("`") == path else f"{link['text']} (`{path}`)"
    return f"[{link['text']}]({repository}/blob/main/{path}{link['anchor'] or ''})"


def on_page_content(html: str, *, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Show references in docstrings (``:class:`~mask2former.Predictor```) as their name only."""
    return _ROLE.sub(lambda role: f"<code>{role[1].removeprefix('~mask2former.').lstrip('~')}</code>", html)


def on_post_page(output: str, *, page: Page, config: MkDocsConfig) -> str:
    """Reject a page that would load something from another server when it is read."""
    if fetched := _FETCHED.search(_CANONICAL.sub("", output)):
        raise PluginError(f"docs/{page.file.src_uri} would fetch {fetched[1]} when it is read")
    return output


def on_nav(nav: Navigation, *, config: MkDocsConfig, files: Files) -> Navigation:
    """Keep the order of the pages for :func:`on_post_build`."""
    config.extra["pages_in_order"] = nav.pages
    return nav


def on_post_build(*, config: MkDocsConfig) -> None:
    """Write ``llms.txt``, and beside each page its Markdown, to which it links.

    Pages of the reference are built from docstrings, so their Markdown has nothing to read.
    """
    site, lines = Path(config.site_dir), [f"# {config.site_name}", "", f"> {config.site_description}", ""]
    section: Any = None
    for page in config.extra["pages_in_order"]:
        top = page.ancestors[-1] if page.ancestors else None
        if top is not section or not lines[-1]:
            section = top
            lines += ["", f"## {top.title if top else page.title}", ""]
        text = page.markdown or ""
        target = page.file.dest_uri
        if not re.search(r"^::: ", text, re.MULTILINE):
            target = page.file.src_uri
            (site / target).write_text(text, encoding="utf-8")
        lines.append(f"- [{page.title}]({target}): {_first_sentence(text)}")
    (site / "llms.txt").write_text(re.sub(r"\n{3,}", "\n\n", "\n".join(lines)) + "\n", encoding="utf-8")


def _first_sentence(text: str) -> str:
    """The first sentence of the first paragraph of prose, without markup; empty if a page has none."""
    for block in re.split(r"\n\s*\n", _FENCE.sub("", text)):
        if not re.match(r"\s*(#|\||<|!\[|:::|-|\d+\.|\*\*Usage)", block) and block.strip():
            words = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", " ".join(block.split()))
            return re.split(r"(?<=\.)\s(?=[A-Z`])", words, maxsplit=1)[0].rstrip(":")
    return ""
