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

_Cells = dict[tuple[str, str], pd.DataFrame]


def find_warnings(frame: pd.DataFrame) -> list[str]:
    """Finds outcomes that an expert would question.

    Two attacks are compared on the images that both met, and told of where one leads by
    more than a point and beyond chance: by the exact test of McNemar, at 5 %.

    Args:
        frame: What became of each image, `"undefended"` among the subjects.

    Returns:
        One sentence per sign; none where nothing is suspicious.
    """
    if frame.empty:
        return []
    cells = {
        key: part.set_index("id")
        for key, part in frame.groupby(["subject", "attack"], sort=False)
    }
    watched = {key: part for key, part in cells.items() if key[0] != "undefended"}
    return [
        *_weak_on_classifier(cells),
        *_masked(watched),
        *_blind_ahead(watched),
        *_resting_on_loss(watched),
        *_unmoved(cells),
    ]


def _lead(one: pd.Series, other: pd.Series) -> Pair | None:
    """Returns a lead of the first that says something, or `None`."""
    pair = compare(one, other)
    # First, for it is 1 where there is no common image.
    if pair.p_value >= LEVEL or pair.share_first <= pair.share_second + _POINT:
        return None
    return pair


def _unseen(cell: pd.DataFrame) -> Iterator[tuple[float, pd.Series]]:
    """Yields, by rate, where it succeeds unnoticed; none where all success is."""
    if not cell["integrated"].any():
        for fpr in fprs_of(cell):
            yield fpr, cell["success"] & ~cell[f"flagged_{fpr:g}"]


def _weak_on_classifier(cells: _Cells) -> Iterator[str]:
    for (subject, attack), cell in cells.items():
        if subject != "undefended" or attack not in _ITERATIVE:
            continue
        share = cell["success"].mean()
        if share < _UNDEFENDED_FLOOR:
            yield (
                f"{attack} fools the undefended classifier on {share:.1%} only: "
                "the attack may be too weak to say anything of the defence."
            )


def _masked(cells: _Cells) -> Iterator[str]:
    for (variant, attack), cell in cells.items():
        single = cells.get((variant, "FGSM"))
        if attack not in ("BIM", "PGD") or single is None:
            continue
        if pair := _lead(single["success"], cell["success"]):
            yield (
                f"{attack} ({pair.share_second:.1%}) is weaker than FGSM "
                f"({pair.share_first:.1%}) on the {variant} variant, on the "
                f"{pair.images} images that both met: {_MASKED}"
            )


def _blind_ahead(cells: _Cells) -> Iterator[str]:
    for (variant, attack), blind in cells.items():
        sighted = cells.get((variant, "PGD"))
        if attack != "SPSA" or sighted is None:
            continue
        pairs = [("", blind["success"], sighted["success"])]
        for (fpr, mine), (_, other) in zip(
            _unseen(blind), _unseen(sighted), strict=True
        ):
            pairs.append((f" unnoticed at {fpr:.1%} false positives", mine, other))
        for how, mine, other in pairs:
            if pair := _lead(mine, other):
                yield (
                    f"SPSA, which sees no gradient, gets through{how} on "
                    f"{pair.share_first:.1%} of images of the {variant} variant and "
                    f"PGD on {pair.share_second:.1%}, of the {pair.images} that both "
                    f"met: {_MASKED}"
                )


def _resting_on_loss(cells: _Cells) -> Iterator[str]:
    for (variant, attack), cell in cells.items():
        paper = cells.get(("paper", attack))
        if variant not in ("margin", "raw_sum") or paper is None:
            continue
        for (fpr, mine), (_, other) in zip(_unseen(cell), _unseen(paper), strict=True):
            if pair := _lead(mine, other):
                yield (
                    f"{attack} succeeds unnoticed on {pair.share_first:.1%} of "
                    f"{pair.images} images in the {variant} variant and on "
                    f"{pair.share_second:.1%} with the paper's loss (at {fpr:.1%} "
                    "false positives): the result rests on the loss that the attacker "
                    "picks."
                )


def _unmoved(cells: _Cells) -> Iterator[str]:
    for (subject, attack), cell in cells.items():
        # Others return a clean image where they fail.
        if subject != "undefended" or attack not in _SIGN_STEPS:
            continue
        share = (cell["linf"] == 0).mean()
        if share > _UNMOVED_SHARE:
            yield (
                f"{attack} left {share:.1%} of the images as they were on the "
                "undefended classifier: its gradient was 0 there."
            )
