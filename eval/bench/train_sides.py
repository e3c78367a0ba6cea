"""Both sides of the training benchmark: models with random weights, pairs of random tokens, mtcpo's trainer and TRL's.

The lengths follow the quantiles of Multi30k's training set (29,000 pairs, tokenized with a vocabulary of 8,000, end
token included); a rejected target differs in length from its chosen one as candidates of one source do there. Token
ids are random, so chosen and rejected have a common prefix only if `alike` asks for one.
"""

from __future__ import annotations

import contextlib
import io
import os
import random
import tempfile
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")  # read when TRL is imported

from mtcpo.models.families import Family, family_of
from mtcpo.models.layouts.base import Example
from mtcpo.models.loading import LoadedModel, assemble
from mtcpo.training.arguments import training_setup
from mtcpo.training.config import TrainConfig
from mtcpo.training.prepare import set_dropout
from mtcpo.training.trainer import ExampleTrainer

SOURCE_LENGTHS = (5, 9, 10, 11, 12, 12, 13, 13, 14, 14, 15, 15, 16, 17, 17, 18, 19, 20, 22, 25, 53)
"""Quantiles 0, 0.05, ... 1 of Multi30k's English sentences, in tokens."""

TARGET_NOISE, REJECTED_NOISE = 2.6, 4.4
"""Standard deviations of target minus source length, and of rejected minus chosen length, in tokens."""

ALMA_WORDS = 14
"""Tokens of the ALMA prompt around its source, in Qwen 2's vocabulary."""

ALIKE = 3
"""Mean length of the common prefix of chosen and rejected, in pairs of a model's own candidates."""

PAD, EOS, FIRST = 0, 1, 5


def pairs_of(count: int, vocabulary: int, settings: dict[str, Any]) -> list[Example]:
    """Make pairs; the same settings give the same pairs.

    Args:
        count: number of pairs.
        vocabulary: size of the vocabulary; ids are below it.
        settings: prompt (tokens around each source), scale (factor on all lengths), target (a fixed target length
            instead of the distribution), alike (length of the common prefix of both targets).
    """
    rng = random.Random(0)
    tokens = lambda n: tuple(rng.randrange(FIRST, vocabulary) for _ in range(n))  # noqa: E731
    found = []
    for _ in range(count):
        place = rng.random() * (len(SOURCE_LENGTHS) - 1)
        low = int(place)
        source = SOURCE_LENGTHS[low] + (place - low) * (SOURCE_LENGTHS[low + 1] - SOURCE_LENGTHS[low])
        chosen = source + 0.5 + rng.gauss(0, TARGET_NOISE)
        rejected = chosen + rng.gauss(0, REJECTED_NOISE)
        scale = settings.get("scale", 1.0)
        lengths = [max(4, round(scale * length)) for length in (source, chosen, rejected)]
        if "target" in settings:
            lengths[1:] = [settings["target"]] * 2
        prompt = tokens(settings.get("prompt", 0) + lengths[0] - 1)
        common = tokens(min(settings.get("alike", 0), *(n - 1 for n in lengths[1:])))
        targets = tuple((*common, *tokens(n - len(common) - 1), EOS) for n in lengths[1:])
        found.append(Example((*prompt, EOS if not settings.get("prompt") else FIRST), targets))
    return found


# --- models -----------------------------------------------------------------------------------------------------------


def _mt5(width: int, inner: int, layers: int, heads: int) -> nn.Module:
    from transformers import MT5Config, MT5ForConditionalGeneration

    config = MT5Config(
        vocab_size=250_112, d_model=width, d_kv=64, d_ff=inner, num_layers=layers, num_heads=heads,
        feed_forward_proj="gated-gelu", decoder_start_token_id=PAD, tie_word_embeddings=False,
    )  # fmt: skip
    model = MT5ForConditionalGeneration(config)
    # As published: embeddings and lm_head are separate, although transformers 5 ties them in new models; and logits are
    # as large as those of a trained model.
    table = torch.randn(model.shared.weight.shape) * width**-0.5
    model.lm_head.weight = nn.Parameter(table)
    nn.init.normal_(model.shared.weight)
    return model


def _marian() -> nn.Module:
    from transformers import MarianConfig, MarianMTModel

    config = MarianConfig(
        vocab_size=58_101, d_model=512, encoder_layers=6, decoder_layers=6, encoder_ffn_dim=2048, decoder_ffn_dim=2048,
        encoder_attention_heads=8, decoder_attention_heads=8, max_position_embeddings=512, scale_embedding=True,
        activation_function="swish", pad_token_id=PAD, eos_token_id=EOS, decoder_start_token_id=PAD,
        forced_eos_token_id=EOS, bos_token_id=None,
    )  # fmt: skip
    return MarianMTModel(config)


def _qwen2(width: int, inner: int, layers: int, heads: int) -> nn.Module:
    from transformers import Qwen2Config, Qwen2ForCausalLM

    config = Qwen2Config(
        vocab_size=151_936, hidden_size=width, intermediate_size=inner, num_hidden_layers=layers,
        num_attention_heads=heads, num_key_value_heads=2, max_position_embeddings=2048, tie_word_embeddings=True,
        pad_token_id=PAD, eos_token_id=EOS, bos_token_id=None,
    )  # fmt: skip
    return Qwen2ForCausalLM(config)


SHAPES = {
    "mt5-small": lambda: _mt5(512, 1024, 8, 6),
    "mt5-base": lambda: _mt5(768, 2048, 12, 12),
    "marian": _marian,
    "qwen2-0.5b": lambda: _qwen2(896, 4864, 24, 14),
    "qwen2-small": lambda: _qwen2(384, 1536, 8, 6),
}
"""qwen2-small has the vocabulary of Qwen2-0.5B and about a tenth of its layers' weights: small enough for a CPU."""


def tokenizer_of() -> Any:
    """Return a tokenizer with a few words: TRL requires one, but only its padding is used."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = {word: i for i, word in enumerate(("<pad>", "</s>", "<unk>", "a", "b"))}
    backend = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="<pad>", eos_token="</s>", unk_token="<unk>", bos_token="</s>"
    )


def make_model(shape: str) -> LoadedModel:
    """Make a model in float32 without dropout, with the same weights at every call."""
    torch.manual_seed(0)
    model, tokenizer = SHAPES[shape](), tokenizer_of()
    layout = "encoder-decoder" if model.config.is_encoder_decoder else "decoder-only"
    family: Family = family_of(model.config.model_type, tokenizer.get_vocab(), layout)
    set_dropout(model, 0.0)
    model.generation_config.pad_token_id = PAD
    return assemble(shape, model, tokenizer, family)


# --- trainers ---------------------------------------------------------------------------------------------------------


def common_arguments(run: dict[str, Any], steps: int) -> dict[str, Any]:
    """Return the arguments of both trainers."""
    return {
        "use_cpu": not run["gpu"], "bf16": run["gpu"] and run["dtype"] == "bf16", "optim": run["optim"],
        "learning_rate": run.get("learning_rate", 1e-3), "lr_scheduler_type": "constant", "max_steps": steps,
        "per_device_train_batch_size": run["pairs"], "gradient_accumulation_steps": 1, "logging_steps": 10**6,
        "save_strategy": "no", "report_to": "none", "seed": 0, "disable_tqdm": True, "max_grad_norm": 1.0,
    }  # fmt: skip


def our_trainer(loaded: LoadedModel, examples: Sequence[Example], run: dict[str, Any], steps: int) -> Any:
    """Return mtcpo's trainer: sigmoid loss, NLL of the chosen with weight 1."""
    config = TrainConfig(loss="sigmoid", beta=0.1, cpo_alpha=1.0, args=common_arguments(run, steps))
    config.args["warmup_ratio"] = 0.0
    setup = training_setup(config, _folder())
    with setup.applied():
        return ExampleTrainer(loaded, setup.args, config, examples)


def trl_trainer(loaded: LoadedModel, examples: Sequence[Example], run: dict[str, Any], steps: int) -> Any:
    """Return TRL's trainer with the same loss; it gets token ids, and its own collator pads them."""
    from datasets import Dataset
    from datasets.utils.logging import disable_progress_bar
    from trl.experimental.cpo import CPOConfig, CPOTrainer

    disable_progress_bar()
    options = common_arguments(run, steps) | {"bf16": run["gpu"] and run["dtype"] == "bf16"}
    arguments = CPOConfig(
        str(_folder()), loss_type="sigmoid", beta=0.1, cpo_alpha=1.0, remove_unused_columns=False,
        gradient_checkpointing=False, max_completion_length=128, **options,
    )  # fmt: skip
    text = Dataset.from_list([{"prompt": "a", "chosen": "b", "rejected": "a b"}])
    with contextlib.redirect_stderr(io.StringIO()):
        trainer = CPOTrainer(loaded.model, arguments, train_dataset=text, processing_class=loaded.tokenizer)
    trainer.train_dataset = [_trl_row(example, trainer.is_encoder_decoder) for example in examples]
    return trainer


def _trl_row(example: Example, encoder_decoder: bool) -> dict[str, list[int]]:
    row = {"prompt_input_ids": list(example.source), "prompt_attention_mask": [1] * len(example.source)}
    for name, target in zip(("chosen", "rejected"), map(list, example.targets), strict=True):
        if encoder_decoder:
            row[f"{name}_labels"] = target
            continue
        row[f"{name}_input_ids"] = [*example.source, *target]
        row[f"{name}_attention_mask"] = [1] * len(row[f"{name}_input_ids"])
        row[f"{name}_labels"] = [-100] * len(example.source) + target
    return row


def _folder() -> Any:
    from pathlib import Path

    return Path(tempfile.mkdtemp(prefix="train-step-"))


SIDES = {"ours": our_trainer, "trl": trl_trainer}
