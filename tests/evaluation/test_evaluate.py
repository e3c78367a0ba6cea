import json
from collections.abc import Callable
from dataclasses import replace

import pytest
from sacrebleu.metrics import BLEU, CHRF, TER
from support.console import run
from support.paths import WMT22
from support.runs import evaluate, german_outputs, german_test_set, read_json

from mtcpo.core.config import load_section
from mtcpo.core.errors import UserError
from mtcpo.data.records import Segment
from mtcpo.data.rows import read_segments
from mtcpo.evaluation.config import EvaluateConfig
from mtcpo.evaluation.evaluate import evaluate_outputs
from mtcpo.evaluation.results import to_document, write_evaluation
from mtcpo.evaluation.significance import holm
from mtcpo.evaluation.statistics import compute_statistics
from mtcpo.evaluation.systems import load_metrics_for, metrics_of, read_output
from mtcpo.evaluation.testsets.testset import TestSet
from mtcpo.metrics.registry import load_metric


@pytest.fixture(scope="module")
def garden():
    return german_test_set(60)


@pytest.fixture(scope="module")
def outputs(garden):
    return german_outputs(garden, {"start": 0.3, "tuned": 0.1, "other": 0.3})


@pytest.fixture(scope="module")
def evaluation(garden, outputs):
    return evaluate(garden, outputs)


def tiny(*rows: tuple[str, str]) -> TestSet:
    segments = tuple(Segment(f"t:{n}", "en", "de", source, (reference,)) for n, (source, reference) in enumerate(rows))
    return TestSet("tiny", "en", "de", segments, "by hand")


def metric(name):
    return load_metric(name, "de")


def test_corpus_scores_equal_sacrebleu(evaluation, garden, outputs):
    references = [[segment.references[0] for segment in garden.segments]]
    for system, texts in outputs.items():
        scores = evaluation.entry.systems[system].metrics
        assert scores["bleu"].score == pytest.approx(BLEU().corpus_score(texts, references).score, abs=1e-9)
        assert scores["chrf"].score == pytest.approx(CHRF().corpus_score(texts, references).score, abs=1e-9)
        assert scores["ter"].score == pytest.approx(TER().corpus_score(texts, references).score, abs=1e-9)


def test_segment_scores_equal_sacrebleu_with_ter_negated(evaluation, garden, outputs):
    sentence = BLEU(effective_order=True)
    for at, segment in enumerate(evaluation.segments):
        assert [candidate.system for candidate in segment.candidates] == list(outputs)
        for candidate in segment.candidates:
            text, references = outputs[candidate.system][at], list(garden.segments[at].references)
            assert candidate.text == text
            expected = {
                "bleu": sentence.sentence_score(text, references).score,
                "chrf": CHRF().sentence_score(text, references).score,
                "ter": -TER().sentence_score(text, references).score,
            }
            assert candidate.scores == pytest.approx(expected, abs=1e-9)


def test_evaluation_json_has_the_promised_fields(evaluation):
    entry = evaluation.entry
    assert entry.segments == 60
    assert set(entry.systems) == {"start", "tuned", "other"}
    tuned = entry.systems["tuned"]
    assert set(tuned.metrics) == {"bleu", "chrf", "ter"}
    assert tuned.metrics["bleu"].signature.startswith("nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp|version:")
    assert tuned.metrics["bleu"].ci > 0
    assert set(tuned.versus["start"]["chrf"].model_dump(by_alias=True)) == {
        "delta", "p_value", "p_holm", "p_randomisation", "low", "high", "wins", "ties", "losses",
    }  # fmt: skip
    assert entry.systems["start"].versus == {}
    assert entry.significance.model_dump() == {
        "test": "paired bootstrap", "second_test": "paired approximate randomisation", "correction": "Holm",
        "resamples": 300, "seed": 12345,
    }  # fmt: skip


def test_a_much_better_system_differs_significantly_in_the_right_direction(evaluation):
    versus = evaluation.entry.systems["tuned"].versus["start"]
    assert versus["bleu"].delta > 0
    assert versus["ter"].delta < 0
    for row in versus.values():
        assert row.p_value == pytest.approx(1 / 301)
        assert row.low <= row.delta <= row.high
        assert row.low * row.high > 0


def test_metrics_that_selected_the_training_pairs_are_marked(evaluation):
    assert evaluation.entry.metrics["chrf"].used_for_selection is True
    assert evaluation.entry.systems["start"].metrics["chrf"].used_for_selection is True
    assert evaluation.entry.metrics["bleu"].used_for_selection is False
    written = to_document([evaluation]).to_json()["pairs"]["en-de"]["metrics"]
    assert [metric for metric in written if "chose_pairs" in written[metric]] == ["chrf"]


def test_the_baseline_can_be_named(garden, outputs):
    entry = evaluate(garden, outputs, baseline="tuned").entry
    assert entry.baseline == "tuned"
    assert set(entry.systems["other"].versus) == {"tuned"}
    assert entry.systems["tuned"].versus == {}
    # Two systems that are much alike, with the baseline first and last: every test says the same.
    last = evaluate(garden, outputs, baseline="other").entry.systems["start"].versus["other"]
    swapped = {"other": outputs["other"], "start": outputs["start"]}
    first = evaluate(garden, swapped).entry.systems["start"].versus["other"]
    for name, versus in first.items():
        # All but the correction, which only several comparisons have.
        assert last[name].model_copy(update={"p_holm": None}) == versus.model_copy(update={"p_holm": None})
        assert versus.p_randomization > 0.05


def test_equal_outputs_do_not_differ(garden, outputs):
    entry = evaluate(garden, {"one": outputs["start"], "two": outputs["start"]}).entry
    assert entry.systems["two"].versus["one"]["bleu"].model_dump(by_alias=True, exclude_unset=True) == {
        "delta": 0.0, "p_value": 1.0, "p_randomisation": 1.0, "low": 0.0, "high": 0.0,
        "wins": 0, "ties": 60, "losses": 0,
    }  # fmt: skip


def test_the_same_seed_yields_the_same_result(garden, outputs):
    assert evaluate(garden, outputs).entry == evaluate(garden, outputs).entry
    assert evaluate(garden, outputs, seed=1).entry != evaluate(garden, outputs).entry


def test_length_ratio_and_counts_of_a_worked_example():
    test_set = tiny(("ab", "abcd"), ("same", "efgh"), ("x", "ij"))
    entry = evaluate_outputs(test_set, {"s": ["abcdef", " same ", "  "]}, [metric("chrf")]).entry.systems["s"]
    # 6 + 6 + 2 characters against 4 + 4 + 2.
    assert entry.length_ratio == pytest.approx(1.4)
    assert (entry.empty, entry.copied) == (1, 1)


def test_an_empty_output_is_scored():
    test_set = tiny(("a", "der Hund bellt laut"), ("b", "die Katze schläft tief"))
    full = ["der Hund bellt laut", "die Katze schläft tief"]
    half = [full[0], ""]
    result = evaluate_outputs(test_set, {"full": full, "half": half}, [metric("bleu"), metric("chrf"), metric("ter")])
    assert result.entry.systems["half"].empty == 1
    assert result.segments[1].candidates[1].scores == {"bleu": 0.0, "chrf": 0.0, "ter": -100.0}
    assert result.entry.systems["half"].metrics["ter"].score == 50.0


def test_several_references_count_in_length_and_signature():
    test_set = tiny(("a", "abcd"))
    test_set = replace(test_set, segments=(replace(test_set.segments[0], references=("abcd", "abcdefgh")),))
    entry = evaluate_outputs(test_set, {"s": ["abcdef"]}, [metric("chrf")]).entry
    assert entry.references == 2
    assert entry.systems["s"].length_ratio == 1.0
    assert "nrefs:2" in entry.metrics["chrf"].signature


def test_a_metric_that_needs_references_refuses_a_segment_without_one():
    test_set = TestSet("tiny", "en", "de", (Segment("t:1", "en", "de", "a"),), "by hand")
    with pytest.raises(UserError, match=r"no reference for segment t:1, and chrf needs one; give --reference"):
        evaluate_outputs(test_set, {"s": ["x"]}, [metric("chrf")])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda o, m: (o, []), "no metric to evaluate with; add one"),
        (lambda o, m: (o, [*m, *m]), "metric 'chrf' is named twice"),
        (lambda o, m: ({}, m), "no system to evaluate"),
        (
            lambda o, m: ({"s": o["s"][:-1]}, m),
            r"system 's': 1 translation, but tiny en-de \(by hand\) has 2 segments",
        ),
        (lambda o, m: ({"../s": o["s"]}, m), r"system name '\.\./s': write it without"),
        (lambda o, m: ({"": o["s"]}, m), "system name '' is blank"),
    ],
)
def test_what_cannot_be_evaluated_is_refused(change: Callable, message):
    outputs, metrics = change({"s": ["x", "y"]}, [metric("chrf")])
    with pytest.raises(UserError, match=message):
        evaluate_outputs(tiny(("a", "b"), ("c", "d")), outputs, metrics)


def test_an_unknown_baseline_suggests_the_nearest_name():
    with pytest.raises(UserError, match=r"unknown baseline 'tunde' \(did you mean 'tuned'\?\)"):
        evaluate_outputs(tiny(("a", "b")), {"tuned": ["x"]}, [metric("chrf")], EvaluateConfig(baseline="tunde"))


# Reading outputs


def test_an_output_file_of_another_length_is_refused(tmp_path):
    (tmp_path / "a.txt").write_text("eins\n\n", encoding="utf-8")
    (tmp_path / "b.txt").write_text("eins\n", encoding="utf-8")
    test_set = tiny(("one", "eins"), ("two", "zwei"))
    assert read_output(tmp_path / "a.txt", test_set) == ["eins", ""]
    with pytest.raises(UserError, match=r"b\.txt: 1 line, but by hand has 2"):
        read_output(tmp_path / "b.txt", test_set)


# Writing


def test_the_files_of_an_evaluation(tmp_path, evaluation, outputs):
    written = write_evaluation(tmp_path, [evaluation])
    document = read_json(tmp_path / "evaluation.json")
    assert document == json.loads(json.dumps(written.to_json()))
    assert written == to_document([evaluation])
    assert list(document["pairs"]) == ["en-de"]
    folder = tmp_path / "translations" / "garden" / "en-de"
    assert sorted(file.name for file in folder.iterdir()) == ["other.txt", "segments.jsonl", "start.txt", "tuned.txt"]
    assert (folder / "tuned.txt").read_text(encoding="utf-8").splitlines() == outputs["tuned"]
    assert tuple(read_segments(folder / "segments.jsonl")) == evaluation.segments


def test_line_breaks_in_a_translation_become_spaces_in_its_file(tmp_path):
    texts = ["eins\nzwei\r\ndrei\rvier", "\u2028fünf", "sechs"]
    test_set = tiny(("a", "b"), ("c", "d"), ("e", "f"))
    write_evaluation(tmp_path, [evaluate_outputs(test_set, {"s": texts}, [metric("chrf")])])
    written = (tmp_path / "translations/tiny/en-de/s.txt").read_text(encoding="utf-8")
    assert written == "eins zwei drei vier\n\u2028fünf\nsechs\n"


def test_an_existing_evaluation_is_refused_before_anything_is_written(tmp_path, evaluation):
    (tmp_path / "evaluation.json").write_text("{}")
    with pytest.raises(UserError, match=r"evaluation\.json exists; pass --overwrite"):
        write_evaluation(tmp_path, [evaluation])
    assert [path.name for path in tmp_path.iterdir()] == ["evaluation.json"]
    write_evaluation(tmp_path, [evaluation], overwrite=True)
    assert read_json(tmp_path / "evaluation.json")["pairs"]


def test_evaluation_json_is_written_last_and_never_half(tmp_path, evaluation, monkeypatch):
    def full_disk(path, value):
        raise OSError("No space left on device")

    monkeypatch.setattr("mtcpo.evaluation.document.write_json", full_disk)
    with pytest.raises(OSError, match="No space"):
        write_evaluation(tmp_path, [evaluation])
    assert not (tmp_path / "evaluation.json").exists()
    assert not list(tmp_path.rglob("*.partial"))


def test_a_pair_of_two_test_sets_is_keyed_with_the_suite(evaluation, outputs):
    other = replace(evaluation, test_set=replace(evaluation.test_set, name="park"))
    assert list(to_document([evaluation, other]).pairs) == ["garden:en-de", "park:en-de"]
    with pytest.raises(UserError, match="two test sets are named garden en-de"):
        to_document([evaluation, evaluation])


def test_the_evaluate_section_of_a_recipe_is_checked(tmp_path):
    (tmp_path / "demo").mkdir()
    (tmp_path / "own.toml").write_text("")
    config = load_section(EvaluateConfig, {"suites": ["demo", "own.toml", "wmt22:de-en"]}, "recipe.toml", base=tmp_path)
    # The folder that happens to be named demo is not the suite demo.
    assert config.suites == ("demo", str(tmp_path / "own.toml"), "wmt22:de-en")
    with pytest.raises(UserError, match=r"unknown key 'metric' .did you mean 'metrics'"):
        load_section(EvaluateConfig, {"metric": ["bleu"]}, "recipe.toml")
    with pytest.raises(UserError, match="metrics"):
        load_section(EvaluateConfig, {"metrics": []}, "recipe.toml")


# Many systems, several references, what outputs are like


def test_p_values_of_several_systems_are_holm_corrected(evaluation):
    rows = [row.versus["start"] for name, row in evaluation.entry.systems.items() if name != "start"]
    for metric in ("bleu", "chrf", "ter"):
        found = [row[metric] for row in rows]
        assert [row.p_holm for row in found] == holm([max(row.p_value, row.p_randomization) for row in found])


def test_a_single_comparison_is_not_corrected(garden, outputs):
    entry = evaluate(garden, {name: outputs[name] for name in ("start", "tuned")}).entry
    assert entry.significance.correction is None
    assert entry.systems["tuned"].versus["start"]["bleu"].p_holm is None


def test_wins_ties_and_losses_are_counted_by_segment(evaluation):
    for metric in ("bleu", "chrf", "ter"):
        versus = evaluation.entry.systems["tuned"].versus["start"][metric]
        gains = [s.candidates[1].scores[metric] - s.candidates[0].scores[metric] for s in evaluation.segments]
        expected = [sum(gain > 1e-9 for gain in gains), sum(gain < -1e-9 for gain in gains)]
        assert [versus.wins, versus.losses] == expected
        assert versus.ties == 60 - sum(expected)
        assert versus.wins > versus.losses


def test_clusters_separate_systems_that_differ(evaluation):
    clusters = {name: row.metrics["chrf"].cluster for name, row in evaluation.entry.systems.items()}
    assert clusters == {"tuned": 1, "start": 2, "other": 2}
    # TER is better where it is lower.
    rates = {name: row.metrics["ter"] for name, row in evaluation.entry.systems.items()}
    assert rates["tuned"].cluster == 1
    assert {rates["start"].cluster, rates["other"].cluster} == {2}
    assert rates["tuned"].score < min(rates["start"].score, rates["other"].score)


def test_scores_by_length_equal_scoring_each_group_alone(evaluation, garden, outputs):
    groups = evaluation.entry.by_length
    assert sum(group.segments for group in groups) == 60
    assert [group.chars for group in groups] == sorted(group.chars for group in groups)
    shortest = sorted(range(60), key=lambda at: len(garden.segments[at].source))[: groups[0].segments]
    references = [[garden.segments[at].references[0] for at in shortest]]
    score = BLEU().corpus_score([outputs["tuned"][at] for at in shortest], references).score
    assert groups[0].scores["bleu"]["tuned"] == pytest.approx(score, abs=1e-9)


def test_each_reference_option_scores_against_every_reference_alone(garden, outputs):
    other = german_outputs(garden, {"B": 0.1}, seed=8)["B"]
    segments = tuple(
        replace(segment, references=(*segment.references, text))
        for segment, text in zip(garden.segments, other, strict=True)
    )
    both = replace(garden, segments=segments, reference_names=("A", "B"))
    texts = outputs["start"]
    config = EvaluateConfig(resamples=20, each_reference=True)
    entry = evaluate_outputs(both, {"start": texts}, [metric("bleu"), metric("chrf")], config).entry
    references = [[segment.references[at] for segment in segments] for at in range(2)]
    scores = {name: row.score for name, row in entry.systems["start"].metrics.items()}
    assert scores == pytest.approx({
        "bleu": BLEU().corpus_score(texts, references).score,
        "bleu-A": BLEU().corpus_score(texts, references[:1]).score,
        "bleu-B": BLEU().corpus_score(texts, references[1:]).score,
        "chrf": CHRF().corpus_score(texts, references).score,
        "chrf-A": CHRF().corpus_score(texts, references[:1]).score,
        "chrf-B": CHRF().corpus_score(texts, references[1:]).score,
    }, abs=1e-9)  # fmt: skip
    assert entry.metrics["bleu-B"].signature.startswith("nrefs:1|")
    assert entry.metrics["bleu-B"].signature.endswith("|ref:B")


def test_a_single_reference_has_its_own_score_too(garden, outputs):
    one = replace(garden, reference_names=("stud",))
    config = EvaluateConfig(resamples=20, each_reference=True)
    entry = evaluate_outputs(one, {"start": outputs["start"]}, [metric("bleu"), metric("chrf")], config).entry
    rows = entry.systems["start"].metrics
    assert list(rows) == ["bleu", "bleu-stud", "chrf", "chrf-stud"]
    assert rows["bleu-stud"].score == rows["bleu"].score
    unnamed = replace(garden, reference_names=("",))
    assert list(evaluate_outputs(unnamed, outputs, [metric("bleu")], config).entry.metrics) == ["bleu"]


def test_submitted_systems_follow_those_of_the_user(garden, outputs):
    submitted = replace(garden, submitted={"other": outputs["other"]})
    entry = evaluate(submitted, {"tuned": outputs["tuned"]}).entry
    assert list(entry.systems) == ["tuned", "other"]
    assert entry.baseline == "tuned"
    with pytest.raises(UserError, match="two systems are named 'other': yours and one submitted for garden"):
        evaluate(submitted, {"other": outputs["tuned"]})


def test_metrics_come_from_the_command_else_the_suite_else_the_default(garden):
    of_suite = replace(garden, metrics=("chrf++", "ter"))
    assert metrics_of(EvaluateConfig(), garden) == ("bleu", "chrf")
    assert metrics_of(EvaluateConfig(), of_suite) == ("chrf++", "ter")
    assert metrics_of(EvaluateConfig(metrics=("bleu",)), of_suite) == ("bleu",)
    loaded = load_metrics_for([garden, of_suite], EvaluateConfig())
    assert [[one.name for one in metrics] for metrics in loaded] == [["bleu", "chrf"], ["chrf++", "ter"]]


def test_worker_processes_give_the_same_statistics(garden, outputs, monkeypatch):
    metrics = [metric(name) for name in ("bleu", "chrf++", "ter")]
    alone = compute_statistics(metrics, outputs, garden.segments)
    monkeypatch.setattr("mtcpo.evaluation.statistics.TEXTS_FOR_WORKERS", 1)
    monkeypatch.setattr("mtcpo.evaluation.statistics.SEGMENTS_PER_TASK", 25)
    monkeypatch.setattr("os.cpu_count", lambda: 2)
    both = compute_statistics(metrics, outputs, garden.segments)
    for name, tables in alone.items():
        assert all((one == other).all() for one, other in zip(tables, both[name], strict=True))


# The published scores of WMT22


def official_scores(pair: str) -> dict[tuple[str, str], float]:
    scores = {}
    for line in (WMT22 / "official-scores.tsv").read_text(encoding="utf-8").splitlines()[1:]:
        row = line.split("\t")
        if row[0] == pair:
            scores[row[1], row[4]] = float(row[5])
    return scores


@pytest.mark.slow
@pytest.mark.data
@pytest.mark.parametrize("pair", ["de-en", "en-de"])
def test_one_command_reproduces_the_official_wmt22_scores(pair, tmp_path, capsys):
    source, target = pair.split("-")
    folder = WMT22 / pair
    command = ["evaluate", "--source", folder / f"source.{source}", "--src-lang", source, "--tgt-lang", target]
    for label in "AB":
        command += ["--reference", f"{label}={folder / f'reference-{label}.{target}'}"]
    # Every third; eval/bench/wmt22_ranking.py holds all eighteen to the same.
    for path in sorted(folder.glob("system-*"))[::3]:
        command += ["--hyp", f"{path.stem.removeprefix('system-')}={path}"]
    outcome = run(capsys, *command, "--each-reference", "--set", "resamples=100", "--output-dir", tmp_path / "e")
    assert (outcome.code, outcome.err) == (0, "")
    entry = read_json(tmp_path / "e/evaluation.json")["pairs"][pair]
    official = official_scores(pair)
    assert len(entry["systems"]) == 3
    for system, row in entry["systems"].items():
        assert set(row["metrics"]) == {f"{name}{label}" for name in ("bleu", "chrf") for label in ("", "-A", "-B")}
        for name, score in row["metrics"].items():
            published = official[system, name if "-" in name else f"{name}-all"]
            assert score["score"] == pytest.approx(published, abs=1e-6), (system, name)
    assert (tmp_path / "e/report.html").exists()
