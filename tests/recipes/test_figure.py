"""The script that draws: each figure once, with little to do, and what it refuses."""

import json
import subprocess
import sys
from pathlib import Path

import command_line
import figure
import luring
import numpy as np
import pytest
from command_line import CommandLineError

RECIPES = Path(figure.__file__).parent
FEW = (
    "--num_examples=30",
    "--num_attacked=4",
    "--samples=8",
    "--cw2_searches=1",
    "--cw2_iterations=2",
)


@pytest.fixture(scope="module")
def drawn(digits_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of the attractors' figures."""
    workdir = tmp_path_factory.mktemp("drawn")
    names = "--figure=1,2,4,5,6,7a,7b"
    figure.main(
        ["attractors", names, f"--model={digits_file}", f"--workdir={workdir}", *FEW]
    )
    return workdir


@pytest.mark.parametrize("name", ["1", "2", "4", "5", "6", "7a", "7b"])
def test_a_figure_is_written_with_its_numbers(name: str, drawn: Path) -> None:
    stem = f"figure{name}_digits"
    found = json.loads((drawn / f"{stem}.json").read_text("utf-8"))
    assert found["provenance"]["seed"] == 0
    assert found["provenance"]["classifier"]
    text = (drawn / f"{stem}.md").read_text("utf-8")
    assert f"(figures/{stem}.png)" in text
    assert str(drawn) not in text
    picture = (drawn / "figures" / f"{stem}.png").read_bytes()
    assert picture.startswith(b"\x89PNG")


def test_flags_and_what_depends_on_the_data_set_reach_the_figures(drawn: Path) -> None:
    numbers = {
        name: json.loads((drawn / f"figure{name}_digits.json").read_text())["numbers"]
        for name in ("6", "7b")
    }
    assert numbers["6"]["amplitude"] == 0.8
    assert (numbers["6"]["images"], numbers["6"]["attacked"]) == (30, 4)
    assert numbers["6"]["settings"]["CW2"]["max_iterations"] == 2
    assert list(numbers["6"]["settings"]) == ["FGSM", "PGD", "CW2"]
    assert (numbers["7b"]["delta"], numbers["7b"]["samples"]) == (1.5, 8)


def test_figure_6_has_the_gradient_of_the_classifier(drawn: Path) -> None:
    numbers = json.loads((drawn / "figure6_digits.json").read_text())["numbers"]
    assert [row["attack"] for row in numbers["attacks"]] == ["FGSM", "PGD", "CW2"]
    assert numbers["training_goals"]["trapdoor_success"] > 0.9
    assert numbers["unattacked"]["with a trapdoor"]["by_detector"] > 0.9
    assert numbers["median_ratio_m2_m1"] > 1
    # On clean images the whole model has the gradient of N2.
    whole, second = (numbers["magnitudes"][name]["median"] for name in ("whole", "m2"))
    assert whole == pytest.approx(second, rel=1e-3)


def test_the_constants_of_another_run_are_not_replaced(
    digits_file: Path, drawn: Path
) -> None:
    kept = drawn / "calibration.json"
    before = kept.read_bytes()
    with pytest.raises(CommandLineError, match="was made with other settings"):
        figure.main(
            [
                "attractors",
                "--figure=4",
                f"--model={digits_file}",
                f"--workdir={drawn}",
                "--seed=1",
            ]
        )
    assert kept.read_bytes() == before


@pytest.mark.slow
def test_figures_of_luring_are_drawn_from_what_was_attacked(
    workdir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    where = f"--workdir={workdir}"
    with pytest.raises(CommandLineError):
        figure.main(["luring", "--figure=4", where])
    luring.main(
        [
            "attack",
            where,
            "--num_examples=8",
            "--attacks=FGSM,PGD",
            "--eps=0.2",
            "--nb_iter=2",
            "--no_sweep",
        ]
    )
    figure.main(["luring", "--figure=4,5,6,directions", where, "--num_examples=4"])
    folder = workdir / "figures"
    numbers = {
        name: json.loads((folder / f"luring_{name}_digits.json").read_text())["numbers"]
        for name in ("figure4", "figure5", "figure6", "directions")
    }
    cells = [(row["attack"], row["variant"]) for row in numbers["figure4"]["rows"]]
    assert cells == [(a, v) for a in ("FGSM", "PGD") for v in ("auto", "luring")]
    assert all(row["attacked"] == 8 for row in numbers["figure4"]["rows"])
    assert [row["eps"] for row in numbers["figure5"]["rows"]] == [0.2, 0.2]
    assert list(numbers["figure6"]["maps"]) == ["target", "auto", "luring"]
    assert numbers["directions"]["images"] == numbers["figure6"]["images"] == 4
    printed = capsys.readouterr().out
    for name in numbers:
        assert f"luring_{name}_digits.md" in printed
        assert (folder / "figures" / f"luring_{name}_digits.png").exists()


@pytest.mark.slow
def test_the_toy_is_trained_attacked_and_drawn(tmp_path: Path) -> None:
    workdir = tmp_path / "new" / "toy"
    figure.main(
        ["toy", f"--workdir={workdir}", "--steps=3", "--num_examples=3", "--eps=0.3"]
    )
    found = json.loads((workdir / "luring_toy.json").read_text())
    assert found["provenance"]["seed"] == 0
    assert {row["eps"] for row in found["numbers"]["attacks"]} == {0.3}
    assert np.isfinite(found["numbers"]["opposite"])
    for name in ("luring_figure2", "luring_figure3"):
        assert (workdir / "figures" / f"{name}.png").exists()


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["attractors", "--figure=5", "--workdir=run"], "--model"),
        (["attractors", "--model=m.keras", "--workdir=run"], "no file m.keras"),
        (["attractors", "--figure=3"], "--figure.*7a, 7b, ablation, not 3"),
        (["attractors", "--figure=7b", "--delta=0"], "--delta.*above 0, not 0"),
        (["attractors", "--figure=7b", "--samples=0"], "--samples.*at least 1"),
        (
            [
                "attractors",
                "--figure=7b",
                "--samples=1",
                "--workdir=run",
                f"--model={figure.__file__}",
            ],
            "--samples.*at least 2",
        ),
        (["attractors", "--num_attacked=0"], "--num_attacked"),
        (["luring", "--figure=7a"], "--figure"),
        (["luring", "--figure=4", "--workdir=none"], "there is no stack in none"),
        (["toy", "--workdir=run", "--num_examples=2"], "--num_examples.*at least 3"),
        (["toy", "--workdir=run", "--eps=-1"], "--eps.*above 0, not -1"),
        (["5"], "COMMAND"),
    ],
)
def test_a_wrong_command_line_is_told(
    arguments: list[str],
    expected: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(command_line.CommandLineError, match=expected):
        figure.main(arguments)
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
