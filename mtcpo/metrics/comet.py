"""COMET through the models of the `comet` library (unbabel-comet): estimators with and without references, XCOMET.

The library's model does the tokenizing and the arithmetic. Loading and batching are ours, because the library's own
`predict` and `load_from_checkpoint` take silently what must be refused: layers that the checkpoint lacks, tokenizers
that are empty, references that only some rows have. Nor do its Trainer's signal handlers and its log lines reach us.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import inspect
import logging
import pickle
import re
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mtcpo.errors import UserError, choose
from mtcpo.files import sha256_of
from mtcpo.records import Segment

MODEL_FILE = "checkpoints/model.ckpt"
INSTALL = "install it with: pip install 'mtcpo[comet]'"
ROWS_PER_BATCH = {"cpu": 16, "cuda": 64}
# XLM-R-XL has 250,002 tokens for 250,880 rows of its table; an empty tokenizer has five.
MIN_TOKENIZER_SHARE = 0.9
ENCODER_FILES = ["config.json", "tokenizer*", "sentencepiece*", "special_tokens_map.json", "vocab*"]

CLASSES = {
    "regression_metric": "RegressionMetric",
    "referenceless_regression_metric": "ReferencelessRegression",
    "unified_metric": "UnifiedMetric",
    "xcomet_metric": "XCOMETMetric",
}
"""class_identifier of hparams.yaml -> class in comet.models."""


@dataclass(frozen=True, slots=True)
class CometMetric:
    """A loaded COMET model. See `Metric` for the contract; the score with several references is the mean over them.

    weights: sha256 of the checkpoint file. device: where the model is, "cpu" or "cuda".
    """

    name: str
    checkpoint: str
    class_identifier: str
    weights: str
    device: str
    needs_references: bool
    model: Any
    higher_is_better: bool = True
    percent: bool = False

    def signature(self, num_references: int, sentence: bool = False) -> str:
        """Return model, class, library version, hash of the weights and precision; sentence changes nothing."""
        references = {-1: "var"}.get(num_references, num_references) if self.needs_references else 0
        version = importlib.metadata.version("unbabel-comet")
        return (
            f"nrefs:{references}|model:{self.checkpoint}|class:{self.class_identifier}"
            f"|weights:{self.weights[:12]}|precision:fp32|comet:{version}"
        )

    def score_candidates(self, segments: Sequence[Segment]) -> list[list[float]]:
        """Return the score of each candidate of each segment; equal rows are computed once."""
        groups = [[self._rows(c.text, segment) for c in segment.candidates] for segment in segments]
        rows = dict.fromkeys(row for group in groups for candidate in group for row in candidate)
        scores = dict(zip(rows, self._predict(list(rows)), strict=True))
        return [[sum(scores[row] for row in rows) / len(rows) for rows in group] for group in groups]

    def statistics(self, hypotheses: Sequence[str], segments: Sequence[Segment]) -> NDArray[np.float64]:
        """Return (score, 1) of each hypothesis. Shape (N, 2)."""
        groups = [self._rows(text, segment) for text, segment in zip(hypotheses, segments, strict=True)]
        rows = dict.fromkeys(row for group in groups for row in group)
        scores = dict(zip(rows, self._predict(list(rows)), strict=True))
        means = [sum(scores[row] for row in group) / len(group) for group in groups]
        return np.stack([np.array(means, dtype=np.float64), np.ones(len(means))], axis=1)

    def corpus_score(self, sums: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the mean score of summed statistics. Shape (..., 2) -> (...)."""
        score: NDArray[np.float64] = sums[..., 0] / sums[..., 1]
        return score

    def segment_scores(self, statistics: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the score of each segment. Shape (N, 2) -> (N,)."""
        return self.corpus_score(statistics)

    def _rows(self, hypothesis: str, segment: Segment) -> list[tuple[str, ...]]:
        """Return the (source, hypothesis[, reference]) rows whose mean is the score of a hypothesis."""
        if not self.needs_references:
            return [(segment.source, hypothesis)]
        if not segment.references or not all(reference.strip() for reference in segment.references):
            what = "an empty reference" if segment.references else "no reference"
            raise UserError(
                f"segment {segment.id}: {what}; {self.name} ({self.checkpoint}) needs one for every segment, "
                "or choose --metric cometkiwi"
            )
        return [(segment.source, hypothesis, reference) for reference in segment.references]

    def _predict(self, rows: Sequence[tuple[str, ...]]) -> list[float]:
        """Score rows in batches of like length. float32, no dropout; in the order of `rows`."""
        import torch

        order = sorted(range(len(rows)), key=lambda index: sum(map(len, rows[index])), reverse=True)
        scores = [0.0] * len(rows)
        size = ROWS_PER_BATCH[self.device]
        for start in range(0, len(order), size):
            indices = order[start : start + size]
            samples = [dict(zip(("src", "mt", "ref"), rows[index], strict=False)) for index in indices]
            batch = self.model.prepare_sample(samples, stage="predict")
            with torch.inference_mode():
                batch = self.model.transfer_batch_to_device(batch, torch.device(self.device), 0)
                found = self.model.predict_step(batch).scores.float().tolist()
            for index, score in zip(indices, found, strict=True):
                scores[index] = score
        return scores


def load_comet(name: str, location: str) -> CometMetric:
    """Load a COMET model from a directory, a .ckpt file in its directory, or a hub name.

    Raises:
        UserError: the library is not installed, a file is missing, the pickle holds more than tensors and plain
            values, layers are missing, or the tokenizer is empty.
    """
    with _quiet():
        models = _import_models()
        import torch

        checkpoint = find_checkpoint(location)
        hparams = _read_hparams(checkpoint.parents[1] / "hparams.yaml")
        identifier = str(hparams.get("class_identifier", ""))
        if identifier not in CLASSES:
            raise choose(f"COMET class in {checkpoint.parents[1] / 'hparams.yaml'}:", identifier, CLASSES)
        content = _read_checkpoint(checkpoint)
        model = _build(getattr(models, CLASSES[identifier]), content, hparams, checkpoint)
        device = "cuda" if torch.cuda.is_available() else "cpu"
        model.eval().float().to(device)
    segments = getattr(model.hparams, "input_segments", ["ref"])
    return CometMetric(
        name=name,
        checkpoint=Path(location).name if Path(location).exists() else location,
        class_identifier=identifier,
        weights=sha256_of(checkpoint),
        device=device,
        needs_references=identifier != "referenceless_regression_metric" and "ref" in segments,
        model=model,
    )


@contextmanager
def _quiet() -> Iterator[None]:
    """Undo what importing and loading do to logging, and hold back their warnings and progress lines."""
    root, noisy = logging.getLogger(), [logging.getLogger(name) for name in ("comet", "pytorch_lightning")]
    handlers, level, levels = root.handlers[:], root.level, [logger.level for logger in noisy]
    for logger in noisy:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        root.handlers[:], root.level = handlers, level
        for logger, before in zip(noisy, levels, strict=True):
            logger.setLevel(before)


def _import_models() -> Any:
    if importlib.util.find_spec("comet") is None:
        raise UserError(f"COMET is not installed; {INSTALL}")
    transformers = importlib.metadata.version("transformers")
    if int(transformers.partition(".")[0]) >= 5:
        raise UserError(
            f"COMET does not run beside transformers {transformers}; in an environment of its own, {INSTALL}"
        )
    try:
        import comet.models
    except Exception as error:  # beside libraries that it does not expect, its import fails in many ways
        raise UserError(f"COMET does not import here ({type(error).__name__}: {error}); {INSTALL}") from error
    return comet.models


def find_checkpoint(location: str) -> Path:
    """Return the .ckpt file of a directory (`hparams.yaml`, `checkpoints/model.ckpt`), a .ckpt file or a hub name.

    Raises:
        UserError: it is not there, or the hub's repository is neither in the cache nor to be fetched.
    """
    path = Path(location)
    if path.suffix != ".ckpt":
        if not path.is_dir() and location.startswith(("/", ".", "~")):
            raise UserError(f"{location}: no such directory; a COMET directory has hparams.yaml and {MODEL_FILE}")
        folder = path if path.is_dir() else hub_folder(location, lambda folder: (folder / MODEL_FILE).is_file())
        path = folder / MODEL_FILE
    if not path.is_file():
        raise UserError(f"{path}: no such file; a COMET directory has hparams.yaml and checkpoints/model.ckpt")
    # Not resolved: in the hub's cache it is a link, and hparams.yaml lies beside the link.
    return path.absolute()


def hub_folder(name: str, complete: Callable[[Path], bool], patterns: list[str] | None = None) -> Path:
    """Return the local folder of a hub repository; one that is complete in the cache without asking the network.

    patterns: which files to fetch; None: all.

    Raises:
        UserError: not in the cache, and it cannot be fetched.
    """
    from huggingface_hub import snapshot_download

    try:
        folder = Path(snapshot_download(name, local_files_only=True))
        if complete(folder):
            return folder
    except (FileNotFoundError, ValueError):
        pass  # not in the cache, or no name of a repository: the attempt below says which
    try:
        return Path(snapshot_download(name, allow_patterns=patterns))
    except Exception as error:  # the hub's and the network's errors are some twenty kinds
        reason = str(error).strip().partition("\n")[0]
        raise UserError(
            f"{name}: not a directory here, not in the hub's cache, and it cannot be fetched "
            f"({type(error).__name__}: {reason}); fetch it elsewhere (hf download) and give its directory: comet:PATH"
        ) from error


def _read_hparams(path: Path) -> dict[str, str]:
    """Return the plain top-level values of hparams.yaml: the library reads one or two of them, no YAML is needed."""
    if not path.is_file():
        raise UserError(f"{path}: no such file; it lies beside checkpoints/ and says the class of a COMET model")
    text = path.read_text(encoding="utf-8", errors="replace")
    return dict(re.findall(r"^(\w+):[ ]*[\"']?([\w.-]+)[\"']?[ ]*$", text, flags=re.MULTILINE))


def _read_checkpoint(path: Path) -> dict[str, Any]:
    """Return the checkpoint's content. weights_only: a pickle could run any code."""
    import torch

    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except pickle.UnpicklingError as error:
        reason = str(error).strip().partition("\n")[0]
        raise UserError(f"{path}: refused, its pickle holds more than tensors and plain values ({reason})") from None
    except (RuntimeError, EOFError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise UserError(f"{path}: not a readable checkpoint ({reason}); fetch it again") from None
    if not isinstance(content, dict) or not {"state_dict", "hyper_parameters"} <= content.keys():
        raise UserError(f"{path}: not a COMET checkpoint: it has no state_dict and hyper_parameters")
    return content


def _build(cls: Any, content: Mapping[str, Any], hparams: Mapping[str, Any], checkpoint: Path) -> Any:
    """Make the model and fill in its weights; the encoder's own weights are part of the checkpoint."""
    encoder = _encoder_folder(content["hyper_parameters"], checkpoint)
    arguments = content["hyper_parameters"] | {
        "pretrained_model": str(encoder),
        "load_pretrained_weights": False,
        "local_files_only": True,
    }
    if hparams.get("layer_transformation") == "sparsemax_patch":
        arguments["layer_transformation"] = "softmax"  # as the library reads that mark since 2.2.4
    known = inspect.signature(cls.__init__).parameters
    model = cls(**{key: value for key, value in arguments.items() if key in known})
    missing = model.load_state_dict(content["state_dict"], strict=False).missing_keys
    if missing:
        shown = ", ".join(missing[:5])
        raise UserError(f"{checkpoint}: {len(missing)} tensors are missing and would be random: {shown}")
    _check_tokenizer(model.encoder, encoder)
    return model


def _encoder_folder(hyper_parameters: Mapping[str, Any], checkpoint: Path) -> Path:
    """Return the folder with the encoder's config and tokenizer, which are not in the checkpoint."""
    name = str(hyper_parameters.get("pretrained_model"))
    if not name.startswith(("/", ".")) and not Path(name).is_dir():
        return hub_folder(name, _has_encoder, ENCODER_FILES)
    if not _has_encoder(Path(name)):
        raise UserError(
            f"{checkpoint}: its encoder's config.json and tokenizer.json are needed in {name}, and are not there"
        )
    return Path(name)


def _has_encoder(folder: Path) -> bool:
    vocabularies = ("tokenizer.json", "sentencepiece.bpe.model", "vocab.txt")
    return (folder / "config.json").is_file() and any((folder / name).is_file() for name in vocabularies)


def _check_tokenizer(encoder: Any, folder: Path) -> None:
    """Refuse the empty tokenizer that some versions load, without a word, where its files are missing."""
    size, vocabulary = len(encoder.tokenizer), encoder.model.config.vocab_size
    if size < MIN_TOKENIZER_SHARE * vocabulary:
        raise UserError(
            f"{folder}: its tokenizer has {size} tokens, but the model has {vocabulary}; "
            "put tokenizer.json or sentencepiece.bpe.model there"
        )
