"""How a study was done: methods in words, measurement, versions, and every run."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import pandas as pd
import yaml

from kdlora.evidence.outcomes import resumed_runs
from kdlora.records.tidy import metrics_of, rows_of
from kdlora.report import words as w
from kdlora.report.content.cells import MODEL, PAIR, TASK, dagger_notes, time_cell
from kdlora.report.content.parts import ReportData
from kdlora.report.document import Cell, Column, Source, Table
from kdlora.vocabulary.arm import Arm
from kdlora.vocabulary.quantity import quantity

METHODS = (
    "Teacher and student are two encoders of a pair. Each is fine-tuned in full (all weights are "
    "trained) or through an adapter such as LoRA (a small low-rank update is trained, the rest is "
    "frozen). KD is knowledge distillation: beside the labels the student learns from the cached "
    "logits of its teacher, softened by a temperature (Hinton et al., 2015); KD-LoRA is that "
    "through an adapter. The students without distillation are the controls that tell the effect "
    "of distillation apart from that of the smaller encoder.",
    "Means are over seeds, averages over tasks only over tasks and seeds that all trained models "
    "share. Differences are paired by task and seed.",
    "Verdicts come from a paired estimate that counts tasks, not runs, as replicates where there "
    "are enough of them, with Student's intervals, a correction over all comparisons of a "
    "question, and two one-sided tests for equivalence within the stated margin. What is not "
    "significant is called undecided, with the difference that could have been seen.",
)

# What kdlora's own runs vouch for; imported results came about elsewhere.
OWN_METHODS = (
    "Every model of a comparison has the same rows, batch size, steps and device unless it is said "
    "otherwise above. The best checkpoint is chosen on a selection split carved from the training "
    "data, by the task's own metric; the report split is scored once. A score is that of the model "
    "as saved, loaded again and merged.",
    "Running the study again finds finished runs done and trains none of them twice.",
)


def methods(d: ReportData) -> tuple[str, ...]:
    own = OWN_METHODS if d.spec else ()
    return (METHODS[0], *own[:1], *METHODS[1:], *own[1:], *d.notes)


def study_file(d: ReportData) -> Source | None:
    shown = {key: value for key, value in d.spec.items() if key != "base_dir"}
    text = yaml.safe_dump(shown, sort_keys=False, allow_unicode=True).rstrip() if shown else ""
    return Source("study", "The study file", text, "yaml", folded=True) if text else None


def conditions(frame: pd.DataFrame) -> Table | None:
    """The protocol of the efficiency measurements: every value, and whose it is if they differ."""
    caption = (
        "Recorded with every number; a value that does not hold for all encoders says whose it is."
    )
    return _differing(frame, "protocol", "How cost was measured", caption)


def environment(frame: pd.DataFrame) -> Table | None:
    """Versions, processor and commit of the runs."""
    caption = (
        "Recorded with every run; a value that does not hold for all encoders says whose it is."
    )
    return _differing(frame, "environment", "Where the runs happened", caption)


def _differing(frame: pd.DataFrame, column: str, title: str, caption: str) -> Table | None:
    """A nested dict column as a two-column table of distinct values."""
    seen: dict[str, dict[str, list[str]]] = {}
    everyone: set[str] = set()
    done = frame[frame["status"] == "done"].drop_duplicates("run_id")
    for arm, values in zip(done["arm"], done[column], strict=True):
        for name, value in _flat(values):
            seen.setdefault(name, {}).setdefault(value, []).append(arm)
            everyone.add(arm)
    seen.pop("data fingerprint", None)
    if not seen:
        return None
    encoders = {arm for arm in everyone if not Arm.read(arm).is_baseline}
    rows = []
    for name, found in seen.items():
        if len(found) == 1 and encoders <= set(next(iter(found.values()))):
            text = next(iter(found))
        elif len(found) > 2 and all(value.replace(",", "").isdigit() for value in found):
            text = " to ".join(
                sorted(found, key=lambda v: int(v.replace(",", "")))[:: len(found) - 1]
            )
        else:
            text = "; ".join(f"{value} ({_whose(arms, encoders)})" for value, arms in found.items())
        rows.append((Cell(name), Cell(text)))
    columns = (Column("what", "What", numeric=False), Column("value", "Value", numeric=False))
    return Table(column, title, columns, tuple(rows), caption)


def _whose(arms: Iterable[str], encoders: set[str]) -> str:
    """Names of the models that a value holds for, the shorter way."""
    if encoders and set(arms) == encoders:
        return "all encoders"
    return ", ".join(w.short_arm_name(arm) for arm in dict.fromkeys(arms))


def _flat(values: dict[str, Any], prefix: str = "") -> Iterable[tuple[str, str]]:
    for name, value in values.items():
        if isinstance(value, dict):
            yield from _flat(value, "" if name == "versions" else f"{prefix}{name} ")
        elif value is not None and value != "":
            shown = {True: "yes", False: "no"}[value] if isinstance(value, bool) else value
            if isinstance(value, list | tuple):
                shown = ", ".join(map(str, value))
            yield f"{prefix}{name}".replace("_", " "), w.word(shown).text


def runs(frame: pd.DataFrame) -> Table:
    """Every run once, so that each number above can be traced to its records."""
    rows, resumed, metrics = [], resumed_runs(frame), metrics_of(frame)
    used = ("run_id", "pair", "task", "arm", "seed", "status", "score", "selection_score",
            "metric", "flags", "flagged", "size_mb", "latency_p50_ms", "train_s")  # fmt: skip
    for row in rows_of(frame.drop_duplicates(["pair", "run_id"]), *used):
        scale = w.scale_of(row["metric"] or metrics[row["task"]][0])
        mark = w.DAGGER if row["flagged"] and math.isfinite(row["score"]) else ""
        rows.append((
            Cell(row["run_id"]), Cell(row["pair"]), Cell(row["task"]),
            Cell(w.arm_name(row["arm"]), row["arm"]), Cell(str(row["seed"]), row["seed"]),
            Cell(row["status"]),
            Cell(scale.write(row["score"]), _finite(row["score"]), mark=mark),
            Cell(scale.write(row["selection_score"]), _finite(row["selection_score"])),
            w.number(row["size_mb"]), w.number(row["latency_p50_ms"]),
            time_cell(w.number(row["train_s"]), (row["run_id"],) * (row["run_id"] in resumed)),
            Cell(", ".join(row["flags"]) or w.NONE, " ".join(row["flags"])),
        ))  # fmt: skip
    columns = (
        Column("run_id", "Run", numeric=False),
        PAIR,
        TASK,
        MODEL,
        Column("seed", "Seed"),
        Column("status", "Status", numeric=False),
        Column("score", "Score"),
        Column("selection_score", "On selection split"),
        w.head(quantity("size_mb")),
        w.head(quantity("latency_p50_ms")),
        w.head(quantity("train_s")),
        Column("flags", "Flags", numeric=False),
    )
    notes = dagger_notes(rows)
    return Table("runs", "Every run", columns, tuple(rows), notes=notes, folded=True)


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
