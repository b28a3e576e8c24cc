"""Measures how often random noise alone fools a trapped classifier unnoticed.

It is the floor under every attack in an L-infinity ball.

Example:
    python recipes/noise.py --dataset=cifar10 --data_dir=data \
        --model=deepsec_cifar10.npz --radius=0.05 --radius=0.1 --workdir=runs/noise
"""

import json
from collections.abc import Sequence
from pathlib import Path

from absl import app, flags

from keras_traps._files import make_writable, write_atomically
from keras_traps._flags import check_flags_only
from keras_traps._recipe import check_required, define_defence_flags, trap
from keras_traps.evaluation.candidates import choose_candidates
from keras_traps.evaluation.kept_calibration import keep_calibration
from keras_traps.evaluation.noise import noise_rows
from keras_traps.evaluation.report.json_report import plain
from keras_traps.evaluation.report.markdown import to_markdown
from keras_traps.evaluation.report.noise import build_noise_report
from keras_traps.models.inference import predict
from keras_traps.models.logits import logits_model


def define_flags(values: flags.FlagValues) -> flags.FlagValues:
    """Defines this script's flags.

    Args:
        values: Where to define them: `absl.flags.FLAGS`, or others in a test.

    Returns:
        `values`.
    """
    define = define_defence_flags(values)
    define.integer("num_examples", 1000, "How many test images to use at most.")
    define.numbers(
        "radius", [0.1], "The radius of the noise; give it once for each, above 0."
    )
    return values


def main(argv: Sequence[str], values: flags.FlagValues = flags.FLAGS) -> None:
    """Traps a classifier, adds noise to its test images, writes what came of it.

    Args:
        argv: The command line as it was given; left-overs are an error.
        values: The parsed flags. Defaults to `absl.flags.FLAGS`.

    Raises:
        app.UsageError: If the command line is wrong. Nothing is run.
        ValueError: If the work directory keeps another calibration. Nothing is run.
    """
    check_flags_only(argv)
    check_required(values, ["model", "workdir"])
    workdir = Path(values.workdir).expanduser()
    make_writable(workdir, name="workdir")
    trapped = trap(values, workdir)
    candidates = choose_candidates(
        predict(trapped.defence.classifier, trapped.test.images),
        trapped.test,
        num_examples=values.num_examples,
        seed=values.seed,
        logits=logits_model(trapped.defence.classifier, trapped.defence.output),
    )
    rows = noise_rows(trapped.defence, candidates, values.radius, seed=values.seed)
    content = {"provenance": trapped.provenance, "rows": plain(rows)}
    page = to_markdown(build_noise_report(rows, trapped.test.name, trapped.provenance))
    keep_calibration(trapped.calibration, workdir)
    write_atomically(workdir / "noise.json", json.dumps(content, indent=2).encode())
    write_atomically(workdir / "noise.md", page.encode())
    print(f"Noise: {workdir / 'noise.md'}")


if __name__ == "__main__":
    define_flags(flags.FLAGS)
    app.run(main)
