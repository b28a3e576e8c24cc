import numpy as np
import pytest

from keras_traps.attacks.randomness import Stream, per_example


def draw(generator: np.random.Generator) -> np.ndarray:
    return generator.random(3)


def test_an_example_draws_the_same_in_any_batch() -> None:
    ids = np.array([4, 0, 2**50, 4])
    drawn = per_example(draw, ids, seed=1, stream=Stream.BALL_NOISE)

    assert drawn.shape == (4, 3)
    np.testing.assert_array_equal(drawn[0], drawn[3])
    for row in range(4):
        alone = per_example(draw, ids[row : row + 1], seed=1, stream=Stream.BALL_NOISE)
        np.testing.assert_array_equal(alone[0], drawn[row])


def test_ids_seeds_and_streams_are_told_apart() -> None:
    rows = [
        tuple(per_example(draw, np.array([i]), seed=seed, stream=stream)[0])
        for i in (0, 1, 2)
        for seed in (0, 1, 2)
        for stream in Stream
    ]
    assert len(set(rows)) == 9 * len(Stream)


def test_a_stream_keeps_its_number() -> None:
    # Results that were published depend on them.
    assert {stream.name: stream.value for stream in Stream} == {
        "TARGETS": 1,
        "BALL_NOISE": 2,
        "DIVERSITY": 3,
        "SPSA_SEEDS": 4,
        "OPTMARGIN_NOISES": 5,
    }


def test_neither_global_generators_nor_earlier_draws_matter() -> None:
    np.random.seed(0)  # noqa: NPY002
    first = per_example(draw, np.array([1]), seed=0, stream=Stream.TARGETS)
    np.random.seed(1)  # noqa: NPY002
    per_example(draw, np.array([2]), seed=0, stream=Stream.TARGETS)
    np.testing.assert_array_equal(
        per_example(draw, np.array([1]), seed=0, stream=Stream.TARGETS), first
    )


@pytest.mark.parametrize(("ids", "seed"), [([-1], 0), ([0], -1)])
def test_numbers_below_zero_are_refused(ids: list[int], seed: int) -> None:
    with pytest.raises(ValueError, match="non-negative"):
        per_example(draw, np.array(ids), seed=seed, stream=Stream.TARGETS)
