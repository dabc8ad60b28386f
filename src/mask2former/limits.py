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

# --- images, videos and archives -------------------------------------------------------------------------------------

# Pillow's own limit, PIL.Image.MAX_IMAGE_PIXELS, holds for the pixels of a file: 89 million unless a user raises it.
IMAGE_BYTES = 2 << 30  # 89 million pixels of four channels with 32 bits are 1.4 GB
IMAGE_SIDE = 200_000  # pixels; slides of microscopes have up to about 200,000, panoramas of telescopes fewer
PNG_EXTRA_BYTES = 8 << 20  # of a PNG beyond 16 for each pixel: colour profile, texts, further frames
ARRAY_PIXELS = 1 << 30  # of an array or tensor, whose memory was there already
INPUT_PIXELS = 1 << 27  # of an image after resizing; more than an image can have at its own size
ASPECT_RATIO = 2_000  # of an image that a model is shown; of one 2 pixels high and 65,000 wide nothing is recognised
IMAGE_PAGES = 1_000  # pages and frames of an image file that are counted; of more only the first is known
VIDEO_PIXELS = 1 << 26  # of a frame; 8K video has 33 million
VIDEO_FRAMES = 10_000_000  # that a file may claim, four days; above that its length counts as unknown
VIDEO_RATE = 100_000  # frames per second that a file may claim; high-speed cameras write up to some ten thousand
ARCHIVE_FILES = 2_000_000  # names are held in memory, 0.6 kB each; the largest published archive has 1.3 million
ARCHIVE_DIRECTORY_BYTES = 512 << 20  # 2 million files with names of 200 letters
ARCHIVED_BYTES = 8 << 30  # one file in an archive; more is no annotation and no image
ARCHIVED_BYTES_UNCHECKED = 128 << 20  # up to which a file in an archive may be compressed as well as it will
ARCHIVE_GROWTH = 200  # times; annotations are compressed 5 to 30 times
MATRIX_BYTES = 64 << 20  # a MATLAB file of label maps, and the values of one
LINKED_FOLDERS = 10_000  # reached through links in one search: links to links multiply


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
