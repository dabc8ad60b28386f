"""How much is read, built or made at most: the numbers that keep a hostile file from filling the memory or the day.

Each is far above what real data and published models need, checked before the work, and named in the message that
refuses. They are the one place to look when a real file is refused.
"""

from __future__ import annotations

from mask2former.errors import RequestError

__all__ = ["check_limit"]

# --- documents -------------------------------------------------------------------------------------------------------

YAML_BYTES = 1 << 20  # run files and lists of classes; 20,000 class names are 400 kB
YAML_NODES = 200_000  # values in a YAML file, with those that aliases repeat counted as often as they are repeated
TEXT_BYTES = 64 << 20  # lists of names and classes, label files
JSON_BYTES = 4 << 30  # annotations; the largest published files (LVIS, COCO) have less than 1.5 GB

# --- models and checkpoints ------------------------------------------------------------------------------------------

PARAMETERS = 2 << 30  # numbers in a model; the largest backbone with maps of four strides has 1.3e9
PARAMETER_ENTRIES = 6_000  # parameters and buffers of a model; Swin-L has 650, the deepest backbones of timm 2,000
LAYERS = 500  # of a decoder, or blocks of a Swin Transformer; published: 9 and 24
ARGUMENT = 1 << 16  # of a number among the arguments of a backbone: channels, blocks, sizes of images
ARGUMENTS = 1000  # how many there are
PICKLE_STEPS = 500_000  # operations of a pickle; R50 takes 20,000, its training with an optimizer 60,000
CHECKPOINT_ENTRIES = 20_000  # named arrays; published models have up to 1,000, the deepest backbones of timm 2,000
ENTRY_NAME = 1000  # characters in the name of an entry
ZIP_DIRECTORY_BYTES = 8 << 20  # of a .pth: 100,000 tensors
HEADER_BYTES = 16 << 20  # of a safetensors file; those of published models have 100 kB
METADATA_BYTES = 4 << 20  # of one value in it; 20,000 classes are 2 MB
CONFIG_BYTES = 4 << 20  # config.json and its like in a folder of weights
CONFIG_TEXT = 1 << 18  # characters of the configuration in a checkpoint of OpenMMLab, which is Python


def check_limit(what: str, got: float, most: float, advice: str) -> None:
    """Refuse more than ``most``.

    Args:
        what: subject and verb, for instance ``'a.png' has pixels:``; the numbers follow.
        got: how many or how much.
        most: the limit.
        advice: what to do.

    Raises:
        RequestError: ``got`` is above ``most``.
    """
    if got > most:
        raise RequestError(f"{what} {got:,}; at most {most:,} are supported; {advice}")
