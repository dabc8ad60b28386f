"""Atheris on archives of data: any bytes give files within limits or one UserError.

pip install atheris
python tests/fuzz/fuzz_archives.py -max_total_time=300 -rss_limit_mb=3000 NEW_DIR tests/fuzz/corpus/archives
"""

from __future__ import annotations

import importlib
import io
import sys
import tempfile
import unicodedata
import warnings
import zipfile
from pathlib import Path
from typing import Any

atheris: Any = importlib.import_module("atheris")
with atheris.instrument_imports(include=["mask2former", "zipfile"]):
    from mask2former.errors import UserError
    from mask2former.media.archives import Archive, ArchivedFile, Folder
    from mask2former.notes import collect_notes

PATH = Path(tempfile.mkdtemp()) / "a.zip"


def check(error: UserError) -> None:
    assert not any(unicodedata.category(letter) in ("Cc", "Cs") for letter in str(error)), error


def one(content: bytes) -> None:
    PATH.write_bytes(content)
    warnings.simplefilter("error")
    with collect_notes() as notes:
        try:
            archive = Archive(PATH)
            names = sorted(archive.names)
            assert archive.folders
            Folder(PATH, archive).names(("", ".png"))
        except UserError as error:
            check(error)
            return
        for name in names[:20]:
            file = ArchivedFile(archive, name)
            assert file.is_file()
            try:
                if file.num_bytes < 1 << 26:  # as claimed; more would be valid, but slow
                    assert len(file.read_bytes()) <= file.num_bytes
            except UserError as error:
                check(error)
    assert all(note.example.isprintable() for note in notes)


if __name__ == "__main__":
    if sys.argv[1:] == ["corpus"]:  # writes the seeds
        folder = Path(__file__).parent / "corpus" / "archives"
        for kind, method in (("stored", 0), ("deflated", 8), ("bzip2", 12), ("lzma", 14)):
            stream = io.BytesIO()
            with zipfile.ZipFile(stream, "w", method) as file:
                for name in ("a/b.txt", "../c.txt", "d/"):
                    file.writestr(zipfile.ZipInfo(name), b"" if name == "d/" else b"hello" * 5, method)
            (folder / kind).write_bytes(stream.getvalue())
    else:
        atheris.Setup(sys.argv, one)
        atheris.Fuzz()
