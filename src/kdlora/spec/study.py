"""The study file: one pydantic model behind the YAML, `kdlora distil` and the Python API.

Everything that can be wrong with a study without reading its data is found here, and all of it is
reported in one message.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    NonNegativeFloat,
    PositiveFloat,
    PositiveInt,
    ValidationError,
    field_validator,
    model_validator,
)

from kdlora.errors import InputError, did_you_mean
from kdlora.spec.names import DEFAULT_ARMS, parse_arm
from kdlora.spec.tasks import CLASSIFICATION_METRICS, REGRESSION_METRICS, TASKS


class Strict(BaseModel):
    """A section of the file: unknown keys are errors, values do not change once read."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def _as_tuple(value: Any) -> Any:
    return (value,) if isinstance(value, str | int) else value


class LearningRates(Strict):
    """Peak learning rates: full fine-tuning wants a lower one than adapters."""

    fft: PositiveFloat = 1e-4
    peft: PositiveFloat = 1e-3


def _as_rates(value: Any) -> Any:
    return {"fft": value, "peft": value} if isinstance(value, int | float | str) else value


class Training(Strict):
    """How every arm is trained: the same for all of them, so that they can be compared."""

    epochs: PositiveInt = 3
    batch_size: PositiveInt = Field(32, description="examples per optimizer step")
    micro_batch_size: PositiveInt | None = Field(
        None, description="examples per forward pass; default batch_size. Less saves memory"
    )
    lr: Annotated[LearningRates, BeforeValidator(_as_rates)] = LearningRates()
    weight_decay: NonNegativeFloat = 0.01
    warmup: float = Field(0.06, ge=0, lt=1, description="share of all steps")
    clip_norm: PositiveFloat = 1.0
    max_length: int = Field(128, ge=8, description="tokens; longer texts are cut")
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    patience: PositiveInt | None = Field(
        None, description="stop after this many evaluations without gain, counted after warm-up"
    )
    evals_per_epoch: PositiveInt = 1
    dropout: float | None = Field(
        None, ge=0, lt=1, description="the encoder's own dropout; default as its config says"
    )


class Adapter(Strict):
    """The adapter of every PEFT arm."""

    rank: PositiveInt = 16
    alpha: PositiveFloat | Literal["rank", "2*rank"] = "2*rank"
    dropout: float = Field(0.0, ge=0, lt=1)
    targets: Annotated[tuple[str, ...], BeforeValidator(_as_tuple)] = Field(
        ("all-linear",),
        description="all-linear, query-value (as in the reports), or module names",
    )
    options: dict[str, Any] = Field({}, description="further arguments of the variant's config")

    @property
    def alpha_value(self) -> float:
        if isinstance(self.alpha, str):
            return float(self.rank * (2 if self.alpha == "2*rank" else 1))
        return self.alpha


class Distillation(Strict):
    """How a student learns from its teacher's cached logits (Hinton et al. 2015)."""

    temperature: PositiveFloat = 2.0
    kd_weight: float = Field(0.5, ge=0, le=1, description="share of the teacher's term in the loss")


class Data(Strict):
    """Which rows are trained on, selected on and reported on."""

    max_train: PositiveInt | None = Field(None, description="train on a stratified subset")
    selection_fraction: float = Field(0.1, gt=0, lt=0.5)
    selection_min: PositiveInt = 500
    split_seed: int = 0


class Pair(Strict):
    """A teacher encoder and the student encoder that learns from it."""

    name: str = ""
    teacher: str
    student: str
    teacher_is_trained: bool = Field(
        False, description="the teacher is already fine-tuned on this task: score it, don't train"
    )

    @model_validator(mode="before")
    @classmethod
    def _named(cls, value: Any) -> Any:
        if isinstance(value, dict) and not value.get("name"):
            teacher, student = (str(value.get(k, "")).rstrip("/") for k in ("teacher", "student"))
            value = {**value, "name": f"{Path(teacher).name}--{Path(student).name}"}
        return value


class OwnTask(Strict):
    """Own data: files with one or two text columns and a label column."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    train: str
    eval: str | None = Field(
        None, description="held-out file; without it 20 % of train is held out"
    )
    text: Annotated[tuple[str, ...], BeforeValidator(_as_tuple)] = ("text",)
    label: str = "label"
    id: str | None = Field(None, description="column of unique example ids")
    kind: Literal["auto", "classification", "regression"] = "auto"
    metric: str | None = None
    positive: str | None = Field(None, description="the class whose F1 is reported as f1")

    @field_validator("text")
    @classmethod
    def _one_or_two(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if not 1 <= len(value) <= 2:
            raise ValueError(f"{len(value)} text columns given, 1 or 2 expected")
        return value

    @field_validator("metric")
    @classmethod
    def _known_metric(cls, value: str | None) -> str | None:
        known = (*CLASSIFICATION_METRICS, "f1", *REGRESSION_METRICS)
        if value is not None and value not in known:
            raise ValueError(f"unknown metric '{value}'.{did_you_mean(value, known)}")
        return value


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
    pairs: list[Pair] = Field(min_length=1)
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
    overrides: dict[str, dict[str, Any]] = Field(
        {}, description="per arm: sections that differ, such as {student/fft: {training: {...}}}"
    )
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
    def _consistent(self) -> Study:
        problems = list(self._duplicate_names())
        for arm, sections in self.overrides.items():
            if arm not in self.arms:
                problems.append(f"overrides: '{arm}' is not among arms: {', '.join(self.arms)}")
            for section, values in sections.items():
                if section not in ("training", "adapter", "distillation"):
                    problems.append(
                        f"overrides.{arm}: unknown section '{section}'."
                        + did_you_mean(section, ("training", "adapter", "distillation"))
                    )
                    continue
                try:
                    merged(getattr(self, section), values)
                except ValidationError as error:
                    problems += _explain(error, prefix=f"overrides.{arm}.{section}.")
        if problems:
            raise ValueError("; ".join(problems))
        return self

    def _duplicate_names(self) -> Iterable[str]:
        for what, names in (
            ("pairs", [p.name for p in self.pairs]),
            ("tasks", [t if isinstance(t, str) else t.name for t in self.tasks]),
        ):
            twice = {n for n in names if names.count(n) > 1}
            if twice:
                yield f"{what}: named twice: {', '.join(sorted(twice))}"

    def section(self, arm: str, section: str) -> Any:
        """The training, adapter or distillation section as it holds for one arm."""
        return merged(getattr(self, section), self.overrides.get(arm, {}).get(section, {}))

    def located(self) -> Study:
        """The same study with absolute paths, so that its file may lie anywhere."""

        def absolute(text: str | None) -> str | None:
            return str(self.path(text).resolve()) if text and self.path(text).exists() else text

        tasks = [
            task
            if isinstance(task, str)
            else task.model_copy(update={k: absolute(getattr(task, k)) for k in ("train", "eval")})
            for task in self.tasks
        ]
        pairs = [
            pair.model_copy(
                update={
                    k: absolute(name) if self.path(name := getattr(pair, k)).is_dir() else name
                    for k in ("teacher", "student")
                }
            )
            for pair in self.pairs
        ]
        data_dir = absolute(self.data_dir)
        return self.model_copy(update={"tasks": tasks, "pairs": pairs, "data_dir": data_dir})

    def path(self, text: str) -> Path:
        """A path of the study file, relative to the folder the file lies in."""
        path = Path(text).expanduser()
        return path if path.is_absolute() else Path(self.base_dir) / path


def merged(section: Strict, values: dict[str, Any]) -> Any:
    """A copy of a section with some values replaced, validated again."""
    if not values:
        return section
    if not isinstance(values, dict):
        raise InputError(f"{type(section).__name__.lower()}: expected a mapping, got {values!r}")
    return type(section).model_validate({**section.model_dump(), **values})


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
    except yaml.YAMLError as error:
        raise InputError(f"{path} is not valid YAML: {error}") from None
    if not isinstance(values, dict):
        raise InputError(f"{path}: expected a mapping with name, tasks and pairs")
    return make_study({"base_dir": str(path.parent), **values, **changes}, where=str(path))


def make_study(values: dict[str, Any], *, where: str | None = None) -> Study:
    """Validate a mapping as a study. Raises InputError with every problem in it."""
    try:
        return Study.model_validate(values)
    except ValidationError as error:
        raise InputError(list(dict.fromkeys(_explain(error))), where=where) from None


def _explain(error: ValidationError, prefix: str = "") -> list[str]:
    """pydantic's findings as sentences that a user of the YAML understands."""
    problems = []
    for item in error.errors():
        # tasks are "a name or a mapping": pydantic adds which of the two it tried
        parts = [str(p) for p in item["loc"] if p not in ("str", "OwnTask", "function-before")]
        parts = [p for p in parts if not p.startswith("function-")]
        place = prefix + ".".join(parts)
        kind, given = item["type"], item.get("input")
        if kind == "string_type" and isinstance(given, dict):
            continue  # the mapping branch of the same task tells the real problem
        if kind == "extra_forbidden":
            message = f"unknown key.{did_you_mean(parts[-1], _keys_at(item['loc']))}"
        elif kind == "missing":
            message = "is required"
        elif kind == "value_error":
            message = str(item["ctx"]["error"])
        else:
            message = item["msg"][0].lower() + item["msg"][1:] + f", got {given!r}"
        problems.append(f"{place}: {message}" if place else message)
    return problems


_SECTIONS: dict[str, type[Strict]] = {
    "training": Training,
    "adapter": Adapter,
    "distillation": Distillation,
    "data": Data,
    "pairs": Pair,
    "tasks": OwnTask,
    "lr": LearningRates,
}


def _keys_at(location: tuple[int | str, ...]) -> list[str]:
    """The keys that are known where an unknown one was found."""
    model: type[Strict] = Study
    for part in location[:-1]:
        model = _SECTIONS.get(str(part), model)
    return [name for name in model.model_fields if name != "base_dir"]
