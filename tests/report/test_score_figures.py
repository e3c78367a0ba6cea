from support.runs import evaluate, german_outputs, german_test_set

from mtcpo.report.score_figures import delta_figures, length_figure


def test_differences_are_turned_so_that_right_is_better():
    test_set = german_test_set(40)
    entry = evaluate(test_set, german_outputs(test_set, {"start": 0.3, "tuned": 0.05})).entry
    (figure,) = delta_figures(entry, ["tuned"])
    assert figure.title == "tuned against start"
    assert figure.svg.count("tone-better") == 3
    assert figure.svg.count("tone-worse") == 0


def test_many_systems_have_one_plot_per_metric():
    test_set = german_test_set(20)
    systems = dict.fromkeys("abcde", 0.1)
    entry = evaluate(test_set, german_outputs(test_set, systems)).entry
    figures = delta_figures(entry, list("bcde"))
    assert [figure.title for figure in figures] == ["BLEU", "chrF", "TER"]
    assert all(figure.svg.count("<g ") == 4 for figure in figures)


def test_scores_by_length_have_a_curve_per_system():
    test_set = german_test_set(40)
    entry = evaluate(test_set, german_outputs(test_set, {"start": 0.3, "tuned": 0.05})).entry
    figure = length_figure(entry, ["tuned"], "bleu")
    assert figure.title == "BLEU by length of the source"
    assert figure.legend == ("start", "tuned")
    assert figure.note == "characters of the source; 5 groups of 8 segments"
    assert length_figure(entry.model_copy(update={"by_length": ()}), ["tuned"], "bleu") is None
