from pathlib import Path

import keras
import numpy as np
import pytest
from absl import app, flags

from keras_traps.layers import LuringInput
from keras_traps.models import madry_mnist_cnn
from keras_traps.models.inference import predict
from recipes import luring


def run(*arguments: str) -> None:
    values = luring.define_flags(flags.FlagValues())
    luring.main(values(["luring", *arguments]), values)


@pytest.fixture(scope="module")
def workdir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Untrained models, and an MNIST whose labels are what M answers."""
    folder = tmp_path_factory.mktemp("luring")
    keras.utils.set_random_seed(0)
    target = madry_mnist_cnn()
    target.save(folder / "target.keras")
    inputs = keras.Input((28, 28, 1), name="image")
    lure = keras.Model(inputs, LuringInput("mnist", name="lure")(inputs), name="lure")
    lure.save(folder / "luring.keras")
    pixels = np.random.default_rng(0).integers(0, 256, (64, 28, 28), np.uint8)
    images = (pixels[..., None] / 255).astype(np.float32)
    answers = predict(target, images).argmax(axis=1)
    labels = answers.astype(np.uint8)
    np.savez(
        folder / "mnist.npz",
        x_train=pixels,
        y_train=labels,
        x_test=pixels,
        y_test=labels,
    )
    return folder


def test_what_is_packed_is_shown(
    workdir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    common = (f"--packed={tmp_path / 'packed'}", f"--data_dir={workdir}")
    run("pack", f"--workdir={workdir}", *common)
    files = [tmp_path / "packed" / name for name in ("target.npz", "lure.npz")]
    assert sum(path.stat().st_size for path in files) <= 8e6
    assert "answers changed by packing" in capsys.readouterr().out

    run("--demo", *common, f"--output={tmp_path / 'demo'}")
    shown = capsys.readouterr().out
    assert "MNIST's test images" in shown
    for attack in ("MIM", "PGD"):
        assert f"\n{attack} " in shown
    assert (tmp_path / "demo" / "luring_demo.png").stat().st_size > 1000


def test_what_fools_the_shipped_mop_does_not_fool_the_shipped_m(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run("--demo", f"--output={tmp_path}")
    shown = capsys.readouterr().out
    lines = [line.split() for line in shown.splitlines()]
    counts = {line[0]: [int(n) for n in line[1:]] for line in lines if len(line) == 5}
    # Without luring nearly all of what MIM makes would fool M as well.
    for attack, share in (("MIM", 1 / 2), ("PGD", 1 / 4)):
        fools_mop, fools_m, refused, m_is_right = counts[attack]
        assert fools_mop >= 12
        assert fools_m <= share * fools_mop
        assert refused >= (1 - share) * fools_mop
        assert fools_m + m_is_right == fools_mop


def test_without_the_models_the_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"target\.npz"):
        run("--demo", f"--packed={tmp_path}")


def test_a_demo_takes_no_sub_command(tmp_path: Path) -> None:
    with pytest.raises(app.UsageError, match="Received: train"):
        run("train", "--demo", f"--packed={tmp_path}")


def test_packing_needs_trained_models(tmp_path: Path) -> None:
    with pytest.raises(app.UsageError, match="--workdir"):
        run("pack")
    packed = f"--packed={tmp_path / 'packed'}"
    with pytest.raises(app.UsageError, match=r"There is no .*target\.keras"):
        run("pack", f"--workdir={tmp_path}", packed)


def test_the_shipped_models_are_not_packed_over_unasked(workdir: Path) -> None:
    with pytest.raises(app.UsageError, match="--packed is required"):
        run("pack", f"--workdir={workdir}")


@pytest.mark.parametrize("flag", ["--model=m.keras", "--dataset=cifar10"])
def test_packing_takes_no_other_m(workdir: Path, tmp_path: Path, flag: str) -> None:
    with pytest.raises(app.UsageError, match="Only luring on MNIST is packed"):
        run("pack", f"--workdir={workdir}", f"--packed={tmp_path}", flag)
