from typing import Any, ClassVar

import pytest

from keras_traps.attacks import (
    Attack,
    Batch,
    create,
    names,
    preset,
    register,
    registry,
)
from keras_traps.attacks.base import Kind, Perturbed, TargetRule

UNTARGETED = (
    "FGSM",
    "RFGSM",
    "BIM",
    "PGD",
    "UMIFGSM",
    "UAP",
    "DeepFool",
    "BPDA",
    "SPSA",
    "OM",
)


TARGETED = ("LLC", "RLLC", "ILLC", "TMIFGSM", "JSMA", "BLB", "CW2", "EAD")


TABLE_I = (
    *("FGSM", "RFGSM", "BIM", "PGD", "UMIFGSM", "UAP", "DeepFool", "OM", "BPDA"),
    *("SPSA", "LLC", "RLLC", "ILLC", "TMIFGSM", "JSMA", "BLB", "CW2", "EAD"),
)


TRANSFER = ("MIM", "MIML2", "DIM", "MIM-TI", "DIM-TI")


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
    order = [name for name in names() if name in TABLE_I + TRANSFER]
    assert order == [name for name in TABLE_I + TRANSFER if name in names()]
    assert set(UNTARGETED + TARGETED + TRANSFER) <= set(order)


def test_an_attack_is_what_its_name_says() -> None:
    for attack in preset("table7_mnist"):
        assert attack.kind == ("UA" if attack.name in UNTARGETED else "TA")
        assert attack.targeted == (attack.name in TARGETED)


def test_targets_are_chosen_as_deepsec_does() -> None:
    rules: dict[str, TargetRule] = {
        "LLC": "least_likely",
        "RLLC": "least_likely",
        "ILLC": "least_likely",
        "TMIFGSM": "random",
        "JSMA": "random",
        "BLB": "random",
        "CW2": "random",
        "EAD": "random",
    }
    for attack in preset("table7_mnist"):
        assert attack.target_rule == rules.get(attack.name, "none")


def test_an_unknown_attack_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"FGSM, RFGSM.*TMIFGSM.*DIM-TI.*name='fgsm'"):
        create("fgsm", eps=0.1)


@pytest.mark.parametrize("settings", [{}, {"eps": 0.1, "epsilon": 0.2}])
def test_a_missing_or_unknown_setting_is_an_error(settings: dict[str, float]) -> None:
    with pytest.raises(TypeError, match="eps"):
        create("FGSM", **settings)


@pytest.mark.usefixtures("_own_registry")
def test_an_attack_of_ones_own_is_made_by_its_name() -> None:
    assert register(Nothing) is Nothing
    assert names()[-1] == "Nothing"
    assert isinstance(create("Nothing"), Nothing)


@pytest.mark.usefixtures("_own_registry")
def test_a_name_is_not_given_twice() -> None:
    register(Nothing)
    with pytest.raises(ValueError, match="an attack named 'Nothing' already"):
        register(Nothing)


class Nameless(Nothing):
    name = None  # type: ignore[assignment]


class Unkind(Nothing):
    kind = "UNTARGETED"  # type: ignore[assignment]


@pytest.mark.parametrize(
    "thing", [Attack, Nameless, Unkind, Nothing(), "FGSM"], ids=lambda thing: str(thing)
)
def test_what_is_no_attack_is_not_registered(thing: Any) -> None:
    with pytest.raises(TypeError, match=r"argument `attack`.*concrete subclass"):
        register(thing)
