"""Python code in a model's directory, which transformers or peft would run while loading the model.

transformers asks before it runs code from the hub, but trusts a local directory: 4.57 runs custom_generate/generate.py
there whatever `trust_remote_code` says. So this module looks for such code before anything is loaded, in directories
and on the hub alike, and refuses the model unless the user allows code.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from mtcpo.core.errors import UserError
from mtcpo.core.hub import hub_file

GENERATE_FILE = "custom_generate/generate.py"

SETTINGS_FILES = ("config.json", "tokenizer_config.json", "generation_config.json", "adapter_config.json")
"""Files that transformers and peft read from a directory before its weights."""


def _is_hub_kernel(value: Any) -> bool:
    """Whether an attention implementation is a repository (`owner/name`) instead of a built-in of transformers."""
    return "/" in str(value)


CODE_SETTINGS: dict[str, Callable[[Any], bool]] = {
    # Classes in files of the directory, or of another repository.
    "auto_map": bool,
    # A kernel: code that transformers fetches from the hub and imports.
    "attn_implementation": _is_hub_kernel,
    "_attn_implementation": _is_hub_kernel,
    "_attn_implementation_internal": _is_hub_kernel,
    # With megatron_config, peft imports whatever module megatron_core names.
    "megatron_config": bool,
    # Argument for a tokenizer that some of peft's adapters load.
    "trust_remote_code": bool,
}
"""Key of a settings file, at any depth -> whether its value makes transformers or peft run code."""


def refuse_model_code(path: str, allow_code: bool) -> None:
    """Refuse a model (a directory or hub name) that contains Python code, unless code is allowed.

    Raises:
        UserError: it contains code; the message names the file.
    """
    if allow_code:
        return
    if hub_file(path, GENERATE_FILE) is not None:
        what = f"{GENERATE_FILE} is Python code, which would replace the model's own generate"
        raise UserError(f"{path}: {what}; pass --allow-code to run it, or remove it")
    for name in SETTINGS_FILES:
        file = hub_file(path, name)
        key = None if file is None else _code_setting(file)
        if key is not None:
            what = f"{name} names Python code ({key}) that comes with the model"
            raise UserError(f"{path}: {what}; pass --allow-code to run it, or remove that entry")


def _code_setting(file: Path) -> str | None:
    """Return the first key of a settings file that makes transformers or peft run code, None if there is none."""
    try:
        settings = json.loads(file.read_text(encoding="utf-8"))
    except ValueError:
        return None  # damaged: reported when the file is loaded
    for key, value in _entries(settings):
        if key in CODE_SETTINGS and CODE_SETTINGS[key](value):
            return key
    return None


def _entries(settings: Any) -> Iterator[tuple[str, Any]]:
    """Yield every key with its value, including nested settings (of a model's parts)."""
    if isinstance(settings, dict):
        for key, value in settings.items():
            yield key, value
            yield from _entries(value)
    elif isinstance(settings, list):
        for value in settings:
            yield from _entries(value)
