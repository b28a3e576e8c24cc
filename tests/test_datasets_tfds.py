import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from keras_traps import datasets
from keras_traps.datasets import DatasetNotFoundError, load
from tests.archive_arrays import arrays


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that holds a tiny MNIST as tensorflow-datasets prepares it."""
    import tensorflow_datasets as tfds

    folder = tmp_path_factory.mktemp("tfds")
    images = arrays((28, 28, 1))
    tfds.dataset_builders.store_as_tfds_dataset(
        name="mnist",
        version="3.0.1",
        features=tfds.features.FeaturesDict(
            {
                "image": tfds.features.Image(shape=(28, 28, 1)),
                "label": tfds.features.ClassLabel(num_classes=10),
            }
        ),
        split_datasets={
            split: [
                (key, {"image": image, "label": int(label)})
                for key, (image, label) in enumerate(
                    zip(images[f"x_{split}"], images[f"y_{split}"], strict=True)
                )
            ]
            for split in ("train", "test")
        },
        data_dir=folder,
    )
    return folder


def refuse_downloads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    import tensorflow_datasets as tfds

    calls: list[str] = []

    def refuse(builder: Any, **_: Any) -> None:
        calls.append(builder.name)
        raise ConnectionError("no network here")

    monkeypatch.setattr(tfds.core.DatasetBuilder, "download_and_prepare", refuse)
    return calls


@pytest.mark.parametrize(("split", "count"), [("train", 6), ("test", 4)])
def test_prepared_data_are_read(
    prepared: Path, split: datasets.Split, count: int
) -> None:
    data = load("mnist", split, prepared)
    assert data.source == "tensorflow-datasets mnist/3.0.1"
    assert data.pixels.shape == (count, 28, 28, 1)
    # They are stored in another order.
    written = arrays((28, 28, 1))[f"x_{split}"]
    assert sorted(data.pixels.sum((1, 2, 3))) == sorted(written.sum((1, 2, 3)))
    expected = {"train": [2, 2, 2], "test": [2, 1, 1]}
    assert np.bincount(data.labels).tolist() == expected[split]


def test_nothing_is_downloaded_where_local_data_were_asked_for(
    prepared: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = refuse_downloads(monkeypatch)
    with pytest.raises(DatasetNotFoundError) as caught:
        load("cifar10", "test", prepared)
    assert not calls
    message = str(caught.value)
    assert str(prepared / "cifar10.npz") in message
    assert str(prepared / "cifar10" / "3.0.2") in message
    assert "tfds build cifar10" in message


def test_a_failed_download_is_told_with_its_cause(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import tensorflow_datasets as tfds

    monkeypatch.setattr(tfds.core.constants, "DATA_DIR", str(tmp_path))
    calls = refuse_downloads(monkeypatch)
    with pytest.raises(DatasetNotFoundError, match="no network here") as caught:
        load("cifar10", "test")
    assert calls == ["cifar10"]
    assert str(tmp_path / "cifar10") in str(caught.value)


def test_damaged_records_name_their_folder(prepared: Path, tmp_path: Path) -> None:
    folder = tmp_path / "mnist" / "3.0.1"
    folder.mkdir(parents=True)
    for file in (prepared / "mnist" / "3.0.1").iterdir():
        content = bytearray(file.read_bytes())
        if "test" in file.name:
            content[len(content) // 2] ^= 0xFF
        (folder / file.name).write_bytes(content)
    with pytest.raises(ValueError, match="cannot be read") as caught:
        load("mnist", "test", tmp_path)
    assert str(folder) in str(caught.value)
    assert len(load("mnist", "train", tmp_path)) == 6


def store(folder: Path, splits: dict[str, int], **features: Any) -> None:
    import tensorflow_datasets as tfds

    rng = np.random.default_rng(0)
    known = {
        "picture": tfds.features.Image(shape=(None, None, 3)),
        "kind": tfds.features.ClassLabel(names=["cat", "dog"]),
        **features,
    }
    tfds.dataset_builders.store_as_tfds_dataset(
        name="pets",
        version="1.0.0",
        features=tfds.features.FeaturesDict(known),
        split_datasets={
            split: [
                (
                    number,
                    {
                        "picture": rng.integers(0, 256, (6, 5 + number % 2, 3), "u1"),
                        **dict.fromkeys([*known][1:], number % 2),
                    },
                )
                for number in range(count)
            ]
            for split, count in splits.items()
        },
        data_dir=folder,
    )


def test_any_prepared_data_are_read_by_the_keys_and_names_that_they_have(
    tmp_path: Path,
) -> None:
    import tensorflow_datasets as tfds

    other = tfds.features.ClassLabel(names=["old", "young"])
    store(tmp_path, {"train": 6, "validation": 4}, age=other)
    with pytest.raises(ValueError, match=r"picture is to be told as .*age"):
        load("pets", "train", tmp_path)
    info = tmp_path / "pets" / "1.0.0" / "dataset_info.json"
    keys = [{"featureKey": "picture"}, {"featureKey": "kind"}]
    content = json.loads(info.read_text()) | {
        "supervisedKeys": {"tuple": {"items": keys}}
    }
    info.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"argument `image_size`.* of 2"):
        load("pets", "train", tmp_path)
    data = load("pets:1.0.0", "test", tmp_path, image_size=(4, 4))
    assert data.pixels.shape == (4, 4, 4, 3)
    assert data.class_names == ("cat", "dog")
    assert len(load("pets", "train", tmp_path, image_size=(4, 4))) == 6


def test_a_last_fifth_is_for_tests_where_there_is_one_split(tmp_path: Path) -> None:
    store(tmp_path, {"train": 10})
    sizes = [
        len(load("pets", split, tmp_path, image_size=(4, 4)))
        for split in ("train", "test")
    ]
    assert sizes == [8, 2]


def test_data_without_one_class_per_image_are_refused(tmp_path: Path) -> None:
    import tensorflow_datasets as tfds

    store(tmp_path, {"train": 2}, kind=tfds.features.Scalar(np.int64))
    with pytest.raises(ValueError, match=r"one class each.* picture is .* as none"):
        load("pets", "train", tmp_path)
    with pytest.raises(DatasetNotFoundError, match="'cats' was not found"):
        load("cats", "train", tmp_path)
