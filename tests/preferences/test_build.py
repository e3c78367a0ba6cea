import json
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.corpora import HEADED
from support.pairs import REPORT_FILE, REPORT_SETTINGS, scored_segments
from support.paths import WMT22

from mtcpo.core.errors import UserError
from mtcpo.data.config import CorpusConfig
from mtcpo.data.corpora import Drops, read_corpus
from mtcpo.data.file_formats import registry
from mtcpo.data.file_formats.registry import read_row_file, write_row_file
from mtcpo.data.pair_report import SystemCounts, read_pair_report
from mtcpo.data.records import Candidate, Segment, segment_to_json
from mtcpo.data.rows import read_segments
from mtcpo.data.triplets import read_triplets
from mtcpo.preferences.balancing import length_log_ratio
from mtcpo.preferences.build import PrefsConfig, build_preferences, report_path_of

CHRF = PrefsConfig(metrics=("chrf",))


# By hand: 1 chooses "the black cat" over "a dog", 2 has the same text twice, 3 has no second candidate, 4 repeats 1.
TEXTS = {
    "1": ("die schwarze Katze", "the black cat", [("good", "the black cat"), ("bad", "a dog")]),
    "2": ("der Hund", "the dog", [("good", "the dog"), ("bad", "the dog")]),
    "3": ("das Haus", "the house", [("good", "the house")]),
    "4": ("die schwarze Katze", "the black cat", [("good", "the black cat"), ("bad", "a dog")]),
    "5": ("der Bäum", "the tree", [("good", "a shrub"), ("bad", "the tree there")]),
}


def make(texts=None):
    for name, (source, reference, candidates) in (texts or TEXTS).items():
        made = tuple(Candidate(system, text) for system, text in candidates)
        yield Segment(name, "de", "en", source, (reference,), candidates=made)


def test_example_by_hand(tmp_path):
    output = tmp_path / "prefs.jsonl"
    report = build_preferences(make(), CHRF, output)
    triplets = list(read_triplets(str(output)))
    assert [(t.id, t.chosen_system, t.rejected_system) for t in triplets] == [
        ("1", "good", "bad"),
        ("5", "bad", "good"),
    ]
    assert triplets[0].margin == pytest.approx(100 - triplets[0].rejected_scores["chrf"])
    assert report == read_pair_report(tmp_path / "prefs-report.json")
    assert (report.segments, report.kept, report.candidates) == (5, 2, 9)
    assert (report.considered, report.sources_kept) == (5, 2)
    assert [example.id for example in report.examples] == ["1", "5"]
    assert report.histograms.pairs == sum(report.histograms.margin.counts["pairs"]) == 2
    assert report.agreement == {}
    assert report.dropped == {"duplicate": 1, "one_candidate": 1, "same_text": 1}
    assert report.removed_candidates == {"same_text": 1}
    assert report.languages == {"de-en": 2}
    assert report.systems == SystemCounts(chosen={"good": 1, "bad": 1}, rejected={"bad": 1, "good": 1})
    assert report.margin.mean == pytest.approx(np.mean([t.margin for t in triplets]))
    assert report.margin.quantiles["0.5"] == pytest.approx(np.median([t.margin for t in triplets]))
    assert report.chosen_scores["chrf"] == pytest.approx(np.mean([t.chosen_scores["chrf"] for t in triplets]))
    lengths = report.lengths
    assert (lengths.chosen_mean_chars, lengths.rejected_mean_chars) == ((13 + 14) / 2, (5 + 7) / 2)
    assert lengths.log_ratio_mean == pytest.approx((np.log(13 / 5) + np.log(14 / 7)) / 2)
    assert (lengths.chosen_longer_share, lengths.rejected_longer_share) == (1, 0)
    assert report.metrics["chrf"].startswith("nrefs:1|case:mixed|eff:yes|nc:6")
    settings = report.settings
    assert (settings["select"], settings["combine"], settings["min_margin"]) == ("best-worst", "mean", 0)


def test_separate_files_and_a_candidates_file_give_the_same_triplets(tmp_path):
    """From files of MT outputs, and from the candidates file that they make."""
    for name, lines in {
        "s.de": [text[0] for text in TEXTS.values() if len(text[2]) == 2] + [""],
        "r.en": [text[1] for text in TEXTS.values() if len(text[2]) == 2] + ["x"],
        "good.en": [text[2][0][1] for text in TEXTS.values() if len(text[2]) == 2] + ["y"],
        "bad.en": [text[2][1][1] for text in TEXTS.values() if len(text[2]) == 2] + ["z"],
    }.items():
        (tmp_path / name).write_text("".join(line + "\n" for line in lines), encoding="utf-8")
    config = CorpusConfig(
        source=str(tmp_path / "s.de"),
        references=(str(tmp_path / "r.en"),),
        hypotheses={name: str(tmp_path / f"{name}.en") for name in ("good", "bad")},
        src_lang="de",
        tgt_lang="en",
    )
    drops = Drops()
    first = build_preferences(read_corpus(config, drops), CHRF, tmp_path / "a.jsonl", drops=drops)
    assert first.dropped["empty_source"] == 1
    assert first.kept + sum(first.dropped.values()) == first.segments == 5
    write_row_file(tmp_path / "candidates.jsonl.gz", map(segment_to_json, read_corpus(config)))
    again = CorpusConfig(source=str(tmp_path / "candidates.jsonl.gz"))
    second = build_preferences(read_corpus(again), CHRF, tmp_path / "b.jsonl", report=tmp_path / "report.json")
    assert (tmp_path / "a.jsonl").read_bytes() == (tmp_path / "b.jsonl").read_bytes()
    assert (tmp_path / "report.json").is_file()
    assert second.segments == 4


def test_scored_segments_are_reused(tmp_path):
    scored = tmp_path / "scored.jsonl"
    first = build_preferences(make(), CHRF, tmp_path / "a.jsonl", scored=scored)
    assert all("chrf" in c.scores for segment in read_segments(scored) for c in segment.candidates)
    second = build_preferences(read_segments(scored), CHRF, tmp_path / "b.jsonl")
    assert (tmp_path / "a.jsonl").read_bytes() == (tmp_path / "b.jsonl").read_bytes()
    assert second.metrics == {"chrf": "scores found in the input"}
    assert second.model_copy(update={"metrics": first.metrics}) == first


def test_the_reference_as_a_candidate_scores_100(tmp_path):
    config = PrefsConfig(metrics=("chrf",), reference="by-score")
    report = build_preferences(make(), config, tmp_path / "p.jsonl")
    triplets = list(read_triplets(str(tmp_path / "p.jsonl")))
    assert {t.id: t.chosen_scores["chrf"] for t in triplets} == pytest.approx({"1": 100, "5": 100})
    # In 1 the system wrote the same text and comes first.
    assert [t.chosen_system for t in triplets] == ["good", "reference"]
    config = PrefsConfig(metrics=("chrf",), reference="always")
    always = build_preferences(make(), config, tmp_path / "a.jsonl")
    assert {t.chosen_system for t in read_triplets(str(tmp_path / "a.jsonl"))} == {"reference"}
    assert always.dropped == {"duplicate": 1, "same_text": 2}
    assert report.candidates == 9 + 5


def test_empty_references_are_counted_and_not_scored(tmp_path):
    segments = list(make())
    blank = Segment("6", "de", "en", "Ja", ("",), candidates=segments[0].candidates)
    half = Segment("7", "de", "en", "Nein", ("", "the black cat"), candidates=segments[0].candidates)
    report = build_preferences([*segments, blank, half], CHRF, tmp_path / "p.jsonl")
    assert report.dropped["empty_reference"] == 1
    assert report.segments == 7
    assert list(read_triplets(str(tmp_path / "p.jsonl")))[-1].chosen_scores["chrf"] == pytest.approx(100)


def test_a_segment_without_a_reference_is_refused(tmp_path):
    bare = [Segment("8", "de", "en", "Ja", candidates=(Candidate("a", "x"),))]
    with pytest.raises(UserError, match="segment 8: no reference"):
        build_preferences(bare, CHRF, tmp_path / "p.jsonl")
    assert list(tmp_path.iterdir()) == []


def test_without_any_pair_left_the_reasons_are_named_and_nothing_is_written(tmp_path):
    with pytest.raises(
        UserError, match=r"no preference pair is left \(one_candidate: 1, same_text: 1, small_margin: 3\)"
    ):
        build_preferences(make(), PrefsConfig(metrics=("chrf",), min_margin=101), tmp_path / "p.jsonl")
    with pytest.raises(UserError, match=r"no segment was read"):
        build_preferences([], CHRF, tmp_path / "p.jsonl")
    assert list(tmp_path.iterdir()) == []


def test_an_interrupt_while_reading_leaves_no_file(tmp_path):
    def stopped():
        yield from make()
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build_preferences(stopped(), PrefsConfig(metrics=("chrf",), balance_length=True), tmp_path / "p.jsonl")
    assert list(tmp_path.iterdir()) == []


def test_human_verdicts_of_an_alma_r_set_decide(tmp_path):
    fields = {"language_pair": "de-en", "de": "Ja.", "en": "Yes.", "required_directions": "de-en"}
    systems = {"alma_en": "Yeah.", "gpt4_en": "Yep!", "alma_en_kiwi": 0.9, "gpt4_en_kiwi": 0.5, "ref_en_kiwi": 0.7}
    rows = [{"translation": fields | systems | {"Delta": delta}} for delta in (0.0, 1.0, -1.0)]
    write_row_file(tmp_path / "alma.jsonl", rows)
    config = PrefsConfig(metrics=("kiwi",), deduplicate=False, reference="by-score")
    report = build_preferences(
        read_corpus(CorpusConfig(source=str(tmp_path / "alma.jsonl"))), config, tmp_path / "p.jsonl"
    )
    chosen = [(t.chosen_system, t.rejected_system) for t in read_triplets(str(tmp_path / "p.jsonl"))]
    assert chosen == [("alma", "gpt4"), ("gpt4", "alma"), ("alma", "gpt4")]
    assert report.metrics == {"kiwi": "scores found in the input"}


words = st.lists(st.sampled_from(["the", "cat", "dog", "a", "x"]), max_size=5).map(" ".join)


rows = st.lists(st.tuples(words, words, st.lists(words, max_size=4)), min_size=1, max_size=12)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=60)
@given(
    rows,
    st.sampled_from(["never", "by-score", "always"]),
    st.booleans(),
    st.sampled_from([None, 0.2]),
    st.sampled_from(["best-worst", "best-vs-rest", "all-pairs", "mu-2sigma"]),
    st.sampled_from([None, 2]),
)
def test_every_pair_is_kept_or_counted(tmp_path, rows, reference, balance, max_difference, select, cap):
    texts = {str(n): (source, ref, [(f"s{k}", t) for k, t in enumerate(c)]) for n, (source, ref, c) in enumerate(rows)}
    config = PrefsConfig(
        metrics=("chrf", "bleu"),
        reference=reference,
        balance_length=balance,
        max_length_difference=max_difference,
        select=select,
        max_per_language=cap,
        workers=1,
    )
    output = tmp_path / "p.jsonl"
    try:
        report = build_preferences(make(texts), config, output)
    except UserError as error:
        assert "no preference pair is left" in str(error)  # noqa: PT017
        return
    assert report.segments == len(rows)
    assert report.kept + sum(report.dropped.values()) == report.considered >= len(rows)
    if select in ("best-worst", "mu-2sigma"):
        assert report.considered == len(rows)
    triplets = list(read_triplets(str(output)))
    assert len(triplets) == report.kept <= (cap or math.inf)
    assert len({t.id for t in triplets}) == report.sources_kept
    assert len({(t.source, t.chosen, t.rejected) for t in triplets}) == len(triplets)
    assert all(t.margin > 0 for t in triplets)
    assert [int(t.id) for t in triplets] == sorted(int(t.id) for t in triplets)


def test_balance_removes_the_length_bias(tmp_path):
    rng = np.random.default_rng(0)
    texts = {}
    for n in range(300):
        good, bad = (
            " ".join(f"w{k}" for k in range(int(length))) for length in (rng.integers(4, 12), rng.integers(3, 9))
        )
        texts[str(n)] = (f"Satz {n}", f"{good} {n}", [("good", f"{good} {n}"), ("bad", f"{bad} x")])
    reports = {}
    for balance in (False, True):
        config = PrefsConfig(metrics=("chrf",), balance_length=balance)
        output = tmp_path / f"{balance}.jsonl"
        reports[balance] = build_preferences(make(texts), config, output)
        ratios = [length_log_ratio(t) for t in read_triplets(str(output))]
        assert reports[balance].lengths.log_ratio_mean == pytest.approx(np.mean(ratios))
    assert reports[False].lengths.log_ratio_mean > 0.2
    assert abs(reports[True].lengths.log_ratio_mean) < 0.005
    assert reports[True].dropped["length_balance"] == reports[False].kept - reports[True].kept
    assert sorted(path.name for path in tmp_path.iterdir() if path.name.startswith(".")) == []


def scored(texts, lang="de"):
    """Segments with a column of scores, m, of their own: (id, [(text, m), ...])."""
    for name, candidates in texts:
        made = tuple(Candidate(f"s{n}", text, {"m": m}) for n, (text, m) in enumerate(candidates))
        yield Segment(name, "en", lang, f"source {name}", candidates=made)


def test_a_cap_draws_evenly_from_each_language_and_repeats_with_its_seed(tmp_path):
    def segments():
        for lang in ("de", "zh"):
            yield from scored([(f"{lang}{n}", [("good", 2.0), ("bad", 1.0)]) for n in range(40)], lang)

    drawn = {}
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        config = PrefsConfig(metrics=("m",), max_per_language=10, seed=seed)
        report = build_preferences(segments(), config, tmp_path / f"{name}.jsonl")
        assert (report.languages, report.dropped) == ({"en-de": 10, "en-zh": 10}, {"language_cap": 60})
        drawn[name] = [t.id for t in read_triplets(str(tmp_path / f"{name}.jsonl"))]
    assert drawn["a"] == drawn["b"] != drawn["c"]
    assert drawn["a"] == sorted(drawn["a"], key=lambda name: (name[:2], int(name[2:])))
    # With more data, those who were drawn before and still are in the draw stay the same.
    more = [*segments(), *scored([(f"de{n}", [("good", 2.0), ("bad", 1.0)]) for n in range(40, 60)])]
    build_preferences(more, PrefsConfig(metrics=("m",), max_per_language=10), tmp_path / "d.jsonl")
    kept = {t.id for t in read_triplets(str(tmp_path / "d.jsonl"))}
    assert {i for i in kept if i[:2] == "zh"} == {i for i in drawn["a"] if i[:2] == "zh"}
    assert {i for i in kept if i[:2] == "de" and int(i[2:]) < 40} <= set(drawn["a"])


def test_repeated_triplets_are_dropped(tmp_path):
    texts = [("1", [("a", 9.0), ("b", 5.0), ("c", 1.0)])]
    segments = [*scored(texts), *scored(texts)]
    config = PrefsConfig(metrics=("m",), select="all-pairs", min_margin=4)
    report = build_preferences(segments, config, tmp_path / "p.jsonl")
    assert (report.kept, report.considered, report.dropped) == (3, 6, {"duplicate": 3})
    assert report.sources_kept == 1
    assert [(t.chosen, t.rejected) for t in read_triplets(str(tmp_path / "p.jsonl"))] == [
        ("a", "b"), ("a", "c"), ("b", "c"),
    ]  # fmt: skip


def test_zscore_set_standardizes_over_all_segments(tmp_path):
    texts = [("1", [("a", 90.5), ("b", 90.0)]), ("2", [("a", 70.0), ("b", 30.0)]), ("3", [])]
    config = PrefsConfig(metrics=("m",), combine="zscore-set", min_margin=0.5)
    report = build_preferences(scored(texts), config, tmp_path / "p.jsonl")
    assert report.dropped == {"no_candidates": 1, "small_margin": 1}
    [triplet] = read_triplets(str(tmp_path / "p.jsonl"))
    assert triplet.margin == pytest.approx(40 / np.std([90.5, 90, 70, 30]))
    turned = PrefsConfig(metrics=("m",), combine="zscore-set", lower_is_better=("m",))
    build_preferences(scored(texts), turned, tmp_path / "t.jsonl")
    assert [t.chosen for t in read_triplets(str(tmp_path / "t.jsonl"))] == ["b", "b"]


def test_the_report_has_the_agreement_between_metrics(tmp_path):
    report = build_preferences(make(), PrefsConfig(metrics=("chrf", "bleu")), tmp_path / "p.jsonl")
    assert set(report.agreement) == {"bleu and chrf"}
    assert report.agreement["bleu and chrf"] > 0.9


def test_two_candidates_of_one_system_are_refused(tmp_path):
    twice = Segment("7", "de", "en", "Ja", ("Yes",), candidates=(Candidate("a", "Yes"), Candidate("a", "Yeah")))
    with pytest.raises(UserError, match=r"segment 7: two candidates come from system 'a'; .* such as a-1 and a-2"):
        build_preferences([twice], CHRF, tmp_path / "p.jsonl")


def test_the_complete_lines_of_a_truncated_candidates_file_are_read(tmp_path):
    whole = tmp_path / "candidates.jsonl"
    write_row_file(whole, map(segment_to_json, make()))
    data = whole.read_bytes()
    reports = set()
    last = data.rstrip(b"\n").rindex(b"\n") + 1
    # Every length of the last line, the middle of the "ä" in it among them.
    for end in range(last + 1, len(data) - 1, 7):
        (tmp_path / "cut.jsonl").write_bytes(data[:end])
        drops = Drops()
        segments = list(read_corpus(CorpusConfig(source=str(tmp_path / "cut.jsonl")), drops))
        assert (segments, drops) == (list(make())[:-1], {"truncated_line": 1})
        reports.add(len(segments))
    assert reports == {4}
    report = build_preferences(
        read_corpus(CorpusConfig(source=str(tmp_path / "cut.jsonl")), drops := Drops()), CHRF, tmp_path / "p.jsonl",
        drops=drops,
    )  # fmt: skip
    assert report.dropped["truncated_line"] == 1
    assert report.kept + sum(report.dropped.values()) == report.considered == report.segments == 5
    # In the middle of the file, and at its very beginning, it is a mistake.
    whole.write_bytes(data[: last - 20] + b"\n" + data[last:])
    with pytest.raises(UserError, match=r"candidates\.jsonl:4: not JSON"):
        list(read_corpus(CorpusConfig(source=str(whole)), Drops()))
    whole.write_bytes(data[:20])
    with pytest.raises(UserError, match=r"candidates\.jsonl:1: not JSON"):
        list(read_corpus(CorpusConfig(source=str(whole)), Drops()))


def test_the_report_is_written_beside_the_output():
    assert report_path_of(Path("run/prefs.jsonl")) == Path("run/prefs-report.json")
    assert report_path_of(Path("p.jsonl.gz")) == Path("p-report.json")


def test_output_and_report_of_a_new_format_are_named_and_written_by_its_entry(tmp_path, monkeypatch):
    monkeypatch.setattr(registry, "ROW_FORMATS", (*registry.ROW_FORMATS, HEADED))
    build_preferences(make(), CHRF, tmp_path / "prefs.headed")
    assert (tmp_path / "prefs-report.json").is_file()
    assert (tmp_path / "prefs.headed").read_text().startswith("rows\n")
    [first, *_] = read_row_file(tmp_path / "prefs.headed")
    assert first[1]["chosen"] == "the black cat"


@pytest.mark.parametrize("names", [{"output": "p.csv"}, {"output": "p.jsonl", "scored": "s.tsv"}])
def test_an_output_that_cannot_be_written_is_refused_before_a_segment_is_read(tmp_path, names):
    def unread():
        pytest.fail("a segment was read")
        yield

    paths = {name: tmp_path / file for name, file in names.items()}
    with pytest.raises(
        UserError, match=r"[ps]\.[ct]sv: mtcpo reads this format but cannot write it; use a name in \.jsonl"
    ):
        build_preferences(unread(), CHRF, **paths)
    assert list(tmp_path.iterdir()) == []


def test_the_report_is_what_it_was_before_it_became_a_record(tmp_path):
    report = build_preferences(scored_segments(), PrefsConfig(**REPORT_SETTINGS), tmp_path / "prefs.jsonl")
    found = report.to_json()
    expected = json.loads(REPORT_FILE.read_text(encoding="utf-8"))
    # The report has every setting, those that are newer than the file included.
    newer_settings = (found.keys() - expected.keys()) & PrefsConfig.model_fields.keys()
    for name in newer_settings:
        del found[name]
    assert list(found) == list(expected)
    # The last digit of an edge is numpy's, and releases differ.
    drawn = expected["histograms"]
    for histogram in (drawn["margin"], drawn["length_ratio"], *drawn["scores"].values()):
        histogram["edges"] = pytest.approx(histogram["edges"])
    assert found | {"mtcpo": ""} == expected | {"mtcpo": ""}


@pytest.mark.slow
@pytest.mark.data
def test_pairs_of_nine_systems_of_wmt22(tmp_path):
    folder = WMT22 / "de-en"
    hypotheses = {path.stem.removeprefix("system-"): str(path) for path in sorted(folder.glob("system-*"))}
    config = CorpusConfig(
        source=str(folder / "source.de"),
        references=(str(folder / "reference-A.en"),),
        hypotheses=hypotheses,
        src_lang="de",
        tgt_lang="en",
    )
    report = build_preferences(read_corpus(config), PrefsConfig(metrics=("chrf",), workers=2), tmp_path / "p.jsonl")
    assert (report.segments, report.candidates) == (1984, 9 * 1984)
    assert report.kept + sum(report.dropped.values()) == 1984
    assert report.kept > 1900
    assert report.chosen_scores["chrf"] > report.rejected_scores["chrf"] + 10
    assert set(report.systems.chosen) == set(hypotheses)


MEMORY = """
import resource, sys
from pathlib import Path
from mtcpo.data.records import Candidate, Segment
from mtcpo.preferences.build import PrefsConfig, build_preferences

def segments(count):
    for n in range(count):
        candidates = tuple(Candidate(f"s{k}", f"the cat number {n} sat {'down ' * k}") for k in range(4))
        yield Segment(str(n), "de", "en", f"Satz {n}", (f"the cat number {n} sat down",), candidates=candidates)

if __name__ == "__main__":
    build_preferences(segments(int(sys.argv[1])), PrefsConfig(metrics=("bleu",), workers=1), Path(sys.argv[2]))
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


@pytest.mark.slow
def test_memory_does_not_grow_with_the_input(tmp_path):
    script = tmp_path / "memory.py"
    script.write_text(MEMORY, encoding="utf-8")
    peaks = []
    for count in (1000, 6000):
        command = [sys.executable, str(script), str(count), str(tmp_path / f"{count}.jsonl")]
        peaks.append(int(subprocess.run(command, capture_output=True, text=True, check=True).stdout))
        assert sum(1 for _ in read_row_file(tmp_path / f"{count}.jsonl")) == count
    assert peaks[1] < 1.1 * peaks[0]
