"""The trainer as notebooks use it: made of data sets and settings in place of tokenized examples."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from transformers import Seq2SeqTrainingArguments

from mtcpo.api.functions import Source, corpus_of, log_drops
from mtcpo.core.config import load_section
from mtcpo.core.errors import UserError
from mtcpo.core.files import complete_folder, write_text
from mtcpo.data.corpora import Drops, read_corpus
from mtcpo.data.triplets import read_triplets
from mtcpo.models.canary import CANARY_FILE
from mtcpo.models.config import ModelOptions
from mtcpo.models.families import Family, load_family
from mtcpo.models.layouts.base import Layout
from mtcpo.models.loading import LoadedModel, adopt_model, load_model
from mtcpo.training.arguments import check_precision, dtype_of, keeping_environment, training_arguments
from mtcpo.training.config import TrainConfig
from mtcpo.training.dev_set import dev_set_of
from mtcpo.training.examples import (
    Encoded,
    EvaluationTexts,
    encode_within_limits,
    evaluation_texts,
    not_empty,
    pair_texts,
    reference_texts,
    with_template,
)
from mtcpo.training.model_card import CARD_FILE, model_card
from mtcpo.training.train import RunData, early_stopping, prepare_model, report_of, save_trained
from mtcpo.training.trainer import ExampleSet, ExampleTrainer


class PreferenceTrainer(ExampleTrainer):
    """`transformers.Seq2SeqTrainer` with preference losses: `train`, `evaluate`, `save_model` and all else of it.

    dropped, eval_dropped: how many pairs were left out, by reason.
    """

    @keeping_environment()
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
        output_dir: str | Path = "trainer_output",
        callbacks: Sequence[Any] | None = None,
        optimizers: tuple[Any, Any] = (None, None),
        **settings: Any,
    ) -> None:
        """Load the model, tokenize the data and set up training.

        Args:
            model: an alias, hub name or directory, as `mtcpo train --model`; or a model in memory, with `tokenizer`.
            train_dataset: triplets in any layout that `mtcpo train --prefs` reads; with `loss="sft"` sources with
                references.
            eval_dataset: the same, for the metrics logged as eval_*, in place of what the setting `eval` names.
            tokenizer: of a model in memory.
            prompt: a template in place of the family's own.
            family: a `mtcpo.models.families.Family` for a model type that mtcpo does not know, or its
                `python:module:NAME`.
            allow_code: run Python code that the model's directory brings; without it such a model is refused.
            data: languages, columns and the like, as [data] of a recipe.
            output_dir: where the library keeps its checkpoints.
            callbacks: of the library.
            optimizers: optimizer and schedule in place of those that the arguments name.
            **settings: as [train] of a recipe: loss, beta, lora, dev, ...; `args` are the library's training arguments.

        Raises:
            UserError: as `mtcpo train`.
        """
        config = load_section(TrainConfig, settings, "PreferenceTrainer", allow_code=True)  # it is Python that calls
        self._config, self._corpus_settings, self._prompt = config, data, prompt
        options = ModelOptions(prompt, load_family(family, "PreferenceTrainer: family"), allow_code)
        arguments = training_arguments(config, Path(output_dir), evaluates=eval_dataset is not None)
        dev, dev_dropped = dev_set_of(config)
        held_out = None if eval_dataset is not None else evaluation_texts(config, prompt=prompt)
        loaded = _loaded(model, tokenizer, config, options)
        check_precision(arguments, loaded.family)
        training = self._encoded("training", loaded.layout, train_dataset)
        evaluation = self._evaluation(loaded.layout, eval_dataset, held_out)
        origin = str(train_dataset) if isinstance(train_dataset, (str, Path)) else ""
        self._data = RunData(training, evaluation, dev, dev_dropped, origin)
        self.languages = training.languages
        self.dropped = training.dropped
        self.eval_dropped: Counter[str] = Counter() if evaluation is None else evaluation.dropped
        self._load_named = _loader(model, config, options, arguments)
        super().__init__(
            prepare_model(loaded, config, arguments.seed),
            arguments,
            config,
            training.examples,
            None if evaluation is None else evaluation.examples,
            config.batch_tokens,
            dev,
            callbacks=[*(callbacks or ()), *early_stopping(config)],
            optimizers=optimizers,
        )

    def _encoded(self, kind: str, layout: Layout, dataset: Source) -> Encoded:
        drops = Drops()
        corpus, items = corpus_of(dataset, self._corpus_settings, f"PreferenceTrainer: {kind} data")
        if self._config.loss == "sft":
            texts = reference_texts(read_corpus(corpus, drops, items=items))
        else:
            texts = with_template(pair_texts(read_triplets(corpus, drops, items)), self._prompt)
        found = encode_within_limits(layout, texts, self._config)
        found.dropped.update(drops)
        log_drops(found.dropped, f"{kind} data")
        return not_empty(kind, found)

    def _evaluation(self, layout: Layout, dataset: Source | None, held_out: EvaluationTexts | None) -> Encoded | None:
        if dataset is not None:
            return self._encoded("evaluation", layout, dataset)
        if held_out is None:
            return None
        found = held_out.encode(layout, self._config)
        log_drops(found.dropped, "evaluation data")
        return found

    def evaluate(self, eval_dataset: Any = None, *args: Any, **kwargs: Any) -> dict[str, float]:
        """Return the metrics on `eval_dataset`, as the constructor takes it; default: the one given there."""
        if eval_dataset is not None and not isinstance(eval_dataset, ExampleSet):
            found = self._encoded("evaluation", self.layout, eval_dataset)
            self.eval_dropped, eval_dataset = found.dropped, ExampleSet(found.examples)
        figures: dict[str, float] = super().evaluate(eval_dataset, *args, **kwargs)
        return figures

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Write the model as `mtcpo train` does, with canary and card, to `output_dir`; the trainer goes on unchanged.

        Adapters of a model in memory are always merged: what they belong to may be in no file.

        Raises:
            UserError: the folder holds something else than a model of ours.
        """
        if _internal_call or output_dir is None:  # the library's checkpoints
            super().save_model(output_dir, _internal_call=_internal_call)
            return
        folder = Path(output_dir)
        if folder.exists() and not (folder / CANARY_FILE).is_file():
            raise UserError(f"{folder} exists and is no model of mtcpo's; choose another name")
        reload = self._load_named
        loaded = self.gather_model(None if reload is None else lambda: reload(None))
        if loaded is not None:
            config = self._config
            if config.lora is not None and self._load_named is None:
                config = config.model_copy(update={"lora": config.lora.model_copy(update={"merge": True})})
            if config.lora is not None and config.lora.merge and loaded.model is self.loaded.model:
                loaded = loaded.with_model(copy.deepcopy(loaded.model))
            report = report_of(self.loaded.name, config, self, self._data)
            with complete_folder(folder) as partial:
                save_trained(loaded, config, partial, self.languages)
                write_text(partial / CARD_FILE, model_card(report, folder.name))
        self.accelerator.wait_for_everyone()

    def hyperparameter_search(self, *args: Any, **kwargs: Any) -> Any:
        """Search as the library does, also over parameters of the loss; each trial loads the model again.

        Raises:
            UserError: the model was given in memory, or a value that the loss does not take.
        """
        if self._load_named is None:
            raise UserError(
                "PreferenceTrainer: each trial loads the model again, so pass its name, not a model in memory"
            )
        self._load, self.model_init = self._load_named, self._reload
        return super().hyperparameter_search(*args, **kwargs)


def _loaded(model: Any, tokenizer: Any, config: TrainConfig, options: ModelOptions) -> LoadedModel:
    if isinstance(model, (str, Path)):
        if tokenizer is not None:
            raise UserError("PreferenceTrainer: a tokenizer goes with a model in memory; one that is named has its own")
        return load_model(str(model), dtype_of(config), options, quantization=config.quantization)
    if tokenizer is None:
        raise UserError("PreferenceTrainer: a model in memory needs its tokenizer: tokenizer=...")
    if config.quantization is not None:
        raise UserError("PreferenceTrainer: lora.quantization goes with a model that is named, not with one in memory")
    return adopt_model(model, tokenizer, options)


def _loader(
    model: Any, config: TrainConfig, options: ModelOptions, args: Seq2SeqTrainingArguments
) -> Callable[[Any], LoadedModel] | None:
    """Return what loads a model that is named once more; None for one in memory."""
    if not isinstance(model, (str, Path)):
        return None
    return lambda trial: prepare_model(_loaded(model, None, config, options), config, args.seed)
