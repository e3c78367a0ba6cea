"""Corpora and preference sets in the working directory, for tests of the readers."""

import gzip
import json
from hashlib import sha256
from pathlib import Path

import pytest

from mtcpo.core.config import load_section
from mtcpo.core.files import read_lines
from mtcpo.data.config import CorpusConfig, PreferenceSetConfig
from mtcpo.data.corpora import read_corpus
from mtcpo.data.file_formats.registry import RowFormat, write_row_file
from mtcpo.data.triplets import read_triplets

SENTENCES = [f"Satz {sha256(str(n).encode()).hexdigest()}" for n in range(4000)]
"""Nothing in them repeats: a compressed file is half as large."""


def write(name, *lines):
    """Write a text file."""
    with open(name, "w", encoding="utf-8", newline="\n") as file:  # noqa: PTH123
        file.writelines(line + "\n" for line in lines)


def write_compressed(path, text):
    """Write a text file in the compression that its name says."""
    import zstandard

    compress = {".gz": gzip.compress, ".zst": zstandard.ZstdCompressor().compress}.get(path.suffix, bytes)
    path.write_bytes(compress(text.encode()))


def section(source, pair=None, allow_code=False, cls=CorpusConfig, **settings):
    """The settings of a corpus or preference set, by default German to English."""
    pair = {"src_lang": "de", "tgt_lang": "en"} if pair is None else pair
    return load_section(cls, {"source": source, **pair, **settings}, "test", allow_code=allow_code)


def corpus(source, drops=None, **settings):
    """The segments of a corpus."""
    return list(read_corpus(section(source, **settings), drops))


def triplets(source, **settings):
    """The triplets of a preference set."""
    return list(read_triplets(section(source, cls=PreferenceSetConfig, **settings)))


def make_corpus(kind, folder, count):
    """A corpus of `count` sources with references in a format; its source and its further settings."""
    name = f"c{count}.{kind}"
    rows = [{"source": text, "reference": text.upper()} for text in SENTENCES[:count]]
    if kind.startswith("text"):
        for part, column in (("r", "reference"), ("s", "source")):
            write_compressed(Path(folder, f"{part}{name}"), "".join(row[column] + "\n" for row in rows))
        return f"s{name}", {"references": [f"r{name}"]}
    if kind == "saved":
        pytest.importorskip("datasets").Dataset.from_list(rows).save_to_disk(name)
    elif kind[0] in "tc":
        delimiter = "\t" if kind[0] == "t" else ","
        lines = ["source" + delimiter + "reference", *(delimiter.join(row.values()) for row in rows)]
        write_compressed(Path(folder, name), "".join(line + "\n" for line in lines))
    else:
        write_row_file(Path(folder, name), rows)
    return name, {}


def read_headed(path, drops):
    """Read a file of the format `HEADED`."""
    for number, line in enumerate(read_lines(path), start=1):
        if number > 1:
            yield f"{path}:{number}", json.loads(line)


def write_headed(partial, rows, path):
    """Write a file of the format `HEADED`."""
    lines = ["rows", *map(json.dumps, rows)]
    partial.write_text("".join(line + "\n" for line in lines))
    return len(lines) - 1


HEADED = RowFormat((".headed",), read_headed, write_headed)
"""A format that is in no table: JSON Lines after a first line that is not JSON, so that the two cannot be confused."""
