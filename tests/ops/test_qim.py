from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pytest
import tensorflow as tf

from keras_traps import ops
from tests.ops import reference

MODES: dict[str, Callable[[Any], Any]] = {
    "eager": lambda function: function,
    "graph": tf.function,
    "xla": lambda function: tf.function(function, jit_compile=True),
}


# As many numbers as are written out, and none: the two ways to the same distances.
WAYS = {"written": 2**18, "by column": 0}


class Case(NamedTuple):
    images: npt.NDArray[np.float32]
    code: ops.Code
    steps: npt.NDArray[np.float32]
    weights: npt.NDArray[np.float32]

    def __str__(self) -> str:
        return f"{self.images.shape}, {len(self.code.rows)} messages"

    @property
    def tables(self) -> ops.QIMTables:
        return ops.qim_tables(self.code, self.steps, self.weights)

    @property
    def written(self) -> tuple[npt.NDArray[Any], ...]:
        """What the reference takes."""
        return self.images, self.code.bits(), self.steps, self.weights


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr("keras_traps.ops.qim._MOST_WRITTEN", WAYS[request.param])
    return str(request.param)


def random_case(
    seed: int, shape: tuple[int, ...] = (5, 3, 2), count: int = 3, classes: int = 4
) -> Case:
    rng = np.random.default_rng(seed)
    pixels = int(np.prod(shape))
    # The paper's two steps and others, so that no code can rely on theirs.
    steps = rng.choice(
        [3.0, 128.0, rng.uniform(0.5, 60), rng.uniform(130, 600)], pixels
    )
    return Case(
        rng.uniform(0, 255, (count, *shape)).astype(np.float32),
        ops.draw_code(shape, classes, key=ops.Key.from_seed(seed), messages="random"),
        steps.astype(np.float32),
        rng.uniform(0, 2, pixels).astype(np.float32),
    )


def kink_case(steps: tuple[float, ...]) -> Case:
    """Codewords of both bits, the borders between cells, 0, 255; steps in turn."""
    points = {0.0, 255.0}
    for step in steps:
        points |= {k * step / 2 for k in range(int(510 / step) + 1)}
    points = {x for x in points if x <= 255}
    levels = np.array(sorted(points), np.float32)
    pixels = len(levels)
    return Case(
        levels[None],
        ops.draw_code((pixels,), 3, key=ops.Key.from_seed(0), messages="random"),
        np.resize(np.array(steps, np.float32), pixels),
        np.ones(pixels, np.float32),
    )


KINKS = [
    kink_case(steps) for steps in ((3.0,), (128.0,), (3.0, 128.0), (0.75, 7.0, 300.0))
]


def distance_and_gradient(case: Case, upstream: Any, mode: str) -> Any:
    def run(x: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        with tf.GradientTape() as tape:
            tape.watch(x)
            result = ops.qim_distance(x, case.tables)
        return result, tape.gradient(result, x, upstream)

    return MODES[mode](run)(tf.constant(case.images))


def assert_near(result: Any, expected: npt.NDArray[np.float64]) -> None:
    """Within the rounding of float32 of the spread of the distances."""
    np.testing.assert_allclose(result, expected, atol=2e-6 * np.abs(expected).max())


@pytest.mark.parametrize(
    "case",
    [
        random_case(0, (7,)),
        random_case(1, (3, 2, 1, 3)),
        random_case(2, (3, 3), count=1, classes=1000),
        # Two turns of the columns and a rest of a third.
        random_case(4, (14, 14, 1), count=1, classes=16),
        random_case(6, (9, 23, 3), count=2, classes=70),
        # Thousands of terms do not lose the last digits.
        random_case(5, (48, 48, 3), count=2),
    ],
    ids=str,
)
def test_distance_is_that_of_the_paper(case: Case, way: str) -> None:
    result = ops.qim_distance(case.images, case.tables).numpy()
    assert_near(result, reference.distance(*case.written))


def test_few_numbers_are_written_out_and_many_are_not() -> None:
    few, many = (random_case(0, (5, 7), classes=k).tables for k in (10, 10_000))
    assert (few.is_written, few.kernel.shape) == (True, (35, 10))
    assert (many.is_written, many.kernel.shape) == (False, (35,))


def test_distances_to_more_messages_than_one_matrix_transforms() -> None:
    case = random_case(3, (8, 9), count=2, classes=5000)
    signs = 1 - 2.0 * case.code.bits()
    assert not case.tables.is_written
    turns = case.images.reshape(2, -1) / (2.0 * case.steps) - 0.25
    wave = (np.abs(turns - np.round(turns)) - 0.25) * 2 * case.steps * case.weights
    result = ops.qim_distance(case.images, case.tables).numpy()
    assert_near(result, wave @ signs.T)


def test_codewords_go_on_below_0_and_above_255(way: str) -> None:
    levels = np.array([-193, -192, -64, -1, 0, 256 + 63, 600], np.float32)
    code = ops.draw_code((7,), 2, key=ops.Key.from_seed(1), messages="random")
    case = Case(levels[None], code, np.full(7, 128, np.float32), np.ones(7, np.float32))
    result = ops.qim_distance(case.images, case.tables).numpy()
    assert_near(result, reference.distance(*case.written))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("case", [random_case(3), *KINKS[2:]], ids=str)
def test_gradient_is_the_derivative_from_the_right(
    case: Case, mode: str, way: str
) -> None:
    shape = (len(case.images), len(case.code.rows))
    upstream = np.random.default_rng(9).normal(size=shape).astype(np.float32)
    result, gradient = distance_and_gradient(case, upstream, mode)
    assert_near(result, reference.distance(*case.written))

    slopes = reference.distance_gradient(*case.written)
    expected = np.einsum("bn,bnp->bp", upstream, slopes).reshape(case.images.shape)
    assert gradient is not None
    np.testing.assert_allclose(gradient, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("high", [1.0, 2.0, 254.0])
@pytest.mark.parametrize("step", [0.5, 3.0, 7.0, 10.0, 50.0, 128.0])
def test_no_grey_level_at_a_kink_is_taken_to_be_below_it(
    step: float, high: float
) -> None:
    # In units in which none of them is a number that float32 has.
    levels = np.arange(256)
    pixels = (levels / 255 * high).astype(np.float32)
    code = ops.draw_code((256,), 2, key=ops.Key.from_seed(2))
    unit = 255 / high
    steps = np.full(256, step / unit)
    case = Case(pixels[None], code, steps, np.full(256, unit))
    upstream = np.array([[1.0, 0.0]], np.float32)
    _, gradient = distance_and_gradient(case, upstream, "graph")
    rises = np.floor(levels / step + 0.5) % 2 == 1
    signs = 1 - 2.0 * code.bits()[0]
    expected = np.where(rises, signs, -signs) * unit
    np.testing.assert_allclose(gradient[0], expected, rtol=1e-6)


def test_messages_steps_and_weights_are_constants_to_the_gradient() -> None:
    case = random_case(0)
    tables = case.tables
    held = (tables.scale, tables.kernel)
    with tf.GradientTape() as tape:
        tape.watch(held)
        result = ops.qim_distance(case.images, tables)
    assert tape.gradient(result, held) == (None, None)


@pytest.mark.parametrize("u", [-1e6, -1.0, 0.0, 0.3, 0.95])
def test_correlation_is_equation_3(u: float) -> None:
    a0, a1, a2 = -0.004, -1.7, 0.3
    r = np.array([(u + a1) / a0], np.float32)
    result = ops.qim_correlation(tf.constant(r), a0, a1, a2).numpy()
    expected = reference.correlation(r.astype(np.float64), a0, a1, a2)
    np.testing.assert_allclose(result, expected, rtol=2e-5, atol=1e-7)


@pytest.mark.parametrize("u", [0.9999, 1.0, 1.0001, 2.0, 1e6, -1e30])
def test_correlation_at_and_beyond_the_pole_is_finite_with_a_finite_gradient(
    u: float,
) -> None:
    r = tf.constant([u])
    with tf.GradientTape() as tape:
        tape.watch(r)
        result = ops.qim_correlation(r, 1.0, 0.0, 2.0)
    gradient = tape.gradient(result, r)
    np.testing.assert_allclose(result, [2.0 if u > 0 else -2 * np.tanh(1)], rtol=1e-6)
    np.testing.assert_allclose(gradient, [0.0], atol=1e-6)


def test_correlation_never_falls_as_u_rises() -> None:
    u = tf.concat([tf.linspace(-30.0, 0.9, 400), tf.linspace(0.9, 1.1, 2000)], axis=0)
    result = ops.qim_correlation(u, 1.0, 0.0, 1.0).numpy()
    assert (np.diff(result) >= 0).all()
    assert (result[0], result[-1]) == (pytest.approx(-0.7485, abs=1e-3), 1.0)


@pytest.mark.parametrize(
    ("jit_compile", "mode"),
    [(False, "eager"), (False, "graph"), (True, "eager"), (True, "graph")],
)
@pytest.mark.parametrize("case", [random_case(6), KINKS[2]], ids=str)
def test_decode_is_equation_3_of_the_distance_forth_and_back(
    case: Case, jit_compile: bool, mode: str, way: str
) -> None:
    r = reference.distance(*case.written)
    middle, spread = r.mean(), r.std()
    a0 = -0.2 / spread
    a1, a2 = a0 * middle - 0.2, 0.5
    constants = [tf.constant(a, tf.float32) for a in (a0, a1, a2)]

    def run(x: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        with tf.GradientTape() as tape:
            tape.watch(x)
            w = ops.qim_decode(x, case.tables, *constants, jit_compile=jit_compile)
            first = w[:, 0]
        return w, tape.gradient(first, x)

    w, gradient = MODES[mode](run)(tf.constant(case.images))
    tolerance = 1e-5
    np.testing.assert_allclose(
        w, reference.correlation(r, a0, a1, a2), rtol=tolerance, atol=tolerance
    )

    u = a0 * r[:, 0] - a1
    slope = a2 * a0 / (np.cosh(u / (1 - u)) * (1 - u)) ** 2
    expected = slope[:, None] * reference.distance_gradient(*case.written)[:, 0]
    np.testing.assert_allclose(
        gradient.numpy().reshape(expected.shape),
        expected,
        rtol=1e-3,
        atol=1e-5 * np.abs(expected).max(),
    )


def grey_images(
    seed: int, shape: tuple[int, ...], count: int = 3
) -> npt.NDArray[np.float32]:
    rng = np.random.default_rng(seed)
    images = rng.uniform(0, 255, (count, *shape)).astype(np.float32)
    images.ravel()[::4] = rng.choice([0, 255, 64, 1.5], images.ravel()[::4].shape)
    return images


def nearest_level(x: float, bit: int, step: float) -> float:
    """By trying: the nearest codeword in [0, 255], or the end nearest to one."""
    words = reference.codewords(bit, step, 0, 255)
    inside = words[(words >= 0) & (words <= 255)]
    if len(inside):
        return float(inside[np.abs(inside - x).argmin()])
    gaps = [np.abs(words - end).min() for end in (0.0, 255.0)]
    return (0.0, 255.0)[int(np.argmin(gaps))]


@pytest.mark.parametrize("step", [3.0, 7.5, 128.0, 171.0, 256.0])
def test_the_image_is_the_nearest_that_holds_the_message(step: float) -> None:
    images = grey_images(1, (3, 3, 2))
    pixels = 18
    message = np.random.default_rng(2).integers(0, 2, pixels, np.uint8)
    steps = np.full(pixels, step, np.float32)
    result = ops.qim_embed(images, message, steps).image.numpy()

    assert result.shape == images.shape
    assert (result.min(), result.max()) >= (0, 0)
    assert result.max() <= 255
    flat, moved = images.reshape(-1, pixels), result.reshape(-1, pixels)
    for (image, pixel), x in np.ndenumerate(flat):
        expected = nearest_level(float(x), int(message[pixel]), step)
        # At a cell's border two codewords are equally near.
        assert abs(moved[image, pixel] - x) == pytest.approx(
            abs(expected - x), abs=1e-4
        )
        end = pytest.approx(expected, abs=1e-4)
        assert moved[image, pixel] == end or abs(x - expected) == pytest.approx(
            step, abs=1e-4
        )


@pytest.mark.parametrize(
    ("x", "bit", "step", "expected"),
    [
        (0, 0, 3, 1.5),
        (0, 1, 3, 4.5),
        (255, 0, 3, 253.5),
        (255, 1, 3, 250.5),
        (255, 1, 128, 192),
        (200, 1, 200, 255),
        (10, 0, 510, 255),
        (250, 0, 400, 200),
        (250, 1, 400, 0),
        (7, 0, 2000, 255),
    ],
)
def test_a_pixel_goes_where_the_paper_says(
    x: float, bit: int, step: float, expected: float
) -> None:
    result = ops.qim_embed(
        tf.constant([[x]], tf.float32), [bit], tf.constant([step], tf.float32)
    )
    assert result.image.numpy() == expected
    assert result.distance.numpy() == abs(expected - x)


def test_each_image_may_have_a_message_of_its_own() -> None:
    images = grey_images(3, (4, 4))
    messages = np.random.default_rng(4).integers(0, 2, (3, 16), np.uint8)
    steps = np.resize(np.array([3, 128], np.float32), 16)
    together = ops.qim_embed(images, messages, steps)
    for i in range(3):
        alone = ops.qim_embed(images[i : i + 1], messages[i], steps)
        np.testing.assert_allclose(together.image[i], alone.image[0], rtol=1e-6)
        np.testing.assert_allclose(together.distance[i], alone.distance[0], rtol=1e-6)


def test_the_shift_of_centred_distances_gives_equation_3_of_the_distances() -> None:
    case = random_case(7)
    a0, a1, a2 = -0.004, -1.7, 0.3
    shift = ops.centred_shift(a0, a1, case.steps, case.weights)
    middle = np.dot(case.steps.astype(np.float64), case.weights) / 2
    centred = reference.distance(*case.written)
    np.testing.assert_allclose(
        ops.qim_correlation(tf.constant(centred), a0, shift, a2),
        reference.correlation(centred + middle, a0, a1, a2),
        rtol=1e-9,
    )


@pytest.mark.parametrize(
    "shape", [(16_384,), (16_385,), (224, 224, 3), (299, 299, 3), (512, 512, 3)]
)
def test_a_large_image_alone_is_as_in_a_batch(shape: tuple[int, ...]) -> None:
    case = random_case(8, shape, count=3, classes=2)
    tables = case.tables
    together = ops.qim_distance(case.images, tables).numpy()
    alone = np.concatenate(
        [ops.qim_distance(case.images[i : i + 1], tables).numpy() for i in range(3)]
    )
    spread = np.sqrt(np.square(case.steps * case.weights).sum() / 12)
    np.testing.assert_allclose(alone, together, rtol=0, atol=2e-6 * spread)


@pytest.mark.parametrize("shape", [(8, 8, 1), (32, 32, 3)])
@pytest.mark.parametrize("level", [0.0, 255.0])
def test_black_and_white_are_as_far_from_every_message_to_the_last_bit(
    shape: tuple[int, ...], level: float, way: str
) -> None:
    code = ops.draw_code(shape, 10, key=ops.Key.from_seed(3))
    index = ops.draw_steps(shape, (3.0, 128.0), key=ops.Key.from_seed(3))
    steps, weights = np.array([3.0, 128.0])[index], np.array([19.4, 1.0])[index]
    image = tf.fill((2, *shape), level)
    result = ops.qim_distance(image, ops.qim_tables(code, steps, weights))
    np.testing.assert_array_equal(result, np.zeros((2, 10)))


def test_many_pixels_are_summed_without_losing_the_last_digits() -> None:
    case = random_case(9, (224, 224, 3), count=2, classes=3)
    turns = case.images.reshape(2, -1) / (2.0 * case.steps) - 0.25
    wave = (np.abs(turns - np.round(turns)) - 0.25) * 2 * case.steps * case.weights
    expected = wave @ (1 - 2.0 * case.code.bits()).T
    spread = np.sqrt(np.square(case.steps * case.weights).sum() / 12)
    result = ops.qim_distance(case.images, case.tables).numpy()
    np.testing.assert_allclose(result, expected, rtol=0, atol=3e-6 * spread)
