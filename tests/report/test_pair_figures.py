from support.runs import PREFS_REPORT

from mtcpo.data.pair_report import PairReport
from mtcpo.report.pair_figures import MAX_BARS, candidate_figures, length_note, margin_note, pair_figures

REPORT = PairReport.model_validate(PREFS_REPORT)


def test_plots_of_the_pairs():
    figures = pair_figures(REPORT)
    assert [figure.title for figure in figures] == [
        "Kept and dropped sources",
        "Margin: value of chosen minus rejected",
        "Length ratio, chosen / rejected",
        "Systems of the chosen translations",
    ]
    assert "small margin" in figures[0].svg
    assert figures[1].note == "mean 18"
    assert [figure.svg.count("<rect") for figure in figures] == [4, 3, 3, 3]


def test_plots_of_the_candidates():
    scores, left_out = candidate_figures(REPORT)
    assert (scores.title, scores.note) == ("chrF of chosen and rejected, % of each", "means: chosen 71, rejected 53")
    # 200 of 1400 chosen and 900 of 1400 rejected lie in the first bin, whose middle is 45.
    assert "chosen: 85.71 at 75" in scores.svg
    assert "rejected: 35.71 at 75" in scores.svg
    assert left_out.title == "Candidates left out"
    assert "same text" in left_out.svg
    assert len(candidate_figures(PairReport.model_validate(PREFS_REPORT | {"removed_candidates": {}}))) == 1


def test_of_many_systems_the_first_are_drawn():
    systems = {"chosen": {f"system-{n}": 100 - n for n in range(12)}, "rejected": {"a": 1}}
    *_, chosen = pair_figures(PairReport.model_validate(PREFS_REPORT | {"systems": systems}))
    assert chosen.note == f"the first {MAX_BARS} of 12"
    assert chosen.svg.count("<rect") == MAX_BARS


def test_length_and_margin_notes():
    assert length_note(REPORT.lengths) == (
        "The chosen translation is longer in 46 % and shorter in 41 % of the pairs. Mean lengths: 48.3 characters "
        "(chosen) and 47.9 (rejected). Among the candidates of a source, the correlation of length and value is 0.08."
    )
    assert margin_note(REPORT.lengths) == ""
    biased = REPORT.lengths.model_copy(update={"length_margin_correlation": 0.31, "length_score_correlation": None})
    assert length_note(biased).endswith("47.9 (rejected).")
    assert margin_note(biased).startswith(
        "Over the pairs, the correlation of the margin with the length ratio (log) is 0.31."
    )
