"""Whether what was measured is as good as what the paper reports."""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Iterable

from keras_traps.evaluation.results import AttackRow, DetectionRates

_POINT = 0.01


class Target(enum.Enum):
    """What is compared with the paper, and by how much it may differ."""

    UNDEFENDED = "success on C is the paper's to within 3 points, or higher"
    OVERALL = "overall success at 5 % FPR is at most the paper's plus 1 point"
    OVERALL_LOW = "overall success at 0.5 % FPR is at most the paper's plus 1 point"
    INTEGRATED = "success is at most the paper's plus 2 points"


@dataclasses.dataclass(frozen=True)
class Reached:
    """Which attacks meet a target.

    Args:
        compared: The attacks that the paper has a number for.
        within: Those that meet it.
    """

    compared: tuple[str, ...]
    within: tuple[str, ...]

    @property
    def missed(self) -> tuple[str, ...]:
        """Those that do not."""
        return tuple(name for name in self.compared if name not in self.within)


def reached(rows: Iterable[AttackRow], target: Target) -> Reached:
    """Compares rows with the paper's.

    Args:
        rows: The rows of one variant.
        target: What is compared.

    Returns:
        The attacks that were compared, and those that meet the target. A rate of
        nothing, where no adversarial image was found, counts as 0.
    """
    compared, within = [], []
    for row in rows:
        ours, paper = _numbers(row, target)
        if ours is None or paper is None:
            continue
        compared.append(row.attack)
        # Rounded, for the paper's numbers have one decimal and floats have many.
        if target is Target.UNDEFENDED:
            met = round(paper - ours, 6) <= 3 * _POINT
        else:
            slack = 2 * _POINT if target is Target.INTEGRATED else _POINT
            met = round(ours - paper, 6) <= slack
        if met:
            within.append(row.attack)
    return Reached(tuple(compared), tuple(within))


def _numbers(row: AttackRow, target: Target) -> tuple[float | None, float | None]:
    match target:
        case Target.UNDEFENDED:
            rate = row.success_classifier
            return rate.value if rate else None, row.paper.get("asr_original")
        case Target.INTEGRATED:
            return row.success_trapped.value, row.paper.get("asr_integrated")
        case Target.OVERALL:
            return _overall(row, 0.05), row.paper.get("overall_asr")
        case Target.OVERALL_LOW:
            return _overall(row, 0.005), row.paper.get("overall_asr_fpr0.5")


def _overall(row: AttackRow, fpr: float) -> float | None:
    found: DetectionRates | None = next(
        (entry for entry in row.detection if entry.fpr == fpr), None
    )
    return found.overall.value if found else None
