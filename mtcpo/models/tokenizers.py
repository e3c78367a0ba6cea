"""Loading and saving tokenizers, so that transformers 4.57 and 5 tokenize alike."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from mtcpo.core.errors import UserError, first_line
from mtcpo.core.hub import hub_file

TOKENIZER_FILES = (
    "tokenizer.json", "spiece.model", "sentencepiece.bpe.model", "source.spm", "tokenizer.model", "vocab.json",
)  # fmt: skip

WITHOUT_FILES = frozenset({"ByT5Tokenizer"})
"""Tokenizer classes that have no files but their settings."""


def has_tokenizer(folder: Path) -> bool:
    """Whether a directory has a tokenizer's files, or names a class that needs none."""
    if any((folder / file).exists() for file in TOKENIZER_FILES):
        return True
    settings = folder / "tokenizer_config.json"
    if not settings.exists():
        return False
    return json.loads(settings.read_text(encoding="utf-8")).get("tokenizer_class") in WITHOUT_FILES


def load_tokenizer(path: str, allow_code: bool = False) -> Any:
    """Return the tokenizer of a directory or hub name.

    allow_code: whether a class from the model's directory may be imported.

    Raises:
        UserError: its files are damaged.
    """
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(path, trust_remote_code=allow_code)
        restore_normalizer(tokenizer, path)
        return tokenizer
    except OSError:
        raise  # files are missing or unreadable: the caller's message has the way out
    except Exception as error:  # a damaged file raises anything from KeyError to the Rust code's bare Exception
        raise UserError(f"{path}: its tokenizer cannot be loaded ({first_line(error)})") from error


def restore_normalizer(tokenizer: Any, path: str) -> None:
    """Restore a tokenizer's normalizer and pre-tokenizer from its file.

    transformers 5 rebuilds some classes from the vocabulary alone; mBART's then lacks character normalization.
    """
    from tokenizers import Regex, Tokenizer, normalizers

    backend = getattr(tokenizer, "backend_tokenizer", None)
    # Pure Python tokenizers have no backend and are not affected.
    if backend is None or backend.normalizer is not None:
        return
    file, model = hub_file(path, "tokenizer.json", fetch=False), hub_file(path, "sentencepiece.bpe.model", fetch=False)
    if file is not None:
        stored = Tokenizer.from_file(str(file))
        if stored.normalizer is not None:
            backend.normalizer, backend.pre_tokenizer = stored.normalizer, stored.pre_tokenizer
    elif model is not None:
        from sentencepiece import sentencepiece_model_pb2

        spec = sentencepiece_model_pb2.ModelProto.FromString(model.read_bytes()).normalizer_spec
        charsmap = normalizers.Precompiled(spec.precompiled_charsmap)
        # The same normalizer that transformers builds when it converts a SentencePiece model.
        backend.normalizer = normalizers.Sequence([charsmap, normalizers.Replace(Regex(" {2,}"), " ")])


def check_vocabulary(path: str, model: Any, tokenizer: Any) -> None:
    """Refuse a tokenizer with ids for which the model has no embedding.

    Raises:
        UserError: there are such ids: the tokenizer belongs to another model.
    """
    uses = [(tokenizer.get_vocab(), model.get_input_embeddings(), "embedding")]
    if getattr(tokenizer, "separate_vocabs", False):  # Marian with separate vocabularies for source and target
        uses.append((tokenizer.target_encoder, model.get_decoder().get_input_embeddings(), "decoder's embedding"))
    for vocabulary, embeddings, name in uses:
        rows, largest = embeddings.weight.shape[0], max(vocabulary.values())
        if largest >= rows:
            raise UserError(
                f"{path}: the tokenizer has token ids up to {largest}, the model's {name} only {rows} rows; "
                "this tokenizer belongs to another model"
            )


def save_tokenizer(tokenizer: Any, folder: Path) -> None:
    """Write a tokenizer so that both transformers 4.57 and 5 read it."""
    tokenizer.save_pretrained(folder)
    for name in (*TOKENIZER_FILES, "target.spm"):
        # 5 does not write the SentencePiece models, which 4.57 needs for some tokenizers.
        origin = hub_file(tokenizer.name_or_path, name, fetch=False)
        if origin is not None and not (folder / name).exists():
            shutil.copyfile(origin, folder / name)
    _mend_tokenizer_config(folder / "tokenizer_config.json")


def _mend_tokenizer_config(path: Path) -> None:
    """Replace names that 4.57 does not know or misinterprets by names that both versions read."""
    settings = json.loads(path.read_text(encoding="utf-8"))
    if settings.get("tokenizer_class") == "TokenizersBackend":
        settings["tokenizer_class"] = "PreTrainedTokenizerFast"
    if isinstance(settings.get("extra_special_tokens"), list):
        tokens = settings.pop("extra_special_tokens")
        settings |= {"additional_special_tokens": tokens} if tokens else {}
    path.write_text(json.dumps(settings, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")
