"""Section V-E word for word: float64, codeword by codeword, pixel by pixel."""

import numpy as np
import numpy.typing as npt

Float64 = npt.NDArray[np.float64]


def codewords(bit: int, step: float, low: float, high: float) -> Float64:
    """Of a bit, ascending, from below `low` to above `high`.

    Those of 0 lie at 0.5, 2.5, ... steps and those of 1 at 1.5, 3.5, ...; both go on
    below 0.
    """
    first = int(np.floor(low / (2 * step))) - 1
    last = int(np.ceil(high / (2 * step))) + 1
    start = 0.5 if bit == 0 else 1.5
    return np.array([(start + 2 * k) * step for k in range(first, last + 1)])


def pixel_distance(x: float, bit: int, step: float) -> float:
    """q(x, m, delta)."""
    return float(np.abs(codewords(bit, step, x, x) - x).min())


def distance(
    images: npt.NDArray[np.float32],
    messages: npt.NDArray[np.uint8],
    steps: npt.NDArray[np.float32],
    weights: npt.NDArray[np.float32],
) -> Float64:
    """Q(x, m) of every image and message, less half of all weighted steps."""
    flat = images.reshape(len(images), -1)
    result = np.zeros((len(flat), len(messages)))
    for pixel in range(flat.shape[1]):
        step, weight = float(steps[pixel]), float(weights[pixel])
        for image, x in enumerate(flat[:, pixel]):
            q = [pixel_distance(float(x), bit, step) for bit in (0, 1)]
            result[image] += [weight * (q[m[pixel]] - step / 2) for m in messages]
    return result


def right_slope(x: float, bit: int, step: float) -> float:
    """The derivative of q with respect to x from the right."""
    h = 1e-6 * step
    rise = pixel_distance(x + h, bit, step) - pixel_distance(x, bit, step)
    return float(np.round(rise / h))


def distance_gradient(
    images: npt.NDArray[np.float32],
    messages: npt.NDArray[np.uint8],
    steps: npt.NDArray[np.float32],
    weights: npt.NDArray[np.float32],
) -> Float64:
    """dQ(x, m)/dx of every image, message and pixel."""
    flat = images.reshape(len(images), -1)
    result = np.zeros((len(flat), len(messages), flat.shape[1]))
    for pixel in range(flat.shape[1]):
        step, weight = float(steps[pixel]), float(weights[pixel])
        for image, x in enumerate(flat[:, pixel]):
            slope = [right_slope(float(x), bit, step) for bit in (0, 1)]
            result[image, :, pixel] = [weight * slope[m[pixel]] for m in messages]
    return result


def correlation(r: Float64, a0: float, a1: float, a2: float) -> Float64:
    """Equation 3."""
    return np.asarray(a2 * np.tanh((a0 * r - a1) / (1 + a1 - a0 * r)))
