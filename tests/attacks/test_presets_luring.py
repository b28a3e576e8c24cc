import dataclasses

import pytest

from keras_traps.attacks import LURING_EPS, LURING_SWEEPS, PRESET_NOTES, preset
from keras_traps.attacks.presets_luring import LURING

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
