"""Commands that make, run and report studies."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.text import Text

from kdlora.cli import completion
from kdlora.cli.options import LabelColumns, LabelSeparator, split_names
from kdlora.cli.part import Where, Without
from kdlora.cli.terminal import say, terminal
from kdlora.errors import InputError, StudyFailed, without_traceback
from kdlora.files import real_path
from kdlora.records.study_folder import find_study, folder_of
from kdlora.vocabulary.task import as_number

if TYPE_CHECKING:
    from kdlora.evidence.students import BetterBaseline
    from kdlora.report.build import ReportFiles
    from kdlora.ship.study_result import StudyResult
    from kdlora.spec.study import Study

Out = Annotated[
    Path | None, typer.Option(help="Folder for everything that is made; default results/NAME.")
]
Workers = Annotated[int, typer.Option(min=1, help="Runs trained at the same time.")]
Threads = Annotated[
    int | None, typer.Option(min=1, help="Threads of each worker; default cores / workers.")
]
Only = Annotated[
    list[str] | None,
    typer.Option(
        metavar="PATTERN",
        autocompletion=completion.runs,
        help="Only these runs and the teachers they need: a name with * or a /regular expression/ "
        "for a task, arm, pair, seed or run id, or for one of them: task=rte, arm=student/kd-*, "
        "seed=1. May be given many times: alternatives within a field, all fields must hold. "
        "Default: all runs.",
    ),
]
MaxHours = Annotated[
    float | None,
    typer.Option(
        min=0.001,
        help="Stop after this time, the running ones with a checkpoint. What by the estimate "
        "would not end in time starts last, and goes on the next time. Default: no limit.",
    ),
]
RetryFailed = Annotated[
    bool, typer.Option("--retry-failed", help="Try runs again that failed before; default: no.")
]
RetryFlagged = Annotated[
    bool,
    typer.Option(
        "--retry-flagged",
        help="Do runs again whose own record carries a warning, and the students of such "
        "teachers; the old results are kept aside. An unequal_... flag is in no record: it comes "
        "of comparing runs, see the report. Default: no.",
    ),
]
RunWorkers = Annotated[
    int | None,
    typer.Option(
        min=1,
        help="Runs trained at the same time; default 1, with --engine ray as many as fit.",
    ),
]
Engine = Annotated[
    str,
    typer.Option(
        metavar="local|ray",
        help="Where runs happen: local, on this machine; ray, on a Ray cluster.",
    ),
]
Address = Annotated[
    str | None,
    typer.Option(
        help="Ray cluster: ray://host:port, host:port, auto (the one running here) or local (one "
        "that is started for this study). Default: RAY_ADDRESS, else local.",
    ),
]
Mlflow = Annotated[
    bool,
    typer.Option(
        "--mlflow",
        help="Mirror every record to MLflow: to MLFLOW_TRACKING_URI, else to mlflow.db in the "
        "study's folder. Default: no.",
    ),
]
MlflowUri = Annotated[
    str | None,
    typer.Option(
        metavar="URI",
        help="Mirror to this server (http://...) or database (sqlite:///..., or a file's path).",
    ),
]
Trackio = Annotated[
    bool,
    typer.Option("--trackio", help="Mirror every record to Trackio on this machine. Default: no."),
]
Strict = Annotated[
    bool,
    typer.Option(
        "--strict",
        help="What a look at the data warns of is an error (exit code 2); default: no.",
    ),
]
KeepTexts = Annotated[
    bool,
    typer.Option(
        "--keep-texts/--no-texts",
        help="Whether the study's folder keeps the texts, so that mistakes can be read in the "
        "report; default: yes.",
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for a script to read.")]
StudyFile = Annotated[
    str,
    typer.Argument(
        metavar="STUDY",
        help="A study file, or a preset (kdlora init lists them).",
        autocompletion=completion.studies,
    ),
]
DataDir = Annotated[
    str | None,
    typer.Option(help="Folder of <task>/{train,validation}.tsv, instead of the study's data_dir."),
]


def _known(context: typer.Context, study: Path) -> Path:
    """The study as it was named: a name that is none is told before tables are loaded."""
    if not context.resilient_parsing:
        find_study(study)
    return study


StudyFolder = Annotated[
    Path,
    typer.Argument(
        metavar="STUDY",
        help="A study's folder, or its name below results.",
        callback=_known,
    ),
]


def demo(out: Out = None, workers: Workers = 1, threads: Threads = None) -> None:
    """Show on real text what a teacher and texts without labels give a small model."""
    from kdlora.api import as_study

    _run(as_study("demo"), out, workers=workers, threads=threads, retry_failed=True)


def run(
    study: StudyFile,
    out: Out = None,
    workers: RunWorkers = None,
    threads: Threads = None,
    data_dir: DataDir = None,
    only: Only = None,
    max_hours: MaxHours = None,
    retry_failed: RetryFailed = False,
    retry_flagged: RetryFlagged = False,
    engine: Engine = "local",
    address: Address = None,
    mlflow: Mlflow = False,
    mlflow_uri: MlflowUri = None,
    trackio: Trackio = False,
    strict: Strict = False,
    keep_texts: KeepTexts = True,
) -> None:
    """Do what is missing of a study, then write its report.

    Stop it whenever you like: the same command goes on where it stopped. Several of these commands,
    on one machine or on many that share the folder, divide the runs among themselves.
    """
    _run(
        _read(study, data_dir, keep_texts=keep_texts),
        out,
        workers=workers,
        threads=threads,
        only=only or (),
        max_hours=max_hours,
        retry_failed=retry_failed,
        retry_flagged=retry_flagged,
        engine=engine,
        address=address,
        mlflow=mlflow,
        mlflow_uri=mlflow_uri,
        trackio=trackio,
        strict=strict,
    )


def distil(
    train: Annotated[str, typer.Option(help="Training data: CSV, TSV, JSONL or Parquet.")],
    student: Annotated[
        str,
        typer.Option(
            help="Small encoder: hub name, folder or minilm-l3 ...",
            autocompletion=completion.encoders,
        ),
    ],
    teacher: Annotated[
        str | None,
        typer.Option(
            help="Large encoder: hub name, folder or minilm-l6 ...",
            autocompletion=completion.encoders,
        ),
    ] = None,
    teacher_outputs: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            help="Instead of a teacher: what another model or people said of the texts. Training "
            "rows then need no label.",
        ),
    ] = None,
    outputs_kind: Annotated[
        str,
        typer.Option(
            help="What it holds: labels, probabilities, logits, votes or scores; auto tells it "
            "from its columns."
        ),
    ] = "auto",
    outputs_label: Annotated[
        str | None, typer.Option(help="Its column of class names; default as --label.")
    ] = None,
    outputs_separator: Annotated[
        str | None,
        typer.Option(
            metavar="SIGN",
            help="What stands between several labels of its; default as --label-separator.",
        ),
    ] = None,
    confidence: Annotated[
        str | None, typer.Option(help="Its column of how sure each is, 0 to 1.")
    ] = None,
    hypothesis: Annotated[
        str | None,
        typer.Option(
            help='"This text is about {}.": the teacher answers by entailment, without training '
            "and without labels."
        ),
    ] = None,
    teacher_embeddings: Annotated[
        bool,
        typer.Option(
            "--teacher-embeddings",
            help="The teacher is a linear model on the embeddings of --teacher as it comes, which "
            "takes seconds.",
        ),
    ] = False,
    hub: Annotated[
        str | None,
        typer.Option(
            metavar="OWNER/NAME",
            help="A data set of the hub, of which --train and --eval name splits.",
        ),
    ] = None,
    eval: Annotated[
        str | None, typer.Option(help="Held-out data.", show_default="20 % of train")
    ] = None,
    unlabelled: Annotated[
        list[str] | None,
        typer.Option(
            metavar="FILE",
            help="Texts without labels, which the student learns from the teacher's answers; may "
            "be given many times. Their columns are called as the training data's. The word "
            "recombined stands for the training pairs' texts in new pairs, augmented for the "
            "training texts with some words changed.",
            show_default="none",
        ),
    ] = None,
    text: Annotated[
        list[str] | None, typer.Option(help="Text column; twice for a pair.", show_default="text")
    ] = None,
    label: Annotated[str, typer.Option(help="Label column.")] = "label",
    label_separator: LabelSeparator = None,
    labels: LabelColumns = None,
    id: Annotated[str | None, typer.Option(help="Column of unique example ids.")] = None,
    kind: Annotated[
        str, typer.Option(help="auto, classification, regression or multilabel.")
    ] = "auto",
    metric: Annotated[
        str | None,
        typer.Option(help="Primary metric.", show_default="macro_f1; pearson of a regression"),
    ] = None,
    positive: Annotated[str | None, typer.Option(help="Class whose F1 is reported as f1.")] = None,
    teacher_is_trained: Annotated[
        bool | None,
        typer.Option(
            "--teacher-is-trained/--train-teacher",
            help="Whether the teacher is already fine-tuned on this task; default: yes for a "
            "local folder that holds a sequence classifier.",
        ),
    ] = None,
    adaptation: Annotated[
        str,
        typer.Option(
            help="The student's: lora, dora, fft ...", autocompletion=completion.adaptations
        ),
    ] = "lora",
    rank: Annotated[
        int | None, typer.Option(help="Rank of the adapter.", show_default="16")
    ] = None,
    epochs: Annotated[
        int | None,
        typer.Option(help="Passes over the training data.", show_default="3, more up to 200 steps"),
    ] = None,
    batch_size: Annotated[
        int | None, typer.Option(help="Examples per optimizer step.", show_default="32")
    ] = None,
    lr: Annotated[
        float | None,
        typer.Option(
            help="Peak learning rate, of all arms alike.",
            show_default="0.0001 of full fine-tuning, 0.001 of adapters and new heads",
        ),
    ] = None,
    max_length: Annotated[
        str | None,
        typer.Option(
            metavar="TOKENS|auto",
            help="Tokens per text; more are cut. auto: the 99th percentile of the texts, up to "
            "what encoders and memory allow.",
            show_default="128",
        ),
    ] = None,
    windows: Annotated[
        str | None,
        typer.Option(
            metavar="mean|max",
            help="Read long texts whole, in windows of --max-length tokens that overlap by a "
            "quarter; their logits are pooled by this.",
            show_default="texts are cut",
        ),
    ] = None,
    class_weights: Annotated[
        list[str] | None,
        typer.Option(
            metavar="balanced|CLASS=WEIGHT",
            help="How much a row counts in the loss of labels: balanced gives every class the same "
            "say; CLASS=WEIGHT may be given many times, classes not named count 1.",
            show_default="all alike",
        ),
    ] = None,
    focal: Annotated[
        float | None,
        typer.Option(
            help="Gamma of the focal loss: rows that are learnt already count less.",
            show_default="0",
        ),
    ] = None,
    max_train: Annotated[
        int | None,
        typer.Option(help="Train on a stratified subset of this size.", show_default="all rows"),
    ] = None,
    max_eval: Annotated[
        int | None,
        typer.Option(help="Report on a stratified subset of this size.", show_default="all rows"),
    ] = None,
    temperature: Annotated[
        float | None, typer.Option(help="Softens the teacher's logits.", show_default="2")
    ] = None,
    kd_weight: Annotated[
        float | None, typer.Option(help="Teacher's share in the loss.", show_default="0.5")
    ] = None,
    seeds: Annotated[
        list[str] | None,
        typer.Option(
            "--seeds",
            "--seed",
            metavar="N,N,...",
            help="Every arm is trained once a seed: 1,2,3; may be given many times.",
            show_default="42",
        ),
    ] = None,
    name: Annotated[str | None, typer.Option(help="Name of the study.")] = None,
    out: Out = None,
    workers: Workers = 1,
    threads: Threads = None,
    strict: Strict = False,
    keep_texts: KeepTexts = True,
) -> None:
    """Distil a teacher into a small student on your own file, or on a data set of the hub."""
    given = dict(locals())  # the options, by the names that they have everywhere
    from kdlora.planning.distil_study import DistilArguments, distil_study

    lists = {
        "unlabelled": unlabelled or (),
        "text": text or "text",
        "labels": split_names(labels),
        "seeds": _seeds(seeds) or (42,),
        "class_weights": _class_weights(class_weights or []),
    }
    _run(
        distil_study(DistilArguments.among(given | lists)),
        out,
        workers=workers,
        threads=threads,
        retry_failed=True,
        strict=strict,
    )


def _class_weights(given: Sequence[str]) -> str | dict[str, float] | None:
    """One word, or ``complaint=10`` and others as a mapping; None where nothing is given."""
    if len(given) <= 1 and not any("=" in text for text in given):
        return given[0] if given else None
    found: dict[str, float] = {}
    for text in given:
        name, sign, weight = text.rpartition("=")
        number = as_number(weight)
        if not sign or number is None:
            raise InputError(
                f"--class-weights: {text!r}; expected balanced alone, or CLASS=WEIGHT such as "
                "complaint=10"
            )
        if name in found:
            raise InputError(f"--class-weights names the class {name!r} twice")
        found[name] = number
    return found


def _seeds(given: list[str] | None) -> list[int]:
    """``1,2`` and ``3`` as whole numbers."""
    parts = [part.strip() for text in given or () for part in text.split(",")]
    if wrong := [part for part in parts if not part.removeprefix("-").isdecimal()]:
        raise InputError(f"--seeds: {wrong[0]!r} is no whole number; expected such as 1,2,3")
    return [int(part) for part in parts]


def report(
    folder: StudyFolder,
    where: Where = None,
    without: Without = None,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Folder to write to; default the study's, with --where or --without its part/."
        ),
    ] = None,
    open_it: Annotated[bool, typer.Option("--open", help="Open it in the browser.")] = False,
    watch: Annotated[
        bool, typer.Option("--watch", help="Write it again whenever a run ends, until all have.")
    ] = False,
    every: Annotated[int, typer.Option(min=1, help="Seconds between looks, with --watch.")] = 10,
    no_texts: Annotated[
        bool,
        typer.Option("--no-texts", help="Show mistakes without their texts; default: with them."),
    ] = False,
) -> None:
    """Write the report of a study again from its records."""
    from kdlora.api import watch_report, write_report
    from kdlora.cli.progress import steps
    from kdlora.report.content.study import sections

    part: dict[str, Any] = {"where": where or (), "without": without or (), "out": out}
    part["texts"] = not no_texts
    if not watch:
        with steps("report", sections()) as on_section:
            files = write_report(folder, on_section=on_section, **part)
        say(str(files.html))
        if open_it:
            typer.launch(str(files.html))
        files.check()
        return
    opened = False

    def tell(files: ReportFiles, done: int, planned: int) -> None:
        nonlocal opened
        say(f"{files.html}: {done} of {planned} runs done", flush=True)
        if open_it and not opened:
            typer.launch(str(files.html))
            opened = True

    try:
        watch_report(folder, every_s=every, on_written=tell, **part).check()
    except KeyboardInterrupt:
        say("stopped watching; the report stays as it was last written")


def _read(study: str, data_dir: str | None, *, keep_texts: bool = True) -> Study:
    """A study file or preset; a data_dir of the command line is relative to where it is called."""
    from kdlora.api import as_study

    changes: dict[str, Any] = {} if keep_texts else {"keep_texts": False}
    if data_dir is not None:
        changes["data_dir"] = str(real_path(Path(data_dir).expanduser()))
    return as_study(study, **changes)


def _run(study: Study, out: Path | None, **options: Any) -> None:
    """Run a study as `api.run` does with these options, show how it goes and what came of it."""
    from kdlora import api
    from kdlora.cli.progress import Board, say_set_aside
    from kdlora.engines.schedule import with_teachers
    from kdlora.engines.selection import chosen_runs

    console = terminal()
    planned = api.check(study)
    root = folder_of(study.name, out)
    only = options.get("only")
    chosen = with_teachers(planned, chosen_runs(planned, only)) if only else None
    known = [r.run_id for r in planned.runs if (root / "runs" / r.run_id / "record.json").exists()]
    try:
        with Board(planned, console, done=known, only=chosen) as board:
            result = api.run(
                study,
                out=out,
                on_event=board.on_event,
                on_note=board.note,
                **options,
            )
    except StudyFailed as error:  # it is shown like any other, and told below with all its errors
        result = error.result
    finally:
        say_set_aside(root, console)
    show(result, console)
    left = sum(state == "later" for state in result.status.values())
    if left:
        console.print(f"left:    {left} runs; the same command goes on with them", soft_wrap=True)
    if result.failed:
        skipped = len(result.skipped)
        console.print(
            f"failed:  {len(result.failed)} runs"
            + (f", and {skipped} that need them were skipped" if skipped else "")
            + f"; when the cause is mended: kdlora run {result.folder / 'study.yaml'} "
            f"--out {result.folder} --retry-failed",
            soft_wrap=True,
        )
        problems = [f"{i} failed: {without_traceback(error)}" for i, error in result.failed.items()]
        problems += [f"not in the report: {part}" for part in result.report.failures]
        raise InputError(problems)
    result.report.check()


def _why_not(better: BetterBaseline) -> str:
    """Why a saved student is not to be tried."""
    from kdlora.report import words as w

    scale = w.scale_of(better.metric)
    told = (
        f"{w.phrase(better.arm)} scores {scale.write(better.score)} on the report split, this "
        f"student {scale.write(better.student_score)} ({w.metric_name(better.metric)}): "
    )
    if better.is_level:
        return told + (
            "it is no better than what costs next to nothing. Use the baseline, or judge both on "
            "more and harder rows"
        )
    return told + (
        "it learnt too little to be worth its cost. More epochs, a higher learning rate or more "
        "rows may help; kdlora look says what is doubtful in the data"
    )


def show(result: StudyResult, console: Any) -> None:
    from kdlora.evidence.students import better_baseline
    from kdlora.report.content.few_rows import told_few_rows
    from kdlora.report.render.terminal import flags_panel, results_table
    from kdlora.ship.student import unsaved_students

    console.print(results_table(result.frame))
    for text in told_few_rows(result.frame):
        console.print(Text.assemble(("few rows:", "yellow"), f" {text}"), soft_wrap=True)
    panel = flags_panel(result.frame)
    if panel is not None:
        console.print(panel)
    for folder, card in result.students:
        console.print(f"student: {folder} ({card.arm}, seed {card.seed}; {card.chosen_because})",
                      soft_wrap=True)  # fmt: skip
        better = better_baseline(result.frame, card.run_id)
        if better is None:
            console.print(f'try it:  kdlora predict {folder} --text "..."', soft_wrap=True)
        else:
            told = Text.assemble(("not yet:", "yellow"), f" {_why_not(better)}")
            console.print(told, soft_wrap=True)
    for name, why in unsaved_students(result.frame).items():
        of = f" as {name}" if name else ""
        told = Text.assemble(("student:", "yellow"), f" none is saved{of}: {why}")
        console.print(told, soft_wrap=True)
    console.print(f"report:  {result.report.html}", soft_wrap=True)
    console.print(f"         {result.report.markdown}", soft_wrap=True)
