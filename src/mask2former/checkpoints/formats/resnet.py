"""How torchvision names the layers of a ResNet, as do timm, mmdet, mmsegmentation and many pre-trainings."""

from __future__ import annotations

from collections.abc import Mapping

__all__ = ["BLOCK", "DEEP_STEM", "STEM", "resnet_table"]

Layers = Mapping[str, tuple[str, str]]  # original name of a convolution to theirs, and theirs of its norm

STEM: Layers = {"stem.conv1": ("conv1", "bn1")}

# Three convolutions in a row; the last norm kept the name that it has in the plain stem.
DEEP_STEM: Layers = {
    "stem.conv1": ("conv1.0", "conv1.1"),
    "stem.conv2": ("conv1.3", "conv1.4"),
    "stem.conv3": ("conv1.6", "bn1"),
}

BLOCK: Layers = {
    "shortcut": ("downsample.0", "downsample.1"),
    "conv1": ("conv1", "bn1"),
    "conv2": ("conv2", "bn2"),
    "conv3": ("conv3", "bn3"),
}


def resnet_table(
    stem: Layers = STEM, block: Layers = BLOCK, stages: str = "layer{}", first: int = 1
) -> dict[str | tuple[str, ...], str]:
    """The entries of a ResNet as a table for :func:`~mask2former.checkpoints.rules.rules`.

    Args:
        stem: layers of the stem.
        block: layers of a block.
        stages: name of a stage, with its number.
        first: number of the first stage.
    """
    layers = dict(stem)
    for number in range(4):
        theirs = stages.format(number + first)
        layers |= {
            f"res{number + 2}.{{}}.{original}": (f"{theirs}.{{}}.{convolution}", f"{theirs}.{{}}.{norm}")
            for original, (convolution, norm) in block.items()
        }
    convolutions = {f"{convolution}.*": f"{original}.*" for original, (convolution, _) in layers.items()}
    return {**convolutions, **{f"{norm}.*": f"{original}.norm.*" for original, (_, norm) in layers.items()}}
