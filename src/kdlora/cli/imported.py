"""Commands about results that are there already: import them, doubt them, redo five reports."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kdlora.cli.progress import steps
from kdlora.cli.terminal import say, say_json, terminal
from kdlora.records.study_folder import RESULTS

if TYPE_CHECKING:
    from kdlora.evidence.coverage import Coverage
    from kdlora.evidence.diagnosis import DiagnosisFinding
    from kdlora.importing.convert import Imported
    from kdlora_reproductions import Reproduction

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for a script to read.")]
Results = Annotated[Path, typer.Option(help="Folder of all studies.")]

STYLES = {"error": "bold red", "warning": "yellow", "info": "dim"}


def import_results(
    source: Annotated[
        Path,
        typer.Argument(
            metavar="SOURCE",
            help="A table (CSV, TSV, JSON, Parquet, LaTeX, Markdown), an MLflow database, or a "
            "folder of JSON files as the Trainer or lm-evaluation-harness write them, or a "
            "quoted pattern of them ('out/results_*.json').",
        ),
    ],
    study: Annotated[
        str | None,
        typer.Option(
            "--as", help="Name of the study to make.", show_default="what SOURCE is called"
        ),
    ] = None,
    mapping: Annotated[
        str | None,
        typer.Option(help="What the columns mean: a YAML file, or a known format's name."),
    ] = None,
    results: Results = RESULTS,
    replace: Annotated[
        bool, typer.Option("--replace", help="Replace what was imported under this name.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Bring somebody else's results into the frame that all reports and comparisons read."""
    from kdlora.importing.results import import_results as run

    folder, imported = run(source, study=study, results=results, mapping=mapping, replace=replace)
    if as_json:
        _print_json(
            {
                "folder": str(folder),
                "mapping": imported.mapping.name,
                "rows": len(imported.frame),
                "aggregates": len(imported.aggregates),
                "kept_columns": imported.kept,
                "problems": imported.problems,
                "sha256": imported.sha256,
            }
        )
        return
    _show_import(folder, imported)


def doctor(
    study: Annotated[
        Path, typer.Argument(metavar="STUDY", help="A study's folder, its name, or a table.")
    ],
    results: Results = RESULTS,
    mapping: Annotated[
        str | None, typer.Option(help="For a table: a YAML file or a known format's name.")
    ] = None,
    rows: Annotated[bool, typer.Option("--rows", help="Also list the runs concerned.")] = False,
    strict: Annotated[
        bool, typer.Option("--strict", help="Exit code 1 if there is a finding of severity error.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Say what a reader must know before believing a study: coverage, then every doubt."""
    from kdlora.api import doctor as examine

    found = examine(study, results=results, mapping=mapping)
    covered, findings = found.coverage, found.findings
    uncovered = "There are no tasks in this table, so nothing is said of its coverage."
    if as_json:
        _print_json(
            {
                "coverage": covered.to_dict() if covered else None,
                "coverage_sentences": covered.sentences() if covered else [uncovered],
                "findings": [{**f.to_dict(), "n": f.n} for f in findings],
            }
        )
    else:
        _show_diagnosis(study.name, covered, uncovered, findings, rows)
    if strict and any(f.severity == "error" for f in findings):
        raise typer.Exit(1)


def reproduce(
    folder: Annotated[
        Path | None,
        typer.Argument(
            metavar="[FOLDER]",
            help="Folder of runs.csv, paper_table_1.csv, paper_table_2.csv, kd_matrix_004.csv.",
        ),
    ] = None,
    runs: Annotated[Path | None, typer.Option(help="The trainings, or an imported study.")] = None,
    paper1: Annotated[Path | None, typer.Option(help="The published table of scores.")] = None,
    paper2: Annotated[Path | None, typer.Option(help="The published table of costs.")] = None,
    matrix: Annotated[Path | None, typer.Option(help="The matrix of four distillations.")] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Write every table as CSV, each report as Markdown, its figures as SVG and PNG, "
            "and the LaTeX supplements."
        ),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the bootstrap.")] = 0,
    draws: Annotated[int, typer.Option(min=100, help="Bootstrap draws.")] = 10_000,
    as_json: AsJson = False,
) -> None:
    """Regenerate the five published reports, each number beside what was printed."""
    from kdlora.evidence.result import Rules
    from kdlora_reproductions import REPORTS, read_inputs
    from kdlora_reproductions import reproduce as run
    from kdlora_reproductions.write import write_reports, write_steps

    inputs = read_inputs(folder, runs=runs, scores=paper1, costs=paper2, matrix=matrix)
    rules = Rules(draws=draws)
    with steps("report", len(REPORTS), hidden=as_json) as on_step:
        reproduction = run(inputs, seed=seed, rules=rules, on_step=on_step)
    index = None
    if out is not None:
        with steps("writing", write_steps(reproduction), hidden=as_json) as on_step:
            index = write_reports(reproduction, out, on_step=on_step)
    if as_json:
        _print_json({**_as_plain(reproduction), "out": str(index) if index else None})
        return
    _show_reproduction(reproduction)
    if index:
        say(f"Written: {index}")


def _failed(reproduction: Reproduction) -> list[dict[str, Any]]:
    """The printed numbers that the records do not give."""
    from kdlora.evidence.result import plain

    numbers = reproduction.numbers()
    return plain(numbers[numbers["reproduced"].eq(False)])


def _as_plain(reproduction: Reproduction) -> dict[str, Any]:
    return {
        "summary": reproduction.summary(),
        "skipped": reproduction.skipped,
        "sources": reproduction.sources,
        "problems": reproduction.problems,
        "not_reproduced": _failed(reproduction),
        "contradictions": [
            {"report": report.id, **item.to_dict()}
            for report in reproduction.reports
            for item in report.contradictions
        ],
        "sound": [
            {"report": report.id, **item.to_dict()}
            for report in reproduction.reports
            for item in report.sound
        ],
    }


def _show_reproduction(reproduction: Reproduction) -> None:
    console = terminal()
    table = _table("report", "", "printed", "reproduced", "contradictions")
    for row in reproduction.summary():
        columns = ("report", "title", "printed", "reproduced", "contradictions")
        _add(table, *(row[column] for column in columns))
    console.print(table)
    failed = _failed(reproduction)
    if failed:
        table = _table("report", "not reproduced", "printed", "recomputed", "source")
        for item in failed:
            place = f"{item['table']} {item['key']}, {item['column']}"
            what = item["column"] if item["table"] == "prose" else place
            value = item["value"]
            value = f"{value:.4g}" if isinstance(value, float) else value
            _add(table, item["report"], what, item["printed"], value, item["source"])
        console.print(table)
    table = _table("report", "question", "what the data can carry")
    for report in reproduction.reports:
        for sound in report.sound:
            _add(table, report.id, sound.question, sound.answer)
    console.print(table)
    for report_id, why in reproduction.skipped.items():
        console.print(f"Report {report_id} was left out: {why}.")
    for problem in reproduction.problems:
        console.print(problem)


def _show_import(folder: Path, imported: Imported) -> None:
    console = terminal()
    frame = imported.frame
    table = _table("arm", "runs", "tasks", "pairs", "seeds")
    for arm, part in frame.groupby("arm", dropna=False):
        sizes = (part[k].nunique() if k in part else 0 for k in ("task", "pair", "seed"))
        _add(table, arm, len(part), *sizes)
    console.print(table)
    console.print(
        f"{_runs(len(frame))} from {imported.source} (format {imported.mapping.name}); "
        f"{len(imported.kept)} unknown columns kept, {len(imported.aggregates)} rows that sum "
        "others up set apart.",
    )
    for problem in imported.problems:
        console.print(f"! {problem}", style="yellow")
    console.print(f"Imported into {folder}")


def _runs(n: int) -> str:
    return f"{n:,} run{'s' * (n != 1)}"


def _show_diagnosis(
    name: str,
    covered: Coverage | None,
    uncovered: str,
    findings: Sequence[DiagnosisFinding],
    rows: bool,
) -> None:
    from rich.text import Text

    console = terminal()
    console.print(f"Coverage of {name}", style="bold")
    for sentence in covered.sentences() if covered else [uncovered]:
        console.print(f"  {sentence}")
    if not findings:
        console.print("No doubt found by the checks that this study allows.")
        return
    table = _table("finding", "what")
    for finding in findings:
        runs = f"\n{finding.n} run{'s' * (finding.n != 1)}" if finding.n else ""
        label = Text(f"{finding.severity}\n{finding.name}{runs}", style=STYLES[finding.severity])
        table.add_row(label, Text(finding.sentence))
    console.print(table)
    if rows:
        for finding in findings:
            if finding.rows:
                console.print(f"{finding.name}:", style="bold")
                for run in finding.rows:
                    console.print(f"  {run}")
    errors = sum(f.severity == "error" for f in findings)
    console.print(f"{len(findings)} findings, {errors} of them errors.")


def _table(*columns: str) -> Any:
    from rich.table import Table

    return Table(*columns, show_lines=True)


def _add(table: Any, *cells: object) -> None:
    table.add_row(*map(str, cells))


def _print_json(value: dict[str, Any]) -> None:
    from kdlora.evidence.result import plain

    say_json(plain(value))
