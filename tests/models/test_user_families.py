"""A family of the user's, for a model type that mtcpo does not know: in Python and by every command."""

import shutil
import sys

import pytest
import torch
from support.commands import COMMANDS, SEGMENTS, TRIPLETS, write_inputs
from support.console import mistake, run, words
from support.models import preference_texts, save_random_model

import mtcpo
from mtcpo.core.errors import UserError
from mtcpo.models.canary import head_and_model_logps
from mtcpo.models.config import ModelOptions
from mtcpo.models.families import Family, family_of, load_family
from mtcpo.models.loading import load_model
from mtcpo.models.tokenizers import save_tokenizer

OWN = """
from mtcpo.models.families import Family

def language_tokens(tag):
    return (f"[{tag}]",)

FAMILY = Family(
    "bart", ("bart",), "encoder-decoder", prompt="{tgt_code} {source}", language_code=language_tokens,
    buffers=("final_logits_bias",),
)
NUMBER = 3
"""
FAMILY = Family("bart", ("bart",), "encoder-decoder", buffers=("final_logits_bias",))


@pytest.fixture(scope="module")
def bart(tmp_path_factory, model_folder):
    """A tiny BART, a type without a declared family; its tokenizer is the tiny mT5's with two language tokens."""
    from transformers import AutoTokenizer, BartConfig, BartForConditionalGeneration

    folder = tmp_path_factory.mktemp("bart")
    tokenizer = AutoTokenizer.from_pretrained(model_folder("mt5"))
    tokenizer.add_tokens(["[en]", "[de]"], special_tokens=True)
    save_tokenizer(tokenizer, folder)
    config = BartConfig(
        vocab_size=len(tokenizer), d_model=32, encoder_layers=1, decoder_layers=1,
        encoder_attention_heads=2, decoder_attention_heads=2, encoder_ffn_dim=48, decoder_ffn_dim=48,
        max_position_embeddings=64, pad_token_id=0, bos_token_id=1, eos_token_id=1, decoder_start_token_id=1,
        forced_eos_token_id=None,
    )  # fmt: skip
    save_random_model(BartForConditionalGeneration, config, folder)
    return folder


@pytest.fixture
def here(bart, tmp_path, monkeypatch):
    """A working directory with texts, a recipe, the tiny BART as `model`, and own.py."""
    monkeypatch.chdir(tmp_path)
    write_inputs(tmp_path)
    shutil.copytree(bart, tmp_path / "model")
    (tmp_path / "own.py").write_text(OWN, encoding="utf-8")
    for name in ("own", "other"):  # of an earlier test
        monkeypatch.delitem(sys.modules, name, raising=False)
    return tmp_path


def with_family(command, name="python:own:FAMILY"):
    option = ["--set", f"model.family={name}"] if command.startswith("run") else ["--family", name]
    return [*words(command), *option]


@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS.values(), ids=COMMANDS)
def test_commands_take_a_family_of_the_users(here, capsys, command):
    outcome = run(capsys, *with_family(command), "--allow-code")
    assert outcome.code == 0, outcome.err


@pytest.mark.parametrize("command", COMMANDS.values(), ids=COMMANDS)
def test_a_family_of_the_users_needs_permission(here, capsys, command):
    (here / "own.py").write_text("raise SystemExit('imported')", encoding="utf-8")
    line = mistake(capsys, *with_family(command))
    assert "python:own:FAMILY is custom Python code; pass --allow-code to run it" in line


@pytest.mark.parametrize("command", [COMMANDS["translate"], COMMANDS["run"]], ids=["translate", "run"])
def test_an_object_that_is_not_a_family_is_refused_by_its_type(here, capsys, command):
    line = mistake(capsys, *with_family(command, "python:own:NUMBER"), "--allow-code")
    assert line.endswith("family: python:own:NUMBER: it is a int, not a Family")


def test_an_undeclared_type_names_the_option(here, capsys):
    line = mistake(capsys, *words(COMMANDS["translate"]))
    assert "no family is declared for model type 'bart'" in line
    assert line.endswith("pass --family python:own:FAMILY --allow-code")


def test_the_stages_of_a_run_depend_on_the_file_of_the_family(here, capsys):
    command = [*with_family(COMMANDS["run"]), "--allow-code"]
    assert run(capsys, *command).code == 0
    assert train_is_done(run(capsys, *command, "--dry-run").out)
    (here / "own.py").write_text(OWN + "\n# changed\n", encoding="utf-8")
    assert not train_is_done(run(capsys, *command, "--dry-run").out)


def train_is_done(plan):
    (line,) = [line for line in plan.splitlines() if "] train:" in line]
    return line.endswith("done")


def test_python_functions_take_a_family(here):
    trainer = mtcpo.PreferenceTrainer("model", TRIPLETS, family=FAMILY, output_dir="out", args={"max_steps": 1})
    trainer.train()
    trainer.save_model("saved")
    again = load_model("saved", "float32", ModelOptions(family=FAMILY), "cpu")
    assert again.head.logits_mode == "none"
    short = {"decoding": {"max_new_tokens": 3}, "resamples": 10}
    assert mtcpo.evaluate("saved", SEGMENTS, ["chrf"], family="python:own:FAMILY", **short)
    with pytest.raises(UserError, match="no family is declared for model type 'bart'"):
        mtcpo.PreferenceTrainer("saved", TRIPLETS, output_dir="out2")


def test_log_probabilities_of_a_user_family_are_the_models_own(bart):
    loaded = load_model(str(bart), "float32", ModelOptions(family=FAMILY), "cpu")
    batch = loaded.layout.collate(loaded.layout.encode(preference_texts(6)))
    ours, models_own = head_and_model_logps(loaded.model, loaded.layout, loaded.head, batch)
    torch.testing.assert_close(ours, models_own, atol=1e-4, rtol=1e-4)
    assert loaded.head.logits_mode == "none"


def test_the_language_tokens_of_a_user_family_are_used(here):
    with_tokens = load_model("model", "float32", ModelOptions(family=load_family("python:own:FAMILY")), "cpu")
    text = preference_texts(1)[0]
    (example,) = with_tokens.layout.encode([text])
    assert with_tokens.tokenizer.convert_ids_to_tokens(example.source[0]) == "[de]"
    without_tokens = load_model("model", "float32", ModelOptions(family=FAMILY), "cpu")
    (plain,) = without_tokens.layout.encode([text])
    assert example.source[-len(plain.source) + 1 :] == plain.source[1:]


def test_tokenized_data_are_kept_for_one_text_of_the_language_code(here):
    key = load_model("model", "float32", ModelOptions(family=load_family("python:own:FAMILY")), "cpu").layout
    assert key.tokenization_key() == key.tokenization_key()
    (here / "other.py").write_text(OWN.replace('f"[{tag}]"', 'f"[{tag[:2]}]"'), encoding="utf-8")
    other = load_model("model", "float32", ModelOptions(family=load_family("python:other:FAMILY")), "cpu").layout
    assert key.tokenization_key() != other.tokenization_key()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"model_types": "bart"}, "model_types must be a tuple"),
        ({"model_types": ()}, "model_types must be a tuple"),
        ({"layout": "seq2seq"}, "layout must be one of encoder-decoder, decoder-only, not 'seq2seq'"),
        ({"target_code": "bos"}, "target_code must be"),
        ({"target_code": "forced_bos"}, "target_code needs language_code"),
        ({"prompt": "translate"}, "the model would not see the source"),
    ],
)
def test_a_family_is_checked_when_it_is_made(values, message):
    fields = {"name": "own", "model_types": ("bart",), "layout": "encoder-decoder"} | values
    with pytest.raises(UserError, match=message):
        Family(**fields)


def test_a_family_for_other_models_is_refused():
    with pytest.raises(UserError, match=r"family 'bart' is for model type bart, and this model's is 'opt'"):
        family_of("opt", [], "decoder-only", FAMILY)
    with pytest.raises(UserError, match=r"family 'bart': its layout is 'encoder-decoder', but this model is decoder"):
        family_of("bart", [], "decoder-only", FAMILY)
    # A declared type may have another family too: other language codes, another prompt.
    own = Family("own", ("mt5",), "encoder-decoder", prompt="{tgt_name}: {source}")
    assert family_of("mt5", [], "encoder-decoder", own) is own
