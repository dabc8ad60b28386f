# pyright: reportMissingImports=false, reportMissingModuleSource=false, reportAttributeAccessIssue=false
"""YAML text: run files, lists of class names and a YOLO data set."""

from __future__ import annotations

import tempfile
from pathlib import Path

import atheris
import numpy as np
from PIL import Image

with atheris.instrument_imports(include=["mask2former", "yaml"]):
    from harness import Provider, run

    from mask2former import documents
    from mask2former.config import RunConfig, parse
    from mask2former.data.datasets.class_names import read_names
    from mask2former.data.datasets.yolo import YoloPolygons, read_yolo

PIECES = (
    "a", "names", "train", "val", "path", "nc", "model", "data", "dataset", "name", "seed", "optim", "lr", ":", ": ",
    "- ", "\n", "\n  ", " ", "[", "]", "{", "}", ",", "&a ", "*a", "<<: ", "!!int ", "!!python/name:os ", "!!binary ",
    "!!set ", "!!omap ", "!!timestamp ", "!!float ", "? ", "| ", "> ", "'", '"', "#", "%", "---\n", "0", "1", "-1",
    "1e400", ".inf", ".nan", "0x", "1:1:1", "2024-01-01", "2024-13-45", "yes", "null", "~", "images", "list.txt", "..",
    "/", "true", "scenes", "yolo", "\\u0000", "\x85", "\u2028", "é", "cat", "!<", "@", "`",
)  # fmt: skip
FOLDER = Path(tempfile.mkdtemp())
for folder in ("images", "labels"):
    (FOLDER / folder).mkdir()
Image.fromarray(np.zeros((8, 9, 3), np.uint8)).save(FOLDER / "images" / "a.png")
(FOLDER / "list.txt").write_text("images/a.png\n")


def _text(data: Provider) -> str:
    start = data.PickValueInList(["", "names: [cat, dog]\ntrain: images\nval: images\n", "- cat\n- dog\n", "seed: 1\n"])
    pieces = [data.PickValueInList(list(PIECES)) for _ in range(data.ConsumeIntInRange(0, 60))]
    return start + "".join(pieces) if data.ConsumeBool() else "".join(pieces) + start


def target(data: Provider) -> None:
    kind, text = data.ConsumeIntInRange(0, 3), _text(data)
    if kind == 0:
        parse(RunConfig, documents.parse_yaml(text, "the run file"), "the run file")
    elif kind == 1:
        suffix = data.PickValueInList([".yaml", ".txt", ".json", ".csv"])
        path = FOLDER / f"names{suffix}"
        path.write_text(text, encoding="utf-8", errors="replace")
        read_names(path)
    elif kind == 2:
        (FOLDER / "data.yaml").write_text(text, encoding="utf-8", errors="replace")
        found = read_yolo(FOLDER / "data.yaml")
        assert len(found.categories) > 0
    else:
        (FOLDER / "data.yaml").write_text("names: [cat, dog]\ntrain: list.txt\nval: images\n")
        (FOLDER / "list.txt").write_text(f"images/a.png\n{data.ConsumeUnicodeNoSurrogates(20)}\n", encoding="utf-8")
        choice = ["0", "1", "2", "0.5", "1e400", "nan", "-1", "1.01", "x"]
        numbers = [data.PickValueInList(choice) for _ in range(data.ConsumeIntInRange(0, 12))]
        line = f"{' '.join(numbers)}\n{text[:50]}"
        (FOLDER / "labels" / "a.txt").write_text(line, encoding="utf-8", errors="replace")
        samples = YoloPolygons(read_yolo(FOLDER / "data.yaml"), "train", missing_masks="skip")
        for index in range(len(samples)):
            samples.ground_truths(index, ["instance"])


if __name__ == "__main__":
    run(target)
