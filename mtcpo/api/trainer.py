"""The trainer for notebooks: takes data sets and settings instead of tokenized examples."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from mtcpo.api.functions import Source, corpus_of, log_drops
from mtcpo.core.config import load_section
from mtcpo.core.errors import UserError
from mtcpo.core.files import complete_folder, write_text
from mtcpo.core.user_code import code_name
from mtcpo.data.config import CorpusConfig, PreferenceSetConfig
from mtcpo.data.corpora import Drops, read_corpus
from mtcpo.data.triplets import read_triplets
from mtcpo.models.canary import CANARY_FILE
from mtcpo.models.config import ModelOptions
from mtcpo.models.families import Family, load_family
from mtcpo.models.loading import LoadedModel, adopt_model, load_model
from mtcpo.training.arguments import dtype_of, training_setup
from mtcpo.training.batching import ExampleSet
from mtcpo.training.callbacks import early_stopping
from mtcpo.training.config import TrainConfig
from mtcpo.training.examples import CountedTexts, evaluation_texts, pair_texts, reference_texts, with_template
from mtcpo.training.losses import LossFunction, LossSpec, custom_loss
from mtcpo.training.model_card import CARD_FILE, model_card
from mtcpo.training.prepare import prepare_model, prepare_training
from mtcpo.training.train import save_trained, training_report
from mtcpo.training.trainer import ExampleTrainer


class PreferenceTrainer(ExampleTrainer):
    """`transformers.Seq2SeqTrainer` with preference losses; `train`, `evaluate`, `save_model` and the rest work alike.

    dropped, eval_dropped: reason -> count of dropped pairs. languages: (source, target) of the training data.
    """

    def __init__(
        self,
        model: Any,
        train_dataset: Source,
        eval_dataset: Source | None = None,
        *,
        tokenizer: Any = None,
        prompt: str | None = None,
        family: Family | str | None = None,
        allow_code: bool = False,
        data: Mapping[str, Any] | None = None,
        loss: str | LossFunction | None = None,
        output_dir: str | Path = "trainer_output",
        callbacks: Sequence[Any] | None = None,
        optimizers: tuple[Any, Any] = (None, None),
        **settings: Any,
    ) -> None:
        """Load the model, tokenize the data, set up training.

        Args:
            model: an alias, hub name or directory, as `mtcpo train --model`; or a model in memory, with `tokenizer`.
            train_dataset: triplets in any layout that `mtcpo train --prefs` reads; with `loss="sft"` sources with
                references.
            eval_dataset: the same, for the figures logged as eval_*; overrides the setting `eval`.
            tokenizer: of a model in memory.
            prompt: a template that replaces the family's.
            family: a `mtcpo.models.families.Family` for a model type that mtcpo does not know, or its
                `python:module:NAME`.
            allow_code: run Python code that the model's directory brings; without it such a model is refused.
            data: languages, columns and the like, as in [data] of a recipe.
            loss: a name, as in --loss, or a function (logps, config) -> Tensor of shape (B,), one value for each of B
                pairs: `logps` has `chosen`, `rejected` (summed over target tokens, nats), `chosen_mean`,
                `rejected_mean`, `chosen_tokens` and `rejected_tokens`, each of shape (B,), and `config` the settings,
                such as beta. A pair's value must depend only on that pair; the NLL term (`cpo_alpha`) is added.
            output_dir: folder for transformers' checkpoints.
            callbacks: transformers' callbacks.
            optimizers: (optimizer, scheduler) that replace those of the arguments.
            **settings: as in [train] of a recipe: beta, lora, dev, ...; `args`: training arguments of transformers.

        Raises:
            UserError: as `mtcpo train`.
        """
        # Settings and arguments first: mistakes show before the model is loaded.
        config, custom = _read_settings(loss, settings)
        self._data_settings, self._prompt = data, prompt
        options = ModelOptions(prompt, load_family(family, "PreferenceTrainer: family"), allow_code)
        setup = training_setup(config, Path(output_dir), evaluates=eval_dataset is not None)
        self._load_again = _loader(model, config, options, setup.args.seed)
        training = self._texts(config, train_dataset, "training")
        if eval_dataset is None:
            evaluation = evaluation_texts(config, prompt=prompt)
        else:
            evaluation = self._texts(config, eval_dataset, "evaluation")
        origin = str(train_dataset) if isinstance(train_dataset, (str, Path)) else ""
        with setup.applied():
            run = prepare_training(
                lambda: _load(model, tokenizer, config, options), config, setup.args, training, evaluation, origin
            )
            self._data = encoded = run.data
            super().__init__(
                run.loaded,
                setup.args,
                config,
                encoded.training.examples,
                None if encoded.evaluation is None else encoded.evaluation.examples,
                encoded.dev,
                custom,
                callbacks=[*(callbacks or ()), *early_stopping(config)],
                optimizers=optimizers,
            )
        # After the constructor of transformers, which sets attributes of its own.
        self.languages = encoded.training.languages
        self.dropped = encoded.training.dropped
        self.eval_dropped: Counter[str] = Counter() if encoded.evaluation is None else encoded.evaluation.dropped
        log_drops(self.dropped, "training data")
        log_drops(self.eval_dropped, "evaluation data")

    def _texts(self, config: TrainConfig, dataset: Source, kind: str) -> CountedTexts:
        """Return the texts of a data set, to be tokenized; nothing is read yet."""
        drops = Drops()
        where = f"PreferenceTrainer: {kind} data"
        if config.loss == "sft":
            corpus, items = corpus_of(CorpusConfig, dataset, self._data_settings, where)
            return CountedTexts(reference_texts(read_corpus(corpus, drops, items=items)), drops)
        preferences, items = corpus_of(PreferenceSetConfig, dataset, self._data_settings, where)
        return CountedTexts(with_template(pair_texts(read_triplets(preferences, drops, items)), self._prompt), drops)

    def evaluate(self, eval_dataset: Any = None, *args: Any, **kwargs: Any) -> dict[str, float]:
        """Evaluate on `eval_dataset`, as in the constructor (default: the one given there); return figures by name."""
        if eval_dataset is not None and not isinstance(eval_dataset, ExampleSet):
            # During training, transformers passes the tokenized set itself.
            texts = self._texts(self.config, eval_dataset, "evaluation")
            encoded = texts.encode("evaluation", self.layout, self.config)
            log_drops(encoded.dropped, "evaluation data")
            self.eval_dropped, eval_dataset = encoded.dropped, ExampleSet(encoded.examples)
        figures: dict[str, float] = super().evaluate(eval_dataset, *args, **kwargs)
        return figures

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Write the model with canary and card to `output_dir`, as `mtcpo train` does; the trainer is unchanged.

        Adapters of a model in memory are always merged: their base may not be saved anywhere.

        Raises:
            UserError: the folder exists and is not a model saved by mtcpo, or training has diverged.
        """
        if _internal_call or output_dir is None:  # the checkpoints of transformers
            super().save_model(output_dir, _internal_call=_internal_call)
            return
        folder = Path(output_dir)
        if folder.exists() and not (folder / CANARY_FILE).is_file():
            raise UserError(f"{folder} exists and is not a model that mtcpo saved; choose another name")
        self.refuse_divergence()
        loaded = self.gather_model(self._load_again)
        if loaded is not None:
            self._write(loaded, folder)
        self.accelerator.wait_for_everyone()

    def _write(self, loaded: LoadedModel, folder: Path) -> None:
        config = self.config
        if config.lora is not None and self._load_again is None:
            # A base in memory has no name from which adapters could find it.
            config = config.model_copy(update={"lora": config.lora.model_copy(update={"merge": True})})
        if config.lora is not None and config.lora.merge and loaded.model is self.loaded.model:
            # A copy: merging changes the model, which may be trained further.
            loaded = loaded.with_model(copy.deepcopy(loaded.model))
        report = training_report(self.loaded.name, config, self._data, self)
        with complete_folder(folder) as partial:
            save_trained(loaded, config, partial, self.languages)
            write_text(partial / CARD_FILE, model_card(report, folder.name))

    def hyperparameter_search(self, *args: Any, **kwargs: Any) -> Any:
        """Search like transformers, also over parameters of the loss; each trial loads the model again.

        Raises:
            UserError: the model was given in memory, or a value is invalid for the loss.
        """
        load = self._load_again
        if load is None:
            raise UserError("PreferenceTrainer: each trial loads the model again, so pass its name, not the model")
        # Only now: with `model_init`, `train` would load the model again, too.
        self._load, self.model_init = lambda trial: load(), self._reload
        return super().hyperparameter_search(*args, **kwargs)


def _read_settings(loss: str | LossFunction | None, settings: Mapping[str, Any]) -> tuple[TrainConfig, LossSpec | None]:
    """Return the settings, and the LossSpec if the loss is a function; the settings then have its name."""
    custom = None
    if loss is not None and not isinstance(loss, str):
        name = code_name(loss)
        custom, loss = custom_loss(loss, name), name
    values = settings if loss is None else {"loss": loss, **settings}
    # A caller from Python may run code anyway.
    return load_section(TrainConfig, values, "PreferenceTrainer", allow_code=True), custom


def _load(model: Any, tokenizer: Any, config: TrainConfig, options: ModelOptions) -> LoadedModel:
    if isinstance(model, (str, Path)):
        if tokenizer is not None:
            raise UserError("PreferenceTrainer: a model given by name has its own tokenizer; leave tokenizer out")
        return load_model(str(model), dtype_of(config), options, quantization=config.quantization)
    if tokenizer is None:
        raise UserError("PreferenceTrainer: a model in memory needs its tokenizer: tokenizer=...")
    if config.quantization is not None:
        raise UserError("PreferenceTrainer: lora.quantization needs a model given by name, not one in memory")
    return adopt_model(model, tokenizer, options)


def _loader(model: Any, config: TrainConfig, options: ModelOptions, seed: int) -> Callable[[], LoadedModel] | None:
    """Return a function that loads a named model again; None for a model in memory."""
    if not isinstance(model, (str, Path)):
        return None
    return lambda: prepare_model(_load(model, None, config, options), config, seed)
