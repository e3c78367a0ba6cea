"""The Hugging Face hub: whether it can be reached, and how to get files and folders of its repositories.

A repository's name may also be a local directory. Only documented functions of huggingface_hub are used.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Sequence
from pathlib import Path

from mtcpo.core.errors import UserError, first_line


def is_hub_unreachable() -> bool:
    """Whether the hub cannot be reached: offline mode is on, or its host name does not resolve.

    huggingface_hub itself notices only after half a minute of retries.
    """
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return True
    # Behind a proxy, it is the proxy that resolves host names.
    if any(os.environ.get(name) for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy")):
        return False
    host = constants.ENDPOINT.split("//")[-1].split("/")[0].split(":")[0]
    try:
        socket.getaddrinfo(host, 443)
    except socket.gaierror:
        return True
    return False


def is_hub_name(name: str) -> bool:
    """Whether `name` has the form of a repository name, `owner/name`."""
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        try_to_load_from_cache(name, "config.json")
    except HFValidationError:
        return False
    return True


def hub_file(name: str, file: str, fetch: bool = True) -> Path | None:
    """Return a file of a local directory or of a model on the hub; None if it does not exist or cannot be fetched.

    fetch: ask the hub for the newest version, and fall back on the cache if the hub cannot be reached. If False, look
    only in the cache.
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
    # The cache may also return a sentinel object, which means that the repository is known to lack the file.
    return Path(local) if isinstance(local, str) else None


def hub_folder(
    name: str, is_complete: Callable[[Path], bool], way_out: str, patterns: Sequence[str] | None = None
) -> Path:
    """Return the local folder of a model on the hub, without network access if it is complete in the cache.

    way_out: for the message, what the user can do instead. patterns: which files to fetch; None: all.

    Raises:
        UserError: it is not in the cache and cannot be fetched.
    """
    from huggingface_hub import snapshot_download

    try:
        folder = Path(snapshot_download(name, local_files_only=True))
        if is_complete(folder):
            return folder
    except (FileNotFoundError, ValueError):
        pass  # not in the cache, or not a repository name: the attempt below tells which
    try:
        return Path(snapshot_download(name, allow_patterns=None if patterns is None else list(patterns)))
    except Exception as error:  # the hub and the network raise some twenty classes of exceptions
        raise UserError(
            f"{name}: neither a local directory nor in the Hugging Face cache, and it cannot be downloaded "
            f"({type(error).__name__}: {first_line(error)}); {way_out}"
        ) from error
