"""Loading and saving models, so that what comes back gives the same numbers or says why it does not."""

from __future__ import annotations

import json
import os
import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from mtcpo.adapters import adapters_base, merge_adapters, quantization_settings, save_adapters
from mtcpo.canary import CANARY_FILE, check_canary, write_canary
from mtcpo.errors import UserError
from mtcpo.families import Family, family_of
from mtcpo.files import sha256_of
from mtcpo.layouts import Layout, layout_for
from mtcpo.logprobs import Head, LogitTransform
from mtcpo.trainconfig import DType, Quantization

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

TOKENIZER_FILES = (
    "tokenizer.json", "spiece.model", "sentencepiece.bpe.model", "source.spm", "tokenizer.model", "vocab.json",
)  # fmt: skip


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
    from transformers import AutoConfig

    path = place_of(name)
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    base = adapters_base(path)
    if base is not None:
        return _load_with_adapters(name, path, base, dtype, prompt, device, quantization)
    _check_place(path)
    with explained(path):
        config = AutoConfig.from_pretrained(path)
        tokenizer = _load_tokenizer(path)
        family = family_of(config.model_type, tokenizer.get_vocab())
        if quantization is not None:
            model = _load_quantized(path, config, family, quantization, device)
        else:
            model = _load_weights(path, config, family, _dtype_for(dtype, family, device)).to(device)
    _untie_where_apart(model)
    _check_vocabulary(path, model, tokenizer)
    loaded = assemble(name, model, tokenizer, family, prompt)
    check_canary(name, loaded.model, loaded.layout, family, loaded.head, Path(path))
    return loaded


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
    has_tokenizer = any((Path(path) / file).exists() for file in TOKENIZER_FILES)
    tokenizer = _load_tokenizer(path) if has_tokenizer else below.tokenizer
    loaded = assemble(name, model, tokenizer, below.family, prompt)
    check_canary(name, loaded.model, loaded.layout, loaded.family, loaded.head, Path(path))
    return loaded


def assemble(name: str, model: Any, tokenizer: Any, family: Family, prompt: str | None) -> LoadedModel:
    """Put a loaded model together with its layout and head."""
    layout = layout_for(model, tokenizer, family, prompt)
    head = Head(model.get_output_embeddings(), getattr(model, "final_logits_bias", None), transform_of(model.config))
    return LoadedModel(name, model, tokenizer, family, layout, head)


def transform_of(config: Any) -> LogitTransform:
    """Return what the model does to logits after its head: Gemma 2's cap, Cohere's scale, Granite's divisor."""
    scale = float(getattr(config, "logit_scale", None) or 1.0) / float(getattr(config, "logits_scaling", None) or 1.0)
    return LogitTransform(scale, getattr(config, "final_logit_softcapping", None))


def _check_place(path: str) -> None:
    """Refuse at once a directory that is not there or no model's, and a hub model that cannot be had."""
    folder = Path(path)
    if not folder.is_dir():
        if path.startswith(("/", "./", "../", "~")) or path.count("/") > 1:
            raise UserError(f"{path}: no such model directory")
        if not _in_cache(path) and _unreachable_hub():
            raise UserError(_unavailable(path, "no network"))
        return
    if not (folder / "config.json").exists():
        raise UserError(f"{path}: no config.json in it, so it is no model directory")
    if not any((folder / file).exists() for file in TOKENIZER_FILES):
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
        raise UserError(_unavailable(path, str(error).strip().splitlines()[0])) from error


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
        return isinstance(try_to_load_from_cache(name, "config.json"), str)
    except HFValidationError:
        raise UserError(
            f"{name!r} is neither a directory, nor one of {', '.join(ALIASES)}, nor a hub name (owner/name)"
        ) from None


def _unreachable_hub() -> bool:
    """Tell at once what the hub library would find out after half a minute of retries."""
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return True
    if any(os.environ.get(name) for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy")):
        return False
    host = constants.ENDPOINT.split("//")[-1].split("/")[0].split(":")[0]
    try:
        socket.getaddrinfo(host, 443)
    except socket.gaierror:
        return True
    return False


def _dtype_for(dtype: DType, family: Family, device: str) -> torch.dtype:
    if dtype == "float16" and not family.float16:
        raise UserError(
            f"float16 overflows to NaN in the {family.name} family; use bfloat16 where the GPU has it, or float32"
        )
    if dtype != "auto":
        chosen: torch.dtype = getattr(torch, dtype)
        return chosen
    return torch.bfloat16 if device.startswith("cuda") and torch.cuda.is_bf16_supported() else torch.float32


def _load_tokenizer(path: str) -> Any:
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(path)
    except OSError:
        raise
    except Exception as error:  # a damaged file is anything from KeyError to the bare Exception of the Rust library
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(f"{path}: its tokenizer cannot be loaded ({reason})") from error


def _load_quantized(path: str, config: Any, family: Family, quantization: Quantization, device: str) -> Any:
    settings = quantization_settings(quantization)
    # bfloat16 on every GPU, where it is slow too: what stays unquantized must not overflow.
    try:
        return _load_weights(
            path, config, family, torch.bfloat16, quantization_config=settings, device_map={"": device}
        )
    except (RuntimeError, ImportError) as error:  # no kernels of the library for this device
        raise UserError(f"train.lora.quantization: {' '.join(str(error).split())}") from error


def _load_weights(path: str, config: Any, family: Family, dtype: torch.dtype, **options: Any) -> Any:
    from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM

    cls = AutoModelForSeq2SeqLM if family.layout == "encoder-decoder" else AutoModelForCausalLM
    # Other shapes are let through only to be named below.
    model, info = cls.from_pretrained(
        path, config=config, dtype=dtype, output_loading_info=True, ignore_mismatched_sizes=True, **options
    )
    problems = [
        f"{len(info[kind])} {word} ({', '.join(_key(key) for key in sorted(info[kind], key=str)[:5])})"
        for kind, word in (("missing_keys", "missing"), ("mismatched_keys", "of another shape"))
        if info.get(kind)
    ]
    unexpected = [key for key in info.get("unexpected_keys", ()) if not _is_buffer_of_old(key)]
    if unexpected:
        problems.append(f"{len(unexpected)} unexpected ({', '.join(sorted(unexpected)[:5])})")
    if problems:
        raise UserError(f"{path}: the weights do not fit the model: {'; '.join(problems)}")
    return model


def _key(key: Any) -> str:
    """Return the name of a tensor; one of another shape comes with its shapes."""
    return str(key) if isinstance(key, str) else " ".join([str(key[0]), *(str(list(shape)) for shape in key[1:])])


def _is_buffer_of_old(key: str) -> bool:
    """Tell tables that old versions stored and new ones compute."""
    return key.endswith(("embed_positions.weights", "embed_positions.weight", "position_ids", "rotary_emb.inv_freq"))


def _untie_where_apart(model: Any) -> None:
    """Set the config to what the tensors are: transformers 5 says "tied" of every mT5, whatever the file holds."""
    inputs, outputs = model.get_input_embeddings(), model.get_output_embeddings()
    apart = outputs is not None and inputs.weight.data_ptr() != outputs.weight.data_ptr()
    if apart and model.config.tie_word_embeddings:
        if model.config.model_type != "mt5":
            raise UserError(
                f"tied weights came apart: {model.config.model_type} says tie_word_embeddings, but its input and "
                "output tables are two tensors; set it to false in config.json if both are meant"
            )
        model.config.tie_word_embeddings = False


def _check_vocabulary(path: str, model: Any, tokenizer: Any) -> None:
    rows = model.get_input_embeddings().weight.shape[0]
    largest = max(tokenizer.get_vocab().values())
    if largest >= rows:
        raise UserError(
            f"{path}: the tokenizer has token ids up to {largest}, the model's embedding only {rows} rows; "
            "this tokenizer belongs to another model"
        )


def set_dropout(model: nn.Module, rate: float) -> None:
    """Set every dropout of a model to `rate`, and drop no whole layers; its config keeps what it had."""
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = rate
        for name in ("dropout", "attention_dropout", "activation_dropout"):
            if isinstance(getattr(module, name, None), float):
                setattr(module, name, rate)
        if isinstance(getattr(module, "layerdrop", None), float):
            module.layerdrop = 0.0  # type: ignore[assignment]


# --- saving ---------------------------------------------------------------------------------------------------------


def save_model(loaded: LoadedModel, folder: Path, languages: tuple[str, str]) -> None:
    """Write model, tokenizer and canary into the existing `folder`; `languages` are source and target, BCP-47."""
    loaded.model.save_pretrained(folder)
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


def place_of(name: str) -> str:
    """Return the directory or hub name that `--model` means."""
    return name if Path(name).is_dir() else ALIASES.get(name, name)


def identity_of(name: str) -> str:
    """Return what changes when a model does: its canary, else its files' names and sizes, else its name."""
    folder = Path(name)
    if not folder.is_dir():
        return name
    if (folder / CANARY_FILE).exists():
        return sha256_of(folder / CANARY_FILE)
    return ", ".join(f"{path.name} {path.stat().st_size}" for path in sorted(folder.iterdir()) if path.is_file())


def save_tokenizer(tokenizer: Any, folder: Path) -> None:
    """Write a tokenizer so that both transformers 4.57 and 5 read it."""
    from transformers.utils import cached_file

    tokenizer.save_pretrained(folder)
    for file in (*TOKENIZER_FILES, "target.spm"):
        # 5 leaves out the SentencePiece models, from which 4.57 makes some of its tokenizers.
        origin = cached_file(
            tokenizer.name_or_path, file, local_files_only=True, _raise_exceptions_for_missing_entries=False,
            _raise_exceptions_for_connection_errors=False,
        )  # fmt: skip
        if origin and not (folder / file).exists():
            shutil.copyfile(origin, folder / file)
    _mend_tokenizer_config(folder / "tokenizer_config.json")


def _mend_tokenizer_config(path: Path) -> None:
    """Put names that both versions read in place of those that 4.57 does not know or takes for something else."""
    settings = json.loads(path.read_text(encoding="utf-8"))
    if settings.get("tokenizer_class") == "TokenizersBackend":
        settings["tokenizer_class"] = "PreTrainedTokenizerFast"
    if isinstance(settings.get("extra_special_tokens"), list):
        tokens = settings.pop("extra_special_tokens")
        settings |= {"additional_special_tokens": tokens} if tokens else {}
    path.write_text(json.dumps(settings, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")
