"""Load a COMET model: check weights, tokenizer and encoder, and silence COMET's logging.

COMET's own `load_from_checkpoint` silently accepts what is refused here: a checkpoint with missing layers, which are
then random, and an empty tokenizer.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import inspect
import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mtcpo.core.errors import UserError, choose, counted
from mtcpo.core.hub import hub_folder
from mtcpo.metrics.comet.checkpoint import CLASSES, WAY_OUT, class_of, read_checkpoint, read_hparams

INSTALL = "install it with: pip install 'mtcpo[comet]', or alongside transformers 5 as described in docs/pairs.md"
# transformers 5.0 tokenizes some lines differently; 5.17 and 5.23 gave the tokens of 4.57 for 24,000 lines of WMT.
FIRST_OF_TRANSFORMERS_5 = (5, 17)
# XLM-R-XL has 250,002 tokens for 250,880 embeddings; an empty tokenizer has five.
MIN_TOKENIZER_SHARE = 0.9
TOKENIZER_OF_MINILM = "xlm-roberta-base"
"""COMET loads MiniLM's tokenizer from this repository, whatever is beside the encoder's config."""
SOME_TEXT = "1 2 3 4 5 6 7 8"
ENCODER_FILES = ["config.json", "tokenizer*", "sentencepiece*", "special_tokens_map.json", "vocab*"]


@dataclass(frozen=True)
class Environment:
    """The environment of an interpreter: COMET's version, the number of GPUs, and whether they have bfloat16."""

    comet: str
    gpus: int
    bf16: bool


def environment() -> Environment:
    """Return the environment of this interpreter.

    Raises:
        UserError: COMET is not installed, or the installed transformers tokenizes differently.
    """
    if importlib.util.find_spec("comet") is None:
        raise UserError(
            f"COMET is not installed; {INSTALL}; or name the Python of an environment that has it with --comet-python"
        )
    version = importlib.metadata.version("transformers")
    major, minor = (int(part) for part in version.split(".")[:2])
    if (5, 0) <= (major, minor) < FIRST_OF_TRANSFORMERS_5:
        raise UserError(
            f"transformers {version} tokenizes some texts differently from COMET's training; install 4.57, "
            "or 5.17 or later"
        )
    import torch

    gpus = torch.cuda.device_count()
    return Environment(importlib.metadata.version("unbabel-comet"), gpus, gpus > 0 and torch.cuda.is_bf16_supported())


def load_model(checkpoint: Path) -> Any:
    """Return the COMET model of a checkpoint, in float32 on the CPU, in evaluation mode.

    Raises:
        UserError: COMET cannot be imported, the file is not a COMET checkpoint, tensors are missing, the tokenizer is
            empty, or the encoder is of an unknown kind.
    """
    with quiet():
        try:
            import comet.models
        except Exception as error:  # with other versions of its dependencies, its import fails in many ways
            raise UserError(f"COMET cannot be imported here ({type(error).__name__}: {error}); {INSTALL}") from error
        cls = getattr(comet.models, CLASSES[class_of(checkpoint)])
        return _build(cls, read_checkpoint(checkpoint), checkpoint).eval().float()


@contextmanager
def quiet() -> Iterator[None]:
    """Silence warnings and progress lines inside the block, and undo COMET's changes to logging."""
    # Importing COMET calls logging.basicConfig, which would print the messages of every other package.
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    levels: dict[logging.Logger, int] = {}
    for name in ("comet", "pytorch_lightning", "bitsandbytes"):
        logger = logging.getLogger(name)
        levels[logger] = logger.level
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        root.handlers[:], root.level = handlers, level
        for logger, before in levels.items():
            logger.setLevel(before)


def _build(cls: Any, content: Mapping[str, Any], checkpoint: Path) -> Any:
    """Build the model and load its weights; the encoder's are in the checkpoint too."""
    encoder = _encoder_folder(content["hyper_parameters"], checkpoint)
    arguments = content["hyper_parameters"] | {
        "pretrained_model": str(encoder),
        "load_pretrained_weights": False,
        "local_files_only": True,
    }
    if read_hparams(checkpoint.parents[1] / "hparams.yaml").get("layer_transformation") == "sparsemax_patch":
        arguments["layer_transformation"] = "softmax"  # COMET since 2.2.4 treats this name as softmax
    _check_encoder(content["hyper_parameters"].get("encoder_model"), checkpoint)
    # Checkpoints of older releases have hyperparameters that the class no longer accepts.
    parameters = inspect.signature(cls.__init__).parameters
    model = cls(**{key: value for key, value in arguments.items() if key in parameters})
    missing = model.load_state_dict(content["state_dict"], strict=False).missing_keys
    if missing:
        shown = ", ".join(missing[:5])
        raise UserError(f"{checkpoint}: {counted(len(missing), 'tensor')} missing, which would be random: {shown}")
    _check_tokenizer(model.encoder, encoder)
    _check_pass(model.encoder, encoder)
    return model


def _check_encoder(name: Any, checkpoint: Path) -> None:
    """Refuse an unknown encoder; for MiniLM, fetch the tokenizer, which COMET loads from another repository."""
    from comet.encoders import str2encoder

    if name not in str2encoder:
        raise choose(f"encoder of {checkpoint}", str(name), str2encoder)
    if name == "MiniLM" and not Path(TOKENIZER_OF_MINILM).is_dir():
        hub_folder(TOKENIZER_OF_MINILM, _has_encoder, WAY_OUT, ENCODER_FILES)


def _encoder_folder(hyper_parameters: Mapping[str, Any], checkpoint: Path) -> Path:
    """Return the folder of the encoder's config and tokenizer, which are not in the checkpoint."""
    name = str(hyper_parameters.get("pretrained_model"))
    if not name.startswith(("/", ".")) and not Path(name).is_dir():
        return hub_folder(name, _has_encoder, WAY_OUT, ENCODER_FILES)
    if not _has_encoder(Path(name)):
        raise UserError(f"{checkpoint}: its encoder's config.json and tokenizer.json are missing in {name}")
    return Path(name)


def _has_encoder(folder: Path) -> bool:
    vocabularies = [folder / name for name in ("tokenizer.json", "sentencepiece.bpe.model", "vocab.txt")]
    return (folder / "config.json").is_file() and any(map(Path.is_file, vocabularies))


def _check_tokenizer(encoder: Any, folder: Path) -> None:
    """Refuse the empty tokenizer that some releases of transformers create if its files are missing."""
    size, vocabulary = len(encoder.tokenizer), encoder.model.config.vocab_size
    if size < MIN_TOKENIZER_SHARE * vocabulary:
        raise UserError(
            f"{folder}: its tokenizer has {size} tokens, but the model has {vocabulary}; "
            "put tokenizer.json or sentencepiece.bpe.model there"
        )


def _check_pass(encoder: Any, folder: Path) -> None:
    """Refuse an encoder whose states our forward pass does not reproduce, for example one with relative positions."""
    import torch

    from mtcpo.metrics.comet.encoder import is_known

    model = encoder.model.eval().float()
    with torch.inference_mode():
        if not is_known(model, torch.tensor([encoder.tokenizer(SOME_TEXT)["input_ids"]])):
            raise UserError(
                f"{folder}: this encoder ({model.config.model_type}) is not supported; "
                "score with comet-score, and give its scores as a column"
            )
