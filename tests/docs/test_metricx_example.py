"""The example of docs/pairs.md, run as it stands there on an mT5 with the vocabulary of MetricX and made-up weights."""

import json
import re
import sys

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from support.paths import ROOT
from transformers import AutoTokenizer, MT5Config, MT5ForConditionalGeneration

from mtcpo.data.records import Candidate, Segment
from mtcpo.metrics.registry import load_candidate_metric

DOCS = ROOT / "docs/pairs.md"
[CODE] = re.findall(r"```python\n(# metricx.*?)```", DOCS.read_text(encoding="utf-8"), re.S)
SCORE = 250089  # the number of <extra_id_10> in mT5's vocabulary


@pytest.fixture
def model(tmp_path, model_folder):
    """Two tables that differ, as MetricX has them; its logits for errors lie between 0 and 25."""
    config = MT5Config(
        vocab_size=250112, d_model=8, d_kv=4, d_ff=8, num_layers=1, num_heads=2, decoder_start_token_id=0,
        tie_word_embeddings=False,
    )  # fmt: skip
    torch.manual_seed(3)
    whole = MT5ForConditionalGeneration(config)
    tensors = {name: tensor.clone() for name, tensor in whole.state_dict().items() if "embed_tokens" not in name}
    tensors["lm_head.weight"] = torch.randn_like(tensors["shared.weight"]) * 3
    folder = tmp_path / "metricx-24"
    whole.save_pretrained(folder)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    settings = json.loads((folder / "config.json").read_text()) | {"tie_word_embeddings": False}
    (folder / "config.json").write_text(json.dumps(settings))
    AutoTokenizer.from_pretrained(model_folder("mt5")).save_pretrained(folder)
    return folder


def by_hand(folder, text):
    """One text without padding, through the decoder's state and the file's table of the head."""
    tokenizer, whole = AutoTokenizer.from_pretrained(folder), MT5ForConditionalGeneration.from_pretrained(folder).eval()
    ids = tokenizer(text)["input_ids"]
    assert ids.pop() == tokenizer.eos_token_id
    with torch.inference_mode():
        encoded = whole.encoder(torch.tensor([ids]))[0]
        state = whole.decoder(torch.zeros((1, 1), dtype=torch.long), encoder_hidden_states=encoded)[0][0, 0]
    logit = state @ load_file(folder / "model.safetensors")["lm_head.weight"][SCORE]
    return min(max(logit.item(), 0.0), 25.0)


def test_metricx_as_the_docs_have_it(model, tmp_path, monkeypatch):
    code, count = re.subn(r'"google/[\w-]+"', lambda _: repr(str(model)), CODE)
    assert count == 2
    (tmp_path / "metricx.py").write_text(code, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    texts = ["The house is old and grey.", "A cat.", "", "The house " * 9]
    segments = [
        Segment(name, "de", "en", source, (reference,), candidates=tuple(Candidate(text, text) for text in texts))
        for name, source, reference in (("1", "Das Haus.", "The house."), ("2", "Eine alte Katze.", "An old cat."))
    ]
    spec = re.search(r"--metric (\S+) --allow-code", CODE)[1]
    found = load_candidate_metric(spec, "en", lambda metric, _: metric).score_candidates(segments)
    sys.modules.pop("metricx", None)
    expected = [
        [-by_hand(model, f"source: {s.source} candidate: {text} reference: {s.references[0]}") for text in texts]
        for s in segments
    ]
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert np.std(expected) > 0.01
