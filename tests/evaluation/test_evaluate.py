import dataclasses
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from keras_traps import Calibration, calibrate
from keras_traps.attacks import preset
from keras_traps.datasets import Dataset
from keras_traps.evaluation.report import write_report, write_tables
from keras_traps.evaluation.subjects import Defence, defend
from keras_traps.models.inference import predict
from keras_traps.ops import Key
from keras_traps.rates import Rate
from tests.evaluation.conftest import Evaluate, Undisturbed

[FGSM] = preset("digits", ["FGSM"])
VARIANTS = ("paper", "margin", "raw_sum", "integrated")


def test_every_attack_meets_every_variant(undisturbed: Undisturbed) -> None:
    found = undisturbed.found
    cells = [(row["variant"], row["attack"]) for row in found.rows]
    assert cells == [(v, attack) for v in VARIANTS for attack in ("FGSM", "PGD")]
    worst = [case["variant"] for case in found.worst_cases]
    assert worst == [*VARIANTS, "any_loss"]
    sizes = found.frame.groupby(["subject", "attack"]).size()
    assert (len(sizes), set(sizes)) == (10, {14})


def test_clean_results_are_over_all_test_images(
    undisturbed: Undisturbed, digits_defence: Defence, digits_test: Dataset
) -> None:
    clean, labels = undisturbed.found.clean, digits_test.labels
    for model, rate in (
        (digits_defence.classifier, clean["accuracy_classifier"]),
        (digits_defence.trapped, clean["accuracy_trapped"]),
    ):
        right = predict(model, digits_test.images).argmax(axis=1) == labels
        assert rate == Rate(int(right.sum()), 500)
    # What M says of how sure it is means what C says of it.
    assert clean["scores_kept"].value > 0.95
    for fpr, analyzer in digits_defence.analyzers.items():
        flagged = analyzer.detect(digits_test.images).is_adversarial
        assert clean["false_positives"][fpr] == Rate(int(flagged.sum()), 500)
        assert undisturbed.found.thresholds[fpr] == {
            "U": analyzer.thresholds.upper,
            "L": analyzer.thresholds.lower,
            "sigma0": analyzer.thresholds.deviation,
            "lead": analyzer.thresholds.lead,
        }
    assert clean["paper_accuracy_classifier"] is None
    assert undisturbed.found.provenance["images attacked"] == 14


def test_examples_are_what_their_images_show(
    undisturbed: Undisturbed, digits_defence: Defence
) -> None:
    examples = undisturbed.found.examples
    assert {"clean"} < {example["outcome"] for example in examples}
    for example in examples:
        moved = np.abs(example["adversarial"] - example["clean"]).max()
        if example["outcome"] == "clean":
            assert moved == 0
            assert example["flagged"]
        else:
            assert 0 < moved <= 0.3 + 1e-6
            assert example["predicted"] != example["label"]
            assert example["flagged"] == (example["outcome"] != "missed")
        images = example["adversarial"][None]
        assert example["predicted"] == predict(digits_defence.trapped, images).argmax()
        verdict = digits_defence.main_analyzer.detect(images)
        flagged = verdict.is_adversarial[0]
        assert example["flagged"] == flagged == bool(example["fired"])
        assert example["recovered"] == verdict.recovered[0]
        assert example["score"] == pytest.approx(verdict.score[0], rel=1e-4)


def test_one_variant_that_is_not_the_papers_is_enough(
    evaluate_digits: Evaluate, tmp_path: Path
) -> None:
    few: dict[str, Any] = {"attacks": [FGSM], "num_examples": 5}
    found = evaluate_digits(workdir=tmp_path, variants=("margin",), **few)
    [row] = found.rows
    assert (row["variant"], row["attack"]) == ("margin", "FGSM")
    assert len(found.attacked_scores["FGSM"]) == row["success_trapped"].count
    write_tables(found, range(1, 7), tmp_path / "tables")


def test_without_variants_clean_images_alone_are_looked_at(
    evaluate_digits: Evaluate, tmp_path: Path
) -> None:
    found = evaluate_digits(workdir=tmp_path, variants=())
    assert found.rows == found.worst_cases == found.unnoticed == []
    assert found.clean["accuracy_trapped"].total == 500
    assert "was not attacked" in write_report(found, tmp_path).markdown.read_text()


def test_a_classifier_of_probabilities_is_evaluated_too(
    digits_defence: Defence,
    digits_calibration: Calibration,
    digits_train: Dataset,
    evaluate_digits: Evaluate,
    undisturbed: Undisturbed,
    tmp_path: Path,
) -> None:
    logits = digits_defence.classifier
    probabilities = keras.layers.Softmax()(logits.outputs[0])
    classifier = keras.Model(logits.inputs[0], probabilities)
    constants = dataclasses.replace(digits_calibration.settings, output="probabilities")
    defence = defend(classifier, constants, digits_train.images)
    few: dict[str, Any] = {"variants": ("paper",), "attacks": [FGSM]}

    [row] = evaluate_digits(defence=defence, workdir=tmp_path, **few).rows

    # The same classifier with the same traps, written otherwise.
    other = undisturbed.found.rows[0]
    for name in ("attack", "success_classifier", "success_trapped", "detection"):
        assert row[name] == other[name]
    wrong = dataclasses.replace(digits_defence, output="probabilities")
    with pytest.raises(ValueError, match="do not look like probabilities"):
        evaluate_digits(defence=wrong, workdir=tmp_path)


def written_as(classifier: keras.Model, *inside: keras.Layer) -> keras.Model:
    """The same, for what these layers make its images of."""
    shape = {"grey": (8, 8, 1), "rows": (8, 8), "flat": (64,)}[inside[0].name]
    image = x = keras.Input(shape)
    for layer in inside:
        x = layer(x)
    return keras.Model(image, classifier(x))


def test_pixels_of_another_range_give_the_same_findings(
    digits_defence: Defence,
    digits_calibration: Calibration,
    digits_train: Dataset,
    digits_test: Dataset,
    evaluate_digits: Evaluate,
    undisturbed: Undisturbed,
    tmp_path: Path,
) -> None:
    bounds = (0.0, 255.0)
    rescaling = keras.layers.Rescaling(1 / 255, name="grey")
    classifier = written_as(digits_defence.classifier, rescaling)
    settings = dataclasses.replace(digits_calibration.settings, bounds=bounds)
    calibration = dataclasses.replace(digits_calibration, settings=settings)
    defence = defend(classifier, settings, digits_train.images)
    assert defence.bounds == bounds
    attacks = {"attacks": [FGSM], "variants": ("paper", "integrated")}
    given: dict[str, Any] = {"defence": defence, "calibration": calibration, **attacks}
    found = evaluate_digits(workdir=tmp_path, **given)
    known = {(row["variant"], row["attack"]): row for row in undisturbed.found.rows}
    assert len(found.rows) == 2
    for row in found.rows:
        other = known[row["variant"], row["attack"]]
        for name in ("success_classifier", "success_trapped", "detection"):
            assert row[name] == other[name]
        assert row["mean_l2"] == pytest.approx(other["mean_l2"], rel=1e-5)
    for name, one in undisturbed.found.clean.items():
        assert found.clean[name] == one
    example = found.examples[0]
    np.testing.assert_array_equal(
        example["clean"], undisturbed.found.examples[0]["clean"]
    )
    np.testing.assert_allclose(
        example["adversarial"], undisturbed.found.examples[0]["adversarial"], atol=1e-6
    )
    same = example["clean"] == undisturbed.found.examples[0]["adversarial"]
    assert (example["adversarial"] == example["clean"])[same].all()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["rows", "flat"])
def test_images_of_another_shape_are_attacked_alike(
    name: str,
    digits_defence: Defence,
    digits_calibration: Calibration,
    digits_train: Dataset,
    evaluate_digits: Evaluate,
    undisturbed: Undisturbed,
    tmp_path: Path,
) -> None:
    layer = keras.layers.Reshape((8, 8, 1), name=name)
    classifier = written_as(digits_defence.classifier, layer)
    defence = defend(classifier, digits_calibration.settings, digits_train.images)
    few: dict[str, Any] = {"variants": ("paper",), "attacks": [FGSM]}
    found = evaluate_digits(defence=defence, workdir=tmp_path, **few)
    [row], other = found.rows, undisturbed.found.rows[0]
    assert row["success_classifier"] == other["success_classifier"]
    assert found.clean["accuracy_trapped"].value > 0.9
    assert found.examples[0]["adversarial"].shape == (8, 8, 1)
    assert write_report(found, tmp_path).html.is_file()


@pytest.mark.slow
def test_a_classifier_of_one_output_is_one_of_two_classes(
    digits_defence: Defence,
    digits_train: Dataset,
    digits_test: Dataset,
    evaluate_digits: Evaluate,
    tmp_path: Path,
) -> None:
    logits = digits_defence.classifier
    halves = [
        keras.ops.logsumexp(part, axis=-1, keepdims=True) for part in halved(logits)
    ]
    large = keras.layers.Dense(1, "sigmoid", name="large")
    classifier = keras.Model(logits.inputs[0], large(halves[1] - halves[0]))
    large.set_weights([np.ones((1, 1)), np.zeros(1)])
    train, test = (
        dataclasses.replace(
            data,
            labels=(data.labels > 4).astype(np.int64),
            num_classes=2,
            class_names=("small", "large"),
        )
        for data in (digits_train, digits_test)
    )
    key = Key.from_seed(0)
    calibration = calibrate(
        classifier, train.images, train.labels, budget=0.002, key=key
    )
    defence = defend(classifier, calibration.settings, train.images)
    given: dict[str, Any] = {"defence": defence, "calibration": calibration}
    given |= {"test": test, "attacks": [FGSM], "background": train.images}
    variants = ("paper", "raw_sum", "integrated")
    found = evaluate_digits(workdir=tmp_path, variants=variants, **given)

    sure = predict(classifier, test.images)[:, 0] > 0.5
    assert found.clean["accuracy_classifier"] == Rate(
        int((sure == test.labels).sum()), 500
    )
    assert found.clean["accuracy_trapped"].value > 0.9
    assert 0.4 < found.clean["chance"] < 0.6
    assert found.rows[0]["success_classifier"].count > 7
    assert set(found.frame["answer"]) == {0, 1}
    assert found.evidence["clean"].shape == (500, 2, 2)
    assert "small" in write_report(found, tmp_path).html.read_text()


def halved(model: keras.Model) -> tuple[Any, Any]:
    return model.outputs[0][:, :5], model.outputs[0][:, 5:]


def test_data_that_are_not_the_classifiers_are_refused(
    evaluate_digits: Evaluate, digits_test: Dataset, tmp_path: Path
) -> None:
    large = dataclasses.replace(digits_test, pixels=np.zeros((500, 9, 9, 1), np.uint8))
    with pytest.raises(ValueError, match=r"shape \(9, 9, 1\)"):
        evaluate_digits(test=large, workdir=tmp_path)
    more = dataclasses.replace(digits_test, num_classes=11)
    with pytest.raises(ValueError, match="one of 11 classes"):
        evaluate_digits(test=more, workdir=tmp_path)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"attacks": [FGSM, FGSM]}, "`attacks`.*none twice. Received: FGSM, FGSM"),
        ({"variants": ("paper", "paper")}, "`variants`.*none twice"),
        ({"variants": ("depth",)}, "`variants`. Expected of .*Received: 'depth'"),
    ],
)
def test_a_wrong_call_is_told_before_anything_is_run(
    changes: dict[str, Any], expected: str, evaluate_digits: Evaluate, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=expected):
        evaluate_digits(workdir=tmp_path, **changes)
    assert not list(tmp_path.rglob("*.npz"))


def test_a_second_run_reads_what_the_first_one_wrote(
    evaluate_digits: Evaluate, undisturbed: Undisturbed
) -> None:
    again = evaluate_digits(workdir=undisturbed.workdir)
    assert again.frame.equals(undisturbed.found.frame)
    assert again.rows == undisturbed.found.rows
    assert again.clean == undisturbed.found.clean
