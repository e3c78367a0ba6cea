"""Loading and saving models, so that a loaded model gives the same numbers as the saved one, or an error says why not.

`load_model` loads by name, `adopt_model` takes a model in memory, `assemble` adds layout and head, `save_model` saves.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from mtcpo.core.errors import UserError, one_line
from mtcpo.core.processes import this_process
from mtcpo.models.adapters import (
    adapters_base,
    keep_differentiable,
    merge_adapters,
    quantization_settings,
    save_adapters,
)
from mtcpo.models.canary import check_canary, write_canary
from mtcpo.models.compat import load_config, mend_config
from mtcpo.models.config import DEFAULT_OPTIONS, DType, ModelOptions, Quantization
from mtcpo.models.families import Family, LayoutName, family_of
from mtcpo.models.head.hooks import Head
from mtcpo.models.head.targets import LogitTransform
from mtcpo.models.layouts.base import Layout
from mtcpo.models.layouts.decoder_only import DecoderOnlyLayout
from mtcpo.models.layouts.encoder_decoder import EncoderDecoderLayout
from mtcpo.models.layouts.packing import can_pack
from mtcpo.models.model_code import refuse_model_code
from mtcpo.models.names import check_model_directory, check_reachable, explain_load_errors, resolve_model_name
from mtcpo.models.tokenizers import check_vocabulary, has_tokenizer, load_tokenizer, save_tokenizer
from mtcpo.models.weights import freeze_unsaved, load_weights, untie_if_separate


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A model with everything that the rest of the code needs to know about it.

    name: as the user gave it.
    model: a transformers model, possibly wrapped in adapters by peft.
    tokenizer: a transformers tokenizer.
    family: how it is prompted and tokenized.
    layout: text -> batches -> log-probabilities.
    head: how its log-probabilities are computed; verified by the canary.
    options: those it was loaded with, so that it can be loaded again.
    """

    name: str
    model: Any
    tokenizer: Any
    family: Family
    layout: Layout
    head: Head
    options: ModelOptions = DEFAULT_OPTIONS

    @property
    def device(self) -> torch.device:
        """Return the device of the model's parameters."""
        return torch.device(next(self.model.parameters()).device)

    def with_model(self, model: Any) -> LoadedModel:
        """Return a copy with another model: wrapped in adapters, or with adapters merged."""
        # The logits mode that the canary chose depends only on the model's own code, not on wrappers.
        changed = assemble(self.name, model, self.tokenizer, self.family, self.options)
        return replace(changed, head=replace(changed.head, logits_mode=self.head.logits_mode))


# --- loading ----------------------------------------------------------------------------------------------------------


def load_model(
    name: str,
    dtype: DType = "auto",
    options: ModelOptions = DEFAULT_OPTIONS,
    device: str | None = None,
    quantization: Quantization | None = None,
) -> LoadedModel:
    """Load a model by alias, hub name or directory, and verify its log-probabilities.

    Adapters are loaded with their base and merged into it.

    Args:
        name: a directory, a key of ALIASES, or a name on the hub.
        dtype: precision of the weights; "auto" is bfloat16 on a GPU that has it, else float32.
        options: prompt and family that replace the declared ones, and whether the model's code may run.
        device: default: a GPU if there is one; under a launcher, the one of this process.
        quantization: of the weights, for training adapters on them.

    Raises:
        UserError: no such model, code that is not allowed, no tokenizer, an undeclared family, missing or unexpected
            weights, half precision where the family overflows, or log-probabilities other than those saved with the
            model.
    """
    path = resolve_model_name(name)
    device = device or _default_device()
    check_reachable(path)
    # Before anything else is read: transformers runs such code while it looks for the model's class.
    refuse_model_code(path, options.allow_code)
    base = adapters_base(path)
    if base is not None:
        return _load_with_adapters(name, path, base, dtype, options, device, quantization)
    check_model_directory(path)
    with explain_load_errors(path):
        config, written = load_config(path, options.allow_code)
        tokenizer = load_tokenizer(path, options.allow_code)
        family = _family_for(config, tokenizer, options)
        load_options: dict[str, Any] = {"trust_remote_code": options.allow_code}
        if quantization is None:
            weight_dtype = _dtype_for(dtype, family, device)
            model = load_weights(path, config, written, family, weight_dtype, **load_options).to(device)
        else:
            model = _load_quantized(path, config, written, family, quantization, device, **load_options)
    return _verified(name, path, model, tokenizer, family, options)


def _default_device() -> str:
    if not torch.cuda.is_available():
        return "cpu"
    # Modulo: a launcher may hide from each process all GPUs but its own.
    return f"cuda:{this_process().local_rank % torch.cuda.device_count()}"


def load_outline(name: str, options: ModelOptions = DEFAULT_OPTIONS) -> LoadedModel:
    """Load a model without its weights, on the meta device: enough to tokenize, for an engine that has the weights.

    Arguments and errors as of `load_model`.
    """
    from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM

    path = resolve_model_name(name)
    check_reachable(path)
    refuse_model_code(path, options.allow_code)
    base = adapters_base(path)
    if base is not None:
        below = load_outline(base, options)
        tokenizer = load_tokenizer(path, options.allow_code) if has_tokenizer(Path(path)) else below.tokenizer
        return assemble(name, below.model, tokenizer, below.family, options)
    check_model_directory(path)
    with explain_load_errors(path), torch.device("meta"):
        config, _ = load_config(path, options.allow_code)
        tokenizer = load_tokenizer(path, options.allow_code)
        family = _family_for(config, tokenizer, options)
        auto_class = AutoModelForSeq2SeqLM if family.layout == "encoder-decoder" else AutoModelForCausalLM
        model = auto_class.from_config(config, trust_remote_code=options.allow_code)
    return assemble(name, model, tokenizer, family, options)


def adopt_model(model: Any, tokenizer: Any, options: ModelOptions = DEFAULT_OPTIONS) -> LoadedModel:
    """Wrap a model that is already in memory, and verify its log-probabilities.

    Raises:
        UserError: an undeclared family, another model's tokenizer, or logits that no logits mode reproduces.
    """
    name = str(getattr(model, "name_or_path", "") or type(model).__name__)
    family = _family_for(model.config, tokenizer, options)
    untie_if_separate(name, model)
    # An empty folder, without a canary: the weights may have been trained since loading.
    with TemporaryDirectory() as empty:
        return _verified(name, empty, model, tokenizer, family, options)


def _family_for(config: Any, tokenizer: Any, options: ModelOptions) -> Family:
    layout: LayoutName = "encoder-decoder" if config.is_encoder_decoder else "decoder-only"
    return family_of(config.model_type, tokenizer.get_vocab(), layout, options.family)


def _load_with_adapters(
    name: str,
    path: str,
    base: str,
    dtype: DType,
    options: ModelOptions,
    device: str,
    quantization: Quantization | None,
) -> LoadedModel:
    """Load the base with its own checks, merge the adapters into it, and verify the result."""
    if quantization is not None:
        raise UserError(
            f"train.lora.quantization: {name} holds adapters, which cannot be merged into weights in {quantization}; "
            "train with train.lora.merge = true first, and start from the merged model"
        )
    try:
        below = load_model(base, dtype, options, device)
    except UserError as error:
        raise UserError(f"{path}: adapters of {base}: {error}") from error
    model = merge_adapters(below.model, path)
    tokenizer = load_tokenizer(path, options.allow_code) if has_tokenizer(Path(path)) else below.tokenizer
    return _verified(name, path, model, tokenizer, below.family, options)


def _load_quantized(
    path: str, config: Any, written: Mapping[str, Any], family: Family, quantization: Quantization, device: str,
    **load_options: Any,
) -> Any:  # fmt: skip
    load_options |= {"quantization_config": quantization_settings(quantization), "device_map": {"": device}}
    # bfloat16 on every GPU, even if slow: unquantized parts must not overflow.
    try:
        model = load_weights(path, config, written, family, torch.bfloat16, **load_options)
    except (RuntimeError, ImportError) as error:  # bitsandbytes has no kernels for this device
        raise UserError(f"train.lora.quantization: {one_line(error)}") from error
    keep_differentiable(model)
    return model


def _dtype_for(dtype: DType, family: Family, device: str) -> torch.dtype:
    if dtype == "float16" and not family.float16:
        raise UserError(
            f"float16 overflows to NaN in the {family.name} family; use bfloat16 where the GPU has it, or float32"
        )
    if dtype != "auto":
        requested: torch.dtype = getattr(torch, dtype)
        return requested
    return torch.bfloat16 if device.startswith("cuda") and torch.cuda.is_bf16_supported() else torch.float32


# --- layout and head --------------------------------------------------------------------------------------------------


def _verified(name: str, path: str, model: Any, tokenizer: Any, family: Family, options: ModelOptions) -> LoadedModel:
    """Assemble a model; check that its tokenizer fits and that it agrees with the canary in `path`."""
    # Before the canary, which an id without an embedding would stop with an index error.
    check_vocabulary(name, model, tokenizer)
    loaded = assemble(name, model, tokenizer, family, options)
    head = check_canary(name, loaded.model, loaded.layout, family, loaded.head, Path(path))
    return replace(loaded, head=head)


def assemble(
    name: str, model: Any, tokenizer: Any, family: Family, options: ModelOptions = DEFAULT_OPTIONS
) -> LoadedModel:
    """Combine a loaded model with its layout and head."""
    freeze_unsaved(model)
    layout = layout_for(model, tokenizer, family, options.prompt)
    bias, transform = getattr(model, "final_logits_bias", None), transform_of(model.config)
    head = Head(model.get_output_embeddings(), bias, transform, model=model)
    return LoadedModel(name, model, tokenizer, family, layout, head, options)


def transform_of(config: Any) -> LogitTransform:
    """Return what the model does to logits after its head: Gemma 2's cap, Cohere's scale, Granite's divisor."""
    scale = float(getattr(config, "logit_scale", None) or 1.0) / float(getattr(config, "logits_scaling", None) or 1.0)
    return LogitTransform(scale, getattr(config, "final_logit_softcapping", None))


def max_positions_of(config: Any) -> int | None:
    """Return the longest sequence a model with absolute or bounded positions can take; None for relative ones (T5)."""
    for name in ("max_position_embeddings", "max_target_positions", "n_positions"):
        limit = getattr(config, name, None)
        # T5's n_positions = 512 is from pre-training; its relative positions have no limit.
        if isinstance(limit, int) and not hasattr(config, "relative_attention_num_buckets"):
            return limit
    return None


def layout_for(model: Any, tokenizer: Any, family: Family, prompt: str | None) -> Layout:
    """Return the layout of a loaded model; `prompt` replaces the family's template."""
    limit = max_positions_of(model.config)
    if family.layout == "decoder-only":
        return DecoderOnlyLayout(model, tokenizer, prompt or family.prompt, limit, can_pack(model))
    return EncoderDecoderLayout(model, tokenizer, family, prompt or family.prompt or "{source}", limit)


# --- saving ---------------------------------------------------------------------------------------------------------


def save_model(loaded: LoadedModel, folder: Path, languages: tuple[str, str]) -> None:
    """Write model, tokenizer and canary into the existing `folder`; `languages` are source and target, BCP-47."""
    loaded.model.save_pretrained(folder)
    mend_config(folder)
    save_tokenizer(loaded.tokenizer, folder)
    # Reload in float32: half-precision log-probabilities differ too much between machines for comparison.
    if loaded.model.dtype != torch.float32:
        loaded = load_model(str(folder), "float32", loaded.options, "cpu")
    write_canary(loaded.model, loaded.layout, loaded.family, loaded.head, folder, *languages)


def save_adapted(loaded: LoadedModel, folder: Path, languages: tuple[str, str]) -> None:
    """Write the adapters of a model, its tokenizer, and the canary of base and adapters together."""
    save_adapters(loaded.model, folder)
    save_tokenizer(loaded.tokenizer, folder)
    # As users of the directory will load it: merged into the base, which may be quantized here.
    whole = load_model(str(folder), "float32", loaded.options, "cpu")
    write_canary(whole.model, whole.layout, whole.family, whole.head, folder, *languages)
