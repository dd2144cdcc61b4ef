"""What a plan's runs read: rows, texts without labels, teachers' files and configs, all checked.

`kdlora plan` and `kdlora run` ask the same here, so that the one refuses what the other would. It
needs neither torch nor transformers. What only models can tell comes after it (`preflight`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from kdlora.data.class_weights import weighting_problems
from kdlora.data.encoder_files import encoder_config
from kdlora.data.examples import TaskData, joined
from kdlora.data.model_folder import check_folder
from kdlora.data.packaged import is_fetched
from kdlora.data.splits import SHORT_SELECTION
from kdlora.data.tasks import load_task
from kdlora.data.teacher_outputs import TeacherTable, read_teacher_outputs
from kdlora.data.unlabelled import Unlabelled, load_unlabelled
from kdlora.errors import ModelError, Problems, did_you_mean
from kdlora.measure.calibration import LEAST_ROWS
from kdlora.models.families import longest_text
from kdlora.spec.distillation import signal_problems
from kdlora.spec.hub_data import is_stored
from kdlora.spec.plan import Plan
from kdlora.spec.run import (
    BaselineRun,
    DistilledRun,
    EmbeddingsTeacherRun,
    EncoderRef,
    EncoderRun,
    FileTeacherRun,
    GivenTeacherRun,
    Run,
    TaskRef,
    TextsRef,
    TrainedRun,
    ZeroShotTeacherRun,
    reader_of,
)
from kdlora.vocabulary.output_names import (
    entailment_output,
    names_in,
    require_outputs,
    require_problem_type,
)

OnNote = Callable[[str], None]


def silent(note: str) -> None:
    """Nobody is told."""


def check_inputs(plan: Plan) -> dict[str, TaskData]:
    """Read what a plan's runs read, but for what would have to be downloaded; returns the rows.

    Raises InputError with everything that is wrong with it.
    """
    problems = Problems()
    loaded = read_inputs(plan, problems, fetch=False)
    problems.raise_any()
    return loaded


def read_inputs(
    plan: Plan, problems: Problems, *, fetch: bool = True, on_note: OnNote = silent
) -> dict[str, TaskData]:
    """The rows of a plan's tasks by name; what is wrong with all that its runs read is added.

    Without `fetch` nothing is downloaded: tasks that would have to be are left out, and with them
    what is read of their rows. So are those that cannot be read.
    """
    loaded: dict[str, TaskData] = {}
    for name, run in {run.task.name: run for run in plan.runs}.items():
        if fetch or _is_here(run.task):
            on_note(f"reading {name}")
            with problems.caught():
                loaded[name] = load_task(run.task, run.data, progress=on_note)
    _check_folders(plan, problems)
    problems.add(*_too_long(plan))
    if not problems:
        _check_teaching(plan, loaded, on_note, problems)
    return loaded


def _is_here(task: TaskRef) -> bool:
    """Whether a task's rows can be read without a download."""
    if task.source == "hub":
        return task.own is not None and is_stored(task.own)
    return task.source != "package" or is_fetched(task.name)


def _check_teaching(
    plan: Plan, loaded: dict[str, TaskData], on_note: OnNote, problems: Problems
) -> None:
    """What the students learn from: their teachers' files and texts without labels."""
    known: dict[str, Any] = {}
    by_id = {run.run_id: run for run in plan.runs}

    def once(key: str, check: Callable[..., Any], *arguments: Any) -> Any:
        """What the check of a key returned, now or before; its problems are told once."""
        if key not in known:
            known[key] = None
            with problems.caught():
                known[key] = check(*arguments)
        return known[key]

    for run in plan.runs:
        data = loaded.get(run.task.name)
        if data is None:
            continue
        if not len(data.train):
            problems.add(*_without_labels(run, data))
        if isinstance(run, FileTeacherRun):
            once(run.run_id, _file, run, data, on_note)
        if isinstance(run, ZeroShotTeacherRun):
            problems.add(*_unfit_zero_shot(run, data))
        if isinstance(run, GivenTeacherRun):
            problems.add(*_unfit_classifier(run, data))
        if isinstance(run, TrainedRun):
            problems.add(*weighting_problems(run.training, data.task))
        if isinstance(run, TrainedRun) and run.counted:
            once(_key_of(run, run.counted), _texts, run.counted, run, data, on_note)
        if not isinstance(run, DistilledRun):
            continue
        unfit = signal_problems(run.kd.signals, data.task.kind)
        problems.add(*(f"{run.title}: {problem}" for problem in unfit))
        key = _key_of(run, run.unlabelled)
        extra: Unlabelled | None = once(key, _texts, run.unlabelled, run, data, on_note)
        lost = extra is None and not all(source.of_train for source in run.unlabelled)
        teacher = by_id[run.teachers[0]]
        if isinstance(teacher, FileTeacherRun) and not lost:
            table = once(teacher.run_id, _file, teacher, data, on_note)
            if table is not None:
                once(f"{teacher.run_id} {key}", _answers, table, data, extra, on_note)


def _without_labels(run: Run, data: TaskData) -> Iterator[str]:
    """Runs that learn from labels alone, of which the training file has none."""
    learns = isinstance(run, TrainedRun) and not isinstance(run, DistilledRun)
    learns = learns or isinstance(run, EmbeddingsTeacherRun)
    if isinstance(run, BaselineRun):
        yield f"task '{data.task.name}': no train row has a label: set baselines: false"
    elif learns:
        yield (
            f"{run.title} learns from labels, but no train row of task '{data.task.name}' has one: "
            "leave it out of arms"
        )


def _key_of(run: TrainedRun, texts: Sequence[TextsRef]) -> str:
    return f"{run.task.name} {[source.model_dump_json() for source in texts]}"


def _texts(
    texts: Sequence[TextsRef], run: TrainedRun, data: TaskData, on_note: OnNote
) -> Unlabelled | None:
    found = load_unlabelled(texts, data, split_seed=run.data.split_seed)
    if found is not None:
        used, *dropped = (f"{n:,} {why.replace('_', ' ')}" for why, n in found.counts().items())
        rest = f" (left out: {', '.join(dropped)})" if dropped else ""
        on_note(f"{data.task.name}: of {found.read:,} unlabelled texts, {used}{rest}")
    return found


def _file(teacher: FileTeacherRun, data: TaskData, on_note: OnNote) -> TeacherTable:
    """A teacher's file as it is read; says what is left out and on how much gold it is measured."""
    table = read_teacher_outputs(teacher.outputs, data.task)
    for remark in table.remarks():
        on_note(remark)
    for name, rows in (("selection", data.selection), ("report", data.reports["report"])):
        n = int((table.find(rows) >= 0).sum())
        if n < SHORT_SELECTION:
            on_note(
                f"{table.path} answers {n:,} of {len(rows):,} labelled rows of the {name} split, "
                f"where {SHORT_SELECTION} are wanted"
                + (": its answers are taken as they are" * (name == "selection" and n < LEAST_ROWS))
            )
    return table


def _unfit_zero_shot(run: ZeroShotTeacherRun, data: TaskData) -> Iterator[str]:
    """What the data and a local model's config say against a teacher that answers by entailment."""
    place, task = f"zero-shot teacher {run.entailment.name}", data.task
    if task.kind.numeric or task.kind.several:
        why = ": it shares one certainty out among them" if task.kind.several else ""
        yield f"{place} tells one class a text{why}, but task '{task.name}' is a {task.kind}"
        return
    for name in sorted(set(run.zero_shot.labels) - {*task.label_names}):
        hint = did_you_mean(name, task.label_names)
        yield f"{place}: labels: task '{task.name}' has no class '{name}'.{hint}"
    config = encoder_config(run.entailment)
    if config is not None:
        try:
            entailment_output(names_in(config), where=run.entailment.name)
        except ModelError as error:
            yield from error.problems


def _unfit_classifier(run: GivenTeacherRun, data: TaskData) -> Iterator[str]:
    """What a local classifier's config says against its being fine-tuned on the task already."""
    config = encoder_config(run.encoder) or {}
    names = names_in(config)
    if names:  # without names it is seen once the model is loaded
        try:
            require_outputs(names, data.task, where=run.encoder.name)
            require_problem_type(config.get("problem_type"), data.task, where=run.encoder.name)
        except ModelError as error:
            yield from error.problems


def _answers(
    table: TeacherTable, data: TaskData, extra: Unlabelled | None, on_note: OnNote
) -> None:
    """Raises DataError where a file says nothing of what is to be learnt from."""
    rows = joined(data.train, extra.rows if extra else None)
    table.require_some(rows)
    lacking = int((table.find(rows) < 0).sum())
    if lacking:
        on_note(
            f"{table.path} says nothing of {lacking:,} of {len(rows):,} rows to learn from: those "
            "with a label are learnt from it alone, the others are left out"
        )


def _too_long(plan: Plan) -> Iterator[str]:
    """Lengths at which an encoder has no positions any more, as far as its config.json tells.

    No shorter text would fail, but the first long one would: in the middle of a training.
    """
    lengths: dict[tuple[EncoderRef, int], None] = {}
    for run in plan.runs:
        if isinstance(run, EncoderRun | ZeroShotTeacherRun | EmbeddingsTeacherRun):
            encoder = reader_of(run)
            assert encoder is not None
            lengths[encoder, run.training.max_length] = None
        if isinstance(run, EncoderRun) and matches_states(run) and run.reference is not None:
            # it reads at its student's length
            lengths[run.reference, run.training.max_length] = None
    for encoder, length in lengths:
        config = encoder_config(encoder)
        if config is not None and (problem := length_problem(encoder, length, config)):
            yield problem


def matches_states(run: EncoderRun) -> bool:
    """Whether the teacher reads the texts at this run's length, and not at its own."""
    return isinstance(run, DistilledRun) and run.kd.signals.match_states


def _check_folders(plan: Plan, problems: Problems) -> None:
    """Local models that must not be opened, or without weights that can be read."""
    named = {}
    for run in plan.runs:
        found = reader_of(run)
        if found is not None and found.path is not None:
            named[found.path] = found.name
    named |= {encoder.path: encoder.name for encoder in only_timed(plan) if encoder.path}
    for path, name in named.items():
        folder, whole = Path(path), False
        with problems.caught():
            check_folder(folder)
            whole = True
        if whole and not any(folder.glob("*.safetensors")):
            problems.add(f"{name}: its weights are not in the folder: expected model.safetensors")


def only_timed(plan: Plan) -> list[EncoderRef]:
    """References of speed that no run of the plan trains or asks."""
    beside = {
        run.reference.title: run.reference
        for run in plan.runs
        if isinstance(run, EncoderRun) and run.reference is not None
    }
    own = {reader.title for run in plan.runs if (reader := reader_of(run)) is not None}
    return [encoder for title, encoder in beside.items() if title not in own]


def length_problem(encoder: EncoderRef, length: int, config: dict[str, Any]) -> str | None:
    """Why an encoder with this config cannot read texts of a length; None if it can."""
    longest = longest_text(config)
    if longest is None or length <= longest:
        return None
    return (
        f"{encoder.title}: training.max_length is {length}, but this {config.get('model_type')} "
        f"encoder has positions for {longest} tokens. Set training.max_length to {longest} or less "
        "(longer texts are cut), or take an encoder for longer texts"
    )
