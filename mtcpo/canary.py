"""The canary: a few ids and their log-probabilities, checked at every load and written beside every model we save.

Another library version, a lost tensor or a wrong tokenizer shows before an hour is spent.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mtcpo.errors import UserError
from mtcpo.families import Family, language_token, some_language
from mtcpo.layouts import Batch, Layout, Text
from mtcpo.logprobs import IGNORE, Head

CANARY_FILE = "canary.json"

TOLERANCE = 1e-3
"""Largest difference of a token's log-probability, in nats, that float32 on another machine may show."""

HALF_TOLERANCE = 0.25
"""The same between two paths through one model in half precision, whose logits are rounded to 2 to 3 digits."""

TEXTS = (
    ("A small house stands by the river.", "Ein kleines Haus steht am Fluss."),
    ("She reads.", "Sie liest ein altes Buch über die Sterne."),
)


def check_canary(name: str, model: Any, layout: Layout, family: Family, head: Head, folder: Path) -> None:
    """Compare the head path with the model's own logits, and the model with the canary in its folder, if any.

    Raises:
        UserError: they differ.
    """
    path = folder / CANARY_FILE
    saved = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {"src_lang": "en", "tgt_lang": "de"}
    batch = _batch(layout, family, saved["src_lang"], saved["tgt_lang"], model.device)
    ours, own = both_logps(model, layout, head, batch)
    difference = float((ours - own).abs().max())
    if not difference <= (TOLERANCE if model.dtype == torch.float32 else HALF_TOLERANCE):
        raise UserError(
            f"{name}: log-probabilities by the head differ from the model's own logits by {difference:.3g} "
            "nats: the model changes its logits in a way that mtcpo does not know; see transform_of in mtcpo/models.py"
        )
    if "logps" in saved:
        _compare(batch, ours, saved, f"{path} (written by transformers {saved['transformers']})", model.dtype)


def write_canary(model: Any, layout: Layout, family: Family, head: Head, folder: Path, src: str, tgt: str) -> None:
    """Write the canary of a float32 model into its folder; `src` and `tgt` are BCP-47."""
    import transformers

    batch = _batch(layout, family, src, tgt, model.device)
    canary = {
        "src_lang": src, "tgt_lang": tgt,
        "input_ids": batch["input_ids"].tolist(), "labels": batch["labels"].tolist(),
        "logps": both_logps(model, layout, head, batch)[0].tolist(),
        "transformers": transformers.__version__, "torch": torch.__version__,
    }  # fmt: skip
    (folder / CANARY_FILE).write_text(json.dumps(canary) + "\n", encoding="utf-8")


def both_logps(model: Any, layout: Layout, head: Head, batch: Batch) -> tuple[Tensor, Tensor]:
    """Return token log-probabilities (R, T) by the tapped head and by the model's own logits, without dropout."""
    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            scored = layout.score(model, head, batch)
            logits = layout.own_logits(model, batch).float()
    finally:
        model.train(training)
    labels = batch["labels"]
    own = torch.log_softmax(logits[:, : labels.shape[1]], -1).gather(2, labels.clamp(min=0)[..., None]).squeeze(2)
    return scored.token_logps, own.masked_fill(labels == IGNORE, 0.0)


def _batch(layout: Layout, family: Family, src: str, tgt: str, device: torch.device) -> Batch:
    # As prompts, not as sources: a template is a setting, and no part of the model.
    src, tgt = _known(src, tgt, family, layout.tokenizer)
    texts = [Text(source, src, tgt, (target,), prompt=source) for source, target in TEXTS]
    return {key: value.to(device) for key, value in layout.collate(layout.encode(texts)).items()}


def _known(src: str, tgt: str, family: Family, tokenizer: Any) -> tuple[str, str]:
    """Return the languages if the model has them, else one of its own for both: the same at every load."""
    if family.language_code is None:
        return src, tgt
    tokens = tokenizer.get_vocab()
    try:
        language_token(family, tgt, tokens)
        if family.sets_tokenizer_language:
            language_token(family, src, tokens)
    except UserError:
        return (some_language(family, tokens),) * 2
    return src, tgt


def _compare(batch: Batch, ours: Tensor, saved: Mapping[str, Any], where: str, dtype: torch.dtype) -> None:
    if saved["input_ids"] != batch["input_ids"].tolist() or saved["labels"] != batch["labels"].tolist():
        raise UserError(
            f"{where}: the tokenizer now cuts the canary's text otherwise; a wrong tokenizer, or another version of it"
        )
    if dtype != torch.float32:
        return  # Half precision differs from the float32 canary by more than any fault worth finding.
    difference = float((ours.cpu() - torch.tensor(saved["logps"])).abs().max())
    if not difference <= TOLERANCE:
        raise UserError(
            f"{where}: the model's log-probabilities differ by {difference:.3g} nats from those it was saved with; "
            "a lost tensor, or a library version that reads it otherwise"
        )
