"""What a student's teacher needs from the study file: which teachers, which texts, which files."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from kdlora.spec.distillation import Distillation, signal_problems
from kdlora.spec.fingerprint import hash_file
from kdlora.spec.grid import Exclusions
from kdlora.spec.pair import Layers
from kdlora.spec.run import OutputsRef, TextsRef
from kdlora.spec.sections import task_name
from kdlora.spec.study import OwnTask, Pair, Study
from kdlora.spec.tasks import TASKS, Kind


def arrives_trained(pair: Pair) -> bool:
    """Whether the pair's teacher is scored and never trained."""
    return pair.teacher_is_trained or pair.teacher_outputs is not None


def teacher_seeds(study: Study, pair: Pair, kd: Distillation, seed: int) -> tuple[int, ...]:
    """The seeds of the teachers of an arm distilled by `kd`; more than one is an ensemble."""
    chosen = kd.teacher_seeds
    if arrives_trained(pair) or not chosen:
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
    if kind is not None and (kind == "regression") != (source.kind == "scores"):
        fitting = "scores" if kind == "regression" else "probabilities, logits or votes"
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
    return None if item.kind == "auto" else item.kind


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
        for title in ("teacher/given", *distilled)
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
    if kd.teacher_seeds and arrives_trained(pair):
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
