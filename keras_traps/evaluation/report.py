"""The reports: JSON for programs, Markdown and HTML for people."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from keras_traps.attacks import Attack
from keras_traps.evaluation.evaluate import Evaluation
from keras_traps.evaluation.metrics import ANY_LOSS, CleanVariant
from keras_traps.evaluation.paper import (
    NAMES,
    VARIANT_NAMES,
    clean_table,
    detection_at,
    detection_cells,
    luring_sections,
    rows_of,
    success_cell,
    table_section,
)
from keras_traps.evaluation.pictures import (
    correlation_picture,
    example_views,
    roc_picture,
)
from keras_traps.evaluation.records import Run
from keras_traps.evaluation.render import (
    NOTHING,
    Cell,
    Column,
    Examples,
    Part,
    ReportPaths,
    Section,
    Table,
    Terms,
    Text,
    Tiles,
    columns,
    facts_table,
    listing,
    measure,
    nominal,
    number,
    percent,
    plain,
    rate_cell,
    settings_text,
    share,
    write_page,
)
from keras_traps.evaluation.runner import WorstCase
from keras_traps.evaluation.subjects import INTEGRATED

__all__ = [
    "ReportPaths",
    "percent",
    "plain",
    "write_luring_tables",
    "write_report",
    "write_tables",
    "write_worst_case",
]

_BLIND = (
    "These numbers hold for attackers who are blind to the construction: they see the "
    "trapped model's output and gradient, but do not know that a decoder was added. "
    "Whoever knows the classifier or the decoder, takes them apart, or crafts images "
    "on a substitute model is not expected to be detected; the paper says so itself "
    "(Section VII). A low number here is not a proof of robustness."
)

_TERMS = (
    ("C", "the undefended classifier that is to be protected."),
    (
        "W",
        "the watermark decoder that is added to it. For every class it says how "
        "strongly an image correlates with that class's hidden message. Its slopes "
        "are the traps: an attack that follows the gradient runs towards a "
        "watermarked image.",
    ),
    (
        "M",
        "the trapped model, the normalised sum of C and W. This is what is attacked.",
    ),
    (
        "Analyzer",
        "looks at W alone, flags an image as adversarial, and recovers its class as "
        "the one that W was pushed away from most.",
    ),
    (
        "UA, TA",
        "an untargeted attack wants any wrong class, a targeted one a given wrong "
        "class.",
    ),
    (
        "FPR",
        "false-positive rate: the share of clean images that the analyzer flags. Its "
        "thresholds are set for a nominal rate.",
    ),
)

_COLUMNS = (
    ("fools C, fools M", "tries that succeed, without asking the analyzer."),
    ("detected", "flagged, among the images that M gets wrong."),
    ("recovered", "given their true class again, among those flagged."),
    (
        "unnoticed",
        "the attack's overall success: wrong and not flagged, among all tries.",
    ),
    (
        "AUC",
        "area under the ROC curve of the analyzer's score; 1 is perfect, 0.5 is "
        "chance.",
    ),
    ("n/a", "nothing to count, e.g. no adversarial image was found."),
)

_UNNOTICED = (
    (
        "lead of C",
        "by how much C's answer leads on the clean image: the largest probability less "
        "the second. Where it is small, C's own boundary is near, and an attack may "
        "cross it before it meets a trap.",
    ),
    (
        "pull of W",
        "by how much W prefers M's wrong answer to the true class. Where it is small, "
        "it was C that was fooled.",
    ),
    ("L2", "how far the image was moved, pixels in [0, 1]."),
)

_Found = list[tuple[str, float]]


def write_report(evaluation: Evaluation, directory: str | Path) -> ReportPaths:
    """Writes the report of an evaluation as JSON, Markdown and HTML.

    Args:
        evaluation: What was found.
        directory: Where to write `report.json`, `report.md`, `report.html` and
            `figures/`; made if it does not exist.

    Returns:
        The paths of what was written.

    Raises:
        OSError: If nothing can be written there.
    """
    attacks = len({row["attack"] for row in evaluation.rows})
    plural = "" if attacks == 1 else "s"
    remarks = [Text(text) for text in _false_positive_sentences(evaluation)]
    sections = [
        Section("summary", "Summary", _summary(evaluation)),
        Section("provenance", "Provenance", [_origin(evaluation.provenance)]),
        Section("clean", "Clean images", [clean_table(evaluation), *remarks]),
        Section("attacks", "Attacks on the trapped model", _attacks(evaluation)),
        Section("integrated", "Attacks on the integrated model", _built_in(evaluation)),
        Section(
            "losses", "How far this rests on the attacker's loss", _losses(evaluation)
        ),
        Section("worst-case", "Worst case per image", _worst_case(evaluation)),
        Section("calibration", "Calibration and thresholds", _calibration(evaluation)),
        Section("remarks", "Warnings, notes and settings", _remarks(evaluation)),
        Section("pictures", "Pictures", _pictures(evaluation)),
    ]
    return write_page(
        directory,
        "report",
        title=evaluation.title,
        subtitle=f"{evaluation.dataset}, {attacks} attack{plural}",
        sections=sections,
        content=_content(evaluation),
    )


def write_tables(
    evaluation: Evaluation, numbers: Sequence[int], directory: str | Path
) -> ReportPaths:
    """Writes the attractor paper's tables as JSON, Markdown and HTML.

    Args:
        evaluation: What was found.
        numbers: Which of Tables I to VI, as 1 to 6.
        directory: Where to write `tables.json`, `tables.md` and `tables.html`.

    Returns:
        The paths of what was written; there are no figures.

    Raises:
        OSError: If nothing can be written there.
    """
    sections = [table_section(evaluation, one) for one in sorted(set(numbers))]
    if evaluation.unnoticed:
        sections.append(_unnoticed_section(evaluation))
    remarks = [_thresholds(evaluation), *_remarks(evaluation)]
    sections += [
        Section("settings", "Thresholds, warnings, notes and settings", remarks),
        Section("origin", "Origin", [_origin(evaluation.provenance)]),
    ]
    return write_page(
        directory,
        "tables",
        title=f"The paper's tables on {evaluation.dataset}",
        subtitle="Rates in per cent with 95 % intervals; the paper's numbers in "
        "italics below.",
        sections=sections,
        content=_content(evaluation),
    )


def write_luring_tables(
    dataset: str,
    clean: Sequence[CleanVariant],
    runs: Sequence[Run],
    frame: pd.DataFrame,
    directory: str | Path,
    *,
    provenance: Mapping[str, Any],
) -> ReportPaths:
    """Writes the luring paper's tables as JSON, Markdown and HTML.

    Args:
        dataset: The data set's name.
        clean: The models on clean test images.
        runs: What was run; attacks may be missing, and all may be.
        frame: What became of each image, as `make_frame` makes it of the runs.
        directory: Where to write `luring.json`, `luring.md` and `luring.html`.
        provenance: What a reader needs to make the tables again; the commands of the
            runs and their seeds are added.

    Returns:
        The paths of what was written; there are no figures.

    Raises:
        OSError: If nothing can be written there.
    """
    sections, numbers = luring_sections(dataset, clean, runs, frame)
    origins = [run.provenance for run in runs]
    commands = dict.fromkeys(one["command"] for one in origins if "command" in one)
    seeds = dict.fromkeys(one["seed"] for one in origins if "seed" in one)
    facts = {
        **provenance,
        "attacks": {str(i): command for i, command in enumerate(commands, 1)},
        "attack seed": list(seeds),
    }
    trained = [
        facts_table(f"How {NAMES[row.variant]} was trained", "Item", row.facts)
        for row in clean
    ]
    sections.append(Section("origin", "Origin", [_origin(facts), *trained]))
    return write_page(
        directory,
        "luring",
        title=f"Luring on {dataset}",
        subtitle="Rates in per cent with 95 % intervals; the paper's numbers below "
        "each.",
        sections=sections,
        content={"dataset": dataset, "clean": clean, **numbers, "provenance": facts},
    )


def write_worst_case(
    found: WorstCase,
    attacks: Sequence[Attack],
    directory: str | Path,
    *,
    fpr: float | None,
    provenance: Mapping[str, Any],
) -> ReportPaths:
    """Writes the worst case over many attacks as JSON, Markdown and HTML.

    Args:
        found: What remained after each attack.
        attacks: The attacks, in their order.
        directory: Where to write `worst_case.json`, `.md` and `.html`.
        fpr: The nominal false-positive rate of what watched, or `None`.
        provenance: What a reader needs to make it again.

    Returns:
        The paths of what was written; there are no figures.

    Raises:
        OSError: If nothing can be written there.
    """
    settings = {attack.name: attack.settings() for attack in attacks}
    rows = [
        (
            Cell(name),
            Cell(f"{count:,}"),
            Cell(f"{found.felled[name]:,}"),
            Cell(settings_text(settings.get(name, {}))),
        )
        for name, count in found.tried.items()
    ]
    watched = "" if fpr is None else f" unnoticed at {nominal(fpr)} FPR"
    heads = columns("Attack", "still stood", "got through")
    parts: list[Part] = [
        Tiles([("Any attack", share(found.overall), f"of images lost{watched}")]),
        Table(
            "An image that one attack gets through with is not given to the next.",
            [*heads, Column("Settings", numeric=False)],
            rows,
        ),
        _origin(provenance),
    ]
    return write_page(
        directory,
        "worst_case",
        title=f"Worst case per image: {found.subject}",
        subtitle=f"{found.overall.total:,} images, {len(found.tried)} attacks",
        sections=[Section("worst-case", "Attacks, each on what still stands", parts)],
        content={
            **plain(found),
            "fpr": fpr,
            "attacks": settings,
            "provenance": provenance,
        },
    )


def _content(found: Evaluation) -> dict[str, Any]:
    """What JSON holds: all but the arrays and the frame itself."""
    fields = {name: value for name, value in vars(found).items() if name != "frame"}
    samples = fields.pop("samples")
    hidden = ("clean", "adversarial")
    fields["examples"] = [
        {name: value for name, value in vars(one).items() if name not in hidden}
        for one in samples.examples
    ]
    return fields


def _origin(provenance: Mapping[str, Any]) -> Table:
    return facts_table("Where these numbers come from", "Item", provenance, code=True)


def _rates(found: Evaluation) -> list[float]:
    return sorted(found.thresholds, reverse=True)


def _summary(found: Evaluation) -> list[Part]:
    parts: list[Part] = [
        Tiles(_tiles(found)),
        *(Text(sentence) for sentence in _sentences(found) if sentence),
        Text(_BLIND, "caution"),
    ]
    if found.warnings:
        count = len(found.warnings)
        told = "1 warning" if count == 1 else f"{count} warnings"
        parts.append(
            Text(
                f"There is reason for doubt in these numbers: {told}, to be read under "
                "“Warnings, notes and settings”.",
                "caution",
            )
        )
    return [*parts, Terms(_TERMS)]


def _tiles(found: Evaluation) -> list[tuple[str, str, str]]:
    rows, [fpr, *_] = rows_of(found, "paper"), _rates(found)
    at = f"{nominal(fpr)} FPR"
    tiles = []
    if fooled := _successes(rows, "success_classifier"):
        middle = percent(statistics.median(value for _, value in fooled))
        told = ("Undefended classifier fooled", f"{middle} %", "in the median attack")
        tiles.append(told)
    if passed := _passed(rows, fpr):
        top, names = _largest(passed)
        remark = f"by the strongest attack ({names}) at {at}"
        if top == 0:
            remark = f"by any of {len(passed)} attacks at {at}"
        tiles.append(("Traps passed unnoticed", f"{percent(top)} %", remark))
    if worst := _whole_case(found):
        remark = f"of images lost unnoticed to at least one attack, {at}"
        tiles.append(("Worst case per image", share(worst["overall"][fpr]), remark))
    clean = found.clean
    remark = f"against {share(clean.accuracy_classifier)} without"
    accuracy = share(clean.accuracy_trapped)
    return [*tiles, ("Clean accuracy with traps", accuracy, remark)]


def _sentences(found: Evaluation) -> list[str]:
    rows = rows_of(found, "paper")
    return [
        _on_classifier(rows),
        _on_trapped(found, rows),
        _on_worst(found),
        _on_losses(found, rows),
        _on_integrated(found),
        _price(found),
    ]


def _on_classifier(rows: list[dict[str, Any]]) -> str:
    fooled = _successes(rows, "success_classifier")
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


def _on_trapped(found: Evaluation, rows: list[dict[str, Any]]) -> str:
    parts = []
    for fpr in _rates(found):
        if not (passed := _passed(rows, fpr)):
            continue
        top, names = _largest(passed)
        middle = percent(statistics.median(value for _, value in passed))
        least = f"{percent(top)} % ({names})" if top > 0 else "0.0 % in every attack"
        text = f"at a nominal false-positive rate of {nominal(fpr)} the strongest "
        text += f"attack gets through in {least}"
        if len(passed) > 1 and top > 0:
            text += f" and the median one in {middle} %"
        parts.append(text)
    if not parts:
        return ""
    return (
        "The same attacks on the trapped model M, whose analyzer looks at the "
        f"decoder's output: {'; '.join(parts)}. Getting through means that M is wrong "
        "and the analyzer does not notice."
    )


def _on_worst(found: Evaluation) -> str:
    if not (worst := _whole_case(found)):
        return ""
    parts = [
        f"{share(rate)} of the images ({rate.count:,} of {rate.total:,}) at "
        f"{nominal(fpr)}"
        for fpr, rate in worst["overall"].items()
    ]
    losses = ", with each of the losses," if worst["variant"] == ANY_LOSS else ""
    return (
        f"An attacker who tries all these attacks{losses} on each image gets through "
        f"with at least one of them on {listing(parts)}."
    )


def _on_losses(found: Evaluation, rows: list[dict[str, Any]]) -> str:
    fpr = _rates(found)[0]
    before = _passed(rows, fpr)
    after = _passed(rows_of(found, "margin", "raw_sum"), fpr)
    if not before or not after:
        return ""
    (old, _), (new, names) = _largest(before), _largest(after)
    if new > old:
        return (
            "Much depends on what the attacker optimises: with another loss the "
            f"largest share that gets through at {nominal(fpr)} FPR rises from "
            f"{percent(old)} % to {percent(new)} % ({names})."
        )
    return (
        "Other losses of the attacker were tried; the largest share that gets through "
        f"with them at {nominal(fpr)} FPR is {percent(new)} %, no more than the "
        f"{percent(old)} % with the published loss."
    )


def _on_integrated(found: Evaluation) -> str:
    changed = _successes(rows_of(found, *INTEGRATED), "success_trapped")
    if not changed:
        return ""
    top, names = _largest(changed)
    return (
        "Where detection and recovery are built into the model that is attacked, the "
        f"strongest attack changes its answer in {percent(top)} % of tries ({names})."
    )


def _price(found: Evaluation) -> str:
    clean = found.clean
    flagged = [
        f"{share(rate)} are flagged falsely (nominal {nominal(fpr)})"
        for fpr, rate in sorted(clean.false_positives.items(), reverse=True)
    ]
    return (
        f"The price on clean images: accuracy is {share(clean.accuracy_classifier)} "
        f"without the traps and {share(clean.accuracy_trapped)} with them; "
        f"{listing(flagged)}."
    )


def _false_positive_sentences(found: Evaluation) -> list[str]:
    sentences = []
    for fpr, rate in sorted(found.clean.false_positives.items(), reverse=True):
        low, high = rate.interval or (0.0, 1.0)
        if not low <= fpr <= high:
            sentences.append(
                f"At the nominal rate of {nominal(fpr)} the analyzer flags "
                f"{'more' if fpr < low else 'fewer'} clean test images than intended "
                f"({share(rate)}), beyond what chance explains."
            )
    return sentences


def _successes(rows: list[dict[str, Any]], key: str) -> _Found:
    rates = ((row["attack"], row[key]) for row in rows)
    return [(name, rate.count / rate.total) for name, rate in rates if rate]


def _passed(rows: list[dict[str, Any]], fpr: float) -> _Found:
    rates = ((row["attack"], detection_at(row, fpr, "overall")) for row in rows)
    return [(name, rate.count / rate.total) for name, rate in rates if rate]


def _largest(found: _Found) -> tuple[float, str]:
    top = max(value for _, value in found)
    names = dict.fromkeys(name for name, value in found if value == top)
    return top, listing(list(names), most=2)


def _whole_case(found: Evaluation) -> dict[str, Any] | None:
    by_variant = {worst["variant"]: worst for worst in found.worst_cases}
    # Who may try everything tries every loss.
    return by_variant.get(ANY_LOSS, by_variant.get("paper"))


def _without_papers(row: dict[str, Any], cells: Sequence[Cell]) -> Sequence[Cell]:
    """Leaves the line of the paper's numbers out where there are none."""
    if row["paper"]:
        return cells
    return [dataclasses.replace(cell, paper=None) for cell in cells]


def _papers_lines(rows: Sequence[dict[str, Any]]) -> str:
    told = any(row["paper"] for row in rows)
    return " Under each attack, the paper's numbers." if told else ""


def _attacks(found: Evaluation) -> list[Part]:
    seen = rows_of(found, "paper")
    if not seen:
        return [Text("No attack with the published loss was run.")]
    heads = [
        *columns("Attack", "Kind", words=2),
        *columns("fools C", "fools M", words=0),
    ]
    for fpr in _rates(found):
        group = f"Analyzer at {nominal(fpr)} FPR"
        heads += [
            Column(name, group) for name in ("detected", "recovered", "unnoticed")
        ]
    rows = []
    for row in seen:
        cells = [
            Cell(row["attack"], paper="paper"),
            Cell(row["kind"], paper=""),
            success_cell(row, "success_classifier", "asr_original"),
            success_cell(row, "success_trapped", "asr_attractors"),
        ]
        for fpr in _rates(found):
            cells += detection_cells(row, fpr, tint=True, wide=True)
        cells.append(Cell(measure(row["auc"], 3), paper=""))
        rows.append(_without_papers(row, cells))
    totals = sorted({row["success_trapped"].total for row in seen})
    tries = f"{totals[0]:,} tries each"
    if len(totals) > 1:
        tries = f"{totals[0]:,} to {totals[-1]:,} tries"
    caption = (
        f"Attacks with the published loss, {tries}; rates in per cent, with 95 % "
        f"intervals.{_papers_lines(seen)}"
    )
    return [Table(caption, [*heads, Column("AUC")], rows), Terms(_COLUMNS)]


def _built_in(found: Evaluation) -> list[Part]:
    present = [variant for variant in INTEGRATED if rows_of(found, variant)]
    if not present:
        return [Text("The integrated model was not attacked.")]
    parts: list[Part] = [
        Text(
            "Here detection and recovery are part of the model that is attacked: "
            "for a flagged image it answers with the recovered class. An attack "
            "succeeds if the final answer is wrong, or is the target."
        )
    ]
    for variant in present:
        seen = rows_of(found, variant)
        who = "integrated model" + (" (hard label)" if "label" in variant else "")
        rows = []
        for row in seen:
            cells = [
                Cell(row["attack"], paper="paper"),
                Cell(row["kind"], paper=""),
                success_cell(row, "success_classifier", "asr_original"),
                success_cell(
                    row, "success_trapped", "asr_integrated", tint=True, wide=True
                ),
                Cell(measure(row["mean_l2"], 2), paper=""),
            ]
            rows.append(_without_papers(row, cells))
        heads = ("Attack", "Kind", "fools C", f"fools the {who}", "mean L2 distance")
        caption = (
            f"Attacks on the {who}; rates in per cent, with 95 % intervals."
            f"{_papers_lines(seen)}"
        )
        parts.append(Table(caption, columns(*heads, words=2), rows))
    return parts


def _losses(found: Evaluation) -> list[Part]:
    present = [one for one in ("margin", "raw_sum") if rows_of(found, one)]
    if not present:
        return [
            Text(
                "No other loss was tried, so that this report cannot say how far its "
                "numbers rest on the attacker's choice.",
                "caution",
            )
        ]
    variants = ["paper", *present]
    by_place = {
        (row["attack"], row["variant"]): row for row in rows_of(found, *variants)
    }
    rows = []
    for name in dict.fromkeys(row["attack"] for row in rows_of(found, *present)):
        seen = [by_place.get((name, variant)) for variant in variants]
        cells = [Cell(name)]
        cells += [rate_cell(row["success_trapped"] if row else None) for row in seen]
        for fpr in _rates(found):
            overall = [
                detection_at(row, fpr, "overall") if row else None for row in seen
            ]
            cells += [rate_cell(rate, tint=True) for rate in overall]
        rows.append(cells)
    groups = ["fools M", *(f"unnoticed at {nominal(fpr)} FPR" for fpr in _rates(found))]
    heads = [Column(VARIANT_NAMES[one], group) for group in groups for one in variants]
    return [
        Text(
            "The published attacks follow the cross-entropy of M's normalised "
            "output. Near a clean image that of C is almost flat, which leaves "
            "the lead to W. An attacker need not choose this loss. The margin "
            "loss pushes the true class below the next one; the attack before "
            "normalisation takes the cross-entropy of C + W itself. An attack that "
            "follows no such loss is not run with it."
        ),
        Table(
            "The same attacks with other losses; rates in per cent.",
            [Column("Attack", numeric=False), *heads],
            rows,
        ),
    ]


def _worst_case(found: Evaluation) -> list[Part]:
    if not found.worst_cases:
        return [Text("Not computed.")]
    rows = [
        [
            Cell(VARIANT_NAMES[worst["variant"]]),
            rate_cell(worst["misclassified"], wide=True),
            *(
                rate_cell(worst["overall"].get(fpr), tint=True, wide=True)
                for fpr in _rates(found)
            ),
        ]
        for worst in found.worst_cases
    ]
    group = "some attack fools M unnoticed"
    rates = [Column(f"{nominal(fpr)} FPR", group) for fpr in _rates(found)]
    return [
        Text(
            "An attacker may try everything and keep what works. Here an image counts "
            "as lost as soon as one of the attacks succeeds on it."
        ),
        Table(
            "Share of images, in per cent, for which at least one attack got through.",
            [*columns("Attacks", "some attack fools the model"), *rates],
            rows,
        ),
    ]


def _unnoticed_section(found: Evaluation) -> Section:
    heads = ("images", "lead of C", "pull of W", "L2")
    rows = [
        [
            Cell(one["attack"]),
            *(
                cell
                for group in (one["unnoticed"], one["noticed"])
                for cell in (
                    Cell(str(group["count"])),
                    *(Cell(measure(group[key], 3)) for key in ("lead", "pull", "l2")),
                )
            ),
        ]
        for one in found.unnoticed
    ]
    told = [Column(head, group) for group in ("unnoticed", "noticed") for head in heads]
    fpr = nominal(found.unnoticed[0]["fpr"])
    table = Table(
        f"Images that fool M, with the analyzer at {fpr} FPR; medians.",
        [Column("Attack", numeric=False), *told],
        rows,
    )
    return Section("unnoticed", "What goes unnoticed", [table, Terms(_UNNOTICED)])


def _thresholds(found: Evaluation) -> Table:
    rows = [
        [Cell(nominal(fpr)), *(Cell(number(value)) for value in values.values())]
        for fpr, values in sorted(found.thresholds.items(), reverse=True)
    ]
    return Table(
        "An image is flagged if max w > U, or min w < L, or stdev w > σ₀.",
        columns("Nominal FPR", "U", "L", "σ₀"),
        rows,
    )


def _calibration(found: Evaluation) -> list[Part]:
    constants = {k: v for k, v in found.calibration.items() if k != "explanation"}
    return [
        Text(found.calibration["explanation"]),
        facts_table("Constants of the decoder W", "Constant", constants),
        _thresholds(found),
    ]


def _remarks(found: Evaluation) -> list[Part]:
    parts: list[Part] = [Text(text, "caution") for text in found.warnings]
    if not parts:
        parts.append(Text("The evaluation raised no warnings."))
    notes: dict[tuple[str, str], list[str]] = {}
    merged: dict[tuple[str, str], dict[str, Any]] = {}
    for row in found.rows:
        if row["note"]:
            named = notes.setdefault((row["attack"], row["note"]), [])
            named.append(VARIANT_NAMES[row["variant"]])
        place = (row["attack"], settings_text(row["settings"]))
        merged.setdefault(place, {})[row["variant"]] = row["mean_l2"]
    if notes:
        told = [
            (f"{attack} ({', '.join(named)})", note)
            for (attack, note), named in notes.items()
        ]
        parts.append(Terms(told))
    variants = [one for one in VARIANT_NAMES if rows_of(found, one)]
    if found.rows:
        rows = [
            [
                Cell(attack),
                Cell(settings or NOTHING),
                *(
                    Cell(measure(found[one], 2) if one in found else NOTHING)
                    for one in variants
                ),
            ]
            for (attack, settings), found in merged.items()
        ]
        heads = [Column(VARIANT_NAMES[one], "mean L2 distance") for one in variants]
        parts.append(
            Table(
                "Settings, and the mean L2 distance of successful images (pixels in "
                "[0, 1])",
                [*columns("Attack", "Settings", words=2), *heads],
                rows,
            )
        )
    return parts


def _pictures(found: Evaluation) -> list[Part]:
    drawn = (roc_picture(found), correlation_picture(found))
    parts: list[Part] = [picture for picture in drawn if picture is not None]
    if views := example_views(found):
        parts += [
            Text(
                "From left to right: the clean image, the adversarial image, and the "
                "perturbation, stretched so that its largest change is black or white "
                "and no change is grey. C1, C2 and C3 are the analyzer's conditions on "
                "max w, min w and stdev w."
            ),
            Examples(views),
        ]
    return parts or [Text("There are no samples to draw.")]
