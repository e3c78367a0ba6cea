"""Tokenizers: loaded and saved so that transformers 4.57 and 5 tokenize alike, and their language tokens."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Collection
from pathlib import Path
from typing import Any

import langcodes
from langcodes.tag_parser import LanguageTagError

from mtcpo.core.errors import UserError, first_line
from mtcpo.core.hub import hub_file
from mtcpo.data.languages import UNDETERMINED
from mtcpo.models.families import Family

TOKENIZER_FILES = (
    "tokenizer.json", "spiece.model", "sentencepiece.bpe.model", "source.spm", "tokenizer.model", "vocab.json",
)  # fmt: skip

WITHOUT_FILES = frozenset({"ByT5Tokenizer"})
"""Tokenizer classes that have no files but their settings."""

MAX_LANGUAGE_DISTANCE = 80
"""On CLDR's scale of how well readers of one language do with another, Low and High German are this far apart."""


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


# --- language tokens --------------------------------------------------------------------------------------------------


def language_token(family: Family, tag: str, tokens: Collection[str]) -> str:
    """Return a BCP-47 language's token in this model's vocabulary; "" if the family has no language tokens.

    Raises:
        UserError: the tokenizer lacks the language; the message names the nearest one that it has.
    """
    if family.language_code is None:
        return ""
    if tag == UNDETERMINED:
        raise UserError(
            f"models of the {family.name} family must know the language pair; give --src-lang and --tgt-lang"
        )
    codes = family.language_code(tag)
    for code in codes:
        if code in tokens:
            return code
    # Only tokens of the same shape are parsed and compared: a vocabulary has 250,000 tokens.
    shapes = {_shape(code) for code in codes}
    bare_codes = {_bare(token) for token in tokens if _shape(token) in shapes}
    tags = sorted(filter(_is_tag, bare_codes))
    closest, distance = langcodes.closest_match(tag, tags, max_distance=MAX_LANGUAGE_DISTANCE)
    hint = f"; the nearest that it has is {closest!r}" if distance <= MAX_LANGUAGE_DISTANCE else ""
    raise UserError(f"the tokenizer has no token for language {tag!r} (tried {', '.join(codes)}){hint}")


def any_language(family: Family, tokens: Collection[str]) -> str:
    """Return the first language, in the order of tokens, of a tokenizer whose family has language tokens.

    Raises:
        UserError: it has none.
    """
    assert family.language_code is not None
    examples = {_shape(code): code for code in family.language_code("de")}
    for token in sorted(token for token in tokens if _shape(token) in examples):
        tag = _bare(token)
        try:
            if token in family.language_code(tag):
                return tag
        except (LookupError, ValueError):
            continue  # a word that only looks like a code
    raise UserError(f"the tokenizer of this {family.name} model has no language token such as {min(examples.values())}")


def _is_tag(code: str) -> bool:
    try:
        return langcodes.tag_is_valid(code)
    except LanguageTagError:
        return False  # a word that only looks like a code


def _bare(token: str) -> str:
    """Return the code in a language token: `<2de>` and `__de__` -> `de`."""
    return re.sub(r"^(<2|>>|__)|(>|<<|__)$", "", token)


def _shape(token: str) -> str:
    """Return the shape of a language token: `deu_Latn` -> `a_a`, `>>deu<<` -> `>>a<<`."""
    return re.sub(r"[^\W_]+", "a", token)
