"""What transformers 4 and 5 write differently is read alike, or refused."""

import json

import pytest
import torch
from support.families import make_marian_separate
from support.model_copies import edit_json, load_here, logps_of, parts, text_of

from mtcpo.core.errors import UserError
from mtcpo.models.canary import head_and_model_logps
from mtcpo.models.compat import classic_rope, running_major, written_major
from mtcpo.models.loading import save_model

MAJOR = running_major()


def test_rotary_settings_get_the_names_that_version_4_reads():
    scaled = {"rope_type": "llama3", "factor": 8.0}
    assert classic_rope({"rope_parameters": {"rope_theta": 5e5, **scaled}}) == {
        "rope_theta": 5e5, "rope_scaling": scaled,
    }  # fmt: skip
    assert classic_rope({"rope_parameters": {"rope_theta": 5e5, "rope_type": "default"}}) == {"rope_theta": 5e5}
    by_layer = {"full_attention": {"rope_theta": 1e6, **scaled}, "sliding_attention": {"rope_theta": 1e4}}
    assert classic_rope({"rope_parameters": by_layer}) == {
        "rope_theta": 1e6, "rope_local_base_freq": 1e4, "rope_scaling": scaled,
    }  # fmt: skip
    neox = {"rope_theta": 10.0, "partial_rotary_factor": 0.5, "rope_type": "default"}
    assert classic_rope({"model_type": "gpt_neox", "rope_parameters": neox}) == {
        "rope_theta": 10.0, "rotary_emb_base": 10.0, "partial_rotary_factor": 0.5, "rotary_pct": 0.5,
    }  # fmt: skip
    assert classic_rope({"rope_theta": 1.0}) == {}


@pytest.mark.parametrize("kind", ["llama3", "qwen2", "gemma3", "gpt_neox"])
def test_a_config_with_the_names_of_version_5_alone_is_read(copy, kind):
    """As plain version 5 writes it: no rotary setting under a name that 4.57 knows."""
    folder = copy(kind)
    before = logps_of(load_here(folder))
    path = folder / "config.json"
    written = json.loads(path.read_text())
    base = written.get("rope_theta")
    if "rope_parameters" not in written:
        rope = {"rope_theta": base or written.get("rotary_emb_base"), "rope_type": "default"}
        rope |= written.get("rope_scaling") or {}
        if kind == "gpt_neox":
            rope["partial_rotary_factor"] = written["rotary_pct"]
        if kind == "gemma3":
            local = {"rope_theta": written["rope_local_base_freq"], "rope_type": "default"}
            rope = {"full_attention": rope, "sliding_attention": local}
        written["rope_parameters"] = rope
    old = ("rope_theta", "rope_scaling", "rope_local_base_freq", "rotary_pct", "rotary_emb_base")
    names = {name: value for name, value in written.items() if name not in (*old, "partial_rotary_factor")}
    path.write_text(json.dumps(names | {"transformers_version": "5.23.0"}))
    torch.testing.assert_close(logps_of(load_here(folder)), before)


@pytest.mark.parametrize(
    ("written", "major"), [({}, 4), ({"transformers_version": "5.0.0rc1"}, 5), ({"transformers_version": "main"}, 4)]
)
def test_major_version_that_wrote_a_config(written, major):
    assert written_major(written) == major


@pytest.mark.parametrize(("larger_target", "tied"), [(False, False), (True, True), (True, False)])
def test_marian_with_separate_vocabularies(tmp_path, larger_target, tied):
    """Of one size both versions load them; of two sizes version 5 alone: 4.57 would take the source's for both."""
    folder = tmp_path / "folder"
    folder.mkdir()
    make_marian_separate(folder, larger_target, tied)
    if larger_target and MAJOR < 5:
        sizes = r"different sizes \([0-9]+ and [0-9]+\)"
        with pytest.raises(UserError, match=rf"source and target vocabularies have {sizes}, .*; use transformers 5"):
            load_here(folder)
        return
    loaded = load_here(folder)
    (example,) = loaded.layout.encode([text_of("The bear hears.", "Das Bärchen hört.")])
    (target,) = example.targets
    assert loaded.tokenizer.decode(target, skip_special_tokens=True) == "Das Bärchen hört."
    assert target != loaded.layout.encode([text_of("Das Bärchen hört.", "")])[0].source
    batch = loaded.layout.collate([example])
    with torch.no_grad():
        inputs = {name: batch[name] for name in ("input_ids", "attention_mask", "labels")}
        own = loaded.model(**inputs).loss * len(target)
    ours = head_and_model_logps(*parts(loaded), batch)[0].sum()
    torch.testing.assert_close(ours, -own, atol=1e-4, rtol=1e-5)
    (tmp_path / "saved").mkdir()
    save_model(loaded, tmp_path / "saved", ("en", "de"))
    torch.testing.assert_close(head_and_model_logps(*parts(load_here(tmp_path / "saved")), batch)[0].sum(), ours)


def test_a_target_vocabulary_larger_than_its_embeddings_is_refused(copy):
    folder = copy("marian-separate")
    vocabulary = json.loads((folder / "target_vocab.json").read_text(encoding="utf-8"))
    edit_json(folder / "target_vocab.json", more=len(vocabulary))
    with pytest.raises(UserError, match=r"the model's decoder's embedding only [0-9]+ rows; this tokenizer belongs to"):
        load_here(folder)
