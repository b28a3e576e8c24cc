"""Figure 5: who is louder, the classifier or the decoder, in output and gradient."""

import numpy as np
import tensorflow as tf

from figures.drawing import Result, draw_norms, quantiles
from figures.gradients import Scores, gradient_norms, output_norms, scores_of
from keras_traps.attractors import decoder_of
from keras_traps.datasets import Dataset
from keras_traps.evaluation.subjects import Defence


def figure_5(defence: Defence, test: Dataset) -> Result:
    """Compares outputs and gradients of C and of W on clean images."""
    classifier = scores_of(defence.classifier, defence.output)
    decoder = decoder_of(defence.trapped)
    loud: dict[str, Scores] = {
        "classifier": classifier,
        "decoder": decoder,
        "decoder_apart": lambda x: _apart(decoder(x)),
    }
    steep: dict[str, Scores] = {
        "classifier": classifier,
        "decoder": decoder,
        "trapped": scores_of(defence.trapped, "scores"),
    }
    outputs = {name: output_norms(of, test.images) for name, of in loud.items()}
    gradients = {
        name: gradient_norms(of, test.images, test.labels) for name, of in steep.items()
    }
    picture = draw_norms(
        *({"C": of["classifier"], "W": of["decoder"]} for of in (outputs, gradients))
    )
    name = f"figure5_{test.name}"
    return Result(
        name=name,
        title=f"Figure 5 on {test.name}: outputs and gradients of C and W",
        pictures={name: picture},
        text=(
            "Kernel density estimates over clean test images, each scaled to its own "
            "peak; the axes are logarithmic. (a) The 1-norm of the "
            "output of the classifier C, as logits, and of the decoder W. (b) The "
            "1-norm of the gradient of the loss J(x, true class) with respect to the "
            "pixels, in [0, 1].\n\n"
            "The paper draws a density of ‖C(x)‖₁. That of soft labels is the constant "
            "1, so its figure shows logits, and so does this one. Most of W is alike "
            "for every class and changes no answer; `decoder_apart` is W less its mean "
            "over the classes. On clean images the cross-entropy of C has nearly no "
            "gradient, because C is sure; an attack with a loss that does not saturate "
            "follows more of C's."
        ),
        numbers={
            "images": len(test),
            "output": {key: quantiles(of) for key, of in outputs.items()},
            "gradient": {key: quantiles(of) for key, of in gradients.items()},
            "output_larger_in_c": float(
                np.mean(outputs["classifier"] > outputs["decoder"])
            ),
            "gradient_larger_in_w": float(
                np.mean(gradients["decoder"] > gradients["classifier"])
            ),
        },
    )


def _apart(w: tf.Tensor) -> tf.Tensor:
    return w - tf.reduce_mean(w, axis=-1, keepdims=True)
