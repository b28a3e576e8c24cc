import numpy as np
import pytest
import tensorflow as tf

from keras_traps.serving import Client
from keras_traps.serving.client import (
    InvalidArgumentError,
    NotFoundError,
    ServingError,
    TensorSpec,
    VersionStatus,
)
from tests.serving.tiny_model import NAMES, SHAPE, Offline, assert_same, images


@pytest.mark.parametrize("signature", ["serving_default", "analyze", "score_only"])
@pytest.mark.parametrize("count", [1, 5])
def test_answers_are_those_of_the_model_bit_for_bit(
    client: Client, offline: Offline, signature: str, count: int
) -> None:
    batch = images(count)
    answer = client.predict(batch, signature=signature)
    assert_same(answer, offline(signature, batch))


def test_labels_beyond_ascii_arrive(client: Client) -> None:
    labels = client.predict(images(50))["label"].tolist()
    assert "七" in labels
    assert set(labels) <= set(NAMES)


def test_a_long_batch_is_split_and_put_together_in_order(
    address: str, offline: Offline
) -> None:
    batch = images(11)
    parts = [offline("analyze", batch[i : i + 4]) for i in range(0, 11, 4)]
    expected = {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}
    with Client(address, "tiny", max_batch_size=4) as client:
        answer = client.predict(batch, signature="analyze")
    assert_same(answer, expected)
    assert answer.version == 3


def test_uint8_images_go_to_a_signature_that_takes_them(
    client: Client, offline: Offline
) -> None:
    batch = np.arange(2 * 64, dtype=np.uint8).reshape(2, *SHAPE)
    answer = client.predict(batch, signature="serving_uint8")
    assert_same(answer, offline("serving_uint8", batch))
    # Python's own integers fit too.
    assert_same(
        client.predict(batch.tolist(), signature="serving_uint8"),
        offline("serving_uint8", batch),
    )


def test_encoded_images_go_as_bytes(client: Client, offline: Offline) -> None:
    batch = np.arange(2 * 64, dtype=np.uint8).reshape(2, *SHAPE)
    encoded = [tf.io.encode_png(image).numpy() for image in batch]
    answer = client.predict(encoded, signature="image_bytes")
    assert_same(answer, offline("image_bytes", encoded))


def test_float64_images_are_cast(client: Client, offline: Offline) -> None:
    batch = images(2)
    answer = client.predict(batch.astype(np.float64))
    assert_same(answer, offline("serving_default", batch))


def test_pixels_that_are_no_numbers_or_denormal_arrive(
    client: Client, offline: Offline
) -> None:
    batch = images(4)
    batch[:, 0, 0, 0] = np.nan, np.inf, -np.inf, np.float32(1e-45)
    answer = client.predict(batch, signature="analyze")
    assert np.isnan(answer["probabilities"][0]).all()
    assert_same(answer, offline("analyze", batch))


@pytest.mark.slow
def test_64_megabytes_go_in_one_request_and_leave_the_server_up(
    addresses: tuple[str, str], offline: Offline
) -> None:
    batch = np.broadcast_to(images(1), (2**18, *SHAPE))
    with Client(addresses[0], "tiny", max_batch_size=2**18, timeout=300) as client:
        answer = client.predict(batch, signature="score_only")
        expected = offline("score_only", images(1))["score"]
        np.testing.assert_allclose(answer["score"], np.tile(expected, 2**18), 1e-5)
        with pytest.raises(InvalidArgumentError, match="Unknown image file format"):
            client.predict([b"x" * 2**26], signature="image_bytes")
        assert_same(client.predict(images(1)), offline("serving_default", images(1)))


@pytest.mark.parametrize("shape", [(2, 7, 8, 1), (2, 8, 8), (2, 8, 8, 3), (64,)])
def test_a_wrong_shape_is_refused_with_the_expected_one(
    client: Client, shape: tuple[int, ...]
) -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        client.predict(np.zeros(shape, np.float32))
    assert "expects 'image': float32 (batch, 8, 8, 1)" in str(caught.value)
    assert f"Received: 'image': float32 {shape}" in str(caught.value)
    assert caught.value.code == "INVALID_ARGUMENT"
    assert isinstance(caught.value, ValueError)


def test_an_image_that_cannot_be_decoded_is_refused(client: Client) -> None:
    with pytest.raises(InvalidArgumentError, match="Unknown image file format"):
        client.predict([b"no image"], signature="image_bytes")


def test_integers_for_float_pixels_are_not_sent(client: Client) -> None:
    with pytest.raises(TypeError, match="divide integer pixels by 255"):
        client.predict(np.zeros((1, *SHAPE), np.uint8))


def test_an_unknown_signature_names_those_that_there_are(client: Client) -> None:
    with pytest.raises(NotFoundError, match=r"no signature 'nope'.*'analyze'"):
        client.predict(images(1), signature="nope")


def test_an_unknown_version_names_those_that_there_are(client: Client) -> None:
    with pytest.raises(NotFoundError, match=r"Versions there: 3 AVAILABLE"):
        client.predict(images(1), version=1)


def test_an_unknown_model_is_not_found(address: str) -> None:
    with Client(address, "other") as client, pytest.raises(NotFoundError):
        client.predict(images(1))


def test_a_version_can_be_asked_for(client: Client, offline: Offline) -> None:
    answer = client.predict(images(1), version=3)
    assert answer.version == 3
    assert_same(answer, offline("serving_default", images(1)))


def test_the_status_lists_the_versions(client: Client) -> None:
    assert client.status() == [VersionStatus(3, "AVAILABLE")]
    assert client.wait_until_available() == 3


def test_the_signatures_are_told(client: Client) -> None:
    metadata = client.signatures()
    assert metadata.version == 3
    analyze = metadata.signatures["analyze"]
    assert analyze.inputs == {"image": TensorSpec("float32", (None, *SHAPE))}
    assert analyze.outputs["fired"] == TensorSpec("bool", (None, 3))
    assert analyze.outputs["label"] == TensorSpec("string", (None,))
    assert not any(name.startswith("__") for name in metadata.signatures)


def test_a_deadline_that_is_too_short_is_told(client: Client) -> None:
    client.signatures()
    with pytest.raises(ServingError) as caught:
        client.predict(images(64), timeout=1e-5)
    assert caught.value.code == "DEADLINE_EXCEEDED"
    assert isinstance(caught.value, TimeoutError)
