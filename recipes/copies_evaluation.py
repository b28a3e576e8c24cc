"""Attacks copies, alone and together, and counts how often they are traced."""

import dataclasses
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf
from copies import ASKING
from PIL import Image

from keras_traps import attractors
from keras_traps._checks import FloatArray, IntArray
from keras_traps._files import write_atomically
from keras_traps._pixels import from_unit
from keras_traps.attacks import PRESETS
from keras_traps.commands import trapping
from keras_traps.commands.command_line import Flags, refusing
from keras_traps.evaluation.records import Record
from keras_traps.evaluation.render import percent, plain
from keras_traps.evaluation.runner import attack_all
from keras_traps.evaluation.subjects import (
    Defence,
    choose_examples,
    classes_of,
    defend,
    model_subject,
)
from keras_traps.models.forms import class_answers
from keras_traps.models.inference import as_graph
from keras_traps.rates import Rate

_COLLUDING, _COLLUDERS = ("FGSM", "PGD"), (2, 4, 8)
_CLEAN, _OF_ONE_SENDER, _FPR = 1000, 10, 0.01


class _Suspects(NamedTuple):
    """Adversarial images in [0, 1], of which some copies are guilty, by position."""

    facts: dict[str, Any]
    images: FloatArray
    guilty: Sequence[int]


def evaluate(arguments: Flags) -> None:
    """Attacks, traces, and writes `copies.json`."""
    trapping.begin(arguments)
    train, test = trapping.load_data(arguments)
    known = PRESETS[trapping.preset_name(arguments)]
    arguments.attacks = arguments.attacks or (*known, *ASKING)
    chosen = trapping.choose_attacks(arguments)
    trapped = trapping.trap(arguments, train, test)
    store = trapping.open_store(arguments, trapped, train, test)
    classifier, settings = trapped.defence.classifier, trapped.calibration.settings
    master, output, bounds = settings.key, settings.output, settings.bounds
    names = [f"copy{number}" for number in range(arguments.num_copies)]
    with refusing():
        registry = attractors.Registry.of(classifier, settings, master, names)
        outputs = class_answers(classifier, trapped.test.images, output, bounds)
        examples = choose_examples(
            trapped.test,
            [outputs],
            num_examples=arguments.num_examples,
            seed=arguments.seed,
        )
    made = [model for _, model in attractors.copies(classifier, registry, master)]
    few = {one.name for one in chosen} & {*arguments.costly}
    records: dict[tuple[str, str], Record] = {}
    for name, model in _attacked(classifier, made).items():
        attacks = [a for a in chosen if name == "copy0" or a.name in _COLLUDING]
        subject = model_subject(
            model,
            examples,
            name=name,
            output=output if model is classifier else "scores",
            bounds=bounds,
        )
        runs = attack_all(
            [dataclasses.replace(subject, kept=arguments.chunk_size)],
            attacks,
            store,
            background=train.images,
            seed=arguments.seed,
            chunk_size=arguments.chunk_size,
            limits={
                one.name: arguments.num_examples_costly
                for one in attacks
                if one.name in few
            },
            engine=arguments.engine,
        )
        for run in runs if attacks else ():
            parts = [store.read(run.folder, chunk) for chunk in range(run.chunks)]
            joined = Record.join(parts, kept=len(examples)).take(run.images)
            records[name, run.attack] = joined
    # The first copy's key is changed: nothing is to be traced to the new version.
    registry = registry.hand_out(master, names[:1])
    held, rest = trapping.threshold_images(train, test, [0.05])
    defences = [
        defend(classifier, registry.settings_of(key), held.images, fprs=[0.05])
        for key in registry.keys(master)[:2]
    ]
    clean = rest.images[: min(len(rest), _CLEAN)]
    groups = list(_groups(records, clean))
    found = attractors.trace(
        from_unit(np.concatenate([one.images for one in groups]), bounds).reshape(
            -1, *registry.shape
        ),
        registry,
        master,
        innocent=arguments.innocent,
    )
    rows, start = [], 0
    for one in groups:
        end = start + len(one.images)
        part, start = found.take(slice(start, end)), end
        row = {
            **one.facts,
            "alone": _named(part, one.guilty),
            "of_ten": _named(part.together(_OF_ONE_SENDER), one.guilty),
        }
        if one.guilty:
            labels = records["copy0", one.facts["attack"]]["labels"]
            fooled = _fooled(one, labels, defences)
            own, other = fooled["unnoticed_own"], fooled["unnoticed_other"]
            named = np.any(part.accused(_FPR)[list(one.guilty)], axis=0)
            row |= {name: _rate(those) for name, those in fooled.items()}
            row["unnoticed_on_other_too"] = _rate(other[own])
            row["named_of_fooling"] = _rate(named[fooled["fools_own"]])
        rows.append(row)
        _print(rows[-1])
    facts = {**trapped.provenance, "copies": len(names), "keys": arguments.innocent}
    text = json.dumps(plain({"rows": rows, "provenance": facts}), indent=1)
    path = arguments.workdir / "copies.json"
    write_atomically(path, f"{text}\n".encode())
    print(f"Written: {path}")


def _attacked(
    classifier: keras.Model, made: Sequence[keras.Model]
) -> dict[str, keras.Model]:
    """Returns what is attacked by name: copies, means of copies, C itself."""
    together = [number for number in _COLLUDERS if number <= len(made)]
    found = {f"copy{k}": made[k] for k in range(max(together, default=1))}
    for number in together:
        inputs = keras.Input(made[0].input_shape[1:])
        parts = [as_graph(made[k], name=f"copy{k}") for k in range(number)]
        answers = [part(inputs) for part in parts]
        mean = keras.layers.Average(dtype="float32")(answers)
        found[f"mean{number}"] = keras.Model(inputs, mean, name=f"mean{number}")
    return {**found, "classifier": classifier}


def _groups(
    records: Mapping[tuple[str, str], Record], clean: FloatArray
) -> Iterator[_Suspects]:
    """Lists what is traced, and to whom it should be."""
    yield _Suspects({"made on": "nothing"}, clean, ())
    for (name, attack), record in records.items():
        told = {"attack": attack}
        kept = record["kept"]
        if name == "classifier":
            yield _Suspects({"made on": "the classifier alone", **told}, kept, ())
        if name.startswith("mean"):
            number = int(name.removeprefix("mean"))
            guilty = range(number)
            on = {"made on": f"{number} copies, averaged gradients", **told}
            yield _Suspects(on, kept, guilty)
            each = [records[f"copy{k}", attack]["kept"] for k in guilty]
            on = {"made on": f"{number} copies, averaged images", **told}
            yield _Suspects(on, np.mean(each, axis=0, dtype=np.float32), guilty)
        if name == "copy0":
            yield _Suspects({"made on": "a copy", **told}, kept, (0,))
            for how, filtered in _filtered(kept).items():
                on = {"made on": f"a copy, then {how}", **told}
                yield _Suspects(on, filtered, (0,))


def _filtered(images: FloatArray) -> dict[str, FloatArray]:
    """Returns what is left of images in [0, 1] after filters."""
    size = images.shape[1:3]
    smaller = tf.image.resize(images, [3 * side // 4 for side in size], antialias=True)
    return {
        "JPEG 75": np.stack([_jpeg(image) for image in images]),
        "3/4 size": np.clip(tf.image.resize(smaller, size), 0, 1),
        "3x3 mean": tf.nn.avg_pool2d(images, 3, 1, "SAME").numpy(),
        "5 bits": np.rint(images * 31).astype(np.float32) / np.float32(31),
    }


def _jpeg(image: FloatArray) -> FloatArray:
    buffer = io.BytesIO()
    grey = np.rint(255 * image).astype(np.uint8)
    Image.fromarray(grey.squeeze()).save(buffer, format="JPEG", quality=75)
    decoded = np.asarray(Image.open(buffer), np.float32) / np.float32(255)
    return decoded.reshape(image.shape)


def _fooled(
    group: _Suspects, labels: IntArray, copies: Sequence[Defence]
) -> dict[str, npt.NDArray[np.bool_]]:
    """Returns which images the first and the second copy answer wrongly, unnoticed."""
    found: dict[str, npt.NDArray[np.bool_]] = {}
    for name, copy in zip(("own", "other"), copies, strict=True):
        images = from_unit(group.images, copy.bounds)
        images = images.reshape(-1, *copy.trapped.input_shape[1:])
        wrong = classes_of(copy.trapped, images, "scores") != labels
        seen = copy.main_analyzer.detect(images).is_adversarial
        found |= {f"fools_{name}": wrong, f"unnoticed_{name}": wrong & ~seen}
    return found


def _named(found: attractors.Trace, guilty: Sequence[int]) -> dict[str, Rate]:
    """Counts who is named."""
    accused = found.accused(_FPR)
    innocent = np.delete(np.arange(len(accused)), list(guilty))
    told = {"wrongly": _rate(accused[innocent].any(axis=0))}
    if not guilty:
        return told
    return {
        "named": _rate(accused[list(guilty)].any(axis=0)),
        "all_named": _rate(accused[list(guilty)].all(axis=0)),
        "likeliest": _rate(np.isin(found.likeliest, list(guilty))),
        **told,
    }


def _rate(true: Any) -> Rate:
    return Rate(int(np.sum(true)), len(true))


def _print(row: Mapping[str, Any]) -> None:
    shares = [
        f"{percent(row[part][name].value):>6}"
        for part in ("alone", "of_ten")
        for name in ("named", "wrongly")
        if name in row[part]
    ]
    print(f"{row.get('attack', '-'):<12} {row['made on']:<40} {' '.join(shares)}")
