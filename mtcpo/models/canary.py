"""The canary: a few ids and their log-probabilities, checked at every load and written beside every model we save.

Another library version, a lost tensor or a wrong tokenizer shows before an hour is spent.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import send_to_device
from torch import Tensor

from mtcpo.core.errors import UserError, first_line
from mtcpo.models.families import Family, any_language, language_token
from mtcpo.models.head.hooks import Head
from mtcpo.models.head.targets import IGNORE
from mtcpo.models.layouts.base import Batch, Layout
from mtcpo.models.prompts import TextExample

CANARY_FILE = "canary.json"

LOG = logging.getLogger(__name__)

TOLERANCE = 1e-3
"""Largest difference of a token's log-probability, in nats, that float32 on another machine may show."""

HALF_TOLERANCE = 0.25
"""The same between two paths through one model in half precision, whose logits are rounded to 2 to 3 digits."""

TEXTS = (
    ("A small house stands by the river.", "Ein kleines Haus steht am Fluss."),
    ("She reads.", "Sie liest ein altes Buch über die Sterne."),
    # Signs that tokenizers write otherwise, or not at all: a normalizer that got lost shows here.
    ("A ﬁne  day: ½ off!", "Ａ  ﬂacher „Tag“…"),
)

FIRST_TEXTS = 2
"""How many of them a canary without "texts" has: those of version 0.1."""


def check_canary(name: str, model: Any, layout: Layout, family: Family, head: Head, folder: Path) -> Head:
    """Compare the head path with the model's own logits, and the model with the canary in its folder, if any.

    Returns:
        The head to use: `head`, or where it differs from the model's own logits, one that takes those.

    Raises:
        UserError: the model or its tokenizer is not what the canary was written with.
    """
    path = folder / CANARY_FILE
    saved: dict[str, Any] = {"src_lang": "en", "tgt_lang": "de", "texts": len(TEXTS)}
    if path.exists():
        saved = {"texts": FIRST_TEXTS} | json.loads(path.read_text(encoding="utf-8"))
    batch = _batch(layout, family, saved["src_lang"], saved["tgt_lang"], model.device, saved["texts"])
    head, ours = _trusted(name, model, layout, head, batch)
    if "logps" in saved:
        _compare(batch, ours, saved, f"{path} (written by transformers {saved['transformers']})", model.dtype)
    return head


def _trusted(name: str, model: Any, layout: Layout, head: Head, batch: Batch) -> tuple[Head, Tensor]:
    """Return the first head that agrees with the model's own logits, the cheapest first, and its log-probabilities."""
    tolerance = TOLERANCE if model.dtype == torch.float32 else HALF_TOLERANCE
    reason = ""
    for positions in ("none", "real", "all"):
        candidate = replace(head, logits_mode=positions)
        try:
            ours, own = head_and_model_logps(model, layout, candidate, batch)
        except RuntimeError as error:
            if positions == "all":
                raise
            reason = reason or f"its forward pass needs every position ({first_line(error)})"
            continue
        difference = float((ours - own).abs().max())
        if difference <= tolerance:
            if positions != "none":
                LOG.warning(
                    f"{name}: {reason}; the model's own logits are used, all of them at once, which takes more memory. "
                    "See transform_of in mtcpo/models/loading.py"
                )
            return candidate, ours
        reason = reason or f"log-probabilities by the head differ from the model's own by {difference:.3g} nats"
    raise UserError(f"{name}: the log-probabilities of the canary's text are no numbers")


def write_canary(model: Any, layout: Layout, family: Family, head: Head, folder: Path, src: str, tgt: str) -> None:
    """Write the canary of a float32 model into its folder; `src` and `tgt` are BCP-47."""
    import transformers

    batch = _batch(layout, family, src, tgt, model.device, len(TEXTS))
    canary = {
        "src_lang": src, "tgt_lang": tgt, "texts": len(TEXTS),
        "input_ids": batch["input_ids"].tolist(), "labels": batch["labels"].tolist(),
        "logps": head_and_model_logps(model, layout, head, batch)[0].tolist(),
        "transformers": transformers.__version__, "torch": torch.__version__,
    }  # fmt: skip
    (folder / CANARY_FILE).write_text(json.dumps(canary) + "\n", encoding="utf-8")


def head_and_model_logps(model: Any, layout: Layout, head: Head, batch: Batch) -> tuple[Tensor, Tensor]:
    """Return token log-probabilities (R, T) by the tapped head and by the model's own logits, without dropout."""
    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            scored = layout.score(model, head, batch)
            logits = layout.model_logits(model, batch).float()
    finally:
        model.train(training)
    labels = batch["labels"]
    own = torch.log_softmax(logits[:, : labels.shape[1]], -1).gather(2, labels.clamp(min=0)[..., None]).squeeze(2)
    return scored.token_logps, own.masked_fill(labels == IGNORE, 0.0)


def _batch(layout: Layout, family: Family, src: str, tgt: str, device: torch.device, count: int) -> Batch:
    # As prompts, not as sources: a template is a setting, and no part of the model.
    src, tgt = _known(src, tgt, family, layout.tokenizer)
    texts = [TextExample(source, src, tgt, (target,), prompt=source) for source, target in TEXTS[:count]]
    moved: Batch = send_to_device(layout.collate(layout.encode(texts)), device)
    return moved


def _known(src: str, tgt: str, family: Family, tokenizer: Any) -> tuple[str, str]:
    """Return the languages if the model has them, else one of its own for both: the same at every load."""
    if family.language_code is None:
        return src, tgt
    tokens = tokenizer.get_vocab()
    try:
        language_token(family, tgt, tokens)
        if family.target_code:
            language_token(family, src, tokens)
    except UserError:
        return (any_language(family, tokens),) * 2
    return src, tgt


def _compare(batch: Batch, ours: Tensor, saved: Mapping[str, Any], where: str, dtype: torch.dtype) -> None:
    if saved["input_ids"] != batch["input_ids"].tolist() or saved["labels"] != batch["labels"].tolist():
        raise UserError(
            f"{where}: the tokenizer no longer produces the token ids saved with this model: it is a different "
            "tokenizer or version"
        )
    if dtype != torch.float32:
        return  # Half precision differs from the float32 canary by more than any fault worth finding.
    difference = float((ours.cpu() - torch.tensor(saved["logps"])).abs().max())
    if not difference <= TOLERANCE:
        raise UserError(
            f"{where}: the model's log-probabilities differ by {difference:.3g} nats from those it was saved with; "
            "a lost tensor, or a library version that reads it otherwise"
        )
