import numpy as np
import pytest

from keras_traps.evaluation.luring.figures import figure_4, figure_5, fooling_all
from keras_traps.evaluation.luring.paper import paper_cell, paper_clean
from keras_traps.evaluation.luring.records import LuringRecord
from keras_traps.evaluation.report.blocks import Paragraph, Picture


def record(
    ids: list[int], augmented: list[int], target: list[int], l0: int = 0
) -> LuringRecord:
    """Answers to images of class 0."""
    none = np.zeros(len(ids), np.float32)
    return LuringRecord(
        ids=np.array(ids),
        labels=np.zeros(len(ids), int),
        augmented=np.array(augmented),
        target=np.array(target),
        l0=np.full(len(ids), l0),
        l2=none,
        linf=none,
        iterations=np.zeros(len(ids), int),
    )


# Image 3 does not fool Auto's M∘P, image 5 was not attacked there.
BY_VARIANT = {
    "auto": record([1, 2, 3, 4], [1, 1, 0, 1], [1, 1, 1, 0], l0=7),
    "luring": record([1, 2, 3, 4, 5], [1, 1, 1, 2, 1], [0, 2, 0, 2, 0], l0=9),
}


def test_images_that_fool_every_source_model_are_kept() -> None:
    kept = fooling_all(BY_VARIANT)
    for variant in BY_VARIANT:
        np.testing.assert_array_equal(kept[variant].ids, [1, 2, 4])


def test_figure_4_has_the_rates_of_those_images() -> None:
    study = figure_4("mnist", {("FGSM", 0.3): BY_VARIANT})
    rows = {row["variant"]: row for row in study.numbers["rows"]}
    assert {(name, row["images"], row["attacked"]) for name, row in rows.items()} == {
        ("auto", 3, 4),
        ("luring", 3, 5),
    }
    assert (rows["auto"]["dr"], rows["auto"]["adq"]) == pytest.approx((1 / 3, 1 / 3))
    assert (rows["luring"]["dr"], rows["luring"]["adq"]) == pytest.approx(
        (2 / 3, 1 / 3)
    )


def test_a_radius_that_not_all_variants_have_is_left_out_and_told() -> None:
    alone = {"luring": BY_VARIANT["luring"]}
    study = figure_4("mnist", {("FGSM", 0.3): BY_VARIANT, ("FGSM", 0.4): alone})
    assert {row["eps"] for row in study.numbers["rows"]} == {0.3}
    told = [block.text for block in study.blocks if isinstance(block, Paragraph)]
    assert any("Left out" in text and "FGSM 0.4" in text for text in told)
    auto = {"auto": BY_VARIANT["auto"]}
    with pytest.raises(ValueError, match="all of Auto, Luring at one radius"):
        figure_4("mnist", {("FGSM", 0.3): auto, ("FGSM", 0.4): alone})


def test_where_no_image_fools_all_there_is_no_rate() -> None:
    nothing = {"auto": record([1], [0], [0]), "luring": record([1], [1], [0])}
    study = figure_4("mnist", {("PGD", 0.3): nothing})
    assert [(row["dr"], row["adq"]) for row in study.numbers["rows"]] == [
        (None, None)
    ] * 2
    assert any(isinstance(block, Picture) for block in study.blocks)


def test_figure_5_has_the_changes_of_images_that_fool_their_own_model() -> None:
    study = figure_5("mnist", {("PGD", 0.3): BY_VARIANT, ("FGSM", 0.3): BY_VARIANT})
    rows = {row["variant"]: row for row in study.numbers["rows"]}
    assert {name: (row["images"], row["median"]) for name, row in rows.items()} == {
        "auto": (3, 7.0),
        "luring": (5, 9.0),
    }
    with pytest.raises(ValueError, match="--attacks=FGSM,PGD,MIM,MIML2"):
        figure_5("mnist", {("FGSM", 0.3): BY_VARIANT})


def test_the_papers_numbers_are_found_by_our_names() -> None:
    assert paper_cell("svhn_cropped", "DIM-TI", 0.08, "luring") == {
        "ac_mop": 0.0,
        "ac_m": 0.48,
        "dac": 0.67,
    }
    assert paper_cell("mnist", "DIM-TI", 0.4, "stack")["ac_m"] == 0.07
    assert paper_cell("mnist", "MIM", 0.5, "ce")["dac"] == 0.47
    assert paper_cell("cifar10", "MIM", 0.02, "auto") == {}
    assert paper_cell("digits", "MIM", 0.3, "luring") == {}
    # The bold numbers of two cells are cut off in the text at hand.
    assert paper_cell("mnist", "FGSM", 0.3, "luring")["dac"] is None
    assert paper_clean("cifar10", "target") == {"test": 0.893, "agree": None}
    assert paper_clean("mnist", "luring") == {"test": 0.974, "agree": 0.969}
