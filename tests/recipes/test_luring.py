"""Facts about attacks on what was trained, and about the tables."""

import json
import shutil
from pathlib import Path
from typing import Any

import luring
import luring_attacks
import pytest
from command_line import CommandLineError

from keras_traps.evaluation import metrics

# Few images and steps; the radius is large, so that something succeeds.
FEW = ("--num_examples=9", "--chunk_size=4", "--nb_iter=2", "--eps=0.5")
VARIANTS = ("auto", "luring")


def run(command: str, workdir: Path, *arguments: str) -> None:
    luring.main([command, f"--workdir={workdir}", *arguments])


def tables(workdir: Path) -> dict[str, Any]:
    run("table", workdir)
    content: dict[str, Any] = json.loads((workdir / "tables/luring.json").read_text())
    return content


def cells(content: dict[str, Any]) -> dict[tuple[Any, ...], Any]:
    found = {}
    for cell in content["cells"]:
        run = cell["run"]
        place = (run["about"]["threat"], run["about"]["variant"], run["attack"])
        found[(*place, run["eps"])] = cell["rates"]
    return found


@pytest.fixture(scope="module")
def attacked(lured: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    workdir = Path(shutil.copytree(lured, tmp_path_factory.mktemp("attacked") / "run"))
    run("attack", workdir, "--attacks=FGSM,PGD,MIM-TI", *FEW)
    return workdir


def test_the_tables_hold_every_cell_and_where_it_comes_from(attacked: Path) -> None:
    content = tables(attacked)
    assert set(cells(content)) == {
        ("luring", variant, attack, 0.5)
        for variant in VARIANTS
        for attack in ("FGSM", "PGD", "MIM-TI")
    }
    for rates in cells(content).values():
        assert {rates[name]["total"] for name in ("ac_mop", "ac_m", "dac")} == {9}
        assert rates["dac"]["count"] >= rates["ac_m"]["count"]
    clean = {row["variant"]: row for row in content["clean"]}
    assert set(clean) == {"target", "surrogate", *VARIANTS}
    for name, row in clean.items():
        facts = json.loads((attacked / f"{name}.json").read_text())
        assert row["test"]["value"] == pytest.approx(facts["test"])
        assert row["facts"]["model"] == facts["model"]
    assert "<table" in (attacked / "tables/luring.html").read_text()


def test_attackers_who_know_more_are_run_too(attacked: Path, tmp_path: Path) -> None:
    workdir = Path(shutil.copytree(attacked, tmp_path / "run"))
    settings = ("--variant=luring", "--attacks=FGSM", "--resume", *FEW)
    for threat in ("whitebox", "surrogate", "exchanged"):
        run("attack", workdir, f"--threat={threat}", *settings)
    found = cells(tables(workdir))
    fgsm = {
        place[0]: rates["ac_m"]
        for place, rates in found.items()
        if place[1:3] == ("luring", "FGSM")
    }
    # Nothing hurts M as much as its own gradient.
    counts = {threat: rate["count"] for threat, rate in fgsm.items()}
    assert counts["whitebox"] == min(counts.values()) < 9
    # Of nine images the last one has no other to change places with.
    totals = {threat: rate["total"] for threat, rate in fgsm.items()}
    assert totals == {"luring": 9, "whitebox": 9, "surrogate": 9, "exchanged": 8}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("threat", "flags"),
    [
        ("luring", ("--attacks=DIM", "--no_sweep")),
        ("identity", ()),
        ("softened", ("--attacks=FGSM", "--softness=1,64")),
    ],
)
def test_an_attacker_may_choose_how_the_gradient_goes(
    threat: str, flags: tuple[str, ...], workdir: Path
) -> None:
    run("attack", workdir, f"--threat={threat}", *flags, "--variant=luring", *FEW)
    ((place, rates),) = cells(tables(workdir)).items()
    assert place[0] == threat
    assert rates["ac_m"]["total"] == 9


def test_an_attack_that_is_interrupted_ends_with_the_same_numbers(
    attacked: Path, workdir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[int] = []
    make = metrics.make_frame

    def interrupted(*arguments: Any) -> Any:
        calls.append(1)
        if len(calls) == 1:
            raise KeyboardInterrupt
        return make(*arguments)

    monkeypatch.setattr(luring_attacks, "make_frame", interrupted)
    command = ("--attacks=FGSM,PGD", *FEW, "--variant=luring", "--resume")
    with pytest.raises(KeyboardInterrupt):
        run("attack", workdir, *command)
    run("attack", workdir, *command)
    whole = cells(tables(attacked))
    for place, rates in cells(tables(workdir)).items():
        assert rates == whole[place]


def test_what_is_recorded_is_not_written_over_unasked(attacked: Path) -> None:
    with pytest.raises(CommandLineError, match="--resume"):
        run("attack", attacked, "--attacks=FGSM", *FEW)
    with pytest.raises(CommandLineError, match="seed differ"):
        run("attack", attacked, "--seed=5", "--resume", *FEW)


def test_numbers_of_a_model_that_was_trained_again_are_refused(
    attacked: Path, tmp_path: Path
) -> None:
    workdir = Path(shutil.copytree(attacked, tmp_path / "run"))
    facts = json.loads((workdir / "auto.json").read_text())
    (workdir / "auto.json").write_text(json.dumps({**facts, "model": "another"}))
    with pytest.raises(CommandLineError, match=r"auto.* other weights \(variant\)"):
        run("table", workdir)


def test_models_that_do_not_belong_together_are_refused(workdir: Path) -> None:
    shutil.copy(workdir / "auto.keras", workdir / "luring.keras")
    with pytest.raises(CommandLineError, match=r"luring\.keras has other weights than"):
        run("attack", workdir, "--attacks=FGSM", "--variant=luring")
    shutil.copy(workdir / "surrogate.keras", workdir / "target.keras")
    with pytest.raises(CommandLineError, match="trained before another M"):
        run("attack", workdir, "--attacks=FGSM", *FEW)


def test_tables_need_no_attack(workdir: Path) -> None:
    assert tables(workdir)["cells"] == []


@pytest.mark.parametrize(
    ("command", "arguments", "expected"),
    [
        ("attack", ("--steps=3",), "unrecognized arguments: --steps=3"),
        ("table", ("--variant=ce",), "train it by --variant=ce"),
        ("attack", ("--variant=target",), "--variant: expected one of stack"),
        ("attack", ("--attacks=CW2",), "MIM-TI, DIM-TI. Received: CW2"),
        ("attack", ("--threat=spy",), "--threat: expected one of luring, whitebox"),
        ("attack", ("--softness=0.5",), "--softness: expected a number of at least 1"),
        ("attack", ("--threat=identity", "--attacks=MIM"), "PGD"),
        (
            "attack",
            ("--threat=exchanged", "--num_examples=1", "--variant=auto"),
            "needs two images that M and M∘P are right on, and there is one of auto",
        ),
    ],
)
def test_a_wrong_command_line_is_told(
    command: str, arguments: tuple[str, ...], expected: str, lured: Path
) -> None:
    with pytest.raises(CommandLineError, match=expected):
        run(command, lured, *arguments)


def test_a_folder_without_models_is_told(tmp_path: Path) -> None:
    for command in ("attack", "table"):
        with pytest.raises(CommandLineError, match="train it by --variant=stack"):
            run(command, tmp_path / "none")
