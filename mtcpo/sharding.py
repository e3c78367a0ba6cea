"""Models whose weights are in shares among processes, by FSDP or DeepSpeed ZeRO-3: what others must know of it.

Every process loads the whole model, whose canary proves it, and the libraries take it apart when training begins. At
the end the shares are gathered, and the first process puts them into the model loaded anew.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from mtcpo.errors import UserError

GATHER_AT_SAVE = "stage3_gather_16bit_weights_on_model_save"


@contextmanager
def loading_whole() -> Iterator[None]:
    """Have the library load all weights, where DeepSpeed's settings would have it load a share."""
    from transformers.integrations import deepspeed

    settings = deepspeed._hf_deepspeed_config_weak_ref
    deepspeed.unset_hf_deepspeed_config()
    try:
        yield
    finally:
        deepspeed._hf_deepspeed_config_weak_ref = settings


def shard_later(args: Any) -> None:
    """Have the libraries load all weights in every process, which accelerate's launcher would have in one only.

    Raises:
        UserError: the settings ask for the other.
    """
    if (getattr(args, "fsdp_config", None) or {}).get("cpu_ram_efficient_loading") in (True, "true"):
        raise UserError(
            "train.args.fsdp_config: cpu_ram_efficient_loading leaves all processes but one without weights, so that "
            "none of them could be checked; leave it out"
        )
    os.environ["FSDP_CPU_RAM_EFFICIENT_LOADING"] = "false"


def is_sharded(accelerator: Any) -> bool:
    """Tell whether no process has all weights."""
    kind = str(accelerator.distributed_type).rpartition(".")[2]
    return kind == "FSDP" or (kind == "DEEPSPEED" and accelerator.state.deepspeed_plugin.zero_stage == 3)


def check_sharding(accelerator: Any, args: Any, quantized: bool) -> None:
    """Refuse what would not be done, or was never proved, and let ZeRO-3 gather what is to be saved.

    Raises:
        UserError: FSDP or DeepSpeed are asked for and do not come, or weights in shares that are compiled or quantized.
    """
    kind = str(accelerator.distributed_type).rpartition(".")[2]
    for name, asked, variable in (
        ("FSDP", args.fsdp, "ACCELERATE_USE_FSDP"),
        ("DEEPSPEED", args.deepspeed, "ACCELERATE_USE_DEEPSPEED"),
    ):
        if (asked or os.environ.get(variable, "").lower() == "true") and kind != name:
            raise UserError(
                f"train.args: {name} is asked for, and accelerate gives {kind}: it shards on GPUs only, in processes "
                "that `accelerate launch` or torchrun started, and with train.args.use_cpu unset"
            )
    if not is_sharded(accelerator):
        return
    if quantized:
        raise UserError("train.lora.quantization: weights in 4 or 8 bits cannot be sharded; train without one of both")
    if args.torch_compile:
        raise UserError("train.args.torch_compile: compiled layers are not proved with sharded weights; leave it out")
    if kind == "DEEPSPEED":
        accelerator.state.deepspeed_plugin.deepspeed_config["zero_optimization"][GATHER_AT_SAVE] = True


def join_tables(model: Any) -> None:
    """Let stacks that look up the same table have one module for it: FSDP gathers by modules, not by tables."""
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    shared = base.get_input_embeddings()
    for stack in (base.get_encoder(), base.get_decoder()) if base.config.is_encoder_decoder else ():
        own = stack.embed_tokens
        if own is not shared and own.weight is shared.weight and type(own) is type(shared) and _scale(own) == _scale(shared):
            stack.embed_tokens = shared


def _scale(table: nn.Module) -> Any:
    return getattr(table, "embed_scale", None)


@contextmanager
def generating(model: Any) -> Iterator[None]:
    """Let the model inside a wrapped one generate; all processes must do so together, for as many batches."""
    from torch.distributed.fsdp import FullyShardedDataParallel

    if not isinstance(model, FullyShardedDataParallel):
        yield
        return
    with FullyShardedDataParallel.summon_full_params(model, recurse=False, writeback=False):
        yield


def fill(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Put gathered weights into a whole model; tied ones may be among them once."""
    found = model.load_state_dict(state, strict=False)
    own = model.state_dict()
    filled = {own[name].data_ptr() for name in state if name in own}
    lost = [name for name in found.missing_keys if own[name].data_ptr() not in filled]
    if lost or found.unexpected_keys:
        raise RuntimeError(f"weights lost on their way out of shares: {lost}, {found.unexpected_keys}")
