"""Scores as people read them: numbers, sentences, and evaluation.json as a table in the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from mtcpo.evaluation.diagnostics import SYMPTOMS
from mtcpo.evaluation.document import main_metrics
from mtcpo.evaluation.significance import ALPHA

if TYPE_CHECKING:
    pass

FEW_SYSTEMS = 3
"""Up to so many systems are each compared with the baseline in a sentence; more are counted, metric by metric."""

TITLES = {
    "bleu": "BLEU",
    "spbleu": "spBLEU",
    "chrf": "chrF",
    "chrf++": "chrF++",
    "ter": "TER",
    "comet": "COMET",
    "cometkiwi": "COMETKiwi",
    "xcomet": "XCOMET",
}


def metric_title(name: str) -> str:
    """Return a metric's name as papers write it; `bleu-A` is that against reference A."""
    base, dash, label = name.partition("-")
    return TITLES.get(base, base) + dash + label


def format_score(value: float, percent: bool) -> str:
    """Return "38.2" for metrics of 0 to 100, "0.8412" for those of 0 to 1."""
    return f"{value:.1f}" if percent else f"{value:.4f}"


def format_delta(value: float, percent: bool) -> str:
    """Return a difference with its sign: two decimals under 1 point, one above, four on a scale of 0 to 1."""
    if not percent:
        return f"{value:+.4f}"
    return f"{value:+.1f}" if abs(value) >= 0.995 else f"{value:+.2f}"


def format_p(p_value: float) -> str:
    """Return "p < 0.001" or "p = 0.012"."""
    return "p < 0.001" if p_value < 0.001 else f"p = {p_value:.3f}" if p_value < 0.1 else f"p = {p_value:.2f}"


def judge(versus: Mapping[str, float], higher_is_better: bool) -> str:
    """Return "better", "worse", or "same" where the difference is not significant (p >= 0.05)."""
    if decisive_p(versus) >= ALPHA or versus["delta"] == 0:
        return "same"
    return "better" if (versus["delta"] > 0) == higher_is_better else "worse"


def decisive_p(versus: Mapping[str, float]) -> float:
    """Return the p-value that decides: the larger of the two tests', corrected by Holm where systems are several.

    The bootstrap's own is too small: sacreBLEU's way to compute it comes near a one-sided test.
    """
    return versus.get("p_holm", max(versus["p_value"], versus["p_randomisation"]))


def ranked(entry: Mapping[str, Any]) -> list[str]:
    """Return the systems as they are listed: as given where they are few, else the best by the first metric first."""
    systems = entry["systems"]
    if len(systems) - 1 <= FEW_SYSTEMS:
        return list(systems)
    metric, described = next(iter(entry["metrics"].items()))
    sign = -1 if described["higher_is_better"] else 1
    return sorted(systems, key=lambda system: sign * systems[system]["metrics"][metric]["score"])


def significance_in_words(entry: Mapping[str, Any]) -> str:
    """Return for example "the larger p of paired bootstrap and …, 1000 resamples each, seed 12345"."""
    test = entry["significance"]
    words = (
        f"the larger p of {test['test']} and {test['second_test']}, {test['resamples']} resamples each, "
        f"seed {test['seed']}"
    )
    return words + (f", Holm's correction over {len(entry['systems']) - 1} systems" if test.get("correction") else "")


def signed_delta(value: float, percent: bool) -> str:
    """Return a difference with a true minus sign."""
    return format_delta(value, percent).replace("-", "−")


def summarise(entry: Mapping[str, Any]) -> tuple[str, ...]:
    """Say in plain words what the numbers of a test set mean."""
    baseline = entry["baseline"]
    others = [system for system in entry["systems"] if system != baseline]
    if not others:
        scores = [_score_text(entry, baseline, metric) for metric in main_metrics(entry)]
        return (f"{baseline} scores {_listed(scores)}. There is no other system to compare it with.",)
    if len(others) <= FEW_SYSTEMS:
        sentences = [_compared(entry, system) for system in others]
    else:
        sentences = [_counted(entry, metric, others) for metric in main_metrics(entry)]
    return tuple(sentences)


def selection_metric_note(entry: Mapping[str, Any]) -> str:
    """Say which metrics chose the training pairs, or nothing where none did."""
    chose = [metric_title(name) for name, described in entry["metrics"].items() if _used_for_selection(described)]
    return f"{_listed(chose)} chose the training pairs: a gain there is expected, and counts for less." if chose else ""


def _score_text(entry: Mapping[str, Any], system: str, metric: str) -> str:
    score = entry["systems"][system]["metrics"][metric]["score"]
    return f"{format_score(score, entry['metrics'][metric]['percent'])} {metric_title(metric)}"


def _listed(items: Sequence[str]) -> str:
    """Join as "a, b and c"."""
    return " and ".join([", ".join(items[:-1]), items[-1]]) if len(items) > 1 else "".join(items)


def _compared(entry: Mapping[str, Any], system: str) -> str:
    """Return for example "tuned is better than start on chrF (+2.1, p < 0.001); no significant difference on BLEU"."""
    baseline = entry["baseline"]
    found: dict[str, list[str]] = {"better": [], "worse": [], "same": []}
    for metric in main_metrics(entry):
        described, versus = entry["metrics"][metric], entry["systems"][system]["versus"][baseline][metric]
        # No line break inside "p < 0.001".
        p_value = format_p(decisive_p(versus)).replace(" ", "\u00a0")
        text = f"({signed_delta(versus['delta'], described['percent'])}, {p_value})"
        found[judge(versus, described["higher_is_better"])].append(f"{metric_title(metric)} {text}")
    parts = [f"{kind} than {baseline} on {_listed(found[kind])}" for kind in ("better", "worse") if found[kind]]
    if not parts:
        return f"{system} does not differ significantly from {baseline}: {_listed(found['same'])}."
    sentence = f"{system} is {', but '.join(parts)}"
    same = f"; no significant difference on {_listed(found['same'])}" if found["same"] else ""
    return f"{sentence}{same}."


def _counted(entry: Mapping[str, Any], metric: str, others: Sequence[str]) -> str:
    """Return for example "chrF: of 8 systems 3 are better than X, 2 worse; the best is Y with 66.4"."""
    baseline, described = entry["baseline"], entry["metrics"][metric]
    sign = 1 if described["higher_is_better"] else -1
    verdicts = [judge(entry["systems"][s]["versus"][baseline][metric], described["higher_is_better"]) for s in others]
    best = max(entry["systems"], key=lambda s: sign * entry["systems"][s]["metrics"][metric]["score"])
    return (
        f"{metric_title(metric)}: of {len(others)} systems {verdicts.count('better')} are significantly better than "
        f"{baseline} and {verdicts.count('worse')} worse; the best is {best} "
        f"with {format_score(entry['systems'][best]['metrics'][metric]['score'], described['percent'])}."
    )


def notes_of(entry: Mapping[str, Any]) -> list[str]:
    """Return what the marks of the table mean, a line each."""
    notes = ["±: half the 95 % interval"]
    if len(entry["systems"]) > 1:
        notes[0] += f"; * differs from {entry['baseline']} (p < {ALPHA}, {significance_in_words(entry)})"
    if shows_clusters(entry):
        leading = metric_title(next(iter(entry["metrics"])))
        notes.append(
            f"#: cluster; lines: every system above is better by {leading} than every one below (the 95 % interval of "
            "their difference leaves out zero)"
        )
    if too_few := too_few_resamples(entry):
        notes.append(too_few)
    if any(_used_for_selection(described) for described in entry["metrics"].values()):
        notes.append("◆ chose the training pairs, so its gain counts for less")
    notes += [f"{what.replace('_', ' ')} not checked: {reason}" for what, reason in entry.get("unchecked", {}).items()]
    return notes


def too_few_resamples(entry: Mapping[str, Any]) -> str:
    """Say that no difference can be significant, where even the smallest p of so many resamples is too large, or ""."""
    others, resamples = len(entry["systems"]) - 1, entry["significance"]["resamples"]
    if others / (resamples + 1) < ALPHA:
        return ""
    return (
        f"{resamples} resamples are too few for {others} comparison{'s' if others > 1 else ''}: no p can be below "
        f"{ALPHA}; take more (--set evaluate.resamples=10000)"
    )


def shows_clusters(entry: Mapping[str, Any]) -> bool:
    """Tell whether the systems are so many that they are ranked in clusters."""
    return len(entry["systems"]) - 1 > FEW_SYSTEMS


def cluster_of(entry: Mapping[str, Any], system: str, metric: str) -> int:
    """Return the cluster of a system by a metric, 1 for the best."""
    return int(entry["systems"][system]["metrics"][metric]["cluster"])


def checked_symptoms(entry: Mapping[str, Any]) -> tuple[str, ...]:
    """Return which faults of outputs were counted of any system."""
    return tuple(one for one in SYMPTOMS if any(row.get(one) is not None for row in entry["systems"].values()))


def count_text(count: int | None) -> str:
    """Return a count, or a dash for what was not checked."""
    return "–" if count is None else str(count)


def _used_for_selection(described: Mapping[str, Any]) -> bool:
    return bool(described.get("chose_pairs"))
