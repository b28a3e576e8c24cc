import dataclasses
import zipfile
from pathlib import Path

import numpy as np
import pytest

from keras_traps import datasets
from keras_traps.datasets import Dataset, DatasetNotFoundError, load
from tests.archive_arrays import ArrayDict, arrays, write


class TestDigits:
    def test_the_split_is_pinned(self) -> None:
        train, test = load("digits"), load("digits", "test")
        assert train.pixels.shape == (1297, 8, 8, 1)
        assert test.pixels.shape == (500, 8, 8, 1)
        assert train.sha256.startswith("db5f7c516e41a0f2")
        assert test.sha256.startswith("da2b3ef4e6c36754")


class TestArchives:
    def test_both_splits_are_read_with_a_channel_axis(self, tmp_path: Path) -> None:
        content = write(tmp_path / "mnist.npz")
        for split in SPLITS:
            data = load("mnist", split, tmp_path)
            assert data.split == split
            np.testing.assert_array_equal(data.pixels[..., 0], content[f"x_{split}"])
            np.testing.assert_array_equal(data.labels, content[f"y_{split}"])
            assert data.pixels.dtype == np.uint8
            assert data.labels.dtype == np.int64
            assert data.num_classes == 10
            assert data.class_names == tuple("0123456789")
            assert data.source == "mnist.npz"

    def test_labels_in_a_column_are_read_as_keras_has_cifar10(
        self, tmp_path: Path
    ) -> None:
        content = arrays((32, 32, 3))
        write(
            tmp_path / "cifar10.npz", **content | {"y_test": content["y_test"][:, None]}
        )
        data = load("cifar10", "test", str(tmp_path))
        assert data.labels.tolist() == [0, 1, 2, 0]
        assert data.class_names[3] == "cat"

    def test_svhn_may_be_named_either_way(self, tmp_path: Path) -> None:
        np.savez(tmp_path / "svhn.npz", **arrays((32, 32, 3)))
        assert load("svhn_cropped", "test", tmp_path).source == "svhn.npz"
        np.savez(tmp_path / "svhn_cropped.npz", **arrays((32, 32, 3)))
        assert load("svhn_cropped", "test", tmp_path).source == "svhn_cropped.npz"

    def test_any_other_name_counts_its_own_classes(self, tmp_path: Path) -> None:
        np.savez(tmp_path / "foo.npz", **arrays((5, 7, 2)))
        data = load("foo", "test", tmp_path)
        assert data.pixels.shape == (4, 5, 7, 2)
        assert data.num_classes == 3
        assert data.class_names == ("0", "1", "2")

    @pytest.mark.parametrize(
        ("changes", "expected"),
        [
            ({"x_test": None}, "x_test and y_test"),
            ({"x_test": np.zeros((4, 28, 28), np.float32)}, "uint8 pixels"),
            ({"x_test": np.zeros((0, 28, 28), np.uint8)}, "none empty"),
            ({"x_test": np.zeros((4, 32, 32), np.uint8)}, r"shape \(28, 28, 1\)"),
            ({"y_test": np.eye(4, 10, dtype=np.uint8)}, "not one-hot rows"),
            ({"y_test": np.zeros(3, np.uint8)}, "as many labels as images, 4"),
            ({"y_test": np.array([0, 1, -1, 2])}, "not from -1 to 2"),
            ({"y_test": np.array([0, 1, 2**64 - 1, 2], np.uint64)}, "labels from 0"),
            ({"y_test": np.array([{}] * 4, object)}, "cannot be read"),
        ],
    )
    def test_a_fault_in_the_arrays_names_the_file(
        self, tmp_path: Path, changes: ArrayDict, expected: str
    ) -> None:
        path = tmp_path / "mnist.npz"
        write(path, **changes)
        with pytest.raises(ValueError, match=expected) as caught:
            load("mnist", "test", tmp_path)
        assert str(path) in str(caught.value)

    def test_a_flipped_byte_is_found(self, tmp_path: Path) -> None:
        path = tmp_path / "mnist.npz"
        write(path)
        content = bytearray(path.read_bytes())
        with zipfile.ZipFile(path) as archive:
            info = archive.getinfo("x_test.npy")
        content[info.header_offset + info.compress_size // 2 + 100] ^= 0xFF
        path.write_bytes(content)
        with pytest.raises(ValueError, match="cannot be read"):
            load("mnist", "test", tmp_path)


class TestWhatIsAbsent:
    def test_an_unknown_name_lists_the_known_ones_and_where_it_looked(
        self, tmp_path: Path
    ) -> None:
        with pytest.raises(DatasetNotFoundError, match="'foo' was not") as caught:
            load("foo", "test", tmp_path)
        assert str(tmp_path / "foo.npz") in str(caught.value)
        assert "digits, mnist, cifar10, svhn_cropped" in str(caught.value)

    @pytest.mark.parametrize("name", ["", ".", "../mnist", "/mnist", "a/b"])
    def test_a_name_is_no_path(self, tmp_path: Path, name: str) -> None:
        write(tmp_path / "mnist.npz")
        (tmp_path / "inside").mkdir()
        with pytest.raises(ValueError, match="argument `name`"):
            load(name, "test", tmp_path / "inside")

    def test_a_split_is_train_or_test(self) -> None:
        with pytest.raises(ValueError, match=r"'train' or 'test'.*'validation'"):
            load("digits", "validation")  # type: ignore[arg-type]

    def test_a_data_dir_is_no_file(self, tmp_path: Path) -> None:
        write(tmp_path / "mnist.npz")
        with pytest.raises(ValueError, match="Expected a folder"):
            load("mnist", "test", tmp_path / "mnist.npz")


class TestDataset:
    def test_arrays_cannot_be_written_to(self, digits_test: Dataset) -> None:
        for array in (digits_test.images, digits_test.pixels, digits_test.labels):
            with pytest.raises(ValueError, match="read-only"):
                array[0] = 0

    def test_hash_changes_with_a_pixel_and_with_a_label(
        self, digits_test: Dataset
    ) -> None:
        pixels, labels = digits_test.pixels.copy(), digits_test.labels.copy()
        pixels[7, 3, 3] ^= 1
        labels[7] ^= 1
        new = [
            dataclasses.replace(digits_test, **to)
            for to in ({"pixels": pixels}, {"labels": labels})
        ]
        assert len({digits_test.sha256, *(other.sha256 for other in new)}) == 3

    def test_take_with_a_seed_keeps_labels_with_their_images(
        self, digits_test: Dataset
    ) -> None:
        everything = digits_test.take(len(digits_test), seed=1)
        assert everything.take(5).sha256 == digits_test.take(5, seed=1).sha256
        assert digits_test.take(5, seed=1).sha256 != digits_test.take(5, seed=2).sha256
        label = {
            image.tobytes(): label
            for image, label in zip(digits_test.pixels, digits_test.labels, strict=True)
        }
        assert len(label) == len(digits_test)  # Each once, so that it tells its label.
        found = [label.pop(image.tobytes()) for image in everything.pixels]
        assert found == list(everything.labels)

    @pytest.mark.parametrize("n", [0, 501])
    def test_take_of_too_many_or_none_is_an_error(
        self, digits_test: Dataset, n: int
    ) -> None:
        with pytest.raises(ValueError, match=rf"1 to 500.*Received: n={n}"):
            digits_test.take(n)


SPLITS: tuple[datasets.Split, ...] = ("train", "test")
