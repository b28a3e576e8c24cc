import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from absl import app, flags

from keras_traps._luring.uses import USED
from keras_traps.evaluation.luring.subjects import Subject
from recipes import luring
from tests.recipes.luring_runs import FEW, VARIANTS, cells, run, tables


@pytest.fixture(scope="module")
def attacked(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    workdir = Path(shutil.copytree(models, tmp_path_factory.mktemp("attacked") / "run"))
    run("attack", f"--workdir={workdir}", "--attacks=FGSM,PGD,MIM-TI", *FEW)
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
    assert {row["baseline"] for row in content["comparisons"]} == {"auto"}
    assert {row["cells"] for row in content["comparisons"]} == {2}
    assert {"test_data", "attacks", "versions", "command"} <= set(content["provenance"])


def test_the_report_says_where_luring_is_not_above(attacked: Path) -> None:
    content = tables(attacked)
    text = (attacked / "tables/luring.md").read_text()
    for row in content["comparisons"]:
        above = f"is above {row['baseline'].capitalize()} in {row['above']} of 2 cells"
        assert above in text
        assert len(row["missed"]) == 2 - row["above"]
    assert "5 settings on 9 images" in text
    assert "## Attackers that know more" not in text
    # The preset has a hundred steps, and FEW has two.
    assert "made it 2 steps" in text
    assert "<table" in (attacked / "tables/luring.html").read_text()


def test_other_attackers_get_a_table_of_their_own(workdir: Path) -> None:
    one = (f"--workdir={workdir}", "--attacks=FGSM", *FEW)
    run("attack", *one)
    more = (f"--workdir={workdir}", "--variant=luring", "--resume", *FEW)
    run("attack", "--threat=whitebox", "--attacks=FGSM", *more)
    run("attack", "--threat=surrogate", "--attacks=FGSM", *more)
    run("attack", "--threat=identity", *more)
    run("attack", "--threat=exchanged", "--attacks=FGSM", *more)
    found = cells(tables(workdir))
    place = ("luring", 0.5)
    keys = [
        ("luring", "FGSM"),
        ("whitebox", "FGSM"),
        ("surrogate", "FGSM"),
        ("identity", "BPDA"),
        ("exchanged", "FGSM"),
    ]
    rates = {key[0]: found[key[0], place[0], key[1], place[1]] for key in keys}
    # Nothing hurts M as much as its own gradient.
    ac_m = {threat: found["ac_m"]["count"] for threat, found in rates.items()}
    assert ac_m["whitebox"] == min(ac_m.values()) < 9
    # Of nine images the last one has no other to change places with.
    totals = {threat: found["ac_m"]["total"] for threat, found in rates.items()}
    assert totals == {**dict.fromkeys(ac_m, 9), "exchanged": 8}
    text = (workdir / "tables/luring.md").read_text()
    table = text[text.index("## Attackers that know more") :]
    for threat, attack in keys:
        assert f"| Luring | 0.5 | {threat} | {attack} |" in table
    # Whom no other attacker met is left out.
    assert "| Auto | 0.5 |" not in table


def test_who_has_m_goes_to_the_end_and_the_control_looks_for_nothing(
    workdir: Path,
) -> None:
    settings = (f"--workdir={workdir}", "--variant=luring", "--resume", *FEW)
    run("attack", "--threat=whitebox", "--attacks=PGD", *settings)
    run("attack", "--threat=exchanged", "--attacks=DIM", *settings)
    folder = workdir / "outcomes"
    found = json.loads((folder / "whitebox/luring/PGD_0.5.json").read_text())
    assert found["settings"]["abort_early"] is False
    found = json.loads((folder / "exchanged/luring/DIM_0.5.json").read_text())
    assert not found["trials"]


def test_who_softens_the_sigmoid_keeps_the_best_softness(workdir: Path) -> None:
    run(
        "attack",
        "--threat=softened",
        "--attacks=FGSM",
        "--softness=1",
        "--softness=64",
        f"--workdir={workdir}",
        *FEW,
    )
    for variant in VARIANTS:
        path = workdir / f"outcomes/softened/{variant}/FGSM_0.5.json"
        found = json.loads(path.read_text())
        tried = [trial["settings"]["softness"] for trial in found["trials"]]
        assert tried == [1, 64]
        assert found["settings"]["softness"] in tried
    run("table", f"--workdir={workdir}")
    assert "softness = " in (workdir / "tables/luring.md").read_text()


def test_a_run_that_is_killed_ends_with_the_same_numbers(
    attacked: Path, workdir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    attack, calls = Subject.run, []

    def killed(*arguments: Any, **named: Any) -> Any:
        calls.append(1)
        if len(calls) in (2, 5):
            raise KeyboardInterrupt
        return attack(*arguments, **named)

    monkeypatch.setattr(Subject, "run", killed)
    command = ["attack", f"--workdir={workdir}", "--attacks=FGSM", *FEW, "--resume"]
    command += ["--variant=luring", "--chunk_size=2"]
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            run(*command)
    run(*command)
    # Five pieces, and two that came to nothing.
    assert len(calls) == 7
    place = ("luring", "luring", "FGSM", 0.5)
    assert cells(tables(workdir))[place] == cells(tables(attacked))[place]


def test_what_is_recorded_is_not_written_over_unasked(attacked: Path) -> None:
    with pytest.raises(FileExistsError, match="--resume"):
        run("attack", f"--workdir={attacked}", "--attacks=FGSM", *FEW)
    with pytest.raises(ValueError, match="seed differ"):
        run("attack", f"--workdir={attacked}", "--seed=5", "--resume", *FEW)


def test_numbers_of_a_model_that_was_trained_again_are_refused(
    attacked: Path, tmp_path: Path
) -> None:
    workdir = Path(shutil.copytree(attacked, tmp_path / "run"))
    facts = json.loads((workdir / "auto.json").read_text())
    (workdir / "auto.json").write_text(json.dumps({**facts, "model": "another"}))
    with pytest.raises(ValueError, match=r"auto .* other weights \(variant\)"):
        run("table", f"--workdir={workdir}")


def test_a_variant_before_another_m_is_refused(workdir: Path) -> None:
    shutil.copy(workdir / "surrogate.keras", workdir / "target.keras")
    with pytest.raises(ValueError, match="trained before another M"):
        run("attack", f"--workdir={workdir}", "--attacks=FGSM", *FEW)


def test_tables_need_no_attack(workdir: Path) -> None:
    assert tables(workdir)["cells"] == []


def test_every_figure_is_drawn_with_its_numbers(attacked: Path) -> None:
    run("figure", f"--workdir={attacked}", "--num_examples=6")
    folder = attacked / "figures"
    for name in ("figure4", "figure5", "figure6", "directions"):
        stem = f"luring_{name}_digits"
        png = (folder / "figures" / f"{stem}.png").read_bytes()
        assert png.startswith(b"\x89PNG")
        content = json.loads((folder / f"{stem}.json").read_text())
        assert content["numbers"]["dataset"] == "digits"
        assert set(content["provenance"]["models"]) == set(VARIANTS)
    content = json.loads((folder / "luring_figure4_digits.json").read_text())
    assert {row["attack"] for row in content["numbers"]["rows"]} == {"FGSM", "PGD"}


def test_figures_of_attacks_say_how_those_were_run(workdir: Path) -> None:
    settings = (f"--workdir={workdir}", "--seed=5", "--attacks=FGSM,PGD,MIM")
    run("attack", *settings, *FEW)
    run("figure", f"--workdir={workdir}", "--figure=4", "--figure=5")
    folder = workdir / "figures"
    for name, told in (("figure4", True), ("figure5", False)):
        stem = f"luring_{name}_digits"
        origin = json.loads((folder / f"{stem}.json").read_text())["provenance"]
        assert origin["attack seed"] == [5]
        assert "seed" not in origin
        text = (folder / f"{stem}.md").read_text()
        assert "| PGD 0.5 | luring | Auto | eps = 0.5" in text
        assert ("| MIM 0.5 | luring | Auto |" in text) == told
        assert "made it 2 steps" in text


def test_different_numbers_of_images_are_told(workdir: Path) -> None:
    settings = (f"--workdir={workdir}", "--attacks=FGSM", *FEW, "--resume")
    run("attack", "--variant=auto", *settings)
    run("attack", "--variant=luring", *settings, "--num_examples=5")
    content = tables(workdir)
    assert [row["uneven"] for row in content["comparisons"]] == [
        [["FGSM", 0.5, 5, 9]]
    ] * 2
    text = (workdir / "tables/luring.md").read_text()
    assert "| Auto 9, Luring 5 |" in text
    assert "In 1 of them the two have different numbers of images;" in text
    (both,) = {row["paired"]["images"][0] for row in content["comparisons"]}
    assert 0 < both <= 5
    assert f"On the images that both met, {both} in a cell, it is above in" in text


@pytest.mark.parametrize(
    "arguments",
    [
        ("attack", "--steps=3"),
        ("attack", "--luring_weight=9"),
        ("table", "--nb_iter=3"),
        ("figure", "--eps=0.3"),
        ("train", "--num_examples=5"),
        ("pack", "--preset=paper"),
        ("--demo", "--workdir=w"),
    ],
)
def test_a_flag_of_another_sub_command_is_refused(arguments: tuple[str, ...]) -> None:
    flag = arguments[1].partition("=")[0]
    of = re.escape(arguments[0])
    with pytest.raises(app.UsageError, match=rf"^{flag} is not for {of}\.$"):
        run(*arguments)


def test_every_flag_is_of_some_sub_command() -> None:
    before = set(flags.FlagValues())
    defined = set(luring.define_flags(flags.FlagValues())) - before
    assert defined == set().union(*USED.values())


def test_figures_of_attacks_need_some(workdir: Path) -> None:
    with pytest.raises(FileNotFoundError, match="holds no records"):
        run("figure", f"--workdir={workdir}", "--figure=4")


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ((), "Expected --demo, or one of train, attack, table, figure, pack"),
        (("paint",), "Received: 'paint'"),
        (("attack",), "--workdir is required"),
        (("attack", "--workdir={}/none"), "no variant of M∘P"),
        (("table", "--workdir={}", "--variant=ce"), "train it by --variant=ce"),
        (("attack", "--workdir={}", "--variant=target"), "--variant must be of stack"),
        (
            ("attack", "--workdir={}", "--attacks=CW2"),
            "FGSM, PGD, MIM, MIML2, DIM, MIM-TI, DIM-TI. Received: CW2",
        ),
        (
            (
                "attack",
                "--workdir={}",
                "--threat=exchanged",
                "--num_examples=1",
                "--variant=auto",
            ),
            "needs two images that M and M∘P are right on; there is one of auto",
        ),
        (
            ("attack", "--workdir={}", "--threat=identity", "--attacks=MIM"),
            "identity has PGD alone",
        ),
        (("attack", "--workdir={}", "--softness=4"), "is for --threat=softened"),
        (
            ("attack", "--workdir={}", "--threat=softened", "--softness=0.5"),
            "--softness must be at least 1. Received: 0.5",
        ),
    ],
)
def test_a_wrong_command_line_is_told(
    arguments: tuple[str, ...], expected: str, workdir: Path
) -> None:
    with pytest.raises(app.UsageError, match=expected):
        run(*(argument.format(workdir) for argument in arguments))


@pytest.mark.parametrize(
    "argument", ["--threat=spy", "--preset=fast", "--num_examples=0", "--figure=7"]
)
def test_a_flag_out_of_range_is_told(argument: str) -> None:
    with pytest.raises(flags.IllegalFlagValueError):
        run("attack", argument)
