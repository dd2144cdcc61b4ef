"""One training, fully resolved: what a worker needs to know and what its record states.

`run_id` hashes only the fields that affect the run. A teacher's id does not know its students, a
full fine-tuning does not know the adapter's rank, and a setting of the report changes no id.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any, Literal

from pydantic import Field, computed_field, model_validator

from kdlora.spec.fingerprint import hash_json
from kdlora.spec.names import Arm
from kdlora.spec.study import Adapter, Data, Distillation, OwnTask, Strict, Training

RUN_VERSION = 1  # raised when the same fields come to mean another computation


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
    """A model by the name the user gave; `path` is set when that name is a local folder."""

    name: str
    source: Literal["package", "folder", "hub"]
    fingerprint: str = ""
    path: str | None = None


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
    # Below here nothing affects the training, so nothing is part of the id.
    pair: str = ""
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

    @computed_field  # type: ignore[prop-decorator]
    @cached_property
    def run_id(self) -> str:
        """A readable prefix and a hash of everything that affects the result."""
        kd = "kd-" if self.distillation == "kd" else ""
        prefix = f"{self.task.name}-{self.role}-{kd}{self.adaptation}-s{self.seed}"
        return f"{prefix}-{hash_json(self.identity(), 12)}"

    def identity(self) -> dict[str, Any]:
        """The fields that the id hashes: paths give way to fingerprints of what lies there."""
        values = self.model_dump(
            mode="json", exclude={"run_id", "pair", "reference", "task", "encoder", "training"}
        )
        task = self.task.model_dump(mode="json", exclude={"folder", "own"})
        if self.task.own is not None:
            task["own"] = self.task.own.model_dump(mode="json", exclude={"train", "eval"})
        values["task"] = task
        if self.encoder is not None:
            exclude = {"path", "name"} if self.encoder.source == "folder" else {"path"}
            values["encoder"] = self.encoder.model_dump(mode="json", exclude=exclude)
        if self.training is not None:
            values["training"] = self.training.model_dump(mode="json", exclude={"lr"})
        return values
