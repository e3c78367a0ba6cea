"""Python code in a model's directory runs only where the user allows it, whichever command or function loads it."""

import json
import shutil

import pytest
from support.commands import COMMANDS, SEGMENTS, TRIPLETS, write_inputs
from support.console import mistake, run, words

import mtcpo
from mtcpo.core.errors import UserError
from mtcpo.models.config import ModelOptions
from mtcpo.models.families import Family
from mtcpo.models.loading import load_model, save_model
from mtcpo.preferences.filters import FilterConfig, Filters

GENERATE = """
def generate(model, *args, **options):
    return type(model).generate(model, *args, **options)
"""

MODEL = """
from transformers import LlamaConfig, LlamaForCausalLM

class OwnConfig(LlamaConfig):
    model_type = "own"

class OwnModel(LlamaForCausalLM):
    config_class = OwnConfig
"""

TOKENIZER = """
from transformers import PreTrainedTokenizerFast

class Own(PreTrainedTokenizerFast):
    pass
"""


def plant(folder, code, file):
    """Write `code` into the model's directory so that it leaves a mark when it is imported; return the mark."""
    mark = folder.parent / "mark"
    path = folder / file
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"import pathlib\npathlib.Path({str(mark)!r}).touch()\n{code}", encoding="utf-8")
    return mark


def edit_json(path, **values):
    settings = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    path.write_text(json.dumps(settings | values), encoding="utf-8")


@pytest.fixture
def copy(model_folder, tmp_path):
    """A function from a kind of tiny model to a copy of its directory, the working directory's `model`."""

    def copied(kind):
        return shutil.copytree(model_folder(kind), tmp_path / "model")

    return copied


# --- every way to load a model --------------------------------------------------------------------------------------


@pytest.fixture
def here(copy, tmp_path, monkeypatch):
    """A working directory with texts, triplets, a recipe, and a model that brings its own `generate`."""
    monkeypatch.chdir(tmp_path)
    write_inputs(tmp_path)
    plant(copy("mt5"), GENERATE, "custom_generate/generate.py")
    return tmp_path


@pytest.mark.parametrize("command", COMMANDS.values(), ids=COMMANDS)
def test_commands_refuse_code_in_a_model_directory(here, capsys, command):
    line = mistake(capsys, *words(command))
    assert "model: custom_generate/generate.py is Python code" in line
    assert "--allow-code" in line
    assert not (here / "mark").exists()


@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS.values(), ids=COMMANDS)
def test_commands_load_a_model_with_code_when_it_is_allowed(here, capsys, command):
    outcome = run(capsys, *words(command), "--allow-code")
    assert outcome.code == 0, outcome.err


def test_python_functions_refuse_code_in_a_model_directory(here):
    with pytest.raises(UserError, match=r"generate\.py is Python code"):
        mtcpo.PreferenceTrainer("model", TRIPLETS, output_dir="out")
    with pytest.raises(UserError, match=r"generate\.py is Python code"):
        mtcpo.evaluate("model", SEGMENTS, ["chrf"])
    assert not (here / "mark").exists()
    short = {"decoding": {"max_new_tokens": 3}, "resamples": 10}
    assert mtcpo.evaluate("model", SEGMENTS, ["chrf"], allow_code=True, **short)
    trainer = mtcpo.PreferenceTrainer("model", TRIPLETS, output_dir="out", allow_code=True)
    trainer.save_model("saved")  # which loads what was saved, to write its canary
    assert load_model("saved", "float32", device="cpu").name == "saved"


def test_code_of_the_base_of_adapters_is_refused(here):
    (here / "adapters").mkdir()
    settings = {"base_model_name_or_path": str(here / "model"), "peft_type": "LORA"}
    edit_json(here / "adapters/adapter_config.json", **settings)
    with pytest.raises(UserError, match=r"adapters of .*/model: .*generate\.py is Python code"):
        load_model("adapters")
    assert not (here / "mark").exists()


# --- every way in which a directory brings code ---------------------------------------------------------------------


def name_a_config_class(folder):
    edit_json(folder / "config.json", auto_map={"AutoConfig": "planted.OwnConfig"}, model_type="own")


def name_a_model_class(folder):
    edit_json(folder / "config.json", auto_map={"AutoModelForCausalLM": "planted.OwnModel"})


def name_a_tokenizer_class(folder):
    edit_json(folder / "tokenizer_config.json", auto_map={"AutoTokenizer": ["planted.Tokenizer", None]})


def name_a_tokenizer_class_as_old_files_do(folder):
    edit_json(folder / "tokenizer_config.json", auto_map=["planted.Tokenizer", None])


def name_a_class_for_generation(folder):
    edit_json(folder / "generation_config.json", auto_map={"AutoConfig": "planted.OwnConfig"})


def name_a_kernel(folder):
    edit_json(folder / "config.json", _attn_implementation="somebody/kernel")


def name_a_kernel_for_a_part(folder):
    edit_json(folder / "config.json", text_config={"attn_implementation": "somebody/kernel@v1:attention"})


def name_a_module_of_megatron(folder):
    (folder / "config.json").unlink()
    settings = {"base_model_name_or_path": "base", "megatron_config": {"x": 1}, "megatron_core": "planted"}
    edit_json(folder / "adapter_config.json", **settings)


def name_a_tokenizer_with_code(folder):
    (folder / "config.json").unlink()
    settings = {"base_model_name_or_path": "base", "tokenizer_kwargs": {"trust_remote_code": True}}
    edit_json(folder / "adapter_config.json", **settings)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (name_a_config_class, r"config\.json names Python code \(auto_map\)"),
        (name_a_model_class, r"config\.json names Python code \(auto_map\)"),
        (name_a_tokenizer_class, r"tokenizer_config\.json names Python code \(auto_map\)"),
        (name_a_tokenizer_class_as_old_files_do, r"tokenizer_config\.json names Python code \(auto_map\)"),
        (name_a_class_for_generation, r"generation_config\.json names Python code \(auto_map\)"),
        (name_a_kernel, r"config\.json names Python code \(_attn_implementation\)"),
        (name_a_kernel_for_a_part, r"config\.json names Python code \(attn_implementation\)"),
        (name_a_module_of_megatron, r"adapter_config\.json names Python code \(megatron_config\)"),
        (name_a_tokenizer_with_code, r"adapter_config\.json names Python code \(trust_remote_code\)"),
    ],
)
def test_settings_that_name_code_are_refused_before_loading(copy, change, message):
    folder = copy("llama")
    mark = plant(folder, MODEL, "planted.py")
    change(folder)
    with pytest.raises(UserError, match=message):
        load_model(str(folder))
    assert not mark.exists()


def test_a_model_of_its_own_class_loads_and_is_saved_if_code_is_allowed(copy, tmp_path):
    folder = copy("llama")
    mark = plant(folder, MODEL, "planted.py")
    classes = {"AutoConfig": "planted.OwnConfig", "AutoModelForCausalLM": "planted.OwnModel"}
    edit_json(folder / "config.json", auto_map=classes, model_type="own")
    options = ModelOptions(family=Family("own", ("own",), "decoder-only", prompt=None), allow_code=True)
    loaded = load_model(str(folder), "float32", options, "cpu")
    assert mark.exists()
    assert type(loaded.model).__name__ == "OwnModel"
    (tmp_path / "saved").mkdir()
    save_model(loaded, tmp_path / "saved", ("en", "de"))
    with pytest.raises(UserError, match=r"names Python code \(auto_map\)"):
        load_model(str(tmp_path / "saved"))
    assert load_model(str(tmp_path / "saved"), "float32", options, "cpu").head.logits_mode == "none"


def test_settings_that_name_no_code_are_not_refused(copy):
    folder = copy("llama")
    mark = plant(folder, MODEL, "planted.py")  # a file that nothing names
    edit_json(folder / "config.json", auto_map={}, _attn_implementation="sdpa")
    assert load_model(str(folder), "float32", device="cpu").family.name == "llama"
    assert not mark.exists()


def test_a_tokenizer_that_only_counts_tokens_runs_no_code_and_asks_nothing(copy, monkeypatch):
    """transformers would ask on the terminal whether it may, and wait for the answer."""
    questions = []
    monkeypatch.setattr("builtins.input", lambda question="": questions.append(question) or "y")
    folder = copy("llama")
    mark = plant(folder, TOKENIZER, "planted.py")
    edit_json(
        folder / "tokenizer_config.json", tokenizer_class="Own", auto_map={"AutoTokenizer": [None, "planted.Own"]}
    )
    with pytest.raises(UserError, match=r"tokenizer .* cannot be loaded"):
        Filters(FilterConfig(max_tokens=9, tokenizer=str(folder)))
    assert not questions
    assert not mark.exists()
