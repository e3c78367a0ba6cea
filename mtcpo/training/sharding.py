"""Sharded training: weights are distributed over processes by FSDP or DeepSpeed ZeRO-3.

Every process loads the whole model and checks its canary; FSDP or DeepSpeed shard it when training begins. At the end,
the weights are gathered, and the first process loads the model again and puts them into it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from transformers import Seq2SeqTrainer

from mtcpo.core.errors import UserError
from mtcpo.models.loading import LoadedModel

SHARDED = "SHARDED_STATE_DICT"
LOST_CONNECTION = ("Connection closed by peer", "Connection reset by peer", "Broken pipe", "remote process exited")
"""Parts of gloo's and NCCL's messages when a process has ended."""

GATHER_AT_SAVE = "stage3_gather_16bit_weights_on_model_save"


def defer_sharding(args: Any) -> None:
    """Shard weights only after every process has loaded all of them, and with FSDP 2; sets environment variables.

    By default, accelerate's launcher lets only one process load the weights, and transformers 4.57 uses FSDP 1.
    Checkpoints stay sharded: with tied embeddings, gathered ones cannot be loaded into shards.

    Raises:
        UserError: the settings require that only one process loads the weights.
    """
    if str((getattr(args, "fsdp_config", None) or {}).get("cpu_ram_efficient_loading", "")).lower() == "true":
        raise UserError(
            "train.args.fsdp_config: cpu_ram_efficient_loading leaves all processes but one without weights, which "
            "therefore could not check their canary; leave it out"
        )
    os.environ["FSDP_CPU_RAM_EFFICIENT_LOADING"] = "false"
    os.environ["FSDP_STATE_DICT_TYPE"] = SHARDED
    os.environ.setdefault("FSDP_VERSION", "2")
    if getattr(args, "fsdp_plugin_args", None):  # transformers 5
        args.fsdp_plugin_args["state_dict_type"] = SHARDED


def is_sharded(accelerator: Any) -> bool:
    """Whether each process has only a shard of the weights."""
    kind = str(accelerator.distributed_type).rpartition(".")[2]
    return kind == "FSDP" or (kind == "DEEPSPEED" and accelerator.state.deepspeed_plugin.zero_stage == 3)


def check_sharding(accelerator: Any, args: Any, quantized: bool) -> None:
    """Refuse sharding that accelerate would ignore or that is not supported; make ZeRO-3 gather weights for saving.

    Raises:
        UserError: FSDP or DeepSpeed is requested but not used, or sharded weights would be compiled or quantized.
    """
    kind = str(accelerator.distributed_type).rpartition(".")[2]
    for name, argument, variable in (
        ("FSDP", args.fsdp, "ACCELERATE_USE_FSDP"),
        ("DEEPSPEED", args.deepspeed, "ACCELERATE_USE_DEEPSPEED"),
    ):
        is_requested = argument or os.environ.get(variable, "").lower() == "true"
        # If it cannot shard, accelerate silently trains as if nothing had been requested.
        if is_requested and kind != name:
            raise UserError(
                f"train.args: {name} is requested, but accelerate uses {kind}: it shards on GPUs only, in processes "
                "that `accelerate launch` or torchrun started, and with train.args.use_cpu unset"
            )
    if not is_sharded(accelerator):
        return
    if kind == "FSDP" and accelerator.state.fsdp_plugin.fsdp_version != 2:
        raise UserError(
            "train.args.fsdp: FSDP 1 is not supported; use FSDP 2, by `accelerate launch --fsdp_version 2`, or by "
            "fsdp_version: 2 in accelerate's configuration file"
        )
    if quantized:
        raise UserError("train.lora.quantization: weights in 4 or 8 bits cannot be sharded; leave out one of the two")
    if args.torch_compile:
        raise UserError(
            "train.args.torch_compile: compiled layers are not supported with sharded weights; leave it out"
        )
    if kind == "DEEPSPEED":
        accelerator.state.deepspeed_plugin.deepspeed_config["zero_optimization"][GATHER_AT_SAVE] = True


def share_embedding_modules(model: Any) -> None:
    """Let encoder and decoder share one embedding module: FSDP refuses a weight that belongs to two modules."""
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    embeddings = base.get_input_embeddings()
    for name, module in list(base.named_modules()):
        has_same_weight = type(module) is type(embeddings) and module.weight is embeddings.weight
        # Some models scale their embeddings.
        if has_same_weight and getattr(module, "embed_scale", None) == getattr(embeddings, "embed_scale", None):
            base.set_submodule(name, embeddings)


def local_part(parameter: Tensor) -> Tensor:
    """Return this process's part of a parameter: its shard, or all of it."""
    if hasattr(parameter, "ds_tensor"):  # DeepSpeed ZeRO-3
        shard: Tensor = parameter.ds_tensor
        return shard
    return parameter.to_local() if isinstance(parameter, DTensor) else parameter


@contextmanager
def explain_lost_peer() -> Iterator[None]:
    """Turn the error of a closed connection into one line: another process has ended.

    Raises:
        UserError: the connection is closed; the other process has printed why.
    """
    try:
        yield
    except RuntimeError as error:
        if any(sign in str(error) for sign in LOST_CONNECTION) and torch.distributed.is_initialized():
            raise UserError("another training process exited; see its error message") from error
        raise


def load_gathered_state(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Load gathered weights into a whole model; `state` may have only one of several tied names.

    Raises:
        RuntimeError: a weight is missing or unexpected, which is a bug.
    """
    outcome = model.load_state_dict(state, strict=False)
    weights = model.state_dict()
    # Tied weights have several names but one storage.
    filled = {weights[name].data_ptr() for name in state if name in weights}
    lost = [name for name in outcome.missing_keys if weights[name].data_ptr() not in filled]
    if lost or outcome.unexpected_keys:
        raise RuntimeError(f"weights lost while gathering: {lost}, {outcome.unexpected_keys}")


class ShardableTrainer(Seq2SeqTrainer):
    """transformers' Seq2SeqTrainer, with fixes for sharded weights.

    loaded: the model to train, set before the constructor of transformers runs.
    """

    loaded: LoadedModel

    def __init__(self, args: Any, **kwargs: Any) -> None:
        """Set up the trainer.

        Raises:
            UserError: as `check_sharding`.
        """
        # Without a launcher, transformers would wrap the model in DataParallel if it sees a second GPU.
        args._n_gpu = min(args.n_gpu, 1)
        super().__init__(args=args, **kwargs)
        check_sharding(self.accelerator, args, quantized=getattr(self.loaded.model, "is_quantized", False))
        if self.is_fsdp_enabled:
            share_embedding_modules(self.loaded.model)

    def create_optimizer(self, *args: Any, **kwargs: Any) -> Any:
        """Create transformers' optimizer, without empty parameter groups, such as adapters have for biases.

        DeepSpeed drops those, but the schedule, which transformers 4.57 creates before, would still count them.
        """
        optimizer = super().create_optimizer(*args, **kwargs)
        optimizer.param_groups[:] = [group for group in optimizer.param_groups if group["params"]]
        return optimizer

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Save a checkpoint; its folder exists even if the weights are sharded."""
        if output_dir is not None:
            # transformers does not write sharded weights here, but then checks whether the best checkpoint's folder
            # exists: if one process found it and another did not, they would wait for each other forever.
            Path(output_dir).mkdir(parents=True, exist_ok=True)
        super().save_model(output_dir, _internal_call=_internal_call)

    def gather_model(self, reload: Callable[[], LoadedModel] | None) -> LoadedModel | None:
        """Return the whole trained model in the first process, None in the others; all processes must call it.

        reload: loads the model again, to receive the gathered weights if they are sharded.

        Raises:
            UserError: the weights are sharded, but `reload` is None.
        """
        if not is_sharded(self.accelerator):
            model = self.accelerator.unwrap_model(self.model, keep_torch_compile=False)
            return self.loaded.with_model(model) if self.is_world_process_zero() else None
        if reload is None:
            raise UserError("a model given in memory cannot be saved when its weights are sharded; pass its name")
        state = self.accelerator.get_state_dict(self.model_wrapped)
        if not self.is_world_process_zero():
            return None
        whole = reload()
        load_gathered_state(whole.model, state)
        return whole
