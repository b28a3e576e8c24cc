import logging
from collections.abc import Iterator

import pytest
import tensorflow as tf

from keras_traps.devices import hush_retracing, prepare_devices


@pytest.fixture(autouse=True)
def _same_precision_afterwards() -> Iterator[None]:
    before = tf.config.experimental.tensor_float_32_execution_enabled()
    yield
    tf.config.experimental.enable_tensor_float_32_execution(before)


@pytest.mark.parametrize(
    ("gpus", "expected"),
    [([], "CPU"), (["a"], "1 GPU"), (["a", "b"], "2 GPU")],
)
def test_every_gpu_takes_memory_as_needed(
    gpus: list[str], expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    grown = []

    def listed(kind: str) -> list[str]:
        assert kind == "GPU"
        return gpus

    def grow(gpu: str, enable: bool) -> None:
        assert enable
        grown.append(gpu)

    monkeypatch.setattr(tf.config, "list_physical_devices", listed)
    monkeypatch.setattr(tf.config.experimental, "set_memory_growth", grow)

    assert prepare_devices() == expected
    assert grown == gpus


def test_reported_numbers_are_not_rounded_to_ten_bits() -> None:
    tf.config.experimental.enable_tensor_float_32_execution(True)
    prepare_devices()
    assert not tf.config.experimental.tensor_float_32_execution_enabled()


def test_a_warning_of_retracing_is_not_shown_and_an_error_is() -> None:
    logger = logging.getLogger("tensorflow")
    before = logger.level
    try:
        hush_retracing()
        assert not logger.isEnabledFor(logging.WARNING)
        assert logger.isEnabledFor(logging.ERROR)
    finally:
        logger.setLevel(before)
