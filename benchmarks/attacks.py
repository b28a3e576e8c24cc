"""Compares the attacks in speed, strength and memory with those of other libraries.

`benchmarks/requirements.txt` names what has to be installed for all columns.

Example:
    python -m benchmarks.attacks --dataset=mnist --data_dir=data \
        --model=mnist.keras --num_examples=100 --output=docs/results/benchmark_attacks
"""

import functools
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import numpy.typing as npt
from absl import app, flags

from benchmarks import _measure
from benchmarks.libraries import LIBRARIES, Run, Victim
from keras_traps import datasets
from keras_traps._checks import FloatArray
from keras_traps.attacks import PRESETS, Attack, create, random_targets
from keras_traps.devices import hush_retracing, prepare_devices
from keras_traps.models import digits_cnn, train
from keras_traps.models.inference import predict
from keras_traps.provenance import weights_sha256

_OURS = "keras_traps"
# Rounding of x + eps in float32, with room for libraries that compute it otherwise.
_BALL_TOLERANCE = 1e-5
_MEBIBYTE = 2**20

_COLUMNS: _measure.Columns = {
    "attack": ("", "{}"),
    "library": ("library", "{}"),
    "seconds": ("s", "{:.3f}"),
    "ratio": ("of our time", "{:.2f}x"),
    "quartiles": ("quartiles", "{0[0]:.2f} to {0[1]:.2f}"),
    "first_seconds": ("first call, s", "{:.2f}"),
    "memory": ("extra memory, MiB", "{:.0f}"),
    "success": ("success", "{:.1%}"),
    "l2": ("mean L2", "{:.3f}"),
    "l2_ratio": ("our L2 of theirs", "{:.3f}"),
}

_NOTES = """\
All libraries attack the same model and images, in batches of the same size, with the
same settings. Times are medians over rounds in which the libraries take turns, in an
order that alternates, and the ratios are medians of the rounds'. The first call, which
traces what is compiled, is not among them. Extra memory is the growth of the peak
resident set of a process of its own during a second run. Success is judged by the
model's answers to what came back, inside the ball. Mean L2 is over the successes; ours
of theirs is over the images on which both succeeded. PGD-early stops on an image as
soon as it has succeeded, which the others cannot."""


def all_attacks(channels: int) -> dict[str, Attack]:
    """Lists what is compared; grey images have the paper's settings for MNIST."""
    paper = "mnist" if channels == 1 else "cifar10"
    preset = PRESETS[f"table7_{paper}_cpu"]
    few = {key: preset["BIM"][key] for key in ("eps", "eps_iter")}
    many = {**few, "nb_iter": 40}
    few["nb_iter"] = 15
    search = {"initial_const": 1.0, "learning_rate": preset["CW2"]["learning_rate"]}
    return {
        "FGSM": create("FGSM", eps=few["eps"]),
        "BIM": create("BIM", **few),
        "PGD": create("PGD", **many),
        "PGD-early": create("PGD", **many, abort_early=True),
        "MIM": create("MIM", **few),
        "DeepFool": create("DeepFool", max_iter=50, overshoot=0.02),
        "JSMA": create("JSMA", theta=1.0, gamma=0.1),
        "SPSA": create("SPSA", eps=few["eps"], nb_iter=20, spsa_samples=32),
        "CW2": create("CW2", **search, binary_search_steps=5, max_iterations=50),
        "EAD": create(
            "EAD", **search, binary_search_steps=3, max_iterations=100, beta=1e-3
        ),
    }


def load_victim(values: dict[str, Any]) -> Victim:
    """Loads, or for the digits trains, what is attacked: images that it gets right."""
    training, test = (
        datasets.load(values["dataset"], split, values["data_dir"])
        for split in ("train", "test")
    )
    if values["model"] is None:
        keras.utils.set_random_seed(values["seed"])
        model = digits_cnn()
        train(model, training, epochs=20, batch_size=32, learning_rate=2e-3, seed=0)
    else:
        model = keras.saving.load_model(values["model"], compile=False)
    right = predict(model, test.images).argmax(axis=1) == test.labels
    ids = np.flatnonzero(right)[: values["num_examples"]]
    labels = test.labels[ids]
    return Victim(
        model,
        test.images[ids],
        labels,
        random_targets(labels, test.num_classes, seed=values["seed"], ids=ids),
        training.images[:100],
    )


def succeeded(
    victim: Victim, attack: Attack, images: FloatArray
) -> npt.NDArray[np.bool_]:
    """Says which images of a library fool the model and are in the ball.

    Those that are not finite have failed, and so have all-black ones, which Foolbox
    returns where it found nothing.
    """
    finite = np.isfinite(images).all(axis=(1, 2, 3))
    images = np.nan_to_num(images).astype(np.float32)
    answers = predict(victim.model, np.clip(images, 0, 1)).argmax(axis=1)
    success = answers != victim.labels
    if attack.targeted:
        success = answers == victim.targets
    success &= finite & images.any(axis=(1, 2, 3))
    if attack.linf_bound is not None:
        change = np.abs(images - victim.images).max(axis=(1, 2, 3))
        success &= change <= attack.linf_bound + _BALL_TOLERANCE
    return success


def measure(
    victim: Victim,
    values: dict[str, Any],
    names: Sequence[str],
    libraries: Sequence[str],
    *,
    repeats: int,
    memory: bool,
) -> list[_measure.Row]:
    """Attacks with each library in turn: a row for each attack and library."""
    rows = []
    for name in names:
        attack = all_attacks(victim.images.shape[-1])[name]
        made = {
            one: LIBRARIES[one](victim, values["batch_size"]).run(attack)
            for one in libraries
        }
        calls = {one: _Watched(run) for one, run in made.items() if run is not None}
        times = _measure.time_calls(calls, repeats)
        compared = _measure.compare(times, _OURS)
        success = {
            one: succeeded(victim, attack, call.images) for one, call in calls.items()
        }
        l2 = {
            one: np.linalg.norm(
                (call.images - victim.images).reshape(len(victim.images), -1), axis=1
            )
            for one, call in calls.items()
        }
        for one, own in times.items():
            row: _measure.Row = {"attack": name, "library": one}
            row |= compared.get(one, {})
            row["seconds"] = 1e-3 * _measure.milliseconds(own)
            row["first_seconds"] = calls[one].first_seconds
            row["success"] = float(success[one].mean())
            if success[one].any():
                row["l2"] = float(l2[one][success[one]].mean())
            both = success[one] & success[_OURS]
            if one != _OURS and attack.linf_bound is None and both.any():
                row["l2_ratio"] = float(l2[_OURS][both].mean() / l2[one][both].mean())
            if memory:
                prepare = functools.partial(_prepare, values, name, one)
                row["memory"] = _measure.extra_memory(prepare)[0] / _MEBIBYTE
            rows.append(row)
    return rows


class _Watched:
    """An attack whose first call is timed, and whose last images are kept."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self.first_seconds: float | None = None
        self.images: FloatArray

    def __call__(self) -> None:
        start = time.perf_counter()
        self.images = self._run()
        if self.first_seconds is None:
            self.first_seconds = time.perf_counter() - start


def _prepare(values: dict[str, Any], attack: str, library: str) -> list[_measure.Call]:
    hush_retracing()
    victim = load_victim(values)
    made = all_attacks(victim.images.shape[-1])[attack]
    run = LIBRARIES[library](victim, values["batch_size"]).run(made)
    return [run] if run else []


def define_flags(values: flags.FlagValues) -> flags.FlagValues:
    """Defines this script's flags in `values`, and returns them."""
    names = [*all_attacks(1)]
    text = functools.partial(flags.DEFINE_string, flag_values=values)
    count = functools.partial(flags.DEFINE_integer, lower_bound=1, flag_values=values)
    text("dataset", "digits", "The data set; its test images are attacked.")
    text("data_dir", None, "The folder that holds the data set.")
    text("model", None, "A .keras file that returns logits; for digits not needed.")
    flags.DEFINE_multi_enum(
        "attack",
        names,
        names,
        "Which attacks; give it once for each.",
        flag_values=values,
    )
    flags.DEFINE_multi_enum(
        "library",
        [*LIBRARIES],
        [*LIBRARIES],
        "Which libraries; missing ones are left out.",
        flag_values=values,
    )
    count("num_examples", 100, "How many test images to attack at most.")
    count("batch_size", 250, "How many images are attacked at once.")
    flags.DEFINE_bool(
        "memory", True, "Whether to measure memory, on Linux.", flag_values=values
    )
    flags.DEFINE_integer("seed", 0, "The seed of targets.", flag_values=values)
    _measure.define_flags(values, repeats=5)
    return values


def main(argv: Sequence[str], values: flags.FlagValues = flags.FLAGS) -> None:
    """Runs the benchmark; see `_measure.run`."""
    if values.model is None and values.dataset != "digits":
        raise app.UsageError(f"--model is required for {values.dataset}.")
    versions = {name: LIBRARIES[name].version() for name in (_OURS, *values.library)}
    present = [name for name, version in versions.items() if version]
    prepare_devices()
    hush_retracing()
    given: dict[str, Any] = {name: values[name].value for name in values}
    with tempfile.TemporaryDirectory() as folder:
        victim = load_victim(given)
        # Processes that measure memory load it, and do not train it again.
        given["model"] = str(Path(folder, "victim.keras"))
        victim.model.save(given["model"])
        _measure.run(
            "benchmarks.attacks",
            argv,
            values,
            lambda: measure(
                victim,
                given,
                values.attack,
                present,
                repeats=values.repeats,
                memory=values.memory,
            ),
            title=f"Attacks on {len(victim.images)} images of {values.dataset}, "
            f"classifier {weights_sha256(victim.model)[:12]}",
            columns=_COLUMNS,
            notes=_NOTES
            + "".join(f"\n{k}: {v or 'not installed'}." for k, v in versions.items()),
        )


if __name__ == "__main__":
    define_flags(flags.FLAGS)
    app.run(main)
