"""`kdlora import`, `kdlora doctor` and `kdlora reproduce`, as a user or a script calls them."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest
import typer
from typer.testing import CliRunner

from kdlora.cli import imported as evidence_reports
from kdlora.errors import InputError, KdloraError

app = typer.Typer(pretty_exceptions_enable=False)
app.command("import")(evidence_reports.import_results)
app.command("doctor")(evidence_reports.doctor)
app.command("reproduce")(evidence_reports.reproduce)


@pytest.fixture
def call(monkeypatch, tmp_path):
    """Runs a command in an empty folder and returns its output; errors come as they are."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")

    def run(*arguments: object, code: int = 0) -> str:
        result = CliRunner().invoke(app, [str(a) for a in arguments])
        if result.exception and not isinstance(result.exception, SystemExit):
            raise result.exception
        assert result.exit_code == code, result.output
        return result.output

    return run


SCORES = "Task,X/Y FFT,X/Y LoRA,X/Y KD-LoRA\nCoLA,57.7,56.9,56.3\nRTE,71.6,70.1,564\nScore,1,1,1\n"


def test_import_then_doctor(call, tmp_path):
    (tmp_path / "scores.csv").write_text(SCORES)
    text = call("import", "scores.csv", "--as", "paper")
    assert "6 runs from scores.csv (format glue-scores)" in text
    assert "! score: accuracy lies in [0, 1]" in text
    assert Path("results/paper/imported.parquet").is_file()
    text = call("doctor", "paper")
    assert "6 of 6 cells (100.00%) done in 3 arms" in text
    assert "impossible_value" in text
    by_folder = json.loads(call("doctor", "results/paper", "--json"))
    by_table = json.loads(call("doctor", "scores.csv", "--json"))
    assert [f["name"] for f in by_folder["findings"]] == [f["name"] for f in by_table["findings"]]
    assert by_folder["coverage"]["present"] == 6
    (finding,) = [f for f in by_folder["findings"] if f["name"] == "impossible_value"]
    assert (finding["n"], finding["severity"]) == (1, "error")
    assert finding["rows"][0] in call("doctor", "paper", "--rows")
    call("doctor", "paper", "--strict", code=1)


def test_import_as_json_and_twice(call, tmp_path):
    (tmp_path / "scores.csv").write_text(SCORES)
    told = json.loads(call("import", "scores.csv", "--as", "p", "--results", "r", "--json"))
    assert (told["rows"], told["aggregates"], told["mapping"]) == (6, 3, "glue-scores")
    with pytest.raises(InputError, match="--replace"):
        call("import", "scores.csv", "--as", "p", "--results", "r")
    call("import", "scores.csv", "--as", "p", "--results", "r", "--replace")


def test_doctor_of_nothing(call, tmp_path):
    (tmp_path / "results" / "mine").mkdir(parents=True)
    with pytest.raises(KdloraError, match=r"no study 'me'.*Studies in results: mine"):
        call("doctor", "me")


def test_doctor_of_a_table_without_tasks(call, shared):
    text = call("doctor", shared / "reference" / "paper_table_2.csv")
    assert "no tasks in this table" in text
    assert "parameters_contradict_shape" in text


def test_reproduce_from_single_files(call, shared):
    reference = shared / "reference"
    matrix, scores = reference / "kd_matrix_004.csv", reference / "paper_table_1.csv"
    text = call("reproduce", "--matrix", matrix, "--paper1", scores, "--draws", 200)
    assert "macro-F1 of GBERT students" in text
    assert "Report 001 was left out: needs the trainings (runs.csv)." in text
    told = json.loads(
        call("reproduce", "--matrix", matrix, "--draws", 200, "--out", "out", "--json")
    )
    assert told["summary"][0]["report"] == "004"
    assert [item["key"] for item in told["not_reproduced"]] == ["004.edge"]
    assert len(told["contradictions"]) == 6
    assert Path(told["out"]).is_file()
    assert len(pd.read_csv("out/004/tables/004.results.csv")) == 20
    with pytest.raises(InputError, match="--runs, --paper1, --paper2, --matrix"):
        call("reproduce")


def test_reproduce_a_reference_folder(call, shared):
    told = json.loads(call("reproduce", shared / "reference", "--draws", 100, "--json"))
    assert {r["report"]: (r["printed"], r["reproduced"]) for r in told["summary"]} == {
        "000": (175, 175),
        "001": (205, 196),
        "002": (97, 97),
        "003": (123, 118),
        "004": (28, 27),
    }


def test_an_imported_study_serves_as_well_as_its_table(call, shared):
    call("import", shared / "reference" / "paper_table_2.csv", "--as", "costs")
    told = json.loads(call("reproduce", "--paper2", "results/costs", "--json"))
    assert [r["report"] for r in told["summary"]] == ["002", "003"]
    with pytest.raises(InputError, match="was imported as 'efficiency-by-rank'"):
        call("reproduce", "--runs", "results/costs")
