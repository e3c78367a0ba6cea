"""The Hugging Face hub: whether it can be reached, and files and folders of its repositories.

Every name of a repository may also be a local directory. Only functions that huggingface_hub documents are used.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Sequence
from pathlib import Path

from mtcpo.core.errors import UserError, first_line


def is_hub_unreachable() -> bool:
    """Whether the hub cannot be reached: switched off, or no name service that knows it.

    huggingface_hub itself finds out after half a minute of retries.
    """
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return True
    # Through a proxy, names are looked up by the proxy.
    if any(os.environ.get(name) for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy")):
        return False
    host = constants.ENDPOINT.split("//")[-1].split("/")[0].split(":")[0]
    try:
        socket.getaddrinfo(host, 443)
    except socket.gaierror:
        return True
    return False


def is_hub_name(name: str) -> bool:
    """Whether `name` has the form of a repository's name, `owner/name`."""
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        try_to_load_from_cache(name, "config.json")
    except HFValidationError:
        return False
    return True


def hub_file(name: str, file: str, fetch: bool = True) -> Path | None:
    """Return a file of a local directory or of a model on the hub; None where there is none, or none to be had.

    fetch: ask the hub for the newest version, and fall back on the cache where it cannot be reached; without it only
    the cache is looked at.
    """
    from huggingface_hub import hf_hub_download, try_to_load_from_cache
    from huggingface_hub.errors import EntryNotFoundError, HFValidationError

    if os.path.isdir(name):  # noqa: PTH112, Path("") would be the working directory
        path = Path(name, file)
        return path if path.exists() else None
    try:
        local = hf_hub_download(name, file) if fetch else try_to_load_from_cache(name, file)
    except (OSError, EntryNotFoundError, HFValidationError):  # OSError: no such repository, no network
        return None
    # The cache may also answer, with an object of its own, that the repository is known to lack the file.
    return Path(local) if isinstance(local, str) else None


def hub_folder(
    name: str, is_complete: Callable[[Path], bool], way_out: str, patterns: Sequence[str] | None = None
) -> Path:
    """Return the local folder of a model on the hub; one that is complete in the cache without asking the network.

    way_out: what the user can do where it cannot be had, for the message. patterns: which files to fetch; None: all.

    Raises:
        UserError: it is not in the cache, and cannot be fetched.
    """
    from huggingface_hub import snapshot_download

    try:
        folder = Path(snapshot_download(name, local_files_only=True))
        if is_complete(folder):
            return folder
    except (FileNotFoundError, ValueError):
        pass  # not in the cache, or no name of a repository: the attempt below says which
    try:
        return Path(snapshot_download(name, allow_patterns=None if patterns is None else list(patterns)))
    except Exception as error:  # the hub's and the network's errors are some twenty kinds
        raise UserError(
            f"{name}: neither a local directory nor in the Hugging Face cache, and it cannot be downloaded "
            f"({type(error).__name__}: {first_line(error)}); {way_out}"
        ) from error
