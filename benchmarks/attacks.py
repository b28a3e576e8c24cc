"""Compares the attacks in speed, strength and memory with those of other libraries.

`benchmarks/requirements.txt` names what has to be installed for all columns.

Example:
    python -m benchmarks.attacks --mode=speed --dataset=mnist --data_dir=data \
        --model=deepsec_mnist.npz --num_examples=100 --repeats=3 \
        --output=docs/results/benchmark_attacks
"""

import dataclasses
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import keras
from absl import app, flags

from benchmarks import _measure
from benchmarks._attack_libraries import KerasTraps
from benchmarks._attack_modes import (
    LIBRARIES,
    Plan,
    measure_memory,
    measure_speed,
    measure_strength,
)
from benchmarks._attack_victim import Choice, Victim, kept, load_victim
from keras_traps._flags import Flags, check_flags_only
from keras_traps.devices import hush_retracing, prepare_devices
from keras_traps.provenance import weights_sha256

Mode = Literal["speed", "strength", "memory"]

_NAMES = {"attack": ("", "{}"), "library": ("library", "{}")}
_STRENGTH = {
    "success": ("success", "{:.1%}"),
    "points": ("ours higher by, points", "{:+.1f}"),
    "l2": ("mean L2", "{:.3f}"),
    "l2_ratio": ("our L2 of theirs", "{:.3f}"),
}
_COLUMNS: dict[str, _measure.Columns] = {
    "speed": {
        **_NAMES,
        "seconds": ("s", "{:.3f}"),
        "ratio": ("of our time", "{:.2f}x"),
        "quartiles": ("quartiles", "{0[0]:.2f} to {0[1]:.2f}"),
        "first_seconds": ("first call, s", "{:.2f}"),
        "image_steps": ("image-steps/s", "{:.0f}"),
        "memory": ("extra memory, MiB", "{:.0f}"),
        **_STRENGTH,
    },
    "strength": {**_NAMES, **_STRENGTH},
    "memory": {
        **_NAMES,
        "examples": ("images", "{}"),
        "memory": ("extra memory, MiB", "{:.1f}"),
        "images_memory": ("the images, MiB", "{:.1f}"),
        "growth": ("growth, in images", "{:.2f}"),
    },
}

_JUDGED = """\
All libraries attack the same model and images, in batches of the same size, with the
same settings. Success is judged by the model's answers to what came back. Mean L2 is
over the successes; ours of theirs is over the images on which both succeeded. PGD-early
stops on an image as soon as it has succeeded, which the others cannot."""
_MEASURED = """\
Extra memory is the growth of the peak resident set of a process of its own during a
second run."""
_NOTES = {
    "speed": f"""\
{_JUDGED} Times are medians over rounds in which the libraries take turns, in an order
that alternates, and the ratios are medians of the rounds'. The first call is not among
them; it traces what is compiled, but for the model itself, which was called before.
Image-steps are the steps that the settings allow for all images: an attack that stops
early makes fewer, which counts as speed. {_MEASURED}""",
    "strength": _JUDGED,
    "memory": f"""\
{_MEASURED} The images are the size of what comes in, and of what goes out. The growth
is how much more memory is needed than with the fewest images, as a multiple of the
images that were added: some arrays of their size make some units, all else is flat.""",
}


def define_flags(values: flags.FlagValues) -> flags.FlagValues:
    """Defines this script's flags.

    Args:
        values: Where to define them: `absl.flags.FLAGS`, or others in a test.

    Returns:
        `values`.
    """
    define = Flags(values)
    define.choice("mode", "speed", Mode, "What is compared.")
    define.text("dataset", "digits", "The data set; its test images are attacked.")
    define.text("data_dir", None, "The folder that holds the data set; see the README.")
    define.text(
        "model",
        None,
        "The classifier: a .keras file of one that returns logits, or a DEEPSEC .npz "
        "state dict. For the digits one is trained where none is given.",
    )
    define.texts("attacks", None, "Which attacks, with commas between them; or all.")
    define.texts(
        "libraries", tuple(LIBRARIES), "Which libraries. Missing ones are left out."
    )
    define.integer("num_examples", 100, "How many test images to attack at most.")
    define.integer(
        "num_background",
        100,
        "How many training images a universal attack learns from.",
    )
    define.integer("batch_size", 250, "How many images are attacked at once.")
    define.texts("counts", ("256", "1024", "4096"), "How many images, for memory.")
    define.number(
        "radius",
        1.0,
        "Radius and steps in an L-infinity ball, as a share of the attractor paper's.",
    )
    define.switch(
        "compiled",
        False,
        "Whether Foolbox and ART get the model as one compiled function, which their "
        "documentation does not ask for.",
    )
    define.switch("memory", True, "Whether to measure memory with speed, on Linux.")
    define.integer("seed", 0, "The seed of targets, training and attacks.", low=0)
    _measure.define_flags(values, repeats=5)
    return values


def main(argv: Sequence[str], values: flags.FlagValues = flags.FLAGS) -> None:
    """Runs the benchmark.

    Args:
        argv: What is left of the command line.
        values: The parsed flags. Defaults to `absl.flags.FLAGS`.

    Raises:
        app.UsageError: If the command line is wrong. Nothing is measured.
    """
    check_flags_only(argv)
    versions = _versions(values.libraries)
    _counts(values)
    plan = Plan(
        choice=_choice(values),
        attacks=tuple(values.attacks) if values.attacks else None,
        libraries=tuple(name for name, version in versions.items() if version),
        batch_size=values.batch_size,
        radius=values.radius,
        compiled=values.compiled,
    )
    device = prepare_devices()
    hush_retracing()
    facts = _measure.provenance("benchmarks.attacks", values)
    victim = load_victim(plan.choice)
    facts |= {
        "device": device,
        "seed": values.seed,
        "classifier": weights_sha256(victim.model),
        "test_data": victim.data_sha256,
        **{name: version or "not installed" for name, version in versions.items()},
    }
    missing = [name for name, version in versions.items() if version is None]
    _measure.publish(
        values.output,
        title=f"Attacks on {len(victim.images)} images of {values.dataset}: "
        f"{values.mode}",
        facts=facts,
        rows=_rows(plan, victim, values),
        columns=_COLUMNS[values.mode],
        notes=_NOTES[values.mode]
        + "".join(f"\n{name} is not installed, and left out." for name in missing),
    )


def _rows(plan: Plan, victim: Victim, values: flags.FlagValues) -> list[_measure.Row]:
    keras.utils.set_random_seed(values.seed)
    if values.mode == "strength":
        return measure_strength(plan, victim)
    with tempfile.TemporaryDirectory() as folder:
        choice = kept(plan.choice, victim, Path(folder))
        plan = dataclasses.replace(plan, choice=choice)
        if values.mode == "speed":
            return measure_speed(
                plan, victim, repeats=values.repeats, memory=values.memory
            )
        return measure_memory(plan, victim, counts=_counts(values))


def _counts(values: flags.FlagValues) -> list[int]:
    if all(count.isdecimal() for count in values.counts):
        counts = [int(count) for count in values.counts]
        if counts == sorted({*counts} - {0}):
            return counts
    raise app.UsageError(
        "--counts must be positive integers, each larger than the one before. "
        f"Received: {','.join(values.counts)}"
    )


def _choice(values: flags.FlagValues) -> Choice:
    if values.model is None and values.dataset != "digits":
        raise app.UsageError(f"--model is required for {values.dataset}.")
    return Choice(
        dataset=values.dataset,
        data_dir=values.data_dir,
        model=values.model,
        num_examples=values.num_examples,
        num_background=values.num_background,
        seed=values.seed,
    )


def _versions(names: Sequence[str]) -> dict[str, str | None]:
    if unknown := [name for name in names if name not in LIBRARIES]:
        raise app.UsageError(
            f"--libraries knows {', '.join(LIBRARIES)}. Received: {', '.join(unknown)}"
        )
    if KerasTraps.name not in names:
        raise app.UsageError(f"--libraries has to name {KerasTraps.name}.")
    return {name: LIBRARIES[name].version() for name in names}


if __name__ == "__main__":
    define_flags(flags.FLAGS)
    app.run(main)
