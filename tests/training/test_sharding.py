"""Sharded training: FSDP and DeepSpeed in two processes give what one process gives.

Steps are plain gradient descent with a rate of 1, so what a weight moves by is the sum of its gradients.
"""

import importlib.util
import json
import os
import signal

import pytest
import torch
from accelerate.commands import launch
from accelerate.utils.launch import prepare_deepspeed_cmd_env, prepare_multi_gpu_env
from safetensors.torch import load_file
from support.models import PAIRS, preference_texts
from support.paths import ROOT
from support.processes import allow_sharding_on_cpu, run_in_two_processes
from support.training import interrupt_at
from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard
from torch.distributed.fsdp.wrap import CustomPolicy

from mtcpo.cli.main import main
from mtcpo.core.errors import UserError
from mtcpo.data.file_formats.registry import write_row_file
from mtcpo.data.records import Triplet, triplet_to_json
from mtcpo.models.loading import load_model
from mtcpo.training.config import TrainConfig
from mtcpo.training.sharding import share_embedding_modules
from mtcpo.training.train import train
from mtcpo.training.trainer import ExampleTrainer

pytestmark = pytest.mark.processes

DESCENT = {
    "optim": "sgd", "learning_rate": 1.0, "lr_scheduler_type": "constant", "warmup_steps": 0, "max_grad_norm": 0.0,
    "max_steps": 2, "per_device_train_batch_size": 3, "logging_steps": 1,
}  # fmt: skip

FSDP = {"fsdp": "full_shard auto_wrap", "fsdp_config": {"version": 2}}


def zero(stage):
    auto = dict.fromkeys(("train_micro_batch_size_per_gpu", "gradient_accumulation_steps", "gradient_clipping"), "auto")
    return {"deepspeed": auto | {"zero_optimization": {"stage": stage}, "zero_allow_untested_optimizer": True}}


NEEDS_DEEPSPEED = pytest.mark.skipif(
    importlib.util.find_spec("deepspeed") is None, reason="deepspeed is not installed: pip install deepspeed"
)
WAYS = [
    pytest.param(FSDP, id="fsdp"),
    pytest.param(zero(3), id="zero3", marks=NEEDS_DEEPSPEED),
    pytest.param(zero(2), id="zero2", marks=NEEDS_DEEPSPEED),
]


def in_two(folder, function, *args, **environment):
    return run_in_two_processes(
        folder, function, *args, setup=allow_sharding_on_cpu, DS_ACCELERATOR="cpu", **environment
    )


def settings_of(args, **values):
    return TrainConfig(args=DESCENT | args, **values)


def train_pairs(model, args, out, values):
    train(str(model), preference_texts(12), settings_of(args, **values), out, eval_texts=preference_texts(5, start=60))


def weights(folder):
    name = "model.safetensors" if (folder / "model.safetensors").exists() else "adapter_model.safetensors"
    return load_file(folder / name)


def assert_same_weights(one, other, tolerance):
    one, other = weights(one), weights(other)
    assert one.keys() == other.keys()
    for name, tensor in one.items():
        torch.testing.assert_close(tensor, other[name], atol=tolerance, rtol=0, msg=lambda text, name=name: name + text)


def figures(folder):
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    timed = ("runtime", "per_second", "preparation_time", "total_flos", "grad_norm", "samples")
    return [{key: value for key, value in row.items() if not key.endswith(timed)} for row in rows]


def files(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


@pytest.fixture
def dev(tmp_path):
    for name, column in (("dev.en", 0), ("dev.de", 1)):
        (tmp_path / name).write_text("".join(pair[column] + "\n" for pair in PAIRS[:7]), encoding="utf-8")
    files = {"source": str(tmp_path / "dev.en"), "references": [str(tmp_path / "dev.de")]}
    decoding = {"max_new_tokens": 8, "batch_size": 3}
    return files | {"src_lang": "en", "tgt_lang": "de", "metrics": ["chrf"], "decoding": decoding}


# --- one step, to the last digit ------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", ["t5", "mt5", "marian", "llama", "mt5 adapters"])
def test_gradients_losses_and_files_are_those_of_one_process(model_folder, dev, way, kind, tmp_path):
    """Tied and untied embeddings, adapters; two micro-batches in each of two processes against four in one."""
    model = model_folder(kind.split()[0])
    values, steps = ({"lora": {"r": 4}}, 1) if "adapters" in kind else ({"dev": dev}, 2)
    args = {"gradient_accumulation_steps": 2, "max_steps": steps}
    train_pairs(model, args | {"gradient_accumulation_steps": 4}, tmp_path / "one", values)
    outcome = in_two(tmp_path, train_pairs, model, way | args, tmp_path / "two", values)
    assert [code for code, _ in outcome] == [0, 0], outcome[0][1]
    assert_same_weights(tmp_path / "one", tmp_path / "two", 1e-6)
    assert files(tmp_path / "one") == files(tmp_path / "two")
    one, two = figures(tmp_path / "one"), figures(tmp_path / "two")
    assert len(one) == len(two)
    for row, other in zip(one, two, strict=True):
        assert row == pytest.approx(other, rel=2e-5, abs=1e-6)
    load_model(str(tmp_path / "two"), "float32", device="cpu")  # with its canary


def launcher_environment(file):
    """What `accelerate launch --config_file` gives its processes."""
    args = launch.launch_command_parser().parse_args(["--config_file", str(ROOT / "docs/accelerate" / file), "x.py"])
    args, file, _ = launch._validate_launch_command(args)
    args.deepspeed_fields_from_accelerate_config = ",".join(file.deepspeed_config)
    found = prepare_deepspeed_cmd_env(args)[1] if args.use_deepspeed else prepare_multi_gpu_env(args)
    return {key: value for key, value in found.items() if key.startswith(("ACCELERATE_", "FSDP_"))}


@pytest.mark.parametrize("file", ["fsdp.yaml", pytest.param("zero3.yaml", marks=NEEDS_DEEPSPEED)])
def test_the_accelerate_files_of_the_docs_work(model_folder, file, tmp_path):
    model = model_folder("llama")
    args = {"max_grad_norm": 1.0}  # DeepSpeed has it by itself
    train_pairs(model, args | {"gradient_accumulation_steps": 2}, tmp_path / "one", {})
    outcome = in_two(tmp_path, train_pairs, model, args, tmp_path / "two", {}, **launcher_environment(file))
    assert [code for code, _ in outcome] == [0, 0], outcome[0][1]
    assert_same_weights(tmp_path / "one", tmp_path / "two", 1e-6)


# --- interrupts and errors ------------------------------------------------------------------------------------------

ADAPTIVE = {"optim": "adamw_torch", "learning_rate": 1e-3, "max_steps": 4}


def train_interrupted(model, args, out, step):
    """Send the signal to the second process alone."""
    if os.environ["RANK"] == "1":
        interrupt_at(pytest.MonkeyPatch(), step, signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt):
        train_pairs(model, args, out, {"dropout": "model"})


@pytest.mark.parametrize("way", WAYS[:2])
def test_interrupted_sharded_training_resumes_to_the_same_weights(model_folder, way, tmp_path):
    model, args = model_folder("mt5"), way | ADAPTIVE
    whole = in_two(tmp_path, train_pairs, model, args, tmp_path / "whole", {"dropout": "model"})
    first = in_two(tmp_path, train_interrupted, model, args, tmp_path / "parts", 2)
    assert [path.name for path in tmp_path.glob(".parts.partial/checkpoints/*")] == ["checkpoint-2"]
    rest = in_two(tmp_path, train_pairs, model, args, tmp_path / "parts", {"dropout": "model"})
    for outcome in (whole, first, rest):
        assert [code for code, _ in outcome] == [0, 0], outcome[0][1]
    assert json.loads((tmp_path / "parts" / "training.json").read_text())["steps"] == 4
    assert_same_weights(tmp_path / "whole", tmp_path / "parts", 0.0)


def fail_alone(arguments):
    """Run a command whose second process fails at the second step."""
    take = ExampleTrainer.get_batch_samples

    def take_or_fail(trainer, *args):
        if trainer.state.global_step == 1 and os.environ["RANK"] == "1":
            raise UserError("the disk of this machine is full")
        return take(trainer, *args)

    ExampleTrainer.get_batch_samples = take_or_fail
    main(arguments)


@pytest.mark.parametrize("way", [pytest.param({}, id="replicas"), pytest.param(FSDP, id="fsdp")])
def test_an_error_in_one_process_ends_all_with_one_line_each(model_folder, way, tmp_path):
    triplets = [Triplet(str(i), "en", "de", t.source, *t.targets) for i, t in enumerate(preference_texts(12))]
    write_row_file(tmp_path / "p.jsonl", map(triplet_to_json, triplets))
    command = ["train", "--model", model_folder("mt5"), "--prefs", tmp_path / "p.jsonl", "--output-dir", tmp_path / "o"]
    settings = {"per_device_train_batch_size": 2, "use_cpu": not way} | way
    command += [part for key, value in settings.items() for part in ("--set", f"train.args.{key}={json.dumps(value)}")]
    outcome = run_in_two_processes(
        tmp_path, fail_alone, [str(part) for part in command], setup=allow_sharding_on_cpu if way else None
    )
    for (code, output), line in zip(outcome, ("another training process exited", "the disk"), strict=True):
        assert code == 2, output
        assert "Traceback" not in output
        assert [part for part in output.splitlines() if part.startswith("mtcpo: ")][-1].startswith(f"mtcpo: {line}")
    assert not (tmp_path / "o").exists()


# --- a head with shares of its own ----------------------------------------------------------------------------------


def pair_objective(part):
    chosen, rejected = part.token_logps.sum(-1).chunk(2)
    return -torch.nn.functional.logsigmoid(0.1 * (chosen - rejected)).sum() / 8 - chosen.sum() / 100


def step(model, loaded, texts):
    """Run forward and backward over pairs and return their loss."""
    batch = loaded.layout.collate(loaded.layout.encode(texts))
    loss = loaded.layout.score(model, loaded.head, batch, pair_objective).loss
    processes = torch.distributed.get_world_size() if torch.distributed.is_initialized() else 1
    (loss * processes).backward()  # shares of a sum; gradients are averaged over processes
    return loss.detach()


def shard_by_second(model, units):
    for unit in units:
        fully_shard(unit, reshard_after_forward=True)
    fully_shard(model, reshard_after_forward=True)
    return model


def shard_by_first(model, units):
    policy = CustomPolicy(lambda module: module in units)
    return FullyShardedDataParallel(model, auto_wrap_policy=policy, use_orig_params=True, device_id=torch.device("cpu"))


def gradients_of(model):
    if isinstance(model, FullyShardedDataParallel):
        with FullyShardedDataParallel.summon_full_params(model, with_grads=True):
            found = model.module.named_parameters()
            return {name.replace("_fsdp_wrapped_module.", ""): p.grad.clone() for name, p in found}
    return {
        name: p.grad.full_tensor() if hasattr(p.grad, "full_tensor") else p.grad.clone()
        for name, p in model.named_parameters()
    }


def step_in_shares(name, shard, texts, out):
    """Shard a model, with lm_head and layers as units that are resharded after use, and write loss and gradients."""
    torch.distributed.init_process_group("gloo")
    loaded = load_model(name, "float32", device="cpu")
    share_embedding_modules(loaded.model)
    head = loaded.model.get_output_embeddings()
    units = [m for m in loaded.model.modules() if type(m).__name__ in loaded.model._no_split_modules]
    if head.weight is not loaded.model.get_input_embeddings().weight:
        units.append(head)
    model = shard(loaded.model, units)
    rank = torch.distributed.get_rank()
    for _ in range(2):  # the second pass finds what the first has left
        model.zero_grad()
        loss = step(model, loaded, texts[rank::2])
    torch.distributed.all_reduce(loss)
    found = gradients_of(model)
    if rank == 0:
        torch.save({"loss": loss} | found, out)


@pytest.mark.parametrize("kind", ["t5", "mt5", "llama"])
@pytest.mark.parametrize("shard", [shard_by_first, shard_by_second])
def test_an_lm_head_that_is_sharded_by_itself(model_folder, shard, kind, tmp_path):
    """Its whole weight exists during its own call alone, and not in the backward pass."""
    name, texts = str(model_folder(kind)), preference_texts(8)
    outcome = run_in_two_processes(tmp_path, step_in_shares, name, shard, texts, tmp_path / "found.pt")
    assert [code for code, _ in outcome] == [0, 0], outcome[0][1]
    loaded = load_model(name, "float32", device="cpu")
    expected = {"loss": step(loaded.model, loaded, texts)} | gradients_of(loaded.model)
    found = torch.load(tmp_path / "found.pt")
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        torch.testing.assert_close(found[key], value, atol=1e-6, rtol=1e-5, msg=lambda text, key=key: key + text)


# --- what is refused ------------------------------------------------------------------------------------------------


def refuse(model, args, values, out, message):
    with pytest.raises(UserError, match=message):
        train_pairs(model, args, out, values)
    if torch.distributed.is_initialized():
        # A process that ended now would take the connection away from one that is still setting it up.
        torch.distributed.barrier()


REFUSED = {
    "first": (
        {"fsdp": "full_shard", "fsdp_config": {"version": 1, "sync_module_states": False}}, {},
        r"train.args.fsdp: FSDP 1 is not supported", {"FSDP_VERSION": "1"},  # transformers 5, and 4.57
    ),
    "compiled": (FSDP | {"torch_compile": True}, {}, r"compiled layers are not supported with sharded", {}),
    "one reader": (
        {"fsdp": "full_shard", "fsdp_config": {"version": 2, "cpu_ram_efficient_loading": True}}, {},
        r"train\.args\.fsdp_config: cpu_ram_efficient_loading leaves all processes but one without weights", {},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_unsupported_sharding_is_refused_before_training(model_folder, name, tmp_path):
    args, values, message, environment = REFUSED[name]
    outcome = in_two(tmp_path, refuse, model_folder("mt5"), args, values, tmp_path / "out", message, **environment)
    assert [code for code, _ in outcome] == [0, 0], outcome[0][1]


def test_sharding_that_accelerate_would_skip_is_refused(model_folder, tmp_path):
    """On CPUs, accelerate ignores its own environment variables."""
    args = {"use_cpu": True}
    message = r"FSDP is requested, but accelerate uses MULTI_CPU: it shards on GPUs only"
    outcome = run_in_two_processes(
        tmp_path, refuse, model_folder("mt5"), args, {}, tmp_path / "out", message, ACCELERATE_USE_FSDP="true"
    )
    assert [code for code, _ in outcome] == [0, 0], outcome[0][1]
