"""Limits on what is read, built or created, so that a hostile file cannot exhaust memory or time.

Each is far above what real data and published models need, is checked before the work starts, and is named in the error
message. If a real file is rejected, this is the only module to look at.
"""

from __future__ import annotations

from mask2former.errors import UserError

__all__ = ["check_limit"]

# --- documents -------------------------------------------------------------------------------------------------------

YAML_BYTES = 1 << 20  # run files and lists of classes; 20,000 class names are 400 kB
YAML_NODES = 200_000  # values in a YAML file, including all repetitions by aliases
TEXT_BYTES = 64 << 20  # lists of names and classes, label files
TABLE_BYTES = 256 << 20  # CSV; a million rows of metrics
DIGITS = 4_300  # of a number in YAML, like Python's limit for JSON: parsing time grows with the square of it
JSON_DEPTH = 100  # arrays and objects inside each other; annotations have up to ten levels
JSON_BYTES = 4 << 30  # annotations; the largest published files (LVIS, COCO) have less than 1.5 GB

# --- models and checkpoints ------------------------------------------------------------------------------------------

PARAMETERS = 2 << 30  # numbers in a model; the largest backbone with maps of four strides has 1.3e9
PARAMETER_ENTRIES = 6_000  # parameters and buffers of a model; Swin-L has 650, the deepest backbones of timm 2,000
LAYERS = 500  # of a decoder, or blocks of a Swin Transformer; published: 9 and 24
ARGUMENT = 1 << 16  # value of a number in the kwargs of a backbone: channels, blocks, sizes of images
ARGUMENTS = 1000  # number of values in the kwargs, including nested ones
PICKLE_STEPS = 500_000  # operations of a pickle; R50 takes 20,000, its training with an optimizer 60,000
TRAINING_STEPS = 1_000_000  # of the pickle in a checkpoint of a training run, which also lists its classes
PICKLE_SHARING = 8  # times its size to which a pickle may expand: tied weights, and names that are written once
PICKLE_KEY = 1 << 60  # of a number as a key; larger ones could all be chosen to collide
ARRAY_DIMENSIONS = 64  # of an array or tensor, like numpy's limit
CHECKPOINT_ENTRIES = 20_000  # named arrays; published models have up to 1,000, the deepest backbones of timm 2,000
ENTRY_NAME = 1000  # characters in the name of an entry
ZIP_DIRECTORY_BYTES = 8 << 20  # of a .pth: 100,000 tensors
HEADER_BYTES = 16 << 20  # of a safetensors file; those of published models have 100 kB
METADATA_BYTES = 4 << 20  # of one value in its metadata; 20,000 classes are 2 MB
CONFIG_BYTES = 4 << 20  # config.json and similar files in a folder of weights
CONFIG_NUMBER = 1e9  # of a number in them that is used in computations; JSON allows more than a float can hold
CONFIG_TEXT = 1 << 18  # characters of the configuration in a checkpoint of OpenMMLab, which is Python; real: 50,000

# --- images, videos and archives -------------------------------------------------------------------------------------

# Pillow's own limit, PIL.Image.MAX_IMAGE_PIXELS, applies to pixels in files: 89 million unless a user raises it.
IMAGE_BYTES = 2 << 30  # 89 million pixels of four channels with 32 bits are 1.4 GB
WEB_BYTES = 1 << 28  # of an image at an address, which is kept in memory
WEB_SECONDS = 120  # for its download
WEB_TIMEOUT = 20.0  # seconds without a byte
LARGE_IMAGE_BYTES = 1 << 40  # of an image that is read in parts; the largest whole-slide images have 10 GB
IMAGE_SIDE = 200_000  # pixels; slides of microscopes have up to about 200,000, panoramas of telescopes fewer
PNM_HEADER_BYTES = 1 << 12  # of a PPM, PGM or PBM: sizes and comments
PNG_EXTRA_BYTES = 8 << 20  # of a PNG beyond 16 for each pixel: colour profile, texts, further frames
ARRAY_PIXELS = 1 << 30  # of an array or tensor, which is already in memory
INPUT_PIXELS = 1 << 27  # of an image after resizing; more than an image can have at its own size
ASPECT_RATIO = 2_000  # of an input of a model; nothing is recognised in 2 x 65,000 pixels
PAGE_PIXELS = 25_000_000  # of an image on the web page, whose visitors share the memory; phones take 12 million
LISTED_IMAGES = 100_000_000  # of one bulk run; their names are kept in memory, 0.2 kB each
CHANNELS = 32  # of the images of a model; satellites have up to 16, panels of stains some 30
IMAGE_PAGES = 1_000  # pages and frames of an image file that are counted; if there are more, only the first is used
VIDEO_PIXELS = 1 << 26  # of a frame; 8K video has 33 million
VIDEO_FRAMES = 10_000_000  # that a file may declare, four days; above it, the length counts as unknown
VIDEO_RATE = 100_000  # frames per second that a file may declare; high-speed cameras write up to some ten thousand
ARCHIVE_FILES = 2_000_000  # names are kept in memory, 0.6 kB each; the largest published archive has 1.3 million
ARCHIVE_DIRECTORY_BYTES = 512 << 20  # 2 million files with names of 200 letters
ARCHIVED_BYTES = 8 << 30  # of one file in an archive; no annotation or image is larger
ARCHIVED_BYTES_UNCHECKED = 128 << 20  # up to this size, a file in an archive may have any compression ratio
ARCHIVE_GROWTH = 200  # compression ratio; annotations are compressed 5 to 30 times
MATRIX_BYTES = 64 << 20  # a MATLAB file of label maps, and the values of one
LINKED_FOLDERS = 10_000  # reached through links in one search, because links to links multiply

# --- annotations -----------------------------------------------------------------------------------------------------

CLASSES = 32_768  # of a data set; the largest published vocabularies have 22,000
NAME_CHARACTERS = 1_000  # of the name of a class
ID_BITS = 128  # of a number that is the id of an image, an object or a class: room for UUIDs
ID_CHARACTERS = 1_000  # of an id that is text, and of a file name
SIDE = 1 << 20  # pixels along one side of an image that an annotation file declares
REGION_BYTES = 8 << 20  # of a region of ImageJ, whose outline has 12 for each corner
REGIONS_BYTES = 256 << 20  # of all regions in a zip file: 20,000 with 1,000 corners each
IMAGE_PIXELS = (1 << 31) - 1  # of such an image, and of a mask; larger whole-slide images are annotated in tiles
CORNER = 1 << 20  # pixels from the origin to a corner; drawing needs memory in proportion to the length of edges
OUTLINE = 1 << 22  # pixels along the polygons of one object: 1,000 times around an image of 1000 x 1000
OBJECTS = 20_000  # of one image or frame; each takes a millisecond every time the image is read
MASK_VALUES = 1 << 35  # of the dense masks of one image or clip: 200 objects in 80 frames of 1080x1920
FRAMES = 1_000_000  # of a clip; nine hours of film
MEASURED_CLASSES = 5_000  # of label maps, whose pixels are counted by pairs of classes: tables of 200 MB

# --- downloads -------------------------------------------------------------------------------------------------------

ZOO_BYTES = 1 << 50  # of a file that a table of models lists
ZOO_QUERIES = 1 << 20  # of a model in this table
ZOO_SPARE_BYTES = 64 << 20  # by which its file may exceed four times the size in the table
DOWNLOAD_BYTES = 4 << 30  # of one file; the largest published checkpoint has a fifth of this size

# --- settings --------------------------------------------------------------------------------------------------------

INTEGER = (1 << 31) - 1  # any integer without a limit of its own: steps, sizes
SEED = (1 << 32) - 1  # accepted by all random number generators
SCENE = 1 << 48  # number of a drawn scene
BATCH = 1 << 14  # images of one optimizer step; published trainings have up to 4096
WORKERS = 1024  # processes that read, devices of one machine, and machines
CLIP_FRAMES = 10_000  # of a clip that is drawn or used in training as one piece
SHOWN = 1000  # validation samples drawn as images
POINTS = 1 << 20  # sampled from each mask; published: 12544
DETECTIONS = 1_000_000  # instances of an image that are kept or counted
PANELS = 100  # of curves in one figure; a training run logs about twenty
TILE_SCALE = 32  # enlargement of tiles; the packaged model uses them as they are, or enlarges them up to 4 times
TTA_EDGE = 8192  # pixels of the shorter side of a view; published: 256 to 2048
TTA_SIZES = 64  # views of an image, each also mirrored; published: up to 8


def check_limit(what: str, got: float, most: float, advice: str) -> None:
    """Raise an error if ``got`` exceeds ``most``.

    Args:
        what: subject and verb, for instance ``'a.png' has too many pixels:``; the numbers follow.
        got: the actual number or amount.
        most: the limit.
        advice: what to do.

    Raises:
        UserError: ``got`` exceeds ``most``.
    """
    if got > most:
        raise UserError(f"{what} {got:,}; at most {most:,} are supported; {advice}")
