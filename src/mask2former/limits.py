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
TABLE_BYTES = 256 << 20  # CSV; a million rows of metrics
JSON_BYTES = 4 << 30  # annotations; the largest published files (LVIS, COCO) have less than 1.5 GB

# --- annotations -----------------------------------------------------------------------------------------------------

CLASSES = 32_768  # of a data set; the largest published vocabularies have 22,000
NAME_CHARACTERS = 1_000  # of the name of a class
ID_BITS = 128  # of a number that is the id of an image, an object or a class: room for UUIDs
ID_CHARACTERS = 1_000  # of an id that is text, and of a file name
SIDE = 1 << 20  # pixels along one side of an image that an annotation file declares
IMAGE_PIXELS = (1 << 31) - 1  # of such an image, and of a mask; larger whole-slide images are annotated in tiles
OUTLINE = 1 << 22  # pixels along the polygons of one object: 1,000 times around an image of 1000 x 1000
MASK_VALUES = 1 << 35  # of the dense masks of one image or clip: 200 objects in 80 frames of 1080x1920
FRAMES = 1_000_000  # of a clip; nine hours of film
MEASURED_CLASSES = 5_000  # of label maps, whose pixels are counted by pairs of classes: tables of 200 MB


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
