"""Low-rank adapters (LoRA, arXiv 2106.09685; QLoRA, arXiv 2305.14314) by peft: added, saved, merged.

Wherever a model is named, a directory of adapters will do: its base is found from adapter_config.json, and the adapters
are merged into it when it is loaded. Nothing after that asks whether the model once was adapters.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from mtcpo.core.errors import UserError, first_line
from mtcpo.core.hub import hub_file
from mtcpo.models.config import LoraConfig, Quantization
from mtcpo.models.families import Family

ADAPTER_CONFIG = "adapter_config.json"
TASKS = {"encoder-decoder": "SEQ_2_SEQ_LM", "decoder-only": "CAUSAL_LM"}
"""Layout -> peft's name of the task, by which other tools choose the class of the base."""


def import_peft(what: str) -> Any:
    """Return the module peft.

    Raises:
        UserError: it is not installed; `what` needs it.
    """
    try:
        import peft
    except ImportError:
        raise UserError(f"{what} needs the package peft; install it with: pip install 'mtcpo[lora]'") from None
    return peft


# --- reading --------------------------------------------------------------------------------------------------------


def adapters_base(path: str) -> str | None:
    """Return the model that a directory (or hub name) of adapters belongs to; None where it is a model itself.

    Raises:
        UserError: adapter_config.json is damaged, or its base is no longer where it was.
    """
    file = _config_file(path)
    if file is None:
        return None
    try:
        base = json.loads(file.read_text(encoding="utf-8"))["base_model_name_or_path"]
    except (ValueError, KeyError, TypeError):
        base = None
    if not isinstance(base, str) or not base:
        raise UserError(f"{file}: no base_model_name_or_path in it; set it to the model that the adapters belong to")
    if not Path(base).is_absolute() or Path(base).is_dir():
        return base
    # A run directory that was moved. Should another base lie there, the canary, of base and adapters, shows it.
    beside = file.parent.parent / Path(base).name
    if (file.parent / "canary.json").exists() and (beside / "config.json").exists():
        return str(beside)
    raise UserError(
        f"{path}: their base model {base} does not exist; restore it, or set base_model_name_or_path in {file} to "
        "where it is now"
    )


def _config_file(path: str) -> Path | None:
    folder = Path(path)
    if folder.is_dir():
        return folder / ADAPTER_CONFIG if _is_there(folder) else None
    if folder.is_absolute() or hub_file(path, "config.json"):
        return None
    return hub_file(path, ADAPTER_CONFIG)


def _is_there(folder: Path) -> bool:
    return (folder / ADAPTER_CONFIG).exists() and not (folder / "config.json").exists()


def merge_adapters(model: Any, path: str) -> Any:
    """Return `model` with the adapters of a directory (or hub name) merged into its weights.

    Raises:
        UserError: peft is missing, or the adapters do not fit the model.
    """
    peft = import_peft(f"{path}: a directory of adapters")
    # merge_and_unload returns frozen weights; training goes on from them as from any model.
    trainable = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
    try:
        wrapped = peft.get_peft_model(model, peft.PeftConfig.from_pretrained(path))
        result = wrapped.load_adapter(path, "default", torch_device=str(next(model.parameters()).device))
    except (ValueError, RuntimeError, OSError) as error:
        raise UserError(f"{path}: the adapters do not fit their base ({first_line(error)})") from error
    problems = []
    for word, keys in (("missing", result.missing_keys), ("unexpected", result.unexpected_keys)):
        if keys:
            problems.append(f"{len(keys)} {word} ({', '.join(sorted(keys)[:5])})")
    if problems:
        raise UserError(f"{path}: the adapters do not fit their base: {'; '.join(problems)}")
    merged = wrapped.merge_and_unload()
    for name, parameter in merged.named_parameters():
        parameter.requires_grad_(trainable[name])
    return merged


# --- training -------------------------------------------------------------------------------------------------------


def add_adapters(model: Any, family: Family, lora: LoraConfig, base: str) -> Any:
    """Return `model` frozen, with new adapters to train; `base` is where it came from.

    Raises:
        UserError: peft is missing, there are no such modules, or the lm_head is among them.
    """
    peft = import_peft("train.lora")
    from peft.tuners.tuners_utils import BaseTunerLayer

    chosen = lora.target_modules or family.adapter_modules
    settings = peft.LoraConfig(
        task_type=TASKS[family.layout], r=lora.r, lora_alpha=lora.alpha, lora_dropout=lora.dropout,
        target_modules=chosen if isinstance(chosen, str) else list(chosen),
    )  # fmt: skip
    if lora.quantization is not None:
        # Puts layer norms and embeddings in float32 and freezes all; gradient checkpointing is the trainer's to set up.
        model = peft.prepare_model_for_kbit_training(model, use_gradient_checkpointing=False)
    try:
        wrapped = peft.get_peft_model(model, settings)
    except ValueError as error:
        raise UserError(f"train.lora: {first_line(error)}") from error
    # The fused head multiplies by the lm_head's weight, past any adapter on it.
    if isinstance(wrapped.get_output_embeddings(), BaseTunerLayer):
        raise UserError("train.lora.target_modules: lm_head cannot have an adapter; name other layers")
    # Absolute: the adapters may be written to another directory than the one where training was started.
    wrapped.peft_config["default"].base_model_name_or_path = str(Path(base).resolve()) if Path(base).is_dir() else base
    return wrapped


def save_adapters(model: Any, folder: Path) -> None:
    """Write the adapters of a model, without its base, into the existing `folder`."""
    # The embeddings are the base's; peft would ask the hub whether they have changed.
    model.save_pretrained(folder, save_embedding_layers=False)


# --- quantization ---------------------------------------------------------------------------------------------------


def quantization_settings(quantization: Quantization) -> Any:
    """Return transformers' settings for a base in 4 bits (NF4 with double quantization, as QLoRA) or in 8.

    Raises:
        UserError: bitsandbytes is missing.
    """
    from transformers import BitsAndBytesConfig

    try:
        import bitsandbytes  # noqa: F401
    except ImportError:
        raise UserError(
            f"train.lora.quantization = {quantization!r} needs the package bitsandbytes, and a GPU to be of use; "
            "install it with: pip install 'mtcpo[qlora]', or leave quantization out"
        ) from None
    if quantization == "8bit":
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
    )  # fmt: skip


def keep_differentiable(model: Any) -> None:
    """Keep the layers of a base in 4 bits in a form that gradients pass through.

    On CPUs with AVX512-BF16 bitsandbytes repacks a layer at its first forward pass in evaluation mode, the canary's,
    for a kernel that has no derivative: everything below the layer would then be trained on wrong gradients.
    """
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False
