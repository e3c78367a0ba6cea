"""Checks before a run: find what would stop a later stage after hours of earlier ones."""

from __future__ import annotations

from collections.abc import Collection

from mtcpo.core.errors import UserError
from mtcpo.data.config import CorpusConfig
from mtcpo.data.corpora import read_corpus
from mtcpo.evaluation.evaluate import check_references
from mtcpo.evaluation.systems import metrics_of
from mtcpo.evaluation.testsets.suites import decoding_of
from mtcpo.metrics.base import Metric
from mtcpo.metrics.registry import candidate_kind, is_computed, load_candidate_metric, load_metric
from mtcpo.pipeline.recipe import Recipe
from mtcpo.pipeline.run_directory import RunDirectory, control_settings
from mtcpo.translation.engines.registry import check_engine
from mtcpo.translation.mbr import check_mbr


def check_before_run(folder: RunDirectory, waiting: Collection[str]) -> None:
    """Check what the stages in `waiting` need: model, training arguments, references, test sets, metrics.

    Raises:
        UserError: the first thing that is missing or wrong.
    """
    # Quick checks first: a COMET model takes seconds to load.
    _check_model(folder)
    _check_engine(folder.recipe, waiting)
    _check_training(folder, waiting)
    _check_sources(folder.recipe, waiting)
    _check_selection_metrics(folder.recipe, waiting)
    _check_evaluation(folder, waiting)
    _check_mbr(folder, waiting)


def _check_engine(recipe: Recipe, waiting: Collection[str]) -> None:
    """Refuse an engine that is not installed or cannot search as configured, before the stage that needs it."""
    decodings = []
    if recipe.translate is not None and "translate" in waiting:
        decodings.append(recipe.translate)
    if any(name.startswith("decode") for name in waiting):
        decodings.append(recipe.evaluate.decoding)
    if decodings:
        check_engine(recipe.model.engine, recipe.model.dtype, decodings)


def _check_training(folder: RunDirectory, waiting: Collection[str]) -> None:
    recipe = folder.recipe
    for name, config in (("sft", recipe.sft), ("train", recipe.train), ("control", control_settings(recipe))):
        if config is None or name not in waiting:
            continue
        # Imported here: a run without a waiting training stage does not need torch.
        from mtcpo.training.arguments import training_setup
        from mtcpo.training.dev_set import load_dev_set
        from mtcpo.training.losses import find_loss

        training_setup(config, folder.path)
        find_loss(config.loss)
        if config.dev is not None:
            load_dev_set(config.dev)


def _check_sources(recipe: Recipe, waiting: Collection[str]) -> None:
    """Check the first segment of each corpus: files that are not parallel usually show there."""
    if recipe.sft is not None and "sft" in waiting:
        _check_reference(recipe.sft.data, "fine-tuning")
    if "translate" in waiting or "prefs" in waiting:
        needing = [spec for spec in _selection_metrics(recipe) if candidate_kind(spec).needs_references]
        if needing or recipe.control is not None:
            _check_reference(recipe.data, needing[0] if needing else "the control")


def _check_model(folder: RunDirectory) -> None:
    """Import the user's family, and refuse a model whose directory has code if that is not allowed."""
    from mtcpo.models.model_code import refuse_model_code
    from mtcpo.models.names import resolve_model_name

    options, name = folder.model_options, folder.recipe.model.name
    if name is not None:
        refuse_model_code(resolve_model_name(name), options.allow_code)


def _check_reference(corpus: CorpusConfig, what: str) -> None:
    first = next(read_corpus(corpus), None)
    if first is None:
        raise UserError(f"{corpus.source}: every source in it is empty")
    if not first.references:
        raise UserError(f"segment {first.id} of {corpus.source}: no reference, and {what} needs one")


def _selection_metrics(recipe: Recipe) -> list[str]:
    """Return the metrics that `prefs` computes; the others are scores in the input."""
    return [spec for spec in recipe.prefs.metrics if is_computed(spec)]


def _check_selection_metrics(recipe: Recipe, waiting: Collection[str]) -> None:
    if "prefs" in waiting:
        for spec in _selection_metrics(recipe):
            load_candidate_metric(spec, recipe.data.tgt_lang or "und", recipe.prefs.comet)


def _check_evaluation(folder: RunDirectory, waiting: Collection[str]) -> None:
    """Load the test sets, and each of their metrics once; look for the references that these need."""
    if not any(name == "evaluate" or name.startswith("decode") for name in waiting):
        return
    config = folder.recipe.evaluate
    loaded: dict[tuple[str, str], Metric] = {}
    for test_set in folder.test_sets():
        for spec in metrics_of(config, test_set):
            # Only lexical metrics depend on the language; a COMET model takes seconds to load.
            key = spec, test_set.tgt_lang if candidate_kind(spec).is_lexical else "und"
            if key not in loaded:
                loaded[key] = load_metric(*key, config.comet)
            check_references(test_set, [loaded[key]])


def _check_mbr(folder: RunDirectory, waiting: Collection[str]) -> None:
    """Load the metrics by which translations are to be chosen."""
    recipe = folder.recipe
    if recipe.translate is not None and "translate" in waiting:
        check_mbr(recipe.translate, recipe.data.tgt_lang or "und")
    if any(name.startswith("decode") for name in waiting):
        for test_set in folder.test_sets():
            check_mbr(decoding_of(test_set, recipe.evaluate.decoding), test_set.tgt_lang)
