import dataclasses
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from keras_traps import Calibration
from keras_traps.attacks import preset
from keras_traps.datasets import Dataset
from keras_traps.evaluation.report import write_report, write_tables
from keras_traps.evaluation.subjects import Defence, defend
from keras_traps.models.inference import predict
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
    for fpr, analyzer in digits_defence.analyzers.items():
        flagged = analyzer.detect(digits_test.images).is_adversarial
        assert clean["false_positives"][fpr] == Rate(int(flagged.sum()), 500)
        assert undisturbed.found.thresholds[fpr] == {
            "U": analyzer.thresholds.upper,
            "L": analyzer.thresholds.lower,
            "sigma0": analyzer.thresholds.deviation,
        }
    assert clean["paper_accuracy_classifier"] is None
    assert undisturbed.found.provenance["images attacked"] == 14


def test_examples_are_what_their_images_show(
    undisturbed: Undisturbed, digits_defence: Defence
) -> None:
    examples = undisturbed.found.examples
    assert [example["attack"] for example in examples] == ["FGSM", "PGD"]
    for example in examples:
        moved = np.abs(example["adversarial"] - example["clean"]).max()
        assert 0 < moved <= 0.3 + 1e-6
        images = example["adversarial"][None]
        assert example["predicted"] == predict(digits_defence.trapped, images).argmax()
        verdict = digits_defence.main_analyzer.detect(images)
        flagged = verdict.is_adversarial[0]
        assert example["flagged"] == flagged == bool(example["fired"])
        assert example["recovered"] == verdict.recovered[0]
        assert example["score"] == pytest.approx(verdict.score[0], rel=1e-4)
        clean = predict(digits_defence.classifier, example["clean"][None]).argmax()
        assert example["label"] == clean


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
