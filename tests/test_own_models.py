"""A classifier of one's own, of any usual form, from `calibrate` to a SavedModel."""

import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import keras
import numpy as np
import numpy.typing as npt
import pytest
from keras import layers

import keras_traps
from keras_traps import attacks
from keras_traps._checks import FloatArray, IntArray
from keras_traps.commands.main import dispatch
from keras_traps.models import wrap
from keras_traps.models.inference import predict
from keras_traps.models.outputs import Output, answers_of


@dataclasses.dataclass(frozen=True)
class Form:
    """How a classifier is made, and what it takes and returns."""

    make: Callable[[], keras.Model]
    shape: tuple[int, ...] = (12, 12, 3)
    classes: int = 3
    bounds: tuple[float, float] = (0.0, 1.0)
    output: Output = "logits"
    # How it is changed after training.
    then: Callable[[keras.Model], None] = lambda model: None


def network(
    *first: layers.Layer,
    shape: tuple[int, ...] = (12, 12, 3),
    outputs: int = 3,
    activation: str | None = None,
    **kwargs: Any,
) -> keras.Model:
    image = keras.Input(shape, **kwargs)
    hidden: Any = image
    for layer in first:
        hidden = layer(hidden)
    if len(shape) == 3:
        hidden = layers.Conv2D(4, 3, strides=2, activation="relu")(hidden)
    answer = layers.Dense(outputs, activation=activation, dtype="float32")
    return keras.Model(image, answer(layers.Flatten()(hidden)))


def nested() -> keras.Model:
    """Transfer learning as in Keras' guide: augmentation, rescaling, frozen base."""
    base = network(outputs=8)
    base.trainable = False
    image = keras.Input((12, 12, 3))
    augmented = keras.Sequential([layers.RandomFlip(), layers.RandomContrast(0.1)])
    pixels = layers.Rescaling(1 / 127.5, offset=-1)(augmented(image))
    features = layers.Dropout(0.1)(base(pixels, training=False))
    return keras.Model(image, layers.Dense(3)(features))


@keras.saving.register_keras_serializable(package="tests_own_models")
class Subclassed(keras.Model):
    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.parts = [layers.Flatten(), layers.Dense(3)]

    def build(self, input_shape: Any) -> None:
        self.parts[1].build((None, int(np.prod(input_shape[1:]))))

    def call(self, images: Any) -> Any:
        return self.parts[1](self.parts[0](images))


def subclassed() -> keras.Model:
    image = keras.Input((12, 12, 3))
    return keras.Model(image, Subclassed()(image))


def half_precision_layers() -> keras.Model:
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_float16")
    try:
        return network()
    finally:
        keras.config.set_dtype_policy(before)


FORMS = {
    "own rescaling": Form(
        lambda: network(layers.Rescaling(1 / 255), activation="softmax"),
        bounds=(0, 255),
        output="probabilities",
    ),
    "nested with augmentation": Form(nested, bounds=(0, 255)),
    "subclassed": Form(subclassed),
    "one sigmoid": Form(
        lambda: network(outputs=1, activation="sigmoid"),
        classes=2,
        output="probabilities",
    ),
    "one logit": Form(lambda: network(outputs=1), classes=2),
    "softmax of two": Form(
        lambda: network(outputs=2, activation="softmax"),
        classes=2,
        bounds=(-1, 1),
        output="probabilities",
    ),
    "without channels": Form(lambda: network(shape=(14, 14)), shape=(14, 14)),
    "flat": Form(lambda: network(shape=(196,)), shape=(196,)),
    "channels first": Form(
        lambda: network(layers.Permute((2, 3, 1)), shape=(3, 12, 12)),
        shape=(3, 12, 12),
    ),
    "mixed_float16": Form(half_precision_layers),
    "float16 input": Form(lambda: network(dtype="float16")),
    "bfloat16 input": Form(lambda: network(dtype="bfloat16")),
    "int8": Form(network, then=lambda model: model.quantize("int8")),
}


def blobs(form: Form, count: int = 1100) -> tuple[FloatArray, IntArray]:
    """Classes that a network learns at once: noise around one image each."""
    draw = np.random.default_rng(0)
    means = draw.random((form.classes, *form.shape))
    labels = draw.integers(0, form.classes, count)
    unit = 0.5 * means[labels] + 0.5 * draw.random((count, *form.shape))
    low, high = form.bounds
    return (unit * (high - low) + low).astype(np.float32), labels


def trained(form: Form) -> tuple[keras.Model, FloatArray, IntArray]:
    keras.utils.set_random_seed(0)
    images, labels = blobs(form)
    model = form.make()
    logits = form.output == "logits"
    loss: Any = (
        keras.losses.BinaryCrossentropy(from_logits=logits)
        if model.output_shape[1] == 1
        else keras.losses.SparseCategoricalCrossentropy(from_logits=logits)
    )
    model.compile(keras.optimizers.Adam(0.01), loss, jit_compile=False)
    model.fit(images, labels, epochs=3, batch_size=50, verbose=0)
    form.then(model)
    return model, images, labels


def classes_of(model: keras.Model, images: FloatArray) -> npt.NDArray[np.int64]:
    answers = np.asarray(model(images, training=False))
    return answers_of(answers, "scores").argmax(axis=1)


class Own(NamedTuple):
    """A trained classifier of some form with its traps."""

    model: keras.Model
    images: FloatArray
    labels: IntArray
    calibration: keras_traps.Calibration
    trapped: keras.Model
    analyzer: keras_traps.ForensicAnalyzer


@functools.cache
def own(name: str) -> Own:
    form = FORMS[name]
    model, images, labels = trained(form)
    calibration = keras_traps.calibrate(
        model, images, labels, bounds=form.bounds, key=keras_traps.Key.from_seed(0)
    )
    trapped = keras_traps.inject(model, calibration)
    analyzer = keras_traps.ForensicAnalyzer(trapped).fit(images, fpr=0.05)
    return Own(model, images, labels, calibration, trapped, analyzer)


# The others take their gradient as one of these does.
_ATTACKED = ("own rescaling", "one sigmoid", "one logit", "flat", "float16 input")

of_every_form = pytest.mark.parametrize("name", FORMS)
pytestmark = pytest.mark.filterwarnings("ignore:Layer .* does not have a `quantize`")


@of_every_form
def test_three_lines_trap_a_classifier_of_any_form(name: str, tmp_path: Path) -> None:
    model, images, labels, calibration, trapped, analyzer = own(name)
    assert calibration.settings.output == FORMS[name].output
    assert calibration.accuracy is not None
    assert calibration.accuracy > 0.8
    assert trapped.output_shape == model.output_shape
    right = (classes_of(trapped, images) == labels).mean()
    assert right >= calibration.accuracy - 0.002
    # What M holds of the traps is what the analyzer sees.
    total = trapped.get_layer("normalized_sum").input
    w = keras.Model(trapped.input, total[1])(images[:50])
    np.testing.assert_allclose(w, analyzer.evidence(images[:50])[:, 0], atol=1e-6)
    assert 0 < analyzer.detect(images).is_adversarial.mean() <= 0.05
    integrated = keras_traps.integrate(trapped, analyzer)
    assert integrated.output_shape == model.output_shape

    trapped.save(tmp_path / "trapped.keras")
    loaded = keras.saving.load_model(tmp_path / "trapped.keras")
    # Not called as they are: some layers augment unless they are told not to.
    found, expected = (one(images[:20], training=False) for one in (loaded, trapped))
    np.testing.assert_allclose(found, expected, atol=1e-6)


@pytest.mark.parametrize(
    "name",
    [
        name if name in _ATTACKED else pytest.param(name, marks=pytest.mark.slow)
        for name in FORMS
    ],
)
def test_an_attack_works_in_the_range_of_the_model(name: str) -> None:
    form, (model, images, labels, *_, trapped, analyzer) = FORMS[name], own(name)
    pgd = attacks.create("PGD", eps=0.2, eps_iter=0.05, nb_iter=8)
    on_model = pgd(
        model, images[:40], labels[:40], output=form.output, bounds=form.bounds
    )
    assert on_model.success.mean() > 0.5
    on_trapped = pgd(trapped, images[:40], labels[:40], output="scores")
    # What follows M's slope is led astray; where it fools M all the same, it is seen.
    assert on_trapped.success.mean() <= on_model.success.mean()
    seen = analyzer.detect(on_trapped.images).is_adversarial
    assert (seen | ~on_trapped.success).mean() > 0.95
    low, high = form.bounds
    for result in (on_model, on_trapped):
        assert result.images.shape == (40, *form.shape)
        assert low <= result.images.min() <= result.images.max() <= high
        assert result.linf.max() <= 0.2 + 1e-6


# The other forms are those of `tests/serving/test_signatures.py`.
_SERVED = (
    *("own rescaling", "nested with augmentation", "subclassed", "softmax of two"),
    *("channels first", "mixed_float16", "int8"),
)


@pytest.mark.slow
@pytest.mark.usefixtures("quick_self_test")
@pytest.mark.parametrize("name", _SERVED)
def test_what_is_exported_answers_as_the_live_model(name: str, tmp_path: Path) -> None:
    exported = keras_traps.serving.export(
        own(name).trapped,
        tmp_path / "served",
        analyzer=own(name).analyzer,
        signatures=["serving_default", "analyze", "integrated", "serving_uint8"],
        verbose=False,
    )
    assert max(exported.self_test.live.values()) <= 1
    assert max(exported.self_test.alone.values()) <= 1


@pytest.mark.slow
@of_every_form
def test_the_command_says_that_it_can_be_trapped(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    form, (model, images, labels, *_) = FORMS[name], own(name)
    low, high = form.bounds
    levels = np.round((images - low) * (255 / (high - low))).astype(np.uint8)
    if len(form.shape) == 1:
        levels = levels.reshape(-1, 14, 14)
    splits = {"train": slice(1000), "test": slice(1000, None)}
    arrays: dict[str, Any] = {}
    for split, rows in splits.items():
        arrays |= {f"x_{split}": levels[rows], f"y_{split}": labels[rows]}
    np.savez(tmp_path / "own.npz", **arrays)
    model.save(tmp_path / "model.keras")
    files = [str(tmp_path / "model.keras"), str(tmp_path / "own.npz")]

    dispatch(["check", *files, f"--bounds={low:g},{high:g}"])

    told = capsys.readouterr().out
    assert told.endswith("It can be trapped.\n")
    assert f"{form.output} of {form.classes} classes" in told


# Pixels 0 to 255, as each model's `preprocess_input` takes them.
_MEANS = [-103.939, -116.779, -123.68]
APPLICATIONS: dict[str, Callable[[keras.Model], keras.Model]] = {
    "MobileNetV2": lambda model: wrap(model, scale=1 / 127.5, offset=-1),
    "EfficientNetB0": lambda model: model,
    "VGG16": lambda model: wrap(model, offset=_MEANS, flip_channels=True),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", APPLICATIONS)
def test_models_of_keras_applications(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    keras.utils.set_random_seed(0)
    make = getattr(keras.applications, name)
    size = (32, 32, 3)
    base = make(weights=None, input_shape=size, include_top=False, pooling="avg")
    images = blobs(Form(make, size, 5, (0, 255)), 100)[0]
    model = APPLICATIONS[name](base)
    # Random features hardly differ: a head that spreads them, as training would.
    features = predict(model, images)
    head = layers.Dense(5)
    answer = keras.Model(model.input, head(model.output))
    draw = np.random.default_rng(1).normal(size=(features.shape[1], 5))
    kernel = draw / features.std(axis=0).mean()
    head.set_weights([kernel, -(features @ kernel).mean(axis=0)])
    labels = predict(answer, images).argmax(axis=1)

    calibration = keras_traps.calibrate(
        answer, images, labels, bounds=(0, 255), budget=0.01
    )
    trapped = keras_traps.inject(answer, calibration)
    analyzer = keras_traps.ForensicAnalyzer(trapped).fit(images, fpr=0.05)

    changed = predict(trapped, images).argmax(axis=1) != labels
    assert changed.mean() <= 0.01
    if model is not base:
        # Through what is wrapped; a gradient of the others takes long to trace.
        pgd = attacks.create("PGD", eps=8 / 255, eps_iter=2 / 255, nb_iter=1)
        result = pgd(trapped, images[:2], labels[:2], output="scores")
        assert result.linf.max() <= 8 / 255 + 1e-6
    trapped.save(tmp_path / "trapped.keras")
    loaded = keras.saving.load_model(tmp_path / "trapped.keras")
    # Called eagerly: to trace such a model takes longer.
    found, expected = (one(images[:2], training=False) for one in (loaded, trapped))
    np.testing.assert_allclose(found, expected, atol=1e-6)
    exported = keras_traps.serving.export(
        trapped,
        tmp_path / "served",
        analyzer=analyzer,
        signatures=["analyze"],
        verbose=False,
    )
    assert max(exported.self_test.live.values()) <= 1

    answer.save(tmp_path / "model.keras")
    dispatch(["check", str(tmp_path / "model.keras"), "--bounds=0,255"])
    assert capsys.readouterr().out.endswith("It can be trapped.\n")
