"""The script that draws: each figure once, with little to do, and what it refuses."""

import json
from pathlib import Path
from typing import Any

import figure
import luring
import numpy as np
import pytest

from keras_traps.commands.command_line import CommandLineError

ALL = ("1", "2", "4", "5", "6", "7a", "7b")


def numbers(folder: Path, name: str) -> Any:
    return json.loads((folder / f"{name}.json").read_text("utf-8"))["numbers"]


@pytest.mark.slow
def test_each_figure_is_written_with_its_numbers_and_flags_reach_it(
    digits_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    where = ("attractors", f"--model={digits_file}", f"--workdir={tmp_path}")
    few = ("--num_examples=30", "--num_attacked=4", "--samples=8")
    steps = {"binary_search_steps": 1, "max_iterations": 2}
    monkeypatch.setattr(figure, "_CW2", steps)
    figure.main([*where, f"--figure={','.join(ALL)}", *few])
    for stem in [f"figure{name}_digits" for name in ALL]:
        origin = json.loads((tmp_path / f"{stem}.json").read_text("utf-8"))
        assert origin["provenance"]["classifier"]
        text = (tmp_path / f"{stem}.md").read_text("utf-8")
        assert f"(figures/{stem}.png)" in text
        assert str(tmp_path) not in text
        assert (tmp_path / "figures" / f"{stem}.png").exists()
    found = numbers(tmp_path, "figure7b_digits")
    assert (found["delta"], found["samples"]) == (1.5, 8)
    found = numbers(tmp_path, "figure6_digits")
    assert (found["amplitude"], found["images"], found["attacked"]) == (0.8, 30, 4)
    assert [row["attack"] for row in found["attacks"]] == ["FGSM", "PGD", "CW2"]
    assert found["training_goals"]["trapdoor_success"] > 0.9
    # On clean images the whole trapdoored model has the gradient of N2.
    assert found["median_ratio_m2_m1"] > 1
    whole, second = (found["magnitudes"][name]["median"] for name in ("whole", "m2"))
    assert whole == pytest.approx(second, rel=1e-3)
    with pytest.raises(CommandLineError, match="was made with other settings"):
        figure.main([*where, "--figure=4", "--public_key=1"])


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
    assert {row["attacked"] for row in figure_4["rows"]} == {8}
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
        ("attractors --figure=3", "--figure.*7a, 7b, ablation, not 3"),
        ("attractors --figure=7b --delta=0", "--delta.*above 0, not 0"),
        ("attractors --figure=7b --samples=1", "--samples.*at least 2, not 1"),
        ("luring --figure=7a", "--figure"),
        ("luring --figure=4 --workdir=none", "there is no stack in none"),
        ("toy --workdir=run --num_examples=2", "--num_examples.*at least 3"),
    ],
)
def test_a_wrong_command_line_is_told(
    arguments: str, expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CommandLineError, match=expected):
        figure.main(arguments.split())
    assert not list(tmp_path.iterdir())
