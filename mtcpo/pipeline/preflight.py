"""What would stop a later stage of a run, found before the hours of the earlier ones."""

from __future__ import annotations

from collections.abc import Collection

from mtcpo.core.errors import UserError
from mtcpo.data.corpora import CorpusConfig, read_corpus
from mtcpo.evaluation.evaluate import metrics_of
from mtcpo.metrics.registry import candidate_kind, is_computed, load_candidate_metric
from mtcpo.pipeline.run_directory import RunFolder, control_settings


def check_ready(folder: RunFolder, waiting: Collection[str]) -> None:
    """Find what would stop one of the `waiting` stages, before the hours of the earlier ones."""
    recipe = folder.recipe
    for name, config in (("sft", recipe.sft), ("train", recipe.train), ("control", control_settings(recipe))):
        if config is not None and name in waiting:
            from mtcpo.training.arguments import training_setup
            from mtcpo.training.dev_set import load_dev_set

            training_setup(config, folder.path)
            if config.dev is not None:
                load_dev_set(config.dev)
    if recipe.sft is not None and "sft" in waiting:
        _check_references(recipe.sft.data, "fine-tuning")
    if "translate" in waiting or "prefs" in waiting:
        computed = [spec for spec in recipe.prefs.metrics if is_computed(spec)]
        needy = [spec for spec in computed if candidate_kind(spec).needs_references]
        if needy or recipe.control is not None:
            _check_references(recipe.data, needy[0] if needy else "the control")
    _check_metrics(folder, waiting)


def _check_references(corpus: CorpusConfig, what: str) -> None:
    first = next(read_corpus(corpus), None)
    if first is None:
        raise UserError(f"{corpus.source}: every source in it is empty")
    if not first.references:
        raise UserError(f"segment {first.id} of {corpus.source}: no reference, and {what} needs one")


def _check_metrics(folder: RunFolder, waiting: Collection[str]) -> None:
    """Load the test sets, and each metric once: what is missing of them shows now."""
    recipe, wanted = folder.recipe, set[tuple[str, str]]()
    if any(name == "evaluate" or name.startswith("decode") for name in waiting):
        test_sets = folder.test_sets()
        wanted |= {(spec, one.tgt_lang) for one in test_sets for spec in metrics_of(recipe.evaluate, one)}
    if "prefs" in waiting:
        computed = [spec for spec in recipe.prefs.metrics if is_computed(spec)]
        wanted |= {(spec, recipe.data.tgt_lang or "und") for spec in computed}
    # Only formulas differ by language; a model is loaded once.
    for spec, language in sorted({(s, lang if candidate_kind(s).is_formula else "und") for s, lang in wanted}):
        load_candidate_metric(spec, language, lambda metric, _: metric)
