"""Draws the luring paper's figures of what was trained and attacked."""

from __future__ import annotations

import dataclasses
import functools
import sys
from collections.abc import Callable, Iterator
from typing import Literal, NamedTuple

import keras
from absl import flags

from keras_traps import datasets
from keras_traps._checks import FloatArray, IntArray
from keras_traps._files import make_writable
from keras_traps._flags import Flags
from keras_traps._luring.folder import Folder, open_folder
from keras_traps.devices import hush_retracing, prepare_devices
from keras_traps.evaluation.figures.study import Study, write_study
from keras_traps.evaluation.luring import figures
from keras_traps.evaluation.luring.direction_counts import direction_counts
from keras_traps.evaluation.luring.outcomes import attack_provenance
from keras_traps.evaluation.luring.records import LuringRecord
from keras_traps.evaluation.luring.sensitivity import figure_6
from keras_traps.evaluation.luring.setting_report import setting_blocks
from keras_traps.evaluation.luring.subjects import right_on_all
from keras_traps.evaluation.records import open_records
from keras_traps.models.inference import predict
from keras_traps.provenance import provenance

FigureName = Literal["4", "5", "6", "directions"]

# What is drawn from records of attacks.
_ATTACKS = {"4": figures.ATTACKS, "5": ("PGD",)}

# The Jacobian of P takes many passes for each image.
_MOST_IN_FIGURE_6 = 100


def define_figure_flags(define: Flags) -> None:
    """Defines the flags of `figure`.

    Args:
        define: Where to define them.
    """
    define.choices(
        "figure",
        ["4", "5", "6", "directions"],
        FigureName,
        "Which figure to draw, or the opposite directions to count; give it once for "
        "each.",
    )


def figure(values: flags.FlagValues) -> Iterator[str]:
    """Draws what `--figure` names, as PNG, JSON and Markdown.

    Args:
        values: The parsed flags.

    Yields:
        What there is to tell.

    Raises:
        app.UsageError: If a model is not there.
        FileNotFoundError: If nothing was attacked, and Figure 4 or 5 is asked for.
        ValueError: If the attack of a figure is not among what was run, or a record is
            damaged, or of a model that was trained again since.
    """
    folder = open_folder(values)
    names = folder.variants(values)
    make_writable(folder.path, name="workdir")
    records = functools.cache(lambda: _records(folder, names))
    models = functools.cache(lambda: _models(values, folder, names))
    makers: dict[str, Callable[[], Study]] = {
        "4": lambda: figures.figure_4(values.dataset, records()),
        "5": lambda: figures.figure_5(values.dataset, records()),
        "6": lambda: _figure_6(values, models()),
        "directions": lambda: _directions(values, models()),
    }
    facts = {name: folder.facts(name)["model"] for name in names}
    for name in dict.fromkeys(values.figure):
        study = makers[name]()
        origin = provenance(sys.argv, models=facts)
        if name in _ATTACKS:
            run = figures.shown(folder.outcomes(names), _ATTACKS[name])
            study = dataclasses.replace(
                study, blocks=(*study.blocks, *setting_blocks(run))
            )
            origin |= attack_provenance(run)
        elif name == "6":
            origin["seed"] = values.seed
        path = write_study(study, origin, folder.path / "figures")
        yield f"Written: {path}"


class _Models(NamedTuple):
    target: keras.Model
    variants: dict[str, keras.Model]
    images: FloatArray
    labels: IntArray


def _records(folder: Folder, names: list[str]) -> figures.Records:
    store = open_records(LuringRecord, folder.path)
    return figures.collect(folder.outcomes(names), lambda one: one.read(store))


def _models(values: flags.FlagValues, folder: Folder, names: list[str]) -> _Models:
    prepare_devices()
    hush_retracing()
    test = datasets.load(values.dataset, "test", values.data_dir)
    target = folder.target()
    variants = {name: folder.augmented(name, target) for name in names}
    ids = right_on_all(
        [
            predict(model, test.images).argmax(axis=1)
            for model in (target, *variants.values())
        ],
        test,
        num_examples=values.num_examples,
    )
    return _Models(target, variants, test.images[ids], test.labels[ids])


def _figure_6(values: flags.FlagValues, models: _Models) -> Study:
    return figure_6(
        values.dataset,
        models.target,
        models.variants,
        models.images[:_MOST_IN_FIGURE_6],
        models.labels[:_MOST_IN_FIGURE_6],
        seed=values.seed,
    )


def _directions(values: flags.FlagValues, models: _Models) -> Study:
    return direction_counts(
        values.dataset, models.target, models.variants, models.images
    )
