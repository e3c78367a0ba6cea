"""Makes tiny COMET checkpoints in the library's own on-disk format, offline, for tests."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

KINDS = ("regression", "referenceless", "unified-qe", "unified-ref", "xcomet")
HIDDEN, LAYERS = 16, 2
SYLLABLES = ["ka", "lo", "mi", "nu", "pe", "ra", "so", "ti", "vu", "ze"]


def sentences(count: int, seed: int = 0) -> list[str]:
    """Sentences of made-up words."""
    rng = random.Random(seed)
    return [
        " ".join("".join(rng.choices(SYLLABLES, k=rng.randint(1, 3))) for _ in range(rng.randint(2, 9))) + "."
        for _ in range(count)
    ]


def make_encoder(folder: Path) -> Path:
    """Write config.json and a tokenizer.json whose pieces are the characters and syllables of `sentences`."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
    from transformers import XLMRobertaConfig

    special = ["<s>", "<pad>", "</s>", "<unk>"]
    letters = sorted({c for syllable in SYLLABLES for c in syllable} | {".", "▁"})
    pieces = [(piece, 0.0) for piece in special]
    pieces += [(piece, -2.0) for piece in SYLLABLES] + [(c, -5.0) for c in letters] + [("<mask>", 0.0)]
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=3, byte_fallback=False))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="always")
    tokenizer.decoder = decoders.Metaspace(replacement="▁", prepend_scheme="always")
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> </s> $B </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    tokenizer.add_special_tokens([*special, "<mask>"])
    folder.mkdir(parents=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {"tokenizer_class": "XLMRobertaTokenizer", "model_max_length": 64}
    names = {"bos": "<s>", "cls": "<s>", "eos": "</s>", "sep": "</s>", "pad": "<pad>", "unk": "<unk>", "mask": "<mask>"}
    settings |= {f"{name}_token": token for name, token in names.items()}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
    XLMRobertaConfig(
        vocab_size=len(pieces),
        hidden_size=HIDDEN,
        num_hidden_layers=LAYERS,
        num_attention_heads=2,
        intermediate_size=2 * HIDDEN,
        max_position_embeddings=80,
        type_vocab_size=1,
        pad_token_id=1,
        # Large, or the sentence embedding of so small a model hardly depends on the sentence.
        initializer_range=0.4,
    ).save_pretrained(folder)
    return folder


def make_comet(folder: Path, kind: str, encoder: Path, seed: int = 0) -> Path:
    """Write hparams.yaml and checkpoints/model.ckpt of a model with random weights; return `folder`."""
    import torch
    from comet.models import ReferencelessRegression, RegressionMetric, UnifiedMetric, XCOMETMetric

    unified = {"sent_layer": "mix", "word_layer": LAYERS, "error_labels": ["minor", "major", "critical"]}
    cls, identifier, own = {
        "regression": (RegressionMetric, "regression_metric", {"pool": "avg"}),
        "referenceless": (ReferencelessRegression, "referenceless_regression_metric", {"pool": "avg"}),
        "unified-qe": (UnifiedMetric, "unified_metric", unified | {"input_segments": ["mt", "src"]}),
        "unified-ref": (UnifiedMetric, "unified_metric", unified | {"input_segments": ["mt", "src", "ref"]}),
        "xcomet": (XCOMETMetric, "xcomet_metric", unified | {"word_level_training": True}),
    }[kind]
    arguments: dict[str, Any] = {
        "encoder_model": "XLM-RoBERTa",
        "pretrained_model": str(encoder.resolve()),
        "hidden_sizes": [HIDDEN],
        "layer": "mix",
        "layer_norm": False,
        **own,
    }
    if identifier in ("unified_metric", "xcomet_metric"):
        del arguments["layer"]
    torch.manual_seed(seed)
    model = cls(**arguments, load_pretrained_weights=False, local_files_only=True)
    with torch.no_grad():
        for parameter in model.estimator.parameters():
            parameter.mul_(3.0)
        # Zeros at first, which makes every layer transformation the plain mean.
        for parameter in model.layerwise_attention.scalar_parameters:
            parameter.normal_()
    checkpoint = folder / "checkpoints" / "model.ckpt"
    checkpoint.parent.mkdir(parents=True)
    torch.save({"state_dict": model.state_dict(), "hyper_parameters": dict(arguments), **LIGHTNING}, checkpoint)
    (folder / "hparams.yaml").write_text(
        f"class_identifier: {identifier}\nencoder_model: XLM-RoBERTa\n", encoding="utf-8"
    )
    return folder


LIGHTNING = {"epoch": 0, "global_step": 0, "pytorch-lightning_version": "2.0.0", "hparams_name": "kwargs"}
