import csv
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sacrebleu.metrics import BLEU, CHRF, TER
from support.paths import WMT22

from mtcpo.core.errors import UserError
from mtcpo.core.files import read_lines
from mtcpo.data.records import Candidate, Segment
from mtcpo.metrics.lexical import bleu_scores, chrf_scores, ter_scores
from mtcpo.metrics.registry import load_metric

LEXICAL = {
    "bleu": (BLEU, {"effective_order": True}),
    "chrf": (CHRF, {}),
    "chrf++": (CHRF, {"word_order": 2}),
    "ter": (TER, {}),
}
HYPOTHESES = [
    "the cat sat on the mat",
    "the cat the cat the cat",
    "A cat, sat?",
    "dog",
    "",
    "  ",
    "the cat sat on a mat .",
]
REFERENCES = ["the cat sat on the mat", "A cat was sitting on the mat."]


def segment(texts=(), references=("the cat sat on the mat",), name="1"):
    return Segment(name, "de", "en", "Quelle", tuple(references), candidates=tuple(Candidate("s", t) for t in texts))


def sacrebleu_sentence(name, hypothesis, references):
    cls, options = LEXICAL[name]
    score = cls(**options).sentence_score(hypothesis, list(references)).score
    return -score if name == "ter" else score


def test_bleu_of_statistics_worked_by_hand():
    # 6 of 6 words, 5 of 5, 4 of 4, 3 of 3; then a third of the reference: penalty exp(1 - 6/3).
    perfect = np.array([6, 6, 6, 5, 4, 3, 6, 5, 4, 3], dtype=float)
    assert bleu_scores(perfect, False) == pytest.approx(100)
    # "the cat sat": unigrams 3/3, bigrams 2/2, trigrams 1/1, no 4-gram at all.
    short = np.array([3, 6, 3, 2, 1, 0, 3, 2, 1, 0], dtype=float)
    assert bleu_scores(short, True) == pytest.approx(100 * np.exp(1 - 6 / 3))
    assert bleu_scores(short, False) == 0
    # Orders without a match count as 1/2, 1/4 and 1/8 of one: (1/2 * 1/(2*3) * 1/(4*2) * 1/8)^(1/4).
    smoothed = np.array([4, 4, 2, 0, 0, 0, 4, 3, 2, 1], dtype=float)
    assert bleu_scores(smoothed, False) == pytest.approx(100 * (1 / 2 * 1 / 6 * 1 / 8 * 1 / 8) ** 0.25)


def test_chrf_and_ter_of_statistics_worked_by_hand():
    # One order: 3 of 4 n-grams match, 3 of 6 found: 5 * P * R / (4 P + R).
    assert chrf_scores(np.array([4.0, 6.0, 3.0])) == pytest.approx(100 * 5 * 0.75 * 0.5 / (4 * 0.75 + 0.5))
    # An order that one side lacks does not count.
    assert chrf_scores(np.array([4.0, 6.0, 3.0, 0.0, 5.0, 0.0])) == chrf_scores(np.array([4.0, 6.0, 3.0]))
    assert chrf_scores(np.zeros(18)) == 0
    assert ter_scores(np.array([[3.0, 6.0], [1.0, 0.0], [0.0, 0.0]])).tolist() == [50.0, 100.0, 0.0]


@pytest.mark.parametrize("name", LEXICAL)
@pytest.mark.parametrize("references", [REFERENCES[:1], REFERENCES, [""], ["", "the cat"]])
def test_sentence_scores_equal_sacrebleu(name, references):
    scores = load_metric(name, "en").score_candidates([segment(HYPOTHESES, references)])
    expected = [sacrebleu_sentence(name, hypothesis, references) for hypothesis in HYPOTHESES]
    np.testing.assert_allclose(scores, [expected], rtol=0, atol=1e-9)


WORDS = ["the", "cat", "sat", "on", "mat,", ".", "!", "&", "&amp;", "(dog)", "3.5", "üb", "-"]
words = st.lists(st.sampled_from(WORDS), max_size=9).map(" ".join)


@settings(deadline=None, max_examples=60)
@given(st.lists(words, min_size=1, max_size=4), st.lists(words, min_size=1, max_size=3), st.sampled_from(list(LEXICAL)))
def test_sentence_scores_equal_sacrebleu_on_any_text(hypotheses, references, name):
    [scores] = load_metric(name, "en").score_candidates([segment(hypotheses, references)])
    expected = [sacrebleu_sentence(name, hypothesis, references) for hypothesis in hypotheses]
    np.testing.assert_allclose(scores, expected, rtol=0, atol=1e-9)


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.tuples(words, words, words), min_size=1, max_size=8),
    st.sampled_from(list(LEXICAL)),
    st.sampled_from([1, 2]),
)
def test_corpus_scores_equal_sacrebleu_on_any_text(rows, name, num_references):
    hypotheses, *references = zip(*rows, strict=True)
    references = references[:num_references]
    metric = load_metric(name, "en")
    segments = [segment(references=refs) for refs in zip(*references, strict=True)]
    cls, options = LEXICAL[name]
    reference_metric = cls(**{key: value for key, value in options.items() if key != "effective_order"})
    expected = reference_metric.corpus_score(list(hypotheses), [list(refs) for refs in references])
    score = metric.corpus_score(metric.statistics(hypotheses, segments).sum(axis=0))
    assert score == pytest.approx(expected.score, abs=1e-9)
    assert metric.signature(num_references) == str(reference_metric.get_signature())


@pytest.mark.parametrize("name", LEXICAL)
def test_an_array_of_resamples_scores_like_each_resample_alone(name):
    metric = load_metric(name, "en")
    statistics = metric.statistics(HYPOTHESES, [segment()] * len(HYPOTHESES))
    picks = np.random.default_rng(0).integers(0, len(HYPOTHESES), (50, 2, len(HYPOTHESES)))
    sums = statistics[picks].sum(axis=2)
    together = metric.corpus_score(sums)
    assert together.shape == (50, 2)
    for index in np.ndindex(50, 2):
        assert together[index] == pytest.approx(float(metric.corpus_score(sums[index])), abs=1e-12)


def test_signatures_tell_sentence_bleu_by_its_effective_order():
    bleu = load_metric("bleu", "en")
    assert "|eff:yes|" in bleu.signature(1, sentence=True)
    assert "|eff:no|" in bleu.signature(1)
    assert bleu.signature(-1).startswith("nrefs:var|")


@pytest.mark.parametrize(
    ("language", "tokenizer"),
    [("en", "13a"), ("zh", "zh"), ("zho_Hans", "zh"), ("zh-Hant", "zh"), ("yue", "zh"), ("cs", "13a")],
)
def test_tokenizer_follows_the_language(language, tokenizer):
    assert f"|tok:{tokenizer}|" in load_metric("bleu", language).signature(1)


@pytest.mark.parametrize("language", ["ja", "ko"])
def test_bleu_of_japanese_and_korean_needs_their_tokenizers(language):
    try:
        __import__({"ja": "MeCab", "ko": "mecab_ko"}[language])
    except ImportError:
        with pytest.raises(UserError, match=rf"pip install 'sacrebleu\[{language}\]'"):
            load_metric("bleu", language)
    else:
        assert f"|tok:{language}-mecab" in load_metric("bleu", language).signature(1)


def test_a_missing_reference_is_reported_with_the_segment():
    with pytest.raises(UserError, match="segment 7: no reference, and chrf needs one"):
        load_metric("chrf", "en").score_candidates([segment(["a"], references=(), name="7")])


def test_segments_without_candidates_have_no_scores():
    assert load_metric("chrf", "en").score_candidates([segment(), segment(["the"]), segment()])[::2] == [[], []]
    assert load_metric("chrf", "en").score_candidates([]) == []


def test_lexical_metrics_load_without_torch_or_transformers():
    code = (
        "import sys; from mtcpo.metrics.registry import load_metric; load_metric('chrf', 'de');"
        "load_metric('bleu', 'zh');"
        "print([m for m in ('torch', 'transformers', 'comet', 'datasets') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def official_scores():
    with (WMT22 / "official-scores.tsv").open(encoding="utf-8") as file:
        return {(r["pair"], r["system"], r["metric"]): float(r["score"]) for r in csv.DictReader(file, delimiter="\t")}


@pytest.mark.slow
@pytest.mark.data
@pytest.mark.parametrize(("pair", "most"), [("de-en", 9), ("en-de", 2)])
def test_corpus_scores_equal_the_official_ones_of_wmt22(pair, most):
    src, tgt = pair.split("-")
    folder, official = WMT22 / pair, official_scores()
    references = [list(read_lines(folder / f"reference-{which}.{tgt}")) for which in "AB"]
    for setting, chosen in {"A": references[:1], "B": references[1:], "all": references}.items():
        segments = [Segment("", src, tgt, "", refs) for refs in zip(*chosen, strict=True)]
        for path in sorted(folder.glob("system-*"))[:most]:
            hypotheses = list(read_lines(path))
            for name in ("bleu", "chrf"):
                metric = load_metric(name, tgt)
                score = float(metric.corpus_score(metric.statistics(hypotheses, segments).sum(axis=0)))
                system = path.name.removeprefix("system-").removesuffix(f".{tgt}")
                assert score == pytest.approx(official[pair, system, f"{name}-{setting}"], abs=1e-6)
