"""Results of others lack what a study of kdlora always has: no command minds, none invents it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.harness.commands import in_process

ROWS = """task,pair,method,seed,accuracy
rte,bert,FFT,1,.70
rte,bert,student LoRA,1,.60
rte,bert,KD-LoRA,1,.62
rte,roberta,FFT,1,.71
rte,roberta,student LoRA,1,.64
rte,roberta,KD-LoRA,1,.63
"""
COMMANDS = ("report", "mistakes", "recommend", "status", "doctor", "compare")


def imported(folder: Path, table: str) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "theirs.csv").write_text(table)
    done = in_process("import", "theirs.csv", cwd=folder)
    assert done.returncode == 0, done.stderr
    return folder / "results" / "theirs"


def without(*columns: str) -> str:
    """The table without some columns; without pairs, its first pair alone."""
    head, *lines = (line.split(",") for line in ROWS.splitlines())
    kept = [i for i, name in enumerate(head) if name not in columns]
    rows = [line for line in lines if "pair" not in columns or line[1] == "bert"]
    return "\n".join(",".join(row[i] for i in kept) for row in [head, *rows]) + "\n"


@pytest.mark.parametrize("lacking", [("pair",), ("seed",), ("pair", "seed"), ()])
def test_what_a_table_lacks_is_neither_missed_nor_invented(
    tmp_path: Path, lacking: tuple[str, ...]
) -> None:
    study = imported(tmp_path, without(*lacking))
    said = ""
    for command in COMMANDS:
        done = in_process(command, str(study), cwd=tmp_path)
        assert done.returncode == 0, (command, done.stdout, done.stderr)
        said += done.stdout
    page = (study / "report.md").read_text("utf-8")
    assert not (study / "report-errors.log").exists()
    assert "nan" not in re.findall(r"\w+", (said + page).lower())
    title = page.split("\n## ")[0]
    assert ("seed" in title) == ("seed" not in lacking)


def test_students_whose_teacher_is_not_told_are_not_said_to_be_untaught(tmp_path: Path) -> None:
    table = ROWS.replace("bert,KD-LoRA", "distilbert,KD-LoRA").replace("roberta,KD", "tiny,KD")
    study = imported(tmp_path, table)
    said = in_process("compare", str(study), cwd=tmp_path).stdout
    assert "which run taught is not recorded" in said
    assert "no student was taught" not in said
    untaught = ROWS.replace("KD-LoRA", "student DoRA")
    said = in_process("compare", str(imported(tmp_path / "other", untaught)), cwd=tmp_path).stdout
    assert "no student was taught" in said


def test_a_failed_run_without_an_error_has_a_status(tmp_path: Path) -> None:
    table = "task,pair,method,seed,accuracy,state\nrte,bert,FFT,1,.70,finished\n"
    study = imported(tmp_path, table + "rte,bert,KD-LoRA,1,,failed\n")
    done = in_process("status", str(study), cwd=tmp_path)
    assert done.returncode == 0
    assert "no error was kept" in done.stdout


def test_scores_that_are_in_no_mean_are_not_said_to_be_in_one(tmp_path: Path) -> None:
    study = imported(tmp_path, ROWS.replace("bert,FFT,1,.70", "bert,FFT,1,66.5", 1))
    assert in_process("report", str(study), cwd=tmp_path).returncode == 0
    page = (study / "report.md").read_text("utf-8")
    assert "impossible:score" in page
    assert "The numbers above include" not in page
