import pandas as pd
import pytest
from figures.luring_curves import figure_4, figure_5, fooling_all


def rows(
    variant: str,
    ids: list[int],
    augmented: list[int],
    target: list[int],
    *,
    l0: int = 0,
    attack: str = "FGSM",
    eps: float = 0.3,
) -> pd.DataFrame:
    """Answers to images of class 0."""
    return pd.DataFrame(
        {
            "threat": "luring",
            "variant": variant,
            "attack": attack,
            "eps": eps,
            "id": ids,
            "label": 0,
            "augmented": augmented,
            "target": target,
            "l0": l0,
        }
    )


# Image 3 does not fool Auto's M∘P, image 5 was not attacked there.
AUTO = rows("auto", [1, 2, 3, 4], [1, 1, 0, 1], [1, 1, 1, 0], l0=7)
LURING = rows("luring", [1, 2, 3, 4, 5], [1, 1, 1, 2, 1], [0, 2, 0, 2, 0], l0=9)
BOTH = pd.concat([LURING, AUTO], ignore_index=True)


def test_images_that_fool_every_source_model_are_kept() -> None:
    kept = fooling_all(BOTH)
    for variant in ("auto", "luring"):
        assert list(kept[kept.variant == variant].id) == [1, 2, 4]
    nobody = rows("auto", [1], [0], [0])
    assert fooling_all(pd.concat([nobody, LURING])).empty


def test_figure_4_has_the_rates_of_those_images() -> None:
    whitebox = BOTH.assign(threat="whitebox", augmented=1)
    result = figure_4("mnist", pd.concat([BOTH, whitebox], ignore_index=True))
    found = {row["variant"]: row for row in result.numbers["rows"]}
    assert list(found) == ["auto", "luring"]
    assert [(row["images"], row["attacked"]) for row in found.values()] == [
        (3, 4),
        (3, 5),
    ]
    auto, luring = found.values()
    assert (auto["dr"], auto["adq"]) == pytest.approx((1 / 3, 1 / 3))
    assert (luring["dr"], luring["adq"]) == pytest.approx((2 / 3, 1 / 3))


def test_a_radius_that_not_all_variants_have_is_left_out_and_told() -> None:
    result = figure_4("mnist", pd.concat([BOTH, LURING.assign(eps=0.4)]))
    assert {row["eps"] for row in result.numbers["rows"]} == {0.3}
    assert "(FGSM 0.4)" in result.text
    with pytest.raises(ValueError, match="all of Auto, Luring at one radius"):
        figure_4("mnist", pd.concat([AUTO, LURING.assign(eps=0.4)]))


def test_where_no_image_fools_all_there_is_no_rate() -> None:
    frame = pd.concat([rows("auto", [1], [0], [0]), rows("luring", [1], [1], [0])])
    found = figure_4("mnist", frame).numbers["rows"]
    assert [(row["dr"], row["adq"]) for row in found] == [(None, None)] * 2


def test_figure_5_has_the_changes_of_images_that_fool_their_own_model() -> None:
    pgd = BOTH.assign(attack="PGD")
    result = figure_5("mnist", pd.concat([BOTH.assign(l0=1), pgd]))
    found = {row["variant"]: row for row in result.numbers["rows"]}
    assert {name: (row["images"], row["median"]) for name, row in found.items()} == {
        "auto": (3, 7.0),
        "luring": (5, 9.0),
    }
    with pytest.raises(ValueError, match="--attacks=FGSM,PGD,MIM,MIML2"):
        figure_5("mnist", BOTH)
