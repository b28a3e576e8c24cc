"""Figure 6: a trapdoored model whose gradients do not lead to its trapdoors.

It answers clean images right and images with a trapdoor by the trapdoor's class.
Attacks on it are not detected all the same: on clean images its gradient is that of C.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import keras
import numpy as np
import numpy.typing as npt
from keras import layers

from figures.drawing import Result, draw_norms, quantiles
from figures.gradients import gradient_norms, output_norms, scores_of
from keras_traps import ops
from keras_traps._checks import FloatArray, IntArray
from keras_traps.attacks import Attack, AttackResult
from keras_traps.attractors.thresholds import set_thresholds
from keras_traps.commands.trapping import accuracy
from keras_traps.datasets import Dataset
from keras_traps.detectors import Trapdoor
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
_CORRELATIONS = "correlations"

Detect = Callable[[FloatArray], dict[str, npt.NDArray[np.bool_]]]
"""From images `(batch, ...)`, float32, in [0, 1], to flags by each way of looking."""


class Counterexample(NamedTuple):
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
    """Makes the trapdoored model of Section IV-C3, equation 1, without training."""
    num_classes, shape = classifier.output_shape[1], images.shape[1:]
    code = ops.draw_code(
        shape, num_classes, key=ops.Key.from_seed(seed), messages="random"
    )
    signs = 2.0 * code.bits().astype(np.float32) - 1.0
    trapdoors = np.float32(amplitude) * signs.reshape(num_classes, *shape)

    inputs = keras.Input(shape, name="images")
    # Float32 whatever the dtype policy: a half-precision D is 0 on clean images.
    correlate = layers.Dense(
        num_classes,
        use_bias=False,
        trainable=False,
        dtype="float32",
        name=_CORRELATIONS,
    )
    correlated = correlate(layers.Flatten(dtype="float32")(inputs))
    # An attack brightens a black image, whatever it follows: that is not to count.
    centred = signs - signs.mean(axis=1, keepdims=True)
    correlate.set_weights([(centred / signs.shape[1]).T])
    correlations = keras.Model(inputs, correlated)
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
            f"a trapdoor correlate more ({high:.3g}) than clean ones ({low:.3g}). "
            f"Received: amplitude={amplitude}"
        )

    scale = layers.Rescaling(1.0 / float(np.median(planted)), dtype="float32")
    bounded = layers.Activation("tanh", dtype="float32")(scale(correlated))
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
        n1=keras.Model(inputs, n1),
        n2=keras.Model(inputs, n2),
        correlations=keras.Model(inputs, correlated),
        decoder=keras.Model(inputs, w),
        detector=keras.Model(inputs, d),
        trapdoors=trapdoors,
    )


def fit_analyzer(
    subject: Counterexample, images: FloatArray, *, fpr: float = _FPR
) -> Detect:
    """Sets two ways of looking for attacks to a false-positive rate."""
    count = len(subject.trapdoors)

    def evidence(some: FloatArray) -> FloatArray:
        return np.stack(
            [predict(subject.decoder, some), predict(subject.model, some)], 1
        )

    limits = set_thresholds(evidence(images), fpr)
    classes: IntArray = np.arange(len(images)) % count
    by_signature = Trapdoor(subject.model, output="logits", layer=_CORRELATIONS)
    by_signature.fit(subject.plant(images, classes), classes)
    by_signature.fit_threshold(images, fpr)
    return lambda some: {
        "by_decoder": limits.judge(evidence(some)).flagged.numpy(),
        "by_signature": by_signature.detect(some).is_adversarial,
        "by_detector": predict(subject.detector, some)[:, 0] > 0.5,
    }


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
    """Attacks the trapdoored counter-example, and the classifier with its traps."""
    clean = train.images[:_CALIBRATED_ON]
    subject = make_counterexample(
        defence.classifier, clean, output=defence.output, amplitude=amplitude, seed=seed
    )
    detect = fit_analyzer(subject, clean)
    images, labels = test.images, test.labels
    shift = np.random.default_rng(0).integers(1, test.num_classes, len(test))
    goals = (labels + shift) % test.num_classes
    planted = subject.plant(images, goals)
    examples = examples_of(defence, test, num_attacked=num_attacked, seed=seed)
    n1, n2, whole = (
        scores_of(model, "scores") for model in (subject.n1, subject.n2, subject.model)
    )
    values = {
        "n1": output_norms(n1, images),
        "m1": gradient_norms(n1, images, labels),
        "n2": output_norms(n2, images),
        "m2": gradient_norms(n2, images, labels),
        "whole": gradient_norms(whole, images, labels),
    }
    attacked: tuple[tuple[keras.Model, AttackedOutput], ...] = (
        (defence.classifier, defence.output),
        (subject.model, "scores"),
        (defence.trapped, "scores"),
    )
    rows = []
    for attack in chosen:
        alone, trapdoored, trapped = (
            run(attack, *one, examples, seed) for one in attacked
        )
        caught = defence.main_analyzer.detect(trapped.images).is_adversarial
        met = caught[trapped.success]
        rows.append(
            {
                "attack": attack.name,
                "fools_c": alone.success.mean(),
                "fools_trapdoored": trapdoored.success.mean(),
                **_rates(detect, trapdoored.images[trapdoored.success]),
                "fools_attractors": trapped.success.mean(),
                "caught_by_attractors": met.mean() if len(met) else None,
            }
        )
    fpr = defence.main_analyzer.thresholds.fpr
    return Result(
        figure="figure6",
        dataset=test.name,
        title=f"Figure 6 on {test.name}: trapdoors that do not catch attacks",
        pictures={
            "figure6": draw_norms(
                {"N2 (C)": values["n2"], "N1 (W)": values["n1"]},
                {"M2 (C)": values["m2"], "M1 (W)": values["m1"]},
            )
        },
        numbers={
            "images": len(test),
            "attacked": len(examples),
            "amplitude": amplitude,
            "training_goals": {
                "accuracy_c": accuracy(defence.classifier, test),
                "accuracy": accuracy(subject.model, test),
                "trapdoor_success": np.mean(
                    predict(subject.model, planted).argmax(axis=1) == goals
                ),
            },
            "magnitudes": {key: quantiles(of) for key, of in values.items()},
            "median_ratio_m2_m1": float(
                np.median(values["m2"] / np.maximum(values["m1"], 1e-38))
            ),
            "m2_above_m1": np.mean(values["m2"] > values["m1"]),
            "unattacked": {
                "clean": _rates(detect, images),
                "with a trapdoor": _rates(detect, planted),
            },
            "settings": {attack.name: attack.settings() for attack in chosen},
            "attacks": rows,
        },
        words={"fpr": f"{100 * _FPR:g}", "attractors_fpr": f"{100 * fpr:g}"},
    )


def _rates(detect: Detect, images: FloatArray) -> dict[str, float | None]:
    if not len(images):
        return dict.fromkeys(("by_decoder", "by_signature", "by_detector"))
    return {way: float(flags.mean()) for way, flags in detect(images).items()}
