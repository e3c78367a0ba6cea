import math
from array import array
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mtcpo.data.records import Triplet
from mtcpo.preferences.balancing import drop_surplus, length_log_ratio, lot_of, unbalanced


def balanced(ratios):
    """Which of the pairs with these log length ratios are kept."""
    dropped = set(unbalanced(array("d", ratios)))
    return [place not in dropped for place in range(len(ratios))]


def test_length_log_ratio_ignores_surrounding_spaces():
    assert length_log_ratio(Triplet("1", "de", "en", "x", "abcd ", "ab")) == pytest.approx(math.log(2))


def test_balance_by_hand():
    # The heavy side is the long one, by 1.5: the 1.0 goes first, then one 0.5 brings the sum to zero.
    assert balanced([0.5, 1.0, 0.5, -0.5]) == [False, False, True, True]
    assert balanced([-1.0, 0.3, -0.3]) == [False, True, True]
    # 2.0 is more than twice the excess of 0.8: dropping it would be worse than keeping it.
    assert balanced([2.0, 0.8, -2.0]) == [True, False, True]
    assert balanced([]) == []
    assert balanced([0.2]) == [False]


@settings(deadline=None)
@given(st.lists(st.integers(-200, 200).map(lambda n: n / 100)))
def test_balance_never_gets_worse_and_drops_only_from_the_heavy_side(ratios):
    keep = balanced(ratios)
    total, kept = math.fsum(ratios), math.fsum(r for r, k in zip(ratios, keep, strict=True) if k)
    assert abs(kept) <= abs(total) + 1e-9
    assert all(r * total > 0 for r, k in zip(ratios, keep, strict=True) if not k)
    # What is left over is less than half of the smallest ratio that could still go.
    heavy = [abs(r) for r, k in zip(ratios, keep, strict=True) if k and r * total > 0]
    assert abs(kept) <= min(heavy, default=math.inf) / 2 + 1e-9 or kept * total <= 0


def triplets(*pairs, lang="en"):
    return [Triplet(str(n), "de", lang, f"source {n}", *pair, margin=1.0) for n, pair in enumerate(pairs)]


def test_a_cap_keeps_the_lowest_lots_of_each_language_pair(tmp_path):
    made = [*triplets(*[("a", "b")] * 9), *triplets(*[("c", "d")] * 2, lang="sv")]
    dropped = Counter()
    kept = list(drop_surplus(made, False, 3, seed=1, dropped=dropped, folder=tmp_path))
    lowest = sorted(made[:9], key=lambda triplet: lot_of(triplet, 1))[:3]
    assert kept == [triplet for triplet in made if triplet in lowest or triplet.tgt_lang == "sv"]
    assert dropped == {"language_cap": 6}


def test_the_cap_counts_what_balancing_left(tmp_path):
    # Three pairs are balanced in themselves; the fourth alone is longer, and goes before the cap draws.
    made = triplets(("ab", "ab"), ("cd", "cd"), ("ef", "ef"), ("abcdefgh", "ab"))
    dropped = Counter()
    assert len(list(drop_surplus(made, True, 2, seed=1, dropped=dropped, folder=tmp_path))) == 2
    assert dropped == {"length_balance": 1, "language_cap": 1}


def test_without_a_limit_triplets_pass_as_a_stream(tmp_path):
    stream = iter(triplets(("a", "b"), ("c", "d")))
    passed = drop_surplus(stream, False, None, seed=1, dropped=Counter(), folder=tmp_path)
    assert next(passed).id == "0"
    assert next(stream).id == "1"


def test_an_empty_set_has_no_drops(tmp_path):
    assert list(drop_surplus([], True, 2, seed=1, dropped=Counter(), folder=tmp_path)) == []
