from pathlib import Path

import keras
import numpy as np
import pytest

from keras_traps import attacks
from keras_traps._luring import demo, packed
from keras_traps._packed_models import pack_model
from keras_traps.datasets import DatasetNotFoundError
from keras_traps.layers import LuringInput
from keras_traps.luring import LuredClassifier
from keras_traps.models import madry_mnist_cnn
from keras_traps.models.inference import predict

WIDTH = 1 / 16


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Models with random weights, and what they are shipped as."""
    folder = tmp_path_factory.mktemp("shipped")
    keras.utils.set_random_seed(0)
    target = madry_mnist_cnn(WIDTH)
    target.trainable = False
    model = LuredClassifier(target, LuringInput("mnist"), output="logits")
    pack_model(
        target,
        folder / packed.TARGET_FILE,
        architecture="madry_mnist_cnn",
        width=WIDTH,
    )
    pack_model(
        model.to_lure_model(),
        folder / packed.LURE_FILE,
        architecture="luring_mnist",
        half=False,
    )
    return folder


def test_it_counts_what_the_schemes_say(
    directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {"eps": 0.3, "eps_iter": 0.1}
    few = [
        attacks.create("MIM", nb_iter=2, **settings),
        attacks.create("PGD", nb_iter=2, **settings),
    ]
    monkeypatch.setattr(attacks, "preset", lambda *_: few)
    images = np.random.default_rng(0).random((6, 28, 28, 1), np.float32)
    target, lure = packed.load_models(directory)
    labels = predict(target, images).argmax(axis=1)
    both = labels == predict(target, predict(lure, images)).argmax(axis=1)
    if not both.any():
        pytest.fail("the random models agree on no image: take another seed")
    lines = demo.run(target, lure, images, labels, tmp_path / "new")
    assert lines[0].startswith(f"{both.sum()} of 6 images")
    for name in ("MIM", "PGD"):
        (line,) = [line for line in lines if line.startswith(f"{name} ")]
        hit, fooled, refused, right = map(int, line.split()[1:])
        assert fooled + right == hit <= both.sum()
        # Where M is right and M∘P fooled, the two disagree.
        assert right <= refused <= hit
    picture = (tmp_path / "new" / "luring_demo.png").read_bytes()
    assert picture.startswith(b"\x89PNG")
    # Labels that nobody says leave nothing to attack.
    with pytest.raises(RuntimeError, match="wrong on every image"):
        demo.run(target, lure, images, (labels + 1) % 10, tmp_path)


def test_digits_are_shown_only_if_the_target_knows_them(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target, _ = packed.load_models(directory)
    with pytest.raises(RuntimeError, match=r"digits blown up to 28x28.*--data_dir"):
        demo.demo_images(target, 4)
    monkeypatch.setattr(demo, "_ENOUGH", 0.0)
    found = demo.demo_images(target, 4)
    assert found.images.shape[1:] == (28, 28, 1)
    assert 0 <= found.images.min() < found.images.max() <= 1
    assert (predict(target, found.images).argmax(axis=1) == found.labels).all()
    assert "not MNIST" in found.source


def test_what_is_not_there_is_told(directory: Path, tmp_path: Path) -> None:
    target, _ = packed.load_models(directory)
    with pytest.raises(DatasetNotFoundError):
        demo.demo_images(target, 4, tmp_path)
    with pytest.raises(FileNotFoundError):
        packed.load_models(tmp_path)
