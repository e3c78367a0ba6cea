"""What mtcpo is compared with: a plain loop of transformers' `generate` over batches in input order.

The loop is what the documentation of transformers shows. It neither sorts sources nor batches them by tokens. Models
are loaded by mtcpo, so that both sides have the same weights and, by the layout, the same token ids.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from mtcpo.data.records import Segment
from mtcpo.models.loading import LoadedModel
from mtcpo.models.prompts import TextExample

BATCH_SIZE = 32
"""Sources of a batch."""

EPSILON_SAMPLING = {"do_sample": True, "epsilon_cutoff": 0.02, "top_k": 0, "top_p": 1.0}
"""Settings of `generate` for epsilon sampling with the default bound of mtcpo."""


def plain_generate(loaded: LoadedModel, segments: Sequence[Segment], **settings: Any) -> list[list[str]]:
    """Return the translations of each segment, in input order.

    Args:
        loaded: the model.
        segments: sources, all in one language pair.
        settings: of `generate`, such as num_beams and num_return_sequences.
    """
    import torch

    layout, copies = loaded.layout, settings.get("num_return_sequences", 1)
    settings |= layout.generation_settings(segments[0].tgt_lang) | {"max_length": None}
    translations: list[list[str]] = []
    for start in range(0, len(segments), BATCH_SIZE):
        batch_segments = segments[start : start + BATCH_SIZE]
        texts = [TextExample(segment.source, segment.src_lang, segment.tgt_lang) for segment in batch_segments]
        batch = layout.generation_batch(layout.encode(texts))
        with torch.inference_mode():
            sequences = loaded.model.generate(**batch, **settings)
        outputs = loaded.tokenizer.batch_decode(layout.new_tokens(sequences, batch), skip_special_tokens=True)
        outputs = list(map(str.strip, outputs))
        translations += [outputs[row : row + copies] for row in range(0, len(outputs), copies)]
    return translations


class Clock:
    """Wall-clock and processor seconds since it was made; processor time counts all threads of this process."""

    def __init__(self) -> None:
        self._wall, self._cpu = time.perf_counter(), time.process_time()

    def read(self) -> dict[str, float]:
        """Return wall_s and cpu_s."""
        return {"wall_s": time.perf_counter() - self._wall, "cpu_s": time.process_time() - self._cpu}


def sources_of(lines: Sequence[str], src_lang: str, tgt_lang: str) -> list[Segment]:
    """Return lines as segments."""
    return [Segment(str(number), src_lang, tgt_lang, line) for number, line in enumerate(lines)]
