import hashlib
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from keras_traps.ops import draw_messages, draw_steps

# Odd sizes leave parts of blocks at the right and at the bottom.
SHAPES = [(9,), (5, 7), (28, 28, 1), (2, 3, 2, 2)]
LARGEST_SEED = 2**64 - 1


def digest(array: npt.NDArray[Any]) -> str:
    return hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()[:16]


def whole_blocks(
    pixels: npt.NDArray[Any], shape: tuple[int, ...]
) -> npt.NDArray[np.generic]:
    """Every whole block of an image, as rows of four pixels."""
    image = pixels.reshape(shape)
    if len(shape) == 1:
        return image[: shape[0] // 4 * 4].reshape(-1, 4)
    image = image[: shape[0] // 2 * 2, : shape[1] // 2 * 2]
    corners = [image[row::2, column::2].ravel() for row in (0, 1) for column in (0, 1)]
    return np.stack(corners, axis=1)


# A change of these numbers makes every saved decoder another one.
@pytest.mark.parametrize(
    ("seed", "kind", "expected"),
    [
        (0, "balanced", "6eb39e071b1424f6"),
        (LARGEST_SEED, "balanced", "7a6969271a818345"),
        (0, "random", "d8cad81d96439c93"),
        (LARGEST_SEED, "random", "2e26847c366c99b5"),
    ],
)
def test_messages_are_the_same_on_every_machine(
    seed: int, kind: Any, expected: str
) -> None:
    assert digest(draw_messages((28, 28, 1), 10, seed=seed, kind=kind)) == expected


@pytest.mark.parametrize(
    ("seed", "expected"),
    [
        (0, "c9d2a35754c9f757"),
        (LARGEST_SEED, "53b79aa7342b47d7"),
    ],
)
def test_steps_are_the_same_on_every_machine(seed: int, expected: str) -> None:
    index = draw_steps((28, 28, 1), (3.0, 128.0), seed=seed)
    assert digest(index.astype("<i8")) == expected


@pytest.mark.parametrize("shape", SHAPES)
def test_every_whole_block_is_balanced(shape: tuple[int, ...]) -> None:
    bits = draw_messages(shape, 6, seed=2)
    assert bits.shape == (6, np.prod(shape))
    assert bits.dtype == np.uint8
    for message in bits:
        blocks = whole_blocks(message, shape)
        assert len(blocks) > 0
        assert (blocks.sum(axis=1) == 2).all()


def test_the_six_balanced_blocks_are_equally_likely() -> None:
    bits = draw_messages((64, 64, 3), 4, seed=1)
    blocks = np.concatenate([whole_blocks(m, (64, 64, 3)) for m in bits])
    _, counts = np.unique(blocks @ [8, 4, 2, 1], return_counts=True)
    expected = len(blocks) / 6
    assert len(counts) == 6
    # Five standard deviations of a binomial count.
    assert np.abs(counts - expected).max() < 5 * np.sqrt(expected * 5 / 6)


def test_random_bits_are_fair_and_alone() -> None:
    bits = draw_messages((40, 40, 3), 10, seed=1, kind="random").astype(float)
    deviation = 5 * 0.5 / np.sqrt(bits.size)
    assert abs(bits.mean() - 0.5) < deviation
    centred = bits - bits.mean()
    assert abs((centred[:, 1:] * centred[:, :-1]).mean()) < deviation
    assert abs((centred[1:] * centred[:-1]).mean()) < deviation
    blocks = whole_blocks(bits[0], (40, 40, 3)).sum(axis=1)
    assert set(blocks) == {0, 1, 2, 3, 4}


def test_more_classes_do_not_change_the_first_messages() -> None:
    few = draw_messages((8, 8), 3, seed=5)
    np.testing.assert_array_equal(draw_messages((8, 8), 1000, seed=5)[:3], few)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("count", [1, 3])
def test_pixels_of_a_block_share_a_step(shape: tuple[int, ...], count: int) -> None:
    index = draw_steps(shape, [1.0] * count, seed=2)
    assert index.shape == (np.prod(shape),)
    assert set(index) <= set(range(count))
    blocks = whole_blocks(index, shape)
    assert (blocks == blocks[:, :1]).all()


@pytest.mark.parametrize("shape", [(32,), (32, 32, 3)])
@pytest.mark.parametrize("count", [2, 5])
def test_steps_are_used_evenly(shape: tuple[int, ...], count: int) -> None:
    index = draw_steps(shape, [1.0] * count, seed=3)
    blocks = np.bincount(index, minlength=count) / 4
    assert blocks.max() - blocks.min() <= 1


def test_numpys_integers_are_integers() -> None:
    shape: Any = np.array([4, 6], np.uint8)
    count: Any = np.uint8(3)
    seed: Any = np.uint64(7)
    steps: Any = np.array([3.0, 128.0])
    for size in (shape, list(shape)):
        np.testing.assert_array_equal(
            draw_messages(size, count, seed=seed), draw_messages((4, 6), 3, seed=7)
        )
        np.testing.assert_array_equal(
            draw_steps(size, steps, seed=seed), draw_steps((4, 6), (3.0, 128.0), seed=7)
        )


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("shape", ()),
        ("shape", (8, 0)),
        ("shape", (8, None)),
        ("shape", (8, True)),
        ("num_classes", 1),
        ("num_classes", 10.0),
        ("num_classes", True),
        ("seed", -1),
        ("seed", 2**64),
        ("seed", True),
        ("kind", "even"),
        ("steps", np.array([])),
    ],
)
def test_what_nothing_can_be_drawn_from_is_named(name: str, value: Any) -> None:
    given: dict[str, Any] = {"shape": (4,), "num_classes": 2, "seed": 0, name: value}
    if name in ("shape", "seed", "steps"):
        steps = {"steps": (3.0,), **given}
        del steps["num_classes"]
        with pytest.raises(ValueError, match=f"argument `{name}`"):
            draw_steps(**steps)
    if name != "steps":
        with pytest.raises(ValueError, match=f"argument `{name}`"):
            draw_messages(**given)
