import pytest

from keras_traps.evaluation.paper import paper_clean, paper_row

UNTARGETED = [
    "FGSM",
    "RFGSM",
    "BIM",
    "PGD",
    "UMIFGSM",
    "UAP",
    "DeepFool",
    "OM",
    "BPDA",
    "SPSA",
]
TARGETED = ["LLC", "RLLC", "ILLC", "TMIFGSM", "JSMA", "BLB", "CW2", "EAD"]
CELLS = [(a, d) for a in UNTARGETED + TARGETED for d in ("mnist", "cifar10")]


@pytest.mark.parametrize(("attack", "dataset"), CELLS)
def test_every_attack_has_every_number_as_a_fraction(attack: str, dataset: str) -> None:
    row = paper_row(attack, dataset)

    # Table III has no such column for some attacks, Table VI is of three.
    fractions = {key: value for key, value in row.items() if "mean" not in key}
    assert {*fractions, "auc"} == {
        "auc",
        "asr_original",
        "asr_attractors",
        "detection",
        "recovery",
        "overall_asr",
        "overall_asr_fpr0.5",
        "asr_integrated",
    }
    assert all(value is None or 0 <= value <= 1 for value in fractions.values())


@pytest.mark.parametrize(("attack", "dataset"), CELLS)
def test_overall_success_is_what_is_fooled_and_not_detected(
    attack: str, dataset: str
) -> None:
    row = paper_row(attack, dataset)
    fooled, detected, overall = (
        row[key] for key in ("asr_attractors", "detection", "overall_asr")
    )
    assert fooled is not None
    assert overall is not None
    if detected is None:
        assert fooled == overall == 0
    else:
        # The paper prints each to a tenth of a per cent.
        assert overall == pytest.approx(fooled * (1 - detected), abs=0.0011)


def test_known_cells_of_the_tables_are_kept() -> None:
    assert paper_row("OM", "mnist") == {
        "asr_original": 1.0,
        "asr_attractors": 0.97,
        "detection": 0.876,
        "recovery": 1.0,
        "overall_asr": 0.12,
        "overall_asr_fpr0.5": 0.14,
        "asr_integrated": 0.175,
        "auc": 0.928,
    }
    assert paper_row("TMIFGSM", "cifar10")["overall_asr_fpr0.5"] == 0.189
    assert paper_row("ILLC", "mnist")["recovery"] is None


def test_clean_accuracies_are_those_of_table_two() -> None:
    assert paper_clean("mnist") == (0.981, 0.98)
    assert paper_clean("cifar10") == (0.901, 0.9)


def test_what_the_paper_does_not_have_is_empty() -> None:
    assert paper_row("AutoAttack", "mnist") == {}
    assert paper_row("FGSM", "digits") == {}
    assert paper_clean("digits") == (None, None)


def test_changing_a_row_does_not_change_the_next_one() -> None:
    paper_row("FGSM", "mnist")["detection"] = 0.5

    assert paper_row("FGSM", "mnist")["detection"] == 1.0
