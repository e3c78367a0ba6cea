"""Recipes: found by name or path, checked where they are read, overridden, and written out so that they load again."""

import re
import tomllib
from pathlib import Path

import pytest
from support.console import call, mistake, run
from support.paths import ROOT

from mtcpo.core.config import to_toml
from mtcpo.core.errors import UserError
from mtcpo.core.resources import resource_tomls
from mtcpo.models.prompts import check_prompt
from mtcpo.pipeline.recipe import Recipe, find_recipe, load_recipe
from mtcpo.pipeline.recipe_stages import make_stages

MINIMAL = """
[model]
name = "google/mt5-small"
[data]
source = "texts/s.en"
references = ["texts/r.de"]
src_lang = "en"
tgt_lang = "de"
[translate]
num_candidates = 2
[prefs]
metrics = ["chrf"]
[train]
[evaluate]
suites = ["demo"]
"""


@pytest.fixture
def minimal(tmp_path, monkeypatch):
    """A recipe in a folder of its own; the working directory is another."""
    (tmp_path / "recipes/texts").mkdir(parents=True)
    (tmp_path / "recipes/texts/s.en").write_text("One.\n")
    (tmp_path / "recipes/minimal.toml").write_text(MINIMAL)
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    return tmp_path / "recipes/minimal.toml"


def test_a_recipe_is_found_by_path_and_by_name(minimal):
    assert find_recipe(str(minimal)) == minimal
    assert find_recipe("../recipes/minimal.toml").resolve() == minimal
    assert find_recipe("demo") == ROOT / "recipes/demo.toml"
    with pytest.raises(UserError, match=r"^dmo: neither a file nor a shipped recipe \(did you mean 'demo'\?\)"):
        find_recipe("dmo")


def test_paths_start_at_the_recipe_and_those_of_overrides_at_the_working_directory(minimal, tmp_path):
    (tmp_path / "work/mine.en").write_text("Two.\n")
    recipe = load_recipe(minimal)
    assert recipe.data.source == str(tmp_path / "recipes/texts/s.en")
    assert recipe.model.name == "google/mt5-small"  # no such folder: a name on the hub
    recipe = load_recipe(minimal, ["data.source=mine.en", "model.name=./mt5"])
    assert recipe.data.source == str(tmp_path / "work/mine.en")
    assert recipe.model.name == str(tmp_path / "work/mt5")


def test_overrides_reach_every_depth(minimal):
    overrides = [
        "train.beta=0.2", "train.args.optim=adafactor", 'prefs.metrics=["bleu", "ter"]',
        "evaluate.decoding.num_beams=8", "sft.data.source=x.en", "sft.args.seed=3",
    ]  # fmt: skip
    recipe = load_recipe(minimal, overrides)
    assert recipe.train.beta == 0.2
    assert recipe.train.args == {"optim": "adafactor"}
    assert recipe.prefs.metrics == ("bleu", "ter")
    assert recipe.evaluate.decoding.num_beams == 8
    assert recipe.sft.args == {"seed": 3}
    assert recipe.sft.loss == "sft"
    assert recipe.sft.dropout == "model"


WRONG = {
    "trian.beta=1": r"unknown key 'trian' \(did you mean 'train'\?\); its keys are control, data, evaluate, model",
    "train.bta=1": r"unknown key 'train.bta' \(did you mean 'beta'\?\)",
    "train.beta=-1": r"train.beta: Input should be greater than 0 \(got -1\)",
    "train.beta=much": r"train.beta: Input should be a valid number",
    "train=3": r"train: Input should be a valid dictionary",
    "train.loss=sft": r"\[train\] learns from pairs; put supervised training into \[sft\]",
    "train.loss=dpo": r"train.loss: choose from sft, sigmoid",
    "sft.loss=sigmoid": r"sft.loss: Input should be 'sft'",
    "model.create.vocab_size=99": r"model: give either model.name or \[model.create\]",
    "model.prompt=x": r"model.prompt: prompt 'x': the model would not see the source",
    "model.prompt='{src} {source}'": r"unknown field of a prompt 'src'",
    "model.dtype=half": r"model.dtype: Input should be 'float32', 'bfloat16'",
    "data.tgt_lang=xx": r"data.tgt_lang: unknown language 'xx'",
    'data.hypotheses={"a/b" = "x"}': r"system name 'a/b': write it without path separators",
    'prefs.metrics=["chrff"]': r"unknown metric 'chrff' \(did you mean 'chrf'\?\)",
    "prefs.metrics=[]": r"prefs.metrics: ",
    'evaluate.metrics=["bleuu"]': r"unknown metric 'bleuu' \(did you mean 'bleu'\?\)",
    "evaluate.baseline=start": r"unknown baseline 'start'; choose from base, tuned",
    "evaluate.baseline=control": r"unknown baseline 'control'; choose from base, tuned",
    "data.source.x=1": r"--set 'data.source.x=1': 'source' is a value, not a table",
    "beta": r"--set 'beta': write it as KEY=VALUE",
    "=3": r"--set '=3': write it as KEY=VALUE",
}


@pytest.mark.parametrize("override", WRONG)
def test_a_wrong_override_is_refused_with_its_key(minimal, override):
    with pytest.raises(UserError, match=WRONG[override]) as error:
        load_recipe(minimal, [override])
    assert "\n" not in str(error.value)
    if not override.startswith(("beta", "=", "data.source.x")):
        assert str(error.value).startswith(f"{minimal}: ")


@pytest.mark.parametrize("section", ["model", "data", "prefs", "train", "evaluate"])
def test_a_section_that_is_missing_is_named(minimal, section):
    # A table is a head and the lines up to the next one.
    minimal.write_text(re.sub(rf"\[{section}\]\n([^\[].*\n)*", "", MINIMAL))
    with pytest.raises(UserError, match=rf"minimal.toml: '{section}' is missing$"):
        load_recipe(minimal)


def test_a_recipe_needs_candidates_and_sft_for_a_new_model(minimal):
    text = MINIMAL.replace("[translate]\nnum_candidates = 2\n", "")
    minimal.write_text(text)
    with pytest.raises(UserError, match=r"no candidates: add a \[translate\] section, or hypotheses to \[data\]"):
        load_recipe(minimal)
    load_recipe(minimal, ['data.hypotheses={a="a.de"}'])
    load_recipe(minimal, ["data.source=candidates.jsonl", "data.references=[]"])
    minimal.write_text(MINIMAL.replace('name = "google/mt5-small"', "[model.create]"))
    with pytest.raises(UserError, match=r"a new model cannot translate: add an \[sft\] section"):
        load_recipe(minimal)


def test_scores_of_the_data_are_metrics_only_without_translate(minimal):
    with pytest.raises(UserError, match="unknown metric 'human'"):
        load_recipe(minimal, ['prefs.metrics=["human"]'])
    minimal.write_text(MINIMAL.replace("[translate]\nnum_candidates = 2\n", ""))
    recipe = load_recipe(minimal, ["data.source=c.jsonl", "data.references=[]", 'prefs.metrics=["human"]'])
    assert recipe.prefs.metrics == ("human",)


@pytest.mark.parametrize(
    ("text", "where"), [('[model]\nname = "x\n', "line 2"), ("[model\n", "line 1"), ("a = 1\na = 2\n", "line 2")]
)
def test_broken_toml_is_reported_with_its_line(minimal, text, where):
    minimal.write_text(text)
    with pytest.raises(UserError, match=rf"minimal.toml: .*{where}"):
        load_recipe(minimal)


def test_a_prompt_with_an_unknown_field_is_refused():
    assert check_prompt("{src_name} to {tgt_name}: {source}") == "{src_name} to {tgt_name}: {source}"
    assert check_prompt('as JSON {"text": "{source}"} {}') == 'as JSON {"text": "{source}"} {}'
    with pytest.raises(UserError, match=r"unknown field of a prompt 'target'.*choose from source, src_code"):
        check_prompt("{source} = {target}")
    with pytest.raises(UserError, match=r"prompt 'Translate:': the model would not see the source"):
        check_prompt("Translate:")


# --- the shipped ones -----------------------------------------------------------------------------------------------

SHIPPED = sorted(resource_tomls("recipes"))


def missing_shared(path):
    """The files of ../shared that a recipe names and that are not there."""
    data = tomllib.loads(path.read_text(encoding="utf-8"))

    def strings(value):
        if isinstance(value, str):
            yield value
        elif isinstance(value, (dict, list)):
            for item in value.values() if isinstance(value, dict) else value:
                yield from strings(item)

    named = [path.parent / text for text in strings(data) if text.startswith(("../", "./"))]
    return [file for file in named if "shared" in file.parts and not file.exists()]


@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_recipe_loads_and_shows_its_plan_without_network(name, tmp_path, monkeypatch, capsys):
    path = find_recipe(name)
    if missing := missing_shared(path):
        pytest.skip(f"{missing[0]} is not here")
    monkeypatch.chdir(tmp_path)
    outcome = run(capsys, "run", name, "--dry-run")
    assert (outcome.code, outcome.err) == (0, "")
    lines = outcome.out.splitlines()
    assert [line.split("]")[0] for line in lines] == [f"[{n}/{len(lines)}" for n in range(1, len(lines) + 1)]
    assert [line.split("] ")[1].split(":")[0] for line in lines][-2:] == ["evaluate", "report"]
    assert all(line.endswith(" - to do") for line in lines)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_recipe_begins_with_what_it_does_and_what_it_needs(name):
    head = []
    for line in find_recipe(name).read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            break
        head.append(line)
    assert len(head) >= 3
    assert "Hardware" in "\n".join(head)


@pytest.mark.parametrize("name", SHIPPED)
def test_a_resolved_recipe_is_the_same_recipe(name, tmp_path):
    path = find_recipe(name)
    recipe = load_recipe(path, ["train.beta=0.2"])
    resolved = tmp_path / "recipe.toml"
    resolved.write_text(to_toml(recipe), encoding="utf-8")
    again = load_recipe(resolved)
    assert again == recipe
    assert make_stages(again, tmp_path / "run") == make_stages(recipe, tmp_path / "run")


def test_a_selection_of_the_users_own_is_an_input_of_its_stage(minimal, tmp_path):
    # A name of its own: a module that another test imported would be found in its place.
    (tmp_path / "work/selection_of_a_recipe.py").write_text("def first(pool): return [(0, 1)]\n")
    override = ["prefs.select=python:selection_of_a_recipe:first"]
    with pytest.raises(UserError, match=r"prefs\.select: python:selection_of_a_recipe:first .*--allow-code"):
        load_recipe(minimal, override)
    recipe = load_recipe(minimal, override, allow_code=True)
    [stage] = [stage for stage in make_stages(recipe, tmp_path / "run") if stage.name == "prefs"]
    assert str(tmp_path / "work/selection_of_a_recipe.py") in stage.inputs


@pytest.mark.parametrize("name", SHIPPED)
def test_transformers_accepts_the_training_arguments_of_a_shipped_recipe(name, tmp_path):
    from mtcpo.training.arguments import training_setup

    recipe = load_recipe(find_recipe(name))
    for config in (recipe.sft, recipe.train):
        if config is None:
            continue
        cpu = {key: value for key, value in config.args.items() if key not in ("bf16", "tf32")}
        args = training_setup(config.model_copy(update={"args": cpu}), tmp_path).args
        assert args.learning_rate == config.args["learning_rate"]


def test_every_section_of_a_recipe_has_a_docstring():
    for name, field in Recipe.model_fields.items():
        annotation = [field.annotation, *getattr(field.annotation, "__args__", ())]
        section = next(item for item in annotation if isinstance(item, type) and item.__module__.startswith("mtcpo"))
        assert section.__doc__, name


def test_python_m_mtcpo_runs_a_recipe(tmp_path):
    outcome = call("run", "demo", "--dry-run", "--output-dir", "elsewhere", cwd=tmp_path)  # python -m mtcpo
    assert (outcome.code, outcome.err) == (0, "")
    assert outcome.out.startswith("[1/")
    assert not list(Path(tmp_path).iterdir())


def test_mistakes_in_the_run_command_are_one_line(minimal, capsys):
    assert mistake(capsys, "run", minimal, "--set", "trian.beta=1").startswith(f"{minimal}: unknown key 'trian'")
    assert mistake(capsys, "run", minimal, "--dry-run", "--set", "train.beta=x").startswith(f"{minimal}: train.beta: ")
    line = mistake(capsys, "run", minimal, "--dry-run", "--set", 'evaluate.suites=["dem"]')
    assert line.startswith("unknown suite 'dem' (did you mean 'demo'?)")
