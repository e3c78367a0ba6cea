"""The card of a trained model (README.md in its directory): data, recipe, scores, versions.

Its template is `templates/model_card.md`. It contains nothing that differs between two runs of the same training, so
that their directories are identical.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from mtcpo.core.errors import counted
from mtcpo.core.resources import PACKAGE
from mtcpo.core.version import __version__
from mtcpo.data.languages import UNDETERMINED
from mtcpo.training.losses import LOSSES

CARD_FILE = "README.md"
TEMPLATE = PACKAGE / "training" / "templates" / "model_card.md"

PACKAGES = ("torch", "transformers", "peft", "sacrebleu", "unbabel-comet")
"""Packages whose versions a card lists, if they are installed."""


def model_card(report: Mapping[str, Any], name: str) -> str:
    """Return a model's card. report: the content of training.json; name: the card's title."""
    import jinja2

    settings = report["settings"]
    source, target = report["data"]["languages"]
    loss = settings["loss"]
    has_languages = UNDETERMINED not in (source, target)
    # Output is Markdown, not HTML: no escaping.
    environment = jinja2.Environment(trim_blocks=True, undefined=jinja2.StrictUndefined, keep_trailing_newline=True)
    return environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(
        name=name,
        report=report,
        metadata=_metadata(report),
        adapters=_is_adapter(settings),
        base=_public(report["model"]),
        loss=loss,
        paper=LOSSES[loss].paper if loss in LOSSES else "",
        arxiv=lambda paper: f"[arXiv {paper}](https://arxiv.org/abs/{paper})",
        origin=_public(report["data"]["origin"]),
        source=source,
        target=target,
        recipe=_recipe(settings),
        scores=_scores(report),
        evaluated_on=_evaluated_on(report),
        languages=f" --src-lang {source} --tgt-lang {target}" if has_languages else "",
        versions=[f"mtcpo {__version__}", *_versions()],
        version=__version__,
    )


# --- metadata for the hub ---------------------------------------------------------------------------------------------


def _metadata(report: Mapping[str, Any]) -> str:
    """Return the card's front matter, YAML that the hub reads."""
    from huggingface_hub import ModelCardData

    base, settings = str(report["model"]), report["settings"]
    codes = []
    for tag in report["data"]["languages"]:
        code = tag.split("-")[0]  # the hub does not know scripts and regions
        if tag != UNDETERMINED and code not in codes:
            codes.append(code)
    tags = ["mtcpo", "translation"]
    if settings["loss"] != "sft":
        tags += ["cpo", "preference-optimization"]
    data = ModelCardData(
        language=codes or None,
        base_model=base if _is_hub_name(base) else None,
        library_name="peft" if _is_adapter(settings) else "transformers",
        pipeline_tag="translation",
        tags=tags,
    )
    return str(data.to_yaml())


def _is_adapter(settings: Mapping[str, Any]) -> bool:
    """Whether the directory holds only adapters, without their base."""
    return bool(settings["lora"]) and not settings["lora"]["merge"]


def _is_hub_name(base: str) -> bool:
    return not Path(base).exists() and base.count("/") == 1 and not base.startswith((".", "~", "/"))


# --- parts of the text ------------------------------------------------------------------------------------------------


def _public(value: Any) -> Any:
    """Return a setting without machine-specific parts: absolute paths are shortened, unset values left out."""
    if isinstance(value, Mapping):
        return {key: _public(item) for key, item in value.items() if item is not None}
    if isinstance(value, list):
        return [_public(item) for item in value]
    return Path(value).name if isinstance(value, str) and Path(value).is_absolute() else value


def _recipe(settings: Mapping[str, Any]) -> str:
    import tomli_w

    return tomli_w.dumps({"train": _public(settings)}, indent=2)


def _evaluated_on(report: Mapping[str, Any]) -> list[str]:
    """Return sentences about the data on which the scores were computed."""
    sentences = []
    if "dev" in report:
        sentences.append(f"On {counted(report['dev']['segments'], 'segment')} of the dev set.")
    if "eval_examples" in report:
        sentences.append(f"On {counted(report['eval_examples'], 'pair')} that training did not see.")
    if "best" in report:
        best = report["best"]
        sentences.append(f"The checkpoint of step {best['step']}, the best by `{best['metric']}`.")
    return sentences


def _scores(report: Mapping[str, Any]) -> list[dict[str, str]]:
    """Return the rows of the score table."""
    signatures = report.get("dev", {}).get("signatures", {})
    rows = []
    for key, value in report["scores"].items():
        name = key.removeprefix("eval_")
        # An unescaped | would end the table cell.
        signature = f"`{signatures[name]}`".replace("|", "\\|") if name in signatures else ""
        if value is not None:
            rows.append({"name": name, "value": f"{value:.4g}", "signature": signature})
    return rows


def _versions() -> list[str]:
    versions = []
    for package in PACKAGES:
        try:
            versions.append(f"{package} {metadata.version(package)}")
        except metadata.PackageNotFoundError:
            continue  # optional, and not installed
    return versions
