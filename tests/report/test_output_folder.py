"""Where a report is written nothing is lost that no report made, whatever --out names."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

import kdlora
from kdlora.errors import InputError
from kdlora.report.build import check_report_folder, save_report
from kdlora.report.document import Cell, Column, Report, Section, Table
from tests.harness.kills import killed_at_every_change

SECRET = "not kdlora's\n"


def small_report(*values: int) -> Report:
    """A report of one table and no figure, which takes no time to write."""
    columns = (Column("value", "Value"),)
    table = Table("scores", "Values", columns, tuple((Cell(str(v), v),) for v in values))
    return Report("Small", "", (Section("quality", "Quality", blocks=(table,)),))


def contents(folder: Path) -> dict[str, bytes]:
    return {
        p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()
    }


@pytest.fixture
def study(tmp_path: Path) -> Path:
    """What is looked at of a study before its records are read."""
    folder = tmp_path / "study"
    for name in ("runs/a-run/model", "student"):
        (folder / name).mkdir(parents=True)
    (folder / "plan.json").write_text("{}")
    return folder


def own_file(study: Path) -> Path:
    (study / "notes").write_text(SECRET)
    return study / "notes"


def below_a_file(study: Path) -> Path:
    return own_file(study) / "report"


def a_pipe(study: Path) -> Path:
    os.mkfifo(study.parent / "pipe")
    return study.parent / "pipe"


def the_runs(study: Path) -> Path:
    return study / "runs"


def a_run(study: Path) -> Path:
    return study / "runs" / "a-run" / "model"


def the_student(study: Path) -> Path:
    return study / "student" / "report"


def another_study(study: Path) -> Path:
    return shutil.copytree(study, study.with_name("other"))


def own_page(study: Path) -> Path:
    (study.parent / "site").mkdir()
    (study.parent / "site" / "report.html").write_text(SECRET)
    return study.parent / "site"


def own_table(study: Path) -> Path:
    (study.parent / "site" / "tables").mkdir(parents=True)
    (study.parent / "site" / "tables" / "runs.csv").write_text(SECRET)
    return study.parent / "site"


def own_link(study: Path) -> Path:
    (study.parent / "site").mkdir()
    (study.parent / "site" / "report.md").symlink_to(own_file(study))
    return study.parent / "site"


PLACES: dict[Callable[[Path], Path], str] = {
    own_file: "notes is no folder",
    below_a_file: "notes is no folder",
    a_pipe: "pipe is no folder",
    the_runs: "lies in the runs of the study",
    a_run: "lies in the runs of the study",
    the_student: "lies in the student of the study",
    another_study: "is the folder of another study",
    own_page: "that no report made and that would be lost (report.html)",
    own_table: "that would be lost (tables/runs.csv)",
    own_link: "that would be lost (report.md)",
}


@pytest.mark.parametrize("relative", [False, True])
@pytest.mark.parametrize("make", PLACES, ids=lambda make: make.__name__)
def test_what_no_report_made_is_refused_and_stays(
    study: Path, monkeypatch: pytest.MonkeyPatch, make: Callable[[Path], Path], relative: bool
) -> None:
    out = make(study)
    before = contents(study.parent)
    if relative:
        monkeypatch.chdir(study.parent)
        out = out.relative_to(study.parent)
    with pytest.raises(InputError) as told:
        kdlora.write_report(study, out=out)
    assert PLACES[make] in str(told.value)
    assert contents(study.parent) == before


def test_an_earlier_report_and_a_folder_of_other_files_are_written_to(study: Path) -> None:
    (study / "figures").mkdir()
    (study / "figures" / "quality.svg").write_text("of a report that was not finished")
    for out in (study, study / "part", study / "new", study.parent / "more" / "new"):
        check_report_folder(out, study)
        save_report(small_report(1), out)
        (out / "notes.txt").write_text(SECRET)
        check_report_folder(out, study)
        save_report(small_report(2), out)
        assert (out / "notes.txt").read_text() == SECRET
        assert (out / "tables" / "scores.csv").read_text().split() == ["value", "2"]


@pytest.mark.parametrize("earlier", [True, False])
def test_a_killed_report_is_replaced_by_the_next(
    study: Path, tmp_path: Path, earlier: bool
) -> None:
    """Each file is the old one or the new one, and no temporary file of the killed one stays."""
    out, old, new = tmp_path / "out", tmp_path / "old", tmp_path / "new"
    save_report(small_report(1), old)
    save_report(small_report(2), new)
    if earlier:
        shutil.copytree(old, out)
    allowed = {name: {contents(old)[name], content} for name, content in contents(new).items()}

    def check(killed: int) -> None:
        check_report_folder(out, study)
        for name, content in contents(out).items() if out.exists() else ():
            assert name.endswith(".tmp") or content in allowed[name]

    assert killed_at_every_change(lambda: save_report(small_report(2), out), check) > 20
    assert contents(out) == contents(new)
    assert not list(out.rglob(".*"))
