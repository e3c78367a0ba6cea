import json
import re
from dataclasses import replace
from itertools import pairwise

import pytest
from support.browser import LOW_CONTRAST, Browser, Outline
from support.runs import PREFS_REPORT, evaluate, german_outputs, german_test_set, write_many_systems

from mtcpo.core.errors import UserError
from mtcpo.core.files import write_json
from mtcpo.evaluation.results import write_evaluation
from mtcpo.report.page import write_report
from mtcpo.report.provenance import flatten
from mtcpo.report.rendering import direction
from mtcpo.report.views import language_name
from mtcpo.report.wording import listed_systems


def test_the_page_is_well_formed(report_html):
    outline = Outline(report_html)
    assert outline.open == []
    identities = [attributes["id"] for _, attributes in outline.tags if "id" in attributes]
    assert len(identities) == len(set(identities))
    targets = {a["href"][1:] for tag, a in outline.tags if tag == "a"}
    assert targets <= set(identities)


def test_the_page_loads_nothing_from_the_network(report_html):
    outline = Outline(report_html)
    assert [attributes for tag, attributes in outline.tags if tag in ("img", "iframe", "object", "base", "form")] == []
    assert [attributes["href"] for tag, attributes in outline.tags if tag == "link"] == ["data:,"]
    assert [attributes for tag, attributes in outline.tags if tag == "script"] == [{}]
    assert not re.search(r"""(?:src|href|url)\s*[=(]\s*["']?(?:https?:)?//""", report_html)
    policy = next(a["content"] for _, a in outline.tags if a.get("http-equiv") == "Content-Security-Policy")
    assert policy.startswith("default-src 'none'")
    assert "script-src 'sha256-" in policy


def test_markup_in_names_and_translations_is_escaped(report_html):
    assert report_html.count("<script") == 1
    assert "<img" not in report_html
    assert "<b>" not in report_html
    text = Outline(report_html).text
    assert "<script>alert('tuned')<" in text
    assert "&lt;b&gt;fett&lt;/b&gt;" in report_html


def test_the_page_states_the_results_in_words(report_html):
    text = Outline(report_html).text.replace("\u00a0", " ")
    assert "garden , English → German" in text
    assert "400 segments, 1 reference, baseline start" in text
    assert re.search(r"tuned is better than start on BLEU \(\+[\d.]+, p = 0\.003\), chrF .* and TER \(−", text)
    assert "chrF was used to select the training pairs, so a gain on it is weaker evidence." in text
    assert "nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp|version:" in text
    assert "the larger p of paired bootstrap and paired approximate randomization, 300 resamples each, seed" in text
    assert "300 of 400 segments: the 100 largest gains and losses each of tuned on chrF" in text
    for part in ("sft", "cpo", "small margin", "torch", "2.13.0", "learning_rate = 1e-4", "Log-probabilities"):
        assert part in text


def test_the_page_shows_both_tests_wins_and_scores_by_length(report_page, report_html):
    entry = json.loads((report_page.parent / "evaluation.json").read_text())["pairs"]["en-de"]
    versus = entry["systems"]["tuned"]["versus"]["start"]
    text = Outline(report_html).text
    for row in versus.values():
        assert f"{row['p_value']:.4f} {row['p_randomisation']:.4f}" in text
        assert f"{row['wins']} won, {row['ties']} tied, {row['losses']} lost" in text
    assert "Paired approximate randomization" in text
    for metric in ("BLEU", "chrF", "TER"):
        assert f"{metric} by length of the source" in text
    assert "Source copies" in text
    assert "Repetitions" in text
    if entry["unchecked"]:  # as where lingua is not installed
        assert "Not checked: off-target ( lingua is not installed".replace("( ", "(") in text
        assert "Off-target" not in text


@pytest.mark.slow
def test_many_systems_are_ranked_with_lines_between_clusters(tmp_path):
    write_many_systems(tmp_path)
    entry = json.loads((tmp_path / "evaluation.json").read_text())["pairs"]["en-de"]
    html = write_report(tmp_path).read_text(encoding="utf-8")
    rows = re.findall(r'<tr( class="ends")?><th scope="row"><bdi>([^<]+)</bdi>', html)
    names = [name for _, name in rows][:9]
    scores = {name: row["metrics"]["bleu"] for name, row in entry["systems"].items()}
    assert names == sorted(names, key=lambda name: -scores[name]["score"])
    ends = [bool(mark) for mark, _ in rows][:9]
    clusters = [scores[name]["cluster"] for name in names]
    assert clusters == sorted(clusters)
    assert ends == [after > before for before, after in pairwise(clusters)] + [False]
    assert sum(ends) >= 3


def test_the_page_shows_the_command_and_versions_behind_an_evaluation(tmp_path):
    test_set = german_test_set(5)
    made = {
        "command": ["mtcpo", "evaluate", "--hyp", "a b=f.de"],
        "versions": {"numpy": "1.2.3"},
        "inputs": {"<a>": "f.de 00ff"},
    }
    write_evaluation(tmp_path, [evaluate(test_set, german_outputs(test_set, {"start": 0.3}))], made=made)
    text = Outline(write_report(tmp_path).read_text(encoding="utf-8")).text
    assert "command mtcpo evaluate --hyp 'a b=f.de'" in text
    assert "numpy 1.2.3" in text
    assert "<a> f.de 00ff" in text
    assert (tmp_path / "evaluation.md").exists()
    assert (tmp_path / "evaluation.tex").exists()


def test_several_test_sets_have_an_overview(tmp_path):
    garden, park = german_test_set(40), replace(german_test_set(30, seed=2), name="park")
    found = []
    for test_set, shares in ((garden, {"start": 0.3, "tuned": 0.05}), (park, dict.fromkeys("abcdef", 0.2))):
        found.append(evaluate(test_set, german_outputs(test_set, shares)))
    write_evaluation(tmp_path, found)
    html = write_report(tmp_path).read_text(encoding="utf-8")
    text = Outline(html).text
    overview = text[text.index("All test sets") : text.index("garden , English")]
    tuned = found[0].entry.systems["tuned"]
    bleu = tuned.metrics["bleu"].score, tuned.versus["start"]["bleu"].delta
    assert f"garden en-de tuned {bleu[0]:.1f} +{bleu[1]:.1f} p = 0.003" in overview.replace("\u00a0", " ")
    # Of many systems the best one stands for all.
    best = next(system for system in listed_systems(found[1].entry) if system != "a")
    assert f"park en-de {best} " in overview
    assert overview.count("park en-de") == 1
    assert '<a href="#set-2"><bdi>park</bdi>' in html
    write_evaluation(tmp_path, found[:1], overwrite=True)
    assert "All test sets" not in write_report(tmp_path).read_text(encoding="utf-8")


def test_the_page_has_a_table_of_the_stages_of_a_run(tmp_path):
    stage = {
        "settings": [{"loss": "<sft>"}], "inputs": {"train.en": "ab" * 32}, "seconds": 1094.12,
        "figures": {"examples": 6000, "tokens": 1234567, "dropped": {"same_text": 251, "tie": 3}, "seed": 12345},
    }  # fmt: skip
    none = {"settings": None, "inputs": {}, "seconds": None, "figures": {"dropped": {}, "resumed_at": 0}}
    write_json(tmp_path / "stamp.json", {"mtcpo": "0.1", "stages": {"sft": stage, "report": none}})
    write_json(tmp_path / "prefs-report.json", PREFS_REPORT)
    text = Outline(write_report(tmp_path).read_text(encoding="utf-8")).text
    counted = "examples 6,000; tokens 1,234,567; dropped: same text 251, tie 3; seed 12345"
    assert f"sft 1,094.1 {counted} train.en abababababab… report Settings of each stage" in text
    assert "ab" * 32 in text
    assert '"loss": "<sft>"' in text


def test_numbers_of_the_table_are_those_of_evaluation_json(report_page, report_html):
    systems = json.loads((report_page.parent / "evaluation.json").read_text())["pairs"]["en-de"]["systems"]
    text = Outline(report_html).text
    for row in systems.values():
        for score in row["metrics"].values():
            assert f"{score['score']:.1f} ±{score['ci']:.1f}" in text


def test_text_carries_its_language_and_direction(report_html):
    texts = [
        a
        for tag, a in Outline(report_html).tags
        if tag == "p" and (a.get("class") or "").startswith("text") and "lang" in a
    ]
    assert {attributes["dir"] for attributes in texts if attributes["lang"] != "ar"} == {"auto"}
    assert {attributes["lang"] for attributes in texts} == {"en", "de", "ar"}


@pytest.mark.parametrize(
    ("text", "lang", "expected"),
    [
        ("iPhone الجديد", "ar", "rtl"),
        ("3 ספרים", "he", "rtl"),
        ("WMT22 خبریں", "ur", "rtl"),
        ("an English copy", "ar", "auto"),
        ("iPhone الجديد", "en", "auto"),
        ("iPhone الجديد", "no language", "auto"),
        ("", "fa", "auto"),
    ],
)
def test_right_to_left_text_that_begins_with_latin_letters_is_still_right_to_left(text, lang, expected):
    assert direction(text, lang) == expected


def test_an_empty_reference_is_shown_as_such(tmp_path):
    test_set = german_test_set(3)
    segments = (replace(test_set.segments[0], references=(" ",)), *test_set.segments[1:])
    outputs = german_outputs(test_set, {"start": 0.1})
    write_evaluation(tmp_path, [evaluate(replace(test_set, segments=segments), outputs)])
    assert write_report(tmp_path).read_text(encoding="utf-8").count('<p class="text empty">empty</p>') == 1


def test_an_empty_translation_is_shown_as_such(report_html):
    assert report_html.count('<p class="text empty">empty</p>') == 2


def test_the_page_names_missing_files_in_one_place(tmp_path):
    text = Outline(write_report(write_many_systems(tmp_path)).read_text(encoding="utf-8")).text
    for file in ("prefs-report.json", "metrics.jsonl", "recipe.toml", "stamp.json"):
        assert re.search(rf"Not in this run: [^.]*\(there is no {re.escape(file)} \)", text), file
    assert "BLEU: of 8 systems" in text
    # What is not there gets no part of the page, and all that is missing is named in one place.
    html = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert re.findall(r'<a href="#([a-z]+)">', html) == ["results", "translations", "made"]
    assert re.findall(r'<h2 id="([a-z]+)">', html) == ["results", "translations", "made"]
    assert "evaluation.json )" not in text


def test_a_run_with_nothing_but_training_pairs_has_a_page(tmp_path):
    write_json(tmp_path / "prefs-report.json", PREFS_REPORT)
    text = Outline(write_report(tmp_path).read_text(encoding="utf-8")).text
    assert "scores and translations of a test set (there is no evaluation.json )" in text
    assert "Kept and dropped sources" in text
    assert "The chosen translation is longer in 46 % and shorter in 41 % of the pairs." in text


def test_the_page_names_missing_translations(tmp_path):
    test_set = german_test_set(5)
    write_evaluation(tmp_path, [evaluate(test_set, german_outputs(test_set, {"start": 0.3}))])
    (tmp_path / "translations/garden/en-de/segments.jsonl").unlink()
    text = Outline(write_report(tmp_path).read_text(encoding="utf-8")).text
    assert "there is no translations/garden/en-de/segments.jsonl" in text
    assert "There is no other system to compare it with." in text


def test_a_folder_without_results_and_damaged_files_are_refused(tmp_path):
    with pytest.raises(UserError, match="no such directory"):
        write_report(tmp_path / "none")
    with pytest.raises(UserError, match=r"no evaluation\.json, prefs-report\.json or metrics\.jsonl"):
        write_report(tmp_path)
    (tmp_path / "evaluation.json").write_text('{"pairs": ')
    with pytest.raises(UserError, match=r"evaluation\.json: not JSON"):
        write_report(tmp_path)
    (tmp_path / "evaluation.json").write_text("[]")
    with pytest.raises(UserError, match="a JSON object is needed, not list"):
        write_report(tmp_path)


def test_a_test_set_named_like_a_path_is_refused(tmp_path):
    test_set = german_test_set(3)
    write_evaluation(tmp_path, [evaluate(test_set, german_outputs(test_set, {"start": 0.3}))])
    document = json.loads((tmp_path / "evaluation.json").read_text())
    document["pairs"]["en-de"]["suite"] = "../../secrets"
    write_json(tmp_path / "evaluation.json", document)
    with pytest.raises(UserError, match=r"test set name '\.\./\.\./secrets'"):
        write_report(tmp_path)


def test_nested_objects_become_groups():
    nested = {"seed": 1, "versions": {"torch": "2", "cuda": {"driver": None}}, "list": [1, 2], "none": {}}
    assert flatten(nested) == {
        "": [("seed", "1"), ("list", "[1, 2]"), ("none", "{}")],
        "versions": [("torch", "2"), ("cuda.driver", "null")],
    }


def test_languages_by_name():
    assert language_name("pt-BR") == "Portuguese (Brazil)"
    assert language_name("<nowhere>") == "<nowhere>"


# In a real browser


@pytest.fixture(scope="module")
def browser():
    with Browser() as opened:
        yield opened


# Of the first test set, in the order shown: the nodes, the segments' numbers, the gains of the first system.
SHOWN = "[...document.querySelector('[data-explorer]').querySelectorAll('.segment')]"
NUMBERS = f"{SHOWN}.map(s => parseInt(s.querySelector('.place').textContent))"
GAINS = f"{SHOWN}.map(s => JSON.parse(s.dataset.gains)[0])"


def choose(browser: Browser, field: str, value: str) -> None:
    browser.evaluate(
        f"(() => {{ const field = document.querySelector('[data-field={field}]'); field.value = {json.dumps(value)};"
        " field.dispatchEvent(new Event('input')); })()"
    )


@pytest.mark.browser
def test_the_page_opens_without_errors_and_runs_no_foreign_script(browser, report_page):
    browser.open(report_page)
    assert browser.evaluate("document.querySelectorAll('.segment').length") == 24
    assert browser.evaluate("[...document.querySelectorAll('.tools')].every(tools => !tools.hidden)") is True
    # What an injected script would need is refused by the page's policy; none was let in to be refused.
    assert browser.problems == []


@pytest.mark.browser
def test_the_policy_stops_a_script_that_is_not_ours(browser, report_page, tmp_path):
    changed = report_page.read_text(encoding="utf-8").replace(
        "</main>", "<script>document.title = 'taken'</script></main>"
    )
    (tmp_path / "changed.html").write_text(changed, encoding="utf-8")
    browser.open(tmp_path / "changed.html")
    assert browser.evaluate("document.title") == "garden: mtcpo report"
    assert "Content Security Policy" in browser.problems.pop()
    assert browser.problems == []


@pytest.mark.browser
def test_segments_can_be_sorted_by_gain_and_loss(browser, report_page):
    browser.open(report_page)
    assert browser.evaluate(NUMBERS) == sorted(browser.evaluate(NUMBERS))
    choose(browser, "sort", "gain")
    chrf = [gains[1] for gains in browser.evaluate(GAINS)]
    assert len(chrf) == 20
    assert chrf == sorted(chrf, reverse=True)
    assert chrf[0] > 20
    choose(browser, "metric", "2")
    choose(browser, "sort", "loss")
    ter = [gains[2] for gains in browser.evaluate(GAINS)]
    assert ter == sorted(ter)
    assert ter[0] < -20


@pytest.mark.browser
def test_segments_can_be_filtered_and_searched(browser, report_page):
    browser.open(report_page)
    choose(browser, "show", "worse")
    assert all(gains[1] < 0 for gains in browser.evaluate(GAINS))
    choose(browser, "show", "all")
    choose(browser, "find", "GÄRTNER")
    texts = browser.evaluate(f"{SHOWN}.map(s => s.textContent)")
    assert texts
    assert all("Gärtner" in text for text in texts)
    choose(browser, "find", "nowhere to be found")
    assert browser.evaluate(NUMBERS) == []
    assert browser.evaluate("document.querySelector('.count').textContent") == "0 of 0 shown, 300 in all"
    assert browser.problems == []


@pytest.mark.browser
def test_more_segments_are_shown_on_demand(browser, report_page):
    browser.open(report_page)
    browser.evaluate("document.querySelector('.more').click()")
    assert len(browser.evaluate(NUMBERS)) == 70
    assert browser.evaluate("document.querySelector('.count').textContent") == "70 of 300 shown"


@pytest.mark.browser
def test_sorting_and_filters_are_kept_in_the_address(browser, report_page):
    browser.open(report_page, "#sort=gain&metric=0&show=better&find=Bahnhof")
    bleu = [gains[0] for gains in browser.evaluate(GAINS)]
    assert bleu
    assert bleu == sorted(bleu, reverse=True)
    assert bleu[-1] > 0
    choose(browser, "find", "a&b=<c>")
    assert browser.evaluate("new URLSearchParams(location.hash.slice(1)).get('find')") == "a&b=<c>"
    # It is a view of this test set and of no other.
    assert browser.evaluate("new URLSearchParams(location.hash.slice(1)).get('set')") == "1"
    others = (
        "[...document.querySelectorAll('[data-explorer]')].map(one => one.querySelector('[data-field=find]').value)"
    )
    browser.open(report_page, "#set=2&find=tea")
    assert browser.evaluate(others) == ["", "tea"]
    browser.open(report_page, "#find=tea")
    assert browser.evaluate(others) == ["tea", "tea"]
    # Values that no menu has are left alone.
    browser.open(report_page, "#sort=nonsense&show=")
    assert len(browser.evaluate(NUMBERS)) == 20
    assert browser.problems == []


@pytest.mark.slow
@pytest.mark.browser
def test_with_many_systems_one_at_a_time_is_shown(browser, tmp_path):
    browser.open(write_report(write_many_systems(tmp_path)))
    names = (
        "[...document.querySelector('.segment').querySelectorAll('.cell:not([hidden]) h4 bdi')].map(b => b.textContent)"
    )
    assert browser.evaluate(names) == ["System-D", "System-A"]
    choose(browser, "system", "7")
    assert browser.evaluate(names) == ["System-D", "System-I"]
    choose(browser, "system", "all")
    assert len(browser.evaluate(names)) == 9
    assert browser.problems == []


@pytest.mark.browser
def test_with_few_systems_the_largest_gain_or_loss_of_any_sorts(browser, tmp_path):
    test_set = german_test_set(60)
    shares = {"start": 0.2, "one": 0.2, "two": 0.2, "three": 0.2}
    write_evaluation(tmp_path, [evaluate(test_set, german_outputs(test_set, shares))])
    browser.open(write_report(tmp_path))
    every = f"{SHOWN}.map(s => JSON.parse(s.dataset.gains).map(of => of[1]))"
    choose(browser, "sort", "gain")
    best = [max(gains) for gains in browser.evaluate(every)]
    assert best == sorted(best, reverse=True)
    assert any(gains[0] < best[at] for at, gains in enumerate(browser.evaluate(every)))
    choose(browser, "sort", "loss")
    worst = [min(gains) for gains in browser.evaluate(every)]
    assert worst == sorted(worst)
    choose(browser, "show", "worse")
    assert all(min(gains) < 0 for gains in browser.evaluate(every))
    choose(browser, "system", "1")
    assert all(gains[1] < 0 for gains in browser.evaluate(every))
    assert browser.problems == []


@pytest.mark.browser
def test_right_to_left_text_starts_at_the_right(browser, report_page):
    browser.open(report_page)
    arabic = "[...document.querySelectorAll('.text')].find(p => p.textContent.startsWith('الكتاب'))"
    assert browser.evaluate(f"getComputedStyle({arabic}).direction") == "rtl"
    offsets = browser.evaluate(
        f"(() => {{ const p = {arabic}, r = document.createRange(); r.selectNodeContents(p);"
        " const box = p.getBoundingClientRect(), text = r.getBoundingClientRect();"
        " return [text.left - box.left, box.right - text.right]; })()"
    )
    assert offsets[0] > 50
    assert abs(offsets[1]) < 3
    japanese = "[...document.querySelectorAll('.text')].find(p => p.textContent.startsWith('私'))"
    assert browser.evaluate(f"getComputedStyle({japanese}).direction") == "ltr"


def on_paper(browser: Browser, page) -> None:
    """Lay the page out as it is printed on US letter with Chromium's margins: 7.7 inches of 96 pixels."""
    browser.resize(739, 1000)
    browser.open(page)
    browser.call("Emulation.setEmulatedMedia", media="print")


@pytest.mark.slow
@pytest.mark.browser
def test_a_printed_page_is_complete_and_unfolded(report_page, tmp_path):
    run = write_many_systems(tmp_path)
    texts = "[...document.querySelectorAll('details.paper')].map(d => d.checkVisibility() && d.open)"
    inside = (
        "[...document.querySelectorAll('.scroll table')].every(t => t.getBoundingClientRect().right"
        " <= t.closest('.card').getBoundingClientRect().right)"
    )
    with Browser() as opened:
        for one in (report_page, write_report(run)):
            on_paper(opened, one)
            assert set(opened.evaluate(texts)) == {False}
            opened.call("Page.printToPDF")
            assert set(opened.evaluate(texts)) == {True}
            assert opened.evaluate(inside) is True
            shown = "[...document.querySelectorAll('.tools .count')].every(p => p.checkVisibility())"
            assert opened.evaluate(shown) is True
            assert opened.evaluate("document.querySelector('.tools label').checkVisibility()") is False
        assert opened.problems == []


@pytest.mark.browser
@pytest.mark.parametrize("width", [320, 375, 768, 1200])
def test_no_width_scrolls_sideways(browser, report_page, width):
    browser.resize(width, 800)
    browser.open(report_page)
    assert browser.evaluate("document.documentElement.scrollWidth") == width
    browser.resize(1200, 900)


@pytest.mark.browser
@pytest.mark.parametrize("dark", [False, True])
def test_text_has_enough_contrast_in_light_and_dark(report_page, dark):
    with Browser(dark=dark) as opened:
        opened.open(report_page)
        body = opened.evaluate("getComputedStyle(document.body).backgroundColor")
        assert body == ("rgb(19, 22, 25)" if dark else "rgb(246, 246, 243)")
        assert opened.evaluate(LOW_CONTRAST) == []
