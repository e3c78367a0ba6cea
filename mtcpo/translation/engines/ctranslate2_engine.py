"""The `Engine` of CTranslate2: see `mtcpo/translation/engines/ctranslate2.py` for its parts."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from tempfile import TemporaryDirectory

import ctranslate2
import torch

from mtcpo.core.errors import UserError
from mtcpo.core.progress import Progress
from mtcpo.data.records import Candidate, Segment
from mtcpo.models.config import TranslationDType
from mtcpo.models.loading import LoadedModel, load_model, load_outline
from mtcpo.models.names import model_fingerprint
from mtcpo.translation.config import TranslateConfig
from mtcpo.translation.engines.base import SAMPLE, EngineRefused, LoadRequest, candidate_names, exceed_positions
from mtcpo.translation.engines.ctranslate2_limits import why_not_search
from mtcpo.translation.engines.ctranslate2_proof import as_source, fits, prove
from mtcpo.translation.engines.ctranslate2_sampling import sample
from mtcpo.translation.engines.ctranslate2_search import Ids, Input, Place, Runner, beam_search, unsupported_setting
from mtcpo.translation.engines.ctranslate2_store import Converted, cached, write_converted
from mtcpo.translation.engines.transformers import GenerateEngine


class CTranslate2Engine:
    """A converted model that translates, proved for each language pair before it is used.

    Beam search does not depend on batches. Samples do: CTranslate2 has one stream of random numbers, not one for each
    source. It is seeded at each call of `translate` by the seed, the draw and the ids of the segments, so that the same
    segments in the same order get the same samples, whatever was translated before.
    """

    def __init__(self, request: LoadRequest) -> None:
        """Convert the model, or find it in the cache, and prove it with the request's sample.

        Raises:
            UserError: as `load` of the module `ctranslate2`.
        """
        self.system, self._on_batch = request.system, request.on_batch
        self._reference = _Reference(request)
        place = _place(request)
        self.precision = place.precision
        self._converted, self._loaded = self._convert(request)
        self._prefixes: dict[str, Ids] = {}
        self._runner = Runner(self._converted.folder, self._loaded, self._converted.rules, place)
        self._prove(request.sample)
        self._reference.release()

    def _convert(self, request: LoadRequest) -> tuple[Converted, LoadedModel]:
        """Return the converted model, and the model to tokenize with: an outline, if it has a name."""
        if isinstance(request.model, str):
            return cached(request.model, self.precision, self._supported), load_outline(request.model, request.options)
        # Removed with this engine.
        self._temporary = TemporaryDirectory(prefix="mtcpo-ctranslate2-")
        return write_converted(self._supported(), Path(self._temporary.name), self.precision), request.model

    def _supported(self) -> LoadedModel:
        """Return the model with its weights, unless it has settings that CTranslate2 cannot follow."""
        loaded = self._reference.get()
        setting = unsupported_setting(loaded)
        if setting is not None:
            raise EngineRefused(
                f"{loaded.name}: its generation config sets {setting}, which CTranslate2 cannot follow exactly; choose "
                "--engine transformers"
            )
        return loaded

    @property
    def label(self) -> str:
        """Engine, version and precision."""
        return f"ctranslate2 {ctranslate2.__version__} ({self.precision})"

    @property
    def proof(self) -> str:
        """What the comparisons with transformers found, by language pair."""
        return "; ".join(f"{pair}: {proof}" for pair, proof in self._converted.proofs.items())

    @property
    def name(self) -> str:
        """What the outputs depend on besides settings; see `Engine.name`."""
        model = self._loaded.name
        return f"{self.label} {model} {model_fingerprint(model)} as {self.system}"

    # --- translating --------------------------------------------------------------------------------------------------

    def translate(self, segments: Sequence[Segment], config: TranslateConfig, draw: int = 0) -> list[list[Candidate]]:
        """Return the candidates of each segment, in the order of the segments.

        Raises:
            UserError: a search that CTranslate2 does not have.
            EngineRefused: its outputs for a language pair differ from those of transformers.
        """
        reason = why_not_search(config)
        if reason is not None:
            raise UserError(f"{reason}; choose --engine transformers")
        self._prove(segments)
        if config.sampling == "beam":
            outputs = self.search(segments, config, self._on_batch)
        else:
            self._runner.reseed(_seed(segments, config.seed, draw))
            outputs = sample(self._runner, self._inputs(segments), config, self._on_batch)
        names = candidate_names(self.system, config)
        candidates = []
        for hypotheses in outputs:
            texts = self._texts(hypotheses[: len(names)])
            candidates.append(list(map(Candidate, names, texts)))
        return candidates

    def search(
        self,
        segments: Sequence[Segment],
        config: TranslateConfig,
        on_batch: Callable[[int], object] = lambda done: None,
    ) -> list[list[Ids]]:
        """Return the token sequences of a beam search, best first, without checks."""
        return beam_search(self._runner, self._inputs(segments), config, on_batch)

    def _texts(self, hypotheses: Sequence[Ids]) -> list[str]:
        texts = self._loaded.tokenizer.batch_decode(list(map(list, hypotheses)), skip_special_tokens=True)
        return list(map(str.strip, texts))

    def _inputs(self, segments: Sequence[Segment]) -> list[Input]:
        examples = self._loaded.layout.encode(list(map(as_source, segments)))
        prefixes = {language: self._prefix(language) for language in {segment.tgt_lang for segment in segments}}
        return [
            Input(each.source, prefixes[segment.tgt_lang]) for each, segment in zip(examples, segments, strict=True)
        ]

    def _prefix(self, tgt_lang: str) -> Ids:
        """Return the tokens that every translation into a language begins with: start token and language, if any."""
        if tgt_lang not in self._prefixes:
            settings = self._loaded.layout.generation_settings(tgt_lang)
            self._prefixes[tgt_lang] = self._converted.rules.prefix(settings)
        return self._prefixes[tgt_lang]

    def too_long(self, segments: Sequence[Segment], config: TranslateConfig) -> list[bool]:
        """Return for each source whether it is longer than the model takes."""
        return exceed_positions(self._loaded.layout, segments, config)

    # --- log-probabilities --------------------------------------------------------------------------------------------

    def logprobs(self, segments: Sequence[Segment], batch_size: int) -> list[list[float]]:
        """Return the log-probability of each candidate as a training target: nats, summed.

        Computed by CTranslate2 if the proof found that both agree, and by transformers if not. Also if a text is too
        long: some models in transformers make positions as they need them.
        """
        self._prove(segments)
        proofs = [self._converted.proofs[pair] for pair in set(map(_pair, segments))]
        agree = self.precision == "float32" and all(proof.logprobs_agree for proof in proofs)
        if agree and fits(self._loaded, segments):
            return self.own_logprobs(segments, batch_size)
        return GenerateEngine(self._reference.get(), self.system).logprobs(segments, batch_size)

    def own_logprobs(self, segments: Sequence[Segment], batch_size: int) -> list[list[float]]:
        """Return log-probabilities as CTranslate2 computes them."""
        layout = self._loaded.layout
        texts, prefixes, owners = [], [], []
        for number, segment in enumerate(segments):
            for candidate in segment.candidates:
                texts.append(replace(as_source(segment), targets=(candidate.text,)))
                prefixes.append(self._prefix(segment.tgt_lang))
                owners.append(number)
        examples = layout.encode(texts)
        sums: list[list[float]] = [[] for _ in segments]
        values = self._runner.logprobs(examples, prefixes, batch_size)
        for number, value in zip(owners, values, strict=True):
            sums[number].append(value)
        return sums

    # --- proofs -------------------------------------------------------------------------------------------------------

    def _prove(self, segments: Sequence[Segment]) -> None:
        """Prove each language pair that has no proof, with its first sources."""
        by_pair: dict[str, list[Segment]] = {}
        for segment in segments:
            pair = _pair(segment)
            if pair not in self._converted.proofs:
                by_pair.setdefault(pair, []).append(segment)
        for pair, sources in by_pair.items():
            with Progress(f"comparing CTranslate2 with transformers, {pair}", unit=""):
                proof = prove(self, self._reference.get(), sources[:SAMPLE])
            self._converted.add_proof(pair, proof)


def _pair(segment: Segment) -> str:
    return f"{segment.src_lang}-{segment.tgt_lang}"


def _seed(segments: Sequence[Segment], seed: int, draw: int) -> int:
    """Return a seed below 2^31 from all that identifies a call."""
    text = json.dumps([seed, draw, *(segment.id for segment in segments)])
    return int.from_bytes(sha256(text.encode()).digest()[:4]) >> 1


class _Reference:
    """The model in transformers, loaded when it is first needed."""

    def __init__(self, request: LoadRequest) -> None:
        self._request = request
        self._loaded: LoadedModel | None = None

    def get(self) -> LoadedModel:
        """Return the model."""
        model = self._request.model
        if not isinstance(model, str):
            return model
        if self._loaded is None:
            # transformers has no int8; its weights are rounded from float32.
            dtype = "float32" if self._request.dtype == "int8" else self._request.dtype
            self._loaded = load_model(model, dtype, self._request.options)
        return self._loaded

    def release(self) -> None:
        """Free its memory; it is loaded again if it is needed again."""
        self._loaded = None


def _place(request: LoadRequest) -> Place:
    """Return device and precision, as `load_model` would choose them.

    Raises:
        EngineRefused: CTranslate2 cannot compute in this precision on this device.
    """
    if isinstance(request.model, str):
        has_gpu = torch.cuda.is_available() and ctranslate2.get_cuda_device_count() > 0
        device, index = "cuda" if has_gpu else "cpu", 0
        precision = _precision(request.dtype, device)
    else:
        device, index = request.model.device.type, request.model.device.index or 0
        precision = str(request.model.model.dtype).removeprefix("torch.")
    if device not in ("cpu", "cuda") or precision not in ctranslate2.get_supported_compute_types(device):
        raise EngineRefused(f"CTranslate2 cannot compute in {precision} on this {device}; choose --engine transformers")
    return Place(precision, device, index)


def _precision(dtype: TranslationDType, device: str) -> str:
    if dtype != "auto":
        return dtype
    return "bfloat16" if device == "cuda" and torch.cuda.is_bf16_supported() else "float32"
