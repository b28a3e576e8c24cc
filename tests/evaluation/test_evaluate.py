import dataclasses
import json
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from keras_traps import Calibration
from keras_traps.attacks import create, preset
from keras_traps.datasets import Dataset
from keras_traps.evaluation.defence import Defence, defend
from keras_traps.evaluation.protocol import record_folder
from keras_traps.evaluation.records import Record, RecordStore
from keras_traps.evaluation.report import to_json, write_report
from keras_traps.models.inference import predict
from keras_traps.rates import Rate
from tests.evaluation.conftest import Evaluate, Run

VARIANTS = ("paper", "margin", "raw_sum", "integrated")


def joined(run: Run, subject: str, attack: str) -> Record:
    settings = json.loads((run.workdir / "records" / "settings.json").read_text())
    store = RecordStore(run.workdir, settings, resume=True)
    folder = record_folder(preset("digits", [attack])[0])
    return Record.join([store.read(subject, folder, chunk) for chunk in range(3)])


def test_every_attack_meets_every_variant(undisturbed: Run) -> None:
    cells = [(row.variant, row.attack) for row in undisturbed.found.rows]
    assert cells == [(v, attack) for v in VARIANTS for attack in ("FGSM", "PGD")]
    worst = [case.variant for case in undisturbed.found.worst_cases]
    assert worst == [*VARIANTS, "any_loss"]


def test_counts_are_those_of_the_records(undisturbed: Run) -> None:
    for row in undisturbed.found.rows:
        record = joined(undisturbed, row.variant, row.attack)
        wrong = int((record.answers != record.labels).sum())
        assert row.success_trapped == Rate(wrong, 14)
        if row.variant in ("paper", "integrated"):
            on_classifier = joined(undisturbed, "undefended", row.attack)
            fooled = int((on_classifier.answers != on_classifier.labels).sum())
            assert row.success_classifier == Rate(fooled, 14)
        else:
            assert row.success_classifier is None


def test_what_is_neither_right_nor_detected_is_the_overall_success(
    undisturbed: Run,
) -> None:
    for row in undisturbed.found.rows:
        fprs = [rates.fpr for rates in row.detection]
        assert fprs == ([] if row.variant == "integrated" else [0.05, 0.005])
        for rates in row.detection:
            assert rates.overall.total == 14
            assert rates.detected.total == row.success_trapped.count
            unseen = rates.detected.total - rates.detected.count
            assert rates.overall.count == unseen
            assert rates.recovered.total == rates.detected.count
        if row.detection:
            loose, strict = row.detection
            assert strict.detected.count <= loose.detected.count


def test_the_worst_case_is_no_better_than_any_attack(undisturbed: Run) -> None:
    for worst in undisturbed.found.worst_cases:
        seen = VARIANTS[:3] if worst.variant == "any_loss" else (worst.variant,)
        rows = [row for row in undisturbed.found.rows if row.variant in seen]
        counts = [row.success_trapped.count for row in rows]
        assert max(counts) <= worst.misclassified.count <= min(14, sum(counts))
        if worst.variant == "integrated":
            assert worst.overall == {0.05: worst.misclassified}
            continue
        for index, fpr in enumerate((0.05, 0.005)):
            unseen = [row.detection[index].overall.count for row in rows]
            assert max(unseen) <= worst.overall[fpr].count <= sum(unseen)


def test_who_tries_every_loss_gets_through_on_what_one_of_them_does(
    undisturbed: Run,
) -> None:
    cases = {worst.variant: worst for worst in undisturbed.found.worst_cases}
    wrong = [
        record.answers != record.labels
        for variant in VARIANTS[:3]
        for record in (joined(undisturbed, variant, a) for a in ("FGSM", "PGD"))
    ]
    assert cases["any_loss"].misclassified.count == np.any(wrong, axis=0).sum()


def test_clean_results_are_over_all_test_images(
    undisturbed: Run, digits_defence: Defence, digits_test: Dataset
) -> None:
    clean, labels = undisturbed.found.clean, digits_test.labels
    for model, rate in (
        (digits_defence.classifier, clean.accuracy_classifier),
        (digits_defence.trapped, clean.accuracy_trapped),
    ):
        right = predict(model, digits_test.images).argmax(axis=1) == labels
        assert rate == Rate(int(right.sum()), 500)
    for fpr, analyzer in digits_defence.analyzers.items():
        flagged = analyzer.detect(digits_test.images).is_adversarial
        assert clean.false_positives[fpr] == Rate(int(flagged.sum()), 500)
        thresholds = undisturbed.found.thresholds[fpr]
        assert thresholds == {
            "U": analyzer.thresholds.upper,
            "L": analyzer.thresholds.lower,
            "sigma0": analyzer.thresholds.deviation,
        }
    assert clean.paper_accuracy_classifier is None


def test_samples_are_those_of_the_paper_variant(
    undisturbed: Run, digits_defence: Defence, digits_test: Dataset
) -> None:
    samples = undisturbed.found.samples
    assert samples.clean_correlations.shape == (500, 10)
    assert samples.clean_scores.shape == (500,)
    for attack in ("FGSM", "PGD"):
        record = joined(undisturbed, "paper", attack)
        success = record.answers != record.labels
        np.testing.assert_array_equal(
            samples.attacked_correlations[attack], record.correlations[success]
        )
        assert len(samples.attacked_scores[attack]) == success.sum()


def test_examples_are_what_their_images_show(
    undisturbed: Run, digits_defence: Defence
) -> None:
    assert [e.attack for e in undisturbed.found.samples.examples] == ["FGSM", "PGD"]
    for example in undisturbed.found.samples.examples:
        moved = np.abs(example.adversarial - example.clean).max()
        assert 0 < moved <= 0.3 + 1e-6
        images = example.adversarial[None]
        answer = predict(digits_defence.trapped, images).argmax()
        verdict = digits_defence.main_analyzer.detect(images)
        assert example.predicted == answer
        assert example.flagged == verdict.is_adversarial[0] == bool(example.fired)
        assert example.recovered == verdict.recovered[0]
        assert example.score == pytest.approx(verdict.score[0], rel=1e-4)
        clean = predict(digits_defence.classifier, example.clean[None]).argmax()
        assert example.label == clean


def test_it_says_what_it_was_given(
    undisturbed: Run, digits_calibration: Calibration
) -> None:
    found = undisturbed.found
    assert (found.title, found.dataset) == ("Attractors on digits", "digits")
    assert found.provenance == {
        "command": "python recipes/digits.py",
        "seed": 5,
        "images attacked": 14,
    }
    assert found.calibration["a2"] == digits_calibration.settings.a2
    assert found.calibration["budget"] == 0.001
    for sentence in digits_calibration.explanation:
        assert sentence in found.calibration["explanation"]


def test_a_report_can_be_written_of_it(undisturbed: Run, tmp_path: Path) -> None:
    paths = write_report(undisturbed.found, tmp_path / "report")
    assert json.loads(paths.json.read_text()) == json.loads(to_json(undisturbed.found))
    for path in (paths.markdown, paths.html):
        text = path.read_text(encoding="utf-8")
        assert all(name in text for name in ("FGSM", "PGD", "Attractors on digits"))
    assert all(path.stat().st_size for path in paths.figures)


def test_one_variant_that_is_not_the_papers_is_enough(
    evaluate_digits: Evaluate, tmp_path: Path
) -> None:
    found = evaluate_digits(
        workdir=tmp_path,
        variants=("margin",),
        attacks=preset("digits", ["FGSM"]),
        num_examples=5,
    )
    assert [(row.variant, row.attack) for row in found.rows] == [("margin", "FGSM")]
    (row,) = found.rows
    assert len(found.samples.attacked_scores["FGSM"]) == row.success_trapped.count
    write_report(found, tmp_path / "report")


def test_a_classifier_of_probabilities_is_evaluated_too(
    digits_classifier: keras.Model,
    digits_calibration: Calibration,
    digits_train: Dataset,
    evaluate_digits: Evaluate,
    undisturbed: Run,
    tmp_path: Path,
) -> None:
    probabilities = keras.layers.Softmax()(digits_classifier.outputs[0])
    classifier = keras.Model(digits_classifier.inputs[0], probabilities)
    constants = dataclasses.replace(digits_calibration.settings, output="probabilities")
    defence = defend(classifier, constants, digits_train.images)

    found = evaluate_digits(
        defence=defence, workdir=tmp_path, variants=("paper",), num_examples=14
    )

    # The same classifier with the same traps, written otherwise.
    for row, other in zip(found.rows, undisturbed.found.rows[:2], strict=True):
        assert row.attack == other.attack
        assert row.success_classifier == other.success_classifier
        assert row.success_trapped == other.success_trapped
        assert row.detection == other.detection


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"attacks": []}, "`attacks`. Expected at least one.*Received: none"),
        (
            {"attacks": [create("FGSM", eps=0.1), create("FGSM", eps=0.3)]},
            "`attacks`.*none twice. Received: FGSM, FGSM",
        ),
        ({"variants": ("paper", "paper")}, "`variants`.*none twice"),
        ({"num_examples": 0}, "`num_examples`. Expected at least 1"),
        ({"chunk_size": 0}, "`chunk_size`. Expected at least 1"),
        ({"limits": {"CW2": 5}}, "`limits`.*FGSM, PGD. Received: 'CW2'"),
        ({"limits": {"PGD": 0}}, r"`limits\['PGD'\]`. Expected at least 1"),
    ],
)
def test_a_wrong_call_is_told_before_anything_is_written(
    changes: dict[str, Any], expected: str, evaluate_digits: Evaluate, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=expected):
        evaluate_digits(workdir=tmp_path / "run", **changes)
    assert not (tmp_path / "run").exists()


def test_outputs_that_are_not_what_was_declared_are_refused(
    evaluate_digits: Evaluate, digits_defence: Defence, tmp_path: Path
) -> None:
    wrong = dataclasses.replace(digits_defence, output="probabilities")
    with pytest.raises(ValueError, match="do not look like probabilities"):
        evaluate_digits(defence=wrong, workdir=tmp_path)


def test_records_are_not_mixed_with_those_of_another_run(
    evaluate_digits: Evaluate, undisturbed: Run
) -> None:
    with pytest.raises(FileExistsError, match="holds records already"):
        evaluate_digits(workdir=undisturbed.workdir)
    with pytest.raises(ValueError, match="other settings: seed differ"):
        evaluate_digits(workdir=undisturbed.workdir, resume=True, seed=6)
