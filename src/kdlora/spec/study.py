"""The study file: one pydantic model behind the YAML, `kdlora distil` and the Python API.

What one section says of itself is checked here, by the models; what several sections say together,
in `spec.check`, whose `read_study` and `make_study` are the ways to a study.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, PositiveInt, field_validator, model_validator

from kdlora.errors import InputError, did_you_mean
from kdlora.files import is_folder, is_there, real_path
from kdlora.spec.adapter import Adapter
from kdlora.spec.base import Strict
from kdlora.spec.distillation import Distillation, Sources, Texts
from kdlora.spec.encoders import MadeStudent, Pair
from kdlora.spec.grid import ExcludedCells, PairMatrix, as_exclusions, sized_arms
from kdlora.spec.halving import Halving, as_halvings
from kdlora.spec.sections import Data, OwnTask, Training
from kdlora.spec.variations import Ablation, ArmName, PlannedArm, Variation, expand, spread
from kdlora.vocabulary.arm import DEFAULT_ARMS, Arm
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

    name: str = Field(
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$",
        description="of the study, and of its folder below results",
    )
    tasks: list[Annotated[str | OwnTask, BeforeValidator(_read_task)]] = Field(
        min_length=1, description="built-in tasks by their names, or own data"
    )
    pairs: list[Pair] = Field([], description="teachers, each beside one student")
    matrix: PairMatrix | None = Field(
        None, description="every one of these teachers beside every one of these students"
    )
    arms: list[ArmName] = Field(
        list(DEFAULT_ARMS),
        min_length=1,
        description="role/adaptation, `kd-` before it for a student that learns from its teacher",
    )
    seeds: list[int] = Field([42], min_length=1, description="every arm is trained once a seed")
    baselines: bool = Field(
        True,
        description="majority class, TF-IDF + linear model, and the embeddings of the student's "
        "untrained encoder + linear model",
    )
    data_dir: str | None = Field(
        None, description="folder of <task>/{train,validation}.tsv; default: from the hub"
    )
    data: Data = Data()
    training: Training = Training()
    adapter: Adapter = Adapter()
    distillation: Distillation = Distillation()
    unlabelled: dict[str, Sources] = Field(
        {},
        description="task: texts that only the teacher labels, as files, or as the word rest: the "
        "train rows that data.max_train leaves out",
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
        tuple[ExcludedCells, ...],
        BeforeValidator(as_exclusions, json_schema_input_type=ExcludedCells | list[ExcludedCells]),
    ] = Field((), description="places that are left out, such as {task: wnli, arm: student/kd-*}")
    halving: Annotated[
        tuple[Halving, ...],
        BeforeValidator(as_halvings, json_schema_input_type=Halving | list[Halving]),
    ] = Field((), description="arms of which only the better ones are trained to the end")
    keep_texts: bool = Field(
        True,
        description="whether the study's folder keeps the texts of its rows, so that the report "
        "can show mistakes with their texts",
    )
    base_dir: str = Field(".", exclude=True, description="relative paths start here")

    @field_validator("arms")
    @classmethod
    def _once(cls, arms: list[str]) -> list[str]:
        return list(dict.fromkeys(arms))

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
        lists = {name: sizes for name, sizes in self.sizes.items() if sizes}
        # Two lists, or a list beside a size of the section, may contradict: `check` tells.
        if len(lists) == 1 and not set(self.sizes) & self.adapter.model_fields_set:
            first = {name: sizes[0] for name, sizes in lists.items()}
            adapter = Adapter.model_validate(self.adapter.replaced(first))
            object.__setattr__(self, "adapter", adapter)
        return self

    @property
    def sizes(self) -> dict[str, list[int]]:
        """The lists of adapter sizes, by the adapter's setting."""
        return {"rank": self.ranks, "budget": self.budgets}

    def planned_arms(self) -> list[PlannedArm]:
        """The arms as named, then the labelled copies of sizes, variations and ablations."""
        plain = [PlannedArm(Arm.parse(arm)) for arm in self.arms]
        return [*plain, *self.labelled_arms()]

    def labelled_arms(self) -> Iterator[PlannedArm]:
        """The labelled copies alone."""
        plain = [PlannedArm(Arm.parse(arm)) for arm in self.arms]
        own = {"rank": self.adapter.rank, "budget": self.adapter.budget}
        yield from sized_arms(plain, self.sizes, own, self.overrides)
        yield from expand(self.variations, self.ablations)

    def section(self, arm: str | PlannedArm, section: str) -> Any:
        """The training, adapter or distillation section as it holds for an arm, labelled or not."""
        if isinstance(arm, str):
            labelled = {str(planned): planned for planned in self.planned_arms()}
            arm = labelled.get(arm) or PlannedArm(Arm.parse(arm))
        overrides = self.overrides.get(str(arm.arm.plain), {}).get(section, {})
        changes = dict(arm.changes.get(section, {}))
        return merged(merged(getattr(self, section), overrides), changes)

    def located(self) -> Study:
        """The same study with absolute paths, so that its file may lie anywhere."""

        def absolute(text: str | None) -> str | None:
            return str(real_path(self.path(text))) if text and is_there(self.path(text)) else text

        def folder(name: str) -> str | None:
            return absolute(name) if is_folder(self.path(name)) else name

        def encoder(student: str | MadeStudent) -> str | MadeStudent | None:
            if isinstance(student, str):
                return folder(student)
            changes: dict[str, Any] = {}
            if student.source != "teacher":
                changes["source"] = folder(student.source)
            if (kept := student.vocabulary) is not None:
                corpus = absolute(kept.corpus)
                changes["vocabulary"] = kept.model_copy(update={"corpus": corpus})
            return student.model_copy(update=changes)

        def texts(sources: tuple[Texts, ...]) -> tuple[Texts, ...]:
            return tuple(
                s if s.of_train else s.model_copy(update={"file": absolute(s.file)})
                for s in sources
            )

        tasks = [
            task
            if isinstance(task, str)
            else task.model_copy(
                update={
                    k: absolute(getattr(task, k))
                    for k in (("hub",) if task.hub else ("train", "eval"))
                }
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

    def as_file(self) -> dict[str, Any]:
        """The study as a file holds it.

        A length that nobody named stays unnamed: it is the default only where every encoder has
        positions for so many tokens (see `spec.plan.make_plan`).
        """
        values = self.model_dump(mode="json")
        if "max_length" not in self.training.model_fields_set:
            del values["training"]["max_length"]
        return values

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
    if isinstance(section, Adapter | Training):
        return type(section).model_validate(section.replaced(values))
    return type(section).model_validate({**section.model_dump(), **values})
