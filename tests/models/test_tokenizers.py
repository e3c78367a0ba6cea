"""Tokenizers are loaded complete, and saved so that both versions of transformers tokenize alike."""

from pathlib import Path

import pytest
from support.model_copies import load_here, text_of

from mtcpo.core.errors import UserError
from mtcpo.models.canary import TEXTS
from mtcpo.models.loading import save_model


def test_a_tokenizer_class_without_files_is_found(load, tmp_path):
    save_model(load("byt5"), tmp_path, ("en", "de"))
    assert load_here(tmp_path).tokenizer("ß")["input_ids"] == [0xC3 + 3, 0x9F + 3, 1]
    (tmp_path / "tokenizer_config.json").unlink()
    with pytest.raises(UserError, match="a model without a tokenizer"):
        load_here(tmp_path)


@pytest.mark.parametrize("saved", [False, True])
@pytest.mark.parametrize("kind", ["mbart-cc25", "mbart-50", "nllb", "t5", "umt5"])
def test_characters_are_normalized_as_in_training_of_the_vocabulary(load, kind, saved, tmp_path):
    """SentencePiece models bring a normalizer; transformers 5 leaves it out for mBART."""
    loaded = load(kind)
    if saved:
        save_model(loaded, tmp_path, ("en", "de"))
        loaded = load_here(tmp_path)
    (plain,) = loaded.layout.encode([text_of("The fine bear sees 12 doors.")])
    (signs,) = loaded.layout.encode([text_of("The ﬁne  ｂear sees １２ doors.")])
    assert signs.source == plain.source
    if saved:
        return
    texts = [text for text, _ in TEXTS[:2]]
    proto = load_proto(Path(loaded.name))
    special = set(loaded.tokenizer.get_added_vocab()) | {"translate", "</s>"}
    for text in texts:
        ids = loaded.tokenizer(text)["input_ids"]
        pieces = [token for token in loaded.tokenizer.convert_ids_to_tokens(ids) if token not in special - {"<unk>"}]
        own = [
            piece if proto.piece_to_id(piece) != proto.unk_id() else "<unk>"
            for piece in proto.encode(text, out_type=str)
        ]
        assert pieces == own


def load_proto(folder):
    import sentencepiece

    (file,) = folder.glob("*.model")
    return sentencepiece.SentencePieceProcessor(model_file=str(file))
