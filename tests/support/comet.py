"""Tiny COMET checkpoints in COMET's own on-disk format, made offline with random weights, and texts to score."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

from mtcpo.data.records import Candidate, Segment

KINDS = ("regression", "referenceless", "unified-qe", "unified-ref", "xcomet")
HIDDEN, LAYERS = 16, 2
SYLLABLES = ["ka", "lo", "mi", "nu", "pe", "ra", "so", "ti", "vu", "ze"]


def made_up_sentences(count: int, seed: int = 0) -> list[str]:
    """Sentences of made-up words, the same for the same seed."""
    rng = random.Random(seed)
    return [
        " ".join("".join(rng.choices(SYLLABLES, k=rng.randint(1, 3))) for _ in range(rng.randint(2, 9))) + "."
        for _ in range(count)
    ]


XLMR_SPECIALS = {
    "bos": "<s>",
    "cls": "<s>",
    "eos": "</s>",
    "sep": "</s>",
    "pad": "<pad>",
    "unk": "<unk>",
    "mask": "<mask>",
}
BERT_SPECIALS = {"cls": "[CLS]", "sep": "[SEP]", "pad": "[PAD]", "unk": "[UNK]", "mask": "[MASK]"}
REMBERT_SPECIALS = {"bos": "[CLS]", "cls": "[CLS]", "eos": "[SEP]", "sep": "[SEP]", "pad": "<pad>", "unk": "<unk>",
                    "mask": "[MASK]"}  # fmt: skip

ENCODERS = {
    "XLM-RoBERTa": ("XLMRobertaConfig", "XLMRobertaTokenizer", {"type_vocab_size": 1, "pad_token_id": 1}),
    "XLM-RoBERTa-XL": ("XLMRobertaXLConfig", "XLMRobertaTokenizer", {"type_vocab_size": 1, "pad_token_id": 1}),
    "BERT": ("BertConfig", "BertTokenizer", {"pad_token_id": 0}),
    "MiniLM": ("BertConfig", "XLMRobertaTokenizer", {"pad_token_id": 0}),  # that of the encoder, not of the tokenizer
    "RemBERT": (
        "RemBertConfig",
        "RemBertTokenizer",
        {"pad_token_id": 1, "input_embedding_size": 8, "hidden_dropout_prob": 0.0},
    ),
}
"""COMET's name of an encoder -> class of its config and of its tokenizer, and settings of the former."""


def make_encoder(folder: Path, kind: str = "XLM-RoBERTa", **changes: Any) -> Path:
    """Write config.json and a tokenizer.json whose pieces are the characters and syllables of `made_up_sentences`.

    changes: of the config.
    """
    import transformers

    config, tokenizer_class, settings = ENCODERS[kind]
    folder.mkdir(parents=True)
    specials = {"BERT": BERT_SPECIALS, "RemBERT": REMBERT_SPECIALS}.get(kind, XLMR_SPECIALS)
    tokenizer = _wordpieces() if kind == "BERT" else _unigrams(specials, 1 if kind == "RemBERT" else 2)
    tokenizer.save(str(folder / "tokenizer.json"))
    if kind == "BERT":
        (folder / "vocab.txt").write_text("".join(f"{piece}\n" for piece in BERT_PIECES), encoding="utf-8")
    described = {"tokenizer_class": tokenizer_class, "model_max_length": 64}
    described |= {f"{name}_token": token for name, token in specials.items()}
    (folder / "tokenizer_config.json").write_text(json.dumps(described), encoding="utf-8")
    getattr(transformers, config)(
        vocab_size=tokenizer.get_vocab_size(),
        hidden_size=HIDDEN,
        num_hidden_layers=LAYERS,
        num_attention_heads=2,
        intermediate_size=2 * HIDDEN,
        max_position_embeddings=80,
        # Large, or the sentence embedding of so small a model hardly depends on the sentence.
        initializer_range=0.4,
        **settings | changes,
    ).save_pretrained(folder)
    return folder


def _unigrams(specials: dict[str, str], separators: int) -> Any:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors

    special = [specials[name] for name in ("cls", "pad", "sep", "unk")]
    letters = sorted({c for syllable in SYLLABLES for c in syllable} | {".", "▁"})
    pieces = [(piece, 0.0) for piece in special]
    pieces += [(piece, -2.0) for piece in SYLLABLES] + [(c, -5.0) for c in letters] + [(specials["mask"], 0.0)]
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=3, byte_fallback=False))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="always")
    tokenizer.decoder = decoders.Metaspace(replacement="▁", prepend_scheme="always")
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{special[0]} $A {special[2]}",
        pair=f"{special[0]} $A {' '.join([special[2]] * separators)} $B {special[2]}",
        special_tokens=[(special[0], 0), (special[2], 2)],
    )
    tokenizer.add_special_tokens([*special, specials["mask"]])
    return tokenizer


BERT_PIECES = [*BERT_SPECIALS.values(), *(prefix + piece for prefix in ("", "##") for piece in [*SYLLABLES, "."])]


def _wordpieces() -> Any:
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

    vocabulary = {piece: number for number, piece in enumerate(BERT_PIECES)}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer, tokenizer.decoder = normalizers.BertNormalizer(), decoders.WordPiece()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[(token, vocabulary[token]) for token in ("[CLS]", "[SEP]")],
    )  # fmt: skip
    tokenizer.add_special_tokens(list(BERT_SPECIALS.values()))
    return tokenizer


def make_comet(
    folder: Path, kind: str, encoder: Path, seed: int = 0, encoder_model: str = "XLM-RoBERTa", **settings: Any
) -> Path:
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
        "encoder_model": encoder_model,
        "pretrained_model": str(encoder.resolve()),
        "hidden_sizes": [HIDDEN],
        "layer": "mix",
        "layer_norm": False,
        **own,
        **settings,
    }
    if identifier in ("unified_metric", "xcomet_metric"):
        del arguments["layer"]
    torch.manual_seed(seed)
    model = cls(**arguments, load_pretrained_weights=False, local_files_only=True)
    with torch.no_grad():
        for parameter in model.estimator.parameters():
            parameter.mul_(3.0)
        if kind == "xcomet":  # it cuts scores at 1: most of them shall be below, and some words right
            model.estimator.ff[-1].weight.mul_(0.1)
            model.estimator.ff[-1].bias.fill_(0.6)
        if getattr(model, "hidden2tag", None) is not None:
            model.hidden2tag.weight.mul_(3.0)
            model.hidden2tag.bias.copy_(torch.tensor([0.5, 0.0, 0.0, 0.0]))
        if model.layerwise_attention is not None:
            # Zeros at first, which makes every layer transformation the plain mean.
            for parameter in model.layerwise_attention.scalar_parameters:
                parameter.normal_()
    checkpoint = folder / "checkpoints" / "model.ckpt"
    checkpoint.parent.mkdir(parents=True)
    torch.save({"state_dict": model.state_dict(), "hyper_parameters": dict(arguments), **LIGHTNING}, checkpoint)
    (folder / "hparams.yaml").write_text(
        f"class_identifier: {identifier}\nencoder_model: {encoder_model}\n", encoding="utf-8"
    )
    return folder


def load_with_comet(folder: Path) -> Any:
    """The model as COMET itself loads it, with what its `predict` misses beside transformers 5."""
    import comet

    model = comet.load_from_checkpoint(str(folder / "checkpoints" / "model.ckpt"), local_files_only=True)
    encoder = model.encoder
    tokenizer, forward = encoder.tokenizer, encoder.model.forward
    if not hasattr(tokenizer, "build_inputs_with_special_tokens"):
        between = [tokenizer.sep_token_id] * encoder.size_separator
        tokenizer.build_inputs_with_special_tokens = lambda a, b: [
            tokenizer.cls_token_id, *a, *between, *b, tokenizer.sep_token_id
        ]  # fmt: skip

    def three_values(*arguments: Any, **named: Any) -> Any:
        # COMET unpacks three; transformers 5 returns two, without the layers in between.
        values = forward(*arguments, **named)
        return values if len(values) == 3 else (values[0], None, values[1])

    encoder.model.forward = three_values
    return model


LIGHTNING = {"epoch": 0, "global_step": 0, "pytorch-lightning_version": "2.0.0", "hparams_name": "kwargs"}


def make_all_kinds(folder: Path) -> dict[str, Path]:
    """Make a tiny model of each kind and, under "encoder", the encoder that they share; return their folders."""
    encoder = make_encoder(folder / "encoder")
    return {kind: make_comet(folder / kind, kind, encoder) for kind in KINDS} | {"encoder": encoder}


CORPUS_OPTIONS = "--source s.de --reference r.en --hyp a=a.en --hyp b=b.en --src-lang de --tgt-lang en"
"""Options of `build-prefs` and `evaluate` for a source, its reference and the outputs of two systems."""


def comet_segments(count: int = 12) -> list[Segment]:
    """Segments with a reference and three candidates each, the first and third of which have the same text."""
    sources, first, second, references = (made_up_sentences(count, seed) for seed in range(4))
    rows = zip(sources, first, second, references, strict=True)
    return [
        Segment(
            str(i), "de", "en", source, (ref,), candidates=(Candidate("a", a), Candidate("b", b), Candidate("c", a))
        )
        for i, (source, a, b, ref) in enumerate(rows)
    ]
