"""COMET checkpoints on disk: find them, and read their class and settings without loading the model."""

from __future__ import annotations

import pickle
import re
from pathlib import Path
from typing import Any

from mtcpo.core.errors import UserError, choose, first_line
from mtcpo.core.hub import hub_folder

MODEL_FILE = "checkpoints/model.ckpt"

CLASSES = {
    "regression_metric": "RegressionMetric",
    "referenceless_regression_metric": "ReferencelessRegression",
    "unified_metric": "UnifiedMetric",
    "xcomet_metric": "XCOMETMetric",
}
"""class_identifier of hparams.yaml -> class in comet.models."""


WAY_OUT = "download it on another machine (hf download) and give its directory: comet:PATH"
"""What a user can do if a model cannot be fetched from the hub."""


def find_checkpoint(location: str) -> Path:
    """Return the .ckpt file of a directory (`hparams.yaml`, `checkpoints/model.ckpt`), a .ckpt file or a hub name.

    Raises:
        UserError: It does not exist, or the repository is not in the hub's cache and cannot be fetched.
    """
    path = Path(location)
    if path.suffix != ".ckpt":
        if not path.is_dir() and location.startswith(("/", ".", "~")):
            raise UserError(f"{location}: no such directory; a COMET directory has hparams.yaml and {MODEL_FILE}")
        folder = path if path.is_dir() else hub_folder(location, _has_model, WAY_OUT)
        path = folder / MODEL_FILE
    if not path.is_file():
        raise UserError(f"{path}: no such file; a COMET directory has hparams.yaml and checkpoints/model.ckpt")
    # absolute, not resolve: in the hub's cache, the file is a link, and hparams.yaml is beside the link.
    return path.absolute()


def _has_model(folder: Path) -> bool:
    return (folder / MODEL_FILE).is_file()


def class_of(checkpoint: Path) -> str:
    """Return the class_identifier in the hparams.yaml of a checkpoint.

    Raises:
        UserError: No such file, or an unknown class.
    """
    path = checkpoint.parents[1] / "hparams.yaml"
    identifier = read_hparams(path).get("class_identifier", "")
    if identifier not in CLASSES:
        raise choose(f"COMET class in {path}:", identifier, CLASSES)
    return identifier


def read_hparams(path: Path) -> dict[str, str]:
    """Return the plain top-level values of hparams.yaml.

    One or two of them are needed, and the other environment may have no YAML parser.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such file; it belongs beside checkpoints/ and names the class of a COMET model")
    text = path.read_text(encoding="utf-8", errors="replace")
    return dict(re.findall(r"^(\w+):[ ]*[\"']?([\w.-]+)[\"']?[ ]*$", text, flags=re.MULTILINE))


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Return the checkpoint's content; tensors are memory-mapped.

    Raises:
        UserError: Not a checkpoint, damaged, or with other objects than tensors and plain values.
    """
    import torch

    # weights_only: unpickling other objects could run code. mmap: reading the hyperparameters then loads no gigabytes.
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except pickle.UnpicklingError as error:
        reason = first_line(error)
        raise UserError(f"{path}: refused, its pickle holds more than tensors and plain values ({reason})") from None
    except (RuntimeError, EOFError) as error:
        reason = first_line(error)
        raise UserError(f"{path}: not a readable checkpoint ({reason}); download it again") from None
    if not isinstance(content, dict) or not {"state_dict", "hyper_parameters"} <= content.keys():
        raise UserError(f"{path}: not a COMET checkpoint: it has no state_dict and hyper_parameters")
    return content


def needs_references(identifier: str, hyper_parameters: Any) -> bool:
    """Whether a model's score depends on references: for estimators, by class; for others, by their input segments."""
    if identifier == "unified_metric":
        return "ref" in hyper_parameters.get("input_segments", ("mt", "src", "ref"))
    return identifier != "referenceless_regression_metric"


def finds_error_spans(identifier: str, hyper_parameters: Any) -> bool:
    """Whether a model labels the words of a translation: XCOMET, and unified models trained for it."""
    return identifier == "xcomet_metric" or bool(hyper_parameters.get("word_level_training"))
