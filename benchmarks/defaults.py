"""Which settings the defaults should be, by scores on the selection splits of six tasks.

Every candidate changes a few settings of one arm; it is trained on all tasks at a budget of labels
before the next one begins, so that whatever has been done can be compared. What is done stays done:
called again, the search goes on, and prints its table when the time is over.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.results import write_results
from benchmarks.turns import machine
from kdlora.recipes.run import run_one
from kdlora.records.record import Record
from kdlora.records.store import Store
from kdlora.spec.check import make_study
from kdlora.spec.plan import make_plan
from kdlora.spec.run import Run

TASKS = ("sst2", "mrpc", "stsb", "rte", "cola", "hate")
PAIR = {"name": "search", "teacher": "minilm-l6", "student": "minilm-l3"}
SELECTION_ROWS = 500  # more than such budgets would have, so that noise does not choose
MAX_LENGTH = 64  # tokens: cuts some pairs of RTE, and lets the search end
COUNTED = ("never_improved", "at_or_below_majority", "constant_predictions")
_BEFORE: dict[str, Any] = {
    "epochs": 3, "min_steps": 0, "lr": {"fft": 1e-4, "peft": 1e-3, "head": None},
}  # fmt: skip


@dataclass(frozen=True)
class Candidate:
    """Settings of an arm that differ from those of before, by section."""

    name: str
    arm: str
    training: Mapping[str, Any] = field(default_factory=dict)
    adapter: Mapping[str, Any] = field(default_factory=dict)
    distillation: Mapping[str, Any] = field(default_factory=dict)

    def variation(self) -> dict[str, Any]:
        """As the `variations` of a study have it."""
        lr = {**_BEFORE["lr"], **self.training.get("lr", {})}
        training = {**_BEFORE, **self.training, "lr": lr}
        return {
            "arm": self.arm,
            "training": training,
            "adapter": dict(self.adapter),
            "distillation": dict(self.distillation),
        }


def _fft(name: str, steps: int, **rates: float) -> Candidate:
    return Candidate(name, "student/fft", {"min_steps": steps, "lr": rates})


def _lora(
    name: str, steps: int, adapter: Mapping[str, Any] | None = None, **rates: float
) -> Candidate:
    return Candidate(name, "student/lora", {"min_steps": steps, "lr": rates}, adapter or {})


def _taught(name: str, steps: int, **distillation: Any) -> Candidate:
    training = {"min_steps": steps, "lr": {"head": 1e-3}}
    return Candidate(name, "student/kd-lora", training, {}, distillation)


# What the study file's defaults are today.
DEFAULTS = (_fft("fft-200-head-1e-3", 200, head=1e-3), _lora("lora-200", 200, head=1e-3))
# In the order in which they are tried.
CANDIDATES = (
    Candidate("fft-before", "student/fft"),
    Candidate("lora-before", "student/lora"),
    *DEFAULTS,
    _fft("fft-300-head-1e-3", 300, head=1e-3),
    _lora("lora-300", 300),
    _fft("fft-300", 300),
    _lora("lora-300-lr-5e-4", 300, peft=5e-4, head=1e-3),
    _fft("fft-150-head-1e-3", 150, head=1e-3),
    _lora("lora-150", 150),
    _fft("fft-300-lr-2e-4-head-1e-3", 300, fft=2e-4, head=1e-3),
    _fft("fft-300-lr-5e-5-head-1e-3", 300, fft=5e-5, head=1e-3),
    _lora("lora-300-lr-2e-3", 300, peft=2e-3, head=1e-3),
    _lora("lora-300-query-value", 300, {"targets": ["query-value"]}),
    _lora("lora-300-rank-8", 300, {"rank": 8}),
    _taught("kd-lora-300", 300),
    _taught("kd-lora-300-weight-0.9", 300, kd_weight=0.9),
    _taught("kd-lora-300-temperature-4", 300, temperature=4.0),
    _fft("fft-600-head-1e-3", 600, head=1e-3),
    _lora("lora-600", 600),
)
NAMES = tuple(candidate.name for candidate in CANDIDATES)
TEACHER = Candidate("teacher", "teacher/fft", {"min_steps": 300, "lr": {"head": 1e-3}})


def _runs(task: str, rows: int | None, data_dir: Path) -> dict[str, Run]:
    """The runs of all candidates on a task by their names, and the teacher's."""
    study = make_study({
        "name": "defaults", "tasks": [task], "pairs": [PAIR], "seeds": [42], "baselines": False,
        "arms": ["teacher/fft", "student/fft", "student/lora", "student/kd-lora"],
        "data_dir": str(data_dir),
        "data": {"max_train": rows, "max_selection": SELECTION_ROWS},
        "training": {"max_length": MAX_LENGTH},
        "overrides": {"teacher/fft": {"training": TEACHER.variation()["training"]}},
        "variations": {c.name.replace("/", "-"): c.variation() for c in CANDIDATES},
    })  # fmt: skip
    plan = make_plan(study)
    named = {cell.label: plan.run(cell.run_id) for cell in plan.cells if cell.label}
    return named | {TEACHER.name: plan.runs[0]}


def blocks(
    data_dir: Path, budgets: Sequence[int | None], names: Sequence[str], tasks: Sequence[str]
) -> Iterator[tuple[int | None, Candidate, dict[str, list[Run]]]]:
    """Each candidate at each budget with its runs by task, teachers before their students."""
    plans = {(task, rows): _runs(task, rows, data_dir) for rows in budgets for task in tasks}
    for candidate in CANDIDATES:
        if names and candidate.name not in names:
            continue
        for rows in budgets:
            runs = {}
            for task in tasks:
                own = plans[task, rows]
                taught = [own[TEACHER.name]] * ("kd-" in candidate.arm)
                runs[task] = [*taught, own[candidate.name]]
            yield rows, candidate, runs


def search(
    data_dir: Path,
    folder: Path,
    *,
    budgets: Sequence[int | None],
    minutes: float,
    names: Sequence[str] = (),
    tasks: Sequence[str] = TASKS,
) -> list[dict[str, Any]]:
    """Train what is missing until the minutes are over; one entry a candidate, budget and task."""
    store, end = Store(folder), time.monotonic() + 60 * minutes
    store.prepare()
    found = []
    for rows, candidate, by_task in blocks(data_dir, budgets, names, tasks):
        for task, runs in by_task.items():
            for run in runs:
                record = store.read(run.run_id)
                if record is None and time.monotonic() < end:
                    record = run_one(run, store)
                    print(f"{rows or 'all'} {candidate.name} {task}", flush=True)
            if record is not None:
                found.append(_entry(rows, candidate, task, record))
    return found


def _entry(rows: int | None, candidate: Candidate, task: str, record: Record) -> dict[str, Any]:
    assert record.quality is not None
    names = {flag.name for flag in record.health}
    return {
        "rows": rows,
        "candidate": candidate.name,
        "arm": candidate.arm,
        "task": task,
        "metric": record.quality.primary,
        "selection": record.quality.splits["selection"][record.quality.primary],
        "selection_rows": record.quality.n["selection"],
        "steps": record.facts.steps,
        "flags": sorted(names & set(COUNTED)),
        "run_id": record.run_id,
    }


def summary(found: Sequence[Mapping[str, Any]]) -> str:
    """Tables in Markdown: a budget each, a row a candidate, its scores by task and its flags."""
    parts = []
    for rows in dict.fromkeys(entry["rows"] for entry in found):
        here = [entry for entry in found if entry["rows"] == rows]
        tasks = [task for task in TASKS if any(entry["task"] == task for entry in here)]
        lines = []
        for name in dict.fromkeys(entry["candidate"] for entry in here):
            own = {entry["task"]: entry for entry in here if entry["candidate"] == name}
            scores = {t: own[t]["selection"] or 0.0 for t in tasks if t in own}
            flags = Counter(flag for entry in own.values() for flag in entry["flags"])
            lines.append([
                name, *(f"{100 * scores[t]:.1f}" if t in scores else "" for t in tasks),
                f"{100 * np.mean([*scores.values()]):.1f}" if len(scores) == len(tasks) else "",
                *(str(flags[name]) for name in COUNTED),
            ])  # fmt: skip
        header = ["settings", *tasks, "mean", *(name.replace("_", " ") for name in COUNTED)]
        title = "all labels" if rows is None else f"{rows:,} labels"
        table = [header, ["---", *["---:"] * (len(header) - 1)], *lines]
        rows_of_table = "\n".join(f"| {' | '.join(line)} |" for line in table)
        parts.append(f"### {title}\n\n{rows_of_table}")
    return "\n\n".join(parts) + "\n"


_HEAD = f"""# Settings tried

Scores x 100 of the best evaluation on a selection split of {SELECTION_ROWS} rows, one seed, student
{PAIR["student"]}, texts of up to {MAX_LENGTH} tokens. *Before* is what was done until there was a
floor of steps: 3 epochs, a rate of 1e-4 (FFT) and 1e-3 (LoRA), the head as the rest. The number
behind the arm is the floor (`training.min_steps`), *head* the rate of new modules
(`training.lr.head`); {" and ".join(f"*{one.name}*" for one in DEFAULTS)} are the defaults.
Regressions are standardised in all of them. More steps bring more evaluations, the best of which
flatters a little. The last columns count the tasks whose run carries the flag.
`python -m benchmarks defaults` goes on with what is not there yet.

"""


def write(found: Sequence[Mapping[str, Any]], folder: Path) -> None:
    """`defaults.json` and `defaults.md`."""
    values = {"machine": machine(), "runs": list(found)}
    write_results(folder, "defaults", values, _HEAD + summary(found))
