import json
from functools import partial
from pathlib import Path
from typing import Any

import keras
import numpy as np
import numpy.typing as npt
import pytest
import tensorflow as tf

from keras_traps import ops
from keras_traps.layers import QIMDecoder
from keras_traps.ops import Key
from tests.layers.layer_checks import check_layer, quick_and_slow

# For images of 6 by 6: half of the sum of step sizes, 1179, lies at u = -0.1.
CONSTANTS: dict[str, Any] = {"a0": -1 / 1179, "a1": -0.9, "a2": 0.6}


def random_images(shape: tuple[int, ...], count: int = 4) -> npt.NDArray[np.float32]:
    return np.random.default_rng(1).random((count, *shape), np.float32)


@quick_and_slow
@pytest.mark.parametrize(
    ("shape", "settings"),
    [
        ((5, 4, 3), {**CONSTANTS, "key": Key.from_seed(3)}),
        (
            (9,),
            {
                "key": Key.from_seed(1),
                "messages": "random",
                "steps": [2.0, 9.5, 40.0],
                "step_weights": (9.0, 0.0, 1),
                "a0": -0.01,
                "a1": -1,
                "a2": 2,
                "bounds": (-1.0, 1.5),
            },
        ),
    ],
)
def test_it_does_what_a_layer_does(
    shape: tuple[int, ...], settings: dict[str, Any], whole: bool, tmp_path: Path
) -> None:
    make = partial(QIMDecoder, 3, **settings)
    check_layer(make, [random_images(shape)], tmp_path, whole)


@pytest.mark.parametrize(
    ("shape", "classes"),
    [((7,), 2), ((5, 4, 3), 10), ((3, 3, 1), 1000)],
)
def test_it_is_the_op_on_grey_levels(shape: tuple[int, ...], classes: int) -> None:
    images = random_images(shape)
    decoder = QIMDecoder.from_seed(
        6, num_classes=classes, shape=shape, step_weights=(9, 1), **CONSTANTS
    )
    index = ops.draw_steps(shape, (3.0, 128.0), key=Key.from_seed(6))
    code = ops.draw_code(shape, classes, key=Key.from_seed(6))
    steps = np.array([3, 128], np.float32)[index]
    weights = np.array([9, 1], np.float32)[index]
    grey = tf.constant(images * np.float32(255))
    distances = ops.qim_distance(grey, ops.qim_tables(code, steps, weights)).numpy()
    # The layer takes the pixels as they are: no grey level is rounded on the way.
    tolerance = 255 * 2**-23 * weights.sum()
    np.testing.assert_allclose(decoder.distances(images), distances, atol=tolerance)
    a0, a1, a2 = CONSTANTS.values()
    shift = ops.centred_shift(a0, a1, steps, weights)
    expected = ops.qim_correlation(distances, a0, shift, a2)
    np.testing.assert_allclose(decoder(images), expected, rtol=1e-5, atol=1e-6)
    assert decoder(images).shape == (4, classes)


@pytest.mark.parametrize("shape", [(36,), (4, 3, 3)])
def test_an_attractor_has_the_highest_correlation_with_its_class(
    shape: tuple[int, ...],
) -> None:
    decoder = QIMDecoder.from_seed(2, num_classes=5, shape=shape, **CONSTANTS)
    images = random_images(shape, count=5)
    classes = tf.constant([4, 2, 0, 1, 1])
    attractors = decoder.attractors(images, classes)
    assert attractors.shape == images.shape
    assert 0 <= tf.reduce_min(attractors) <= tf.reduce_max(attractors) <= 1
    distances = decoder.distances(attractors).numpy()
    # None of a message's own steps is left.
    all_steps = np.dot(
        np.asarray(decoder.pixel_steps), np.asarray(decoder.pixel_weights)
    )
    np.testing.assert_allclose(distances[range(5), classes], -all_steps / 2, atol=1e-2)
    np.testing.assert_array_equal(tf.argmax(decoder(attractors), axis=1), classes)


def test_integer_images_are_refused() -> None:
    decoder = QIMDecoder.from_seed(3, num_classes=4, shape=(8, 8))
    images = tf.cast(random_images((8, 8)), "uint8")
    for call in (decoder, decoder.distances):
        with pytest.raises(TypeError, match=r"floating point pixels.*uint8"):
            call(images)


@pytest.mark.parametrize("bounds", [(0, 255), (-1, 1), (-30.5, 10)])
def test_bounds_say_where_the_grey_levels_are(bounds: tuple[float, float]) -> None:
    plain = QIMDecoder.from_seed(3, num_classes=4, shape=(6, 6), **CONSTANTS)
    moved = QIMDecoder.from_seed(
        3, num_classes=4, shape=(6, 6), bounds=bounds, **CONSTANTS
    )
    # Away from the kinks, on which rounding decides.
    images = np.round(random_images((6, 6)) * 255 + 0.25) / 255 + 0.1 / 255
    low, high = bounds
    there = (images * (high - low) + low).astype(np.float32)
    np.testing.assert_allclose(moved(there), plain(images), rtol=1e-5, atol=1e-6)
    back = moved.attractors(there, [0, 1, 2, 3])
    expected = plain.attractors(images, [0, 1, 2, 3]) * (high - low) + low
    np.testing.assert_allclose(back, expected, atol=1e-5 * (high - low))


def test_integers_are_pixels_of_integer_bounds() -> None:
    decoder = QIMDecoder.from_seed(
        3, num_classes=4, shape=(6, 6), bounds=(0, 255), **CONSTANTS
    )
    levels = np.random.default_rng(0).integers(0, 256, (4, 6, 6), np.uint8)
    np.testing.assert_array_equal(decoder(levels), decoder(levels.astype(np.float32)))


def test_an_image_of_another_range_has_no_correlations() -> None:
    decoder = QIMDecoder.from_seed(3, num_classes=4, shape=(6, 6), **CONSTANTS)
    images = random_images((6, 6), count=2)
    # Noise and augmentation leave the range a little.
    images[0, 0, 0] = 1.4
    images[1] *= 255
    assert np.isfinite(decoder(images)[0]).all()
    assert np.isnan(decoder(images)[1]).all()


@pytest.mark.parametrize("side", [8, 64, 224])
def test_a_row_alone_is_that_row_in_a_batch(side: int) -> None:
    images = random_images((side, side, 3), count=8) * 0.2 + 0.3
    decoder = QIMDecoder.from_seed(3, num_classes=5, shape=(side, side, 3))
    spread = np.asarray(decoder.distances(images)).std()
    decoder.a0 = -0.03 / spread
    decoder.shift.assign(-0.3)
    together = decoder(images).numpy()
    for index in range(8):
        alone = decoder(images[index : index + 1]).numpy()
        np.testing.assert_allclose(alone[0], together[index], atol=1e-6)


def test_the_file_of_many_classes_of_large_images_is_small(tmp_path: Path) -> None:
    inputs = keras.Input((224, 224, 3))
    model = keras.Model(inputs, QIMDecoder(1000)(inputs))
    model.save(tmp_path / "model.keras")
    assert (tmp_path / "model.keras").stat().st_size < 2**21


def test_an_exported_decoder_of_many_classes_of_large_images_is_small(
    tmp_path: Path,
) -> None:
    inputs = keras.Input((224, 224, 3))
    model = keras.Model(inputs, QIMDecoder(1000)(inputs))
    model.export(str(tmp_path / "model"), verbose=False)
    files = [file for file in (tmp_path / "model").rglob("*") if file.is_file()]
    assert sum(file.stat().st_size for file in files) < 4 * 2**20


def test_messages_are_those_of_the_key_and_are_written_out_on_demand() -> None:
    decoder = QIMDecoder.from_seed(6, num_classes=70, shape=(7, 6, 3))
    expected = ops.draw_code((7, 6, 3), 70, key=Key.from_seed(6)).bits()
    np.testing.assert_array_equal(decoder.message_bits, expected)
    np.testing.assert_array_equal(decoder.code.bits(), expected)


def test_a_decoder_without_a_key_has_one_that_no_one_knows() -> None:
    one, other = (QIMDecoder(4, name="w") for _ in range(2))
    for decoder in (one, other):
        decoder.build((None, 8, 8))
    assert one.fingerprint != other.fingerprint
    assert "key" not in one.get_config()


def test_nothing_is_trainable_even_where_all_is_asked_to_be() -> None:
    inputs = keras.Input((4, 4))
    model = keras.Model(inputs, QIMDecoder(3, trainable=True)(inputs))
    assert model.trainable_variables == []
    model.trainable = True
    assert model.trainable_variables == []
    assert len(model.non_trainable_variables) == 9


def decoder_with(**changes: Any) -> QIMDecoder:
    settings = {"shape": (6, 6), "seed": 4, "num_classes": 3, **CONSTANTS, **changes}
    return QIMDecoder.from_seed(settings.pop("seed"), **settings)


@pytest.mark.parametrize(
    "change",
    [
        {"seed": 5},
        {"messages": "random"},
        {"num_classes": 4},
        {"shape": (6, 7)},
        {"steps": (3.0, 127.0)},
        {"step_weights": (1.0, 1.5)},
        {"a0": -0.011},
        {"a1": -4.1},
        {"a2": 0.60001},
        {"bounds": (0.0, 256.0)},
    ],
)
def test_fingerprint_changes_with_every_secret(change: dict[str, Any]) -> None:
    fingerprint = decoder_with().fingerprint
    assert len(bytes.fromhex(fingerprint)) == 32
    assert decoder_with(**change).fingerprint != fingerprint


def test_fingerprint_does_not_change_with_what_no_correlation_depends_on() -> None:
    same = decoder_with(name="other", dtype="mixed_float16")
    assert same.fingerprint == decoder_with().fingerprint


def test_fingerprint_is_pinned() -> None:
    # Of draws that are the same on every machine: analyzers on disk refer to it.
    assert decoder_with().fingerprint[:16] == "01dc53b4876d6ee2"


def test_weights_on_disk_decide_not_the_key(tmp_path: Path) -> None:
    inputs = keras.Input((6, 6))
    model = keras.Model(inputs, QIMDecoder(3, name="w", **CONSTANTS)(inputs))
    decoder = model.get_layer("w")
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert loaded.get_layer("w").fingerprint == decoder.fingerprint
    assert loaded.get_layer("w").image_shape == decoder.image_shape == (6, 6)


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        ({"num_classes": 1}, "num_classes"),
        ({"key": b"short"}, "key"),
        ({"messages": "even"}, "messages"),
        ({"steps": ()}, "steps"),
        ({"steps": (3.0, 0.0)}, "steps"),
        ({"step_weights": (1.0,)}, "step_weights"),
        ({"step_weights": (0.0, 0.0)}, "step_weights"),
        ({"a0": float("nan")}, "a0"),
        ({"a1": True}, "a1"),
        ({"a2": float("nan")}, "a2"),
        ({"bounds": (1.0, 1.0)}, "bounds"),
    ],
)
def test_an_argument_out_of_range_is_named(settings: dict[str, Any], name: str) -> None:
    with pytest.raises(ValueError, match=f"Invalid value for argument `{name}`"):
        QIMDecoder(**{"num_classes": 3, **settings})


def test_numpys_numbers_give_the_same_layer_as_pythons() -> None:
    numpys: dict[str, Any] = {
        "num_classes": np.int64(3),
        "steps": np.array([3.0, 128.0]),
        "step_weights": np.array([2.0, 1.0]),
    }
    plain: dict[str, Any] = {
        "num_classes": 3,
        "steps": (3.0, 128.0),
        "step_weights": (2.0, 1.0),
    }
    found, expected = (QIMDecoder(**settings, name="w") for settings in (numpys, plain))
    assert json.dumps(found.get_config()) == json.dumps(expected.get_config())


@pytest.mark.parametrize("shape", [(), (None, 4), (4, 4, None)])
def test_images_of_unknown_size_are_refused(shape: tuple[int | None, ...]) -> None:
    with pytest.raises(ValueError, match="whose size is known"):
        QIMDecoder(3)(keras.Input(shape))
