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
SIGN_STEPS = ("FGSM", "RFGSM", "LLC", "RLLC", "ILLC", "TMIFGSM", *_ITERATIVE)
_UNMOVED_SHARE = 0.01

# What leads what, at which attacks and variants, and what is said of it.
_MASKED = "a sign of masked gradients, not of robustness."
_WEAKER = (
    "{attack} ({other:.1%}) is weaker than FGSM ({one:.1%}) on the {variant} variant, "
    "on the {images} images that both met: " + _MASKED
)
_BLIND = (
    "SPSA, which sees no gradient, gets through{how} on {one:.1%} of images of the "
    "{variant} variant and PGD on {other:.1%}, of the {images} that both met: "
) + _MASKED
_LOSS = (
    "{attack} succeeds{how} on {one:.1%} of {images} images in the {variant} variant "
    "and on {other:.1%} with the paper's loss: the result rests on the loss that the "
    "attacker picks."
)


def find_warnings(frame: pd.DataFrame) -> list[str]:
    """Finds outcomes that an expert would question.

    Two attacks are compared on the images that both met, and told of where one leads by
    more than a point and beyond chance: by the exact test of McNemar, at 5 %.
    """
    found: list[str] = []
    if frame.empty:
        return found
    cells = {
        key: part.set_index("id")
        for key, part in frame.groupby(["subject", "attack"], sort=False)
    }
    for (variant, attack), cell in cells.items():
        if variant == "undefended":
            found += _on_classifier(attack, cell)
            continue
        single, sighted = cells.get((variant, "FGSM")), cells.get((variant, "PGD"))
        leads: list[tuple[str, Iterator[tuple[str, Pair]]]] = []
        if attack in ("BIM", "PGD"):
            leads.append((_WEAKER, _leads(single, cell)))
        if attack == "SPSA":
            leads.append((_BLIND, _leads(cell, sighted)))
            leads.append((_BLIND, _leads(cell, sighted, unseen=True)))
        if variant in ("margin", "raw_sum"):
            paper = cells.get(("paper", attack))
            leads.append((_LOSS, _leads(cell, paper, unseen=True)))
        for sentence, pairs in leads:
            for how, pair in pairs:
                one, other = pair.shares
                told = {"attack": attack, "variant": variant, "images": pair.images}
                found.append(sentence.format(how=how, one=one, other=other, **told))
    return found


def _on_classifier(attack: str, cell: pd.DataFrame) -> Iterator[str]:
    share, unmoved = cell["success"].mean(), (cell["linf"] == 0).mean()
    if attack in _ITERATIVE and share < _UNDEFENDED_FLOOR:
        yield (
            f"{attack} fools the undefended classifier on {share:.1%} only: "
            "the attack may be too weak to say anything of the defence."
        )
    # Others return a clean image where they fail.
    if attack in SIGN_STEPS and unmoved > _UNMOVED_SHARE:
        yield (
            f"{attack} left {unmoved:.1%} of the images as they were on the "
            "undefended classifier: its gradient was 0 there."
        )


def _leads(
    one: pd.DataFrame | None, other: pd.DataFrame | None, *, unseen: bool = False
) -> Iterator[tuple[str, Pair]]:
    """Yields where the first leads by enough, or does so unnoticed at some rate."""
    if one is None or other is None:
        return
    counted = {"": (one["success"], other["success"])}
    if unseen:
        # Of an integrated model all success is.
        counted = {
            f" unnoticed at {fpr:.1%} false positives": (
                one["success"] & ~one[f"flagged_{fpr:g}"],
                other["success"] & ~other[f"flagged_{fpr:g}"],
            )
            for fpr in ([] if one["integrated"].any() else fprs_of(one))
        }
    for how, both in counted.items():
        pair = compare(*both)
        first, second = pair.shares
        if pair.p_value < LEVEL and first > second + _POINT:
            yield how, pair
