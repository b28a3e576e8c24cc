"""Adds pages to the site that no file is kept for: they would only repeat others."""

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

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


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the quick start, the reference, and what lies at the top of the project."""
    made = {
        "quickstart.md": quickstart(_ROOT / "docs/quickstart.ipynb"),
        "reference/commands.md": commands(),
        "reference/keras_traps.md": "# keras_traps\n\n::: keras_traps\n",
    }
    for name in _MODULES:
        parts = [name, *(f"{name}.{part}" for part in _PARTS.get(name, ()))]
        told = "\n\n".join(f"::: keras_traps.{part}" for part in parts)
        made[f"reference/{name}.md"] = f"# keras_traps.{name}\n\n{told}\n"
    for name in _AT_THE_TOP:
        made[name] = (_ROOT / name).read_text("utf-8").replace("](docs/", "](")
    for path, text in made.items():
        files.append(File.generated(config, path, content=text))
    return files


def on_page_markdown(
    markdown: str, page: Page, config: MkDocsConfig, files: Files
) -> str:
    """Leads links that leave the folder of documentation to pages of the site."""
    del config, files
    if page.file.src_uri != "index.md":
        return markdown
    names = "|".join(_AT_THE_TOP)
    markdown = re.sub(rf"\]\(\.\./({names})\)", r"](\1)", markdown)
    return markdown.replace("](quickstart.ipynb)", "](quickstart.md)")


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
        told = _help(call)
        parts += [f"## {name}", f"```text\n{told}```"]
        for part in _parts(told):
            parts += [f"### {name} {part}", f"```text\n{_help([*call, part])}```"]
    return "\n\n".join(parts) + "\n"


def _help(call: list[str]) -> str:
    run = subprocess.run(
        [*call, "--help"],
        cwd=_ROOT,
        check=True,
        capture_output=True,
        text=True,
    )
    return run.stdout


def _parts(told: str) -> Iterator[str]:
    """Yields the sub-commands of which a command's help tells."""
    _, _, rest = told.partition("  COMMAND\n")
    yield from re.findall(r"(?m)^    ([a-z_]+)(?: |$)", rest.split("\n\n")[0])
