"""Draws a figure of the attractor paper from your own data and model.

Example:
    python recipes/analysis.py --figure=7a --dataset=mnist --data_dir=data \
        --model=deepsec_mnist.npz --num_examples=10000 --workdir=runs/analysis
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

from absl import app, flags

from keras_traps import attacks
from keras_traps._files import make_writable
from keras_traps._flags import check_flags_only
from keras_traps._recipe import (
    Trapped,
    check_required,
    define_defence_flags,
    trap,
)
from keras_traps._recipe_calibration import given_calibration
from keras_traps.attacks import Attack
from keras_traps.datasets import Dataset
from keras_traps.evaluation.figures import Study, write_study
from keras_traps.evaluation.figures.ablation import ablation
from keras_traps.evaluation.figures.directions import figure_7a
from keras_traps.evaluation.figures.local import figure_7b
from keras_traps.evaluation.figures.quantization import figure_4
from keras_traps.evaluation.figures.scheme import figure_2
from keras_traps.evaluation.figures.strength import figure_5
from keras_traps.evaluation.figures.surface import figure_1
from keras_traps.evaluation.figures.trapdoor import figure_6
from keras_traps.evaluation.kept_calibration import keep_calibration

FigureName = Literal["1", "2", "4", "5", "6", "7a", "7b", "ablation"]

# Not in the paper. A trapdoor has to stand out from clean images, small ones most.
_AMPLITUDES = {"mnist": 0.2, "cifar10": 0.1, "digits": 0.8}
# A root mean square of about 46 grey levels per pixel.
_DELTAS = {"mnist": 5.0, "cifar10": 10.0, "digits": 1.5}
_PRESETS = {"mnist": "table7_mnist", "cifar10": "table7_cifar10", "digits": "digits"}


def define_flags(values: flags.FlagValues) -> flags.FlagValues:
    """Defines this script's flags.

    Args:
        values: Where to define them: `absl.flags.FLAGS`, or others in a test.

    Returns:
        `values`.
    """
    define = define_defence_flags(values)
    define.choice(
        "figure", None, FigureName, "Which figure to draw, or the ablation's table."
    )
    define.integer("num_examples", 1000, "How many test images to look at.")
    define.numbers(
        "delta",
        [],
        "Figure 7b: radius of the local density, in L2 for pixels in [0, 1]; give it "
        "once for each, the one to draw first. The default depends on the data set.",
    )
    define.integer("samples", 2048, "Figure 7b: points around each image.", low=2)
    define.integer(
        "num_attacked",
        200,
        "Figure 6 and ablation: how many images are attacked at most.",
    )
    define.number(
        "amplitude",
        None,
        "Figure 6: how much a trapdoor changes a pixel. The default depends on the "
        "data set.",
    )
    define.integer("cw2_searches", 4, "Figure 6: how many constants CW2 tries.")
    define.integer("cw2_iterations", 100, "Figure 6: steps of CW2 with each.")
    return values


def main(argv: Sequence[str], values: flags.FlagValues = flags.FLAGS) -> None:
    """Measures, draws and writes.

    Args:
        argv: The command line as it was given; left-overs are an error.
        values: The parsed flags. Defaults to `absl.flags.FLAGS`.

    Raises:
        app.UsageError: If the command line is wrong. Nothing is run.
        ValueError: If the work directory keeps another calibration. Nothing is run.
    """
    check_flags_only(argv)
    check_required(values, ["figure", "model", "workdir"])
    workdir = Path(values.workdir).expanduser()
    make_writable(workdir, name="--workdir")
    if values.figure == "ablation":
        _check_share(values, workdir)
    trapped = trap(values, workdir)
    study = _makers(values)[values.figure](trapped)
    keep_calibration(trapped.calibration, workdir)
    path = write_study(study, trapped.provenance, workdir)
    for goal in study.goals:
        print(f"{'met' if goal.met else 'MISSED'}: {goal.what}: {goal.found}")
    print(f"Written: {path}")


def _check_share(values: flags.FlagValues, workdir: Path) -> None:
    given = given_calibration(values, workdir)
    if given is not None and given.small_step_share is None:
        raise app.UsageError(
            "--figure=ablation varies the small step's share, which this calibration "
            "does not tell. Say it by --small_step_share; where nothing was said when "
            "it was made it was 0.5."
        )


def _makers(values: flags.FlagValues) -> dict[str, Callable[[Trapped], Study]]:
    def few(trapped: Trapped) -> Dataset:
        return trapped.test.take(min(values.num_examples, len(trapped.test)))

    return {
        "1": lambda t: figure_1(t.defence, t.test),
        "2": lambda t: figure_2(t.defence, t.test, _preset(values, "FGSM")[0]),
        "4": lambda t: figure_4(t.defence, t.test),
        "5": lambda t: figure_5(t.defence, few(t)),
        "6": lambda t: figure_6(
            t.defence,
            _attacks(values),
            t.train,
            few(t),
            amplitude=values.amplitude or _AMPLITUDES.get(values.dataset, 0.2),
            num_attacked=values.num_attacked,
            seed=values.seed,
        ),
        "7a": lambda t: figure_7a(t.defence, t.calibration, t.train, few(t)),
        "7b": lambda t: figure_7b(
            t.defence,
            few(t),
            deltas=values.delta or [_DELTAS.get(values.dataset, 5.0)],
            samples=values.samples,
            seed=values.seed,
        ),
        "ablation": lambda t: ablation(
            t.defence,
            t.calibration,
            _preset(values, "FGSM", "PGD", "UMIFGSM"),
            t.train,
            few(t),
            num_attacked=values.num_attacked,
            seed=values.seed,
        ),
    }


def _preset(values: flags.FlagValues, *names: str) -> list[Attack]:
    preset = _PRESETS.get(values.dataset, "table7_cifar10")
    return attacks.preset(preset, names)


def _attacks(values: flags.FlagValues) -> list[Attack]:
    """Figure 6's: two with the paper's settings, and a CW2 of fewer, larger steps."""
    cw2 = attacks.create(
        "CW2",
        learning_rate=0.1,
        initial_const=0.1,
        binary_search_steps=values.cw2_searches,
        max_iterations=values.cw2_iterations,
    )
    return [*_preset(values, "FGSM", "PGD"), cw2]


if __name__ == "__main__":
    define_flags(flags.FLAGS)
    app.run(main)
