"""The trainer: the library's Seq2SeqTrainer with preference losses, exact denominators and length batches.

Checkpoints, resuming, logging, accelerate, FSDP and DeepSpeed are the library's; only what a batch is, what its loss
is and what is logged of it are ours. Dimensions: B pairs, R rows (chosen first), T target tokens.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate.data_loader import prepare_data_loader
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from transformers import Seq2SeqTrainer, Seq2SeqTrainingArguments

from mtcpo.core.config import load_section
from mtcpo.core.errors import UserError
from mtcpo.models.head.targets import IGNORE, TokenScores
from mtcpo.models.layouts.base import Batch, Example
from mtcpo.models.loading import LoadedModel
from mtcpo.training.batching import BatchLimits, LengthBatchSampler
from mtcpo.training.config import LossConfig
from mtcpo.training.dev_set import DevSet
from mtcpo.training.losses import PAIR_METRICS, PREFERENCE_LOSSES, PairLogps, rewards, router_weight
from mtcpo.training.sharding import check_sharding, is_sharded, load_gathered_state, share_embedding_modules

COUNTS = ("pairs", "chosen_tokens", "real_tokens", "padded_tokens")
SUMS = (*COUNTS, "preference", "nll", "smoothed_nll", "router_loss", *PAIR_METRICS)
"""What is summed on the device over the batches since the last log."""


class ExampleSet(Dataset[Example]):
    """Tokenized examples, in memory or mapped into it."""

    def __init__(self, examples: Sequence[Example]) -> None:
        self.examples = examples

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, index: int) -> Example:
        return self.examples[index]


def pair_logps(scored: TokenScores) -> PairLogps:
    """Sum token log-probabilities (2B, T) over targets and part them into chosen and rejected."""
    sums = scored.token_logps.sum(-1)
    tokens = (scored.labels != IGNORE).sum(-1)
    chosen, rejected = sums.chunk(2)
    chosen_tokens, rejected_tokens = tokens.chunk(2)
    return PairLogps(chosen, rejected, chosen_tokens, rejected_tokens)


def count_items(batch: Batch, sft: bool) -> Tensor:
    """Return (pairs, target tokens of the chosen), the denominators that a batch adds to its optimizer step."""
    labels = batch["labels"]
    chosen = labels if sft else labels[: len(labels) // 2]
    # Not torch.tensor: what it copies to a GPU, it waits for.
    return torch.stack([torch.full((), len(chosen), device=labels.device), (chosen != IGNORE).sum()])


class ExampleTrainer(Seq2SeqTrainer):
    """Train on triplets, or on chosen targets alone with `loss = "sft"`."""

    def __init__(
        self,
        loaded: LoadedModel | Callable[[Any], LoadedModel],
        args: Seq2SeqTrainingArguments,
        loss: LossConfig,
        examples: Sequence[Example],
        eval_examples: Sequence[Example] | None = None,
        batch_tokens: int | None = None,
        dev: DevSet | None = None,
        **kwargs: Any,
    ) -> None:
        """Set up training.

        Args:
            loaded: the model; for `hyperparameter_search` a function that loads it anew for each trial, which it is
                given (None at first).
            args: the library's arguments.
            loss: which loss, and its parameters.
            examples: tokenized by the model's layout.
            eval_examples: pairs for the metrics logged as eval_*.
            batch_tokens: tokens of a batch with its padding.
            dev: what is translated and scored at every evaluation.
            **kwargs: callbacks, optimizers and what else the library's trainer takes.

        Raises:
            UserError: weights are to be in shares, and will not be, or in a way that is not proved.
        """
        self.loss, self.batch_tokens, self.dev = loss, batch_tokens, dev
        self.sft = loss.loss == "sft"
        self._load = None if isinstance(loaded, LoadedModel) else loaded
        self._use(loaded if isinstance(loaded, LoadedModel) else loaded(None))
        self._totals: dict[str, Tensor] = {}
        self._since: float | None = None
        self._samples: list[dict[str, str]] = []
        # Without a launcher the library would wrap the model in DataParallel as soon as it sees a second GPU.
        args._n_gpu = min(args.n_gpu, 1)
        if eval_examples is None and dev is not None:
            eval_examples = ()  # the library evaluates only where there is a data set
        super().__init__(
            model=self.loaded.model,
            args=args,
            data_collator=self.layout.collate,  # no method of ours: the trainer, and the model, would outlive their use
            train_dataset=ExampleSet(examples),
            eval_dataset=None if eval_examples is None else ExampleSet(eval_examples),
            processing_class=self.loaded.tokenizer,
            **kwargs,
        )
        check_sharding(self.accelerator, args, quantized=getattr(self.loaded.model, "is_quantized", False))
        if self.is_fsdp_enabled:
            share_embedding_modules(self.loaded.model)
        if self._load is not None:
            self.model_init = self._reload
        # Our loss has the denominators of the whole step already: the library must not divide it again.
        self.model_accepts_loss_kwargs = True

    def _use(self, loaded: LoadedModel) -> None:
        self.loaded, self.layout = loaded, loaded.layout
        self.head = replace(loaded.head, with_means=self.loss.nll_smoothing > 0)

    def _reload(self, trial: Any) -> nn.Module:
        """Load the model for a trial; layout and head are that model's own."""
        assert self._load is not None
        self._use(self._load(trial))
        self.data_collator = self.layout.collate
        model: nn.Module = self.loaded.model
        return model

    def hyperparameter_search(self, hp_space: Callable[[Any], Mapping[str, Any]], *args: Any, **kwargs: Any) -> Any:
        """Search as the library does; `hp_space` may also name parameters of the loss, such as beta.

        Raises:
            UserError: a value that the loss does not take.
        """
        before = self.loss

        def space(trial: Any) -> dict[str, Any]:
            found = dict(hp_space(trial))
            of_loss = {name: found.pop(name) for name in LossConfig.model_fields if name in found}
            self.loss = load_section(type(before), before.model_dump() | of_loss, "hp_space")
            return found

        try:
            return super().hyperparameter_search(space, *args, **kwargs)
        finally:
            self.loss = before

    def gather_model(self, reload: Callable[[], LoadedModel] | None) -> LoadedModel | None:
        """Return the model as it is now, all of it, in the first process, and None in the others; all must call it.

        Args:
            reload: loads the model once more, to put the weights into where they are in shares.

        Raises:
            UserError: they are in shares, and there is no `reload`.
        """
        if not is_sharded(self.accelerator):
            model = self.accelerator.unwrap_model(self.model, keep_torch_compile=False)
            return self.loaded.with_model(model) if self.is_world_process_zero() else None
        if reload is None:
            raise UserError("a model that was given in memory cannot be saved from shares; train one that is named")
        state = self.accelerator.get_state_dict(self.model_wrapped)
        if not self.is_world_process_zero():
            return None
        whole = reload()
        load_gathered_state(whole.model, state)
        return whole

    def create_optimizer(self, *args: Any, **kwargs: Any) -> Any:
        """Make the library's optimizer, without groups of no parameter, such as adapters have for biases.

        DeepSpeed drops those, and the schedule, which transformers 4.57 has made before, would still rate them.
        """
        optimizer = super().create_optimizer(*args, **kwargs)
        optimizer.param_groups[:] = [group for group in optimizer.param_groups if group["params"]]
        return optimizer

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Save a checkpoint as the library does."""
        if output_dir is not None:
            # Of weights in shares it writes nothing yet, and then looks whether the best checkpoint's folder is there:
            # one process would find it and another not, and wait for ever for the other to load it.
            Path(output_dir).mkdir(parents=True, exist_ok=True)
        super().save_model(output_dir, _internal_call=_internal_call)

    # --- data ---------------------------------------------------------------------------------------------------

    def get_train_dataloader(self) -> DataLoader[Example]:
        """Return batches of like length, shuffled anew every epoch."""
        # Not the argument itself: `auto_find_batch_size` lowers this one.
        return self._loader(self.train_dataset, self._train_batch_size, shuffle=True)

    def get_eval_dataloader(self, eval_dataset: Any = None) -> DataLoader[Example]:
        """Return batches of like length in order."""
        dataset = self.eval_dataset if eval_dataset is None else eval_dataset
        return self._loader(dataset, self.args.per_device_eval_batch_size, shuffle=False)

    def _loader(self, dataset: Any, pairs: int, shuffle: bool) -> DataLoader[Example]:
        found = (length for example in dataset.examples for length in self.layout.lengths(example))
        lengths = np.fromiter(found, np.int32, 2 * len(dataset)).reshape(-1, 2)
        limits = BatchLimits(pairs, self.batch_tokens, targets=1 if self.sft else 2)
        args = self.args
        seed = args.seed if args.data_seed is None else args.data_seed
        loader = DataLoader(
            dataset,
            batch_sampler=LengthBatchSampler(lengths, limits, seed, shuffle, args.process_index, args.world_size),
            collate_fn=self.data_collator,
            num_workers=args.dataloader_num_workers,
            pin_memory=args.dataloader_pin_memory and torch.cuda.is_available(),
            persistent_workers=args.dataloader_persistent_workers,
            prefetch_factor=args.dataloader_prefetch_factor,
        )
        # The sampler knows its process already, so accelerate is told of one: it only moves batches to the device.
        prepared: DataLoader[Example] = prepare_data_loader(
            loader, device=args.device, num_processes=1, process_index=0, put_on_device=True, non_blocking=True
        )
        return prepared

    def get_batch_samples(
        self, epoch_iterator: Iterator[Batch], num_batches: int, device: torch.device
    ) -> tuple[list[Batch], Tensor | None]:
        """Take the batches of one optimizer step, with the denominators (3,) of the step over all processes."""
        if self._since is None:
            self._since = time.perf_counter()
        batches = [batch for _, batch in zip(range(num_batches), epoch_iterator, strict=False)]
        if not batches:
            return batches, None
        items = torch.stack([self._items(batch) for batch in batches]).sum(0).to(device)
        return batches, self.accelerator.reduce(items, "sum")

    def _items(self, batch: Batch) -> Tensor:
        return torch.stack([*count_items(batch, self.sft), self.layout.count_tokens(batch)[0]])

    # --- loss ---------------------------------------------------------------------------------------------------

    def compute_loss(
        self,
        model: nn.Module,
        inputs: Batch,
        return_outputs: bool = False,
        num_items_in_batch: Tensor | None = None,
    ) -> Any:
        """Return this batch's share of the step's loss, a scalar; summed over batches and processes it is the whole.

        Args:
            model: the model as wrapped for training.
            inputs: a batch of the layout.
            return_outputs: also return the token log-probabilities, as the library's interface has it.
            num_items_in_batch: (3,) pairs, chosen tokens and tokens of the optimizer step; None: of this batch alone.
        """
        weight = router_weight(self.model.config, self.loss)
        here = self._items(inputs)
        step = here if num_items_in_batch is None else num_items_in_batch
        share = self._sft_share if self.sft else self._preference_share
        scored = self.layout.score(
            model, self.head, inputs, lambda part: share(part, step), None if weight is None else weight > 0
        )
        padded = self.layout.count_tokens(inputs)[1]
        counts = dict(zip(COUNTS, (*here, padded), strict=True))
        self._add(model.training, counts | self._metrics(scored))
        assert scored.loss is not None
        loss = scored.loss
        if weight:
            loss = loss + weight * self._router_share(scored, here, step, model.training)
        if num_items_in_batch is not None:
            # Data-parallel gradients are averaged over processes; ours are shares of one sum.
            loss = loss * self.accelerator.num_processes
        return (loss, {"token_logps": scored.token_logps}) if return_outputs else loss

    def _smoothed_nll(self, scored: TokenScores) -> Tensor:
        """Return the (smoothed) NLL of chosen targets, the first rows."""
        rows, smoothing = len(scored.labels) if self.sft else len(scored.labels) // 2, self.loss.nll_smoothing
        return -((1 - smoothing) * scored.token_logps[:rows] + smoothing * scored.mean_logps[:rows]).sum()

    def _sft_share(self, part: TokenScores, step: Tensor) -> Tensor:
        """Return what some of the sources add to the loss of the step."""
        return self._smoothed_nll(part) / (step[1] if self.loss.nll_normalization == "token" else step[0])

    def _preference_share(self, part: TokenScores, step: Tensor) -> Tensor:
        """Return what some of the pairs add to the loss of the step."""
        losses = PREFERENCE_LOSSES[self.loss.loss](pair_logps(part), self.loss)
        return losses.sum() / step[0] + self.loss.cpo_alpha * self._sft_share(part, step)

    def _router_share(self, scored: TokenScores, here: Tensor, step: Tensor, training: bool) -> Tensor:
        """Return this batch's share of the load-balancing loss of a mixture of experts.

        The model's own loss of a batch, experts x sum_e f_e P_e with means over the batch's tokens, padding left out,
        weighted by the batch's share of the step's tokens. So its scale, and P_e alone, are exact over micro-batches
        and processes; the product is not: each batch is to balance its own load, as in Switch (arXiv 2101.03961).
        """
        if scored.router_loss is None:
            raise UserError(f"train.output_router_logits: {self.model.config.model_type} gives no router loss")
        self._add(training, {"router_loss": scored.router_loss.detach() * here[2]})
        return scored.router_loss * (here[2] / step[2])

    # --- what is logged -----------------------------------------------------------------------------------------

    def _metrics(self, scored: TokenScores) -> dict[str, Tensor]:
        """Return what is logged of a batch, summed."""
        nll = {"smoothed_nll": self._smoothed_nll(scored).detach()}
        if self.sft:
            return nll | {"nll": -scored.token_logps.detach().sum()}
        logps = pair_logps(scored)
        losses = PREFERENCE_LOSSES[self.loss.loss](logps, self.loss)
        return nll | self._pair_metrics(logps) | {"preference": losses.detach().sum()}

    def _pair_metrics(self, logps: PairLogps) -> dict[str, Tensor]:
        chosen, rejected = rewards(logps, self.loss)
        chosen_logps, rejected_logps = logps.of(self.loss)
        sums = {
            "rewards/chosen": chosen,
            "rewards/rejected": rejected,
            "rewards/accuracies": (chosen > rejected).float(),
            "rewards/margins": chosen - rejected,
            "logps/chosen": chosen_logps,
            "logps/rejected": rejected_logps,
            "nll": -logps.chosen,
        }
        return {name: value.detach().sum() for name, value in sums.items()}

    def _add(self, training: bool, values: Mapping[str, Tensor | int]) -> None:
        """Add to the running sums on the device; nothing waits for it."""
        mode = "train" if training else "eval"
        if mode not in self._totals:
            # Apple's GPUs have no float64.
            dtype = torch.float32 if self.args.device.type == "mps" else torch.float64
            self._totals[mode] = torch.zeros(len(SUMS), dtype=dtype, device=self.args.device)
        for name, value in values.items():
            self._totals[mode][SUMS.index(name)] += value

    def _take(self, mode: str) -> dict[str, float]:
        """Return the means since the last call, over all processes, and start anew."""
        totals = self._totals.pop(mode, None)
        if totals is None:
            return {}
        sums = dict(zip(SUMS, self.accelerator.reduce(totals, "sum").tolist(), strict=True))
        means = {"nll_loss": sums["nll"] / sums["chosen_tokens"]}
        if not self.sft:
            means |= {name: sums[name] / sums["pairs"] for name in PAIR_METRICS}
        router = router_weight(self.model.config, self.loss) or 0.0
        if router:
            means["router_loss"] = sums["router_loss"] / sums["real_tokens"]
        if mode == "eval":
            by_token = self.loss.nll_normalization == "token"
            nll = sums["smoothed_nll"] / sums["chosen_tokens" if by_token else "pairs"]
            weight = 1.0 if self.sft else self.loss.cpo_alpha
            loss = sums["preference"] / sums["pairs"] + weight * nll + router * means.get("router_loss", 0.0)
            return {"loss": loss} | means
        now = time.perf_counter()
        means["tokens_per_second"] = sums["real_tokens"] / (now - (self._since or 0.0))
        means["tokens"] = sums["real_tokens"]
        means["padding_share"] = 1 - sums["real_tokens"] / sums["padded_tokens"]
        self._since = now
        return means

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """Add our means to what the library logs during training.

        Raises:
            UserError: the log-probabilities are no numbers any more.
        """
        if "loss" in logs:
            logs = logs | self._take("train")
            if not all(math.isfinite(logs.get(name, 0.0)) for name in ("nll_loss", "rewards/margins")):
                alpha = " or train.alpha" if self.loss.alpha else ""
                raise UserError(
                    f"training diverged by step {self.state.global_step}: the loss is NaN or infinite; lower "
                    f"train.args.learning_rate{alpha}, or train in float32 (train.args.bf16=false)"
                )
        elif "train_runtime" in logs and (rest := self._take("train")):  # of the steps since the last log
            logs = logs | {"tokens": rest["tokens"]}
        super().log(logs, *args, **kwargs)
        if self._samples:
            # Beside the figures and not among them: what loggers the user has can take no text.
            row = {"epoch": self.state.epoch, "step": self.state.global_step, "samples": self._samples}
            self.state.log_history.append(row)
            self._samples = []

    # --- evaluation ---------------------------------------------------------------------------------------------

    def prediction_step(
        self, model: nn.Module, inputs: Batch, prediction_loss_only: bool, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, None, None]:
        """Score one evaluation batch; its metrics are summed up like those of training."""
        inputs = self._prepare_inputs(inputs)
        with torch.no_grad(), self.compute_loss_context_manager():
            loss = self.compute_loss(model, inputs)
        return loss.detach(), None, None

    def evaluation_loop(self, *args: Any, metric_key_prefix: str = "eval", **kwargs: Any) -> Any:
        """Run the library's loop, put exact means in place of its mean over batches, and translate the dev set."""
        self._totals.pop("eval", None)
        start = time.perf_counter()
        # A loader draws its seed from the generator that dropout draws from: evaluating would change the training.
        with torch.random.fork_rng(devices=[self.args.device] if self.args.device.type == "cuda" else []):
            output = super().evaluation_loop(*args, metric_key_prefix=metric_key_prefix, **kwargs)
            figures = self._take("eval")
            if self.dev is not None and metric_key_prefix == "eval":
                scores, self._samples = self.dev.evaluate(self.loaded, self.accelerator)
                figures |= scores
        if self._since is not None:
            self._since += time.perf_counter() - start  # tokens_per_second is of training alone
        output.metrics.update({f"{metric_key_prefix}_{name}": value for name, value in figures.items()})
        return output
