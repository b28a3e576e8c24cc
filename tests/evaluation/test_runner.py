import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import keras
import numpy as np
import pandas as pd
import pytest

from keras_traps.attacks import (
    LURING_SWEEPS,
    Attack,
    Batch,
    Kind,
    Perturbed,
    create,
)
from keras_traps.evaluation.metrics import make_frame
from keras_traps.evaluation.records import Record, RecordStore, Run, read_runs
from keras_traps.evaluation.runner import WorstCase, attack_all, worst_case
from keras_traps.evaluation.subjects import (
    Scored,
    Subject,
    model_subject,
)
from keras_traps.models.inference import predict
from tests.evaluation.conftest import CLASSES, Lured, Measure, Power, threatened

FGSM = create("FGSM", eps=0.2)
PGD = create("PGD", eps=0.2, eps_iter=0.1, nb_iter=2)
DIM = create("DIM", eps=0.2, eps_iter=0.1, nb_iter=2)


def store_in(workdir: Path) -> RecordStore:
    return RecordStore(workdir, {}, resume=True)


def attack(
    subjects: Sequence[Any], attacks: Sequence[Attack], workdir: Path, **changes: Any
) -> list[Run]:
    settings: dict[str, Any] = {"chunk_size": 7, **changes}
    return list(attack_all(subjects, attacks, store_in(workdir), **settings))


def read(run: Run, workdir: Path) -> Record:
    return run.read(store_in(workdir))


def frame_of(runs: Sequence[Run], workdir: Path) -> pd.DataFrame:
    return make_frame(runs, store_in(workdir))


def luring(lured: Lured, threat: Any = "luring", **changes: Any) -> Subject:
    [subject] = threatened(lured, threat, **changes)
    return subject


def test_a_record_tells_what_became_of_each_image(lured: Lured, tmp_path: Path) -> None:
    (run,) = attack([luring(lured)], [FGSM], tmp_path)
    record, examples = read(run, tmp_path), lured.examples
    result = FGSM(lured.augmented, examples.images, examples.labels, ids=examples.ids)
    np.testing.assert_array_equal(record["ids"], examples.ids)
    np.testing.assert_array_equal(record["answer"], result.answers)
    for name, model in (("augmented", lured.augmented), ("target", lured.target)):
        expected = predict(model, result.images).argmax(axis=1)
        np.testing.assert_array_equal(record[name], expected)
    np.testing.assert_array_equal(record["l0"], result.l0)
    np.testing.assert_allclose(record["linf"], result.linf, atol=1e-6)
    assert (run.images, run.chunks, run.eps, len(record["kept"])) == (40, 6, 0.2, 0)
    assert (run.subject, run.facts) == ("luring-ce", {"target": "a"})
    assert read_runs(tmp_path) == [run]


def test_a_run_that_is_killed_goes_on_to_the_same_numbers(
    lured: Lured, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    subjects = [luring(lured), luring(lured, "whitebox")]
    sweeps = {"DIM": [{"prob": 0.2}, {"prob": 0.8}]}
    settings: dict[str, Any] = {"sweeps": sweeps, "num_examples_sweep": 10}
    plain = attack(subjects, [FGSM, DIM], tmp_path / "plain", **settings)
    power = Power(monkeypatch, type(FGSM), type(DIM))
    kills, images = 0, 0
    while True:
        power.restore(fails_at=7)
        try:
            again = attack(subjects, [FGSM, DIM], tmp_path / "killed", **settings)
            break
        except KeyboardInterrupt:
            kills += 1
        finally:
            # But for the one that was lost.
            images += sum(power.sizes[: (power.fails_at or 0) - 1])
    assert kills >= 4
    # Nothing was done twice: the sweep's first images, and the rest with the best.
    assert images == 2 * (40 + 2 * 10 + 30)
    assert again == plain
    one, other = (frame_of(plain, tmp_path / name) for name in ("plain", "killed"))
    pd.testing.assert_frame_equal(one, other)


def test_the_setting_that_hurts_m_most_meets_all_images(
    lured: Lured, tmp_path: Path
) -> None:
    settings: dict[str, Any] = {"sweeps": LURING_SWEEPS, "num_examples_sweep": 10}
    (run,) = attack([luring(lured)], [DIM], tmp_path, **settings)
    assert [trial.settings["prob"] for trial in run.trials] == [
        tenths / 10 for tenths in range(1, 11)
    ]
    assert {trial.images for trial in run.trials} == {10}
    ranks = [(trial.standing, trial.defended) for trial in run.trials]
    assert run.settings == run.trials[ranks.index(min(ranks))].settings
    best = read(run, tmp_path).take(10)
    assert int((best["target"] == best["labels"]).sum()) == min(ranks)[0]
    (alone,) = attack([luring(lured)], [DIM], tmp_path)
    assert (alone.trials, alone.settings["prob"]) == ((), 0.5)


def test_the_best_of_an_attackers_choices_meets_all_images(
    lured: Lured, tmp_path: Path
) -> None:
    # Who attacks a model that answers at random does worse than who attacks M.
    keras.utils.set_random_seed(7)
    blind = keras.models.clone_model(lured.target)
    choices = [
        dataclasses.replace(luring(lured), model=model, choice={"softness": number})
        for model, number in ((blind, 1.0), (lured.target, 4.0))
    ]
    (run,) = attack([choices], [FGSM], tmp_path, num_examples_sweep=10)
    assert run.settings == {**FGSM.settings(), "softness": 4.0}
    assert [trial.settings["softness"] for trial in run.trials] == [1.0, 4.0]
    assert run.trials[1].standing < run.trials[0].standing
    assert len(read(run, tmp_path)) == 40


def test_more_images_later_add_to_those_that_are_done(
    lured: Lured, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    few = luring(lured, examples=lured.examples.take(slice(10)))
    attack([few], [FGSM], tmp_path)
    power = Power(monkeypatch, type(FGSM))
    (all_of_them,) = attack([luring(lured)], [FGSM], tmp_path)
    assert power.sizes == [4, 7, 7, 7, 5]
    (again,) = attack([few], [FGSM], tmp_path)
    assert len(power.sizes) == 5
    one, other = (frame_of([run], tmp_path) for run in (again, all_of_them))
    pd.testing.assert_frame_equal(one, other.iloc[:10])
    others = dataclasses.replace(lured.examples, ids=lured.examples.ids + 1)
    (run,) = attack([luring(lured, examples=others)], [FGSM], tmp_path)
    np.testing.assert_array_equal(read(run, tmp_path)["ids"], others.ids)


def test_the_control_gives_each_image_the_change_of_the_one_beside_it(
    lured: Lured, tmp_path: Path
) -> None:
    examples = lured.examples.take(slice(8))
    subject = luring(lured, "exchanged", examples=examples)
    # Pieces of 3 part some of the pairs.
    (run,) = attack([subject], [FGSM], tmp_path, chunk_size=3)
    record = read(run, tmp_path)
    result = FGSM(lured.augmented, examples.images, examples.labels, ids=examples.ids)
    beside = [1, 0, 3, 2, 5, 4, 7, 6]
    images = np.clip(examples.images + (result.images - examples.images)[beside], 0, 1)
    np.testing.assert_array_equal(record["ids"], examples.ids)
    for name, model in (("augmented", lured.augmented), ("target", lured.target)):
        expected = predict(model, images).argmax(axis=1)
        np.testing.assert_array_equal(record[name], expected)
    moved = np.linalg.norm((images - examples.images).reshape(8, -1), axis=1)
    np.testing.assert_allclose(record["l2"], moved, rtol=1e-5)


def test_any_model_with_any_detector_is_evaluated(lured: Lured, tmp_path: Path) -> None:
    detector = Measure(lambda x: x.mean(axis=(1, 2, 3)), {0.05: 0.6, 0.005: 0.9})
    subject = model_subject(
        lured.target, lured.examples, loss="margin", detector=detector
    )
    # What does not follow the loss is left out; limits are for the first images.
    chosen = [create("DeepFool"), FGSM, PGD]
    run, few = attack([subject], chosen, tmp_path, limits={"PGD": 9})
    assert (run.attack, run.images, few.attack, few.images) == ("FGSM", 40, "PGD", 9)
    frame = make_frame([run], store_in(tmp_path), Scored(detector))
    assert (frame["flagged_0.05"] == (frame["score"] > 0.6)).all()
    through = frame["misclassified"] & ~frame["flagged_0.05"]
    assert (frame["through_0.05"] == through).all()
    assert not frame["recovered_0.05"].any()
    found = worst_case(subject, [FGSM], store_in(tmp_path), chunk_size=7)
    assert found.overall.count == through.sum()


def test_attacks_that_are_told_of_a_detector_evade_it(
    lured: Lured, tmp_path: Path
) -> None:
    def told(threshold: float) -> Subject:
        watching = Measure(lambda x: x.mean(axis=(1, 2, 3)), {0.05: threshold})
        return model_subject(lured.target, lured.examples, detector=watching, told=True)

    loose, strict = told(0.5), told(-1.0)
    asking = create("RayS", eps=0.3, nb_queries=30)
    # One that has no use for a detector is left out.
    (run,) = attack([loose], [FGSM, asking], tmp_path)
    (other,) = attack([strict], [FGSM, asking], tmp_path)
    assert (run.attack, run.knowledge) == ("RayS", "labels")
    assert run.folder != other.folder
    assert loose.facts["told"] == ["Measure", 0.05, 0.5]
    frame = make_frame([run], store_in(tmp_path), loose.detector)
    assert (frame["knowledge"] == "labels").all()
    alone = asking(
        lured.target,
        lured.examples.images,
        lured.examples.labels,
        ids=lured.examples.ids,
        detector=loose.told,
    )
    np.testing.assert_array_equal(frame["through_0.05"], alone.success)
    np.testing.assert_array_equal(frame["rejections"], alone.rejections)
    assert 0 < alone.rejections.sum() < alone.iterations.sum()
    assert alone.success.any()
    none = make_frame([other], store_in(tmp_path), strict.detector)
    assert (none["rejections"] == none["iterations"]).all()
    assert not none["through_0.05"].any()
    with pytest.raises(ValueError, match=r"`detector`. Expected one, of which"):
        model_subject(lured.target, lured.examples, told=True)


def test_a_model_of_other_pixels_meets_the_same_attack(
    lured: Lured, tmp_path: Path
) -> None:
    image = keras.Input(lured.examples.images.shape[1:])
    scaled = keras.layers.Rescaling(0.5, 0.5)(image)
    signed = keras.Model(image, lured.target(scaled))
    bounds = (-1.0, 1.0)
    # It is shown what the model is shown.
    detector = Measure(lambda x: x.min(axis=(1, 2, 3)), {0.05: -0.5})
    told: dict[str, Any] = {"bounds": bounds, "detector": detector}
    ours = model_subject(signed, lured.examples, name="signed", **told)
    plain = model_subject(lured.target, lured.examples)
    background = lured.examples.images
    found, known = attack([ours, plain], [FGSM], tmp_path, background=background)
    one, other = read(found, tmp_path), read(known, tmp_path)
    for name in ("ids", "answer", "l0"):
        np.testing.assert_array_equal(one[name], other[name])
    for name in ("l2", "linf", "kept"):
        np.testing.assert_allclose(one[name], other[name], atol=1e-6)
    kept = 2 * one["kept"] - 1
    np.testing.assert_allclose(one["score"][:4], detector.score(kept), atol=1e-6)
    through = worst_case(ours, [FGSM], store_in(tmp_path), chunk_size=7).overall
    flagged = one["score"] > -0.5
    assert through.count == (one.misclassified & ~flagged).sum()


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"attacks": []}, "`attacks`. Expected at least one.*Received: none"),
        ({"attacks": [FGSM, FGSM]}, "`attacks`.*none twice"),
        ({"chunk_size": 0}, "`chunk_size`. Expected at least 1"),
        ({"limits": {"CW2": 5}}, "`limits`.*FGSM. Received: 'CW2'"),
        ({"limits": {"FGSM": 0}}, r"`limits\['FGSM'\]`. Expected at least 1"),
        ({"num_examples_sweep": 0}, "`num_examples_sweep`. Expected at least 1"),
        ({"engine": "spark"}, "`engine`. Expected 'local' or 'ray'.*'spark'"),
    ],
)
def test_a_wrong_call_is_told_before_any_work(
    changes: dict[str, Any], expected: str, lured: Lured, tmp_path: Path
) -> None:
    arguments: dict[str, Any] = {"attacks": [FGSM], **changes}
    with pytest.raises(ValueError, match=expected):
        attack([luring(lured)], workdir=tmp_path, **arguments)
    assert not list(tmp_path.rglob("*.npz"))


class Swap(Attack):
    """Shows an image of the next class for examples whose id has this remainder."""

    remainder: ClassVar[int]
    kind: ClassVar[Kind] = "UA"
    seen: ClassVar[list[int]]
    shown: ClassVar[Mapping[int, Any]]

    def perturb(self, batch: Batch) -> Perturbed:
        self.seen.extend(batch.ids.tolist())
        images = batch.images.copy()
        for row in np.flatnonzero(batch.ids % 3 == self.remainder):
            images[row] = self.shown[(batch.labels[row] + 1) % CLASSES]
        return Perturbed(images, 1)


@pytest.fixture
def swaps(lured: Lured) -> list[Swap]:
    examples = lured.examples
    shown = dict(zip(examples.labels.tolist(), examples.images, strict=True))
    made: list[Swap] = []
    for number, remainder in enumerate((0, 0, 1)):
        body = {"name": f"Swap{number}", "remainder": remainder, "shown": shown}
        made.append(type(f"Swap{number}", (Swap,), {**body, "seen": []})())
    return made


def stand(subject: Subject, attacks: Sequence[Attack], workdir: Path) -> WorstCase:
    return worst_case(subject, attacks, store_in(workdir), chunk_size=8)


def test_only_what_still_stands_goes_to_the_next_attack(
    lured: Lured, swaps: list[Swap], tmp_path: Path
) -> None:
    subject = model_subject(lured.target, lured.examples.take(slice(20)))
    found = stand(subject, swaps, tmp_path)

    zeros, ones, twos = np.bincount(subject.examples.ids % 3)
    names = [attack.name for attack in swaps]
    assert [found.tried[name] for name in names] == [20, 20 - zeros, 20 - zeros]
    assert [found.felled[name] for name in names] == [zeros, 0, ones]
    assert (found.overall.count, found.overall.total) == (20 - twos, 20)
    assert [len(attack.seen) for attack in swaps] == [20, ones + twos, ones + twos]
    # What is recorded is not done again, but another order is another run.
    assert stand(subject, swaps, tmp_path) == found
    assert sum(len(one.seen) for one in swaps) == 20 + 2 * (ones + twos)
    assert stand(subject, swaps[::-1], tmp_path).felled[names[0]] == 0


def test_what_is_flagged_at_the_largest_rate_has_not_got_through(
    lured: Lured, swaps: list[Swap], tmp_path: Path
) -> None:
    def counted(**changes: Any) -> int:
        subject = dataclasses.replace(plain, name=f"m{len(changes)}", **changes)
        return stand(subject, swaps[:1], tmp_path).overall.count

    plain = model_subject(lured.target, lured.examples)
    fooled = int((lured.examples.ids % 3 == 0).sum())
    assert counted() == fooled
    detector = Measure(lambda x: np.ones(len(x)), {0.005: 1.0, 0.05: 0.5})
    assert counted(detector=Scored(detector)) == 0
    strict = Measure(detector.function, {0.005: 0.5, 0.05: 1.0})
    assert counted(detector=Scored(strict)) == fooled
    # There the answer is that of both.
    assert counted(detector=Scored(detector), integrated=True) == fooled


def test_an_interrupted_worst_case_ends_with_the_same_counts(
    lured: Lured, swaps: list[Swap], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    subject = model_subject(lured.target, lured.examples)
    power = Power(monkeypatch, Swap)
    whole = stand(subject, swaps, tmp_path / "whole")
    total = len(power.sizes)
    for fails_at in (2, 5):
        power.restore(fails_at)
        with pytest.raises(KeyboardInterrupt):
            stand(subject, swaps, tmp_path / "parts")
    power.restore()
    assert stand(subject, swaps, tmp_path / "parts") == whole
    assert len(power.sizes) == total - 1 - 4
