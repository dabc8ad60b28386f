"""Packages that only some users need: whether they are installed, and which extra brings them."""

from __future__ import annotations

from importlib.util import find_spec

from mask2former.errors import MissingExtraError

__all__ = ["is_installed", "need"]

_DISTRIBUTIONS = {"openslide": "openslide-python", "skimage": "scikit-image"}  # which are imported by another name


def need(extra: str, *packages: str, to: str) -> None:
    """Check that optional packages are installed, before they are imported, or before hours of other work.

        need("dicom", "pydicom", to="read DICOM files")
        import pydicom

    Nothing is imported: a package that is there, but cannot be loaded, fails in its own import statement.

    Args:
        extra: the extra of this package that brings them.
        packages: their names, as they are imported.
        to: what needs them, as a verb.

    Raises:
        MissingExtraError: one of them is not installed.
    """
    for package in packages:
        if not is_installed(package):
            raise MissingExtraError(_DISTRIBUTIONS.get(package, package.replace("_", "-")), extra, to)


def is_installed(package: str) -> bool:
    """Whether there is such a package; a folder of that name with no code is none, although Python imports it."""
    try:
        spec = find_spec(package)
    except ValueError:  # a module without a specification, which a program has made
        return True
    return spec is not None and spec.origin is not None
