import pandas as pd
import pytest
from figures.luring_figures import figure_4, figure_5


def rows(
    variant: str, ids: list[int], augmented: list[int], target: list[int], l0: int = 0
) -> pd.DataFrame:
    """Answers to FGSM's images of class 0."""
    where = {"threat": "luring", "variant": variant, "attack": "FGSM", "eps": 0.3}
    answers = {"id": ids, "label": 0, "augmented": augmented, "target": target}
    return pd.DataFrame({**where, **answers, "l0": l0}, index=range(len(ids)))


# Image 3 does not fool Auto's M∘P, image 5 was not attacked there.
AUTO = rows("auto", [1, 2, 3, 4], [1, 1, 0, 1], [1, 1, 1, 0], l0=7)
LURING = rows("luring", [1, 2, 3, 4, 5], [1, 1, 1, 2, 1], [0, 2, 0, 2, 0], l0=9)
BOTH = pd.concat([LURING, AUTO], ignore_index=True)


def test_figure_4_has_the_rates_of_images_that_fool_every_source_model() -> None:
    whitebox = BOTH.assign(threat="whitebox", augmented=1)
    first = BOTH.assign(attack="MIM", augmented=1, target=0)
    frame = pd.concat([first, BOTH, whitebox], ignore_index=True)
    auto, luring, *others = figure_4("mnist", frame).numbers["rows"]
    assert [row["attack"] for row in others] == ["MIM", "MIM"]
    assert (auto["variant"], auto["images"], auto["attacked"]) == ("auto", 3, 4)
    assert (luring["variant"], luring["images"], luring["attacked"]) == ("luring", 3, 5)
    assert (auto["dr"], auto["adq"]) == pytest.approx((1 / 3, 1 / 3))
    assert (luring["dr"], luring["adq"]) == pytest.approx((2 / 3, 1 / 3))


def test_a_radius_that_not_all_variants_have_is_left_out_and_told() -> None:
    result = figure_4("mnist", pd.concat([BOTH, LURING.assign(eps=0.4)]))
    assert {row["eps"] for row in result.numbers["rows"]} == {0.3}
    assert result.words == {"left_out": "FGSM 0.4"}
    with pytest.raises(ValueError, match="all of Auto, Luring at one radius"):
        figure_4("mnist", pd.concat([AUTO, LURING.assign(eps=0.4)]))


def test_where_no_image_fools_all_there_is_no_rate() -> None:
    found = figure_4("mnist", pd.concat([rows("auto", [1], [0], [0]), LURING]))
    rates = [(row["dr"], row["adq"]) for row in found.numbers["rows"]]
    assert rates == [(None, None)] * 2


def test_figure_5_has_the_changes_of_images_that_fool_their_own_model() -> None:
    pgd = BOTH.assign(attack="PGD")
    found = figure_5("mnist", pd.concat([BOTH.assign(l0=1), pgd])).numbers["rows"]
    assert [(row["variant"], row["images"], row["median"]) for row in found] == [
        ("auto", 3, 7.0),
        ("luring", 5, 9.0),
    ]
    with pytest.raises(ValueError, match="--attacks=FGSM,PGD,MIM,MIML2"):
        figure_5("mnist", BOTH)
