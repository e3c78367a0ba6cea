import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from made_up_run import evaluate, german_outputs, german_test_set, read_json
from sacrebleu.metrics import BLEU, CHRF, TER

from mtcpo.config import load_section
from mtcpo.errors import UserError
from mtcpo.evaluation import EvaluateConfig, evaluate_outputs, read_outputs, to_document, write_evaluation
from mtcpo.metrics import load_metric
from mtcpo.records import Segment, read_segments
from mtcpo.testsets import TestSet, TestSetConfig, load_local_set

WMT22 = Path(__file__).parents[2] / "shared" / "data" / "wmt22"


@pytest.fixture(scope="module")
def test_set():
    return german_test_set(60)


@pytest.fixture(scope="module")
def outputs(test_set):
    return german_outputs(test_set, {"start": 0.3, "tuned": 0.1, "other": 0.3})


@pytest.fixture(scope="module")
def evaluation(test_set, outputs):
    return evaluate(test_set, outputs)


def tiny(*rows: tuple[str, str]) -> TestSet:
    segments = tuple(Segment(f"t:{n}", "en", "de", source, (reference,)) for n, (source, reference) in enumerate(rows))
    return TestSet("tiny", "en", "de", segments, "by hand")


def metric(name):
    return load_metric(name, "de")


def test_corpus_scores_are_sacrebleus(evaluation, test_set, outputs):
    references = [[segment.references[0] for segment in test_set.segments]]
    for system, texts in outputs.items():
        scores = evaluation.entry["systems"][system]["metrics"]
        assert scores["bleu"]["score"] == pytest.approx(BLEU().corpus_score(texts, references).score, abs=1e-9)
        assert scores["chrf"]["score"] == pytest.approx(CHRF().corpus_score(texts, references).score, abs=1e-9)
        assert scores["ter"]["score"] == pytest.approx(TER().corpus_score(texts, references).score, abs=1e-9)


def test_segment_scores_are_sacrebleus_and_higher_is_better(evaluation, test_set, outputs):
    sentence = BLEU(effective_order=True)
    for at, segment in enumerate(evaluation.segments):
        assert [candidate.system for candidate in segment.candidates] == list(outputs)
        for candidate in segment.candidates:
            text, references = outputs[candidate.system][at], list(test_set.segments[at].references)
            assert candidate.text == text
            expected = {
                "bleu": sentence.sentence_score(text, references).score,
                "chrf": CHRF().sentence_score(text, references).score,
                "ter": -TER().sentence_score(text, references).score,
            }
            assert candidate.scores == pytest.approx(expected, abs=1e-9)


def test_the_entry_has_the_promised_shape(evaluation):
    entry = evaluation.entry
    assert entry["segments"] == 60
    assert set(entry["systems"]) == {"start", "tuned", "other"}
    tuned = entry["systems"]["tuned"]
    assert set(tuned["metrics"]) == {"bleu", "chrf", "ter"}
    assert tuned["metrics"]["bleu"]["signature"].startswith("nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp|version:")
    assert tuned["metrics"]["bleu"]["ci"] > 0
    assert set(tuned["versus"]["start"]["chrf"]) == {"delta", "p_value", "low", "high"}
    assert entry["systems"]["start"]["versus"] == {}
    assert entry["significance"] == {"test": "paired bootstrap", "resamples": 300, "seed": 12345}


def test_a_much_better_system_differs_significantly_in_the_right_direction(evaluation):
    versus = evaluation.entry["systems"]["tuned"]["versus"]["start"]
    assert versus["bleu"]["delta"] > 0
    assert versus["ter"]["delta"] < 0
    for row in versus.values():
        assert row["p_value"] == pytest.approx(1 / 301)
        assert row["low"] <= row["delta"] <= row["high"]
        assert row["low"] * row["high"] > 0


def test_metrics_that_chose_the_pairs_are_marked(evaluation):
    assert evaluation.entry["metrics"]["chrf"]["chose_pairs"] is True
    assert evaluation.entry["systems"]["start"]["metrics"]["chrf"]["chose_pairs"] is True
    assert "chose_pairs" not in evaluation.entry["metrics"]["bleu"]


def test_the_baseline_can_be_named(test_set, outputs):
    entry = evaluate(test_set, outputs, baseline="tuned").entry
    assert entry["baseline"] == "tuned"
    assert set(entry["systems"]["other"]["versus"]) == {"tuned"}
    assert entry["systems"]["tuned"]["versus"] == {}


def test_equal_outputs_do_not_differ(test_set, outputs):
    entry = evaluate(test_set, {"one": outputs["start"], "two": outputs["start"]}).entry
    assert entry["systems"]["two"]["versus"]["one"]["bleu"] == {"delta": 0.0, "p_value": 1.0, "low": 0.0, "high": 0.0}


def test_one_seed_gives_one_result(test_set, outputs):
    assert evaluate(test_set, outputs).entry == evaluate(test_set, outputs).entry
    assert evaluate(test_set, outputs, seed=1).entry != evaluate(test_set, outputs).entry


def test_what_outputs_are_like_by_hand():
    test_set = tiny(("ab", "abcd"), ("same", "efgh"), ("x", "ij"))
    entry = evaluate_outputs(test_set, {"s": ["abcdef", " same ", "  "]}, [metric("chrf")]).entry["systems"]["s"]
    # 6 + 6 + 2 characters against 4 + 4 + 2.
    assert entry["length_ratio"] == pytest.approx(1.4)
    assert (entry["empty"], entry["copied"]) == (1, 1)


def test_an_empty_output_is_scored():
    test_set = tiny(("a", "der Hund bellt laut"), ("b", "die Katze schläft tief"))
    full = ["der Hund bellt laut", "die Katze schläft tief"]
    half = [full[0], ""]
    result = evaluate_outputs(test_set, {"full": full, "half": half}, [metric("bleu"), metric("chrf"), metric("ter")])
    assert result.entry["systems"]["half"]["empty"] == 1
    assert result.segments[1].candidates[1].scores == {"bleu": 0.0, "chrf": 0.0, "ter": -100.0}
    assert result.entry["systems"]["half"]["metrics"]["ter"]["score"] == 50.0


def test_several_references_count_in_length_and_signature():
    test_set = tiny(("a", "abcd"))
    test_set = replace(test_set, segments=(replace(test_set.segments[0], references=("abcd", "abcdefgh")),))
    entry = evaluate_outputs(test_set, {"s": ["abcdef"]}, [metric("chrf")]).entry
    assert entry["references"] == 2
    assert entry["systems"]["s"]["length_ratio"] == 1.0
    assert "nrefs:2" in entry["metrics"]["chrf"]["signature"]


def test_text_without_references_has_no_length_ratio():
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
            r"system 's': 1 translations, but tiny en-de \(by hand\) has 2 segments",
        ),
        (lambda o, m: ({"../s": o["s"]}, m), r"system '\.\./s': it names a file"),
        (lambda o, m: ({"": o["s"]}, m), "system without a name"),
    ],
)
def test_mistakes(change: Callable, message):
    outputs, metrics = change({"s": ["x", "y"]}, [metric("chrf")])
    with pytest.raises(UserError, match=message):
        evaluate_outputs(tiny(("a", "b"), ("c", "d")), outputs, metrics)


def test_an_unknown_baseline_names_the_nearest():
    with pytest.raises(UserError, match=r"unknown baseline 'tunde' \(did you mean 'tuned'\?\)"):
        evaluate_outputs(tiny(("a", "b")), {"tuned": ["x"]}, [metric("chrf")], EvaluateConfig(baseline="tunde"))


# Reading outputs


def test_outputs_are_read_and_counted(tmp_path):
    (tmp_path / "a.txt").write_text("eins\n\n", encoding="utf-8")
    (tmp_path / "b.txt").write_text("eins\n", encoding="utf-8")
    test_set = tiny(("one", "eins"), ("two", "zwei"))
    assert read_outputs([("a", tmp_path / "a.txt")], test_set) == {"a": ["eins", ""]}
    with pytest.raises(UserError, match=r"b\.txt: 1 lines, but by hand has 2"):
        read_outputs([("b", tmp_path / "b.txt")], test_set)
    with pytest.raises(UserError, match="two systems are named 'a'"):
        read_outputs([("a", tmp_path / "a.txt"), ("a", tmp_path / "b.txt")], test_set)


# Writing


def test_what_is_written(tmp_path, evaluation, outputs):
    path = write_evaluation(tmp_path, [evaluation])
    assert path == tmp_path / "evaluation.json"
    document = read_json(path)
    assert document == json.loads(json.dumps(to_document([evaluation])))
    assert list(document["pairs"]) == ["en-de"]
    folder = tmp_path / "translations" / "garden" / "en-de"
    assert sorted(file.name for file in folder.iterdir()) == ["other.txt", "segments.jsonl", "start.txt", "tuned.txt"]
    assert (folder / "tuned.txt").read_text(encoding="utf-8").splitlines() == outputs["tuned"]
    assert tuple(read_segments(folder / "segments.jsonl")) == evaluation.segments


def test_a_line_stays_a_line(tmp_path):
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


def test_evaluation_json_comes_last_and_nothing_half_written_stays(tmp_path, evaluation, monkeypatch):
    def full_disk(path, value):
        raise OSError("No space left on device")

    monkeypatch.setattr("mtcpo.evaluation.write_json", full_disk)
    with pytest.raises(OSError, match="No space"):
        write_evaluation(tmp_path, [evaluation])
    assert not (tmp_path / "evaluation.json").exists()
    assert not list(tmp_path.rglob("*.partial"))


def test_a_pair_of_two_test_sets_is_keyed_with_the_suite(evaluation, outputs):
    other = replace(evaluation, test_set=replace(evaluation.test_set, name="park"))
    assert list(to_document([evaluation, other])["pairs"]) == ["garden:en-de", "park:en-de"]
    with pytest.raises(UserError, match="two test sets are garden en-de"):
        to_document([evaluation, evaluation])


def test_the_section_of_a_recipe(tmp_path):
    (tmp_path / "demo").mkdir()
    (tmp_path / "own.toml").write_text("")
    config = load_section(EvaluateConfig, {"suites": ["demo", "own.toml", "wmt22:de-en"]}, "recipe.toml", base=tmp_path)
    # The folder that happens to be named demo is not the suite demo.
    assert config.suites == ("demo", str(tmp_path / "own.toml"), "wmt22:de-en")
    with pytest.raises(UserError, match=r"unknown key 'metric' .did you mean 'metrics'"):
        load_section(EvaluateConfig, {"metric": ["bleu"]}, "recipe.toml")
    with pytest.raises(UserError, match="metrics"):
        load_section(EvaluateConfig, {"metrics": []}, "recipe.toml")


# The published scores of WMT22


def official_scores(pair: str) -> dict[tuple[str, str], float]:
    scores = {}
    for line in (WMT22 / "official-scores.tsv").read_text(encoding="utf-8").splitlines()[1:]:
        row = line.split("\t")
        if row[0] == pair:
            scores[row[1], row[4]] = float(row[5])
    return scores


@pytest.mark.skipif(not WMT22.exists(), reason="the WMT22 data are not beside this repository")
@pytest.mark.parametrize("pair", ["de-en", "en-de"])
def test_corpus_scores_equal_the_official_ones(pair):
    source, target = pair.split("-")
    folder = WMT22 / pair
    test_set = load_local_set(
        TestSetConfig(
            name="wmt22",
            source=str(folder / f"source.{source}"),
            references=tuple(str(folder / f"reference-{name}.{target}") for name in "AB"),
            src_lang=source,
            tgt_lang=target,
        )
    )
    files = sorted(folder.glob("system-*"))
    outputs = read_outputs([(path.stem.removeprefix("system-"), path) for path in files], test_set)
    metrics = [load_metric(name, target) for name in ("bleu", "chrf")]
    entry = evaluate_outputs(test_set, outputs, metrics, EvaluateConfig(resamples=100)).entry
    official = official_scores(pair)
    assert len(entry["systems"]) == 9
    for system, row in entry["systems"].items():
        for name, score in row["metrics"].items():
            assert score["score"] == pytest.approx(official[system, f"{name}-all"], abs=1e-6), (system, name)
