"""A user's own loss: a function in Python, or `python:module:name` on the command line and in recipes."""

import json
import sys

import pytest
import torch
from support import reference_loss
from support.console import call
from support.models import preference_texts
from support.training import LOSS_CONFIGS, assert_same_weights, examples_of, interrupt_at, make_trainer, train_config

from mtcpo.core.config import load_section
from mtcpo.core.errors import UserError
from mtcpo.data.file_formats.registry import write_row_file
from mtcpo.data.records import Triplet, triplet_to_json
from mtcpo.pipeline.recipe import find_recipe, load_recipe
from mtcpo.pipeline.recipe_stages import make_stages
from mtcpo.training.config import TrainConfig
from mtcpo.training.losses import PairLogps, custom_loss, find_loss
from mtcpo.training.train import train

MODULE = """
import torch

def logistic(logps, config):
    return -torch.nn.functional.logsigmoid(config.beta * (logps.chosen - logps.rejected))

def of_means(logps, config):
    return (logps.chosen_mean - logps.rejected_mean - 1) ** 2

of_means.length_normalized = True

def broken(logps, config):
    return 1 / 0

wrong = 3
"""


@pytest.fixture
def module(tmp_path, monkeypatch):
    """A working directory with a module of losses."""
    monkeypatch.chdir(tmp_path)
    # Each test has a file of its own under the same name.
    monkeypatch.delitem(sys.modules, "my_losses", raising=False)
    (tmp_path / "my_losses.py").write_text(MODULE, encoding="utf-8")
    return tmp_path


def squared_gap(logps, config):
    """Uses all that a loss is given: sums, means and token counts of both sides, and a setting."""
    gap = (1 - config.beta * (logps.chosen - logps.rejected)).relu() ** 2
    return gap - 0.3 * logps.chosen_mean + 0.1 * logps.rejected_mean.exp() * logps.rejected_tokens / logps.chosen_tokens


def reference_of(loaded, examples, config):
    """The same from the model's own logits, by autograd alone, one target at a time."""
    pairs = reference_loss.pairs_of(loaded, examples)
    values = []
    for chosen, rejected in pairs:
        gap = (1 - config.beta * (chosen.sum() - rejected.sum())).relu() ** 2
        likelihoods = -0.3 * chosen.mean() + 0.1 * rejected.mean().exp() * len(rejected) / len(chosen)
        values.append(gap + likelihoods)
    tokens = sum(len(chosen) for chosen, _ in pairs)
    nll = -sum(chosen.sum() for chosen, _ in pairs) / tokens
    return sum(values) / len(values) + config.cpo_alpha * nll


def gradients(loaded, loss):
    loaded.model.zero_grad()
    loss.backward()
    return torch.cat([p.grad.flatten() for p in loaded.model.parameters() if p.grad is not None])


@pytest.mark.parametrize("kind", ["mt5", "llama"])
def test_loss_and_gradients_are_those_of_autograd_on_full_logits(load, kind, tmp_path):
    config, loaded = TrainConfig(beta=0.05, cpo_alpha=0.7), load(kind)
    examples = examples_of(loaded, config, count=5)
    trainer = make_trainer(loaded, config, examples, tmp_path, loss=custom_loss(squared_gap, "squared_gap"))
    ours = trainer.compute_loss(loaded.model, loaded.layout.collate(examples))
    expected = reference_of(loaded, examples, config)
    assert ours.item() == pytest.approx(expected.item(), rel=1e-5)
    torch.testing.assert_close(gradients(loaded, ours), gradients(loaded, expected), atol=2e-5, rtol=1e-3)


def test_micro_batches_share_the_normalizers_of_the_step(load, tmp_path):
    parameters = []
    for batch, accumulate in ((8, 1), (2, 4), (3, 3)):
        loaded = load("llama")
        trainer = make_trainer(
            loaded, LOSS_CONFIGS["sigmoid"], examples_of(loaded, LOSS_CONFIGS["sigmoid"]), tmp_path,
            loss=custom_loss(squared_gap, "squared_gap"), optim="sgd", learning_rate=0.01, max_steps=1,
            per_device_train_batch_size=batch, gradient_accumulation_steps=accumulate, save_strategy="no",
        )  # fmt: skip
        trainer.train()
        parameters.append(torch.cat([p.detach().flatten() for p in loaded.model.parameters()]))
    for other in parameters[1:]:
        torch.testing.assert_close(other, parameters[0], atol=1e-6, rtol=1e-5)


def test_means_are_logged_as_rewards_if_the_function_uses_them(module):
    assert find_loss("python:my_losses:of_means").length_normalized
    assert not find_loss("python:my_losses:logistic").length_normalized


def test_a_named_function_trains_as_the_built_in_loss_that_it_copies(model_folder, module):
    texts = preference_texts(8)
    values = train_config(beta=0.3).model_dump(exclude_none=True) | {"loss": "python:my_losses:logistic"}
    named = load_section(TrainConfig, values, "test", allow_code=True)
    report = train(str(model_folder("mt5")), texts, named, module / "named")
    train(str(model_folder("mt5")), texts, train_config(beta=0.3), module / "built-in")
    assert_same_weights(module / "named", module / "built-in")
    assert report["settings"]["loss"] == "python:my_losses:logistic"
    assert "with loss `python:my_losses:logistic` and the NLL" in (module / "named/README.md").read_text("utf-8")


def test_the_command_runs_it_with_allow_code_alone(model_folder, module):
    triplets = [Triplet(str(i), "en", "de", t.source, *t.targets) for i, t in enumerate(preference_texts(4))]
    write_row_file(module / "p.jsonl", map(triplet_to_json, triplets))
    command = ["train", "--model", model_folder("mt5"), "--prefs", "p.jsonl", "--output-dir", "out",
               "--loss", "python:my_losses:of_means", "--set", "train.args.use_cpu=true"]  # fmt: skip
    refused = call(*command, cwd=module)
    assert refused.code == 2
    assert "python:my_losses:of_means is custom Python code; pass --allow-code to run it" in refused.err
    assert not (module / "out").exists()
    done = call(*command, "--allow-code", cwd=module)
    assert done.code == 0, done.err
    assert json.loads((module / "out/training.json").read_text())["settings"]["loss"] == "python:my_losses:of_means"


def test_changed_code_is_another_run(model_folder, module, monkeypatch):
    """An unfinished run is not resumed with a loss that has changed meanwhile."""
    values = train_config(args={"max_steps": 3}).model_dump(exclude_none=True) | {"loss": "python:my_losses:logistic"}
    arguments = (
        str(model_folder("mt5")), preference_texts(8), load_section(TrainConfig, values, "t", allow_code=True),
        module / "out",
    )  # fmt: skip
    with monkeypatch.context() as patch:
        interrupt_at(patch, 2)
        with pytest.raises(KeyboardInterrupt):
            train(*arguments)
    (module / "my_losses.py").write_text(MODULE + "\n# changed\n", encoding="utf-8")
    with pytest.raises(UserError, match="an unfinished run with a different model, data or settings"):
        train(*arguments)


def test_a_recipe_names_it_and_its_file_is_an_input_of_the_stage(module):
    setting = ["train.loss=python:my_losses:logistic"]
    with pytest.raises(UserError, match="custom Python code; pass --allow-code"):
        load_recipe(find_recipe("demo"), setting)
    recipe = load_recipe(find_recipe("demo"), setting, allow_code=True)
    stage = next(stage for stage in make_stages(recipe, module / "run") if stage.name == "train")
    assert str(module / "my_losses.py") in stage.inputs


PAIRS = PairLogps(*torch.tensor([[-3.0, -4.0], [-5.0, -4.0], [2.0, 3.0], [3.0, 2.0]]).requires_grad_())


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda logps, config: logps.chosen.sum(), r"loss mine: one value for each pair .* \(2,\) \(got shape \(\)\)"),
        (lambda logps, config: 0.5, r"loss mine: one value for each pair is needed, .* \(got float\)"),
        (lambda logps, config: logps.chosen.detach(), "loss mine: its value has no gradient"),
        (lambda logps, config: logps.reward, r"loss mine: your code raised AttributeError at .*test_custom_losses.py:"),
    ],
)
def test_a_function_that_returns_no_loss_is_refused(function, message):
    with pytest.raises(UserError, match=message):
        custom_loss(function, "mine").function(PAIRS, TrainConfig())


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("python:my_losses:wrong", "train.loss: python:my_losses:wrong: it is a int, not a function"),
        ("python:my_losses:logistik", r"unknown name in my_losses: 'logistik' \(did you mean 'logistic'\?\)"),
        ("python:no_such_module:x", "no_such_module"),
        ("python:my_losses", "write it as python:package.module:name"),
    ],
)
def test_code_that_is_not_a_loss_is_refused_before_the_work(model_folder, module, name, message):
    config = load_section(TrainConfig, {"loss": name, "args": {"use_cpu": True}}, "test", allow_code=True)
    with pytest.raises(UserError, match=message):
        train(str(model_folder("mt5")), preference_texts(4), config, module / "out")
