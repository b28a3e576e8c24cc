"""Figure 5: who is louder, the classifier or the decoder, in output and gradient."""

import time

import numpy as np
import tensorflow as tf
from matplotlib.figure import Figure

from keras_traps.attractors import (
    decoder_of,
    gradient_norms,
    output_norms,
    scores_of,
)
from keras_traps.attractors.analysis.scores import Scores
from keras_traps.datasets import Dataset
from keras_traps.evaluation.defence import Defence
from keras_traps.evaluation.figures.curves import Values, draw_panel
from keras_traps.evaluation.figures.study import (
    Goal,
    Study,
    picture,
    quantiles,
    text_table,
)
from keras_traps.evaluation.report.blocks import Paragraph
from keras_traps.evaluation.report.canvas import Scheme, to_png

_OUTPUTS = {
    "classifier": "‖C(x)‖₁, logits",
    "decoder": "‖W(x)‖₁",
    "decoder_apart": "‖W(x) - its mean over classes‖₁",
}
_GRADIENTS = {
    "classifier": "‖∇J of C‖₁",
    "decoder": "‖∇J of W‖₁",
    "trapped": "‖∇J of M‖₁",
}


def figure_5(defence: Defence, images: Dataset) -> Study:
    """Compares outputs and gradients of C and of W on clean images.

    Args:
        defence: The classifier with its traps.
        images: Clean images with their classes.

    Returns:
        Figure 5 of the attractor paper.
    """
    started = time.perf_counter()
    classifier = scores_of(defence.classifier, defence.output)
    decoder = decoder_of(defence.trapped)
    trapped = scores_of(defence.trapped, "scores")
    functions: dict[str, Scores] = {
        "classifier": classifier,
        "decoder": decoder,
        "decoder_apart": lambda x: _apart(decoder(x)),
    }
    outputs = {
        name: output_norms(scores, images.images) for name, scores in functions.items()
    }
    gradients = {
        name: gradient_norms(scores, images.images, images.labels)
        for name, scores in (
            ("classifier", classifier),
            ("decoder", decoder),
            ("trapped", trapped),
        )
    }
    seconds = time.perf_counter() - started
    numbers = {
        "images": len(images),
        "output": {name: quantiles(values) for name, values in outputs.items()},
        "gradient": {name: quantiles(values) for name, values in gradients.items()},
        "output_larger_in_c": _share_above(outputs["classifier"], outputs["decoder"]),
        "gradient_larger_in_w": _share_above(
            gradients["decoder"], gradients["classifier"]
        ),
        "seconds": round(seconds, 1),
    }

    def draw(scheme: Scheme) -> bytes:
        return _draw(outputs, gradients, scheme)

    caption = (
        "Kernel density estimates over clean images, each scaled to its own peak; the "
        "axes are logarithmic. (a) The 1-norm of the output of the classifier C, as "
        "logits, and of the decoder W. (b) The 1-norm of the gradient of the loss "
        "J(x, true class) with respect to the pixels, in [0, 1]."
    )
    medians = {name: float(np.median(values)) for name, values in {**gradients}.items()}
    loud = [float(np.median(outputs[name])) for name in ("classifier", "decoder")]
    return Study(
        name=f"figure5_{images.name}",
        title=f"Figure 5 on {images.name}: outputs and gradients of C and W",
        subtitle=f"{len(images):,} clean test images, {seconds:.0f} s",
        blocks=(
            picture(
                f"figure5_{images.name}",
                "Densities of output and gradient norms of C and W",
                caption,
                draw,
            ),
            text_table(
                "Median and the range from the 5 % to the 95 % quantile",
                ["", "Median", "5 %", "95 %"],
                [
                    (label, *_cells(values[key]))
                    for labels, values in (
                        (_OUTPUTS, outputs),
                        (_GRADIENTS, gradients),
                    )
                    for key, label in labels.items()
                ],
            ),
            Paragraph(
                "The paper draws a density of ‖C(x)‖₁. That of soft labels is the "
                "constant 1, so its figure shows logits, and so does this one. What "
                "enters the sum here are soft labels, of norm 1. W's norm is larger, "
                "but most of it is alike for every class and changes no answer; the "
                "part that tells classes apart is the third row."
            ),
            Paragraph(
                "On clean images the cross-entropy of C has nearly no gradient, "
                "because C is sure. That is part of why W's gradient is larger; an "
                "attack with a loss that does not saturate follows more of C's."
            ),
        ),
        numbers=numbers,
        goals=(
            Goal(
                "Median 1-norm of the output",
                "C's above W's",
                f"{loud[0]:.3g} and {loud[1]:.3g}",
                loud[0] > loud[1],
            ),
            Goal(
                "Median 1-norm of the gradient",
                "W's above C's",
                f"{medians['decoder']:.3g} and {medians['classifier']:.3g}",
                medians["decoder"] > medians["classifier"],
            ),
        ),
    )


def _apart(w: tf.Tensor) -> tf.Tensor:
    return w - tf.reduce_mean(w, axis=-1, keepdims=True)


def _share_above(first: Values, second: Values) -> float:
    return float(np.mean(first > second))


def _cells(values: Values) -> list[str]:
    return [f"{value:.3g}" for value in quantiles(values).values()]


def _draw(
    outputs: dict[str, Values], gradients: dict[str, Values], scheme: Scheme
) -> bytes:
    figure = Figure(figsize=(9.6, 3.3), layout="constrained", facecolor=scheme.ground)
    left, right = figure.subplots(1, 2)
    labels = {"classifier": "C", "decoder": "W"}
    draw_panel(
        left,
        {label: outputs[name] for name, label in labels.items()},
        scheme,
        "(a) 1-norm of the output",
        logarithmic=True,
    )
    draw_panel(
        right,
        {label: gradients[name] for name, label in labels.items()},
        scheme,
        "(b) 1-norm of the gradient of J, per unit of pixel value",
        logarithmic=True,
    )
    return to_png(figure)
