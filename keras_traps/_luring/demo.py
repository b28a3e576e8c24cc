"""What `recipes/luring.py` shows without training: a small lured model under attack."""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf
from absl import flags
from matplotlib.figure import Figure

from keras_traps import attacks, datasets
from keras_traps._checks import FloatArray, IntArray
from keras_traps._files import make_writable, write_atomically
from keras_traps._flags import Flags
from keras_traps._luring.packed import load_models
from keras_traps.attacks import AttackResult
from keras_traps.devices import prepare_devices
from keras_traps.evaluation.report.canvas import LIGHT, to_png
from keras_traps.luring.schemes import agreement_model
from keras_traps.luring.variants import join
from keras_traps.models.inference import predict

_SHOWN = 16
_ATTACKS = ("MIM", "PGD")
_DRAWN_OF_EACH = 2
_CHANGE = "change"
# What M has to get right of images that are not of its own data set.
_ENOUGH = 0.5


def define_demo_flags(define: Flags) -> None:
    """Defines the flags of `--demo`.

    Args:
        define: Where to define them.
    """
    define.switch(
        "demo",
        False,
        "Show an attack on the shipped M∘P for MNIST, without a sub-command.",
    )
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
    target, lure = load_models(Path(values.packed).expanduser())
    found = demo_images(target, _SHOWN, values.data_dir)
    yield found.source
    output = Path(values.output).expanduser()
    yield from run(target, lure, found.images, found.labels, output)


class DemoImages(NamedTuple):
    """Images to attack, all of which M gets right.

    Args:
        images: `(images, 28, 28, 1)`, float32, in [0, 1].
        labels: `(images,)`, int64.
        source: Where they are from, a sentence.
    """

    images: FloatArray
    labels: IntArray
    source: str


def demo_images(
    target: keras.Model, count: int, data_dir: str | Path | None = None
) -> DemoImages:
    """Takes test images of MNIST, or where there is no MNIST, digits made as large.

    Args:
        target: M.
        count: How many at most.
        data_dir: The folder that holds MNIST. Defaults to `None`: scikit-learn's 8 by 8
            digits, blown up to MNIST's 20 by 20 within 28 by 28.

    Returns:
        The first that M gets right.

    Raises:
        DatasetNotFoundError: If MNIST is not in `data_dir`.
        RuntimeError: If M gets less than half of the images right.
    """
    if data_dir is not None:
        data = datasets.load("mnist", "test", data_dir).take(4 * count)
        images, what = data.images, "MNIST's test images"
    else:
        data = datasets.load("digits", "test")
        large = tf.image.resize(data.images, (20, 20), "bicubic").numpy()
        images = np.pad(np.clip(large, 0, 1), ((0, 0), (4, 4), (4, 4), (0, 0)))
        what = "scikit-learn's 8x8 digits blown up to 28x28, which are not MNIST"
    right = predict(target, images).argmax(axis=1) == data.labels
    share = float(right.mean())
    if share < _ENOUGH:
        raise RuntimeError(
            f"M gets {share:.0%} of these images right: there is nothing to show on "
            f"{what}. Name a folder with MNIST by --data_dir."
        )
    chosen = np.flatnonzero(right)[:count]
    source = f"{len(chosen)} of {what}; M gets {share:.1%} of {len(images)} right"
    return DemoImages(images[chosen], data.labels[chosen], source)


def run(
    target: keras.Model,
    lure: keras.Model,
    images: FloatArray,
    labels: IntArray,
    output: Path,
) -> list[str]:
    """Attacks M∘P, and looks at what M and the deployed schemes make of that.

    Args:
        target: M, which returns logits.
        lure: P.
        images: `(images, 28, 28, 1)`, float32, in [0, 1].
        labels: Their classes, `(images,)`; images that M or M∘P gets wrong are left
            out.
        output: The folder for `luring_demo.png`; made if it is not there.

    Returns:
        What to print.

    Raises:
        OSError: If nothing can be written to `output`.
        RuntimeError: If no image is left.
    """
    make_writable(output, name="output")
    lured = join(lure, target)
    agreement = agreement_model(target, lure, output="logits")
    right = np.ones(len(images), bool)
    for model in (target, lured):
        right &= predict(model, images).argmax(axis=1) == labels
    if not right.any():
        raise RuntimeError("M or M∘P is wrong on every image: there is none to attack.")
    clean, classes = images[right], labels[right]
    lines = [
        f"{len(clean)} of {len(images)} images that both M and M∘P get right",
        f"{'attack on M∘P':<14}{'fools M∘P':>10}{'fools M':>9}{'refused':>9}"
        f"{'M right':>9}",
    ]
    found: dict[str, AttackResult] = {}
    for attack in attacks.preset("luring_mnist_cpu", _ATTACKS):
        result = found[attack.name] = attack(lured, clean, classes, output="logits")
        hit = result.images[result.success]
        said = predict(target, hit).argmax(axis=1) if len(hit) else np.zeros(0, int)
        wrong = classes[result.success] != said
        refused = ~_agreed(agreement, hit)
        lines.append(
            f"{attack.name:<14}{len(hit):>10}{wrong.sum():>9}{refused.sum():>9}"
            f"{(~wrong).sum():>9}"
        )
    lines.append(
        "The last three columns count the images that fool M∘P: where M is fooled "
        "too, where the scheme that asks both refuses, and where M alone is right."
    )
    path = output / "luring_demo.png"
    write_atomically(path, _draw(target, lured, lure, clean, found))
    return [*lines, f"Written: {path}"]


def _agreed(agreement: keras.Model, images: FloatArray) -> npt.NDArray[np.bool_]:
    if not len(images):
        return np.zeros(0, bool)
    return agreement(tf.constant(images), training=False)["agreed"].numpy()


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
        ("x", before),
        ("P(x)", predict(lure, before)),
        ("x' made on M∘P", after),
        (_CHANGE, after - before),
        ("P(x')", predict(lure, after)),
    ]
    words = {0: _said(target, lured, before), 2: _said(target, lured, after)}
    size = (9.2, 0.5 + 2.0 * len(names))
    figure = Figure(figsize=size, layout="constrained", facecolor=LIGHT.ground)
    grid = figure.subplots(len(names), len(columns), squeeze=False)
    for column, (head, pixels) in enumerate(columns):
        for row, axes in enumerate(grid[:, column]):
            values = pixels[row, ..., 0]
            if head == _CHANGE:
                reach = float(np.abs(values).max()) or 1.0
                axes.imshow(values, cmap="PuOr", vmin=-reach, vmax=reach)
            else:
                axes.imshow(values, cmap="gray", vmin=0, vmax=1)
            axes.set_xticks([])
            axes.set_yticks([])
            for spine in axes.spines.values():
                spine.set_color(LIGHT.muted)
            if column in words:
                axes.set_xlabel(words[column][row], color=LIGHT.ink, fontsize=9)
        grid[0, column].set_title(head, color=LIGHT.ink, fontsize=10)
    for axes, name in zip(grid[:, 0], names, strict=True):
        axes.set_ylabel(name, color=LIGHT.ink, fontsize=10)
    return to_png(figure)
