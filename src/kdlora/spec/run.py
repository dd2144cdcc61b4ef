"""One training, fully resolved: what a worker needs to know and what its record states.

`run_id` hashes only the fields that affect the run. A teacher's id does not know its students, a
full fine-tuning does not know the adapter's rank, and a setting of the report changes no id.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any, Literal

from pydantic import Field, computed_field, model_validator

from kdlora.spec.base import Strict
from kdlora.spec.distillation import Distillation, TeacherOutputs, Texts
from kdlora.spec.fingerprint import hash_json
from kdlora.spec.names import Arm, labelled
from kdlora.spec.pair import encoder_title
from kdlora.spec.study import Adapter, Data, OwnTask, Training

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
        kd = "kd-" if self.distillation == "kd" else ""
        prefix = f"{self.task.name}-{self.role}-{kd}{self.adaptation}-s{self.seed}"
        return f"{prefix}-{hash_json(self.identity(), 12)}"

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


def _drop_new_defaults(run: Run, values: dict[str, Any]) -> None:
    """Remove the fields of `NEW_FIELDS` that are at their default from a dumped run."""
    for section, names in NEW_FIELDS.items():
        model, dumped = run, values
        for part in section.split(".") if section else ():
            model = model and getattr(model, part)
            dumped = (dumped or {}).get(part)
        for name in names if dumped else ():
            if model is not None and name in dumped:
                default = type(model).model_fields[name].get_default(call_default_factory=True)
                if getattr(model, name) == default:
                    del dumped[name]
