"""Atheris on images, label maps and id PNGs: any bytes give pixels or one UserError.

pip install atheris
python tests/fuzz/fuzz_images.py -max_total_time=300 -rss_limit_mb=3000 -timeout=20 NEW_DIR tests/fuzz/corpus/images
"""

from __future__ import annotations

import importlib
import io
import sys
import tempfile
import unicodedata
import warnings
from pathlib import Path
from typing import Any

atheris: Any = importlib.import_module("atheris")
with atheris.instrument_imports(include=["mask2former", "PIL"]):
    from PIL import Image

    from mask2former.data.label_maps import count_labels, read_id_colors, read_label_map
    from mask2former.errors import UserError
    from mask2former.media.images import image_size, read_image
    from mask2former.notes import collect_notes

READERS = (read_image, read_label_map, read_id_colors, count_labels, image_size)
Image.MAX_IMAGE_PIXELS = 1 << 20  # larger images would be valid, but slow


PATH = Path(tempfile.mkdtemp()) / "a.png"


def check(error: UserError) -> None:
    assert not any(unicodedata.category(letter) in ("Cc", "Cs") for letter in str(error)), error


def one(content: bytes) -> None:
    PATH.write_bytes(content)
    warnings.simplefilter("error")
    for read in READERS:
        with collect_notes():
            try:
                read(PATH)
            except UserError as error:
                check(error)


if __name__ == "__main__":
    if sys.argv[1:] == ["corpus"]:  # writes the seeds
        folder = Path(__file__).parent / "corpus" / "images"
        for mode, kind, options in (
            ("RGB", "PNG", {}),
            ("RGBA", "PNG", {}),
            ("P", "PNG", {}),
            ("I;16", "PNG", {}),
            ("1", "PNG", {}),
            ("L", "TIFF", {"compression": "tiff_lzw"}),
            ("RGB", "TIFF", {}),
            ("F", "TIFF", {}),
            ("I;16", "TIFF", {}),
            ("RGB", "JPEG", {}),
            ("CMYK", "JPEG", {}),
            ("RGB", "BMP", {}),
            ("P", "GIF", {}),
            ("RGB", "WEBP", {}),
            ("L", "PPM", {}),
            ("RGB", "SGI", {}),
        ):
            stream = io.BytesIO()
            Image.new(mode, (3, 2)).save(stream, kind, **options)
            (folder / f"{kind}-{mode.replace(';', '')}".lower()).write_bytes(stream.getvalue())
    else:
        atheris.Setup(sys.argv, one)
        atheris.Fuzz()
