import pytest
from support.paths import ROOT

from mtcpo.core.errors import UserError
from mtcpo.data.records import Candidate, Segment
from mtcpo.preferences.build import PrefsConfig
from mtcpo.preferences.combining import COMBINATIONS
from mtcpo.preferences.filters import CANDIDATE_FILTERS, PAIR_FILTERS, FilterConfig
from mtcpo.preferences.selections import (
    SELECTIONS,
    Pool,
    all_pairs,
    best_vs_rest,
    best_worst,
    confidence,
    mu_2sigma,
    needs_logprobs,
)


def pool(*values, logprobs=None, reference=None):
    logprobs = logprobs or [None] * len(values)
    candidates = tuple(Candidate(f"s{n}", f"text {n}", logprob=logprob) for n, logprob in enumerate(logprobs))
    return Pool(Segment("1", "de", "en", "x", candidates=candidates), candidates, values, reference)


def test_of_equal_scores_the_first_is_chosen():
    assert best_worst(pool(1, 3, 3, 1)) == [(1, 0)]
    assert best_worst(pool(2, 2)) == [(0, 1)]


def test_selections_by_hand():
    values = (50.0, 90.0, 10.0, 70.0)
    assert best_worst(pool(*values)) == [(1, 2)]
    assert best_vs_rest(pool(*values)) == [(1, 0), (1, 2), (1, 3)]
    assert all_pairs(pool(*values)) == [(0, 2), (1, 0), (1, 2), (1, 3), (3, 0), (3, 2)]
    assert all_pairs(pool(1, 1)) == []


def test_mu_2sigma_does_not_reject_the_outlier():
    # Mean 54, deviation 18, so 18 is wanted: 0 is nearer to it than 60.
    assert mu_2sigma(pool(*[60.0] * 9, 0.0)) == [(0, 9)]
    # Mean 38, variance (16 * 144 + 3 * 324 + 19044) / 20 = 1116, so 38 - 2 * 33.4 = -28.8: nearer to 20 than to -100.
    values = [50.0] * 16 + [20.0, 20.0, 20.0, -100.0]
    assert mu_2sigma(pool(*values)) == [(0, 16)]
    assert best_worst(pool(*values)) == [(0, 19)]


def test_confidence_prefers_what_the_model_ranks_wrongly():
    # Value says 0 > 1 > 2; the model likes 2 best and 0 least: (0, 2) is clearest and most wrong.
    assert confidence(pool(3, 2, 1, logprobs=[-9.0, -5.0, -1.0])) == [(0, 2)]
    # The best by value is already the model's own choice, and 2 its last: (1, 3) is what it has still to learn.
    assert confidence(pool(4, 3, 1, 2, logprobs=[-1.0, -9.0, -8.0, -1.5])) == [(1, 3)]
    # By hand: z = (1.34, 0.45, -1.34, -0.45), c = (1.06, -1.13, -0.86, 0.93), z - c = (0.28, 1.58, -0.48, -1.37).
    assert confidence(pool(1, 1, logprobs=[-1.0, -2.0])) == []
    with pytest.raises(UserError, match="segment 1: s1 has no logprob, which select 'confidence' needs"):
        confidence(pool(1, 2, logprobs=[-1.0, None]))


def test_with_a_reference_every_pair_chooses_it():
    values = (50.0, 90.0, 10.0)
    assert best_worst(pool(*values, reference=0)) == [(0, 2)]
    assert best_vs_rest(pool(*values, reference=0)) == all_pairs(pool(*values, reference=0)) == [(0, 1), (0, 2)]


def test_selections_that_need_log_probabilities_are_marked():
    assert needs_logprobs("confidence")
    assert not needs_logprobs("best-worst")
    assert not needs_logprobs("python:mine:best")
    assert not needs_logprobs(best_worst)


def test_the_first_of_each_catalogue_is_the_default():
    assert next(iter(SELECTIONS)) == PrefsConfig(metrics=("chrf",)).select
    assert next(iter(COMBINATIONS)) == PrefsConfig(metrics=("chrf",)).combine


def rows_of_the_docs():
    """The rows that the tables of docs/pairs.md must have, by the catalogues."""
    for name, selection in SELECTIONS.items():
        yield f"| `{name}` | {selection.title} | {selection.needs} | {selection.paper} |"
    for name, combination in COMBINATIONS.items():
        yield f"| `{name}` | {combination.title} |"
    for reason, row in (CANDIDATE_FILTERS | PAIR_FILTERS).items():
        setting = f"`{row.setting}`" if row.setting else "always"
        yield f"| {setting} | {row.title} | `{reason}` |"


@pytest.mark.parametrize("row", list(rows_of_the_docs()))
def test_the_tables_of_the_docs_are_the_catalogues(row):
    assert row in (ROOT / "docs/pairs.md").read_text(encoding="utf-8").splitlines()


def test_every_filter_has_its_setting():
    for row in (CANDIDATE_FILTERS | PAIR_FILTERS).values():
        assert row.setting in ("", *FilterConfig.model_fields)
