"""Signs that an attack is weak or that gradients are masked."""

from collections.abc import Iterable, Mapping

from keras_traps.evaluation.records import Record
from keras_traps.evaluation.results import AttackRow, Variant

# Below this, an iterative white-box attack on an undefended network is not at work.
_UNDEFENDED_FLOOR = 0.95
_POINT = 0.01
_ITERATIVE = ("BIM", "PGD", "UMIFGSM")
_SIGN_STEPS = ("FGSM", "RFGSM", "LLC", "RLLC", "ILLC", "TMIFGSM", *_ITERATIVE)
_UNMOVED_SHARE = 0.01

_Rows = Mapping[tuple[Variant, str], AttackRow]


def suspicions(
    rows: Iterable[AttackRow], undefended: Mapping[str, Record]
) -> tuple[str, ...]:
    """Finds outcomes that an expert would question.

    Args:
        rows: The rows of a report.
        undefended: What each attack made of the candidates on C.

    Returns:
        One sentence per sign; none where nothing is suspicious.
    """
    by_key = {(row.variant, row.attack): row for row in rows}
    return (
        *_weak_on_classifier(by_key),
        *_masked(by_key),
        *_blind_ahead(by_key),
        *_resting_on_loss(by_key),
        *_unmoved(undefended),
    )


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


def _masked(rows: _Rows) -> Iterable[str]:
    variants = {variant for variant, _ in rows}
    for variant in sorted(variants):
        single = rows.get((variant, "FGSM"))
        if single is None or single.success_trapped.value is None:
            continue
        for attack in ("BIM", "PGD"):
            row = rows.get((variant, attack))
            if row is None or row.success_trapped.value is None:
                continue
            if row.success_trapped.value < single.success_trapped.value - _POINT:
                yield (
                    f"{attack} ({row.success_trapped.value:.1%}) is weaker than FGSM "
                    f"({single.success_trapped.value:.1%}) on the {variant} variant: a "
                    "sign of masked gradients, not of robustness."
                )


def _blind_ahead(rows: _Rows) -> Iterable[str]:
    for variant in sorted({variant for variant, _ in rows}):
        blind, sighted = (rows.get((variant, attack)) for attack in ("SPSA", "PGD"))
        if blind is None or sighted is None:
            continue
        pairs = [("", blind.success_trapped, sighted.success_trapped)]
        for mine, other in zip(blind.detection, sighted.detection, strict=True):
            how = f" unnoticed at {mine.fpr:.1%} false positives"
            pairs.append((how, mine.overall, other.overall))
        for how, here, there in pairs:
            if here.value is None or there.value is None:
                continue
            if here.value > there.value + _POINT:
                yield (
                    f"SPSA, which sees no gradient, gets through{how} on "
                    f"{here.value:.1%} of images of the {variant} variant and PGD on "
                    f"{there.value:.1%}: a sign of masked gradients, not of robustness."
                )


def _resting_on_loss(rows: _Rows) -> Iterable[str]:
    for (variant, attack), row in rows.items():
        paper = rows.get(("paper", attack))
        if variant not in ("margin", "raw_sum") or paper is None:
            continue
        for here, there in zip(row.detection, paper.detection, strict=True):
            if here.overall.value is None or there.overall.value is None:
                continue
            if here.overall.value > there.overall.value + _POINT:
                yield (
                    f"{attack} succeeds unnoticed on {here.overall.value:.1%} of images"
                    f" in the {variant} variant and on {there.overall.value:.1%} with "
                    f"the paper's loss (at {here.fpr:.1%} false positives): the result "
                    "rests on the loss that the attacker picks."
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
