"""Systems of every kind go through one function: outputs in memory, files of outputs, and models that translate."""

from contextlib import nullcontext
from dataclasses import replace

import pytest
from support.runs import german_outputs, german_test_set

from mtcpo.core.errors import UserError
from mtcpo.data.records import Candidate
from mtcpo.evaluation.config import EvaluateConfig
from mtcpo.evaluation.results import to_document
from mtcpo.evaluation.systems import (
    GivenOutputs,
    OutputFiles,
    TranslationModel,
    evaluate_systems,
    forget_translations,
    load_metrics_for,
)
from mtcpo.translation.config import TranslateConfig

CONFIG = EvaluateConfig(metrics=("chrf",), resamples=20)


class Dictionary:
    """An engine that knows the translations of some sources. sources: those that it was asked for."""

    name = system = "dictionary"
    label = "dictionary 1 (float32)"

    def __init__(self, translations):
        self.translations = translations
        self.sources = []

    def too_long(self, segments, config):
        return [False] * len(segments)

    def translate(self, segments, config, draw=0):
        self.sources += [segment.source for segment in segments]
        return [[Candidate(self.name, self.translations[segment.source])] for segment in segments]


@pytest.fixture(scope="module")
def garden():
    return german_test_set(10)


@pytest.fixture(scope="module")
def outputs(garden):
    return german_outputs(garden, {"start": 0.3, "tuned": 0.1, "other": 0.2})


def as_file(path, texts):
    path.write_text("".join(text + "\n" for text in texts), encoding="utf-8")
    return OutputFiles([path])


def as_model(garden, texts, folder):
    sources = [segment.source for segment in garden.segments]
    engine = Dictionary(dict(zip(sources, texts, strict=True)))
    return TranslationModel(lambda job: nullcontext(engine), TranslateConfig(), folder), engine


def test_texts_files_and_models_give_one_evaluation(tmp_path, garden, outputs):
    model, engine = as_model(garden, outputs["start"], tmp_path)
    # Named first, though translated last: the first system is the baseline.
    systems = {
        "start": model,
        "tuned": GivenOutputs([outputs["tuned"]]),
        "other": as_file(tmp_path / "o.txt", outputs["other"]),
    }
    (evaluation,) = evaluate_systems([garden], systems, CONFIG, tmp_path, ["chrf"])
    given = {name: GivenOutputs([texts]) for name, texts in outputs.items()}
    given["start"] = GivenOutputs([outputs["start"]], TranslateConfig())
    (expected,) = evaluate_systems([garden], given, CONFIG, None, ["chrf"])
    assert evaluation.entry.systems["start"].decoding.search == "beam search with 4 beams"
    assert evaluation.entry.systems["tuned"].decoding is None
    assert to_document([evaluation]).pairs == to_document([expected]).pairs
    # Only what was translated here, and beside other provenance if there is any.
    assert to_document([evaluation]).made == {"engines": {"start": Dictionary.label}}
    assert to_document([evaluation], {"seconds": 3}).made == {"seconds": 3, "engines": {"start": Dictionary.label}}
    assert to_document([expected]).made is None
    assert evaluation.segments == expected.segments
    assert evaluation.entry.baseline == "start"
    assert len(engine.sources) == 10


def test_a_repeated_call_translates_nothing_again_until_the_translations_are_forgotten(tmp_path, garden, outputs):
    model, engine = as_model(garden, outputs["start"], tmp_path)
    for _ in range(2):
        evaluate_systems([garden], {"start": model}, CONFIG, tmp_path)
    assert len(engine.sources) == 10
    forget_translations(tmp_path)
    evaluate_systems([garden], {"start": model}, CONFIG, tmp_path)
    assert len(engine.sources) == 20


def test_sources_that_were_too_long_are_told_also_after_an_interruption(tmp_path, garden, outputs):
    model, engine = as_model(garden, outputs["start"], tmp_path)
    engine.too_long = lambda segments, config: [n < 2 for n in range(len(segments))]
    for _ in range(2):
        (evaluation,) = evaluate_systems([garden], {"start": model}, CONFIG, tmp_path)
        assert to_document([evaluation]).made["decoding_counts"] == {"start": {"too_long_for_model": 2}}
        assert evaluation.entry.systems["start"].empty == 2
    assert len(engine.sources) == 8
    forget_translations(tmp_path)
    alone, _ = as_model(garden, outputs["start"], None)
    (evaluation,) = evaluate_systems([garden], {"start": alone}, CONFIG)
    assert "decoding_counts" not in to_document([evaluation]).made


def test_a_file_of_another_length_is_refused_before_metrics_are_loaded(tmp_path, garden, outputs):
    config = EvaluateConfig(metrics=(f"comet:{tmp_path}/missing",))
    with pytest.raises(UserError, match="missing"):
        load_metrics_for([garden], config)
    short = as_file(tmp_path / "short.txt", outputs["start"][:3])
    with pytest.raises(UserError, match=r"short\.txt: 3 lines, but made up has 10"):
        evaluate_systems([garden], {"start": short}, config)


def test_a_metric_that_cannot_be_loaded_stops_a_model_before_it_translates(tmp_path, garden, outputs):
    model, engine = as_model(garden, outputs["start"], tmp_path)
    with pytest.raises(UserError, match="missing"):
        evaluate_systems([garden], {"start": model}, EvaluateConfig(metrics=(f"comet:{tmp_path}/missing",)), tmp_path)
    assert engine.sources == []


def test_what_cannot_be_scored_is_refused_before_it_is_translated(tmp_path, garden, outputs):
    model, engine = as_model(garden, outputs["start"], tmp_path)
    segments = (*garden.segments[:-1], replace(garden.segments[-1], references=()))
    with pytest.raises(UserError, match=r"no reference for segment \S+, and chrf needs one; give --reference"):
        evaluate_systems([replace(garden, segments=segments)], {"start": model}, CONFIG)
    with pytest.raises(UserError, match="unknown baseline 'strat' \\(did you mean 'start'\\?\\)"):
        evaluate_systems([garden], {"start": model}, CONFIG.model_copy(update={"baseline": "strat"}))
    submitted = replace(garden, submitted={"start": outputs["other"]})
    with pytest.raises(UserError, match="two systems are named 'start'"):
        evaluate_systems([submitted], {"start": model}, CONFIG)
    assert engine.sources == []
