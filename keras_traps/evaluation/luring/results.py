"""What the luring paper's tables hold: rates by attack, radius and variant."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from keras_traps.attacks import LURING_SWEEPS
from keras_traps.evaluation.luring.outcomes import Outcome
from keras_traps.evaluation.luring.pairing import Paired, count_pairs, pair
from keras_traps.evaluation.luring.records import LuringRecord
from keras_traps.evaluation.records import ArrayStore
from keras_traps.luring.metrics import LuringMetrics, luring_metrics
from keras_traps.rates import Rate

BASELINES = ("stack", "auto", "ce")
MEASURES = {"ac_mop": "AC_M∘P", "ac_m": "AC_M", "dac": "DAC"}
"""What Tables 2 to 4 show, by its field in `LuringMetrics`."""


TABLED = ("FGSM", "MIM", "DIM", "MIM-TI", "DIM-TI")
"""The attacks of Tables 2 to 4; the paper's figures have others too."""


@dataclasses.dataclass(frozen=True)
class Clean:
    """A row of Table 1: clean test images.

    Args:
        variant: `"target"` for M, or how M∘P was made.
        test: On how many the model is right.
        agree: On how many M and M∘P both are; `None` for M.
        same: On how many they give one class, right or wrong; `None` for M.
        parameters: How many weights were trained.
        facts: What it was trained with.
    """

    variant: str
    test: Rate
    agree: Rate | None
    same: Rate | None
    parameters: int
    facts: Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Measured:
    """A cell of Tables 2 to 4: an attack of one radius on one variant.

    Args:
        outcome: What was run.
        rates: What M and M∘P answered.
    """

    outcome: Outcome
    rates: LuringMetrics


@dataclasses.dataclass(frozen=True)
class Comparison:
    """In how many cells luring is above a baseline.

    Args:
        baseline: The baseline.
        measure: `"ac_m"` or `"dac"`.
        above: In how many.
        cells: Of how many that both have.
        missed: The others: attack, radius, the rate of luring and that of the baseline.
        uneven: The cells in which the two have different numbers of images: attack,
            radius, and how many of luring and of the baseline.
        unlike: The cells that are left out, since the attack had other settings on
            the one than on the other: attack and radius.
        paired: The same on the images that both met, and how much of it is chance.
    """

    baseline: str
    measure: str
    above: int
    cells: int
    missed: tuple[tuple[str, float, float, float], ...]
    uneven: tuple[tuple[str, float, int, int], ...]
    unlike: tuple[tuple[str, float], ...]
    paired: Paired


@dataclasses.dataclass(frozen=True)
class Results:
    """All that was measured in a folder of models.

    Args:
        dataset: The data set's name.
        clean: Table 1.
        cells: Every attack of every attacker.
        comparisons: Luring beside the baselines, before the paper's attacker.
        provenance: What a reader needs to make it again.
    """

    dataset: str
    clean: tuple[Clean, ...]
    cells: tuple[Measured, ...]
    comparisons: tuple[Comparison, ...]
    provenance: Mapping[str, Any]


def measure_outcomes(
    outcomes: Sequence[Outcome], store: ArrayStore[LuringRecord]
) -> tuple[Measured, ...]:
    """Reads the records of what was run, and counts.

    Args:
        outcomes: What was run.
        store: Where the records are.

    Returns:
        One cell for each.

    Raises:
        ValueError: If a record is damaged, or not there.
    """
    found = []
    for outcome in outcomes:
        record = outcome.read(store)
        rates = luring_metrics(**record.answers)
        found.append(Measured(outcome, rates))
    return tuple(found)


def compare(
    cells: Sequence[Measured], read: Callable[[Outcome], LuringRecord]
) -> tuple[Comparison, ...]:
    """Counts in how many cells of Tables 2 to 4 luring is above each baseline.

    Args:
        cells: What was measured; only what the paper's attacker did is compared.
        read: From what was run to what became of each image.

    Returns:
        Two for each baseline that shares a cell with luring, attacked alike: of AC_M
        and of DAC. Equal is not above.
    """
    by_place = {
        (cell.outcome.variant, cell.outcome.attack, cell.outcome.eps): cell
        for cell in cells
        if cell.outcome.threat == "luring" and cell.outcome.attack in TABLED
    }
    records = {place: read(cell.outcome) for place, cell in by_place.items()}
    found = []
    for baseline in BASELINES:
        shared = [
            (attack, eps, cell, other)
            for (variant, attack, eps), cell in by_place.items()
            if variant == "luring"
            and (other := by_place.get((baseline, attack, eps))) is not None
        ]
        pairs = [
            one for one in shared if _asked(one[2].outcome) == _asked(one[3].outcome)
        ]
        unlike = tuple(one[:2] for one in shared if one not in pairs)
        if not pairs:
            continue
        uneven = tuple(
            (attack, eps, cell.outcome.images, other.outcome.images)
            for attack, eps, cell, other in pairs
            if cell.outcome.images != other.outcome.images
        )
        for measure in ("ac_m", "dac"):
            rates = [
                (attack, eps, _value(cell.rates, measure), _value(other.rates, measure))
                for attack, eps, cell, other in pairs
            ]
            missed = tuple(rate for rate in rates if not rate[2] > rate[3])
            paired = [
                pair(
                    records["luring", attack, eps],
                    records[baseline, attack, eps],
                    measure,
                )
                for attack, eps, _, _ in pairs
            ]
            found.append(
                Comparison(
                    baseline,
                    measure,
                    above=len(pairs) - len(missed),
                    cells=len(pairs),
                    missed=missed,
                    uneven=uneven,
                    unlike=unlike,
                    paired=count_pairs(paired),
                )
            )
    return tuple(found)


def _asked(outcome: Outcome) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Its settings but for those that a sweep found, and what that chose among."""
    sweep = LURING_SWEEPS.get(outcome.attack, [])
    found = {name for change in sweep for name in change} if outcome.trials else ()
    settings = {k: v for k, v in outcome.settings.items() if k not in found}
    return settings, [trial.settings for trial in outcome.trials]


def _value(rates: LuringMetrics, measure: str) -> float:
    rate: Rate = getattr(rates, measure)
    # Images were attacked, or there were no outcome.
    return rate.count / rate.total
