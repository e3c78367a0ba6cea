"""Write the English-German demo corpus.

Usage: python data/make_demo_corpus.py [--output-dir data/demo]

The sentences come from the grammar in demo_grammar/. The same seed gives the same bytes on every machine. dev and test
use only word pairs that train and prefs never contain: see `held_out_pairs` and README.md.
"""

import argparse
import json
import random
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

from demo_grammar import lexicon  # noqa: E402 - needs the path above
from demo_grammar.lexicon import Text  # noqa: E402
from demo_grammar.sampler import NoChoiceError, Sampler, WordPair, held_out_pairs  # noqa: E402
from demo_grammar.templates import TEMPLATES, Template  # noqa: E402

SEED = 20240217
SEEN_SIZES = {"train": 6000, "prefs": 2000}
UNSEEN_SIZES = {"dev": 300, "test": 1000}
HELD_OUT_SHARE = 0.2
MIN_ENGLISH_WORDS, MAX_WORDS = 4, 20
MIN_TRAIN_COUNT = 3
"""How often each word of dev and test has to occur in train, in some form."""
MAX_TRIES = 200


@dataclass(frozen=True, slots=True)
class Pair:
    """A sentence and its translation, with the word pairs and dictionary words in it."""

    en: str
    de: str
    pairs: frozenset[WordPair]
    words: frozenset[str]
    template: str


@dataclass(frozen=True, slots=True)
class Corpus:
    """All splits by name, and the word pairs that train and prefs must not contain."""

    splits: Mapping[str, Sequence[Pair]]
    held_out: frozenset[WordPair]


class Writer:
    """Draw sentences; none occurs twice on either side."""

    def __init__(self, sampler: Sampler) -> None:
        self.sampler = sampler
        self.known: set[str] = set()
        self.wheel = [template for template, weight in TEMPLATES for _ in range(weight)]

    def draw(self, count: int, held_out: bool, accept: Callable[[Pair], bool]) -> list[Pair]:
        """Draw `count` pairs that `accept` returns true for, all with held-out word pairs or all without."""
        pairs: list[Pair] = []
        while len(pairs) < count:
            pair = self._attempt(self.sampler.pick(self.wheel), held_out)
            if pair is None or not accept(pair):
                continue
            keys = {f"en {comparable(pair.en)}", f"de {comparable(pair.de)}"}
            if not keys & self.known:
                self.known |= keys
                pairs.append(pair)
        return pairs

    def _attempt(self, template: Template, held_out: bool) -> Pair | None:
        """Try a template until it finds words that fit, so that templates that often fail keep their share."""
        for _ in range(MAX_TRIES):
            self.sampler.start(held_out)
            try:
                text = template(self.sampler)
            except NoChoiceError:
                continue
            if has_good_length(text):
                made_of = frozenset(self.sampler.pairs), frozenset(self.sampler.words)
                return Pair(text.en, text.de, *made_of, template.__name__)
        return None


def has_good_length(text: Text) -> bool:
    """Tell whether both sides are neither too short nor too long."""
    words = len(text.en.split()), len(text.de.split())
    return words[0] >= MIN_ENGLISH_WORDS and max(words) <= MAX_WORDS


def comparable(sentence: str) -> str:
    """Return a sentence without case and punctuation, by which duplicates are found."""
    return " ".join(re.findall(r"[\w'-]+", sentence.casefold()))


def build_corpus(seed: int = SEED) -> Corpus:
    """Draw all splits, train first: dev and test may only use words of train."""
    words = lexicon.load()
    held_out = held_out_pairs(words, random.Random(seed), HELD_OUT_SHARE)
    writer = Writer(Sampler(words, held_out, random.Random(seed + 1)))
    splits = {name: writer.draw(size, False, lambda pair: True) for name, size in SEEN_SIZES.items()}
    counts = Counter(word for pair in splits["train"] for word in pair.words)

    def is_fair(pair: Pair) -> bool:
        return bool(pair.pairs) and all(counts[word] >= MIN_TRAIN_COUNT for word in pair.words)

    splits |= {name: writer.draw(size, True, is_fair) for name, size in UNSEEN_SIZES.items()}
    return Corpus(splits, held_out)


def check(corpus: Corpus) -> None:
    """Assert what README.md promises: dev and test have only held-out word pairs, train and prefs none."""
    for name, pairs in corpus.splits.items():
        for pair in pairs:
            held = pair.pairs & corpus.held_out
            right = held == pair.pairs and bool(held) if name in UNSEEN_SIZES else not held
            if not right:
                raise AssertionError(f"{name}: word pairs on the wrong side of the held-out set: {pair}")


def tokens(sentence: str) -> list[str]:
    """Split a sentence into words (with inner hyphens and apostrophes) and single punctuation marks."""
    return re.findall(r"\w+(?:[-']\w+)*|[^\w\s]", sentence)


def statistics(corpus: Corpus) -> dict[str, object]:
    """Return the content of statistics.json."""
    return {
        "seed": SEED,
        "held_out_word_pairs": len(corpus.held_out),
        "splits": {
            name: {"pairs": len(pairs), "en": side(p.en for p in pairs), "de": side(p.de for p in pairs)}
            for name, pairs in corpus.splits.items()
        },
    }


def side(sentences: Iterator[str]) -> dict[str, float]:
    """Return the counts for one language of one split; types are distinct tokens, case-sensitive."""
    split = [tokens(sentence) for sentence in sentences]
    total = sum(len(words) for words in split)
    types = {word for words in split for word in words}
    return {"tokens": total, "types": len(types), "mean_length": round(total / len(split), 2)}


def write_corpus(corpus: Corpus, folder: Path) -> None:
    """Write all splits and their statistics into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, pairs in corpus.splits.items():
        write(folder / f"{name}.en", "".join(f"{pair.en}\n" for pair in pairs))
        write(folder / f"{name}.de", "".join(f"{pair.de}\n" for pair in pairs))
    write(folder / "statistics.json", json.dumps(statistics(corpus), indent=2) + "\n")


def write(path: Path, text: str) -> None:
    """Write UTF-8 with Unix line endings on every system."""
    path.write_text(text, encoding="utf-8", newline="\n")


def print_statistics(corpus: Corpus) -> None:
    """Print the table that README.md quotes."""
    print("| split | pairs | en tokens | en types | en mean length | de tokens | de types | de mean length |")
    print("|---|---:|---:|---:|---:|---:|---:|---:|")
    for name, pairs in corpus.splits.items():
        cells = [str(len(pairs))]
        for counts in (side(pair.en for pair in pairs), side(pair.de for pair in pairs)):
            cells += [f"{counts['tokens']}", f"{counts['types']}", f"{counts['mean_length']:.2f}"]
        print(f"| {name} | {' | '.join(cells)} |")


def main() -> None:
    """Regenerate the corpus."""
    parser = argparse.ArgumentParser(description="Write the English-German demo corpus.")
    parser.add_argument("--output-dir", type=Path, default=HERE / "demo")
    arguments = parser.parse_args()
    corpus = build_corpus()
    check(corpus)
    write_corpus(corpus, arguments.output_dir)
    print_statistics(corpus)


if __name__ == "__main__":
    main()
