"""COMET as the utility of MBR: all pairs of candidates, and the mean embedding of all of them."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
from support.comet import load_with_comet, made_up_sentences

from mtcpo.data.records import Candidate, Segment
from mtcpo.metrics.comet.engine import Estimator
from mtcpo.metrics.mbr import MbrMetric
from mtcpo.metrics.registry import load_metric
from mtcpo.translation.config import TranslateConfig
from mtcpo.translation.mbr import open_mbr

pytestmark = pytest.mark.comet


def sampled_segments(sources=3, samples=6):
    """Segments whose last candidate repeats the first."""
    texts = iter(made_up_sentences(sources * samples, seed=7))
    segments = []
    for number, source in enumerate(made_up_sentences(sources, seed=8)):
        candidates = [Candidate("s", next(texts)) for _ in range(samples - 1)]
        segments.append(Segment(str(number), "de", "en", source, candidates=(*candidates, candidates[0])))
    return segments


def pairs_of(segment):
    """(candidate, pseudo-reference) of a segment."""
    texts = [candidate.text for candidate in segment.candidates]
    return list(itertools.product(texts, repeat=2))


@pytest.mark.parametrize("kind", ["regression", "referenceless", "unified-ref", "xcomet"])
def test_expected_utilities_are_the_means_of_comets_own_predictions(comet_models, kind):
    metric = load_metric(f"comet:{comet_models[kind]}", "en")
    segments = sampled_segments()
    found = MbrMetric(metric).score_candidates(segments)
    rows = []
    for segment in segments:
        rows += [{"src": segment.source, "mt": text, "ref": reference} for text, reference in pairs_of(segment)]
    if not metric.needs_references:
        rows = [{"src": row["src"], "mt": row["mt"]} for row in rows]
    scores = load_with_comet(comet_models[kind]).predict(rows, batch_size=5, gpus=0, progress_bar=False).scores
    expected = np.array(scores).reshape(len(segments), 6, 6).mean(axis=2)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert np.std(expected) > 1e-3


def test_each_text_is_encoded_once(comet_models, monkeypatch):
    encoded = []
    embed = Estimator._embed

    def count(self, texts):
        encoded.extend(texts)
        return embed(self, texts)

    monkeypatch.setattr(Estimator, "_embed", count)
    segments = sampled_segments(sources=40, samples=6)
    chooser = open_mbr(TranslateConfig(mbr=f"comet:{comet_models['regression']}", num_candidates=6), ["en"])
    chooser.choose(segments, [segment.candidates for segment in segments])
    # A source and five distinct candidates each, which serve as hypotheses and as references.
    assert len(encoded) == len(set(encoded)) == len({text for s in segments for text in (s.source, *texts_of(s))})
    assert len(encoded) > 5 * 40


def texts_of(segment):
    return [candidate.text for candidate in segment.candidates]


def test_aggregated_references_are_the_mean_of_their_embeddings(comet_models):
    import torch

    metric = load_metric(f"comet:{comet_models['regression']}", "en")
    assert metric.can_aggregate
    segments = sampled_segments()
    found = MbrMetric(metric, aggregate=True).score_candidates(segments)
    model = load_with_comet(comet_models["regression"]).eval()

    def embed(text):
        return model.get_sentence_embedding(**model.encoder.prepare_sample([text]))

    with torch.no_grad():
        for segment, utilities in zip(segments, found, strict=True):
            mean = torch.cat([embed(text) for text in texts_of(segment)]).mean(0, keepdim=True)
            for text, utility in zip(texts_of(segment), utilities, strict=True):
                assert utility == pytest.approx(
                    model.estimate(embed(segment.source), embed(text), mean).score.item(), abs=1e-5
                )


@pytest.mark.parametrize("kind", ["referenceless", "unified-ref", "unified-qe", "xcomet"])
def test_models_that_do_not_embed_references_apart_cannot_aggregate(comet_models, kind):
    spec = f"comet:{comet_models[kind]}"
    assert not load_metric(spec, "en").can_aggregate
    assert not open_mbr(TranslateConfig(mbr=spec, num_candidates=100), ["en"]).metrics["en"].aggregate


def test_without_any_text_nothing_is_scored(comet_models):
    metric = load_metric(f"comet:{comet_models['regression']}", "en")
    empty = replace(sampled_segments(1)[0], candidates=(Candidate("a", ""), Candidate("b", " ")))
    for aggregate in (False, True):
        assert MbrMetric(metric, aggregate=aggregate).score_candidates([empty]) == [[0.0, 0.0]]
