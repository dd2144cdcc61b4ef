"""The fairness guard: runs that are compared were trained alike, or carry a flag that says how not.

Within a task and pair every trained run should have the same batch size, optimizer steps, epochs,
maximum length, precision, device, hardware and software: `CONDITIONS` is the one list. A run that
differs from most gets a flag with the field and both values. A difference that the study file asks
for is *stated* (severity info); one that came about otherwise is not (a warning).
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

from kdlora.records.record import NOT_DONE
from kdlora.spec.run import DistilledRun, EncoderRun, Run, TrainedRun
from kdlora.vocabulary.arm import Arm


@dataclass(frozen=True)
class Condition:
    """Something that should be alike in runs that are compared, and who holds runs to it.

    flagged: run by run, against most of its task and pair. How many rows there are is not: arms
    may differ in it by the study's design.
    listed: arm by arm in the report, within a task and pair. What is not listed there is seen by
    its flags.
    across_tasks: arm by arm in `kdlora doctor`, over all tasks of any results. Only what one choice
    settles for all tasks: steps, rows, targets and weights depend on the task.
    """

    field: str
    title: str
    flagged: bool = True
    listed: bool = False
    across_tasks: bool = False


CONDITIONS = (
    Condition("batch_size", "batch size", listed=True, across_tasks=True),
    Condition("epochs", "epochs", listed=True, across_tasks=True),
    Condition("steps", "optimizer steps"),
    Condition("max_length", "maximum length", listed=True, across_tasks=True),
    Condition("windows", "windows of long texts"),
    Condition("precision", "precision", listed=True, across_tasks=True),
    Condition("target", "regression target"),
    Condition("class_weights", "class weights"),
    Condition("focal", "focal gamma"),
    Condition("device", "device", listed=True, across_tasks=True),
    Condition("hardware", "hardware"),
    Condition("versions", "software"),
    Condition("n_train", "training rows", flagged=False, listed=True),
    Condition("n_selection", "selection rows", flagged=False, listed=True),
    Condition("max_train", "max_train", flagged=False, across_tasks=True),
)
# field -> how it is called in a sentence, of what is flagged
FIELDS = {one.field: one.title for one in CONDITIONS if one.flagged}
WEIGHTING = {"class_weights": "none", "focal": "0"}  # where all rows count alike
ASKED = "asked"  # column: what the study file asked of a run, by field
_GROUP = ("task", "pair")


@dataclass(frozen=True)
class Difference:
    """One field in which a run differs from most runs of its task and pair."""

    run_id: str
    field: str
    value: str
    usual: str
    n_usual: int
    n: int
    stated: bool
    remark: str = ""

    @property
    def flag(self) -> tuple[str, str, str]:
        """Name, severity and detail, as in a record."""
        why = "as the study file asks" if self.stated else "which the study file does not ask for"
        detail = (
            f"{FIELDS[self.field]} {self.value} where {self.n_usual} of {self.n} trained runs of "
            f"this task and pair have {self.usual}, {why}{self.remark}"
        )
        return f"unequal_{self.field}", "info" if self.stated else "warning", detail


def asked_of(run: Run) -> dict[str, Hashable]:
    """What the plan asks of a run, for each field that it settles."""
    if not isinstance(run, EncoderRun):
        return {}
    training = run.training
    unlabelled = run.unlabelled if isinstance(run, DistilledRun) else ()
    counted = run.counted if isinstance(run, TrainedRun) else ()
    texts = tuple(sorted(source.fingerprint for source in (*unlabelled, *counted)))
    floor = (training.min_steps, texts) if training.min_steps else ()  # more rows, fewer passes
    passes = (training.epochs, floor, tuple(sorted(s.fingerprint for s in counted)))
    return {
        "batch_size": training.batch_size,
        "epochs": passes,
        "steps": (training.batch_size, training.epochs, training.min_steps, texts),
        "max_length": training.max_length,
        "windows": training.windows and training.windows.title,
        "precision": training.precision,
        **WEIGHTING,
        **training.weighting,
    }


def conditions(frame: pd.DataFrame) -> pd.DataFrame:
    """Under what each run was trained: a column a field, as text; None where it is not known."""
    environment = frame.get("environment", pd.Series(None, index=frame.index, dtype=object))
    columns = {field: field for field in FIELDS if field in frame}
    for name in ("train_steps", "planned_steps"):  # as others logged them, as kdlora plans them
        columns |= {"steps": name} if name in frame else {}
    table = {field: frame[column].map(_text) for field, column in columns.items()}
    if "windows" in table and table["windows"].notna().any():
        table["windows"] = table["windows"].fillna("none")
    table["hardware"] = environment.map(_hardware)
    table["versions"] = environment.map(_versions)
    made = pd.DataFrame(table, index=frame.index).reindex(columns=list(FIELDS)).astype(object)
    if "adaptation" in frame:  # a last layer that is fitted alone takes no steps
        made.loc[frame["adaptation"].eq("frozen"), ["batch_size", "epochs", "steps"]] = None
    return made.where(made.notna(), None)


def trained(frame: pd.DataFrame) -> pd.Series:
    """Rows of runs that were trained: neither open nor a baseline or a teacher that was given."""
    rows = pd.Series(True, index=frame.index)
    if "status" in frame:
        rows &= ~frame["status"].isin(NOT_DONE)
    if "role" in frame:
        rows &= frame["role"].ne("baseline")
    if "adaptation" in frame:
        rows &= frame["adaptation"].ne("given")
    return rows


def differences(frame: pd.DataFrame) -> Iterator[Difference]:
    """Every field of every trained run that is not what most of its task and pair have.

    "Most" is the commonest value; of equally common ones that which comes first.
    """
    rows = frame[trained(frame)]
    if rows.empty or "run_id" not in rows:
        return
    found = conditions(rows)
    keys = [key for key in _GROUP if key in rows]
    groups = rows.groupby(keys, sort=False).groups.values() if keys else [rows.index]
    for index in groups:
        group, values = rows.loc[index], found.loc[index]
        for field in FIELDS:
            column = values[field].dropna()
            if column.nunique() < 2:
                continue
            counts = column.value_counts(sort=False)  # in the order of appearance
            usual = str(counts.idxmax())
            like = group.loc[column.index[column == usual]]
            for place, value in column[column != usual].items():
                yield Difference(
                    run_id=str(group.at[place, "run_id"]),
                    field=field,
                    value=value,
                    usual=usual,
                    n_usual=int(counts.max()),
                    n=len(column),
                    stated=_stated(group, like, place, field),
                    remark=_of_texts(group, column, place) if field == "steps" else "",
                )


def flag_unequal(frame: pd.DataFrame) -> pd.DataFrame:
    """The frame with a flag on every run that was not trained like those beside it.

    A run that several pairs share carries the flags of all of them.
    """
    added: dict[str, dict[str, tuple[str, str, str]]] = {}
    for difference in differences(frame):
        flags = added.setdefault(difference.run_id, {})
        # more epochs are more steps: said once
        if difference.field != "steps" or not {"unequal_batch_size", "unequal_epochs"} & set(flags):
            flags.setdefault(difference.flag[0], difference.flag)
    if not added:
        return frame
    frame = frame.copy(deep=False)
    for part, column in enumerate(("flags", "flag_severities", "flag_details")):
        frame[column] = [
            (*own, *(flag[part] for flag in added.get(str(run_id), {}).values()))
            for own, run_id in zip(frame[column], frame["run_id"], strict=True)
        ]
    return frame


def _of_texts(group: pd.DataFrame, steps: pd.Series, place: Any) -> str:
    """Whether an arm that learns from texts has a control that takes as many steps without them."""
    taught = group.get("n_unlabelled", pd.Series(0, index=group.index)).fillna(0) > 0
    if not taught[place]:
        return ""
    alike = steps.index[(steps == steps[place]) & ~taught[steps.index]]
    arms = dict.fromkeys(group.loc[alike, "arm"])
    controls = ", ".join(arm for arm in arms if not Arm.read(arm).is_teacher)
    said = f"{controls} took as many" if controls else "no student took as many without"
    return f": it learns from texts without labels; {said}"


def _stated(group: pd.DataFrame, like: pd.DataFrame, place: Any, field: str) -> bool:
    """Whether the study file asks something else of this run than of the usual ones."""
    if ASKED not in group:
        return False
    own, usual = group.at[place, ASKED], like[ASKED].iat[0]
    return isinstance(own, dict) and isinstance(usual, dict) and own.get(field) != usual.get(field)


def _text(value: Any) -> str | None:
    if value is None or (isinstance(value, float) and pd.isna(value)):
        return None
    whole = isinstance(value, float) and value.is_integer()
    return str(int(value)) if whole else str(value)


def _hardware(environment: Any) -> str | None:
    if not isinstance(environment, Mapping):
        return None
    return environment.get("gpu") or environment.get("processor")


def _versions(environment: Any) -> str | None:
    if not isinstance(environment, Mapping) or not environment.get("versions"):
        return None
    versions = {"python": environment.get("python"), **environment["versions"]}
    return ", ".join(f"{name} {version}" for name, version in versions.items() if version)
