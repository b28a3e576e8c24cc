"""The warm-up file, read with TensorFlow Serving's own protocol buffers."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from keras_traps.serving import Exported
from keras_traps.serving.warmup import WARMUP_FILE, prediction_log
from tests.serving.conftest import load


@pytest.fixture(scope="module")
def logs() -> Any:
    return pytest.importorskip(
        "tensorflow_serving.apis.prediction_log_pb2",
        reason="no tensorflow-serving-api: install it with --no-deps",
    )


def test_each_record_parses_and_runs(logs: Any, exported: Exported) -> None:
    signatures = load(exported.path)
    seen = []
    for record in tf.data.TFRecordDataset(str(exported.path / WARMUP_FILE)):
        log = logs.PredictionLog.FromString(record.numpy())
        assert log.WhichOneof("log_type") == "predict_log"
        request = log.predict_log.request
        assert request.model_spec.name == "digits"
        name = request.model_spec.signature_name
        inputs = {key: tf.make_ndarray(value) for key, value in request.inputs.items()}
        answer = signatures[name](**inputs)
        (batch,) = inputs.values()
        assert len(answer["class_id"]) == len(batch)
        seen.append((name, len(batch)))
    assert sorted(seen) == sorted(
        (name, size) for name in exported.signatures for size in (1, 3)
    )


@pytest.mark.parametrize("size", [1, 100, 20_000])
def test_the_bytes_are_those_of_the_official_classes(logs: Any, size: int) -> None:
    batch = tf.constant(np.random.default_rng(0).random((size, 2), np.float32))
    log = logs.PredictionLog()
    request = log.predict_log.request
    request.model_spec.name = "modèle"
    request.model_spec.signature_name = "serving_default"
    request.inputs["image"].CopyFrom(tf.make_tensor_proto(batch))
    ours = prediction_log("modèle", "serving_default", "image", batch)
    assert ours == log.SerializeToString(deterministic=True)


def test_no_batch_sizes_make_no_file(
    exported: Exported, tmp_path: Path, no_self_test: None
) -> None:
    from keras_traps import serving
    from keras_traps.models import digits_cnn

    plain = serving.export(
        digits_cnn(),
        tmp_path,
        output="logits",
        warmup_batch_sizes=(),
        verbose=False,
    )
    assert (exported.path / WARMUP_FILE).exists()
    assert not (plain.path / WARMUP_FILE).exists()
