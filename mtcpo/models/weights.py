"""Weights from their files, none missing, none left over, and tables tied or apart as they were written."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
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

WEIGHT_FILES = (
    "model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json",
)  # fmt: skip


def load_weights(
    path: str, config: Any, written: Mapping[str, Any], family: Family, dtype: torch.dtype, **options: Any
) -> Any:
    """Return the model of a directory or hub name, on the CPU unless `options` say where else.

    Args:
        path: where the weights are.
        config: the model's settings.
        written: the same as they stand in config.json.
        family: the model's entry.
        dtype: precision of the weights.
        options: further ones of the library's `from_pretrained`.

    Raises:
        UserError: missing, unexpected or misshapen weights, or tied ones that came apart; the message has their names.
    """
    from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM

    _refuse_stray_adapter(path)
    if _keeps_two_tables(path, family, written):
        config.tie_word_embeddings = False  # transformers 5 wrote "tied" of them all the same
    cls = AutoModelForSeq2SeqLM if family.layout == "encoder-decoder" else AutoModelForCausalLM
    # Other shapes are let through only to be named below.
    with without_zero3_init():
        model, info = cls.from_pretrained(
            path, config=config, dtype=dtype, output_loading_info=True, ignore_mismatched_sizes=True, **options
        )
    missing = {*info["missing_keys"], *_lost_buffers(path, family)}
    problems = [
        f"{len(keys)} {word} ({', '.join(_key(key) for key in sorted(keys, key=str)[:5])})"
        for keys, word in ((missing, "missing"), (info["mismatched_keys"], "of another shape"))
        if keys
    ]
    unexpected = [key for key in info.get("unexpected_keys", ()) if not _is_buffer_of_old(key)]
    if unexpected:
        problems.append(f"{len(unexpected)} unexpected ({', '.join(sorted(unexpected)[:5])})")
    if problems:
        raise UserError(f"{path}: the weights do not fit the model: {'; '.join(problems)}")
    check_tied_embeddings(path, model, family, written)
    return model


def _key(key: Any) -> str:
    """Return the name of a tensor; one of another shape comes with its shapes."""
    return str(key) if isinstance(key, str) else " ".join([str(key[0]), *(str(list(shape)) for shape in key[1:])])


def _lost_buffers(path: str, family: Family) -> set[str]:
    """Return which of the family's buffers a safetensors file lacks; the library puts zeros for them."""
    if not any(hub_file(path, name) for name in WEIGHT_FILES[:2]):
        return set()
    return set(family.buffers) - set(_stored(path, family.buffers))


def _is_buffer_of_old(key: str) -> bool:
    """Tell tables that old versions stored and new ones compute."""
    return key.endswith(("embed_positions.weights", "embed_positions.weight", "position_ids", "rotary_emb.inv_freq"))


def _refuse_stray_adapter(path: str) -> None:
    """Full weights with an adapter's settings beside them: the library would load the adapter on top, and say nothing.

    Raises:
        UserError: so it is.
    """
    if hub_file(path, "adapter_config.json") is None:
        return
    weights = next((file for file in WEIGHT_FILES if hub_file(path, file)), None)
    if weights is not None:
        raise UserError(
            f"{path}: adapter_config.json lies beside the full weights {weights}, and it is not clear which are meant; "
            "move adapter_config.json away to use the full weights, or the adapter to a folder of its own to use it"
        )


# --- input and output tables ------------------------------------------------------------------------------------------


def _keeps_two_tables(path: str, family: Family, written: Mapping[str, Any]) -> bool:
    """Whether a newer version, which always says "tied" of this family, wrote two tables that this one would merge."""
    since = family.unscaled_since
    if since is None or written_major(written) < since or running_major() >= since:
        return False
    return len(_stored(path, ("lm_head.weight", "shared.weight"))) == 2


def check_tied_embeddings(path: str, model: Any, family: Family, written: Mapping[str, Any]) -> None:
    """Make tables one or two, and the config say so, as they were when they were written.

    Args:
        path: where the weights are.
        model: as the library loaded it.
        family: the model's entry.
        written: the config as it stands in the file; transformers 5 believes no T5 that says "not tied".

    Raises:
        UserError: tied tables that differ, or two tables of which one is missing.
    """
    inputs, outputs = _tables(model)
    names = _names_of(model, inputs.weight), _names_of(model, outputs.weight)
    apart = _are_apart(model)
    since = family.unscaled_since
    if written.get("tie_word_embeddings") is False:
        if not apart:
            own = next(f"{name}.weight" for name, module in model.named_modules() if module is outputs)
            if own not in _stored(path, (own,)):
                raise UserError(
                    f"{path}: the weights do not fit the model: 1 missing ({own}; config.json says "
                    "tie_word_embeddings false, so it is a table of its own)"
                )
            outputs.weight = nn.Parameter(outputs.weight.detach().clone())  # 5 made one table of two equal ones
            apart = True
    elif since is None or written_major(written) < since:
        came = None
        if model.config.tie_word_embeddings:
            came = (names[0][0], names[1][0]) if apart else _differing(path, names[0])
        if came:
            raise UserError(
                f"{path}: tied weights came apart: config.json says tie_word_embeddings, but {' and '.join(came)} are "
                "not equal; set it to false in config.json if both are meant"
            )
    if since is not None and not apart and (written_major(written) < since) != (running_major() < since):
        # Both readings are right for what they wrote: the file decides, not who reads it.
        scale = model.config.d_model**-0.5 if written_major(written) < since else 1.0
        outputs.weight = nn.Parameter(inputs.weight.detach() * scale)
        apart = True
    model.config.tie_word_embeddings = not apart


def untie_if_separate(name: str, model: Any) -> None:
    """Let the config of a model in memory say that its tables are two, where they are.

    transformers 5 says "tied" of every T5 it has loaded: a UMT5 would be scaled as tied ones are, and all of them saved
    with a config under which they cannot be loaded.
    """
    if _are_apart(model) and model.config.tie_word_embeddings:
        LOG.warning(
            f"{name}: config.json says tie_word_embeddings, but input and output embeddings differ; treating them "
            "as untied"
        )
        model.config.tie_word_embeddings = False


def _tables(model: Any) -> tuple[Any, Any]:
    """Return the modules of the decoder's input table and of the output table."""
    stack = model.get_decoder() if model.config.is_encoder_decoder else model
    return stack.get_input_embeddings(), model.get_output_embeddings()


def _are_apart(model: Any) -> bool:
    inputs, outputs = _tables(model)
    return bool(inputs.weight.data_ptr() != outputs.weight.data_ptr())


def _names_of(model: nn.Module, weight: torch.Tensor) -> list[str]:
    """Return all names of a parameter."""
    everything = model.named_parameters(remove_duplicate=False)
    return [name for name, parameter in everything if parameter.data_ptr() == weight.data_ptr()]


def _stored(path: str, names: tuple[str, ...]) -> dict[str, Path]:
    """Return which of the tensors are in the safetensors file, and in which; {} where weights are in another format."""
    import json

    from safetensors import safe_open

    index = hub_file(path, "model.safetensors.index.json")
    if index is not None:
        files = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        found = {name: hub_file(path, files[name]) for name in names if name in files}
        return {name: file for name, file in found.items() if file is not None}
    single = hub_file(path, "model.safetensors")
    if single is None:
        return {}
    with safe_open(single, framework="pt") as tensors:
        keys = set(tensors.keys())
    return {name: single for name in names if name in keys}


def _differing(path: str, names: list[str]) -> tuple[str, str] | None:
    """Return two stored tensors that the model has as one and that are not equal: 4.57 takes one and says nothing."""
    from safetensors import safe_open

    stored = list(_stored(path, tuple(names)).items())
    if len(stored) < 2:
        return None

    def read(name: str, file: Path) -> torch.Tensor:
        with safe_open(file, framework="pt") as tensors:
            tensor: torch.Tensor = tensors.get_tensor(name)
        return tensor

    first = read(*stored[0])
    return next(((stored[0][0], name) for name, file in stored[1:] if not torch.equal(first, read(name, file))), None)


@contextmanager
def without_zero3_init() -> Iterator[None]:
    """Have the library load all weights, where DeepSpeed's settings would have it load a share."""
    from transformers.integrations import deepspeed

    settings = deepspeed._hf_deepspeed_config_weak_ref
    deepspeed.unset_hf_deepspeed_config()
    try:
        yield
    finally:
        deepspeed._hf_deepspeed_config_weak_ref = settings
