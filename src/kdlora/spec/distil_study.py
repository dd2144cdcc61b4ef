"""The study behind `kdlora distil`: one own task, one pair, the student with and without a teacher.

The command line and the Python API say the same things by the same names; what they mean as a
study stands here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from kdlora.errors import InputError
from kdlora.spec.check import make_study
from kdlora.spec.resolve import encoder_ref, is_sequence_classifier
from kdlora.spec.study import Study
from kdlora.vocabulary.arm import GIVEN_TEACHER, TEACHER, Arm

# Arguments that are settings of a section of the study file.
_SETTINGS = {
    "epochs": "training",
    "batch_size": "training",
    "lr": "training",
    "max_length": "training",
    "max_train": "data",
    "rank": "adapter",
    "temperature": "distillation",
    "kd_weight": "distillation",
}

FileName = str | Path


@dataclass(frozen=True, kw_only=True)
class DistilArguments:
    """What a user says to `kdlora.distil`, which describes each argument, or to the command."""

    train: FileName
    student: str
    teacher: str
    eval: FileName | None = None
    unlabelled: FileName | Sequence[FileName] = ()
    text: str | Sequence[str] = "text"
    label: str = "label"
    id: str | None = None
    kind: str = "auto"
    metric: str | None = None
    positive: str | None = None
    teacher_is_trained: bool | None = None
    adaptation: str = "lora"
    seeds: Sequence[int] = (42,)
    epochs: int | None = None
    batch_size: int | None = None
    lr: float | None = None
    max_length: int | None = None
    max_train: int | None = None
    rank: int | None = None
    temperature: float | None = None
    kd_weight: float | None = None
    name: str | None = None
    sections: Mapping[str, Mapping[str, Any]] | None = None


def distil_study(given: DistilArguments) -> Study:
    """The study that these arguments mean. Raises InputError with all that is wrong with them."""
    stem = task_name_of(given.train)
    task = {
        "name": stem,
        "train": str(given.train),
        "eval": None if given.eval is None else str(given.eval),
        "text": given.text if isinstance(given.text, str) else tuple(given.text),
        "unlabelled": _names(given.unlabelled),
    }
    task |= {key: getattr(given, key) for key in ("label", "id", "kind", "metric", "positive")}
    trained = given.teacher_is_trained
    if trained is None:
        trained = False
        with suppress(InputError):  # told when the study is planned
            trained = is_sequence_classifier(encoder_ref(given.teacher, "."))
    pair = {"teacher": given.teacher, "student": given.student, "teacher_is_trained": trained}
    arm = Arm("student", given.adaptation)
    return make_study(
        {
            "name": given.name or f"distil-{stem}",
            "tasks": [task],
            "pairs": [pair],
            "arms": [
                str(GIVEN_TEACHER if trained else TEACHER),
                str(arm.as_full()),
                str(arm),
                str(replace(arm, distillation="kd")),
            ],
            "seeds": list(given.seeds),
            **_sections(given),
        }
    )


def _sections(given: DistilArguments) -> dict[str, dict[str, Any]]:
    """The sections as they were given, and in them the settings that were given by their names."""
    found = {section: dict(values) for section, values in (given.sections or {}).items()}
    for name, section in _SETTINGS.items():
        if (value := getattr(given, name)) is not None:
            found.setdefault(section, {})[name] = value
    return found


def _names(files: FileName | Sequence[FileName]) -> tuple[str, ...]:
    return (str(files),) if isinstance(files, str | Path) else tuple(map(str, files))


def task_name_of(file: FileName) -> str:
    """A task's name after its file, safe in paths and ids."""
    stem = Path(file).name.split(".")[0]
    kept = "".join(c if c.isalnum() or c in "-_" else "-" for c in stem).strip("-_")
    return kept or "task"
