import hashlib
import importlib.util
import json
import logging
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from support.comet import (
    KINDS,
    comet_segments,
    load_with_comet,
)

from mtcpo.core.errors import UserError
from mtcpo.data.records import Candidate, Segment
from mtcpo.data.triplets import read_triplets
from mtcpo.metrics.comet.checkpoint import find_checkpoint
from mtcpo.metrics.comet.config import CometConfig
from mtcpo.metrics.registry import load_metric
from mtcpo.preferences.build import PrefsConfig, build_preferences


@pytest.fixture
def copy(comet_models, tmp_path):
    """A regression model to be damaged."""
    return Path(shutil.copytree(comet_models["regression"], tmp_path / "copy"))


def comet_scores(folder, rows):
    return load_with_comet(folder).predict(rows, batch_size=5, gpus=0, progress_bar=False).scores


def opened(folder, **settings):
    """The metric, its model loaded."""
    metric = load_metric(f"comet:{folder}", "en", CometConfig(**settings))
    metric.open()
    return metric


@pytest.mark.comet
@pytest.mark.parametrize("kind", KINDS)
def test_scores_equal_comets_own_predict(comet_models, kind):
    metric = load_metric(f"comet:{comet_models[kind]}", "en")
    segments = comet_segments()
    scores = metric.score_candidates(segments)
    rows = [{"src": s.source, "mt": c.text, "ref": s.references[0]} for s in segments for c in s.candidates]
    if not metric.needs_references:
        rows = [{"src": row["src"], "mt": row["mt"]} for row in rows]
    expected = comet_scores(comet_models[kind], rows)
    np.testing.assert_allclose(np.ravel(scores), expected, atol=1e-5)
    assert np.std(expected) > 1e-3
    # COMET may score identical candidates differently, by batch; here they are one row.
    assert all(of_segment[0] == of_segment[2] for of_segment in scores)


@pytest.mark.comet
@pytest.mark.parametrize(
    ("kind", "needs"),
    [("regression", True), ("referenceless", False), ("unified-qe", False), ("unified-ref", True), ("xcomet", True)],
)
def test_whether_a_model_needs_references_is_read_from_its_files(comet_models, kind, needs):
    metric = load_metric(f"cometkiwi:{comet_models[kind]}", "en")
    assert metric.needs_references is needs
    assert metric.name == "cometkiwi"
    bare = Segment("9", "de", "en", "ka lo.", candidates=(Candidate("a", "mi nu."),))
    if needs:
        for references in ((), ("",), ("so.", " ")):
            with pytest.raises(UserError, match=r"segment 9: .*reference"):
                metric.score_candidates([*comet_segments(2), Segment(**vars_of(bare) | {"references": references})])
    else:
        assert len(metric.score_candidates([bare])[0]) == 1


def vars_of(segment):
    return {name: getattr(segment, name) for name in Segment.__slots__}


@pytest.mark.comet
def test_the_score_with_several_references_is_their_mean(comet_models):
    metric = load_metric(f"comet:{comet_models['regression']}", "en")
    hypothesis = (Candidate("a", "ka lo mi."),)

    def score(*refs):
        return metric.score_candidates([Segment("1", "de", "en", "so so.", refs, candidates=hypothesis)])[0][0]

    assert score("ra.", "ti vu.") == pytest.approx((score("ra.") + score("ti vu.")) / 2, abs=1e-5)


@pytest.mark.comet
def test_the_corpus_score_is_the_mean_of_the_segments(comet_models):
    metric = load_metric(f"comet:{comet_models['regression']}", "en")
    segments = comet_segments(7)
    hypotheses = [segment.candidates[1].text for segment in segments]
    sums = metric.statistics(hypotheses, segments).sum(axis=0)
    expected = np.mean([row[1] for row in metric.score_candidates(segments)])
    assert float(metric.corpus_score(sums)) == pytest.approx(expected, abs=1e-6)
    assert metric.corpus_score(np.tile(sums, (3, 2, 1))).shape == (3, 2)
    assert metric.score_candidates([]) == []


@pytest.mark.comet
def test_build_prefs_combines_comet_and_chrf(comet_models, tmp_path):
    config = PrefsConfig(metrics=(f"comet:{comet_models['regression']}", "chrf"), combine="zscore", workers=1)
    report = build_preferences(comet_segments(30), config, tmp_path / "p.jsonl", scored=tmp_path / "s.jsonl")
    assert set(report.metrics) == set(report.chosen_scores) == {"comet", "chrf"}
    assert "model:regression|" in report.metrics["comet"]
    assert report.kept + sum(report.dropped.values()) == report.segments == 30
    # With the two distinct candidates of each source, metrics that disagree cancel out, and that is a tie.
    margins = [triplet.margin for triplet in read_triplets(str(tmp_path / "p.jsonl"))]
    assert margins == pytest.approx([2.0] * report.kept)


@pytest.mark.comet
def test_signature_names_model_weights_version_and_precision(comet_models):
    metric = load_metric(f"comet:{comet_models['regression']}", "en")
    digest = hashlib.sha256((comet_models["regression"] / "checkpoints" / "model.ckpt").read_bytes()).hexdigest()
    assert metric.signature(1) == (
        f"nrefs:1|model:regression|class:regression_metric|weights:{digest[:12]}|precision:fp32|comet:2.2.7"
    )


@pytest.mark.comet
def test_the_ckpt_file_itself_can_be_given(comet_models):
    file = comet_models["referenceless"] / "checkpoints" / "model.ckpt"
    segments = comet_segments(3)
    assert load_metric(f"comet:{file}", "en").score_candidates(segments) == load_metric(
        f"comet:{comet_models['referenceless']}", "en"
    ).score_candidates(segments)


@pytest.mark.slow
@pytest.mark.comet
def test_scoring_prints_nothing_and_leaves_logging_as_it_was(comet_models):
    code = (
        "import logging\n"
        "from mtcpo.metrics.registry import load_metric; from mtcpo.metrics.comet.config import CometConfig\n"
        "from mtcpo.data.records import Segment, Candidate\n"
        f"m = load_metric('comet:{comet_models['regression']}', 'en')\n"
        "m.score_candidates([Segment('1', 'de', 'en', 'ka.', ('lo.',), candidates=(Candidate('a', 'mi.'),))])\n"
        "root = logging.getLogger()\n"
        "print(root.handlers, root.level == logging.WARNING)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[] True"
    assert done.stderr == ""


@pytest.mark.comet
def test_loading_restores_log_levels(comet_models):
    before = logging.getLogger("comet").level, logging.getLogger().level
    opened(comet_models["regression"])
    assert (logging.getLogger("comet").level, logging.getLogger().level) == before


@pytest.mark.comet
def test_signal_handlers_stay_in_place_while_it_scores(comet_models, monkeypatch):
    metric = opened(comet_models["unified-ref"])
    engine, during = metric.runner._engine, []
    read = engine._encode
    numbers = (signal.SIGINT, signal.SIGTERM)

    def watched(*arguments):
        during.append([signal.getsignal(number) for number in numbers])
        return read(*arguments)

    monkeypatch.setattr(engine, "_encode", watched)
    before = [signal.getsignal(number) for number in numbers]
    metric.score_candidates(comet_segments(3))
    assert during
    assert all(handlers == before for handlers in during)


def resave(folder, change):
    import torch

    path = folder / "checkpoints" / "model.ckpt"
    content = torch.load(path, weights_only=True)
    change(content)
    torch.save(content, path)


@pytest.mark.comet
def test_missing_layers_are_refused(copy):
    resave(copy, lambda content: content["state_dict"].pop("estimator.ff.0.weight"))
    with pytest.raises(UserError, match=r"1 tensor missing, which would be random: estimator\.ff\.0\.weight"):
        opened(copy)


@pytest.mark.comet
def test_extra_tensors_of_old_checkpoints_are_allowed(copy):
    import torch

    key = "encoder.model.embeddings.position_ids"
    resave(copy, lambda content: content["state_dict"].update({key: torch.arange(80)[None]}))
    assert load_metric(f"comet:{copy}", "en").score_candidates(comet_segments(1))


@pytest.mark.comet
def test_a_pickle_of_more_than_tensors_is_refused(copy):
    import torch

    path = copy / "checkpoints" / "model.ckpt"
    torch.save({"state_dict": {}, "hyper_parameters": {"data": Path("x")}}, path)
    with pytest.raises(UserError, match="refused, its pickle holds more than tensors"):
        opened(copy)
    path.write_bytes(b"not a checkpoint")
    with pytest.raises(UserError, match=r"model\.ckpt: (refused|not a readable checkpoint)"):
        opened(copy)
    torch.save({"weights": {}}, path)
    with pytest.raises(UserError, match="not a COMET checkpoint"):
        opened(copy)


@pytest.mark.comet
def test_an_empty_tokenizer_is_refused(copy, comet_models, tmp_path):
    encoder = Path(shutil.copytree(comet_models["encoder"], tmp_path / "encoder"))
    resave(copy, lambda content: content["hyper_parameters"].update(pretrained_model=str(encoder)))
    opened(copy)
    tokenizer = json.loads((encoder / "tokenizer.json").read_text())
    tokenizer["model"]["vocab"] = tokenizer["model"]["vocab"][:4]
    tokenizer["added_tokens"] = tokenizer["added_tokens"][:4]
    (encoder / "tokenizer.json").write_text(json.dumps(tokenizer))
    with pytest.raises(UserError, match=r"its tokenizer has 5 tokens, but the model has 32"):
        opened(copy)
    (encoder / "tokenizer.json").unlink()
    with pytest.raises(UserError, match=r"config\.json and tokenizer\.json are missing in .*encoder"):
        opened(copy)


@pytest.mark.comet
def test_a_directory_without_hparams_or_of_an_unknown_class_is_refused(copy):
    (copy / "hparams.yaml").write_text("class_identifier: ranking_metric\n")
    with pytest.raises(UserError, match=r"unknown COMET class in .*'ranking_metric'.*; choose from ref"):
        opened(copy)
    (copy / "hparams.yaml").unlink()
    with pytest.raises(UserError, match=r"hparams\.yaml: no such file"):
        opened(copy)


def test_a_directory_without_a_checkpoint_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"model\.ckpt: no such file; a COMET directory has"):
        find_checkpoint(str(tmp_path))
    with pytest.raises(UserError, match="no such file"):
        find_checkpoint(str(tmp_path / "x.ckpt"))


def test_a_hub_name_without_network_is_an_error_with_the_download_command(monkeypatch, tmp_path):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    for name in ("Unbabel/wmt22-comet-da", "no such/dir/at all"):
        with pytest.raises(UserError, match=r"cannot be downloaded .* give its directory: comet:PATH") as caught:
            find_checkpoint(name)
        assert "\n" not in str(caught.value)


@pytest.mark.skipif(importlib.util.find_spec("comet") is not None, reason="needs an environment without unbabel-comet")
def test_without_comet_the_message_has_the_install_command():
    with pytest.raises(
        UserError, match=r"COMET is not installed; install it with: pip install 'mtcpo\[comet\]'.* --comet-python"
    ):
        load_metric("comet", "de")
