"""From a study to its runs: every cell, the edges from teacher to student, and a sensible order.

A *cell* is a place in the study's table (pair, task, arm, seed); a *run* is a training. Several
cells may share one run: a teacher serves all its students, and a student without distillation
does not depend on which teacher it stands beside.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

from pydantic import ValidationError

from kdlora.errors import InputError, Problems
from kdlora.spec.adapter import Adapter
from kdlora.spec.base import explain
from kdlora.spec.check import check_settings, teaching_problems
from kdlora.spec.distillation import Distillation
from kdlora.spec.encoders import Pair, Vocabulary
from kdlora.spec.grid import Exclusions
from kdlora.spec.halving import Halving
from kdlora.spec.resolve import encoder_ref, outputs_of, task_ref, texts_of, vocabulary_ref
from kdlora.spec.run import (
    PENDING,
    BaselineRun,
    DistilledRun,
    EmbeddingsRun,
    EmbeddingsTeacherRun,
    EncoderRef,
    FileTeacherRun,
    GivenTeacherRun,
    OutputsRef,
    Parts,
    Run,
    Siblings,
    TaskRef,
    TextsRef,
    TrainedRun,
    VocabularyRef,
    ZeroShotTeacherRun,
)
from kdlora.spec.sections import AUTO, Data, Training, stated_kind, task_name
from kdlora.spec.study import Study, merged
from kdlora.spec.variations import PlannedArm
from kdlora.vocabulary.arm import BASELINES, EMBEDDINGS, Arm, teaching_arm


@dataclass(frozen=True)
class PlannedCell:
    """One place in the study's table and the run that fills it.

    `label` tells a varied arm from the arm itself; both share one run if their settings agree.
    """

    pair: str
    task: str
    arm: str
    seed: int
    run_id: str
    label: str = ""


@dataclass
class Plan:
    """All runs in the order in which to do them (teachers first, complete blocks first)."""

    runs: list[Run] = field(default_factory=list)
    cells: list[PlannedCell] = field(default_factory=list)
    halving: tuple[Halving, ...] = ()
    lengths: dict[str, ChosenLength] = field(
        default_factory=dict
    )  # by task, where no number is named
    _places: dict[str, int] = field(default_factory=dict, repr=False, compare=False)

    def run(self, run_id: str) -> Run:
        """The run of that id. Raises KeyError."""
        if len(self._places) != len(self.runs):
            self._places = {run.run_id: place for place, run in enumerate(self.runs)}
        return self.runs[self._places[run_id]]


class ChosenLength(NamedTuple):
    """How many tokens a length that is no number means, and why."""

    tokens: int
    because: str
    asked: bool = True  # by `max_length: auto`; else no length is named at all


# What `max_length: auto` is for a task, by its rows, a batch's size and all encoders that read it.
ChooseLength = Callable[[TaskRef, Data, int, Sequence[EncoderRef]], ChosenLength]

# What the encoder with the fewest positions reads; None where none says a limit.
ShortestReach = Callable[[Sequence[EncoderRef]], ChosenLength | None]


def make_plan(
    study: Study,
    choose_length: ChooseLength | None = None,
    shortest_reach: ShortestReach | None = None,
) -> Plan:
    """Resolve a study. Raises InputError naming every missing file and unknown model at once.

    Args:
        choose_length: asked where a study says `max_length: auto`, which needs a look at the data.
        shortest_reach: asked where it names no length, which is then no longer than this.
    """
    tasks, references = _resolved(study)
    plan = Plan(halving=study.halving)
    short = None
    if shortest_reach is not None and "max_length" not in study.training.model_fields_set:
        short = shortest_reach(list(references.encoders.values()))
    if short is not None and short.tokens < study.training.max_length:
        study = _shortened(study, short.tokens)
        plan.lengths = {task.name: short for task in tasks}
    settings = _settings(study, references)
    plan.lengths |= _choose_lengths(settings, tasks, choose_length)
    settings.lengths.update({name: chosen.tokens for name, chosen in plan.lengths.items()})
    blocks = [Block(settings, task, pair) for task in tasks for pair in study.pairs]
    seen: set[str] = set()
    # Seeds outermost, then tasks, then pairs: wherever the work stops, whole blocks are behind it.
    for seed in study.seeds:
        for block in blocks:
            for arm, label, run_id, make in block.runs(seed):
                if arm is not None:
                    plan.cells.append(
                        PlannedCell(block.pair.name, block.task.name, arm, seed, run_id, label)
                    )
                if run_id not in seen:
                    seen.add(run_id)
                    plan.runs.append(make())
            if seed == study.seeds[-1]:
                block.forget()  # or a plan of many blocks would be held twice
    return plan


def _shortened(study: Study, tokens: int) -> Study:
    """The study at another length; what else it leaves to its defaults stays left to them."""
    try:
        training = merged(study.training, {"max_length": tokens})
    except ValidationError as error:
        raise InputError(explain(error, Training, prefix="training.")) from None
    shorter = study.model_copy(update={"training": training})
    check_settings(shorter)
    return shorter


def _resolved(study: Study) -> tuple[list[TaskRef], References]:
    """What the study's names are. Raises InputError with the problems of all of them."""
    problems = Problems(f"study '{study.name}'")
    references = References({}, {}, {}, {})
    tasks = []
    for item in study.tasks:
        with problems.caught():
            tasks.append(task_ref(study, item))
    teachers = [pair.teacher for pair in study.pairs if pair.teacher_outputs is None]
    for name in dict.fromkeys([*teachers, *(pair.student_encoder for pair in study.pairs)]):
        with problems.caught():
            references.encoders[name] = encoder_ref(name, study.base_dir)
    for pair in study.pairs:
        with problems.caught():
            if (kept := pair.student_vocabulary) is not None:
                references.vocabularies[kept] = vocabulary_ref(study, pair.name, kept)
    for item in study.tasks:
        name = task_name(item)
        with problems.caught():
            references.unlabelled[name] = texts_of(study, item)
        for pair in study.pairs:
            with problems.caught():
                if outputs := outputs_of(study, item, pair):
                    references.outputs[name, pair.name] = outputs
    problems.add(*teaching_problems(study))
    problems.raise_any()
    return tasks, references


@dataclass(frozen=True)
class References:
    """What the names in a study are."""

    encoders: dict[str, EncoderRef]
    unlabelled: dict[str, tuple[TextsRef, ...]]  # by task
    outputs: dict[tuple[str, str], OutputsRef]  # by task and pair
    vocabularies: dict[Vocabulary, VocabularyRef]


class ArmSettings(NamedTuple):
    """An arm with the sections of the study as they hold for it."""

    arm: Arm
    title: str
    training: Training = Training()
    adapter: Adapter | None = None
    kd: Distillation | None = None


@dataclass(frozen=True)
class StudySettings:
    """What all blocks of a study share, worked out once."""

    study: Study
    arms: list[ArmSettings]  # in the order in which a block does them
    references: References
    exclusions: Exclusions
    data: Data
    parts: dict[tuple[Any, ...], Parts] = field(default_factory=dict)
    students: dict[tuple[Any, ...], EncoderRef] = field(default_factory=dict)
    teachers: dict[str, ArmSettings] = field(default_factory=dict)
    lengths: dict[str, int] = field(default_factory=dict)  # what auto is, by task

    def training(self, row: ArmSettings, task: str) -> Training:
        """How an arm is trained on a task."""
        training = row.training
        if training.max_length != AUTO and training.windows is None:
            return training
        auto = training.max_length == AUTO
        return training.settled(self.lengths[task] if auto else training.max_length)

    def student(self, pair: Pair) -> EncoderRef:
        kept = pair.student_vocabulary
        key = (pair.student_encoder, pair.student_layers, kept)
        if key not in self.students:
            encoder = self.references.encoders[pair.student_encoder]
            vocabulary = self.references.vocabularies[kept] if kept is not None else None
            parts = {"layers": pair.student_layers, "vocabulary": vocabulary}
            self.students[key] = encoder.model_copy(update=parts)
        return self.students[key]

    def teacher(self, pair: Pair) -> ArmSettings:
        """The arm whose model teaches in a pair."""
        arm = teaching_arm(self.study.arms, given=pair.arrives_trained)
        name = str(arm)
        if name not in self.teachers:
            self.teachers[name] = _arm_settings(self.study, PlannedArm(arm))
        return self.teachers[name]


def _settings(study: Study, references: References) -> StudySettings:
    """Teachers first, then students, those without distillation before the distilled ones."""

    def stage(row: ArmSettings) -> tuple[bool, bool]:
        return (not row.arm.is_teacher, row.kd is not None)

    arms = sorted((_arm_settings(study, planned) for planned in study.planned_arms()), key=stage)
    exclusions = Exclusions(study.exclude)
    return StudySettings(study, arms, references, exclusions, study.data.planned())


def _choose_lengths(
    settings: StudySettings, tasks: Sequence[TaskRef], choose: ChooseLength | None
) -> dict[str, ChosenLength]:
    """What auto is for every task; nothing where no arm says it."""
    study, references = settings.study, settings.references
    rows = [*settings.arms, *(settings.teacher(pair) for pair in study.pairs)]
    sections = [row.training for row in rows] + [study.training] * study.baselines
    auto = [training for training in sections if training.max_length == AUTO]
    if not auto:
        return {}
    if choose is None:
        raise InputError("training.max_length: auto needs a look at the data; give a number")
    batch = max(min(t.batch_size, t.micro_batch_size or t.batch_size) for t in auto)
    encoders = [*references.encoders.values()]
    found, problems = {}, Problems(f"study '{study.name}'")
    for task in tasks:
        with problems.caught():
            found[task.name] = choose(task, settings.data, batch, encoders)
    problems.raise_any()
    return found


def _arm_settings(study: Study, planned: PlannedArm) -> ArmSettings:
    arm = planned.arm
    training = study.section(planned, "training")
    if arm.is_given or arm.is_frozen:
        training = training.of_untrained()
    return ArmSettings(
        arm,
        str(arm),
        training,
        None if not arm.has_adapter else study.section(planned, "adapter").of(arm.adaptation),
        study.section(planned, "distillation") if arm.is_distilled else None,
    )


_BASELINES = [ArmSettings(arm, str(arm)) for arm in (Arm("baseline", name) for name in BASELINES)]


class PlannedRun(NamedTuple):
    """A run and where in the table it stands.

    `arm` is without its label. It is None for a teacher that stands nowhere: one of another seed,
    which an ensemble needs, or one that is excluded but still needed.
    """

    arm: str | None
    label: str
    run_id: str
    make: Callable[[], Run]


class Block:
    """Baselines, the teacher, then the rest of a task and a pair."""

    def __init__(self, settings: StudySettings, task: TaskRef, pair: Pair) -> None:
        self.task, self.pair = task, pair
        self._settings = settings
        self._teacher = settings.teacher(pair)
        self._templates: dict[str, Siblings] = {}

    def runs(self, seed: int) -> Iterator[PlannedRun]:
        """All runs of one seed, each teacher before its students."""
        study, teacher = self._settings.study, self._teacher.title
        left_out = self._left_out(seed)
        for row in _BASELINES if study.baselines else ():
            if row.title not in left_out:
                yield self._planned(row, 0)
        arms = [row for row in self._settings.arms if row.title not in left_out]
        taught_by = {
            row.title: _teacher_seeds(study, self.pair, row.kd, seed)
            for row in arms
            if row.kd is not None
        }
        needed = dict.fromkeys(number for some in taught_by.values() for number in some)
        teachers: dict[int, str] = {}
        planned = teacher in study.arms and teacher not in left_out
        for number in dict.fromkeys((seed, *needed)):
            if not planned and number not in needed:
                continue
            run = self._planned(self._teacher, number)
            teachers[number] = run.run_id
            shown = number == seed and teacher not in left_out
            yield run if shown else run._replace(arm=None)
        for row in arms:
            if row.arm.is_teacher and (self.pair.arrives_trained or row.title == teacher):
                continue
            ids = tuple(teachers[number] for number in taught_by.get(row.title, ()))
            yield self._planned(row, seed, ids)

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

    def _planned(self, row: ArmSettings, seed: int, teachers: tuple[str, ...] = ()) -> PlannedRun:
        if row.title not in self._templates:
            self._templates[row.title] = self._siblings(row)
        if row.arm.is_given:
            seed = 0
        template = self._templates[row.title]
        run_id = template.run_id(seed, teachers)
        make = partial(template.run, seed, teachers, run_id)
        # without a label the title, which all cells of an arm then share in memory
        name = str(row.arm.plain) if row.arm.label else row.title
        return PlannedRun(name, row.arm.label, run_id, make)

    def _siblings(self, row: ArmSettings) -> Siblings:
        """The row's runs of all seeds; pairs with the same encoder there share what is dumped."""
        pair, known = self.pair, self._settings.parts
        encoder = pair.teacher if row.arm.is_teacher else pair.student_encoder
        source = pair.name if pair.teacher_has_no_head else ""
        made = (pair.student_layers, pair.student_vocabulary)
        key = (self.task.name, row.title, encoder, made, source)
        siblings = Siblings(partial(self._template, row), known.get(key))
        if len(self._settings.study.pairs) > 1:  # nobody else could share them
            known[key] = siblings.parts
        return siblings

    def _template(self, row: ArmSettings) -> Run:
        """The arm's run, but for its seed and its teachers."""
        arm, pair, references = row.arm, self.pair, self._settings.references
        common = {"task": self.task, "seed": 0, "data": self._settings.data}
        common["adaptation"] = arm.adaptation
        untrained = row._replace(training=self._settings.study.training.of_untrained())
        if arm == EMBEDDINGS:
            training = self._settings.training(untrained, self.task.name)
            return EmbeddingsRun(**common, encoder=self._settings.student(pair), training=training)
        if arm.is_baseline:
            return BaselineRun(**common)
        common["pair"] = pair.name
        training = self._settings.training(row, self.task.name)
        outputs = references.outputs.get((self.task.name, pair.name))
        if arm.is_teacher and outputs is not None:
            return FileTeacherRun(**common, outputs=outputs)
        if arm.is_teacher and pair.zero_shot is not None:
            return ZeroShotTeacherRun(
                **common,
                entailment=references.encoders[pair.teacher],
                zero_shot=pair.zero_shot,
                training=training,
            )
        if arm.is_teacher and pair.teacher_embeddings:
            training = self._settings.training(untrained, self.task.name)
            encoder = references.encoders[pair.teacher]
            return EmbeddingsTeacherRun(**common, embeddings=encoder, training=training)
        teacher = None if pair.teacher_has_no_head else references.encoders[pair.teacher]
        common |= {"training": training, "reference": teacher}
        if arm.is_given:
            return GivenTeacherRun(**common, encoder=teacher)
        rates, texts = training.lr, references.unlabelled[self.task.name]
        lr = rates.of(adapted=row.adapter is not None)
        common |= {"role": arm.role, "label": arm.label, "lr": lr, "adapter": row.adapter}
        common["head_lr"] = rates.head if rates.head != lr and not arm.is_frozen else None
        if training.count_texts:
            learnt = row.kd is not None and row.kd.unlabelled
            common["counted"] = () if learnt else texts
            if not common["counted"]:  # nothing is counted that is not trained on anyway
                common["training"] = training.model_copy(update={"count_texts": False})
        common["target"] = "standardised" if _is_regression(self.task) else None
        common["encoder"] = teacher if arm.is_teacher else self._settings.student(pair)
        if row.kd is None:
            return TrainedRun(**common)
        learnt_from = texts if row.kd.unlabelled else ()
        return DistilledRun(**common, kd=row.kd, unlabelled=learnt_from, teacher_run_id=PENDING)


def _is_regression(task: TaskRef) -> bool:
    """As far as the study file tells."""
    kind = stated_kind(task.own or task.name)
    return kind is not None and kind.numeric


def _teacher_seeds(study: Study, pair: Pair, kd: Distillation, seed: int) -> tuple[int, ...]:
    """The seeds of the teachers of an arm distilled by `kd`; more than one is an ensemble."""
    chosen = kd.teacher_seeds
    if pair.arrives_trained or not chosen:
        return (seed,)
    return tuple(study.seeds) if chosen == "all" else chosen
