import json
import shutil
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from absl import app, flags

from keras_traps.evaluation.luring.subjects import Subject
from recipes import luring

# Few images and steps; the radius is large, so that something succeeds.
FEW = ("--num_examples=9", "--chunk_size=4", "--nb_iter=2", "--eps=0.5")
VARIANTS = ("auto", "luring")


def run(*arguments: str) -> None:
    values = luring.define_flags(flags.FlagValues())
    luring.main(values(["luring", *arguments]), values)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of trained models, never attacked; copied by those who attack."""
    workdir = tmp_path_factory.mktemp("models")
    whole = [f"--variant={name}" for name in ("target", "surrogate")]
    run("train", f"--workdir={workdir}", "--steps=60", *whole)
    variants = [f"--variant={name}" for name in VARIANTS]
    run("train", f"--workdir={workdir}", "--steps=100", "--width=0.05", *variants)
    return workdir


@pytest.fixture
def workdir(models: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(models, tmp_path / "run"))


@pytest.fixture(scope="module")
def attacked(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    workdir = Path(shutil.copytree(models, tmp_path_factory.mktemp("attacked") / "run"))
    run("attack", f"--workdir={workdir}", "--attacks=FGSM,PGD,MIM-TI", *FEW)
    return workdir


def tables(workdir: Path) -> dict[str, Any]:
    run("table", f"--workdir={workdir}")
    content: dict[str, Any] = json.loads((workdir / "tables/luring.json").read_text())
    return content


def cells(content: dict[str, Any]) -> dict[tuple[Any, ...], Any]:
    return {
        tuple(cell["outcome"][key] for key in ("threat", "variant", "attack", "eps")): (
            cell["rates"]
        )
        for cell in content["cells"]
    }


def test_a_surrogate_is_like_m_and_not_m(models: Path) -> None:
    target, surrogate = (
        keras.saving.load_model(models / f"{name}.keras", compile=False)
        for name in ("target", "surrogate")
    )
    assert [w.shape for w in surrogate.weights] == [w.shape for w in target.weights]
    assert not any(
        np.array_equal(a, b)
        for a, b in zip(
            surrogate.trainable_weights, target.trainable_weights, strict=True
        )
    )
    facts = json.loads((models / "surrogate.json").read_text())
    assert (facts["own_seed"], facts["seed"]) == (1, 0)
    assert facts["test"] > 0.5


def test_a_short_schedule_is_told_with_its_rate(workdir: Path) -> None:
    (workdir / "luring.keras").unlink()
    (workdir / "luring.json").unlink()
    small = ("--width=0.05", "--steps=30", "--variant=luring")
    run("train", f"--workdir={workdir}", "--schedule=short", "--resume", *small)
    facts = json.loads((workdir / "luring.json").read_text())
    assert (facts["steps"], facts["batch_size"]) == (30, 64)
    assert facts["peak_rate"] == 4e-3
    assert "boundaries" not in facts


def test_what_p_started_from_is_told(workdir: Path) -> None:
    start = shutil.copy(workdir / "auto.keras", workdir / "start.keras")
    digest = json.loads((workdir / "auto.json").read_text())["model"]
    (workdir / "luring.json").unlink()
    small = ("--width=0.05", "--steps=30", "--variant=luring")
    run("train", f"--workdir={workdir}", f"--start={start}", "--resume", *small)
    clean = {row["variant"]: row["facts"] for row in tables(workdir)["clean"]}
    assert clean["luring"]["start_sha256"] == digest
    assert "start_sha256" not in clean["auto"]
    text = (workdir / "tables/luring.md").read_text()
    assert f"| start\\_sha256 | {digest} |" in text


def test_a_start_of_another_width_leaves_no_backup_behind(workdir: Path) -> None:
    (workdir / "luring.keras").unlink()
    (workdir / "luring.json").unlink()
    command = ("train", f"--workdir={workdir}", "--steps=30", "--variant=luring")
    start = f"--start={workdir / 'auto.keras'}"
    with pytest.raises(ValueError, match="argument `start`"):
        run(*command, "--width=0.1", start)
    run(*command, "--width=0.05", start)
    assert (workdir / "luring.keras").exists()


@pytest.mark.parametrize("variant", ["target", "surrogate"])
def test_a_start_of_what_has_no_p_is_refused(workdir: Path, variant: str) -> None:
    start = f"--start={workdir / 'auto.keras'}"
    command = ("train", f"--workdir={workdir}", "--resume", f"--variant={variant}")
    with pytest.raises(app.UsageError, match=f"--start.*{variant}"):
        run(*command, start)


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
    assert set(clean) == {"target", *VARIANTS}
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
    rows = json.loads((folder / "luring_figure4_digits.json").read_text())["numbers"]
    assert {row["attack"] for row in rows["rows"]} == {"FGSM", "PGD"}


def test_figures_of_attacks_need_some(workdir: Path) -> None:
    with pytest.raises(FileNotFoundError, match="holds no records"):
        run("figure", f"--workdir={workdir}", "--figure=4")


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ((), "Expected --demo, or one of train, attack, table, figure, pack"),
        (("paint",), "Received: 'paint'"),
        (("attack",), "--workdir are required"),
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
    ],
)
def test_a_wrong_command_line_is_told(
    arguments: tuple[str, ...], expected: str, models: Path
) -> None:
    with pytest.raises(app.UsageError, match=expected):
        run(*(argument.format(models) for argument in arguments))


@pytest.mark.parametrize(
    "argument", ["--threat=spy", "--preset=fast", "--num_examples=0", "--figure=7"]
)
def test_a_flag_out_of_range_is_told(argument: str) -> None:
    with pytest.raises(flags.IllegalFlagValueError):
        run("attack", argument)
