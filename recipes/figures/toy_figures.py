"""The luring paper's Figures 2 and 3: what P does to three classes of 12 by 12."""

import dataclasses
from collections.abc import Sequence
from typing import Any, ClassVar

import keras
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure

from keras_traps._checks import FloatArray, IntArray
from keras_traps.attacks.base import AttackResult, Kind, TargetRule
from keras_traps.attacks.iterative import PGD
from keras_traps.evaluation.figures.study import Study, picture, text_table
from keras_traps.evaluation.report.blocks import Paragraph
from keras_traps.evaluation.report.canvas import Scheme, to_png
from keras_traps.luring.classifier import LuredClassifier
from keras_traps.luring.directions import opposite_directions, slopes
from keras_traps.luring.toy import CLASSES, ZONES, ToyImages
from keras_traps.models.inference import predict

# A slope of less than this share of the image's steepest is not counted as used.
_NEGLIGIBLE = 0.01


@dataclasses.dataclass(frozen=True, kw_only=True)
class TargetedPGD(PGD):
    """PGD towards a given class."""

    name: ClassVar[str] = "TPGD"
    kind: ClassVar[Kind] = "TA"
    target_rule: ClassVar[TargetRule] = "random"


def luring_toy(
    model: LuredClassifier,
    test: ToyImages,
    *,
    eps: Sequence[float],
    nb_iter: int = 40,
    seed: int = 0,
) -> Study:
    """Attacks M and M∘P, counts directions, and draws the two figures.

    Args:
        model: M∘P, trained.
        test: Clean images.
        eps: The radii of PGD; the figure shows the last.
        nb_iter: Its steps, of 0.02 each or of the radius if that is smaller. Defaults
            to `40`.
        seed: Of its random starts. Defaults to `0`.

    Returns:
        Figures 2 and 3 of the luring paper.
    """
    target = model.target
    answers = [predict(m, test.images).argmax(axis=1) for m in (target, model)]
    own = np.stack([_own_slopes(m, test) for m in (target, model)])
    rows: list[dict[str, Any]] = []
    shown: dict[str, AttackResult] = {}
    for radius in eps:
        settings: dict[str, Any] = {
            "eps": radius,
            "eps_iter": min(0.02, radius),
            "nb_iter": nb_iter,
        }
        for attack in (PGD(**settings), TargetedPGD(**settings)):
            goals = (test.labels + 1) % CLASSES if attack.targeted else None
            for name, attacked in (("M", target), ("M∘P", model)):
                found = attack(
                    attacked, test.images, test.labels, y_target=goals, seed=seed
                )
                shown[f"{attack.name} {name}"] = found
                rows.append(
                    {
                        "attack": attack.name,
                        "eps": radius,
                        "on": name,
                        **_counts(found, target, test.labels, goals),
                    }
                )
    numbers = {
        "accuracy": {
            name: float((found == test.labels).mean())
            for name, found in zip(("M", "M∘P"), answers, strict=True)
        },
        **_directions(model, test, own),
        "attacks": rows,
    }
    mapped = predict(model.to_lure_model(), test.images)
    return Study(
        name="luring_toy",
        title="Luring on three classes that one can see through",
        subtitle=f"{len(test.images)} images of 12 by 12, the paper's Section 3.3",
        blocks=(
            picture(
                "luring_figure2",
                "Rows of 12 by 12 images: zones, an example, P of it, and slopes",
                "By class: where it has its pixels (white), where the others have "
                "theirs (black), and the neutral zone (grey); an image; what P makes "
                "of it; and how the class's logit changes with each pixel, blue for "
                "rising and orange for falling, of M and of M∘P, each scaled to its "
                "own largest.",
                lambda scheme: _draw_zones(test, mapped, own, scheme),
            ),
            picture(
                "luring_figure3",
                "A clean image, two attacked ones with what changed, and P of the last",
                "Above, untargeted PGD; below, PGD towards the next class: the clean "
                "image, an adversarial one made on M and what it changed, one made on "
                "M∘P and what it changed, and what P makes of that.",
                lambda scheme: _draw_attacks(model, test, shown, scheme),
            ),
            text_table(
                "PGD: images that get fooled, and what M says of those",
                ("Attack", "Made on", "ε", "Succeeds", "M is right", "M is fooled too"),
                [
                    (
                        row["attack"],
                        row["on"],
                        f"{row['eps']:g}",
                        f"{row['succeeds']} of {len(test.labels)}",
                        str(row["target_right"]),
                        str(row["target_fooled"]),
                    )
                    for row in rows
                ],
                words=2,
            ),
            Paragraph(
                f"Of the {numbers['neutral_pixels']} neutral pixels, to which M is "
                f"blind, {numbers['used_by_augmented_alone']:.0%} move M∘P by more "
                f"than {_NEGLIGIBLE:.0%} of what its steepest pixel does. Of the "
                f"others, {numbers['opposite']:.0%} move a logit of M∘P the other way "
                "than that of M. Clean images are 0 in the neutral zone."
            ),
        ),
        numbers=numbers,
    )


def _own_slopes(model: keras.Model, test: ToyImages) -> FloatArray:
    """By how much each image's own logit rises with each pixel, (images, 12, 12)."""
    slope = slopes(model, "logits")
    by_class = np.stack([slope(test.images, c) for c in range(CLASSES)])
    return by_class[test.labels, np.arange(len(test.labels)), ..., 0]


def _directions(
    model: LuredClassifier, test: ToyImages, own: FloatArray
) -> dict[str, float]:
    neutral = ~ZONES.any(axis=0)
    steep = np.abs(own[1]) > _NEGLIGIBLE * np.abs(own[1]).max(
        axis=(1, 2), keepdims=True
    )
    opposite = opposite_directions(model.target, model, test.images, output="logits")
    return {
        "neutral_pixels": int(neutral.sum()),
        "used_by_augmented_alone": float(steep[:, neutral].mean()),
        "opposite": float(opposite.mean() / (~neutral).sum()),
    }


def _counts(
    found: AttackResult,
    target: keras.Model,
    labels: IntArray,
    goals: IntArray | None,
) -> dict[str, int]:
    said = predict(target, found.images).argmax(axis=1)[found.success]
    right = int((said == labels[found.success]).sum())
    counts = {
        "succeeds": int(found.success.sum()),
        "target_right": right,
        "target_fooled": len(said) - right,
    }
    if goals is not None:
        counts["target_at_goal"] = int((said == goals[found.success]).sum())
    return counts


def _draw_zones(
    test: ToyImages, mapped: FloatArray, own: FloatArray, scheme: Scheme
) -> bytes:
    firsts = [int(np.argmax(test.labels == c)) for c in range(CLASSES)]
    figure = Figure(figsize=(4.6, 7.2), layout="constrained", facecolor=scheme.ground)
    grid = figure.subplots(5, CLASSES)
    heads = ("zone", "example x", "P(x)", "slope of M", "slope of M∘P")
    for c, index in enumerate(firsts):
        zones = 0.5 * np.ones(ZONES.shape[1:]) - 0.5 * ZONES.any(axis=0) + ZONES[c]
        _gray(grid[0, c], zones, scheme)
        _gray(grid[1, c], test.images[index, ..., 0], scheme)
        _gray(grid[2, c], mapped[index, ..., 0], scheme)
        for row in (0, 1):
            _signed(grid[3 + row, c], own[row, index], scheme)
        grid[0, c].set_title(f"class {c + 1}", color=scheme.ink, fontsize=10)
    for row, head in enumerate(heads):
        grid[row, 0].set_ylabel(head, color=scheme.ink, fontsize=10)
    return to_png(figure)


def _draw_attacks(
    model: LuredClassifier,
    test: ToyImages,
    shown: dict[str, AttackResult],
    scheme: Scheme,
) -> bytes:
    figure = Figure(figsize=(10.4, 4.4), layout="constrained", facecolor=scheme.ground)
    grid = figure.subplots(2, 6)
    lure = model.to_lure_model()
    for row, name in enumerate(("PGD", "TPGD")):
        on_target, on_augmented = shown[f"{name} M"], shown[f"{name} M∘P"]
        said = predict(model.target, on_augmented.images).argmax(axis=1)
        # What the paper shows: M keeps its answer, or gives a third one.
        kept = said == test.labels
        third = (said != test.labels) & (said != (test.labels + 1) % CLASSES)
        both = on_target.success & on_augmented.success
        index = _first(both & (third if row else kept), both & kept, both)
        clean = test.images[index]
        columns = (
            clean,
            on_target.images[index],
            on_target.images[index] - clean,
            on_augmented.images[index],
            on_augmented.images[index] - clean,
            predict(lure, on_augmented.images[index][np.newaxis])[0],
        )
        for column, pixels in enumerate(columns):
            draw = _signed if column in (2, 4) else _gray
            draw(grid[row, column], pixels[..., 0], scheme)
            if column in (0, 1, 3):
                words = ", ".join(
                    f"{who}: {1 + int(predict(m, pixels[np.newaxis]).argmax())}"
                    for who, m in (("M", model.target), ("M∘P", model))
                )
                grid[row, column].set_xlabel(words, color=scheme.ink, fontsize=9)
        grid[row, 0].set_ylabel(
            "targeted" if row else "untargeted", color=scheme.ink, fontsize=10
        )
    heads = ("x", "made on M", "change", "made on M∘P", "change", "P of it")
    for column, head in enumerate(heads):
        grid[0, column].set_title(head, color=scheme.ink, fontsize=10)
    return to_png(figure)


def _first(*choices: Any) -> int:
    """The first image of the first choice that has one, else the first of all."""
    return next((int(np.argmax(chosen)) for chosen in choices if chosen.any()), 0)


def _gray(axes: Axes, pixels: FloatArray, scheme: Scheme) -> None:
    axes.imshow(pixels, cmap="gray", vmin=0, vmax=1)
    _frame(axes, scheme)


def _signed(axes: Axes, values: FloatArray, scheme: Scheme) -> None:
    colours = LinearSegmentedColormap.from_list(
        "falls and rises", [scheme.hues[1], scheme.ground, scheme.hues[0]]
    )
    reach = float(np.abs(values).max()) or 1.0
    axes.imshow(values, cmap=colours, vmin=-reach, vmax=reach)
    _frame(axes, scheme)


def _frame(axes: Axes, scheme: Scheme) -> None:
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_color(scheme.muted)
