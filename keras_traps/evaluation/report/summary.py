"""Says in plain sentences what an evaluation found, from its numbers alone."""

from __future__ import annotations

import statistics

from keras_traps.evaluation.report.blocks import Tile
from keras_traps.evaluation.report.formatting import listing, nominal, percent
from keras_traps.evaluation.report.tables import detection_at, nominal_rates, rows_of
from keras_traps.evaluation.results import (
    INTEGRATED,
    AttackRow,
    Evaluation,
    WorstCase,
)
from keras_traps.rates import Rate

BLIND = (
    "These numbers hold for attackers who are blind to the construction: they see the "
    "trapped model's output and gradient, but do not know that a decoder was added. "
    "Whoever knows the classifier or the decoder, takes them apart, or crafts images "
    "on a substitute model is not expected to be detected; the paper says so itself "
    "(Section VII). A low number here is not a proof of robustness."
)
"""What must be said beside every result of this kind."""

Found = list[tuple[str, float]]


def summary_sentences(evaluation: Evaluation) -> list[str]:
    """Says what the classifier, the traps and the strongest attacks did.

    Args:
        evaluation: What was found; any of its rows may be missing.

    Returns:
        One paragraph per matter, without the caution `BLIND`.
    """
    rows = rows_of(evaluation, "paper")
    sentences = [
        _classifier(rows),
        _trapped(evaluation, rows),
        _worst(evaluation),
        _losses(evaluation, rows),
        _integrated(evaluation),
        _price(evaluation),
    ]
    return [sentence for sentence in sentences if sentence]


def headline_tiles(evaluation: Evaluation) -> list[Tile]:
    """Picks the numbers that stand at the top of the report."""
    rows = rows_of(evaluation, "paper")
    tiles = []
    fooled = _successes(rows)
    if fooled:
        middle = percent(statistics.median(value for _, value in fooled))
        tiles.append(
            Tile("Undefended classifier fooled", f"{middle} %", "in the median attack")
        )
    rates = nominal_rates(evaluation)
    if rates and (found := _unnoticed(rows, rates[0])):
        top, names = _largest(found)
        remark = f"by the strongest attack ({names}) at {nominal(rates[0])} FPR"
        if top == 0:
            remark = f"by any of {len(found)} attacks at {nominal(rates[0])} FPR"
        tiles.append(Tile("Traps passed unnoticed", f"{percent(top)} %", remark))
    worst = _worst_case(evaluation)
    if worst and rates and (rate := worst.overall.get(rates[0])):
        tiles.append(
            Tile(
                "Worst case per image",
                _share(rate),
                "of images lost unnoticed to at least one attack, "
                f"{nominal(rates[0])} FPR",
            )
        )
    clean = evaluation.clean
    tiles.append(
        Tile(
            "Clean accuracy with traps",
            _share(clean.accuracy_trapped),
            f"against {_share(clean.accuracy_classifier)} without",
        )
    )
    return tiles


def false_positive_sentences(evaluation: Evaluation) -> list[str]:
    """Says where a measured false-positive rate does not fit its nominal one."""
    sentences = []
    for fpr, rate in sorted(evaluation.clean.false_positives.items(), reverse=True):
        if rate.interval is None or rate.interval[0] <= fpr <= rate.interval[1]:
            continue
        side = "more" if fpr < rate.interval[0] else "fewer"
        sentences.append(
            f"At the nominal rate of {nominal(fpr)} the analyzer flags {side} clean "
            f"test images than intended ({_share(rate)}), beyond what chance explains."
        )
    return sentences


def _classifier(rows: list[AttackRow]) -> str:
    fooled = _successes(rows)
    if not fooled:
        return ""
    top, names = _largest(fooled)
    if len(fooled) == 1:
        return (
            f"{names} fools the undefended classifier C in {percent(top)} % of tries."
        )
    low, weakest = min((value, name) for name, value in fooled)
    middle = statistics.median(value for _, value in fooled)
    return (
        f"Of {len(fooled)} attacks, the median one fools the undefended classifier C "
        f"in {percent(middle)} % of its tries; the range is {percent(low)} % "
        f"({weakest}) to {percent(top)} % ({names})."
    )


def _trapped(evaluation: Evaluation, rows: list[AttackRow]) -> str:
    parts = []
    for fpr in nominal_rates(evaluation):
        found = _unnoticed(rows, fpr)
        if not found:
            continue
        top, names = _largest(found)
        middle = percent(statistics.median(value for _, value in found))
        least = f"{percent(top)} % ({names})" if top > 0 else "0.0 % in every attack"
        text = f"at a nominal false-positive rate of {nominal(fpr)} the strongest "
        text += f"attack gets through in {least}"
        if len(found) > 1 and top > 0:
            text += f" and the median one in {middle} %"
        parts.append(text)
    if not parts:
        return ""
    return (
        "The same attacks on the trapped model M, whose analyzer looks at the "
        "decoder's output: "
        + "; ".join(parts)
        + ". Getting through means that M is wrong and the "
        "analyzer does not notice."
    )


def _worst(evaluation: Evaluation) -> str:
    worst = _worst_case(evaluation)
    if worst is None or not worst.overall:
        return ""
    parts = [
        f"{_share(rate)} of the images ({rate.count:,} of {rate.total:,}) at "
        f"{nominal(fpr)}"
        for fpr, rate in sorted(worst.overall.items(), reverse=True)
    ]
    losses = ", with each of the losses," if worst.variant == "any_loss" else ""
    return (
        f"An attacker who tries all these attacks{losses} on each image gets through "
        f"with at least one of them on {listing(parts)}."
    )


def _losses(evaluation: Evaluation, rows: list[AttackRow]) -> str:
    rates = nominal_rates(evaluation)
    others = rows_of(evaluation, "margin", "raw_sum")
    if not rates or not others:
        return ""
    before, after = _unnoticed(rows, rates[0]), _unnoticed(others, rates[0])
    if not before or not after:
        return ""
    (old, _), (new, names) = _largest(before), _largest(after)
    if new > old:
        return (
            "Much depends on what the attacker optimises: with another loss the "
            f"largest share that gets through at {nominal(rates[0])} FPR rises from "
            f"{percent(old)} % to {percent(new)} % ({names})."
        )
    return (
        "Other losses of the attacker were tried; the largest share that gets through "
        f"with them at {nominal(rates[0])} FPR is {percent(new)} %, no more than the "
        f"{percent(old)} % with the published loss."
    )


def _integrated(evaluation: Evaluation) -> str:
    rows = rows_of(evaluation, *INTEGRATED)
    found = [
        (row.attack, row.success_trapped.value)
        for row in rows
        if row.success_trapped.value is not None
    ]
    if not found:
        return ""
    top, names = _largest(found)
    return (
        "Where detection and recovery are built into the model that is attacked, the "
        f"strongest attack changes its answer in {percent(top)} % of tries ({names})."
    )


def _price(evaluation: Evaluation) -> str:
    clean = evaluation.clean
    text = (
        f"The price on clean images: accuracy is {_share(clean.accuracy_classifier)} "
        f"without the traps and {_share(clean.accuracy_trapped)} with them"
    )
    flagged = [
        f"{_share(rate)} are flagged falsely (nominal {nominal(fpr)})"
        for fpr, rate in sorted(clean.false_positives.items(), reverse=True)
    ]
    return f"{text}; {listing(flagged)}." if flagged else f"{text}."


def _successes(rows: list[AttackRow]) -> Found:
    return [
        (row.attack, row.success_classifier.value)
        for row in rows
        if row.success_classifier is not None
        and row.success_classifier.value is not None
    ]


def _unnoticed(rows: list[AttackRow], fpr: float) -> Found:
    found: Found = []
    for row in rows:
        entry = detection_at(row, fpr)
        if entry is not None and entry.overall.value is not None:
            found.append((row.attack, entry.overall.value))
    return found


def _largest(found: Found) -> tuple[float, str]:
    top = max(value for _, value in found)
    names = dict.fromkeys(name for name, value in found if value == top)
    return top, listing(list(names), most=2)


def _worst_case(evaluation: Evaluation) -> WorstCase | None:
    by_variant = {worst.variant: worst for worst in evaluation.worst_cases}
    # Who may try everything tries every loss.
    return by_variant.get("any_loss", by_variant.get("paper"))


def _share(rate: Rate) -> str:
    text = percent(rate.value)
    return text if rate.value is None else f"{text} %"
