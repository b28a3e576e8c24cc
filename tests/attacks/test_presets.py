import dataclasses
import math
from typing import Any

import pytest

from keras_traps.attacks import (
    LURING_EPS,
    LURING_SWEEPS,
    PRESET_NOTES,
    PRESETS,
    preset,
)
from keras_traps.attacks.presets import LURING

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


NB_ITER = {"luring_mnist": 1000, "luring_svhn": 500, "luring_cifar10": 100}


DIM_TI = {"luring_mnist": 1.0, "luring_svhn": 1.0, "luring_cifar10": 0.6}


RADIUS = {"luring_mnist": 30.0, "luring_svhn": 1.0, "luring_cifar10": 1.0}


@pytest.mark.parametrize("name", LURING_EPS)
def test_the_presets_are_the_papers(name: str) -> None:
    attacks = {attack.name: attack.settings() for attack in preset(name)}

    assert list(attacks) == ["FGSM", "PGD", "MIM", "MIML2", "DIM", "MIM-TI", "DIM-TI"]
    for attack, settings in attacks.items():
        assert settings["eps"] == LURING_EPS[name][0]
        if attack != "FGSM":
            assert settings["eps_iter"] == 0.01
        if attack in ("PGD", "MIML2"):
            assert settings["nb_iter"] == 1000
        elif attack != "FGSM":
            assert settings["nb_iter"] == NB_ITER[name]
            assert settings["decay_factor"] == 1.0
    assert attacks["MIML2"]["radius"] == RADIUS[name]
    assert attacks["DIM-TI"]["prob"] == DIM_TI[name]


@pytest.mark.parametrize("name", LURING)
def test_another_radius_is_that_of_all_of_them(name: str) -> None:
    for eps in LURING_EPS[name.removesuffix("_cpu")]:
        for attack in preset(name, eps=eps):
            assert attack.linf_bound == attack.settings()["eps"] == eps


def test_a_radius_that_an_attack_refuses_is_refused() -> None:
    with pytest.raises(ValueError, match=r"`eps`.*above 0. Received: eps=0"):
        preset("luring_mnist", eps=0)
    with pytest.raises(ValueError, match=r"`eps_iter`. Expected at most eps=0.005"):
        preset("luring_mnist", ["MIM"], eps=0.005)


def test_a_preset_with_one_radius_takes_no_other() -> None:
    with pytest.raises(ValueError, match=r"'table8', which has one radius.*eps=0.1"):
        preset("table8", eps=0.1)


def test_a_sweep_holds_the_presets_settings_and_none_twice() -> None:
    attacks = {attack.name: attack for attack in preset("luring_cifar10")}
    assert set(LURING_SWEEPS) == {"DIM", "MIM-TI", "DIM-TI"}
    for name, changes in LURING_SWEEPS.items():
        swept = [dataclasses.replace(attacks[name], **change) for change in changes]
        assert len(set(swept)) == len(changes)
        # What the preset has is one of them.
        assert attacks[name] in swept


def test_the_sweeps_are_the_papers() -> None:
    assert [change["prob"] for change in LURING_SWEEPS["DIM"]] == pytest.approx(
        [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0]
    )
    for name in ("MIM-TI", "DIM-TI"):
        kernels = [tuple(change.values()) for change in LURING_SWEEPS[name]]
        assert kernels == [(1, 1), (3, 3), (5, 3), (10, 3), (15, 3)]


@pytest.mark.parametrize("name", LURING_EPS)
def test_a_small_machines_preset_makes_fewer_steps_and_says_so(name: str) -> None:
    paper = {attack.name: attack.settings() for attack in preset(name)}
    assert name not in PRESET_NOTES
    for attack in preset(f"{name}_cpu"):
        settings, theirs = attack.settings(), paper[attack.name]
        changed = {key for key in settings if settings[key] != theirs[key]}
        if attack.name == "FGSM":
            assert not changed
            continue
        assert settings["nb_iter"] <= theirs["nb_iter"] / 5
        assert f"{settings['nb_iter']} steps" in PRESET_NOTES[f"{name}_cpu"]
        assert not settings.get("abort_early")
        longer = {"eps_iter"} if attack.name == "MIML2" else set()
        assert changed - {"nb_iter"} == longer
        # They can still reach the edge of their ball.
        if attack.name != "MIML2":
            assert settings["nb_iter"] * settings["eps_iter"] >= LURING_EPS[name][-1]
        elif name != "luring_mnist":
            assert settings["nb_iter"] * settings["eps_iter"] >= settings["radius"]
