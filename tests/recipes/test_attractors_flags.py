from pathlib import Path

import numpy as np
import pytest
from absl import app, flags

from tests.recipes.test_attractors import run


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("--workdir=run",), "--model and --workdir are required"),
        (("--model=m.keras",), "--model and --workdir are required"),
        (("--model=m.keras", "--workdir=run"), r"--model names no file: m\.keras"),
        (("--model=m.keras", "--workdir=run", "mnist"), "Expected flags only.*mnist"),
        (
            ("--model=m.keras", "--workdir=run", "--dataset=svhn_cropped"),
            "--preset is required for svhn_cropped: one of table7_mnist",
        ),
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


def test_deepsec_has_no_model_of_the_digits(tmp_path: Path) -> None:
    path = tmp_path / "digits.npz"
    np.savez(path, weight=np.zeros(3))
    with pytest.raises(app.UsageError, match="no model for digits; it has mnist, cif"):
        run(f"--model={path}", f"--workdir={tmp_path / 'run'}")


@pytest.mark.parametrize(
    "argument",
    [
        "--num_examples=0",
        "--chunk_size=0",
        "--seed=-1",
        "--output=softmax",
        "--variant=hidden",
        "--fpr=low",
    ],
)
def test_a_flag_out_of_range_is_told(argument: str) -> None:
    with pytest.raises(flags.IllegalFlagValueError):
        run(argument)
