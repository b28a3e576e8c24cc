"""Tells whether a model can be trapped, what that costs, and what will not work."""

from __future__ import annotations

import contextlib
import math
import sys
import time
import warnings
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from keras_traps.commands import command_line
from keras_traps.commands.command_line import CommandLineError, Flags, Parser, refusing

if TYPE_CHECKING:
    import keras

    from keras_traps import TrapSettings
    from keras_traps._checks import Bounds
    from keras_traps.datasets import Dataset

# So many images tell an accuracy to a point or two, and cost a minute at most.
_LOOKED_AT = 1000
_TOO_LARGE = 2**31  # bytes of a kernel that is not made only to be timed
_SLOWER, _SLOW_MS = 1.2, 5.0  # both have to be passed for a warning
_FEW_PIXELS = 400


def add_command(parser: Parser) -> None:
    """Adds the sub-command."""
    about = (
        "Tells what a model takes and returns, whether it can be trapped (the exit "
        "code is 0 where it can, else 1), what traps cost, and what will not work."
    )
    check = parser.command("check", about, look)
    command_line.add_model_and_images(check, required=False)


def look(arguments: Flags) -> None:
    """Runs the sub-command."""
    from keras_traps import TrapSettings, inject
    from keras_traps.commands import trapping
    from keras_traps.devices import hush_retracing, prepare_devices
    from keras_traps.models.forms import check_data
    from keras_traps.models.outputs import check_classifier
    from keras_traps.serving import is_trapped

    prepare_devices()
    hush_retracing()
    with _obstacles():
        model = trapping.load_model(arguments.model, "MODEL")
        classes = check_classifier(model, "logits", name="MODEL")
        if is_trapped(model):
            raise ValueError("It is trapped already; `keras-traps export` takes it.")
    train = test = None
    if arguments.dataset is not None:
        train, test = trapping.load_data(arguments, model)
        with refusing():
            check_data(model, test, name="MODEL")
        train, test = (
            one.take(min(_LOOKED_AT, len(one)), seed=0) for one in (train, test)
        )
    shape = model.input_shape[1:]
    _tell("Takes", f"images of {_times(shape)}, {model.inputs[0].dtype}")
    with _obstacles():
        bounds, why = _bounds(model, arguments.bounds, test)
        _tell("Pixels", f"from {bounds[0]:g} to {bounds[1]:g}: {why}")
        answers, output = _answers(model, test, bounds)
        numbers = "one number" if model.output_shape[1] == 1 else f"{classes} numbers"
        _tell("Returns", f"{output} of {classes} classes, {numbers}")
        if train is None or test is None:
            # Other constants take as long.
            weights = (1.0,) * len(TrapSettings.steps)
            settings = TrapSettings(
                output=output,
                a0=-1.0,
                a1=0.0,
                a2=1.0,
                step_weights=weights,
                bounds=bounds,
            )
        else:
            shown = [*test.class_names[:10], *["..."][: classes > 10]]
            _tell("Classes", ", ".join(shown))
            right = (answers.argmax(axis=1) == test.labels).mean()
            _tell("Accuracy", f"{right:.1%} of {len(test)} test images")
            settings = _calibrated(model, train, output, bounds)
        size = 4 * classes * math.prod(shape)
        if size > _TOO_LARGE:
            _tell("Slow", f"the decoder needs {size / 1e9:.1f} GB; it was not timed")
        else:
            with warnings.catch_warnings():
                # What is guessed of a large one there is measured here.
                warnings.simplefilter("ignore")
                trapped = inject(model, settings)
            _costs(model, trapped, size)
    for note in _notes(model, output):
        _tell("Note", note)
    print("It can be trapped.")


@contextlib.contextmanager
def _obstacles() -> Iterator[None]:
    """Ends the process with the code 1 where an error within says why not."""
    try:
        yield
    except (CommandLineError, TypeError, ValueError) as error:
        print(f"It cannot be trapped: {' '.join(str(error).split())}")
        sys.exit(1)


def _tell(what: str, text: str) -> None:
    print(f"{what:10}{text}", flush=True)


def _times(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))


def _bounds(
    model: keras.Model, given: Bounds | None, test: Dataset | None
) -> tuple[Bounds, str]:
    """Returns the range of pixels, and what tells it."""
    from keras_traps._checks import UNIT
    from keras_traps.models.forms import check_first_layers, fitting_bounds

    if given is not None:
        check_first_layers(model, given, name="MODEL")
        return given, "as given"
    fitting = fitting_bounds(model)
    if not fitting:
        check_first_layers(model, UNIT, name="MODEL")
    if len(fitting) == 1:
        return fitting[0], "its own Rescaling or Normalization fit no other usual range"
    if test is None:
        return fitting[0], "assumed, for nothing tells; name IMAGES, or give --bounds"
    rights = {
        bounds: (_answers(model, test, bounds)[0].argmax(axis=1) == test.labels).mean()
        for bounds in fitting
    }
    told = "; ".join(
        f"{right:.1%} of {low:g} to {high:g}" for (low, high), right in rights.items()
    )
    best = max(rights, key=lambda bounds: rights[bounds])
    return best, f"where it is right most often ({told})"


def _answers(
    model: keras.Model, test: Dataset | None, bounds: Bounds
) -> tuple[Any, Any]:
    """Returns a column for each class, `None` without images, and what is returned."""
    from keras_traps.models.forms import for_model
    from keras_traps.models.inference import predict
    from keras_traps.models.outputs import (
        answers_of,
        check_on_noise,
        check_outputs,
        output_of,
    )

    if test is None:
        return None, check_on_noise(model, None, bounds)
    outputs = predict(model, for_model(model, test.images, bounds))
    output = output_of(outputs)
    check_outputs(outputs, output)
    return answers_of(outputs, output), output


def _calibrated(
    model: keras.Model, train: Dataset, output: Any, bounds: Bounds
) -> TrapSettings:
    """Chooses the traps, as far as so few images allow, and tells what they change."""
    from keras_traps import calibrate
    from keras_traps.models.forms import for_model

    budget = max(0.001, math.ceil(1e6 / len(train)) / 1e6)
    found = calibrate(
        model,
        for_model(model, train.images, bounds),
        train.labels,
        output=output,
        bounds=bounds,
        budget=budget,
    )
    _tell(
        "Traps",
        f"change {found.changed_answers:.2%} of the answers to {len(train)} training "
        f"images, of {budget:.2%} allowed; A2 = {found.settings.a2:.3g}",
    )
    if budget > 0.001:
        _tell("Few", f"with {len(train)} images pass --budget={budget:g}")
    return found.settings


def _costs(model: keras.Model, trapped: keras.Model, size: int) -> None:
    """Times both models on one image, in turn, and tells what the traps add."""
    import numpy as np
    import tensorflow as tf

    from keras_traps.models.inference import inference_function

    image = tf.zeros((1, *model.input_shape[1:]))
    calls = [inference_function(one) for one in (model, trapped)]
    rounds: list[list[float]] = []
    begun = time.perf_counter()
    while len(rounds) < 10 or (len(rounds) < 100 and time.perf_counter() - begun < 2):
        rounds.append([])
        for call in calls:
            start = time.perf_counter()
            call(image).numpy()
            rounds[-1].append(1e3 * (time.perf_counter() - start))
    bare, more = np.median(rounds[1:], axis=0)
    _tell("Time", f"{bare:.2f} ms for one image, {more:.2f} ms with traps, here")
    _tell("Memory", f"{size / 1e6:.3g} MB for the decoder, 4 bytes x classes x pixels")
    if more > _SLOWER * bare and more - bare > _SLOW_MS:
        _tell(
            "Slow",
            f"{more / bare:.1f} times as long at batch 1, as {size / 1e6:.3g} MB are "
            "read for each call: ask for several images at once, or train on smaller "
            "images",
        )


def _notes(model: keras.Model, output: Any) -> Iterator[str]:
    """Says what will not work, and the cure."""
    from keras_traps.attacks.model_checks import (
        check_channels_last,
        check_differentiable,
    )
    from keras_traps.models.logits import is_logarithm, logits_model

    shape = model.input_shape[1:]
    if model.inputs[0].dtype in ("float16", "bfloat16"):
        yield "the trapped model takes float32: half precision blurs the small step"
    if math.prod(shape) < _FEW_PIXELS:
        yield (
            f"{math.prod(shape)} pixels hold a weak watermark: attacks will more often "
            "pass unnoticed than on larger images"
        )
    if len(shape) == 3 and shape[2] not in (1, 3, 4):
        yield (f"no image file has {shape[2]} channels: export without image_bytes")
    for check in (
        check_differentiable,
        lambda model: check_channels_last(model, name="DIM, MIM-TI or DIM-TI"),
    ):
        try:
            check(model)
        except ValueError as error:
            yield str(error).partition(". ")[2]
    if output == "probabilities" and is_logarithm(logits_model(model, output)):
        yield (
            "its softmax was not found, so that attacks refuse images at which a "
            "probability is 0: end the model in a Dense layer and a Softmax, or in "
            "logits"
        )
