import gzip
import hashlib
import io
import tarfile
from dataclasses import replace

import pytest
import sacrebleu.dataset
from sacrebleu.dataset.plain_text import PlainTextDataset
from sacrebleu.dataset.wmt_xml import WMTXMLDataset
from support.paths import MULTI30K

from mtcpo.core.config import load_section
from mtcpo.core.errors import UserError
from mtcpo.core.resources import resource_path, resource_tomls
from mtcpo.evaluation.testsets.loading import load_local_set, load_test_set
from mtcpo.evaluation.testsets.published import RELEASES
from mtcpo.evaluation.testsets.suites import (
    SuiteConfig,
    decoding_of,
    load_suite,
    load_test_sets,
    name_test_sets,
    read_suite,
)
from mtcpo.evaluation.testsets.testset import TestSetConfig
from mtcpo.translation.config import TranslateConfig

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


# Local files


def test_a_test_set_in_files_of_the_user(tmp_path):
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
    with pytest.raises(UserError, match=r"line counts differ: .*t\.de has 2, .*t\.en has 3; the files must be aligned"):
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


def test_a_test_set_name_with_a_path_separator_is_refused(tmp_path):
    write(tmp_path, **{"t.de": GERMAN, "t.en": ENGLISH})
    with pytest.raises(UserError, match=r"test set name '../x'"):
        load_local_set(local(tmp_path, name="../x"))


# The WMT layout


def test_the_default_reference_is_the_one_that_sacrebleu_takes(wmt):
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


def test_the_wmt_layout_may_lie_under_txt(wmt, tmp_path_factory):
    root = tmp_path_factory.mktemp("repository")
    (root / "txt").symlink_to(wmt)
    assert len(load_test_set("wmt22:de-en", root).segments) == 2
    assert set(load_test_set("wmt22:de-en", root, submitted=True).submitted) == {"Online-A", "M2M100_1.2B-B4"}


def test_the_stem_of_the_files_can_name_the_test_set(wmt):
    assert load_test_set("generaltest2022:de-en", wmt).reference_names == ("A", "B")


def test_submitted_systems_are_of_the_pair_and_loaded_only_on_request(wmt):
    assert load_test_set("wmt22:de-en", wmt).submitted == {}
    found = load_test_set("wmt22:de-en", wmt, submitted=True).submitted
    assert found == {"M2M100_1.2B-B4": ["Hello.", "See you."], "Online-A": ["Hello.", "See you."]}


def test_a_short_submission_is_refused(wmt):
    (wmt / "system-outputs" / "generaltest2022.de-en.hyp.Online-A.en").write_text("Hello.\n")
    assert load_test_set("wmt22:de-en", wmt).submitted == {}
    with pytest.raises(UserError, match=r"line counts differ: [^ ]*src\.de has 2, [^ ]*hyp\.Online-A\.en has 1; "):
        load_test_set("wmt22:de-en", wmt, submitted=True)


def test_the_files_of_another_year_are_not_used(wmt):
    with pytest.raises(UserError, match=r"no test set wmt23:de-en in it; place sources/generaltest2023\."):
        load_test_set("wmt23:de-en", wmt)
    # Until 2021 the general task was called news.
    with pytest.raises(UserError, match=r"no test set wmt21:de-en in it; place sources/newstest2021\."):
        load_test_set("wmt21:de-en", wmt)


def test_a_missing_test_set_lists_those_in_the_folder(wmt):
    with pytest.raises(UserError) as error:
        load_test_set("wmt22:en-de", wmt)
    message = str(error.value)
    assert "sources/generaltest2022.en-de.src.en" in message
    assert "references/generaltest2022.en-de.ref.A.de" in message
    assert "wmt22.en-de.en" in message
    assert "it has wmt22:de-en" in message
    assert "\n" not in message


def test_the_error_for_a_source_without_reference_names_the_missing_file(wmt):
    for path in (wmt / "references").iterdir():
        path.unlink()
    with pytest.raises(UserError, match=r"no reference beside it; place references/generaltest2022\.de-en\.ref\.A\.en"):
        load_test_set("wmt22:de-en", wmt)


def test_a_short_reference_is_refused(wmt):
    (wmt / "references" / "generaltest2022.de-en.ref.A.en").write_text("Good day.\n")
    with pytest.raises(UserError, match=r"line counts differ: .*src\.de has 2, .*ref\.A\.en has 1; the files"):
        load_test_set("wmt22:de-en", wmt)


def test_test_sets_before_2022_have_another_stem(tmp_path):
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


def test_all_references_without_knowing_their_names(wmt):
    assert load_test_set("wmt22:de-en:all", wmt).reference_names == ("A", "B")
    (wmt / "references" / "generaltest2022.de-en.ref.B.en").rename(wmt / "references/generaltest2022.de-en.ref.stud.en")
    assert load_test_set("wmt22:de-en:all", wmt).reference_names == ("A", "stud")


def test_the_flores_part_of_2021(tmp_path):
    write(
        tmp_path,
        **{"sources__florestest2021.bn-hi.src.bn": GERMAN, "references__florestest2021.bn-hi.ref.A.hi": ENGLISH},
    )
    assert load_test_set("wmt21:bn-hi", tmp_path).segments[0].references == ("Good day.",)
    with pytest.raises(UserError, match="it has wmt21:bn-hi"):
        load_test_set("wmt21:hi-bn", tmp_path)


NAMELESS = {
    "sources__de-en.txt": GERMAN,
    "references__de-en.refA.txt": ENGLISH,
    "references__de-en.refB.txt": OTHER,
    "system-outputs__de-en__ONLINE-A.txt": OTHER,
    "system-outputs__de-en__refA.txt": ENGLISH,
    "system-outputs__en-de__Other.txt": GERMAN,
}


@pytest.mark.parametrize("place", ["wmt24-news-systems/txt", "mine/txt", "mine", "data/wmt24"])
def test_the_layout_of_2024(tmp_path, place):
    write(tmp_path / place, **NAMELESS)
    folder = tmp_path / place
    test_set = load_test_set("wmt24:de-en", folder.parent if folder.name in ("txt", "wmt24") else folder, True)
    assert (test_set.reference_names, test_set.segments[1].references) == (("A",), ("See you soon.",))
    # A reference that lies among the outputs too is no system that took part.
    assert test_set.submitted == {"ONLINE-A": ["Hello.", "See you."]}
    assert load_test_set("wmt24:de-en:B,A", folder).segments[0].references == ("Hello.", "Good day.")
    with pytest.raises(
        UserError, match=r"place sources/en-de\.txt and references/en-de\.refA\.txt there; it has wmt24:de-"
    ):
        load_test_set("wmt24:en-de", folder)


def test_files_without_a_year_belong_to_the_year_of_their_folder(tmp_path):
    write(tmp_path / "mt-metrics-eval-v2" / "wmt22", **NAMELESS)
    for folder in (tmp_path / "mt-metrics-eval-v2", tmp_path / "mt-metrics-eval-v2" / "wmt22"):
        assert load_test_set("wmt22:de-en", folder).segments[0].references == ("Good day.",)
        for other in ("wmt24:de-en", "wmt23:de-en"):
            with pytest.raises(UserError, match=r"no test set wmt2.:de-en in it; .* it has wmt22:de-en"):
                load_test_set(other, folder)


def test_the_plain_layout(tmp_path):
    write(tmp_path, **{"mine.de-en.de": GERMAN, "mine.de-en.en": ENGLISH})
    test_set = load_test_set("mine:de-en", tmp_path)
    assert test_set.segments[1].references == ("See you soon.",)


@pytest.mark.parametrize("spec", ["wmt22", "wmt22:", "wmt22:de", "wmt22:de-", "wmt22:../x-en"])
def test_a_spec_must_name_suite_and_pair(spec, tmp_path):
    with pytest.raises(UserError, match="write it as SUITE:SRC-TGT"):
        load_test_set(spec, tmp_path)


@pytest.mark.parametrize("suite", ["..", "../../etc", "a/b"])
def test_a_suite_name_cannot_be_a_path(suite, tmp_path):
    with pytest.raises(UserError, match="test set"):
        load_test_set(f"{suite}:de-en", tmp_path)


def test_a_missing_test_set_dir_is_refused(tmp_path):
    with pytest.raises(UserError, match="no such folder"):
        load_test_set("wmt22:de-en", tmp_path / "nowhere")


# Releases: FLORES-200 and Multi30k


@pytest.fixture
def few_lines(monkeypatch):
    """The releases with two lines each, in place of a thousand."""
    for name, release in RELEASES.items():
        monkeypatch.setitem(RELEASES, name, replace(release, lines=2))


@pytest.mark.parametrize("root", ["", "flores200_dataset/"])
@pytest.mark.parametrize("pair", ["de-en", "deu_Latn-eng_Latn"])
def test_flores_by_its_own_language_codes_and_by_bcp_47(tmp_path, few_lines, root, pair):
    for name, text in {"deu_Latn": GERMAN, "eng_Latn": ENGLISH}.items():
        for split in ("dev", "devtest"):
            path = tmp_path / f"{root}{split}" / f"{name}.{split}"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text if split == "devtest" else text.upper(), encoding="utf-8")
    test_set = load_test_set(f"flores200:{pair}", tmp_path)
    assert (test_set.name, test_set.pair) == ("flores200", "de-en")
    assert test_set.segments[1].references == ("See you soon.",)
    assert load_test_set(f"flores200/dev:{pair}", tmp_path).segments[1].source == "BIS BALD."
    assert name_test_sets([f"flores200:{pair}"], []) == [("flores200", "de-en")]


@pytest.mark.parametrize(
    ("tag", "code"), [("zh", "zho_Hans"), ("ar", "arb_Arab"), ("sw", "swh_Latn"), ("ta", "tam_Taml")]
)
def test_flores_files_are_named_by_macrolanguage_member_and_script(tmp_path, few_lines, tag, code):
    write(tmp_path, **{f"devtest__{code}.devtest": GERMAN, "devtest__eng_Latn.devtest": ENGLISH})
    assert load_test_set(f"flores200:{tag}-en", tmp_path).segments[0].source == "Guten Tag."


@pytest.mark.parametrize("folder", ["", "data/task1/raw/"])
@pytest.mark.parametrize(
    ("name", "stem"),
    [
        ("multi30k/2016", "test_2016_flickr"),
        ("multi30k/2017", "test_2017_flickr"),
        ("multi30k/2018", "test_2018_flickr"),
        ("multi30k/mscoco", "test_2017_mscoco"),
    ],
)
def test_multi30k_plain_and_gzipped(tmp_path, few_lines, folder, name, stem):
    (tmp_path / folder).mkdir(parents=True, exist_ok=True)
    for language, text in {"en": ENGLISH, "de": GERMAN}.items():
        data = text.encode()
        file = tmp_path / folder / f"{stem}.{language}{'.gz' if folder else ''}"
        file.write_bytes(gzip.compress(data) if folder else data)
    test_set = load_test_set(f"{name}:en-de", tmp_path)
    assert test_set.name == name.replace("/", "_")
    assert [segment.references for segment in test_set.segments] == [("Guten Tag.",), ("Bis bald.",)]


def test_a_truncated_release_is_refused(tmp_path):
    write(tmp_path, **{"test_2016_flickr.en": ENGLISH, "test_2016_flickr.de": GERMAN})
    with pytest.raises(UserError, match=r"2 lines, but multi30k/2016 has 1000; download it again from github"):
        load_test_set("multi30k/2016:en-de", tmp_path)


def test_the_error_names_the_site_of_a_release():
    with pytest.raises(UserError, match=r"get it from the flores200_dataset archive and pass --test-set-dir DIR with "
                       r"DIR/devtest/deu_Latn\.devtest and DIR/devtest/eng_Latn\.devtest"):  # fmt: skip
        load_test_set("flores200:de-en")
    with pytest.raises(UserError, match=r"get it from github\.com/multi30k/dataset .* DIR/test_2017_mscoco\.en"):
        load_test_set("multi30k/mscoco:en-de")


@pytest.mark.data
@pytest.mark.parametrize("name", ["multi30k/2016", "multi30k/2017", "multi30k/mscoco"])
def test_the_published_multi30k_has_the_expected_number_of_lines(name):
    assert len(load_test_set(f"{name}:en-de", MULTI30K).segments) == RELEASES[name].lines


# sacreBLEU's own sets, from its cache


def archive_of(files):
    """A .tar.gz of texts, as sacreBLEU fetches them."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for name, text in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(text.encode())
            tar.addfile(member, io.BytesIO(text.encode()))
    return buffer.getvalue()


@pytest.fixture
def cached(tmp_path, monkeypatch):
    """A real sacreBLEU data set that is in the cache already, fetched and unpacked; nothing is fetched."""
    folder = tmp_path / "cache" / "greetings"
    raw = folder / "raw"
    raw.mkdir(parents=True)
    files = {"g.de": GERMAN, "g.en": ENGLISH}
    for name, text in files.items():
        (raw / name).write_text(text, encoding="utf-8")
    archive = archive_of(files)
    (raw / "greetings.g.tar.gz").write_bytes(archive)
    data = PlainTextDataset(
        "greetings",
        data=["http://127.0.0.1:9/g.tar.gz"],
        md5=[hashlib.md5(archive).hexdigest()],
        langpairs={"de-en": ["g.de", "g.en"], "en-de": ["g.en", "g.de"]},
    )
    data._outdir, data._rawdir = str(folder), str(raw)
    monkeypatch.setitem(sacrebleu.dataset.DATASETS, "greetings", data)
    return folder


def test_a_test_set_is_read_from_sacrebleus_cache(cached):
    test_set = load_test_set("greetings:de-en")
    assert [segment.source for segment in test_set.segments] == ["Guten Tag.", "Bis bald."]
    assert test_set.segments[0].references == ("Good day.",)
    assert test_set.origin == "sacreBLEU greetings/de-en"


def test_texts_truncated_by_an_interrupt_are_extracted_again(cached):
    # All of them cut at a line's end: nothing in the files shows it, and sacreBLEU takes them for a test set of one.
    for field, text in {"src": "Guten Tag.\n", "ref": "Good day.\n"}.items():
        (cached / f"greetings.de-en.{field}").write_text(text)
    assert len(list(sacrebleu.dataset.DATASETS["greetings"].source("de-en"))) == 1
    assert len(load_test_set("greetings:de-en").segments) == 2


def test_cached_texts_without_their_archive_are_refused(cached):
    (cached / "raw" / "greetings.g.tar.gz").unlink()
    for field, text in {"src": "Guten Tag.\n", "ref": "Good day.\n"}.items():
        (cached / f"greetings.de-en.{field}").write_text(text)
    with pytest.raises(
        UserError, match=r"there is no archive beside .*greetings\.de-en\.ref to verify it against, and the d"
    ):
        load_test_set("greetings:de-en")


@pytest.mark.parametrize("size", [20, 60, -1])
def test_a_truncated_archive_is_refused(cached, size):
    archive = cached / "raw" / "greetings.g.tar.gz"
    archive.write_bytes(archive.read_bytes()[:size])
    with pytest.raises(UserError, match=r"g\.tar\.gz: truncated or changed .*delete .*greetings and try again"):
        load_test_set("greetings:de-en")


def test_half_unpacked_files_are_refused(cached):
    (cached / "raw" / "g.de").write_text("Guten Tag.\n")
    (cached / "raw" / "g.en").write_text("Good day.\n")
    with pytest.raises(UserError, match=r"g\.de: 11 bytes, not 21, as after an interrupted download; delete "):
        load_test_set("greetings:de-en")
    (cached / "raw" / "g.de").unlink()
    with pytest.raises(UserError, match=r"g\.de: missing, as after an interrupted download"):
        load_test_set("greetings:de-en")


WMT_XML = """<?xml version='1.0' encoding='utf-8'?>
<dataset id="hello"><doc id="d1" origlang="de">
<src lang="de"><p><seg id="1">Guten Tag.</seg><seg id="2">Bis bald.</seg></p></src>
<ref lang="en" translator="A"><p><seg id="1">Good day.</seg><seg id="2">See you soon.</seg></p></ref>
<ref lang="en" translator="B"><p><seg id="1">Hello.</seg><seg id="2">See you.</seg></p></ref>
<hyp system="Online-A" language="en"><p><seg id="1">Day.</seg><seg id="2">Soon.</seg></p></hyp>
</doc></dataset>
"""


def test_references_and_submitted_systems_of_wmt_xml(tmp_path, monkeypatch):
    raw = tmp_path / "hello" / "raw"
    raw.mkdir(parents=True)
    archive = archive_of({"h.xml": WMT_XML})
    (raw / "hello.h.tar.gz").write_bytes(archive)
    (raw / "h.xml").write_text(WMT_XML, encoding="utf-8")
    data = WMTXMLDataset(
        "hello", data=["http://127.0.0.1:9/h.tar.gz"], md5=[hashlib.md5(archive).hexdigest()],
        langpairs={"de-en": ["h.xml"]}, refs=["A"],
    )  # fmt: skip
    data._outdir, data._rawdir = str(raw.parent), str(raw)
    monkeypatch.setitem(sacrebleu.dataset.DATASETS, "hello", data)
    test_set = load_test_set("hello:de-en", submitted=True)
    assert test_set.reference_names == ("A",)
    assert test_set.submitted == {"Online-A": ["Day.", "Soon."]}
    assert [segment.doc for segment in test_set.segments] == ["d1", "d1"]
    both = load_test_set("hello:de-en:A,B")
    assert both.segments[0].references == ("Good day.", "Hello.")
    assert both.submitted == {}
    with pytest.raises(UserError, match="unknown reference of hello:de-en 'C'; choose from A, B"):
        load_test_set("hello:de-en:C")


@pytest.mark.parametrize("name", ["_outdir", "_rawdir", "_get_tarball_filename"])
def test_a_sacrebleu_without_a_private_name_is_a_clear_error(cached, monkeypatch, name):
    class Without:
        """The data set, as a version of sacreBLEU that renamed one of its private names would have it."""

        def __init__(self, dataset):
            self.dataset = dataset

        def __getattr__(self, asked):
            if asked == name:
                raise AttributeError(asked)
            return getattr(self.dataset, asked)

    data = sacrebleu.dataset.DATASETS["greetings"]
    monkeypatch.setitem(sacrebleu.dataset.DATASETS, "greetings", Without(data))
    with pytest.raises(UserError, match=rf"sacreBLEU [\d.]+ has no Dataset\.{name}, by which its"):
        load_test_set("greetings:de-en")


def test_an_unknown_pair_lists_the_known(cached):
    with pytest.raises(UserError, match=r"unknown language pair of greetings 'de-fr'.*choose from de-en, en-de"):
        load_test_set("greetings:de-fr")


def test_an_unknown_test_set_suggests_the_nearest_name():
    with pytest.raises(UserError, match=r"unknown test set 'wmt222' \(did you mean 'wmt22'\?\)"):
        load_test_set("wmt222:de-en")


def test_without_cache_and_network_the_error_names_the_file_and_its_folder(cached):
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
    for name in resource_tomls("eval/suites"):
        suite = read_suite(name)
        named = name_test_sets([name], [])
        assert len(set(named)) == len(suite.test_sets) + len(suite.sets), name
    known = sacrebleu.dataset.DATASETS
    for year in range(14, 25):
        pairs = [text.partition(":")[2] for text in read_suite(f"wmt{year}").test_sets]
        assert sorted(pairs) == sorted(known[f"wmt{year}"].langpairs)


def test_the_demo_suite_finds_the_demos_data():
    source = resource_path("data/demo") / "test.en"
    if not source.exists():
        pytest.skip("the demo's data are not there")
    (test_set,) = load_suite("demo")
    assert test_set.pair == "en-de"
    assert len(test_set.segments) >= 100


def test_a_suite_file_with_files_beside_it_and_named_sets(wmt):
    write(wmt, **{"own__t.de": GERMAN, "own__t.en": ENGLISH})
    suite = wmt / "own" / "suite.toml"
    suite.write_text(
        'metrics = ["chrf++"]\ntest_sets = ["wmt22:de-en"]\n[[sets]]\nname = "own"\nsource = "t.de"\n'
        'references = ["t.en"]\n'
        'src_lang = "de"\ntgt_lang = "en"\n'
    )
    loaded = load_suite(str(suite), wmt)
    assert [(test_set.name, test_set.pair) for test_set in loaded] == [("wmt22", "de-en"), ("own", "de-en")]
    assert {test_set.metrics for test_set in loaded} == {("chrf++",)}
    assert load_suite("wmt22:de-en", wmt)[0].metrics is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("metrics = []", "no test set in it"),
        ("test_sets = ['wmt22:de-en']", r's\.toml: no metric in it; add one, for example metrics = \["bleu", "chrf"\]'),
        ("metrics = []\ntest_sets = ['wmt22:de-en']", r"s\.toml: no metric in it; add one"),
        ("metrics = ['blue']", r"unknown metric 'blue' \(did you mean 'bleu'\?\)"),
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


def test_a_test_set_without_a_language_pair_lists_its_pairs():
    with pytest.raises(UserError, match="add the language pair, as in wmt13:cs-en"):
        load_suite("wmt13")


def test_a_test_set_named_twice_is_refused(wmt):
    with pytest.raises(UserError, match="two test sets are named wmt22 de-en"):
        load_test_sets(["wmt22:de-en", "wmt22:de-en:B"], [], wmt)
    with pytest.raises(UserError, match="no test set to evaluate on"):
        load_test_sets([], [])


def test_explicit_decoding_settings_override_those_of_the_suite():
    suite = SuiteConfig(metrics=("chrf",), decoding=TranslateConfig(num_beams=5, length_penalty=0.6))
    (test_set,) = load_suite("demo")
    assert decoding_of(test_set, TranslateConfig(num_beams=2)) == TranslateConfig(num_beams=2)
    in_suite = replace(test_set, decoding=suite.decoding)
    assert decoding_of(in_suite, TranslateConfig()) == suite.decoding
    explicit = decoding_of(in_suite, TranslateConfig(num_beams=2, batch_size=8))
    assert (explicit.num_beams, explicit.batch_size, explicit.length_penalty) == (2, 8, 0.6)


def test_several_candidates_need_mbr_to_be_scored():
    (test_set,) = load_suite("demo")
    with pytest.raises(UserError, match="num_candidates: a test set is scored with one translation of each source"):
        decoding_of(test_set, TranslateConfig(num_candidates=4))
    mix = TranslateConfig(mix=[{"sampling": "beam"}, {"sampling": "epsilon", "num_candidates": 3}])
    with pytest.raises(UserError, match="choose one of several by decoding"):
        decoding_of(replace(test_set, decoding=mix), TranslateConfig())
    chosen = decoding_of(replace(test_set, decoding=mix), TranslateConfig(mbr="chrf", num_candidates=4))
    assert (chosen.num_candidates, len(chosen.mix), chosen.outputs) == (4, 2, 1)


def test_two_references_with_the_same_name_are_refused(tmp_path):
    write(tmp_path, **{"t.de": GERMAN, "t.en": ENGLISH, "u.en": OTHER})
    named = local(tmp_path, references=("t.en", "u.en"), reference_names=["A", "B"])
    assert load_local_set(named).reference_names == ("A", "B")
    with pytest.raises(UserError, match="two references are named 'A'; give each its own name"):
        local(tmp_path, references=("t.en", "u.en"), reference_names=["A", "A"])
    with pytest.raises(UserError, match="1 reference_names for 2 references; name each"):
        local(tmp_path, references=("t.en", "u.en"), reference_names=["A"])
