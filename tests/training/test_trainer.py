import json
import os
import signal
import socket
import time

import pytest
import torch
import transformers
from safetensors.torch import load_file
from support import reference_loss
from support.models import preference_texts
from support.training import LOSS_CONFIGS, examples_of, make_trainer
from torch import multiprocessing

from mtcpo.core.errors import UserError
from mtcpo.models.layouts.base import Example
from mtcpo.models.loading import load_model
from mtcpo.training.batching import BatchLimits, length_batches
from mtcpo.training.config import TrainConfig
from mtcpo.training.meters import count_items
from mtcpo.training.train import train
from mtcpo.training.trainer import ExampleTrainer

SGD = {"optim": "sgd", "lr_scheduler_type": "constant", "warmup_ratio": 0.0, "max_grad_norm": 1e9, "learning_rate": 0.5}


def reference_of(loaded, examples, config):
    means = reference_loss.chosen_means(loaded, examples)
    return reference_loss.total_loss(reference_loss.pairs_of(loaded, examples), config, means)


def parameters_of(loaded):
    return {name: parameter.detach().clone() for name, parameter in loaded.model.named_parameters()}


def assert_same(one, other, **tolerance):
    assert one.keys() == other.keys()
    for name, tensor in one.items():
        torch.testing.assert_close(tensor, other[name], **tolerance, msg=lambda text, name=name: f"{name}: {text}")


# --- the loss -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["mt5", "llama", "marian"])
@pytest.mark.parametrize("name", LOSS_CONFIGS)
def test_loss_and_gradients_equal_the_reference(load, kind, name, tmp_path):
    config = LOSS_CONFIGS[name]
    loaded = load(kind)
    examples = examples_of(loaded, config, count=5)
    trainer = make_trainer(loaded, config, examples, tmp_path)

    ours = trainer.compute_loss(loaded.model, loaded.layout.collate(examples))
    reference = reference_of(loaded, examples, config)
    assert ours.item() == pytest.approx(reference.item(), rel=1e-5, abs=1e-5)
    assert_same(gradients_of(loaded, ours), gradients_of(loaded, reference), atol=2e-5, rtol=1e-3)


def test_equal_targets_give_log_2_and_no_preference_gradient(load, tmp_path):
    loaded = load("mt5")
    examples = [Example(e.source, (e.targets[0],) * 2) for e in examples_of(loaded, LOSS_CONFIGS["sigmoid"])]
    trainer = make_trainer(loaded, TrainConfig(cpo_alpha=0.0), examples, tmp_path)
    loss = trainer.compute_loss(loaded.model, loaded.layout.collate(examples))
    assert loss.item() == pytest.approx(torch.tensor(2.0).log().item(), abs=1e-6)
    loss.backward()
    assert max(float(p.grad.abs().max()) for p in loaded.model.parameters()) < 1e-6


def balance_of(loaded, rows):
    """Experts x sum_e f_e P_e over all tokens and layers of rows of token ids, one row at a time, without padding."""
    config = loaded.model.config
    chosen, probabilities = [], []
    for row in rows:
        for logits in loaded.model(input_ids=torch.tensor([row]), output_router_logits=True).router_logits:
            probabilities.append(logits.softmax(-1))
            best = probabilities[-1].topk(config.num_experts_per_tok).indices
            chosen.append(torch.nn.functional.one_hot(best, config.num_local_experts).sum(1).float())
    return config.num_local_experts * (torch.cat(chosen).mean(0) * torch.cat(probabilities).mean(0)).sum()


def rows_of_tokens(examples):
    return [example.source + target for example in examples for target in example.targets]


def gradients_of(loaded, loss):
    loaded.model.zero_grad()
    loss.backward()
    return {name: p.grad.clone() for name, p in loaded.model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("name", ["sigmoid", "sft"])
def test_padding_does_not_count_in_the_router_loss(load, name, tmp_path):
    """Rows of many lengths in one batch give the same as one by one."""
    loaded = load("mixtral")
    loaded.model.config.output_router_logits = False  # as published models have it: the settings switch it on
    config = LOSS_CONFIGS[name].model_copy(update={"router_aux_loss_coef": 0.3})
    examples = examples_of(loaded, config, count=8)
    assert len({len(row) for row in rows_of_tokens(examples)}) >= 3
    trainer = make_trainer(loaded, config, examples, tmp_path)
    ours = trainer.compute_loss(loaded.model, loaded.layout.collate(examples))
    reference = reference_of(loaded, examples, config) + 0.3 * balance_of(loaded, rows_of_tokens(examples))
    assert ours.item() == pytest.approx(reference.item(), rel=1e-5)
    assert_same(gradients_of(loaded, ours), gradients_of(loaded, reference), atol=2e-5, rtol=1e-3)
    assert loaded.model.config.output_router_logits is False  # a saved model does not carry it along


@pytest.mark.parametrize(
    ("settings", "weight"),
    [({}, 0.05), ({"output_router_logits": False}, 0.0), ({"router_aux_loss_coef": 0.7}, 0.7)],
)
def test_settings_of_the_router_loss(load, settings, weight, tmp_path):
    loaded = load("mixtral")  # its config: switched on, 0.05
    config = LOSS_CONFIGS["sigmoid"].model_copy(update=settings)
    examples = examples_of(loaded, config)
    trainer = make_trainer(loaded, config, examples, tmp_path)
    with torch.no_grad():
        whole = float(trainer.compute_loss(loaded.model, loaded.layout.collate(examples)))
        expected = reference_of(loaded, examples, config) + weight * balance_of(loaded, rows_of_tokens(examples))
    assert whole == pytest.approx(expected.item(), rel=1e-5)


def test_a_model_without_experts_has_no_router_loss(load, tmp_path):
    loaded = load("llama")
    config = LOSS_CONFIGS["sigmoid"].model_copy(update={"router_aux_loss_coef": 0.1})
    trainer = make_trainer(loaded, config, examples_of(loaded, config), tmp_path)
    with pytest.raises(UserError, match="llama has no experts"):
        trainer.train()


def test_normalizers_of_a_batch():
    labels = torch.tensor([[5, 1, -100], [6, 7, 1], [5, 5, 1], [1, -100, -100]])
    assert count_items({"labels": labels}, sft=False).tolist() == [2, 5]
    assert count_items({"labels": labels}, sft=True).tolist() == [4, 9]


# --- the optimizer step ---------------------------------------------------------------------------------------------


def one_step(load, kind, config, folder, batch, accumulate, **args):
    loaded = load(kind)
    before = parameters_of(loaded)
    sizes = {"per_device_train_batch_size": batch, "gradient_accumulation_steps": accumulate}
    trainer = make_trainer(loaded, config, examples_of(loaded, config), folder, logging_steps=1, **SGD, **sizes, **args)
    trainer.train()
    assert trainer.state.global_step == 1
    after = parameters_of(loaded)
    assert any(not torch.equal(after[name], before[name]) for name in after)
    return after, trainer.state.log_history[0]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("mt5", "sigmoid"), ("llama", "sigmoid"), ("llama", "smoothed"), ("mt5", "hinge"), ("llama", "ipo"),
        ("mt5", "smoothed nll"), ("mt5", "cpo-simpo"), ("llama", "alphapo"), ("mt5", "arpo smoothed"),
        ("mt5", "sft"), ("llama", "sft by sentence"),
    ],
)  # fmt: skip
def test_micro_batches_change_nothing(load, kind, name, tmp_path):
    whole, log = one_step(load, kind, LOSS_CONFIGS[name], tmp_path, batch=8, accumulate=1)
    for batch, accumulate in ((4, 2), (1, 8), (3, 3)):
        parts, part_log = one_step(load, kind, LOSS_CONFIGS[name], tmp_path, batch, accumulate)
        assert_same(parts, whole, atol=1e-6, rtol=1e-5)
        assert part_log["loss"] == pytest.approx(log["loss"], abs=1.1e-4)
        for key in {"nll_loss", "rewards/margins", "logps/chosen"} & log.keys():
            assert part_log[key] == pytest.approx(log[key], rel=1e-4)


def router_settings(name="sigmoid", weight=5.0):
    return LOSS_CONFIGS[name].model_copy(update={"router_aux_loss_coef": weight})


@pytest.mark.parametrize(("batch", "accumulate"), [(8, 1), (4, 2), (1, 8), (3, 3)])
def test_router_loss_of_a_step_is_the_mean_of_its_batches_by_tokens(load, batch, accumulate, tmp_path):
    """Its scale is exact; which tokens it averages over depends on the batches, since each balances its own load."""
    after, log = one_step(load, "mixtral", router_settings(), tmp_path, batch, accumulate)
    loaded = load("mixtral")
    examples = examples_of(loaded, LOSS_CONFIGS["sigmoid"])
    batches = length_batches([loaded.layout.lengths(e) for e in examples], BatchLimits(batch, targets=2), seed=0)
    rows = [rows_of_tokens([examples[i] for i in indices]) for indices in batches]
    tokens = [sum(map(len, part)) for part in rows]
    router = sum(balance_of(loaded, part) * n for part, n in zip(rows, tokens, strict=True)) / sum(tokens)
    loss = reference_of(loaded, examples, LOSS_CONFIGS["sigmoid"]) + 5.0 * router
    loss.backward()
    expected = {name: p.detach() - 0.5 * p.grad for name, p in loaded.model.named_parameters()}
    assert_same(after, expected, atol=2e-5, rtol=1e-3)
    assert log["router_loss"] == pytest.approx(router.item(), rel=1e-5)
    assert log["loss"] == pytest.approx(loss.item(), abs=2e-4)


def test_router_loss_of_equal_batches_is_exact(load, tmp_path):
    """Where all batches are equal, their number changes nothing."""
    steps = []
    for batch, accumulate in ((8, 1), (4, 2), (1, 8)):
        loaded = load("mixtral")
        examples = examples_of(loaded, LOSS_CONFIGS["sigmoid"], count=1) * 8
        sizes = {"per_device_train_batch_size": batch, "gradient_accumulation_steps": accumulate}
        make_trainer(loaded, router_settings(), examples, tmp_path, **SGD, **sizes).train()
        steps.append(parameters_of(loaded))
    for step in steps[1:]:
        assert_same(step, steps[0], atol=1e-6, rtol=1e-5)


def test_a_step_is_a_step_along_the_reference_gradient(load, tmp_path):
    config = LOSS_CONFIGS["sigmoid"]
    after, log = one_step(load, "mt5", config, tmp_path, batch=2, accumulate=4)
    loaded = load("mt5")
    pairs = reference_loss.pairs_of(loaded, examples_of(loaded, config))
    loss = reference_loss.total_loss(pairs, config)
    loss.backward()
    expected = {name: p.detach() - 0.5 * p.grad for name, p in loaded.model.named_parameters()}
    assert_same(after, expected, atol=1e-5, rtol=1e-4)
    assert log["loss"] == pytest.approx(loss.item(), abs=1e-4)


def test_batches_by_tokens_change_nothing(load, tmp_path):
    config = LOSS_CONFIGS["sigmoid"]
    whole, _ = one_step(load, "mt5", config, tmp_path, batch=8, accumulate=1)
    by_tokens = config.model_copy(update={"batch_tokens": 160})
    parts, log = one_step(load, "mt5", by_tokens, tmp_path, batch=8, accumulate=8)
    assert_same(parts, whole, atol=1e-6, rtol=1e-5)
    assert log["padding_share"] < 0.25


STEPS = 3

# 4.57 and 5.17 ask torch for the optimizer's state on "cpu:0", a device that torch does not know.
CPU_PROCESSES_RESUME = tuple(map(int, transformers.__version__.split(".")[:2])) >= (5, 23)


# Of every loss and denominator one, as (kind of model, settings).
OF_TWO_PROCESSES = {
    "sigmoid": ("mt5", LOSS_CONFIGS["sigmoid"]),
    **{name: ("llama", LOSS_CONFIGS[name]) for name in ("smoothed", "hinge", "ipo", "simpo", "cpo-simpo", "alphapo")},
    **{
        name: ("mt5", LOSS_CONFIGS[name])
        for name in ("arpo", "arpo smoothed", "smoothed nll", "sft", "sft by sentence")
    },
    "router loss": ("mixtral", router_settings()),
    "router loss, sft": ("mixtral", router_settings("sft")),
}


def _three_steps(loaded, folder, config, accumulate):
    examples, evaluation = examples_of(loaded, config), examples_of(loaded, config, count=5, start=40)
    sizes = {"per_device_train_batch_size": 4, "gradient_accumulation_steps": accumulate, "num_train_epochs": STEPS}
    trainer = make_trainer(
        loaded, config, examples, folder, evaluation, logging_steps=1, save_strategy="no", **(SGD | sizes)
    )
    trainer.train()
    assert trainer.state.global_step == STEPS
    return parameters_of(loaded), trainer.state.log_history


def _stopped_and_resumed(rank, model, folder):
    """Train to the end; and again, stopped by a signal to one process alone and then resumed."""
    config = TrainConfig(
        dropout="model", args={"use_cpu": True, "num_train_epochs": 3, "per_device_train_batch_size": 2}
    )  # fmt: skip
    arguments = (model, preference_texts(8), config)
    train(*arguments, folder / "whole")
    take = ExampleTrainer.get_batch_samples

    def take_and_signal(trainer, *args):
        if rank == 1 and trainer.state.global_step == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return take(trainer, *args)

    ExampleTrainer.get_batch_samples = take_and_signal
    with pytest.raises(KeyboardInterrupt):
        train(*arguments, folder / "parts")
    ExampleTrainer.get_batch_samples = take
    if rank == 0:
        (folder / "stopped").write_text(
            " ".join(path.name for path in (folder / ".parts.partial" / "checkpoints").iterdir())
        )
    if CPU_PROCESSES_RESUME:
        train(*arguments, folder / "parts")


def _one_of_two_processes(rank, models, port, folder):
    environment = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    os.environ.update({key: str(value) for key, value in environment.items()})
    for name, (kind, config) in OF_TWO_PROCESSES.items():
        parameters, logs = _three_steps(load_model(models[kind], "float32", device="cpu"), folder, config, accumulate=1)
        if rank == 0:
            torch.save(parameters, folder / f"{name}.pt")
            (folder / f"{name}.json").write_text(json.dumps(logs))
    _stopped_and_resumed(rank, models["mt5"], folder)
    torch.distributed.destroy_process_group()


@pytest.fixture(scope="module")
def two_processes(model_folder, tmp_path_factory):
    """The folder with the results of two processes."""
    folder = tmp_path_factory.mktemp("two")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    models = {kind: str(model_folder(kind)) for kind in ("mt5", "llama", "mixtral")}
    multiprocessing.spawn(_one_of_two_processes, (models, port, folder), nprocs=2)
    return folder


@pytest.mark.processes
@pytest.mark.parametrize("name", OF_TWO_PROCESSES)
def test_two_processes_give_the_same_as_one(load, two_processes, name, tmp_path):
    kind, config = OF_TWO_PROCESSES[name]
    single, logs = _three_steps(load(kind), tmp_path, config, accumulate=2)
    double = torch.load(two_processes / f"{name}.pt", weights_only=True)
    assert_same(double, single, atol=2e-6, rtol=1e-4)
    for one, two in zip(logs, json.loads((two_processes / f"{name}.json").read_text()), strict=True):
        keys = {key for key in one if not key.endswith(("_per_second", "runtime", "total_flos", "preparation_time"))}
        # Each process takes half of an evaluation batch; the means are the same to the last digits. Not the router
        # loss: it asks each batch for balance, and half a batch is another one.
        if "eval_router_loss" in keys:
            assert two["eval_router_loss"] == pytest.approx(one["eval_router_loss"], rel=0.05)
            keys -= {"eval_router_loss", "eval_loss"}
        assert {key: two[key] for key in keys} == pytest.approx({key: one[key] for key in keys}, abs=2e-4, rel=1e-4)


@pytest.mark.processes
def test_two_processes_stop_together(two_processes):
    assert (two_processes / "stopped").read_text() == "checkpoint-3"


@pytest.mark.processes
@pytest.mark.skipif(not CPU_PROCESSES_RESUME, reason="transformers before 5.23 cannot resume several CPU processes")
def test_two_processes_resume_to_the_same_weights(two_processes):
    whole, parts = (load_file(two_processes / name / "model.safetensors") for name in ("whole", "parts"))
    assert_same(parts, whole, atol=0, rtol=0)
    assert not (two_processes / ".parts.partial").exists()


# --- what is logged -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["mt5", "llama"])
@pytest.mark.parametrize("name", ["sigmoid", "smoothed", "smoothed nll", "ipo", "cpo-simpo", "alphapo", "arpo", "sft"])
def test_logs_equal_the_reference(load, kind, name, tmp_path):
    config = LOSS_CONFIGS[name]
    loaded = load(kind)
    examples, evaluation = examples_of(loaded, config, count=7), examples_of(loaded, config, count=5, start=30)
    with torch.no_grad():
        expected = {
            "": reference_loss.pairs_of(loaded, examples), "eval_": reference_loss.pairs_of(loaded, evaluation),
        }  # fmt: skip
        losses = {
            "": reference_of(loaded, examples, config).item(),
            "eval_": reference_of(loaded, evaluation, config).item(),
        }
    trainer = make_trainer(
        loaded, config, examples, tmp_path, evaluation, learning_rate=0.0, logging_steps=1, save_strategy="no",
        per_device_train_batch_size=3, gradient_accumulation_steps=3, per_device_eval_batch_size=2,
    )  # fmt: skip
    trainer.train()
    train_log, eval_log = trainer.state.log_history[:2]
    for prefix, log in (("", train_log), ("eval_", eval_log)):
        loss = losses[prefix]
        assert log[f"{prefix}loss"] == pytest.approx(loss, abs=1e-4, rel=1e-5)
        wanted = reference_loss.metrics(expected[prefix], config) if config.loss != "sft" else {"nll_loss": loss}
        for key, value in wanted.items():
            assert log[prefix + key] == pytest.approx(value, rel=1e-4, abs=1e-5), key
    assert ("rewards/chosen" in train_log) == (config.loss != "sft")


def test_tokens_and_padding_of_a_known_batch(load, tmp_path):
    """Sources 3 and 2 long, targets 3 and 2, 2 and 4: 16 tokens in 2 x 3 + 4 x 4 = 22 positions."""
    loaded = load("mt5")
    examples = [Example((11, 12, 1), ((21, 22, 1), (23, 1))), Example((13, 1), ((24, 1), (25, 26, 27, 1)))]
    trainer = make_trainer(loaded, LOSS_CONFIGS["sigmoid"], examples, tmp_path, logging_steps=1, save_strategy="no")
    start = time.perf_counter()
    trainer.train()
    seconds = time.perf_counter() - start
    log = trainer.state.log_history[0]
    assert log["padding_share"] == pytest.approx(1 - 16 / 22)
    assert log["tokens_per_second"] >= 16 / seconds
    assert log["tokens"] == 16


def test_tokens_after_the_last_log_are_counted(load, tmp_path):
    loaded = load("mt5")
    examples = [Example((11, 12, 1), ((21, 22, 1), (23, 1))), Example((13, 1), ((24, 1), (25, 26, 27, 1)))]
    trainer = make_trainer(
        loaded, LOSS_CONFIGS["sigmoid"], examples, tmp_path, logging_steps=2, max_steps=5, save_strategy="no"
    )
    trainer.train()
    tokens = [row["tokens"] for row in trainer.state.log_history]
    assert tokens == [32, 32, 16]


def test_speed_leaves_out_evaluation(load, tmp_path, monkeypatch):
    loaded = load("llama")
    examples = examples_of(loaded, LOSS_CONFIGS["sigmoid"], count=4)
    trainer = make_trainer(
        loaded, LOSS_CONFIGS["sigmoid"], examples, tmp_path, examples,
        eval_strategy="steps", eval_steps=1, logging_steps=2, per_device_train_batch_size=2, save_strategy="no",
    )  # fmt: skip
    evaluate, slept = trainer.prediction_step, []

    def evaluate_slowly(*args, **kwargs):
        time.sleep(0.5)
        slept.append(0.5)
        return evaluate(*args, **kwargs)

    monkeypatch.setattr(trainer, "prediction_step", evaluate_slowly)
    start = time.perf_counter()
    trainer.train()
    seconds = time.perf_counter() - start
    tokens = sum(len(e.source) + len(t) for e in examples for t in e.targets)
    (log,) = (row for row in trainer.state.log_history if "loss" in row)
    assert tokens / log["tokens_per_second"] <= seconds - sum(slept)


def test_each_log_covers_the_steps_since_the_last(load, tmp_path):
    loaded = load("mt5")
    config = LOSS_CONFIGS["sigmoid"]
    examples = examples_of(loaded, config, count=6)
    trainer = make_trainer(
        loaded, config, examples, tmp_path, learning_rate=0.0, logging_steps=1, save_strategy="no",
        per_device_train_batch_size=2,
    )  # fmt: skip
    with torch.no_grad():
        everything = reference_loss.metrics(reference_loss.pairs_of(loaded, examples), config)
    trainer.train()
    logs = [row["logps/chosen"] for row in trainer.state.log_history if "loss" in row]
    assert len(set(logs)) == 3
    assert sum(logs) / 3 == pytest.approx(everything["logps/chosen"], rel=1e-5)


def test_router_loss_is_logged_and_part_of_the_evaluation_loss(load, tmp_path):
    loaded, config = load("mixtral"), router_settings()
    examples, evaluation = examples_of(loaded, config, count=4), examples_of(loaded, config, count=5, start=30)
    with torch.no_grad():
        train_router, eval_router = (float(balance_of(loaded, rows_of_tokens(part))) for part in (examples, evaluation))
        eval_loss = reference_of(loaded, evaluation, config).item() + 5.0 * eval_router
    trainer = make_trainer(
        loaded, config, examples, tmp_path, evaluation, learning_rate=0.0, logging_steps=1, save_strategy="no"
    )
    trainer.train()
    train_log, eval_log = trainer.state.log_history[:2]
    assert train_log["router_loss"] == pytest.approx(train_router, rel=1e-5)
    assert eval_log["eval_router_loss"] == pytest.approx(eval_router, rel=1e-5)
    assert eval_log["eval_loss"] == pytest.approx(eval_loss, rel=1e-5)


def test_rewards_that_overflow_stop_the_run(load, tmp_path):
    loaded = load("llama")
    config = LOSS_CONFIGS["sigmoid"].model_copy(update={"alpha": 5.0})
    trainer = make_trainer(loaded, config, examples_of(loaded, config), tmp_path, logging_steps=1)
    with pytest.raises(UserError, match=r"training diverged by step 1: .* lower train.args.learning_rate or train.al"):
        trainer.train()


def test_divergence_stops_the_run(load, tmp_path):
    loaded = load("llama")
    config = LOSS_CONFIGS["sigmoid"]
    with torch.no_grad():
        loaded.model.get_input_embeddings().weight.fill_(float("nan"))
    trainer = make_trainer(loaded, config, examples_of(loaded, config), tmp_path, logging_steps=1)
    with pytest.raises(UserError, match=r"training diverged by step 1: .* lower train.args.learning_rate"):
        trainer.train()


def poison_step(monkeypatch, step):
    """Let the gradients of the given step be NaN, as they are after an overflow; the logged loss stays finite."""
    compute = ExampleTrainer.compute_loss

    def compute_or_diverge(trainer, *args, **kwargs):
        loss = compute(trainer, *args, **kwargs)
        return loss * float("nan") if trainer.state.global_step == step - 1 else loss

    monkeypatch.setattr(ExampleTrainer, "compute_loss", compute_or_diverge)


@pytest.mark.parametrize(
    ("step", "args"),
    [(3, {}), (2, {"save_steps": 2}), (3, {"save_steps": 2}), (3, {"save_strategy": "no"}), (2, {"eval_steps": 2})],
)
def test_divergence_between_two_logs_leaves_no_model(model_folder, step, args, tmp_path, monkeypatch):
    """Four steps and a log every ten: weights are checked before they are evaluated, saved or replaced."""
    poison_step(monkeypatch, step)
    kept = ["checkpoint-2"] if step == 3 and "save_steps" in args else []
    evaluation = {"eval_strategy": "steps"} if "eval_steps" in args else {}
    settings = TrainConfig(
        args={"use_cpu": True, "max_steps": 4, "per_device_train_batch_size": 4, "logging_steps": 10}
        | args
        | evaluation
    )
    texts = preference_texts(8)
    with pytest.raises(UserError, match=r"training diverged by step \d: .* lower train\.args\.learning_rate") as error:
        train(str(model_folder("mt5")), texts, settings, tmp_path / "out", eval_texts=texts if evaluation else None)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "out").exists()
    checkpoints = (tmp_path / ".out.partial" / "checkpoints").glob("checkpoint-*")
    assert [path.name for path in checkpoints if any(path.iterdir())] == kept


# --- data -----------------------------------------------------------------------------------------------------------


def test_batches_reach_the_model_as_the_sampler_made_them(load, tmp_path):
    loaded = load("mt5")
    config = LOSS_CONFIGS["sigmoid"]
    examples = examples_of(loaded, config, count=23)
    trainer = make_trainer(loaded, config, examples, tmp_path, per_device_train_batch_size=4, data_seed=3)
    loader = trainer.get_train_dataloader()
    orders = []
    for epoch in range(2):
        loader.set_epoch(epoch)
        orders.append([tuple(map(tuple, batch["input_ids"].tolist())) for batch in loader])
    assert len(loader) == len(orders[0]) == 6
    assert orders[0] != orders[1]
    assert sorted(orders[0]) == sorted(orders[1])
    rows = sorted(tuple(i for i in row if i) for batch in orders[0] for row in batch)
    assert rows == sorted(e.source for e in examples)
    # Evaluation goes by length, the shortest first.
    lengths = [batch["labels"].shape[1] for batch in trainer.get_eval_dataloader(trainer.train_dataset)]
    assert lengths == sorted(lengths)


def test_data_seed_decides_the_batches(load, tmp_path):
    loaded = load("mt5")
    config = LOSS_CONFIGS["sigmoid"]
    examples = examples_of(loaded, config, count=30)
    batches = {}
    for data_seed, seed in ((1, 0), (1, 7), (2, 0)):
        trainer = make_trainer(loaded, config, examples, tmp_path, seed=seed, data_seed=data_seed)
        batches[data_seed, seed] = [batch["input_ids"].tolist() for batch in trainer.get_train_dataloader()]
    assert batches[1, 0] == batches[1, 7] != batches[2, 0]


def test_worker_processes_give_the_same_batches(load, tmp_path):
    loaded = load("mt5")
    config = LOSS_CONFIGS["sigmoid"]
    examples = examples_of(loaded, config, count=12)
    options = {"dataloader_num_workers": 1, "dataloader_persistent_workers": True, "dataloader_prefetch_factor": 3}
    here, there = (
        [
            batch["labels"].tolist()
            for batch in make_trainer(loaded, config, examples, tmp_path, **args).get_train_dataloader()
        ]
        for args in ({}, options)
    )
    assert here == there
