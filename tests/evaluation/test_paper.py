import dataclasses
import functools
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from keras_traps.attacks import names
from keras_traps.evaluation.metrics import make_frame
from keras_traps.evaluation.paper import compare_luring, look_up
from keras_traps.evaluation.records import Run, Trial
from tests.evaluation.conftest import make_record, make_run, store_of


@pytest.mark.parametrize("dataset", ["mnist", "cifar10"])
def test_the_papers_numbers_fit_each_other(dataset: str) -> None:
    for attack in names():
        row = look_up("attractors", "attacks", attack, dataset)
        fooled, detected = row.get("asr_attractors"), row.get("detection")
        if fooled is not None and detected is not None:
            # The paper prints each to a tenth of a per cent.
            expected = fooled * (1 - detected)
            assert row["overall_asr"] == pytest.approx(expected, abs=0.0011), attack


def test_known_cells_of_the_tables_are_kept() -> None:
    attractors = functools.partial(look_up, "attractors", "attacks")
    assert attractors("OM", "mnist")["auc"] == 0.928
    assert attractors("TMIFGSM", "cifar10")["overall_asr_fpr0.5"] == 0.189
    assert attractors("ILLC", "mnist")["recovery"] is None
    clean = look_up("attractors", "clean", "mnist")
    assert clean == {"original": 0.981, "attractors": 0.98}
    cell = look_up("luring", "attacks", "mnist", "FGSM", "0.4", "luring")
    assert cell["ac_m"] == 0.76
    assert {"test", "agree"} == look_up("luring", "clean", "cifar10", "luring").keys()
    assert attractors("AutoAttack", "mnist") == attractors("FGSM", "digits") == {}
    assert look_up("luring", "attacks", "digits", "FGSM", "0.3", "ce") == {}


def luring_run(variant: str, attack: str = "FGSM", **changes: Any) -> Run:
    threat = changes.pop("threat", "luring")
    about = {"threat": threat, "variant": variant}
    return make_run(f"{threat}-{variant}", attack, about=about, **changes)


def cells(
    workdir: Path, *told: tuple[Run, list[int], list[int]]
) -> tuple[pd.DataFrame, list[Run]]:
    pairs = [
        (run, make_record(target=target, augmented=augmented))
        for run, target, augmented in told
    ]
    runs = [run for run, *_ in told]
    return make_frame(runs, store_of(workdir, pairs)), runs


RIGHT, WRONG = [0, 1, 2, 0, 1, 2], [1, 2, 0, 1, 2, 0]
HALF = [0, 1, 2, 1, 2, 0]


def test_luring_is_compared_with_each_baseline(tmp_path: Path) -> None:
    far: dict[str, Any] = {"eps": 0.3}
    frame, runs = cells(
        tmp_path,
        (luring_run("luring"), RIGHT, WRONG),
        (luring_run("ce"), WRONG, WRONG),
        (luring_run("luring", **far), HALF, WRONG),
        # M is right on fewer, but M∘P differs where it is wrong.
        (luring_run("ce", **far), [0, 2, 0, 1, 2, 0], RIGHT),
        (luring_run("auto"), RIGHT, WRONG),
        # Neither another attacker nor an attack of the figures is compared.
        (luring_run("ce", threat="whitebox"), WRONG, WRONG),
        (luring_run("luring", "PGD"), RIGHT, WRONG),
        (luring_run("stack", "PGD"), WRONG, WRONG),
    )
    even, _, ac_m, dac = compare_luring(frame, runs)
    # Equal is not above.
    assert (even["baseline"], even["measure"]) == ("auto", "ac_m")
    assert even["missed"] == [("FGSM", 0.1, 1.0, 1.0)]
    assert (even["paired"]["images"], even["paired"]["above"]) == ((6, 6), 0)
    assert (ac_m["baseline"], ac_m["measure"], dac["measure"]) == ("ce", "ac_m", "dac")
    assert (ac_m["above"], ac_m["cells"], ac_m["missed"]) == (2, 2, [])
    # Six to none: 2 / 2 ** 6 is below 5 %; two to none is not.
    assert (ac_m["paired"]["above"], ac_m["paired"]["surely_above"]) == (2, 1)
    assert (dac["above"], dac["missed"]) == (1, [("FGSM", 0.3, 0.5, 1.0)])


def test_attacks_of_other_settings_are_not_compared(tmp_path: Path) -> None:
    trials = (Trial({"prob": 0.5}, 6, 3, 3),)
    ours = luring_run("luring", "DIM", trials=trials, settings={"prob": 0.5})
    swept = luring_run("auto", "DIM", trials=trials, settings={"prob": 0.625})
    longer = {"eps": 0.1, "nb_iter": 1000}
    frame, runs = cells(
        tmp_path,
        (luring_run("luring", "MIM"), RIGHT, WRONG),
        (luring_run("auto", "MIM", settings=longer), WRONG, WRONG),
        (luring_run("luring", "MIM", eps=0.3), RIGHT, WRONG),
        (luring_run("auto", "MIM", eps=0.3, images=4), WRONG, WRONG),
        (ours, HALF, HALF),
        (swept, RIGHT, WRONG),
    )
    ac_m, _ = compare_luring(frame, runs)
    # What a sweep found may differ.
    assert (ac_m["cells"], ac_m["unlike"]) == (2, [("MIM", 0.1)])
    assert ac_m["paired"]["images"] == (4, 6)
    unswept = dataclasses.replace(swept, trials=())
    assert compare_luring(frame, [*runs[:2], runs[4], unswept]) == []
