"""What the signatures answer, reloaded."""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_traps import ForensicAnalyzer, inject, integrate, serving
from keras_traps.datasets import Dataset
from keras_traps.evaluation.subjects import Defence
from keras_traps.models import digits_cnn
from keras_traps.models.inference import predict
from keras_traps.models.outputs import answers_of, output_of
from keras_traps.ops import Key
from keras_traps.serving import Deploy, Signature
from keras_traps.serving.signatures import Subject, concrete_functions
from tests.serving.conftest import CLASS_NAMES, SETTINGS, Outputs, Trapped, load

Signatures = Mapping[str, Callable[..., Outputs]]

export = functools.partial(serving.export, warmup_batch_sizes=(), verbose=False)


@pytest.fixture(scope="module")
def served(exported: serving.Exported) -> Signatures:
    return load(exported.path)


@pytest.fixture(scope="module")
def images(trapped: Trapped) -> np.ndarray:
    noise = np.random.default_rng(5).random((60, 8, 8, 1), np.float32)
    return np.concatenate([trapped.images[:60], noise])


def test_the_answers_are_those_of_the_live_model(
    served: Signatures, trapped: Trapped, images: np.ndarray
) -> None:
    answer = served["analyze"](image=images)
    verdict = trapped.analyzer.detect(images)
    live = predict(trapped.model, images)
    np.testing.assert_allclose(answer["probabilities"], live, rtol=0, atol=1e-6)
    assert (answer["class_id"] == live.argmax(axis=1)).all()
    np.testing.assert_allclose(answer["score"], verdict.score, rtol=0, atol=1e-4)
    assert (answer["is_adversarial"] == verdict.is_adversarial).all()
    assert 0 < verdict.is_adversarial.mean() < 1
    assert (answer["fired"] == verdict.fired).all()
    assert (answer["recovered_class_id"] == verdict.recovered).all()
    integrated = predict(integrate(trapped.model, trapped.analyzer), images)
    answer = served["integrated"](image=images)
    np.testing.assert_allclose(answer["probabilities"], integrated, rtol=0, atol=1e-6)


def test_names_types_and_shapes_are_as_documented(
    served: Signatures, images: np.ndarray
) -> None:
    answer = served["analyze"](image=images[:3])
    found = {name: (value.dtype.name, value.shape) for name, value in answer.items()}
    assert found == {
        "probabilities": ("float32", (3, 10)),
        "class_id": ("int64", (3,)),
        "label": ("object", (3,)),
        "score": ("float32", (3,)),
        "is_adversarial": ("bool", (3,)),
        "fired": ("bool", (3, 4)),
        "recovered_class_id": ("int64", (3,)),
        "recovered_label": ("object", (3,)),
    }
    answer = served["analyze"](image=images)
    names = (*CLASS_NAMES, "")  # the last is that of -1
    for kind in ("", "recovered_"):
        labels = [label.decode() for label in answer[f"{kind}label"]]
        assert labels == [names[i] for i in answer[f"{kind}class_id"]]
    recovered, flagged = answer["recovered_class_id"], answer["is_adversarial"]
    assert ((recovered == -1) == ~flagged).all()
    assert 0 < flagged.mean() < 1


@pytest.mark.usefixtures("quick_self_test")
def test_an_image_of_which_c_is_unsure_gets_its_second_class(
    tmp_path: Path, digits_test: Dataset, digits_defence: Defence
) -> None:
    analyzer, trapped = digits_defence.main_analyzer, digits_defence.trapped
    classifier, images = digits_defence.classifier, digits_test.images[:40]
    near, goals = images, np.roll(images, 7, axis=0)
    classes = predict(classifier, images).argmax(axis=1)
    # Halves the way to another image until C is about to change its mind.
    for _ in range(25):
        middle = np.asarray((near + goals) / 2, np.float32)
        same = predict(classifier, middle).argmax(axis=1) == classes
        kept = same[:, None, None, None]
        near, goals = np.where(kept, middle, near), np.where(kept, goals, middle)
    chosen = predict(classifier, goals).argmax(axis=1) != classes
    border, before = goals[chosen], classes[chosen]
    served = load(
        export(
            *(trapped, tmp_path / "model"),
            analyzer=analyzer,
            signatures=("analyze", "integrated"),
            examples=images[:4],
        ).path
    )
    answer = served["analyze"](image=border)
    assert answer["is_adversarial"].all()
    alone = (answer["fired"] == [False, False, False, True]).all(axis=1)
    assert alone.sum() > 5
    assert (answer["recovered_class_id"][alone] == before[alone]).all()
    integrated = served["integrated"](image=border)
    assert (integrated["class_id"][alone] == before[alone]).all()
    assert (integrated["probabilities"][alone].max(axis=1) == 1).all()


def test_an_image_that_is_not_finite_gets_no_class_and_spoils_no_other(
    served: Signatures, images: np.ndarray
) -> None:
    spoilt = images[:4].copy()
    spoilt[1:3, 2, 3, 0] = np.nan, np.inf
    for name in ("serving_default", "analyze", "integrated"):
        answer, clean = served[name](image=spoilt), served[name](image=images[:4])
        assert (answer["class_id"][1:3] == -1).all()
        assert (answer["label"][1:3] == b"").all()
        assert (answer["probabilities"][1:3] == 0).all()
        for key in answer:
            assert (answer[key][[0, 3]] == clean[key][[0, 3]]).all(), key
    answer = served["analyze"](image=spoilt)
    assert answer["is_adversarial"][1:3].all()
    assert (answer["recovered_class_id"][1:3] == -1).all()


def test_an_image_out_of_range_is_flagged(served: Signatures, trapped: Trapped) -> None:
    answer = served["analyze"](image=trapped.images[:20])
    clean = trapped.images[int(np.argmin(answer["is_adversarial"]))]
    images = np.stack([clean] * 4)
    images[1:, 0, 0, 0] = -1e-6, 1.0000001, 255.0
    answer = served["analyze"](image=images)
    assert answer["is_adversarial"].tolist() == [False, True, True, True]
    assert (answer["score"][1:] == np.finfo(np.float32).max).all()


def test_an_empty_batch_gets_an_empty_answer(served: Signatures) -> None:
    pixels = np.zeros((0, 8, 8, 1), np.float32)
    inputs = dict.fromkeys(served, pixels) | {
        "serving_uint8": pixels.astype(np.uint8),
        "image_bytes": np.zeros(0, "S1"),
    }
    for name, value in inputs.items():
        key = "image_bytes" if name == "image_bytes" else "image"
        answer = served[name](**{key: value})
        assert answer["probabilities"].shape == (0, 10)
        assert {len(rows) for rows in answer.values()} == {0}


def test_grey_levels_and_files_are_answered_as_pixels_are(served: Signatures) -> None:
    grey = np.full((8, 8, 1), 128, np.uint8)
    ramp = 4 * np.arange(64, dtype=np.uint8).reshape(grey.shape)
    levels = np.stack([grey, ramp])
    jpeg = tf.io.encode_jpeg(grey, format="grayscale", quality=100).numpy()
    files = np.array([jpeg, tf.io.encode_png(ramp).numpy()], object)
    pixels = served["serving_default"](image=np.divide(levels, 255, dtype=np.float32))
    for answer in (
        served["serving_uint8"](image=levels),
        served["image_bytes"](image_bytes=files),
    ):
        assert (answer["class_id"] == pixels["class_id"]).all()
        np.testing.assert_allclose(
            answer["probabilities"], pixels["probabilities"], rtol=0, atol=1e-6
        )


def test_what_is_no_image_of_the_size_is_refused(served: Signatures) -> None:
    with pytest.raises((ValueError, TypeError, tf.errors.InvalidArgumentError)):
        served["analyze"](image=np.zeros((1, 8, 7, 1), np.float32))
    file = tf.io.encode_png(np.zeros((8, 9, 1), np.uint8)).numpy()
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"\[8, ?8, ?1\]"):
        served["image_bytes"](image_bytes=np.array([file], object))
    with pytest.raises(tf.errors.InvalidArgumentError):
        served["image_bytes"](image_bytes=np.array([b"no image"], object))


def _form(
    shape: tuple[int, ...], units: int, activation: str | None, **dtypes: Any
) -> keras.Model:
    images = keras.Input(shape, dtype=dtypes.get("given"))
    flat = keras.layers.Flatten()(images)
    kept = dtypes.get("kept")
    return keras.Model(
        images, keras.layers.Dense(units, activation=activation, dtype=kept)(flat)
    )


FORMS: dict[str, Callable[[], keras.Model]] = {
    "flat": lambda: _form((48,), 3, "softmax"),
    "no channel axis": lambda: _form((8, 6), 3, None),
    "one sigmoid": lambda: _form((4, 4, 3), 1, "sigmoid"),
    "one logit": lambda: _form((48,), 1, None),
    "float16 images": lambda: _form((4, 4, 3), 3, None, given="float16"),
    "bfloat16 images": lambda: _form((4, 4, 3), 3, None, given="bfloat16"),
    "half precision": lambda: _form((8, 6), 3, "softmax", kept="mixed_float16"),
    "five channels": lambda: _form((3, 3, 5), 3, "softmax"),
}


@pytest.mark.usefixtures("quick_self_test")
@pytest.mark.parametrize(
    ("form", "bounds"),
    [
        pytest.param(form, bounds, marks=pytest.mark.slow if index % 2 else ())
        for index, (form, bounds) in enumerate(
            zip(FORMS, [(0, 255), (0, 255), (-1.5, 1), (-1.5, 1)] * 2, strict=True)
        )
    ],
)
def test_a_model_of_any_form_and_range_is_served(
    tmp_path: Path, form: str, bounds: tuple[float, float]
) -> None:
    keras.utils.set_random_seed(0)
    classifier = FORMS[form]()
    low, high = bounds
    shape = classifier.input_shape[1:]
    levels = np.random.default_rng(0).integers(0, 256, (60, *shape), np.uint8)
    pixels = (low + levels.astype(float) * (high - low) / 255).astype(np.float32)
    outputs = predict(classifier, pixels)
    output = output_of(outputs)
    names: tuple[Signature, ...] = ("serving_default", "serving_uint8")
    if form not in ("flat", "one logit", "five channels"):
        names += ("image_bytes",)
        files = levels.reshape(-1, *(shape if len(shape) == 3 else (*shape, 1)))
        encoded = np.array([tf.io.encode_png(image).numpy() for image in files])

    def served_alike(served: Signatures) -> Outputs:
        answer = served["serving_default"](image=pixels)
        others = [served["serving_uint8"](image=levels)]
        if "image_bytes" in names:
            others += [served["image_bytes"](image_bytes=encoded)]
        for other in others:
            for name in answer:
                np.testing.assert_array_equal(answer[name], other[name])
        return answer

    exported = export(
        *(classifier, tmp_path / "bare"),
        bounds=bounds,
        examples=pixels[:2],
        signatures=names,
    )
    assert exported.bounds == bounds
    answer = served_alike(load(exported.path))
    columns = answers_of(outputs, output)
    if output == "logits":
        columns = tf.nn.softmax(columns).numpy()
    np.testing.assert_allclose(answer["probabilities"], columns, rtol=0, atol=1e-6)
    assert (answer["class_id"] == columns.argmax(axis=1)).all()

    settings = dataclasses.replace(SETTINGS, output=output, bounds=bounds)
    trapped = inject(classifier, settings)
    # On others, for one of them lies on a threshold to the last bit.
    analyzer = ForensicAnalyzer(trapped).fit(pixels[30:])
    names += ("analyze", "integrated")
    served = load(
        export(
            trapped,
            tmp_path / "trapped",
            analyzer=analyzer,
            examples=pixels[:2],
            signatures=names,
        ).path
    )
    columns = answers_of(predict(trapped, pixels), "probabilities")
    np.testing.assert_allclose(
        served_alike(served)["probabilities"], columns, rtol=0, atol=1e-6
    )
    others = pixels[:30]
    answer, verdict = served["analyze"](image=others), analyzer.detect(others)
    assert (answer["is_adversarial"] == verdict.is_adversarial).all()
    assert (answer["recovered_class_id"] == verdict.recovered).all()
    outside = np.stack([pixels[0], pixels[0]])
    outside.reshape(2, -1)[:, 0] = low - (high - low) / 256, high + (high - low) / 256
    assert served["analyze"](image=outside)["is_adversarial"].all()


def test_files_hold_no_images_that_are_flat_or_of_five_channels() -> None:
    for form in ("flat", "five channels"):
        with pytest.raises(ValueError, match=r"of 1, 3 or 4 channels.*of shape \("):
            Subject(FORMS[form](), signatures=("image_bytes",))


def test_bounds_that_do_not_fit_the_model_are_refused(
    trapped: Trapped, target: keras.Model, lure: keras.Model
) -> None:
    with pytest.raises(ValueError, match=r"Expected \(0.0, 1.0\), for which"):
        Subject(trapped.model, bounds=(0, 255))
    images = keras.Input(target.input_shape[1:])
    rescaled = keras.Model(images, target(keras.layers.Rescaling(1 / 255)(images)))
    with pytest.raises(ValueError, match=r"with bounds=\(0, 255\)"):
        Subject(rescaled)
    # A network of images from 0 to 1 becomes one of the bounds.
    subject = Subject(rescaled, bounds=(0, 255), lure=lure, deploy="agreed")
    assert subject.lure is not None
    noise = np.random.default_rng(0).random((2, *images.shape[1:]), np.float32)
    levels = noise * np.float32(255)
    expected = 255 * np.clip(predict(lure, noise), 0, 1)
    np.testing.assert_allclose(predict(subject.lure, levels), expected, atol=1e-3)


@pytest.mark.usefixtures("quick_self_test")
@pytest.mark.parametrize("deploy", ["augmented", "target", "agreed"])
def test_each_deployment_answers_as_the_live_networks(
    target: keras.Model, lure: keras.Model, tmp_path: Path, deploy: Deploy
) -> None:
    images = np.random.default_rng(0).random((50, 8, 8, 1), np.float32)
    exported = export(
        target,
        tmp_path / "model",
        lure=lure,
        deploy=deploy,
        output="logits",
        signatures=("serving_default", "predict_agreed"),
    )
    plain = predict(target, images).argmax(axis=1)
    lured = predict(target, predict(lure, images)).argmax(axis=1)
    agreed = plain == lured
    assert 0 < agreed.mean() < 1
    served = load(exported.path)
    expected = {
        "augmented": lured,
        "target": plain,
        "agreed": np.where(agreed, plain, -1),
    }
    answer = served["serving_default"](image=images)
    assert (answer["class_id"] == expected[deploy]).all()
    assert set(answer) == {"probabilities", "class_id", "label"}

    answer = served["predict_agreed"](image=images)
    assert (answer["agreed"] == agreed).all()
    assert (answer["class_id"] == expected["agreed"]).all()
    assert (answer["probabilities"][~agreed] == 0).all()
    np.testing.assert_allclose(answer["probabilities"][agreed].sum(axis=1), 1, 1e-5)
    assert {*answer["label"][~agreed]} == {b""}
    assert len(served["predict_agreed"](image=images[:0])["agreed"]) == 0


def test_the_target_alone_leaves_the_lure_out(
    target: keras.Model, lure: keras.Model
) -> None:
    subject = Subject(target, output="logits", lure=lure, deploy="target")
    served = concrete_functions(subject)["serving_default"]
    assert len(served.variables) == len(target.weights)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({"class_names": ["a", "b"]}, "one string for each of 10 classes"),
        ({"class_names": "0123456789"}, "argument `class_names`"),
        ({"class_names": ["a"] * 10}, "argument `class_names`"),
        ({"class_names": range(10)}, "argument `class_names`"),
        ({"input_name": "an image"}, "argument `input_name`"),
        ({"signatures": "serving_default"}, "argument `signatures`"),
        ({"signatures": ("classify",)}, "argument `signatures`.*'classify'"),
        ({"signatures": ("serving_default",) * 2}, "none twice"),
        ({"signatures": ("analyze",)}, "a fitted `analyzer`"),
        ({"signatures": ("predict_agreed",)}, "a `lure`"),
        ({"deploy": "agreed"}, "argument `deploy`"),
        ({"output": "logits"}, "Expected None for a trapped"),
        ({"lure": digits_cnn(), "deploy": "agreed"}, "None for a trapped model"),
    ],
)
def test_a_wrong_argument_is_told(
    trapped: Trapped, arguments: dict[str, Any], expected: str
) -> None:
    with pytest.raises(ValueError, match=expected):
        Subject(trapped.model, **arguments)


def test_an_analyzer_has_to_be_fitted_for_the_models_decoder(trapped: Trapped) -> None:
    other = inject(digits_cnn(), dataclasses.replace(SETTINGS, key=Key.from_seed(1)))
    foreign = ForensicAnalyzer(other).fit(trapped.images)
    with pytest.raises(ValueError, match="fitted for the decoder of"):
        Subject(trapped.model, analyzer=foreign)
    unfitted = ForensicAnalyzer(trapped.model)
    with pytest.raises(RuntimeError, match="call `fit` first"):
        Subject(trapped.model, analyzer=unfitted)


def test_a_model_that_cannot_be_served_is_refused() -> None:
    no_model: Any = "model.keras"
    with pytest.raises(TypeError, match="Expected a Keras model"):
        Subject(no_model)
    images = keras.Input((None, None, 1))
    pooled = keras.layers.GlobalAveragePooling2D()(images)
    with pytest.raises(ValueError, match=r"argument `model`.*of one known size"):
        Subject(keras.Model(images, pooled), output="logits")
    with pytest.raises(ValueError, match="do not look like probabilities"):
        Subject(digits_cnn(), output="probabilities")


def test_a_lure_has_to_fit_its_classifier(
    target: keras.Model, lure: keras.Model
) -> None:
    images = keras.Input((8, 8, 1))
    wide = keras.Model(images, keras.layers.ZeroPadding2D(1)(images))
    wrong: list[tuple[Any, Any, str]] = [
        (lure, None, "'augmented', 'target', 'agreed'"),
        (lure, "both", "'augmented', 'target', 'agreed'"),
        (wide, "agreed", "argument `lure`.*to images of the same shape"),
        ("p.keras", "agreed", "argument `lure`"),
    ]
    for part, deploy, expected in wrong:
        with pytest.raises(ValueError, match=expected):
            Subject(target, lure=part, deploy=deploy, output="logits")
