import json
from pathlib import Path
from typing import Any

import keras
import pytest
from absl import app, flags

from keras_traps.evaluation.figures import Study
from recipes import analysis

FEW = (
    "--num_examples=30",
    "--num_attacked=4",
    "--samples=8",
    "--cw2_searches=1",
    "--cw2_iterations=2",
)


def run(*arguments: str) -> None:
    values = analysis.define_flags(flags.FlagValues())
    analysis.main(values(["analysis", *arguments]), values)


@pytest.fixture(scope="module")
def model(
    digits_classifier: keras.Model, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    path = tmp_path_factory.mktemp("models") / "digits.keras"
    digits_classifier.save(path)
    return path


@pytest.fixture(scope="module")
def calibration(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    workdir = tmp_path_factory.mktemp("first")
    run("--figure=4", f"--model={model}", f"--workdir={workdir}")
    return workdir / "calibration.json"


@pytest.mark.parametrize("figure", ["1", "2", "4", "5"])
def test_a_figure_is_written_with_its_numbers(
    figure: str,
    model: Path,
    calibration: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run(
        f"--figure={figure}",
        f"--model={model}",
        f"--calibration={calibration}",
        f"--workdir={tmp_path / 'new'}",
        *FEW,
    )
    name = f"figure{figure}_digits"
    found = json.loads((tmp_path / "new" / f"{name}.json").read_text())
    assert found["provenance"]["seed"] == 0
    assert found["provenance"]["classifier"]
    text = (tmp_path / "new" / f"{name}.md").read_text()
    assert f"figures/{name}.png" in text
    assert str(tmp_path) not in text
    picture = (tmp_path / "new" / "figures" / f"{name}.png").read_bytes()
    assert picture.startswith(b"\x89PNG")
    printed = capsys.readouterr().out
    assert f"Written: {tmp_path / 'new' / name}.md" in printed
    assert printed.count("met: ") + printed.count("MISSED: ") == len(found["goals"])


@pytest.mark.parametrize(
    ("figure", "maker", "expected"),
    [
        ("6", "figure_6", {"amplitude": 0.8, "num_attacked": 4, "seed": 3}),
        ("7a", "figure_7a", {}),
        ("7b", "figure_7b", {"deltas": [1.5], "samples": 8, "seed": 3}),
        (
            "ablation",
            "ablation",
            {"num_attacked": 4, "seed": 3},
        ),
    ],
)
def test_flags_reach_the_figure(
    figure: str,
    maker: str,
    expected: dict[str, Any],
    model: Path,
    calibration: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    given: list[tuple[Any, ...]] = []

    def make(*arguments: Any, **settings: Any) -> Study:
        given.append((arguments, settings))
        return Study("x", "X", "", (), {})

    monkeypatch.setattr(analysis, maker, make)
    run(
        f"--figure={figure}",
        f"--model={model}",
        f"--calibration={calibration}",
        f"--workdir={tmp_path}",
        "--seed=3",
        *FEW,
    )
    ((arguments, settings),) = given
    assert len(arguments[-1]) == 30
    assert settings == expected
    if figure == "6":
        assert [attack.name for attack in arguments[1]] == ["FGSM", "PGD", "CW2"]
        assert arguments[1][2].max_iterations == 2
    assert (tmp_path / "x.md").exists()


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("--figure=5", "--model=m.keras"), "are required"),
        (("--figure=5", "--workdir=run"), "are required"),
        (("--model=m.keras", "--workdir=run"), "--figure"),
        (("--figure=5", "--model=m.keras", "--workdir=run", "5"), "flags only"),
        (("--figure=5", "--model=none.keras", "--workdir=run"), "names no file"),
    ],
)
def test_a_wrong_command_line_is_told(
    arguments: tuple[str, ...],
    expected: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(app.UsageError, match=expected):
        run(*arguments)


def test_the_constants_of_another_run_are_not_replaced(
    model: Path, calibration: Path
) -> None:
    before = calibration.read_bytes()
    with pytest.raises(ValueError, match=r"made otherwise: .*seed.* differ"):
        run(
            "--figure=5",
            f"--model={model}",
            f"--workdir={calibration.parent}",
            "--seed=1",
            *FEW,
        )
    assert calibration.read_bytes() == before
    assert not (calibration.parent / "figure5_digits.md").exists()


def test_an_ablation_needs_the_share_that_an_older_calibration_does_not_tell(
    calibration: Path, tmp_path: Path
) -> None:
    content = json.loads(calibration.read_text("utf-8"))
    del content["small_step_share"]
    older = tmp_path / "older.json"
    older.write_text(json.dumps(content), "utf-8")
    # Refused before the classifier is looked for.
    command = (
        "--figure=ablation",
        "--model=none.keras",
        f"--calibration={older}",
        f"--workdir={tmp_path / 'new'}",
    )
    with pytest.raises(app.UsageError, match=r"by --small_step_share.* was 0\.5"):
        run(*command)
    with pytest.raises(app.UsageError, match=r"none\.keras"):
        run(*command, "--small_step_share=0.5")


@pytest.mark.parametrize("flag", ["--delta=0", "--delta=-2"])
def test_a_radius_out_of_range_is_told(
    flag: str, model: Path, calibration: Path, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match="argument `delta`"):
        run(
            "--figure=7b",
            f"--model={model}",
            f"--calibration={calibration}",
            f"--workdir={tmp_path}",
            flag,
            *FEW,
        )
    assert not (tmp_path / "calibration.json").exists()


@pytest.mark.parametrize(
    "argument", ["--figure=3", "--num_examples=0", "--samples=1", "--num_attacked=0"]
)
def test_a_flag_out_of_range_is_told(argument: str) -> None:
    with pytest.raises(flags.IllegalFlagValueError):
        run(argument)
