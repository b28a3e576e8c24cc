import time
from pathlib import Path

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
from tests.serving.tiny_model import SHAPE, Offline, assert_same, images


@pytest.mark.parametrize("signature", ["serving_default", "analyze", "score_only"])
def test_answers_are_those_of_the_model_bit_for_bit(
    client: Client, offline: Offline, signature: str
) -> None:
    for batch in (images(1), images(50), images(2).astype(np.float64)):
        answer = client.predict(batch, signature=signature)
        assert_same(answer, offline(signature, batch.astype(np.float32)))
    # Text goes beyond ASCII.
    assert "七" in client.predict(images(50))["label"]


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
    # Python's own integers fit too.
    for given in (batch, batch.tolist()):
        answer = client.predict(given, signature="serving_uint8")
        assert_same(answer, offline("serving_uint8", batch))


def test_encoded_images_go_as_bytes(client: Client, offline: Offline) -> None:
    batch = np.arange(2 * 64, dtype=np.uint8).reshape(2, *SHAPE)
    encoded = [tf.io.encode_png(image).numpy() for image in batch]
    answer = client.predict(encoded, signature="image_bytes")
    assert_same(answer, offline("image_bytes", encoded))


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


def test_images_of_another_kind_are_refused(client: Client) -> None:
    with pytest.raises(InvalidArgumentError, match="Unknown image file format"):
        client.predict([b"no image"], signature="image_bytes")
    with pytest.raises(TypeError, match="divide integer pixels by 255"):
        client.predict(np.zeros((1, *SHAPE), np.uint8))


def test_what_is_not_there_is_told_with_what_is(client: Client, address: str) -> None:
    with pytest.raises(NotFoundError, match=r"no signature 'nope'.*'analyze'"):
        client.predict(images(1), signature="nope")
    with pytest.raises(NotFoundError, match=r"Versions there: 3 AVAILABLE"):
        client.predict(images(1), version=1)
    with Client(address, "other") as lost, pytest.raises(NotFoundError):
        lost.predict(images(1))


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


def test_another_model_of_the_same_name_is_learnt_anew(tmp_path: Path) -> None:
    pytest.importorskip("tensorflow_serving.apis")
    from tests.serving import reference_server

    class Foreign(tf.Module):
        @tf.function(input_signature=[tf.TensorSpec((None, 2), tf.float32, "x")])
        def double(self, x: tf.Tensor) -> dict[str, tf.Tensor]:
            return {"twice": 2.0 * x}

        @tf.function(input_signature=[tf.TensorSpec((None, 3), tf.int32, "y")])
        def triple(self, y: tf.Tensor) -> dict[str, tf.Tensor]:
            return {"thrice": 3 * y, "as_they_were": y}

    def publish(version: int, function: tf.types.experimental.GenericFunction) -> None:
        tf.saved_model.save(foreign, str(tmp_path / ".new"), signatures=function)
        (tmp_path / ".new").rename(tmp_path / "foreign" / str(version))

    foreign = Foreign()
    (tmp_path / "foreign").mkdir()
    publish(1, foreign.double)
    with (
        reference_server.serving("foreign", tmp_path / "foreign") as (grpc, rest),
        Client(grpc, "foreign") as first,
        Client(rest, "foreign") as second,
    ):
        for client in (first, second):
            answer = client.predict(np.ones((1, 2), np.float32))
            assert answer["twice"].tolist() == [[2.0, 2.0]]
        publish(2, foreign.triple)
        while first.wait_until_available() != 2:
            time.sleep(0.02)
        # The clients still know the first one's signature.
        for client in (first, second):
            answer = client.predict({"y": np.ones((1, 3), np.int32)})
            assert answer["thrice"].tolist() == [[3, 3, 3]]
            assert answer["thrice"].dtype == np.int32
