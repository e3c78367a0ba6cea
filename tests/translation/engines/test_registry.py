"""Which engine runs a model: by name, or the fastest that can and whose outputs are those of transformers."""

from dataclasses import replace
from typing import get_args

import pytest
from support.translation import english_segments, quick_search

from mtcpo.cli.options import ENGINE_NAMES
from mtcpo.core.errors import UserError
from mtcpo.models.config import EngineName, ModelOptions
from mtcpo.translation.engines import registry
from mtcpo.translation.engines.base import EngineRefused, Job
from mtcpo.translation.engines.registry import ENGINES, EngineKind, engine_kind, load_engine, look_ahead, open_engine
from mtcpo.translation.translate import translate_texts


class Fast:
    """An engine that is only loaded, never asked to translate."""

    label, proof = "fast 1.0 (float32)", "32 of 32 greedy outputs equal to transformers'"

    def __init__(self, request):
        self.request = request


def refuse(request):
    raise EngineRefused("only 3 of 32 greedy outputs are equal to transformers'")


@pytest.fixture
def job(monkeypatch):
    monkeypatch.setattr(registry, "WORTHWHILE", 40)
    return Job([quick_search()], english_segments(40), 40)


@pytest.fixture
def with_engines(monkeypatch):
    """A function that makes engines the whole table, beside transformers."""

    def only(**kinds):
        rows = {name: replace(kind, automatic=True) for name, kind in kinds.items()}
        monkeypatch.setattr(registry, "ENGINES", rows | {"transformers": ENGINES["transformers"]})

    return only


def opened_with(model, job, dtype="auto", engine="auto"):
    """Return the engine that is opened for a model."""
    with open_engine(str(model), "base", dtype, ModelOptions(engine=engine), job) as opened:
        return opened


def said(capsys):
    """Return the line that names the engine; transformers 5 draws bars beside it."""
    lines = capsys.readouterr().err.splitlines()
    (line,) = [line for line in lines if line.startswith("translating with ")]
    return line


# --- auto -------------------------------------------------------------------------------------------------------------


def test_auto_takes_the_first_engine_that_can_and_says_what_its_proof_found(model_folder, job, with_engines, capsys):
    with_engines(fast=EngineKind("Fast", "", Fast))
    opened = opened_with(model_folder("mt5"), job)
    assert said(capsys) == f"translating with {Fast.label}: {Fast.proof}"
    # In float32, whatever transformers would take on this machine; with as many sources as the proof needs.
    assert opened.request.dtype == "float32"
    assert [segment.id for segment in opened.request.sample] == [str(n) for n in range(32)]


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        (EngineKind("F", "", refuse), "only 3 of 32 greedy outputs are equal to transformers'"),
        (
            EngineKind("F", "", Fast, packages=("no_such_package",), install="pip install it"),
            "no_such_package is not installed (pip install it)",
        ),
        (EngineKind("F", "", Fast, lambda model, options: "F does not know mT5"), "F does not know mT5"),
        (EngineKind("F", "", Fast, why_not_search=lambda config: "F cannot sample"), "F cannot sample"),
        (EngineKind("F", "", Fast, why_slow=lambda config: "F samples slowly"), "F samples slowly"),
    ],
)
def test_auto_falls_back_to_transformers_and_says_why(kind, reason, model_folder, job, with_engines, capsys):
    with_engines(f=kind)
    assert opened_with(model_folder("mt5"), job).label.startswith("transformers ")
    line = said(capsys)
    assert line.startswith("translating with transformers ")
    assert line.endswith(f" (float32): {reason}")


def test_auto_names_every_engine_that_it_did_not_take(model_folder, job, with_engines, capsys):
    with_engines(
        one=EngineKind("One", "", Fast, lambda model, options: "one cannot"),
        two=EngineKind("Two", "", Fast, lambda model, options: "two cannot"),
    )
    opened_with(model_folder("mt5"), job)
    assert said(capsys).endswith(": one cannot; two cannot")


def test_an_engine_that_is_named_may_be_slow(model_folder, job, with_engines):
    with_engines(f=EngineKind("F", "", Fast, why_slow=lambda config: "F samples slowly"))
    assert opened_with(model_folder("mt5"), job, engine="f").label == Fast.label


def test_auto_leaves_epsilon_sampling_to_transformers():
    ctranslate2 = ENGINES["ctranslate2"]
    assert ctranslate2.why_not_search(quick_search(sampling="epsilon")) is None
    assert "by rejection" in ctranslate2.why_slow(quick_search(sampling="epsilon"))
    assert ctranslate2.why_slow(quick_search(sampling="nucleus")) is None


def test_every_search_of_a_job_must_be_possible(model_folder, job, with_engines):
    greedy_only = EngineKind("F", "", Fast, why_not_search=lambda config: None if config.num_beams == 1 else "no beams")
    with_engines(f=greedy_only)
    greedy = quick_search(num_beams=1)
    assert opened_with(model_folder("mt5"), replace(job, decodings=[greedy, greedy])).label == Fast.label
    for decodings in ([greedy, quick_search()], [greedy, quick_search(num_beams=1, retry=1)]):
        assert opened_with(model_folder("mt5"), replace(job, decodings=decodings)).label != Fast.label


@pytest.mark.parametrize(
    ("change", "dtype", "reason"),
    [
        ({"first": english_segments(39)}, "auto", "for fewer than 40 sources, converting the model hardly pays"),
        ({}, "bfloat16", "other engines are only proven in float32, not in bfloat16"),
    ],
)
def test_auto_does_not_look_for_another_engine_where_it_would_not_pay_or_not_be_proven(
    change, dtype, reason, model_folder, job, with_engines, capsys
):
    with_engines(fast=EngineKind("Fast", "", pytest.fail))
    assert opened_with(model_folder("mt5"), replace(job, **change), dtype).label.startswith("transformers ")
    assert reason in said(capsys)


def test_auto_runs_a_model_in_memory_by_transformers(engine, job, with_engines, capsys):
    with_engines(fast=EngineKind("Fast", "", pytest.fail))
    tiny = engine("mt5")
    with open_engine(tiny.loaded, "base", job=job) as opened:
        assert opened.loaded is tiny.loaded
        assert opened.name == load_engine(tiny.loaded, "base").name
    assert "the model is in memory" in said(capsys)


def test_looking_ahead_loses_no_segment(monkeypatch):
    monkeypatch.setattr(registry, "WORTHWHILE", 3)
    read = []
    segments = (read.append(segment) or segment for segment in english_segments(5))
    job, every = look_ahead(segments, quick_search(), 5)
    assert [segment.id for segment in read] == ["0", "1", "2"]
    assert (list(job.first), job.sources) == (read, 5)
    assert list(every) == english_segments(5)


def test_a_sample_has_the_first_sources_of_each_language_pair():
    segments = english_segments(40) + english_segments(5, "fr") + english_segments(40)
    sample = Job(first=segments).sample()
    assert list(sample) == english_segments(32) + english_segments(5, "fr")


# --- by name ----------------------------------------------------------------------------------------------------------


def test_an_unknown_engine_is_refused_with_the_choices():
    with pytest.raises(UserError, match=r"'transfomers'.*did you mean 'transformers'.*auto"):
        engine_kind("transfomers")


def test_a_missing_package_of_an_engine_is_named_with_what_installs_it(with_engines):
    with_engines(other=EngineKind("Other", "", Fast, packages=("no_such_package",), install="pip install it"))
    expected = "engine other needs no_such_package: pip install it, or choose the engine transformers"
    with pytest.raises(UserError, match=expected):
        engine_kind("other")


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (EngineKind("F", "", refuse), "only 3 of 32 greedy outputs"),
        (
            EngineKind("F", "", Fast, lambda model, options: "F does not know mT5"),
            "does not know mT5; choose another",
        ),
        (EngineKind("F", "", Fast, why_not_search=lambda config: "F cannot sample"), "F cannot sample; choose another"),
    ],
)
def test_a_named_engine_that_cannot_is_an_error_not_a_fallback(kind, message, model_folder, job, with_engines):
    with_engines(f=kind)
    with pytest.raises(UserError, match=message):
        opened_with(model_folder("mt5"), job, engine="f")


def test_a_named_engine_gets_small_jobs_and_every_precision_too(model_folder, with_engines):
    with_engines(f=EngineKind("F", "", Fast))
    request = opened_with(model_folder("mt5"), Job(), "bfloat16", "f").request
    assert (request.system, request.dtype, request.sample) == ("base", "bfloat16", ())


@pytest.mark.parametrize("engine", ["transformers", "vllm"])
def test_int8_is_refused_by_engines_that_do_not_have_it(engine, model_folder):
    with pytest.raises(UserError, match=f"dtype int8 needs the engine ctranslate2, not {engine}; choose that"):
        opened_with(model_folder("mt5"), Job(), "int8", engine)


# --- the table --------------------------------------------------------------------------------------------------------


def test_the_choices_of_the_command_line_and_of_recipes_are_the_table():
    assert set(ENGINE_NAMES) == set(get_args(EngineName)) == {"auto", *ENGINES}


def test_an_opened_engine_reports_progress_by_sources(model_folder):
    with open_engine(str(model_folder("mt5")), "base", "float32") as opened:
        assert translate_texts(opened, english_segments(3), quick_search()) == translate_texts(
            opened, english_segments(3), quick_search()
        )
        assert "base" in opened.name
        counts = []
        opened.on_batch = counts.append
        translate_texts(opened, english_segments(5), quick_search(batch_size=2))
        assert counts == [2, 2, 1]
