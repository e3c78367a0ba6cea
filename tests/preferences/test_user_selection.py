"""A selection of the user's own: in Python a callable, elsewhere `python:module:function` with --allow-code."""

import json
import re

import numpy as np
import pytest
from support.console import mistake, run
from support.paths import ROOT

from mtcpo.core.config import load_section
from mtcpo.core.errors import UserError
from mtcpo.data.file_formats.registry import write_row_file
from mtcpo.data.pair_report import read_pair_report
from mtcpo.data.records import Candidate, Segment, segment_to_json
from mtcpo.data.triplets import read_triplets
from mtcpo.preferences.build import PrefsConfig, build_preferences
from mtcpo.preferences.chooser import Chooser, SelectionConfig
from mtcpo.preferences.user_selection import selection_name

MODULE = """
def second_best(pool):
    ranked = sorted(pool.others(pool.best), key=pool.values.__getitem__)
    return [(pool.best, ranked[-1])]

def fails(pool):
    return pool.values["m"]

not_a_function = 3
"""


def segment(*scores, texts=None):
    texts = texts or [f"text {number}" for number in range(len(scores))]
    candidates = tuple(
        Candidate(f"s{n}", text, {"m": m}) for n, (text, m) in enumerate(zip(texts, scores, strict=True))
    )
    return Segment("7", "de", "en", "Satz", candidates=candidates)


def choose(select, made, **settings):
    return Chooser(SelectionConfig(metrics=("m",), select=select, **settings)).choose(made)


@pytest.fixture
def module(tmp_path, monkeypatch):
    """A folder, the working directory, with a module of selections and a file of candidates."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my_selections.py").write_text(MODULE, encoding="utf-8")
    write_row_file(tmp_path / "candidates.jsonl", [segment_to_json(segment(1.0, 9.0, 5.0))])
    return tmp_path


def test_a_callable_chooses_by_the_pool():
    def select(pool):
        assert pool.segment.source == "Satz"
        assert [candidate.system for candidate in pool.candidates] == ["s0", "s1", "s2"]
        assert (pool.values, pool.reference) == ((1.0, 9.0, 5.0), None)
        # Any iterable of any index type.
        return (np.array([1, 2]) for _ in range(1))

    [triplet] = choose(select, segment(1, 9, 5)).triplets
    assert (triplet.chosen_system, triplet.rejected_system, triplet.margin) == ("s1", "s2", 4)


def test_pairs_that_the_values_contradict_are_dropped_and_counted():
    choice = choose(lambda pool: [(0, 1), (1, 0), (2, 1)], segment(1, 9, 9))
    assert [(t.chosen_system, t.rejected_system) for t in choice.triplets] == [("s1", "s0")]
    assert choice.dropped == {"chosen_not_better": 1, "tie": 1}
    assert choose(lambda pool: [], segment(1, 9)).dropped == {"tie": 1}


@pytest.mark.parametrize(
    ("pairs", "message"),
    [
        ([(0, 3)], r"pair \(0, 3\) names a candidate that is not in the pool; it has 3, numbered from 0"),
        ([(-1, 0)], r"pair \(-1, 0\) names a candidate that is not in the pool"),
        ([(1, 1)], r"pair \(1, 1\) has the same text twice"),
        ([(1, 2)], r"pair \(1, 2\) has the same text twice"),
        ([("s1", "s0")], r"\('s1', 's0'\) is not a pair; return tuples \(chosen, rejected\) of indices"),
        ([(0, 1, 2)], r"\(0, 1, 2\) is not a pair"),
        ([5], "5 is not a pair"),
        (None, "your code raised TypeError"),
    ],
)
def test_a_pair_outside_the_pool_is_refused_in_one_line(pairs, message):
    made = segment(1, 9, 5, texts=["A", "B", " B "])
    with pytest.raises(UserError, match=message) as raised:
        choose(lambda pool: pairs, made, deduplicate=False)
    assert str(raised.value).startswith("select python:")
    assert "\n" not in str(raised.value)
    if pairs is not None:
        assert "segment 7: " in str(raised.value)


def test_a_selection_must_choose_the_reference_if_it_is_always_chosen():
    made = Segment("7", "de", "en", "x", ("r",), candidates=(
        Candidate("reference", "r", {"m": 9.0}), Candidate("a", "A", {"m": 8.0}), Candidate("b", "B", {"m": 1.0}),
    ))  # fmt: skip
    assert choose(lambda pool: [(pool.best, 2)], made, reference="always").triplets[0].chosen == "r"
    with pytest.raises(UserError, match=r"pair \(1, 2\) does not choose the reference; .* choose pool.best"):
        choose(lambda pool: [(1, 2)], made, reference="always")


def test_reports_name_the_function(tmp_path):
    class Median:
        def __call__(self, pool):
            return [(pool.best, pool.others(pool.best)[0])]

    config = PrefsConfig(metrics=("m",), select=Median())
    report = build_preferences([segment(1, 9)], config, tmp_path / "p.jsonl")
    name = f"python:{__name__}:test_reports_name_the_function.<locals>.Median"
    assert report.settings["select"] == selection_name(config.select) == name
    assert read_pair_report(tmp_path / "p-report.json") == report
    assert json.loads(config.model_dump_json())["select"] == name


def test_a_name_needs_allow_code():
    settings = {"metrics": ["m"], "select": "python:my_selections:second_best"}
    with pytest.raises(UserError, match=r"recipe: select: python:my_selections:second_best .*--allow-code"):
        load_section(PrefsConfig, settings, "recipe")
    assert load_section(PrefsConfig, settings, "recipe", allow_code=True).select == settings["select"]


def test_the_command_line_takes_a_selection_by_its_name(module, capsys):
    command = ["build-prefs", "candidates.jsonl", "--metric", "m", "--output", "p.jsonl", "--select"]
    refused = mistake(capsys, *command, "python:my_selections:second_best")
    assert "--allow-code" in refused
    assert run(capsys, *command, "python:my_selections:second_best", "--allow-code").code == 0
    [triplet] = read_triplets(str(module / "p.jsonl"))
    assert (triplet.chosen_system, triplet.rejected_system) == ("s1", "s2")
    assert read_pair_report(module / "p-report.json").settings["select"] == "python:my_selections:second_best"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("fails", r"select python:my_selections:fails: your code raised TypeError at .*my_selections\.py:7: "),
        ("not_a_function", "it is a int, not a function"),
        ("missing", "unknown name in my_selections: 'missing'"),
    ],
)
def test_a_selection_that_does_not_work_is_the_users_mistake(module, name, message):
    config = load_section(
        PrefsConfig, {"metrics": ["m"], "select": f"python:my_selections:{name}"}, "r", allow_code=True
    )
    with pytest.raises(UserError, match=message):
        build_preferences([segment(1, 9)], config, module / "p.jsonl")
    assert not (module / "p.jsonl").exists()


def test_the_example_of_the_docs_pairs_the_best_with_the_median():
    docs = (ROOT / "docs/pairs.md").read_text(encoding="utf-8")
    [code] = re.findall(r"```python\n(# my_selections.*?)```", docs, re.S)
    names = {}
    exec(code, names)
    [triplet] = choose(names["best_median"], segment(1, 9, 5, 3)).triplets
    assert (triplet.chosen_system, triplet.rejected_system) == ("s1", "s3")


def test_notebooks_pass_a_function():
    import mtcpo

    rows = [segment_to_json(segment(1.0, 9.0, 5.0))]
    triplets, report = mtcpo.build_preferences(rows, ["m"], select=lambda pool: [(pool.best, 2)])
    assert triplets[0]["rejected_system"] == "s2"
    assert report["select"].startswith("python:")
