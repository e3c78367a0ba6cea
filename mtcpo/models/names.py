"""Names of models, as --model takes them: a directory, a short name (alias), or a name on the hub.

Checks before anything is loaded: whether the model exists, and whether it is complete.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mtcpo.core.errors import UserError, first_line
from mtcpo.core.files import sha256_of
from mtcpo.core.hub import hub_file, is_hub_name, is_hub_unreachable
from mtcpo.models.adapters import ADAPTER_CONFIG
from mtcpo.models.canary import CANARY_FILE
from mtcpo.models.families import ALIASES
from mtcpo.models.tokenizers import TOKENIZER_FILES, has_tokenizer


def resolve_model_name(name: str) -> str:
    """Return the directory or hub name for `name`; a directory takes precedence over an alias of the same name."""
    return name if Path(name).is_dir() else ALIASES.get(name, name)


def model_fingerprint(name: str) -> str:
    """Return a fingerprint that changes with the model: its canary, else file names and sizes, else its name."""
    folder = Path(name)
    if not folder.is_dir():
        return name
    if (folder / CANARY_FILE).exists():
        return sha256_of(folder / CANARY_FILE)
    return ", ".join(f"{path.name} {path.stat().st_size}" for path in sorted(folder.iterdir()) if path.is_file())


# --- refusals ---------------------------------------------------------------------------------------------------------


def check_reachable(path: str) -> None:
    """Refuse a directory that does not exist, and a hub model that is not cached and cannot be fetched.

    Raises:
        UserError: not available, or not a valid name on the hub.
    """
    if Path(path).is_dir():
        return
    # Names that cannot be repositories: the hub's error for them would be less helpful.
    if path.startswith(("/", "./", "../", "~")) or path.count("/") > 1:
        raise UserError(f"{path}: no such model directory")
    if not is_hub_name(path):
        raise UserError(
            f"{path!r} is neither a directory, nor one of {', '.join(ALIASES)}, nor a hub name (owner/name)"
        )
    is_cached = any(hub_file(path, file, fetch=False) for file in ("config.json", ADAPTER_CONFIG))
    if not is_cached and is_hub_unreachable():
        raise UserError(_unavailable(path, "no network"))


def check_model_directory(path: str) -> None:
    """Refuse a directory without a config or a tokenizer; a hub name passes.

    Raises:
        UserError: a file is missing; the message says what to copy into the directory.
    """
    folder = Path(path)
    if not folder.is_dir():
        return
    if not (folder / "config.json").exists():
        raise UserError(f"{path}: no config.json in it, so it is not a model directory")
    if not has_tokenizer(folder):
        raise UserError(
            f"{path}: a model without a tokenizer; copy the tokenizer files of its base model into it "
            f"(one of {', '.join(TOKENIZER_FILES)}, and tokenizer_config.json)"
        )


@contextmanager
def explain_load_errors(path: str) -> Iterator[None]:
    """Turn transformers' errors for a missing or damaged model into one-line UserErrors."""
    from safetensors import SafetensorError

    try:
        yield
    except (OSError, ValueError, SafetensorError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise  # a disk error, such as a missing permission, has a better message elsewhere
        raise UserError(_unavailable(path, first_line(error))) from error


def _unavailable(path: str, reason: str) -> str:
    if Path(path).is_dir():
        return f"{path}: cannot be loaded ({reason})"
    return (
        f"model {path!r} is neither a local directory nor in the Hugging Face cache, and cannot be "
        f"downloaded ({reason}); on a machine with network run "
        f"`hf download {path} --local-dir DIR`, copy DIR here, and pass --model DIR"
    )
