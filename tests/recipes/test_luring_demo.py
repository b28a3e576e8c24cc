from pathlib import Path

import keras
import luring
import luring_demo
import numpy as np
import pytest

from keras_traps.commands.command_line import CommandLineError
from keras_traps.models import madry_mnist_cnn
from keras_traps.models.inference import predict


@pytest.fixture
def model() -> keras.Model:
    keras.utils.set_random_seed(0)
    return madry_mnist_cnn(1 / 16)


@pytest.fixture
def untrained(model: keras.Model, tmp_path: Path) -> Path:
    """Untrained models, and an MNIST whose labels are what M answers."""
    folder = tmp_path / "untrained"
    folder.mkdir()
    model.save(folder / "target.keras")
    inputs = keras.Input((28, 28, 1), name="image")
    # It changes little, so that M∘P is right where M is.
    lure = keras.Model(inputs, keras.layers.Rescaling(0.9, 0.05)(inputs), name="lure")
    lure.save(folder / "luring.keras")
    pixels = np.random.default_rng(0).integers(0, 256, (64, 28, 28), np.uint8)
    images = (pixels[..., None] / 255).astype(np.float32)
    labels = predict(model, images).argmax(axis=1).astype(np.uint8)
    names = {"x_train": pixels, "y_train": labels, "x_test": pixels, "y_test": labels}
    np.savez(folder / "mnist.npz", **names)
    return folder


def test_what_is_packed_is_shown(
    untrained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    common = (f"--packed={tmp_path / 'packed'}", f"--data_dir={untrained}")
    luring.main(["pack", f"--workdir={untrained}", *common])
    assert "answers changed by packing" in capsys.readouterr().out
    luring.main(["demo", *common, f"--output={tmp_path / 'demo'}"])
    shown = capsys.readouterr().out
    assert "MNIST's test images" in shown
    for attack in ("MIM", "PGD"):
        (line,) = [text for text in shown.splitlines() if text.startswith(f"{attack} ")]
        hit, fooled, refused, right = map(int, line.split()[1:])
        assert fooled + right == hit
        # Where M is right and M∘P fooled, the two disagree.
        assert right <= refused <= hit
    picture = (tmp_path / "demo" / "luring_demo.png").read_bytes()
    assert picture.startswith(b"\x89PNG")


@pytest.mark.slow
def test_what_fools_the_shipped_mop_does_not_fool_the_shipped_m(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    luring.main(["demo", f"--output={tmp_path}"])
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    counts = {line[0]: [int(n) for n in line[1:]] for line in lines if len(line) == 5}
    # Without luring nearly all of what MIM makes would fool M as well.
    for attack, share in (("MIM", 1 / 2), ("PGD", 1 / 4)):
        fools_mop, fools_m, refused, m_is_right = counts[attack]
        assert fools_mop >= 12
        assert fools_m <= share * fools_mop
        assert refused >= (1 - share) * fools_mop
        assert fools_m + m_is_right == fools_mop


def test_the_shipped_models_are_small_and_keras_loads_them() -> None:
    files = [luring._SHIPPED / f"{name}.keras" for name in ("target", "lure")]
    assert sum(path.stat().st_size for path in files) <= 8e6
    target, lure = (keras.saving.load_model(path, compile=False) for path in files)
    assert (target.count_params(), lure.count_params()) == (3_274_538, 4_385)


def test_half_precision_is_what_is_lost_and_half_the_file(
    model: keras.Model, tmp_path: Path
) -> None:
    path = tmp_path / "target.keras"
    packed = luring_demo.pack_model(model, path)
    loaded = keras.saving.load_model(path, compile=False)
    for kept, said, whole in zip(
        loaded.get_weights(), packed.get_weights(), model.get_weights(), strict=True
    ):
        assert kept.dtype == np.float32
        np.testing.assert_array_equal(kept, whole.astype(np.float16))
        np.testing.assert_array_equal(kept, said)
    model.save(tmp_path / "whole.keras")
    assert path.stat().st_size < 0.6 * (tmp_path / "whole.keras").stat().st_size


def test_a_weight_that_half_precision_cannot_hold_is_refused(
    model: keras.Model, tmp_path: Path
) -> None:
    model.layers[-1].bias.assign(np.full(10, 1e6))
    with pytest.raises(CommandLineError, match="65504"):
        luring_demo.pack_model(model, tmp_path / "target.keras")
    assert not list(tmp_path.iterdir())


def test_what_cannot_be_shown_is_told(model: keras.Model, tmp_path: Path) -> None:
    with pytest.raises(CommandLineError, match=r"digits blown up to 28x28.*--data_dir"):
        luring_demo.demo_images(model, None)
    flags = (f"--packed={tmp_path}", f"--output={tmp_path / 'demo'}")
    with pytest.raises(CommandLineError, match=r"--packed cannot be read.*target\.ker"):
        luring.main(["demo", *flags])
    with pytest.raises(CommandLineError, match=r"there is no .*target\.keras"):
        luring.main(["pack", f"--workdir={tmp_path}", flags[0]])
