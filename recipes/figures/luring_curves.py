"""Figures 4 and 5 of the luring paper, from what the attacks recorded."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from keras_traps.evaluation.figures.study import (
    Study,
    picture,
    quantiles,
    text_table,
)
from keras_traps.evaluation.luring.drawing import draw_changes, draw_rates
from keras_traps.evaluation.luring.names import NAMES
from keras_traps.evaluation.luring.outcomes import Outcome
from keras_traps.evaluation.luring.records import LuringRecord
from keras_traps.evaluation.report.blocks import Paragraph
from keras_traps.evaluation.report.formatting import measure, percent
from keras_traps.luring.metrics import adequation_rate, detection_rate

Records = Mapping[tuple[str, float], Mapping[str, LuringRecord]]
"""Records by variant, by attack and radius."""

ATTACKS = ("FGSM", "PGD", "MIM", "MIML2")
"""The attacks of Figure 4."""


def shown(outcomes: Sequence[Outcome], attacks: Sequence[str]) -> list[Outcome]:
    """Chooses what the paper's attacker did.

    Args:
        outcomes: What was run.
        attacks: The attacks of a figure.

    Returns:
        Those of these attacks, made on M∘P without knowing of the defence.
    """
    return [
        outcome
        for outcome in outcomes
        if outcome.threat == "luring" and outcome.attack in attacks
    ]


def collect(
    outcomes: Sequence[Outcome], read: Callable[[Outcome], LuringRecord]
) -> Records:
    """Sorts the records of the paper's attacker.

    Args:
        outcomes: What was run.
        read: From an outcome to its record.

    Returns:
        The records of the attacks of Figure 4.
    """
    found: dict[tuple[str, float], dict[str, LuringRecord]] = {}
    for outcome in shown(outcomes, ATTACKS):
        place = (outcome.attack, outcome.eps)
        found.setdefault(place, {})[outcome.variant] = read(outcome)
    order = list(NAMES)
    return {
        place: dict(sorted(found[place].items(), key=lambda item: order.index(item[0])))
        for place in sorted(
            found, key=lambda place: (ATTACKS.index(place[0]), place[1])
        )
    }


def fooling_all(records: Mapping[str, LuringRecord]) -> dict[str, LuringRecord]:
    """Keeps the images whose attacked forms fool every source model.

    Args:
        records: Of one attack and radius, by variant.

    Returns:
        The same records, of those test images alone that were attacked on every
        variant, each M∘P giving a wrong class; none may be left.
    """
    shared = functools.reduce(
        np.intersect1d,
        [record.ids[record.augmented != record.labels] for record in records.values()],
    )
    return {
        variant: record.only(np.isin(record.ids, shared))
        for variant, record in records.items()
    }


def figure_4(dataset: str, records: Records) -> Study:
    """Draws detection rate and adequation rate over the radius.

    Args:
        dataset: The data set's name.
        records: As `collect` sorts them.

    Returns:
        The figure.

    Raises:
        ValueError: If there are no records, or none of one radius of all variants.
    """
    _check(records)
    rows: list[dict[str, Any]] = []
    variants = _variants(records)
    # What fools all source models is another thing where there are fewer.
    whole = {
        place: found for place, found in records.items() if set(found) == set(variants)
    }
    if not whole:
        raise ValueError(
            "No attack of Figure 4 was run on all of "
            f"{', '.join(NAMES[variant] for variant in variants)} at one radius."
        )
    for (attack, eps), by_variant in whole.items():
        kept = fooling_all(by_variant)
        for variant, record in kept.items():
            dr = detection_rate(**record.answers)
            adq = adequation_rate(**record.answers)
            rows.append(
                {
                    "attack": attack,
                    "eps": eps,
                    "variant": variant,
                    "images": len(record),
                    "attacked": len(by_variant[variant]),
                    "dr": dr.value,
                    "dr_interval": dr.interval,
                    "adq": adq.value,
                    "adq_interval": adq.interval,
                }
            )
    name = f"luring_figure4_{dataset}"
    return Study(
        name=name,
        title=f"Figure 4 on {dataset}: detection rate and adequation rate",
        subtitle="Attacked images that fool all source models: "
        + ", ".join(NAMES[variant] for variant in variants),
        blocks=(
            picture(
                name,
                "Detection and adequation rate over the radius, a panel per attack",
                "Of the attacked images that fool every M∘P: how many M gives another "
                "class than M∘P does (detection rate, Equation 2, solid), and how many "
                "M is right on (adequation rate, Equation 3, dashed). A point is "
                "missing where no image fools all of them.",
                functools.partial(draw_rates, rows, variants),
            ),
            *_left_out(records, whole),
            text_table(
                "Rates in per cent; “images” fool all source models",
                ("Attack", "Source", "ε", "images", "of", "DR", "Adq"),
                [
                    (
                        row["attack"],
                        NAMES[row["variant"]],
                        f"{row['eps']:g}",
                        str(row["images"]),
                        str(row["attacked"]),
                        percent(row["dr"]),
                        percent(row["adq"]),
                    )
                    for row in rows
                ],
                words=2,
            ),
        ),
        numbers={"dataset": dataset, "rows": rows},
    )


def figure_5(dataset: str, records: Records) -> Study:
    """Draws how many values PGD changes, by source model.

    Args:
        dataset: The data set's name.
        records: As `collect` sorts them.

    Returns:
        The figure.

    Raises:
        ValueError: If there are no records of PGD.
    """
    pgd = {place: found for place, found in records.items() if place[0] == "PGD"}
    _check(pgd)
    samples = {
        (eps, variant): record.l0[record.augmented != record.labels]
        for (_, eps), by_variant in pgd.items()
        for variant, record in by_variant.items()
    }
    rows = [
        {
            "eps": eps,
            "variant": variant,
            "images": len(l0),
            **quantiles(l0),
            "mean": float(l0.mean()) if len(l0) else None,
        }
        for (eps, variant), l0 in samples.items()
    ]
    name = f"luring_figure5_{dataset}"
    heads = ("Source", "ε", "images", "5 %", "median", "95 %", "mean")
    return Study(
        name=name,
        title=f"Figure 5 on {dataset}: how many values PGD changes",
        subtitle="Attacked images that fool the M∘P that they were made on",
        blocks=(
            picture(
                name,
                "Boxes of the l0 distortion of PGD's images, by source model",
                "How many values of an image PGD has changed, by the M∘P that it was "
                "made on. Boxes hold the middle half, whiskers reach from 5 % to 95 %, "
                "the line is the median.",
                functools.partial(draw_changes, samples, _variants(pgd)),
            ),
            Paragraph(
                "PGD starts from a random point of its ball, which changes every value "
                "that is not cut off at 0 or 1."
            ),
            text_table(
                "Changed values per image",
                heads,
                [
                    (
                        NAMES[str(row["variant"])],
                        f"{row['eps']:g}",
                        str(row["images"]),
                        *(
                            measure(row[key], 0)  # type: ignore[arg-type]
                            for key in ("low", "median", "high", "mean")
                        ),
                    )
                    for row in rows
                ],
            ),
        ),
        numbers={"dataset": dataset, "rows": rows},
    )


def _left_out(records: Records, whole: Records) -> list[Paragraph]:
    missed = [
        f"{attack} {eps:g}" for attack, eps in records if (attack, eps) not in whole
    ]
    if not missed:
        return []
    return [Paragraph(f"Left out, for not all were attacked: {', '.join(missed)}.")]


def _variants(records: Records) -> list[str]:
    there = {variant for found in records.values() for variant in found}
    return [name for name in NAMES if name in there]


def _check(records: Records) -> None:
    if not records:
        raise ValueError(
            "There are no records to draw. Attack first, by "
            f"--attacks={','.join(ATTACKS)}."
        )
