"""One training, fully resolved: what a worker needs to know and what its record states.

`run_id` hashes only the fields that affect the run. A teacher's id does not know its students, a
full fine-tuning does not know the adapter's rank, and a setting of the report changes no id.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from functools import cache, cached_property
from typing import Any, Literal

from pydantic import Field, computed_field, model_validator

from kdlora.spec.adapter import Adapter
from kdlora.spec.base import Strict
from kdlora.spec.distillation import Distillation, TeacherOutputs, Texts
from kdlora.spec.encoders import encoder_title
from kdlora.spec.fingerprint import canonical_json, hash_json, hash_text
from kdlora.spec.sections import Data, OwnTask, Training
from kdlora.vocabulary.arm import Arm, labelled


def seed_for(seed: int, purpose: str) -> int:
    """A seed below 2^31 for one purpose ("init", "order", "dropout") of a run."""
    return int.from_bytes(hashlib.sha256(f"{seed}:{purpose}".encode()).digest()[:4], "big") >> 1


_ID_LENGTH = 12  # hexadecimal digits
RUN_VERSION = 1  # raised when the same fields come to mean another computation

# Fields that came after the first records, by section. At their default they are no part of the
# id: what was done before they existed stays done.
NEW_FIELDS: dict[str, tuple[str, ...]] = {
    "": ("teacher_run_ids", "unlabelled", "outputs"),
    "kd": ("signals", "hidden_cache_mb", "start"),
    "encoder": ("layers",),
    "task.own": ("labels",),
    "adapter": ("budget", "method", "config"),
}


class TaskRef(Strict):
    """Which task, at which version, from which rows.

    `source` is "hub", "folder", "files" or "package"; `fingerprint` is the hash of local files
    and empty where the source itself is pinned (a package's version).
    """

    name: str
    version: int
    source: Literal["hub", "folder", "files", "package"]
    fingerprint: str = ""
    folder: str | None = None
    own: OwnTask | None = None


class EncoderRef(Strict):
    """A model by the name the user gave; `path` is set when that name is a local folder.

    `layers` are the ones that are kept of it, None means all.
    """

    name: str
    source: Literal["package", "folder", "hub"]
    fingerprint: str = ""
    path: str | None = None
    layers: tuple[int, ...] | None = None

    @property
    def title(self) -> str:
        """The model as it is shown: ``big``, or ``big[0,2,4]``."""
        return encoder_title(self.name, self.layers)


class TextsRef(Texts):
    """Unlabelled texts as planned: `file` is absolute, `fingerprint` the hash of what it holds."""

    fingerprint: str


SCORE = "score"  # what a regression's only output is called in a teacher's file


class OutputsRef(TeacherOutputs):
    """A teacher's outputs as planned: `file` is absolute and of this task."""

    fingerprint: str


class Run(Strict):
    """One training (or, for `given` teachers and baselines, one scoring)."""

    version: int = RUN_VERSION
    task: TaskRef
    role: Literal["teacher", "student", "baseline"]
    adaptation: str
    distillation: Literal["none", "kd"] = "none"
    seed: int
    data: Data
    encoder: EncoderRef | None = None
    training: Training | None = None
    lr: float | None = None
    adapter: Adapter | None = None
    kd: Distillation | None = None
    teacher_run_id: str | None = None
    teacher_run_ids: tuple[str, ...] = Field((), description="all of an ensemble's, in order")
    unlabelled: tuple[TextsRef, ...] = ()
    outputs: OutputsRef | None = Field(None, description="a teacher that is a file, no model")
    # Below here nothing affects the training, so nothing is part of the id.
    pair: str = ""
    label: str = Field("", description="of a varied arm: student/kd-lora[label]")
    reference: EncoderRef | None = Field(None, description="timed beside this run's model")

    @model_validator(mode="before")
    @classmethod
    def _id_is_computed(cls, values: Any) -> Any:
        """A dumped run carries its id; it is computed again, never believed."""
        if isinstance(values, dict):
            return {key: value for key, value in values.items() if key != "run_id"}
        return values

    @property
    def arm(self) -> str:
        return str(Arm(self.role, self.adaptation, self.distillation))

    @property
    def title(self) -> str:
        """The arm with its label."""
        return labelled(self.arm, self.label)

    @computed_field  # type: ignore[prop-decorator]
    @cached_property
    def run_id(self) -> str:
        """A readable prefix and a hash of everything that affects the result."""
        return f"{self.id_prefix}-s{self.seed}-{hash_json(self.identity(), _ID_LENGTH)}"

    @property
    def id_prefix(self) -> str:
        """The readable part of the id, before the seed."""
        return f"{self.task.name}-{Arm(self.role, self.adaptation, self.distillation).slug}"

    @property
    def teachers(self) -> tuple[str, ...]:
        """Ids of the runs that must be done before this one."""
        one = (self.teacher_run_id,) if self.teacher_run_id else ()
        return self.teacher_run_ids or one

    def identity(self) -> dict[str, Any]:
        """The fields that the id hashes: paths give way to fingerprints of what lies there."""
        values = self.model_dump(
            mode="json",
            exclude={"run_id", "pair", "label", "reference", "task", "encoder", "training"},
        )
        task = self.task.model_dump(mode="json", exclude={"folder", "own"})
        if self.task.own is not None:
            task["own"] = self.task.own.model_dump(
                mode="json", exclude={"train", "eval", "unlabelled"}
            )
        values["task"] = task
        if self.encoder is not None:
            exclude = {"path", "name"} if self.encoder.source == "folder" else {"path"}
            values["encoder"] = self.encoder.model_dump(mode="json", exclude=exclude)
        if self.training is not None:
            values["training"] = self.training.model_dump(mode="json", exclude={"lr"})
        if self.kd is not None:  # what other fields say already, or what changes nothing
            silent = {"teacher_seeds", "unlabelled"}
            silent |= set() if self.kd.signals.match_states else {"hidden_cache_mb"}
            values["kd"] = {k: v for k, v in values["kd"].items() if k not in silent}
        for source in (*values["unlabelled"], *filter(None, [values["outputs"]])):
            del source["file"]
        _drop_new_defaults(self, values)
        return values


class Siblings:
    """Copies of a run that differ in seed and teachers, at a tenth of the cost of a new one.

    What a large plan consists of: all but these fields is dumped and validated once. Runs that
    differ in nothing that affects the result (`pair`, `reference`) may share the dumped `parts`.
    """

    def __init__(self, make: Callable[[], Run], parts: Parts | None = None) -> None:
        self._make = make
        self._run: Run | None = None
        self.parts = parts or _parts(self._template())

    def run_id(self, seed: int, teachers: tuple[str, ...] = ()) -> str:
        """What the sibling's `Run.run_id` is: the canonical JSON is put together from its parts."""
        prefix, before, between, after = self.parts
        ids = f'"{teachers[0]}"' if teachers else "null"
        if len(teachers) > 1:
            ids += f',"teacher_run_ids":{canonical_json(teachers)}'
        text = f"{before}{seed}{between}{ids}{after}"
        return f"{prefix}-s{seed}-{hash_text(text, _ID_LENGTH)}"

    def run(self, seed: int, teachers: tuple[str, ...], run_id: str) -> Run:
        """The run that `Run(...)` would make, its `run_id` being known."""
        template = self._template()
        changed = {
            "seed": seed,
            "teacher_run_id": teachers[0] if teachers else None,
            "teacher_run_ids": teachers if len(teachers) > 1 else (),
            "run_id": run_id,
        }
        made = Run.__new__(Run)
        # Fields set are shared, not copied: they would be most of the memory of a large plan.
        # Filled, not replaced: instances then share one table of keys.
        values = made.__dict__
        for name, value in template.__dict__.items():
            values[name] = value
        for name, value in changed.items():
            values[name] = value
        for name, value in (
            ("__pydantic_fields_set__", template.model_fields_set),
            ("__pydantic_extra__", None),
            ("__pydantic_private__", None),
        ):
            object.__setattr__(made, name, value)
        return made

    def _template(self) -> Run:
        if self._run is None:
            self._run = self._make()
        return self._run


# An id's prefix, and the canonical JSON before the seed, between seed and teachers, and after them.
Parts = tuple[str, str, str, str]
_SEED, _TEACHERS = "\0seed", "\0teachers"  # stand for values in it, and for nothing else


def _parts(run: Run) -> Parts:
    values = {**run.identity(), "seed": _SEED, "teacher_run_id": _TEACHERS}
    values.pop("teacher_run_ids", None)
    before, rest = canonical_json(values).split(canonical_json(_SEED))
    between, after = rest.split(canonical_json(_TEACHERS))
    return run.id_prefix, before, between, after


def _drop_new_defaults(run: Run, values: dict[str, Any]) -> None:
    """Remove the fields of `NEW_FIELDS` that are at their default from a dumped run."""
    for section, names in NEW_FIELDS.items():
        model: Any = run
        dumped: Any = values
        for part in section.split(".") if section else ():
            model = model and getattr(model, part)
            dumped = (dumped or {}).get(part)
        for name in names if dumped else ():
            there = model is not None and name in dumped
            owner: type[Strict] = type(model)
            if there and getattr(model, name) == _default(owner, name):
                del dumped[name]


@cache
def _default(model: type[Strict], name: str) -> Any:
    return model.model_fields[name].get_default(call_default_factory=True)
