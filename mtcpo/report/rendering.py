"""Render a template to a page: the Jinja environment, our style sheet and script, and text direction.

A page needs no network. Its only script is our own, allowed by its hash, so that no other script can run.
"""

from __future__ import annotations

import base64
import hashlib
import re
from functools import lru_cache
from pathlib import Path

import jinja2
from markupsafe import Markup

from mtcpo.core.errors import UserError
from mtcpo.core.version import __version__
from mtcpo.data.languages import script_of
from mtcpo.evaluation.document import ALPHA
from mtcpo.report import wording

TEMPLATES = Path(__file__).parent / "templates"

RTL_SCRIPTS = ("Arab", "Hebr", "Syrc", "Thaa", "Nkoo", "Adlm", "Rohg", "Mand", "Samr")
RTL_LETTER = re.compile("[\u0590-\u08ff\ufb1d-\ufdff\ufe70-\ufefc\U00010800-\U00010fff\U0001e800-\U0001efff]")


def render_page(template: str, **values: object) -> str:
    """Render one of the package's templates with these values."""
    return _environment().get_template(template).render(version=__version__, **_inline_files(), **values)


def _environment() -> jinja2.Environment:
    """Return the Jinja environment: all text is escaped, and an undefined name is an error."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals.update(wording=wording, direction=direction, metric_title=wording.metric_title, alpha=ALPHA)
    environment.filters.update(
        score=wording.format_score, delta=wording.signed_delta, p=wording.format_p, humanize=wording.humanize
    )
    return environment


def _inline_files() -> dict[str, Markup | str]:
    """Return our style sheet and script, with the script's hash for the page's content security policy."""
    style = (TEMPLATES / "report.css").read_text(encoding="utf-8").strip()
    script = (TEMPLATES / "report.js").read_text(encoding="utf-8").strip()
    digest = base64.b64encode(hashlib.sha256(script.encode("utf-8")).digest()).decode("ascii")
    return {"style": Markup(style), "script": Markup(script), "script_hash": digest}


@lru_cache(maxsize=256)
def _is_rtl(tag: str) -> bool:
    try:
        return script_of(tag) in RTL_SCRIPTS
    except UserError:  # not a language tag: its script is unknown
        return False


def direction(text: str, tag: str) -> str:
    """Return a text's base direction for the attribute `dir`: "rtl" for right-to-left languages, else "auto".

    "auto" goes by the first letter, but an Arabic or Hebrew sentence that begins with a name in Latin letters still
    reads from the right. An output without any right-to-left letter is a source copy or off-target and stays "auto".
    """
    return "rtl" if _is_rtl(tag) and RTL_LETTER.search(text) else "auto"
