"""Sharded training: weights that are distributed over processes by FSDP or DeepSpeed ZeRO-3.

Every process loads the whole model and checks it by its canary; FSDP or DeepSpeed shard it when training begins. At the
end the weights are gathered, and the first process puts them into the model, which it loads once more.
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
"""What gloo and NCCL say when a process has ended."""

GATHER_AT_SAVE = "stage3_gather_16bit_weights_on_model_save"


def defer_sharding(args: Any) -> None:
    """Have weights sharded only after every process has loaded all of them, and by FSDP 2; sets environment variables.

    By default accelerate's launcher has one process alone load the weights, and transformers 4.57 takes FSDP 1. The
    checkpoints of a run stay sharded: with tied embeddings, whole ones cannot be read back into shards.

    Raises:
        UserError: the settings ask for weights in one process alone.
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
    """Whether each process has only a part of the weights."""
    kind = str(accelerator.distributed_type).rpartition(".")[2]
    return kind == "FSDP" or (kind == "DEEPSPEED" and accelerator.state.deepspeed_plugin.zero_stage == 3)


def check_sharding(accelerator: Any, args: Any, quantized: bool) -> None:
    """Refuse sharding that accelerate would not do or that is not supported; let ZeRO-3 gather what is saved.

    Raises:
        UserError: FSDP or DeepSpeed are requested and not used, or sharded weights would be compiled or quantized.
    """
    kind = str(accelerator.distributed_type).rpartition(".")[2]
    for name, argument, variable in (
        ("FSDP", args.fsdp, "ACCELERATE_USE_FSDP"),
        ("DEEPSPEED", args.deepspeed, "ACCELERATE_USE_DEEPSPEED"),
    ):
        is_requested = argument or os.environ.get(variable, "").lower() == "true"
        # Where it cannot shard, accelerate trains without a word as if nothing had been requested.
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
    """Let encoder and decoder share one embedding module: FSDP refuses a weight that two modules have."""
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    embeddings = base.get_input_embeddings()
    for name, module in list(base.named_modules()):
        has_same_weight = type(module) is type(embeddings) and module.weight is embeddings.weight
        # Some models scale what they look up.
        if has_same_weight and getattr(module, "embed_scale", None) == getattr(embeddings, "embed_scale", None):
            base.set_submodule(name, embeddings)


def local_part(parameter: Tensor) -> Tensor:
    """Return the part of a parameter that this process has: all of it, or its shard."""
    if hasattr(parameter, "ds_tensor"):  # DeepSpeed ZeRO-3
        shard: Tensor = parameter.ds_tensor
        return shard
    return parameter.to_local() if isinstance(parameter, DTensor) else parameter


@contextmanager
def explain_lost_peer() -> Iterator[None]:
    """Report in one line that another process has ended, where this one finds its connection closed.

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
    """Put gathered weights into a whole model; of tied ones, only one may be among them.

    Raises:
        RuntimeError: a weight is missing or unexpected, which is a bug.
    """
    outcome = model.load_state_dict(state, strict=False)
    weights = model.state_dict()
    # Tied weights have several names and one storage.
    filled = {weights[name].data_ptr() for name in state if name in weights}
    lost = [name for name in outcome.missing_keys if weights[name].data_ptr() not in filled]
    if lost or outcome.unexpected_keys:
        raise RuntimeError(f"weights lost while gathering: {lost}, {outcome.unexpected_keys}")


class ShardableTrainer(Seq2SeqTrainer):
    """Seq2SeqTrainer of transformers, mended where it goes wrong with sharded weights.

    loaded: the model that is trained, set before the trainer is made.
    """

    loaded: LoadedModel

    def __init__(self, args: Any, **kwargs: Any) -> None:
        """Set up the trainer.

        Raises:
            UserError: as `check_sharding`.
        """
        # Without a launcher transformers would wrap the model in DataParallel as soon as it sees a second GPU.
        args._n_gpu = min(args.n_gpu, 1)
        super().__init__(args=args, **kwargs)
        check_sharding(self.accelerator, args, quantized=getattr(self.loaded.model, "is_quantized", False))
        if self.is_fsdp_enabled:
            share_embedding_modules(self.loaded.model)

    def create_optimizer(self, *args: Any, **kwargs: Any) -> Any:
        """Make the optimizer of transformers, without empty groups of parameters, such as adapters have for biases.

        DeepSpeed drops those, and the schedule, which transformers 4.57 has made before, would still count them.
        """
        optimizer = super().create_optimizer(*args, **kwargs)
        optimizer.param_groups[:] = [group for group in optimizer.param_groups if group["params"]]
        return optimizer

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Save a checkpoint as transformers does."""
        if output_dir is not None:
            # Of sharded weights it writes nothing yet, and then looks whether the best checkpoint's folder exists: one
            # process would find it and another not, and wait for ever for the other to load it.
            Path(output_dir).mkdir(parents=True, exist_ok=True)
        super().save_model(output_dir, _internal_call=_internal_call)

    def gather_model(self, reload: Callable[[], LoadedModel] | None) -> LoadedModel | None:
        """Return the whole model as it is now in the first process, None in the others; all must call it.

        reload: loads the model once more, to take the gathered weights where they are sharded.

        Raises:
            UserError: the weights are sharded, and there is no `reload`.
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
