import json
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_traps._checks import FloatArray
from keras_traps.datasets import Dataset
from keras_traps.detectors import (
    ClassifierDetector,
    TabooTrap,
    check_detector,
    load,
)
from keras_traps.detectors.saved import CLASSIFIER


class Squashed(ClassifierDetector):
    """How far a learnt network moves the mean of an image from a learnt number."""

    def __init__(
        self, classifier: keras.Model, *, factor: float = 1.0, **options: Any
    ) -> None:
        super().__init__(classifier, **options)
        self.factor = factor
        self.network: keras.Model | None = None
        self.middle: FloatArray | None = None

    def fit(self, images: FloatArray) -> "Squashed":
        image = keras.Input(images.shape[1:])
        self.network = keras.Model(image, keras.layers.Dense(1)(image))
        self.middle = images.mean(axis=(1, 2, 3))[:1]
        return self

    def tf_score(self, images: tf.Tensor) -> tf.Tensor:
        if self.network is None:
            raise RuntimeError("Call `fit` first.")
        moved = tf.reduce_mean(self.network(images), axis=(1, 2, 3))
        return self.factor * tf.abs(moved - self.middle)

    def _config(self) -> dict[str, Any]:
        return {**super()._config(), "factor": self.factor}

    def _parts(self) -> Mapping[str, Any]:
        if self.network is None:
            raise RuntimeError("Call `fit` first.")
        return {"network.keras": self.network, "middle.npy": self.middle}

    def _restore(self, parts: Mapping[str, Any]) -> None:
        self.network, self.middle = parts["network.keras"], parts["middle.npy"]


@pytest.fixture(scope="module")
def detector(digits_classifier: keras.Model, digits_test: Dataset) -> Squashed:
    keras.utils.set_random_seed(0)
    made = Squashed(digits_classifier, output="logits", factor=2.0)
    made.fit(digits_test.images)
    for fpr in (0.05, 0.01):
        made.fit_threshold(digits_test.images, fpr)
    return made


def test_a_saved_detector_comes_back_with_its_thresholds(
    detector: Squashed,
    digits_classifier: keras.Model,
    digits_test: Dataset,
    tmp_path: Path,
) -> None:
    images = digits_test.images[:10]
    check_detector(detector, images)
    detector.save(tmp_path / "new" / "place")
    names = {one.name for one in (tmp_path / "new" / "place").iterdir()}
    assert names == {"detector.json", "network.keras", "middle.npy"}
    # The same weights in another object.
    same = keras.models.clone_model(digits_classifier)
    same.set_weights(digits_classifier.get_weights())
    back = Squashed.load(tmp_path / "new" / "place", same)
    assert (back.factor, back.output, back.bounds) == (2.0, "logits", (0.0, 1.0))
    assert back.fprs == (0.05, 0.01)
    assert [back.threshold(fpr) for fpr in back.fprs] == [
        detector.threshold(fpr) for fpr in detector.fprs
    ]
    np.testing.assert_array_equal(back.score(images), detector.score(images))
    check_detector(back, images)
    # A second detector in the same place.
    Squashed(digits_classifier, output="logits").fit(images).save(
        tmp_path / "new" / "place"
    )
    assert Squashed.load(tmp_path / "new" / "place", digits_classifier).fprs == ()


def test_another_process_gets_the_same_detector(
    detector: Squashed, digits_test: Dataset
) -> None:
    detector.score(digits_test.images[:1])
    back = pickle.loads(pickle.dumps(detector))
    images = digits_test.images[:10]
    np.testing.assert_allclose(back.score(images), detector.score(images), rtol=1e-6)
    assert back.threshold(0.01) == detector.threshold(0.01)
    empty = Squashed(detector.classifier, output="logits")
    assert pickle.loads(pickle.dumps(empty)).network is None


def test_a_detector_of_another_classifier_is_refused(
    detector: Squashed, digits_classifier: keras.Model, tmp_path: Path
) -> None:
    detector.save(tmp_path)
    other = keras.models.clone_model(digits_classifier)
    with pytest.raises(ValueError, match="is for another classifier"):
        Squashed.load(tmp_path, other)


def test_what_is_no_whole_detector_is_refused(
    detector: Squashed, digits_classifier: keras.Model, tmp_path: Path
) -> None:
    with pytest.raises(FileNotFoundError):
        Squashed.load(tmp_path, digits_classifier)
    detector.save(tmp_path)

    class Other(Squashed):
        pass

    with pytest.raises(ValueError, match="expected Other, received Squashed"):
        Other.load(tmp_path, digits_classifier)
    path = tmp_path / "middle.npy"
    np.save(path, np.zeros(1, np.float32))
    with pytest.raises(ValueError, match=r"middle\.npy is damaged"):
        Squashed.load(tmp_path, digits_classifier)
    path.unlink()
    with pytest.raises(FileNotFoundError, match=r"middle\.npy"):
        Squashed.load(tmp_path, digits_classifier)
    path = tmp_path / "detector.json"
    record = json.loads(path.read_text())
    for broken in (
        "[]",
        "{",
        json.dumps({**record, "format": "other"}),
        json.dumps({**record, "thresholds": [[0.05, float("nan")]]}),
        json.dumps({**record, "thresholds": [[0.05, "1"]]}),
    ):
        path.write_text(broken)
        with pytest.raises(ValueError, match="holds no saved detector"):
            Squashed.load(tmp_path, digits_classifier)


def test_what_is_not_learnt_yet_cannot_be_saved(
    digits_classifier: keras.Model, tmp_path: Path
) -> None:
    with pytest.raises(RuntimeError, match="`fit`"):
        Squashed(digits_classifier, output="logits").save(tmp_path / "none")
    assert not (tmp_path / "none").exists()


def test_what_is_no_classifier_of_these_images_is_refused(
    detector: Squashed, digits_classifier: keras.Model
) -> None:
    nothing: Any = "model"
    with pytest.raises(TypeError, match="`classifier`"):
        Squashed(nothing, output="logits")
    with pytest.raises(ValueError, match="`output`"):
        Squashed(digits_classifier, output="classes")
    with pytest.raises(ValueError, match="`bounds`"):
        Squashed(digits_classifier, output="logits", bounds=(1, 0))
    with pytest.raises(ValueError, match=r"`images`. Expected images of shape"):
        detector.score(np.zeros((2, 9, 9, 1), np.float32))
    with pytest.raises(ValueError, match=r"`images`. Expected finite pixels"):
        detector.score(np.full((2, 8, 8, 1), 2.0, np.float32))


def test_a_folder_tells_what_detector_it_holds(
    digits_classifier: keras.Model, digits_train: Dataset, tmp_path: Path
) -> None:
    taboo = TabooTrap(digits_classifier, output="logits").fit(digits_train.images)
    taboo.save(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"classifier\.keras"):
        load(tmp_path)
    images = digits_train.images[:5]
    given = load(tmp_path, digits_classifier)
    digits_classifier.save(tmp_path / CLASSIFIER)
    for back in (given, load(tmp_path)):
        assert isinstance(back, TabooTrap)
        np.testing.assert_allclose(back.score(images), taboo.score(images), rtol=1e-5)
    for damage, message in (("Other", "unknown kind"), (None, "no saved detector")):
        record = {} if damage is None else {"detector": damage}
        (tmp_path / "detector.json").write_text(json.dumps(record))
        with pytest.raises(ValueError, match=message):
            load(tmp_path)
