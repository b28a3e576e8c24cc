"""Signs that an attack is weak or that gradients are masked."""

from __future__ import annotations

from collections.abc import Iterator

import pandas as pd

from keras_traps.evaluation.metrics import LEVEL, Pair, compare, fprs_of

# Below this, an iterative white-box attack on an undefended network is not at work.
_UNDEFENDED_FLOOR = 0.95
# A smaller lead says little of a defence, even where it is beyond chance.
_POINT = 0.01
_ITERATIVE = ("BIM", "PGD", "UMIFGSM")
_SIGN_STEPS = ("FGSM", "RFGSM", "LLC", "RLLC", "ILLC", "TMIFGSM", *_ITERATIVE)
_UNMOVED_SHARE = 0.01
_MASKED = "a sign of masked gradients, not of robustness."


def find_warnings(frame: pd.DataFrame) -> list[str]:
    """Finds outcomes that an expert would question.

    Two attacks are compared on the images that both met, and told of where one leads by
    more than a point and beyond chance: by the exact test of McNemar, at 5 %.
    """
    if frame.empty:
        return []
    cells = {
        key: part.set_index("id")
        for key, part in frame.groupby(["subject", "attack"], sort=False)
    }
    found: list[str] = []
    for (subject, attack), cell in cells.items():
        if subject == "undefended":
            found += _on_classifier(attack, cell)
            continue
        for other, signs in (
            ((subject, "FGSM"), _masked),
            ((subject, "PGD"), _blind_ahead),
            (("paper", attack), _resting_on_loss),
        ):
            if other in cells:
                found += signs(subject, attack, cell, cells[other])
    return found


def _on_classifier(attack: str, cell: pd.DataFrame) -> Iterator[str]:
    share, unmoved = cell["success"].mean(), (cell["linf"] == 0).mean()
    if attack in _ITERATIVE and share < _UNDEFENDED_FLOOR:
        yield (
            f"{attack} fools the undefended classifier on {share:.1%} only: "
            "the attack may be too weak to say anything of the defence."
        )
    # Others return a clean image where they fail.
    if attack in _SIGN_STEPS and unmoved > _UNMOVED_SHARE:
        yield (
            f"{attack} left {unmoved:.1%} of the images as they were on the "
            "undefended classifier: its gradient was 0 there."
        )


def _masked(
    variant: str, attack: str, cell: pd.DataFrame, single: pd.DataFrame
) -> Iterator[str]:
    pair = _lead(single["success"], cell["success"])
    if attack in ("BIM", "PGD") and pair:
        yield (
            f"{attack} ({pair.shares[1]:.1%}) is weaker than FGSM "
            f"({pair.shares[0]:.1%}) on the {variant} variant, on the {pair.images} "
            f"images that both met: {_MASKED}"
        )


def _blind_ahead(
    variant: str, attack: str, blind: pd.DataFrame, sighted: pd.DataFrame
) -> Iterator[str]:
    if attack != "SPSA":
        return
    pairs = [("", _lead(blind["success"], sighted["success"]))]
    for fpr, pair in _unseen_leads(blind, sighted):
        pairs.append((f" unnoticed at {fpr:.1%} false positives", pair))
    for how, lead in pairs:
        if lead:
            yield (
                f"SPSA, which sees no gradient, gets through{how} on "
                f"{lead.shares[0]:.1%} of images of the {variant} variant and PGD on "
                f"{lead.shares[1]:.1%}, of the {lead.images} that both met: {_MASKED}"
            )


def _resting_on_loss(
    variant: str, attack: str, cell: pd.DataFrame, paper: pd.DataFrame
) -> Iterator[str]:
    if variant not in ("margin", "raw_sum"):
        return
    for fpr, pair in _unseen_leads(cell, paper):
        yield (
            f"{attack} succeeds unnoticed on {pair.shares[0]:.1%} of {pair.images} "
            f"images in the {variant} variant and on {pair.shares[1]:.1%} with the "
            f"paper's loss (at {fpr:.1%} false positives): the result rests on the "
            "loss that the attacker picks."
        )


def _unseen_leads(
    one: pd.DataFrame, other: pd.DataFrame
) -> Iterator[tuple[float, Pair]]:
    """Yields, by rate, where the first leads unnoticed; none where all success is."""
    for fpr in () if one["integrated"].any() else fprs_of(one):
        seen = f"flagged_{fpr:g}"
        if pair := _lead(one["success"] & ~one[seen], other["success"] & ~other[seen]):
            yield fpr, pair


def _lead(one: pd.Series, other: pd.Series) -> Pair | None:
    """Returns a lead of the first that says something, or `None`."""
    pair = compare(one, other)
    first, second = pair.shares
    return pair if pair.p_value < LEVEL and first > second + _POINT else None
