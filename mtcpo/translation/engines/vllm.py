"""The engine vLLM, for decoder-only models on GPUs.

It uses vLLM's documented interface for lists of prompts: `LLM.generate` with token ids and a `SamplingParams` for each.
mtcpo tokenizes, decodes and scores, with the model as transformers loads it, which stays on the CPU.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product
from tempfile import TemporaryDirectory
from typing import Any

import torch

from mtcpo.core.errors import UserError
from mtcpo.core.processes import this_process
from mtcpo.data.records import Candidate, Segment
from mtcpo.models.adapters import adapters_base
from mtcpo.models.config import DType, ModelOptions
from mtcpo.models.loading import LoadedModel, load_model
from mtcpo.models.names import model_fingerprint, resolve_model_name
from mtcpo.models.prompts import TextExample
from mtcpo.translation.config import TranslateConfig
from mtcpo.translation.engines.base import Engine, LoadRequest, candidate_names, candidate_seed, exceed_positions
from mtcpo.translation.engines.transformers import GenerateEngine

LONGEST = 8192
"""Maximum length of prompt and translation in tokens, for models that take longer ones: vLLM reserves the memory for
one sequence of the maximum length before it starts."""


@dataclass(slots=True)
class VllmEngine:
    """An `Engine` for a decoder-only model.

    loaded: the model for tokenization and scoring. llm: vLLM's `LLM`. make_params: vLLM's `SamplingParams`. label: as
    of `Engine`. folder: of merged weights, deleted with the engine.
    """

    loaded: LoadedModel
    llm: Any
    make_params: Callable[..., Any]
    system: str
    label: str
    on_batch: Callable[[int], object] = lambda sources: None
    folder: TemporaryDirectory[str] | None = None

    @property
    def proof(self) -> str:
        """What is known of its outputs: nothing, since transformers on the CPU takes long for a large model."""
        return "outputs not compared with those of transformers"

    @property
    def name(self) -> str:
        """What the outputs depend on besides settings; see `Engine.name`."""
        return f"{self.label} {self.loaded.name} {model_fingerprint(self.loaded.name)} as {self.system}"

    def translate(self, segments: Sequence[Segment], config: TranslateConfig, draw: int = 0) -> list[list[Candidate]]:
        """Return the candidates of each segment; vLLM makes the batches."""
        texts = [TextExample(segment.source, segment.src_lang, segment.tgt_lang) for segment in segments]
        examples = self.loaded.layout.encode(texts)
        names = candidate_names(self.system, config)
        prompts, settings = [], []
        for (example, segment), number in product(zip(examples, segments, strict=True), range(len(names))):
            prompts.append({"prompt_token_ids": list(example.source)})
            seed = candidate_seed(config.seed, segment.id, number, draw)
            settings.append(self.make_params(**sampling_settings(config, seed), stop_token_ids=self._ends(segment)))
        # In the order of the prompts.
        outputs = self.llm.generate(prompts, settings, use_tqdm=False)
        translations = self._decoded([output.outputs[0].token_ids for output in outputs])
        candidates = []
        for start in range(0, len(translations), len(names)):
            candidates.append(list(map(Candidate, names, translations[start : start + len(names)])))
        self.on_batch(len(segments))
        return candidates

    def too_long(self, segments: Sequence[Segment], config: TranslateConfig) -> list[bool]:
        """Return for each source whether it is longer than the model takes, or than LONGEST."""
        return exceed_positions(self.loaded.layout, segments, config)

    def logprobs(self, segments: Sequence[Segment], batch_size: int) -> list[list[float]]:
        """Return the log-probability of each candidate, by the model as transformers runs it, on the CPU."""
        return GenerateEngine(self.loaded, self.system).logprobs(segments, batch_size)

    def _ends(self, segment: Segment) -> list[int]:
        """Return the end tokens, at which transformers stops too."""
        settings = self.loaded.layout.generation_settings(segment.tgt_lang)
        ends = settings.get("eos_token_id", self.loaded.model.generation_config.eos_token_id)
        return list(ends) if isinstance(ends, list) else [ends]

    def _decoded(self, tokens: Sequence[Sequence[int]]) -> list[str]:
        texts = self.loaded.tokenizer.batch_decode(list(map(list, tokens)), skip_special_tokens=True)
        return list(map(str.strip, texts))


def sampling_settings(config: TranslateConfig, seed: int) -> dict[str, Any]:
    """Return the arguments of vLLM's `SamplingParams` for one candidate.

    One request for each candidate, because each has a seed of its own; vLLM computes their common prompt once.
    """
    # mtcpo's tokenizer decodes.
    settings: dict[str, Any] = {"n": 1, "max_tokens": config.max_new_tokens, "detokenize": False}
    if config.sampling == "beam":
        return settings | {"temperature": 0.0}  # greedy search
    cutoff = {"top_p": config.top_p} if config.sampling == "nucleus" else {"top_k": config.top_k}
    # vLLM hands the seed to torch as a signed integer.
    return settings | cutoff | {"temperature": config.temperature, "seed": seed >> 1}


# --- loading ----------------------------------------------------------------------------------------------------------


def why_not(model: str | LoadedModel, options: ModelOptions) -> str | None:
    """Return why vLLM cannot run a model, or None; the family is only known when the model is loaded."""
    if isinstance(model, LoadedModel):
        return "vLLM loads models from files, and this one is in memory"
    if not torch.cuda.is_available():
        return "vLLM needs a GPU, and torch finds none"
    if this_process().count > 1:
        return "vLLM does not share a job with other processes; start one for each GPU, with --shard"
    return None


def why_not_search(config: TranslateConfig) -> str | None:
    """Return why vLLM cannot search or sample as configured, or None."""
    if config.sampling in ("epsilon", "diverse"):
        return f"vLLM has no {config.sampling} {'sampling' if config.sampling == 'epsilon' else 'beam search'}"
    if config.sampling == "beam" and config.num_beams > 1:
        # Its score of a beam is divided by the length of prompt and translation together, which favors short ones.
        return "vLLM ranks beams in another way than transformers; set num_beams = 1 (greedy search), or sample"
    return None


def load(request: LoadRequest) -> Engine:
    """Load a model into vLLM.

    Raises:
        UserError: an encoder-decoder, or the model cannot be loaded.
    """
    import vllm

    assert isinstance(request.model, str)  # see `why_not`
    assert request.dtype != "int8"
    dtype = _dtype(request.dtype)
    # Also checks that the weights are complete and give the log-probabilities that they were saved with.
    loaded = load_model(request.model, dtype, request.options, device="cpu")
    if loaded.family.layout != "decoder-only":
        raise UserError(
            f"{request.model}: vLLM runs decoder-only models, and {loaded.family.name} is an encoder-decoder; choose "
            "the engine ctranslate2 or transformers"
        )
    path, merged = resolve_model_name(request.model), None
    if adapters_base(path) is not None:
        merged = TemporaryDirectory(prefix="mtcpo-merged-")
        loaded.model.save_pretrained(merged.name)
        path = merged.name
    # In the layout too, which says what is too long.
    loaded.layout.max_positions = longest = min(loaded.layout.max_positions or LONGEST, LONGEST)
    # It takes the GPU's memory only now, after everything that may be refused.
    llm = vllm.LLM(
        model=path, dtype=dtype, trust_remote_code=request.options.allow_code, max_model_len=longest,
        # Prompts and outputs are token ids; the model's own defaults for sampling must not apply.
        skip_tokenizer_init=True, generation_config="vllm",
    )  # fmt: skip
    label = f"vllm {vllm.__version__} ({dtype})"
    return VllmEngine(loaded, llm, vllm.SamplingParams, request.system, label, request.on_batch, merged)


def _dtype(dtype: DType) -> DType:
    """Return the precision on a GPU, chosen as transformers' engine does."""
    if dtype != "auto":
        return dtype
    return "bfloat16" if torch.cuda.is_bf16_supported() else "float32"
