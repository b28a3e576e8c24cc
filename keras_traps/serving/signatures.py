"""What a client can call: each signature as a function of stock operations."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf

from keras_traps._checks import Bounds, FloatArray, check_distinct
from keras_traps._pixels import pixels_of_levels
from keras_traps.attractors import ForensicAnalyzer, integrate
from keras_traps.attractors.injection import evidence_model
from keras_traps.layers import QIMDecoder
from keras_traps.luring.schemes import NO_CLASS, agreed_class, finite_rows, lure_before
from keras_traps.models.forms import find_bounds, image_shape, two_columns
from keras_traps.models.outputs import Output, check_classifier, check_on_noise

Signature = Literal[
    "serving_default",
    "analyze",
    "integrated",
    "predict_agreed",
    "serving_uint8",
    "image_bytes",
]
"""What a client can call. Every one takes a batch and answers each image on its own.

- `"serving_default"`: float32 images, pixels in the model's bounds, to probabilities,
  class_id, label.
- `"analyze"`: the same, and score, is_adversarial, fired, recovered_class_id,
  recovered_label.
- `"integrated"`: the classify-detect-recover answer.
- `"predict_agreed"`: a lured model's answer where both of its networks agree.
- `"serving_uint8"`: as `"serving_default"`, from grey levels 0 to 255.
- `"image_bytes"`: as `"serving_default"`, from PNG or JPEG files; not for flat images,
  nor for channels that files do not have.
"""

Deploy = Literal["augmented", "target", "agreed"]
"""What a lured model answers: M(P(x)), M(x), or M(x) where both name one class."""

# Where it is not float32.
_DTYPES: dict[Signature, tf.DType] = {
    "serving_uint8": tf.uint8,
    "image_bytes": tf.string,
}

Answer = dict[str, tf.Tensor]
Function = Callable[[tf.Tensor], Answer]


class Subject:
    """What is served: arguments of `export`, checked and with their defaults."""

    def __init__(
        self,
        model: keras.Model,
        *,
        output: Output | None = None,
        bounds: Bounds | None = None,
        analyzer: ForensicAnalyzer | None = None,
        lure: keras.Model | None = None,
        deploy: Deploy | None = None,
        class_names: Sequence[str] | None = None,
        input_name: str = "image",
        signatures: Sequence[Signature] | None = None,
    ) -> None:
        num_classes = check_classifier(model, output or "probabilities", name="model")
        shape = tuple(model.input_shape[1:])
        trapped = is_trapped(model)
        if trapped and output is not None:
            raise ValueError(
                "Invalid value for argument `output`. Expected None for a trapped "
                f"model. Received: output={output!r} for {model.name!r}"
            )
        if not input_name.isidentifier():
            raise ValueError(
                "Invalid value for argument `input_name`. Expected a name that Python "
                f"takes as one. Received: input_name={input_name!r}"
            )
        schemes = (None,) if lure is None else get_args(Deploy)
        if deploy not in schemes:
            raise ValueError(
                f"Invalid value for argument `deploy`. Expected one of {schemes} "
                f"{'without' if lure is None else 'with'} a lure. Received: {deploy!r}"
            )
        if lure is not None:
            if trapped:
                raise ValueError(
                    "Invalid value for argument `lure`. Expected None for a trapped "
                    f"model. Received: {lure!r}"
                )
            images = keras.Input(shape)
            kind = output or "probabilities"
            try:
                # As `LuredClassifier` asks it: what it returns is cut to the bounds.
                known = lure_before(model, lure, kind, bounds, probe=False)
                lure, bounds = keras.Model(images, known(images)), known.bounds
            except (TypeError, ValueError) as error:
                raise ValueError(
                    "Invalid value for argument `lure`. Expected a model from images "
                    f"{shape} to images of the same shape. Received: {lure!r} ({error})"
                ) from error
        self.bounds = find_bounds(model, bounds)
        self.model = model
        self.analyzer = analyzer
        # Refuses a model without traps, and an analyzer of another decoder.
        self.integrated = None if analyzer is None else integrate(model, analyzer)
        self.lure = lure
        self.deploy = deploy
        if class_names is None:
            class_names = [str(label) for label in range(num_classes)]
        strings = {name for name in class_names if isinstance(name, str)}
        one = isinstance(class_names, str)
        if one or not len(class_names) == len(strings) == num_classes:
            raise ValueError(
                "Invalid value for argument `class_names`. Expected one string for "
                f"each of {num_classes} classes, no two the same. Received: "
                f"{len(class_names)} in {class_names!r}"
            )
        self.class_names = tuple(class_names)
        self.input_name = input_name
        if signatures is None:
            signatures = ["serving_default"]
            signatures += ["analyze", "integrated"] if analyzer is not None else []
            signatures += ["predict_agreed"] if deploy == "agreed" else []
        check_distinct("signatures", signatures)
        parts = {"analyze": analyzer, "integrated": analyzer, "predict_agreed": lure}
        for name in signatures:
            if name not in get_args(Signature) or parts.get(name, model) is None:
                raise ValueError(
                    "Invalid value for argument `signatures`. Expected some of "
                    f"{get_args(Signature)}, the second and third with a fitted "
                    f"`analyzer`, the fourth with a `lure`. Received: {name!r}"
                )
        if "image_bytes" in signatures and not _fits_files(shape):
            raise ValueError(
                "Invalid value for argument `signatures`. Expected images (height, "
                "width), or of 1, 3 or 4 channels, for 'image_bytes': files hold no "
                f"others. Received: 'image_bytes' for images of shape {shape}"
            )
        self.signatures = tuple(signatures)
        self.image_shape: tuple[int, ...] = shape
        # The output of a trapped model is served as it is.
        self.output: Output = (
            "probabilities" if trapped else check_on_noise(model, output, self.bounds)
        )
        self.output_was_found = not trapped and output is None
        # Looked up, for the same to the last bit here and in the graph.
        self.pixels: FloatArray = pixels_of_levels(self.bounds)

    def input_key(self, signature: Signature) -> str:
        """The key of a signature's input in a request."""
        return self.input_name + ("_bytes" if signature == "image_bytes" else "")

    def as_taken(
        self, signature: Signature, levels: npt.NDArray[np.uint8]
    ) -> npt.NDArray[Any]:
        """Returns grey levels `(batch, ...)` in the form that a signature takes."""
        if signature == "serving_uint8":
            return levels
        if signature == "image_bytes":
            files = levels.reshape(-1, *image_shape(self.image_shape))
            return np.array([tf.io.encode_png(image).numpy() for image in files])
        return self.pixels[levels]

    def probabilities(self, outputs: tf.Tensor) -> tf.Tensor:
        """Makes a float32 column for each class of what the model returns."""
        outputs = tf.cast(outputs, tf.float32)
        if outputs.shape[-1] == 1:
            outputs = two_columns(outputs, self.output)
        return tf.nn.softmax(outputs) if self.output == "logits" else outputs


def _fits_files(shape: Sequence[int]) -> bool:
    return len(shape) == 2 or (len(shape) == 3 and shape[-1] in (1, 3, 4))


def is_trapped(model: keras.Model) -> bool:
    """Says whether a model was made by `inject`.

    Args:
        model: Any model.

    Returns:
        Whether one of its layers is a `QIMDecoder`.
    """
    return any(isinstance(layer, QIMDecoder) for layer in model.layers)


def save(subject: Subject, directory: Path) -> None:
    """Writes a SavedModel of the signatures and the variables that they need."""
    functions = concrete_functions(subject)
    # Without the layers, their settings are not written.
    holder = tf.Module()
    holder.kept = [function.variables for function in functions.values()]
    options = tf.saved_model.SaveOptions(experimental_custom_gradients=False)
    tf.saved_model.save(holder, str(directory), signatures=functions, options=options)


def concrete_functions(subject: Subject) -> dict[Signature, Any]:
    """Makes each signature a concrete function of one input, for any batch size."""
    functions = _functions(subject)
    concrete = {}
    for name in subject.signatures:
        shape = (None,) if name == "image_bytes" else (None, *subject.image_shape)
        dtype = _DTYPES.get(name, tf.float32)
        spec = tf.TensorSpec(shape, dtype, name=subject.input_key(name))
        function = tf.function(functions[name], autograph=False)
        concrete[name] = function.get_concrete_function(spec)
    return concrete


def _functions(subject: Subject) -> dict[Signature, Function]:
    """What each signature computes that the subject has the parts for."""
    lure, integrated = subject.lure, subject.integrated

    def ask(images: tf.Tensor) -> tf.Tensor:
        return subject.probabilities(subject.model(images, training=False))

    def classifying(ask: Callable[[tf.Tensor], tf.Tensor]) -> Function:
        def classify(images: tf.Tensor) -> Answer:
            probabilities = ask(images)
            return _answer(subject, probabilities, finite_rows(images, probabilities))

        return classify

    functions: dict[Signature, Function] = {"serving_default": classifying(ask)}
    if lure is not None:

        def ask_lured(images: tf.Tensor) -> tf.Tensor:
            return ask(lure(images, training=False))

        def agree(images: tf.Tensor) -> Answer:
            probabilities = ask(images)
            agreed = agreed_class(probabilities, ask_lured(images), images) > NO_CLASS
            return {**_answer(subject, probabilities, agreed), "agreed": agreed}

        functions["predict_agreed"] = agree
        if subject.deploy == "augmented":
            functions["serving_default"] = classifying(ask_lured)
        elif subject.deploy == "agreed":
            functions["serving_default"] = lambda images: {
                name: value for name, value in agree(images).items() if name != "agreed"
            }
    if subject.analyzer is not None and integrated is not None:
        functions["analyze"] = _analysis(subject, subject.analyzer)
        functions["integrated"] = classifying(
            lambda images: subject.probabilities(integrated(images, training=False))
        )
    functions = {name: _on_one_image_at_least(functions[name]) for name in functions}
    predict = functions["serving_default"]

    def predict_levels(levels: tf.Tensor) -> Answer:
        return predict(tf.gather(subject.pixels, tf.cast(levels, tf.int32)))

    file_shape = image_shape(subject.image_shape)

    def decode(file: tf.Tensor) -> tf.Tensor:
        image = tf.io.decode_image(file, file_shape[-1], expand_animations=False)
        # Of another size it is refused, with the size expected.
        return tf.reshape(tf.ensure_shape(image, file_shape), subject.image_shape)

    def predict_files(files: tf.Tensor) -> Answer:
        return predict_levels(tf.map_fn(decode, files, fn_output_signature=tf.uint8))

    functions |= {"serving_uint8": predict_levels, "image_bytes": predict_files}
    return functions


def _on_one_image_at_least(answer: Function) -> Function:
    """Gives kernels a black image for an empty batch: some CPUs' fail on none."""

    def filled(images: tf.Tensor) -> Answer:
        count = tf.shape(images)[0]
        missing = tf.maximum(1 - count, 0)
        shape = images.shape
        images = tf.pad(images, [[0, missing], *[[0, 0]] * (shape.rank - 1)])
        rows = answer(tf.ensure_shape(images, shape))
        return {name: value[:count] for name, value in rows.items()}

    return filled


def _analysis(subject: Subject, analyzer: ForensicAnalyzer) -> Function:
    # One pass for both: M holds W and C.
    evidence = evidence_model(subject.model).output
    both = keras.Model(subject.model.input, [subject.model.output, evidence])
    low, high = subject.bounds

    def analyze(images: tf.Tensor) -> Answer:
        outputs, evidence = both(images, training=False)
        probabilities = subject.probabilities(outputs)
        valid = finite_rows(images, probabilities)
        judgement = analyzer.thresholds.judge(evidence)
        # The analyzer refuses such an image; a server has to say something of it.
        in_range = tf.reduce_all(
            tf.logical_and(images >= low, images <= high),
            axis=range(1, images.shape.rank),
        )
        return {
            **_answer(subject, probabilities, valid),
            "score": tf.where(in_range, judgement.score, tf.float32.max),
            "is_adversarial": judgement.flagged | ~in_range,
            "fired": judgement.fired,
            **_named(subject, judgement.recovered, valid, prefix="recovered_"),
        }

    return analyze


def _answer(subject: Subject, probabilities: tf.Tensor, valid: tf.Tensor) -> Answer:
    return {
        "probabilities": tf.where(valid[:, tf.newaxis], probabilities, 0.0),
        **_named(subject, tf.argmax(probabilities, axis=-1), valid),
    }


def _named(
    subject: Subject, class_id: tf.Tensor, valid: tf.Tensor, prefix: str = ""
) -> Answer:
    class_id = tf.where(valid, class_id, tf.constant(NO_CLASS, tf.int64))
    # The first is that of NO_CLASS.
    names = tf.constant(["", *subject.class_names])
    return {
        f"{prefix}class_id": class_id,
        f"{prefix}label": tf.gather(names, class_id - NO_CLASS),
    }
