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
