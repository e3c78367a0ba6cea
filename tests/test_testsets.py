import gzip

import pytest
import sacrebleu.dataset
from hypothesis import given
from hypothesis import strategies as st
from sacrebleu.dataset.plain_text import PlainTextDataset

from mtcpo.config import load_section
from mtcpo.errors import UserError
from mtcpo.shipped import shipped
from mtcpo.testsets import (
    TestSetConfig,
    check_name,
    load_local_set,
    load_suite,
    load_test_set,
    load_test_sets,
    read_suite,
    submitted_outputs,
)

GERMAN, ENGLISH, OTHER = "Guten Tag.\nBis bald.\n", "Good day.\nSee you soon.\n", "Hello.\nSee you.\n"


def write(folder, **files):
    for name, text in files.items():
        path = folder / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")


@pytest.fixture
def wmt(tmp_path):
    """A folder in the layout of the WMT "news-systems" repositories."""
    stem = "generaltest2022.de-en"
    for name, text in {
        f"sources/{stem}.src.de": GERMAN,
        f"references/{stem}.ref.A.en": ENGLISH,
        f"references/{stem}.ref.B.en": OTHER,
        f"system-outputs/{stem}.hyp.Online-A.en": OTHER,
        f"system-outputs/{stem}.hyp.M2M100_1.2B-B4.en": OTHER,
        "system-outputs/generaltest2022.en-de.hyp.Other.de": GERMAN,
    }.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return tmp_path


# Names


@pytest.mark.parametrize(
    "name", ["", " ", ".", "..", "../x", "a/b", "a\\b", "/etc", ".hidden", "a\nb", "a\x00", "x" * 201]
)
def test_names_that_would_be_dangerous_paths_are_refused(name):
    with pytest.raises(UserError, match="system"):
        check_name("system", name)


@pytest.mark.parametrize("name", ["Online-A", "M2M100_1.2B-B4", "機械", "a b", "chrf++", "nllb (beam 4)"])
def test_names_that_systems_have_are_taken(name):
    assert check_name("system", name) == name


@given(st.text(max_size=300))
def test_a_name_that_is_taken_stays_in_its_folder(name):
    from pathlib import PurePosixPath, PureWindowsPath

    try:
        check_name("system", name)
    except UserError:
        return
    assert PurePosixPath(f"folder/{name}.txt").parent == PurePosixPath("folder")
    assert PureWindowsPath(f"folder/{name}.txt").name.endswith(".txt")


# Local files


def test_a_local_set(tmp_path):
    write(tmp_path, **{"t.de": GERMAN, "t.en": ENGLISH, "t2.en": OTHER})
    test_set = load_local_set(
        TestSetConfig(
            name="mine",
            source=str(tmp_path / "t.de"),
            references=(str(tmp_path / "t.en"), str(tmp_path / "t2.en")),
            src_lang="de",
            tgt_lang="en",
        )
    )
    assert test_set.pair == "de-en"
    assert [segment.id for segment in test_set.segments] == ["mine:de-en:1", "mine:de-en:2"]
    assert test_set.segments[1].source == "Bis bald."
    assert test_set.segments[1].references == ("See you soon.", "See you.")
    assert test_set.reference_names == ("t.en", "t2.en")


def local(tmp_path, references=("t.en",), **changes):
    settings = {"name": "mine", "source": "t.de", "references": list(references), "src_lang": "de", "tgt_lang": "en"}
    return load_section(TestSetConfig, settings | changes, "recipe.toml", base=tmp_path)


def test_files_of_unequal_length_are_named_with_their_counts(tmp_path):
    write(tmp_path, **{"t.de": GERMAN, "t.en": ENGLISH + "More.\n"})
    with pytest.raises(UserError, match=r"t\.en: 3 lines, but .*t\.de has 2"):
        load_local_set(local(tmp_path))


def test_an_empty_set_is_refused(tmp_path):
    write(tmp_path, **{"t.de": "", "t.en": ""})
    with pytest.raises(UserError, match=r"t\.de: empty"):
        load_local_set(local(tmp_path))


def test_a_set_without_references_is_for_metrics_that_need_none(tmp_path):
    write(tmp_path, **{"t.de": GERMAN})
    assert load_local_set(local(tmp_path, references=())).segments[0].references == ()


def test_a_missing_file_is_named(tmp_path):
    write(tmp_path, **{"t.de": GERMAN})
    with pytest.raises(UserError, match=r"t\.en: no such file"):
        load_local_set(local(tmp_path))


def test_a_name_with_a_separator_is_refused(tmp_path):
    write(tmp_path, **{"t.de": GERMAN, "t.en": ENGLISH})
    with pytest.raises(UserError, match=r"test set '../x'"):
        load_local_set(local(tmp_path, name="../x"))


# The WMT layout


def test_the_reference_is_the_one_that_sacrebleu_takes(wmt):
    test_set = load_test_set("wmt22:de-en", wmt)
    assert test_set.name == "wmt22"
    assert test_set.reference_names == ("A",)
    assert test_set.segments[0].references == ("Good day.",)
    assert test_set.origin.endswith("generaltest2022.de-en.src.de")


def test_references_can_be_named(wmt):
    assert load_test_set("wmt22:de-en:B", wmt).segments[0].references == ("Hello.",)
    assert load_test_set("wmt22:de-en:B,refA", wmt).segments[0].references == ("Hello.", "Good day.")


def test_a_reference_that_is_not_there_lists_those_that_are(wmt):
    with pytest.raises(UserError, match="unknown reference of wmt22:de-en 'C'; choose from A, B"):
        load_test_set("wmt22:de-en:C", wmt)


def test_the_layout_may_lie_under_txt(wmt, tmp_path_factory):
    root = tmp_path_factory.mktemp("repository")
    (root / "txt").symlink_to(wmt)
    assert len(load_test_set("wmt22:de-en", root).segments) == 2
    assert set(submitted_outputs("wmt22:de-en", root)) == {"Online-A", "M2M100_1.2B-B4"}


def test_the_files_own_stem_is_a_name_too(wmt):
    assert load_test_set("generaltest2022:de-en", wmt).reference_names == ("A", "B")


def test_submitted_systems_of_the_pair_only(wmt):
    found = submitted_outputs("wmt22:de-en", wmt)
    assert list(found) == ["M2M100_1.2B-B4", "Online-A"]
    assert found["Online-A"].read_text() == OTHER


def test_another_year_is_not_taken_for_this_one(wmt):
    with pytest.raises(UserError, match=r"no test set wmt23:de-en in it; place sources/generaltest2023\."):
        load_test_set("wmt23:de-en", wmt)


def test_what_is_missing_is_named_with_what_there_is(wmt):
    with pytest.raises(UserError) as error:
        load_test_set("wmt22:en-de", wmt)
    message = str(error.value)
    assert "sources/generaltest2022.en-de.src.en" in message
    assert "references/generaltest2022.en-de.ref.A.de" in message
    assert "wmt22.en-de.en" in message
    assert "it has wmt22:de-en" in message
    assert "\n" not in message


def test_a_source_without_reference_says_what_to_place(wmt):
    for path in (wmt / "references").iterdir():
        path.unlink()
    with pytest.raises(UserError, match=r"no reference beside it; place references/generaltest2022\.de-en\.ref\.A\.en"):
        load_test_set("wmt22:de-en", wmt)


def test_a_short_reference_is_refused(wmt):
    (wmt / "references" / "generaltest2022.de-en.ref.A.en").write_text("Good day.\n")
    with pytest.raises(UserError, match=r"1 lines, but .* has 2"):
        load_test_set("wmt22:de-en", wmt)


def test_older_years_have_other_stems(tmp_path):
    write(
        tmp_path,
        **{
            "sources__newstest2021.de-en.src.de": GERMAN,
            "references__newstest2021.de-en.ref.ref-A.en": ENGLISH,
            "references__newstest2021.de-en.ref.ref-B.en": OTHER,
        },
    )
    assert load_test_set("wmt21:de-en", tmp_path).segments[0].references == ("Good day.",)
    both = load_test_set("wmt21/AB:de-en", tmp_path)
    assert both.segments[0].references == ("Good day.", "Hello.")
    assert both.name == "wmt21_AB"


def test_the_plain_layout(tmp_path):
    write(tmp_path, **{"mine.de-en.de": GERMAN, "mine.de-en.en": ENGLISH})
    test_set = load_test_set("mine:de-en", tmp_path)
    assert test_set.segments[1].references == ("See you soon.",)


@pytest.mark.parametrize("spec", ["wmt22", "wmt22:", "wmt22:de", "wmt22:de-", "wmt22:../x-en"])
def test_a_spec_must_name_suite_and_pair(spec, tmp_path):
    with pytest.raises(UserError, match="write it as SUITE:SRC-TGT"):
        load_test_set(spec, tmp_path)


@pytest.mark.parametrize("suite", ["..", "../../etc", "a/b"])
def test_a_suite_is_no_path(suite, tmp_path):
    with pytest.raises(UserError, match="test set"):
        load_test_set(f"{suite}:de-en", tmp_path)


def test_a_folder_that_is_not_there(tmp_path):
    with pytest.raises(UserError, match="no such folder"):
        load_test_set("wmt22:de-en", tmp_path / "nowhere")


# sacreBLEU's own sets, from its cache


@pytest.fixture
def cached(tmp_path, monkeypatch):
    """A real sacreBLEU data set whose files are in the cache already; nothing is fetched."""
    folder = tmp_path / "cache" / "greetings"
    raw = folder / "raw"
    raw.mkdir(parents=True)
    (raw / "g.de").write_text(GERMAN, encoding="utf-8")
    (raw / "g.en").write_text(ENGLISH, encoding="utf-8")
    # sacreBLEU takes an archive that is there for fetched and unpacked.
    (raw / "greetings.g.tar.gz").write_bytes(gzip.compress(b"fetched"))
    data = PlainTextDataset(
        "greetings",
        data=["http://127.0.0.1:9/g.tar.gz"],
        langpairs={"de-en": ["g.de", "g.en"], "en-de": ["g.en", "g.de"]},
    )
    data._outdir, data._rawdir = str(folder), str(raw)
    monkeypatch.setitem(sacrebleu.dataset.DATASETS, "greetings", data)
    return folder


def test_a_set_of_sacrebleus_cache(cached):
    test_set = load_test_set("greetings:de-en")
    assert [segment.source for segment in test_set.segments] == ["Guten Tag.", "Bis bald."]
    assert test_set.segments[0].references == ("Good day.",)
    assert test_set.origin == "sacreBLEU greetings/de-en"


def test_a_file_that_an_interrupt_cut_is_refused(cached):
    load_test_set("greetings:de-en")
    (cached / "greetings.de-en.ref").write_text("Good day.\nSee y")
    with pytest.raises(UserError, match="cut short"):
        load_test_set("greetings:de-en")
    (cached / "greetings.de-en.ref").write_text("Good day.\n")
    with pytest.raises(UserError, match="1 lines, but"):
        load_test_set("greetings:de-en")


def test_an_unknown_pair_lists_the_known(cached):
    with pytest.raises(UserError, match=r"unknown language pair of greetings 'de-fr'.*choose from de-en, en-de"):
        load_test_set("greetings:de-fr")


def test_an_unknown_suite_names_the_nearest():
    with pytest.raises(UserError, match=r"unknown test set 'wmt222' \(did you mean 'wmt22'\?\)"):
        load_test_set("wmt222:de-en")


def test_without_cache_and_network_the_error_says_what_to_place_where(cached):
    for path in (cached / "raw").iterdir():
        path.unlink()
    with pytest.raises(UserError) as error:
        load_test_set("greetings:de-en")
    message = str(error.value)
    assert "the download failed" in message
    assert "--test-set-dir DIR" in message
    assert "DIR/sources/greetings.de-en.src.de" in message
    assert "DIR/greetings.de-en.en" in message
    assert "\n" not in message


# Suites


def test_the_shipped_suites_are_valid():
    assert read_suite("demo").sets[0].name == "demo"
    assert "wmt22:de-en" in read_suite("wmt22").test_sets


def test_the_demo_suite_finds_the_demos_data():
    source = shipped("data/demo") / "test.en"
    if not source.exists():
        pytest.skip("the demo's data are not there")
    (test_set,) = load_suite("demo")
    assert test_set.pair == "en-de"
    assert len(test_set.segments) >= 100


def test_a_suite_file_with_files_beside_it_and_named_sets(wmt):
    write(wmt, **{"own__t.de": GERMAN, "own__t.en": ENGLISH})
    suite = wmt / "own" / "suite.toml"
    suite.write_text(
        'test_sets = ["wmt22:de-en"]\n[[sets]]\nname = "own"\nsource = "t.de"\nreferences = ["t.en"]\n'
        'src_lang = "de"\ntgt_lang = "en"\n'
    )
    loaded = load_suite(str(suite), wmt)
    assert [(test_set.name, test_set.pair) for test_set in loaded] == [("wmt22", "de-en"), ("own", "de-en")]
    assert read_suite(str(suite)).metrics == ("bleu", "chrf", "ter")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("metrics = []", "metrics"),
        ("metrix = ['bleu']", "unknown key 'metrix' .did you mean 'metrics'"),
        ("[[sets]]\nname = 'x'", "missing"),
        ("metrics = ['bleu']", "no test set in it"),
    ],
)
def test_mistakes_in_a_suite(tmp_path, text, message):
    (tmp_path / "s.toml").write_text(text)
    with pytest.raises(UserError, match=message):
        load_suite(str(tmp_path / "s.toml"))


def test_an_unknown_suite_name_lists_suites():
    with pytest.raises(UserError, match=r"unknown suite 'dmeo' \(did you mean 'demo'\?\); choose from demo"):
        load_suite("dmeo")


def test_a_set_of_sacrebleus_without_pair_says_which_pairs_it_has():
    with pytest.raises(UserError, match="add the language pair, as in wmt19:cs-de"):
        load_suite("wmt19")


def test_one_set_named_twice_is_refused(wmt):
    with pytest.raises(UserError, match="two test sets are wmt22 de-en"):
        load_test_sets(["wmt22:de-en", "wmt22:de-en:B"], [], wmt)
    with pytest.raises(UserError, match="no test set to evaluate on"):
        load_test_sets([], [])
