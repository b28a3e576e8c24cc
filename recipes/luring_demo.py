"""What luring shows without training: a small lured model under attack; its files."""

import io
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from figures.drawing import blank, show_pixels, to_png
from luring_folder import Folder

from keras_traps import attacks, datasets
from keras_traps._checks import FloatArray, IntArray
from keras_traps._files import make_writable, write_atomically
from keras_traps.commands.command_line import CommandLineError, Flags, refusing
from keras_traps.commands.trapping import load_data, load_model
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


def demo(arguments: Flags) -> None:
    """Attacks the packed M∘P, and looks at what M and the schemes make of that."""
    prepare_devices()
    with refusing():
        make_writable(arguments.output, name="output")
    target, lure = (
        load_model(arguments.packed / f"{name}.keras", "--packed")
        for name in ("target", "lure")
    )
    target.trainable = False
    lured = join(lure, target)
    agreement = agreement_model(target, lure, output="logits")
    images, labels = demo_images(target, arguments.data_dir)
    right = predict(lured, images).argmax(axis=1) == labels
    if not right.any():
        raise CommandLineError("M∘P is wrong on every image: none is attacked")
    clean, classes = images[right], labels[right]
    print(f"{len(clean)} of {len(images)} images that both M and M∘P get right")
    print(f"{'attack on M∘P':<14} fools M∘P  fools M  refused  M right")
    pairs = []
    for attack in attacks.preset("luring_mnist_cpu", _ATTACKS):
        result = attack(lured, clean, classes, output="logits")
        # All are asked, for a model cannot be asked about no image.
        hit = result.success
        wrong = predict(target, result.images).argmax(axis=1) != classes
        refused = ~agreement(result.images, training=False)["agreed"].numpy()
        counts = [(hit & also).sum() for also in (wrong, refused, ~wrong)]
        cells = "".join(f"{count:>9}" for count in counts)
        print(f"{attack.name:<14}{hit.sum():>10}{cells}")
        for row in np.argsort(~hit, kind="stable")[:_DRAWN_OF_EACH]:
            pairs.append((attack.name, clean[row], result.images[row]))
    print(
        "The last three columns count the images that fool M∘P: where M is fooled "
        "too, where the scheme that asks both refuses, and where M alone is right."
    )
    path = arguments.output / "luring_demo.png"
    write_atomically(path, _draw(target, lured, lure, pairs))
    print(f"Written: {path}")


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


def _draw(
    target: keras.Model, lured: keras.Model, lure: keras.Model, pairs: list[Any]
) -> bytes:
    names, before, after = map(np.stack, zip(*pairs, strict=True))

    def said(images: FloatArray) -> list[str]:
        both = [predict(model, images).argmax(axis=1) for model in (target, lured)]
        return [f"M: {a}, M∘P: {b}" for a, b in zip(*both, strict=True)]

    nothing = [""] * len(pairs)
    columns = [
        ("x", before, said(before)),
        ("P(x)", predict(lure, before), nothing),
        ("x' made on M∘P", after, said(after)),
        ("change", after - before, nothing),
        ("P(x')", predict(lure, after), nothing),
    ]
    figure = blank(9.2, 0.5 + 2.0 * len(pairs))
    grid = figure.subplots(len(pairs), len(columns), squeeze=False)
    for column, (head, pixels, words) in enumerate(columns):
        for row, axes in enumerate(grid[:, column]):
            show_pixels(axes, pixels[row, ..., 0], signed=head == "change")
            axes.set_xlabel(words[row], fontsize=9)
            axes.set_ylabel(names[row] if column == 0 else "")
        grid[0, column].set_title(head, fontsize=10)
    return to_png(figure)


def pack(arguments: Flags) -> None:
    """Packs M and the P of luring, and counts the answers that changed by it."""
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
    """Writes a compressed `.keras` file of weights rounded to half precision."""
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
