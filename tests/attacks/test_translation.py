import numpy as np
import pytest
import tensorflow as tf

from keras_traps.attacks.translation import gaussian_kernel, smooth


def transcribed_kernel(kernlen: int, nsig: float) -> np.ndarray:
    """The two-dimensional kernel of Dong et al."""
    line = np.linspace(-nsig, nsig, kernlen)
    density = np.exp(-(line**2) / 2) / np.sqrt(2 * np.pi)
    raw = np.outer(density, density)
    return raw / raw.sum()


@pytest.mark.parametrize(
    ("kernlen", "nsig"), [(1, 1), (3, 3), (5, 3), (10, 3), (15, 3)]
)
@pytest.mark.parametrize("channels", [1, 3])
def test_two_passes_are_the_authors_convolution(
    kernlen: int, nsig: float, channels: int
) -> None:
    gradients = tf.random.stateless_normal((2, 8, 9, channels), seed=(0, 0))

    smoothed = smooth(gradients, tf.constant(gaussian_kernel(kernlen, nsig)))

    kernel = transcribed_kernel(kernlen, nsig).astype(np.float32)[:, :, None, None]
    filters = np.tile(kernel, (1, 1, channels, 1))
    expected = tf.nn.depthwise_conv2d(gradients, filters, (1, 1, 1, 1), "SAME")
    np.testing.assert_allclose(smoothed, expected, atol=1e-6)


def test_a_kernel_of_length_one_changes_nothing() -> None:
    assert gaussian_kernel(1, 1).tolist() == [1.0]


def test_the_kernel_is_even_and_sums_to_one() -> None:
    kernel = gaussian_kernel(10, 3)
    assert kernel.dtype == np.float32
    np.testing.assert_allclose(kernel, kernel[::-1], rtol=1e-6)
    assert kernel.sum() == pytest.approx(1)
    assert (np.diff(kernel[:5]) > 0).all()
