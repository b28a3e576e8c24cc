"""Compares the attacks in speed, memory and strength with those of other libraries.

`benchmarks/requirements.txt` names what has to be installed for all columns.

Example:
    python -m benchmarks.attacks --dataset=mnist --data_dir=data \
        --model=mnist.keras --num_examples=100 --output=docs/results/benchmark_attacks
"""

import functools
import math
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tqdm
from absl import app, flags

from benchmarks import _measure
from benchmarks._attack_libraries import LIBRARIES, AutoAttack, Run, Victim, version
from keras_traps import attacks, datasets
from keras_traps._checks import FloatArray
from keras_traps.attacks import PRESETS, Attack
from keras_traps.commands.trapping import load_classifier
from keras_traps.devices import hush_retracing, prepare_devices
from keras_traps.models import digits_cnn, train
from keras_traps.models.inference import predict
from keras_traps.provenance import weights_sha256

# Rounding of x + eps in float32, with room for libraries that compute it otherwise.
_BALL_TOLERANCE = 1e-5
_MEBIBYTE = 2**20
_OURS = "keras_traps"
_EPS = 0.3
_STEPS = {"eps": _EPS, "eps_iter": 0.05, "nb_iter": 40}

ATTACKS: dict[str, tuple[str, dict[str, Any]]] = {
    "PGD": ("PGD", _STEPS),
    "PGD-early": ("PGD", {**_STEPS, "abort_early": True}),
    "DeepFool": ("DeepFool", {"max_iter": 50, "overshoot": 0.02}),
    "CW2": (
        "CW2",
        {
            "initial_const": 1.0,
            "learning_rate": 0.1,
            "binary_search_steps": 5,
            "max_iterations": 50,
        },
    ),
    "JSMA": ("JSMA", {"theta": 1.0, "gamma": 0.1}),
    "SPSA": (
        "SPSA",
        {"eps": _EPS, "nb_iter": 20, "learning_rate": 0.1, "spsa_samples": 32},
    ),
    **{
        name: (name, {**settings, "eps": _EPS})
        for name, settings in PRESETS["autoattack"].items()
    },
    "AutoAttack": ("AutoAttack", {"eps": _EPS}),
    "HopSkipJump": ("HopSkipJump", {"nb_queries": 2500}),
}
"""What is compared, by the name it is shown by: the attack and its settings."""

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
    "l2_median": ("median L2", "{:.3f}"),
}
_NOTES = """\
All libraries attack the same model and images, in batches of the same size, with the
same settings. Times are medians over rounds in which the libraries take turns, in an
order that alternates, and the ratios are medians of the rounds'. The first call is not
among them, unless there are no rounds: then it is the only one. Extra memory is the
growth of the peak resident set of a process of its own during a second run. Success is
judged by the model's answers to what came back; the L2 distances are of the successes.
PGD-early stops on an image as soon as it has succeeded, which the others cannot.
HopSkipJump has 2500 questions for an image, and as many steps in ART, which counts no
questions, as take about as many: ten."""


def define_flags(values: flags.FlagValues) -> flags.FlagValues:
    """Defines the benchmark's flags."""
    text = functools.partial(flags.DEFINE_string, flag_values=values)
    count = functools.partial(flags.DEFINE_integer, flag_values=values, lower_bound=1)
    several = functools.partial(flags.DEFINE_list, flag_values=values)
    text("dataset", "digits", "The data set, of which test images are attacked.")
    text("data_dir", None, "The folder that holds it.")
    text("model", None, "A .keras file of a model of logits, or DEEPSEC's .npz file.")
    several("attacks", list(ATTACKS), "Which attacks.")
    several("libraries", list(LIBRARIES), "Which libraries.")
    about = "The L-infinity radius in place of 0.3; steps grow and shrink with it."
    flags.DEFINE_float("eps", _EPS, about, 0.0, 1.0, flag_values=values)
    count("num_examples", 100, "How many images, the first that the model gets right.")
    count("batch_size", 250, "How many images are attacked at once.")
    flags.DEFINE_bool("memory", True, "Whether to measure memory.", flag_values=values)
    _measure.define_flags(values, repeats=5, least=0)
    return values


def main(argv: Sequence[str], values: flags.FlagValues = flags.FLAGS) -> None:
    """Runs the benchmark."""
    for name, known in (("attacks", ATTACKS), ("libraries", LIBRARIES)):
        if unknown := [each for each in values[name].value if each not in known]:
            raise app.UsageError(
                f"--{name} knows {', '.join(known)}. Received: {', '.join(unknown)}"
            )
    if values.model is None and values.dataset != "digits":
        raise app.UsageError(f"--model is required for {values.dataset}.")
    versions = {name: version(name) for name in values.libraries}
    device = prepare_devices()
    hush_retracing()
    with tempfile.TemporaryDirectory() as folder:
        path = values.model or _trained(Path(folder) / "victim.keras")
        choice = (path, values.dataset, values.data_dir)
        victim = load_victim(*choice, values.num_examples, values.batch_size)
        eps = values.eps
        facts = {
            "device": device,
            "classifier": weights_sha256(victim.model),
            **{name: told or "not installed" for name, told in versions.items()},
        }
        _measure.run(
            "benchmarks.attacks",
            argv,
            values,
            lambda: measure(
                victim,
                {name: _attack(name, eps) for name in values.attacks},
                [name for name, told in versions.items() if told],
                repeats=values.repeats,
                memory=choice if values.memory else None,
            ),
            title=f"Attacks on {len(victim.images)} images of {values.dataset}; "
            + ", ".join(f"{name}: {told}" for name, told in facts.items()),
            columns=_COLUMNS,
            notes=_NOTES,
        )


def _trained(path: Path) -> str:
    keras.utils.set_random_seed(0)
    model = digits_cnn()
    data = datasets.load("digits")
    train(model, data, epochs=20, batch_size=32, learning_rate=2e-3, seed=0)
    model.save(path)
    return str(path)


def load_victim(
    path: str, dataset: str, data_dir: str | None, count: int, batch_size: int
) -> Victim:
    """Loads what is attacked: the first test images that the model gets right."""
    model = load_classifier(Path(path), dataset)
    test = datasets.load(dataset, "test", data_dir)
    answers = predict(model, test.images).argmax(axis=1)
    ids = np.flatnonzero(answers == test.labels)[:count]
    labels = test.labels[ids]
    targets = attacks.random_targets(labels, model.output_shape[1], seed=0, ids=ids)
    return Victim(model, test.images[ids], labels, targets, batch_size)


def measure(
    victim: Victim,
    chosen: Mapping[str, Attack],
    libraries: Sequence[str],
    *,
    repeats: int,
    memory: tuple[str, str, str | None] | None,
) -> list[_measure.Row]:
    """Attacks with each library in turn, again and again."""
    rows = []
    for name, attack in tqdm.tqdm(chosen.items(), unit="attack"):
        runs = {each: LIBRARIES[each](attack, victim) for each in libraries}
        calls = {each: _Watched(run) for each, run in runs.items() if run is not None}
        times = _measure.time_calls(calls, repeats)
        if not repeats:
            times = {each: [call.first_seconds] for each, call in calls.items()}
        ratios = _measure.compare(times, _OURS) if _OURS in times else {}
        for library, own in times.items():
            row: _measure.Row = {"attack": name, "library": library}
            row |= ratios.get(library, {})
            row |= judge(attack, victim, calls[library].images)
            row["seconds"] = 1e-3 * _measure.milliseconds(own)
            row["first_seconds"] = calls[library].first_seconds
            if memory is not None:
                more = (len(victim.images), victim.batch_size)
                prepare = functools.partial(_prepare, attack, library, *memory, *more)
                row["memory"] = _measure.extra_memory(prepare)[0] / _MEBIBYTE
            rows.append(row)
    return rows


def judge(attack: Attack, victim: Victim, images: FloatArray) -> _measure.Row:
    """Judges what a library returned, in the same way for all."""
    finite = np.isfinite(images).all(axis=(1, 2, 3))
    images = np.clip(np.nan_to_num(images), 0, 1).astype(np.float32)
    answers = predict(victim.model, images).argmax(axis=1)
    success = answers == victim.targets if attack.targeted else answers != victim.labels
    moved = attacks.distances(victim.images, images)
    success &= finite & images.any(axis=(1, 2, 3))
    if attack.linf_bound is not None:
        success &= moved.linf <= attack.linf_bound + _BALL_TOLERANCE
    row: _measure.Row = {"success": float(success.mean())}
    if success.any():
        row["l2"] = float(moved.l2[success].mean())
        row["l2_median"] = float(np.median(moved.l2[success]))
    return row


class _Watched:
    """An attack whose first call is timed, and whose last images are kept."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self.first_seconds = math.nan
        self.images: FloatArray

    def __call__(self) -> None:
        start = time.perf_counter()
        self.images = self._run()
        if math.isnan(self.first_seconds):
            self.first_seconds = time.perf_counter() - start


def _attack(name: str, eps: float = _EPS) -> Attack:
    attack, settings = ATTACKS[name]
    if "eps" in settings:
        settings = {**settings, "eps": eps}
    if "eps_iter" in settings:
        settings["eps_iter"] *= eps / _EPS
    if attack == "AutoAttack":
        return AutoAttack(**settings)
    return attacks.create(attack, **settings)


def _prepare(attack: Attack, library: str, *victim: Any) -> list[_measure.Call]:
    hush_retracing()
    run = LIBRARIES[library](attack, load_victim(*victim))
    return [] if run is None else [run]


if __name__ == "__main__":
    define_flags(flags.FLAGS)
    app.run(main)
