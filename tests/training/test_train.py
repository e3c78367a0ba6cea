import dataclasses
import gc
import json
import os
import re
import shutil
import signal
import weakref

import pytest
import torch
from support.models import PAIRS, preference_texts
from support.training import assert_same_weights, interrupt_at, model_weights, train_config
from transformers import Seq2SeqTrainingArguments, TrainerCallback, TrainerState

from mtcpo.core.errors import UserError, standing_of
from mtcpo.data.records import Segment, Triplet
from mtcpo.models.config import LoraConfig
from mtcpo.models.head.targets import IGNORE
from mtcpo.models.loading import load_model
from mtcpo.models.prompts import TextExample
from mtcpo.training.arguments import DEFAULT_ARGS, RESERVED_ARGS, check_precision, dtype_of, training_setup
from mtcpo.training.callbacks import LogFile, TrainingProgress
from mtcpo.training.config import TrainConfig
from mtcpo.training.examples import encode_within_limits, pair_texts, reference_texts
from mtcpo.training.losses import pair_logps
from mtcpo.training.prepare import saved_at
from mtcpo.training.train import train
from mtcpo.training.trainer import ExampleTrainer

# --- a whole run ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "learning_rate"), [("mt5", 5e-3), ("llama", 1e-2)])
def test_training_moves_chosen_above_rejected(model_folder, kind, learning_rate, tmp_path):
    texts = preference_texts(16)
    settings = train_config(beta=0.5, args={"num_train_epochs": 12, "learning_rate": learning_rate})
    report = train(str(model_folder(kind)), texts, settings, tmp_path / "out", eval_texts=preference_texts(8, start=60))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out"]
    assert report == json.loads((tmp_path / "out" / "training.json").read_text(encoding="utf-8"))
    assert (report["examples"], report["steps"], report["dropped"]) == (16, 48, {})
    assert (report["eval_examples"], report["eval_dropped"]) == (8, {})
    assert report["settings"]["beta"] == 0.5

    def share(folder):
        loaded = load_model(str(folder), "float32", device="cpu")
        batch = loaded.layout.collate(loaded.layout.encode(texts))
        with torch.no_grad():
            logps = pair_logps(loaded.layout.score(loaded.model, loaded.head, batch))
        return float((logps.chosen > logps.rejected).float().mean()), float((logps.chosen - logps.rejected).mean())

    before, after = share(model_folder(kind)), share(tmp_path / "out")
    assert after[0] == 1.0 > before[0]
    assert after[1] > before[1] + 5

    logs = [json.loads(line) for line in (tmp_path / "out" / "metrics.jsonl").read_text().splitlines()]
    steps = [row for row in logs if "loss" in row]
    assert [row["step"] for row in steps] == list(range(2, 49, 2))
    assert steps[-1]["rewards/accuracies"] == 1.0
    assert steps[-1]["rewards/margins"] > steps[0]["rewards/margins"]
    assert all(row["tokens_per_second"] > 0 and 0 <= row["padding_share"] < 0.5 for row in steps)
    evaluations = [row for row in logs if "eval_loss" in row]
    assert [row["epoch"] for row in evaluations] == list(range(1, 13))
    assert "eval_rewards/margins" in evaluations[0]
    # The model carries its canary, the tokenizer, and nothing of the work.
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert {"canary.json", "tokenizer.json", "config.json", "model.safetensors"} <= names
    assert not names & {"checkpoints", "run.json", "model"}


def test_supervised_training_learns(model_folder, tmp_path):
    texts = [TextExample(en, "en", "de", (de,)) for en, de in PAIRS[:24]]
    report = train(
        str(model_folder("mt5")), texts, train_config(loss="sft", args={"num_train_epochs": 5, "learning_rate": 5e-3}),
        tmp_path / "out",
    )  # fmt: skip
    logs = [json.loads(line) for line in (tmp_path / "out" / "metrics.jsonl").read_text().splitlines()]
    losses = [row["nll_loss"] for row in logs if "nll_loss" in row]
    assert losses[-1] < losses[0] - 1
    assert not [key for row in logs for key in row if "rewards" in key]
    assert report["steps"] == 30


def test_training_frees_the_model(model_folder, tmp_path, monkeypatch):
    """A reference cycle would keep the model in the memory of the GPU, beside the next one."""
    seen = []
    start = ExampleTrainer.__init__

    def init(trainer, *args, **kwargs):
        start(trainer, *args, **kwargs)
        seen.append(weakref.ref(trainer.model))

    monkeypatch.setattr(ExampleTrainer, "__init__", init)
    gc.collect()
    gc.disable()
    try:
        train(str(model_folder("mt5")), preference_texts(4), train_config(), tmp_path / "out")
        gone = seen[0]() is None
    finally:
        gc.enable()
    assert gone


def test_the_same_seed_trains_the_same_model(model_folder, tmp_path):
    settings = train_config(dropout=0.1, args={"seed": 5})
    for name in ("a", "b"):
        train(str(model_folder("mt5")), preference_texts(8), settings, tmp_path / name)
    assert_same_weights(tmp_path / "a", tmp_path / "b")


def test_dropout_is_off_by_default(model_folder, tmp_path):
    frozen = {"learning_rate": 0.0, "logging_steps": 1, "num_train_epochs": 2, "per_device_train_batch_size": 8}
    seen = {}
    for dropout in (0.0, "model", 0.5):
        out = tmp_path / str(dropout)
        train(str(model_folder("mt5")), preference_texts(8), train_config(dropout=dropout, args=frozen), out)
        rows = map(json.loads, (out / "metrics.jsonl").read_text().splitlines())
        seen[dropout] = [row["logps/chosen"] for row in rows if "loss" in row]
        assert json.loads((out / "config.json").read_text())["dropout_rate"] == 0.1
    assert seen[0.0][0] == pytest.approx(seen[0.0][1], rel=1e-6)
    assert seen["model"][0] != pytest.approx(seen["model"][1], rel=1e-6)
    assert abs(seen[0.5][0] - seen[0.0][0]) > abs(seen["model"][0] - seen[0.0][0])


# --- interrupts -----------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["mt5", "llama"])
def test_interrupted_training_resumes_to_the_same_weights(model_folder, kind, tmp_path, monkeypatch):
    """Three epochs of four steps of two batches, stopped in the middle of the first and of the second epoch."""
    settings = train_config(
        dropout="model", loss="simpo",
        args={"num_train_epochs": 3, "gradient_accumulation_steps": 2, "per_device_train_batch_size": 2},
    )  # fmt: skip
    arguments = (str(model_folder(kind)), preference_texts(16), settings)
    whole = train(*arguments, tmp_path / "whole")
    for step, number in ((3, signal.SIGINT), (6, signal.SIGTERM)):
        with monkeypatch.context() as patch:
            interrupt_at(patch, step, number)
            with pytest.raises(KeyboardInterrupt) as stopped:
                train(*arguments, tmp_path / "parts")
        assert standing_of(stopped.value) == f"saved at step {step} of 12"
        assert not (tmp_path / "parts").exists()
        checkpoints = tmp_path / ".parts.partial" / "checkpoints"
        assert [path.name for path in checkpoints.iterdir()] == [f"checkpoint-{step}"]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    parts = train(*arguments, tmp_path / "parts")
    assert parts["steps"] == whole["steps"] == 12
    assert not (tmp_path / ".parts.partial").exists()
    assert_same_weights(tmp_path / "whole", tmp_path / "parts")
    rows = [
        [json.loads(line) for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()]
        for name in ("whole", "parts")
    ]
    # The same rows: those of steps that were done again are there once.
    assert [(row["step"], row.keys()) for row in rows[0]] == [(row["step"], row.keys()) for row in rows[1]]
    losses = [[row["loss"] for row in log if "loss" in row] for log in rows]
    assert len(losses[0]) == len(losses[1]) == 6


def test_progress_of_a_resumed_training_estimates_by_the_steps_done_now():
    state = TrainerState(is_world_process_zero=True, max_steps=700, global_step=600)
    progress = TrainingProgress("training (sigmoid)")
    progress.on_train_begin(None, state, None)
    for _ in range(20):
        progress.on_step_end(None, state, None)
    progress.on_log(None, state, None, logs={"loss": 0.52341, "rewards/accuracies": 0.75, "epoch": 1.0})
    assert progress.training.line(60) == (
        "training (sigmoid): 620 of 700 steps, 0.333 steps/s, 4 min left, loss 0.523, accuracy 0.75"
    )
    progress.on_train_end(None, state, None)


class Reader(TrainerCallback):
    """Reads the log while training runs, as `tail -f` does; at the end, what the trainer has logged."""

    def __init__(self, path):
        self.path, self.seen, self.history = path, [], []

    def on_step_begin(self, args, state, control, **kwargs):
        text = self.path.read_text(encoding="utf-8")
        assert text == "" or text.endswith("\n")
        self.seen.append([json.loads(line)["step"] for line in text.splitlines()])
        self.history = state.log_history


def test_the_log_grows_while_training_runs(model_folder, tmp_path, monkeypatch):
    """Rows every two of six steps; the evaluations at the end of each epoch of two steps."""
    reader = Reader(tmp_path / ".out.partial/metrics.jsonl")
    monkeypatch.setattr("mtcpo.training.train.early_stopping", lambda config: [reader])
    settings = train_config(args={"num_train_epochs": 3})
    train(str(model_folder("mt5")), preference_texts(8), settings, tmp_path / "out", eval_texts=preference_texts(4, 40))
    assert reader.seen == [[], [], [2, 2], [2, 2], [2, 2, 4, 4], [2, 2, 4, 4]]
    rows = map(json.loads, (tmp_path / "out/metrics.jsonl").read_text(encoding="utf-8").splitlines())
    assert list(rows) == reader.history


def test_a_resumed_run_replaces_half_a_line_and_what_its_checkpoint_does_not_know(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 2}\n{"step": 4}\n{"st', encoding="utf-8")
    state = TrainerState(is_world_process_zero=True, log_history=[{"step": 2, "loss": 1.5}])
    log = LogFile(path)
    log.on_train_begin(None, state, None)
    assert path.read_text(encoding="utf-8") == '{"step": 2, "loss": 1.5}\n'
    state.log_history.append({"step": 4, "grad_norm": float("inf")})
    log.on_log(None, state, None)
    log.on_log(None, state, None)
    assert path.read_text(encoding="utf-8") == '{"step": 2, "loss": 1.5}\n{"step": 4, "grad_norm": null}\n'


def test_a_run_stopped_before_its_first_checkpoint_has_saved_no_step(tmp_path):
    assert saved_at(tmp_path, 1668) == "none of 1,668 steps saved yet"
    (tmp_path / "checkpoints/checkpoint-679").mkdir(parents=True)
    (tmp_path / "checkpoints/checkpoint-679/trainer_state.json").touch()
    assert saved_at(tmp_path, 1668) == "saved at step 679 of 1,668"


@pytest.mark.slow
@pytest.mark.parametrize("limit", [{}, {"max_steps": 3}, {"num_train_epochs": 1.5}], ids=str)
def test_killed_after_the_last_checkpoint_trains_no_further_step(model_folder, limit, tmp_path, monkeypatch):
    """The same call finds the last checkpoint, inside an epoch of two steps or not, and only writes the model."""
    arguments = (str(model_folder("mt5")), preference_texts(8), train_config(args=limit), tmp_path / "out")
    with monkeypatch.context() as patch:
        patch.setattr(
            "mtcpo.training.train.save_trained", lambda *args: (_ for _ in ()).throw(OSError(28, "disk full"))
        )
        with pytest.raises(OSError, match="disk"):
            train(*arguments)
    assert not (tmp_path / "out").exists()
    interrupt_at(monkeypatch, 1)  # a first step would be taken only by a run that starts from scratch
    resumed = train(*arguments)
    assert (tmp_path / "out" / "canary.json").exists()
    monkeypatch.undo()
    whole = train(*arguments[:3], tmp_path / "other")
    assert resumed["steps"] == whole["steps"]
    assert_same_weights(tmp_path / "out", tmp_path / "other")


@pytest.mark.slow
def test_killed_after_the_last_checkpoint_evaluates_no_second_time(model_folder, tmp_path, monkeypatch):
    settings = train_config(args={"max_steps": 3, "save_strategy": "epoch", "eval_strategy": "epoch"})
    arguments = (str(model_folder("mt5")), preference_texts(8), settings, tmp_path / "out")
    with monkeypatch.context() as patch:
        patch.setattr(
            "mtcpo.training.train.training_report", lambda *args: (_ for _ in ()).throw(OSError(28, "disk full"))
        )
        with pytest.raises(OSError, match="disk"):
            train(*arguments, eval_texts=preference_texts(4, start=40))
    train(*arguments, eval_texts=preference_texts(4, start=40))
    rows = map(json.loads, (tmp_path / "out" / "metrics.jsonl").read_text().splitlines())
    assert [row["step"] for row in rows if "eval_loss" in row] == [2, 3]


def test_killed_between_the_last_checkpoint_and_its_evaluation_evaluates(model_folder, tmp_path, monkeypatch):
    """Saved by steps, evaluated at the end of epochs: the last checkpoint comes before the last evaluation."""
    settings = train_config(args={"max_steps": -1, "save_strategy": "steps", "save_steps": 1, "eval_strategy": "epoch"})
    arguments = (str(model_folder("mt5")), preference_texts(8), settings, tmp_path / "out")
    with monkeypatch.context() as patch:
        patch.setattr(ExampleTrainer, "evaluation_loop", lambda *args, **kw: (_ for _ in ()).throw(OSError(28, "full")))
        with pytest.raises(OSError, match="full"):
            train(*arguments, eval_texts=preference_texts(4, start=40))
    report = train(*arguments, eval_texts=preference_texts(4, start=40))
    rows = map(json.loads, (tmp_path / "out" / "metrics.jsonl").read_text().splitlines())
    assert [row["step"] for row in rows if "eval_loss" in row] == [2]
    assert report["scores"]["eval_loss"] > 0


def test_an_unfinished_run_with_other_settings_is_not_resumed(model_folder, tmp_path, monkeypatch):
    model, texts = str(model_folder("mt5")), preference_texts(8)
    with monkeypatch.context() as patch:
        interrupt_at(patch, 1)
        with pytest.raises(KeyboardInterrupt):
            train(model, texts, train_config(), tmp_path / "out")
    other_model = shutil.copytree(model, tmp_path / "other")
    for changed in (
        (model, texts, train_config(beta=0.7)),
        (model, texts[:7], train_config()),
        (str(other_model), texts, train_config()),
    ):
        with pytest.raises(
            UserError, match=r"an unfinished run with a different model, data or settings; .* --overwrite"
        ):
            train(*changed, tmp_path / "out")
    report = train(model, texts, train_config(beta=0.7), tmp_path / "out", overwrite=True)
    assert report["settings"]["beta"] == 0.7
    assert report["steps"] == 2


def test_existing_output_is_kept_without_overwrite(model_folder, tmp_path):
    model, out = str(model_folder("mt5")), tmp_path / "out"
    out.mkdir()
    (out / "precious").write_text("x")
    with pytest.raises(UserError, match="exists; pass --overwrite"):
        train(model, preference_texts(4), train_config(), out)
    assert [path.name for path in out.iterdir()] == ["precious"]
    train(model, preference_texts(4), train_config(), out, overwrite=True)
    assert not (out / "precious").exists()
    assert (out / "model.safetensors").exists()


def test_checkpoints_are_kept_if_a_save_argument_is_set(model_folder, tmp_path):
    settings = train_config(args={"save_steps": 1, "save_total_limit": 2})
    train(str(model_folder("mt5")), preference_texts(12), settings, tmp_path / "out")
    kept = sorted(path.name for path in (tmp_path / "out" / "checkpoints").iterdir())
    assert kept == ["checkpoint-2", "checkpoint-3"]


# --- what is dropped ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["mt5", "llama"])
def test_every_drop_is_counted_and_nothing_is_truncated(load, kind):
    layout = load(kind).layout
    source, good, bad = PAIRS[0][0], PAIRS[0][1], PAIRS[1][1]
    messages = ({"role": "user", "content": "x"},) if kind == "mt5" else ()
    texts = [
        TextExample(source, "en", "de", (good, bad)),
        TextExample("  ", "en", "de", (good, bad)),
        TextExample("", "en", "de", (good, bad), prompt=""),
        TextExample("", "und", "und", (good, bad), prompt="The old mill "),
        TextExample(source, "en", "de", (good, " \n")),
        TextExample(source, "en", "de", ("", bad)),
        TextExample(source, "en", "de", (good, good)),
        TextExample(source, "en", "de", (good, good + " ")),
        TextExample(" ".join([source] * 9), "en", "de", (good, bad)),
        TextExample(source, "en", "de", (good, " ".join([bad] * 9))),
        *([TextExample("", "und", "und", (good, bad), prompt=messages)] if messages else []),
    ]
    settings = TrainConfig(max_source_tokens=100, max_target_tokens=60)
    found = encode_within_limits(layout, texts, settings)
    assert dict(found.dropped) == {
        "empty_source": 2, "empty_target": 2, "chosen_equals_rejected": 2, "source_too_long": 1, "target_too_long": 1,
    }  # fmt: skip
    assert len(found.examples) == len(texts) - 8
    assert found.examples[0] == layout.encode(texts[:1])[0]
    everything = encode_within_limits(layout, texts, TrainConfig())
    assert len(everything.examples) == len(texts) - 6
    end = layout.tokenizer.eos_token_id
    assert all(target[-1] == end for example in everything.examples for target in example.targets)


def test_the_positions_of_the_model_limit_examples(load):
    source, good = PAIRS[4]
    loaded = load("marian")  # 64 positions
    texts = [TextExample(" ".join([source] * n), "en", "de", (good, "Das")) for n in (1, 2, 3, 4)]
    lengths = [len(example.source) for example in loaded.layout.encode(texts)]
    assert lengths[1] < 64 < lengths[2]
    found = encode_within_limits(loaded.layout, texts, TrainConfig())
    assert (len(found.examples), dict(found.dropped)) == (2, {"too_long_for_model": 2})
    # A prompt and its target share the positions of a decoder-only model.
    loaded = load("gpt2")
    prompt = "The bear " * 12
    fits = TextExample("", "en", "de", ("Das", "Die"), prompt=prompt)
    too_long = dataclasses.replace(fits, targets=("Das", " ".join(["Das"] * 60)))
    found = encode_within_limits(loaded.layout, [fits, too_long], TrainConfig())
    assert (len(found.examples), dict(found.dropped)) == (1, {"too_long_for_model": 1})


def test_sft_takes_the_first_target_and_needs_no_contrast(load):
    texts = [
        TextExample("The mill", "en", "de", ("Mühle", "Mühle")),
        TextExample("The mill", "en", "de", ("Mühle", "")),
    ]
    found = encode_within_limits(load("mt5").layout, texts, TrainConfig(loss="sft"))
    assert [len(example.targets) for example in found.examples] == [1, 1]
    assert not found.dropped


def test_drops_are_reported_and_no_example_left_is_an_error(model_folder, tmp_path):
    model = str(model_folder("mt5"))
    bad = [TextExample("x", "en", "de", ("y", "y")), TextExample("", "en", "de", ("y", "z"))]
    report = train(
        model, [*preference_texts(4), *bad], train_config(), tmp_path / "out", eval_texts=preference_texts(2) + bad
    )
    assert (report["examples"], report["dropped"]) == (4, {"chosen_equals_rejected": 1, "empty_source": 1})
    assert (report["eval_examples"], report["eval_dropped"]) == (2, {"chosen_equals_rejected": 1, "empty_source": 1})
    with pytest.raises(UserError, match="no training example is left: 1 chosen_equals_rejected, 1 empty_source"):
        train(model, bad, train_config(), tmp_path / "none")
    with pytest.raises(UserError, match="no training example is left: there was none"):
        train(model, [], train_config(), tmp_path / "none")
    with pytest.raises(UserError, match="no evaluation example is left"):
        train(model, preference_texts(4), train_config(), tmp_path / "none", eval_texts=bad)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out"]


def test_dropped_examples_are_named_by_their_ids(load, model_folder, tmp_path):
    """Reports name the first ids for each reason; a language that the tokenizer lacks stops the run."""
    source, chosen, rejected = PAIRS[0][0], PAIRS[0][1], PAIRS[1][1]
    long = " ".join([rejected] * 9)
    bad = {
        "chosen_equals_rejected": (chosen, chosen), "empty_target": (chosen, " "), "too_long_for_model": (chosen, long),
    }  # fmt: skip
    triplets = [
        Triplet(f"{reason}-{n}", "en", "de", source, *targets) for reason, targets in bad.items() for n in range(7)
    ]
    good = Triplet("good", "en", "de", source, chosen, rejected)
    found = encode_within_limits(load("marian").layout, pair_texts([*triplets, good]), TrainConfig())
    assert found.dropped == dict.fromkeys(bad, 7)
    assert found.dropped_ids == {reason: [f"{reason}-{n}" for n in range(5)] for reason in bad}
    report = train(str(model_folder("marian")), pair_texts([*triplets, good]), train_config(), tmp_path / "out")
    assert report["dropped_ids"] == found.dropped_ids
    with pytest.raises(UserError, match=r"7 empty_target \(empty_target-0, empty_target-1, .*-4\), 7 too_long_for"):
        train(str(model_folder("marian")), pair_texts(triplets), train_config(), tmp_path / "none")
    klingon = dataclasses.replace(good, id="set:17", tgt_lang="tlh")
    with pytest.raises(UserError, match=r"^set:17: the tokenizer has no token for language 'tlh'"):
        encode_within_limits(load("nllb").layout, pair_texts([good, klingon]), TrainConfig())


def test_texts_of_triplets_and_segments():
    triplet = Triplet("1", "en", "de", "a", "b", "c")
    prompted = dataclasses.replace(triplet, prompt="p")
    assert list(pair_texts([triplet, prompted])) == [
        TextExample("a", "en", "de", ("b", "c"), id="1"), TextExample("a", "en", "de", ("b", "c"), "p", "1"),
    ]  # fmt: skip
    segment = Segment("1", "en", "de", "a", references=("b", "c"))
    assert list(reference_texts([segment])) == [TextExample("a", "en", "de", (word,), id="1") for word in "bc"]
    with pytest.raises(UserError, match="segment 2: no reference"):
        list(reference_texts([dataclasses.replace(segment, id="2", references=())]))


# --- training arguments ---------------------------------------------------------------------------------------------


def test_every_training_argument_can_be_set(tmp_path):
    defaults = Seq2SeqTrainingArguments(output_dir=str(tmp_path), report_to="none")
    # transformers refuses or changes these without the hardware or package that they need.
    elsewhere = {"fp16_opt_level", "half_precision_backend", "fp16_backend", "deepspeed", "local_rank", "mp_parameters"}
    for field in dataclasses.fields(Seq2SeqTrainingArguments):
        if not field.init or field.name in RESERVED_ARGS:
            continue
        value = field.default if field.default is not dataclasses.MISSING else getattr(defaults, field.name)
        if field.name in elsewhere or value is None or field.name in ("no_cuda", "use_mps_device"):
            continue
        found = training_setup(TrainConfig(args={field.name: value}), tmp_path).args
        assert str(getattr(found, field.name)) == str(getattr(defaults, field.name)), field.name


def test_arguments_of_the_user_replace_our_defaults(tmp_path):
    found = training_setup(TrainConfig(), tmp_path).args
    for name in set(DEFAULT_ARGS) - {"report_to", "warmup_ratio"}:
        assert getattr(found, name) == DEFAULT_ARGS[name], name
    assert found.report_to == []
    assert found.get_warmup_steps(1000) == 50
    assert training_setup(TrainConfig(args={"warmup_ratio": 0.2}), tmp_path).args.get_warmup_steps(1000) == 200
    assert training_setup(TrainConfig(args={"warmup_steps": 7}), tmp_path).args.get_warmup_steps(1000) == 7
    assert training_setup(TrainConfig(args={"learning_rate": 0.5}), tmp_path).args.learning_rate == 0.5


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (
            {"learning_rat": 1},
            r"train\.args\.learning_rat: no such training argument \(did you mean 'learning_rate'\?\)",
        ),
        ({"optim": "adamm"}, r"train\.args: .*adamm"),
        ({"lr_scheduler_type": "steep"}, r"train\.args: .*steep"),
        ({"output_dir": "x"}, r"train\.args\.output_dir cannot be set: pass --output-dir"),
        (
            {"label_smoothing_factor": 0.1},
            r"train\.args\.label_smoothing_factor cannot be set: set train\.nll_smoothing",
        ),
        ({"eval_strategy": "epoch"}, r"train\.args\.eval_strategy: there is nothing to evaluate on; pass --eval-prefs"),
    ],
)
def test_wrong_arguments_are_refused_in_one_line(args, message, tmp_path):
    with pytest.raises(UserError, match=message) as caught:
        training_setup(TrainConfig(args=args), tmp_path)
    assert "\n" not in str(caught.value)


def test_evaluation_data_is_evaluated_every_epoch_by_default(tmp_path):
    assert training_setup(TrainConfig(), tmp_path).args.eval_strategy == "no"
    assert training_setup(TrainConfig(), tmp_path, evaluates=True).args.eval_strategy == "epoch"
    assert (
        training_setup(TrainConfig(args={"eval_strategy": "no"}), tmp_path, evaluates=True).args.eval_strategy == "no"
    )


def test_float16_training_is_refused_if_it_overflows_or_is_not_supported(model_folder, load, tmp_path):
    arguments = training_setup(TrainConfig(), tmp_path).args
    arguments.fp16 = True
    with pytest.raises(UserError, match=r"train\.args\.fp16: float16 overflows to NaN in the mt5 family"):
        check_precision(arguments, load("mt5").family)
    arguments.use_cpu = True
    if arguments.device.type == "cpu":
        with pytest.raises(UserError, match="float16 training needs a GPU"):
            check_precision(arguments, load("llama").family)
    with pytest.raises(UserError, match=r"train\.args"):
        train(str(model_folder("mt5")), preference_texts(4), train_config(args={"fp16": True}), tmp_path / "out")


def test_weights_are_float32_for_full_training():
    assert dtype_of(TrainConfig()) == "float32"
    assert dtype_of(TrainConfig(lora=LoraConfig())) == "auto"
    assert dtype_of(TrainConfig(dtype="bfloat16")) == "bfloat16"
    assert dtype_of(TrainConfig(lora=LoraConfig(), args={"fp16": True})) == "float32"


@pytest.mark.slow
def test_mixed_precision_of_one_training_does_not_reach_the_next(model_folder, tmp_path):
    """transformers keeps mixed precision and compilation in environment variables."""
    model, texts = str(model_folder("mt5")), preference_texts(8)
    train(model, texts, train_config(), tmp_path / "before")
    train(model, texts, train_config(args={"bf16": True}), tmp_path / "bf16")
    train(model, texts, train_config(), tmp_path / "after")
    assert_same_weights(tmp_path / "before", tmp_path / "after")
    with pytest.raises(AssertionError):
        assert_same_weights(tmp_path / "before", tmp_path / "bf16")


def test_checking_arguments_does_not_change_a_later_training(model_folder, tmp_path):
    """A run checks the arguments of all its stages before the first: none of them may reach another."""
    model, texts, before = str(model_folder("mt5")), preference_texts(8), dict(os.environ)
    train(model, texts, train_config(), tmp_path / "before")
    training_setup(train_config(args={"bf16": True, "torch_compile_backend": "eager"}), tmp_path)
    assert dict(os.environ) == before
    train(model, texts, train_config(), tmp_path / "after")
    assert_same_weights(tmp_path / "before", tmp_path / "after")


def test_bfloat16_arithmetic_saves_float32_weights(model_folder, tmp_path):
    train(str(model_folder("llama")), preference_texts(8), train_config(args={"bf16": True}), tmp_path / "out")
    assert all(tensor.dtype == torch.float32 for tensor in model_weights(tmp_path / "out").values())


@pytest.mark.parametrize("kind", ["mt5", "llama"])
def test_bfloat16_arithmetic_keeps_the_loss(load, kind):
    """Logits have 8 bits, so a token's log-probability (of about 5 nats) is off by a few hundredths; sums have 24."""
    loaded = load(kind)
    batch = loaded.layout.collate(loaded.layout.encode(preference_texts(8)))
    with torch.no_grad():
        exact = loaded.layout.score(loaded.model, loaded.head, batch)
        with torch.autocast("cpu", torch.bfloat16):
            rounded = loaded.layout.score(loaded.model, loaded.head, batch)
            sums = pair_logps(rounded)
    assert not torch.equal(rounded.token_logps, exact.token_logps), "nothing was computed in bfloat16"
    torch.testing.assert_close(rounded.token_logps, exact.token_logps, atol=0.1, rtol=0)
    assert sums.chosen.dtype == torch.float32
    own = rounded.token_logps.double().sum(-1).chunk(2)
    torch.testing.assert_close(sums.chosen.double(), own[0], atol=1e-4, rtol=0)
    # About 0.5 is what a sum of more than 64 nats would be rounded to in bfloat16.
    assert min(sums.chosen.abs().max(), sums.rejected.abs().max()) > 64
    means = [logps.sum() / (batch["labels"] != IGNORE).sum() for logps in (rounded.token_logps, exact.token_logps)]
    assert means[0].item() == pytest.approx(means[1].item(), rel=2e-3)


def test_an_infinite_gradient_norm_is_logged_as_null(model_folder, tmp_path, monkeypatch):
    """JSON has no NaN; a gradient norm that overflows once must not fail the run at its end."""
    log = ExampleTrainer.log

    def overflowing(trainer, logs, *args):
        log(trainer, logs | ({"grad_norm": float("inf")} if "loss" in logs else {}), *args)

    monkeypatch.setattr(ExampleTrainer, "log", overflowing)
    train(str(model_folder("mt5")), preference_texts(8), train_config(), tmp_path / "out")
    text = (tmp_path / "out" / "metrics.jsonl").read_text()
    assert json.loads(text.splitlines()[0])["grad_norm"] is None
    assert not re.search("Infinity|NaN", text)


@pytest.mark.slow
def test_compiled_layers_give_the_same_weights(model_folder, tmp_path):
    """Traced, without code generation: shows that tracing loses none of our hooks."""
    results = []
    for compiled in ({}, {"torch_compile_backend": "eager"}):
        out = tmp_path / str(bool(compiled))
        train(str(model_folder("llama")), preference_texts(8), train_config(args={"max_steps": 2} | compiled), out)
        results.append(out)
    assert_same_weights(*results)
