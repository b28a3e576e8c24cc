import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from keras_traps.ops import Key, draw_code, draw_steps

# Odd sizes leave parts of blocks at the right and at the bottom.
SHAPES = [(9,), (5, 7), (28, 28, 1), (2, 3, 2, 2)]
LARGEST_SEED = 2**64 - 1


def bits_of(*arguments: Any, **options: Any) -> npt.NDArray[np.uint8]:
    return draw_code(*arguments, **options).bits()


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
        (0, "balanced", "8cff731c3fa9850c"),
        (LARGEST_SEED, "balanced", "01c5e446bc0b1222"),
        (0, "random", "1efe39349e0e7621"),
        (LARGEST_SEED, "random", "88302a5c98cd8fb9"),
    ],
)
def test_messages_are_the_same_on_every_machine(
    seed: int, kind: Any, expected: str
) -> None:
    assert (
        digest(bits_of((28, 28, 1), 10, key=Key.from_seed(seed), messages=kind))
        == expected
    )


@pytest.mark.parametrize(
    ("seed", "expected"),
    [
        (0, "b75e4b5fadfa6cc3"),
        (LARGEST_SEED, "cfb24ad8831e4484"),
    ],
)
def test_steps_are_the_same_on_every_machine(seed: int, expected: str) -> None:
    index = draw_steps((28, 28, 1), (3.0, 128.0), key=Key.from_seed(seed))
    assert digest(index.astype("<i8")) == expected


@pytest.mark.parametrize("shape", SHAPES)
def test_every_whole_block_is_balanced(shape: tuple[int, ...]) -> None:
    bits = bits_of(shape, 6, key=Key.from_seed(2))
    assert bits.shape == (6, np.prod(shape))
    assert bits.dtype == np.uint8
    for message in bits:
        blocks = whole_blocks(message, shape)
        assert len(blocks) > 0
        assert (blocks.sum(axis=1) == 2).all()


def test_the_six_balanced_blocks_are_equally_likely() -> None:
    pattern = draw_code((64, 64, 12), 2, key=Key.from_seed(1)).pattern
    blocks = whole_blocks(pattern < 0, (64, 64, 12))
    _, counts = np.unique(blocks @ [8, 4, 2, 1], return_counts=True)
    expected = len(blocks) / 6
    assert len(counts) == 6
    # Five standard deviations of a binomial count.
    assert np.abs(counts - expected).max() < 5 * np.sqrt(expected * 5 / 6)


def test_the_signs_of_a_random_pattern_are_fair_and_alone() -> None:
    code = draw_code((80, 80, 3), 2, key=Key.from_seed(1), messages="random")
    signs = code.pattern.astype(float)
    deviation = 5 / np.sqrt(signs.size)
    assert abs(signs.mean()) < deviation
    assert abs((signs[1:] * signs[:-1]).mean()) < deviation
    blocks = whole_blocks(signs, (80, 80, 3)).sum(axis=1)
    assert set(blocks) == {-4, -2, 0, 2, 4}


@pytest.mark.parametrize("kind", ["balanced", "random"])
@pytest.mark.parametrize(
    ("shape", "classes"),
    [
        *((shape, 6) for shape in SHAPES),
        ((5, 7), 40),
        ((20, 24, 3), 16),
        ((16, 50, 1), 100),
    ],
)
def test_a_message_is_the_pattern_times_a_row_of_hadamards_matrix(
    shape: tuple[int, ...], classes: int, kind: Any
) -> None:
    code = draw_code(shape, classes, key=Key.from_seed(4), messages=kind)
    matrix = np.ones((1, 1))
    while len(matrix) < classes:
        matrix = np.block([[matrix, matrix], [matrix, -matrix]])
    assert len(code.places) == len(matrix)
    assert len(set(code.rows)) == classes
    signs = code.pattern * matrix[code.rows][:, code.column]
    np.testing.assert_array_equal(1 - 2.0 * code.bits(), signs)


@pytest.mark.parametrize("classes", [2, 5, 16, 100])
@pytest.mark.parametrize("shape", [*SHAPES, (17, 23, 3), (34, 300, 1)])
def test_the_pixels_of_a_block_share_a_column_and_columns_are_used_evenly(
    shape: tuple[int, ...], classes: int
) -> None:
    code = draw_code(shape, classes, key=Key.from_seed(5))
    blocks = whole_blocks(code.column, shape)
    assert (blocks == blocks[:, :1]).all()
    # A part of a block counts as one: it has the column that the whole would have.
    whole = (12,) if shape == (9,) else (*(n + n % 2 for n in shape[:2]), *shape[2:])
    evened = draw_code(whole, classes, key=Key.from_seed(5)).column
    counts = np.bincount(evened, minlength=len(code.places)) / 4
    assert counts.max() - counts.min() <= 1
    cut = evened.reshape(whole)[tuple(map(slice, shape))]
    np.testing.assert_array_equal(code.column.reshape(shape), cut)


@pytest.mark.parametrize(
    ("shape", "classes"), [((32, 32, 3), 10), ((32, 32, 3), 100), ((64, 64, 3), 1000)]
)
def test_messages_are_orthogonal_where_columns_have_the_same_number_of_blocks(
    shape: tuple[int, ...], classes: int
) -> None:
    signs = 1.0 - 2.0 * bits_of(shape, classes, key=Key.from_seed(6))
    np.testing.assert_array_equal(signs @ signs.T, signs.shape[1] * np.eye(classes))


@pytest.mark.parametrize(
    ("shape", "classes"), [((28, 28, 1), 10), ((28, 28, 1), 100), ((32, 32, 3), 1000)]
)
def test_messages_are_hardly_correlated_where_some_columns_have_a_block_more(
    shape: tuple[int, ...], classes: int
) -> None:
    signs = 1.0 - 2.0 * bits_of(shape, classes, key=Key.from_seed(7))
    pixels = signs.shape[1]
    correlation = signs @ signs.T / pixels - np.eye(classes)
    columns = 1 << (classes - 1).bit_length()
    # What is left over of the blocks is all that can be alike.
    rest = pixels // 4 % columns
    rest = min(rest, columns - rest)
    assert 0 < np.abs(correlation).max() <= 4 * rest / pixels


def test_neighbouring_strips_are_mixed() -> None:
    code = draw_code((64, 64, 3), 1000, key=Key.from_seed(8))
    steps = np.diff(code.strips) % len(code.strips)
    assert (steps == 1).mean() < 0.05
    assert sorted(code.strips) == list(range(len(code.strips)))


def test_more_classes_do_not_change_the_first_messages() -> None:
    few = bits_of((8, 8), 9, key=Key.from_seed(5))
    np.testing.assert_array_equal(bits_of((8, 8), 16, key=Key.from_seed(5))[:9], few)


def test_what_is_held_for_many_classes_of_large_images_is_small() -> None:
    code = draw_code((224, 224, 3), 1000, key=Key.from_seed(0))
    held = (code.pattern, code.strips, code.places, code.rows)
    assert sum(array.nbytes for array in held) < 200_000


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("count", [1, 3])
def test_pixels_of_a_block_share_a_step(shape: tuple[int, ...], count: int) -> None:
    index = draw_steps(shape, [1.0] * count, key=Key.from_seed(2))
    assert index.shape == (np.prod(shape),)
    assert set(index) <= set(range(count))
    blocks = whole_blocks(index, shape)
    assert (blocks == blocks[:, :1]).all()


@pytest.mark.parametrize("shape", [(32,), (32, 32, 3)])
@pytest.mark.parametrize("count", [2, 5])
def test_steps_are_used_evenly(shape: tuple[int, ...], count: int) -> None:
    index = draw_steps(shape, [1.0] * count, key=Key.from_seed(3))
    blocks = np.bincount(index, minlength=count) / 4
    assert blocks.max() - blocks.min() <= 1


def test_numpys_integers_are_integers() -> None:
    shape: Any = np.array([4, 6], np.uint8)
    count: Any = np.uint8(3)
    steps: Any = np.array([3.0, 128.0])
    key = Key()
    for size in (shape, list(shape)):
        np.testing.assert_array_equal(
            bits_of(size, count, key=key), bits_of((4, 6), 3, key=key)
        )
        np.testing.assert_array_equal(
            draw_steps(size, steps, key=key), draw_steps((4, 6), (3.0, 128.0), key=key)
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
        ("messages", "even"),
        ("steps", np.array([])),
    ],
)
def test_what_nothing_can_be_drawn_from_is_named(name: str, value: Any) -> None:
    given: dict[str, Any] = {"shape": (4,), "num_classes": 2, "key": Key(), name: value}
    if name in ("shape", "steps"):
        steps = {"steps": (3.0,), **given}
        del steps["num_classes"]
        with pytest.raises(ValueError, match=f"argument `{name}`"):
            draw_steps(**steps)
    if name != "steps":
        with pytest.raises(ValueError, match=f"argument `{name}`"):
            bits_of(**given)


@pytest.mark.parametrize("seed", [-1, 2**64, True, 1.0])
def test_a_seed_out_of_its_range_is_refused(seed: Any) -> None:
    with pytest.raises(ValueError, match="argument `seed`"):
        Key.from_seed(seed)


def test_a_new_key_is_another_each_time_and_a_seed_gives_the_same() -> None:
    assert len({Key().fingerprint for _ in range(20)}) == 20
    assert Key.from_seed(3) == Key.from_seed(int(np.int64(3))) != Key.from_seed(4)
    assert Key.of(b"a" * 16) == Key(b"a" * 16)
    assert Key.from_seed(3) != 3


def test_a_key_shows_itself_nowhere() -> None:
    key = Key(b"a secret of some bytes")
    for text in (repr(key), str(key), key.fingerprint, f"{key}"):
        assert "secret" not in text
        assert b"a secret of some bytes".hex() not in text


@pytest.mark.parametrize(
    ("secret", "error"), [(b"short", ValueError), ("x", TypeError)]
)
def test_what_is_no_secret_is_refused(secret: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match="argument `key`"):
        Key(secret)


def test_a_key_file_is_its_owners_alone_and_never_replaced(tmp_path: Path) -> None:
    key, path = Key(), tmp_path / "key"
    key.save(path)
    assert path.stat().st_mode & 0o777 == 0o600
    assert Key.load(path) == key
    with pytest.raises(FileExistsError):
        Key().save(path)
    path.write_text("no key")
    with pytest.raises(ValueError, match="holds no key"):
        Key.load(path)


def test_streams_of_one_key_are_independent_and_fair() -> None:
    key = Key.from_seed(0)
    one, other = (key.stream(label, 4000).astype(float) for label in ("a", "b"))
    assert abs(np.corrcoef(one, other)[0, 1]) < 5 / np.sqrt(4000)
    assert abs(one.mean() / 2**32 - 0.5) < 5 / np.sqrt(12 * 4000)
    np.testing.assert_array_equal(key.stream("a", 9), key.stream("a", 4000)[:9])


# A change of these numbers leaves images without the copy that they were made on.
@pytest.mark.parametrize(
    ("name", "version", "expected"),
    [
        ("alice", 1, "763a164759bf12e0"),
        ("alice", 2, "7b4cea3e7089e932"),
        ("Zoë", 1, "e2cf8c9e90eabe8c"),
    ],
)
def test_a_derived_key_is_the_same_on_every_machine(
    name: str, version: int, expected: str
) -> None:
    assert Key.from_seed(0).derive(name, version).fingerprint == expected


def test_derived_keys_differ_by_master_name_and_version() -> None:
    masters = (Key.from_seed(0), Key.from_seed(1))
    names = ("a", "A", "a ", "1 a", "a1", "1")
    keys = {
        master.derive(name, version).fingerprint
        for master in masters
        for name in names
        for version in (1, 11)
    }
    assert len(keys) == len(masters) * len(names) * 2


def test_a_key_that_is_no_master_key_derives_nothing() -> None:
    Key(b"x" * 32).derive("alice")
    with pytest.raises(ValueError, match="at least 32 bytes"):
        Key(b"x" * 31).derive("alice")
    for name, version in (("", 1), ("alice", 0), ("alice", 1.5), (b"alice", 1)):
        with pytest.raises(ValueError, match=r"name|version"):
            Key.from_seed(0).derive(name, version)  # type: ignore[arg-type]
