"""A made-up corpus, and tiny models made from it on the spot. Nothing is downloaded."""

import io
import itertools
import json
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from mtcpo.models.creation import CreateConfig, create_model
from mtcpo.models.prompts import TextExample

ANIMALS = [
    ("bear", "Bärchen"),
    ("cow", "Rind"),
    ("bird", "Vögelein"),
    ("lion", "Löwenjunges"),
    ("hen", "Hühnchen"),
    ("frog", "Fröschlein"),
]
VERBS = [("hears", "hört"), ("finds", "findet"), ("greets", "grüßt"), ("sees", "sieht"), ("kisses", "küsst")]
THINGS = [
    ("a green key", "einen grünen Schlüssel"),
    ("three dark doors", "drei dunkle Türen"),
    ("the old mill", "die alte Mühle"),
    ("nothing at all", "überhaupt nichts"),
    ("many small fish by the river", "viele kleine Fische am Fluß"),
]

PAIRS = [
    (f"The {animal} {verb} {thing}.", f"Das {tier} {tut} {ding}.")
    for (animal, tier), (verb, tut), (thing, ding) in itertools.product(ANIMALS, VERBS, THINGS)
]
"""English and German sentences of several lengths, 150 pairs."""

PROMPT_WORDS = "Translate this from English to German: English: German: translation only. Give the"

TEXTS = [text for pair in PAIRS for text in pair] + [PROMPT_WORDS] * 9

SIZES = {"d_model": 32, "d_ff": 48, "layers": 2, "heads": 2, "vocab_size": 160}

KINDS = ("mt5", "llama", "marian", "m2m100", "nllb", "gpt2", "mixtral", "gemma2")
"""One for each way in which a layout or a head differs; mtcpo itself makes the first two."""

CHAT_TEMPLATE = (
    "{% for message in messages %}<|{{ message['role'] }}|>{{ message['content'] }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def preference_texts(count: int, start: int = 0) -> list[TextExample]:
    """Sources, each with its translation and with that of another sentence: rows of many lengths."""
    chosen = [PAIRS[(start + 7 * i) % len(PAIRS)] for i in range(count)]
    return [
        TextExample(source, "en", "de", (target, PAIRS[(start + 11 * i + 5) % len(PAIRS)][1]))
        for i, (source, target) in enumerate(chosen)
    ]


def make_model(kind: str, folder: Path) -> Path:
    """Write the tiny model of a kind into the existing `folder`."""
    from support.families import TINY_MODELS

    TINY_MODELS[kind].make(folder)
    return folder


def make_mt5(folder: Path) -> None:
    create_model(CreateConfig(architecture="mt5", **SIZES), TEXTS, folder)


def make_llama(folder: Path) -> None:
    create_model(CreateConfig(architecture="llama", **SIZES), TEXTS, folder)


def save_random_model(model_class: type, config: object, folder: Path) -> None:
    torch.manual_seed(1)
    model = model_class(config)
    for parameter in model.parameters():
        if parameter.dim() > 1:  # wider than the 0.02 of transformers, so that outputs depend on their inputs
            torch.nn.init.normal_(parameter, std=0.15)
    if hasattr(model, "final_logits_bias"):
        model.final_logits_bias.normal_()
    model.save_pretrained(folder)


def train_sentencepiece(file: Path, texts: list[str], size: int, **options: object) -> list[str]:
    """Train a SentencePiece model and return its pieces."""
    import sentencepiece

    trained = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(texts), model_writer=trained, vocab_size=size, character_coverage=1.0, num_threads=1,
        minloglevel=2, **({} if options.get("model_type") == "bpe" else {"hard_vocab_limit": False}), **options,
    )  # fmt: skip
    file.write_bytes(trained.getvalue())
    processor = sentencepiece.SentencePieceProcessor(model_proto=trained.getvalue())
    return [processor.id_to_piece(i) for i in range(len(processor))]


def write_json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, ensure_ascii=False), encoding="utf-8")


def make_marian(folder: Path, languages: tuple[str, ...] = ()) -> None:
    from transformers import MarianConfig, MarianMTModel

    pieces = train_sentencepiece(folder / "source.spm", [en for en, _ in PAIRS], 120)
    pieces += train_sentencepiece(folder / "target.spm", [de for _, de in PAIRS], 120)
    words = ["</s>", "<unk>", *sorted(set(pieces) - {"</s>", "<unk>", "<s>"}), *languages, "<pad>"]
    write_json(folder / "vocab.json", {word: i for i, word in enumerate(words)})
    settings = {"source_lang": "en", "target_lang": "de", "model_max_length": 64, "separate_vocabs": False}
    write_json(folder / "tokenizer_config.json", {"tokenizer_class": "MarianTokenizer", **settings})
    pad = len(words) - 1
    config = MarianConfig(
        vocab_size=len(words), d_model=32, encoder_layers=2, decoder_layers=2, encoder_attention_heads=2,
        decoder_attention_heads=2, encoder_ffn_dim=48, decoder_ffn_dim=48, max_position_embeddings=64, pad_token_id=pad,
        eos_token_id=0, forced_eos_token_id=0, decoder_start_token_id=pad, decoder_vocab_size=len(words), dropout=0.1,
    )  # fmt: skip
    save_random_model(MarianMTModel, config, folder)


def make_m2m100(folder: Path) -> None:
    from transformers.models.m2m_100.tokenization_m2m_100 import FAIRSEQ_LANGUAGE_CODES

    special = ["<s>", "<pad>", "</s>", "<unk>"]
    pieces = train_sentencepiece(folder / "sentencepiece.bpe.model", TEXTS, 120, bos_id=0, pad_id=1, eos_id=2, unk_id=3)
    words = [*special, *(piece for piece in pieces if piece not in special)]
    write_json(folder / "vocab.json", {word: i for i, word in enumerate(words)})
    # As in the published checkpoints: the tokenizer itself does not add its language tokens.
    languages = [f"__{code}__" for code in FAIRSEQ_LANGUAGE_CODES["m2m100"]]
    settings = {"tokenizer_class": "M2M100Tokenizer", "additional_special_tokens": languages}
    write_json(folder / "tokenizer_config.json", settings)
    _save_m2m100(folder)


def _save_m2m100(folder: Path) -> None:
    from transformers import AutoTokenizer, M2M100Config, M2M100ForConditionalGeneration

    size = max(AutoTokenizer.from_pretrained(folder).get_vocab().values()) + 1
    config = M2M100Config(
        vocab_size=size, d_model=32, encoder_layers=2, decoder_layers=2, encoder_attention_heads=2,
        decoder_attention_heads=2, encoder_ffn_dim=48, decoder_ffn_dim=48, max_position_embeddings=64, pad_token_id=1,
        bos_token_id=0, eos_token_id=2, decoder_start_token_id=2, dropout=0.1, encoder_layerdrop=0.3,
        decoder_layerdrop=0.3,
    )  # fmt: skip
    save_random_model(M2M100ForConditionalGeneration, config, folder)


def make_gpt2(folder: Path) -> None:
    """A chat model with merges across any border, learned positions, tied embeddings and no padding token."""
    from transformers import GPT2Config, GPT2LMHeadModel

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<|end|>", "<|user|>", "<|assistant|>"]
    trainer = trainers.BpeTrainer(
        vocab_size=420,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(TEXTS, trainer)
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|end|>", "chat_template": CHAT_TEMPLATE}
    write_json(folder / "tokenizer_config.json", settings)
    config = GPT2Config(
        vocab_size=tokenizer.get_vocab_size(), n_positions=96, n_embd=32, n_layer=2, n_head=2, bos_token_id=0,
        eos_token_id=0,
    )  # fmt: skip
    save_random_model(GPT2LMHeadModel, config, folder)
