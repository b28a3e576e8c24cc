"""The papers' own numbers, and their tables with the measured ones beside them.

Reference:
    Zhang, Chang and Lee, Detection and recovery of adversarial attacks with
    injected attractors, 2020.
    Bernhard, Moellic, Dutertre, Luring of Adversarial Perturbations, 2020.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib.resources
import itertools
import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import pandas as pd

from keras_traps.attacks import LURING_SWEEPS, PRESET_NOTES, PRESETS
from keras_traps.evaluation.metrics import (
    LEVEL,
    CleanVariant,
    Pair,
    compare,
    luring_rates,
)
from keras_traps.evaluation.records import Run
from keras_traps.evaluation.render import (
    NOTHING,
    Cell,
    Column,
    Section,
    Table,
    Terms,
    Text,
    columns,
    interval,
    measure,
    nominal,
    percent,
    rate_cell,
    settings_text,
)
from keras_traps.evaluation.subjects import INTEGRATED, THREATS, Variant
from keras_traps.luring.metrics import LuringMetrics
from keras_traps.rates import Rate

if TYPE_CHECKING:
    from keras_traps.evaluation.evaluate import Evaluation

PAPER_FPR, LOW_FPR = 0.05, 0.005
"""The false-positive rate of the attractor paper's tables, and of a part of IV."""

VARIANTS_OF: dict[int, tuple[Variant, ...]] = {
    1: ("paper",),
    2: (),
    3: ("paper",),
    4: ("paper",),
    5: INTEGRATED,
    6: INTEGRATED,
}
"""Which variants of the trapped model a table is made of, by its number."""

RATES_OF: dict[int, tuple[float, ...]] = {
    1: (PAPER_FPR,),
    2: (),
    3: (PAPER_FPR,),
    4: (PAPER_FPR, LOW_FPR),
    5: (PAPER_FPR,),
    6: (PAPER_FPR,),
}
"""Which nominal false-positive rates a table of the paper is for, by its number."""

VARIANT_NAMES: dict[str, str] = {
    "paper": "published loss",
    "margin": "margin loss",
    "raw_sum": "before normalisation",
    "integrated": "integrated model",
    "integrated_label": "integrated, hard label",
    "any_loss": "any of these losses",
}
"""What a report calls a variant of the trapped model."""

NAMES = {
    "target": "M",
    "surrogate": "An attacker's own M",
    "stack": "Stack",
    "auto": "Auto",
    "ce": "C_E",
    "luring": "Luring",
}
"""What the luring paper calls the variants of M∘P."""

BASELINES = ("stack", "auto", "ce")

MEASURES = {"ac_mop": "AC_M∘P", "ac_m": "AC_M", "dac": "DAC"}
"""What luring's Tables 2 to 4 show, by its field in `LuringMetrics`."""

TABLED = ("FGSM", "MIM", "DIM", "MIM-TI", "DIM-TI")
"""The attacks of luring's Tables 2 to 4; the paper's figures have others too."""

_UNBOUNDED = ("BLB", "CW2", "EAD")
_LURING_TABLES = {"mnist": "Table 2", "svhn_cropped": "Table 3", "cifar10": "Table 4"}
_OVERALL = {PAPER_FPR: "overall_asr", LOW_FPR: "overall_asr_fpr0.5"}
_LURING_TERMS = (
    ("M, M∘P", "the classifier, and the classifier behind the network P."),
    ("AC_M∘P", "attacked images that M∘P is still right on."),
    ("AC_M", "attacked images that M is still right on: M's answer is what counts."),
    (
        "DAC",
        "attacked images that M is right on, or on which M and M∘P differ: an answer "
        "is given only where both agree (Equation 4).",
    ),
)


def paper_row(attack: str, dataset: str) -> dict[str, float | None]:
    """Looks up what the attractor paper reports for one attack (Tables I, III to VI).

    Args:
        attack: The paper's short name of the attack, e.g. `"FGSM"`.
        dataset: `"mnist"` or `"cifar10"`.

    Returns:
        Fractions in [0, 1] by `asr_original`, `asr_attractors`, `detection`,
        `recovery`, `overall_asr` (at a false-positive rate of 5 %),
        `overall_asr_fpr0.5` (at 0.5 %) and `asr_integrated`; where Table III has it
        `auc`; where Table VI has them the mean L2 distances `mean_l2_original` and
        `mean_l2_integrated` in pixels of [0, 1]; `None` where no adversarial image was
        found. Empty where the paper has no such attack or data set.
    """
    return dict(_read("attractors")["attacks"].get(attack, {}).get(dataset, {}))


def paper_clean(dataset: str) -> tuple[float | None, float | None]:
    """Looks up the attractor paper's accuracy on clean test images (Table II).

    Args:
        dataset: `"mnist"` or `"cifar10"`.

    Returns:
        Fractions in [0, 1] for the undefended classifier C and for the trapped model
        M; `(None, None)` where the paper does not have the data set.
    """
    row = _read("attractors")["clean"].get(dataset, {})
    return row.get("original"), row.get("attractors")


def luring_cell(
    dataset: str, attack: str, eps: float, variant: str
) -> dict[str, float | None]:
    """Looks up what the luring paper reports for one attack (Tables 2 to 4).

    Args:
        dataset: `"mnist"`, `"svhn_cropped"` or `"cifar10"`.
        attack: The attack's name, e.g. `"MIM-TI"`.
        eps: The radius, pixels in [0, 1].
        variant: The source model: `"stack"`, `"auto"`, `"ce"` or `"luring"`.

    Returns:
        Fractions in [0, 1] by `ac_mop`, `ac_m` and `dac`; `None` where the number is
        not legible. Empty where the paper has no such cell.
    """
    rows = _read("luring")["attacks"].get(dataset, {}).get(attack, {})
    return dict(rows.get(f"{eps:g}", {}).get(variant, {}))


def luring_clean(dataset: str, variant: str) -> dict[str, float | None]:
    """Looks up the luring paper's accuracy on clean test images (Table 1).

    Args:
        dataset: As in `luring_cell`.
        variant: `"target"` for M, or the source model as in `luring_cell`.

    Returns:
        Fractions in [0, 1] by `test` and `agree`; empty where the paper has no such
        model.
    """
    return dict(_read("luring")["clean"].get(dataset, {}).get(variant, {}))


@functools.cache
def _read(paper: str) -> dict[str, Any]:
    package = importlib.resources.files("keras_traps.evaluation")
    text = (package / f"{paper}_paper.json").read_text("utf-8")
    tables: dict[str, Any] = json.loads(text)
    return tables


def rows_of(found: Evaluation, *variants: str) -> list[dict[str, Any]]:
    """Returns the rows of some variants, in the evaluation's order."""
    return [row for row in found.rows if row["variant"] in variants]


def detection_at(row: dict[str, Any], fpr: float, what: str) -> Rate | None:
    """Returns what a row has at one nominal false-positive rate, if it has it."""
    rates = (one[what] for one in row["detection"] if one["fpr"] == fpr)
    return next(rates, None)


def paper_percent(row: dict[str, Any], key: str) -> str:
    """Writes one of the paper's numbers, or a dash where the paper has none."""
    return percent(row["paper"][key]) if key in row["paper"] else NOTHING


def success_cell(row: dict[str, Any], key: str, paper: str, **how: bool) -> Cell:
    """Makes the cell of one of a row's rates, the paper's number below."""
    return rate_cell(row[key], paper_percent(row, paper), **how)


def detection_cells(row: dict[str, Any], fpr: float, **how: bool) -> list[Cell]:
    """Makes the cells of detection, recovery and overall success at a rate."""
    at_paper = fpr == PAPER_FPR
    return [
        rate_cell(
            detection_at(row, fpr, "detected"),
            paper_percent(row, "detection") if at_paper else NOTHING,
        ),
        rate_cell(
            detection_at(row, fpr, "recovered"),
            paper_percent(row, "recovery") if at_paper else NOTHING,
        ),
        rate_cell(
            detection_at(row, fpr, "overall"),
            paper_percent(row, _OVERALL.get(fpr, "")),
            **how,
        ),
    ]


def clean_table(found: Evaluation) -> Table:
    """Table II: clean accuracy and false positives, with counts and intervals."""
    clean = found.clean
    paper_c, paper_m = (
        NOTHING if known is None else percent(known)
        for known in (clean.paper_accuracy_classifier, clean.paper_accuracy_trapped)
    )
    quantities = [
        ("Accuracy of C", clean.accuracy_classifier, paper_c),
        ("Accuracy of M", clean.accuracy_trapped, paper_m),
    ]
    for fpr, rate in sorted(clean.false_positives.items(), reverse=True):
        name = f"False positives at nominal {nominal(fpr)}"
        quantities.append((name, rate, nominal(fpr)[:-2]))
    rows = [
        (
            Cell(name),
            Cell(percent(rate.value)),
            Cell(interval(rate)),
            Cell(f"{rate.count:,} of {rate.total:,}"),
            Cell(expected),
        )
        for name, rate, expected in quantities
    ]
    return Table(
        "Clean test images; rates in per cent. For false positives the expected "
        "number is the nominal rate, which was set on other clean images.",
        columns(
            "Quantity", "Measured", "95 % interval", "Images", "Paper, or expected"
        ),
        rows,
    )


def table_section(found: Evaluation, number: int) -> Section:
    """Makes one of the attractor paper's tables.

    Args:
        found: What was found, with the variants of `VARIANTS_OF`.
        number: Which, from 1 to 6.

    Returns:
        The table under its heading.
    """
    makers = (_table_1, lambda _: [clean_table(found)], _table_3, _table_4)
    headings = (
        "Attacks on C and on M, detection, recovery and overall success",
        "Accuracy on clean images",
        "How well the analyzer's score detects",
        "Detection at a low false-positive rate",
        "Attacks on the integrated model",
        "Mean L2 distance of unbounded attacks",
    )
    roman = ("I", "II", "III", "IV", "V", "VI")[number - 1]
    parts = (*makers, _table_5, _table_6)[number - 1](found)
    heading = f"Table {roman}. {headings[number - 1]}"
    return Section(f"table-{number}", heading, parts)


def _attack_table(
    caption: str, heads: Sequence[str | Column], rows: Sequence[Sequence[Cell]]
) -> Table:
    told = [head if isinstance(head, Column) else Column(head) for head in heads]
    return Table(caption, [*columns("Attack", "Kind", words=2), *told], rows)


def _named(row: dict[str, Any], cells: Sequence[Cell]) -> list[Cell]:
    """Puts the row's name before its cells, and how many images were attacked after."""
    tries = row["success_trapped"].total
    name = Cell(row["attack"], paper="paper"), Cell(row["kind"], paper="")
    return [*name, *cells, Cell(f"{tries:,}", paper="")]


def _rate_caption(fpr: float) -> str:
    text = f"The analyzer's false-positive rate is {nominal(fpr)}."
    if fpr != PAPER_FPR:
        text += f" The paper's numbers are for {nominal(PAPER_FPR)}."
    return text


def _table_1(found: Evaluation) -> list[Table | Text]:
    fpr = PAPER_FPR if PAPER_FPR in found.thresholds else max(found.thresholds)
    rows = [
        _named(
            row,
            [
                success_cell(row, "success_classifier", "asr_original"),
                success_cell(row, "success_trapped", "asr_attractors"),
                *detection_cells(row, fpr),
            ],
        )
        for row in rows_of(found, "paper")
    ]
    heads = ("fools C", "fools M", "detected", "recovered", "overall", "images")
    return [_attack_table(_rate_caption(fpr), heads, rows)]


def _table_3(found: Evaluation) -> list[Table | Text]:
    rows = []
    for row in rows_of(found, "paper"):
        detected, _, overall = detection_cells(row, PAPER_FPR)
        paper = row["paper"]
        area = measure(paper["auc"], 3) if "auc" in paper else NOTHING
        false = rate_cell(found.clean.false_positives.get(PAPER_FPR), "5.0")
        auc = Cell(measure(row["auc"], 3), paper=area)
        rows.append(_named(row, [detected, false, auc, overall]))
    heads = ("TPR", "FPR", "AUC", "overall", "images")
    return [_attack_table(_rate_caption(PAPER_FPR), heads, rows)]


def _table_4(found: Evaluation) -> list[Table | Text]:
    rows = []
    for row in rows_of(found, "paper"):
        cells = []
        for fpr in (PAPER_FPR, LOW_FPR):
            detected, _, overall = detection_cells(row, fpr)
            cells += [dataclasses.replace(detected, paper=""), overall]
        rows.append(_named(row, cells))
    heads = [
        Column(name, f"{nominal(fpr)} FPR")
        for fpr in (PAPER_FPR, LOW_FPR)
        for name in ("TPR", "overall")
    ]
    caption = "Both thresholds on the same attacks."
    return [_attack_table(caption, [*heads, Column("images")], rows)]


def _by_attack(found: Evaluation) -> dict[str, dict[str, dict[str, Any]]]:
    """The rows of the integrated models, by attack and variant."""
    grouped: dict[str, dict[str, dict[str, Any]]] = {}
    for row in rows_of(found, *INTEGRATED):
        grouped.setdefault(row["attack"], {})[row["variant"]] = row
    return grouped


def _table_5(found: Evaluation) -> list[Table | Text]:
    variants = [variant for variant in INTEGRATED if rows_of(found, variant)]
    rows = []
    for of_attack in _by_attack(found).values():
        first = next(iter(of_attack.values()))
        cells = [success_cell(first, "success_classifier", "asr_original")]
        for variant in variants:
            row = of_attack.get(variant)
            paper = paper_percent(first, "asr_integrated")
            cells.append(rate_cell(row["success_trapped"] if row else None, paper))
            cells.append(rate_cell(row["unflagged"] if row else None, ""))
        rows.append(_named(first, cells))
    pairs = [(VARIANT_NAMES[variant], "and not flagged") for variant in variants]
    heads = ["fools C", *itertools.chain.from_iterable(pairs), "images"]
    return [
        Text(
            "The integrated model is attacked through its own gradients. The paper "
            "does not say what gradient the recovered answer has. The plain integrated "
            "model answers with the correlations, which have one. A hard answer, the "
            "class of lowest correlation, has none: an attack stands still where it is "
            "flagged. That masks the gradient that would lead out: the numbers are "
            "smaller, the model is no safer. Where an attack succeeds and the image is "
            "not flagged, M was fooled unnoticed; else the wrong class was recovered."
        ),
        # The integrated model is made with the analyzer of the largest rate.
        _attack_table(_rate_caption(max(found.thresholds)), heads, rows),
    ]


def _table_6(found: Evaluation) -> list[Table | Text]:
    variants = [variant for variant in INTEGRATED if rows_of(found, variant)]
    rows = []
    for attack, of_attack in _by_attack(found).items():
        if attack not in _UNBOUNDED:
            continue
        first = next(iter(of_attack.values()))
        paper = {
            key: measure(value, 2)
            for key, value in first["paper"].items()
            if key.startswith("mean_l2")
        }
        told = paper.get("mean_l2_original", NOTHING)
        cells = [Cell(measure(first["mean_l2_classifier"], 2), paper=told)]
        for variant in variants:
            row = of_attack.get(variant)
            cells.append(
                Cell(
                    measure(row["mean_l2"] if row else None, 2),
                    f"{row['success_trapped'].count} images" if row else "",
                    paper=paper.get("mean_l2_integrated", NOTHING),
                )
            )
        rows.append(_named(first, cells))
    heads = ["C", *(VARIANT_NAMES[variant] for variant in variants), "images"]
    caption = "Of the images on which the attack succeeded; pixels in [0, 1]. "
    return [_attack_table(caption + _rate_caption(max(found.thresholds)), heads, rows)]


def luring_sections(
    dataset: str,
    clean: Sequence[CleanVariant],
    runs: Sequence[Run],
    frame: pd.DataFrame,
) -> tuple[list[Section], dict[str, Any]]:
    """Makes the luring paper's Table 1 and the data set's of Tables 2 to 4.

    Args:
        dataset: The data set's name.
        clean: The models on clean test images.
        runs: What was run; attacks may be missing.
        frame: What became of each image.

    Returns:
        The tables under their headings; and their numbers: one of the `cells` for each
        run, and the `comparisons` of `compare_luring`.
    """
    rates = {
        key: luring_rates(part)
        for key, part in (frame.groupby(["subject", "attack", "eps"]) if runs else ())
    }
    cells = [(run, rates[run.subject, run.attack, run.eps]) for run in runs]
    ours = [cell for cell in cells if cell[0].about["threat"] == "luring"]
    comparisons = compare_luring(frame, runs)
    sections = [_luring_table_1(dataset, clean)]
    if ours:
        sections.append(_luring_attacks(dataset, ours, comparisons))
    if len(ours) < len(cells):
        sections.append(_luring_threats(cells))
    if cells:
        sections.append(_luring_settings(runs))
    found = [{"run": run, "rates": measured} for run, measured in cells]
    return sections, {"cells": found, "comparisons": comparisons}


_Measured = tuple[Run, LuringMetrics]


def _luring_table_1(dataset: str, clean: Sequence[CleanVariant]) -> Section:
    rows = []
    for row in clean:
        paper = luring_clean(dataset, row.variant)
        cells = [
            rate_cell(rate, _paper(paper, key) if paper else None, wide=True)
            for key, rate in (("test", row.test), ("agree", row.agree))
        ]
        name = Cell(NAMES[row.variant], paper="paper" if paper else None)
        same = rate_cell(row.same, wide=True)
        rows.append((name, *cells, same, Cell(f"{row.parameters:,}")))
    images = max((row.test.total for row in clean), default=0)
    table = Table(
        f"{images:,} clean test images. “Both right” is the paper's “agree”: M and M∘P "
        "are right.",
        columns("Model", "right", "both right", "one answer", "weights"),
        rows,
    )
    return Section("table-1", "Table 1. Clean test images", (table,))


def _luring_attacks(
    dataset: str, cells: Sequence[_Measured], comparisons: Sequence[dict[str, Any]]
) -> Section:
    tabled = [cell for cell in cells if cell[0].attack in TABLED]
    others = [cell for cell in cells if cell[0].attack not in TABLED]
    parts: list[Any] = [Terms(_LURING_TERMS)]
    if tabled:
        caption = (
            "The images are the first of the test set that M and that M∘P are right "
            "on: each variant has met its own."
        )
        parts.append(_luring_cells(dataset, tabled, caption))
        parts += [Text(_comparison_sentence(found)) for found in comparisons]
    if others:
        caption = "Attacks of the paper's figures, on the same images."
        parts.append(_luring_cells(dataset, others, caption))
    title = _LURING_TABLES.get(dataset, "The paper's attacks")
    heading = f"{title}. Made on M∘P, shown to M and to M∘P"
    return Section("attacks", heading, parts)


def _luring_cells(dataset: str, cells: Sequence[_Measured], caption: str) -> Table:
    by_row: dict[tuple[str, float], dict[str, _Measured]] = {}
    for cell in cells:
        place = (cell[0].attack, cell[0].eps)
        by_row.setdefault(place, {})[cell[0].about["variant"]] = cell
    variants = [name for name in NAMES if any(name in row for row in by_row.values())]
    known = any(luring_cell(dataset, *place, "luring") for place in by_row)
    rows = []
    for (attack, eps), found in by_row.items():
        row = [Cell(f"{attack} {eps:g}", paper="paper" if known else None)]
        for variant in variants:
            paper = luring_cell(dataset, attack, eps, variant)
            rates = found[variant][1] if variant in found else None
            row += [
                rate_cell(
                    getattr(rates, key, None), _paper(paper, key) if known else None
                )
                for key in MEASURES
            ]
        counts = {name: found[name][0].images for name in variants if name in found}
        told = ", ".join(f"{NAMES[name]} {count}" for name, count in counts.items())
        if len(set(counts.values())) == 1:
            told = str(next(iter(counts.values())))
        rows.append([*row, Cell(told)])
    heads = [Column(name, NAMES[v]) for v in variants for name in MEASURES.values()]
    first, last = Column("Attack, ε", numeric=False), Column("images")
    return Table(caption, [first, *heads, last], rows)


def _luring_threats(cells: Sequence[_Measured]) -> Section:
    compared = {
        (run.about["variant"], run.eps)
        for run, _ in cells
        if run.about["threat"] != "luring"
    }
    known = list(THREATS)
    shown = sorted(
        (one for one in cells if (one[0].about["variant"], one[0].eps) in compared),
        key=lambda one: (
            list(NAMES).index(one[0].about["variant"]),
            one[0].eps,
            [*map(str, known)].index(one[0].about["threat"]),
        ),
    )
    rows = [
        (
            Cell(NAMES[run.about["variant"]]),
            Cell(f"{run.eps:g}"),
            Cell(run.about["threat"]),
            Cell(run.attack),
            *(rate_cell(getattr(rates, key), wide=True) for key in MEASURES),
            Cell(str(run.images)),
        )
        for run, rates in shown
    ]
    heads = [
        Column("Variant", numeric=False),
        Column("ε"),
        *columns("Attacker", "Attack", words=2),
        *columns(*MEASURES.values(), "images", words=0),
    ]
    seen = {run.about["threat"] for run, _ in shown}
    told = Terms([(one, f"{THREATS[one]}.") for one in known if one in seen])
    table = Table("What is deployed stays the same.", heads, rows)
    heading = "Attackers that know more, or do without M∘P, and a control"
    return Section("threats", heading, (told, table))


def _luring_settings(runs: Sequence[Run]) -> Section:
    presets = dict.fromkeys(run.provenance.get("preset", "") for run in runs)
    notes = [
        (name, PRESET_NOTES[name] + _steps_instead(runs, name))
        for name in presets
        if name in PRESET_NOTES
    ]
    notes += dict.fromkeys((run.attack, run.note) for run in runs if run.note)
    caption = "What each attack was run with."
    if any(run.trials for run in runs):
        caption = (
            "Of several settings that one is used which leaves M right on the fewest "
            "images, and of those the one with the smallest DAC."
        )
    rows = []
    for run in runs:
        chosen = NOTHING
        if run.trials:
            shares = [trial.standing / trial.images for trial in run.trials]
            chosen = (
                f"{len(shares)} settings on {run.trials[0].images} images: AC_M from "
                f"{percent(min(shares))} to {percent(max(shares))}"
            )
        texts = (
            f"{run.attack} {run.eps:g}",
            run.about["threat"],
            NAMES[run.about["variant"]],
            settings_text(run.settings),
            chosen,
        )
        rows.append([Cell(text) for text in texts])
    heads = ("Attack, ε", "Attacker", "Variant", "Settings", "Chosen from")
    table = Table(caption, columns(*heads, words=5), rows)
    parts = [Terms(notes), table] if notes else [table]
    return Section("settings", "Settings of the attacks", parts)


def _steps_instead(runs: Sequence[Run], preset: str) -> str:
    """Says how many steps were made, where they are not the preset's."""
    found = {
        int(run.settings["nb_iter"])
        for run in runs
        if run.provenance.get("preset") == preset
        and (own := PRESETS[preset].get(run.attack, {}).get("nb_iter"))
        and run.settings.get("nb_iter", own) != own
    }
    listed = " or ".join(map(str, sorted(found)))
    return f" Here `--nb_iter` made it {listed} steps." if found else ""


def _comparison_sentence(found: dict[str, Any]) -> str:
    text = (
        f"{MEASURES[found['measure']]}: Luring is above {NAMES[found['baseline']]} in "
        f"{found['above']} of {found['cells']} cells."
    )
    if found["missed"]:
        listed = ", ".join(
            f"{attack} {eps:g} ({percent(luring)} against {percent(other)})"
            for attack, eps, luring, other in found["missed"]
        )
        text += f" Not in {listed}."
    if found["uneven"]:
        text += (
            f" In {len(found['uneven'])} of them the two have different numbers of "
            "images; see the last column."
        )
    if found["unlike"]:
        listed = ", ".join(f"{attack} {eps:g}" for attack, eps in found["unlike"])
        text += f" Left out, for the settings of the attacks differ: {listed}."
    same = found["paired"]
    low, high = same["images"]
    met = str(low) if low == high else f"{low} to {high}"
    return (
        f"{text} On the images that both met, {met} in a cell, it is above in "
        f"{same['above']}: in {same['surely_above']} beyond chance (McNemar's exact "
        f"test, 5 % for each cell), and below beyond chance in {same['surely_below']}."
    )


def _paper(paper: dict[str, float | None], key: str) -> str:
    value = paper.get(key)
    return NOTHING if value is None else percent(value)


def compare_luring(frame: pd.DataFrame, runs: Sequence[Run]) -> list[dict[str, Any]]:
    """Counts in how many cells of Tables 2 to 4 luring is above each baseline.

    Args:
        frame: What became of each image.
        runs: What was run; only what the paper's attacker did is compared.

    Returns:
        Two for each `baseline` that shares a cell with luring, attacked alike: of the
        `measure` `"ac_m"` and of `"dac"`. In how many of the `cells` luring is `above`
        (equal is not); those `missed`, with attack, radius and both rates; the `uneven`
        ones, with different numbers of images; the `unlike` ones that are left out, for
        the attack had other settings; and `paired`, the same on the images that both
        met: the smallest and the largest number of these `images`, in how many cells
        luring is `above`, in how many of these beyond chance (`surely_above`), and in
        how many it is below beyond chance, at 5 % for each cell.
    """
    ours = {
        (run.about["variant"], run.attack, run.eps): run
        for run in runs
        if run.about.get("threat") == "luring" and run.attack in TABLED
    }
    parts = {
        key: part.set_index("id")
        for key, part in (frame.groupby(["subject", "attack", "eps"]) if ours else ())
    }
    found: list[dict[str, Any]] = []
    for baseline in BASELINES:
        shared = [
            (attack, eps, run, ours[baseline, attack, eps])
            for (variant, attack, eps), run in ours.items()
            if variant == "luring" and (baseline, attack, eps) in ours
        ]
        alike = [one for one in shared if _asked(one[2]) == _asked(one[3])]
        if not alike:
            continue
        for what in ("ac_m", "dac"):
            missed, pairs = [], []
            for attack, eps, *both in alike:
                mine, other = (
                    _good(parts[run.subject, attack, eps], what) for run in both
                )
                if not mine.mean() > other.mean():
                    missed.append(
                        (attack, eps, float(mine.mean()), float(other.mean()))
                    )
                pairs.append(compare(mine, other))
            found.append(
                {
                    "baseline": baseline,
                    "measure": what,
                    "above": len(alike) - len(missed),
                    "cells": len(alike),
                    "missed": missed,
                    "uneven": [
                        (attack, eps, mine.images, other.images)
                        for attack, eps, mine, other in alike
                        if mine.images != other.images
                    ],
                    "unlike": [one[:2] for one in shared if one not in alike],
                    "paired": _count_pairs(pairs),
                }
            )
    return found


def _asked(run: Run) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Its settings but for those that a sweep found, and what that chose among."""
    sweep = LURING_SWEEPS.get(run.attack, [])
    found = {name for change in sweep for name in change} if run.trials else ()
    settings = {k: v for k, v in run.settings.items() if k not in found}
    return settings, [trial.settings for trial in run.trials]


def _good(part: pd.DataFrame, what: str) -> pd.Series:
    return part["defended"] if what == "dac" else part["target"] == part["label"]


def _count_pairs(pairs: Sequence[Pair]) -> dict[str, Any]:
    sure = [one for one in pairs if one.p_value < LEVEL]
    sizes = [one.images for one in pairs]
    return {
        "images": (min(sizes), max(sizes)),
        "above": sum(one.ahead > one.behind for one in pairs),
        "surely_above": sum(one.ahead > one.behind for one in sure),
        "surely_below": sum(one.ahead < one.behind for one in sure),
    }
