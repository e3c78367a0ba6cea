"""The trainer: Seq2SeqTrainer of transformers with preference losses, exact normalizers and length batches.

Checkpoints, resuming, logging, accelerate, FSDP and DeepSpeed are left to transformers; only batches, losses and logged
figures are defined here. Dimensions: B pairs, R rows (chosen first), T target tokens.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers import Seq2SeqTrainingArguments

from mtcpo.core.errors import UserError
from mtcpo.models.head.targets import TokenScores
from mtcpo.models.layouts.base import Batch, Example
from mtcpo.models.loading import LoadedModel
from mtcpo.training.arguments import router_weight
from mtcpo.training.batching import BatchLimits, ExampleSet, length_loader
from mtcpo.training.callbacks import FinishedRun
from mtcpo.training.config import TrainConfig, with_trial_values
from mtcpo.training.dev_set import DevSet
from mtcpo.training.losses import LossConfig, LossFunction, LossSpec, chosen_nll, find_loss, pair_logps
from mtcpo.training.meters import Meters, batch_sums, count_items, divergence
from mtcpo.training.sharding import ShardableTrainer, is_sharded

PAIRS, CHOSEN_TOKENS, TOKENS = range(3)
"""Indices into the counts (3,) of a batch or an optimizer step."""


class ExampleTrainer(ShardableTrainer):
    """Trains on tokenized examples: triplets, or chosen targets alone with `loss = "sft"`."""

    def __init__(
        self,
        loaded: LoadedModel | Callable[[Any], LoadedModel],
        args: Seq2SeqTrainingArguments,
        config: TrainConfig,
        examples: Sequence[Example],
        eval_examples: Sequence[Example] | None = None,
        dev: DevSet | None = None,
        loss: LossSpec | None = None,
        callbacks: Sequence[Any] = (),
        **kwargs: Any,
    ) -> None:
        """Set up training.

        Args:
            loaded: the model; for `hyperparameter_search`, a function trial (None at first) -> model.
            args: training arguments of transformers.
            config: the loss and its parameters, the token budget.
            examples: tokenized by the model's layout.
            eval_examples: pairs for the figures logged as eval_*.
            dev: the dev set, translated and scored at every evaluation.
            loss: overrides the one named in `config`.
            callbacks: transformers' callbacks.
            **kwargs: optimizers and other arguments of Seq2SeqTrainer.

        Raises:
            UserError: sharding that accelerate would ignore or that is not supported, with it a dev set's engine that
                needs the whole model, or an unknown loss.
        """
        self.config, self.dev = config, dev
        self.loss = loss or find_loss(config.loss)
        self._load = None if isinstance(loaded, LoadedModel) else loaded
        self._use(loaded if isinstance(loaded, LoadedModel) else loaded(None))
        self._samples: list[dict[str, str]] = []
        if eval_examples is None and dev is not None:
            eval_examples = ()  # transformers evaluates only if there is a data set
        super().__init__(
            model=self.loaded.model,
            args=args,
            data_collator=self.layout.collate,  # not a method of the trainer: a cycle would keep the model alive
            train_dataset=ExampleSet(examples),
            eval_dataset=None if eval_examples is None else ExampleSet(eval_examples),
            processing_class=self.loaded.tokenizer,
            callbacks=[FinishedRun(), *callbacks],
            **kwargs,
        )
        if dev is not None:
            dev.check_engine(is_sharded(self.accelerator))
        self.meters = Meters(self.accelerator)
        if self._load is not None:
            self.model_init = self._reload
        # The loss is already normalized over the whole step: transformers must not divide it again.
        self.model_accepts_loss_kwargs = True

    def _use(self, loaded: LoadedModel) -> None:
        self.loaded, self.layout = loaded, loaded.layout
        self.head = replace(loaded.head, with_means=self.config.nll_smoothing > 0)

    def _reload(self, trial: Any) -> nn.Module:
        """Load the model for a trial, with its layout and head."""
        assert self._load is not None
        self._use(self._load(trial))
        self.data_collator = self.layout.collate
        model: nn.Module = self.loaded.model
        return model

    def hyperparameter_search(self, hp_space: Callable[[Any], Mapping[str, Any]], *args: Any, **kwargs: Any) -> Any:
        """Search like transformers; `hp_space` may also return parameters of the loss, such as beta.

        Raises:
            UserError: a value that is invalid for the loss.
        """
        before = self.config, self.loss

        def space(trial: Any) -> dict[str, Any]:
            values = dict(hp_space(trial))
            self.config = with_trial_values(before[0], values)
            self.loss = before[1] if self.config.loss == before[0].loss else find_loss(self.config.loss)
            return values

        try:
            return super().hyperparameter_search(space, *args, **kwargs)
        finally:
            self.config, self.loss = before

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Save a checkpoint, unless training has diverged: the last good one is kept."""
        if _internal_call:
            self.refuse_divergence()
        super().save_model(output_dir, _internal_call=_internal_call)

    def get_train_dataloader(self) -> DataLoader[Example]:
        """Return batches of similar length, shuffled anew in every epoch."""
        # Not the training argument itself: `auto_find_batch_size` lowers this attribute.
        return self._loader(self.train_dataset, self._train_batch_size, shuffle=True)

    def get_eval_dataloader(self, eval_dataset: Any = None) -> DataLoader[Example]:
        """Return batches of similar length, the shortest first."""
        dataset = self.eval_dataset if eval_dataset is None else eval_dataset
        return self._loader(dataset, self.args.per_device_eval_batch_size, shuffle=False)

    def _loader(self, dataset: ExampleSet, pairs: int, shuffle: bool) -> DataLoader[Example]:
        limits = BatchLimits(pairs, self.config.batch_tokens, targets=1 if self.loss.function is None else 2)
        return length_loader(dataset, self.layout, self.args, limits, shuffle)

    def get_batch_samples(
        self, epoch_iterator: Iterator[Batch], num_batches: int, device: torch.device
    ) -> tuple[list[Batch], Tensor | None]:
        """Return the batches of one optimizer step, and the step's counts (3,) over all processes."""
        if self.state.global_step >= self.state.max_steps:
            # A run killed after its last checkpoint: transformers asks for batches before it checks for steps left.
            self.control.should_training_stop = True
            return [], None
        self.meters.start()
        batches = [batch for _, batch in zip(range(num_batches), epoch_iterator, strict=False)]
        if not batches:
            return batches, None
        counts = torch.stack([self._counts(batch) for batch in batches]).sum(0).to(device)
        return batches, self.accelerator.reduce(counts, "sum")

    def _counts(self, batch: Batch) -> Tensor:
        """Return (3,): pairs, chosen tokens and tokens of a batch."""
        tokens, _ = self.layout.count_tokens(batch)
        return torch.stack([*count_items(batch, self.loss.function is None), tokens])

    # --- loss -------------------------------------------------------------------------------------------------------

    def compute_loss(
        self, model: nn.Module, inputs: Batch, return_outputs: bool = False, num_items_in_batch: Tensor | None = None
    ) -> Any:
        """Return this batch's share of the step's loss, a scalar: shares add up over batches and processes.

        Args:
            model: the model, wrapped for training.
            inputs: a batch from the layout.
            return_outputs: also return the token log-probabilities; required by transformers' interface.
            num_items_in_batch: (3,) pairs, chosen tokens and tokens of the optimizer step; None: of this batch.
        """
        router = router_weight(self.model.config, self.config)
        counts = self._counts(inputs)
        step = counts if num_items_in_batch is None else num_items_in_batch
        router_is_on = None if router is None else router > 0
        scores = self.layout.score(model, self.head, inputs, lambda part: self._share(part, step), router_is_on)
        _, padded = self.layout.count_tokens(inputs)
        self.meters.add(model.training, batch_sums(scores, (*counts, padded), self.config, self.loss))
        loss = scores.loss
        assert loss is not None
        if router:
            loss = loss + router * router_share(scores, counts, step)
        if num_items_in_batch is not None:
            # Data parallelism averages gradients over processes, but these are shares of a sum.
            loss = loss * self.accelerator.num_processes
        return (loss, {"token_logps": scores.token_logps}) if return_outputs else loss

    def _share(self, part: TokenScores, step: Tensor) -> Tensor:
        """Return the contribution of some sources to the step's loss."""
        if self.loss.function is None:
            return nll_share(part, self.config, step)
        return preference_share(part, self.config, self.loss.function, step)

    # --- logs and evaluation ----------------------------------------------------------------------------------------

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """Add mtcpo's figures to transformers' training logs.

        Raises:
            UserError: training has diverged.
        """
        if "loss" in logs:
            figures = self.meters.training_figures(self.loss, router_weight(self.model.config, self.config) or 0.0)
            if not all(math.isfinite(value) for value in figures.values()):
                raise divergence(self.state.global_step, self.config, "the loss is")
            logs = logs | figures
        elif "train_runtime" in logs:
            self.refuse_divergence()
            logs = logs | self.meters.last_tokens()
        super().log(logs, *args, **kwargs)
        if self._samples:
            # Separate from the figures: other loggers (wandb, ...) accept only numbers.
            row = {"epoch": self.state.epoch, "step": self.state.global_step, "samples": self._samples}
            self.state.log_history.append(row)
            self._samples = []

    def refuse_divergence(self) -> None:
        """Check what was trained since the last log; this waits for the device. All processes must call it.

        Raises:
            UserError: a loss or a weight is NaN or infinite.
        """
        diverged = self.meters.what_diverged(self.model)
        if diverged:
            raise divergence(self.state.global_step, self.config, diverged)

    def prediction_step(
        self, model: nn.Module, inputs: Batch, prediction_loss_only: bool, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, None, None]:
        """Score one evaluation batch; its figures are summed like those of training."""
        inputs = self._prepare_inputs(inputs)
        with torch.no_grad(), self.compute_loss_context_manager():
            loss = self.compute_loss(model, inputs)
        return loss.detach(), None, None

    def evaluation_loop(self, *args: Any, metric_key_prefix: str = "eval", **kwargs: Any) -> Any:
        """Run transformers' loop, replace its mean over batches by exact means, and translate the dev set."""
        if self.is_in_train:
            self.refuse_divergence()
        # A loader draws its seed from the same generator as dropout: evaluating would change training.
        devices = [self.args.device] if self.args.device.type == "cuda" else []
        with self.meters.evaluating(), torch.random.fork_rng(devices=devices):
            output = super().evaluation_loop(*args, metric_key_prefix=metric_key_prefix, **kwargs)
            figures = self.meters.evaluation_figures(
                self.config, self.loss, router_weight(self.model.config, self.config) or 0.0
            )
            if self.dev is not None and metric_key_prefix == "eval":
                scores, self._samples = self.dev.evaluate(self.loaded, self.accelerator)
                figures |= scores
        output.metrics.update({f"{metric_key_prefix}_{name}": value for name, value in figures.items()})
        return output


# --- from a batch to its share of the loss ----------------------------------------------------------------------------


def nll_share(scores: TokenScores, config: LossConfig, step: Tensor) -> Tensor:
    """Return the contribution of some sources to the NLL of an optimizer step, a scalar.

    step: (3,), pairs, chosen tokens and tokens of the whole step, over all micro-batches and processes.
    """
    by_token = config.nll_normalization == "token"
    return chosen_nll(scores, config) / step[CHOSEN_TOKENS if by_token else PAIRS]


def preference_share(scores: TokenScores, config: LossConfig, function: LossFunction, step: Tensor) -> Tensor:
    """Return the contribution of some pairs to the loss of an optimizer step, a scalar; `step` as in `nll_share`."""
    losses = function(pair_logps(scores), config)
    return losses.sum() / step[PAIRS] + config.cpo_alpha * nll_share(scores, config, step)


def router_share(scores: TokenScores, batch: Tensor, step: Tensor) -> Tensor:
    """Return a batch's contribution to the router loss of a mixture of experts; a scalar, not yet weighted.

    The model's router loss of a batch is experts x sum_e f_e P_e, with means over its tokens without padding. It
    is weighted by the batch's share of the step's tokens. So its scale, and P_e, are exact over micro-batches and
    processes; the product is not: each batch balances its own load, as in Switch (arXiv 2101.03961).

    batch, step: (3,), the counts of the batch and of its step, as in `nll_share`.
    """
    if scores.router_loss is None:
        raise UserError("train.output_router_logits: this model gives no router loss; leave it out")
    return scores.router_loss * (batch[TOKENS] / step[TOKENS])
