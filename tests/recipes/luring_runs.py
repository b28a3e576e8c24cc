"""Runs of `recipes/luring.py`, small ones, and what they wrote."""

import json
from pathlib import Path
from typing import Any

from absl import flags

from recipes import luring

# Few images and steps; the radius is large, so that something succeeds.
FEW = ("--num_examples=9", "--chunk_size=4", "--nb_iter=2", "--eps=0.5")
VARIANTS = ("auto", "luring")


def run(*arguments: str) -> None:
    values = luring.define_flags(flags.FlagValues())
    luring.main(values(["luring", *arguments]), values)


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
