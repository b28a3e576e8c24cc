import dataclasses
import json
from pathlib import Path
from typing import Any, ClassVar, Literal

import keras
import numpy as np
import pytest

from keras_traps import Calibration
from keras_traps.attacks import (
    Attack,
    Batch,
    Perturbed,
    create,
    iterative,
    preset,
    single_step,
)
from keras_traps.attractors import ForensicAnalyzer, inject
from keras_traps.attractors.integration import DEPTH_RULE
from keras_traps.datasets import Dataset
from keras_traps.evaluation.defence import Defence
from keras_traps.evaluation.jobs import KEPT_PER_TASK
from keras_traps.evaluation.protocol import record_folder, record_settings
from keras_traps.evaluation.report import to_json
from keras_traps.evaluation.results import Evaluation
from tests.evaluation.conftest import Evaluate, Run
from tests.evaluation.power import Power

VARIANTS = ("paper", "margin", "raw_sum", "integrated")
SUBJECTS = ("undefended", *VARIANTS)
CHUNKS = 3


def test_settings_name_all_that_every_record_depends_on(
    digits_defence: Defence,
    digits_test: Dataset,
    digits_train: Dataset,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def settings(**changes: Any) -> dict[str, Any]:
        arguments: dict[str, Any] = {
            "defence": digits_defence,
            "test": digits_test,
            "background": digits_train.images,
            "seed": 0,
            "chunk_size": 5,
            **changes,
        }
        return record_settings(**arguments)

    base = settings()
    assert json.loads(json.dumps(base)) == base
    assert settings() == base

    def differing(**changes: Any) -> list[str]:
        other = settings(**changes)
        return [name for name in base if other[name] != base[name]]

    assert differing(seed=1) == ["seed"]
    assert differing(chunk_size=6) == ["chunk_size"]
    assert differing(test=digits_train) == ["test_data"]
    assert differing(background=digits_train.images[1:]) == ["background"]
    other_rate = {0.005: digits_defence.analyzers[0.005]}
    other = dataclasses.replace(digits_defence, analyzers=other_rate)
    assert differing(defence=other) == ["thresholds"]
    other = dataclasses.replace(digits_defence, recovery_weight=4.0)
    assert differing(defence=other) == ["recovery_weight"]
    assert "recovery_classifier" not in base
    where = "keras_traps.evaluation.protocol.DEPTH_RULE"
    monkeypatch.setattr(where, [0.5, *DEPTH_RULE[1:]])
    assert differing() == ["depth_rule"]
    monkeypatch.undo()
    asked = [
        settings(defence=dataclasses.replace(digits_defence, recovery_classifier=model))
        for model in (digits_defence.classifier, digits_defence.trapped)
    ]
    assert [{**one, "recovery_classifier": None} for one in asked] == [
        {**base, "recovery_classifier": None}
    ] * 2
    assert asked[0]["recovery_classifier"] != asked[1]["recovery_classifier"]


def test_settings_tell_what_models_of_equal_weights_compute(
    digits_defence: Defence,
    digits_calibration: Calibration,
    digits_test: Dataset,
    digits_train: Dataset,
) -> None:
    original = digits_defence.classifier

    def settings(*before: keras.layers.Layer, **changed: Any) -> Any:
        # Made anew each time: Keras gives its layers other names.
        layers = [*before, keras.models.clone_model(original)]
        classifier = keras.Sequential([keras.Input((8, 8, 1)), *layers])
        classifier.set_weights(original.get_weights())
        constants = dataclasses.replace(digits_calibration.settings, **changed)
        trapped = inject(classifier, constants)
        analyzer = ForensicAnalyzer(trapped).with_thresholds(
            digits_defence.main_analyzer.thresholds
        )
        return record_settings(
            Defence(classifier, "logits", trapped, {0.05: analyzer}),
            digits_test,
            digits_train.images,
            seed=0,
            chunk_size=5,
        )

    base = settings()
    assert settings() == base
    for other in (
        settings(keras.layers.Rescaling(3.0)),
        settings(soft_labels=False, temperature=1.0),
        settings(temperature=0.7),
    ):
        assert [name for name in base if other[name] != base[name]] == ["architectures"]


def test_an_attacks_folder_tells_its_settings_apart() -> None:
    one, other = create("FGSM", eps=0.1), create("FGSM", eps=0.2)
    assert record_folder(one) == record_folder(create("FGSM", eps=0.1))
    assert record_folder(one) != record_folder(other)
    assert record_folder(one) != record_folder(one, other)
    assert record_folder(one).startswith("FGSM-")


def test_settings_that_no_folder_can_be_named_by_are_refused() -> None:
    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Masked(Attack):
        name: ClassVar[str] = "Masked"
        kind: ClassVar[Literal["UA", "TA"]] = "UA"
        mask: Any = None

        def perturb(self, batch: Batch) -> Perturbed:
            return Perturbed(batch.images, iterations=1)

    with pytest.raises(TypeError, match=r"'Masked'.*numbers.*array"):
        record_folder(Masked(mask=np.zeros(3)))


def test_every_subject_meets_the_same_images_and_targets(
    undisturbed: Run,
) -> None:
    for attack in ("FGSM", "PGD"):
        for chunk in range(CHUNKS):
            folder = record_folder(preset("digits", [attack])[0])
            path = f"{folder}/{chunk:05d}.npz"
            seen = [
                np.load(undisturbed.workdir / "records" / subject / path)
                for subject in SUBJECTS
            ]
            for name in ("ids", "labels", "goals"):
                for archive in seen[1:]:
                    np.testing.assert_array_equal(archive[name], seen[0][name])
            for archive in seen:
                archive.close()


def as_bytes(found: Evaluation) -> bytes:
    samples = dataclasses.asdict(found.samples)
    arrays = [
        samples["clean_correlations"],
        samples["clean_scores"],
        *samples["attacked_correlations"].values(),
        *samples["attacked_scores"].values(),
        *(example["adversarial"] for example in samples["examples"]),
    ]
    return to_json(found).encode() + b"".join(array.tobytes() for array in arrays)


@pytest.fixture
def power(monkeypatch: pytest.MonkeyPatch) -> Power:
    return Power(monkeypatch, single_step.FGSM, iterative.PGD)


TOTAL = len(SUBJECTS) * 2 * CHUNKS


def test_an_interrupted_run_goes_on_to_the_same_numbers(
    power: Power, undisturbed: Run, evaluate_digits: Evaluate, tmp_path: Path
) -> None:
    # In the first chunk, between attacks, in the middle and in the last chunk.
    for fails_at, done in ((1, 0), (4, 3), (14, 16), (14, 29)):
        power.calls, power.fails_at = 0, fails_at
        with pytest.raises(KeyboardInterrupt):
            evaluate_digits(workdir=tmp_path, resume=True)
        files = [path for path in tmp_path.rglob("*") if path.is_file()]
        # The settings and the calibration, and what was done.
        assert len(files) == 2 + done
        assert not [path for path in files if path.suffix == ".tmp"]

    power.calls, power.fails_at = 0, None
    found = evaluate_digits(workdir=tmp_path, resume=True)

    assert power.calls == TOTAL - 29
    assert as_bytes(found) == as_bytes(undisturbed.found)


def test_records_that_were_deleted_are_made_again_and_no_others(
    power: Power, undisturbed: Run, evaluate_digits: Evaluate, tmp_path: Path
) -> None:
    records = tmp_path / "records"
    for path in (undisturbed.workdir / "records").rglob("*.*"):
        copy = records / path.relative_to(undisturbed.workdir / "records")
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(path.read_bytes())
    for name in (
        "paper/PGD-*/00001",
        "undefended/FGSM-*/00000",
        "integrated/PGD-*/00002",
    ):
        (path,) = records.glob(f"{name}.npz")
        path.unlink()

    found = evaluate_digits(workdir=tmp_path, resume=True)

    assert power.calls == 3
    assert as_bytes(found) == as_bytes(undisturbed.found)


def test_a_finished_run_is_only_read_again(
    power: Power, undisturbed: Run, evaluate_digits: Evaluate
) -> None:
    again = evaluate_digits(workdir=undisturbed.workdir, resume=True)
    assert power.calls == 0
    assert as_bytes(again) == as_bytes(undisturbed.found)


def test_as_many_images_are_kept_as_the_report_may_show(undisturbed: Run) -> None:
    for path in (undisturbed.workdir / "records").rglob("*.npz"):
        with np.load(path) as record:
            count = min(len(record["ids"]), KEPT_PER_TASK)
            assert record["kept"].shape == (count, 8, 8, 1)


def test_more_candidates_keep_the_records_of_fewer(
    power: Power, undisturbed: Run, evaluate_digits: Evaluate, tmp_path: Path
) -> None:
    evaluate_digits(workdir=tmp_path, num_examples=8, variants=("paper",))
    assert power.calls == 2 * 2 * 2
    power.calls = 0

    found = evaluate_digits(workdir=tmp_path, resume=True, variants=("paper",))

    # The first chunk of each attack was whole; the second had 2 images of 6.
    assert power.calls == 2 * 2 * 2
    by_attack = {row.attack: row for row in undisturbed.found.rows[:2]}
    for row in found.rows:
        assert row.success_trapped == by_attack[row.attack].success_trapped


def test_a_limit_holds_for_its_attack_alone(
    evaluate_digits: Evaluate, tmp_path: Path
) -> None:
    found = evaluate_digits(workdir=tmp_path, limits={"PGD": 5}, variants=("paper",))
    totals = {row.attack: row.success_trapped.total for row in found.rows}
    assert totals == {"FGSM": 14, "PGD": 5}
    assert found.worst_cases[0].misclassified.total == 5
