"""Load weights: none missing, none left over, embeddings and lm_head tied or untied as when they were saved.

The embeddings are the decoder's input embeddings; the lm_head is the output layer. Tied means that they share a tensor.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from mtcpo.core.errors import UserError
from mtcpo.core.hub import hub_file
from mtcpo.models.compat import running_major, written_major
from mtcpo.models.families import Family

LOG = logging.getLogger(__name__)

SAFETENSORS, SAFETENSORS_INDEX = "model.safetensors", "model.safetensors.index.json"

WEIGHT_FILES = (SAFETENSORS, SAFETENSORS_INDEX, "pytorch_model.bin", "pytorch_model.bin.index.json")

MAX_NAMES = 5
"""Maximum number of tensors named in a message."""

COMPUTED_BUFFERS = ("embed_positions.weights", "embed_positions.weight", "position_ids", "rotary_emb.inv_freq")
"""Name suffixes of buffers that old versions of transformers stored and new ones compute."""


def load_weights(
    path: str, config: Any, written: Mapping[str, Any], family: Family, dtype: torch.dtype, **options: Any
) -> Any:
    """Load the model of a directory or hub name, on the CPU unless `options` name another device.

    Args:
        path: where the weights are.
        config: the model's config, as transformers reads it.
        written: the content of config.json.
        family: the model's entry.
        dtype: precision of the weights.
        options: further arguments of `from_pretrained`.

    Raises:
        UserError: weights are missing, unexpected or of another shape, or tied ones differ; the message names them.
    """
    from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM

    _refuse_stray_adapter(path)
    if _would_merge_embeddings(path, family, written):
        config.tie_word_embeddings = False
    auto_class = AutoModelForSeq2SeqLM if family.layout == "encoder-decoder" else AutoModelForCausalLM
    with without_zero3_init():
        # Mismatched sizes are accepted here, so that the message below can name them.
        model, info = auto_class.from_pretrained(
            path, config=config, dtype=dtype, output_loading_info=True, ignore_mismatched_sizes=True, **options
        )
    _refuse_problems(path, info, _lost_buffers(path, family))
    check_tied_embeddings(path, model, family, written)
    return model


def _refuse_problems(path: str, info: Mapping[str, Any], lost_buffers: Collection[str]) -> None:
    """Refuse weights that do not fit. info: transformers' report on loading them."""
    unexpected = [key for key in info.get("unexpected_keys", ()) if not key.endswith(COMPUTED_BUFFERS)]
    keys_by_problem = {
        "missing": {*info["missing_keys"], *lost_buffers},
        "of another shape": info["mismatched_keys"],
        "unexpected": unexpected,
    }
    problems = []
    for word, keys in keys_by_problem.items():
        if keys:
            names = ", ".join(_describe_key(key) for key in sorted(keys, key=str)[:MAX_NAMES])
            problems.append(f"{len(keys)} {word} ({names})")
    if problems:
        raise UserError(f"{path}: the weights do not fit the model: {'; '.join(problems)}")


def _describe_key(key: Any) -> str:
    """Return the name of a tensor; a mismatched key is (name, shape in the file, shape in the model)."""
    if isinstance(key, str):
        return key
    name, *shapes = key
    return " ".join([str(name), *(str(list(shape)) for shape in shapes)])


def _lost_buffers(path: str, family: Family) -> set[str]:
    """Return the family's buffers that a safetensors file lacks: transformers silently fills them with zeros."""
    if hub_file(path, SAFETENSORS) is None and hub_file(path, SAFETENSORS_INDEX) is None:
        return set()
    return set(family.buffers) - set(_stored(path, family.buffers))


def _refuse_stray_adapter(path: str) -> None:
    """Refuse full weights with adapter_config.json beside them: transformers would silently load the adapter on top.

    Raises:
        UserError: both are there.
    """
    if hub_file(path, "adapter_config.json") is None:
        return
    weights = next((file for file in WEIGHT_FILES if hub_file(path, file)), None)
    if weights is not None:
        raise UserError(
            f"{path}: adapter_config.json lies beside the full weights {weights}, and it is not clear which are meant; "
            "move adapter_config.json away to use the full weights, or the adapter to a folder of its own to use it"
        )


# --- tied embeddings --------------------------------------------------------------------------------------------------


def _would_merge_embeddings(path: str, family: Family, written: Mapping[str, Any]) -> bool:
    """Whether both tensors are stored, but this version would merge them: a newer one writes "tied" in every case."""
    since = family.unscaled_since
    if since is None or written_major(written) < since or running_major() >= since:
        return False
    return len(_stored(path, ("lm_head.weight", "shared.weight"))) == 2


def check_tied_embeddings(path: str, model: Any, family: Family, written: Mapping[str, Any]) -> None:
    """Tie or untie embeddings and lm_head as when they were saved, and set the config accordingly.

    What config.json says -> what is done:

        untied                     separate what transformers 5 has merged: it ignores "untied" for T5
        tied, by a version that    refuse tensors that differ: transformers 4.57 silently takes one of them
          says so only if it is
        tied, by a version that    keep them as loaded: transformers 5 says "tied" for every mT5
          always says so
        and, if they are tied      separate, with the scale in the lm_head, where the version that wrote them scales
                                   the decoder's output and this one does not, or the other way round

    Args:
        path: where the weights are.
        model: as transformers loaded it.
        family: the model's entry.
        written: the content of config.json.

    Raises:
        UserError: tied tensors differ, or the lm_head is missing.
    """
    since = family.unscaled_since
    if written.get("tie_word_embeddings") is False:
        _separate_merged(path, model)
    elif model.config.tie_word_embeddings and (since is None or written_major(written) < since):
        _refuse_differing(path, model)
    if since is not None and not _are_separate(model):
        was_scaled, is_scaled = written_major(written) < since, running_major() < since
        if was_scaled != is_scaled:
            # The scaling of the version that wrote the file is the correct one.
            scale = model.config.d_model**-0.5 if was_scaled else 1.0
            embeddings, lm_head = _embeddings_and_lm_head(model)
            lm_head.weight = nn.Parameter(embeddings.weight.detach() * scale)
    model.config.tie_word_embeddings = not _are_separate(model)


def _separate_merged(path: str, model: Any) -> None:
    """Give the lm_head its own tensor; transformers 5 merges two equal ones."""
    if _are_separate(model):
        return
    _, lm_head = _embeddings_and_lm_head(model)
    name = next(f"{name}.weight" for name, module in model.named_modules() if module is lm_head)
    if name not in _stored(path, (name,)):
        raise UserError(
            f"{path}: the weights do not fit the model: 1 missing ({name}; config.json says tie_word_embeddings false, "
            "so it is a tensor of its own)"
        )
    lm_head.weight = nn.Parameter(lm_head.weight.detach().clone())


def _refuse_differing(path: str, model: Any) -> None:
    embeddings, lm_head = _embeddings_and_lm_head(model)
    names = _names_of(model, embeddings.weight)
    pair = _differing_stored(path, names)
    if _are_separate(model):  # transformers 5 keeps them separate if the files hold two
        pair = names[0], _names_of(model, lm_head.weight)[0]
    if pair is not None:
        raise UserError(
            f"{path}: tied weights differ: config.json says tie_word_embeddings, but {' and '.join(pair)} are not "
            "equal; set it to false in config.json if both are meant"
        )


def untie_if_separate(name: str, model: Any) -> None:
    """Set the config of a model in memory to untied if its embeddings and lm_head are separate.

    transformers 5 says "tied" for every T5 that it has loaded: a UMT5 would be scaled like a tied model, and all
    of them would be saved with a config with which they cannot be loaded.
    """
    if _are_separate(model) and model.config.tie_word_embeddings:
        LOG.warning(
            f"{name}: config.json says tie_word_embeddings, but input and output embeddings differ; treating them "
            "as untied"
        )
        model.config.tie_word_embeddings = False


def freeze_unsaved(model: nn.Module) -> None:
    """Freeze parameters that the model's class computes and never saves, such as Marian's positions.

    transformers 4.57 freezes them itself; 5.24 does not, and their changes would be lost on saving.
    """
    unsaved = set(getattr(model, "_keys_to_ignore_on_save", None) or ())
    # All names of a tied parameter: it may be saved under any of them.
    named = list(model.named_parameters(remove_duplicate=False))
    saved = {id(parameter) for name, parameter in named if name not in unsaved}
    for _, parameter in named:
        if id(parameter) not in saved:
            parameter.requires_grad_(False)


def _embeddings_and_lm_head(model: Any) -> tuple[Any, Any]:
    """Return the modules of the decoder's input embeddings and of the output layer."""
    stack = model.get_decoder() if model.config.is_encoder_decoder else model
    return stack.get_input_embeddings(), model.get_output_embeddings()


def _are_separate(model: Any) -> bool:
    embeddings, lm_head = _embeddings_and_lm_head(model)
    return bool(embeddings.weight.data_ptr() != lm_head.weight.data_ptr())


def _names_of(model: nn.Module, weight: torch.Tensor) -> list[str]:
    """Return all names of a parameter."""
    named_parameters = model.named_parameters(remove_duplicate=False)
    return [name for name, parameter in named_parameters if parameter.data_ptr() == weight.data_ptr()]


# --- what the files hold ----------------------------------------------------------------------------------------------


def _stored(path: str, names: Collection[str]) -> dict[str, Path]:
    """Return tensor name -> file, for stored tensors; {} if the weights are in another format."""
    index = hub_file(path, SAFETENSORS_INDEX)
    if index is None:
        file_names = _tensors_of_single_file(path)
    else:
        file_names = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
    files = {}
    for name in names:
        file = hub_file(path, file_names[name]) if name in file_names else None
        if file is not None:
            files[name] = file
    return files


def _tensors_of_single_file(path: str) -> dict[str, str]:
    from safetensors import safe_open

    file = hub_file(path, SAFETENSORS)
    if file is None:
        return {}
    with safe_open(file, framework="pt") as tensors:
        return dict.fromkeys(tensors.keys(), SAFETENSORS)


def _differing_stored(path: str, names: Collection[str]) -> tuple[str, str] | None:
    """Return two stored tensors that are the same in the model but differ in the files, None if there are none."""
    first: tuple[str, torch.Tensor] | None = None
    for name, file in _stored(path, names).items():
        tensor = _read_tensor(file, name)
        if first is None:
            first = name, tensor
        elif not torch.equal(first[1], tensor):
            return first[0], name
    return None


def _read_tensor(file: Path, name: str) -> torch.Tensor:
    from safetensors import safe_open

    with safe_open(file, framework="pt") as tensors:
        tensor: torch.Tensor = tensors.get_tensor(name)
    return tensor


@contextmanager
def without_zero3_init() -> Iterator[None]:
    """Make transformers load all weights in this process, although DeepSpeed's ZeRO-3 settings would load only a shard.

    The settings are a global variable of transformers, with no public way to restore them.
    """
    from transformers.integrations import deepspeed

    settings = deepspeed._hf_deepspeed_config_weak_ref
    deepspeed.unset_hf_deepspeed_config()
    try:
        yield
    finally:
        deepspeed._hf_deepspeed_config_weak_ref = settings
