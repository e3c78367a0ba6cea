"""Converted models on disk: in the user's cache, keyed by everything that they depend on, with what was proved of them.

An entry is a folder in CTranslate2's format with a record of its rules and proofs. It appears when it is complete, and
is made again if it is damaged or of another version.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from hashlib import sha256
from importlib import metadata
from pathlib import Path
from typing import Any

from filelock import FileLock

from mtcpo.core.cache import explained_if_full, forget_old, user_cache
from mtcpo.core.files import complete_folder, write_json
from mtcpo.core.hub import hub_file
from mtcpo.core.progress import Progress, detail
from mtcpo.models.adapters import adapters_base
from mtcpo.models.loading import LoadedModel
from mtcpo.models.names import resolve_model_name
from mtcpo.translation.engines.base import SAMPLE
from mtcpo.translation.engines.ctranslate2_conversion import CONVERSION, convert
from mtcpo.translation.engines.ctranslate2_proof import Proof
from mtcpo.translation.engines.ctranslate2_search import Rules

LOG = logging.getLogger(__name__)

CONTENT = "a model converted for CTranslate2"

RECORD = "mtcpo.json"

PACKAGES = ("ctranslate2", "transformers")
"""Packages whose versions determine a converted model."""


@dataclass(slots=True)
class Converted:
    """A converted model in a folder. proofs: by language pair, `en-de`."""

    folder: Path
    rules: Rules
    proofs: dict[str, Proof] = field(default_factory=dict)

    def add_proof(self, pair: str, proof: Proof) -> None:
        """Keep a proof for later commands, if it rests on enough sources."""
        self.proofs[pair] = proof
        # A proof on three sources serves a job of three, but says little about the next one.
        if proof.sources >= SAMPLE:
            self.write()

    def write(self) -> None:
        """Write the record."""
        kept = {pair: asdict(proof) for pair, proof in self.proofs.items() if proof.sources >= SAMPLE}
        record = {"rules": asdict(self.rules), "sizes": _sizes(self.folder), "proofs": kept}
        write_json(self.folder / RECORD, record)


def _sizes(folder: Path) -> dict[str, int]:
    files = sorted(path for path in folder.iterdir() if path.is_file() and not path.name.startswith("."))
    return {path.name: path.stat().st_size for path in files if path.name != RECORD}


def write_converted(loaded: LoadedModel, folder: Path, precision: str) -> Converted:
    """Convert a model into a folder, and write its record."""
    with Progress(f"converting {Path(loaded.name).name} for CTranslate2", unit=""):
        convert(loaded, folder, precision)
    converted = Converted(folder, Rules.of(loaded))
    converted.write()
    return converted


def cached(name: str, precision: str, load: Callable[[], LoadedModel]) -> Converted:
    """Return the converted model of a directory or hub name, from the cache if possible.

    load: loads the model with its weights.
    """
    models = user_cache(CONTENT) / "ctranslate2"
    folder = models / _key(name, precision)
    folder.parent.mkdir(exist_ok=True)
    # Of several processes that start at the same time, one converts and the others wait.
    with FileLock(models / f"{folder.name}.lock"), explained_if_full(CONTENT):
        converted = _read(folder)
        if converted is None:
            forget_old((record.parent, record) for record in models.glob(f"*/{RECORD}"))
            loaded = load()
            with complete_folder(folder) as partial:
                write_converted(loaded, partial, precision)
            converted = _read(folder)
            assert converted is not None
        os.utime(folder / RECORD)  # the time of last use, for `forget_old`
        detail(f"converted model: {folder}")
        return converted


def _read(folder: Path) -> Converted | None:
    """Return an entry; None if it does not exist or is damaged (which is logged)."""
    if not folder.exists():
        return None
    try:
        record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
        rules = Rules.from_json(record["rules"])
        proofs = {pair: Proof(**proof) for pair, proof in record["proofs"].items()}
        # Sizes, not hashes: a model of several gigabytes should not be read twice at every start.
        if record["sizes"] == _sizes(folder):
            return Converted(folder, rules, proofs)
        reason = "its files have other sizes"
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        reason = str(error)
    LOG.warning("%s: the converted model in it is damaged (%s); converting it again", folder, reason)
    return None


def _key(name: str, precision: str) -> str:
    versions = [f"{package} {metadata.version(package)}" for package in PACKAGES]
    parts = [CONVERSION, *versions, precision, *_model_files(resolve_model_name(name))]
    return sha256(json.dumps(parts).encode()).hexdigest()


def _model_files(path: str) -> list[Any]:
    """Return what changes when a model's weights or settings do: its files with sizes and times, its base's too.

    A model without a canary has no better fingerprint: weights trained further have the same names and sizes.
    """
    config = hub_file(path, "config.json") or hub_file(path, "adapter_config.json")
    if config is None:
        return [path]
    files: list[Any] = []
    for file in sorted(filter(Path.is_file, config.parent.iterdir())):
        # A name on the hub has links to files named by their hash.
        status = file.stat()
        files.append([str(file), status.st_size, status.st_mtime_ns])
    base = adapters_base(path)
    return files if base is None else files + _model_files(resolve_model_name(base))
