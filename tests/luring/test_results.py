import dataclasses
from pathlib import Path

from keras_traps.evaluation.luring.pairing import Paired
from keras_traps.evaluation.luring.records import LuringRecord
from keras_traps.evaluation.luring.results import Measured, compare, measure_outcomes
from keras_traps.evaluation.luring.subjects import Subject
from keras_traps.evaluation.records import ArrayStore
from keras_traps.luring.metrics import LuringMetrics
from keras_traps.rates import Rate
from tests.luring.test_protocol import DIM, FGSM, MIM, attack_all


def test_luring_is_compared_with_each_baseline(
    subject: Subject, tmp_path: Path
) -> None:
    (ours,) = attack_all(subject, tmp_path, FGSM)
    store = ArrayStore(LuringRecord, tmp_path, {}, resume=True)
    cells = measure_outcomes(
        [
            ours,
            dataclasses.replace(ours, variant="auto"),
            # Neither another attacker nor an attack of the figures is compared.
            dataclasses.replace(ours, variant="ce", threat="whitebox"),
            dataclasses.replace(ours, variant="stack", attack="PGD"),
        ],
        store,
    )
    comparisons = compare(cells, lambda one: one.read(store))
    assert [(c.baseline, c.measure, c.above, c.cells) for c in comparisons] == [
        ("auto", "ac_m", 0, 1),
        ("auto", "dac", 0, 1),
    ]
    rate = cells[0].rates.ac_m.value
    # Equal is not above.
    assert comparisons[0].missed == (("FGSM", 0.2, rate, rate),)
    assert comparisons[0].paired == Paired(1, (40, 40), 0, 0, 0)


def test_above_is_the_one_that_leaves_more_right(
    subject: Subject, tmp_path: Path
) -> None:
    (outcome,) = attack_all(subject, tmp_path, FGSM)

    def cell(variant: str, eps: float, *, ac_m: int, dac: int) -> Measured:
        none, of_ten = Rate(0, 10), (Rate(ac_m, 10), Rate(dac, 10))
        return Measured(
            dataclasses.replace(outcome, variant=variant, eps=eps),
            LuringMetrics(none, *of_ten, dr=none, adq=none),
        )

    store = ArrayStore(LuringRecord, tmp_path, {}, resume=True)
    comparisons = compare(
        (
            cell("luring", 0.1, ac_m=6, dac=6),
            cell("auto", 0.1, ac_m=5, dac=7),
            cell("luring", 0.2, ac_m=4, dac=8),
            cell("auto", 0.2, ac_m=3, dac=2),
        ),
        lambda _: outcome.read(store),
    )
    assert [(c.measure, c.above, c.cells, c.missed) for c in comparisons] == [
        ("ac_m", 2, 2, ()),
        ("dac", 1, 2, (("FGSM", 0.1, 0.6, 0.7),)),
    ]


def test_attacks_of_other_settings_are_not_compared(
    subject: Subject, tmp_path: Path
) -> None:
    (ours,) = attack_all(subject, tmp_path, MIM)
    longer = {**ours.settings, "nb_iter": 1000}
    store = ArrayStore(LuringRecord, tmp_path, {}, resume=True)
    cells = measure_outcomes(
        [
            ours,
            dataclasses.replace(ours, variant="auto", settings=longer),
            dataclasses.replace(ours, eps=0.4),
            dataclasses.replace(ours, variant="auto", eps=0.4),
        ],
        store,
    )
    ac_m, _ = compare(cells, lambda one: one.read(store))
    assert (ac_m.cells, ac_m.unlike) == (1, (("MIM", ours.eps),))
    assert compare(cells[:2], lambda one: one.read(store)) == ()


def test_what_a_sweep_found_may_differ(subject: Subject, tmp_path: Path) -> None:
    (ours,) = attack_all(subject, tmp_path, DIM)
    store = ArrayStore(LuringRecord, tmp_path, {}, resume=True)
    other = {**ours.settings, "prob": ours.settings["prob"] + 0.125}
    same = dataclasses.replace(ours, variant="auto", settings=other)
    unswept = dataclasses.replace(same, trials=())
    for theirs, unlike in ((same, 0), (unswept, 2)):
        cells = measure_outcomes([ours, theirs], store)
        found = compare(cells, lambda one: one.read(store))
        assert len(found) == 2 - unlike
