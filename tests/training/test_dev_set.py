"""A dev set that is translated at every evaluation: its scores, the checkpoint it chooses, what it must not change."""

import json
import math
from pathlib import Path

import pytest
import sacrebleu
import torch
from support.models import PAIRS, preference_texts
from support.training import assert_same_weights, interrupt_at, train_config

from mtcpo.core.errors import UserError
from mtcpo.data.file_formats.registry import write_row_file
from mtcpo.data.records import Triplet, triplet_to_json
from mtcpo.models.loading import load_model
from mtcpo.pipeline.recipe import load_recipe
from mtcpo.pipeline.recipe_stages import make_stages
from mtcpo.training.arguments import training_setup
from mtcpo.training.callbacks import evaluation_lines
from mtcpo.training.config import DevConfig, EvalConfig, TrainConfig
from mtcpo.training.dev_set import load_dev_set
from mtcpo.training.train import train
from mtcpo.translation.config import TranslateConfig
from mtcpo.translation.engines.transformers import GenerateEngine
from mtcpo.translation.translate import translate_texts

GREEDY = TranslateConfig(num_beams=1, max_new_tokens=24, batch_size=4)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Ten sources with their references, and eight triplets, none of which the tests train on."""
    folder = tmp_path_factory.mktemp("dev")
    chosen = [PAIRS[(13 * i + 2) % len(PAIRS)] for i in range(10)]
    for name, column in (("dev.en", 0), ("dev.de", 1)):
        (folder / name).write_text("".join(pair[column] + "\n" for pair in chosen), encoding="utf-8")
    triplets = [
        Triplet(str(i), "und", "und", text.source, *text.targets)
        for i, text in enumerate(preference_texts(8, start=70))
    ]
    write_row_file(folder / "held-out.jsonl", map(triplet_to_json, triplets))
    return folder


@pytest.fixture(scope="module")
def dev(files):
    return DevConfig(
        source=str(files / "dev.en"), references=(str(files / "dev.de"),), src_lang="en", tgt_lang="de",
        decoding=GREEDY, samples=2,
    )  # fmt: skip


def rows_of(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]


def report_of(folder):
    return json.loads((folder / "training.json").read_text(encoding="utf-8"))


LEARNING = {"num_train_epochs": 3, "learning_rate": 5e-3, "per_device_train_batch_size": 4}


# --- figures --------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["mt5", "llama"])
def test_logged_scores_are_those_of_the_saved_model(model_folder, kind, files, dev, tmp_path, capsys):
    """Logged scores equal those of sacreBLEU on translations of the saved model."""
    out = tmp_path / "out"
    train(str(model_folder(kind)), preference_texts(8), train_config(dev=dev, args=LEARNING), out)
    evaluations = [row for row in rows_of(out) if "eval_chrf" in row]
    assert [row["step"] for row in evaluations] == [2, 4, 6]
    assert "eval_loss" not in evaluations[0]  # there are no pairs to evaluate on
    report = report_of(out)
    best = max(evaluations, key=lambda row: row["eval_chrf"])
    assert report["best"] == {"step": best["step"], "metric": "chrf", "score": best["eval_chrf"]}
    assert report["scores"] == {key: best[key] for key in ("eval_chrf", "eval_bleu")}
    assert report["dev"]["segments"] == 10
    assert report["dev"]["signatures"]["chrf"].startswith("nrefs:1|case:mixed|eff:yes|nc:6|nw:0|space:no|version:")

    loaded = load_model(str(out), "float32", device="cpu")
    sources, references = ((files / name).read_text(encoding="utf-8").splitlines() for name in ("dev.en", "dev.de"))
    from mtcpo.data.corpora import read_corpus

    texts = translate_texts(GenerateEngine(loaded, "x"), read_corpus(dev), GREEDY)
    assert best["eval_chrf"] == pytest.approx(sacrebleu.corpus_chrf(texts, [references]).score, abs=1e-9)
    assert best["eval_bleu"] == pytest.approx(sacrebleu.corpus_bleu(texts, [references]).score, abs=1e-9)
    # Two samples of ten, beside the figures: the first and the sixth.
    samples = [row for row in rows_of(out) if "samples" in row]
    assert [row["step"] for row in samples] == [2, 4, 6]
    shown = samples[evaluations.index(best)]["samples"]
    assert shown == [
        {"id": f"dev.en:{i + 1}", "source": sources[i], "reference": references[i], "translation": texts[i]}
        for i in (0, 5)
    ]
    said = capsys.readouterr().err
    assert f"step 6: chrf {evaluations[-1]['eval_chrf']:.4g}, bleu" in said
    assert said.count(f"  source      {sources[0]}\n") == 3


@pytest.mark.slow
def test_held_out_pairs_are_evaluated_beside_the_dev_set(model_folder, files, dev, tmp_path):
    """Pairs of [train.eval] give the same figures as pairs given to the function; a dev set does not disturb them."""
    frozen = {"learning_rate": 0.0, "max_steps": 2}
    pairs = EvalConfig(prefs=str(files / "held-out.jsonl"), src_lang="en", tgt_lang="de")
    texts = preference_texts(4)
    for name, settings, given in (
        ("file", train_config(eval=pairs, dev=dev, args=frozen), None),
        ("given", train_config(args=frozen), preference_texts(8, start=70)),
    ):
        train(str(model_folder("mt5")), texts, settings, tmp_path / name, eval_texts=given)
    found = {name: next(row for row in rows_of(tmp_path / name) if "eval_loss" in row) for name in ("file", "given")}
    names = [f"eval_{name}" for name in ("loss", "nll_loss", "rewards/accuracies", "rewards/margins", "logps/chosen")]
    assert all(found["file"][name] == found["given"][name] for name in names)
    assert math.isfinite(found["file"]["eval_chrf"])
    assert report_of(tmp_path / "file")["eval_examples"] == 8


def test_control_characters_of_a_translation_do_not_reach_the_terminal():
    sample = {"source": "a\nb", "reference": "c", "translation": "x\x1b[2Jy\x07"}
    lines = list(evaluation_lines(4, {"eval_chrf": 12.3456, "eval_runtime": 3.0, "epoch": 1.0}, [sample]))
    assert lines[:3] == ["step 4: chrf 12.35", "  source      a b", "  reference   c"]
    assert lines[3] == "  translation x\N{REPLACEMENT CHARACTER}[2Jy\N{REPLACEMENT CHARACTER}"


# --- what it leaves alone -------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["mt5", "llama"])
def test_evaluation_does_not_change_training(model_folder, kind, files, dev, tmp_path):
    """With dropout, so that a changed random generator or mode would show; with sampling, which draws most."""
    args = {**LEARNING, "eval_steps": 1, "load_best_model_at_end": False}
    sampling = dev.model_copy(update={"decoding": TranslateConfig(sampling="nucleus", max_new_tokens=8)})
    pairs = EvalConfig(prefs=str(files / "held-out.jsonl"), src_lang="en", tgt_lang="de")
    plain, judged = train_config(dropout=0.2, args=LEARNING), {"eval_strategy": "steps"}
    judged = train_config(dropout=0.2, dev=sampling, eval=pairs, args=args | judged)
    train(str(model_folder(kind)), preference_texts(12), plain, tmp_path / "plain")
    train(str(model_folder(kind)), preference_texts(12), judged, tmp_path / "judged")
    assert sum("eval_chrf" in row for row in rows_of(tmp_path / "judged")) == 9
    assert_same_weights(tmp_path / "plain", tmp_path / "judged")


# --- what it chooses ------------------------------------------------------------------------------------------------


@pytest.fixture
def scores_of(monkeypatch):
    """A function that sets the scores which the dev set's evaluations find, one after the other."""
    from mtcpo.training.dev_set import DevSet

    def find(values):
        left = iter(values)
        monkeypatch.setattr(DevSet, "score", lambda dev, texts: dict.fromkeys(("chrf", "bleu"), next(left)))

    return find


SIX = {"num_train_epochs": 6, "learning_rate": 5e-3, "per_device_train_batch_size": 8}


@pytest.mark.slow
def test_the_best_checkpoint_is_kept(model_folder, dev, scores_of, tmp_path):
    scores_of([1.0, 3.0, 2.0, 2.5, 0.0, 1.0])
    settings = train_config(dev=dev, args=SIX)
    report = train(str(model_folder("mt5")), preference_texts(8), settings, tmp_path / "out")
    assert report["best"] == {"step": 2, "metric": "chrf", "score": 3.0}
    assert report["steps"] == 6
    # The same six steps of the schedule, cut off after the second.
    whole = train_config(args=SIX | {"save_strategy": "epoch", "save_total_limit": 6})
    train(str(model_folder("mt5")), preference_texts(8), whole, tmp_path / "whole")
    assert_same_weights(tmp_path / "out", tmp_path / "whole" / "checkpoints" / "checkpoint-2")


@pytest.mark.slow
def test_the_best_adapters_are_kept(model_folder, dev, scores_of, tmp_path):
    from support.training import SMALL_LORA, adapter_weights

    scores_of([1.0, 3.0, 2.0, 2.5, 0.0, 1.0])
    train(
        str(model_folder("llama")),
        preference_texts(8),
        train_config(lora=SMALL_LORA, dev=dev, args=SIX),
        tmp_path / "out",
    )
    args = SIX | {"save_strategy": "epoch", "save_total_limit": 6}
    train(str(model_folder("llama")), preference_texts(8), train_config(lora=SMALL_LORA, args=args), tmp_path / "whole")
    kept, second = (
        adapter_weights(tmp_path / "out"),
        adapter_weights(tmp_path / "whole" / "checkpoints" / "checkpoint-2"),
    )
    assert all(torch.equal(kept[name], tensor) for name, tensor in second.items())


def test_early_stopping(model_folder, dev, scores_of, tmp_path):
    scores_of([1.0, 3.0, 2.0, 2.5, 9.0, 9.0])
    settings = train_config(dev=dev, early_stopping_patience=2, args=SIX)
    report = train(str(model_folder("mt5")), preference_texts(8), settings, tmp_path / "out")
    assert (report["steps"], report["best"]["step"]) == (4, 2)


@pytest.mark.slow
@pytest.mark.parametrize("step", [3, 4])
def test_early_stopping_keeps_its_count_after_an_interrupt(model_folder, dev, scores_of, step, tmp_path, monkeypatch):
    """The signal arrives before the evaluation that ends the run, and at its step."""
    scores = [1.0, 3.0, 2.0, 2.5, 9.0, 9.0]
    settings = train_config(dev=dev, early_stopping_patience=2, args=SIX)
    arguments = (str(model_folder("mt5")), preference_texts(8), settings, tmp_path / "out")
    with monkeypatch.context() as patch:
        interrupt_at(patch, step)
        scores_of(scores)
        with pytest.raises(KeyboardInterrupt):
            train(*arguments)
    scores_of(scores[step:])
    report = train(*arguments)
    assert (report["steps"], report["best"]["step"]) == (4, 2)


def test_the_metric_decides_whether_lower_is_better(dev, tmp_path):
    for metric, greater in (("ter", False), ("chrf", True), ("comet", True)):
        chosen = training_setup(TrainConfig(dev=dev.model_copy(update={"metrics": (metric,)})), tmp_path).args
        assert (chosen.metric_for_best_model, chosen.greater_is_better) == (metric, greater)
        assert chosen.load_best_model_at_end
        assert chosen.save_strategy == chosen.eval_strategy == "epoch"
    args = {"eval_strategy": "steps", "eval_steps": 7, "metric_for_best_model": "eval_bleu"}
    chosen = training_setup(TrainConfig(dev=dev, args=args), tmp_path).args
    assert (chosen.metric_for_best_model, chosen.save_steps, chosen.greater_is_better) == ("eval_bleu", 7, True)
    unchosen = training_setup(TrainConfig(dev=dev, args={"load_best_model_at_end": False}), tmp_path).args
    assert not unchosen.load_best_model_at_end
    pairs = EvalConfig(prefs="x.jsonl")
    assert not training_setup(TrainConfig(eval=pairs), tmp_path).args.load_best_model_at_end
    args = {"metric_for_best_model": "rewards/accuracies"}
    chosen = training_setup(TrainConfig(eval=pairs, args=args), tmp_path).args
    assert chosen.load_best_model_at_end
    assert chosen.greater_is_better


# --- mistakes -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"args": {"metric_for_best_model": "comet"}},
         r"unknown train\.args\.metric_for_best_model 'comet'.*; choose from bleu, chrf$"),
        ({"args": {"eval_strategy": "no"}, "early_stopping_patience": 2}, "early_stopping_patience: no metric decides"),
        ({"dev": None, "early_stopping_patience": 2}, r"or add \[train\.dev\], whose first metric then"),
    ],
)  # fmt: skip
def test_a_best_metric_that_no_evaluation_computes_is_refused(dev, values, message, tmp_path):
    with pytest.raises(UserError, match=message):
        training_setup(TrainConfig(**({"dev": dev} | values)), tmp_path)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"tgt_lang": None}, "a dev set needs src_lang and tgt_lang"),
        ({"metrics": ("chrff",)}, r"unknown metric 'chrff' \(did you mean 'chrf'\?\)"),
        ({"metrics": ("comet:a", "comet:b")}, "a metric is named twice"),
        ({"engine": "vllm"}, "vllm cannot run a model in training; choose transformers or ctranslate2"),
        ({"decoding": {"num_candidates": 2}}, "scored with one translation of each source"),
    ],
)
def test_wrong_settings_of_a_dev_set_are_refused(dev, values, message):
    with pytest.raises(ValueError, match=message):
        DevConfig(**(dev.model_dump() | values))


def test_a_named_engine_translates_the_model_in_training_from_memory(load, dev):
    from accelerate import Accelerator

    loaded = load("mt5")
    with torch.no_grad():  # a new model's outputs hardly depend on their source
        loaded.model.get_output_embeddings().weight.mul_(30.0)
    by_default, _ = load_dev_set(dev)
    by_ctranslate2, _ = load_dev_set(dev.model_copy(update={"engine": "ctranslate2"}))
    expected = by_default.evaluate(loaded, Accelerator())
    assert by_ctranslate2.evaluate(loaded, Accelerator()) == expected
    # Of the weights as they are now, not of a conversion that was kept.
    with torch.no_grad():
        loaded.model.get_output_embeddings().weight.mul_(-1.0)
    changed = by_default.evaluate(loaded, Accelerator())
    assert changed != expected
    assert by_ctranslate2.evaluate(loaded, Accelerator()) == changed


def test_an_engine_that_converts_the_model_is_refused_for_sharded_weights(dev):
    named, _ = load_dev_set(dev.model_copy(update={"engine": "ctranslate2"}))
    named.check_engine(weights_are_sharded=False)
    load_dev_set(dev)[0].check_engine(weights_are_sharded=True)
    with pytest.raises(UserError, match=r"ctranslate2 converts the whole model, .* leave the engine out"):
        named.check_engine(weights_are_sharded=True)


def test_dev_sets_that_cannot_be_scored_are_refused(model_folder, files, dev, tmp_path):
    blank, gone = tmp_path / "blank.en", str(tmp_path / "gone.en")
    blank.write_text("\n\n", encoding="utf-8")
    for values, message in (
        ({"references": ()}, "segment dev.en:1 of .*dev.en has no reference, and a dev set needs one"),
        ({"source": str(blank), "references": (str(blank),)}, "has no source to translate"),
        ({"source": gone}, "gone.en"),
    ):
        settings = train_config(dev=dev.model_copy(update=values))
        with pytest.raises(UserError, match=message):
            train(str(model_folder("mt5")), preference_texts(4), settings, tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["blank.en"]
    assert Path(files / "dev.en").exists()


# --- in a recipe ----------------------------------------------------------------------------------------------------


def test_a_utility_that_cannot_be_loaded_stops_a_training_before_it_begins(dev, tmp_path):
    decoding = TranslateConfig(mbr=f"comet:{tmp_path / 'away'}", num_candidates=2)
    with pytest.raises(UserError, match="away: no such directory"):
        load_dev_set(dev.model_copy(update={"decoding": decoding}))


def test_a_dev_set_is_decoded_by_mbr(load, dev):
    from accelerate import Accelerator

    decoding = TranslateConfig(mbr="chrf", num_candidates=3, max_new_tokens=8)
    loaded = load("mt5")
    dev_set, _ = load_dev_set(dev.model_copy(update={"decoding": decoding}))
    scores, samples = dev_set.evaluate(loaded, Accelerator())
    expected = translate_texts(GenerateEngine(loaded, "dev"), dev_set.segments, decoding)
    assert scores == dev_set.score(expected)
    assert [sample["translation"] for sample in samples] == [expected[0], expected[5]]


def test_a_stage_runs_again_when_its_dev_set_changes(files, tmp_path):
    """Relative paths start at the recipe; the files are inputs of the training, and of the control beside it."""
    (files / "r.toml").write_text(
        """
model.name = "nobody/nothing"
data = { source = "dev.en", references = ["dev.de"], src_lang = "en", tgt_lang = "de" }
translate = { num_candidates = 2 }
prefs.metrics = ["chrf"]
control.args = {}
evaluate = { suites = ["demo"], metrics = ["chrf"] }
[train]
early_stopping_patience = 3
eval.prefs = "held-out.jsonl"
dev = { source = "./dev.en", references = ["./dev.de"], src_lang = "en", tgt_lang = "de", take = 5, metrics = ["ter"] }
""",
        encoding="utf-8",
    )
    stages = {stage.name: stage for stage in make_stages(load_recipe(files / "r.toml"), tmp_path)}
    for name in ("train", "control"):
        wanted = {str((files / file).resolve()) for file in ("dev.en", "dev.de", "held-out.jsonl")}
        assert wanted <= set(stages[name].inputs), name
    with pytest.raises(UserError, match=r"train\.dev: a dev set needs src_lang"):
        load_recipe(files / "r.toml", ['train.dev={source="dev.en"}'])
