"""What the models of a plan are asked before the first run, each distinct combination once."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np

from kdlora.data.examples import TaskData
from kdlora.planning.inputs import matches_states, only_timed
from kdlora.spec.plan import Plan
from kdlora.spec.run import (
    DistilledRun,
    EmbeddingsTeacherRun,
    EncoderRef,
    EncoderRun,
    GivenTeacherRun,
    ZeroShotTeacherRun,
    adapter_of,
    reader_of,
)
from kdlora.vocabulary.task import Task

_SAMPLE = 256  # texts on which two tokenizers are compared; all of them are before training

Reader = ZeroShotTeacherRun | EmbeddingsTeacherRun  # a teacher that reads, and is not trained


@dataclass(frozen=True)
class ModelQuestions:
    """Which models are looked at, for which tasks.

    Attributes:
        models: a run for each distinct encoder, adapter and length (and task, where it is given).
        readers: a run for each distinct teacher that reads and is not trained.
        timed: encoders that are in no run, and that those of their pair are timed beside.
        inner_states: a run for each distinct way of learning from a teacher's inner states.
        tasks: the tasks whose rows could be read, by name.
        samples: some train texts, a list a column, of the tasks of `inner_states`.
    """

    models: tuple[EncoderRun, ...]
    readers: tuple[Reader, ...]
    timed: tuple[EncoderRef, ...]
    inner_states: tuple[DistilledRun, ...]
    tasks: Mapping[str, Task]
    samples: Mapping[str, tuple[list[str], ...]]

    def of_models_alone(self) -> ModelQuestions:
        """Without those that have no answer while an input is wrong."""
        return replace(self, inner_states=(), samples={})


def questions_of(plan: Plan, loaded: Mapping[str, TaskData]) -> ModelQuestions:
    """What is to be asked of a plan, whose tasks' rows are `loaded` as far as they can be read."""
    inner_states = tuple(_one_a_teaching(plan, loaded))
    return ModelQuestions(
        models=tuple(_one_a_model(plan)),
        readers=tuple(_one_a_reader(plan)),
        timed=tuple(only_timed(plan)),
        inner_states=inner_states,
        tasks={name: data.task for name, data in loaded.items()},
        samples={run.task.name: _sample(loaded[run.task.name]) for run in inner_states},
    )


def _sample(data: TaskData) -> tuple[list[str], ...]:
    """Some train texts, from all over the split."""
    step = max(1, len(data.train) // _SAMPLE)
    return data.train.take(np.arange(0, len(data.train), step)[:_SAMPLE]).texts


def _one_a_teaching(plan: Plan, loaded: Mapping[str, TaskData]) -> Iterator[DistilledRun]:
    """One run for each student, teacher, task and way of learning from inner states."""
    known: set[str] = set()
    for run in plan.runs:
        if not isinstance(run, DistilledRun) or not run.kd.signals.match_states:
            continue
        if run.task.name not in loaded or run.reference is None:
            continue
        signals = run.kd.signals.model_dump_json()
        key = f"{run.encoder.title} {run.reference.title} {run.task.name} {signals}"
        if key not in known:
            known.add(key)
            yield run


def _one_a_model(plan: Plan) -> list[EncoderRun]:
    """One run for each distinct encoder, adapter and length (and task, where it is given)."""
    chosen: dict[tuple[str, ...], EncoderRun] = {}
    for run in plan.runs:
        if isinstance(run, EncoderRun):
            task = run.task.name if isinstance(run, GivenTeacherRun) else ""
            settings = adapter_of(run)
            adapter = settings.model_dump_json() if settings else ""
            length = f"{run.training.max_length} {run.training.windows}"
            inside = run.reference.title if matches_states(run) and run.reference else ""
            chosen[run.encoder.title, run.adaptation, adapter, task, length, inside] = run
    return list(chosen.values())


def _one_a_reader(plan: Plan) -> list[Reader]:
    """One run for each classifier of entailment, or encoder of embeddings, and length."""
    chosen: dict[tuple[type, EncoderRef | None, int], Reader] = {}
    for run in plan.runs:
        if isinstance(run, Reader):
            chosen[type(run), reader_of(run), run.training.max_length] = run
    return list(chosen.values())
