"""Run a plan on this machine: one fresh process a run, forked from a server that has torch loaded.

A process of its own gives each run a clean memory reading, frees everything afterwards and keeps a
crash from taking the study along.
"""

from __future__ import annotations

import errno
import multiprocessing as mp
import os
import signal
import traceback
from collections.abc import Callable
from datetime import UTC, datetime
from multiprocessing.connection import Connection, wait
from typing import Any

from kdlora.engines.tuning import tune_workers
from kdlora.errors import Interrupted, KdloraError
from kdlora.spec.plan import Plan
from kdlora.spec.run import Run
from kdlora.store.record import Record
from kdlora.store.store import Store

# (run, event): "start", "progress" dicts of the recipe, then {"done": Record} or {"failed": str}
OnEvent = Callable[[Run, dict[str, Any]], None]

Active = dict[Connection, tuple[Run, mp.process.BaseProcess]]


def run_plan(
    plan: Plan,
    store: Store,
    *,
    workers: int = 1,
    threads: int | None = None,
    on_event: OnEvent = lambda run, event: None,
) -> dict[str, str]:
    """Do every run that is not done, teachers before their students.

    Returns run_id -> "done", "failed" or "skipped" (its teacher failed, or another process works
    on it). Raises Interrupted after Ctrl-C, once the running ones have written their checkpoints.
    """
    status = {run.run_id: "done" for run in plan.runs if store.is_done(run.run_id)}
    waiting = [run for run in plan.runs if run.run_id not in status]
    threads = threads or max(1, (os.cpu_count() or 1) // workers)
    tune_workers()
    context = mp.get_context("forkserver")
    context.set_forkserver_preload(["kdlora.engines.worker"])
    active: Active = {}
    try:
        while waiting or active:
            for run in _ready(waiting, status)[: workers - len(active)]:
                waiting.remove(run)
                active.update([_start(context, run, store, threads)])
                on_event(run, {"start": True})
            hopeless = {run_id for run_id, what in status.items() if what in _HOPELESS}
            blocked = [run for run in waiting if hopeless.intersection(run.teachers)]
            for run in blocked:
                waiting.remove(run)
                status[run.run_id] = "skipped"
                teacher = next(t for t in run.teachers if t in hopeless)
                on_event(run, {"failed": f"its teacher {teacher} is not done"})
            if active:
                _pump(active, store, status, on_event)
            elif waiting and not blocked and not _ready(waiting, status):
                raise KdloraError("the plan holds a student whose teacher is not part of it")
    except KeyboardInterrupt:
        _stop(active)
        raise Interrupted(
            f"interrupted; finished runs are kept in {store.root} and the unfinished ones go on "
            "where they stopped when the same command is run again"
        ) from None
    return status


_HOPELESS = ("failed", "skipped")
INTERRUPTED = 130  # exit code of a worker that stopped after its checkpoint


def _ready(waiting: list[Run], status: dict[str, str]) -> list[Run]:
    return [r for r in waiting if all(status.get(t) == "done" for t in r.teachers)]


def _start(
    context: Any, run: Run, store: Store, threads: int
) -> tuple[Connection, tuple[Run, mp.process.BaseProcess]]:
    from kdlora.engines import worker

    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(
        target=worker.work,
        args=(run.model_dump_json(), str(store.root), threads, sender),
        name=run.run_id,
    )
    process.start()
    sender.close()
    return receiver, (run, process)


def _pump(active: Active, store: Store, status: dict[str, str], on_event: OnEvent) -> None:
    """Pass on what the workers say; notice those that ended or died."""
    for connection in wait(list(active), timeout=1.0):
        assert isinstance(connection, Connection)
        run, process = active[connection]
        try:
            event: dict[str, Any] = connection.recv()
        except (EOFError, OSError):
            process.join()
            del active[connection]
            status[run.run_id], event = _ended(run, process.exitcode, store)
        on_event(run, event)


def _ended(run: Run, code: int | None, store: Store) -> tuple[str, dict[str, Any]]:
    """What became of a run whose process is gone: its status, and the event that tells it."""
    record = store.read(run.run_id)
    if record is not None:
        return "done", {"done": record}
    if code == INTERRUPTED:  # Ctrl-C reached the worker, whether or not it reached us
        raise KeyboardInterrupt
    if code == worker_busy():
        return "skipped", {"failed": "another process is working on it"}
    failure = store.read_failure(run.run_id)
    if failure is None or code is None or code < 0:
        failure = failed_record(run, _describe_death(code))
        store.fail(failure)
    return "failed", {"failed": failure.error}


def worker_busy() -> int:
    """Exit code of a worker that found its run locked by another process."""
    return 75


def failed_record(run: Run, error: str) -> Record:
    """What is kept of a run that could not be done."""
    now = datetime.now(UTC).isoformat(timespec="seconds")
    return Record(run_id=run.run_id, run=run, status="failed", error=error, finished_at=now)


def describe_error(error: BaseException) -> str:
    """One message for a user's mistake, the whole traceback for a fault of kdlora."""
    if isinstance(error, KdloraError):
        return str(error)
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"the disk is full: {error}; free some space and run the same command again"
    return "".join(traceback.format_exception(error)).strip()


def _describe_death(code: int | None) -> str:
    if code is not None and code < 0:
        name = signal.Signals(-code).name
        hint = " (often the system's answer to too little memory)" if name == "SIGKILL" else ""
        return f"its process was killed by {name}{hint}"
    return f"its process ended with code {code} before the record was written"


def _stop(active: Active) -> None:
    """Ask the running workers to write their checkpoints; insist after a while."""
    for _, process in active.values():
        if process.is_alive() and process.pid:
            os.kill(process.pid, signal.SIGINT)
    for _, process in active.values():
        process.join(timeout=60)
        if process.is_alive():
            process.terminate()
