"""Adds pages to the site that no file is kept for: they would only repeat others."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import griffe
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

_ROOT = Path(__file__).parents[1]
_MODULES = (
    *("attacks", "attractors", "datasets", "detectors", "evaluation", "layers"),
    *("luring", "models", "ops", "serving"),
)
# What a package has whose parts are imported one by one.
_PARTS = {"evaluation": ("leaderboard", "binarization", "warnings")}
_AT_THE_TOP = ("CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md")


class Examples(griffe.Extension):
    """Shows the examples of docstrings, which are written as Keras writes them."""

    def on_object(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        """Makes a block of code of each."""
        del kwargs
        if obj.docstring is not None:
            obj.docstring.value = re.sub(
                r"(?m)^Example:\n((?:>>>|\.\.\.)(?:.+\n?)+)",
                lambda found: f"Example:\n\n```pycon\n{found[1].rstrip()}\n```\n",
                obj.docstring.value,
            )

    def on_module_members(self, *, mod: griffe.Module, **kwargs: Any) -> None:
        """Does so with that of a module, which it has by now."""
        self.on_object(obj=mod, **kwargs)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the quick start, the reference, and what lies at the top of the project."""
    made = {
        "quickstart.md": quickstart(_ROOT / "docs/quickstart.ipynb"),
        "reference/commands.md": commands(),
        "reference/api/keras_traps.md": "# keras_traps\n\n::: keras_traps\n",
    }
    for name in _MODULES:
        parts = [name, *(f"{name}.{part}" for part in _PARTS.get(name, ()))]
        told = "\n\n".join(f"::: keras_traps.{part}" for part in parts)
        made[f"reference/api/{name}.md"] = f"# keras_traps.{name}\n\n{told}\n"
    for name in _AT_THE_TOP:
        made[name] = (_ROOT / name).read_text("utf-8").replace("](docs/", "](")
    for path, text in made.items():
        files.append(File.generated(config, path, content=text))
    return files


def on_page_markdown(
    markdown: str, page: Page, config: MkDocsConfig, files: Files
) -> str:
    """Leads links to what the site shows elsewhere: the notebook, and the top."""
    del config, files
    if page.file.src_uri != "quickstart.md":  # which offers the notebook itself
        markdown = markdown.replace("quickstart.ipynb)", "quickstart.md)")
    names = "|".join(map(re.escape, _AT_THE_TOP))
    return re.sub(rf"\]\(\.\./((?:\.\./)*(?:{names})\b)", r"](\1", markdown)


def quickstart(path: Path) -> str:
    """Returns a notebook as a page: what is written, the code, and what it printed."""
    parts = []
    for cell in json.loads(path.read_text("utf-8"))["cells"]:
        text = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            parts.append(text)
            continue
        parts.append(f"```python\n{text}\n```")
        printed = "".join(
            line for told in cell["outputs"] for line in told.get("text", ())
        )
        if printed:
            parts.append(f"```text\n{printed.rstrip()}\n```")
    return "\n\n".join(parts) + "\n"


def commands() -> str:
    """Returns what each command and each recipe says of itself."""
    parts = ["# Command line"]
    scripts = [
        path.stem
        for path in sorted((_ROOT / "recipes").glob("*.py"))
        if "\ndef main(" in path.read_text("utf-8")
    ]
    for name, call in (
        ("keras-traps", [str(Path(sys.executable).with_name("keras-traps"))]),
        *((f"recipes/{n}.py", [sys.executable, f"recipes/{n}.py"]) for n in scripts),
    ):
        # Each command tells of its sub-commands as well, one usage after the other.
        whole, *parts_of_it = re.split(r"\n(?=usage: )", _help(call))
        parts += [f"## {name}", f"```text\n{whole}```"]
        for told in parts_of_it:
            part = told.split()[2]
            parts += [f"### {name} {part}", f"```text\n{told}```"]
    return "\n\n".join(parts) + "\n"


def _help(call: list[str]) -> str:
    run = subprocess.run(
        [*call, "--help"],
        cwd=_ROOT,
        env={**os.environ, "COLUMNS": "90"},  # whatever the terminal's width
        check=True,
        capture_output=True,
        text=True,
    )
    return run.stdout
