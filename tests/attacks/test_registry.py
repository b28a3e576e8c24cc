import math
from typing import Any, ClassVar

import pytest

from keras_traps.attacks import (
    PRESET_NOTES,
    PRESETS,
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

UNBOUNDED: dict[str, dict[str, Any]] = {
    "DeepFool": {"max_iter": 50, "overshoot": 0.02, "nb_candidate": None},
    "JSMA": {"theta": 1.0, "gamma": 0.1, "saliency": "probabilities"},
}
# What the table says of the searches over c; the rest are defaults.
SEARCHES: dict[str, dict[str, Any]] = {
    "OM": {"noise_count": 20, "binary_search_steps": 4},
    "BLB": {
        "binary_search_steps": 5,
        "max_iterations": 1000,
        "initial_const": 0.01,
    },
    "CW2": {
        "learning_rate": 0.02,
        "binary_search_steps": 10,
        "max_iterations": 10_000,
        "initial_const": 0.001,
    },
    "EAD": {
        "learning_rate": 0.02,
        "binary_search_steps": 10,
        "max_iterations": 10_000,
        "beta": 0.001,
    },
}
# What Table VII lacks is as Table VIII has it.
TABLE_VIII: dict[str, dict[str, Any]] = {
    "BPDA": {
        "eps": 0.3,
        "eps_iter": 0.04,
        "nb_iter": 100,
        "through": (),
        "abort_early": False,
    },
    "SPSA": {
        "eps": 0.3,
        "nb_iter": 500,
        "learning_rate": 0.1,
        "delta": 0.01,
        "spsa_samples": 128,
        "spsa_iters": 1,
        "early_stop_loss_threshold": None,
    },
}


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


@pytest.mark.parametrize(
    ("name", "eps", "eps_iter"),
    [
        ("table7_mnist", 0.3, 0.05),
        ("table7_cifar10", 0.1, 0.01),
    ],
)
def test_presets_of_table_seven(name: str, eps: float, eps_iter: float) -> None:
    attacks = preset(name)

    given = [attack.name for attack in attacks]
    assert given == [attack for attack in TABLE_I if attack in given]
    assert {*UNTARGETED, *TARGETED} <= set(given)
    for attack in attacks:
        settings = attack.settings()
        if attack.name in UNBOUNDED:
            assert settings == UNBOUNDED[attack.name]
            continue
        if attack.name in SEARCHES:
            assert settings == {**settings, **SEARCHES[attack.name]}
            continue
        if attack.name in TABLE_VIII:
            assert settings == {**TABLE_VIII[attack.name], "eps": eps}
            continue
        # The table gives RFGSM's and RLLC's two halves of the ball, 0.15 and 0.05.
        assert attack.linf_bound == settings["eps"] == eps
        if attack.name == "UAP":
            # A tenth of the training set.
            rate, images = (0.95, 5000) if "cifar10" in name else (0.3, 6000)
            assert settings["fooling_rate"] == rate
            assert settings["nb_images"] == images
            # The published algorithm takes one at a time.
            assert settings["nb_at_once"] == 1
            continue
        if attack.name in ("RFGSM", "RLLC"):
            assert settings["alpha"] == pytest.approx(eps / 2)
        elif attack.name not in ("FGSM", "LLC"):
            assert settings["eps_iter"] == eps_iter
            assert settings["nb_iter"] == 15
        if attack.name.endswith("MIFGSM"):
            assert settings["decay_factor"] == 1.0


@pytest.mark.parametrize(
    ("name", "whole_name"),
    [
        ("table7_mnist_cpu", "table7_mnist"),
        ("table7_cifar10_cpu", "table7_cifar10"),
        ("digits", "table7_mnist"),
    ],
)
def test_the_presets_for_a_small_machine_shorten_the_dear_attacks_alone(
    name: str, whole_name: str
) -> None:
    whole = {attack.name: attack.settings() for attack in preset(whole_name)}
    short = {attack.name: attack.settings() for attack in preset(name)}
    assert list(short) == list(whole)
    changed = [attack for attack in whole if short[attack] != whole[attack]]
    assert set(changed) <= {"OM", "SPSA", "BLB", "CW2", "EAD", "UAP"}
    for attack in changed:
        assert f"{attack}: " in PRESET_NOTES[name]
    for attack in ("OM", "SPSA", "BLB", "CW2", "EAD"):
        assert gradients(short[attack]) < gradients(whole[attack])
    assert short["UAP"]["nb_at_once"] > whole["UAP"]["nb_at_once"] == 1
    assert short["UAP"]["max_iter"] <= whole["UAP"]["max_iter"]


def gradients(settings: dict[str, Any]) -> int:
    """Returns at how many points an attack looks at most, up to a factor."""
    names = (
        "nb_iter",
        "spsa_samples",
        "max_iterations",
        "binary_search_steps",
        "noise_count",
    )
    return math.prod(int(settings[name]) for name in names if name in settings)


def test_presets_of_table_eight() -> None:
    settings = {attack.name: attack.settings() for attack in preset("table8")}
    assert settings == {
        "FGSM": {"eps": 0.3},
        "PGD": {"eps": 0.3, "eps_iter": 0.04, "nb_iter": 100, "abort_early": False},
        **TABLE_VIII,
    }


def test_table_eights_preset_for_a_small_machine_says_what_it_changes() -> None:
    whole = {attack.name: attack.settings() for attack in preset("table8")}
    short = {attack.name: attack.settings() for attack in preset("table8_cpu")}
    assert list(short) == list(whole)
    for attack in ("PGD", "BPDA"):
        assert short[attack] == {**whole[attack], "abort_early": True}
    assert short["SPSA"]["nb_iter"] == 100 < whole["SPSA"]["nb_iter"]
    for name in whole:
        assert (short[name] != whole[name]) == (name in PRESET_NOTES["table8_cpu"])


def test_a_part_of_a_preset_keeps_the_order_that_was_asked_for() -> None:
    chosen = preset("table7_cifar10", ["PGD", "FGSM"])
    assert [attack.name for attack in chosen] == ["PGD", "FGSM"]
    assert chosen[0].settings() == {
        "eps": 0.1,
        "eps_iter": 0.01,
        "nb_iter": 15,
        "abort_early": False,
    }


def test_a_difference_to_the_paper_is_noted() -> None:
    by_name = {attack.name: attack.note for attack in preset("digits")}
    for name, note in by_name.items():
        assert ("DEEPSEC does not" in note) == (name in ("UMIFGSM", "TMIFGSM"))


def test_an_unknown_attack_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"FGSM, RFGSM.*TMIFGSM.*DIM-TI.*name='fgsm'"):
        create("fgsm", eps=0.1)


def test_an_unknown_preset_is_refused_with_the_known_ones() -> None:
    expected = f"Expected one of {', '.join(PRESETS)}. Received: name='table9'"
    with pytest.raises(ValueError, match=expected):
        preset("table9")


def test_an_attack_that_a_preset_lacks_is_named() -> None:
    expected = r"'table8' has FGSM, PGD,.*SPSA. Received: BIM, LLC"
    with pytest.raises(ValueError, match=expected):
        preset("table8", ["FGSM", "BIM", "LLC"])


def test_a_preset_is_not_asked_for_no_attack() -> None:
    with pytest.raises(ValueError, match=r"at least one of FGSM.*attacks=\[\]"):
        preset("table7_mnist", [])


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
