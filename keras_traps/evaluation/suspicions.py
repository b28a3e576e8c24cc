"""Signs that an attack is weak or that gradients are masked."""

import dataclasses
from collections.abc import Iterable, Iterator, Mapping

from keras_traps.attractors import ForensicAnalyzer
from keras_traps.evaluation.jobs import Subject
from keras_traps.evaluation.pairing import (
    LEVEL,
    Outcome,
    compare,
    on_common_images,
)
from keras_traps.evaluation.records import Record
from keras_traps.evaluation.results import INTEGRATED, AttackRow, Variant

# Below this, an iterative white-box attack on an undefended network is not at work.
_UNDEFENDED_FLOOR = 0.95
# A smaller lead says little of a defence, even where it is beyond chance.
_POINT = 0.01
_ITERATIVE = ("BIM", "PGD", "UMIFGSM")
_SIGN_STEPS = ("FGSM", "RFGSM", "LLC", "RLLC", "ILLC", "TMIFGSM", *_ITERATIVE)
_UNMOVED_SHARE = 0.01

_Rows = Mapping[tuple[Variant, str], AttackRow]


def suspicions(
    rows: Iterable[AttackRow],
    records: Mapping[Subject, Mapping[str, Record]],
    analyzers: Mapping[float, ForensicAnalyzer],
) -> tuple[str, ...]:
    """Finds outcomes that an expert would question.

    Two attacks are compared on the images that both met, and told of where one leads by
    more than a point and beyond chance: by the exact test of McNemar, at 5 %.

    Args:
        rows: The rows of a report.
        records: What each attack made of the candidates on each subject.
        analyzers: A fitted analyzer by nominal false-positive rate.

    Returns:
        One sentence per sign; none where nothing is suspicious.
    """
    by_key = {(row.variant, row.attack): row for row in rows}
    cells = {
        key: _Cell(row, records[row.variant][row.attack], analyzers)
        for key, row in by_key.items()
    }
    return (
        *_weak_on_classifier(by_key),
        *_masked(cells),
        *_blind_ahead(cells),
        *_resting_on_loss(cells),
        *_unmoved(records.get("undefended", {})),
    )


@dataclasses.dataclass(frozen=True)
class _Cell:
    """One attack on one variant, image by image."""

    row: AttackRow
    record: Record
    analyzers: Mapping[float, ForensicAnalyzer]

    @property
    def success(self) -> Outcome:
        return self.record.ids, self.record.succeeded(targeted=self.row.kind == "TA")

    def unseen(self) -> Iterator[tuple[float, Outcome]]:
        """Yields, by rate, where it succeeds unnoticed; none where all success is."""
        if self.row.variant in INTEGRATED:
            return
        ids, success = self.success
        for fpr, analyzer in self.analyzers.items():
            flagged = analyzer.judge(self.record.correlations).is_adversarial
            yield fpr, (ids, success & ~flagged)


_Cells = Mapping[tuple[Variant, str], _Cell]


@dataclasses.dataclass(frozen=True)
class _Lead:
    """How often two attacks get through, on how many common images."""

    images: int
    here: float
    there: float


def _lead(one: Outcome, other: Outcome) -> _Lead | None:
    """Returns a lead of the first that says something, or `None`."""
    here, there = on_common_images(one, other)
    pair = compare(here, there)
    # First, for it is 1 where there is no common image.
    if pair.p_value >= LEVEL or here.mean() <= there.mean() + _POINT:
        return None
    return _Lead(pair.images, float(here.mean()), float(there.mean()))


def _weak_on_classifier(rows: _Rows) -> Iterable[str]:
    for (variant, attack), row in rows.items():
        rate = row.success_classifier
        if variant != "paper" or attack not in _ITERATIVE or rate is None:
            continue
        if rate.value is not None and rate.value < _UNDEFENDED_FLOOR:
            yield (
                f"{attack} fools the undefended classifier on {rate.value:.1%} only: "
                "the attack may be too weak to say anything of the defence."
            )


def _masked(cells: _Cells) -> Iterable[str]:
    for variant in sorted({variant for variant, _ in cells}):
        single = cells.get((variant, "FGSM"))
        for attack in ("BIM", "PGD"):
            cell = cells.get((variant, attack))
            if single is None or cell is None:
                continue
            if lead := _lead(single.success, cell.success):
                yield (
                    f"{attack} ({lead.there:.1%}) is weaker than FGSM "
                    f"({lead.here:.1%}) on the {variant} variant, on the {lead.images} "
                    "images that both met: a sign of masked gradients, not of "
                    "robustness."
                )


def _blind_ahead(cells: _Cells) -> Iterable[str]:
    for variant in sorted({variant for variant, _ in cells}):
        blind, sighted = (cells.get((variant, attack)) for attack in ("SPSA", "PGD"))
        if blind is None or sighted is None:
            continue
        pairs = [("", blind.success, sighted.success)]
        for (fpr, mine), (_, other) in zip(
            blind.unseen(), sighted.unseen(), strict=True
        ):
            pairs.append((f" unnoticed at {fpr:.1%} false positives", mine, other))
        for how, mine, other in pairs:
            if lead := _lead(mine, other):
                yield (
                    f"SPSA, which sees no gradient, gets through{how} on "
                    f"{lead.here:.1%} of images of the {variant} variant and PGD on "
                    f"{lead.there:.1%}, of the {lead.images} that both met: a sign of "
                    "masked gradients, not of robustness."
                )


def _resting_on_loss(cells: _Cells) -> Iterable[str]:
    for (variant, attack), cell in cells.items():
        paper = cells.get(("paper", attack))
        if variant not in ("margin", "raw_sum") or paper is None:
            continue
        for (fpr, mine), (_, other) in zip(cell.unseen(), paper.unseen(), strict=True):
            if lead := _lead(mine, other):
                yield (
                    f"{attack} succeeds unnoticed on {lead.here:.1%} of {lead.images} "
                    f"images in the {variant} variant and on {lead.there:.1%} with the "
                    f"paper's loss (at {fpr:.1%} false positives): the result rests on "
                    "the loss that the attacker picks."
                )


def _unmoved(undefended: Mapping[str, Record]) -> Iterable[str]:
    for attack, record in undefended.items():
        if attack not in _SIGN_STEPS:  # others return a clean image where they fail
            continue
        share = float((record.linf == 0).mean())
        if share > _UNMOVED_SHARE:
            yield (
                f"{attack} left {share:.1%} of the images as they were on the "
                "undefended classifier: its gradient was 0 there."
            )
