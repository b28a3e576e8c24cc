"""What is to be served: a model, its analyzer or its lure, and which signatures."""

import dataclasses
from collections.abc import Sequence
from typing import Literal, Self, get_args

import keras

from keras_traps.attractors import ForensicAnalyzer, integrate
from keras_traps.layers import LuringInput, QIMDecoder
from keras_traps.models.outputs import Output, check_classifier
from keras_traps.models.probe import check_on_noise

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


@dataclasses.dataclass(frozen=True, eq=False)
class Subject:
    """A checked request for an export.

    Args:
        model: The trapped model, the classifier M before which a lure was put, or any
            other classifier.
        output: What it returns; `"probabilities"` for a trapped model, whose output is
            served as it is.
        analyzer: The fitted analyzer of a trapped model, or `None`.
        lure: The network P of a lured model, or `None`.
        deploy: What a lured model answers, or `None`.
        class_names: One per class.
        input_name: The key of the images in a request.
        signatures: Which signatures to make, in this order.
    """

    model: keras.Model
    output: Output
    analyzer: ForensicAnalyzer | None
    lure: keras.Model | None
    deploy: Deploy | None
    class_names: tuple[str, ...]
    input_name: str
    signatures: tuple[Signature, ...]

    @classmethod
    def checked(
        cls,
        model: keras.Model,
        *,
        output: Output | None,
        analyzer: ForensicAnalyzer | None,
        lure: keras.Model | None,
        deploy: Deploy | None,
        class_names: Sequence[str] | None,
        input_name: str,
        signatures: Sequence[Signature] | None,
    ) -> Self:
        """Makes a subject of what a user passed to `export`, or says what is wrong.

        Args:
            model: See `export`.
            output: See `export`.
            analyzer: See `export`.
            lure: See `export`.
            deploy: See `export`.
            class_names: See `export`.
            input_name: See `export`.
            signatures: See `export`.

        Returns:
            The subject.

        Raises:
            TypeError: If a model is not a Keras model.
            ValueError: If the arguments do not fit each other.
            RuntimeError: If the analyzer was not fitted.
        """
        num_classes = check_classifier(model, output or "probabilities")
        _check_image_shape(model)
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
        return cls(
            model=model,
            output=output or "probabilities",
            analyzer=analyzer,
            lure=None if lure is None else _within_pixels(lure),
            deploy=deploy,
            class_names=_checked_names(class_names, num_classes),
            input_name=input_name,
            signatures=_checked_signatures(signatures, analyzer, lure, deploy),
        )

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Height, width and channels of one image."""
        height, width, channels = self.model.input_shape[1:]
        return (height, width, channels)

    def input_key(self, signature: Signature) -> str:
        """Returns the key of a signature's input in a request.

        Args:
            signature: The signature.

        Returns:
            The `input_name`; `<input_name>_bytes` for `"image_bytes"`.
        """
        return self.input_name + ("_bytes" if signature == "image_bytes" else "")

    @property
    def kind(self) -> str:
        """`"attractors"`, `"luring"` or `"none"`."""
        if is_trapped(self.model):
            return "attractors"
        return "none" if self.lure is None else "luring"


def is_trapped(model: keras.Model) -> bool:
    """Returns whether a model was made by `inject`."""
    return any(isinstance(layer, QIMDecoder) for layer in model.layers)


def _check_image_shape(model: keras.Model) -> None:
    shape = model.input_shape[1:]
    if len(shape) != 3 or None in shape:
        raise ValueError(
            "Invalid value for argument `model`. Expected one of images (height, "
            "width, channels) whose size is known. Received: input shape "
            f"{model.input_shape}"
        )


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


def _within_pixels(lure: keras.Model) -> keras.Model:
    """P as `LuredClassifier` asks it: what it returns is cut to [0, 1]."""
    images = keras.Input(lure.input_shape[1:])
    return keras.Model(images, LuringInput.of(lure)(images), name=lure.name)


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
