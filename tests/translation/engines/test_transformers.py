"""Searches and sampling by `generate` of transformers, and log-probabilities of candidates."""

import math
from collections import Counter
from dataclasses import replace

import pytest
import torch
from support.models import PAIRS
from support.translation import english_segments, quick_search

from mtcpo.data.records import Candidate, Segment
from mtcpo.data.rows import read_segments
from mtcpo.models.prompts import TextExample
from mtcpo.translation.engines.base import candidate_names
from mtcpo.translation.engines.logits import DiversityPenalty, Draw, uniform_numbers
from mtcpo.translation.engines.transformers import GenerateEngine
from mtcpo.translation.translate import translate_to_file


def texts_of(found):
    return [[candidate.text for candidate in candidates] for candidates in found]


# --- searches ---------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["mt5", "llama", "nllb", "mbart-cc25", "gpt2"])
@pytest.mark.parametrize("sampling", ["beam", "diverse"])
def test_outputs_are_in_input_order_whatever_the_batches(engine, kind, sampling):
    tiny = engine(kind)
    sources = english_segments(7)
    settings = quick_search(sampling=sampling, num_candidates=2)
    together = texts_of(tiny.translate(sources, settings))
    alone = [texts_of(tiny.translate([segment], settings))[0] for segment in sources]
    assert together == alone
    assert together == texts_of(tiny.translate(sources, settings.model_copy(update={"batch_size": 3})))
    assert texts_of(tiny.translate(sources[::-1], settings)) == together[::-1]
    # Random models with language tokens say little, but not the same of everything.
    expected = 1 if kind in ("nllb", "mbart-cc25") else 3
    assert len({tuple(texts) for texts in together}) > expected, "the model says the same whatever the source"


@pytest.mark.parametrize("sampling", ["beam", "diverse", "nucleus", "top-k", "epsilon"])
@pytest.mark.parametrize("count", [1, 3])
def test_each_source_gets_num_candidates_with_different_names(engine, sampling, count):
    found = engine("mt5").translate(
        english_segments(5), quick_search(sampling=sampling, num_candidates=count, num_beams=3), draw=0
    )
    assert [len(candidates) for candidates in found] == [count] * 5
    for candidates in found:
        assert len({candidate.system for candidate in candidates}) == count
        assert all(candidate.system.startswith("tiny") and candidate.scores == {} for candidate in candidates)


def test_candidates_are_named_by_system_rank_or_number():
    assert candidate_names("base", quick_search()) == ["base"]
    assert candidate_names("base", quick_search(num_candidates=2)) == ["base-beam-1", "base-beam-2"]
    names = candidate_names("base", quick_search(num_candidates=10, sampling="epsilon"))
    assert (names[0], names[-1]) == ("base-sample-01", "base-sample-10")
    assert candidate_names("base", quick_search(num_candidates=2, sampling="diverse"))[1] == "base-group-2"


@pytest.mark.parametrize("sampling", ["nucleus", "top-k", "epsilon"])
def test_sampling_is_repeatable_and_keeps_the_random_state(engine, sampling):
    tiny = engine("mt5", sharpen=3.0)
    settings = quick_search(sampling=sampling, num_candidates=4)
    state = torch.random.get_rng_state()
    first = texts_of(tiny.translate(english_segments(3), settings, draw=1))
    assert torch.equal(torch.random.get_rng_state(), state)
    torch.manual_seed(99)
    assert texts_of(tiny.translate(english_segments(3), settings, draw=1)) == first
    assert texts_of(tiny.translate(english_segments(3), settings, draw=2)) != first
    assert max(len(set(texts)) for texts in first) > 1


@pytest.mark.parametrize("kind", ["mt5", "llama"])
@pytest.mark.parametrize("sampling", ["nucleus", "top-k", "epsilon"])
def test_samples_belong_to_their_segment(engine, kind, sampling):
    """Neither batches, nor the order, nor other segments, nor the number of candidates change them."""
    tiny = engine(kind, sharpen={"mt5": 3.0, "llama": 30.0}[kind])
    sources = english_segments(7)
    settings = quick_search(sampling=sampling, num_candidates=3)
    together = texts_of(tiny.translate(sources, settings))
    assert len(set(map(tuple, together))) == 7
    assert texts_of(tiny.translate(sources, settings.model_copy(update={"batch_size": 3}))) == together
    assert texts_of(tiny.translate(sources[::-1], settings)) == together[::-1]
    assert texts_of(tiny.translate(sources[4:6], settings)) == together[4:6]
    fewer = texts_of(tiny.translate(sources, settings.model_copy(update={"num_candidates": 2})))
    assert fewer == [texts[:2] for texts in together]
    renamed = [replace(segment, id=f"other:{segment.id}") for segment in sources]
    assert texts_of(tiny.translate(renamed, settings)) != together
    assert texts_of(tiny.translate(sources, settings.model_copy(update={"seed": 1}))) != together


def test_random_numbers_depend_on_seed_id_candidate_and_draw():
    settings = quick_search(num_candidates=2)
    rows = [uniform_numbers(["a", "b"], settings, draw=0)]
    assert rows[0].shape == (4, 12)
    # Segments first: the second row is the first candidate of "b".
    assert torch.equal(rows[0][1], uniform_numbers(["b"], settings, draw=0)[0])
    rows += [uniform_numbers(["a", "b"], settings, draw=1)]
    rows += [uniform_numbers(["a", "b"], settings.model_copy(update={"seed": 1}), draw=0)]
    every_row = torch.cat(rows)
    assert len(every_row.unique(dim=0)) == 12
    assert every_row.min() >= 0
    assert every_row.max() < 1


def test_tokens_are_sampled_in_proportion_to_their_probability():
    probabilities = torch.tensor([0.0, 0.5, 0.0, 0.3, 0.15, 0.05, 0.0])
    uniforms = uniform_numbers([str(n) for n in range(20_000)], quick_search(max_new_tokens=1), draw=0)
    drawn = Draw(uniforms, start=1)(torch.zeros(20_000, 1), (3 + probabilities.log()).expand(20_000, -1))
    assert set(drawn.flatten().tolist()) == {0.0, -math.inf}
    counts = (drawn == 0).sum(0).double()
    assert counts.sum() == 20_000
    assert counts[probabilities == 0].tolist() == [0, 0, 0]
    expected = 20_000 * probabilities[probabilities > 0].double()
    # Pearson's chi-square with three degrees of freedom: above 16.3 once in a thousand seeds.
    assert ((counts[probabilities > 0] - expected) ** 2 / expected).sum() < 16.3


def test_the_smallest_random_number_samples_no_impossible_token():
    drawn = Draw(torch.zeros(1, 1), start=1)(torch.zeros(1, 1), torch.tensor([[0.0, 0.5, 0.5, 0.0]]).log())
    assert drawn.argmax().item() == 1


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["mt5", "llama"])
@pytest.mark.parametrize(
    ("sampling", "bound"),
    [("epsilon", {"epsilon": 0.004}), ("nucleus", {"top_p": 0.8}), ("top-k", {"top_k": 7})],
)
def test_samples_have_the_distribution_of_transformers_sampling(engine, kind, sampling, bound):
    """First tokens of many samples, against those of `generate` with the same settings and other random numbers."""
    tiny = engine(kind, sharpen={"mt5": 3.0, "llama": 30.0}[kind])
    source, count = english_segments(2), 1500
    settings = quick_search(sampling=sampling, num_candidates=count, max_new_tokens=1, temperature=0.8, **bound)
    ours = texts_of(tiny.translate(source, settings, draw=1))
    batch = tiny.loaded.layout.generation_batch(
        tiny.loaded.layout.encode([TextExample(s.source, "en", "de") for s in source])
    )
    torch.manual_seed(2)
    words = {"epsilon": "epsilon_cutoff", "top_p": "top_p", "top_k": "top_k"}
    options = {"top_k": 0, "top_p": 1.0, "temperature": 0.8} | {words[name]: value for name, value in bound.items()}
    theirs = tiny.loaded.model.generate(
        **batch, **tiny.loaded.layout.generation_settings("de"), **options,
        do_sample=True, num_return_sequences=count, max_new_tokens=1,
    )  # fmt: skip
    theirs = tiny.loaded.tokenizer.batch_decode(tiny.loaded.layout.new_tokens(theirs, batch), skip_special_tokens=True)
    for i in range(2):
        here, there = Counter(ours[i]), Counter(text.strip() for text in theirs[i * count : (i + 1) * count])
        assert len(here) > 2
        for text in here.keys() | there.keys():
            # Each count is binomial: five standard deviations of their difference.
            assert abs(here[text] - there[text]) <= 5 * math.sqrt(here[text] + there[text]) + 1


def test_a_source_is_encoded_once_however_many_samples(engine):
    tiny, rows = engine("mt5"), []
    tiny.loaded.model.get_encoder().block[0].register_forward_pre_hook(lambda _, args: rows.append(len(args[0])))
    tiny.translate(english_segments(3), quick_search(sampling="epsilon", num_candidates=5))
    assert rows == [3]


def step_probabilities(loaded, source, target):
    """The model's own probability of each token of a generated target (without its start token)."""
    example = loaded.layout.encode([source])[0]
    if loaded.model.config.is_encoder_decoder:
        logits = loaded.model(input_ids=torch.tensor([example.source]), decoder_input_ids=target[None, :-1]).logits[0]
        target = target[1:]
    else:
        whole = torch.cat([torch.tensor(example.source), target])
        logits = loaded.model(input_ids=whole[None]).logits[0, len(example.source) - 1 : -1]
    return torch.softmax(logits, -1), target


@pytest.mark.parametrize("kind", ["mt5", "llama"])
def test_epsilon_sampling_takes_no_token_below_epsilon(engine, kind, monkeypatch):
    tiny = engine(kind, sharpen={"mt5": 8.0, "llama": 80.0}[kind])
    generated = []
    texts = GenerateEngine._texts
    monkeypatch.setattr(
        GenerateEngine, "_texts", lambda self, *args: (generated.append(texts(self, *args)), generated[-1])[1]
    )
    source = english_segments(1)[0]
    text = TextExample(source.source, "en", "de")
    smallest = {}
    for epsilon in (0.05, 1e-6):
        generated.clear()
        settings = quick_search(sampling="epsilon", epsilon=epsilon, num_candidates=12, max_new_tokens=10)
        tiny.translate([source], settings, draw=3)
        taken = []
        for row in generated[0][1]:
            with torch.no_grad():
                probabilities, target = step_probabilities(tiny.loaded, text, row)
            end = (target == tiny.loaded.tokenizer.eos_token_id).nonzero().flatten().tolist()
            length = end[0] + 1 if end else len(target)
            taken += probabilities[torch.arange(length), target[:length]].tolist()
        assert len(taken) > 12
        smallest[epsilon] = min(taken)
    assert smallest[0.05] >= 0.05
    assert smallest[1e-6] < 0.05, "the bound was never in the way"


def greedy_groups(loaded, source, count, penalty, steps):
    """Diverse search by hand: each candidate greedy, with `penalty` for tokens of earlier ones at the same step."""
    example = loaded.layout.encode([TextExample(source, "en", "de")])[0]
    end, encoder_decoder = loaded.tokenizer.eos_token_id, loaded.model.config.is_encoder_decoder
    groups = []
    for _ in range(count):
        taken = [loaded.model.config.decoder_start_token_id] if encoder_decoder else list(example.source)
        new = []
        while len(new) < steps and end not in new:
            with torch.no_grad():
                if encoder_decoder:
                    ids = {
                        "input_ids": torch.tensor([example.source]),
                        "decoder_input_ids": torch.tensor([taken + new]),
                    }
                else:
                    ids = {"input_ids": torch.tensor([taken + new])}
                logps = torch.log_softmax(loaded.model(**ids).logits[0, -1], -1)
            for group in groups:
                if len(new) < len(group):
                    logps[group[len(new)]] -= penalty
            new.append(int(logps.argmax()))
        groups.append(new)
    return [loaded.tokenizer.decode(group, skip_special_tokens=True).strip() for group in groups]


@pytest.mark.parametrize("kind", ["mt5", "llama", "gpt2", "marian"])
@pytest.mark.parametrize("penalty", [0.4, 3.0, 50.0])
def test_diverse_search_is_greedy_search_with_penalties(engine, kind, penalty):
    tiny = engine(kind)
    if kind == "marian":
        # Its generation would otherwise forbid nothing but the padding token, as the plain loop does.
        tiny.loaded.model.generation_config.forced_eos_token_id = None
    sources = english_segments(4)
    settings = quick_search(sampling="diverse", num_candidates=3, diversity_penalty=penalty, max_new_tokens=8)
    found = texts_of(tiny.translate(sources, settings))
    assert found == [greedy_groups(tiny.loaded, segment.source, 3, penalty, 8) for segment in sources]


def test_diversity_grows_with_the_penalty(engine):
    tiny = engine("mt5")
    sources = english_segments(4)
    distinct = {}
    for penalty in (1e-9, 50.0):
        settings = quick_search(sampling="diverse", num_candidates=4, diversity_penalty=penalty)
        found = texts_of(tiny.translate(sources, settings))
        distinct[penalty] = {len(set(texts)) for texts in found}
    greedy = quick_search(sampling="beam", num_beams=1)
    assert distinct == {1e-9: {1}, 50.0: {4}}
    best = texts_of(tiny.translate(sources, greedy))
    first = texts_of(tiny.translate(sources, quick_search(sampling="diverse", num_candidates=2)))
    assert [texts[0] for texts in first] == [texts[0] for texts in best]


def test_padding_after_the_end_is_not_penalized():
    """Padding may be the end token itself: a group that ended earlier has taken nothing since."""
    end, groups = 0, [torch.tensor([[5, 0, 0], [5, 6, 0]])]
    penalty = DiversityPenalty(groups, 2.0, start=1, ends=torch.tensor(end))
    scores = torch.zeros(2, 8)
    uniform = -math.log(8)
    at = lambda step: penalty(torch.zeros(2, 1 + step, dtype=torch.int64), scores)  # noqa: E731
    assert at(0)[:, 5].tolist() == pytest.approx([uniform - 2] * 2)
    assert at(1)[0, end].item() == pytest.approx(uniform - 2)
    assert at(1)[1, 6].item() == pytest.approx(uniform - 2)
    assert at(2)[:, end].tolist() == pytest.approx([uniform, uniform - 2])
    assert at(3).flatten().tolist() == pytest.approx([uniform] * 16)


def test_beam_search_overrides_a_checkpoint_that_samples(engine):
    tiny = engine("llama", sharpen=3.0)
    tiny.loaded.model.generation_config.do_sample = True
    tiny.loaded.model.generation_config.top_p = 0.9
    for settings in (quick_search(), quick_search(num_beams=1), quick_search(sampling="diverse")):
        assert tiny.translate(english_segments(4), settings) == tiny.translate(english_segments(4), settings, draw=1)


def test_decoder_only_translations_are_without_their_prompt(engine, load):
    tiny = engine("gpt2")
    (found,) = tiny.translate(english_segments(1), quick_search())
    prompt_and_more = "Translate this from English to German. Give only the translation."
    assert not any(
        piece in found[0].text
        for piece in ("<|user|>", "<|assistant|>", prompt_and_more, english_segments(1)[0].source)
    )
    # Taught to answer one thing, it answers that and nothing around it.
    loaded = load("llama")
    batch = loaded.layout.collate(
        loaded.layout.encode([TextExample(s.source, "en", "de", ("Das Rind grüßt.",)) for s in english_segments(4)])
    )
    optimizer = torch.optim.Adam(loaded.model.parameters(), lr=1e-2)
    for _ in range(100):
        optimizer.zero_grad()
        objective = lambda part: -part.token_logps.sum() / batch["labels"].numel()  # noqa: E731
        loaded.layout.score(loaded.model, loaded.head, batch, objective).loss.backward()
        optimizer.step()
    found = GenerateEngine(loaded, "taught").translate(english_segments(4), quick_search(max_new_tokens=30))
    assert texts_of(found) == [["Das Rind grüßt."]] * 4


def test_target_languages_are_kept_apart(engine):
    tiny = engine("nllb")
    mixed = [Segment(str(n), "en", ("de", "fr")[n % 2], s.source) for n, s in enumerate(english_segments(6))]
    together = texts_of(tiny.translate(mixed, quick_search()))
    assert together == [texts_of(tiny.translate([segment], quick_search()))[0] for segment in mixed]


def test_dropout_is_off_while_translating_and_restored(engine):
    tiny = engine("mt5")
    tiny.loaded.model.train()
    found = tiny.translate(english_segments(3), quick_search())
    assert tiny.loaded.model.training
    assert tiny.translate(english_segments(3), quick_search()) == found


# --- log-probabilities ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["mt5", "marian", "nllb", "llama"])
def test_logprobs_are_those_of_the_models_own_loss(engine, kind):
    """Sources with none, one and several candidates; each against a plain forward pass over it alone."""
    tiny = engine(kind)
    tiny.loaded.model.train()
    counts = (2, 0, 1, 2, 3)
    given = [
        replace(s, candidates=tuple(Candidate(f"s{k}", PAIRS[n + k][1]) for k in range(counts[n])))
        for n, s in enumerate(english_segments(5))
    ]
    found = tiny.logprobs(given, batch_size=2)
    assert tiny.loaded.model.training
    tiny.loaded.model.eval()
    assert [len(values) for values in found] == list(counts)
    for segment, values in zip(given, found, strict=True):
        for candidate, value in zip(segment.candidates, values, strict=True):
            example = tiny.loaded.layout.encode([TextExample(segment.source, "en", "de", (candidate.text,))])[0]
            target = torch.tensor([example.targets[0]])
            with torch.no_grad():
                if tiny.loaded.model.config.is_encoder_decoder:
                    loss = tiny.loaded.model(input_ids=torch.tensor([example.source]), labels=target).loss
                else:
                    prompt = torch.tensor([example.source])
                    labels = torch.cat([torch.full_like(prompt, -100), target], 1)
                    loss = tiny.loaded.model(input_ids=torch.cat([prompt, target], 1), labels=labels).loss
            assert value == pytest.approx(-loss.item() * target.numel(), rel=1e-4)


def test_candidates_get_logprobs_on_request(engine, tmp_path):
    """Those that the sources bring get theirs too, and the file gives back what was computed."""
    tiny = engine("mt5")
    given = [replace(segment, candidates=(Candidate("other", "Hallo Welt"),)) for segment in english_segments(3)]
    path = tmp_path / "c.jsonl"
    translate_to_file(tiny, given, quick_search(num_candidates=2, sampling="epsilon", logprobs=True), path)
    read = list(read_segments(path))
    expected = tiny.logprobs(read, batch_size=32)
    assert [len(segment.candidates) for segment in read] == [3, 3, 3]
    for segment, values in zip(read, expected, strict=True):
        assert [candidate.logprob for candidate in segment.candidates] == pytest.approx(values, rel=1e-5)
    translate_to_file(tiny, given, quick_search(num_candidates=2, sampling="epsilon"), tmp_path / "d.jsonl")
    assert all(c.logprob is None for segment in read_segments(tmp_path / "d.jsonl") for c in segment.candidates)
