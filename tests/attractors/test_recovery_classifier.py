from pathlib import Path
from typing import Any

import keras
import numpy as np
import numpy.typing as npt
import pytest

from keras_traps import ForensicAnalyzer, TrapSettings, inject, integrate
from keras_traps.datasets import Dataset
from keras_traps.evaluation.defence import Defence
from keras_traps.models.inference import predict

# Other answers than the classifier's on some images, and not one class alone.
SHIFT = np.array([3, 0, 0, 2, 0, 0, 0, 1, 0, 0], np.float32)


def shifted(classifier: keras.Model, **layer: Any) -> keras.Model:
    images = keras.Input(classifier.input_shape[1:])
    outputs = classifier(images) * keras.ops.convert_to_tensor(0.5) + SHIFT
    if layer:
        outputs = keras.layers.Activation(**layer)(outputs)
    return keras.Model(images, outputs, name="other")


@pytest.fixture(scope="module")
def other(digits_defence: Defence) -> keras.Model:
    return shifted(digits_defence.classifier)


@pytest.fixture(scope="module")
def images(digits_test: Dataset) -> npt.NDArray[np.float32]:
    """Clean images and noisy ones, many of which are flagged."""
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, digits_test.images.shape)
    noisy = np.clip(digits_test.images + noise, 0, 1).astype(np.float32)
    return np.concatenate([digits_test.images, noisy])


def test_by_depth_it_answers_for_what_is_flagged_and_nothing_else(
    digits_defence: Defence, other: keras.Model, images: npt.NDArray[np.float32]
) -> None:
    trapped, analyzer = digits_defence.trapped, digits_defence.main_analyzer
    # No correlation is as low or as high as these ask for: W names no class.
    joined = integrate(
        trapped,
        analyzer,
        recovery="depth",
        depth=9,
        height=9,
        recovery_classifier=other,
    )
    flagged = analyzer.detect(images).is_adversarial
    assert 0.03 < flagged.mean() < 0.97
    answers = predict(joined, images)
    np.testing.assert_array_equal(answers[~flagged], predict(trapped, images[~flagged]))
    asked = predict(other, images[flagged]).argmax(axis=1)
    np.testing.assert_array_equal(answers[flagged].argmax(axis=1), asked)
    before = predict(digits_defence.classifier, images[flagged]).argmax(axis=1)
    assert (asked != before).mean() > 0.1


def test_by_difference_its_soft_labels_are_of_the_traps_temperature(
    digits_defence: Defence, other: keras.Model, images: npt.NDArray[np.float32]
) -> None:
    thresholds = digits_defence.main_analyzer.thresholds
    decoder = digits_defence.main_analyzer.decoder
    settings = TrapSettings(
        output="logits",
        a0=decoder.a0,
        a1=decoder.a1,
        a2=decoder.a2,
        step_weights=tuple(decoder.step_weights),
        temperature=3.0,
    )
    trapped = inject(digits_defence.classifier, settings)
    analyzer = ForensicAnalyzer(trapped).with_thresholds(thresholds)
    joined = integrate(
        trapped, analyzer, recovery="difference", weight=0.5, recovery_classifier=other
    )
    flagged = analyzer.detect(images).is_adversarial
    assert flagged.any()
    logits = predict(other, images[flagged]) / 3.0
    labels = np.exp(logits - logits.max(axis=1, keepdims=True))
    labels /= labels.sum(axis=1, keepdims=True)
    expected = labels - 0.5 * analyzer.correlations(images[flagged])
    np.testing.assert_array_equal(
        predict(joined, images[flagged]).argmax(axis=1), expected.argmax(axis=1)
    )


def test_the_trapped_classifier_itself_changes_nothing(
    digits_defence: Defence, images: npt.NDArray[np.float32]
) -> None:
    trapped, analyzer = digits_defence.trapped, digits_defence.main_analyzer
    itself = integrate(
        trapped,
        analyzer,
        recovery="depth",
        recovery_classifier=digits_defence.classifier,
    )
    np.testing.assert_array_equal(
        predict(itself, images),
        predict(integrate(trapped, analyzer, recovery="depth"), images),
    )


def test_one_of_probabilities_is_asked_as_it_is(
    digits_defence: Defence, images: npt.NDArray[np.float32]
) -> None:
    settings = TrapSettings(
        output="probabilities", a0=-0.02, a1=-5.0, a2=0.5, step_weights=(1.0, 1.0)
    )
    victim = shifted(digits_defence.classifier, activation="softmax")
    trapped = inject(victim, settings)
    assert "soft_labels" not in [layer.name for layer in trapped.layers]
    analyzer = ForensicAnalyzer(trapped).fit(images[:300], fpr=0.05)
    other = keras.Sequential([digits_defence.classifier, keras.layers.Softmax()])
    joined = integrate(
        trapped, analyzer, recovery="difference", weight=1e-9, recovery_classifier=other
    )
    flagged = analyzer.detect(images).is_adversarial
    np.testing.assert_array_equal(
        predict(joined, images[flagged]).argmax(axis=1),
        predict(other, images[flagged]).argmax(axis=1),
    )


def test_a_keras_file_holds_it(
    digits_defence: Defence,
    images: npt.NDArray[np.float32],
    tmp_path: Path,
) -> None:
    # Of its own layers, as one that was trained apart has.
    other = keras.models.clone_model(digits_defence.classifier)
    joined = integrate(
        digits_defence.trapped,
        digits_defence.main_analyzer,
        recovery="depth",
        recovery_classifier=other,
    )
    joined.save(tmp_path / "joined.keras")
    loaded = keras.saving.load_model(tmp_path / "joined.keras")
    np.testing.assert_array_equal(predict(loaded, images), predict(joined, images))


@pytest.mark.parametrize("recovery", ["correlation", "label"])
def test_a_recovery_that_asks_no_classifier_refuses_one(
    digits_defence: Defence, other: keras.Model, recovery: Any
) -> None:
    with pytest.raises(ValueError, match=rf"recovery='{recovery}'.*Received: 'other'"):
        integrate(
            digits_defence.trapped,
            digits_defence.main_analyzer,
            recovery=recovery,
            recovery_classifier=other,
        )


def test_one_that_does_not_fit_is_refused(digits_defence: Defence) -> None:
    trapped, analyzer = digits_defence.trapped, digits_defence.main_analyzer

    def refused(other: Any, kind: type[Exception], match: str) -> None:
        with pytest.raises(kind, match=match):
            integrate(trapped, analyzer, recovery="depth", recovery_classifier=other)

    refused("model.keras", TypeError, r"`recovery_classifier`.*Received: str")
    images = keras.Input((8, 8, 1))
    flat = keras.layers.Flatten()(images)
    fewer = keras.Model(images, keras.layers.Dense(9)(flat))
    refused(fewer, ValueError, r"`recovery_classifier`.*\(10,\).*Received:.*\(9,\)")
    wide = keras.Input((8, 8, 3))
    coloured = keras.Model(wide, keras.layers.Dense(10)(keras.layers.Flatten()(wide)))
    refused(coloured, ValueError, r"`recovery_classifier`.*Received:.*\(8, 8, 3\)")
    softmax = keras.Model(images, keras.layers.Softmax()(keras.layers.Dense(10)(flat)))
    refused(softmax, ValueError, r"`recovery_classifier`.*returns logits.*Received")
    endless = keras.Model(images, keras.layers.Dense(10)(flat) * float("nan"))
    refused(endless, ValueError, r"`recovery_classifier`.*finite.*nan")


@pytest.mark.parametrize("ours", ["logits", "probabilities"])
def test_one_of_another_output_is_refused_where_no_layer_tells_of_it(
    digits_defence: Defence, ours: Any
) -> None:
    logits = digits_defence.classifier
    models = {
        "logits": logits,
        "probabilities": keras.Sequential([logits, keras.layers.Softmax()]),
    }
    settings = TrapSettings(
        output=ours,
        a0=-0.02,
        a1=-5.0,
        a2=0.5,
        step_weights=(1.0, 1.0),
        soft_labels=ours == "probabilities",
    )
    trapped = inject(models.pop(ours), settings)
    assert "soft_labels" not in [layer.name for layer in trapped.layers]
    analyzer = ForensicAnalyzer(trapped).with_thresholds(
        digits_defence.main_analyzer.thresholds
    )
    (other,) = models.values()
    with pytest.raises(ValueError, match=f"Expected one that returns {ours}"):
        integrate(trapped, analyzer, recovery="difference", recovery_classifier=other)


def test_one_of_any_image_size_is_taken(
    digits_defence: Defence, images: npt.NDArray[np.float32]
) -> None:
    inputs = keras.Input((None, None, 1))
    pooled = keras.layers.GlobalMaxPooling2D()(keras.layers.Conv2D(8, 3)(inputs))
    anywhere = keras.Model(inputs, keras.layers.Dense(10)(pooled))
    joined = integrate(
        digits_defence.trapped,
        digits_defence.main_analyzer,
        recovery="depth",
        recovery_classifier=anywhere,
    )
    assert predict(joined, images[:5]).shape == (5, 10)
