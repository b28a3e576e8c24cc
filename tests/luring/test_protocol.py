import dataclasses
import io
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tqdm

from keras_traps.attacks import Attack, create
from keras_traps.evaluation.luring import protocol
from keras_traps.evaluation.luring.outcomes import (
    Outcome,
    read_outcomes,
    write_outcome,
)
from keras_traps.evaluation.luring.records import LuringRecord
from keras_traps.evaluation.luring.subjects import Subject
from keras_traps.evaluation.records import ArrayStore
from keras_traps.luring.variants import untrained
from keras_traps.models.inference import predict

FGSM = create("FGSM", eps=0.2)
DIM = create("DIM", eps=0.2, eps_iter=0.1, nb_iter=2)
MIM = create("MIM", eps=0.2, eps_iter=0.1, nb_iter=2)


def runner(workdir: Path, bar: Any = None) -> protocol.Runner:
    store = ArrayStore(LuringRecord, workdir, {}, resume=True)
    quiet = tqdm.tqdm(disable=True) if bar is None else bar
    return protocol.Runner(store, chunk_size=7, seed=0, bar=quiet)


def attack_all(
    subject: Subject, workdir: Path, *attacks: Attack, **changes: Any
) -> list[Outcome]:
    settings: dict[str, Any] = {"count_sweep": 10, "sweep": True, **changes}
    return list(
        protocol.attack_subject(
            [subject], attacks, runner(workdir), provenance=dict, **settings
        )
    )


def joined(outcome: Outcome, workdir: Path) -> LuringRecord:
    return outcome.read(ArrayStore(LuringRecord, workdir, {}, resume=True))


def assert_same(first: LuringRecord, second: LuringRecord) -> None:
    for field in dataclasses.fields(LuringRecord):
        a, b = (getattr(record, field.name) for record in (first, second))
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_a_record_tells_what_both_answer_to_the_attacked_image(
    subject: Subject, tmp_path: Path
) -> None:
    (outcome,) = attack_all(subject, tmp_path, FGSM)
    record = joined(outcome, tmp_path)
    result = FGSM(subject.augmented, subject.images, subject.labels, ids=subject.ids)
    np.testing.assert_array_equal(record.ids, subject.ids)
    for name, model in (("augmented", subject.augmented), ("target", subject.target)):
        np.testing.assert_array_equal(
            getattr(record, name), predict(model, result.images).argmax(axis=1)
        )
    np.testing.assert_array_equal(record.l0, result.l0)
    np.testing.assert_allclose(record.linf, result.linf, atol=1e-6)
    assert (outcome.images, outcome.chunks, outcome.eps) == (40, 6, 0.2)


def test_a_run_that_is_killed_goes_on_to_the_same_numbers(
    subject: Subject, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = attack_all(subject, tmp_path / "plain", FGSM, DIM)
    run = Subject.run
    ran: list[Any] = []

    def killed(self: Subject, attack: Attack, rows: slice, *, seed: int) -> Any:
        if len(ran) % 6 == 5:
            ran.append(None)
            raise KeyboardInterrupt
        ran.append((attack, rows.start, rows.stop))
        return run(self, attack, rows, seed=seed)

    monkeypatch.setattr(Subject, "run", killed)
    kills = 0
    while True:
        try:
            again = attack_all(subject, tmp_path / "killed", FGSM, DIM)
            break
        except KeyboardInterrupt:
            kills += 1
    assert kills >= 4
    done = [piece for piece in ran if piece]
    # Nothing was done twice.
    assert len(done) == len(set(done))
    assert again == plain
    for one, other in zip(plain, again, strict=True):
        assert_same(joined(one, tmp_path / "plain"), joined(other, tmp_path / "killed"))


def test_the_setting_that_hurts_m_most_meets_all_images(
    subject: Subject, tmp_path: Path
) -> None:
    (outcome,) = attack_all(subject, tmp_path, DIM)
    assert [trial.settings["prob"] for trial in outcome.trials] == [
        tenths / 10 for tenths in range(1, 11)
    ]
    assert {trial.images for trial in outcome.trials} == {10}
    ranks = [(trial.ac_m, trial.dac) for trial in outcome.trials]
    assert outcome.settings == outcome.trials[ranks.index(min(ranks))].settings
    assert outcome.images == 40
    best = joined(outcome, tmp_path).take(10)
    assert int((best.target == best.labels).sum()) == min(ranks)[0]


def test_without_a_sweep_an_attack_has_its_own_setting(
    subject: Subject, tmp_path: Path
) -> None:
    (outcome,) = attack_all(subject, tmp_path, DIM, sweep=False)
    assert (outcome.trials, outcome.settings["prob"]) == ((), 0.5)


def test_more_images_later_add_to_those_that_are_done(
    subject: Subject, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    few = dataclasses.replace(
        subject,
        ids=subject.ids[:10],
        images=subject.images[:10],
        labels=subject.labels[:10],
    )
    attack_all(few, tmp_path, FGSM)
    run, sizes = Subject.run, []

    def counted(self: Subject, attack: Attack, rows: slice, *, seed: int) -> Any:
        record = run(self, attack, rows, seed=seed)
        sizes.append(len(record))
        return record

    monkeypatch.setattr(Subject, "run", counted)
    (all_of_them,) = attack_all(subject, tmp_path, FGSM)
    assert sizes == [4, 7, 7, 7, 5]
    (again,) = attack_all(few, tmp_path, FGSM)
    assert sum(sizes) == 30
    assert len(joined(again, tmp_path)) == 10
    assert_same(joined(again, tmp_path), joined(all_of_them, tmp_path).take(10))


def test_records_of_other_images_are_made_anew(
    subject: Subject, tmp_path: Path
) -> None:
    attack_all(subject, tmp_path, FGSM)
    others = dataclasses.replace(subject, ids=subject.ids + 1)
    (outcome,) = attack_all(others, tmp_path, FGSM)
    np.testing.assert_array_equal(joined(outcome, tmp_path).ids, others.ids)


def test_the_bar_counts_every_image_once(subject: Subject, tmp_path: Path) -> None:
    total = protocol.work([FGSM, DIM], 40, 10, sweep=True)
    assert total == 40 + 10 * 10 + 30
    for done_before in (0, total):
        with tqdm.tqdm(total=total, file=io.StringIO()) as bar:
            list(
                protocol.attack_subject(
                    [subject],
                    [FGSM, DIM],
                    runner(tmp_path, bar),
                    count_sweep=10,
                    sweep=True,
                    provenance=dict,
                )
            )
            assert bar.n == total
            # What an earlier run did is not in the rate.
            assert bar.initial == done_before


def test_the_best_of_an_attackers_choices_meets_all_images(
    subject: Subject, tmp_path: Path
) -> None:
    # Who attacks a model that answers at random does worse than who attacks M.
    keras.utils.set_random_seed(7)
    blind = untrained(subject.target)
    choices = [
        dataclasses.replace(subject, attacked=model, choice={"softness": number})
        for model, number in ((blind, 1.0), (subject.target, 4.0))
    ]
    assert len({one.folder for one in [subject, *choices]}) == 3
    (outcome,) = protocol.attack_subject(
        choices,
        [FGSM],
        runner(tmp_path),
        count_sweep=10,
        sweep=False,
        provenance=dict,
    )
    assert outcome.settings == {**FGSM.settings(), "softness": 4.0}
    assert [trial.settings["softness"] for trial in outcome.trials] == [1.0, 4.0]
    assert outcome.trials[1].ac_m < outcome.trials[0].ac_m
    assert outcome.subject == choices[1].folder
    assert len(joined(outcome, tmp_path)) == len(subject.ids)
    assert protocol.work([FGSM], 40, 10, sweep=False, choices=2) == 2 * 10 + 30


def test_outcomes_survive_files(subject: Subject, tmp_path: Path) -> None:
    found = attack_all(subject, tmp_path, DIM, FGSM)
    for outcome in found:
        write_outcome(tmp_path, outcome)
    assert read_outcomes(tmp_path, ["FGSM", "DIM"]) == found[::-1]
    path = tmp_path / "outcomes/luring/luring/FGSM_0.2.json"
    path.write_text("{}")
    with pytest.raises(ValueError, match=r"FGSM_0\.2\.json is damaged"):
        read_outcomes(tmp_path, ["FGSM", "DIM"])
