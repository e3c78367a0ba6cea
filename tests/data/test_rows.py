"""Rows of data sets, of custom code and in memory."""

import json
import logging
import sys

import pytest
from support.corpora import corpus, triplets

from mtcpo.core.config import load_section
from mtcpo.core.errors import UserError
from mtcpo.data.config import CorpusConfig
from mtcpo.data.corpora import read_corpus
from mtcpo.data.file_formats.registry import write_row_file
from mtcpo.data.records import Segment
from mtcpo.data.triplets import read_triplets


def test_directories_of_datasets_are_read_by_split(folder):
    datasets = pytest.importorskip("datasets")
    rows = [{"translation": {"de": f"Satz {n}", "en": f"Sentence {n}"}} for n in range(4)]
    data = datasets.Dataset.from_list(rows)
    data.save_to_disk("saved")
    datasets.DatasetDict({"train": data, "test": data.select([1])}).save_to_disk("splits")
    write_row_file(folder / "files" / "train.jsonl", rows)
    for name in ("saved", "splits", "files"):
        assert [segment.references for segment in corpus(name, take=2)] == [("Sentence 0",), ("Sentence 1",)]
    assert [segment.source for segment in corpus("splits", split="test")] == ["Satz 1"]
    with pytest.raises(UserError, match=r"unknown split of .*'tset'.*did you mean 'test'"):
        corpus("splits", split="tset")


def test_an_unreachable_data_set_is_refused_without_retries(folder, monkeypatch):
    datasets = pytest.importorskip("datasets")
    # No name service: huggingface_hub by itself would try again for half a minute, with pauses between.
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "https://hub.invalid")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
    for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("time.sleep", lambda seconds: pytest.fail("it waits to try again"))
    level = logging.getLogger("huggingface_hub").level
    with pytest.raises(
        UserError, match=r"neither a file nor a data set .*save_to_disk and give that directory"
    ) as caught:
        corpus("some-one/no-such-set")
    assert "\n" not in str(caught.value)
    assert datasets.config.HF_HUB_OFFLINE is False
    assert logging.getLogger("huggingface_hub").level == level


def test_a_cached_data_set_is_read_without_network(folder, monkeypatch):
    datasets = pytest.importorskip("datasets")
    write_row_file(folder / "a.jsonl", [{"source": "Ja.", "reference": "Yes."}])
    datasets.load_dataset("json", data_files="a.jsonl", cache_dir=str(folder / "cache"))
    # As the library keeps a data set of the hub: someone/set, its only configuration.
    [made] = (folder / "cache/json").iterdir()
    (folder / "cache/someone___set").mkdir()
    made.rename(folder / "cache/someone___set/default")
    for file in (folder / "cache/someone___set").rglob("json-*"):
        file.rename(file.with_name(file.name.replace("json-", "set-")))
    [info] = (folder / "cache/someone___set").rglob("dataset_info.json")
    described = json.loads(info.read_text(encoding="utf-8")) | {"dataset_name": "set", "config_name": "default"}
    info.write_text(json.dumps(described), encoding="utf-8")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", folder / "cache")
    assert corpus("someone/set") == [Segment("set:1", "de", "en", "Ja.", ("Yes.",))]


def test_a_damaged_file_in_a_directory_is_a_user_error(folder):
    pytest.importorskip("datasets")
    write_row_file(folder / "files" / "train.jsonl", [{"source": "Ja.", "reference": "Yes."}])
    assert corpus("files")[0].source == "Ja."
    with (folder / "files/train.jsonl").open("a", encoding="utf-8") as file:
        file.write("{no json\n")
    with pytest.raises(UserError, match="neither a file nor a data set that can be loaded"):
        corpus("files")


MODULE = """
from mtcpo.data.records import Segment

class Letters:
    def __init__(self, letters="abc", wrong_at=None):
        self.letters, self.wrong_at = letters, wrong_at

    def __iter__(self):
        for number, letter in enumerate(self.letters):
            if number == self.wrong_at:
                raise ValueError("two\\nlines")
            yield {"source": letter, "reference": letter.upper()}

def segments():
    return [Segment("7", "de", "en", "Ja.", ("Yes.",))]

def numbers():
    return [1]

def pairs():
    yield {"prompt": "Ja.", "chosen": "Yes.", "rejected": "No."}
"""


@pytest.fixture
def module(folder, monkeypatch):
    """The name of a user's module in the working directory, another one for each test."""
    name = f"own_{folder.name}"
    (folder / f"{name}.py").write_text(MODULE, encoding="utf-8")
    monkeypatch.setattr(sys, "path", [*sys.path])
    yield name
    sys.modules.pop(name, None)


def test_custom_code_yields_rows_or_records(module):
    segments = corpus(f"python:{module}:Letters", allow_code=True, skip=1, take=1)
    assert segments == [Segment(f"python:{module}:Letters:2", "de", "en", "b", ("B",))]
    assert [s.source for s in corpus(f"python:{module}:Letters", allow_code=True, options={"letters": "xy"})] == [
        "x",
        "y",
    ]
    assert corpus(f"python:{module}:segments", allow_code=True)[0] == Segment("7", "de", "en", "Ja.", ("Yes.",))
    [triplet] = triplets(f"python:{module}:pairs", allow_code=True)
    assert (triplet.prompt, triplet.chosen, triplet.src_lang) == ("Ja.", "Yes.", "de")


def test_custom_code_runs_only_if_it_is_allowed(module):
    for read in (corpus, lambda name: CorpusConfig(source=name)):
        with pytest.raises((UserError, ValueError), match="is custom Python code; pass --allow-code to run it"):
            read(f"python:{module}:Letters")
    with pytest.raises(UserError, match="--allow-code"):
        next(read_triplets(f"python:{module}:pairs"))
    assert module not in sys.modules


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("MODULE:Letters", {"wrong_at": 2}, r"your code raised ValueError at .*own_.*\.py:11: two lines$"),
        ("MODULE:Letters", {"leters": "x"}, r"your code raised TypeError: .*unexpected keyword argument 'leters'"),
        ("MODULE:Leters", {}, r"unknown name in own_.* 'Leters' \(did you mean 'Letters'\?\)"),
        ("MODULE:numbers", {}, r"MODULE:numbers:1: a row is a mapping, a Segment or a Triplet, not int"),
        ("no_such_module_at_all:X", {}, r"ModuleNotFoundError.*No module named 'no_such_module_at_all'"),
        ("no_such_module_at_all", {}, r"write it as python:package\.module:name"),
    ],
)
def test_errors_in_custom_code_are_reported_in_one_line(module, name, options, message):
    with pytest.raises(UserError) as caught:
        corpus(f"python:{name.replace('MODULE', module)}", allow_code=True, options=options)
    assert "\n" not in str(caught.value)
    assert pytest.raises(UserError, match=message.replace("MODULE", module)).matches(caught.value)


def test_rows_in_memory_are_read_instead_of_a_file():
    config = load_section(CorpusConfig, {"source": "row", "src_lang": "de", "tgt_lang": "en", "take": 2}, "test")
    rows = [{"source": "a"}, Segment("7", "de", "en", "b"), {"source": "c"}]
    assert [(s.id, s.source) for s in read_corpus(config, items=rows)] == [("row:1", "a"), ("7", "b")]
    with pytest.raises(UserError, match=r"row: a dictionary of splits \(train, test\); give one of them"):
        list(read_corpus(config, items={"train": [], "test": []}))
