"""What the signatures answer, reloaded."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from keras_traps import integrate, serving
from keras_traps.models.inference import predict
from tests.serving.conftest import CLASS_NAMES, Outputs, Trapped, load

Signatures = Mapping[str, Callable[..., Outputs]]


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


def test_names_types_and_shapes_are_as_documented(served: Signatures) -> None:
    answer = served["analyze"](image=np.zeros((3, 8, 8, 1), np.float32))
    found = {name: (value.dtype.name, value.shape) for name, value in answer.items()}
    assert found == {
        "probabilities": ("float32", (3, 10)),
        "class_id": ("int64", (3,)),
        "label": ("object", (3,)),
        "score": ("float32", (3,)),
        "is_adversarial": ("bool", (3,)),
        "fired": ("bool", (3, 3)),
        "recovered_class_id": ("int64", (3,)),
        "recovered_label": ("object", (3,)),
    }
    for name in ("serving_default", "integrated"):
        answer = served[name](image=np.zeros((1, 8, 8, 1), np.float32))
        assert set(answer) == {"probabilities", "class_id", "label"}


def test_a_label_is_the_name_of_its_class(
    served: Signatures, images: np.ndarray
) -> None:
    answer = served["analyze"](image=images)
    for kind in ("", "recovered_"):
        labels = [label.decode() for label in answer[f"{kind}label"]]
        assert labels == [CLASS_NAMES[i] for i in answer[f"{kind}class_id"]]


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_an_image_that_is_not_finite_gets_no_class_and_spoils_no_other(
    served: Signatures, images: np.ndarray, value: float
) -> None:
    spoilt = images[:3].copy()
    spoilt[1, 2, 3, 0] = value
    for name in ("serving_default", "analyze", "integrated"):
        answer, clean = served[name](image=spoilt), served[name](image=images[:3])
        assert answer["class_id"][1] == -1
        assert answer["label"][1] == b""
        assert (answer["probabilities"][1] == 0).all()
        for key in answer:
            assert (answer[key][[0, 2]] == clean[key][[0, 2]]).all(), key
    answer = served["analyze"](image=spoilt)
    assert answer["is_adversarial"][1]
    assert answer["recovered_class_id"][1] == -1


@pytest.mark.parametrize("value", [-1e-6, np.float32(1.0000001), 255.0])
def test_an_image_out_of_range_is_flagged(
    served: Signatures, trapped: Trapped, value: float
) -> None:
    answer = served["analyze"](image=np.clip(trapped.images[:20], 0, 1))
    clean = trapped.images[int(np.argmin(answer["is_adversarial"]))].copy()
    assert not served["analyze"](image=clean[np.newaxis])["is_adversarial"][0]
    clean[0, 0, 0] = value
    answer = served["analyze"](image=clean[np.newaxis])
    assert answer["is_adversarial"][0]
    assert answer["score"][0] == np.finfo(np.float32).max


def test_an_empty_batch_gets_an_empty_answer(served: Signatures) -> None:
    pixels = {"image": np.zeros((0, 8, 8, 1), np.float32)}
    inputs: dict[str, dict[str, Any]] = {
        "serving_default": pixels,
        "analyze": pixels,
        "integrated": pixels,
        "serving_uint8": {"image": np.zeros((0, 8, 8, 1), np.uint8)},
        "image_bytes": {"image_bytes": np.zeros(0, "S1")},
    }
    assert set(inputs) == set(served)
    for name, value in inputs.items():
        answer = served[name](**value)
        assert answer["probabilities"].shape == (0, 10)
        assert {len(rows) for rows in answer.values()} == {0}


def test_a_wrong_shape_is_an_invalid_argument(served: Signatures) -> None:
    with pytest.raises((ValueError, TypeError, tf.errors.InvalidArgumentError)):
        served["analyze"](image=np.zeros((1, 8, 7, 1), np.float32))


def test_grey_levels_and_files_are_answered_as_pixels_are(
    served: Signatures, images: np.ndarray
) -> None:
    levels = np.round(images * 255).astype(np.uint8)
    pixels = served["serving_default"](image=np.divide(levels, 255, dtype=np.float32))
    files = np.array([tf.io.encode_png(image).numpy() for image in levels], object)
    for answer in (
        served["serving_uint8"](image=levels),
        served["image_bytes"](image_bytes=files),
    ):
        assert (answer["class_id"] == pixels["class_id"]).all()
        np.testing.assert_allclose(
            answer["probabilities"], pixels["probabilities"], rtol=0, atol=1e-6
        )


def test_a_jpeg_is_read(served: Signatures) -> None:
    grey = np.full((8, 8, 1), 128, np.uint8)
    file = tf.io.encode_jpeg(grey, format="grayscale", quality=100).numpy()
    jpeg = served["image_bytes"](image_bytes=np.array([file], object))
    plain = served["serving_uint8"](image=grey[np.newaxis])
    assert (jpeg["probabilities"] == plain["probabilities"]).all()


@pytest.mark.parametrize("size", [(8, 9), (16, 16)])
def test_a_file_of_another_size_is_refused_with_the_size_expected(
    served: Signatures, size: tuple[int, int]
) -> None:
    file = tf.io.encode_png(np.zeros((*size, 1), np.uint8)).numpy()
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"\[8, ?8, ?1\]"):
        served["image_bytes"](image_bytes=np.array([file], object))


def test_a_file_that_is_no_image_is_refused(served: Signatures) -> None:
    with pytest.raises(tf.errors.InvalidArgumentError):
        served["image_bytes"](image_bytes=np.array([b"no image"], object))
