"""Sources to translate, and settings that are quick."""

from mtcpo.data.records import Segment
from mtcpo.translation.config import TranslateConfig
from support.models import PAIRS


def english_segments(count, tgt_lang="de"):
    """Segments with different English sources, to be translated to `tgt_lang`."""
    return [Segment(str(n), "en", tgt_lang, PAIRS[(13 * n) % len(PAIRS)][0]) for n in range(count)]


def quick_search(**values):
    """Settings of a short beam search with two beams, some of them changed."""
    return TranslateConfig(**({"max_new_tokens": 12, "num_beams": 2} | values))
