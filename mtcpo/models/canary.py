"""The canary: a few token ids and their log-probabilities, saved with every model.

It is compared at every load, so that another version of transformers, a lost tensor or a wrong tokenizer shows before
hours are spent. Models without a canary are checked too: the head's log-probabilities against the model's own logits.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import torch
from accelerate.utils import send_to_device
from torch import Tensor

from mtcpo.core.errors import UserError, first_line
from mtcpo.models.families import Family
from mtcpo.models.head.hooks import Head, LogitsMode
from mtcpo.models.head.targets import IGNORE
from mtcpo.models.layouts.base import Batch, Layout
from mtcpo.models.prompts import TextExample
from mtcpo.models.tokenizers import any_language, language_token

CANARY_FILE = "canary.json"

LOG = logging.getLogger(__name__)

TOLERANCE = 1e-3
"""Largest accepted difference of a token's log-probability, in nats, in float32 between machines."""

HALF_TOLERANCE = 0.25
"""The same for two computations of one model in half precision, whose logits have 2 to 3 digits."""

TEXTS = (
    ("A small house stands by the river.", "Ein kleines Haus steht am Fluss."),
    ("She reads.", "Sie liest ein altes Buch über die Sterne."),
    # Characters that a normalizer changes: reveals a lost normalizer.
    ("A ﬁne  day: ½ off!", "Ａ  ﬂacher „Tag“…"),
)

FIRST_TEXTS = 2
"""Number of texts in canaries without the field "texts", which early versions wrote."""


def check_canary(name: str, model: Any, layout: Layout, family: Family, head: Head, folder: Path) -> Head:
    """Compare the head with the model's own logits, and the model with the canary in its folder, if any.

    Returns:
        The head to use: `head`, or one that reads the model's own logits if `head` disagrees with them.

    Raises:
        UserError: the model or its tokenizer differs from when the canary was written.
    """
    path = folder / CANARY_FILE
    saved: dict[str, Any] = {"src_lang": "en", "tgt_lang": "de", "texts": len(TEXTS)}
    if path.exists():
        saved = {"texts": FIRST_TEXTS} | json.loads(path.read_text(encoding="utf-8"))
    batch = _batch(layout, family, saved["src_lang"], saved["tgt_lang"], model.device, saved["texts"])
    head, head_logps = _agreeing_head(name, model, layout, head, batch)
    if "logps" in saved:
        _compare(batch, head_logps, saved, f"{path} (written by transformers {saved['transformers']})", model.dtype)
    return head


def _agreeing_head(name: str, model: Any, layout: Layout, head: Head, batch: Batch) -> tuple[Head, Tensor]:
    """Return the cheapest head that agrees with the model's own logits, and its log-probabilities (R, T)."""
    tolerance = TOLERANCE if model.dtype == torch.float32 else HALF_TOLERANCE
    reason = ""
    for mode in get_args(LogitsMode):
        candidate = replace(head, logits_mode=mode)
        try:
            head_logps, model_logps = head_and_model_logps(model, layout, candidate, batch)
        except RuntimeError as error:
            if mode == "all":
                raise
            # For example a model that slices its logits by position, although there are fewer or none.
            reason = reason or f"its forward pass needs every position ({first_line(error)})"
            continue
        difference = float((head_logps - model_logps).abs().max())
        if difference <= tolerance:
            if mode != "none":
                LOG.warning(
                    f"{name}: {reason}; the model's own logits are used, all of them at once, which takes more memory. "
                    "See transform_of in mtcpo/models/loading.py"
                )
            return candidate, head_logps
        reason = reason or f"log-probabilities from mtcpo's head differ from the model's own by {difference:.3g} nats"
    raise UserError(f"{name}: the log-probabilities of the canary's text are NaN or infinite")


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
    """Return token log-probabilities (R, T) from the head and from the model's own logits, without dropout."""
    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            scores = layout.score(model, head, batch)
            logits = layout.model_logits(model, batch).float()
    finally:
        model.train(training)
    labels = batch["labels"]
    # A decoder-only batch may have more positions than labels; the logits are aligned from the left.
    logps = torch.log_softmax(logits[:, : labels.shape[1]], -1)
    token_logps = logps.gather(2, labels.clamp(min=0)[..., None]).squeeze(2)
    return scores.token_logps, token_logps.masked_fill(labels == IGNORE, 0.0)


def _batch(layout: Layout, family: Family, src: str, tgt: str, device: torch.device, count: int) -> Batch:
    # As prompts, not as sources: a template is a setting, not part of the model.
    src, tgt = _languages_of_model(src, tgt, family, layout.tokenizer)
    texts = [TextExample(source, src, tgt, (target,), prompt=source) for source, target in TEXTS[:count]]
    moved: Batch = send_to_device(layout.collate(layout.encode(texts)), device)
    return moved


def _languages_of_model(src: str, tgt: str, family: Family, tokenizer: Any) -> tuple[str, str]:
    """Return the languages if the model has them, else the first one that it has, for both: the same at every load."""
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


def _compare(batch: Batch, logps: Tensor, saved: Mapping[str, Any], where: str, dtype: torch.dtype) -> None:
    # First: if ids differ, a difference of log-probabilities means nothing.
    if saved["input_ids"] != batch["input_ids"].tolist() or saved["labels"] != batch["labels"].tolist():
        raise UserError(
            f"{where}: the tokenizer no longer produces the token ids saved with this model: it is a different "
            "tokenizer or version"
        )
    if dtype != torch.float32:
        return  # rounding errors are larger than the faults to be found
    difference = float((logps.cpu() - torch.tensor(saved["logps"])).abs().max())
    # `not <=` rather than `>`, so that NaN is refused too.
    if not difference <= TOLERANCE:
        raise UserError(
            f"{where}: the model's log-probabilities differ by {difference:.3g} nats from those it was saved with; "
            "a tensor was lost, or this version of transformers reads the model differently"
        )
