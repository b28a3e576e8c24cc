"""Facts about attacks on what was trained, and about the tables."""

import json
import shutil
from pathlib import Path
from typing import Any

import luring
import pytest

from keras_traps.commands.command_line import CommandLineError

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
    run("attack", workdir, "--attacks=FGSM", *FEW)
    return workdir


@pytest.mark.slow
def test_the_tables_hold_every_cell_and_where_it_comes_from(attacked: Path) -> None:
    content = tables(attacked)
    assert set(cells(content)) == {
        ("luring", variant, "FGSM", 0.5) for variant in VARIANTS
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


@pytest.mark.slow
def test_attackers_who_know_more_are_run_too(attacked: Path, tmp_path: Path) -> None:
    workdir = Path(shutil.copytree(attacked, tmp_path / "run"))
    settings = ("--variant=luring", "--attacks=FGSM", "--resume", *FEW)
    for threat in ("whitebox", "surrogate", "exchanged"):
        run("attack", workdir, f"--threat={threat}", *settings)
    fgsm = {
        threat: rates["ac_m"]
        for (threat, variant, attack, _), rates in cells(tables(workdir)).items()
        if (variant, attack) == ("luring", "FGSM")
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
        ("luring", ("--attacks=MIM-TI", "--num_examples_sweep=4")),
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


@pytest.mark.slow
def test_what_does_not_belong_together_is_refused(
    attacked: Path, tmp_path: Path
) -> None:
    with pytest.raises(CommandLineError, match="--resume"):
        run("attack", attacked, "--attacks=FGSM", *FEW)
    workdir = Path(shutil.copytree(attacked, tmp_path / "run"))
    facts = json.loads((workdir / "auto.json").read_text())
    (workdir / "auto.json").write_text(json.dumps({**facts, "model": "another"}))
    with pytest.raises(CommandLineError, match=r"auto.* other weights \(variant\)"):
        run("table", workdir)
    with pytest.raises(CommandLineError, match=r"auto\.keras has other weights than"):
        run("attack", workdir, "--variant=auto", "--resume", *FEW)
    shutil.copy(workdir / "surrogate.keras", workdir / "target.keras")
    with pytest.raises(CommandLineError, match="trained before another M"):
        run("attack", workdir, "--variant=luring", "--resume", *FEW)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("--steps=3",), "unrecognized arguments: --steps=3"),
        (("--variant=ce",), "train it by --variant=ce"),
        (("--attacks=CW2",), "MIM-TI, DIM-TI. Received: CW2"),
        (("--threat=identity", "--attacks=MIM"), "PGD"),
        (
            ("--threat=exchanged", "--num_examples=1"),
            "exchange their changes",
        ),
    ],
)
def test_a_wrong_command_line_is_told(
    arguments: tuple[str, ...], expected: str, lured: Path
) -> None:
    with pytest.raises(CommandLineError, match=expected):
        run("attack", lured, *arguments)
