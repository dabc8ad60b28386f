"""Overlays show each class name, or its number with a note that explains it."""

import re

import pytest

from mask2former.visualization import fonts
from mask2former.visualization.fonts import readable

NOTE = "class names that no installed font can write are drawn as numbers"
ROWS = {  # what is given, what is drawn, whether a note names the loss
    "Latin": ("cell", "cell", False),
    "Chinese": ("细胞核", "细胞核", False),
    "Cyrillic": ("ядро", "ядро", False),
    "Korean": ("세포핵", "세포핵", False),
    "Japanese": ("細胞カク", "細胞カク", False),
    "Greek": ("πυρήνας", "πυρήνας", False),
    "Thai": ("นิวเคลียส", "นิวเคลียส", False),
    "several scripts": ("tree 树 дерево", "tree 树 дерево", False),
    "accents as marks of their own": ("cafe\u0301", "cafe\u0301", False),
    "two lines": ("road\nmarking", "road marking", False),
    "byte order mark": ("\ufeffroad", "road", False),
    "control character": ("bell\x07", "bell", False),
    "a script without font": ("\U0001e900\U0001e901", "#5", True),
    "a letter without font": ("cell \U0001e900", "#5", True),
    "hieroglyphs": ("\U00013000", "#5", True),
    "a pictograph alone": ("\U0001f9a0", "#5", True),
    "a pictograph beside a name": ("virus \U0001f9a0", "virus #5", True),
    "private use": ("\ue000", "#5", True),
    "half a character": ("x\ud800", "x #5", True),
}


@pytest.mark.parametrize("case", ROWS)
def test_a_name_is_written_or_its_loss_is_named(
    case: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(fonts, "_folders", lambda: iter(()))  # on every machine alike
    for cached in (fonts._lacking, fonts.runs, fonts._path_for, fonts._system_fonts):
        cached.cache_clear()
    fonts._chosen.clear()
    fonts._reported.clear()
    given, drawn, noted = ROWS[case]
    assert readable([(given, 5)]) == [drawn]
    if noted:
        assert re.search(f"{NOTE}.*{re.escape(drawn)} for {re.escape(repr(given))}", caplog.text)
    else:
        assert caplog.text == ""
