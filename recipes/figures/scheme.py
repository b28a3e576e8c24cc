"""Figure 2: what the attacker and the analyzer see, for one image and its attack."""

import numpy as np
import tensorflow as tf
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from keras_traps._checks import FloatArray
from keras_traps.attacks import Attack
from keras_traps.attractors import both_answers, decoder_of
from keras_traps.datasets import Dataset
from keras_traps.evaluation.defence import Defence
from keras_traps.evaluation.figures.study import Study, picture
from keras_traps.evaluation.report.blocks import Paragraph
from keras_traps.evaluation.report.canvas import Scheme, style_axes, to_png
from keras_traps.evaluation.report.formatting import nominal

_HEADS = ("x", "C(x), soft labels", "W(x), correlations", "M(x), what is seen")


def figure_2(defence: Defence, test: Dataset, attack: Attack) -> Study:
    """Shows C, W and M on one image, before and after an attack on M.

    Args:
        defence: The classifier with its traps and an analyzer.
        test: Clean images; the first that C gets right and M, attacked, gets wrong is
            taken, or the first.
        attack: An untargeted attack.

    Returns:
        Figure 2 of the attractor paper.
    """
    few = test.take(min(50, len(test)))
    result = attack(defence.trapped, few.images, few.labels, output="scores")
    scores = both_answers(defence.trapped)
    right = scores(tf.constant(few.images)).numpy()[:, 0].argmax(axis=1) == few.labels
    index = int(np.argmax(right & result.success))
    images = np.stack([few.images[index], result.images[index]])
    both = scores(tf.constant(images)).numpy()
    w = decoder_of(defence.trapped)(tf.constant(images)).numpy()
    analyzer = defence.main_analyzer
    verdict = analyzer.detect(images)
    bounds = (analyzer.thresholds.lower, analyzer.thresholds.upper)
    label = few.class_names[few.labels[index]]
    answers = [few.class_names[k] for k in both[:, 1].argmax(axis=1)]
    words = [
        f"clean: M answers {answers[0]}",
        f"after {attack.name}: M answers {answers[1]}",
    ]
    words = [
        word
        + (
            f"; flagged, recovered as {few.class_names[verdict.recovered[i]]}"
            if verdict.is_adversarial[i]
            else "; not flagged"
        )
        for i, word in enumerate(words)
    ]

    def draw(scheme: Scheme) -> bytes:
        return _draw(images, both, w, bounds, words, int(few.labels[index]), scheme)

    name = f"figure2_{test.name}"
    return Study(
        name=name,
        title=f"Figure 2 on {test.name}: what the attacker and the analyzer see",
        subtitle=f"One test image, a {label}, and {attack.name} on M",
        blocks=(
            picture(
                name,
                "Bars of C, W and M on a clean image and on the attacked one",
                "An image enters the classifier C and the decoder W; their sum, scaled "
                "to norm 1, is M, which is all that an attacker sees. The analyzer "
                "looks at W alone. Upper row: a clean image. Lower row: the same after "
                f"{attack.name} on M. The bar of the true class is filled. Dotted "
                "lines are the analyzer's thresholds L and U at "
                f"{nominal(analyzer.thresholds.fpr)} false positives; "
                "its third condition, the spread of w, is not drawn. The attack has "
                "pushed the true class's correlation down, and that gives it away.",
                draw,
            ),
            Paragraph(
                "The classifier's own opinion of the attacked image is in the second "
                "column: most of what changed M's answer is W's doing."
            ),
        ),
        numbers={
            "label": label,
            "answers": answers,
            "flagged": [bool(flag) for flag in verdict.is_adversarial],
            "recovered": few.class_names[verdict.recovered[1]],
            "c": both[:, 0].tolist(),
            "w": w.tolist(),
            "m": both[:, 1].tolist(),
        },
    )


def _draw(
    images: FloatArray,
    both: FloatArray,
    w: FloatArray,
    bounds: tuple[float, float],
    words: list[str],
    label: int,
    scheme: Scheme,
) -> bytes:
    figure = Figure(figsize=(9.6, 4.3), layout="constrained", facecolor=scheme.ground)
    rows = figure.subfigures(2, 1, squeeze=False, hspace=0.04)
    for i, part in enumerate(rows[:, 0]):
        part.set_facecolor(scheme.ground)
        part.suptitle(words[i], color=scheme.ink, fontsize=10.5, x=0.01, ha="left")
        shown, c, correlations, m = part.subplots(1, 4, width_ratios=(0.8, 1, 1, 1))
        shown.imshow(np.squeeze(images[i]), cmap="gray", vmin=0, vmax=1)
        shown.set_axis_off()
        columns = (both[:, 0], w, both[:, 1])
        for axes, values, hue in zip(
            (c, correlations, m), columns, scheme.hues, strict=False
        ):
            _bars(axes, values[i], label, hue, scheme)
            spread = float(values.max() - min(values.min(), 0))
            low = min(float(values.min()), 0) - 0.06 * spread
            axes.set_ylim(low if low < -0.07 * spread else 0, values.max() * 1.12)
        for bound in bounds:
            correlations.axhline(bound, color=scheme.ink, linewidth=1, linestyle=":")
        if i == 0:
            for axes, head in zip((shown, c, correlations, m), _HEADS, strict=True):
                axes.set_title(head, color=scheme.ink, fontsize=9.5)
        else:
            for axes in (c, correlations, m):
                axes.set_xlabel("Class", fontsize=9)
    return to_png(figure)


def _bars(axes: Axes, values: FloatArray, label: int, hue: str, scheme: Scheme) -> None:
    style_axes(axes, scheme)
    places = np.arange(len(values))
    filled = [hue if k == label else "none" for k in places]
    axes.bar(places, values, color=filled, edgecolor=hue, linewidth=1.2, width=0.75)
    axes.axhline(0, color=scheme.muted, linewidth=0.8)
    axes.set_xticks(places)
