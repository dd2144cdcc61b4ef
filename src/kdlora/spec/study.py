"""The study file: one pydantic model behind the YAML, `kdlora distil` and the Python API.

Everything that can be wrong with a study without reading its data is found here, and all of it is
reported in one message.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import (
    BeforeValidator,
    Field,
    PositiveInt,
    ValidationError,
    field_validator,
    model_validator,
)

from kdlora.errors import InputError, did_you_mean
from kdlora.spec.adapter import Adapter
from kdlora.spec.base import Strict
from kdlora.spec.check import explain
from kdlora.spec.distillation import Distillation, Sources, Texts
from kdlora.spec.encoders import Layers, Pair
from kdlora.spec.grid import (
    Exclusion,
    Matrix,
    as_exclusions,
    exclusion_problems,
    size_problems,
    sized_arms,
)
from kdlora.spec.halving import Halving, as_halvings, halving_problems
from kdlora.spec.sections import Data, OwnTask, Training, task_name
from kdlora.spec.variations import (
    SECTIONS,
    Ablation,
    PlannedArm,
    Variation,
    expand,
    spread,
    variation_problems,
)
from kdlora.vocabulary.arm import DEFAULT_ARMS, parse_arm
from kdlora.vocabulary.task import TASKS


def _read_task(value: Any) -> Any:
    """A task is a known name or a mapping that describes own data."""
    if isinstance(value, str) and value not in TASKS:
        raise ValueError(
            f"unknown task '{value}'.{did_you_mean(value, TASKS)} "
            "Own data: give a mapping with name, train, eval, text and label"
        )
    return value


class Study(Strict):
    """A whole study: pairs x tasks x arms x seeds under one training recipe."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    tasks: list[Annotated[str | OwnTask, BeforeValidator(_read_task)]] = Field(min_length=1)
    pairs: list[Pair] = Field([], description="teachers, each beside one student")
    matrix: Matrix | None = Field(
        None, description="every one of these teachers beside every one of these students"
    )
    arms: list[str] = Field(list(DEFAULT_ARMS), min_length=1)
    seeds: list[int] = Field([42], min_length=1)
    baselines: bool = Field(True, description="majority class and TF-IDF + linear model")
    data_dir: str | None = Field(
        None, description="folder of <task>/{train,validation}.tsv; default: from the hub"
    )
    data: Data = Data()
    training: Training = Training()
    adapter: Adapter = Adapter()
    distillation: Distillation = Distillation()
    unlabelled: dict[str, Sources] = Field(
        {}, description="task: files of texts that only the teacher labels"
    )
    overrides: dict[str, dict[str, Any]] = Field(
        {}, description="per arm: sections that differ, such as {student/fft: {training: {...}}}"
    )
    variations: dict[str, Variation] = Field(
        {}, description="label: an arm with changed settings, planned beside the arms"
    )
    ablations: list[Ablation] = Field([], description="arms whose settings run through values")
    ranks: list[PositiveInt] = Field(
        [],
        description="every PEFT arm at each of these ranks: the adapter's own (or the first) "
        "under the arm's name, the others labelled, as in student/kd-lora[rank=8]",
    )
    budgets: list[PositiveInt] = Field(
        [], description="the same for budgets of trainable parameters"
    )
    exclude: Annotated[
        tuple[Exclusion, ...],
        BeforeValidator(as_exclusions, json_schema_input_type=Exclusion | list[Exclusion]),
    ] = Field((), description="places that are left out, such as {task: wnli, arm: student/kd-*}")
    halving: Annotated[
        tuple[Halving, ...],
        BeforeValidator(as_halvings, json_schema_input_type=Halving | list[Halving]),
    ] = Field((), description="arms of which only the better ones are trained to the end")
    base_dir: str = Field(".", exclude=True, description="relative paths start here")

    @field_validator("arms")
    @classmethod
    def _known_arms(cls, arms: list[str]) -> list[str]:
        problems = []
        for arm in arms:
            try:
                parse_arm(arm)
            except ValueError as error:
                problems.append(str(error))
        if problems:
            raise ValueError("; ".join(problems))
        return [str(parse_arm(arm)) for arm in dict.fromkeys(arms)]

    @field_validator("seeds")
    @classmethod
    def _distinct_seeds(cls, seeds: list[int]) -> list[int]:
        if len(set(seeds)) < len(seeds):
            raise ValueError(f"{seeds} names a seed twice")
        return seeds

    @model_validator(mode="after")
    def _expanded(self) -> Study:
        """Short forms become what they stand for, so that nobody else needs to know of them."""
        if self.matrix is not None:
            object.__setattr__(self, "pairs", [*self.pairs, *self.matrix.pairs()])
            object.__setattr__(self, "matrix", None)
        if any(size_problems(self)):  # told by the next validator, with all the rest
            return self
        for name, sizes in (("rank", self.ranks), ("budget", self.budgets)):
            if sizes and name not in self.adapter.model_fields_set:
                adapter = Adapter.model_validate(self.adapter.replaced({name: sizes[0]}))
                object.__setattr__(self, "adapter", adapter)
        return self

    @model_validator(mode="after")
    def _consistent(self) -> Study:
        problems = [*self._duplicate_names(), *self._unknown_unlabelled(), *size_problems(self)]
        if not self.pairs:
            problems.append("pairs: is required; or give a matrix of teachers and students")
        for arm, sections in self.overrides.items():
            if arm not in self.arms:
                problems.append(f"overrides: '{arm}' is not among arms: {', '.join(self.arms)}")
            for section, values in sections.items():
                if section not in SECTIONS:
                    problems.append(
                        f"overrides.{arm}: unknown section '{section}'."
                        + did_you_mean(section, SECTIONS)
                    )
                    continue
                problems += _changing(getattr(self, section), values, f"overrides.{arm}.{section}.")
        problems += self._varied_problems()
        if not problems:
            problems += exclusion_problems(self)
            problems += dict.fromkeys(halving_problems(self))
        if problems:
            raise ValueError("; ".join(problems))
        return self

    def _varied_problems(self) -> Iterable[str]:
        labelled = list(self._labelled_arms())
        problems = list(variation_problems(labelled, self.variations))
        for planned in labelled:
            for section, values in planned.changes.items():
                base = merged(
                    getattr(self, section),
                    self.overrides.get(str(planned.arm), {}).get(section, {}),
                )
                problems += _changing(base, dict(values), f"{planned.where}.{section}.")
        if not problems:
            problems += [
                f"{planned}: which method of peft? Name it in adapter.method, such as LOHA"
                for planned in self.planned_arms()
                if planned.arm.adaptation == "peft"
                and self.section(planned, "adapter").method is None
            ]
        return dict.fromkeys(problems)

    def _duplicate_names(self) -> Iterable[str]:
        for what, names in (
            ("pairs", [p.name for p in self.pairs]),
            ("tasks", [task_name(task) for task in self.tasks]),
        ):
            twice = {n for n in names if names.count(n) > 1}
            if twice:
                yield f"{what}: named twice: {', '.join(sorted(twice))}"

    def _unknown_unlabelled(self) -> Iterable[str]:
        own = {t.name: t for t in self.tasks if isinstance(t, OwnTask)}
        names = [t for t in self.tasks if isinstance(t, str)] + list(own)
        for name in self.unlabelled:
            if name not in names:
                yield f"unlabelled: no task '{name}' in this study.{did_you_mean(name, names)}"
            elif name in own and own[name].unlabelled:
                yield f"unlabelled: task '{name}' names its own unlabelled texts already"

    def planned_arms(self) -> list[PlannedArm]:
        """The arms as named, then the labelled copies of sizes, variations and ablations."""
        plain = [PlannedArm(parse_arm(arm)) for arm in self.arms]
        return [*plain, *self._labelled_arms()]

    def _labelled_arms(self) -> Iterator[PlannedArm]:
        plain = [PlannedArm(parse_arm(arm)) for arm in self.arms]
        own = {"rank": self.adapter.rank, "budget": self.adapter.budget}
        sizes = {"rank": self.ranks, "budget": self.budgets}
        yield from sized_arms(plain, sizes, own, self.overrides)
        yield from expand(self.variations, self.ablations)

    def section(self, arm: str | PlannedArm, section: str) -> Any:
        """The training, adapter or distillation section as it holds for an arm, labelled or not."""
        if isinstance(arm, str):
            labelled = {str(planned): planned for planned in self.planned_arms()}
            arm = labelled.get(arm) or PlannedArm(parse_arm(arm))
        overrides = self.overrides.get(str(arm.arm), {}).get(section, {})
        changes = dict(arm.changes.get(section, {}))
        return merged(merged(getattr(self, section), overrides), changes)

    def located(self) -> Study:
        """The same study with absolute paths, so that its file may lie anywhere."""

        def absolute(text: str | None) -> str | None:
            return str(self.path(text).resolve()) if text and self.path(text).exists() else text

        def folder(name: str) -> str | None:
            return absolute(name) if self.path(name).is_dir() else name

        def encoder(student: str | Layers) -> str | Layers | None:
            if isinstance(student, str):
                return folder(student)
            if student.source == "teacher":
                return student
            return student.model_copy(update={"source": folder(student.source)})

        def texts(sources: tuple[Texts, ...]) -> tuple[Texts, ...]:
            return tuple(s.model_copy(update={"file": absolute(s.file)}) for s in sources)

        tasks = [
            task
            if isinstance(task, str)
            else task.model_copy(
                update={k: absolute(getattr(task, k)) for k in ("train", "eval")}
                | {"unlabelled": texts(task.unlabelled)}
            )
            for task in self.tasks
        ]
        pairs = [
            pair.model_copy(
                update={
                    "teacher": folder(pair.teacher),
                    "student": encoder(pair.student),
                }
                | {
                    # {task} in a file's name stands for several files: no single one may exist
                    "teacher_outputs": pair.teacher_outputs
                    and pair.teacher_outputs.model_copy(
                        update={"file": str(self.path(pair.teacher_outputs.file).absolute())}
                    )
                }
            )
            for pair in self.pairs
        ]
        unlabelled = {name: texts(sources) for name, sources in self.unlabelled.items()}
        data_dir = absolute(self.data_dir)
        return self.model_copy(
            update={"tasks": tasks, "pairs": pairs, "data_dir": data_dir, "unlabelled": unlabelled}
        )

    def lacks_data_dir(self, text: str) -> bool:
        """Whether a path of the study file lies below a data_dir that is not given."""
        return self.data_dir is None and "{data_dir}" in text

    def path(self, text: str) -> Path:
        """A path of the study file: relative to the file's folder, or below ``{data_dir}``."""
        path = Path(text.replace("{data_dir}", self.data_dir or "{data_dir}")).expanduser()
        return path if path.is_absolute() else Path(self.base_dir) / path


def merged(section: Strict, values: dict[str, Any]) -> Any:
    """A copy of a section with some values replaced, validated again."""
    if not values:
        return section
    if not isinstance(values, dict):
        raise InputError(f"{type(section).__name__.lower()}: expected a mapping, got {values!r}")
    values = spread(values, section.model_dump())
    if isinstance(section, Adapter):
        return Adapter.model_validate(section.replaced(values))
    return type(section).model_validate({**section.model_dump(), **values})


def _changing(section: Strict, values: Any, place: str) -> list[str]:
    """What is wrong with values that replace some of a section's."""
    if not isinstance(values, dict):
        return [f"{place.rstrip('.')}: expected a mapping, got {values!r}"]
    try:
        merged(section, values)
    except ValidationError as error:
        return explain(error, prefix=place, model=type(section))
    return []


def read_study(path: str | Path, **changes: Any) -> Study:
    """Read and validate a study file. Raises InputError with every problem in it."""
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise InputError(f"no study file at {path}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot read {path}: {error}") from None
    try:
        values = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # dates, numbers, nesting
        raise InputError(f"{path} is not valid YAML: {error}") from None
    if not isinstance(values, dict):
        raise InputError(f"{path}: expected a mapping with name, tasks and pairs")
    return make_study({"base_dir": str(path.parent), **values, **changes}, where=str(path))


def make_study(values: dict[str, Any], *, where: str | None = None) -> Study:
    """Validate a mapping as a study. Raises InputError with every problem in it."""
    try:
        return Study.model_validate(values)
    except ValidationError as error:
        raise InputError(list(dict.fromkeys(explain(error, model=Study))), where=where) from None
