import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from keras_traps.attacks import Batch, create, iterative, preset, single_step
from keras_traps.attractors import raw_sum
from keras_traps.datasets import Dataset
from keras_traps.evaluation import protocol
from keras_traps.evaluation.defence import Defence
from keras_traps.evaluation.protocol import (
    Candidates,
    attack_all,
    choose_candidates,
    record_settings,
)
from keras_traps.evaluation.records import RecordStore
from keras_traps.evaluation.report import to_json
from keras_traps.evaluation.results import Evaluation
from keras_traps.models.inference import predict
from tests.evaluation.conftest import Evaluate, Run

VARIANTS = ("paper", "margin", "raw_sum", "integrated")
SUBJECTS = ("undefended", *VARIANTS)
CHUNKS = 3


@pytest.fixture(scope="module")
def outputs(digits_defence: Defence, digits_test: Dataset) -> npt.NDArray[np.float32]:
    return predict(digits_defence.classifier, digits_test.images)


def choose(
    outputs: npt.NDArray[np.float32], test: Dataset, **changes: int
) -> Candidates:
    return choose_candidates(
        outputs, test, **{"num_examples": 50, "seed": 0, **changes}
    )


def test_candidates_are_images_that_the_classifier_gets_right(
    outputs: npt.NDArray[np.float32], digits_test: Dataset
) -> None:
    right = np.flatnonzero(outputs.argmax(axis=1) == digits_test.labels)
    assert len(right) < len(digits_test)

    chosen = choose(outputs, digits_test, num_examples=10**6)

    assert sorted(chosen.ids) == right.tolist()
    np.testing.assert_array_equal(chosen.images, digits_test.images[chosen.ids])
    np.testing.assert_array_equal(chosen.labels, digits_test.labels[chosen.ids])


def test_fewer_candidates_are_the_first_of_more_whatever_the_seed(
    outputs: npt.NDArray[np.float32], digits_test: Dataset
) -> None:
    many = choose(outputs, digits_test, num_examples=100, seed=0)
    few = choose(outputs, digits_test, num_examples=20, seed=1)
    assert len(few.ids) == 20
    np.testing.assert_array_equal(few.ids, many.ids[:20])
    np.testing.assert_array_equal(few.least_likely, many.least_likely[:20])
    assert (few.random != many.random[:20]).any()


def test_a_target_belongs_to_its_image(
    outputs: npt.NDArray[np.float32], digits_test: Dataset
) -> None:
    # With other images wrong, the rest keep their targets.
    spoilt = outputs.copy()
    spoilt[: len(outputs) // 2] *= -1
    whole = choose(outputs, digits_test, num_examples=500)
    part = choose(spoilt, digits_test, num_examples=500)
    by_id = dict(zip(whole.ids.tolist(), whole.random.tolist(), strict=True))
    kept = [i for i in part.ids.tolist() if i >= len(outputs) // 2]
    assert kept
    for image, target in zip(part.ids.tolist(), part.random.tolist(), strict=True):
        if image in by_id:
            assert by_id[image] == target


def test_no_target_is_the_true_class(
    outputs: npt.NDArray[np.float32], digits_test: Dataset
) -> None:
    chosen = choose(outputs, digits_test, num_examples=500)
    for targets in (chosen.random, chosen.least_likely):
        assert (targets != chosen.labels).all()
        assert set(targets.tolist()) <= set(range(10))
    np.testing.assert_array_equal(
        chosen.least_likely, outputs[chosen.ids].argmin(axis=1)
    )


def test_an_attack_gets_the_targets_of_its_rule(
    outputs: npt.NDArray[np.float32], digits_test: Dataset
) -> None:
    chosen = choose(outputs, digits_test)
    for attack in preset("digits"):
        goals = chosen.goals(attack)
        if attack.name == "TMIFGSM":
            assert goals is chosen.random
        elif attack.targeted:
            assert goals is chosen.least_likely
        else:
            assert goals is None


@pytest.mark.parametrize("count", [0, -1])
def test_no_examples_are_refused(
    count: int, outputs: npt.NDArray[np.float32], digits_test: Dataset
) -> None:
    with pytest.raises(ValueError, match=r"`num_examples`. Expected at least 1"):
        choose(outputs, digits_test, num_examples=count)


def test_a_classifier_that_is_never_right_is_refused(digits_test: Dataset) -> None:
    wrong = np.eye(10, dtype=np.float32)[(digits_test.labels + 1) % 10]
    with pytest.raises(ValueError, match="right on none"):
        choose(wrong, digits_test)


def settings_of(defence: Defence, test: Dataset, **changes: Any) -> dict[str, Any]:
    arguments: dict[str, Any] = {
        "attacks": preset("digits", ["FGSM"]),
        "num_examples": 10,
        "seed": 0,
        "chunk_size": 5,
        **changes,
    }
    return record_settings(defence, test, **arguments)


def test_settings_name_all_that_records_depend_on(
    digits_defence: Defence, digits_test: Dataset, digits_train: Dataset
) -> None:
    base = settings_of(digits_defence, digits_test)
    assert json.loads(json.dumps(base)) == base
    assert settings_of(digits_defence, digits_test) == base

    def differing(**changes: Any) -> list[str]:
        defence = changes.pop("defence", digits_defence)
        test = changes.pop("test", digits_test)
        other = settings_of(defence, test, **changes)
        return [name for name in base if other[name] != base[name]]

    assert differing(seed=1) == ["seed"]
    assert differing(num_examples=11) == ["num_examples"]
    assert differing(chunk_size=6) == ["chunk_size"]
    assert differing(attacks=[create("FGSM", eps=0.1)]) == ["attacks"]
    assert differing(attacks=preset("digits", ["FGSM", "BIM"])) == ["attacks"]
    assert differing(test=digits_train) == ["test_data"]
    other_rate = {0.005: digits_defence.analyzers[0.005]}
    other = dataclasses.replace(digits_defence, analyzers=other_rate)
    assert differing(defence=other) == ["thresholds"]


def test_every_subject_meets_the_same_images_and_targets(
    undisturbed: Run,
) -> None:
    for attack in ("FGSM", "PGD"):
        for chunk in range(CHUNKS):
            path = f"{attack}/{chunk:05d}.npz"
            seen = [
                np.load(undisturbed.workdir / "records" / subject / path)
                for subject in SUBJECTS
            ]
            for name in ("ids", "labels", "goals"):
                for archive in seen[1:]:
                    np.testing.assert_array_equal(archive[name], seen[0][name])
            for archive in seen:
                archive.close()


def test_records_are_what_the_attack_makes_of_each_view(
    digits_defence: Defence,
    digits_test: Dataset,
    outputs: npt.NDArray[np.float32],
    tmp_path: Path,
) -> None:
    candidates = choose(outputs, digits_test, num_examples=7)
    attacks = [create("TMIFGSM", eps=0.3, eps_iter=0.1, nb_iter=3)]
    store = RecordStore(tmp_path, {})

    records = attack_all(
        digits_defence,
        candidates,
        attacks,
        store,
        variants=("margin", "raw_sum"),
        seed=3,
        chunk_size=4,
    )

    assert list(records) == ["undefended", "margin", "raw_sum"]
    views: dict[Any, tuple[Any, Any]] = {
        "undefended": (digits_defence.classifier, "cross_entropy"),
        "margin": (digits_defence.trapped, "margin"),
        "raw_sum": (raw_sum(digits_defence.trapped), "cross_entropy"),
    }
    for subject, (model, loss) in views.items():
        record = records[subject]["TMIFGSM"]
        result = attacks[0](
            model,
            candidates.images,
            candidates.labels,
            output="logits" if subject == "undefended" else "scores",
            y_target=candidates.random,
            loss=loss,
            seed=3,
            ids=candidates.ids,
            batch_size=4,
        )
        np.testing.assert_array_equal(record.ids, candidates.ids)
        np.testing.assert_array_equal(record.goals, candidates.random)
        answers = predict(model, result.images).argmax(axis=1)
        np.testing.assert_array_equal(record.answers, answers)
        np.testing.assert_array_equal(record.succeeded(targeted=True), result.success)
        np.testing.assert_array_equal(record.linf, result.linf)
        np.testing.assert_array_equal(record.kept[:4], result.images[:4])
        analyzer = digits_defence.main_analyzer
        np.testing.assert_allclose(
            record.correlations, analyzer.correlations(result.images), atol=1e-6
        )


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


class Power:
    """Lets attacks run until the power fails, and counts them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.calls = 0
        self.fails_at: int | None = None
        for attack in (single_step.FGSM, iterative.PGD):
            original = attack.perturb

            def perturb(made: Any, batch: Batch, original: Any = original) -> Any:
                self.calls += 1
                if self.calls == self.fails_at:
                    raise KeyboardInterrupt
                return original(made, batch)

            monkeypatch.setattr(attack, "perturb", perturb)


@pytest.fixture
def power(monkeypatch: pytest.MonkeyPatch) -> Power:
    return Power(monkeypatch)


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
        assert len(files) == done + 1
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
    for name in ("paper/PGD/00001", "undefended/FGSM/00000", "integrated/PGD/00002"):
        (records / f"{name}.npz").unlink()

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
            count = min(len(record["ids"]), protocol.KEPT_PER_CHUNK)
            assert record["kept"].shape == (count, 8, 8, 1)
