"""Loading and saving models, so that what comes back gives the same numbers or says why it does not."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from mtcpo.core.errors import UserError, first_line, one_line
from mtcpo.core.files import sha256_of
from mtcpo.core.hub import unreachable_hub
from mtcpo.models.adapters import (
    ADAPTER_CONFIG,
    adapters_base,
    keep_differentiable,
    merge_adapters,
    quantization_settings,
    save_adapters,
)
from mtcpo.models.canary import CANARY_FILE, check_canary, write_canary
from mtcpo.models.compat import load_config, mend_config
from mtcpo.models.config import DType, Quantization
from mtcpo.models.families import Family, LayoutName, family_of
from mtcpo.models.head.hooks import Head
from mtcpo.models.head.targets import LogitTransform
from mtcpo.models.layouts.base import Layout
from mtcpo.models.layouts.decoder_only import DecoderOnlyLayout
from mtcpo.models.layouts.encoder_decoder import EncoderDecoderLayout
from mtcpo.models.layouts.packing import can_pack
from mtcpo.models.tokenizers import TOKENIZER_FILES, check_vocabulary, has_tokenizer, load_tokenizer, save_tokenizer
from mtcpo.models.weights import load_weights, untie_if_separate

ALIASES = {
    "mt5": "google/mt5-small",
    "nllb": "facebook/nllb-200-distilled-600M",
    "m2m100": "facebook/m2m100_418M",
    "mbart": "facebook/mbart-large-50-many-to-many-mmt",
    "marian": "Helsinki-NLP/opus-mt-en-de",
    "madlad": "google/madlad400-3b-mt",
    "alma": "haoranxu/ALMA-7B",
}
"""Short names of `--model`."""


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A model with all that the rest of the code needs to know of it."""

    name: str
    model: Any
    tokenizer: Any
    family: Family
    layout: Layout
    head: Head

    @property
    def device(self) -> torch.device:
        """Return where the model's parameters are."""
        return torch.device(next(self.model.parameters()).device)

    def with_model(self, model: Any) -> LoadedModel:
        """Return the same with the model wrapped in adapters, or with adapters merged into it."""
        whole = assemble(self.name, model, self.tokenizer, self.family, getattr(self.layout, "prompt", None))
        return replace(whole, head=replace(whole.head, logits_mode=self.head.logits_mode))


def load_model(
    name: str,
    dtype: DType = "auto",
    prompt: str | None = None,
    device: str | None = None,
    quantization: Quantization | None = None,
) -> LoadedModel:
    """Load a model by alias, hub name or directory, and prove that its log-probabilities are right.

    A directory of adapters is loaded with its base, into which they are merged.

    Args:
        name: a directory, a key of ALIASES, or a name on the hub.
        dtype: precision of the weights; "auto" is bfloat16 on a GPU that has it, else float32.
        prompt: a template in place of the family's own.
        device: default: a GPU where there is one.
        quantization: of the weights, to train adapters on them.

    Raises:
        UserError: no such model, no tokenizer, an undeclared family, missing or unexpected weights, half precision
            where the family overflows, or log-probabilities other than those saved with the model.
    """
    path = resolve_model_name(name)
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    _check_reachable(path)
    base = adapters_base(path)
    if base is not None:
        return _load_with_adapters(name, path, base, dtype, prompt, device, quantization)
    _check_place(path)
    with explained(path):
        config, written = load_config(path)
        layout: LayoutName = "encoder-decoder" if config.is_encoder_decoder else "decoder-only"
        tokenizer = load_tokenizer(path)
        family = family_of(config.model_type, tokenizer.get_vocab(), layout)
        if quantization is None:
            model = load_weights(path, config, written, family, _dtype_for(dtype, family, device)).to(device)
        else:
            model = _load_quantized(path, config, written, family, quantization, device)
    return _verified(name, path, model, tokenizer, family, prompt)


def adopt_model(model: Any, tokenizer: Any, prompt: str | None = None) -> LoadedModel:
    """Take over a model that is in memory already, and prove that its log-probabilities are right.

    Raises:
        UserError: an undeclared family, a tokenizer of another model, or logits that the head path does not give.
    """
    name = str(getattr(model, "name_or_path", "") or type(model).__name__)
    layout: LayoutName = "encoder-decoder" if model.config.is_encoder_decoder else "decoder-only"
    family = family_of(model.config.model_type, tokenizer.get_vocab(), layout)
    untie_if_separate(name, model)
    # No folder with a canary of its own: the weights may have been trained since they were loaded.
    with TemporaryDirectory() as empty:
        return _verified(name, empty, model, tokenizer, family, prompt)


def _load_with_adapters(
    name: str,
    path: str,
    base: str,
    dtype: DType,
    prompt: str | None,
    device: str,
    quantization: Quantization | None,
) -> LoadedModel:
    """Load the base with its own checks, merge the adapters into it, and check the whole."""
    if quantization is not None:
        raise UserError(
            f"train.lora.quantization: {name} holds adapters, and weights in {quantization} cannot take them in; "
            "train with train.lora.merge = true first, and start from that"
        )
    try:
        below = load_model(base, dtype, prompt, device)
    except UserError as error:
        raise UserError(f"{path}: adapters of {base}: {error}") from error
    model = merge_adapters(below.model, path)
    tokenizer = load_tokenizer(path) if has_tokenizer(Path(path)) else below.tokenizer
    return _verified(name, path, model, tokenizer, below.family, prompt)


def _load_quantized(
    path: str, config: Any, written: Mapping[str, Any], family: Family, quantization: Quantization, device: str
) -> Any:
    options = {"quantization_config": quantization_settings(quantization), "device_map": {"": device}}
    # bfloat16 on every GPU, where it is slow too: what stays unquantized must not overflow.
    try:
        model = load_weights(path, config, written, family, torch.bfloat16, **options)
    except (RuntimeError, ImportError) as error:  # no kernels of the library for this device
        raise UserError(f"train.lora.quantization: {one_line(error)}") from error
    keep_differentiable(model)
    return model


def _verified(name: str, path: str, model: Any, tokenizer: Any, family: Family, prompt: str | None) -> LoadedModel:
    """Put a model together, once its tokenizer fits it and its log-probabilities are those of the canary in `path`."""
    check_vocabulary(name, model, tokenizer)
    loaded = assemble(name, model, tokenizer, family, prompt)
    head = check_canary(name, loaded.model, loaded.layout, family, loaded.head, Path(path))
    return replace(loaded, head=head)


def assemble(name: str, model: Any, tokenizer: Any, family: Family, prompt: str | None) -> LoadedModel:
    """Put a loaded model together with its layout and head."""
    layout = layout_for(model, tokenizer, family, prompt)
    bias, transform = getattr(model, "final_logits_bias", None), transform_of(model.config)
    head = Head(model.get_output_embeddings(), bias, transform, model=model)
    return LoadedModel(name, model, tokenizer, family, layout, head)


def transform_of(config: Any) -> LogitTransform:
    """Return what the model does to logits after its head: Gemma 2's cap, Cohere's scale, Granite's divisor."""
    scale = float(getattr(config, "logit_scale", None) or 1.0) / float(getattr(config, "logits_scaling", None) or 1.0)
    return LogitTransform(scale, getattr(config, "final_logit_softcapping", None))


def _check_reachable(path: str) -> None:
    """Refuse at once a directory that is not there, and a hub model that cannot be had."""
    if Path(path).is_dir():
        return
    if path.startswith(("/", "./", "../", "~")) or path.count("/") > 1:
        raise UserError(f"{path}: no such model directory")
    if not _in_cache(path) and unreachable_hub():
        raise UserError(_unavailable(path, "no network"))


def _check_place(path: str) -> None:
    """Refuse a directory that is no model's."""
    folder = Path(path)
    if not folder.is_dir():
        return
    if not (folder / "config.json").exists():
        raise UserError(f"{path}: no config.json in it, so it is no model directory")
    if not has_tokenizer(folder):
        raise UserError(
            f"{path}: a model without tokenizer; copy the tokenizer files of the model it came from into it "
            f"(one of {', '.join(TOKENIZER_FILES)}, and tokenizer_config.json)"
        )


@contextmanager
def explained(path: str) -> Iterator[None]:
    """Turn the library's failure to find or read a model into one line with the way out."""
    from safetensors import SafetensorError

    try:
        yield
    except (OSError, ValueError, SafetensorError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise UserError(_unavailable(path, first_line(error))) from error


def _unavailable(path: str, reason: str) -> str:
    if Path(path).is_dir():
        return f"{path}: cannot be loaded ({reason})"
    return (
        f"model {path!r} is neither a directory here, nor in the hub cache, nor to be fetched ({reason}); on a machine "
        f"with network run `hf download {path} --local-dir DIR`, copy DIR here, and pass --model DIR"
    )


def _in_cache(name: str) -> bool:
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        found = (try_to_load_from_cache(name, file) for file in ("config.json", ADAPTER_CONFIG))
        return any(isinstance(file, str) for file in found)
    except HFValidationError:
        raise UserError(
            f"{name!r} is neither a directory, nor one of {', '.join(ALIASES)}, nor a hub name (owner/name)"
        ) from None


def _dtype_for(dtype: DType, family: Family, device: str) -> torch.dtype:
    if dtype == "float16" and not family.float16:
        raise UserError(
            f"float16 overflows to NaN in the {family.name} family; use bfloat16 where the GPU has it, or float32"
        )
    if dtype != "auto":
        chosen: torch.dtype = getattr(torch, dtype)
        return chosen
    return torch.bfloat16 if device.startswith("cuda") and torch.cuda.is_bf16_supported() else torch.float32


# --- saving ---------------------------------------------------------------------------------------------------------


def save_model(loaded: LoadedModel, folder: Path, languages: tuple[str, str]) -> None:
    """Write model, tokenizer and canary into the existing `folder`; `languages` are source and target, BCP-47."""
    loaded.model.save_pretrained(folder)
    mend_config(folder)
    save_tokenizer(loaded.tokenizer, folder)
    if loaded.model.dtype != torch.float32:
        loaded = load_model(str(folder), "float32", device="cpu")
    write_canary(loaded.model, loaded.layout, loaded.family, loaded.head, folder, *languages)


def save_adapted(loaded: LoadedModel, folder: Path, languages: tuple[str, str]) -> None:
    """Write the adapters of a model, its tokenizer, and the canary of base and adapters together."""
    save_adapters(loaded.model, folder)
    save_tokenizer(loaded.tokenizer, folder)
    whole = load_model(str(folder), "float32", device="cpu")
    write_canary(whole.model, whole.layout, whole.family, whole.head, folder, *languages)


def resolve_model_name(name: str) -> str:
    """Return the directory or hub name that `--model` means."""
    return name if Path(name).is_dir() else ALIASES.get(name, name)


def model_fingerprint(name: str) -> str:
    """Return what changes when a model does: its canary, else its files' names and sizes, else its name."""
    folder = Path(name)
    if not folder.is_dir():
        return name
    if (folder / CANARY_FILE).exists():
        return sha256_of(folder / CANARY_FILE)
    return ", ".join(f"{path.name} {path.stat().st_size}" for path in sorted(folder.iterdir()) if path.is_file())


def max_positions_of(config: Any) -> int | None:
    """Return the longest sequence a model with absolute or bounded positions can take; None for relative ones (T5)."""
    for name in ("max_position_embeddings", "max_target_positions", "n_positions"):
        limit = getattr(config, name, None)
        # T5 keeps n_positions = 512 from its pre-training; its relative positions have no bound.
        if isinstance(limit, int) and not hasattr(config, "relative_attention_num_buckets"):
            return limit
    return None


def layout_for(model: Any, tokenizer: Any, family: Family, prompt: str | None) -> Layout:
    """Return the layout of a loaded model; `prompt` replaces the family's template."""
    limit = max_positions_of(model.config)
    if family.layout == "decoder-only":
        return DecoderOnlyLayout(model, tokenizer, prompt, limit, can_pack(model))
    return EncoderDecoderLayout(model, tokenizer, family, prompt or family.prompt or "{source}", limit)
