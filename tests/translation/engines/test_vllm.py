"""vLLM as an engine: what it is asked for. It needs a GPU, so a stand-in of its module records the requests here."""

import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from support.translation import english_segments, quick_search

from mtcpo.core.errors import UserError
from mtcpo.models.config import DEFAULT_OPTIONS
from mtcpo.models.loading import load_model
from mtcpo.models.prompts import TextExample
from mtcpo.translation.engines import vllm as engine_module
from mtcpo.translation.engines.base import LoadRequest, candidate_seed
from mtcpo.translation.engines.transformers import GenerateEngine


class StandIn:
    """vLLM's module and its class LLM: greedy search by transformers, one request at a time; requests are kept."""

    __version__ = "0.0"
    SamplingParams = dict

    def __init__(self):
        self.settings, self.requests, self.loaded = {}, [], None

    def LLM(self, **settings):  # noqa: N802
        self.settings = settings
        return self

    def generate(self, prompts, params, use_tqdm):
        self.requests += zip(prompts, params, strict=True)
        outputs = []
        for prompt, settings in zip(prompts, params, strict=True):
            ids = self.loaded.model.generate(
                inputs=_as_batch(prompt["prompt_token_ids"]), do_sample=False, num_beams=1,
                max_new_tokens=settings["max_tokens"], eos_token_id=settings["stop_token_ids"],
            )  # fmt: skip
            tokens = ids[0, len(prompt["prompt_token_ids"]) :].tolist()
            outputs.append(SimpleNamespace(outputs=[SimpleNamespace(token_ids=tokens)]))
        return outputs


def _as_batch(ids):
    import torch

    return torch.tensor([ids])


@pytest.fixture
def stand_in(monkeypatch):
    module = StandIn()
    monkeypatch.setitem(sys.modules, "vllm", module)
    return module


@pytest.fixture
def open_llama(model_folder, stand_in):
    """A function that loads the tiny Llama as this engine does, with a larger lm_head: its outputs then differ."""

    def opened(model=None, **changes):
        import torch

        folder = str(model or model_folder("llama"))
        request = LoadRequest(folder, "tiny", changes.get("dtype", "float32"), DEFAULT_OPTIONS, lambda sources: None)
        engine = engine_module.load(request)
        with torch.no_grad():
            engine.loaded.model.get_output_embeddings().weight.mul_(30.0)
        stand_in.loaded = engine.loaded
        return engine

    return opened


def test_greedy_search_sends_the_layouts_tokens_and_decodes_as_transformers_does(open_llama, stand_in):
    engine, config = open_llama(), quick_search(num_beams=1)
    segments = english_segments(4)
    done = []
    engine.on_batch = done.append
    found = engine.translate(segments, config)
    assert found == GenerateEngine(engine.loaded, "tiny").translate(segments, config)
    assert done == [4]
    texts = [TextExample(segment.source, "en", "de") for segment in segments]
    prompts = [list(example.source) for example in engine.loaded.layout.encode(texts)]
    assert [prompt["prompt_token_ids"] for prompt, _ in stand_in.requests] == prompts
    end = engine.loaded.tokenizer.eos_token_id
    expected = {"n": 1, "max_tokens": 12, "detokenize": False, "temperature": 0.0, "stop_token_ids": [end]}
    assert [params for _, params in stand_in.requests] == [expected] * 4


@pytest.mark.parametrize(("sampling", "cutoff"), [("nucleus", {"top_p": 0.8}), ("top-k", {"top_k": 7})])
def test_each_sample_is_a_request_with_the_seed_of_its_candidate(sampling, cutoff, open_llama, stand_in):
    engine = open_llama()
    config = quick_search(sampling=sampling, num_candidates=2, temperature=0.7, seed=5, top_p=0.8, top_k=7)
    found = engine.translate(english_segments(2), config, draw=3)
    assert [[candidate.system for candidate in candidates] for candidates in found] == [
        ["tiny-sample-1", "tiny-sample-2"]
    ] * 2
    seeds = [params["seed"] for _, params in stand_in.requests]
    assert seeds == [candidate_seed(5, name, number, 3) >> 1 for name in ("0", "1") for number in (0, 1)]
    assert len(set(seeds)) == 4
    assert max(seeds) < 2**63
    for _, params in stand_in.requests:
        assert params["temperature"] == 0.7
        assert {name: params.get(name) for name in ("top_p", "top_k") if name in params} == cutoff


def test_log_probabilities_are_those_of_the_model_in_transformers(open_llama):
    engine = open_llama()
    segments = english_segments(3)

    with_outputs = [
        replace(segment, candidates=tuple(candidates))
        for segment, candidates in zip(segments, engine.translate(segments, quick_search(num_beams=1)), strict=True)
    ]
    assert engine.logprobs(with_outputs, 2) == GenerateEngine(engine.loaded, "x").logprobs(with_outputs, 2)


def test_the_model_is_loaded_by_its_directory_in_the_given_precision(open_llama, stand_in, model_folder):
    engine = open_llama(dtype="bfloat16")
    folder = str(model_folder("llama"))
    assert {name: stand_in.settings[name] for name in ("model", "dtype", "trust_remote_code")} == {
        "model": folder, "dtype": "bfloat16", "trust_remote_code": False,
    }  # fmt: skip
    assert stand_in.settings["skip_tokenizer_init"]
    assert engine.label == "vllm 0.0 (bfloat16)"
    assert engine.name.startswith(f"vllm 0.0 (bfloat16) {folder} ")


def test_sources_longer_than_the_length_that_vllm_reserves_are_too_long(open_llama, stand_in, monkeypatch):
    monkeypatch.setattr(engine_module, "LONGEST", 60)
    engine = open_llama()
    assert stand_in.settings["max_model_len"] == 60
    short, long = english_segments(2)

    assert engine.too_long([short, replace(long, source="house " * 80)], quick_search()) == [False, True]


@pytest.mark.slow
def test_adapters_are_merged_into_a_model_directory_that_lives_as_long_as_the_engine(
    open_llama, stand_in, model_folder, tmp_path
):

    import peft

    loaded = load_model(str(model_folder("llama")), "float32", device="cpu")
    adapted = peft.get_peft_model(
        loaded.model, peft.LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False)
    )
    adapted.peft_config["default"].base_model_name_or_path = str(model_folder("llama"))
    adapted.save_pretrained(tmp_path / "adapters")
    engine = open_llama(tmp_path / "adapters")
    merged = Path(stand_in.settings["model"])
    assert merged != tmp_path / "adapters"
    names = {path.name for path in merged.iterdir()}
    assert {"config.json", "model.safetensors"} <= names
    assert "adapter_config.json" not in names
    engine.folder.cleanup()
    assert not merged.exists()


# --- refusals ---------------------------------------------------------------------------------------------------------


def test_an_encoder_decoder_is_refused(model_folder, stand_in):
    request = LoadRequest(str(model_folder("mt5")), "x", "float32", DEFAULT_OPTIONS, lambda sources: None)
    with pytest.raises(
        UserError, match=r"vLLM runs decoder-only models, and .* is an encoder-decoder; choose the engine"
    ):
        engine_module.load(request)
    assert stand_in.settings == {}, "refused before vLLM takes the GPU"


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"num_beams": 1}, None),
        ({"sampling": "nucleus"}, None),
        ({"sampling": "top-k"}, None),
        ({"num_beams": 4}, "ranks beams in another way than transformers; set num_beams = 1"),
        ({"sampling": "epsilon"}, "vLLM has no epsilon sampling"),
        ({"sampling": "diverse"}, "vLLM has no diverse beam search"),
    ],
)
def test_searches_that_it_does_not_have(values, reason):
    found = engine_module.why_not_search(quick_search(**values))
    assert found is None if reason is None else reason in found


def test_a_model_in_memory_several_processes_and_a_machine_without_gpu_are_refused(load, monkeypatch):
    import torch

    assert "in memory" in engine_module.why_not(load("llama"), DEFAULT_OPTIONS)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert "needs a GPU" in engine_module.why_not("a/model", DEFAULT_OPTIONS)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert engine_module.why_not("a/model", DEFAULT_OPTIONS) is None
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert "with --shard" in engine_module.why_not("a/model", DEFAULT_OPTIONS)
