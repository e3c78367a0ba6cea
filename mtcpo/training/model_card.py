"""The card of a trained model (README.md in its directory): where it comes from and what it was found to be worth.

It holds nothing that differs between two runs of the same thing, so that their directories are equal, too.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from mtcpo.core.version import __version__
from mtcpo.data.languages import UNDETERMINED
from mtcpo.training.losses import LOSSES

CARD_FILE = "README.md"

PROJECT_CITATION = f"""@software{{mtcpo,
  title = {{mtcpo: preference training for machine translation}},
  author = {{{{The mtcpo authors}}}},
  version = {{{__version__}}}
}}"""

CPO_CITATION = """@inproceedings{xu2024contrastive,
  title = {Contrastive Preference Optimization: Pushing the Boundaries of {LLM} Performance in Machine Translation},
  author = {Xu, Haoran and Sharaf, Amr and Chen, Yunmo and Tan, Weiting and Shen, Lingfeng and Van Durme, Benjamin
            and Murray, Kenton and Kim, Young Jin},
  booktitle = {International Conference on Machine Learning},
  year = {2024},
  eprint = {2401.08417},
  archivePrefix = {arXiv}
}"""

PACKAGES = ("torch", "transformers", "peft", "sacrebleu", "unbabel-comet")


def model_card(report: Mapping[str, Any], name: str) -> str:
    """Return the card of the model that training.json tells of; `name` is its title."""
    from huggingface_hub import ModelCardData

    base, settings, languages = str(report["model"]), report["settings"], report["data"]["languages"]
    adapters = bool(settings["lora"]) and not settings["lora"]["merge"]
    known = list(dict.fromkeys(tag.split("-")[0] for tag in languages if tag != UNDETERMINED))
    data = ModelCardData(
        language=known or None,
        base_model=base if _on_hub(base) else None,
        library_name="peft" if adapters else "transformers",
        pipeline_tag="translation",
        tags=["mtcpo", "translation", *([] if settings["loss"] == "sft" else ["cpo", "preference-optimization"])],
    )
    sections = [
        f"# {name}",
        _summary(report, adapters),
        _data(report),
        f"## Recipe\n\n````toml\n{_recipe(settings)}````\n\n{_arguments(report)}",
        _scores(report),
        _use(languages),
        "## Made with\n\n" + ", ".join([f"mtcpo {__version__}", *_versions()]) + ".",
        "## Licence\n\nNot stated here: add what the licences of the base model and of the data allow.",
        f"## Citation\n\n```bibtex\n{CPO_CITATION}\n\n{PROJECT_CITATION}\n```",
    ]
    return f"---\n{data.to_yaml()}\n---\n\n" + "\n\n".join(section for section in sections if section) + "\n"


def _on_hub(base: str) -> bool:
    return not Path(base).exists() and base.count("/") == 1 and not base.startswith((".", "~", "/"))


def _public(value: Any) -> Any:
    """Return a setting without what only this machine knows: of absolute paths the last part, and nothing unset."""
    if isinstance(value, Mapping):
        return {key: _public(item) for key, item in value.items() if item is not None}
    if isinstance(value, list):
        return [_public(item) for item in value]
    return Path(value).name if isinstance(value, str) and Path(value).is_absolute() else value


def _recipe(settings: Mapping[str, Any]) -> str:
    import tomli_w

    return tomli_w.dumps({"train": _public(settings)}, indent=2)


def _arguments(report: Mapping[str, Any]) -> str:
    return "Arguments of the trainer, given or not: " + ", ".join(
        f"`{name}` {value}" for name, value in report["arguments"].items()
    )


def _summary(report: Mapping[str, Any], adapters: bool) -> str:
    loss, base = report["settings"]["loss"], _public(report["model"])
    what = "Low-rank adapters for" if adapters else "A translation model made from"
    if loss == "sft":
        return f"{what} `{base}`, fine-tuned on references."
    paper = LOSSES[loss].paper if loss in LOSSES else ""
    cited = f" ([arXiv {paper}](https://arxiv.org/abs/{paper}))" if paper else ""
    return (
        f"{what} `{base}`, trained on pairs of translations, one preferred over the other, with loss `{loss}`"
        f"{cited} and the NLL term of Contrastive Preference "
        "Optimization ([arXiv 2401.08417](https://arxiv.org/abs/2401.08417))."
    )


def _data(report: Mapping[str, Any]) -> str:
    data, dropped = report["data"], report["dropped"]
    source, target = data["languages"]
    origin = f"`{_public(data['origin'])}`: " if data["origin"] else ""
    lines = [f"- {origin}{report['examples']} examples, the last of them {source} to {target}, {report['steps']} steps"]
    lines += [f"- dropped: {number} {reason}" for reason, number in dropped.items()]
    lines.append(f"- SHA-256 of the token ids: `{data['sha256']}`")
    return "## Data\n\n" + "\n".join(lines)


def _scores(report: Mapping[str, Any]) -> str:
    if not report["scores"]:
        return ""
    signatures = report.get("dev", {}).get("signatures", {})
    best = report.get("best")
    about = [f"On {report['dev']['segments']} segments of the dev set." if "dev" in report else ""]
    about += [f"On {report['eval_examples']} pairs that training did not see." if "eval_examples" in report else ""]
    about += [f"The checkpoint of step {best['step']}, the best by `{best['metric']}`." if best else ""]
    rows = [
        f"| {name.removeprefix('eval_')} | {value:.4g} | {_cell(signatures.get(name.removeprefix('eval_'), ''))} |"
        for name, value in report["scores"].items()
        if value is not None
    ]
    table = "\n".join(["| figure | value | signature |", "|---|---|---|", *rows])
    return f"## Scores while training\n\n{' '.join(line for line in about if line)}\n\n{table}"


def _cell(signature: str) -> str:
    return f"`{signature}`".replace("|", "\\|") if signature else ""


def _use(languages: list[str]) -> str:
    source, target = languages
    options = "" if UNDETERMINED in languages else f" --src-lang {source} --tgt-lang {target}"
    return f"## Use\n\n    mtcpo translate FILE --model DIR{options} --output translations.jsonl"


def _versions() -> list[str]:
    found = []
    for package in PACKAGES:
        try:
            found.append(f"{package} {metadata.version(package)}")
        except metadata.PackageNotFoundError:
            continue  # optional ones are absent from the card, as they are from the environment
    return found
