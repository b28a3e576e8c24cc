from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_traps import Calibration
from keras_traps.attacks import create, preset
from keras_traps.datasets import Dataset
from keras_traps.evaluation.metrics import make_frame
from keras_traps.evaluation.records import RecordStore
from keras_traps.evaluation.runner import attack_all
from keras_traps.evaluation.subjects import (
    THREATS,
    Defence,
    attractor_subjects,
    choose_examples,
    defend,
    model_subject,
)
from keras_traps.layers import LuringInput
from keras_traps.models.inference import predict
from tests.evaluation.conftest import SHAPE, Lured, threatened


def outputs_of(test: Dataset, wrong: list[int]) -> Any:
    """Right on all but some; the class after the label is least likely."""
    outputs = np.full((len(test), 10), 0.1, np.float32)
    rows = np.arange(len(test))
    outputs[rows, test.labels] = np.where(np.isin(rows, wrong), 0.05, 0.9)
    outputs[rows, (test.labels + 1) % 10] = 0.0
    return outputs


def test_the_first_images_that_all_models_are_right_on_are_attacked(
    digits_test: Dataset,
) -> None:
    both = [outputs_of(digits_test, [0, 3]), outputs_of(digits_test, [1])]
    examples = choose_examples(digits_test, both, num_examples=4, seed=3)
    assert examples.ids.tolist() == [2, 4, 5, 6]
    np.testing.assert_array_equal(examples.images, digits_test.images[examples.ids])
    np.testing.assert_array_equal(examples.least_likely, (examples.labels + 1) % 10)
    assert (examples.random != examples.labels).all()
    # Fewer are the first of more, their targets included.
    few = choose_examples(digits_test, both, num_examples=2, seed=3)
    np.testing.assert_array_equal(few.random, examples.random[:2])
    assert examples.targets(create("FGSM", eps=0.1)) is None
    random, least_likely = preset("digits", ["CW2", "LLC"])
    assert examples.targets(random) is examples.random
    assert examples.targets(least_likely) is examples.least_likely


def test_logits_settle_which_of_several_is_least_likely(
    digits_test: Dataset, digits_classifier: keras.Model
) -> None:
    logits = predict(digits_classifier, digits_test.images)
    sure = np.eye(10, dtype=np.float32)[digits_test.labels]
    examples = choose_examples(
        digits_test, [sure], num_examples=50, logits=digits_classifier
    )
    wrong = np.where(sure[:50] > 0, np.inf, logits[:50])
    np.testing.assert_array_equal(examples.least_likely, wrong.argmin(axis=1))
    # Without them it is the first.
    first = choose_examples(digits_test, [sure], num_examples=50).least_likely
    np.testing.assert_array_equal(first, np.where(examples.labels == 0, 1, 0))


def test_no_images_at_all_and_no_rates_are_refused(
    digits_test: Dataset,
    digits_classifier: keras.Model,
    digits_calibration: Calibration,
) -> None:
    settings, images = digits_calibration.settings, digits_test.images
    with pytest.raises(ValueError, match=r"`fprs`. Expected at least one rate"):
        defend(digits_classifier, settings, images, fprs=())
    wrong = outputs_of(digits_test, list(range(len(digits_test))))
    with pytest.raises(ValueError, match="classifier is right on none"):
        choose_examples(digits_test, [wrong], num_examples=4)
    with pytest.raises(ValueError, match="All models together"):
        choose_examples(
            digits_test, [outputs_of(digits_test, []), wrong], num_examples=4
        )
    with pytest.raises(ValueError, match=r"`num_examples`. Expected at least 1"):
        choose_examples(digits_test, [wrong], num_examples=0)


def test_variants_of_the_trapped_model_are_seen_as_they_say(
    digits_defence: Defence, digits_test: Dataset
) -> None:
    classifier, trapped = digits_defence.classifier, digits_defence.trapped
    outputs = predict(classifier, digits_test.images)
    examples = choose_examples(digits_test, [outputs], num_examples=30)
    names: Any = ("undefended", "paper", "margin", "raw_sum", "integrated_label")
    subjects = attractor_subjects(digits_defence, examples, names)
    undefended, paper, margin, raw, integrated = subjects
    assert undefended.attacked is classifier
    assert (undefended.questions, undefended.detector) == ({}, None)
    assert paper.attacked is margin.attacked is trapped
    assert [subject.loss for subject in subjects] == [None, None, "margin", None, None]
    assert [subject.integrated for subject in subjects] == [False] * 4 + [True]
    images = examples.images
    summed = predict(raw.attacked, images)
    order = trapped.get_layer("normalized_sum").ord
    normed = summed / np.linalg.norm(summed, ord=order, axis=1, keepdims=True)
    np.testing.assert_allclose(normed, predict(trapped, images), rtol=1e-4, atol=1e-5)
    assert raw.attacked is raw.attacked
    verdict = digits_defence.main_analyzer.detect(images)
    seen = predict(trapped, images).argmax(axis=1)
    expected = np.where(verdict.is_adversarial, verdict.recovered, seen)
    answers = predict(integrated.attacked, images).argmax(axis=1)
    np.testing.assert_array_equal(answers, expected)
    asked = paper.questions["evidence"]
    evidence = digits_defence.main_analyzer.evidence(images)
    np.testing.assert_allclose(asked(images), evidence, rtol=1e-6)


def test_who_knows_everything_attacks_c_and_m_answers(
    digits_defence: Defence, digits_test: Dataset, tmp_path: Path
) -> None:
    classifier, trapped = digits_defence.classifier, digits_defence.trapped
    outputs = predict(classifier, digits_test.images)
    examples = choose_examples(digits_test, [outputs], num_examples=20)
    names: Any = ("paper", "rejecting", "adaptive")
    paper, rejecting, adaptive = attractor_subjects(digits_defence, examples, names)
    found, expected = (
        predict(one, examples.images) for one in (adaptive.attacked, classifier)
    )
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)
    assert rejecting.attacked is trapped
    blind, both, asking = (
        create("FGSM", eps=0.3),
        create("SelectivePGD", eps=0.3),
        create("NES", eps=0.3),
    )
    for subject, follows in (
        (paper, [True, False, True]),
        (rejecting, [False, True, True]),
        (adaptive, [False, True, True]),
    ):
        assert [*map(subject.follows, (blind, both, asking))] == follows

    store = RecordStore(tmp_path, {})
    [run] = attack_all([adaptive], [blind, both], store)
    assert (run.attack, run.knowledge) == ("SelectivePGD", "everything")
    analyzer = digits_defence.main_analyzer
    alone = both(
        adaptive.attacked,
        examples.images,
        examples.labels,
        ids=examples.ids,
        detector=analyzer,
    )
    frame = make_frame([run], store, adaptive.detector)
    answers = predict(trapped, alone.images).argmax(axis=1)
    np.testing.assert_array_equal(frame["answer"], answers)
    flagged = analyzer.detect(alone.images).is_adversarial
    np.testing.assert_array_equal(frame["flagged_0.05"], flagged)
    np.testing.assert_array_equal(
        frame["through_0.05"], (answers != examples.labels) & ~flagged
    )
    assert frame["through_0.05"].mean() > 0.9


def test_threats_attack_what_they_have_and_are_judged_alike(lured: Lured) -> None:
    own = keras.models.clone_model(lured.target)
    attacked = {
        "luring": lured.augmented,
        "whitebox": lured.target,
        "surrogate": own,
        "identity": lured.augmented,
        "exchanged": lured.augmented,
    }
    assert attacked.keys() == THREATS.keys() - {"softened"}
    images = lured.examples.images
    for threat, model in attacked.items():
        [subject] = threatened(lured, threat, surrogate=own)
        assert subject.attacked is model
        assert subject.about == {"threat": threat, "variant": "ce"}
        assert subject.exchanged == (threat == "exchanged")
        for name, one in (("target", lured.target), ("augmented", lured.augmented)):
            expected = predict(one, images).argmax(axis=1)
            np.testing.assert_array_equal(subject.questions[name](images), expected)


def test_a_pixel_that_does_not_change_stays_as_it_was(lured: Lured) -> None:
    subject = model_subject(lured.target, lured.examples, bounds=(-3.0, 7.0))
    clean = lured.examples.images
    given = subject.taken(clean)
    assert (given.min() < -2, given.max() > 6) == (True, True)
    changed = given.copy()
    changed[:, 0] = 7.0
    found = subject.in_unit(changed, clean)
    np.testing.assert_array_equal(found[:, 1:], clean[:, 1:])
    np.testing.assert_array_equal(found[:, 0], 1.0)
    assert subject.facts["bounds"] == [-3.0, 7.0]
    with pytest.raises(ValueError, match=r"`bounds`. Expected two numbers"):
        model_subject(lured.target, lured.examples, bounds=(7.0, -3.0))


def test_what_is_wrong_with_a_subject_is_told(lured: Lured) -> None:
    with pytest.raises(ValueError, match=r"`name`. Expected letters"):
        model_subject(lured.target, lured.examples, name="a/b")
    one, other = (
        model_subject(model, lured.examples)
        for model in (lured.target, lured.augmented)
    )
    assert one.facts != other.facts
    with pytest.raises(ValueError, match=r"`surrogate`. Expected a model"):
        threatened(lured, "surrogate")
    with pytest.raises(ValueError, match=r"`softness`.*at least 1. Received: 0.5"):
        threatened(lured, "softened", softness=(4.0, 0.5))
    alone = lured.examples.take(slice(1))
    with pytest.raises(ValueError, match=r"Expected two .* Received: 1"):
        threatened(lured, "exchanged", examples=alone)
    [hard] = threatened(lured, "softened", softness=(4.0,))
    with pytest.raises(ValueError, match=r"`augmented`.*`LuringInput`.*augmented"):
        _ = hard.attacked
    [odd] = threatened(lured, "exchanged", examples=lured.examples.take(slice(7)))
    assert len(odd.examples) == 6


@pytest.mark.parametrize("whole", [False, True])
def test_softened_answers_stay_and_the_slope_is_that_of_a_stretched_sigmoid(
    lured: Lured, whole: bool
) -> None:
    keras.utils.set_random_seed(3)
    lure = LuringInput("cifar10", width=1 / 64, dropout=0.0, name="lure")
    lure.build((None, *SHAPE))
    inputs = keras.Input(SHAPE, name="image")
    # P is a layer of M∘P, or a model of its own in it.
    part = lure if whole else keras.Model(inputs, lure(inputs), name="lure")
    alone = keras.Model(inputs, part(inputs))
    images = tf.constant(lured.examples.images[:5])
    softness = (1.0, 4.0)
    subjects = threatened(lured, "softened", augmented=alone, softness=softness)
    for subject, number in zip(subjects, softness, strict=True):
        assert subject.choice == {"softness": number}
        with tf.GradientTape(persistent=True) as tape:
            tape.watch(images)
            z = lure.until_sigmoid()(images, training=False)
            stretched = number * tf.sigmoid(z / number)
            pixels = subject.attacked(images, training=False)
        np.testing.assert_allclose(pixels, tf.sigmoid(z), rtol=1e-6)
        expected = tape.gradient(stretched, images)
        found = tape.gradient(pixels, images)
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-7)
    augmented = keras.Model(inputs, lured.target(part(inputs)))
    [subject] = threatened(lured, "softened", augmented=augmented, softness=(1e7,))
    answers = subject.attacked(images, training=False)
    np.testing.assert_allclose(answers, augmented(images, training=False), rtol=1e-5)
