"""The engine's scores and error spans equal COMET's own, for every kind of model and in every batching."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.comet import (
    ENCODERS,
    comet_segments,
    load_with_comet,
    made_up_sentences,
    make_comet,
    make_encoder,
)

from mtcpo.core.errors import UserError
from mtcpo.metrics.comet.tokens import batches

REF_FREE = ("referenceless", "unified-qe")


def rows_of(kind, count=10):
    rows = [(s.source, c.text, s.references[0]) for s in comet_segments(count) for c in s.candidates]
    return [row[:2] for row in rows] if kind in REF_FREE else rows


def engine_for(folder, batch_tokens=None, dtype=None):
    from mtcpo.metrics.comet.runner import Job, make_engine

    precision = {None: "fp32", "float16": "fp16", "bfloat16": "bf16"}[dtype]
    return make_engine(Job(str(folder / "checkpoints" / "model.ckpt"), precision, batch_tokens), "cpu")


def by_comet(folder, rows, batch_size=7):
    samples = [dict(zip(("src", "mt", "ref"), row, strict=False)) for row in rows]
    return load_with_comet(folder).predict(samples, batch_size=batch_size, gpus=0, progress_bar=False)


def plain(spans):
    return [[(s.text, s.severity, s.start, s.end) for s in row_spans] for row_spans in spans]


def plain_of_comet(output):
    return [[(s["text"], s["severity"], s["start"], s["end"]) for s in row] for row in output.metadata.error_spans]


VARIANTS = {
    "pool-cls": ("regression", {"pool": "cls"}),
    "pool-max": ("regression", {"pool": "max"}),
    "pool-default": ("referenceless", {"pool": "default"}),
    "one-layer": ("regression", {"layer": 1}),
    "embeddings-only": ("referenceless", {"layer": 0}),
    "norm-avg": ("regression", {"layer_norm": True}),
    "norm-cls": ("referenceless", {"layer_norm": True, "pool": "cls"}),
    "sparsemax": ("regression", {"layer_transformation": "sparsemax"}),
    "unified-norm": ("unified-qe", {"layer_norm": True}),
    "unified-one-layer": ("unified-qe", {"sent_layer": 1}),
    "unified-with-reference-only": ("unified-ref", {"input_segments": ["mt", "ref"]}),
    "unified-words": ("unified-ref", {"word_level_training": True}),
    "unified-words-qe": ("unified-qe", {"word_level_training": True, "word_layer": 1}),
    "xcomet-lower-words": ("xcomet", {"word_layer": 1}),
    "xcomet-norm": ("xcomet", {"layer_norm": True}),
    "xcomet-lower-sentence": ("xcomet", {"sent_layer": 1}),
}


@pytest.mark.comet
@pytest.mark.parametrize(("kind", "settings"), VARIANTS.values(), ids=VARIANTS.keys())
def test_scores_equal_comets_for_every_way_to_mix_and_pool_layers(comet_models, tmp_path, kind, settings):
    folder = make_comet(tmp_path / "model", kind, comet_models["encoder"], seed=3, **settings)
    rows = rows_of(kind)
    expected = by_comet(folder, rows)
    predictions = engine_for(folder, batch_tokens=150).predict(rows)
    np.testing.assert_allclose(predictions.scores, expected.scores, atol=1e-5)
    assert np.std(expected.scores) > 1e-3
    if predictions.spans is not None:
        assert plain(predictions.spans) == plain_of_comet(expected)
        assert sum(map(len, predictions.spans)) > 0
    assert (predictions.spans is not None) == ("error_spans" in (expected.get("metadata") or {}))


@pytest.mark.comet
@pytest.mark.parametrize("encoder", [name for name in ENCODERS if name != "XLM-RoBERTa"])
@pytest.mark.parametrize("kind", ["regression", "referenceless", "unified-qe", "unified-ref", "xcomet"])
def test_scores_equal_comets_with_every_encoder(tmp_path, encoder, kind, monkeypatch):
    monkeypatch.chdir(tmp_path)
    make_encoder(tmp_path / "xlm-roberta-base")  # whose tokenizer MiniLM has, whatever lies beside its own config
    folder = make_comet(
        tmp_path / "model", kind, make_encoder(tmp_path / "encoder", encoder), encoder_model=encoder, seed=5
    )
    rows = rows_of(kind)
    expected = by_comet(folder, rows)
    predictions = engine_for(folder).predict(rows)
    np.testing.assert_allclose(predictions.scores, expected.scores, atol=1e-5)
    assert np.std(expected.scores) > 1e-3
    if predictions.spans is not None:
        assert plain(predictions.spans) == plain_of_comet(expected)


@pytest.mark.comet
def test_the_tests_cover_all_encoders_of_comet():
    from comet.encoders import str2encoder

    assert ENCODERS.keys() == str2encoder.keys()


@pytest.mark.comet
def test_an_encoder_of_an_unknown_kind_is_refused(tmp_path, comet_models):
    """Words that see only those before them: what the weights say nothing of, and its config does."""
    encoder = make_encoder(tmp_path / "encoder", "BERT")
    folder = make_comet(tmp_path / "model", "regression", encoder, encoder_model="BERT")
    engine_for(folder)
    config = json.loads((encoder / "config.json").read_text())
    (encoder / "config.json").write_text(json.dumps(config | {"is_decoder": True}))
    with pytest.raises(UserError, match=r"encoder: this encoder \(bert\) is not supported"):
        engine_for(folder)
    resave(comet_models["regression"], folder, encoder_model="DeBERTa")
    with pytest.raises(UserError, match=r"unknown encoder of .*model\.ckpt 'DeBERTa'.*; choose from BERT, MiniLM, "):
        engine_for(folder)


@pytest.mark.comet
def test_minilm_without_its_tokenizer_names_its_repository(tmp_path, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    tokenizer = make_encoder(tmp_path / "xlm-roberta-base")
    encoder = make_encoder(tmp_path / "encoder", "MiniLM")
    folder = make_comet(tmp_path / "model", "regression", encoder, encoder_model="MiniLM")
    tokenizer.rename(tmp_path / "elsewhere")
    with pytest.raises(
        UserError, match=r"xlm-roberta-base: neither a local directory nor in the Hugging Face cache, and it cannot"
    ):
        engine_for(folder)


def resave(source, folder, **hyper_parameters):
    """Save a model's checkpoint into another folder, with other parameters."""
    import torch

    content = torch.load(source / "checkpoints" / "model.ckpt", weights_only=True)
    content["hyper_parameters"] |= hyper_parameters
    torch.save(content, folder / "checkpoints" / "model.ckpt")


@pytest.mark.comet
@pytest.mark.parametrize("kind", ["regression", "unified-ref", "xcomet"])
def test_texts_that_are_long_empty_or_spell_special_tokens_score_as_in_comet(comet_models, kind):
    """The encoder has 78 positions: a text is cut at 76 tokens, a joined input at 78, from the right."""
    long = " ".join(made_up_sentences(30))
    texts = [long, "", "ka", "ka <pad> lo", "</s> mi <s>", "€ ??", " \u2028 ", "lo  mi "]
    rows = [(source, text, texts[-number]) for number, text in enumerate(texts) for source in ("so.", long)]
    expected = by_comet(comet_models[kind], rows, batch_size=1)
    predictions = engine_for(comet_models[kind]).predict(rows)
    np.testing.assert_allclose(predictions.scores, expected.scores, atol=1e-5)
    if predictions.spans is not None:
        assert plain(predictions.spans) == plain_of_comet(expected)


@pytest.mark.comet
@pytest.mark.parametrize("kind", ["regression", "referenceless", "unified-qe", "xcomet"])
@pytest.mark.parametrize("batch_tokens", [1, 40, 100_000])
def test_batch_size_and_order_do_not_change_scores(comet_models, kind, batch_tokens):
    rows = rows_of(kind)
    expected = engine_for(comet_models[kind]).predict(rows)
    engine = engine_for(comet_models[kind], batch_tokens)
    predictions = engine.predict(rows[::-1])
    np.testing.assert_allclose(predictions.scores[::-1], expected.scores, atol=2e-6)
    if expected.spans is not None:
        assert plain(predictions.spans[::-1]) == plain(expected.spans)
    assert engine.predict([]).scores == []


@pytest.mark.comet
def test_confidences_of_error_spans_equal_comets(comet_models):
    rows = rows_of("xcomet")
    theirs = by_comet(comet_models["xcomet"], rows).metadata.error_spans
    ours = engine_for(comet_models["xcomet"]).predict(rows).spans
    expected = [span["confidence"] for row_spans in theirs for span in row_spans]
    assert len(expected) > 5
    np.testing.assert_allclose([s.confidence for row_spans in ours for s in row_spans], expected, atol=1e-6)


@pytest.mark.comet
def test_a_layer_that_the_encoder_lacks_is_reported(comet_models, tmp_path):
    for kind, settings in (("regression", {"layer": 3}), ("xcomet", {"word_layer": 24})):
        folder = make_comet(tmp_path / kind, kind, comet_models["encoder"], **settings)
        with pytest.raises(UserError, match=r"reads layer (3|24), but its encoder has 2 layers"):
            engine_for(folder)


@pytest.mark.comet
def test_each_distinct_text_is_encoded_once(comet_models):
    engine = engine_for(comet_models["regression"])
    seen = []
    read = engine._encode
    engine._encode = lambda sequences, *rest: seen.extend(map(tuple, sequences)) or read(sequences, *rest)
    rows = rows_of("regression")
    engine.predict(rows * 2)
    texts = {text for row in rows for text in row}
    assert len(seen) == len(texts) < 3 * len(rows)


@pytest.mark.comet
@pytest.mark.parametrize("kind", ["regression", "unified-qe", "xcomet"])
@pytest.mark.parametrize(("dtype", "largest"), [("float16", 0.02), ("bfloat16", 0.15)])
def test_half_precision_scores_are_close(comet_models, kind, dtype, largest):
    rows = rows_of(kind)
    exact = np.array(engine_for(comet_models[kind]).predict(rows).scores)
    scores = np.array(engine_for(comet_models[kind], dtype=dtype).predict(rows).scores)
    off = abs(scores - exact)
    assert np.median(off) < largest
    assert off.max() > 1e-6, "the precision had no effect"


@given(st.lists(st.tuples(st.integers(1, 60), st.integers(1, 3)), max_size=80), st.integers(1, 300))
def test_batches_have_every_sequence_once_and_keep_the_budget(sequences, tokens):
    lengths, groups = [length for length, _ in sequences], [group for _, group in sequences]
    batched = list(batches(lengths, tokens, groups))
    assert sorted(index for batch in batched for index in batch) == list(range(len(lengths)))
    for batch in batched:
        assert len({groups[index] for index in batch}) == 1
        assert len(batch) == 1 or len(batch) * max(lengths[index] for index in batch) <= tokens


def test_batches_worked_by_hand():
    # 8 tokens a batch; from 2 on a batch is large enough to end before padding.
    assert list(batches([2, 4, 4, 1, 4], 8)) == [[1, 2], [4], [0], [3]]
    assert list(batches([3, 3, 2], 1000)) == [[0, 1, 2]]
    assert list(batches([], 8)) == []


def test_runs_of_error_labels_worked_by_hand():
    import torch

    from mtcpo.metrics.comet.spans import Run, find_runs, mqm_score

    # Two translations of 5 and 3 tokens: labels O 1 2 O 2 and 1 O O; the last run of the first one never ends.
    chosen = [0, 1, 2, 0, 2, 1, 0, 0]
    certain = [0.9, 0.75, 0.5, 0.9, 0.9, 0.625, 0.9, 0.9]
    probabilities = torch.zeros(8, 3)
    for position, (label, value) in enumerate(zip(chosen, certain, strict=True)):
        probabilities[position, label] = value
    runs = find_runs(probabilities, [5, 3])
    assert runs == [[Run(1, 3, 1, 0.625)], [Run(0, 1, 1, 0.625)]]
    severities = ("", "minor", "major", "critical")
    assert mqm_score(runs[0], severities) == 24 / 25
    assert mqm_score([Run(0, 1, 3, 1.0), Run(2, 3, 2, 1.0)], severities) == 10 / 25
    assert mqm_score([Run(0, 1, 3, 1.0)] * 3, severities) == 0
