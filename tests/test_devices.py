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


@pytest.mark.parametrize(("gpus", "expected"), [("", "CPU"), ("ab", "2 GPU")])
def test_every_gpu_takes_memory_as_needed(
    gpus: str, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    grown: dict[str, bool] = {}
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda _: [*gpus])
    monkeypatch.setattr(
        tf.config.experimental,
        "set_memory_growth",
        lambda gpu, enable: grown.update({gpu: enable}),
    )
    assert prepare_devices() == expected
    assert grown == dict.fromkeys(gpus, True)


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
