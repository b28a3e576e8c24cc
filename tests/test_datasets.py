import dataclasses
import zipfile
from pathlib import Path

import keras
import numpy as np
import PIL.Image
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

    def test_a_path_is_taken_and_names_of_classes_are_read(
        self, tmp_path: Path
    ) -> None:
        write(tmp_path / "own.npz", class_names=np.array(["cat", "dog", "fox", "owl"]))
        data = load(str(tmp_path / "own.npz"), "test")
        assert (data.name, data.num_classes) == ("own", 4)
        assert data.class_names == ("cat", "dog", "fox", "owl")
        write(tmp_path / "own.npz", class_names=np.array(["cat", "dog"]))
        with pytest.raises(ValueError, match="labels from 0 to 1, not from 0 to 2"):
            load("own", "test", tmp_path)

    def test_images_are_resized_and_coloured_where_that_is_asked_for(
        self, tmp_path: Path
    ) -> None:
        content = write(tmp_path / "own.npz")
        data = load("own", "test", tmp_path, image_size=(14, 14, 3))
        assert data.pixels.shape == (4, 14, 14, 3)
        whole = content["x_test"].astype(float)
        # Halves that are met exactly are the means of four pixels.
        expected = whole.reshape(4, 14, 2, 14, 2).mean((2, 4))
        assert np.abs(data.pixels[..., 0] - expected).max() <= 0.5
        assert load("own", "test", tmp_path, image_size=(9, 9)).pixels.shape[3] == 1

    @pytest.mark.parametrize("size", [(8,), (8, 0), (8, 8, 2), (8, 8, 3, 1)])
    def test_a_size_is_two_or_three_numbers(self, size: tuple[int, ...]) -> None:
        with pytest.raises(ValueError, match="argument `image_size`"):
            load("digits", image_size=size)

    @pytest.mark.parametrize(
        ("changes", "expected"),
        [
            ({"class_names": np.arange(3)}, "one text per class"),
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


def draw(path: Path, shape: tuple[int, ...] = (6, 5, 3), level: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    PIL.Image.fromarray(np.full(shape, level, np.uint8)).save(path)


class TestFolders:
    def test_classes_are_the_sorted_folders_and_a_fifth_is_for_tests(
        self, tmp_path: Path
    ) -> None:
        for index, name in enumerate(("owl", "cat")):
            for number in range(10):
                draw(tmp_path / name / f"{number}.png", level=10 * number + index)
        draw(tmp_path / "cat" / "inner" / "10.PNG", level=100)
        (tmp_path / "cat" / "notes.txt").touch()
        (tmp_path / ".hidden").mkdir()
        train, test = (load(f"folder:{tmp_path}", split) for split in SPLITS)
        assert train.class_names == test.class_names == ("cat", "owl")
        assert np.bincount(train.labels).tolist() == [9, 8]
        assert np.bincount(test.labels).tolist() == [2, 2]
        levels = np.concatenate([train.pixels, test.pixels])[:, 0, 0, 0]
        assert sorted(levels % 10) == [0] * 11 + [1] * 10
        assert len({*levels}) == 21
        assert load(f"folder:{tmp_path}", "test").sha256 == test.sha256
        assert train.source == f"folder {tmp_path.name}"

    def test_a_folder_with_the_name_of_known_data_is_none(self, tmp_path: Path) -> None:
        draw(tmp_path / "mnist" / "a" / "0.png")
        data = load(f"folder:{tmp_path}/mnist")
        assert (data.name, data.class_names) == ("folder:mnist", ("a",))

    def test_folders_train_and_test_are_the_splits(self, tmp_path: Path) -> None:
        for split, count in (("train", 3), ("test", 2)):
            for name in ("a", "b"):
                for number in range(count):
                    draw(tmp_path / split / name / f"{number}.png")
        train, test = (load(f"folder:{tmp_path}", split) for split in SPLITS)
        assert (len(train), len(test)) == (6, 4)
        assert train.class_names == ("a", "b")

    def test_images_are_grey_where_all_of_them_are(self, tmp_path: Path) -> None:
        draw(tmp_path / "a" / "0.png", (6, 5), 7)
        draw(tmp_path / "b" / "0.png", (6, 5), 9)
        name = f"folder:{tmp_path}"
        assert load(name).pixels.shape == (2, 6, 5, 1)
        assert load(name, image_size=(6, 5, 3)).pixels.shape == (2, 6, 5, 3)
        draw(tmp_path / "b" / "1.png", (6, 5, 4), 11)
        data = load(name, image_size=(3, 2))
        assert data.pixels.shape == (2, 3, 2, 3)
        assert (data.pixels[0] == 7).all()

    def test_what_is_read_is_what_keras_reads(self, tmp_path: Path) -> None:
        noise = np.random.default_rng(0).integers(0, 256, (3, 20, 30, 3), np.uint8)
        for number, suffix in enumerate(("jpg", "png", "bmp")):
            path = tmp_path / "train" / "a" / f"{number}.{suffix}"
            path.parent.mkdir(parents=True, exist_ok=True)
            PIL.Image.fromarray(noise[number]).save(path)
        draw(tmp_path / "test" / "a" / "0.png")
        data = load(f"folder:{tmp_path}", image_size=(16, 16))
        ((theirs, _),) = keras.utils.image_dataset_from_directory(
            tmp_path / "train", image_size=(16, 16), shuffle=False, verbose=False
        )
        assert np.abs(data.pixels - np.asarray(theirs)).max() <= 0.5

    def test_what_is_wrong_is_told_with_its_path(self, tmp_path: Path) -> None:
        name = f"folder:{tmp_path}"
        with pytest.raises(ValueError, match="a folder of images for each class"):
            load(name)
        draw(tmp_path / "a" / "0.png")
        (tmp_path / "b").mkdir()
        with pytest.raises(ValueError, match=rf"none in {tmp_path}/b"):
            load(name)
        draw(tmp_path / "b" / "0.png", (4, 4, 3))
        with pytest.raises(ValueError, match=r"argument `image_size`.*6x5.*4x4"):
            load(name)
        damaged = tmp_path / "b" / "1.png"
        damaged.write_bytes((tmp_path / "a" / "0.png").read_bytes()[:60])
        with pytest.raises(ValueError, match=rf"{damaged} cannot be read"):
            load(name, image_size=(4, 4))
        damaged.write_text("no image")
        with pytest.raises(ValueError, match=rf"{damaged} cannot be read"):
            load(name, image_size=(4, 4))


class TestWhatIsAbsent:
    def test_an_unknown_name_lists_the_known_ones_and_where_it_looked(
        self, tmp_path: Path
    ) -> None:
        with pytest.raises(DatasetNotFoundError, match="'foo' was not") as caught:
            load("foo", "test", tmp_path)
        assert str(tmp_path / "foo.npz") in str(caught.value)
        assert "digits, mnist, cifar10, svhn_cropped" in str(caught.value)

    @pytest.mark.parametrize("name", ["nowhere.npz", "folder:nowhere"])
    def test_a_path_that_is_not_there_is_named(self, tmp_path: Path, name: str) -> None:
        kind, _, _ = name.rpartition("nowhere")
        place = tmp_path / name.removeprefix(kind)
        with pytest.raises(DatasetNotFoundError, match=str(place)):
            load(f"{kind}{place}")

    @pytest.mark.parametrize("name", ["", ".", "../mnist", "/mnist", "a/b/c"])
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
