"""Whole studies on disk, planned by the real plan, whose records nobody trained."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from kdlora.records.frame import save_plan
from kdlora.records.record import Efficiency, Flag, Quality, Record
from kdlora.records.store import Store
from kdlora.spec.check import make_study
from kdlora.spec.plan import make_plan
from kdlora.spec.run import Run

ERROR = Flag(name="constant_predictions", severity="error", detail="all rows are predicted alike")
Scores = Callable[[Run], tuple[float, float]]  # on the selection split and on the report split


def same_on_both(scores: Callable[[Run], float]) -> Scores:
    return lambda run: (scores(run), scores(run))


def store_study(
    root: Path,
    scores: Scores,
    *,
    flagged: Callable[[Run], Iterable[Flag]] = lambda run: (),
    efficiency: Callable[[Run], dict[str, Any]] = lambda run: {},
    **study: Any,
) -> Store:
    """A finished study below `root`: every planned run is done, with a folder for its model.

    `study` holds the keys of a study file; one task, one pair and no baselines unless given.
    """
    values: dict[str, Any] = {"name": "stored", "tasks": ["rte"], "baselines": False}
    values["pairs"] = [{"name": "p", "teacher": "big", "student": "small"}]
    made = make_study(values | study)
    plan, store = make_plan(made), Store(root)
    store.prepare()
    save_plan(store, made, plan)
    for run in plan.runs:
        store.begin(run)
        selection, report = scores(run)
        teaches = run.role == "teacher"
        costs = {
            "size_mb": 90.0 if teaches else 60.0,
            "latency_p50_ms": 8.0 if teaches else 4.0,
            "latency_p95_ms": 9.0 if teaches else 5.0,
        }
        store.finish(
            Record(
                run_id=run.run_id,
                run=run,
                quality=Quality(
                    primary="accuracy",
                    direction=1,
                    splits={"selection": {"accuracy": selection}, "report": {"accuracy": report}},
                    n={"train": 900, "selection": 100, "report": 100},
                ),
                efficiency=Efficiency(**costs | efficiency(run)),
                health=list(flagged(run)),
            )
        )
        (store.folder(run.run_id) / "model").mkdir(exist_ok=True)
    return store
