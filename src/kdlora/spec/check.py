"""A study, read and checked: everything that can be wrong with it without reading its data.

The models of `spec.study` check each section alone; here stands what several sections say together:
arms that are not planned, settings that would change nothing, races that cannot be run, places that
are left out, signals that do not fit. `read_study` and `make_study` tell all of it in one message.
What needs a look at files and models comes with the plan (`spec.plan`).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from kdlora.errors import InputError, Problems, did_you_mean
from kdlora.files import read_text
from kdlora.spec.adapter import Adapter
from kdlora.spec.base import Strict, explain
from kdlora.spec.distillation import REST, Distillation, signal_problems
from kdlora.spec.encoders import MadeStudent, Pair
from kdlora.spec.grid import Exclusions
from kdlora.spec.sections import READING, OwnTask, stated_kind, task_name, text_columns
from kdlora.spec.study import Study, merged
from kdlora.spec.variations import SECTIONS, PlannedArm, Variation
from kdlora.spec.yaml_file import load_yaml
from kdlora.vocabulary.arm import BASELINES, EQUAL_STEPS, GIVEN_TEACHER, Arm, matching, teaching_arm

_OF_PEFT = ("method", "config", "targets")  # the settings that an arm named peft has
_LABEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]*")


def read_study(path: str | Path, **changes: Any) -> Study:
    """Read and check a study file. Raises InputError with every problem in it."""
    path = Path(path)
    try:
        text = read_text(path)
    except FileNotFoundError:
        raise InputError(f"no study file at {path}") from None
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from None
    try:
        values = load_yaml(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # dates, numbers, nesting
        raise InputError(f"{path} is not valid YAML: {error}") from None
    if not isinstance(values, dict):
        raise InputError(f"{path}: expected a mapping with name, tasks and pairs")
    return make_study({"base_dir": str(path.parent), **values, **changes}, where=str(path))


def make_study(values: dict[str, Any], *, where: str | None = None) -> Study:
    """Check a mapping as a study. Raises InputError with every problem in it."""
    if odd := next(_texts_of_no_file(values), None):
        what = "a null character" if "\0" in odd else "half a character (a lone surrogate)"
        raise InputError(f"{odd[:60]!a} holds {what}", where=where)
    try:
        study = Study.model_validate(values)
    except ValidationError as error:
        raise InputError(explain(error, Study), where=where) from None
    check_settings(study, where=where)
    return study


def check_settings(study: Study, *, where: str | None = None) -> None:
    """Raises InputError with every setting that contradicts another."""
    problems = Problems(where)
    problems.add(*_own_problems(study))
    if not problems:  # what these ask needs arms, names and settings that hold
        problems.add(*_exclusion_problems(study), *_halving_problems(study))
        problems.add(*_texts_problems(study), *_window_problems(study))
    problems.raise_any()


def _texts_of_no_file(values: Any) -> Iterator[str]:
    """Texts that no file can hold, at any depth; YAML's aliases may lead back to where one was."""
    todo, seen = [values], set()
    while todo:
        value = todo.pop()
        if isinstance(value, str):
            if any(letter == "\0" or "\ud800" <= letter <= "\udfff" for letter in value):
                yield value
        elif isinstance(value, dict | list | tuple) and id(value) not in seen:
            seen.add(id(value))
            todo += [*value, *value.values()] if isinstance(value, dict) else value


def _own_problems(study: Study) -> Iterator[str]:
    """Names that stand twice or nowhere, and settings of arms that do not hold."""
    yield from _duplicate_names(study)
    yield from _unlabelled_problems(study)
    yield from _size_problems(study)
    if not study.pairs:
        yield "pairs: is required; or give a matrix of teachers and students"
    unfit = list(_override_problems(study))
    yield from unfit
    yield from _variation_problems(study, {} if unfit else study.overrides)


def _duplicate_names(study: Study) -> Iterator[str]:
    for what, names in (
        ("pairs", [pair.name for pair in study.pairs]),
        ("tasks", [task_name(task) for task in study.tasks]),
    ):
        twice = {name for name in names if names.count(name) > 1}
        if twice:
            yield f"{what}: named twice: {', '.join(sorted(twice))}"


def _unlabelled_problems(study: Study) -> Iterator[str]:
    own = {task.name: task for task in study.tasks if isinstance(task, OwnTask)}
    names = [task_name(task) for task in study.tasks]
    for name in study.unlabelled:
        if name not in names:
            yield f"unlabelled: no task '{name}' in this study.{did_you_mean(name, names)}"
        elif name in own and own[name].unlabelled:
            yield f"unlabelled: task '{name}' names its own unlabelled texts already"


def _texts_problems(study: Study) -> Iterator[str]:
    """Texts that are named where there are none."""
    own = [task for task in study.tasks if isinstance(task, OwnTask)]
    sources = {name: list(found) for name, found in study.unlabelled.items()}
    for task in own:
        sources.setdefault(task.name, []).extend(task.unlabelled)
    free = {task.name for task in own if task.missing_labels == REST}  # have rows to leave out
    rest = [
        name
        for name, found in sources.items()
        if name not in free and any(source.is_rest for source in found)
    ]
    if rest and study.data.max_train is None:
        yield (
            f"unlabelled of {', '.join(rest)}: rest are the train rows that data.max_train leaves "
            "out, but there is no max_train (a file of that name is ./rest)"
        )
    arms = study.planned_arms()
    counting = [str(arm) for arm in arms if study.section(arm, "training").count_texts]
    for arm in arms:
        if arm.arm.label == EQUAL_STEPS and str(arm) not in counting:
            yield (
                f"{arm.where}: {arm} is compared as the control of as many steps, so it needs "
                "training: {count_texts: true}; or give it another label"
            )
    if counting and not free and not any(sources.values()):
        yield f"training.count_texts of {', '.join(counting)}: no unlabelled texts are named"


def _override_problems(study: Study) -> Iterator[str]:
    for arm, sections in study.overrides.items():
        if arm not in study.arms:
            yield f"overrides: '{arm}' is not among arms: {', '.join(study.arms)}"
        for section, values in sections.items():
            place = f"overrides.{arm}"
            if section in SECTIONS:
                yield from _replaced(getattr(study, section), values, f"{place}.{section}.")
                if arm in study.arms and isinstance(values, dict):
                    idle = _idle_problems(Arm.parse(arm), section, values)
                    yield from (f"{place}: {problem}" for problem in idle)
            else:
                yield f"{place}: unknown section '{section}'.{did_you_mean(section, SECTIONS)}"


def _window_problems(study: Study) -> Iterator[str]:
    """Windows of pairs of texts: the longer one may be left with half of the tokens."""
    pairs = [task_name(task) for task in study.tasks if len(text_columns(task)) > 1]
    if any(pair.zero_shot for pair in study.pairs):  # it reads a text and a sentence
        pairs = pairs or [task_name(task) for task in study.tasks]
    for arm in study.planned_arms() if pairs else ():
        training = study.section(arm, "training")
        windows = training.windows
        if windows and windows.overlap(training.max_length) > training.max_length // 4:
            yield (
                f"{arm}: training.windows.stride is {windows.stride}, but where pairs of texts are "
                f"read ({', '.join(pairs)}) it can be at most a quarter of max_length "
                f"({training.max_length})"
            )


def _replaced(section: Strict, values: Any, place: str) -> list[str]:
    """What is wrong with values that replace some of a section's."""
    if not isinstance(values, dict):
        return [f"{place.rstrip('.')}: expected a mapping, got {values!r}"]
    try:
        merged(section, values)
    except ValidationError as error:
        return explain(error, type(section), prefix=place)
    return []


def _variation_problems(study: Study, overrides: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    """What is wrong with labelled arms, and arms of peft that name no method."""
    arms = list(study.labelled_arms())
    problems = list(_label_problems(arms, study.variations))
    for planned in arms:
        own = overrides.get(str(planned.arm.plain), {})
        for section, values in planned.changes.items():
            base = merged(getattr(study, section), own.get(section, {}))
            problems += _replaced(base, dict(values), f"{planned.where}.{section}.")
    yield from problems
    if problems or overrides != study.overrides:
        return
    for planned in study.planned_arms():
        method = study.section(planned, "adapter").method
        if planned.arm.adaptation == "peft" and method is None:
            yield f"{planned}: which method of peft? Name it in adapter.method, such as LOHA"
        windows = study.section(planned, "training").windows
        if planned.arm.is_frozen and windows is not None and windows.pooling != "mean":
            yield f"{planned}: the head of a frozen encoder is fitted to the mean of its windows"
        if planned.arm.is_frozen and planned.arm.is_distilled:
            kd = study.section(planned, "distillation")
            if kd.signals.match_states or kd.start == "teacher":
                yield (
                    f"{planned}: a frozen encoder learns from its teacher's logits alone; leave "
                    "out signals of hidden states and `start: teacher`"
                )


def _label_problems(
    arms: Iterable[PlannedArm], variations: Mapping[str, Variation]
) -> Iterator[str]:
    """What is wrong with labels, and with settings that an arm does not have."""
    for label in variations:
        if not _LABEL.fullmatch(label):
            yield (
                f"variations: '{label}' is no label: use letters, digits and . _ + -, "
                "beginning with a letter or digit"
            )
    seen: set[str] = set()
    for planned in arms:
        name = str(planned)
        if name in seen:
            yield f"{name} is named twice among variations and ablations"
        seen.add(name)
        if planned.arm.is_given:
            yield f"{name}: a given teacher is not trained, so nothing of it can vary"
        if not planned.changes:
            yield f"{name}: changes nothing; give training, adapter or distillation settings"
        for section, values in planned.changes.items() if not planned.arm.is_given else ():
            idle = _idle_problems(planned.arm, section, values)
            yield from (f"{name}: {problem}" for problem in idle)


def _idle_problems(arm: Arm, section: str, values: Mapping[str, Any]) -> Iterator[str]:
    """Settings of a section that an arm does not have, which would change nothing of it."""
    named = {f"{section}.{name}": str(name).split(".")[0] for name in values}
    if section == "training":
        idle = [shown for shown, top in named.items() if top not in READING]
        if idle and (arm.is_frozen or arm.is_given):
            yield f"{arm.plain} is not trained, so {', '.join(idle)} would change nothing"
    elif named and not (arm.has_adapter if section == "adapter" else arm.is_distilled):
        yield (
            f"{arm.plain} has no {section}, so {section} settings would change nothing."
            f"{_other_arm(arm, section)}"
        )
    elif section == "adapter":
        is_peft = arm.adaptation == "peft"
        foreign = set(Adapter.model_fields) - set(_OF_PEFT) if is_peft else {"method", "config"}
        idle = [shown for shown, top in named.items() if top in foreign]
        instead = f"name an arm such as {Arm('student', 'peft', 'kd')}"
        if is_peft:
            instead = "set the arguments of its method in adapter.config"
        if idle:
            yield f"{', '.join(sorted(idle))} would change nothing of {arm.plain}; {instead}"


def _other_arm(arm: Arm, section: str) -> str:
    if section == "distillation" and arm.is_student:
        return f" Did you mean {Arm('student', arm.adaptation, 'kd')}?"
    return ""


def _size_problems(study: Study) -> Iterator[str]:
    """Lists of ranks or budgets that contradict each other or the adapter section."""
    if study.ranks and study.budgets:
        yield "ranks and budgets: an adapter's size is one of both, so give one list"
        return
    for name, values in study.sizes.items():
        if len(set(values)) < len(values):
            yield f"{name}s: {list(values)} names one twice"
        other = "budget" if name == "rank" else "rank"
        given = getattr(study.adapter, other) if other in study.adapter.model_fields_set else None
        if values and given is not None:
            yield f"{name}s: the adapter's size is set by {other} {given} already: leave it out"
        own = getattr(study.adapter, name)
        stated = name in study.adapter.model_fields_set
        if values and stated and own is not None and own not in values:
            yield (
                f"{name}s: adapter.{name} is {own}, which is not among {list(values)}: add it, or "
                f"leave adapter.{name} out for {values[0]}"
            )


def _exclusion_problems(study: Study) -> Iterator[str]:
    """Exclusions that name what the study does not have, or that leave nothing of it."""
    titles = [str(planned) for planned in study.planned_arms()]
    known: dict[str, list[Any]] = {
        "pair": [pair.name for pair in study.pairs],
        "task": [task_name(task) for task in study.tasks],
        "seed": list(study.seeds),
    }
    for number, entry in enumerate(study.exclude):
        place = f"exclude.{number}"
        for what, names in known.items():
            for name in getattr(entry, what):
                if name not in names:
                    hint = did_you_mean(str(name), map(str, names))
                    yield f"{place}: no {what} '{name}' in this study.{hint}"
        baselines = [str(Arm("baseline", name)) for name in BASELINES] if study.baselines else []
        arms = [*titles, *baselines]
        if any(pair.arrives_trained for pair in study.pairs):
            arms.append(str(GIVEN_TEACHER))
        for pattern in entry.arm:
            if not matching([pattern], arms):
                yield f"{place}: '{pattern}' names no arm.{did_you_mean(pattern, arms)}"
    exclusions = Exclusions(study.exclude)
    if study.exclude and all(
        exclusions.of_block(pair, task, seed, titles) >= set(titles)
        for pair in known["pair"]
        for task in known["task"]
        for seed in known["seed"]
    ):
        yield "exclude: nothing is left of the study"


def _halving_problems(study: Study) -> Iterator[str]:
    """Races that cannot be run: nobody in them, or someone who must not stop."""
    arms = {str(planned): planned for planned in study.planned_arms()}
    titles = list(arms)
    teacher = str(teaching_arm(study.arms))
    taken: dict[str, int] = {}
    for number, halving in enumerate(study.halving):
        place = "halving" if len(study.halving) == 1 else f"halving.{number}"
        for pattern in halving.arms:
            if not matching([pattern], titles):
                yield f"{place}: '{pattern}' names no arm.{did_you_mean(pattern, titles)}"
        candidates = matching(halving.arms, titles)
        if len(candidates) == 1:
            yield f"{place}: {candidates[0]} has nobody to race: name two arms or more"
        too_short: dict[int, list[str]] = {}
        for title in candidates:
            if taken.setdefault(title, number) != number:
                yield f"{place}: {title} races already in halving.{taken[title]}"
            if title == teacher and any(planned.arm.is_distilled for planned in arms.values()):
                yield f"{place}: {title} teaches the students, so it cannot be stopped"
            if arms[title].arm.is_given:
                yield f"{place}: {title} is not trained, so nothing of it can be stopped"
                continue
            epochs = study.section(arms[title], "training").epochs
            if halving.rungs[-1] >= epochs:
                too_short.setdefault(epochs, []).append(title)
        for epochs, late in too_short.items():
            yield (
                f"{place}: rung {halving.rungs[-1]} is no early decision for runs of {epochs} "
                f"epoch{'s' * (epochs != 1)} ({', '.join(late)}): name epochs before the last"
            )
        roles = {arms[title].arm.role for title in candidates}
        if len(roles) > 1:
            yield f"{place}: teachers and students do not race: name arms of one role"


def teaching_problems(study: Study) -> Iterator[str]:
    """What cannot be taught, as far as the study file tells; what is excluded need not be."""
    for pair in study.pairs:
        if pair.zero_shot is not None:
            for item in study.tasks:
                yield from _zero_shot_problems(pair, item)
    for arm in study.planned_arms():
        if not arm.arm.is_distilled:
            continue
        kd: Distillation = study.section(arm, "distillation")
        for item in study.tasks:
            kind = stated_kind(item)
            name = task_name(item)
            unfit = list(signal_problems(kd.signals, kind)) if kind is not None else []
            if unfit and is_planned(study, str(arm), task=name):
                yield from (f"{arm} on task '{name}': {problem}" for problem in unfit)
        for pair in study.pairs:
            unfit = list(_pair_problems(pair, str(arm), kd))
            if unfit and is_planned(study, str(arm), pair=pair.name):
                yield from unfit


def _pair_problems(pair: Pair, arm: str, kd: Distillation) -> Iterator[str]:
    if kd.teacher_seeds and pair.arrives_trained:
        yield (
            f"{arm}: teacher_seeds asks for several teachers, but the one of pair '{pair.name}' "
            "is not trained here: there is only one"
        )
    made = isinstance(pair.student, MadeStudent) and pair.student.source == "teacher"
    if kd.start == "teacher" and not made:
        yield (
            f"{arm}: distillation.start: teacher needs a student made of its teacher's layers, "
            f"which '{pair.student_title}' of pair '{pair.name}' is not: give "
            "student: {from: teacher, layers: [0, 2, 4]}"
        )
    elif kd.start == "teacher" and pair.student_vocabulary is not None:
        yield (
            f"{arm}: distillation.start: teacher takes the trained teacher's weights, tokens "
            f"included, but the student of pair '{pair.name}' keeps a part of them: leave out one"
        )
    if pair.teacher_has_no_head and kd.signals.match_states:
        names = [n for n in ("hidden", "relations") if n in kd.signals.names]
        what = "reads each text in pairs"
        if pair.zero_shot is None:
            what = f"is a {'linear model' if pair.teacher_embeddings else 'file of outputs'}"
        yield (
            f"{arm}: {' and '.join(names)} need the teacher's inner states, but the teacher of "
            f"pair '{pair.name}' {what}: use kl, logit-mse, dkd or dist"
        )
    if (pair.zero_shot is not None or pair.teacher_embeddings) and kd.start == "teacher":
        how = "is a linear model" if pair.teacher_embeddings else "answers by entailment"
        yield (
            f"{arm}: distillation.start: teacher needs a teacher with a head for the task, but the "
            f"one of pair '{pair.name}' {how}"
        )


def _zero_shot_problems(pair: Pair, item: str | OwnTask) -> Iterator[str]:
    """Tasks that a classifier of entailment cannot answer, as far as the study file tells."""
    kind, name = stated_kind(item), task_name(item)
    place = f"pair '{pair.name}' on task '{name}': a zero-shot teacher"
    texts = text_columns(item)
    if kind is not None and kind.numeric:
        yield f"{place} tells classes, but the task is a {kind}"
    if len(texts) > 1:
        yield f"{place} pairs a text with a class, but the task's texts are pairs already"


def is_planned(
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
