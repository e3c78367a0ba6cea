"""CTranslate2, as mtcpo runs it, against a plain loop of transformers' `generate`: time, and share of equal outputs.

    python eval/bench/engines.py --model MODEL --output eval/results/bench/engines.json

Sources are the first 1,000 of Multi30k's validation set, English to German (multi30k in MTCPO_TEST_DATA). MODEL is an
mT5 fine-tuned on Multi30k. A Marian model of the published shape (6 + 6 layers, 512 wide, 58,101 pieces) with random
weights is measured too. The loop takes batches of 32 in input order. torch and CTranslate2 choose their numbers of
threads, unless OMP_NUM_THREADS does: processor time is what compares them. Runs alternate, so that both see the same
machine; wall-clock and processor seconds are given as median, least and most. Conversion and proof are once for a
model, so their time is given apart.

Compared are texts for beam search and, for sampling, chrF of the best of eight samples, chosen by sentence chrF. For
the Marian model, whose outputs never end, 32 new tokens are generated.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests"), str(Path(__file__).parent)]
PIECES, WIDTH, LAYERS, MARIAN_TOKENS = 58_101, 512, 6, 32
SAMPLES = 8
ROWS = ("beam", "epsilon", "marian")


def summary(runs: Sequence[dict[str, float]]) -> dict[str, dict[str, float]]:
    """Return median, least and most of each clock."""
    found = {}
    for clock in runs[0]:
        values = [run[clock] for run in runs]
        found[clock] = {
            "median": round(statistics.median(values), 3), "min": round(min(values), 3), "max": round(max(values), 3),
        }  # fmt: skip
    return found


def alternate(sides: dict[str, Callable[[], Any]], repeats: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """Run all sides alternately; return their times with ratios to the first side, and their last outputs."""
    from plain_generate import Clock

    runs: dict[str, list[dict[str, float]]] = {name: [] for name in sides}
    outputs: dict[str, Any] = {}
    for number in range(repeats):
        # The order changes, because the second of two finds another state of the memory.
        for name in list(sides) if number % 2 == 0 else list(sides)[::-1]:
            clock = Clock()
            outputs[name] = sides[name]()
            runs[name].append(clock.read())
    first = next(iter(sides))
    row: dict[str, Any] = {}
    for name, times in runs.items():
        ratios = []
        for slow, fast in zip(runs[first], times, strict=True):
            ratios.append({clock.replace("_s", "_ratio"): slow[clock] / fast[clock] for clock in slow})
        row[name] = summary(times) | (summary(ratios) if name != first else {})
    return row, outputs


def open_engine(model: str, dtype: str, segments: Sequence[Any]) -> tuple[Any, dict[str, Any]]:
    """Return the CTranslate2 engine of a model, with what its proof found and how long conversion and proof took."""
    from plain_generate import Clock

    from mtcpo.models.config import DEFAULT_OPTIONS
    from mtcpo.translation.engines.base import LoadRequest
    from mtcpo.translation.engines.ctranslate2 import load

    clock = Clock()
    request = LoadRequest(model, "ct2", dtype, DEFAULT_OPTIONS, lambda sources: None, segments[:32])  # type: ignore[arg-type]
    engine = load(request)
    return engine, {"engine": engine.label, "proof": engine.proof, "setup_s": round(clock.read()["wall_s"], 2)}


def first_texts(outputs: Sequence[Sequence[Any]]) -> list[str]:
    """Return the first translation of each source."""
    return [getattr(candidates[0], "text", candidates[0]) for candidates in outputs]


def share_equal(found: Sequence[str], expected: Sequence[str]) -> float:
    """Return the share of equal texts."""
    equal = sum(ours == theirs for ours, theirs in zip(found, expected, strict=True))
    return round(equal / len(found), 4)


def beam_search(model: str, segments: Sequence[Any], repeats: int, max_new_tokens: int) -> dict[str, Any]:
    """Measure beam search with four beams, in float32 and int8."""
    from plain_generate import plain_generate

    from mtcpo.models.loading import load_model
    from mtcpo.translation.config import TranslateConfig

    loaded = load_model(model, "float32", device="cpu")
    config = TranslateConfig(num_beams=4, max_new_tokens=max_new_tokens)
    settings = {"num_beams": 4, "do_sample": False, "max_new_tokens": max_new_tokens}
    sides: dict[str, Callable[[], Any]] = {"generate": lambda: plain_generate(loaded, segments, **settings)}
    notes = {}
    for dtype in ("float32", "int8"):
        engine, notes[dtype] = open_engine(model, dtype, segments)
        sides[dtype] = lambda engine=engine: engine.translate(segments, config)
    row, outputs = alternate(sides, repeats)
    expected = first_texts(outputs["generate"])
    for dtype, note in notes.items():
        row[dtype] |= note | {"share_equal": share_equal(first_texts(outputs[dtype]), expected)}
    return row


def epsilon_samples(
    model: str, segments: Sequence[Any], references: Sequence[str], repeats: int, max_new_tokens: int
) -> dict[str, Any]:
    """Measure eight epsilon samples of each source."""
    import torch
    from plain_generate import EPSILON_SAMPLING, plain_generate

    from mtcpo.models.loading import load_model
    from mtcpo.translation.config import TranslateConfig

    loaded = load_model(model, "float32", device="cpu")
    torch.manual_seed(1)
    config = TranslateConfig(num_candidates=SAMPLES, sampling="epsilon", max_new_tokens=max_new_tokens)
    settings = EPSILON_SAMPLING | {"num_return_sequences": SAMPLES, "max_new_tokens": max_new_tokens}
    engine, note = open_engine(model, "float32", segments)
    row, outputs = alternate(
        {
            "generate": lambda: plain_generate(loaded, segments, **settings),
            "float32": lambda: engine.translate(segments, config),
        },
        repeats,
    )
    row["float32"] |= note
    for name, of_side in outputs.items():
        texts = []
        for candidates in of_side:
            texts.append([getattr(candidate, "text", candidate) for candidate in candidates])
        row[name] |= quality(texts, references)
    return row


def quality(texts: Sequence[Sequence[str]], references: Sequence[str]) -> dict[str, float]:
    """Return corpus chrF of the best sample of each source and of the first, and how many samples are different."""
    from sacrebleu.metrics import CHRF

    chrf = CHRF()
    best, distinct = [], []
    for samples, reference in zip(texts, references, strict=True):
        best.append(max(samples, key=lambda text: chrf.sentence_score(text, [reference]).score))
        distinct.append(len(set(samples)))
    return {
        "chrf_best_of_eight": round(chrf.corpus_score(best, [references]).score, 3),
        "chrf_first": round(chrf.corpus_score([samples[0] for samples in texts], [references]).score, 3),
        "distinct_samples": round(statistics.mean(distinct), 3),
    }


def make_marian(folder: Path, sources: Sequence[str], targets: Sequence[str]) -> str:
    """Write a Marian model of the published shape with random weights; return its folder."""
    from support.models import save_random_model, train_sentencepiece, write_json
    from transformers import MarianConfig, MarianMTModel

    words = {"</s>": 0, "<unk>": 1}
    for name, texts in (("source", sources), ("target", targets)):
        for piece in train_sentencepiece(folder / f"{name}.spm", list(texts), 4000):
            words.setdefault(piece, len(words))
    words |= {f"<unused{number}>": number for number in range(len(words), PIECES - 1)}
    words["<pad>"] = PIECES - 1
    write_json(folder / "vocab.json", words)
    settings = {"source_lang": "en", "target_lang": "de", "model_max_length": 512, "separate_vocabs": False}
    write_json(folder / "tokenizer_config.json", {"tokenizer_class": "MarianTokenizer", **settings})
    config = MarianConfig(
        vocab_size=PIECES, decoder_vocab_size=PIECES, d_model=WIDTH, encoder_layers=LAYERS, decoder_layers=LAYERS,
        encoder_attention_heads=8, decoder_attention_heads=8, encoder_ffn_dim=2048, decoder_ffn_dim=2048,
        max_position_embeddings=512, pad_token_id=PIECES - 1, eos_token_id=0, forced_eos_token_id=0,
        decoder_start_token_id=PIECES - 1, activation_function="swish", scale_embedding=True,
    )  # fmt: skip
    save_random_model(MarianMTModel, config, folder)
    return str(folder)


def measure(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Return the rows of all measurements."""
    from plain_generate import sources_of
    from real_data import data_folder

    lines = {}
    for language in ("en", "de"):
        text = (data_folder("multi30k") / f"val.{language}").read_text(encoding="utf-8")
        lines[language] = text.split("\n")[: options.sources]
    segments = sources_of(lines["en"], "en", "de")

    def marian() -> dict[str, Any]:
        model = make_marian(folder, lines["en"], lines["de"])
        return beam_search(model, segments[: options.marian_sources], options.repeats, MARIAN_TOKENS)

    measurements: dict[str, Callable[[], dict[str, Any]]] = {
        "beam": lambda: beam_search(options.model, segments, options.repeats, 256),
        "epsilon": lambda: epsilon_samples(options.model, segments, lines["de"], options.repeats, 256),
        "marian": marian,
    }
    rows = {}
    for name in options.rows:
        rows[name] = measurements[name]()
        print(json.dumps(rows[name], indent=1), flush=True)
    return rows


def main() -> None:
    """Measure and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="Directory of the fine-tuned mT5.")
    parser.add_argument("--output", type=Path, required=True, help="JSON file to write.")
    parser.add_argument("--sources", type=int, default=1000, help="Sources; default: %(default)s.")
    parser.add_argument("--marian-sources", type=int, default=100, help="Of the Marian model; default: %(default)s.")
    parser.add_argument("--repeats", type=int, default=3, help="Runs of each side; default: %(default)s.")
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=list(ROWS), help="What to measure; default: all.")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as cache, tempfile.TemporaryDirectory() as folder:
        os.environ["HF_DATASETS_CACHE"] = cache  # each measurement converts anew
        rows = measure(options, Path(folder))
    from mtcpo.core.provenance import provenance
    from mtcpo.translation.engines.ctranslate2_search import threads

    settings = {"sources": options.sources, "marian_sources": options.marian_sources, "repeats": options.repeats}
    result = {"rows": rows, "settings": settings, "threads": threads(), "made_by": provenance(gpus=False)}
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
