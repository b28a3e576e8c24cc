import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from keras_traps.evaluation.figures import Study, write_study
from keras_traps.evaluation.figures.study import (
    Goal,
    picture,
    quantiles,
    text_table,
)
from keras_traps.evaluation.report.blocks import Paragraph
from keras_traps.evaluation.report.canvas import Scheme

PROVENANCE = {"command": "python recipes/analysis.py", "versions": {"keras": "3"}}


def study() -> Study:
    def draw(scheme: Scheme) -> bytes:
        buffer = io.BytesIO()
        Image.new("RGBA", (4, 3), scheme.ground).save(buffer, format="PNG")
        return buffer.getvalue()

    return Study(
        name="figure9_digits",
        title="Figure 9",
        subtitle="7 images",
        blocks=(
            picture("figure9_digits", "A plot", "How to read it.", draw),
            text_table("Medians", ["", "Median"], [("C", "1.5"), ("W", "2")]),
            Paragraph("A remark."),
        ),
        numbers={"c": 1.5},
        goals=(Goal("C above W", "yes", "1.5 and 2", False),),
    )


def test_a_study_is_written_as_text_numbers_and_picture(tmp_path: Path) -> None:
    path = write_study(study(), PROVENANCE, tmp_path / "new")
    text = path.read_text()
    assert path == tmp_path / "new" / "figure9_digits.md"
    assert text.startswith("# Figure 9\n\n7 images\n")
    assert "![A plot](figures/figure9_digits.png)" in text
    assert "| W | 2 |" in text
    assert "| C above W | yes | 1.5 and 2 | no |" in text
    assert "| versions · keras | `3` |" in text
    found = json.loads((tmp_path / "new/figure9_digits.json").read_text())
    assert found["numbers"] == {"c": 1.5}
    assert found["goals"][0]["met"] is False
    assert found["provenance"] == PROVENANCE
    with Image.open(tmp_path / "new/figures/figure9_digits.png") as image:
        assert image.size == (4, 3)
        assert image.convert("RGB").getpixel((1, 1)) == (255, 255, 255)


def test_the_same_study_gives_the_same_bytes(tmp_path: Path) -> None:
    for folder in ("one", "two"):
        write_study(study(), PROVENANCE, tmp_path / folder)
    one, two = (
        {path.name: path.read_bytes() for path in (tmp_path / folder).rglob("*.*")}
        for folder in ("one", "two")
    )
    assert one == two
    assert len(one) == 3


def test_a_number_that_is_not_finite_never_reaches_the_json(tmp_path: Path) -> None:
    bad = Study("x", "X", "", (), {"c": float("nan")})
    with pytest.raises(ValueError, match="JSON compliant"):
        write_study(bad, {}, tmp_path)


def test_quantiles_leave_out_what_is_not_finite() -> None:
    values = np.append(np.arange(101.0), [np.nan, np.inf])
    assert quantiles(values) == {"median": 50.0, "low": 5.0, "high": 95.0}
    assert quantiles([np.nan]) == {"median": None, "low": None, "high": None}
