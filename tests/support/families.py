"""Tiny models of every family that families.py declares, with tokenizers as their published checkpoints have them.

Vocabularies are trained on the spot; the files are those that the family's tokenizer class reads, no more.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from support.models import (
    CHAT_TEMPLATE,
    PAIRS,
    TEXTS,
    make_gpt2,
    make_llama,
    make_m2m100,
    make_marian,
    make_mt5,
    save_random_model,
    train_sentencepiece,
    write_json,
)

THINKING_TEMPLATE = (
    "{% for message in messages %}<|{{ message['role'] }}|>{{ message['content'] }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>"
    "{% if enable_thinking is defined and enable_thinking is false %}<think></think>{% endif %}{% endif %}"
)
"""As Qwen 3's: unless it is switched off, the model writes its thoughts first."""


def _settings(folder: Path, tokenizer_class: str, **values: object) -> None:
    write_json(folder / "tokenizer_config.json", {"tokenizer_class": tokenizer_class, **values})


def _sentencepiece_proto(file: Path) -> object:
    from sentencepiece import sentencepiece_model_pb2

    return sentencepiece_model_pb2.ModelProto.FromString(file.read_bytes())


def _merges(ids: dict[str, int]) -> list[tuple[str, str]]:
    """Return the merges of a SentencePiece BPE: every way to make a piece of two, in the order of the pieces."""
    cuts = [(piece[:i], piece[i:]) for piece in ids for i in range(1, len(piece))]
    pairs = [(one, two) for one, two in cuts if one in ids and two in ids]
    return sorted(pairs, key=lambda pair: ids[pair[0] + pair[1]])


def _write_tokenizer_json(folder: Path) -> None:
    """Write what 4.57 makes of the SentencePiece model: checkpoints that transformers 5 reads by it alone have both."""
    (file,) = folder.glob("*.model")
    model = _sentencepiece_proto(file)
    pieces = [(piece.piece, piece.score) for piece in model.pieces]
    spaces: dict[str, object] = {"replacement": "▁", "prepend_scheme": "always"}
    if model.trainer_spec.byte_fallback:
        ids = {piece: i for i, (piece, _) in enumerate(pieces)}
        pairs = [
            (a, b) for piece in ids for i in range(1, len(piece)) if (a := piece[:i]) in ids and (b := piece[i:]) in ids
        ]
        merges = sorted(pairs, key=lambda pair: ids[pair[0] + pair[1]])
        tokenizer = Tokenizer(models.BPE(ids, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
        tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
        steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
        tokenizer.decoder = decoders.Sequence(steps)
        single, special = "<s> $A", ("<s>", ids["<s>"])
    else:
        tokenizer = Tokenizer(models.Unigram(pieces, model.trainer_spec.unk_id, byte_fallback=False))
        charsmap = normalizers.Precompiled(model.normalizer_spec.precompiled_charsmap)
        tokenizer.normalizer = normalizers.Sequence([charsmap, normalizers.Replace(Regex(" {2,}"), " ")])
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(**spaces)
        tokenizer.decoder = decoders.Metaspace(**spaces)
        single, special = "$A </s>", ("</s>", 1)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=single, pair=f"{single} {single.replace('A', 'B')}", special_tokens=[special]
    )
    tokenizer.add_special_tokens([piece for piece in ("<pad>", "<unk>", "<s>", "</s>") if piece in dict(pieces)])
    tokenizer.save(str(folder / "tokenizer.json"))


def _vocabulary_size(folder: Path) -> int:
    from transformers import AutoTokenizer

    return max(AutoTokenizer.from_pretrained(folder).get_vocab().values()) + 1


# --- T5 and its kin ---------------------------------------------------------------------------------------------------

T5_IDS = {"pad_id": 0, "eos_id": 1, "unk_id": 2, "bos_id": -1}


def _t5_sizes(size: int) -> dict[str, object]:
    return {
        "vocab_size": size, "d_model": 32, "d_ff": 48, "d_kv": 16, "num_layers": 2, "num_decoder_layers": 2,
        "num_heads": 2, "pad_token_id": 0, "eos_token_id": 1, "decoder_start_token_id": 0,
    }  # fmt: skip


def _save_apart(kind: str, sizes: dict[str, object], folder: Path) -> None:
    """Save a T5, mT5 or UMT5 with an output table of its own, as version 1.1 and later have it, whatever the major."""
    import torch
    import transformers
    from safetensors.torch import load_file, save_file

    config = getattr(transformers, f"{kind}Config")(**sizes, feed_forward_proj="gated-gelu", tie_word_embeddings=False)
    save_random_model(getattr(transformers, f"{kind}ForConditionalGeneration"), config, folder)
    tensors = load_file(folder / "model.safetensors")
    table = torch.randn(tensors["shared.weight"].shape, generator=torch.Generator().manual_seed(2))
    save_file(tensors | {"lm_head.weight": 0.15 * table}, folder / "model.safetensors", metadata={"format": "pt"})
    # transformers 5 writes "tied" of every T5.
    written = json.loads((folder / "config.json").read_text())
    written.pop("scale_decoder_outputs", None)
    write_json(folder / "config.json", written | {"tie_word_embeddings": False})


def _t5(folder: Path) -> None:
    from transformers import T5Config, T5ForConditionalGeneration

    train_sentencepiece(folder / "spiece.model", [*TEXTS, *["translate English to German:"] * 9], 160, **T5_IDS)
    _settings(folder, "T5Tokenizer", extra_ids=10)
    # As published: rows of the embedding up to a round number, beyond the vocabulary.
    size = _vocabulary_size(folder) + 7
    save_random_model(T5ForConditionalGeneration, T5Config(**_t5_sizes(size)), folder)


def _mt5_tied(folder: Path) -> None:
    from transformers import MT5Config, MT5ForConditionalGeneration

    train_sentencepiece(folder / "spiece.model", TEXTS, 160, **T5_IDS)
    _settings(folder, "T5Tokenizer", extra_ids=0)
    config = MT5Config(**_t5_sizes(_vocabulary_size(folder)), tie_word_embeddings=True)
    save_random_model(MT5ForConditionalGeneration, config, folder)


def _umt5(folder: Path) -> None:
    train_sentencepiece(folder / "spiece.model", TEXTS, 160, **T5_IDS)
    _settings(folder, "T5Tokenizer", extra_ids=0, pad_token="<pad>", eos_token="</s>", unk_token="<unk>")
    _write_tokenizer_json(folder)
    _save_apart("UMT5", _t5_sizes(_vocabulary_size(folder)), folder)


def _byt5(folder: Path) -> None:
    _settings(folder, "ByT5Tokenizer", extra_ids=125)
    _save_apart("T5", _t5_sizes(384), folder)


def _madlad(folder: Path) -> None:
    languages = ["<2de>", "<2en>", "<2fr>", "<2zh>", "<2zh_Hant>", "<2sr>", "<2pt>"]
    train_sentencepiece(folder / "spiece.model", TEXTS, 170, **T5_IDS, user_defined_symbols=languages)
    _settings(folder, "T5Tokenizer", extra_ids=0)
    _save_apart("T5", _t5_sizes(_vocabulary_size(folder)), folder)


# --- mBART, M2M100 and NLLB -----------------------------------------------------------------------------------------


def _bart_sizes(size: int) -> dict[str, object]:
    return {
        "vocab_size": size, "d_model": 32, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 2,
        "decoder_attention_heads": 2, "encoder_ffn_dim": 48, "decoder_ffn_dim": 48, "max_position_embeddings": 64,
        "pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2, "dropout": 0.1,
    }  # fmt: skip


def _nllb(folder: Path) -> None:
    """Both files, as published: transformers 5 finds no language tokens by the SentencePiece model alone."""
    from transformers import M2M100Config, M2M100ForConditionalGeneration
    from transformers.models.nllb.tokenization_nllb import FAIRSEQ_LANGUAGE_CODES

    pieces = train_sentencepiece(folder / "sentencepiece.bpe.model", TEXTS, 160, model_type="bpe")
    special = ["<s>", "<pad>", "</s>", "<unk>"]
    ids = {piece: i for i, piece in enumerate([*special, *pieces[3:]])}
    tokenizer = Tokenizer(models.BPE(ids, _merges(ids), unk_token="<unk>", fuse_unk=True))
    proto = _sentencepiece_proto(folder / "sentencepiece.bpe.model")
    charsmap = normalizers.Precompiled(proto.normalizer_spec.precompiled_charsmap)
    tokenizer.normalizer = normalizers.Sequence([charsmap, normalizers.Replace(Regex(" {2,}"), " ")])
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="always")
    tokenizer.decoder = decoders.Metaspace(replacement="▁", prepend_scheme="always")
    tokenizer.add_special_tokens([*special, *FAIRSEQ_LANGUAGE_CODES, "<mask>"])
    tokenizer.save(str(folder / "tokenizer.json"))
    _settings(folder, "NllbTokenizer")
    config = M2M100Config(
        **_bart_sizes(_vocabulary_size(folder)), decoder_start_token_id=2, scale_embedding=True,
        encoder_layerdrop=0.3, decoder_layerdrop=0.3,
    )  # fmt: skip
    save_random_model(M2M100ForConditionalGeneration, config, folder)


def _mbart(folder: Path, tokenizer_class: str, **values: object) -> None:
    from transformers import MBartConfig, MBartForConditionalGeneration

    train_sentencepiece(folder / "sentencepiece.bpe.model", TEXTS, 120)
    _settings(folder, tokenizer_class)
    config = MBartConfig(**_bart_sizes(_vocabulary_size(folder)), **values, forced_eos_token_id=2, scale_embedding=True)
    save_random_model(MBartForConditionalGeneration, config, folder)


def _mbart_50(folder: Path) -> None:
    _mbart(folder, "MBart50Tokenizer", decoder_start_token_id=2)


def _mbart_cc25(folder: Path) -> None:
    _mbart(folder, "MBartTokenizer")


def _marian_multilingual(folder: Path) -> None:
    make_marian(folder, languages=(">>deu<<", ">>fra<<", ">>ukr<<", ">>por<<", ">>srp_Cyrl<<", ">>srp_Latn<<"))


def make_marian_separate(folder: Path, larger_target: bool = False, tied: bool = True) -> None:
    """Two vocabularies with tables of their own, as converted checkpoints have them: of one size, padding last."""
    from transformers import MarianConfig, MarianMTModel

    vocabularies = []
    for name, column, size in (("source", 0, 120), ("target", 1, 140)):
        pieces = train_sentencepiece(folder / f"{name}.spm", [pair[column] for pair in PAIRS], size)
        vocabularies.append(["</s>", "<unk>", *sorted(set(pieces) - {"</s>", "<unk>", "<s>"})])
    longest = max(len(words) for words in vocabularies)
    for file, words in zip(("vocab.json", "target_vocab.json"), vocabularies, strict=True):
        if not larger_target:
            words += [f"<unused{i}>" for i in range(longest - len(words))]
        words.append("<pad>")
        write_json(folder / file, {word: i for i, word in enumerate(words)})
    settings = {"source_lang": "en", "target_lang": "de", "model_max_length": 64, "separate_vocabs": True}
    _settings(folder, "MarianTokenizer", **settings)
    source, target = map(len, vocabularies)
    sizes = _bart_sizes(source) | {"pad_token_id": source - 1, "bos_token_id": None, "eos_token_id": 0}
    config = MarianConfig(
        **sizes, decoder_vocab_size=target, decoder_start_token_id=source - 1, forced_eos_token_id=0,
        share_encoder_decoder_embeddings=False, tie_word_embeddings=tied,
    )  # fmt: skip
    save_random_model(MarianMTModel, config, folder)


# --- decoder-only -----------------------------------------------------------------------------------------------------


def _decoder_sizes(size: int) -> dict[str, object]:
    return {
        "vocab_size": size, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
        "num_attention_heads": 2, "num_key_value_heads": 1, "max_position_embeddings": 160,
    }  # fmt: skip


def _llama_vocabulary(
    folder: Path, tokenizer_class: str = "LlamaTokenizer", json_too: bool = False, **values: object
) -> dict[str, object]:
    """SentencePiece BPE with byte fallback and a BOS token; return the sizes of a model to it."""
    options = {"model_type": "bpe", "byte_fallback": True, "normalization_rule_name": "identity"}
    ids = {"unk_id": 0, "bos_id": 1, "eos_id": 2}
    if tokenizer_class == "GemmaTokenizer":
        ids = {"pad_id": 0, "eos_id": 1, "bos_id": 2, "unk_id": 3, "add_dummy_prefix": False}
        ids |= {"pad_piece": "<pad>", "eos_piece": "<eos>", "bos_piece": "<bos>"}
        ids |= {"user_defined_symbols": ["<mask>", "<start_of_turn>", "<end_of_turn>"]}
    train_sentencepiece(folder / "tokenizer.model", TEXTS, 460, **options, **ids)
    _settings(folder, tokenizer_class, **values)
    if json_too:
        _write_tokenizer_json(folder)
    tokens = {"bos_token_id": ids["bos_id"], "eos_token_id": ids["eos_id"], "pad_token_id": ids.get("pad_id")}
    return _decoder_sizes(_vocabulary_size(folder)) | tokens


def _byte_vocabulary(folder: Path, tokenizer_class: str, special: list[str], **values: object) -> dict[str, object]:
    """Byte-level BPE in tokenizer.json; return the sizes of a model to it."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    trainer = trainers.BpeTrainer(
        vocab_size=420, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    tokenizer.train_from_iterator(TEXTS, trainer)
    # Special tokens come after the vocabulary, as in Llama 3 and Qwen.
    tokenizer.add_special_tokens(special)
    if "bos_token" in values:
        bos = str(values["bos_token"])
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{bos} $A", pair=f"{bos} $A {bos} $B", special_tokens=[(bos, tokenizer.token_to_id(bos))]
        )
    tokenizer.save(str(folder / "tokenizer.json"))
    _settings(folder, tokenizer_class, **values)
    end = tokenizer.token_to_id(str(values["eos_token"]))
    tokens = {"bos_token_id": None, "eos_token_id": end, "pad_token_id": None}
    return _decoder_sizes(tokenizer.get_vocab_size()) | tokens


LLAMA_TOKENS = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "add_bos_token": True}


def _alma(folder: Path) -> None:
    from transformers import LlamaConfig, LlamaForCausalLM

    sizes = _llama_vocabulary(folder, **LLAMA_TOKENS)
    save_random_model(LlamaForCausalLM, LlamaConfig(**sizes, tie_word_embeddings=False), folder)


def _llama3(folder: Path) -> None:
    from transformers import LlamaConfig, LlamaForCausalLM

    special = ["<|begin|>", "<|end|>", "<|user|>", "<|assistant|>"]
    settings = {"bos_token": "<|begin|>", "eos_token": "<|end|>"}
    template = "{{ bos_token }}" + CHAT_TEMPLATE
    sizes = _byte_vocabulary(folder, "PreTrainedTokenizerFast", special, **settings, chat_template=template)
    # As published: another base and scaled frequencies, which the major versions write under different names.
    scaling = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
    scaling["original_max_position_embeddings"] = 16
    config = LlamaConfig(**sizes, tie_word_embeddings=True, rope_theta=100.0, rope_scaling=scaling)
    save_random_model(LlamaForCausalLM, config, folder)


CHAT_TOKENS = ["<|end|>", "<|user|>", "<|assistant|>", "<think>", "</think>"]


def _qwen(folder: Path, kind: str, template: str, **values: object) -> None:
    import transformers

    settings = {"eos_token": "<|end|>", "pad_token": "<|end|>", "unk_token": None, "bos_token": None}
    _byte_vocabulary(folder, "Qwen2Tokenizer", CHAT_TOKENS, eos_token="<|end|>")
    _settings(folder, "Qwen2Tokenizer", **settings, chat_template=template, add_prefix_space=False)
    end = Tokenizer.from_file(str(folder / "tokenizer.json")).token_to_id("<|end|>")
    # As published: rows of the embedding up to a round number, beyond the vocabulary.
    sizes = _decoder_sizes(_vocabulary_size(folder) + 9) | {"eos_token_id": end, "bos_token_id": None}
    config = getattr(transformers, f"{kind}Config")(**sizes, tie_word_embeddings=True, rope_theta=100.0, **values)
    save_random_model(getattr(transformers, f"{kind}ForCausalLM"), config, folder)


def _qwen2(folder: Path) -> None:
    _qwen(folder, "Qwen2", CHAT_TEMPLATE)


def _qwen3(folder: Path) -> None:
    _qwen(folder, "Qwen3", THINKING_TEMPLATE, head_dim=16)


GEMMA_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}<start_of_turn>"
    "{{ 'model' if message['role'] == 'assistant' else message['role'] }}\n{{ message['content'] }}<end_of_turn>\n"
    "{% endfor %}{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
)


def _gemma(folder: Path, kind: str, template: str | None = None, **values: object) -> None:
    import transformers

    tokens = {"bos_token": "<bos>", "eos_token": "<eos>", "pad_token": "<pad>", "unk_token": "<unk>"}
    if template:
        tokens |= {"chat_template": template, "additional_special_tokens": ["<start_of_turn>", "<end_of_turn>"]}
    sizes = _llama_vocabulary(folder, "GemmaTokenizer", **tokens, add_bos_token=True)
    config = getattr(transformers, f"{kind}Config")(**sizes, head_dim=16, **values)
    save_random_model(getattr(transformers, f"{kind.removesuffix('Text')}ForCausalLM"), config, folder)


def _gemma1(folder: Path) -> None:
    _gemma(folder, "Gemma")


def _gemma2(folder: Path) -> None:
    """Soft-capped logits; a low cap, so that it matters."""
    _gemma(folder, "Gemma2", final_logit_softcapping=2.0)


def _gemma3(folder: Path) -> None:
    """Two kinds of layers with rotary bases of their own, and a chat template whose turns close with another token."""
    layers = ["sliding_attention", "full_attention"]
    _gemma(
        folder,
        "Gemma3Text",
        GEMMA_TEMPLATE,
        layer_types=layers,
        rope_theta=500.0,
        rope_local_base_freq=50.0,
        sliding_window=16,
    )


def _mistral(folder: Path) -> None:
    from transformers import MistralConfig, MistralForCausalLM

    sizes = _llama_vocabulary(folder, json_too=True, **LLAMA_TOKENS)
    save_random_model(MistralForCausalLM, MistralConfig(**sizes, sliding_window=None), folder)


def _mixtral(folder: Path) -> None:
    """A mixture of experts with its router loss."""
    from transformers import MixtralConfig, MixtralForCausalLM

    sizes = _llama_vocabulary(folder, json_too=True, **LLAMA_TOKENS)
    sizes |= {"num_local_experts": 4, "num_experts_per_tok": 2}
    save_random_model(
        MixtralForCausalLM, MixtralConfig(**sizes, output_router_logits=True, router_aux_loss_coef=0.05), folder
    )


def _gpt_neox(folder: Path) -> None:
    from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

    settings = {"eos_token": "<|endoftext|>", "unk_token": "<|endoftext|>"}
    sizes = _byte_vocabulary(folder, "GPTNeoXTokenizer", ["<|endoftext|>", "<|padding|>"], **settings)
    del sizes["num_key_value_heads"]
    save_random_model(GPTNeoXForCausalLM, GPTNeoXConfig(**sizes, tie_word_embeddings=False, rotary_pct=0.5), folder)


def _cohere(folder: Path) -> None:
    """Logits times a scale."""
    from transformers import CohereConfig, CohereForCausalLM

    sizes = _byte_vocabulary(folder, "PreTrainedTokenizerFast", ["<|end|>"], eos_token="<|end|>")
    save_random_model(CohereForCausalLM, CohereConfig(**sizes, logit_scale=0.25), folder)


def _granite(folder: Path) -> None:
    """Logits divided by a scale."""
    from transformers import GraniteConfig, GraniteForCausalLM

    sizes = _byte_vocabulary(folder, "PreTrainedTokenizerFast", ["<|end|>"], eos_token="<|end|>")
    save_random_model(GraniteForCausalLM, GraniteConfig(**sizes, logits_scaling=4.0), folder)


# --- the table --------------------------------------------------------------------------------------------------------

PROMPT = "Translate this from English to German:\nEnglish: {}\nGerman:"
CHAT = "Translate this from English to German. Give only the translation.\n{}"


@dataclass(frozen=True)
class TinyModel:
    """A kind of tiny model, and what its family makes of a pair from English to German; end tokens apart.

    make: writes it into an existing folder.
    family: its name in FAMILIES.
    prompt: what the model is given, special tokens included, with {} for the source. (`</s>` and the token of the
        source's language are left out.)
    source_start, source_end: the first token and the last two, for models that mark languages there.
    target_code: the place of the target language's token among the labels, and the token.
    target_end: the token that ends a target, where it is not EOS.
    float16: whether the family can be run in half precision.
    packs: for decoder-only models, whether pairs share a row.
    has_sdpa: whether it runs with PyTorch's attention under all versions of transformers.
    """

    make: Callable[[Path], None]
    family: str
    prompt: str = "{}"
    source_start: str = ""
    source_end: tuple[str, ...] = ()
    target_code: tuple[int, str] | None = None
    target_end: str = ""
    float16: bool = True
    packs: bool = True
    has_sdpa: bool = True


TINY_MODELS = {
    "mt5": TinyModel(make_mt5, "mt5", float16=False),
    "m2m100": TinyModel(make_m2m100, "m2m100", source_start="__en__", target_code=(0, "__de__")),
    "marian": TinyModel(make_marian, "marian"),
    "llama": TinyModel(make_llama, "llama", PROMPT.replace("\n", " ")),
    "gpt2": TinyModel(make_gpt2, "gpt2", f"<|user|>{CHAT}<|end|><|assistant|>"),
    "t5": TinyModel(_t5, "t5", "translate English to German: {}", float16=False),
    "mt5-tied": TinyModel(_mt5_tied, "mt5", float16=False),
    "umt5": TinyModel(_umt5, "umt5", float16=False),
    "byt5": TinyModel(_byt5, "byt5", float16=False),
    "madlad": TinyModel(_madlad, "madlad", "<2de> {}", source_start="<2de>", float16=False),
    "nllb": TinyModel(_nllb, "nllb", source_start="eng_Latn", target_code=(0, "deu_Latn")),
    "mbart-50": TinyModel(_mbart_50, "mbart-50", source_start="en_XX", target_code=(0, "de_DE")),
    "mbart-cc25": TinyModel(_mbart_cc25, "mbart-cc25", source_end=("</s>", "en_XX"), target_code=(-1, "de_DE")),
    "marian-multilingual": TinyModel(_marian_multilingual, "marian-multilingual", ">>deu<< {}", source_start=">>deu<<"),
    "marian-separate": TinyModel(make_marian_separate, "marian"),
    "alma": TinyModel(_alma, "llama", f"<s> {PROMPT}"),
    "llama3": TinyModel(_llama3, "llama", f"<|begin|><|user|>{CHAT}<|end|><|assistant|>"),
    "qwen2": TinyModel(_qwen2, "qwen", f"<|user|>{CHAT}<|end|><|assistant|>"),
    "qwen3": TinyModel(_qwen3, "qwen", f"<|user|>{CHAT}<|end|><|assistant|><think></think>"),
    "gemma": TinyModel(_gemma1, "gemma", f"<bos>{PROMPT}"),
    # transformers 5 has no PyTorch attention for soft-capped scores.
    "gemma2": TinyModel(_gemma2, "gemma", f"<bos>{PROMPT}", has_sdpa=False),
    # Its local layers look back 16 positions, so a second target would not see the whole prompt.
    "gemma3": TinyModel(
        _gemma3,
        "gemma",
        f"<bos><start_of_turn>user\n{CHAT}<end_of_turn>\n<start_of_turn>model\n",
        target_end="<end_of_turn>",
        packs=False,
    ),
    "mistral": TinyModel(_mistral, "mistral", f"<s> {PROMPT}"),
    # The router loss counts prompts, which a packed row has once for both targets.
    "mixtral": TinyModel(_mixtral, "mistral", f"<s> {PROMPT}", packs=False),
    "gpt_neox": TinyModel(_gpt_neox, "gpt-neox", PROMPT),
    "cohere": TinyModel(_cohere, "cohere", PROMPT),
    "granite": TinyModel(_granite, "granite", PROMPT),
}
"""Every kind of tiny model. A new family has one or more rows here, and the proofs of families run on each."""
