"""A new, small model from scratch: random weights and a SentencePiece vocabulary of its own.

For the demo and for tests, where the whole pipeline must run without downloads. transformers 4.57 and 5 read the same
model and the same tokenizer from its files.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from mtcpo.core.config import Config
from mtcpo.core.errors import UserError
from mtcpo.data.languages import UNDETERMINED

PAD, END, UNKNOWN = 0, 1, 2
"""Token ids of T5's vocabularies; the decoder starts with PAD."""

SPECIAL_TOKENS = ("<pad>", "</s>", "<unk>")


class CreateConfig(Config):
    """Sizes of a new model: `mt5` is an encoder-decoder, `llama` decoder-only."""

    architecture: Literal["mt5", "llama"] = "mt5"
    vocab_size: int = Field(default=2000, ge=50)
    d_model: int = Field(default=192, ge=8)
    d_ff: int = Field(default=512, ge=8)
    layers: int = Field(default=2, ge=1)
    """Number of layers of the decoder and, for mt5, of the encoder."""
    heads: int = Field(default=4, ge=1)
    dropout: float = Field(default=0.1, ge=0, lt=1)
    seed: int = 0


def create_model(config: CreateConfig, texts: Iterable[str], folder: Path) -> None:
    """Train a vocabulary on `texts` and write tokenizer, random weights and canary to the existing `folder`.

    Raises:
        UserError: incompatible sizes, or too little text for the vocabulary.
    """
    import torch

    from mtcpo.models.canary import write_canary
    from mtcpo.models.loading import load_model

    if config.d_model % config.heads:
        raise UserError(f"d_model {config.d_model} is not a multiple of heads {config.heads}")
    vocab_size = write_tokenizer(texts, config.vocab_size, folder)
    # A seed gives the same weights, whatever was drawn before, and the caller's random state is restored.
    state = torch.random.get_rng_state()
    torch.manual_seed(config.seed)
    try:
        model = _new_mt5(config, vocab_size) if config.architecture == "mt5" else _new_llama(config, vocab_size)
    finally:
        torch.random.set_rng_state(state)
    model.save_pretrained(folder)
    # transformers 5 writes "tied" for every mT5, although embeddings and lm_head are both stored; 4.57 would tie them.
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"tie_word_embeddings": False}, indent=2) + "\n")
    loaded = load_model(str(folder), "float32", device="cpu")
    write_canary(loaded.model, loaded.layout, loaded.family, loaded.head, folder, UNDETERMINED, UNDETERMINED)


def _new_mt5(config: CreateConfig, vocab_size: int) -> Any:
    import torch
    from transformers import MT5Config, MT5ForConditionalGeneration

    settings = MT5Config(
        vocab_size=vocab_size,
        d_model=config.d_model,
        d_ff=config.d_ff,
        d_kv=config.d_model // config.heads,
        num_layers=config.layers,
        num_decoder_layers=config.layers,
        num_heads=config.heads,
        dropout_rate=config.dropout,
        pad_token_id=PAD,
        eos_token_id=END,
        decoder_start_token_id=PAD,
        tie_word_embeddings=False,
    )
    model = MT5ForConditionalGeneration(settings)
    # A separate lm_head. T5 initializes it with unit variance: logits of size sqrt(d_model), and a first loss near 100.
    head = torch.nn.Linear(config.d_model, vocab_size, bias=False)
    torch.nn.init.normal_(head.weight, std=config.d_model**-0.5)
    model.lm_head = head
    model.config.tie_word_embeddings = False
    return model


def _new_llama(config: CreateConfig, vocab_size: int) -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    settings = LlamaConfig(
        vocab_size=vocab_size,
        hidden_size=config.d_model,
        intermediate_size=config.d_ff,
        num_hidden_layers=config.layers,
        num_attention_heads=config.heads,
        num_key_value_heads=config.heads,
        max_position_embeddings=512,
        attention_dropout=config.dropout,
        pad_token_id=PAD,
        eos_token_id=END,
        bos_token_id=None,
        tie_word_embeddings=False,
    )
    return LlamaForCausalLM(settings)


def write_tokenizer(texts: Iterable[str], vocab_size: int, folder: Path) -> int:
    """Train a SentencePiece unigram model and write T5's tokenizer files; return the size of the vocabulary.

    tokenizer.json holds the steps that transformers 5 builds for T5 whatever the file says, and that 4.57 reads from
    the file, so both tokenize alike.
    """
    import sentencepiece
    from sentencepiece import sentencepiece_model_pb2
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

    trained = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(texts), model_writer=trained, model_type="unigram", vocab_size=vocab_size,
            character_coverage=1.0, hard_vocab_limit=False, num_threads=1, minloglevel=2,
            pad_id=PAD, eos_id=END, unk_id=UNKNOWN, bos_id=-1,
        )  # fmt: skip
    except RuntimeError as error:
        raise UserError(f"no vocabulary of {vocab_size} pieces could be trained: {str(error).strip()}") from None
    (folder / "spiece.model").write_bytes(trained.getvalue())
    proto = sentencepiece_model_pb2.ModelProto.FromString(trained.getvalue())
    tokenizer = Tokenizer(models.Unigram([(p.piece, p.score) for p in proto.pieces], UNKNOWN, byte_fallback=False))
    tokenizer.normalizer = normalizers.Precompiled(proto.normalizer_spec.precompiled_charsmap)
    spaces: dict[str, Any] = {"replacement": "▁", "prepend_scheme": "always"}
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace(**spaces)]
    )
    tokenizer.decoder = decoders.Metaspace(**spaces)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A </s>", pair="$A </s> $B </s>", special_tokens=[("</s>", END)]
    )
    tokenizer.add_special_tokens(list(SPECIAL_TOKENS))
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {
        "tokenizer_class": "T5Tokenizer", "extra_ids": 0, "additional_special_tokens": [], "legacy": True,
        "pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>", "clean_up_tokenization_spaces": False,
    }  # fmt: skip
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=2) + "\n")
    return int(tokenizer.get_vocab_size())
