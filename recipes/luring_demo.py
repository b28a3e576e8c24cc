"""What luring shows without training: a small lured model under attack; its files."""

import argparse
import io
import tempfile
import zipfile
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf
from command_line import CommandLineError, refusing
from luring_folder import Folder
from matplotlib.figure import Figure
from trapping import load_data, load_model

from keras_traps import attacks, datasets
from keras_traps._checks import FloatArray, IntArray
from keras_traps._files import make_writable, write_atomically
from keras_traps.attacks import AttackResult
from keras_traps.devices import prepare_devices
from keras_traps.luring import agreement_model
from keras_traps.luring.training import join
from keras_traps.models.inference import predict
from keras_traps.models.training import save_model

_SHOWN = 16
_ATTACKS = ("MIM", "PGD")
_DRAWN_OF_EACH = 2
# What M has to get right of images that are not of its own data set.
_ENOUGH = 0.5


def demo(arguments: argparse.Namespace) -> None:
    """Attacks the packed M∘P, and looks at what M and the schemes make of that."""
    prepare_devices()
    with refusing():
        make_writable(arguments.output, name="output")
    target, lure = (
        load_model(arguments.packed / f"{name}.keras", "--packed")
        for name in ("target", "lure")
    )
    target.trainable = False
    images, labels = demo_images(target, arguments.data_dir)
    show(target, lure, images, labels, arguments.output / "luring_demo.png")


def demo_images(
    target: keras.Model, data_dir: Path | None
) -> tuple[FloatArray, IntArray]:
    """Returns images of MNIST that M gets right, or of digits made as large."""
    if data_dir is not None:
        with refusing():
            data = datasets.load("mnist", "test", data_dir).take(4 * _SHOWN)
        images, what = data.images, "MNIST's test images"
    else:
        data = datasets.load("digits", "test")
        large = tf.image.resize(data.images, (20, 20), "bicubic").numpy()
        images = np.pad(np.clip(large, 0, 1), ((0, 0), (4, 4), (4, 4), (0, 0)))
        what = "scikit-learn's 8x8 digits blown up to 28x28, which are not MNIST"
    right = predict(target, images).argmax(axis=1) == data.labels
    if right.mean() < _ENOUGH:
        raise CommandLineError(
            f"M gets {right.mean():.0%} of these images right: there is nothing to "
            f"show on {what}; name a folder with MNIST by --data_dir"
        )
    rows = np.flatnonzero(right)[:_SHOWN]
    print(f"{len(rows)} of {what}; M gets {right.mean():.1%} of {len(images)} right")
    return images[rows], data.labels[rows]


def show(
    target: keras.Model,
    lure: keras.Model,
    images: FloatArray,
    labels: IntArray,
    path: Path,
) -> None:
    """Attacks M∘P on images that it and M get right, prints and draws what happens."""
    lured = join(lure, target)
    agreement = agreement_model(target, lure, output="logits")
    right = np.ones(len(images), bool)
    for model in (target, lured):
        right &= predict(model, images).argmax(axis=1) == labels
    if not right.any():
        raise CommandLineError("M or M∘P is wrong on every image: none is attacked")
    clean, classes = images[right], labels[right]
    print(f"{len(clean)} of {len(images)} images that both M and M∘P get right")
    print(f"{'attack on M∘P':<14} fools M∘P  fools M  refused  M right")
    found: dict[str, AttackResult] = {}
    for attack in attacks.preset("luring_mnist_cpu", _ATTACKS):
        result = found[attack.name] = attack(lured, clean, classes, output="logits")
        # All are asked, for a model cannot be asked about no image.
        hit = result.success
        wrong = predict(target, result.images).argmax(axis=1) != classes
        refused = ~agreement(result.images, training=False)["agreed"].numpy()
        counts = (
            hit.sum(),
            (hit & wrong).sum(),
            (hit & refused).sum(),
            (hit & ~wrong).sum(),
        )
        print(
            f"{attack.name:<14}{counts[0]:>10}" + "".join(f"{n:>9}" for n in counts[1:])
        )
    print(
        "The last three columns count the images that fool M∘P: where M is fooled "
        "too, where the scheme that asks both refuses, and where M alone is right."
    )
    write_atomically(path, _draw(target, lured, lure, clean, found))
    print(f"Written: {path}")


def _said(target: keras.Model, lured: keras.Model, images: FloatArray) -> list[str]:
    pairs = [predict(model, images).argmax(axis=1) for model in (target, lured)]
    return [f"M: {a}, M∘P: {b}" for a, b in zip(*pairs, strict=True)]


def _draw(
    target: keras.Model,
    lured: keras.Model,
    lure: keras.Model,
    clean: FloatArray,
    found: dict[str, AttackResult],
) -> bytes:
    # Those that fool M∘P come first.
    chosen = {
        name: np.argsort(~result.success, kind="stable")[:_DRAWN_OF_EACH]
        for name, result in found.items()
    }
    names = [name for name, rows in chosen.items() for _ in rows]
    before = np.concatenate([clean[rows] for rows in chosen.values()])
    after = np.concatenate([found[name].images[rows] for name, rows in chosen.items()])
    columns = [
        ("x", before, _said(target, lured, before)),
        ("P(x)", predict(lure, before), None),
        ("x' made on M∘P", after, _said(target, lured, after)),
        ("change", after - before, None),
        ("P(x')", predict(lure, after), None),
    ]
    figure = Figure(figsize=(9.2, 0.5 + 2.0 * len(names)), layout="constrained")
    grid = figure.subplots(len(names), len(columns), squeeze=False)
    for column, (head, pixels, words) in enumerate(columns):
        for row, axes in enumerate(grid[:, column]):
            values = pixels[row, ..., 0]
            if head == "change":
                reach = float(np.abs(values).max()) or 1.0
                axes.imshow(values, cmap="PuOr", vmin=-reach, vmax=reach)
            else:
                axes.imshow(values, cmap="gray", vmin=0, vmax=1)
            axes.set(xticks=[], yticks=[])
            if words is not None:
                axes.set_xlabel(words[row], fontsize=9)
            if column == 0:
                axes.set_ylabel(names[row])
        grid[0, column].set_title(head, fontsize=10)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=100)
    return buffer.getvalue()


def pack(arguments: argparse.Namespace) -> None:
    """Packs M and the P of luring, and tells how many answers change by it."""
    folder = Folder(arguments.workdir, None, arguments.dataset)
    target, lure = folder.target(), folder.load("luring")
    images = load_data(arguments)[1].images
    with refusing():
        make_writable(arguments.packed, name="packed")
    small = pack_model(target, arguments.packed / "target.keras")
    small_lure = pack_model(lure, arguments.packed / "lure.keras")
    pairs = {"M": (target, small), "M∘P": (join(lure, target), join(small_lure, small))}
    for name, pair in pairs.items():
        before, after = (predict(model, images).argmax(axis=1) for model in pair)
        changed = (before != after).sum()
        print(f"{name}: {changed} of {len(images)} answers changed by packing")


def pack_model(model: keras.Model, path: Path) -> keras.Model:
    """Writes a small `.keras` file: weights rounded to half precision, compressed.

    Keras loads it as it does any other; it takes about half the space.
    """
    with np.errstate(over="ignore"):
        rounded = [weight.astype(np.float16) for weight in model.get_weights()]
    if not all(np.isfinite(weight).all() for weight in rounded):
        raise CommandLineError(
            f"{path.name}: a weight is not finite, or beyond half precision's 65504"
        )
    with tempfile.TemporaryDirectory() as folder:
        whole = Path(folder, path.name)
        save_model(model, whole)
        packed = keras.saving.load_model(whole, compile=False)
        packed.set_weights([weight.astype(np.float32) for weight in rounded])
        save_model(packed, whole)
        buffer = io.BytesIO()
        with (
            zipfile.ZipFile(whole) as source,
            zipfile.ZipFile(buffer, "w", zipfile.ZIP_LZMA) as small,
        ):
            for name in source.namelist():
                small.writestr(name, source.read(name))
    write_atomically(path, buffer.getvalue())
    return packed
