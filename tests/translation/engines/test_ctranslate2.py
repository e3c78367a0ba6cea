"""CTranslate2 against transformers: searches, log-probabilities, every family that it knows."""

from dataclasses import replace

import pytest
import torch
from support.ctranslate2 import ct2_engine, texts_of
from support.families import TINY_MODELS
from support.models import PAIRS
from support.translation import english_segments, quick_search

from mtcpo.core.errors import UserError
from mtcpo.data.records import Candidate, Segment
from mtcpo.models.config import DEFAULT_OPTIONS, LoraConfig
from mtcpo.models.loading import LoadedModel
from mtcpo.translation.engines.base import EngineRefused
from mtcpo.translation.engines.ctranslate2 import why_not, why_not_search
from mtcpo.translation.engines.ctranslate2_conversion import _state_scale
from mtcpo.translation.engines.transformers import GenerateEngine

UNKNOWN = {"mixtral", "cohere", "granite"}
"""Kinds whose type CTranslate2 does not know."""

REFUSED = {"llama3", "gemma3"}
"""Kinds with constants that CTranslate2 has fixed: the original length of Llama 3, the window of the tiny Gemma 3."""

PROVED = [kind for kind in TINY_MODELS if kind not in UNKNOWN | REFUSED]


@pytest.fixture
def sharp(load):
    """A function from a kind to a loaded model whose outputs depend on their sources."""

    def loaded(kind):
        model = load(kind)
        if kind in ("mt5", "llama"):
            with torch.no_grad():
                model.model.get_output_embeddings().weight.mul_(30.0)
        return model

    return loaded


def share_equal(ours, theirs):
    """The share of sources with the same texts."""
    return sum(map(list.__eq__, texts_of(ours), texts_of(theirs))) / len(ours)


# --- every family -----------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("kind", PROVED)
def test_outputs_and_log_probabilities_are_those_of_transformers(sharp, kind):
    loaded, segments = sharp(kind), english_segments(16)
    ours, theirs = ct2_engine(loaded), GenerateEngine(loaded, "tiny")
    greedy = quick_search(num_beams=1)
    assert ours.translate(segments, greedy) == theirs.translate(segments, greedy)
    found, expected = (each.translate(segments, quick_search(num_beams=4)) for each in (ours, theirs))
    # transformers may stop before a late hypothesis, as described in `_finished_by_transformers`: in untrained models,
    # hypotheses end long after each other.
    assert share_equal(found, expected) >= 0.8
    scored = [replace(s, candidates=(Candidate("a", PAIRS[3][1]), Candidate("b", PAIRS[8][1]))) for s in segments]
    for here, there in zip(ours.own_logprobs(scored, 4), theirs.logprobs(scored, 4), strict=True):
        assert here == pytest.approx(there, abs=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["m2m100", "nllb", "mbart-50", "mbart-cc25"])
def test_the_target_language_is_forced(sharp, kind):
    loaded = sharp(kind)
    engine = ct2_engine(loaded)
    segments = [replace(s, tgt_lang=("de", "fr")[n % 2]) for n, s in enumerate(english_segments(6))]
    for segment, hypotheses in zip(segments, engine.search(segments, quick_search()), strict=True):
        settings = loaded.layout.generation_settings(segment.tgt_lang)
        if "forced_bos_token_id" in settings:
            assert hypotheses[0][0] == settings["forced_bos_token_id"]
        else:
            assert engine._prefix(segment.tgt_lang) == (settings["decoder_start_token_id"],)
    greedy = quick_search(num_beams=1)
    assert engine.translate(segments, greedy) == GenerateEngine(loaded, "tiny").translate(segments, greedy)


@pytest.mark.parametrize("kind", sorted(UNKNOWN))
def test_an_unknown_family_is_a_line(load, model_folder, kind):
    assert "does not know" in why_not(str(model_folder(kind)), DEFAULT_OPTIONS)
    with pytest.raises(UserError, match=r"does not know the model type .*; choose --engine transformers$"):
        ct2_engine(load(kind))


@pytest.mark.slow
@pytest.mark.parametrize("kind", sorted(REFUSED))
def test_a_model_that_ctranslate2_computes_otherwise_is_refused(load, kind):
    with pytest.raises(EngineRefused, match=r"only \d+ of 32 greedy outputs of transformers: '.*' instead of '.*'; "):
        ct2_engine(load(kind), english_segments(32))


@pytest.mark.parametrize("kind", ["t5", "mt5", "mt5-tied", "umt5", "marian"])
def test_the_scale_of_the_decoder_is_what_the_forward_pass_does(load, kind):
    loaded = load(kind)
    scale = _state_scale(loaded)
    seen = []
    hook = loaded.head.module.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    ids = torch.tensor([[1, 0]])
    with torch.no_grad():
        encoded = loaded.model.get_encoder()(ids)[0]
        decoded = loaded.model.get_decoder()(input_ids=ids, encoder_hidden_states=encoded, use_cache=False)[0]
        loaded.model(input_ids=ids, decoder_input_ids=ids, use_cache=False)
    hook.remove()
    assert torch.allclose(seen[0], scale * decoded, atol=1e-5)
    if kind == "t5":
        assert scale == pytest.approx(32**-0.5)


def test_a_bias_of_the_logits_is_converted(load):
    loaded = load("marian")
    segments, greedy = english_segments(8), quick_search(num_beams=1)
    assert loaded.model.final_logits_bias.abs().max() > 0.1
    with_bias = ct2_engine(loaded).translate(segments, greedy)
    loaded.model.final_logits_bias.zero_()
    without = ct2_engine(loaded).translate(segments, greedy)
    assert without != with_bias
    assert without == GenerateEngine(loaded, "tiny").translate(segments, greedy)


# --- the user's model -------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "int8"])
@pytest.mark.parametrize("kind", ["mt5", "marian", "llama", "gemma", "nllb"])
def test_conversion_changes_nothing_in_the_model(load, kind, dtype, tmp_path):
    from mtcpo.translation.engines.ctranslate2_conversion import convert

    loaded = load(kind)
    before = {name: tensor.clone() for name, tensor in loaded.model.state_dict().items()}
    config, modules = loaded.model.config.to_dict(), [name for name, _ in loaded.model.named_modules()]
    convert(loaded, tmp_path / "converted", dtype)
    after = loaded.model.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(tensor, after[name]) for name, tensor in before.items())
    assert loaded.model.config.to_dict() == config
    assert [name for name, _ in loaded.model.named_modules()] == modules


def adapted(loaded: LoadedModel) -> LoadedModel:
    from mtcpo.models.adapters import add_adapters

    model = add_adapters(loaded.model, loaded.family, LoraConfig(r=4), loaded.name)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:  # new adapters change nothing
            torch.nn.init.normal_(parameter, std=0.3)
    return loaded.with_model(model)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["mt5", "llama"])
def test_adapters_in_training_are_merged_into_a_copy(sharp, kind):
    loaded = sharp(kind)
    segments, greedy = english_segments(8), quick_search(num_beams=1)
    plain = ct2_engine(loaded).translate(segments, greedy)
    loaded = adapted(loaded)
    before = {name: tensor.clone() for name, tensor in loaded.model.state_dict().items()}
    found = ct2_engine(loaded, segments).translate(segments, greedy)
    assert found != plain
    assert found == GenerateEngine(loaded, "tiny").translate(segments, greedy)
    assert all(torch.equal(tensor, before[name]) for name, tensor in loaded.model.state_dict().items())


def test_a_model_in_training_mode_stays_there(sharp):
    loaded = sharp("nllb")
    loaded.model.train()
    segments, greedy = english_segments(4), quick_search(num_beams=1)
    found = ct2_engine(loaded, segments).translate(segments, greedy)
    assert loaded.model.training
    assert found == GenerateEngine(loaded, "tiny").translate(segments, greedy)


# --- searches ---------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("length_penalty", [0.0, 0.5, 2.0])
@pytest.mark.parametrize("kind", ["mt5", "gpt2"])
def test_n_best_lists_and_length_penalties_are_those_of_transformers(sharp, kind, length_penalty):
    loaded, segments = sharp(kind), english_segments(20)
    settings = quick_search(num_beams=4, num_candidates=3, length_penalty=length_penalty)
    found, expected = (
        each.translate(segments, settings) for each in (ct2_engine(loaded), GenerateEngine(loaded, "tiny"))
    )
    assert [[c.system for c in candidates] for candidates in found] == [
        ["tiny-beam-1", "tiny-beam-2", "tiny-beam-3"]
    ] * 20
    assert share_equal([candidates[:1] for candidates in found], [candidates[:1] for candidates in expected]) >= 0.9
    assert share_equal(found, expected) >= 0.8


def test_early_stopping_of_the_checkpoint_is_followed(sharp):
    loaded, segments = sharp("mt5"), english_segments(20)
    loaded.model.generation_config.early_stopping = True
    settings = quick_search(num_beams=4, num_candidates=4, max_new_tokens=24)
    found, expected = (
        each.translate(segments, settings) for each in (ct2_engine(loaded), GenerateEngine(loaded, "tiny"))
    )
    assert share_equal(found, expected) == 1.0


def test_suppressed_tokens_of_the_checkpoint_are_never_generated(sharp):
    loaded, segments = sharp("marian"), english_segments(6)
    greedy = quick_search(num_beams=1)
    usual = {hypotheses[0][0] for hypotheses in ct2_engine(loaded).search(segments, greedy)}
    loaded.model.generation_config.bad_words_ids = [[token] for token in sorted(usual)]
    engine = ct2_engine(loaded)
    tokens = {token for hypotheses in engine.search(segments, greedy) for token in hypotheses[0]}
    assert usual - {loaded.tokenizer.eos_token_id}
    assert not tokens & (usual - {loaded.tokenizer.eos_token_id})
    assert engine.translate(segments, greedy) == GenerateEngine(loaded, "tiny").translate(segments, greedy)


def test_a_setting_of_the_checkpoint_without_a_counterpart_is_refused(load):
    loaded = load("mt5")
    loaded.model.generation_config.repetition_penalty = 1.3
    with pytest.raises(EngineRefused, match="sets repetition_penalty, which CTranslate2 cannot follow"):
        ct2_engine(loaded)


def test_outputs_are_in_input_order_whatever_the_batches(sharp):
    done = []
    loaded, segments = sharp("mt5"), english_segments(7)
    engine = ct2_engine(loaded, on_batch=done.append)
    settings = quick_search(batch_size=2)
    together = texts_of(engine.translate(segments, settings))
    assert sum(done) == 7
    assert texts_of(engine.translate(segments[::-1], settings)) == together[::-1]
    assert [texts_of(engine.translate([segment], settings))[0] for segment in segments] == together
    assert len({texts[0] for texts in together}) > 3, "the model says the same whatever the source"


def test_a_source_is_never_cut(load):
    """CTranslate2 cuts sources at 1,024 tokens unless told otherwise, without a word."""
    loaded = load("byt5")
    segments = [Segment("long", "en", "de", 1100 * "a" + PAIRS[9][0], candidates=(Candidate("a", PAIRS[3][1]),))]
    engine, reference = ct2_engine(loaded), GenerateEngine(loaded, "tiny")
    assert engine.own_logprobs(segments, 1)[0] == pytest.approx(reference.logprobs(segments, 1)[0], abs=1e-3)
    greedy = quick_search(num_beams=1)
    assert engine.translate(segments, greedy) == reference.translate(segments, greedy)


def test_searches_that_cannot_be_exact_are_named(sharp):
    assert why_not_search(quick_search()) is None
    assert why_not_search(quick_search(sampling="epsilon", num_candidates=4)) is None
    assert "diverse" in why_not_search(quick_search(sampling="diverse"))
    assert "temperature 1" in why_not_search(quick_search(sampling="epsilon", temperature=0.5))
    with pytest.raises(UserError, match=r"no diverse beam search; choose --engine transformers$"):
        ct2_engine(sharp("mt5")).translate(english_segments(1), quick_search(sampling="diverse"))


def test_log_probabilities_of_candidates_come_from_the_engine_that_is_right(sharp, monkeypatch):
    loaded, segments = sharp("mt5"), english_segments(4)
    scored = [replace(s, candidates=(Candidate("a", PAIRS[3][1]),)) for s in segments]
    engine = ct2_engine(loaded, segments)
    expected = GenerateEngine(loaded, "tiny").logprobs(scored, 2)
    assert engine.logprobs(scored, 2) == engine.own_logprobs(scored, 2)
    (proof,) = engine._converted.proofs.values()
    engine._converted.proofs["en-de"] = replace(proof, logprob_error=0.5)
    monkeypatch.setattr(type(engine), "own_logprobs", None)
    assert engine.logprobs(scored, 2) == expected


def test_an_engine_says_what_it_is_and_what_was_proved(sharp):
    engine = ct2_engine(sharp("mt5"), english_segments(8))
    assert engine.label.startswith("ctranslate2 ")
    assert engine.label.endswith("(float32)")
    assert engine.proof.startswith("en-de: 8 of 8 greedy and ")
    assert engine.name.startswith(engine.label)
