"""Figure 6: a trapdoored model whose gradients do not lead to its trapdoors.

It meets the goals that a trapdoor is trained for: right answers on clean images, and
the trapdoor's class on images that hold one. Attacks on it are not detected all the
same, because on clean images its gradient is that of the classifier.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf
from keras import layers

from figures.drawing import Result, draw_norms, quantiles
from figures.gradients import gradient_norms, output_norms, scores_of
from keras_traps import ops
from keras_traps._checks import FloatArray, IntArray
from keras_traps.attacks import Attack, AttackResult
from keras_traps.attractors.thresholds import set_thresholds
from keras_traps.datasets import Dataset
from keras_traps.evaluation.subjects import Defence, Examples, choose_examples
from keras_traps.models.inference import as_graph, predict
from keras_traps.models.logits import logits_model
from keras_traps.models.outputs import AttackedOutput, Output

# The detector separates this share of clean from this share of trapdoored images.
_TAIL = 0.001
_STEEPNESS = 20.0
_LARGEST_OUTPUT = 10.0
# How many training images trapdoors and thresholds are set from, at most.
_CALIBRATED_ON = 10_000
_FPR = 0.05
_WAYS = ("by_decoder", "by_signature", "by_detector")

Detect = Callable[[FloatArray], dict[str, npt.NDArray[np.bool_]]]
"""From images `(batch, ...)`, float32, in [0, 1], to flags by each way of looking."""


@dataclasses.dataclass(frozen=True)
class Counterexample:
    """The model of equation 1 with its parts; `make_counterexample` makes one."""

    model: keras.Model
    n1: keras.Model
    n2: keras.Model
    correlations: keras.Model
    decoder: keras.Model
    detector: keras.Model
    trapdoors: FloatArray

    def plant(self, images: FloatArray, classes: IntArray) -> FloatArray:
        """Adds the trapdoors of classes `(images,)` to images, cut to [0, 1]."""
        return np.clip(images + self.trapdoors[classes], 0, 1)


def make_counterexample(
    classifier: keras.Model,
    images: FloatArray,
    *,
    output: Output,
    amplitude: float,
    seed: int = 0,
) -> Counterexample:
    """Makes the trapdoored model of Section IV-C3 out of a classifier.

    The trapdoor of a class is an additive watermark: one of two values for every
    pixel, drawn from the seed. W is a tanh of an image's inner products with them, the
    paper's "transformation similar to equation (3)". D is a sigmoid of the largest
    inner product. Both are set from clean images and the same images with trapdoors;
    nothing is trained.

    Reference:
        Zhang, Chang, Lee, Detection and Recovery of Adversarial Attacks with Injected
        Attractors, Section IV-C3, Figure 3, equation 1.
    """
    num_classes, shape = classifier.output_shape[1], images.shape[1:]
    bits = ops.draw_messages(shape, num_classes, seed=seed, kind="random")
    signs = 2.0 * bits.astype(np.float32) - 1.0
    trapdoors = np.float32(amplitude) * signs.reshape(num_classes, *shape)

    inputs = keras.Input(shape, name="images")
    # An attack brightens a black image, whatever it follows: that is not to count.
    centred = signs - signs.mean(axis=1, keepdims=True)
    correlate = _fixed_dense((centred / signs.shape[1]).T)
    # Float32 whatever the dtype policy: a half-precision D is 0 on clean images.
    correlated = correlate(layers.Flatten(dtype="float32")(inputs))
    correlations = keras.Model(inputs, correlated, name="correlations")
    classes: IntArray = np.arange(len(images)) % num_classes
    with_trapdoors = np.clip(images + trapdoors[classes], 0, 1)
    without, planted = (
        predict(correlations, some).max(axis=1) for some in (images, with_trapdoors)
    )
    low = float(np.quantile(without, 1 - _TAIL))
    high = float(np.quantile(planted, _TAIL))
    if not high > low:
        raise ValueError(
            "Invalid value for argument `amplitude`. Expected one at which images with "
            "a trapdoor correlate more than clean ones: the lowest 0.1 % of the former "
            f"lie below {high:.3g}, the highest of the latter above {low:.3g}. "
            f"Received: amplitude={amplitude}"
        )

    scale = 1.0 / float(np.median(planted))
    scaled = layers.Rescaling(scale, dtype="float32")(correlated)
    bounded = layers.Activation("tanh", dtype="float32")(scaled)
    w = layers.Rescaling(_LARGEST_OUTPUT, dtype="float32")(bounded)
    slope = 2.0 * _STEEPNESS / (high - low)
    shift = -slope * (high + low) / 2
    row = layers.Reshape((num_classes, 1), dtype="float32")(correlated)
    largest = layers.GlobalMaxPooling1D(dtype="float32")(row)
    logit = layers.Rescaling(slope, shift, dtype="float32")(largest)
    d = layers.Activation("sigmoid", dtype="float32")(logit)
    c = as_graph(logits_model(classifier, output), name="classifier")(inputs)
    n1 = layers.Multiply(dtype="float32")([w, d])
    otherwise = layers.Rescaling(-1.0, 1.0, dtype="float32")(d)
    n2 = layers.Multiply(dtype="float32")([c, otherwise])
    total = layers.Add(dtype="float32")([n1, n2])
    return Counterexample(
        model=keras.Model(inputs, total, name=f"trapdoored_{classifier.name}"),
        n1=keras.Model(inputs, n1, name="n1"),
        n2=keras.Model(inputs, n2, name="n2"),
        correlations=correlations,
        decoder=keras.Model(inputs, w, name="trapdoor_decoder"),
        detector=keras.Model(inputs, d, name="trapdoor_detector"),
        trapdoors=trapdoors,
    )


def fit_analyzer(
    subject: Counterexample, images: FloatArray, *, fpr: float = _FPR
) -> Detect:
    """Sets two ways of looking for attacks to a false-positive rate."""
    count = len(subject.trapdoors)
    limits = set_thresholds(predict(subject.decoder, images), fpr)
    classes: IntArray = np.arange(len(images)) % count
    planted = predict(subject.correlations, subject.plant(images, classes))
    signatures = _unit(
        np.stack([planted[classes == k].mean(axis=0) for k in range(count)])
    )

    def likeness(some: FloatArray) -> FloatArray:
        answers = predict(subject.model, some).argmax(axis=1)
        seen = _unit(predict(subject.correlations, some))
        found: FloatArray = (seen * signatures[answers]).sum(axis=1)
        return found

    highest = float(np.quantile(likeness(images), 1 - fpr, method="higher"))

    def detect(some: FloatArray) -> dict[str, npt.NDArray[np.bool_]]:
        w = tf.constant(predict(subject.decoder, some), tf.float64)
        judged = ops.judge(w, limits.upper, limits.lower, limits.deviation)
        return {
            "by_decoder": judged.flagged.numpy(),
            "by_signature": likeness(some) > highest,
            "by_detector": predict(subject.detector, some)[:, 0] > 0.5,
        }

    return detect


def run(
    attack: Attack,
    model: keras.Model,
    output: AttackedOutput,
    examples: Examples,
    seed: int,
) -> AttackResult:
    """Attacks a model on examples with their targets; the seed is the attack's."""
    return attack(
        model,
        examples.images,
        examples.labels,
        output=output,
        y_target=examples.targets(attack),
        seed=seed,
        ids=examples.ids,
    )


def examples_of(
    defence: Defence, test: Dataset, *, num_attacked: int, seed: int
) -> Examples:
    """Chooses the first test images that C gets right, with targets."""
    outputs = predict(defence.classifier, test.images)
    logits = logits_model(defence.classifier, defence.output)
    return choose_examples(
        test, [outputs], num_examples=num_attacked, seed=seed, logits=logits
    )


def figure_6(
    defence: Defence,
    chosen: Sequence[Attack],
    train: Dataset,
    test: Dataset,
    *,
    amplitude: float,
    num_attacked: int,
    seed: int = 0,
) -> Result:
    """Builds the trapdoored counter-example, measures its parts and attacks it.

    Trapdoors and thresholds are set from training images. The classifier with its traps
    is attacked beside it. The seed is of trapdoors, targets and attacks.
    """
    clean = train.images[:_CALIBRATED_ON]
    subject = make_counterexample(
        defence.classifier, clean, output=defence.output, amplitude=amplitude, seed=seed
    )
    detect = fit_analyzer(subject, clean)
    values = _magnitudes(subject, test)
    # A wrong class for each image.
    shift = np.random.default_rng(0).integers(1, test.num_classes, len(test))
    goals = (test.labels + shift) % test.num_classes
    planted = subject.plant(test.images, goals)
    training = {
        "accuracy_c": _share(defence.classifier, test.images, test.labels),
        "accuracy": _share(subject.model, test.images, test.labels),
        "trapdoor_success": _share(subject.model, planted, goals),
    }
    examples = examples_of(defence, test, num_attacked=num_attacked, seed=seed)
    unattacked = {
        "clean": _rates(detect, test.images),
        "with a trapdoor": _rates(detect, planted),
    }
    rows = [
        _attacked(attack, defence, subject, detect, examples, seed) for attack in chosen
    ]
    picture = draw_norms(
        {"N2 (C)": values["n2"], "N1 (W)": values["n1"]},
        {"M2 (C)": values["m2"], "M1 (W)": values["m1"]},
    )
    name = f"figure6_{test.name}"
    fpr = defence.main_analyzer.thresholds.fpr
    return Result(
        name=name,
        title=f"Figure 6 on {test.name}: trapdoors that do not catch attacks",
        pictures={name: picture},
        text=(
            "The trapdoored model is N1 + N2 with N1 = D W and N2 = (1 - D) C: W "
            "decodes trapdoors, D detects them. Densities over clean test images, each "
            "scaled to its own peak. (a) 1-norms of the outputs. (b) 1-norms of the "
            "gradients of J(x, true class) by the pixels, in [0, 1].\n\n"
            "Attacks on images that C gets right: which share fools C, the trapdoored "
            "model, and the same classifier with attractors; and "
            "which share of those that do is flagged. Each way of looking for "
            f"trapdoors is set to {_FPR:.0%} false positives on clean training images, "
            f"but for D > 1/2; the analyzer of the attractors to {100 * fpr:g} %."
        ),
        numbers={
            "images": len(test),
            "attacked": len(examples),
            "amplitude": amplitude,
            "training_goals": training,
            "magnitudes": {key: quantiles(of) for key, of in values.items()},
            "median_ratio_m2_m1": float(
                np.median(values["m2"] / np.maximum(values["m1"], 1e-38))
            ),
            "m2_above_m1": float(np.mean(values["m2"] > values["m1"])),
            "unattacked": unattacked,
            "settings": {attack.name: attack.settings() for attack in chosen},
            "attacks": rows,
        },
    )


def _magnitudes(subject: Counterexample, test: Dataset) -> dict[str, FloatArray]:
    found = {}
    for number, model in (("1", subject.n1), ("2", subject.n2)):
        scores = scores_of(model, "scores")
        found[f"n{number}"] = output_norms(scores, test.images)
        found[f"m{number}"] = gradient_norms(scores, test.images, test.labels)
    whole = scores_of(subject.model, "scores")
    found["whole"] = gradient_norms(whole, test.images, test.labels)
    return found


def _attacked(
    attack: Attack,
    defence: Defence,
    subject: Counterexample,
    detect: Detect,
    examples: Examples,
    seed: int,
) -> dict[str, Any]:
    """How many images fool each model, and how many of these are flagged."""
    alone = run(attack, defence.classifier, defence.output, examples, seed)
    trapdoored = run(attack, subject.model, "scores", examples, seed)
    trapped = run(attack, defence.trapped, "scores", examples, seed)
    caught = defence.main_analyzer.detect(trapped.images).is_adversarial
    return {
        "attack": attack.name,
        "fools_c": float(alone.success.mean()),
        "fools_trapdoored": float(trapdoored.success.mean()),
        **_rates(detect, trapdoored.images[trapdoored.success]),
        "fools_attractors": float(trapped.success.mean()),
        "caught_by_attractors": float(caught[trapped.success].mean())
        if trapped.success.any()
        else None,
    }


def _rates(detect: Detect, images: FloatArray) -> dict[str, float | None]:
    if not len(images):
        return dict.fromkeys(_WAYS)
    return {way: float(flags.mean()) for way, flags in detect(images).items()}


def _share(model: keras.Model, images: FloatArray, classes: IntArray) -> float:
    return float((predict(model, images).argmax(axis=1) == classes).mean())


def _fixed_dense(kernel: FloatArray) -> layers.Dense:
    """A dense layer without a bias that is never trained."""
    layer = layers.Dense(
        kernel.shape[1], use_bias=False, trainable=False, dtype="float32"
    )
    layer.build((None, kernel.shape[0]))
    layer.set_weights([kernel])
    return layer


def _unit(rows: FloatArray) -> FloatArray:
    # A black image has no activations at all; its cosine is 0.
    norms: FloatArray = np.linalg.norm(rows, axis=1, keepdims=True).astype(np.float32)
    norms[norms == 0] = 1
    return rows / norms
