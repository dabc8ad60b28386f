"""The page of a model on a hub, from the model's own facts. Knows no files and no network."""

from __future__ import annotations

import re
from collections.abc import Mapping

from mask2former.config import ModelConfig
from mask2former.structures import Categories
from mask2former.text import printable

__all__ = ["model_card"]

_HUB_LICENSES = {"CC BY-NC 4.0": "cc-by-nc-4.0", "MIT": "mit"}  # our name to that of the hub's metadata
_SHOWN = 20  # class names
_LETTERS = 200  # of one name


def model_card(
    config: ModelConfig,
    categories: Categories,
    num_parameters: int,
    address: str,
    license: str | None,
    metrics: Mapping[str, float],
) -> str:
    """Markdown with the hub's metadata on top.

    Args:
        config: architecture and inference settings.
        categories: the classes.
        num_parameters: of the model.
        address: what the model is loaded by.
        license: of the weights, if it is known.
        metrics: measured numbers in percent; may be empty.
    """
    settings = config.inference
    things, stuff = len(categories.thing_indices), len(categories.stuff_indices)
    names = [_plain(name.split(",")[0]) for name in categories.names[:_SHOWN]]
    names += ["..."] if len(categories) > _SHOWN else []
    edges = f"short edge {settings.short_edge}, long edge at most {settings.long_edge} pixels"
    rows = [
        ("backbone", _backbone(config)),
        ("queries", f"{config.transformer_decoder.num_queries}"),
        ("parameters", f"{num_parameters:,}"),
        ("tasks", ", ".join(settings.tasks)),
        ("classes", f"{len(categories)} ({things} things, {stuff} stuff): {', '.join(names)}"),
        ("image size", edges if settings.short_edge else "as it is"),
        *((_plain(name), f"{value:.1f}") for name, value in metrics.items()),
    ]
    table = "\n".join(f"| {name} | {value} |" for name, value in rows)
    address = printable(address)
    license_line = f"license: {_HUB_LICENSES[license]}\n" if license in _HUB_LICENSES else ""
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

predictor = Predictor.from_pretrained("{address}")
result = predictor("image.jpg")
result.plot(Image.open("image.jpg")).save("overlay.png")
```

`model.safetensors` carries weights, configuration and categories.
{_license_note(license)}
"""


def _backbone(config: ModelConfig) -> str:
    backbone = config.backbone
    if backbone.name == "timm":
        return _plain(backbone.model)
    blocks = "-".join(map(str, backbone.depths))
    return f"Swin, width {backbone.embed_dim}, blocks {blocks}, window {backbone.window_size}"


def _license_note(license: str | None) -> str:
    if license is None:
        return (
            "The file states no license. If the weights derive from the official model zoo, its license CC BY-NC 4.0 "
            "applies to them."
        )
    return f"The weights, or those they were trained from, are licensed {_plain(license)}."


def _plain(words: str) -> str:
    """Words from a file as text of one line in a cell of a table: no links, images, code or HTML."""
    return re.sub(r"([\\`*\[\]<>|!#&])", r"\\\1", printable(words, _LETTERS))
