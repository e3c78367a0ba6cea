"""Conversion of models to CTranslate2's format, from the module in memory: what its forward pass does is what counts.

CTranslate2's own converter loads a model by path, believes its config and asks its tokenizer for tokens. Here the
weights are those of the loaded model, the scale of the decoder's output is measured, and the vocabulary is the numbers
"0", "1", ...: mtcpo's layouts give and take token ids. From CTranslate2 come the loaders, which know where the weights
of a family belong.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ctranslate2.converters import Converter
from ctranslate2.converters import transformers as loaders
from ctranslate2.specs.model_spec import visit_spec
from torch import Tensor, nn

from mtcpo.core.errors import first_line
from mtcpo.models.compat import classic_rope
from mtcpo.models.loading import LoadedModel
from mtcpo.translation.engines.base import EngineRefused

CONVERSION = 1
"""Version of the conversion below; a change makes all models in the cache be converted again."""

EPSILONS = ("layer_norm_epsilon", "layer_norm_eps", "rms_norm_eps")
"""Names in configs of the constant that a normalization adds to the variance."""

NORMALIZATIONS = {"mbart": (True, True), "bart": (False, True), "pegasus": (True, False), "marian": (False, False)}
"""Model type -> whether layers normalize their inputs, and whether embeddings are normalized. transformers has this in
its code; CTranslate2's loaders look for it in the config, where only old checkpoints have it."""


def loader_for(config: Any) -> Any:
    """Return CTranslate2's loader for a config's class, None if it knows no such family."""
    return loaders._MODEL_LOADERS.get(type(config).__name__)


def convert(loaded: LoadedModel, folder: Path, precision: str) -> None:
    """Write a model in CTranslate2's format to `folder`, which may exist.

    Args:
        loaded: the model; it is not changed. Adapters are merged into a copy of the layers that have some.
        folder: where to write.
        precision: of the weights: float32, bfloat16, float16 or int8.

    Raises:
        EngineRefused: CTranslate2 cannot represent the model.
    """
    try:
        _ModuleConverter(loaded, precision).convert(str(folder), quantization=precision, force=True)
    except (NotImplementedError, ValueError, KeyError, AttributeError) as error:
        raise EngineRefused(
            f"{loaded.name}: CTranslate2 cannot convert it ({first_line(error)}); use --engine transformers"
        ) from error


class _ModuleConverter(Converter):
    """Converts a model in memory."""

    def __init__(self, loaded: LoadedModel, precision: str) -> None:
        self._loaded, self._precision = loaded, precision

    @torch.no_grad()
    def _load(self) -> Any:
        loaded = self._loaded
        model = own_view(loaded.model)
        if self._precision == "int8":
            _copy_tensors(model)
        loader = loader_for(model.config)
        if isinstance(loader, loaders.MarianMTLoader):
            # Without Marian's own step, which removes the row of the padding token from three tables.
            spec = loaders.BartLoader.get_model_spec(loader, model)
            # The decoder starts from that row, whatever is in it: training may have changed it.
            spec.decoder.start_from_zero_embedding = False
        else:
            spec = loader.get_model_spec(model)
        _set_output(spec.decoder, loaded)
        _set_query_scale(spec.decoder, model.config)
        _register_ids(spec, loaded)
        if self._precision == "int8":
            # CTranslate2 scales weights in place before it rounds them.
            visit_spec(spec, _copy_tensor)
        return spec


def _copy_tensor(spec: Any, name: str, value: Any) -> None:
    if isinstance(value, Tensor):
        setattr(spec, name.rpartition("/")[2], value.detach().clone())


def own_view(model: Any) -> Any:
    """Return a copy of a model that shares its tensors: loaders change the config and delete modules.

    Low-rank adapters are merged: a layer with adapters becomes a linear layer with a weight of its own.
    """
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    view = _copy_modules(base)
    view.config = copy.deepcopy(base.config)
    for name, value in classic_rope(base.config.to_dict()).items():
        setattr(view.config, name, value)
    # The scale of tied embeddings is measured instead; see `_set_output`.
    view.config.tie_word_embeddings = False
    if base.config.model_type in NORMALIZATIONS:
        pre, of_embeddings = NORMALIZATIONS[base.config.model_type]
        view.config.normalize_before, view.config.normalize_embedding = pre, of_embeddings
    # The name of GPT-NeoX's lm_head before transformers 5, by which its loader knows it.
    view._modules.setdefault("embed_out", base.get_output_embeddings())
    return view


def _copy_tensors(view: Any) -> None:
    """Give a view tensors of its own: CTranslate2 scales weights in place before it rounds them to int8."""
    for module in view.modules():
        # Not in the dict itself, which is the original's too.
        copies = dict(module._parameters)
        for name, parameter in module._parameters.items():
            if parameter is not None:
                copies[name] = nn.Parameter(parameter.detach().clone(), requires_grad=False)
        module._parameters = copies


def _copy_modules(module: Any) -> Any:
    if hasattr(module, "modules_to_save"):  # peft's wrapper of a layer that is trained as a whole
        return _copy_modules(module.modules_to_save[module.active_adapter])
    if hasattr(module, "get_delta_weight"):
        return _merged(module)
    copied = copy.copy(module)
    copied._modules = {name: child and _copy_modules(child) for name, child in module._modules.items()}
    return copied


def _merged(module: Any) -> Any:
    """Return the base layer of a layer with low-rank adapters, with these added to its weight."""
    base = copy.copy(module.base_layer)
    weight = base.weight.detach()
    if not module.merged:
        for adapter in module.active_adapters:
            weight = weight + module.get_delta_weight(adapter).to(weight.dtype)
    # A new dict: the copy shares the original's.
    base._parameters = {**base._parameters, "weight": nn.Parameter(weight, requires_grad=False)}
    return base


def _set_output(decoder: Any, loaded: LoadedModel) -> None:
    """Set what happens between the decoder's last layer and the logits, as the loaded model does it."""
    transform = loaded.head.transform
    scale = transform.scale * _state_scale(loaded)
    if scale != 1.0:
        decoder.scale_outputs = np.dtype("float32").type(scale)
    if transform.softcap is not None:
        decoder.final_logit_softcapping = np.dtype("float32").type(transform.softcap)


def _set_query_scale(decoder: Any, config: Any) -> None:
    """Set the factor of attention scores for models that have one of their own: Gemma 2 and 3."""
    scalar = getattr(config, "query_pre_attn_scalar", None)
    if scalar is not None:
        for layer in decoder.layer:
            layer.self_attention.queries_scale = np.dtype("float32").type(scalar**-0.5)


@torch.no_grad()
def _state_scale(loaded: LoadedModel) -> float:
    """Return by what the model multiplies the decoder's output before the head, measured on two tokens.

    T5 does so if its embeddings are tied, mT5 only in some versions of transformers.
    """
    model, states = loaded.model, list[Tensor]()
    if not model.config.is_encoder_decoder:
        return 1.0
    ids = torch.tensor([[0, 1]], device=loaded.device)
    hooks = [
        model.get_decoder().register_forward_hook(lambda module, args, output: states.append(output[0])),
        loaded.head.module.register_forward_pre_hook(lambda module, args: states.append(args[0])),
    ]
    was_training = model.training
    model.eval()
    try:
        model(input_ids=ids, decoder_input_ids=ids, use_cache=False)
    finally:
        model.train(was_training)
        for hook in hooks:
            hook.remove()
    decoded, headed = (state.double().flatten() for state in states)
    scale = float(headed @ decoded / (decoded @ decoded))
    return 1.0 if abs(scale - 1) < 1e-3 else scale


def _register_ids(spec: Any, loaded: LoadedModel) -> None:
    """Register ids as the vocabulary, one for each row of the embeddings, and tell CTranslate2 to add none itself."""
    config = loaded.model.config
    # Required, and appended to the vocabulary if they are not in it. No search relies on them: `Runner` passes the end
    # tokens itself, and every input token is known.
    spec.config.unk_token = spec.config.bos_token = "0"
    spec.config.eos_token = str(loaded.tokenizer.eos_token_id)
    for name in EPSILONS:
        if hasattr(config, name):
            spec.config.layer_norm_epsilon = getattr(config, name)
    if config.is_encoder_decoder:
        spec.config.decoder_start_token = None  # the first token of the target prefix
        spec.config.add_source_bos = spec.config.add_source_eos = False
        spec.register_source_vocabulary(_numbers(spec.get_source_vocabulary_size()))
        spec.register_target_vocabulary(_numbers(spec.get_target_vocabulary_size()))
    else:
        spec.register_vocabulary(_numbers(spec.get_vocabulary_size()))


def _numbers(size: int | list[int]) -> list[str]:
    return list(map(str, range(size[0] if isinstance(size, list) else size)))
