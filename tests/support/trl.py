"""TRL's CPOTrainer beside ours: the same weights and token ids to both, and how far apart they come out.

Only for comparison: TRL is a dependency of the tests alone.
"""

import os
import random
from dataclasses import replace

import torch

from mtcpo.models.layouts.base import Example
from mtcpo.models.loading import assemble, load_model
from mtcpo.training import losses
from mtcpo.training.arguments import training_setup
from mtcpo.training.config import TrainConfig
from mtcpo.training.prepare import set_dropout
from mtcpo.training.trainer import ExampleTrainer
from support.models import SIZES, preference_texts

# Read when the module is imported.
os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")

LAYOUTS = ("t5", "llama", "mixtral")
LOSSES = ("sigmoid", "hinge", "ipo", "simpo", "alphapo")
"""All that TRL has."""

METRICS = (
    "rewards/chosen", "rewards/rejected", "rewards/accuracies", "rewards/margins", "logps/chosen", "logps/rejected",
    "nll_loss",
)  # fmt: skip


def load_peer_model(kind, folder):
    """A tiny model in float32 on the CPU; `folder` holds that of a kind of support.models, for t5 that of mt5."""
    loaded = load_model(str(folder), dtype="float32", device="cpu")
    set_dropout(loaded.model, 0.0)
    if kind != "t5":
        return loaded
    from transformers import T5Config, T5ForConditionalGeneration

    torch.manual_seed(1)
    config = T5Config(
        vocab_size=loaded.model.config.vocab_size, d_model=SIZES["d_model"], d_kv=16, d_ff=SIZES["d_ff"], num_layers=2,
        num_heads=2, dropout_rate=0.0, decoder_start_token_id=0, tie_word_embeddings=True,
    )  # fmt: skip
    # With its own first weights, whose embeddings are wide: probabilities are far from uniform.
    model = T5ForConditionalGeneration(config)
    family = replace(loaded.family, model_types=("t5",))
    return assemble("t5", model, loaded.tokenizer, family)


def random_cases(loss, number):
    """Random settings of a loss, of every parameter that it has; the same at every call."""
    rng = random.Random(loss)
    # Whole targets have log-probabilities of -10 to -60: a larger alpha would give losses in the thousands.
    most = 0.5 if losses.LOSSES[loss].length_normalized else 0.05
    cases = []
    for i in range(number):
        settings = {
            "loss": loss,
            "beta": rng.uniform(0.1, 2.0) if loss == "ipo" or i % 2 else rng.uniform(0.01, 0.3),
            "label_smoothing": (0.0, rng.uniform(0, 0.49))[i % 2],
            "simpo_gamma": rng.uniform(0, 2),
            "alpha": (rng.uniform(-most, most), 0.0, rng.uniform(-most, most))[i % 3],
            # TRL's alphapo has no other.
            "cpo_alpha": 0.0 if loss == "alphapo" else (0.0, 1.0, rng.uniform(0, 2), rng.uniform(0, 2))[i % 4],
        }
        cases.append(
            {name: value for name, value in settings.items() if name == "loss" or name in losses.loss_parameters(loss)}
        )
    return cases


class Peers:
    """Both trainers on one tiny model and its examples, all in one batch."""

    def __init__(self, loaded, folder):
        self.loaded, self.folder = loaded, folder
        self.whole = loaded.layout.encode(preference_texts(6))
        # TRL raises exp(logp) to a power, which underflows for whole sentences.
        self.short = [
            Example(e.source, (e.targets[0][: 4 + i] + e.targets[0][-1:], e.targets[1][: 9 - i]))
            for i, e in enumerate(self.whole)
        ]
        self._trl = {}

    def examples(self, settings):
        """What settings are compared on."""
        powers_of_sums = settings.get("alpha") and not losses.LOSSES[settings["loss"]].length_normalized
        return self.short if powers_of_sums else self.whole

    def ours(self, settings, examples):
        """Our trainer."""
        config = TrainConfig(**settings, args={"use_cpu": True, "per_device_eval_batch_size": len(examples)})
        arguments = training_setup(config, self.folder, evaluates=True).args
        return ExampleTrainer(self.loaded, arguments, config, examples, examples)

    def trl(self, settings):
        """TRL's trainer, made once for each of its losses."""
        loss = settings["loss"]
        if loss not in self._trl:
            self._trl[loss] = self.trl_trainer(loss_type=loss)
        trainer = self._trl[loss]
        for name in ("beta", "label_smoothing", "simpo_gamma", "alpha", "cpo_alpha"):
            setattr(trainer, name, settings.get(name, getattr(trainer.args, name)))
        return trainer

    def trl_trainer(self, **settings):
        """A new trainer of TRL's with these fields of its configuration."""
        from datasets import Dataset
        from datasets.utils.logging import disable_progress_bar
        from trl.experimental.cpo import CPOConfig, CPOTrainer

        disable_progress_bar()
        arguments = CPOConfig(
            str(self.folder), use_cpu=True, bf16=False, gradient_checkpointing=False, report_to="none",
            remove_unused_columns=False, max_completion_length=128, **settings,
        )  # fmt: skip
        if self.loaded.tokenizer.pad_token is None:  # TRL cannot pad without one
            self.loaded.tokenizer.pad_token = self.loaded.tokenizer.eos_token
        text = Dataset.from_list([{"prompt": "The cow sees", "chosen": " nothing.", "rejected": " all."}])
        return CPOTrainer(self.loaded.model, arguments, train_dataset=text, processing_class=self.loaded.tokenizer)

    def trl_batch(self, trainer, examples):
        """Our token ids as TRL's own collator pads them."""
        rows = []
        for example in examples:
            row = {"prompt_input_ids": list(example.source), "prompt_attention_mask": [1] * len(example.source)}
            for name, target in zip(("chosen", "rejected"), map(list, example.targets), strict=True):
                if trainer.is_encoder_decoder:
                    row[f"{name}_labels"] = target
                    continue
                row[f"{name}_input_ids"] = [*example.source, *target]
                row[f"{name}_attention_mask"] = [1] * len(row[f"{name}_input_ids"])
                row[f"{name}_labels"] = [-100] * len(example.source) + target
            rows.append(row)
        return trainer.data_collator(rows)

    def gradients(self, loss):
        """The gradient of every parameter that has one."""
        self.loaded.model.zero_grad()
        loss.backward()
        return {name: p.grad.clone() for name, p in self.loaded.model.named_parameters() if p.grad is not None}

    def our_numbers(self, settings, examples):
        """Loss, metrics, gradients."""
        trainer = self.ours(settings, examples)
        loss = trainer.compute_loss(self.loaded.model, self.loaded.layout.collate(examples))
        logged = {name.removeprefix("eval_"): value for name, value in trainer.evaluate().items()}
        return loss, logged, self.gradients(loss)

    def trl_numbers(self, settings, examples):
        """Loss, metrics, gradients."""
        trainer = self.trl(settings)
        loss, logged = trainer.get_batch_loss_metrics(self.loaded.model, self.trl_batch(trainer, examples), "train")
        return loss, logged, self.gradients(loss)

    def differences(self, settings):
        """The largest differences of loss, metrics and gradients; see `distance`."""
        examples = self.examples(settings)
        our_loss, our_logs, our_gradients = self.our_numbers(settings, examples)
        trl_loss, trl_logs, trl_gradients = self.trl_numbers(settings, examples)
        assert our_gradients.keys() == trl_gradients.keys()
        # Without its weight TRL does not compute the NLL and logs 0.
        metrics = [name for name in METRICS if name != "nll_loss" or settings["cpo_alpha"] > 0]
        flat = [torch.cat([gradient.flatten() for gradient in of.values()]) for of in (our_gradients, trl_gradients)]
        return {
            "loss": distance(our_loss.detach(), trl_loss.detach()),
            "metrics": max(distance(torch.tensor(our_logs[m]), torch.tensor(trl_logs[m])) for m in metrics),
            "gradients": distance(*flat),
        }


def distance(ours, theirs):
    """The largest absolute difference, over the largest value where that is above 1; NaN where either has one."""
    return float((ours - theirs).abs().max() / theirs.abs().max().clamp(min=1.0))
