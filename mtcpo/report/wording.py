"""Wording of results: number formats, metric names, and the sentences and notes of tables and pages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

from mtcpo.evaluation.document import ALPHA, METRIC_TITLES, SetEntry, Verdict

FEW_SYSTEMS = 3
"""Up to this many systems get a sentence each that compares them with the baseline; more are counted, by metric."""


def metric_title(name: str) -> str:
    """Return a metric's name as papers write it; `bleu-A` is BLEU against reference A."""
    base, dash, label = name.partition("-")
    return METRIC_TITLES.get(base, base) + dash + label


def metric_heading(entry: SetEntry, name: str, mark: bool = True) -> str:
    """Return a metric's title, with its direction if lower is better.

    mark: mark metrics that selected the training pairs or chose outputs; a note then explains the mark.
    """
    heading = metric_title(name)
    if not entry.metrics[name].higher_is_better:
        heading += " (lower is better)"
    if mark and entry.is_chooser(name):
        heading += " ◆"
    return heading


TERMS = {
    "copied": "source copies",
    "looping": "repetitions",
    "wrong_language": "off-target",
    "copy_of_source": "source copy",
}
"""Names in our files that are older than the terms for them; the names stay, since files are read by other versions."""


def humanize(name: str) -> str:
    """Return a field name as words: "small_margin" -> "small margin"."""
    return TERMS.get(name, name.replace("_", " "))


def join_words(items: Sequence[str]) -> str:
    """Join words as "a, b and c"."""
    if len(items) < 2:
        return "".join(items)
    return f"{', '.join(items[:-1])} and {items[-1]}"


# --- numbers --------------------------------------------------------------------------------------------------------


def format_score(value: float, percent: bool) -> str:
    """Return "38.2" for scores from 0 to 100 (percent), "0.8412" for scores from 0 to 1."""
    return f"{value:.1f}" if percent else f"{value:.4f}"


def format_delta(value: float, percent: bool) -> str:
    """Return a difference with its sign: two decimals under 1 point, one above, four on a scale of 0 to 1."""
    if not percent:
        return f"{value:+.4f}"
    # 0.995, not 1: what rounds to 1.00 is written as 1.0.
    return f"{value:+.1f}" if abs(value) >= 0.995 else f"{value:+.2f}"


def signed_delta(value: float, percent: bool) -> str:
    """Return `format_delta` with a true minus sign."""
    return format_delta(value, percent).replace("-", "−")


def format_p(p_value: float) -> str:
    """Return "p < 0.001" or "p = 0.012"."""
    if p_value < 0.001:
        return "p < 0.001"
    # Three decimals only where they could matter for significance.
    return f"p = {p_value:.3f}" if p_value < 0.1 else f"p = {p_value:.2f}"


def format_count(count: int | None) -> str:
    """Return a count, or a dash if it was not checked."""
    return "–" if count is None else str(count)


# --- systems --------------------------------------------------------------------------------------------------------


def has_few_systems(entry: SetEntry) -> bool:
    """Whether there are so few systems that each gets a sentence that compares it with the baseline."""
    return len(entry.others) <= FEW_SYSTEMS


def listed_systems(entry: SetEntry) -> tuple[str, ...]:
    """Return the systems in listed order: as given if there are few, else from best to worst by the first metric."""
    return tuple(entry.systems) if has_few_systems(entry) else entry.ranked(entry.first_metric)


def shows_clusters(entry: SetEntry) -> bool:
    """Whether there are so many systems that they are ranked in clusters."""
    return not has_few_systems(entry)


def ends_cluster(entry: SetEntry, system: str) -> bool:
    """Whether a line follows this system: the next listed one is in another cluster by the first metric."""
    listed = listed_systems(entry)
    place = listed.index(system)
    if not shows_clusters(entry) or place == len(listed) - 1:
        return False
    this, following = (entry.score(name, entry.first_metric) for name in listed[place : place + 2])
    return this.cluster != following.cluster


# --- sentences ------------------------------------------------------------------------------------------------------


def summarize(entry: SetEntry) -> tuple[str, ...]:
    """Return sentences that say what the numbers of a test set mean."""
    if not entry.others:
        scores = [_score_text(entry, entry.baseline, metric) for metric in entry.main_metrics]
        return (f"{entry.baseline} scores {join_words(scores)}. There is no other system to compare it with.",)
    if has_few_systems(entry):
        return tuple(map(partial(_compare_in_words, entry), entry.others))
    return tuple(map(partial(_count_in_words, entry), entry.main_metrics))


def _score_text(entry: SetEntry, system: str, metric: str) -> str:
    score = format_score(entry.score(system, metric).score, entry.metrics[metric].percent)
    return f"{score} {metric_title(metric)}"


def _compare_in_words(entry: SetEntry, system: str) -> str:
    """Return for example "tuned is better than base on chrF (+2.1, p < 0.001); no significant difference on BLEU"."""
    by_verdict: dict[Verdict, list[str]] = {"better": [], "worse": [], "same": []}
    for metric in entry.main_metrics:
        versus = entry.versus(system, metric)
        assert versus is not None  # only the baseline has no comparison
        # No line break inside "p < 0.001".
        p_value = format_p(versus.decisive_p).replace(" ", "\u00a0")
        delta = signed_delta(versus.delta, entry.metrics[metric].percent)
        by_verdict[entry.verdict(system, metric)].append(f"{metric_title(metric)} ({delta}, {p_value})")
    same = join_words(by_verdict["same"])
    parts = []
    for verdict in ("better", "worse"):
        if by_verdict[verdict]:
            parts.append(f"{verdict} than {entry.baseline} on {join_words(by_verdict[verdict])}")
    if not parts:
        return f"{system} does not differ significantly from {entry.baseline}: {same}."
    ending = f"; no significant difference on {same}" if same else ""
    return f"{system} is {', but '.join(parts)}{ending}."


def _count_in_words(entry: SetEntry, metric: str) -> str:
    """Return for example "chrF: of 8 systems, 3 are significantly better than X and 2 worse; the best is Y with 66"."""
    verdicts = [entry.verdict(system, metric) for system in entry.others]
    best = entry.ranked(metric)[0]
    score = format_score(entry.score(best, metric).score, entry.metrics[metric].percent)
    return (
        f"{metric_title(metric)}: of {len(verdicts)} systems, {verdicts.count('better')} are significantly better than "
        f"{entry.baseline} and {verdicts.count('worse')} worse; the best is {best} with {score}."
    )


def decoding_notes(entry: SetEntry) -> list[str]:
    """Return a note for each way in which systems were decoded by minimum Bayes risk."""
    systems: dict[tuple[str, int, str, bool], list[str]] = {}
    for name, scores in entry.systems.items():
        decoding = scores.decoding
        if decoding is not None and decoding.mbr is not None:
            aggregated = "references:aggregated" in (decoding.mbr_signature or "")
            key = decoding.mbr, decoding.candidates, decoding.search, aggregated
            systems.setdefault(key, []).append(name)
    notes = []
    for (metric, candidates, search, aggregated), names in systems.items():
        title, were = metric_title(metric), "were" if len(names) > 1 else "was"
        how = f"{candidates} candidates ({search}{'; references aggregated' if aggregated else ''})"
        note = f"{join_words(names)} {were} decoded by minimum Bayes risk with {title} over {how}"
        # The utility need not be among the metrics of the evaluation.
        weaker = f", so a gain on {title} is weaker evidence." if metric in entry.metrics else "."
        notes.append(note + weaker)
    return notes


def selection_metric_note(entry: SetEntry) -> str:
    """Return a note on the metrics that selected the training pairs, or "" if there are none."""
    titles = list(map(metric_title, entry.selection_metrics))
    if not titles:
        return ""
    were, them = ("were", "any of them") if len(titles) > 1 else ("was", "it")
    return f"{join_words(titles)} {were} used to select the training pairs, so a gain on {them} is weaker evidence."


def describe_tests(entry: SetEntry) -> str:
    """Return the tests behind the p-values, for example "the larger p of paired bootstrap and …, seed 12345"."""
    tests = entry.significance
    names = _test_names(entry)
    text = f"the larger p of {join_words(names)}" if len(names) > 1 else names[0]
    text += f", {tests.resamples} resamples{' each' if len(names) > 1 else ''}, seed {tests.seed}"
    return f"{text}, {tests.correction}-corrected for {len(entry.others)} systems" if tests.correction else text


def _test_names(entry: SetEntry) -> list[str]:
    """Return the names of the significance tests; old documents have only one."""
    names = [entry.significance.test]
    if entry.significance.second_test is not None:
        # evaluation.json keeps its original spelling.
        names.append(entry.significance.second_test.replace("randomisation", "randomization"))
    return names


def significance_test_titles(entry: SetEntry) -> tuple[str, ...]:
    """Return the names of the significance tests as table headings."""
    return tuple(map(str.capitalize, _test_names(entry)))


def too_few_resamples(entry: SetEntry) -> str:
    """Return a warning if no difference can be significant because there are too few resamples, else ""."""
    comparisons, resamples = len(entry.others), entry.significance.resamples
    # The smallest p-value is 1 / (resamples + 1), and Holm's correction multiplies it by the number of comparisons.
    if comparisons / (resamples + 1) < ALPHA:
        return ""
    return (
        f"{resamples} resamples are too few for {comparisons} comparison{'s' if comparisons > 1 else ''}: no p can be "
        f"below {ALPHA}; use more (--set evaluate.resamples=10000)"
    )


def table_notes(entry: SetEntry) -> list[str]:
    """Return lines that explain the marks of the terminal's table."""
    notes = ["±: half the width of the 95 % confidence interval"]
    if entry.others:
        notes[0] += f"; * differs significantly from {entry.baseline} (p < {ALPHA}, {describe_tests(entry)})"
    if shows_clusters(entry):
        notes.append(
            f"#: cluster; lines: every system above is better by {metric_title(entry.first_metric)} than every one "
            "below (the 95 % confidence interval of their difference excludes zero)"
        )
    if too_few := too_few_resamples(entry):
        notes.append(too_few)
    if entry.selection_metrics:
        notes.append(f"◆ {selection_metric_note(entry)}")
    notes += [f"◆ {note}" for note in decoding_notes(entry)]
    return notes + unchecked_notes(entry.unchecked)


def unchecked_notes(unchecked: Mapping[str, str]) -> list[str]:
    """Return a note for each diagnostic that was not checked, with the reason."""
    return [f"{humanize(name)} not checked: {reason}" for name, reason in unchecked.items()]
