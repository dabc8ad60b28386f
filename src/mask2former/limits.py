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

# --- downloads -------------------------------------------------------------------------------------------------------

DOWNLOAD_BYTES = 4 << 30  # of one file; the largest published checkpoint has a fifth of it

# --- settings --------------------------------------------------------------------------------------------------------

INTEGER = (1 << 31) - 1  # any whole number without a limit of its own: steps, sizes
SEED = (1 << 32) - 1  # what all generators of random numbers take
SCENE = 1 << 48  # number of a drawn scene
BATCH = 1 << 14  # images of one optimizer step; published trainings have up to 4096
WORKERS = 1024  # processes that read, and devices of one machine
CLIP_FRAMES = 10_000  # of a clip that is drawn or trained on at once
SHOWN = 1000  # validation samples drawn as pictures
POINTS = 1 << 20  # sampled from each mask; published: 12544
DETECTIONS = 1_000_000  # instances of an image that are kept or count
TTA_EDGE = 8192  # pixels of the shorter side of a view; published: 256 to 2048
TTA_SIZES = 64  # views of an image, each also mirrored; published: up to 8


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
