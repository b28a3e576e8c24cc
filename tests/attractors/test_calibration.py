import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from keras_traps._checks import FloatArray
from keras_traps.attractors import Calibration, calibrate, decoder_of, inject
from keras_traps.datasets import Dataset
from keras_traps.layers import QIMDecoder
from keras_traps.models.inference import predict
from tests.attractors.conftest import least_squares_classifier


def changed_answers(
    classifier: keras.Model, calibration: Calibration, images: FloatArray
) -> float:
    """The share of images that M and C answer differently, from the built M."""
    trapped = inject(classifier, calibration.settings)
    before = predict(classifier, images).argmax(axis=1)
    return float((predict(trapped, images).argmax(axis=1) != before).mean())


def with_a2(calibration: Calibration, factor: float) -> Calibration:
    settings = calibration.settings
    settings = dataclasses.replace(settings, a2=settings.a2 * factor)
    return dataclasses.replace(calibration, settings=settings)


@pytest.mark.parametrize(
    ("seed", "budget"), [(0, 0.001), (1, 0.01), (2, 0.002), (4, 0.001), (5, 0.05)]
)
def test_the_budget_is_kept_and_used_up(
    classifier: keras.Model, digits_train: Dataset, seed: int, budget: float
) -> None:
    images = digits_train.images
    calibration = calibrate(
        classifier, images, output="logits", budget=budget, seed=seed, largest_a2=9.0
    )
    changed = changed_answers(classifier, calibration, images)
    assert changed == calibration.changed_answers <= budget
    assert calibration.settings.a2 < 9.0
    # A little more is too much.
    assert changed_answers(classifier, with_a2(calibration, 1.002), images) > budget
    (*_, last) = calibration.explanation
    assert "a larger one would change more than the budget" in last


@pytest.mark.parametrize(
    "settings",
    [
        {"soft_labels": False, "largest_a2": 50.0},
        {"ord": 2},
        {"messages": "random"},
        {"border_weight": 3.0},
        {"steps": (128.0,)},
        {"steps": (3.0, 3.0, 128.0)},
        {"steps": (128.0, 3.0, 128.0)},
        {"steps": (41.5, 7.0)},
    ],
)
def test_the_budget_is_kept_with_every_setting(
    classifier: keras.Model, digits_train: Dataset, settings: dict[str, Any]
) -> None:
    calibration = calibrate(
        classifier, digits_train.images, output="logits", budget=0.01, **settings
    )
    changed = changed_answers(classifier, calibration, digits_train.images)
    assert changed == calibration.changed_answers <= 0.01
    chosen = dataclasses.asdict(calibration.settings)
    for name in settings.keys() - {"largest_a2"}:
        assert chosen[name] == settings[name]


def test_correlations_are_never_larger_than_the_cap(
    classifier: keras.Model, digits_train: Dataset
) -> None:
    calibration = calibrate(
        classifier, digits_train.images, output="logits", budget=0.5, largest_a2=0.02
    )
    assert calibration.settings.a2 == 0.02
    assert "the cap of 0.02 was reached" in calibration.explanation[-1]
    changed = changed_answers(classifier, calibration, digits_train.images)
    assert changed == calibration.changed_answers < 0.5


def test_accuracy_falls_by_no_more_than_the_budget(
    classifier: keras.Model, digits_train: Dataset, calibration: Calibration
) -> None:
    trapped = inject(classifier, calibration.settings)
    right = [
        (
            predict(model, digits_train.images).argmax(axis=1) == digits_train.labels
        ).mean()
        for model in (classifier, trapped)
    ]
    assert right[0] > 0.9
    assert right[1] >= right[0] - calibration.budget


def test_probabilities_give_the_same_as_their_logits(
    digits_train: Dataset, calibration: Calibration
) -> None:
    model = least_squares_classifier(digits_train, "softmax")
    other = calibrate(
        model, digits_train.images, output="probabilities", budget=0.005, seed=3
    )
    assert other.settings.output == "probabilities"
    assert other.settings.a2 == pytest.approx(calibration.settings.a2, rel=1e-5)
    assert other.changed_answers == calibration.changed_answers


@pytest.mark.parametrize(
    ("steps", "share"),
    [((3.0, 128.0), 0.5), ((128.0, 7.0), 2.0), ((3.0, 20.0, 90.0), 0.1)],
)
def test_small_steps_add_their_share_to_the_spread(
    classifier: keras.Model,
    digits_train: Dataset,
    steps: tuple[float, ...],
    share: float,
) -> None:
    calibration = calibrate(
        classifier,
        digits_train.images,
        output="logits",
        budget=0.01,
        steps=steps,
        small_step_share=share,
    )
    weights = calibration.settings.step_weights
    spreads = []
    for step in range(len(steps)):
        alone = [w if i == step else 0.0 for i, w in enumerate(weights)]
        decoder = QIMDecoder.from_seed(
            0, num_classes=10, shape=(8, 8, 1), steps=steps, step_weights=alone
        )
        distances = np.asarray(decoder.distances(digits_train.images), np.float64)
        spreads.append(np.sqrt(distances.var(axis=0).mean()))
    largest = int(np.argmax(steps))
    assert weights[largest] == 1.0
    for step, spread in enumerate(spreads):
        expected = 1.0 if step == largest else share
        assert spread / spreads[largest] == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize(
    ("position", "reach", "border_weight"),
    [(0.3, 0.3, 1.0), (0.0, 0.5, 1.0), (0.5, 0.1, 1.0), (0.3, 0.1, 3.0)],
)
def test_clean_images_land_where_they_were_sent(
    classifier: keras.Model,
    digits_train: Dataset,
    position: float,
    reach: float,
    border_weight: float,
) -> None:
    calibration = calibrate(
        classifier,
        digits_train.images,
        output="logits",
        budget=0.01,
        clean_position=position,
        clean_reach=reach,
        border_weight=border_weight,
    )
    settings = calibration.settings
    decoder = decoder_of(inject(classifier, settings))
    distances = np.asarray(decoder.distances(digits_train.images), np.float64)
    u = settings.a0 * distances - settings.a1
    assert u.mean() == pytest.approx(position, abs=1e-4)
    assert np.quantile(np.abs(u - position), 0.999) == pytest.approx(reach, rel=1e-3)
    assert settings.a0 < 0
    assert calibration.clean_mean == pytest.approx(distances.mean(), rel=1e-5)
    spread = np.sqrt(distances.var(axis=0).mean())
    assert calibration.clean_spread == pytest.approx(spread, rel=1e-3)


def test_the_explanation_tells_of_the_borders_weight(
    classifier: keras.Model, digits_train: Dataset, calibration: Calibration
) -> None:
    for weight, place in ((3, "border"), (0.5, "middle")):
        found = calibrate(
            classifier,
            digits_train.images,
            output="logits",
            budget=0.01,
            border_weight=weight,
        )
        expected = f"border weight of {weight} gives.*nearer they are to the {place}"
        assert any(re.search(expected, said) for said in found.explanation)
    assert not any("border" in said for said in calibration.explanation)


def test_the_same_images_and_seed_give_the_same(
    classifier: keras.Model, digits_train: Dataset, calibration: Calibration
) -> None:
    def again(**changes: Any) -> Calibration:
        arguments = {"output": "logits", "budget": 0.005, "seed": 3, **changes}
        return calibrate(classifier, digits_train.images, **arguments)

    assert again() == calibration
    assert again(seed=4).settings.a0 != calibration.settings.a0
    batched = again(batch_size=100)
    assert batched.settings.a2 == pytest.approx(calibration.settings.a2, rel=1e-4)
    assert batched.changed_answers == calibration.changed_answers


def test_it_outlives_json(calibration: Calibration) -> None:
    text = json.dumps(calibration.to_dict())
    assert Calibration.from_dict(json.loads(text)) == calibration


def test_a_budget_of_another_kind_of_number_outlives_json(
    classifier: keras.Model, digits_train: Dataset
) -> None:
    budget: Any = np.float32(0.25)
    found = calibrate(classifier, digits_train.images, output="logits", budget=budget)
    text = json.dumps(found.to_dict())
    assert Calibration.from_dict(json.loads(text)) == found


def test_a_file_that_does_not_tell_the_small_steps_share_is_read(
    calibration: Calibration,
) -> None:
    assert calibration.small_step_share == 0.5
    older = calibration.to_dict()
    del older["small_step_share"]
    assert Calibration.from_dict(older) == dataclasses.replace(
        calibration, small_step_share=None
    )


def test_the_published_calibrations_are_read() -> None:
    results = Path(__file__).parents[2] / "docs" / "results"
    found = sorted(results.rglob("calibration.json"))
    assert found
    for path in found:
        content = json.loads(path.read_text("utf-8"))
        assert (
            Calibration.from_dict(content).settings.seed == content["settings"]["seed"]
        )


@pytest.mark.parametrize("missing", ["settings", "explanation", "budget"])
def test_a_field_that_is_missing_is_named(
    calibration: Calibration, missing: str
) -> None:
    data = calibration.to_dict()
    del data[missing]
    with pytest.raises(TypeError, match=missing):
        Calibration.from_dict(data)


def test_another_seed_keeps_the_constants_and_says_so(calibration: Calibration) -> None:
    other = calibration.reseeded(8)
    assert other.settings == dataclasses.replace(calibration.settings, seed=8)
    assert (
        "messages of seed 3 and are used for those of seed 8" in other.explanation[-1]
    )
    assert calibration.reseeded(3) is calibration
