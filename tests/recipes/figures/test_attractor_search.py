import itertools

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_traps.attractors.analysis import AttractorSearch, nearest_attractors
from keras_traps.attractors.analysis.nearest import Ends
from keras_traps.layers import QIMDecoder
from tests.attractors.analysis.cases import decoder, images


def codewords(bit: int, step: float, ends: Ends) -> list[float]:
    """All places where one pixel may end, by the definition of each word."""
    endless = [step * (0.5 + bit + 2 * k) for k in range(-100, 101)]
    if ends == "beyond":
        return endless
    return [place for place in endless if 0 <= place <= 255]


def move(level: float, bit: int, step: float, ends: Ends) -> float:
    """The way of one pixel in grey levels, by trying every codeword."""
    if ends == "cut":
        nearest = min(codewords(bit, step, "beyond"), key=lambda c: abs(c - level))
        return min(max(nearest, 0.0), 255.0) - level
    places = codewords(bit, step, ends)
    return min((place - level for place in places), key=abs)


def brute_force(
    layer: QIMDecoder, x: np.ndarray, scale: object, ends: Ends
) -> tuple[np.ndarray, int, float]:
    """Way, class and step of the nearest attractor of one image."""
    bits, steps = layer.message_bits.numpy(), layer.pixel_steps.numpy()
    names = {"whole": [0.0], "nearest": [3.0, 128.0]}.get(str(scale), [scale])
    found = []
    for (k, message), name in itertools.product(enumerate(bits), names):
        way = np.array(
            [
                move(255.0 * level, bit, step, ends) if name in (0.0, step) else 0.0
                for level, bit, step in zip(x.ravel(), message, steps, strict=True)
            ]
        )
        found.append((float(np.linalg.norm(way)), k, name, way))
    _, best, name, way = min(found, key=lambda entry: entry[0])
    return way / 255.0, best, float(str(name))


@pytest.mark.parametrize("ends", ["cut", "inside", "beyond"])
@pytest.mark.parametrize("scale", ["nearest", "whole", 3.0, 128.0])
def test_it_is_the_one_that_brute_force_finds(scale: float, ends: Ends) -> None:
    layer = decoder()
    x = np.concatenate([images(12), np.round(images(8, seed=1))])
    search = AttractorSearch(scale=scale, ends=ends)
    found = nearest_attractors(layer, x, search=search, batch_size=7)
    for i, image in enumerate(x):
        way, best, step = brute_force(layer, image, scale, ends)
        got = (found.images[i] - image).ravel()
        np.testing.assert_allclose(got, way, atol=2e-6)
        assert (found.classes[i], found.steps[i]) == (best, step)
        assert found.distances[i] == pytest.approx(np.linalg.norm(way), abs=1e-5)
    if ends != "beyond":
        assert found.images.min() >= 0
        assert found.images.max() <= 1


def test_a_whole_attractor_inside_the_range_holds_its_message() -> None:
    layer = decoder(steps=(3.0, 40.0))
    x = images(10)
    search = AttractorSearch(scale="whole", ends="inside")
    found = nearest_attractors(layer, x, search=search)
    distances = layer.distances(tf.constant(found.images)).numpy()
    held = distances[np.arange(10), found.classes]
    np.testing.assert_allclose(held, 0, atol=1e-3)
    assert (found.distances > 0).all()


def test_the_nearest_is_never_farther_than_that_of_a_given_scale() -> None:
    layer, x = decoder(shape=(6, 6, 1)), images(30, shape=(6, 6, 1))
    nearest = nearest_attractors(layer, x).distances
    for scale in ("whole", 3.0, 128.0):
        search = AttractorSearch(scale=scale)
        other = nearest_attractors(layer, x, search=search).distances
        assert (nearest <= other + 1e-6).all()


def test_a_trapped_model_gives_the_attractors_of_its_decoder(
    trapped: keras.Model,
) -> None:
    x = images(5, shape=(8, 8, 1))
    found = nearest_attractors(trapped, x)
    own = nearest_attractors(trapped.get_layer("qim_decoder"), x)
    np.testing.assert_array_equal(found.images, own.images)
    assert found.images.shape == x.shape
    assert set(found.steps) <= {3.0, 128.0}


def test_a_model_without_a_decoder_is_named(classifier: keras.Model) -> None:
    with pytest.raises(ValueError, match="without a QIM decoder: 'digits_linear'"):
        nearest_attractors(classifier, images(2, shape=(8, 8, 1)))


@pytest.mark.parametrize("shape", [(3, 3, 1), (3, 2, 1), (1, 2, 3), (6,)])
def test_images_of_another_shape_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"shape \(batch, 2, 3, 1\)"):
        nearest_attractors(decoder(), images(2, shape=shape))


def test_no_images_integers_and_pixels_out_of_range_are_refused() -> None:
    with pytest.raises(ValueError, match="at least one image"):
        nearest_attractors(decoder(), images(0))
    with pytest.raises(TypeError, match="argument `images`"):
        nearest_attractors(decoder(), np.ones((1, 2, 3, 1), int))
    with pytest.raises(ValueError, match=r"pixels in \[0, 1\]"):
        nearest_attractors(decoder(), 2 * images(3) + 1)


def test_a_search_that_means_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="argument `ends`"):
        AttractorSearch(ends="open")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="argument `scale`"):
        AttractorSearch(scale="both")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"one of \(3.0, 128.0\). Received: scale=5"):
        nearest_attractors(decoder(), images(2), search=AttractorSearch(scale=5.0))
