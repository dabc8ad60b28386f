"""Class names in any script: drawn if a font has the glyphs, else as a number that is explained once."""

import logging
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont, features

from mask2former import visualization
from mask2former.visualization import Region, fonts
from mask2former.visualization.fonts import Lettering, readable

NAMES = {
    "Chinese": "细胞核",
    "Chinese, traditional": "細胞核與樹",
    "Japanese": "さいぼう カク 横断歩道",
    "Korean": "세포핵",
    "Cyrillic": "ядро клетки",
    "Greek": "πυρήνας",
    "Thai": "นิวเคลียส",
    "Latin with marks": "Zellkern ÄÖÜ ßçøłőž",
    "Vietnamese": "nhân tế bào",
    "mixed": "细胞 cell клетка №5",
    "signs": "≥ 5 µm → ok",
}
SHAPED = {"Arabic": "نواة الخلية", "Hebrew": "גרעין תא", "Devanagari": "कोशिका केंद्रक"}
NOWHERE = "\U0001e900\U0001e901"  # Adlam


@pytest.fixture(autouse=True)
def no_system_fonts(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Only the packaged fonts are available, on any machine, and nothing is cached from other tests."""
    monkeypatch.setattr(fonts, "_folders", lambda: iter(()))
    _forget()
    yield
    _forget()


def _forget() -> None:
    for cached in (
        fonts._lacking,
        fonts.runs,
        fonts._can_shape,
        fonts.own_fonts,
        fonts._path_for,
        fonts._system_fonts,
    ):
        cached.cache_clear()
    fonts._chosen.clear()
    fonts._reported.clear()


def written(text: str, size: int = 24) -> np.ndarray:
    image = Image.new("L", (900, 60))
    Lettering(size).write(ImageDraw.Draw(image), (10, 40), text, 255)  # type: ignore[arg-type]
    return np.asarray(image)


@pytest.mark.parametrize("script", NAMES)
def test_names_are_written_with_packaged_fonts(script: str, caplog: pytest.LogCaptureFixture) -> None:
    name = NAMES[script]
    assert readable([(name, 3)]) == [name]
    assert caplog.text == ""
    for part, path in fonts.runs(name):
        assert all(fonts.has_glyph(path, char) for char in part)
    ink = written(name)
    assert (ink > 128).sum() > 20 * len(name)
    right = int(np.flatnonzero(ink.any(axis=0))[-1])
    assert abs(right - 10 - Lettering(24).length(name)) < 8  # as wide as length() says


@pytest.mark.parametrize("script", SHAPED)
@pytest.mark.skipif(not features.check("raqm"), reason="this Pillow cannot shape text")
def test_scripts_that_need_shaping_are_shaped(script: str) -> None:
    name = SHAPED[script]
    assert readable([(name, 3)]) == [name]
    ((part, _),) = fonts.runs(name)
    assert part == name  # in one piece: letters depend on their neighbours


@pytest.mark.parametrize("script", SHAPED)
def test_without_shaping_they_are_numbers_and_the_message_says_what_lacks(
    script: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(fonts, "_can_shape", lambda: False)
    monkeypatch.setattr(fonts._can_shape, "cache_clear", lambda: None, raising=False)
    assert readable([(SHAPED[script], 3), ("tree", 4)]) == ["#3", "tree"]
    assert "libraqm" in caplog.text
    monkeypatch.undo()


def test_a_name_that_no_font_has_becomes_a_number_and_that_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    for _ in range(2):
        assert readable([("tree", 11), (NOWHERE, 12)]) == ["tree", "#12"]
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    message = record.getMessage()
    assert f"#12 for {NOWHERE!r}" in message
    assert "fonts-noto-core" in message
    assert readable([(NOWHERE + "x", 13)]) == ["#13"]
    assert len(caplog.records) == 2


def test_a_pictograph_without_glyph_is_left_out_of_a_name_that_says_something(caplog: pytest.LogCaptureFixture) -> None:
    lacking = "\U0001f9ec"
    assert readable([(f"gene {lacking}", 2), (lacking, 3), (f"{lacking}!", 4)]) == ["gene #2", "#3", "#4"]
    assert len(caplog.records) == 1


def test_variant_selectors_and_joiners_need_no_glyph() -> None:
    assert readable([("☀\ufe0f sun", 0), ("a\u200bb\u200dc", 1)]) == ["☀ sun", "abc"]
    assert readable([("\u200f", 0)]) == [""]
    if features.check("raqm"):
        assert readable([("می\u200cشود", 0)]) == ["می\u200cشود"]  # where letters join it is kept


def test_half_characters_are_replaced() -> None:
    assert readable([("a \ud800", 5)]) == ["a #5"]


def test_overlays_and_sheets_draw_no_boxes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every text that is passed to Pillow has all glyphs in the font that it is drawn with."""
    seen: list[tuple[str, str]] = []
    used: list[tuple[str, ImageFont.FreeTypeFont]] = []
    find, text = fonts._font, ImageDraw.ImageDraw.text

    def keep(path: str, size: int) -> ImageFont.FreeTypeFont:
        used.append((path, find(path, size)))
        return used[-1][1]

    def record(self, xy, string, *rest, font, **options):
        seen.extend((string, path) for path, one in used if one is font)
        return text(self, xy, string, *rest, font=font, **options)

    monkeypatch.setattr(ImageDraw.ImageDraw, "text", record)
    monkeypatch.setattr(fonts, "_font", keep)
    masks = np.zeros((2, 200, 300), dtype=bool)
    masks[0, :90], masks[1, 110:] = True, True
    regions = [Region(NOWHERE, (200, 40, 40), 0.9, 7), Region(NAMES["Chinese"], (40, 40, 200), 0.9, 8)]
    drawn = visualization.overlay_instances(np.zeros((200, 300, 3), np.uint8), masks, regions)
    visualization.contact_sheet([[drawn]], ["ядро"], ["細"], title=f"t {NOWHERE}", legend=[(NOWHERE, (1, 2, 3))] * 2)
    assert {"#7", "细胞核", "#0", "#1", "t ", "?"} <= {string for string, _ in seen}
    assert all(fonts.has_glyph(path, char) for string, path in seen for char in string)


def test_fonts_of_the_system_are_searched_for_what_lacks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Glyphs that packaged fonts lack are taken from fonts in folders of the system; broken files are skipped."""
    own = [Path(path) for path in fonts.own_fonts() if path]
    for path in own:
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / "AAA-Sans.ttf").write_bytes(b"no font")
    (tmp_path / "notes.txt").write_text("no font either")
    monkeypatch.setattr(fonts, "own_fonts", lambda: (fonts._PILLOW,))
    monkeypatch.setattr(fonts.own_fonts, "cache_clear", lambda: None, raising=False)
    assert readable([("细胞核", 1)]) == ["#1"]
    monkeypatch.setattr(fonts, "_folders", lambda: iter((tmp_path, tmp_path / "missing")))
    _forget()
    assert readable([("细胞核", 1), ("ядро", 2), (NOWHERE, 3)]) == ["细胞核", "ядро", "#3"]
    assert all(Path(path).parent == tmp_path for _, path in fonts.runs("细胞核"))
    monkeypatch.undo()


def test_licenses_lie_beside_the_fonts() -> None:
    for path in fonts.own_fonts()[1:]:
        folder = Path(path).parent
        listed = (folder / "README.md").read_text(encoding="utf-8")
        (line,) = [line for line in listed.splitlines() if Path(path).name in line]
        license = line.split("`")[-2]
        assert (folder / license).is_file()
        assert sum(file.stat().st_size for file in folder.iterdir()) < 2.5e6
    assert len(fonts.own_fonts()) == 5


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("x" * 10**6, "x" * 200),
        ("\ud800", "#7"),
        ("\u200b\u200d", ""),
        ("", ""),
        ("\x1b[31m", "[31m"),
        ("\u202egnp", "gnp"),
        ("a\0\nb", "a b"),
        ("\udcff" * 10**6, "#7"),
    ],
    ids=range(8),
)
def test_odd_names_are_shortened_or_numbered(name: str, shown: str) -> None:
    start = time.process_time()
    assert readable([(name, 7)]) == [shown]
    assert time.process_time() - start < 2
    image = Image.new("RGB", (64, 32))
    Lettering(12).write(ImageDraw.Draw(image), (0, 16), shown[:28], (255, 255, 255))
    assert (image.getbbox() is None) is (not shown)
