"""COMET scores of nine systems: COMET's own `predict`, and mtcpo's engine with the same models.

    OMP_NUM_THREADS=1 python eval/bench/comet_speed.py --output eval/results/bench/comet.json

Data: WMT22 de-en and en-de, reference A, nine systems each; --segments segments, evenly spread over each test set.
Models: one of each kind with random weights, an encoder of --layers x --hidden with a vocabulary learned from the
data, and layers mixed as in the published models (by softmax, so that no layer has weight 0 by chance).

Both sides use the same model in float32 and take turns: first `predict` with batch sizes 16 (its default), 32, 64 and
128, then mtcpo; after that batch size 16 and mtcpo until there are --repeats runs. Both are warmed up on a few rows.
Both tokenize, score, and find the error spans if the model does. A ratio compares the CPU seconds of two neighbouring
runs, because other work on the machine affects the wall-clock time; median, minimum and maximum are given.
Differences of scores are the largest over all rows. Of half precision only the error is measured: its speed on a CPU
means nothing.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import platform
import statistics
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from real_data import data_folder

from mtcpo.core.provenance import provenance
from mtcpo.data.config import CorpusConfig
from mtcpo.data.corpora import read_corpus
from mtcpo.data.records import Segment

BATCH_SIZES = (16, 32, 64, 128)
ROUNDS_OF_ALL = 1
"""After this many rounds, only the default batch size and mtcpo take turns."""

KINDS = {
    "regression": ("RegressionMetric", {"pool": "avg", "layer": "mix"}),
    "referenceless": ("ReferencelessRegression", {"pool": "avg", "layer": "mix"}),
    "unified-qe": ("UnifiedMetric", {"sent_layer": "mix", "input_segments": ["mt", "src"]}),
    "xcomet": ("XCOMETMetric", {"sent_layer": "mix", "word_level_training": True}),
}
"""Kind -> class in comet.models, and the settings of its layers."""

TARGETS = {"regression": 3.5, "referenceless": 2.5, "unified-qe": 1.8, "xcomet": 1.8}


def read(folder: Path, count: int) -> list[Segment]:
    """Return `count` segments of one language pair, evenly spread, with nine systems as candidates."""
    src, tgt = folder.name.split("-")
    config = CorpusConfig(
        source=str(folder / f"source.{src}"),
        references=(str(folder / f"reference-A.{tgt}"),),
        hypotheses={path.stem: str(path) for path in sorted(folder.glob("system-*"))[:9]},
        src_lang=src,
        tgt_lang=tgt,
    )
    segments = list(read_corpus(config))
    return [segments[number * len(segments) // count] for number in range(count)]


def make_encoder(folder: Path, lines: list[str], layers: int, hidden: int) -> Path:
    """Write config and tokenizer of an XLM-R encoder; its vocabulary of 8,000 pieces is learned from `lines`."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import XLMRobertaConfig

    special = ["<s>", "<pad>", "</s>", "<unk>"]
    learned = Tokenizer(models.Unigram())
    space = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="always")
    learned.pre_tokenizer = space
    learned.train_from_iterator(
        lines, trainers.UnigramTrainer(vocab_size=8000, special_tokens=special, unk_token="<unk>", show_progress=False)
    )
    pieces = [*json.loads(learned.to_str())["model"]["vocab"], ["<mask>", 0.0]]
    tokenizer = Tokenizer(models.Unigram([tuple(piece) for piece in pieces], unk_id=3, byte_fallback=False))
    tokenizer.pre_tokenizer, tokenizer.decoder = space, decoders.Metaspace(replacement="▁", prepend_scheme="always")
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> </s> $B </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    tokenizer.add_special_tokens([*special, "<mask>"])
    folder.mkdir(parents=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    names = {"bos": "<s>", "cls": "<s>", "eos": "</s>", "sep": "</s>", "pad": "<pad>", "unk": "<unk>", "mask": "<mask>"}
    settings = {"tokenizer_class": "XLMRobertaTokenizer", **{f"{name}_token": token for name, token in names.items()}}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
    XLMRobertaConfig(
        vocab_size=len(pieces), hidden_size=hidden, num_hidden_layers=layers, num_attention_heads=hidden // 64,
        intermediate_size=4 * hidden, max_position_embeddings=514, type_vocab_size=1, pad_token_id=1,
        layer_norm_eps=1e-5, initializer_range=1.4 / hidden**0.5,  # with the usual 0.02, scores would hardly differ
    ).save_pretrained(folder)  # fmt: skip
    return folder


def make_model(kind: str, encoder: Path, hidden: int) -> Any:
    """Return a COMET model of a kind; its random weights are scaled so that scores and labels vary."""
    import torch
    from comet import models

    name, settings = KINDS[kind]
    if kind == "xcomet":
        settings = settings | {"word_layer": json.loads((encoder / "config.json").read_text())["num_hidden_layers"]}
    torch.manual_seed(1)
    model = getattr(models, name)(
        encoder_model="XLM-RoBERTa", pretrained_model=str(encoder), layer_transformation="softmax", layer_norm=False,
        hidden_sizes=[2 * hidden, hidden], load_pretrained_weights=False, local_files_only=True, **settings,
    )  # fmt: skip
    with torch.no_grad():
        for parameter in model.layerwise_attention.scalar_parameters:
            parameter.normal_(0.0, 0.7)
        for parameter in model.estimator.parameters():
            parameter.mul_(2.0)
        if kind == "xcomet":  # most words without an error
            model.hidden2tag.weight.mul_(4.0)
            model.hidden2tag.bias.zero_()
            model.hidden2tag.bias[0] += 0.5
    return model.eval()


class Clock:
    """Run a function and keep its CPU and wall-clock seconds in `seconds`."""

    def run(self, function: Any) -> Any:
        """Call a function without arguments and return its result."""
        start, before = time.perf_counter(), os.times()
        result = function()
        after = os.times()
        self.seconds = {
            "cpu": after.user + after.system - before.user - before.system,
            "wall": time.perf_counter() - start,
        }
        return result


def compare(kind: str, model: Any, segments: list[Segment], repeats: int) -> dict[str, Any]:
    """Time both sides on the same rows and compare their results."""
    import copy

    import torch

    from mtcpo.metrics.comet.engine import engine_of
    from mtcpo.metrics.comet.packed import pack

    with_references = kind not in ("referenceless", "unified-qe")
    rows = [(s.source, c.text, *(s.references[:1] if with_references else ())) for s in segments for c in s.candidates]
    samples = [dict(zip(("src", "mt", "ref"), row, strict=False)) for row in rows]
    ours = copy.deepcopy(model)
    pack(ours.encoder.model)
    engine = engine_of(ours, torch.device("cpu"))
    clock, found, seconds = Clock(), {}, {name: [] for name in (*BATCH_SIZES, "mtcpo")}
    engine.predict(rows[:90])
    model.predict(samples[:90], batch_size=16, gpus=0, progress_bar=False)
    for number in range(repeats):
        for name in seconds if number < ROUNDS_OF_ALL else (BATCH_SIZES[0], "mtcpo"):
            if name == "mtcpo":
                found[name] = clock.run(lambda: engine.predict(rows))
            else:
                found[name] = clock.run(
                    lambda size=name: model.predict(samples, batch_size=size, gpus=0, progress_bar=False)
                )
            seconds[name].append(clock.seconds)
    cpu = {name: statistics.median(run["cpu"] for run in runs) for name, runs in seconds.items()}
    best = min(BATCH_SIZES, key=lambda size: cpu[size])
    outcome = {
        "rows": len(rows),
        "distinct_rows": len(set(rows)),
        "seconds": {str(name): {k: round(statistics.median(r[k] for r in runs), 3) for k in ("cpu", "wall")}
                    for name, runs in seconds.items()},
        "ratio_to_batch_16": ratios(seconds[16], seconds["mtcpo"]),
        "ratio_to_best_batch": ratios(seconds[best], seconds["mtcpo"]) | {"batch": best},
        "target": TARGETS[kind],
        **agreement(found, kind),
    }  # fmt: skip
    return outcome | {"half_precision": half_precision(model, rows, found["mtcpo"].scores, segments)}


def ratios(theirs: list[dict[str, float]], ours: list[dict[str, float]]) -> dict[str, float]:
    """Return the median and the range of their CPU seconds divided by ours."""
    each = [a["cpu"] / b["cpu"] for a, b in zip(theirs, ours, strict=False)]
    named = {"median": statistics.median(each), "least": min(each), "most": max(each)}
    return {name: round(value, 2) for name, value in named.items()}


def agreement(found: dict[Any, Any], kind: str) -> dict[str, Any]:
    """Compare scores (with the difference of `predict` at two batch sizes for scale) and error spans."""
    scores = {name: np.array(result.scores) for name, result in found.items()}
    outcome: dict[str, Any] = {
        "largest_difference": float(abs(scores["mtcpo"] - scores[16]).max()),
        "largest_difference_of_predict_16_and_128": float(abs(scores[128] - scores[16]).max()),
        "standard_deviation_of_scores": float(scores[16].std()),
    }
    if kind == "xcomet":
        theirs = [[(s["text"], s["severity"], s["start"], s["end"]) for s in r] for r in found[16].metadata.error_spans]
        ours = [[(s.text, s.severity, s.start, s.end) for s in row] for row in found["mtcpo"].spans]
        outcome |= {"spans": sum(map(len, theirs)), "rows_with_equal_spans": sum(map(list.__eq__, theirs, ours))}
    return outcome


def half_precision(model: Any, rows: list[Any], scores: list[float], segments: list[Segment]) -> dict[str, Any]:
    """Return the errors of fp16 and bf16, and the share of sources whose best candidate stays the same."""
    import copy

    import torch

    from mtcpo.metrics.comet.encoder import reduce_precision
    from mtcpo.metrics.comet.engine import engine_of

    exact, outcome = np.array(scores).reshape(len(segments), -1), {}
    for name, dtype in (("fp16", torch.float16), ("bf16", torch.bfloat16)):
        reduced = copy.deepcopy(model)
        reduce_precision(reduced.encoder.model, dtype)
        found = np.array(engine_of(reduced, torch.device("cpu")).predict(rows).scores).reshape(exact.shape)
        at_best = np.take_along_axis(exact, found.argmax(1)[:, None], 1)[:, 0]
        outcome[name] = {
            "largest_error": float(abs(found - exact).max()),
            "mean_error": float(abs(found - exact).mean()),
            "same_best_candidate": float((at_best == exact.max(1)).mean()),
        }
    return outcome


def main() -> None:
    """Measure and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="Folder with WMT22's outputs; default: wmt22 in MTCPO_TEST_DATA.")
    parser.add_argument("--segments", type=int, default=40, help="Segments per language pair; default: %(default)s.")
    parser.add_argument("--repeats", type=int, default=3, help="Runs of each side; default: %(default)s.")
    parser.add_argument("--layers", type=int, default=4, help="Layers of the encoder; default: %(default)s.")
    parser.add_argument("--hidden", type=int, default=256, help="Hidden size of the encoder; default: %(default)s.")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS), help="Default: all.")
    parser.add_argument("--pairs", nargs="+", default=["de-en", "en-de"], help="Language pairs; default: both.")
    parser.add_argument("--output", type=Path, help="JSON file to write.")
    arguments = parser.parse_args()
    data = arguments.data or data_folder("wmt22")
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    made = provenance(gpus=False)
    outcome: dict[str, Any] = {"settings": {k: v for k, v in vars(arguments).items() if k not in ("data", "output")}}
    corpora = {pair: read(data / pair, arguments.segments) for pair in arguments.pairs}
    with tempfile.TemporaryDirectory() as folder:
        lines = [text for of_pair in corpora.values() for s in of_pair
                 for text in (s.source, *s.references, *(c.text for c in s.candidates))]  # fmt: skip
        encoder = make_encoder(Path(folder) / "encoder", lines, arguments.layers, arguments.hidden)
        for kind in arguments.kinds:
            model = make_model(kind, encoder, arguments.hidden)
            for pair, segments in corpora.items():
                outcome.setdefault(pair, {})[kind] = compare(kind, model, segments, arguments.repeats)
                print(pair, kind, json.dumps(outcome[pair][kind]), flush=True)
    made["machine"] |= {"processor": processor(), "threads": os.environ.get("OMP_NUM_THREADS", "all")}
    if arguments.output:
        arguments.output.write_text(json.dumps(outcome | {"made": made}, indent=2) + "\n", encoding="utf-8")


def processor() -> str:
    """Return the name of the processor."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")


if __name__ == "__main__":
    main()
