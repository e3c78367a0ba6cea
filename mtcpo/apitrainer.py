"""The trainer as notebooks use it: made of data sets and settings in place of tokenized examples."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mtcpo import trainer
from mtcpo.api import Source, corpus_of, tell
from mtcpo.arguments import check_precision, dtype_of, training_arguments
from mtcpo.canary import CANARY_FILE
from mtcpo.config import load_section
from mtcpo.corpora import Drops, read_corpus, read_triplets
from mtcpo.errors import UserError
from mtcpo.files import complete_folder
from mtcpo.layouts import Layout
from mtcpo.models import LoadedModel, adopt_model, assemble, load_model, save_model
from mtcpo.trainconfig import TrainConfig
from mtcpo.training import Encoded, encode_within_limits, not_empty, pair_texts, ready_to_train, reference_texts


class PreferenceTrainer(trainer.PreferenceTrainer):
    """`transformers.Seq2SeqTrainer` with preference losses: `train`, `evaluate`, `save_model` and all else of it.

    dropped, eval_dropped: how many pairs were left out, by reason.
    """

    def __init__(
        self,
        model: Any,
        train_dataset: Source,
        eval_dataset: Source | None = None,
        *,
        tokenizer: Any = None,
        prompt: str | None = None,
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
            eval_dataset: the same, for the metrics logged as eval_*.
            tokenizer: of a model in memory.
            prompt: a template in place of the family's own.
            data: languages, columns and the like, as [data] of a recipe.
            output_dir: where the library keeps its checkpoints.
            callbacks: of the library.
            optimizers: optimizer and schedule in place of those that the arguments name.
            **settings: as [train] of a recipe: loss, beta, lora, ...; `args` are the library's training arguments.

        Raises:
            UserError: as `mtcpo train`.
        """
        config = load_section(TrainConfig, settings, "PreferenceTrainer")
        self._config, self._corpus_settings = config, data
        arguments = training_arguments(config, Path(output_dir), evaluates=eval_dataset is not None)
        loaded = _loaded(model, tokenizer, config, prompt)
        check_precision(arguments, loaded.family)
        training = self._encoded("training", loaded.layout, train_dataset)
        evaluation = None if eval_dataset is None else self._encoded("evaluation", loaded.layout, eval_dataset)
        loaded = ready_to_train(loaded, config, arguments.seed)
        self.languages = training.languages
        self.dropped = training.dropped
        self.eval_dropped: Counter[str] = Counter() if evaluation is None else evaluation.dropped
        super().__init__(
            loaded,
            arguments,
            config,
            training.examples,
            None if evaluation is None else evaluation.examples,
            config.batch_tokens,
            callbacks=None if callbacks is None else list(callbacks),
            optimizers=optimizers,
        )

    def _encoded(self, kind: str, layout: Layout, dataset: Source) -> Encoded:
        drops = Drops()
        corpus, items = corpus_of(dataset, self._corpus_settings, f"PreferenceTrainer: {kind} data")
        if self._config.loss == "sft":
            texts = reference_texts(read_corpus(corpus, drops, items=items))
        else:
            texts = pair_texts(read_triplets(corpus, drops, items))
        found = encode_within_limits(layout, texts, self._config)
        found.dropped.update(drops)
        tell(found.dropped, f"{kind} data")
        return not_empty(kind, found)

    def evaluate(self, eval_dataset: Any = None, *args: Any, **kwargs: Any) -> dict[str, float]:
        """Return the metrics on `eval_dataset`, as the constructor takes it; default: the one given there."""
        if eval_dataset is not None and not isinstance(eval_dataset, trainer.ExampleSet):
            found = self._encoded("evaluation", self.layout, eval_dataset)
            self.eval_dropped, eval_dataset = found.dropped, trainer.ExampleSet(found.examples)
        figures: dict[str, float] = super().evaluate(eval_dataset, *args, **kwargs)
        return figures

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Write model, tokenizer and canary to the folder `output_dir`, adapters merged; the trainer goes on unchanged.

        Raises:
            UserError: the folder holds something else than a model of ours.
        """
        if _internal_call or output_dir is None:  # the library's checkpoints
            super().save_model(output_dir, _internal_call=_internal_call)
            return
        folder = Path(output_dir)
        if folder.exists() and not (folder / CANARY_FILE).is_file():
            raise UserError(f"{folder} exists and is no model of mtcpo's; choose another name")
        if self.is_world_process_zero():
            model = self.accelerator.unwrap_model(self.model)
            if hasattr(model, "merge_and_unload"):
                model = copy.deepcopy(model).merge_and_unload()
            loaded, prompt = self.loaded, getattr(self.layout, "prompt", None)
            with complete_folder(folder) as partial:
                whole = assemble(loaded.name, model, loaded.tokenizer, loaded.family, prompt)
                save_model(whole, partial, self.languages)
        self.accelerator.wait_for_everyone()


def _loaded(model: Any, tokenizer: Any, config: TrainConfig, prompt: str | None) -> LoadedModel:
    if isinstance(model, (str, Path)):
        if tokenizer is not None:
            raise UserError("PreferenceTrainer: a tokenizer goes with a model in memory; one that is named has its own")
        return load_model(str(model), dtype_of(config), prompt)
    if tokenizer is None:
        raise UserError("PreferenceTrainer: a model in memory needs its tokenizer: tokenizer=...")
    return adopt_model(model, tokenizer, prompt)
