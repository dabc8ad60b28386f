"""The page of a model on a hub, from its own description. Knows no files and no network."""

from __future__ import annotations

import re

from mask2former.config import ArchitectureConfig
from mask2former.structures import ModelInfo
from mask2former.structures.model_info import NO_LICENSE
from mask2former.text import printable

__all__ = ["model_card"]

_HUB_LICENSES = {  # our names to those in the hub's metadata
    "Apache-2.0": "apache-2.0",
    "CC BY-NC 4.0": "cc-by-nc-4.0",
    "MIT": "mit",
    NO_LICENSE: "unknown",
}
_SHOWN = 20  # class names
_LETTERS = 200  # characters of one name


def model_card(info: ModelInfo, num_parameters: int, address: str) -> str:
    """Markdown with the hub's metadata on top.

    Args:
        info: what the model is, with its classes.
        num_parameters: of the model.
        address: the name or path that the model is loaded by.
    """
    settings, categories = info.inference, info.known_categories
    things, stuff = len(categories.thing_indices), len(categories.stuff_indices)
    names = [_plain(name.split(",")[0]) for name in categories.names[:_SHOWN]]
    names += ["..."] if len(categories) > _SHOWN else []
    edges = f"short edge {settings.short_edge}, long edge at most {settings.long_edge} pixels"
    if settings.resampling != "antialiased":
        edges += ", resized without antialiasing"
    rows = [
        *_parts(info.architecture),
        ("parameters", f"{num_parameters:,}"),
        ("tasks", ", ".join(settings.tasks)),
        ("classes", f"{len(categories)} ({things} things, {stuff} stuff): {', '.join(names)}"),
        ("image size", edges if settings.short_edge else "as it is"),
        *((_plain(name), f"{value:.1f}") for name, value in info.metrics.items()),
    ]
    table = "\n".join(f"| {name} | {value} |" for name, value in rows)
    address = printable(address)
    license_line = f"license: {_HUB_LICENSES[info.license]}\n" if info.license in _HUB_LICENSES else ""
    own = "" if info.architecture is not None else ", model=model"
    needed = "  # model: built by the code that it was trained with" if own else ""
    return f"""---
library_name: mask2former
pipeline_tag: image-segmentation
{license_line}tags:
- mask2former
- image-segmentation
---

# Mask2Former

| | |
|---|---|
{table}

```python
from PIL import Image
from mask2former import Predictor

predictor = Predictor.from_pretrained("{address}"{own}){needed}
result = predictor("image.jpg")
result.plot(Image.open("image.jpg")).save("overlay.png")
```

`model.safetensors` carries weights, configuration and categories.
{_license_note(info.license)}
"""


def _parts(architecture: ArchitectureConfig | None) -> list[tuple[str, str]]:
    if architecture is None:
        return [("architecture", "its own")]
    backbone = architecture.backbone
    if backbone.name == "timm":
        name = _plain(backbone.model)
    else:
        blocks = "-".join(map(str, backbone.depths))
        name = f"Swin, width {backbone.embed_dim}, blocks {blocks}, window {backbone.window_size}"
    queries = architecture.transformer_decoder.queries
    return [("backbone", name), ("queries", "none" if queries is None else f"{queries}")]


def _license_note(license: str | None) -> str:
    if license is None:
        return (
            "The file states no license. If the weights derive from the official model zoo, its license CC BY-NC 4.0 "
            "applies to them."
        )
    if license == NO_LICENSE:
        return "No license is stated for the weights, or for those they were trained from: ask their authors."
    return f"The weights, or those they were trained from, are licensed {_plain(license)}."


def _plain(words: str) -> str:
    """Text from a file as one line in a table cell: no links, images, code or HTML."""
    return re.sub(r"([\\`*\[\]<>|!#&])", r"\\\1", printable(words, _LETTERS))
