from typing import Any, ClassVar

import pytest

from keras_traps.attacks import (
    Attack,
    Batch,
    Kind,
    Perturbed,
    create,
    names,
    preset,
    register,
    registry,
)

LEAST_LIKELY = ("LLC", "RLLC", "ILLC")
RANDOM = ("TMIFGSM", "JSMA", "BLB", "CW2", "EAD")


class Nothing(Attack):
    """An attack of a user's own."""

    name: ClassVar[str] = "Nothing"
    kind: ClassVar[Kind] = "UA"

    def perturb(self, batch: Batch) -> Perturbed:
        return Perturbed(batch.images, 0)


@pytest.fixture
def _own_registry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_ATTACKS", dict(registry._ATTACKS))


def test_names_are_in_the_order_of_the_papers_tables() -> None:
    listed = list(names())
    for table in ("table7_mnist", "luring_mnist"):
        order = [
            attack.name for attack in preset(table) if attack.name not in "FGSM PGD"
        ]
        assert sorted(order, key=listed.index) == order


def test_kinds_and_targets_are_those_of_the_paper() -> None:
    for attack in preset("table7_mnist"):
        rule = "random" if attack.name in RANDOM else "none"
        rule = "least_likely" if attack.name in LEAST_LIKELY else rule
        assert attack.target_rule == rule
        assert attack.targeted == (rule != "none")
        assert attack.kind == ("TA" if attack.targeted else "UA")
        assert ("DEEPSEC does not" in attack.note) == (
            attack.name in ("UMIFGSM", "TMIFGSM")
        )


def test_searches_give_back_the_clean_image() -> None:
    searching = {name for name, attack in registry._ATTACKS.items() if attack.searches}
    assert searching == {
        *("DeepFool", "OM", "JSMA", "BLB", "CW2", "EAD", "UCW2", "cleverhans/CW2")
    }


def test_an_unknown_attack_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"FGSM, RFGSM.*cleverhans/PGD.*name='fgsm'"):
        create("fgsm", eps=0.1)


@pytest.mark.parametrize("settings", [{}, {"eps": 0.1, "epsilon": 0.2}])
def test_a_missing_or_unknown_setting_is_an_error(settings: dict[str, float]) -> None:
    with pytest.raises(TypeError, match="eps"):
        create("FGSM", **settings)


@pytest.mark.usefixtures("_own_registry")
def test_an_attack_of_ones_own_is_made_by_its_name_which_is_not_given_twice() -> None:
    assert register(Nothing) is Nothing
    assert names()[-1] == "Nothing"
    assert isinstance(create("Nothing"), Nothing)
    with pytest.raises(ValueError, match="an attack named 'Nothing' already"):
        register(Nothing)


@pytest.mark.parametrize(
    "thing",
    [
        Attack,
        type("Nameless", (Nothing,), {"name": None}),
        type("Unkind", (Nothing,), {"kind": "UNTARGETED"}),
        type("Lost", (Nothing,), {"losses": ("dlr",)}),
        Nothing(),
        "FGSM",
    ],
    ids=str,
)
def test_what_is_no_attack_is_not_registered(thing: Any) -> None:
    with pytest.raises(TypeError, match=r"argument `attack`.*concrete subclass"):
        register(thing)
