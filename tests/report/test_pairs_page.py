import json

import pytest
from support.browser import LOW_CONTRAST, Browser, Outline

from mtcpo.core.errors import UserError
from mtcpo.data.records import Candidate, Segment
from mtcpo.preferences.build import PrefsConfig, build_preferences
from mtcpo.report.pairs_page import page_path_of, write_pair_page

HOSTILE = "<script>document.title = 'taken'</script><img src=x onerror=alert(1)> & \"quoted\""


def segments(count=60):
    for n in range(count):
        reference = f"The gardener sees the cat number {n} in the garden today."
        texts = {
            "good": f"The gardener sees a cat number {n} in the garden.",
            "bad <b>": f"A garden cat {n} {HOSTILE}" if n % 20 == 0 else f"Gardener cat {n}.",
            "copy": f"Der Gärtner sieht die Katze {n}.",
        }
        made = tuple(Candidate(name, text) for name, text in texts.items())
        source = f"Der Gärtner sieht die Katze {n}." if n else HOSTILE
        yield Segment(f"garden:{n}", "de", "en", source, (reference,), candidates=made)


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """The page of pairs with hostile text among them."""
    output = tmp_path_factory.mktemp("pairs") / "prefs.jsonl"
    build_preferences(segments(), PrefsConfig(metrics=("chrf", "bleu"), min_margin=1), output)
    return write_pair_page(output.with_name("prefs-report.json"))


@pytest.fixture(scope="module")
def html(page):
    return page.read_text(encoding="utf-8")


def test_the_page_is_well_formed_and_loads_nothing_from_elsewhere(html):
    outline = Outline(html)
    assert outline.open == []
    identities = {attributes["id"] for _, attributes in outline.tags if "id" in attributes}
    assert {a["href"][1:] for tag, a in outline.tags if tag == "a"} <= identities
    assert [a["href"] for tag, a in outline.tags if tag == "link"] == ["data:,"]
    policy = next(a["content"] for _, a in outline.tags if a.get("http-equiv") == "Content-Security-Policy")
    assert policy == "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


def test_markup_in_texts_and_names_is_escaped(html):
    assert "<script" not in html
    assert "<img" not in html
    assert "<b>" not in html
    assert "bad <b>" in Outline(html).text


def test_the_page_shows_the_numbers_of_the_report(page, html):
    report = json.loads(page.with_suffix(".json").read_text(encoding="utf-8"))
    text = Outline(html).text
    assert (
        f"{report['kept']} pairs of {report['kept']} sources; 60 sources with 180 candidates were read; de-en" in text
    )
    for title in (
        "chrF of chosen and rejected, % of each", "BLEU of chosen and rejected", "Margin: value of chosen minus",
        "Length ratio, chosen / rejected", "Candidates left out", "Kept and dropped sources",
        "Systems of the chosen translations", "bleu and chrf",
    ):  # fmt: skip
        assert title in text or title == "Systems of the chosen translations", title
    assert "source copy" in text
    assert f"{report['agreement']['bleu and chrf']:.2f}" in text
    correlation = report["lengths"]["length_margin_correlation"]
    assert f"the correlation of the margin with the length ratio (log) is {correlation:.2f}." in text
    assert f"the correlation of length and value is {report['lengths']['length_score_correlation']:.2f}" in text


def test_twenty_pairs_with_their_differences_marked(page, html):
    report = json.loads(page.with_suffix(".json").read_text(encoding="utf-8"))
    assert html.count('<article class="segment">') == len(report["examples"]) == 20
    assert '<mark class="new">' in html
    assert '<mark class="gone">' in html
    text = Outline(html).text
    for example in report["examples"]:
        assert example["id"] in text
    assert f"20 of {report['kept']}, drawn evenly" in text


def test_with_a_single_metric_no_agreement_is_shown(tmp_path):
    build_preferences(segments(3), PrefsConfig(metrics=("chrf",)), tmp_path / "p.jsonl")
    text = Outline(write_pair_page(tmp_path / "p-report.json").read_text(encoding="utf-8")).text
    assert "scores of one metric only" in text
    assert "all 3" in text


def test_without_a_usable_report_there_is_no_page(tmp_path):
    path = tmp_path / "p-report.json"
    assert page_path_of(path) == tmp_path / "p-report.html"
    with pytest.raises(UserError, match="no such file; mtcpo build-prefs writes it"):
        write_pair_page(path)
    path.write_text("{", encoding="utf-8")
    with pytest.raises(UserError, match="not JSON"):
        write_pair_page(path)
    path.write_text('{"kept": 3}', encoding="utf-8")
    with pytest.raises(UserError, match="it is not a report of this version"):
        write_pair_page(path)


@pytest.mark.browser
@pytest.mark.parametrize("dark", [False, True])
def test_the_page_fits_and_has_contrast_in_light_and_dark(page, dark):
    with Browser(dark=dark) as opened:
        opened.open(page)
        assert opened.evaluate("document.title") == "Preference pairs: prefs (mtcpo)"
        body = opened.evaluate("getComputedStyle(document.body).backgroundColor")
        assert body == ("rgb(19, 22, 25)" if dark else "rgb(246, 246, 243)")
        assert opened.evaluate(LOW_CONTRAST) == []
        for width in (320, 768, 1200):
            opened.resize(width, 800)
            assert opened.evaluate("document.documentElement.scrollWidth") == width
        # At a desk's width the two translations of a pair stand beside each other.
        tops = "[...document.querySelector('.segment').querySelectorAll('.cell')].map(c => c.offsetTop)"
        source, chosen, rejected = opened.evaluate(tops)
        assert source < chosen == rejected
        assert opened.problems == []
