"""The forensic step as a layer, for the integrated model."""

import math
from collections.abc import Sequence
from typing import Any, Literal, get_args

import keras
import tensorflow as tf

from keras_traps import ops
from keras_traps._checks import check_number

Recovery = Literal["correlation", "label", "difference", "depth"]
"""How the integrated model gives a recovered class."""

# With a smaller one the gradient fades before an attack is deep, with a larger DeepFool
# steps out of the trap.
WIDTH = 0.4
"""The scale of W in the softmax of `"depth"`, as a share of the depth."""

# Deep in a trap the others come so close that float32 would round a lead away.
_LEAD = 1e-3


@keras.saving.register_keras_serializable(package="keras_traps")
class DetectRecover(keras.layers.Layer):
    """Replaces the answer on inputs that look attacked by the recovered one.

    Where no condition fires the output is M(x). Where one does, it is the recovered
    class: that of lowest correlation, which an attack moved away from.

    Args:
        upper: U, the largest max w of a clean input (C1).
        lower: L, the smallest min w of a clean input (C2).
        deviation: sigma_0, the largest stdev(w) of a clean input (C3), above 0.
        softness: 0 for a switch, whose own gradient is 0. Above 0, the two answers are
            mixed by a sigmoid of how far the conditions are exceeded, `softness` being
            its width in the units of the correlations: a smooth stand-in for an
            attacker who wants the gradient of the detection too. Defaults to `0.0`.
        recovery: `"correlation"` answers with max(w) - w, scaled to sum 1, which has a
            gradient that a white-box attacker can follow. `"label"` answers with 1 at
            the recovered class and 0 elsewhere, which has none: a gradient attack
            stands still from where it is flagged, so that its failure says little.
            The paper does not say which of these it has. `"difference"` is not in the
            paper: 1 at the largest of C(x) - weight W(x), so that C decides where W
            says little, as it does on clean images that are flagged. Nor is
            `"depth"`: the class of lowest correlation where that is more than `depth`
            below `lower`, which only an attack that went into a trap reaches, and not
            small steps about a clean image; else the largest of C(x), but for the class
            of highest correlation where that is at least `height` above `upper`: an
            attack aimed at it. Only the order of C(x) counts: give it logits where soft
            labels are so cold that they round to 0. Every class has 1 - softmax(-w /
            (0.4 depth)), that one 1.001 more, scaled to sum 1: the gradient leads on
            into the trap, and the largest score is no measure of certainty. Defaults to
            `"correlation"`.
        weight: How much W counts beside C in `"difference"`, above 0. Defaults to
            `1.0`.
        depth: How far below `lower` the lowest correlation has to be for `"depth"` to
            trust it, above 0, in the units of the correlations; the smaller, the less
            gradient is left in a trap. `integrate` chooses it for a decoder. Defaults
            to `None`, which `"depth"` refuses.
        height: How far above `upper` the highest has to be for `"depth"` to take its
            class for an attack's goal, at least 0. `integrate` chooses it for a
            decoder. Defaults to `None`, which `"depth"` refuses.
        **kwargs: Passed on to `keras.layers.Layer`.

    Call arguments:
        inputs: A list of two tensors `(batch, num_classes)`: M(x) and W(x); for
            `recovery="difference"` and `"depth"` of three: M(x), W(x) and C(x).

    Returns:
        `(batch, num_classes)`, float32.

    Raises:
        ValueError: If a threshold is not finite, `deviation` is not above 0,
            `softness` or `height` is below 0, `weight` or `depth` is not above 0,
            `recovery` is unknown, or `"depth"` without `depth` or `height`.

    Reference:
        Zhang, Chang, Lee, Detection and Recovery of Adversarial Attacks with Injected
        Attractors, Sections III-B, V-C and V-D.
    """

    def __init__(
        self,
        upper: float,
        lower: float,
        deviation: float,
        softness: float = 0.0,
        recovery: Recovery = "correlation",
        weight: float = 1.0,
        depth: float | None = None,
        height: float | None = None,
        **kwargs: Any,
    ) -> None:
        for name, value in (
            ("upper", upper),
            ("lower", lower),
            ("deviation", deviation),
            ("softness", softness),
            ("weight", weight),
        ):
            if not math.isfinite(value):
                raise ValueError(
                    f"Invalid value for argument `{name}`. Expected a finite number. "
                    f"Received: {name}={value}"
                )
        if deviation <= 0 or softness < 0:
            raise ValueError(
                "Invalid value for argument `deviation` or `softness`. Expected "
                "deviation above 0 and softness of at least 0. Received: "
                f"deviation={deviation}, softness={softness}"
            )
        if weight <= 0:
            raise ValueError(
                "Invalid value for argument `weight`. Expected a number above 0. "
                f"Received: weight={weight}"
            )
        if recovery == "depth" and (depth is None or height is None):
            raise ValueError(
                "Invalid value for argument `depth` or `height`. Expected a number "
                f"for recovery='depth'. Received: depth={depth}, height={height}"
            )
        if depth is not None:
            check_number(depth, name="depth", above=0)
        if height is not None:
            check_number(height, name="height", at_least=0)
        if recovery not in get_args(Recovery):
            raise ValueError(
                f"Invalid value for argument `recovery`. Expected one of "
                f"{get_args(Recovery)}. Received: recovery={recovery!r}"
            )
        super().__init__(autocast=False, **kwargs)
        self.upper = float(upper)
        self.lower = float(lower)
        self.deviation = float(deviation)
        self.softness = float(softness)
        self.recovery: Recovery = recovery
        self.weight = float(weight)
        self.depth = None if depth is None else float(depth)
        self.height = None if height is None else float(height)

    def call(self, inputs: Sequence[tf.Tensor]) -> tf.Tensor:
        """Returns the integrated answer; see the class."""
        m, w, *c = (tf.cast(tensor, tf.float32) for tensor in inputs)
        excess = self._excess(w)
        recovered = self._recovered(w, c)
        if self.softness == 0.0:
            return tf.where(excess > 0.0, recovered, m)
        flagged = tf.sigmoid(excess / self.softness)
        return flagged * recovered + (1.0 - flagged) * m

    def build(self, input_shape: Sequence[tuple[int | None, ...]]) -> None:
        """Checks how many inputs there are."""
        expected = 3 if needs_classifier(self.recovery) else 2
        if len(input_shape) != expected:
            raise ValueError(
                f"Invalid value for argument `inputs`. Expected {expected} tensors for "
                f"recovery={self.recovery!r}. Received: {len(input_shape)}"
            )
        super().build(input_shape)

    def compute_output_shape(
        self, input_shape: Sequence[tuple[int | None, ...]]
    ) -> tuple[int | None, ...]:
        """Returns the shape of either input."""
        return tuple(input_shape[0])

    def compute_output_spec(
        self, inputs: Sequence[keras.KerasTensor]
    ) -> keras.KerasTensor:
        """Returns shape and dtype: float32 whatever the dtype policy."""
        return keras.KerasTensor(inputs[0].shape, "float32")

    def get_config(self) -> dict[str, Any]:
        """Returns what the constructor needs to make this layer again."""
        return {
            **super().get_config(),
            "upper": self.upper,
            "lower": self.lower,
            "deviation": self.deviation,
            "softness": self.softness,
            "recovery": self.recovery,
            "weight": self.weight,
            "depth": self.depth,
            "height": self.height,
        }

    def _recovered(self, w: tf.Tensor, c: Sequence[tf.Tensor]) -> tf.Tensor:
        match self.recovery:
            case "label":
                return _one_hot(tf.argmin(w, -1), w)
            case "difference":
                return _one_hot(tf.argmax(c[0] - self.weight * w, -1), w)
            case "depth":
                return self._by_depth(w, c[0])
            case "correlation":
                highest = tf.reduce_max(w, axis=-1, keepdims=True)
                return ops.normalized_sum(highest, -w, ord=1)

    def _by_depth(self, w: tf.Tensor, c: tf.Tensor) -> tf.Tensor:
        # As `__init__` has seen to.
        assert self.depth is not None
        assert self.height is not None
        deep = tf.reduce_min(w, -1) < self.lower - self.depth
        highest = tf.reduce_max(w, -1, keepdims=True)
        aimed_at = w >= tf.maximum(highest, self.upper + self.height)
        # Where all are highest, none is the goal.
        aimed_at &= ~tf.reduce_all(aimed_at, -1, keepdims=True)
        left = tf.where(aimed_at, c.dtype.min, c)
        named = tf.where(deep, tf.argmin(w, -1), tf.argmax(left, -1))
        lead = (1.0 + _LEAD) * _one_hot(named, w)
        others = 1.0 - tf.nn.softmax(-w / (WIDTH * self.depth))
        return ops.normalized_sum(lead, others, ord=1)

    def _excess(self, w: tf.Tensor) -> tf.Tensor:
        """By how much the condition that is exceeded most is; `(batch, 1)`."""
        conditions = [
            tf.reduce_max(w, axis=-1, keepdims=True) - self.upper,
            self.lower - tf.reduce_min(w, axis=-1, keepdims=True),
        ]
        conditions.append(_deviation(w) - self.deviation)
        return tf.reduce_max(tf.stack(conditions), axis=0)


def needs_classifier(recovery: Recovery) -> bool:
    """Says whether a recovered class is of C(x) beside W(x).

    Args:
        recovery: How it is recovered.

    Returns:
        Whether `DetectRecover` takes C(x), too.
    """
    return recovery in ("difference", "depth")


def _one_hot(named: tf.Tensor, w: tf.Tensor) -> tf.Tensor:
    """1 at the class of each row and 0 elsewhere, as many classes as W has."""
    return tf.one_hot(named, tf.shape(w)[-1])


def _deviation(w: tf.Tensor) -> tf.Tensor:
    """The standard deviation of each row, with a gradient of 0 where it is 0."""
    variance = tf.math.reduce_variance(w, axis=-1, keepdims=True)
    # The root has no finite gradient at 0: there, another number's serves.
    safe = tf.where(variance > 0.0, variance, tf.ones_like(variance))
    return tf.where(variance > 0.0, tf.sqrt(safe), tf.zeros_like(variance))
