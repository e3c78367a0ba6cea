from pathlib import PurePosixPath, PureWindowsPath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mtcpo.core.errors import UserError
from mtcpo.data.config import CorpusConfig
from mtcpo.data.corpora import parse_named_files
from mtcpo.data.names import check_name
from mtcpo.evaluation.evaluate import evaluate_outputs
from mtcpo.evaluation.testsets.testset import TestSet
from mtcpo.metrics.registry import load_metric

BAD = ["", " ", ".", "..", "../x", "a/b", "a\\b", "/etc", ".hidden", "a\nb", "a\x00", "x" * 201, "a:b", 'a"b', "\udcff"]


@pytest.mark.parametrize("name", BAD)
def test_names_that_would_be_dangerous_paths_are_refused(name):
    with pytest.raises(UserError, match=r"^system name .*(is blank|: write it without path separators)"):
        check_name("system", name)


@pytest.mark.parametrize("name", ["Online-A", "M2M100_1.2B-B4", "機械", "a b", "chrf++", "nllb (beam 4)"])
def test_names_that_systems_have_are_accepted(name):
    assert check_name("system", name) == name


@given(st.text(max_size=300))
def test_an_accepted_name_stays_in_its_folder(name):
    try:
        check_name("system", name)
    except UserError:
        return
    assert PurePosixPath(f"folder/{name}.txt").parent == PurePosixPath("folder")
    assert PureWindowsPath(f"folder/{name}.txt").name == f"{name}.txt"


@pytest.mark.parametrize("name", [name for name in BAD if name.strip() and "=" not in name])
def test_every_way_to_name_a_system_has_the_same_rule(name):
    submitted = TestSet("test", "de", "en", (), "here", submitted={name: []})
    with pytest.raises(UserError, match="system name"):
        parse_named_files([f"{name}=out.txt"])
    with pytest.raises(UserError, match="system name"):
        evaluate_outputs(submitted, {}, [load_metric("chrf", "en")])
    with pytest.raises(ValueError, match="system name"):
        CorpusConfig(source="x", hypotheses={name: "out.txt"})
