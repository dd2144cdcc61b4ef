"""What a tracker is told of a record: names and values only, no connection; needs no tracker.

Params are the run's axes and hyperparameters, metrics what was measured (the learning curve with
its steps), tags what identifies and qualifies the record.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from kdlora.files import real_path
from kdlora.records.record import Quality, Record
from kdlora.spec.run import encoder_of

RUN_ID = "kdlora.run_id"
CHECKSUM = "kdlora.checksum"
COMPLETE = "kdlora.complete"  # set last: without it a mirrored run is a torn one

# Limits of MLflow's own stores; Trackio has none.
MAX_PARAM = 6000
MAX_TAG = 5000
MAX_LABEL = 200  # of a metric's 250

_RATES = {"training.lr", "training.lr.fft", "training.lr.peft", "training.lr.head"}
_SILENT = {"run_id", "version", *_RATES}


@dataclass(frozen=True)
class MetricPoint:
    """One value of one metric; `step` is the optimizer step, 0 for what is known once."""

    name: str
    value: float
    step: int = 0


@dataclass(frozen=True)
class Entry:
    """One record as a tracker keeps it; times are ms since 1970."""

    name: str
    params: dict[str, str]
    points: list[MetricPoint]
    tags: dict[str, str]
    started_ms: int | None
    finished_ms: int | None
    failed: bool


def entry(record: Record, history: list[dict[str, Any]], *, root: Path, study: str) -> Entry:
    """The whole entry of a record; `history` holds the rows of its ``history.jsonl``."""
    run = record.run
    return Entry(
        name=f"{run.task.name} {run.title} s{run.seed}",
        params=_params(record),
        points=[*_measured(record), *_learning(history)],
        tags=_tags(record, root, study),
        started_ms=_milliseconds(record.started_at) or _milliseconds(record.finished_at),
        finished_ms=_milliseconds(record.finished_at),
        failed=record.status == "failed",
    )


def _params(record: Record) -> dict[str, str]:
    run = record.run
    encoder = encoder_of(run)
    flat = _flatten(run.model_dump(mode="json"))
    # one name each for what a table is grouped by; a description of own data is no setting
    flat |= {"task": run.task.name, "arm": run.title, "encoder": encoder and encoder.title}
    kept = {
        name: value
        for name, value in flat.items()
        if value not in (None, "", [], {})
        and name not in _SILENT
        and not name.startswith(("task.", "encoder.", "reference.", "outputs.", "unlabelled"))
    }
    return {_name(name): _text(value)[:MAX_PARAM] for name, value in sorted(kept.items())}


def _measured(record: Record) -> list[MetricPoint]:
    values: dict[str, Any] = {}
    if record.quality is not None:
        values["score"] = record.quality.score
        for split, metrics in record.quality.splits.items():
            values |= {f"{split}/{name}": value for name, value in metrics.items()}
        values |= {f"n/{split}": n for split, n in record.quality.n.items()}
        values |= _by_label(record.quality)
    if record.agreement is not None:
        values |= {f"teacher/{k}": v for k, v in record.agreement.model_dump().items()}
    values |= {f"efficiency/{k}": v for k, v in record.efficiency.model_dump().items()}
    values |= {f"training/{k}": v for k, v in record.facts.model_dump().items()}
    return [MetricPoint(name, float(value)) for name, value in values.items() if _is_number(value)]


def _by_label(quality: Quality) -> dict[str, float | None]:
    """F1 of each class on the report split, and of several labels a text what else is known."""
    values: dict[str, float | None] = {}
    labels = dict.fromkeys([*quality.per_class_f1, *quality.per_label])
    taken: dict[str, str] = {}  # a label's name here -> the label
    for place, label in enumerate(labels):
        name = _label_name(label)
        if taken.setdefault(name, label) != label:
            name = f"{name} {place}"
        values[f"report/f1/{name}"] = quality.per_class_f1.get(label)
        if (one := quality.per_label.get(label)) is not None:
            values |= {
                f"report/precision/{name}": one.precision,
                f"report/recall/{name}": one.recall,
                f"report/average_precision/{name}": one.average_precision,
                f"report/positives/{name}": one.positives,
            }
    return values


def _label_name(label: str) -> str:
    """A label as the last part of a metric's name."""
    return _name(label)[:MAX_LABEL].replace("/", "_").replace(".", "_").strip() or "_"


def _learning(history: list[dict[str, Any]]) -> list[MetricPoint]:
    points = []
    for row in history:
        for name, value in _flatten(row).items():
            if name != "step" and _is_number(value):
                points.append(MetricPoint(f"learning/{name.replace('.', '_')}", value, row["step"]))
    return points


def _tags(record: Record, root: Path, study: str) -> dict[str, str]:
    folder = real_path(root)
    environment = record.environment
    tags = {
        "mlflow.source.name": "kdlora",
        "mlflow.source.git.commit": environment.get("commit"),
        RUN_ID: record.run_id,
        CHECKSUM: record.checksum,
        "kdlora.study": study,
        "kdlora.status": record.status,
        "kdlora.error": record.error,
        "kdlora.primary_metric": record.quality.primary if record.quality else None,
        "kdlora.flags": ", ".join(flag.name for flag in record.health),
        "kdlora.record": str(folder / "runs" / record.run_id),
        "kdlora.report": str(folder / "report.html"),
        "kdlora.precision": record.facts.precision,
        "kdlora.device": record.facts.device,
        "kdlora.processor": environment.get("processor"),
        "kdlora.host": environment.get("host"),
        "kdlora.data_fingerprint": environment.get("data_fingerprint"),
    }
    tags |= {f"kdlora.flag.{f.name}": f"{f.severity}: {f.detail}" for f in record.health}
    tags |= {f"kdlora.version.{k}": v for k, v in environment.get("versions", {}).items()}
    return {name: str(value)[:MAX_TAG] for name, value in tags.items() if value}


def _flatten(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested dicts as dotted names; lists stay values."""
    flat: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, dict) and value:
            flat |= _flatten(value, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = value
    return flat


def _name(text: str) -> str:
    """A name that trackers accept; patterns of module names may hold anything."""
    return re.sub(r"[^\w\-. /]", "_", text)[:250]


def _text(value: Any) -> str:
    if isinstance(value, list) and not any(isinstance(item, dict | list) for item in value):
        return ", ".join(str(item) for item in value)
    return value if isinstance(value, str) else json.dumps(value)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _milliseconds(moment: str) -> int | None:
    return int(datetime.fromisoformat(moment).timestamp() * 1000) if moment else None
