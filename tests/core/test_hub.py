import socket

import pytest

from mtcpo.core.errors import UserError
from mtcpo.core.hub import hub_file, hub_folder, is_hub_name, is_hub_unreachable

COMMIT = "0" * 40


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """A cache of huggingface_hub with one model, someone/model, that has config.json and is known to lack a canary."""
    repository = tmp_path / "hub" / "models--someone--model"
    snapshot = repository / "snapshots" / COMMIT
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").write_text("{}", encoding="utf-8")
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(COMMIT, encoding="utf-8")
    (repository / ".no_exist" / COMMIT).mkdir(parents=True)
    (repository / ".no_exist" / COMMIT / "canary.json").touch()
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.chdir(tmp_path)
    return snapshot


@pytest.mark.parametrize("fetch", [True, False])
def test_a_file_comes_from_a_directory_or_from_the_cache(cache, tmp_path, fetch):
    (tmp_path / "local").mkdir()
    (tmp_path / "local" / "config.json").write_text("{}", encoding="utf-8")
    assert hub_file(str(tmp_path / "local"), "config.json", fetch) == tmp_path / "local" / "config.json"
    assert hub_file("someone/model", "config.json", fetch) == cache / "config.json"


@pytest.mark.parametrize("fetch", [True, False])
@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("local", "config.json"),
        ("someone/model", "canary.json"),  # known not to exist
        ("someone/model", "tokenizer.json"),  # not known
        ("someone/other", "config.json"),
        ("not a name", "config.json"),
        ("", "here.json"),
    ],
)
def test_a_file_that_cannot_be_fetched_is_none(cache, tmp_path, name, file, fetch):
    (tmp_path / "local").mkdir()
    (tmp_path / "here.json").write_text("{}", encoding="utf-8")
    assert hub_file(name, file, fetch) is None


def test_a_folder_comes_from_the_cache_if_it_is_complete(cache):
    assert hub_folder("someone/model", lambda folder: (folder / "config.json").is_file(), "give PATH") == cache


@pytest.mark.parametrize("name", ["someone/other", "not a name"])
def test_a_folder_that_cannot_be_fetched_is_explained_with_the_way_out(cache, name):
    with pytest.raises(
        UserError, match=rf"^{name}: neither a local directory .*cannot be downloaded \(.*\); give PATH$"
    ):
        hub_folder(name, lambda folder: True, "give PATH")


def test_names_of_repositories():
    assert is_hub_name("google/mt5-small")
    assert is_hub_name("gpt2")
    assert not is_hub_name("not a name")
    assert not is_hub_name("a/b/c")


def test_the_hub_is_unreachable_when_switched_off_or_unknown_to_the_name_service(monkeypatch):
    for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)

    def fail(host, port):
        raise socket.gaierror(-3, f"no {host}")

    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert is_hub_unreachable()
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("socket.getaddrinfo", fail)
    assert is_hub_unreachable()
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy:8080")
    assert not is_hub_unreachable()
    monkeypatch.delenv("HTTPS_PROXY")
    monkeypatch.setattr("socket.getaddrinfo", lambda host, port: [])
    assert not is_hub_unreachable()
