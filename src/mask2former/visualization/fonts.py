"""Text in any font that has its glyphs: Pillow's own, then the packaged subsets, then the system's fonts.

A character that no font has is never drawn as an empty box: :func:`readable` replaces the name of the class with its
number, and logs this once.
"""

from __future__ import annotations

import logging
import os
import sys
import unicodedata
from collections.abc import Iterator, Sequence
from functools import cache, lru_cache
from importlib import resources
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont, features

from mask2former.errors import UserError
from mask2former.text import listed, quoted

__all__ = ["Lettering", "has_glyph", "own_fonts", "readable", "runs"]

_logger = logging.getLogger(__name__)

_LONGEST = 200  # characters of a name that are used; labels show fewer
_PILLOW = ""  # the path that stands for Pillow's own font
_PACKAGED = ("DejaVuSans", "NotoSansDevanagari", "NotoSansThai", "DroidSansFallback")
_SUFFIXES = (".ttf", ".otf", ".ttc")
_UNASSIGNED = "\U0010fffe"  # a noncharacter: fonts return their glyph for missing characters
# Scripts whose letters change shape or order next to others, in addition to those written from right to left.
_SHAPED = {"DEVANAGARI", "BENGALI", "GURMUKHI", "GUJARATI", "ORIYA", "TAMIL", "TELUGU", "KANNADA", "MALAYALAM"} | {
    "SINHALA",
    "TIBETAN",
    "MYANMAR",
    "KHMER",
}
_PLAIN_STYLE = ("bold", "italic", "oblique", "light", "thin", "black", "mono", "serif", "cond", "display", "math")


class Lettering:
    """Text of one size in pixels, in as many fonts as its characters need."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.ascent, self.descent = _font(_PILLOW, size).getmetrics()

    def length(self, text: str) -> float:
        """Width of a line in pixels."""
        return sum(_font(path, self.size).getlength(part) for part, path in runs(text))

    def write(
        self, draw: ImageDraw.ImageDraw, xy: tuple[float, float], text: str, fill: tuple[int, ...], anchor: str = "s"
    ) -> None:
        """Draw a line from ``xy`` to the right; ``anchor``: y is its top (a), middle (m) or baseline (s)."""
        left, baseline = xy
        baseline += {"a": self.ascent, "m": (self.ascent - self.descent) / 2, "s": 0}[anchor]
        for part, path in runs(text):
            font = _font(path, self.size)
            draw.text((left, baseline), part, fill=fill, font=font, anchor="ls")
            left += font.getlength(part)


def readable(names: Sequence[tuple[str, int]]) -> list[str]:
    """Each class name as it can be drawn here, in one line; ``#12`` for class 12 if no font has the glyphs of its name.

    Pictographs without a glyph are removed from names that contain other text. Replacements are logged once.
    """
    shown, replaced = [], {}
    for name, number in names:
        text = _one_line(name[:_LONGEST])
        lacking = _lacking(text)
        if lacking:
            rest = " ".join("".join(char for char in text if char not in lacking).split())
            symbols = all(unicodedata.category(char)[0] in "SC" for char in lacking)
            text = f"{rest} #{number}" if symbols and any(map(str.isalnum, rest)) else f"#{number}"
            replaced[name] = text
        shown.append(text)
    _report(replaced)
    return shown


_reported: set[str] = set()


def _report(replaced: dict[str, str]) -> None:
    new = {name: text for name, text in replaced.items() if name not in _reported}
    if not new:
        return
    _reported.update(new)
    shown = listed(new, 10, show=lambda name: f"{new[name]} for {quoted(name)}")
    if not _can_shape() and any(_needs_shaping(char) for name in new for char in name[:_LONGEST]):
        cure = "right-to-left and Indic scripts need a Pillow with libraqm and FriBiDi (Debian: libfribidi0)"
    else:
        cure = (
            "install a font that has them (Noto Sans of the script; Debian and Ubuntu: fonts-noto-core, "
            "fonts-noto-cjk, for pictographs fonts-symbola)"
        )
    _logger.warning("class names that no installed font can write are drawn as numbers: %s; %s", shown, cure)


@lru_cache(maxsize=4096)
def _one_line(name: str) -> str:
    """``name`` without line breaks and characters that have no own glyph: control characters, selectors, joiners."""
    joined = any(map(_needs_shaping, name))
    shown = (
        char
        for char in name
        if char.isspace()
        or (joined and char in "\u200c\u200d")  # these affect the shape of letters
        or not (unicodedata.category(char) in ("Cc", "Cf") or 0xFE00 <= ord(char) <= 0xFE0F)
    )
    return " ".join("".join(shown).split())


@lru_cache(maxsize=4096)
def _lacking(text: str) -> frozenset[str]:
    """The characters of a line that cannot be drawn here."""
    return frozenset(char for char in text if (_needs_shaping(char) and not _can_shape()) or _path_for(char) is None)


@lru_cache(maxsize=4096)
def runs(text: str) -> tuple[tuple[str, str], ...]:
    """Parts of a line, each with the path of its font; a single part if one font has all glyphs."""
    text = "".join(" " if unicodedata.category(char) == "Cc" else char for char in text)
    for path in own_fonts():
        if all(has_glyph(path, char) for char in text):
            return ((text, path),)
    parts: list[tuple[str, str]] = []
    for char in text:
        if parts and has_glyph(parts[-1][1], char):
            parts[-1] = (parts[-1][0] + char, parts[-1][1])
        else:
            path = _path_for(char)
            parts.append((char, path) if path is not None else ("?", _PILLOW))  # only in titles; names are readable
    return tuple(parts)


@cache
def _can_shape() -> bool:
    return features.check("raqm") is True


def _script(char: str) -> str:
    return unicodedata.name(char, "?").partition(" ")[0]


def _needs_shaping(char: str) -> bool:
    return unicodedata.bidirectional(char) in ("R", "AL", "AN") or _script(char) in _SHAPED


# --- fonts -----------------------------------------------------------------------------------------------------------


@lru_cache(maxsize=64)
def _font(path: str, size: int) -> ImageFont.FreeTypeFont:
    """A font by its path; Pillow's own scalable one for the empty path."""
    if path:
        return ImageFont.truetype(path, size)
    font = ImageFont.load_default(size=size)
    if not isinstance(font, ImageFont.FreeTypeFont):  # without FreeType, Pillow returns a bitmap font
        raise UserError("this Pillow was built without FreeType, which labels need; install the wheel from PyPI")
    return font


@lru_cache(maxsize=16)
def _probe(path: str) -> tuple[ImageFont.FreeTypeFont, bytes] | None:
    """A font for single glyphs, and what it draws for missing characters; None: it cannot be used."""
    try:
        font = _font(_PILLOW, 24) if not path else ImageFont.truetype(path, 24)
        font = font.font_variant(layout_engine=ImageFont.Layout.BASIC)  # which adds nothing to single marks
        return font, _drawn(font, _UNASSIGNED)
    except (OSError, ValueError):  # not a font, or one with coloured bitmaps of a single size
        return None


def _drawn(font: ImageFont.FreeTypeFont, char: str) -> bytes:
    image = Image.new("L", (64, 48))
    ImageDraw.Draw(image).text((16, 36), char, fill=255, font=font, anchor="ls")
    return image.tobytes()


@lru_cache(maxsize=16384)
def has_glyph(path: str, char: str) -> bool:
    """Whether a font has its own glyph for a character; characters that are always invisible need none."""
    if unicodedata.category(char) == "Cf":
        return True
    probe = _probe(path)
    if probe is None:
        return False
    font, missing = probe
    try:
        return _drawn(font, char) != missing
    except (OSError, ValueError):
        return False


@cache
def own_fonts() -> tuple[str, ...]:
    """Paths of Pillow's font, which is the empty path, and of the packaged fonts."""
    folder = Path(str(resources.files("mask2former"))) / "assets" / "fonts"
    packaged = (folder / f"{name}-subset.ttf" for name in _PACKAGED)
    return (_PILLOW, *(str(path) for path in packaged if path.is_file()))


_chosen: dict[str, str | None] = {}  # by script, the system font that was found last; None: no font has it


@lru_cache(maxsize=16384)
def _path_for(char: str) -> str | None:
    """The first font with a glyph for ``char``; None if there is none."""
    for path in own_fonts():
        if has_glyph(path, char):
            return path
    script = _script(char)
    before = _chosen.get(script, "")
    if before is None:  # avoids a search of all fonts for each letter of a script
        return None
    if before and has_glyph(before, char):
        return before
    found = next((path for path in _system_fonts() if has_glyph(path, char)), None)
    if found or not before:
        _chosen[script] = found
    return found


@cache
def _system_fonts() -> tuple[str, ...]:
    """Font files of the system and the user, plain sans-serif ones first."""
    found = {
        os.path.join(folder, name)
        for root in _folders()
        for folder, _, names in os.walk(root)
        for name in names
        if name.lower().endswith(_SUFFIXES)
    }

    def rank(path: str) -> tuple[bool, int, bool, str]:
        name = Path(path).stem.lower()
        decorated = sum(word in name.replace("sansserif", "") for word in _PLAIN_STYLE)
        return "lastresort" in name, decorated, "sans" not in name, path

    return tuple(sorted((path for path in found if "lastresort" not in path.lower()), key=rank))


def _folders() -> Iterator[Path]:
    home = Path(os.path.expanduser("~"))
    if sys.platform == "win32":
        yield Path(os.environ.get("WINDIR", r"C:\Windows")) / "Fonts"
        yield Path(os.environ.get("LOCALAPPDATA", home / "AppData" / "Local")) / "Microsoft" / "Windows" / "Fonts"
    elif sys.platform == "darwin":
        yield from (Path("/System/Library/Fonts"), Path("/Library/Fonts"), home / "Library" / "Fonts")
    else:
        shared = os.environ.get("XDG_DATA_DIRS") or "/usr/local/share:/usr/share"
        yield from (Path(folder) / "fonts" for folder in shared.split(":") if folder)
        yield Path(os.environ.get("XDG_DATA_HOME") or home / ".local" / "share") / "fonts"
        yield home / ".fonts"
