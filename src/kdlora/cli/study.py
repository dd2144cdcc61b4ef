"""Commands that make, plan, run and show studies."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kdlora.errors import InputError
from kdlora.spec.names import labelled

if TYPE_CHECKING:
    from kdlora.api import StudyResult
    from kdlora.report.build import ReportFiles
    from kdlora.spec.plan import Plan
    from kdlora.spec.study import Study

Out = Annotated[
    Path | None, typer.Option(help="Folder for everything that is made; default results/NAME.")
]
Workers = Annotated[int, typer.Option(min=1, help="Runs trained at the same time.")]
Threads = Annotated[
    int | None, typer.Option(min=1, help="Threads of each worker; default cores / workers.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for a script to read.")]
StudyFile = Annotated[str, typer.Argument(metavar="STUDY", help="A study file or a preset's name.")]
DataDir = Annotated[
    str | None,
    typer.Option(help="Folder of <task>/{train,validation}.tsv, instead of the study's data_dir."),
]
StudyFolder = Annotated[
    Path, typer.Argument(metavar="STUDY", help="A study's folder, or its name below results.")
]


def demo(out: Out = None, workers: Workers = 1, threads: Threads = None) -> None:
    """Run the main job on real text: a teacher, its LoRA arm, and students with and without KD."""
    from kdlora.api import as_study

    _run(as_study("demo"), out, workers, threads)


def run(
    study: StudyFile,
    out: Out = None,
    workers: Workers = 1,
    threads: Threads = None,
    data_dir: DataDir = None,
) -> None:
    """Do what is missing of a study, then write its report."""
    _run(_read(study, data_dir), out, workers, threads)


def distil(
    train: Annotated[str, typer.Option(help="Training data: CSV, TSV, JSONL or Parquet.")],
    teacher: Annotated[str, typer.Option(help="Large encoder: hub name, folder or minilm-l6 ...")],
    student: Annotated[str, typer.Option(help="Small encoder: hub name, folder or minilm-l3 ...")],
    eval: Annotated[str | None, typer.Option(help="Held-out data; default 20 % of train.")] = None,
    text: Annotated[list[str] | None, typer.Option(help="Text column; twice for a pair.")] = None,
    label: Annotated[str, typer.Option(help="Label column.")] = "label",
    id: Annotated[str | None, typer.Option(help="Column of unique example ids.")] = None,
    kind: Annotated[str, typer.Option(help="auto, classification or regression.")] = "auto",
    metric: Annotated[str | None, typer.Option(help="Primary metric; default macro_f1.")] = None,
    positive: Annotated[str | None, typer.Option(help="Class whose F1 is reported as f1.")] = None,
    teacher_is_trained: Annotated[
        bool | None,
        typer.Option(
            "--teacher-is-trained/--train-teacher",
            help="Whether the teacher is already fine-tuned on this task; default: yes for a "
            "local folder that holds a sequence classifier.",
        ),
    ] = None,
    adaptation: Annotated[str, typer.Option(help="The student's: lora, dora, fft ...")] = "lora",
    rank: Annotated[int | None, typer.Option(help="Rank of the adapter.")] = None,
    epochs: Annotated[int | None, typer.Option(help="Passes over the training data.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Examples per optimizer step.")] = None,
    max_length: Annotated[int | None, typer.Option(help="Tokens per text; more are cut.")] = None,
    max_train: Annotated[int | None, typer.Option(help="Train on a subset of this size.")] = None,
    temperature: Annotated[float | None, typer.Option(help="Softens the teacher's logits.")] = None,
    kd_weight: Annotated[float | None, typer.Option(help="Teacher's share in the loss.")] = None,
    seed: Annotated[list[int] | None, typer.Option(help="Seed; may be given many times.")] = None,
    name: Annotated[str | None, typer.Option(help="Name of the study.")] = None,
    out: Out = None,
    workers: Workers = 1,
    threads: Threads = None,
) -> None:
    """Distil a teacher into a small student on your own labelled file."""
    from kdlora.api import distil_study

    sections: dict[str, dict[str, Any]] = {
        "adapter": {"rank": rank},
        "training": {"epochs": epochs, "batch_size": batch_size, "max_length": max_length},
        "data": {"max_train": max_train},
        "distillation": {"temperature": temperature, "kd_weight": kd_weight},
    }
    study = distil_study(
        train=train,
        eval=eval,
        text=tuple(text or ("text",)),
        label=label,
        id=id,
        kind=kind,
        metric=metric,
        positive=positive,
        teacher=teacher,
        student=student,
        teacher_is_trained=teacher_is_trained,
        adaptation=adaptation,
        seeds=seed,
        name=name,
        sections={k: {n: v for n, v in s.items() if v is not None} for k, s in sections.items()},
    )
    _run(study, out, workers, threads)


def plan(
    study: StudyFile, out: Out = None, data_dir: DataDir = None, as_json: AsJson = False
) -> None:
    """Say which runs a study means and which of them are done; trains nothing."""
    from kdlora.api import check

    resolved = _read(study, data_dir)
    planned = check(resolved)
    root = out or Path("results") / resolved.name
    done = {r.run_id for r in planned.runs if (root / "runs" / r.run_id / "record.json").exists()}
    if as_json:
        rows = [
            {
                "run_id": r.run_id,
                "task": r.task.name,
                "arm": r.title,
                "seed": r.seed,
                "rank": r.adapter.rank if r.adapter else None,
                "budget": r.adapter.budget if r.adapter else None,
                "teacher_run_id": r.teacher_run_id,
                "done": r.run_id in done,
            }
            for r in planned.runs
        ]
        print(json.dumps(rows, indent=1))
        return
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    tasks = list(dict.fromkeys(r.task.name for r in planned.runs))
    table = Table("arm", *tasks, title=f"{resolved.name}: runs done / planned")
    wanted = Counter((r.task.name, r.title) for r in planned.runs)
    have = Counter((r.task.name, r.title) for r in planned.runs if r.run_id in done)
    for arm in dict.fromkeys(r.title for r in planned.runs):
        cells = ((have[task, arm], wanted[task, arm]) for task in tasks)
        table.add_row(escape(arm), *(f"{h} / {w}" if w else "-" for h, w in cells))
    console = Console()
    console.print(table)
    for budget, arms in _budgets(planned).items():
        console.print(
            f"adapter budget: {budget:,} trainable parameters, which set the rank: "
            f"{', '.join(arms)}",
            soft_wrap=True,
            markup=False,
        )
    shared = _shared(planned)
    if shared:
        console.print(f"the same run as another arm's: {', '.join(shared)}", soft_wrap=True,
                      markup=False)  # fmt: skip
    students = [r for r in planned.runs if r.teacher_run_id]
    taught = {teacher for r in students for teacher in r.teachers}
    console.print(
        f"{len(planned.runs)} runs, {len(done)} done, {len(planned.runs) - len(done)} to do; "
        f"{len(taught)} teacher runs serve {len(students)} distilled students. Results: {root}",
        soft_wrap=True,
    )


def _budgets(planned: Plan) -> dict[int, list[str]]:
    """Budgets of trainable parameters -> the arms that have them."""
    found: dict[int, list[str]] = {}
    for run in planned.runs:
        if run.adapter is not None and run.adapter.budget is not None:
            arms = found.setdefault(run.adapter.budget, [])
            arms += [run.title] if run.title not in arms else []
    return found


def _shared(planned: Plan) -> list[str]:
    """Labelled arms whose settings are those of an arm that is planned anyway."""
    titles = {run.title for run in planned.runs}
    names = dict.fromkeys(labelled(cell.arm, cell.label) for cell in planned.cells)
    return [name for name in names if name not in titles]


def status(folder: StudyFolder, as_json: AsJson = False) -> None:
    """Show the results of a study's folder so far."""
    from rich.console import Console

    from kdlora.report.terminal import flags_panel, results_table, status_table
    from kdlora.store.frame import load_frame

    frame = load_frame(folder)
    if as_json:
        print(frame.to_json(orient="records", indent=1))
        return
    console = Console()
    if (frame["status"] != "done").any():
        console.print(status_table(frame))
    console.print(results_table(frame))
    panel = flags_panel(frame)
    if panel is not None:
        console.print(panel)


def report(
    folder: StudyFolder,
    open_it: Annotated[bool, typer.Option("--open", help="Open it in the browser.")] = False,
    watch: Annotated[
        bool, typer.Option("--watch", help="Write it again whenever a run ends, until all have.")
    ] = False,
    every: Annotated[int, typer.Option(min=1, help="Seconds between looks, with --watch.")] = 10,
) -> None:
    """Write the report of a study again from its records."""
    from kdlora.api import watch_report, write_report

    if not watch:
        files = write_report(folder)
        print(files.html)
        if open_it:
            typer.launch(str(files.html))
        return
    opened = False

    def tell(files: ReportFiles, done: int, planned: int) -> None:
        nonlocal opened
        print(f"{files.html}: {done} of {planned} runs done", flush=True)
        if open_it and not opened:
            typer.launch(str(files.html))
            opened = True

    try:
        watch_report(folder, every_s=every, on_written=tell)
    except KeyboardInterrupt:
        print("stopped watching; the report stays as it was last written")


def _read(study: str, data_dir: str | None) -> Study:
    """A study file or preset; a data_dir of the command line is relative to where it is called."""
    from kdlora.api import as_study

    if data_dir is None:
        return as_study(study)
    return as_study(study, data_dir=str(Path(data_dir).expanduser().resolve()))


def _run(study: Study, out: Path | None, workers: int, threads: int | None) -> None:
    from rich.console import Console

    from kdlora import api
    from kdlora.cli.progress import Board

    console = Console()
    planned = api.check(study)
    with Board(planned, console) as board:
        result = api.run(
            study,
            out=out,
            workers=workers,
            threads=threads,
            on_event=board.on_event,
            on_note=board.note,
        )
    _show(result, console)
    failed = [run_id for run_id, state in result.status.items() if state == "failed"]
    if failed:
        raise InputError([f"{run_id} failed: {_reason(result, run_id)}" for run_id in failed])


def _reason(result: StudyResult, run_id: str) -> Any:
    rows = result.frame[result.frame["run_id"] == run_id]
    text = str(rows["error"].iloc[0]) if len(rows) else "unknown"
    return text.splitlines()[-1] if text.startswith("Traceback") else text


def _show(result: StudyResult, console: Any) -> None:
    from kdlora.report.terminal import flags_panel, results_table

    console.print(results_table(result.frame))
    panel = flags_panel(result.frame)
    if panel is not None:
        console.print(panel)
    for folder, card in result.students:
        console.print(f"student: {folder} ({card.arm}, seed {card.seed}; {card.chosen_because})",
                      soft_wrap=True)  # fmt: skip
        console.print(f'try it:  kdlora predict {folder} --text "..."', soft_wrap=True)
    console.print(f"report:  {result.report.html}", soft_wrap=True)
    console.print(f"         {result.report.markdown}", soft_wrap=True)
