"""The tables of how a study was done: settings, rows, measurement, versions."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pandas as pd

from kdlora.records.tidy import groups, metric_of, names, rows_of
from kdlora.report import words as w
from kdlora.report.content.tables import TASK, Lead, arrow
from kdlora.report.document import Cell, Column, Table
from kdlora.vocabulary.arm import Arm

# What must be the same for all trained arms of a comparison, and what may differ by design.
SAME = {
    "batch_size": "batch size",
    "epochs": "epochs",
    "max_length": "maximum length",
    "precision": "precision",
    "device": "device",
    "n_train": "training rows",
    "n_selection": "selection rows",
}
SETTINGS = (
    Column("encoder", "Encoder", numeric=False),
    Column("lr", "Peak learning rate"),
    Column("batch_size", "Batch"),
    Column("epochs", "Epochs"),
    Column("max_length", "Max length", "tokens"),
    Column("rank", "Rank"),
    Column("alpha", "Alpha"),
    Column("targets", "Adapter on", numeric=False),
    Column("temperature", "Temperature"),
    Column("kd_weight", "KD weight"),
    Column("precision", "Precision", numeric=False),
    Column("device", "Device", numeric=False),
    Column("attention", "Attention", numeric=False),
)


def trained(frame: pd.DataFrame) -> pd.DataFrame:
    """The done cells that were trained as encoders."""
    rows = frame[(frame["status"] == "done") & (frame["role"] != "baseline")]
    return rows[rows["adaptation"] != "given"]


def values(cells: Iterable[Any]) -> list[str]:
    """Distinct known values as they are shown, in order of appearance."""
    shown = (w.word(v).text for v in cells)
    return [v for v in dict.fromkeys(shown) if v != w.NONE]


def settings(frame: pd.DataFrame) -> Table | None:
    """How each trained model was trained; several values in a place are all listed."""
    cells_of = trained(frame)
    if cells_of.empty:
        return None
    lead = Lead(frame, task=False)
    used = [c for c in SETTINGS if values(cells_of[c.key])]
    rows = [
        (
            *lead.cells(pair, "", arm),
            *(Cell(", ".join(values(cells[c.key])) or w.NONE) for c in used),
        )
        for (pair, arm), cells in groups(cells_of, "pair", "arm")
    ]
    return Table(
        "settings",
        "How each model was trained",
        (*lead.columns, *used),
        tuple(rows),
        "As recorded by the runs, all tasks and seeds together.",
        heads=len(lead.columns),
    )


def splits(frame: pd.DataFrame) -> Table:
    """Per task: the metric and how many rows were trained on, selected on and reported on."""
    rows = []
    for task in names(frame, "task"):
        metric, direction = metric_of(frame, task)
        done = frame[(frame["task"] == task) & (frame["status"] == "done")]
        prints = dict.fromkeys(str(e.get("data_fingerprint") or "") for e in done["environment"])
        measure = f"{w.metric_name(metric)} {arrow(direction)}" if metric else w.NONE
        sizes = [
            Cell(", ".join(f"{int(v):,}" for v in sorted(set(done[key].dropna()))) or w.NONE)
            for key in ("n_train", "n_selection", "n_report")
        ]
        rows.append(
            (Cell(task), Cell(measure, metric), *sizes, w.word(", ".join(filter(None, prints))))
        )
    columns = (
        TASK,
        Column("metric", "Primary metric", numeric=False),
        Column("n_train", "Training rows"),
        Column("n_selection", "Selection rows"),
        Column("n_report", "Report rows"),
        Column("data", "Data fingerprint", numeric=False),
    )
    return Table(
        "splits",
        "Rows of each task",
        columns,
        tuple(rows),
        "The best checkpoint is chosen on the selection rows, which are carved from the training "
        "data; the report rows are scored once, afterwards.",
    )


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
    for row in rows_of(done):
        for name, value in _flat(row[column]):
            seen.setdefault(name, {}).setdefault(value, []).append(row["arm"])
            everyone.add(row["arm"])
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
