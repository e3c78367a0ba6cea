"""What would stop a later stage shows before the first one."""

import sys

import pytest
from support.comet import make_comet, make_encoder
from support.pipelines import write_recipe

from mtcpo.core.errors import UserError
from mtcpo.pipeline.preflight import check_before_run
from mtcpo.pipeline.recipe import load_recipe
from mtcpo.pipeline.run_directory import RunDirectory


@pytest.fixture
def check(tmp_path):
    """A function that checks, before all its stages, a run of the tiny recipe with some settings changed."""

    def check_with(*overrides):
        recipe = load_recipe(write_recipe(tmp_path), overrides)
        check_before_run(RunDirectory(recipe, tmp_path / "out"), ["sft", "translate", "prefs", "train", "evaluate"])

    return check_with


@pytest.fixture
def comet(tmp_path):
    """The spec of a tiny COMET model."""
    return f"comet:{make_comet(tmp_path / 'comet', 'regression', make_encoder(tmp_path / 'encoder'))}"


@pytest.fixture
def python(tmp_path):
    """An interpreter that leaves the file `asked` beside itself when it is started."""
    path = tmp_path / "python"
    path.write_text(f'#!/bin/sh\n: > {tmp_path}/asked\nexec {sys.executable} "$@"\n', encoding="utf-8")
    path.chmod(0o755)
    return path


def test_a_recipe_without_mistakes_passes(check):
    assert check() is None


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ["model.engine=vllm"],
            r"engine vllm needs vllm: pip install 'mtcpo\[vllm\]', or choose the engine transformers",
        ),
        (
            ["model.engine=ctranslate2", "translate.sampling=diverse"],
            "CTranslate2 has no diverse beam search; choose another engine",
        ),
        (
            ["model.engine=transformers", "model.dtype=int8"],
            "dtype int8 needs the engine ctranslate2, not transformers",
        ),
    ],
)
def test_an_engine_that_cannot_translate_is_refused_before_training(check, overrides, message):
    with pytest.raises(UserError, match=message):
        check(*overrides)


@pytest.mark.processes
@pytest.mark.comet
@pytest.mark.parametrize("section", ["prefs", "evaluate"])
def test_comet_is_looked_for_in_the_interpreter_that_the_recipe_names(check, comet, python, section):
    check(f"{section}.metrics=['{comet}']", f"{section}.comet.python={python}")
    assert (python.parent / "asked").exists()


@pytest.mark.comet
@pytest.mark.parametrize("section", ["prefs", "evaluate"])
def test_an_interpreter_that_cannot_score_is_refused(check, comet, section):
    with pytest.raises(UserError, match=r"no-such-python"):
        check(f"{section}.metrics=['{comet}']", f"{section}.comet.python=/no-such-python")


def test_a_source_without_a_reference_that_a_later_stage_needs_is_named(check, tmp_path):
    write_recipe(tmp_path)
    with pytest.raises(UserError, match=r"segment prefs.en:1 of .*: no reference, and chrf needs one"):
        check("data.references=[]")


def test_a_test_set_without_the_reference_that_its_metric_needs_is_named(check, tmp_path):
    write_recipe(tmp_path)
    source = f'name="t",source="{tmp_path}/test.en",src_lang="en",tgt_lang="de"'
    with pytest.raises(UserError, match=r"no reference for segment .*, and chrf needs one"):
        check(f"evaluate.sets=[{{{source}}}]", "evaluate.metrics=['chrf']")


def test_a_file_of_a_dev_set_that_is_missing_is_named(check):
    with pytest.raises(UserError, match="no-such-file"):
        check('train.dev={source="no-such-file.en",references=["x.de"],src_lang="en",tgt_lang="de"}')
