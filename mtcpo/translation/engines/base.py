"""The interface of engines, which translate sources to candidates."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import TYPE_CHECKING, Protocol

from mtcpo.core.errors import UserError
from mtcpo.data.records import Candidate, Segment
from mtcpo.models.config import ModelOptions, TranslationDType
from mtcpo.models.prompts import TextExample
from mtcpo.translation.config import TranslateConfig

if TYPE_CHECKING:
    from mtcpo.models.layouts.base import Layout
    from mtcpo.models.loading import LoadedModel


def candidate_seed(seed: int, segment_id: str, number: int, draw: int) -> int:
    """Return the 64-bit seed of one candidate: it depends on what identifies the candidate alone, see `Engine`.

    seed: of the configuration. number: of the candidate, from 0. draw: as of `Engine.translate`.
    """
    text = json.dumps([seed, draw, segment_id, number])
    return int.from_bytes(sha256(text.encode()).digest()[:8])


class EngineRefused(UserError):  # noqa: N818
    """The engine cannot run this model, or not with transformers' outputs; the message says why, with examples."""


class Engine(Protocol):
    """A loaded model that translates. Dimensions: S segments, K = config.num_candidates."""

    @property
    def label(self) -> str:
        """Engine, version and precision, for people and for provenance: "ctranslate2 4.8.5 (float32)"."""
        ...

    @property
    def proof(self) -> str:
        """What its comparison with transformers found: "32 of 32 greedy outputs equal to transformers'"; "" without."""
        ...

    @property
    def system(self) -> str:
        """Name of its candidates, to which a number is added if there are several."""
        ...

    @property
    def name(self) -> str:
        """What the outputs depend on besides settings: the label, model with fingerprint, system name."""
        ...

    def translate(self, segments: Sequence[Segment], config: TranslateConfig, draw: int = 0) -> list[list[Candidate]]:
        """Return S lists of K candidates, best first if the search ranks them.

        Segments may have several language pairs. Random numbers depend on `config.seed`, the segment's id, the number
        of the candidate and `draw`, so that neither batches nor other segments change a segment's candidates; an engine
        whose random numbers cannot be assigned so gives equal samples for equal calls, and says so in its docstring.

        draw: 0, or higher to sample again with other random numbers.
        """
        ...

    def too_long(self, segments: Sequence[Segment], config: TranslateConfig) -> list[bool]:
        """Return S times whether a source is longer than the model takes; see `exceed_positions`."""
        ...

    def logprobs(self, segments: Sequence[Segment], batch_size: int) -> list[list[float]]:
        """Return S lists with the log-probability of each of the segment's candidates.

        In nats, summed over the tokens of the candidate and its end token: as training computes it.
        """
        ...


SAMPLE = 32
"""Sources of each language pair of a job that an engine translates for its comparison with transformers."""


@dataclass(frozen=True, slots=True)
class Job:
    """What an engine is opened for, as far as the choice of one depends on it.

    decodings: the settings of its decoders. first: the first sources, or all. sources: how many there are, for the
    progress bar; None: not known.
    """

    decodings: Sequence[TranslateConfig] = ()
    first: Sequence[Segment] = ()
    sources: int | None = None

    def sample(self) -> tuple[Segment, ...]:
        """Return the first sources of each language pair, at most SAMPLE."""
        counts: Counter[tuple[str, str]] = Counter()
        sample = []
        for segment in self.first:
            pair = segment.src_lang, segment.tgt_lang
            counts[pair] += 1
            if counts[pair] <= SAMPLE:
                sample.append(segment)
        return tuple(sample)


UNKNOWN_JOB = Job()


@dataclass(frozen=True, slots=True)
class LoadRequest:
    """The arguments of a loader.

    model: name or directory, or a model in memory, such as one in training; an engine that can only load models
    itself refuses the latter with a UserError. system: names the candidates. dtype: of a model that is loaded.
    on_batch: called with the number of sources just translated. sample: sources of the job with which an engine is
    compared with transformers, as of `Job.sample`.
    """

    model: str | LoadedModel
    system: str
    dtype: TranslationDType
    options: ModelOptions
    on_batch: Callable[[int], object]
    sample: Sequence[Segment] = ()


def exceed_positions(layout: Layout, segments: Sequence[Segment], config: TranslateConfig) -> list[bool]:
    """Return for each source whether a translation of it may need more positions than the model has.

    An encoder has the source alone; a decoder-only model has the prompt and up to `max_new_tokens` after it.
    """
    limit = layout.max_positions
    if limit is None:
        return [False] * len(segments)
    examples = layout.encode([TextExample(each.source, each.src_lang, each.tgt_lang) for each in segments])
    return [layout.generation_length(example, config.max_new_tokens) > limit for example in examples]


NAMES = {"beam": "beam", "diverse": "group"}
"""Kind of search -> what its candidates are called; all others are samples."""


def candidate_names(system: str, config: TranslateConfig) -> list[str]:
    """Return the system names of a source's candidates: `system`, or with rank or number if there are several."""
    return [system] if config.num_candidates == 1 else numbered_names(system, config.sampling, config.num_candidates)


def numbered_names(system: str, sampling: str, count: int) -> list[str]:
    """Return the names of `count` candidates, numbered from 1, with as many digits as the last of them needs."""
    digits = len(str(count))
    return [f"{system}-{NAMES.get(sampling, 'sample')}-{number:0{digits}}" for number in range(1, count + 1)]
