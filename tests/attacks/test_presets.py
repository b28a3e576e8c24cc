import dataclasses
from typing import Any

import pytest

from keras_traps.attacks import LURING_EPS, LURING_SWEEPS, PRESET_NOTES, PRESETS, preset

TABLE_VII = [
    *("FGSM", "RFGSM", "BIM", "PGD", "UMIFGSM", "UAP", "DeepFool", "OM", "BPDA"),
    *("SPSA", "LLC", "RLLC", "ILLC", "TMIFGSM", "JSMA", "BLB", "CW2", "EAD"),
]


def by_name(name: str) -> dict[str, dict[str, Any]]:
    return {attack.name: attack.settings() for attack in preset(name)}


@pytest.mark.parametrize(
    ("name", "eps", "eps_iter", "uap"),
    [
        ("table7_mnist", 0.3, 0.05, {"fooling_rate": 0.3, "nb_images": 6000}),
        ("table7_cifar10", 0.1, 0.01, {"fooling_rate": 0.95, "nb_images": 5000}),
    ],
)
def test_presets_of_table_seven(
    name: str, eps: float, eps_iter: float, uap: dict[str, float]
) -> None:
    attacks = by_name(name)
    assert list(attacks) == TABLE_VII
    assert all(settings.get("eps", eps) == eps for settings in attacks.values())
    for attack in ("BIM", "PGD", "UMIFGSM", "ILLC", "TMIFGSM"):
        expected = {"eps": eps, "eps_iter": eps_iter, "nb_iter": 15}
        assert attacks[attack].items() >= expected.items()
    # The table gives RFGSM's and RLLC's two halves of the ball.
    assert attacks["RFGSM"]["alpha"] == attacks["RLLC"]["alpha"] == eps / 2
    # The published algorithm takes one image at a time.
    assert attacks["UAP"].items() >= {**uap, "nb_at_once": 1}.items()
    assert attacks["DeepFool"]["max_iter"] == 50
    assert attacks["JSMA"].items() >= {"theta": 1.0, "gamma": 0.1}.items()
    searches = {"binary_search_steps": 10, "max_iterations": 10_000}
    for attack in ("CW2", "EAD"):
        assert attacks[attack].items() >= {**searches, "learning_rate": 0.02}.items()
    assert attacks["EAD"]["beta"] == 0.001
    assert attacks["BLB"]["initial_const"] == 0.01
    assert attacks["OM"]["noise_count"] == 20


def test_presets_of_table_eight() -> None:
    attacks = by_name("table8")
    assert list(attacks) == ["FGSM", "PGD", "BPDA", "SPSA"]
    for attack in ("PGD", "BPDA"):
        expected = {"eps": 0.3, "eps_iter": 0.04, "nb_iter": 100}
        assert attacks[attack].items() >= expected.items()
    expected = {"eps": 0.3, "nb_iter": 500, "learning_rate": 0.1, "spsa_samples": 128}
    assert attacks["SPSA"].items() >= expected.items()


def test_a_small_machines_preset_makes_fewer_steps_and_says_so() -> None:
    for name, note in PRESET_NOTES.items():
        whole = by_name(name.removesuffix("_cpu").replace("digits", "table7_mnist"))
        assert list(by_name(name)) == list(whole)
        for attack, settings in by_name(name).items():
            assert (f"{attack} has " in note) == (settings != whole[attack])
            for key in ("nb_iter", "spsa_samples", "max_iterations", "noise_count"):
                assert settings.get(key, 0) <= whole[attack].get(key, 0)
    assert "SPSA has nb_iter=100 for 500" in PRESET_NOTES["table8_cpu"]


@pytest.mark.parametrize(
    ("name", "nb_iter", "radius", "prob"),
    [
        ("luring_mnist", 1000, 30.0, 1.0),
        ("luring_svhn", 500, 1.0, 1.0),
        ("luring_cifar10", 100, 1.0, 0.6),
    ],
)
def test_the_luring_papers_presets(
    name: str, nb_iter: int, radius: float, prob: float
) -> None:
    attacks = by_name(name)
    assert list(attacks) == ["FGSM", "PGD", "MIM", "MIML2", "DIM", "MIM-TI", "DIM-TI"]
    assert {settings["eps"] for settings in attacks.values()} == {LURING_EPS[name][0]}
    for attack in ("MIM", "DIM", "MIM-TI", "DIM-TI"):
        expected = {"eps_iter": 0.01, "nb_iter": nb_iter, "decay_factor": 1.0}
        assert attacks[attack].items() >= expected.items()
    assert attacks["PGD"]["nb_iter"] == attacks["MIML2"]["nb_iter"] == 1000
    assert (attacks["MIML2"]["radius"], attacks["DIM-TI"]["prob"]) == (radius, prob)
    for which in (name, f"{name}_cpu"):
        for eps in LURING_EPS[name]:
            assert all(attack.linf_bound == eps for attack in preset(which, eps=eps))


@pytest.mark.parametrize(
    ("name", "eps"), [("gradient_free", 8 / 255), ("gradient_free_mnist", 0.3)]
)
def test_presets_without_gradients(name: str, eps: float) -> None:
    attacks = preset(name)
    names = ["Noise", "NES", "Square", "RayS", "HopSkipJump"]
    assert [attack.name for attack in attacks] == names
    assert not any(attack.needs_gradient for attack in attacks)
    assert [attack.linf_bound for attack in attacks] == [*[eps] * 4, None]
    for attack in attacks:
        settings = attack.settings()
        assert 500 in (settings.get("nb_queries"), settings.get("nb_restarts"))
    others = preset(name, eps=0.1)
    assert [attack.linf_bound for attack in others] == [*[0.1] * 4, None]


@pytest.mark.parametrize(
    ("name", "eps", "norm"),
    [
        ("autoattack", 8 / 255, "Linf"),
        ("autoattack_mnist", 0.3, "Linf"),
        ("autoattack_l2", 0.5, "L2"),
    ],
)
def test_the_presets_of_autoattack(name: str, eps: float, norm: str) -> None:
    attacks = by_name(name)
    assert list(attacks) == ["APGD", "APGD-T", "FAB", "Square"]
    assert all(
        one.items() >= {"eps": eps, "norm": norm}.items() for one in attacks.values()
    )
    ascent = {"nb_iter": 100, "nb_restarts": 1, "rho": 0.75}
    assert attacks["APGD"].items() >= ascent.items()
    assert attacks["APGD-T"].items() >= {**ascent, "nb_targets": 9}.items()
    boundary = {"nb_iter": 100, "nb_targets": 9, "alpha_max": 0.1, "eta": 1.05}
    assert attacks["FAB"].items() >= {**boundary, "beta": 0.9}.items()
    search = {"nb_queries": 5000, "p_init": 0.8, "resc_schedule": False}
    assert attacks["Square"].items() >= search.items()
    others = preset(name, eps=0.1)
    assert {attack.linf_bound or attack.l2_bound for attack in others} == {0.1}


def test_a_sweep_holds_the_presets_settings_and_none_twice() -> None:
    attacks = {attack.name: attack for attack in preset("luring_cifar10")}
    assert list(LURING_SWEEPS) == ["DIM", "MIM-TI", "DIM-TI"]
    for name, changes in LURING_SWEEPS.items():
        swept = [dataclasses.replace(attacks[name], **change) for change in changes]
        assert len(set(swept)) == len(changes)
        assert attacks[name] in swept
    tenths = [change["prob"] for change in LURING_SWEEPS["DIM"]]
    assert tenths == pytest.approx([n / 10 for n in range(1, 11)])
    kernels = [tuple(change.values()) for change in LURING_SWEEPS["MIM-TI"]]
    assert kernels == [(1, 1), (3, 3), (5, 3), (10, 3), (15, 3)]


@pytest.mark.parametrize(
    ("name", "attacks", "eps", "expected"),
    [
        ("table9", None, None, rf"{', '.join(PRESETS)}. Received: name='table9'"),
        ("table8", ["FGSM", "BIM"], None, r"'table8' has FGSM, PGD.*Received: BIM"),
        ("table7_mnist", [], None, r"at least one of FGSM.*attacks=\[\]"),
        ("table8", None, 0.1, r"'table8', which has one radius.*eps=0.1"),
        ("luring_mnist", None, 0, r"`eps`.*above 0. Received: eps=0"),
        ("luring_mnist", ["MIM"], 0.005, r"`eps_iter`. Expected at most eps=0.005"),
    ],
)
def test_what_a_preset_does_not_have_is_told(
    name: str, attacks: list[str] | None, eps: float | None, expected: str
) -> None:
    with pytest.raises(ValueError, match=expected):
        preset(name, attacks, eps=eps)


def test_a_part_of_a_preset_keeps_the_order_that_was_asked_for() -> None:
    chosen = preset("table7_cifar10", ["PGD", "FGSM"])
    assert [attack.name for attack in chosen] == ["PGD", "FGSM"]


@pytest.mark.parametrize("eps", [8 / 255, 0.3])
def test_the_steps_of_the_leaderboard_reach_across_any_ball(eps: float) -> None:
    assert all(attack.linf_bound == eps for attack in preset("leaderboard", eps=eps))
    (pgd,) = preset("leaderboard", ["PGD"], eps=eps)
    assert pgd.settings()["eps_iter"] == pytest.approx(eps / 10)
