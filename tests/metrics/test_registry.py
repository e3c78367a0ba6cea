"""The table of metrics: every row agrees with the metric it loads, and a new row is all that a new metric needs."""

import json
import re
from dataclasses import dataclass

import numpy as np
import pytest
import sacrebleu
from click.testing import CliRunner
from support.console import write_lines
from support.paths import ROOT

from mtcpo.cli.commands import mtcpo
from mtcpo.core.config import Config, load_section
from mtcpo.core.errors import UserError
from mtcpo.data.file_formats.registry import write_row_file
from mtcpo.data.records import Candidate, Segment, segment_to_json
from mtcpo.metrics.base import NeuralMetric
from mtcpo.metrics.comet.config import CometConfig
from mtcpo.metrics.config import MetricSpec
from mtcpo.metrics.per_reference import SingleReferenceMetric
from mtcpo.metrics.registry import (
    METRICS,
    MetricKind,
    candidate_kind,
    is_computed,
    is_lexical,
    load_candidate_metric,
    load_metric,
    metric_kind,
    metric_name,
)

LEXICAL = [name for name, kind in METRICS.items() if kind.is_lexical]
DOWNLOADED = {"spbleu"}  # needs a SentencePiece model from the network


# --- rows -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [name for name in LEXICAL if name not in DOWNLOADED])
def test_a_row_agrees_with_the_metric_it_loads(name):
    metric, kind = load_metric(name, "en"), METRICS[name]
    assert metric.name == name
    assert metric.needs_references == kind.needs_references
    assert metric.higher_is_better == kind.higher_is_better
    assert metric.is_lexical == kind.is_lexical
    assert metric.percent == (kind.scale == "0 to 100")


@pytest.mark.parametrize("name", METRICS)
def test_every_row_has_title_help_and_paper(name):
    kind = METRICS[name]
    assert kind.title
    assert kind.paper
    assert kind.help
    assert kind.is_lexical == is_lexical(name)
    assert not (kind.is_lexical and kind.checkpoint), "a lexical metric takes no checkpoint"


def test_the_page_on_pairs_lists_every_metric():
    page = (ROOT / "docs/pairs.md").read_text(encoding="utf-8")
    table = page.partition("| spec | score of a candidate |")[2].partition("\n\n")[0]
    specs = [line.split("|")[1] for line in table.splitlines() if line.startswith("| `")]
    listed = set(re.findall(r"`([^`]+)`", " ".join(specs)))
    assert set(METRICS) <= listed
    assert all(is_computed(spec) for spec in listed), "the page names a metric that mtcpo does not have"


def test_specs_are_distinguished():
    names = [metric_name(spec) for spec in ("chrf", "comet:a=b:c", "mine=python:a:b", "mbr:comet:x")]
    assert names == ["chrf", "comet", "mine", "mbr"]
    assert all(is_computed(spec) for spec in ("chrf", "mine=python:a:b", "mbr:chrf"))
    assert not any(is_computed(spec) for spec in ("mbr", "column", "a=b"))
    assert not any(is_lexical(spec) for spec in ("comet", "mine=python:a:b", "mbr:chrf", "column"))


def test_mbr_is_lexical_if_its_utility_is_and_needs_no_reference():
    assert candidate_kind("mbr:chrf").is_lexical
    assert not candidate_kind("mbr:comet").is_lexical
    assert not candidate_kind("mbr:chrf").needs_references
    assert candidate_kind("mbr:ter").higher_is_better
    with pytest.raises(UserError, match="unknown metric 'chr'"):
        candidate_kind("mbr:chr")


def test_mbr_has_no_corpus_score():
    with pytest.raises(UserError, match="unknown metric 'mbr'"):
        metric_kind("mbr:chrf")


def test_an_unknown_metric_names_the_nearest_and_lists_all():
    with pytest.raises(UserError, match=r"unknown metric 'chr' \(did you mean 'chrf'\?\); choose from bleu, chrf"):
        load_metric("chr", "en")


@pytest.mark.parametrize("spec", ["chrf:path", "comet:"])
def test_a_checkpoint_that_does_not_belong_in_a_spec_is_refused(spec):
    with pytest.raises(UserError, match="only neural metrics take a checkpoint"):
        metric_kind(spec)
    assert metric_name(spec) == spec.split(":")[0]


class Scores(Config):
    metric: MetricSpec


def test_checkpoints_in_a_recipe_start_at_the_recipe(tmp_path):
    (tmp_path / "model").mkdir()

    def load(spec):
        return load_section(Scores, {"metric": spec}, "r", base=tmp_path).metric

    assert load("comet:model") == f"comet:{tmp_path / 'model'}"
    assert load("mbr:comet:model") == f"mbr:comet:{tmp_path / 'model'}"
    assert load("comet:Unbabel/wmt22-comet-da") == "comet:Unbabel/wmt22-comet-da"
    assert load("chrf") == "chrf"


# --- signatures: the keys of users' caches ----------------------------------------------------------------------------

VERSION = sacrebleu.__version__

SIGNATURES = {
    "bleu": (
        f"nrefs:2|case:mixed|eff:no|tok:13a|smooth:exp|version:{VERSION}",
        f"nrefs:var|case:mixed|eff:yes|tok:13a|smooth:exp|version:{VERSION}",
    ),
    "chrf": (
        f"nrefs:2|case:mixed|eff:yes|nc:6|nw:0|space:no|version:{VERSION}",
        f"nrefs:var|case:mixed|eff:yes|nc:6|nw:0|space:no|version:{VERSION}",
    ),
    "chrf++": (
        f"nrefs:2|case:mixed|eff:yes|nc:6|nw:2|space:no|version:{VERSION}",
        f"nrefs:var|case:mixed|eff:yes|nc:6|nw:2|space:no|version:{VERSION}",
    ),
    "ter": (
        f"nrefs:2|case:lc|tok:tercom|norm:no|punct:yes|asian:no|version:{VERSION}",
        f"nrefs:var|case:lc|tok:tercom|norm:no|punct:yes|asian:no|version:{VERSION}",
    ),
}


@pytest.mark.parametrize("name", SIGNATURES)
def test_signatures_are_those_of_0_1(name):
    metric = load_metric(name, "en")
    assert (metric.signature(2), metric.signature(-1, sentence=True)) == SIGNATURES[name]


def test_signatures_of_mbr_and_of_one_reference_are_those_of_0_1():
    mbr = f"mbr:chrf|nrefs:1|case:mixed|eff:yes|nc:6|nw:0|space:no|version:{VERSION}"
    assert load_candidate_metric("mbr:chrf", "en").signature(2) == mbr
    alone = SingleReferenceMetric(load_metric("bleu", "zh"), "A", 0)
    assert alone.signature(2) == f"nrefs:1|case:mixed|eff:no|tok:zh|smooth:exp|version:{VERSION}|ref:A"


def test_asking_for_a_signature_changes_nothing_of_the_metric():
    metric = load_metric("chrf", "en")
    before = vars(metric.corpus).copy()
    metric.signature(7)
    assert vars(metric.corpus) == before


# --- a neural metric beside COMET -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Vowels(NeuralMetric):
    """A toy neural metric: the share of letters that its checkpoint counts as vowels, minus that of the source."""

    checkpoint: str
    device: str
    scored: list[str]
    name: str = "vowels"
    needs_references: bool = False
    uses_references: bool = False

    def signature(self, num_references, sentence=False):
        return f"vowels:{self.checkpoint}"

    def score_candidates(self, segments):
        self.scored.extend(candidate.text for segment in segments for candidate in segment.candidates)
        return [[self.share(c.text) - self.share(s.source) for c in s.candidates] for s in segments]

    def share(self, text):
        return sum(letter in self.checkpoint for letter in text) / len(text)


@pytest.fixture
def vowels(monkeypatch):
    """The row of the toy metric in METRICS; what it scores is in the list that is returned."""
    scored = []

    def load(request):
        return Vowels(request.checkpoint, str(request.comet and request.comet.precision), scored)

    row = MetricKind("Vowels", load, "0 to 1", needs_references=False, is_lexical=False, checkpoint="aeiou")
    monkeypatch.setitem(METRICS, "vowels", row)
    return scored


def a_segment(number):
    texts = ("a baobab", "rhythm", f"the answer is {number}")
    candidates = tuple(Candidate(f"s{k}", text) for k, text in enumerate(texts))
    return Segment(str(number), "de", "en", f"Satz {number}", ("the sentence",), candidates=candidates)


def test_a_row_with_its_own_loader_takes_another_checkpoint(vowels):
    assert load_metric("vowels", "en").checkpoint == "aeiou"
    metric = load_metric("vowels:aeiouy", "en", CometConfig(precision="bf16"))
    assert (metric.checkpoint, metric.device) == ("aeiouy", "bf16")
    segments = [a_segment(1), a_segment(2)]
    statistics = metric.statistics(["rhythm", "aha"], segments)
    expected = [1 / 6 - 1 / 6, 2 / 3 - 1 / 6]
    np.testing.assert_allclose(metric.segment_scores(statistics), expected)
    assert float(metric.corpus_score(statistics.sum(axis=0))) == pytest.approx(np.mean(expected))


def test_build_prefs_scores_with_a_new_neural_metric_and_caches_it(vowels, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_row_file(tmp_path / "c.jsonl", [segment_to_json(a_segment(number)) for number in range(3)])

    def build(*options):
        return CliRunner().invoke(mtcpo, ["build-prefs", "c.jsonl", *options], catch_exceptions=False)

    assert build("--metric", "vowels", "--output", "p.jsonl").exit_code == 0
    assert (tmp_path / "scores.sqlite3").is_file()
    assert len(vowels) == 9
    report = json.loads((tmp_path / "p-report.json").read_text(encoding="utf-8"))
    assert report["metrics"] == {"vowels": "vowels:aeiou"}
    again = build("--metric", "vowels", "--metric", "chrf", "--set", "combine=zscore", "--output", "q.jsonl")
    assert again.exit_code == 0
    assert len(vowels) == 9, "scores in the cache were computed again"
    assert build("--metric", "vowels:xyz", "--output", "r.jsonl").exit_code == 0
    assert len(vowels) == 18, "another checkpoint took the scores of the first"


def test_evaluate_scores_with_a_new_neural_metric(vowels, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, lines in {"s.de": ["Satz", "Baum"], "a.en": ["aha", "oh"], "b.en": ["hmm", "oh"]}.items():
        write_lines(tmp_path / name, lines)
    command = "evaluate --source s.de --hyp a=a.en --hyp b=b.en --src-lang de --tgt-lang en --metric vowels"
    done = CliRunner().invoke(mtcpo, [*command.split(), "--output-dir", "e"], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    entry = json.loads((tmp_path / "e" / "evaluation.json").read_text(encoding="utf-8"))["pairs"]["de-en"]
    assert entry["metrics"]["vowels"]["signature"] == "vowels:aeiou"
    expected = {"a": (2 / 3 + 1 / 2 - 1 / 4 - 2 / 4) / 2, "b": (0 + 1 / 2 - 1 / 4 - 2 / 4) / 2}
    for system, score in expected.items():
        assert entry["systems"][system]["metrics"]["vowels"]["score"] == pytest.approx(score)
    assert len(vowels) == 3, "a text of two systems was scored twice"
