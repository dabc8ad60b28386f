"""How torchvision names the entries of a ResNet, as do timm, mmdet, mmsegmentation and many pre-trainings."""

from __future__ import annotations

__all__ = ["BLOCKS", "DEEP_STEM", "STEM"]

STEM: dict[str | tuple[str, ...], str] = {"conv1.*": "stem.conv1.*", "bn1.*": "stem.conv1.norm.*"}

# Three convolutions in a row; the last norm kept the name that it has in the plain stem.
DEEP_STEM: dict[str | tuple[str, ...], str] = {
    "conv1.0.*": "stem.conv1.*",
    "conv1.1.*": "stem.conv1.norm.*",
    "conv1.3.*": "stem.conv2.*",
    "conv1.4.*": "stem.conv2.norm.*",
    "conv1.6.*": "stem.conv3.*",
    "bn1.*": "stem.conv3.norm.*",
}

BLOCKS: dict[str | tuple[str, ...], str] = {
    template: original
    for stage in (1, 2, 3, 4)
    for template, original in {
        f"layer{stage}.{{}}.downsample.0.*": f"res{stage + 1}.{{}}.shortcut.*",
        f"layer{stage}.{{}}.downsample.1.*": f"res{stage + 1}.{{}}.shortcut.norm.*",
        f"layer{stage}.{{}}.conv1.*": f"res{stage + 1}.{{}}.conv1.*",
        f"layer{stage}.{{}}.bn1.*": f"res{stage + 1}.{{}}.conv1.norm.*",
        f"layer{stage}.{{}}.conv2.*": f"res{stage + 1}.{{}}.conv2.*",
        f"layer{stage}.{{}}.bn2.*": f"res{stage + 1}.{{}}.conv2.norm.*",
        f"layer{stage}.{{}}.conv3.*": f"res{stage + 1}.{{}}.conv3.*",
        f"layer{stage}.{{}}.bn3.*": f"res{stage + 1}.{{}}.conv3.norm.*",
    }.items()
}
