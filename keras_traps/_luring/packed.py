"""The models of luring that are shipped: packed, and loaded again."""

from collections.abc import Iterator
from pathlib import Path

import keras
from absl import app, flags

from keras_traps import datasets
from keras_traps._files import make_writable
from keras_traps._flags import Flags
from keras_traps._luring.folder import Folder
from keras_traps._packed_models import changed_answers, pack_model, unpack_model
from keras_traps._recipe import check_required
from keras_traps.luring.variants import join

TARGET_FILE, LURE_FILE = "target.npz", "lure.npz"


def define_packed_flags(define: Flags, *, shipped: Path) -> None:
    """Defines the flag that says where the packed models are.

    Args:
        define: Where to define it.
        shipped: The folder of the shipped models.
    """
    define.text(
        "packed",
        str(shipped),
        "The folder of the packed models. --demo has those that are shipped; pack "
        "needs to be told.",
    )


def load_models(directory: Path) -> tuple[keras.Model, keras.Model]:
    """Loads the models that are shipped.

    Args:
        directory: The folder of `target.npz` and `lure.npz`.

    Returns:
        M and P, frozen.

    Raises:
        FileNotFoundError: If one is not there.
    """
    target, lure = (unpack_model(directory / file) for file in (TARGET_FILE, LURE_FILE))
    return target, lure


def pack(values: flags.FlagValues) -> Iterator[str]:
    """Packs M and the P of luring on MNIST, as they are shipped.

    Args:
        values: The parsed flags.

    Yields:
        How many answers change by it.

    Raises:
        app.UsageError: If a flag is missing, or a model is, or a flag is given that
            packing has no use for.
    """
    check_required(values, ["workdir"])
    if not values["packed"].present:
        raise app.UsageError(
            "--packed is required: its default is where the shipped models are."
        )
    if values.model or (values["dataset"].present and values.dataset != "mnist"):
        raise app.UsageError(
            "Only luring on MNIST is packed, before the classifier that "
            "--variant=target trained: --model and another --dataset have no use here."
        )
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
