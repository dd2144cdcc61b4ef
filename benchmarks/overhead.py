"""What a run costs beyond itself: starting a worker, the lease, the record, the next one's turn.

The run itself is what lies between reading its data and having measured its model. Everything else
of a study's wall-clock time, divided by the runs, is the overhead.
"""

from __future__ import annotations

import json
import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.results import write_results
from benchmarks.tiny_study import tiny_plan
from kdlora.engines.local import run_plan
from kdlora.engines.supervisor import EngineOptions
from kdlora.records.store import Store
from kdlora.spec.run import Run

TARGET_MS = 100.0


def measure(runs: int = 12, *, warm_up: int = 2) -> dict[str, Any]:
    """Overhead of `runs` runs one after another, after a warm-up, in milliseconds.

    `start` is from the decision to the worker's first sign, `record` from the last measurement to
    the record's being read back, `between` what the engine needs to go on to the next run.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        plan = tiny_plan(folder / "inputs", runs=runs + warm_up)
        store = Store(folder / "study")
        store.prepare()
        marks: list[dict[str, float]] = []

        def mark(run: Run, event: dict[str, Any]) -> None:
            if "start" in event:
                marks.append({"start": time.perf_counter()})
            elif event.get("stage") in ("reading data", "recording"):
                marks[-1][event["stage"]] = time.perf_counter()
            elif "done" in event:
                marks[-1]["done"] = time.perf_counter()
                marks[-1]["train_s"] = event["done"].efficiency.train_s or 0.0

        status = run_plan(plan, store, EngineOptions(workers=1, threads=1), on_event=mark)
        assert set(status.values()) == {"done"}, status
    parts: dict[str, list[float]] = {"start": [], "record": [], "between": []}
    for before, this in zip(marks[warm_up - 1 :], marks[warm_up:], strict=False):
        parts["start"].append(1e3 * (this["reading data"] - this["start"]))
        parts["record"].append(1e3 * (this["done"] - this["recording"]))
        # the worker is forked before the engine says so: its start is in this gap
        parts["between"].append(1e3 * (this["start"] - before["done"]))
    parts["all"] = [sum(values) for values in zip(*parts.values(), strict=True)]
    itself = [1e3 * (m["recording"] - m["reading data"]) for m in marks[warm_up:]]
    return {
        "runs": runs,
        "overhead_ms": {
            part: {"median": statistics.median(v), "least": min(v), "most": max(v)}
            for part, v in parts.items()
        },
        "run_itself_ms": statistics.median(itself),
        "of_which_training_ms": statistics.median(1e3 * m["train_s"] for m in marks[warm_up:]),
        "target_ms": TARGET_MS,
        "cores": os.cpu_count(),
        "load_1_min": os.getloadavg()[0],
    }


def measure_cpu(runs: int = 12, *, warm_up: int = 2) -> dict[str, float]:
    """Processor time of a worker beyond its run, in milliseconds: what a busy machine cannot hide.

    Each run is done in a process forked from this one, which has loaded what a fork server has;
    the whole of that process is counted, from the fork to its end.
    """
    from kdlora.engines import worker  # noqa: F401  (as the fork server does)
    from kdlora.engines.worker import attempt

    beyond: list[float] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        plan, store = tiny_plan(folder / "inputs", runs=runs + warm_up), Store(folder / "study")
        store.prepare()
        for run in plan.runs:
            reader, writer = os.pipe()
            child = os.fork()
            if child == 0:
                marks: dict[str, float] = {}

                def mark(event: dict[str, Any], marks: dict[str, float] = marks) -> None:
                    marks.setdefault(str(event.get("stage")), time.process_time())

                outcome = attempt(run, store, on_progress=mark)
                itself = marks["recording"] - marks["reading data"]
                os.write(writer, json.dumps([outcome, itself]).encode())
                os._exit(0)
            os.close(writer)
            _, _, used = os.wait4(child, 0)
            outcome, itself = json.loads(os.read(reader, 4096))
            os.close(reader)
            assert outcome == "done", outcome
            beyond.append(1e3 * (used.ru_utime + used.ru_stime - itself))
    kept = beyond[warm_up:]
    return {"median": statistics.median(kept), "least": min(kept), "most": max(kept)}


def write(found: dict[str, Any], out: Path) -> None:
    """Keep it as JSON and print it as a table."""
    write_results(out, "overhead", found)
    print(
        f"overhead per run, {found['runs']} runs after a warm-up (load {found['load_1_min']:.1f})"
    )
    for part, values in found["overhead_ms"].items():
        print(f"  {part:8} {_shown(values)} ms")
    print(f"  of a worker's processor time: {_shown(found['overhead_cpu_ms'])} ms")
    print(f"  the run itself: {found['run_itself_ms']:.0f} ms; target {found['target_ms']:.0f} ms")


def _shown(values: dict[str, float]) -> str:
    return ", ".join(f"{name} {value:.0f}" for name, value in values.items())
