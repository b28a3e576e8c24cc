"""Luring without training: the models that are shipped, and how they are packed."""

from collections.abc import Iterator
from pathlib import Path

import keras
from absl import app, flags

from keras_traps import datasets
from keras_traps._files import make_writable
from keras_traps._flags import Flags
from keras_traps._luring.folder import Folder
from keras_traps._luring_demo import (
    LURE_FILE,
    TARGET_FILE,
    demo_images,
    load_models,
    run,
)
from keras_traps._packed_models import changed_answers, pack_model
from keras_traps._recipe import check_required
from keras_traps.devices import prepare_devices
from keras_traps.luring.variants import join

_SHOWN = 16


def define_demo_flags(define: Flags, *, shipped: Path) -> None:
    """Defines the flags of `--demo` and of `pack`.

    Args:
        define: Where to define them.
        shipped: The folder of the shipped models.
    """
    define.switch(
        "demo",
        False,
        "Show an attack on the shipped M∘P for MNIST, without a sub-command.",
    )
    define.text("packed", str(shipped), "The folder of the shipped models.")
    define.text("output", "runs/luring_demo", "The folder for the demo's picture.")


def demo(values: flags.FlagValues) -> Iterator[str]:
    """Attacks the shipped M∘P.

    Args:
        values: The parsed flags.

    Yields:
        What there is to tell.

    Raises:
        FileNotFoundError: If the models are not there.
        DatasetNotFoundError: If MNIST is not in `--data_dir`.
    """
    prepare_devices()
    folder = Path(values.packed).expanduser()
    target, _ = load_models(folder)
    found = demo_images(target, _SHOWN, values.data_dir)
    yield found.source
    output = Path(values.output).expanduser()
    yield from run(folder, found.images, found.labels, output)


def pack(values: flags.FlagValues) -> Iterator[str]:
    """Packs M and the P of luring on MNIST, as they are shipped.

    Args:
        values: The parsed flags.

    Yields:
        How many answers change by it.

    Raises:
        app.UsageError: If a flag is missing, or a model is.
    """
    check_required(values, ["workdir"])
    folder = Folder(Path(values.workdir).expanduser(), None, "mnist")
    target = folder.target()
    path = folder.path / "luring.keras"
    if not path.is_file():
        raise app.UsageError(f"There is no {path}: train it by --variant=luring.")
    lure = keras.saving.load_model(path, compile=False)
    packed = Path(values.packed).expanduser()
    make_writable(packed, name="packed")
    pack_model(target, packed / TARGET_FILE, architecture="madry_mnist_cnn")
    pack_model(lure, packed / LURE_FILE, architecture="luring_mnist", half=False)
    images = datasets.load("mnist", "test", values.data_dir).images
    small, small_lure = load_models(packed)
    pairs = {"M": (target, small), "M∘P": (join(lure, target), join(small_lure, small))}
    for name, (whole, half) in pairs.items():
        changed = changed_answers(whole, half, images)
        yield f"{name}: {changed} of {len(images)} answers changed by packing"
