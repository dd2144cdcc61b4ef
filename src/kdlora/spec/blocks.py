"""One block of a study's table: a task and a pair, whose arms become runs seed by seed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

from kdlora.spec.distillation import Distillation
from kdlora.spec.grid import Exclusions
from kdlora.spec.halving import teaching_arm
from kdlora.spec.names import BASELINES, Arm, parse_arm
from kdlora.spec.pair import Pair
from kdlora.spec.run import EncoderRef, OutputsRef, Parts, Run, Siblings, TaskRef, TextsRef
from kdlora.spec.sections import Training
from kdlora.spec.study import Adapter, Study
from kdlora.spec.teaching import arrives_trained, teacher_seeds
from kdlora.spec.variations import PlannedArm


@dataclass(frozen=True)
class Found:
    """What the names in a study turned out to be."""

    encoders: dict[str, EncoderRef]
    unlabelled: dict[str, tuple[TextsRef, ...]]  # by task
    outputs: dict[tuple[str, str], OutputsRef]  # by task and pair


class ArmRow(NamedTuple):
    """An arm with the sections of the study as they hold for it."""

    planned: PlannedArm
    title: str
    training: Training | None = None
    adapter: Adapter | None = None
    kd: Distillation | None = None


@dataclass(frozen=True)
class Settings:
    """What all blocks of a study share, worked out once."""

    study: Study
    arms: list[ArmRow]  # in the order in which a block does them
    found: Found
    exclusions: Exclusions
    parts: dict[tuple[Any, ...], Parts] = field(default_factory=dict)
    students: dict[tuple[str, tuple[int, ...] | None], EncoderRef] = field(default_factory=dict)
    teachers: dict[str, ArmRow] = field(default_factory=dict)

    def student(self, pair: Pair) -> EncoderRef:
        key = (pair.student_encoder, pair.student_layers)
        if key not in self.students:
            encoder = self.found.encoders[pair.student_encoder]
            self.students[key] = encoder.model_copy(update={"layers": pair.student_layers})
        return self.students[key]

    def teacher(self, pair: Pair) -> ArmRow:
        """The arm whose model teaches: given, else full fine-tuning, else the first teacher arm."""
        given = arrives_trained(pair)
        arm = Arm("teacher", "given") if given else parse_arm(teaching_arm(self.study.arms))
        name = str(arm)
        if name not in self.teachers:
            self.teachers[name] = _row(self.study, PlannedArm(arm))
        return self.teachers[name]


def settings_of(study: Study, found: Found) -> Settings:
    """Teachers first, then students, those without distillation before the distilled ones."""

    def place(row: ArmRow) -> tuple[bool, bool]:
        return (row.planned.arm.role != "teacher", row.kd is not None)

    arms = sorted((_row(study, planned) for planned in study.planned_arms()), key=place)
    return Settings(study, arms, found, Exclusions(study.exclude))


def _row(study: Study, planned: PlannedArm) -> ArmRow:
    arm = planned.arm
    adapts = arm.adaptation not in ("fft", "given")
    training = study.section(planned, "training")
    if arm.adaptation == "given":  # only how texts are cut and computed matters
        training = Training(max_length=training.max_length, precision=training.precision)
    return ArmRow(
        planned,
        str(planned),
        training,
        study.section(planned, "adapter").of(arm.adaptation) if adapts else None,
        study.section(planned, "distillation") if arm.distillation == "kd" else None,
    )


_BASELINES = [
    ArmRow(PlannedArm(arm), str(arm)) for arm in (Arm("baseline", kind) for kind in BASELINES)
]


class Place(NamedTuple):
    """A run and where in the table it stands. `arm` is None for a teacher that stands nowhere:

    one of another seed, which an ensemble needs, or one that is excluded but still needed.
    """

    arm: str | None
    label: str
    run_id: str
    make: Callable[[], Run]


class Block:
    """Baselines, the teacher, then the rest of a task and a pair."""

    def __init__(self, settings: Settings, task: TaskRef, pair: Pair) -> None:
        self.task, self.pair = task, pair
        self._settings = settings
        self._teacher = settings.teacher(pair)
        self._given = arrives_trained(pair)
        self._templates: dict[str, Siblings] = {}

    def places(self, seed: int) -> Iterator[Place]:
        """All runs of one seed, each teacher before its students."""
        study, first = self._settings.study, self._teacher.title
        out = self._left_out(seed)
        for row in _BASELINES if study.baselines else ():
            if row.title not in out:
                yield self._place(row, 0)
        arms = [row for row in self._settings.arms if row.title not in out]
        taught_by = {
            row.title: teacher_seeds(study, self.pair, row.kd, seed)
            for row in arms
            if row.kd is not None
        }
        needed = dict.fromkeys(number for some in taught_by.values() for number in some)
        teachers: dict[int, str] = {}
        planned = first in study.arms and first not in out
        for number in dict.fromkeys((seed, *needed)):
            if not planned and number not in needed:
                continue
            place = self._place(self._teacher, number)
            teachers[number] = place.run_id
            shown = number == seed and first not in out
            yield place if shown else place._replace(arm=None)
        for row in arms:
            if row.planned.arm.role == "teacher" and (self._given or row.title == first):
                continue
            ids = tuple(teachers[number] for number in taught_by.get(row.title, ()))
            yield self._place(row, seed, ids)

    def forget(self) -> None:
        """Let go of what the seeds share, after the last of them."""
        self._templates.clear()

    def _left_out(self, seed: int) -> frozenset[str]:
        settings = self._settings
        if not settings.study.exclude:
            return frozenset()
        rows = (*_BASELINES, self._teacher, *settings.arms)
        titles = tuple(dict.fromkeys(row.title for row in rows))
        return settings.exclusions.of_block(self.pair.name, self.task.name, seed, titles)

    def _place(self, row: ArmRow, seed: int, teachers: tuple[str, ...] = ()) -> Place:
        arm = row.planned.arm
        if row.title not in self._templates:
            self._templates[row.title] = self._siblings(row)
        if arm.adaptation == "given":
            seed = 0
        template = self._templates[row.title]
        run_id = template.run_id(seed, teachers)
        name = row.title if not row.planned.label else str(arm)
        make = partial(template.run, seed, teachers, run_id)
        return Place(name, row.planned.label, run_id, make)

    def _siblings(self, row: ArmRow) -> Siblings:
        """The row's runs of all seeds; pairs with the same encoder there share what is dumped."""
        pair, known = self.pair, self._settings.parts
        encoder = pair.teacher if row.planned.arm.role == "teacher" else pair.student_encoder
        source = pair.name if pair.teacher_outputs else ""
        key = (self.task.name, row.title, encoder, pair.student_layers, source)
        made = Siblings(partial(self._run, row), known.get(key))
        if len(self._settings.study.pairs) > 1:  # nobody else could share them
            known[key] = made.parts
        return made

    def _run(self, row: ArmRow) -> Run:
        """The arm's run, but for its seed and its teachers."""
        arm, pair, found = row.planned.arm, self.pair, self._settings.found
        data, task = self._settings.study.data, self.task
        outputs = found.outputs.get((task.name, pair.name))
        if arm.role == "baseline":
            return Run(task=task, role="baseline", adaptation=arm.adaptation, seed=0, data=data)
        if arm.role == "teacher" and outputs is not None:
            return Run(
                task=task,
                role="teacher",
                adaptation=arm.adaptation,
                seed=0,
                data=data,
                outputs=outputs,
                pair=pair.name,
            )
        lr = None
        if row.training is not None and arm.adaptation != "given":
            lr = row.training.lr.fft if row.adapter is None else row.training.lr.peft
        teaches = arm.role == "teacher"
        return Run(
            task=task,
            role="teacher" if teaches else "student",
            adaptation=arm.adaptation,
            distillation="none" if row.kd is None else "kd",
            seed=0,
            data=data,
            encoder=found.encoders[pair.teacher] if teaches else self._settings.student(pair),
            training=row.training,
            lr=lr,
            adapter=row.adapter,
            kd=row.kd,
            unlabelled=found.unlabelled[task.name] if row.kd and row.kd.unlabelled else (),
            pair=pair.name,
            label=row.planned.label,
            reference=None if pair.teacher_outputs else found.encoders[pair.teacher],
        )
