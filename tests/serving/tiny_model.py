"""A SavedModel of a few hundred weights with the signatures of an exported model."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf

SHAPE = (8, 8, 1)
NAMES = ("zero", "one", "two", "drei", "vier", "fünf", "sechs", "七", "eight", "nine")

Outputs = dict[str, npt.NDArray[Any]]


class TinyModel(tf.Module):
    """A random linear classifier beside another one that plays the watermark."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        drawn = np.random.default_rng(seed).normal(size=(2, 64, 10)).astype("float32")
        self.weights, self.watermark = map(tf.Variable, drawn)
        self.names = tf.constant(NAMES)

    def serving_default(self, image: tf.Tensor) -> dict[str, tf.Tensor]:
        logits = tf.matmul(tf.reshape(image, (-1, 64)), self.weights)
        return self._classify("", tf.nn.softmax(logits / 4.0))

    def analyze(self, image: tf.Tensor) -> dict[str, tf.Tensor]:
        correlations = tf.matmul(tf.reshape(image, (-1, 64)), self.watermark)
        recovered = self._classify("recovered_", correlations)
        del recovered["recovered_probabilities"]
        score = tf.reduce_max(correlations, axis=1)
        fired = tf.stack([score > 4.0, score > 5.0, score > 6.0], 1)
        return {
            **self.serving_default(image),
            "score": score,
            "is_adversarial": tf.reduce_any(fired, axis=1),
            "fired": fired,
            **recovered,
        }

    def serving_uint8(self, image: tf.Tensor) -> dict[str, tf.Tensor]:
        return self.serving_default(tf.cast(image, tf.float32) / 255.0)

    def image_bytes(self, image_bytes: tf.Tensor) -> dict[str, tf.Tensor]:
        def decode(encoded: tf.Tensor) -> tf.Tensor:
            return tf.ensure_shape(tf.io.decode_png(encoded, channels=1), SHAPE)

        spec = tf.TensorSpec(SHAPE, tf.uint8)
        return self.serving_uint8(
            tf.map_fn(decode, image_bytes, fn_output_signature=spec)
        )

    def score_only(self, image: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"score": self.analyze(image)["score"]}

    def _classify(self, prefix: str, scores: tf.Tensor) -> dict[str, tf.Tensor]:
        class_id = tf.argmax(scores, axis=1)
        return {
            f"{prefix}probabilities": scores,
            f"{prefix}class_id": class_id,
            f"{prefix}label": tf.gather(self.names, class_id),
        }


def write_version(base_path: Path, version: int) -> None:
    """Writes a version beside its place and renames it; its number is its seed."""
    model = TinyModel(version)
    image = tf.TensorSpec((None, *SHAPE), tf.float32, "image")
    specs = {
        "serving_default": image,
        "analyze": image,
        "score_only": image,
        "serving_uint8": tf.TensorSpec((None, *SHAPE), tf.uint8, "image"),
        "image_bytes": tf.TensorSpec((None,), tf.string, "image_bytes"),
    }
    signatures = {
        name: tf.function(getattr(model, name)).get_concrete_function(spec)
        for name, spec in specs.items()
    }
    base_path.mkdir(parents=True, exist_ok=True)
    temporary = base_path / f".{version}.{os.getpid()}"
    tf.saved_model.save(model, str(temporary), signatures=signatures)
    temporary.rename(base_path / str(version))


class Offline:
    """Runs the signatures of a version without a server."""

    def __init__(self, base_path: Path, version: int) -> None:
        self._model = tf.saved_model.load(str(base_path / str(version)))

    def __call__(self, signature: str, value: Any) -> Outputs:
        function = self._model.signatures[signature]
        (name,) = function.structured_input_signature[1]
        outputs = function(**{name: tf.constant(value)})
        return {key: _text(array.numpy()) for key, array in outputs.items()}


def images(count: int, seed: int = 0) -> npt.NDArray[np.float32]:
    """Draws images."""
    return np.random.default_rng(seed).random((count, *SHAPE), dtype=np.float32)


def assert_same(actual: Any, expected: Outputs) -> None:
    """Compares outputs bit for bit, with their dtypes; text of any length."""
    assert set(actual) == set(expected)
    for name, array in expected.items():
        assert actual[name].dtype.kind == array.dtype.kind, name
        assert array.dtype.kind == "U" or actual[name].dtype == array.dtype, name
        np.testing.assert_array_equal(actual[name], array, err_msg=name)


def _text(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    if array.dtype != object:
        return array
    return np.array([value.decode() for value in array], np.str_)
