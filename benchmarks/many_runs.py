"""Many stub-size runs: a study of hundreds completes, is stopped half-way and resumes."""

from __future__ import annotations

import contextlib
import resource
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.results import write_results
from benchmarks.tiny_study import tiny_plan
from kdlora.engines.local import run_plan
from kdlora.engines.supervisor import EngineOptions
from kdlora.errors import Interrupted
from kdlora.records.store import Store
from kdlora.spec.run import Run


def measure(runs: int, *, workers: int = 2, folder: Path | None = None) -> dict[str, Any]:
    """Do half of the runs, stop as Ctrl-C does, go on to the end; then look at every record.

    With a `folder` an earlier attempt is taken up again.
    """
    with tempfile.TemporaryDirectory() as name:
        root = folder or Path(name)
        plan, store = tiny_plan(root / "inputs", runs=runs), Store(root / "study")
        store.prepare()
        before = sum(store.is_done(run.run_id) for run in plan.runs)
        done = before

        def half(run: Run, event: dict[str, Any]) -> None:
            nonlocal done
            done += "done" in event
            if done >= runs // 2 > before:
                raise KeyboardInterrupt

        started = time.perf_counter()
        with contextlib.suppress(Interrupted):
            run_plan(plan, store, EngineOptions(workers=workers, threads=1), on_event=half)
        first = {r.run_id: _stamp(store, r) for r in plan.runs if store.is_done(r.run_id)}
        resumed = time.perf_counter()
        after: list[float] = []

        def note(run: Run, event: dict[str, Any]) -> None:
            if "start" in event:
                after.append(time.perf_counter())

        status = run_plan(plan, store, EngineOptions(workers=workers, threads=1), on_event=note)
        ended = time.perf_counter()
        kept = sum(_stamp(store, plan.run(run_id)) == stamp for run_id, stamp in first.items())
        return {
            "runs": runs,
            "done": sum(state == "done" for state in status.values()),
            "done_before_the_stop": len(first),
            "of_these_not_touched_again": kept,
            "records": len(list(store.root.glob("runs/*/record.json"))),
            "damaged": len(store.damaged()),
            "seconds": ended - started,
            "seconds_per_run": (ended - started) / max(runs - before, 1),
            "seconds_to_resume": after[0] - resumed if after else None,
            "engine_memory_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
            "workers": workers,
        }


def _stamp(store: Store, run: Run) -> int:
    return (store.folder(run.run_id) / "record.json").stat().st_mtime_ns


def write(found: dict[str, Any], out: Path) -> None:
    print(write_results(out, "many", found))
