"""Hyperparameter search by the method of transformers: each trial has its own model and parameters of the loss."""

import pytest
import torch
from support.models import preference_texts

from mtcpo.core.errors import UserError
from mtcpo.models.loading import load_model
from mtcpo.training.arguments import training_setup
from mtcpo.training.config import TrainConfig
from mtcpo.training.prepare import set_dropout
from mtcpo.training.trainer import ExampleTrainer

ARGS = {
    "use_cpu": True, "max_steps": 2, "learning_rate": 5e-3, "per_device_train_batch_size": 4, "save_strategy": "no",
    "eval_strategy": "steps", "eval_steps": 2, "disable_tqdm": True,
}  # fmt: skip


@pytest.fixture
def trainer_of(model_folder, tmp_path):
    """A function from settings to a trainer that loads its model itself; `trainer_of.loads` counts how often."""

    def load(trial):
        trainer_of.loads += 1
        loaded = load_model(str(model_folder("mt5")), "float32", device="cpu")
        set_dropout(loaded.model, 0.0)
        return loaded

    def trainer_of(**values):
        config = TrainConfig(**({"args": ARGS} | values))
        examples = load(None).layout.encode(preference_texts(8))
        arguments = training_setup(config, tmp_path / "work", evaluates=True).args
        return ExampleTrainer(load, arguments, config, examples[:5], examples[5:])

    trainer_of.loads = 0
    return trainer_of


@pytest.mark.slow
def test_every_training_starts_from_the_loaded_model(trainer_of):
    trainer = trainer_of()
    results = []
    for _ in range(2):
        trainer.train()
        assert trainer.model is trainer.loaded.model is trainer.layout.model
        assert trainer.head.module is trainer.model.get_output_embeddings()
        results.append([parameter.detach().clone() for parameter in trainer.model.parameters()])
    assert trainer_of.loads == 4  # for the examples, for the trainer, and for each training
    assert all(torch.equal(one, two) for one, two in zip(*results, strict=True))


def objective(metrics):
    return metrics["eval_rewards/margins"]


@pytest.mark.slow
def test_search_over_training_and_loss(trainer_of):
    """Four trials by optuna; the best has the value that a training with its settings has."""
    optuna = pytest.importorskip("optuna")
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    grid = {"beta": [0.1, 0.4], "learning_rate": [1e-3, 1e-2]}

    def space(trial):
        return {name: trial.suggest_categorical(name, values) for name, values in grid.items()}

    trainer = trainer_of()
    best = trainer.hyperparameter_search(
        space, compute_objective=objective, n_trials=4, direction="maximize", backend="optuna",
        sampler=optuna.samplers.GridSampler(grid, seed=0),
    )  # fmt: skip
    assert trainer.config.beta == 0.1  # as before the search
    assert best.hyperparameters["beta"] == 0.4  # rewards are beta times log-probabilities
    single = trainer_of(beta=0.4, args=ARGS | {"learning_rate": best.hyperparameters["learning_rate"]})
    single.train()
    assert objective(single.evaluate()) == pytest.approx(best.objective, rel=1e-5)


def test_a_trial_with_an_invalid_parameter_is_refused(trainer_of):
    pytest.importorskip("optuna")
    trainer = trainer_of()
    with pytest.raises(UserError, match="hp_space: beta: Input should be greater than 0"):
        trainer.hyperparameter_search(lambda trial: {"beta": -1.0}, n_trials=1, backend="optuna")
