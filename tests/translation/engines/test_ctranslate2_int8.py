"""CTranslate2 with weights rounded to int8."""

import pytest
import torch

from mtcpo.translation.engines.ctranslate2_conversion import convert


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["mt5", "marian", "llama"])
def test_converting_leaves_the_weights_of_the_model_as_they_are(kind, load, tmp_path):
    loaded = load(kind)
    before = {name: tensor.clone() for name, tensor in loaded.model.state_dict().items()}
    convert(loaded, tmp_path / "int8", "int8")
    for name, tensor in loaded.model.state_dict().items():
        assert torch.equal(tensor, before[name]), name
