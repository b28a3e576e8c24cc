"""What a client can call: each signature as a function of stock operations."""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf

from keras_traps.attractors import ForensicAnalyzer, integrate
from keras_traps.layers import LuringInput, QIMDecoder
from keras_traps.luring.schemes import NO_CLASS, agreed_class, finite_rows
from keras_traps.models.outputs import Output, check_classifier, check_on_noise
from keras_traps.ops.forensics import judge

Signature = Literal[
    "serving_default",
    "analyze",
    "integrated",
    "predict_agreed",
    "serving_uint8",
    "image_bytes",
]
"""What a client can call. Every one takes a batch and answers each image on its own.

- `"serving_default"`: float32 images to probabilities, class_id, label.
- `"analyze"`: the same, and score, is_adversarial, fired, recovered_class_id,
  recovered_label.
- `"integrated"`: the classify-detect-recover answer.
- `"predict_agreed"`: a lured model's answer where both of its networks agree.
- `"serving_uint8"`: as `"serving_default"`, from grey levels 0 to 255.
- `"image_bytes"`: as `"serving_default"`, from PNG or JPEG files.
"""

Deploy = Literal["augmented", "target", "agreed"]
"""What a lured model answers: M(P(x)), M(x), or M(x) where both name one class."""

Answer = dict[str, tf.Tensor]
Function = Callable[[tf.Tensor], Answer]


@dataclasses.dataclass(frozen=True, eq=False)
class Subject:
    """What is served: arguments of `export`, checked and with their defaults."""

    model: keras.Model
    output: Output
    analyzer: ForensicAnalyzer | None
    lure: keras.Model | None
    deploy: Deploy | None
    class_names: tuple[str, ...]
    input_name: str
    signatures: tuple[Signature, ...]

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Height, width and channels of one image."""
        height, width, channels = self.model.input_shape[1:]
        return (height, width, channels)

    def input_key(self, signature: Signature) -> str:
        """The key of a signature's input in a request."""
        return self.input_name + ("_bytes" if signature == "image_bytes" else "")


def as_taken(signature: Signature, levels: npt.NDArray[np.uint8]) -> npt.NDArray[Any]:
    """Returns grey levels `(batch, ...)` in the form that a signature takes."""
    if signature == "serving_uint8":
        return levels
    if signature == "image_bytes":
        return np.array([tf.io.encode_png(image).numpy() for image in levels])
    return np.divide(levels, 255, dtype=np.float32)


def is_trapped(model: keras.Model) -> bool:
    """Says whether a model was made by `inject`.

    Args:
        model: Any model.

    Returns:
        Whether one of its layers is a `QIMDecoder`.
    """
    return any(isinstance(layer, QIMDecoder) for layer in model.layers)


def check_subject(
    model: keras.Model,
    *,
    output: Output | None,
    analyzer: ForensicAnalyzer | None,
    lure: keras.Model | None,
    deploy: Deploy | None,
    class_names: Sequence[str] | None,
    input_name: str,
    signatures: Sequence[Signature] | None,
) -> Subject:
    """Checks what can be checked before anything is written; see `export`."""
    num_classes = check_classifier(model, output or "probabilities")
    shape = model.input_shape[1:]
    if len(shape) != 3 or None in shape:
        raise ValueError(
            "Invalid value for argument `model`. Expected one of images (height, "
            "width, channels) whose size is known. Received: input shape "
            f"{model.input_shape}"
        )
    trapped = is_trapped(model)
    if trapped == (output is not None):
        raise ValueError(
            "Invalid value for argument `output`. Expected nothing for a trapped "
            'model, and for any other what it returns, "logits" or '
            f'"probabilities". Received: output={output!r} for {model.name!r}'
        )
    if not trapped:
        check_on_noise(model, str(output))
    if analyzer is not None:
        # Refuses a model without traps, and an analyzer of another decoder.
        integrate(model, analyzer)
    _check_lure(model, lure, deploy)
    if not input_name.isidentifier():
        raise ValueError(
            "Invalid value for argument `input_name`. Expected a name that Python "
            f"takes as one. Received: input_name={input_name!r}"
        )
    if lure is not None:
        # As `LuredClassifier` asks it: what it returns is cut to [0, 1].
        images = keras.Input(lure.input_shape[1:])
        lure = keras.Model(images, LuringInput.of(lure)(images), name=lure.name)
    return Subject(
        model=model,
        output=output or "probabilities",
        analyzer=analyzer,
        lure=lure,
        deploy=deploy,
        class_names=_checked_names(class_names, num_classes),
        input_name=input_name,
        signatures=_checked_signatures(signatures, analyzer, lure, deploy),
    )


def save(subject: Subject, directory: Path) -> None:
    """Writes a SavedModel that holds what its signatures need and nothing else.

    Neither layers nor their settings are written, only variables without names; nor
    are gradients and stack traces.
    """
    functions = concrete_functions(subject)
    holder = tf.Module()
    kept = {
        id(variable): variable
        for function in functions.values()
        for variable in function.variables
    }
    holder.kept = list(kept.values())
    tf.saved_model.save(
        holder,
        str(directory),
        signatures=functions,
        options=tf.saved_model.SaveOptions(experimental_custom_gradients=False),
    )


def concrete_functions(subject: Subject) -> dict[Signature, Any]:
    """Makes each signature a concrete function of one input, for any batch size."""
    shape = (None, *subject.image_shape)
    pixels = tf.TensorSpec(shape, tf.float32, name=subject.input_name)
    levels = tf.TensorSpec(shape, tf.uint8, name=subject.input_name)
    files = tf.TensorSpec((None,), tf.string, name=subject.input_key("image_bytes"))
    predict = _on_one_image_at_least(_prediction(subject))

    def predict_levels(levels: tf.Tensor) -> Answer:
        return predict(tf.cast(levels, tf.float32) / 255.0)

    def decode(file: tf.Tensor) -> tf.Tensor:
        channels = subject.image_shape[-1]
        image = tf.io.decode_image(file, channels, expand_animations=False)
        # Of another size it is refused, with the size expected.
        return tf.ensure_shape(image, subject.image_shape)

    def predict_files(files: tf.Tensor) -> Answer:
        return predict_levels(tf.map_fn(decode, files, fn_output_signature=tf.uint8))

    functions: dict[Signature, tuple[Function, tf.TensorSpec]] = {
        "serving_default": (predict, pixels),
        "serving_uint8": (predict_levels, levels),
        "image_bytes": (predict_files, files),
    }
    if subject.analyzer is not None:
        analysis = _analysis(subject, subject.analyzer)
        # Made here, for weights are read: a trace cannot.
        model = integrate(subject.model, subject.analyzer)
        integrated = _classification(subject, lambda x: model(x, training=False))
        functions["analyze"] = (_on_one_image_at_least(analysis), pixels)
        functions["integrated"] = (_on_one_image_at_least(integrated), pixels)
    if subject.lure is not None:
        agreement = _agreement(subject, subject.lure)
        functions["predict_agreed"] = (_on_one_image_at_least(agreement), pixels)
    return {
        name: tf.function(
            functions[name][0], input_signature=[functions[name][1]], autograph=False
        ).get_concrete_function()
        for name in subject.signatures
    }


def _on_one_image_at_least(answer: Function) -> Function:
    """Keeps an empty batch from kernels: on some CPUs oneDNN's fail on it.

    A black image stands in for it, and its answer is cut off.
    """

    def filled(images: tf.Tensor) -> Answer:
        count = tf.shape(images)[0]
        missing = tf.maximum(1 - count, 0)
        shape = images.shape
        images = tf.pad(images, [[0, missing], *[[0, 0]] * (shape.rank - 1)])
        rows = answer(tf.ensure_shape(images, shape))
        return {name: value[:count] for name, value in rows.items()}

    return filled


def _prediction(subject: Subject) -> Function:
    lure, ask = subject.lure, functools.partial(_probabilities, subject)
    if lure is None or subject.deploy == "target":
        return _classification(subject, ask)
    if subject.deploy == "augmented":
        return _classification(subject, lambda x: ask(lure(x, training=False)))
    agreement = _agreement(subject, lure)

    def predict(images: tf.Tensor) -> Answer:
        answer = agreement(images)
        del answer["agreed"]
        return answer

    return predict


def _classification(
    subject: Subject, ask: Callable[[tf.Tensor], tf.Tensor]
) -> Function:
    def classify(images: tf.Tensor) -> Answer:
        probabilities = ask(images)
        return _answer(subject, probabilities, finite_rows(images, probabilities))

    return classify


def _agreement(subject: Subject, lure: keras.Model) -> Function:
    def predict_agreed(images: tf.Tensor) -> Answer:
        probabilities = _probabilities(subject, images)
        lured = _probabilities(subject, lure(images, training=False))
        agreed = agreed_class(probabilities, lured, images) > NO_CLASS
        return {**_answer(subject, probabilities, agreed), "agreed": agreed}

    return predict_agreed


def _analysis(subject: Subject, analyzer: ForensicAnalyzer) -> Function:
    thresholds = analyzer.thresholds
    # One pass for both: M holds W.
    correlations = subject.model.get_layer("normalized_sum").input[1]
    both = keras.Model(subject.model.input, [subject.model.output, correlations])

    def analyze(images: tf.Tensor) -> Answer:
        probabilities, correlations = both(images, training=False)
        valid = finite_rows(images, probabilities)
        judgement = judge(
            # As the analyzer computes it.
            tf.cast(correlations, tf.float64),
            thresholds.upper,
            thresholds.lower,
            thresholds.deviation,
            centre=thresholds.centre,
            scale=thresholds.scale,
        )
        # The analyzer refuses such an image; a server has to say something of it.
        in_range = tf.reduce_all(
            tf.logical_and(images >= 0.0, images <= 1.0), axis=(1, 2, 3)
        )
        return {
            **_answer(subject, probabilities, valid),
            "score": tf.where(in_range, judgement.score, tf.float32.max),
            "is_adversarial": judgement.flagged | ~in_range,
            "fired": judgement.fired,
            **_named(subject, judgement.recovered, valid, prefix="recovered_"),
        }

    return analyze


def _probabilities(subject: Subject, images: tf.Tensor) -> tf.Tensor:
    outputs = tf.cast(subject.model(images, training=False), tf.float32)
    return tf.nn.softmax(outputs) if subject.output == "logits" else outputs


def _answer(subject: Subject, probabilities: tf.Tensor, valid: tf.Tensor) -> Answer:
    return {
        "probabilities": tf.where(valid[:, tf.newaxis], probabilities, 0.0),
        **_named(subject, tf.argmax(probabilities, axis=-1), valid),
    }


def _named(
    subject: Subject, class_id: tf.Tensor, valid: tf.Tensor, prefix: str = ""
) -> Answer:
    names = tf.constant([*subject.class_names, ""])
    last = tf.constant(len(subject.class_names), tf.int64)
    none = tf.constant(NO_CLASS, tf.int64)
    return {
        f"{prefix}class_id": tf.where(valid, class_id, none),
        f"{prefix}label": tf.gather(names, tf.where(valid, class_id, last)),
    }


def _check_lure(
    model: keras.Model, lure: keras.Model | None, deploy: Deploy | None
) -> None:
    if (lure is None) != (deploy is None) or deploy not in (None, *get_args(Deploy)):
        raise ValueError(
            "Invalid value for argument `deploy`. Expected, with a `lure` and only "
            f"with one, {_listed(get_args(Deploy))}. Received: deploy={deploy!r} "
            f"{'without' if lure is None else 'with'} a lure."
        )
    if lure is None:
        return
    if not isinstance(lure, keras.Model):
        raise TypeError(
            "Invalid value for argument `lure`. Expected a Keras model. Received: "
            f"{type(lure).__name__}"
        )
    if is_trapped(model):
        raise ValueError(
            "Invalid value for argument `lure`. Expected none for a trapped model. "
            f"Received: {lure.name!r}"
        )
    shapes = [getattr(lure, name, None) for name in ("input_shape", "output_shape")]
    if shapes != [model.input_shape] * 2:
        raise ValueError(
            "Invalid value for argument `lure`. Expected a built model from images of "
            f"{model.input_shape} to images of the same shape. Received: from "
            f"{shapes[0]} to {shapes[1]}"
        )


def _checked_names(names: Sequence[str] | None, count: int) -> tuple[str, ...]:
    if names is None:
        return tuple(str(label) for label in range(count))
    strings = not isinstance(names, str) and all(isinstance(n, str) for n in names)
    if not strings or len(names) != count or len(set(names)) != count:
        raise ValueError(
            "Invalid value for argument `class_names`. Expected one string for each "
            f"of {count} classes, no two the same. Received: {len(names)} in {names!r}"
        )
    return tuple(names)


def _checked_signatures(
    signatures: Sequence[Signature] | None,
    analyzer: ForensicAnalyzer | None,
    lure: keras.Model | None,
    deploy: Deploy | None,
) -> tuple[Signature, ...]:
    if signatures is None:
        if analyzer is not None:
            return ("serving_default", "analyze", "integrated")
        agreed = deploy == "agreed"
        return ("serving_default", "predict_agreed") if agreed else ("serving_default",)
    known = get_args(Signature)
    wrong = isinstance(signatures, str) or any(name not in known for name in signatures)
    if wrong or not signatures or len(set(signatures)) != len(signatures):
        raise ValueError(
            "Invalid value for argument `signatures`. Expected a sequence of at least "
            f"one of {_listed(known)}, none twice. "
            f"Received: signatures={signatures!r}"
        )
    for name, part, needed in (
        ("analyze", analyzer, "a fitted `analyzer`"),
        ("integrated", analyzer, "a fitted `analyzer`"),
        ("predict_agreed", lure, "a `lure`"),
    ):
        if name in signatures and part is None:
            raise ValueError(
                "Invalid value for argument `signatures`. Expected, with the signature "
                f"{name!r}, {needed}. Received: None"
            )
    return tuple(signatures)


def _listed(names: Sequence[str]) -> str:
    return ", ".join(f'"{name}"' for name in names)
