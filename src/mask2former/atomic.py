"""Files that are there whole or not at all. Knows nothing of what is in them."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from pathlib import Path

from mask2former.errors import RequestError

__all__ = ["write_whole"]


def write_whole(path: Path, write: Callable[[Path], object]) -> None:
    """Let ``write`` fill a temporary file beside ``path``, then rename it: readers never see half a file.

    Missing folders are made. The file gets the permissions of the caller's umask, whatever ``write`` does.

    Raises:
        RequestError: the place cannot be written; an old file there is as it was.
        OSError: something else went wrong, for instance a full disk; likewise.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.touch()
        mode = temporary.stat().st_mode & 0o777  # some writers, safetensors for one, would write for the owner only
        write(temporary)
        temporary.chmod(mode)
        temporary.replace(path)
    except (FileExistsError, IsADirectoryError, NotADirectoryError, PermissionError) as error:
        raise RequestError(f"cannot write '{path}': {error.strerror or error}; choose another place") from error
    finally:
        with contextlib.suppress(OSError):  # gone after a success, and its folder may not exist
            temporary.unlink(missing_ok=True)
