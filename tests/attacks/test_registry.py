import json
import re
from typing import Any, ClassVar

import numpy as np
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
from tests.attacks.calling import EVERY

LEAST_LIKELY = ("LLC", "RLLC", "ILLC")
RANDOM = ("TMIFGSM", "JSMA", "BLB", "CW2", "EAD")


class Nothing(Attack):
    """An attack of a user's own."""

    name: ClassVar[str] = "Nothing"
    kind: ClassVar[Kind] = "UA"

    def perturb(self, batch: Batch) -> Perturbed:
        return Perturbed(batch.images, 0)


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


def test_an_unknown_attack_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"FGSM, RFGSM.*cleverhans/PGD.*name='fgsm'"):
        create("fgsm", eps=0.1)


@pytest.mark.parametrize("settings", [{}, {"eps": 0.1, "epsilon": 0.2}])
def test_a_missing_or_unknown_setting_is_an_error(settings: dict[str, float]) -> None:
    with pytest.raises(TypeError, match="eps"):
        create("FGSM", **settings)


POSITIVE = [
    *(("FGSM", "eps"), ("BIM", "eps_iter"), ("MIML2", "radius"), ("MIM-TI", "nsig")),
    *(("JSMA", "theta"), ("JSMA", "gamma"), ("CW2", "initial_const")),
    *(("EAD", "learning_rate"), ("OM", "noise_mag"), ("SPSA", "delta")),
    *(("NES", "sigma"), ("NES", "eps_iter"), ("Square", "p_init"), ("RayS", "eps")),
    *(("APGD", "rho"), ("APGD-T", "eps"), ("FAB", "alpha_max"), ("FAB", "eta")),
    *(("cleverhans/PGD", "rand_minmax"), ("cleverhans/Madry", "rand_minmax")),
]
NOT_NEGATIVE = [
    *(("UMIFGSM", "decay_factor"), ("cleverhans/MIM", "decay_factor")),
    *(("DeepFool", "overshoot"), ("UCW2", "confidence"), ("EAD", "beta")),
]
COUNTS = [
    *(("PGD", "nb_iter"), ("DIM-TI", "kernlen"), ("DeepFool", "max_iter")),
    *(("BLB", "binary_search_steps"), ("BLB", "max_iterations"), ("OM", "noise_count")),
    *(("SPSA", "spsa_samples"), ("SPSA", "spsa_iters"), ("Noise", "nb_restarts")),
    *(("Noise", "block_size"), ("NES", "nes_samples"), ("RayS", "nb_queries")),
    *(("UAP", "nb_images"), ("UAP", "nb_at_once"), ("UAP", "deepfool_max_iter")),
    *(("APGD", "nb_iter"), ("APGD", "nb_restarts"), ("FAB", "nb_targets")),
]


@pytest.mark.parametrize(
    ("name", "setting", "value"),
    [
        *((*one, 0) for one in POSITIVE),
        *((*one, -0.1) for one in NOT_NEGATIVE),
        *((*one, 0) for one in COUNTS),
        *(("FGSM", "eps", value) for value in (float("inf"), "0.1", True)),
        *(("BIM", "nb_iter", value) for value in (1.5, "5", True)),
        *(("RFGSM", "alpha", value) for value in (0, 0.3, float("nan"))),
        *(("DIM", "prob", value) for value in (1.1, -0.1, float("nan"))),
        *(("UAP", "fooling_rate", value) for value in (0.0, 1.0)),
        *(("PGD", "abort_early", value) for value in ("no", 1)),
        ("BIM", "eps_iter", 0.31),
        ("MIML2", "eps_iter", 1.5),
        ("cleverhans/BIM", "eps_iter", 0.4),
        ("cleverhans/FGM", "norm", "L1"),
        ("cleverhans/FGM", "aim", True),
        ("JSMA", "theta", 1.5),
        ("DeepFool", "nb_candidate", 1),
        ("EAD", "decision_rule", "L2"),
        ("SPSA", "spsa_samples", 7),
        ("SPSA", "early_stop_loss_threshold", float("nan")),
        ("Noise", "noise_kind", "normal"),
        ("NES", "nes_samples", 5),
        ("NES", "eps_iter", 0.31),
        ("Square", "p_init", 1.5),
        ("HopSkipJump", "norm", "l2"),
        ("APGD", "rho", 1.5),
        ("FAB", "eps", 1.5),
        ("FAB", "beta", 1.1),
        ("Square", "resc_schedule", 1),
    ],
)
def test_a_setting_out_of_its_range_is_refused(
    name: str, setting: str, value: Any
) -> None:
    received = re.escape(f"Received: {setting}={value!r}")
    with pytest.raises(ValueError, match=rf"`{setting}`\. Expected .*{received}$"):
        create(name, **{**EVERY[name], setting: value})


def test_numpy_scalars_become_plain_data() -> None:
    given = {"eps": np.float32(0.25), "eps_iter": np.float64(0.1)}
    given |= {"nb_iter": np.int64(3), "abort_early": np.bool_(True)}
    settings = create("BIM", **given).settings()
    plain = {"eps": 0.25, "eps_iter": 0.1, "nb_iter": 3, "abort_early": True}
    assert json.loads(json.dumps(settings)) == plain


def test_an_attack_of_ones_own_is_made_by_its_name_which_is_not_given_twice(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(registry, "_ATTACKS", dict(registry._ATTACKS))
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
        type("Lost", (Nothing,), {"losses": ("hinge",)}),
        Nothing(),
        "FGSM",
    ],
    ids=str,
)
def test_what_is_no_attack_is_not_registered(thing: Any) -> None:
    with pytest.raises(TypeError, match=r"argument `attack`.*concrete subclass"):
        register(thing)
