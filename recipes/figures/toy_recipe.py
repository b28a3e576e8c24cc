"""Shows luring on three classes of 12 by 12 pixels: the luring paper's Section 3.3.

Everything is built in: no data, no download, under a minute.

Example:
    python recipes/luring_toy.py --output=runs/luring_toy
"""

import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from absl import app, flags

from keras_traps._files import make_writable
from keras_traps._flags import Flags, check_flags_only
from keras_traps.devices import hush_retracing, prepare_devices
from keras_traps.evaluation.figures import write_study
from keras_traps.evaluation.figures.luring_toy import luring_toy
from keras_traps.luring.losses import LuringLoss
from keras_traps.luring.toy import toy_images, train_toy_lure, train_toy_target
from keras_traps.provenance import provenance, weights_sha256


def define_flags(values: flags.FlagValues) -> flags.FlagValues:
    """Defines this script's flags.

    Args:
        values: Where to define them: `absl.flags.FLAGS`, or others in a test.

    Returns:
        `values`.
    """
    define = Flags(values)
    define.text("output", "runs/luring_toy", "The folder for figures and numbers.")
    define.integer("seed", 0, "The seed of images, weights and attacks.", low=0)
    define.choice("loss", "luring", LuringLoss, "What P is trained with.")
    define.numbers(
        "eps",
        [0.2, 0.3, 0.4],
        "A radius of PGD, give it once for each; the last is drawn.",
    )
    define.integer("steps", 300, "Steps that P is trained for.")
    define.integer("num_examples", 90, "How many images are attacked.", low=3)
    return values


def main(argv: Sequence[str], values: flags.FlagValues = flags.FLAGS) -> None:
    """Trains, attacks, draws and writes.

    Args:
        argv: The command line; left-overs are an error.
        values: The parsed flags. Defaults to `absl.flags.FLAGS`.

    Raises:
        app.UsageError: If the command line is wrong. Nothing is run.
    """
    check_flags_only(argv)
    output = Path(values.output).expanduser()
    make_writable(output, name="--output")
    device = prepare_devices()
    hush_retracing()
    # Seeds of training and test images never meet: one is even, one is odd.
    train, test = (
        toy_images(count, seed=2 * values.seed + part)
        for part, count in enumerate((600, values.num_examples))
    )
    target = train_toy_target(train)
    model = train_toy_lure(
        target, train, loss=values.loss, steps=values.steps, seed=values.seed
    )
    study = luring_toy(model, test, eps=values.eps, seed=values.seed)
    facts = provenance(
        sys.argv,
        seed=values.seed,
        device=device,
        target=weights_sha256(target),
        model=weights_sha256(model),
    )
    path = write_study(study, facts, output)
    for line in _report(study.numbers):
        print(line)
    print(f"Written: {path}")


def _report(numbers: Mapping[str, Any]) -> Iterator[str]:
    for name, share in numbers["accuracy"].items():
        yield f"accuracy of {name}: {share:.1%}"
    yield (
        f"neutral pixels that move M∘P alone: {numbers['used_by_augmented_alone']:.1%}"
    )
    yield f"directions with the opposite sign: {numbers['opposite']:.1%}"
    yield f"{'attack':<6}{'eps':>5}  {'made on':<8}{'succeeds':>9}{'fools M too':>12}"
    for row in numbers["attacks"]:
        yield (
            f"{row['attack']:<6}{row['eps']:>5}  {row['on']:<8}{row['succeeds']:>9}"
            f"{row['target_fooled']:>12}"
        )


if __name__ == "__main__":
    define_flags(flags.FLAGS)
    app.run(main)
