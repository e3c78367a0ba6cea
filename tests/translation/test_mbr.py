"""Decoding by minimum Bayes risk: which candidate is chosen, and when the metric is loaded."""

from collections import Counter
from dataclasses import replace

import pytest
from support.translation import english_segments, quick_search

from mtcpo.core.config import load_section
from mtcpo.core.errors import UserError
from mtcpo.data.records import Candidate, Segment
from mtcpo.evaluation.config import RunEvaluateConfig
from mtcpo.metrics.registry import load_candidate_metric
from mtcpo.training.config import DevConfig
from mtcpo.translation.config import TranslateConfig
from mtcpo.translation.decoding import Decoder
from mtcpo.translation.mbr import describe_mbr, open_mbr
from mtcpo.translation.translate import translate_texts


def choose(texts, **settings):
    """Return the index of the winner among candidates with these texts."""
    config = TranslateConfig(**{"mbr": "chrf", "num_candidates": max(2, len(texts))} | settings)
    made = [Candidate(f"s{number}", text) for number, text in enumerate(texts)]
    given = Segment("1", "en", "de", "source", candidates=(Candidate("other", "texts of the input do not count"),))
    [winner] = open_mbr(config, ["de"]).choose([given], [made])
    return made.index(winner)


def test_the_candidate_that_agrees_most_with_the_others_wins():
    # Means, worked by hand in tests/metrics: 100/3 for the first, 200/3 for the other two.
    assert choose(["xyz", "abcd", "abcd"]) == 1
    assert choose(["abcd", "xyz", "xyz"]) == 1


def test_the_first_of_equals_wins():
    assert choose(["aaaa", "bbbb"]) == 0
    assert choose(["bbbb", "aaaa", "bbbb", "aaaa"]) == 0
    assert choose(["", " "]) == 0


def test_an_empty_candidate_wins_only_among_empty_ones():
    assert choose(["", "", "", "abc"]) == 3


def test_ter_prefers_few_edits():
    assert choose(["a b c d", "x y z q", "a b c e", "a b c d"], mbr="ter") == 0


def test_targets_of_several_languages_are_chosen_apart():
    config = TranslateConfig(mbr="bleu", num_candidates=3)
    texts = ["今天天气很好", "今天天气不好", "今天天气很好"]
    segments = [Segment(str(n), "en", language, "source") for n, language in enumerate(["zh", "de", "zh"])]
    made = [
        [Candidate(str(n), text) for n, text in enumerate(order)] for order in (texts, ["a b", "a c", "a c"], texts)
    ]
    winners = open_mbr(config, ["zh", "de", "zh"]).choose(segments, made)
    assert [winner.text for winner in winners] == ["今天天气很好", "a c", "今天天气很好"]


def test_samples_are_drawn_and_one_remains_under_the_systems_name(engine):
    tiny, segments = engine("mt5", sharpen=3.0), english_segments(5)
    search = quick_search(sampling="epsilon", num_candidates=6)
    samples = Decoder(tiny, search).decode(segments)
    decoder = Decoder(tiny, search.model_copy(update={"mbr": "chrf"}))
    found = decoder.decode(segments)
    assert decoder.counts == Counter(candidates=30)
    for one, all_samples in zip(found, samples, strict=True):
        [utilities] = load_candidate_metric("mbr:chrf", "de").score_candidates([all_samples])
        best = all_samples.candidates[utilities.index(max(utilities))]
        assert one.candidates == (Candidate("tiny", best.text),)
    assert translate_texts(tiny, segments, decoder.config) == [one.candidates[0].text for one in found]


def test_the_metric_is_opened_before_the_search(engine, tmp_path):
    tiny = engine("mt5")
    batches = []
    tiny.on_batch = batches.append
    with pytest.raises(UserError, match="no such directory"):
        Decoder(tiny, quick_search(mbr=f"comet:{tmp_path / 'missing'}")).decode(english_segments(2))
    assert not batches


def test_unset_sampling_and_number_of_candidates_become_those_of_mbr():
    assert (TranslateConfig().sampling, TranslateConfig().num_candidates) == ("beam", 1)
    config = TranslateConfig(mbr="chrf")
    assert (config.sampling, config.num_candidates, config.outputs) == ("epsilon", 16, 1)
    config = TranslateConfig(mbr="chrf", sampling="beam", num_beams=8, num_candidates=8)
    assert (config.sampling, config.num_candidates, config.outputs) == ("beam", 8, 1)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"mbr": "crhf"}, "did you mean 'chrf'"),
        ({"mbr": "chrf", "num_candidates": 1}, "leaves no choice"),
        ({"mbr": "chrf", "sampling": "beam"}, "raise num_beams"),
        ({"mbr": "share=python:share:share"}, "--allow-code"),
    ],
)
def test_settings_without_sense_are_refused(settings, message):
    with pytest.raises(UserError, match=message):
        load_section(TranslateConfig, settings, "translate")


def test_a_custom_metric_may_choose(engine):
    def longest(sources, hypotheses, references):
        return [float(len(hypothesis)) for hypothesis in hypotheses]

    config = load_section(TranslateConfig, {"mbr": longest, "num_candidates": 2}, "translate", allow_code=True)
    made = [[Candidate("a", "short"), Candidate("b", "much longer")]]
    [winner] = open_mbr(config, ["de"]).choose(english_segments(1), made)
    assert winner.system == "b"

    def longest(sources, hypotheses, references):  # another function of the same name, as in an edited notebook cell
        return [-float(len(hypothesis)) for hypothesis in hypotheses]

    config = load_section(TranslateConfig, {"mbr": longest, "num_candidates": 2}, "translate", allow_code=True)
    [winner] = open_mbr(config, ["de"]).choose(english_segments(1), made)
    assert winner.system == "a"


def test_a_utility_that_is_not_a_number_names_the_segment():
    def broken(sources, hypotheses, references):
        return [float("nan") for _ in hypotheses]

    config = load_section(TranslateConfig, {"mbr": broken, "num_candidates": 2}, "translate", allow_code=True)
    with pytest.raises(UserError, match="segment 0: broken is not finite"):
        open_mbr(config, ["de"]).choose(english_segments(1), [[Candidate("a", "x"), Candidate("b", "y")]])


def test_more_than_64_candidates_are_compared_with_the_mean_of_all():
    texts = [f"the cat {'sat ' * (number % 5)}{'down' * (number % 3)}" for number in range(70)]
    chooser = open_mbr(TranslateConfig(mbr="chrf", num_candidates=70), ["de"])
    assert chooser.metrics["de"].aggregate
    assert not open_mbr(TranslateConfig(mbr="chrf", num_candidates=64), ["de"]).metrics["de"].aggregate
    # BLEU cannot aggregate, so that all pairs are scored.
    assert not open_mbr(TranslateConfig(mbr="bleu", num_candidates=70), ["de"]).metrics["de"].aggregate
    segment = Segment("1", "en", "de", "source", candidates=tuple(Candidate("a", text) for text in texts))
    metric = replace(load_candidate_metric("mbr:chrf", "de"), aggregate=True)
    [utilities] = metric.score_candidates([segment])
    assert choose(texts, num_candidates=70) == utilities.index(max(utilities))
    assert describe_mbr(TranslateConfig(mbr="chrf", num_candidates=70)) == (
        "MBR with chrf over 70 candidates, references aggregated"
    )
    assert describe_mbr(TranslateConfig(mbr="bleu", num_candidates=70)) == "MBR with bleu over 70 candidates"


def test_comet_settings_are_shared_with_the_evaluation():
    values = {"comet": {"precision": "bf16"}, "decoding": {"mbr": "comet"}}
    assert load_section(RunEvaluateConfig, values, "evaluate").decoding.comet.precision == "bf16"
    own = values | {"decoding": {"mbr": "comet", "comet": {"precision": "fp16"}}}
    assert load_section(RunEvaluateConfig, own, "evaluate").decoding.comet.precision == "fp16"
    without = values | {"decoding": {"num_beams": 2}}
    assert load_section(RunEvaluateConfig, without, "evaluate").decoding == TranslateConfig(num_beams=2)


def test_a_dev_set_may_be_decoded_by_mbr():
    values = {"source": "dev.en", "references": ["dev.de"], "src_lang": "en", "tgt_lang": "de"}
    config = load_section(DevConfig, values | {"decoding": {"mbr": "chrf", "num_candidates": 4}}, "train.dev")
    assert config.decoding.outputs == 1
    with pytest.raises(UserError, match=r"choose one of several by decoding\.mbr"):
        load_section(DevConfig, values | {"decoding": {"num_candidates": 4}}, "train.dev")
