import json
import re
from pathlib import Path

import pytest

from keras_traps.evaluation import report
from keras_traps.evaluation.report import ReportPaths, write_report
from keras_traps.evaluation.results import Evaluation

from .conftest import without_plots


def contents(directory: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(directory)): path.read_bytes()
        for path in directory.rglob("*")
        if path.is_file()
    }


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("reports") / "new" / "report"


@pytest.fixture(scope="module")
def paths(evaluation: Evaluation, directory: Path) -> ReportPaths:
    return write_report(evaluation, directory)


def test_all_files_are_written_and_nothing_else(
    paths: ReportPaths, directory: Path
) -> None:
    written = [paths.json, paths.markdown, paths.html, *paths.figures]

    assert {str(path.relative_to(directory)) for path in written} == set(
        contents(directory)
    )
    assert json.loads(paths.json.read_text("utf-8"))["dataset"] == "mnist"


def test_markdown_shows_the_figures_that_were_written(
    paths: ReportPaths, directory: Path
) -> None:
    shown = re.findall(r"\]\((figures/.*?)\)", paths.markdown.read_text("utf-8"))

    assert [directory / name for name in shown] == list(paths.figures)
    assert len(shown) == 6


def test_the_same_evaluation_gives_the_same_bytes(
    evaluation: Evaluation, paths: ReportPaths, directory: Path, tmp_path: Path
) -> None:
    write_report(evaluation, str(tmp_path))

    assert contents(tmp_path) == contents(directory)


@pytest.mark.parametrize("blocked", [".", "figures"])
def test_a_directory_that_cannot_be_written_fails_before_any_work(
    evaluation: Evaluation,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    blocked: str,
) -> None:
    directory = tmp_path / "report"
    if blocked == "figures":
        directory.mkdir()
    (directory / blocked).write_text("in the way")
    before = contents(tmp_path)

    def build_document(_: Evaluation) -> None:
        pytest.fail("work was done")

    monkeypatch.setattr(report, "build_document", build_document)

    with pytest.raises(OSError, match=r"argument `directory`.*Received: .*report"):
        write_report(evaluation, directory)

    assert contents(tmp_path) == before


def test_a_failure_while_writing_keeps_the_older_report_whole(
    evaluation: Evaluation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    evaluation = without_plots(evaluation)
    paths = write_report(evaluation, tmp_path)
    before = contents(tmp_path)
    replace = Path.replace

    def fail_at_html(self: Path, target: Path) -> Path:
        # What would be put in place is complete by now.
        assert self.stat().st_size > 0
        if target == paths.html:
            raise OSError("disk gone")
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", fail_at_html)

    with pytest.raises(OSError, match="disk gone"):
        write_report(evaluation, tmp_path)

    assert contents(tmp_path) == before
