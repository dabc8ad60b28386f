"""COCO-Stuff 10k, version 1.0: label maps from MATLAB files, sorted into its two splits together with their images.

Reads ``coco/coco_stuff_10k/{images,annotations,imageLists}``, writes ``images_detectron2`` and
``annotations_detectron2`` beside them.
"""

from __future__ import annotations

import math
import shutil
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from mask2former import limits
from mask2former.dataset_tools.prepare.stages import Job, Plan, Stage, save_image
from mask2former.documents import check_regular, read_text
from mask2former.errors import OptionError, UserError
from mask2former.extras import is_installed
from mask2former.files import write_whole
from mask2former.limits import check_limit
from mask2former.media.image_files import open_image
from mask2former.text import printable, quoted

__all__ = ["plan"]

_OFFICIAL = {"train": 9_000, "test": 1_000}


def plan(root: Path) -> Plan:
    """Images and label maps of both splits.

    Raises:
        UserError: the lists, or files named in them, do not exist.
    """
    folder = root / "coco" / "coco_stuff_10k"
    if not folder.is_dir():
        raise OptionError(
            lambda name: (
                f"there is no data of COCO-Stuff 10k in '{folder}'; unpack cocostuff-10k-v1.0.zip into it, or give "
                f"another {name('root')}"
            )
        )
    stages = []
    for split, official in _OFFICIAL.items():
        file = folder / "imageLists" / f"{split}.txt"
        names = read_text(file, "list", hint=f"unpack cocostuff-10k-v1.0.zip into '{folder}'").split()
        jobs = []
        for name in dict.fromkeys(names):
            if Path(name).name != name:  # output stays in its folder
                raise UserError(f"'{file}' contains {quoted(name)}; expected image names without folders")
            outputs = (
                folder / "images_detectron2" / split / f"{name}.jpg",
                folder / "annotations_detectron2" / split / f"{name}.png",
            )
            sources = folder / "images" / f"{name}.jpg", folder / "annotations" / f"{name}.mat"
            jobs.append(Job(name, sources, outputs))
        stages.append(Stage(f"images and label maps, {split}", jobs, _convert, official))
    return Plan(tuple(stages))


def _convert(job: Job) -> None:
    photo, annotation = job.sources
    labels = _read_labels(annotation)
    with open_image(photo) as image:
        size = image.size
    if size != (labels.shape[1], labels.shape[0]):
        raise UserError(
            f"'{photo}' has {size[0]}x{size[1]} pixels (width x height), but '{annotation}' has another size"
        )
    write_whole(job.outputs[0], lambda path: shutil.copyfile(photo, path))
    # Labels begin at 2; 1 wraps around to 255, which is ignored, and 0 to 254, which is not a class and therefore also
    # ignored.
    save_image(job.outputs[1], Image.fromarray(labels - np.uint8(2)))


def _read_labels(path: Path) -> UInt8[np.ndarray, "H W"]:
    """The matrix S.

    Raises:
        UserError: the file is missing or broken, or needs h5py.
    """
    from scipy.io import loadmat

    size = check_regular(path, "matrix", hint="is the download complete?")
    check_limit(f"'{path}' has too many bytes:", size, limits.MATRIX_BYTES, "is it the right file?")
    try:
        labels = loadmat(path, variable_names=["S"])["S"]
    except NotImplementedError:  # MATLAB's newer format is HDF5
        labels = _read_hdf5(path)
    except (
        Exception
    ) as error:  # damaged files raise many kinds of errors: KeyError, TypeError, MatReadError, zlib.error, ...
        raise UserError(f"'{path}' is not a MATLAB file with a matrix S: {printable(str(error), 200)}") from error
    if labels.ndim != 2 or labels.dtype.kind not in "uif":
        raise UserError(f"'{path}': S has the shape {labels.shape}; expected a label map")
    if (strange := labels[~np.isin(labels, np.arange(256))]).size:  # of which bytes would become labels
        raise UserError(f"'{path}': S contains {strange[0]:g}; expected a label map, whole numbers from 0 to 255")
    return labels.astype(np.uint8)


def _read_hdf5(path: Path) -> np.ndarray:
    if not is_installed("h5py"):
        raise UserError(f"'{path}' is a MATLAB 7.3 file; pip install h5py to read it")
    import h5py

    try:
        with h5py.File(path) as file:
            matrix = file["S"]
            if not isinstance(matrix, h5py.Dataset):
                raise UserError(f"'{path}': S is not a matrix; expected a label map")
            if not isinstance(file.get("S", getlink=True), h5py.HardLink) or matrix.external or matrix.is_virtual:
                raise UserError(f"'{path}': S is stored in another file, which is not read; expected the matrix itself")
            values = math.prod(matrix.shape or ())
            check_limit(
                f"the matrix S of '{path}' has too many values:", values, limits.MATRIX_BYTES, "is it the right file?"
            )
            return np.asarray(matrix).T  # these files are in column-major order
    except UserError:
        raise
    except Exception as error:  # see above
        raise UserError(f"'{path}' is not a MATLAB file with a matrix S: {printable(str(error), 200)}") from error
