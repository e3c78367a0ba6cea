"""Trainings of tiny models that several test files make."""

import os
import signal

import torch
from safetensors.torch import load_file

from mtcpo.models.config import LoraConfig
from mtcpo.models.layouts.base import Example
from mtcpo.training.arguments import training_setup
from mtcpo.training.config import TrainConfig
from mtcpo.training.prepare import set_dropout
from mtcpo.training.trainer import ExampleTrainer
from support.models import preference_texts

FAST = {"use_cpu": True, "per_device_train_batch_size": 4, "learning_rate": 1e-3, "logging_steps": 2}


def train_config(**values):
    return TrainConfig(**(values | {"args": FAST | values.get("args", {})}))


def model_weights(folder):
    return load_file(folder / "model.safetensors")


def assert_same_weights(one, other):
    one, other = model_weights(one), model_weights(other)
    assert one.keys() == other.keys()
    for name, tensor in one.items():
        assert torch.equal(tensor, other[name]), name


def interrupt_at(monkeypatch, step, number=signal.SIGINT):
    """Send this process a signal while it takes the batches of the given step, counted over the whole run."""
    take = ExampleTrainer.get_batch_samples

    def take_and_signal(trainer, *args):
        if trainer.state.global_step == step - 1:
            os.kill(os.getpid(), number)
        return take(trainer, *args)

    monkeypatch.setattr(ExampleTrainer, "get_batch_samples", take_and_signal)


LOSS_CONFIGS = {
    "sigmoid": TrainConfig(beta=0.2),
    "smoothed": TrainConfig(beta=0.2, label_smoothing=0.1, nll_normalization="sentence", cpo_alpha=0.5),
    "hinge": TrainConfig(loss="hinge", beta=0.3),
    "ipo": TrainConfig(loss="ipo", beta=0.4, cpo_alpha=0.2),
    "simpo": TrainConfig(loss="simpo", beta=2.0, simpo_gamma=0.3, cpo_alpha=0.0),
    "cpo-simpo": TrainConfig(loss="simpo", beta=2.0, cpo_alpha=1.0, nll_normalization="sentence"),
    "alphapo": TrainConfig(loss="alphapo", beta=2.0, simpo_gamma=0.3, alpha=0.4, cpo_alpha=0.2),
    "alphapo smoothed": TrainConfig(loss="alphapo", alpha=-0.3, label_smoothing=0.2, nll_normalization="sentence"),
    "sigmoid with alpha": TrainConfig(beta=0.2, alpha=0.02),
    "arpo": TrainConfig(loss="arpo", beta=0.2, arpo_eta=1.05, arpo_kappa=0.5),
    "arpo smoothed": TrainConfig(loss="arpo", beta=0.2, label_smoothing=0.1, alpha=-0.05, nll_normalization="sentence"),
    "smoothed nll": TrainConfig(beta=0.2, cpo_alpha=0.7, nll_smoothing=0.1),
    "sft": TrainConfig(loss="sft"),
    "sft, smoothed nll": TrainConfig(loss="sft", nll_smoothing=0.3),
    "sft by sentence": TrainConfig(loss="sft", nll_normalization="sentence"),
}


def examples_of(loaded, config, count=8, start=0):
    examples = loaded.layout.encode(preference_texts(count, start))
    return [Example(e.source, e.targets[:1]) for e in examples] if config.loss == "sft" else examples


def make_trainer(loaded, config, examples, folder, evaluation=None, loss=None, **args):
    config = config.model_copy(update={"args": config.args | {"use_cpu": True} | args})
    set_dropout(loaded.model, 0.0)
    setup = training_setup(config, folder, evaluates=evaluation is not None)
    with setup.applied():
        return ExampleTrainer(loaded, setup.args, config, examples, evaluation, loss=loss)


SMALL_LORA = LoraConfig(r=4, alpha=8)


def adapter_weights(folder):
    return load_file(folder / "adapter_model.safetensors")
