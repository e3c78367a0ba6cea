"""Low-rank adapters (LoRA, arXiv 2106.09685; QLoRA, arXiv 2305.14314) by peft: added, saved, merged.

Wherever a model is named, a directory of adapters will do: adapter_config.json names its base, and the adapters are
merged into the base at loading. After that, nothing asks whether the model came from adapters.
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
"""Layout -> peft's task type, by which other tools choose the base model's class."""


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
    """Return the base model of a directory (or hub name) of adapters; None if it is a whole model.

    Raises:
        UserError: adapter_config.json is damaged, or the base is not where it says.
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
    # The run directory was moved: look beside the adapters. If that is another base, the canary shows it.
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
    # merge_and_unload returns frozen weights, but the merged model must be trainable like any other.
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
    """Return `model`, frozen, with new trainable adapters. base: name or directory that the model was loaded from.

    Raises:
        UserError: peft is missing, no module matches, or the lm_head is among the modules.
    """
    peft = import_peft("train.lora")
    from peft.tuners.tuners_utils import BaseTunerLayer

    chosen = lora.target_modules or family.adapter_modules
    settings = peft.LoraConfig(
        task_type=TASKS[family.layout], r=lora.r, lora_alpha=lora.alpha, lora_dropout=lora.dropout,
        target_modules=chosen if isinstance(chosen, str) else list(chosen),
    )  # fmt: skip
    if lora.quantization is not None:
        # Casts layer norms and embeddings to float32 and freezes all; the trainer sets up gradient checkpointing.
        model = peft.prepare_model_for_kbit_training(model, use_gradient_checkpointing=False)
    try:
        wrapped = peft.get_peft_model(model, settings)
    except ValueError as error:
        raise UserError(f"train.lora: {first_line(error)}") from error
    # The fused head uses the lm_head's weight directly and would bypass an adapter on it.
    if isinstance(wrapped.get_output_embeddings(), BaseTunerLayer):
        raise UserError("train.lora.target_modules: lm_head cannot have an adapter; name other layers")
    # Absolute: the adapters may be written to another directory than the working directory of training.
    wrapped.peft_config["default"].base_model_name_or_path = str(Path(base).resolve()) if Path(base).is_dir() else base
    return wrapped


def save_adapters(model: Any, folder: Path) -> None:
    """Write the adapters of a model, without its base, into the existing `folder`."""
    # The embeddings are the base's; otherwise peft would ask the hub whether they have changed.
    model.save_pretrained(folder, save_embedding_layers=False)


# --- quantization ---------------------------------------------------------------------------------------------------


def quantization_settings(quantization: Quantization) -> Any:
    """Return transformers' quantization config: 4 bits (NF4 with double quantization, as in QLoRA) or 8 bits.

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
    """Keep the layers of a 4-bit base in a form through which gradients can flow.

    On CPUs with AVX512-BF16 bitsandbytes repacks a layer at its first forward pass in evaluation mode, the canary's,
    for a kernel without a derivative: everything below the layer would then be trained on wrong gradients.
    """
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False
