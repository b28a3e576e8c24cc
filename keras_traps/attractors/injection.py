"""Adds a watermark decoder to a classifier."""

import dataclasses
import inspect
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Self

import keras
import numpy as np

from keras_traps._checks import UNIT, Bounds
from keras_traps.layers import NormalizedSum, QIMDecoder, SoftLabels
from keras_traps.models.forms import one_column, two_columns
from keras_traps.models.inference import as_graph
from keras_traps.models.outputs import Output, check_classifier, check_on_noise
from keras_traps.ops.codes import Key, MessageKind
from keras_traps.ops.normalized_sum import check_ord

if TYPE_CHECKING:
    from keras_traps.attractors.calibration import Calibration

_PARTS = ("classifier", "soft_labels", "qim_decoder", "normalized_sum")


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrapSettings:
    """All that makes a trapped model out of a classifier.

    `calibrate` finds the constants for a given classifier.

    Args:
        output: What the classifier returns.
        a0: Scale of the distances, equation 3.
        a1: Shift, equation 3.
        a2: Largest correlation, equation 3.
        step_weights: The weight of the pixels of each step size.
        steps: Step sizes in grey levels. Defaults to `(3.0, 128.0)`.
        messages: How message bits are drawn. Defaults to `"balanced"`.
        key: The secret that messages and steps are drawn from, a `keras_traps.Key` or
            at least 16 bytes. It is not in what `to_dict` returns. Defaults to a new
            one of the system's randomness.
        ord: Order of the sum's norm. Defaults to `1`.
        bounds: The least and the largest value of a pixel, as the classifier takes it.
            Defaults to `(0.0, 1.0)`.

    Raises:
        ValueError: If a constant of the decoder or the sum is out of its range.
    """

    output: Output
    a0: float
    a1: float
    a2: float
    step_weights: tuple[float, ...]
    steps: tuple[float, ...] = (3.0, 128.0)
    messages: MessageKind = "balanced"
    key: Key = dataclasses.field(default_factory=Key)
    ord: float = 1
    bounds: Bounds = UNIT

    def __post_init__(self) -> None:
        # The layers know the ranges of what they take, and NumPy's numbers, which could
        # not be written to a file, are Python's in them.
        decoder = QIMDecoder(2, **self.decoder_config(), name="qim_decoder")
        for name in self.decoder_config():
            object.__setattr__(self, name, getattr(decoder, name))
        check_ord(self.ord)

    def decoder_config(self) -> dict[str, Any]:
        """Returns the arguments of `QIMDecoder`, but for the number of classes.

        A field goes to the decoder by having the name of an argument of it.
        """
        known = inspect.signature(QIMDecoder).parameters
        names = [field.name for field in dataclasses.fields(self)]
        return {name: getattr(self, name) for name in names if name in known}

    def decoder(self, num_classes: int) -> QIMDecoder:
        """Makes the decoder W, not yet built.

        Args:
            num_classes: How many classes.

        Returns:
            A layer named `"qim_decoder"`.
        """
        return QIMDecoder(num_classes, **self.decoder_config(), name="qim_decoder")

    def head(self) -> SoftLabels:
        """Makes what turns the classifier's output into C(x) of the sum.

        Returns:
            A layer named `"soft_labels"`.
        """
        return SoftLabels(from_logits=self.output == "logits", name="soft_labels")

    def to_dict(self) -> dict[str, Any]:
        """Returns all but the key as plain data, for a report or a file."""
        names = [field.name for field in dataclasses.fields(self)]
        return {name: getattr(self, name) for name in names if name != "key"}

    @classmethod
    def from_dict(
        cls, data: Mapping[str, Any], *, key: Key | bytes | None = None
    ) -> Self:
        """Makes settings from what `to_dict` returned, or from its JSON.

        Args:
            data: The fields by name.
            key: The key, which they do not hold. Defaults to `None`: a new one.

        Returns:
            The settings.

        Raises:
            TypeError: If a field without a default is missing, or one is unknown.
        """
        # The decoder makes tuples of JSON's lists.
        return cls(**data, key=Key.of(key))


def inject(
    classifier: keras.Model, settings: "TrapSettings | Calibration"
) -> keras.Model:
    """Adds attractors to a classifier: M = (C + W) / |C + W|.

    Args:
        classifier: A built Keras model from images `(batch, ...)` with pixels in the
            settings' `bounds` to `(batch, num_classes)`, or to `(batch, 1)` for two
            classes. Its layers are shared with the result, not copied.
        settings: The constants, your own or from `calibrate`, or all that it returned.

    Returns:
        The trapped model M: same input, float32 where the classifier's is of half
        precision, and output of the same shape, float32, each row of norm 1; of a
        classifier with one output a number in [0, 1] that is above 0.5 for the second
        class. Its parts are layers named `"classifier"`, `"soft_labels"`,
        `"qim_decoder"` and `"normalized_sum"`.

    Raises:
        TypeError: If `classifier` is not a Keras model.
        ValueError: If it is not built, has fewer than two classes or takes images that
            are not floating point, if on a batch of noise it does not return what
            `settings.output` declares, or if a setting is out of its range.

    Example:
    >>> calibration = keras_traps.calibrate(classifier, images, output="logits")
    >>> trapped = keras_traps.inject(classifier, calibration.settings)
    >>> analyzer = keras_traps.ForensicAnalyzer(trapped).fit(images, fpr=0.05)

    Reference:
        Zhang, Chang, Lee, Detection and Recovery of Adversarial Attacks with Injected
        Attractors, equation 2.
    """
    if not isinstance(settings, TrapSettings):
        settings = settings.settings
    num_classes = check_classifier(classifier, settings.output)
    check_on_noise(classifier, settings.output, settings.bounds)

    # A model of our own name around the same layers: parts are found by name.
    part = as_graph(classifier, name="classifier")
    given = classifier.inputs[0]
    half = given.dtype in ("float16", "bfloat16")
    images = keras.Input(
        classifier.input_shape[1:],
        # The decoder is to see the pixels that the analyzer sees.
        dtype="float32" if half else given.dtype,
        name="image" if given.name in _PARTS else given.name,
    )
    answers = part(images)
    is_binary = classifier.output_shape[1] == 1
    if is_binary:
        answers = two_columns(answers, settings.output)
    answers = settings.head()(answers)
    correlations = settings.decoder(num_classes)(images)
    combined = NormalizedSum(settings.ord, name="normalized_sum")(
        [answers, correlations]
    )
    if is_binary:
        combined = one_column(combined)
    return keras.Model(images, combined, name=f"trapped_{classifier.name}")


def decoder_of(trapped: keras.Model) -> QIMDecoder:
    """Returns the watermark decoder W of a trapped model.

    Args:
        trapped: What `inject` returned, or such a model loaded from a file.

    Returns:
        Its layer `"qim_decoder"`.

    Raises:
        ValueError: If the model has none.
    """
    for layer in getattr(trapped, "layers", ()):
        if isinstance(layer, QIMDecoder):
            return layer
    raise ValueError(
        "Invalid value for argument `trapped`. Expected a model made by `inject`. "
        f"Received a model without a QIM decoder: {getattr(trapped, 'name', trapped)!r}"
    )


def logits_of(trapped: keras.Model) -> keras.KerasTensor:
    """Returns C's logits in a trapped model's graph.

    Args:
        trapped: What `inject` returned.

    Returns:
        `(batch, num_classes)`, float32; logarithms of probabilities where C returns
        these.
    """
    head = trapped.get_layer("soft_labels")
    answers = keras.ops.cast(head.input, "float32")
    if head.from_logits:
        return answers
    # The least number that processors do not round to 0.
    least = float(np.finfo(np.float32).tiny)
    return keras.ops.log(keras.ops.maximum(answers, least))


def classifier_of(trapped: keras.Model) -> keras.Model:
    """Returns C up to its logits, for an attacker who finds it within M.

    Args:
        trapped: What `inject` returned.

    Returns:
        A model that shares the layers of `trapped`, to `(batch, num_classes)`, float32.

    Raises:
        ValueError: If `trapped` has no QIM decoder.
    """
    decoder_of(trapped)
    name = f"classifier_of_{trapped.name}"
    return keras.Model(trapped.input, logits_of(trapped), name=name)


def evidence_model(trapped: keras.Model) -> keras.Model:
    """Returns W(x) and C's logits, all that the forensic step looks at.

    Args:
        trapped: What `inject` returned.

    Returns:
        A model that shares the layers of `trapped`, to `(batch, 2, num_classes)`,
        float32.

    Raises:
        ValueError: If `trapped` has no QIM decoder.
    """
    decoder_of(trapped)
    correlations = trapped.get_layer("normalized_sum").input[1]
    both = [correlations, logits_of(trapped)]
    return keras.Model(trapped.input, keras.ops.stack(both, axis=1))


def raw_sum(trapped: keras.Model) -> keras.Model:
    """Returns C + W before its normalisation, for an attacker who finds it.

    Args:
        trapped: What `inject` returned.

    Returns:
        A model that shares the layers of `trapped`.

    Raises:
        ValueError: If `trapped` has no QIM decoder.
    """
    decoder_of(trapped)
    parts = trapped.get_layer("normalized_sum").input
    total = keras.layers.Add(dtype="float32", name="raw_sum")(parts)
    return keras.Model(trapped.input, total, name=f"raw_sum_of_{trapped.name}")
