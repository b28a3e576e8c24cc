"""The script that draws: each figure once, with little to do, and what it refuses."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import command_line
import figure
import luring
import numpy as np
import pytest
from command_line import CommandLineError

RECIPES = Path(figure.__file__).parent
ALL = ("1", "2", "4", "5", "6", "7a", "7b")


@pytest.fixture(scope="module")
def drawn(digits_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of the attractors' figures."""
    workdir = tmp_path_factory.mktemp("drawn")
    where = ("attractors", f"--model={digits_file}", f"--workdir={workdir}")
    few = ("--num_examples=30", "--num_attacked=4", "--samples=8")
    cw2 = ("--cw2_searches=1", "--cw2_iterations=2")
    figure.main([*where, f"--figure={','.join(ALL)}", *few, *cw2])
    return workdir


def numbers(folder: Path, name: str) -> Any:
    return json.loads((folder / f"{name}.json").read_text("utf-8"))["numbers"]


@pytest.mark.parametrize("name", ALL)
def test_a_figure_is_written_with_its_numbers(name: str, drawn: Path) -> None:
    stem = f"figure{name}_digits"
    origin = json.loads((drawn / f"{stem}.json").read_text("utf-8"))["provenance"]
    assert origin["seed"] == 0
    assert origin["classifier"]
    text = (drawn / f"{stem}.md").read_text("utf-8")
    assert f"(figures/{stem}.png)" in text
    assert str(drawn) not in text
    assert (drawn / "figures" / f"{stem}.png").exists()


def test_flags_and_what_depends_on_the_data_set_reach_the_figures(drawn: Path) -> None:
    found = numbers(drawn, "figure7b_digits")
    assert (found["delta"], found["samples"]) == (1.5, 8)
    found = numbers(drawn, "figure6_digits")
    assert (found["amplitude"], found["images"], found["attacked"]) == (0.8, 30, 4)
    assert found["settings"]["CW2"]["max_iterations"] == 2
    assert [row["attack"] for row in found["attacks"]] == ["FGSM", "PGD", "CW2"]
    assert found["training_goals"]["trapdoor_success"] > 0.9
    # On clean images the whole trapdoored model has the gradient of N2.
    assert found["median_ratio_m2_m1"] > 1
    whole, second = (found["magnitudes"][name]["median"] for name in ("whole", "m2"))
    assert whole == pytest.approx(second, rel=1e-3)


def test_the_constants_of_another_run_are_not_replaced(
    digits_file: Path, drawn: Path
) -> None:
    kept = drawn / "calibration.json"
    before = kept.read_bytes()
    where = (f"--model={digits_file}", f"--workdir={drawn}")
    with pytest.raises(CommandLineError, match="was made with other settings"):
        figure.main(["attractors", "--figure=4", *where, "--seed=1"])
    assert kept.read_bytes() == before


@pytest.mark.slow
def test_figures_of_luring_are_drawn_from_what_was_attacked(workdir: Path) -> None:
    where = f"--workdir={workdir}"
    with pytest.raises(CommandLineError):
        figure.main(["luring", "--figure=4", where])
    few = ("--num_examples=8", "--attacks=FGSM,PGD", "--eps=0.2", "--nb_iter=2")
    luring.main(["attack", where, *few, "--no_sweep"])
    figure.main(["luring", "--figure=4,5,6,directions", where, "--num_examples=4"])
    figure_4, figure_5, figure_6, directions = (
        numbers(workdir / "figures", f"luring_{name}_digits")
        for name in ("figure4", "figure5", "figure6", "directions")
    )
    cells = [(row["attack"], row["variant"]) for row in figure_4["rows"]]
    assert cells == [(a, v) for a in ("FGSM", "PGD") for v in ("auto", "luring")]
    assert all(row["attacked"] == 8 for row in figure_4["rows"])
    assert [row["eps"] for row in figure_5["rows"]] == [0.2, 0.2]
    assert list(figure_6["maps"]) == ["target", "auto", "luring"]
    assert directions["images"] == figure_6["images"] == 4
    pictures = (workdir / "figures" / "figures").glob("luring_*_digits.png")
    assert len([*pictures]) == 4


@pytest.mark.slow
def test_the_toy_is_trained_attacked_and_drawn(tmp_path: Path) -> None:
    workdir = tmp_path / "new" / "toy"
    few = ("--steps=3", "--num_examples=3", "--eps=0.3")
    figure.main(["toy", f"--workdir={workdir}", *few])
    found = numbers(workdir, "luring_toy")
    assert {row["eps"] for row in found["attacks"]} == {0.3}
    assert np.isfinite(found["opposite"])
    assert (workdir / "figures" / "luring_figure3.png").exists()


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ("attractors --figure=5 --workdir=run", "--model"),
        ("attractors --model=m.keras --workdir=run", "no file m.keras"),
        ("attractors --figure=3", "--figure.*7a, 7b, ablation, not 3"),
        ("attractors --figure=7b --delta=0", "--delta.*above 0, not 0"),
        ("attractors --figure=7b --samples=1", "--samples.*at least 2, not 1"),
        ("attractors --num_attacked=0", "--num_attacked"),
        ("luring --figure=7a", "--figure"),
        ("luring --figure=4 --workdir=none", "there is no stack in none"),
        ("toy --workdir=run --num_examples=2", "--num_examples.*at least 3"),
        ("toy --workdir=run --eps=-1", "--eps.*above 0, not -1"),
        ("5", "COMMAND"),
    ],
)
def test_a_wrong_command_line_is_told(
    arguments: str, expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(command_line.CommandLineError, match=expected):
        figure.main(arguments.split())
    assert not list(tmp_path.iterdir())


def test_the_help_lists_all_flags_without_tensorflow() -> None:
    code = (
        f"import sys; sys.argv = ['figure.py', '--help']; sys.path[0] = '{RECIPES}'"
        "\nimport atexit, runpy"
        "\natexit.register(lambda: print('tensorflow' in sys.modules, file=sys.stderr))"
        f"\nrunpy.run_path('{RECIPES / 'figure.py'}', run_name='__main__')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "False\n")
    for flag in ("--cw2_searches", "--variant", "--loss", "--calibration", "--samples"):
        assert flag in done.stdout
