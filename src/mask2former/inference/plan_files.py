"""The images of a run, and the paths of their results."""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from mask2former import limits
from mask2former.errors import UserError
from mask2former.files import check_folder
from mask2former.inference.result_files import (
    ENDINGS,
    Job,
    is_own_image,
)
from mask2former.limits import check_limit
from mask2former.media.image_files import (
    ImageFile,
    ImagePage,
    NamedBytes,
    OpenFile,
    all_pages,
    in_memory,
    num_pages,
    path_of,
)
from mask2former.media.images import as_file, list_images
from mask2former.media.web_images import is_address
from mask2former.notes import note

__all__ = ["FileSource", "plan"]

FileSource = str | os.PathLike[str] | NamedBytes
"""A path of an image or folder, an http(s) address, or an image file in memory."""


def plan(
    sources: Sequence[FileSource], output: str | os.PathLike[str], *, page: int | Literal["all"] | None = None
) -> list[Job]:
    """The images of files and folders, and the paths of their results; nothing is written.

    An output folder inside a source folder is not searched for images. Overlays and maps of earlier results are
    skipped anywhere, with a note.

    Raises:
        UserError: there are no images, the output is no folder or cannot be written, or results would overwrite
            an image or each other, including through links.
    """
    folder = Path(output)
    check_folder(folder)
    resolved = folder.resolve()
    others = [as_file(source) for source in sources if isinstance(source, NamedBytes) or is_address(source)]
    named = [Path(source) for source in sources if not isinstance(source, NamedBytes) and not is_address(source)]
    roots = {source.resolve() for source in named if source.is_dir()}
    if resolved in roots:
        raise UserError(f"the output folder '{folder}' is one of the sources; choose another")
    inside = any(resolved.is_relative_to(root) for root in roots)

    def skip(path: Path) -> bool:
        if inside and path.resolve().is_relative_to(resolved):
            return True
        if is_ours := is_own_image(path):
            note("overlays and maps of earlier results, not used as images", f"'{path}'")
        return is_ours

    found: list[tuple[ImageFile, Path]] = list(list_images(named, skip)) if named or not others else []
    found += [(file, Path(Path(file.name).stem)) for file in others]
    shared = OpenFile()
    jobs = [Job(file, folder, stem) for image, name in found for file, stem in _pages(image, name, page, shared)]
    if not jobs:
        raise UserError(
            f"the sources contain only results of mask2former predict or files in the output folder '{folder}'; give "
            "the images themselves"
        )
    images = {_identity(path): path for job in jobs if (path := path_of(job.source)) is not None}
    real_folder = functools.cache(os.path.realpath)  # there are far fewer folders than results
    owners: dict[str, Job] = {}
    for job in jobs:
        for ending in ENDINGS:
            path = job.file(ending)
            target = os.path.join(real_folder(path.parent), path.name)
            if os.path.islink(target):
                target = os.path.realpath(target)
            identity = _identity(target)
            if identity is not None and identity in images:
                raise UserError(f"'{path}' would overwrite an image, '{images[identity]}'; choose another output")
            if owners.setdefault(target, job) is not job:
                raise UserError(
                    f"the results of '{owners[target].source}' and '{job.source}' would both be written to '{path}'; "
                    "run them separately"
                )
    return jobs


def _pages(
    file: ImageFile, stem: Path, page: int | Literal["all"] | None, shared: OpenFile
) -> list[tuple[ImageFile, Path]]:
    """The selected pages of a file, with the stems of their results."""
    if page is None or isinstance(file, ImagePage):
        return [(file, stem)]
    pages: list[ImagePage] = []
    if page == "all":
        with contextlib.suppress(UserError):  # a file that cannot be read fails later, on its own
            file = in_memory(file)
            assert not isinstance(file, ImagePage)
            count = num_pages(file)
            pages = all_pages(file, count, shared) if count > 1 else pages
        check_limit(f"'{file}' has too many pages:", len(pages), limits.IMAGE_PAGES - 1, "choose one with page")
    elif not isinstance(page, int) or isinstance(page, bool):
        raise UserError(f"page must be a number from 1, or all, got {page!r}")
    else:
        pages = [ImagePage(file, page)]
    if not pages:
        return [(file, stem)]
    return [(each, stem.with_name(f"{stem.name}_page{each.number}")) for each in pages]


def _identity(path: str | os.PathLike[str]) -> tuple[int, int] | None:
    """Identifies a file regardless of spelling and links; None if it does not exist."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_dev, status.st_ino
