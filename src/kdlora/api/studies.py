"""Plan a study, run it, distil one student, report, predict: what trains, and what was trained."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, overload

from kdlora.errors import InputError, Problems, StudyFailed, did_you_mean, without_traceback
from kdlora.planning.distil_study import DistilArguments, distil_study
from kdlora.records.study_folder import folder_of
from kdlora.ship.study_result import StudyResult
from kdlora.spec.check import make_study, read_study
from kdlora.spec.plan import Plan, make_plan
from kdlora.spec.presets import preset_names, preset_path
from kdlora.spec.study import Study

if TYPE_CHECKING:
    import datasets
    import pandas as pd

    from kdlora.engines.supervisor import OnEvent
    from kdlora.evidence.mistakes import TaskMistakes
    from kdlora.planning.preflight import Inspected
    from kdlora.records.data_look import DataLook
    from kdlora.records.store import Store
    from kdlora.records.tidy import StudyFrame
    from kdlora.report.build import ReportFiles
    from kdlora.ship.answers import Predictor
    from kdlora.spec.plan import ChosenLength
    from kdlora.spec.run import EncoderRef, TaskRef
    from kdlora.spec.sections import Data

    Model: TypeAlias = str | Path | Predictor
    LabelledRows: TypeAlias = (
        str
        | Path
        | pd.DataFrame
        | datasets.Dataset
        | Sequence[Mapping[str, Any]]
        | Sequence[tuple[Any, ...]]
    )
    Texts: TypeAlias = (
        str | Path | pd.DataFrame | datasets.Dataset | Sequence[str | Path | Mapping[str, Any]]
    )

_LOST = ("failed", "skipped")  # states of runs that came to nothing


def as_study(study: Study | str | Path | dict[str, Any], **changes: Any) -> Study:
    """A study from a YAML file, the name of a preset, a mapping, or itself.

    `changes` replace top-level keys of the study.
    """
    if isinstance(study, Study):
        if not changes:  # what it leaves to its defaults stays left to them
            return study
        study = {**study.as_file(), "base_dir": study.base_dir}
    if isinstance(study, dict):
        return make_study({**study, **changes})
    path = Path(study)
    if path.is_file() or path.suffix or len(path.parts) > 1:
        return read_study(path, **changes)
    preset = preset_path(str(study))
    if preset is None:
        known = did_you_mean(str(study), preset_names())
        raise InputError(f"'{study}' is neither a study file nor a preset.{known}")
    return read_study(preset, base_dir=".", **changes)


def check(study: Study) -> Plan:
    """Plan a study and look at its own files' headers. Raises InputError with all problems."""
    from kdlora.data.hub_data import as_files
    from kdlora.data.own_task import check_own_task, check_teaching_files
    from kdlora.planning.text_length import shortest_reach
    from kdlora.spec.hub_data import is_stored

    problems = Problems(f"study '{study.name}'")
    plan = make_plan(study, _choose_length, shortest_reach)
    for task in {run.task.name: run.task for run in plan.runs}.values():
        own = task.own
        if own is not None and own.hub is not None:  # what is not here yet is checked once it is
            own = as_files(own) if is_stored(own) else None
        if own is not None:
            problems.add(*(f"task '{task.name}': {p}" for p in check_own_task(own)))
    for run in plan.runs:
        problems.add(*(f"task '{run.task.name}': {p}" for p in check_teaching_files(run)))
    problems.raise_any()
    return plan


def _choose_length(
    task: TaskRef, data: Data, batch: int, encoders: Sequence[EncoderRef]
) -> ChosenLength:
    """What `max_length: auto` is; imported only where a study says it."""
    from kdlora.planning.text_length import choose_length

    return choose_length(task, data, batch, encoders)


def plan(study: Study | str | Path | dict[str, Any]) -> Plan:
    """The runs that a study means, in order, without doing any.

    Raises InputError for what `run` would refuse, as far as it can be told without models and
    downloads.
    """
    from kdlora.planning.inputs import check_inputs

    planned = check(as_study(study))
    check_inputs(planned)
    return planned


def look(study: Study | str | Path | dict[str, Any]) -> list[DataLook]:
    """Look at the data of a study's tasks, without training anything: one `DataLook` a task.

    `kdlora look` also looks at a single file. Raises InputError with all that cannot be read.
    """
    from kdlora.planning.data_looks import read_and_look

    return read_and_look(check(as_study(study)))


def run(
    study: Study | str | Path | dict[str, Any],
    *,
    out: str | Path | None = None,
    workers: int | None = None,
    threads: int | None = None,
    only: Sequence[str] = (),
    max_hours: float | None = None,
    retry_failed: bool = False,
    retry_flagged: bool = False,
    engine: str = "local",
    address: str | None = None,
    mlflow: bool = False,
    mlflow_uri: str | None = None,
    trackio: bool = False,
    strict: bool = False,
    on_event: OnEvent | None = None,
    on_note: Callable[[str], None] | None = None,
) -> StudyResult:
    """Do what is missing of a study, then write its report and keep its best student.

    Several processes and machines may do so for one folder at the same time: they share the runs.

    Args:
        out: the study's folder; default ``results/<name>``.
        workers: runs trained at the same time; default 1, and with Ray as many as there is
            room for.
        threads: threads of each worker; default the cores divided by the workers.
        only, max_hours, retry_failed, retry_flagged: which runs, see
            `engines.selection.RunSelection`.
        engine, address, mlflow, mlflow_uri, trackio: where, and mirrored to what; see
            `engines.execution.Execution`.
        strict: what a look at the data warns of is an error, before anything is trained.
        on_event: told of every run's progress (see `engines.supervisor.OnEvent`).
        on_note: told in words what is being prepared or downloaded.

    Raises InputError before anything is written if the study, its data or its models are unusable,
    and StudyFailed if then nothing but baselines could be done. Where only some runs failed, the
    result's `failed` and `skipped` say which and why.
    """
    from kdlora.engines.execution import Execution
    from kdlora.engines.selection import RunSelection, chosen_runs
    from kdlora.engines.supervisor import EngineOptions
    from kdlora.records.data_look import write_looks
    from kdlora.records.frame import load_frame, save_plan
    from kdlora.records.store import Store
    from kdlora.ship.student import save_students

    on_note = on_note or _say_nothing
    study = as_study(study)
    planned = check(study)
    store = Store(folder_of(study.name, out))
    store.check()
    execution = Execution(engine, address, mlflow, mlflow_uri, trackio)
    execution.check(store.root)
    selection = RunSelection(tuple(only), max_hours, retry_failed, retry_flagged)
    if selection.only:
        chosen_runs(planned, selection.only)  # a wrong pattern is told before anything is read
    options = EngineOptions(workers, threads, selection=selection)
    inspected: Inspected | None = None
    if retry_flagged or not all(store.is_done(r.run_id) for r in planned.runs):
        from kdlora.engines.local import call_in_worker, start_server
        from kdlora.planning.preflight import preflight

        start_server(options)  # models are looked at in it, whichever the engine
        inspected = preflight(planned, on_note, partial(call_in_worker, options=options))
        _tell(inspected.looks, on_note, strict=strict)
    store.prepare()
    save_plan(store, study, planned)
    if inspected is not None:
        from kdlora.planning.stored_rows import keep_rows

        write_looks(inspected.looks, store.root)
        keep_rows(
            planned, inspected.data, store.root, texts=study.keep_texts, rules=inspected.rules
        )
        del inspected  # the rows; workers read their own
    status = execution.run_plan(
        planned,
        store,
        options,
        on_event=on_event or (lambda run, event: None),
        on_note=on_note,
    )
    with store.closing():  # the last two processes of a study often end together
        frame = load_frame(store.root)
        students = save_students(frame, store, on_note)
        result = StudyResult(
            folder=store.root,
            status=status,
            frame=frame,
            report=_report(store.root, frame, store.root),
            students=students,
            failed=_errors(planned, status, store),
            skipped=_skipped(planned, status),
        )
    _require_some(planned, result)
    return result


def _say_nothing(text: str) -> None:
    """Where nobody wants to be told."""


def _tell(
    looks: Sequence[DataLook], on_note: Callable[[str], None], *, strict: bool = False
) -> None:
    """What was found in the data: warnings with what to do, the rest in short."""
    from kdlora.planning.data_looks import require_sound

    if strict:
        require_sound(looks)
    for look in looks:
        for found in look.findings:
            level = "" if found.severity == "info" else f"{found.severity}: "
            on_note(f"{look.task}: {level}{found.told}")


def _errors(plan: Plan, status: dict[str, str], store: Store) -> dict[str, str]:
    """Run id -> error of the runs that failed, this time or before."""
    failures = {
        run.run_id: store.read_failure(run.run_id)
        for run in plan.runs
        if status.get(run.run_id) == "failed"
    }
    return {i: (record.error if record else None) or "unknown" for i, record in failures.items()}


def _skipped(plan: Plan, status: dict[str, str]) -> dict[str, str]:
    """Run id -> why it was skipped: what became of the first teacher that it lacks."""
    return {
        run.run_id: next(
            f"its teacher {t} is not done, but {status[t]}"
            for t in run.teachers
            if status[t] != "done"
        )
        for run in plan.runs
        if status.get(run.run_id) == "skipped"
    }


def _require_some(plan: Plan, result: StudyResult) -> None:
    """Raise StudyFailed where runs failed and none but baselines can have been done."""
    of_encoders = [run.run_id for run in plan.runs if run.role != "baseline"]
    states = [result.status[i] for i in of_encoders if i in result.status]
    if not result.failed or any(state not in _LOST for state in states or result.status.values()):
        return
    first, error = next(iter(result.failed.items()))
    needed = f", and {len(result.skipped)} that need them were skipped" if result.skipped else ""
    raise StudyFailed(
        f"every run of {result.folder} failed ({len(result.failed)}{needed}). The first, {first}: "
        f"{without_traceback(error)}\nWhen the cause is mended, run the same again with "
        "retry_failed=True (on the command line --retry-failed)",
        result,
    )


def write_report(
    folder: str | Path,
    *,
    where: Sequence[str] = (),
    without: Sequence[str] = (),
    out: str | Path | None = None,
    refresh_s: int | None = None,
    texts: bool = True,
    on_section: Callable[[str], None] | None = None,
) -> ReportFiles:
    """Write the report of a study's folder from its records.

    Args:
        where, without: the part of the study that is shown, see `records.subset.subset`.
        out: default the study's folder, or the folder ``part`` in it for a part of the study.
            Nothing is replaced there but an earlier report.
        refresh_s: the page loads itself again after so many seconds; for a study that still runs.
        texts: whether rows that are shown, such as mistakes, come with their texts.
        on_section: told the title of each section before it is made.

    A part that cannot be made says why in its place on the page, and stands in `failures` of what
    is returned.
    """
    from kdlora.records.frame import load_frame
    from kdlora.records.study_folder import find_study
    from kdlora.records.subset import subset
    from kdlora.report.build import check_report_folder

    root = find_study(folder)
    if out is not None:
        check_report_folder(Path(out), root)
    frame, part = subset(load_frame(root), where, without)
    place = Path(out) if out is not None else root / "part" if part else root
    return _report(
        root, frame, place, part=part, refresh_s=refresh_s, texts=texts, on_section=on_section
    )


def _report(
    root: Path,
    frame: pd.DataFrame,
    out: Path,
    *,
    part: str = "",
    refresh_s: int | None = None,
    texts: bool = True,
    on_section: Callable[[str], None] | None = None,
) -> ReportFiles:
    from kdlora.choice.exports import read_exports
    from kdlora.records.data_look import read_looks
    from kdlora.records.frame import load_histories, read_plan
    from kdlora.records.predictions import RunOutputs
    from kdlora.records.study_folder import STUDY_FILE
    from kdlora.report import build
    from kdlora.report.content.parts import ReportInputs
    from kdlora.report.stored_outputs import read_bins, read_stored_outputs

    planned = (root / "plan.json").is_file()
    spec = read_plan(root)["study"] if planned else {}
    rerun = f"kdlora run {root / STUDY_FILE} --out {root}"
    tasks = set(frame["task"])  # an earlier form of the study may have had others
    inputs = ReportInputs(
        spec.get("name") or root.name,
        spec,
        rerun=rerun if planned else f"kdlora report {root}",
        histories=lambda: load_histories(root),
        looks=lambda: [look for look in read_looks(root) if look.task in tasks],
        bins=lambda: read_bins(frame, root),
        examples=(lambda: read_stored_outputs(frame, root, read_exports(root, frame).forms))
        if planned
        else None,
        texts=RunOutputs(root, "report"),
        mistakes=lambda: _mistakes(root, frame, texts=texts),
        on_section=on_section or _say_nothing,
        part=part,
    )
    return build.write_report(frame, out, inputs, refresh_s=refresh_s)


def mistakes(
    study: str | Path, *, where: Sequence[str] = (), without: Sequence[str] = (), texts: bool = True
) -> list[TaskMistakes]:
    """Where a study's students are wrong: one `evidence.mistakes.TaskMistakes` a task.

    The surest wrong answers of the student to ship beside its teacher's, labels that may be wrong,
    and scores by slice.

    Args:
        study: its folder, or its name below ``results``.
        where, without: the part of the study that is read, see `records.subset.subset`.
        texts: whether rows come with their texts, where the study keeps them.
    """
    return mistakes_and_lacking(study, where=where, without=without, texts=texts)[0]


def mistakes_and_lacking(
    study: str | Path, *, where: Sequence[str], without: Sequence[str], texts: bool
) -> tuple[list[TaskMistakes], dict[str, str]]:
    """What `mistakes` gives, and why the other tasks have none."""
    from kdlora.evidence.mistakes import lacking_mistakes
    from kdlora.records.frame import load_frame
    from kdlora.records.study_folder import find_study
    from kdlora.records.subset import subset
    from kdlora.records.tidy import StudyFrame

    root = find_study(study)
    runs = StudyFrame.of(subset(load_frame(root), where, without)[0])
    found = _mistakes(root, runs, texts=texts)
    return found, lacking_mistakes(runs, found)


def _mistakes(root: Path, frame: pd.DataFrame | StudyFrame, *, texts: bool) -> list[TaskMistakes]:
    from kdlora.evidence.mistakes import OUT_OF_FOLD, Answers, gather_mistakes
    from kdlora.records import predictions
    from kdlora.records.predictions import RunOutputs
    from kdlora.records.rows import read_rows

    answers = Answers(
        RunOutputs(root, "report"),
        RunOutputs(root, "selection"),
        RunOutputs(root, OUT_OF_FOLD, file=predictions.OUT_OF_FOLD),
        lambda task: read_rows(root, task, texts=texts),
    )
    return gather_mistakes(frame, answers)


def watch_report(
    folder: str | Path,
    *,
    every_s: int = 10,
    where: Sequence[str] = (),
    without: Sequence[str] = (),
    out: str | Path | None = None,
    on_written: Callable[[ReportFiles, int, int], None] = lambda files, done, planned: None,
    texts: bool = True,
) -> ReportFiles:
    """Write the report again whenever a run ends, until no run is missing any more.

    The page loads itself again every `every_s` seconds meanwhile. `on_written` is told the files
    and how many of the planned runs are done. For the other arguments see `write_report`.
    """
    import time

    from kdlora.records.frame import load_frame
    from kdlora.records.study_folder import find_study

    root, before = find_study(folder), None
    while True:
        frame = load_frame(root).drop_duplicates("run_id")
        status = frame["status"].value_counts()
        ended = sum(int(status.get(name, 0)) for name in ("done", "failed", "stopped"))
        running = ended < len(frame)
        now = (ended, running)
        if now != before:
            files = write_report(
                root,
                where=where,
                without=without,
                out=out,
                refresh_s=every_s if running else None,
                texts=texts,
            )
            on_written(files, int(status.get("done", 0)), len(frame))
            before = now
        if not running:
            return files
        time.sleep(every_s)


def distil(
    *,
    train: LabelledRows,
    student: str | Path,
    teacher: str | Path | None = None,
    hub: str | None = None,
    eval: LabelledRows | None = None,
    unlabelled: Texts = (),
    text: str | Sequence[str] = "text",
    label: str = "label",
    label_separator: str | None = None,
    labels: Mapping[str, str] | Sequence[str] = (),
    id: str | None = None,
    kind: str = "auto",
    metric: str | None = None,
    positive: str | None = None,
    teacher_is_trained: bool | None = None,
    teacher_outputs: str | Path | None = None,
    outputs_kind: str = "auto",
    outputs_label: str | None = None,
    outputs_separator: str | None = None,
    confidence: str | None = None,
    hypothesis: str | None = None,
    teacher_embeddings: bool = False,
    adaptation: str = "lora",
    seeds: Sequence[int] = (42,),
    epochs: int | None = None,
    batch_size: int | None = None,
    lr: float | None = None,
    max_length: int | Literal["auto"] | None = None,
    windows: Literal["mean", "max"] | Mapping[str, Any] | None = None,
    class_weights: Literal["none", "balanced"] | Mapping[str, float] | None = None,
    focal: float | None = None,
    max_train: int | None = None,
    max_eval: int | None = None,
    rank: int | None = None,
    temperature: float | None = None,
    kd_weight: float | None = None,
    name: str | None = None,
    keep_texts: bool = True,
    sections: Mapping[str, Mapping[str, Any]] | None = None,
    out: str | Path | None = None,
    workers: int = 1,
    threads: int | None = None,
    strict: bool = False,
    on_event: OnEvent | None = None,
    on_note: Callable[[str], None] | None = None,
) -> StudyResult:
    """Distil a teacher into a small student on your own data.

    The teacher, a fully fine-tuned student, and the student with and without the teacher are
    trained; the one that scores best on the selection split is saved.

    The teacher may be a large encoder (`teacher`), a classifier of entailment that never saw the
    task (`teacher` with `hypothesis`), or a file of what another model or people said
    (`teacher_outputs`). Both of the last need no labels: training rows without one are learnt from
    the teacher alone, and labels are wanted to select and to report on, at least 100 for each.

    >>> result = kdlora.distil(train="train.csv", eval="dev.csv", text="review", label="stars",
    ...                        unlabelled="many-texts.csv",
    ...                        teacher="roberta-base", student="distilroberta-base")
    >>> result.student  # a folder that `kdlora predict` and transformers load

    Args:
        train: labelled rows: a CSV, TSV, JSON lines or Parquet file, a pandas DataFrame, a
            `datasets.Dataset`, or a list of mappings or of tuples (text, label). What is in memory
            is written once into the study's folder, below `data`.
        student: the small encoder: a folder, a packaged encoder such as minilm-l3, or a name of
            the model hub.
        teacher: the large encoder, named in the same ways.
        hub: a data set of the hub, such as ``fancyzhx/ag_news``, of which `train` and `eval` name
            splits.
        teacher_outputs: a file of a teacher's answers, joined by `id` where it has that column,
            else by the texts, word for word.
        outputs_kind: what it holds: labels (names of classes), probabilities, logits, votes or
            scores; by default as its columns tell.
        outputs_label, confidence: of labels, the column of the names (by default called as
            `label`), and one that says how sure each is, from 0 to 1.
        outputs_separator: of labels, what stands between several of one text (by default as
            `label_separator`); a list in JSON needs none.
        hypothesis: ``"This text is about {}."``: the teacher answers by entailment.
        teacher_embeddings: the teacher is a linear model, fitted on the labels, on the embeddings
            of `teacher` as it comes; of pairs with a number, on their cosine.
        eval: held-out rows to report on; without it a fifth of the training rows is held out.
        unlabelled: files of texts without labels, or a DataFrame, a data set or a list of mappings
            of them, which the student learns from the teacher's answers. Texts that stand in a
            labelled row in use are left out. The word "recombined" stands for the training pairs'
            texts in new pairs, "augmented" for the training texts with some words changed.
        text: the column of the text, or the two of a pair; of the unlabelled files too.
        label: the column of the class or the number, or of a list of labels.
        label_separator: what stands between the labels of a cell, where a text may have several.
        labels: label in the file: name of its class. Or the columns of labels, of which a text may
            have several: one a label, holding 1 or 0.
        id: a column of unique ids; without it rows are told apart by their texts.
        kind: auto, classification, regression or multilabel (several labels a text, or none).
        metric: the primary metric; by default macro_f1, of a regression pearson, of several labels
            mean_average_precision.
        positive: the class whose F1 is reported as f1.
        teacher_is_trained: whether the teacher is fine-tuned on this task already; by default it
            is where a local folder holds a sequence classifier.
        adaptation: the student's: lora, dora, fft and others.
        seeds: every arm is trained once a seed.
        windows: read long texts whole, in windows of `max_length` tokens whose logits are pooled
            by their mean or max; a mapping also says ``stride`` and ``max_windows``.
        class_weights: how much a row counts in the loss of hard labels: balanced gives every class
            the same say, a mapping says the weights of classes by name. The teacher's term is
            never weighted.
        focal: gamma of the focal loss, which makes rows count less that are learnt already.
        epochs, batch_size, lr, max_length, max_train, max_eval, rank, temperature, kd_weight:
            settings of the study file by their names there; None leaves the default.
        name: of the study; by default distil- and the training file's name.
        keep_texts: whether the study's folder keeps the texts, so that mistakes can be read.
        sections: further settings by section, as ``{"training": {"warmup": 0.1}}``.
        out: folder for everything that is made; by default ``results/<name>``.
        workers, threads, strict, on_event, on_note: see `run`.

    Raises InputError, with everything that is wrong, before anything is written.
    """
    given = dict(locals())  # the arguments, by the names that they have everywhere
    from kdlora.data.in_memory import RowFiles, is_in_memory

    row_files, files = None, {"train": train, "eval": eval, "unlabelled": unlabelled}
    if any(map(is_in_memory, files.values())):
        out = folder_of(name or "distil-train", out)
        row_files = RowFiles(out, (text,) if isinstance(text, str) else tuple(text))
        named = {"train": label, "eval": label, "unlabelled": None}
        files = {part: row_files.file(rows, part, named[part]) for part, rows in files.items()}
    with row_files or nullcontext():
        return run(
            distil_study(DistilArguments.among(given | files)),
            out=out,
            workers=workers,
            threads=threads,
            retry_failed=True,  # a handful of runs, and no other command to ask for it
            strict=strict,
            on_event=on_event,
            on_note=on_note,
        )


@overload
def predict(model: Model, texts: pd.DataFrame) -> pd.DataFrame: ...
@overload
def predict(
    model: Model, texts: str | Sequence[str] | Sequence[Sequence[str]]
) -> list[dict[str, Any]]: ...
def predict(model: Model, texts: Any) -> Any:
    """Labels with probabilities (or values) for texts or text pairs, by a saved model.

    >>> kdlora.predict("results/demo/student", "what a lovely film")
    [{"label": "positive", "probability": 0.96, ..., "tokens": 6, "truncated": False}]

    Args:
        model: the folder of a saved student, an export or a run, a study, which means its student,
            a name of the hub, or what `load_predictor` gave. The last two folders stay loaded.
        texts: one text; a sequence of texts, or of pairs; or a data frame, of which a copy with
            the answers as further columns is returned.

    Raises InputError that names what is no text, and ModelError for what is no model.
    """
    from kdlora.ship.predict_rows import loaded_predictor, predict_rows

    return predict_rows(loaded_predictor(model), texts)
