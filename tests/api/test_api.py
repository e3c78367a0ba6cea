"""The Python API: the program of docs/api.md runs, and each function does what its command does."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from datasets import Dataset, DatasetDict
from safetensors.torch import load_file
from support.models import PAIRS, preference_texts
from support.paths import ROOT
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM, AutoTokenizer, Seq2SeqTrainer

import mtcpo
from mtcpo import PreferenceTrainer, build_preferences, evaluate
from mtcpo.cli.commands import mtcpo as command
from mtcpo.core.errors import UserError
from mtcpo.data.file_formats.registry import read_row_file, write_row_file
from mtcpo.data.records import Candidate, Segment, segment_to_json
from mtcpo.models.loading import load_model
from mtcpo.models.prompts import TextExample
from mtcpo.training.config import TrainConfig
from mtcpo.training.train import train

ARGS = {
    "use_cpu": True,
    "learning_rate": 1e-3,
    "per_device_train_batch_size": 4,
    "logging_steps": 1,
    "disable_tqdm": True,
}
LANGUAGES = {"src_lang": "en", "tgt_lang": "de"}
TRIPLETS = [
    {"id": str(n), "source": en, "chosen": de, "rejected": PAIRS[n + 40][1], **LANGUAGES}
    for n, (en, de) in enumerate(PAIRS[:12])
]
SEGMENTS = [
    Segment(str(n), "en", "de", en, (de,), candidates=(Candidate("a", de), Candidate("b", de.rpartition(" ")[0])))
    for n, (en, de) in enumerate(PAIRS[:8])
]


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def weights(folder):
    return load_file(Path(folder) / "model.safetensors")


def assert_same_weights(one, other):
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.slow
def test_the_program_of_the_documentation_runs(folder, capsys):
    text = (ROOT / "docs/api.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    assert len(blocks) == 6
    scope = {}
    for number, block in enumerate(blocks, start=1):
        exec(compile(block, f"docs/api.md, block {number}", "exec"), scope)
    printed = capsys.readouterr().out
    assert scope["triplets"][0]["chosen"] == "Es regnet."
    assert "265 of 300 kept; dropped: {'small_margin': 35}" in printed
    assert "test en-de: 40 segments" in printed
    assert "baseline" in printed
    rows = scope["scores"]["pairs"]["en-de"]["systems"]
    assert list(rows) == ["sft", "tuned", "copy"]
    assert rows["copy"]["copied"] == 40
    assert {"model.safetensors", "tokenizer.json", "canary.json"} <= {
        path.name for path in (folder / "tuned").iterdir()
    }
    [accuracy] = [row["eval_rewards/accuracies"] for row in scope["tuned"].state.log_history if "eval_loss" in row][:1]
    assert 0 < accuracy <= 1


def test_the_documentation_names_everything_public():
    text = (ROOT / "docs/api.md").read_text(encoding="utf-8")
    public = set(mtcpo.__all__) - {"__version__"}
    assert public == {
        "PreferenceTrainer", "build_preferences", "evaluate", "Segment", "Candidate", "Triplet", "UserError",
    }  # fmt: skip
    assert all(f"`{name}`" in text for name in public)


def test_import_is_light_and_names_are_loaded_on_access():
    code = (
        "import sys, mtcpo\n"
        "heavy = {'torch', 'transformers', 'datasets', 'pydantic'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
        "assert set(mtcpo.__all__) <= set(dir(mtcpo))\n"
        "mtcpo.Segment, mtcpo.Candidate, mtcpo.Triplet, mtcpo.UserError\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
        "mtcpo.build_preferences, mtcpo.evaluate\n"
        "assert 'torch' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
    with pytest.raises(AttributeError, match="module 'mtcpo' has no attribute 'evaluat'"):
        _ = mtcpo.evaluat


# --- build_preferences ----------------------------------------------------------------------------------------------


def test_preferences_are_those_of_the_command(folder):
    write_row_file(folder / "c.jsonl", map(segment_to_json, SEGMENTS))
    arguments = ["build-prefs", "c.jsonl", "--metric", "chrf", "--min-margin", "20", "--output", "p.jsonl"]
    assert CliRunner().invoke(command, arguments, catch_exceptions=False).exit_code == 0
    rows = [row for _, row in read_row_file(folder / "p.jsonl")]
    report = json.loads((folder / "p-report.json").read_text(encoding="utf-8"))
    assert 0 < len(rows) < len(SEGMENTS)
    records = [segment_to_json(segment) for segment in SEGMENTS]
    for data in (SEGMENTS, records, Dataset.from_list(records), "c.jsonl", folder / "c.jsonl", iter(SEGMENTS)):
        found = build_preferences(data, ["chrf"], min_margin=20)
        assert isinstance(found.triplets, Dataset)
        assert found.triplets.to_list() == rows
        assert found.report == report


def test_data_names_the_columns_of_a_data_set():
    rows = Dataset.from_list(
        [{"title": "One", "text": "two", "de": "Eins. Zwei", "x": "Eins. Zwei", "y": "Ein"}, None][:1]
    )
    data = LANGUAGES | {
        "source_template": "{title}. {text}", "reference_columns": ["de"], "hypothesis_columns": {"x": "x", "y": "y"},
    }  # fmt: skip
    triplets, report = build_preferences(rows, ["chrf"], data=data)
    assert (triplets[0]["source"], triplets[0]["chosen_system"], report["kept"]) == ("One. two", "x", 1)


@pytest.mark.parametrize(
    ("data", "settings", "message"),
    [
        (SEGMENTS, {"min_margn": 1}, r"build_preferences: unknown key 'min_margn' \(did you mean 'min_margin'\?\)"),
        (SEGMENTS, {"data": {"tgt": "de"}}, r"build_preferences: data: unknown key 'tgt'"),
        (SEGMENTS, {"min_margin": 101}, r"no preference pair is left \(small_margin: 8\)"),
        ([{"source": "a"}], {}, r"row:1: the row does not name its languages"),
        ([3], {}, r"row:1: a row is a mapping, a Segment or a Triplet, not int"),
        (
            DatasetDict({"train": Dataset.from_list([{"a": 1}])}),
            {},
            r"row: a dictionary of splits \(train\); give one of them",
        ),
        ("python:os:listdir", {}, r"is custom Python code; pass --allow-code to run it"),
    ],
)
def test_mistakes_in_build_preferences_are_one_line(data, settings, message):
    with pytest.raises(UserError, match=message):
        build_preferences(data, ["chrf"], **settings)


# --- PreferenceTrainer ----------------------------------------------------------------------------------------------


def test_the_trainer_and_the_command_make_the_same_model(model_folder, folder):
    config = TrainConfig(loss="simpo", beta=2.0, args=ARGS)
    texts = [TextExample(t["source"], "en", "de", (t["chosen"], t["rejected"])) for t in TRIPLETS]
    train(str(model_folder("mt5")), texts, config, folder / "by-command", eval_texts=texts[:4])
    trainer = PreferenceTrainer(
        str(model_folder("mt5")), Dataset.from_list(TRIPLETS), TRIPLETS[:4], loss="simpo", beta=2.0, args=ARGS
    )
    assert isinstance(trainer, Seq2SeqTrainer)
    trainer.train()
    trainer.save_model("by-api")
    assert_same_weights(weights("by-api"), weights("by-command"))
    names = lambda path: {file.name for file in Path(path).iterdir()}  # noqa: E731
    assert names("by-command") - names("by-api") == {"metrics.jsonl", "training.json"}
    assert "cpo" in Path("by-api/README.md").read_text(encoding="utf-8")
    canaries = [json.loads(Path(f"{path}/canary.json").read_text()) for path in ("by-api", "by-command")]
    assert canaries[0] == canaries[1]
    assert (canaries[0]["src_lang"], canaries[0]["tgt_lang"]) == ("en", "de")
    logged = [json.loads(line) for line in Path("by-command/metrics.jsonl").read_text().splitlines()]
    assert [row["rewards/margins"] for row in logged if "rewards/margins" in row] == [
        row["rewards/margins"] for row in trainer.state.log_history if "rewards/margins" in row
    ]


@pytest.mark.parametrize(("kind", "cls"), [("marian", AutoModelForSeq2SeqLM), ("llama", AutoModelForCausalLM)])
def test_a_model_in_memory_is_trained_in_place(model_folder, kind, cls):
    source = model_folder(kind)
    model, tokenizer = cls.from_pretrained(source, dtype=torch.float32), AutoTokenizer.from_pretrained(source)
    named = PreferenceTrainer(str(source), TRIPLETS, args=ARGS, output_dir="named")
    given = PreferenceTrainer(model, TRIPLETS, tokenizer=tokenizer, args=ARGS, output_dir="given")
    for trainer in (named, given):
        trainer.train()
    assert given.model is model
    assert_same_weights(dict(named.model.state_dict()), dict(model.state_dict()))
    given.save_model("saved")
    load_model("saved", "float32", device="cpu")


def test_preferences_with_prompts_need_no_languages(model_folder):
    say = lambda role, text: [{"role": role, "content": text}]  # noqa: E731
    rows = [
        {"prompt": say("user", t["source"])} | {key: say("assistant", t[key]) for key in ("chosen", "rejected")}
        for t in TRIPLETS
    ]
    trainer = PreferenceTrainer(str(model_folder("gpt2")), Dataset.from_list(rows), args=ARGS | {"max_steps": 1})
    trainer.train()
    whole = trainer.evaluate(rows[:5])
    assert whole["eval_rewards/accuracies"] in (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
    assert trainer.languages == ("und", "und")


def test_drops_are_counted_and_logged(model_folder, caplog):
    same, empty = TRIPLETS[0] | {"rejected": TRIPLETS[0]["chosen"]}, TRIPLETS[1] | {"chosen": " "}
    rows = [*TRIPLETS, same, empty, empty]
    trainer = PreferenceTrainer(str(model_folder("mt5")), rows, rows[-3:] + rows[:1], max_target_tokens=30, args=ARGS)
    assert trainer.dropped["identical"] == 1
    assert trainer.dropped["empty_text"] == 2
    assert trainer.dropped["target_too_long"] + len(trainer.train_dataset) == len(TRIPLETS)
    assert trainer.eval_dropped["empty_text"] == 2
    assert "training data: 1 dropped: identical" in caplog.messages
    assert "evaluation data: 2 dropped: empty_text" in caplog.messages


@pytest.mark.parametrize("merge", [False, True])
def test_adapters_are_saved_as_by_the_command_and_stay_in_the_trainer(model_folder, merge):
    lora = {"r": 2, "merge": merge}
    trainer = PreferenceTrainer(str(model_folder("mt5")), TRIPLETS, lora=lora, args=ARGS | {"max_steps": 2})
    trainer.train()
    before = trainer.evaluate(TRIPLETS)
    trainer.save_model("once")
    assert Path("once/model.safetensors").exists() == merge
    assert Path("once/adapter" if merge else "once", "adapter_model.safetensors").exists()
    assert trainer.evaluate(TRIPLETS)["eval_loss"] == before["eval_loss"]
    assert any("lora" in name for name, _ in trainer.model.named_parameters())
    again = PreferenceTrainer("once", TRIPLETS, args=ARGS, output_dir="again").evaluate(TRIPLETS)
    assert again["eval_loss"] == pytest.approx(before["eval_loss"], abs=1e-5)
    trainer.save_model("once")  # a model of ours may be replaced


def test_adapters_of_a_model_in_memory_are_merged(model_folder):
    source = model_folder("mt5")
    model, tokenizer = AutoModelForSeq2SeqLM.from_pretrained(source), AutoTokenizer.from_pretrained(source)
    trainer = PreferenceTrainer(model, TRIPLETS, tokenizer=tokenizer, lora={"r": 2}, args=ARGS | {"max_steps": 1})
    trainer.train()
    trainer.save_model("saved")
    assert Path("saved/model.safetensors").exists()


@pytest.mark.parametrize("lora", [None, {"r": 2}])
@pytest.mark.parametrize("kind", ["umt5", "madlad", "t5"])
def test_tied_and_untied_embeddings_of_a_model_in_memory_are_saved_as_they_are(model_folder, kind, lora):
    """transformers 5 calls every T5 "tied"; the model is saved as it is in memory, and loads again."""
    from mtcpo.models.canary import head_and_model_logps

    def logps_of(loaded):
        batch = loaded.layout.collate(loaded.layout.encode(preference_texts(4)))
        return head_and_model_logps(loaded.model, loaded.layout, loaded.head, batch)[0]

    source = model_folder(kind)
    model, tokenizer = AutoModelForSeq2SeqLM.from_pretrained(source), AutoTokenizer.from_pretrained(source)
    settings = {"args": ARGS | {"max_steps": 1, "learning_rate": 1e-3}} | ({"lora": lora} if lora else {})
    trainer = PreferenceTrainer(model, TRIPLETS, tokenizer=tokenizer, **settings)
    torch.testing.assert_close(logps_of(trainer.loaded), logps_of(load_model(str(source), "float32", device="cpu")))
    trainer.train()
    trainer.save_model("saved")
    written = json.loads(Path("saved/config.json").read_text())
    assert written.get("tie_word_embeddings", True) == (kind == "t5")  # 4.57 leaves the default out
    found = logps_of(load_model("saved", "float32", device="cpu"))
    torch.testing.assert_close(found, logps_of(trainer.loaded), atol=1e-4, rtol=1e-4)


def test_dev_set_held_out_pairs_and_early_stopping_work_as_in_the_command(model_folder, folder):
    """A dev set, held-out pairs, early stopping, the best checkpoint, and the card that reports them."""
    write_row_file(folder / "held-out.jsonl", TRIPLETS[:3])
    write_row_file(folder / "dev.jsonl", (segment_to_json(segment) for segment in SEGMENTS[:2]))
    dev = {"source": "dev.jsonl", "metrics": ["chrf"], "decoding": {"max_new_tokens": 4}} | LANGUAGES
    args = ARGS | {"learning_rate": 0.0, "num_train_epochs": 6}
    trainer = PreferenceTrainer(
        str(model_folder("mt5")), TRIPLETS, dev=dev, eval={"prefs": "held-out.jsonl"}, early_stopping_patience=1,
        args=args,
    )  # fmt: skip
    trainer.train()
    figures = [row for row in trainer.state.log_history if "eval_chrf" in row]
    assert [row["epoch"] for row in figures] == [1, 2]  # nothing is learnt, so it stops
    assert all("eval_rewards/margins" in row for row in figures)
    assert trainer.args.metric_for_best_model == "chrf"
    trainer.save_model("saved")
    card = Path("saved/README.md").read_text(encoding="utf-8")
    assert "On 2 segments of the dev set. On 3 pairs that training did not see. The checkpoint of step 3" in card


@pytest.mark.slow
def test_each_trial_of_a_search_loads_the_model_again(model_folder):
    optuna = pytest.importorskip("optuna")
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    args = ARGS | {"max_steps": 3, "save_strategy": "no"}
    trainer = PreferenceTrainer(str(model_folder("mt5")), TRIPLETS, TRIPLETS[:4], lora={"r": 2}, args=args)
    before, seen = trainer.evaluate()["eval_loss"], []

    def worth(figures):
        seen.append(figures["eval_loss"])
        return seen[-1]

    space = lambda trial: {"beta": trial.suggest_categorical("beta", [0.1])}  # noqa: E731
    trainer.hyperparameter_search(space, compute_objective=worth, n_trials=2, backend="optuna")
    assert len(seen) == 2
    assert seen[0] == seen[1] != before


def test_a_folder_without_a_model_is_not_replaced(model_folder, folder):
    trainer = PreferenceTrainer(str(model_folder("mt5")), TRIPLETS, args=ARGS)
    (folder / "thesis").mkdir()
    (folder / "thesis/chapter.txt").write_text("important")
    with pytest.raises(UserError, match="thesis exists and is not a model that mtcpo saved"):
        trainer.save_model("thesis")
    assert (folder / "thesis/chapter.txt").read_text() == "important"


@pytest.mark.parametrize(
    ("model", "settings", "message"),
    [
        ("mt5", {"los": "simpo"}, r"PreferenceTrainer: unknown key 'los' \(did you mean 'loss'\?\)"),
        ("mt5", {"args": {"learning_rat": 1}}, r"no such training argument \(did you mean 'learning_rate'\?\)"),
        ("mt5", {"tokenizer": object()}, "a model given by name has its own tokenizer"),
        ("mt5", {"train_dataset": []}, "at least one triplet is needed"),
        ("mt5", {"loss": "sft"}, "segment 0: no reference, and supervised training needs one"),
        (torch.nn.Linear(1, 1), {}, "a model in memory needs its tokenizer"),
        (
            torch.nn.Linear(1, 1),
            {"tokenizer": object(), "lora": {"quantization": "4bit"}},
            r"lora\.quantization needs a model given by name",
        ),
    ],
)
def test_mistakes_in_training_are_one_line(model_folder, model, settings, message):
    model = str(model_folder(model)) if isinstance(model, str) else model
    with pytest.raises(UserError, match=message):
        PreferenceTrainer(model, **{"train_dataset": TRIPLETS, "args": ARGS} | settings)


def test_a_tokenizer_of_another_model_is_refused(model_folder):
    model = AutoModelForSeq2SeqLM.from_pretrained(model_folder("mt5"))
    tokenizer = AutoTokenizer.from_pretrained(model_folder("gpt2"))
    with pytest.raises(UserError, match="this tokenizer belongs to another model"):
        PreferenceTrainer(model, TRIPLETS, tokenizer=tokenizer, args=ARGS)


# --- a user's own loss, metric and selection --------------------------------------------------------------------------


def length_metric(sources, hypotheses, references):
    return [float(len(text)) for text in hypotheses]


def first_against_second(pool):
    return [(0, 1)]


class Logistic:
    """A loss with a state, which no `python:module:name` could name."""

    def __init__(self, scale):
        self.scale = scale

    def __call__(self, logps, config):
        return -torch.nn.functional.logsigmoid(self.scale * (logps.chosen - logps.rejected))


def test_a_loss_may_be_an_object_in_python(model_folder):
    mine, built_in = (
        PreferenceTrainer(str(model_folder("mt5")), TRIPLETS, loss=loss, beta=beta, args=ARGS | {"max_steps": 2})
        for loss, beta in ((Logistic(0.3), 0.1), ("sigmoid", 0.3))
    )
    for trainer in (mine, built_in):
        trainer.train()
    assert_same_weights(dict(mine.model.state_dict()), dict(built_in.model.state_dict()))
    assert mine.config.loss == f"python:{__name__}:Logistic"
    mine.save_model("saved")
    assert f"with loss `python:{__name__}:Logistic`" in Path("saved/README.md").read_text(encoding="utf-8")


def test_metric_and_selection_may_be_functions_in_python():
    triplets, report = build_preferences(SEGMENTS, [length_metric], select=first_against_second)
    assert {row["chosen_system"] for row in triplets} == {"a"}
    assert all(row["chosen_scores"] == {"length_metric": len(row["chosen"])} for row in triplets)
    assert report["select"] == f"python:{__name__}:first_against_second"
    outputs = {"long": [segment.references[0] for segment in SEGMENTS], "short": ["a"] * 8}
    systems = evaluate(outputs, SEGMENTS, [length_metric, "chrf"], resamples=20)["pairs"]["en-de"]["systems"]
    assert systems["short"]["metrics"]["length_metric"]["score"] == 1


# --- evaluate -------------------------------------------------------------------------------------------------------


def test_evaluate_and_the_command_give_the_same_scores(model_folder, folder):
    english, german = zip(*PAIRS[:12], strict=True)
    for name, lines in (("s.en", english), ("r.de", german)):
        (folder / name).write_text("".join(line + "\n" for line in lines), encoding="utf-8")
    arguments = [
        "evaluate", "--source", "s.en", "--reference", "r.de", "--src-lang", "en", "--tgt-lang", "de", "--model",
        str(model_folder("mt5")), "--metric", "chrf", "--metric", "ter", "--set", "decoding.max_new_tokens=8",
        "--set", "resamples=50", "--output-dir", "by-command",
    ]  # fmt: skip
    assert CliRunner().invoke(command, arguments, catch_exceptions=False).exit_code == 0
    rows = Dataset.from_dict({"source": english, "reference": german})
    settings = {"data": LANGUAGES, "decoding": {"max_new_tokens": 8}, "resamples": 50}
    scores = evaluate(model_folder("mt5"), rows, ["chrf", "ter"], output_dir="by-api", **settings)
    expected = json.loads((folder / "by-command/evaluation.json").read_text(encoding="utf-8"))["pairs"]["en-de"]
    named = {"suite": "test", "origin": "row", "reference_names": []}
    assert scores["pairs"]["en-de"] == expected | named
    assert json.loads((folder / "by-api/evaluation.json").read_text(encoding="utf-8")) == scores
    name = model_folder("mt5").name
    written = [(folder / f"{by}/translations/{suite}/en-de/{name}.txt").read_text(encoding="utf-8")
               for by, suite in (("by-command", "s"), ("by-api", "test"))]  # fmt: skip
    assert written[0] == written[1]
    assert name in str(scores)
    assert "<pre>" in scores._repr_html_()


def test_evaluate_takes_an_engine_and_says_which_translated(model_folder):
    rows = Dataset.from_dict({"source": [en for en, _ in PAIRS[:12]], "reference": [de for _, de in PAIRS[:12]]})
    settings = {"data": LANGUAGES, "decoding": {"max_new_tokens": 8, "num_beams": 1}, "resamples": 50}
    name = model_folder("mt5").name
    found = {}
    for engine in ("transformers", "ctranslate2"):
        found[engine] = evaluate(model_folder("mt5"), rows, ["chrf"], engine=engine, dtype="float32", **settings)
        assert re.fullmatch(rf"{engine} [\d.]+ \(float32\)", found[engine]["made"]["engines"][name])
    assert found["ctranslate2"]["pairs"] == found["transformers"]["pairs"]
    with pytest.raises(UserError, match=r"unknown engine 'ctranslate'.*did you mean 'ctranslate2'"):
        evaluate(model_folder("mt5"), rows, ["chrf"], engine="ctranslate", **settings)


def test_systems_may_be_models_in_any_form_or_texts(model_folder):
    source = model_folder("mt5")
    model, tokenizer = AutoModelForSeq2SeqLM.from_pretrained(source), AutoTokenizer.from_pretrained(source)
    trainer = PreferenceTrainer(str(source), TRIPLETS, args=ARGS)
    rows = Dataset.from_dict({"en": [en for en, _ in PAIRS[:4]], "de": [de for _, de in PAIRS[:4]]})
    data = LANGUAGES | {"source_column": "en", "reference_columns": ["de"]}
    systems = {"name": str(source), "pair": (model, tokenizer), "trainer": trainer, "loaded": load_model(str(source)),
               "right": rows["de"]}  # fmt: skip
    scores = evaluate(systems, rows, ["chrf"], "right", data=data, decoding={"max_new_tokens": 4})
    systems = scores["pairs"]["en-de"]["systems"]
    found = [systems[name]["metrics"]["chrf"]["score"] for name in ("name", "pair", "trainer", "loaded")]
    assert len(set(found)) == 1
    assert systems["right"]["metrics"]["chrf"]["score"] == 100
    assert list(systems["name"]["versus"]) == ["right"]


def test_a_test_set_is_a_file_or_a_suite_by_name(folder, monkeypatch):
    write_row_file(folder / "set.jsonl", map(segment_to_json, SEGMENTS))
    outputs = [segment.references[0] for segment in SEGMENTS]
    by_path, by_text = (evaluate(outputs, name, ["chrf"]) for name in (folder / "set.jsonl", "set.jsonl"))
    assert by_path["pairs"]["en-de"]["systems"] == by_text["pairs"]["en-de"]["systems"]
    test_set = 'name = "mine"\nsrc_lang = "en"\ntgt_lang = "de"\nsource = "s.en"\nreferences = ["r.de"]\n'
    (folder / "suite.toml").write_text(f'metrics = ["chrf"]\n[[sets]]\n{test_set}')
    for name, lines in (("s.en", [s.source for s in SEGMENTS]), ("r.de", outputs)):
        (folder / name).write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    named = [evaluate(outputs, "suite.toml", ["chrf"]), evaluate(outputs, suites="suite.toml", metrics=["chrf"])]
    assert named[0]["pairs"] == named[1]["pairs"]
    assert named[0]["pairs"]["en-de"]["suite"] == "mine"
    for arguments in ({}, {"dataset": SEGMENTS, "suites": ["suite.toml"]}):
        with pytest.raises(UserError, match=r"evaluate: give either a data set or suites=\.\.\."):
            evaluate(outputs, **arguments)


@pytest.mark.parametrize(
    ("systems", "data", "settings", "message"),
    [
        (["Ja."], SEGMENTS, {}, r"system 'system': 1 translation, but test en-de \(row\) has 8"),
        ({"a": 3}, SEGMENTS, {}, r"system 'a' is int; give texts, the name of a model, a trainer, or \(model, tok"),
        (
            ["Ja.", "No."],
            [SEGMENTS[0], Segment("x", "de", "en", "Ja.", ("Yes.",))],
            {},
            r"has several language pairs \(de-en, en-de\); evaluate one",
        ),
        ({"a": ["x"] * 8}, SEGMENTS, {"baseline": "b"}, "unknown baseline 'b'"),
        ({"a": ["x"] * 8}, SEGMENTS, {"metrics": ["blue"]}, r"unknown metric 'blue' \(did you mean 'bleu'\?\)"),
        ({"a": ["x"] * 8}, "wmt99:en-de", {}, "unknown test set 'wmt99'"),
    ],
)
def test_mistakes_in_an_evaluation_are_one_line(systems, data, settings, message):
    with pytest.raises(UserError, match=message):
        evaluate(systems, data, **{"metrics": ["chrf"]} | settings)
