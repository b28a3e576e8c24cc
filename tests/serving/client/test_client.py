import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from keras_traps.serving import Client
from keras_traps.serving.client import (
    InvalidArgumentError,
    NotFoundError,
    TensorSpec,
    VersionStatus,
)
from tests.serving.conftest import SHAPE, Offline, agree, images


def test_answers_are_those_of_the_model(client: Client, offline: Offline) -> None:
    for batch in (images(1), images(50), images(2).astype(np.float64)):
        for signature in ("serving_default", "analyze"):
            answer = client.predict(batch, signature=signature)
            assert agree(answer, offline(signature, batch.astype(np.float32)))


def test_a_long_batch_is_split_and_put_together_in_order(
    address: str, offline: Offline
) -> None:
    batch = images(11)
    parts = [offline("analyze", batch[i : i + 4]) for i in range(0, 11, 4)]
    expected = {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}
    with Client(address, "digits", max_batch_size=4) as client:
        answer = client.predict(batch, signature="analyze")
    assert agree(answer, expected)
    assert answer.version == 1


def test_grey_levels_and_files_go_to_signatures_that_take_them(
    client: Client, offline: Offline
) -> None:
    batch = np.arange(2 * 64, dtype=np.uint8).reshape(2, *SHAPE)
    # Python's own integers fit too.
    for given in (batch, batch.tolist()):
        answer = client.predict(given, signature="serving_uint8")
        assert agree(answer, offline("serving_uint8", batch))
    encoded = [tf.io.encode_png(image).numpy() for image in batch]
    answer = client.predict(encoded, signature="image_bytes")
    assert agree(answer, offline("image_bytes", encoded))


def test_pixels_that_are_no_numbers_or_denormal_arrive(
    client: Client, offline: Offline
) -> None:
    batch = images(4)
    batch[:, 0, 0, 0] = np.nan, np.inf, -np.inf, np.float32(1e-45)
    answer = client.predict(batch, signature="analyze")
    assert (answer["class_id"] == -1).tolist() == [True, True, True, False]
    assert agree(answer, offline("analyze", batch))


@pytest.mark.slow
def test_megabytes_go_in_one_request_and_leave_the_server_up(
    addresses: tuple[str, str], offline: Offline
) -> None:
    # Twice what gRPC takes by default.
    batch = np.broadcast_to(images(1), (2**15, *SHAPE))
    with Client(addresses[0], "digits", max_batch_size=2**15, timeout=300) as client:
        answer = client.predict(batch)
        expected = offline("serving_default", images(1))
        assert set(answer["label"]) == {*expected["label"]}
        with pytest.raises(InvalidArgumentError):
            client.predict([b"x" * 2**26], signature="image_bytes")
        assert agree(client.predict(images(1)), expected)


def test_what_the_server_refuses_is_told_with_what_it_expects(client: Client) -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        client.predict(np.zeros((2, 8, 8), np.float32))
    assert "expects 'image': float32 (batch, 8, 8, 1)" in str(caught.value)
    assert "Received: 'image': float32 (2, 8, 8)" in str(caught.value)
    assert caught.value.code == "INVALID_ARGUMENT"
    assert isinstance(caught.value, ValueError)
    with pytest.raises(InvalidArgumentError, match="Unknown image file format"):
        client.predict([b"no image"], signature="image_bytes")


def test_what_is_not_there_is_told_with_what_is(client: Client, address: str) -> None:
    with pytest.raises(NotFoundError, match=r"no signature 'nope'.*'analyze'"):
        client.predict(images(1), signature="nope")
    with pytest.raises(NotFoundError, match=r"Versions there: 1 AVAILABLE"):
        client.predict(images(1), version=2)
    with Client(address, "other") as lost, pytest.raises(NotFoundError):
        lost.predict(images(1))


def test_versions_and_signatures_are_told_and_can_be_asked_for(
    client: Client, offline: Offline
) -> None:
    assert client.status() == [VersionStatus(1, "AVAILABLE")]
    assert client.wait_until_available() == 1
    answer = client.predict(images(1), version=1)
    assert answer.version == 1
    assert agree(answer, offline("serving_default", images(1)))
    metadata = client.signatures()
    assert metadata.version == 1
    analyze = metadata.signatures["analyze"]
    assert analyze.inputs == {"image": TensorSpec("float32", (None, *SHAPE))}
    assert analyze.outputs["fired"] == TensorSpec("bool", (None, 4))
    assert analyze.outputs["label"] == TensorSpec("string", (None,))


def test_another_model_of_the_same_name_is_learnt_anew(tmp_path: Path) -> None:
    pytest.importorskip("tensorflow_serving.apis")
    from tests.serving import reference_server

    def publish(version: int, signature: tf.TensorSpec, name: str) -> None:
        module = tf.Module()
        module.f = tf.function(lambda x: {name: 3 * x}, input_signature=[signature])
        tf.saved_model.save(module, str(tmp_path / ".new"), signatures=module.f)
        (tmp_path / ".new").rename(tmp_path / "foreign" / str(version))

    (tmp_path / "foreign").mkdir()
    publish(1, tf.TensorSpec((None, 2), tf.float32, "x"), "a")
    with (
        reference_server.serving("foreign", tmp_path / "foreign") as (grpc, rest),
        Client(grpc, "foreign") as first,
        Client(rest, "foreign") as second,
    ):
        for client in (first, second):
            answer = client.predict(np.ones((1, 2), np.float32))
            assert answer["a"].tolist() == [[3.0, 3.0]]
        publish(2, tf.TensorSpec((None, 3), tf.int32, "y"), "b")
        while first.wait_until_available() != 2:
            time.sleep(0.02)
        # The clients still know the first one's signature.
        for client in (first, second):
            answer = client.predict({"y": np.ones((1, 3), np.int32)})
            assert answer["b"].tolist() == [[3, 3, 3]]
            assert answer["b"].dtype == np.int32


@pytest.mark.parametrize(
    "address",
    [
        "localhost:8501",
        "ftp://localhost",
        "http://",
        "http://localhost:8501/serving/v2",
        "http://localhost:8501?tenant=a",
    ],
)
def test_an_address_of_another_form_is_refused(address: str) -> None:
    with pytest.raises(ValueError, match=r"`address`.*Expected 'http://host:port'"):
        Client(address, "m")


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("max_batch_size", 0),
        ("timeout", 0.0),
        ("retries", -1),
        ("version", -1),
        ("model", ""),
    ],
)
def test_a_setting_out_of_its_range_is_refused(setting: str, value: Any) -> None:
    with pytest.raises(ValueError, match=f"`{setting}`"):
        Client("http://localhost:8501", **{"model": "m", setting: value})


@pytest.mark.parametrize("missing", ["grpc", "tensorflow_serving.apis"])
def test_grpc_that_is_not_installed_says_how_to_install_it(
    monkeypatch: pytest.MonkeyPatch, missing: str
) -> None:
    monkeypatch.delitem(
        sys.modules, "keras_traps.serving.client.grpc_api", raising=False
    )
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(ImportError, match="pip install --no-deps tensorflow-serving"):
        Client("grpc://localhost:8500", "m")
    # REST needs none of it.
    Client("http://localhost:8501", "m").close()
