from typing import Literal

import pytest
from absl import app, flags

from keras_traps._flags import Flags, check_flags_only

Colour = Literal["red", "green"]


def parsed(*arguments: str) -> flags.FlagValues:
    define = Flags(flags.FlagValues())
    define.text("name", None, "A name.")
    define.texts("parts", ["a", "b"], "Parts.")
    define.texts("none", None, "No parts.")
    define.integer("count", None, "How many.")
    define.integer("seed", 0, "A seed.", low=0)
    define.number("rate", 0.05, "A rate.")
    define.numbers("rates", [0.05, 0.5], "Rates.")
    define.choice("colour", "red", Colour, "A colour.")
    define.choices("colours", [], Colour, "Colours.")
    define.switch("fast", False, "Whether to hurry.")
    define.values(["script", *arguments])
    return define.values


def test_every_kind_has_its_default() -> None:
    assert parsed().flag_values_dict() == {
        "name": None,
        "parts": ["a", "b"],
        "none": None,
        "count": None,
        "seed": 0,
        "rate": 0.05,
        "rates": [0.05, 0.5],
        "colour": "red",
        "colours": [],
        "fast": False,
    }


def test_every_kind_is_read() -> None:
    found = parsed(
        "--name=x",
        "--parts=c,d",
        "--count=3",
        "--rate=1e-3",
        "--rates=0.1",
        "--rates=0.2",
        "--colour=green",
        "--colours=green",
        "--colours=red",
        "--fast",
    )
    assert (found.name, found.parts, found.count) == ("x", ["c", "d"], 3)
    assert (found.rate, found.rates) == (1e-3, [0.1, 0.2])
    assert (found.colour, found.colours) == ("green", ["green", "red"])
    assert found.fast is True


@pytest.mark.parametrize(
    "argument", ["--count=0", "--seed=-1", "--colour=blue", "--colours=blue"]
)
def test_what_is_out_of_range_or_no_option_is_refused(argument: str) -> None:
    with pytest.raises(flags.IllegalFlagValueError):
        parsed(argument)


def test_words_that_are_no_flags_are_refused() -> None:
    check_flags_only(["script"])
    with pytest.raises(app.UsageError, match="Received: fast now"):
        check_flags_only(["script", "fast", "now"])
