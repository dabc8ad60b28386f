"""Models from and to the Hugging Face hub. The only place that knows ``huggingface_hub``, imported when first needed.

Must not know what the files contain: it fetches and uploads folders.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path

from mask2former import recipes
from mask2former.checkpoints.download import is_offline
from mask2former.errors import UserError
from mask2former.text import printable

__all__ = ["HubName", "fetch_folder", "files_of_folder", "parse_hub_name", "published_recipe", "push_folder"]

HubName = tuple[str, str | None]  # owner/name, revision

_PREFIX = "hf://"
_REPOSITORY = r"\w[\w.-]*/\w[\w.-]*"
_SETTINGS = ("config.json", "preprocessor_config.json")
_WEIGHTS = {  # what a folder may contain, best first: formats that execute code only if there are no others
    ".safetensors": ("model.safetensors", "model-*.safetensors", "model.safetensors.index.json"),
    ".bin": ("pytorch_model.bin", "pytorch_model-*.bin", "pytorch_model.bin.index.json"),
}
_OFFICIAL = re.compile(r"facebook/mask2former-swin-(\w+(?:-IN21k)?)-(coco|ade|cityscapes|mapillary-vistas)-(\w+)")
_SIZES = {"tiny": "swin-t", "small": "swin-s", "base": "swin-b", "base-IN21k": "swin-b-in21k", "large": "swin-l"}
_DATA = {"ade": "ade20k", "mapillary-vistas": "mapillary"}
_FILE_SUFFIXES = (".bin", ".ckpt", ".npz", ".pkl", ".pt", ".pth", ".safetensors", ".yaml", ".yml")


def parse_hub_name(source: str) -> HubName | None:
    """``hf://owner/name`` or ``owner/name``, with or without ``@revision``; None for everything else.

    Without the prefix, a name that ends like a file of weights or lies in an existing folder is a path that does not
    exist.

    Raises:
        UserError: the prefix is followed by something else.
    """
    match = re.fullmatch(rf"({_REPOSITORY})(?:@([\w./-]+))?", source.removeprefix(_PREFIX))
    if source.startswith(_PREFIX):
        if match is None:
            raise UserError(f"'{source}': expected hf://owner/name, with @revision or without")
        return match[1], match[2]
    if match is None or source.endswith(_FILE_SUFFIXES) or Path(source).parent.exists():
        return None
    return match[1], match[2]


def published_recipe(repo_id: str) -> str | None:
    """The published model that is on the hub under this name, which supplies what its files do not say: the task."""
    match = _OFFICIAL.fullmatch(repo_id)
    if match is None:
        return None
    size, data, task = match.groups()
    name = f"{_DATA.get(data, data)}-{task}/{_SIZES.get(size)}"
    return name if name in recipes.recipe_names() else None


def fetch_folder(repo_id: str, revision: str | None = None) -> Path:
    """A folder with the newest files of a model, or those of ``revision``, in the cache of ``huggingface_hub``.

    Offline, or when the hub does not respond, the files that were fetched earlier.

    Raises:
        UserError: the model or revision does not exist, no permission, or no network and nothing in the cache.
    """
    folder = Path()
    with _errors(repo_id, revision):
        from huggingface_hub import snapshot_download

        for suffix, names in _WEIGHTS.items():
            folder = Path(
                snapshot_download(
                    repo_id,
                    revision=revision,
                    allow_patterns=[*_SETTINGS, *names],
                    ignore_patterns=["*/*"],  # training states are in subfolders
                    local_files_only=is_offline(),
                )
            )
            if any(folder.glob(f"*{suffix}")):
                return folder
    raise UserError(f"'{repo_id}' on the hub has no weights (model.safetensors or pytorch_model.bin) at its top level")


def files_of_folder(folder: Path) -> list[Path]:
    """The files of a model in a folder, which may contain others, such as results."""
    patterns = (*_SETTINGS, *(name for names in _WEIGHTS.values() for name in names))
    return [path for pattern in patterns for path in folder.glob(pattern)]


def push_folder(folder: Path, repo_id: str, *, private: bool, message: str) -> str:
    """Upload all files of ``folder`` to the model ``repo_id``, which is created if needed; returns its page.

    Raises:
        UserError: an invalid name, no network, no such owner, or not logged in.
    """
    if not re.fullmatch(_REPOSITORY, repo_id):
        raise UserError(f"'{repo_id}' is not a model on the hub; expected owner/name")
    if is_offline():
        raise UserError(f"cannot upload '{repo_id}': offline mode is on (MASK2FORMER_OFFLINE or HF_HUB_OFFLINE)")
    with _errors(repo_id, None):
        from huggingface_hub import HfApi

        api = HfApi(library_name="mask2former")
        page = api.create_repo(repo_id, private=private, exist_ok=True)
        api.upload_folder(repo_id=repo_id, folder_path=folder, commit_message=message or "Upload with mask2former")
    return str(page)


@contextlib.contextmanager
def _errors(repo_id: str, revision: str | None) -> Iterator[None]:
    """Turn what the hub's library raises into one sentence."""
    try:
        from huggingface_hub import errors
    except (ValueError, RuntimeError) as error:  # RuntimeError: there is no home folder
        raise UserError(
            f"the library of the Hugging Face hub cannot start: {printable(str(error), 200)}; check the environment "
            "variables that begin with HF_"
        ) from error
    try:
        yield
    except errors.GatedRepoError as error:
        raise UserError(
            f"'{repo_id}' on the hub asks for consent: accept its terms on its page, then log in with: hf auth login"
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise UserError(
            f"there is no '{repo_id}' on the hub that you can access; check the name, and if it is private log in "
            "with: hf auth login"
        ) from error
    except errors.RevisionNotFoundError as error:
        raise UserError(f"'{repo_id}' on the hub has no revision '{revision}'") from error
    except errors.LocalEntryNotFoundError as error:
        reason = "offline mode is on" if is_offline() else "the hub does not answer"
        raise UserError(
            f"'{repo_id}' is not in the hub's cache and {reason}; try again with a network, or give the path of a "
            "folder with its files"
        ) from error
    except errors.HfHubHTTPError as error:
        status = error.response.status_code
        hint = "; log in with a token that has write access: hf auth login" if status in (401, 403) else ""
        raise UserError(
            f"the hub refuses '{repo_id}': {printable(error.server_message or f'status {status}', 200)}{hint}"
        ) from error
    except (errors.HTTPError, errors.HFValidationError, OSError, ValueError, LookupError, TypeError) as error:
        # The last three: the reply is not one that a hub would send. Before version 1, the cause is at the end of a
        # long message.
        raise UserError(f"'{repo_id}' on the hub: {printable(str(error), 400)}") from error
