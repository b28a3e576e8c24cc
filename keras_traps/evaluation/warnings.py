"""Signs that an attack is weak or that gradients are masked."""

from __future__ import annotations

from collections.abc import Iterator

import keras
import numpy as np
import pandas as pd
import tensorflow as tf

from keras_traps._checks import FloatArray, IntArray
from keras_traps.attacks.loop import rivals_lead
from keras_traps.evaluation.metrics import LEVEL, Pair, compare, fprs_of
from keras_traps.evaluation.runner import WorstCase
from keras_traps.evaluation.subjects import Subject
from keras_traps.models.forms import in_standard_form
from keras_traps.models.inference import batch_size_for, inference_function, predict
from keras_traps.models.logits import attacked_form

# Below this, an iterative white-box attack on an undefended network is not at work.
_UNDEFENDED_FLOOR = 0.95
# A smaller lead says little of a defence, even where it is beyond chance.
_POINT = 0.01
_ITERATIVE = ("BIM", "PGD", "UMIFGSM")
SIGN_STEPS = ("FGSM", "RFGSM", "LLC", "RLLC", "ILLC", "TMIFGSM", *_ITERATIVE)
_UNMOVED_SHARE = 0.01
# AutoAttack's: how far two passes' outputs, or a row's sum and 1, may be apart; and by
# how much a search without gradients may lower what three attacks with them leave.
_SAME, _ONE, _LOWERED = 1e-4, 1e-5, 0.002
# So few passes and images tell.
_PASSES, _LOOKED_AT = 3, 250

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


def find_flags(frame: pd.DataFrame) -> list[str]:
    """Finds what an expert would question in one contender's part of a leaderboard.

    An attack that asks, or noise, beats all that follow a gradient; success falls as
    the radius grows; images are left as they were.
    """
    flags: list[str] = []
    for _, ball in frame[frame["eps"] > 0].groupby("eps"):
        cells = {
            key: part.set_index("id")["misclassified"]
            for key, part in ball.groupby(["level", "attack"], sort=False)
        }
        sighted = [key for key in cells if key[0] == "gradients"]
        if not sighted:
            continue
        best = max(sighted, key=lambda key: cells[key].mean())
        for (level, attack), cell in cells.items():
            pair = compare(cell, cells[best])
            blind = level in ("labels", "scores")
            if blind and _is_ahead(pair):
                flags.append(
                    f"{attack}, which follows no gradient, fools it on "
                    f"{pair.shares[0]:.1%} of {pair.images} images and {best[1]}, the "
                    f"best that does, on {pair.shares[1]:.1%}: its gradient is masked."
                )
    for (level, attack), part in frame.groupby(["level", "attack"], sort=False):
        rates = part.groupby("eps")["misclassified"].mean()
        if (rates.diff() < -_POINT).any():
            told = ", ".join(f"{rate:.1%} at {eps:g}" for eps, rate in rates.items())
            flags.append(
                f"{attack} ({level}) fools it less often in a larger ball: {told}."
            )
    steps = frame[(frame["level"] == "gradients") & frame["attack"].isin(SIGN_STEPS)]
    for attack, part in steps.groupby("attack", sort=False):
        unmoved = (part["linf"] == 0).mean()
        if unmoved > _UNMOVED_SHARE:
            flags.append(
                f"{attack} left {unmoved:.1%} of the images as they were: its gradient "
                "was 0 there."
            )
    return flags


def find_doubts(subject: Subject, found: WorstCase) -> list[str]:
    """Finds what AutoAttack warns of, in a model and in what attacks left of it.

    Croce and Hein's flags: outputs that are random, or look like probabilities; images
    where the difference of logits ratio, which APGD-T follows, has no gradient; and a
    Square that gets through with what attacks along gradients left.

    Args:
        subject: What was attacked.
        found: What remains of its examples.

    Returns:
        The warnings, in sentences.
    """
    model = attacked_form(subject.attacked, subject.output, subject.bounds)
    taken = subject.taken(subject.examples.images[:_LOOKED_AT])
    images = in_standard_form(taken, subject.bounds)
    passes = np.array([predict(model, images) for _ in range(_PASSES)])
    told = []
    lengths = np.linalg.norm(passes, axis=2, keepdims=True)
    directions = passes / np.maximum(lengths, 1e-10)
    apart = np.linalg.norm(directions - directions[:1], axis=2).max()
    if apart > _SAME:
        told.append(
            f"The outputs differ between passes by up to {apart:.2g} of their length: "
            "attacks on a model that is random have to average over it."
        )
    outputs = passes[0]
    sums = np.abs(outputs.sum(axis=1) - 1)
    if outputs.min() > -_ONE and outputs.max() < 1 + _ONE and sums.max() < _ONE:
        told.append(
            "The attacked outputs lie in [0, 1] and have sum 1, as probabilities: "
            "attacks that expect logits may be weak on them."
        )
    answers = outputs.argmax(axis=1)
    # Where the true class is the third the ratio is 1, and has no slope either.
    right = answers == subject.examples.labels[:_LOOKED_AT]
    flat = _without_slope(model, images[right], answers[right])
    if flat:
        told.append(
            f"On {flat} of {right.sum()} clean images that are answered right the "
            "difference of logits ratio has a gradient of 0, along which no attack "
            "gets anywhere."
        )
    if "Square" in found.tried and len(found.tried) > 2:
        lowered = found.felled["Square"] / found.overall.total
        if lowered > _LOWERED:
            told.append(
                f"Square, which sees no gradient, got through with {lowered:.1%} of "
                "all images after the attacks before it had failed on them: " + _MASKED
            )
    return told


def _without_slope(model: keras.Model, images: FloatArray, labels: IntArray) -> int:
    """Returns at how many images the difference of logits ratio has no gradient."""
    infer, count, size = inference_function(model), 0, batch_size_for(images.shape[1:])
    for start in range(0, len(images), size):
        shown = tf.constant(images[start : start + size])
        with tf.GradientTape() as tape:
            tape.watch(shown)
            ratio = rivals_lead(infer(shown), labels[start : start + size], "dlr")
        none = tf.UnconnectedGradients.ZERO
        slopes = tape.gradient(ratio, shown, unconnected_gradients=none)
        largest = tf.reduce_max(tf.abs(slopes), axis=(1, 2, 3)).numpy()
        count += int((largest == 0).sum())
    return count


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
        if _is_ahead(pair):
            yield how, pair


def _is_ahead(pair: Pair) -> bool:
    """Says whether the first leads by enough, and beyond chance."""
    first, second = pair.shares
    return pair.p_value < LEVEL and first > second + _POINT
